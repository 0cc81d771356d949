// SPDX-License-Identifier: Apache-2.0
// The ring of an unsafe queue: chunks are handed out at its head, in its order, and are free again
// at its tail, in its order. Also how full it is. The invariants stand in unsafe.c.
#include "queues/unsafe.h"

#include <errno.h>

#include "common/base/cleanup.h"
#include "queues/spill_private.h"
#include "queues/unsafe_private.h"

// ---- Space ----

static bool chunk_is_free(const struct unsafe *u, const struct chunk *chunk)
{
    return chunk->state == CHUNK_FREE || (chunk->state == CHUNK_NUMBERED && chunk->seq <= u->base);
}

static void advance_tail(struct unsafe *u)
{
    while (u->chunk_first < u->chunk_next) {
        const struct chunk *chunk = chunk_at(u, u->chunk_first);
        if (!chunk_is_free(u, chunk))
            break;
        u->tail = chunk->position + chunk->size;
        u->chunk_first++;
    }
    if (u->chunk_first == u->chunk_next)
        u->tail = u->head;
    ENSURE(u->head - u->tail <= u->file.ring_bytes);
}

void unsafe_take_back(struct unsafe *u)
{
    uint64_t floor = unsafe_file_floor(&u->file);
    ENSURE(floor >= u->floor);
    u->floor = floor;
    uint64_t base = unsafe_file_base(&u->file);
    // What is being copied to disk stays where it is, even if nobody wants it any more.
    uint64_t pin = u->spill ? spill_pin(u->spill) : UINT64_MAX;
    base = MIN(base, pin);
    ENSURE(base >= u->base);
    u->base = base;
    advance_tail(u);
}

// An empty ring starts again at its beginning: a queue that keeps up touches little memory, and
// that stays in caches.
static void restart_lap(struct unsafe *u)
{
    uint64_t into = u->head % u->file.ring_bytes;
    if (u->head == u->tail && into != 0)
        u->head = u->tail = u->head + (u->file.ring_bytes - into);
}

// Memory behind [head, head + bytes).
static bool back_head(struct unsafe *u, uint64_t bytes)
{
    uint64_t into = u->head % u->file.ring_bytes;
    return unsafe_file_back(&u->file, MIN(into + bytes, u->file.ring_bytes)) == 0;
}

static bool has_room(struct unsafe *u)
{
    uint64_t need = (uint64_t)UNSAFE_RECEIVE_MAX + u->file.payload_max + PART_MAX;
    uint64_t chunks = u->chunk_next - u->chunk_first;
    return u->file.ring_bytes - (u->head - u->tail) >= need &&
           u->chunks_size - chunks >= CHUNKS_A_RECEIVE + 1 &&
           back_head(u, UNSAFE_RECEIVE_MAX + PART_MAX);
}

uint8_t *unsafe_head(struct unsafe *u, uint32_t align, size_t *ret_room)
{
    ENSURE(align != 0 && align <= PART_MAX && (align & (align - 1)) == 0);
    unsafe_take_back(u);
    restart_lap(u);
    u->undeclared = 0;
    if (!has_room(u)) {
        u->refused_room = true;
        return NULL;
    }
    u->head = (u->head + align - 1) & ~(uint64_t)(align - 1);
    if (u->chunk_first == u->chunk_next)
        u->tail = u->head;
    u->undeclared = u->file.ring_bytes - (u->head - u->tail);
    *ret_room = u->undeclared;
    return u->file.ring + u->head % u->file.ring_bytes;
}

void unsafe_skip(struct unsafe *u, size_t bytes)
{
    ENSURE(bytes <= u->undeclared);
    u->undeclared -= bytes;
    u->head += bytes;
}

// The chunk [head, head + bytes), or UNSAFE_NO_CHUNK where there is no memory behind it.
uint64_t unsafe_new_chunk(struct unsafe *u, uint32_t bytes)
{
    ENSURE(u->chunk_next - u->chunk_first < u->chunks_size);
    ENSURE(u->head - u->tail + bytes <= u->file.ring_bytes);
    if (!back_head(u, bytes))
        return UNSAFE_NO_CHUNK;
    uint64_t id = u->chunk_next++;
    *chunk_at(u, id) =
        (struct chunk){.position = u->head, .size = bytes, .payload = bytes, .state = CHUNK_HELD};
    u->head += bytes;
    return id;
}

uint64_t unsafe_keep(struct unsafe *u, size_t bytes)
{
    ENSURE(bytes > 0 && bytes <= u->file.payload_max);
    ENSURE(bytes <= u->undeclared);
    uint64_t id = unsafe_new_chunk(u, (uint32_t)bytes);
    if (id != UNSAFE_NO_CHUNK)
        u->undeclared -= bytes;
    return id;
}

uint8_t *unsafe_chunk_data(const struct unsafe *u, uint64_t chunk)
{
    return u->file.ring + chunk_at(u, chunk)->position % u->file.ring_bytes;
}

uint32_t unsafe_chunk_size(const struct unsafe *u, uint64_t chunk)
{
    return chunk_at(u, chunk)->payload;
}

void unsafe_shrink(struct unsafe *u, uint64_t id, uint32_t bytes)
{
    struct chunk *chunk = chunk_at(u, id);
    ENSURE(chunk->state == CHUNK_HELD);
    ENSURE(bytes > 0 && bytes <= chunk->payload);
    chunk->payload = bytes;
    if (id + 1 != u->chunk_next || u->head != chunk->position + chunk->size)
        return;
    chunk->size = bytes;
    u->head = chunk->position + bytes;
    u->undeclared = 0;
}

void unsafe_drop(struct unsafe *u, uint64_t id)
{
    if (id == UNSAFE_NO_CHUNK)
        return;
    struct chunk *chunk = chunk_at(u, id);
    ENSURE(chunk->state == CHUNK_HELD);
    chunk->state = CHUNK_FREE;
}

// ---- Levels and figures ----

// What is in use, in hundredths of the ring or of the table, whichever is more.
static unsigned percent_used(const struct unsafe *u)
{
    uint64_t ring = (u->head - u->tail) / (u->file.ring_bytes / 100);
    uint64_t table = (numbered_now(u) + u->promised - u->base) * 100 / u->file.records;
    return (unsigned)MAX(ring, table);
}

// Whether the oldest space in use is a reader's, so that nothing but the reader can free it.
static bool reader_holds_tail(const struct unsafe *u)
{
    if (u->refused_record)
        return u->base < numbered_now(u);
    return u->chunk_first < u->chunk_next && chunk_at(u, u->chunk_first)->state == CHUNK_NUMBERED;
}

// A level is left again only 10 % below where it begins.
static enum unsafe_level level_now(const struct unsafe *u)
{
    unsigned used = percent_used(u);
    unsigned slack_high = u->level >= UNSAFE_THREE_QUARTERS ? 10 : 0;
    unsigned slack_low = u->level >= UNSAFE_HALF ? 10 : 0;
    if ((u->refused_room || u->refused_record) && reader_holds_tail(u) &&
        !(u->spill && spill_helps(u->spill)))
        return UNSAFE_FULL;
    if (used + slack_high >= 75)
        return UNSAFE_THREE_QUARTERS;
    return used + slack_low >= 50 ? UNSAFE_HALF : UNSAFE_LOW;
}

void unsafe_watch(struct unsafe *u, const struct unsafe_watch *watch)
{
    u->watch = watch ? *watch : (struct unsafe_watch){0};
}

// Returns whether the level has changed.
static bool look_again(struct unsafe *u)
{
    unsafe_take_back(u);
    if (u->refused_record && unsafe_can_promise(u, 1, UNSAFE_RESERVE) != -ENOSPC)
        u->refused_record = false;
    if (u->refused_room && has_room(u)) {
        u->refused_room = false;
        u->tell_room = true;
    }
    enum unsafe_level level = level_now(u);
    bool changed = level != u->level;
    u->level = level;
    return changed;
}

void unsafe_reclaim(struct unsafe *u)
{
    // What the watcher does about a level may change it at once; it ends, for a detached reader
    // stays detached.
    for (unsigned rounds = 0; look_again(u) && rounds <= UNSAFE_READERS_MAX; rounds++) {
        if (u->watch.level)
            u->watch.level(u->watch.user, u->level);
    }
    if (u->tell_room && u->watch.room)
        u->watch.room(u->watch.user);
    u->tell_room = false;
}

uint64_t unsafe_base(struct unsafe *u)
{
    unsafe_take_back(u);
    return u->base;
}

unsigned unsafe_percent(const struct unsafe *u)
{
    return percent_used(u);
}

bool unsafe_refused(const struct unsafe *u)
{
    return u->refused_room || u->refused_record;
}

void unsafe_stat(struct unsafe *u, struct unsafe_stat *ret_stat)
{
    unsafe_take_back(u);
    uint64_t last = numbered_now(u);
    for (unsigned i = 0; i < UNSAFE_READERS_MAX; i++) {
        if (unsafe_attached(u, i))
            last = MIN(last, unsafe_last(u, i));
    }
    struct spill_stat disk = {0};
    if (u->spill)
        spill_stat(u->spill, &disk);
    *ret_stat = (struct unsafe_stat){
        .records = last - MIN(u->floor, last),
        .bytes = u->head - u->tail + disk.bytes,
        .limit_bytes = u->file.ring_bytes + disk.limit_bytes,
        .memory_bytes = u->head - u->tail,
        .memory_limit_bytes = u->file.ring_bytes,
        .spilled_records = disk.records,
        .spilled_bytes = disk.bytes,
        .spill_limit_bytes = disk.limit_bytes,
        .oldest_ns = disk.oldest_ns,
        .slots = UNSAFE_SLOTS - u->free_count,
        .level = u->level,
        .spill_level = disk.level,
        .spill_failed = disk.failed,
    };
    if (disk.records == 0 && u->base < last)
        ret_stat->oldest_ns =
            (int64_t)le64_get(u->file.record[(u->base + 1) & (u->file.records - 1)].time);
}
