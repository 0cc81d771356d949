// SPDX-License-Identifier: Apache-2.0
#include "queues/maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

enum map_state {
    MAP_GOOD,
    MAP_REBUILT, // covered by an invalid header, or by the end's record, until `relied`
    MAP_FAILED,
};

struct map {
    struct maps *maps;
    uint16_t object;
    struct intent *intent;
    struct disk_file *file; // NULL: could not be made
    const char *found;
    enum map_state state;
    bool recorded; // REBUILT: by the end
    uint64_t record;
    bool relied;   // REBUILT: every page was written once, from here on writes wait for theirs
    bool header_due, header_out;
    bool seen, told, asked, refused; // FAILED; `seen`: by a maps_work() behind the failure
    uint64_t ticket;           // of the newest failure
    int status;
    uint32_t left;  // REBUILT: pages that were not durable once
    unsigned batch; // pages of the one under way
    bool syncing;
    struct disk_sync sync;
    int64_t lazy_ns, retry_ns;
};

struct maps {
    struct maps_config config;
    int64_t now;
    struct map map[RECORD_OBJECTS_MAX];
};

// ---- opening ----

static int read_pages(struct map *m, struct disk_file *file)
{
    uint8_t page[INTENT_PAGE];
    const struct disk_ops *ops = m->maps->config.disk->ops;
    if (ops->read(file, 0, page, sizeof(page)) < 0) {
        m->found = "its header cannot be read";
        return -EIO;
    }
    m->found = intent_load_header(m->intent, page);
    if (m->found)
        return -EUCLEAN;
    for (uint32_t i = 0; i < intent_pages(m->intent); i++) {
        bool read = ops->read(file, (uint64_t)(i + 1) * INTENT_PAGE, page, sizeof(page)) >= 0;
        const char *broken = intent_load_page(m->intent, i, read ? page : NULL);
        if (broken && !m->found)
            m->found = broken;
    }
    return 0;
}

// Every page is to be written; until the header is there the file counts as wholly set.
static void rebuild(struct map *m, bool header_due, bool recorded)
{
    m->state = MAP_REBUILT;
    m->recorded = recorded;
    m->relied = m->told = m->asked = m->refused = m->header_out = false;
    m->header_due = header_due;
    m->left = intent_pages(m->intent);
    m->batch = 0;
    intent_rewrite(m->intent);
}

// What is to be done is recorded nowhere yet. Nobody is told before somebody waits.
static void fail(struct map *m, int status)
{
    m->state = MAP_FAILED;
    m->seen = m->told = m->asked = m->refused = false;
    m->status = status;
    m->ticket++;
    m->retry_ns = m->maps->now + MAPS_RETRY_NS;
}

static int make_file(struct map *m)
{
    struct disk *disk = m->maps->config.disk;
    int r = disk->ops->create(disk, m->object, intent_file_size(m->intent), &m->file);
    if (r == 0)
        r = disk->ops->dir_sync(disk);
    if (r < 0 && m->file) {
        disk->ops->close(m->file);
        m->file = NULL;
    }
    return r;
}

static void open_map(struct map *m)
{
    struct disk *disk = m->maps->config.disk;
    uint64_t size = 0;
    int r = disk->ops->open(disk, m->object, &m->file, &size);
    if (r < 0)
        m->file = NULL;
    if (r == 0 && size == intent_file_size(m->intent) && read_pages(m, m->file) == 0)
        return;
    if (r == -ENOENT)
        m->found = "there is none";
    else if (!m->found)
        m->found = r < 0 ? "it cannot be opened" : "a file of the wrong size";
    intent_fill(m->intent);
    if (m->file)
        disk->ops->close(m->file);
    m->file = NULL;
    if (r != -ENOENT)
        (void)disk->ops->remove(disk, m->object);
    r = make_file(m);
    if (r < 0)
        fail(m, r);
    else
        rebuild(m, true, false);
}

struct maps *maps_new(const struct maps_config *config)
{
    ENSURE(config->volumes <= RECORD_OBJECTS_MAX);
    struct maps *maps = calloc(1, sizeof(*maps));
    if (!maps)
        return NULL;
    maps->config = *config;
    for (uint16_t i = 0; i < config->volumes; i++) {
        struct intent_config ic = {.pair = config->pair,
                                   .volume = config->volume[i],
                                   .size = config->sizes[i],
                                   .region = config->region ? config->region : INTENT_REGION};
        struct map *m = &maps->map[i];
        m->maps = maps;
        m->object = i;
        m->intent = intent_new(&ic);
        if (!m->intent)
            return maps_free(maps);
        open_map(m);
    }
    maps->config.sizes = maps->config.volume = NULL; // the caller's
    return maps;
}

struct maps *maps_free(struct maps *maps)
{
    if (!maps)
        return NULL;
    for (unsigned i = 0; i < maps->config.volumes; i++) {
        struct map *m = &maps->map[i];
        if (m->file)
            maps->config.disk->ops->close(m->file);
        intent_free(m->intent);
    }
    free(maps);
    return NULL;
}

static struct map *at(const struct maps *maps, uint16_t object)
{
    ENSURE(object < maps->config.volumes);
    return (struct map *)&maps->map[object];
}

const char *maps_found(const struct maps *maps, uint16_t object)
{
    return at(maps, object)->found;
}

struct intent *maps_at(struct maps *maps, uint16_t object)
{
    return at(maps, object)->intent;
}

// ---- setting ----

int maps_set(struct maps *maps, uint16_t object, uint64_t offset, uint64_t length)
{
    struct map *m = at(maps, object);
    int r = intent_set(m->intent, offset, length);
    if (m->state == MAP_FAILED) {
        m->asked = true;
        return m->refused ? -EIO : 1;
    }
    return m->state == MAP_REBUILT && !m->relied ? 0 : r;
}

// ---- void ----

void maps_fill(struct maps *maps, uint64_t objects, uint64_t record)
{
    for (uint16_t i = 0; i < maps->config.volumes; i++) {
        struct map *m = &maps->map[i];
        if (!(objects >> i & 1))
            continue;
        intent_fill(m->intent);
        m->ticket++;
        m->record = record;
        rebuild(m, m->header_due || !m->file, true);
    }
}

void maps_void(struct maps *maps, uint16_t object, uint64_t ticket, uint64_t record)
{
    struct map *m = at(maps, object);
    if (m->state != MAP_FAILED || ticket != m->ticket)
        return;
    m->record = record;
    rebuild(m, m->header_due || !m->file, true);
}

void maps_refuse(struct maps *maps, uint16_t object, uint64_t ticket)
{
    struct map *m = at(maps, object);
    if (m->state == MAP_FAILED && ticket == m->ticket)
        m->refused = true;
}

// ---- writing ----

static void write_failed(struct map *m, int status)
{
    if (intent_writing(m->intent))
        intent_written(m->intent, false);
    m->header_out = false;
    m->batch = 0;
    if (m->state == MAP_REBUILT && !m->relied) {
        // Still covered: another attempt, later.
        m->retry_ns = m->maps->now + MAPS_RETRY_NS;
        m->left = intent_pages(m->intent);
        intent_rewrite(m->intent);
        return;
    }
    if (m->state == MAP_REBUILT && m->recorded) {
        // It is not relied upon any more, and the record still stands.
        m->relied = false;
        m->retry_ns = m->maps->now + MAPS_RETRY_NS;
        m->left = intent_pages(m->intent);
        intent_rewrite(m->intent);
        return;
    }
    fail(m, status);
}

static void rebuilt(struct map *m)
{
    bool recorded = m->recorded;
    m->state = MAP_GOOD;
    m->recorded = m->relied = false;
    if (recorded)
        m->maps->config.good(m->maps->config.user, m->object, m->record);
}

static void synced(struct disk_sync *sync, int status)
{
    struct map *m = sync->owner;
    m->syncing = false;
    if (status < 0) {
        write_failed(m, status);
        return;
    }
    if (m->header_out) {
        m->header_out = m->header_due = false;
        return;
    }
    intent_written(m->intent, true);
    m->left -= MIN(m->left, m->batch);
    m->batch = 0;
}

static void start_sync(struct map *m)
{
    m->sync = (struct disk_sync){.done = synced, .owner = m};
    m->syncing = true;
    m->maps->config.disk->ops->sync_start(m->file, &m->sync);
}

static int write_page(struct map *m, uint64_t number, void *page)
{
    struct iovec part = {.iov_base = page, .iov_len = INTENT_PAGE};
    return m->maps->config.disk->ops->write(m->file, number * INTENT_PAGE, &part, 1);
}

static void write_batch(struct map *m, enum intent_need need)
{
    uint8_t page[INTENT_PAGE];
    uint32_t number;
    int r = 0;
    while (r == 0 && intent_begin_page(m->intent, need, &number, page)) {
        m->batch++;
        r = write_page(m, (uint64_t)number + 1, page);
    }
    if (r < 0)
        write_failed(m, r);
    else
        start_sync(m);
}

// Everything behind the header is durable, and is kept so: what it says counts from the moment at
// which it is written.
static void write_header(struct map *m)
{
    uint8_t page[INTENT_PAGE];
    intent_header(m->intent, page);
    m->header_out = true;
    int r = write_page(m, 0, page);
    if (r < 0)
        write_failed(m, r);
    else
        start_sync(m);
}

static void rebuild_step(struct map *m)
{
    if (m->left == 0)
        m->relied = true;
    if (!m->relied || m->syncing || !intent_durable(m->intent))
        return;
    if (m->header_due)
        write_header(m);
    else
        rebuilt(m);
}

static void failed_step(struct map *m)
{
    m->seen = true;
    if (!m->asked || m->told)
        return;
    m->told = true;
    m->maps->config.failed(m->maps->config.user, m->object, m->ticket, m->status);
}

static void work(struct map *m, int64_t now)
{
    if (m->state == MAP_FAILED) {
        failed_step(m);
        return;
    }
    if (m->syncing || now < m->retry_ns)
        return;
    if (!m->file) {
        int r = make_file(m);
        if (r < 0)
            write_failed(m, r);
        return;
    }
    if (m->state == MAP_REBUILT)
        rebuild_step(m);
    if (m->syncing)
        return;
    enum intent_need need = intent_need(m->intent);
    if (need == INTENT_LAZY && m->state == MAP_GOOD && now < m->lazy_ns)
        return;
    if (need == INTENT_LAZY)
        m->lazy_ns = now + MAPS_LAZY_NS;
    if (need != INTENT_CLEAN)
        write_batch(m, need);
}

void maps_work(struct maps *maps, int64_t now)
{
    maps->now = now;
    for (unsigned i = 0; i < maps->config.volumes; i++)
        work(&maps->map[i], now);
}

int64_t maps_deadline(const struct maps *maps)
{
    int64_t deadline = INT64_MAX;
    for (unsigned i = 0; i < maps->config.volumes; i++) {
        const struct map *m = &maps->map[i];
        if (m->syncing)
            continue;
        if (m->state == MAP_FAILED) {
            // A write that fails completes nothing: who waits has to ask once more, and to be told.
            if (!m->seen || (m->asked && !m->told))
                deadline = MIN(deadline, maps->now);
            continue;
        }
        enum intent_need need = intent_need(m->intent);
        if (need == INTENT_LAZY && m->state == MAP_GOOD)
            deadline = MIN(deadline, MAX(m->lazy_ns, m->retry_ns));
        else if (need != INTENT_CLEAN || m->state == MAP_REBUILT)
            deadline = MIN(deadline, m->retry_ns);
    }
    return deadline;
}

void maps_mark(struct maps *maps)
{
    for (unsigned i = 0; i < maps->config.volumes; i++)
        intent_mark(maps->map[i].intent);
}

bool maps_durable(struct maps *maps)
{
    bool durable = true;
    for (unsigned i = 0; i < maps->config.volumes; i++) {
        struct map *m = &maps->map[i];
        if (m->state == MAP_FAILED)
            m->asked = true;
        bool covered = m->state == MAP_REBUILT && !m->relied;
        durable &= m->state != MAP_FAILED && (covered || !intent_marked(m->intent));
    }
    return durable;
}

bool maps_syncing(const struct maps *maps)
{
    for (unsigned i = 0; i < maps->config.volumes; i++) {
        if (maps->map[i].syncing)
            return true;
    }
    return false;
}

void maps_settle(struct maps *maps, uint16_t object)
{
    struct map *m = at(maps, object);
    intent_cool(m->intent);
    m->lazy_ns = 0;
}

bool maps_exact(struct maps *maps, uint16_t object)
{
    struct map *m = at(maps, object);
    if (m->state == MAP_FAILED)
        m->asked = true;
    return m->state == MAP_GOOD && !m->syncing && intent_durable(m->intent);
}
