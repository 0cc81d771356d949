// SPDX-License-Identifier: Apache-2.0
#include "common/end/resync.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

enum range_state {
    RANGE_FREE,
    RANGE_ASKING,  // the check was started and has no seq yet
    RANGE_ASKED,   // it has its seq; the answer is out
    RANGE_DOUBTED, // answered coarsely, and not equal: to be checked by block
    RANGE_SENDING, // answered: `bitmap` says what is still to be sent
};

struct range {
    enum range_state state;
    uint64_t offset;
    uint32_t length;
    bool coarse; // the check is, or was
    uint64_t seq;
    int64_t asked_ns;
    uint32_t next_block; // everything before it was sent, or need not be
    uint32_t chunks;     // under way
    uint8_t bitmap[RESYNC_RANGE / CHECK_BLOCK_SIZE / 8];
};

enum volume_stage { VOLUME_IDLE, VOLUME_TO_BEGIN, VOLUME_RUNNING, VOLUME_TO_END };

#define LEFT_NS INT64_C(200000000) // between two looks at how much is left

// A coarse check is for nothing where something differs. Each takes one of the credit, and each range that is equal as a
// whole gives two: where most differs, as in a first mirror, hardly any is made.
#define CREDIT_BEGIN 4
#define CREDIT_EQUAL 2
#define CREDIT_MAX   RESYNC_WINDOW

struct resync {
    struct resync_map map;
    unsigned volumes;
    uint64_t sizes[RECORD_OBJECTS_MAX];
    uint64_t objects; // mask of those not finished
    unsigned object;  // the one in work
    enum volume_stage stage;
    uint64_t cursor; // next offset to be checked
    unsigned credit; // coarse checks that may be made
    struct range ranges[RESYNC_WINDOW];
    uint64_t applied;
    int64_t left_ns;
    struct resync_progress progress;
};

// Without a map: everything.
static bool whole_next(void *user, uint16_t object, uint64_t from, uint64_t length_max,
                       uint64_t *ret_offset, uint64_t *ret_length)
{
    const struct resync *r = user;
    if (from >= r->sizes[object])
        return false;
    *ret_offset = from;
    *ret_length = MIN(length_max, r->sizes[object] - from);
    return true;
}

static uint64_t whole_bytes(void *user, uint16_t object, uint64_t from)
{
    const struct resync *r = user;
    return r->sizes[object] - MIN(from, r->sizes[object]);
}

struct resync *resync_new(const uint64_t *sizes, unsigned volumes, const struct resync_map *map)
{
    ENSURE(volumes <= RECORD_OBJECTS_MAX);
    struct resync *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->map = map ? *map : (struct resync_map){whole_next, whole_bytes, r};
    r->volumes = volumes;
    memcpy(r->sizes, sizes, volumes * sizeof(*sizes));
    return r;
}

struct resync *resync_free(struct resync *r)
{
    free(r);
    return NULL;
}

static void next_volume(struct resync *r)
{
    r->stage = VOLUME_IDLE;
    memset(r->ranges, 0, sizeof(r->ranges));
    if (!r->objects)
        return;
    r->object = (unsigned)__builtin_ctzll(r->objects);
    r->cursor = 0;
    r->stage = VOLUME_TO_BEGIN;
}

// What is written meanwhile may add to it.
static void look_at_left(struct resync *r, int64_t now)
{
    uint64_t left = 0;
    r->left_ns = now + LEFT_NS;
    for (uint16_t i = 0; i < r->volumes; i++) {
        bool waits = (r->objects >> i & 1) && (i != r->object || r->stage == VOLUME_TO_BEGIN);
        if (waits)
            left += r->map.bytes(r->map.user, i, 0);
    }
    if (r->stage == VOLUME_RUNNING)
        left += r->map.bytes(r->map.user, (uint16_t)r->object, r->cursor);
    for (unsigned i = 0; i < RESYNC_WINDOW; i++) {
        if (r->ranges[i].state != RANGE_FREE)
            left += r->ranges[i].length;
    }
    r->progress.total = r->progress.done + left;
}

void resync_start(struct resync *r, uint64_t objects, int64_t now)
{
    memset(&r->progress, 0, sizeof(r->progress));
    r->progress.began_ns = now;
    r->objects = objects;
    r->applied = 0;
    r->credit = CREDIT_BEGIN;
    next_volume(r);
    look_at_left(r, now);
}

bool resync_running(const struct resync *r)
{
    return r->stage != VOLUME_IDLE;
}

static bool block_differs(const struct range *range, uint32_t block)
{
    return range->bitmap[block / 8] >> (block % 8) & 1;
}

static uint32_t range_blocks(const struct range *range)
{
    return (range->length + CHECK_BLOCK_SIZE - 1) / CHECK_BLOCK_SIZE;
}

// Moves `next_block` to the next run of blocks that differ; false when there is none. *ret_end is
// behind the run.
static bool next_run(struct range *range, uint32_t *ret_end)
{
    uint32_t blocks = range_blocks(range);
    while (range->next_block < blocks && !block_differs(range, range->next_block))
        range->next_block++;
    if (range->next_block == blocks)
        return false;
    uint32_t end = range->next_block + 1;
    while (end < blocks && block_differs(range, end) &&
           (end - range->next_block) < RESYNC_CHUNK_MAX / CHECK_BLOCK_SIZE)
        end++;
    *ret_end = end;
    return true;
}

static void finish_if_through(struct resync *r, struct range *range)
{
    uint32_t end;
    if (range->state != RANGE_SENDING || range->chunks > 0 || next_run(range, &end))
        return;
    r->progress.done += range->length;
    range->state = RANGE_FREE;
}

static bool all_free(const struct resync *r)
{
    for (unsigned i = 0; i < RESYNC_WINDOW; i++) {
        if (r->ranges[i].state != RANGE_FREE)
            return false;
    }
    return true;
}

static struct resync_step step_of(const struct resync *r, enum resync_step_kind kind,
                                  uint64_t offset, uint32_t length)
{
    return (struct resync_step){kind, (uint16_t)r->object, offset, length, false};
}

static bool next_chunk(struct resync *r, struct resync_step *ret_step)
{
    for (unsigned i = 0; i < RESYNC_WINDOW; i++) {
        struct range *range = &r->ranges[i];
        uint32_t end;
        if (range->state != RANGE_SENDING || !next_run(range, &end))
            continue;
        uint64_t from = (uint64_t)range->next_block * CHECK_BLOCK_SIZE;
        uint64_t until = MIN((uint64_t)end * CHECK_BLOCK_SIZE, range->length);
        *ret_step = step_of(r, RESYNC_CHUNK, range->offset + from, (uint32_t)(until - from));
        return true;
    }
    return false;
}

// Not answered well enough, or the answer was lost on its way.
static bool to_be_asked_again(const struct resync *r, const struct range *range, int64_t now)
{
    return range->state == RANGE_DOUBTED || (range->state == RANGE_ASKED && r->applied >= range->seq &&
                                             now - range->asked_ns >= RESYNC_ANSWER_NS);
}

static bool next_check(struct resync *r, int64_t now, struct resync_step *ret_step)
{
    uint64_t size = r->sizes[r->object], offset, length, ahead = 0;
    bool room = false;
    for (unsigned i = 0; i < RESYNC_WINDOW; i++) {
        struct range *range = &r->ranges[i];
        room |= range->state == RANGE_FREE;
        ahead += range->state == RANGE_FREE ? 0 : range->length;
        if (to_be_asked_again(r, range, now)) {
            *ret_step = step_of(r, RESYNC_CHECK, range->offset, range->length);
            ret_step->coarse = range->state == RANGE_ASKED && range->coarse;
            return true;
        }
    }
    if (!room || ahead >= RESYNC_AHEAD || r->cursor >= size)
        return false;
    if (!r->map.next(r->map.user, (uint16_t)r->object, r->cursor, RESYNC_RANGE, &offset, &length)) {
        r->cursor = size;
        return false;
    }
    *ret_step = step_of(r, RESYNC_CHECK, offset, (uint32_t)length);
    ret_step->coarse = r->credit > 0 && length >= RESYNC_COARSE_LEAST;
    return true;
}

bool resync_next(struct resync *r, int64_t now, struct resync_step *ret_step)
{
    if (r->stage != VOLUME_IDLE && now >= r->left_ns)
        look_at_left(r, now);
    switch (r->stage) {
    case VOLUME_IDLE:
        return false;
    case VOLUME_TO_BEGIN:
        *ret_step = step_of(r, RESYNC_BEGIN, 0, 0);
        return true;
    case VOLUME_RUNNING:
        if (next_chunk(r, ret_step) || next_check(r, now, ret_step))
            return true;
        if (r->cursor < r->sizes[r->object] || !all_free(r))
            return false;
        r->stage = VOLUME_TO_END;
        __attribute__((fallthrough));
    case VOLUME_TO_END:
        *ret_step = step_of(r, RESYNC_END, 0, 0);
        return true;
    }
    return false;
}

static struct range *range_at(struct resync *r, uint64_t offset)
{
    for (unsigned i = 0; i < RESYNC_WINDOW; i++) {
        struct range *range = &r->ranges[i];
        if (range->state != RANGE_FREE && offset >= range->offset &&
            offset < range->offset + range->length)
            return range;
    }
    return NULL;
}

static void began_check(struct resync *r, const struct resync_step *step, int64_t now)
{
    struct range *range = range_at(r, step->offset);
    for (unsigned i = 0; !range && i < RESYNC_WINDOW; i++) {
        if (r->ranges[i].state == RANGE_FREE) {
            range = &r->ranges[i];
            r->cursor = step->offset + step->length;
            r->credit -= step->coarse;
        }
    }
    ENSURE(range);
    memset(range, 0, sizeof(*range));
    range->state = RANGE_ASKING;
    range->offset = step->offset;
    range->length = step->length;
    range->coarse = step->coarse;
    range->asked_ns = now;
}

void resync_began(struct resync *r, const struct resync_step *step, int64_t now)
{
    switch (step->kind) {
    case RESYNC_BEGIN:
        r->stage = VOLUME_RUNNING;
        break;
    case RESYNC_CHECK:
        began_check(r, step, now);
        break;
    case RESYNC_CHUNK: {
        struct range *range = range_at(r, step->offset);
        ENSURE(range && range->state == RANGE_SENDING);
        range->next_block =
            (uint32_t)((step->offset - range->offset + step->length + CHECK_BLOCK_SIZE - 1) /
                       CHECK_BLOCK_SIZE);
        range->chunks++;
        break;
    }
    case RESYNC_END:
        r->objects &= ~(UINT64_C(1) << r->object);
        next_volume(r);
        break;
    }
}

void resync_copied(struct resync *r, uint16_t object, uint64_t offset, uint32_t length,
                   uint64_t seq)
{
    if (r->stage == VOLUME_IDLE || object != r->object)
        return; // of a run that was stopped
    struct range *range = range_at(r, offset);
    if (!range)
        return;
    if (range->state == RANGE_ASKING) {
        if (seq) {
            range->state = RANGE_ASKED;
            range->seq = seq;
            return;
        }
        // It cannot be checked as a whole: block by block what can be read is sent.
        memset(range->bitmap, 0xff, sizeof(range->bitmap));
        range->state = RANGE_SENDING;
        return;
    }
    if (range->state == RANGE_SENDING && range->chunks > 0) {
        range->chunks--;
        if (seq)
            r->progress.sent += length;
        else
            r->progress.unread += length;
        finish_if_through(r, range);
    }
}

void resync_again(struct resync *r, uint16_t object, uint64_t offset)
{
    struct range *range =
        r->stage == VOLUME_IDLE || object != r->object ? NULL : range_at(r, offset);
    if (!range)
        return;
    if (range->state == RANGE_ASKING) {
        // As if its answer had been lost long ago.
        range->state = RANGE_ASKED;
        range->seq = 0;
        range->asked_ns = 0;
    } else if (range->state == RANGE_SENDING && range->chunks > 0) {
        range->chunks--;
        range->next_block =
            MIN(range->next_block, (uint32_t)((offset - range->offset) / CHECK_BLOCK_SIZE));
    }
}

// What is not equal by a coarse check is left of the range, to be checked by block. `next_block` is the first of it.
static void doubt(struct resync *r, struct range *range)
{
    uint32_t end = range_blocks(range);
    while (!block_differs(range, end - 1))
        end--;
    uint32_t from = range->next_block * CHECK_BLOCK_SIZE, to = MIN(end * CHECK_BLOCK_SIZE, range->length);
    r->progress.done += range->length - (to - from);
    range->offset += from;
    range->length = to - from;
    range->state = RANGE_DOUBTED;
}

void resync_answer(struct resync *r, uint16_t object, uint64_t seq, uint64_t offset,
                   uint32_t blocks, const uint8_t *bitmap)
{
    if (r->stage != VOLUME_RUNNING || object != r->object)
        return;
    struct range *range = range_at(r, offset);
    if (!range || range->state != RANGE_ASKED || range->seq != seq || range->offset != offset ||
        blocks != range_blocks(range))
        return;
    uint32_t end;
    memcpy(range->bitmap, bitmap, (blocks + 7) / 8);
    range->state = RANGE_SENDING;
    if (!next_run(range, &end))
        r->credit = MIN(r->credit + CREDIT_EQUAL, CREDIT_MAX);
    else if (range->coarse)
        doubt(r, range);
    finish_if_through(r, range);
}

void resync_applied(struct resync *r, uint64_t applied, int64_t now)
{
    if (applied == r->applied)
        return;
    r->applied = applied;
    for (unsigned i = 0; i < RESYNC_WINDOW; i++) {
        // The time for the answer counts from when the check was applied.
        if (r->ranges[i].state == RANGE_ASKED && r->ranges[i].seq > applied)
            r->ranges[i].asked_ns = now;
    }
}

uint64_t resync_floor(const struct resync *r, uint16_t object)
{
    if (!(r->objects >> object & 1))
        return UINT64_MAX;
    if (object != r->object || r->stage == VOLUME_TO_BEGIN)
        return 0;
    uint64_t floor = r->cursor;
    for (unsigned i = 0; i < RESYNC_WINDOW; i++) {
        if (r->ranges[i].state != RANGE_FREE)
            floor = MIN(floor, r->ranges[i].offset);
    }
    return floor;
}

void resync_progress(const struct resync *r, struct resync_progress *ret_progress)
{
    *ret_progress = r->progress;
}
