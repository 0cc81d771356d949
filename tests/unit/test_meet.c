// SPDX-License-Identifier: Apache-2.0
// common/end/meet: the decision table. Every rule is met by facts of its kind, by its name; every combination of facts
// that can be has exactly one rule; and both ends come to the same decision, whoever is which.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/end/meet.h"

// ---- histories ----

static struct epoch epoch_of(uint64_t id, uint64_t parent, uint64_t fork, uint64_t first)
{
    struct epoch e = {
        .number = (uint32_t)(id % 10),
        .id = id,
        .parents = parent ? 1 : 0,
        .first_seq = first,
        .opened_by = EPOCH_BY_PRIMARY,
        .reason = parent ? EPOCH_TAKEOVER : EPOCH_FIRST_START,
    };
    e.parent[0] = (struct epoch_parent){parent, fork};
    return e;
}

// 1: seqs 1 to ...; 12: its child, forked at 100; 22: another child, forked at 50; 33: a child of 12 that lost its queue.
static struct epoch_history history_at(uint64_t id)
{
    static const struct {
        uint64_t id, parent, fork, first;
    } all[] = {{1, 0, 0, 1}, {12, 1, 100, 101}, {22, 1, 50, 51}, {33, 12, EPOCH_SEQ_UNKNOWN, 5000}};
    struct epoch_history h = {0};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        bool on_the_way = all[i].id == id || all[i].id == 1 || (id == 33 && all[i].id == 12);
        if (!id || !on_the_way)
            continue;
        struct epoch e = epoch_of(all[i].id, all[i].parent, all[i].fork, all[i].first);
        assert_null(history_append(&h, &e));
    }
    return h;
}

// ---- one case for each rule, from the Primary's side as the one ahead ----

struct side {
    uint64_t epoch; // 0: empty
    uint64_t position;
    uint64_t held_from;
    bool active, alone, unreadable, stopped, hands, promotable, pending, torn;
};

static const struct {
    const char *rule;
    struct side ahead, other;
    bool ahead_leads;
    uint64_t stream_from;
} cases[] = {
    {"unreadable", {.epoch = 1, .active = true}, {.unreadable = true}, false, 0},
    {"unreadable", {.epoch = 1, .stopped = true}, {.unreadable = true}, false, 0},
    {"stopped", {.epoch = 1, .active = true}, {.epoch = 1, .stopped = true}, false, 0},
    {"both empty", {0}, {0}, true, 0},
    {"one empty", {.epoch = 1, .active = true}, {0}, true, 0},
    {"one empty, the other was not active", {.epoch = 1}, {0}, false, 0},
    {"one epoch, both were active", {.epoch = 1, .active = true}, {.epoch = 1, .active = true}, false, 0},
    {"one epoch, neither was active", {.epoch = 1}, {.epoch = 1}, false, 0},
    {"hands over", {.epoch = 1, .active = true, .hands = true}, {.epoch = 1, .promotable = true}, false, 0},
    {"on the line, and held",
     {.epoch = 1, .active = true, .position = 90, .held_from = 31},
     {.epoch = 1, .position = 30},
     true,
     31},
    {"on the line, and held", // over an epoch that was opened behind it
     {.epoch = 12, .active = true, .position = 190, .held_from = 60},
     {.epoch = 1, .position = 100},
     true,
     101},
    {"on the line, not held",
     {.epoch = 1, .active = true, .position = 90, .held_from = 32},
     {.epoch = 1, .position = 30},
     true,
     0},
    {"on the line, not held", {.epoch = 1, .active = true, .position = 90}, {.epoch = 1, .position = 30}, true, 0},
    {"on the line, not held",
     {.epoch = 1, .active = true, .position = 90, .held_from = 1},
     {.epoch = 1, .position = POSITION_UNKNOWN},
     true,
     0},
    {"on the line, not held", // that end had to resync the one ahead, which was told to serve without it
     {.epoch = 12, .active = true, .position = 190, .held_from = 60},
     {.epoch = 1, .active = true, .position = 100, .pending = true},
     true,
     0},
    {"on the line, not held", // or the one ahead has lost something since
     {.epoch = 12, .active = true, .position = 190, .held_from = 60, .torn = true},
     {.epoch = 1, .active = true, .position = 100},
     true,
     0},
    {"on the line, and held", // an end that was not active has what it was sent
     {.epoch = 12, .active = true, .position = 190, .held_from = 60, .torn = true},
     {.epoch = 1, .position = 100},
     true,
     101},
    {"on the line, not held", // where a queue was lost only the map knows
     {.epoch = 33, .active = true, .position = 6000, .held_from = 1},
     {.epoch = 12, .position = 4000},
     true,
     0},
    {"the one ahead was not active", {.epoch = 12}, {.epoch = 1, .active = true, .position = 40}, false, 0},
    {"off the line, nothing alone",
     {.epoch = 12, .active = true, .position = 150},
     {.epoch = 1, .active = true, .position = 120},
     true,
     0},
    {"off the line, nothing alone",
     {.epoch = 12, .active = true, .position = 150},
     {.epoch = 1, .active = true, .position = POSITION_UNKNOWN},
     true,
     0},
    {"off the line, both on their own",
     {.epoch = 12, .active = true, .position = 150},
     {.epoch = 1, .active = true, .alone = true, .position = POSITION_UNKNOWN},
     false,
     0},
    {"neither contains the other", {.epoch = 12, .active = true}, {.epoch = 22, .active = true}, false, 0},
    {"neither contains the other", {.epoch = 33}, {.epoch = 22, .active = true, .alone = true}, false, 0},
};

static struct frame_meet meet_of(const struct side *side)
{
    return (struct frame_meet){
        .unreadable = side->unreadable,
        .was_active = side->active,
        .serving = side->active && side->held_from,
        .alone = side->alone,
        .stopped = side->stopped,
        .hands_role = side->hands,
        .promotable = side->promotable,
        .held_from = side->held_from,
        .position = side->position,
        .pending = side->pending,
        .torn = side->torn,
        .history = history_at(side->epoch),
    };
}

static void every_rule_by_its_name(void **state)
{
    (void)state;
    bool met[64] = {false};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct frame_meet ahead = meet_of(&cases[i].ahead), other = meet_of(&cases[i].other);
        struct meeting m = meet_decide(&ahead, &other), n = meet_decide(&other, &ahead);
        assert_string_equal(m.rule, cases[i].rule);
        assert_string_equal(n.rule, cases[i].rule);
        assert_int_equal(m.row, n.row);
        assert_int_equal(m.stream_from, cases[i].stream_from);
        assert_int_equal(n.stream_from, cases[i].stream_from);
        bool leads = m.row != MEET_SPLIT && m.row != MEET_NO_LEADER && m.row != MEET_UNREADABLE;
        if (m.row == MEET_FIRST) { // always the Primary
            assert_true(m.primary_leads && n.primary_leads);
        } else if (leads) {
            assert_int_equal(m.primary_leads, cases[i].ahead_leads);
            assert_int_equal(n.primary_leads, !cases[i].ahead_leads);
        }
        for (unsigned r = 0; r < meet_rule_count; r++)
            met[r] = met[r] || strcmp(meet_rules[r].name, m.rule) == 0;
    }
    for (unsigned r = 0; r < meet_rule_count; r++)
        if (!met[r])
            fail_msg("no case for the rule \"%s\"", meet_rules[r].name);
}

// What find_facts() cannot say together.
static bool impossible(unsigned relation, unsigned facts)
{
    bool same = relation == MEET_SAME;
    bool histories = same || relation == MEET_AHEAD;
    return ((facts & (FACT_BOTH | FACT_HANDS)) && (!same || !(facts & FACT_LEADS))) ||
           (same && !(facts & FACT_ON_LINE)) || (!histories && (facts & FACT_ON_LINE)) ||
           ((facts & FACT_HELD) && !(facts & FACT_ON_LINE));
}

static void exactly_one_rule_for_all_that_can_be(void **state)
{
    (void)state;
    for (unsigned relation = 1; relation <= MEET_RELATIONS; relation <<= 1)
        for (unsigned facts = 0; facts <= MEET_FACTS; facts++) {
            unsigned rules = 0;
            for (unsigned r = 0; r < meet_rule_count; r++) {
                const struct meet_rule *rule = &meet_rules[r];
                assert_int_equal(rule->with & rule->without, 0);
                rules += (rule->relations & relation) && (rule->with & facts) == rule->with &&
                         !(rule->without & facts);
            }
            if (!impossible(relation, facts) && rules != 1)
                fail_msg("relation %#x, facts %#x: %u rules", relation, facts, rules);
        }
}

// Nobody is made to lead who was not active, and never over an end that has acknowledged alone off the line.
static void no_silent_merge(void **state)
{
    (void)state;
    for (unsigned r = 0; r < meet_rule_count; r++) {
        const struct meet_rule *rule = &meet_rules[r];
        bool somebody = rule->row == MEET_ONE_EMPTY || rule->row == MEET_RESUME ||
                        rule->row == MEET_BY_MAP || rule->row == MEET_YIELD || rule->row == MEET_HANDED;
        if (somebody)
            assert_true(rule->with & FACT_LEADS);
        if (somebody && (rule->relations & MEET_AHEAD) && !(rule->with & FACT_ON_LINE))
            assert_true(rule->without & FACT_ALONE);
        if (somebody || rule->row == MEET_FIRST)
            assert_int_equal(rule->relations & MEET_APART, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule_by_its_name),
        cmocka_unit_test(exactly_one_rule_for_all_that_can_be),
        cmocka_unit_test(no_silent_merge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
