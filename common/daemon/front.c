// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/front.h"

#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/daemon/stores.h"
#include "common/end/resync.h"
#include "common/intercept/nbd.h"
#include "common/store/store.h"
#include "queues/unsafe.h"
#include "queues/updates.h"

#define FIGURES_NS (50 * NS_PER_MS) // how old the queue's figures may be

enum front_letter_kind {
    FRONT_OPEN,
    FRONT_BOUND,
    FRONT_GATE,
    FRONT_CLOSE,
    FRONT_ABANDON,
    FRONT_EPOCH,
    FRONT_ATTACH,
    FRONT_DETACH,
    FRONT_RESYNC,
    FRONT_ANSWER,
    FRONT_END,
};

struct front_letter {
    struct letter letter;
    bool flag; // OPEN: recover. ABANDON: report
    enum end_gate gate;
    uint64_t number; // OPEN, BOUND: seq. RESYNC: mask
    struct epoch epoch;
    size_t size;
    uint8_t message[]; // ANSWER
};

struct front {
    struct front_config config;
    pthread_t thread;
    struct mailbox *box;
    bool ending;
    // Everything below belongs to the front thread.
    int epoll;
    struct nbd *nbd;
    struct unsafe *queue;
    struct updates *updates;
    struct stores stores;
    struct resync *resync;
    enum end_gate gate; // asked for by the end
    bool lease_over;    // the gate is HELD for the time being, whatever the end asked for
    bool attached;
    bool dropping, drop_report; // the queue goes as soon as the NBD server has let go of it
    bool opening; // stores are to be opened, again and again until they are
    bool open_recover;
    struct epoch open_epoch;
    uint64_t open_seq;
    int64_t open_retry_ns;
    struct log_site open_log;
    bool draining;     // updates tell when nothing is in flight any more
    bool close_wanted; // and then the stores are flushed and closed
    bool closing;      // they are being flushed
    unsigned flushes; // of closing, under way
    int flush_status;
    struct block_request close_flush[PAIR_VOLUMES_MAX];
    bool barrier_wanted, numbered_something;
    bool overflowed;
    bool throttled, throttled_told; // writers are held back until the peer has caught up
    uint64_t resync_started; // bytes of the steps of this resync
    uint64_t resets; // of the stores, as seen last
};

static struct front_report *report_new(int kind)
{
    return letter_new(sizeof(struct front_report), kind);
}

static void publish(struct front *f, int64_t now);

// The figures first: whoever acts on the report must not see older ones.
static void report(struct front *f, const struct end_event *event)
{
    publish(f, clock_boot_ns());
    struct front_report *r = report_new(FRONT_EVENT);
    r->event = *event;
    mailbox_post(f->config.reports, r);
}

static void note(struct front *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(struct front *f, const char *format, ...)
{
    struct front_report *r = report_new(FRONT_NOTE);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(r->text, sizeof(r->text), format, args);
    va_end(args);
    mailbox_post(f->config.reports, r);
}

static const char *volume_name(const struct front *f, uint16_t object)
{
    return object < f->config.pair->volume_count ? f->config.pair->volumes[object].name : "?";
}

// ---- what updates asks for ----

static int64_t real_ns(void *user)
{
    (void)user;
    return clock_real_ns();
}

static void wake_sender(void *user, bool barrier)
{
    struct front *f = user;
    f->numbered_something = true;
    f->barrier_wanted |= barrier;
}

static void failed_event(struct front *f, enum end_event_type type, const char *text)
{
    struct front_report *r = report_new(FRONT_EVENT);
    (void)snprintf(r->text, sizeof(r->text), "%s", text);
    r->event.type = type;
    r->event.failed.text = r->text;
    mailbox_post(f->config.reports, r);
}

// The peer's position in the queue is given up: from here on only a resync helps it.
static void overflow(struct front *f, const char *why)
{
    if (!f->attached)
        return;
    lane_stop(f->config.lane);
    unsafe_detach(f->queue, LANE_READER);
    f->attached = false;
    failed_event(f, EV_OVERFLOW, why);
}

static void updates_event(void *user, const struct updates_event *ev)
{
    struct front *f = user;
    char text[200];
    switch (ev->kind) {
    case UPDATES_EVENT_LEVEL:
        if (ev->level == UNSAFE_FULL)
            f->overflowed = true; // the reader is let go after this turn's kick
        else if (ev->level != UNSAFE_LOW)
            note(f, "the unsafe queue is %s full", ev->level == UNSAFE_HALF ? "50 %" : "75 %");
        break;
    case UPDATES_EVENT_ROOM:
        nbd_room(f->nbd);
        break;
    case UPDATES_EVENT_BOUND:
        break; // the end raises it by itself
    case UPDATES_EVENT_WRITE_FAILED:
        note(f, "volume %s: a write of %u bytes at %llu failed (%s): its range is undefined here",
             volume_name(f, ev->object), ev->length, (unsigned long long)ev->offset,
             strerror(-ev->status));
        break;
    case UPDATES_EVENT_READ_FAILED:
        note(f, "volume %s: a read of %u bytes at %llu failed (%s)", volume_name(f, ev->object),
             ev->length, (unsigned long long)ev->offset, strerror(-ev->status));
        break;
    case UPDATES_EVENT_FLUSH_FAILED:
        (void)snprintf(text, sizeof(text), "volume %s: a flush failed (%s)",
                       volume_name(f, ev->object), strerror(-ev->status));
        failed_event(f, EV_STORE, text);
        break;
    case UPDATES_EVENT_COPIED:
        if (ev->status == -EAGAIN) {
            resync_again(f->resync, ev->object, ev->offset);
            break;
        }
        if (ev->status < 0)
            note(f, "volume %s: %u bytes at %llu cannot be read for the resync (%s)",
                 volume_name(f, ev->object), ev->length, (unsigned long long)ev->offset,
                 strerror(-ev->status));
        resync_copied(f->resync, ev->object, ev->offset, ev->length, ev->status < 0 ? 0 : ev->seq);
        break;
    }
}

// Whether writers are held back so that the peer keeps up.
//  - sync, strict, while paired (policy `slow: throttle`): a flush would have to wait for all that is queued.
//  - while a resync runs: the queue would overflow, and the resync start anew, again and again.
//  - policy `overflow: throttle`: while the peer's stream moves. `overflow: suspend`: until there is room.
// Otherwise an application that is alone is never held: the peer's position is given up (overflow()).
static bool too_far_ahead(struct front *f, int64_t now)
{
    struct figures *g = f->config.figures;
    const struct pair_config *pair = f->config.pair;
    struct unsafe_stat stat;
    int64_t timeout = pair->timing.timeout_ms * NS_PER_MS;
    uint64_t session;
    if (!f->attached)
        return false;
    unsafe_stat(f->queue, &stat);
    bool high = stat.level >= UNSAFE_THREE_QUARTERS;
    if (high && pair->queues.overflow == PAIR_OVERFLOW_SUSPEND)
        return true;
    if (!lane_running(f->config.lane, &session))
        return false;
    int64_t age = stat.oldest_ns ? clock_real_ns() - stat.oldest_ns : 0;
    bool paired = f->gate == GATE_PAIRED && pair->mode != PAIR_ASYNC &&
                  pair->slow == PAIR_SLOW_THROTTLE;
    if (paired && (high || age > timeout / 4))
        return true;
    bool moves = now - atomic_load(&g->moved_ns) < timeout;
    return high && moves &&
           (resync_running(f->resync) || pair->queues.overflow == PAIR_OVERFLOW_THROTTLE);
}

static int before_write(void *user, uint16_t object, uint64_t offset, uint32_t length)
{
    struct front *f = user;
    (void)object, (void)offset, (void)length;
    return f->throttled ? 1 : 0;
}

static const struct updates_ops updates_ops = {
    .before_write = before_write,
    .real_ns = real_ns,
    .wake_sender = wake_sender,
    .event = updates_event,
};

// ---- what the NBD server asks for ----

static void nbd_extent(void *user, uint16_t object, uint64_t offset, uint64_t length,
                       bool *ret_hole, bool *ret_zero, uint64_t *ret_length)
{
    struct front *f = user;
    unsigned flags = 0;
    *ret_length = length;
    struct store *store = stores_at(&f->stores, object);
    if (store)
        store_extent(store, offset, length, &flags, ret_length);
    *ret_hole = flags & STORE_EXTENT_HOLE;
    *ret_zero = flags & STORE_EXTENT_ZERO;
}

static bool nbd_zero_is_fast(void *user, uint16_t object)
{
    struct front *f = user;
    struct store *store = stores_at(&f->stores, object);
    return store && store_block(store)->zero_is_fast;
}

static void nbd_note(void *user, uint16_t object, const char *text)
{
    struct front *f = user;
    log_info("pair %s: volume %s: %s", f->config.pair->pair, volume_name(f, object), text);
}

static const struct nbd_ops nbd_ops = {
    .extent = nbd_extent,
    .zero_is_fast = nbd_zero_is_fast,
    .note = nbd_note,
};

// ---- gate ----

static enum updates_gate gate_of(enum end_gate gate)
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

static void gate_report(struct front *f, enum end_gate gate)
{
    struct end_event ev = {.type = EV_GATE};
    ev.gate.gate = gate;
    ev.gate.numbered = unsafe_numbered(f->queue);
    report(f, &ev);
}

static void closing_drained(struct front *f);

// Nothing is in flight any more. What that was waited for may have changed meanwhile.
static void drained(void *user)
{
    struct front *f = user;
    f->draining = false;
    if (f->close_wanted)
        closing_drained(f);
    else if (f->gate == GATE_HELD)
        gate_report(f, GATE_HELD);
}

static void drain(struct front *f)
{
    if (f->draining)
        return;
    f->draining = true;
    updates_drain(f->updates, drained);
}

static void take_gate(struct front *f, enum end_gate gate)
{
    if (!f->updates)
        return;
    f->gate = gate;
    f->lease_over = false;
    (void)updates_set_gate(f->updates, gate_of(gate));
    if (gate == GATE_HELD)
        drain(f);
    else
        gate_report(f, gate);
}

// E1, E2 of the grant: nothing is answered after the lease, whatever the control thread is doing
// (it may not have been scheduled since). HELD keeps every answer back until the lease is renewed.
static void keep_lease(struct front *f, int64_t now)
{
    if (!f->updates || f->gate == GATE_HELD || f->gate == GATE_CLOSED)
        return;
    bool over = now >= atomic_load(&f->config.figures->lease_ns);
    if (over == f->lease_over)
        return;
    f->lease_over = over;
    (void)updates_set_gate(f->updates, over ? UPDATES_HELD : gate_of(f->gate));
}

// ---- opening and closing ----

static void exports_report(struct front *f, bool open, int status)
{
    struct end_event ev = {.type = EV_EXPORTS};
    ev.exports.open = open;
    ev.exports.status = status;
    ev.exports.numbered = f->queue ? unsafe_numbered(f->queue) : 0;
    report(f, &ev);
}

static void drop_queue(struct front *f)
{
    (void)lane_set_queue(f->config.lane, NULL);
    f->updates = updates_free(f->updates);
    f->queue = unsafe_free(f->queue);
    f->attached = f->draining = f->close_wanted = false;
}

static struct unsafe_config queue_config(const struct front *f)
{
    return (struct unsafe_config){
        .pair = f->config.pair_id,
        .boot = f->config.boot,
        .epoch = f->open_epoch.id,
        .start = f->open_seq ? f->open_seq - 1 : 0,
        .bound = f->open_seq + 1024, // for the opening's record; more with ACT_BOUND
        .ring_bytes = f->config.pair->queues.memory,
        .payload_max = RECORD_PAYLOAD_MAX,
    };
}

static int make_queue(struct front *f, struct error *err)
{
    struct unsafe_config config = queue_config(f);
    int r;
    if (f->queue && f->open_recover)
        return 0; // closed by this run, and taken back
    drop_queue(f);
    if (f->open_recover)
        r = unsafe_open(f->config.queue_path, &config, &f->queue, err);
    else
        r = unsafe_create(f->config.queue_path, &config, &f->queue, err);
    if (r < 0)
        return r;
    static const enum updates_mode modes[] = {UPDATES_ASYNC, UPDATES_SYNC, UPDATES_STRICT};
    f->updates = updates_new(f->queue, modes[f->config.pair->mode], &updates_ops, f);
    if (!f->updates)
        return error_sys(err, -ENOMEM, "cannot open the exports");
    return lane_set_queue(f->config.lane, f->queue);
}

static void opened(void *user)
{
    struct front *f = user;
    if (!f->open_recover) {
        uint8_t encoded[EPOCH_ENCODED_SIZE];
        uint64_t seq = 0;
        epoch_encode(&f->open_epoch, encoded);
        unsafe_attach(f->queue, LANE_READER, f->open_seq - 1);
        int r = updates_open_epoch(f->updates, f->open_epoch.id, encoded, sizeof(encoded), &seq);
        ENSURE(r == 0 && seq == f->open_seq);
    }
    f->attached = unsafe_attached(f->queue, LANE_READER);
    f->gate = GATE_HELD;
    (void)updates_set_gate(f->updates, UPDATES_HELD);
    nbd_serve(f->nbd, f->queue, f->updates);
    exports_report(f, true, 0);
}

// The stores may still be held by a predecessor whose I/O has not ended: tried again until they
// open.
static void try_open(struct front *f)
{
    struct error err = {0};
    atomic_store(&f->config.figures->front_busy, true); // opening may take its time
    // The queue of a former reign may still be in the hands of a client that is being closed.
    int r = f->dropping ? -EAGAIN : stores_open(&f->stores, f->config.pair, f->config.side, &err);
    if (r == 0)
        r = make_queue(f, &err);
    if (r == -EAGAIN) {
        f->open_retry_ns = clock_boot_ns() + 20 * NS_PER_MS;
        return;
    }
    f->opening = false;
    if (r < 0) {
        log_limited(&f->open_log, LOG_LEVEL_ERROR, "pair %s: %s", f->config.pair->pair, err.text);
        stores_close(&f->stores, f->epoll);
        exports_report(f, false, r);
        return;
    }
    stores_poll(&f->stores, f->epoll);
    for (uint16_t i = 0; i < f->config.pair->volume_count; i++)
        updates_set_volume(f->updates, i, store_block(stores_at(&f->stores, i)), 4096);
    if (f->open_recover)
        updates_recover(f->updates, opened);
    else
        opened(f);
}

static void close_flushed(struct block_request *request, int status)
{
    struct front *f = request->owner;
    if (status < 0 && f->flush_status == 0)
        f->flush_status = status;
    f->flushes--;
}

static void closing_drained(struct front *f)
{
    f->close_wanted = false;
    f->flush_status = 0;
    f->flushes = 0;
    for (uint16_t i = 0; i < f->config.pair->volume_count; i++) {
        struct store *store = stores_at(&f->stores, i);
        if (!store)
            continue;
        f->flushes++;
        f->close_flush[i] =
            (struct block_request){.op = BLOCK_FLUSH, .done = close_flushed, .owner = f};
        block_submit(store_block(store), &f->close_flush[i]);
        block_kick(store_block(store));
    }
    f->closing = true;
}

static void close_when_flushed(struct front *f)
{
    if (!f->closing || f->flushes > 0)
        return;
    f->closing = false;
    for (uint16_t i = 0; i < f->config.pair->volume_count; i++)
        updates_set_volume(f->updates, i, NULL, 1);
    stores_close(&f->stores, f->epoll);
    exports_report(f, false, f->flush_status);
}

static void take_close(struct front *f)
{
    nbd_refuse(f->nbd, "this end is handing the volume over to its peer");
    f->gate = GATE_CLOSED;
    if (!f->updates) {
        exports_report(f, false, 0);
        return;
    }
    (void)updates_set_gate(f->updates, UPDATES_CLOSED);
    f->close_wanted = true;
    drain(f);
}

// The queue goes when no client's request lies in it any more.
static void drop_when_quiet(struct front *f)
{
    if (!f->dropping)
        return;
    if (f->updates)
        nbd_flush(f->nbd);
    if (!nbd_quiet(f->nbd))
        return;
    bool report_it = f->drop_report;
    f->dropping = f->drop_report = false;
    drop_queue(f);
    if (report_it)
        exports_report(f, false, 0);
}

// Ends whatever this end served: no flush, no drain; what is at a store ends by itself before the
// store is closed.
static void take_abandon(struct front *f, bool report_it)
{
    f->opening = f->closing = false;
    atomic_store(&f->config.figures->front_busy, true); // and so may what is under way
    nbd_refuse(f->nbd, "this end is passive: the volume is served by its peer");
    resync_start(f->resync, 0, 0);
    f->gate = GATE_CLOSED;
    if (f->updates)
        (void)updates_set_gate(f->updates, UPDATES_CLOSED);
    stores_close(&f->stores, f->epoll);
    // What the stores completed just now is answered (refused), too: then the NBD server lets go of the queue.
    if (f->updates)
        (void)updates_set_gate(f->updates, UPDATES_CLOSED);
    (void)unlink(f->config.queue_path);
    f->dropping = true;
    f->drop_report |= report_it;
    drop_when_quiet(f);
}

static void take_open(struct front *f, const struct front_letter *l)
{
    f->opening = true;
    f->open_recover = l->flag;
    f->open_epoch = l->epoch;
    f->open_seq = l->number;
    try_open(f);
}

// ---- the rest of the letters ----

static void take_epoch(struct front *f, const struct epoch *epoch)
{
    uint8_t encoded[EPOCH_ENCODED_SIZE];
    uint64_t seq = 0;
    if (!f->updates)
        return;
    epoch_encode(epoch, encoded);
    int r = updates_open_epoch(f->updates, epoch->id, encoded, sizeof(encoded), &seq);
    if (r == -ENOSPC) {
        overflow(f, "the unsafe queue overflowed");
        r = updates_open_epoch(f->updates, epoch->id, encoded, sizeof(encoded), &seq);
    }
    ENSURE(r == 0);
    ENSURE(seq == epoch->first_seq);
}

static void take_attach(struct front *f)
{
    if (!f->queue)
        return;
    if (f->attached)
        unsafe_detach(f->queue, LANE_READER);
    uint64_t at = unsafe_numbered(f->queue);
    unsafe_attach(f->queue, LANE_READER, at);
    f->attached = true;
    struct end_event ev = {.type = EV_ATTACHED};
    ev.attached.seq = at + 1;
    report(f, &ev);
}

static void take_answer(struct front *f, const struct front_letter *l)
{
    struct batch_answer a;
    memcpy(&a, l->message, sizeof(a));
    resync_answer(f->resync, le16_get(a.object), le64_get(a.seq), le64_get(a.offset),
                  le32_get(a.blocks), l->message + sizeof(a));
}

static void take_letter(struct front *f, const struct front_letter *l)
{
    switch ((enum front_letter_kind)l->letter.kind) {
    case FRONT_OPEN:
        take_open(f, l);
        break;
    case FRONT_BOUND:
        if (f->updates)
            updates_set_bound(f->updates, l->number);
        break;
    case FRONT_GATE:
        take_gate(f, l->gate);
        break;
    case FRONT_CLOSE:
        take_close(f);
        break;
    case FRONT_ABANDON:
        take_abandon(f, l->flag);
        break;
    case FRONT_EPOCH:
        take_epoch(f, &l->epoch);
        break;
    case FRONT_ATTACH:
        take_attach(f);
        break;
    case FRONT_DETACH:
        if (f->queue && f->attached)
            unsafe_detach(f->queue, LANE_READER);
        f->attached = false;
        break;
    case FRONT_RESYNC:
        f->resync_started = 0;
        resync_start(f->resync, l->number, clock_boot_ns());
        break;
    case FRONT_ANSWER:
        take_answer(f, l);
        break;
    case FRONT_END:
        f->ending = true;
        break;
    }
}

// ---- resync ----

// Starts one step; false when it has to wait.
static bool resync_step(struct front *f, const struct resync_step *step, int64_t now)
{
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
    resync_began(f->resync, step, now);
    f->resync_started += step->length;
    if (step->kind == RESYNC_BEGIN || step->kind == RESYNC_END)
        f->numbered_something = true;
    if (step->kind == RESYNC_END) {
        struct end_event ev = {.type = EV_RESYNCED};
        ev.resynced.object = step->object;
        ev.resynced.seq = seq;
        report(f, &ev);
    }
    return true;
}

// A resync takes at most half of the unsafe queue: the rest is the writers'.
static bool resync_has_room(struct front *f)
{
    struct unsafe_stat stat;
    unsafe_stat(f->queue, &stat);
    return stat.bytes < stat.limit_bytes / 4 && stat.bytes < 32U * 1024 * 1024;
}

// The resync's bytes a second, where the pair file limits them: what may be started by now.
static bool resync_has_rate(struct front *f, int64_t now)
{
    uint64_t rate = f->config.pair->resync.rate;
    if (rate == 0)
        return true;
    struct resync_progress p;
    resync_progress(f->resync, &p);
    double seconds = (double)(now - p.began_ns) / (double)NS_PER_S;
    return (double)f->resync_started <= seconds * (double)rate;
}

static void resync_turn(struct front *f, int64_t now)
{
    // Nothing is numbered while the gate is held: an epoch's opening has its seq already.
    if (!f->updates || !resync_running(f->resync) || !f->attached || f->gate == GATE_HELD)
        return;
    resync_applied(f->resync, atomic_load(&f->config.figures->applied), now);
    struct resync_step step;
    for (int i = 0; i < 16 && resync_has_room(f) && resync_has_rate(f, now) && resync_next(f->resync, now, &step); i++) {
        if (!resync_step(f, &step, now))
            break;
    }
    struct resync_progress p;
    resync_progress(f->resync, &p);
    struct figures *g = f->config.figures;
    atomic_store(&g->resync_done, p.done);
    atomic_store(&g->resync_total, resync_running(f->resync) ? p.total : 0);
    atomic_store(&g->resync_sent, p.sent);
    atomic_store(&g->resync_began_ns, p.began_ns);
}

// ---- the loop ----

static void publish(struct front *f, int64_t now)
{
    struct figures *g = f->config.figures;
    if (!f->updates) {
        atomic_store(&g->held_from, 0);
        atomic_store(&g->waiting_ns, 0);
        atomic_store(&g->queue_records, 0);
        atomic_store(&g->queue_bytes, 0);
        return;
    }
    struct unsafe_stat stat;
    unsafe_stat(f->queue, &stat);
    atomic_store(&g->numbered, unsafe_numbered(f->queue));
    atomic_store(&g->held_from, f->attached ? unsafe_released(f->queue, LANE_READER) + 1 : 0);
    atomic_store(&g->queue_records, stat.records);
    atomic_store(&g->queue_bytes, stat.bytes);
    atomic_store(&g->queue_limit, stat.limit_bytes);
    atomic_store(&g->queue_oldest_real_ns, stat.oldest_ns);
    // A writer that is held back waits for the peer as an answer does.
    uint64_t waiting = updates_waiting_for(f->updates);
    if (waiting != atomic_load(&g->waiting_for) || f->throttled != f->throttled_told) {
        bool waits = waiting || f->throttled;
        bool restart = waiting != atomic_load(&g->waiting_for) && !f->throttled;
        atomic_store(&g->waiting_for, waiting);
        f->throttled_told = f->throttled;
        if (!waits)
            atomic_store(&g->waiting_ns, 0);
        else if (restart || atomic_load(&g->waiting_ns) == 0)
            atomic_store(&g->waiting_ns, now);
    }
    struct nbd_stat ns;
    nbd_stat(f->nbd, &ns);
    atomic_store(&g->clients, ns.clients);
}

// A LUN that came back without its volatile cache may have lost writes that the peer has.
static void watch_resets(struct front *f)
{
    uint64_t resets = stores_resets(&f->stores);
    if (resets > f->resets)
        overflow(f, "a LUN came back without its write cache");
    f->resets = resets;
}

static void turn(struct front *f)
{
    int64_t now = clock_boot_ns();
    keep_lease(f, now);
    nbd_work(f->nbd);
    stores_work(&f->stores);
    watch_resets(f);
    if (f->opening && now >= f->open_retry_ns)
        try_open(f);
    close_when_flushed(f);
    drop_when_quiet(f);
    if (f->updates) {
        updates_durable(f->updates, atomic_load(&f->config.figures->durable));
        resync_turn(f, now);
        f->throttled = too_far_ahead(f, now);
        updates_kick(f->updates);
        if (f->overflowed) {
            f->overflowed = false;
            overflow(f, "the unsafe queue overflowed");
            updates_kick(f->updates);
        }
        nbd_flush(f->nbd);
        if (f->numbered_something) {
            bool barrier = f->barrier_wanted;
            f->numbered_something = f->barrier_wanted = false;
            lane_push(f->config.lane, barrier);
        }
    }
    publish(f, now);
}

static int64_t next_deadline(struct front *f, int64_t now)
{
    int64_t at = stores_deadline_ns(&f->stores);
    // What the peer has released is seen here: an idle front would show its queue as it was, and the end that it lags.
    if (f->updates && atomic_load(&f->config.figures->queue_records) > 0)
        at = MIN(at, now + FIGURES_NS);
    if (f->opening)
        at = MIN(at, f->open_retry_ns);
    if (f->updates && resync_running(f->resync))
        at = MIN(at, now + 2 * NS_PER_MS);
    if (f->throttled)
        at = MIN(at, now + 2 * NS_PER_MS);
    if (f->updates && f->gate != GATE_HELD && f->gate != GATE_CLOSED)
        at = MIN(at,
                 f->lease_over ? now + 5 * NS_PER_MS : atomic_load(&f->config.figures->lease_ns));
    return at;
}

static void sleep_until(struct front *f, int64_t at, int64_t now)
{
    struct epoll_event events[16];
    struct timespec wait = {0};
    bool forever = at == INT64_MAX;
    int64_t ns = MAX(at - now, 0);
    wait.tv_sec = ns / NS_PER_S;
    wait.tv_nsec = ns % NS_PER_S;
    atomic_store(&f->config.figures->front_awake_ns, 0);
    (void)epoll_pwait2(f->epoll, events, ARRAY_LEN(events), forever ? NULL : &wait, NULL);
    atomic_store(&f->config.figures->front_awake_ns, clock_boot_ns());
}

static void *run(void *arg)
{
    struct front *f = arg;
    (void)pthread_setname_np(pthread_self(), "front");
    atomic_store(&f->config.figures->front_awake_ns, clock_boot_ns());
    while (!f->ending) {
        struct front_letter *l;
        while ((l = mailbox_take(f->box))) {
            take_letter(f, l);
            free(l);
        }
        turn(f);
        atomic_store(&f->config.figures->front_busy, stores_busy(&f->stores));
        int64_t now = clock_boot_ns();
        if (!f->ending) // nothing would wake it
            sleep_until(f, next_deadline(f, now), now);
    }
    nbd_refuse(f->nbd, "the daemon is being restarted");
    stores_close(&f->stores, f->epoll);
    return NULL;
}

// ---- from outside ----

static int poll_add(int epoll, int fd, unsigned edge)
{
    struct epoll_event ev = {.events = EPOLLIN | edge, .data.fd = fd};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

// A name or a number; -1 (as it is) where it does not exist on this machine: the pair file may name
// libvirt's user on a machine that has none.
static uid_t find_user(const char *name)
{
    char *end = NULL;
    if (!name)
        return (uid_t)-1;
    unsigned long number = strtoul(name, &end, 10);
    if (*name && !*end)
        return (uid_t)number;
    struct passwd *pw = getpwnam(name);
    return pw ? pw->pw_uid : (uid_t)-1;
}

static gid_t find_group(const char *name)
{
    char *end = NULL;
    if (!name)
        return (gid_t)-1;
    unsigned long number = strtoul(name, &end, 10);
    if (*name && !*end)
        return (gid_t)number;
    struct group *gr = getgrnam(name);
    return gr ? gr->gr_gid : (gid_t)-1;
}

static int open_nbd(struct front *f, struct error *err)
{
    const struct pair_config *pair = f->config.pair;
    struct nbd_export exports[PAIR_VOLUMES_MAX];
    for (size_t i = 0; i < pair->volume_count; i++) {
        const struct pair_volume_config *v = &pair->volumes[i];
        exports[i] = (struct nbd_export){
            .name = v->name,
            .socket = f->config.sockets[i],
            .size = v->size,
            .data_align = pair_volume_store(v, f->config.side)->direct ? 4096 : 1,
            .owner = find_user(v->socket.owner),
            .group = find_group(v->socket.group),
            .mode = (mode_t)v->socket.mode,
        };
    }
    return nbd_open(exports, pair->volume_count, &nbd_ops, f, &f->nbd, err);
}

int front_new(const struct front_config *config, struct front **ret_front, struct error *err)
{
    struct front *f = calloc(1, sizeof(*f));
    uint64_t sizes[PAIR_VOLUMES_MAX];
    if (!f)
        return error_sys(err, -ENOMEM, "front thread");
    f->config = *config;
    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    f->box = mailbox_new();
    for (size_t i = 0; i < config->pair->volume_count; i++)
        sizes[i] = config->pair->volumes[i].size;
    f->resync = resync_new(sizes, (unsigned)config->pair->volume_count);
    int r = f->epoll < 0 || !f->box || !f->resync ? error_sys(err, -ENOMEM, "front thread")
                                                  : open_nbd(f, err);
    if (r == 0) // every turn empties the box, so each ring need only be seen once: no read a turn
        r = poll_add(f->epoll, mailbox_fd(f->box), EPOLLET);
    if (r == 0)
        r = poll_add(f->epoll, nbd_fd(f->nbd), 0);
    if (r == 0)
        nbd_refuse(f->nbd, "this end is passive: the volume is served by its peer");
    if (r == 0 && pthread_create(&f->thread, NULL, run, f) != 0)
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
        mailbox_post(f->box, letter_new(sizeof(struct front_letter), FRONT_END));
        (void)pthread_join(f->thread, NULL);
    }
    nbd_free(f->nbd);
    drop_queue(f);
    resync_free(f->resync);
    mailbox_free(f->box);
    cleanup_close(&f->epoll);
    free(f);
    return NULL;
}

bool front_find_queue(struct front *f, struct front_queue *ret_queue, char *why, size_t why_size)
{
    struct unsafe_config config = queue_config(f);
    struct unsafe *queue = NULL;
    struct error err = {0};
    int r = unsafe_open(f->config.queue_path, &config, &queue, &err);
    if (r < 0) {
        (void)snprintf(why, why_size, "%s", r == -ENOENT ? "" : err.text);
        return false;
    }
    unsigned cursor = 0;
    struct unsafe_pending pending;
    *ret_queue = (struct front_queue){
        .numbered = unsafe_numbered(queue),
        .epoch = unsafe_epoch(queue),
        .pending = unsafe_pending(queue, &cursor, &pending),
    };
    unsafe_free(queue);
    return true;
}

static struct front_letter *letter(int kind)
{
    return letter_new(sizeof(struct front_letter), kind);
}

void front_open(struct front *f, bool recover, const struct epoch *epoch, uint64_t seq)
{
    struct front_letter *l = letter(FRONT_OPEN);
    l->flag = recover;
    l->epoch = *epoch;
    l->number = seq;
    mailbox_post(f->box, l);
}

void front_bound(struct front *f, uint64_t seq)
{
    struct front_letter *l = letter(FRONT_BOUND);
    l->number = seq;
    mailbox_post(f->box, l);
}

void front_gate(struct front *f, enum end_gate gate)
{
    struct front_letter *l = letter(FRONT_GATE);
    l->gate = gate;
    mailbox_post(f->box, l);
}

void front_close(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_CLOSE));
}

void front_abandon(struct front *f, bool report_it)
{
    struct front_letter *l = letter(FRONT_ABANDON);
    l->flag = report_it;
    mailbox_post(f->box, l);
}

void front_epoch(struct front *f, const struct epoch *epoch)
{
    struct front_letter *l = letter(FRONT_EPOCH);
    l->epoch = *epoch;
    mailbox_post(f->box, l);
}

void front_attach(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_ATTACH));
}

void front_detach(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_DETACH));
}

void front_resync(struct front *f, uint64_t objects)
{
    struct front_letter *l = letter(FRONT_RESYNC);
    l->number = objects;
    mailbox_post(f->box, l);
}

void front_answer(struct front *f, const void *message, size_t size)
{
    struct front_letter *l = letter_new(sizeof(*l) + size, FRONT_ANSWER);
    l->size = size;
    memcpy(l->message, message, size);
    mailbox_post(f->box, l);
}

struct mailbox *front_mailbox(struct front *f)
{
    return f->box;
}
