// SPDX-License-Identifier: Apache-2.0
// The intent maps of one end on their disk: one file a volume (slot = object). Opens them, writes their pages out and
// syncs, shares a sync among all who wait at one moment, and says when a write is covered. docs/intent-map.md.
//
// How a map stands:
//
//   good     what is on the disk covers what was let through
//   rebuilt  its header on the disk is invalid, or the end has recorded durably that it is void: after a crash it counts
//            as wholly set, so every write is covered; all pages are being written anew, then it is good again
//   failed   it could not be written, and that is not recorded yet: writes wait (refused: they fail)
//
// Invariant: a write is let through only if what a crash leaves of the map, or of the end's record, covers it.
// A failed map is tried again every MAPS_RETRY_NS once its being void is recorded. In memory it stays exact.
//
// One thread. The disk's completions come in from its work function, on that thread.
#ifndef QUEUES_MAPS_H
#define QUEUES_MAPS_H

#include <stdbool.h>
#include <stdint.h>

#include "queues/disk.h"
#include "queues/intent.h"
#include "queues/record.h"

#define MAPS_RETRY_NS INT64_C(1000000000)
#define MAPS_LAZY_NS  INT64_C(1000000000) // pages that say more than is true are written so often at most

struct maps;

struct maps_config {
    struct disk *disk;
    uint64_t pair;
    unsigned volumes;
    uint32_t region; // 0: INTENT_REGION
    const uint64_t *sizes;   // bytes, by object
    const uint64_t *volume;  // ids, by object
    // A map that somebody waits for cannot be written: to be recorded, then maps_void() with this ticket.
    void (*failed)(void *user, uint16_t object, uint64_t ticket, int status);
    // A map whose being void was recorded (as maps_fill() or maps_void() told it) is good again: that record may go.
    void (*good)(void *user, uint16_t object, uint64_t record);
    void *user;
};

// Whatever the files are like: what is not good counts as wholly set. NULL: no memory.
struct maps *maps_new(const struct maps_config *config);
// No sync is under way, or none will ever complete. NULL-safe.
struct maps *maps_free(struct maps *maps);
// NULL, or why the map counted as wholly set when it was opened, or a part of it. Static text.
const char *maps_found(const struct maps *maps, uint16_t object);

struct intent *maps_at(struct maps *maps, uint16_t object);

// Before a write. 0: covered. 1: wait, and ask again behind the next maps_work(). -EIO: it is to fail.
int maps_set(struct maps *maps, uint16_t object, uint64_t offset, uint64_t length);

// The end has durably recorded that the maps of the mask `objects` are void. `fill`: everything counts as set from now
// on. Else only for the failure of this ticket; of an older one it is ignored. `record`: the record's number, which
// comes back in good().
void maps_fill(struct maps *maps, uint64_t objects, uint64_t record);
void maps_void(struct maps *maps, uint16_t object, uint64_t ticket, uint64_t record);
// It cannot be recorded: writes fail until it is.
void maps_refuse(struct maps *maps, uint16_t object, uint64_t ticket);

// Starts what is to be written, and tries again what failed.
void maps_work(struct maps *maps, int64_t now_ns);
int64_t maps_deadline(const struct maps *maps); // of the next maps_work(); INT64_MAX: when something happens
// Everything that was set at the last maps_mark() is durable, or the map counts as wholly set. Asking makes a failure
// known.
void maps_mark(struct maps *maps);
bool maps_durable(struct maps *maps);
bool maps_syncing(const struct maps *maps);
// Nobody writes any more: the file is to say exactly what the memory does, soon. maps_exact(): it does, durably; asking
// makes a failure known.
void maps_settle(struct maps *maps, uint16_t object);
bool maps_exact(struct maps *maps, uint16_t object);

#endif
