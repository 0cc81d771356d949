// SPDX-License-Identifier: Apache-2.0
#include "queues/spill_inspect.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "queues/safe_segment.h"

#define SEGMENTS_MAX 65536U

struct look {
    struct disk *disk;
    uint64_t pair, salt, last;
    const struct inspect *inspect;
    struct spill_summary summary;
    uint32_t *slots;
    uint32_t slot_count;
    struct safe_segment **ours;
    uint64_t next; // the record that is looked for
    int status;
};

static void tell(const struct look *l, uint32_t slot, uint64_t offset, const char *what)
{
    struct inspect_finding finding = {INSPECT_DAMAGE, slot, offset, what};
    l->inspect->found(l->inspect->arg, &finding);
}

static void add_slot(void *arg, uint32_t slot)
{
    struct look *l = arg;
    if (l->slot_count == SEGMENTS_MAX)
        return;
    uint32_t *grown = reallocarray(l->slots, l->slot_count + 1, sizeof(*grown));
    l->status = grown ? l->status : -ENOMEM;
    if (!grown)
        return;
    l->slots = grown;
    l->slots[l->slot_count++] = slot;
}

static int open_slots(struct look *l)
{
    l->ours = calloc(l->slot_count + 1, sizeof(struct safe_segment *));
    if (!l->ours)
        return -ENOMEM;
    for (uint32_t i = 0; i < l->slot_count; i++) {
        struct safe_segment *s = NULL;
        enum safe_header_state state = HEADER_BAD;
        int r = safe_segment_open(l->disk, l->slots[i], l->pair, &s, &state);
        if (r == -ENOMEM)
            return r;
        if (r == 0 && state == HEADER_GOOD && s->salt == l->salt) {
            l->ours[l->summary.segments++] = s;
        } else {
            l->summary.others++;
            safe_segment_free(s);
        }
    }
    return 0;
}

static int by_number(const void *a, const void *b)
{
    const struct safe_segment *x = *(struct safe_segment *const *)a;
    const struct safe_segment *y = *(struct safe_segment *const *)b;
    return x->number < y->number ? -1 : x->number > y->number;
}

// Behind the last record that counts as spilled lies what was being written when the owner died.
static void walk(struct look *l, const struct safe_segment *s)
{
    uint64_t offset = SAFE_ENTRIES_START;
    struct safe_entry e;
    int error;
    while (!safe_segment_peek(s, offset, &e, &error)) {
        bool wanted = le64_get(e.first) <= l->next && le64_get(e.last) >= l->next && le64_get(e.last) <= l->last;
        struct safe_found found;
        const char *broken = wanted ? safe_segment_read(s, offset, &found, &error) : NULL;
        if (broken) {
            tell(l, s->slot, offset, broken);
        } else if (wanted) {
            l->summary.bytes += le32_get(found.message->bytes);
            free((void *)(uintptr_t)found.message);
        }
        if (wanted)
            l->next = le64_get(e.last) + 1;
        offset += safe_entry_span(le32_get(e.size));
    }
    if (error < 0)
        tell(l, s->slot, offset, "the segment cannot be read from the disk");
}

int spill_inspect(struct disk *disk, uint64_t pair, uint64_t salt, uint64_t first, uint64_t last,
                  const struct inspect *inspect, struct spill_summary *ret_summary, struct error *err)
{
    struct look l = {
        .disk = disk, .pair = pair, .salt = salt, .last = last, .inspect = inspect, .next = first};
    int r = disk->ops->list(disk, add_slot, &l);
    if (r == 0)
        r = l.status;
    if (r == 0)
        r = open_slots(&l);
    if (r == 0)
        qsort(l.ours, l.summary.segments, sizeof(struct safe_segment *), by_number);
    for (uint32_t i = 0; r == 0 && i < l.summary.segments; i++)
        walk(&l, l.ours[i]);
    if (r == 0 && salt && l.next <= last)
        tell(&l, 0, 0, "records that the unsafe queue has on disk are missing");
    for (uint32_t i = 0; i < l.summary.segments; i++)
        safe_segment_free(l.ours[i]);
    free(l.ours);
    free(l.slots);
    if (r < 0)
        return error_sys(err, r, "what was spilled cannot be read");
    *ret_summary = l.summary;
    return 0;
}
