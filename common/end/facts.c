// SPDX-License-Identifier: Apache-2.0
// What an event says to an end: it changes facts. What follows from them is the business of the rules (end.c).
#include "common/end/end_private.h"

#include <stdio.h>
#include <string.h>

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
    if (e->abandoning && !ev->exports.abandoned)
        return;
    e->abandoning = false;
    e->exports = ev->exports.open ? EXPORTS_OPEN : EXPORTS_CLOSED;
    e->exports_status = ev->exports.status;
    (void)snprintf(e->exports_why, sizeof(e->exports_why), "%s", ev->exports.why ? ev->exports.why : "");
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
        if (!ev->address.on && !e->address_stays)
            end_note(e, "the public address cannot be taken off (error %d): tried again each second, and by the guard "
                        "when its deadline passes", -ev->address.status);
        e->address_stays = !ev->address.on;
        return;
    }
    e->address_stays = false;
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
            // Whole ones: what was damaged cannot always be counted.
            end_note(e, "discarded at least %llu records behind the valid prefix",
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
    end_address(e, false); // what was under way may put it on again, and the guard may have failed
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

// What a queue goes on from is in the history, whatever it has received since: it was settled, or the queue was made for it.
static bool of_forgotten_line(const struct end *e, uint64_t base)
{
    const struct epoch_history *known = &e->st.history;
    return base && known->count && !known->truncated && !history_contains(known, base);
}

static void take_opened(struct end *e, const struct end_event *ev)
{
    bool forgotten = of_forgotten_line(e, ev->opened.base);
    e->start.replica_durable = ev->opened.replica_durable;
    if (ev->opened.replica_failed || forgotten)
        e->replica = REPLICA_DEAD;
    if (forgotten) {
        (void)snprintf(e->replica_why, sizeof(e->replica_why), "its safe queue is of a line that this end has forgotten");
        end_note(e, "%s", e->replica_why);
    }
    e->replica_damaged = ev->opened.damaged || forgotten;
    e->lost_by_damage = e->replica_damaged && !e->st.lost;
    if (e->replica_damaged)
        map_lost(e); // its replay may take back what had been settled
}

static void take_overflow(struct end *e, const struct end_event *ev)
{
    if (e->state == END_ACTIVE || e->state == END_HANDING_OVER || e->state == END_SUSPENDED) {
        e->st.pending = end_all_volumes(e);
        end_save(e);
        e->draining = ev->failed.draining;
        if (!e->draining || e->state != END_ACTIVE) {
            session_end(e, ev->failed.text);
            e->session.proposed = 0; // with facts that are no longer true
        }
    }
    if (e->state == END_ACTIVE)
        active_go_alone(e, "%s: a resync by map follows", ev->failed.text);
}

static void take_store(struct end *e, const struct end_event *ev)
{
    map_unflushed(e, ev->failed.objects);
    if (e->state == END_ACTIVE && !e->store_failed && !ev->failed.ignored) {
        e->store_failed = true;
        e->st.torn = end_all_volumes(e);
        end_save(e);
        end_note(e, "the store of this end failed: %s", ev->failed.text);
        hand_begin(e, false, false);
    }
}

static void take_apps(struct end *e, const struct end_event *ev)
{
    bool former_command = (ev->apps.running && e->apps == APPS_STOPPING) ||
                          (!ev->apps.running && e->apps == APPS_STARTING);
    if (ev->apps.status == 0 && former_command)
        return;
    e->apps = ev->apps.status < 0 ? APPS_FAILED : ev->apps.running ? APPS_RUNNING : APPS_STOPPED;
    e->apps_status = ev->apps.status;
}

void facts_take(struct end *e, const struct end_event *ev)
{
    switch (ev->type) {
    case EV_START:
        start_take(e, ev);
        break;
    case EV_TICK:
        break;
    case EV_OPENED:
        take_opened(e, ev);
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
        if (ev->attached.session == e->session.number) // not that of a session before, where it is another place by now
            e->attached = ev->attached.seq;
        break;
    case EV_EXPORTS:
        take_exports(e, ev);
        break;
    case EV_ADDRESS:
        take_address(e, ev);
        break;
    case EV_APPS:
        take_apps(e, ev);
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
        take_overflow(e, ev);
        break;
    case EV_STORE:
        take_store(e, ev);
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
