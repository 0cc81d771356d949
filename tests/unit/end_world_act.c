// SPDX-License-Identifier: Apache-2.0
// What a daemon of the small world does with an action: as a real one would if everything succeeded at once, but for what the
// test has set. Functions that return bool fill in what the end is told of it; false: nothing, or not yet.
#include "tests/unit/end_world.h"

#include <errno.h>
#include <stdio.h>

static void send_frame(struct host *h, const struct frame *f)
{
    struct host *to = host_peer(h);
    if (h->world->cut[h->index] && f->type == FRAME_BEAT && f->to_run)
        h->late = *f;
    if (!to->up || h->world->cut[h->index])
        return;
    if (f->type == FRAME_BEAT && f->beat.answer == ANSWER_NO && h->lose_noes)
        return;
    if (f->type == FRAME_MAP_PIECE && h->lose_pieces && h->world->now / (100 * NS_PER_MS) % 3)
        return;
    // Over the wire and back, so that the codec is tested with every frame.
    uint8_t wire[FRAME_MAX];
    size_t size = frame_encode(f, wire, sizeof(wire));
    assert_true(size > 0);
    struct frame *slot = &to->frames[to->frame_next++ % ARRAY_LEN(to->frames)];
    assert_null(frame_decode(wire, size, slot));
    host_push(to, &(struct end_event){.type = EV_FRAME, .frame = {.path = 0, .frame = slot}});
}

static void act_beat(struct host *h, const struct frame *f)
{
    h->beats++;
    h->asking += !!(f->flags & FRAME_WANTS_ECHO);
    if (f->beat.answer != ANSWER_YES)
        return;
    assert_true(h->deadline != INT64_MAX); // the guard has its deadline before the peer has its permission
    h->yes_ns = h->world->now;
}

static void act_send(struct host *h, const struct frame *f)
{
    if (f->type == FRAME_BEAT)
        act_beat(h, f);
    if (f->type == FRAME_HANDOVER) {
        assert_false(h->address);
        if (h->hold_handover)
            return;
    }
    if (h->overflow_when_met && f->type == FRAME_MEET) {
        h->overflow_when_met = false;
        host_peer(h)->data.held_from = 0;
        host_push(host_peer(h), &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    }
    send_frame(h, f);
    h->data.numbered += h->number_when_met && f->type == FRAME_MEET && f->meet.proposal && h->exports;
}

static bool act_save(struct host *h, const struct end_action *a, struct end_event *ev)
{
    uint8_t bytes[STATE_SIZE_MAX];
    size_t size = state_encode(&a->state, bytes, sizeof(bytes));
    assert_true(size > 0);
    assert_null(state_decode(bytes, size, &h->disk));
    // Who may have opened an epoch must not be said to hold no grant.
    assert_false(h->goodbye && h->disk.role == ROLE_ACTIVE);
    h->ticket = a->ticket;
    ev->type = EV_SAVED;
    ev->saved.ticket = a->ticket;
    return !h->hold_saves;
}

static bool act_gate(struct host *h, const struct end_action *a, struct end_event *ev)
{
    h->gate = a->gate;
    h->gate_ticket = a->ticket;
    ev->type = EV_GATE;
    ev->gate.gate = a->gate;
    ev->gate.ticket = a->ticket;
    ev->gate.numbered = h->data.numbered;
    return !h->hold_gates;
}

static bool act_open(struct host *h, const struct end_action *a, struct end_event *ev)
{
    h->opens++;
    if (h->hold_opens)
        return false;
    ev->type = EV_EXPORTS;
    if (h->fail_opens) {
        ev->exports.status = -EIO;
        ev->exports.why = "no room for the queue";
        return true;
    }
    h->exports = true;
    h->gate = GATE_HELD;
    if (!a->recover) {
        h->epoch = a->epoch;
        h->data.numbered = a->seq;
        h->data.held_from = a->seq;
        h->data.durable = a->seq - 1;
    }
    ev->exports.open = true;
    ev->exports.numbered = h->data.numbered;
    return true;
}

static bool act_close(struct host *h, bool abandon, struct end_event *ev)
{
    h->exports = false;
    h->gate = GATE_CLOSED;
    ev->type = EV_EXPORTS;
    ev->exports.numbered = h->data.numbered;
    // With `hold_close` it has closed just before it heard of ACT_ABANDON, to which the test answers.
    ev->exports.abandoned = abandon && !h->hold_close;
    return abandon || !h->hold_close;
}

static void act_epoch(struct host *h, const struct epoch *epoch)
{
    assert_int_equal(h->gate, GATE_HELD);
    h->data.numbered++;
    h->epoch = *epoch;
    assert_int_equal(h->data.numbered, epoch->first_seq);
}

static bool act_attach(struct host *h, uint64_t session, struct end_event *ev)
{
    h->attaches++;
    if (h->full_at_attach)
        host_push(h, &(struct end_event){.type = EV_OVERFLOW, .failed = {.text = "full", .draining = true}});
    h->data.held_from = h->place = h->data.numbered + 1;
    ev->type = EV_ATTACHED;
    ev->attached.seq = h->place;
    ev->attached.session = session;
    if (h->late_attach) { // the place of a session before is told behind this order
        h->late_attach = false;
        host_push(h, &(struct end_event){.type = EV_ATTACHED, .attached = {.seq = h->place - 1, .session = session - 1}});
    }
    return true;
}

static void act_salvage(struct host *h, const struct end_action *a)
{
    h->salvaged = a->objects;
    h->salvage_whole = a->state.salvage_whole;
    h->salvage_cause = a->state.salvage_cause;
    h->salvaged_epoch = a->state.salvaged.id;
}

static bool act_follow(struct host *h, const struct end_action *a, struct end_event *ev)
{
    h->follows = a->session;
    if (!a->session)
        return false;
    h->follow_asked++;
    ev->type = EV_REPLICA;
    if (h->fail_follows) {
        ev->replica.what = FOLLOW_FAILED;
        ev->replica.text = "the disk is gone";
        return true;
    }
    h->data.replica_durable = h->data.applied = a->seq - 1;
    ev->replica.what = FOLLOW_READY;
    return !h->hold_follows;
}

static bool act_finish(struct host *h, struct end_event *ev)
{
    ev->type = EV_REPLICA;
    ev->replica.what = FOLLOW_FINISHED;
    ev->replica.seq = h->data.replica_durable;
    ev->replica.short_of_confirmed = h->short_finish;
    ev->replica.discards = h->discards;
    ev->replica.unknown = h->unknown;
    ev->replica.lost_records = 3;
    return true;
}

static bool act_discard(struct host *h, struct end_event *ev)
{
    // What it forgets is in the map, or in the state, durably.
    for (unsigned i = 0; i < 4; i++)
        assert_true(h->disk.map_void == 3 ||
                    (!h->unknown && !(h->lost_map[i / 2][i % 2] & ~h->durable_map[i / 2][i % 2])));
    h->discarded++;
    h->discards = false;
    ev->type = EV_REPLICA;
    ev->replica.what = FOLLOW_FINISHED;
    ev->replica.seq = h->data.replica_durable;
    ev->replica.lost_records = 3;
    return true;
}

static void act_resync(struct host *h, const struct end_action *a)
{
    h->resyncs += a->objects != 0;
    h->resynced = a->objects;
    h->resync_ticket = a->ticket;
    for (unsigned i = 0; i < 2 && !h->resync_silent; i++) {
        if (!(a->objects >> i & 1))
            continue;
        uint64_t seq = h->data.numbered += 2;
        host_push(h, &(struct end_event){.type = EV_RESYNCED, .resynced = {.object = i, .seq = seq, .ticket = a->ticket}});
        host_push(host_peer(h),
                  &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = i, .seq = seq}});
    }
}

static void act_differs(struct host *h, uint64_t objects)
{
    h->marked |= objects;
    for (unsigned i = 0; i < 2; i++) {
        if (!(objects >> i & 1))
            continue;
        uint64_t seq = ++h->data.numbered;
        host_push(host_peer(h),
                  &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_BEGIN, .object = i, .seq = seq}});
    }
}

static void act_map_fill(struct host *h, const struct end_action *a)
{
    h->filled |= a->objects;
    h->record = a->ticket;
    h->fills++;
    for (unsigned i = 0; i < 2 && !h->hold_good; i++) {
        if (a->objects >> i & 1)
            host_push(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_GOOD, .object = i, .ticket = a->ticket}});
    }
}

static void act_map_void(struct host *h, const struct end_action *a)
{
    if (a->on)
        h->voided++;
    else
        h->refused++;
    h->record = a->ticket;
}

static bool act_map_read(struct host *h, const struct end_action *a, uint64_t map[2][2], struct end_event *ev)
{
    struct frame_map *piece = &h->pieces[h->piece_next++ % ARRAY_LEN(h->pieces)];
    unsigned at = a->seq / 64;
    *piece = (struct frame_map){
        .object = (uint16_t)a->object, .from = a->seq, .next = at == 0 ? 64 : FRAME_MAP_NONE};
    if (map[a->object][at]) {
        piece->first = a->seq;
        piece->count = 64;
        memcpy(piece->bits, &map[a->object][at], 8);
    }
    ev->type = EV_MAP;
    ev->map.what = MAP_EV_PIECE;
    ev->map.ticket = a->session;
    ev->map.piece = piece;
    return true;
}

static void act_map_add(struct host *h, const struct frame_map *piece)
{
    uint64_t bits;
    memcpy(&bits, piece->bits, 8);
    h->added[piece->object][piece->first / 64] |= bits;
}

static bool act_map_sync(struct host *h, uint64_t ticket, struct end_event *ev)
{
    if (h->hold_map)
        return false;
    memcpy(h->durable_map, h->added, sizeof(h->durable_map));
    ev->type = EV_MAP;
    ev->map.what = MAP_EV_DURABLE;
    ev->map.ticket = ticket;
    return true;
}

static bool act_address(struct host *h, bool on, struct end_event *ev)
{
    if (h->hold_address)
        return false;
    ev->type = EV_ADDRESS;
    ev->address.on = on;
    ev->address.status = h->fail_off && !on ? -EIO : 0;
    if (ev->address.status == 0)
        h->address = on;
    assert_false(h->world->host[0].address && h->world->host[1].address && !h->world->two_serve);
    return true;
}

static bool act_probe(struct host *h, uint64_t ticket, struct end_event *ev)
{
    ev->type = EV_PROBED;
    ev->probed.ticket = ticket;
    ev->probed.vetoes = h->world->probe;
    ev->probed.text = h->world->probe == 0 ? NULL : "vetoed by the test";
    return !h->hold_probes;
}

static bool act_apps(struct host *h, bool on, struct end_event *ev)
{
    h->apps = on;
    ev->type = EV_APPS;
    ev->apps.running = on;
    return !h->hold_apps;
}

static bool act_guard(struct host *h, bool freeze, struct end_event *ev)
{
    if (freeze && h->frozen)
        return false; // its guard has acted, and has said so
    h->frozen = freeze;
    if (freeze)
        h->address = false;
    ev->type = EV_GUARD;
    ev->guard.frozen = freeze;
    return !h->hold_guard;
}

static void act_reply(struct host *h, const struct end_action *a)
{
    h->reply_status = a->status;
    (void)snprintf(h->reply, sizeof(h->reply), "%s", a->text);
}

// What is over as soon as it is said.
static void note(struct host *h, const struct end_action *a)
{
    switch (a->type) {
    case ACT_BOUND:
        h->bound = a->seq;
        break;
    case ACT_CONSENT:
        h->consents++;
        break;
    case ACT_STREAM:
        h->streams = a->session;
        h->stream_from = a->seq;
        break;
    case ACT_WITHHOLD:
        h->withheld = a->seq != UINT64_MAX ? a->seq : 0;
        break;
    case ACT_VERIFY:
        h->verifying = a->objects;
        break;
    case ACT_MAP_ARM:
        h->armed = a->session;
        h->armed_due = a->objects;
        break;
    case ACT_MAP_CLEAR:
        h->cleared |= a->objects;
        break;
    case ACT_DESTROY:
        h->apps = false;
        break;
    case ACT_GOODBYE:
        h->goodbye = a->on;
        break;
    case ACT_DEADLINE:
        h->deadline = a->time_ns;
        break;
    case ACT_LEASE:
        h->lease = a->time_ns;
        break;
    case ACT_HISTORY:
        if (h->world->verbose)
            printf("[%8.3f] %c %s\n", (double)h->world->now / 1e9, h->index ? 'S' : 'P', a->text);
        break;
    case ACT_EXIT:
        h->exited = true;
        break;
    default:
        break;
    }
}

// What needs something done, and tells nothing.
static bool act_quietly(struct host *h, const struct end_action *a)
{
    switch (a->type) {
    case ACT_SEND:
        act_send(h, &a->frame);
        return true;
    case ACT_EPOCH:
        act_epoch(h, &a->epoch);
        return true;
    case ACT_SALVAGE:
        act_salvage(h, a);
        return true;
    case ACT_RESYNC:
        act_resync(h, a);
        return true;
    case ACT_DIFFERS:
        act_differs(h, a->objects);
        return true;
    case ACT_MAP_FILL:
        act_map_fill(h, a);
        return true;
    case ACT_MAP_VOID:
        act_map_void(h, a);
        return true;
    case ACT_MAP_ADD:
        if (!a->on)
            act_map_add(h, &a->frame.map);
        return true;
    case ACT_REPLY:
        act_reply(h, a);
        return true;
    default:
        return false;
    }
}

// What the end is told of. False: nothing, or not yet.
static bool act_and_tell(struct host *h, const struct end_action *a, struct end_event *ev)
{
    switch (a->type) {
    case ACT_SAVE:
        return act_save(h, a, ev);
    case ACT_GATE:
        return act_gate(h, a, ev);
    case ACT_OPEN:
        return act_open(h, a, ev);
    case ACT_CLOSE:
    case ACT_ABANDON:
        return act_close(h, a->type == ACT_ABANDON, ev);
    case ACT_ATTACH:
        return act_attach(h, a->session, ev);
    case ACT_FOLLOW:
        return act_follow(h, a, ev);
    case ACT_FINISH:
        return act_finish(h, ev);
    case ACT_DISCARD:
        return act_discard(h, ev);
    case ACT_LOST:
        return act_map_read(h, a, h->lost_map, ev);
    case ACT_MAP_READ:
        return act_map_read(h, a, h->own_map, ev);
    case ACT_MAP_SYNC:
        return act_map_sync(h, a->ticket, ev);
    case ACT_ADDRESS:
        return act_address(h, a->on, ev);
    case ACT_PROBE:
        return act_probe(h, a->ticket, ev);
    case ACT_APPS:
    case ACT_ADOPT:
        return act_apps(h, a->type == ACT_ADOPT || a->on, ev);
    case ACT_FREEZE:
    case ACT_THAW:
        return act_guard(h, a->type == ACT_FREEZE, ev);
    default:
        note(h, a);
        return false;
    }
}

void host_act(struct host *h, const struct end_action *a)
{
    struct end_event ev = {0};
    if (!act_quietly(h, a) && act_and_tell(h, a, &ev))
        host_push(h, &ev);
}
