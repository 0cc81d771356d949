// SPDX-License-Identifier: Apache-2.0
// Which updates may be in flight together. Ranges of one object that share a block (of the coarser of both ends' block
// sizes) never are: the later one is held until every earlier one that it overlaps has left. Strictly first come,
// first served: a range that waits holds back the later ones that overlap it, so nothing starves.
//
// One thread; no allocation after overlap_new(): the caller embeds struct overlap_range in what it tracks.
#ifndef QUEUES_OVERLAP_H
#define QUEUES_OVERLAP_H

#include <stdbool.h>
#include <stdint.h>

struct overlap;

struct overlap_range {
    void *owner;                 // the caller's
    struct overlap_range *ready; // the next one of a list that overlap_remove() gave
    // The module's:
    uint64_t first, end; // bytes, rounded out
    uint64_t order;
    struct overlap_range *next, **link;
    uint32_t blockers; // earlier ranges that overlap this one
    uint16_t object;
    bool wide;
};

struct overlap *overlap_new(void); // NULL: no memory
struct overlap *overlap_free(struct overlap *overlap);

// Adds [offset, offset + length) of `object`, rounded out to `block_size` (a power of two). Returns whether it may go
// ahead now; if not, a later overlap_remove() gives it.
bool overlap_add(struct overlap *overlap, struct overlap_range *range, uint16_t object,
                 uint64_t offset, uint64_t length, uint32_t block_size);

// Takes a range out (in flight or waiting). Returns the ranges that may go ahead because of it, earliest first, linked
// by `ready`; NULL where there are none.
struct overlap_range *overlap_remove(struct overlap *overlap, struct overlap_range *range);

unsigned overlap_count(const struct overlap *overlap);

#endif
