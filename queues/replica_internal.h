// SPDX-License-Identifier: Apache-2.0
// What the files of the replica share (replica.h says what it is for). replica.c turns the crank,
// replica_receive.c takes messages in, syncs and acknowledges, replica_apply.c replays and settles.
#ifndef QUEUES_REPLICA_INTERNAL_H
#define QUEUES_REPLICA_INTERNAL_H

#include "common/base/clock.h"
#include "queues/replica.h"
#include "queues/salvage.h"

#define REPLICA_CHECKS_MAX    8U // that read at the same time
#define REPLICA_CHECK_ALIGN   65536U // that every store can read to
#define REPLICA_FULL_RETRY_NS NS_PER_S // between two attempts while the safe queue is full

// A message in memory of which records are still to be applied, or are being applied.
struct held {
    struct held *next;
    void *message; // struct batch, record headers, payloads
    size_t size;
    bool own;            // free() it; else it goes back through hooks.release()
    uint64_t from, upto; // seqs that count: from <= seq < upto
    uint32_t index;      // of the next record to issue
    uint64_t payload_at; // where its payload is, from the start of all payloads
    unsigned users;      // operations that point into it, plus one while not everything is issued
};

// A record that is being applied. They stand in a ring in order of seq; `applied` moves over those
// that are done.
struct op {
    struct block_request request;
    struct replica *replica;
    struct held *held;
    const struct record *record;
    const void *payload;
    uint64_t seq;
    uint64_t first, end; // bytes, rounded out to blocks; first == end where it touches no data
    uint16_t object;
    bool done;
    int status;   // where the replica failed: nothing from here on counts
    void *buffer; // aligned copy of the payload, or what a check reads
    // What its range held is kept in the salvage first (replica_salvage.c).
    enum op_keeping {
        KEEPING_NOTHING, // not, or no more
        KEEPING_READS,   // a piece of it is being read
        KEEPING_SYNCS,   // everything is kept, up to the entry `kept`, and is to become durable
        KEEPING_WAITS,   // for a salvage that takes it
    } keeping;
    uint64_t piece, piece_length, kept;
    void *piece_data;
};

// An epoch's opening that was received and to which the end has not consented.
struct epoch_gate {
    struct epoch_gate *next;
    uint64_t seq;
    struct epoch epoch;
    bool raised;
};

struct replica {
    struct replica_config config;
    struct replica_hooks hooks;
    struct safe *safe;
    int64_t now; // as the caller last said

    // Where things are. received >= synced >= durable >= applied >= settled.
    uint64_t received, synced, durable, applied, settled;
    uint64_t received_epoch, synced_epoch, applied_epoch;
    uint64_t confirmed; // the highest durable that an acknowledgement has said
    uint64_t newest_time; // the stamp of what was received last
    int64_t newest_at;    // and when that was; 0: nothing yet

    // Receiving.
    uint64_t session, session_start; // session_start: `received` when it began
    bool restarting;                 // replica_restart() is waiting for the replay
    uint64_t restart_epoch, restart_seq;
    int64_t restart_retry_at; // no room for it before: tried again then
    bool full;
    int64_t full_retry_at;

    // Syncing. `unsynced` counts what a sync started now would add.
    bool syncing, sync_wanted;
    uint64_t unsynced_bytes;
    uint64_t sync_seq, sync_epoch, sync_barrier; // what the sync under way covers
    uint64_t barrier_newest;                     // received
    uint64_t barrier_ready,
        barrier_ready_seq; // synced, but durable may be held back in front of that seq
    uint64_t barrier_done;
    int64_t last_append_at;

    // Acknowledging.
    struct batch_ack acked; // as last sent
    bool ack_now, ack_resend;
    int64_t ack_due, resend_sent_at;

    // Gates.
    struct epoch_gate *epoch_gates, **epoch_gates_end;
    uint64_t apply_gate; // seq of the mark at which applying waits; 0: none
    bool apply_gate_raised, apply_gate_open;

    // Applying.
    struct held *held, **held_end; // not wholly issued yet, oldest first
    uint64_t held_bytes;           // of messages in memory, in use or waiting
    bool spilled; // what follows `held` is to be read from the safe queue, from `spill` on
    struct safe_cursor spill;
    struct op ops[REPLICA_FLIGHT_MAX];
    unsigned op_head, op_count;
    uint64_t queued_bytes; // payloads received and not applied
    void *spares[REPLICA_CHECKS_MAX]; // room for checks to read into, of CHECK_BLOCKS_MAX blocks
    unsigned spare_count, checks;     // checks: that have such room
    bool paused;
    bool kick[RECORD_OBJECTS_MAX];

    // Salvaging.
    uint64_t salvage_objects; // mask of volumes
    struct salvage *salvage;  // NULL: none is at hand, what needs it waits
    int salvage_refused;      // 0, or the -errno with which it took nothing more
    struct error salvage_error;

    // Settling.
    bool dirty[RECORD_OBJECTS_MAX]; // volumes written since their last flush
    bool unproven; // not flushed since the opening: others may have written before it
    struct block_request flushes[RECORD_OBJECTS_MAX];
    unsigned flushing;
    int flush_status;
    uint64_t flush_target;
    uint64_t unflushed_bytes;
    int64_t unflushed_since;
    void (*settle_done)(void *arg, int status);
    void *settle_arg;
    uint64_t settle_target;

    // Ending.
    bool finishing, finished;
    void (*finish_done)(void *arg, const struct replica_finish *finish);
    void *finish_arg;
    uint64_t beyond_records, beyond_bytes; // found at the opening, behind the hole
    bool discard_told, discard; // what lies behind is to be forgotten: said so; and told to do it
    struct intent *lost[RECORD_OBJECTS_MAX]; // the regions of that; NULL: none
    bool lost_unknown;                       // or nobody knows

    // Failing.
    bool stopped;
    int apply_error; // the replica's storage
    int queue_error; // the safe queue's disk
    bool hole; // the safe queue cannot be read from applied's successors on; nothing more can be
               // applied
    struct error error;
    bool error_raised;

    // The crank.
    bool running, again;

    // Measuring.
    int64_t rate_at;
    bool rate_busy;
    int64_t rate_ns;
    uint64_t rate_records, rate_bytes;
    uint64_t records_per_s, bytes_per_s;
    uint64_t batches, duplicates, refused, resends;
};

// replica.c
void replica_run(struct replica *r); // moves on whatever can move; harmless to call from anywhere
void replica_raise(struct replica *r, enum replica_event_kind kind, uint64_t seq, uint16_t object,
                   const struct epoch *epoch);
int replica_failure(const struct replica *r); // 0 or -errno
// These keep the first error's text.
void replica_fail_apply(struct replica *r, int rc, const struct error *err);
void replica_fail_queue(struct replica *r, int rc, const struct error *err);
void replica_fail_hole(struct replica *r, const struct error *err);
// Whether somebody waits for what is received to become durable.
bool replica_in_haste(const struct replica *r);

// replica_receive.c
void replica_sync_step(struct replica *r);
void replica_ack_step(struct replica *r);
void replica_durable_step(
    struct replica *r); // durable follows what was synced, up to the first gate
void replica_note_full(struct replica *r); // and room: said when it changes
void replica_note_room(struct replica *r);
// Takes note of an epoch's opening. NULL or the broken rule.
const char *replica_add_gate(struct replica *r, const struct record *record, const void *payload);

// replica_apply.c
void replica_apply_step(struct replica *r);
void replica_settle_step(struct replica *r);
// Starts a record that is in line, once what its range held is kept.
void replica_op_start(struct replica *r, struct op *op);
// Keeps a valid message for applying, from seq `from` up to (not including) `upto`. False: no
// memory, nothing happened.
bool replica_keep(struct replica *r, void *message, size_t size, uint64_t from, uint64_t upto,
                  bool own);
void replica_drop_held(struct replica *r);
void replica_drop_spares(struct replica *r);
uint64_t replica_oldest_time(const struct replica *r);

// replica_lost.c
void replica_lost_record(void *arg, const struct record *record); // is among what is lost
void replica_lost_collect(struct replica *r);                     // what is held behind `applied`
void replica_lost_forget(struct replica *r);
bool replica_loses(const struct replica *r);

// replica_salvage.c
// Whether what the range of this record holds has to be kept before it is started; that has begun then.
bool replica_keep_first(struct replica *r, struct op *op);
void replica_salvage_step(struct replica *r);
void replica_salvaged(struct replica *r, unsigned object); // nothing of it is held alone any more
static inline bool replica_salvages(const struct replica *r, unsigned object)
{
    return r->salvage_objects >> object & 1;
}

#endif
