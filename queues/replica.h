// SPDX-License-Identifier: Apache-2.0
// The passive end of a pair's stream: receives batches, keeps them in the safe queue, acknowledges,
// and applies them to the replica under the apply rule: a record is applied only when every earlier
// one has been, and it is durable in the safe queue. Nothing but this writes to the replica.
//
// Invariants: received >= durable >= applied >= settled. durable stops in front of an epoch's
// opening until the end has consented to it. Whatever fails (safe queue, replica) is final for this
// object: nothing is skipped.
//
// One thread owns it: messages, completions of the volumes and of the safe queue's disk, and all
// calls. No clock: `now` is CLOCK_BOOTTIME ns as the caller read it. Hooks are called from within
// any call or completion; from them only replica_consent() and the functions that merely look may
// be called.
#ifndef QUEUES_REPLICA_H
#define QUEUES_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "queues/batch.h"
#include "queues/block.h"
#include "queues/epoch.h"
#include "queues/intent.h"
#include "queues/safe.h"
#include "queues/salvage.h"

#define REPLICA_WINDOW_BYTES                                                                       \
    (64U * 1024 * 1024) // messages kept in memory; what is behind is read from the queue
#define REPLICA_SYNC_BYTES (1024U * 1024)    // a sync starts when so much waits for one,
#define REPLICA_QUIET_NS   INT64_C(2000000)  // or when nothing was received for so long
#define REPLICA_ACK_NS     INT64_C(50000000) // how long a change of applied or settled may go unsaid
#define REPLICA_RESEND_NS  INT64_C(100000000) // between two requests to send again
#define REPLICA_SETTLE_BYTES                                                                       \
    (64U * 1024 * 1024)                        // applied bytes after which the replica is flushed,
#define REPLICA_SETTLE_NS  INT64_C(1000000000) // or this long after the first of them
#define REPLICA_FLIGHT_MAX 128                 // requests under way

enum replica_event_kind {
    REPLICA_GATE_EPOCH = 1,    // save the history with `epoch` durably, then replica_consent(seq)
    REPLICA_GATE_RESYNC_BEGIN, // mark `object` as inconsistent durably, then replica_consent(seq)
    REPLICA_GATE_RESYNC_END,   // everything before is settled: mark `object` as consistent, then
                               // replica_consent(seq)
    REPLICA_RESTARTED, // replica_restart() is done; frames of that session are accepted from now on
    REPLICA_FULL,      // the safe queue takes nothing for now
    REPLICA_ROOM,      // it does again
    REPLICA_FAILED,    // `error` says what; final
    REPLICA_SALVAGE_FULL, // the salvage takes nothing more (`error`): to be replaced by replica_salvage()
    REPLICA_SALVAGED,  // everything that was to be salvaged is
};

struct replica_event {
    enum replica_event_kind kind;
    uint64_t seq;
    uint16_t object;
    const struct epoch *epoch;
    const struct error *error;
};

struct replica_hooks {
    // An acknowledgement or answer for the active end (a copy is to be taken). Losing it does no
    // harm.
    void (*send)(void *arg, const void *message, size_t size);
    void (*event)(void *arg, const struct replica_event *event);
    // The message that was handed to replica_receive() is not needed any more.
    void (*release)(void *arg, void *message);
    void *arg;
};

struct replica_config {
    struct safe_config safe;                   // `seen` and `arg` are set by replica_open()
    struct block *volumes[RECORD_OBJECTS_MAX]; // by object; NULL where there is none
    uint64_t window;                           // 0: REPLICA_WINDOW_BYTES
    uint32_t region;                           // of replica_lost(); 0: INTENT_REGION
    struct replica_hooks hooks;
};

// What a meeting compares, and what an operator sees.
struct replica_stats {
    uint64_t session;       // 0: none
    uint64_t epoch;         // id of the epoch of `received`
    uint64_t durable_epoch; // of `durable`: (durable_epoch, durable) is the position that a meeting
                            // compares
    uint64_t received, durable, applied, settled;
    uint64_t applied_epoch; // id of the epoch of `applied`; 0 while nothing was applied in this run
    uint64_t confirmed;     // the highest durable that this run has acknowledged
    uint64_t queued_records, queued_bytes; // received, not applied (payload bytes)
    uint64_t oldest_time; // CLOCK_REALTIME ns of the oldest of them at its numbering; 0 when none
    uint64_t newest_time; // ... of what was received last, by the same machine's clock, and when that was, by this
    int64_t newest_at;    // end's own (0: nothing yet in this run): ages are told without comparing two machines' clocks
    uint64_t replay_records_per_s,
        replay_bytes_per_s; // measured while there was something to replay; 0: never yet
    uint64_t batches, duplicates, refused, resends; // counters since the opening
    bool full, paused, finishing;
    bool gated;  // waits for a consent
    uint64_t salvaging;    // mask of volumes of which something may still have to be salvaged
    bool salvage_waits;    // something waits for a salvage that takes it
    int failure; // 0 or -errno
    bool over;   // ... of a kind with which nothing more is replayed. Of a damaged queue the prefix is.
    struct safe_stats safe;
};

struct replica_finish {
    uint64_t applied; // position of the replica now, all of it settled where error == 0
    uint64_t epoch;   // of that position
    uint64_t discarded_records, discarded_bytes; // held behind a hole or a damage: given up
    bool discards; // not yet: replica_discard() does it, once replica_lost() is recorded
    bool unknown;  // of which regions they are nobody knows
    bool reaches_confirmed; // whether `applied` covers what this run has confirmed
    int error;              // 0, or the -errno that stopped the replay
    struct error reason;
};

struct replica;

// Opens the safe queue and goes on with the replay of what it holds, from its first retained record
// (records that were applied before are written again: every record says what its range holds, so
// the state after the last one is the same, and nobody looks at the replica before that).
// *ret_recovery says how the queue was found.
int replica_open(const struct replica_config *config, int64_t now, struct replica **ret_replica,
                 struct safe_recovery *ret_recovery, struct error *err);
// NULL-safe. Nothing is under way (replica_idle()), or nothing of it will ever complete: a
// simulated crash.
struct replica *replica_free(struct replica *replica);
// Starts no I/O any more; when replica_idle() is true it may be freed.
void replica_stop(struct replica *replica);
bool replica_idle(const struct replica *replica);

// For an end whose queue holds the stream up to where the session goes on. (One that was never
// started, or whose end was active meanwhile, begins with replica_restart().) Accepts frames of
// this session from received + 1 on; those of any other are dropped. Ends a finish that is over. 0:
// accepts none.
void replica_session(struct replica *replica, uint64_t session, int64_t now);
// The same for a stream that begins at `first_seq` in epoch `epoch` (id), behind a gap, because a
// resync follows. What is held is replayed first; then everything is forgotten, and
// REPLICA_RESTARTED says that it is done. The caller has durably marked the volumes as inconsistent
// *before*: the position says nothing about them until their resync's end.
void replica_restart(struct replica *replica, uint64_t session, uint64_t epoch, uint64_t first_seq,
                     int64_t now);

// Takes one message from the link; the buffer (aligned to 8) belongs to the replica until
// hooks.release(), which may be called at once. Whatever is wrong with it: it is dropped, never an
// error of the caller.
void replica_receive(struct replica *replica, void *message, size_t size, int64_t now);

// The end has durably done what the gate at `seq` asked for. A seq without a gate is ignored.
void replica_consent(struct replica *replica, uint64_t seq);

// Of the volumes of this mask nothing is overwritten before what was there is durable in the salvage. With NULL nothing
// at all is overwritten there until a salvage is given. Ends for a volume with its RESYNC_END. The former salvage must
// not be busy; it, and a new one, stay the caller's.
void replica_salvage(struct replica *replica, uint64_t objects, struct salvage *salvage);
// Whether something is under way for which the salvage is needed.
bool replica_salvage_busy(const struct replica *replica);

// When replica_work() wants to be called at the latest; INT64_MAX for no particular time. Calling
// it more often is fine and is what moves things on after completions.
int64_t replica_deadline(const struct replica *replica);
void replica_work(struct replica *replica, int64_t now);

// Pauses applying (receiving goes on).
void replica_pause(struct replica *replica, bool paused);
// done() when everything that is received now has been made durable, applied and settled (status 0,
// or -errno of the failure). -EBUSY: one is waiting already.
int replica_settle(struct replica *replica, void (*done)(void *arg, int status), void *arg);
// A takeover or the end of a handover: receives no more, replays to the end of the valid prefix (a
// pause does not count, gates still do), settles, forgets what lies behind, and reports. Where there is something to
// forget it reports (`discards`) before that, and goes on with replica_discard() alone. replica_session() or
// replica_restart() ends it; called again before that, it begins anew for the newest caller.
void replica_finish(struct replica *replica,
                    void (*done)(void *arg, const struct replica_finish *finish), void *arg);
void replica_discard(struct replica *replica);
// The regions of what a finish is about to forget, as a map of volume `object`. NULL: none of it. Valid until the next call.
const struct intent *replica_lost(const struct replica *replica, unsigned object);

void replica_stats(const struct replica *replica, struct replica_stats *ret_stats);

#endif
