// SPDX-License-Identifier: Apache-2.0
// One side of the channel, control or data: the links of its kind, with the one socket on which all
// of them receive. A side belongs to one thread ("owner"); its lock is for what other threads may
// do: send, and ask. Private to the room.
#ifndef CHANNEL_SIDE_H
#define CHANNEL_SIDE_H

#include <pthread.h>

#include "common/channel/link.h"

struct side {
    enum channel_side kind;
    const struct channel_ops *ops;
    void *context;
    int epoll; // everything that the owner waits for
    int kick;  // eventfd in it: another thread changed something
    const struct transport *transport;
    struct pull *pull; // NULL: it could not be opened again
    struct channel_bundler *bundler; // whose bundles may come in; not owned
    int n_links;
    struct link links[CHANNEL_PATHS_MAX];
    pthread_mutex_t lock;

    // Owner.
    int64_t worked_ns, grace_ns; // grace: until when nothing was looked at, so that silence before
                                 // it does not count
    _Atomic int64_t deadline_ns;
    int64_t pull_at_ns; // when its timers are due
    uint64_t broken;    // connections, as last seen
    int64_t looked_ns, shed_ns;
    bool drained; // since the last work everything (or a good deal) was received
    bool came;     // a message, since the last work
    unsigned busy; // works in a row that did not ask epoll, since messages kept coming
    bool more;    // the last thing received was a message: there may be another one that no descriptor tells of
    struct said trouble;

    // The choice of a data path (path.c); under the lock.
    int send_epoll; // -1 on the control side
    int send_path;  // CHANNEL_NO_PATH: none
    uint64_t generation, send_run;
    int64_t blocked_ns; // since when the current path takes nothing; 0: it does
    bool say_path;

    // Owner: what the last message of the user came from.
    int last_path;
    uint64_t last_run, last_losses, receive_generation;
};

int side_init(struct side *side, enum channel_side kind, const struct channel_ops *ops,
              void *context, struct error *err);
void side_done(struct side *side);

// By the owner. Hands out the next message of the user (data and size within *ret_buffer, to be
// freed with the transport's message_free()), deals with all others; -EAGAIN: none.
struct received {
    void *buffer;
    uint8_t *data;
    size_t size;
    struct link *link;
    uint64_t run;
};
int side_receive(struct side *side, struct received *ret_received);
// By the owner: sockets that became ready, timers, callbacks.
void side_work(struct side *side);
void side_kick(struct side *side); // from any thread: let the owner work
// Under the lock: chooses the path for data (nothing on the control side). `leave`: not the present
// one, if possible.
void side_choose(struct side *side, bool leave, int64_t now);
// Under the lock: whether another path is up that was not left lately.
bool side_has_other(const struct side *side, int64_t now);

#endif
