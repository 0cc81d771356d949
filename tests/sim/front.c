// SPDX-License-Identifier: Apache-2.0
// The active end's data path as the simulator carries it out: common/end/service and
// common/end/outlet over volumes and memory that can be lost.
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GENERATION_NS (400 * NS_PER_MS)

// ---- volumes ----

// As the daemon does in front of everything that may answer.
static void look_at_lease(struct host *h)
{
    if (h->front.service)
        service_lease(h->front.service, local_now(h), h->figures.lease_ns);
}

static void volume_done(struct host *h, void *arg, uint64_t i)
{
    (void)arg;
    h->volume_scheduled[i]--;
    look_at_lease(h);
    (void)fake_volume_complete(h->volume[i]);
    if (h->sim->steps % 4 == 0) // each time would take too long
        judge_salvage_before(h);
    front_turn(h);
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
            delay = disk_time(h, delay);
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
    bool again = true;
    while (again) { // what ends on one volume may start something on another
        again = false;
        for (unsigned i = 0; i < h->sim->volumes; i++) {
            block_kick(fake_volume_of(h->volume[i]));
            do
                fake_volume_fail(h->volume[i], chance(h->sim, 500) ? all : 0, -ESHUTDOWN);
            while (fake_volume_complete(h->volume[i]) && (again = true));
            fake_volume_fail(h->volume[i], 0, 0);
        }
    }
}

// ---- memory ----

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

// ---- the disk of the maps ----

static void maps_done(struct host *h, void *arg, uint64_t n)
{
    (void)arg, (void)n;
    h->maps_scheduled--;
    look_at_lease(h);
    (void)fake_disk_complete(h->maps);
    front_turn(h);
}

static void maps_poll(struct host *h)
{
    struct sim *s = h->sim;
    while (h->maps_scheduled < fake_disk_syncing(h->maps)) {
        int64_t delay = (int64_t)(100 + rnd(s, 2000)) * NS_PER_US;
        if (chance(s, 15))
            delay += (int64_t)rnd(s, 200) * NS_PER_MS;
        h->maps_scheduled++;
        plan_daemon(h, s->now + delay, maps_done, NULL, 0);
    }
}

// ---- the disk of the unsafe queue ----

static void spilled(struct host *h, void *arg, uint64_t n)
{
    static const char *const counts[] = {"spill: looks for what a predecessor left", "spill: blocks read back",
                                         "spill: records to disk", "spill: segments removed"};
    struct spill_job *job = h->front.job;
    (void)arg, (void)n;
    h->front.job = NULL;
    cover_count(counts[spill_job_kind(job)]);
    spill_run(job);
    service_spilled(h->front.service, job, local_now(h));
    front_turn(h);
}

static void spill(void *user, struct spill_job *job)
{
    struct host *h = user;
    struct sim *s = h->sim;
    int64_t delay = (int64_t)(100 + rnd(s, 2000)) * NS_PER_US;
    if (chance(s, 30))
        delay += (int64_t)rnd(s, 600) * NS_PER_MS;
    h->front.job = job;
    plan_daemon(h, s->now + delay, spilled, NULL, 0);
}

static void readers(void *user, bool go_on)
{
    (void)user, (void)go_on; // there is one thread
}

static void publish(struct host *h);

// ---- what the service asks for ----

static int open_stores(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err)
{
    struct host *h = user;
    if (h->stores_of == BOX_STREAM || chance(h->sim, 20))
        return error_set(err, -EAGAIN, "the stores are in other hands");
    if (h->sim->now < h->stores_shut_until)
        return error_set(err, -EIO, "the stores cannot be opened");
    h->stores_of = BOX_FRONT;
    for (unsigned i = 0; i < h->sim->volumes; i++)
        ret_blocks[i] = fake_volume_of(h->volume[i]);
    return 0;
}

static void close_stores(void *user)
{
    struct host *h = user;
    if (h->stores_of != BOX_FRONT)
        return;
    volumes_finish(h);
    h->stores_of = BOX_NONE;
}

// The judge sees everything that was numbered, before anything else becomes of it.
void front_show(struct host *h)
{
    struct unsafe *queue = h->front.service ? service_queue(h->front.service) : NULL;
    if (!queue || h->dying)
        return;
    uint64_t last = unsafe_numbered(queue);
    for (uint64_t seq = unsafe_released(queue, READER_JUDGE) + 1; seq <= last; seq++)
        ledger_record(h, unsafe_record(queue, seq), unsafe_payload(queue, seq));
    unsafe_release(queue, READER_JUDGE, last);
}

static int open_queue(void *user, bool recover, const struct unsafe_config *config,
                      struct unsafe **ret_queue, struct error *err)
{
    struct host *h = user;
    if (recover)
        return h->memory < 0 ? -ENOENT : unsafe_open_fd(h->memory, config, ret_queue, err);
    int r = unsafe_create(NULL, config, ret_queue, err);
    ENSURE(r == 0);
    if (h->memory >= 0)
        (void)close(h->memory);
    h->memory = dup(unsafe_fd(*ret_queue));
    unsafe_attach(*ret_queue, READER_JUDGE, config->start);
    h->start.queue_confirmed = 0;
    judge_opened(h, &h->front.epoch);
    return 0;
}

static void forget_queue(void *user)
{
    struct host *h = user;
    front_show(h);
    if (h->memory >= 0)
        (void)close(h->memory);
    h->memory = -1;
}

static void serve(void *user, struct unsafe *queue, struct updates *updates)
{
    struct host *h = user;
    (void)queue, (void)updates;
    h->front.served = true;
}

static void refuse(void *user, const char *why)
{
    struct host *h = user;
    (void)why;
    h->front.served = false;
}

static bool quiet(void *user)
{
    struct host *h = user;
    front_show(h);
    return true;
}

static void room(void *user)
{
    (void)user;
}

static int lane_queue(void *user, struct unsafe *queue)
{
    struct host *h = user;
    if (!queue) {
        h->front.served = false;
        guest_lost(h, true); // what is under way goes with it
    }
    return outlet_set_queue(h->front.outlet, queue);
}

static void lane_stop(void *user)
{
    struct host *h = user;
    outlet_stop(h->front.outlet);
}

static bool lane_running(void *user)
{
    struct host *h = user;
    return outlet_running(h->front.outlet);
}

static bool settled(void *user, uint64_t *ret_session, uint64_t *ret_seq)
{
    struct host *h = user;
    struct positions p;
    int64_t moved_ns;
    if (!outlet_running(h->front.outlet) || !outlet_positions(h->front.outlet, &p, &moved_ns))
        return false;
    *ret_session = outlet_session(h->front.outlet);
    *ret_seq = p.settled;
    return true;
}

static int64_t real_ns(void *user)
{
    return wall_now(user);
}

static int64_t stamp_ns(void *user)
{
    struct host *h = user;
    return local_now(h) + h->front.stamp_lead_ns;
}

struct verified {
    struct end_event event;
    struct verify_result result;
};

static void deliver_verified(struct host *h, void *arg, uint64_t n)
{
    struct verified *v = arg;
    (void)n;
    v->event.verified.result = &v->result;
    feed(h, &v->event);
}

static void report_verified(struct host *h, const struct end_event *event)
{
    struct verified *v = malloc(sizeof(*v));
    ENSURE(v);
    *v = (struct verified){*event, *event->verified.result};
    judge_verified(h, &v->result);
    plan_daemon(h, mailbox_time(h, BOX_CONTROL), deliver_verified, v, 0);
}

static void report(void *user, const struct end_event *event)
{
    struct host *h = user;
    struct end_event ev = *event;
    if (h->dying)
        return;
    if (ev.type == EV_VERIFIED) {
        report_verified(h, event);
        return;
    }
    if (ev.type == EV_OVERFLOW || ev.type == EV_STORE) {
        trace(h->sim, h, "%s", ev.failed.text);
        if (strstr(ev.failed.text, "on disk is lost"))
            cover_count("spill: lost");
        ev.failed.text = "the data path says so"; // it has to live longer
    }
    if (ev.type == EV_EXPORTS && ev.exports.why)
        ev.exports.why = "the data path says so"; // likewise
    if (ev.type == EV_MAP && ev.map.what == MAP_EV_PIECE) {
        h->front.piece = *ev.map.piece; // likewise
        ev.map.piece = &h->front.piece;
    }
    if (ev.type == EV_OVERFLOW)
        cover_count(ev.failed.draining ? "unsafe queue: full, what it holds is streamed"
                                       : "unsafe queue: full, the peer's place is given up");
    publish(h);
    report_event(h, &ev);
}

static void note(void *user, const char *text)
{
    struct host *h = user;
    if (h->dying)
        return;
    bool disk = strstr(text, "disk space") != NULL;
    if (strstr(text, "50 % full"))
        cover_count(disk ? "spill: half full" : "unsafe queue: half full");
    if (strstr(text, "75 % full"))
        cover_count(disk ? "spill: three quarters full" : "unsafe queue: three quarters full");
    if (strstr(text, "cannot go to disk"))
        cover_count("spill: the disk takes nothing");
    if (strstr(text, "can go to disk again"))
        cover_count("spill: the disk takes something again");
    trace(h->sim, h, "%s", text);
}

static void own_map(void *user, uint64_t ticket, uint16_t object, uint32_t region, uint64_t regions,
                    const uint8_t *bits)
{
    struct host *h = user;
    cover_count("maps of what an end has written alone");
    stream_own_map(h, ticket, object, region, regions, bits);
}

static const struct service_ops service_ops = {
    .open_stores = open_stores,
    .close_stores = close_stores,
    .open_queue = open_queue,
    .forget_queue = forget_queue,
    .serve = serve,
    .refuse = refuse,
    .quiet = quiet,
    .room = room,
    .lane_queue = lane_queue,
    .lane_stop = lane_stop,
    .lane_running = lane_running,
    .readers = readers,
    .spill = spill,
    .settled = settled,
    .real_ns = real_ns,
    .stamp_ns = stamp_ns,
    .own_map = own_map,
    .report = report,
    .note = note,
    .cannot_open = note,
};

// ---- from outside ----

void front_init(struct host *h)
{
    static const enum updates_mode modes[] = {UPDATES_ASYNC, UPDATES_SYNC, UPDATES_STRICT};
    static const char *const names[VOLUMES_MAX] = {"0", "1"};
    struct sim *s = h->sim;
    uint64_t sizes[VOLUMES_MAX] = {s->size, s->size};
    static const uint64_t ids[VOLUMES_MAX] = {1, 2};
    struct service_config config = {
        .mode = modes[s->config.mode],
        .volumes = s->volumes,
        .sizes = sizes,
        .names = names,
        .pair = PAIR_ID,
        .boot = h->boot_token,
        .ring_bytes = UNSAFE_RING_MIN + 4 * (s->size + UNSAFE_RECEIVE_MAX),
        .payload_max = (uint32_t)s->size, // a resync reads as much at once
        .queue_records = s->queue_records,
        .spill_bytes = s->spill_bytes,
        .spill_disk = fake_disk_of(h->spill),
        .spill_from = s->spill_from,
        .spill_retry_ns = 400 * NS_PER_MS,
        .overflow = s->overflow,
        .throttle_when_slow = !s->config.alone_when_slow,
        .timeout_ns = s->config.timeout_ns,
        .ids = ids,
        .map_disk = fake_disk_of(h->maps),
        .map_region = INTENT_REGION_MIN,
        .generation_ns = GENERATION_NS,
    };
    memset(&h->front, 0, sizeof(h->front));
    h->front.turn_at = INT64_MAX;
    h->front.stamp_lead_ns = wall_now(h) - local_now(h);
    h->front.outlet = outlet_new(SERVICE_READER);
    h->front.service = service_new(&config, &service_ops, h);
    ENSURE(h->front.service && h->front.outlet);
}

// The daemon is gone.
void front_stop(struct host *h, bool keep_memory)
{
    struct front *f = &h->front;
    if (!f->service)
        return;
    bool queue = service_queue(f->service) != NULL;
    front_show(h);
    if (queue && keep_memory) {
        if (!h->sim->over) { // else nobody will read it
            int copy = memory_copy(h->memory);
            (void)close(h->memory);
            h->memory = copy;
        }
        h->dying = true;
        volumes_abort(h);
    } else if (queue) {
        volumes_finish(h);
        front_show(h);
    }
    if (f->job && chance(h->sim, 500))
        spill_run(f->job); // got so far
    f->job = NULL;
    f->service = service_free(f->service);
    fake_disk_kill(h->spill);
    fake_disk_kill(h->maps);
    f->outlet = outlet_free(f->outlet);
    h->dying = false;
}

bool front_find_queue(struct host *h, struct end_start *start)
{
    struct service_found found;
    struct error err = {0};
    int r = service_find(h->front.service, &found, &err);
    if (r < 0 && r != -ENOENT)
        fail(h->sim, "%c: the unsafe queue of the former run is void: %s", h->letter, err.text);
    if (r < 0)
        return false;
    start->queue_numbered = found.numbered;
    start->queue_epoch = found.epoch;
    start->queue_opening = found.opening;
    start->queue_pending = found.pending;
    start->queue_confirmed = found.confirmed;
    return true;
}

bool front_serves(const struct host *h)
{
    return h->running && service_serves(h->front.service) && local_now(h) < h->figures.lease_ns &&
           !h->frozen;
}

void front_letter(struct host *h, const struct end_action *a)
{
    struct service *s = h->front.service;
    switch (a->type) {
    case ACT_GATE:
        // Before: what waited for this gate is answered, and judged, while it opens.
        h->gate_alone = a->gate == GATE_ALONE;
        service_gate(s, a->gate, a->ticket, local_now(h), h->figures.lease_ns);
        break;
    case ACT_OPEN:
        h->front.epoch = a->epoch;
        service_open(s, a->recover, &a->epoch, a->seq, local_now(h));
        break;
    case ACT_CLOSE:
        service_close(s);
        break;
    case ACT_ABANDON:
        service_abandon(s, true);
        break;
    case ACT_FOLLOW:
        service_abandon(s, false);
        break;
    case ACT_EPOCH:
        front_show(h);
        service_epoch(s, &a->epoch);
        break;
    case ACT_BOUND:
        service_bound(s, a->seq);
        break;
    case ACT_ATTACH:
        service_attach(s, a->session);
        break;
    case ACT_DETACH:
        service_detach(s);
        break;
    case ACT_RESYNC:
        service_resync(s, a->objects, a->ticket, local_now(h));
        if (a->objects)
            cover_count("resyncs");
        break;
    case ACT_MAP_FILL:
        service_map_fill(s, a->objects, a->ticket);
        break;
    case ACT_MAP_VOID:
        service_map_void(s, (uint16_t)a->object, a->id, a->on, a->ticket);
        cover_count(a->on ? "maps that could not be written" : "maps that could not be written, nor that be recorded");
        break;
    case ACT_MAP_ARM:
        service_map_arm(s, a->session, a->objects);
        break;
    case ACT_MAP_CLEAR:
        service_map_clear(s, a->objects);
        break;
    case ACT_MAP_READ:
        service_map_read(s, (uint16_t)a->object, a->seq, a->session, a->on);
        break;
    case ACT_MAP_ASIDE:
        service_map_aside(s);
        break;
    case ACT_MAP_ADD:
        service_map_add(s, &a->frame.map, a->on);
        cover_count("pieces of maps united");
        break;
    case ACT_MAP_SYNC:
        service_map_sync(s, a->ticket);
        break;
    case ACT_VERIFY:
        service_verify(s, a->objects, local_now(h));
        if (a->objects)
            cover_count("verifies");
        break;
    case ACT_DIFFERS:
        service_differs(s, a->objects);
        break;
    default:
        ENSURE(!"not a letter to the front");
    }
    front_turn(h);
}

void front_answer(struct host *h, const void *message)
{
    service_answer(h->front.service, message);
}

// ---- the lane ----

static void lane_publish(struct host *h)
{
    struct positions p;
    struct figures *g = &h->figures;
    if (!outlet_positions(h->front.outlet, &p, &g->moved_ns))
        return;
    g->applied = p.applied;
    g->durable = p.durable;
}

void front_lane_start(struct host *h, uint64_t session, uint64_t from)
{
    if (!outlet_start(h->front.outlet, session, from, local_now(h)))
        return;
    lane_publish(h);
    front_turn(h);
}

void front_lane_stop(struct host *h)
{
    outlet_stop(h->front.outlet);
}

void front_rewind(struct host *h)
{
    outlet_rewind(h->front.outlet, local_now(h));
    front_turn(h);
}

void front_ack(struct host *h, const void *message, size_t size)
{
    struct error err = {0};
    if (!batch_ack_invalid(message, size))
        h->told_settled = MAX(h->told_settled, le64_get(((const struct batch_ack *)message)->settled));
    int r = outlet_ack(h->front.outlet, message, size, local_now(h), &err);
    if (r == -EPROTO)
        fail(h->sim, "%c: an acknowledgement is impossible: %s", h->letter, err.text);
    if (r == -ESTALE)
        return;
    lane_publish(h);
    front_turn(h);
}

static int send_message(void *user, const struct iovec *iov, int count)
{
    struct host *h = user;
    if (!h->figures.stream_up)
        return -EAGAIN;
    net_send_data(h, iov, count);
    return 0;
}

// ---- the loop ----

static void publish(struct host *h)
{
    struct figures *g = &h->figures;
    struct service_figures now_is;
    if (!service_figures(h->front.service, local_now(h), &now_is)) {
        g->held_from = 0;
        g->waiting_ns = g->oldest_ns = 0;
        g->queue_bytes = 0;
        return;
    }
    g->numbered = now_is.numbered;
    g->held_from = now_is.held_from;
    g->queue_bytes = now_is.queue_bytes;
    g->oldest_ns = now_is.oldest_ns;
    g->waiting_ns = now_is.waiting_ns;
    static const char *const held[] = {
        [SERVICE_HELD_SLOW] = "writers are held: flushes would wait",
        [SERVICE_HELD_THROTTLE] = "writers are held: throttle",
        [SERVICE_HELD_SUSPEND] = "writers are held: suspend",
        [SERVICE_HELD_RESYNC] = "writers are held: resync",
    };
    if (now_is.held != g->held && now_is.held != SERVICE_NOT_HELD)
        cover_count(held[now_is.held]);
    g->held = now_is.held;
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
    int64_t now = local_now(h);
    int64_t at = service_deadline(f->service, now, h->figures.lease_ns);
    if (!outlet_blocked(f->outlet))
        at = MIN(at, outlet_deadline(f->outlet));
    if (at == INT64_MAX)
        return;
    at = world_time(h, MAX(at, now + 10 * NS_PER_US));
    if (f->turn_at >= h->sim->now && at >= f->turn_at && f->turn_at != INT64_MAX)
        return;
    f->turn_at = at;
    plan_daemon(h, at, again, NULL, (uint64_t)at);
}

void front_turn(struct host *h)
{
    struct front *f = &h->front;
    struct figures *g = &h->figures;
    bool barrier;
    if (f->turning || !h->running || !f->service)
        return;
    f->turning = true;
    look_at_lease(h);
    service_turn(f->service,
                 &(struct service_turn){local_now(h), g->durable, g->applied, g->moved_ns});
    front_show(h);
    if (service_push(f->service, &barrier) && barrier)
        outlet_barrier(f->outlet);
    outlet_send(f->outlet, local_now(h), send_message, h);
    volumes_poll(h);
    maps_poll(h);
    publish(h);
    plan_turn(h);
    f->turning = false;
}
