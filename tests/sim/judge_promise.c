// SPDX-License-Identifier: Apache-2.0
// Judges of promises: what an answer says is there after whatever follows. A local flush promises that the own store
// keeps it; in `sync` every answered flush and FUA write, in `strict` every answer, promises that a takeover by itself
// has it.
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

// ---- answers ----

static void promise_sector(struct sim *s, unsigned object, unsigned sector, uint32_t number)
{
    uint32_t *p = &s->ledger.promised[object][sector];
    *p = MAX(*p, number);
}

static void promise_local(struct sim *s, uint32_t number)
{
    const struct ledger_write *w = &s->ledger.writes[number];
    for (unsigned i = 0; i < w->count; i++)
        promise_sector(s, w->object, w->sector + i, number);
}

// What its line began with, where it began with a store as that was: it was not flushed for that.
static void promise_base(struct sim *s, int at, unsigned object)
{
    while (at >= 0 && !s->ledger.epochs[at].base)
        at = s->ledger.epochs[at].parent;
    for (unsigned i = 0; at >= 0 && i < sectors(s); i++)
        promise_sector(s, object, i, s->ledger.epochs[at].base[object * sectors(s) + i]);
}

// Where no grant is ever given an operator decides, and goes by the active end's last word: what that end acknowledges
// alone afterwards is not promised to him.
static void promise_takeover(struct host *h, uint32_t number)
{
    struct sim *s = h->sim;
    const struct ledger_write *w = &s->ledger.writes[number];
    if (!s->config.automatic && h->gate_alone)
        return;
    if (!w->epoch) {
        // Of two equal zeroings the record does not tell which one it stands for.
        if (!w->zero)
            fail(s, "write %u was answered before it was numbered", number);
        return;
    }
    struct ledger_epoch *e = &s->ledger.epochs[w->epoch - 1];
    e->promised = MAX(e->promised, w->seq);
}

static void flush_promises(struct host *h, const struct guest_op *op)
{
    struct sim *s = h->sim;
    int at = ledger_find(s, h->view.epoch.id);
    promise_base(s, at, op->update.object);
    for (uint32_t i = 1; i < s->ledger.write_count; i++) {
        const struct ledger_write *w = &s->ledger.writes[i];
        if (!w->acked || w->acked > op->acked_at || w->object != op->update.object)
            continue;
        // On a line that was given up since (a takeover in `async`) nothing is promised any more.
        if (!judge_on_line(s, at, UINT64_MAX, (int)w->epoch - 1, w->seq))
            continue;
        promise_local(s, i);
        if (s->config.mode != END_ASYNC)
            promise_takeover(h, i);
    }
}

// That it acknowledges alone is durable before it does; and but in `async`, so is the epoch.
static void judge_alone(struct host *h)
{
    bool follows_late = h->sim->config.mode == END_ASYNC;
    if (h->gate_alone && (!h->durable_alone || (!follows_late && state_lacks(h, h->view.epoch.id))))
        fail(h->sim, "%c: answers alone, and its state on the disk does not say so", h->letter);
}

void judge_answer(struct host *h, struct guest_op *op, int status)
{
    struct sim *s = h->sim;
    if (status < 0)
        return;
    front_show(h);
    // The guard may act at the very moment at which the end, which has heard a waypoint, takes a longer lease.
    bool frozen = h->frozen && h->frozen_known;
    if (frozen || local_now(h) >= h->figures.lease_ns)
        fail(s, "%c: answers %s", h->letter, frozen ? "while it is frozen" : "after its lease");
    judge_alone(h);
    trace(s, h, "answered: %s %u", op->update.op == UPDATE_FLUSH ? "flush of volume" : "write",
          op->update.op == UPDATE_FLUSH ? op->update.object : op->number);
    if (op->update.op == UPDATE_FLUSH) {
        flush_promises(h, op);
        return;
    }
    struct ledger_write *w = &s->ledger.writes[op->number];
    w->acked = ++s->ledger.answers;
    w->alone = h->gate_alone;
    if (w->fua)
        promise_local(s, op->number);
    if (s->config.mode == END_STRICT || (s->config.mode == END_SYNC && w->fua))
        promise_takeover(h, op->number);
}

// ---- what became of them ----

bool judge_on_line(struct sim *s, int at, uint64_t fork, int epoch, uint64_t seq)
{
    while (at >= 0) {
        const struct ledger_epoch *e = &s->ledger.epochs[at];
        if (at == epoch)
            return seq <= fork;
        fork = e->fork;
        at = e->parent;
    }
    return false;
}

// The newest zeroing of a sector, which would explain that it is empty.
static uint32_t last_zeroed(const struct sim *s, unsigned object, unsigned sector)
{
    for (uint32_t i = s->ledger.write_count; i > 1; i--) {
        const struct ledger_write *w = &s->ledger.writes[i - 1];
        if (w->zero && w->object == object && sector >= w->sector &&
            sector - w->sector < w->count)
            return i - 1;
    }
    return 0;
}

// Its own store, perhaps after a power loss: each sector is what was promised last, or something newer. `kept`: an operator has
// given up what the other end has promised.
static void judge_own_store(struct host *h, bool kept)
{
    struct sim *s = h->sim;
    for (unsigned v = 0; v < s->volumes; v++) {
        const uint8_t *bytes = fake_volume_bytes(h->volume[v]);
        for (unsigned i = 0; i < sectors(s); i++) {
            int64_t tag = sector_tag(bytes + i * SECTOR, i);
            uint32_t promised = s->ledger.promised[v][i];
            if (tag >= promised || (tag == 0 && last_zeroed(s, v, i) >= promised))
                continue;
            if (promised && s->ledger.writes[promised].zero && tag == 0)
                continue;
            if (kept && s->ledger.writes[promised].host != h->index)
                continue;
            fail(s, "%c serves from its own store: volume %u sector %u holds write %lld, but %u was "
                    "promised", h->letter, v, i, (long long)tag, promised);
            return;
        }
    }
}

static void check_promised(struct host *h, int parent, uint64_t fork)
{
    struct sim *s = h->sim;
    for (unsigned i = 0; i < s->ledger.epoch_count; i++) {
        const struct ledger_epoch *e = &s->ledger.epochs[i];
        if (e->promised && !judge_on_line(s, parent, fork, (int)i, e->promised))
            fail(s, "%c takes over at %llu, but record %llu of epoch %u was promised", h->letter,
                 (unsigned long long)fork, (unsigned long long)e->promised, e->epoch.number);
    }
}

// The promises that the new line does not keep, and need not.
static void forget_promises(struct sim *s, const uint32_t *image)
{
    unsigned per = sectors(s);
    for (unsigned v = 0; v < s->volumes; v++)
        for (unsigned i = 0; i < per; i++)
            s->ledger.promised[v][i] = image[v * per + i];
}

// An epoch is opened there: what was promised is kept, or was promised to nobody.
static void keep_promises(struct host *h, const struct ledger_epoch *e)
{
    struct sim *s = h->sim;
    uint32_t image[VOLUMES_MAX * SECTORS_MAX];
    if (s->config.mode != END_ASYNC)
        check_promised(h, e->parent, e->fork);
    if (s->config.mode != END_ASYNC && s->config.automatic)
        return;
    ledger_image(s, e->parent, e->fork, image);
    forget_promises(s, image);
}

// An epoch whose exports were never opened, because its end did not get so far, has given up what it does not have all the
// same.
static void judge_parent(struct host *h, int at)
{
    struct sim *s = h->sim;
    const struct ledger_epoch *e = at < 0 ? NULL : &s->ledger.epochs[at];
    bool from_replica = e && (e->epoch.reason == EPOCH_TAKEOVER || e->epoch.reason == EPOCH_SWITCH);
    if (!from_replica || e->served || e->fork == EPOCH_SEQ_UNKNOWN || s->forced)
        return;
    judge_parent(h, e->parent);
    keep_promises(h, e);
}

// A switchover loses nothing that was answered, in any mode.
static void check_switched(struct host *h, int at)
{
    struct sim *s = h->sim;
    const struct ledger_epoch *e = &s->ledger.epochs[at];
    for (uint32_t i = 1; i < s->ledger.write_count; i++) {
        const struct ledger_write *w = &s->ledger.writes[i];
        if (!w->acked || !w->epoch || !judge_on_line(s, e->parent, UINT64_MAX, (int)w->epoch - 1, w->seq) ||
            judge_on_line(s, at, UINT64_MAX, (int)w->epoch - 1, w->seq))
            continue;
        fail(s, "%c: a switchover at %llu loses write %u (seq %llu), which was answered", h->letter,
             (unsigned long long)e->fork, i, (unsigned long long)w->seq);
        return;
    }
}

// Nobody takes over without a grant, or without an operator's word where no grant is ever given.
static void judge_permission(struct host *h)
{
    if (h->sim->config.automatic && h->granted_life != h->life)
        fail(h->sim, "%c takes over by itself, and has held no grant in this run", h->letter);
    if (!h->sim->config.automatic && h->told_life != h->life)
        fail(h->sim, "%c takes over by itself, and nobody has told it to", h->letter);
}

void judge_opened(struct host *h, const struct epoch *epoch)
{
    struct sim *s = h->sim;
    int at = ledger_know(s, epoch);
    const struct ledger_epoch *e = &s->ledger.epochs[at];
    cover_takeover(epoch->reason);
    if (epoch->reason == EPOCH_TAKEOVER && !s->forced && h->view.met != MEET_HANDED)
        judge_permission(h);
    s->ledger.epochs[at].served = true;
    judge_parent(h, e->parent);
    if (!epoch->parents || e->fork == EPOCH_SEQ_UNKNOWN || s->forced) {
        ledger_base(h, at);
        // Whose state was damaged, and is kept all the same, knows no line, and gives up the other one with its store alone.
        bool kept = epoch->reason == EPOCH_RESOLVE && h->named_to_keep;
        if (!s->forced)
            judge_own_store(h, kept);
        if (s->forced || kept)
            forget_promises(s, s->ledger.epochs[at].base);
        for (uint32_t i = 1; i < s->ledger.write_count; i++)
            s->ledger.writes[i].acked = 0; // what was not flushed may be gone
        return;
    }
    judge_store(h, e->parent, e->fork, "when it opens an epoch");
    if (epoch->reason == EPOCH_SWITCH)
        check_switched(h, at);
    keep_promises(h, e);
}
