// SPDX-License-Identifier: Apache-2.0
#include "common/end/verify.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

enum check_state {
    CHECK_FREE,
    CHECK_STARTED, // has no seq yet
    CHECK_ASKED,   // has its seq; the answer is out
};

struct check {
    enum check_state state;
    uint16_t object;
    uint64_t offset;
    uint32_t length;
    uint64_t seq;
    int64_t asked_ns;
};

struct verify {
    unsigned volumes;
    uint64_t sizes[RECORD_OBJECTS_MAX];
    uint64_t objects; // mask of those not gone through
    uint64_t cursor;  // in the lowest of them
    bool running, finished;
    struct check checks[VERIFY_WINDOW];
    uint64_t applied;
    struct verify_result result;
};

struct verify *verify_new(const uint64_t *sizes, unsigned volumes)
{
    ENSURE(volumes <= RECORD_OBJECTS_MAX);
    struct verify *v = calloc(1, sizeof(*v));
    if (!v)
        return NULL;
    v->volumes = volumes;
    memcpy(v->sizes, sizes, volumes * sizeof(*sizes));
    return v;
}

struct verify *verify_free(struct verify *v)
{
    free(v);
    return NULL;
}

void verify_start(struct verify *v, uint64_t objects, int64_t now)
{
    v->objects = objects;
    v->cursor = v->applied = 0;
    v->running = objects != 0;
    v->finished = false;
    memset(v->checks, 0, sizeof(v->checks));
    if (!objects)
        return;
    v->result = (struct verify_result){.objects = objects, .began_ns = now};
    for (unsigned i = 0; i < v->volumes; i++) {
        if (objects >> i & 1)
            v->result.total += v->sizes[i];
    }
}

bool verify_running(const struct verify *v)
{
    return v->running;
}

// ---- what was found ----

static bool joins(const struct verify_range *range, const struct verify_range *more)
{
    return range->object == more->object &&
           (range->offset + range->length == more->offset || more->offset + more->length == range->offset);
}

static void add_range(struct verify_result *result, const struct verify_range *more)
{
    for (unsigned i = 0; i < result->range_count; i++) {
        struct verify_range *range = &result->ranges[i];
        if (!joins(range, more))
            continue;
        range->offset = MIN(range->offset, more->offset);
        range->length += more->length;
        return;
    }
    if (result->range_count < VERIFY_RANGES_MAX)
        result->ranges[result->range_count++] = *more;
    else
        result->more = true;
}

static void found(struct verify *v, uint16_t object, uint64_t offset, uint64_t length)
{
    struct verify_range range = {object, offset, length};
    v->result.differing |= UINT64_C(1) << object;
    v->result.differing_bytes += length;
    add_range(&v->result, &range);
}

static int by_place(const void *a, const void *b)
{
    const struct verify_range *x = a, *y = b;
    if (x->object != y->object)
        return x->object < y->object ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

// Answers come in any order: what has become neighbours only in the end is joined here.
static void sort_ranges(struct verify_result *result)
{
    unsigned kept = 0;
    qsort(result->ranges, result->range_count, sizeof(result->ranges[0]), by_place);
    for (unsigned i = 0; i < result->range_count; i++) {
        struct verify_range *last = kept ? &result->ranges[kept - 1] : NULL;
        if (last && joins(last, &result->ranges[i]))
            last->length += result->ranges[i].length;
        else
            result->ranges[kept++] = result->ranges[i];
    }
    result->range_count = kept;
}

void verify_result(const struct verify *v, struct verify_result *ret_result)
{
    *ret_result = v->result;
    sort_ranges(ret_result);
}

void verify_progress(const struct verify *v, uint64_t *ret_done, uint64_t *ret_total, int64_t *ret_began_ns)
{
    *ret_done = v->result.compared + v->result.unread_bytes;
    *ret_total = v->running ? v->result.total : 0;
    *ret_began_ns = v->result.began_ns;
}

bool verify_finished(struct verify *v, struct verify_result *ret_result)
{
    if (!v->finished)
        return false;
    v->finished = false;
    verify_result(v, ret_result);
    return true;
}

// ---- steps ----

static void finish_if_through(struct verify *v)
{
    for (unsigned i = 0; i < VERIFY_WINDOW; i++) {
        if (v->checks[i].state != CHECK_FREE)
            return;
    }
    if (!v->running || v->objects)
        return;
    v->running = false;
    v->finished = true;
}

// A check that was applied long ago and has no answer: that was lost on its way.
static const struct check *overdue(const struct verify *v, int64_t now)
{
    for (unsigned i = 0; i < VERIFY_WINDOW; i++) {
        const struct check *c = &v->checks[i];
        if (c->state == CHECK_ASKED && v->applied >= c->seq && now - c->asked_ns >= VERIFY_ANSWER_NS)
            return c;
    }
    return NULL;
}

static struct check *free_check(struct verify *v)
{
    for (unsigned i = 0; i < VERIFY_WINDOW; i++) {
        if (v->checks[i].state == CHECK_FREE)
            return &v->checks[i];
    }
    return NULL;
}

static struct check *check_at(struct verify *v, uint16_t object, uint64_t offset)
{
    for (unsigned i = 0; i < VERIFY_WINDOW; i++) {
        struct check *c = &v->checks[i];
        if (c->state != CHECK_FREE && c->object == object && c->offset == offset)
            return c;
    }
    return NULL;
}

bool verify_next(struct verify *v, int64_t now, struct verify_step *ret_step)
{
    if (!v->running)
        return false;
    const struct check *again = overdue(v, now);
    if (again) {
        *ret_step = (struct verify_step){again->object, again->offset, again->length};
        return true;
    }
    if (!v->objects || !free_check(v))
        return false;
    uint16_t object = (uint16_t)__builtin_ctzll(v->objects);
    uint64_t left = v->sizes[object] - v->cursor;
    *ret_step = (struct verify_step){object, v->cursor, (uint32_t)MIN(VERIFY_RANGE, left)};
    return true;
}

void verify_began(struct verify *v, const struct verify_step *step, int64_t now)
{
    struct check *c = check_at(v, step->object, step->offset);
    if (!c) {
        c = free_check(v);
        ENSURE(c && step->offset == v->cursor);
        v->cursor += step->length;
        if (v->cursor == v->sizes[step->object]) {
            v->objects &= v->objects - 1;
            v->cursor = 0;
        }
    }
    *c = (struct check){CHECK_STARTED, step->object, step->offset, step->length, 0, now};
}

void verify_copied(struct verify *v, uint16_t object, uint64_t offset, uint64_t seq)
{
    struct check *c = check_at(v, object, offset);
    if (!c || c->state != CHECK_STARTED)
        return; // of a pass that was stopped
    if (seq) {
        c->state = CHECK_ASKED;
        c->seq = seq;
        return;
    }
    v->result.unread_bytes += c->length;
    c->state = CHECK_FREE;
    finish_if_through(v);
}

void verify_again(struct verify *v, uint16_t object, uint64_t offset)
{
    struct check *c = check_at(v, object, offset);
    if (!c || c->state != CHECK_STARTED)
        return;
    // As if its answer had been lost long ago.
    c->state = CHECK_ASKED;
    c->seq = 0;
    c->asked_ns = INT64_MIN / 2;
}

void verify_answer(struct verify *v, uint16_t object, uint64_t seq, uint64_t offset, uint32_t blocks,
                   const uint8_t *bitmap)
{
    struct check *c = check_at(v, object, offset);
    if (!c || c->state != CHECK_ASKED || c->seq != seq ||
        blocks != (c->length + CHECK_BLOCK_SIZE - 1) / CHECK_BLOCK_SIZE)
        return;
    for (uint32_t from = 0, to; from < blocks; from = to) {
        bool differs = bitmap[from / 8] >> from % 8 & 1;
        for (to = from + 1; to < blocks && (bitmap[to / 8] >> to % 8 & 1) == differs;)
            to++;
        uint64_t start = (uint64_t)from * CHECK_BLOCK_SIZE, end = MIN((uint64_t)to * CHECK_BLOCK_SIZE, c->length);
        if (differs)
            found(v, object, offset + start, end - start);
    }
    v->result.compared += c->length;
    v->result.first_seq = v->result.first_seq ? MIN(v->result.first_seq, seq) : seq;
    v->result.last_seq = MAX(v->result.last_seq, seq);
    c->state = CHECK_FREE;
    finish_if_through(v);
}

void verify_applied(struct verify *v, uint64_t applied, int64_t now)
{
    if (applied == v->applied)
        return;
    v->applied = applied;
    for (unsigned i = 0; i < VERIFY_WINDOW; i++) {
        // The time for the answer counts from when the check was applied.
        if (v->checks[i].state == CHECK_ASKED && v->checks[i].seq > applied)
            v->checks[i].asked_ns = now;
    }
}
