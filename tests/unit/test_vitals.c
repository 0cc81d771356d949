// SPDX-License-Identifier: Apache-2.0
// queues/vitals: after a kill between any two stores, and after any damage of a byte, what is believed promises no more
// than what was written.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "queues/vitals.h"

#define BOOT UINT64_C(0x1122334455667788)
#define ECHO INT64_C(5000000000)

static struct vitals make(int64_t lease)
{
    struct vitals v = {0};
    assert_int_equal(vitals_boot(&v), 0);
    assert_false(vitals_damaged(&v));
    vitals_begin(&v, BOOT);
    vitals_echo(&v, ECHO);
    vitals_echo(&v, ECHO - 1); // ignored
    vitals_lease(&v, lease);
    assert_int_equal(vitals_boot(&v), BOOT);
    assert_int_equal(vitals_echo_sent_ns(&v), ECHO);
    assert_int_equal(vitals_lease_ns(&v), lease);
    return v;
}

static void assert_promises_no_more(const struct vitals *v, int64_t lease)
{
    assert_true(vitals_boot(v) == BOOT || (vitals_boot(v) == 0 && vitals_damaged(v)));
    assert_true(vitals_echo_sent_ns(v) >= 0 && vitals_echo_sent_ns(v) <= ECHO);
    assert_true(vitals_lease_ns(v) == lease || vitals_lease_ns(v) == VITALS_UNKNOWN);
}

static void every_damaged_byte_promises_no_more(void **state)
{
    static const int64_t leases[] = {VITALS_NO_DEADLINE, VITALS_UNKNOWN, 7000000000};
    for (unsigned l = 0; l < 3; l++) {
        struct vitals v = make(leases[l]);
        for (size_t bit = 0; bit < 8 * sizeof(v); bit++) {
            struct vitals damaged = v;
            ((uint8_t *)&damaged)[bit / 8] ^= (uint8_t)(1U << bit % 8);
            assert_promises_no_more(&damaged, leases[l]);
        }
        for (size_t at = 0; at < sizeof(v); at++) {
            for (int how = 0; how < 2; how++) {
                struct vitals damaged = v;
                ((uint8_t *)&damaged)[at] = how ? 0xff : 0;
                assert_promises_no_more(&damaged, leases[l]);
            }
        }
    }
}

// A reboot makes another one, even where the runtime directory was kept.
static void a_token_is_of_one_kernel(void **state)
{
    uint64_t token = vitals_token(UINT64_C(0x1234567890abcdef), 77);
    assert_true(vitals_token_fits(token, 77));
    assert_false(vitals_token_fits(token, 78));
    assert_false(vitals_token_fits(0, 0));
    assert_true(vitals_token_fits(vitals_token(5, 0), 0)); // not known, now as then
}

// A kill leaves the first stores of an update, in order.
static void a_kill_between_two_stores_promises_no_more(void **state)
{
    struct vitals v = make(VITALS_NO_DEADLINE);
    struct vitals half = v;
    half.lease_ns = 9000000000; // a grant goes out: that nothing is watched may not be believed any more
    assert_int_equal(vitals_lease_ns(&half), VITALS_UNKNOWN);
    half = v;
    half.echo_sent_ns = ECHO + 1000;
    assert_int_equal(vitals_echo_sent_ns(&half), ECHO);
    vitals_echo(&half, ECHO + 2000);
    assert_int_equal(vitals_echo_sent_ns(&half), ECHO + 2000);
    struct vitals young = {.boot = BOOT};
    assert_int_equal(vitals_boot(&young), 0);
}

// Only what is surely the same is the same.
static void another_timing_is_told_apart(void **state)
{
    struct vitals v = {0};
    assert_true(vitals_same_timing(&v, 7)); // of an older version
    vitals_begin(&v, BOOT);
    assert_true(vitals_same_timing(&v, 7)); // nothing has served
    vitals_timing(&v, 7);
    assert_true(vitals_same_timing(&v, 7));
    assert_false(vitals_same_timing(&v, 8));
    struct vitals half = v;
    half.timing = 8; // killed between two stores
    assert_false(vitals_same_timing(&half, 7) || vitals_same_timing(&half, 8));
    for (size_t i = 0; i < 8 * (sizeof(v.timing) + sizeof(v.timing_not)); i++) {
        half = v;
        ((uint8_t *)&half.timing)[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_false(vitals_same_timing(&half, 7));
    }
    vitals_begin(&v, BOOT + 1);
    assert_true(vitals_same_timing(&v, 8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_damaged_byte_promises_no_more),
        cmocka_unit_test(a_token_is_of_one_kernel),
        cmocka_unit_test(a_kill_between_two_stores_promises_no_more),
        cmocka_unit_test(another_timing_is_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
