// SPDX-License-Identifier: Apache-2.0
// Salvage: what an end that was active held and nobody else has, kept before it is overwritten. An archive that is only
// appended to: ranges of volumes with what they held. It is never replayed, and goes only when an operator drops it. The
// format, and what a crash may leave of it: docs/salvage.md.
//
// Invariants.
// - A range is kept once: who asks with salvage_next() is not told of it again, also after a restart, so that what the
// archive holds is what the end had, never what came afterwards.
// - What salvage_sync() has reported is found again after any crash.
// - A salvage that was dropped while it goes on leaves the list of its ranges, so that the first one holds, and that
// list stays for as long (salvage_drop()).
//
// Failure modes: full (-ENOSPC: nothing was appended; the owner frees the object and opens it again when an operator
// may have made room); failed (any other error of the disk: final until it is opened again).
//
// One thread owns it. Pure: the disk, the time and the configuration are handed in.
#ifndef QUEUES_SALVAGE_H
#define QUEUES_SALVAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "queues/disk.h"
#include "queues/epoch.h"
#include "queues/record.h"

#define SALVAGE_BLOCK      4096U            // ranges are rounded out to it
#define SALVAGE_ENTRY_MAX  (1024U * 1024)   // bytes of data of one entry
#define SALVAGE_FILE_SIZE  (8U * 1024 * 1024)
#define SALVAGE_FILE_MIN   (SALVAGE_ENTRY_MAX + 64 * 1024) // holds the largest entry
#define SALVAGE_FILES_MAX  65536U
#define SALVAGE_TEXT       200

enum salvage_cause {
    SALVAGE_YIELDED = 1, // the peer had taken over
    SALVAGE_RESOLVED,    // an operator has kept the other side of a split
    SALVAGE_DOUBTFUL,    // either; and the map of what this end alone held was damaged on the way: what is kept from this file
                         // on may have come after the end had begun to follow
    SALVAGE_CAUSE_END,
};
const char *salvage_cause_text(enum salvage_cause cause);

enum salvage_kind {
    SALVAGE_DATA = 1,
    SALVAGE_ZERO,       // the range read as zeros
    SALVAGE_UNREADABLE, // it could not be read: `status` says why
    SALVAGE_GONE,       // it was kept, and dropped by the operator
    SALVAGE_DONE,       // the last entry: nothing of this end is left to be kept. It has no range
    SALVAGE_KIND_END,
};

struct salvage_volume {
    char name[33];
    uint64_t size; // bytes
};

// ---- writing ----

struct salvage_config {
    struct disk *disk;
    uint64_t pair; // its id
    const char *name;
    enum epoch_opener side;
    enum salvage_cause cause;
    struct epoch epoch; // the one that this end gave up: a salvage of it goes on
    uint64_t time;      // CLOCK_REALTIME ns
    struct salvage_volume volumes[RECORD_OBJECTS_MAX];
    unsigned volume_count;
    uint64_t objects;   // mask: volumes to be salvaged
    uint64_t limit;     // bytes of all files of all salvages here together
    uint64_t file_size; // bytes; 0: SALVAGE_FILE_SIZE. A multiple of 4096, at least SALVAGE_FILE_MIN
    // Of that salvage entries above this number count for nothing: their sync failed in this run (salvage_hand_on()).
    uint32_t distrusted; // 0: of none
    uint64_t trusted_last;
    // Whether this end alone holds what is at `offset`, and up to where (*ret_end > offset) that is so. NULL: it may
    // hold everything alone.
    bool (*alone)(void *arg, unsigned object, uint64_t offset, uint64_t *ret_end);
    void *arg;
};

struct salvage;

// Looks at what is there. Nothing is created before the first entry. -EUCLEAN, -EIO: the disk.
int salvage_open(const struct salvage_config *config, struct salvage **ret_salvage,
                 struct error *err);
struct salvage *salvage_free(struct salvage *salvage); // NULL-safe; no sync is under way, or none will ever complete

// The first range of [offset, end) that has to be kept before it is overwritten, rounded out to blocks and at most
// SALVAGE_ENTRY_MAX long. False: there is none (any more).
bool salvage_next(const struct salvage *salvage, unsigned object, uint64_t offset, uint64_t end,
                  uint64_t *ret_offset, uint64_t *ret_length);
// Keeps a range as salvage_next() gave it. Not durable yet.
int salvage_keep(struct salvage *salvage, unsigned object, uint64_t offset, uint64_t length,
                 const void *data, struct error *err);
// The same for one that could not be read (`status` is the -errno): that is kept in mind, too.
int salvage_give_up(struct salvage *salvage, unsigned object, uint64_t offset, uint64_t length,
                    int status, struct error *err);
// Makes everything that was kept durable; done() is called later, from the disk's work function. One at a time, and only
// when there is something that is not (last > durable).
void salvage_sync(struct salvage *salvage, void (*done)(void *arg, int status), void *arg);
bool salvage_syncing(const struct salvage *salvage);
uint64_t salvage_last(const struct salvage *salvage);    // number of the last entry
uint64_t salvage_durable(const struct salvage *salvage); // entries up to here are durable
int salvage_failure(const struct salvage *salvage);      // 0, or the -errno for which it takes nothing more
// What the next opening in this run has to know of this one, into its configuration.
void salvage_hand_on(const struct salvage *salvage, struct salvage_config *next);
// Everything that had to be kept is, and durable: the archive is closed with a last entry. Waits for the disk.
int salvage_finish(struct salvage *salvage, struct error *err);

struct salvage_stats {
    uint32_t number;     // of the salvage; 0: nothing was kept yet
    uint64_t kept_bytes; // of volumes, in this run
    uint64_t used_bytes, limit_bytes; // of all files here
};
void salvage_stats(const struct salvage *salvage, struct salvage_stats *ret_stats);

// ---- reading: also while another process writes (then up to where it is) ----

enum salvage_verdict {
    SALVAGE_WHOLE,
    SALVAGE_TORN,    // behind its last entry is something that is none: what a crash leaves, and nothing that was
                     // overwritten; or damage of the last entries
    SALVAGE_DAMAGED, // entries are missing; the others are given
};

struct salvage_info {
    uint32_t number; // its name
    uint64_t pair;
    char name[33]; // of the pair
    enum epoch_opener side;
    enum salvage_cause cause;
    struct epoch epoch;
    uint64_t time;
    struct salvage_volume volumes[RECORD_OBJECTS_MAX];
    unsigned volume_count;
    unsigned files;
    uint64_t file_bytes;
    uint64_t entries, data_bytes, zero_bytes, unreadable_bytes, gone_bytes; // bytes of volumes
    bool done;
    enum salvage_verdict verdict;
    char what[SALVAGE_TEXT]; // of a verdict other than WHOLE
};

struct salvage_entry {
    enum salvage_kind kind;
    unsigned object;
    uint64_t number, offset, length;
    int status; // UNREADABLE: the -errno
};

// Something that is wrong with a file.
struct salvage_damage {
    uint32_t number; // of its salvage; 0: not known, the file's header cannot be read
    uint32_t slot;   // the file segment.SLOT
    uint64_t offset; // in it
    enum salvage_verdict verdict;
    const char *what; // static
};

// Calls found() for each, in the order of their numbers, and damaged() for each place, both with `arg`.
int salvage_inspect(struct disk *disk, void (*found)(void *arg, const struct salvage_info *info),
                    void (*damaged)(void *arg, const struct salvage_damage *damage), void *arg, struct error *err);
// Calls found() for each, in the order of their numbers. `beyond` counts files whose header cannot be read.
int salvage_list(struct disk *disk, void (*found)(void *arg, const struct salvage_info *info),
                 void *arg, unsigned *ret_beyond, struct error *err);
// Calls entry() for each of one salvage, in order; data is NULL but for DATA. Stops when that returns a -errno, which is
// returned. -ENOENT: no such salvage.
int salvage_walk(struct disk *disk, uint32_t number,
                 int (*entry)(void *arg, const struct salvage_entry *entry, const void *data),
                 void *arg, struct salvage_info *ret_info, struct error *err);
// Removes it for good. Whoever writes must have been shut out. `goes_on`: the end may still keep something of the epoch
// that it gave up. Then the ranges of one that is not closed stay, as a small salvage of its own, and that one cannot be
// dropped (-EBUSY): what came in their place would be taken for what the end had.
int salvage_drop(struct disk *disk, uint32_t number, bool goes_on, struct error *err);

#endif
