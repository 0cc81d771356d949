// SPDX-License-Identifier: Apache-2.0
// The active end: paired, going alone, alone, joining again; and stepping down.
//
//   PAIRED --(the peer cannot be relied on)--> GOING_ALONE --(no grant is out; epoch durable)-->
//   ALONE
//      ^            it can again, early  <--------+ |
//      +------(durable has caught up; `paired` durable)------ JOINING <--(synchronized, little
//      lag)+
#include "common/end/end_private.h"

#include <stdio.h>

#define LAG_SMALL_NS (10 * NS_PER_S)

// Why the peer cannot be relied on; NULL when it can.
static const char *alone_reason(const struct end *e)
{
    int64_t t = e->config.timeout_ns;
    if (e->paused)
        return "paused by the operator";
    if (e->peer.gone)
        return "the peer's daemon was stopped";
    // A run that has just gone on for a former one has that one's echo at most, and not heard anybody itself.
    bool fresh_run = e->peer.run == 0 && e->now - MAX(e->peer.echo_sent_ns, e->state_since_ns) < t;
    if (!peer_heard(e) && !fresh_run)
        return "the peer is silent";
    if (e->peer.flags & FRAME_FAILED)
        return "the peer cannot write its replica or its queue";
    if (e->st.held)
        return "the peer's replica differs from this end's data";
    if (e->st.pending)
        return "the peer's replica needs a resync";
    if (!session_streaming(e))
        return e->now - MAX(e->session.since_ns, e->state_since_ns) >= t
                   ? "no stream to the peer stands"
                   : NULL;
    if (e->data.stream_ns && e->now - e->data.stream_ns >= t)
        return "no data path to the peer has stood for the heartbeat timeout";
    if (e->data.waiting_ns && e->now - e->data.waiting_ns >= t && e->now - e->data.moved_ns >= t)
        return "the peer has made nothing durable for the heartbeat timeout";
    // In `async` no answer waits for it.
    if (e->data.lagging && e->now - MAX(e->data.moved_ns, MAX(e->session.since_ns, e->state_since_ns)) >= t)
        return "the peer takes nothing, and has made nothing durable for the heartbeat timeout";
    if (e->data.lagging && e->config.alone_when_slow)
        return "the link is too slow";
    return NULL;
}

void active_go_alone(struct end *e, const char *why, ...)
{
    va_list args;
    va_start(args, why);
    (void)vsnprintf(e->alone_why, sizeof(e->alone_why), why, args);
    va_end(args);
    if (e->relation != REL_PAIRED && e->relation != REL_JOINING)
        return;
    if (e->relation == REL_JOINING && e->st.alone) {
        // `paired` was never durable, nothing was granted: alone as before.
        e->relation = REL_ALONE;
        end_gate(e, GATE_ALONE);
        return;
    }
    e->relation = REL_GOING_ALONE;
    e->alone_stage = ALONE_WAIT;
    end_note(e, "going alone: %s", e->alone_why);
    beat_soon(e); // says no
}

static void open_alone_epoch(struct end *e)
{
    const struct epoch *parent = history_current(&e->st.history);
    struct epoch epoch = {
        .number = parent->number + 1,
        .id = end_random(e),
        .parents = 1,
        .parent = {{parent->id, e->gate_numbered}},
        .first_seq = e->gate_numbered + 1,
        .opened_by = e->config.primary ? EPOCH_BY_PRIMARY : EPOCH_BY_SECONDARY,
        .reason = e->resolve.opening ? EPOCH_RESOLVE : EPOCH_ALONE,
    };
    const char *broken = resolve_append(e, &epoch);
    if (broken)
        end_note(e, "epoch refused: %s", broken);
    ENSURE(!broken);
    e->st.alone = true;
    e->session.proposed = 0; // what it told of this end is not so any more
    e->join_ticket = end_save(e);
}

// In `async` `alone` is durable, and the epoch follows: until then nobody is told of it. A crash before that leaves it in the
// queue alone, and the next run makes it durable (take_opening() in start.c). Where a split is resolved the queue could not
// tell all of it, the other line, and answers are held in every mode.
static bool answers_wait(const struct end *e)
{
    return e->config.mode != END_ASYNC || e->resolve.opening;
}

static bool going_alone_rules(struct end *e)
{
    switch (e->alone_stage) {
    case ALONE_WAIT:
        if (!alone_reason(e)) {
            e->relation = REL_PAIRED;
            end_note(e, "paired as before");
            return true;
        }
        if (grant_out(e) || e->gate_pending)
            return false;
        e->given.out = false;
        if (e->config.mode == END_ASYNC && !e->st.alone) {
            e->st.alone = true;
            e->join_ticket = end_save(e);
            e->alone_stage = ALONE_SAY;
            return true;
        }
        e->alone_stage = ALONE_HOLD;
        end_gate(e, GATE_HELD);
        return true;
    case ALONE_SAY:
        if (!end_saved(e, e->join_ticket))
            return false;
        e->alone_stage = ALONE_HOLD;
        end_gate(e, GATE_HELD);
        return true;
    case ALONE_HOLD:
        if (e->gate_pending)
            return false;
        open_alone_epoch(e);
        e->alone_stage = ALONE_SAVE;
        return true;
    case ALONE_SAVE:
        // E3, E6: the epoch is durable before the first acknowledgement alone.
        if (e->gate_pending || (answers_wait(e) && !end_saved(e, e->join_ticket)))
            return false;
        if (!end_saved(e, e->join_ticket)) {
            e->opening_ticket = e->join_ticket;
            end_act(e, ACT_WITHHOLD)->seq = history_current(&e->st.history)->first_seq;
        }
        end_act(e, ACT_EPOCH)->epoch = *history_current(&e->st.history);
        e->relation = REL_ALONE;
        e->lag_ns = e->now;
        end_gate(e, GATE_ALONE);
        end_note(e, "alone: %s", e->alone_why);
        if (e->resolve.opening) {
            e->resolve.opening = false;
            if (e->operation.name && e->operation.result == STEP_PENDING)
                end_operation(e, e->operation.name, STEP_DONE, "this end is kept; the other one follows");
            session_end(e, "the split is resolved"); // and meets again, ahead
        }
        return true;
    }
    return false;
}

static bool may_join(struct end *e)
{
    if (alone_reason(e) || !session_streaming(e) || e->data.lagging || e->gate_pending ||
        e->terminating) {
        e->lag_ns = e->now;
        return false;
    }
    // After the link was too slow: only when the lag has stayed small.
    return !e->config.alone_when_slow || e->now - e->lag_ns >= LAG_SMALL_NS;
}

static bool joining_rules(struct end *e)
{
    const char *reason = alone_reason(e);
    if (reason) {
        active_go_alone(e, "%s", reason);
        return true;
    }
    if (e->gate_pending || e->data.durable < e->gate_numbered)
        return false;
    if (e->st.alone) {
        e->st.alone = false;
        e->join_ticket = end_save(e);
    }
    if (!end_saved(e, e->join_ticket))
        return false;
    e->relation = REL_PAIRED;
    end_note(e, "paired");
    beat_soon(e);
    return true;
}

static bool relation_rules(struct end *e)
{
    switch (e->relation) {
    case REL_PAIRED: {
        const char *reason = alone_reason(e);
        if (reason)
            active_go_alone(e, "%s", reason);
        return reason != NULL;
    }
    case REL_GOING_ALONE:
        return going_alone_rules(e);
    case REL_ALONE:
        if (e->paused && e->session.number && e->session.lead) {
            session_end(e, "paused by the operator"); // nothing is sent: updates queue
            return true;
        }
        if (!may_join(e))
            return false;
        // It stops acknowledging alone first; then durable has to reach what was numbered by then.
        e->relation = REL_JOINING;
        end_gate(e, GATE_PAIRED);
        return true;
    case REL_JOINING:
        return joining_rules(e);
    }
    return false;
}

static bool bound_rules(struct end *e)
{
    if (e->bound_asked > e->bound_given) {
        if (!end_saved(e, e->bound_ticket))
            return false;
        e->bound_given = e->bound_asked;
        end_act(e, ACT_BOUND)->seq = e->bound_given;
        return true;
    }
    if (e->data.numbered + BOUND_AHEAD / 2 < e->bound_given)
        return false;
    e->st.bound = e->bound_asked = e->data.numbered + BOUND_AHEAD;
    e->bound_ticket = end_save(e);
    return true;
}

void active_resynced(struct end *e, unsigned object, uint64_t seq, uint64_t ticket)
{
    ENSURE(object < RECORD_OBJECTS_MAX);
    if (!e->session.resync_asked || ticket != e->resync_ticket)
        return; // of a resync that was given up
    e->resynced_seq[object] = seq;
}

bool active_resync_ends(const struct end *e)
{
    for (unsigned i = 0; i < e->config.volumes; i++) {
        if (e->resynced_seq[i])
            return true;
    }
    return false;
}

// A volume is synchronized when its end mark is applied: the passive end has settled everything
// before it and has said so durably.
static bool resynced_rules(struct end *e)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < e->config.volumes; i++) {
        if (e->resynced_seq[i] && e->data.applied >= e->resynced_seq[i]) {
            done |= UINT64_C(1) << i;
            e->resynced_seq[i] = 0;
        }
    }
    if (!(done & e->st.pending))
        return false;
    e->st.pending &= ~done;
    map_resynced(e, done);
    e->st.held &= e->st.pending;
    e->st.torn &= ~done;
    end_save(e);
    if (!e->st.pending)
        end_note(e, "every volume is synchronized");
    return true;
}

static void step_down(struct end *e, const char *why)
{
    e->freezing = !e->frozen || e->thawing; // a guard that has acted already says no more
    end_act(e, ACT_FREEZE);
    if (e->exports == EXPORTS_OPEN && e->gate != GATE_CLOSED && e->gate != GATE_HELD)
        end_gate(e, GATE_HELD);
    end_address(e, false); // the guard does it; whether it is done is asked beside it
    e->again_by_take = e->state != END_ACTIVE;
    if (e->state == END_HANDING_OVER)
        hand_keep_queue(e);
    end_go(e, END_SUSPENDED, "%s", why);
}

static bool step_down_rule(struct end *e)
{
    bool taken = peer_heard(e) && (e->peer.flags & FRAME_TAKING_OVER);
    if (e->freezing || (!taken && e->now < grant_lease(e)))
        return false;
    step_down(e, taken ? "the peer says that it is taking over"
                       : "neither the peer nor a waypoint is seen, and the peer may take over");
    return true;
}

// Before the event is taken in: what it says is of now, and the peer may have taken over, and even be gone again, since
// this end was scheduled last.
void active_lapse(struct end *e)
{
    bool serving = e->state == END_ACTIVE || (e->state == END_HANDING_OVER && e->hand.stage != HAND_SAVE) ||
                   (e->state == END_TAKING_OVER && e->take.recover);
    if (!serving || e->freezing)
        return;
    if (e->now >= grant_lease(e)) {
        step_down(e, "the time in which the peer could not have taken over has run out");
    } else if (e->now >= grant_none_lease(e)) {
        step_down(e, "this end was not scheduled for so long that its peer may have been made active");
        e->doubt_ns = e->now + e->config.timeout_ns;
    }
}

static bool address_rule(struct end *e)
{
    if (e->address != ADDRESS_FAILED || e->now < e->address_retry_ns)
        return false;
    end_address(e, true);
    return true;
}

bool active_rules(struct end *e)
{
    if (step_down_rule(e))
        return true;
    bool again = address_rule(e);
    again |= bound_rules(e);
    again |= resynced_rules(e);
    again |= relation_rules(e);
    return again;
}

void active_enter(struct end *e)
{
    // Back from SUSPENDED, or a restart that goes on: the gate follows the relation.
    if (e->relation == REL_GOING_ALONE && (e->alone_stage == ALONE_HOLD || e->alone_stage == ALONE_SAVE))
        end_gate(e, GATE_HELD);
    else
        end_gate(e, e->relation == REL_ALONE ? GATE_ALONE : GATE_PAIRED);
}

bool suspended_rules(struct end *e)
{
    if (e->freezing)
        return false;
    if (e->thawing || e->exports == EXPORTS_OPENING || e->exports == EXPORTS_CLOSING)
        return false;
    if (e->exports != EXPORTS_OPEN && !e->again_by_take)
        return false;
    // Undone only by a fresh echo in which the peer is neither active nor taking over, or by its
    // word that it holds no grant. That time has passed proves nothing; but where no grant was out,
    // a peer that says nothing for T was not made active.
    bool fresh = peer_heard(e) &&
                 e->now - e->peer.proven_ns < e->config.timeout_ns - e->config.margin_ns;
    bool leads = e->session.number && e->session.lead; // the peer has told its facts, and follows
    bool idle = !(e->peer.flags & (FRAME_ACTIVE | FRAME_TAKING_OVER)) && (leads || !(e->peer.flags & FRAME_SERVED));
    if (!(fresh && idle) && (e->given.out || e->now < e->doubt_ns))
        return false;
    if (peer_heard(e) && !idle)
        return false; // a meeting says who goes on
    if (e->again_by_take) {
        // Its applications or exports are half-way down, or not up yet.
        if (e->operation.result == STEP_PENDING)
            end_operation(e, e->operation.name, STEP_FAILED, "given up: the guard stepped this end down");
        take_begin(e, EPOCH_SWITCH, false);
        return true;
    }
    if (e->frozen) {
        e->thawing = true;
        end_act(e, ACT_THAW)->time_ns = grant_lease(e);
        return true;
    }
    end_go(e, END_ACTIVE, "the peer is seen again and has not taken over");
    end_address(e, true);
    end_act(e, ACT_ANNOUNCE);
    active_enter(e);
    return true;
}
