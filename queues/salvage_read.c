// SPDX-License-Identifier: Apache-2.0
// What is in a directory of salvages (salvage.h): files, salvages, entries; and dropping.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "queues/salvage_private.h"
#include "queues/salvage_set.h"

const char *salvage_cause_text(enum salvage_cause cause)
{
    switch (cause) {
    case SALVAGE_YIELDED:
        return "the other end had taken over";
    case SALVAGE_RESOLVED:
        return "the other end was kept when a split was resolved";
    case SALVAGE_DOUBTFUL:
        return "the other end leads; some of it may have come afterwards, since the intent map was damaged on the way";
    case SALVAGE_CAUSE_END:
        break;
    }
    return "?";
}

// ---- the files ----

struct finding {
    struct disk *disk;
    struct salvage_shelf *shelf;
    int rc;
};

static int look(struct disk *disk, struct salvage_part *part)
{
    struct salvage_file *f;
    int rc = salvage_file_open(disk, part->slot, &f);
    if (rc < 0)
        return rc;
    part->size = f->size;
    part->state = f->state;
    if (f->state == SALVAGE_FILE_GOOD) {
        struct epoch epoch;
        ENSURE(!epoch_decode(f->header.epoch, EPOCH_ENCODED_SIZE, &epoch));
        part->number = le32_get(f->header.number);
        part->index = le32_get(f->header.index);
        part->first = le64_get(f->header.first);
        part->epoch = epoch.id;
    }
    salvage_file_free(f);
    return 0;
}

static void found(void *arg, uint32_t slot)
{
    struct finding *finding = arg;
    struct salvage_shelf *shelf = finding->shelf;
    if (finding->rc < 0 || shelf->count == SALVAGE_FILES_MAX)
        return;
    struct salvage_part *parts = reallocarray(shelf->parts, shelf->count + 1, sizeof(*parts));
    if (!parts) {
        finding->rc = -ENOMEM;
        return;
    }
    shelf->parts = parts;
    parts[shelf->count] = (struct salvage_part){.slot = slot};
    int rc = look(finding->disk, &parts[shelf->count]);
    if (rc == -ENOENT) // dropped meanwhile
        return;
    finding->rc = rc;
    shelf->bytes += parts[shelf->count].size;
    shelf->count++;
}

static int by_place(const void *a, const void *b)
{
    const struct salvage_part *x = a, *y = b;
    if (x->number != y->number)
        return x->number < y->number ? -1 : 1;
    if (x->index != y->index)
        return x->index < y->index ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

int salvage_shelf_read(struct disk *disk, struct salvage_shelf *ret_shelf, struct error *err)
{
    struct salvage_shelf shelf = {0};
    struct finding finding = {.disk = disk, .shelf = &shelf};
    int rc = disk->ops->list(disk, found, &finding);
    if (rc == 0)
        rc = finding.rc;
    if (rc < 0) {
        salvage_shelf_done(&shelf);
        return error_sys(err, rc, "the salvage cannot be read");
    }
    if (shelf.count)
        qsort(shelf.parts, shelf.count, sizeof(shelf.parts[0]), by_place);
    *ret_shelf = shelf;
    return 0;
}

void salvage_shelf_done(struct salvage_shelf *shelf)
{
    free(shelf->parts);
    *shelf = (struct salvage_shelf){0};
}

size_t salvage_shelf_run(const struct salvage_shelf *shelf, size_t at)
{
    size_t end = at;
    while (end < shelf->count && shelf->parts[end].number == shelf->parts[at].number)
        end++;
    return end - at;
}

uint32_t salvage_shelf_slot(const struct salvage_shelf *shelf)
{
    for (uint32_t slot = 0;; slot++) {
        size_t i = 0;
        while (i < shelf->count && shelf->parts[i].slot != slot)
            i++;
        if (i == shelf->count)
            return slot;
    }
}

// ---- the entries of one salvage ----

struct inspection {
    void (*found)(void *arg, const struct salvage_info *info);
    void (*damaged)(void *arg, const struct salvage_damage *damage); // NULL: they are counted only
    void *arg;
    unsigned beyond;
};

struct walk {
    struct salvage_info info;
    uint64_t expected; // number of the next entry
    salvage_entry_fn *fn;
    void *arg;
    const struct inspection *inspection; // NULL: nobody wants to know each damage
};

static void damaged(struct walk *w, enum salvage_verdict verdict, const struct salvage_file *f,
                    uint64_t offset, const char *what)
{
    const struct inspection *look = w->inspection;
    if (look && look->damaged) {
        struct salvage_damage d = {w->info.number, f->slot, offset, verdict, what};
        look->damaged(look->arg, &d);
    }
    if (w->info.verdict >= verdict)
        return;
    w->info.verdict = verdict;
    (void)snprintf(w->info.what, sizeof(w->info.what), "segment.%04u, offset %llu: %s", f->slot,
                   (unsigned long long)offset, what);
}

static void take_header(struct walk *w, const struct salvage_header *h)
{
    struct salvage_info *i = &w->info;
    i->number = le32_get(h->number);
    i->pair = le64_get(h->pair);
    (void)snprintf(i->name, sizeof(i->name), "%.32s", h->name);
    i->side = h->side;
    i->cause = h->cause;
    ENSURE(!epoch_decode(h->epoch, EPOCH_ENCODED_SIZE, &i->epoch));
    i->time = le64_get(h->time);
    i->volume_count = h->volumes;
    for (unsigned v = 0; v < h->volumes; v++) {
        (void)snprintf(i->volumes[v].name, sizeof(i->volumes[v].name), "%.32s", h->volume[v].name);
        i->volumes[v].size = le64_get(h->volume[v].size);
    }
}

static int deliver(struct walk *w, const struct salvage_entry *entry, const void *data)
{
    struct salvage_info *i = &w->info;
    i->entries++;
    i->data_bytes += entry->kind == SALVAGE_DATA ? entry->length : 0;
    i->zero_bytes += entry->kind == SALVAGE_ZERO ? entry->length : 0;
    i->unreadable_bytes += entry->kind == SALVAGE_UNREADABLE ? entry->length : 0;
    i->gone_bytes += entry->kind == SALVAGE_GONE ? entry->length : 0;
    i->done = i->done || entry->kind == SALVAGE_DONE;
    w->expected = entry->number + 1;
    return w->fn ? w->fn(w->arg, entry, data) : 0;
}

// The next whole entry behind `at`, and up to where the ones from there on knew everything to be durable. 0: none.
static uint64_t look_behind(const struct salvage_file *f, uint64_t at, uint64_t above,
                            uint64_t *ret_number, uint64_t *ret_durable)
{
    uint64_t first = 0;
    *ret_durable = 0;
    for (uint64_t place = at; (place = salvage_file_search(f, place, above)) > 0;) {
        struct salvage_entry entry;
        uint64_t durable, next;
        void *data = NULL;
        if (salvage_file_read(f, place, &entry, &durable, &data, &next))
            break; // it could be a moment ago
        free(data);
        *ret_durable = MAX(*ret_durable, durable);
        if (!first)
            *ret_number = entry.number;
        first = first ? first : place;
    }
    return first;
}

// Where the walk of a file goes on behind something that is no entry; 0: nowhere. In the last file that is what a crash
// leaves, unless an entry behind it knew that more had been durable.
static uint64_t go_on(struct walk *w, const struct salvage_file *f, uint64_t at, bool last,
                      const char *broken)
{
    uint64_t durable, number = 0;
    uint64_t resume = look_behind(f, at, w->expected + 1, &number, &durable);
    if (last && durable < w->expected) {
        if (*broken || resume)
            damaged(w, SALVAGE_TORN, f, at, *broken ? broken : "an entry is missing");
        return 0;
    }
    damaged(w, SALVAGE_DAMAGED, f, at, *broken ? broken : "an entry is missing");
    if (resume)
        w->expected = number;
    return resume;
}

static int walk_file(struct walk *w, const struct salvage_file *f, uint64_t until, bool last)
{
    uint64_t at = SALVAGE_HEADER_SIZE;
    while (w->expected < until) {
        struct salvage_entry entry;
        uint64_t durable, next;
        void *data = NULL;
        const char *broken = salvage_file_read(f, at, &entry, &durable, &data, &next);
        if (!broken && entry.number != w->expected)
            broken = "an entry is missing";
        if (broken) {
            free(data);
            at = go_on(w, f, at, last, broken);
            if (!at)
                return 0;
            continue;
        }
        int rc = deliver(w, &entry, data);
        free(data);
        if (rc < 0)
            return rc;
        at = next;
    }
    return 0;
}

static int walk_part(struct walk *w, struct disk *disk, const struct salvage_part *part,
                     const struct salvage_part *follower, unsigned index, bool sync)
{
    struct salvage_file *f;
    int rc = salvage_file_open(disk, part->slot, &f);
    if (rc < 0)
        return rc;
    if (f->state != SALVAGE_FILE_GOOD) { // it changes while we look
        salvage_file_free(f);
        return -EAGAIN;
    }
    if (sync && !follower)
        rc = disk->ops->sync(f->file);
    take_header(w, &f->header);
    w->info.files++;
    w->info.file_bytes += f->size;
    if (part->index != index || part->first != w->expected) {
        damaged(w, SALVAGE_DAMAGED, f, 0, "files or entries in front of this one are missing");
        w->expected = MAX(w->expected, part->first);
    }
    if (rc == 0)
        rc = walk_file(w, f, follower ? follower->first : UINT64_MAX, !follower);
    salvage_file_free(f);
    return rc;
}

static int walk_run(struct walk *w, struct disk *disk, const struct salvage_shelf *shelf, size_t at, bool sync,
                    struct error *err)
{
    size_t run = salvage_shelf_run(shelf, at);
    uint32_t index = 0;

    for (size_t i = 0; i < run; i++) {
        const struct salvage_part *part = &shelf->parts[at + i];
        const struct salvage_part *follower = i + 1 < run ? part + 1 : NULL;
        int rc = walk_part(w, disk, part, follower, index, sync);
        if (rc < 0)
            return error_sys(err, rc, "salvage %u: segment.%04u", part->number, part->slot);
        index = part->index + 1;
    }
    return 0;
}

int salvage_shelf_walk(struct disk *disk, const struct salvage_shelf *shelf, size_t at, bool sync,
                       salvage_entry_fn *fn, void *arg, struct salvage_info *ret_info,
                       uint64_t *ret_last, struct error *err)
{
    struct walk w = {.expected = 1, .fn = fn, .arg = arg};
    int rc = walk_run(&w, disk, shelf, at, sync, err);
    if (rc < 0)
        return rc;
    if (ret_info)
        *ret_info = w.info;
    if (ret_last)
        *ret_last = w.expected - 1;
    return 0;
}

// ---- from outside ----

// A file that belongs to no salvage for all that is known.
static void look_at_stray(struct inspection *look, const struct salvage_part *part)
{
    if (part->state != SALVAGE_FILE_BAD)
        return;
    look->beyond++;
    if (!look->damaged)
        return;
    struct salvage_damage d = {.slot = part->slot,
                               .verdict = SALVAGE_DAMAGED,
                               .what = "its header cannot be read: what it holds is in no salvage"};
    look->damaged(look->arg, &d);
}

static int inspect(struct disk *disk, struct inspection *look, struct error *err)
{
    struct salvage_shelf shelf;
    int rc = salvage_shelf_read(disk, &shelf, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < shelf.count && rc == 0; i += salvage_shelf_run(&shelf, i)) {
        if (shelf.parts[i].state != SALVAGE_FILE_GOOD) {
            for (size_t k = i; k < i + salvage_shelf_run(&shelf, i); k++)
                look_at_stray(look, &shelf.parts[k]);
            continue;
        }
        struct walk w = {.expected = 1, .inspection = look};
        rc = walk_run(&w, disk, &shelf, i, false, err);
        if (rc == 0)
            look->found(look->arg, &w.info);
    }
    salvage_shelf_done(&shelf);
    return rc;
}

int salvage_inspect(struct disk *disk, void (*each)(void *arg, const struct salvage_info *info),
                    void (*broken)(void *arg, const struct salvage_damage *damage), void *arg, struct error *err)
{
    struct inspection look = {.found = each, .damaged = broken, .arg = arg};
    return inspect(disk, &look, err);
}

int salvage_list(struct disk *disk, void (*each)(void *arg, const struct salvage_info *info),
                 void *arg, unsigned *ret_beyond, struct error *err)
{
    struct inspection look = {.found = each, .arg = arg};
    int rc = inspect(disk, &look, err);
    if (rc == 0)
        *ret_beyond = look.beyond;
    return rc;
}

// Index of its first part, or -ENOENT.
static long find(const struct salvage_shelf *shelf, uint32_t number, struct error *err)
{
    for (size_t i = 0; i < shelf->count; i++)
        if (shelf->parts[i].state == SALVAGE_FILE_GOOD && shelf->parts[i].number == number)
            return (long)i;
    return error_set(err, -ENOENT, "there is no salvage %u", number);
}

int salvage_walk(struct disk *disk, uint32_t number, salvage_entry_fn *entry, void *arg,
                 struct salvage_info *ret_info, struct error *err)
{
    struct salvage_shelf shelf;
    int rc = salvage_shelf_read(disk, &shelf, err);
    if (rc < 0)
        return rc;
    long at = find(&shelf, number, err);
    rc = at < 0 ? (int)at
                : salvage_shelf_walk(disk, &shelf, (size_t)at, false, entry, arg, ret_info, NULL,
                                     err);
    salvage_shelf_done(&shelf);
    return rc;
}

// ---- dropping ----

// The ranges of a salvage.
struct memory {
    struct salvage_set *sets[RECORD_OBJECTS_MAX];
    const struct salvage_info *info;
    bool kept; // there is something besides what is gone already
};

static void memory_done(struct memory *m)
{
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++)
        m->sets[i] = salvage_set_free(m->sets[i]);
}

static uint64_t blocks_of(uint64_t bytes)
{
    return (bytes + SALVAGE_BLOCK - 1) / SALVAGE_BLOCK;
}

static int remember(void *arg, const struct salvage_entry *entry, const void *data)
{
    struct memory *m = arg;
    (void)data;
    m->kept = m->kept || (entry->kind != SALVAGE_GONE && entry->kind != SALVAGE_DONE);
    if (entry->kind == SALVAGE_DONE || entry->object >= m->info->volume_count)
        return 0;
    uint64_t blocks = blocks_of(m->info->volumes[entry->object].size);
    struct salvage_set **set = &m->sets[entry->object];
    if (!*set && !(*set = salvage_set_new(blocks)))
        return -ENOMEM;
    uint64_t first = entry->offset / SALVAGE_BLOCK;
    uint64_t end = blocks_of(entry->offset + entry->length);
    return salvage_set_add(*set, MIN(first, blocks), MIN(end, blocks));
}

// Calls write() for each range; NULL counts only.
static int each_range(const struct memory *m, struct salvage_file *f, uint64_t *ret_count)
{
    uint64_t count = 0;
    for (unsigned object = 0; object < m->info->volume_count; object++) {
        uint64_t size = m->info->volumes[object].size, first, end, at = 0;
        while (m->sets[object] && salvage_set_next(m->sets[object], true, at, blocks_of(size),
                                                   &first, &end)) {
            struct salvage_head head = {
                .kind = SALVAGE_GONE,
                .object = le16_make((uint16_t)object),
                .number = le64_make(++count),
                .offset = le64_make(first * SALVAGE_BLOCK),
                .length = le64_make(MIN(end * SALVAGE_BLOCK, size) - first * SALVAGE_BLOCK),
            };
            at = end;
            if (!f)
                continue;
            head.salvage = f->header.number;
            int rc = salvage_file_append(f, &head, NULL);
            if (rc < 0)
                return rc;
        }
    }
    *ret_count = count;
    return 0;
}

static int read_header_of(struct disk *disk, const struct salvage_part *part,
                          struct salvage_header *ret_header)
{
    struct salvage_file *f;
    int rc = salvage_file_open(disk, part->slot, &f);
    if (rc < 0)
        return rc;
    *ret_header = f->header;
    rc = f->state == SALVAGE_FILE_GOOD ? 0 : -EUCLEAN;
    salvage_file_free(f);
    return rc;
}

// The ranges, in one file of a salvage with the next number.
static int write_ranges(struct disk *disk, const struct salvage_shelf *shelf,
                        struct salvage_header header, const struct memory *m)
{
    struct salvage_file *f = NULL;
    uint64_t count;
    (void)each_range(m, NULL, &count);
    uint64_t size = SALVAGE_HEADER_SIZE + count * SALVAGE_ALIGN;
    header.number = le32_make(shelf->parts[shelf->count - 1].number + 1);
    header.index = le32_make(0);
    header.first = le64_make(1);
    int rc = salvage_file_create(disk, salvage_shelf_slot(shelf), (size + 4095) / 4096 * 4096,
                                 &header, &f);
    if (rc < 0)
        return rc;
    rc = each_range(m, f, &count);
    if (rc == 0)
        rc = disk->ops->sync(f->file);
    uint32_t slot = f->slot;
    salvage_file_free(f);
    if (rc < 0) // nothing of it counts: what it is to stand for is still there
        (void)disk->ops->remove(disk, slot);
    return rc;
}

static int keep_ranges(struct disk *disk, struct salvage_shelf *shelf, size_t at,
                       const struct memory *m)
{
    struct salvage_header header;
    int rc = read_header_of(disk, &shelf->parts[at], &header);
    if (rc == 0)
        rc = write_ranges(disk, shelf, header, m);
    if (rc != -ENOSPC)
        return rc;
    // The disk is full to the last: room for the ranges comes from the end of what goes.
    struct salvage_part *last = &shelf->parts[at + salvage_shelf_run(shelf, at) - 1];
    rc = disk->ops->remove(disk, last->slot);
    if (rc == 0)
        rc = disk->ops->dir_sync(disk);
    last->state = SALVAGE_FILE_BLANK; // it is gone
    return rc == 0 ? write_ranges(disk, shelf, header, m) : rc;
}

static int remember_ranges(struct disk *disk, struct salvage_shelf *shelf, size_t at,
                           const struct salvage_info *info, struct error *err)
{
    struct memory m = {.info = info};
    int rc = salvage_shelf_walk(disk, shelf, at, false, remember, &m, NULL, NULL, err);
    if (rc == 0 && !m.kept && info->gone_bytes)
        rc = error_set(err, -EBUSY,
                       "it is but the list of what was dropped of a salvage that goes on, and takes no room; it can be "
                       "dropped when the resync is done");
    else if (rc == 0 && m.kept && (rc = keep_ranges(disk, shelf, at, &m)) < 0)
        (void)error_sys(err, rc, "salvage %u: its ranges cannot be kept", info->number);
    memory_done(&m);
    return rc;
}

// Its first file goes first: what a crash leaves of it is shown as damaged, and dropped anew.
static int remove_files(struct disk *disk, const struct salvage_shelf *shelf, size_t at,
                        struct error *err)
{
    size_t run = salvage_shelf_run(shelf, at);
    for (size_t i = at; i < at + run; i++) {
        int rc = shelf->parts[i].state == SALVAGE_FILE_GOOD
                     ? disk->ops->remove(disk, shelf->parts[i].slot)
                     : 0;
        if (rc == 0)
            rc = disk->ops->dir_sync(disk);
        if (rc < 0)
            return error_sys(err, rc, "segment.%04u cannot be removed", shelf->parts[i].slot);
    }
    return 0;
}

int salvage_drop(struct disk *disk, uint32_t number, bool goes_on, struct error *err)
{
    struct salvage_shelf shelf;
    struct salvage_info info;
    int rc = salvage_shelf_read(disk, &shelf, err);
    if (rc < 0)
        return rc;
    long at = find(&shelf, number, err);
    rc = at < 0 ? (int)at
                : salvage_shelf_walk(disk, &shelf, (size_t)at, false, NULL, NULL, &info, NULL, err);
    if (rc == 0 && !info.done && goes_on)
        rc = remember_ranges(disk, &shelf, (size_t)at, &info, err);
    if (rc == 0)
        rc = remove_files(disk, &shelf, (size_t)at, err);
    salvage_shelf_done(&shelf);
    return rc;
}
