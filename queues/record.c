// SPDX-License-Identifier: Apache-2.0
// Sealing and checking of record headers. What record_invalid() lets through needs no second look:
// every rule that later code leans on is one line of rules below.
#include "queues/record.h"

#include "common/base/checksum.h"
#include "queues/batch.h"

static uint32_t header_sum(const struct record *record)
{
    struct record copy = *record;
    copy.header_sum = le32_make(0);
    return checksum32(&copy, sizeof(copy));
}

void record_seal(struct record *record)
{
    record->magic = le32_make(RECORD_MAGIC);
    record->version = RECORD_VERSION;
    record->header_sum = le32_make(header_sum(record));
}

// WRITE, ZERO, DISCARD and the resync pair: a range of a volume.
static const char *range_invalid(const struct record *record, bool has_payload)
{
    uint32_t length = le32_get(record->length);
    uint32_t payload = le32_get(record->payload);
    if (length == 0)
        return "record: an update of no bytes";
    if (has_payload && payload != length)
        return "record: payload differs from the length of its range";
    if (!has_payload && payload != 0)
        return "record: payload where its type has none";
    return NULL;
}

static const char *mark_invalid(const struct record *record)
{
    bool has_range = record->mark == MARK_UNDEFINED;
    if (record->mark == 0 || record->mark >= MARK_END)
        return "record: unknown mark";
    if (le32_get(record->payload) != 0)
        return "record: a mark with a payload";
    if (has_range != (le32_get(record->length) != 0))
        return has_range ? "record: a mark without its range" : "record: a mark with a range";
    if (!has_range && le64_get(record->offset) != 0)
        return "record: a mark with an offset";
    if (has_range != (le16_get(record->status) != 0))
        return has_range ? "record: an undefined range without its error"
                         : "record: a status where nothing failed";
    return NULL;
}

static const char *epoch_invalid(const struct record *record)
{
    if (le32_get(record->payload) == 0 || le32_get(record->payload) > RECORD_EPOCH_MAX)
        return "record: an epoch opening of an impossible size";
    if (le64_get(record->offset) != 0 || le32_get(record->length) != 0)
        return "record: an epoch opening with a range";
    return NULL;
}

static const char *check_invalid(const struct record *record)
{
    uint64_t length = le32_get(record->length);
    uint64_t blocks = (length + CHECK_BLOCK_SIZE - 1) / CHECK_BLOCK_SIZE, unit = check_unit(record);
    if (blocks == 0 || blocks > CHECK_BLOCKS_MAX)
        return "record: a check of no or too many blocks";
    if (le32_get(record->payload) != (length + unit - 1) / unit * sizeof(struct le64))
        return "record: the number of checksums differs from that of the blocks";
    return NULL;
}

static const char *type_invalid(const struct record *record)
{
    switch (record->type) {
    case RECORD_WRITE:
    case RECORD_RESYNC:
        return range_invalid(record, true);
    case RECORD_ZERO:
    case RECORD_DISCARD:
    case RECORD_RESYNC_ZERO:
        return range_invalid(record, false);
    case RECORD_MARK:
        return mark_invalid(record);
    case RECORD_EPOCH:
        return epoch_invalid(record);
    case RECORD_CHECK:
        return check_invalid(record);
    default:
        return "record: unknown type";
    }
}

static unsigned known_flags(const struct record *record)
{
    switch (record->type) {
    case RECORD_ZERO:
    case RECORD_RESYNC_ZERO:
        return RECORD_NO_HOLE;
    case RECORD_CHECK:
        return RECORD_COARSE;
    default:
        return 0;
    }
}

static const char *fields_invalid(const struct record *record)
{
    uint64_t offset = le64_get(record->offset);
    uint32_t length = le32_get(record->length);
    if ((record->flags & ~known_flags(record)) != 0)
        return "record: unknown flag";
    if (record->type != RECORD_MARK && (record->mark != 0 || le16_get(record->status) != 0))
        return "record: mark or status on something that is no mark";
    if (le64_get(record->seq) == 0)
        return "record: seq 0";
    if (le16_get(record->object) >= RECORD_OBJECTS_MAX)
        return "record: object out of range";
    if (offset > INT64_MAX || length > INT64_MAX - offset)
        return "record: range past the end of all storage";
    if (le32_get(record->payload) > RECORD_PAYLOAD_MAX)
        return "record: payload too large";
    if (le32_get(record->payload) == 0 && le64_get(record->payload_sum) != 0)
        return "record: a checksum of no payload";
    return NULL;
}

const char *record_invalid(const struct record *record)
{
    if (le32_get(record->magic) != RECORD_MAGIC)
        return "record: wrong magic";
    if (record->version != RECORD_VERSION)
        return "record: unknown version";
    if (!checksum_same(le32_get(record->header_sum), header_sum(record)))
        return "record: header does not match its checksum";
    const char *reason = fields_invalid(record);
    return reason ? reason : type_invalid(record);
}

int record_payload_matches(const struct record *record, const void *data)
{
    uint32_t payload = le32_get(record->payload);
    return payload == 0 || checksum_same(le64_get(record->payload_sum), checksum64(data, payload));
}

const char *record_type_name(unsigned type)
{
    static const char *const names[RECORD_TYPE_END] = {
        [RECORD_WRITE] = "write",
        [RECORD_ZERO] = "zero",
        [RECORD_DISCARD] = "discard",
        [RECORD_MARK] = "mark",
        [RECORD_EPOCH] = "epoch",
        [RECORD_RESYNC] = "resync",
        [RECORD_RESYNC_ZERO] = "resync-zero",
        [RECORD_CHECK] = "check",
    };
    return type < RECORD_TYPE_END && names[type] ? names[type] : "unknown";
}
