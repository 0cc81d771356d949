// SPDX-License-Identifier: Apache-2.0
// What a salvage holds: of an end that was active and follows now, each sector that it had written on its own, as its
// store held it when it began to follow. And whom a resolved split keeps: the end that the operator named, with all that it
// had acknowledged.
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

// ---- the archive ----

static void forget(struct host *h)
{
    for (unsigned v = 0; v < VOLUMES_MAX; v++) {
        free(h->kept[v]);
        h->kept[v] = NULL;
    }
}

void judge_archive_void(struct host *h)
{
    forget(h);
    h->kept_void = true;
}

// Nothing has been overwritten yet, or this is a later run of the same one.
void judge_archive_begins(struct host *h, const struct end_state *state)
{
    if (!state->salvage || h->kept_epoch == state->salvaged.id)
        return;
    forget(h);
    h->kept_void = false;
    h->kept_epoch = state->salvaged.id;
    h->kept_objects = state->salvage;
    for (unsigned v = 0; v < h->sim->volumes; v++) {
        h->kept[v] = malloc(h->sim->size);
        ENSURE(h->kept[v]);
        memcpy(h->kept[v], fake_volume_bytes(h->volume[v]), h->sim->size);
        const uint8_t *leads = fake_volume_bytes(other(h)->volume[v]);
        for (unsigned i = 0; i < sectors(h->sim); i++)
            h->kept_alone[v][i] = memcmp(h->kept[v] + i * SECTOR, leads + i * SECTOR, SECTOR) != 0;
    }
}

struct archive {
    struct host *host;
    bool there[VOLUMES_MAX][SECTORS_MAX];
    bool ours; // of the epoch in question
    bool dropped;
    bool wrong;
};

static int take_entry(void *arg, const struct salvage_entry *e, const void *data)
{
    static const uint8_t zeros[SECTOR];
    struct archive *a = arg;
    struct host *h = a->host;
    if (e->kind == SALVAGE_DONE || e->object >= h->sim->volumes)
        return 0;
    a->dropped |= e->kind == SALVAGE_GONE || e->kind == SALVAGE_UNREADABLE;
    for (uint64_t at = e->offset; at + SECTOR <= e->offset + e->length && at + SECTOR <= h->sim->size; at += SECTOR) {
        const uint8_t *has = e->kind == SALVAGE_ZERO ? zeros : (const uint8_t *)data + (at - e->offset);
        bool known = e->kind == SALVAGE_ZERO || e->kind == SALVAGE_DATA;
        bool same = known && memcmp(h->kept[e->object] + at, has, SECTOR) == 0;
        if (known && !same && !a->wrong) {
            a->wrong = true;
            fail(h->sim, "%c: its salvage has write %lld in sector %llu of volume %u, where it held %lld", h->letter,
                 (long long)sector_tag(has, (uint32_t)(at / SECTOR)), (unsigned long long)(at / SECTOR), e->object,
                 (long long)sector_tag(h->kept[e->object] + at, (uint32_t)(at / SECTOR)));
        }
        a->there[e->object][at / SECTOR] |= same;
    }
    return 0;
}

static void take_salvage(void *arg, const struct salvage_info *info)
{
    struct archive *a = arg;
    a->dropped |= info->gone_bytes || info->verdict == SALVAGE_DAMAGED;
    if (info->epoch.id != a->host->kept_epoch)
        return;
    a->ours = true;
    (void)salvage_walk(fake_disk_of(a->host->salvage), info->number, take_entry, a, NULL, NULL);
}

// Whether this end alone has written what the sector held.
static bool own(struct sim *s, const struct host *h, int line, int64_t tag)
{
    if (tag <= 0 || tag >= s->ledger.write_count)
        return false;
    const struct ledger_write *w = &s->ledger.writes[tag];
    return w->host == h->index && w->epoch && !judge_on_line(s, line, UINT64_MAX, (int)w->epoch - 1, w->seq);
}

static void judge_one_archive(struct host *h, int line)
{
    struct sim *s = h->sim;
    if (!h->kept[0] || h->kept_void || h->state_salvages)
        return;
    struct archive *a = calloc(1, sizeof(*a));
    unsigned beyond;
    ENSURE(a);
    a->host = h;
    (void)salvage_list(fake_disk_of(h->salvage), take_salvage, a, &beyond, NULL);
    for (unsigned v = 0; v < s->volumes && !a->dropped && !s->failed; v++)
        for (unsigned i = 0; i < sectors(s) && (h->kept_objects >> v & 1); i++) {
            int64_t tag = sector_tag(h->kept[v] + i * SECTOR, i);
            bool differs = memcmp(h->kept[v] + i * SECTOR, fake_volume_bytes(h->volume[v]) + i * SECTOR, SECTOR);
            if (a->there[v][i] || !differs || !h->kept_alone[v][i] || !own(s, h, line, tag))
                continue;
            fail(s, "%c: volume %u sector %u held write %lld, of this end alone: it was overwritten, and is in no salvage",
                 h->letter, v, i, (long long)tag);
            break;
        }
    if (a->ours)
        cover_count("salvages looked through");
    free(a);
}

// What differs in front of a power loss was written over; what differs behind it may also be an own write that was lost.
void judge_archive_crashes(struct host *h)
{
    for (unsigned v = 0; v < h->sim->volumes && h->kept[0]; v++)
        for (unsigned i = 0; i < sectors(h->sim); i++)
            h->kept_over[v][i] =
                memcmp(h->kept[v] + i * SECTOR, fake_volume_bytes(h->volume[v]) + i * SECTOR, SECTOR) != 0;
}

static bool overwritten(struct host *h, int line, unsigned v, unsigned i)
{
    const uint8_t *has = fake_volume_bytes(h->volume[v]) + i * SECTOR, *had = h->kept[v] + i * SECTOR;
    return h->kept_alone[v][i] && h->kept_over[v][i] && memcmp(has, had, SECTOR) != 0 &&
           own(h->sim, h, line, sector_tag(had, i));
}

void judge_archive_crashed(struct host *h)
{
    struct sim *s = h->sim;
    int line = ledger_find(s, other(h)->view.epoch.id);
    if (!h->kept[0] || h->kept_void)
        return;
    if (!other(h)->running || line < 0) {
        judge_archive_void(h); // whose line counts is not known
        return;
    }
    struct archive *a = calloc(1, sizeof(*a));
    unsigned beyond;
    ENSURE(a);
    a->host = h;
    (void)salvage_list(fake_disk_of(h->salvage), take_salvage, a, &beyond, NULL);
    for (unsigned v = 0; v < s->volumes; v++)
        for (unsigned i = 0; i < sectors(s); i++) {
            if (a->there[v][i])
                continue;
            if (!a->dropped && (h->kept_objects >> v & 1) && overwritten(h, line, v, i))
                fail(s, "%c: volume %u sector %u was overwritten, and what it held is in no salvage behind the power loss",
                     h->letter, v, i);
            memcpy(h->kept[v] + i * SECTOR, fake_volume_bytes(h->volume[v]) + i * SECTOR, SECTOR);
        }
    free(a);
}

// At the end of a run.
void judge_archives(struct sim *s)
{
    struct host *active = s->host[0].view.active ? &s->host[0] : &s->host[1];
    int line = ledger_find(s, active->view.epoch.id);
    if (line >= 0)
        judge_one_archive(other(active), line);
}

void judge_archive_free(struct host *h)
{
    forget(h);
}

// ---- the side that is kept ----

static const struct epoch_parent *parent_of(const struct epoch *e, uint64_t id)
{
    for (unsigned i = 0; i < e->parents; i++)
        if (e->parent[i].id == id)
            return &e->parent[i];
    return NULL;
}

// Its state is about to be saved.
void judge_resolves(struct host *h, const struct end_state *state)
{
    struct sim *s = h->sim;
    const struct epoch *now = history_current(&state->history);
    uint64_t former = h->judged_epoch;
    h->judged_epoch = now ? now->id : 0;
    if (!now || now->reason != EPOCH_RESOLVE || ledger_find(s, now->id) >= 0)
        return;
    if (!(h->named_to_keep))
        fail(s, "%c is kept after a split, and nobody has said so", h->letter);
    const struct epoch_parent *parent = parent_of(now, former);
    if (!former)
        return; // its state was damaged: it goes on from its store
    if (!parent) {
        fail(s, "%c is kept after a split, and its line is not a parent of the new epoch", h->letter);
        return;
    }
    for (uint32_t i = 1; i < s->ledger.write_count; i++) {
        const struct ledger_write *w = &s->ledger.writes[i];
        if (w->acked && w->epoch && w->host == h->index && s->ledger.epochs[w->epoch - 1].epoch.id == former &&
            parent->seq != EPOCH_SEQ_UNKNOWN && w->seq > parent->seq)
            fail(s, "%c is kept after a split, but not write %u (seq %llu), which it has acknowledged: the new epoch forks "
                    "at %llu", h->letter, i, (unsigned long long)w->seq, (unsigned long long)parent->seq);
    }
}
