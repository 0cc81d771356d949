// SPDX-License-Identifier: Apache-2.0
// How a service begins and ends: opening over a fresh queue or over one that was left behind,
// closing in order (drain, flush), abandoning. Both may wait: for stores that a predecessor still
// holds, for requests at a store, for a client's last request in the queue. Nothing here blocks.
#include <errno.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/end/service_private.h"
#include "queues/epoch.h"

#define PEER_BLOCK_SIZE 4096 // of the peer's stores, at most

static struct unsafe_config queue_config(const struct service *s)
{
    return (struct unsafe_config){
        .pair = s->config.pair,
        .boot = s->config.boot,
        .epoch = s->epoch.id,
        .start = s->seq ? s->seq - 1 : 0,
        .bound = s->seq + SERVICE_SLOT_RESERVE,
        .ring_bytes = s->config.ring_bytes,
        .payload_max = s->config.payload_max,
        .records = s->config.queue_records,
    };
}

int service_find(struct service *s, struct service_found *ret_found, struct error *err)
{
    struct unsafe_config config = queue_config(s);
    struct unsafe *queue = NULL;
    struct unsafe_pending pending;
    unsigned cursor = 0;
    int r = s->ops.open_queue(s->user, true, &config, &queue, err);
    if (r < 0)
        return r;
    *ret_found = (struct service_found){
        .numbered = unsafe_numbered(queue),
        .epoch = unsafe_epoch(queue),
        .pending = unsafe_pending(queue, &cursor, &pending),
        .confirmed = unsafe_attached(queue, SERVICE_READER) ? unsafe_released(queue, SERVICE_READER) : 0,
    };
    (void)unsafe_opening(queue, &ret_found->opening);
    unsafe_free(s->found);
    s->found = queue;
    return 0;
}

// ---- opening ----

static uint64_t numbered(const struct service *s)
{
    return s->queue ? unsafe_numbered(s->queue) : 0;
}

void service_exports(struct service *s, bool open, int status, const char *why)
{
    struct end_event ev = {.type = EV_EXPORTS};
    ev.exports.open = open;
    ev.exports.status = status;
    ev.exports.why = why;
    ev.exports.numbered = numbered(s);
    s->ops.report(s->user, &ev);
}

void service_drop_queue(struct service *s)
{
    (void)s->ops.lane_queue(s->user, NULL);
    s->updates = updates_free(s->updates);
    s->spill = spill_free(s->spill);
    s->queue = unsafe_free(s->queue);
    s->found = unsafe_free(s->found);
    s->attached = s->draining = s->close_wanted = s->ending_told = s->recovering = false;
    service_disarm(s, UINT64_MAX);
}

static void close_stores(struct service *s)
{
    s->ops.close_stores(s->user);
    memset(s->blocks, 0, sizeof(s->blocks));
}

// Nobody but this run has written to what it has found: it holds the lock of its end.
static int open_queue(struct service *s, struct error *err)
{
    struct unsafe_config config = queue_config(s);
    struct unsafe *found = s->recover ? TAKE_PTR(s->found) : NULL;
    service_drop_queue(s);
    s->queue = found;
    return found ? 0 : s->ops.open_queue(s->user, s->recover, &config, &s->queue, err);
}

static int make_queue(struct service *s, struct error *err)
{
    if (s->queue && s->recover)
        return 0; // closed by this run, and taken back
    int r = open_queue(s, err);
    if (r == 0)
        r = service_make_spill(s, err);
    if (r == 0)
        r = service_make_updates(s, err);
    return r < 0 ? r : s->ops.lane_queue(s->user, s->queue);
}

// The queue's first record opens the epoch; from there on the peer has its place in it.
static void begin_epoch(struct service *s)
{
    uint8_t encoded[EPOCH_ENCODED_SIZE];
    uint64_t seq = 0;
    epoch_encode(&s->epoch, encoded);
    unsafe_attach(s->queue, SERVICE_READER, s->seq - 1);
    int r = updates_open_epoch(s->updates, s->epoch.id, encoded, sizeof(encoded), &seq);
    ENSURE(r == 0);
    ENSURE(seq == s->seq);
}

static void opened(void *user)
{
    struct service *s = user;
    s->recovering = false;
    if (!s->recover)
        begin_epoch(s);
    s->attached = unsafe_attached(s->queue, SERVICE_READER);
    s->gate = GATE_HELD;
    (void)updates_set_gate(s->updates, UPDATES_HELD);
    s->ops.serve(s->user, s->queue, s->updates);
    service_exports(s, true, 0, NULL);
}

void service_try_open(struct service *s, int64_t now)
{
    struct error err = {0};
    // The queue of a former reign may still be in the hands of a client that is being closed.
    bool held = s->dropping || (service_spill_busy(s) && !s->recover);
    int r = held ? -EAGAIN : s->ops.open_stores(s->user, s->blocks, &err);
    if (r == 0)
        r = make_queue(s, &err);
    if (r == -EAGAIN) {
        s->retry_ns = now + SERVICE_RETRY_NS;
        return;
    }
    s->opening = false;
    service_disarm(s, UINT64_MAX);
    s->broken = 0;
    s->unread_count = 0;
    if (r < 0) {
        s->ops.cannot_open(s->user, err.text);
        close_stores(s);
        service_exports(s, false, r, err.text);
        return;
    }
    for (uint16_t i = 0; i < s->config.volumes; i++)
        updates_set_volume(s->updates, i, s->blocks[i], PEER_BLOCK_SIZE);
    s->recovering = s->recover;
    if (s->recover)
        updates_recover(s->updates, opened);
    else
        opened(s);
}

void service_open(struct service *s, bool recover, const struct epoch *epoch, uint64_t seq,
                  int64_t now)
{
    s->opening = true;
    s->recover = recover;
    s->epoch = *epoch;
    s->seq = seq;
    service_try_open(s, now);
}

// ---- closing ----

static void close_flushed(struct block_request *request, int status)
{
    struct service *s = request->owner;
    if (status < 0 && s->flush_status == 0)
        s->flush_status = status;
    s->flushes--;
}

void service_drained_closing(struct service *s)
{
    s->close_wanted = false;
    s->flush_status = 0;
    s->flushes = 0;
    for (unsigned i = 0; i < s->config.volumes; i++) {
        if (!s->blocks[i])
            continue;
        s->flushes++;
        s->close_flush[i] =
            (struct block_request){.op = BLOCK_FLUSH, .done = close_flushed, .owner = s};
        block_submit(s->blocks[i], &s->close_flush[i]);
        block_kick(s->blocks[i]);
    }
    s->closing = true;
}

void service_close_when_flushed(struct service *s)
{
    if (!s->closing || s->flushes > 0)
        return;
    s->closing = false;
    for (uint16_t i = 0; i < s->config.volumes; i++)
        updates_set_volume(s->updates, i, NULL, 1);
    close_stores(s);
    service_exports(s, false, s->flush_status, NULL);
}

void service_close(struct service *s)
{
    s->ops.refuse(s->user, "this end is handing the volume over to its peer");
    s->gate = GATE_CLOSED;
    if (!s->updates) {
        service_exports(s, false, 0, NULL);
        return;
    }
    (void)updates_set_gate(s->updates, UPDATES_CLOSED);
    s->close_wanted = true;
    service_drain(s);
}

// ---- abandoning ----

// The queue goes when no client's request lies in it any more.
void service_drop_when_quiet(struct service *s)
{
    if (!s->dropping || !s->ops.quiet(s->user) || service_spill_busy(s))
        return;
    bool report = s->drop_report;
    struct end_event ev = {.type = EV_EXPORTS};
    ev.exports.abandoned = true;
    ev.exports.numbered = numbered(s);
    s->dropping = s->drop_report = false;
    service_drop_queue(s);
    if (report)
        s->ops.report(s->user, &ev);
}

void service_abandon(struct service *s, bool report)
{
    s->opening = s->closing = s->close_wanted = false;
    s->ops.refuse(s->user, "this end is passive: the volume is served by its peer");
    resync_start(s->resync, 0, 0);
    s->gate = GATE_CLOSED;
    if (s->updates)
        (void)updates_set_gate(s->updates, UPDATES_CLOSED);
    close_stores(s);
    // What the stores completed just now is answered (refused), too, and so is what waited for them: then the exports let
    // go of the queue. Nothing gets to a store that is closed meanwhile.
    for (uint16_t i = 0; s->updates && i < s->config.volumes; i++)
        updates_set_volume(s->updates, i, NULL, 1);
    if (s->updates)
        (void)updates_set_gate(s->updates, UPDATES_CLOSED);
    s->ops.forget_queue(s->user);
    s->dropping = true;
    s->drop_report |= report;
    service_drop_when_quiet(s);
}
