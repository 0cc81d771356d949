// SPDX-License-Identifier: Apache-2.0
// The start rule (DESIGN §6 "Start"): whether an end goes on as what it was, or is passive and waits for its peer.
#include "common/end/end_private.h"

// In `async` answers go on while the epoch of going alone is being saved. Killed before that was durable, the end finds its
// epoch in the queue alone. Nobody else has heard of it: it is made durable before anything else, and the queue goes on.
static void take_opening(struct end *e)
{
    const struct end_start *s = &e->start;
    const struct epoch *at = history_current(&e->st.history), *opening = &s->queue_opening;
    bool was_alone = e->st.role == ROLE_ACTIVE && e->st.intent == INTENT_NONE && e->st.alone;
    if (!was_alone || !at || !s->same_boot || !s->queue_found || opening->id != s->queue_epoch ||
        !epoch_goes_on(opening, at) || s->queue_numbered + 1 < opening->first_seq)
        return;
    const char *broken = history_append(&e->st.history, opening);
    if (broken) {
        end_note(e, "the epoch of the unsafe queue does not fit: %s", broken);
        return;
    }
    e->opening_ticket = end_save(e);
    end_note(e, "the unsafe queue has the epoch that was being opened: it is gone on with");
}

void start_take(struct end *e, const struct end_event *ev)
{
    const struct end_start *s = &ev->start;
    e->start = *s;
    e->start.state = NULL;
    e->started = true;
    e->unreadable = s->state_unreadable;
    if (s->state)
        e->st = *s->state;
    bool doubtful = end_doubt_salvage(&e->st, s->maps_damaged) ||
                    (e->st.salvage && e->st.salvage_cause == SALVAGE_DOUBTFUL);
    map_start(e);
    if (doubtful)
        end_save(e);
    if (e->st.role == ROLE_ACTIVE && !e->st.clean && !s->same_boot && e->st.torn != end_all_volumes(e)) {
        e->st.torn = end_all_volumes(e); // what its host had not written out
        end_save(e);
    }
    if (e->st.intent == INTENT_TAKEOVER)
        e->st.intent = INTENT_NONE; // its epoch was not opened: void
    take_opening(e);
    // What the operator has stopped stays so until he resumes it, even in the same boot.
    bool stopped = e->st.stopped;
    e->state_since_ns = e->now;
    bool was_active = e->st.role == ROLE_ACTIVE && e->st.intent == INTENT_NONE;
    int64_t lease = s->echo_sent_ns + e->config.timeout_ns - e->config.margin_ns;
    // An end that had stopped for a shutdown was not watched either, whatever grant was out.
    bool no_grant = e->st.alone || (s->unwatched && !e->st.clean);
    bool in_time = no_grant || (s->echo_sent_ns && e->now < lease);
    if (was_active && !stopped && take_may_recover(e) && !s->guard_acted && in_time) {
        // A yes may have been given up to this moment.
        e->given = (struct given_grant){.out = !no_grant, .yes_ns = e->now};
        e->peer.echo_sent_ns = e->peer.proven_ns = s->echo_sent_ns;
        e->relation = e->st.alone ? REL_ALONE : REL_PAIRED;
        // Asked on again: the former run may have been cut off before it was.
        take_begin(e, EPOCH_FIRST_START, false);
        return;
    }
    e->frozen = was_active && s->same_boot && s->guard_acted;
    e->strict_hand = was_active && !e->st.alone && !e->st.clean && !s->same_boot && e->config.mode == END_STRICT;
    end_address(e, false);
    if (!e->frozen)
        end_act(e, ACT_DESTROY);
    if (s->replica_failed)
        e->replica = REPLICA_DEAD;
    end_note(e, "started %s", was_active && !stopped ? "passive: was active, waits for its peer" : "passive");
    if (stopped)
        end_go(e, END_STOPPED, "stopped by the operator before this start");
}
