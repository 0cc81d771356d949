// SPDX-License-Identifier: Apache-2.0
// How much room the disk rung has, what of it is kept back, and how full that is. While a job is
// out the segments are the worker's: then the figure of its beginning counts.
#include <errno.h>

#include "common/base/cleanup.h"
#include "queues/batch.h"
#include "queues/spill_private.h"
#include "queues/unsafe_private.h"

uint64_t spill_segments_most(const struct spill *s)
{
    return s->disk ? s->config.quota / s->config.segment_bytes : 0;
}

// Bytes of entries that may still be written, what a large record wastes at a segment's end aside.
uint64_t spill_room_left(const struct spill *s)
{
    if (s->out) // the worker's
        return s->room;
    uint64_t most = spill_segments_most(s);
    uint64_t whole = most > s->segment_count ? most - s->segment_count : 0;
    uint64_t rest = s->current ? s->current->file->size - s->current->file->end : 0;
    return rest + whole * (s->config.segment_bytes - SAFE_ENTRIES_START);
}

// What all that lies in memory would take.
static uint64_t memory_span(const struct spill *s)
{
    const struct unsafe *u = s->queue;
    uint64_t records = numbered_now(u) - u->base + u->promised;
    uint64_t bytes = u->head - u->tail + records * sizeof(struct record);
    uint64_t blocks = bytes / BATCH_BYTES_TARGET + records / BATCH_RECORDS_MAX + 1;
    return bytes + blocks * (sizeof(struct batch) + 2 * sizeof(struct safe_entry));
}

bool spill_ending(const struct spill *s)
{
    for (unsigned i = 0; i < UNSAFE_READERS_MAX; i++) {
        if (unsafe_attached(s->queue, i) && unsafe_ended(s->queue, i))
            return true;
    }
    return false;
}

// The reserve, unless this is what it is kept for.
static uint64_t kept_back(const struct spill *s)
{
    if (!s->config.reserve || spill_ending(s))
        return 0;
    return s->queue->file.ring_bytes + s->config.segment_bytes;
}

// The most that may be written now: without the reserve.
uint64_t spill_room_now(const struct spill *s)
{
    uint64_t left = spill_room_left(s), keep = kept_back(s);
    return left > keep ? left - keep : 0;
}

bool spill_usable(const struct spill *s)
{
    return s->disk && s->opened && !s->lost && !s->failed;
}

bool spill_can_take_all(const struct spill *s)
{
    return spill_usable(s) && spill_room_left(s) >= memory_span(s) + s->config.segment_bytes;
}

// How many seqs a write may take: those that a reader needs.
uint64_t spill_writable_last(const struct spill *s)
{
    uint64_t last = 0, spilled = unsafe_spilled(s->queue);
    for (unsigned i = 0; i < UNSAFE_READERS_MAX; i++) {
        if (!unsafe_attached(s->queue, i))
            continue;
        uint64_t to = unsafe_last(s->queue, i);
        if (MAX(spilled, unsafe_released(s->queue, i)) < to) // or it needs nothing in memory
            last = MAX(last, to);
    }
    return last;
}

// What the next block would take, and whether it is a full one; 0 where there is nothing to write.
uint64_t spill_next_span(const struct spill *s, bool *ret_full)
{
    uint64_t seq = s->queue->base, last = spill_writable_last(s), bytes = 0;
    while (seq < last && bytes < BATCH_BYTES_TARGET && seq - s->queue->base < BATCH_RECORDS_MAX)
        bytes += le32_get(unsafe_record(s->queue, ++seq)->payload);
    uint64_t count = seq - s->queue->base;
    *ret_full = bytes >= BATCH_BYTES_TARGET || count == BATCH_RECORDS_MAX;
    return count == 0
               ? 0
               : safe_entry_span(sizeof(struct batch) + count * sizeof(struct record) + bytes);
}

bool spill_fits(const struct spill *s, uint64_t span)
{
    uint64_t rest = s->out || !s->current ? 0 : s->current->file->size - s->current->file->end;
    bool whole = s->out || s->segment_count < spill_segments_most(s);
    return span > 0 && spill_room_now(s) >= span && (whole || rest >= span);
}

bool spill_helps(const struct spill *s)
{
    if (s->lost || (s->out && s->now_ns - s->began_ns >= s->config.stuck_ns))
        return false;
    if (s->out && s->job.kind == SPILL_JOB_WRITE)
        return true;
    if (!s->opened) // it will soon be known
        return s->disk && spill_segments_most(s) > 0;
    bool full;
    return spill_usable(s) && spill_fits(s, spill_next_span(s, &full));
}

// A level is left again only 10 % below where it begins.
enum unsafe_level spill_level(const struct spill *s)
{
    uint64_t most = spill_segments_most(s) * (s->config.segment_bytes - SAFE_ENTRIES_START);
    uint64_t keep = kept_back(s);
    uint64_t used = most > keep ? 100 - spill_room_now(s) / ((most - keep) / 100) : 0;
    uint64_t slack_high = s->level >= UNSAFE_THREE_QUARTERS ? 10 : 0;
    uint64_t slack_low = s->level >= UNSAFE_HALF ? 10 : 0;
    if (used + slack_high >= 75)
        return UNSAFE_THREE_QUARTERS;
    return used + slack_low >= 50 ? UNSAFE_HALF : UNSAFE_LOW;
}
