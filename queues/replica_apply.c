// SPDX-License-Identifier: Apache-2.0
// The replaying side of the replica: records that are durable, in order, onto the volumes; then
// flushes.
//
// Many records are under way at once, but never two that share a block: the one that would stops
// everything behind it until the other is done. `applied` is the last one before the first that is
// not done. Records come from messages in memory, and behind those from the safe queue.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "queues/replica_internal.h"

#define BUFFER_ALIGN 4096U

// ---- Buffers ----

// Of checks, whose buffers are large and whose turn comes again and again, a few are kept.
static void *take_check_buffer(struct replica *r)
{
    void *buffer = r->spare_count > 0 ? r->spares[--r->spare_count] : NULL;
    if (!buffer && posix_memalign(&buffer, REPLICA_CHECK_ALIGN, (size_t)CHECK_BLOCKS_MAX * CHECK_BLOCK_SIZE))
        return NULL;
    r->checks++;
    return buffer;
}

static void put_buffer(struct op *op)
{
    struct replica *r = op->replica;

    if (op->buffer && op->record->type == RECORD_CHECK) {
        ENSURE(r->checks > 0);
        r->checks--;
        r->spares[r->spare_count++] = op->buffer;
    } else {
        free(op->buffer);
    }
    op->buffer = NULL;
}

void replica_drop_spares(struct replica *r)
{
    while (r->spare_count > 0)
        free(r->spares[--r->spare_count]);
}

// ---- Messages in memory ----

static const struct record *held_records(const struct held *h)
{
    return (const struct record *)((const struct batch *)h->message + 1);
}

static uint32_t held_count(const struct held *h)
{
    return le32_get(((const struct batch *)h->message)->count);
}

// Moves to the first record that counts.
static void held_skip(struct held *h)
{
    const struct record *records = held_records(h);
    while (h->index < held_count(h) && le64_get(records[h->index].seq) < h->from) {
        h->payload_at += le32_get(records[h->index].payload);
        h->index++;
    }
    ENSURE(h->index < held_count(h));
}

bool replica_keep(struct replica *r, void *message, size_t size, uint64_t from, uint64_t upto,
                  bool own)
{
    struct held *h = calloc(1, sizeof(*h));

    if (!h)
        return false;
    *h = (struct held){.message = message, .size = size, .own = own, .users = 1};
    h->from = from;
    h->upto = upto;
    held_skip(h);
    *r->held_end = h;
    r->held_end = &h->next;
    r->held_bytes += size;
    return true;
}

static void held_put(struct replica *r, struct held *h)
{
    ENSURE(h->users > 0);
    if (--h->users > 0)
        return;
    r->held_bytes -= h->size;
    if (h->own)
        free(h->message);
    else
        r->hooks.release(r->hooks.arg, h->message);
    free(h);
}

static void held_pop(struct replica *r)
{
    struct held *h = r->held;
    r->held = h->next;
    if (!r->held)
        r->held_end = &r->held;
    held_put(r, h);
}

void replica_drop_held(struct replica *r)
{
    for (; r->op_count > 0; r->op_count--) {
        struct op *op = &r->ops[r->op_head];
        r->op_head = (r->op_head + 1) % REPLICA_FLIGHT_MAX;
        put_buffer(op);
        free(op->piece_data);
        held_put(r, op->held);
    }
    while (r->held)
        held_pop(r);
    r->spilled = false;
}

// Reads the next entry from the safe queue when there is nothing in front of it in memory.
static void held_load(struct replica *r)
{
    struct error err = {0};
    uint64_t from = r->spill.seq;
    void *message;
    size_t size;

    if (r->held || !r->spilled || from > r->durable || r->hole)
        return;
    int rc = safe_read(r->safe, &r->spill, &message, &size, &err);
    if (rc < 0) {
        replica_fail_hole(r, &err);
        return;
    }
    if (!replica_keep(r, message, size, from, r->spill.seq, true)) {
        free(message);
        r->spill.seq = from;
        (void)error_sys(&err, -ENOMEM, "replay");
        replica_fail_apply(r, -ENOMEM, &err);
        return;
    }
    if (r->spill.seq > r->received)
        r->spilled = false;
}

uint64_t replica_oldest_time(const struct replica *r)
{
    if (r->op_count > 0)
        return le64_get(r->ops[r->op_head].record->time);
    return r->held ? le64_get(held_records(r->held)[r->held->index].time) : 0;
}

// ---- Checks ----

static void send_answer(struct replica *r, const struct op *op, const uint8_t *bitmap,
                        uint32_t blocks)
{
    struct {
        struct batch_answer head;
        uint8_t bitmap[CHECK_BLOCKS_MAX / 8];
    } answer = {
        .head =
            {
                .object = le16_make(op->object),
                .session = le64_make(r->session),
                .seq = le64_make(op->seq),
                .offset = op->record->offset,
                .blocks = le32_make(blocks),
            },
    };
    size_t bytes = (blocks + 7) / 8;
    memcpy(answer.bitmap, bitmap, bytes);
    batch_answer_seal(&answer.head, answer.bitmap);
    r->hooks.send(r->hooks.arg, &answer, sizeof(answer.head) + bytes);
}

// What could not be read differs. Of zeros that the store only told of nothing was read.
static void check_compare(struct replica *r, const struct op *op, int status)
{
    uint8_t bitmap[CHECK_BLOCKS_MAX / 8] = {0};
    struct le64 found[CHECK_BLOCKS_MAX];
    uint32_t length = le32_get(op->record->length), unit = check_unit(op->record);
    uint32_t blocks = (length + CHECK_BLOCK_SIZE - 1) / CHECK_BLOCK_SIZE;

    // Asked in this session, or nobody waits for the answer.
    if (r->session == 0 || op->seq <= r->session_start)
        return;
    ENSURE(blocks > 0 && blocks <= CHECK_BLOCKS_MAX);
    if (status == 0)
        (void)check_sums(op->request.zeros ? NULL : op->buffer, length, unit, found);
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t sum = i / (unit / CHECK_BLOCK_SIZE);
        if (status < 0 || memcmp((const uint8_t *)op->payload + sum * sizeof(*found), &found[sum], sizeof(*found)) != 0)
            bitmap[i / 8] |= (uint8_t)(1U << i % 8);
    }
    send_answer(r, op, bitmap, blocks);
}

// ---- Completions ----

static bool is_data(const struct op *op)
{
    return op->first < op->end;
}

// Moves `applied` over what is done. Nothing behind a failure is counted.
static void advance(struct replica *r)
{
    while (r->op_count > 0 && r->ops[r->op_head].done && r->ops[r->op_head].status == 0) {
        struct op *op = &r->ops[r->op_head];
        uint64_t bytes = le32_get(op->record->payload);

        ENSURE(op->seq == r->applied + 1);
        ENSURE(op->seq <= r->durable);
        r->applied = op->seq;
        r->applied_epoch = le64_get(op->record->epoch);
        r->ack_now |= op->record->type == RECORD_MARK && op->record->mark == MARK_RESYNC_END; // the active end waits
        r->queued_bytes -= MIN(bytes, r->queued_bytes);
        r->rate_records++;
        r->rate_bytes += bytes;
        if (r->unflushed_bytes == 0)
            r->unflushed_since = r->now;
        r->unflushed_bytes += 1 + (is_data(op) ? le32_get(op->record->length) : 0);
        r->op_head = (r->op_head + 1) % REPLICA_FLIGHT_MAX;
        r->op_count--;
        held_put(r, op->held);
    }
}

static void op_done(struct op *op, int status)
{
    struct replica *r = op->replica;

    ENSURE(!op->done);
    if (op->record->type == RECORD_CHECK) {
        check_compare(r, op, status);
    } else if (status < 0) {
        struct error err = {0};
        (void)error_sys(
            &err, status, "replica of volume %u: %s of %u bytes at %llu (record %llu)", op->object,
            record_type_name(op->record->type), le32_get(op->record->length),
            (unsigned long long)le64_get(op->record->offset), (unsigned long long)op->seq);
        replica_fail_apply(r, status, &err);
        op->status = status;
    }
    put_buffer(op);
    op->done = true;
}

static void request_done(struct block_request *request, int status)
{
    struct op *op = request->owner;
    struct replica *r = op->replica;

    op_done(op, status);
    replica_run(r);
}

// ---- Issuing ----

// The volume of a record that touches data, or NULL with the reason.
static struct block *volume_of(const struct replica *r, const struct record *record,
                               struct error *err)
{
    struct block *block = r->config.volumes[le16_get(record->object)];
    uint64_t offset = le64_get(record->offset);
    uint64_t length = le32_get(record->length);

    if (!block)
        (void)error_set(err, -ENODEV, "record %llu is for volume %u, which this pair does not have",
                        (unsigned long long)le64_get(record->seq), le16_get(record->object));
    else if (offset > block->size || length > block->size - offset)
        (void)error_set(err, -ERANGE, "record %llu reaches behind the end of volume %u",
                        (unsigned long long)le64_get(record->seq), le16_get(record->object));
    else
        return block;
    return NULL;
}

static bool overlaps(const struct replica *r, uint16_t object, uint64_t first, uint64_t end)
{
    for (unsigned i = 0; i < r->op_count; i++) {
        const struct op *op = &r->ops[(r->op_head + i) % REPLICA_FLIGHT_MAX];
        if (!op->done && op->object == object && op->first < end && first < op->end)
            return true;
    }
    return false;
}

// The payload at an address that the volume can use.
static int op_payload(struct op *op, const struct block *block)
{
    size_t size = le32_get(op->record->length);
    size_t align = MAX(block->data_align, 1U);

    op->request.data = (void *)(uintptr_t)op->payload;
    if ((uintptr_t)op->payload % align == 0)
        return 0;
    if (posix_memalign(&op->buffer, MAX(align, BUFFER_ALIGN), size))
        return -ENOMEM;
    memcpy(op->buffer, op->payload, size);
    op->request.data = op->buffer;
    return 0;
}

static int op_prepare(struct op *op, const struct block *block)
{
    struct block_request *q = &op->request;

    q->offset = le64_get(op->record->offset);
    q->length = le32_get(op->record->length);
    switch (op->record->type) {
    case RECORD_WRITE:
    case RECORD_RESYNC:
        q->op = BLOCK_WRITE;
        return op_payload(op, block);
    case RECORD_CHECK:
        q->op = BLOCK_READ;
        q->flags = BLOCK_TELL_ZEROS;
        q->data = op->buffer = take_check_buffer(op->replica);
        return op->buffer ? 0 : -ENOMEM;
    case RECORD_DISCARD:
        q->op = BLOCK_DISCARD;
        return 0;
    default:
        ENSURE(op->record->type == RECORD_ZERO || op->record->type == RECORD_RESYNC_ZERO);
        q->op = BLOCK_ZERO;
        q->flags = op->record->flags & RECORD_NO_HOLE ? BLOCK_NO_HOLE : 0;
        return 0;
    }
}

// Gives a record that touches data its place. False: not yet, or never.
static bool place_data(struct replica *r, struct op *op)
{
    struct error err = {0};
    struct block *block = volume_of(r, op->record, &err);

    if (!block) {
        replica_fail_apply(r, err.code, &err);
        return false;
    }
    if (op->record->type == RECORD_CHECK && r->checks == REPLICA_CHECKS_MAX)
        return false;
    uint64_t step = replica_salvages(r, op->object) ? SALVAGE_BLOCK : 1;
    uint64_t mask = MAX(block->block_size, step) - 1;
    uint64_t offset = le64_get(op->record->offset);
    op->first = offset & ~mask;
    op->end = (offset + le32_get(op->record->length) + mask) & ~mask;
    return !overlaps(r, op->object, op->first, op->end);
}

void replica_op_start(struct replica *r, struct op *op)
{
    struct error err = {0};
    struct block *block = r->config.volumes[op->object];

    int rc = op_prepare(op, block);
    if (rc < 0) {
        (void)error_sys(&err, rc, "replay");
        replica_fail_apply(r, rc, &err);
        op->status = rc;
        op->done = true;
        return;
    }
    op->request.done = request_done;
    op->request.owner = op;
    if (op->record->type != RECORD_CHECK)
        r->dirty[op->object] = true;
    r->kick[op->object] = true;
    block_submit(block, &op->request);
}

// Whether a mark lets the replay pass: after the end's consent, RESYNC_END only when all before it is settled, and
// RESYNC_BEGIN when what checks may find equal will last.
static bool mark_passes(struct replica *r, const struct record *record)
{
    uint64_t seq = le64_get(record->seq);

    if (record->mark != MARK_RESYNC_BEGIN && record->mark != MARK_RESYNC_END)
        return true;
    if (r->apply_gate != seq) {
        r->apply_gate = seq;
        r->apply_gate_raised = r->apply_gate_open = false;
    }
    bool end = record->mark == MARK_RESYNC_END;
    if (!r->apply_gate_raised && (end ? r->settled == seq - 1 : !r->unproven)) {
        r->apply_gate_raised = true;
        replica_raise(r, end ? REPLICA_GATE_RESYNC_END : REPLICA_GATE_RESYNC_BEGIN, seq,
                      le16_get(record->object), NULL);
    }
    if (!r->apply_gate_open)
        return false;
    r->apply_gate = 0;
    if (end && !r->restarting) // of a stream that is replaced it says nothing of what is there now
        replica_salvaged(r, le16_get(record->object));
    return true;
}

static bool touches_data(const struct record *record)
{
    return record->type != RECORD_MARK && record->type != RECORD_EPOCH;
}

// Starts the next record in line. False: not now.
static bool issue_next(struct replica *r)
{
    held_load(r);
    struct held *h = r->held;
    if (!h || r->op_count == REPLICA_FLIGHT_MAX || (r->paused && !r->finishing && !r->restarting))
        return false;
    const struct record *record = &held_records(h)[h->index];
    uint64_t seq = le64_get(record->seq);
    ENSURE(seq == r->applied + r->op_count + 1);
    if (seq > r->durable || (record->type == RECORD_MARK && !mark_passes(r, record)))
        return false;

    struct op *op = &r->ops[(r->op_head + r->op_count) % REPLICA_FLIGHT_MAX];
    *op = (struct op){
        .replica = r,
        .held = h,
        .record = record,
        .payload = (const uint8_t *)(held_records(h) + held_count(h)) + h->payload_at,
        .seq = seq,
        .object = le16_get(record->object),
    };
    if (touches_data(record) && !place_data(r, op))
        return false;
    r->op_count++;
    h->users++;
    h->index++;
    h->payload_at += le32_get(record->payload);
    if (seq + 1 >= h->upto)
        held_pop(r);
    if (!touches_data(record))
        op_done(op, 0);
    else if (!replica_keep_first(r, op))
        replica_op_start(r, op);
    return true;
}

void replica_apply_step(struct replica *r)
{
    advance(r);
    while (!r->apply_error && !r->stopped && issue_next(r))
        advance(r);
    replica_salvage_step(r);
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++)
        if (r->kick[i]) {
            r->kick[i] = false;
            block_kick(
                r->config.volumes[i]); // may complete requests: the crank turns once more then
        }
}

// ---- Settling ----

static void flush_finish(struct replica *r)
{
    if (r->flush_status < 0 || r->apply_error)
        return;
    ENSURE(r->flush_target >= r->settled && r->flush_target <= r->applied);
    r->settled = r->flush_target;
    r->unproven = false;
    replica_drop_spares(r); // once in a while: whoever checks on takes them anew
    safe_settled(r->safe, r->settled);
    r->ack_now = r->ack_now || r->full;
    r->ack_resend = r->ack_resend || r->full; // there may be room now
}

static void flush_done(struct block_request *request, int status)
{
    struct replica *r = request->owner;

    if (status < 0) {
        struct error err = {0};
        (void)error_sys(&err, status, "replica of volume %u: a flush failed",
                        (unsigned)(request - r->flushes));
        r->flush_status = status;
        replica_fail_apply(r, status, &err);
    }
    ENSURE(r->flushing > 0);
    if (--r->flushing == 0)
        flush_finish(r);
    replica_run(r);
}

static bool flush_due(const struct replica *r)
{
    if (r->flushing || r->stopped || r->apply_error)
        return false;
    bool gate = r->apply_gate == r->applied + 1 && !r->apply_gate_raised; // RESYNC_END and the first RESYNC_BEGIN wait
    if (gate && r->unproven)
        return true;
    if (r->applied == r->settled)
        return false;
    if (r->settle_done && r->applied >= r->settle_target && r->settled < r->settle_target)
        return true;
    if (gate)
        return true;
    if (r->finishing || r->restarting) // once, when there is nothing more to apply
        return r->op_count == 0;
    return r->unflushed_bytes >= REPLICA_SETTLE_BYTES || safe_wants_room(r->safe, r->applied) ||
           r->now - r->unflushed_since >= REPLICA_SETTLE_NS;
}

// What is under way now may complete behind the flush.
static void mark_dirty(struct replica *r)
{
    for (unsigned i = 0; i < r->op_count; i++) {
        const struct op *op = &r->ops[(r->op_head + i) % REPLICA_FLIGHT_MAX];
        if (is_data(op) && op->record->type != RECORD_CHECK)
            r->dirty[op->object] = true;
    }
}

void replica_settle_step(struct replica *r)
{
    if (!flush_due(r))
        return;
    r->flush_target = r->applied;
    r->flush_status = 0;
    r->unflushed_bytes = 0;
    r->flushing = 1; // this function's own
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++) {
        if (!r->dirty[i])
            continue;
        r->dirty[i] = false;
        r->flushing++;
        r->flushes[i] = (struct block_request){.op = BLOCK_FLUSH, .done = flush_done, .owner = r};
        block_submit(r->config.volumes[i], &r->flushes[i]);
        r->kick[i] = true;
    }
    mark_dirty(r);
    if (--r->flushing == 0)
        flush_finish(r);
    r->again = true; // to kick
}
