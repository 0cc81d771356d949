// SPDX-License-Identifier: Apache-2.0
// A queue's disk in memory that can lose what was not synced: for tests and the simulator.
//
// At a crash each write since the last sync of its file is there in full, in part (512-byte
// sectors, each old or new), or not at all, whatever became of earlier and later ones; names since
// the last dir_sync likewise. Deterministic: all choices come from the seed.
#ifndef TESTS_FAKE_DISK_H
#define TESTS_FAKE_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "queues/disk.h"

struct fake_disk;

struct fake_disk *fake_disk_new(uint64_t capacity, uint64_t seed);
struct fake_disk *fake_disk_free(struct fake_disk *fake);
struct disk *fake_disk_of(struct fake_disk *fake);

// The machine stops: nothing that is under way completes; unsynced writes are kept or lost as the
// seed wants. All files are closed; what was opened before must not be used any more (but may be
// closed).
void fake_disk_crash(struct fake_disk *fake);
// Like a killed process: files are closed, syncs under way never report, writes stay.
void fake_disk_kill(struct fake_disk *fake);

// Completes the sync that was started first; false when none is under way.
bool fake_disk_complete(struct fake_disk *fake);
unsigned fake_disk_syncing(const struct fake_disk *fake);

// The operation number `after` from now (1: the next) and, with `forever`, every later one fails
// with -errno `error`. Operations are create, remove, dir_sync, write, sync and the completion of a
// started sync.
void fake_disk_fail(struct fake_disk *fake, unsigned after, int error, bool forever);
void fake_disk_fail_reads(struct fake_disk *fake, int error); // 0: no more
uint64_t fake_disk_operations(const struct fake_disk *fake);

// Bytes as they are now: to damage and to compare. NULL when there is no such slot.
uint8_t *fake_disk_bytes(struct fake_disk *fake, uint32_t slot, uint64_t *ret_size);
// A byte changes under everybody: what is read now, and what a crash leaves.
void fake_disk_rot(struct fake_disk *fake, uint32_t slot, uint64_t offset, uint8_t bits);
// From now on new files find no room beyond what `capacity` allows; UINT64_MAX: as it was made.
void fake_disk_limit(struct fake_disk *fake, uint64_t capacity);
uint32_t fake_disk_slots(const struct fake_disk *fake); // above every slot in use
void fake_disk_remove(struct fake_disk *fake, uint32_t slot);
void fake_disk_cut(struct fake_disk *fake, uint32_t slot, uint64_t size); // the file ends there
// An exact copy of another disk's content (all of it durable), nothing open.
struct fake_disk *fake_disk_copy(const struct fake_disk *fake, uint64_t seed);
// Likewise, of what it would hold if the power were lost now, and nothing that was not synced had lasted.
struct fake_disk *fake_disk_worst(const struct fake_disk *fake, uint64_t seed);

#endif
