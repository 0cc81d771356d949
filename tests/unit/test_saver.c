// SPDX-License-Identifier: Apache-2.0
// common/daemon/saver: what was told to be saved is on the disk, in the order in which it was asked for, and what could not
// be saved is told.
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/twin.h"
#include "common/daemon/saver.h"

#define PATIENCE_NS (60 * NS_PER_S)
#define SAVES       20

static char dir[64], path[80];

// The outcome of the save with this ticket, which is the next one that is told.
static int outcome(struct mailbox *reports, uint64_t ticket)
{
    int64_t until = clock_boot_ns() + PATIENCE_NS;
    for (;;) {
        struct pollfd p = {.fd = mailbox_fd(reports), .events = POLLIN};
        CLEANUP_FREE struct saver_report *report = mailbox_take(reports);
        if (report) {
            assert_int_equal(report->letter.kind, SAVER_SAVED);
            assert_int_equal(report->ticket, ticket);
            return report->status;
        }
        assert_true(clock_boot_ns() < until);
        (void)poll(&p, 1, 100);
        mailbox_clear(reports);
    }
}

// What the next run finds.
static uint64_t saved_session(void)
{
    static uint8_t bytes[STATE_SIZE_MAX];
    struct twin_copy copies[2];
    struct end_state st;
    size_t size = 0;
    assert_int_equal(twin_inspect(path, bytes, sizeof(bytes), &size, copies, NULL), 0);
    assert_null(state_decode(bytes, size, &st));
    return st.session;
}

static void saves_in_order(void **state)
{
    (void)state;
    struct mailbox *reports = mailbox_new();
    struct saver *saver = NULL;
    struct end_state st;
    assert_int_equal(saver_new(path, reports, &saver, &st, NULL), 0);
    for (uint64_t i = 1; i <= SAVES; i++) {
        st.session = i;
        saver_save(saver, i, &st);
    }
    for (uint64_t i = 1; i <= SAVES; i++)
        assert_int_equal(outcome(reports, i), 0);
    st.session = SAVES + 1;
    saver_save(saver, SAVES + 1, &st);
    saver_free(saver); // what was asked for is saved
    mailbox_free(reports);
    assert_int_equal(saved_session(), SAVES + 1);
}

// Whatever waits for it does not go on; and the former state stands.
static void save_that_failed_is_told(void **state)
{
    (void)state;
    struct mailbox *reports = mailbox_new();
    struct saver *saver = NULL;
    struct end_state st;
    struct rlimit files, none;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &files), 0);
    none = files;
    none.rlim_cur = 0;
    assert_int_equal(saver_new(path, reports, &saver, &st, NULL), 0);
    st.session = 7;
    saver_save(saver, 1, &st);
    assert_int_equal(outcome(reports, 1), 0);
    st.session = 8;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0); // no file takes a byte
    saver_save(saver, 2, &st);
    int r = outcome(reports, 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &files), 0);
    assert_int_equal(r, -EFBIG);
    assert_int_equal(saved_session(), 7);
    saver_save(saver, 3, &st);
    assert_int_equal(outcome(reports, 3), 0);
    saver_free(saver);
    mailbox_free(reports);
    assert_int_equal(saved_session(), 8);
}

static int set_up(void **state)
{
    (void)state;
    (void)signal(SIGXFSZ, SIG_IGN);
    snprintf(dir, sizeof(dir), "/tmp/test_saver_XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/state", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        char copy[96];
        snprintf(copy, sizeof(copy), "%s.%d", path, i);
        (void)unlink(copy);
    }
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(saves_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(save_that_failed_is_told, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
