// SPDX-License-Identifier: Apache-2.0
// common/daemon/switchboard: the newest wish is what becomes of an address, nothing is on behind the deadline, and asking
// ends as the probe does; on real interfaces, in network namespaces of the test's own.
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/address/address.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/daemon/switchboard.h"
#include "tests/unit/netns.h"

#define PATIENCE_NS (60 * NS_PER_S) // for states that come much sooner

static struct netns ns;
static char *directory; // of the claims
static char claims_file[PATH_SIZE];

struct fixture {
    const struct ip *ips; // two
    struct mailbox *reports;
    struct switchboard *board;
};

static struct fixture fixture_on(const char *interface)
{
    static char path[] = "/tmp/test_switchboard.XXXXXX";
    if (!directory) {
        directory = mkdtemp(path);
        assert_non_null(directory);
        assert_int_equal(claims_path(claims_file, sizeof(claims_file), directory), 0);
    }
    static struct ip ips[2];
    struct fixture f = {.ips = ips, .reports = mailbox_new()};
    assert_int_equal(ip_parse("192.0.2.10/24", &ips[0], NULL), 0);
    assert_int_equal(ip_parse("2001:db8::10/64", &ips[1], NULL), 0);
    const struct switchboard_config config = {
        .claims = {.path = claims_file, .owner = "shop/primary", .interface = interface, .addresses = ips, .count = 2},
        .reports = f.reports};
    assert_int_equal(switchboard_new(&config, &f.board, NULL), 0);
    return f;
}

static void fixture_end(struct fixture *f)
{
    switchboard_free(f->board);
    mailbox_free(f->reports);
}

// What became of the wish with this ticket. Those of older wishes may come before it.
static int outcome(const struct fixture *f, uint64_t ticket, bool on)
{
    int64_t until = clock_boot_ns() + PATIENCE_NS;
    for (;;) {
        struct pollfd p = {.fd = mailbox_fd(f->reports), .events = POLLIN};
        CLEANUP_FREE struct switchboard_report *report = mailbox_take(f->reports);
        if (!report) {
            assert_true(clock_boot_ns() < until);
            (void)poll(&p, 1, 100);
            mailbox_clear(f->reports);
            continue;
        }
        assert_int_equal(report->letter.kind, SWITCHBOARD_DONE);
        assert_true(report->ticket <= ticket);
        if (report->ticket < ticket)
            continue;
        assert_int_equal(report->on, on);
        assert_int_equal(report->status < 0, report->text[0] != '\0');
        return report->status;
    }
}

static unsigned present(const struct fixture *f)
{
    unsigned n = 0;
    for (size_t i = 0; i < 2; i++) {
        bool there = false;
        assert_int_equal(address_present("a", &f->ips[i], &there, NULL), 0);
        n += there;
    }
    return n;
}

static void switches_on_and_off(void **state)
{
    (void)state;
    struct fixture f = fixture_on("a");
    assert_int_equal(outcome(&f, switchboard_switch(f.board, true), true), 0);
    assert_int_equal(present(&f), 2);
    assert_int_equal(outcome(&f, switchboard_switch(f.board, true), true), 0); // it is on: no error
    assert_int_equal(outcome(&f, switchboard_switch(f.board, false), false), 0);
    assert_int_equal(present(&f), 0);
    assert_int_equal(outcome(&f, switchboard_switch(f.board, false), false), 0);
    fixture_end(&f);
}

static void the_newest_wish_counts(void **state)
{
    (void)state;
    struct fixture f = fixture_on("a");
    for (unsigned i = 0; i < 50; i++) {
        (void)switchboard_switch(f.board, true);
        assert_int_equal(outcome(&f, switchboard_switch(f.board, false), false), 0);
        assert_int_equal(present(&f), 0);
        (void)switchboard_switch(f.board, false);
        assert_int_equal(outcome(&f, switchboard_switch(f.board, true), true), 0);
        assert_int_equal(present(&f), 2);
    }
    (void)switchboard_switch(f.board, false);
    switchboard_free(f.board); // what was wished for last still becomes true
    f.board = NULL;
    assert_int_equal(present(&f), 0);
    fixture_end(&f);
}

static void nothing_is_on_behind_the_deadline(void **state)
{
    (void)state;
    struct fixture f = fixture_on("a");
    switchboard_limit(f.board, clock_boot_ns());
    assert_int_equal(outcome(&f, switchboard_switch(f.board, true), true), -ETIME);
    assert_int_equal(present(&f), 0);
    // Somewhere in the middle of it, or behind: whoever is told that it is on was in time.
    for (int64_t us = 0; us < 400; us += 10) {
        int64_t limit = clock_boot_ns() + us * NS_PER_US;
        switchboard_limit(f.board, limit);
        int r = outcome(&f, switchboard_switch(f.board, true), true);
        assert_true(r == 0 || r == -ETIME);
        assert_int_equal(present(&f), r == 0 ? 2 : 0);
        assert_int_equal(outcome(&f, switchboard_switch(f.board, false), false), 0); // whatever the deadline
    }
    switchboard_limit(f.board, INT64_MAX);
    assert_int_equal(outcome(&f, switchboard_switch(f.board, true), true), 0);
    assert_int_equal(outcome(&f, switchboard_switch(f.board, false), false), 0);
    fixture_end(&f);
}

static void what_cannot_be_switched_says_why(void **state)
{
    (void)state;
    struct fixture f = fixture_on("nosuch");
    assert_int_equal(outcome(&f, switchboard_switch(f.board, true), true), -ENODEV);
    assert_int_equal(outcome(&f, switchboard_switch(f.board, false), false), 0); // no interface, no address
    fixture_end(&f);
}

static enum probe_state answer_of(struct switchboard *board, struct probe_answer *answer)
{
    int64_t until = clock_boot_ns() + PATIENCE_NS;
    enum probe_state state;
    while ((state = switchboard_answer(board, answer)) == PROBE_ASKING) {
        assert_true(clock_boot_ns() < until);
        (void)usleep(1000);
    }
    return state;
}

static void asks_who_has_it(void **state)
{
    (void)state;
    struct probe_answer answer;
    struct fixture f = fixture_on("a");
    switchboard_ask(f.board);
    assert_int_equal(answer_of(f.board, &answer), PROBE_SILENT);
    switchboard_ask_no_more(f.board);
    netns_there(&ns, "ip addr add 192.0.2.10/32 dev b");
    switchboard_ask(f.board);
    switchboard_ask_no_more(f.board); // given up, and asked anew
    switchboard_ask(f.board);
    assert_int_equal(answer_of(f.board, &answer), PROBE_ANSWERED);
    assert_non_null(strstr(answer.text, "192.0.2.10"));
    netns_there(&ns, "ip addr flush dev b scope global");
    netns_cut(&ns);
    switchboard_ask(f.board);
    assert_int_equal(answer_of(f.board, &answer), PROBE_IMPOSSIBLE);
    assert_true(answer.text[0] != '\0');
    netns_heal(&ns);
    switchboard_ask(f.board); // still under way at the end
    fixture_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(switches_on_and_off),
        cmocka_unit_test(the_newest_wish_counts),
        cmocka_unit_test(nothing_is_on_behind_the_deadline),
        cmocka_unit_test(what_cannot_be_switched_says_why),
        cmocka_unit_test(asks_who_has_it),
    };
    netns_make(&ns);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    netns_drop(&ns);
    char command[PATH_SIZE];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return failed || !directory || system(command) != 0;
}
