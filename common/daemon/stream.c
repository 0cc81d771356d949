// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/daemon/stores.h"
#include "common/store/segments.h"
#include "queues/replica.h"

enum stream_letter_kind {
    LETTER_OPEN,
    LETTER_CLOSE,
    LETTER_FOLLOW,
    LETTER_CONSENT,
    LETTER_FINISH,
    LETTER_REPLAY,
    LETTER_END,
};

struct stream_letter {
    struct letter letter;
    bool flag;
    uint64_t session, seq;
    struct epoch epoch;
};

struct stream {
    struct stream_config config;
    pthread_t thread;
    bool ending;
    int epoll;
    bool send_polled; // the channel's send descriptor is in the poll
    uint64_t generation;
    // The passive end.
    struct segments *segments;
    struct stores stores;
    struct replica *replica;
    bool open_wanted;
    int64_t open_retry_ns;
    struct log_site log;
};

static struct stream_report *report_new(int kind)
{
    return letter_new(sizeof(struct stream_report), kind);
}

static void note(struct stream *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(struct stream *s, const char *format, ...)
{
    struct stream_report *r = report_new(STREAM_NOTE);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(r->text, sizeof(r->text), format, args);
    va_end(args);
    mailbox_post(s->config.reports, r);
}

static struct stream_report *follow_report(enum end_replica_event what, uint64_t seq)
{
    struct stream_report *r = report_new(STREAM_EVENT);
    r->event.type = EV_REPLICA;
    r->event.replica.what = what;
    r->event.replica.seq = seq;
    return r;
}

static void failed(struct stream *s, const char *text)
{
    struct stream_report *r = follow_report(FOLLOW_FAILED, 0);
    (void)snprintf(r->text, sizeof(r->text), "%.390s", text);
    r->event.replica.text = r->text;
    mailbox_post(s->config.reports, r);
}

// ---- the replica ----

static void replica_send(void *arg, const void *message, size_t size)
{
    struct stream *s = arg;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)message, .iov_len = size};
    (void)channel_data_send(s->config.channel, &iov, 1); // losing it does no harm
}

static void replica_release(void *arg, void *message)
{
    (void)arg;
    channel_data_free(message);
}

static void replica_event_hook(void *arg, const struct replica_event *ev)
{
    struct stream *s = arg;
    struct stream_report *r = NULL;
    switch (ev->kind) {
    case REPLICA_GATE_EPOCH:
        r = follow_report(FOLLOW_EPOCH, ev->seq);
        r->epoch = *ev->epoch;
        r->event.replica.epoch = &r->epoch;
        break;
    case REPLICA_GATE_RESYNC_BEGIN:
        r = follow_report(FOLLOW_BEGIN, ev->seq);
        r->event.replica.object = ev->object;
        break;
    case REPLICA_GATE_RESYNC_END:
        r = follow_report(FOLLOW_END, ev->seq);
        r->event.replica.object = ev->object;
        break;
    case REPLICA_RESTARTED:
        r = follow_report(FOLLOW_READY, ev->seq);
        break;
    case REPLICA_FULL:
        note(s, "the safe queue is full: the active end waits");
        return;
    case REPLICA_ROOM:
        note(s, "the safe queue has room again");
        return;
    case REPLICA_FAILED:
        failed(s, ev->error->text);
        return;
    }
    if (r)
        mailbox_post(s->config.reports, r);
}

static void close_replica(struct stream *s)
{
    if (s->replica) {
        replica_stop(s->replica);
        // What is under way at the stores ends when they are closed; a sync of the queue ends with
        // its thread.
        stores_close(&s->stores, s->epoll);
        while (!replica_idle(s->replica)) {
            segments_work(s->segments);
            (void)nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
        }
        s->replica = replica_free(s->replica);
    }
    stores_close(&s->stores, s->epoll);
    if (s->segments) {
        (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, segments_fd(s->segments), NULL);
        s->segments = segments_free(s->segments);
    }
    s->open_wanted = false;
}

static struct safe_config queue_config(const struct stream *s)
{
    return (struct safe_config){
        .disk = segments_disk(s->segments),
        .pair = s->config.pair_id,
        .salt = random_id(),
        .segment_size = SAFE_SEGMENT_SIZE,
        .limit = MAX(s->config.pair->queues.safe, 2 * SAFE_SEGMENT_SIZE),
    };
}

// Invariant: an end that serves has an empty safe queue on its disk.
static int forget_queue(struct stream *s, uint64_t epoch, uint64_t next_seq, struct error *err)
{
    struct safe *safe = NULL;
    struct safe_recovery rec;
    int r = segments_open(s->config.safe_path, 0, &s->segments, err);
    if (r < 0)
        return r;
    struct safe_config config = queue_config(s);
    r = safe_open(&config, &safe, &rec, err);
    if (r == 0 && rec.verdict != SAFE_EMPTY)
        r = safe_restart(safe, epoch, next_seq, err);
    safe_free(safe);
    s->segments = segments_free(s->segments);
    return r;
}

static void take_close(struct stream *s, const struct stream_letter *l)
{
    struct error err = {0};
    struct stream_report *r = report_new(STREAM_CLOSED);
    close_replica(s);
    r->ok = !l->flag || forget_queue(s, l->epoch.id, l->seq, &err) == 0;
    if (!r->ok)
        (void)snprintf(r->text, sizeof(r->text), "the safe queue cannot be emptied: %.300s",
                       err.text);
    mailbox_post(s->config.reports, r);
}

static int open_replica_now(struct stream *s, struct safe_recovery *ret_recovery, struct error *err)
{
    int r = stores_open(&s->stores, s->config.pair, s->config.side, err);
    if (r < 0)
        return r;
    r = segments_open(s->config.safe_path, 0, &s->segments, err);
    if (r < 0)
        return r;
    struct replica_config config = {
        .safe = queue_config(s),
        .hooks = {.send = replica_send,
                  .event = replica_event_hook,
                  .release = replica_release,
                  .arg = s},
    };
    for (size_t i = 0; i < s->config.pair->volume_count; i++)
        config.volumes[i] = store_block(stores_at(&s->stores, i));
    r = replica_open(&config, clock_boot_ns(), &s->replica, ret_recovery, err);
    if (r < 0)
        return r;
    struct epoll_event ev = {.events = EPOLLIN};
    (void)epoll_ctl(s->epoll, EPOLL_CTL_ADD, segments_fd(s->segments), &ev);
    stores_poll(&s->stores, s->epoll);
    return 0;
}

static void say_recovery(struct stream *s, const struct safe_recovery *rec)
{
    if (rec->verdict == SAFE_TORN)
        note(s, "the safe queue's unconfirmed tail was cut at %llu (%s): normal after a crash",
             (unsigned long long)rec->at_seq, rec->reason);
    else if (rec->verdict == SAFE_DAMAGED)
        note(s, "the safe queue is damaged at seq %llu, segment %u offset %llu: %s",
             (unsigned long long)rec->at_seq, rec->slot, (unsigned long long)rec->offset,
             rec->reason);
}

static void publish(struct stream *s)
{
    struct figures *g = s->config.figures;
    if (!s->replica)
        return;
    struct replica_stats stats;
    replica_stats(s->replica, &stats);
    atomic_store(&g->replica_full, stats.full);
    atomic_store(&g->replica_durable, stats.durable);
    atomic_store(&g->replica_applied, stats.applied);
    atomic_store(&g->safe_records, stats.queued_records);
    atomic_store(&g->safe_bytes, stats.queued_bytes);
    atomic_store(&g->safe_limit, stats.safe.bytes_limit);
    atomic_store(&g->safe_oldest_real_ns, (int64_t)stats.oldest_time);
    atomic_store(&g->replay_rate, stats.replay_bytes_per_s);
}

static void try_open(struct stream *s)
{
    struct error err = {0};
    struct safe_recovery rec = {0};
    struct stream_report *r;
    atomic_store(&s->config.figures->stream_busy, true); // opening may take its time
    if (!s->replica) {
        int status = open_replica_now(s, &rec, &err);
        if (status < 0) {
            close_replica(s);
            if (status == -EAGAIN) {
                s->open_wanted = true;
                s->open_retry_ns = clock_boot_ns() + 20 * NS_PER_MS;
                return;
            }
            r = report_new(STREAM_OPENED);
            (void)snprintf(r->text, sizeof(r->text), "%.390s", err.text);
            mailbox_post(s->config.reports, r);
            return;
        }
        say_recovery(s, &rec);
    }
    s->open_wanted = false;
    struct replica_stats stats;
    replica_stats(s->replica, &stats);
    r = report_new(STREAM_OPENED);
    r->ok = rec.verdict != SAFE_DAMAGED;
    r->seq = stats.received;
    publish(s); // the report's reader looks at both
    if (!r->ok)
        (void)snprintf(r->text, sizeof(r->text), "the safe queue is damaged: %s", rec.reason);
    mailbox_post(s->config.reports, r);
}

static void finished(void *arg, const struct replica_finish *finish)
{
    struct stream *s = arg;
    if (finish->error < 0) {
        failed(s, finish->reason.text);
        return;
    }
    struct stream_report *r = follow_report(FOLLOW_FINISHED, finish->applied);
    r->event.replica.short_of_confirmed = !finish->reaches_confirmed;
    r->event.replica.lost_records = finish->discarded_records;
    mailbox_post(s->config.reports, r);
}

static void take_follow(struct stream *s, const struct stream_letter *l)
{
    struct replica_stats stats;
    if (s->replica && l->flag) {
        // What failed for good starts anew with a resync.
        replica_stats(s->replica, &stats);
        if (stats.failure < 0)
            close_replica(s);
    }
    if (!s->replica) {
        if (!l->session)
            return;
        // The stores were the active end's until now.
        struct error err = {0};
        struct safe_recovery rec;
        int r;
        for (int i = 0; (r = open_replica_now(s, &rec, &err)) == -EAGAIN && i < 500; i++) {
            close_replica(s);
            (void)nanosleep(&(struct timespec){.tv_nsec = 10 * NS_PER_MS}, NULL);
        }
        if (r < 0) {
            close_replica(s);
            failed(s, err.text);
            return;
        }
        say_recovery(s, &rec);
    }
    int64_t now = clock_boot_ns();
    if (l->flag) {
        replica_restart(s->replica, l->session, l->epoch.id, l->seq, now);
        return;
    }
    replica_session(s->replica, l->session, now);
    if (l->session)
        mailbox_post(s->config.reports, follow_report(FOLLOW_READY, l->seq));
}

static void take_letter(struct stream *s, const struct stream_letter *l)
{
    switch ((enum stream_letter_kind)l->letter.kind) {
    case LETTER_OPEN:
        s->open_wanted = true;
        s->open_retry_ns = 0;
        break;
    case LETTER_CLOSE:
        take_close(s, l);
        break;
    case LETTER_FOLLOW:
        take_follow(s, l);
        break;
    case LETTER_CONSENT:
        if (s->replica)
            replica_consent(s->replica, l->seq);
        break;
    case LETTER_FINISH:
        if (s->replica)
            replica_finish(s->replica, finished, s);
        else
            failed(s, "the replica is not open");
        break;
    case LETTER_REPLAY:
        if (s->replica)
            replica_pause(s->replica, !l->flag);
        break;
    case LETTER_END:
        s->ending = true;
        break;
    }
}

// ---- messages ----

static void take_ack(struct stream *s, const struct channel_message *m)
{
    struct error err = {0};
    struct figures *g = s->config.figures;
    int r = lane_ack(s->config.lane, m->data, m->size, &err);
    if (r == -EPROTO)
        log_limited(&s->log, LOG_LEVEL_WARNING, "pair %s: acknowledgement dropped: %s",
                    s->config.pair->pair, err.text);
    uint64_t waits = atomic_load(&g->waiting_for);
    if (waits && atomic_load(&g->durable) >= waits)
        mailbox_ring(front_mailbox(s->config.front));
}

static void take_message(struct stream *s, struct channel_message *m)
{
    const struct batch *head = m->data;
    unsigned kind = m->size >= sizeof(struct batch_answer) ? head->kind : 0;
    const char *broken = NULL;
    switch (kind) {
    case BATCH_RECORDS:
        if (s->replica) {
            size_t size = m->size;
            replica_receive(s->replica, channel_message_take(m), size, clock_boot_ns());
            return;
        }
        break;
    case BATCH_ACK:
        take_ack(s, m);
        break;
    case BATCH_ANSWER:
        broken = batch_answer_invalid(m->data, m->size);
        if (!broken)
            front_answer(s->config.front, m->data, m->size);
        break;
    default:
        broken = "not a message of the stream";
        break;
    }
    if (broken)
        log_limited(&s->log, LOG_LEVEL_WARNING, "pair %s: data message dropped: %s",
                    s->config.pair->pair, broken);
    channel_message_free(m);
}

// ---- the loop ----

static void take_generation(struct stream *s)
{
    int path = CHANNEL_NO_PATH;
    uint64_t generation = channel_data_generation(s->config.channel, &path, NULL);
    bool up = path != CHANNEL_NO_PATH;
    if (up != atomic_load(&s->config.figures->stream_up)) {
        atomic_store(&s->config.figures->stream_ns, clock_boot_ns());
        atomic_store(&s->config.figures->stream_up, up);
    }
    if (generation == s->generation)
        return;
    s->generation = generation;
    lane_rewind(s->config.lane);
}

// While the lane is blocked the channel's send descriptor says when to go on.
static void poll_send(struct stream *s)
{
    bool blocked = lane_blocked(s->config.lane);
    if (blocked == s->send_polled)
        return;
    int fd = channel_data_send_fd(s->config.channel);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(s->epoll, blocked ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &ev) == 0)
        s->send_polled = blocked;
}

#define MESSAGES_A_TURN 64

static int64_t turn(struct stream *s)
{
    struct channel_message m;
    take_generation(s);
    for (int i = 0; i < MESSAGES_A_TURN && channel_data_receive(s->config.channel, &m) == 0; i++)
        take_message(s, &m);
    channel_data_work(s->config.channel);
    int64_t now = clock_boot_ns();
    int64_t at = channel_data_deadline_ns(s->config.channel);
    if (s->open_wanted) {
        if (now >= s->open_retry_ns)
            try_open(s);
        at = MIN(at, s->open_retry_ns);
    }
    if (s->replica) {
        segments_work(s->segments);
        stores_work(&s->stores);
        if (stores_resets(&s->stores) > 0) {
            // Settled may be a lie: what the LUN lost is in the safe queue still, or comes with a resync.
            failed(s, "a LUN came back without its write cache: its content has to be resynced");
            close_replica(s);
            return at;
        }
        replica_work(s->replica, now);
        at = MIN(at, MIN(replica_deadline(s->replica), stores_deadline_ns(&s->stores)));
    }
    if (s->send_polled)
        lane_unblock(s->config.lane);
    at = MIN(at, lane_work(s->config.lane, now));
    poll_send(s);
    publish(s);
    return at;
}

static void sleep_until(struct stream *s, int64_t at)
{
    struct epoll_event events[16];
    int64_t ns = MAX(at - clock_boot_ns(), 0);
    struct timespec wait = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
    // A replica's queue and stores are written in the page cache, which may wait for the disk. A thread that is wedged
    // there confirms nothing: the active end sees that by itself.
    atomic_store(&s->config.figures->stream_busy, s->replica || stores_busy(&s->stores));
    atomic_store(&s->config.figures->stream_awake_ns, 0);
    (void)epoll_pwait2(s->epoll, events, ARRAY_LEN(events), at == INT64_MAX ? NULL : &wait, NULL);
    atomic_store(&s->config.figures->stream_awake_ns, clock_boot_ns());
}

static void *run(void *arg)
{
    struct stream *s = arg;
    (void)pthread_setname_np(pthread_self(), "stream");
    while (!s->ending) {
        struct stream_letter *l;
        while ((l = mailbox_take(s->config.box))) {
            atomic_store(&s->config.figures->stream_busy, true); // it may open and close stores and queue
            take_letter(s, l);
            free(l);
        }
        int64_t at = turn(s);
        if (!s->ending) // nothing would wake it
            sleep_until(s, at);
    }
    close_replica(s);
    return NULL;
}

// ---- from outside ----

int stream_new(const struct stream_config *config, struct stream **ret_stream, struct error *err)
{
    struct stream *s = calloc(1, sizeof(*s));
    if (!s)
        return error_sys(err, -ENOMEM, "stream thread");
    s->config = *config;
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    // Every turn empties the box, so each ring need only be seen once: no read a turn.
    struct epoll_event edge = {.events = EPOLLIN | EPOLLET}, ev = {.events = EPOLLIN};
    int r = s->epoll < 0 ? error_sys(err, -errno, "stream thread") : 0;
    if (r == 0 && (epoll_ctl(s->epoll, EPOLL_CTL_ADD, mailbox_fd(config->box), &edge) < 0 ||
                   epoll_ctl(s->epoll, EPOLL_CTL_ADD, channel_data_fd(config->channel), &ev) < 0))
        r = error_sys(err, -errno, "stream thread");
    if (r == 0 && pthread_create(&s->thread, NULL, run, s) != 0)
        r = error_sys(err, -EAGAIN, "cannot start the stream thread");
    if (r < 0) {
        cleanup_close(&s->epoll);
        free(s);
        return r;
    }
    *ret_stream = s;
    return 0;
}

static void post(struct stream *s, struct stream_letter *l)
{
    mailbox_post(s->config.box, l);
}

static struct stream_letter *letter(int kind)
{
    return letter_new(sizeof(struct stream_letter), kind);
}

struct stream *stream_free(struct stream *s)
{
    if (!s)
        return NULL;
    post(s, letter(LETTER_END));
    (void)pthread_join(s->thread, NULL);
    cleanup_close(&s->epoll);
    free(s);
    return NULL;
}

void stream_open(struct stream *s)
{
    post(s, letter(LETTER_OPEN));
}

void stream_close(struct stream *s, const struct epoch *forget, uint64_t next_seq)
{
    struct stream_letter *l = letter(LETTER_CLOSE);
    l->flag = forget != NULL;
    if (forget)
        l->epoch = *forget;
    l->seq = next_seq;
    post(s, l);
}

void stream_follow(struct stream *s, uint64_t session, bool restart, uint64_t seq,
                   const struct epoch *epoch)
{
    struct stream_letter *l = letter(LETTER_FOLLOW);
    l->session = session;
    l->flag = restart;
    l->seq = seq;
    if (epoch)
        l->epoch = *epoch;
    post(s, l);
}

void stream_consent(struct stream *s, uint64_t seq)
{
    struct stream_letter *l = letter(LETTER_CONSENT);
    l->seq = seq;
    post(s, l);
}

void stream_finish(struct stream *s)
{
    post(s, letter(LETTER_FINISH));
}

void stream_replay(struct stream *s, bool on)
{
    struct stream_letter *l = letter(LETTER_REPLAY);
    l->flag = on;
    post(s, l);
}
