// SPDX-License-Identifier: Apache-2.0
// Overlap: against a model that compares each range with every other one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "queues/overlap.h"

#define RANGES 200

struct entry {
    struct overlap_range range;
    bool used, going;
    uint16_t object;
    uint64_t first, last; // blocks
    uint64_t order;
};

struct model {
    struct overlap *overlap;
    struct entry entries[RANGES];
    uint64_t random, order;
    unsigned held;
};

static uint64_t rnd(struct model *m, uint64_t below)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return m->random % below;
}

static bool blocked(const struct model *m, const struct entry *e)
{
    for (unsigned i = 0; i < RANGES; i++) {
        const struct entry *o = &m->entries[i];
        if (o != e && o->used && o->order < e->order && o->object == e->object &&
            o->first <= e->last && e->first <= o->last)
            return true;
    }
    return false;
}

static void add(struct model *m, struct entry *e)
{
    static const uint64_t lengths[] = {1, 512, 4096, 65536, 1 << 20, UINT64_C(1) << 32};
    uint32_t block_size = 4096;
    uint64_t length = 1 + rnd(m, lengths[rnd(m, 6)]);
    // Two neighbourhoods far apart whose regions may share buckets; some at the very end of what is
    // possible.
    uint64_t offset = rnd(m, 3) * (UINT64_C(1) << 40) + rnd(m, 4 << 20);
    if (rnd(m, 50) == 0)
        offset = INT64_MAX - length;
    *e = (struct entry){.used = true,
                        .object = (uint16_t)rnd(m, 2),
                        .first = offset / block_size,
                        .last = (offset + length - 1) / block_size,
                        .order = ++m->order};
    e->range.owner = e;
    e->going = overlap_add(m->overlap, &e->range, e->object, offset, length, block_size);
    assert_int_equal(e->going, !blocked(m, e));
    m->held += !e->going;
}

static void take_away(struct model *m, struct entry *e)
{
    e->used = false;
    uint64_t order = 0;
    for (struct overlap_range *r = overlap_remove(m->overlap, &e->range); r; r = r->ready) {
        struct entry *ready = r->owner;
        assert_true(ready->used && !ready->going && !blocked(m, ready));
        assert_true(ready->order > order); // earliest first
        order = ready->order;
        ready->going = true;
    }
}

static void test_model(void **state)
{
    struct model *m = calloc(1, sizeof(*m));
    m->overlap = overlap_new();
    m->random = 1234567;
    for (unsigned i = 0; i < 30000; i++) {
        struct entry *e = &m->entries[rnd(m, RANGES)];
        if (!e->used)
            add(m, e);
        else if (e->going || rnd(m, 20) == 0) // also some that never got to go
            take_away(m, e);
        if (i % 64 == 0) {
            for (unsigned j = 0; j < RANGES; j++) {
                if (m->entries[j].used)
                    assert_int_equal(m->entries[j].going, !blocked(m, &m->entries[j]));
            }
        }
    }
    assert_true(m->held > 1000);
    for (unsigned i = 0; i < RANGES; i++) {
        if (m->entries[i].used)
            take_away(m, &m->entries[i]);
    }
    assert_int_equal(overlap_count(m->overlap), 0);
    overlap_free(m->overlap);
    free(m);
}

// Ranges that share no byte, but a block.
static void test_rounding(void **state)
{
    struct overlap *o = overlap_new();
    struct overlap_range a = {0}, b = {0}, c = {0};
    assert_true(overlap_add(o, &a, 0, 4096, 512, 4096));
    assert_true(overlap_add(o, &b, 0, 8192, 512, 4096));
    assert_false(overlap_add(o, &c, 0, 8191, 1, 4096));
    assert_ptr_equal(overlap_remove(o, &a), &c);
    overlap_free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
