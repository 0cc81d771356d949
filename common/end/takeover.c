// SPDX-License-Identifier: Apache-2.0
// Becoming active: by silence (takeover), by the operator, by a switchover, by a meeting, by a
// restart.
//
//   INTENT -> REPLAY -> EPOCH -> ADDRESS -> OPEN -> GATE -> DONE
//
// The order is the promise: the safe queue is replayed to the end of its valid prefix, the epoch
// and the role are durable, then the public address goes on, updates are intercepted into a fresh
// unsafe queue, and only then the applications start. Until EPOCH is durable any failure leads back
// to passive; behind it the end is active and each step is tried again until it succeeds.
#include "common/end/end_private.h"

#include <stdio.h>

bool end_promotable(const struct end *e)
{
    return e->st.role == ROLE_PASSIVE && e->st.inconsistent == 0 && e->st.history.count > 0 &&
           e->replica != REPLICA_DEAD && !e->unreadable && !e->replay_stopped;
}

static void take_stage(struct end *e, enum take_stage stage)
{
    static const char *const names[] = {
        "intent durable",    "replayed",     "epoch open, role active",
        "public address on", "exports open", "writes answered"};
    if (stage > e->take.stage)
        end_note_step(e, e->now - e->take.step_ns, "takeover", names[e->take.stage]);
    e->take.stage = stage;
    e->take.step_ns = e->now;
}

// Whether the unsafe queue that was found is of the current epoch. One of a former reign has been left behind by a
// crash before it was given up: to go on with it would write old updates again. *ret_open: the current epoch is durable, and
// the crash came before its record was numbered: behind the fork where it was opened by going alone, or in a fresh queue.
static bool queue_fits(const struct end *e, bool *ret_open)
{
    const struct epoch *at = history_current(&e->st.history);
    *ret_open = false;
    if (!e->start.same_boot || !e->start.queue_found || !at)
        return false;
    bool at_fork = at->first_seq == e->start.queue_numbered + 1 && !e->start.queue_pending;
    bool in_place = at->reason == EPOCH_ALONE || at->reason == EPOCH_RESOLVE;
    bool before = at->parents >= 1 && at->parent[0].id == e->start.queue_epoch;
    *ret_open = at_fork && (e->start.queue_epoch == at->id || (in_place && before));
    return *ret_open || e->start.queue_epoch == at->id || e->start.queue_epoch == 0;
}

bool take_may_recover(const struct end *e)
{
    bool open_epoch;
    return e->st.role == ROLE_ACTIVE && e->st.intent == INTENT_NONE && queue_fits(e, &open_epoch);
}

void take_begin(struct end *e, enum epoch_reason reason, bool replay)
{
    struct take t = {.reason = reason, .replay = replay, .began_ns = e->now, .step_ns = e->now};
    t.accepted = e->take.accepted;
    t.behind = replay && (t.accepted & e->verdict.vetoes & END_VETO_GRANT);
    e->take = t;
    grant_drop(e);
    session_end(e, "this end becomes active");
    e->session.proposed = 0; // what it told of this end is not so any more
    e->start.replica_durable = 0;
    e->take.recover = !replay && take_may_recover(e);
    if (e->take.recover)
        (void)queue_fits(e, &e->take.open_epoch);
    e->again_by_take = false;
    end_go(e, END_TAKING_OVER, "%s",
           e->take.recover ? "goes on with the queue of the former run"
                           : epoch_reason_name(reason));
    if (e->take.recover) {
        e->take.stage = TAKE_ADDRESS;
        e->take.ticket = e->opening_ticket; // 0, unless the queue knew of an epoch that the state did not have
        if (e->relation == REL_PAIRED && e->st.alone)
            e->relation = REL_ALONE; // a later start than the one that goes on at once
        // Seqs are given again: no position is exact, and nothing is handed over, any more.
        if (e->st.clean) {
            e->st.clean = false;
            e->st.position = 0;
            e->take.ticket = end_save(e);
        }
    } else if (replay) {
        e->st.intent = INTENT_TAKEOVER;
        e->take.ticket = end_save(e);
    } else {
        e->relation = REL_ALONE;
        e->take.stage = TAKE_EPOCH;
    }
}

static void take_fail(struct end *e, const char *why)
{
    e->st.intent = INTENT_NONE;
    end_save(e);
    if (e->replica == REPLICA_DONE || e->replica == REPLICA_FINISHING || e->replica == REPLICA_DISCARDS)
        e->replica = REPLICA_OFF;
    e->take.accepted = 0;
    e->resolve.opening = false;
    if (e->operation.result == STEP_PENDING)
        end_operation(e, e->operation.name, STEP_FAILED, "%s", why);
    end_go(e, END_PASSIVE, "the takeover is given up: %s", why);
}

// What this end has of the parent epoch, and where the new epoch begins.
static void find_fork(struct end *e)
{
    struct take *t = &e->take;
    if (e->st.history.count == 0) {
        t->first = 1;
        return;
    }
    if (t->replay) {
        t->fork = e->replica_seq;
        t->first = t->fork + 1;
        return;
    }
    if (e->st.role == ROLE_PASSIVE &&
        !t->replay) { // forced, without a replica that could be replayed
        t->fork = EPOCH_SEQ_UNKNOWN;
        t->first = MAX(MAX(e->data.replica_durable, e->st.position), history_current(&e->st.history)->first_seq) +
                   BOUND_AHEAD;
        return;
    }
    if (e->st.clean) {
        t->fork = e->st.position;
        t->first = t->fork + 1;
        return;
    }
    // The queue is lost: above everything that may have been given.
    t->fork = EPOCH_SEQ_UNKNOWN;
    t->first = MAX(e->st.bound, history_current(&e->st.history)->first_seq) + 1;
}

// Something that this end had settled, and that its peer's map says nothing of any more, may be missing here: an end that
// was replaced, or whose state is damaged, is told to serve, or its queue is shorter than what it had confirmed.
static bool lacks_settled(const struct end *e)
{
    const struct take *t = &e->take;
    bool emptied = e->st.history.count == 0 && t->reason != EPOCH_FIRST_START; // beside an empty peer nothing was
    return emptied || e->st.lost || e->st.inconsistent || t->dead || (t->replay && e->replica_short);
}

static bool take_epoch(struct end *e)
{
    struct take *t = &e->take;
    find_fork(e);
    bool lacks = lacks_settled(e);
    const struct epoch *parent = history_current(&e->st.history);
    struct epoch epoch = {
        .number = parent ? parent->number + 1 : 1,
        .id = end_random(e),
        .parents = parent ? 1 : 0,
        .first_seq = t->first,
        .opened_by = e->config.primary ? EPOCH_BY_PRIMARY : EPOCH_BY_SECONDARY,
        .reason = t->reason,
    };
    if (parent)
        epoch.parent[0] = (struct epoch_parent){parent->id, t->fork};
    const char *broken = resolve_append(e, &epoch);
    if (broken) {
        take_fail(e, broken);
        return true;
    }
    proof_keep_line(e);
    bool clean = e->st.clean && !t->replay; // the new epoch goes on exactly where this end was
    // Role, `alone` and the epoch are one save: whoever reads it back is alone in this epoch.
    e->st.role = ROLE_ACTIVE;
    e->st.intent = INTENT_NONE;
    e->st.alone = true;
    e->st.clean = false;
    // Of what was lost, or was in the queue of a replica that could not be replayed, nobody knows which regions it were.
    bool whole = (e->st.lost && !(t->replay && e->lost_by_damage)) || (t->dead && !t->replay);
    if (lacks)
        e->st.torn = end_all_volumes(e);
    e->st.inconsistent = e->st.lost = e->st.salvage = e->st.salvage_whole = 0;
    e->resolve.opening = false;
    if (whole)
        e->st.map_void = end_all_volumes(e);
    if (!clean || whole) {
        e->st.pending = end_all_volumes(e);
        e->st.held = 0;
    }
    e->st.bound = t->first + BOUND_AHEAD;
    // A peer whose position is on the line is resumed or resynced as the next meeting finds; what a
    // switchover hands over is equal on both ends.
    if (t->reason == EPOCH_SWITCH || t->reason == EPOCH_TAKEOVER)
        e->st.pending = 0;
    e->relation = REL_ALONE;
    end_goodbye(e); // there is none any more, before the save
    t->ticket = end_save(e);
    if (whole)
        e->map.refill = t->ticket;
    return true;
}

static void take_lost(struct end *e)
{
    if (e->take.recover)
        return;
    if (e->take.reason == EPOCH_SWITCH)
        end_note(e, "nothing is lost: the old active end handed over position %llu",
                 (unsigned long long)e->take.fork);
    else if (e->take.replay)
        end_note(e, "replayed to %llu; the active end had told of %llu%s",
                 (unsigned long long)e->replica_seq, (unsigned long long)e->peer.durable,
                 e->take.behind ? ", and what it has acknowledged since is not known" : "");
    else
        return;
    // What the active end had told of with its last heartbeat; what it numbered behind that nobody knows.
    struct end_action *a = &e->actions[e->action_count - 1];
    a->on = true;
    a->more = e->take.behind;
    if (e->take.reason == EPOCH_SWITCH || e->peer.durable <= e->replica_seq)
        return;
    a->seq = e->peer.durable - e->replica_seq;
    a->objects = e->peer.backlog;
    a->ticket = (uint64_t)MAX(e->take.began_ns - e->peer.frame_ns, 0);
}

// The prefix ends short of what this run had confirmed. False: an operator accepts that.
static bool short_fails(struct end *e)
{
    if (!e->replica_short)
        return false;
    veto_late(e, END_VETO_LOSS);
    if (!(e->take.accepted & END_VETO_LOSS)) {
        take_fail(e, "the safe queue does not reach what was confirmed durable: an operator may accept the loss "
                     "with takeover --force=loss");
        return true;
    }
    if (e->replica == REPLICA_DONE)
        end_note(e, "the operator accepts that the safe queue does not reach what was confirmed durable");
    return false;
}

static void finish(struct end *e)
{
    e->replica = REPLICA_FINISHING;
    e->map.lost = e->map.losing = false;
    end_act(e, ACT_FINISH);
}

// What had failed before is replayed as far as it is whole, where an operator wants it.
static bool take_dead(struct end *e)
{
    if (!(e->take.accepted & END_VETO_REPLICA)) {
        veto_late(e, END_VETO_REPLICA);
        take_fail(e, e->replica_why);
        return true;
    }
    if (!e->take.dead) {
        e->take.dead = true;
        finish(e);
        return false;
    }
    e->take.replay = false;
    take_stage(e, TAKE_EPOCH);
    e->take.ticket = 0;
    return true;
}

static bool take_replay(struct end *e)
{
    switch (e->replica) {
    case REPLICA_FINISHING:
        return false;
    case REPLICA_DEAD:
        return take_dead(e);
    case REPLICA_DISCARDS:
        if (short_fails(e))
            return true;
        if (!map_lose(e))
            return false;
        e->replica = REPLICA_FINISHING;
        end_act(e, ACT_DISCARD);
        return false;
    case REPLICA_DONE:
        if (short_fails(e))
            return true;
        if (e->st.history.count && e->replica_seq < history_current(&e->st.history)->first_seq) {
            // Its queue has not begun on this line: how far the store is, nobody knows.
            e->take.dead = true;
            e->take.replay = false;
        }
        take_stage(e, TAKE_EPOCH);
        e->take.ticket = 0;
        return true;
    default:
        finish(e);
        return false;
    }
}

static bool take_address(struct end *e)
{
    if (!end_saved(e, e->take.ticket))
        return false;
    if (e->take.recover && e->frozen) {
        if (!e->thawing) {
            e->thawing = true;
            end_act(e, ACT_THAW)->time_ns = grant_lease(e);
        }
        return false;
    }
    if (e->address == ADDRESS_ON) {
        take_stage(e, TAKE_OPEN);
        return true;
    }
    bool retry = e->address == ADDRESS_FAILED && e->now >= e->address_retry_ns;
    if (e->address == ADDRESS_OFF || retry)
        end_address(e, true);
    return false;
}

// It goes on trying; whoever waits for it hears why it takes so long.
static void exports_fail(struct end *e)
{
    char why[ACTION_TEXT_SIZE];
    if (e->exports_why[0])
        (void)snprintf(why, sizeof(why), "%s", e->exports_why);
    else
        (void)snprintf(why, sizeof(why), "error %d", -e->exports_status);
    end_note(e, "the exports cannot be opened, trying again: %s", why);
    if (e->operation.name && e->operation.result == STEP_PENDING)
        end_operation(e, e->operation.name, STEP_FAILED, "this end has taken over, and goes on trying to open its exports: %s", why);
}

static bool take_open(struct end *e)
{
    if (e->exports == EXPORTS_OPEN) {
        take_stage(e, TAKE_GATE);
        if (e->take.open_epoch) {
            end_act(e, ACT_EPOCH)->epoch = *history_current(&e->st.history);
            e->start.queue_epoch = history_current(&e->st.history)->id;
            e->start.queue_numbered = history_current(&e->st.history)->first_seq;
            e->take.open_epoch = false;
        }
        e->bound_given = e->bound_asked = e->st.bound;
        end_act(e, ACT_BOUND)->seq = e->st.bound;
        active_enter(e);
        return true;
    }
    if (e->exports == EXPORTS_OPENING || e->exports == EXPORTS_CLOSING)
        return false;
    if (e->exports_status < 0 && e->now < e->take.retry_ns)
        return false;
    if (e->exports_status < 0 && e->take.retry_ns)
        exports_fail(e);
    e->take.retry_ns = e->now + NS_PER_S;
    e->exports = EXPORTS_OPENING;
    struct end_action *a = end_act(e, ACT_OPEN);
    a->recover = e->take.recover;
    a->epoch = *history_current(&e->st.history);
    a->seq = e->take.recover ? 0 : e->take.first;
    return false;
}

// Where the reign began in whose queue this end numbers: going alone opens an epoch in the same one.
static uint64_t queue_first(const struct end *e)
{
    const struct epoch *at = history_current(&e->st.history);
    while (at && at->reason == EPOCH_ALONE && at->parents && history_find(&e->st.history, at->parent[0].id))
        at = history_find(&e->st.history, at->parent[0].id);
    return at ? at->first_seq : UINT64_MAX;
}

static void take_done(struct end *e)
{
    take_stage(e, TAKE_DONE);
    // The peer's place in front of a fresh queue is nothing that it has confirmed.
    if (!e->take.recover || e->start.queue_confirmed < queue_first(e))
        e->start.queue_confirmed = 0;
    e->replica = REPLICA_OFF;
    e->st.position = 0;
    e->strict_hand = false;
    bool recover = e->take.recover;
    take_lost(e);
    end_go(e, END_ACTIVE, "serves%s after %lld ms", recover ? " again" : "",
           (long long)((e->now - e->take.began_ns) / NS_PER_MS));
    e->take.recover = false;
    e->take.accepted = 0;
    e->start.queue_found = false;
    if (e->operation.name && e->operation.result == STEP_PENDING)
        end_operation(e, e->operation.name, STEP_DONE, "this end is active");
    if (recover) {
        end_act(e, ACT_ADOPT);
        e->apps = APPS_STARTING;
    } else {
        end_apps(e, true);
    }
    end_act(e, ACT_ANNOUNCE);
}

bool take_rules(struct end *e)
{
    struct take *t = &e->take;
    switch (t->stage) {
    case TAKE_INTENT:
        if (!end_saved(e, t->ticket))
            return false;
        take_stage(e, TAKE_REPLAY);
        return true;
    case TAKE_REPLAY:
        return take_replay(e);
    case TAKE_EPOCH:
        if (!t->ticket)
            return take_epoch(e);
        if (!end_saved(e, t->ticket))
            return false;
        if (e->frozen)
            end_act(e, ACT_DESTROY);
        e->frozen = false;
        take_stage(e, TAKE_ADDRESS);
        return true;
    case TAKE_ADDRESS:
        return take_address(e);
    case TAKE_OPEN:
        return take_open(e);
    case TAKE_GATE:
        if (e->gate_pending)
            return false;
        take_done(e);
        return true;
    case TAKE_DONE:
        break;
    }
    return false;
}

// ---- before it: passive, probing, waiting ----

bool passive_rules(struct end *e)
{
    // Nothing more is kept for the active end, which goes on alone: what this one has falls behind.
    if (e->data.full && grant_held(e)) {
        grant_drop(e);
        end_note(e, "the safe queue is full: no takeover by itself until it has room again");
        return true;
    }
    if (e->held.until_ns && !grant_held(e)) {
        grant_drop(e);
        end_note(e, "stale: the grant has run out without a takeover");
        return true;
    }
    // E4.
    if (grant_held(e) && end_promotable(e) && e->config.automatic && !e->terminating &&
        e->peer.echo_sent_ns && !peer_heard(e)) {
        end_go(e, END_PROBING, "the active end has been silent for the heartbeat timeout");
        return true;
    }
    return false;
}

void probe_take(struct end *e, const struct end_event *ev)
{
    if (e->ask.pending && ev->probed.ticket == e->ask.ticket) {
        e->ask.answered = true;
        e->ask.vetoes = ev->probed.vetoes;
        (void)snprintf(e->ask.text, sizeof(e->ask.text), "%s", ev->probed.text ? ev->probed.text : "");
        return;
    }
    if (!e->probe.asked || ev->probed.ticket != e->probe.ticket)
        return;
    e->probe.asked = false;
    e->probe.answered = true;
    e->probe.vetoes = ev->probed.vetoes;
    (void)snprintf(e->probe.text, sizeof(e->probe.text), "%s",
                   ev->probed.text ? ev->probed.text : "");
}

// Asks the vetoes when it is time, again `pause_ns` after a veto. True when nothing speaks against
// becoming active.
static bool probes_clear(struct end *e, int64_t pause_ns)
{
    if (e->ask.pending)
        return false; // the operator asks
    if (e->probe.answered) {
        e->probe.answered = false;
        if (!e->probe.vetoes)
            return true;
        end_note(e, "vetoed: %s", e->probe.text);
        e->probe.again_ns = e->now + pause_ns;
    }
    if (!e->probe.asked && e->now >= e->probe.again_ns) {
        e->probe.asked = true;
        end_act(e, ACT_PROBE)->ticket = ++e->probe.ticket;
    }
    return false;
}

static void no_takeover(struct end *e, const char *why)
{
    end_go(e, END_PASSIVE, "no takeover: %s", why);
}

bool probing_rules(struct end *e)
{
    if (peer_heard(e)) {
        no_takeover(e, "the active end is heard again");
        return true;
    }
    if (!grant_held(e) || !end_promotable(e)) {
        no_takeover(e, e->probe.text[0] ? e->probe.text
                                        : "the grant ran out before the vetoes were asked");
        return true;
    }
    if (!probes_clear(e, 2 * END_ASK_NS))
        return false;
    take_begin(e, EPOCH_TAKEOVER, true);
    return true;
}

// An end that was active and alone when it stopped may serve again by itself, if nothing speaks
// against it.
bool waiting_rules(struct end *e)
{
    bool may = e->st.role == ROLE_ACTIVE && e->st.alone && e->st.intent == INTENT_NONE &&
               !e->unreadable && e->address == ADDRESS_OFF && !peer_heard(e) && !e->terminating &&
               e->now - e->state_since_ns >= e->config.timeout_ns;
    if (!may || !probes_clear(e, e->config.timeout_ns))
        return false;
    take_begin(e, EPOCH_LOST_QUEUE, false);
    return true;
}
