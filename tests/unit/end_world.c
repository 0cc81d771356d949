// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/end_world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

void host_push(struct host *h, const struct end_event *ev)
{
    assert_true(h->tail - h->head < ARRAY_LEN(h->queue));
    h->queue[h->tail++ % ARRAY_LEN(h->queue)] = *ev;
}

struct host *host_peer(struct host *h)
{
    return &h->world->host[1 - h->index];
}

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

static void act(struct host *h, const struct end_action *a)
{
    struct end_event ev = {0};
    switch (a->type) {
    case ACT_SEND:
        h->beats += a->frame.type == FRAME_BEAT;
        h->asking += a->frame.type == FRAME_BEAT && a->frame.flags & FRAME_WANTS_ECHO;
        // The guard has its deadline before the peer has its permission.
        if (a->frame.type == FRAME_BEAT && a->frame.beat.answer == ANSWER_YES) {
            assert_true(h->deadline != INT64_MAX);
            h->yes_ns = h->world->now;
        }
        if (a->frame.type == FRAME_HANDOVER) {
            assert_false(h->address);
            if (h->hold_handover)
                return;
        }
        if (h->overflow_when_met && a->frame.type == FRAME_MEET) {
            h->overflow_when_met = false;
            host_peer(h)->data.held_from = 0;
            host_push(host_peer(h), &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
        }
        send_frame(h, &a->frame);
        h->data.numbered += h->number_when_met && a->frame.type == FRAME_MEET && a->frame.meet.proposal && h->exports;
        return;
    case ACT_SAVE: {
        uint8_t bytes[STATE_SIZE_MAX];
        size_t size = state_encode(&a->state, bytes, sizeof(bytes));
        assert_true(size > 0);
        assert_null(state_decode(bytes, size, &h->disk));
        // Who may have opened an epoch must not be said to hold no grant.
        assert_false(h->goodbye && h->disk.role == ROLE_ACTIVE);
        h->ticket = a->ticket;
        ev.type = EV_SAVED;
        ev.saved.ticket = a->ticket;
        break;
    }
    case ACT_GATE:
        h->gate = a->gate;
        h->gate_ticket = a->ticket;
        ev.type = EV_GATE;
        ev.gate.gate = a->gate;
        ev.gate.ticket = a->ticket;
        if (h->hold_gates)
            return;
        ev.gate.numbered = h->data.numbered;
        break;
    case ACT_OPEN:
        h->opens++;
        if (h->hold_opens)
            return;
        if (h->fail_opens) {
            ev.type = EV_EXPORTS;
            ev.exports.status = -EIO;
            ev.exports.why = "no room for the queue";
            break;
        }
        h->exports = true;
        h->gate = GATE_HELD;
        if (!a->recover) {
            h->epoch = a->epoch;
            h->data.numbered = a->seq;
            h->data.held_from = a->seq;
            h->data.durable = a->seq - 1;
        }
        ev.type = EV_EXPORTS;
        ev.exports.open = true;
        ev.exports.numbered = h->data.numbered;
        break;
    case ACT_CLOSE:
    case ACT_ABANDON:
        h->exports = false;
        h->gate = GATE_CLOSED;
        ev.type = EV_EXPORTS;
        ev.exports.numbered = h->data.numbered;
        if (h->hold_close && a->type == ACT_CLOSE)
            return;
        // With `hold_close` it has closed just before it heard of this, to which the test answers.
        ev.exports.abandoned = a->type == ACT_ABANDON && !h->hold_close;
        break;
    case ACT_EPOCH:
        assert_int_equal(h->gate, GATE_HELD);
        h->data.numbered++;
        h->epoch = a->epoch;
        assert_int_equal(h->data.numbered, a->epoch.first_seq);
        return;
    case ACT_BOUND:
        h->bound = a->seq;
        return;
    case ACT_CONSENT:
        h->consents++;
        return;
    case ACT_STREAM:
        h->streams = a->session;
        h->stream_from = a->seq;
        return;
    case ACT_WITHHOLD:
        h->withheld = a->seq != UINT64_MAX ? a->seq : 0;
        return;
    case ACT_ATTACH:
        h->attaches++;
        if (h->full_at_attach)
            host_push(h, &(struct end_event){.type = EV_OVERFLOW, .failed = {.text = "full", .draining = true}});
        h->data.held_from = h->data.numbered + 1;
        ev.type = EV_ATTACHED;
        ev.attached.seq = h->data.numbered + 1;
        ev.attached.session = a->session;
        h->place = ev.attached.seq;
        if (h->late_attach) { // the place of a session before is told behind this order
            h->late_attach = false;
            host_push(h, &(struct end_event){.type = EV_ATTACHED, .attached = {.seq = ev.attached.seq - 1, .session = a->session - 1}});
        }
        break;
    case ACT_SALVAGE:
        h->salvaged = a->objects;
        h->salvage_whole = a->state.salvage_whole;
        h->salvage_cause = a->state.salvage_cause;
        h->salvaged_epoch = a->state.salvaged.id;
        return;
    case ACT_FOLLOW:
        h->follows = a->session;
        if (!a->session)
            return;
        h->follow_asked++;
        if (h->fail_follows) {
            ev.type = EV_REPLICA;
            ev.replica.what = FOLLOW_FAILED;
            ev.replica.text = "the disk is gone";
            break;
        }
        h->data.replica_durable = h->data.applied = a->seq - 1;
        ev.type = EV_REPLICA;
        ev.replica.what = FOLLOW_READY;
        if (h->hold_follows)
            return;
        break;
    case ACT_FINISH:
        ev.type = EV_REPLICA;
        ev.replica.what = FOLLOW_FINISHED;
        ev.replica.seq = h->data.replica_durable;
        ev.replica.short_of_confirmed = h->short_finish;
        ev.replica.discards = h->discards;
        ev.replica.unknown = h->unknown;
        ev.replica.lost_records = 3;
        break;
    case ACT_DISCARD:
        // What it forgets is in the map, or in the state, durably.
        for (unsigned i = 0; i < 4; i++)
            assert_true(h->disk.map_void == 3 ||
                        (!h->unknown && !(h->lost_map[i / 2][i % 2] & ~h->durable_map[i / 2][i % 2])));
        h->discarded++;
        h->discards = false;
        ev.type = EV_REPLICA;
        ev.replica.what = FOLLOW_FINISHED;
        ev.replica.seq = h->data.replica_durable;
        ev.replica.lost_records = 3;
        break;
    case ACT_RESYNC:
        h->resyncs += a->objects != 0;
        h->resynced = a->objects;
        h->resync_ticket = a->ticket;
        if (h->resync_silent)
            return;
        for (unsigned i = 0; i < 2; i++) {
            if (!(a->objects >> i & 1))
                continue;
            h->data.numbered += 2;
            ev.type = EV_RESYNCED;
            ev.resynced.object = i;
            ev.resynced.seq = h->data.numbered;
            ev.resynced.ticket = a->ticket;
            host_push(h, &ev);
            struct host *to = host_peer(h);
            host_push(to, &(struct end_event){
                         .type = EV_REPLICA,
                         .replica = {.what = FOLLOW_END, .object = i, .seq = h->data.numbered}});
        }
        return;
    case ACT_VERIFY:
        h->verifying = a->objects;
        return;
    case ACT_DIFFERS:
        h->marked |= a->objects;
        for (unsigned i = 0; i < 2; i++) {
            if (a->objects >> i & 1)
                host_push(host_peer(h), &(struct end_event){
                                   .type = EV_REPLICA,
                                   .replica = {.what = FOLLOW_BEGIN, .object = i, .seq = ++h->data.numbered}});
        }
        return;
    case ACT_MAP_FILL:
        h->filled |= a->objects;
        h->record = a->ticket;
        h->fills++;
        for (unsigned i = 0; i < 2 && !h->hold_good; i++) {
            ev.type = EV_MAP;
            ev.map.what = MAP_EV_GOOD;
            ev.map.object = i;
            ev.map.ticket = a->ticket;
            if (a->objects >> i & 1)
                host_push(h, &ev);
        }
        return;
    case ACT_MAP_VOID:
        if (a->on)
            h->voided++;
        else
            h->refused++;
        h->record = a->ticket;
        return;
    case ACT_MAP_ARM:
        h->armed = a->session;
        h->armed_due = a->objects;
        return;
    case ACT_MAP_CLEAR:
        h->cleared |= a->objects;
        return;
    case ACT_LOST:
    case ACT_MAP_READ: {
        const uint64_t(*map)[2] = a->type == ACT_LOST ? h->lost_map : h->own_map;
        struct frame_map *piece = &h->pieces[h->piece_next++ % ARRAY_LEN(h->pieces)];
        unsigned at = a->seq / 64;
        *piece = (struct frame_map){
            .object = (uint16_t)a->object, .from = a->seq, .next = at == 0 ? 64 : FRAME_MAP_NONE};
        if (map[a->object][at]) {
            piece->first = a->seq;
            piece->count = 64;
            memcpy(piece->bits, &map[a->object][at], 8);
        }
        ev.type = EV_MAP;
        ev.map.what = MAP_EV_PIECE;
        ev.map.ticket = a->session;
        ev.map.piece = piece;
        break;
    }
    case ACT_MAP_ASIDE:
        return;
    case ACT_MAP_ADD: {
        uint64_t bits;
        if (a->on)
            return;
        memcpy(&bits, a->frame.map.bits, 8);
        h->added[a->frame.map.object][a->frame.map.first / 64] |= bits;
        return;
    }
    case ACT_MAP_SYNC:
        if (h->hold_map)
            return;
        memcpy(h->durable_map, h->added, sizeof(h->durable_map));
        ev.type = EV_MAP;
        ev.map.what = MAP_EV_DURABLE;
        ev.map.ticket = a->ticket;
        break;
    case ACT_ADDRESS:
        if (h->hold_address)
            return;
        ev.type = EV_ADDRESS;
        ev.address.on = a->on;
        ev.address.status = h->fail_off && !a->on ? -EIO : 0;
        if (ev.address.status == 0)
            h->address = a->on;
        assert_false(h->world->host[0].address && h->world->host[1].address && !h->world->two_serve);
        break;
    case ACT_PROBE:
        if (h->hold_probes)
            return;
        ev.type = EV_PROBED;
        ev.probed.ticket = a->ticket;
        ev.probed.vetoes = h->world->probe;
        ev.probed.text = h->world->probe == 0 ? NULL : "vetoed by the test";
        break;
    case ACT_APPS:
    case ACT_ADOPT:
        h->apps = a->type == ACT_ADOPT || a->on;
        if (h->hold_apps)
            return;
        ev.type = EV_APPS;
        ev.apps.running = h->apps;
        break;
    case ACT_DESTROY:
        h->apps = false;
        return;
    case ACT_FREEZE:
        if (h->frozen)
            return; // its guard has acted, and has said so
        // fall through
    case ACT_THAW:
        h->frozen = a->type == ACT_FREEZE;
        if (h->frozen)
            h->address = false;
        if (h->hold_guard)
            return;
        ev.type = EV_GUARD;
        ev.guard.frozen = h->frozen;
        break;
    case ACT_GOODBYE:
        h->goodbye = a->on;
        return;
    case ACT_DEADLINE:
        h->deadline = a->time_ns;
        return;
    case ACT_LEASE:
        h->lease = a->time_ns;
        return;
    case ACT_REPLY:
        h->reply_status = a->status;
        snprintf(h->reply, sizeof(h->reply), "%s", a->text);
        return;
    case ACT_HISTORY:
        if (h->world->verbose)
            printf("[%8.3f] %c %s\n", (double)h->world->now / 1e9, h->index ? 'S' : 'P', a->text);
        return;
    case ACT_EXIT:
        h->exited = true;
        return;
    default:
        return;
    }
    if (ev.type == EV_SAVED && h->hold_saves)
        return;
    host_push(h, &ev);
}

void host_step(struct host *h, const struct end_event *ev)
{
    struct world *w = h->world;
    if (w->waypoint[h->index])
        h->data.waypoint_ns = w->now;
    h->data.stream_ns = w->now;
    end_step(h->end, w->now, &h->data, ev);
    const struct end_action *a;
    while ((a = end_action(h->end)))
        act(h, a);
}

// The stream: what is numbered gets durable and applied at once while both ends follow a common
// session.
static void stream(struct world *w)
{
    if (!w->host[0].up || !w->host[1].up)
        return;
    for (int i = 0; i < 2; i++) {
        struct host *a = &w->host[i], *b = &w->host[1 - i];
        bool linked = !w->cut[0] && !w->cut[1];
        uint64_t last = a->withheld ? a->withheld - 1 : a->data.numbered;
        if (!linked || !a->streams || a->streams != b->follows || w->hold_stream)
            continue;
        if (a->data.durable < last) {
            a->data.durable = last;
            a->data.held_from = a->data.durable + 1;
            a->data.moved_ns = w->now;
            if (a->epoch.first_seq > b->data.replica_durable && a->epoch.first_seq <= last)
                host_push(b, &(struct end_event){.type = EV_REPLICA,
                                            .replica = {.what = FOLLOW_EPOCH,
                                                        .epoch = &a->epoch,
                                                        .seq = a->epoch.first_seq}});
            b->data.replica_durable = last;
        }
        if (!w->hold_apply)
            a->data.applied = b->data.applied = a->data.durable;
    }
}

void world_run(struct world *w, int64_t ns)
{
    int64_t until = w->now + ns;
    while (w->now < until) {
        bool idle = true;
        for (int i = 0; i < 2; i++) {
            struct host *h = &w->host[i];
            if (h->up && h->head < h->tail) {
                struct end_event ev = h->queue[h->head++ % ARRAY_LEN(h->queue)];
                host_step(h, &ev);
                idle = false;
            }
        }
        stream(w);
        if (!idle)
            continue;
        w->now += 10 * NS_PER_MS;
        for (int i = 0; i < 2; i++) {
            struct host *h = &w->host[i];
            if (h->up && end_deadline_ns(h->end) <= w->now) {
                host_push(h, &(struct end_event){.type = EV_TICK});
                h->ticks++;
            }
        }
    }
}

void world_boot(struct world *w, int i, struct end_start start)
{
    struct host *h = &w->host[i];
    struct end_config c = w->config;
    c.primary = i == 0;
    c.stops_on_split = i == 1;
    c.run = (uint64_t)w->now + 100 + (uint64_t)i;
    c.seed = c.run;
    h->end = end_new(&c);
    h->deadline = INT64_MAX;
    h->up = true;
    h->exited = h->goodbye = false;
    h->head = h->tail;
    h->data.waypoint_ns = 0;
    start.state = &h->disk;
    host_step(h, &(struct end_event){.type = EV_START, .start = start});
}

void world_end_daemon(struct world *w, int i)
{
    struct host *h = &w->host[i];
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    h->streams = h->follows = 0;
}

void world_crash(struct world *w, int i)
{
    struct host *h = &w->host[i];
    world_end_daemon(w, i);
    h->address = h->apps = h->exports = h->frozen = false;
}

struct end_view world_view(struct world *w, int i)
{
    struct end_view v;
    end_view(w->host[i].end, w->now, &v);
    return v;
}

int world_setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    w->now = 1000 * NS_PER_S;
    w->config = (struct end_config){
        .mode = END_SYNC,
        .beat_ns = 250 * NS_PER_MS,
        .timeout_ns = 2 * NS_PER_S,
        .decision_ns = 2 * NS_PER_S,
        .margin_ns = 300 * NS_PER_MS,
        .automatic = true,
        .has_waypoint = true,
        .volumes = 2,
    };
    w->verbose = getenv("VERBOSE") != NULL;
    for (int i = 0; i < 2; i++) {
        w->host[i].world = w;
        w->host[i].index = i;
        w->waypoint[i] = true;
    }
    w->probe = 0;
    *state = w;
    return 0;
}

int world_teardown(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 2; i++)
        end_free(w->host[i].end);
    free(w);
    return 0;
}

void world_command(struct world *w, int i, enum end_command c, unsigned flags)
{
    w->host[i].reply_status = 1;
    host_step(&w->host[i], &(struct end_event){.type = EV_COMMAND,
                                          .command = {.command = c, .flags = flags, .id = ++w->commands}});
}

void world_start_pair(struct world *w)
{
    world_boot(w, 0, (struct end_start){0});
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
}

void world_takeover(struct world *w, unsigned flags, uint32_t overrides)
{
    w->host[1].reply_status = 1;
    host_step(&w->host[1], &(struct end_event){.type = EV_COMMAND,
                                          .command = {.command = COMMAND_TAKEOVER, .flags = flags, .id = 1,
                                                      .overrides = overrides}});
    assert_int_equal(w->host[1].reply_status, 0);
    world_run(w, 300 * NS_PER_MS);
}
