// SPDX-License-Identifier: Apache-2.0
// No silent merge: an end that begins to follow gives up nothing that it has acknowledged alone, but what lies on the line
// of the end that leads, or what an operator gave up when he resolved a split.
#include "tests/sim/sim.h"

// An operator has removed its directories.
void judge_given_up(struct host *h)
{
    for (uint32_t i = 1; i < h->sim->ledger.write_count; i++)
        if (h->sim->ledger.writes[i].host == h->index)
            h->sim->ledger.writes[i].alone = false;
}

void judge_follows(struct host *h, const struct end_state *state)
{
    struct sim *s = h->sim;
    bool begins = state->role == ROLE_PASSIVE && h->judged_role != ROLE_PASSIVE;
    bool by_name = state->salvage && state->salvage_cause == SALVAGE_RESOLVED;
    h->judged_role = state->role;
    if (!begins || by_name || state->history.truncated)
        return;
    for (uint32_t i = 1; i < s->ledger.write_count; i++) {
        const struct ledger_write *w = &s->ledger.writes[i];
        uint64_t fork;
        if (!w->alone || !w->acked || !w->epoch || w->host != h->index)
            continue;
        const struct epoch *e = &s->ledger.epochs[w->epoch - 1].epoch;
        if (history_fork(&state->history, e->id, &fork) && w->seq <= fork)
            continue;
        fail(s, "%c follows, and gives up write %u (epoch %u, seq %llu), which it has acknowledged alone", h->letter, i,
             e->number, (unsigned long long)w->seq);
        return;
    }
}
