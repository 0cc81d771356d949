// SPDX-License-Identifier: Apache-2.0
// The grant: the active end's permission, a short lease, for the passive one to take over by itself
// (DESIGN §6).
//
// Invariant: when grant_out() is false on the active end, grant_held() is false on the passive one.
// A yes runs for T + D from the moment at which the passive end *sent* the heartbeat that it
// answers, by its own clock; the active end counts from the later moment at which it answered, and
// adds a margin for clocks that drift.
#include "common/end/end_private.h"

bool grant_relied(const struct end *e)
{
    bool serving = e->state == END_ACTIVE || (e->state == END_HANDING_OVER && !e->hand.stop);
    return serving && e->relation == REL_PAIRED && session_streaming(e) && e->st.pending == 0 && !e->st.alone &&
           !e->paused && !(e->peer.flags & FRAME_FAILED);
}

// E2.
bool grant_may_say_yes(const struct end *e)
{
    // Also on the way to a switchover, as long as it can be given up: if this end dies there, the
    // peer takes over.
    bool serving = e->state == END_ACTIVE ||
                   (e->state == END_HANDING_OVER && !e->hand.stop && e->hand.stage < HAND_SAVE);
    // It would have to be given up at once.
    bool lasts = e->now < e->peer.proven_ns + e->config.timeout_ns - e->config.margin_ns;
    return lasts && serving && grant_relied(e) && !e->terminating && !e->frozen && !e->freezing &&
           e->config.automatic && e->config.has_waypoint && !e->save_failed && !e->data.unguarded &&
           !(e->peer.flags & FRAME_PAUSED); // it would not use it, and this end would tell of a peer that may take over
}

void grant_said(struct end *e, enum frame_answer answer, uint64_t number)
{
    if (answer != ANSWER_YES)
        return;
    ENSURE(grant_may_say_yes(e));
    e->given.out = true;
    e->given.yes_number = number;
    e->given.yes_ns = e->now;
}

void grant_confirmed(struct end *e)
{
    e->given.out = false;
}

int64_t grant_out_until(const struct end *e)
{
    return e->given.yes_ns + e->config.timeout_ns + e->config.decision_ns +
           e->config.margin_ns;
}

bool grant_out(const struct end *e)
{
    return e->given.out && e->now < grant_out_until(e);
}

// While a grant may be out: until T - margin after the sending of the last echoed heartbeat, or as
// long as a waypoint answers without a gap (then the passive end, which asks for the public
// address, sees that it is in use).
int64_t grant_lease(const struct end *e)
{
    if (!e->given.out)
        return INT64_MAX;
    int64_t peer = e->peer.proven_ns + e->config.timeout_ns - e->config.margin_ns;
    int64_t waypoint = 0;
    if (e->data.waypoint_ns)
        waypoint = e->data.waypoint_ns + END_ASK_NS + END_GAP_NS;
    int64_t lease = MAX(peer, waypoint);
    // The time of the grant is over. That counts only if the lease held until then: who was not
    // scheduled meanwhile has not seen whether the peer took over.
    if (!grant_out(e) && lease >= grant_out_until(e))
        return INT64_MAX;
    return lease;
}

// An operator may make the peer active while this end is not scheduled, once it has heard nothing for T. No guard acts on
// it: a daemon that died goes on as active.
int64_t grant_none_lease(const struct end *e)
{
    return e->turned_ns + e->config.timeout_ns - e->config.margin_ns;
}

void grant_take(struct end *e, const struct frame_beat *beat)
{
    if (beat->answer == ANSWER_NONE || !e->session.number)
        return;
    // Answers are ordered by (session, number): an older one never replaces a newer one. A no of another session is not
    // confirmed in this one: a restarted active end has counted anew, and would take it for the answer to a later no.
    if (e->held.session != e->session.number)
        e->held.honoured = 0;
    else if (beat->number <= e->held.number)
        return;
    e->held.session = e->session.number;
    e->held.number = beat->number;
    if (beat->answer == ANSWER_NO) {
        grant_drop(e);
        e->held.honoured = beat->number;
        return;
    }
    bool usable = e->state == END_PASSIVE && end_promotable(e) && !e->terminating && !e->data.full &&
                  beat->echo_sent_ns <= e->now;
    if (!usable)
        return;
    e->held.until_ns = beat->echo_sent_ns + e->config.timeout_ns + e->config.decision_ns;
    e->held.ended_ns = 0;
}

void grant_drop(struct end *e)
{
    if (e->held.until_ns && !e->held.ended_ns)
        e->held.ended_ns = MIN(e->now, e->held.until_ns);
    if (e->held.until_ns)
        e->held.ran_out = e->now >= e->held.until_ns;
    e->held.until_ns = 0;
}

bool grant_held(const struct end *e)
{
    return e->held.until_ns && e->now < e->held.until_ns;
}
