// SPDX-License-Identifier: Apache-2.0
// The life of an update on the active end: taken in, ordered against those that it overlaps,
// committed to the unsafe queue, written, numbered, answered. One object a pair, on the pair's
// front thread; no locks, no allocation per request, no system call of its own.
//
// How the front thread uses it:
//
//   wait for sockets, stores and mailbox
//   intercept: unsafe_head(), receive, for each request unsafe_skip(), unsafe_keep(),
//   updates_submit() store: its work function, which calls back into updates updates_kick() once a
//   turn, after all of it
//
// Everything is started and answered from updates_kick() and from the calls that say so: never from
// updates_submit(). An answer callback may submit further updates.
#ifndef QUEUES_UPDATES_H
#define QUEUES_UPDATES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"
#include "queues/answer.h"
#include "queues/block.h"
#include "queues/overlap.h"
#include "queues/unsafe.h"

#define UPDATES_COPIES_MAX     32 // resync chunks and checks that are under way together
#define UPDATES_COPY_BYTES_MAX (4U * 1024 * 1024) // of one of them
#define UPDATES_REWRITES_MAX   64 // recovered updates that are written again together

struct updates;

enum update_op { UPDATE_READ, UPDATE_WRITE, UPDATE_ZERO, UPDATE_DISCARD, UPDATE_FLUSH };

#define UPDATE_NO_HOLE 0x1 // ZERO: stays allocated
#define UPDATE_FUA                                                                                 \
    0x2 // WRITE, ZERO, DISCARD: answered like a flush that arrives when it is numbered

// One request, embedded in the intercept's own. It stays in place from updates_submit() until
// answer().
struct update {
    enum update_op op;
    uint16_t flags;
    uint16_t object;
    uint32_t length; // bytes; not 0 except for FLUSH
    uint64_t offset; // bytes
    uint64_t chunk;  // WRITE: the complete payload, `length` bytes, uncommitted; belongs to updates
                     // from submit() on
    void *data;      // READ: room for `length` bytes
    // status: 0 or -errno. The update may be used anew from here.
    void (*answer)(struct update *update, int status);
    void *owner; // the intercept's
    // Private:
    struct updates *updates;
    struct block_request request;
    struct overlap_range range;
    struct answer waits;
    struct update *next;
    unsigned slot;
    uint8_t turn;
};

enum updates_event_kind {
    UPDATES_EVENT_LEVEL, // `level` of the unsafe queue has changed. UNSAFE_FULL: until a reader is
                         // detached, or releases, nothing more is taken in
    UPDATES_EVENT_ROOM,  // unsafe_head() was refused and would succeed now
    UPDATES_EVENT_BOUND, // half of the reserved seqs are used: `seq` is the bound that is in force
    UPDATES_EVENT_WRITE_FAILED, // object, offset, length, status; `seq` is that of its mark
    UPDATES_EVENT_READ_FAILED,  // a guest's read: object, offset, length, status
    UPDATES_EVENT_FLUSH_FAILED, // object, status: the volume counts as failed from here on
    UPDATES_EVENT_COPIED, // a resync chunk or check has ended: object, offset, length, status;
                          // `seq` is that of its record (0 when status is not)
};

struct updates_event {
    enum updates_event_kind kind;
    enum unsafe_level level;
    uint16_t object;
    int status; // 0 or -errno
    uint32_t length;
    uint64_t offset;
    uint64_t seq;
};

struct updates_ops {
    int64_t (*stamp_ns)(void *user); // near CLOCK_REALTIME: what records are stamped with
    // Something was numbered since the last call. barrier: an answer waits for durable to reach
    // what is numbered now, or will presently (rhythm.h): send it all with a barrier. Otherwise a hint, once a kick; whoever
    // lingers anyway may ignore it.
    void (*wake_sender)(void *user, bool barrier);
    void (*event)(void *user, const struct updates_event *event);
    // Before a write, zero or discard is submitted to the store (for the intent map). 0: go ahead.
    // 1: wait; it is asked again at the next updates_kick(). -errno: the update fails with it.
    // NULL: always go ahead.
    int (*before_write)(void *user, uint16_t object, uint64_t offset, uint32_t length);
};

// The queue stays the caller's, who calls nothing else of it that changes it but what "Receiving"
// and "Who reads" say. Starts with the gate CLOSED. NULL: no memory.
struct updates *updates_new(struct unsafe *unsafe, enum updates_mode mode,
                            const struct updates_ops *ops, void *user);
struct updates *updates_free(struct updates *updates); // nothing may be under way at a store

// Gives an object its store; also after a failed flush, reopened. `peer_block_size`: of the peer's
// store (a power of two up to 65536), 1 while it is not known. block NULL takes the store away:
// nothing of the object may be under way there. Flushes that wait for a sync end with -ESHUTDOWN.
void updates_set_volume(struct updates *updates, uint16_t object, struct block *block,
                        uint32_t peer_block_size);
bool updates_volume_failed(const struct updates *updates, uint16_t object);

void updates_submit(struct updates *updates, struct update *update);
// Starts what was submitted, gives the answers that are due, wakes the sender. Once a turn of the
// loop.
void updates_kick(struct updates *updates);

// Switches the gate and returns `numbered` at the switch. To ALONE: what waits for the peer is
// answered. To PAIRED: from here on nothing is answered without durable (async aside). To CLOSED:
// everything that was taken in and is not at a store is refused, and so is everything that waits
// for an answer. Answers are given before it returns.
uint64_t updates_set_gate(struct updates *updates, enum updates_gate gate);
enum updates_gate updates_gate(const struct updates *updates);

// The peer has everything up to `seq` durable. Gives the answers that waited for it.
void updates_durable(struct updates *updates, uint64_t seq);
// The lowest seq that an answer waits for; 0 when none does.
uint64_t updates_waiting_for(const struct updates *updates);

// Seqs up to `bound` are reserved durably. What waited for it goes on at the next kick.
void updates_set_bound(struct updates *updates, uint64_t bound);

// Adds a record that is no update: an epoch's opening (all later records belong to `epoch`) or a
// mark of `object`. Returns 0 and its seq, -ENOSPC (queue full: detach the reader) or -ERANGE
// (bound). A mark also -EAGAIN while the gate is HELD: the seq from which it is held is the last one
// until the epoch is opened.
int updates_open_epoch(struct updates *updates, uint64_t epoch, const void *encoded, uint32_t size,
                       uint64_t *ret_seq);
int updates_mark(struct updates *updates, enum record_mark mark, uint16_t object,
                 uint64_t *ret_seq);

// Reads a range under the overlap rule and streams it (all zeros: without payload), or its
// checksums. At most UPDATES_COPY_BYTES_MAX bytes, aligned to the block's data_align; a check of
// whole CHECK_BLOCK_SIZEs except at the volume's end. UPDATES_EVENT_COPIED tells the end of it.
// Returns -EAGAIN when as many are under way as may be. Runs also while the gate is ALONE; waits
// while it is HELD; ends with -ESHUTDOWN when it is CLOSED.
int updates_resync_chunk(struct updates *updates, uint16_t object, uint64_t offset,
                         uint32_t length);
// `coarse`: one checksum for each CHECK_COARSE_SIZE from `offset` on, instead of for each block.
int updates_check(struct updates *updates, uint16_t object, uint64_t offset, uint32_t length, bool coarse);

// Calls done() once (from a later kick, or from within) when nothing is at a store and, unless the
// gate is HELD or CLOSED, nothing waits to get there. One at a time.
void updates_drain(struct updates *updates, void (*done)(void *user));

// Writes again what a predecessor had committed and not numbered, numbers it, then calls done()
// (from within, if there is nothing to do). Before anything else is submitted; the gate is CLOSED
// or HELD. Volumes are set. Slots of an object without a store fail (-ENODEV) and become marks.
void updates_recover(struct updates *updates, void (*done)(void *user));

// For clearing the intent map. Begins a new turn: true when every write, zero or discard that was at a store before the
// last one began has been numbered; false when it is too early for another one.
bool updates_turn(struct updates *updates);
// Everything that was at a store at the last updates_turn() has been numbered.
bool updates_turn_over(const struct updates *updates);
// Syncs of a volume's store: how many were begun, and the newest that has succeeded (all before it count with it).
struct updates_syncs {
    uint64_t begun, good;
};
struct updates_syncs updates_syncs(const struct updates *updates, uint16_t object);
// Begins one at the next kick that nobody waits for, if none comes by itself before.
void updates_sync(struct updates *updates, uint16_t object);

struct updates_stat {
    unsigned at_store; // requests under way at stores
    unsigned waiting;  // taken in, not yet at a store
    uint64_t numbered, durable;
};
void updates_stat(const struct updates *updates, struct updates_stat *ret_stat);

#endif
