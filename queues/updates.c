// SPDX-License-Identifier: Apache-2.0
// The life of an update on the active end (what is done with all of them together: updates_control.c). In this file from top
// to bottom as it happens:
//
//   taken in      updates_submit(): nothing but put in line
//   ordered       take_in(): checked, and held while a range that it overlaps is in flight
//   committed     start(): the map is asked, the update gets its slot in the unsafe queue
//   written       updates_to_store()
//   numbered      write_done(): the next seq, or a mark when it failed; its range is free
//   flushed       flush_arrives(), for flushes and FUA
//   answered      answer.c says when; updates_deliver() does it
//
// Invariants:
//   1. two updates whose ranges share a block are never at the store together, copies included;
//   2. an update is committed before it is at the store, and numbered before it is answered
//      without error;
//   3. a flush is answered only by a sync that was submitted after the flush arrived;
//   4. once a flush has failed, no later write or flush of the volume succeeds until it gets its
//      store anew;
//   5. nothing is at a store that was taken in while the gate was CLOSED; nothing gets there while
//      it is HELD.
#include "queues/updates.h"

#include <errno.h>

#include "common/base/cleanup.h"
#include "queues/updates_private.h"

_Static_assert(RECORD_OBJECTS_MAX <= 64, "the masks of volumes have 64 bits");

static struct update *update_of(struct answer *answer)
{
    return (struct update *)((char *)answer - offsetof(struct update, waits));
}

// ---- Telling ----

void updates_tell(struct updates *u, enum updates_event_kind kind, const struct update *update,
                  int status, uint64_t seq)
{
    struct updates_event event = {
        .kind = kind,
        .level = u->level,
        .object = update->object,
        .status = status,
        .length = update->length,
        .offset = update->offset,
        .seq = seq,
    };
    u->ops.event(u->user, &event);
}

static void answer(struct updates *u, struct update *update, uint64_t seq, int status)
{
    answers_add(&u->answers, &update->waits, seq, status, true);
}

// ---- Taken in ----

void updates_submit(struct updates *u, struct update *update)
{
    ENSURE(update->object < RECORD_OBJECTS_MAX);
    ENSURE(update->op <= UPDATE_FLUSH && update->answer);
    update->range.owner = update;
    u->waiting++;
    update_push(&u->taken, update);
}

static bool is_copy(const struct update *update)
{
    return update->op > UPDATE_FLUSH;
}

static bool writes(const struct update *update)
{
    return update->op == UPDATE_WRITE || update->op == UPDATE_ZERO || update->op == UPDATE_DISCARD;
}

// Before it holds a range.
void updates_refuse(struct updates *u, struct update *update, int status)
{
    u->waiting--;
    if (update->op == UPDATE_WRITE)
        unsafe_drop(u->unsafe, update->chunk);
    answer(u, update, 0, status);
}

// 0, or the error with which a request is refused at once.
static int unfit(const struct updates *u, const struct update *update)
{
    const struct volume *volume = &u->volumes[update->object];
    if (!volume->block)
        return -ENODEV;
    if (update->op == UPDATE_FLUSH)
        return 0;
    if (update->length == 0 || update->offset > volume->block->size ||
        update->length > volume->block->size - update->offset)
        return -EINVAL;
    return 0;
}

// ---- Ordered ----

static void start(struct updates *u, struct update *update);
static void flush_arrives(struct updates *u, struct update *update);
static void read_done(struct block_request *request, int status);

static void take_in(struct updates *u, struct update *update)
{
    int status = u->answers.gate == UPDATES_CLOSED ? -ESHUTDOWN : unfit(u, update);
    if (status < 0) {
        updates_refuse(u, update, status);
        return;
    }
    if (update->op == UPDATE_READ) {
        u->waiting--;
        updates_to_store(u, update, BLOCK_READ, update->data, read_done);
    } else if (update->op == UPDATE_FLUSH) {
        u->waiting--;
        flush_arrives(u, update);
    } else if (overlap_add(u->overlap, &update->range, update->object, update->offset,
                           update->length, u->volumes[update->object].order_size)) {
        start(u, update);
    }
}

void updates_leave_order(struct updates *u, struct update *update)
{
    struct overlap_range *range = overlap_remove(u->overlap, &update->range);
    for (; range; range = range->ready) {
        updates_stall(u, range->owner);
        u->progress = true;
    }
}

void updates_stall(struct updates *u, struct update *update)
{
    update_push(&u->stalled, update);
}

// An update that holds its range and is not going to the store.
static void refuse_ordered(struct updates *u, struct update *update, int status)
{
    if (is_copy(update)) {
        copy_refuse(u, update, status);
        return;
    }
    updates_refuse(u, update, status);
    updates_leave_order(u, update);
}

// ---- Committed ----

static enum block_op block_op_of(enum update_op op)
{
    switch (op) {
    case UPDATE_WRITE:
        return BLOCK_WRITE;
    case UPDATE_ZERO:
        return BLOCK_ZERO;
    default:
        ENSURE(op == UPDATE_DISCARD);
        return BLOCK_DISCARD;
    }
}

static int commit(struct updates *u, struct update *update)
{
    static const uint8_t types[] = {
        [UPDATE_WRITE] = RECORD_WRITE,
        [UPDATE_ZERO] = RECORD_ZERO,
        [UPDATE_DISCARD] = RECORD_DISCARD,
    };
    bool no_hole = update->op == UPDATE_ZERO && (update->flags & UPDATE_NO_HOLE);
    struct unsafe_update record = {
        .type = types[update->op],
        .flags = no_hole ? RECORD_NO_HOLE : 0,
        .object = update->object,
        .length = update->length,
        .offset = update->offset,
    };
    uint64_t chunk = update->op == UPDATE_WRITE ? update->chunk : UNSAFE_NO_CHUNK;
    return unsafe_commit(u->unsafe, &record, chunk, &update->slot);
}

static void write_done(struct block_request *request, int status);

// Its range is in order: to the store with it, if gate, map and queue let it. Returns false when it
// has to wait.
static bool try_start(struct updates *u, struct update *update)
{
    const struct volume *volume = &u->volumes[update->object];
    if (u->answers.gate == UPDATES_CLOSED || !volume->block || volume->failed) {
        refuse_ordered(u, update, u->answers.gate == UPDATES_CLOSED ? -ESHUTDOWN : -EIO);
        return true;
    }
    if (u->answers.gate == UPDATES_HELD)
        return false;
    int r = 0;
    if (u->ops.before_write)
        r = u->ops.before_write(u->user, update->object, update->offset, update->length);
    if (r < 0) {
        refuse_ordered(u, update, r);
        return true;
    }
    if (r > 0 || commit(u, update) < 0)
        return false;
    u->waiting--;
    void *data = update->op == UPDATE_WRITE ? unsafe_chunk_data(u->unsafe, update->chunk) : NULL;
    updates_to_store(u, update, block_op_of(update->op), data, write_done);
    return true;
}

static void start(struct updates *u, struct update *update)
{
    if (is_copy(update))
        copy_start(u, update);
    else if (!try_start(u, update))
        updates_stall(u, update);
}

void updates_start_stalled(struct updates *u)
{
    struct update_list stalled = u->stalled;
    u->stalled = (struct update_list){0};
    struct update *update;
    while ((update = update_pop(&stalled)))
        start(u, update);
}

// ---- Written ----

void updates_to_store(struct updates *u, struct update *update, enum block_op op, void *data,
                      void (*done)(struct block_request *request, int status))
{
    struct volume *volume = &u->volumes[update->object];
    bool no_hole = op == BLOCK_ZERO && (update->flags & UPDATE_NO_HOLE);
    bool copies = (int)update->op == UPDATE_CHECK || (int)update->op == UPDATE_RESYNC;
    update->updates = u;
    update->request = (struct block_request){
        .op = op,
        .flags = no_hole ? BLOCK_NO_HOLE : copies ? BLOCK_TELL_ZEROS : 0,
        .offset = update->offset,
        .length = update->length,
        .data = data,
        .done = done,
        .owner = update,
    };
    u->at_store++;
    if (op != BLOCK_READ) {
        update->turn = (uint8_t)u->turn;
        u->in_turn[u->turn]++;
    }
    u->kick_mask |= UINT64_C(1) << update->object;
    block_submit(volume->block, &update->request);
}

void updates_leave_turn(struct updates *u, const struct update *update)
{
    ENSURE(u->in_turn[update->turn] > 0);
    u->in_turn[update->turn]--;
}

bool updates_turn(struct updates *u)
{
    if (!updates_turn_over(u))
        return false;
    u->turn ^= 1;
    return true;
}

bool updates_turn_over(const struct updates *u)
{
    return u->in_turn[u->turn ^ 1] == 0;
}

void updates_from_store(struct updates *u)
{
    ENSURE(u->at_store > 0);
    u->at_store--;
    u->progress = true;
}

static void read_done(struct block_request *request, int status)
{
    struct update *update = request->owner;
    struct updates *u = update->updates;
    updates_from_store(u);
    if (status < 0)
        updates_tell(u, UPDATES_EVENT_READ_FAILED, update, status, 0);
    answer(u, update, 0, status);
}

// ---- Numbered ----

void updates_numbered(struct updates *u)
{
    u->numbered_some = true;
}

void updates_wait_for_peer(struct updates *u, uint64_t seq)
{
    if (seq > u->answers.durable && u->answers.gate != UPDATES_ALONE)
        u->barrier_wanted = true;
}

// A barrier ahead of the flush that is likely to come: what is sent, written and synced there meanwhile it need not wait for.
static void foresee_flush(struct updates *u, uint64_t seq)
{
    if (rhythm_write(&u->rhythm, seq))
        updates_wait_for_peer(u, answers_flush_seq(&u->answers, seq));
}

static void write_done(struct block_request *request, int status)
{
    struct update *update = request->owner;
    struct updates *u = update->updates;
    updates_from_store(u);
    ENSURE(writes(update));
    uint64_t seq = unsafe_number(u->unsafe, update->slot, status, u->ops.stamp_ns(u->user));
    updates_numbered(u);
    updates_leave_turn(u, update);
    updates_leave_order(u, update);
    if (status < 0) {
        updates_tell(u, UPDATES_EVENT_WRITE_FAILED, update, status, seq);
        answer(u, update, 0, status);
    } else if (update->flags & UPDATE_FUA) {
        flush_arrives(u, update);
    } else {
        uint64_t wanted = answers_write_seq(&u->answers, seq);
        updates_wait_for_peer(u, wanted);
        foresee_flush(u, seq);
        answer(u, update, wanted, 0);
    }
}

// ---- Flushed ----

static void flush_arrives(struct updates *u, struct update *update)
{
    struct volume *volume = &u->volumes[update->object];
    if (volume->failed || !volume->block) {
        answer(u, update, 0, -EIO);
        return;
    }
    uint64_t seq = answers_flush_seq(&u->answers, unsafe_numbered(u->unsafe));
    rhythm_flush(&u->rhythm, unsafe_numbered(u->unsafe));
    updates_wait_for_peer(u, seq);
    answers_add(&u->answers, &update->waits, seq, 0, false);
    u->at_store++;
    u->flush_mask |= UINT64_C(1) << update->object;
    update_push(&volume->flush_next, update);
}

void updates_flushes_end(struct updates *u, struct update_list *list, int status)
{
    struct update *update;
    while ((update = update_pop(list))) {
        updates_from_store(u);
        answers_local_done(&u->answers, &update->waits, status);
    }
}

static void sync_done(struct block_request *request, int status)
{
    struct updates *u = request->owner;
    struct volume *volume = (void *)((char *)request - offsetof(struct volume, sync));
    uint16_t object = (uint16_t)(volume - u->volumes);
    volume->flushing = false;
    if (volume->own_running)
        updates_from_store(u);
    volume->own_running = false;
    updates_flushes_end(u, &volume->flush_running, status);
    if (status == 0) {
        volume->sync_good = volume->sync_begun; // one at a time
        return;
    }
    // Final: what the store has lost it will not admit to a second time.
    volume->failed = true;
    volume->own_wanted = false;
    updates_flushes_end(u, &volume->flush_next, -EIO);
    u->flush_mask &= ~(UINT64_C(1) << object);
    struct update of = {.object = object};
    updates_tell(u, UPDATES_EVENT_FLUSH_FAILED, &of, status, 0);
}

// One sync for all flushes that have arrived since the last one was submitted.
static void start_syncs(struct updates *u)
{
    for (uint64_t left = u->flush_mask; left; left &= left - 1) {
        uint16_t object = (uint16_t)__builtin_ctzll(left);
        struct volume *volume = &u->volumes[object];
        if (volume->flushing)
            continue;
        volume->flush_running = volume->flush_next;
        volume->flush_next = (struct update_list){0};
        volume->own_running = volume->own_wanted;
        volume->own_wanted = false;
        u->at_store += volume->own_running;
        volume->sync_begun++;
        volume->flushing = true;
        volume->sync = (struct block_request){.op = BLOCK_FLUSH, .done = sync_done, .owner = u};
        u->flush_mask &= ~(UINT64_C(1) << object);
        u->kick_mask |= UINT64_C(1) << object;
        block_submit(volume->block, &volume->sync);
    }
}

struct updates_syncs updates_syncs(const struct updates *u, uint16_t object)
{
    ENSURE(object < RECORD_OBJECTS_MAX);
    return (struct updates_syncs){u->volumes[object].sync_begun, u->volumes[object].sync_good};
}

void updates_sync(struct updates *u, uint16_t object)
{
    ENSURE(object < RECORD_OBJECTS_MAX);
    struct volume *volume = &u->volumes[object];
    if (!volume->block || volume->failed || u->answers.gate == UPDATES_CLOSED)
        return;
    volume->own_wanted = true;
    u->flush_mask |= UINT64_C(1) << object;
}

// ---- Answered ----

void updates_deliver(struct updates *u)
{
    struct answer *next;
    while ((next = answers_take(&u->answers))) {
        struct update *update = update_of(next);
        update->answer(update, next->status);
    }
}

void updates_durable(struct updates *u, uint64_t seq)
{
    ENSURE(seq <= unsafe_numbered(u->unsafe));
    answers_set_durable(&u->answers, seq);
    updates_deliver(u);
}

uint64_t updates_waiting_for(const struct updates *u)
{
    return answers_waiting_for(&u->answers);
}

// ---- The turn of the loop ----

static void kick_stores(struct updates *u)
{
    uint64_t mask = u->kick_mask;
    u->kick_mask = 0;
    for (; mask; mask &= mask - 1)
        block_kick(u->volumes[__builtin_ctzll(mask)].block);
}

static void wake_sender(struct updates *u)
{
    bool barrier = u->barrier_wanted;
    if (!barrier && !u->numbered_some)
        return;
    u->barrier_wanted = u->numbered_some = false;
    u->ops.wake_sender(u->user, barrier);
}

static void ask_for_bound(struct updates *u)
{
    uint64_t bound = unsafe_bound(u->unsafe);
    if (u->bound_asked || bound - unsafe_numbered(u->unsafe) > u->bound_span / 2)
        return;
    u->bound_asked = true;
    struct updates_event event = {.kind = UPDATES_EVENT_BOUND, .level = u->level, .seq = bound};
    u->ops.event(u->user, &event);
}

void updates_check_drained(struct updates *u)
{
    bool stopped = u->answers.gate == UPDATES_HELD || u->answers.gate == UPDATES_CLOSED;
    if (!u->drained || u->at_store > 0 || (u->waiting > 0 && !stopped))
        return;
    void (*drained)(void *user) = u->drained;
    u->drained = NULL;
    drained(u->user);
}

static bool takes_in(const struct updates *u)
{
    return u->taken.first && u->answers.gate != UPDATES_HELD;
}

// Returns whether there is more to start: a kick may complete requests at once, an answer may bring
// new ones.
static bool turn(struct updates *u)
{
    struct update *update;
    u->progress = false;
    updates_start_stalled(u);
    while (takes_in(u) && (update = update_pop(&u->taken)))
        take_in(u, update);
    copies_kick(u);
    start_syncs(u);
    kick_stores(u);
    wake_sender(u);
    updates_deliver(u);
    return takes_in(u) || u->progress;
}

void updates_kick(struct updates *u)
{
    unsafe_reclaim(u->unsafe);
    do {
        rewrites_kick(u);
    } while (turn(u));
    ask_for_bound(u);
    updates_check_drained(u);
}
