// SPDX-License-Identifier: Apache-2.0
// The active end's data path, wired as the daemon's front and stream threads wire it: exports, the life of updates, the
// producer's side of the unsafe queue, the sender, the resync's reads. What is decided is decided in queues/ and
// common/end.
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAIR_ID     UINT64_C(0x5157)

// ---- volumes ----------------------------------------------------------------------------------------------------

static void volume_done(struct host *h, void *arg, uint64_t i)
{
    (void)arg;
    h->volume_scheduled[i]--;
    (void)fake_volume_complete(h->volume[i]);
    if (h->front.updates)
        front_turn(h);
    if (h->replica)
        stream_turn(h);
    volumes_poll(h);
}

// Everything that was started at a store ends some time later.
void volumes_poll(struct host *h)
{
    struct sim *s = h->sim;
    for (unsigned i = 0; i < s->volumes; i++) {
        while (h->volume_scheduled[i] < fake_volume_active(h->volume[i])) {
            int64_t delay = (int64_t)(20 + rnd(s, 400)) * NS_PER_US;
            if (chance(s, 15))
                delay += (int64_t)rnd(s, 60) * NS_PER_MS;
            h->volume_scheduled[i]++;
            plan_daemon(h, s->now + delay, volume_done, NULL, i);
        }
    }
}

void volumes_finish(struct host *h)
{
    for (unsigned i = 0; i < h->sim->volumes; i++) {
        block_kick(fake_volume_of(h->volume[i]));
        while (fake_volume_complete(h->volume[i]))
            ;
    }
}

// The process is gone: each request that was under way has happened or not.
static void volumes_abort(struct host *h)
{
    unsigned all = 1U << BLOCK_READ | 1U << BLOCK_WRITE | 1U << BLOCK_ZERO | 1U << BLOCK_DISCARD |
                   1U << BLOCK_FLUSH;
    for (unsigned i = 0; i < h->sim->volumes; i++) {
        block_kick(fake_volume_of(h->volume[i]));
        do
            fake_volume_fail(h->volume[i], chance(h->sim, 500) ? all : 0, -ESHUTDOWN);
        while (fake_volume_complete(h->volume[i]));
        fake_volume_fail(h->volume[i], 0, 0);
    }
}

// ---- memory -----------------------------------------------------------------------------------------------------

int memory_copy(int from)
{
    int to = memfd_create("unsafe", MFD_CLOEXEC);
    off_t end = lseek(from, 0, SEEK_END), at = 0;
    ENSURE(to >= 0 && ftruncate(to, end) == 0);
    uint8_t buffer[65536];
    while ((at = lseek(from, at, SEEK_DATA)) >= 0 && at < end) {
        off_t hole = lseek(from, at, SEEK_HOLE);
        while (at < hole) {
            ssize_t n = pread(from, buffer, MIN(sizeof(buffer), (size_t)(hole - at)), at);
            ENSURE(n > 0 && pwrite(to, buffer, (size_t)n, at) == n);
            at += n;
        }
    }
    return to;
}

static struct unsafe_config queue_config(const struct host *h)
{
    const struct front *f = &h->front;
    return (struct unsafe_config){
        .pair = PAIR_ID,
        .boot = h->boot_token,
        .epoch = f->epoch.id,
        .start = f->seq ? f->seq - 1 : 0,
        .bound = f->seq + 1024,
        .ring_bytes = UNSAFE_RING_MIN + 4 * (h->sim->size + UNSAFE_RECEIVE_MAX),
        .payload_max = (uint32_t)h->sim->size, // a resync reads as much at once
    };
}

bool front_find_queue(struct host *h, struct end_start *start)
{
    struct unsafe_config config = queue_config(h);
    struct unsafe *queue = NULL;
    struct error err = {0};
    if (h->memory < 0)
        return false;
    int r = unsafe_open_fd(h->memory, &config, &queue, &err);
    if (r < 0) {
        fail(h->sim, "%c: the unsafe queue of the former run is void: %s", h->letter, err.text);
        return false;
    }
    struct unsafe_pending pending;
    unsigned cursor = 0;
    start->queue_numbered = unsafe_numbered(queue);
    start->queue_epoch = unsafe_epoch(queue);
    start->queue_pending = unsafe_pending(queue, &cursor, &pending);
    unsafe_free(queue);
    return true;
}

// ---- what updates asks for --------------------------------------------------------------------------------------

static int64_t real_ns(void *user)
{
    return local_now(user);
}

static void wake_sender(void *user, bool barrier)
{
    struct host *h = user;
    h->front.numbered = true;
    h->front.barrier |= barrier;
}

static void overflow(struct host *h)
{
    struct front *f = &h->front;
    if (!f->attached)
        return;
    front_lane_stop(h);
    unsafe_detach(f->queue, READER_PEER);
    f->attached = false;
    cover_count("overflows");
    trace(h->sim, h, "the unsafe queue is full: it lets go of the peer");
    struct end_event ev = {.type = EV_OVERFLOW};
    ev.failed.text = "the unsafe queue overflowed";
    report_event(h, &ev);
}

static void updates_event(void *user, const struct updates_event *ev)
{
    struct host *h = user;
    struct end_event out = {.type = EV_STORE};
    if (h->dying)
        return;
    switch (ev->kind) {
    case UPDATES_EVENT_LEVEL:
        if (ev->level == UNSAFE_FULL)
            overflow(h);
        break;
    case UPDATES_EVENT_FLUSH_FAILED:
        out.failed.text = "a flush failed";
        report_event(h, &out);
        break;
    case UPDATES_EVENT_COPIED:
        resync_copied(h->front.resync, ev->object, ev->offset, ev->length,
                      ev->status < 0 ? 0 : ev->seq);
        break;
    case UPDATES_EVENT_WRITE_FAILED:
        trace(h->sim, h, "a write failed: mark %llu", (unsigned long long)ev->seq);
        break;
    case UPDATES_EVENT_ROOM:
    case UPDATES_EVENT_BOUND:
    case UPDATES_EVENT_READ_FAILED:
        break;
    }
}

static const struct updates_ops updates_ops = {
    .real_ns = real_ns,
    .wake_sender = wake_sender,
    .event = updates_event,
};

// ---- gate -------------------------------------------------------------------------------------------------------

static enum updates_gate gate_of(enum end_gate gate)
{
    static const enum updates_gate gates[] = {
        [GATE_CLOSED] = UPDATES_CLOSED,
        [GATE_HELD] = UPDATES_HELD,
        [GATE_PAIRED] = UPDATES_PAIRED,
        [GATE_ALONE] = UPDATES_ALONE,
    };
    return gates[gate];
}

static void gate_report(struct host *h, enum end_gate gate)
{
    struct end_event ev = {.type = EV_GATE};
    ev.gate.gate = gate;
    ev.gate.numbered = unsafe_numbered(h->front.queue);
    report_event(h, &ev);
}

static void held_drained(void *user)
{
    struct host *h = user;
    if (!h->dying && h->front.gate == GATE_HELD)
        gate_report(h, GATE_HELD);
}

void front_gate(struct host *h, enum end_gate gate)
{
    struct front *f = &h->front;
    if (!f->updates)
        return;
    f->gate = gate;
    f->lease_over = false;
    (void)updates_set_gate(f->updates, gate_of(gate));
    if (gate == GATE_HELD)
        updates_drain(f->updates, held_drained);
    else
        gate_report(h, gate);
}

static void keep_lease(struct host *h)
{
    struct front *f = &h->front;
    if (!f->updates || f->gate == GATE_HELD || f->gate == GATE_CLOSED)
        return;
    bool over = local_now(h) >= h->figures.lease_ns;
    if (over == f->lease_over)
        return;
    f->lease_over = over;
    (void)updates_set_gate(f->updates, over ? UPDATES_HELD : gate_of(f->gate));
}

bool front_serves(const struct host *h)
{
    const struct front *f = &h->front;
    return h->running && f->updates && (f->gate == GATE_PAIRED || f->gate == GATE_ALONE) &&
           local_now(h) < h->figures.lease_ns && !h->frozen;
}

// ---- opening and closing ----------------------------------------------------------------------------------------

static void exports_report(struct host *h, bool open, int status)
{
    struct end_event ev = {.type = EV_EXPORTS};
    ev.exports.open = open;
    ev.exports.status = status;
    ev.exports.numbered = h->front.queue ? unsafe_numbered(h->front.queue) : 0;
    report_event(h, &ev);
}

// The judge sees everything that was numbered, before anything else becomes of it.
void front_show(struct host *h)
{
    struct front *f = &h->front;
    if (!f->queue || h->dying)
        return;
    uint64_t last = unsafe_numbered(f->queue);
    for (uint64_t seq = unsafe_released(f->queue, READER_JUDGE) + 1; seq <= last; seq++)
        ledger_record(h, unsafe_record(f->queue, seq), unsafe_payload(f->queue, seq));
    unsafe_release(f->queue, READER_JUDGE, last);
}

static void drop_queue(struct host *h)
{
    struct front *f = &h->front;
    f->sender = sender_free(f->sender);
    f->lane = 0;
    f->updates = updates_free(f->updates);
    f->queue = unsafe_free(f->queue);
    f->attached = f->served = false;
    guest_lost(h); // what was under way was freed with it
}

static int make_queue(struct host *h, struct error *err)
{
    struct front *f = &h->front;
    struct unsafe_config config = queue_config(h);
    int r;
    if (f->queue && f->open_recover)
        return 0; // closed by this run, and taken back
    drop_queue(h);
    if (f->open_recover) {
        r = unsafe_open_fd(h->memory, &config, &f->queue, err);
    } else {
        r = unsafe_create(NULL, &config, &f->queue, err);
        if (h->memory >= 0)
            (void)close(h->memory);
        h->memory = r < 0 ? -1 : dup(unsafe_fd(f->queue));
    }
    if (r < 0)
        return r;
    if (!f->open_recover)
        unsafe_attach(f->queue, READER_JUDGE, f->seq - 1);
    static const enum updates_mode modes[] = {UPDATES_ASYNC, UPDATES_SYNC, UPDATES_STRICT};
    f->updates = updates_new(f->queue, modes[h->sim->config.mode], &updates_ops, h);
    f->sender = sender_new(f->queue, READER_PEER, &(struct sender_config){0});
    ENSURE(f->updates && f->sender);
    return 0;
}

static void opened(void *user)
{
    struct host *h = user;
    struct front *f = &h->front;
    if (h->dying)
        return;
    if (!f->open_recover) {
        uint8_t encoded[EPOCH_ENCODED_SIZE];
        uint64_t seq = 0;
        judge_opened(h, &f->epoch);
        epoch_encode(&f->epoch, encoded);
        unsafe_attach(f->queue, READER_PEER, f->seq - 1);
        int r = updates_open_epoch(f->updates, f->epoch.id, encoded, sizeof(encoded), &seq);
        ENSURE(r == 0 && seq == f->seq);
    }
    f->attached = unsafe_attached(f->queue, READER_PEER);
    f->gate = GATE_HELD;
    (void)updates_set_gate(f->updates, UPDATES_HELD);
    f->served = true;
    exports_report(h, true, 0);
}

void front_open(struct host *h, bool recover, const struct epoch *epoch, uint64_t seq)
{
    struct front *f = &h->front;
    struct error err = {0};
    f->open_recover = recover;
    f->epoch = *epoch;
    f->seq = seq;
    int r = make_queue(h, &err);
    if (r < 0) {
        trace(h->sim, h, "the exports do not open: %s", err.text);
        exports_report(h, false, r);
        return;
    }
    for (uint16_t i = 0; i < h->sim->volumes; i++)
        updates_set_volume(f->updates, i, fake_volume_of(h->volume[i]), 4096);
    if (recover)
        updates_recover(f->updates, opened);
    else
        opened(h);
}

static void close_flushed(struct block_request *request, int status)
{
    struct host *h = request->owner;
    if (status < 0 && h->front.flush_status == 0)
        h->front.flush_status = status;
    h->front.flushes--;
}

static void closing_drained(void *user)
{
    struct host *h = user;
    struct front *f = &h->front;
    if (h->dying)
        return;
    f->flush_status = 0;
    f->flushes = 0;
    for (unsigned i = 0; i < h->sim->volumes; i++) {
        f->flushes++;
        f->close_flush[i] =
            (struct block_request){.op = BLOCK_FLUSH, .done = close_flushed, .owner = h};
        block_submit(fake_volume_of(h->volume[i]), &f->close_flush[i]);
        block_kick(fake_volume_of(h->volume[i]));
    }
    f->closing = true;
}

static void close_when_flushed(struct host *h)
{
    struct front *f = &h->front;
    if (!f->closing || f->flushes > 0)
        return;
    f->closing = false;
    for (uint16_t i = 0; i < h->sim->volumes; i++)
        updates_set_volume(f->updates, i, NULL, 1);
    exports_report(h, false, f->flush_status);
}

void front_close(struct host *h)
{
    struct front *f = &h->front;
    f->served = false;
    f->gate = GATE_CLOSED;
    if (!f->updates) {
        exports_report(h, false, 0);
        return;
    }
    (void)updates_set_gate(f->updates, UPDATES_CLOSED);
    updates_drain(f->updates, closing_drained);
}

void front_abandon(struct host *h, bool report)
{
    struct front *f = &h->front;
    f->served = f->closing = false;
    resync_start(f->resync, 0, 0);
    f->gate = GATE_CLOSED;
    if (f->updates) {
        (void)updates_set_gate(f->updates, UPDATES_CLOSED);
        volumes_finish(h);
        front_show(h);
    }
    drop_queue(h);
    if (h->memory >= 0)
        (void)close(h->memory);
    h->memory = -1;
    if (report)
        exports_report(h, false, 0);
}

void front_init(struct host *h)
{
    struct front *f = &h->front;
    uint64_t sizes[VOLUMES_MAX] = {h->sim->size, h->sim->size};
    memset(f, 0, sizeof(*f));
    f->turn_at = INT64_MAX;
    f->resync = resync_new(sizes, h->sim->volumes);
    ENSURE(f->resync);
}

void front_stop(struct host *h, bool keep_memory)
{
    struct front *f = &h->front;
    if (f->queue && keep_memory) {
        front_show(h);
        int copy = memory_copy(h->memory);
        (void)close(h->memory);
        h->memory = copy;
        h->dying = true;
        volumes_abort(h);
    } else if (f->queue) {
        volumes_finish(h);
        front_show(h);
    }
    drop_queue(h);
    h->dying = false;
    f->resync = resync_free(f->resync);
}

// ---- the rest of the letters ------------------------------------------------------------------------------------

void front_bound(struct host *h, uint64_t seq)
{
    if (h->front.updates)
        updates_set_bound(h->front.updates, seq);
}

void front_epoch(struct host *h, const struct epoch *epoch)
{
    struct front *f = &h->front;
    uint8_t encoded[EPOCH_ENCODED_SIZE];
    uint64_t seq = 0;
    if (!f->updates)
        return;
    front_show(h);
    epoch_encode(epoch, encoded);
    int r = updates_open_epoch(f->updates, epoch->id, encoded, sizeof(encoded), &seq);
    if (r == -ENOSPC) {
        overflow(h);
        r = updates_open_epoch(f->updates, epoch->id, encoded, sizeof(encoded), &seq);
    }
    ENSURE(r == 0);
    ENSURE(seq == epoch->first_seq);
}

void front_attach(struct host *h)
{
    struct front *f = &h->front;
    if (!f->queue)
        return;
    if (f->attached)
        unsafe_detach(f->queue, READER_PEER);
    uint64_t at = unsafe_numbered(f->queue);
    unsafe_attach(f->queue, READER_PEER, at);
    f->attached = true;
    struct end_event ev = {.type = EV_ATTACHED};
    ev.attached.seq = at + 1;
    report_event(h, &ev);
}

void front_detach(struct host *h)
{
    struct front *f = &h->front;
    if (f->queue && f->attached)
        unsafe_detach(f->queue, READER_PEER);
    f->attached = false;
}

void front_resync(struct host *h, uint64_t objects)
{
    resync_start(h->front.resync, objects, local_now(h));
    if (objects)
        cover_count("resyncs");
}

void front_answer(struct host *h, const void *message)
{
    struct batch_answer a;
    memcpy(&a, message, sizeof(a));
    trace(h->sim, h, "resync answer to %llu", (unsigned long long)le64_get(a.seq));
    resync_answer(h->front.resync, le16_get(a.object), le64_get(a.seq), le64_get(a.offset),
                  le32_get(a.blocks), (const uint8_t *)message + sizeof(a));
}

// ---- resync -----------------------------------------------------------------------------------------------------

static bool resync_step(struct host *h, const struct resync_step *step)
{
    struct front *f = &h->front;
    uint64_t seq = 0;
    int r = 0;
    switch (step->kind) {
    case RESYNC_BEGIN:
        r = updates_mark(f->updates, MARK_RESYNC_BEGIN, step->object, &seq);
        break;
    case RESYNC_END:
        r = updates_mark(f->updates, MARK_RESYNC_END, step->object, &seq);
        break;
    case RESYNC_CHECK:
        r = updates_check(f->updates, step->object, step->offset, step->length);
        break;
    case RESYNC_CHUNK:
        r = updates_resync_chunk(f->updates, step->object, step->offset, step->length);
        break;
    }
    if (r < 0)
        return false;
    static const char *const names[] = {"begin", "check", "chunk", "end"};
    trace(h->sim, h, "resync %s volume %u, %u KiB at %llu KiB, seq %llu", names[step->kind],
          step->object, step->length / 1024, (unsigned long long)step->offset / 1024,
          (unsigned long long)seq);
    resync_began(f->resync, step, local_now(h));
    if (step->kind == RESYNC_BEGIN || step->kind == RESYNC_END)
        f->numbered = true;
    if (step->kind == RESYNC_END) {
        struct end_event ev = {.type = EV_RESYNCED};
        ev.resynced.object = step->object;
        ev.resynced.seq = seq;
        report_event(h, &ev);
    }
    return true;
}

static void resync_turn(struct host *h)
{
    struct front *f = &h->front;
    if (!f->updates || !resync_running(f->resync) || !f->attached)
        return;
    struct resync_step step;
    struct unsafe_stat stat;
    resync_applied(f->resync, h->figures.applied, local_now(h));
    for (int i = 0; i < 16 && resync_next(f->resync, local_now(h), &step); i++) {
        unsafe_stat(f->queue, &stat);
        if (stat.bytes >= stat.limit_bytes / 4 || !resync_step(h, &step))
            break;
    }
}

// ---- the lane ---------------------------------------------------------------------------------------------------

static void lane_publish(struct host *h)
{
    struct positions p;
    struct figures *g = &h->figures;
    sender_positions(h->front.sender, &p);
    if (p.durable != g->durable)
        g->moved_ns = local_now(h);
    g->applied = p.applied;
    g->durable = p.durable;
}

void front_lane_start(struct host *h, uint64_t session, uint64_t from)
{
    struct front *f = &h->front;
    if (!f->sender || unsafe_released(f->queue, READER_PEER) > from ||
        unsafe_numbered(f->queue) < from)
        return;
    sender_start(f->sender, session, from, local_now(h));
    f->lane = session;
    f->blocked = false;
    lane_publish(h);
    front_turn(h);
}

void front_lane_stop(struct host *h)
{
    struct front *f = &h->front;
    if (f->sender && sender_running(f->sender))
        sender_stop(f->sender);
    f->lane = 0;
}

static bool lane_running(const struct front *f)
{
    return f->sender && sender_running(f->sender);
}

void front_rewind(struct host *h)
{
    struct front *f = &h->front;
    if (!lane_running(f))
        return;
    sender_rewind(f->sender, local_now(h));
    f->blocked = false;
    front_turn(h);
}

void front_ack(struct host *h, const void *message, size_t size)
{
    struct error err = {0};
    if (!lane_running(&h->front))
        return;
    int r = sender_ack(h->front.sender, message, size, local_now(h), &err);
    if (r == -EPROTO)
        fail(h->sim, "%c: an acknowledgement is impossible: %s", h->letter, err.text);
    lane_publish(h);
    front_turn(h);
}

static void send_due(struct host *h)
{
    struct front *f = &h->front;
    struct sender_message m;
    while (!f->blocked && lane_running(f) && sender_next(f->sender, local_now(h), &m)) {
        if (h->figures.stream_up) {
            net_send_data(h, m.iov, m.iov_count);
            sender_sent(f->sender, local_now(h));
            continue;
        }
        sender_blocked(f->sender);
        f->blocked = true;
    }
}

// ---- the loop ---------------------------------------------------------------------------------------------------

static void publish(struct host *h)
{
    struct figures *g = &h->figures;
    struct front *f = &h->front;
    if (!f->queue) {
        g->held_from = 0;
        g->waiting_ns = g->oldest_ns = 0;
        g->queue_bytes = 0;
        return;
    }
    struct unsafe_stat stat;
    unsafe_stat(f->queue, &stat);
    g->numbered = unsafe_numbered(f->queue);
    g->held_from = f->attached ? unsafe_released(f->queue, READER_PEER) + 1 : 0;
    g->queue_bytes = stat.bytes;
    g->oldest_ns = stat.oldest_ns;
    uint64_t waiting = updates_waiting_for(f->updates);
    if (waiting != g->waiting_for) {
        g->waiting_for = waiting;
        g->waiting_ns = waiting ? local_now(h) : 0;
    }
}

static void again(struct host *h, void *arg, uint64_t at)
{
    (void)arg;
    if ((int64_t)at != h->front.turn_at)
        return;
    h->front.turn_at = INT64_MAX;
    front_turn(h);
}

static void plan_turn(struct host *h)
{
    struct front *f = &h->front;
    int64_t at = INT64_MAX, now = local_now(h);
    if (f->updates && resync_running(f->resync))
        at = now + 2 * NS_PER_MS;
    if (lane_running(f) && !f->blocked)
        at = MIN(at, MAX(sender_deadline(f->sender), now + 10 * NS_PER_US));
    if (f->updates && f->gate != GATE_HELD && f->gate != GATE_CLOSED && !f->lease_over)
        at = MIN(at, MAX(h->figures.lease_ns, now));
    if (at == INT64_MAX || (f->turn_at >= h->sim->now && at + h->boot_at >= f->turn_at &&
                            f->turn_at != INT64_MAX))
        return;
    f->turn_at = at + h->boot_at;
    plan_daemon(h, f->turn_at, again, NULL, (uint64_t)f->turn_at);
}

void front_turn(struct host *h)
{
    struct front *f = &h->front;
    if (f->turning || !h->running || !f->resync)
        return;
    f->turning = true;
    keep_lease(h);
    close_when_flushed(h);
    if (f->updates) {
        updates_durable(f->updates, h->figures.durable);
        resync_turn(h);
        updates_kick(f->updates);
        front_show(h);
        if (lane_running(f) && f->numbered && f->barrier)
            (void)sender_barrier(f->sender);
        f->numbered = f->barrier = false;
        send_due(h);
        volumes_poll(h);
    }
    publish(h);
    plan_turn(h);
    f->turning = false;
}
