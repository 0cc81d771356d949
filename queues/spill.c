// SPDX-License-Identifier: Apache-2.0
// The producer's side of the disk rung: what lies where, and which job is due.
//
// Invariants:
//   1. the blocks are in the order of their seqs and do not overlap; while something is held, those
//      up to `spilled` cover all of it that lies on disk;
//   2. `spilled` moves only when what it covers was written; the memory of a record is free only
//      behind it (spill_pin() holds it while it is being copied);
//   3. a segment is removed only when none of its blocks is held;
//   4. what a reader gets was checked against its checksums since it was read;
//   5. blocks, loads and `spilled` change only with the readers held off.
#include "queues/spill.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "queues/spill_private.h"
#include "queues/unsafe_private.h"

#define SPILL_FROM                                                                                 \
    50U                    // percent of the memory in use: from here on, until it is a third less,
                           // the oldest records are copied; also those that do not fill a
                           // block where it is a half more
#define SEGMENT_HOLD 2U    // of the largest records: with one the rest of a segment would be wasted
#define SEGMENT_MANY 1024U // segments that a large quota is divided into

// ---- Making ----

uint64_t spill_segment_least(uint32_t payload_max)
{
    uint64_t message = sizeof(struct batch) + BATCH_RECORDS_MAX * sizeof(struct record) +
                       BATCH_BYTES_TARGET + payload_max;
    uint64_t bytes = SAFE_ENTRIES_START + safe_entry_span(message);
    return (bytes + SAFE_HEADER_STEP - 1) / SAFE_HEADER_STEP * SAFE_HEADER_STEP;
}

uint64_t spill_quota_min(uint32_t payload_max)
{
    return spill_segment_least(payload_max);
}

struct spill *spill_new(struct unsafe *queue, struct disk *disk, const struct spill_config *config)
{
    struct spill *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->queue = queue;
    s->disk = disk;
    s->config = *config;
    uint64_t least = spill_segment_least(queue->file.payload_max);
    if (s->config.segment_bytes == 0)
        s->config.segment_bytes =
            MAX(MIN(SEGMENT_HOLD * least, config->quota / 8), config->quota / SEGMENT_MANY);
    s->config.segment_bytes = MAX(s->config.segment_bytes, least);
    if (s->config.from == 0)
        s->config.from = SPILL_FROM;
    if (s->config.stuck_ns == 0)
        s->config.stuck_ns = SPILL_STUCK_NS;
    if (s->config.retry_ns == 0)
        s->config.retry_ns = SPILL_RETRY_NS;
    s->pair = queue->file.super->pair;
    s->salt = unsafe_file_salt(queue->file.super);
    s->retry_ns = INT64_MIN;
    s->job.spill = s;
    ENSURE(!queue->spill);
    queue->spill = s;
    return s;
}

struct spill *spill_free(struct spill *s)
{
    if (!s)
        return NULL;
    s->queue->spill = NULL;
    if (s->out) { // as if the process had been killed in it
        for (unsigned i = 0; i < s->job.count && s->job.kind == SPILL_JOB_READ; i++)
            (void)spill_load_free(s->job.load[i]);
        free(s->job.found);
        while (s->job.dead)
            s->job.dead = spill_segment_drop(s->job.dead);
    }
    for (unsigned i = 0; i < SPILL_AHEAD; i++)
        (void)spill_load_free(s->loads[i]);
    while (s->segments)
        s->segments = spill_segment_drop(s->segments);
    while (s->dead)
        s->dead = spill_segment_drop(s->dead);
    free(s->blocks);
    free(s);
    return NULL;
}

// ---- Where a record is ----

static const struct spill_load *load_of(const struct spill *s, uint64_t seq)
{
    for (unsigned i = 0; i < SPILL_AHEAD; i++) {
        const struct spill_load *load = &s->loads[i];
        if (load->message && seq >= load->first && seq <= load->last)
            return load;
    }
    return NULL;
}

// The first block that ends at or behind `seq`; blocks_count where there is none.
static size_t block_at(const struct spill *s, uint64_t seq)
{
    size_t low = s->blocks_first, high = s->blocks_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->blocks[middle].last < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t spill_run_from(struct spill *s, uint64_t seq)
{
    ENSURE(s);
    atomic_store_explicit(&s->wanted, seq, memory_order_relaxed);
    const struct spill_load *load = load_of(s, seq);
    return load ? (uint32_t)(load->last - seq + 1) : 0;
}

static uint32_t index_in(const struct spill_load *load, uint64_t seq)
{
    return (uint32_t)(seq - le64_get(load->message->first_seq));
}

const struct record *spill_record(struct spill *s, uint64_t seq)
{
    const struct spill_load *load = load_of(s, seq);
    ENSURE(load);
    const struct record *records = (const struct record *)(load->message + 1);
    return &records[index_in(load, seq)];
}

const void *spill_payload(struct spill *s, uint64_t seq)
{
    const struct spill_load *load = load_of(s, seq);
    ENSURE(load);
    const uint8_t *payload = (const uint8_t *)(load->message + 1) +
                             le32_get(load->message->count) * sizeof(struct record);
    return payload + load->places[index_in(load, seq)];
}

uint64_t spill_pin(const struct spill *s)
{
    bool copying = s->out && s->job.kind == SPILL_JOB_WRITE &&
                   !atomic_load_explicit(&s->job.copied, memory_order_acquire);
    return copying ? s->job.first - 1 : UINT64_MAX;
}

// ---- What a reader lacks ----

bool spill_missing(const struct spill *s)
{
    uint64_t wanted = atomic_load_explicit(&s->wanted, memory_order_relaxed);
    bool spilled = wanted != 0 && wanted <= unsafe_spilled(s->queue);
    return spilled && !load_of(s, wanted) && wanted > unsafe_file_floor(&s->queue->file);
}

// ---- Which job is due ----

// The blocks that are to be in memory: from the one that a reader wants on.
static void window(const struct spill *s, size_t *ret_from, size_t *ret_to)
{
    uint64_t wanted = atomic_load_explicit(&s->wanted, memory_order_relaxed);
    uint64_t bytes = 0;
    *ret_from = *ret_to = s->blocks_count;
    if (wanted == 0 || wanted <= s->queue->floor || wanted > unsafe_spilled(s->queue))
        return;
    size_t to = *ret_from = block_at(s, wanted);
    while (to < s->blocks_count && to - *ret_from < SPILL_AHEAD &&
           (to == *ret_from || bytes + s->blocks[to].bytes <= SPILL_AHEAD_BYTES))
        bytes += s->blocks[to++].bytes;
    *ret_to = to;
}

static bool read_due(const struct spill *s)
{
    size_t from, to;
    if (s->lost)
        return false;
    window(s, &from, &to);
    for (size_t i = from; i < to; i++) {
        if (!load_of(s, s->blocks[i].first))
            return true;
    }
    return false;
}

static bool write_due(struct spill *s)
{
    bool full;
    if (!spill_usable(s))
        return false;
    (void)unsafe_base(s->queue);
    if (spill_ending(s))
        return spill_fits(s, spill_next_span(s, &full));
    unsigned used = unsafe_percent(s->queue);
    if (used < (s->spilling ? s->config.from * 2 / 3 : s->config.from)) {
        s->spilling = false;
        return false;
    }
    s->spilling = true;
    uint64_t span = spill_next_span(s, &full);
    return spill_fits(s, span) &&
           (full || used >= s->config.from * 3 / 2 || unsafe_refused(s->queue));
}

static bool due(struct spill *s, enum spill_job_kind kind)
{
    switch (kind) {
    case SPILL_JOB_OPEN:
        return !s->opened;
    case SPILL_JOB_READ:
        return s->opened && read_due(s);
    case SPILL_JOB_WRITE:
        return write_due(s);
    case SPILL_JOB_REMOVE:
        return s->dead != NULL;
    }
    return false;
}

// Whether the oldest block is held no more.
static bool trim_due(const struct spill *s)
{
    return s->blocks_first < s->blocks_count && s->blocks[s->blocks_first].last <= s->queue->floor;
}

bool spill_wants(struct spill *s, int64_t now_ns)
{
    s->now_ns = now_ns;
    if (!s->disk || s->out)
        return false;
    if (s->failed && now_ns >= s->retry_ns)
        s->failed = false;
    unsafe_take_back(s->queue);
    return trim_due(s) || due(s, SPILL_JOB_OPEN) || due(s, SPILL_JOB_READ) ||
           due(s, SPILL_JOB_WRITE) || due(s, SPILL_JOB_REMOVE);
}

int64_t spill_deadline(const struct spill *s)
{
    if (s->out)
        return s->began_ns + s->config.stuck_ns;
    return s->failed ? s->retry_ns : INT64_MAX;
}

bool spill_busy(const struct spill *s)
{
    return s->out;
}

// ---- Taking a job ----

static void bury(struct spill *s, struct spill_segment *segment)
{
    struct spill_segment **at = &s->segments;
    while (*at != segment)
        at = &(*at)->next;
    *at = segment->next;
    segment->next = s->dead;
    s->dead = segment;
    if (s->current == segment)
        s->current = NULL;
}

static void count_down(struct spill *s, const struct spill_block *block)
{
    s->held_bytes -= block->bytes;
    block->segment->live--;
}

static void trim(struct spill *s)
{
    while (trim_due(s))
        count_down(s, &s->blocks[s->blocks_first++]);
    // The one that is being written is kept until nothing is held at all.
    for (struct spill_segment *at = s->segments, *next; at; at = next) {
        next = at->next;
        if (at->live == 0 && at != s->current)
            bury(s, at);
    }
    if (s->blocks_first == s->blocks_count) {
        s->blocks_first = s->blocks_count = 0;
        while (s->segments)
            bury(s, s->segments);
        s->lost = false;
    } else if (s->blocks_first >= 1024 && s->blocks_first > s->blocks_count / 2) {
        s->blocks_count -= s->blocks_first;
        memmove(s->blocks, s->blocks + s->blocks_first, s->blocks_count * sizeof(*s->blocks));
        s->blocks_first = 0;
    }
    s->level = spill_level(s);
}

// Frees what is loaded and outside of the window.
static void unload(struct spill *s)
{
    size_t from, to;
    window(s, &from, &to);
    for (unsigned i = 0; i < SPILL_AHEAD; i++) {
        struct spill_load *load = &s->loads[i];
        bool wanted = false;
        for (size_t b = from; b < to && load->message; b++)
            wanted |= s->blocks[b].first == load->first;
        if (!wanted)
            *load = spill_load_free(*load);
    }
}

static void plan_read(struct spill *s)
{
    size_t from, to;
    window(s, &from, &to);
    for (size_t i = from; i < to; i++) {
        if (!load_of(s, s->blocks[i].first))
            s->job.block[s->job.count++] = s->blocks[i];
    }
}

// From the base on, about SPILL_JOB_BYTES.
static void plan_write(struct spill *s)
{
    uint64_t base = unsafe_base(s->queue), last = spill_writable_last(s), room = spill_room_now(s);
    uint64_t bytes = 0, seq = base;
    uint64_t most = MIN(SPILL_JOB_BYTES, room);
    while (seq < last && (seq == base || bytes < most) && seq - base < BATCH_RECORDS_MAX)
        bytes += le32_get(unsafe_record(s->queue, ++seq)->payload) + sizeof(struct record);
    s->job.first = base + 1;
    s->job.last = seq;
    s->job.limit = spill_segments_most(s);
    atomic_store(&s->job.copied, false);
}

// What a predecessor spilled and somebody still holds.
static void plan_open(struct spill *s)
{
    uint64_t end = 0;
    for (unsigned i = 0; i < UNSAFE_READERS_MAX; i++) {
        if (unsafe_attached(s->queue, i))
            end = MAX(end, unsafe_last(s->queue, i));
    }
    s->job.first = s->queue->floor + 1;
    s->job.last = MIN(unsafe_spilled(s->queue), end);
}

struct spill_job *spill_next(struct spill *s, int64_t now_ns)
{
    ENSURE(!s->out);
    unsafe_take_back(s->queue);
    if (s->opened)
        trim(s);
    unload(s);
    enum spill_job_kind kind = s->last;
    for (unsigned i = 0; i <= SPILL_JOB_REMOVE; i++) {
        kind = s->opened ? (kind + 1) % (SPILL_JOB_REMOVE + 1) : SPILL_JOB_OPEN;
        if (due(s, kind))
            break;
    }
    if (!due(s, kind))
        return NULL;
    s->job.kind = s->last = kind;
    s->job.status = 0;
    s->job.text[0] = '\0';
    s->job.count = 0;
    s->job.found = NULL;
    s->job.found_count = 0;
    if (kind == SPILL_JOB_OPEN)
        plan_open(s);
    else if (kind == SPILL_JOB_READ)
        plan_read(s);
    else if (kind == SPILL_JOB_WRITE)
        plan_write(s);
    s->room = spill_room_left(s);
    if (kind == SPILL_JOB_WRITE)
        s->room -= MIN(s->room, SPILL_JOB_BYTES + spill_segment_least(s->queue->file.payload_max));
    s->job.dead = kind == SPILL_JOB_REMOVE ? TAKE_PTR(s->dead) : NULL;
    s->out = true;
    s->began_ns = s->now_ns = now_ns;
    return &s->job;
}

// ---- What a job has brought ----

static void give_up(struct spill *s, const char *text)
{
    if (!s->lost)
        (void)snprintf(s->text, sizeof(s->text), "%s", text);
    s->tell_lost |= !s->lost;
    s->lost = true;
}

static int keep_block(struct spill *s, const struct spill_block *block)
{
    if (s->blocks_count == s->blocks_size) {
        size_t size = s->blocks_size ? s->blocks_size * 2 : 256;
        struct spill_block *blocks = reallocarray(s->blocks, size, sizeof(*blocks));
        if (!blocks)
            return -ENOMEM;
        s->blocks = blocks;
        s->blocks_size = size;
    }
    ENSURE(s->blocks_count == s->blocks_first ||
           s->blocks[s->blocks_count - 1].last < block->first);
    s->blocks[s->blocks_count++] = *block;
    block->segment->live++;
    s->held_bytes += block->bytes;
    return 0;
}

static void take_opened(struct spill *s)
{
    struct spill_job *job = &s->job;
    s->opened = true;
    int r = job->status;
    for (size_t i = 0; i < job->found_count && r == 0; i++)
        r = keep_block(s, &job->found[i]);
    free(job->found);
    job->found = NULL;
    // A directory that cannot be read holds nothing that anybody could have; whether it takes
    // anything the next write will show.
    if (r < 0 && job->last >= job->first)
        give_up(s, job->text[0] ? job->text : strerror(-r));
}

static void take_read(struct spill *s)
{
    struct spill_job *job = &s->job;
    for (unsigned i = 0; i < job->count; i++) {
        struct spill_load load = job->load[i];
        job->load[i] = (struct spill_load){0};
        for (unsigned slot = 0; slot < SPILL_AHEAD && load.message; slot++) {
            if (s->loads[slot].message)
                continue;
            s->loaded += load.last - load.first + 1;
            s->loads[slot] = load;
            load = (struct spill_load){0};
        }
        (void)spill_load_free(load);
    }
    if (job->status < 0)
        give_up(s, job->text);
}

static void fail(struct spill *s, int64_t now_ns)
{
    if (!s->failing && !s->tell_lost)
        (void)snprintf(s->text, sizeof(s->text), "%s", s->job.text);
    s->tell_failed |= !s->failing;
    s->failed = s->failing = true;
    s->retry_ns = now_ns + s->config.retry_ns;
}

static void take_written(struct spill *s, int64_t now_ns)
{
    struct spill_job *job = &s->job;
    int r = 0;
    for (unsigned i = 0; i < job->count && r == 0; i++) {
        r = keep_block(s, &job->block[i]);
        if (r < 0)
            break;
        s->written += job->block[i].last - job->block[i].first + 1;
        atomic_store_explicit(&s->queue->file.state->spilled, job->block[i].last,
                              memory_order_release);
    }
    if (job->status < 0 && job->status != -EDQUOT)
        fail(s, now_ns);
    if (job->status == 0 && s->failing) {
        s->tell_works = !s->tell_failed;
        s->failing = s->tell_failed = false;
    }
}

static void take_removed(struct spill *s)
{
    for (; s->job.dead; s->job.dead = spill_segment_drop(s->job.dead))
        s->segment_count--;
}

void spill_done(struct spill *s, struct spill_job *job, int64_t now_ns)
{
    ENSURE(job == &s->job && s->out);
    s->out = false;
    s->now_ns = now_ns;
    unsafe_take_back(s->queue);
    if (job->kind == SPILL_JOB_OPEN)
        take_opened(s);
    else if (job->kind == SPILL_JOB_READ)
        take_read(s);
    else if (job->kind == SPILL_JOB_WRITE)
        take_written(s, now_ns);
    else
        take_removed(s);
    trim(s);
}

void spill_event(struct spill *s, struct spill_event *ret_event)
{
    *ret_event = (struct spill_event){.kind = SPILL_NOTHING, .level = s->level};
    if (s->tell_lost || s->tell_failed) {
        ret_event->kind = s->tell_lost ? SPILL_LOST : SPILL_FAILED;
        (void)snprintf(ret_event->text, sizeof(ret_event->text), "%s", s->text);
        s->tell_lost = s->tell_failed = false;
    } else if (s->tell_works) {
        s->tell_works = false;
        ret_event->kind = SPILL_WORKS;
    } else if (s->level != s->told_level) {
        s->told_level = s->level;
        ret_event->kind = SPILL_LEVEL;
    }
}

void spill_stat(const struct spill *s, struct spill_stat *ret_stat)
{
    *ret_stat = (struct spill_stat){
        .bytes = s->held_bytes,
        .limit_bytes = spill_segments_most(s) ? s->config.quota : 0,
        .level = s->level,
        .failed = s->failed,
        .written = s->written,
        .loaded = s->loaded,
    };
    size_t first = block_at(s, s->queue->floor + 1);
    if (first == s->blocks_count)
        return;
    uint64_t from = MAX(s->blocks[first].first, s->queue->floor + 1);
    ret_stat->oldest_ns = s->blocks[first].time_ns;
    ret_stat->records = s->blocks[s->blocks_count - 1].last - from + 1;
}
