// SPDX-License-Identifier: Apache-2.0
// The salvage of a follower: opened when something may have to be kept, given to the replica, closed when everything is,
// and closed and tried again each second while it takes nothing more, so that an operator can drop something meanwhile.
// As long as it is closed the replica applies nothing that would overwrite.
//
// Kept is what this end has written alone: the regions of its own intent map, which does not change while it follows, and
// whose file says exactly the same before anything is overwritten, so that a later run does not take what came afterwards
// for what this end had. Everything is kept where that map says nothing, or where the peer has lost something.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/end/follower_private.h"

#define LOCKED_RETRY_NS (100 * NS_PER_MS)

// ---- what this end has written alone ----

void keeper_forget_maps(struct follower *f)
{
    f->own_epoch = f->own_awaited = 0;
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++) {
        free(f->own[i].bits);
        f->own[i].bits = NULL;
    }
}

// Of a salvage that goes on the maps are known, or asked for.
static void ask_for_maps(struct follower *f, const struct end_state *state)
{
    uint64_t objects = state->salvage & ~state->salvage_whole;
    bool known = f->own_ticket && f->own_epoch == state->salvaged.id;
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++) {
        if (known && (objects >> i & 1))
            continue;
        free(f->own[i].bits);
        f->own[i].bits = NULL;
    }
    if (known) {
        f->own_awaited &= objects;
        return;
    }
    f->own_epoch = state->salvaged.id;
    f->own_ticket++;
    f->own_awaited = objects;
    if (objects)
        f->ops.ask_own_maps(f->user, objects, f->own_ticket);
}

void follower_own_map(struct follower *f, uint64_t ticket, unsigned object, uint32_t region,
                      uint64_t regions, const uint8_t *bits)
{
    if (ticket != f->own_ticket || object >= f->config.volumes || !(f->own_awaited >> object & 1))
        return;
    size_t size = regions / 8 + 1;
    struct own_map *own = &f->own[object];
    f->own_awaited &= ~(UINT64_C(1) << object);
    *own = (struct own_map){.region = region, .regions = regions, .bits = bits ? malloc(size) : NULL};
    if (own->bits)
        memcpy(own->bits, bits, (regions + 7) / 8);
}

static bool written_alone(void *arg, unsigned object, uint64_t offset, uint64_t *ret_end)
{
    const struct follower *f = arg;
    const struct own_map *own = &f->own[object];
    if (!own->bits) {
        *ret_end = UINT64_MAX;
        return true;
    }
    uint64_t at = offset / own->region;
    ENSURE(at < own->regions);
    *ret_end = (at + 1) * own->region;
    return own->bits[at / 8] >> at % 8 & 1;
}

// ---- ----

void follower_salvage(struct follower *f, const struct end_state *state)
{
    f->salvage_objects = state->salvage;
    f->salvage_cause = state->salvage_cause;
    f->salvaged = state->salvaged;
    ask_for_maps(f, state);
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
    keeper_forget_maps(f);
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
        .alone = written_alone,
        .arg = f,
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
    if (stats.over)
        return; // it is opened anew
    if (f->salvage_over && !f->salvage) { // nothing was left to be kept in this run
        f->salvage_objects = 0;
        f->salvage_over = f->salvage_full = false;
        keeper_forget_maps(f);
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
    if (!f->salvage && !f->own_awaited && now >= f->salvage_retry_ns)
        try_open(f, now);
    else if (f->salvage)
        look_for_room(f);
}

int64_t keeper_deadline(const struct follower *f)
{
    struct replica_stats stats;
    if (!f->replica || !f->salvage_objects || f->salvage || f->own_awaited)
        return INT64_MAX;
    replica_stats(f->replica, &stats);
    return stats.over ? INT64_MAX : f->salvage_retry_ns; // a failed one is opened anew
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
