// SPDX-License-Identifier: Apache-2.0
// The disk of a queue (queues/disk.h) on a real directory: files "segment.NNNN", allocated in full
// at once.
//
// A sync is done by a thread of its own, one after the other; completions are delivered by
// segments_work() on the thread that owns the disk. With SEGMENTS_KICKED the syncs wait for
// segments_kick(), in which the owner's thread does them itself where that is sure to be short:
// handing one small sync over and back costs more than the sync. With SEGMENTS_VOLATILE nothing is
// ever synced: for files that are void in another boot.
#ifndef STORE_SEGMENTS_H
#define STORE_SEGMENTS_H

#include <stdbool.h>

#include "common/base/awake.h"
#include "common/base/error.h"
#include "queues/disk.h"

#define SEGMENTS_KICKED   0x1
#define SEGMENTS_VOLATILE 0x2

// At most so much written since the last sync, and that one not slower, for a sync on the owner's
// thread.
#define SEGMENTS_HERE_BYTES (256u * 1024)
#define SEGMENTS_HERE_NS    (4 * INT64_C(1000000))

struct segments;

// `path`: an existing directory, which belongs to this queue alone.
int segments_open(const char *path, unsigned flags, struct segments **ret_segments,
                  struct error *err);
// NULL-safe; waits for the sync that runs, if any; completions that were not delivered are not any
// more.
struct segments *segments_free(struct segments *segments);

// The owner's thread is watched: `awake` is paused in what may wait for the disk.
void segments_watched(struct segments *segments, awake_t *awake);

struct disk *segments_disk(struct segments *segments);
int segments_fd(const struct segments *segments); // poll for reading, then segments_work()
void segments_work(struct segments *segments);
// SEGMENTS_KICKED: starts the syncs that wait (those of much data do not), or does them; then their completions are
// delivered before it returns. `idle`: the owner has nothing else to do and may wait for the disk.
void segments_kick(struct segments *segments, bool idle);

#endif
