// SPDX-License-Identifier: Apache-2.0
// common/base/log: with a thread of its own nobody who logs waits for what is behind stderr; nothing is lost as long as it
// fits in memory, and what does not fit is counted.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/log.h"

#define HANG_SECONDS 60 // the test itself hangs: whoever logs is held up

static int stderr_fd, reader_fd;

// Behind stderr is a pipe that nobody reads.
static void stall(void)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_true(fcntl(fds[1], F_SETPIPE_SZ, 4096) >= 4096);
    stderr_fd = dup(STDERR_FILENO);
    assert_true(dup2(fds[1], STDERR_FILENO) >= 0);
    close(fds[1]);
    reader_fd = fds[0];
    alarm(HANG_SECONDS);
}

static FILE *lines_again(void)
{
    FILE *f = fdopen(reader_fd, "r");
    assert_non_null(f);
    return f;
}

static void restore(FILE *f)
{
    alarm(0);
    assert_true(dup2(stderr_fd, STDERR_FILENO) >= 0);
    close(stderr_fd);
    fclose(f);
}

static unsigned number_in(const char *line, const char *word)
{
    const char *at = strstr(line, word);
    return at ? (unsigned)strtoul(at + strlen(word), NULL, 10) : 0;
}

static void nobody_waits_and_nothing_is_lost(void **state)
{
    char line[256];
    stall();
    assert_int_equal(log_start(), 0);
    for (unsigned i = 1; i <= 1000; i++)
        log_info("line %u of a thousand", i);
    FILE *f = lines_again();
    for (unsigned i = 1; i <= 1000; i++) {
        assert_non_null(fgets(line, sizeof(line), f));
        assert_int_equal(number_in(line, "line "), i);
        assert_non_null(strstr(line, " of a thousand\n"));
    }
    log_stop();
    restore(f);
}

static void what_does_not_fit_is_counted(void **state)
{
    const unsigned sent = 10000;
    char line[256];
    unsigned next = 1, missing = 0;
    stall();
    assert_int_equal(log_start(), 0);
    for (unsigned i = 1; i < sent; i++)
        log_info("line %u %060d", i, 0);
    FILE *f = lines_again();
    // There is room again once something was read, and a line that follows says what is missing.
    for (unsigned i = 0; i < 1000; i++, next++) {
        assert_non_null(fgets(line, sizeof(line), f));
        assert_int_equal(number_in(line, "line "), next);
    }
    log_info("line %u, the last", sent);
    while (next <= sent) {
        assert_non_null(fgets(line, sizeof(line), f));
        unsigned lost = number_in(line, "(");
        if (lost == 0)
            assert_int_equal(number_in(line, "line "), next++);
        missing += lost;
        next += lost;
    }
    assert_in_range(missing, 1000, sent);
    assert_non_null(strstr(line, "the last"));
    log_stop();
    restore(f);
}

// The end of a program is not held up for good either.
static void stop_gives_up(void **state)
{
    stall();
    assert_int_equal(log_start(), 0);
    for (unsigned i = 0; i < 1000; i++)
        log_info("line %u", i);
    log_stop();
    restore(lines_again());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_waits_and_nothing_is_lost),
        cmocka_unit_test(what_does_not_fit_is_counted),
        cmocka_unit_test(stop_gives_up),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
