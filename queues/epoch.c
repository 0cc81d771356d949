// SPDX-License-Identifier: Apache-2.0
// Epochs and histories (epoch.h).
//
// Encoded epoch, little-endian, 64 bytes: version u8, opener u8, reason u8, parents u8, number u32,
// id u64, first_seq u64, time u64, then for both parents id u64, seq u64 (zero where there is
// none). Encoded history: magic u32, version u8, truncated u8, zero u16, count u32, zero u32, then
// the epochs.
#include "queues/epoch.h"

#include <stdlib.h>

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/error.h"

#define EPOCH_VERSION   1
#define HISTORY_MAGIC   UINT32_C(0x48455355) // "USEH"
#define HISTORY_VERSION 1
#define HISTORY_HEADER  16

_Static_assert(HISTORY_ENCODED_MAX == HISTORY_HEADER + HISTORY_EPOCHS_MAX * EPOCH_ENCODED_SIZE,
               "the header says how large an encoded history may be");

void epoch_encode(const struct epoch *epoch, uint8_t *out)
{
    struct byte_writer w = byte_writer(out, EPOCH_ENCODED_SIZE);

    byte_put_u8(&w, EPOCH_VERSION);
    byte_put_u8(&w, (uint8_t)epoch->opened_by);
    byte_put_u8(&w, (uint8_t)epoch->reason);
    byte_put_u8(&w, (uint8_t)epoch->parents);
    byte_put_u32(&w, epoch->number);
    byte_put_u64(&w, epoch->id);
    byte_put_u64(&w, epoch->first_seq);
    byte_put_u64(&w, epoch->time);
    for (uint32_t i = 0; i < EPOCH_PARENTS_MAX; i++) {
        bool there = i < epoch->parents;
        byte_put_u64(&w, there ? epoch->parent[i].id : 0);
        byte_put_u64(&w, there ? epoch->parent[i].seq : 0);
    }
    ENSURE(!w.bad && w.used == EPOCH_ENCODED_SIZE);
}

const char *epoch_decode(const void *data, size_t size, struct epoch *ret_epoch)
{
    struct byte_reader r = byte_reader(data, size);
    struct epoch e = {0};

    if (size != EPOCH_ENCODED_SIZE)
        return "an encoded epoch has another size";
    if (byte_u8(&r) != EPOCH_VERSION)
        return "unknown version of an epoch";
    e.opened_by = byte_u8(&r);
    e.reason = byte_u8(&r);
    e.parents = byte_u8(&r);
    e.number = byte_u32(&r);
    e.id = byte_u64(&r);
    e.first_seq = byte_u64(&r);
    e.time = byte_u64(&r);
    for (uint32_t i = 0; i < EPOCH_PARENTS_MAX; i++) {
        e.parent[i].id = byte_u64(&r);
        e.parent[i].seq = byte_u64(&r);
        if (i >= e.parents && (e.parent[i].id || e.parent[i].seq))
            return "an epoch names a parent that it does not count";
    }
    const char *broken = epoch_invalid(&e);
    if (!broken)
        *ret_epoch = e;
    return broken;
}

const char *epoch_invalid(const struct epoch *e)
{
    if (e->opened_by != EPOCH_BY_PRIMARY && e->opened_by != EPOCH_BY_SECONDARY)
        return "an epoch was opened by nobody known";
    if (e->reason < EPOCH_FIRST_START || e->reason >= EPOCH_REASON_END)
        return "an epoch has an unknown reason";
    if (e->parents > EPOCH_PARENTS_MAX)
        return "an epoch has too many parents";
    if (e->number == 0 || e->id == 0)
        return "an epoch has no number or no id";
    if (e->first_seq == 0 || e->first_seq == EPOCH_SEQ_UNKNOWN)
        return "an epoch has no first seq";
    for (uint32_t i = 0; i < e->parents; i++) {
        const struct epoch_parent *p = &e->parent[i];
        if (p->id == 0 || p->id == e->id)
            return "an epoch's parent has no id, or its own";
        if (p->seq != EPOCH_SEQ_UNKNOWN && p->seq >= e->first_seq)
            return "an epoch begins before the end of its parent";
    }
    if (e->parents == 2 && e->parent[0].id == e->parent[1].id)
        return "an epoch names the same parent twice";
    return NULL;
}

const char *epoch_reason_name(enum epoch_reason reason)
{
    static const char *const names[EPOCH_REASON_END] = {
        [EPOCH_FIRST_START] = "first start",
        [EPOCH_TAKEOVER] = "takeover",
        [EPOCH_ALONE] = "alone",
        [EPOCH_SWITCH] = "switch",
        [EPOCH_LOST_QUEUE] = "lost queue",
        [EPOCH_RESOLVE] = "resolve",
    };
    return reason > 0 && reason < EPOCH_REASON_END ? names[reason] : "unknown";
}

const char *epoch_opener_name(enum epoch_opener opener)
{
    if (opener == EPOCH_BY_PRIMARY)
        return "primary";
    return opener == EPOCH_BY_SECONDARY ? "secondary" : "unknown";
}

bool epoch_goes_on(const struct epoch *epoch, const struct epoch *before)
{
    return epoch->reason == EPOCH_ALONE && epoch->parents == 1 && epoch->parent[0].id == before->id &&
           epoch->parent[0].seq + 1 == epoch->first_seq;
}

size_t history_encode(const struct epoch_history *history, uint8_t *out)
{
    struct byte_writer w = byte_writer(out, HISTORY_HEADER);

    ENSURE(history->count <= HISTORY_EPOCHS_MAX);
    byte_put_u32(&w, HISTORY_MAGIC);
    byte_put_u8(&w, HISTORY_VERSION);
    byte_put_u8(&w, history->truncated);
    byte_put_u16(&w, 0);
    byte_put_u32(&w, history->count);
    byte_put_u32(&w, 0);
    ENSURE(!w.bad && w.used == HISTORY_HEADER);
    for (uint32_t i = 0; i < history->count; i++)
        epoch_encode(&history->epochs[i], out + HISTORY_HEADER + (size_t)i * EPOCH_ENCODED_SIZE);
    return HISTORY_HEADER + (size_t)history->count * EPOCH_ENCODED_SIZE;
}

const char *history_decode(const void *data, size_t size, struct epoch_history *ret_history)
{
    struct byte_reader r = byte_reader(data, size);
    struct epoch_history h = {0};

    if (byte_u32(&r) != HISTORY_MAGIC || byte_u8(&r) != HISTORY_VERSION)
        return "not an epoch history, or of an unknown version";
    uint8_t truncated = byte_u8(&r);
    uint16_t zero = byte_u16(&r);
    h.count = byte_u32(&r);
    if (truncated > 1 || zero != 0 || byte_u32(&r) != 0)
        return "an epoch history has an unknown flag";
    h.truncated = truncated;
    if (r.bad || h.count > HISTORY_EPOCHS_MAX || r.left != (size_t)h.count * EPOCH_ENCODED_SIZE)
        return "an epoch history's size does not fit the number of its epochs";
    for (uint32_t i = 0; i < h.count; i++) {
        const char *broken =
            epoch_decode(byte_take(&r, EPOCH_ENCODED_SIZE), EPOCH_ENCODED_SIZE, &h.epochs[i]);
        if (broken)
            return broken;
    }
    const char *broken = history_invalid(&h);
    if (!broken)
        *ret_history = h;
    return broken;
}

// Index, or h->count.
static uint32_t find_index(const struct epoch_history *h, uint64_t id)
{
    uint32_t i = 0;
    while (i < h->count && h->epochs[i].id != id)
        i++;
    return i;
}

static const char *parents_invalid(const struct epoch_history *h, uint32_t at, bool *has_child)
{
    const struct epoch *e = &h->epochs[at];

    for (uint32_t i = 0; i < e->parents; i++) {
        uint32_t p = find_index(h, e->parent[i].id);
        if (p == h->count) {
            if (!h->truncated)
                return "an epoch's parent is missing from its history";
            continue;
        }
        if (p >= at)
            return "an epoch stands in front of its parent";
        // Seqs rise along the line that goes on; of one that was given up only the map knows anything.
        if (h->epochs[p].number >= e->number ||
            (i == 0 && h->epochs[p].first_seq >= e->first_seq))
            return "an epoch's number or first seq does not rise above its parent's";
        has_child[p] = true;
    }
    return NULL;
}

const char *history_invalid(const struct epoch_history *h)
{
    bool has_child[HISTORY_EPOCHS_MAX] = {false};

    if (h->count > HISTORY_EPOCHS_MAX)
        return "an epoch history is too long";
    for (uint32_t i = 0; i < h->count; i++) {
        const char *broken = epoch_invalid(&h->epochs[i]);
        if (broken)
            return broken;
        if (find_index(h, h->epochs[i].id) != i)
            return "an epoch history names an epoch twice";
        broken = parents_invalid(h, i, has_child);
        if (broken)
            return broken;
    }
    for (uint32_t i = 0; i + 1 < h->count; i++)
        if (!has_child[i])
            return "an epoch does not lead to the current one of its history";
    return NULL;
}

const struct epoch *history_current(const struct epoch_history *h)
{
    return h->count ? &h->epochs[h->count - 1] : NULL;
}

const struct epoch *history_find(const struct epoch_history *h, uint64_t id)
{
    uint32_t i = find_index(h, id);
    return i < h->count ? &h->epochs[i] : NULL;
}

bool history_contains(const struct epoch_history *h, uint64_t id)
{
    return history_find(h, id) != NULL;
}

// How far positions in an epoch are on the line: seqs up to these. 0: none (seqs start at 1).
struct reach {
    uint64_t by_map; // >= resume
    uint64_t resume;
};

// What one step of the line, from a child with this reach to one of its parents, makes reachable
// there. Seqs only rise along a line, so a line that left the child at some seq left its parents
// there too.
static struct reach reach_through(struct reach child, const struct epoch_parent *parent,
                                  bool goes_on)
{
    if (parent->seq == EPOCH_SEQ_UNKNOWN)
        return (struct reach){.by_map = UINT64_MAX};
    struct reach r = {.by_map = MIN(child.by_map, parent->seq)};
    if (goes_on)
        r.resume = MIN(child.resume, parent->seq);
    return r;
}

// Children stand behind their parents, so one walk from the current epoch backwards sees each epoch
// after all the ways that lead to it, and takes the farthest.
static struct reach find_reach(const struct epoch_history *h, uint32_t at)
{
    struct reach reach[HISTORY_EPOCHS_MAX] = {0};

    ENSURE(h->count > 0 && at < h->count);
    reach[h->count - 1] = (struct reach){UINT64_MAX, UINT64_MAX};
    for (uint32_t i = h->count - 1; i > at; i--) {
        const struct epoch *e = &h->epochs[i];
        for (uint32_t k = 0; k < e->parents; k++) {
            uint32_t p = find_index(h, e->parent[k].id);
            if (p == h->count)
                continue;
            struct reach r = reach_through(reach[i], &e->parent[k], k == 0);
            reach[p].by_map = MAX(reach[p].by_map, r.by_map);
            reach[p].resume = MAX(reach[p].resume, r.resume);
        }
    }
    ENSURE(reach[at].resume <= reach[at].by_map);
    return reach[at];
}

bool history_fork(const struct epoch_history *h, uint64_t id, uint64_t *ret_seq)
{
    uint32_t i = find_index(h, id);
    if (i == h->count)
        return false;
    *ret_seq = find_reach(h, i).by_map;
    return true;
}

enum history_line history_line_has(const struct epoch_history *h, uint64_t id, uint64_t seq)
{
    uint32_t i = find_index(h, id);
    if (i == h->count)
        return OFF_LINE;
    struct reach reach = find_reach(h, i);
    if (seq <= reach.resume)
        return ON_LINE_RESUME;
    return seq <= reach.by_map ? ON_LINE_BY_MAP : OFF_LINE;
}

static void drop_oldest(struct epoch_history *h)
{
    h->count--;
    memmove(&h->epochs[0], &h->epochs[1], h->count * sizeof(h->epochs[0]));
    h->truncated = true;
}

const char *history_append(struct epoch_history *h, const struct epoch *epoch)
{
    struct epoch_history next = *h;

    if (h->count == 0 && epoch->parents != 0)
        return "the first epoch of a history has a parent";
    if (h->count > 0 && (epoch->parents != 1 || epoch->parent[0].id != history_current(h)->id))
        return "an epoch is not a child of the current one";
    if (history_contains(h, epoch->id))
        return "an epoch is in the history already";
    if (next.count == HISTORY_EPOCHS_MAX)
        drop_oldest(&next);
    next.epochs[next.count++] = *epoch;
    const char *broken = history_invalid(&next);
    if (!broken)
        *h = next;
    return broken;
}

static int epoch_same(const struct epoch *a, const struct epoch *b)
{
    uint8_t x[EPOCH_ENCODED_SIZE];
    uint8_t y[EPOCH_ENCODED_SIZE];

    epoch_encode(a, x);
    epoch_encode(b, y);
    return memcmp(x, y, sizeof(x)) == 0;
}

static int by_number(const void *a, const void *b)
{
    const struct epoch *x = a;
    const struct epoch *y = b;

    if (x->number != y->number)
        return x->number < y->number ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

const char *history_merge(struct epoch_history *h, const struct epoch_history *other,
                          const struct epoch *epoch)
{
    // Room for everything; numbers rise from parent to child, so that sorting by them puts parents
    // first.
    struct epoch all[2 * HISTORY_EPOCHS_MAX + 1];
    uint32_t count = h->count;

    if (h->count == 0 || other->count == 0)
        return "an empty history has nothing to merge";
    if (epoch->parents != 2 || epoch->parent[0].id != history_current(h)->id ||
        epoch->parent[1].id != history_current(other)->id)
        return "an epoch's parents are not the current ones of the histories that it merges";
    memcpy(all, h->epochs, h->count * sizeof(all[0]));
    for (uint32_t i = 0; i < other->count; i++) {
        const struct epoch *known = history_find(h, other->epochs[i].id);
        if (known && !epoch_same(known, &other->epochs[i]))
            return "two histories disagree about an epoch";
        if (!known)
            all[count++] = other->epochs[i];
    }
    qsort(all, count, sizeof(all[0]), by_number);
    all[count++] = *epoch;

    uint32_t dropped = count > HISTORY_EPOCHS_MAX ? count - HISTORY_EPOCHS_MAX : 0;
    struct epoch_history next = {.count = count - dropped,
                                 .truncated = h->truncated || other->truncated || dropped > 0};
    memcpy(next.epochs, all + dropped, next.count * sizeof(all[0]));
    const char *broken = history_invalid(&next);
    if (!broken)
        *h = next;
    return broken;
}
