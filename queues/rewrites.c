// SPDX-License-Identifier: Apache-2.0
// After a restart in the same boot: every update that the predecessor had committed and not
// numbered is written again and numbered. Its client was not answered, so it may have reached the
// store in part, in whole or not at all; written again, it is there. They do not overlap each other
// (they were in flight together), and nothing else is at the store.
//
// Invariant: until the last of them is numbered the gate stays CLOSED or HELD.
#include <errno.h>

#include "queues/updates_private.h"

void rewrites_init(struct updates *u)
{
    for (unsigned i = 0; i < UPDATES_REWRITES_MAX; i++)
        update_push(&u->rewrites_free, &u->rewrites[i]);
}

static void rewrite_end(struct updates *u, struct update *update, int status)
{
    uint64_t seq = unsafe_number(u->unsafe, update->slot, status, u->ops.stamp_ns(u->user));
    updates_numbered(u);
    u->rewrites_busy--;
    update_push(&u->rewrites_free, update);
    if (status < 0)
        updates_tell(u, UPDATES_EVENT_WRITE_FAILED, update, status, seq);
}

static void rewrite_done(struct block_request *request, int status)
{
    struct update *update = request->owner;
    struct updates *u = update->updates;
    updates_from_store(u);
    updates_leave_turn(u, update);
    rewrite_end(u, update, status);
}

static void rewrite_start(struct updates *u, struct update *update)
{
    int r = 0;
    const struct block *block = u->volumes[update->object].block;
    if (!block)
        r = -ENODEV;
    else if (update->offset > block->size || update->length > block->size - update->offset)
        r = -EINVAL;
    else if (u->ops.before_write)
        r = u->ops.before_write(u->user, update->object, update->offset, update->length);
    if (r > 0) {
        update_push(&u->rewrites_stalled, update);
        return;
    }
    if (r < 0) {
        rewrite_end(u, update, r);
        return;
    }
    enum block_op op = update->op == UPDATE_WRITE  ? BLOCK_WRITE
                       : update->op == UPDATE_ZERO ? BLOCK_ZERO
                                                   : BLOCK_DISCARD;
    updates_to_store(u, update, op, update->data, rewrite_done);
}

static void rewrite_take(struct updates *u, struct update *update,
                         const struct unsafe_pending *pending)
{
    uint8_t type = pending->update.type;
    *update = (struct update){
        .op = type == RECORD_WRITE  ? UPDATE_WRITE
              : type == RECORD_ZERO ? UPDATE_ZERO
                                    : UPDATE_DISCARD,
        .flags = pending->update.flags & RECORD_NO_HOLE ? UPDATE_NO_HOLE : 0,
        .object = pending->update.object,
        .length = pending->update.length,
        .offset = pending->update.offset,
        .data = pending->data,
        .slot = pending->slot,
    };
    u->rewrites_busy++;
    rewrite_start(u, update);
}

static void rewrites_restart_stalled(struct updates *u)
{
    struct update_list stalled = u->rewrites_stalled;
    u->rewrites_stalled = (struct update_list){0};
    struct update *update;
    while ((update = update_pop(&stalled)))
        rewrite_start(u, update);
}

void rewrites_kick(struct updates *u)
{
    if (!u->recovering)
        return;
    struct unsafe_pending pending;
    rewrites_restart_stalled(u);
    while (u->rewrites_free.first && unsafe_pending(u->unsafe, &u->rewrite_cursor, &pending))
        rewrite_take(u, update_pop(&u->rewrites_free), &pending);
    if (u->rewrites_busy > 0)
        return;
    ENSURE(u->rewrites_free.first);
    void (*recovered)(void *user) = u->recovered;
    u->recovering = false;
    u->recovered = NULL;
    recovered(u->user);
}

void updates_recover(struct updates *u, void (*done)(void *user))
{
    ENSURE(!u->recovering && u->at_store == 0);
    ENSURE(u->answers.gate == UPDATES_CLOSED || u->answers.gate == UPDATES_HELD);
    u->recovering = true;
    u->rewrite_cursor = 0;
    u->recovered = done;
    updates_kick(u);
}
