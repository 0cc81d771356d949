// SPDX-License-Identifier: Apache-2.0
// One segment file of a safe queue: its format (docs/safe-queue.md), and reading and writing of its
// parts. Internal to the safe queue; pairctl fsck may read with it.
#ifndef QUEUES_SAFE_SEGMENT_H
#define QUEUES_SAFE_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/bytes.h"
#include "queues/batch.h"
#include "queues/disk.h"

#define SAFE_HEADER_MAGIC  UINT32_C(0x48535355) // "USSH"
#define SAFE_ENTRY_MAGIC   UINT32_C(0x45535355) // "USSE"
#define SAFE_VERSION       1
#define SAFE_HEADER_STEP   4096U                  // the second copy of the header stands here
#define SAFE_ENTRIES_START (2 * SAFE_HEADER_STEP) // the first entry
#define SAFE_ENTRY_ALIGN   64U
#define SAFE_NUMBER_MAX    UINT64_C(0x7fffffffffffffff) // of a use of a segment

struct safe_header {
    struct le32 magic;
    uint8_t version;
    uint8_t reserved[3];
    struct le64 pair;
    struct le64 salt;      // with `number`: the generation of the entries; never used twice
    struct le64 number;    // rises with each use of any segment
    struct le64 previous;  // number of the segment whose records come before, 0: none
    struct le64 floor;     // the oldest number that was still needed when this segment was started
    struct le64 first_seq; // records from here on in earlier segments are void
    struct le64 epoch;     // id of the epoch of first_seq - 1
    struct le64 durable;   // what was known to be durable when this segment was started
    struct le64 reserved2;
    struct le64 reserved3;
    struct le32 slot; // the file's own
    struct le32 header_sum;
};
_Static_assert(sizeof(struct safe_header) == 96, "a format of the disk");

struct safe_entry {
    struct le32 magic;
    struct le32 size; // bytes of the message that follows
    struct le64 salt;
    struct le64 number;
    struct le64 offset; // its own place in the segment
    struct le64
        first; // seqs that it adds to the queue: it may begin with records that were there before
    struct le64 last;
    struct le64 epoch; // id of the epoch of `last`
    struct le32 reserved;
    struct le32 header_sum;
};
_Static_assert(sizeof(struct safe_entry) == SAFE_ENTRY_ALIGN, "a format of the disk");

enum safe_header_state {
    HEADER_BLANK,   // its creation was not finished: holds nothing
    HEADER_BAD,     // something is there, and it cannot be read
    HEADER_FOREIGN, // of another pair, or another version of the format
    HEADER_GOOD,
};

// A segment in memory. `disk_sync` is the queue's.
struct safe_segment {
    struct disk *disk;
    struct disk_file *file;
    uint32_t slot;
    uint64_t size; // bytes of the file
    uint64_t salt, number, previous, floor, first_seq, epoch, durable;
    uint64_t end;         // where the next entry goes, or what was found in it ends
    unsigned header_copy; // the copy that was written last, 0 or 1
    enum safe_header_state copies[2]; // of the header, as they were when it was opened
    bool spoilt;          // its header was bad when it was opened
    bool dirty;           // written since its last sync was started
    struct disk_sync sync;
};

// Opens slot's file. 0 and *ret_segment, *ret_state; with HEADER_GOOD the fields of the header are
// filled in.
int safe_segment_open(struct disk *disk, uint32_t slot, uint64_t pair,
                      struct safe_segment **ret_segment, enum safe_header_state *ret_state);
int safe_segment_create(struct disk *disk, uint32_t slot, uint64_t size,
                        struct safe_segment **ret_segment);
struct safe_segment *safe_segment_free(struct safe_segment *segment); // NULL-safe

// Starts a use of the segment as its fields say. On return of 0 it is durable. Until its sync is
// through, the former header is untouched, and the former entries are untouched all the time.
// -EOVERFLOW: the numbers are used up, which no honest queue lives to see; nothing was written.
int safe_segment_begin(struct safe_segment *segment, uint64_t pair);

// Bytes that an entry with a message of this size takes.
uint64_t safe_entry_span(uint64_t message_size);
// Writes an entry at `end` and moves `end`. Nothing is moved on failure.
int safe_segment_append(struct safe_segment *segment, const void *message, size_t size,
                        uint64_t first, uint64_t last, uint64_t epoch);

struct safe_found {
    uint64_t first, last, epoch;
    uint64_t next;               // offset of what follows
    size_t size;                 // of the message
    const struct batch *message; // malloc'ed: the caller's
};
// Only the entry's own header: enough to walk. NULL, or what is wrong with it; *ret_error is then
// -errno where it could not be read at all, else 0.
const char *safe_segment_peek(const struct safe_segment *segment, uint64_t offset,
                              struct safe_entry *ret_entry, int *ret_error);
// The entry with its message, everything checked.
const char *safe_segment_read(const struct safe_segment *segment, uint64_t offset,
                              struct safe_found *ret_found, int *ret_error);
// The same without a look at the payloads: what the records are of is known where their headers are whole, although what
// they carry may be damaged.
const char *safe_segment_headers(const struct safe_segment *segment, uint64_t offset,
                                 struct safe_found *ret_found, int *ret_error);
const char *safe_segment_payloads(const struct safe_found *found); // NULL, or what is wrong with what they carry
// Looks for something at or behind `offset` that was written as an entry of this use of the
// segment. Returns its offset, or 0.
uint64_t safe_segment_search(const struct safe_segment *segment, uint64_t offset, int *ret_error);

#endif
