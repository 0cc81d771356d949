// SPDX-License-Identifier: Apache-2.0
// common/store/lun: what a target sends is not trusted, each failed command has its meaning,
// reconnects have a pace.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/store/lun.h"

static void capacity_is_decoded(void **state)
{
    uint8_t data[32] = {0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0x10, 0};
    struct lun_facts facts = {0};
    data[14] = 0xc0;
    assert_int_equal(lun_decode_capacity(data, sizeof(data), &facts), 0);
    assert_int_equal(facts.blocks, 65536);
    assert_int_equal(facts.block_length, 4096);
    assert_true(facts.unmapped_zero);
    assert_int_equal(lun_decode_capacity(data, 12, &facts), 0);
    assert_false(facts.unmapped_zero);
}

static void absurd_capacity_is_refused(void **state)
{
    uint8_t data[32] = {0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0};
    struct lun_facts facts = {0};
    assert_int_equal(lun_decode_capacity(data, 11, &facts), -EPROTO);
    data[10] = 3; // a block length that is no power of two
    assert_int_equal(lun_decode_capacity(data, sizeof(data), &facts), -EPROTO);
    data[10] = 1; // 256
    assert_int_equal(lun_decode_capacity(data, sizeof(data), &facts), -EPROTO);
    data[10] = 2;
    memset(data, 0xff, 8); // more bytes than a size can say
    assert_int_equal(lun_decode_capacity(data, sizeof(data), &facts), -EPROTO);
    assert_int_equal(facts.blocks, 0);
}

static void caching_page_is_decoded(void **state)
{
    // Header with write protection, a block descriptor of 8 bytes, page 8 with WCE.
    uint8_t data[] = {23, 0, 0x80, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x12, 0x04, 0};
    struct lun_facts facts = {0};
    assert_int_equal(lun_decode_caching(data, sizeof(data), &facts), 0);
    assert_true(facts.write_protected);
    assert_true(facts.volatile_cache);
    assert_int_equal(lun_decode_caching(data, 14, &facts), 0); // cut in front of the bit
    assert_false(facts.volatile_cache);
    data[3] = 255; // a descriptor that is longer than the answer
    assert_int_equal(lun_decode_caching(data, sizeof(data), &facts), 0);
    assert_false(facts.volatile_cache);
    assert_int_equal(lun_decode_caching(data, 3, &facts), -EPROTO);
}

static void pages_are_decoded(void **state)
{
    uint8_t limits[64] = {0, 0xb0, 0, 60};
    uint8_t provisioning[8] = {0, 0xb2, 0, 4, 0, 0xc4};
    struct lun_facts facts = {0};
    limits[11] = 100;
    limits[23] = 200;
    limits[43] = 50;
    assert_int_equal(lun_decode_limits(limits, sizeof(limits), &facts), 0);
    assert_int_equal(facts.max_transfer, 100);
    assert_int_equal(facts.max_unmap, 200);
    assert_int_equal(facts.max_write_same, 50);
    assert_int_equal(lun_decode_limits(limits, 20, &facts), 0); // an old, short page
    assert_int_equal(facts.max_unmap, 0);
    assert_int_equal(lun_decode_limits(provisioning, sizeof(provisioning), &facts), -EPROTO);
    assert_int_equal(lun_decode_provisioning(provisioning, sizeof(provisioning), &facts), 0);
    assert_true(facts.unmap);
    assert_true(facts.write_same_unmap);
    assert_true(facts.unmapped_zero);
    assert_int_equal(lun_decode_provisioning(provisioning, 7, &facts), -EPROTO);
}

// Any bytes, any length: nothing is read past the end (the sanitizers watch).
static void garbage_is_survived(void **state)
{
    for (unsigned i = 0; i < 3000; i++) {
        size_t size = random_id() % 300;
        uint8_t *data = malloc(size + 1);
        assert_non_null(data);
        random_bytes(data, size + 1);
        uint8_t *exact = malloc(size > 0 ? size : 1);
        assert_non_null(exact);
        memcpy(exact, data, size);
        if (size > 1)
            exact[1] = (uint8_t[]){0x83, 0xb0, 0xb2}[i % 3];
        struct lun_facts facts = {0};
        (void)lun_decode_capacity(exact, size, &facts);
        (void)lun_decode_caching(exact, size, &facts);
        (void)lun_decode_id(exact, size, &facts);
        (void)lun_decode_limits(exact, size, &facts);
        (void)lun_decode_provisioning(exact, size, &facts);
        assert_true(facts.id_size <= LUN_ID_MAX);
        free(exact);
        free(data);
    }
}

static void failures_have_their_meaning(void **state)
{
    static const struct {
        int status, key, code;
        enum lun_verdict verdict;
        int error;
        bool reset;
    } cases[] = {
        {0x02, 0x6, 0x2900, LUN_AGAIN, -EIO, true},   // power on
        {0x02, 0x6, 0x2903, LUN_AGAIN, -EIO, false},  // reset by function
        {0x02, 0x6, 0x2a09, LUN_AGAIN, -EIO, false},  // capacity has changed
        {0x02, 0x5, 0x2500, LUN_GONE, -ENXIO, false}, // no such LUN
        {0x02, 0x5, 0x2100, LUN_FAIL, -ENXIO, false}, // behind its end
        {0x02, 0x5, 0x2000, LUN_UNSUPPORTED, -EOPNOTSUPP, false},
        {0x02, 0x5, 0x2400, LUN_UNSUPPORTED, -EOPNOTSUPP, false},
        {0x02, 0x2, 0x0401, LUN_LATER, -EIO, false},      // becoming ready
        {0x02, 0x2, 0x3a00, LUN_GONE, -ENOMEDIUM, false}, // no medium
        {0x02, 0x3, 0x1100, LUN_FAIL, -EIO, false},       // medium error
        {0x02, 0x7, 0x2700, LUN_FAIL, -EROFS, false},     // write-protected
        {0x02, 0x7, 0x2707, LUN_FAIL, -ENOSPC, false},    // thin pool is full
        {0x02, 0xb, 0x0000, LUN_AGAIN, -EIO, false},      // aborted
        {0x02, 0x4, 0x4400, LUN_FAIL, -EIO, false},       // hardware
        {0x18, 0, 0, LUN_FAIL, -EBADE, false},            // reservation conflict
        {0x08, 0, 0, LUN_LATER, -EIO, false},             // busy
        {0x28, 0, 0, LUN_LATER, -EIO, false},             // task set full
        {0x40, 0, 0, LUN_AGAIN, -EIO, false},             // task aborted
        {0x99, 0, 0, LUN_FAIL, -EIO, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int error;
        bool reset;
        assert_int_equal(lun_judge(cases[i].status, cases[i].key, cases[i].code, &error, &reset),
                         cases[i].verdict);
        assert_int_equal(error, cases[i].error);
        assert_int_equal(reset, cases[i].reset);
        assert_non_null(lun_failure_text(cases[i].status, cases[i].key, cases[i].code));
    }
}

static void backoff_grows_and_is_bounded(void **state)
{
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        int64_t wait = lun_backoff_ns(attempt, random_id());
        assert_true(wait >= 75 * NS_PER_MS);
        assert_true(wait <= 3 * NS_PER_S);
    }
    assert_true(lun_backoff_ns(0, 7) < 101 * NS_PER_MS);
    assert_true(lun_backoff_ns(50, 7) > 2 * NS_PER_S);
}

static void secrets_are_not_named(void **state)
{
    char name[64];
    lun_public_name("iscsi://me%pa@ss@[::1]:3260/iqn.x:a@b/1", name, sizeof(name));
    assert_string_equal(name, "iscsi://[::1]:3260/iqn.x:a@b/1");
    lun_public_name("iscsi://host/iqn/0", name, sizeof(name));
    assert_string_equal(name, "iscsi://host/iqn/0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(capacity_is_decoded),
        cmocka_unit_test(absurd_capacity_is_refused),
        cmocka_unit_test(caching_page_is_decoded),
        cmocka_unit_test(pages_are_decoded),
        cmocka_unit_test(garbage_is_survived),
        cmocka_unit_test(failures_have_their_meaning),
        cmocka_unit_test(backoff_grows_and_is_bounded),
        cmocka_unit_test(secrets_are_not_named),
    };
    return cmocka_run_group_tests_name("lun", tests, NULL, NULL);
}
