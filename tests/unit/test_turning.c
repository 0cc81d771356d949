// SPDX-License-Identifier: Apache-2.0
// common/daemon/turning: a thread that spins or hangs in a lock is wedged; one that sleeps, gets no processor, or hangs in a
// disk is not.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/daemon/turning.h"

#define TICK_NS (250 * NS_PER_MS)

static char said_state;
static int64_t said_cpu_ns, cpu_a_tick_ns;

static char say(int tid, int64_t *ret_cpu_ns)
{
    (void)tid;
    said_cpu_ns += cpu_a_tick_ns;
    *ret_cpu_ns = said_cpu_ns;
    return said_state;
}

// How many ticks of one turn it takes until it counts as stuck; 0: it does not.
static unsigned ticks_until_stuck(char state, int64_t cpu_ns)
{
    struct turning t = {0};
    int64_t awake = 1000 * NS_PER_S;
    said_state = state;
    cpu_a_tick_ns = cpu_ns;
    for (unsigned i = 0; i < 100; i++) {
        if (turning_stuck(&t, awake, 1, awake + i * TICK_NS, say))
            return i;
    }
    return 0;
}

static void who_spins_is_stuck(void **state)
{
    assert_in_range(ticks_until_stuck('R', TICK_NS), 4, 8);
}

static void who_waits_for_a_lock_is_stuck(void **state)
{
    assert_in_range(ticks_until_stuck('S', 0), 4, 6);
}

static void who_gets_no_processor_is_not(void **state)
{
    assert_int_equal(ticks_until_stuck('R', TICK_NS / 100), 0);
}

static void who_hangs_in_a_disk_is_not(void **state)
{
    assert_int_equal(ticks_until_stuck('D', 0), 0);
}

static void what_cannot_be_looked_at_is_stuck_by_the_clock(void **state)
{
    assert_in_range(ticks_until_stuck(0, 0), 4, 6);
}

static void who_turns_is_never_stuck(void **state)
{
    struct turning t = {0};
    said_state = 'R';
    cpu_a_tick_ns = TICK_NS;
    for (int64_t now = NS_PER_S; now < 100 * NS_PER_S; now += TICK_NS) {
        assert_false(turning_stuck(&t, now - now % NS_PER_S, 1, now, say)); // a turn a second
        assert_false(turning_stuck(&(struct turning){0}, 0, 1, now, say));
    }
}

static void the_kernel_is_asked(void **state)
{
    int64_t before = -1, after = -1;
    assert_int_equal(turning_look(gettid(), &before), 'R');
    assert_true(before >= 0);
    int64_t until = clock_boot_ns() + 20 * NS_PER_MS;
    while (clock_boot_ns() < until || after <= before)
        assert_int_equal(turning_look(gettid(), &after), 'R');
    assert_int_equal(turning_look(0, &after), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_spins_is_stuck),
        cmocka_unit_test(who_waits_for_a_lock_is_stuck),
        cmocka_unit_test(who_gets_no_processor_is_not),
        cmocka_unit_test(who_hangs_in_a_disk_is_not),
        cmocka_unit_test(what_cannot_be_looked_at_is_stuck_by_the_clock),
        cmocka_unit_test(who_turns_is_never_stuck),
        cmocka_unit_test(the_kernel_is_asked),
    };
    return cmocka_run_group_tests_name("turning", tests, NULL, NULL);
}
