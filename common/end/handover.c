// SPDX-License-Identifier: Apache-2.0
// Switchover and stop, on the end that is active; and what the passive one does for it.
//
//   APPS stopped -> CLOSE exports, flush -> DRAIN: the peer has applied and settled the last seq ->
//   SAVE `handed over`
//
// Until SAVE is submitted every failure leads back to where it was (BACK_OPEN, BACK_APPS). Behind
// it this end never takes the role back unless the peer refuses in a message, or a later meeting
// shows that it opened no epoch (E5).
#include "common/end/end_private.h"

#include <stdio.h>

static void hand_stage(struct end *e, enum hand_stage stage, const char *done)
{
    end_note_step(e, e->now - e->hand.step_ns, e->hand.stop ? "stop" : "switchover", done);
    e->hand.stage = stage;
    e->hand.step_ns = e->now;
}

void hand_begin(struct end *e, bool stop, bool shutdown)
{
    ENSURE(e->state == END_ACTIVE);
    if (!stop && (e->relation != REL_PAIRED || e->st.pending || !session_streaming(e))) {
        end_note(e, "no switchover: not synchronized with the peer");
        return;
    }
    e->hand = (struct hand){.stop = stop, .shutdown = shutdown, .began_ns = e->now, .step_ns = e->now};
    end_go(e, END_HANDING_OVER, "%s", stop ? "stop" : "switchover");
    end_apps(e, false);
}

static void hand_abort(struct end *e, const char *why)
{
    end_note(e, "%s given up: %s", e->hand.stop ? "stop" : "switchover", why);
    if (e->hand.shutdown) {
        // This host ends: what cannot be handed over is stopped, and what the peer does not take it gets later.
        e->hand.undrained = e->hand.stop || !session_streaming(e);
        e->hand.stop = true;
        return;
    }
    if (e->operation.result == STEP_PENDING)
        end_operation(e, e->operation.name, STEP_FAILED, "given up, serves as before: %s", why);
    command_failed(e, why);
    e->hand.stage = e->exports == EXPORTS_OPEN ? HAND_BACK_APPS : HAND_BACK_OPEN;
    if (e->hand.stage == HAND_BACK_APPS)
        active_enter(e);
}

static bool peer_lost(const struct end *e)
{
    return !session_streaming(e) || !peer_heard(e) || (e->peer.flags & FRAME_FAILED);
}

static bool drained(struct end *e)
{
    if (e->hand.stop && (e->hand.undrained || !session_streaming(e)))
        return true; // nobody to drain to
    return e->hand.drained && e->data.durable >= e->hand.seq;
}

static bool back_open(struct end *e)
{
    if (e->exports == EXPORTS_OPEN) {
        end_act(e, ACT_BOUND)->seq = e->bound_given;
        active_enter(e);
        e->hand.stage = HAND_BACK_APPS;
        return true;
    }
    if (e->exports != EXPORTS_CLOSED || e->now < e->hand.retry_ns)
        return false;
    e->hand.retry_ns = e->now + NS_PER_S;
    e->exports = EXPORTS_OPENING;
    struct end_action *a = end_act(e, ACT_OPEN);
    a->recover = true;
    a->epoch = *history_current(&e->st.history);
    return false;
}

static void handed(struct end *e)
{
    end_address(e, false);
    if (e->hand.stop) {
        end_go(e, END_STOPPED, e->hand.shutdown ? "stopped for a shutdown of this machine" : "stopped by the operator");
        end_operation(e, e->hand.shutdown ? "shutdown" : "stop", STEP_DONE,
                      e->hand.shutdown ? "protection has ended in order; the next start goes on"
                                       : "protection has ended in order; start again with resume");
        session_end(e, "stopped");
        return;
    }
    e->hand.session = e->session.number;
    end_go(e, END_HANDED_OVER, "handed over position %llu after %lld ms",
           (unsigned long long)e->hand.seq, (long long)((e->now - e->hand.began_ns) / NS_PER_MS));
}

bool hand_rules(struct end *e)
{
    struct hand *h = &e->hand;
    switch (h->stage) {
    case HAND_APPS:
        if (e->apps == APPS_STOPPING)
            return false;
        if (e->apps == APPS_FAILED && !h->stop) {
            hand_abort(e, "an application does not stop");
            return true;
        }
        hand_stage(e, HAND_CLOSE, "applications stopped");
        e->gate = GATE_CLOSED;
        e->gate_pending = false;
        e->exports = EXPORTS_CLOSING;
        end_act(e, ACT_CLOSE);
        return true;
    case HAND_CLOSE:
        if (e->exports != EXPORTS_CLOSED)
            return false;
        h->seq = e->exports_numbered;
        if (e->exports_status < 0)
            end_note(e,
                     "the last flush of this end's store failed (error %d): its peer has the data",
                     -e->exports_status);
        hand_stage(e, HAND_DRAIN, "exports closed, flushed");
        beat_soon(e);
        return true;
    case HAND_DRAIN:
        if (!h->stop && peer_lost(e)) {
            hand_abort(e, "the peer was lost");
            return true;
        }
        if (!drained(e))
            return false;
        hand_stage(e, HAND_SAVE, "drained, the peer has applied everything");
        e->st.position = h->seq;
        e->st.clean = e->exports_status >= 0;
        if (h->stop)
            e->st.stopped = !h->shutdown;
        else
            e->st.intent = INTENT_HANDED_OVER;
        h->ticket = end_save(e);
        return true;
    case HAND_SAVE:
        if (!end_saved(e, h->ticket))
            return false;
        handed(e);
        return true;
    case HAND_BACK_OPEN:
        return back_open(e);
    case HAND_BACK_APPS:
        end_apps(e, true);
        end_go(e, END_ACTIVE, "serves as before");
        return true;
    }
    return false;
}

void hand_tick(struct end *e)
{
    enum frame_type type;
    if (e->state == END_HANDING_OVER && e->hand.stage == HAND_DRAIN)
        type = FRAME_DRAIN;
    else if (e->state == END_HANDED_OVER && e->session.number == e->hand.session && e->address == ADDRESS_OFF)
        type = FRAME_HANDOVER;
    else
        return;
    if (!e->session.number)
        return;
    struct frame f = frame_new(e, type);
    f.at.seq = e->hand.seq;
    frame_send(e, &f);
}

bool handed_rules(struct end *e)
{
    (void)e;
    return false; // a meeting or the peer's refusal ends it
}

// This run still has its queue, closed or open.
void hand_keep_queue(struct end *e)
{
    e->start.queue_found = e->start.same_boot = true;
    const struct epoch *at = history_current(&e->st.history);
    e->start.queue_epoch = at->id;
    e->start.queue_numbered = MAX(e->data.numbered, at->first_seq); // its opening has been ordered, or will be
}

void hand_take_back(struct end *e, const char *why)
{
    end_note(e, "takes the role back: %s", why);
    e->st.intent = INTENT_NONE;
    hand_keep_queue(e);
    take_begin(e, EPOCH_SWITCH, false);
    if (e->operation.result == STEP_PENDING)
        end_operation(e, e->operation.name, STEP_FAILED, "serves as before: %s", why);
    command_failed(e, why);
}

static void refuse(struct end *e, const char *why)
{
    struct frame answer = frame_new(e, FRAME_REFUSE);
    (void)snprintf(answer.word.text, sizeof(answer.word.text), "%s", why);
    frame_send(e, &answer);
}

static void take_drain(struct end *e, const struct frame *f)
{
    if (e->state != END_PASSIVE || e->session.lead)
        return;
    if (!end_promotable(e)) {
        // It would wait for ever, with its applications stopped.
        refuse(e, e->replay_stopped ? "its replay is paused" : "its replica is not synchronized");
        return;
    }
    if (e->data.applied < f->at.seq || e->data.replica_durable < f->at.seq)
        return; // asked again
    struct frame answer = frame_new(e, FRAME_DRAINED);
    answer.at.seq = f->at.seq;
    frame_send(e, &answer);
}

static void take_refusal(struct end *e, const struct frame *f)
{
    char why[WHY_SIZE];
    (void)snprintf(why, sizeof(why), "the peer refuses: %.120s", f->word.text);
    if (e->state == END_HANDED_OVER && e->session.number == e->hand.session)
        hand_take_back(e, why);
    else if (e->state == END_HANDING_OVER && e->hand.stage == HAND_DRAIN)
        hand_abort(e, why);
}

// The passive end: the old active one has nothing left to send and asks for the role to be taken.
static void take_handover(struct end *e, const struct frame *f)
{
    if (e->state != END_PASSIVE || e->session.lead)
        return;
    const char *refusal = NULL;
    if (!end_promotable(e))
        refusal = "its replica is not synchronized";
    else if (e->data.applied != f->at.seq || e->data.replica_durable != f->at.seq)
        refusal = "its position is another one";
    else if (e->terminating)
        refusal = "it is being stopped";
    if (refusal) {
        refuse(e, refusal);
        return;
    }
    take_begin(e, EPOCH_SWITCH, true);
}

void hand_frame(struct end *e, const struct frame *f)
{
    switch (f->type) {
    case FRAME_DRAIN:
        take_drain(e, f);
        break;
    case FRAME_DRAINED:
        if (e->state == END_HANDING_OVER && e->hand.stage == HAND_DRAIN && f->at.seq == e->hand.seq)
            e->hand.drained = true;
        break;
    case FRAME_HANDOVER:
        take_handover(e, f);
        break;
    case FRAME_REFUSE:
        take_refusal(e, f);
        break;
    default:
        break;
    }
}
