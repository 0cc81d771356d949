// SPDX-License-Identifier: Apache-2.0
// What updates.c (the life of a guest's update), updates_control.c (all of them together), copies.c
// (resync chunks and checks) and rewrites.c (updates that a predecessor left behind) share. For these
// four only.
#ifndef QUEUES_UPDATES_PRIVATE_H
#define QUEUES_UPDATES_PRIVATE_H

#include "queues/rhythm.h"
#include "queues/updates.h"

// Operations behind those of the intercept.
enum {
    UPDATE_RESYNC = UPDATE_FLUSH + 1,
    UPDATE_CHECK,
};
#define UPDATE_COARSE 0x4 // CHECK: a sum for each CHECK_COARSE_SIZE

struct update_list {
    struct update *first, *last;
};

struct volume {
    struct block *block; // NULL: none
    uint32_t order_size; // the coarser block size of both ends
    bool failed;         // a flush failed: until updates_set_volume()
    bool flushing;       // `sync` is under way for those in `flush_running`
    struct update_list flush_running, flush_next;
    bool own_wanted, own_running; // a sync that nobody waits for
    uint64_t sync_begun, sync_good;
    struct block_request sync;
};

struct updates {
    struct unsafe *unsafe;
    struct updates_ops ops;
    void *user;
    struct overlap *overlap;
    struct answers answers;
    struct volume volumes[RECORD_OBJECTS_MAX];
    uint64_t kick_mask;  // volumes with something submitted and not kicked
    uint64_t flush_mask; // volumes with something in flush_next

    struct update_list taken; // submitted by the intercept, not looked at
    struct update_list
        stalled; // in order with all they overlap; the gate or the queue keeps them from the store
    unsigned waiting;  // taken in, not at a store, not refused
    unsigned at_store; // at a store, flushes that wait for a sync included

    unsigned turn;       // 0 or 1: the present one
    unsigned in_turn[2]; // writes at a store, by the turn in which they got there

    bool progress;       // something that was waiting may go on
    bool numbered_some;  // since the sender was woken last
    bool barrier_wanted; // likewise
    struct rhythm rhythm; // of the clients' flushes
    uint64_t bound_span; // how many seqs the last bound left
    bool bound_asked;

    enum unsafe_level level;
    struct update copies[UPDATES_COPIES_MAX];
    struct update_list copies_free;
    struct update_list copies_new; // wait for room before they hold a range
    uint64_t copy_bytes;           // of those that hold a range

    struct update rewrites[UPDATES_REWRITES_MAX];
    struct update_list rewrites_free;
    struct update_list rewrites_stalled;
    bool recovering;
    unsigned rewrite_cursor;
    unsigned rewrites_busy;
    void (*recovered)(void *user);
    void (*drained)(void *user);
};

static inline void update_push(struct update_list *list, struct update *update)
{
    update->next = NULL;
    if (list->last)
        list->last->next = update;
    else
        list->first = update;
    list->last = update;
}

static inline struct update *update_pop(struct update_list *list)
{
    struct update *update = list->first;
    if (update) {
        list->first = update->next;
        if (!list->first)
            list->last = NULL;
    }
    return update;
}

// Hands a request to its volume's store; done() is called when it has ended.
void updates_to_store(struct updates *u, struct update *update, enum block_op op, void *data,
                      void (*done)(struct block_request *request, int status));
// To be called first in such a done().
void updates_from_store(struct updates *u);
// Then, of a write, when it is numbered.
void updates_leave_turn(struct updates *u, const struct update *update);
// The range of `update` is free: the ones that waited for it go on the stalled list.
void updates_leave_order(struct updates *u, struct update *update);
// Holds an update whose range is in order until the next kick.
void updates_stall(struct updates *u, struct update *update);
void updates_tell(struct updates *u, enum updates_event_kind kind, const struct update *update,
                  int status, uint64_t seq);
// Something was numbered (for the sender).
void updates_numbered(struct updates *u);
// One that does not hold a range yet, with this error.
void updates_refuse(struct updates *u, struct update *update, int status);
// Once round: what has to wait on stands in the same order afterwards.
void updates_start_stalled(struct updates *u);
// Flushes of this list whose sync has ended, or never comes.
void updates_flushes_end(struct updates *u, struct update_list *list, int status);
// Somebody waits until the peer has this seq: the sender is told with the next kick.
void updates_wait_for_peer(struct updates *u, uint64_t seq);
// Gives out the answers that have come due.
void updates_deliver(struct updates *u);
void updates_check_drained(struct updates *u);

void copies_init(struct updates *u);
void copies_kick(struct updates *u);                       // starts those that have room
void copy_start(struct updates *u, struct update *update); // its range is in order
void copy_refuse(struct updates *u, struct update *update,
                 int status); // likewise; it holds its range
void copies_refuse_new(struct updates *u, int status);

void rewrites_init(struct updates *u);
void rewrites_kick(struct updates *u);

#endif
