// SPDX-License-Identifier: Apache-2.0
// common/end: two ends in a small world where every action succeeds at once and frames take no
// time, unless a test says otherwise. What goes wrong in between any two steps is the simulator's
// business; here the flow of each row of the design is shown once, by name.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/end/end.h"

struct host {
    struct world *world;
    int index;
    struct end *end;
    struct end_data data;
    struct end_state disk; // what survived
    bool up;
    bool address, apps, frozen, exports;
    enum end_gate gate;
    uint64_t bound, seq_reply;
    int reply_status;
    char reply[ACTION_TEXT_SIZE];
    int64_t deadline, lease;
    struct epoch epoch; // whose record the stream carries at its first_seq
    // Events to be delivered, oldest first.
    struct end_event queue[256];
    unsigned head, tail;
    struct frame frames[64];
    unsigned frame_next;
    bool exited;
    bool goodbye; // what its guard would say
    bool hold_saves;
    bool hold_opens, fail_opens, hold_handover, hold_address, fail_off;
    unsigned ticks, beats, asking; // heartbeats sent, and those that want an echo
    int64_t yes_ns;                // when it has sent the last yes
    unsigned opens, follow_asked, resyncs;
    bool fail_follows, hold_follows, resync_silent, hold_apps, short_finish, hold_probes, hold_gates, hold_guard, hold_close;
    bool lose_noes;         // heartbeats that say no are lost
    bool full_at_attach;    // the queue gets full before it hears that the peer is given another place
    bool number_when_met;   // it answers a write just behind its proposal
    bool overflow_when_met; // the peer's queue lets go of this end just before it hears this one's agreement
    uint64_t streams, follows; // session
    uint64_t withheld;         // what is not streamed yet begins here; 0: nothing
    uint64_t ticket;           // of the newest save
    unsigned consents;
    struct frame late; // the last heartbeat that was lost in a cut
    uint64_t gate_ticket; // of the newest order
    // The intent maps.
    uint64_t own_map[2][2], added[2][2]; // by volume, two pieces of 64 regions
    uint64_t filled, record, armed, armed_due, cleared;
    unsigned fills, attaches, voided, refused;
    bool hold_map, lose_pieces, hold_good;
    // What a takeover of this end finds to be discarded.
    bool discards, unknown;
    uint64_t lost_map[2][2], durable_map[2][2];
    unsigned discarded;
    uint64_t verifying, marked; // masks
    uint64_t resynced, resync_ticket; // mask of the last ACT_RESYNC
    struct frame_map pieces[8];
    unsigned piece_next;
    uint64_t salvaged, salvage_whole; // masks of volumes, of the last ACT_SALVAGE
    enum salvage_cause salvage_cause;
    uint64_t salvaged_epoch;
};

struct world {
    int64_t now;
    struct host host[2];
    bool cut[2];      // frames from host i are lost
    bool waypoint[2]; // answers host i
    uint32_t probe; // vetoes
    struct end_config config;
    uint64_t commands; // asked so far
    bool verbose;
    bool two_serve; // the public network is in halves: the address may be on both
    bool hold_stream, hold_apply; // nothing becomes durable on the passive end, or is applied there
};

static void push(struct host *h, const struct end_event *ev)
{
    assert_true(h->tail - h->head < ARRAY_LEN(h->queue));
    h->queue[h->tail++ % ARRAY_LEN(h->queue)] = *ev;
}

static struct host *other(struct host *h)
{
    return &h->world->host[1 - h->index];
}

static void send_frame(struct host *h, const struct frame *f)
{
    struct host *to = other(h);
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
    push(to, &(struct end_event){.type = EV_FRAME, .frame = {.path = 0, .frame = slot}});
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
            other(h)->data.held_from = 0;
            push(other(h), &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
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
        return;
    case ACT_WITHHOLD:
        h->withheld = a->seq != UINT64_MAX ? a->seq : 0;
        return;
    case ACT_ATTACH:
        h->attaches++;
        if (h->full_at_attach)
            push(h, &(struct end_event){.type = EV_OVERFLOW, .failed = {.text = "full", .draining = true}});
        h->data.held_from = h->data.numbered + 1;
        ev.type = EV_ATTACHED;
        ev.attached.seq = h->data.numbered + 1;
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
            push(h, &ev);
            struct host *to = other(h);
            push(to, &(struct end_event){
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
                push(other(h), &(struct end_event){
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
                push(h, &ev);
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
    push(h, &ev);
}

static void step(struct host *h, const struct end_event *ev)
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
                push(b, &(struct end_event){.type = EV_REPLICA,
                                            .replica = {.what = FOLLOW_EPOCH,
                                                        .epoch = &a->epoch,
                                                        .seq = a->epoch.first_seq}});
            b->data.replica_durable = last;
        }
        if (!w->hold_apply)
            a->data.applied = b->data.applied = a->data.durable;
    }
}

static void run(struct world *w, int64_t ns)
{
    int64_t until = w->now + ns;
    while (w->now < until) {
        bool idle = true;
        for (int i = 0; i < 2; i++) {
            struct host *h = &w->host[i];
            if (h->up && h->head < h->tail) {
                struct end_event ev = h->queue[h->head++ % ARRAY_LEN(h->queue)];
                step(h, &ev);
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
                push(h, &(struct end_event){.type = EV_TICK});
                h->ticks++;
            }
        }
    }
}

static void boot(struct world *w, int i, struct end_start start)
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
    step(h, &(struct end_event){.type = EV_START, .start = start});
}

static void crash(struct world *w, int i)
{
    struct host *h = &w->host[i];
    h->end = end_free(h->end);
    h->up = h->address = h->apps = h->exports = h->frozen = false;
    h->head = h->tail;
    h->streams = h->follows = 0;
}

static struct end_view view(struct world *w, int i)
{
    struct end_view v;
    end_view(w->host[i].end, w->now, &v);
    return v;
}

static int setup(void **state)
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

static int teardown(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 2; i++)
        end_free(w->host[i].end);
    free(w);
    return 0;
}

static void command(struct world *w, int i, enum end_command c, unsigned flags)
{
    w->host[i].reply_status = 1;
    step(&w->host[i], &(struct end_event){.type = EV_COMMAND,
                                          .command = {.command = c, .flags = flags, .id = ++w->commands}});
}

static void start_pair(struct world *w)
{
    boot(w, 0, (struct end_start){0});
    boot(w, 1, (struct end_start){0});
    run(w, 5 * NS_PER_S);
}

static void first_start_ends_paired_and_granted(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct end_view p = view(w, 0), s = view(w, 1);
    assert_int_equal(p.state, END_ACTIVE);
    assert_int_equal(s.state, END_PASSIVE);
    assert_true(p.synchronized && s.synchronized);
    assert_false(p.alone);
    assert_true(s.granted && s.promotable && p.granted);
    assert_true(w->host[0].address && w->host[0].apps && !w->host[1].address);
    assert_int_equal(w->host[0].gate, GATE_PAIRED);
    assert_int_equal(w->host[0].disk.alone, false);
    assert_int_equal(s.epoch.number, 1);
}

static void silence_leads_to_a_takeover(void **state)
{
    struct world *w = *state;
    start_pair(w);
    int64_t at = w->now;
    crash(w, 0);
    while (view(w, 1).state != END_ACTIVE && w->now < at + 10 * NS_PER_S)
        run(w, 10 * NS_PER_MS);
    assert_in_range(w->now - at, 1500 * NS_PER_MS, 2700 * NS_PER_MS);
    struct end_view s = view(w, 1);
    assert_int_equal(s.state, END_ACTIVE);
    assert_true(s.alone);
    assert_int_equal(s.epoch.reason, EPOCH_TAKEOVER);
    assert_true(w->host[1].address && w->host[1].apps);
    assert_int_equal(w->host[1].gate, GATE_ALONE);
}

static void returning_active_yields(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    boot(w, 0, (struct end_start){0});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_true(view(w, 0).promotable);
    assert_false(view(w, 1).alone);
    assert_int_equal(w->host[0].disk.role, ROLE_PASSIVE);
}

static void veto_keeps_the_passive_end_passive(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS;
    w->cut[0] = w->cut[1] = true;
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    assert_true(view(w, 1).stale_since_ns > 0);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(view(w, 0).alone);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
    // Healed: the stream resumes, and both are as before.
    w->cut[0] = w->cut[1] = false;
    w->probe = 0;
    run(w, 5 * NS_PER_S);
    assert_true(view(w, 1).promotable);
    assert_false(view(w, 0).alone);
    assert_int_equal(view(w, 0).epoch.reason, EPOCH_ALONE);
}

// The passive end was held up until its grant was over (a machine that did nothing for seconds). What the active end has
// done since it does not know: it may be alone, and acknowledge. So it does not take over, however long the silence lasts,
// and says why; an operator may, and the active end, once it is back, grants again.
static void grant_that_ran_out_unasked_is_no_takeover(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[1].hold_probes = true;
    crash(w, 0);
    run(w, 10 * NS_PER_S);
    w->host[1].hold_probes = false;
    run(w, 100 * NS_PER_S);
    struct end_view s = view(w, 1);
    assert_int_equal(s.state, END_PASSIVE);
    assert_true(s.stale_since_ns > 0 && !s.granted);
    assert_non_null(strstr(s.why, "the grant has run out"));
    assert_non_null(strstr(s.why, "pairctl takeover"));
    // The active end comes back: as before.
    boot(w, 0, (struct end_start){0});
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(view(w, 1).granted && view(w, 1).promotable);
    assert_int_equal(view(w, 1).stale_since_ns, 0);
    // And the operator's way.
    w->host[1].hold_probes = true;
    crash(w, 0);
    run(w, 10 * NS_PER_S);
    w->host[1].hold_probes = false;
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
}

// A disk that hangs holds the takeover up, for longer than the grant, too; it says what it waits for, is heard meanwhile,
// and goes on when the disk does.
static void takeover_says_what_it_waits_for(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[1].hold_saves = true;
    crash(w, 0);
    run(w, 20 * NS_PER_S);
    struct end_view s = view(w, 1);
    assert_int_equal(s.state, END_TAKING_OVER);
    assert_false(w->host[1].address);
    assert_non_null(strstr(s.why, "waits until its state is durable on this end's disk, for "));
    w->host[1].hold_saves = false;
    push(&w->host[1], &(struct end_event){.type = EV_SAVED, .saved.ticket = w->host[1].ticket});
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_true(w->host[1].address);
}

static void cut_off_active_steps_down_before_the_takeover(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    run(w, 10 * NS_PER_S); // act() asserts that the address is never on at both
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_true(w->host[0].frozen);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    unsigned ticks = w->host[0].ticks;
    run(w, NS_PER_S);
    assert_true(w->host[0].ticks - ticks < 60); // it waits: it does not turn round at the deadline that has passed
    w->cut[0] = w->cut[1] = false;
    w->waypoint[0] = true;
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_false(w->host[0].apps);
    assert_true(view(w, 0).promotable);
}

static void blink_of_everything_suspends_and_goes_on(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = w->waypoint[1] = false;
    w->probe = END_VETO_WAYPOINT;
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    w->cut[0] = w->cut[1] = false;
    w->waypoint[0] = w->waypoint[1] = true;
    w->probe = 0;
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    assert_false(w->host[0].frozen);
    assert_true(w->host[0].apps && w->host[0].address);
    assert_true(view(w, 1).promotable);
}

static void switch_goes_there_and_back(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 0, COMMAND_SWITCH, 0);
    assert_int_equal(w->host[0].reply_status, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 1).epoch.reason, EPOCH_SWITCH);
    assert_int_equal(view(w, 0).inconsistent, 0); // resumed, not mirrored
    assert_true(view(w, 0).promotable);
    // Typed at the passive end: passed on.
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(w->host[0].reply_status, 0);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
}

// A command for the other end is said until it is answered: it may be lost with a connection, or come to an end that does
// not know this run yet.
static void command_that_was_lost_is_said_again(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = true;
    command(w, 0, COMMAND_PAUSE, COMMAND_REPLAY);
    assert_int_equal(w->host[0].reply_status, 0);
    run(w, 500 * NS_PER_MS);
    assert_int_equal(view(w, 0).operation_result, STEP_PENDING);
    w->cut[0] = false;
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).operation_result, STEP_DONE);
    // The answer is lost: the other end answers again, and does nothing twice.
    w->cut[1] = true;
    command(w, 0, COMMAND_RESUME, COMMAND_REPLAY);
    run(w, 500 * NS_PER_MS);
    assert_int_equal(view(w, 0).operation_result, STEP_PENDING);
    w->cut[1] = false;
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).operation_result, STEP_DONE);
    assert_int_equal(view(w, 0).session, view(w, 1).session);
}

// The end has just been started again: it is heard, but its own run is not known there yet.
static void command_right_behind_a_restart_is_answered(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    boot(w, 0, (struct end_start){.same_boot = true,
                                  .queue_found = true,
                                  .queue_numbered = w->host[0].data.numbered,
                                  .queue_epoch = w->host[0].epoch.id,
                                  .echo_sent_ns = w->now});
    w->host[0].reply_status = 1;
    for (int i = 0; i < 500 && w->host[0].reply_status != 0; i++) {
        command(w, 0, COMMAND_PAUSE, COMMAND_REPLAY);
        run(w, 10 * NS_PER_MS);
    }
    assert_int_equal(w->host[0].reply_status, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).operation_result, STEP_DONE);
}

static void command_of_a_lost_session_ends(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS;
    w->cut[0] = w->cut[1] = true;
    command(w, 1, COMMAND_SWITCH, 0);
    assert_int_equal(w->host[1].reply_status, 0);
    run(w, w->config.timeout_ns + NS_PER_S);
    assert_int_equal(view(w, 1).operation_result, STEP_FAILED);
    assert_non_null(strstr(view(w, 1).operation_text, "is silent"));
    w->cut[0] = w->cut[1] = false;
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 1).operation_result, STEP_FAILED);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    // The other end is started anew before it has answered.
    command(w, 1, COMMAND_RESYNC, 0);
    assert_int_equal(w->host[1].reply_status, 0);
    crash(w, 0);
    boot(w, 0, (struct end_start){0});
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 1).operation_result, STEP_FAILED);
}

// A switchover that was typed at the passive end, and that the active one gives up on the way.
static void switch_that_is_given_up_fails_where_it_was_typed(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].hold_apps = true;
    command(w, 1, COMMAND_SWITCH, 0);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_HANDING_OVER);
    assert_int_equal(view(w, 1).operation_result, STEP_PENDING);
    step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    w->host[0].hold_apps = false;
    push(&w->host[0], &(struct end_event){.type = EV_APPS});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 1).operation_result, STEP_FAILED);
    assert_non_null(strstr(view(w, 1).operation_text, "given up"));
}

// Switching an address off may take as long as somebody holds the kernel's lock. Until it is off the guard has the end's last
// deadline: the peer may run into it, and have a grant; and the handover is not said.
static void switch_keeps_the_deadline_until_the_address_is_off(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].hold_address = true;
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_HANDED_OVER);
    assert_true(w->host[0].deadline != INT64_MAX);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    command(w, 1, COMMAND_TAKEOVER, 0); // nor may an operator have it meanwhile
    run(w, NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    w->host[0].hold_address = w->host[0].address = false;
    push(&w->host[0], &(struct end_event){.type = EV_ADDRESS});
    run(w, 5 * NS_PER_S);
    assert_int_equal(w->host[0].deadline, INT64_MAX);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
}

// Nor is an address off that could not be taken off, however often that is tried.
static void address_that_stays_keeps_the_deadline(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].fail_off = true;
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_HANDED_OVER);
    assert_true(w->host[0].address);
    assert_true(w->host[0].deadline < w->now); // by which the guard has acted
    assert_non_null(strstr(view(w, 0).why, "cannot be taken off"));
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    push(&w->host[0], &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    run(w, 2 * NS_PER_S);
    assert_true(w->host[0].deadline != INT64_MAX);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    w->host[0].fail_off = false;
    run(w, 5 * NS_PER_S);
    assert_int_equal(w->host[0].deadline, INT64_MAX);
    assert_false(w->host[0].address);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
}

// The guard may have failed to take it off: this end tries, too, and says so.
static void stepped_down_end_takes_its_address_off_itself(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].fail_off = w->host[0].hold_guard = true;
    push(&w->host[0], &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    run(w, 10 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_true(w->host[0].address);
    assert_non_null(strstr(view(w, 0).why, "cannot be taken off"));
    w->host[0].fail_off = false;
    run(w, 1100 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
    assert_null(strstr(view(w, 0).why, "cannot be taken off"));
    w->host[0].hold_guard = false;
    push(&w->host[0], &(struct end_event){.type = EV_GUARD}); // thawed
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(w->host[0].address);
}

// Behind `handed over` the outcome may take until the other end is back: no operator waits for that.
static void switch_to_an_end_that_dies_is_answered(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].hold_handover = true;
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_HANDED_OVER);
    assert_int_equal(view(w, 0).operation_result, STEP_PENDING);
    crash(w, 1);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_HANDED_OVER);
    assert_int_equal(view(w, 0).operation_result, STEP_FAILED);
    assert_non_null(strstr(view(w, 0).operation_text, "silent"));
}

// Nobody waits for ever, on either machine, for an end that cannot serve: what it lacks is said, and it goes on trying.
static void switch_to_an_end_that_cannot_serve_is_answered(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[1].fail_opens = true;
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 15 * NS_PER_S);
    struct end_view s = view(w, 1);
    assert_int_equal(s.state, END_TAKING_OVER);
    assert_non_null(strstr(s.why, "waits until the exports are open, for "));
    assert_non_null(strstr(s.why, "no room for the queue"));
    assert_int_equal(view(w, 0).operation_result, STEP_FAILED);
    assert_non_null(strstr(view(w, 0).operation_text, "does not serve yet"));
    w->host[1].fail_opens = false;
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_true(view(w, 0).promotable);
}

static void takeover_by_force_that_cannot_serve_is_answered(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    w->probe = END_VETO_ADDRESS;
    w->host[1].fail_opens = true;
    run(w, 10 * NS_PER_S);
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 1).operation_result, STEP_FAILED);
    assert_non_null(strstr(view(w, 1).operation_text, "no room for the queue"));
}

static void takeover_with_the_active_connected_is_refused(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 1, COMMAND_TAKEOVER, 0);
    assert_true(w->host[1].reply_status < 0);
    assert_non_null(strstr(w->host[1].reply, "switch"));
    assert_int_equal(view(w, 1).state, END_PASSIVE);
}

static void restart_of_the_active_daemon_goes_on(void **state)
{
    struct world *w = *state;
    start_pair(w);
    int64_t echo = w->now;
    uint64_t numbered = w->host[0].data.numbered;
    uint32_t epoch = view(w, 0).epoch.number;
    struct host *h = &w->host[0];
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    run(w, 300 * NS_PER_MS);
    boot(w, 0,
         (struct end_start){.same_boot = true,
                            .echo_sent_ns = echo,
                            .queue_found = true,
                            .queue_numbered = numbered});
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 0).epoch.number, epoch);
    assert_true(view(w, 1).promotable);
    assert_true(h->address);
}

// A flush that failed is final: what it has lost nobody knows. The pair stays as it is where the policy says so, but the
// next run sends that volume again before it is relied upon, whatever its store says.
static void a_failed_flush_is_not_forgotten_by_a_restart(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    step(h, &(struct end_event){.type = EV_STORE, .failed = {.text = "a flush", .objects = 2, .ignored = true}});
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(view(w, 1).promotable);
    assert_int_equal(h->disk.map_void, 2);
    assert_int_equal(h->disk.pending, 0);
    step(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_GOOD, .object = 1, .ticket = 0}});
    run(w, NS_PER_S);
    assert_int_equal(h->disk.map_void, 2);
    int64_t echo = w->now;
    unsigned resyncs = h->resyncs;
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    h->hold_good = h->resync_silent = true;
    run(w, 300 * NS_PER_MS);
    boot(w, 0, (struct end_start){.same_boot = true, .echo_sent_ns = echo, .queue_found = true,
                                  .queue_numbered = h->data.numbered});
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(h->filled & 2, 2);
    assert_int_equal(h->armed_due, 2); // nothing of it is cleared but behind its resync
    assert_int_equal(h->resyncs, resyncs + 1);
    assert_int_equal(h->resynced, 2);
    assert_false(view(w, 0).synchronized);
    assert_int_equal(h->disk.pending, 2);
}

// A switchover that the failed store asked for and the peer refuses: the exports are opened again under the same stream,
// whose resync was asked for long ago.
static void a_store_that_is_opened_again_is_resynced_in_the_same_reign(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    unsigned resyncs = h->resyncs, opens = h->opens;
    command(w, 1, COMMAND_PAUSE, COMMAND_REPLAY);
    run(w, NS_PER_S);
    step(h, &(struct end_event){.type = EV_STORE, .failed = {.text = "a flush", .objects = 2}});
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(h->opens, opens + 1);
    command(w, 1, COMMAND_RESUME, COMMAND_REPLAY);
    run(w, 6 * NS_PER_S);
    assert_int_equal(h->resyncs, resyncs + 1);
    assert_int_equal(h->resynced, 2);
    assert_int_not_equal(h->armed, 0); // what is settled leaves the map again
    assert_int_equal(h->disk.pending, 0);
    assert_int_equal(h->disk.map_void, 0);
    assert_true(view(w, 0).synchronized);
    assert_true(view(w, 1).promotable);
}

static void restart_of_the_passive_daemon_resumes(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    assert_true(view(w, 0).alone);
    w->host[0].data.numbered += 5;
    boot(w, 1, (struct end_start){0});
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).met, MEET_RESUME);
    assert_true(view(w, 1).promotable);
    assert_int_equal(view(w, 1).inconsistent, 0);
}

static void both_restarted_the_former_active_leads(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    crash(w, 1);
    w->now += NS_PER_S;
    boot(w, 1, (struct end_start){0});
    run(w, 5 * NS_PER_S);
    assert_int_not_equal(view(w, 1).state, END_ACTIVE); // a restarted end holds no grant
    boot(w, 0, (struct end_start){0});
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 0).epoch.reason, EPOCH_LOST_QUEUE);
    assert_true(view(w, 1).promotable);
}

static void alone_and_restarted_serves_again_by_itself(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    assert_true(w->host[0].disk.alone);
    crash(w, 0);
    boot(w, 0, (struct end_start){0});
    run(w, 1 * NS_PER_S);
    assert_int_not_equal(view(w, 0).state, END_ACTIVE);
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
}

static void paired_and_restarted_does_not_serve_by_itself(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 1);
    crash(w, 0);
    boot(w, 0, (struct end_start){0});
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_WAITING);
    command(w, 0, COMMAND_TAKEOVER, 0);
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_WAITING);
    assert_int_equal(view(w, 0).operation_result, STEP_FAILED);
    command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
}

static void strict_hands_the_role_to_the_passive_end(void **state)
{
    struct world *w = *state;
    w->config.mode = END_STRICT;
    start_pair(w);
    crash(w, 0);
    boot(w, 0, (struct end_start){0});
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
}

// Both have lost power. The passive end replays its safe queue from what was settled: the mark that began its mirror makes
// it inconsistent once more, until the one that ended it is replayed too. Were it met in between, the active end could not
// hand its role over, and would go on from a disk that has lost what the passive one has confirmed.
static void strict_waits_for_the_replay_of_a_mirrors_marks(void **state)
{
    struct world *w = *state;
    w->config.mode = END_STRICT;
    start_pair(w);
    struct host *s = &w->host[1];
    uint64_t durable = s->data.replica_durable;
    uint64_t settled = s->disk.position;
    assert_true(durable > settled + 1);
    crash(w, 0);
    crash(w, 1);
    s->data.applied = settled;
    boot(w, 1, (struct end_start){.replica_durable = durable});
    step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_BEGIN, .object = 0, .seq = settled + 1}});
    assert_int_equal(view(w, 1).inconsistent, 1);
    boot(w, 0, (struct end_start){0});
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_WAITING);
    assert_int_equal(view(w, 1).state, END_WAITING);
    step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = 0, .seq = durable}});
    s->data.applied = durable;
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
}

// In the other modes, too, nobody is met with facts that are about to change.
static void replica_in_the_midst_of_its_marks_is_not_met(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *s = &w->host[1];
    uint64_t durable = s->data.replica_durable, settled = s->disk.position, session = view(w, 0).session;
    crash(w, 1);
    s->data.applied = settled;
    boot(w, 1, (struct end_start){.replica_durable = durable});
    step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_BEGIN, .object = 1, .seq = settled + 1}});
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 1).session, 0);
    assert_int_equal(view(w, 1).state, END_WAITING);
    step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = 1, .seq = durable}});
    s->data.applied = durable;
    run(w, 6 * NS_PER_S);
    assert_true(view(w, 1).session > session);
    assert_true(view(w, 1).promotable);
}

static void both_alone_is_a_split(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 1);
    run(w, 6 * NS_PER_S); // P goes alone: its own epoch
    crash(w, 0);
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    boot(w, 0, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SPLIT);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 1).met, MEET_SPLIT);
}

// P was alone when it stopped, S was forced to serve without it: P in "split", S active.
static void become_split(struct world *w)
{
    start_pair(w);
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    crash(w, 0);
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 2 * NS_PER_S);
    boot(w, 0, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SPLIT);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
}

// Both serve when they meet again: S stops.
static void become_split_while_both_serve(struct world *w)
{
    start_pair(w);
    w->two_serve = true;
    w->cut[0] = w->cut[1] = true;
    run(w, 6 * NS_PER_S);
    if (view(w, 1).state != END_ACTIVE)
        command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 2 * NS_PER_S);
    assert_true(view(w, 0).state == END_ACTIVE && view(w, 1).state == END_ACTIVE);
    w->cut[0] = w->cut[1] = false;
    run(w, 3 * NS_PER_S);
    w->two_serve = false;
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 1).state, END_SPLIT);
    assert_true(w->host[0].address && !w->host[1].address);
}

static void assert_resolved(struct world *w, int kept, uint64_t given_up)
{
    struct host *k = &w->host[kept], *l = &w->host[1 - kept];
    const struct epoch *resolved = NULL;
    assert_int_equal(view(w, kept).state, END_ACTIVE);
    assert_false(view(w, kept).alone);
    assert_true(k->address && !l->address);
    assert_int_equal(view(w, 1 - kept).state, END_PASSIVE);
    assert_int_equal(view(w, 1 - kept).inconsistent, 0);
    for (uint32_t i = 0; i < k->disk.history.count; i++)
        if (k->disk.history.epochs[i].reason == EPOCH_RESOLVE)
            resolved = &k->disk.history.epochs[i];
    assert_non_null(resolved);
    assert_int_equal(resolved->parents, 2);
    assert_int_equal(resolved->parent[1].id, given_up);
    assert_true(history_contains(&k->disk.history, given_up));
    // What was given up was kept first, and nothing of it is left to be kept.
    assert_int_equal(l->salvaged, 3);
    assert_int_equal(l->salvage_cause, SALVAGE_RESOLVED);
    assert_int_equal(l->salvaged_epoch, given_up);
    assert_int_equal(l->disk.salvage, 0);
    assert_int_equal(k->salvaged, 0);
}

// An end that serves alone goes on answering while its facts are on their way. What it has answered since it told its position
// is not on the line of the other one, which an operator has made active meanwhile.
static void what_is_answered_alone_during_a_meeting_makes_a_split(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    h->resync_silent = true; // alone for as long as that goes on
    start_pair(w);
    assert_true(view(w, 0).alone);
    h->data.numbered += 5;
    run(w, NS_PER_S);
    w->two_serve = w->cut[0] = w->cut[1] = true;
    run(w, 3 * NS_PER_S);
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE | COMMAND_INCONSISTENT);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    h->number_when_met = true;
    w->cut[0] = w->cut[1] = false;
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).met, MEET_SPLIT);
    assert_int_equal(view(w, 0).state, END_SPLIT);
    assert_int_equal(h->disk.role, ROLE_ACTIVE);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
}

static void resolve_keeps_the_end_that_serves(void **state)
{
    struct world *w = *state;
    become_split(w);
    uint64_t given_up = view(w, 0).epoch.id;
    command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY); // typed at the one that is not kept
    assert_int_equal(w->host[0].reply_status, 0);
    run(w, 5 * NS_PER_S);
    assert_resolved(w, 1, given_up);
    assert_int_equal(view(w, 0).operation_result, STEP_DONE);
    assert_int_equal(view(w, 1).operation_result, STEP_DONE);
}

static void resolve_keeps_the_end_that_had_stopped(void **state)
{
    struct world *w = *state;
    become_split(w);
    uint64_t given_up = view(w, 1).epoch.id;
    command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    run(w, 5 * NS_PER_S); // the address is never on both: the world looks
    assert_resolved(w, 0, given_up);
    assert_int_equal(view(w, 0).operation_result, STEP_DONE);
}

static void resolve_after_both_have_served(void **state)
{
    for (int kept = 0; kept < 2; kept++) {
        struct world *w = *state;
        become_split_while_both_serve(w);
        uint64_t given_up = view(w, 1 - kept).epoch.id;
        command(w, 1, COMMAND_RESOLVE, kept ? COMMAND_KEEP_SECONDARY : COMMAND_KEEP_PRIMARY);
        run(w, 5 * NS_PER_S);
        assert_resolved(w, kept, given_up);
        assert_int_equal(view(w, 1).operation_result, STEP_DONE);
        teardown(state);
        setup(state);
    }
}

static void resolve_is_refused_without_a_split(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    assert_true(w->host[0].reply_status < 0);
    command(w, 0, COMMAND_RESOLVE, 0);
    assert_true(w->host[0].reply_status < 0);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
}

// Both have to take part: one that is not heard might serve.
static void resolve_is_refused_while_one_is_away(void **state)
{
    struct world *w = *state;
    become_split(w);
    w->cut[0] = w->cut[1] = true;
    run(w, 3 * NS_PER_S);
    for (int i = 0; i < 2; i++) {
        command(w, i, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
        assert_true(w->host[i].reply_status < 0);
    }
    w->cut[0] = w->cut[1] = false;
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SPLIT);
    uint64_t given_up = view(w, 1).epoch.id;
    command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    run(w, 5 * NS_PER_S);
    assert_resolved(w, 0, given_up);
}

// A crash of the end that is kept, before its epoch is durable: split as before, and nobody has followed anybody.
static void resolve_that_was_cut_off_changes_nothing(void **state)
{
    struct world *w = *state;
    become_split(w);
    uint64_t p = view(w, 0).epoch.id, s = view(w, 1).epoch.id;
    struct end_state before = w->host[0].disk;
    w->host[0].hold_saves = true;
    command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    run(w, 2 * NS_PER_S);
    assert_false(w->host[0].address || w->host[1].address); // S has stopped, P waits for its save
    crash(w, 0);
    w->host[0].disk = before; // which is lost
    w->host[0].hold_saves = false;
    boot(w, 0, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).met, MEET_SPLIT);
    assert_int_equal(view(w, 0).epoch.id, p);
    assert_int_equal(w->host[1].salvaged, 0);
    assert_true(history_contains(&w->host[1].disk.history, s));
}

// A crash of either end behind the epoch: the one that is kept is ahead, whenever they meet.
static void resolve_goes_on_after_a_crash_of_both(void **state)
{
    struct world *w = *state;
    become_split(w);
    uint64_t given_up = view(w, 0).epoch.id;
    w->cut[0] = w->cut[1] = false;
    command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    while (!history_contains(&w->host[1].disk.history, given_up))
        run(w, 10 * NS_PER_MS);
    crash(w, 0);
    crash(w, 1);
    run(w, NS_PER_S);
    boot(w, 0, (struct end_start){0});
    boot(w, 1, (struct end_start){0});
    run(w, 10 * NS_PER_S);
    assert_resolved(w, 1, given_up);
}

// An end whose state is damaged. Kept or not: what the other one knows is the line that goes on.
static void resolve_after_damage(void **state)
{
    for (int kept = 0; kept < 2; kept++) {
        struct world *w = *state;
        start_pair(w);
        crash(w, 0);
        run(w, 5 * NS_PER_S);
        assert_int_equal(view(w, 1).state, END_ACTIVE);
        uint64_t of_s = view(w, 1).epoch.id;
        w->host[0].disk = (struct end_state){0};
        boot(w, 0, (struct end_start){.state_unreadable = true});
        run(w, 3 * NS_PER_S);
        assert_int_equal(view(w, 0).state, END_SPLIT);
        assert_int_equal(view(w, 0).met, MEET_UNREADABLE);
        command(w, 0, COMMAND_RESOLVE, kept ? COMMAND_KEEP_SECONDARY : COMMAND_KEEP_PRIMARY);
        assert_int_equal(w->host[0].reply_status, 0);
        run(w, 8 * NS_PER_S);
        struct host *l = &w->host[1 - kept];
        assert_int_equal(view(w, kept).state, END_ACTIVE);
        assert_int_equal(view(w, 1 - kept).state, END_PASSIVE);
        assert_true(history_contains(&w->host[kept].disk.history, of_s));
        assert_int_equal(view(w, 1 - kept).inconsistent, 0);
        assert_int_equal(l->salvaged, 3);
        assert_int_equal(l->salvage_whole, 3); // what either had of the other's is not known
        assert_int_equal(l->disk.salvage, 0);
        crash(w, 0);
        crash(w, 1);
        teardown(state);
        setup(state);
    }
}

// There is nothing to keep on an empty end: were the damaged one to forget what it was, both would be empty, and the Primary
// would lead, whoever was named. Who means it makes the empty end serve first.
static void empty_end_beside_a_damaged_one_is_not_kept(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    crash(w, 1);
    w->host[0].disk = w->host[1].disk = (struct end_state){0};
    boot(w, 0, (struct end_start){.state_unreadable = true});
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).met, MEET_UNREADABLE);
    command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    assert_true(w->host[1].reply_status < 0);
    assert_non_null(strstr(w->host[1].reply, "empty"));
    run(w, 8 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SPLIT);
    assert_int_equal(view(w, 0).met, MEET_UNREADABLE);
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 3 * NS_PER_S);
    command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    assert_int_equal(w->host[1].reply_status, 0);
    run(w, 8 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 0).inconsistent, 0);
    assert_int_equal(w->host[0].salvaged, 3);
}

// An end that has forgotten what it was salvages everything whenever it crashes on the way: its old queue, with marks of
// resyncs that it has been through, is not looked at any more.
static void what_was_forgotten_is_salvaged_whenever_it_crashes(void **state)
{
    for (int ms = 0; ms < 700; ms += 25) {
        struct world *w = *state;
        start_pair(w);
        crash(w, 1);
        run(w, 5 * NS_PER_S);
        w->host[1].disk = (struct end_state){0};
        boot(w, 1, (struct end_start){.state_unreadable = true});
        run(w, 3 * NS_PER_S);
        assert_int_equal(view(w, 1).met, MEET_UNREADABLE);
        w->host[1].salvaged = w->host[1].salvage_whole = 0;
        command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
        run(w, ms * NS_PER_MS);
        bool forgot = w->host[1].disk.salvage != 0;
        crash(w, 1);
        if (forgot)
            w->host[1].salvaged = w->host[1].salvage_whole = 0;
        boot(w, 1, (struct end_start){.state_unreadable = !forgot});
        // Of a queue that was never opened nothing is heard; where it is, the marks of a former stream come again.
        if (w->host[1].disk.role == ROLE_PASSIVE && w->host[1].disk.salvage)
            push(&w->host[1], &(struct end_event){.type = EV_REPLICA,
                                                  .replica = {.what = FOLLOW_END, .seq = w->host[1].disk.position}});
        run(w, 12 * NS_PER_S);
        if (view(w, 1).state == END_SPLIT) { // it had not heard of the operator's word
            assert_false(forgot);
            command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
            run(w, 8 * NS_PER_S);
        }
        assert_int_equal(view(w, 1).state, END_PASSIVE);
        assert_int_equal(w->host[1].salvaged, 3);
        assert_int_equal(w->host[1].salvage_whole, 3);
        assert_int_equal(w->host[1].disk.salvage, 0);
        teardown(state);
        setup(state);
    }
}

// A map that is damaged in the middle of a salvage says more than what this end had alone: the salvage says that it is in doubt,
// in this run and those behind it. Where everything is kept anyway, and where there is no salvage, nothing depends on the map.
static void salvage_with_a_damaged_map_is_in_doubt(void **state)
{
    struct end_state st = {.role = ROLE_PASSIVE, .salvage = 3, .salvage_cause = SALVAGE_YIELDED, .salvage_whole = 2};
    assert_false(end_doubt_salvage(&st, 2));
    assert_false(end_doubt_salvage(&st, 4));
    assert_int_equal(st.salvage_cause, SALVAGE_YIELDED);
    assert_true(end_doubt_salvage(&st, 1));
    assert_int_equal(st.salvage_cause, SALVAGE_DOUBTFUL);
    assert_false(end_doubt_salvage(&st, 1));
    st = (struct end_state){.role = ROLE_PASSIVE, .salvage = 1, .salvage_cause = SALVAGE_RESOLVED, .map_void = 1};
    assert_true(end_doubt_salvage(&st, 0));
    st = (struct end_state){.role = ROLE_ACTIVE};
    assert_false(end_doubt_salvage(&st, 1));

    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    run(w, 6 * NS_PER_S); // S takes over
    crash(w, 1);
    w->host[0].disk.role = ROLE_PASSIVE; // it had begun to follow
    w->host[0].disk.salvage = w->host[0].disk.inconsistent = 3;
    w->host[0].disk.salvage_cause = SALVAGE_YIELDED;
    w->host[0].disk.salvaged = *history_current(&w->host[0].disk.history);
    boot(w, 0, (struct end_start){.maps_damaged = 1});
    run(w, NS_PER_S);
    assert_int_equal(w->host[0].disk.salvage_cause, SALVAGE_DOUBTFUL);
}

// Until the operator has decided, a damaged state stays what it is: what the end does meanwhile must not make it one that
// the next run reads as empty.
static void damaged_state_stays_so_until_it_is_decided(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 1);
    run(w, 5 * NS_PER_S);
    uint64_t ticket = w->host[1].ticket;
    boot(w, 1, (struct end_start){.state_unreadable = true});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_SPLIT);
    step(&w->host[1], &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_FAILED, .status = -EIO}});
    run(w, 3 * NS_PER_S);
    assert_int_equal(w->host[1].ticket, ticket);
    command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    run(w, 8 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    assert_true(w->host[1].ticket > ticket);
}

// In a split each end's map stays what it has written on its own, which is what goes to the salvage of the one that is
// given up; but anything does where the other one has lost something that its peer may have.
static void salvage_is_of_what_was_written_alone(void **state)
{
    for (int loses = 0; loses < 2; loses++) {
        struct world *w = *state;
        start_pair(w);
        crash(w, 1);
        run(w, 6 * NS_PER_S);
        crash(w, 0);
        boot(w, 1, (struct end_start){0});
        run(w, 3 * NS_PER_S);
        command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
        run(w, 2 * NS_PER_S);
        w->host[0].own_map[0][0] = 5;
        w->host[1].own_map[0][0] = 9;
        boot(w, 0, (struct end_start){.same_boot = true});
        run(w, 3 * NS_PER_S);
        assert_int_equal(view(w, 0).state, END_SPLIT);
        assert_int_equal(w->host[0].added[0][0], 0);
        assert_int_equal(w->host[1].added[0][0], 0);
        if (loses)
            push(&w->host[1], &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_UNDEFINED, .object = 1}});
        run(w, NS_PER_S);
        assert_int_equal(w->host[1].disk.torn, loses ? 2 : 0);
        command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
        run(w, 5 * NS_PER_S);
        assert_int_equal(w->host[0].salvaged, 3);
        assert_int_equal(w->host[0].salvage_whole, loses ? 2 : 0);
        assert_int_equal(w->host[0].disk.salvage_whole, 0);
        assert_int_equal(w->host[1].added[0][0], 5); // for the resync
        assert_int_equal(w->host[1].disk.torn, 0);   // synchronized
        teardown(state);
        setup(state);
    }
}

// What a power loss may have taken from the store of an active end is told, also by a later run, until it is mirrored.
static void power_loss_of_an_active_end_is_remembered(void **state)
{
    struct world *w = *state;
    start_pair(w);
    assert_int_equal(w->host[0].disk.torn, 0);
    crash(w, 0);
    w->cut[0] = w->cut[1] = true;
    boot(w, 0, (struct end_start){.same_boot = true});
    run(w, NS_PER_S);
    assert_int_equal(w->host[0].disk.torn, 0);
    crash(w, 0);
    boot(w, 0, (struct end_start){0});
    run(w, NS_PER_S);
    assert_int_equal(w->host[0].disk.torn, 3);
    crash(w, 0);
    boot(w, 0, (struct end_start){.same_boot = true});
    run(w, NS_PER_S);
    assert_int_equal(w->host[0].disk.torn, 3);
}

// An old active end that yields salvages; one that has handed over in order does not.
static void only_who_held_something_alone_salvages(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[0].salvaged, 0);
    uint64_t given_up = view(w, 1).epoch.id;
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    assert_int_equal(w->host[1].salvaged, 3);
    assert_int_equal(w->host[1].salvage_cause, SALVAGE_YIELDED);
    assert_int_equal(w->host[1].salvaged_epoch, given_up);
}

// An end that was stopped in order knows its position exactly, but has written alone as well before.
static void who_was_stopped_in_order_salvages_what_it_wrote_alone(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    assert_true(view(w, 0).alone);
    uint64_t given_up = view(w, 0).epoch.id;
    w->host[0].data.numbered += 5;
    command(w, 0, COMMAND_STOP, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_STOPPED);
    crash(w, 0);
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    boot(w, 0, (struct end_start){0});
    run(w, NS_PER_S);
    command(w, 0, COMMAND_RESUME, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SPLIT);
    assert_true(w->host[0].disk.clean);
    command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    run(w, 8 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(w->host[0].salvaged, 3);
    assert_int_equal(w->host[0].salvage_whole, 0);
    assert_int_equal(w->host[0].salvage_cause, SALVAGE_RESOLVED);
    assert_int_equal(w->host[0].salvaged_epoch, given_up);
}

// While the salvage of the passive end is full nothing is streamed to it; then it goes on by itself.
static void full_salvage_stops_the_stream(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    w->host[0].data.salvage_full = true;
    boot(w, 0, (struct end_start){0});
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_non_null(strstr(view(w, 0).why, "salvage"));
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_non_null(strstr(view(w, 1).why, "salvage"));
    assert_true(view(w, 1).alone);
    assert_int_equal(w->host[1].streams, 0);
    w->host[0].data.salvage_full = false;
    run(w, 3 * NS_PER_S);
    assert_true(w->host[1].streams != 0);
    assert_false(view(w, 1).alone);
}

// It is restarted then: what it holds of the resync is replayed only when there is room, and before that it cannot meet.
// Both say what they wait for.
static void full_salvage_is_said_behind_a_restart(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    struct host *h = &w->host[0];
    uint64_t held = h->data.replica_durable;
    h->disk.role = ROLE_PASSIVE;
    h->disk.alone = false;
    h->disk.inconsistent = h->disk.salvage = 3;
    h->disk.salvage_cause = SALVAGE_YIELDED;
    h->disk.salvaged = *history_current(&h->disk.history);
    h->data.salvage_full = true;
    h->data.replica_durable = held + 40;
    boot(w, 0, (struct end_start){.replica_durable = held + 40});
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).session, 0);
    assert_non_null(strstr(view(w, 0).why, "queues.salvage"));
    assert_non_null(strstr(view(w, 1).why, "salvage"));
    assert_true(view(w, 1).alone);
    h->data.salvage_full = false;
    h->data.applied = held + 40;
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_false(view(w, 1).alone);
}

// An end whose state is lost makes both wait; what the operator then makes active is followed.
static void split_end_follows_when_it_holds_nothing_of_its_own(void **state)
{
    struct world *w = *state;
    boot(w, 1, (struct end_start){0});
    boot(w, 0, (struct end_start){.state_unreadable = true});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SPLIT);
    assert_int_equal(view(w, 1).state, END_SPLIT);
    command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    assert_true(view(w, 1).promotable);
}

static void goodbye_lets_the_active_go_alone_at_once(void **state)
{
    struct world *w = *state;
    start_pair(w);
    push(&w->host[1], &(struct end_event){.type = EV_TERMINATE});
    run(w, 100 * NS_PER_MS);
    assert_true(w->host[1].exited);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// The guard's word for a daemon that was killed.
static void goodbye_of_the_guard_lets_the_active_go_alone_at_once(void **state)
{
    struct world *w = *state;
    start_pair(w);
    assert_true(w->host[1].goodbye && !w->host[0].goodbye);
    uint64_t run_of_peer = view(w, 0).peer_run;
    push(&w->host[0], &(struct end_event){.type = EV_PEER_GONE, .gone.run = run_of_peer + 1}); // of another run
    run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[0].gate, GATE_PAIRED);
    crash(w, 1);
    push(&w->host[0], &(struct end_event){.type = EV_PEER_GONE, .gone.run = run_of_peer});
    run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// What a run that has ended had sent, and what arrives behind its goodbye, counts no more.
static void late_frame_behind_the_goodbye_counts_for_nothing(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[1] = true;
    run(w, 500 * NS_PER_MS);
    static struct frame late;
    late = w->host[1].late;
    uint64_t run_of_peer = view(w, 0).peer_run;
    assert_int_equal(late.run, run_of_peer);
    crash(w, 1);
    push(&w->host[0], &(struct end_event){.type = EV_PEER_GONE, .gone.run = run_of_peer});
    run(w, 10 * NS_PER_MS);
    push(&w->host[0], &(struct end_event){.type = EV_FRAME, .frame = {.path = 0, .frame = &late}});
    run(w, 100 * NS_PER_MS);
    assert_false(view(w, 0).connected);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
    w->cut[1] = false;
    boot(w, 1, (struct end_start){0});
    run(w, 5 * NS_PER_S);
    assert_true(view(w, 1).granted);
}

// A restarted active end may hear a late frame of an old run first, and its late goodbye: another one holds the grant.
static void goodbye_of_a_run_that_never_echoed_counts_for_nothing(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    start_pair(w);
    struct end_start start = {.same_boot = true,
                              .echo_sent_ns = view(w, 0).echo_sent_ns,
                              .queue_found = true,
                              .queue_numbered = h->data.numbered,
                              .queue_epoch = h->epoch.id};
    h->end = end_free(h->end);
    h->up = false;
    w->cut[0] = w->cut[1] = true;
    boot(w, 0, start);
    struct frame old = {.type = FRAME_BEAT, .run = 0x777, .beat = {.number = 1, .sent_ns = w->now - NS_PER_MS}};
    step(h, &(struct end_event){.type = EV_FRAME, .frame = {.frame = &old}});
    assert_int_equal(view(w, 0).peer_run, 0x777);
    push(h, &(struct end_event){.type = EV_PEER_GONE, .gone.run = 0x777});
    run(w, 100 * NS_PER_MS);
    assert_true(view(w, 1).granted && view(w, 0).granted);
    assert_int_not_equal(h->gate, GATE_ALONE);
}

// From the other side: whoever has taken over is nobody's to say goodbye for.
static void goodbye_is_destroyed_before_the_epoch(void **state)
{
    struct world *w = *state;
    start_pair(w);
    assert_true(w->host[1].goodbye);
    crash(w, 0);
    run(w, 10 * NS_PER_S); // act() holds every save against it
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_false(w->host[1].goodbye);
}

static void nothing_is_answered_alone_before_it_is_durable(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].hold_saves = true;
    crash(w, 1);
    run(w, 10 * NS_PER_S);
    assert_int_not_equal(w->host[0].gate, GATE_ALONE);
}

// On the way to that it is neither alone nor paired, though it hears the peer all the time; and the
// peer knows.
static void going_alone_is_not_paired(void **state)
{
    struct world *w = *state;
    start_pair(w);
    assert_true(view(w, 0).paired && view(w, 1).paired);
    w->host[0].hold_saves = true;
    command(w, 0, COMMAND_PAUSE, 0);
    run(w, 3 * NS_PER_S);
    assert_true(view(w, 0).connected && view(w, 1).connected);
    assert_false(view(w, 0).alone);
    assert_false(view(w, 0).paired || view(w, 1).paired);
    w->host[0].hold_saves = false;
    step(&w->host[0],
         &(struct end_event){.type = EV_SAVED, .saved = {.ticket = w->host[0].ticket}});
    run(w, 1 * NS_PER_S);
    assert_true(view(w, 0).alone);
    command(w, 0, COMMAND_RESUME, 0);
    run(w, 3 * NS_PER_S);
    assert_true(view(w, 0).paired && view(w, 1).paired);
    crash(w, 1);
    run(w, 3 * NS_PER_S);
    assert_false(view(w, 0).paired);
}

static void stop_ends_protection_in_order(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 0, COMMAND_STOP, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_STOPPED);
    assert_false(w->host[0].apps || w->host[0].address || w->host[0].exports);
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    command(w, 0, COMMAND_RESUME, 0);
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(view(w, 1).promotable);
}

// DESIGN §6: "an active that hears its peer is taking over steps down at once".
static void active_that_hears_of_a_takeover_steps_down(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct end_view s = view(w, 1);
    struct frame f = {.type = FRAME_BEAT,
                      .flags = FRAME_TAKING_OVER,
                      .run = view(w, 0).peer_run,
                      .to_run = s.peer_run,
                      .session = s.session,
                      .beat = {.number = 1000000, .sent_ns = w->now}};
    step(&w->host[0], &(struct end_event){.type = EV_FRAME, .frame = {.frame = &f}});
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
}

// The echo that the former run has kept counts until the new run has one of its own, waypoint or not.
static void restart_without_a_waypoint_keeps_the_lease(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    int64_t echo = w->now;
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    w->waypoint[0] = false;
    run(w, 300 * NS_PER_MS);
    boot(w, 0, (struct end_start){.same_boot = true, .echo_sent_ns = echo, .queue_found = true,
                                  .queue_numbered = h->data.numbered});
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(h->address && !h->frozen);
}

// What a waiting end hears of its peer is no lease: the peer may be the one that has taken over.
static void echo_heard_while_waiting_is_not_kept(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    struct end_start late = {.same_boot = true,
                             .echo_sent_ns = view(w, 0).echo_sent_ns,
                             .queue_found = true,
                             .queue_numbered = h->data.numbered};
    h->end = end_free(h->end);
    h->up = h->address = false;
    h->head = h->tail;
    w->host[1].hold_saves = true;
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_TAKING_OVER); // and in no state to meet anybody
    boot(w, 0, late);
    run(w, NS_PER_S);
    assert_true(view(w, 0).connected);
    assert_int_equal(view(w, 0).state, END_WAITING);
    // Killed again, before they have met; the daemon keeps the newest echo that it was told of.
    late.echo_sent_ns = MAX(late.echo_sent_ns, view(w, 0).echo_sent_ns);
    h->end = end_free(h->end);
    h->up = false;
    boot(w, 0, late);
    assert_int_equal(view(w, 0).state, END_WAITING);
    assert_false(h->address);
}

// An end that has opened its epoch, and is stopped before it serves, has nothing to say good bye for: whoever is
// suspended must not take that for "holds no grant".
static void no_goodbye_once_the_epoch_is_opened(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    w->host[1].hold_opens = true;
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_int_equal(view(w, 1).state, END_TAKING_OVER);
    assert_true(w->host[1].address);
    w->cut[0] = w->cut[1] = false;
    w->waypoint[0] = true;
    push(&w->host[1], &(struct end_event){.type = EV_TERMINATE});
    run(w, 4 * NS_PER_S);
    assert_true(w->host[1].exited);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
}

// Nor has a later run of it: that one holds no grant, but a former one has used it.
static void no_goodbye_of_an_end_that_was_active(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    crash(w, 1);
    boot(w, 1, (struct end_start){0});
    uint64_t run_of_peer = (uint64_t)w->now + 101;
    assert_int_equal(view(w, 1).state, END_WAITING);
    w->cut[0] = w->cut[1] = false;
    w->waypoint[0] = true;
    while (view(w, 0).peer_run != run_of_peer || !view(w, 0).connected)
        run(w, NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_SUSPENDED); // they have not met yet
    assert_false(w->host[1].goodbye);
    push(&w->host[1], &(struct end_event){.type = EV_TERMINATE});
    run(w, 4 * NS_PER_S);
    assert_true(w->host[1].exited);
    assert_int_not_equal(view(w, 0).state, END_ACTIVE);
    assert_false(w->host[0].address);
}

// After `stop` the peer may have been told to take over: the stopped end asks it, also in the same boot.
// The daemon of host i ends, and its machine lives on.
static void end_daemon(struct world *w, int i)
{
    struct host *h = &w->host[i];
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    h->streams = h->follows = 0;
}

static void stopped_end_stays_stopped_until_it_is_resumed(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 0, COMMAND_STOP, 0);
    run(w, 3 * NS_PER_S);
    for (int i = 0; i < 2; i++)
        end_daemon(w, i);
    boot(w, 0, (struct end_start){.same_boot = true, .queue_found = true,
                                  .queue_numbered = w->host[0].data.numbered});
    boot(w, 1, (struct end_start){.same_boot = true});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_STOPPED);
    assert_false(w->host[0].address || w->host[0].apps);
    assert_non_null(strstr(view(w, 1).why, "stopped"));
    crash(w, 0); // another boot
    boot(w, 0, (struct end_start){0});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_STOPPED);
    // From the other machine.
    command(w, 1, COMMAND_RESUME, 0);
    assert_int_equal(w->host[1].reply_status, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(view(w, 1).promotable);
}

// Both ends are equal behind a stop: nothing is compared, however it is started again.
static void resume_after_a_stop_needs_no_resync(void **state)
{
    for (int restarted = 0; restarted < 2; restarted++) {
        teardown(state);
        setup(state);
        struct world *w = *state;
        start_pair(w);
        w->host[0].data.numbered += 5;
        run(w, NS_PER_S);
        unsigned resyncs = w->host[0].resyncs;
        command(w, 0, COMMAND_STOP, 0);
        run(w, 3 * NS_PER_S);
        if (restarted) {
            crash(w, 0);
            boot(w, 0, (struct end_start){0});
            run(w, NS_PER_S);
        }
        command(w, 0, COMMAND_RESUME, 0);
        run(w, 5 * NS_PER_S);
        assert_int_equal(view(w, 0).state, END_ACTIVE);
        assert_int_equal(view(w, 0).met, MEET_RESUME);
        assert_true(view(w, 1).promotable);
        assert_int_equal(w->host[0].resyncs, resyncs);
    }
}

static void stopped_end_does_not_go_on_by_itself(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 0, COMMAND_STOP, 0);
    run(w, 3 * NS_PER_S);
    struct host *h = &w->host[0];
    end_daemon(w, 0);
    run(w, 3 * NS_PER_S);
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    boot(w, 0, (struct end_start){.same_boot = true, .queue_found = true,
                                  .queue_numbered = h->data.numbered});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_STOPPED);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    // Resumed it sees what has happened.
    command(w, 0, COMMAND_RESUME, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_true(view(w, 0).promotable);
}

static void shutdown_hands_over(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 1, COMMAND_SHUTDOWN, 0); // not active: nothing is to be done
    assert_int_equal(w->host[1].reply_status, 0);
    assert_int_equal(view(w, 1).operation_result, STEP_DONE);
    command(w, 0, COMMAND_SHUTDOWN, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 0).operation_result, STEP_DONE);
}

static void shutdown_stops_and_the_next_start_goes_on(void **state)
{
    struct world *w = *state;
    w->config.shutdown_stops = true;
    start_pair(w);
    unsigned resyncs = w->host[0].resyncs;
    command(w, 0, COMMAND_SHUTDOWN, 0);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_STOPPED);
    assert_false(w->host[0].address || w->host[0].apps || w->host[0].exports);
    assert_int_equal(view(w, 0).operation_result, STEP_DONE);
    crash(w, 0);
    run(w, 20 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE); // it was ended in order
    boot(w, 0, (struct end_start){0});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(view(w, 1).promotable);
    assert_int_equal(w->host[0].resyncs, resyncs);
}

// Nobody watches an end that has stopped; that its grant is over does not follow.
static void shutdown_beside_a_grant_is_no_proof_that_none_is_out(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    w->config.shutdown_stops = true;
    start_pair(w);
    w->probe = END_VETO_ADDRESS; // the peer does not take over here: it could
    w->cut[0] = w->cut[1] = true;
    int64_t echo = w->now;
    run(w, w->config.timeout_ns + 200 * NS_PER_MS);
    command(w, 0, COMMAND_SHUTDOWN, 0);
    run(w, 200 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_STOPPED);
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    boot(w, 0,
         (struct end_start){.same_boot = true,
                            .echo_sent_ns = echo,
                            .unwatched = true,
                            .queue_found = true,
                            .queue_numbered = h->data.numbered});
    run(w, 100 * NS_PER_MS);
    assert_true(view(w, 1).granted);
    assert_int_equal(view(w, 0).state, END_WAITING);
    w->cut[0] = w->cut[1] = false;
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
}

// Nobody to hand over to, or the one there is lost on the way: ended in order all the same.
static void shutdown_without_a_peer_stops(void **state)
{
    for (int late = 0; late < 2; late++) {
        teardown(state);
        setup(state);
        struct world *w = *state;
        start_pair(w);
        w->host[0].hold_apps = late;
        if (!late) {
            crash(w, 1);
            run(w, 6 * NS_PER_S);
        }
        command(w, 0, COMMAND_SHUTDOWN, 0);
        run(w, 100 * NS_PER_MS);
        if (late) {
            crash(w, 1);
            run(w, 3 * NS_PER_S);
            push(&w->host[0], &(struct end_event){.type = EV_APPS});
        }
        run(w, 3 * NS_PER_S);
        assert_int_equal(view(w, 0).state, END_STOPPED);
        assert_false(w->host[0].exports);
    }
}

// The old active end yields in one meeting.
static void suspended_end_that_yields_meets_once(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    uint64_t session = view(w, 1).epoch.number ? w->host[1].disk.session : 0;
    w->cut[0] = w->cut[1] = false;
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_true(view(w, 0).promotable);
    assert_int_equal(view(w, 0).session, session + 1);
}

// A gate that holds `durable` and one that holds `applied` may wait at the same time.
static void two_gates_wait_at_a_time(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[1];
    struct end_view v = view(w, 1);
    struct epoch epoch = v.epoch;
    epoch.number++;
    epoch.parents = 1;
    epoch.parent[0] = (struct epoch_parent){v.epoch.id, 100};
    epoch.id = 77;
    epoch.first_seq = 101;
    h->hold_saves = true;
    h->consents = 0;
    step(h, &(struct end_event){.type = EV_REPLICA,
                                .replica = {.what = FOLLOW_BEGIN, .object = 0, .seq = 90}});
    step(h, &(struct end_event){.type = EV_REPLICA,
                                .replica = {.what = FOLLOW_EPOCH, .epoch = &epoch, .seq = 101}});
    assert_int_equal(h->consents, 0);
    h->hold_saves = false;
    step(h, &(struct end_event){.type = EV_SAVED, .saved = {.ticket = h->ticket}});
    assert_int_equal(h->consents, 2);
}

// A save that failed is tried again; what depends on it waits.
static void failed_save_is_tried_again(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    h->hold_saves = true;
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    assert_int_not_equal(h->gate, GATE_ALONE);
    step(h, &(struct end_event){.type = EV_SAVED, .saved = {.ticket = h->ticket, .status = -28}});
    h->hold_saves = false;
    run(w, 2 * NS_PER_S);
    assert_int_equal(h->gate, GATE_ALONE);
}

// What the old active end's maps say is in the new one's, durably, before the stream starts; pieces that are lost are asked
// for again. When its replica is whole its own maps go.
static void maps_are_united_before_the_stream(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    uint64_t map[2][2] = {{0xff00, 1}, {0, UINT64_C(1) << 63}};
    memcpy(w->host[0].own_map, map, sizeof(map));
    w->host[0].lose_pieces = w->host[1].hold_map = true;
    w->host[0].cleared = 0;
    unsigned attaches = w->host[1].attaches, fills = w->host[1].fills;
    boot(w, 0, (struct end_start){0});
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_memory_equal(w->host[1].added, map, sizeof(map));
    assert_int_equal(w->host[1].attaches, attaches);
    assert_int_equal(w->host[1].armed, 0);
    assert_int_equal(w->host[0].cleared, 0);
    // The sync of another union counts for nothing.
    push(&w->host[1], &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_DURABLE, .ticket = 99}});
    run(w, NS_PER_S);
    assert_int_equal(w->host[1].attaches, attaches);
    w->host[1].hold_map = false;
    w->cut[0] = w->cut[1] = true;
    run(w, 3 * NS_PER_S);
    w->cut[0] = w->cut[1] = false;
    run(w, 6 * NS_PER_S);
    assert_true(w->host[1].attaches > attaches);
    assert_int_equal(w->host[1].armed, view(w, 1).session);
    assert_int_equal(w->host[1].armed_due, 3);
    assert_int_equal(w->host[1].fills, fills);
    assert_true(view(w, 0).promotable);
    assert_int_equal(w->host[0].cleared, 3);
}

// A map that could not be written is void on its disk alone: in memory it is exact, and needs what the other one says.
static void map_that_is_void_on_its_disk_is_united_all_the_same(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    uint64_t map[2][2] = {{0xff00, 1}, {0, UINT64_C(1) << 63}};
    memcpy(w->host[0].own_map, map, sizeof(map));
    step(&w->host[1], &(struct end_event){.type = EV_MAP,
                                          .map = {.what = MAP_EV_FAILED, .object = 1, .ticket = 7, .status = -EIO}});
    run(w, NS_PER_S);
    assert_int_equal(w->host[1].disk.map_void, 2);
    boot(w, 0, (struct end_start){0});
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_memory_equal(w->host[1].added, map, sizeof(map));
}

// A map that cannot be written: what waits goes on when that is durable in the state, and fails when it cannot be.
static void map_that_cannot_be_written_is_recorded_first(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    struct end_event failed = {.type = EV_MAP,
                               .map = {.what = MAP_EV_FAILED, .object = 1, .ticket = 7, .status = -5}};
    assert_int_equal(h->disk.map_void, 0);
    h->hold_saves = true;
    step(h, &failed);
    run(w, 100 * NS_PER_MS);
    assert_int_equal(h->voided + h->refused, 0);
    step(h, &(struct end_event){.type = EV_SAVED, .saved = {.ticket = h->ticket, .status = -28}});
    assert_int_equal(h->refused, 1);
    h->hold_saves = false;
    run(w, 2 * NS_PER_S);
    assert_int_equal(h->voided, 1);
    assert_int_equal(h->refused, 1);
    assert_int_equal(h->disk.map_void, 2);
    // Only the newest record is taken back.
    step(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_GOOD, .object = 1, .ticket = h->record - 1}});
    run(w, NS_PER_S);
    assert_int_equal(h->disk.map_void, 2);
    step(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_GOOD, .object = 1, .ticket = h->record}});
    run(w, NS_PER_S);
    assert_int_equal(h->disk.map_void, 0);
    assert_true(view(w, 1).promotable); // the pair is as it was
}

// ---- verify ----

static void verified(struct world *w, uint64_t differing, uint64_t unread)
{
    static struct verify_result result;
    result = (struct verify_result){
        .objects = 3, .differing = differing, .compared = 1000, .total = 1000, .first_seq = 5, .last_seq = 77};
    result.unread_bytes = unread;
    result.compared -= unread;
    if (differing) {
        result.differing_bytes = 4096;
        result.range_count = 1;
        result.ranges[0] = (struct verify_range){(uint16_t)__builtin_ctzll(differing), 8192, 4096};
    }
    w->host[0].verifying = 0;
    step(&w->host[0],
         &(struct end_event){.type = EV_VERIFIED, .verified = {.result = &result, .real_ns = 1234567}});
}

static void equality_is_remembered(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, NS_PER_S);
    command(w, 1, COMMAND_VERIFY, 0); // passed on
    run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[0].verifying, 3);
    assert_true(view(w, 0).verifying);
    command(w, 0, COMMAND_VERIFY, 0);
    assert_int_equal(w->host[0].reply_status, -EPERM); // one at a time
    verified(w, 0, 0);
    struct end_view v = view(w, 0);
    assert_false(v.verifying);
    assert_int_equal(v.operation_result, STEP_DONE);
    assert_int_equal(v.proven.seq, 77);
    assert_int_equal(w->host[0].disk.proven.time, 1234567);
    assert_int_equal(w->host[0].disk.proven.epoch, v.epoch.id);
    assert_true(view(w, 1).promotable);
    // What could not be read proves nothing, and takes nothing back.
    command(w, 0, COMMAND_VERIFY, 0);
    verified(w, 0, 100);
    v = view(w, 0);
    assert_int_equal(v.operation_result, STEP_FAILED);
    assert_int_equal(v.proven.time, 1234567);
    assert_true(v.synchronized);
}

// Both ends say when they were last proven equal, also behind a switch and restarts; not of another line or another replica.
static void equality_is_said_by_both_ends(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].data.numbered = w->host[0].data.durable = w->host[0].data.applied = 200;
    w->host[1].data.replica_durable = w->host[1].data.applied = 200;
    run(w, NS_PER_S);
    command(w, 0, COMMAND_VERIFY, 0);
    verified(w, 0, 0);
    uint64_t epoch = view(w, 0).epoch.id;
    run(w, NS_PER_S);
    assert_int_equal(view(w, 1).proven.time, 1234567);
    assert_int_equal(view(w, 1).proven.epoch, epoch);
    assert_int_equal(view(w, 1).proven.seq, 77);
    assert_int_equal(w->host[1].disk.proven.seq, 77);
    assert_int_equal(w->host[1].disk.proven.number, view(w, 0).epoch.number);
    crash(w, 1);
    run(w, 5 * NS_PER_S);
    boot(w, 1, (struct end_start){0});
    assert_int_equal(view(w, 1).proven.seq, 77);
    run(w, 3 * NS_PER_S);
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 1).proven.seq, 77);
    assert_int_equal(view(w, 0).proven.seq, 77);
    // The other end is replaced.
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    w->host[0].disk = (struct end_state){0};
    w->host[0].data = (struct end_data){.waypoint_ns = 0};
    boot(w, 0, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 0).proven.time, 0);
    assert_int_equal(view(w, 1).proven.time, 0);
}

// What was found to differ is not synchronized, holds no grant and is not switched to, also behind a restart, until it
// was repaired.
static void difference_waits_for_its_repair(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    start_pair(w);
    run(w, NS_PER_S);
    command(w, 0, COMMAND_VERIFY, 0);
    verified(w, 2, 0);
    struct end_view v = view(w, 0);
    assert_int_equal(v.operation_result, STEP_FAILED);
    assert_non_null(strstr(v.operation_text, "4096 bytes at 8192"));
    assert_false(v.synchronized);
    run(w, 10 * NS_PER_S);
    v = view(w, 0);
    assert_true(v.alone);
    assert_false(v.granted);
    assert_int_equal(v.held, 2);
    assert_int_equal(h->disk.held, 2);
    assert_int_equal(h->disk.pending, 2);
    assert_int_equal(h->marked, 2);
    assert_int_equal(w->host[1].disk.inconsistent, 2);
    assert_false(view(w, 1).promotable);
    assert_int_equal(h->resyncs, 1); // the first mirror's
    command(w, 0, COMMAND_VERIFY, 0);
    assert_int_equal(h->reply_status, -EPERM);
    command(w, 0, COMMAND_SWITCH, 0);
    assert_int_equal(h->reply_status, -EPERM);
    command(w, 0, COMMAND_VERIFY, COMMAND_REPAIR);
    assert_int_equal(h->reply_status, 0);
    run(w, 10 * NS_PER_S);
    assert_int_equal(h->resyncs, 2);
    assert_int_equal(h->resynced, 2); // that volume alone
    v = view(w, 0);
    assert_int_equal(v.held | v.pending, 0);
    assert_int_equal(v.operation_result, STEP_DONE);
    assert_true(v.synchronized && !v.alone);
    assert_true(view(w, 1).promotable);
}

static void difference_is_repaired_at_once_when_told_to(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, NS_PER_S);
    command(w, 0, COMMAND_VERIFY, COMMAND_REPAIR);
    verified(w, 1, 0);
    run(w, 10 * NS_PER_S);
    assert_int_equal(w->host[0].resyncs, 2);
    assert_int_equal(w->host[0].resynced, 1);
    assert_int_equal(w->host[0].marked, 0);
    assert_int_equal(view(w, 0).operation_result, STEP_DONE);
    assert_true(view(w, 0).synchronized);
    assert_true(view(w, 1).promotable);
}

// A verify ends with its session; what it had found by then counts all the same.
static void verify_is_given_up_with_its_session(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, NS_PER_S);
    command(w, 0, COMMAND_VERIFY, 0);
    command(w, 0, COMMAND_PAUSE, 0);
    assert_int_equal(w->host[0].verifying, 0);
    assert_false(view(w, 0).verifying);
    command(w, 0, COMMAND_VERIFY, 0);
    assert_int_equal(w->host[0].reply_status, -EPERM);
    verified(w, 1, 0);
    assert_int_equal(w->host[0].disk.held, 1);
    command(w, 0, COMMAND_RESUME, 0);
    run(w, 10 * NS_PER_S);
    assert_false(view(w, 0).synchronized);
    assert_int_equal(w->host[0].marked, 1);
    command(w, 0, COMMAND_RESYNC, 0);
    run(w, 10 * NS_PER_S);
    assert_true(view(w, 0).synchronized);
    assert_int_equal(w->host[0].disk.held, 0);
}

// Whoever finds in its state that a map is void says so to the data path before anything else uses it.
static void recorded_map_counts_as_wholly_set_at_the_start(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, NS_PER_S);
    crash(w, 1);
    w->host[1].disk.map_void = 2;
    w->host[1].hold_good = true;
    w->host[1].filled = 0;
    boot(w, 1, (struct end_start){0});
    assert_int_equal(w->host[1].filled, 2);
    // An operator's resync: everything counts as different, durably, and is gone over.
    run(w, 5 * NS_PER_S);
    struct host *h = &w->host[0];
    h->filled = 0;
    h->hold_saves = true;
    step(h, &(struct end_event){.type = EV_COMMAND, .command = {.command = COMMAND_RESYNC}});
    assert_int_equal(h->filled, 0);
    h->hold_saves = false;
    step(h, &(struct end_event){.type = EV_SAVED, .saved = {.ticket = h->ticket}});
    assert_int_equal(h->filled, 3);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).pending, 0);
}

// A replica that lost what it had settled is compared as a whole, also behind a restart of its daemon.
static void lost_replica_is_compared_as_a_whole(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, NS_PER_S);
    unsigned fills = w->host[0].fills;
    step(&w->host[1], &(struct end_event){.type = EV_MAP, .map.what = MAP_EV_LOST});
    run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[1].disk.lost, 3);
    assert_false(view(w, 1).promotable);
    crash(w, 1);
    boot(w, 1, (struct end_start){.replica_durable = w->host[1].data.replica_durable});
    run(w, 5 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_int_equal(w->host[1].disk.lost, 0);
    assert_true(view(w, 1).promotable);
}

// What an opening replays in front of damage takes back what had been settled, of which the map knows nothing any more:
// everything is compared, whatever the marks say that are replayed.
static void damaged_queue_is_compared_as_a_whole(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, NS_PER_S);
    unsigned fills = w->host[0].fills;
    uint64_t seq = w->host[1].data.replica_durable - 1;
    crash(w, 1);
    w->host[1].data.replica_durable = 0;
    boot(w, 1, (struct end_start){.replica_durable = END_OPENING});
    struct end_event opened = {.type = EV_OPENED};
    opened.opened.replica_durable = seq;
    opened.opened.replica_failed = opened.opened.damaged = true;
    step(&w->host[1], &opened);
    step(&w->host[1], &(struct end_event){.type = EV_REPLICA,
                                          .replica = {.what = FOLLOW_END, .object = 0, .seq = UINT64_MAX / 2}});
    run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[1].disk.lost, 3);
    assert_int_equal(w->host[1].disk.inconsistent, 3);
    run(w, 5 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_int_equal(w->host[1].disk.lost, 0);
    assert_true(view(w, 1).promotable);
}

// An end that has forgotten its line at an operator's word, and crashed before its queue was emptied: the seqs of the two
// lines have nothing to do with each other, so that no position and no mark of that queue says anything.
static void queue_of_a_forgotten_line_says_nothing(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, NS_PER_S);
    w->host[0].data.numbered += 100;
    run(w, NS_PER_S);
    struct host *h = &w->host[1];
    uint64_t held = h->data.replica_durable - 10; // on the leader's line that is a position to resume from
    crash(w, 1);
    h->disk.inconsistent = h->disk.salvage = h->disk.salvage_whole = 3;
    h->disk.salvage_cause = SALVAGE_RESOLVED;
    h->disk.salvaged = (struct epoch){.number = 1, .id = 4711, .first_seq = 1, .opened_by = EPOCH_BY_SECONDARY, .reason = EPOCH_LOST_QUEUE};
    h->disk.position = 1;
    h->data.replica_durable = h->data.applied = held;
    unsigned fills = w->host[0].fills;
    boot(w, 1, (struct end_start){.replica_durable = END_OPENING});
    push(h, &(struct end_event){.type = EV_OPENED, .opened = {.replica_durable = held, .base = 4712}});
    for (uint16_t object = 0; object < 2; object++)
        push(h, &(struct end_event){.type = EV_REPLICA,
                                    .replica = {.what = FOLLOW_END, .object = object, .seq = held}});
    run(w, 100 * NS_PER_MS);
    assert_int_equal(h->disk.inconsistent, 3);
    assert_int_equal(h->disk.salvage, 3);
    run(w, 8 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_int_equal(h->disk.salvage, 0);
    assert_true(view(w, 1).promotable);
}

// The same where the end itself cannot know, because nothing behind the damage proves it: the active end does.
static void follower_that_went_back_is_compared_as_a_whole(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].data.numbered += 10;
    run(w, NS_PER_S);
    unsigned fills = w->host[0].fills;
    crash(w, 1);
    uint64_t held = w->host[1].data.replica_durable;
    run(w, 6 * NS_PER_S);
    boot(w, 1, (struct end_start){.replica_durable = held});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 1).met, MEET_RESUME);
    assert_int_equal(w->host[0].fills, fills);
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    w->host[1].data.replica_durable = held - 3;
    boot(w, 1, (struct end_start){.replica_durable = held - 3});
    run(w, 5 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_true(view(w, 1).promotable);
}

// A restarted active end knows what was confirmed to its former run by what its queue was let forget.
static void follower_that_went_back_is_seen_behind_a_restart(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    h->data.numbered += 10;
    run(w, NS_PER_S);
    uint64_t numbered = h->data.numbered, held = w->host[1].data.replica_durable;
    unsigned fills = h->fills;
    for (unsigned lost = 0; lost <= 3; lost += 3) {
        int64_t echo = view(w, 0).echo_sent_ns;
        crash(w, 1);
        w->host[1].data.replica_durable = held - lost;
        h->end = end_free(h->end);
        h->up = false;
        h->head = h->tail;
        h->data.durable = 0;
        h->data.held_from = numbered + 1;
        boot(w, 0, (struct end_start){.same_boot = true, .echo_sent_ns = echo, .queue_found = true,
                                      .queue_numbered = numbered, .queue_confirmed = numbered});
        boot(w, 1, (struct end_start){.replica_durable = held - lost});
        run(w, 10 * NS_PER_S);
        assert_true(view(w, 1).promotable);
        assert_int_equal(h->fills > fills, lost > 0);
        numbered = h->data.numbered;
        held = w->host[1].data.replica_durable;
    }
}

// Nor can a follower whose replica does not open tell how much its queue has lost: of a run that has not followed yet
// the active end takes it that it may be less than was confirmed.
static void follower_that_cannot_tell_its_position_is_compared_as_a_whole(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].data.numbered += 10;
    run(w, NS_PER_S);
    unsigned fills = w->host[0].fills;
    crash(w, 1);
    w->host[1].data.replica_durable = 0;
    boot(w, 1, (struct end_start){.replica_durable = END_OPENING});
    step(&w->host[1], &(struct end_event){.type = EV_OPENED, .opened.replica_failed = true});
    run(w, 5 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_true(view(w, 1).promotable);
    // One that fails while it follows has what it had confirmed: that is resynced by the map.
    fills = w->host[0].fills;
    step(&w->host[1], &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_FAILED, .text = "a test"}});
    assert_false(view(w, 1).promotable);
    run(w, 20 * NS_PER_S);
    assert_true(view(w, 1).promotable);
    assert_int_equal(w->host[0].fills, fills);
}

// The guard acts by itself when the daemon was not scheduled in time: no answer leaves afterwards.
static void guard_that_acts_by_itself_holds_the_answers(void **state)
{
    struct world *w = *state;
    start_pair(w);
    step(&w->host[0], &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    w->host[0].address = false;
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_int_equal(w->host[0].gate, GATE_HELD);
    // The peer is heard and idle: undone.
    w->host[0].frozen = true;
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].gate, GATE_PAIRED);
}

// Everything that lasts is as it was before a switchover that came to nothing: a later crash must not find an exact
// position, from which seqs would be given a second time.
static void role_taken_back_is_durable(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].hold_handover = true;
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_HANDED_OVER);
    crash(w, 1);
    boot(w, 1, (struct end_start){0});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].disk.intent, INTENT_NONE);
    assert_false(w->host[0].disk.clean);
    assert_true(w->host[0].apps && w->host[0].address && w->host[0].exports);
    w->host[0].data.numbered += 100;
    run(w, NS_PER_S);
    uint64_t given = w->host[0].data.numbered;
    crash(w, 0);
    crash(w, 1);
    boot(w, 0, (struct end_start){0});
    boot(w, 1, (struct end_start){0});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(view(w, 0).epoch.first_seq > given);
}

static void guard_event(struct host *h)
{
    h->frozen = true;
    h->address = false;
    step(h, &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
}

static void guard_in_the_middle_of_a_switchover_leads_back(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true; // it cannot drain
    w->probe = END_VETO_ADDRESS;
    w->host[0].data.numbered++;
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 100 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_HANDING_OVER);
    assert_false(w->host[0].exports);
    run(w, 1450 * NS_PER_MS);
    guard_event(&w->host[0]);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    w->cut[0] = w->cut[1] = false;
    w->host[0].hold_guard = true;
    for (int i = 0; i < 200; i++) { // it goes on, and what is frozen is not answered before it is thawed
        run(w, 10 * NS_PER_MS);
        assert_true(w->host[0].lease <= w->now);
    }
    assert_int_equal(view(w, 0).state, END_TAKING_OVER);
    w->host[0].hold_guard = false;
    push(&w->host[0], &(struct end_event){.type = EV_GUARD, .guard.frozen = false});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(w->host[0].lease > w->now);
    assert_true(w->host[0].apps && w->host[0].address && w->host[0].exports && !w->host[0].frozen);
    assert_true(view(w, 1).promotable);
}

// A restart that goes on with its queue and is overtaken by the guard needs the same proof as any other end that has
// been stepped down.
static void guard_in_the_middle_of_a_restart_is_no_thaw(void **state)
{
    struct world *w = *state;
    start_pair(w);
    int64_t echo = w->now;
    struct host *h = &w->host[0];
    uint64_t numbered = h->data.numbered;
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    w->cut[0] = w->cut[1] = true;
    w->probe = END_VETO_ADDRESS;
    h->hold_opens = true;
    boot(w, 0,
         (struct end_start){.same_boot = true,
                            .echo_sent_ns = echo,
                            .queue_found = true,
                            .queue_numbered = numbered});
    run(w, 100 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_TAKING_OVER);
    guard_event(h);
    run(w, NS_PER_S);
    push(h, &(struct end_event){.type = EV_EXPORTS, .exports = {.open = true, .numbered = numbered}});
    h->hold_opens = false;
    h->exports = true;
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_true(h->frozen);
    assert_false(h->address);
    w->cut[0] = w->cut[1] = false;
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(h->address && h->apps && !h->frozen);
}

// The former run had a deadline, and this one knows nothing of it, since its state is lost.
static void guard_of_a_former_run_does_not_stop_a_takeover(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    h->hold_opens = true;
    boot(w, 0, (struct end_start){.same_boot = true, .state_unreadable = true});
    command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_TAKING_OVER);
    assert_true(h->address);
    guard_event(h);
    h->exports = true;
    push(h, &(struct end_event){.type = EV_EXPORTS, .exports = {.open = true, .numbered = 1}});
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(h->address && h->apps && !view(w, 0).frozen);
}

static void beat_of_a_run(struct world *w, uint64_t run, uint64_t echo)
{
    struct host *h = &w->host[0];
    struct frame f = {.type = FRAME_BEAT, .run = run, .to_run = view(w, 1).peer_run};
    f.beat.number = 1;
    f.beat.sent_ns = w->now - 10 * NS_PER_MS;
    f.beat.echo_number = echo;
    f.beat.echo_sent_ns = w->now - 20 * NS_PER_MS;
    step(h, &(struct end_event){.type = EV_FRAME, .frame = {.frame = &f}});
}

// A frame that was under way for long, of a run that was never known and has ended since, is no restart of the peer: what
// the present run was promised stands, and it goes on being heard.
static void late_frame_of_an_unknown_run_is_no_restart(void **state)
{
    struct world *w = *state;
    start_pair(w);
    uint64_t run_now = view(w, 0).peer_run;
    assert_true(view(w, 0).granted);
    beat_of_a_run(w, 0x777, 1);
    assert_int_equal(view(w, 0).peer_run, run_now);
    assert_true(view(w, 0).granted);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).peer_run, run_now);
    assert_true(view(w, 1).promotable);
}

static void alone_start(struct world *w, struct end_start *ret_start)
{
    start_pair(w);
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    assert_true(w->host[0].disk.alone);
    *ret_start = (struct end_start){
        .same_boot = true,
        .queue_found = true,
        .queue_numbered = w->host[0].data.numbered,
        .queue_epoch = w->host[0].epoch.id,
    };
    crash(w, 0);
}

static void queue_of_a_former_reign_is_not_gone_on_with(void **state)
{
    struct world *w = *state;
    struct end_start start;
    alone_start(w, &start);
    start.queue_epoch = 4711;
    boot(w, 0, start);
    assert_int_equal(view(w, 0).state, END_WAITING);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).epoch.reason, EPOCH_LOST_QUEUE);
}

static void queue_of_this_reign_is_gone_on_with(void **state)
{
    struct world *w = *state;
    struct end_start start;
    alone_start(w, &start);
    boot(w, 0, start);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 0).epoch.reason, EPOCH_ALONE);
}

// Killed between the saving of the epoch and its record: the record is what tells the peer of it.
static void epoch_of_going_alone_gets_its_record_after_a_crash(void **state)
{
    struct world *w = *state;
    struct end_start start;
    alone_start(w, &start);
    const struct epoch *at = history_current(&w->host[0].disk.history);
    start.queue_epoch = at->parent[0].id;
    start.queue_numbered = w->host[0].data.numbered = at->first_seq - 1;
    memset(&w->host[0].epoch, 0, sizeof(w->host[0].epoch));
    start.queue_pending = true;
    boot(w, 0, start);
    assert_int_equal(view(w, 0).state, END_WAITING);
    w->host[0].end = end_free(w->host[0].end);
    start.queue_pending = false;
    boot(w, 0, start);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].epoch.id, at->id);
    assert_int_equal(view(w, 0).epoch.id, at->id);
}

// Killed while its epoch was being opened in the queue, in front of the record: the queue says the epoch, and the fork.
static void epoch_without_its_record_gets_it_after_a_crash(void **state)
{
    struct world *w = *state;
    struct end_start start;
    alone_start(w, &start);
    const struct epoch *at = history_current(&w->host[0].disk.history);
    start.queue_numbered = w->host[0].data.numbered = at->first_seq - 1;
    memset(&w->host[0].epoch, 0, sizeof(w->host[0].epoch));
    boot(w, 0, start);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].epoch.id, at->id);
    assert_int_equal(w->host[0].data.numbered, at->first_seq);
}

// In `async` answers go on while the epoch is being saved: killed in that time, with what the queue says of it.
static void unsaved_start(struct world *w, struct end_start *ret_start)
{
    struct host *h = &w->host[0];
    w->config.mode = END_ASYNC;
    start_pair(w);
    h->hold_saves = true;
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    assert_true(h->disk.alone);
    step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket}); // `alone`
    struct end_state durable = h->disk;
    run(w, NS_PER_S);
    assert_int_equal(h->gate, GATE_ALONE);
    assert_int_equal(h->epoch.reason, EPOCH_ALONE);
    h->data.numbered += 5;
    *ret_start = (struct end_start){
        .same_boot = true,
        .queue_found = true,
        .queue_numbered = h->data.numbered,
        .queue_epoch = h->epoch.id,
        .queue_opening = h->epoch,
    };
    crash(w, 0);
    h->disk = durable;
    assert_false(history_contains(&durable.history, h->epoch.id));
}

static void epoch_that_was_being_saved_is_gone_on_with(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    struct end_start start;
    unsaved_start(w, &start);
    unsigned resyncs = h->resyncs;
    boot(w, 0, start);
    boot(w, 1, (struct end_start){.replica_durable = w->host[1].data.replica_durable});
    run(w, NS_PER_S);
    // Neither does it serve, nor does anybody hear of the epoch, before that is durable.
    assert_int_equal(view(w, 0).state, END_TAKING_OVER);
    assert_false(h->exports || h->address);
    assert_int_equal(view(w, 1).epoch.number, 1);
    h->hold_saves = false;
    step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(history_contains(&h->disk.history, start.queue_epoch));
    assert_true(view(w, 1).promotable);
    assert_int_equal(h->resyncs, resyncs);
    assert_int_equal(view(w, 1).epoch.id, start.queue_epoch);
}

static void epoch_of_a_queue_that_is_not_the_next_one_is_not_believed(void **state)
{
    struct world *w = *state;
    struct end_start start, wrong;
    unsaved_start(w, &start);
    w->host[0].hold_saves = false;
    for (unsigned how = 0; how < 4; how++) {
        wrong = start;
        bool alone = w->host[0].disk.alone;
        if (how == 0)
            wrong.queue_opening.id = 0; // not known
        if (how == 1)
            wrong.queue_opening.parent[0].id = 4711;
        if (how == 2)
            wrong.queue_opening.reason = EPOCH_TAKEOVER;
        if (how == 3)
            w->host[0].disk.alone = false; // nothing was answered in it
        struct end_state disk = w->host[0].disk;
        boot(w, 0, wrong);
        assert_int_equal(view(w, 0).state, END_WAITING);
        crash(w, 0);
        w->host[0].disk = disk;
        w->host[0].disk.alone = alone;
    }
}

static void takeover_of_a_suspended_end_waits_for_the_grant_and_opens_anew(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    w->probe = END_VETO_ADDRESS;
    run(w, 2500 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_true(w->host[0].reply_status < 0);
    run(w, 5 * NS_PER_S);
    unsigned opens = w->host[0].opens;
    command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_int_equal(w->host[0].reply_status, 0);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].opens, opens + 1);
    assert_int_equal(w->host[0].epoch.id, view(w, 0).epoch.id);
}

// The deadline by which a suspended end had to stop is of its former reign: while it takes over, with exports that are still
// being closed, its guard has none to act by.
static void takeover_of_a_suspended_end_has_no_deadline(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    w->probe = END_VETO_ADDRESS;
    run(w, 7500 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_true(w->host[0].deadline <= w->now);
    w->host[0].hold_close = true;
    command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_int_equal(w->host[0].reply_status, 0);
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_TAKING_OVER);
    assert_int_equal(w->host[0].deadline, INT64_MAX);
}

// The exports had been told to close, and what they say of that is still on its way when the operator decides: it is no
// answer to what is asked of them then, and a fresh queue is made once.
static void late_word_of_closed_exports_opens_nothing_twice(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    h->hold_close = true;
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 100 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_HANDING_OVER);
    assert_false(h->exports);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    w->probe = END_VETO_ADDRESS;
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    unsigned opens = h->opens;
    command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_int_equal(h->reply_status, 0);
    run(w, NS_PER_S);
    assert_int_equal(h->opens, opens);
    push(h, &(struct end_event){.type = EV_EXPORTS, .exports.abandoned = true});
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(h->opens, opens + 1);
}

static void overflow_in_the_middle_of_a_switchover_gives_it_up(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[1].hold_saves = true;
    w->host[0].hold_handover = true;
    w->host[0].data.numbered++;
    w->host[0].streams = 0; // nothing drains
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 100 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_HANDING_OVER);
    step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    w->host[1].hold_saves = false;
    run(w, 500 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    run(w, 6 * NS_PER_S);
    assert_true(view(w, 1).promotable);
}

static void exports_that_do_not_come_back_are_tried_at_leisure(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[1] = true;
    w->probe = END_VETO_ADDRESS;
    w->host[0].data.numbered++;
    w->host[0].streams = 0;
    w->host[0].fail_opens = true;
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 6 * NS_PER_S); // the peer is lost, the switchover given up
    assert_in_range(w->host[0].opens, 2, 10);
    w->host[0].fail_opens = false;
    w->cut[1] = false;
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
}

static void failed_replica_is_tried_anew_and_resynced(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *s = &w->host[1];
    s->fail_follows = true;
    push(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_FAILED, .text = "a write failed"}});
    run(w, 3 * NS_PER_S);
    assert_true(view(w, 0).alone);
    assert_false(view(w, 1).promotable || view(w, 1).granted);
    run(w, 60 * NS_PER_S);
    assert_in_range(s->follow_asked, 3, 8); // with pauses that grow
    s->fail_follows = false;
    run(w, 70 * NS_PER_S);
    assert_false(view(w, 0).alone);
    assert_true(view(w, 1).promotable);
}

// A queue that is full and has come to an end: the end goes alone at once, the stream stays, the replica stays consistent,
// and nothing is resynced until the peer has what is held.
static void full_queue_is_streamed_to_its_end_before_the_resync(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *p = &w->host[0];
    uint64_t session = view(w, 0).session;
    unsigned resyncs = p->resyncs;
    p->data.numbered += 5;
    p->streams = 0;
    step(p, &(struct end_event){.type = EV_OVERFLOW, .failed = {.text = "full", .draining = true}});
    run(w, 6 * NS_PER_S);
    assert_true(view(w, 0).alone);
    assert_int_equal(view(w, 0).pending, 3);
    assert_int_equal(view(w, 0).session, session);
    assert_int_equal(view(w, 1).inconsistent, 0);
    assert_false(view(w, 1).granted);
    assert_int_equal(p->resyncs, resyncs);
    p->data.held_from = 0;
    step(p, &(struct end_event){.type = EV_OVERFLOW, .failed.text = "the peer has all of it"});
    p->streams = 1;
    run(w, 6 * NS_PER_S);
    assert_int_not_equal(view(w, 0).session, session);
    assert_int_equal(view(w, 0).pending, 0);
    assert_true(view(w, 1).promotable);
}

// Marks of what is still replayed before the stream starts anew say nothing of the new stream.
static void mark_of_the_old_stream_does_not_make_a_replica_consistent(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *s = &w->host[1];
    uint64_t old = s->data.replica_durable;
    w->host[0].data.numbered = old + 5;
    w->host[0].data.held_from = 0;
    step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    w->host[0].resync_silent = true;
    run(w, 3 * NS_PER_S);
    assert_int_not_equal(view(w, 1).inconsistent, 0);
    step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = 0, .seq = old}});
    assert_int_equal(view(w, 1).inconsistent, 3);
}

// The same while the replica is made ready for the new stream, where the old one went further: its marks would make
// a volume consistent that is about to be mirrored, and an epoch of a line that was given up would stop it for good.
static void queue_that_a_new_stream_replaces_is_let_pass(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *s = &w->host[1];
    w->host[0].data.numbered += 5;
    w->host[0].data.held_from = 0;
    s->hold_follows = true;
    step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).inconsistent, 3);
    uint64_t far = w->host[0].data.numbered + 1000;
    struct epoch foreign = {.number = 9, .id = 991, .first_seq = far, .opened_by = EPOCH_BY_SECONDARY,
                            .reason = EPOCH_ALONE, .parents = 1, .parent[0] = {.id = 990, .seq = far - 1}};
    unsigned consents = s->consents;
    step(s, &(struct end_event){.type = EV_REPLICA,
                                .replica = {.what = FOLLOW_EPOCH, .epoch = &foreign, .seq = far}});
    step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = 0, .seq = far + 1}});
    assert_int_equal(view(w, 1).inconsistent, 3);
    run(w, 100 * NS_PER_MS);
    assert_int_equal(s->consents, consents + 2); // so that its end is reached
    s->hold_follows = false;
    step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_READY}});
    run(w, 6 * NS_PER_S);
    assert_int_equal(view(w, 1).inconsistent, 0);
    assert_true(view(w, 1).promotable);
}

static void report_of_an_old_resync_does_not_count(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *p = &w->host[0];
    p->resync_silent = true;
    command(w, 0, COMMAND_RESYNC, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).pending, 3);
    uint64_t old = p->resync_ticket;
    command(w, 0, COMMAND_RESYNC, 0);
    run(w, 3 * NS_PER_S);
    assert_int_not_equal(p->resync_ticket, old);
    // The data path had not heard of the second order when it numbered the end.
    p->data.numbered += 2;
    for (unsigned i = 0; i < 2; i++)
        step(p, &(struct end_event){.type = EV_RESYNCED,
                                    .resynced = {.object = i, .seq = p->data.numbered - i, .ticket = old}});
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).pending, 3);
}

static void paused_end_sends_nothing(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 0, COMMAND_PAUSE, 0);
    run(w, 2 * NS_PER_S);
    assert_true(view(w, 0).alone);
    assert_int_equal(w->host[0].streams, 0);
    w->host[0].data.numbered += 7;
    run(w, 5 * NS_PER_S);
    assert_true(w->host[1].data.replica_durable < w->host[0].data.numbered);
    command(w, 0, COMMAND_RESUME, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).met, MEET_RESUME);
    assert_false(view(w, 0).alone);
    assert_true(view(w, 1).promotable);
}

static void nothing_is_promised_without_a_guard(void **state)
{
    struct world *w = *state;
    w->host[0].data.unguarded = true;
    start_pair(w);
    assert_false(view(w, 1).granted || view(w, 0).granted);
    assert_false(view(w, 0).alone);
    w->host[0].data.unguarded = false;
    run(w, NS_PER_S);
    assert_true(view(w, 1).granted);
}

// SIGTERM has taken the grant back: the guard waits for nothing, and however long the restart takes, it goes on.
static void slow_restart_without_a_grant_goes_on(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    int64_t echo = w->now;
    push(h, &(struct end_event){.type = EV_TERMINATE});
    run(w, NS_PER_S);
    assert_true(h->exited);
    assert_int_equal(h->deadline, INT64_MAX);
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    run(w, 20 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    boot(w, 0,
         (struct end_start){.same_boot = true,
                            .echo_sent_ns = echo,
                            .unwatched = true,
                            .queue_found = true,
                            .queue_numbered = h->data.numbered});
    run(w, 4 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(view(w, 0).epoch.number, 1);
    assert_true(view(w, 1).promotable);
}

// A restarted end counts its heartbeats anew. Where each no of its first session is lost, the peer takes a yes that has a
// lower number than the no of the former run, which it has long confirmed: that was for another session.
static void confirmation_of_a_former_session_counts_for_nothing(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, 20 * NS_PER_S);
    struct host *h = &w->host[0];
    push(h, &(struct end_event){.type = EV_TERMINATE});
    run(w, NS_PER_S);
    assert_true(h->exited);
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    h->lose_noes = true;
    boot(w, 0,
         (struct end_start){.same_boot = true,
                            .echo_sent_ns = w->now,
                            .unwatched = true,
                            .queue_found = true,
                            .queue_numbered = h->data.numbered});
    for (int i = 0; i < 400; i++) {
        run(w, 10 * NS_PER_MS);
        if (view(w, 1).granted)
            assert_true(view(w, 0).granted);
    }
    assert_true(view(w, 1).granted);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
}

static void late_word_of_the_applications_is_not_theirs(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *h = &w->host[0];
    h->hold_apps = true;
    command(w, 0, COMMAND_SWITCH, 0);
    step(h, &(struct end_event){.type = EV_APPS, .apps.running = true}); // of their start
    run(w, 200 * NS_PER_MS);
    assert_int_equal(view(w, 0).state, END_HANDING_OVER);
    assert_true(h->exports);
    step(h, &(struct end_event){.type = EV_APPS});
    h->hold_apps = false;
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
}

// Whether the peer's former run has used its grant, only a meeting tells.
static void restarted_peer_that_took_over_keeps_a_suspended_end_down(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    crash(w, 1);
    w->cut[0] = w->cut[1] = false;
    w->waypoint[0] = true;
    boot(w, 1, (struct end_start){0});
    run(w, 10 * NS_PER_S); // act() asserts that the address is never on at both
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
}

// Its lease ran out while it was not scheduled: that the time of the grant is over, too, proves nothing.
static void end_that_was_not_scheduled_steps_down(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS; // nobody takes over here: it could have
    w->host[0].up = w->waypoint[0] = false;
    run(w, 10 * NS_PER_S);
    w->host[0].up = true;
    step(&w->host[0], &(struct end_event){.type = EV_TICK});
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
}

// The peer counts its silence from what came back to it, not from what it has sent.
static void lease_ends_before_the_peer_takes_over_after_a_one_way_cut(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[1] = true;
    run(w, NS_PER_S);
    w->cut[0] = true;
    w->cut[1] = false;
    run(w, w->config.beat_ns + NS_PER_MS); // an echo of a young heartbeat
    w->cut[1] = true;
    w->waypoint[0] = false;
    run(w, 10 * NS_PER_S); // act() asserts that the address is never on at both
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
}

// A yes that was long under way runs from when the heartbeat was sent that it answers, not from its arrival: by then the
// active end may hold the grant for over.
static void a_late_yes_does_not_last_longer(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS; // nobody takes over
    w->cut[0] = w->cut[1] = true;
    run(w, 300 * NS_PER_MS);
    struct frame late = w->host[0].late;
    assert_int_equal(late.beat.answer, ANSWER_YES);
    command(w, 0, COMMAND_PAUSE, 0); // it says no from now on, which is lost
    run(w, 1200 * NS_PER_MS);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    push(&w->host[1], &(struct end_event){.type = EV_FRAME, .frame = {.path = 0, .frame = &late}});
    bool held = true;
    for (int i = 0; i < 800 && held; i++) {
        run(w, 10 * NS_PER_MS);
        held = view(w, 1).granted;
        assert_true(!held || view(w, 0).granted);
    }
    assert_false(held);
}

// The clocks may drift: the active end waits for a margin longer than the grant lasts.
static void going_alone_waits_for_the_margin(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS;
    w->cut[0] = w->cut[1] = true;
    while (w->host[0].gate != GATE_ALONE && w->now < 2000 * NS_PER_S)
        run(w, 10 * NS_PER_MS);
    int64_t waited = w->now - w->host[0].yes_ns;
    int64_t grant = w->config.timeout_ns + w->config.decision_ns;
    assert_in_range(waited, grant + w->config.margin_ns, grant + w->config.margin_ns + NS_PER_S);
}

// Its lease ran out first, then the grant, both while it was not scheduled: whoever took over in between it has not seen.
static void lease_that_ends_before_the_grant_counts(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    start_pair(w);
    w->probe = END_VETO_ADDRESS; // nobody takes over here: it could have
    w->cut[0] = w->cut[1] = true;
    run(w, 3 * NS_PER_S); // it says yes no more
    int64_t over = h->yes_ns + w->config.timeout_ns + w->config.decision_ns + w->config.margin_ns;
    run(w, over - 400 * NS_PER_MS - w->now);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    h->up = w->waypoint[0] = false;
    run(w, 600 * NS_PER_MS);
    h->up = true;
    step(h, &(struct end_event){.type = EV_TICK});
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
}

// A seq below the bound may be given; an end that has lost its queue starts above the one that it finds on its disk.
static void bound_is_durable_before_it_is_given(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    start_pair(w);
    uint64_t bound = h->bound;
    assert_int_equal(h->disk.bound, bound);
    h->hold_saves = true;
    h->data.numbered = bound - 1;
    run(w, NS_PER_S);
    assert_int_equal(h->bound, bound);
    h->hold_saves = false;
    push(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    run(w, NS_PER_S);
    assert_true(h->bound > bound && h->disk.bound == h->bound);
}

// Back to paired: what it has answered alone is durable on the peer before it says so, or grants anything.
static void joining_waits_until_the_peer_has_all(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    start_pair(w);
    command(w, 0, COMMAND_PAUSE, 0);
    run(w, 3 * NS_PER_S);
    assert_true(view(w, 0).alone);
    h->data.numbered += 7;
    w->hold_stream = true;
    command(w, 0, COMMAND_RESUME, 0);
    run(w, 1500 * NS_PER_MS);
    assert_int_equal(h->gate, GATE_PAIRED); // nothing more is answered alone
    assert_true(h->disk.alone);
    assert_false(view(w, 1).granted);
    w->hold_stream = false;
    run(w, 1500 * NS_PER_MS);
    assert_false(h->disk.alone);
    assert_true(view(w, 1).granted);
}

// Behind the end of a resync the passive end has everything when that is applied; durable in its queue is not enough.
static void synchronized_is_what_is_applied(void **state)
{
    struct world *w = *state;
    w->hold_apply = true;
    start_pair(w);
    assert_int_equal(w->host[0].resyncs, 1);
    assert_int_equal(w->host[0].data.durable, w->host[0].data.numbered);
    assert_false(view(w, 0).synchronized);
    assert_true(w->host[0].disk.pending != 0);
    w->hold_apply = false;
    run(w, NS_PER_S);
    assert_true(view(w, 0).synchronized);
    assert_int_equal(w->host[0].disk.pending, 0);
}

// An answer is a heartbeat, too: three frames an interval, and each end hears a young echo each interval.
static void answers_are_heartbeats(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, 2 * NS_PER_S);
    struct host *a = &w->host[0], *b = &w->host[1];
    a->beats = a->asking = b->beats = b->asking = 0;
    for (int i = 0; i < 40 * 5; i++) {
        run(w, w->config.beat_ns / 5);
        for (int h = 0; h < 2; h++)
            assert_true(w->now - view(w, h).heard_ns <= w->config.beat_ns * 3 / 2);
    }
    assert_in_range(a->asking, 36, 41);
    assert_in_range(b->asking, 36, 41);
    assert_in_range(a->beats + b->beats, 108, 123);
}

// Who hears nothing goes on by itself.
static void heartbeats_go_on_without_answers(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, 2 * NS_PER_S);
    w->cut[1] = true;
    w->host[0].asking = 0;
    run(w, w->config.timeout_ns);
    assert_true(w->host[0].asking >= w->config.timeout_ns / w->config.beat_ns - 2);
}

static void takeover_without_force_asks_the_vetoes(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS;
    w->cut[0] = w->cut[1] = true;
    run(w, w->config.timeout_ns + w->config.beat_ns);
    command(w, 1, COMMAND_TAKEOVER, 0);
    assert_int_equal(w->host[1].reply_status, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    assert_int_equal(view(w, 1).operation_result, STEP_FAILED);
    assert_true(view(w, 1).verdict->vetoes & END_VETO_ADDRESS);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
}

// It would be drained for ever, with its applications stopped.
static void switchover_to_a_peer_whose_replay_is_paused_is_given_up(void **state)
{
    struct world *w = *state;
    start_pair(w);
    command(w, 1, COMMAND_PAUSE, COMMAND_REPLAY);
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_true(w->host[0].apps);
}

// It would not use a grant: so it is given none, and the active end does not tell of a peer that may take over.
static void who_does_not_apply_is_given_no_grant(void **state)
{
    struct world *w = *state;
    start_pair(w);
    run(w, NS_PER_S);
    assert_true(view(w, 0).granted && view(w, 1).granted);
    command(w, 1, COMMAND_PAUSE, COMMAND_REPLAY);
    run(w, NS_PER_S);
    assert_false(view(w, 0).granted);
    assert_false(view(w, 1).granted);
    assert_non_null(strstr(view(w, 0).why, "replay is paused"));
    assert_false(view(w, 0).alone);
    command(w, 1, COMMAND_RESUME, COMMAND_REPLAY);
    run(w, NS_PER_S);
    assert_true(view(w, 0).granted && view(w, 1).granted);
}

// What an operator has paused is the sending of the end that was active then: not what becomes of that end.
static void a_pause_ends_with_the_role(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->cut[0] = w->cut[1] = true;
    w->waypoint[0] = false;
    command(w, 0, COMMAND_PAUSE, 0);
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_true(view(w, 0).paused);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    w->cut[0] = w->cut[1] = false;
    w->waypoint[0] = true;
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_false(view(w, 0).paused);
    assert_true(view(w, 1).granted && view(w, 0).promotable);
}

// A replica that is opened again and again raises its gates each time, also while no save succeeds.
static void gates_of_replicas_that_were_closed_do_not_pile_up(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *s = &w->host[1];
    s->hold_saves = true;
    for (unsigned i = 0; i < 20; i++)
        step(s, &(struct end_event){
                    .type = EV_REPLICA,
                    .replica = {.what = FOLLOW_BEGIN, .object = 0, .seq = s->data.replica_durable + 1 + i % 2}});
    s->hold_saves = false;
    assert_int_equal(view(w, 1).inconsistent & 1, 1);
}

// DESIGN §4: a full safe queue ends the grant, and the active end goes on alone until there is room again.
static void full_safe_queue_ends_the_grant(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[1].data.full = true;
    run(w, 6 * NS_PER_S);
    assert_false(view(w, 1).granted);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
    w->host[1].data.full = false;
    run(w, 6 * NS_PER_S);
    assert_true(view(w, 1).promotable);
    assert_false(view(w, 0).alone);
}

// Between its first epoch and its first stream an end has nobody who is synchronized with it.
static void first_start_is_not_synchronized_on_the_way(void **state)
{
    struct world *w = *state;
    boot(w, 0, (struct end_start){0});
    boot(w, 1, (struct end_start){0});
    w->host[0].hold_saves = true;
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_TAKING_OVER);
    assert_false(view(w, 0).synchronized);
    assert_true(view(w, 0).pending != 0);
}

// That a full queue would be streamed to its end was told of a place that the peer has no more: nothing is to be waited for.
static void place_that_was_given_up_is_not_drained(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->host[0].full_at_attach = true;
    w->host[0].data.held_from = 0;
    unsigned attaches = w->host[0].attaches;
    step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    unsigned resyncs = w->host[0].resyncs;
    run(w, 3 * NS_PER_S);
    assert_true(w->host[0].attaches > attaches);
    assert_true(w->host[0].resyncs > resyncs);
    assert_int_equal(view(w, 0).pending, 0);
    assert_true(view(w, 1).promotable);
}

// The agreement answers facts that are no longer true: the stream would go on from where nothing is kept.
static void overflow_while_a_meeting_is_proposed_voids_the_proposal(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS;
    w->cut[0] = w->cut[1] = true;
    run(w, 6 * NS_PER_S);
    assert_true(view(w, 0).alone);
    w->host[1].overflow_when_met = true;
    w->cut[0] = w->cut[1] = false;
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).met, MEET_BY_MAP);
    assert_true(view(w, 1).promotable);
}

// Answers go on until `alone` is durable, however long that takes, and are not held for the epoch's.
static void no_answer_waits_for_a_disk_in_async(void **state)
{
    struct world *w = *state;
    w->config.mode = END_ASYNC;
    start_pair(w);
    crash(w, 1);
    w->host[0].hold_saves = true;
    run(w, 10 * NS_PER_S);
    assert_int_equal(w->host[0].gate, GATE_PAIRED); // in `async` nothing waits there
    assert_true(w->host[0].disk.alone);
    step(&w->host[0], &(struct end_event){.type = EV_SAVED, .saved.ticket = w->host[0].ticket});
    run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
    assert_int_equal(view(w, 0).epoch.reason, EPOCH_ALONE);
    // The peer hears of the epoch when it is durable.
    boot(w, 1, (struct end_start){0});
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 1).session, 0);
    w->host[0].hold_saves = false;
    step(&w->host[0], &(struct end_event){.type = EV_SAVED, .saved.ticket = w->host[0].ticket});
    run(w, 5 * NS_PER_S);
    assert_true(view(w, 1).promotable);
}

// Nor does a peer that the stream still goes to hear of the epoch before: if this end crashed, its peer would know more of
// its history than it does itself.
static void nobody_hears_of_an_epoch_before_it_is_durable(void **state)
{
    struct world *w = *state;
    w->config.mode = END_ASYNC;
    start_pair(w);
    struct host *h = &w->host[0];
    h->hold_saves = h->resync_silent = true;
    command(w, 0, COMMAND_RESYNC, 0);
    run(w, NS_PER_S);
    step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket}); // `alone`
    run(w, NS_PER_S);
    assert_int_equal(h->gate, GATE_ALONE);
    assert_int_equal(view(w, 0).epoch.reason, EPOCH_ALONE);
    assert_true(h->streams);
    assert_int_equal(view(w, 1).epoch.number, 1);
    h->hold_saves = false;
    step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    run(w, NS_PER_S);
    assert_int_equal(view(w, 1).epoch.number, 2);
    assert_int_equal(view(w, 1).epoch.id, view(w, 0).epoch.id);
}

static void stalled_peer_is_noticed_in_async(void **state)
{
    struct world *w = *state;
    w->config.mode = END_ASYNC;
    start_pair(w);
    w->host[1].follows = 999; // connected, and takes nothing
    w->host[0].data.numbered += 5;
    run(w, NS_PER_S);
    assert_false(view(w, 0).alone);
    w->host[0].data.lagging = true; // the oldest has waited for T
    run(w, 6 * NS_PER_S);
    assert_true(view(w, 0).alone && view(w, 0).connected);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// What a status calls alone is acknowledged alone: while it waits for the grant to run out, and for the save, it is not.
static void alone_is_said_when_it_is_so(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 1);
    int64_t until = w->now + 10 * NS_PER_S;
    bool going = false;
    for (w->host[0].hold_saves = true; w->now < until; run(w, 10 * NS_PER_MS)) {
        struct end_view v = view(w, 0);
        assert_int_equal(v.alone, w->host[0].gate == GATE_ALONE);
        going |= strstr(v.why, "going alone") != NULL;
    }
    assert_true(going);
    assert_false(view(w, 0).alone);
    w->host[0].hold_saves = false;
    step(&w->host[0], &(struct end_event){.type = EV_SAVED, .saved.ticket = w->host[0].ticket});
    run(w, 100 * NS_PER_MS);
    assert_true(view(w, 0).alone);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// A report about an older order for the same gate says nothing about the newer one.
static void late_report_of_a_gate_is_not_that_of_a_newer_order(void **state)
{
    struct world *w = *state;
    start_pair(w);
    struct host *p = &w->host[0];
    crash(w, 1);
    p->hold_gates = true;
    while (p->gate != GATE_HELD)
        run(w, 10 * NS_PER_MS);
    uint32_t epoch = view(w, 0).epoch.number;
    step(p, &(struct end_event){.type = EV_GATE, .gate = {.gate = GATE_HELD, .ticket = p->gate_ticket - 1}});
    run(w, NS_PER_S);
    assert_int_equal(view(w, 0).epoch.number, epoch);
    step(p, &(struct end_event){.type = EV_GATE,
                                .gate = {.gate = GATE_HELD, .ticket = p->gate_ticket, .numbered = p->data.numbered}});
    assert_int_equal(view(w, 0).epoch.number, epoch + 1);
}

// A large safe queue takes its time to be read: the peer sees an end that lives, and meets it when it knows what it has.
static void end_that_reads_its_queue_is_heard_and_does_not_meet(void **state)
{
    struct world *w = *state;
    start_pair(w);
    uint64_t held = w->host[1].data.replica_durable;
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    w->host[1].data.replica_durable = 0;
    boot(w, 1, (struct end_start){.replica_durable = END_OPENING});
    run(w, 5 * NS_PER_S);
    assert_true(view(w, 0).connected && view(w, 1).connected);
    assert_int_equal(view(w, 1).session, 0);
    command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_true(w->host[1].reply_status < 0);
    w->host[1].data.replica_durable = held;
    push(&w->host[1], &(struct end_event){.type = EV_OPENED, .opened = {.replica_durable = held}});
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 1).met, MEET_RESUME);
    assert_true(view(w, 1).promotable);
}

// A run that came and went without being heard, and whose heartbeat arrives when its successor is known: believed, it
// would make the successor a former run, for ever.
static void late_frame_of_a_run_in_between_is_not_believed(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 0);
    w->probe = END_VETO_ADDRESS;
    boot(w, 0, (struct end_start){0});
    run(w, 50 * NS_PER_MS); // it is told the other end's run, and nothing that names it arrives
    w->cut[0] = true;
    run(w, 2 * NS_PER_S);
    assert_int_not_equal(w->host[0].late.run, 0);
    assert_int_not_equal(view(w, 1).peer_run, w->host[0].late.run);
    crash(w, 0);
    w->cut[0] = false;
    boot(w, 0, (struct end_start){0});
    run(w, 5 * NS_PER_S);
    assert_true(view(w, 1).connected);
    static struct frame late;
    late = w->host[0].late;
    push(&w->host[1], &(struct end_event){.type = EV_FRAME, .frame = {.path = 0, .frame = &late}});
    run(w, 5 * NS_PER_S);
    assert_true(view(w, 1).connected);
    assert_int_not_equal(view(w, 1).peer_run, late.run);
}

// ---- an operator's takeover ----

static void make_stale(struct world *w)
{
    start_pair(w);
    w->probe = END_VETO_ADDRESS; // nothing happens by itself
    w->cut[0] = w->cut[1] = true;
    run(w, 10 * NS_PER_S);
    crash(w, 0);
    w->probe = 0;
}

static void make_mid_resync(struct world *w)
{
    start_pair(w);
    push(&w->host[1], &(struct end_event){.type = EV_REPLICA,
                                          .replica = {.what = FOLLOW_BEGIN, .seq = w->host[0].data.numbered + 1}});
    run(w, 100 * NS_PER_MS);
    crash(w, 0);
    run(w, 5 * NS_PER_S);
}

static void make_dead_replica(struct world *w)
{
    start_pair(w);
    push(&w->host[1],
         &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_FAILED, .text = "the disk is gone"}});
    run(w, 100 * NS_PER_MS);
    crash(w, 0);
    run(w, 3 * NS_PER_S);
}

static void make_probed(struct world *w)
{
    start_pair(w);
    crash(w, 0);
    run(w, w->config.timeout_ns + w->config.beat_ns);
}

static void make_own_store(struct world *w)
{
    start_pair(w);
    command(w, 0, COMMAND_SWITCH, 0);
    run(w, 5 * NS_PER_S);
    crash(w, 0);
    crash(w, 1);
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
}

static void make_split(struct world *w)
{
    start_pair(w);
    crash(w, 0);
    run(w, 6 * NS_PER_S); // S takes over, and is alone
    crash(w, 1);
    boot(w, 0, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    run(w, 2 * NS_PER_S);
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_SPLIT);
    crash(w, 0);
    run(w, 3 * NS_PER_S);
}

static void make_damaged(struct world *w)
{
    start_pair(w);
    crash(w, 0);
    crash(w, 1);
    boot(w, 1, (struct end_start){.state_unreadable = true});
    run(w, 3 * NS_PER_S);
}

static void make_empty(struct world *w)
{
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
}

static void make_short(struct world *w)
{
    make_stale(w);
    w->host[1].short_finish = true;
}

static void takeover(struct world *w, unsigned flags, uint32_t overrides)
{
    w->host[1].reply_status = 1;
    step(&w->host[1], &(struct end_event){.type = EV_COMMAND,
                                          .command = {.command = COMMAND_TAKEOVER, .flags = flags, .id = 1,
                                                      .overrides = overrides}});
    assert_int_equal(w->host[1].reply_status, 0);
    run(w, 300 * NS_PER_MS);
}

// An end with a replaced disk that is told to serve has lost whatever its peer had sent it, and was settled: that is kept
// from the peer's store, though the peer's map says nothing of it.
static void who_serves_from_nothing_has_lost_everything(void **state)
{
    struct world *w = *state;
    start_pair(w);
    assert_int_equal(w->host[0].disk.torn, 0); // a first start: there was nothing to be lost
    crash(w, 1);
    run(w, 6 * NS_PER_S);
    w->host[1].disk = (struct end_state){0};
    w->host[1].data = (struct end_data){.waypoint_ns = 0};
    w->cut[0] = w->cut[1] = w->two_serve = true;
    boot(w, 1, (struct end_start){0});
    run(w, 3 * NS_PER_S);
    takeover(w, COMMAND_FORCE | COMMAND_INCONSISTENT, 0);
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[1].disk.torn, 3);
    w->host[0].own_map[0][0] = 5;
    w->cut[0] = w->cut[1] = false;
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 0).met, MEET_SPLIT);
    command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    run(w, 8 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(w->host[0].salvaged, 3);
    assert_int_equal(w->host[0].salvage_whole, 3);
    assert_int_equal(w->host[1].disk.torn, 0); // synchronized
}

// Likewise one whose queue does not reach what it had confirmed, and one whose state cannot be read.
static void what_was_settled_and_is_gone_is_told(void **state)
{
    struct world *w = *state;
    make_short(w);
    takeover(w, COMMAND_FORCE, END_VETO_LOSS);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[1].disk.torn, 3);
    teardown(state);
    setup(state);
    w = *state;
    start_pair(w);
    crash(w, 0);
    crash(w, 1);
    w->host[1].disk = (struct end_state){0};
    boot(w, 1, (struct end_start){.state_unreadable = true});
    run(w, 3 * NS_PER_S);
    takeover(w, COMMAND_FORCE, 0);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[1].disk.torn, 3);
    teardown(state);
    setup(state);
    w = *state;
    start_pair(w);
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[1].disk.torn, 0); // it had everything
}

// In the middle of a resync the active end is stopped in order, and the other one is told to serve as it is. That both were at
// one position does not make them equal: what was left to resync is gone over, and what the first one has is kept before.
static void who_serves_from_the_middle_of_a_resync_lacks_what_was_left(void **state)
{
    struct world *w = *state;
    start_pair(w);
    push(&w->host[1], &(struct end_event){.type = EV_REPLICA,
                                          .replica = {.what = FOLLOW_BEGIN, .seq = w->host[0].data.numbered + 1}});
    run(w, 100 * NS_PER_MS);
    assert_int_not_equal(view(w, 1).inconsistent, 0);
    command(w, 0, COMMAND_SHUTDOWN, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_STOPPED);
    assert_true(w->host[0].disk.clean);
    crash(w, 0);
    run(w, 3 * NS_PER_S);
    takeover(w, COMMAND_FORCE | COMMAND_INCONSISTENT, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    w->host[0].own_map[0][0] = 0xff00;
    boot(w, 0, (struct end_start){0});
    run(w, 9 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 1).met, MEET_BY_MAP);
    assert_int_equal(w->host[1].added[0][0], 0xff00);
    assert_int_equal(w->host[0].salvaged, 3);
    assert_int_equal(w->host[0].salvage_whole, 3);
    assert_true(view(w, 0).promotable);
    assert_int_equal(w->host[1].disk.torn, 0);
}

// Each veto stands in its situation, refuses, is named with a sentence, refuses still when everything else is overridden,
// and is overridden by its name together with the others that stood.
static void every_veto_is_named_and_overridden_by_its_name(void **state)
{
    static const struct {
        uint32_t veto;
        void (*make)(struct world *);
    } rows[] = {
        {END_VETO_GRANT, make_stale},         {END_VETO_INCONSISTENT, make_mid_resync},
        {END_VETO_REPLICA, make_dead_replica}, {END_VETO_ADDRESS, make_probed},
        {END_VETO_MANAGEMENT, make_probed},   {END_VETO_WAYPOINT, make_probed},
        {END_VETO_ARBITER, make_probed},      {END_VETO_PROBE, make_probed},
        {END_VETO_OWN_STORE, make_own_store}, {END_VETO_SPLIT, make_split},
        {END_VETO_STATE, make_damaged},       {END_VETO_EMPTY, make_empty},
        {END_VETO_LOSS, make_short},
    };
    assert_int_equal(ARRAY_LEN(rows), END_VETO_COUNT);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        teardown(state);
        setup(state);
        struct world *w = *state;
        uint32_t veto = rows[i].veto;
        unsigned resync = veto == END_VETO_INCONSISTENT ? COMMAND_INCONSISTENT : 0;
        const char *name = end_veto_name(i);
        assert_int_equal(end_veto_find(name, strlen(name)), veto);
        if (rows[i].make == make_probed)
            w->probe = veto;
        rows[i].make(w);
        // What shows only on the way needs the rest to be overridden first.
        takeover(w, 0, veto == END_VETO_LOSS ? END_VETO_GRANT : 0);
        struct end_view v = view(w, 1);
        assert_int_not_equal(v.state, END_ACTIVE);
        assert_int_equal(v.operation_result, STEP_FAILED);
        uint32_t stood = v.verdict->vetoes;
        assert_true(stood & veto);
        assert_true(v.verdict->text[i][0] && v.verdict->age[0]);
        if (veto != END_VETO_LOSS)
            assert_non_null(strstr(v.operation_text, name));
        takeover(w, COMMAND_FORCE * (veto == END_VETO_INCONSISTENT), ~veto);
        assert_int_not_equal(view(w, 1).state, END_ACTIVE);
        takeover(w, resync, stood);
        if (view(w, 1).state != END_ACTIVE) // the grant ran out meanwhile
            takeover(w, resync, view(w, 1).verdict->vetoes);
        v = view(w, 1);
        assert_int_equal(v.state, END_ACTIVE);
        assert_int_equal(v.operation_result, STEP_DONE);
        assert_true(v.verdict->overridden & veto);
        assert_int_equal(v.verdict->overridden, v.verdict->vetoes);
    }
    assert_null(end_veto_name(END_VETO_COUNT));
    assert_int_equal(end_veto_find("gran", 4), 0);
}

// `--force` alone overrides whatever stands, and says what; a mid-resync it does not.
static void force_overrides_what_stands_and_says_what(void **state)
{
    struct world *w = *state;
    make_stale(w);
    w->probe = END_VETO_ADDRESS | END_VETO_WAYPOINT;
    takeover(w, COMMAND_FORCE, 0);
    struct end_view v = view(w, 1);
    assert_int_equal(v.state, END_ACTIVE);
    assert_int_equal(v.verdict->overridden, END_VETO_GRANT | END_VETO_ADDRESS | END_VETO_WAYPOINT);
    assert_true(v.verdict->loss_known && v.verdict->age_ns >= 8 * NS_PER_S);
    assert_non_null(strstr(v.verdict->age, "not known"));
}

// What the active end had told of and is not here is counted.
static void age_of_a_takeover_counts_what_was_told(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS;
    w->host[0].streams = 0; // nothing arrives any more
    w->host[0].data.numbered += 7;
    w->host[0].data.backlog = 7000;
    w->host[0].data.behind = 9000;
    run(w, 600 * NS_PER_MS);
    assert_int_equal(view(w, 1).peer_behind, 9000);
    crash(w, 0);
    run(w, 2200 * NS_PER_MS);
    takeover(w, 0, 0);
    struct end_view v = view(w, 1);
    assert_int_equal(v.verdict->vetoes, END_VETO_ADDRESS);
    assert_int_equal(v.verdict->records, 7);
    assert_int_equal(v.verdict->bytes, 7000);
    assert_null(strstr(v.verdict->age, "not known"));
}

// Where no grant is ever given, a synchronized passive end needs no force; but it takes over at a word only.
static void manual_takeover_of_a_synchronized_end_needs_no_force(void **state)
{
    struct world *w = *state;
    w->config.automatic = false;
    start_pair(w);
    assert_false(view(w, 1).granted);
    crash(w, 0);
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    takeover(w, 0, 0);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(view(w, 1).verdict->vetoes, 0);
    assert_true(view(w, 1).verdict->age[0]);
}

static void manual_takeover_behind_an_end_that_was_alone_is_refused(void **state)
{
    struct world *w = *state;
    w->config.automatic = false;
    start_pair(w);
    command(w, 0, COMMAND_PAUSE, 0);
    run(w, 3 * NS_PER_S);
    crash(w, 0);
    run(w, 10 * NS_PER_S);
    takeover(w, 0, 0);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    assert_int_equal(view(w, 1).verdict->vetoes, END_VETO_GRANT);
}

// A takeover discards what lies behind the valid prefix only when the regions of that are durably in this end's own map;
// its epoch comes behind that. A crash on the way: the next takeover goes the same way.
static void what_a_takeover_discards_is_in_the_map_first(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    uint64_t map[2][2] = {{0xf0, 0}, {UINT64_C(1) << 63, 3}};
    start_pair(w);
    h->discards = h->hold_map = true;
    memcpy(h->lost_map, map, sizeof(map));
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_TAKING_OVER);
    assert_memory_equal(h->added, map, sizeof(map));
    assert_int_equal(h->discarded, 0);
    assert_int_equal(h->disk.role, ROLE_PASSIVE);
    // The word of another sync counts for nothing.
    push(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_DURABLE, .ticket = 99}});
    run(w, NS_PER_S);
    assert_int_equal(h->discarded, 0);
    crash(w, 1);
    memset(h->added, 0, sizeof(h->added));
    h->hold_map = false;
    boot(w, 1, (struct end_start){.replica_durable = h->data.replica_durable});
    run(w, 3 * NS_PER_S);
    assert_int_equal(h->discarded, 0);
    takeover(w, COMMAND_FORCE, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(h->discarded, 1);
    assert_memory_equal(h->durable_map, map, sizeof(map));
    assert_int_equal(h->disk.map_void, 0);
    assert_int_equal(h->fills, 0);
}

// A safe queue that took nothing yet, for want of room say, does not keep an end from being told to serve.
static void a_queue_that_has_not_begun_says_nothing_of_the_position(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    w->config.automatic = false;
    start_pair(w);
    crash(w, 0);
    run(w, 5 * NS_PER_S);
    h->data.replica_durable = 0;
    takeover(w, COMMAND_FORCE | COMMAND_INCONSISTENT, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    const struct epoch *epoch = history_current(&h->disk.history);
    assert_true(epoch->parent[0].seq == EPOCH_SEQ_UNKNOWN);
    assert_int_equal(h->disk.torn, 3);
    assert_true(h->fills > 0);
}

// Where nobody knows which regions they are: everything counts as set, durably, before it is discarded.
static void what_a_takeover_discards_may_be_unknown(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    start_pair(w);
    unsigned fills = h->fills;
    h->discards = h->unknown = h->hold_good = true;
    crash(w, 0);
    run(w, 8 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(h->discarded, 1);
    assert_int_equal(h->disk.map_void, 3);
    assert_true(h->fills > fills);
}

// A replica that has failed is replayed as far as it is whole when an operator wants it; where that fails, too, the map
// counts as wholly set.
static void a_dead_replica_is_replayed_as_far_as_it_goes(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    make_dead_replica(w);
    h->discards = true;
    h->lost_map[0][0] = 4;
    uint64_t durable = h->data.replica_durable;
    takeover(w, COMMAND_FORCE, 0);
    run(w, 3 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_int_equal(h->discarded, 1);
    assert_int_equal(h->disk.map_void, 0);
    const struct epoch *epoch = history_current(&h->disk.history);
    assert_int_equal(epoch->parent[0].seq, durable);
}

// An operator needs no grant: he makes the peer active while this end is not scheduled.
static void end_that_was_not_scheduled_without_a_grant_steps_down(void **state)
{
    struct world *w = *state;
    w->config.automatic = false;
    start_pair(w);
    assert_int_equal(w->host[0].deadline, INT64_MAX);
    assert_in_range(w->host[0].lease, w->now, w->now + w->config.timeout_ns - w->config.margin_ns);
    int64_t stops = w->now;
    w->two_serve = true; // nobody is there to take the address off
    w->host[0].up = false;
    run(w, w->config.timeout_ns + NS_PER_S);
    takeover(w, 0, 0);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
    assert_true(w->host[0].lease < stops + w->config.timeout_ns);
    w->host[0].up = true;
    step(&w->host[0], &(struct end_event){.type = EV_TICK});
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
    run(w, 10 * NS_PER_S);
    assert_int_equal(view(w, 0).state, END_PASSIVE);
    assert_int_equal(view(w, 1).state, END_ACTIVE);
}

static void end_that_was_not_scheduled_alone_goes_on_after_silence(void **state)
{
    struct world *w = *state;
    start_pair(w);
    crash(w, 1);
    run(w, 20 * NS_PER_S);
    assert_true(view(w, 0).alone);
    w->host[0].up = false;
    run(w, 10 * NS_PER_S);
    w->host[0].up = true;
    step(&w->host[0], &(struct end_event){.type = EV_TICK});
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    run(w, w->config.timeout_ns / 2);
    assert_int_equal(view(w, 0).state, END_SUSPENDED);
    run(w, w->config.timeout_ns);
    assert_int_equal(view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// The answer of the vetoes comes when the active end is back: nothing is taken over.
static void takeover_is_given_up_when_the_active_is_heard_again(void **state)
{
    struct world *w = *state;
    start_pair(w);
    w->probe = END_VETO_ADDRESS;
    w->cut[0] = w->cut[1] = true;
    run(w, 10 * NS_PER_S);
    w->host[1].hold_probes = true;
    takeover(w, COMMAND_FORCE, 0);
    w->cut[0] = w->cut[1] = false;
    run(w, 2 * NS_PER_S);
    assert_int_equal(view(w, 1).state, END_PASSIVE);
    assert_int_equal(view(w, 1).operation_result, STEP_FAILED);
    assert_non_null(strstr(view(w, 1).operation_text, "switch"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(first_start_ends_paired_and_granted),
        T(silence_leads_to_a_takeover),
        T(returning_active_yields),
        T(veto_keeps_the_passive_end_passive),
        T(cut_off_active_steps_down_before_the_takeover),
        T(blink_of_everything_suspends_and_goes_on),
        T(switch_goes_there_and_back),
        T(switch_keeps_the_deadline_until_the_address_is_off),
        T(address_that_stays_keeps_the_deadline),
        T(stepped_down_end_takes_its_address_off_itself),
        T(takeover_with_the_active_connected_is_refused),
        T(restart_of_the_active_daemon_goes_on),
        T(a_failed_flush_is_not_forgotten_by_a_restart),
        T(a_store_that_is_opened_again_is_resynced_in_the_same_reign),
        T(restart_of_the_passive_daemon_resumes),
        T(both_restarted_the_former_active_leads),
        T(alone_and_restarted_serves_again_by_itself),
        T(paired_and_restarted_does_not_serve_by_itself),
        T(strict_hands_the_role_to_the_passive_end),
        T(strict_waits_for_the_replay_of_a_mirrors_marks),
        T(replica_in_the_midst_of_its_marks_is_not_met),
        T(grant_that_ran_out_unasked_is_no_takeover),
        T(takeover_says_what_it_waits_for),
        T(command_that_was_lost_is_said_again),
        T(command_right_behind_a_restart_is_answered),
        T(command_of_a_lost_session_ends),
        T(switch_that_is_given_up_fails_where_it_was_typed),
        T(switch_to_an_end_that_dies_is_answered),
        T(switch_to_an_end_that_cannot_serve_is_answered),
        T(takeover_by_force_that_cannot_serve_is_answered),
        T(both_alone_is_a_split),
        T(what_is_answered_alone_during_a_meeting_makes_a_split),
        T(resolve_keeps_the_end_that_serves),
        T(resolve_keeps_the_end_that_had_stopped),
        T(resolve_after_both_have_served),
        T(resolve_is_refused_without_a_split),
        T(resolve_is_refused_while_one_is_away),
        T(resolve_that_was_cut_off_changes_nothing),
        T(resolve_goes_on_after_a_crash_of_both),
        T(resolve_after_damage),
        T(what_was_forgotten_is_salvaged_whenever_it_crashes),
        T(empty_end_beside_a_damaged_one_is_not_kept),
        T(salvage_with_a_damaged_map_is_in_doubt),
        T(damaged_state_stays_so_until_it_is_decided),
        T(salvage_is_of_what_was_written_alone),
        T(power_loss_of_an_active_end_is_remembered),
        T(only_who_held_something_alone_salvages),
        T(who_was_stopped_in_order_salvages_what_it_wrote_alone),
        T(full_salvage_stops_the_stream),
        T(full_salvage_is_said_behind_a_restart),
        T(split_end_follows_when_it_holds_nothing_of_its_own),
        T(goodbye_lets_the_active_go_alone_at_once),
        T(goodbye_of_the_guard_lets_the_active_go_alone_at_once),
        T(late_frame_behind_the_goodbye_counts_for_nothing),
        T(goodbye_of_a_run_that_never_echoed_counts_for_nothing),
        T(goodbye_is_destroyed_before_the_epoch),
        T(nothing_is_answered_alone_before_it_is_durable),
        T(going_alone_is_not_paired),
        T(stop_ends_protection_in_order),
        T(active_that_hears_of_a_takeover_steps_down),
        T(restart_without_a_waypoint_keeps_the_lease),
        T(echo_heard_while_waiting_is_not_kept),
        T(no_goodbye_once_the_epoch_is_opened),
        T(no_goodbye_of_an_end_that_was_active),
        T(stopped_end_does_not_go_on_by_itself),
        T(two_gates_wait_at_a_time),
        T(failed_save_is_tried_again),
        T(what_a_takeover_discards_is_in_the_map_first),
        T(what_a_takeover_discards_may_be_unknown),
        T(a_queue_that_has_not_begun_says_nothing_of_the_position),
        T(a_dead_replica_is_replayed_as_far_as_it_goes),
        T(maps_are_united_before_the_stream),
        T(map_that_is_void_on_its_disk_is_united_all_the_same),
        T(map_that_cannot_be_written_is_recorded_first),
        T(recorded_map_counts_as_wholly_set_at_the_start),
        T(lost_replica_is_compared_as_a_whole),
        T(damaged_queue_is_compared_as_a_whole),
        T(queue_of_a_forgotten_line_says_nothing),
        T(follower_that_went_back_is_compared_as_a_whole),
        T(follower_that_went_back_is_seen_behind_a_restart),
        T(follower_that_cannot_tell_its_position_is_compared_as_a_whole),
        T(first_start_is_not_synchronized_on_the_way),
        T(full_safe_queue_ends_the_grant),
        T(guard_that_acts_by_itself_holds_the_answers),
        T(role_taken_back_is_durable),
        T(guard_in_the_middle_of_a_switchover_leads_back),
        T(guard_in_the_middle_of_a_restart_is_no_thaw),
        T(guard_of_a_former_run_does_not_stop_a_takeover),
        T(late_frame_of_an_unknown_run_is_no_restart),
        T(queue_of_a_former_reign_is_not_gone_on_with),
        T(queue_of_this_reign_is_gone_on_with),
        T(epoch_of_going_alone_gets_its_record_after_a_crash),
        T(epoch_without_its_record_gets_it_after_a_crash),
        T(epoch_that_was_being_saved_is_gone_on_with),
        T(epoch_of_a_queue_that_is_not_the_next_one_is_not_believed),
        T(takeover_of_a_suspended_end_waits_for_the_grant_and_opens_anew),
        T(takeover_of_a_suspended_end_has_no_deadline),
        T(late_word_of_closed_exports_opens_nothing_twice),
        T(overflow_in_the_middle_of_a_switchover_gives_it_up),
        T(exports_that_do_not_come_back_are_tried_at_leisure),
        T(failed_replica_is_tried_anew_and_resynced),
        T(full_queue_is_streamed_to_its_end_before_the_resync),
        T(mark_of_the_old_stream_does_not_make_a_replica_consistent),
        T(queue_that_a_new_stream_replaces_is_let_pass),
        T(report_of_an_old_resync_does_not_count),
        T(equality_is_remembered),
        T(equality_is_said_by_both_ends),
        T(difference_waits_for_its_repair),
        T(difference_is_repaired_at_once_when_told_to),
        T(verify_is_given_up_with_its_session),
        T(paused_end_sends_nothing),
        T(nothing_is_promised_without_a_guard),
        T(slow_restart_without_a_grant_goes_on),
        T(confirmation_of_a_former_session_counts_for_nothing),
        T(late_word_of_the_applications_is_not_theirs),
        T(restarted_peer_that_took_over_keeps_a_suspended_end_down),
        T(end_that_was_not_scheduled_steps_down),
        T(end_that_was_not_scheduled_without_a_grant_steps_down),
        T(end_that_was_not_scheduled_alone_goes_on_after_silence),
        T(lease_ends_before_the_peer_takes_over_after_a_one_way_cut),
        T(a_late_yes_does_not_last_longer),
        T(going_alone_waits_for_the_margin),
        T(lease_that_ends_before_the_grant_counts),
        T(bound_is_durable_before_it_is_given),
        T(joining_waits_until_the_peer_has_all),
        T(synchronized_is_what_is_applied),
        T(answers_are_heartbeats),
        T(heartbeats_go_on_without_answers),
        T(takeover_without_force_asks_the_vetoes),
        T(switchover_to_a_peer_whose_replay_is_paused_is_given_up),
        T(who_does_not_apply_is_given_no_grant),
        T(a_pause_ends_with_the_role),
        T(gates_of_replicas_that_were_closed_do_not_pile_up),
        T(place_that_was_given_up_is_not_drained),
        T(overflow_while_a_meeting_is_proposed_voids_the_proposal),
        T(stopped_end_stays_stopped_until_it_is_resumed),
        T(resume_after_a_stop_needs_no_resync),
        T(shutdown_hands_over),
        T(shutdown_stops_and_the_next_start_goes_on),
        T(shutdown_beside_a_grant_is_no_proof_that_none_is_out),
        T(shutdown_without_a_peer_stops),
        T(suspended_end_that_yields_meets_once),
        T(no_answer_waits_for_a_disk_in_async),
        T(nobody_hears_of_an_epoch_before_it_is_durable),
        T(stalled_peer_is_noticed_in_async),
        T(alone_is_said_when_it_is_so),
        T(late_report_of_a_gate_is_not_that_of_a_newer_order),
        T(end_that_reads_its_queue_is_heard_and_does_not_meet),
        T(late_frame_of_a_run_in_between_is_not_believed),
        T(who_serves_from_nothing_has_lost_everything),
        T(what_was_settled_and_is_gone_is_told),
        T(who_serves_from_the_middle_of_a_resync_lacks_what_was_left),
        T(every_veto_is_named_and_overridden_by_its_name),
        T(force_overrides_what_stands_and_says_what),
        T(age_of_a_takeover_counts_what_was_told),
        T(manual_takeover_of_a_synchronized_end_needs_no_force),
        T(manual_takeover_behind_an_end_that_was_alone_is_refused),
        T(takeover_is_given_up_when_the_active_is_heard_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
