// SPDX-License-Identifier: Apache-2.0
// What is in a salvage is what its end held when it began to follow, and what that end had written on its own is there
// before anything else is in its place.
//
// Looked at by the block: whenever a volume is said to be whole again, and before an operator drops an archive. Behind a
// power loss in between, which takes from the store what nobody was promised, behind one that could come at any time, and at
// the end of the run: by the sector. An
// end that begins to follow and salvages nothing has nothing that the line does not have.
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "queues/salvage.h"

// ---- what is in the archives ----

static void take_blocks(struct host *h, const struct salvage_entry *e)
{
    struct judged_salvage *j = &h->judged;
    for (uint64_t at = e->offset / SALVAGE_BLOCK; at * SALVAGE_BLOCK < e->offset + e->length; at++) {
        if (e->kind == SALVAGE_GONE && j->exact && !j->kept[e->object][at])
            fail(h->sim, "%c: block %llu of volume %u is said to have been kept before", h->letter,
                 (unsigned long long)at, e->object);
        j->kept[e->object][at] = true;
    }
}

static void take_sectors(struct host *h, const struct salvage_entry *e, const uint8_t *data)
{
    static const uint8_t zeros[SECTOR];
    struct judged_salvage *j = &h->judged;
    for (uint64_t at = e->offset; at + SECTOR <= e->offset + e->length; at += SECTOR) {
        const uint8_t *has = data ? data + (at - e->offset) : zeros, *had = j->had[e->object] + at;
        uint32_t i = (uint32_t)(at / SECTOR);
        j->there[e->object][i] = true;
        if (j->doubtful || memcmp(had, has, SECTOR) == 0)
            continue;
        fail(h->sim, "%c: what is in the salvage of volume %u at %llu is not what it had held: write %lld, not %lld",
             h->letter, e->object, (unsigned long long)at, (long long)sector_tag(has, i),
             (long long)sector_tag(had, i));
        return;
    }
}

static int entry(void *arg, const struct salvage_entry *e, const void *data)
{
    struct host *h = arg;
    if (e->kind == SALVAGE_DONE)
        return 0;
    if (e->object >= h->sim->volumes || e->offset >= h->sim->size || e->length > h->sim->size - e->offset) {
        fail(h->sim, "%c: a salvage of something that is not in its volumes", h->letter);
        return -ECANCELED;
    }
    h->judged.gone |= e->kind == SALVAGE_GONE || e->kind == SALVAGE_UNREADABLE;
    if (e->kind == SALVAGE_DATA || e->kind == SALVAGE_ZERO)
        take_sectors(h, e, data);
    take_blocks(h, e);
    return h->sim->failed ? -ECANCELED : 0;
}

struct found {
    uint64_t epoch;
    bool gone; // something was dropped, or cannot be read
    bool doubtful;
    uint32_t numbers[64];
    unsigned count;
};

static void collect(void *arg, const struct salvage_info *info)
{
    struct found *f = arg;
    f->gone |= info->gone_bytes || info->verdict == SALVAGE_DAMAGED;
    if (info->epoch.id != f->epoch || f->count == ARRAY_LEN(f->numbers))
        return;
    f->numbers[f->count++] = info->number;
    f->doubtful |= info->cause == SALVAGE_DOUBTFUL;
}

static void read_archive_of(struct host *h, struct fake_disk *copy)
{
    struct judged_salvage *j = &h->judged;
    struct found f = {.epoch = j->epoch};
    struct salvage_info info;
    unsigned beyond;
    struct disk *disk = fake_disk_of(copy);
    j->gone = false;
    memset(j->there, 0, sizeof(j->there));
    (void)salvage_list(disk, collect, &f, &beyond, NULL);
    j->doubtful = f.doubtful;
    if (j->doubtful)
        cover_count("salvages that say that they are in doubt");
    for (unsigned i = 0; i < f.count && !h->sim->failed; i++)
        (void)salvage_walk(disk, f.numbers[i], entry, h, &info, NULL);
    fake_disk_free(copy);
    j->gone |= f.gone;
    if (f.count)
        cover_count("salvages looked through");
}

static void read_archive(struct host *h)
{
    read_archive_of(h, fake_disk_copy(h->salvage, 1));
}

// ---- by the block ----

static void check_write(struct host *h, uint32_t number)
{
    const struct ledger_write *w = &h->sim->ledger.writes[number];
    const uint8_t *has = fake_volume_bytes(h->volume[w->object]), *had = h->judged.had[w->object];
    uint64_t first = (uint64_t)w->sector * SECTOR, end = first + (uint64_t)w->count * SECTOR;
    for (uint64_t at = first / SALVAGE_BLOCK; at * SALVAGE_BLOCK < end; at++) {
        uint64_t offset = at * SALVAGE_BLOCK, length = MIN(SALVAGE_BLOCK, h->sim->size - offset);
        if (h->judged.kept[w->object][at] || memcmp(had + offset, has + offset, length) == 0)
            continue;
        fail(h->sim, "%c: write %u (epoch %u, seq %llu) was its alone, and is overwritten at %llu without a salvage",
             h->letter, number, h->sim->ledger.epochs[w->epoch - 1].epoch.number, (unsigned long long)w->seq,
             (unsigned long long)offset);
        return;
    }
    cover_count("writes of an end alone, kept or equal");
}

static void check_volumes(struct host *h, const struct end_state *state, uint64_t objects)
{
    struct sim *s = h->sim;
    const struct epoch *now = history_current(&state->history);
    int at = now ? ledger_find(s, now->id) : -1;
    for (uint32_t i = MAX(h->judged.from, 1U); at >= 0 && i < s->ledger.write_count && !s->failed; i++) {
        const struct ledger_write *w = &s->ledger.writes[i];
        bool own = w->host == h->index && w->epoch && (objects >> w->object & 1);
        if (own && !judge_on_line(s, at, UINT64_MAX, (int)w->epoch - 1, w->seq))
            check_write(h, i);
    }
}

static void begin(struct host *h, const struct end_state *state)
{
    struct judged_salvage *j = &h->judged;
    *j = (struct judged_salvage){.exact = true, .from = j->from, .judged_role = j->judged_role};
    j->epoch = state->salvage ? state->salvaged.id : 0;
    j->objects = j->left = state->salvage;
    for (unsigned v = 0; v < h->sim->volumes; v++) {
        const uint8_t *leads = fake_volume_bytes(other(h)->volume[v]);
        j->had[v] = malloc(h->sim->size);
        ENSURE(j->had[v]);
        memcpy(j->had[v], fake_volume_bytes(h->volume[v]), h->sim->size);
        for (unsigned i = 0; i < sectors(h->sim); i++)
            j->alone[v][i] = memcmp(j->had[v] + i * SECTOR, leads + i * SECTOR, SECTOR) != 0;
    }
}

static void forget(struct host *h)
{
    for (unsigned i = 0; i < VOLUMES_MAX; i++) {
        free(h->judged.had[i]);
        h->judged.had[i] = NULL;
    }
}

// Everything that this end had written was settled, or given up, in front of what comes now.
static void settle(struct host *h)
{
    h->judged.exact = false;
    h->judged.from = h->sim->ledger.write_count;
}

void judge_salvage(struct host *h, const struct end_state *state)
{
    struct judged_salvage *j = &h->judged;
    bool begins = state->role == ROLE_PASSIVE && j->judged_role == ROLE_ACTIVE;
    j->judged_role = state->role;
    if (state->role == ROLE_ACTIVE) {
        j->exact = false;
        return;
    }
    if (state->salvage ? j->epoch != state->salvaged.id : begins) {
        forget(h);
        begin(h, state);
    }
    uint64_t ended = j->left & ~state->salvage;
    if (j->exact && ended) {
        cover_count("salvages judged");
        read_archive(h);
        check_volumes(h, state, ended);
    }
    if (j->exact && !j->epoch && !state->inconsistent) {
        cover_count("followers that had nothing to salvage");
        check_volumes(h, state, UINT64_MAX);
    }
    j->left &= state->salvage;
    if (!state->salvage && (j->epoch || !state->inconsistent))
        settle(h);
}

void judge_salvage_dropped(struct host *h)
{
    if (h->judged.exact && h->judged.epoch)
        read_archive(h);
    h->judged.dropped = true;
}

// Its salvage, or what its volumes held, was lost.
void judge_salvage_void(struct host *h)
{
    h->judged.dropped = true;
    settle(h);
}

// ---- by the sector ----

static bool is_late(const struct host *h)
{
    return h->judged.had[0] && h->judged.epoch && !h->judged.dropped;
}

// Whether this end alone has written what the sector held.
static bool own(struct sim *s, const struct host *h, int line, int64_t tag)
{
    if (tag <= 0 || tag >= s->ledger.write_count)
        return false;
    const struct ledger_write *w = &s->ledger.writes[tag];
    return w->host == h->index && w->epoch && !judge_on_line(s, line, UINT64_MAX, (int)w->epoch - 1, w->seq);
}

// It held that alone, holds something else, and no archive has it.
static bool is_missing(struct host *h, int line, unsigned v, unsigned i)
{
    const struct judged_salvage *j = &h->judged;
    const uint8_t *has = fake_volume_bytes(h->volume[v]) + i * SECTOR, *had = j->had[v] + i * SECTOR;
    return !j->gone && (j->objects >> v & 1) && !j->there[v][i] && j->alone[v][i] && memcmp(has, had, SECTOR) != 0 &&
           own(h->sim, h, line, sector_tag(had, i));
}

// What differs in front of a power loss was written over; what differs behind it may also be an own write that was lost.
void judge_salvage_crashes(struct host *h)
{
    struct judged_salvage *j = &h->judged;
    for (unsigned v = 0; v < h->sim->volumes && j->had[0]; v++)
        for (unsigned i = 0; i < sectors(h->sim); i++)
            j->over[v][i] = memcmp(j->had[v] + i * SECTOR, fake_volume_bytes(h->volume[v]) + i * SECTOR, SECTOR) != 0;
}

void judge_salvage_crashed(struct host *h)
{
    struct sim *s = h->sim;
    struct judged_salvage *j = &h->judged;
    int line = ledger_find(s, other(h)->view.epoch.id);
    j->exact = false;
    if (!is_late(h))
        return;
    if (!other(h)->running || line < 0) {
        j->dropped = true; // whose line counts is not known
        return;
    }
    read_archive(h);
    for (unsigned v = 0; v < s->volumes && !s->failed; v++)
        for (unsigned i = 0; i < sectors(s); i++) {
            if (j->over[v][i] && is_missing(h, line, v, i))
                fail(s, "%c: volume %u sector %u was overwritten, and what it held is in no salvage behind the power loss",
                     h->letter, v, i);
            if (!j->there[v][i])
                memcpy(j->had[v] + i * SECTOR, fake_volume_bytes(h->volume[v]) + i * SECTOR, SECTOR);
        }
}

// Something was written to a store: if the power were lost now, and of the salvage only what is synced had lasted, it would
// have what was there.
void judge_salvage_before(struct host *h)
{
    struct sim *s = h->sim;
    int line = ledger_find(s, other(h)->view.epoch.id);
    if (!h->judged.left || !h->judged.exact || !is_late(h) || !other(h)->running || line < 0)
        return;
    read_archive_of(h, fake_disk_worst(h->salvage, 1));
    for (unsigned v = 0; v < s->volumes && !s->failed; v++)
        for (unsigned i = 0; i < sectors(s) && !s->failed; i++)
            if (is_missing(h, line, v, i))
                fail(s, "%c: volume %u sector %u is overwritten, and what it held, of this end alone, is in no salvage durably",
                     h->letter, v, i);
}

// At the end of a run.
void judge_salvages(struct sim *s)
{
    struct host *active = s->host[0].view.active ? &s->host[0] : &s->host[1], *h = other(active);
    int line = ledger_find(s, active->view.epoch.id);
    if (line < 0 || !is_late(h) || h->judged.left)
        return;
    read_archive(h);
    for (unsigned v = 0; v < s->volumes && !s->failed; v++)
        for (unsigned i = 0; i < sectors(s) && !s->failed; i++)
            if (is_missing(h, line, v, i))
                fail(s, "%c: volume %u sector %u held write %lld, of this end alone: it was overwritten, and is in no salvage",
                     h->letter, v, i, (long long)sector_tag(h->judged.had[v] + i * SECTOR, i));
}

void judge_salvage_free(struct host *h)
{
    forget(h);
}
