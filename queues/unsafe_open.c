// SPDX-License-Identifier: Apache-2.0
// Making an unsafe queue, and taking over that of a predecessor: the producer's own memory is
// rebuilt from the file. What is here leans on unsafe_file_check(), which has found the file right;
// that payloads do not share a place is found here.
#include "queues/unsafe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "queues/unsafe_private.h"

// ---- Opening and closing ----

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
    u->base = unsafe_file_base(file);
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
    ENSURE(!u->spill);
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
    for (uint64_t seq = u->base + 1; seq <= numbered_now(u); seq++) {
        uint32_t bytes = le32_get(u->file.record[seq & (u->file.records - 1)].payload);
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
    size_t most = (size_t)(numbered_now(u) - u->base) + UNSAFE_SLOTS;
    CLEANUP_FREE struct found *found = calloc(most, sizeof(*found));
    if (!found)
        return error_sys(err, -ENOMEM, "unsafe queue");
    size_t count = find_records(u, found);
    count += find_slots(u, found + count);
    qsort(found, count, sizeof(*found), found_order);
    int r = adopt_chunks(u, found, count, err);
    if (r == 0 && (numbered_now(u) + u->promised - u->base > u->file.records ||
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
