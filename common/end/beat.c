// SPDX-License-Identifier: Apache-2.0
// Heartbeats. Each says what the sender knows, echoes the newest one of the receiver, and (active
// end) answers it with yes or no. *Heard* means: a frame that echoes a heartbeat that I sent less
// than T ago (DESIGN §6).
//
// An answer may want an echo itself: it is this end's own heartbeat then, a little before its time. So two ends need three
// frames an interval, not four, and whoever is first stays so. All ends of a machine send at the same moments, so that their
// frames are carried together.
#include "common/end/end_private.h"

#include <string.h>

struct frame frame_new(const struct end *e, enum frame_type type)
{
    struct frame f;
    __builtin_memset(&f, 0, offsetof(struct frame, beat));
    if (type != FRAME_MEET)
        __builtin_memset(&f.word, 0, sizeof(f.word));
    f.type = type;
    f.run = e->config.run;
    f.to_run = e->peer.run;
    f.session = e->session.number;
    return f;
}

void frame_send(struct end *e, struct frame *f)
{
    struct end_action *a = end_act(e, ACT_SEND);
    a->path = FRAME_ALL_PATHS;
    a->frame = *f;
}

bool peer_heard(const struct end *e)
{
    return e->peer.run && !e->peer.gone && e->peer.echo_sent_ns &&
           e->now - e->peer.echo_sent_ns < e->config.timeout_ns;
}

static uint16_t own_flags(const struct end *e)
{
    uint16_t flags = 0;
    // Who has served is not done before its address is off, which may wait for the kernel.
    if (e->state == END_ACTIVE || e->state == END_SUSPENDED || e->state == END_HANDING_OVER ||
        (e->state == END_TAKING_OVER && e->take.stage > TAKE_EPOCH) || e->address != ADDRESS_OFF)
        flags |= FRAME_ACTIVE;
    if (e->state == END_TAKING_OVER)
        flags |= FRAME_TAKING_OVER;
    if (grant_held(e))
        flags |= FRAME_GRANTED;
    if (end_ready_to_meet(e))
        flags |= FRAME_READY_TO_MEET;
    if (e->replica == REPLICA_DEAD || e->data.full)
        flags |= FRAME_FAILED;
    if (e->data.salvage_full)
        flags |= FRAME_SALVAGE_FULL;
    if (e->state == END_PASSIVE ? e->replay_stopped : e->paused)
        flags |= FRAME_PAUSED;
    if (e->st.role == ROLE_ACTIVE)
        flags |= FRAME_SERVED;
    if (e->state == END_STOPPED)
        flags |= FRAME_STOPPED;
    if (grant_relied(e))
        flags |= FRAME_PAIRED;
    return flags;
}

static void send_beat(struct end *e, bool wants_echo)
{
    struct frame f = frame_new(e, FRAME_BEAT);
    f.flags = own_flags(e) | (wants_echo ? FRAME_WANTS_ECHO : 0);
    bool serving = e->state == END_ACTIVE || e->state == END_HANDING_OVER;
    if (wants_echo)
        e->asked_beat_ns = e->now;
    f.beat = (struct frame_beat){
        .number = ++e->beat_number,
        .sent_ns = e->now,
        .echo_number = e->peer.beat_number,
        .echo_sent_ns = e->peer.beat_sent_ns,
        .answer = ANSWER_NONE,
        .honoured = e->held.session == e->session.number ? e->held.honoured : 0,
        .last_session = MAX(e->st.session, e->session.number),
        .durable = serving ? e->data.numbered : e->data.replica_durable,
        .applied = serving ? e->data.numbered : e->data.applied,
        .backlog = serving ? e->data.backlog : 0,
        .behind = serving ? e->data.behind : 0,
    };
    if (serving)
        f.beat.proven = e->st.proven;
    if (serving && e->session.number && e->session.lead)
        f.beat.answer = grant_may_say_yes(e) ? ANSWER_YES : ANSWER_NO;
    e->sent[f.beat.number % SENT_KEPT].number = f.beat.number;
    e->sent[f.beat.number % SENT_KEPT].echo_sent_ns = e->peer.echo_sent_ns;
    grant_said(e, f.beat.answer, f.beat.number);
    end_deadline(e); // the guard knows of a yes before the peer does
    frame_send(e, &f);
}

void beat_soon(struct end *e)
{
    e->next_beat_ns = e->now;
    e->beat_due = true;
}

static int64_t round_up(int64_t at, int64_t step)
{
    return (at + step - 1) / step * step;
}

// In step with the clock, and, where that is the peer's too, not at its moments. Behind an answer that was a heartbeat: an
// interval later, and a while for the peer's next.
static int64_t next_beat(const struct end *e)
{
    int64_t beat = e->config.beat_ns, phase = e->config.primary ? 0 : beat / 2;
    if (e->asked_beat_ns == e->now)
        return round_up(e->now + 1 + phase, beat) - phase;
    return round_up(e->asked_beat_ns + beat + beat / 16, beat / 16);
}

void beat_tick(struct end *e)
{
    if (e->now < e->next_beat_ns || e->data.wedged || e->exit_said)
        return;
    if (e->beat_due || e->now - e->asked_beat_ns >= e->config.beat_ns / 4 * 3)
        send_beat(e, true);
    e->beat_due = false;
    session_tick(e);
    resolve_tick(e);
    hand_tick(e);
    command_tick(e);
    e->next_beat_ns = next_beat(e);
}

// A new run of the peer: the old one is gone, and a restarted end holds no grant.
static void new_run(struct end *e, uint64_t run)
{
    if (e->peer.run) {
        end_note(e, "the peer's end was restarted");
        session_end(e, "the peer's end was restarted");
        // It holds no grant. Whether the former run has used one, a suspended end does not know.
        if (e->state != END_SUSPENDED)
            grant_confirmed(e);
    }
    uint64_t last = e->peer.last_session;
    // At the first contact of this run: what the former run of this end kept of its last echo still counts.
    int64_t echo_sent_ns = e->peer.run ? 0 : e->peer.echo_sent_ns;
    e->former_runs[e->former_next++ % FORMER_RUNS] = e->peer.run;
    e->peer = (struct peer){.run = run,
                            .last_session = last,
                            .echo_sent_ns = echo_sent_ns,
                            .proven_ns = echo_sent_ns};
    memset(e->sent, 0, sizeof(e->sent));
    e->run_since = e->beat_number;
}

bool former_run(const struct end *e, uint64_t run)
{
    for (unsigned i = 0; i < FORMER_RUNS; i++) {
        if (e->former_runs[i] == run && run)
            return true;
    }
    return false;
}

// A run that has never echoed this one may be an old one, of which a frame was late; then a later one may hold a grant.
void beat_peer_ended(struct end *e, uint64_t run)
{
    if (run == 0 || run != e->peer.run || !e->peer.echo_number || former_run(e, run))
        return;
    if (!e->peer.gone) {
        end_note(e, "the peer's guard says goodbye for it: its daemon has ended and holds no grant");
        session_end(e, "the peer's daemon has ended");
        e->peer.gone = true;
    }
    e->former_runs[e->former_next++ % FORMER_RUNS] = run; // what it has sent and is still under way counts no more
    grant_confirmed(e);
}

// Another run than the known one is the newer one only if it echoes what I have sent since I came to know that one: a
// frame that was under way since before then, of a run that may have ended meanwhile, cannot.
static bool proves_itself(const struct end *e, const struct frame *f)
{
    return f->to_run == e->config.run && f->beat.echo_number > e->run_since &&
           f->beat.echo_number <= e->beat_number;
}

// Takes the sender's run for the peer's, unless the frame is meant for another run of mine.
static bool accept_run(struct end *e, const struct frame *f)
{
    if (f->to_run && f->to_run != e->config.run)
        return false;
    if (f->run != e->peer.run)
        new_run(e, f->run);
    return true;
}

void beat_take(struct end *e, const struct frame *f)
{
    const struct frame_beat *b = &f->beat;
    if (former_run(e, f->run))
        return;
    if (f->run != e->peer.run && e->peer.run && !proves_itself(e, f)) {
        // Perhaps a new run that does not know mine yet: an echo tells it.
        struct frame answer = frame_new(e, FRAME_BEAT);
        answer.to_run = f->run;
        answer.session = 0;
        answer.beat.number = ++e->beat_number;
        answer.beat.sent_ns = e->now;
        answer.beat.echo_number = b->number;
        answer.beat.echo_sent_ns = b->sent_ns;
        answer.beat.last_session = MAX(e->st.session, e->session.number);
        frame_send(e, &answer);
        return;
    }
    if (!accept_run(e, f))
        return;
    e->peer.frame_ns = e->now;
    e->peer.gone = false;
    if (f->to_run == e->config.run && b->echo_number > e->peer.echo_number &&
        b->echo_number <= e->beat_number && b->echo_sent_ns <= e->now) {
        e->peer.echo_number = b->echo_number;
        e->peer.echo_sent_ns = MAX(e->peer.echo_sent_ns, b->echo_sent_ns);
        if (e->sent[b->echo_number % SENT_KEPT].number == b->echo_number)
            e->peer.proven_ns =
                MAX(e->peer.proven_ns, e->sent[b->echo_number % SENT_KEPT].echo_sent_ns);
        if (peer_heard(e))
            e->peer.heard_ns = e->now;
    }
    bool newest = b->number > e->peer.beat_number;
    if (newest) {
        e->peer.beat_number = b->number;
        e->peer.beat_sent_ns = b->sent_ns;
        e->peer.flags = f->flags;
        e->peer.session = f->session;
        e->peer.last_session = MAX(e->peer.last_session, b->last_session);
        e->peer.durable = b->durable;
        e->peer.applied = b->applied;
        e->peer.backlog = b->backlog;
        e->peer.behind = b->behind;
    }
    bool same = e->session.number && f->session == e->session.number;
    if (newest && e->session.number) {
        if (same)
            e->session.confirmed = true;
        else if (e->session.confirmed)
            session_end(e, "the peer left the session");
    }
    if (same && f->to_run == e->config.run) {
        grant_take(e, b);
        if (newest)
            proof_hear(e, b);
        // The peer has dropped its grant at a no behind the newest yes.
        if (b->honoured > e->given.yes_number && e->given.out)
            grant_confirmed(e);
    }
    if (newest && (f->flags & FRAME_WANTS_ECHO) && !e->data.wedged && !e->exit_said)
        send_beat(e, e->now - e->asked_beat_ns >= e->config.beat_ns / 2);
}
