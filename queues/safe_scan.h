// SPDX-License-Identifier: Apache-2.0
// What an opening finds in the directory of a safe queue, and what it makes of it. Internal to the
// safe queue.
//
// The decision is a table of facts (docs/safe-queue.md has the crash or the damage behind each
// row); everything else here only establishes the facts.
#ifndef QUEUES_SAFE_SCAN_H
#define QUEUES_SAFE_SCAN_H

#include "queues/safe.h"
#include "queues/safe_segment.h"

enum scan_fact {
    FACT_USED,     // some segment's header is not blank
    FACT_READABLE, // some segment's header is good
    FACT_SPOILT,   // some segment's header is bad in both copies
    FACT_LINKED,   // every segment from the newest one's floor on is there
    FACT_WHOLE,    // the records of each segment reach to where the next one begins
    FACT_BEYOND, // behind the end of what can be read there is something that was written for this
                 // queue
    FACT_PROVEN, // the first record that cannot be read had been confirmed as durable, or the disk
                 // fails to read it
    FACTS,
};

enum scan_decision {
    DECIDE_IMPOSSIBLE, // the facts exclude each other
    DECIDE_EMPTY,
    DECIDE_CLEAN,
    DECIDE_TORN,
    DECIDE_DAMAGED,
};

// `facts`: bit i is enum scan_fact i. *ret_row, if not NULL: the row of the table that matched.
enum scan_decision scan_decide(unsigned facts, unsigned *ret_row);
// How many rows match (a test wants exactly one, always).
unsigned scan_rows_matching(unsigned facts);

struct scan {
    struct safe_segment **chain; // oldest first; holds everything that is held
    uint32_t chain_count;
    struct safe_segment **spare; // every other file
    uint32_t spare_count;
    uint64_t last;        // the last seq that is held; chain[0]->first_seq is the first
    uint64_t epoch;       // of `last`
    uint64_t next_number; // above every number in use
    uint32_t next_slot;   // above every slot in use
    struct safe_recovery recovery;
};

// -EINVAL: another pair's files, or another version's. Nothing is written.
int safe_scan(const struct safe_config *config, struct scan *ret_scan, struct error *err);
void safe_scan_done(struct scan *scan); // closes what is still in it

#endif
