// SPDX-License-Identifier: Apache-2.0
// Judges of content: a replica is a prefix of its line; both ends are equal once they are synchronized.
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

void judge_store(struct host *h, int at, uint64_t seq, const char *when)
{
    struct sim *s = h->sim;
    uint32_t image[VOLUMES_MAX * SECTORS_MAX];
    unsigned per = sectors(s);
    ledger_image(s, at, seq, image);
    for (unsigned v = 0; v < s->volumes; v++) {
        const uint8_t *bytes = fake_volume_bytes(h->volume[v]);
        for (unsigned i = 0; i < per; i++) {
            int64_t tag = sector_tag(bytes + i * SECTOR, i);
            if (tag == image[v * per + i])
                continue;
            const struct ledger_write *w = tag > 0 ? &s->ledger.writes[tag] : NULL;
            const struct ledger_write *want =
                image[v * per + i] ? &s->ledger.writes[image[v * per + i]] : NULL;
            fail(s,
                 "%c %s: volume %u sector %u holds write %lld (seq %llu), not %u (seq %llu), at "
                 "position %llu of epoch %u",
                 h->letter, when, v, i, (long long)tag, w ? (unsigned long long)w->seq : 0ULL,
                 image[v * per + i], want ? (unsigned long long)want->seq : 0ULL,
                 (unsigned long long)seq, s->ledger.epochs[at].epoch.number);
            return;
        }
    }
}

// What rotted had been confirmed, and nothing here proves that. The active end that knows has everything compared; one that
// has lost its memory, too, cannot, and nobody is wrong (docs/safe-queue.md).
void judge_tail(struct host *h)
{
    const struct host *leader = other(h);
    uint64_t known = MAX(leader->figures.durable, leader->start.queue_confirmed);
    if (!h->tail_cut || known >= h->held || h->sim->tail_lost)
        return;
    cover_count("a rotten tail that nobody knows of any more");
    h->sim->tail_lost = h->sim->forced = h->sim->store_failed = true;
}

void judge_finishes(struct host *h)
{
    struct replica_stats st;
    h->finish_from = stream_stats(h, &st) && !st.failure ? st.durable : 0;
}

void judge_finished(struct host *h, uint64_t epoch, uint64_t seq)
{
    struct sim *s = h->sim;
    if (seq < h->finish_from && !h->queue_rotted)
        fail(s, "%c: replayed to %llu, and its queue held %llu", h->letter, (unsigned long long)seq,
             (unsigned long long)h->finish_from);
    if (h->tail_cut) {
        // What rotted had been confirmed, and nothing here proves that; the active end, which knew, did not come back before.
        cover_count("a rotten tail that was taken for a torn one");
        s->forced = true;
    }
    if (h->view.inconsistent || s->forced)
        return;
    int at = ledger_find(s, epoch);
    if (at < 0) {
        fail(s, "%c: replayed to an epoch that was never opened", h->letter);
        return;
    }
    judge_store(h, at, seq, "at the end of its replay");
}

// What is set in the map file, as it stands on the disk: NULL when it counts as wholly set.
static struct intent *map_on_disk(struct host *h, unsigned volume)
{
    struct intent_config config = {
        .pair = PAIR_ID, .volume = volume + 1, .size = h->sim->size, .region = INTENT_REGION_MIN};
    uint64_t size = 0;
    const uint8_t *bytes = fake_disk_bytes(h->maps, volume, &size);
    struct intent *map = intent_new(&config);
    ENSURE(map);
    if (!bytes || size != intent_file_size(map) || intent_load_header(map, bytes))
        return intent_free(map);
    for (uint32_t i = 0; i < intent_pages(map); i++)
        (void)intent_load_page(map, i, bytes + (uint64_t)(i + 1) * INTENT_PAGE);
    return map;
}

// What a takeover discards is in the map, or that is known to count as wholly set, before it is forgotten.
void judge_discard(struct host *h)
{
    struct end_state *saved = calloc(1, sizeof(*saved));
    const struct state_copy *c = &h->copy[h->copy[1].version > h->copy[0].version];
    ENSURE(saved && !state_decode(c->bytes, c->size, saved));
    for (uint16_t v = 0; v < h->sim->volumes; v++) {
        const struct intent *lost = follower_lost_map(h->follower, v);
        uint64_t at = 0, length;
        if (saved->map_void >> v & 1)
            continue;
        struct intent *map = h->lost_unknown || lost ? map_on_disk(h, v) : NULL;
        // It may have been written anew since, and be good again.
        if (h->lost_unknown && map && intent_bytes(map, 0) < intent_size(map))
            fail(h->sim, "%c: discards records of unknown regions, and the map of volume %u counts", h->letter, v);
        for (; map && lost && intent_next(lost, at, INTENT_REGION_MIN, &at, &length); at += length) {
            if (!intent_test(map, at, length))
                fail(h->sim, "%c: discards a record at %llu of volume %u that its map does not have", h->letter,
                     (unsigned long long)at, v);
        }
        intent_free(map);
    }
    free(saved);
}

// Whatever the peer has not settled is in the map of the end that is active.
void judge_map(struct host *h)
{
    int at = ledger_find(h->sim, h->view.epoch.id);
    if (!h->running || h->view.state != END_ACTIVE || at < 0)
        return;
    struct end_state *saved = calloc(1, sizeof(*saved));
    ENSURE(saved);
    bool readable = state_peek(h, saved);
    const struct ledger_epoch *e = &h->sim->ledger.epochs[at];
    for (unsigned v = 0; readable && v < h->sim->volumes; v++) {
        struct intent *map = saved->map_void >> v & 1 ? NULL : map_on_disk(h, v);
        for (unsigned i = e->count; map && i > 0 && e->updates[i - 1].seq > h->told_settled; i--) {
            const struct ledger_update *u = &e->updates[i - 1];
            if (u->object == v && !intent_test(map, (uint64_t)u->sector * SECTOR, (uint64_t)u->count * SECTOR))
                fail(h->sim, "%c: record %llu is settled nowhere else, and its map does not have it", h->letter,
                     (unsigned long long)u->seq);
        }
        intent_free(map);
    }
    free(saved);
}

// A replica passes an epoch's opening when the history that has it is durable.
static void judge_consent(struct host *h)
{
    struct replica_stats st;
    if (!h->running || h->view.state != END_PASSIVE || !stream_stats(h, &st) || !st.applied_epoch || st.finishing)
        return;
    if (h->view.epoch.id != st.applied_epoch)
        return; // what it has forgotten at an operator's word
    int at = ledger_find(h->sim, st.applied_epoch);
    if (at >= 0 && state_lacks(h, st.applied_epoch))
        fail(h->sim, "%c: has applied %llu of epoch %u, which its history on the disk does not have", h->letter,
             (unsigned long long)st.applied, h->sim->ledger.epochs[at].epoch.number);
}

// Nobody hears of an epoch before the end that opens it has it in its own history on the disk.
void judge_heard_of(struct host *h, const struct end_state *state)
{
    const struct epoch *at = history_current(&state->history);
    struct host *leader = other(h);
    if (at && leader->running && leader->view.active && leader->view.epoch.id == at->id && state_lacks(leader, at->id))
        fail(h->sim, "%c: knows epoch %u of %c, which %c's history on the disk does not have", h->letter, at->number,
             leader->letter, leader->letter);
}

// A replica that has nothing under way is what its position says.
void judge_replica(struct host *h)
{
    judge_consent(h);
    struct replica_stats st;
    if (!h->running || h->sim->tail_lost || h->view.inconsistent || h->view.state != END_PASSIVE ||
        !stream_stats(h, &st))
        return;
    // A tail that rotted, and that nothing proves to have been confirmed, is cut as if a crash had torn it: what had been
    // applied of it shows at the meeting only, and is applied again as it comes again.
    const struct end_view *leader = &other(h)->view;
    bool agreed = leader->active && leader->synchronized && leader->session == h->view.session &&
                  st.applied >= other(h)->figures.numbered;
    if (h->queue_rotted && !agreed)
        return;
    if (!follower_idle(h->follower) || st.applied != st.received || !st.applied_epoch ||
        st.failure || st.finishing)
        return;
    int at = ledger_find(h->sim, st.applied_epoch);
    if (at >= 0)
        judge_store(h, at, st.applied, "while it follows");
}

// A verify never names a block that is equal, and always the one that is not.
void judge_verified(struct host *h, const struct verify_result *result)
{
    struct sim *s = h->sim;
    const struct verify_range *range = result->ranges;
    if (s->rot == ROT_NONE && result->differing && !s->store_failed)
        fail(s, "%c: a verify found a difference where there is none: volume %u, %llu bytes at %llu", h->letter,
             range->object, (unsigned long long)range->length, (unsigned long long)range->offset);
    bool before = result->began_ns < s->rot_ns[h->index]; // it was asked for by somebody else
    if (s->rot != ROT_ASKED || before || result->compared < result->total)
        return;
    uint64_t block = s->rot_at / CHECK_BLOCK_SIZE * CHECK_BLOCK_SIZE;
    if (result->range_count != 1 || range->object != s->rot_volume || range->offset != block ||
        range->length != MIN(CHECK_BLOCK_SIZE, s->size - block))
        fail(s, "%c: a verify found %u ranges, the first %llu bytes at %llu of volume %u; byte %llu of volume %u differs",
             h->letter, result->range_count, (unsigned long long)range->length, (unsigned long long)range->offset,
             range->object, (unsigned long long)s->rot_at, s->rot_volume);
    s->rot = ROT_FOUND;
}

void judge_equal(struct sim *s)
{
    for (unsigned v = 0; v < s->volumes; v++) {
        const uint8_t *a = fake_volume_bytes(s->host[0].volume[v]);
        const uint8_t *b = fake_volume_bytes(s->host[1].volume[v]);
        for (unsigned i = 0; i < sectors(s); i++)
            if (memcmp(a + i * SECTOR, b + i * SECTOR, SECTOR)) {
                fail(s, "synchronized, but volume %u differs in sector %u: P %lld, S %lld", v, i,
                     (long long)sector_tag(a + i * SECTOR, i),
                     (long long)sector_tag(b + i * SECTOR, i));
                return;
            }
    }
    // And it is what the ledger says.
    struct host *active = s->host[0].view.active ? &s->host[0] : &s->host[1];
    int at = ledger_find(s, active->view.epoch.id);
    if (at >= 0)
        judge_store(active, at, UINT64_MAX, "at the end");
    judge_salvages(s);
}
