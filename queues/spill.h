// SPDX-License-Identifier: Apache-2.0
// The disk rung of the unsafe queue: when its memory is more than half full, the oldest records are
// copied into segment files, and their memory is free again. Readers do not notice: unsafe_record()
// and the like find a record where it is. docs/unsafe-queue.md describes the files and what a crash
// may leave in them.
//
// What is on disk is always a prefix of what is held: records up to `spilled` (unsafe_spilled(), in
// the shared memory of the queue, so that it outlives the daemon with it) lie in segments, the
// others in memory. Records that a reader is about to ask for are read back ahead of it, and
// checked before they are believed; while they are on their way the reader sees nothing to send.
//
// The disk is slow, and the producer must not wait for it. So there are jobs, one at a time:
//
//   producer   spill_wants()   every turn: is there something to do?
//              spill_next()    takes a job, with the readers held off
//   worker     spill_run()     does it: the only one that uses the disk
//   producer   spill_done()    with the readers held off
//              spill_event()   what has to be said or done about it
//
// Threads: everything belongs to the producer of the queue, spill_run() aside, which touches only
// what a job hands to it. "With the readers held off" means that no reader is inside of a function
// of the queue, nor uses a pointer that it got from one: in the daemon under the lock of the lane.
//
// Failure: a full or broken disk makes the next rung of the ladder (spill_helps() says no), is said
// once, and is tried again. A record that cannot be read back, or is damaged, is lost, and so are
// all that are held: the readers have to be detached (SPILL_LOST), and what they lack is resynced.
#ifndef QUEUES_SPILL_H
#define QUEUES_SPILL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"
#include "queues/disk.h"
#include "queues/unsafe.h"

#define SPILL_TEXT_MAX 256
#define SPILL_STUCK_NS                                                                             \
    (INT64_C(5) * 1000 * 1000 * 1000) // a job that takes longer is not waited for
#define SPILL_RETRY_NS (INT64_C(5) * 1000 * 1000 * 1000) // after a failure of the disk

struct spill;
struct spill_job;

struct spill_config {
    uint64_t quota; // bytes of all segments; less than one segment: nothing is ever spilled
    uint64_t
        segment_bytes; // of one; 0: chosen by the quota. Raised to what the largest record takes
    unsigned from; // percent of the memory, or of its record table, from which on it spills; 0: 50
    // Room for all that lies in memory is kept free, for unsafe_end() (policy `map`).
    bool reserve;
    int64_t stuck_ns, retry_ns; // 0: the defaults above
};

// The rung of `queue`, new or recovered; the queue keeps a pointer to it. The first job finds in
// the directory what a predecessor left of this queue, and removes the rest. NULL: no memory.
struct spill *spill_new(struct unsafe *queue, struct disk *disk, const struct spill_config *config);
// Nobody works on a job. The files stay where they are. NULL-safe, returns NULL. Before
// unsafe_free().
struct spill *spill_free(struct spill *spill);

// The smallest quota with which anything can be spilled.
uint64_t spill_quota_min(uint32_t payload_max);

bool spill_wants(struct spill *spill, int64_t now_ns);
struct spill_job *spill_next(struct spill *spill, int64_t now_ns); // NULL: nothing to do after all
void spill_run(struct spill_job *job);
// What the job does, for those who count: 0 finds what a predecessor left, 1 reads, 2 writes, 3
// removes.
unsigned spill_job_kind(const struct spill_job *job);
void spill_done(struct spill *spill, struct spill_job *job, int64_t now_ns);
bool spill_busy(const struct spill *spill); // a job is out
// When spill_wants() is to be asked again without any other reason; INT64_MAX: never.
int64_t spill_deadline(const struct spill *spill);

enum spill_event_kind {
    SPILL_NOTHING,
    SPILL_LEVEL,  // of the quota: `level` has changed
    SPILL_FAILED, // the disk takes nothing for now: text
    SPILL_WORKS,  // again
    SPILL_LOST,   // what was spilled cannot be had any more: detach the readers. text
};

struct spill_event {
    enum spill_event_kind kind;
    enum unsafe_level level;
    char text[SPILL_TEXT_MAX];
};

// The next event, SPILL_NOTHING when there is none.
void spill_event(struct spill *spill, struct spill_event *ret_event);

// Whether memory that is full will be free again without a reader's help, and soon.
bool spill_helps(const struct spill *spill);
// Whether all that lies in memory still fits: what is held can go on being streamed while nothing
// is added to it (unsafe_end()).
bool spill_can_take_all(const struct spill *spill);
// Whether the record that the reader asked for last is not in memory: spill_wants() would say yes.
// Any thread.
bool spill_missing(const struct spill *spill);

struct spill_stat {
    uint64_t records; // held on disk
    uint64_t bytes;   // likewise
    uint64_t limit_bytes;
    int64_t oldest_ns; // CLOCK_REALTIME of the oldest of them; 0 where there is none
    enum unsafe_level level;
    bool failed;
    uint64_t written, loaded; // records, since spill_new()
};
void spill_stat(const struct spill *spill, struct spill_stat *ret_stat);

#endif
