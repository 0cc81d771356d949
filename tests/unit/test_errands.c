// SPDX-License-Identifier: Apache-2.0
// common/apps/errands: what a runner asks of a worker that may hang, and what it is told.
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "common/apps/errands.h"

static int setup(void **state)
{
    static struct errands errands;
    *state = &errands;
    return errands_init(&errands);
}

static int teardown(void **state)
{
    errands_clear(*state);
    return 0;
}

static bool has_news(const struct errands *e)
{
    struct pollfd p = {.fd = e->event_fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void latest_request_replaces_one_that_waits(void **state)
{
    struct errands *e = *state;
    enum virt_request request;
    unsigned first = errands_ask(e, VIRT_START), second = errands_ask(e, VIRT_DESTROY);
    assert_true(first != 0 && second != 0 && first != second);
    assert_false(errands_pause(e, 0));
    assert_true(errands_next(e, -1, &request));
    assert_int_equal(request, VIRT_DESTROY);
    assert_int_equal(e->handled, second);
    assert_true(errands_pause(e, 0));
    assert_true(errands_next(e, 0, &request)); // the time is over, and nothing has come
    assert_int_equal(request, VIRT_NONE);
    assert_int_equal(e->handled, second);
}

// A look wakes the worker once, and is no request: it does not end a pause.
static void look_is_no_request(void **state)
{
    struct errands *e = *state;
    enum virt_request request;
    errands_look(e);
    assert_true(errands_pause(e, 0));
    assert_true(errands_next(e, -1, &request));
    assert_int_equal(request, VIRT_NONE);
    assert_false(e->look);
}

// The number of a report is that of the request that was carried out, whatever has been asked since.
static void reports_come_in_order_with_their_request(void **state)
{
    struct errands *e = *state;
    enum virt_request request;
    struct virt_report report;
    unsigned asked = errands_ask(e, VIRT_START);
    assert_true(errands_next(e, -1, &request));
    assert_false(has_news(e));
    errands_report(e, VIRT_NOTE, "one");
    (void)errands_ask(e, VIRT_SHUTDOWN);
    errands_report(e, VIRT_UP, "two");
    assert_true(has_news(e));
    assert_true(errands_take(e, &report));
    assert_int_equal(report.news, VIRT_NOTE);
    assert_int_equal(report.serial, asked);
    assert_string_equal(report.text, "one");
    assert_true(errands_take(e, &report));
    assert_int_equal(report.news, VIRT_UP);
    assert_int_equal(report.serial, asked);
    assert_false(errands_take(e, &report));
    assert_false(has_news(e));
    errands_report(e, VIRT_GONE, "three"); // after the last one was taken: the list is whole again
    assert_true(errands_take(e, &report));
    assert_string_equal(report.text, "three");
    errands_report(e, VIRT_NOTE, "nobody takes it");
}

static void nothing_is_committed_to_once_it_is_superseded(void **state)
{
    struct errands *e = *state;
    enum virt_request request;
    (void)errands_ask(e, VIRT_START);
    assert_true(errands_next(e, -1, &request));
    assert_true(errands_commit(e));
    assert_true(errands_committed(e));
    (void)errands_ask(e, VIRT_DESTROY); // has to wait for what comes of it
    assert_true(errands_committed(e));
    errands_uncommit(e);
    assert_false(errands_commit(e));
    assert_false(errands_committed(e));
}

static void *carry_out(void *arg)
{
    struct errands *e = arg;
    enum virt_request request;
    while (errands_next(e, -1, &request))
        if (request != VIRT_NONE)
            errands_report(e, VIRT_FOUND, "");
    return NULL;
}

static void waiting_worker_is_woken(void **state)
{
    struct errands *e = *state;
    struct virt_report report;
    pthread_t worker;
    assert_int_equal(pthread_create(&worker, NULL, carry_out, e), 0);
    unsigned serial = errands_ask(e, VIRT_CHECK);
    struct pollfd p = {.fd = e->event_fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 60000), 1);
    assert_true(errands_take(e, &report));
    assert_int_equal(report.serial, serial);
    errands_quit(e);
    assert_int_equal(pthread_join(worker, NULL), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(latest_request_replaces_one_that_waits),
        T(look_is_no_request),
        T(reports_come_in_order_with_their_request),
        T(nothing_is_committed_to_once_it_is_superseded),
        T(waiting_worker_is_woken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
