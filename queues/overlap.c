// SPDX-License-Identifier: Apache-2.0
// Every range, in flight or waiting, is in the table once: a narrow one (within one region of 64
// KiB) in the bucket of its region, any other one in the list of the wide ones. A range counts the
// earlier ones that it overlaps; when one of those leaves, it is counted down; at zero it may go
// ahead.
//
// Invariants:
//   1. a range's `blockers` is the number of ranges in the table that overlap it and have a lower
//      `order`;
//   2. so two ranges without blockers never overlap, and the earliest range never waits.
//
// A narrow range is compared with its bucket and the wide list; a wide one with the buckets of its
// regions, or with all of them where that is less. With small updates, the case that must be fast,
// the wide list is nearly empty.
#include "queues/overlap.h"

#include <stdlib.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

#define REGION_BITS 16
#define BUCKETS     1024
#define BLOCK_LIMIT 65536U

struct overlap {
    struct overlap_range *buckets[BUCKETS];
    struct overlap_range *wide;
    uint64_t order; // of the newest range
    unsigned count;
};

struct overlap *overlap_new(void)
{
    return calloc(1, sizeof(struct overlap));
}

struct overlap *overlap_free(struct overlap *overlap)
{
    free(overlap);
    return NULL;
}

static struct overlap_range **bucket_of(struct overlap *o, uint16_t object, uint64_t region)
{
    uint64_t hash = (region * 64 + object) * UINT64_C(0x9e3779b97f4a7c15);
    return &o->buckets[hash >> 54];
}
_Static_assert(BUCKETS == 1 << (64 - 54), "the hash gives the index of a bucket");

static bool overlaps(const struct overlap_range *a, const struct overlap_range *b)
{
    return a->object == b->object && a->first < b->end && b->first < a->end;
}

// Calls visit() for every range that overlaps `range`, itself aside. A bucket may hold ranges of
// several regions, and be that of several regions of a wide range: `last` keeps those from being
// visited twice.
typedef void visit_fn(struct overlap_range *other, struct overlap_range *range, void *user);

static void visit_list(struct overlap_range *list, struct overlap_range *range, visit_fn *visit,
                       void *user)
{
    for (struct overlap_range *other = list; other; other = other->next) {
        if (other != range && overlaps(other, range))
            visit(other, range, user);
    }
}

static void visit_region(struct overlap *o, uint64_t region, struct overlap_range *range,
                         visit_fn *visit, void *user)
{
    for (struct overlap_range *other = *bucket_of(o, range->object, region); other;
         other = other->next) {
        if (other != range && other->first >> REGION_BITS == region && overlaps(other, range))
            visit(other, range, user);
    }
}

static void visit_all(struct overlap *o, struct overlap_range *range, visit_fn *visit, void *user)
{
    uint64_t first = range->first >> REGION_BITS;
    uint64_t last = (range->end - 1) >> REGION_BITS;
    visit_list(o->wide, range, visit, user);
    if (last - first < BUCKETS) {
        for (uint64_t region = first; region <= last; region++)
            visit_region(o, region, range, visit, user);
        return;
    }
    for (unsigned i = 0; i < BUCKETS; i++)
        visit_list(o->buckets[i], range, visit, user);
}

static void count_blocker(struct overlap_range *other, struct overlap_range *range, void *user)
{
    ENSURE(other->order < range->order);
    range->blockers++;
}

bool overlap_add(struct overlap *o, struct overlap_range *range, uint16_t object, uint64_t offset,
                 uint64_t length, uint32_t block_size)
{
    ENSURE(block_size != 0 && (block_size & (block_size - 1)) == 0 && block_size <= BLOCK_LIMIT);
    ENSURE(length != 0 && offset <= INT64_MAX && length <= INT64_MAX - offset);
    uint64_t mask = block_size - 1;
    range->object = object;
    range->first = offset & ~mask;
    range->end = (offset + length + mask) & ~mask;
    range->order = ++o->order;
    range->blockers = 0;
    range->ready = NULL;
    range->wide = range->first >> REGION_BITS != (range->end - 1) >> REGION_BITS;
    visit_all(o, range, count_blocker, NULL);

    struct overlap_range **head =
        range->wide ? &o->wide : bucket_of(o, object, range->first >> REGION_BITS);
    range->next = *head;
    range->link = head;
    if (range->next)
        range->next->link = &range->next;
    *head = range;
    o->count++;
    return range->blockers == 0;
}

// Keeps the list of those that may go ahead in order of arrival: it is short.
static void uncount_blocker(struct overlap_range *other, struct overlap_range *range, void *user)
{
    struct overlap_range **at = user;
    if (other->order < range->order)
        return;
    ENSURE(other->blockers > 0);
    if (--other->blockers > 0)
        return;
    while (*at && (*at)->order < other->order)
        at = &(*at)->ready;
    other->ready = *at;
    *at = other;
}

struct overlap_range *overlap_remove(struct overlap *o, struct overlap_range *range)
{
    ENSURE(o->count > 0 && *range->link == range);
    struct overlap_range *ready = NULL;
    *range->link = range->next;
    if (range->next)
        range->next->link = range->link;
    o->count--;
    visit_all(o, range, uncount_blocker, &ready);
    return ready;
}

unsigned overlap_count(const struct overlap *overlap)
{
    return overlap->count;
}
