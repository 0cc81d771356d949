// SPDX-License-Identifier: Apache-2.0
// The passive end's data path, as the simulator carries it out: common/end/follower over a disk and
// volumes that can lose what was not synced.
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// ---- the disk of the safe queue ----

static struct fake_disk *disk_of(struct host *h, unsigned which)
{
    return which ? h->salvage : h->safe;
}

static void disk_done(struct host *h, void *arg, uint64_t which)
{
    (void)arg;
    h->disk_scheduled[which]--;
    (void)fake_disk_complete(disk_of(h, (unsigned)which));
    stream_turn(h);
}

void disk_poll(struct host *h)
{
    struct sim *s = h->sim;
    for (unsigned which = 0; which < 2; which++)
        while (h->disk_scheduled[which] < fake_disk_syncing(disk_of(h, which))) {
            int64_t delay = (int64_t)(100 + rnd(s, 2000)) * NS_PER_US;
            if (chance(s, 15))
                delay += (int64_t)rnd(s, 200) * NS_PER_MS;
            delay = disk_time(h, delay);
            h->disk_scheduled[which]++;
            plan_daemon(h, s->now + delay, disk_done, NULL, which);
        }
}

// ---- what the follower asks for ----

static int open_stores(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err)
{
    struct host *h = user;
    if (h->stores_of == BOX_FRONT || (h->started && chance(h->sim, 50)))
        return error_set(err, -EAGAIN, "the stores are in other hands");
    if (h->sim->now < h->stores_shut_until)
        return error_set(err, -EIO, "the stores cannot be opened");
    h->stores_of = BOX_STREAM;
    for (unsigned i = 0; i < h->sim->volumes; i++)
        ret_blocks[i] = fake_volume_of(h->volume[i]);
    return 0;
}

static void close_stores(void *user)
{
    struct host *h = user;
    if (h->stores_of != BOX_STREAM)
        return;
    volumes_finish(h);
    h->stores_of = BOX_NONE;
}

static int open_disk(void *user, struct disk **ret_disk, struct error *err)
{
    struct host *h = user;
    (void)err;
    *ret_disk = fake_disk_of(h->safe);
    return 0;
}

static void close_disk(void *user)
{
    struct host *h = user;
    fake_disk_kill(h->safe);
}

static void work_disk(void *user)
{
    struct host *h = user;
    while (fake_disk_complete(h->safe))
        ;
    while (fake_disk_complete(h->salvage))
        ;
}

static int open_salvage(void *user, struct disk **ret_disk, struct error *err)
{
    struct host *h = user;
    (void)err;
    ENSURE(!h->salvage_open);
    h->salvage_open = true;
    *ret_disk = fake_disk_of(h->salvage);
    return 0;
}

static void close_salvage(void *user)
{
    struct host *h = user;
    if (h->salvage_open)
        fake_disk_kill(h->salvage);
    h->salvage_open = false;
}

static uint64_t real_ns(void *user)
{
    struct host *h = user;
    return (uint64_t)wall_now(h);
}

// An operator makes room: everything is dropped.
struct dropping {
    struct host *host;
    struct {
        uint32_t number;
        bool goes_on;
    } salvage[32];
    unsigned count;
};

static void collect(void *arg, const struct salvage_info *info)
{
    struct dropping *d = arg;
    if (d->count == ARRAY_LEN(d->salvage))
        return;
    d->salvage[d->count].number = info->number;
    d->salvage[d->count++].goes_on = state_goes_on(d->host, info->epoch.id);
}

static void drop_salvage(struct host *h, void *arg, uint64_t n)
{
    struct disk *disk = fake_disk_of(h->salvage);
    struct dropping d = {.host = h};
    unsigned beyond;
    (void)arg;
    (void)n;
    h->salvage_drop = false;
    if (h->salvage_open)
        return; // asked for again
    judge_salvage_dropped(h);
    (void)salvage_list(disk, collect, &d, &beyond, NULL);
    for (unsigned i = 0; i < d.count; i++) {
        int rc = salvage_drop(disk, d.salvage[i].number, d.salvage[i].goes_on, NULL);
        trace(h->sim, h, "operator: drops salvage %u%s", d.salvage[i].number,
              rc == 0 ? "" : rc == -EBUSY ? ": a list of what was dropped, which stays" : ": the disk fails");
        cover_count(rc == 0 ? "operator: drops a salvage" : "operator: drops a salvage, and it stays");
    }
    fake_disk_kill(h->salvage);
}

static void look_at_salvage(struct host *h)
{
    struct follower_salvage st;
    follower_salvage_stats(h->follower, &st);
    h->figures.salvage_full = st.full;
    if (!st.full || h->salvage_drop)
        return;
    h->salvage_drop = true;
    plan_host(h, h->sim->now + (int64_t)(300 + rnd(h->sim, 2500)) * NS_PER_MS, drop_salvage, NULL, 0);
}

static uint64_t random_number(void *user)
{
    struct host *h = user;
    return rnd(h->sim, 0);
}

static void send_message(void *user, const void *message, size_t size)
{
    struct host *h = user;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)message, .iov_len = size};
    if (h->figures.stream_up)
        net_send_data(h, &iov, 1);
}

static void release_message(void *user, void *message)
{
    (void)user;
    free(message);
}

static void deliver_epoch(struct host *h, void *arg, uint64_t seq)
{
    struct end_event ev = {.type = EV_REPLICA};
    ev.replica.what = FOLLOW_EPOCH;
    ev.replica.seq = seq;
    ev.replica.epoch = arg;
    feed(h, &ev);
}

static void report_epoch(struct host *h, uint64_t seq, const struct epoch *epoch)
{
    struct epoch *copy = malloc(sizeof(*copy));
    ENSURE(copy);
    *copy = *epoch;
    plan_daemon(h, mailbox_time(h, BOX_CONTROL), deliver_epoch, copy, seq);
}

static void report(void *user, const struct end_event *event)
{
    struct host *h = user;
    struct end_event ev = *event;
    struct replica_stats st;
    if (ev.type == EV_MAP && ev.map.what == MAP_EV_PIECE) {
        h->lost_piece = *ev.map.piece; // it has to live longer
        ev.map.piece = &h->lost_piece;
    }
    if (ev.type != EV_REPLICA) {
        report_event(h, &ev);
        return;
    }
    if (ev.replica.what == FOLLOW_EPOCH) {
        report_epoch(h, ev.replica.seq, ev.replica.epoch);
        return;
    }
    if (ev.replica.what == FOLLOW_FAILED) {
        trace(h->sim, h, "the replica failed: %s", ev.replica.text);
        if (h->tail_life == h->life)
            cover_count("a rotten tail, and its replica fails");
        ev.replica.text = "its disk failed"; // it has to live longer
    }
    h->lost_unknown = ev.replica.what == FOLLOW_FINISHED && ev.replica.unknown;
    if (ev.replica.what == FOLLOW_FINISHED && !ev.replica.discards && stream_stats(h, &st))
        judge_finished(h, st.applied_epoch ? st.applied_epoch : st.durable_epoch, ev.replica.seq);
    report_event(h, &ev);
}

static void note(void *user, const char *text)
{
    struct host *h = user;
    if (strstr(text, "unconfirmed tail was cut"))
        h->tail_cut = h->queue_rotted;
    if (h->view.session)
        judge_tail(h);
    if (strstr(text, "safe queue is full"))
        cover_count("safe queue: full");
    if (strstr(text, "nothing is applied here"))
        cover_count("salvage full");
    trace(h->sim, h, "%s", text);
}

static void copy_maps(struct host *h, void *arg, uint64_t ticket)
{
    (void)arg;
    service_map_copy(h->front.service, h->copy_objects, ticket);
    front_turn(h);
}

static void ask_own_maps(void *user, uint64_t objects, uint64_t ticket)
{
    struct host *h = user;
    h->copy_objects = objects;
    plan_daemon(h, h->sim->now + (int64_t)rnd(h->sim, 100) * NS_PER_US, copy_maps, NULL, ticket);
}

static void turn_soon(struct host *h, void *arg, uint64_t n)
{
    (void)arg, (void)n;
    stream_turn(h);
}

void stream_own_map(struct host *h, uint64_t ticket, unsigned object, uint32_t region, uint64_t regions,
                    const uint8_t *bits)
{
    follower_own_map(h->follower, ticket, object, region, regions, bits);
    plan_daemon(h, h->sim->now + 10 * NS_PER_US, turn_soon, NULL, 0);
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

// ---- from outside ----

void stream_init(struct host *h)
{
    uint64_t segment = BATCH_BYTES_TARGET + h->sim->size + 128 * 1024; // holds the largest batch
    struct follower_config config = {
        .volumes = h->sim->volumes,
        .pair = PAIR_ID,
        .segment_size = segment,
        .limit = 3 * segment,
        .window = chance(h->sim, 300) ? 32 * 1024 : 0,
        .map_region = INTENT_REGION_MIN,
        .name = "sim",
        .side = h->index ? EPOCH_BY_SECONDARY : EPOCH_BY_PRIMARY,
        .salvage_limit = h->index ? 1200 * 1024 : 320 * 1024, // the Primary's is full now and then
        .salvage_file_size = SALVAGE_FILE_MIN / 4096 * 4096,
    };
    for (unsigned i = 0; i < h->sim->volumes; i++) {
        struct salvage_volume *v = &config.salvage_volumes[i];
        (void)snprintf(v->name, sizeof(v->name), "v%u", i);
        v->size = h->sim->size;
    }
    h->stores_of = BOX_NONE;
    h->follower = follower_new(&config, &follower_ops, h);
    ENSURE(h->follower);
}

void stream_stop(struct host *h, bool in_order)
{
    struct replica_stats stats;
    if (!h->follower)
        return;
    if (stream_stats(h, &stats))
        h->held = stats.durable;
    if (in_order)
        (void)follower_close(h->follower, NULL, 0, NULL);
    else if (h->stores_of == BOX_STREAM)
        for (unsigned i = 0; i < h->sim->volumes; i++)
            fake_volume_kill(h->volume[i]);
    h->follower = follower_free(h->follower);
    fake_disk_kill(h->safe);
    fake_disk_kill(h->salvage);
    h->salvage_open = false;
}

int stream_open(struct host *h, uint64_t *ret_seq, uint64_t *ret_base, char *why, size_t size)
{
    struct error err = {0};
    struct replica_stats stats;
    if (h->state.salvage)
        follower_salvage(h->follower, &h->state);
    int r = follower_open(h->follower, local_now(h), ret_seq, ret_base, &err);
    if (r < 0)
        (void)snprintf(why, size, "%s", err.text);
    if (!stream_stats(h, &stats))
        return r;
    h->figures.replica_durable = stats.durable;
    h->tail_cut |= h->queue_rotted && stats.durable < h->held; // it may even look as if nothing had been there
    trace(h->sim, h, "safe queue opened: applied %llu, durable %llu",
          (unsigned long long)stats.applied, (unsigned long long)stats.durable);
    stream_turn(h);
    return r;
}

bool stream_stats(const struct host *h, struct replica_stats *ret_stats)
{
    return h->follower && follower_stats(h->follower, ret_stats);
}

static void close_letter(struct host *h, const struct end_action *a)
{
    struct error err = {0};
    int r = follower_close(h->follower, a->recover ? NULL : &a->epoch, a->seq, &err);
    if (r < 0)
        trace(h->sim, h, "the safe queue cannot be emptied: %s", err.text);
    act_closed(h, r == 0);
}

void stream_letter(struct host *h, const struct end_action *a)
{
    switch (a->type) {
    case ACT_OPEN:
        close_letter(h, a);
        break;
    case ACT_SALVAGE:
        cover_count("salvages begun");
        fault_on_salvage(h);
        follower_salvage(h->follower, &a->state);
        break;
    case ACT_FOLLOW:
        if (a->session)
            judge_tail(h);
        h->tail_cut &= !a->session; // the active end has compared what it knows
        follower_follow(h->follower, a->session, a->restart, a->seq, &a->epoch, local_now(h));
        break;
    case ACT_CONSENT:
        follower_consent(h->follower, a->seq);
        break;
    case ACT_FINISH:
        judge_finishes(h);
        follower_finish(h->follower);
        break;
    case ACT_LOST:
        follower_lost(h->follower, (uint16_t)a->object, a->seq, a->session);
        break;
    case ACT_DISCARD:
        cover_count("takeover: records are discarded");
        judge_discard(h);
        follower_discard(h->follower);
        break;
    case ACT_REPLAY:
        h->replay_paused = !a->on;
        follower_replay(h->follower, a->on);
        break;
    default:
        ENSURE(!"not a letter to the stream");
    }
    stream_turn(h);
}

void stream_message(struct host *h, void *message, size_t size)
{
    const struct batch *head = message;
    unsigned kind = size >= sizeof(struct batch_answer) ? head->kind : 0;
    if (kind == BATCH_RECORDS && follower_receive(h->follower, message, size, local_now(h))) {
        stream_turn(h);
        return;
    }
    if (kind == BATCH_ACK)
        front_ack(h, message, size);
    else if (kind == BATCH_ANSWER && !batch_answer_invalid(message, size))
        front_answer(h, message);
    free(message);
    front_turn(h);
}

// ---- the loop ----

static void again(struct host *h, void *arg, uint64_t at)
{
    (void)arg;
    if ((int64_t)at != h->replica_at)
        return;
    h->replica_at = INT64_MAX;
    stream_turn(h);
}

static void plan_turn(struct host *h)
{
    int64_t at = follower_deadline(h->follower);
    if (at == INT64_MAX)
        return;
    at = MAX(world_time(h, at), h->sim->now + 10 * NS_PER_US);
    if (h->replica_at >= h->sim->now && at >= h->replica_at)
        return;
    h->replica_at = at;
    plan_daemon(h, at, again, NULL, (uint64_t)at);
}

void stream_turn(struct host *h)
{
    struct replica_stats stats;
    if (!h->follower || !h->running)
        return;
    follower_turn(h->follower, local_now(h));
    if (stream_stats(h, &stats)) {
        volumes_poll(h);
        disk_poll(h);
        h->figures.replica_durable = stats.durable;
        h->figures.replica_applied = stats.applied;
        h->figures.replica_full = stats.full;
    }
    look_at_salvage(h);
    plan_turn(h);
}
