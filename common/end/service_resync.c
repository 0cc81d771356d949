// SPDX-License-Identifier: Apache-2.0
// The steps of a resync (common/end/resync.h) through the life of updates: when the next may start,
// and what became of it.
#include <errno.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/end/service_private.h"
#include "queues/batch.h"

#define STEPS_A_TURN 8
#define SHARE_NS     INT64_C(100000000) // over which the share of a resync is kept
#define SHARE_LEAST  (UINT64_C(64) * 1024) // bytes that it may take in each
#define QUEUE_MAX    (UINT64_C(32) * 1024 * 1024) // bytes in the queue at which a resync waits

// A chunk or check has its record, or its range could not be read.
void service_copied(struct service *s, const struct updates_event *ev)
{
    if (ev->status == -EAGAIN || ev->status == -ESHUTDOWN) {
        resync_again(s->resync, ev->object, ev->offset);
        return;
    }
    if (ev->status < 0)
        service_note(s, "volume %s: %u bytes at %llu cannot be read for the resync (%s)",
                     service_volume(s, ev->object), ev->length, (unsigned long long)ev->offset,
                     strerror(-ev->status));
    if (ev->status < 0)
        service_unread(s, ev->object, ev->offset, ev->length);
    else
        intent_touch(maps_at(s->maps, ev->object), ev->offset, ev->length);
    resync_copied(s->resync, ev->object, ev->offset, ev->length, ev->status < 0 ? 0 : ev->seq);
}

void service_resync(struct service *s, uint64_t objects, uint64_t ticket, int64_t now)
{
    s->resync_ticket = ticket;
    s->resync_started = 0;
    s->resync_told = (struct resync_progress){0};
    s->due |= objects;
    s->generation.next_ns = 0; // shorter ones from here on
    resync_start(s->resync, objects, now);
}

void service_answer(struct service *s, const void *message)
{
    struct batch_answer a;
    memcpy(&a, message, sizeof(a));
    if (service_verifying(s)) {
        service_verify_answer(s, &a, (const uint8_t *)message + sizeof(a));
        return;
    }
    resync_answer(s->resync, le16_get(a.object), le64_get(a.seq), le64_get(a.offset),
                  le32_get(a.blocks), (const uint8_t *)message + sizeof(a));
}

// What lies behind it is settled soon, and then leaves the map.
static void note_end(struct service *s, uint16_t object)
{
    struct resync_progress p;
    resync_progress(s->resync, &p);
    service_note(s, "volume %s: the resync has gone over %llu KiB, and sent %llu KiB",
                 service_volume(s, object), (unsigned long long)(p.done - s->resync_told.done) / 1024,
                 (unsigned long long)(p.sent - s->resync_told.sent) / 1024);
    s->resync_told = p;
    s->generation.haste = 2;
    s->generation.next_ns = 0;
}

// Starts one step; false when it has to wait.
static bool resync_step(struct service *s, const struct resync_step *step, int64_t now)
{
    uint64_t seq = 0;
    int r = 0;
    switch (step->kind) {
    case RESYNC_BEGIN:
        r = updates_mark(s->updates, MARK_RESYNC_BEGIN, step->object, &seq);
        break;
    case RESYNC_END:
        r = updates_mark(s->updates, MARK_RESYNC_END, step->object, &seq);
        break;
    case RESYNC_CHECK:
        r = updates_check(s->updates, step->object, step->offset, step->length, step->coarse);
        break;
    case RESYNC_CHUNK:
        r = updates_resync_chunk(s->updates, step->object, step->offset, step->length);
        break;
    }
    if (r < 0)
        return false;
    resync_began(s->resync, step, now);
    s->resync_started += step->length;
    if (step->kind == RESYNC_BEGIN || step->kind == RESYNC_END)
        s->numbered = true;
    if (step->kind == RESYNC_END) {
        note_end(s, step->object);
        s->due &= ~(UINT64_C(1) << step->object);
        struct end_event ev = {.type = EV_RESYNCED};
        ev.resynced.object = step->object;
        ev.resynced.seq = seq;
        ev.resynced.ticket = s->resync_ticket;
        s->ops.report(s->user, &ev);
    }
    return true;
}

// A resync takes at most a part of the unsafe queue: the rest is the writers'.
bool service_copy_has_room(struct service *s)
{
    struct unsafe_stat stat;
    unsafe_stat(s->queue, &stat);
    return stat.memory_bytes < stat.memory_limit_bytes / 4 && stat.bytes < QUEUE_MAX;
}

// The resync's bytes a second, where they are limited: what may be started by now.
bool service_copy_has_rate(const struct service *s, uint64_t started, int64_t began_ns, int64_t now)
{
    uint64_t rate = s->config.resync_rate;
    return rate == 0 || (double)started <= (double)(now - began_ns) / 1e9 * (double)rate;
}

// What a step takes of the channel, and of the disks: a check is eight bytes for each block that is read.
static uint64_t cost(const struct resync_step *step)
{
    return step->kind == RESYNC_CHECK ? step->length / 64 : step->length;
}

// While others write, the resync takes its share of what is sent; a little in any case, so that it ends.
bool service_copy_has_share(struct service *s, int64_t now)
{
    unsigned share = s->config.resync_share;
    if (now >= s->share.until_ns) {
        s->share.until_ns = now + SHARE_NS;
        s->share.written = s->share.writing;
        s->share.writing = s->share.spent = 0;
    }
    if (share == 0 || share >= 100 || s->share.written == 0)
        return true;
    return s->share.spent < MAX(s->share.written / (100 - share) * share, SHARE_LEAST);
}

void service_resync_turn(struct service *s, const struct service_turn *turn)
{
    s->resync_more = false;
    // Nothing is numbered while the gate is held: an epoch's opening has its seq already.
    if (!resync_running(s->resync) || !s->attached || s->gate == GATE_HELD)
        return;
    int64_t now = turn->now_ns;
    resync_applied(s->resync, turn->applied, now);
    struct resync_step step;
    struct resync_progress p;
    int steps = 0;
    resync_progress(s->resync, &p);
    for (; steps < STEPS_A_TURN; steps++) {
        if (!service_copy_has_room(s) || !service_copy_has_rate(s, s->resync_started, p.began_ns, now) ||
            !service_copy_has_share(s, now) ||
            !resync_next(s->resync, now, &step) || !resync_step(s, &step, now))
            break;
        s->share.spent += cost(&step);
    }
    s->resync_more = steps == STEPS_A_TURN;
}
