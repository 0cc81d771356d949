// SPDX-License-Identifier: Apache-2.0
// Resync chunks and checks: ranges that are read and streamed, in order with the guest's updates of
// the same range. A copy holds its range from its read until its record has its seq, so that its
// place in the stream is that of what it read. The read goes straight into the ring.
//
// Invariants:
//   1. a copy waits for room in the queue before it holds its range, never after: a slow link
//      never holds up a guest;
//   2. copies alone never fill the queue: they start only while it is less than half full, an
//      eighth of it at a time;
//   3. every copy that was accepted ends with exactly one UPDATES_EVENT_COPIED.
#include <errno.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "queues/batch.h"
#include "queues/updates_private.h"

_Static_assert(UPDATES_COPY_BYTES_MAX <= CHECK_BLOCKS_MAX * CHECK_BLOCK_SIZE,
               "a check of the largest copy fits one record");

void copies_init(struct updates *u)
{
    for (unsigned i = 0; i < UPDATES_COPIES_MAX; i++)
        update_push(&u->copies_free, &u->copies[i]);
}

static int copy_accept(struct updates *u, int op, uint16_t flags, uint16_t object, uint64_t offset, uint32_t length)
{
    ENSURE(object < RECORD_OBJECTS_MAX);
    const struct block *block = u->volumes[object].block;
    if (!block)
        return -ENODEV;
    if (length == 0 || length > UPDATES_COPY_BYTES_MAX || offset > block->size ||
        length > block->size - offset || length > unsafe_payload_max(u->unsafe))
        return -EINVAL;
    if (u->answers.gate == UPDATES_CLOSED)
        return -ESHUTDOWN;
    struct update *copy = update_pop(&u->copies_free);
    if (!copy)
        return -EAGAIN;
    *copy = (struct update){
        .op = (enum update_op)op, .flags = flags, .object = object, .offset = offset, .length = length};
    copy->range.owner = copy;
    u->waiting++;
    update_push(&u->copies_new, copy);
    return 0;
}

int updates_resync_chunk(struct updates *u, uint16_t object, uint64_t offset, uint32_t length)
{
    return copy_accept(u, UPDATE_RESYNC, 0, object, offset, length);
}

int updates_check(struct updates *u, uint16_t object, uint64_t offset, uint32_t length, bool coarse)
{
    return copy_accept(u, UPDATE_CHECK, coarse ? UPDATE_COARSE : 0, object, offset, length);
}

// `copy` is free for the next one before anybody hears of its end.
static void copy_end(struct updates *u, struct update *copy, int status, uint64_t seq)
{
    struct update ended = *copy;
    update_push(&u->copies_free, copy);
    updates_tell(u, UPDATES_EVENT_COPIED, &ended, status, seq);
}

void copies_refuse_new(struct updates *u, int status)
{
    struct update *copy;
    while ((copy = update_pop(&u->copies_new))) {
        u->waiting--;
        copy_end(u, copy, status, 0);
    }
}

static bool has_room(const struct updates *u, const struct update *copy)
{
    return u->level == UNSAFE_LOW &&
           (u->copy_bytes == 0 || u->copy_bytes + copy->length <= unsafe_ring_bytes(u->unsafe) / 8);
}

// One check in each round of a kick: what is cached, or a hole, is read within it, and the next one gets the room that the
// first has given back. Otherwise checks of which eight bytes in 4096 remain would fill the queue.
void copies_kick(struct updates *u)
{
    struct update *copy;
    bool check = false;
    while (!check && (copy = u->copies_new.first) && u->answers.gate != UPDATES_HELD && has_room(u, copy)) {
        check = (int)copy->op == UPDATE_CHECK;
        (void)update_pop(&u->copies_new);
        u->copy_bytes += copy->length;
        if (overlap_add(u->overlap, &copy->range, copy->object, copy->offset, copy->length,
                        u->volumes[copy->object].order_size))
            copy_start(u, copy);
    }
    u->progress |= check;
}

static void copy_leave(struct updates *u, struct update *copy, int status, uint64_t seq)
{
    u->copy_bytes -= copy->length;
    updates_leave_order(u, copy);
    copy_end(u, copy, status, seq);
}

void copy_refuse(struct updates *u, struct update *copy, int status)
{
    u->waiting--;
    copy_leave(u, copy, status, 0);
}

// ---- Read ----

// Room for what is read: 0, or -errno when there is none after all.
static int take_chunk(struct updates *u, struct update *copy)
{
    size_t room;
    int r = unsafe_reserve(u->unsafe);
    if (r < 0)
        return -EAGAIN;
    const struct block *block = u->volumes[copy->object].block;
    uint32_t size = MAX(copy->length, (uint32_t)sizeof(struct le64));
    if (!unsafe_head(u->unsafe, MIN(MAX(block->data_align, 8U), 4096U), &room)) {
        unsafe_unreserve(u->unsafe);
        return -EAGAIN;
    }
    copy->chunk = unsafe_keep(u->unsafe, size);
    if (copy->chunk == UNSAFE_NO_CHUNK) {
        unsafe_unreserve(u->unsafe);
        return -ENOMEM;
    }
    return 0;
}

static void copy_read(struct block_request *request, int status);

void copy_start(struct updates *u, struct update *copy)
{
    int r = 0;
    if (u->answers.gate == UPDATES_HELD) {
        updates_stall(u, copy);
        return;
    }
    if (u->answers.gate == UPDATES_CLOSED)
        r = -ESHUTDOWN;
    else if (!u->volumes[copy->object].block)
        r = -ENODEV;
    else
        r = take_chunk(u, copy);
    if (r < 0) {
        copy_refuse(u, copy, r);
        return;
    }
    u->waiting--;
    updates_to_store(u, copy, BLOCK_READ, unsafe_chunk_data(u->unsafe, copy->chunk), copy_read);
}

// ---- Numbered ----

// `zeros`: the data was not read, it is known to be zeros.
static uint64_t copy_number(struct updates *u, struct update *copy, bool zeros)
{
    struct unsafe_update record = {
        .object = copy->object, .offset = copy->offset, .length = copy->length};
    uint8_t *data = unsafe_chunk_data(u->unsafe, copy->chunk);
    uint64_t chunk = copy->chunk;
    if ((int)copy->op == UPDATE_CHECK) {
        record.type = RECORD_CHECK;
        uint32_t unit = copy->flags & UPDATE_COARSE ? CHECK_COARSE_SIZE : CHECK_BLOCK_SIZE;
        record.flags = copy->flags & UPDATE_COARSE ? RECORD_COARSE : 0;
        unsafe_shrink(u->unsafe, chunk, check_sums(zeros ? NULL : data, copy->length, unit, data));
    } else if (zeros || bytes_are_zero(data, copy->length)) {
        record.type = RECORD_RESYNC_ZERO;
        unsafe_drop(u->unsafe, chunk);
        chunk = UNSAFE_NO_CHUNK;
    } else {
        record.type = RECORD_RESYNC;
        unsafe_shrink(u->unsafe, chunk, copy->length);
    }
    updates_numbered(u);
    return unsafe_append_reserved(u->unsafe, &record, chunk, u->ops.stamp_ns(u->user));
}

static void copy_read(struct block_request *request, int status)
{
    struct update *copy = request->owner;
    struct updates *u = copy->updates;
    uint64_t seq = 0;
    updates_from_store(u);
    if (status < 0) {
        unsafe_drop(u->unsafe, copy->chunk);
        unsafe_unreserve(u->unsafe);
    } else {
        seq = copy_number(u, copy, request->zeros);
    }
    copy_leave(u, copy, status, seq);
}
