// SPDX-License-Identifier: Apache-2.0
// The channel: every link between the two ends of one pair.
//
// A *path* is a pair of addresses (mine, the peer's) with a port. It has one control link (port)
// and, where it carries data, one data link (port + 1). Heartbeats and small messages go over the
// control links of all paths, data over one path at a time. Links find, authenticate and lose their
// peer by themselves; what a link lost is never sent again here (a connection that breaks drops
// what is in flight): whoever needs delivery has sequence numbers and acknowledgements.
//
// Threads: the control side (channel_*) belongs to one thread, the data side's receiving half
// (channel_data_fd, _receive, _work, _deadline_ns) to one other, or the same; channel_data_send,
// _send_soon, _push, _send_fd, _failover, _generation and (without a bundler) channel_send_control may be called from any thread. The two
// sides share no lock. Callbacks come from within channel_work(), channel_data_work() and
// channel_data_receive(), on the thread that called, without any lock held; they may call
// everything but channel_free() and the function that they come from.
//
// Errors: 0 or -errno. The wire is described in docs/channel.md.
#ifndef CHANNEL_CHANNEL_H
#define CHANNEL_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/error.h"

#define CHANNEL_PROTOCOL    2 // what the hello says; other numbers are refused
#define CHANNEL_PATHS_MAX   8
#define CHANNEL_CONTROL_MAX (60U * 1024)        // bytes of one control message
#define CHANNEL_DATA_MAX    (33U * 1024 * 1024) // bytes of one data message
#define CHANNEL_IOV_MAX     1024                // pieces of one data message
#define CHANNEL_NAME_MAX    64                  // bytes of a pair's name
#define CHANNEL_DIGEST_SIZE 32
#define CHANNEL_ALL_PATHS   (-1)
#define CHANNEL_NO_PATH     (-1)
#define CHANNEL_SOCKETS_MAX 511 // of all channels of a process, beside channel_carrier()

struct channel;
struct channel_key;

enum channel_identity {
    CHANNEL_PRIMARY = 1, // starts the handshakes
    CHANNEL_SECONDARY = 2,
};

enum channel_path_kind {
    CHANNEL_PATH_CHANNEL, // control and data
    CHANNEL_PATH_PUBLIC,  // control only, unless `data` is set
};

// Both ends list the same paths in the same order: a message names its path by its index.
struct channel_path {
    enum channel_path_kind kind;
    bool data;        // a PUBLIC path carries data too (CHANNEL paths always do)
    const char *mine; // address literals, IPv4 or IPv6 without brackets and scope
    const char *peers;
    uint16_t port;       // control here, data at port + 1
    uint16_t peers_port; // 0: the same as `port`
};

enum channel_side { CHANNEL_SIDE_CONTROL, CHANNEL_SIDE_DATA };

enum channel_event {
    CHANNEL_UP,        // the link is authenticated, both ends agree, both directions work
    CHANNEL_DOWN,      // ... and no longer; the text says why
    CHANNEL_REFUSED,   // the peer has another key, pair, identity, configuration or version. Said
                       // once, then at most every 60 s while it lasts; the peer says the same
    CHANNEL_TROUBLE,   // something to know (garbage received, address not there); nothing changes.
                       // Likewise limited
    CHANNEL_DATA_PATH, // data now goes over this path (CHANNEL_NO_PATH: over none); the generation
                       // changed
    CHANNEL_DATA_LOST, // data messages that the peer had sent over this path are missing
};

struct channel_ops {
    // A message of channel_send_control(). `peer_run` is the run of the end that sent it. `data` is
    // valid until return.
    void (*on_control)(void *context, int path, uint64_t peer_run, const void *data, size_t size);
    // `path` may be CHANNEL_NO_PATH. Control links report on the control thread, data links on the
    // data thread.
    void (*on_event)(void *context, enum channel_side side, int path, enum channel_event event,
                     const char *text);
};

struct channel_config {
    const char *pair; // its name
    enum channel_identity identity;
    uint8_t digest[CHANNEL_DIGEST_SIZE]; // of the configuration that both ends have to share
    // The name of what differs between two digests; may be NULL.
    const char *(*digest_difference)(const uint8_t ours[CHANNEL_DIGEST_SIZE],
                                     const uint8_t theirs[CHANNEL_DIGEST_SIZE]);
    uint64_t run;                        // this end's run; not zero
    const struct channel_key
        *key; // NULL: unsealed, loopback addresses only. Not owned, must outlive the channel
    int64_t silence_ns;               // a path that was silent for so long is down; 0: 2 s
    const struct channel_path *paths; // copied
    int n_paths;
    uint32_t protocol; // 0: CHANNEL_PROTOCOL (for tests)
    struct channel_bundler *bundler; // NULL: none. Not owned, must outlive the channel
};

// The thread that carries the messages of all channels of this process is preferred to ordinary ones from here on, until
// channel_carrier_end(): heartbeats go through it. To be called before any channel is opened. -1: it is not.
int channel_carrier(void);
void channel_carrier_end(int carrier);

// Control messages of channels with one bundler, to one process, between the same addresses, travel together: they wait for
// channel_bundler_send(). The control sides of all these channels, and channel_send_control(), belong to one thread then, and
// channel_work() of one may call the callbacks of another: so it is to be called for all that are readable before anybody's
// silence is judged.
struct channel_bundler;
struct channel_bundler *channel_bundler_new(void); // NULL: no memory
struct channel_bundler *channel_bundler_free(struct channel_bundler *b); // all its channels are freed; NULL-safe
void channel_bundler_send(struct channel_bundler *b); // NULL-safe

// How many of nanomsg's sockets a channel with so many paths takes: a process has no more than CHANNEL_SOCKETS_MAX.
unsigned channel_sockets(int n_paths);

// Opens the channel; nothing waits for the peer, nor for my addresses to exist. Refuses (-EINVAL,
// -EPERM) bad or scoped addresses, ports out of range and, without a key, any address but loopback.
int channel_open(const struct channel_config *config, const struct channel_ops *ops, void *context,
                 struct channel **ret_channel, struct error *err);
// Says goodbye on the links that are up and closes them. No other thread may be using the channel.
// NULL-safe.
struct channel *channel_free(struct channel *ch);

// --- control side ---
int channel_fd(const struct channel *ch); // poll it for input, then call channel_work()
void channel_work(struct channel *ch);
int64_t channel_deadline_ns(
    const struct channel *ch); // CLOCK_BOOTTIME; channel_work() wants to be called then
// Sends one control message over one path, or a copy over each (CHANNEL_ALL_PATHS). Never blocks:
// where a link is not up, or its socket is full, it is dropped. Returns the number of links that
// took it, or -EMSGSIZE, -EINVAL.
int channel_send_control(struct channel *ch, int path, const void *data, size_t size);

// --- data side ---
// Sends one message, gathered from `iov` (at most CHANNEL_IOV_MAX pieces, CHANNEL_DATA_MAX bytes
// together), over the current data path. The bytes are sealed into the message, so the caller's are
// free on return. Returns 0; -EAGAIN when the link is busy (poll channel_data_send_fd()); -ENOTCONN
// while no data link is up (wait for CHANNEL_DATA_PATH); -EMSGSIZE. 0 is no promise of delivery.
int channel_data_send(struct channel *ch, const struct iovec *iov, int n);
// Likewise, for a small message behind which others follow: it may wait for them, or until channel_data_push() says that there
// are none. So many answers travel as one.
int channel_data_send_soon(struct channel *ch, const struct iovec *iov, int n);
void channel_data_push(struct channel *ch);
// Somebody has waited for an answer to what was sent: if the current data path has no connection any more, and gets none, it
// is left for another one, as if more were being sent in vain. To be called again and again (every 100 ms or so) meanwhile.
void channel_data_look(struct channel *ch);
// Readable while the current data path can take a message. Constant for the life of the channel.
// Poll it only after -EAGAIN.
int channel_data_send_fd(const struct channel *ch);
// Changes when messages sent so far may have been lost because the link changed: another path,
// another run of the peer, a link that was down. 0: no data link has been up yet. (A connection
// that broke and stood again at once is not seen here; then the receiver finds the gap, by its own
// generation and CHANNEL_DATA_LOST.)
uint64_t channel_data_generation(struct channel *ch, int *ret_path, uint64_t *ret_peer_run);
// Leave the current data path for another one that is up, and avoid it for a while. -ENOTCONN:
// there is no other.
int channel_data_failover(struct channel *ch);

// A received data message. The owner may keep it, and read and write `data`, until
// channel_message_free().
struct channel_message {
    void *data; // aligned to 16 bytes
    size_t size;
    int path;
    uint64_t peer_run;
    uint64_t generation; // differs from the message before it when something may be missing between
                         // the two, or when the two may have overtaken each other
    void *buffer;        // private
};

// For an owner that keeps only the address of the data: takes the message's memory over; it is freed
// by channel_data_free(data).
void *channel_message_take(struct channel_message *message);
void channel_data_free(void *data); // NULL-safe

int channel_data_fd(const struct channel *ch); // poll it for input, then receive until -EAGAIN
// The next message, -EAGAIN when there is none.
int channel_data_receive(struct channel *ch, struct channel_message *ret_message);
void channel_message_free(
    struct channel_message *message); // NULL-safe, and fine with an emptied one
// Timers of the data links: to be called when channel_data_deadline_ns() has passed and after
// channel_data_fd() was readable, also by a user that does not want to receive for now (the peer
// then knows that it is alive, but busy).
void channel_data_work(struct channel *ch);
int64_t channel_data_deadline_ns(const struct channel *ch);

// --- status ---
struct channel_link_info {
    bool present;
    bool up;
    int64_t heard_ns;  // CLOCK_BOOTTIME of the last authentic message; 0: never
    uint64_t peer_run; // 0: never agreed
    uint64_t bytes_in, bytes_out, messages_in, messages_out, dropped;
    char refused[256]; // why the peer is refused now, or ""
};
struct channel_path_info {
    enum channel_path_kind kind;
    const char *mine, *peers; // valid as long as the channel
    uint16_t port;
    struct channel_link_info control, data;
    bool data_current; // data goes over this path
};
int channel_paths(const struct channel *ch);
void channel_path_info(struct channel *ch, int path, struct channel_path_info *ret_info);

// --- keys ---
// Creates a new key file (mode 0600, durable). -EEXIST when there is one.
// (That is keyfile_generate() of common/base/keyfile.h; it is there so that pairctl needs nothing
// of this room.)
int channel_key_load(const char *path, struct channel_key **ret_key, struct error *err);
struct channel_key *channel_key_free(struct channel_key *key);

#define CHANNEL_SUBKEY_SIZE 32
// A subkey for one purpose, named by `label`; for what travels outside the channel
// (common/base/mac.h).
int channel_key_derive(const struct channel_key *key, const char *label,
                       uint8_t ret_subkey[CHANNEL_SUBKEY_SIZE]);

#endif
