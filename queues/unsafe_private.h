// SPDX-License-Identifier: Apache-2.0
// What only the producer of an unsafe queue knows. For unsafe.c (records), unsafe_ring.c (space)
// and unsafe_open.c.
#ifndef QUEUES_UNSAFE_PRIVATE_H
#define QUEUES_UNSAFE_PRIVATE_H

#include "queues/unsafe_file.h"

// A request in front of a payload takes at least this, which bounds the chunks of one receive.
#define HEADER_BYTES_MIN 16
#define CHUNKS_A_RECEIVE (UNSAFE_RECEIVE_MAX / HEADER_BYTES_MIN)
#define PART_MAX         4096U // alignment that unsafe_head() gives

enum chunk_state { CHUNK_HELD, CHUNK_COMMITTED, CHUNK_NUMBERED, CHUNK_FREE };

struct chunk {
    uint64_t position;
    uint64_t seq;     // CHUNK_NUMBERED
    uint32_t size;    // bytes of ring
    uint32_t payload; // bytes of it that count
    enum chunk_state state;
};

struct unsafe {
    struct unsafe_file file;
    uint64_t head, tail; // positions
    uint64_t undeclared; // room that unsafe_head() gave and nobody has declared
    uint64_t floor;      // records up to it are needed by nobody
    uint64_t base;       // nor, up to it, by anybody in memory: what lies below is on disk
    struct spill *spill; // the disk rung, if there is one
    uint64_t promised;   // records for those in flight

    struct chunk *chunks; // FIFO: chunk id is at id % chunks_size
    uint64_t chunks_size;
    uint64_t chunk_first, chunk_next; // ids; from 1

    uint16_t free_slots[UNSAFE_SLOTS];
    unsigned free_count;
    uint64_t slot_chunk[UNSAFE_SLOTS];

    struct unsafe_watch watch;
    enum unsafe_level level;
    bool refused_room;   // unsafe_head() said no
    bool refused_record; // the table was full
    bool tell_room;      // there is room again where it was refused
};

static inline struct chunk *chunk_at(const struct unsafe *u, uint64_t id)
{
    ENSURE(id >= u->chunk_first && id < u->chunk_next);
    return &u->chunks[id & (u->chunks_size - 1)];
}

static inline uint64_t numbered_now(const struct unsafe *u)
{
    return atomic_load_explicit(&u->file.state->numbered, memory_order_relaxed);
}

// Takes back what the readers have released, and what was spilled: floor, base and tail move.
void unsafe_take_back(struct unsafe *unsafe);
// What the spill looks at: the base, after taking back; what is in use, in hundredths of the ring or
// of the table; whether somebody was refused and waits.
uint64_t unsafe_base(struct unsafe *unsafe);
unsigned unsafe_percent(const struct unsafe *unsafe);
bool unsafe_refused(const struct unsafe *unsafe);
// The chunk [head, head + bytes), or UNSAFE_NO_CHUNK where there is no memory behind it.
uint64_t unsafe_new_chunk(struct unsafe *unsafe, uint32_t bytes);
// Whether `more` records can be promised with `reserve` of them left over: 0, -ERANGE, -ENOSPC.
int unsafe_can_promise(struct unsafe *unsafe, uint64_t more, uint64_t reserve);

#endif
