// SPDX-License-Identifier: Apache-2.0
// The unsafe queue: an active end's updates that are not yet durable on its peers. One file in
// shared memory, so that it outlives the daemon but not the boot; docs/unsafe-queue.md its
// bytes and what a crash may leave in them.
//
// An update passes through it like this:
//
//   unsafe_head()     room at the head of the ring; the intercept receives requests into it, headers inline
//   unsafe_keep()     declares a part of what was received (or will be, right behind) as a payload: a chunk
//   unsafe_commit()   gives the update a slot: from here on a restarted daemon finds it and writes it again
//   unsafe_number()   the local write has succeeded: the record enters the table, `numbered` moves, the slot is empty
//   unsafe_release()  a reader (one a peer) needs the records up to a seq no more; space is free when nobody does
//
// Chunks are handed out in the order of the ring and freed in that order. A request that is
// refused, or whose client vanished half-way through, gives its chunk back with unsafe_drop().
//
// Threads: everything belongs to the one producer thread, except the functions under "Readers",
// which the threads of the readers may call at any time.
#ifndef QUEUES_UNSAFE_H
#define QUEUES_UNSAFE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "queues/epoch.h"
#include "queues/record.h"

#define UNSAFE_READERS_MAX 4
#define UNSAFE_SLOTS       4096          // updates between their commit and their number
#define UNSAFE_RECEIVE_MAX (256U * 1024) // the most that may be received with one unsafe_head()
#define UNSAFE_RING_MIN    (64U * 1024)  // plus four times payload_max + UNSAFE_RECEIVE_MAX
#define UNSAFE_RING_MAX    (UINT64_C(1) << 40)
#define UNSAFE_RECORDS_MIN 256
#define UNSAFE_RESERVE     64 // records that only unsafe_append() may still add when the queue is full
#define UNSAFE_NO_CHUNK    UINT64_C(0)

struct unsafe;

struct unsafe_config {
    uint64_t pair;        // identity of the pair
    uint64_t boot;        // token of this boot of the machine
    uint64_t epoch;       // id of the epoch in which records are numbered at first
    uint64_t start;       // the last seq that was given before: the first record is start + 1
    uint64_t bound;       // no seq above it is given until unsafe_set_bound()
    uint64_t ring_bytes;  // payload memory; rounded up to pages
    uint32_t payload_max; // bytes of the largest payload; at most RECORD_PAYLOAD_MAX
    uint32_t records;     // entries of the record table: a power of two from UNSAFE_RECORDS_MIN on; 0: by ring_bytes
};

// Makes a new, empty queue at `path` (whatever is there is given up), or, with path NULL, in
// anonymous memory that only unsafe_fd() reaches.
int unsafe_create(const char *path, const struct unsafe_config *config, struct unsafe **ret_unsafe,
                  struct error *err);

// Opens what a predecessor left behind. Only `pair` and `boot` of the config matter. Nothing in the
// file is believed before it is bounded and checked. Returns
//   0         continue: readers are attached where they were; unsafe_pending() has the updates to
//   be written again -ENOENT   there is none -ESTALE   it is of another boot: gone -EUCLEAN  it is
//   damaged, of another pair or another version: void; the text says which rule it breaks others it
//   could not be read
int unsafe_open(const char *path, const struct unsafe_config *config, struct unsafe **ret_unsafe,
                struct error *err);
// The same on an open file description, which is duplicated.
int unsafe_open_fd(int fd, const struct unsafe_config *config, struct unsafe **ret_unsafe,
                   struct error *err);
struct unsafe *
unsafe_free(struct unsafe *unsafe); // the memory stays where it is; NULL-safe, returns NULL

int unsafe_fd(const struct unsafe *unsafe);
uint64_t unsafe_ring_bytes(const struct unsafe *unsafe);
uint32_t unsafe_payload_max(const struct unsafe *unsafe);

// ---- Receiving ----

// Room at the head of the ring: a pointer that is a multiple of `align` (a power of two up to 4096;
// 1 where it does not matter), and how many bytes lie there in one piece: at least
// UNSAFE_RECEIVE_MAX + payload_max, so that whatever arrives with one receive call of up to
// UNSAFE_RECEIVE_MAX bytes can stay, its last payload included, of which only a part may have come.
// NULL while the queue is full; the watcher's room() is called when it no longer is. What was
// received and not declared by skip/keep is forgotten at the next unsafe_head(), unsafe_append() or
// updates_kick().
uint8_t *unsafe_head(struct unsafe *unsafe, uint32_t align, size_t *ret_room);
// The next `bytes` at the head are no payload (a request's header).
void unsafe_skip(struct unsafe *unsafe, size_t bytes);
// The next `bytes` (1 to payload_max) at the head are one payload, received or still to be received
// there. It stays in its place until it is dropped, or numbered and released. Returns the chunk.
uint64_t unsafe_keep(struct unsafe *unsafe, size_t bytes);
uint8_t *unsafe_chunk_data(const struct unsafe *unsafe, uint64_t chunk);
uint32_t unsafe_chunk_size(const struct unsafe *unsafe, uint64_t chunk);
// Keeps only the first `bytes` of an uncommitted chunk as its payload. The room of the others is free again at once
// where nothing has been declared behind the chunk; what was received there and not declared is forgotten.
void unsafe_shrink(struct unsafe *unsafe, uint64_t chunk, uint32_t bytes);
// Gives an uncommitted chunk back. UNSAFE_NO_CHUNK is allowed.
void unsafe_drop(struct unsafe *unsafe, uint64_t chunk);

// ---- Committing and numbering ----

// What becomes a record. `mark` and `status` are for RECORD_MARK only.
struct unsafe_update {
    uint8_t type; // enum record_type
    uint8_t mark;
    uint8_t flags;
    uint16_t object;
    uint16_t status;
    uint32_t length;
    uint64_t offset;
};

// Commits a complete update (WRITE with its chunk; ZERO, DISCARD without). The queue owns the chunk
// from here on. It must not be changed any more. Returns 0, -EAGAIN (every slot is in use), -ENOSPC
// (the record table is full), -ERANGE (it would be numbered past the bound); after an error the
// chunk is still the caller's.
int unsafe_commit(struct unsafe *unsafe, const struct unsafe_update *update, uint64_t chunk,
                  unsigned *ret_slot);

// The update of this slot has ended on the local store with `status` (0 or -errno): gives it the
// next seq, as itself or as MARK_UNDEFINED of its range. `time_ns`: CLOCK_REALTIME. Returns the
// seq. Cannot fail: the commit reserved it.
uint64_t unsafe_number(struct unsafe *unsafe, unsigned slot, int status, int64_t time_ns);

// Adds a record that no slot stands for: an epoch opening, a mark. Copies `payload`. Returns 0,
// -ENOSPC, -ERANGE.
int unsafe_append(struct unsafe *unsafe, const struct unsafe_update *update, const void *payload,
                  uint32_t payload_bytes, int64_t time_ns, uint64_t *ret_seq);

// The same for a payload that lies in a chunk (or none), in two steps: unsafe_reserve() before the
// payload is made (0, -ENOSPC, -ERANGE), then unsafe_append_reserved(), which cannot fail, or
// unsafe_unreserve().
int unsafe_reserve(struct unsafe *unsafe);
void unsafe_unreserve(struct unsafe *unsafe);
uint64_t unsafe_append_reserved(struct unsafe *unsafe, const struct unsafe_update *update,
                                uint64_t chunk, int64_t time_ns);

// Records numbered from now on belong to this epoch.
void unsafe_set_epoch(struct unsafe *unsafe, uint64_t epoch);
uint64_t unsafe_epoch(const struct unsafe *unsafe);
// The encoded opening of the epoch that is set next (of EPOCH_ENCODED_SIZE; another size is not kept): for a successor
// whose state does not have that epoch yet.
void unsafe_keep_opening(struct unsafe *unsafe, const void *encoded, uint32_t size);
// That of unsafe_epoch(). False: it was not kept.
bool unsafe_opening(const struct unsafe *unsafe, struct epoch *ret_opening);
// Raises the bound (a lower one is ignored).
void unsafe_set_bound(struct unsafe *unsafe, uint64_t bound);
uint64_t unsafe_bound(const struct unsafe *unsafe);

// Updates that were committed and not numbered when the predecessor died. Start with *cursor 0;
// returns false when there are no more. Each must be written again and then numbered, like any
// other slot.
struct unsafe_pending {
    unsigned slot;
    struct unsafe_update update;
    void *data; // `update.length` bytes of a RECORD_WRITE, else NULL
};
bool unsafe_pending(const struct unsafe *unsafe, unsigned *cursor,
                    struct unsafe_pending *ret_pending);

// ---- Who reads ----

// A reader that has everything up to `seq` and holds what follows. Needs unsafe_holds(seq) and a
// free reader.
void unsafe_attach(struct unsafe *unsafe, unsigned reader, uint64_t seq);
// The reader holds nothing any more. Nobody may be reading for it any longer (its sender is
// stopped).
void unsafe_detach(struct unsafe *unsafe, unsigned reader);
bool unsafe_attached(const struct unsafe *unsafe, unsigned reader);
// Nothing that is numbered from now on is held for this reader any more; what is held for it up to
// here still is, until it releases it. Its memory becomes free only as it is released, or spilled.
void unsafe_end(struct unsafe *unsafe, unsigned reader);
bool unsafe_ended(const struct unsafe *unsafe, unsigned reader);
// Whether everything that follows `seq` is still here, so that a reader can be attached there.
bool unsafe_holds(struct unsafe *unsafe, uint64_t seq);

// ---- Room, levels, figures ----

enum unsafe_level {
    UNSAFE_LOW,
    UNSAFE_HALF,           // 50 % of the memory or of the record table are in use
    UNSAFE_THREE_QUARTERS, // 75 %
    UNSAFE_FULL, // no room, and a reader holds the oldest of it: neither the store nor the disk
                 // rung (spill.h) will help
};

struct unsafe_watch {
    void (*level)(void *user, enum unsafe_level level); // it has changed, in either direction
    void (*room)(void *user); // unsafe_head() was refused, and would succeed now
    void *user;
};
// Called back from unsafe_reclaim() only. NULL: nobody.
void unsafe_watch(struct unsafe *unsafe, const struct unsafe_watch *watch);
// Takes back what the readers have released since, and tells the watcher. Cheap; called once a turn
// of the loop.
void unsafe_reclaim(struct unsafe *unsafe);

struct unsafe_stat {
    uint64_t records;     // numbered and not released
    uint64_t bytes;       // in use, in flight included: in memory and on disk
    uint64_t limit_bytes; // of both
    uint64_t memory_bytes, memory_limit_bytes;
    uint64_t spilled_records, spilled_bytes, spill_limit_bytes; // on disk
    int64_t oldest_ns; // CLOCK_REALTIME of the oldest of them; 0 where there is none
    unsigned slots;    // updates in flight
    enum unsafe_level level;       // of the memory
    enum unsafe_level spill_level; // of the disk's quota
    bool spill_failed;             // the disk takes nothing for now
};
void unsafe_stat(struct unsafe *unsafe, struct unsafe_stat *ret_stat);

// ---- Readers: any thread ----

uint64_t
unsafe_numbered(const struct unsafe *unsafe); // the last seq given; records up to it are complete
uint64_t unsafe_released(const struct unsafe *unsafe, unsigned reader);
// The last seq that there is for this reader: `numbered`, or where unsafe_end() was called.
uint64_t unsafe_last(const struct unsafe *unsafe, unsigned reader);
// Monotonic: a lower seq is ignored. Never past unsafe_last().
void unsafe_release(struct unsafe *unsafe, unsigned reader, uint64_t seq);
uint64_t unsafe_spilled(const struct unsafe *unsafe); // what is held up to it lies on disk
// Whether what unsafe_table_run() was asked for last has to be read back first: the producer has to
// see to it.
bool unsafe_missing(const struct unsafe *unsafe);
// For released < seq <= last of an attached reader. Where records may be spilled (spill.h), valid
// until the readers let go of the queue, and only where unsafe_table_run() was not 0; otherwise until
// the reader releases it.
const struct record *unsafe_record(const struct unsafe *unsafe, uint64_t seq);
const void *unsafe_payload(const struct unsafe *unsafe, uint64_t seq);
// How many headers from `seq` on lie in one piece. 0: they are on disk, and being read back.
uint32_t unsafe_table_run(const struct unsafe *unsafe, uint64_t seq);

#endif
