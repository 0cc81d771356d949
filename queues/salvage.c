// SPDX-License-Identifier: Apache-2.0
// Writing a salvage (salvage.h).
//
// Entries are appended to files that are allocated in full when they are begun. A file is begun only when the one in
// front of it is durable; each run begins with a new one, so that nothing is written behind a torn tail.
#include "queues/salvage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "queues/salvage_private.h"
#include "queues/salvage_set.h"

#define FILE_STEP 4096U

struct salvage {
    struct salvage_config config;
    struct salvage_set *kept[RECORD_OBJECTS_MAX]; // blocks that are in the archive, or on their way
    uint32_t number;                              // of the salvage that is written; 0: none yet
    uint32_t number_max;                          // of those that are there
    uint32_t index;                               // of the next file in it
    struct salvage_file *file;                    // that is appended to; NULL: the next entry begins one
    uint64_t last, durable;
    uint64_t used_bytes, kept_bytes;
    int failure;
    struct disk_sync sync;
    struct salvage_file *syncing; // whose sync is under way; NULL: none is
    uint64_t sync_last;           // what it covers
    void (*done)(void *arg, int status);
    void *done_arg;
};

static uint64_t blocks_of(uint64_t bytes)
{
    return (bytes + SALVAGE_BLOCK - 1) / SALVAGE_BLOCK;
}

// ---- opening ----

struct taking {
    struct salvage *salvage;
    uint64_t last; // entries behind it do not count
};

static int take_entry(void *arg, const struct salvage_entry *entry, const void *data)
{
    struct taking *t = arg;
    struct salvage *s = t->salvage;
    (void)data;
    if (entry->kind == SALVAGE_DONE || entry->object >= s->config.volume_count ||
        entry->number > t->last)
        return 0;
    uint64_t blocks = blocks_of(s->config.volumes[entry->object].size);
    uint64_t first = entry->offset / SALVAGE_BLOCK;
    uint64_t end = blocks_of(entry->offset + entry->length);
    return salvage_set_add(s->kept[entry->object], MIN(first, blocks), MIN(end, blocks));
}

// What a crash has left of the creation of a file. What is removed held nothing.
static int tidy(struct salvage *s, const struct salvage_shelf *shelf)
{
    int rc = 0;
    bool removed = false;
    for (size_t i = 0; i < shelf->count && rc == 0; i++) {
        if (shelf->parts[i].state != SALVAGE_FILE_BLANK)
            continue;
        rc = s->config.disk->ops->remove(s->config.disk, shelf->parts[i].slot);
        s->used_bytes -= shelf->parts[i].size;
        removed = true;
    }
    return rc == 0 && removed ? s->config.disk->ops->dir_sync(s->config.disk) : rc;
}

// One that goes on: of the same epoch that was given up.
static int take_salvage(struct salvage *s, const struct salvage_shelf *shelf, size_t at,
                        struct error *err)
{
    struct salvage_info info;
    struct taking taking = {.salvage = s, .last = UINT64_MAX};
    uint64_t last;
    if (shelf->parts[at].number == s->config.distrusted)
        taking.last = s->config.trusted_last;
    int rc = salvage_shelf_walk(s->config.disk, shelf, at, true, take_entry, &taking, &info, &last,
                                err);
    if (rc < 0)
        return rc;
    last = MIN(last, taking.last);
    s->number = info.done ? 0 : info.number;
    s->index = shelf->parts[at + salvage_shelf_run(shelf, at) - 1].index + 1;
    s->last = s->durable = info.done ? 0 : last;
    return 0;
}

static int take_shelf(struct salvage *s, struct error *err)
{
    struct salvage_shelf shelf;
    int rc = salvage_shelf_read(s->config.disk, &shelf, err);
    if (rc < 0)
        return rc;
    s->used_bytes = shelf.bytes;
    for (size_t i = 0; i < shelf.count && rc == 0; i += salvage_shelf_run(&shelf, i)) {
        s->number_max = MAX(s->number_max, shelf.parts[i].number);
        if (shelf.parts[i].state == SALVAGE_FILE_GOOD &&
            shelf.parts[i].epoch == s->config.epoch.id)
            rc = take_salvage(s, &shelf, i, err);
    }
    if (rc == 0 && (rc = tidy(s, &shelf)) < 0)
        (void)error_sys(err, rc, "the salvage's directory");
    salvage_shelf_done(&shelf);
    return rc;
}

int salvage_open(const struct salvage_config *config, struct salvage **ret_salvage,
                 struct error *err)
{
    ENSURE(config->volume_count <= RECORD_OBJECTS_MAX);
    struct salvage *s = calloc(1, sizeof(*s));
    if (!s)
        return error_sys(err, -ENOMEM, "salvage");
    s->config = *config;
    if (!s->config.file_size)
        s->config.file_size = SALVAGE_FILE_SIZE;
    ENSURE(s->config.file_size % FILE_STEP == 0 && s->config.file_size >= SALVAGE_FILE_MIN);
    int rc = 0;
    for (unsigned i = 0; i < config->volume_count && rc == 0; i++) {
        s->kept[i] = salvage_set_new(blocks_of(config->volumes[i].size));
        rc = s->kept[i] ? 0 : error_sys(err, -ENOMEM, "salvage");
    }
    if (rc == 0)
        rc = take_shelf(s, err);
    if (rc < 0) {
        salvage_free(s);
        return rc;
    }
    *ret_salvage = s;
    return 0;
}

struct salvage *salvage_free(struct salvage *s)
{
    if (!s)
        return NULL;
    if (s->syncing != s->file)
        salvage_file_free(s->syncing);
    salvage_file_free(s->file);
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++)
        salvage_set_free(s->kept[i]);
    free(s);
    return NULL;
}

// ---- asking ----

bool salvage_next(const struct salvage *s, unsigned object, uint64_t offset, uint64_t end,
                  uint64_t *ret_offset, uint64_t *ret_length)
{
    if (object >= s->config.volume_count || !(s->config.objects >> object & 1))
        return false;
    uint64_t size = s->config.volumes[object].size;
    uint64_t at = offset / SALVAGE_BLOCK, stop = blocks_of(MIN(end, size)), upto;
    uint64_t first, after;

    while (at < stop && salvage_set_next(s->kept[object], false, at, stop, &first, &after)) {
        after = MIN(after, first + SALVAGE_ENTRY_MAX / SALVAGE_BLOCK);
        if (s->config.alone) {
            bool alone = s->config.alone(s->config.arg, object, first * SALVAGE_BLOCK, &upto);
            ENSURE(upto > first * SALVAGE_BLOCK);
            if (!alone) {
                at = MAX(upto / SALVAGE_BLOCK, first + 1);
                continue;
            }
            after = MIN(after, blocks_of(MIN(upto, size)));
        }
        *ret_offset = first * SALVAGE_BLOCK;
        *ret_length = MIN(after * SALVAGE_BLOCK, size) - *ret_offset;
        return true;
    }
    return false;
}

// ---- appending ----

static struct salvage_header make_header(const struct salvage *s)
{
    const struct salvage_config *c = &s->config;
    struct salvage_header h = {
        .side = (uint8_t)c->side,
        .cause = (uint8_t)c->cause,
        .volumes = (uint8_t)c->volume_count,
        .pair = le64_make(c->pair),
        .number = le32_make(s->number ? s->number : s->number_max + 1),
        .index = le32_make(s->number ? s->index : 0),
        .first = le64_make(s->number ? s->last + 1 : 1),
        .time = le64_make(c->time),
    };
    epoch_encode(&c->epoch, h.epoch);
    memcpy(h.name, c->name, strnlen(c->name, sizeof(h.name) - 1));
    for (unsigned i = 0; i < c->volume_count; i++) {
        memcpy(h.volume[i].name, c->volumes[i].name,
               strnlen(c->volumes[i].name, sizeof(h.volume[i].name) - 1));
        h.volume[i].size = le64_make(c->volumes[i].size);
    }
    return h;
}

static int free_slot(const struct salvage *s, uint32_t *ret_slot)
{
    struct salvage_shelf shelf;
    int rc = salvage_shelf_read(s->config.disk, &shelf, NULL);
    if (rc < 0)
        return rc;
    *ret_slot = salvage_shelf_slot(&shelf);
    rc = shelf.count == SALVAGE_FILES_MAX ? -ENOSPC : 0;
    salvage_shelf_done(&shelf);
    return rc;
}

static int begin_file(struct salvage *s, uint64_t size)
{
    struct salvage_header header = make_header(s);
    struct salvage_file *f;
    uint32_t slot;
    // Whatever is in a file that is not the last one can be relied on.
    int rc = s->file ? s->config.disk->ops->sync(s->file->file) : 0;
    if (rc == 0)
        rc = free_slot(s, &slot);
    if (rc == 0)
        rc = salvage_file_create(s->config.disk, slot, size, &header, &f);
    if (rc < 0)
        return rc;
    if (s->file != s->syncing)
        salvage_file_free(s->file);
    s->file = f;
    s->used_bytes += size;
    s->number = le32_get(header.number);
    s->index = le32_get(header.index) + 1;
    s->durable = s->last;
    return 0;
}

static int fail(struct salvage *s, int rc, struct error *err)
{
    s->failure = rc;
    return error_sys(err, rc, "the salvage cannot be written");
}

// Makes sure that an entry of `span` bytes fits. `least`: as small a file as will do, whatever the limit says.
static int make_room(struct salvage *s, uint64_t span, bool least, struct error *err)
{
    if (s->file && s->file->size - s->file->end >= span)
        return 0;
    uint64_t smallest = (SALVAGE_HEADER_SIZE + span + FILE_STEP - 1) / FILE_STEP * FILE_STEP;
    uint64_t room = s->config.limit > s->used_bytes ? s->config.limit - s->used_bytes : 0;
    uint64_t size = least ? smallest : MIN(s->config.file_size, room / FILE_STEP * FILE_STEP);
    if (size < smallest)
        return error_set(err, -ENOSPC, "the salvage has reached its limit of %llu bytes",
                         (unsigned long long)s->config.limit);
    int rc = begin_file(s, size);
    if (rc == -ENOSPC)
        return error_set(err, -ENOSPC, "the disk of the salvage is full");
    return rc < 0 ? fail(s, rc, err) : 0;
}

static int append(struct salvage *s, struct salvage_head *head, const void *data, struct error *err)
{
    bool done = head->kind == SALVAGE_DONE;
    if (s->failure)
        return error_sys(err, s->failure, "the salvage failed before");
    int rc = make_room(s, salvage_entry_span(head->kind, le64_get(head->length)), done, err);
    if (rc < 0)
        return rc;
    head->number = le64_make(s->last + 1);
    head->durable = le64_make(s->durable);
    head->salvage = le32_make(s->number);
    rc = salvage_file_append(s->file, head, data);
    if (rc == -ENOSPC) // where allocating does not help
        return error_set(err, -ENOSPC, "the disk of the salvage is full");
    if (rc < 0)
        return fail(s, rc, err);
    s->last++;
    return 0;
}

static int keep(struct salvage *s, enum salvage_kind kind, unsigned object, uint64_t offset,
                uint64_t length, int status, const void *data, struct error *err)
{
    struct salvage_head head = {
        .kind = (uint8_t)kind,
        .object = le16_make((uint16_t)object),
        .offset = le64_make(offset),
        .length = le64_make(length),
        .status = le32_make((uint32_t)-status),
    };
    ENSURE(length > 0 && length <= SALVAGE_ENTRY_MAX && offset % SALVAGE_BLOCK == 0);
    ENSURE(object < s->config.volume_count && offset + length <= s->config.volumes[object].size);
    // First, since it cannot be undone: what is in the archive must not be asked for again.
    int rc = salvage_set_add(s->kept[object], offset / SALVAGE_BLOCK, blocks_of(offset + length));
    if (rc < 0)
        return fail(s, rc, err);
    rc = append(s, &head, data, err);
    if (rc < 0) // also when it is full: this object believes now that it has the range
        s->failure = rc;
    else
        s->kept_bytes += length;
    return rc;
}

int salvage_keep(struct salvage *s, unsigned object, uint64_t offset, uint64_t length,
                 const void *data, struct error *err)
{
    bool zero = bytes_are_zero(data, length);
    return keep(s, zero ? SALVAGE_ZERO : SALVAGE_DATA, object, offset, length, 0,
                zero ? NULL : data, err);
}

int salvage_give_up(struct salvage *s, unsigned object, uint64_t offset, uint64_t length,
                    int status, struct error *err)
{
    return keep(s, SALVAGE_UNREADABLE, object, offset, length, status, NULL, err);
}

// ---- syncing ----

static void sync_done(struct disk_sync *sync, int status)
{
    struct salvage *s = sync->owner;
    if (s->syncing != s->file)
        salvage_file_free(s->syncing);
    s->syncing = NULL;
    if (status < 0)
        s->failure = status; // final: what it covered is not known to be there
    else
        s->durable = MAX(s->durable, s->sync_last);
    s->done(s->done_arg, status);
}

void salvage_sync(struct salvage *s, void (*done)(void *arg, int status), void *arg)
{
    ENSURE(!s->syncing && s->last > s->durable);
    s->done = done;
    s->done_arg = arg;
    s->syncing = s->file;
    s->sync_last = s->last;
    s->sync = (struct disk_sync){.done = sync_done, .owner = s};
    s->config.disk->ops->sync_start(s->file->file, &s->sync);
}

bool salvage_syncing(const struct salvage *s)
{
    return s->syncing != NULL;
}

uint64_t salvage_last(const struct salvage *s)
{
    return s->last;
}

uint64_t salvage_durable(const struct salvage *s)
{
    return s->durable;
}

int salvage_failure(const struct salvage *s)
{
    return s->failure;
}

void salvage_hand_on(const struct salvage *s, struct salvage_config *next)
{
    bool failed = s->failure && s->failure != -ENOSPC;
    if (failed) {
        next->distrusted = s->number;
        next->trusted_last = s->durable;
    } else if (s->kept_bytes > 0) {
        next->distrusted = 0; // the file that was begun says where the former one ends
    } else {
        next->distrusted = s->config.distrusted;
        next->trusted_last = s->config.trusted_last;
    }
}

int salvage_finish(struct salvage *s, struct error *err)
{
    struct salvage_head head = {.kind = SALVAGE_DONE};
    ENSURE(!s->syncing);
    if (!s->number)
        return 0;
    // The last entry knows everything in front of it to be durable.
    int rc = s->file && !s->failure ? s->config.disk->ops->sync(s->file->file) : 0;
    if (rc < 0)
        return fail(s, rc, err);
    s->durable = s->last;
    rc = append(s, &head, NULL, err);
    if (rc < 0)
        return rc;
    rc = s->config.disk->ops->sync(s->file->file);
    s->file = salvage_file_free(s->file);
    s->number_max = s->number;
    s->number = 0;
    s->last = s->durable = 0;
    return rc < 0 ? fail(s, rc, err) : 0;
}

void salvage_stats(const struct salvage *s, struct salvage_stats *ret)
{
    *ret = (struct salvage_stats){
        .number = s->number,
        .kept_bytes = s->kept_bytes,
        .used_bytes = s->used_bytes,
        .limit_bytes = s->config.limit,
    };
}
