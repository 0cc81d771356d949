// SPDX-License-Identifier: Apache-2.0
// The safe queue: what the passive end has received and not yet settled, on disk. The format, why
// old content is never taken for new, and what a crash may leave behind: docs/safe-queue.md.
//
// Entries are batch messages as they were received, appended in order of seq without gaps to
// preallocated segments, which are used again when everything in them is settled. Nothing here
// waits for a disk but safe_open(), the start of a segment, discard and restart (one small sync
// each), and reads and writes of the page cache.
//
// Failure modes: full (-ENOSPC: nothing appended, nothing lost, append again when something was
// settled); failed (a write or sync failed: final until the queue is opened again; what was durable
// can still be read); damaged (found by safe_open(): readable up to the damage, appends refused
// with -EUCLEAN until safe_restart() or safe_discard_after()).
//
// One thread owns it. Pure: disk, salt and configuration are handed in.
#ifndef QUEUES_SAFE_H
#define QUEUES_SAFE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "queues/batch.h"
#include "queues/disk.h"

#define SAFE_SEGMENT_SIZE (64U * 1024 * 1024) // holds the largest batch
#define SAFE_SEGMENT_SIZE_MIN                                                                      \
    (16U * 1024) // for tests: messages that do not fit are refused with -EMSGSIZE
#define SAFE_SEGMENTS_MAX 4096

struct safe_config {
    struct disk *disk;
    uint64_t pair; // id of the pair; a queue of another one is refused
    uint64_t
        salt; // random, different at every opening: it is what makes segment generations unique
    uint64_t segment_size; // bytes; a multiple of 4096
    uint64_t limit;        // bytes of all segments together; at least two segments
    uint64_t confirmed;    // what this end is known to have confirmed as durable, 0 if unknown: a
                           // queue that does not reach it is damaged
    // Called by safe_open() for every record that is held, in order. May be NULL.
    void (*seen)(void *arg, const struct record *record, const void *payload);
    // Likewise for every record behind the end of what is held whose header can be read; in any order, some perhaps twice.
    // May be NULL.
    void (*beyond)(void *arg, const struct record *record);
    void *arg;
};

// How an opening found the queue (facts and decisions: safe_scan.h).
enum safe_verdict {
    SAFE_EMPTY, // never used: safe_restart() comes first
    SAFE_CLEAN,
    SAFE_TORN,    // an unconfirmed tail was cut: normal after a crash
    SAFE_DAMAGED, // something that had been confirmed cannot be read
};

struct safe_recovery {
    enum safe_verdict verdict;
    uint64_t first, last; // seqs held; first == last + 1 when none
    // TORN, DAMAGED: what is wrong, and what lies behind it and looks whole (given up all the
    // same).
    uint64_t at_seq;    // the first seq that is missing
    uint32_t slot;      // segment file
    uint64_t offset;    // bytes in it
    const char *reason; // static text
    uint64_t beyond_records, beyond_bytes;
    bool unknown; // of something behind it, that may have been confirmed, not even the header can be read
};

struct safe_stats {
    uint64_t first, last; // seqs held; first == last + 1 when none
    uint64_t epoch;       // id of the epoch of `last`
    uint64_t base_epoch;  // of the record in front of the oldest segment, long settled: what the queue goes on from. 0: none
    uint64_t bytes_used;  // of segments in use
    uint64_t bytes_limit;
    uint64_t segments_used, segments_free;
    bool full; // the last append was refused for want of room
};

struct safe;

// Opens the queue in config->disk, whatever state it is in: torn and damaged ones open too, and
// *ret_recovery says so. What it reports as held is durable (it is synced here: a killed process
// leaves more than a power loss would). -EINVAL: another pair's or an unknown version's; -EIO and
// the like: the disk.
int safe_open(const struct safe_config *config, struct safe **ret_safe,
              struct safe_recovery *ret_recovery, struct error *err);
struct safe *
safe_free(struct safe *safe); // NULL-safe; no sync is under way, or none will ever complete

// Appends a valid message (batch_invalid() said NULL, count > 0, payloads checked) that begins at
// or before last + 1 and ends behind last: the records up to `last` in it are duplicates and do not
// count. It is on its way to the disk, not durable. -ENOSPC: full. -EMSGSIZE. Everything else:
// failed, finally.
int safe_append(struct safe *safe, const void *message, size_t size, struct error *err);

// Makes everything appended up to now durable; done() is called later from the disk's work
// function. One at a time: who comes while one is under way waits for its end and starts another. A
// failed sync is final (safe_failure()).
void safe_sync(struct safe *safe, void (*done)(void *arg, int status), void *arg);
bool safe_syncing(const struct safe *safe);
int safe_failure(const struct safe *safe); // 0, or the -errno for which it takes no more appends

// Reading: a cursor is at one entry; records below cursor.seq in that entry are to be skipped.
struct safe_cursor {
    uint64_t segment; // number
    uint64_t offset;
    uint64_t seq; // of the first record that counts in the entry
};
// At the entry that holds `seq` (first to last + 1). -EUCLEAN.
int safe_seek(struct safe *safe, uint64_t seq, struct safe_cursor *ret_cursor, struct error *err);
// Reads the entry and moves the cursor behind it. *ret_message (free()) is a checked message.
// -ENODATA: at the end. -EUCLEAN: damage, the text says where.
int safe_read(struct safe *safe, struct safe_cursor *cursor, void **ret_message, size_t *ret_size,
              struct error *err);
// The end of the queue: where the next append will be.
struct safe_cursor safe_end(const struct safe *safe);

// Calls `seen` for every record from `seq` (first to last + 1) on, in order, without a look at what they carry. -EUCLEAN:
// not even the headers of all of them can be read.
int safe_headers(struct safe *safe, uint64_t seq, void (*seen)(void *arg, const struct record *record),
                 void *arg, struct error *err);

// Everything up to `seq` is settled: segments that hold nothing else are free for use again. Never
// fails; the content stays as it is until then.
void safe_settled(struct safe *safe, uint64_t seq);
// Whether settling up to `seq` would free a segment that is needed, now or soon.
bool safe_wants_room(const struct safe *safe, uint64_t seq);

// Durably forgets everything behind `seq` (first - 1 to last). No sync may be under way. -ENOSPC:
// settle first.
int safe_discard_after(struct safe *safe, uint64_t seq, struct error *err);
// Durably forgets everything; the next append begins at `seq`, and the position is (epoch, seq - 1)
// until then. Also ends "damaged". No sync may be under way. -ENOSPC only when not even one segment
// could be made.
int safe_restart(struct safe *safe, uint64_t epoch, uint64_t seq, struct error *err);

void safe_stats(const struct safe *safe, struct safe_stats *ret_stats);
const char *safe_verdict_name(enum safe_verdict verdict);

#endif
