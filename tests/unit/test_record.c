// SPDX-License-Identifier: Apache-2.0
// Records and batches: what is sealed is accepted, and each rule by itself refuses what breaks it.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/checksum.h"
#include "queues/batch.h"

static struct record sample(unsigned type)
{
    struct record r = {
        .type = (uint8_t)type,
        .epoch = le64_make(3),
        .seq = le64_make(5),
        .offset = le64_make(4096),
        .length = le32_make(512),
    };
    if (type == RECORD_WRITE || type == RECORD_RESYNC)
        r.payload = le32_make(512);
    if (type == RECORD_CHECK)
        r.payload = le32_make(8);
    if (type == RECORD_MARK)
        r.mark = MARK_IDLE;
    if (type == RECORD_EPOCH)
        r.payload = le32_make(100);
    if (type == RECORD_MARK || type == RECORD_EPOCH) {
        r.offset = le64_make(0);
        r.length = le32_make(0);
    }
    return r;
}

static void assert_refused(struct record r, const char *rule)
{
    record_seal(&r);
    const char *reason = record_invalid(&r);
    if (!reason || !strstr(reason, rule))
        fail_msg("expected '%s', got '%s'", rule, reason ? reason : "accepted");
}

static void test_every_type_is_accepted(void **state)
{
    for (unsigned type = RECORD_WRITE; type < RECORD_TYPE_END; type++) {
        struct record r = sample(type);
        record_seal(&r);
        assert_null(record_invalid(&r));
        assert_string_not_equal(record_type_name(type), "unknown");
    }
    assert_string_equal(record_type_name(0), "unknown");
    assert_string_equal(record_type_name(99), "unknown");
}

// Every single flipped bit of a header is found.
static void test_record_bits(void **state)
{
    for (unsigned i = 0; i < sizeof(struct record) * 8; i++) {
        struct record r = sample(RECORD_WRITE);
        record_seal(&r);
        ((uint8_t *)&r)[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_non_null(record_invalid(&r));
    }
}

static void test_record_rules(void **state)
{
    struct record r;
#define REFUSED(type, rule, ...)                                                                   \
    r = sample(type);                                                                              \
    __VA_ARGS__;                                                                                   \
    assert_refused(r, rule)
    REFUSED(RECORD_WRITE, "unknown type", r.type = 0);
    REFUSED(RECORD_WRITE, "unknown type", r.type = RECORD_TYPE_END);
    REFUSED(RECORD_WRITE, "unknown flag", r.flags = 0x80);
    REFUSED(RECORD_WRITE, "unknown flag", r.flags = RECORD_NO_HOLE);
    REFUSED(RECORD_WRITE, "mark or status", r.mark = MARK_IDLE);
    REFUSED(RECORD_WRITE, "mark or status", r.status = le16_make(5));
    REFUSED(RECORD_WRITE, "seq 0", r.seq = le64_make(0));
    REFUSED(RECORD_WRITE, "object", r.object = le16_make(RECORD_OBJECTS_MAX));
    REFUSED(RECORD_WRITE, "past the end", r.offset = le64_make(INT64_MAX - 511));
    REFUSED(RECORD_WRITE, "past the end", r.offset = le64_make(UINT64_MAX));
    REFUSED(RECORD_WRITE, "too large", r.length = r.payload = le32_make(RECORD_PAYLOAD_MAX + 1));
    REFUSED(RECORD_WRITE, "no bytes", r.length = r.payload = le32_make(0));
    REFUSED(RECORD_WRITE, "differs", r.payload = le32_make(511));
    REFUSED(RECORD_RESYNC, "differs", r.payload = le32_make(0));
    REFUSED(RECORD_ZERO, "where its type has none", r.payload = le32_make(512));
    REFUSED(RECORD_DISCARD, "unknown flag", r.flags = RECORD_NO_HOLE);
    REFUSED(RECORD_DISCARD, "no payload", r.payload_sum = le64_make(1));
    REFUSED(RECORD_DISCARD, "no bytes", r.length = le32_make(0));
    REFUSED(RECORD_MARK, "unknown mark", r.mark = 0);
    REFUSED(RECORD_MARK, "unknown mark", r.mark = MARK_END);
    REFUSED(RECORD_MARK, "with a payload", r.payload = le32_make(1));
    REFUSED(RECORD_MARK, "with a range", r.length = le32_make(1));
    REFUSED(RECORD_MARK, "with an offset", r.offset = le64_make(1));
    REFUSED(RECORD_MARK, "nothing failed", r.status = le16_make(5));
    REFUSED(RECORD_MARK, "without its range", r.mark = MARK_UNDEFINED);
    REFUSED(RECORD_MARK, "without its error", r.mark = MARK_UNDEFINED, r.length = le32_make(1));
    REFUSED(RECORD_EPOCH, "impossible size", r.payload = le32_make(0));
    REFUSED(RECORD_EPOCH, "impossible size", r.payload = le32_make(RECORD_EPOCH_MAX + 1));
    REFUSED(RECORD_EPOCH, "with a range", r.length = le32_make(1));
    REFUSED(RECORD_CHECK, "no or too many", r.length = le32_make(0));
    REFUSED(RECORD_CHECK, "no or too many",
            r.length = le32_make(CHECK_BLOCKS_MAX * CHECK_BLOCK_SIZE + 1));
    REFUSED(RECORD_CHECK, "number of checksums", r.payload = le32_make(16));
    REFUSED(RECORD_CHECK, "number of checksums", r.length = le32_make(4097));
    REFUSED(RECORD_CHECK, "unknown flag", r.flags = RECORD_NO_HOLE);
    REFUSED(RECORD_CHECK, "number of checksums", r.flags = RECORD_COARSE, r.length = le32_make(65537));
    REFUSED(RECORD_ZERO, "unknown flag", r.flags = RECORD_COARSE);
#undef REFUSED
    r = sample(RECORD_CHECK);
    r.flags = RECORD_COARSE;
    r.length = le32_make(65536);
    record_seal(&r);
    assert_null(record_invalid(&r));
    r = sample(RECORD_ZERO);
    r.flags = RECORD_NO_HOLE;
    record_seal(&r);
    assert_null(record_invalid(&r));
    r.version = 2;
    assert_string_equal(record_invalid(&r), "record: unknown version");
    r.magic = le32_make(0);
    assert_string_equal(record_invalid(&r), "record: wrong magic");
}

static void test_payload(void **state)
{
    uint8_t data[512];
    memset(data, 7, sizeof(data));
    struct record r = sample(RECORD_WRITE);
    r.payload_sum = le64_make(checksum64(data, sizeof(data)));
    assert_true(record_payload_matches(&r, data));
    data[511] ^= 1;
    assert_false(record_payload_matches(&r, data));
    r = sample(RECORD_DISCARD);
    assert_true(record_payload_matches(&r, NULL));
}

// ---- Batches ----

#define COUNT 3

struct message {
    struct batch batch;
    struct record records[COUNT];
    uint8_t payload[2 * 512];
};

static struct message make_message(void)
{
    struct message m = {
        .batch = {.session = le64_make(9),
                  .first_seq = le64_make(5),
                  .count = le32_make(COUNT),
                  .bytes = le32_make(1024),
                  .promised = le64_make(2)},
        .records = {sample(RECORD_WRITE), sample(RECORD_DISCARD), sample(RECORD_WRITE)},
    };
    for (unsigned i = 0; i < COUNT; i++) {
        m.records[i].seq = le64_make(5 + i);
        record_seal(&m.records[i]);
    }
    batch_seal(&m.batch, m.records);
    return m;
}

static void assert_batch(struct message *m, const char *rule)
{
    for (unsigned i = 0; i < COUNT; i++)
        record_seal(&m->records[i]);
    batch_seal(&m->batch, m->records);
    const char *reason = batch_invalid(m, sizeof(*m));
    if (!reason || !strstr(reason, rule))
        fail_msg("expected '%s', got '%s'", rule, reason ? reason : "accepted");
}

static void test_batch_rules(void **state)
{
    struct message m = make_message();
    assert_null(batch_invalid(&m, sizeof(m)));
    for (size_t size = 0; size < sizeof(m); size++)
        assert_non_null(batch_invalid(&m, size));
    for (unsigned i = 0; i < offsetof(struct message, payload) * 8; i++) {
        m = make_message();
        ((uint8_t *)&m)[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_non_null(batch_invalid(&m, sizeof(m)));
    }
#define REFUSED(rule, ...)                                                                         \
    m = make_message();                                                                            \
    __VA_ARGS__;                                                                                   \
    assert_batch(&m, rule)
    REFUSED("unknown flag", m.batch.flags = le16_make(2));
    REFUSED("flag disagree", m.batch.flags = le16_make(BATCH_BARRIER));
    REFUSED("flag disagree", m.batch.barrier = le64_make(1));
    REFUSED("reserved", m.batch.reserved = le64_make(1));
    REFUSED("reserved", m.batch.reserved2 = le32_make(1));
    REFUSED("impossible seq", m.batch.first_seq = le64_make(0));
    REFUSED("impossible seq", m.batch.first_seq = le64_make(UINT64_MAX - 2));
    REFUSED("not consecutive", m.records[1].seq = le64_make(7));
    REFUSED("not consecutive", m.batch.first_seq = le64_make(6));
    REFUSED("do not add up", m.records[2] = sample(RECORD_ZERO), m.records[2].seq = le64_make(7));
    REFUSED("unknown type", m.records[2].type = 77);
#undef REFUSED
    m = make_message();
    m.batch.count = le32_make(BATCH_RECORDS_MAX + 1);
    assert_string_equal(batch_invalid(&m, sizeof(m)), "batch: too many records");
    m = make_message();
    m.batch.bytes = le32_make(BATCH_PAYLOAD_MAX + 1);
    assert_string_equal(batch_invalid(&m, sizeof(m)), "batch: too many bytes");
    m = make_message();
    m.batch.kind = BATCH_ACK;
    assert_string_equal(batch_invalid(&m, sizeof(m)), "batch: not a batch of records");
}

// A batch of no records is a barrier or nothing.
static void test_batch_empty(void **state)
{
    struct batch b = {.first_seq = le64_make(8), .flags = le16_make(BATCH_BARRIER)};
    b.barrier = le64_make(1);
    batch_seal(&b, NULL);
    assert_null(batch_invalid(&b, sizeof(b)));
    b.barrier = le64_make(0);
    b.flags = le16_make(0);
    batch_seal(&b, NULL);
    assert_string_equal(batch_invalid(&b, sizeof(b)), "batch: neither records nor barrier");
}

static void test_ack_rules(void **state)
{
    const struct batch_ack good = {.received = le64_make(9),
                                   .durable = le64_make(8),
                                   .applied = le64_make(7),
                                   .settled = le64_make(6)};
    struct batch_ack a = good;
    batch_ack_seal(&a);
    assert_null(batch_ack_invalid(&a, sizeof(a)));
    assert_non_null(batch_ack_invalid(&a, sizeof(a) - 1));
    for (unsigned i = 0; i < sizeof(a) * 8; i++) {
        ((uint8_t *)&a)[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_non_null(batch_ack_invalid(&a, sizeof(a)));
        ((uint8_t *)&a)[i / 8] ^= (uint8_t)(1u << i % 8);
    }
#define REFUSED(rule, ...)                                                                         \
    a = good;                                                                                      \
    __VA_ARGS__;                                                                                   \
    batch_ack_seal(&a);                                                                            \
    assert_non_null(batch_ack_invalid(&a, sizeof(a)));                                             \
    assert_non_null(strstr(batch_ack_invalid(&a, sizeof(a)), rule))
    REFUSED("out of order", a.durable = le64_make(10));
    REFUSED("out of order", a.applied = le64_make(9));
    REFUSED("out of order", a.settled = le64_make(8));
    REFUSED("unknown flag", a.flags = le16_make(8));
    REFUSED("disagree", a.flags = le16_make(ACK_FAILED));
    REFUSED("disagree", a.error = le32_make(5));
#undef REFUSED
}

static void test_answer_rules(void **state)
{
    struct {
        struct batch_answer answer;
        uint8_t bitmap[2];
    } m = {.answer = {.seq = le64_make(4), .blocks = le32_make(11)}, .bitmap = {0x10, 0x04}};
    size_t size = sizeof(m.answer) + 2;
    batch_answer_seal(&m.answer, m.bitmap);
    assert_null(batch_answer_invalid(&m, size));
    for (size_t cut = 0; cut < size; cut++)
        assert_non_null(batch_answer_invalid(&m, cut));
    for (unsigned i = 0; i < size * 8; i++) {
        ((uint8_t *)&m)[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_non_null(batch_answer_invalid(&m, size));
        ((uint8_t *)&m)[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    m.answer.object = le16_make(RECORD_OBJECTS_MAX);
    batch_answer_seal(&m.answer, m.bitmap);
    assert_string_equal(batch_answer_invalid(&m, size), "answer: object out of range");
    m.answer.object = le16_make(0);
    m.answer.seq = le64_make(0);
    batch_answer_seal(&m.answer, m.bitmap);
    assert_string_equal(batch_answer_invalid(&m, size), "answer: seq 0");
    m.answer.blocks = le32_make(CHECK_BLOCKS_MAX + 1);
    assert_string_equal(batch_answer_invalid(&m, size), "answer: no or too many blocks");
}

// One for each unit and what is left, of data and of zeros that nobody has read; also in the data's own place.
static void test_sums(void **state)
{
    static uint8_t zeros[3 * CHECK_COARSE_SIZE], data[3 * CHECK_COARSE_SIZE];
    struct le64 sums[CHECK_BLOCKS_MAX], same[CHECK_BLOCKS_MAX];
    for (unsigned kind = 0; kind < 2; kind++) {
        uint32_t unit = kind == 0 ? CHECK_BLOCK_SIZE : CHECK_COARSE_SIZE, length = 2 * unit + 512;
        for (uint32_t i = 0; i < sizeof(data); i++)
            data[i] = (uint8_t)(i * 7 + i / 4096);
        assert_int_equal(check_sums(NULL, CHECK_BLOCKS_MAX * unit, unit, sums), sizeof(sums));
        assert_int_equal(check_sums(NULL, length, unit, sums), 3 * sizeof(sums[0]));
        assert_int_equal(check_sums(zeros, length, unit, same), 3 * sizeof(sums[0]));
        assert_memory_equal(sums, same, 3 * sizeof(sums[0]));
        assert_int_equal(check_sums(NULL, 512, unit, sums), sizeof(sums[0]));
        assert_memory_equal(sums, &same[2], sizeof(sums[0]));
        for (unsigned i = 0; i < 3; i++)
            sums[i] = le64_make(checksum64(data + i * unit, i < 2 ? unit : 512));
        assert_int_equal(check_sums(data, length, unit, data), 3 * sizeof(sums[0]));
        assert_memory_equal(data, sums, 3 * sizeof(sums[0]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_is_accepted),
        cmocka_unit_test(test_record_bits),
        cmocka_unit_test(test_record_rules),
        cmocka_unit_test(test_payload),
        cmocka_unit_test(test_batch_rules),
        cmocka_unit_test(test_batch_empty),
        cmocka_unit_test(test_ack_rules),
        cmocka_unit_test(test_answer_rules),
        cmocka_unit_test(test_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
