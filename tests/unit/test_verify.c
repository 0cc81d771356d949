// SPDX-License-Identifier: Apache-2.0
// The order of a verify: each block once, whatever is lost or late; what differs is named to the block; nothing but
// checks.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/end/verify.h"

#define MIB   (UINT64_C(1) << 20)
#define SIZE0 (20 * MIB + 5000)
#define SIZE1 (3 * MIB)
#define BLOCK ((uint64_t)CHECK_BLOCK_SIZE)

struct asked {
    struct verify_step step;
    uint64_t seq; // 0: not asked any more
};

struct world {
    struct verify *verify;
    int64_t now;
    uint64_t seq;
    struct asked asked[VERIFY_WINDOW];
    uint8_t differs[2][SIZE0 / 4096 + 1]; // the replica's blocks
    unsigned checks[2][SIZE0 / MIB + 1];
};

static struct world *make(void)
{
    static const uint64_t sizes[2] = {SIZE0, SIZE1};
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->now = 1;
    w->verify = verify_new(sizes, 2);
    assert_non_null(w->verify);
    return w;
}

static void destroy(struct world *w)
{
    verify_free(w->verify);
    free(w);
}

// Starts what may start; each check gets its seq at once.
static void ask(struct world *w)
{
    struct verify_step s;
    w->now += NS_PER_MS;
    while (verify_next(w->verify, w->now, &s)) {
        verify_began(w->verify, &s, w->now);
        unsigned i = 0;
        while (i < VERIFY_WINDOW && w->asked[i].seq &&
               (w->asked[i].step.offset != s.offset || w->asked[i].step.object != s.object))
            i++;
        assert_true(i < VERIFY_WINDOW);
        w->asked[i] = (struct asked){s, ++w->seq};
        w->checks[s.object][s.offset / MIB]++;
        verify_copied(w->verify, s.object, s.offset, w->seq);
    }
}

static void answer(struct world *w, struct asked *a)
{
    uint8_t bitmap[VERIFY_RANGE / CHECK_BLOCK_SIZE / 8] = {0};
    uint32_t blocks = (a->step.length + CHECK_BLOCK_SIZE - 1) / CHECK_BLOCK_SIZE;
    for (uint32_t i = 0; i < blocks; i++)
        bitmap[i / 8] |= (uint8_t)(w->differs[a->step.object][a->step.offset / BLOCK + i] << i % 8);
    verify_applied(w->verify, w->seq, w->now);
    verify_answer(w->verify, a->step.object, a->seq, a->step.offset, blocks, bitmap);
    a->seq = 0;
}

static void run(struct world *w, struct verify_result *ret_result)
{
    unsigned turns = 0;
    while (!verify_finished(w->verify, ret_result)) {
        assert_true(turns++ < 1000);
        ask(w);
        for (unsigned i = VERIFY_WINDOW; i-- > 0;) { // in another order than asked
            if (w->asked[i].seq)
                answer(w, &w->asked[i]);
        }
    }
    assert_false(verify_running(w->verify));
}

static void equal_volumes_are_compared_once(void **state)
{
    struct world *w = make();
    struct verify_result result;
    verify_start(w->verify, 3, w->now);
    run(w, &result);
    assert_int_equal(result.compared, SIZE0 + SIZE1);
    assert_int_equal(result.total, SIZE0 + SIZE1);
    assert_int_equal(result.differing_bytes + result.differing + result.range_count, 0);
    assert_int_equal(result.first_seq, 1);
    assert_int_equal(result.last_seq, w->seq);
    for (unsigned i = 0; i <= SIZE0 / MIB; i++)
        assert_int_equal(w->checks[0][i], 1);
    assert_false(verify_finished(w->verify, &result)); // told once
    destroy(w);
}

static void what_differs_is_named_to_the_block(void **state)
{
    struct world *w = make();
    struct verify_result result;
    w->differs[0][7] = w->differs[0][8] = 1;
    w->differs[0][255] = w->differs[0][256] = 1; // over the edge of two checks
    w->differs[0][SIZE0 / BLOCK] = 1;            // the last, shorter one
    w->differs[1][100] = 1;
    verify_start(w->verify, 3, w->now);
    run(w, &result);
    static const struct verify_range want[] = {
        {0, 7 * BLOCK, 2 * BLOCK},
        {0, 255 * BLOCK, 2 * BLOCK},
        {0, SIZE0 / BLOCK * BLOCK, SIZE0 % BLOCK},
        {1, 100 * BLOCK, BLOCK},
    };
    assert_int_equal(result.range_count, 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(result.ranges[i].object, want[i].object);
        assert_int_equal(result.ranges[i].offset, want[i].offset);
        assert_int_equal(result.ranges[i].length, want[i].length);
    }
    assert_int_equal(result.differing, 3);
    assert_int_equal(result.differing_bytes, 5 * BLOCK + SIZE0 % BLOCK);
    destroy(w);
}

static void the_list_is_bounded_and_the_count_is_not(void **state)
{
    struct world *w = make();
    struct verify_result result;
    for (unsigned i = 0; i < 4000; i += 2)
        w->differs[0][i] = 1;
    verify_start(w->verify, 1, w->now);
    run(w, &result);
    assert_int_equal(result.range_count, VERIFY_RANGES_MAX);
    assert_true(result.more);
    assert_int_equal(result.differing_bytes, 2000 * BLOCK);
    destroy(w);
}

static void lost_answers_are_asked_for_again(void **state)
{
    struct world *w = make();
    struct verify_result result;
    verify_start(w->verify, 2, w->now);
    ask(w);
    struct asked lost = w->asked[1];
    assert_int_equal(lost.step.offset, MIB);
    w->asked[1].seq = 0;
    answer(w, &w->asked[0]);
    answer(w, &w->asked[2]);
    assert_false(verify_finished(w->verify, &result));
    ask(w);
    assert_int_equal(w->checks[1][1], 1); // not yet
    w->now += VERIFY_ANSWER_NS;
    ask(w);
    assert_int_equal(w->checks[1][1], 2);
    // The late answer to the first one is of another position: it does not count.
    uint8_t different[VERIFY_RANGE / CHECK_BLOCK_SIZE / 8];
    memset(different, 0xff, sizeof(different));
    verify_answer(w->verify, 1, lost.seq, MIB, VERIFY_RANGE / CHECK_BLOCK_SIZE, different);
    run(w, &result);
    assert_int_equal(result.differing_bytes, 0);
    assert_int_equal(result.compared, SIZE1);
    destroy(w);
}

static void what_cannot_be_read_is_no_difference(void **state)
{
    struct world *w = make();
    struct verify_result result;
    struct verify_step s;
    verify_start(w->verify, 2, w->now);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(verify_next(w->verify, w->now, &s));
        verify_began(w->verify, &s, w->now);
        if (i == 1) { // there was no room: tried again, and then it cannot be read
            verify_again(w->verify, s.object, s.offset);
            assert_true(verify_next(w->verify, w->now, &s));
            assert_int_equal(s.offset, MIB);
            verify_began(w->verify, &s, w->now);
        }
        verify_copied(w->verify, s.object, s.offset, 0);
    }
    assert_true(verify_finished(w->verify, &result));
    assert_int_equal(result.unread_bytes, SIZE1);
    assert_int_equal(result.compared + result.differing_bytes, 0);
    destroy(w);
}

static void a_stopped_pass_forgets_its_answers(void **state)
{
    struct world *w = make();
    struct verify_result result;
    verify_start(w->verify, 3, w->now);
    ask(w);
    verify_start(w->verify, 0, w->now);
    assert_false(verify_running(w->verify));
    struct verify_step s;
    assert_false(verify_next(w->verify, w->now, &s));
    answer(w, &w->asked[0]);
    verify_copied(w->verify, 0, MIB, 99);
    assert_false(verify_finished(w->verify, &result));
    memset(w->asked, 0, sizeof(w->asked));
    verify_start(w->verify, 2, w->now);
    run(w, &result);
    assert_int_equal(result.compared, SIZE1);
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_volumes_are_compared_once),
        cmocka_unit_test(what_differs_is_named_to_the_block),
        cmocka_unit_test(the_list_is_bounded_and_the_count_is_not),
        cmocka_unit_test(lost_answers_are_asked_for_again),
        cmocka_unit_test(what_cannot_be_read_is_no_difference),
        cmocka_unit_test(a_stopped_pass_forgets_its_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
