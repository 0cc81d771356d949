// SPDX-License-Identifier: Apache-2.0
// The disk of a queue (queues/disk.h) on a real directory: files "segment.NNNN", allocated in full
// at once.
//
// A sync is done by a thread of its own, one after the other; completions are delivered by
// segments_work() on the thread that owns the disk. With SEGMENTS_SYNC_HERE the owner's thread
// syncs instead (no wake-up, but it waits for the disk); completions come the same way.
#ifndef STORE_SEGMENTS_H
#define STORE_SEGMENTS_H

#include "common/base/error.h"
#include "queues/disk.h"

#define SEGMENTS_SYNC_HERE 0x1

struct segments;

// `path`: an existing directory, which belongs to this queue alone.
int segments_open(const char *path, unsigned flags, struct segments **ret_segments,
                  struct error *err);
// NULL-safe; waits for the sync that runs, if any; completions that were not delivered are not any
// more.
struct segments *segments_free(struct segments *segments);

struct disk *segments_disk(struct segments *segments);
int segments_fd(const struct segments *segments); // poll for reading, then segments_work()
void segments_work(struct segments *segments);

#endif
