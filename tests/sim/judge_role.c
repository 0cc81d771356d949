// SPDX-License-Identifier: Apache-2.0
// Judges of roles: one public address, one end that serves, no grant that its giver does not know of.
#include "tests/sim/sim.h"

static bool visible(const struct host *h)
{
    return h->up && h->address && h->paused_until <= h->sim->now;
}

static void judge_grant(struct sim *s, const struct host *passive, const struct host *active)
{
    bool holds = passive->running && !passive->view.active && passive->view.grant_until_ns &&
                 passive->view.state == END_PASSIVE &&
                 local_now(passive) < passive->view.grant_until_ns;
    bool denies = active->running && active->view.active && !active->view.granted;
    if (holds && denies)
        fail(s, "%c holds a grant, and %c believes that none is out", passive->letter,
             active->letter);
}

// What the active end calls synchronized in a session is not inconsistent at the other end of it, once that has replayed
// what it holds: a resync's marks among it, which a restarted end passes again.
static void judge_synchronized(struct sim *s, const struct host *active, const struct host *passive)
{
    const struct end_view *a = &active->view, *p = &passive->view;
    struct replica_stats st;
    bool says = active->running && passive->running && a->active && a->synchronized && a->session &&
                a->session == p->session && p->state == END_PASSIVE;
    if (says && p->inconsistent && stream_stats(passive, &st) && !st.failure && st.applied == st.received)
        fail(s, "%c says synchronized, and %c is inconsistent", active->letter, passive->letter);
    if (passive->running && p->promotable && p->inconsistent)
        fail(s, "%c is inconsistent, and promotable", passive->letter);
}

// The queue that a killed daemon has left whole is gone on with, even where the epoch of going alone, in which it numbers, was
// still being saved: there is nothing to resync.
void judge_opens(struct host *h, const struct end_action *a)
{
    const struct end_start *start = &h->start;
    bool anew = !a->recover && a->epoch.reason == EPOCH_LOST_QUEUE && start->same_boot && start->queue_found;
    int at = anew && !h->sim->forced ? ledger_find(h->sim, start->queue_epoch) : -1;
    if (at < 0)
        return;
    const struct epoch *left = &h->sim->ledger.epochs[at].epoch;
    bool unsaved = left->reason == EPOCH_ALONE && left->opened_by == a->epoch.opened_by && left->id != a->epoch.parent[0].id &&
                   left->parent[0].id == a->epoch.parent[0].id;
    if (unsaved)
        fail(h->sim, "%c gives up the queue of epoch %u, which was being saved", h->letter, left->number);
}

void judge_roles(struct sim *s)
{
    struct host *p = &s->host[0], *q = &s->host[1];
    judge_synchronized(s, p, q);
    judge_synchronized(s, q, p);
    if (s->forced)
        return;
    judge_grant(s, p, q);
    judge_grant(s, q, p);
    if (visible(p) && visible(q))
        fail(s, "the public address is on at both ends");
    if (front_serves(p) && p->apps && front_serves(q) && q->apps)
        fail(s, "both ends serve");
}
