// SPDX-License-Identifier: Apache-2.0
// The decision table of a meeting. docs/roles.md has it for people; test_docs.py holds the names together, and
// tests/unit/test_meet.c walks every rule, and every combination of facts.
#include "common/end/meet.h"

#include "common/base/cleanup.h"
#include "common/base/error.h"

#include "queues/epoch.h"

const char *meet_row_text(enum meet_row row)
{
    static const char *const texts[MEET_ROW_COUNT] = {
        [MEET_NONE] = "has not met its peer yet",
        [MEET_UNREADABLE] =
            "the state of one end is damaged: nothing is overwritten until the operator decides",
        [MEET_FIRST] = "both ends are empty: the Primary opens the first epoch and mirrors",
        [MEET_ONE_EMPTY] = "one end is empty: it is mirrored in full from the other",
        [MEET_RESUME] = "the passive end is on the active's line: the stream goes on where it was",
        [MEET_BY_MAP] = "the passive end is on the active's line, but what follows is no longer "
                        "queued: resync by map",
        [MEET_YIELD] = "the old active end yields to the one that took over: resync by map",
        [MEET_SPLIT] = "split: both ends have acknowledged on their own; the operator decides which one is kept",
        [MEET_HANDED] =
            "the end that was active stopped uncleanly and hands its role to the passive one",
        [MEET_NO_LEADER] = "neither end was active: waits for the operator (pairctl takeover)",
        [MEET_BUSY] = "one end is in the middle of a change",
    };
    return (unsigned)row < MEET_ROW_COUNT ? texts[row] : "?";
}

#define NEVER (FACT_UNREADABLE | FACT_STOPPED) // of the rules that make somebody lead

const struct meet_rule meet_rules[] = {
    {"unreadable", MEET_RELATIONS, FACT_UNREADABLE, 0, MEET_UNREADABLE},
    {"stopped", MEET_RELATIONS, FACT_STOPPED, FACT_UNREADABLE, MEET_NO_LEADER},

    {"both empty", MEET_BOTH_EMPTY, 0, NEVER, MEET_FIRST},
    {"one empty", MEET_EMPTY, FACT_LEADS, NEVER, MEET_ONE_EMPTY},
    {"one empty, the other was not active", MEET_EMPTY, 0, NEVER | FACT_LEADS, MEET_NO_LEADER},

    {"one epoch, both were active", MEET_SAME, FACT_BOTH, NEVER, MEET_SPLIT},
    {"one epoch, neither was active", MEET_SAME, 0, NEVER | FACT_LEADS, MEET_NO_LEADER},
    {"hands over", MEET_SAME, FACT_LEADS | FACT_HANDS, NEVER | FACT_BOTH, MEET_HANDED},

    {"on the line, and held", MEET_SAME | MEET_AHEAD, FACT_LEADS | FACT_ON_LINE | FACT_HELD,
     NEVER | FACT_BOTH | FACT_HANDS, MEET_RESUME},
    {"on the line, not held", MEET_SAME | MEET_AHEAD, FACT_LEADS | FACT_ON_LINE,
     NEVER | FACT_BOTH | FACT_HANDS | FACT_HELD, MEET_BY_MAP},
    {"the one ahead was not active", MEET_AHEAD, 0, NEVER | FACT_LEADS, MEET_NO_LEADER},
    {"off the line, nothing alone", MEET_AHEAD, FACT_LEADS, NEVER | FACT_ON_LINE | FACT_ALONE,
     MEET_YIELD},
    {"off the line, both on their own", MEET_AHEAD, FACT_LEADS | FACT_ALONE, NEVER | FACT_ON_LINE,
     MEET_SPLIT},
    {"neither contains the other", MEET_APART, 0, NEVER, MEET_SPLIT},
};
const unsigned meet_rule_count = ARRAY_LEN(meet_rules);

static bool is_empty(const struct frame_meet *m)
{
    return m->history.count == 0;
}

static bool may_lead(const struct frame_meet *m)
{
    return m->was_active || m->serving;
}

// What is compared: who is ahead, and what the table looks at.
struct view {
    enum meet_relation relation;
    const struct frame_meet *ahead, *other; // of BOTH_EMPTY and APART: primary and secondary
    unsigned facts;
};

static void find_relation(struct view *v, const struct frame_meet *p, const struct frame_meet *s)
{
    v->ahead = p;
    v->other = s;
    if (is_empty(p) && is_empty(s)) {
        v->relation = MEET_BOTH_EMPTY;
        return;
    }
    bool primary_ahead;
    if (is_empty(p) || is_empty(s)) {
        v->relation = MEET_EMPTY;
        primary_ahead = is_empty(s);
    } else {
        uint64_t at_p = history_current(&p->history)->id, at_s = history_current(&s->history)->id;
        v->relation = MEET_AHEAD;
        if (at_p == at_s)
            v->relation = MEET_SAME;
        else if (!history_contains(&p->history, at_s) && !history_contains(&s->history, at_p))
            v->relation = MEET_APART;
        primary_ahead = at_p == at_s ? may_lead(p) : history_contains(&p->history, at_s);
    }
    if (!primary_ahead && v->relation != MEET_APART) {
        v->ahead = s;
        v->other = p;
    }
}

// Whether the other one's position is on the line of the one ahead, and each step from there is known.
static enum history_line find_line(const struct view *v)
{
    if (v->relation == MEET_SAME)
        return ON_LINE_RESUME;
    if (v->relation != MEET_AHEAD)
        return OFF_LINE;
    uint64_t at = history_current(&v->other->history)->id;
    bool known = v->other->position != POSITION_UNKNOWN;
    return history_line_has(&v->ahead->history, at, known ? v->other->position : UINT64_MAX - 1);
}

static bool is_held(const struct view *v)
{
    uint64_t position = v->other->position;
    if (v->other->serving)
        return false; // what it has in flight may be on its store without being on any line
    // Who took over in the middle of a resync has every record and not what was to be resynced: at one position the two are
    // not equal for that, and only the map of the end that was active knows where.
    if (v->other->was_active && (v->other->pending || v->ahead->torn))
        return false;
    return v->ahead->held_from && position != POSITION_UNKNOWN &&
           v->ahead->held_from <= position + 1 && position <= v->ahead->position;
}

static unsigned find_facts(const struct view *v)
{
    const struct frame_meet *a = v->ahead, *o = v->other;
    bool same = v->relation == MEET_SAME;
    enum history_line line = find_line(v);
    unsigned facts = 0;
    facts |= a->unreadable || o->unreadable ? FACT_UNREADABLE : 0;
    facts |= a->stopped || o->stopped ? FACT_STOPPED : 0;
    facts |= may_lead(a) ? FACT_LEADS : 0;
    facts |= same && may_lead(a) && may_lead(o) ? FACT_BOTH : 0;
    facts |= same && may_lead(a) && a->hands_role && o->promotable ? FACT_HANDS : 0;
    facts |= line != OFF_LINE ? FACT_ON_LINE : 0;
    facts |= line == ON_LINE_RESUME && is_held(v) ? FACT_HELD : 0;
    facts |= may_lead(o) && o->alone ? FACT_ALONE : 0;
    return facts;
}

static const struct meet_rule *find_rule(const struct view *v)
{
    for (unsigned i = 0; i < meet_rule_count; i++) {
        const struct meet_rule *r = &meet_rules[i];
        if ((r->relations & v->relation) && (r->with & v->facts) == r->with &&
            !(r->without & v->facts))
            return r;
    }
    ENSURE(!"a meeting that no rule is for");
    return NULL;
}

struct meeting meet_decide(const struct frame_meet *p, const struct frame_meet *s)
{
    struct view v = {0};
    find_relation(&v, p, s);
    v.facts = find_facts(&v);
    const struct meet_rule *rule = find_rule(&v);
    struct meeting m = {.row = rule->row, .rule = rule->name};
    if (m.row == MEET_SPLIT || m.row == MEET_UNREADABLE || m.row == MEET_NO_LEADER)
        return m;
    // Who is ahead leads, but where it hands its role over.
    m.primary_leads = (v.ahead == p) == (m.row != MEET_HANDED);
    if (m.row == MEET_RESUME)
        m.stream_from = v.other->position + 1;
    return m;
}
