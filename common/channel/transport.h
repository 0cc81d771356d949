// SPDX-License-Identifier: Apache-2.0
// How messages travel: one way, from a *push* at one end to the *pull* at the other, over TCP connections that the push makes
// and makes again. What was on its way when a connection broke is lost. Two transports, which understand each other, since both
// speak nanomsg's TCP mapping (sp.h):
//
//     transport_nanomsg   for control links: the library does the work, on a thread of its own
//     transport_tcp       for data links: who sends or receives does it himself, on his own thread. nanomsg hands every message
//                         from a thread to another at either end, which costs a flush more than sealing and sending it
//
// Threads: a pull belongs to one thread. Everything of a push is done under the lock of its user. Nothing here blocks. What
// either waits for is in the epoll that it was given, with its tag in the lower half of the event's u64: on such an event
// pull_event() or push_event() is to be called. Functions return 0 or -errno. Private to the room.
#ifndef CHANNEL_TRANSPORT_H
#define CHANNEL_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pull;
struct push;

struct transport {
    // --- receiving ---
    // Messages of up to `size_max` bytes; who sends a larger one is disconnected.
    int (*pull_open)(size_t size_max, int epoll, uint32_t tag, struct pull **ret_pull);
    void (*pull_close)(struct pull *pull); // NULL-safe
    // Listens at one more address. -EADDRNOTAVAIL, -EADDRINUSE ... : nothing changed, try again later.
    int (*pull_bind)(struct pull *pull, const char *address, uint16_t port);
    // Returns whether pull_receive() may find a message now.
    bool (*pull_event)(struct pull *pull, uint64_t event);
    // The next message, aligned to 16 bytes unless it is nanomsg's, to be freed with message_free(). -EAGAIN: none.
    int (*pull_receive)(struct pull *pull, void **ret_message, size_t *ret_size);
    // The message that was received last is the peer's own. Who has never sent such a one is disconnected first where there are
    // too many connections, and is not given much memory.
    void (*pull_trust)(struct pull *pull);
    // To be called now and then; returns when next at the latest (CLOCK_BOOTTIME; INT64_MAX: never).
    int64_t (*pull_tick)(struct pull *pull, int64_t now);
    uint64_t (*pull_broken)(struct pull *pull); // connections that were accepted and ended in an error, so far
    // So many connections stand that the pull should be opened anew; a transport that sees to it by itself says 0.
    uint64_t (*pull_crowd)(struct pull *pull);

    // --- sending ---
    // Connects from `mine` to `peers`:`port`, and connects again. `buffer_bytes`: how much it may hold; 0: whatever the kernel
    // thinks right.
    int (*push_open)(const char *mine, const char *peers, uint16_t port, size_t buffer_bytes, int epoll, uint32_t tag,
                     struct push **ret_push);
    void (*push_close)(struct push *push); // NULL-safe
    void (*push_event)(struct push *push, int64_t now);
    // Timers, as pull_tick().
    int64_t (*push_tick)(struct push *push, int64_t now);
    bool (*push_connected)(const struct push *push);
    // Whether it takes a message now.
    bool (*push_ready)(const struct push *push);
    // It was asked in vain: an event is wanted once it is ready.
    void (*push_want)(struct push *push);
    // Nothing was sent since the connection was made: the peer's pull does not trust it yet (pull_trust()).
    bool (*push_fresh)(const struct push *push);
    // Writable when it takes a message; changes with the connection. -1: nothing that could be polled.
    int (*push_fd)(const struct push *push);
    // Room for a message of `size` bytes, aligned to 8; it is good for the next push_send(), or push_drop(). NULL: not now.
    void *(*push_room)(struct push *push, size_t size);
    void (*push_drop)(struct push *push, void *room);
    // Sends what was put there. -EAGAIN: it was not taken.
    int (*push_send)(struct push *push, void *room, size_t size);
    // Between true and false, what is sent may wait for what follows: until push_all() at the latest, or some 200 ms.
    void (*push_more)(struct push *push, bool more);
    void (*push_all)(struct push *push);

    void (*message_free)(void *message); // NULL-safe
};

extern const struct transport transport_nanomsg, transport_tcp;

#endif
