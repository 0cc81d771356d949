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

void judge_roles(struct sim *s)
{
    struct host *p = &s->host[0], *q = &s->host[1];
    if (s->forced)
        return;
    judge_grant(s, p, q);
    judge_grant(s, q, p);
    if (visible(p) && visible(q))
        fail(s, "the public address is on at both ends");
    if (front_serves(p) && p->apps && front_serves(q) && q->apps)
        fail(s, "both ends serve");
}
