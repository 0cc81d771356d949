// SPDX-License-Identifier: Apache-2.0
#include "common/end/follower_private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "common/end/piece.h"

struct follower *follower_new(const struct follower_config *config, const struct follower_ops *ops,
                              void *user)
{
    ENSURE(config->volumes <= RECORD_OBJECTS_MAX);
    struct follower *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    f->config = *config;
    f->ops = *ops;
    f->user = user;
    return f;
}

struct follower *follower_free(struct follower *f)
{
    if (!f)
        return NULL;
    replica_free(f->replica);
    salvage_free(f->salvage);
    keeper_forget_maps(f);
    free(f);
    return NULL;
}

void follower_note(struct follower *f, const char *format, ...)
{
    char text[300];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    f->ops.note(f->user, text);
}

static struct end_event event_of(enum end_replica_event what, uint64_t seq)
{
    struct end_event ev = {.type = EV_REPLICA};
    ev.replica.what = what;
    ev.replica.seq = seq;
    return ev;
}

static void report(struct follower *f, enum end_replica_event what, uint64_t seq)
{
    struct end_event ev = event_of(what, seq);
    f->ops.report(f->user, &ev);
}

static void failed(struct follower *f, const char *text)
{
    struct end_event ev = event_of(FOLLOW_FAILED, 0);
    ev.replica.text = text;
    f->ops.report(f->user, &ev);
}

// ---- hooks of the replica ----

static void hook_send(void *arg, const void *message, size_t size)
{
    struct follower *f = arg;
    f->ops.send(f->user, message, size);
}

static void hook_release(void *arg, void *message)
{
    struct follower *f = arg;
    f->ops.release(f->user, message);
}

static void hook_event(void *arg, const struct replica_event *ev)
{
    struct follower *f = arg;
    struct end_event out;
    switch (ev->kind) {
    case REPLICA_GATE_EPOCH:
        out = event_of(FOLLOW_EPOCH, ev->seq);
        out.replica.epoch = ev->epoch;
        f->ops.report(f->user, &out);
        break;
    case REPLICA_GATE_RESYNC_BEGIN:
    case REPLICA_GATE_RESYNC_END:
        out = event_of(ev->kind == REPLICA_GATE_RESYNC_BEGIN ? FOLLOW_BEGIN : FOLLOW_END, ev->seq);
        out.replica.object = ev->object;
        f->ops.report(f->user, &out);
        break;
    case REPLICA_RESTARTED:
        f->damage_told = false;
        report(f, FOLLOW_READY, ev->seq);
        break;
    case REPLICA_FULL:
        follower_note(f, "the safe queue is full: the active end waits");
        break;
    case REPLICA_ROOM:
        follower_note(f, "the safe queue has room again");
        break;
    case REPLICA_FAILED:
        failed(f, ev->error->text);
        break;
    case REPLICA_SALVAGE_FULL:
        keeper_full(f, ev->error);
        break;
    case REPLICA_SALVAGED:
        f->salvage_over = true;
        break;
    }
}

// ---- opening and closing ----

static struct safe_config queue_config(struct follower *f, struct disk *disk)
{
    return (struct safe_config){
        .disk = disk,
        .pair = f->config.pair,
        .salt = f->ops.random(f->user),
        .segment_size = f->config.segment_size,
        .limit = f->config.limit,
    };
}

static void close_replica(struct follower *f)
{
    if (f->replica) {
        replica_stop(f->replica);
        // What is under way at the stores ends when they are closed; a sync of the queue ends by
        // itself.
        f->ops.close_stores(f->user);
        while (!replica_idle(f->replica))
            f->ops.work_disk(f->user);
        keeper_close(f);
        f->replica = replica_free(f->replica);
    }
    f->ops.close_stores(f->user);
    f->ops.close_disk(f->user);
    f->waiting = false;
}

static void say_recovery(struct follower *f, const struct safe_recovery *rec)
{
    if (rec->verdict == SAFE_TORN)
        follower_note(f, "the safe queue's unconfirmed tail was cut at %llu (%s): normal after a crash",
                      (unsigned long long)rec->at_seq, rec->reason);
    else if (rec->verdict == SAFE_DAMAGED)
        follower_note(f, "the safe queue is damaged at seq %llu, segment %u offset %llu: %s",
                      (unsigned long long)rec->at_seq, rec->slot, (unsigned long long)rec->offset,
                      rec->reason);
}

static int open_replica(struct follower *f, int64_t now, struct safe_recovery *ret_recovery,
                        struct error *err)
{
    struct disk *disk = NULL;
    struct replica_config config = {
        .window = f->config.window,
        .region = f->config.map_region,
        .hooks = {.send = hook_send, .event = hook_event, .release = hook_release, .arg = f},
    };
    int r = f->ops.open_stores(f->user, config.volumes, err);
    if (r == 0)
        r = f->ops.open_disk(f->user, &disk, err);
    if (r == 0) {
        config.safe = queue_config(f, disk);
        r = replica_open(&config, now, &f->replica, ret_recovery, err);
    }
    if (r < 0) {
        f->replica = NULL;
        f->ops.close_stores(f->user);
        f->ops.close_disk(f->user);
        return r;
    }
    say_recovery(f, ret_recovery);
    keeper_begin(f, now);
    return 0;
}

int follower_open(struct follower *f, int64_t now, uint64_t *ret_seq, uint64_t *ret_base, struct error *err)
{
    struct safe_recovery rec = {0};
    struct replica_stats stats;
    int r = f->replica ? 0 : open_replica(f, now, &rec, err);
    if (r < 0)
        return r;
    replica_stats(f->replica, &stats);
    *ret_seq = stats.received;
    *ret_base = stats.safe.base_epoch;
    if (rec.verdict != SAFE_DAMAGED)
        return 0;
    f->damage_told = true;
    return error_set(err, -EUCLEAN, "the safe queue is damaged: %s", rec.reason);
}

static int forget_queue(struct follower *f, uint64_t epoch, uint64_t next_seq, struct error *err)
{
    struct disk *disk = NULL;
    struct safe *safe = NULL;
    struct safe_recovery rec;
    int r = f->ops.open_disk(f->user, &disk, err);
    if (r < 0)
        return r;
    struct safe_config config = queue_config(f, disk);
    r = safe_open(&config, &safe, &rec, err);
    if (r == 0 && rec.verdict != SAFE_EMPTY)
        r = safe_restart(safe, epoch, next_seq, err);
    safe_free(safe);
    f->ops.close_disk(f->user);
    return r;
}

int follower_close(struct follower *f, const struct epoch *forget, uint64_t next_seq,
                   struct error *err)
{
    close_replica(f);
    return forget ? forget_queue(f, forget->id, next_seq, err) : 0;
}

void follower_fail(struct follower *f, const char *text)
{
    struct end_event ev = {.type = EV_MAP};
    ev.map.what = MAP_EV_LOST;
    f->ops.report(f->user, &ev);
    failed(f, text);
    close_replica(f);
}

// ---- what the end orders ----

static void follow(struct follower *f, int64_t now)
{
    f->waiting = false;
    if (f->restart) {
        replica_restart(f->replica, f->session, f->epoch.id, f->seq, now);
        return;
    }
    replica_session(f->replica, f->session, now);
    if (f->session)
        report(f, FOLLOW_READY, f->seq);
}

// The stores may still be the active end's, until it has let go of them.
static void try_follow(struct follower *f, int64_t now)
{
    struct error err = {0};
    struct safe_recovery rec = {0};
    int r = f->replica ? 0 : open_replica(f, now, &rec, &err);
    if (r == -EAGAIN && now < f->give_up_ns) {
        f->retry_ns = now + FOLLOWER_RETRY_NS;
        return;
    }
    f->waiting = false;
    if (r < 0) {
        failed(f, err.text);
    } else if (rec.verdict == SAFE_DAMAGED && !f->damage_told) {
        f->damage_told = true;
        follower_fail(f, "the safe queue is damaged");
    } else {
        follow(f, now);
    }
}

void follower_follow(struct follower *f, uint64_t session, bool restart, uint64_t seq,
                     const struct epoch *epoch, int64_t now)
{
    struct replica_stats stats;
    if (follower_stats(f, &stats) && restart && stats.failure < 0)
        close_replica(f); // what failed for good starts anew with a resync
    f->waiting = f->replica || session;
    f->session = session;
    f->restart = restart;
    f->seq = seq;
    if (restart)
        f->epoch = *epoch;
    f->give_up_ns = now + FOLLOWER_PATIENCE_NS;
    if (f->waiting)
        try_follow(f, now);
}

void follower_consent(struct follower *f, uint64_t seq)
{
    if (f->replica)
        replica_consent(f->replica, seq);
}

static void finished(void *arg, const struct replica_finish *finish)
{
    struct follower *f = arg;
    if (finish->error < 0) {
        failed(f, finish->reason.text);
        return;
    }
    struct end_event ev = event_of(FOLLOW_FINISHED, finish->applied);
    ev.replica.short_of_confirmed = !finish->reaches_confirmed;
    ev.replica.lost_records = finish->discarded_records;
    ev.replica.discards = finish->discards;
    ev.replica.unknown = finish->unknown;
    f->ops.report(f->user, &ev);
}

void follower_finish(struct follower *f)
{
    if (f->replica)
        replica_finish(f->replica, finished, f);
    else
        failed(f, "the replica is not open");
}

const struct intent *follower_lost_map(const struct follower *f, uint16_t object)
{
    return f->replica ? replica_lost(f->replica, object) : NULL;
}

void follower_lost(struct follower *f, uint16_t object, uint64_t from, uint64_t session)
{
    if (object >= f->config.volumes)
        return;
    struct frame_map piece = piece_of(follower_lost_map(f, object), object, from);
    struct end_event ev = {.type = EV_MAP};
    ev.map.what = MAP_EV_PIECE;
    ev.map.ticket = session;
    ev.map.piece = &piece;
    f->ops.report(f->user, &ev);
}

void follower_discard(struct follower *f)
{
    if (f->replica)
        replica_discard(f->replica);
    else
        failed(f, "the replica is not open");
}

void follower_replay(struct follower *f, bool on)
{
    if (f->replica)
        replica_pause(f->replica, !on);
}

// ---- a turn ----

bool follower_receive(struct follower *f, void *message, size_t size, int64_t now)
{
    if (!f->replica)
        return false;
    replica_receive(f->replica, message, size, now);
    return true;
}

void follower_turn(struct follower *f, int64_t now)
{
    if (f->waiting && now >= f->retry_ns)
        try_follow(f, now);
    if (f->replica)
        replica_work(f->replica, now);
    keeper_turn(f, now);
}

int64_t follower_deadline(const struct follower *f)
{
    int64_t at = f->replica ? replica_deadline(f->replica) : INT64_MAX;
    at = MIN(at, keeper_deadline(f));
    return f->waiting ? MIN(at, f->retry_ns) : at;
}

bool follower_idle(const struct follower *f)
{
    return !f->replica || replica_idle(f->replica);
}

bool follower_is_open(const struct follower *f)
{
    return f->replica != NULL;
}

bool follower_stats(const struct follower *f, struct replica_stats *ret_stats)
{
    if (!f->replica)
        return false;
    replica_stats(f->replica, ret_stats);
    return true;
}
