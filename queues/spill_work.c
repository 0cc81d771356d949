// SPDX-License-Identifier: Apache-2.0
// The worker's side of the disk rung: what a job does to the files. A segment is one of the safe
// queue's format (safe_segment.h), with the salt of this queue; an entry of it is a batch of
// records.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "queues/batch.h"
#include "queues/spill_private.h"
#include "queues/unsafe_private.h"

#define SLOTS_MAX 65536U // more than there are segments

struct spill_load spill_load_free(struct spill_load load)
{
    free(load.message);
    free(load.places);
    return (struct spill_load){0};
}

struct spill_segment *spill_segment_drop(struct spill_segment *segment)
{
    struct spill_segment *next = segment->next;
    safe_segment_free(segment->file);
    free(segment);
    return next;
}

static void fail(struct spill_job *job, int status, const char *what)
{
    job->status = status;
    (void)snprintf(job->text, sizeof(job->text), "%s: %s", what, strerror(-status));
}

// ---- Writing ----

// The messages of a job, one behind the other.
struct staging {
    uint8_t *bytes;
    unsigned count;
    struct {
        size_t at, size;
        uint64_t first, last;
        int64_t time_ns;
    } message[SPILL_JOB_BLOCKS];
};

// The last record of a message that begins with `first`; adds its size to `size`.
static uint64_t message_end(const struct spill_job *job, uint64_t first, size_t *size)
{
    const struct unsafe *u = job->spill->queue;
    uint64_t seq = first - 1, bytes = 0;
    while (seq < job->last && bytes < BATCH_BYTES_TARGET && seq + 1 - first < BATCH_RECORDS_MAX)
        bytes += le32_get(unsafe_record(u, ++seq)->payload);
    *size = sizeof(struct batch) + (seq - first + 1) * sizeof(struct record) + bytes;
    return seq;
}

static void fill_message(const struct unsafe *u, uint8_t *at, uint64_t first, uint64_t last)
{
    uint32_t count = (uint32_t)(last - first + 1), bytes = 0;
    uint8_t *records = at + sizeof(struct batch);
    uint8_t *payload = records + count * sizeof(struct record);
    for (uint32_t i = 0; i < count; i++) {
        const struct record *record = unsafe_record(u, first + i);
        uint32_t size = le32_get(record->payload);
        memcpy(records + i * sizeof(*record), record, sizeof(*record));
        if (size > 0)
            memcpy(payload + bytes, unsafe_payload(u, first + i), size);
        bytes += size;
    }
    struct batch batch = {
        .first_seq = le64_make(first),
        .count = le32_make(count),
        .bytes = le32_make(bytes),
    };
    batch_seal(&batch, (const struct record *)records);
    memcpy(at, &batch, sizeof(batch));
}

// Copies the records out of the queue's memory, which is not touched any more after it.
static int stage(struct spill_job *job, struct staging *ret_staging)
{
    const struct unsafe *u = job->spill->queue;
    struct staging s = {0};
    size_t total = 0;
    for (uint64_t seq = job->first; seq <= job->last && s.count < SPILL_JOB_BLOCKS; s.count++) {
        s.message[s.count].at = total;
        s.message[s.count].first = seq;
        s.message[s.count].last = message_end(job, seq, &s.message[s.count].size);
        s.message[s.count].time_ns = (int64_t)le64_get(unsafe_record(u, seq)->time);
        total += (s.message[s.count].size + 7) & ~(size_t)7; // records lie at addresses that fit them
        seq = s.message[s.count].last + 1;
    }
    s.bytes = malloc(total);
    for (unsigned i = 0; i < s.count && s.bytes; i++)
        fill_message(u, s.bytes + s.message[i].at, s.message[i].first, s.message[i].last);
    atomic_store_explicit(&job->copied, true, memory_order_release);
    if (!s.bytes)
        return -ENOMEM;
    *ret_staging = s;
    return 0;
}

static void add_segment(struct spill *s, struct spill_segment *segment)
{
    struct spill_segment **at = &s->segments;
    while (*at)
        at = &(*at)->next;
    *at = segment;
}

static int new_segment(struct spill *s, uint64_t first, uint64_t limit)
{
    if (s->segment_count >= limit)
        return -EDQUOT;
    struct spill_segment *segment = calloc(1, sizeof(*segment));
    if (!segment)
        return -ENOMEM;
    uint32_t slot = 0;
    int r;
    do {
        r = safe_segment_create(s->disk, slot, s->config.segment_bytes, &segment->file);
    } while (r == -EEXIST && slot++ < SLOTS_MAX);
    if (r < 0) {
        free(segment);
        return r;
    }
    segment->file->salt = s->salt;
    segment->file->number = segment->file->floor = ++s->number;
    segment->file->first_seq = first;
    r = safe_segment_begin(segment->file, s->pair);
    if (r < 0) {
        (void)spill_segment_drop(segment);
        (void)s->disk->ops->remove(s->disk, slot);
        return r;
    }
    s->segment_count++;
    add_segment(s, segment);
    s->current = segment;
    return 0;
}

static int write_message(struct spill_job *job, const struct staging *staging, unsigned i)
{
    struct spill *s = job->spill;
    size_t size = staging->message[i].size;
    uint64_t span = safe_entry_span(size);
    if (!s->current || s->current->file->end + span > s->current->file->size) {
        int r = new_segment(s, staging->message[i].first, job->limit);
        if (r < 0)
            return r;
    }
    struct safe_segment *file = s->current->file;
    job->block[i] = (struct spill_block){
        .segment = s->current,
        .offset = file->end,
        .first = staging->message[i].first,
        .last = staging->message[i].last,
        .bytes = span,
        .time_ns = staging->message[i].time_ns,
    };
    int r = safe_segment_append(
        file, staging->bytes + staging->message[i].at, size, staging->message[i].first,
        staging->message[i].last,
        le64_get(((const struct record *)(staging->bytes + staging->message[i].at +
                                          sizeof(struct batch)))
                     ->epoch));
    // What was written in front of it stays good; behind it nothing more is written.
    if (r < 0)
        s->current = NULL;
    return r;
}

static void run_write(struct spill_job *job)
{
    struct staging staging;
    int r = stage(job, &staging);
    if (r < 0) {
        fail(job, r, "cannot copy records to disk");
        return;
    }
    while (job->count < staging.count && r == 0) {
        r = write_message(job, &staging, job->count);
        if (r == 0)
            job->count++;
    }
    free(staging.bytes);
    if (r < 0)
        fail(job, r, "cannot write to it");
}

// ---- Reading ----

static uint32_t *make_places(const struct batch *message)
{
    uint32_t count = le32_get(message->count), at = 0;
    const struct record *records = (const struct record *)(message + 1);
    uint32_t *places = malloc((count + 1) * sizeof(*places));
    for (uint32_t i = 0; i < count && places; i++) {
        places[i] = at;
        at += le32_get(records[i].payload);
    }
    return places;
}

static void run_read(struct spill_job *job)
{
    for (unsigned i = 0; i < job->count; i++)
        job->load[i] = (struct spill_load){0};
    for (unsigned i = 0; i < job->count && job->status == 0; i++) {
        const struct spill_block *block = &job->block[i];
        struct safe_found found;
        int error = 0;
        const char *broken = safe_segment_read(block->segment->file, block->offset, &found, &error);
        if (broken) {
            job->status = error < 0 ? error : -EUCLEAN;
            (void)snprintf(job->text, sizeof(job->text),
                           "segment %04" PRIu32 " at offset %" PRIu64 ": %s%s%s",
                           block->segment->file->slot, block->offset, broken, error < 0 ? ": " : "",
                           error < 0 ? strerror(-error) : "");
            return;
        }
        job->load[i] = (struct spill_load){
            .first = block->first,
            .last = block->last,
            .message = (struct batch *)(uintptr_t)found.message,
            .places = make_places(found.message),
        };
        if (!job->load[i].places || found.first > block->first || found.last != block->last) {
            job->load[i] = spill_load_free(job->load[i]);
            fail(job, found.last == block->last ? -ENOMEM : -EUCLEAN, "cannot read records back");
        }
    }
}

// ---- Removing ----

static void run_remove(struct spill_job *job)
{
    struct spill *s = job->spill;
    for (struct spill_segment *d = job->dead; d; d = d->next) {
        uint32_t slot = d->file->slot;
        d->file = safe_segment_free(d->file);
        // One that stays is removed by the next run.
        (void)s->disk->ops->remove(s->disk, slot);
    }
}

// ---- What a predecessor left ----

struct slots {
    uint32_t *slot;
    size_t count, size;
    bool failed;
};

static void add_slot(void *arg, uint32_t slot)
{
    struct slots *slots = arg;
    if (slots->count == slots->size) {
        size_t size = slots->size ? slots->size * 2 : 64;
        uint32_t *grown = reallocarray(slots->slot, size, sizeof(*grown));
        slots->failed |= !grown;
        if (!grown)
            return;
        slots->slot = grown;
        slots->size = size;
    }
    slots->slot[slots->count++] = slot;
}

// Keeps the segments in the order of their numbers.
static void insert_segment(struct spill *s, struct spill_segment *segment)
{
    struct spill_segment **at = &s->segments;
    while (*at && (*at)->file->number < segment->file->number)
        at = &(*at)->next;
    segment->next = *at;
    *at = segment;
    s->segment_count++;
}

static int open_slot(struct spill_job *job, uint32_t slot)
{
    struct spill *s = job->spill;
    struct safe_segment *file = NULL;
    enum safe_header_state state = HEADER_BAD;
    int r = safe_segment_open(s->disk, slot, s->pair, &file, &state);
    bool ours = r == 0 && state == HEADER_GOOD && file->salt == s->salt && job->last >= job->first;
    if (r == 0 && state == HEADER_GOOD)
        s->number = MAX(s->number, file->number);
    if (!ours) {
        safe_segment_free(file);
        (void)s->disk->ops->remove(s->disk, slot);
        return r == -ENOMEM ? r : 0;
    }
    struct spill_segment *segment = calloc(1, sizeof(*segment));
    if (!segment) {
        safe_segment_free(file);
        return -ENOMEM;
    }
    segment->file = file;
    insert_segment(s, segment);
    return 0;
}

static int open_slots(struct spill_job *job)
{
    struct spill *s = job->spill;
    struct slots slots = {0};
    int r = s->disk->ops->list(s->disk, add_slot, &slots);
    if (r == 0 && slots.failed)
        r = -ENOMEM;
    for (size_t i = 0; i < slots.count && r == 0; i++)
        r = open_slot(job, slots.slot[i]);
    free(slots.slot);
    return r;
}

static int add_found(struct spill_job *job, struct spill_segment *segment, uint64_t offset,
                     const struct safe_entry *e, uint64_t next)
{
    size_t n = job->found_count;
    if ((n & (n - 1)) == 0) {
        struct spill_block *grown = reallocarray(job->found, n ? 2 * n : 1, sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        job->found = grown;
    }
    // Only for people, and not worth a failure.
    struct record record = {0};
    (void)job->spill->disk->ops->read(
        segment->file->file, offset + sizeof(*e) + sizeof(struct batch), &record, sizeof(record));
    // An entry that was written twice counts from where the first one ends.
    job->found[job->found_count++] = (struct spill_block){
        .segment = segment,
        .offset = offset,
        .first = MAX(le64_get(e->first), next),
        .last = le64_get(e->last),
        .bytes = safe_entry_span(le32_get(e->size)),
        .time_ns = record_invalid(&record) ? 0 : (int64_t)le64_get(record.time),
    };
    return 0;
}

// Takes the entries of a segment that go on where those found so far end.
static int walk(struct spill_job *job, struct spill_segment *segment, uint64_t *next)
{
    uint64_t offset = SAFE_ENTRIES_START;
    struct safe_entry e;
    int error = 0;
    while (!safe_segment_peek(segment->file, offset, &e, &error)) {
        uint64_t last = le64_get(e.last);
        // Behind what counts as spilled lies what was being written when the predecessor died.
        if (le64_get(e.first) <= *next && last >= *next && last <= job->last) {
            int r = add_found(job, segment, offset, &e, *next);
            if (r < 0)
                return r;
            *next = last + 1;
        }
        offset += safe_entry_span(le32_get(e.size));
    }
    return error;
}

static void drop_unused(struct spill_job *job)
{
    struct spill *s = job->spill;
    struct spill_segment **at = &s->segments;
    while (*at) {
        bool used = false;
        for (size_t i = 0; i < job->found_count; i++)
            used |= job->found[i].segment == *at;
        if (used) {
            at = &(*at)->next;
            continue;
        }
        uint32_t slot = (*at)->file->slot;
        *at = spill_segment_drop(*at);
        (void)s->disk->ops->remove(s->disk, slot);
        s->segment_count--;
    }
}

static void run_open(struct spill_job *job)
{
    uint64_t next = job->first;
    int r = open_slots(job);
    for (struct spill_segment *seg = job->spill->segments; seg && r == 0; seg = seg->next)
        r = walk(job, seg, &next);
    if (r < 0) {
        fail(job, r, "cannot read what was spilled");
    } else if (next <= job->last) {
        job->status = -EUCLEAN;
        (void)snprintf(job->text, sizeof(job->text),
                       "what was spilled is damaged or missing from seq %" PRIu64 " on", next);
    }
    if (job->status < 0)
        job->found_count = 0;
    drop_unused(job);
}

unsigned spill_job_kind(const struct spill_job *job)
{
    return job->kind;
}

void spill_run(struct spill_job *job)
{
    switch (job->kind) {
    case SPILL_JOB_OPEN:
        run_open(job);
        break;
    case SPILL_JOB_READ:
        run_read(job);
        break;
    case SPILL_JOB_WRITE:
        run_write(job);
        break;
    case SPILL_JOB_REMOVE:
        run_remove(job);
        break;
    }
}
