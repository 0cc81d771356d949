// SPDX-License-Identifier: Apache-2.0
#include "fake_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

#define SLOTS  256
#define SECTOR 512U

struct pending_write {
    uint64_t offset, size, number; // number: in the order of all writes
    uint8_t *data;
    struct pending_write *next;
};

struct fake_file {
    uint8_t *now;     // what a read gives
    uint8_t *durable; // what was synced
    uint64_t size;
    bool named, name_durable, was_named; // was_named: a removal is not durable yet
    struct pending_write *writes, **writes_end;
};

// An open file.
struct disk_file {
    struct fake_disk *fake;
    struct fake_file *file;
    unsigned generation;
};

struct fake_disk {
    struct disk disk;
    struct fake_file files[SLOTS];
    uint64_t capacity, limit, seed, written;
    uint64_t operations, fail_at;
    bool fail_forever;
    int fail_error, read_error;
    unsigned generation; // of this boot: what was opened in another is dead
    struct disk_sync *syncs, **syncs_end;
};

static uint64_t next_random(struct fake_disk *f)
{
    f->seed ^= f->seed << 13;
    f->seed ^= f->seed >> 7;
    f->seed ^= f->seed << 17;
    return f->seed;
}

static struct fake_disk *of(struct disk *disk)
{
    return (struct fake_disk *)disk;
}

static int operation(struct fake_disk *f)
{
    f->operations++;
    if (!f->fail_at || f->operations < f->fail_at)
        return 0;
    if (f->operations > f->fail_at && !f->fail_forever)
        return 0;
    return f->fail_error;
}

static void file_clear(struct fake_file *file)
{
    while (file->writes) {
        struct pending_write *w = file->writes;
        file->writes = w->next;
        free(w->data);
        free(w);
    }
    free(file->now);
    free(file->durable);
    *file = (struct fake_file){0};
    file->writes_end = &file->writes;
}

static int fake_list(struct disk *disk, void (*found)(void *arg, uint32_t slot), void *arg)
{
    struct fake_disk *f = of(disk);
    for (uint32_t i = 0; i < SLOTS; i++)
        if (f->files[i].named)
            found(arg, i);
    return 0;
}

static struct disk_file *handle(struct fake_disk *f, uint32_t slot)
{
    struct disk_file *h = calloc(1, sizeof(*h));
    ENSURE(h);
    *h = (struct disk_file){f, &f->files[slot], f->generation};
    return h;
}

static int fake_create(struct disk *disk, uint32_t slot, uint64_t size, struct disk_file **ret)
{
    struct fake_disk *f = of(disk);
    uint64_t used = size;
    int rc = operation(f);

    ENSURE(slot < SLOTS && size % SECTOR == 0);
    for (uint32_t i = 0; i < SLOTS; i++)
        used += f->files[i].named ? f->files[i].size : 0;
    if (rc == 0 && f->files[slot].named)
        rc = -EEXIST;
    if (rc == 0 && used > MIN(f->capacity, f->limit))
        rc = -ENOSPC;
    if (rc < 0)
        return rc;
    struct fake_file *file = &f->files[slot];
    file_clear(file);
    file->now = calloc(1, size);
    file->durable = calloc(1, size);
    ENSURE(file->now && file->durable);
    file->size = size;
    file->named = true;
    *ret = handle(f, slot);
    return 0;
}

static int fake_open(struct disk *disk, uint32_t slot, struct disk_file **ret, uint64_t *ret_size)
{
    struct fake_disk *f = of(disk);
    if (slot >= SLOTS || !f->files[slot].named)
        return -ENOENT;
    *ret = handle(f, slot);
    *ret_size = f->files[slot].size;
    return 0;
}

static int fake_remove(struct disk *disk, uint32_t slot)
{
    struct fake_disk *f = of(disk);
    int rc = operation(f);
    if (rc == 0 && !f->files[slot].named)
        rc = -ENOENT;
    if (rc == 0) {
        f->files[slot].named = false;
        f->files[slot].was_named = f->files[slot].name_durable;
    }
    return rc;
}

static int fake_dir_sync(struct disk *disk)
{
    struct fake_disk *f = of(disk);
    int rc = operation(f);
    for (uint32_t i = 0; rc == 0 && i < SLOTS; i++) {
        f->files[i].name_durable = f->files[i].named;
        f->files[i].was_named = false;
    }
    return rc;
}

static struct fake_file *alive(struct disk_file *h)
{
    ENSURE(h->generation == h->fake->generation);
    return h->file;
}

static void write_part(struct fake_disk *f, struct fake_file *file, uint64_t offset,
                       const void *data, uint64_t size)
{
    struct pending_write *w = calloc(1, sizeof(*w));

    ENSURE(w && offset <= file->size && size <= file->size - offset);
    memcpy(file->now + offset, data, size);
    *w = (struct pending_write){.offset = offset, .size = size, .number = ++f->written};
    w->data = malloc(size ? size : 1);
    ENSURE(w->data);
    memcpy(w->data, data, size);
    *file->writes_end = w;
    file->writes_end = &w->next;
}

static int fake_write(struct disk_file *h, uint64_t offset, const struct iovec *parts, int count)
{
    struct fake_file *file = alive(h);
    int rc = operation(h->fake);
    uint64_t size = 0;
    uint64_t left;

    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    // A failing write may leave any part behind.
    left = rc < 0 ? next_random(h->fake) % (size + 1) : size;
    for (int i = 0; i < count; i++) {
        uint64_t n = MIN(left, parts[i].iov_len);
        write_part(h->fake, file, offset, parts[i].iov_base, n);
        offset += n;
        left -= n;
    }
    return rc;
}

static int fake_read(struct disk_file *h, uint64_t offset, void *data, size_t size)
{
    struct fake_file *file = alive(h);
    if (h->fake->read_error)
        return h->fake->read_error;
    if (offset > file->size || size > file->size - offset)
        return -EIO;
    memcpy(data, file->now + offset, size);
    return 0;
}

// Writes up to number `upto` become durable.
static void settle_writes(struct fake_file *file, uint64_t upto)
{
    while (file->writes && file->writes->number <= upto) {
        struct pending_write *w = file->writes;
        memcpy(file->durable + w->offset, w->data, w->size);
        file->writes = w->next;
        free(w->data);
        free(w);
    }
    if (!file->writes)
        file->writes_end = &file->writes;
}

static int fake_sync(struct disk_file *h)
{
    struct fake_file *file = alive(h);
    int rc = operation(h->fake);
    if (rc == 0)
        settle_writes(file, UINT64_MAX);
    return rc;
}

static void fake_sync_start(struct disk_file *h, struct disk_sync *sync)
{
    (void)alive(h);
    sync->scratch[0] = (uint64_t)(h->file - h->fake->files);
    sync->scratch[1] = h->fake->written;
    sync->next = NULL;
    *h->fake->syncs_end = sync;
    h->fake->syncs_end = &sync->next;
}

static void fake_close(struct disk_file *h)
{
    free(h);
}

struct fake_disk *fake_disk_new(uint64_t capacity, uint64_t seed)
{
    static const struct disk_ops ops = {
        .list = fake_list,
        .create = fake_create,
        .open = fake_open,
        .remove = fake_remove,
        .dir_sync = fake_dir_sync,
        .write = fake_write,
        .read = fake_read,
        .sync = fake_sync,
        .sync_start = fake_sync_start,
        .close = fake_close,
    };
    struct fake_disk *f = calloc(1, sizeof(*f));

    ENSURE(f);
    f->disk.ops = &ops;
    f->capacity = capacity;
    f->limit = UINT64_MAX;
    f->seed = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    f->syncs_end = &f->syncs;
    for (uint32_t i = 0; i < SLOTS; i++)
        f->files[i].writes_end = &f->files[i].writes;
    return f;
}

struct fake_disk *fake_disk_free(struct fake_disk *f)
{
    for (uint32_t i = 0; f && i < SLOTS; i++)
        file_clear(&f->files[i]);
    free(f);
    return NULL;
}

struct disk *fake_disk_of(struct fake_disk *f)
{
    return &f->disk;
}

void fake_disk_kill(struct fake_disk *f)
{
    f->generation++;
    f->syncs = NULL;
    f->syncs_end = &f->syncs;
}

// What reaches the disk of one write: everything, nothing, or some of its sectors.
static void tear_write(struct fake_disk *f, struct fake_file *file, const struct pending_write *w)
{
    unsigned fate = next_random(f) % 4;
    for (uint64_t at = 0; at < w->size;) {
        uint64_t step = MIN(SECTOR - (w->offset + at) % SECTOR, w->size - at);
        if (fate == 0 || (fate > 1 && next_random(f) % 2))
            memcpy(file->durable + w->offset + at, w->data + at, step);
        at += step;
    }
}

static void crash_file(struct fake_disk *f, struct fake_file *file)
{
    bool keep = file->named && (file->name_durable || next_random(f) % 2);

    if (!file->named && file->was_named && file->now)
        keep = next_random(f) % 2; // the removal may not have lasted
    if (!keep) {
        file_clear(file);
        return;
    }
    for (const struct pending_write *w = file->writes; w; w = w->next)
        tear_write(f, file, w);
    while (file->writes) {
        struct pending_write *w = file->writes;
        file->writes = w->next;
        free(w->data);
        free(w);
    }
    file->writes_end = &file->writes;
    memcpy(file->now, file->durable, file->size);
    file->named = file->name_durable = true;
    file->was_named = false;
}

void fake_disk_crash(struct fake_disk *f)
{
    fake_disk_kill(f);
    for (uint32_t i = 0; i < SLOTS; i++)
        crash_file(f, &f->files[i]);
}

bool fake_disk_complete(struct fake_disk *f)
{
    struct disk_sync *sync = f->syncs;

    if (!sync)
        return false;
    f->syncs = sync->next;
    if (!f->syncs)
        f->syncs_end = &f->syncs;
    int rc = operation(f);
    if (rc == 0)
        settle_writes(&f->files[sync->scratch[0]], sync->scratch[1]);
    sync->done(sync, rc);
    return true;
}

unsigned fake_disk_syncing(const struct fake_disk *f)
{
    unsigned count = 0;
    for (const struct disk_sync *sync = f->syncs; sync; sync = sync->next)
        count++;
    return count;
}

void fake_disk_fail(struct fake_disk *f, unsigned after, int error, bool forever)
{
    f->fail_at = after ? f->operations + after : 0;
    f->fail_error = error;
    f->fail_forever = forever;
}

void fake_disk_fail_reads(struct fake_disk *f, int error)
{
    f->read_error = error;
}

uint64_t fake_disk_operations(const struct fake_disk *f)
{
    return f->operations;
}

uint8_t *fake_disk_bytes(struct fake_disk *f, uint32_t slot, uint64_t *ret_size)
{
    if (slot >= SLOTS || !f->files[slot].named)
        return NULL;
    if (ret_size)
        *ret_size = f->files[slot].size;
    return f->files[slot].now;
}

void fake_disk_rot(struct fake_disk *f, uint32_t slot, uint64_t offset, uint8_t bits)
{
    struct fake_file *file = &f->files[slot];
    ENSURE(slot < SLOTS && file->named && offset < file->size);
    file->now[offset] ^= bits;
    file->durable[offset] ^= bits;
}

void fake_disk_limit(struct fake_disk *f, uint64_t capacity)
{
    f->limit = capacity;
}

uint32_t fake_disk_slots(const struct fake_disk *f)
{
    uint32_t count = SLOTS;
    while (count && !f->files[count - 1].named)
        count--;
    return count;
}

void fake_disk_remove(struct fake_disk *f, uint32_t slot)
{
    file_clear(&f->files[slot]);
}

void fake_disk_cut(struct fake_disk *f, uint32_t slot, uint64_t size)
{
    ENSURE(size <= f->files[slot].size);
    f->files[slot].size = size;
}

static struct fake_disk *copy(const struct fake_disk *from, bool synced, uint64_t seed)
{
    struct fake_disk *f = fake_disk_new(from->capacity, seed);

    for (uint32_t i = 0; i < SLOTS; i++) {
        const struct fake_file *file = &from->files[i];
        const uint8_t *bytes = synced ? file->durable : file->now;
        if (!file->named || (synced && !file->name_durable))
            continue;
        f->files[i].size = file->size;
        f->files[i].now = malloc(file->size);
        f->files[i].durable = malloc(file->size);
        ENSURE(f->files[i].now && f->files[i].durable);
        memcpy(f->files[i].now, bytes, file->size);
        memcpy(f->files[i].durable, bytes, file->size);
        f->files[i].named = f->files[i].name_durable = true;
    }
    return f;
}

struct fake_disk *fake_disk_copy(const struct fake_disk *from, uint64_t seed)
{
    return copy(from, false, seed);
}

struct fake_disk *fake_disk_worst(const struct fake_disk *from, uint64_t seed)
{
    return copy(from, true, seed);
}
