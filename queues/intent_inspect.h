// SPDX-License-Identifier: Apache-2.0
// Looks at one intent map of a stopped end, without knowing the pair file: what the map is of is taken from its header. For
// pairctl fsck.
#ifndef QUEUES_INTENT_INSPECT_H
#define QUEUES_INTENT_INSPECT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"
#include "queues/disk.h"
#include "queues/inspect.h"

struct intent_summary {
    bool whole;         // nothing of it counts: everything is set. What follows is valid only otherwise
    uint64_t volume;    // id
    uint64_t size;      // bytes of the volume
    uint64_t set_bytes; // of them: as an opening finds it
};

// Returns 0 whatever is wrong with the map; -EIO and the like: it cannot be opened; -ENOMEM.
int intent_inspect(struct disk *disk, uint32_t slot, uint64_t pair, const struct inspect *inspect,
                   struct intent_summary *ret_summary, struct error *err);

#endif
