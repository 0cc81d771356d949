// SPDX-License-Identifier: Apache-2.0
// The step of an end: an event changes facts, then the rules of the present state run until none
// applies.
#include "common/end/end_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The role transitions that exist; docs/roles.md says when each is taken. One that is not here is a mistake in the code.
static const struct {
    enum end_role_state from, to;
} transitions[] = {
    {END_WAITING, END_PASSIVE},
    {END_WAITING, END_TAKING_OVER},
    {END_WAITING, END_SPLIT},
    {END_WAITING, END_STOPPED}, // a start after a stop
    {END_PASSIVE, END_PROBING},
    {END_PASSIVE, END_TAKING_OVER},
    {END_PASSIVE, END_SPLIT},
    {END_PROBING, END_PASSIVE},
    {END_PROBING, END_TAKING_OVER},
    {END_TAKING_OVER, END_ACTIVE},
    {END_TAKING_OVER, END_PASSIVE},
    {END_TAKING_OVER, END_SUSPENDED}, // a restart that goes on, and the guard acts
    {END_ACTIVE, END_SUSPENDED},
    {END_ACTIVE, END_HANDING_OVER},
    {END_ACTIVE, END_PASSIVE},
    {END_ACTIVE, END_SPLIT},
    {END_SUSPENDED, END_ACTIVE},
    {END_SUSPENDED, END_PASSIVE},
    {END_SUSPENDED, END_SPLIT},
    {END_SUSPENDED, END_TAKING_OVER},
    {END_HANDING_OVER, END_HANDED_OVER},
    {END_HANDING_OVER, END_ACTIVE},
    {END_HANDING_OVER, END_STOPPED},
    {END_HANDING_OVER, END_SUSPENDED},
    {END_HANDED_OVER, END_PASSIVE},
    {END_HANDED_OVER, END_TAKING_OVER},
    {END_HANDED_OVER, END_SPLIT},
    {END_STOPPED, END_WAITING},
    {END_SPLIT, END_TAKING_OVER},
    {END_SPLIT, END_PASSIVE}, // resolved: the peer is kept
};

bool end_may_go(enum end_role_state from, enum end_role_state to)
{
    for (size_t i = 0; i < ARRAY_LEN(transitions); i++)
        if (transitions[i].from == from && transitions[i].to == to)
            return true;
    return false;
}

const char *end_state_name(enum end_role_state state)
{
    static const char *const names[END_STATE_COUNT] = {
        "waiting",   "passive",      "probing",     "taking over", "active",
        "suspended", "handing over", "handed over", "split",       "stopped",
    };
    return (unsigned)state < END_STATE_COUNT ? names[state] : "?";
}

struct end_action *end_act(struct end *e, enum end_action_type type)
{
    ENSURE(e->action_count < ACTIONS_MAX);
    struct end_action *a = &e->actions[e->action_count++];
    memset(a, 0, offsetof(struct end_action, text));
    a->text[0] = '\0';
    a->type = type;
    return a;
}

void end_note(struct end *e, const char *format, ...)
{
    struct end_action *a = end_act(e, ACT_HISTORY);
    a->time_ns = -1;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(a->text, sizeof(a->text), format, args);
    va_end(args);
}

void end_note_step(struct end *e, int64_t ns, const char *what, const char *step)
{
    end_note(e, "%s: %s", what, step);
    e->actions[e->action_count - 1].time_ns = ns;
}

void end_go(struct end *e, enum end_role_state to, const char *why, ...)
{
    ENSURE(end_may_go(e->state, to));
    char text[WHY_SIZE];
    va_list args;
    va_start(args, why);
    (void)vsnprintf(text, sizeof(text), why, args);
    va_end(args);
    end_note(e, "%s -> %s: %s", end_state_name(e->state), end_state_name(to), text);
    e->state = to;
    e->state_since_ns = e->now;
    e->probe.asked = e->probe.answered = false;
    e->probe.again_ns = 0;
    beat_soon(e);
}

// What cannot be read stays so on the disk until somebody has decided what this end is: a save in between would be read
// by the next run as the state of an end that never was anything, and that is mirrored over.
uint64_t end_save(struct end *e)
{
    ENSURE(!e->goodbye || e->st.role == ROLE_PASSIVE); // nobody says any more that this end holds no grant
    if (e->unreadable)
        return e->ticket_last; // the next run starts unreadable, too
    struct end_action *a = end_act(e, ACT_SAVE);
    e->st.session = MAX(e->st.session, MAX(e->session.number, e->peer.last_session));
    a->state = e->st;
    a->ticket = ++e->ticket_last;
    return a->ticket;
}

void end_gate(struct end *e, enum end_gate gate)
{
    struct end_action *a = end_act(e, ACT_GATE);
    a->gate = gate;
    a->ticket = ++e->gate_ticket;
    e->gate = gate;
    e->gate_pending = true;
}

void end_address(struct end *e, bool on)
{
    end_act(e, ACT_ADDRESS)->on = on;
    e->address = on ? ADDRESS_TURNING_ON : ADDRESS_TURNING_OFF;
}

void end_apps(struct end *e, bool start)
{
    end_act(e, ACT_APPS)->on = start;
    e->apps = start ? APPS_STARTING : APPS_STOPPING;
}

uint64_t end_all_volumes(const struct end *e)
{
    return e->config.volumes >= 64 ? UINT64_MAX : (UINT64_C(1) << e->config.volumes) - 1;
}

uint64_t end_random(struct end *e)
{
    // splitmix64
    do {
        e->random += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z = e->random;
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        z ^= z >> 31;
        if (z)
            return z;
    } while (true);
}

void end_operation(struct end *e, const char *name, enum end_step_result result, const char *format,
                   ...)
{
    e->operation.name = name;
    e->operation.result = result;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(e->operation.text, sizeof(e->operation.text), format, args);
    va_end(args);
}

struct end *end_new(const struct end_config *config)
{
    ENSURE(config->volumes > 0 && config->volumes <= RECORD_OBJECTS_MAX);
    ENSURE(config->run != 0 && config->beat_ns > 0 && config->timeout_ns > 2 * config->beat_ns);
    struct end *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->config = *config;
    e->random = config->seed;
    e->state = END_WAITING;
    e->deadline_ns = e->lease_ns = INT64_MAX;
    return e;
}

struct end *end_free(struct end *e)
{
    free(e);
    return NULL;
}

// ---- facts ----

static void take_saved(struct end *e, const struct end_event *ev)
{
    if (ev->saved.status == 0) {
        e->ticket_saved = MAX(e->ticket_saved, ev->saved.ticket);
        e->save_failed = false;
        return;
    }
    // Nothing that waits for this ticket goes on. The state is said again later; until then the end
    // stays as it is.
    if (!e->save_failed)
        end_note(e, "cannot save the state of this end (error %d): waiting", -ev->saved.status);
    e->save_failed = true;
    e->save_retry_ns = e->now + NS_PER_S;
}

static void take_exports(struct end *e, const struct end_event *ev)
{
    e->exports = ev->exports.open ? EXPORTS_OPEN : EXPORTS_CLOSED;
    e->exports_status = ev->exports.status;
    e->exports_numbered = ev->exports.numbered;
    if (ev->exports.open)
        map_reopened(e);
}

static void take_address(struct end *e, const struct end_event *ev)
{
    // It may have been asked for something else since, or the guard have taken it off.
    if (e->address != (ev->address.on ? ADDRESS_TURNING_ON : ADDRESS_TURNING_OFF))
        return;
    if (ev->address.status < 0) {
        e->address = ADDRESS_FAILED;
        e->address_retry_ns = e->now + NS_PER_S;
        return;
    }
    e->address = ev->address.on ? ADDRESS_ON : ADDRESS_OFF;
}

// The gate at `seq` is passed when what it asked for is durable. Two may wait at a time: an epoch's opening holds
// `durable` back, a resync's mark `applied`.
static void await_consent(struct end *e, uint64_t seq)
{
    // A replica that was opened anew asks again, and the saves may still be failing: the oldest one is of its predecessor.
    if (e->consent_count == CONSENTS_MAX) {
        e->consent_count--;
        memmove(&e->consent[0], &e->consent[1], e->consent_count * sizeof(e->consent[0]));
    }
    e->consent[e->consent_count].seq = seq;
    e->consent[e->consent_count++].ticket = end_save(e);
}

// What is replayed of a queue that a new stream replaces says nothing about that stream: neither which
// epochs this end was in, nor that a volume is consistent. It is only let pass, so that it comes to its end.
static bool of_former_stream(const struct end *e)
{
    return e->session.restart && e->replica == REPLICA_PREPARING;
}

static void take_replica(struct end *e, const struct end_event *ev)
{
    switch (ev->replica.what) {
    case FOLLOW_READY:
        if (e->replica == REPLICA_PREPARING)
            e->replica = REPLICA_FOLLOWING;
        e->replica_damaged = e->lost_by_damage = false;
        break;
    case FOLLOW_EPOCH: {
        // E6: the history is durable before the replica's position passes the opening.
        const char *broken = NULL;
        if (!of_former_stream(e) && ev->replica.seq > e->st.position &&
            !history_contains(&e->st.history, ev->replica.epoch->id))
            broken = history_append(&e->st.history, ev->replica.epoch);
        if (broken) {
            end_note(e, "the stream opens an epoch that does not fit: %s", broken);
            e->replica = REPLICA_DEAD;
            (void)snprintf(e->replica_why, sizeof(e->replica_why),
                           "the stream opens an epoch that does not fit: %s", broken);
            break;
        }
        await_consent(e, ev->replica.seq);
        break;
    }
    case FOLLOW_BEGIN:
    case FOLLOW_END: {
        uint64_t bit = UINT64_C(1) << ev->replica.object;
        bool counts = !of_former_stream(e) && !e->replica_damaged && ev->replica.seq > e->st.position;
        if (counts && ev->replica.what == FOLLOW_BEGIN)
            e->st.inconsistent |= bit;
        if (counts && ev->replica.what == FOLLOW_END) {
            e->st.inconsistent &= ~bit;
            e->st.lost &= ~bit;
            e->st.salvage_whole &= ~bit;
            e->st.salvage &= ~bit; // everything was compared: nothing is left that this end holds alone
            e->replica_pause_ns = 0;
            end_note(e, "volume %u: the replica is synchronized", ev->replica.object);
        }
        await_consent(e, ev->replica.seq);
        break;
    }
    case FOLLOW_FINISHED:
        if (e->replica == REPLICA_FINISHING)
            e->replica = ev->replica.discards ? REPLICA_DISCARDS : REPLICA_DONE;
        e->replica_unknown = ev->replica.unknown;
        e->replica_seq = ev->replica.seq;
        e->replica_short = ev->replica.short_of_confirmed;
        e->replica_discarded = ev->replica.lost_records;
        if (ev->replica.lost_records && !ev->replica.discards)
            end_note(e, "discarded %llu records behind the valid prefix",
                     (unsigned long long)ev->replica.lost_records);
        break;
    case FOLLOW_FAILED:
        e->replica = REPLICA_DEAD;
        e->replica_pause_ns = MIN(MAX(2 * e->replica_pause_ns, REPLICA_PAUSE_MIN_NS), REPLICA_PAUSE_MAX_NS);
        e->replica_retry_ns = e->now + e->replica_pause_ns;
        (void)snprintf(e->replica_why, sizeof(e->replica_why), "%s",
                       ev->replica.text ? ev->replica.text : "it failed");
        end_note(e, "the replica cannot go on: %s", e->replica_why);
        grant_drop(e);
        break;
    }
}

static void take_guard(struct end *e, const struct end_event *ev)
{
    e->freezing = false;
    e->thawing = false;
    e->frozen = ev->guard.frozen;
    if (!ev->guard.frozen)
        return;
    e->address = ADDRESS_OFF;
    if (e->state == END_ACTIVE) {
        end_go(e, END_SUSPENDED, "the guard stepped this end down");
    } else if (e->state == END_HANDING_OVER && e->hand.stage != HAND_SAVE) {
        hand_keep_queue(e);
        e->again_by_take = true;
        end_go(e, END_SUSPENDED, "the guard stepped this end down during a %s", e->hand.stop ? "stop" : "switchover");
    } else if (e->state == END_TAKING_OVER && e->take.recover) {
        e->again_by_take = true;
        end_go(e, END_SUSPENDED, "the guard stepped this end down before it served again");
    } else if (e->state == END_TAKING_OVER && e->take.stage >= TAKE_ADDRESS) {
        // By the deadline of a former reign, of which this end knows nothing: what ran then must not go on, and the
        // address has to be put on again.
        end_note(e, "the guard acted by the deadline of a former run: what it froze is destroyed");
        end_act(e, ACT_DESTROY);
        e->frozen = false;
        e->take.stage = TAKE_ADDRESS;
        return;
    } else {
        return; // handing over and past the return: it goes on
    }
    // From here on there is no lease that would hold answers back.
    if (e->exports == EXPORTS_OPEN && e->gate != GATE_CLOSED && e->gate != GATE_HELD)
        end_gate(e, GATE_HELD);
}

static void take_start(struct end *e, const struct end_event *ev);

static void take_event(struct end *e, const struct end_event *ev)
{
    switch (ev->type) {
    case EV_START:
        take_start(e, ev);
        break;
    case EV_TICK:
        break;
    case EV_OPENED:
        e->start.replica_durable = ev->opened.replica_durable;
        if (ev->opened.replica_failed)
            e->replica = REPLICA_DEAD;
        e->replica_damaged = ev->opened.damaged;
        e->lost_by_damage = e->replica_damaged && !e->st.lost;
        if (e->replica_damaged)
            map_lost(e); // its replay may take back what had been settled
        break;
    case EV_FRAME:
        if (ev->frame.frame->type == FRAME_BEAT)
            beat_take(e, ev->frame.frame);
        else
            session_frame(e, ev->frame.frame);
        break;
    case EV_SAVED:
        take_saved(e, ev);
        break;
    case EV_GATE:
        if (ev->gate.gate == e->gate && ev->gate.ticket == e->gate_ticket) {
            e->gate_pending = false;
            e->gate_numbered = ev->gate.numbered;
        }
        break;
    case EV_ATTACHED:
        e->attached = ev->attached.seq;
        break;
    case EV_EXPORTS:
        take_exports(e, ev);
        break;
    case EV_ADDRESS:
        take_address(e, ev);
        break;
    case EV_APPS:
        if (ev->apps.status == 0 && ((ev->apps.running && e->apps == APPS_STOPPING) ||
                                     (!ev->apps.running && e->apps == APPS_STARTING)))
            break; // the end of a former command
        e->apps = ev->apps.status < 0 ? APPS_FAILED
                  : ev->apps.running  ? APPS_RUNNING
                                      : APPS_STOPPED;
        e->apps_status = ev->apps.status;
        break;
    case EV_REPLICA:
        take_replica(e, ev);
        break;
    case EV_PROBED:
        probe_take(e, ev);
        break;
    case EV_GUARD:
        take_guard(e, ev);
        break;
    case EV_RESYNCED:
        active_resynced(e, ev->resynced.object, ev->resynced.seq, ev->resynced.ticket);
        break;
    case EV_VERIFIED:
        proof_take(e, ev);
        break;
    case EV_OVERFLOW:
        if (e->state == END_ACTIVE || e->state == END_HANDING_OVER || e->state == END_SUSPENDED) {
            e->st.pending = end_all_volumes(e);
            end_save(e);
            e->draining = ev->failed.draining;
            if (!e->draining || e->state != END_ACTIVE) {
                session_end(e, ev->failed.text);
                e->session.proposed = 0; // with facts that are no longer true
            }
        }
        if (e->state == END_ACTIVE) {
            active_go_alone(e, "%s: a resync by map follows", ev->failed.text);
        }
        break;
    case EV_STORE:
        map_unflushed(e, ev->failed.objects);
        if (e->state == END_ACTIVE && !e->store_failed && !ev->failed.ignored) {
            e->store_failed = true;
            e->st.torn = end_all_volumes(e);
            end_save(e);
            end_note(e, "the store of this end failed: %s", ev->failed.text);
            hand_begin(e, false, false);
        }
        break;
    case EV_APP_FAILED:
        if (e->state == END_ACTIVE) {
            end_note(e, "an application failed for good: %s", ev->failed.text);
            hand_begin(e, false, false);
        }
        break;
    case EV_PEER_GONE:
        beat_peer_ended(e, ev->gone.run);
        break;
    case EV_COMMAND:
        command_take(e, ev);
        break;
    case EV_MAP:
        map_take(e, ev);
        break;
    case EV_TERMINATE:
        if (!e->terminating) {
            e->terminating = true;
            e->terminate_ns = e->now;
            beat_soon(e);
        }
        break;
    }
}

// The start rule (DESIGN §6 "Start").
static void take_start(struct end *e, const struct end_event *ev)
{
    const struct end_start *s = &ev->start;
    e->start = *s;
    e->start.state = NULL;
    e->started = true;
    e->unreadable = s->state_unreadable;
    if (s->state)
        e->st = *s->state;
    map_start(e);
    if (e->st.role == ROLE_ACTIVE && !e->st.clean && !s->same_boot && e->st.torn != end_all_volumes(e)) {
        e->st.torn = end_all_volumes(e); // what its host had not written out
        end_save(e);
    }
    if (e->st.intent == INTENT_TAKEOVER)
        e->st.intent = INTENT_NONE; // its epoch was not opened: void
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

// ---- rules ----

static bool destroy_rule(struct end *e)
{
    if (!e->destroying || e->exports != EXPORTS_CLOSED)
        return false;
    e->destroying = e->frozen = false;
    end_act(e, ACT_DESTROY);
    e->apps = APPS_STOPPED;
    return true;
}

static bool consent_rule(struct end *e)
{
    // Saves become durable in order.
    if (e->consent_count == 0 || !end_saved(e, e->consent[0].ticket))
        return false;
    end_act(e, ACT_CONSENT)->seq = e->consent[0].seq;
    e->consent_count--;
    memmove(&e->consent[0], &e->consent[1], e->consent_count * sizeof(e->consent[0]));
    return true;
}

// A save that failed is tried again: until it succeeds, nothing that depends on it happens.
static bool save_rule(struct end *e)
{
    if (!e->save_failed || e->now < e->save_retry_ns)
        return false;
    e->save_retry_ns = e->now + NS_PER_S;
    end_save(e);
    return true;
}

// An address that could not be taken off is tried again: nobody else may have it before.
static bool address_off_rule(struct end *e)
{
    bool wanted = e->state == END_ACTIVE || e->state == END_TAKING_OVER || e->state == END_HANDING_OVER;
    if (wanted || e->address != ADDRESS_FAILED || e->now < e->address_retry_ns)
        return false;
    end_address(e, false);
    return true;
}

static bool state_rules(struct end *e)
{
    switch (e->state) {
    case END_WAITING:
        return waiting_rules(e);
    case END_PASSIVE:
        return passive_rules(e);
    case END_PROBING:
        return probing_rules(e);
    case END_TAKING_OVER:
        return take_rules(e);
    case END_ACTIVE:
        return active_rules(e);
    case END_SUSPENDED:
        return suspended_rules(e);
    case END_HANDING_OVER:
        return hand_rules(e);
    case END_HANDED_OVER:
        return handed_rules(e);
    case END_SPLIT:
    case END_STOPPED:
    case END_STATE_COUNT:
        break;
    }
    return false;
}

// A lost session is noticed by silence, or by a peer that believes in another one.
static bool silence_rule(struct end *e)
{
    if (e->session.number && !peer_heard(e)) {
        session_end(e, "the peer is silent");
        return true;
    }
    return false;
}

// "Holds no grant" is no word for an end that has used it, in this run or a former one: the peer may be suspended, and go
// on at this word. What its state was, an end that cannot read it does not know.
static bool has_used_grant(const struct end *e)
{
    return e->st.role == ROLE_ACTIVE || e->unreadable;
}

// SIGTERM: a passive end says goodbye; an active one takes the grant back first, at most T long.
static bool terminate_rule(struct end *e)
{
    if (!e->terminating || e->exit_said)
        return false;
    bool may_go = true;
    if (e->state == END_ACTIVE || e->state == END_HANDING_OVER)
        may_go = !grant_out(e) || e->now - e->terminate_ns >= e->config.timeout_ns;
    else if (e->state == END_TAKING_OVER)
        may_go = e->now - e->terminate_ns >= e->config.timeout_ns;
    if (!may_go)
        return false;
    grant_drop(e);
    bool used = e->state == END_ACTIVE || (e->state == END_TAKING_OVER && e->take.stage >= TAKE_EPOCH) || has_used_grant(e);
    struct frame f = frame_new(e, FRAME_GOODBYE);
    if (!used)
        frame_send(e, &f);
    end_act(e, ACT_EXIT);
    e->exit_said = true;
    return true;
}

// The guard's deadline, and the lease of the front thread: the same moment where a grant is out. Without one no guard
// acts, and the lease is how long this end may be unscheduled.
void end_deadline(struct end *e)
{
    int64_t deadline = INT64_MAX, lease = INT64_MAX;
    if (e->state == END_ACTIVE || e->state == END_HANDING_OVER ||
        (e->state == END_TAKING_OVER && e->take.recover)) {
        deadline = grant_lease(e);
        lease = deadline != INT64_MAX ? deadline : grant_none_lease(e);
    } else if (e->state == END_SUSPENDED) {
        deadline = MIN(e->deadline_ns, e->now); // the front thread may not have heard of it yet
        lease = MIN(e->lease_ns, e->now);
    } else if (e->exports == EXPORTS_CLOSING) {
        deadline = e->deadline_ns; // likewise
        lease = e->lease_ns;
    }
    bool watch = e->state == END_ACTIVE && grant_out(e) &&
                 e->now - e->peer.proven_ns > e->config.timeout_ns / 2;
    watch |= e->state == END_SUSPENDED || e->state == END_PROBING || e->probe.asked || e->ask.pending;
    watch |= e->state == END_ACTIVE && e->relation == REL_GOING_ALONE;
    if (watch != e->watching) {
        e->watching = watch;
        end_act(e, ACT_WATCH)->on = watch;
    }
    if (deadline != e->deadline_ns) {
        e->deadline_ns = deadline;
        end_act(e, ACT_DEADLINE)->time_ns = deadline;
    }
    if (lease != e->lease_ns) {
        e->lease_ns = lease;
        end_act(e, ACT_LEASE)->time_ns = lease;
    }
}

// A passive end's guard may say that it holds no grant, once it has ended. Taken back before the epoch is submitted: from
// then on nobody may say so any more.
void end_goodbye(struct end *e)
{
    bool before = e->state == END_WAITING || e->state == END_PASSIVE || e->state == END_PROBING ||
                  (e->state == END_TAKING_OVER && e->take.replay && e->take.stage <= TAKE_EPOCH);
    bool on = before && e->st.role == ROLE_PASSIVE && !e->unreadable;
    if (on == e->goodbye)
        return;
    e->goodbye = on;
    end_act(e, ACT_GOODBYE)->on = on;
}

static void check_invariants(const struct end *e)
{
    bool address = e->address == ADDRESS_ON || e->address == ADDRESS_TURNING_ON;
    if (address) // E1
        ENSURE(e->state == END_ACTIVE || e->state == END_TAKING_OVER ||
               e->state == END_HANDING_OVER);
    if (e->gate == GATE_ALONE) { // E3
        ENSURE(e->st.alone);
        ENSURE(!grant_out(e));
    }
    if (e->st.intent == INTENT_HANDED_OVER) // E5
        ENSURE(e->gate == GATE_CLOSED);
    if (e->state == END_PASSIVE || e->state == END_PROBING)
        ENSURE(e->gate == GATE_CLOSED);
    ENSURE(e->ticket_saved <= e->ticket_last);
}

void end_step(struct end *e, int64_t now, const struct end_data *data,
              const struct end_event *event)
{
    ENSURE(now >= e->now);
    ENSURE(e->started || event->type == EV_START);
    e->now = now;
    e->data = *data;
    e->action_count = e->action_next = 0;
    if (event->type == EV_START)
        e->turned_ns = now;
    active_lapse(e);
    if (now - e->turned_ns >= e->config.beat_ns / 2)
        e->turned_ns = now;
    take_event(e, event);
    bool again;
    unsigned rounds = 0;
    do {
        again = consent_rule(e);
        again |= destroy_rule(e);
        again |= save_rule(e);
        again |= address_off_rule(e);
        again |= silence_rule(e);
        again |= command_rules(e);
        again |= proof_rules(e);
        again |= session_rules(e);
        again |= map_rules(e);
        again |= resolve_rules(e);
        again |= state_rules(e);
        again |= terminate_rule(e);
        ENSURE(++rounds < 50);
    } while (again);
    beat_tick(e);
    end_deadline(e);
    end_goodbye(e);
    check_invariants(e);
}

const struct end_action *end_action(struct end *e)
{
    return e->action_next < e->action_count ? &e->actions[e->action_next++] : NULL;
}

int64_t end_deadline_ns(const struct end *e)
{
    int64_t at = e->next_beat_ns;
    if (e->deadline_ns != INT64_MAX)
        at = MIN(at, e->deadline_ns);
    if (e->state == END_ACTIVE && grant_out(e) && e->relation == REL_GOING_ALONE)
        at = MIN(at, grant_out_until(e));
    if (e->session.number || e->state == END_PASSIVE)
        at = MIN(at, MAX(e->peer.echo_sent_ns + e->config.timeout_ns, e->now + END_ASK_NS / 2));
    bool busy = e->watching || e->state == END_HANDING_OVER || e->state == END_TAKING_OVER ||
                e->relation == REL_JOINING || e->relation == REL_GOING_ALONE || e->terminating;
    if (busy)
        at = MIN(at, e->now + END_ASK_NS / 2);
    return MAX(at, e->now + NS_PER_MS);
}

void end_view(struct end *e, int64_t now, struct end_view *view)
{
    const struct epoch *epoch = history_current(&e->st.history);
    bool serving = e->state == END_ACTIVE || e->state == END_SUSPENDED ||
                   e->state == END_HANDING_OVER || (e->state == END_TAKING_OVER && e->take.recover);
    *view = (struct end_view){
        .state = e->state,
        .active = serving,
        .alone = serving && (e->relation == REL_ALONE || e->relation == REL_JOINING),
        .paired = peer_heard(e) && (serving ? grant_relied(e) : !!(e->peer.flags & FRAME_PAIRED)),
        .synchronized = serving || e->st.role == ROLE_ACTIVE ? e->st.pending == 0 && session_streaming(e)
                                : e->st.inconsistent == 0 && e->st.history.count > 0 &&
                                      e->replica != REPLICA_DEAD,
        .granted = serving ? grant_out(e) : grant_held(e),
        .frozen = e->frozen,
        .paused = e->paused,
        .connected = peer_heard(e),
        .session = e->session.number,
        .pending = e->st.pending,
        .held = e->st.held,
        .verifying = e->proof.running,
        .verified = e->proof.known ? &e->proof.result : NULL,
        .proven = e->st.proven,
        .inconsistent = e->st.inconsistent,
        .heard_ns = e->peer.heard_ns,
        .echo_sent_ns = serving && e->state != END_SUSPENDED ? e->peer.proven_ns : 0,
        .met = e->session.meeting.row,
        .split = e->state == END_SPLIT || e->session.meeting.row == MEET_SPLIT,
        .counted = e->session.counted,
        .differing_regions = e->session.count_regions,
        .differing_volumes = e->session.count_void,
        .own_history = &e->st.history,
        .peer_history = &e->session.peer.history,
        .met_rule = e->session.meeting.rule,
        .peer_run = e->peer.run,
        .peer_position = e->peer.durable,
        .peer_backlog = e->peer.backlog,
        .peer_behind = e->peer.behind,
        .peer_active = e->peer.flags & FRAME_ACTIVE,
        .grant_until_ns = serving ? 0 : e->held.until_ns,
        .why = why_text(e, e->why, sizeof(e->why)),
        .operation = e->operation.name,
        .operation_result = e->operation.result,
        .operation_text = e->operation.text,
        .verdict = &e->verdict,
    };
    view->promotable = !serving && end_promotable(e) && view->granted;
    if (epoch)
        view->epoch = *epoch;
    if (!serving && !view->granted && e->held.ended_ns)
        view->stale_since_ns = e->held.ended_ns;
    (void)now;
}
