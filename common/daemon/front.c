// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/front.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "common/daemon/front_private.h"
#include "common/daemon/prompt.h"
#include "common/base/checksum.h"
#include "common/base/thread.h"
#include "common/store/store.h"

#define GENERATION_NS (10 * NS_PER_S) // of the intent maps: less would cost, more would not gain
#define FIGURES_NS (50 * NS_PER_MS) // how old the queue's figures may be

static void publish(struct front *f, int64_t now)
{
    struct figures *g = f->config.figures;
    struct service_figures now_is;
    struct nbd_stat ns;
    if (!service_figures(f->service, now, &now_is)) {
        atomic_store(&g->held_from, 0);
        atomic_store(&g->waiting_ns, 0);
        atomic_store(&g->queue_records, 0);
        atomic_store(&g->queue_bytes, 0);
        atomic_store(&g->queue_spilled, 0);
        return;
    }
    atomic_store(&g->numbered, now_is.numbered);
    atomic_store(&g->held_from, now_is.held_from);
    atomic_store(&g->queue_records, now_is.queue_records);
    atomic_store(&g->queue_bytes, now_is.queue_bytes);
    atomic_store(&g->queue_limit, now_is.queue_limit);
    atomic_store(&g->queue_spilled, now_is.spilled_bytes);
    atomic_store(&g->queue_oldest_ns, now_is.oldest_ns);
    atomic_store(&g->waiting_for, now_is.waiting_for);
    atomic_store(&g->waiting_ns, now_is.waiting_ns);
    atomic_store(&g->resync_done, now_is.resync.done);
    atomic_store(&g->resync_total, now_is.resync.total);
    atomic_store(&g->resync_sent, now_is.resync.sent);
    atomic_store(&g->resync_began_ns, now_is.resync.began_ns);
    atomic_store(&g->least_ns, now_is.least_ns);
    for (size_t i = 0; i < f->config.pair->volume_count; i++)
        atomic_store(&g->out_of_sync[i], now_is.out_of_sync[i]);
    atomic_store(&g->verify_done, now_is.verify_done);
    atomic_store(&g->verify_total, now_is.verify_total);
    atomic_store(&g->verify_began_ns, now_is.verify_began_ns);
    nbd_stat(f->nbd, &ns);
    atomic_store(&g->clients, ns.clients);
}

// ---- what the service asks for ----

static int open_stores(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err)
{
    struct front *f = user;
    const struct pair_config *pair = f->config.pair;
    atomic_store(&f->config.figures->front_busy, true); // opening may take its time
    int r = stores_open(&f->stores, pair, f->config.side, true, &f->config.figures->front_awake_ns, err);
    if (r < 0)
        return r;
    stores_poll(&f->stores, nbd_fd(f->nbd), nbd_other(f->nbd));
    for (size_t i = 0; i < pair->volume_count; i++)
        ret_blocks[i] = store_block(stores_at(&f->stores, i));
    return 0;
}

static void close_stores(void *user)
{
    struct front *f = user;
    atomic_store(&f->config.figures->front_busy, true); // and so may what is under way
    stores_close(&f->stores, nbd_fd(f->nbd));
}

static int open_queue(void *user, bool recover, const struct unsafe_config *config,
                      struct unsafe **ret_queue, struct error *err)
{
    struct front *f = user;
    return recover ? unsafe_open(f->config.queue_path, config, ret_queue, err)
                   : unsafe_create(f->config.queue_path, config, ret_queue, err);
}

static void forget_queue(void *user)
{
    struct front *f = user;
    (void)unlink(f->config.queue_path);
}

static void serve(void *user, struct unsafe *queue, struct updates *updates)
{
    struct front *f = user;
    nbd_serve(f->nbd, queue, updates);
}

static void refuse(void *user, const char *why)
{
    struct front *f = user;
    nbd_refuse(f->nbd, why);
}

static bool quiet(void *user)
{
    struct front *f = user;
    if (service_updates(f->service))
        nbd_flush(f->nbd);
    return nbd_quiet(f->nbd);
}

static void room(void *user)
{
    struct front *f = user;
    nbd_room(f->nbd);
}

static int set_lane_queue(void *user, struct unsafe *queue)
{
    struct front *f = user;
    return lane_set_queue(f->config.lane, queue);
}

static void stop_lane(void *user)
{
    struct front *f = user;
    lane_stop(f->config.lane);
}

static bool lane_runs(void *user)
{
    struct front *f = user;
    return lane_running(f->config.lane);
}

static bool settled(void *user, uint64_t *ret_session, uint64_t *ret_seq)
{
    struct front *f = user;
    return lane_settled(f->config.lane, ret_session, ret_seq);
}

static void hold_readers(void *user, bool go_on)
{
    struct front *f = user;
    lane_hold(f->config.lane, !go_on);
}

static void spill(void *user, struct spill_job *job)
{
    struct front *f = user;
    spiller_post(f->spiller, job);
}

static int64_t real_ns(void *user)
{
    (void)user;
    return clock_real_ns();
}

static int64_t stamp_ns(void *user)
{
    struct front *f = user;
    return clock_boot_ns() + f->stamp_lead_ns;
}

static struct front_report *report_new(int kind, const char *text, bool verified)
{
    struct front_report *r = letter_new(sizeof(*r) + (verified ? sizeof(r->verified[0]) : 0), kind);
    (void)snprintf(r->text, sizeof(r->text), "%s", text);
    return r;
}

// What has to live until the report is taken; NULL: nothing.
static const char *text_of(const struct end_event *event)
{
    if (event->type == EV_EXPORTS)
        return event->exports.why;
    return event->type == EV_OVERFLOW || event->type == EV_STORE ? event->failed.text : NULL;
}

// The figures first: whoever acts on the report must not see older ones.
static void report(void *user, const struct end_event *event)
{
    struct front *f = user;
    const char *text = text_of(event);
    publish(f, clock_boot_ns());
    bool verified = event->type == EV_VERIFIED;
    struct front_report *r = report_new(FRONT_EVENT, text ? text : "", verified);
    r->event = *event;
    if (event->type == EV_MAP && event->map.what == MAP_EV_PIECE) {
        r->piece = *event->map.piece;
        r->event.map.piece = &r->piece;
    }
    if (verified) {
        r->verified[0] = *event->verified.result;
        r->event.verified.result = &r->verified[0];
    }
    if (text && event->type == EV_EXPORTS)
        r->event.exports.why = r->text;
    else if (text)
        r->event.failed.text = r->text;
    mailbox_post(f->config.reports, r);
}

static void note(void *user, const char *text)
{
    struct front *f = user;
    mailbox_post(f->config.reports, report_new(FRONT_NOTE, text, false));
}

static void cannot_open(void *user, const char *text)
{
    struct front *f = user;
    log_limited(&f->open_log, LOG_LEVEL_ERROR, "pair %s: %s", f->config.pair->pair, text);
}

static void own_map(void *user, uint64_t ticket, uint16_t object, uint32_t region, uint64_t regions,
                    const uint8_t *bits)
{
    struct front *f = user;
    size_t size = bits ? (regions + 7) / 8 : 0;
    struct own_map_letter *l = letter_new(sizeof(*l) + size, f->copy_kind);
    l->ticket = ticket;
    l->object = object;
    l->known = bits != NULL;
    l->region = region;
    l->regions = regions;
    if (bits)
        memcpy(l->bits, bits, size);
    mailbox_post(f->copy_box, l);
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
    .lane_queue = set_lane_queue,
    .lane_stop = stop_lane,
    .lane_running = lane_runs,
    .readers = hold_readers,
    .spill = spill,
    .settled = settled,
    .real_ns = real_ns,
    .stamp_ns = stamp_ns,
    .own_map = own_map,
    .report = report,
    .note = note,
    .cannot_open = cannot_open,
};

// ---- the loop ----

// A LUN that came back without its volatile cache may have lost writes that the peer has.
static void watch_resets(struct front *f)
{
    uint64_t resets = stores_resets(&f->stores);
    if (resets > f->resets)
        service_lost(f->service, "a LUN came back without its write cache");
    f->resets = resets;
}

static void turn(struct front *f)
{
    struct figures *g = f->config.figures;
    bool barrier;
    struct service_turn turn = {.now_ns = clock_boot_ns()};
    service_lease(f->service, turn.now_ns, atomic_load(&g->lease_ns));
    nbd_work(f->nbd);
    segments_work(f->maps);
    stores_work(&f->stores);
    watch_resets(f);
    turn.durable = atomic_load(&g->durable);
    turn.applied = atomic_load(&g->applied);
    turn.moved_ns = atomic_load(&g->moved_ns);
    service_turn(f->service, &turn);
    if (service_updates(f->service))
        nbd_flush(f->nbd);
    bool numbered = service_push(f->service, &barrier);
    if (numbered || turn.now_ns >= f->push_ns)
        f->push_ns = lane_push(f->config.lane, numbered && barrier);
    publish(f, turn.now_ns);
}

static int64_t next_deadline(struct front *f, int64_t now)
{
    struct figures *g = f->config.figures;
    int64_t at = service_deadline(f->service, now, atomic_load(&g->lease_ns));
    // What the peer has released is seen here: an idle front would show its queue as it was, and
    // the end that it lags.
    if (atomic_load(&g->queue_records) > 0)
        at = MIN(at, now + FIGURES_NS);
    return MIN(at, MIN(f->push_ns, stores_deadline_ns(&f->stores)));
}

static void sleep_until(struct front *f, int64_t at, int64_t now)
{
    struct timespec wait = {0};
    bool forever = at == INT64_MAX;
    int64_t ns = MAX(at - now, 0);
    wait.tv_sec = ns / NS_PER_S;
    wait.tv_nsec = ns % NS_PER_S;
    atomic_store(&f->config.figures->front_awake_ns, 0);
    nbd_wait(f->nbd, forever ? NULL : &wait);
    atomic_store(&f->config.figures->front_awake_ns, clock_boot_ns());
}

static void *run(void *arg)
{
    struct front *f = arg;
    prompt_short_slice();
    atomic_store(&f->config.figures->front_tid, gettid());
    atomic_store(&f->config.figures->front_awake_ns, clock_boot_ns());
    // A ring of the mailbox is told once: the box is emptied behind every look at what there is, and nowhere else is looked.
    nbd_wait(f->nbd, &(struct timespec){0});
    while (!f->ending) {
        front_take_letters(f);
        turn(f);
        atomic_store(&f->config.figures->front_busy, stores_busy(&f->stores));
        int64_t now = clock_boot_ns();
        // The barrier is on its way: the volume is synced here while the peer syncs its queue.
        bool more = stores_sync(&f->stores, true); // then nothing would wake it
        if (!f->ending)
            sleep_until(f, more ? now : next_deadline(f, now), now);
    }
    nbd_refuse(f->nbd, "the daemon is being restarted");
    stores_close(&f->stores, nbd_fd(f->nbd));
    while (service_map_busy(f->service)) { // what is under way at the maps' disk ends there
        (void)nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
        segments_work(f->maps);
    }
    return NULL;
}

// ---- from outside ----

static int make_service(struct front *f, struct error *err)
{
    static const enum updates_mode modes[] = {UPDATES_ASYNC, UPDATES_SYNC, UPDATES_STRICT};
    static const enum service_overflow overflows[] = {
        [PAIR_OVERFLOW_MAP] = SERVICE_OVERFLOW_MAP,
        [PAIR_OVERFLOW_THROTTLE] = SERVICE_OVERFLOW_THROTTLE,
        [PAIR_OVERFLOW_SUSPEND] = SERVICE_OVERFLOW_SUSPEND,
    };
    const struct pair_config *pair = f->config.pair;
    uint64_t sizes[PAIR_VOLUMES_MAX];
    const char *names[PAIR_VOLUMES_MAX];
    uint64_t ids[PAIR_VOLUMES_MAX];
    for (size_t i = 0; i < pair->volume_count; i++) {
        sizes[i] = pair->volumes[i].size;
        names[i] = pair->volumes[i].name;
        ids[i] = checksum64(names[i], strlen(names[i]));
    }
    struct service_config config = {
        .mode = modes[pair->mode],
        .volumes = (unsigned)pair->volume_count,
        .sizes = sizes,
        .names = names,
        .ids = ids,
        .pair = f->config.pair_id,
        .boot = f->config.boot,
        .ring_bytes = pair->queues.memory,
        .payload_max = RECORD_PAYLOAD_MAX,
        .spill_bytes = pair->queues.spill,
        .spill_disk = spiller_disk(f->spiller),
        .overflow = overflows[pair->queues.overflow],
        .throttle_when_slow = pair->slow == PAIR_SLOW_THROTTLE,
        .timeout_ns = pair->timing.timeout_ms * NS_PER_MS,
        .resync_rate = pair->resync.rate,
        .resync_share = pair->resync.share,
        .map_disk = segments_disk(f->maps),
        .generation_ns = GENERATION_NS,
    };
    f->service = service_new(&config, &service_ops, f);
    return f->service ? 0 : error_sys(err, -ENOMEM, "front thread");
}

// The thread waits where its clients are waited for: one call a turn says who there is.
static int poll_add(struct front *f, int fd, unsigned edge)
{
    struct epoll_event ev = {.events = EPOLLIN | edge, .data.ptr = nbd_other(f->nbd)};
    return epoll_ctl(nbd_fd(f->nbd), EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

int front_new(const struct front_config *config, struct front **ret_front, struct error *err)
{
    struct front *f = calloc(1, sizeof(*f));
    if (!f)
        return error_sys(err, -ENOMEM, "front thread");
    f->config = *config;
    f->push_ns = INT64_MAX;
    f->stamp_lead_ns = clock_real_ns() - clock_boot_ns();
    f->box = mailbox_new();
    int r = f->box ? 0 : error_sys(err, -ENOMEM, "front thread");
    if (r == 0)
        r = segments_open(config->map_path, 0, &f->maps, err);
    if (r == 0)
        segments_watched(f->maps, &config->figures->front_awake_ns);
    if (r == 0)
        r = spiller_new(config->spill_path, f->box, front_spilled_kind(), &f->spiller, err);
    if (r == 0)
        r = make_service(f, err);
    if (r == 0)
        lane_set_front(config->lane, f->box);
    if (r == 0)
        r = front_open_exports(f, err);
    if (r == 0) // every turn empties the box, so each ring need only be seen once: no read a turn
        r = poll_add(f, mailbox_fd(f->box), EPOLLET);
    if (r == 0)
        r = poll_add(f, segments_fd(f->maps), 0);
    if (r == 0)
        nbd_refuse(f->nbd, "this end is passive: the volume is served by its peer");
    if (r == 0 && thread_start(&f->thread, "front", run, f) < 0)
        r = error_sys(err, -EAGAIN, "cannot start the front thread");
    if (r < 0) {
        f->thread = 0;
        front_free(f);
        return r;
    }
    *ret_front = f;
    return 0;
}

struct front *front_free(struct front *f)
{
    if (!f)
        return NULL;
    if (f->thread) {
        front_end(f);
        (void)pthread_join(f->thread, NULL);
    }
    lane_set_front(f->config.lane, NULL);
    spiller_free(f->spiller); // behind what it is at
    nbd_free(f->nbd);
    service_free(f->service);
    segments_free(f->maps);
    mailbox_free(f->box);
    free(f);
    return NULL;
}

bool front_find_queue(struct front *f, struct service_found *ret_found, char *why, size_t why_size)
{
    struct error err = {0};
    int r = service_find(f->service, ret_found, &err);
    if (r < 0)
        (void)snprintf(why, why_size, "%s", r == -ENOENT ? "" : err.text);
    return r == 0;
}

const char *front_map_found(struct front *f, size_t volume)
{
    return service_map_found(f->service, (uint16_t)volume);
}

struct mailbox *front_mailbox(struct front *f)
{
    return f->box;
}
