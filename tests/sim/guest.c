// SPDX-License-Identifier: Apache-2.0
// The application: writes whose content is their number, some in flight together, some flushed or with FUA, overlapping,
// and zeroes and discards. It runs where an end has started it, and keeps asking as long as it runs.
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR_WORDS (SECTOR / 8)

static uint64_t word_of(uint32_t tag, uint32_t at, unsigned i)
{
    return (uint64_t)tag << 32 | (uint64_t)at << 8 | i;
}

void sector_fill(uint8_t *sector, uint32_t tag, uint32_t at)
{
    uint64_t words[SECTOR_WORDS];
    for (unsigned i = 0; i < SECTOR_WORDS; i++)
        words[i] = word_of(tag, at, i);
    memcpy(sector, words, SECTOR);
}

int64_t sector_tag(const uint8_t *sector, uint32_t at)
{
    static const uint8_t zeros[SECTOR];
    uint64_t words[SECTOR_WORDS];
    memcpy(words, sector, SECTOR);
    uint32_t tag = (uint32_t)(words[0] >> 32);
    if (!tag)
        return memcmp(sector, zeros, SECTOR) ? -1 : 0;
    for (unsigned i = 0; i < SECTOR_WORDS; i++)
        if (words[i] != word_of(tag, at, i))
            return -1;
    return tag;
}

static void answered(struct update *update, int status)
{
    struct guest_op *op = update->owner;
    struct host *h = op->host;
    op->state = OP_FREE;
    if (!op->lost && !h->dying && h->front.served) // else its connection has ended
        judge_answer(h, op, status);
}

void guest_lost(struct host *h, bool gone)
{
    struct sim *s = h->sim;
    for (unsigned i = 0; i < GUEST_SLOTS; i++) {
        struct guest_op *op = &s->ops[i];
        if (op->state == OP_FREE || op->host != h)
            continue;
        op->lost = true;
        if (gone)
            op->state = OP_FREE;
    }
}

static enum update_op draw_op(struct sim *s)
{
    uint64_t n = rnd(s, 100);
    return n < 62 ? UPDATE_WRITE : n < 70 ? UPDATE_ZERO : n < 78 ? UPDATE_DISCARD : UPDATE_FLUSH;
}

static bool payload(struct host *h, struct guest_op *op, const struct ledger_write *w)
{
    struct unsafe *queue = service_queue(h->front.service);
    size_t room;
    if (!unsafe_head(queue, 1, &room))
        return false;
    op->update.chunk = unsafe_keep(queue, w->count * SECTOR);
    uint8_t *data = unsafe_chunk_data(queue, op->update.chunk);
    for (uint32_t i = 0; i < w->count; i++)
        sector_fill(data + i * SECTOR, op->number, w->sector + i);
    return true;
}

static void ask(struct host *h, struct guest_op *op)
{
    struct sim *s = h->sim;
    enum update_op kind = draw_op(s);
    struct ledger_write w = {.object = (uint16_t)rnd(s, s->volumes), .host = h->index};
    memset(op, 0, sizeof(*op));
    op->host = h;
    op->update.op = kind;
    op->update.object = w.object;
    op->update.answer = answered;
    op->update.owner = op;
    op->acked_at = s->ledger.answers;
    if (kind != UPDATE_FLUSH) {
        w.count = 1 + (uint32_t)rnd(s, chance(s, 800) && s->burst_until <= s->now ? 8 : 64);
        w.sector = (uint32_t)rnd(s, sectors(s) - w.count + 1);
        w.zero = kind != UPDATE_WRITE;
        w.fua = chance(s, 150);
        op->number = ledger_write(s, &w);
        op->update.offset = (uint64_t)w.sector * SECTOR;
        op->update.length = w.count * SECTOR;
        op->update.flags = w.fua ? UPDATE_FUA : 0;
        if (kind == UPDATE_WRITE && !payload(h, op, &w))
            return; // the queue is full
    }
    trace(s, h, "asks: %s %u%s volume %u, %u sectors at %u",
          kind == UPDATE_FLUSH ? "flush" : w.zero ? "zero" : "write", op->number,
          w.fua ? " FUA" : "", w.object, w.count, w.sector);
    op->state = OP_ASKED;
    updates_submit(service_updates(h->front.service), &op->update);
}

static void guest_on(struct host *h)
{
    struct sim *s = h->sim;
    bool runs = h->up && h->running && h->apps && !h->frozen && h->front.served &&
                h->paused_until <= s->now && h->stalled_until <= s->now;
    if (!runs)
        return;
    for (uint64_t n = 1 + rnd(s, 3), i = 0; i < GUEST_SLOTS && n > 0; i++) {
        if (s->ops[i].state != OP_FREE)
            continue;
        ask(h, &s->ops[i]);
        n--;
    }
    front_turn(h);
}

static void guest_step(struct host *none, void *arg, uint64_t context)
{
    struct sim *s = (struct sim *)(uintptr_t)context;
    (void)none;
    (void)arg;
    if (!s->quiet) {
        guest_on(&s->host[0]);
        guest_on(&s->host[1]);
    }
    int64_t wait = (int64_t)(1 + rnd(s, s->burst_until > s->now ? 10 : 2 * s->eagerness)) * NS_PER_MS;
    plan_world(s, s->now + wait, NULL, guest_step, context);
}

void guest_init(struct sim *s)
{
    plan_world(s, s->now + 100 * NS_PER_MS, NULL, guest_step, (uintptr_t)s);
}
