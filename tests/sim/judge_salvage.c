// SPDX-License-Identifier: Apache-2.0
// What is in a salvage is what its end held when it began to follow, and what that end had written on its own is there
// before anything else is in its place. Looked at whenever a volume is said to be whole again, and before an operator drops
// an archive; not behind a power loss in between, which takes from the store what nobody was promised.
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "queues/salvage.h"

static bool same(const struct host *h, unsigned object, uint64_t offset, uint64_t length, const uint8_t *data)
{
    const uint8_t *had = h->judged.had[object] + offset;
    for (uint64_t i = 0; i < length; i++) {
        if (had[i] != (data ? data[i] : 0))
            return false;
    }
    return true;
}

static int entry(void *arg, const struct salvage_entry *e, const void *data)
{
    struct host *h = arg;
    struct judged_salvage *j = &h->judged;
    if (e->kind == SALVAGE_DONE)
        return 0;
    bool with_content = e->kind == SALVAGE_DATA || e->kind == SALVAGE_ZERO;
    if (e->object >= h->sim->volumes || e->offset >= h->sim->size || e->length > h->sim->size - e->offset)
        fail(h->sim, "%c: a salvage of something that is not in its volumes", h->letter);
    else if (with_content && !same(h, e->object, e->offset, e->length, data))
        fail(h->sim, "%c: what is in the salvage of volume %u at %llu is not what it had held", h->letter, e->object,
             (unsigned long long)e->offset);
    if (h->sim->failed)
        return -ECANCELED;
    for (uint64_t at = e->offset / SALVAGE_BLOCK; at * SALVAGE_BLOCK < e->offset + e->length; at++) {
        if (e->kind == SALVAGE_GONE && !j->kept[e->object][at])
            fail(h->sim, "%c: block %llu of volume %u is said to have been kept before", h->letter,
                 (unsigned long long)at, e->object);
        j->kept[e->object][at] = true;
    }
    return 0;
}

struct found {
    uint64_t epoch;
    uint32_t numbers[64];
    unsigned count;
};

static void collect(void *arg, const struct salvage_info *info)
{
    struct found *f = arg;
    if (info->epoch.id == f->epoch && f->count < ARRAY_LEN(f->numbers))
        f->numbers[f->count++] = info->number;
}

static void read_archive(struct host *h)
{
    struct found f = {.epoch = h->judged.epoch};
    struct salvage_info info;
    unsigned beyond;
    struct fake_disk *copy = fake_disk_copy(h->salvage, 1);
    struct disk *disk = fake_disk_of(copy);
    (void)salvage_list(disk, collect, &f, &beyond, NULL);
    for (unsigned i = 0; i < f.count; i++)
        (void)salvage_walk(disk, f.numbers[i], entry, h, &info, NULL);
    fake_disk_free(copy);
}

static void check_write(struct host *h, uint32_t number)
{
    const struct ledger_write *w = &h->sim->ledger.writes[number];
    const uint8_t *has = fake_volume_bytes(h->volume[w->object]);
    uint64_t first = (uint64_t)w->sector * SECTOR, end = first + (uint64_t)w->count * SECTOR;
    for (uint64_t at = first / SALVAGE_BLOCK; at * SALVAGE_BLOCK < end; at++) {
        uint64_t offset = at * SALVAGE_BLOCK, length = MIN(SALVAGE_BLOCK, h->sim->size - offset);
        if (h->judged.kept[w->object][at] || same(h, w->object, offset, length, has + offset))
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
    for (uint32_t i = MAX(h->judged.from, 1U); at >= 0 && i < s->ledger.write_count; i++) {
        const struct ledger_write *w = &s->ledger.writes[i];
        bool own = w->host == h->index && w->epoch && (objects >> w->object & 1);
        if (own && !judge_on_line(s, at, UINT64_MAX, (int)w->epoch - 1, w->seq))
            check_write(h, i);
    }
}

static void begin(struct host *h, const struct end_state *state)
{
    struct judged_salvage *j = &h->judged;
    j->epoch = state->salvaged.id;
    j->left = state->salvage;
    memset(j->kept, 0, sizeof(j->kept));
    for (unsigned i = 0; i < h->sim->volumes; i++) {
        free(j->had[i]);
        j->had[i] = malloc(h->sim->size);
        ENSURE(j->had[i]);
        memcpy(j->had[i], fake_volume_bytes(h->volume[i]), h->sim->size);
    }
}

void judge_salvage_over(struct host *h)
{
    for (unsigned i = 0; i < VOLUMES_MAX; i++) {
        free(h->judged.had[i]);
        h->judged.had[i] = NULL;
    }
}

void judge_salvage_dropped(struct host *h)
{
    if (h->judged.had[0])
        read_archive(h);
}

void judge_salvage(struct host *h, const struct end_state *state)
{
    struct judged_salvage *j = &h->judged;
    if (state->role == ROLE_ACTIVE) {
        judge_salvage_over(h);
        return;
    }
    if (state->salvage && j->epoch != state->salvaged.id)
        begin(h, state);
    uint64_t ended = j->left & ~state->salvage;
    if (j->had[0] && ended) {
        cover_count("salvages judged");
        read_archive(h);
        check_volumes(h, state, ended);
    }
    j->left &= state->salvage;
    if (!state->salvage) {
        judge_salvage_over(h);
        j->from = h->sim->ledger.write_count;
    }
}
