// SPDX-License-Identifier: Apache-2.0
// All updates of the active end together: made, given their stores, gated, bounded, drained; and the records that are no guest's.
// What becomes of each one is updates.c's business.
#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "queues/updates_private.h"

// ---- Making and ending ----

static void on_level(void *user, enum unsafe_level level)
{
    struct updates *u = user;
    u->level = level;
    struct updates_event event = {.kind = UPDATES_EVENT_LEVEL, .level = level};
    u->ops.event(u->user, &event);
}

static void on_room(void *user)
{
    struct updates *u = user;
    struct updates_event event = {.kind = UPDATES_EVENT_ROOM, .level = u->level};
    u->ops.event(u->user, &event);
}

struct updates *updates_new(struct unsafe *unsafe, enum updates_mode mode,
                            const struct updates_ops *ops, void *user)
{
    struct updates *u = calloc(1, sizeof(*u));
    if (!u)
        return NULL;
    u->overlap = overlap_new();
    if (!u->overlap)
        return updates_free(u);
    u->unsafe = unsafe;
    u->ops = *ops;
    u->user = user;
    u->bound_span = unsafe_bound(unsafe) - unsafe_numbered(unsafe);
    answers_init(&u->answers, mode);
    copies_init(u);
    rewrites_init(u);
    struct unsafe_watch watch = {.level = on_level, .room = on_room, .user = u};
    unsafe_watch(unsafe, &watch);
    return u;
}

// Flushes that wait for a sync to be started are at no store: with the store closed it never will be.
static void drop_waiting_flushes(struct updates *u)
{
    for (uint64_t left = u->flush_mask; left; left &= left - 1) {
        struct update_list *list = &u->volumes[__builtin_ctzll(left)].flush_next;
        while (update_pop(list))
            u->at_store--;
    }
}

struct updates *updates_free(struct updates *u)
{
    if (!u)
        return NULL;
    drop_waiting_flushes(u);
    ENSURE(u->at_store == 0);
    if (u->unsafe)
        unsafe_watch(u->unsafe, NULL);
    overlap_free(u->overlap);
    free(u);
    return NULL;
}

// ---- The stores ----

static void forget_own_sync(struct updates *u, uint16_t object)
{
    struct volume *volume = &u->volumes[object];
    volume->own_wanted = false;
    if (!volume->flush_next.first)
        u->flush_mask &= ~(UINT64_C(1) << object);
}

void updates_set_volume(struct updates *u, uint16_t object, struct block *block,
                        uint32_t peer_block_size)
{
    ENSURE(object < RECORD_OBJECTS_MAX);
    ENSURE(peer_block_size != 0 && (peer_block_size & (peer_block_size - 1)) == 0);
    struct volume *volume = &u->volumes[object];
    ENSURE(!volume->flushing || block == volume->block);
    volume->block = block;
    volume->failed = false;
    if (!block) {
        updates_flushes_end(u, &volume->flush_next, -ESHUTDOWN); // no sync comes for them any more
        u->kick_mask &= ~(UINT64_C(1) << object);
    }
    forget_own_sync(u, object);
    if (block)
        volume->order_size = MAX(block->block_size, peer_block_size);
}

bool updates_volume_failed(const struct updates *u, uint16_t object)
{
    ENSURE(object < RECORD_OBJECTS_MAX);
    return u->volumes[object].failed;
}

// ---- The gate, the bound, records of the end ----

uint64_t updates_set_gate(struct updates *u, enum updates_gate gate)
{
    ENSURE(!u->recovering || gate == UPDATES_CLOSED || gate == UPDATES_HELD);
    answers_set_gate(&u->answers, gate);
    updates_wait_for_peer(u, answers_waiting_for(&u->answers));
    uint64_t numbered = unsafe_numbered(u->unsafe);
    if (gate == UPDATES_CLOSED) {
        struct update *update;
        while ((update = update_pop(&u->taken)))
            updates_refuse(u, update, -ESHUTDOWN);
        while (u->stalled.first)
            updates_start_stalled(u);
        copies_refuse_new(u, -ESHUTDOWN);
        for (uint16_t i = 0; i < RECORD_OBJECTS_MAX; i++)
            forget_own_sync(u, i);
    }
    updates_deliver(u);
    updates_check_drained(u);
    return numbered;
}

enum updates_gate updates_gate(const struct updates *u)
{
    return u->answers.gate;
}

void updates_set_bound(struct updates *u, uint64_t bound)
{
    unsafe_set_bound(u->unsafe, bound);
    u->bound_span = unsafe_bound(u->unsafe) - unsafe_numbered(u->unsafe);
    u->bound_asked = false;
}

static int append(struct updates *u, const struct unsafe_update *record, const void *payload,
                  uint32_t size, uint64_t *ret_seq)
{
    int r = unsafe_append(u->unsafe, record, payload, size, u->ops.stamp_ns(u->user), ret_seq);
    if (r == 0)
        updates_numbered(u);
    return r;
}

int updates_open_epoch(struct updates *u, uint64_t epoch, const void *encoded, uint32_t size,
                       uint64_t *ret_seq)
{
    ENSURE(size > 0 && size <= RECORD_EPOCH_MAX);
    struct unsafe_update record = {.type = RECORD_EPOCH};
    uint64_t before = unsafe_epoch(u->unsafe);
    unsafe_keep_opening(u->unsafe, encoded, size);
    unsafe_set_epoch(u->unsafe, epoch); // its opening is the first record of it
    int r = append(u, &record, encoded, size, ret_seq);
    if (r < 0)
        unsafe_set_epoch(u->unsafe, before);
    return r;
}

int updates_mark(struct updates *u, enum record_mark mark, uint16_t object, uint64_t *ret_seq)
{
    ENSURE(mark != MARK_UNDEFINED && mark < MARK_END && object < RECORD_OBJECTS_MAX);
    if (u->answers.gate == UPDATES_HELD) // an epoch is about to be opened behind the last seq
        return -EAGAIN;
    struct unsafe_update record = {.type = RECORD_MARK, .mark = (uint8_t)mark, .object = object};
    return append(u, &record, NULL, 0, ret_seq);
}

void updates_drain(struct updates *u, void (*done)(void *user))
{
    ENSURE(!u->drained);
    u->drained = done;
    updates_check_drained(u);
}

void updates_stat(const struct updates *u, struct updates_stat *ret_stat)
{
    *ret_stat = (struct updates_stat){
        .at_store = u->at_store,
        .waiting = u->waiting,
        .numbered = unsafe_numbered(u->unsafe),
        .durable = u->answers.durable,
    };
}
