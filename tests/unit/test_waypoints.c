// SPDX-License-Identifier: Apache-2.0
// common/daemon/waypoints: ends that ask the same waypoints on the same interface share one monitor, which is asked often as
// long as one of them wants that. The interface does not exist: what is asked and answered is test_address's.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/daemon/waypoints.h"

static struct ip ip_of(const char *text)
{
    struct ip ip;
    assert_int_equal(ip_parse(text, &ip, NULL), 0);
    return ip;
}

static struct waypoints_view *join(struct waypoints *all, const char *interface, const char *waypoint, const char *subnet)
{
    struct waypoints_view *view = NULL;
    const struct ip at = ip_of(waypoint), net = ip_of(subnet);
    assert_int_equal(waypoints_join(all, interface, &at, 1, &net, 1, &view, NULL), 0);
    return view;
}

static void same_questions_are_asked_once(void **state)
{
    (void)state;
    struct waypoints *all = waypoints_new();
    struct waypoints_view *a = join(all, "none-0", "192.0.2.1", "192.0.2.10/24");
    struct waypoints_view *b = join(all, "none-0", "192.0.2.1", "198.51.100.10/24");
    struct waypoints_view *c = join(all, "none-1", "192.0.2.1", "192.0.2.10/24");
    struct waypoints_view *d = join(all, "none-0", "192.0.2.2", "192.0.2.10/24");
    assert_ptr_equal(waypoints_monitor(a), waypoints_monitor(b));
    assert_ptr_not_equal(waypoints_monitor(a), waypoints_monitor(c));
    assert_ptr_not_equal(waypoints_monitor(a), waypoints_monitor(d));
    waypoints_leave(a);
    assert_int_equal(waypoint_count(waypoints_monitor(b)), 1); // it is still there
    waypoints_leave(b);
    waypoints_leave(c);
    waypoints_leave(d);
    assert_true(waypoints_deadline_ns(all) == INT64_MAX);
    waypoints_free(all);
}

static void asked_closely_as_long_as_one_wants_it(void **state)
{
    (void)state;
    struct waypoints *all = waypoints_new();
    struct waypoints_view *a = join(all, "none-0", "192.0.2.1", "192.0.2.10/24");
    struct waypoints_view *b = join(all, "none-0", "192.0.2.1", "192.0.2.10/24");
    waypoints_work(all); // the first ask
    assert_false(waypoint_close(waypoints_monitor(a)));
    waypoints_watch(a, true);
    assert_true(waypoints_deadline_ns(all) <= clock_boot_ns());
    waypoints_work(all);
    waypoints_watch(b, true); // it is asked for it at once, too
    assert_true(waypoints_deadline_ns(all) <= clock_boot_ns());
    waypoints_watch(a, false);
    assert_true(waypoint_close(waypoints_monitor(b)));
    waypoints_leave(b);
    assert_false(waypoint_close(waypoints_monitor(a)));
    waypoints_leave(a);
    waypoints_free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_questions_are_asked_once),
        cmocka_unit_test(asked_closely_as_long_as_one_wants_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
