// SPDX-License-Identifier: Apache-2.0
// The intent maps on the data path (docs/intent-map.md): asked before each write, and cleared by generations.
//
// A generation begins by noting what is touched from now on. When all updates that were at a store at that moment are
// numbered (TURN), the last seq given is its number; when the peer has settled that, and a sync of each store that was
// begun later has succeeded (WAIT), what was not touched is equal on both ends, durably, and is cleared. Nothing is cleared
// but of the session that the end has named, nothing ahead of a resync, and nothing of a volume that cannot be relied upon.
#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "common/end/piece.h"
#include "common/end/service_private.h"

// How often a generation that waits looks whether it has come to its end.
#define LOOK_NS INT64_C(100000000)

#define COPY_REGIONS (UINT32_C(1) << 20) // that are taken out of a map at once

static uint64_t all_volumes(const struct service *s)
{
    return s->config.volumes >= 64 ? UINT64_MAX : (UINT64_C(1) << s->config.volumes) - 1;
}

// ---- before a write ----

int service_before_write(void *user, uint16_t object, uint64_t offset, uint32_t length)
{
    struct service *s = user;
    int r = s->throttled ? 1 : maps_set(s->maps, object, offset, length);
    if (r == 0)
        s->share.writing += length;
    return r;
}

// ---- generations ----

void service_disarm(struct service *s, uint64_t due)
{
    s->armed = 0;
    s->due |= due;
    s->generation.stage = GENERATION_NONE;
}

// Ranges that could not be read for a resync, or written: the ends differ there for all that is known.
void service_unread(struct service *s, uint16_t object, uint64_t offset, uint32_t length)
{
    if (s->unread_count == SERVICE_UNREAD_MAX) {
        s->broken |= UINT64_C(1) << object;
        return;
    }
    s->unread[s->unread_count++] = (struct service_range){object, length, offset};
}

static bool anything_set(const struct service *s)
{
    for (uint16_t i = 0; i < s->config.volumes; i++) {
        if (!intent_idle(maps_at(s->maps, i)))
            return true;
    }
    return false;
}

static void begin_generation(struct service *s, int64_t now)
{
    struct generation *g = &s->generation;
    g->next_ns = now + LOOK_NS;
    if (!anything_set(s) || !updates_turn(s->updates))
        return;
    for (uint16_t i = 0; i < s->config.volumes; i++)
        intent_generation(maps_at(s->maps, i));
    for (unsigned i = 0; i < s->unread_count; i++)
        intent_touch(maps_at(s->maps, s->unread[i].object), s->unread[i].offset, s->unread[i].length);
    g->began_ns = now;
    g->stage = GENERATION_TURN;
}

static void end_turn(struct service *s)
{
    struct generation *g = &s->generation;
    if (!updates_turn_over(s->updates))
        return;
    g->seq = unsafe_numbered(s->queue);
    for (uint16_t i = 0; i < s->config.volumes; i++)
        g->sync[i] = updates_syncs(s->updates, i).begun + 1;
    g->asked = false;
    g->stage = GENERATION_WAIT;
}

static bool synced(struct service *s, uint16_t object)
{
    return updates_volume_failed(s->updates, object) ||
           updates_syncs(s->updates, object).good >= s->generation.sync[object];
}

// Syncs that come by themselves will do; where none does, one of our own.
static bool all_synced(struct service *s)
{
    bool all = true;
    for (uint16_t i = 0; i < s->config.volumes; i++) {
        if (synced(s, i))
            continue;
        all = false;
        if (!s->generation.asked && updates_syncs(s->updates, i).begun < s->generation.sync[i])
            updates_sync(s->updates, i);
    }
    s->generation.asked = true;
    return all;
}

static void clear(struct service *s)
{
    for (uint16_t i = 0; i < s->config.volumes; i++) {
        uint64_t bit = UINT64_C(1) << i, floor = UINT64_MAX;
        if ((s->broken & bit) || updates_volume_failed(s->updates, i))
            continue;
        if (s->due & bit)
            floor = resync_running(s->resync) ? resync_floor(s->resync, i) : 0;
        (void)intent_clear_untouched(maps_at(s->maps, i), floor);
    }
}

static void end_generation(struct service *s, int64_t now)
{
    struct generation *g = &s->generation;
    uint64_t session, settled;
    bool haste = resync_running(s->resync) || g->haste > 0;
    int64_t length = haste ? s->config.generation_ns / 5 : s->config.generation_ns;
    g->next_ns = MAX(g->began_ns + length, now + LOOK_NS);
    if (now < g->began_ns + length || !all_synced(s))
        return;
    if (!s->ops.settled(s->user, &session, &settled) || session != s->armed) {
        g->stage = GENERATION_NONE; // the stream is another one, or none
        return;
    }
    if (settled < g->seq)
        return;
    clear(s);
    g->stage = GENERATION_NONE;
    g->next_ns = now;
    g->haste -= g->haste > 0;
}

static void generation_step(struct service *s, int64_t now)
{
    if (!s->updates || !s->armed || !s->attached || now < s->generation.next_ns)
        return;
    switch (s->generation.stage) {
    case GENERATION_NONE:
        begin_generation(s, now);
        break;
    case GENERATION_TURN:
        end_turn(s);
        break;
    case GENERATION_WAIT:
        end_generation(s, now);
        break;
    }
}

static void map_event(struct service *s, enum end_map_event what, unsigned object, uint64_t ticket, int status)
{
    struct end_event ev = {.type = EV_MAP};
    ev.map.what = what;
    ev.map.object = object;
    ev.map.ticket = ticket;
    ev.map.status = status;
    s->ops.report(s->user, &ev);
}

void service_undefined(struct service *s, uint16_t object)
{
    map_event(s, MAP_EV_UNDEFINED, object, 0, 0);
}

// ---- for who salvages ----

static void give_copy(struct service *s, uint16_t object)
{
    const struct intent *m = maps_at(s->maps, object);
    uint64_t regions = intent_regions(m), at = 0;
    CLEANUP_FREE uint8_t *bits = malloc(regions / 8 + 2);
    while (bits && at < regions)
        at += intent_bits(m, at, bits + at / 8, COPY_REGIONS);
    s->ops.own_map(s->user, s->copy_ticket, object, intent_region(m), regions, bits);
}

static void copy_step(struct service *s)
{
    for (uint16_t i = 0; s->copying && i < s->config.volumes; i++) {
        uint64_t bit = UINT64_C(1) << i;
        if (!(s->copying & bit) || !maps_exact(s->maps, i))
            continue;
        s->copying &= ~bit;
        give_copy(s, i);
    }
}

void service_map_copy(struct service *s, uint64_t objects, uint64_t ticket)
{
    s->copying = objects & all_volumes(s);
    s->copy_ticket = ticket;
    for (uint16_t i = 0; i < s->config.volumes; i++) {
        if (s->copying >> i & 1)
            maps_settle(s->maps, i);
    }
}

// ---- a turn ----

void service_map_turn(struct service *s, int64_t now)
{
    generation_step(s, now);
    if (s->map_sync && maps_durable(s->maps)) {
        uint64_t ticket = s->map_sync;
        s->map_sync = 0;
        map_event(s, MAP_EV_DURABLE, 0, ticket, 0);
    }
    maps_work(s->maps, now);
    copy_step(s); // behind it: a map that was made anew becomes exact in its last step, and nothing else follows
}

int64_t service_map_deadline(const struct service *s)
{
    int64_t at = maps_deadline(s->maps);
    // While nothing is set, there is nothing to clear: what sets something is a turn, which begins a generation.
    if (s->updates && s->armed && s->attached && (s->generation.stage != GENERATION_NONE || anything_set(s)))
        at = MIN(at, s->generation.next_ns);
    return at;
}

// ---- what the end orders ----

void service_map_fill(struct service *s, uint64_t objects, uint64_t record)
{
    s->due |= objects & all_volumes(s);
    s->least.seen_ns = 0;
    maps_fill(s->maps, objects & all_volumes(s), record);
}

void service_map_void(struct service *s, uint16_t object, uint64_t ticket, bool recorded, uint64_t record)
{
    if (recorded)
        maps_void(s->maps, object, ticket, record);
    else
        maps_refuse(s->maps, object, ticket);
}

void service_map_arm(struct service *s, uint64_t session, uint64_t due)
{
    service_disarm(s, 0);
    if (!session)
        return;
    s->armed = session;
    s->due = due & all_volumes(s);
}

void service_map_clear(struct service *s, uint64_t objects)
{
    for (uint16_t i = 0; i < s->config.volumes; i++) {
        struct intent *m = maps_at(s->maps, i);
        if (objects >> i & 1)
            intent_clear(m, 0, intent_size(m));
    }
}

void service_map_aside(struct service *s)
{
    for (unsigned i = 0; i < s->config.volumes; i++)
        s->apart[i] = intent_free(s->apart[i]);
}

void service_map_read(struct service *s, uint16_t object, uint64_t from, uint64_t session, bool aside)
{
    if (object >= s->config.volumes)
        return;
    const struct intent *m = aside && s->apart[object] ? s->apart[object] : maps_at(s->maps, object);
    struct frame_map piece = piece_of(m, object, from);
    struct end_event ev = {.type = EV_MAP};
    ev.map.what = MAP_EV_PIECE;
    ev.map.ticket = session;
    ev.map.piece = &piece;
    s->ops.report(s->user, &ev);
}

// In a split the peer's map is looked at, and this end's stays what it is: what this end has written alone.
static struct intent *apart(struct service *s, uint16_t object)
{
    struct intent *own = maps_at(s->maps, object);
    if (!s->apart[object]) {
        struct intent_config config = {.size = intent_size(own), .region = intent_region(own)};
        s->apart[object] = intent_new(&config);
        if (s->apart[object])
            intent_add(s->apart[object], own);
    }
    return s->apart[object];
}

void service_map_add(struct service *s, const struct frame_map *piece, bool aside)
{
    if (piece->object >= s->config.volumes)
        return;
    struct intent *m = aside ? apart(s, piece->object) : maps_at(s->maps, piece->object);
    if (!m)
        return; // no memory: it is merely not shown
    // The peer's volume has as many regions as this one. What is beyond it would be said of nothing.
    if (intent_or(m, piece->first, piece->bits, piece->count) < 0)
        intent_fill(m);
}

void service_map_sync(struct service *s, uint64_t ticket)
{
    maps_mark(s->maps);
    s->map_sync = ticket;
}

// ---- making ----

static void map_failed(void *user, uint16_t object, uint64_t ticket, int status)
{
    map_event(user, MAP_EV_FAILED, object, ticket, status);
}

static void map_good(void *user, uint16_t object, uint64_t record)
{
    map_event(user, MAP_EV_GOOD, object, record, 0);
}

bool service_make_maps(struct service *s)
{
    struct maps_config config = {
        .disk = s->config.map_disk,
        .pair = s->config.pair,
        .volumes = s->config.volumes,
        .region = s->config.map_region,
        .sizes = s->config.sizes,
        .volume = s->config.ids,
        .failed = map_failed,
        .good = map_good,
        .user = s,
    };
    s->maps = maps_new(&config);
    return s->maps != NULL;
}

bool service_map_busy(const struct service *s)
{
    return maps_syncing(s->maps);
}

const char *service_map_found(const struct service *s, uint16_t object)
{
    return maps_found(s->maps, object);
}

// ---- for the resync ----

bool service_map_next(void *user, uint16_t object, uint64_t from, uint64_t length_max, uint64_t *ret_offset,
                      uint64_t *ret_length)
{
    struct service *s = user;
    return intent_next(maps_at(s->maps, object), from, length_max, ret_offset, ret_length);
}

uint64_t service_map_bytes(void *user, uint16_t object, uint64_t from)
{
    struct service *s = user;
    return intent_bytes(maps_at(s->maps, object), from);
}

// Writers that are faster than the link add as much as a resync takes away.
static void look_at_least(struct service *s, uint64_t bytes, int64_t now)
{
    bool anew = s->due & ~s->least.due;
    if (bytes == 0)
        s->least.seen_ns = 0;
    else if (anew || !s->least.seen_ns || bytes < s->least.bytes)
        s->least.seen_ns = now;
    else
        bytes = s->least.bytes;
    s->least.bytes = bytes;
    s->least.due = s->due;
}

// What lies behind the resync's cursor is done, though it is not cleared yet.
const uint64_t *service_out_of_sync(struct service *s, int64_t now)
{
    uint64_t all = 0;
    if (now < s->out_of_sync_ns)
        return s->out_of_sync;
    s->out_of_sync_ns = now + LOOK_NS;
    for (uint16_t i = 0; i < s->config.volumes; i++) {
        uint64_t floor = resync_running(s->resync) ? resync_floor(s->resync, i) : 0;
        s->out_of_sync[i] = s->due >> i & 1 ? intent_bytes(maps_at(s->maps, i), floor) : 0;
        all += s->out_of_sync[i];
    }
    look_at_least(s, all, now);
    return s->out_of_sync;
}
