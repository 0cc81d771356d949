// SPDX-License-Identifier: Apache-2.0
// The bytes of an unsafe queue and their mapping: what unsafe.c works on. For unsafe.c and its
// tests only.
//
// The file, every part from a page of its own:
//
//   super    what the queue is; written once, checksummed
//   state    positions, each in a cache line of its own
//   slots    UNSAFE_SLOTS updates in flight
//   places   where in the ring the payload of each record of the table lies (position, not offset)
//   records  the record table; the header of seq s is entry s % records
//   ring     payloads. A position p lies at offset p % ring_bytes; positions only rise. Mapped twice in a row, so that a
//            payload that runs over the end is still one piece of memory
//
// Numbers are in the byte order of the machine, which they never leave; record headers are those of
// the wire.
//
// A crash (the memory survives, the process stops at any instruction) leaves, in the order of the
// stores:
//   commit   fields, then state = COMMITTED: before that the slot is empty, after it complete
//   number   record and place of numbered + 1, then the slot's seq, then the complement of numbered + 1, then numbered,
//            then state = EMPTY. What the complement says counts: it is numbered or, with the record in place, one more.
//            A committed slot's seq is that of the last record, and then it is numbered, or the next one, or 0
//   bound    bound, then its complement: the lower one counts. epoch likewise: that of the last record counts
//   opening  its bytes and their checksum, then epoch: before that it is that of another epoch, and counts for nothing
//   attach   end and released, then attached
//   spill    the records on disk, then spilled: before that what is on disk does not count
#ifndef QUEUES_UNSAFE_FILE_H
#define QUEUES_UNSAFE_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "queues/epoch.h"
#include "queues/unsafe.h"

#define UNSAFE_MAGIC   UINT64_C(0x3151534641534e55) // "UNSAFSQ1"
#define UNSAFE_VERSION 4
#define UNSAFE_LINE    64

struct unsafe_super {
    uint64_t magic;
    uint32_t version;
    uint32_t payload_max;
    uint64_t pair;
    uint64_t boot;
    uint64_t ring_bytes; // a multiple of the page size
    uint64_t start;      // the last seq given before this queue
    uint64_t epoch;      // id of the epoch that it was made in
    uint32_t records;    // entries of the record table: a power of two
    uint32_t slots;      // UNSAFE_SLOTS
    uint64_t sum;        // checksum64 of all before
};

enum unsafe_reader_state { READER_DETACHED = 0, READER_ATTACHED = 0x44414552 };

struct unsafe_reader {
    _Alignas(UNSAFE_LINE) _Atomic uint32_t attached; // enum unsafe_reader_state; set by the producer
    // Not protected: all that it says is which records are still held. What the peer has is asked of the peer.
    _Atomic uint64_t released;
    // What follows it is not held for this reader; 0: everything is. Likewise: a wrong one leads to a resync.
    _Atomic uint64_t end;
};

// Each `..._not` is the complement of what stands before it, so that no damage of one of them goes unnoticed.
struct unsafe_state {
    _Alignas(UNSAFE_LINE) _Atomic uint64_t numbered; // records up to it are complete
    _Atomic uint64_t numbered_not;
    _Alignas(UNSAFE_LINE) uint64_t bound;
    uint64_t bound_not;
    uint64_t epoch;
    uint64_t epoch_not;
    // What is held up to it lies on disk (spill.h), which knows what it has.
    _Alignas(UNSAFE_LINE) _Atomic uint64_t spilled;
    struct unsafe_reader readers[UNSAFE_READERS_MAX];
    // The opening of the epoch that it numbers in, encoded. Its record may be gone while the end's state does not have it yet.
    _Alignas(UNSAFE_LINE) uint8_t opening[EPOCH_ENCODED_SIZE];
    uint64_t opening_sum;
};

// Neither is zero: slots that were wiped are noticed.
enum unsafe_slot_state { SLOT_EMPTY = 0x54504d45, SLOT_COMMITTED = 0x434f4d4d };

struct unsafe_slot {
    _Atomic uint32_t state;
    uint32_t payload; // bytes
    uint64_t seq; // the one it is being numbered as; 0 before. Neither this nor `state` is in `sum`
    uint64_t position; // of the payload in the ring
    uint64_t offset;
    uint32_t length;
    uint16_t object;
    uint8_t type;
    uint8_t flags;
    uint64_t payload_sum; // checksum64 of the payload; 0 without one
    uint64_t reserved;
    uint64_t sum; // of everything but state, seq and itself
};
_Static_assert(sizeof(struct unsafe_slot) == UNSAFE_LINE, "a slot is a cache line");

struct unsafe_file {
    int fd;
    bool looking;  // mapped so that no store reaches the file
    uint8_t *base; // super to records
    size_t base_bytes;
    uint8_t *ring; // 2 * ring_bytes of addresses
    uint64_t ring_bytes;
    uint64_t ring_at; // offset of the ring in the file
    uint64_t backed;  // bytes of the ring, from its start, that have memory behind them
    uint32_t records;
    uint32_t payload_max;
    struct unsafe_super *super;
    struct unsafe_state *state;
    struct unsafe_slot *slot;
    uint64_t *place;
    struct record *record;
};

int unsafe_file_create(const char *path, const struct unsafe_config *config,
                       struct unsafe_file *ret_file, struct error *err);
// Takes over `fd`, also on failure. Checks super and sizes; the codes are those of unsafe_open().
int unsafe_file_map(int fd, const struct unsafe_config *config, struct unsafe_file *ret_file,
                    struct error *err);
// The same, whatever boot it is of, from a file that may be opened for reading only: what is stored stays in memory.
int unsafe_file_look(int fd, uint64_t pair, struct unsafe_file *ret_file, struct error *err);
void unsafe_file_unmap(struct unsafe_file *file);

// Makes sure that the first `bytes` of the ring have memory behind them, so that a full tmpfs is an
// error here and no SIGBUS later. 0 or -errno.
int unsafe_file_back(struct unsafe_file *file, uint64_t bytes);

// Tells the spilled segments of this queue from those of any other queue, boot or pair; never 0.
uint64_t unsafe_file_salt(const struct unsafe_super *super);

uint64_t unsafe_slot_sum(const struct unsafe_slot *slot);

// Checks positions, records and slots of a file that a predecessor left: -EUCLEAN and the first
// rule that it breaks. Afterwards readers, records above the lowest released seq with their
// payloads, and slots can be believed. Slots that turn out to be numbered are emptied; `seq` of the
// others is 0.
int unsafe_file_check(struct unsafe_file *file, struct error *err);

// The opening of the epoch that a checked file goes on in. False: it is not known, or damaged.
bool unsafe_file_opening(const struct unsafe_file *file, struct epoch *ret_opening);

// The seq up to which nobody needs records any more.
uint64_t unsafe_file_floor(const struct unsafe_file *file);
// The seq up to which nobody needs them in memory. Never below the floor.
uint64_t unsafe_file_base(const struct unsafe_file *file);

#endif
