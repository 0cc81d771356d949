// SPDX-License-Identifier: Apache-2.0
// A volume in memory whose requests complete when, and in the order in which, the test says. It
// checks what every store relies on: nothing that overlaps is under way together, ranges lie
// inside.
#ifndef TESTS_FAKE_BLOCK_H
#define TESTS_FAKE_BLOCK_H

#include <string.h>

#include "common/base/error.h"
#include "queues/block.h"

#define FAKE_REQUESTS_MAX 8192

struct fake_block {
    struct block block; // first
    uint8_t *data;
    struct block_request *under_way[FAKE_REQUESTS_MAX];
    unsigned count;  // of those
    unsigned kicked; // the first `kicked` of them were kicked
    unsigned syncs_submitted, syncs_done;
    unsigned last_good_sync; // number (from 1) of the newest sync that succeeded
    unsigned submitted;
    bool immediate; // complete from kick(), in order
};

static inline bool fake_overlap(const struct fake_block *f, const struct block_request *a,
                                const struct block_request *b)
{
    uint64_t mask = ~(uint64_t)(f->block.block_size - 1);
    uint64_t a_end = (a->offset + a->length - 1) | ~mask,
             b_end = (b->offset + b->length - 1) | ~mask;
    return (a->offset & mask) <= b_end && (b->offset & mask) <= a_end;
}

static inline void fake_submit(struct block *block, struct block_request *request)
{
    struct fake_block *f = (struct fake_block *)block;
    ENSURE(f->count < FAKE_REQUESTS_MAX);
    f->submitted++;
    if (request->op == BLOCK_FLUSH) {
        request->scratch[0] = ++f->syncs_submitted;
    } else {
        ENSURE(request->length > 0 && request->offset + request->length <= block->size);
        // A guest's reads are bound to no order; those of copies are, and have a writer's test
        // below.
        for (unsigned i = 0; i < f->count; i++) {
            const struct block_request *other = f->under_way[i];
            ENSURE(other->op == BLOCK_FLUSH || other->op == BLOCK_READ ||
                   request->op == BLOCK_READ || !fake_overlap(f, other, request));
        }
    }
    f->under_way[f->count++] = request;
}

static inline void fake_do(struct fake_block *f, struct block_request *request)
{
    switch (request->op) {
    case BLOCK_READ:
        memcpy(request->data, f->data + request->offset, request->length);
        request->zeros = (request->flags & BLOCK_TELL_ZEROS) && f->data[request->offset] == 0 &&
                         memcmp(f->data + request->offset, f->data + request->offset + 1, request->length - 1) == 0;
        if (request->zeros) // what was told need not be there
            memset(request->data, 0xee, request->length);
        break;
    case BLOCK_WRITE:
        memcpy(f->data + request->offset, request->data, request->length);
        break;
    case BLOCK_ZERO:
    case BLOCK_DISCARD:
        memset(f->data + request->offset, 0, request->length);
        break;
    case BLOCK_FLUSH:
        f->last_good_sync = (unsigned)request->scratch[0];
        break;
    }
}

// Completes the i-th request with this status. A failed write leaves garbage.
static inline void fake_complete(struct fake_block *f, unsigned i, int status)
{
    ENSURE(i < f->kicked);
    struct block_request *request = f->under_way[i];
    f->count--;
    f->kicked--;
    memmove(&f->under_way[i], &f->under_way[i + 1], (f->count - i) * sizeof(f->under_way[0]));
    if (request->op == BLOCK_FLUSH)
        f->syncs_done++;
    if (status == 0)
        fake_do(f, request);
    else if (request->op != BLOCK_READ && request->op != BLOCK_FLUSH)
        memset(f->data + request->offset, 0xee, request->length);
    request->done(request, status);
}

static inline void fake_kick(struct block *block)
{
    struct fake_block *f = (struct fake_block *)block;
    f->kicked = f->count;
    while (f->immediate && f->kicked > 0)
        fake_complete(f, 0, 0);
}

static inline void fake_init(struct fake_block *f, uint8_t *data, uint64_t size,
                             uint32_t block_size)
{
    static const struct block_ops ops = {fake_submit, fake_kick};
    *f = (struct fake_block){
        .block = {.ops = &ops, .size = size, .block_size = block_size, .data_align = 1},
        .data = data,
    };
}

#endif
