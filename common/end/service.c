// SPDX-License-Identifier: Apache-2.0
#include "common/end/service.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/end/service_private.h"
#include "queues/epoch.h"

void service_note(struct service *s, const char *format, ...)
{
    char text[200];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    s->ops.note(s->user, text);
}

const char *service_volume(const struct service *s, uint16_t object)
{
    return object < s->config.volumes ? s->names[object] : "?";
}

static void failed_event(struct service *s, enum end_event_type type, const char *text)
{
    struct end_event ev = {.type = type};
    ev.failed.text = text;
    s->ops.report(s->user, &ev);
}

// ---- what updates asks for ----

static int64_t stamp_ns(void *user)
{
    struct service *s = user;
    return s->ops.stamp_ns(s->user);
}

static void wake_sender(void *user, bool barrier)
{
    struct service *s = user;
    s->numbered = true;
    s->barrier |= barrier;
}

static void level_event(struct service *s, enum unsafe_level level)
{
    if (level == UNSAFE_FULL)
        s->overflowed = true; // the peer's place is given up after this turn's kick
    else if (level != UNSAFE_LOW)
        service_note(s, "the unsafe queue's memory is %s full", level == UNSAFE_HALF ? "50 %" : "75 %");
}

static void flush_failed_event(struct service *s, const struct updates_event *ev)
{
    char text[200];
    (void)snprintf(text, sizeof(text), "volume %s: a flush failed (%s)",
                   service_volume(s, ev->object), strerror(-ev->status));
    s->broken |= UINT64_C(1) << ev->object;
    struct end_event out = {.type = EV_STORE};
    out.failed.text = text;
    out.failed.objects = UINT64_C(1) << ev->object;
    s->ops.report(s->user, &out);
}

static void updates_event(void *user, const struct updates_event *ev)
{
    struct service *s = user;
    switch (ev->kind) {
    case UPDATES_EVENT_LEVEL:
        level_event(s, ev->level);
        break;
    case UPDATES_EVENT_ROOM:
        s->ops.room(s->user);
        break;
    case UPDATES_EVENT_BOUND:
        break; // the end raises it by itself
    case UPDATES_EVENT_WRITE_FAILED:
        service_unread(s, ev->object, ev->offset, ev->length);
        service_undefined(s, ev->object);
        service_note(
            s, "volume %s: a write of %u bytes at %llu failed (%s): its range is undefined here",
            service_volume(s, ev->object), ev->length, (unsigned long long)ev->offset,
            strerror(-ev->status));
        break;
    case UPDATES_EVENT_READ_FAILED:
        service_note(s, "volume %s: a read of %u bytes at %llu failed (%s)",
                     service_volume(s, ev->object), ev->length, (unsigned long long)ev->offset,
                     strerror(-ev->status));
        break;
    case UPDATES_EVENT_FLUSH_FAILED:
        flush_failed_event(s, ev);
        break;
    case UPDATES_EVENT_COPIED:
        if (service_verifying(s))
            service_verify_copied(s, ev);
        else
            service_copied(s, ev);
        break;
    }
}

static const struct updates_ops updates_ops = {
    .before_write = service_before_write,
    .stamp_ns = stamp_ns,
    .wake_sender = wake_sender,
    .event = updates_event,
};

int service_make_updates(struct service *s, struct error *err)
{
    s->updates = updates_new(s->queue, s->config.mode, &updates_ops, s);
    return s->updates ? 0 : error_sys(err, -ENOMEM, "cannot open the exports");
}

// ---- gate ----

static enum updates_gate updates_gate_of(enum end_gate gate)
{
    switch (gate) {
    case GATE_CLOSED:
        return UPDATES_CLOSED;
    case GATE_HELD:
        return UPDATES_HELD;
    case GATE_PAIRED:
        return UPDATES_PAIRED;
    case GATE_ALONE:
        return UPDATES_ALONE;
    }
    return UPDATES_CLOSED;
}

static void gate_report(struct service *s, enum end_gate gate)
{
    struct end_event ev = {.type = EV_GATE};
    ev.gate.gate = gate;
    ev.gate.ticket = s->gate_ticket;
    ev.gate.numbered = unsafe_numbered(s->queue);
    s->ops.report(s->user, &ev);
}

// Nothing is in flight any more. What that was waited for may have changed meanwhile.
static void drained(void *user)
{
    struct service *s = user;
    s->draining = false;
    if (s->close_wanted)
        service_drained_closing(s);
    else if (s->gate == GATE_HELD)
        gate_report(s, GATE_HELD);
}

void service_drain(struct service *s)
{
    if (s->draining)
        return;
    s->draining = true;
    updates_drain(s->updates, drained);
}

void service_gate(struct service *s, enum end_gate gate, uint64_t ticket, int64_t now, int64_t lease_ns)
{
    if (!s->updates)
        return;
    s->gate = gate;
    s->gate_ticket = ticket;
    // The order may be older than a lease that has run out since.
    s->lease_over = (gate == GATE_PAIRED || gate == GATE_ALONE) && now >= lease_ns;
    (void)updates_set_gate(s->updates, s->lease_over ? UPDATES_HELD : updates_gate_of(gate));
    if (gate == GATE_HELD)
        service_drain(s);
    else
        gate_report(s, gate);
}

bool service_serves(const struct service *s)
{
    return s->updates && !s->lease_over && (s->gate == GATE_PAIRED || s->gate == GATE_ALONE);
}

// E1, E2 of the grant: nothing is answered after the lease, whatever the end is doing (it may not
// have been scheduled since). HELD keeps every answer back until the lease is renewed.
void service_lease(struct service *s, int64_t now, int64_t lease_ns)
{
    if (!s->updates || s->gate == GATE_HELD || s->gate == GATE_CLOSED)
        return;
    bool over = now >= lease_ns;
    if (over == s->lease_over)
        return;
    s->lease_over = over;
    (void)updates_set_gate(s->updates, over ? UPDATES_HELD : updates_gate_of(s->gate));
}

// ---- the peer's place in the queue ----

// From here on only a resync helps the peer.
void service_overflow(struct service *s, const char *why)
{
    if (!s->attached)
        return;
    s->ops.lane_stop(s->user);
    unsafe_detach(s->queue, SERVICE_READER);
    s->attached = false;
    service_disarm(s, UINT64_MAX);
    failed_event(s, EV_OVERFLOW, why);
}

void service_lost(struct service *s, const char *why)
{
    struct end_event ev = {.type = EV_MAP};
    service_overflow(s, why);
    service_disarm(s, UINT64_MAX);
    ev.map.what = MAP_EV_LOST;
    s->ops.report(s->user, &ev);
}

void service_attach(struct service *s, uint64_t session)
{
    if (!s->queue)
        return;
    if (s->attached)
        unsafe_detach(s->queue, SERVICE_READER);
    uint64_t at = unsafe_numbered(s->queue);
    unsafe_attach(s->queue, SERVICE_READER, at);
    s->attached = true;
    s->ending_told = false;
    service_disarm(s, UINT64_MAX);
    struct end_event ev = {.type = EV_ATTACHED};
    ev.attached.seq = at + 1;
    ev.attached.session = session;
    s->ops.report(s->user, &ev);
}

void service_detach(struct service *s)
{
    if (s->queue && s->attached)
        unsafe_detach(s->queue, SERVICE_READER);
    s->attached = false;
    service_disarm(s, UINT64_MAX);
}

void service_epoch(struct service *s, const struct epoch *epoch)
{
    uint8_t encoded[EPOCH_ENCODED_SIZE];
    uint64_t seq = 0;
    if (!s->updates)
        return;
    epoch_encode(epoch, encoded);
    int r = updates_open_epoch(s->updates, epoch->id, encoded, sizeof(encoded), &seq);
    if (r == -ENOSPC) {
        service_overflow(s, "the unsafe queue overflowed");
        r = updates_open_epoch(s->updates, epoch->id, encoded, sizeof(encoded), &seq);
    }
    ENSURE(r == 0);
    ENSURE(seq == epoch->first_seq);
}

void service_bound(struct service *s, uint64_t seq)
{
    if (s->updates)
        updates_set_bound(s->updates, seq);
}

// How long the queue's oldest record has been waiting: no longer than it can have.
static int64_t age_of_oldest(struct service *s, const struct unsafe_stat *stat)
{
    return stat->oldest_ns ? MAX(s->ops.stamp_ns(s->user) - stat->oldest_ns, 0) : 0;
}

// Whether writers are held back so that the peer keeps up.
//  - sync, strict, while paired (policy `slow: throttle`): a flush would have to wait for all that
//  is queued.
//  - memory and disk are full, policy `throttle`: while the peer's stream moves; `suspend`: until
//  there is room.
//  - likewise with a resync under way and no disk to spill to: the queue would overflow, and the
//  resync start anew, again and again.
// Otherwise an application is never held (service_full()).
static enum service_held too_far_ahead(struct service *s, const struct service_turn *turn)
{
    const struct service_config *c = &s->config;
    struct unsafe_stat stat;
    if (!s->attached)
        return SERVICE_NOT_HELD;
    unsafe_stat(s->queue, &stat);
    bool high = stat.level >= UNSAFE_THREE_QUARTERS && !(s->spill && spill_helps(s->spill));
    if (high && c->overflow == SERVICE_OVERFLOW_SUSPEND)
        return SERVICE_HELD_SUSPEND;
    if (!s->ops.lane_running(s->user))
        return SERVICE_NOT_HELD;
    int64_t age = age_of_oldest(s, &stat);
    bool paired = s->gate == GATE_PAIRED && c->mode != UPDATES_ASYNC && c->throttle_when_slow;
    if (paired && age > c->timeout_ns / 4)
        return SERVICE_HELD_SLOW;
    if (!high || turn->now_ns - turn->moved_ns >= c->timeout_ns)
        return SERVICE_NOT_HELD;
    if (c->overflow == SERVICE_OVERFLOW_THROTTLE)
        return SERVICE_HELD_THROTTLE;
    bool resync = resync_running(s->resync) && stat.spill_limit_bytes == 0;
    return resync ? SERVICE_HELD_RESYNC : SERVICE_NOT_HELD;
}

// ---- a turn ----

void service_turn(struct service *s, const struct service_turn *turn)
{
    if (s->opening && turn->now_ns >= s->retry_ns)
        service_try_open(s, turn->now_ns);
    service_close_when_flushed(s);
    service_drop_when_quiet(s);
    if (!s->updates) {
        service_map_turn(s, turn->now_ns);
        return;
    }
    updates_durable(s->updates, turn->durable);
    service_mark_turn(s);
    service_resync_turn(s, turn);
    service_verify_turn(s, turn);
    service_spill_turn(s, turn->now_ns);
    s->held = too_far_ahead(s, turn);
    s->throttled = s->held != SERVICE_NOT_HELD;
    updates_kick(s->updates);
    if (s->overflowed) {
        s->overflowed = false;
        service_full(s);
        updates_kick(s->updates);
    }
    service_map_turn(s, turn->now_ns);
}

bool service_push(struct service *s, bool *ret_barrier)
{
    if (!s->updates || !s->numbered)
        return false;
    *ret_barrier = s->barrier;
    s->numbered = s->barrier = false;
    return true;
}

int64_t service_deadline(const struct service *s, int64_t now, int64_t lease_ns)
{
    int64_t at = MIN(s->opening ? s->retry_ns : INT64_MAX, service_map_deadline(s));
    if (!s->updates)
        return at;
    at = MIN(at, service_spill_deadline(s, now));
    if (s->resync_more)
        at = MIN(at, now);
    if (resync_running(s->resync) || service_verifying(s) || s->verified_waits || s->to_mark || s->throttled)
        at = MIN(at, now + SERVICE_PACE_NS);
    if (s->gate != GATE_HELD && s->gate != GATE_CLOSED)
        at = MIN(at, s->lease_over ? now + SERVICE_LEASE_NS : lease_ns);
    return at;
}

// A writer that is held back waits for the peer as an answer does.
static void note_waiting(struct service *s, int64_t now)
{
    uint64_t waiting = updates_waiting_for(s->updates);
    if (waiting == s->waiting_for && s->throttled == s->throttled_told)
        return;
    bool restart = waiting != s->waiting_for && !s->throttled;
    s->waiting_for = waiting;
    s->throttled_told = s->throttled;
    if (!waiting && !s->throttled)
        s->waiting_ns = 0;
    else if (restart || s->waiting_ns == 0)
        s->waiting_ns = now;
}

bool service_figures(struct service *s, int64_t now, struct service_figures *ret_figures)
{
    struct unsafe_stat stat;
    if (!s->updates) {
        s->waiting_ns = 0;
        return false;
    }
    unsafe_stat(s->queue, &stat);
    note_waiting(s, now);
    *ret_figures = (struct service_figures){
        .numbered = unsafe_numbered(s->queue),
        .held_from = s->attached ? unsafe_released(s->queue, SERVICE_READER) + 1 : 0,
        .waiting_for = s->waiting_for,
        .waiting_ns = s->waiting_ns,
        .queue_records = stat.records,
        .queue_bytes = stat.bytes,
        .queue_limit = stat.limit_bytes,
        .spilled_bytes = stat.spilled_bytes,
        .oldest_ns = stat.oldest_ns ? MAX(now - age_of_oldest(s, &stat), 1) : 0,
        .held = s->held,
    };
    resync_progress(s->resync, &ret_figures->resync);
    ret_figures->out_of_sync = service_out_of_sync(s, now);
    ret_figures->least_ns = s->least.seen_ns;
    verify_progress(s->verify, &ret_figures->verify_done, &ret_figures->verify_total, &ret_figures->verify_began_ns);
    return true;
}

struct unsafe *service_queue(struct service *s)
{
    return s->queue;
}

struct updates *service_updates(struct service *s)
{
    return s->updates;
}

// ---- life ----

struct service *service_new(const struct service_config *config, const struct service_ops *ops,
                            void *user)
{
    ENSURE(config->volumes <= RECORD_OBJECTS_MAX);
    struct service *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->config = *config;
    memcpy(s->names, config->names, config->volumes * sizeof(s->names[0]));
    s->ops = *ops;
    s->user = user;
    struct resync_map map = {service_map_next, service_map_bytes, s};
    s->resync = resync_new(config->sizes, config->volumes, &map);
    s->verify = verify_new(config->sizes, config->volumes);
    bool made = s->resync && s->verify && service_make_maps(s);
    s->config.sizes = s->config.ids = NULL; // the arrays are the caller's
    s->config.names = NULL;
    return made ? s : service_free(s);
}

struct service *service_free(struct service *s)
{
    if (!s)
        return NULL;
    if (s->queue || s->updates || s->found)
        service_drop_queue(s);
    resync_free(s->resync);
    service_map_aside(s);
    maps_free(s->maps);
    verify_free(s->verify);
    free(s);
    return NULL;
}
