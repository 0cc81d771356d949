// SPDX-License-Identifier: Apache-2.0
// Sealing and checking of what travels on a data link. The functions that end in _invalid take a
// message as it came from outside: nothing of it is believed before its size and its checksum are.
#include "queues/batch.h"

#include <string.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/error.h"

_Static_assert(BATCH_PAYLOAD_MAX <= UINT32_MAX, "`bytes` has 32 bits");
_Static_assert(CHECK_BLOCKS_MAX % 8 == 0, "the bitmap of a full answer has no spare bits");

// The headers' sum covers what follows them through its own checksum, so that the two need not lie
// together.
static uint32_t batch_sum(const struct batch *batch, const void *records, size_t count)
{
    struct batch copy = *batch;
    copy.header_sum = le32_make(checksum32(records, count * sizeof(struct record)));
    return checksum32(&copy, sizeof(copy));
}

static uint32_t ack_sum(const struct batch_ack *ack)
{
    struct batch_ack copy = *ack;
    copy.header_sum = le32_make(0);
    return checksum32(&copy, sizeof(copy));
}

static size_t bitmap_size(const struct batch_answer *answer)
{
    return ((size_t)le32_get(answer->blocks) + 7) / 8;
}

static uint32_t answer_sum(const struct batch_answer *answer, const void *bitmap)
{
    struct batch_answer copy = *answer;
    copy.header_sum = le32_make(checksum32(bitmap, bitmap_size(answer)));
    return checksum32(&copy, sizeof(copy));
}

void batch_seal(struct batch *batch, const struct record *records)
{
    batch->magic = le32_make(BATCH_MAGIC);
    batch->version = BATCH_VERSION;
    batch->kind = BATCH_RECORDS;
    batch->header_sum = le32_make(batch_sum(batch, records, le32_get(batch->count)));
}

void batch_ack_seal(struct batch_ack *ack)
{
    ack->magic = le32_make(BATCH_MAGIC);
    ack->version = BATCH_VERSION;
    ack->kind = BATCH_ACK;
    ack->header_sum = le32_make(ack_sum(ack));
}

void batch_answer_seal(struct batch_answer *answer, const uint8_t *bitmap)
{
    answer->magic = le32_make(BATCH_MAGIC);
    answer->version = BATCH_VERSION;
    answer->kind = BATCH_ANSWER;
    answer->header_sum = le32_make(answer_sum(answer, bitmap));
}

static const char *batch_fields_invalid(const struct batch *batch)
{
    unsigned flags = le16_get(batch->flags);
    uint32_t count = le32_get(batch->count);
    if ((flags & ~BATCH_BARRIER) != 0)
        return "batch: unknown flag";
    if (!(flags & BATCH_BARRIER) != (le64_get(batch->barrier) == 0))
        return "batch: barrier number and flag disagree";
    if (le64_get(batch->reserved) != 0 || le32_get(batch->reserved2) != 0)
        return "batch: reserved bytes are not zero";
    if (count == 0 && !(flags & BATCH_BARRIER))
        return "batch: neither records nor barrier";
    if (le64_get(batch->first_seq) == 0 || le64_get(batch->first_seq) > UINT64_MAX - count)
        return "batch: impossible seq";
    return NULL;
}

static const char *batch_records_invalid(const struct batch *batch, const uint8_t *at)
{
    uint64_t seq = le64_get(batch->first_seq);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < le32_get(batch->count); i++) {
        struct record record;
        memcpy(&record, at + i * sizeof(record), sizeof(record));
        const char *reason = record_invalid(&record);
        if (reason)
            return reason;
        if (le64_get(record.seq) != seq + i)
            return "batch: records are not consecutive";
        bytes += le32_get(record.payload);
    }
    return bytes == le32_get(batch->bytes) ? NULL : "batch: payloads do not add up";
}

const char *batch_invalid(const void *message, size_t size)
{
    struct batch batch;
    if (size < sizeof(batch))
        return "batch: shorter than its header";
    memcpy(&batch, message, sizeof(batch));
    if (le32_get(batch.magic) != BATCH_MAGIC)
        return "batch: wrong magic";
    if (batch.version != BATCH_VERSION)
        return "batch: unknown version";
    if (batch.kind != BATCH_RECORDS)
        return "batch: not a batch of records";
    size_t count = le32_get(batch.count);
    size_t bytes = le32_get(batch.bytes);
    if (count > BATCH_RECORDS_MAX)
        return "batch: too many records";
    if (bytes > BATCH_PAYLOAD_MAX)
        return "batch: too many bytes";
    if (size != sizeof(batch) + count * sizeof(struct record) + bytes)
        return "batch: its parts do not add up to the size of the message";
    const uint8_t *records = (const uint8_t *)message + sizeof(batch);
    if (!checksum_same(le32_get(batch.header_sum), batch_sum(&batch, records, count)))
        return "batch: headers do not match their checksum";
    const char *reason = batch_fields_invalid(&batch);
    return reason ? reason : batch_records_invalid(&batch, records);
}

const char *batch_ack_invalid(const void *message, size_t size)
{
    struct batch_ack ack;
    if (size != sizeof(ack))
        return "acknowledgement: wrong size";
    memcpy(&ack, message, sizeof(ack));
    if (le32_get(ack.magic) != BATCH_MAGIC)
        return "acknowledgement: wrong magic";
    if (ack.version != BATCH_VERSION)
        return "acknowledgement: unknown version";
    if (ack.kind != BATCH_ACK)
        return "acknowledgement: is something else";
    if (!checksum_same(le32_get(ack.header_sum), ack_sum(&ack)))
        return "acknowledgement: does not match its checksum";
    if ((le16_get(ack.flags) & ~(ACK_RESEND | ACK_FAILED | ACK_FULL)) != 0)
        return "acknowledgement: unknown flag";
    if (le64_get(ack.received) < le64_get(ack.durable) ||
        le64_get(ack.durable) < le64_get(ack.applied) ||
        le64_get(ack.applied) < le64_get(ack.settled))
        return "acknowledgement: positions out of order";
    if (!(le16_get(ack.flags) & ACK_FAILED) != (le32_get(ack.error) == 0))
        return "acknowledgement: error and flag disagree";
    return NULL;
}

const char *batch_answer_invalid(const void *message, size_t size)
{
    struct batch_answer answer;
    if (size < sizeof(answer))
        return "answer: shorter than its header";
    memcpy(&answer, message, sizeof(answer));
    if (le32_get(answer.magic) != BATCH_MAGIC)
        return "answer: wrong magic";
    if (answer.version != BATCH_VERSION)
        return "answer: unknown version";
    if (answer.kind != BATCH_ANSWER)
        return "answer: is something else";
    if (le32_get(answer.blocks) == 0 || le32_get(answer.blocks) > CHECK_BLOCKS_MAX)
        return "answer: no or too many blocks";
    if (size != sizeof(answer) + bitmap_size(&answer))
        return "answer: bitmap of the wrong size";
    const uint8_t *bitmap = (const uint8_t *)message + sizeof(answer);
    if (!checksum_same(le32_get(answer.header_sum), answer_sum(&answer, bitmap)))
        return "answer: does not match its checksum";
    if (le16_get(answer.object) >= RECORD_OBJECTS_MAX)
        return "answer: object out of range";
    if (le64_get(answer.seq) == 0)
        return "answer: seq 0";
    if (le64_get(answer.offset) > INT64_MAX - (uint64_t)CHECK_BLOCKS_MAX * CHECK_BLOCK_SIZE)
        return "answer: range past the end of all storage";
    return NULL;
}

uint32_t check_unit(const struct record *record)
{
    return record->flags & RECORD_COARSE ? CHECK_COARSE_SIZE : CHECK_BLOCK_SIZE;
}

// Of CHECK_COARSE_SIZE zeros: an empty volume is checked faster than they are summed.
#define ZEROS_SUM UINT64_C(0x33b202d302b65caa)

static uint32_t zero_sums(uint32_t length, uint32_t unit, uint8_t *to)
{
    static const uint8_t zeros[CHECK_COARSE_SIZE];
    ENSURE(unit <= sizeof(zeros));
    uint32_t count = length / unit, rest = length % unit;
    struct le64 whole = le64_make(unit == CHECK_COARSE_SIZE ? ZEROS_SUM : checksum64(zeros, unit));
    for (uint32_t i = 0; i < count; i++)
        memcpy(to + i * sizeof(whole), &whole, sizeof(whole));
    if (rest > 0) {
        struct le64 last = le64_make(checksum64(zeros, rest));
        memcpy(to + count++ * sizeof(last), &last, sizeof(last));
    }
    return count * (uint32_t)sizeof(struct le64);
}

// In place, too: the sum of one unit lies in front of the next one.
uint32_t check_sums(const void *data, uint32_t length, uint32_t unit, void *ret_sums)
{
    const uint8_t *from = data;
    uint8_t *to = ret_sums;
    uint32_t count = 0;
    if (!data)
        return zero_sums(length, unit, to);
    for (uint32_t at = 0; at < length; at += unit, count++) {
        struct le64 sum = le64_make(checksum64(from + at, MIN(unit, length - at)));
        memcpy(to + count * sizeof(sum), &sum, sizeof(sum));
    }
    return count * (uint32_t)sizeof(struct le64);
}
