// SPDX-License-Identifier: Apache-2.0
// One link of the channel: its sockets, handshakes, sessions and whether it is up. Private to the
// room.
//
//                 handshake done        hello accepted, and mine echoed
//      (nothing) ---------------> session ---------------> up
//          ^                         | hello refused        | silence, unheard, bye, peer's new run
//          |                         v                      v
//          +------------------- refused (slow retries)    down: hello again on the session, new
//          handshakes
//
// A *session* is what one handshake gave: keys, counters, and the peer's run once its hello was
// accepted. The newest one is `current`; `previous` stays for receiving what was on its way, and
// for sending until the new one is accepted.
//
// Invariants: an unauthenticated message never ends a session nor takes a link down; user messages
// are handed on only from a session whose hello was accepted; a counter is accepted once in its
// session.
//
// Locks: everything is under the side's lock, but what is marked "owner": that belongs to the
// side's own thread, which is also the only one that adds or frees sessions (under the lock), and
// so may read them without it.
#ifndef CHANNEL_LINK_H
#define CHANNEL_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/channel/bundle.h"
#include "common/channel/channel.h"
#include "common/channel/frame.h"
#include "common/channel/said.h"
#include "common/channel/seal.h"
#include "common/channel/transport.h"

#define LINK_ATTEMPTS 4 // handshakes in progress

// What all links of a channel share; constant after channel_open().
struct link_settings {
    char pair[CHANNEL_NAME_MAX + 1];
    enum channel_identity identity;
    uint8_t digest[CHANNEL_DIGEST_SIZE];
    const char *(*digest_difference)(const uint8_t ours[CHANNEL_DIGEST_SIZE],
                                     const uint8_t theirs[CHANNEL_DIGEST_SIZE]);
    uint64_t run;
    const struct channel_key *key;
    int64_t silence_ns;
    uint32_t protocol;
    struct channel_bundler *bundler; // NULL: control messages go one by one
    uint32_t slot; // there
};

struct session {
    uint64_t nonce;
    struct seal *seal;
    uint64_t sent;             // last counter that was given
    _Atomic uint64_t received; // highest counter accepted; written by the owner
    _Atomic uint64_t heard;    // ... of those over the link's own connection, not in a bundle that another link's carried
    _Atomic uint64_t bytes;    // both directions, for the limit of a key
    bool accepted;             // the peer's hello was accepted; owner reads
    unsigned replies;          // answers to hellos that were refused
    uint64_t run;              // the peer's, once accepted
    uint64_t home;             // of the peer's process, for bundles; 0: it takes none
    uint32_t slot;
    _Atomic uint64_t probe;    // counter of the oldest message over the link's own connection whose arrival is not known; 0: none
    _Atomic int64_t probe_ns;  // when it was sent
};

struct attempt {
    uint64_t nonce; // 0: free
    struct seal *seal;
    int64_t started_ns;
};

struct link {
    bool present;
    const struct link_settings *settings;
    enum channel_side side;
    unsigned path;
    const char *mine, *peers;
    uint16_t port, peers_port;
    int epoll; // of the side; not owned
    const struct transport *transport;
    struct pull *pull; // of the side; not owned

    bool bound;
    struct push *push; // NULL: none now
    int64_t push_at_ns; // when its timers are due
    int64_t bind_at_ns, opened_ns, reopen_at_ns, reopen_backoff_ns;
    bool knocked;
    bool introduced; // a sealed message of the session in use was sent since the connection was made

    struct attempt attempts[LINK_ATTEMPTS];
    int64_t wanted_ns; // when the peer seemed to have no session; void once it is heard again
    int64_t attempt_at_ns, attempt_last_ns, attempt_backoff_ns;
    int64_t window_ns; // of the limit for handshakes that strangers start
    unsigned window_count;
    unsigned unanswered; // handshakes begun on a link that is up
    struct session *current, *previous;

    _Atomic bool up; // written under the lock; a control link's is read without by the data link of its path
    int64_t up_since_ns;
    unsigned ups; // how often it came up
    uint32_t round, peer_round;
    uint64_t peer_run;
    int64_t hello_at_ns, reset_sent_ns, refused_ns;
    int64_t avoid_until_ns; // data: not to be chosen while another one is up
    uint64_t number_sent;   // user messages
    int64_t sent_ns;
    int64_t direct_ns;      // ... over its own connection
    bool answered;          // the last ping was sent because the peer's had come
    struct bundle_out out;  // owner, of a control link
    int64_t carries_ns;     // since when its connection carries bundles, or when it could not
    bool unread; // the side's user leaves messages unread

    uint64_t number_received; // owner
    uint64_t losses;          // owner: times at which user messages were found missing
    uint64_t losses_said;     // owner
    _Atomic int64_t heard_ns; // last authentic message
    const _Atomic int64_t
        *control_heard_ns; // of the same path's control link; itself for a control link
    const _Atomic bool *control_up; // likewise
    _Atomic uint64_t *newest_run; // of the peer, as the hello says that was accepted last, on whatever link of the channel
    _Atomic uint64_t bytes_in, messages_in, dropped;
    uint64_t bytes_out, messages_out;

    // To be handed to the callback, in this order.
    bool say_down, say_up;
    char down_text[SAID_TEXT];
    struct said refused, trouble;
    bool push_changed, changed; // for the side: the socket, the state
};

void link_init(struct link *l, const struct link_settings *settings, enum channel_side side,
               unsigned path, int epoll, const struct transport *transport, struct pull *pull);
void link_done(struct link *l); // says goodbye if it is up

// Under the lock.
void link_tick(struct link *l, int64_t now, int64_t grace_ns);
int64_t link_deadline(const struct link *l, int64_t now, int64_t grace_ns);
void link_event(struct link *l, int64_t now); // the push's
// Seals and sends one message on the session in use. -ENOTCONN, -EAGAIN, -ENOMEM.
int link_send(struct link *l, enum frame_type type, const struct iovec *iov, int n, size_t size,
              int64_t now);
bool link_can_send(const struct link *l); // up, and the push would take a message
int link_send_fd(const struct link *l);   // writable when the push takes a message; -1: there is nothing to be polled
// Likewise, but it waits for the next bundle (bundle.h) if it may.
int link_send_soon(struct link *l, const struct iovec *iov, size_t size, int64_t now);
// Another link has heard of a newer run of the peer: this one is up to nobody any more. link_leave_former() takes it down.
bool link_is_former(const struct link *l);
void link_leave_former(struct link *l, int64_t now);

// By the owner, without the lock: opens a sealed message in place. `direct`: it came over this link's own connection. Returns its type with the
// contents, or the reason why it is dropped (a text; NULL: none worth a word) in *ret_why and -EBADMSG; -ENOENT: no such
// session.
struct opened {
    struct session *session;
    enum frame_type type;
    uint64_t number;
    uint8_t *data;
    size_t size;
};
int link_open(struct link *l, const struct frame *frame, uint8_t *message, bool direct, int64_t now,
              struct opened *ret_opened, const char **ret_why);
bool link_knows(const struct link *l, uint64_t nonce);
// Under the lock, by the owner: everything that is not a user message.
void link_on_handshake(struct link *l, const struct frame *frame, const void *body, int64_t now);
void link_on_internal(struct link *l, const struct opened *opened, int64_t now);
void link_on_reset(struct link *l, const struct frame *frame, int64_t now);
void link_on_unknown(struct link *l, const struct frame *frame, int64_t now);
void link_dropped(struct link *l, const char *why, int64_t now); // NULL: counted, and not said

#endif
