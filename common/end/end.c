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

void end_abandon(struct end *e)
{
    if (!e->abandoning)
        end_act(e, ACT_ABANDON);
    e->abandoning = true;
    e->exports = EXPORTS_CLOSING;
    e->gate = GATE_CLOSED;
    e->gate_pending = false;
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

// In `async` an epoch is gone on in while it is being saved; nobody else hears of it before that is durable.
static bool opening_rule(struct end *e)
{
    if (!e->opening_ticket || !end_saved(e, e->opening_ticket))
        return false;
    e->opening_ticket = 0;
    end_act(e, ACT_WITHHOLD)->seq = UINT64_MAX;
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
    } else if (e->exports == EXPORTS_CLOSING || e->address == ADDRESS_TURNING_OFF || e->address_stays) {
        // Likewise; and switching off may wait for the kernel, or fail, as a handover waits for that. An end that takes over
        // is to have the address: by a deadline of its former reign its guard would act again and again.
        deadline = e->state == END_TAKING_OVER ? INT64_MAX : e->deadline_ns;
        lease = e->lease_ns;
    }
    if (e->frozen) // nothing is answered before it is thawed
        lease = MIN(lease, MIN(e->lease_ns, e->now));
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
    facts_take(e, event);
    bool again;
    unsigned rounds = 0;
    do {
        again = consent_rule(e);
        again |= destroy_rule(e);
        again |= save_rule(e);
        again |= opening_rule(e);
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
    if (e->deadline_ns > e->now) // one that has passed has been looked at
        at = MIN(at, e->deadline_ns);
    if (e->state == END_ACTIVE && grant_out(e) && e->relation == REL_GOING_ALONE)
        at = MIN(at, grant_out_until(e));
    if (e->session.number || e->state == END_PASSIVE)
        at = MIN(at, MAX(e->peer.echo_sent_ns + e->config.timeout_ns, e->now + END_ASK_NS / 2));
    bool busy = e->watching || e->state == END_HANDING_OVER || e->state == END_TAKING_OVER ||
                e->relation == REL_JOINING || e->relation == REL_GOING_ALONE || e->terminating ||
                active_resync_ends(e);
    if (busy)
        at = MIN(at, e->now + END_ASK_NS / 2);
    return MAX(at, e->now + NS_PER_MS);
}
