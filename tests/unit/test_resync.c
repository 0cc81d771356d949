// SPDX-License-Identifier: Apache-2.0
// The order of a resync: goes over what the map says, once; ends whatever is written; goes on with
// what is left.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/end/resync.h"
#include "queues/intent.h"

#define MIB  (UINT64_C(1) << 20)
#define SIZE (64 * MIB)

struct world {
    struct intent *map[2];
    struct resync *resync;
    int64_t now;
    uint64_t seq;
    unsigned begun, ended, checks, coarse;
    uint64_t checked; // bytes, once where they are doubted
};

static bool map_next(void *user, uint16_t object, uint64_t from, uint64_t max, uint64_t *offset,
                     uint64_t *length)
{
    struct world *w = user;
    return intent_next(w->map[object], from, max, offset, length);
}

static uint64_t map_bytes(void *user, uint16_t object, uint64_t from)
{
    struct world *w = user;
    return intent_bytes(w->map[object], from);
}

static void make(struct world *w)
{
    static const uint64_t sizes[2] = {SIZE, SIZE};
    *w = (struct world){.now = 1};
    for (unsigned i = 0; i < 2; i++) {
        struct intent_config config = {.pair = 1, .volume = i, .size = SIZE, .region = INTENT_REGION};
        w->map[i] = intent_new(&config);
        assert_non_null(w->map[i]);
    }
    struct resync_map map = {map_next, map_bytes, w};
    w->resync = resync_new(sizes, 2, &map);
    assert_non_null(w->resync);
}

static void destroy(struct world *w)
{
    resync_free(w->resync);
    intent_free(w->map[0]);
    intent_free(w->map[1]);
}

// Carries a step out; a check is answered with "all equal", or (differs) with "all different", at
// once.
static bool step(struct world *w, bool differs)
{
    struct resync_step s;
    uint8_t bitmap[RESYNC_RANGE / CHECK_BLOCK_SIZE / 8];
    w->now += NS_PER_MS;
    if (!resync_next(w->resync, w->now, &s))
        return false;
    resync_began(w->resync, &s, w->now);
    switch (s.kind) {
    case RESYNC_BEGIN:
        w->begun++;
        break;
    case RESYNC_END:
        w->ended++;
        break;
    case RESYNC_CHECK:
        w->checks++;
        w->coarse += s.coarse;
        w->checked += s.coarse && differs ? 0 : s.length;
        resync_copied(w->resync, s.object, s.offset, s.length, ++w->seq);
        memset(bitmap, differs ? 0xff : 0, sizeof(bitmap));
        resync_answer(w->resync, s.object, w->seq, s.offset, s.length / CHECK_BLOCK_SIZE, bitmap);
        break;
    case RESYNC_CHUNK:
        resync_copied(w->resync, s.object, s.offset, s.length, ++w->seq);
        break;
    }
    return true;
}

// Only what is set is looked at, and only what differs is sent.
static void only_what_is_set(void **state)
{
    (void)state;
    struct world w;
    struct resync_progress p;
    make(&w);
    (void)intent_set(w.map[0], 3 * MIB, 4096);
    (void)intent_set(w.map[0], 40 * MIB, 2 * MIB);
    (void)intent_set(w.map[1], SIZE - 1, 1);
    resync_start(w.resync, 3, w.now);
    resync_progress(w.resync, &p);
    assert_int_equal(p.total, 2 * MIB + 2 * INTENT_REGION);
    while (step(&w, true))
        ;
    assert_int_equal(w.begun, 2);
    assert_int_equal(w.ended, 2);
    assert_int_equal(w.checked, 2 * MIB + 2 * INTENT_REGION);
    resync_progress(w.resync, &p);
    assert_int_equal(p.done, p.total);
    assert_int_equal(p.sent, p.total);
    assert_false(resync_running(w.resync));
    destroy(&w);
}

// The floor never passes a range that is under way, nor a volume that is still to be done.
static void the_floor_is_behind_everything_under_way(void **state)
{
    (void)state;
    struct world w;
    struct resync_step s;
    uint8_t equal[RESYNC_RANGE / CHECK_BLOCK_SIZE / 8] = {0};
    make(&w);
    intent_fill(w.map[0]);
    assert_int_equal(resync_floor(w.resync, 0), UINT64_MAX);
    resync_start(w.resync, 3, w.now);
    assert_int_equal(resync_floor(w.resync, 0), 0);
    assert_true(step(&w, false));
    for (uint64_t i = 0; i < 3; i++) {
        assert_true(resync_next(w.resync, w.now, &s));
        resync_began(w.resync, &s, w.now);
        resync_copied(w.resync, 0, s.offset, s.length, i + 1);
    }
    resync_answer(w.resync, 0, 2, MIB, 256, equal);
    assert_int_equal(resync_floor(w.resync, 0), 0);
    resync_answer(w.resync, 0, 1, 0, 256, equal);
    assert_int_equal(resync_floor(w.resync, 0), 2 * MIB);
    assert_int_equal(resync_floor(w.resync, 1), 0);
    resync_answer(w.resync, 0, 3, 2 * MIB, 256, equal);
    while (step(&w, false))
        ;
    assert_int_equal(resync_floor(w.resync, 0), UINT64_MAX);
    assert_int_equal(resync_floor(w.resync, 1), UINT64_MAX);
    destroy(&w);
}

// Asks for the next step, which is a check, and answers that all of it differs.
static void differs_as_a_whole(struct world *w, struct resync_step *ret_step)
{
    uint8_t all[RESYNC_RANGE / CHECK_BLOCK_SIZE / 8];
    memset(all, 0xff, sizeof(all));
    assert_true(resync_next(w->resync, w->now, ret_step));
    assert_int_equal(ret_step->kind, RESYNC_CHECK);
    resync_began(w->resync, ret_step, w->now);
    resync_copied(w->resync, 0, ret_step->offset, ret_step->length, ++w->seq);
    resync_answer(w->resync, 0, w->seq, ret_step->offset,
                  (ret_step->length + CHECK_BLOCK_SIZE - 1) / CHECK_BLOCK_SIZE, all);
}

// What differs is in front of the floor until it is copied, and is copied again where a copy was given up.
static void what_is_being_sent_is_not_done(void **state)
{
    (void)state;
    struct world w;
    struct resync_step s, again;
    make(&w);
    (void)intent_set(w.map[0], 0, INTENT_REGION);
    resync_start(w.resync, 1, w.now);
    assert_true(step(&w, false)); // the beginning
    differs_as_a_whole(&w, &s);
    if (s.coarse)
        differs_as_a_whole(&w, &s);
    while (resync_next(w.resync, w.now, &s) && s.kind != RESYNC_CHUNK) // more checks: there are none
        fail();
    assert_int_equal(s.offset, 0);
    assert_int_equal(resync_floor(w.resync, 0), 0);
    resync_began(w.resync, &s, w.now);
    assert_int_equal(resync_floor(w.resync, 0), 0);
    resync_again(w.resync, 0, s.offset);
    assert_true(resync_next(w.resync, w.now, &again));
    assert_int_equal(again.kind, RESYNC_CHUNK);
    assert_int_equal(again.offset, s.offset);
    assert_int_equal(again.length, s.length);
    while (step(&w, true))
        ;
    assert_int_equal(w.ended, 1);
    struct resync_progress p;
    resync_progress(w.resync, &p);
    assert_int_equal(p.sent, INTENT_REGION);
    destroy(&w);
}

// A range that cannot be checked as a whole is sent block by block, and what cannot be read of it is said.
static void what_cannot_be_checked_is_sent(void **state)
{
    (void)state;
    struct world w;
    struct resync_step s;
    struct resync_progress p;
    make(&w);
    (void)intent_set(w.map[0], 0, INTENT_REGION);
    resync_start(w.resync, 1, w.now);
    assert_true(step(&w, false));
    assert_true(resync_next(w.resync, w.now, &s));
    resync_began(w.resync, &s, w.now);
    resync_copied(w.resync, 0, s.offset, s.length, 0);
    while (step(&w, true))
        ;
    resync_progress(w.resync, &p);
    assert_int_equal(p.sent + p.unread, INTENT_REGION);
    assert_int_equal(w.ended, 1);
    destroy(&w);
}

// Also where the volume does not end with a block.
static void the_last_partial_block_is_sent(void **state)
{
    (void)state;
    const uint64_t size = 2 * CHECK_BLOCK_SIZE + 512;
    struct world w = {.now = 1, .resync = resync_new(&size, 1, NULL)};
    struct resync_step s;
    struct resync_progress p;
    assert_non_null(w.resync);
    resync_start(w.resync, 1, w.now);
    assert_true(step(&w, false));
    differs_as_a_whole(&w, &s);
    if (s.coarse)
        differs_as_a_whole(&w, &s);
    while (step(&w, true))
        ;
    resync_progress(w.resync, &p);
    assert_int_equal(p.sent, size);
    assert_int_equal(w.ended, 1);
    resync_free(w.resync);
}

// However much is written meanwhile, the volume is gone over once.
static void it_ends_under_any_load(void **state)
{
    (void)state;
    struct world w;
    unsigned steps = 0;
    make(&w);
    intent_fill(w.map[0]);
    resync_start(w.resync, 1, w.now);
    while (step(&w, true)) {
        (void)intent_set(w.map[0], 0, SIZE);
        assert_true(++steps < 1000);
    }
    assert_int_equal(w.ended, 1);
    assert_int_equal(w.checked, SIZE);
    destroy(&w);
}

// Who begins again goes on with what has not been cleared meanwhile.
static void a_second_run_goes_on_with_what_is_left(void **state)
{
    (void)state;
    struct world w;
    make(&w);
    intent_fill(w.map[0]);
    resync_start(w.resync, 1, w.now);
    for (unsigned i = 0; i < 40; i++)
        assert_true(step(&w, false));
    uint64_t floor = resync_floor(w.resync, 0);
    assert_true(floor >= 30 * MIB);
    intent_generation(w.map[0]);
    (void)intent_clear_untouched(w.map[0], floor);
    resync_start(w.resync, 0, w.now); // the session ends
    w.checked = 0;
    resync_start(w.resync, 1, w.now);
    while (step(&w, false))
        ;
    assert_int_equal(w.checked, SIZE - floor);
    destroy(&w);
}

// Carries a step out; of a volume that is equal but for block `block` of MiB `mib`.
static bool step_of_one(struct world *w, uint64_t mib, unsigned block)
{
    struct resync_step s;
    uint8_t bitmap[RESYNC_RANGE / CHECK_BLOCK_SIZE / 8] = {0};
    w->now += NS_PER_MS;
    if (!resync_next(w->resync, w->now, &s))
        return false;
    resync_began(w->resync, &s, w->now);
    if (s.kind == RESYNC_CHECK || s.kind == RESYNC_CHUNK)
        resync_copied(w->resync, s.object, s.offset, s.length, ++w->seq);
    if (s.kind == RESYNC_CHUNK) {
        assert_int_equal(s.offset, mib * MIB + block * CHECK_BLOCK_SIZE);
        assert_int_equal(s.length, CHECK_BLOCK_SIZE);
    }
    if (s.kind != RESYNC_CHECK)
        return true;
    w->checks += !s.coarse;
    w->coarse += s.coarse;
    w->checked += s.length;
    uint64_t at = mib * MIB + block * CHECK_BLOCK_SIZE;
    unsigned unit = s.coarse ? CHECK_COARSE_SIZE / CHECK_BLOCK_SIZE : 1;
    for (unsigned i = 0; at >= s.offset && at < s.offset + s.length && i < unit; i++) {
        unsigned bit = (unsigned)((at - s.offset) / CHECK_BLOCK_SIZE) / unit * unit + i;
        bitmap[bit / 8] |= (uint8_t)(1U << bit % 8);
    }
    resync_answer(w->resync, s.object, w->seq, s.offset, s.length / CHECK_BLOCK_SIZE, bitmap);
    return true;
}

// Where most is equal, ranges are checked coarsely; of them only what is not equal is checked by block, and no more is sent.
static void what_is_equal_is_checked_coarsely(void **state)
{
    (void)state;
    struct world w;
    struct resync_progress p;
    make(&w);
    intent_fill(w.map[0]);
    resync_start(w.resync, 1, w.now);
    while (step_of_one(&w, 50, 77))
        ;
    assert_int_equal(w.coarse, SIZE / MIB);
    assert_int_equal(w.checks, 1);
    assert_int_equal(w.checked, SIZE + CHECK_COARSE_SIZE);
    resync_progress(w.resync, &p);
    assert_int_equal(p.sent, CHECK_BLOCK_SIZE);
    assert_int_equal(p.done, SIZE);
    destroy(&w);
}

// Where most differs, hardly any is: each would be made once more by block.
static void what_differs_is_checked_by_block(void **state)
{
    (void)state;
    struct world w;
    make(&w);
    intent_fill(w.map[0]);
    resync_start(w.resync, 1, w.now);
    while (step(&w, true))
        ;
    assert_true(w.coarse > 0 && w.coarse < 8);
    assert_int_equal(w.checks, SIZE / MIB + w.coarse);
    destroy(&w);
}

// A coarse check whose answer was lost is asked again as it was, and a late answer to the first one counts for nothing.
static void a_lost_answer_is_asked_for_again(void **state)
{
    (void)state;
    struct world w;
    struct resync_step s;
    uint8_t differs[RESYNC_RANGE / CHECK_BLOCK_SIZE / 8], equal[sizeof(differs)] = {0};
    memset(differs, 0xff, sizeof(differs));
    make(&w);
    (void)intent_set(w.map[0], 0, MIB);
    resync_start(w.resync, 1, w.now);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(resync_next(w.resync, w.now, &s));
        resync_began(w.resync, &s, w.now);
    }
    assert_true(s.kind == RESYNC_CHECK && s.coarse);
    resync_copied(w.resync, 0, 0, RESYNC_RANGE, 1);
    resync_applied(w.resync, 1, w.now);
    assert_false(resync_next(w.resync, w.now, &s));
    w.now += RESYNC_ANSWER_NS;
    assert_true(resync_next(w.resync, w.now, &s));
    assert_true(s.kind == RESYNC_CHECK && s.coarse && s.length == RESYNC_RANGE);
    resync_began(w.resync, &s, w.now);
    resync_copied(w.resync, 0, 0, RESYNC_RANGE, 2);
    resync_answer(w.resync, 0, 1, 0, RESYNC_RANGE / CHECK_BLOCK_SIZE, equal);
    assert_int_equal(resync_floor(w.resync, 0), 0);
    resync_answer(w.resync, 0, 2, 0, RESYNC_RANGE / CHECK_BLOCK_SIZE, differs);
    assert_true(resync_next(w.resync, w.now, &s)); // not sent: by block first
    assert_true(s.kind == RESYNC_CHECK && !s.coarse);
    destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_set),
        cmocka_unit_test(the_floor_is_behind_everything_under_way),
        cmocka_unit_test(what_is_being_sent_is_not_done),
        cmocka_unit_test(what_cannot_be_checked_is_sent),
        cmocka_unit_test(the_last_partial_block_is_sent),
        cmocka_unit_test(it_ends_under_any_load),
        cmocka_unit_test(a_second_run_goes_on_with_what_is_left),
        cmocka_unit_test(what_is_equal_is_checked_coarsely),
        cmocka_unit_test(what_differs_is_checked_by_block),
        cmocka_unit_test(a_lost_answer_is_asked_for_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
