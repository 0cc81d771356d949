// SPDX-License-Identifier: Apache-2.0
// What the files of the NBD server share. A client passes through them in this order:
//
//   nbd.c            sockets, the turn of the loop; accepts it
//   nbd_conn.c       its life: made, watched, closed, freed
//   nbd_handshake.c  options, until it has chosen the export
//   nbd_receive.c    bytes from the socket, cut into requests
//   nbd_request.c    requests: checked, submitted
//   nbd_reply.c      answers: collected, sent
//
// Whoever ends a client calls nbd_conn_drop() or nbd_conn_finish() and returns; its memory stays
// until nbd_conn_reap(), so that nobody up the stack is left with a pointer to nothing.
#ifndef INTERCEPT_NBD_PRIVATE_H
#define INTERCEPT_NBD_PRIVATE_H

#include <sys/epoll.h>

#include "common/intercept/nbd.h"
#include "common/intercept/nbd_buffers.h"
#include "common/intercept/nbd_protocol.h"

#define NBD_CLIENTS_MAX      64            // of one export
#define NBD_REQUESTS_MAX     256           // of one client, from its header to its sent answer
#define NBD_PAYLOAD_MAX      (32U << 20)   // bytes of one read or write
#define NBD_DISCARD_MAX      (64U << 20)   // a refused payload up to this is read and thrown away
#define NBD_RECEIVE_BYTES    (128U * 1024) // the most that one call receives
#define NBD_NAME_MAX         255           // bytes of an export's name
#define NBD_WHY_MAX          512           // bytes of the reason of a refusal
#define NBD_OPTION_BYTES_MAX 8192          // data of an option; larger ones are refused
#define NBD_OPTION_SKIP_MAX  (64U * 1024)  // and beyond this the client is dropped
#define NBD_OUT_BYTES        2048          // answers to one option
#define NBD_EXTENTS_MAX      512           // told with one block status
#define NBD_HANDSHAKE_NS     (10 * NS_PER_S)
#define NBD_LINGER_NS        (5 * NS_PER_S) // for a client that is to go to take its last answers
#define NBD_ASIDE_NS         (300 * NS_PER_MS) // a payload stands still
#define NBD_RETRY_NS         (50 * NS_PER_MS)  // after memory or descriptors ran out

#define NBD_EVENTS_A_TURN    64

enum nbd_watched {
    NBD_WATCHED_LISTENER,
    NBD_WATCHED_CONN,
    NBD_WATCHED_TIMER,
    NBD_WATCHED_WAKE,
    NBD_WATCHED_OTHER, // the caller's own
};

struct nbd_listener {
    enum nbd_watched watched; // first: what epoll gives back is told apart by it
    uint16_t object;
    char name[NBD_NAME_MAX + 1];
    char *path;
    uint64_t size;
    uint32_t data_align;
    int fd;
    bool paused;  // out of descriptors: until the timer
    dev_t device; // of the socket file
    ino_t inode;
    unsigned clients;
};

enum nbd_state {
    NBD_FLAGS,  // its flags are awaited
    NBD_OPTION, // an option's header is
    NBD_DATA,   // an option's data is
    NBD_SKIP,   // as NBD_DATA, but it is too much: thrown away
    NBD_SERVING,
    NBD_CLOSING, // nothing is received any more; closed when everything is answered and sent
    NBD_GONE,    // socket closed; freed when no request is under way
};

struct nbd_conn;

struct nbd_request {
    struct update update; // first
    struct nbd_conn *conn;
    struct nbd_request *next; // in the free list, or in the line of answers
    uint64_t cookie;
    uint16_t command;
    struct nbd_buffer buffer;
    uint32_t head_bytes, data_bytes; // of the answer: `head`, then `data`
    const void *data;
    uint8_t head[32];
};

struct nbd_conn {
    enum nbd_watched watched; // first
    struct nbd *nbd;
    struct nbd_listener *listener;
    struct nbd_conn *next;
    unsigned id; // for notes
    pid_t pid;
    int fd;
    enum nbd_state state;
    uint32_t interest;   // what epoll watches
    int64_t deadline_ns; // INT64_MAX: none

    // The handshake.
    bool no_zeroes, structured, allocation; // what was agreed
    uint32_t option, option_bytes, got;
    uint32_t out_bytes, out_sent;
    uint8_t in[NBD_OPTION_BYTES_MAX];
    uint8_t out[NBD_OUT_BYTES];

    // Receiving. What the socket gave and could not be used yet is `carry`, then what is left of
    // `stash`. Memory is taken by a stash only where there ever was one.
    uint8_t carry[NBD_REQUEST_HEADER];
    uint32_t carry_bytes;
    uint32_t stash_at, stash_end;
    struct nbd_request *receiving; // its payload has come up to `received`
    uint32_t received;
    uint8_t *aside;      // where that payload is, when it is no longer in the ring
    int64_t received_ns; // when something of it came last
    uint32_t discard;    // bytes of a refused payload still to come
    bool stalled;        // nothing is received until nbd_receive_again()

    // Requests.
    struct nbd_request *free;
    unsigned busy;      // not in `free`
    unsigned under_way; // of those: with updates
    struct nbd_request *answers, **answers_end;
    uint32_t answer_sent; // bytes of the first one
    bool dirty;           // nbd_flush() has to look at it
    struct nbd_conn *next_dirty;
    struct nbd_buffers_held held;
    struct nbd_request requests[NBD_REQUESTS_MAX];
    uint8_t stash[NBD_RECEIVE_BYTES];
};

struct nbd {
    enum nbd_watched timer_watched, wake_watched, other_watched;
    int epoll, timer, wake;
    bool waited; // nbd_wait() has asked for nbd_work():
    int told;    // events; none of them is of a client that was freed since
    struct epoll_event events[NBD_EVENTS_A_TURN];
    struct nbd_ops ops;
    void *user;
    struct nbd_listener *listeners;
    size_t count;
    struct nbd_conn *conns;
    struct nbd_conn *dirty;
    unsigned next_id;
    unsigned stalled;  // clients
    unsigned gone;     // clients that nbd_conn_reap() looks for
    bool used_buffers; // since they were given back last
    bool woken;        // `wake` is readable
    int64_t timer_ns;  // what the timer is set to; INT64_MAX: nothing
    int64_t retry_ns;  // when stalled clients and paused listeners try again

    struct unsafe *unsafe; // NULL: refusing
    struct updates *updates;
    uint32_t payload_max;   // bytes of one read or write
    uint32_t receive_bytes; // of one call
    char why[NBD_WHY_MAX + 1];

    struct nbd_buffers buffers;
    struct nbd_stat stat;
    uint8_t trash[64 * 1024]; // what refused payloads are read into
};

// nbd.c
struct nbd_listener *nbd_find(struct nbd *nbd, const struct nbd_conn *conn, const void *name,
                              uint32_t bytes); // the export, if the name is its own or empty
void nbd_wake(struct nbd *nbd); // nbd_work() has something to do that no socket tells
void nbd_timer_at(struct nbd *nbd, int64_t ns);
void nbd_retry_soon(struct nbd *nbd); // stalled and paused ones are looked at in NBD_RETRY_NS
void nbd_note(struct nbd *nbd, const struct nbd_listener *listener, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// nbd_conn.c
struct nbd_conn *nbd_conn_new(struct nbd *nbd, struct nbd_listener *listener, int fd);
void nbd_conn_ready(struct nbd_conn *conn, uint32_t events);
void nbd_conn_interest(struct nbd_conn *conn); // what it is watched for follows from its state
// Closes it at once; requests under way end unanswered. The text, if any, is noted.
void nbd_conn_drop(struct nbd_conn *conn, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// Receives nothing more; closes it when what is under way was answered.
void nbd_conn_finish(struct nbd_conn *conn);
void nbd_conn_deadline(struct nbd_conn *conn, int64_t from_now_ns);
void nbd_conn_expire(struct nbd_conn *conn, int64_t now_ns);
void nbd_conn_mark(struct nbd_conn *conn); // nbd_flush() looks at it
void nbd_conn_reap(struct nbd *nbd);
void nbd_conn_free(struct nbd_conn *conn);

// nbd_handshake.c
void nbd_handshake_greet(struct nbd_conn *conn);
void nbd_handshake_receive(struct nbd_conn *conn);
void nbd_handshake_send(struct nbd_conn *conn);

// nbd_receive.c
void nbd_receive(struct nbd_conn *conn);
void nbd_receive_again(struct nbd_conn *conn); // a stalled one may go on
// Takes a payload that does not get on out of the ring, where everybody behind it waits.
void nbd_receive_aside(struct nbd_conn *conn, int64_t now_ns);
void nbd_receive_forget(
    struct nbd_conn *conn); // gives back what came of requests that will not be complete

// nbd_reply.c
void nbd_reply_done(struct nbd_request *request);
// `text`, a constant, says why; clients that agreed to structured replies get it too.
void nbd_reply_error(struct nbd_request *request, enum nbd_error error, const char *text);
void nbd_reply_status(struct nbd_request *request, int status); // -errno
void nbd_reply_data(struct nbd_request *request, uint32_t bytes);
void nbd_reply_extents(struct nbd_request *request, unsigned count); // as `buffer` has them
void nbd_reply_send(struct nbd_conn *conn);

// nbd_request.c
struct nbd_header {
    uint32_t magic;
    uint16_t flags, command;
    uint64_t cookie, offset;
    uint32_t length;
};

enum nbd_taken {
    NBD_TAKEN,         // it needs nothing more
    NBD_TAKEN_PAYLOAD, // a write: its payload is to be placed, then it is to be submitted
    NBD_TAKEN_REFUSED, // a write, but its payload is to be thrown away
    NBD_TAKEN_NOT,     // nothing to take it with: try again when something was released
    NBD_TAKEN_END,     // the client's last word
};

struct nbd_header nbd_request_decode(const uint8_t *at);
enum nbd_taken nbd_request_take(struct nbd_conn *conn, const struct nbd_header *header,
                                struct nbd_request **ret_request);
void nbd_request_submit(struct nbd_request *request);
void nbd_request_release(struct nbd_request *request);

#endif
