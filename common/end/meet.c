// SPDX-License-Identifier: Apache-2.0
// The decision table of a meeting (DESIGN §5), in the order of the page.
#include "common/end/meet.h"

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
                        "queued: full resync",
        [MEET_YIELD] = "the old active end yields to the one that took over: full resync",
        [MEET_SPLIT] = "split: both ends have acknowledged on their own; the operator decides which one is kept",
        [MEET_HANDED] =
            "the end that was active stopped uncleanly and hands its role to the passive one",
        [MEET_NO_LEADER] = "neither end was active: waits for the operator (pairctl takeover)",
        [MEET_BUSY] = "one end is in the middle of a change",
    };
    return (unsigned)row < MEET_ROW_COUNT ? texts[row] : "?";
}

static bool is_empty(const struct frame_meet *m)
{
    return m->history.count == 0;
}

static bool may_lead(const struct frame_meet *m)
{
    return m->was_active || m->serving;
}

static struct meeting row(enum meet_row r, bool primary_leads)
{
    return (struct meeting){.row = r, .primary_leads = primary_leads};
}

// The follower's position is known to be on the leader's line.
static struct meeting on_line(bool primary_leads, const struct frame_meet *leader,
                              const struct frame_meet *follower, bool resumable)
{
    struct meeting m = row(MEET_BY_MAP, primary_leads);
    bool held = leader->held_from && follower->position != POSITION_UNKNOWN &&
                leader->held_from <= follower->position + 1 &&
                follower->position <= leader->position;
    if (resumable && held) {
        m.row = MEET_RESUME;
        m.stream_from = follower->position + 1;
    }
    return m;
}

// Both are in the same epoch: one of them opened it, or neither is active.
static struct meeting same_epoch(const struct frame_meet *p, const struct frame_meet *s)
{
    if (may_lead(p) && may_lead(s))
        return row(MEET_SPLIT, false);
    if (!may_lead(p) && !may_lead(s))
        return row(MEET_NO_LEADER, false);
    bool primary_leads = may_lead(p);
    const struct frame_meet *leader = primary_leads ? p : s, *follower = primary_leads ? s : p;
    if (leader->hands_role && follower->promotable)
        return row(MEET_HANDED, !primary_leads);
    return on_line(primary_leads, leader, follower, true);
}

// The leader's history goes on from the follower's epoch.
static struct meeting ahead(bool primary_leads, const struct frame_meet *leader,
                            const struct frame_meet *follower)
{
    if (!may_lead(leader))
        return row(MEET_NO_LEADER, false);
    const struct epoch *at = history_current(&follower->history);
    enum history_line line = OFF_LINE;
    if (follower->position != POSITION_UNKNOWN)
        line = history_line_has(&leader->history, at->id, follower->position);
    else
        line = history_line_has(&leader->history, at->id, UINT64_MAX - 1);
    if (line != OFF_LINE)
        return on_line(primary_leads, leader, follower, line == ON_LINE_RESUME);
    if (!may_lead(follower) || !follower->alone)
        return row(MEET_YIELD, primary_leads);
    return row(MEET_SPLIT, false);
}

struct meeting meet_decide(const struct frame_meet *p, const struct frame_meet *s)
{
    if (p->unreadable || s->unreadable)
        return row(MEET_UNREADABLE, false);
    if (p->stopped || s->stopped)
        return row(MEET_NO_LEADER, false);
    if (is_empty(p) && is_empty(s))
        return row(MEET_FIRST, true);
    if (is_empty(p) || is_empty(s)) {
        bool primary_leads = is_empty(s);
        const struct frame_meet *leader = primary_leads ? p : s;
        return may_lead(leader) ? row(MEET_ONE_EMPTY, primary_leads) : row(MEET_NO_LEADER, false);
    }
    uint64_t at_p = history_current(&p->history)->id, at_s = history_current(&s->history)->id;
    if (at_p == at_s)
        return same_epoch(p, s);
    if (history_contains(&p->history, at_s))
        return ahead(true, p, s);
    if (history_contains(&s->history, at_p))
        return ahead(false, s, p);
    return row(MEET_SPLIT, false);
}
