// SPDX-License-Identifier: Apache-2.0
// queues/epoch: histories survive encoding, bad ones are refused, and every question about a line
// is answered as by a model that follows the stream position by position.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "queues/epoch.h"

static struct epoch root(uint64_t id)
{
    return (struct epoch){.number = 1,
                          .id = id,
                          .first_seq = 1,
                          .opened_by = EPOCH_BY_PRIMARY,
                          .reason = EPOCH_FIRST_START};
}

static struct epoch child(const struct epoch *of, uint64_t id, uint64_t seq, uint64_t first_seq)
{
    return (struct epoch){.number = of->number + 1,
                          .id = id,
                          .parents = 1,
                          .parent = {{of->id, seq}},
                          .first_seq = first_seq,
                          .opened_by = EPOCH_BY_SECONDARY,
                          .reason = EPOCH_TAKEOVER,
                          .time = 77};
}

static struct epoch merged(const struct epoch_history *a, const struct epoch_history *b,
                           uint64_t id, uint64_t seq_a, uint64_t seq_b, uint64_t first_seq)
{
    const struct epoch *x = history_current(a);
    const struct epoch *y = history_current(b);
    struct epoch e = child(x, id, seq_a, first_seq);

    e.number = (x->number > y->number ? x->number : y->number) + 1;
    e.parents = 2;
    e.parent[1] = (struct epoch_parent){y->id, seq_b};
    e.reason = EPOCH_RESOLVE;
    return e;
}

// 1 (root) -> 2 (forked at 10) -> 3 (forked at 20)
static struct epoch_history three(void)
{
    struct epoch_history h = {0};
    struct epoch e = root(101);

    assert_null(history_append(&h, &e));
    e = child(&e, 102, 10, 11);
    assert_null(history_append(&h, &e));
    e = child(&e, 103, 20, 25);
    assert_null(history_append(&h, &e));
    return h;
}

static void a_line_is_followed_back(void **state)
{
    struct epoch_history h = three();
    uint64_t seq = 0;

    assert_int_equal(history_current(&h)->id, 103);
    assert_true(history_contains(&h, 101));
    assert_false(history_contains(&h, 104));
    assert_true(history_fork(&h, 103, &seq));
    assert_true(seq == UINT64_MAX);
    assert_true(history_fork(&h, 102, &seq));
    assert_int_equal(seq, 20);
    assert_true(history_fork(&h, 101, &seq));
    assert_int_equal(seq, 10);
    seq = 5;
    assert_false(history_fork(&h, 104, &seq));
    assert_int_equal(seq, 5);
    assert_int_equal(history_line_has(&h, 103, 1000), ON_LINE_RESUME);
    assert_int_equal(history_line_has(&h, 102, 20), ON_LINE_RESUME);
    assert_int_equal(history_line_has(&h, 102, 21), OFF_LINE);
    assert_int_equal(history_line_has(&h, 101, 10), ON_LINE_RESUME);
    assert_int_equal(history_line_has(&h, 101, 11), OFF_LINE);
    assert_int_equal(history_line_has(&h, 104, 1), OFF_LINE);
}

static void a_lost_queue_leaves_the_map(void **state)
{
    struct epoch_history h = three();
    struct epoch e = child(history_current(&h), 104, EPOCH_SEQ_UNKNOWN, 5000);
    uint64_t seq = 0;

    e.reason = EPOCH_LOST_QUEUE;
    assert_null(history_append(&h, &e));
    assert_true(history_fork(&h, 103, &seq));
    assert_true(seq == UINT64_MAX);
    assert_int_equal(history_line_has(&h, 103, 4000), ON_LINE_BY_MAP);
    assert_int_equal(history_line_has(&h, 102, 20), ON_LINE_BY_MAP);
    assert_int_equal(history_line_has(&h, 102, 21), OFF_LINE);
    assert_int_equal(history_line_has(&h, 104, 5000), ON_LINE_RESUME);
}

static void a_line_given_up_is_on_it_by_map(void **state)
{
    struct epoch_history a = three();
    struct epoch_history b = three();
    struct epoch e = child(history_current(&a), 200, 30, 31);
    uint64_t seq = 0;

    assert_null(history_append(&a, &e));
    e = child(history_current(&b), 300, 40, 41);
    assert_null(history_append(&b, &e));
    e = merged(&a, &b, 400, 50, EPOCH_SEQ_UNKNOWN, 60);
    assert_null(history_merge(&a, &b, &e));
    assert_int_equal(a.count, 6);
    assert_int_equal(history_line_has(&a, 103, 30), ON_LINE_RESUME);
    assert_int_equal(history_line_has(&a, 103, 40), ON_LINE_BY_MAP);
    assert_int_equal(history_line_has(&a, 103, 41), OFF_LINE);
    assert_int_equal(history_line_has(&a, 300, 999), ON_LINE_BY_MAP);
    assert_int_equal(history_line_has(&a, 200, 50), ON_LINE_RESUME);
    assert_int_equal(history_line_has(&a, 200, 51), OFF_LINE);
    assert_true(history_fork(&a, 103, &seq));
    assert_int_equal(seq, 40);
}

static void broken_histories_are_refused(void **state)
{
    struct epoch_history h = three();
    struct epoch_history bad;
    struct epoch e;

    e = child(&h.epochs[1], 110, 20, 30);
    assert_non_null(history_append(&h, &e)); // not a child of the current one
    e = child(&h.epochs[2], 102, 30, 31);
    assert_non_null(history_append(&h, &e)); // known id
    e = child(&h.epochs[2], 110, 31, 31);
    assert_non_null(history_append(&h, &e)); // begins inside its parent
    e = child(&h.epochs[2], 110, EPOCH_SEQ_UNKNOWN, 25);
    assert_non_null(history_append(&h, &e)); // first seq does not rise
    assert_int_equal(h.count, 3);
    assert_null(history_invalid(&h));

    bad = h;
    bad.epochs[0] = h.epochs[1];
    bad.epochs[1] = h.epochs[0];
    assert_non_null(history_invalid(&bad)); // order
    bad = h;
    bad.epochs[1].number = 1;
    assert_non_null(history_invalid(&bad));
    bad = h;
    bad.epochs[2].parent[0].id = 101;
    assert_non_null(history_invalid(&bad)); // 102 leads nowhere
    bad = h;
    bad.epochs[0].id = 999;
    assert_non_null(history_invalid(&bad)); // missing parent
    bad.truncated = true;
    assert_non_null(history_invalid(&bad)); // and 999 leads nowhere
    bad = h;
    bad.count = HISTORY_EPOCHS_MAX + 1;
    assert_non_null(history_invalid(&bad));
    e = child(&h.epochs[2], 7, 30, 31);
    bad = (struct epoch_history){0};
    assert_non_null(history_append(&bad, &e)); // a history begins with a root
}

static void disagreeing_histories_do_not_merge(void **state)
{
    struct epoch_history a = three();
    struct epoch_history b = three();
    struct epoch e = child(history_current(&b), 300, 40, 41);

    b.epochs[0].time = 4;
    assert_null(history_append(&b, &e));
    e = merged(&a, &b, 400, 50, EPOCH_SEQ_UNKNOWN, 60);
    assert_non_null(history_merge(&a, &b, &e));
    assert_int_equal(a.count, 3);
}

static void the_oldest_make_room(void **state)
{
    struct epoch_history h = {0};
    struct epoch e = root(1);
    uint64_t seq = 0;

    assert_null(history_append(&h, &e));
    for (uint64_t i = 2; i <= 200; i++) {
        e = child(&e, i, i * 10, i * 10 + 1);
        assert_null(history_append(&h, &e));
    }
    assert_int_equal(h.count, HISTORY_EPOCHS_MAX);
    assert_true(h.truncated);
    assert_null(history_invalid(&h));
    assert_int_equal(history_line_has(&h, 200, 9999), ON_LINE_RESUME);
    assert_int_equal(history_line_has(&h, 137, 1380), ON_LINE_RESUME);
    assert_int_equal(history_line_has(&h, 137, 1381), OFF_LINE);
    assert_false(history_fork(&h, 136, &seq));
}

static bool epochs_equal(const struct epoch_history *a, const struct epoch_history *b)
{
    static uint8_t x[HISTORY_ENCODED_MAX];
    static uint8_t y[HISTORY_ENCODED_MAX];
    size_t size = history_encode(a, x);
    return size == history_encode(b, y) && memcmp(x, y, size) == 0;
}

static void damaged_bytes_give_a_valid_history_or_none(void **state)
{
    static uint8_t bytes[HISTORY_ENCODED_MAX];
    struct epoch_history h = three();
    struct epoch_history back;
    size_t size = history_encode(&h, bytes);

    assert_null(history_decode(bytes, size, &back));
    assert_true(epochs_equal(&h, &back));
    for (size_t cut = 0; cut < size; cut++)
        assert_non_null(history_decode(bytes, cut, &back));
    for (size_t bit = 0; bit < size * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        if (!history_decode(bytes, size, &back))
            assert_null(history_invalid(&back));
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    }
    struct epoch_history none = {0};
    size = history_encode(&none, bytes);
    assert_null(history_decode(bytes, size, &back));
    assert_int_equal(back.count, 0);
    assert_null(history_current(&back));
}

static void an_epoch_survives_encoding(void **state)
{
    uint8_t bytes[EPOCH_ENCODED_SIZE];
    struct epoch r = root(9);
    struct epoch e = child(&r, 10, EPOCH_SEQ_UNKNOWN, 500);
    struct epoch back;

    epoch_encode(&e, bytes);
    assert_null(epoch_decode(bytes, sizeof(bytes), &back));
    assert_int_equal(back.id, 10);
    assert_int_equal(back.parent[0].id, 9);
    assert_true(back.parent[0].seq == EPOCH_SEQ_UNKNOWN);
    assert_int_equal(back.time, 77);
    assert_non_null(epoch_decode(bytes, sizeof(bytes) - 1, &back));
    assert_string_equal(epoch_reason_name(back.reason), "takeover");
    assert_string_equal(epoch_opener_name(back.opened_by), "secondary");
}

// The model: for each line, which positions (epoch, seq) it went through, one by one.
#define SEQS   120
#define EPOCHS 14

struct line {
    struct epoch_history history;
    bool resume[EPOCHS][SEQS];
    bool map[EPOCHS][SEQS];
    bool sticky[EPOCHS][SEQS]; // behind a lost queue: no later fork takes these off the line again
};

static unsigned model_random(unsigned *seed, unsigned below)
{
    *seed = *seed * 1103515245U + 12345U;
    return (*seed >> 8) % below;
}

// What is left of a line when only what lies at or before `upto` in its current epoch goes on.
static void line_cut(struct line *line, uint64_t upto, bool resumable)
{
    for (unsigned e = 0; e < EPOCHS; e++)
        for (uint64_t s = 0; s < SEQS; s++) {
            bool in = upto == EPOCH_SEQ_UNKNOWN || s <= upto;
            line->resume[e][s] = line->resume[e][s] && in && resumable;
            line->sticky[e][s] |= upto == EPOCH_SEQ_UNKNOWN && line->map[e][s];
            line->map[e][s] = line->map[e][s] && (in || line->sticky[e][s]);
        }
}

static void line_open(struct line *line, unsigned id)
{
    for (uint64_t s = 0; s < SEQS; s++)
        line->resume[id][s] = line->map[id][s] = true;
}

static void line_check(const struct line *line, unsigned seed)
{
    for (unsigned e = 1; e < EPOCHS; e++) {
        uint64_t fork = 0;
        bool known = history_fork(&line->history, e, &fork);
        for (uint64_t s = 1; s < SEQS; s++) {
            enum history_line want = line->resume[e][s] ? ON_LINE_RESUME
                                     : line->map[e][s]  ? ON_LINE_BY_MAP
                                                        : OFF_LINE;
            if (history_line_has(&line->history, e, s) != want)
                fail_msg("seed %u: position (%u, %u)", seed, e, (unsigned)s);
            assert_int_equal(known && s <= fork, line->map[e][s]);
        }
    }
}

static void model_child(struct line *line, unsigned id, unsigned *seed)
{
    const struct epoch *of = history_current(&line->history);
    bool unknown = model_random(seed, 5) == 0;
    // Now and then the line forks before records that the parent itself had opened with.
    uint64_t seq = of->first_seq - 1 + model_random(seed, 6);
    struct epoch e = child(of, id, unknown ? EPOCH_SEQ_UNKNOWN : seq, seq + 2);

    assert_null(history_append(&line->history, &e));
    line_cut(line, e.parent[0].seq, !unknown);
    line_open(line, id);
}

static void model_merge(struct line *line, struct line *other, unsigned id, unsigned *seed)
{
    uint64_t a = history_current(&line->history)->first_seq + model_random(seed, 5);
    uint64_t b = history_current(&other->history)->first_seq + model_random(seed, 5);
    bool unknown = model_random(seed, 2);
    struct epoch e = merged(&line->history, &other->history, id, a, unknown ? EPOCH_SEQ_UNKNOWN : b,
                            (a > b ? a : b) + 1);

    assert_null(history_merge(&line->history, &other->history, &e));
    line_cut(line, a, true);
    line_cut(other, e.parent[1].seq, false);
    for (unsigned x = 0; x < EPOCHS; x++)
        for (unsigned s = 0; s < SEQS; s++)
            line->map[x][s] |= other->map[x][s];
    for (unsigned x = 0; x < EPOCHS; x++)
        for (unsigned s = 0; s < SEQS; s++)
            line->sticky[x][s] |= other->sticky[x][s];
    line_open(line, id);
    *other = *line;
}

static void random_trees_agree_with_the_model(void **state)
{
    static struct line lines[2];

    for (unsigned round = 1; round <= 300; round++) {
        unsigned seed = round;
        memset(lines, 0, sizeof(lines));
        struct epoch e = root(1);
        assert_null(history_append(&lines[0].history, &e));
        line_open(&lines[0], 1);
        lines[1] = lines[0];
        for (unsigned id = 2; id < EPOCHS; id++) {
            unsigned who = model_random(&seed, 2);
            struct line *line = &lines[who];
            struct line *other = &lines[!who];
            bool apart =
                history_current(&line->history)->id != history_current(&other->history)->id;
            if (apart && model_random(&seed, 4) == 0)
                model_merge(line, other, id, &seed);
            else
                model_child(line, id, &seed);
            line_check(&lines[0], round);
            line_check(&lines[1], round);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_is_followed_back),
        cmocka_unit_test(a_lost_queue_leaves_the_map),
        cmocka_unit_test(a_line_given_up_is_on_it_by_map),
        cmocka_unit_test(broken_histories_are_refused),
        cmocka_unit_test(disagreeing_histories_do_not_merge),
        cmocka_unit_test(the_oldest_make_room),
        cmocka_unit_test(damaged_bytes_give_a_valid_history_or_none),
        cmocka_unit_test(an_epoch_survives_encoding),
        cmocka_unit_test(random_trees_agree_with_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
