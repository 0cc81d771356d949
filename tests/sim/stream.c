// SPDX-License-Identifier: Apache-2.0
// The passive end's data path, wired as the daemon's stream thread wires it: the replica over a disk and volumes that
// can lose what was not synced.
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// ---- the disk of the safe queue ---------------------------------------------------------------------------------

static void disk_done(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    h->disk_scheduled--;
    (void)fake_disk_complete(h->safe);
    stream_turn(h);
}

void disk_poll(struct host *h)
{
    struct sim *s = h->sim;
    while (h->disk_scheduled < fake_disk_syncing(h->safe)) {
        int64_t delay = (int64_t)(100 + rnd(s, 2000)) * NS_PER_US;
        if (chance(s, 15))
            delay += (int64_t)rnd(s, 200) * NS_PER_MS;
        h->disk_scheduled++;
        plan_daemon(h, s->now + delay, disk_done, NULL, 0);
    }
}

// ---- hooks ------------------------------------------------------------------------------------------------------

static void hook_send(void *arg, const void *message, size_t size)
{
    struct host *h = arg;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)message, .iov_len = size};
    if (h->figures.stream_up)
        net_send_data(h, &iov, 1);
}

static void hook_release(void *arg, void *message)
{
    (void)arg;
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

static void report_follow(struct host *h, enum end_replica_event what, uint64_t seq,
                          unsigned object, const char *text)
{
    struct end_event ev = {.type = EV_REPLICA};
    ev.replica.what = what;
    ev.replica.seq = seq;
    ev.replica.object = object;
    ev.replica.text = text;
    report_event(h, &ev);
}

static void hook_event(void *arg, const struct replica_event *ev)
{
    struct host *h = arg;
    switch (ev->kind) {
    case REPLICA_GATE_EPOCH:
        report_epoch(h, ev->seq, ev->epoch);
        break;
    case REPLICA_GATE_RESYNC_BEGIN:
        report_follow(h, FOLLOW_BEGIN, ev->seq, ev->object, NULL);
        break;
    case REPLICA_GATE_RESYNC_END:
        report_follow(h, FOLLOW_END, ev->seq, ev->object, NULL);
        break;
    case REPLICA_RESTARTED:
        report_follow(h, FOLLOW_READY, ev->seq, 0, NULL);
        break;
    case REPLICA_FULL:
        cover_count("safe queue full");
        trace(h->sim, h, "the safe queue is full");
        break;
    case REPLICA_ROOM:
        break;
    case REPLICA_FAILED:
        trace(h->sim, h, "the replica failed: %s", ev->error->text);
        report_follow(h, FOLLOW_FAILED, 0, 0, "its disk failed");
        break;
    }
}

// ---- opening and closing ----------------------------------------------------------------------------------------

bool stream_open(struct host *h, uint64_t *ret_seq, char *why, size_t size)
{
    struct error err = {0};
    struct safe_recovery rec = {0};
    struct replica_stats stats;
    uint64_t segment = BATCH_BYTES_TARGET + h->sim->size + 128 * 1024;
    struct replica_config config = {
        .safe = {.disk = fake_disk_of(h->safe),
                 .pair = 0x5157,
                 .salt = rnd(h->sim, 0),
                 .segment_size = segment, // holds the largest batch
                 .limit = 3 * segment},
        .window = chance(h->sim, 300) ? 32 * 1024 : 0,
        .hooks = {hook_send, hook_event, hook_release, h},
    };
    for (unsigned i = 0; i < h->sim->volumes; i++)
        config.volumes[i] = fake_volume_of(h->volume[i]);
    int r = replica_open(&config, local_now(h), &h->replica, &rec, &err);
    if (r < 0) {
        h->replica = NULL;
        (void)snprintf(why, size, "%s", err.text);
        return false;
    }
    replica_stats(h->replica, &stats);
    *ret_seq = stats.received;
    h->figures.replica_durable = stats.durable;
    trace(h->sim, h, "safe queue opened: %s, %llu to %llu", safe_verdict_name(rec.verdict),
          (unsigned long long)rec.first, (unsigned long long)rec.last);
    if (rec.verdict == SAFE_DAMAGED)
        (void)snprintf(why, size, "the safe queue is damaged: %s", rec.reason);
    stream_turn(h);
    return rec.verdict != SAFE_DAMAGED;
}

void stream_close(struct host *h, bool in_order)
{
    if (!h->replica)
        return;
    if (in_order) {
        replica_stop(h->replica);
        volumes_finish(h);
        while (fake_disk_complete(h->safe))
            ;
        ENSURE(replica_idle(h->replica));
    } else {
        for (unsigned i = 0; i < h->sim->volumes; i++)
            fake_volume_kill(h->volume[i]);
    }
    h->replica = replica_free(h->replica);
    fake_disk_kill(h->safe);
}

// ---- letters ----------------------------------------------------------------------------------------------------

void stream_follow(struct host *h, uint64_t session, bool restart, uint64_t seq,
                   const struct epoch *epoch)
{
    char why[200] = "";
    uint64_t at = 0;
    if (!h->replica) {
        if (!session)
            return;
        if (!stream_open(h, &at, why, sizeof(why)) && !h->replica) {
            trace(h->sim, h, "its replica does not open: %s", why);
            report_follow(h, FOLLOW_FAILED, 0, 0, "the safe queue does not open");
            return;
        }
    }
    if (restart) {
        replica_restart(h->replica, session, epoch->id, seq, local_now(h));
        return;
    }
    replica_session(h->replica, session, local_now(h));
    if (session)
        report_follow(h, FOLLOW_READY, seq, 0, NULL);
}

void stream_consent(struct host *h, uint64_t seq)
{
    if (h->replica)
        replica_consent(h->replica, seq);
}

static void finished(void *arg, const struct replica_finish *finish)
{
    struct host *h = arg;
    if (finish->error < 0) {
        trace(h->sim, h, "the replay failed: %s", finish->reason.text);
        report_follow(h, FOLLOW_FAILED, 0, 0, "the replay failed");
        return;
    }
    judge_finished(h, finish);
    struct end_event ev = {.type = EV_REPLICA};
    ev.replica.what = FOLLOW_FINISHED;
    ev.replica.seq = finish->applied;
    ev.replica.short_of_confirmed = !finish->reaches_confirmed;
    ev.replica.lost_records = finish->discarded_records;
    report_event(h, &ev);
}

void stream_finish(struct host *h)
{
    if (h->replica)
        replica_finish(h->replica, finished, h);
    else
        report_follow(h, FOLLOW_FAILED, 0, 0, "the replica is not open");
}

void stream_replay(struct host *h, bool on)
{
    h->replay_paused = !on;
    if (h->replica)
        replica_pause(h->replica, !on);
}

void stream_message(struct host *h, void *message, size_t size)
{
    const struct batch *head = message;
    unsigned kind = size >= sizeof(struct batch_answer) ? head->kind : 0;
    if (kind == BATCH_RECORDS && h->replica) {
        replica_receive(h->replica, message, size, local_now(h));
        stream_turn(h);
        return;
    }
    if (kind == BATCH_ACK)
        front_ack(h, message, size);
    else if (kind == BATCH_ANSWER && h->front.resync && !batch_answer_invalid(message, size))
        front_answer(h, message);
    free(message);
    front_turn(h);
}

// ---- the loop ---------------------------------------------------------------------------------------------------

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
    int64_t at = replica_deadline(h->replica);
    if (at == INT64_MAX)
        return;
    at = MAX(at + h->boot_at, h->sim->now + 10 * NS_PER_US);
    if (h->replica_at >= h->sim->now && at >= h->replica_at)
        return;
    h->replica_at = at;
    plan_daemon(h, at, again, NULL, (uint64_t)at);
}

void stream_turn(struct host *h)
{
    struct replica_stats stats;
    if (!h->replica || !h->running)
        return;
    replica_work(h->replica, local_now(h));
    volumes_poll(h);
    disk_poll(h);
    replica_stats(h->replica, &stats);
    h->figures.replica_durable = stats.durable;
    h->figures.replica_applied = stats.applied;
    plan_turn(h);
}
