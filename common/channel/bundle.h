// SPDX-License-Identifier: Apache-2.0
// Bundles: control messages of several channels that go from one process to another between the same two addresses travel
// in one message of nanomsg's, over the connection of one of their links. A message costs the two processes some forty
// system calls and four wake-ups; many idle pairs send little else than heartbeats, and those at the same moments.
//
// Every message in a bundle is sealed by its own link, as it would be alone, and means the same. What differs is the
// connection: so each link's own is used in turn, for CARRIES_NS, and `heard` (frame.h) tells of it alone; one that is dead is
// found by that link, as ever, and meanwhile costs the others the bundles of its turns. A link never overtakes itself: what
// it sends by itself sends first what waits.
//
// Threads: the control sides of all channels with one bundler belong to one thread, and only that one sends control
// messages. Channels are opened on any thread: the lock is for that. Private to the room.
#ifndef CHANNEL_BUNDLE_H
#define CHANNEL_BUNDLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct channel_bundler;
struct link;
struct side;

// What waits on a link: entries with their messages.
struct bundle_out {
    uint8_t *data;
    size_t used, room;
    uint64_t home; // whom it is for
    bool listed;   // in the bundler's list
};

uint64_t bundler_home(const struct channel_bundler *b); // 0 for NULL
// A slot for a channel that is being opened, on any thread; nobody finds it there yet. -ENOMEM. With NULL for the bundler
// these do nothing.
int bundler_reserve(struct channel_bundler *b, uint32_t *ret_slot);
void bundler_show(struct channel_bundler *b, uint32_t slot, struct side *side); // from here on it is found
void bundler_leave(struct channel_bundler *b, uint32_t slot);
struct side *bundler_find(struct channel_bundler *b, uint32_t slot); // NULL: nobody has it

// Room for a message of `size` bytes to the peer's slot, behind what waits already; NULL: no memory. It counts once
// bundle_add() says so.
uint8_t *bundle_room(struct link *l, uint64_t home, size_t size);
void bundle_add(struct link *l, uint32_t slot, size_t size);
// What waits is sent now, over the link's own connection.
void bundle_send_own(struct link *l, int64_t now);
void bundle_done(struct link *l); // the link is about to end: nothing waits any more

#endif
