// SPDX-License-Identifier: Apache-2.0
// Messages of a data link: batches of records, acknowledgements, answers, and single record
// headers.
#include "fuzz.h"
#include "queues/batch.h"

// It has as many checksums as whoever answers it makes, of data as of zeros.
static void look_at_check(const struct record *r)
{
    static uint8_t data[CHECK_COARSE_SIZE], sums[CHECK_BLOCKS_MAX * 8];
    uint32_t length = le32_get(r->length), unit = check_unit(r);
    ENSURE(check_sums(NULL, length, unit, sums) == le32_get(r->payload));
    if (length <= CHECK_COARSE_SIZE)
        ENSURE(check_sums(data, length, unit, sums) == le32_get(r->payload));
}

static void look_at_record(const struct record *r)
{
    if (r->type == RECORD_CHECK)
        look_at_check(r);
    ENSURE(le16_get(r->object) < RECORD_OBJECTS_MAX);
    ENSURE(le64_get(r->offset) + le32_get(r->length) <= INT64_MAX);
    ENSURE(le32_get(r->payload) <= RECORD_PAYLOAD_MAX);
    ENSURE(strcmp(record_type_name(r->type), "unknown") != 0);
}

static void look_at_batch(const uint8_t *data, size_t size)
{
    const struct batch *b = (const struct batch *)data;
    const struct record *records = (const struct record *)(b + 1);
    const uint8_t *payload = (const uint8_t *)(records + le32_get(b->count));
    for (uint32_t i = 0; i < le32_get(b->count); i++) {
        look_at_record(&records[i]);
        ENSURE(le64_get(records[i].seq) == le64_get(b->first_seq) + i);
        (void)record_payload_matches(&records[i], payload);
        payload += le32_get(records[i].payload);
    }
    ENSURE(payload == data + size);
}

// What is accepted is accepted when it was sealed by us, too.
static void seal_again(uint8_t *data, size_t size)
{
    if (!batch_invalid(data, size)) {
        look_at_batch(data, size);
        batch_seal((struct batch *)data, (struct record *)(data + sizeof(struct batch)));
        ENSURE(!batch_invalid(data, size));
    }
    if (!batch_ack_invalid(data, size)) {
        batch_ack_seal((struct batch_ack *)data);
        ENSURE(!batch_ack_invalid(data, size));
    }
    if (!batch_answer_invalid(data, size)) {
        batch_answer_seal((struct batch_answer *)data, data + sizeof(struct batch_answer));
        ENSURE(!batch_answer_invalid(data, size));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP_FREE uint8_t *copy = malloc(size + 1);
    struct record record;
    ENSURE(copy);
    memcpy(copy, data, size);
    seal_again(copy, size);
    (void)record_type_name(size ? data[0] : 0);
    if (size < sizeof(record))
        return 0;
    memcpy(&record, data, sizeof(record));
    if (!record_invalid(&record)) {
        look_at_record(&record);
        record_seal(&record);
        ENSURE(!record_invalid(&record));
    }
    return 0;
}
