// SPDX-License-Identifier: Apache-2.0
// The producer's side of the queue, and the readers' few functions. The bytes are unsafe_file.h's.
//
// What only the producer knows lies in its own memory and is rebuilt after a restart: the chunks, a
// FIFO in the order of the ring; head and tail of the ring; the free slots; how many records are
// promised to those that are in flight.
//
// Invariants:
//   1. tail <= every chunk < head, head - tail <= ring_bytes: no byte is in two chunks;
//   2. a chunk is free once it was dropped, or the record that it belongs to is needed in memory by
//      no attached reader: released, or on disk; tail passes free chunks only;
//   3. numbered + promised - base <= records, numbered + promised <= bound: whoever was promised a
//      record can always be numbered;
//   4. a slot is committed from unsafe_commit() to unsafe_number(), and is numbered at most once;
//   5. records in (base, numbered] and their payloads never change, and base stands still where a
//      copy to disk is under way.
//
// Positions, floor, base and numbered only rise; floor <= base.
#include "queues/unsafe.h"

#include <errno.h>
#include <string.h>

#include "common/base/checksum.h"
#include "queues/spill_private.h"
#include "queues/unsafe_private.h"

// ---- Promises of records ----

// Whether `more` records can be promised, with `reserve` of them left over.
int unsafe_can_promise(struct unsafe *u, uint64_t more, uint64_t reserve)
{
    uint64_t last = numbered_now(u) + u->promised + more + reserve;
    if (last > u->file.state->bound)
        return -ERANGE;
    if (last - u->base > u->file.records)
        unsafe_take_back(u);
    if (last - u->base > u->file.records) {
        u->refused_record = true;
        return -ENOSPC;
    }
    return 0;
}

int unsafe_reserve(struct unsafe *u)
{
    int r = unsafe_can_promise(u, 1, UNSAFE_RESERVE);
    if (r == 0)
        u->promised++;
    return r;
}

void unsafe_unreserve(struct unsafe *u)
{
    ENSURE(u->promised > 0);
    u->promised--;
}

// ---- Committing ----

static uint64_t sum_payload(const struct unsafe *u, uint64_t position, uint32_t bytes)
{
    return checksum64(u->file.ring + position % u->file.ring_bytes, bytes);
}

int unsafe_commit(struct unsafe *u, const struct unsafe_update *update, uint64_t id,
                  unsigned *ret_slot)
{
    if (u->free_count == 0)
        return -EAGAIN;
    int r = unsafe_reserve(u);
    if (r < 0)
        return r;
    struct chunk *chunk = id != UNSAFE_NO_CHUNK ? chunk_at(u, id) : NULL;
    ENSURE((update->type == RECORD_WRITE) == (chunk != NULL));
    ENSURE(!chunk || (chunk->state == CHUNK_HELD && chunk->payload == update->length));

    unsigned index = u->free_slots[--u->free_count];
    struct unsafe_slot *slot = &u->file.slot[index];
    ENSURE(atomic_load_explicit(&slot->state, memory_order_relaxed) == SLOT_EMPTY);
    slot->seq = 0;
    slot->payload = chunk ? chunk->payload : 0;
    slot->position = chunk ? chunk->position : 0;
    slot->offset = update->offset;
    slot->length = update->length;
    slot->object = update->object;
    slot->type = update->type;
    slot->flags = update->flags;
    slot->payload_sum = chunk ? sum_payload(u, chunk->position, chunk->payload) : 0;
    slot->sum = unsafe_slot_sum(slot);
    atomic_store_explicit(&slot->state, SLOT_COMMITTED, memory_order_release);
    if (chunk)
        chunk->state = CHUNK_COMMITTED;
    u->slot_chunk[index] = id;
    *ret_slot = index;
    return 0;
}

// ---- Numbering ----

static bool any_reader(const struct unsafe *u)
{
    for (unsigned i = 0; i < UNSAFE_READERS_MAX; i++) {
        if (unsafe_attached(u, i))
            return true;
    }
    return false;
}

// Writes the record of the next seq where nobody looks yet. `payload` bytes at `position`.
static uint64_t write_record(struct unsafe *u, const struct unsafe_update *update,
                             uint64_t position, uint32_t payload, uint64_t payload_sum,
                             int64_t time_ns)
{
    uint64_t seq = numbered_now(u) + 1;
    ENSURE(seq <= u->file.state->bound);
    ENSURE(seq - u->base <= u->file.records);
    ENSURE(u->promised > 0);
    struct record record = {
        .type = update->type,
        .mark = update->mark,
        .flags = update->flags,
        .epoch = le64_make(u->file.state->epoch),
        .seq = le64_make(seq),
        .object = le16_make(update->object),
        .status = le16_make(update->status),
        .offset = le64_make(update->offset),
        .length = le32_make(update->length),
        .payload = le32_make(payload),
        .time = le64_make((uint64_t)time_ns),
        .payload_sum = le64_make(payload > 0 ? payload_sum : 0),
    };
    record_seal(&record);
    uint32_t index = (uint32_t)(seq & (u->file.records - 1));
    u->file.record[index] = record;
    u->file.place[index] = position;
    return seq;
}

static void publish(struct unsafe *u, uint64_t seq)
{
    u->promised--;
    atomic_store_explicit(&u->file.state->numbered_not, ~seq, memory_order_release);
    atomic_store_explicit(&u->file.state->numbered, seq, memory_order_release);
}

static void chunk_numbered(struct unsafe *u, uint64_t id, uint64_t seq, bool in_record)
{
    if (id == UNSAFE_NO_CHUNK)
        return;
    struct chunk *chunk = chunk_at(u, id);
    chunk->state = in_record ? CHUNK_NUMBERED : CHUNK_FREE;
    chunk->seq = seq;
}

uint64_t unsafe_number(struct unsafe *u, unsigned index, int status, int64_t time_ns)
{
    ENSURE(index < UNSAFE_SLOTS && status <= 0 && status >= -4095);
    struct unsafe_slot *slot = &u->file.slot[index];
    ENSURE(atomic_load_explicit(&slot->state, memory_order_relaxed) == SLOT_COMMITTED);
    struct unsafe_update update = {
        .type = slot->type,
        .flags = slot->flags,
        .object = slot->object,
        .length = slot->length,
        .offset = slot->offset,
    };
    uint32_t payload = slot->payload;
    if (status != 0) {
        update.type = RECORD_MARK;
        update.mark = MARK_UNDEFINED;
        update.flags = 0;
        update.status = (uint16_t)-status;
        payload = 0;
    }
    uint64_t seq = write_record(u, &update, slot->position, payload, slot->payload_sum, time_ns);
    // The order of these three is what makes a restart number it exactly once.
    __atomic_store_n(&slot->seq, seq, __ATOMIC_RELEASE);
    publish(u, seq);
    atomic_store_explicit(&slot->state, SLOT_EMPTY, memory_order_release);

    chunk_numbered(u, u->slot_chunk[index], seq, payload > 0);
    u->slot_chunk[index] = UNSAFE_NO_CHUNK;
    ENSURE(u->free_count < UNSAFE_SLOTS);
    u->free_slots[u->free_count++] = (uint16_t)index;
    return seq;
}

uint64_t unsafe_append_reserved(struct unsafe *u, const struct unsafe_update *update, uint64_t id,
                                int64_t time_ns)
{
    const struct chunk *chunk = id != UNSAFE_NO_CHUNK ? chunk_at(u, id) : NULL;
    ENSURE(!chunk || chunk->state == CHUNK_HELD);
    uint64_t position = chunk ? chunk->position : 0;
    uint32_t payload = chunk ? chunk->payload : 0;
    // Without a reader nobody will ever see it; its header stays for the check of `numbered` after
    // a restart.
    uint64_t sum = payload > 0 && any_reader(u) ? sum_payload(u, position, payload) : 0;
    uint64_t seq = write_record(u, update, position, payload, sum, time_ns);
    publish(u, seq);
    chunk_numbered(u, id, seq, true);
    return seq;
}

int unsafe_append(struct unsafe *u, const struct unsafe_update *update, const void *payload,
                  uint32_t payload_bytes, int64_t time_ns, uint64_t *ret_seq)
{
    uint64_t chunk = UNSAFE_NO_CHUNK;
    int r = unsafe_can_promise(u, 1, 0);
    if (r < 0)
        return r;
    u->undeclared = 0;
    if (payload_bytes > 0) {
        unsafe_take_back(u);
        if (u->file.ring_bytes - (u->head - u->tail) < payload_bytes)
            return -ENOSPC;
        chunk = unsafe_new_chunk(u, payload_bytes);
        if (chunk == UNSAFE_NO_CHUNK)
            return -ENOSPC;
        memcpy(unsafe_chunk_data(u, chunk), payload, payload_bytes);
    }
    u->promised++;
    *ret_seq = unsafe_append_reserved(u, update, chunk, time_ns);
    return 0;
}

void unsafe_set_epoch(struct unsafe *u, uint64_t epoch)
{
    __atomic_store_n(&u->file.state->epoch, epoch, __ATOMIC_RELEASE);
    __atomic_store_n(&u->file.state->epoch_not, ~epoch, __ATOMIC_RELEASE);
}

uint64_t unsafe_epoch(const struct unsafe *u)
{
    return u->file.state->epoch;
}

void unsafe_keep_opening(struct unsafe *u, const void *encoded, uint32_t size)
{
    struct unsafe_state *state = u->file.state;
    if (size != sizeof(state->opening))
        return;
    memcpy(state->opening, encoded, size);
    state->opening_sum = checksum64(encoded, size);
}

bool unsafe_opening(const struct unsafe *u, struct epoch *ret_opening)
{
    return unsafe_file_opening(&u->file, ret_opening);
}

void unsafe_set_bound(struct unsafe *u, uint64_t bound)
{
    if (bound <= u->file.state->bound)
        return;
    __atomic_store_n(&u->file.state->bound, bound, __ATOMIC_RELEASE);
    __atomic_store_n(&u->file.state->bound_not, ~bound, __ATOMIC_RELEASE);
}

uint64_t unsafe_bound(const struct unsafe *u)
{
    return u->file.state->bound;
}

// ---- Who reads ----

bool unsafe_holds(struct unsafe *u, uint64_t seq)
{
    unsafe_take_back(u);
    return seq >= u->floor && seq <= numbered_now(u);
}

void unsafe_attach(struct unsafe *u, unsigned index, uint64_t seq)
{
    ENSURE(index < UNSAFE_READERS_MAX && !unsafe_attached(u, index));
    ENSURE(unsafe_holds(u, seq));
    struct unsafe_reader *reader = &u->file.state->readers[index];
    atomic_store(&reader->end, 0);
    atomic_store(&reader->released, seq);
    atomic_store(&reader->attached, READER_ATTACHED);
}

void unsafe_detach(struct unsafe *u, unsigned index)
{
    ENSURE(index < UNSAFE_READERS_MAX);
    atomic_store(&u->file.state->readers[index].attached, READER_DETACHED);
    unsafe_take_back(u);
}

bool unsafe_attached(const struct unsafe *u, unsigned index)
{
    ENSURE(index < UNSAFE_READERS_MAX);
    return atomic_load_explicit(&u->file.state->readers[index].attached, memory_order_relaxed) == READER_ATTACHED;
}

uint64_t unsafe_released(const struct unsafe *u, unsigned index)
{
    ENSURE(index < UNSAFE_READERS_MAX);
    return atomic_load_explicit(&u->file.state->readers[index].released, memory_order_relaxed);
}

void unsafe_release(struct unsafe *u, unsigned index, uint64_t seq)
{
    ENSURE(seq <= unsafe_last(u, index));
    struct unsafe_reader *reader = &u->file.state->readers[index];
    if (seq > unsafe_released(u, index))
        atomic_store_explicit(&reader->released, seq, memory_order_release);
}

uint64_t unsafe_numbered(const struct unsafe *u)
{
    return atomic_load_explicit(&u->file.state->numbered, memory_order_acquire);
}

uint64_t unsafe_last(const struct unsafe *u, unsigned index)
{
    uint64_t end = atomic_load_explicit(&u->file.state->readers[index].end, memory_order_acquire);
    return end ? end : unsafe_numbered(u);
}

void unsafe_end(struct unsafe *u, unsigned index)
{
    ENSURE(unsafe_attached(u, index));
    struct unsafe_reader *reader = &u->file.state->readers[index];
    if (atomic_load(&reader->end) == 0)
        atomic_store(&reader->end, numbered_now(u));
}

bool unsafe_ended(const struct unsafe *u, unsigned index)
{
    return atomic_load_explicit(&u->file.state->readers[index].end, memory_order_relaxed) != 0;
}

uint64_t unsafe_spilled(const struct unsafe *u)
{
    return atomic_load_explicit(&u->file.state->spilled, memory_order_acquire);
}

bool unsafe_missing(const struct unsafe *u)
{
    return u->spill && spill_missing(u->spill);
}

static bool is_spilled(const struct unsafe *u, uint64_t seq)
{
    bool spilled = seq <= unsafe_spilled(u);
    ENSURE(!spilled || u->spill);
    return spilled;
}

const struct record *unsafe_record(const struct unsafe *u, uint64_t seq)
{
    if (is_spilled(u, seq))
        return spill_record(u->spill, seq);
    return &u->file.record[seq & (u->file.records - 1)];
}

const void *unsafe_payload(const struct unsafe *u, uint64_t seq)
{
    if (is_spilled(u, seq))
        return spill_payload(u->spill, seq);
    uint64_t position = u->file.place[seq & (u->file.records - 1)];
    return u->file.ring + position % u->file.ring_bytes;
}

uint32_t unsafe_table_run(const struct unsafe *u, uint64_t seq)
{
    if (is_spilled(u, seq))
        return spill_run_from(u->spill, seq);
    return u->file.records - (uint32_t)(seq & (u->file.records - 1));
}
