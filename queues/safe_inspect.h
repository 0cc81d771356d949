// SPDX-License-Identifier: Apache-2.0
// Looks at the safe queue of a stopped end: what an opening would find and decide, and every damage, also behind the one
// in front of which a replay would stop. For pairctl fsck.
#ifndef QUEUES_SAFE_INSPECT_H
#define QUEUES_SAFE_INSPECT_H

#include "queues/inspect.h"
#include "queues/safe.h"

struct safe_summary {
    struct safe_recovery recovery; // what an opening reports
    uint64_t epoch;                // id of the epoch of recovery.last
    uint32_t segments;             // that hold the queue
    uint32_t spare;                // other files
};

// Only `disk`, `pair`, `confirmed`, `seen` and `arg` of the config matter; of the disk only list, open, read and close
// are used. The codes are those of safe_open().
int safe_inspect(const struct safe_config *config, const struct inspect *inspect,
                 struct safe_summary *ret_summary, struct error *err);

#endif
