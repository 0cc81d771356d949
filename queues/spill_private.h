// SPDX-License-Identifier: Apache-2.0
// What spill.c (the producer's side: what lies where, which job is due) and spill_work.c (the
// worker's: the files) share, and what unsafe.c asks of them. For these only.
#ifndef QUEUES_SPILL_PRIVATE_H
#define QUEUES_SPILL_PRIVATE_H

#include <stdatomic.h>

#include "queues/safe_segment.h"
#include "queues/spill.h"

#define SPILL_JOB_BLOCKS  16U
#define SPILL_JOB_BYTES   (UINT64_C(4) * 1024 * 1024) // of payload; more only for one large record
#define SPILL_AHEAD       8U // blocks that are kept in memory for a reader,
#define SPILL_AHEAD_BYTES (UINT64_C(4) * 1024 * 1024) // unless one of them is larger

// A segment file: one of the safe queue's format, with this queue's salt.
struct spill_segment {
    struct safe_segment *file;
    unsigned live; // blocks in it that are held
    struct spill_segment *next;
};

// A run of records in a segment: one entry.
struct spill_block {
    struct spill_segment *segment;
    uint64_t offset; // of the entry
    uint64_t first, last;
    uint64_t bytes;  // of the entry
    int64_t time_ns; // of its first record
};

// A block that was read back.
struct spill_load {
    uint64_t first, last;
    struct batch *message; // malloc'ed; NULL: none
    uint32_t *places;      // malloc'ed: where in the payload part each record's begins
};

enum spill_job_kind { SPILL_JOB_OPEN, SPILL_JOB_READ, SPILL_JOB_WRITE, SPILL_JOB_REMOVE };

struct spill_job {
    struct spill *spill;
    enum spill_job_kind kind;
    int status;
    char text[SPILL_TEXT_MAX];
    uint64_t first, last; // WRITE: these records. OPEN: what is held of those on disk
    uint64_t limit;       // WRITE: segments there may be
    _Atomic bool copied;  // WRITE: their memory is not used any more
    unsigned count;       // READ: blocks wanted. WRITE: blocks that were written
    struct spill_block block[SPILL_JOB_BLOCKS];
    struct spill_load load[SPILL_JOB_BLOCKS]; // READ
    struct spill_block *found;                // OPEN: malloc'ed
    size_t found_count;
    struct spill_segment *dead; // REMOVE
};

struct spill {
    struct unsafe *queue;
    struct spill_config config;
    uint64_t pair, salt;

    // What the worker may use while a job is out, and only then.
    struct disk *disk;
    struct spill_segment *segments; // all of them, the oldest first
    struct spill_segment *current;  // the one that is written, or NULL
    uint64_t segment_count;         // dead ones included
    uint64_t number;                // of the newest segment

    struct spill_segment *dead; // to be removed
    uint64_t room;              // room_left() while a job is out
    struct spill_block *blocks; // FIFO: [blocks_first, blocks_count), ascending
    size_t blocks_first, blocks_count, blocks_size;
    struct spill_load loads[SPILL_AHEAD];
    _Atomic uint64_t wanted; // what a reader asked for last
    uint64_t held_bytes;     // of the blocks
    uint64_t written, loaded;

    struct spill_job job;
    bool out; // the job is
    int64_t began_ns, now_ns;
    enum spill_job_kind last; // takes turns
    bool opened;
    bool spilling; // from `from` percent down to two thirds of it
    bool lost, tell_lost;
    bool failed;  // until retry_ns
    bool failing; // since the last write that succeeded
    bool tell_failed, tell_works;
    int64_t retry_ns;
    char text[SPILL_TEXT_MAX]; // of `tell_lost` or `tell_failed`
    enum unsafe_level level, told_level;
};

// For unsafe.c and unsafe_ring.c.
const struct record *spill_record(struct spill *spill, uint64_t seq);
const void *spill_payload(struct spill *spill, uint64_t seq);
uint32_t spill_run_from(struct spill *spill, uint64_t seq);
uint64_t spill_pin(const struct spill *spill); // memory above this seq is being copied

// spill_room.c
uint64_t spill_segments_most(const struct spill *spill);
uint64_t spill_room_left(const struct spill *spill); // bytes of entries
uint64_t spill_room_now(const struct spill *spill);  // the same without what is kept back
bool spill_usable(const struct spill *spill);
bool spill_ending(const struct spill *spill); // a reader has an end
uint64_t spill_writable_last(const struct spill *spill);
uint64_t spill_next_span(const struct spill *spill, bool *ret_full);
bool spill_fits(const struct spill *spill, uint64_t span);
enum unsafe_level spill_level(const struct spill *spill);

uint64_t spill_segment_least(uint32_t payload_max);
struct spill_load spill_load_free(struct spill_load load);
struct spill_segment *
spill_segment_drop(struct spill_segment *segment); // closes it; returns `next`

#endif
