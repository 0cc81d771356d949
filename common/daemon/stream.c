// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/base/thread.h"
#include "common/daemon/prompt.h"
#include "common/daemon/salvage_place.h"
#include "common/daemon/stores.h"
#include "common/end/follower.h"
#include "common/store/segments.h"

#define ACK_AGAIN_NS (50 * NS_PER_MS)

enum stream_letter_kind {
    LETTER_OPEN,
    LETTER_CLOSE,
    LETTER_SALVAGE,
    LETTER_FOLLOW,
    LETTER_CONSENT,
    LETTER_FINISH,
    LETTER_LOST,
    LETTER_DISCARD,
    LETTER_REPLAY,
    LETTER_OWN_MAP, // a struct own_map_letter
    LETTER_END,
};

struct stream_letter {
    struct letter letter;
    bool flag;
    uint16_t object;       // LOST
    uint64_t session, seq; // LOST: seq is a region
    struct epoch epoch;
    struct end_state state; // SALVAGE
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
    struct salvage_place salvage;
    struct stores stores;
    struct follower *follower;
    struct batch_ack unsent; // that the channel did not take,
    int64_t unsent_ns;       // when; 0: there is none
    bool answers;            // some were sent in this turn, and may wait for more
    bool open_wanted;
    int64_t open_retry_ns;
    struct log_site log;
};

static struct stream_report *report_new(int kind)
{
    return letter_new(sizeof(struct stream_report), kind);
}

// ---- what the follower asks for ----

static int open_stores(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err)
{
    struct stream *s = user;
    const struct pair_config *pair = s->config.pair;
    int r = stores_open(&s->stores, pair, s->config.side, false, NULL, err);
    if (r < 0)
        return r;
    stores_poll(&s->stores, s->epoll, NULL);
    for (size_t i = 0; i < pair->volume_count; i++)
        ret_blocks[i] = store_block(stores_at(&s->stores, i));
    return 0;
}

static void close_stores(void *user)
{
    struct stream *s = user;
    stores_close(&s->stores, s->epoll);
}

static int open_disk(void *user, struct disk **ret_disk, struct error *err)
{
    struct stream *s = user;
    int r = segments_open(s->config.safe_path, SEGMENTS_KICKED, &s->segments, err);
    if (r < 0)
        return r;
    struct epoll_event ev = {.events = EPOLLIN};
    (void)epoll_ctl(s->epoll, EPOLL_CTL_ADD, segments_fd(s->segments), &ev);
    *ret_disk = segments_disk(s->segments);
    return 0;
}

static void close_disk(void *user)
{
    struct stream *s = user;
    if (!s->segments)
        return;
    (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, segments_fd(s->segments), NULL);
    s->segments = segments_free(s->segments);
}

static void work_disk(void *user)
{
    struct stream *s = user;
    segments_kick(s->segments, false);
    segments_work(s->segments);
    salvage_place_work(&s->salvage);
    (void)nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
}

static int open_salvage(void *user, struct disk **ret_disk, struct error *err)
{
    struct stream *s = user;
    int r = salvage_place_open(&s->salvage, s->config.salvage_path, s->epoll, err);
    if (r == 0)
        *ret_disk = segments_disk(s->salvage.segments);
    return r;
}

static void close_salvage(void *user)
{
    struct stream *s = user;
    salvage_place_close(&s->salvage, s->epoll);
}

static void ask_own_maps(void *user, uint64_t objects, uint64_t ticket)
{
    struct stream *s = user;
    front_map_copy(s->config.front, objects, ticket, s->config.box, LETTER_OWN_MAP);
}

static uint64_t real_ns(void *user)
{
    (void)user;
    return (uint64_t)clock_real_ns();
}

static uint64_t random_number(void *user)
{
    (void)user;
    return random_id();
}

// An acknowledgement says all that there is to say, once: one that finds its path full, or without a connection, is said
// again, so that the path is left in time where it stays so. While no link is up the active end asks for it later.
static int64_t repeat_ack(struct stream *s, int64_t now)
{
    struct iovec iov = {.iov_base = &s->unsent, .iov_len = sizeof(s->unsent)};
    if (s->unsent_ns && now >= s->unsent_ns + ACK_AGAIN_NS)
        s->unsent_ns = channel_data_send(s->config.channel, &iov, 1) == -EAGAIN ? now : 0;
    return s->unsent_ns ? s->unsent_ns + ACK_AGAIN_NS : INT64_MAX;
}

static void send_message(void *user, const void *message, size_t size)
{
    struct stream *s = user;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)message, .iov_len = size};
    bool answer = ((const struct batch_answer *)message)->kind == BATCH_ANSWER;
    int r = answer ? channel_data_send_soon(s->config.channel, &iov, 1)
                   : channel_data_send(s->config.channel, &iov, 1); // losing it does no harm
    s->answers |= answer;
    if (size != sizeof(s->unsent) || ((const struct batch_ack *)message)->kind != BATCH_ACK)
        return;
    s->unsent_ns = r == -EAGAIN ? clock_boot_ns() : 0;
    memcpy(&s->unsent, message, sizeof(s->unsent));
}

static void release_message(void *user, void *message)
{
    (void)user;
    channel_data_free(message);
}

static void report(void *user, const struct end_event *event)
{
    struct stream *s = user;
    struct stream_report *r = report_new(STREAM_EVENT);
    r->event = *event;
    bool replica = event->type == EV_REPLICA;
    if (replica && event->replica.text) {
        (void)snprintf(r->text, sizeof(r->text), "%s", event->replica.text);
        r->event.replica.text = r->text;
    }
    if (replica && event->replica.epoch) {
        r->epoch = *event->replica.epoch;
        r->event.replica.epoch = &r->epoch;
    }
    if (event->type == EV_MAP && event->map.what == MAP_EV_PIECE) {
        r->piece = *event->map.piece;
        r->event.map.piece = &r->piece;
    }
    mailbox_post(s->config.reports, r);
}

static void note(void *user, const char *text)
{
    struct stream *s = user;
    struct stream_report *r = report_new(STREAM_NOTE);
    (void)snprintf(r->text, sizeof(r->text), "%s", text);
    mailbox_post(s->config.reports, r);
}

static const struct follower_ops follower_ops = {
    .open_stores = open_stores,
    .close_stores = close_stores,
    .open_disk = open_disk,
    .close_disk = close_disk,
    .work_disk = work_disk,
    .open_salvage = open_salvage,
    .close_salvage = close_salvage,
    .ask_own_maps = ask_own_maps,
    .real_ns = real_ns,
    .random = random_number,
    .send = send_message,
    .release = release_message,
    .report = report,
    .note = note,
};

// When the oldest record that waits was numbered, by this end's CLOCK_BOOTTIME; 0: none waits. Of a queue that a former
// run has left it is as good as both machines' wall clocks.
static int64_t oldest_ns(const struct replica_stats *stats)
{
    if (!stats->oldest_time)
        return 0;
    int64_t now = clock_boot_ns();
    int64_t age = stats->newest_at ? now - stats->newest_at + (int64_t)(stats->newest_time - stats->oldest_time)
                                   : clock_real_ns() - (int64_t)stats->oldest_time;
    return MAX(now - MAX(age, 0), 1);
}

static void publish(struct stream *s)
{
    struct figures *g = s->config.figures;
    struct replica_stats stats;
    if (!follower_stats(s->follower, &stats))
        return;
    atomic_store(&g->replica_full, stats.full);
    atomic_store(&g->replica_durable, stats.durable);
    atomic_store(&g->replica_applied, stats.applied);
    atomic_store(&g->replica_settled, stats.settled);
    atomic_store(&g->safe_records, stats.queued_records);
    atomic_store(&g->safe_bytes, stats.queued_bytes);
    atomic_store(&g->safe_limit, stats.safe.bytes_limit);
    atomic_store(&g->safe_oldest_ns, oldest_ns(&stats));
    atomic_store(&g->replay_rate, stats.replay_bytes_per_s);
    struct follower_salvage salvage;
    follower_salvage_stats(s->follower, &salvage);
    atomic_store(&g->salvage_full, salvage.full);
    atomic_store(&g->salvage_bytes, salvage.used_bytes);
    atomic_store(&g->salvaging, salvage.objects);
}

// ---- letters ----

static void take_close(struct stream *s, const struct stream_letter *l)
{
    struct error err = {0};
    struct stream_report *r = report_new(STREAM_CLOSED);
    s->open_wanted = false;
    r->ok = follower_close(s->follower, l->flag ? &l->epoch : NULL, l->seq, &err) == 0;
    if (!r->ok)
        (void)snprintf(r->text, sizeof(r->text), "the safe queue cannot be emptied: %.300s",
                       err.text);
    mailbox_post(s->config.reports, r);
}

static void try_open(struct stream *s)
{
    struct error err = {0};
    uint64_t seq = 0, base = 0;
    atomic_store(&s->config.figures->stream_busy, true); // opening may take its time
    int r = follower_open(s->follower, clock_boot_ns(), &seq, &base, &err);
    if (r == -EAGAIN) {
        s->open_retry_ns = clock_boot_ns() + FOLLOWER_RETRY_NS;
        return;
    }
    s->open_wanted = false;
    publish(s); // the report's reader looks at both
    struct stream_report *report = report_new(STREAM_OPENED);
    report->ok = r == 0;
    report->damaged = r == -EUCLEAN;
    report->seq = seq;
    report->base = base;
    if (r < 0)
        (void)snprintf(report->text, sizeof(report->text), "%.390s", err.text);
    mailbox_post(s->config.reports, report);
}

static void take_own_map(struct stream *s, const struct own_map_letter *l)
{
    follower_own_map(s->follower, l->ticket, l->object, l->region, l->regions, l->known ? l->bits : NULL);
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
    case LETTER_SALVAGE:
        follower_salvage(s->follower, &l->state);
        break;
    case LETTER_FOLLOW:
        follower_follow(s->follower, l->session, l->flag, l->seq, &l->epoch, clock_boot_ns());
        break;
    case LETTER_CONSENT:
        follower_consent(s->follower, l->seq);
        break;
    case LETTER_FINISH:
        follower_finish(s->follower);
        break;
    case LETTER_LOST:
        follower_lost(s->follower, l->object, l->seq, l->session);
        break;
    case LETTER_DISCARD:
        follower_discard(s->follower);
        break;
    case LETTER_REPLAY:
        follower_replay(s->follower, l->flag);
        break;
    case LETTER_OWN_MAP:
        take_own_map(s, (const struct own_map_letter *)(const void *)l);
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
        if (follower_is_open(s->follower)) {
            size_t size = m->size;
            (void)follower_receive(s->follower, channel_message_take(m), size, clock_boot_ns());
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
#define BYTES_A_TURN    (2u << 20) // what has become durable meanwhile is applied, and said, in between

static int64_t turn(struct stream *s)
{
    struct channel_message m;
    take_generation(s);
    int messages = 0;
    size_t bytes = 0;
    while (messages < MESSAGES_A_TURN && bytes < BYTES_A_TURN && channel_data_receive(s->config.channel, &m) == 0) {
        bytes += m.size;
        take_message(s, &m);
        messages++;
    }
    channel_data_work(s->config.channel);
    int64_t now = clock_boot_ns();
    int64_t at = channel_data_deadline_ns(s->config.channel);
    if (s->open_wanted) {
        if (now >= s->open_retry_ns)
            try_open(s);
        at = MIN(at, s->open_retry_ns);
    }
    if (follower_is_open(s->follower)) {
        segments_work(s->segments);
        salvage_place_work(&s->salvage);
        stores_work(&s->stores);
        // Settled may be a lie: what the LUN lost is in the safe queue still, or comes with a
        // resync.
        if (stores_resets(&s->stores) > 0)
            follower_fail(
                s->follower,
                "a LUN came back without its write cache: its content has to be resynced");
    }
    follower_turn(s->follower, now);
    if (s->answers)
        channel_data_push(s->config.channel);
    s->answers = false;
    // Nothing else has come: an acknowledgement is all that anybody waits for.
    if (s->segments)
        segments_kick(s->segments, messages < MESSAGES_A_TURN && bytes < BYTES_A_TURN);
    at = MIN(at, MIN(follower_deadline(s->follower), stores_deadline_ns(&s->stores)));
    at = MIN(at, repeat_ack(s, now));
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
    // A replica's queue and stores are written in the page cache, which may wait for the disk. A
    // thread that is wedged there confirms nothing: the active end sees that by itself.
    atomic_store(&s->config.figures->stream_busy,
                 follower_is_open(s->follower) || stores_busy(&s->stores));
    atomic_store(&s->config.figures->stream_awake_ns, 0);
    (void)epoll_pwait2(s->epoll, events, ARRAY_LEN(events), at == INT64_MAX ? NULL : &wait, NULL);
    atomic_store(&s->config.figures->stream_awake_ns, clock_boot_ns());
}

static void *run(void *arg)
{
    struct stream *s = arg;
    prompt_short_slice();
    atomic_store(&s->config.figures->stream_tid, gettid());
    while (!s->ending) {
        struct stream_letter *l;
        while ((l = mailbox_take(s->config.box))) {
            atomic_store(&s->config.figures->stream_busy,
                         true); // it may open and close stores and queue
            take_letter(s, l);
            free(l);
        }
        int64_t at = turn(s);
        if (!s->ending) // nothing would wake it
            sleep_until(s, at);
    }
    (void)follower_close(s->follower, NULL, 0, NULL);
    return NULL;
}

// ---- from outside ----

static int make_follower(struct stream *s, struct error *err)
{
    const struct pair_config *pair = s->config.pair;
    struct follower_config config = {
        .volumes = (unsigned)pair->volume_count,
        .pair = s->config.pair_id,
        .segment_size = SAFE_SEGMENT_SIZE,
        .limit = MAX(pair->queues.safe, 2 * SAFE_SEGMENT_SIZE),
        .name = pair->pair,
        .side = s->config.side == PAIR_PRIMARY ? EPOCH_BY_PRIMARY : EPOCH_BY_SECONDARY,
        .salvage_limit = pair->queues.salvage,
    };
    for (size_t i = 0; i < pair->volume_count; i++) {
        struct salvage_volume *v = &config.salvage_volumes[i];
        (void)snprintf(v->name, sizeof(v->name), "%s", pair->volumes[i].name);
        v->size = pair->volumes[i].size;
    }
    s->follower = follower_new(&config, &follower_ops, s);
    return s->follower ? 0 : error_sys(err, -ENOMEM, "stream thread");
}

int stream_new(const struct stream_config *config, struct stream **ret_stream, struct error *err)
{
    struct stream *s = calloc(1, sizeof(*s));
    if (!s)
        return error_sys(err, -ENOMEM, "stream thread");
    s->config = *config;
    s->salvage = SALVAGE_PLACE_CLOSED;
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    // Every turn empties the box, so each ring need only be seen once: no read a turn.
    struct epoll_event edge = {.events = EPOLLIN | EPOLLET}, ev = {.events = EPOLLIN};
    int r = s->epoll < 0 ? error_sys(err, -errno, "stream thread") : make_follower(s, err);
    if (r == 0 && (epoll_ctl(s->epoll, EPOLL_CTL_ADD, mailbox_fd(config->box), &edge) < 0 ||
                   epoll_ctl(s->epoll, EPOLL_CTL_ADD, channel_data_fd(config->channel), &ev) < 0))
        r = error_sys(err, -errno, "stream thread");
    if (r == 0 && thread_start(&s->thread, "stream", run, s) < 0)
        r = error_sys(err, -EAGAIN, "cannot start the stream thread");
    if (r < 0) {
        follower_free(s->follower);
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
    follower_free(s->follower);
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

void stream_salvage(struct stream *s, const struct end_state *state)
{
    struct stream_letter *l = letter(LETTER_SALVAGE);
    l->state = *state;
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

void stream_lost(struct stream *s, uint16_t object, uint64_t from, uint64_t session)
{
    struct stream_letter *l = letter(LETTER_LOST);
    l->object = object;
    l->seq = from;
    l->session = session;
    post(s, l);
}

void stream_discard(struct stream *s)
{
    post(s, letter(LETTER_DISCARD));
}

void stream_replay(struct stream *s, bool on)
{
    struct stream_letter *l = letter(LETTER_REPLAY);
    l->flag = on;
    post(s, l);
}
