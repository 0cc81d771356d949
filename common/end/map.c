// SPDX-License-Identifier: Apache-2.0
// What an end decides about its intent maps (docs/intent-map.md): which of them are void, whose regions are united before
// a stream starts anew, from when on they may be cleared. The maps themselves are the data path's (queues/maps.h).
//
// A map is void where its file says nothing that counts: it could not be written, or more may differ than it says. That is
// in this end's durable state before anybody relies on it, until the file has been written anew. Records of it are
// numbered, so that the word "it is good again" of an older one does not take back a newer one.
#include "common/end/end_private.h"

#include <stdio.h>

// Its own number for each object: see above.
static uint64_t new_record(struct end *e, uint64_t objects)
{
    uint64_t record = ++e->map.record;
    for (unsigned i = 0; i < e->config.volumes; i++) {
        if (objects >> i & 1)
            e->map.records[i] = record;
    }
    return record;
}

void map_fill(struct end *e, uint64_t objects)
{
    struct end_action *a = end_act(e, ACT_MAP_FILL);
    a->objects = objects;
    a->ticket = new_record(e, objects);
    e->map.exact &= ~objects;
}

void map_start(struct end *e)
{
    if (e->unreadable)
        e->st.map_void = end_all_volumes(e); // who knows what it recorded
    e->st.map_void &= end_all_volumes(e);
    // A store that failed a flush looks like one that never did: what it holds is sent before it is relied upon.
    if (e->st.role == ROLE_ACTIVE)
        e->st.pending |= e->st.map_void;
    if (e->st.map_void)
        map_fill(e, e->st.map_void);
}

void map_unflushed(struct end *e, uint64_t objects)
{
    objects &= end_all_volumes(e);
    if (e->st.role != ROLE_ACTIVE || !(objects & ~e->map.unflushed))
        return;
    e->map.unflushed |= objects;
    e->st.map_void |= objects;
    end_save(e);
}

void map_reopened(struct end *e)
{
    if (!e->map.unflushed)
        return;
    e->map.reopened = e->map.unflushed;
    e->st.pending |= e->map.unflushed;
    end_save(e);
    // A stream that outlives the opening has had its resync, or none: the next one sees what is pending, and asks for it.
    session_end(e, "a store that failed a flush was opened anew");
}

void map_resynced(struct end *e, uint64_t objects)
{
    uint64_t done = objects & e->map.reopened;
    e->map.unflushed &= ~done;
    e->map.reopened &= ~done;
    e->st.map_void &= ~done;
}

// Volumes of which everything is set in this end's maps as they are.
static bool is_full(const struct end *e, unsigned object)
{
    return (e->st.map_void & ~e->map.unflushed & ~e->map.exact) >> object & 1;
}

void map_refill(struct end *e)
{
    e->st.map_void = end_all_volumes(e);
    e->map.refill = end_save(e);
}

static bool refill_rule(struct end *e)
{
    if (!e->map.refill || !end_saved(e, e->map.refill))
        return false;
    e->map.refill = 0;
    map_fill(e, end_all_volumes(e));
    return true;
}

// ---- a map that cannot be written ----

static void take_failed(struct end *e, const struct end_event *ev)
{
    unsigned object = ev->map.object;
    ENSURE(object < e->config.volumes);
    end_note(e, "the intent map of volume %u cannot be written (error %d): everything of it counts as different",
             object, -ev->map.status);
    e->st.map_void |= UINT64_C(1) << object;
    e->map.exact |= UINT64_C(1) << object;
    e->map.failed[object].map_ticket = ev->map.ticket;
    e->map.failed[object].refused = false;
    e->map.failed[object].save_ticket = end_save(e);
}

static bool failed_rule(struct end *e, unsigned object)
{
    if (!e->map.failed[object].map_ticket)
        return false;
    bool saved = end_saved(e, e->map.failed[object].save_ticket);
    if (!saved && (!e->save_failed || e->map.failed[object].refused))
        return false;
    struct end_action *a = end_act(e, ACT_MAP_VOID);
    a->on = saved;
    a->object = object;
    a->id = e->map.failed[object].map_ticket;
    if (saved) {
        a->ticket = new_record(e, UINT64_C(1) << object);
        e->map.failed[object].map_ticket = 0;
    } else {
        e->map.failed[object].refused = true; // recorded nowhere: what waits for it fails
    }
    return true;
}

static void take_good(struct end *e, const struct end_event *ev)
{
    unsigned object = ev->map.object;
    ENSURE(object < e->config.volumes);
    bool unflushed = e->map.unflushed >> object & 1;
    if (ev->map.ticket != e->map.records[object] || e->map.failed[object].map_ticket || unflushed)
        return;
    e->st.map_void &= ~(UINT64_C(1) << object);
    end_save(e);
}

// ---- the union: what the follower's map says is added to the leader's before the stream starts ----

static void ask(struct end *e)
{
    struct frame f = frame_new(e, FRAME_MAP_ASK);
    f.map.object = (uint16_t)e->session.unite_object;
    f.map.from = e->session.unite_from;
    frame_send(e, &f);
}

// The next volume whose map counts for something here.
static void next_volume(struct end *e)
{
    struct session *s = &e->session;
    s->unite_from = 0;
    while (s->unite_object < e->config.volumes && is_full(e, s->unite_object))
        s->unite_object++;
    if (s->unite_object < e->config.volumes) {
        ask(e);
        return;
    }
    s->unite_ticket = ++e->map.sync;
    end_act(e, ACT_MAP_SYNC)->ticket = s->unite_ticket;
}

void map_unite(struct end *e)
{
    end_act(e, ACT_MAP_ASIDE);
    e->session.unite_object = 0;
    e->session.unite_ticket = 0;
    e->session.united = false;
    next_volume(e);
}

// A leader before it streams; and both ends of a split, which show how much differs.
static bool uniting(const struct end *e)
{
    const struct session *s = &e->session;
    return s->stage == SESSION_UNITING ||
           (s->stage == SESSION_MET && s->meeting.row == MEET_SPLIT && !s->unite_ticket);
}

void map_tick(struct end *e)
{
    const struct session *s = &e->session;
    if (uniting(e) && s->unite_object < e->config.volumes)
        ask(e);
}

static void take_piece(struct end *e, const struct frame *f)
{
    struct session *s = &e->session;
    if (!uniting(e) || f->map.object != s->unite_object || f->map.from != s->unite_from)
        return;
    if (f->map.count > 0) {
        struct end_action *a = end_act(e, ACT_MAP_ADD);
        a->frame = *f;
        a->on = s->stage == SESSION_MET; // of a split: each end's own map stays its own
    }
    if (f->map.next == FRAME_MAP_NONE) {
        s->unite_object++;
        next_volume(e);
    } else {
        s->unite_from = f->map.next;
        ask(e);
    }
}

static void take_ask(struct end *e, const struct frame *f)
{
    if (e->session.lead || f->map.object >= e->config.volumes)
        return;
    struct end_action *a = end_act(e, ACT_MAP_READ);
    a->object = f->map.object;
    a->seq = f->map.from;
    a->session = e->session.number;
}

void map_frame(struct end *e, const struct frame *f)
{
    if (f->type == FRAME_MAP_ASK)
        take_ask(e, f);
    else
        take_piece(e, f);
}

// ---- a split: how much of both maps together is set ----

#define COUNTING UINT64_MAX // in the place of a session: for this end itself
#define LOSING   (UINT64_MAX - 1) // likewise: of what a takeover discards

static void count_next(struct end *e)
{
    struct session *s = &e->session;
    while (s->count_object < e->config.volumes && (e->st.map_void >> s->count_object & 1))
        s->count_void |= UINT64_C(1) << s->count_object++; // counts as wholly set
    if (s->count_object == e->config.volumes) {
        s->counted = true;
        return;
    }
    struct end_action *a = end_act(e, ACT_MAP_READ);
    a->object = s->count_object;
    a->seq = s->count_from;
    a->session = COUNTING;
    a->on = true;
}

static void count_begin(struct end *e)
{
    struct session *s = &e->session;
    s->count_object = 0;
    s->count_from = s->count_regions = s->count_void = 0;
    s->counted = false;
    count_next(e);
}

static void count_piece(struct end *e, const struct frame_map *piece)
{
    struct session *s = &e->session;
    if (s->counted || s->stage != SESSION_MET || piece->object != s->count_object)
        return;
    for (uint32_t i = 0; i < piece->count; i++)
        s->count_regions += piece->bits[i / 8] >> i % 8 & 1;
    s->count_from = piece->next;
    if (piece->next == FRAME_MAP_NONE) {
        s->count_object++;
        s->count_from = 0;
    }
    count_next(e);
}

// ---- what a takeover discards: it is in this end's map, durably, before it is forgotten ----

// The next volume whose map does not count as wholly set as it is.
static void lose_next(struct end *e)
{
    while (e->map.lose_object < e->config.volumes && is_full(e, e->map.lose_object)) {
        e->map.lose_object++;
        e->map.lose_from = 0;
    }
    if (e->map.lose_object == e->config.volumes) {
        e->map.lose_sync = ++e->map.sync;
        end_act(e, ACT_MAP_SYNC)->ticket = e->map.lose_sync;
        return;
    }
    struct end_action *a = end_act(e, ACT_LOST);
    a->object = e->map.lose_object;
    a->seq = e->map.lose_from;
    a->session = LOSING;
}

static void lose_piece(struct end *e, const struct frame_map *piece)
{
    if (!e->map.losing || piece->object != e->map.lose_object || piece->from != e->map.lose_from)
        return;
    if (piece->count)
        end_act(e, ACT_MAP_ADD)->frame.map = *piece;
    e->map.lose_from = piece->next;
    if (piece->next == FRAME_MAP_NONE) {
        e->map.lose_object++;
        e->map.lose_from = 0;
    }
    lose_next(e);
}

bool map_lose(struct end *e)
{
    if (e->map.lost)
        return true;
    if (!e->map.losing) {
        e->map.losing = true;
        e->map.lose_object = 0;
        e->map.lose_from = e->map.lose_sync = 0;
        if (!e->replica_unknown) {
            lose_next(e);
            return false;
        }
        end_note(e, "of what is discarded not even the headers can be read: everything counts as different");
        map_refill(e);
        e->map.lose_ticket = e->map.refill;
    }
    e->map.lost = e->replica_unknown && end_saved(e, e->map.lose_ticket);
    return e->map.lost;
}

static void take_read(struct end *e, const struct end_event *ev)
{
    if (ev->map.ticket == LOSING) {
        lose_piece(e, ev->map.piece);
        return;
    }
    if (ev->map.ticket == COUNTING) {
        count_piece(e, ev->map.piece);
        return;
    }
    if (ev->map.ticket != e->session.number || e->session.lead)
        return;
    struct frame f = frame_new(e, FRAME_MAP_PIECE);
    f.map = *ev->map.piece;
    frame_send(e, &f);
}

// ---- what had been flushed may be gone: nothing that was cleared can be relied upon ----

void map_lost(struct end *e)
{
    end_note(e, "what had been flushed to a store may be lost: everything of it counts as different");
    if (e->st.role == ROLE_ACTIVE) {
        e->st.pending = e->st.torn = end_all_volumes(e);
        map_refill(e);
    } else {
        e->st.lost = e->st.inconsistent = end_all_volumes(e);
        end_save(e);
    }
}

// ---- ----

void map_take(struct end *e, const struct end_event *ev)
{
    switch (ev->map.what) {
    case MAP_EV_FAILED:
        take_failed(e, ev);
        break;
    case MAP_EV_GOOD:
        take_good(e, ev);
        break;
    case MAP_EV_DURABLE:
        if (e->map.lose_sync && ev->map.ticket == e->map.lose_sync) {
            e->map.lost = true;
            e->map.lose_sync = 0;
        }
        if (e->session.unite_ticket && ev->map.ticket == e->session.unite_ticket) {
            e->session.united = true;
            if (e->session.stage == SESSION_MET)
                count_begin(e);
        }
        break;
    case MAP_EV_PIECE:
        take_read(e, ev);
        break;
    case MAP_EV_UNDEFINED:
        ENSURE(ev->map.object < e->config.volumes);
        if (e->st.role == ROLE_ACTIVE && !(e->st.torn >> ev->map.object & 1)) {
            e->st.torn |= UINT64_C(1) << ev->map.object;
            end_save(e);
        }
        break;
    case MAP_EV_LOST:
        map_lost(e);
        break;
    }
}

// A replica that is whole needs its own map no more: what may differ from now on is in the active end's.
static bool own_map_rule(struct end *e)
{
    bool whole = e->state == END_PASSIVE && e->session.number && !e->session.lead &&
                 e->session.stage == SESSION_STREAMING && e->st.role == ROLE_PASSIVE &&
                 e->st.inconsistent == 0 && e->consent_count == 0 && end_saved(e, e->ticket_last);
    if (!whole) {
        e->map.own_cleared &= e->state == END_PASSIVE && e->st.inconsistent == 0;
        return false;
    }
    if (e->map.own_cleared)
        return false;
    e->map.own_cleared = true;
    if (e->map.unflushed) { // every one of them was resynced
        e->st.map_void &= ~e->map.unflushed;
        e->map.unflushed = e->map.reopened = 0;
        end_save(e);
    }
    end_act(e, ACT_MAP_CLEAR)->objects = end_all_volumes(e);
    return true;
}

bool map_rules(struct end *e)
{
    bool again = own_map_rule(e);
    again |= refill_rule(e);
    for (unsigned i = 0; i < e->config.volumes; i++)
        again |= failed_rule(e, i);
    return again;
}
