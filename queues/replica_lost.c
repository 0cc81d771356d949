// SPDX-License-Identifier: Apache-2.0
// What would be lost when the end of a takeover forgets what lies behind the applied prefix: of which regions those records
// are. Only their headers are looked at, so that damage to what they carry does not matter; where not even the headers of
// something that was there can be read, the regions are unknown.
//
// It may have been applied, and settled, by a former run: an opening replays from the oldest record that is still held, so
// what lies behind the damage is taken back where that had written the same place. The active end's map has long been
// cleared for that. (A tail of which nothing at all is left was never confirmed, and is as if it had not been received.)
#include "queues/replica_internal.h"

#include "common/base/cleanup.h"

static bool changes_data(const struct record *record)
{
    switch (record->type) {
    case RECORD_WRITE:
    case RECORD_ZERO:
    case RECORD_DISCARD:
    case RECORD_RESYNC:
    case RECORD_RESYNC_ZERO:
        return true;
    case RECORD_MARK:
        return record->mark == MARK_UNDEFINED;
    default:
        return false;
    }
}

static struct intent *map_of(struct replica *r, unsigned object, uint64_t size)
{
    struct intent_config config = {.size = size, .region = r->config.region ? r->config.region : INTENT_REGION};

    if (!r->lost[object])
        r->lost[object] = intent_new(&config);
    return r->lost[object];
}

void replica_lost_record(void *arg, const struct record *record)
{
    struct replica *r = arg;
    unsigned object = le16_get(record->object);
    const struct block *block = r->config.volumes[object];
    uint64_t offset = le64_get(record->offset), length = le32_get(record->length);

    // Of a volume that is not there, or behind its end, nothing can differ.
    if (!changes_data(record) || length == 0 || !block || offset >= block->size)
        return;
    struct intent *map = map_of(r, object, block->size);
    if (!map) {
        r->lost_unknown = true;
        return;
    }
    uint64_t region = intent_region(map), last = (MIN(offset + length, block->size) - 1) / region;
    for (uint64_t i = offset / region; i <= last; i++) {
        static const uint8_t one = 1;
        ENSURE(intent_or(map, i, &one, 1) == 0);
    }
}

void replica_lost_collect(struct replica *r)
{
    if (safe_headers(r->safe, r->applied + 1, replica_lost_record, r, NULL) < 0)
        r->lost_unknown = true;
}

void replica_lost_forget(struct replica *r)
{
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++)
        r->lost[i] = intent_free(r->lost[i]);
    r->lost_unknown = false;
    r->beyond_records = r->beyond_bytes = 0;
}

bool replica_loses(const struct replica *r)
{
    bool loses = r->lost_unknown;

    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++)
        loses |= r->lost[i] != NULL;
    return loses;
}

const struct intent *replica_lost(const struct replica *r, unsigned object)
{
    ENSURE(object < RECORD_OBJECTS_MAX);
    return r->lost[object];
}
