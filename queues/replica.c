// SPDX-License-Identifier: Apache-2.0
// The replica's crank: opening, sessions, ending, failing, and the order in which the other files'
// steps run.
//
// Everything that happens (a message, a completion, a consent, the time) changes some fields and
// calls replica_run(), which turns until nothing moves any more. What happens within a turn only
// asks for another one, so that nothing nests.
#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "queues/replica_internal.h"

#define RATE_NS (100 * NS_PER_MS) // of replay, for one measurement

int replica_failure(const struct replica *r)
{
    if (r->apply_error)
        return r->apply_error;
    if (r->queue_error)
        return r->queue_error;
    return r->hole ? -EUCLEAN : safe_failure(r->safe);
}

static void keep_error(struct replica *r, const struct error *err)
{
    if (!r->error.code)
        r->error = *err;
    r->ack_now = true;
}

void replica_fail_apply(struct replica *r, int rc, const struct error *err)
{
    ENSURE(rc < 0);
    if (r->stopped) // requests end in all kinds of ways when their store is closed
        return;
    if (!r->apply_error)
        r->apply_error = rc;
    keep_error(r, err);
}

void replica_fail_queue(struct replica *r, int rc, const struct error *err)
{
    ENSURE(rc < 0);
    if (!r->queue_error)
        r->queue_error = rc;
    keep_error(r, err);
}

void replica_fail_hole(struct replica *r, const struct error *err)
{
    r->hole = true;
    keep_error(r, err);
}

void replica_raise(struct replica *r, enum replica_event_kind kind, uint64_t seq, uint16_t object,
                   const struct epoch *epoch)
{
    struct replica_event event = {.kind = kind, .seq = seq, .object = object, .epoch = epoch};

    if (kind == REPLICA_FAILED)
        event.error = &r->error;
    else if (kind == REPLICA_SALVAGE_FULL)
        event.error = &r->salvage_error;
    if (!r->stopped)
        r->hooks.event(r->hooks.arg, &event);
}

bool replica_in_haste(const struct replica *r)
{
    return r->finishing || r->restarting || (r->settle_done && r->synced < r->settle_target);
}

// ---- Opening ----

struct opening {
    struct replica *replica;
    uint64_t bytes, last_epoch;
    const char *broken;
    uint64_t broken_seq;
};

static void seen(void *arg, const struct record *record, const void *payload)
{
    struct opening *o = arg;

    o->bytes += le32_get(record->payload);
    if (record->type != RECORD_EPOCH || o->broken)
        return;
    o->broken = replica_add_gate(o->replica, record, payload);
    o->broken_seq = le64_get(record->seq);
}

static void beyond(void *arg, const struct record *record)
{
    struct opening *o = arg;
    replica_lost_record(o->replica, record);
}

static int open_queue(struct replica *r, struct safe_recovery *ret_recovery, struct error *err)
{
    struct opening o = {.replica = r};
    struct safe_recovery rec;
    struct safe_stats stats;

    r->config.safe.seen = seen;
    r->config.safe.beyond = beyond;
    r->config.safe.arg = &o;
    int rc = safe_open(&r->config.safe, &r->safe, &rec, err);
    if (rc < 0)
        return rc;
    if (o.broken)
        return error_set(err, -EUCLEAN, "safe queue: record %llu: %s",
                         (unsigned long long)o.broken_seq, o.broken);
    safe_stats(r->safe, &stats);
    r->received = r->synced = rec.last;
    r->received_epoch = r->synced_epoch = stats.epoch;
    r->applied = r->settled = r->durable = rec.first - 1;
    r->queued_bytes = o.bytes;
    r->beyond_records = rec.beyond_records;
    r->beyond_bytes = rec.beyond_bytes;
    r->lost_unknown |= rec.unknown;
    r->spilled = rec.last >= rec.first;
    if (r->spilled)
        rc = safe_seek(r->safe, rec.first, &r->spill, err);
    if (rc == 0)
        *ret_recovery = rec;
    return rc;
}

int replica_open(const struct replica_config *config, int64_t now, struct replica **ret_replica,
                 struct safe_recovery *ret_recovery, struct error *err)
{
    struct replica *r = calloc(1, sizeof(*r));

    if (!r)
        return error_sys(err, -ENOMEM, "replica");
    r->config = *config;
    r->hooks = config->hooks;
    r->config.window = config->window ? config->window : REPLICA_WINDOW_BYTES;
    r->now = r->rate_at = now;
    r->held_end = &r->held;
    r->epoch_gates_end = &r->epoch_gates;
    r->ack_due = r->full_retry_at = INT64_MAX;
    r->resend_sent_at = now - REPLICA_RESEND_NS;
    int rc = open_queue(r, ret_recovery, err);
    if (rc < 0) {
        replica_free(r);
        return rc;
    }
    // Who wrote to the volumes before may not have flushed them: an active end that follows now, or a
    // killed run. A check finds such content equal, and a crash takes it back behind what the safe queue replays: the
    // first resync begins with a flush.
    r->unproven = true;
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++)
        r->dirty[i] = config->volumes[i] != NULL;
    // What the end has no history of is not durable yet in the sense of the invariants: the first
    // turn raises the gates.
    r->durable = r->epoch_gates ? MIN(r->synced, r->epoch_gates->seq - 1) : r->synced;
    *ret_replica = r;
    return 0;
}

static void drop_gates(struct replica *r)
{
    while (r->epoch_gates) {
        struct epoch_gate *gate = r->epoch_gates;
        r->epoch_gates = gate->next;
        free(gate);
    }
    r->epoch_gates_end = &r->epoch_gates;
    r->apply_gate = 0;
}

struct replica *replica_free(struct replica *r)
{
    if (!r)
        return NULL;
    replica_drop_held(r);
    replica_drop_spares(r);
    replica_lost_forget(r);
    drop_gates(r);
    safe_free(r->safe);
    free(r);
    return NULL;
}

void replica_stop(struct replica *r)
{
    r->stopped = true;
}

bool replica_idle(const struct replica *r)
{
    unsigned busy = 0;
    for (unsigned i = 0; i < r->op_count; i++) {
        const struct op *op = &r->ops[(r->op_head + i) % REPLICA_FLIGHT_MAX];
        // What has not been started, because it is not kept yet, never will be.
        bool never = (r->stopped || r->apply_error) &&
                     (op->keeping == KEEPING_WAITS || op->keeping == KEEPING_SYNCS);
        busy += !op->done && !never;
    }
    bool syncs = r->salvage && salvage_syncing(r->salvage);
    return busy == 0 && !r->flushing && !r->syncing && !syncs;
}

// ---- Sessions ----

static void begin_session(struct replica *r, uint64_t session, int64_t now)
{
    r->now = now;
    r->session = session;
    r->session_start = r->received;
    if (r->finished || r->discard_told)
        r->finishing = r->finished = r->discard_told = false;
    if (session)
        replica_lost_forget(r); // the active end has all of it
    r->barrier_newest = r->barrier_ready = r->barrier_done = r->sync_barrier = 0;
    r->resend_sent_at = now - REPLICA_RESEND_NS;
    r->ack_resend = false;
    r->ack_now = true;
}

void replica_session(struct replica *r, uint64_t session, int64_t now)
{
    begin_session(r, session, now);
    r->restarting = false;
    replica_run(r);
}

void replica_restart(struct replica *r, uint64_t session, uint64_t epoch, uint64_t first_seq,
                     int64_t now)
{
    ENSURE(session != 0 && first_seq > 0);
    begin_session(r, session, now);
    r->restarting = true;
    r->restart_epoch = epoch;
    r->restart_seq = first_seq;
    r->restart_retry_at = 0;
    replica_run(r);
}

// Nothing more will be applied from what is held, and nothing is under way.
static bool drained(const struct replica *r)
{
    if (!replica_idle(r))
        return false;
    if (r->apply_error)
        return true;
    if (r->op_count > 0 || r->applied != r->settled)
        return false;
    return r->hole || r->applied == (r->queue_error ? r->durable : r->received);
}

static void restart_step(struct replica *r)
{
    if (!r->restarting || !drained(r) || r->apply_error || r->queue_error || r->stopped)
        return;
    if (r->now < r->restart_retry_at)
        return;
    struct error err = {0};
    int rc = safe_restart(r->safe, r->restart_epoch, r->restart_seq, &err);
    if (rc == -ENOSPC) { // somebody makes room
        r->restart_retry_at = r->now + REPLICA_FULL_RETRY_NS;
        replica_note_full(r);
        return;
    }
    if (rc < 0) {
        replica_fail_queue(r, rc, &err);
        return;
    }
    replica_drop_held(r);
    drop_gates(r);
    r->received = r->synced = r->durable = r->applied = r->settled = r->restart_seq - 1;
    r->confirmed = 0;
    r->received_epoch = r->synced_epoch = r->restart_epoch;
    r->applied_epoch = 0;
    r->queued_bytes = 0;
    r->session_start = r->received;
    if (r->hole) {
        r->hole = false;
        r->error = (struct error){0};
        r->error_raised = false;
    }
    replica_note_room(r);
    r->restarting = false;
    r->ack_now = r->ack_resend = true;
    replica_raise(r, REPLICA_RESTARTED, r->restart_seq, 0, NULL);
}

// ---- Ending ----

void replica_pause(struct replica *r, bool paused)
{
    r->paused = paused;
    replica_run(r);
}

int replica_settle(struct replica *r, void (*done)(void *arg, int status), void *arg)
{
    if (r->settle_done)
        return -EBUSY;
    r->settle_done = done;
    r->settle_arg = arg;
    r->settle_target = r->received;
    replica_run(r);
    return 0;
}

static void settle_report(struct replica *r)
{
    int failure = replica_failure(r);

    if (!r->settle_done || (r->settled < r->settle_target && !failure))
        return;
    void (*done)(void *arg, int status) = r->settle_done;
    r->settle_done = NULL;
    done(r->settle_arg, r->settled < r->settle_target ? failure : 0);
}

void replica_finish(struct replica *r, void (*done)(void *arg, const struct replica_finish *finish),
                    void *arg)
{
    r->finishing = true;
    r->restarting = false;
    r->finished = r->discard_told = r->discard = false;
    r->finish_done = done;
    r->finish_arg = arg;
    replica_run(r);
}

void replica_discard(struct replica *r)
{
    r->discard = r->discard_told;
    replica_run(r);
}

static bool holds_more(const struct replica *r)
{
    struct safe_stats stats;

    safe_stats(r->safe, &stats);
    return r->hole || r->applied < stats.last || safe_failure(r->safe) == -EUCLEAN;
}

// Everything behind `applied` is given up. Damage in the queue ends the valid prefix, and is no
// failure of the replay.
static int finish_discard(struct replica *r, struct error *err)
{
    struct safe_stats stats;

    safe_stats(r->safe, &stats);
    if (!holds_more(r) || stats.segments_used == 0)
        return 0;
    int rc = safe_discard_after(r->safe, r->applied, err);
    // No room for another segment: where all that stays is settled, the one that is there can begin anew.
    if (rc == -ENOSPC && r->applied == r->settled && r->applied_epoch)
        rc = safe_restart(r->safe, r->applied_epoch, r->applied + 1, err);
    if (rc < 0)
        return rc;
    replica_drop_held(r);
    drop_gates(r);
    r->received = r->synced = r->durable = r->applied;
    safe_stats(r->safe, &stats);
    r->received_epoch = r->synced_epoch = stats.epoch;
    r->queued_bytes = 0;
    r->hole = false;
    return 0;
}

// What is settled is forgotten, too: an opening replays whatever is still held, and by then this end
// may have served, with newer content on its stores than the queue knows of.
static int finish_forget(struct replica *r, struct error *err)
{
    struct safe_stats stats;

    safe_stats(r->safe, &stats);
    if (stats.segments_used == 0 || stats.first > stats.last)
        return 0;
    ENSURE(stats.last == r->settled);
    int rc = safe_restart(r->safe, stats.epoch, r->settled + 1, err);
    if (rc == 0)
        replica_drop_held(r);
    return rc;
}

static void finish_step(struct replica *r)
{
    if (!r->finishing || r->finished || !drained(r) || r->stopped || (r->discard_told && !r->discard))
        return;
    struct replica_finish f = {
        .applied = r->applied,
        .epoch = r->applied_epoch ? r->applied_epoch : r->received_epoch,
        .discarded_records = r->received - r->applied + r->beyond_records,
        .discarded_bytes = r->queued_bytes + r->beyond_bytes,
        .reaches_confirmed = r->applied >= r->confirmed,
        .error = r->apply_error ? r->apply_error : r->queue_error,
        .reason = r->error,
    };
    if (!f.error && !r->discard && holds_more(r))
        replica_lost_collect(r);
    f.unknown = r->lost_unknown;
    f.discards = !f.error && !r->discard && (holds_more(r) || replica_loses(r));
    if (f.discards) {
        r->discard_told = true;
        r->finish_done(r->finish_arg, &f);
        return;
    }
    if (!f.error)
        f.error = finish_discard(r, &f.reason);
    if (!f.error)
        f.error = finish_forget(r, &f.reason);
    if (!f.error)
        replica_lost_forget(r);
    r->finished = true;
    r->finish_done(r->finish_arg, &f);
}

// ---- The crank ----

static void error_step(struct replica *r)
{
    if (!r->error.code || r->error_raised)
        return;
    r->error_raised = true;
    replica_raise(r, REPLICA_FAILED, r->applied, 0, NULL);
}

static void rate_step(struct replica *r)
{
    int64_t passed = r->now - r->rate_at;

    r->rate_at = r->now;
    if (r->rate_busy && passed > 0)
        r->rate_ns += passed;
    r->rate_busy = r->applied < r->durable;
    if (r->rate_ns < RATE_NS)
        return;
    uint64_t records = r->rate_records * (uint64_t)NS_PER_S / (uint64_t)r->rate_ns;
    uint64_t bytes = (uint64_t)((double)r->rate_bytes * (double)NS_PER_S / (double)r->rate_ns);
    r->records_per_s = r->records_per_s ? (r->records_per_s * 3 + records) / 4 : records;
    r->bytes_per_s = r->bytes_per_s ? (r->bytes_per_s * 3 + bytes) / 4 : bytes;
    r->rate_ns = 0;
    r->rate_records = r->rate_bytes = 0;
}

static void check(const struct replica *r)
{
    ENSURE(r->received >= r->synced);
    ENSURE(r->synced >= r->durable);
    ENSURE(r->durable >= r->applied);
    ENSURE(r->applied >= r->settled);
    ENSURE(r->op_count <= REPLICA_FLIGHT_MAX);
    ENSURE(!r->epoch_gates || r->durable < r->epoch_gates->seq);
}

void replica_run(struct replica *r)
{
    r->again = true;
    if (r->running)
        return;
    r->running = true;
    while (r->again) {
        r->again = false;
        replica_sync_step(r);
        replica_durable_step(r);
        if (r->ack_now)
            replica_ack_step(r); // somebody waits: before the replica's writes
        replica_apply_step(r);
        replica_settle_step(r);
        restart_step(r);
        finish_step(r);
        settle_report(r);
        error_step(r);
    }
    check(r);
    replica_ack_step(r);
    rate_step(r);
    r->running = false;
}

void replica_consent(struct replica *r, uint64_t seq)
{
    struct epoch_gate *gate = r->epoch_gates;

    if (gate && gate->seq == seq && gate->raised) {
        r->epoch_gates = gate->next;
        if (!r->epoch_gates)
            r->epoch_gates_end = &r->epoch_gates;
        free(gate);
    } else if (r->apply_gate == seq && r->apply_gate_raised) {
        r->apply_gate_open = true;
    }
    replica_run(r);
}

int64_t replica_deadline(const struct replica *r)
{
    int64_t at = INT64_MAX;

    if (r->stopped)
        return at;
    if (r->unsynced_bytes > 0 && !r->syncing && !r->queue_error)
        at = MIN(at, r->last_append_at + REPLICA_QUIET_NS);
    if (r->restarting && r->restart_retry_at)
        at = MIN(at, r->restart_retry_at);
    bool last = r->finishing || r->restarting; // then the flush is behind what is applied last, whenever that is
    if (r->applied > r->settled && !r->flushing && !r->apply_error && !last)
        at = MIN(at, r->unflushed_since + REPLICA_SETTLE_NS);
    if (r->session && !r->restarting) {
        at = MIN(at, r->ack_due);
        if (r->full)
            at = MIN(at, r->full_retry_at);
    }
    // Right after an opening nothing has turned yet.
    if (r->applied < r->durable && replica_idle(r) && !r->paused && !r->apply_gate &&
        !replica_failure(r))
        at = MIN(at, r->now);
    if (r->epoch_gates && !r->epoch_gates->raised && r->epoch_gates->seq <= r->synced)
        at = MIN(at, r->now);
    return at;
}

void replica_work(struct replica *r, int64_t now)
{
    r->now = now;
    replica_run(r);
}

// In front of a gate that holds it back, durable is in the parent of the epoch that the gate opens.
static uint64_t durable_epoch(const struct replica *r)
{
    const struct epoch_gate *gate = r->epoch_gates;

    if (!gate || gate->seq > r->synced)
        return r->synced_epoch;
    return gate->epoch.parents ? gate->epoch.parent[0].id : 0;
}

void replica_stats(const struct replica *r, struct replica_stats *ret)
{
    *ret = (struct replica_stats){
        .session = r->session,
        .epoch = r->received_epoch,
        .durable_epoch = durable_epoch(r),
        .received = r->received,
        .durable = r->durable,
        .applied = r->applied,
        .settled = r->settled,
        .applied_epoch = r->applied_epoch,
        .confirmed = r->confirmed,
        .queued_records = r->received - r->applied,
        .queued_bytes = r->queued_bytes,
        .oldest_time = r->received > r->applied ? replica_oldest_time(r) : 0,
        .newest_time = r->newest_time,
        .newest_at = r->newest_at,
        .replay_records_per_s = r->records_per_s,
        .replay_bytes_per_s = r->bytes_per_s,
        .batches = r->batches,
        .duplicates = r->duplicates,
        .refused = r->refused,
        .resends = r->resends,
        .full = r->full,
        .paused = r->paused,
        .finishing = r->finishing,
        .gated = r->epoch_gates || r->apply_gate,
        .salvaging = r->salvage_objects,
        .salvage_waits = r->salvage_refused != 0,
        .failure = replica_failure(r),
        .over = r->apply_error || r->queue_error || r->hole,
    };
    safe_stats(r->safe, &ret->safe);
}
