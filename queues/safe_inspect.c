// SPDX-License-Identifier: Apache-2.0
// safe_scan() establishes what an opening makes of the queue; what is here names all that is wrong with it.
//
// Behind the first hole nothing counts any more, so nothing there can be believed to be the only damage: entries are
// searched for by their headers, and where two of them do not join, something between them is gone.
#include "queues/safe_inspect.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "queues/safe_scan.h"

struct look {
    const struct inspect *inspect;
    const struct scan *scan;
    struct safe_segment **behind; // segments with a good header from the hole on, in order
    uint32_t count;
    uint64_t next; // the seq that is expected next
};

static void tell(const struct look *l, enum inspect_kind kind, uint32_t slot, uint64_t offset,
                 const char *what)
{
    struct inspect_finding finding = {kind, slot, offset, what};
    l->inspect->found(l->inspect->arg, &finding);
}

// A good copy of the header beside a bad one is enough for an opening: it is damage all the same, since headers are
// written by turns and each lies within one sector.
static void look_at_headers(const struct look *l, const struct safe_segment *s)
{
    static const char *const texts[] = {"copy 0 of the header does not match its checksum",
                                        "copy 1 of the header does not match its checksum"};
    bool blank = s->copies[0] == HEADER_BLANK || s->copies[1] == HEADER_BLANK;
    bool good = s->copies[0] == HEADER_GOOD || s->copies[1] == HEADER_GOOD;
    for (unsigned i = 0; i < 2; i++) {
        if (s->copies[i] == HEADER_BAD)
            tell(l, blank && !good ? INSPECT_TORN : INSPECT_DAMAGE, s->slot, i * SAFE_HEADER_STEP,
                 texts[i]);
    }
}

static int by_number(const void *a, const void *b)
{
    const struct safe_segment *x = *(struct safe_segment *const *)a;
    const struct safe_segment *y = *(struct safe_segment *const *)b;
    return x->number < y->number ? -1 : x->number > y->number;
}

static bool has_header(const struct safe_segment *s)
{
    return s->copies[0] == HEADER_GOOD || s->copies[1] == HEADER_GOOD;
}

// The segments from the one with the hole on; all that are not void where no chain could be made.
static int collect_behind(struct look *l)
{
    const struct scan *scan = l->scan;
    const struct safe_segment *last = scan->chain_count ? scan->chain[scan->chain_count - 1] : NULL;
    uint64_t floor = 0, newest = 0;
    l->behind = calloc(scan->spare_count + 1, sizeof(*l->behind));
    if (!l->behind)
        return -ENOMEM;
    if (last)
        l->behind[l->count++] = scan->chain[scan->chain_count - 1];
    for (uint32_t i = 0; i < scan->spare_count; i++) {
        if (has_header(scan->spare[i]) && scan->spare[i]->number > newest) {
            newest = scan->spare[i]->number;
            floor = scan->spare[i]->floor;
        }
    }
    for (uint32_t i = 0; i < scan->spare_count; i++) {
        struct safe_segment *s = scan->spare[i];
        if (has_header(s) && (last ? s->number > last->number : s->number >= floor))
            l->behind[l->count++] = s;
    }
    qsort(l->behind, l->count, sizeof(struct safe_segment *), by_number);
    return 0;
}

// All entries of one segment from `offset` on, up to the seq where the next segment begins. `told`: the hole at
// `offset` has been reported.
static void look_behind(struct look *l, const struct safe_segment *s, uint64_t offset, uint64_t limit, bool told)
{
    uint64_t end = offset, at;
    int error;
    while ((at = safe_segment_search(s, offset, &error)) != 0) {
        struct safe_found found;
        const char *broken = safe_segment_read(s, at, &found, &error);
        if (broken) {
            if (!told || at != end)
                tell(l, INSPECT_DAMAGE, s->slot, at, broken);
            told = true;
            offset = at + SAFE_ENTRY_ALIGN;
            continue;
        }
        free((void *)(uintptr_t)found.message);
        if (found.first > limit)
            break;
        if (found.first > l->next && !told)
            tell(l, INSPECT_DAMAGE, s->slot, end, "an entry is missing here");
        l->next = found.last + 1;
        offset = end = found.next;
        told = false;
    }
    if (error < 0)
        tell(l, INSPECT_DAMAGE, s->slot, offset, "the segment cannot be read from the disk");
}

static int look_behind_all(struct look *l)
{
    const struct safe_recovery *r = &l->scan->recovery;
    int rc = collect_behind(l);
    for (uint32_t i = 0; rc == 0 && i < l->count; i++) {
        const struct safe_segment *s = l->behind[i];
        bool first = l->scan->chain_count && i == 0;
        uint64_t limit = i + 1 < l->count ? l->behind[i + 1]->first_seq - 1 : UINT64_MAX;
        l->next = MAX(l->next, s->first_seq);
        look_behind(l, s, first ? r->offset : SAFE_ENTRIES_START, limit, first);
    }
    free(l->behind);
    return rc;
}

int safe_inspect(const struct safe_config *config, const struct inspect *inspect,
                 struct safe_summary *ret_summary, struct error *err)
{
    struct scan scan = {0};
    int rc = safe_scan(config, &scan, err);
    if (rc < 0)
        return rc;
    const struct safe_recovery *r = &scan.recovery;
    struct look l = {.inspect = inspect, .scan = &scan, .next = r->at_seq};
    for (uint32_t i = 0; i < scan.chain_count; i++)
        look_at_headers(&l, scan.chain[i]);
    for (uint32_t i = 0; i < scan.spare_count; i++)
        look_at_headers(&l, scan.spare[i]);
    if (r->verdict == SAFE_TORN)
        tell(&l, INSPECT_TORN, r->slot, r->offset, r->reason);
    if (r->verdict == SAFE_DAMAGED) {
        tell(&l, INSPECT_DAMAGE, r->slot, r->offset, r->reason);
        rc = look_behind_all(&l);
    }
    *ret_summary = (struct safe_summary){.recovery = scan.recovery,
                                         .epoch = scan.epoch,
                                         .segments = scan.chain_count,
                                         .spare = scan.spare_count};
    safe_scan_done(&scan);
    return rc < 0 ? error_sys(err, rc, "safe queue") : 0;
}
