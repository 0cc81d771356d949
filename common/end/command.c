// SPDX-License-Identifier: Apache-2.0
// What an operator may ask. Each command is answered at once: refused with the reason, or begun. A
// command for the active end that was typed at the passive one is passed on.
#include "common/end/end_private.h"

#include <errno.h>
#include <stdio.h>

#define HANDED_OVER_PATIENCE 5 // heartbeat timeouts: it has only to open what it has

struct answer {
    int status;
    char text[FRAME_TEXT];
};

static struct answer refuse(const char *text)
{
    struct answer a = {.status = -EPERM};
    (void)snprintf(a.text, sizeof(a.text), "%s", text);
    return a;
}

static struct answer begun(struct end *e, const char *name, const char *text)
{
    struct answer a = {.status = 0};
    (void)snprintf(a.text, sizeof(a.text), "%s", text);
    end_operation(e, name, STEP_PENDING, "%s", text);
    return a;
}

static struct answer do_switch(struct end *e)
{
    if (e->state != END_ACTIVE)
        return refuse("this end is not active");
    if (!peer_heard(e) || !session_streaming(e))
        return refuse("the peer is not connected");
    if (e->st.pending)
        return refuse(
            "not synchronized: a resync is pending; wait for it (pairctl wait synchronized)");
    if (e->peer.flags & FRAME_FAILED)
        return refuse("the peer cannot write its replica");
    if (e->relation != REL_PAIRED)
        return refuse("not paired yet: the peer is still catching up");
    struct answer a = begun(e, "switch", "stopping applications");
    hand_begin(e, false, false);
    return a;
}

// What no word of the operator overrides.
static const char *never_takes_over(const struct end *e)
{
    if (e->state == END_ACTIVE || e->state == END_HANDING_OVER || e->state == END_TAKING_OVER)
        return "this end is active already, or about to be";
    if (e->state == END_STOPPED)
        return "this end was stopped: use resume";
    if (e->start.replica_durable == END_OPENING)
        return "this end is still reading its safe queue: try again";
    bool connected = peer_heard(e) && (e->peer.flags & FRAME_ACTIVE);
    if (connected && e->state == END_SPLIT)
        return "the other end serves and is connected: this is a split (pairctl resolve)";
    if (connected)
        return "the active end is connected: use switch";
    if (veto_own_store(e) && grant_out(e))
        return "the peer may still hold the permission to take over: try again in a few seconds";
    return NULL;
}

static void take_own_store(struct end *e)
{
    if (e->state == END_HANDED_OVER)
        e->st.intent = INTENT_NONE;
    // A new epoch needs a fresh queue.
    if (e->exports != EXPORTS_CLOSED)
        end_abandon(e);
    e->start.queue_found = false;
    e->given.out = false;
    e->unreadable = false;
    take_begin(e, EPOCH_LOST_QUEUE, false);
}

// Everything has been asked. `vetoes` stand, `accepted` may.
static void takeover_decide(struct end *e, uint32_t vetoes, uint32_t accepted, const char *probed)
{
    char list[WHY_SIZE];
    veto_judge(e, vetoes, accepted, probed);
    veto_list(vetoes & ~accepted, list, sizeof(list));
    if (vetoes & ~accepted) {
        end_operation(e, "takeover", STEP_FAILED, "refused, this speaks against it: %s", list);
        end_note(e, "the operator's takeover is refused, this speaks against it: %s", list);
        return;
    }
    veto_list(e->verdict.overridden, list, sizeof(list));
    end_note(e, "takeover by the operator, who overrides: %s", list[0] ? list : "nothing");
    end_note(e, "what is taken over: %s", e->verdict.age);
    e->take.accepted = accepted;
    bool own = veto_own_store(e);
    end_operation(e, "takeover", STEP_PENDING, "%s",
                  own ? "taking over from this end's own store" : "replaying the safe queue");
    if (own)
        take_own_store(e);
    else
        take_begin(e, EPOCH_TAKEOVER, true);
}

static bool passed_rule(struct end *e);

// Handed over, and the other end fell silent, or does not come to serve: what becomes of that shows when it does.
static bool handed_over_rule(struct end *e)
{
    bool waits = e->state == END_HANDED_OVER && e->operation.name && e->operation.result == STEP_PENDING;
    int64_t patience = e->config.timeout_ns * (peer_heard(e) ? HANDED_OVER_PATIENCE : 1);
    if (!waits || e->now - e->state_since_ns < patience)
        return false;
    end_operation(e, e->operation.name, STEP_FAILED,
                  peer_heard(e) ? "the role is handed over, and the other end does not serve yet: its status says what it waits for"
                                : "the role is handed over, and the other end is silent: it serves when it is back, or refuses");
    return true;
}

bool command_rules(struct end *e)
{
    if (passed_rule(e) || handed_over_rule(e))
        return true;
    if (!e->ask.pending)
        return false;
    const char *never = never_takes_over(e);
    if (!never && !e->ask.answered)
        return false;
    e->ask.pending = e->ask.answered = false;
    if (!never)
        takeover_decide(e, veto_standing(e) | e->ask.vetoes, e->ask.accepted, e->ask.text);
    else if (e->state != END_TAKING_OVER && e->state != END_ACTIVE) // else it became so by itself meanwhile
        end_operation(e, "takeover", STEP_FAILED, "refused: %s", never);
    return true;
}

static struct answer do_takeover(struct end *e, unsigned flags, uint32_t overrides)
{
    const char *never = never_takes_over(e);
    if (never)
        return refuse(never);
    if (e->ask.pending)
        return refuse("a takeover is being decided on already");
    uint32_t accepted = overrides & ~(uint32_t)END_VETO_INCONSISTENT;
    if (flags & COMMAND_FORCE)
        accepted |= ~(uint32_t)END_VETO_INCONSISTENT;
    if (flags & COMMAND_INCONSISTENT)
        accepted |= END_VETO_INCONSISTENT | END_VETO_GRANT | END_VETO_LOSS;
    struct answer a = begun(e, "takeover", "asking whether the active end lives");
    e->verdict = (struct end_verdict){0};
    if (peer_heard(e)) {
        // It says that it is not active: there is nobody else to ask.
        takeover_decide(e, veto_standing(e), accepted, "");
        return a;
    }
    e->probe.asked = e->probe.answered = false;
    e->ask.pending = true;
    e->ask.answered = false;
    e->ask.accepted = accepted;
    struct end_action *probe = end_act(e, ACT_PROBE);
    probe->ticket = e->ask.ticket = ++e->probe.ticket;
    probe->on = true;
    return a;
}

static struct answer do_pause(struct end *e, unsigned flags)
{
    if (flags & COMMAND_REPLAY) {
        if (e->state != END_PASSIVE)
            return refuse("only a passive end replays");
        e->replay_stopped = true;
        grant_drop(e);
        end_act(e, ACT_REPLAY)->on = false;
    } else {
        if (e->state != END_ACTIVE)
            return refuse("only the active end can be paused");
        e->paused = true;
        beat_soon(e);
    }
    struct answer a = begun(e, "pause", "paused");
    e->operation.result = STEP_DONE;
    return a;
}

static struct answer do_resume(struct end *e, unsigned flags)
{
    if (flags & COMMAND_REPLAY) {
        if (!e->replay_stopped)
            return refuse("the replay is not paused");
        e->replay_stopped = false;
        end_act(e, ACT_REPLAY)->on = true;
    } else if (e->state == END_STOPPED) {
        e->st.stopped = false;
        end_save(e);
        end_go(e, END_WAITING, "resumed by the operator");
    } else if (e->paused) {
        e->paused = false;
        session_end(e, "resumed");
    } else {
        return refuse("nothing is paused");
    }
    struct answer a = begun(e, "resume", "resumed");
    e->operation.result = STEP_DONE;
    return a;
}

static struct answer do_resync(struct end *e)
{
    if (e->state != END_ACTIVE)
        return refuse("only the active end can resync its peer");
    e->st.pending = end_all_volumes(e);
    e->st.held = 0;
    map_refill(e);
    e->session.resync_asked = false;
    __builtin_memset(e->resynced_seq, 0, sizeof(e->resynced_seq));
    struct answer a = begun(e, "resync", "a full resync is asked for");
    e->operation.result = STEP_DONE;
    return a;
}

static struct answer do_stop(struct end *e)
{
    if (e->state == END_STOPPED)
        return refuse("it is stopped already");
    if (e->state != END_ACTIVE)
        return refuse("only the active end can be stopped in order");
    if (e->relation == REL_GOING_ALONE && e->alone_stage != ALONE_WAIT)
        return refuse("this end is just going alone: try again");
    struct answer a = begun(e, "stop", "stopping applications");
    hand_begin(e, true, false);
    return a;
}

// Whatever serves here is handed over or, where that cannot be, ended in order.
static struct answer do_shutdown(struct end *e)
{
    if (e->state == END_TAKING_OVER)
        return refuse("this end is just becoming active: try again");
    if (e->state == END_HANDING_OVER) {
        e->hand.shutdown |= !e->hand.stop; // from here on nothing leads back
        return begun(e, "shutdown", "a switchover or stop is under way already");
    }
    if (e->state != END_ACTIVE) {
        struct answer a = begun(e, "shutdown", "nothing is to be done: this end is not active");
        e->operation.result = STEP_DONE;
        return a;
    }
    if (e->relation == REL_GOING_ALONE && e->alone_stage != ALONE_WAIT)
        return refuse("this end is just going alone: try again");
    bool may_switch = peer_heard(e) && session_streaming(e) && !e->st.pending && e->relation == REL_PAIRED &&
                      !(e->peer.flags & FRAME_FAILED);
    struct answer a = begun(e, "shutdown", "stopping applications");
    hand_begin(e, e->config.shutdown_stops || !may_switch, true);
    return a;
}

static bool keeps_this_end(const struct end *e, unsigned flags)
{
    return flags & (e->config.primary ? COMMAND_KEEP_PRIMARY : COMMAND_KEEP_SECONDARY);
}

static struct answer do_resolve(struct end *e, unsigned flags)
{
    if (!(flags & (COMMAND_KEEP_PRIMARY | COMMAND_KEEP_SECONDARY)))
        return refuse("which end is to be kept? primary or secondary");
    if (!keeps_this_end(e, flags))
        return refuse("the end that is to be kept is not connected: it has to take part");
    const char *refusal = resolve_refusal(e);
    if (refusal)
        return refuse(refusal);
    struct answer a = begun(e, "resolve", "waits until the other end does not serve");
    resolve_begin(e);
    return a;
}

static struct answer do_verify(struct end *e, unsigned flags)
{
    const char *why = proof_refusal(e, flags);
    return why ? refuse(why) : begun(e, "verify", proof_begin(e, flags));
}

static struct answer execute(struct end *e, enum end_command command, unsigned flags, uint32_t overrides)
{
    switch (command) {
    case COMMAND_SWITCH:
        return do_switch(e);
    case COMMAND_TAKEOVER:
        return do_takeover(e, flags, overrides);
    case COMMAND_PAUSE:
        return do_pause(e, flags);
    case COMMAND_RESUME:
        return do_resume(e, flags);
    case COMMAND_RESYNC:
        return do_resync(e);
    case COMMAND_STOP:
        return do_stop(e);
    case COMMAND_VERIFY:
        return do_verify(e, flags);
    case COMMAND_SHUTDOWN:
        return do_shutdown(e);
    case COMMAND_RESOLVE:
        return do_resolve(e, flags);
    case COMMAND_END:
        break;
    }
    return refuse("no such command");
}

static void reply(struct end *e, uint64_t id, int status, const char *text)
{
    struct end_action *a = end_act(e, ACT_REPLY);
    a->id = id;
    a->status = status;
    (void)snprintf(a->text, sizeof(a->text), "%s", text);
}

// Whether the other end is the one that can do it.
static bool belongs_to_peer(const struct end *e, enum end_command command, unsigned flags)
{
    if (!peer_heard(e) || command == COMMAND_TAKEOVER || command == COMMAND_SHUTDOWN)
        return false;
    if (command == COMMAND_RESOLVE)
        return (flags & (COMMAND_KEEP_PRIMARY | COMMAND_KEEP_SECONDARY)) && !keeps_this_end(e, flags);
    bool passive = e->state == END_PASSIVE || e->state == END_WAITING;
    bool peer_active = e->peer.flags & FRAME_ACTIVE;
    if (flags & COMMAND_REPLAY)
        return !passive;
    bool peer_stopped = command == COMMAND_RESUME && (e->peer.flags & FRAME_STOPPED);
    return passive && (peer_active || peer_stopped);
}

static const char *command_name(unsigned command)
{
    static const char *const names[] = {"switch", "takeover", "pause",    "resume",
                                        "resync", "stop",     "shutdown", "resolve", "verify"};
    return command < ARRAY_LEN(names) ? names[command] : "?";
}

void command_take(struct end *e, const struct end_event *ev)
{
    if (e->terminating) {
        reply(e, ev->command.id, -ESHUTDOWN, "this end is being stopped");
        return;
    }
    if (belongs_to_peer(e, ev->command.command, ev->command.flags)) {
        struct frame f = frame_new(e, FRAME_COMMAND);
        f.word.id = ev->command.id;
        f.word.command = ev->command.command;
        f.word.flags = ev->command.flags;
        frame_send(e, &f);
        e->passed.command = f;
        e->passed.run = e->peer.run;
        e->passed.since_ns = e->now;
        e->passed.waiting = true;
        e->passed.accepted = false;
        e->resolve.since_ns = e->now; // of a resolve
        end_operation(e, command_name(ev->command.command), STEP_PENDING, "passed on to the active end");
        reply(e, ev->command.id, 0, "passed on to the other end");
        return; // its FRAME_REPLY says how it goes
    }
    e->passed.waiting = false; // the operator has thought of something else
    struct answer a = execute(e, ev->command.command, ev->command.flags, ev->command.overrides);
    reply(e, ev->command.id, a.status, a.text);
}

// Said again with each heartbeat: a peer that does not know this run yet, or a broken connection, has lost it.
void command_tick(struct end *e)
{
    if (!e->passed.waiting)
        return;
    e->passed.command.to_run = e->peer.run;
    e->passed.command.session = e->session.number;
    frame_send(e, &e->passed.command);
}

static void passed_end(struct end *e, enum end_step_result result, const char *text)
{
    e->passed.waiting = false;
    if (e->operation.result == STEP_PENDING)
        end_operation(e, command_name(e->passed.command.word.command), result, "%s", text);
}

// No command waits for an end that cannot answer any more.
static bool passed_rule(struct end *e)
{
    const char *why = NULL;
    if (!e->passed.waiting)
        return false;
    if (e->passed.accepted && (e->state == END_TAKING_OVER || e->state == END_ACTIVE)) {
        e->passed.waiting = false; // a switchover has come here: its own steps end it
        return true;
    }
    if (e->peer.run != e->passed.run || e->peer.gone)
        why = "the other end was stopped or restarted";
    else if (!peer_heard(e))
        why = "the other end is silent";
    else if (!e->passed.accepted && e->now - e->passed.since_ns >= 2 * e->config.timeout_ns)
        why = "the other end does not answer";
    if (!why)
        return false;
    char text[FRAME_TEXT];
    (void)snprintf(text, sizeof(text), "%s: whether it has done it is not known (pairctl status, history)", why);
    passed_end(e, STEP_FAILED, text);
    return true;
}

static void take_reply(struct end *e, const struct frame *f)
{
    if (f->word.command >= COMMAND_END || !e->passed.waiting || f->word.id != e->passed.command.word.id)
        return;
    // A switchover is done when this end is active, a split resolved when it follows; everything else when the other
    // end has accepted it.
    if (f->word.status < 0) {
        passed_end(e, STEP_FAILED, f->word.text);
        return;
    }
    e->passed.accepted = true;
    if (f->word.command != COMMAND_SWITCH)
        passed_end(e, f->word.command == COMMAND_RESOLVE ? STEP_PENDING : STEP_DONE, f->word.text);
    else if (e->operation.result == STEP_PENDING)
        end_operation(e, command_name(f->word.command), STEP_PENDING, "%s", f->word.text);
}

void command_failed(struct end *e, const char *why)
{
    if (!e->peer.answer_open)
        return;
    e->peer.answer_open = false;
    e->peer.answer.word.status = -EPERM;
    (void)snprintf(e->peer.answer.word.text, sizeof(e->peer.answer.word.text), "given up: %s", why);
}

void command_frame(struct end *e, const struct frame *f)
{
    if (f->type == FRAME_REPLY) {
        take_reply(e, f);
        return;
    }
    // It comes over every path, and with each heartbeat.
    if (f->word.command >= COMMAND_END || f->word.id < e->peer.command_id)
        return;
    if (f->word.id > e->peer.command_id) {
        struct answer a = execute(e, (enum end_command)f->word.command, f->word.flags, 0);
        struct frame *answer = &e->peer.answer;
        e->peer.command_id = f->word.id;
        e->peer.answer_open = a.status == 0 && f->word.command == COMMAND_SWITCH;
        *answer = frame_new(e, FRAME_REPLY);
        answer->word.id = f->word.id;
        answer->word.command = f->word.command;
        answer->word.status = a.status;
        (void)snprintf(answer->word.text, sizeof(answer->word.text), "%s", a.text);
    }
    struct frame answer = e->peer.answer;
    answer.to_run = e->peer.run;
    answer.session = e->session.number;
    frame_send(e, &answer);
}
