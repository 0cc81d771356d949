// SPDX-License-Identifier: Apache-2.0
// The salvage of a follower: opened when something may have to be kept, given to the replica, closed when everything is,
// and closed and tried again each second while it takes nothing more, so that an operator can drop something meanwhile.
// As long as it is closed the replica applies nothing that would overwrite.
#include <errno.h>
#include <stdio.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/end/follower_private.h"

#define LOCKED_RETRY_NS (100 * NS_PER_MS)

void follower_salvage(struct follower *f, const struct end_state *state)
{
    f->salvage_objects = state->salvage;
    f->salvage_cause = state->salvage_cause;
    f->salvaged = state->salvaged;
    if (f->replica && !f->salvage && state->salvage)
        replica_salvage(f->replica, state->salvage, NULL);
}

void keeper_begin(struct follower *f, int64_t now)
{
    f->salvage_over = f->salvage_refused = false;
    f->salvage_retry_ns = now;
    if (f->salvage_objects)
        replica_salvage(f->replica, f->salvage_objects, NULL);
}

static void refused(struct follower *f, const char *why)
{
    if (!f->salvage_full)
        follower_note(f,
                      "%.150s: nothing is applied here until there is room. Raise queues.salvage, or look at it "
                      "(pairctl salvage list), export and drop it",
                      why);
    f->salvage_full = true;
}

void keeper_full(struct follower *f, const struct error *error)
{
    f->salvage_refused = true;
    refused(f, error->text);
}

// Nothing that is under way needs it any more.
static void put_away(struct follower *f)
{
    struct salvage_stats stats;
    salvage_stats(f->salvage, &stats);
    f->salvage_used = stats.used_bytes;
    salvage_hand_on(f->salvage, &f->salvage_next);
    f->salvage = salvage_free(f->salvage);
    f->ops.close_salvage(f->user);
}

void keeper_close(struct follower *f)
{
    struct replica_stats stats;
    replica_stats(f->replica, &stats);
    if (f->salvage_objects)
        f->salvage_objects = stats.salvaging;
    if (f->salvage)
        put_away(f);
}

static void finish(struct follower *f)
{
    struct error err = {0};
    if (salvage_finish(f->salvage, &err) < 0)
        follower_note(f, "the salvage is not marked as complete: %.200s", err.text);
    f->salvage_objects = 0;
    f->salvage_over = f->salvage_full = false;
    replica_salvage(f->replica, 0, NULL);
    put_away(f);
}

// So that it is not full again at once.
static bool has_room(const struct follower *f)
{
    struct salvage_stats stats;
    salvage_stats(f->salvage, &stats);
    uint64_t room = stats.limit_bytes > stats.used_bytes ? stats.limit_bytes - stats.used_bytes : 0;
    return room >= MIN((uint64_t)SALVAGE_FILE_MIN, stats.limit_bytes / 2);
}

static void try_open(struct follower *f, int64_t now)
{
    struct error err = {0};
    struct salvage_config c = {
        .pair = f->config.pair,
        .name = f->config.name,
        .side = f->config.side,
        .cause = f->salvage_cause,
        .epoch = f->salvaged,
        .time = f->ops.real_ns(f->user),
        .volume_count = f->config.volumes,
        .objects = f->salvage_objects,
        .limit = f->config.salvage_limit,
        .file_size = f->config.salvage_file_size,
        .distrusted = f->salvage_next.distrusted,
        .trusted_last = f->salvage_next.trusted_last,
    };
    for (unsigned i = 0; i < f->config.volumes; i++)
        c.volumes[i] = f->config.salvage_volumes[i];
    f->salvage_retry_ns = now + NS_PER_S;
    int r = f->ops.open_salvage(f->user, &c.disk, &err);
    if (r == -EAGAIN) {
        f->salvage_retry_ns = now + LOCKED_RETRY_NS;
        return;
    }
    if (r == 0)
        r = salvage_open(&c, &f->salvage, &err);
    if (r < 0) {
        f->salvage = NULL;
        f->ops.close_salvage(f->user);
        refused(f, err.text);
        return;
    }
    if (f->salvage_full && !has_room(f)) {
        put_away(f);
        return;
    }
    f->salvage_refused = false;
    replica_salvage(f->replica, f->salvage_objects, f->salvage);
}

static void look_for_room(struct follower *f)
{
    struct salvage_stats stats;
    salvage_stats(f->salvage, &stats);
    f->salvage_used = stats.used_bytes;
    if (!f->salvage_full || f->salvage_refused || replica_salvage_busy(f->replica))
        return; // whatever had waited for it is at it now
    f->salvage_full = false;
    follower_note(f, "the salvage has room again");
}

void keeper_turn(struct follower *f, int64_t now)
{
    struct replica_stats stats;
    if (!f->replica || !f->salvage_objects)
        return;
    replica_stats(f->replica, &stats);
    if (stats.failure < 0)
        return; // it is opened anew
    if (f->salvage_over && !f->salvage) { // nothing was left to be kept in this run
        f->salvage_objects = 0;
        f->salvage_over = f->salvage_full = false;
        return;
    }
    f->salvage_objects = f->salvage_over ? f->salvage_objects : stats.salvaging;
    if (f->salvage && !replica_salvage_busy(f->replica)) {
        if (f->salvage_over) {
            finish(f);
            return;
        }
        if (f->salvage_refused) {
            replica_salvage(f->replica, f->salvage_objects, NULL);
            put_away(f);
        }
    }
    if (!f->salvage && now >= f->salvage_retry_ns)
        try_open(f, now);
    else if (f->salvage)
        look_for_room(f);
}

int64_t keeper_deadline(const struct follower *f)
{
    struct replica_stats stats;
    if (!f->replica || !f->salvage_objects || f->salvage)
        return INT64_MAX;
    replica_stats(f->replica, &stats);
    return stats.failure < 0 ? INT64_MAX : f->salvage_retry_ns; // a failed one is opened anew
}

void follower_salvage_stats(const struct follower *f, struct follower_salvage *ret)
{
    *ret = (struct follower_salvage){
        .objects = f->salvage_objects,
        .full = f->salvage_objects && f->salvage_full,
        .used_bytes = f->salvage_used,
        .limit_bytes = f->config.salvage_limit,
    };
}
