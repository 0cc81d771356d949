// SPDX-License-Identifier: Apache-2.0
// No silent merge: an end that begins to follow gives up nothing that it has acknowledged alone, but what lies on the line
// of the end that leads, or what an operator gave up when he resolved a split. And whom a resolved split keeps: the end that
// the operator named, with all that it had acknowledged.
#include "tests/sim/sim.h"

#include <stdlib.h>

// Who was active, and knows of something that was left to resync, is not resumed at a position: that says nothing of it.
void judge_met(struct host *h)
{
    struct end_state *saved = calloc(1, sizeof(*saved));
    ENSURE(saved);
    cover_meet(h->view.met_rule);
    bool follows = h->view.met == MEET_RESUME && h->view.state == END_PASSIVE;
    if (follows && state_peek(h, saved) && saved->role == ROLE_ACTIVE && saved->pending)
        fail(h->sim, "%c was active, had something left to resync, and is resumed", h->letter);
    free(saved);
}

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

// ---- the side that is kept ----

static const struct epoch_parent *parent_of(const struct epoch *e, uint64_t id)
{
    for (unsigned i = 0; i < e->parents; i++)
        if (e->parent[i].id == id)
            return &e->parent[i];
    return NULL;
}

// Its state is about to be saved.
void judge_resolves(struct host *h, const struct end_state *state)
{
    struct sim *s = h->sim;
    const struct epoch *now = history_current(&state->history);
    uint64_t former = h->judged_epoch;
    h->judged_epoch = now ? now->id : 0;
    if (!now || now->reason != EPOCH_RESOLVE || ledger_find(s, now->id) >= 0)
        return;
    if (!(h->named_to_keep))
        fail(s, "%c is kept after a split, and nobody has said so", h->letter);
    const struct epoch_parent *parent = parent_of(now, former);
    if (!former)
        return; // its state was damaged: it goes on from its store
    if (!parent) {
        fail(s, "%c is kept after a split, and its line is not a parent of the new epoch", h->letter);
        return;
    }
    for (uint32_t i = 1; i < s->ledger.write_count; i++) {
        const struct ledger_write *w = &s->ledger.writes[i];
        if (w->acked && w->epoch && w->host == h->index && s->ledger.epochs[w->epoch - 1].epoch.id == former &&
            parent->seq != EPOCH_SEQ_UNKNOWN && w->seq > parent->seq)
            fail(s, "%c is kept after a split, but not write %u (seq %llu), which it has acknowledged: the new epoch forks "
                    "at %llu", h->letter, i, (unsigned long long)w->seq, (unsigned long long)parent->seq);
    }
}
