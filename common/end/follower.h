// SPDX-License-Identifier: Apache-2.0
// The passive end's data path, between what the end orders and queues/replica: opens the safe queue
// and the stores, follows a session, starts anew what had failed, passes the end's consents on,
// replays to the end for a takeover, and empties the queue before this end becomes active. Pure, as
// common/end/service is for the active end; the daemon's stream thread and the simulator drive the
// same code.
//
// One thread owns it. Invariants:
//   - an end that serves has an empty safe queue on its disk: records of its passive time are never replayed over
//     what is written from then on (follower_close() with `forget`);
//   - what failed is followed again only behind a restart, which the end orders together with a resync.
#ifndef END_FOLLOWER_H
#define END_FOLLOWER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/end/end.h"
#include "queues/disk.h"
#include "queues/replica.h"

#define FOLLOWER_RETRY_NS    INT64_C(10000000)   // stores in other hands are tried again
#define FOLLOWER_PATIENCE_NS INT64_C(5000000000) // so long, when a session is to be followed

struct follower;

struct follower_config {
    unsigned volumes;
    uint64_t pair;
    uint64_t segment_size, limit; // of the safe queue, bytes
    uint64_t window;              // bytes kept in memory; 0: the replica's default
    uint32_t map_region;          // of the intent maps; 0: INTENT_REGION
    // Of the salvage: what its files say, and their limits (queues/salvage.h).
    const char *name; // of the pair
    enum epoch_opener side;
    struct salvage_volume salvage_volumes[RECORD_OBJECTS_MAX];
    uint64_t salvage_limit, salvage_file_size;
};

struct follower_ops {
    // All or none. -EAGAIN: a predecessor's I/O has not ended yet; tried again later.
    int (*open_stores)(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err);
    void (*close_stores)(
        void *user); // waits for what is under way; nothing happens when they are closed
    // The disk of the safe queue, from opening to closing.
    int (*open_disk)(void *user, struct disk **ret_disk, struct error *err);
    void (*close_disk)(void *user); // nothing happens when it is closed
    // Takes what completes there, and at the salvage's; waits a moment for it.
    void (*work_disk)(void *user);
    // The disk of the salvage, which is this end's alone from opening to closing. -EAGAIN: an operator has it.
    int (*open_salvage)(void *user, struct disk **ret_disk, struct error *err);
    void (*close_salvage)(void *user); // nothing happens when it is closed
    // The intent maps of `objects` as this end's own reign has left them -> follower_own_map() each, then or later.
    void (*ask_own_maps)(void *user, uint64_t objects, uint64_t ticket);
    uint64_t (*real_ns)(void *user);   // CLOCK_REALTIME
    uint64_t (*random)(void *user);
    // The link: as struct replica_hooks.
    void (*send)(void *user, const void *message, size_t size);
    void (*release)(void *user, void *message);
    // An event for the end. Its texts and its epoch live until the return.
    void (*report)(void *user, const struct end_event *event);
    void (*note)(void *user, const char *text); // for the log
};

struct follower *follower_new(const struct follower_config *config, const struct follower_ops *ops,
                              void *user);
// Whatever is still open is given up as it is: nothing of it may complete any more. NULL-safe.
struct follower *follower_free(struct follower *follower);

// Opens the replica at the start. 0, -EAGAIN (again, later), or why it does not open. -EUCLEAN: it
// is open, and its queue is damaged: what is replayed may take back what had been settled. *ret_seq (0 and -EUCLEAN): what it holds ends there;
// *ret_base: id of the epoch that it goes on from (0: it is empty).
int follower_open(struct follower *follower, int64_t now_ns, uint64_t *ret_seq, uint64_t *ret_base, struct error *err);
// Closes replica and stores. With `forget` the queue is durably emptied: this end becomes active in
// that epoch, whose first record is `next_seq`.
int follower_close(struct follower *follower, const struct epoch *forget, uint64_t next_seq,
                   struct error *err);
// Its stores have lost what was settled, or the like -> FOLLOW_FAILED; it is closed.
void follower_fail(struct follower *follower, const char *text);

// ---- what the end orders (ACT_FOLLOW, ...) ----

// Before follower_open() or follower_follow(): of the volumes in state->salvage nothing is overwritten before it is
// salvaged.
void follower_salvage(struct follower *follower, const struct end_state *state);

// What ask_own_maps() asked for: a bit a region of `region` bytes. NULL: not known, so that this end may hold anything
// alone. Answers to an older ticket are dropped.
void follower_own_map(struct follower *follower, uint64_t ticket, unsigned object, uint32_t region,
                      uint64_t regions, const uint8_t *bits);

void follower_follow(struct follower *follower, uint64_t session, bool restart, uint64_t seq,
                     const struct epoch *epoch, int64_t now_ns); // -> FOLLOW_READY or FOLLOW_FAILED
void follower_consent(struct follower *follower, uint64_t seq);
void follower_finish(struct follower *follower); // -> FOLLOW_FINISHED or FOLLOW_FAILED
// The piece at or behind region `from` of what a finish is about to discard -> MAP_EV_PIECE with `session`
void follower_lost(struct follower *follower, uint16_t object, uint64_t from, uint64_t session);
const struct intent *follower_lost_map(const struct follower *follower, uint16_t object); // of all of it; NULL: nothing
void follower_discard(struct follower *follower); // -> FOLLOW_FINISHED or FOLLOW_FAILED
void follower_replay(struct follower *follower, bool on);

// ---- a turn ----

// A message of the stream. False: not taken, it stays the caller's.
bool follower_receive(struct follower *follower, void *message, size_t size, int64_t now_ns);
void follower_turn(struct follower *follower, int64_t now_ns);
int64_t follower_deadline(const struct follower *follower);
bool follower_idle(
    const struct follower *follower); // nothing is under way at a store or at its disk
bool follower_is_open(const struct follower *follower);
bool follower_stats(const struct follower *follower,
                    struct replica_stats *ret_stats); // false: closed

struct follower_salvage {
    uint64_t objects; // mask: volumes of which something may still have to be salvaged
    bool full;        // it takes nothing more, or cannot be opened: nothing is applied
    uint64_t used_bytes, limit_bytes; // as last known
};
void follower_salvage_stats(const struct follower *follower, struct follower_salvage *ret_stats);

#endif
