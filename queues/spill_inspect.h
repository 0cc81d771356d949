// SPDX-License-Identifier: Apache-2.0
// Looks at what an unsafe queue has spilled to disk (docs/unsafe-queue.md). For pairctl fsck.
#ifndef QUEUES_SPILL_INSPECT_H
#define QUEUES_SPILL_INSPECT_H

#include <stdint.h>

#include "common/base/error.h"
#include "queues/disk.h"
#include "queues/inspect.h"

struct spill_summary {
    uint32_t segments; // of this queue
    uint32_t others;   // of another queue, boot or pair, or unreadable: void, and removed by a start
    uint64_t bytes;    // of payloads that were found of what is held
};

// `salt`: the queue's; 0: there is none that could be gone on with. Of records `first` to `last` (none when last < first)
// the files have to hold all: what is damaged or missing of them is reported.
int spill_inspect(struct disk *disk, uint64_t pair, uint64_t salt, uint64_t first, uint64_t last,
                  const struct inspect *inspect, struct spill_summary *ret_summary, struct error *err);

#endif
