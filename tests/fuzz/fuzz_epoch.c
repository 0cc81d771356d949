// SPDX-License-Identifier: Apache-2.0
// Encoded epochs and histories, and what two histories from outside are compared and merged with.
#include "fuzz.h"
#include "queues/epoch.h"

static void look_at_epoch(const uint8_t *data, size_t size)
{
    uint8_t again[EPOCH_ENCODED_SIZE];
    struct epoch epoch;
    if (epoch_decode(data, size, &epoch))
        return;
    ENSURE(!epoch_invalid(&epoch));
    ENSURE(epoch_reason_name(epoch.reason) && epoch_opener_name(epoch.opened_by));
    epoch_encode(&epoch, again);
    ENSURE(size == sizeof(again) && memcmp(again, data, size) == 0);
}

static void look_at_line(const struct epoch_history *h, const struct epoch_history *other)
{
    for (uint32_t i = 0; i < other->count; i++) {
        const struct epoch *e = &other->epochs[i];
        uint64_t seq = 0;
        bool known = history_fork(h, e->id, &seq);
        ENSURE(known == history_contains(h, e->id));
        ENSURE(!known || seq == EPOCH_SEQ_UNKNOWN ||
               history_line_has(h, e->id, seq + 1) == OFF_LINE);
        ENSURE(known || history_line_has(h, e->id, 0) == OFF_LINE);
    }
}

static void go_on(struct epoch_history *h, const struct epoch_history *other)
{
    const struct epoch *current = history_current(h), *theirs = history_current(other);
    struct epoch next = {.number = 1,
                         .id = 77,
                         .first_seq = 1,
                         .opened_by = EPOCH_BY_PRIMARY,
                         .reason = EPOCH_TAKEOVER};
    if (current) {
        next.number = current->number + 1;
        next.first_seq = current->first_seq + 100;
        next.parents = 1;
        next.parent[0] = (struct epoch_parent){current->id, current->first_seq + 50};
    }
    struct epoch_history appended = *h;
    if (!history_append(&appended, &next))
        ENSURE(!history_invalid(&appended) && history_current(&appended)->id == 77);
    if (!current || !theirs)
        return;
    next.parents = 2;
    next.parent[1] = (struct epoch_parent){theirs->id, theirs->first_seq};
    next.number = MAX(current->number, theirs->number) + 1;
    next.first_seq = MAX(current->first_seq, theirs->first_seq) + 1;
    next.reason = EPOCH_RESOLVE;
    if (!history_merge(h, other, &next))
        ENSURE(!history_invalid(h) && history_current(h)->id == 77);
}

static bool decode(const uint8_t *data, size_t size, struct epoch_history *ret)
{
    uint8_t again[HISTORY_ENCODED_MAX];
    if (history_decode(data, size, ret))
        return false;
    ENSURE(!history_invalid(ret));
    ENSURE(history_encode(ret, again) == size && memcmp(again, data, size) == 0);
    look_at_line(ret, ret);
    return true;
}

// The first two bytes say how long the first history is; the second follows it.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct epoch_history a, b;
    if (size < 2)
        return 0;
    size_t first = MIN(data[0] | (size_t)data[1] << 8, size - 2);
    data += 2;
    size -= 2;
    look_at_epoch(data, first);
    bool have_a = decode(data, first, &a), have_b = decode(data + first, size - first, &b);
    if (have_a && have_b) {
        look_at_line(&a, &b);
        go_on(&a, &b);
    } else if (have_a) {
        go_on(&a, &(struct epoch_history){0});
    }
    return 0;
}
