// SPDX-License-Identifier: Apache-2.0
// The producer's side of the queue, and the readers' few functions. The bytes are unsafe_file.h's.
//
// What only the producer knows lies in its own memory and is rebuilt after a restart: the chunks, a
// FIFO in the order of the ring; head and tail of the ring; the free slots; how many records are
// promised to those that are in flight.
//
// Invariants:
//   1. tail <= every chunk < head, head - tail <= ring_bytes: no byte of the ring belongs to two
//   chunks;
//   2. a chunk is free once it was dropped, or the record that it belongs to is released by every
//   attached reader;
//      tail passes free chunks only;
//   3. numbered + promised - floor <= records, numbered + promised <= bound: whoever was promised a
//   record can always be
//      numbered;
//   4. a slot is committed from unsafe_commit() to unsafe_number(), and is numbered at most once;
//   5. records in (floor, numbered] and their payloads never change.
//
// Positions, floor and numbered only rise.
#include "queues/unsafe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "queues/unsafe_file.h"

#define HEADER_BYTES_MIN                                                                           \
    16 // a request in front of a payload takes at least this: bounds the chunks of one receive
#define CHUNKS_A_RECEIVE (UNSAFE_RECEIVE_MAX / HEADER_BYTES_MIN)
#define PART_MAX         4096U // alignment that unsafe_head() gives

enum chunk_state { CHUNK_HELD, CHUNK_COMMITTED, CHUNK_NUMBERED, CHUNK_FREE };

struct chunk {
    uint64_t position;
    uint64_t seq;     // CHUNK_NUMBERED
    uint32_t size;    // bytes of ring
    uint32_t payload; // bytes of it that count
    enum chunk_state state;
};

struct unsafe {
    struct unsafe_file file;
    uint64_t head, tail; // positions
    uint64_t undeclared; // room that unsafe_head() gave and nobody has declared
    uint64_t floor;      // records up to it are needed by nobody
    uint64_t promised;   // records for those in flight

    struct chunk *chunks; // FIFO: chunk id is at id % chunks_size
    uint64_t chunks_size;
    uint64_t chunk_first, chunk_next; // ids; from 1

    uint16_t free_slots[UNSAFE_SLOTS];
    unsigned free_count;
    uint64_t slot_chunk[UNSAFE_SLOTS];

    struct unsafe_watch watch;
    enum unsafe_level level;
    bool refused_room;   // unsafe_head() said no
    bool refused_record; // the table was full
    bool tell_room;      // there is room again where it was refused
};

// ---- Opening and closing ----

static struct chunk *chunk_at(const struct unsafe *u, uint64_t id)
{
    ENSURE(id >= u->chunk_first && id < u->chunk_next);
    return &u->chunks[id & (u->chunks_size - 1)];
}

static uint64_t numbered_now(const struct unsafe *u)
{
    return atomic_load_explicit(&u->file.state->numbered, memory_order_relaxed);
}

static struct unsafe *unsafe_make(struct unsafe_file *file)
{
    struct unsafe *u = calloc(1, sizeof(*u));
    uint64_t most = (uint64_t)file->records + UNSAFE_SLOTS + 2 * CHUNKS_A_RECEIVE;
    uint64_t size = 1;
    while (size < most)
        size *= 2;
    struct chunk *chunks = calloc(size, sizeof(*chunks));
    if (!u || !chunks) {
        free(u);
        free(chunks);
        unsafe_file_unmap(file);
        return NULL;
    }
    u->file = *file;
    u->chunks = chunks;
    u->chunks_size = size;
    u->chunk_first = u->chunk_next = 1;
    u->floor = unsafe_file_floor(file);
    return u;
}

int unsafe_create(const char *path, const struct unsafe_config *config, struct unsafe **ret_unsafe,
                  struct error *err)
{
    struct unsafe_file file;
    int r = unsafe_file_create(path, config, &file, err);
    if (r < 0)
        return r;
    struct unsafe *u = unsafe_make(&file);
    if (!u)
        return error_sys(err, -ENOMEM, "unsafe queue");
    for (unsigned i = 0; i < UNSAFE_SLOTS; i++)
        u->free_slots[u->free_count++] = (uint16_t)(UNSAFE_SLOTS - 1 - i);
    *ret_unsafe = u;
    return 0;
}

struct unsafe *unsafe_free(struct unsafe *u)
{
    if (!u)
        return NULL;
    unsafe_file_unmap(&u->file);
    free(u->chunks);
    free(u);
    return NULL;
}

int unsafe_fd(const struct unsafe *u)
{
    return u->file.fd;
}

uint64_t unsafe_ring_bytes(const struct unsafe *u)
{
    return u->file.ring_bytes;
}

uint32_t unsafe_payload_max(const struct unsafe *u)
{
    return u->file.payload_max;
}

// ---- Rebuilding what a predecessor knew ----

struct found {
    struct chunk chunk;
    int slot; // -1: a record's
};

static int found_order(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return x->chunk.position < y->chunk.position ? -1 : x->chunk.position > y->chunk.position;
}

static size_t find_records(const struct unsafe *u, struct found *found)
{
    size_t count = 0;
    for (uint64_t seq = u->floor + 1; seq <= numbered_now(u); seq++) {
        uint32_t bytes = le32_get(unsafe_record(u, seq)->payload);
        if (bytes == 0)
            continue;
        found[count++] = (struct found){
            .chunk = {.position = u->file.place[seq & (u->file.records - 1)],
                      .seq = seq,
                      .size = bytes,
                      .payload = bytes,
                      .state = CHUNK_NUMBERED},
            .slot = -1,
        };
    }
    return count;
}

// Also sorts the slots into free and committed ones.
static size_t find_slots(struct unsafe *u, struct found *found)
{
    size_t count = 0;
    for (unsigned i = UNSAFE_SLOTS; i-- > 0;) {
        const struct unsafe_slot *slot = &u->file.slot[i];
        if (atomic_load(&slot->state) == SLOT_EMPTY) {
            u->free_slots[u->free_count++] = (uint16_t)i;
            continue;
        }
        u->promised++;
        if (slot->payload == 0)
            continue;
        found[count++] = (struct found){
            .chunk = {.position = slot->position,
                      .size = slot->payload,
                      .payload = slot->payload,
                      .state = CHUNK_COMMITTED},
            .slot = (int)i,
        };
    }
    return count;
}

static int adopt_chunks(struct unsafe *u, const struct found *found, size_t count,
                        struct error *err)
{
    u->tail = u->head = count ? found[0].chunk.position : 0;
    for (size_t i = 0; i < count; i++) {
        const struct chunk *chunk = &found[i].chunk;
        if (chunk->position < u->head)
            return error_set(err, -EUCLEAN, "unsafe queue: payloads share a place");
        u->head = chunk->position + chunk->size;
        if (u->head - u->tail > u->file.ring_bytes)
            return error_set(err, -EUCLEAN, "unsafe queue: payloads do not fit its ring");
        uint64_t id = u->chunk_next++;
        *chunk_at(u, id) = *chunk;
        if (found[i].slot >= 0)
            u->slot_chunk[found[i].slot] = id;
    }
    return 0;
}

static int rebuild(struct unsafe *u, struct error *err)
{
    size_t most = (size_t)(numbered_now(u) - u->floor) + UNSAFE_SLOTS;
    CLEANUP_FREE struct found *found = calloc(most, sizeof(*found));
    if (!found)
        return error_sys(err, -ENOMEM, "unsafe queue");
    size_t count = find_records(u, found);
    count += find_slots(u, found + count);
    qsort(found, count, sizeof(*found), found_order);
    int r = adopt_chunks(u, found, count, err);
    if (r == 0 && (numbered_now(u) + u->promised - u->floor > u->file.records ||
                   numbered_now(u) + u->promised > u->file.state->bound))
        r = error_set(err, -EUCLEAN, "unsafe queue: more updates in flight than there is room for");
    return r;
}

static int open_owned(int fd, const struct unsafe_config *config, struct unsafe **ret_unsafe,
                      struct error *err)
{
    struct unsafe_file file;
    int r = unsafe_file_map(fd, config, &file, err);
    if (r < 0)
        return r;
    r = unsafe_file_check(&file, err);
    if (r < 0) {
        unsafe_file_unmap(&file);
        return r;
    }
    struct unsafe *u = unsafe_make(&file);
    if (!u)
        return error_sys(err, -ENOMEM, "unsafe queue");
    r = rebuild(u, err);
    if (r < 0) {
        unsafe_free(u);
        return r;
    }
    *ret_unsafe = u;
    return 0;
}

int unsafe_open(const char *path, const struct unsafe_config *config, struct unsafe **ret_unsafe,
                struct error *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return error_sys(err, -errno, "cannot open %s", path);
    int r = open_owned(fd, config, ret_unsafe, err);
    if (r < 0)
        (void)error_prefix(err, "%s", path);
    return r;
}

int unsafe_open_fd(int fd, const struct unsafe_config *config, struct unsafe **ret_unsafe,
                   struct error *err)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return error_sys(err, -errno, "unsafe queue: cannot use its file");
    return open_owned(copy, config, ret_unsafe, err);
}

bool unsafe_pending(const struct unsafe *u, unsigned *cursor, struct unsafe_pending *ret_pending)
{
    for (; *cursor < UNSAFE_SLOTS; (*cursor)++) {
        const struct unsafe_slot *slot = &u->file.slot[*cursor];
        if (atomic_load_explicit(&slot->state, memory_order_relaxed) == SLOT_EMPTY)
            continue;
        *ret_pending = (struct unsafe_pending){
            .slot = (*cursor)++,
            .update = {.type = slot->type,
                       .flags = slot->flags,
                       .object = slot->object,
                       .length = slot->length,
                       .offset = slot->offset},
            .data = slot->payload ? u->file.ring + slot->position % u->file.ring_bytes : NULL,
        };
        return true;
    }
    return false;
}

// ---- Space ----

static bool any_reader(const struct unsafe *u)
{
    for (unsigned i = 0; i < UNSAFE_READERS_MAX; i++) {
        if (unsafe_attached(u, i))
            return true;
    }
    return false;
}

static bool chunk_is_free(const struct unsafe *u, const struct chunk *chunk)
{
    return chunk->state == CHUNK_FREE || (chunk->state == CHUNK_NUMBERED && chunk->seq <= u->floor);
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

static void take_back(struct unsafe *u)
{
    uint64_t floor = unsafe_file_floor(&u->file);
    ENSURE(floor >= u->floor);
    u->floor = floor;
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
    take_back(u);
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
static uint64_t new_chunk(struct unsafe *u, uint32_t bytes)
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
    uint64_t id = new_chunk(u, (uint32_t)bytes);
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
}

void unsafe_drop(struct unsafe *u, uint64_t id)
{
    if (id == UNSAFE_NO_CHUNK)
        return;
    struct chunk *chunk = chunk_at(u, id);
    ENSURE(chunk->state == CHUNK_HELD);
    chunk->state = CHUNK_FREE;
}

// ---- Promises of records ----

// Whether `more` records can be promised, with `reserve` of them left over.
static int can_promise(struct unsafe *u, uint64_t more, uint64_t reserve)
{
    uint64_t last = numbered_now(u) + u->promised + more + reserve;
    if (last > u->file.state->bound)
        return -ERANGE;
    if (last - u->floor > u->file.records)
        take_back(u);
    if (last - u->floor > u->file.records) {
        u->refused_record = true;
        return -ENOSPC;
    }
    return 0;
}

int unsafe_reserve(struct unsafe *u)
{
    int r = can_promise(u, 1, UNSAFE_RESERVE);
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
    slot->sum = unsafe_slot_sum(slot);
    atomic_store_explicit(&slot->state, SLOT_COMMITTED, memory_order_release);
    if (chunk)
        chunk->state = CHUNK_COMMITTED;
    u->slot_chunk[index] = id;
    *ret_slot = index;
    return 0;
}

// ---- Numbering ----

// Writes the record of the next seq where nobody looks yet. `payload` bytes at `position`.
static uint64_t write_record(struct unsafe *u, const struct unsafe_update *update,
                             uint64_t position, uint32_t payload, int64_t time_ns)
{
    uint64_t seq = numbered_now(u) + 1;
    ENSURE(seq <= u->file.state->bound);
    ENSURE(seq - u->floor <= u->file.records);
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
    };
    // Without a reader nobody will ever see it; its header stays for the check of `numbered` after
    // a restart.
    if (payload > 0 && any_reader(u))
        record.payload_sum =
            le64_make(checksum64(u->file.ring + position % u->file.ring_bytes, payload));
    record_seal(&record);
    uint32_t index = (uint32_t)(seq & (u->file.records - 1));
    u->file.record[index] = record;
    u->file.place[index] = position;
    return seq;
}

static void publish(struct unsafe *u, uint64_t seq)
{
    u->promised--;
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
    uint64_t seq = write_record(u, &update, slot->position, payload, time_ns);
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
    uint64_t seq =
        write_record(u, update, chunk ? chunk->position : 0, chunk ? chunk->payload : 0, time_ns);
    publish(u, seq);
    chunk_numbered(u, id, seq, true);
    return seq;
}

int unsafe_append(struct unsafe *u, const struct unsafe_update *update, const void *payload,
                  uint32_t payload_bytes, int64_t time_ns, uint64_t *ret_seq)
{
    uint64_t chunk = UNSAFE_NO_CHUNK;
    int r = can_promise(u, 1, 0);
    if (r < 0)
        return r;
    u->undeclared = 0;
    if (payload_bytes > 0) {
        take_back(u);
        if (u->file.ring_bytes - (u->head - u->tail) < payload_bytes)
            return -ENOSPC;
        chunk = new_chunk(u, payload_bytes);
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
    u->file.state->epoch = epoch;
}

uint64_t unsafe_epoch(const struct unsafe *u)
{
    return u->file.state->epoch;
}

void unsafe_set_bound(struct unsafe *u, uint64_t bound)
{
    if (bound > u->file.state->bound)
        u->file.state->bound = bound;
}

uint64_t unsafe_bound(const struct unsafe *u)
{
    return u->file.state->bound;
}

// ---- Who reads ----

bool unsafe_holds(struct unsafe *u, uint64_t seq)
{
    take_back(u);
    return seq >= u->floor && seq <= numbered_now(u);
}

void unsafe_attach(struct unsafe *u, unsigned index, uint64_t seq)
{
    ENSURE(index < UNSAFE_READERS_MAX && !unsafe_attached(u, index));
    ENSURE(unsafe_holds(u, seq));
    struct unsafe_reader *reader = &u->file.state->readers[index];
    atomic_store(&reader->released, seq);
    atomic_store(&reader->attached, 1);
}

void unsafe_detach(struct unsafe *u, unsigned index)
{
    ENSURE(index < UNSAFE_READERS_MAX);
    atomic_store(&u->file.state->readers[index].attached, 0);
    take_back(u);
}

bool unsafe_attached(const struct unsafe *u, unsigned index)
{
    ENSURE(index < UNSAFE_READERS_MAX);
    return atomic_load_explicit(&u->file.state->readers[index].attached, memory_order_relaxed);
}

uint64_t unsafe_released(const struct unsafe *u, unsigned index)
{
    ENSURE(index < UNSAFE_READERS_MAX);
    return atomic_load_explicit(&u->file.state->readers[index].released, memory_order_relaxed);
}

void unsafe_release(struct unsafe *u, unsigned index, uint64_t seq)
{
    ENSURE(seq <= unsafe_numbered(u));
    struct unsafe_reader *reader = &u->file.state->readers[index];
    if (seq > unsafe_released(u, index))
        atomic_store_explicit(&reader->released, seq, memory_order_release);
}

uint64_t unsafe_numbered(const struct unsafe *u)
{
    return atomic_load_explicit(&u->file.state->numbered, memory_order_acquire);
}

const struct record *unsafe_record(const struct unsafe *u, uint64_t seq)
{
    return &u->file.record[seq & (u->file.records - 1)];
}

const void *unsafe_payload(const struct unsafe *u, uint64_t seq)
{
    uint64_t position = u->file.place[seq & (u->file.records - 1)];
    return u->file.ring + position % u->file.ring_bytes;
}

uint32_t unsafe_table_run(const struct unsafe *u, uint64_t seq)
{
    return u->file.records - (uint32_t)(seq & (u->file.records - 1));
}

// ---- Levels and figures ----

// What is in use, in hundredths of the ring or of the table, whichever is more.
static unsigned percent_used(const struct unsafe *u)
{
    uint64_t ring = (u->head - u->tail) / (u->file.ring_bytes / 100);
    uint64_t table = (numbered_now(u) + u->promised - u->floor) * 100 / u->file.records;
    return (unsigned)MAX(ring, table);
}

// Whether the oldest space in use is a reader's, so that nothing but the reader can free it.
static bool reader_holds_tail(const struct unsafe *u)
{
    if (u->refused_record)
        return u->floor < numbered_now(u);
    return u->chunk_first < u->chunk_next && chunk_at(u, u->chunk_first)->state == CHUNK_NUMBERED;
}

// A level is left again only 10 % below where it begins.
static enum unsafe_level level_now(const struct unsafe *u)
{
    unsigned used = percent_used(u);
    unsigned slack_high = u->level >= UNSAFE_THREE_QUARTERS ? 10 : 0;
    unsigned slack_low = u->level >= UNSAFE_HALF ? 10 : 0;
    if ((u->refused_room || u->refused_record) && reader_holds_tail(u))
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
    take_back(u);
    if (u->refused_record && can_promise(u, 1, UNSAFE_RESERVE) != -ENOSPC)
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

void unsafe_stat(struct unsafe *u, struct unsafe_stat *ret_stat)
{
    take_back(u);
    uint64_t numbered = numbered_now(u);
    *ret_stat = (struct unsafe_stat){
        .records = numbered - u->floor,
        .bytes = u->head - u->tail,
        .limit_bytes = u->file.ring_bytes,
        .slots = UNSAFE_SLOTS - u->free_count,
        .level = u->level,
    };
    if (u->floor < numbered)
        ret_stat->oldest_ns = (int64_t)le64_get(unsafe_record(u, u->floor + 1)->time);
}
