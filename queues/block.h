// SPDX-License-Identifier: Apache-2.0
// What the queues need of a volume's storage: asynchronous requests on a linear range of bytes. Implemented by
// common/store for files, devices and LUNs, and by the simulator.
//
// One block handle belongs to one thread: it submits, kicks, and gets the completions. Requests that are under way
// together complete in any order; the caller never has overlapping ones under way together.
#ifndef QUEUES_BLOCK_H
#define QUEUES_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_ZERO,    // the range reads as zeros afterwards; with BLOCK_NO_HOLE it stays allocated
    BLOCK_DISCARD, // the range reads as zeros afterwards and is deallocated where the store can
    BLOCK_FLUSH,   // everything completed before the submission is durable; offset and length are ignored
};

#define BLOCK_NO_HOLE    0x1
#define BLOCK_TELL_ZEROS 0x2 // READ: where the range is known to be zeros, `zeros` may say so instead of `data`

struct block_request {
    enum block_op op;
    unsigned flags;
    uint64_t offset; // bytes
    uint64_t length; // bytes; the caller has checked that the range lies inside the volume
    void *data;      // READ, WRITE: `length` bytes in one piece; stays valid and, for WRITE, unchanged until done
    bool zeros;      // READ with BLOCK_TELL_ZEROS, when done: the range reads as zeros, `data` holds anything
    // Called once, from ops->kick() or from the store's own work function on the owning thread; never from within
    // submit(). status: 0 or -errno. The request may be freed or submitted anew from here.
    void (*done)(struct block_request *request, int status);
    void *owner;                // the caller's
    struct block_request *next; // the implementation's while the request is under way
    uint64_t scratch[2];        // likewise
};

struct block;

struct block_ops {
    // Takes the request; may hold it back until kick().
    void (*submit)(struct block *block, struct block_request *request);
    // Starts everything that was submitted, with as few system calls as possible.
    void (*kick)(struct block *block);
};

struct block {
    const struct block_ops *ops;
    uint64_t size;       // bytes
    uint32_t block_size; // ranges that share a block of this size count as overlapping; a power of two, 1 to 65536
    uint32_t data_align; // READ and WRITE want `data`, offset and length to be multiples of this (1 where it does
                         // not matter: the implementation bounces or the kernel copes)
    bool zero_is_fast;   // ZERO and DISCARD do not write the range out
};

static inline void block_submit(struct block *block, struct block_request *request)
{
    request->zeros = false;
    block->ops->submit(block, request);
}

static inline void block_kick(struct block *block)
{
    block->ops->kick(block);
}

#endif
