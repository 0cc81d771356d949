// SPDX-License-Identifier: Apache-2.0
// Looks at the unsafe queue that an active end has left in its runtime directory. For pairctl fsck.
#ifndef QUEUES_UNSAFE_INSPECT_H
#define QUEUES_UNSAFE_INSPECT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"
#include "queues/epoch.h"
#include "queues/inspect.h"

struct unsafe_summary {
    bool usable;    // no damage: an opening in the same boot goes on with it. What follows is valid only then, but `boot`
    uint64_t boot;  // token of the boot that it is of
    uint64_t numbered;
    uint64_t floor; // records above it are held
    uint64_t spilled; // those up to it lie on disk
    uint64_t bytes;   // of the payloads in memory
    uint64_t bound;
    uint64_t epoch;
    struct epoch opening; // of that one; id 0: not known
    unsigned pending; // updates that were in flight
    uint64_t salt;    // of its spilled segments
};

// Returns 0 whatever is wrong with it; -ENOENT: there is none, or it was never finished; else it cannot be read.
int unsafe_inspect(const char *path, uint64_t pair, const struct inspect *inspect,
                   struct unsafe_summary *ret_summary, struct error *err);

#endif
