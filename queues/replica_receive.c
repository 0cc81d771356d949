// SPDX-License-Identifier: Apache-2.0
// The receiving side of the replica: messages into the safe queue, syncs, acknowledgements.
//
// A sync covers what was appended before it was started, and the barriers that came before it; one
// is under way at a time, and whoever comes while it is waits for the next. Epoch openings hold
// `durable` back, not the syncs.
#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "queues/replica_internal.h"

// ---- Gates of epochs ----

const char *replica_add_gate(struct replica *r, const struct record *record, const void *payload)
{
    struct epoch epoch;
    const char *broken = epoch_decode(payload, le32_get(record->payload), &epoch);

    if (broken)
        return broken;
    if (epoch.id != le64_get(record->epoch) || epoch.first_seq != le64_get(record->seq))
        return "an epoch's opening stands at another place than it says";
    struct epoch_gate *gate = calloc(1, sizeof(*gate));
    if (!gate)
        return "no memory for an epoch's opening";
    *gate = (struct epoch_gate){.seq = le64_get(record->seq), .epoch = epoch};
    *r->epoch_gates_end = gate;
    r->epoch_gates_end = &gate->next;
    return NULL;
}

void replica_durable_step(struct replica *r)
{
    // A consent may come from within the event: look again each time.
    while (r->epoch_gates && r->epoch_gates->seq <= r->synced && !r->epoch_gates->raised) {
        struct epoch_gate *gate = r->epoch_gates;
        struct epoch epoch = gate->epoch;
        gate->raised = true;
        replica_raise(r, REPLICA_GATE_EPOCH, gate->seq, 0, &epoch);
    }
    uint64_t durable = r->epoch_gates ? MIN(r->synced, r->epoch_gates->seq - 1) : r->synced;
    ENSURE(durable >= r->durable);
    r->durable = durable;
    if (r->barrier_done < r->barrier_ready && durable >= r->barrier_ready_seq) {
        r->barrier_done = r->barrier_ready;
        r->ack_now = true;
    }
}

// ---- Syncs ----

static void sync_done(void *arg, int status)
{
    struct replica *r = arg;

    r->syncing = false;
    if (status < 0) {
        struct error err = {0};
        (void)error_sys(&err, status, "safe queue: a sync failed");
        replica_fail_queue(r, status, &err);
    } else {
        ENSURE(r->sync_seq >= r->synced);
        r->synced = r->sync_seq;
        r->synced_epoch = r->sync_epoch;
        r->barrier_ready = MAX(r->barrier_ready, r->sync_barrier);
        r->barrier_ready_seq = r->synced;
        r->ack_now = true;
    }
    replica_run(r);
}

static bool sync_due(const struct replica *r)
{
    if (r->syncing || r->stopped || r->queue_error || r->unsynced_bytes == 0)
        return false;
    return r->sync_wanted || r->unsynced_bytes >= REPLICA_SYNC_BYTES || replica_in_haste(r) ||
           r->now - r->last_append_at >= REPLICA_QUIET_NS;
}

void replica_sync_step(struct replica *r)
{
    if (!sync_due(r))
        return;
    r->syncing = true;
    r->sync_wanted = false;
    r->unsynced_bytes = 0;
    r->sync_seq = r->received;
    r->sync_epoch = r->received_epoch;
    r->sync_barrier = r->barrier_newest;
    safe_sync(r->safe, sync_done, r);
}

// A barrier: done when everything before it is durable.
static void take_barrier(struct replica *r, uint64_t number)
{
    r->barrier_newest = MAX(r->barrier_newest, number);
    if (r->unsynced_bytes > 0) {
        r->sync_wanted = true; // of its own, if one is under way
    } else if (r->syncing) {
        // Everything was written before that one was submitted: it covers this barrier, too.
        r->sync_barrier = r->barrier_newest;
    } else if (!r->queue_error) {
        r->barrier_ready = r->barrier_newest;
        r->barrier_ready_seq = r->synced;
    }
}

// ---- Acknowledgements ----

// One that asks for something, and is not repeated for every message that calls for it.
static void ask(struct replica *r, bool resend)
{
    if (r->now - r->resend_sent_at < REPLICA_RESEND_NS)
        return;
    r->resend_sent_at = r->now;
    r->ack_now = true;
    r->ack_resend = r->ack_resend || resend;
}

static bool ack_changed(const struct replica *r)
{
    const struct batch_ack *a = &r->acked;
    return le64_get(a->received) != r->received || le64_get(a->durable) != r->durable ||
           le64_get(a->applied) != r->applied || le64_get(a->settled) != r->settled;
}

static void ack_send(struct replica *r)
{
    int failure = replica_failure(r);
    unsigned flags =
        (r->ack_resend ? ACK_RESEND : 0) | (failure ? ACK_FAILED : 0) | (r->full ? ACK_FULL : 0);

    ENSURE(r->received >= r->durable && r->durable >= r->applied && r->applied >= r->settled);
    r->resends += r->ack_resend;
    r->acked = (struct batch_ack){
        .flags = le16_make((uint16_t)flags),
        .session = le64_make(r->session),
        .received = le64_make(r->received),
        .durable = le64_make(r->durable),
        .applied = le64_make(r->applied),
        .settled = le64_make(r->settled),
        .barrier = le64_make(r->barrier_done),
        .error = le32_make((uint32_t)-failure),
    };
    batch_ack_seal(&r->acked);
    r->ack_now = r->ack_resend = false;
    r->ack_due = INT64_MAX;
    r->confirmed = MAX(r->confirmed, r->durable);
    r->hooks.send(r->hooks.arg, &r->acked, sizeof(r->acked));
}

void replica_ack_step(struct replica *r)
{
    if (r->session == 0 || r->restarting || r->stopped)
        return;
    if (r->full && r->now >= r->full_retry_at) {
        r->full_retry_at = r->now + REPLICA_FULL_RETRY_NS;
        r->ack_now = r->ack_resend = true;
    }
    if (!r->ack_now && r->ack_due == INT64_MAX && ack_changed(r))
        r->ack_due = r->now + REPLICA_ACK_NS;
    if (r->ack_now || r->now >= r->ack_due)
        ack_send(r);
}

// ---- Messages ----

static bool payloads_match(const struct batch *b)
{
    const struct record *records = (const struct record *)(b + 1);
    uint32_t count = le32_get(b->count);
    const uint8_t *payload = (const uint8_t *)(records + count);

    for (uint32_t i = 0; i < count; i++) {
        if (!record_payload_matches(&records[i], payload))
            return false;
        payload += le32_get(records[i].payload);
    }
    return true;
}

// What the batch adds is taken note of: gates, bytes, positions.
static void take_records(struct replica *r, const struct batch *b)
{
    const struct record *records = (const struct record *)(b + 1);
    uint32_t count = le32_get(b->count);
    const uint8_t *payload = (const uint8_t *)(records + count);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = le32_get(records[i].payload);
        if (le64_get(records[i].seq) > r->received) {
            r->queued_bytes += bytes;
            // It is applied when it is durable, and only then answered.
            r->sync_wanted = r->sync_wanted || records[i].type == RECORD_CHECK;
            const char *broken =
                records[i].type == RECORD_EPOCH ? replica_add_gate(r, &records[i], payload) : NULL;
            // It was appended and cannot be passed: the active end does not do this.
            if (broken) {
                struct error err = {0};
                (void)error_set(&err, -EPROTO, "record %llu: %s",
                                (unsigned long long)le64_get(records[i].seq), broken);
                replica_fail_queue(r, -EPROTO, &err);
                return;
            }
        }
        payload += bytes;
    }
    r->received = le64_get(b->first_seq) + count - 1;
    r->received_epoch = le64_get(records[count - 1].epoch);
    r->newest_time = le64_get(records[count - 1].time);
    r->newest_at = r->now;
}

void replica_note_full(struct replica *r)
{
    if (!r->full) {
        r->full = true;
        r->full_retry_at = r->now + REPLICA_FULL_RETRY_NS;
        replica_raise(r, REPLICA_FULL, r->received, 0, NULL);
    }
    ask(r, false);
}

void replica_note_room(struct replica *r)
{
    if (!r->full)
        return;
    r->full = false;
    replica_raise(r, REPLICA_ROOM, r->received, 0, NULL);
}

// Appends the batch. 0: it is kept in memory or in the queue, and is not the caller's any more.
static int append(struct replica *r, void *message, size_t size)
{
    struct error err = {0};
    uint64_t from = r->received + 1;
    struct safe_cursor end = safe_end(r->safe);
    int rc = safe_append(r->safe, message, size, &err);

    if (rc == -ENOSPC)
        replica_note_full(r);
    else if (rc < 0)
        replica_fail_queue(r, rc, &err);
    if (rc < 0)
        return rc;
    replica_note_room(r);
    r->beyond_records = r->beyond_bytes = 0; // what lay behind the cut comes again
    r->unsynced_bytes += size;
    r->last_append_at = r->now;
    take_records(r, message);
    bool room = r->held_bytes == 0 || r->held_bytes + size <= r->config.window;
    if (!r->spilled && room && replica_keep(r, message, size, from, r->received + 1, false))
        return 0;
    if (!r->spilled)
        r->spill = end;
    r->spilled = true;
    r->hooks.release(r->hooks.arg, message);
    return 0;
}

// Returns whether the message has found an owner.
static bool take_batch(struct replica *r, void *message, size_t size)
{
    const struct batch *b = message;
    uint64_t first = le64_get(b->first_seq);
    uint32_t count = le32_get(b->count);
    bool taken = false;

    r->batches++;
    if (first > r->received + 1) {
        // While it is full, what follows a batch that found no room is missing for a known reason.
        ask(r, !r->full);
        return false;
    }
    if (count > 0 && first + count - 1 > r->received) {
        if (!payloads_match(b)) {
            r->refused++;
            ask(r, true);
            return false;
        }
        if (append(r, message, size) < 0)
            return false;
        taken = true;
    } else if (count > 0) {
        r->duplicates++;
        r->ack_now = true; // sent again: what was said of it is lost
    }
    return taken;
}

// Returns whether the message has found an owner.
static bool take_message(struct replica *r, void *message, size_t size)
{
    if (r->session == 0 || r->restarting || r->finishing || r->stopped) {
        r->refused++;
        return false;
    }
    ENSURE((uintptr_t)message % 8 == 0);
    const struct batch *b = message;
    if (batch_invalid(message, size)) {
        r->refused++;
        ask(r, true);
        return false;
    }
    if (le64_get(b->session) != r->session) {
        r->refused++;
        return false;
    }
    if (replica_failure(r) < 0) {
        ask(r, false);
        return false;
    }
    // The message may be gone after the next call.
    uint64_t end = le64_get(b->first_seq) + le32_get(b->count) - 1;
    uint64_t barrier = le64_get(b->barrier);
    bool taken = take_batch(r, message, size);
    if (barrier && r->received >= end)
        take_barrier(r, barrier);
    return taken;
}

void replica_receive(struct replica *r, void *message, size_t size, int64_t now)
{
    r->now = now;
    if (!take_message(r, message, size))
        r->hooks.release(r->hooks.arg, message);
    replica_run(r);
}
