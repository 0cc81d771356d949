// SPDX-License-Identifier: Apache-2.0
// common/daemon/history: the newest steps, in order, also after a restart; a damaged slot is left
// out.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/checksum.h"
#include "common/daemon/history.h"

static char path[] = "/tmp/test_history_XXXXXX";
static struct status_event events[HISTORY_MAX];

static void add(struct history *h, int from, int to)
{
    for (int i = from; i < to; i++) {
        struct status_event *e = history_add(h);
        e->real_ms = 1000 + i;
        snprintf(e->text, sizeof(e->text), "step %d", i);
        history_write(h, e);
    }
}

static void newest_are_kept_in_order(void **state)
{
    struct history *h = history_open(path);
    assert_non_null(h);
    assert_null(history_newest(h));
    add(h, 0, 300);
    assert_int_equal(history_list(h, events, HISTORY_MAX), HISTORY_MAX);
    assert_string_equal(events[0].text, "step 44");
    assert_string_equal(events[HISTORY_MAX - 1].text, "step 299");
    assert_int_equal(history_list(h, events, 3), 3);
    assert_string_equal(events[0].text, "step 297");
    history_free(h);
}

static void restart_knows_them(void **state)
{
    struct history *h = history_open(path);
    assert_string_equal(history_newest(h)->text, "step 299");
    add(h, 300, 301);
    assert_int_equal(history_list(h, events, HISTORY_MAX), HISTORY_MAX);
    assert_string_equal(events[0].text, "step 45");
    assert_string_equal(events[HISTORY_MAX - 1].text, "step 300");
    history_free(h);
}

// Only what has just been said is counted up, and that is kept as well.
static void what_repeats_is_counted(void **state)
{
    (void)state;
    char other[] = "/tmp/test_history_XXXXXX";
    int fd = mkstemp(other);
    struct history *h = history_open(other);
    add(h, 0, 300);
    for (int i = 0; i < 2; i++) {
        struct status_event *e = history_add(h);
        e->real_ms = 5000;
        e->ms = -1;
        e->count = 1;
        snprintf(e->text, sizeof(e->text), i ? "trying again" : "no store");
        history_write(h, e);
    }
    assert_null(history_same(h, "step 299"));
    struct status_event *e = history_same(h, "no store");
    assert_non_null(e);
    e->count++;
    history_write(h, e);
    h = history_free(h);
    h = history_open(other);
    assert_int_equal(history_list(h, events, HISTORY_MAX), HISTORY_MAX);
    assert_string_equal(events[HISTORY_MAX - 2].text, "no store");
    assert_int_equal(events[HISTORY_MAX - 2].count, 2);
    assert_int_equal(events[HISTORY_MAX - 1].count, 1);
    history_free(h);
    close(fd);
    unlink(other);
}

static void damaged_slot_is_left_out(void **state)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;
    off_t at = lseek(fd, 0, SEEK_END) / 2;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    struct history *h = history_open(path);
    assert_int_equal(history_list(h, events, HISTORY_MAX), HISTORY_MAX - 1);
    history_free(h);
}

// Each byte of a slot: it is left out, and every other one is as it was.
static void every_damaged_byte_leaves_one_step_out(void **state)
{
    struct history *h = history_open(path);
    size_t count = history_list(h, events, HISTORY_MAX);
    const struct status_event *newest = history_newest(h);
    char text[STATUS_TEXT_SIZE];
    snprintf(text, sizeof(text), "%s", newest->text);
    history_free(h);
    int fd = open(path, O_RDWR);
    for (size_t i = 0; i < sizeof(struct step_slot); i++) {
        off_t at = (off_t)(20 * sizeof(struct step_slot) + i);
        uint8_t byte, damaged;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        damaged = byte ^ (uint8_t)(1U << i % 8);
        assert_int_equal(pwrite(fd, &damaged, 1, at), 1);
        h = history_open(path);
        assert_int_equal(history_list(h, events, HISTORY_MAX), count - 1);
        assert_string_equal(history_newest(h)->text, text);
        history_free(h);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
}

struct slot {
    uint64_t number, sum;
    struct status_event event;
};

// A number above which nothing can be counted, or a bool that is none, is not believed, whatever
// its checksum.
static void impossible_slots_are_left_out(void **state)
{
    struct slot slot = {.number = UINT64_MAX, .event = {.real_ms = 1}};
    struct slot other = {.number = 2, .event = {.real_ms = 1}};
    memset(&other.event.loss.known, 2, 1);
    other.sum = checksum64(&other, sizeof(other));
    slot.sum = checksum64(&slot, sizeof(slot));
    int fd = open(path, O_RDWR | O_TRUNC);
    assert_int_equal(ftruncate(fd, HISTORY_MAX * sizeof(slot)), 0);
    assert_int_equal(pwrite(fd, &slot, sizeof(slot), (HISTORY_MAX - 1) * sizeof(slot)),
                     sizeof(slot));
    assert_int_equal(pwrite(fd, &other, sizeof(other), 2 * sizeof(other)), sizeof(other));
    close(fd);
    struct history *h = history_open(path);
    assert_null(history_newest(h));
    assert_int_equal(history_list(h, events, HISTORY_MAX), 0);
    add(h, 0, 2);
    assert_int_equal(history_list(h, events, HISTORY_MAX), 2);
    history_free(h);
}

static void file_that_cannot_be_made_is_done_without(void **state)
{
    struct history *h = history_open("/nowhere/at/all");
    assert_non_null(h);
    add(h, 0, 2);
    assert_int_equal(history_list(h, events, HISTORY_MAX), 2);
    history_free(h);
}

static int make_path(void **state)
{
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int drop_path(void **state)
{
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newest_are_kept_in_order),
        cmocka_unit_test(restart_knows_them),
        cmocka_unit_test(what_repeats_is_counted),
        cmocka_unit_test(every_damaged_byte_leaves_one_step_out),
        cmocka_unit_test(damaged_slot_is_left_out),
        cmocka_unit_test(impossible_slots_are_left_out),
        cmocka_unit_test(file_that_cannot_be_made_is_done_without),
    };
    return cmocka_run_group_tests(tests, make_path, drop_path);
}
