// SPDX-License-Identifier: Apache-2.0
// The safe queue (safe.h; format and crash argument: docs/safe-queue.md).
//
// Invariants, checked by check():
// (1) chain[] is never empty unless the queue was never used or lost its headers; numbers rise along it, first_seqs
//     do not fall; the last one is the tail, and `last` >= tail->first_seq - 1.
// (2) Entries are only ever written into a segment that this opening has begun (`begun`): its salt is ours, so that
//     nothing that stood in it before can pass for an entry of it.
// (3) A segment is begun durably before its first entry is written, and no segment of the chain that its floor spares
//     is begun anew.
#include "queues/safe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "queues/safe_scan.h"
#include "queues/safe_segment.h"

struct safe {
    struct safe_config config;
    struct safe_segment **chain; // oldest first; room for SAFE_SEGMENTS_MAX
    uint32_t chain_count;
    struct safe_segment **spare; // free for use; likewise
    uint32_t spare_count;
    uint32_t segments_max; // of both together
    uint64_t last, epoch;
    uint64_t durable;
    uint64_t next_number;
    uint32_t next_slot;
    bool begun; // the tail was begun by this opening
    bool damaged;
    bool full;
    int failure; // 0 or -errno

    // The sync under way.
    unsigned syncs; // files that it waits for; 0: none
    int sync_status;
    uint64_t sync_last; // `last` when it was started
    void (*sync_done)(void *arg, int status);
    void *sync_arg;
};

static struct safe_segment *tail(const struct safe *s)
{
    ENSURE(s->chain_count > 0);
    return s->chain[s->chain_count - 1];
}

static void check(const struct safe *s)
{
    ENSURE(s->chain_count + s->spare_count <= SAFE_SEGMENTS_MAX);
    ENSURE(s->durable <= s->last);
    if (s->chain_count == 0) {
        ENSURE(!s->begun && s->last == 0);
        return;
    }
    ENSURE(s->last + 1 >= tail(s)->first_seq);
    ENSURE(tail(s)->number < s->next_number);
    ENSURE(!s->begun || tail(s)->salt == s->config.salt);
}

static uint64_t first_held(const struct safe *s)
{
    return s->chain_count ? s->chain[0]->first_seq : 1;
}

// Everything that the scan reports as held: a killed process leaves writes that no sync has
// covered.
static int sync_held(struct safe *s, struct error *err)
{
    for (uint32_t i = 0; i < s->chain_count; i++) {
        int rc = s->config.disk->ops->sync(s->chain[i]->file);
        if (rc < 0)
            return error_sys(err, rc, "safe queue: segment %u cannot be synced", s->chain[i]->slot);
    }
    return 0;
}

static int config_check(const struct safe_config *config, struct error *err)
{
    if (config->segment_size < SAFE_SEGMENT_SIZE_MIN || config->segment_size % 4096 ||
        config->segment_size > UINT64_C(1) << 40)
        return error_set(err, -EINVAL, "safe queue: a segment size of %llu bytes",
                         (unsigned long long)config->segment_size);
    if (config->limit / config->segment_size < 2)
        return error_set(err, -EINVAL,
                         "safe queue: its limit of %llu bytes is less than two segments",
                         (unsigned long long)config->limit);
    return 0;
}

static int take_scan(struct safe *s, struct scan *scan)
{
    s->chain = calloc(SAFE_SEGMENTS_MAX, sizeof(*s->chain));
    s->spare = calloc(SAFE_SEGMENTS_MAX, sizeof(*s->spare));
    if (!s->chain || !s->spare)
        return -ENOMEM;
    memcpy(s->chain, scan->chain, scan->chain_count * sizeof(*s->chain));
    memcpy(s->spare, scan->spare, scan->spare_count * sizeof(*s->spare));
    s->chain_count = scan->chain_count;
    s->spare_count = scan->spare_count;
    scan->chain_count = scan->spare_count = 0;
    s->last = s->durable = scan->last;
    s->epoch = scan->epoch;
    s->next_number = scan->next_number;
    s->next_slot = scan->next_slot;
    s->damaged = scan->recovery.verdict == SAFE_DAMAGED;
    return 0;
}

int safe_open(const struct safe_config *config, struct safe **ret_safe,
              struct safe_recovery *ret_recovery, struct error *err)
{
    struct scan scan;
    int rc = config_check(config, err);

    if (rc == 0)
        rc = safe_scan(config, &scan, err);
    if (rc < 0)
        return rc;
    struct safe_recovery recovery = scan.recovery;
    struct safe *s = calloc(1, sizeof(*s));
    rc = s ? take_scan(s, &scan) : -ENOMEM;
    safe_scan_done(&scan);
    if (rc < 0) {
        safe_free(s);
        return error_sys(err, rc, "safe queue");
    }
    s->config = *config;
    s->segments_max = (uint32_t)MIN(config->limit / config->segment_size, SAFE_SEGMENTS_MAX);
    rc = sync_held(s, err);
    if (rc < 0) {
        safe_free(s);
        return rc;
    }
    check(s);
    *ret_safe = s;
    *ret_recovery = recovery;
    return 0;
}

struct safe *safe_free(struct safe *s)
{
    if (!s)
        return NULL;
    while (s->chain_count)
        safe_segment_free(s->chain[--s->chain_count]);
    while (s->spare_count)
        safe_segment_free(s->spare[--s->spare_count]);
    free(s->chain);
    free(s->spare);
    free(s);
    return NULL;
}

static int fail(struct safe *s, int rc, struct error *err, const char *what)
{
    s->failure = rc;
    return error_sys(err, rc, "safe queue: segment %u: %s", s->chain_count ? tail(s)->slot : 0,
                     what);
}

static int remove_spare(struct safe *s, uint32_t i)
{
    struct safe_segment *segment = s->spare[i];
    int rc = s->config.disk->ops->remove(s->config.disk, segment->slot);

    s->spare[i] = s->spare[--s->spare_count];
    safe_segment_free(segment);
    return rc;
}

// A free segment, or a new one as far as the limit goes. NULL and -ENOSPC, or another error of the
// disk. Free files of another size (from before a change of configuration, or an interrupted
// creation) are of no use.
static struct safe_segment *take_segment(struct safe *s, int *ret_rc)
{
    struct safe_segment *segment = NULL;

    *ret_rc = 0;
    while (*ret_rc == 0 && s->spare_count) {
        segment = s->spare[s->spare_count - 1];
        if (segment->size == s->config.segment_size) {
            s->spare_count--;
            return segment;
        }
        *ret_rc = remove_spare(s, s->spare_count - 1);
    }
    if (*ret_rc < 0)
        return NULL;
    *ret_rc = -ENOSPC;
    if (s->chain_count >= s->segments_max)
        return NULL;
    segment = NULL;
    *ret_rc = safe_segment_create(s->config.disk, s->next_slot, s->config.segment_size, &segment);
    if (*ret_rc == 0)
        s->next_slot++;
    return segment;
}

// Starts the next segment, for records from first_seq on, behind the chain as it is.
static int begin_segment(struct safe *s, uint64_t first_seq, uint64_t epoch, struct error *err)
{
    int rc;
    struct safe_segment *segment = take_segment(s, &rc);

    if (!segment && rc == -ENOSPC) {
        s->full = true;
        return error_set(err, -ENOSPC, "safe queue: full");
    }
    if (!segment)
        return fail(s, rc, err, "a segment cannot be created");
    segment->salt = s->config.salt;
    segment->number = s->next_number++;
    segment->previous = s->chain_count ? tail(s)->number : 0;
    segment->floor = s->chain_count ? s->chain[0]->number : segment->number;
    segment->first_seq = first_seq;
    segment->epoch = epoch;
    segment->durable = MIN(s->durable, first_seq - 1);
    segment->spoilt = false;
    rc = safe_segment_begin(segment, s->config.pair);
    if (rc < 0) {
        s->spare[s->spare_count++] = segment; // nothing is written any more before the next opening
        return fail(s, rc, err, "its header cannot be written");
    }
    s->chain[s->chain_count++] = segment;
    s->begun = true;
    return 0;
}

static int make_room(struct safe *s, uint64_t span, struct error *err)
{
    if (s->begun && tail(s)->size - tail(s)->end >= span)
        return 0;
    if (SAFE_ENTRIES_START + span > s->config.segment_size)
        return error_set(err, -EMSGSIZE, "safe queue: a batch of %llu bytes in segments of %llu",
                         (unsigned long long)span, (unsigned long long)s->config.segment_size);
    return begin_segment(s, s->last + 1, s->epoch, err);
}

static int appendable(const struct safe *s, struct error *err)
{
    if (s->failure < 0)
        return error_sys(err, s->failure, "safe queue: it has failed before");
    if (s->damaged)
        return error_set(err, -EUCLEAN, "safe queue: it is damaged");
    if (s->chain_count == 0)
        return error_set(err, -EINVAL, "safe queue: it was never started");
    return 0;
}

int safe_append(struct safe *s, const void *message, size_t size, struct error *err)
{
    const struct batch *b = message;
    const struct record *records = (const struct record *)(b + 1);
    uint32_t count = le32_get(b->count);
    uint64_t first = le64_get(b->first_seq);

    ENSURE(count > 0);
    uint64_t last = first + count - 1;
    ENSURE(first <= s->last + 1 && last > s->last);
    int rc = appendable(s, err);
    if (rc == 0)
        rc = make_room(s, safe_entry_span(size), err);
    if (rc < 0)
        return rc;
    uint64_t epoch = le64_get(records[count - 1].epoch);
    rc = safe_segment_append(tail(s), message, size, s->last + 1, last, epoch);
    if (rc == -ENOSPC) {
        s->full = true; // a file system that allocates anew at every write; the same place is
                        // written again later
        return error_sys(err, rc, "safe queue: segment %u", tail(s)->slot);
    }
    if (rc < 0)
        return fail(s, rc, err, "an entry cannot be written");
    s->last = last;
    s->epoch = epoch;
    s->full = false;
    check(s);
    return 0;
}

static void sync_part_done(struct disk_sync *sync, int status)
{
    struct safe *s = sync->owner;

    ENSURE(s->syncs > 0);
    if (status < 0 && s->sync_status == 0)
        s->sync_status = status;
    if (--s->syncs > 0)
        return;
    if (s->sync_status < 0)
        s->failure = s->failure ? s->failure : s->sync_status;
    else
        s->durable = MAX(s->durable, s->sync_last);
    check(s);
    s->sync_done(s->sync_arg, s->sync_status);
}

void safe_sync(struct safe *s, void (*done)(void *arg, int status), void *arg)
{
    ENSURE(s->syncs == 0);
    ENSURE(s->chain_count > 0);
    s->sync_status = s->failure;
    s->sync_last = s->last;
    s->sync_done = done;
    s->sync_arg = arg;
    tail(s)->dirty = true; // at least one, so that the answer comes in every case
    for (uint32_t i = 0; i < s->chain_count; i++)
        s->syncs += s->chain[i]->dirty;
    for (uint32_t i = 0; i < s->chain_count; i++) {
        struct safe_segment *segment = s->chain[i];
        if (!segment->dirty)
            continue;
        segment->dirty = false;
        segment->sync = (struct disk_sync){.done = sync_part_done, .owner = s};
        s->config.disk->ops->sync_start(segment->file, &segment->sync);
    }
}

bool safe_syncing(const struct safe *s)
{
    return s->syncs > 0;
}

int safe_failure(const struct safe *s)
{
    return s->failure ? s->failure : s->damaged ? -EUCLEAN : 0;
}

// Index in the chain; chain_count when it is not there.
static uint32_t find_number(const struct safe *s, uint64_t number)
{
    uint32_t i = 0;
    while (i < s->chain_count && s->chain[i]->number != number)
        i++;
    return i;
}

// The last seq that counts in chain[i].
static uint64_t bound(const struct safe *s, uint32_t i)
{
    return i + 1 < s->chain_count ? s->chain[i + 1]->first_seq - 1 : s->last;
}

static int damage(const struct safe_segment *segment, uint64_t offset, const char *what,
                  struct error *err)
{
    return error_set(err, -EUCLEAN, "safe queue: segment %u, offset %llu: %s", segment->slot,
                     (unsigned long long)offset, what);
}

int safe_seek(struct safe *s, uint64_t seq, struct safe_cursor *ret_cursor, struct error *err)
{
    ENSURE(seq >= first_held(s) && seq <= s->last + 1);
    if (seq == s->last + 1) {
        *ret_cursor = safe_end(s);
        return 0;
    }
    uint32_t i = 0;
    while (seq > bound(s, i))
        i++;
    const struct safe_segment *segment = s->chain[i];
    for (uint64_t offset = SAFE_ENTRIES_START;;) {
        struct safe_entry e;
        int rc;
        const char *broken = safe_segment_peek(segment, offset, &e, &rc);
        if (broken)
            return damage(segment, offset, broken, err);
        if (le64_get(e.last) >= seq) {
            *ret_cursor = (struct safe_cursor){segment->number, offset, seq};
            return 0;
        }
        offset += safe_entry_span(le32_get(e.size));
    }
}

int safe_read(struct safe *s, struct safe_cursor *cursor, void **ret_message, size_t *ret_size,
              struct error *err)
{
    ENSURE(cursor->seq <= s->last + 1);
    if (cursor->seq > s->last)
        return -ENODATA;
    uint32_t i = find_number(s, cursor->segment);
    uint64_t offset = cursor->offset;
    // At the end of a segment, and perhaps of one that has been settled since.
    if (i == s->chain_count || cursor->seq > bound(s, i)) {
        i = i == s->chain_count ? 0 : i + 1;
        while (cursor->seq > bound(s, i))
            i++;
        offset = SAFE_ENTRIES_START;
        ENSURE(cursor->seq == s->chain[i]->first_seq);
    }
    const struct safe_segment *segment = s->chain[i];
    struct safe_found found;
    int rc;
    const char *broken = safe_segment_read(segment, offset, &found, &rc);
    if (!broken && (cursor->seq < found.first || cursor->seq > found.last)) {
        free((void *)(uintptr_t)found.message);
        broken = "the entry holds other records than it did";
    }
    if (broken)
        return damage(segment, offset, broken, err);
    *cursor = (struct safe_cursor){segment->number, found.next, MIN(found.last, bound(s, i)) + 1};
    *ret_message = (void *)(uintptr_t)found.message;
    *ret_size = found.size;
    return 0;
}

static void hand_out(const struct safe_found *found, uint64_t from, uint64_t upto,
                     void (*seen)(void *arg, const struct record *record), void *arg)
{
    const struct record *records = (const struct record *)(found->message + 1);

    for (uint32_t i = 0; i < le32_get(found->message->count); i++) {
        uint64_t seq = le64_get(records[i].seq);
        if (seq >= from && seq <= upto)
            seen(arg, &records[i]);
    }
}

int safe_headers(struct safe *s, uint64_t seq, void (*seen)(void *arg, const struct record *record),
                 void *arg, struct error *err)
{
    ENSURE(seq >= first_held(s) && seq <= s->last + 1);
    for (uint32_t i = 0; i < s->chain_count && seq <= s->last; i++) {
        const struct safe_segment *segment = s->chain[i];
        for (uint64_t offset = SAFE_ENTRIES_START; seq <= bound(s, i);) {
            struct safe_entry e;
            struct safe_found found;
            int rc;
            const char *broken = safe_segment_peek(segment, offset, &e, &rc);
            if (!broken && le64_get(e.last) < seq) {
                offset += safe_entry_span(le32_get(e.size));
                continue;
            }
            if (!broken)
                broken = safe_segment_headers(segment, offset, &found, &rc);
            if (broken)
                return damage(segment, offset, broken, err);
            hand_out(&found, seq, bound(s, i), seen, arg);
            seq = MIN(found.last, bound(s, i)) + 1;
            offset = found.next;
            free((void *)(uintptr_t)found.message);
        }
    }
    return 0;
}

struct safe_cursor safe_end(const struct safe *s)
{
    if (s->chain_count == 0)
        return (struct safe_cursor){0, 0, s->last + 1};
    return (struct safe_cursor){tail(s)->number, tail(s)->end, s->last + 1};
}

static void set_free(struct safe *s, uint32_t i)
{
    ENSURE(i < s->chain_count);
    s->spare[s->spare_count++] = s->chain[i];
    s->chain_count--;
    memmove(&s->chain[i], &s->chain[i + 1], (s->chain_count - i) * sizeof(*s->chain));
}

void safe_settled(struct safe *s, uint64_t seq)
{
    while (s->chain_count > 1 && bound(s, 0) <= seq && !s->chain[0]->dirty) {
        set_free(s, 0);
        s->full = false;
    }
    check(s);
}

bool safe_wants_room(const struct safe *s, uint64_t seq)
{
    if (s->chain_count < 2 || bound(s, 0) > seq)
        return false;
    return s->full || (s->spare_count == 0 && tail(s)->end > tail(s)->size / 2);
}

// Files whose header was found bad would make the next opening call the queue damaged again.
static int remove_spoilt(struct safe *s, struct error *err)
{
    bool removed = false;
    int rc = 0;

    for (uint32_t i = s->spare_count; rc == 0 && i-- > 0;) {
        if (!s->spare[i]->spoilt)
            continue;
        rc = remove_spare(s, i);
        removed = true;
    }
    if (rc == 0 && removed)
        rc = s->config.disk->ops->dir_sync(s->config.disk);
    return rc < 0 ? fail(s, rc, err, "a file that cannot be read cannot be removed either") : 0;
}

// The epoch of the record `seq`, which is held or the one before the first that is.
static int epoch_at(struct safe *s, uint64_t seq, uint64_t *ret_epoch, struct error *err)
{
    struct safe_cursor cursor;
    CLEANUP_FREE void *message = NULL;
    size_t size;

    if (seq == s->last || seq + 1 == first_held(s)) {
        *ret_epoch = seq == s->last ? s->epoch : s->chain[0]->epoch;
        return 0;
    }
    int rc = safe_seek(s, seq, &cursor, err);
    if (rc == 0)
        rc = safe_read(s, &cursor, &message, &size, err);
    if (rc < 0)
        return rc;
    const struct batch *b = message;
    const struct record *records = (const struct record *)(b + 1);
    *ret_epoch = le64_get(records[seq - le64_get(b->first_seq)].epoch);
    return 0;
}

// Begins a segment that says that nothing behind `seq` counts, and forgets it here, too.
static int cut(struct safe *s, uint64_t seq, uint64_t epoch, struct error *err)
{
    int rc = s->failure ? fail(s, s->failure, err, "it has failed before") : 0;

    if (rc == 0)
        rc = remove_spoilt(s, err);
    if (rc == 0)
        rc = begin_segment(s, seq + 1, epoch, err);
    if (rc < 0)
        return rc;
    s->last = seq;
    s->epoch = epoch;
    s->durable = MIN(s->durable, seq);
    s->damaged = false;
    s->full = false;
    check(s);
    return 0;
}

int safe_discard_after(struct safe *s, uint64_t seq, struct error *err)
{
    uint64_t epoch = 0;

    ENSURE(s->syncs == 0);
    ENSURE(s->chain_count > 0);
    ENSURE(seq + 1 >= first_held(s) && seq <= s->last);
    int rc = epoch_at(s, seq, &epoch, err);
    // Segments with nothing else in them leave the chain; the oldest stays, for its header.
    while (rc == 0 && s->chain_count > 1 && tail(s)->first_seq > seq) {
        s->last = tail(s)->first_seq - 1;
        s->durable = MIN(s->durable, s->last);
        s->begun = false;
        set_free(s, s->chain_count - 1);
    }
    return rc < 0 ? rc : cut(s, seq, epoch, err);
}

int safe_restart(struct safe *s, uint64_t epoch, uint64_t seq, struct error *err)
{
    ENSURE(s->syncs == 0);
    ENSURE(seq > 0);
    while (s->chain_count > 0)
        set_free(s, 0);
    s->begun = false;
    s->last = s->durable = 0;
    int rc = cut(s, seq - 1, epoch, err);
    if (rc == 0)
        s->durable = s->last;
    return rc;
}

void safe_stats(const struct safe *s, struct safe_stats *ret)
{
    *ret = (struct safe_stats){
        .first = first_held(s),
        .last = s->last,
        .epoch = s->epoch,
        .base_epoch = s->chain_count ? s->chain[0]->epoch : 0,
        .bytes_limit = s->config.limit,
        .segments_used = s->chain_count,
        .segments_free = s->spare_count,
        .full = s->full,
    };
    for (uint32_t i = 0; i < s->chain_count; i++)
        ret->bytes_used += s->chain[i]->size;
}

const char *safe_verdict_name(enum safe_verdict verdict)
{
    static const char *const names[] = {
        [SAFE_EMPTY] = "empty",
        [SAFE_CLEAN] = "clean",
        [SAFE_TORN] = "torn",
        [SAFE_DAMAGED] = "damaged",
    };
    return (unsigned)verdict < ARRAY_LEN(names) ? names[verdict] : "unknown";
}
