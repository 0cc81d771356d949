// SPDX-License-Identifier: Apache-2.0
#include "fake_volume.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"
#include "passive_help.h"

#define ACTIVE_MAX 1024
#define SECTOR     512U

// Bytes that were changed since the last flush, by whom and to what.
struct change {
    struct change *next;
    uint64_t number, offset, length;
    uint8_t *data; // the new content
};

struct fake_volume {
    struct block block;
    uint64_t seed, changes_made;
    uint8_t *now, *durable;
    struct block_request *active[ACTIVE_MAX];
    unsigned active_count, kicked, most, flushes;
    struct change *changes, **changes_end;
    unsigned fail_kinds;
    int fail_error;
    unsigned no_holes;
};

static bool shares_block(const struct fake_volume *f, const struct block_request *a,
                         const struct block_request *b)
{
    uint64_t mask = f->block.block_size - 1;
    if (a->op == BLOCK_FLUSH || b->op == BLOCK_FLUSH)
        return false;
    return (a->offset & ~mask) < ((b->offset + b->length + mask) & ~mask) &&
           (b->offset & ~mask) < ((a->offset + a->length + mask) & ~mask);
}

static void fake_submit(struct block *block, struct block_request *q)
{
    struct fake_volume *f = (struct fake_volume *)block;

    ENSURE(f->active_count < ACTIVE_MAX);
    if (q->op != BLOCK_FLUSH)
        ENSURE(q->length > 0 && q->offset + q->length <= block->size);
    if (q->op == BLOCK_READ || q->op == BLOCK_WRITE)
        ENSURE((uintptr_t)q->data % block->data_align == 0);
    for (unsigned i = 0; i < f->active_count; i++)
        ENSURE(!shares_block(f, f->active[i], q));
    q->scratch[0] = f->changes_made;
    f->active[f->active_count++] = q;
    f->most = MAX(f->most, f->active_count);
}

static void fake_kick(struct block *block)
{
    struct fake_volume *f = (struct fake_volume *)block;
    f->kicked = f->active_count;
}

struct fake_volume *fake_volume_new(uint64_t size, uint32_t block_size, uint32_t data_align,
                                    uint64_t seed)
{
    static const struct block_ops ops = {fake_submit, fake_kick};
    struct fake_volume *f = calloc(1, sizeof(*f));

    ENSURE(f);
    f->block = (struct block){&ops, size, block_size, data_align, true};
    f->seed = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    f->now = calloc(1, size);
    f->durable = calloc(1, size);
    ENSURE(f->now && f->durable);
    f->changes_end = &f->changes;
    return f;
}

static void forget_changes(struct fake_volume *f, uint64_t upto)
{
    while (f->changes && f->changes->number <= upto) {
        struct change *c = f->changes;
        f->changes = c->next;
        free(c->data);
        free(c);
    }
    if (!f->changes)
        f->changes_end = &f->changes;
}

struct fake_volume *fake_volume_free(struct fake_volume *f)
{
    if (!f)
        return NULL;
    forget_changes(f, UINT64_MAX);
    free(f->now);
    free(f->durable);
    free(f);
    return NULL;
}

struct block *fake_volume_of(struct fake_volume *f)
{
    return &f->block;
}

static void change(struct fake_volume *f, const struct block_request *q)
{
    struct change *c = calloc(1, sizeof(*c));

    ENSURE(c);
    f->no_holes += q->op == BLOCK_ZERO && (q->flags & BLOCK_NO_HOLE);
    *c = (struct change){.number = ++f->changes_made, .offset = q->offset, .length = q->length};
    c->data = calloc(1, q->length);
    ENSURE(c->data);
    if (q->op == BLOCK_WRITE)
        memcpy(c->data, q->data, q->length);
    memcpy(f->now + c->offset, c->data, c->length);
    *f->changes_end = c;
    f->changes_end = &c->next;
}

static void flush(struct fake_volume *f, uint64_t upto)
{
    for (struct change *c = f->changes; c && c->number <= upto; c = c->next)
        memcpy(f->durable + c->offset, c->data, c->length);
    forget_changes(f, upto);
    f->flushes++;
}

// Zeros are told where that is allowed, and something else is left in the memory for them.
static void read_range(const struct fake_volume *f, struct block_request *q)
{
    const uint8_t *from = f->now + q->offset;
    memcpy(q->data, from, q->length);
    q->zeros = (q->flags & BLOCK_TELL_ZEROS) && from[0] == 0 && memcmp(from, from + 1, q->length - 1) == 0;
    if (q->zeros)
        memset(q->data, 0xee, q->length);
}

static void perform(struct fake_volume *f, struct block_request *q)
{
    if (q->op == BLOCK_READ)
        read_range(f, q);
    else if (q->op == BLOCK_FLUSH)
        flush(f, q->scratch[0]);
    else
        change(f, q);
}

bool fake_volume_complete(struct fake_volume *f)
{
    if (f->kicked == 0)
        return false;
    unsigned i = (unsigned)help_random(&f->seed, f->kicked);
    struct block_request *q = f->active[i];
    memmove(&f->active[i], &f->active[i + 1], (f->active_count - i - 1) * sizeof(f->active[0]));
    f->active_count--;
    f->kicked--;
    int status = f->fail_kinds >> q->op & 1 ? f->fail_error : 0;
    if (status == 0)
        perform(f, q);
    q->done(q, status);
    return true;
}

unsigned fake_volume_active(const struct fake_volume *f)
{
    return f->active_count;
}

void fake_volume_fail(struct fake_volume *f, unsigned kinds, int error)
{
    f->fail_kinds = kinds;
    f->fail_error = error;
}

void fake_volume_kill(struct fake_volume *f)
{
    for (unsigned i = 0; i < f->active_count; i++) {
        const struct block_request *q = f->active[i];
        if (q->op != BLOCK_READ && q->op != BLOCK_FLUSH && help_random(&f->seed, 2))
            change(f, q);
    }
    f->active_count = f->kicked = 0;
}

void fake_volume_crash(struct fake_volume *f)
{
    fake_volume_kill(f);
    for (const struct change *c = f->changes; c; c = c->next)
        for (uint64_t at = 0; at < c->length;) {
            uint64_t step = MIN(SECTOR - (c->offset + at) % SECTOR, c->length - at);
            if (help_random(&f->seed, 2))
                memcpy(f->durable + c->offset + at, c->data + at, step);
            at += step;
        }
    forget_changes(f, UINT64_MAX);
    memcpy(f->now, f->durable, f->block.size);
}

uint8_t *fake_volume_bytes(struct fake_volume *f)
{
    return f->now;
}

unsigned fake_volume_flushes(const struct fake_volume *f)
{
    return f->flushes;
}

unsigned fake_volume_no_holes(const struct fake_volume *f)
{
    return f->no_holes;
}

unsigned fake_volume_most(const struct fake_volume *f)
{
    return f->most;
}
