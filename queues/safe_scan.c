// SPDX-License-Identifier: Apache-2.0
// What an opening finds in the directory of a safe queue (safe_scan.h).
//
// 1. Every file's header is read. The newest use (largest number) says how far back the queue goes: its floor; each
//    header names the one before it. That chain is followed back.
// 2. The entries of the chain are walked forwards. A segment's records end where the next one begins: what stands
//    behind that was given up when the next one was started.
// 3. At the first place that cannot be read the walk ends. What lies behind is looked at for one reason: a whole
//    entry there says how far the active end had seen its records confirmed.
// 4. The table decides.
#include "queues/safe_scan.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"

enum want { ANY, YES, NO };

// clang-format off
static const struct row {
    enum want facts[FACTS]; // used, readable, spoilt, linked, whole, beyond, proven
    enum scan_decision decision;
} table[] = {
    // No file, or only files whose creation was interrupted.
    {{NO,  NO,  NO,  NO,  NO,  NO,  NO }, DECIDE_EMPTY},
    // The same, but records had been confirmed: somebody removed the queue.
    {{NO,  NO,  NO,  NO,  NO,  NO,  YES}, DECIDE_DAMAGED},
    // Headers, and none can be read. A crash does not do that: one copy is always left alone.
    {{YES, NO,  YES, NO,  NO,  NO,  ANY}, DECIDE_DAMAGED},
    // A header that was lost for the same reason beside others: it may have been the newest.
    {{YES, YES, YES, ANY, ANY, ANY, ANY}, DECIDE_DAMAGED},
    // A segment in the middle is gone, though its header was durable before the next one began.
    {{YES, YES, NO,  NO,  NO,  NO,  ANY}, DECIDE_DAMAGED},
    // A record had been confirmed and cannot be read: at the end, or with others behind it.
    {{YES, YES, NO,  YES, ANY, ANY, YES}, DECIDE_DAMAGED},
    // A crash in front of the sync: the new segment's header was durable, the former one's last records were not.
    {{YES, YES, NO,  YES, NO,  ANY, NO }, DECIDE_TORN},
    // A crash in front of the sync: the disk wrote a part of an entry, or later entries before earlier ones.
    {{YES, YES, NO,  YES, YES, YES, NO }, DECIDE_TORN},
    // The end of the queue, or a tail of which nothing has reached the disk.
    {{YES, YES, NO,  YES, YES, NO,  NO }, DECIDE_CLEAN},
    // Facts that cannot be: good and bad headers make a queue used and nothing else does; without a good one nothing is
    // linked; without a chain nothing is walked.
    {{NO,  YES, ANY, ANY, ANY, ANY, ANY}, DECIDE_IMPOSSIBLE},
    {{NO,  NO,  YES, ANY, ANY, ANY, ANY}, DECIDE_IMPOSSIBLE},
    {{NO,  NO,  NO,  YES, ANY, ANY, ANY}, DECIDE_IMPOSSIBLE},
    {{NO,  NO,  NO,  NO,  YES, ANY, ANY}, DECIDE_IMPOSSIBLE},
    {{NO,  NO,  NO,  NO,  NO,  YES, ANY}, DECIDE_IMPOSSIBLE},
    {{YES, NO,  NO,  ANY, ANY, ANY, ANY}, DECIDE_IMPOSSIBLE},
    {{YES, NO,  YES, YES, ANY, ANY, ANY}, DECIDE_IMPOSSIBLE},
    {{YES, NO,  YES, NO,  YES, ANY, ANY}, DECIDE_IMPOSSIBLE},
    {{YES, NO,  YES, NO,  NO,  YES, ANY}, DECIDE_IMPOSSIBLE},
    {{YES, YES, NO,  NO,  YES, ANY, ANY}, DECIDE_IMPOSSIBLE},
    {{YES, YES, NO,  NO,  NO,  YES, ANY}, DECIDE_IMPOSSIBLE},
};
// clang-format on

static bool row_matches(const struct row *row, unsigned facts)
{
    for (unsigned i = 0; i < FACTS; i++) {
        bool fact = facts >> i & 1;
        if ((row->facts[i] == YES && !fact) || (row->facts[i] == NO && fact))
            return false;
    }
    return true;
}

unsigned scan_rows_matching(unsigned facts)
{
    unsigned count = 0;
    for (unsigned i = 0; i < ARRAY_LEN(table); i++)
        count += row_matches(&table[i], facts);
    return count;
}

enum scan_decision scan_decide(unsigned facts, unsigned *ret_row)
{
    unsigned i = 0;
    while (i < ARRAY_LEN(table) && !row_matches(&table[i], facts))
        i++;
    ENSURE(i < ARRAY_LEN(table));
    if (ret_row)
        *ret_row = i;
    return table[i].decision;
}

// The state of one scan.
struct walk {
    const struct safe_config *config;
    struct scan *scan;
    struct safe_segment **good; // files with a good header, in any order
    uint32_t good_count;
    uint32_t slots[SAFE_SEGMENTS_MAX];
    uint32_t slot_count;
    bool too_many;
    unsigned facts;
    uint64_t promised; // the highest position known to have been confirmed
    uint64_t known;    // up to here the headers of all records can be read,
    uint64_t written;  // and so far some were written at least
    int read_error;    // 0 or -errno: the walk ended because the disk (or memory) failed
    struct error *err;
};

static void fact(struct walk *w, enum scan_fact which)
{
    w->facts |= 1U << which;
}

static void found_slot(void *arg, uint32_t slot)
{
    struct walk *w = arg;
    if (w->slot_count == SAFE_SEGMENTS_MAX)
        w->too_many = true;
    else
        w->slots[w->slot_count++] = slot;
}

static int take_file(struct walk *w, uint32_t slot)
{
    struct safe_segment *segment;
    enum safe_header_state state;
    int rc = safe_segment_open(w->config->disk, slot, w->config->pair, &segment, &state);

    if (rc < 0)
        return error_sys(w->err, rc, "safe queue: segment %u cannot be opened", slot);
    if (state == HEADER_FOREIGN) {
        safe_segment_free(segment);
        return error_set(w->err, -EINVAL,
                         "safe queue: segment %u belongs to another pair or was written by another "
                         "version; remove the queue's directory if it is not needed any more",
                         slot);
    }
    segment->spoilt = state == HEADER_BAD;
    if (state != HEADER_BLANK)
        fact(w, FACT_USED);
    if (state == HEADER_BAD)
        fact(w, FACT_SPOILT);
    if (state == HEADER_GOOD) {
        fact(w, FACT_READABLE);
        w->good[w->good_count++] = segment;
        w->scan->next_number = MAX(w->scan->next_number, segment->number + 1);
    } else {
        w->scan->spare[w->scan->spare_count++] = segment;
    }
    w->scan->next_slot = MAX(w->scan->next_slot, slot + 1);
    return 0;
}

static int take_files(struct walk *w)
{
    int rc = w->config->disk->ops->list(w->config->disk, found_slot, w);
    if (rc < 0)
        return error_sys(w->err, rc, "safe queue: its directory cannot be read");
    if (w->too_many)
        return error_set(w->err, -E2BIG, "safe queue: more than %u segments in its directory",
                         SAFE_SEGMENTS_MAX);
    size_t room = w->slot_count + 1;
    w->good = calloc(room, sizeof(*w->good));
    w->scan->spare = calloc(room, sizeof(*w->scan->spare));
    w->scan->chain = calloc(room, sizeof(*w->scan->chain));
    if (!w->good || !w->scan->spare || !w->scan->chain)
        return error_sys(w->err, -ENOMEM, "safe queue");
    for (uint32_t i = 0; i < w->slot_count; i++) {
        rc = take_file(w, w->slots[i]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

// Takes the good segment with this number out of the list; NULL when there is none. Numbers are
// unique.
static struct safe_segment *take_number(struct walk *w, uint64_t number)
{
    for (uint32_t i = 0; i < w->good_count; i++) {
        struct safe_segment *segment = w->good[i];
        if (segment->number == number) {
            w->good[i] = w->good[--w->good_count];
            return segment;
        }
    }
    return NULL;
}

static void spare(struct walk *w, struct safe_segment *segment)
{
    w->scan->spare[w->scan->spare_count++] = segment;
}

// Follows the chain back from the newest segment. On return chain[] is in order, oldest first.
// Where a link is missing, what is older is not used at all: how much of it had been given up later
// is written in the segment that is missing.
static void find_chain(struct walk *w)
{
    struct scan *scan = w->scan;
    struct safe_segment *s = take_number(w, scan->next_number - 1);

    ENSURE(s);
    uint64_t floor = s->floor;
    while (s) {
        scan->chain[scan->chain_count++] = s;
        if (s->number == floor)
            fact(w, FACT_LINKED);
        s = s->number > floor && s->previous ? take_number(w, s->previous) : NULL;
    }
    for (uint32_t i = 0; i < scan->chain_count / 2; i++) {
        s = scan->chain[i];
        scan->chain[i] = scan->chain[scan->chain_count - 1 - i];
        scan->chain[scan->chain_count - 1 - i] = s;
    }
    for (uint32_t i = 0; i < scan->chain_count; i++)
        w->promised = MAX(w->promised, scan->chain[i]->durable);
}

// The last seq that may count in chain[i].
static uint64_t bound(const struct scan *scan, uint32_t i)
{
    return i + 1 < scan->chain_count ? scan->chain[i + 1]->first_seq - 1 : UINT64_MAX;
}

// The records of an entry that count: those from found->first up to `upto`.
static void hand_out(struct walk *w, const struct safe_found *found, uint64_t upto)
{
    const struct batch *b = found->message;
    const struct record *records = (const struct record *)(b + 1);
    const uint8_t *payload = (const uint8_t *)(records + le32_get(b->count));

    for (uint32_t i = 0; i < le32_get(b->count); i++) {
        uint64_t seq = le64_get(records[i].seq);
        if (seq >= found->first && seq <= upto) {
            w->scan->epoch = le64_get(records[i].epoch);
            if (w->config->seen)
                w->config->seen(w->config->arg, &records[i], payload);
        }
        payload += le32_get(records[i].payload);
    }
}

static void stop_at(struct walk *w, const struct safe_segment *s, uint64_t offset,
                    const char *reason)
{
    struct safe_recovery *r = &w->scan->recovery;
    r->at_seq = w->scan->last + 1;
    r->slot = s->slot;
    r->offset = offset;
    r->reason = reason;
}

// Walks one segment's entries. True: its records go on to where the next segment begins.
static bool walk_segment(struct walk *w, uint32_t i)
{
    struct safe_segment *s = w->scan->chain[i];
    uint64_t limit = bound(w->scan, i);
    uint64_t offset = SAFE_ENTRIES_START;
    const char *broken = NULL;

    while (w->scan->last < limit) {
        struct safe_found found;
        broken = safe_segment_read(s, offset, &found, &w->read_error);
        if (!broken && found.first != w->scan->last + 1) {
            broken = "the entry does not follow the one before it";
            free((void *)(uintptr_t)found.message);
        }
        if (broken)
            break;
        uint64_t upto = MIN(found.last, limit);
        hand_out(w, &found, upto);
        w->promised = MAX(w->promised, le64_get(found.message->promised));
        free((void *)(uintptr_t)found.message);
        w->scan->last = upto;
        offset = found.next;
    }
    s->end = offset;
    if (broken)
        stop_at(w, s, offset, broken);
    return !broken;
}

// The records of an entry behind the hole. Their headers are whole.
static void beyond(struct walk *w, const struct safe_found *found, uint64_t limit)
{
    const struct record *records = (const struct record *)(found->message + 1);

    for (uint32_t i = 0; w->config->beyond && i < le32_get(found->message->count); i++) {
        uint64_t seq = le64_get(records[i].seq);
        if (seq > w->scan->last && seq <= limit)
            w->config->beyond(w->config->arg, &records[i]);
    }
    w->promised = MAX(w->promised, le64_get(found->message->promised));
    if (found->first <= w->known + 1)
        w->known = MAX(w->known, MIN(found->last, limit));
}

// Everything in chain[i] from `offset` on, behind a hole.
static void look_beyond(struct walk *w, uint32_t i, uint64_t offset)
{
    const struct safe_segment *s = w->scan->chain[i];
    uint64_t limit = bound(w->scan, i);
    int error;

    while ((offset = safe_segment_search(s, offset, &error)) != 0) {
        struct safe_found found;
        struct safe_entry e;
        fact(w, FACT_BEYOND);
        if (!safe_segment_peek(s, offset, &e, &error))
            w->written = MAX(w->written, MIN(le64_get(e.last), limit));
        if (safe_segment_headers(s, offset, &found, &error)) {
            offset += SAFE_ENTRY_ALIGN;
            continue;
        }
        if (found.first <= limit)
            beyond(w, &found, limit);
        if (found.first <= limit && !safe_segment_payloads(&found)) {
            w->scan->recovery.beyond_records += found.last - found.first + 1;
            w->scan->recovery.beyond_bytes += le32_get(found.message->bytes);
        }
        free((void *)(uintptr_t)found.message);
        offset = found.next;
    }
}

static void walk_chain(struct walk *w)
{
    struct scan *scan = w->scan;
    uint32_t i = 0;

    scan->last = scan->chain[0]->first_seq - 1;
    scan->epoch = scan->chain[0]->epoch;
    while (i < scan->chain_count && walk_segment(w, i))
        i++;
    w->known = scan->last;
    // The newest segment has no next one to reach to: the walk always ends somewhere, at the latest
    // in it.
    ENSURE(i < scan->chain_count);
    if (i + 1 == scan->chain_count)
        fact(w, FACT_WHOLE);
    look_beyond(w, i, scan->chain[i]->end);
    for (uint32_t k = i + 1; k < scan->chain_count; k++)
        look_beyond(w, k, SAFE_ENTRIES_START);
    // What lies behind the hole is not part of the queue any more.
    while (scan->chain_count > i + 1)
        spare(w, scan->chain[--scan->chain_count]);
    if (w->promised > scan->last || w->read_error < 0)
        fact(w, FACT_PROVEN);
    // A tail that looks torn may be damage: what was applied of it is taken back by the next replay.
    scan->recovery.unknown = w->known < MAX(w->promised, w->written) || w->read_error < 0;
}

static void nothing_held(struct walk *w, const char *reason)
{
    struct scan *scan = w->scan;

    while (scan->chain_count)
        spare(w, scan->chain[--scan->chain_count]);
    scan->last = 0;
    scan->recovery.at_seq = 1;
    scan->recovery.reason = reason;
    scan->recovery.unknown = true;
    if (w->promised > 0)
        fact(w, FACT_PROVEN);
}

static void look(struct walk *w)
{
    w->promised = w->config->confirmed;
    if (!(w->facts & 1U << FACT_READABLE)) {
        nothing_held(w, w->facts & 1U << FACT_USED ? "no segment's header can be read"
                                                   : "the queue is not there");
        return;
    }
    find_chain(w);
    if (w->facts & 1U << FACT_LINKED)
        walk_chain(w);
    else
        nothing_held(w, "a segment that is still needed is missing, or its header cannot be read");
}

static void decide(struct walk *w)
{
    static const enum safe_verdict verdicts[] = {
        [DECIDE_EMPTY] = SAFE_EMPTY,
        [DECIDE_CLEAN] = SAFE_CLEAN,
        [DECIDE_TORN] = SAFE_TORN,
        [DECIDE_DAMAGED] = SAFE_DAMAGED,
    };
    struct scan *scan = w->scan;
    enum scan_decision decision = scan_decide(w->facts, NULL);

    ENSURE(decision != DECIDE_IMPOSSIBLE);
    if (decision == DECIDE_CLEAN || decision == DECIDE_EMPTY)
        scan->recovery = (struct safe_recovery){0}; // the walk ended where the queue does
    scan->recovery.verdict = verdicts[decision];
    if (w->facts & 1U << FACT_SPOILT) // it may have been the newest
        scan->recovery.unknown = true;
    scan->recovery.first = scan->chain_count ? scan->chain[0]->first_seq : 1;
    scan->recovery.last = scan->last;
}

int safe_scan(const struct safe_config *config, struct scan *ret_scan, struct error *err)
{
    struct scan scan = {.next_number = 1};
    CLEANUP_FREE struct walk *w = calloc(1, sizeof(*w));

    if (!w)
        return error_sys(err, -ENOMEM, "safe queue");
    w->config = config;
    w->scan = &scan;
    w->err = err;
    int rc = take_files(w);
    if (rc == 0)
        look(w);
    // Memory may be there again the next time: that is no reason to give up records.
    if (rc == 0 && w->read_error == -ENOMEM)
        rc = error_sys(err, -ENOMEM, "safe queue: it cannot be read");
    if (rc == 0)
        decide(w);
    while (w->good_count)
        spare(w, w->good[--w->good_count]);
    free(w->good);
    if (rc < 0)
        safe_scan_done(&scan);
    else
        *ret_scan = scan;
    return rc;
}

void safe_scan_done(struct scan *scan)
{
    for (uint32_t i = 0; i < scan->chain_count; i++)
        safe_segment_free(scan->chain[i]);
    for (uint32_t i = 0; i < scan->spare_count; i++)
        safe_segment_free(scan->spare[i]);
    free(scan->chain);
    free(scan->spare);
    *scan = (struct scan){0};
}
