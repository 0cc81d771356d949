// SPDX-License-Identifier: Apache-2.0
// Control messages of several channels that travel together (common/channel/bundle.h): two pairs between two "processes",
// each of which has a bundler of its own; all of it pumped by one thread.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/channel/frame.h"
#include "tests/unit/channel_ends.h"
#include "tests/unit/channel_proxy.h"

#define PAIRS 2

struct town {
    struct channel_bundler *a, *b;
    struct ends pairs[PAIRS];
    struct proxy *to_a[PAIRS], *to_b[PAIRS]; // control
    struct proxy *data_to_a[PAIRS], *data_to_b[PAIRS];
};

static void town_configure(struct town *t, bool proxies)
{
    static const char *const names[PAIRS] = {"one", "two"};
    *t = (struct town){.a = channel_bundler_new(), .b = channel_bundler_new()};
    assert_true(t->a && t->b);
    for (int i = 0; i < PAIRS; i++) {
        struct ends *e = &t->pairs[i];
        ends_configure(e, 1, NULL, proxies);
        e->a.config.pair = e->b.config.pair = names[i];
        e->a.config.bundler = t->a;
        e->b.config.bundler = t->b;
        if (!proxies)
            continue;
        t->to_b[i] = proxy_start("127.0.0.3", "127.0.0.2", e->port);
        t->to_a[i] = proxy_start("127.0.0.4", "127.0.0.1", e->port);
        t->data_to_b[i] = proxy_start("127.0.0.3", "127.0.0.2", (uint16_t)(e->port + 1));
        t->data_to_a[i] = proxy_start("127.0.0.4", "127.0.0.1", (uint16_t)(e->port + 1));
    }
}

static void town_close(struct town *t)
{
    for (int i = 0; i < PAIRS; i++) {
        ends_close(&t->pairs[i]);
        if (!t->to_a[i])
            continue;
        proxy_stop(t->to_a[i]);
        proxy_stop(t->to_b[i]);
        proxy_stop(t->data_to_a[i]);
        proxy_stop(t->data_to_b[i]);
    }
    channel_bundler_free(t->a);
    channel_bundler_free(t->b);
}

static void pump(struct town *t, int ms)
{
    int64_t until = clock_boot_ns() + ms * NS_PER_MS;
    do {
        for (int i = 0; i < PAIRS; i++)
            ends_pump(&t->pairs[i], 1);
    } while (clock_boot_ns() < until);
}

static void wait_for(struct town *t, bool (*condition)(struct town *), const char *what)
{
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    while (!condition(t)) {
        if (clock_boot_ns() > until)
            fail_msg("waited in vain for: %s", what);
        pump(t, 1);
    }
}

static bool all_up(struct town *t)
{
    for (int i = 0; i < PAIRS; i++) {
        if (t->pairs[i].a.ch && !ends_all_up(&t->pairs[i]))
            return false;
    }
    return true;
}

static void town_open(struct town *t)
{
    for (int i = 0; i < PAIRS; i++)
        ends_open(&t->pairs[i]);
    wait_for(t, all_up, "all links up");
}

static void say(struct end *from, const char *text)
{
    assert_int_equal(channel_send_control(from->ch, 0, text, strlen(text)), 1);
}

static void forget(struct town *t)
{
    for (int i = 0; i < PAIRS; i++) {
        t->pairs[i].a.n_control = t->pairs[i].b.n_control = 0;
        t->pairs[i].a.control[0] = t->pairs[i].b.control[0] = '\0';
    }
}

static bool b_have_two_each(struct town *t)
{
    return t->pairs[0].b.n_control >= 2 && t->pairs[1].b.n_control >= 2;
}

static bool a_have_one_each(struct town *t)
{
    return t->pairs[0].a.n_control >= 1 && t->pairs[1].a.n_control >= 1;
}

static uint64_t messages_in(struct end *end)
{
    struct channel_path_info info;
    channel_path_info(end->ch, 0, &info);
    return info.control.messages_in;
}

// What two channels say waits, goes together, and arrives at each one's peer, in its order, as if it had come alone.
static void messages_of_two_channels_travel_together(void **state)
{
    struct town t;
    town_configure(&t, false);
    town_open(&t);
    forget(&t);
    uint64_t before = messages_in(&t.pairs[1].b);
    say(&t.pairs[0].a, "first of one");
    say(&t.pairs[1].a, "first of two");
    say(&t.pairs[0].a, "second of one");
    say(&t.pairs[1].a, "second of two");
    pump(&t, 100);
    assert_int_equal(t.pairs[0].b.n_control + t.pairs[1].b.n_control, 0);
    channel_bundler_send(t.a);
    wait_for(&t, b_have_two_each, "both peers have both");
    assert_string_equal(t.pairs[0].b.control, "second of one");
    assert_string_equal(t.pairs[1].b.control, "second of two");
    assert_true(t.pairs[0].b.control_run == t.pairs[0].a.config.run);
    assert_true(t.pairs[1].b.control_run == t.pairs[1].a.config.run);
    assert_true(messages_in(&t.pairs[1].b) >= before + 2);
    for (int i = 0; i < PAIRS; i++)
        say(&t.pairs[i].b, "answer");
    channel_bundler_send(t.b);
    wait_for(&t, a_have_one_each, "both have an answer");
    assert_string_equal(t.pairs[0].a.control, "answer");
    assert_string_equal(t.pairs[1].a.control, "answer");
    town_close(&t);
}

static bool one_b_has_some(struct town *t)
{
    return t->pairs[0].b.n_control > 0;
}

#define MANY 4

// More than one message of nanomsg's may hold goes in several.
static void much_goes_in_several(void **state)
{
    struct town t;
    char text[12000];
    town_configure(&t, false);
    town_open(&t);
    forget(&t);
    memset(text, 'x', sizeof(text));
    for (int n = 0; n < MANY; n++) {
        for (int i = 0; i < PAIRS; i++)
            assert_int_equal(channel_send_control(t.pairs[i].a.ch, 0, text, sizeof(text)), 1);
    }
    channel_bundler_send(t.a);
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    while (t.pairs[0].b.n_control + t.pairs[1].b.n_control < 2 * MANY) {
        assert_true(clock_boot_ns() < until);
        pump(&t, 1);
    }
    town_close(&t);
}

// A message that is too large to wait, or a goodbye, does not overtake what waits.
static void what_waits_goes_first(void **state)
{
    struct town t;
    CLEANUP_FREE char *large = calloc(1, CHANNEL_CONTROL_MAX);
    town_configure(&t, false);
    town_open(&t);
    forget(&t);
    say(&t.pairs[0].a, "small");
    memcpy(large, "large", 5);
    assert_int_equal(channel_send_control(t.pairs[0].a.ch, 0, large, CHANNEL_CONTROL_MAX), 1);
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    while (t.pairs[0].b.n_control < 2) {
        assert_true(clock_boot_ns() < until);
        pump(&t, 1);
    }
    assert_string_equal(t.pairs[0].b.control, "large");
    forget(&t);
    say(&t.pairs[0].a, "last words");
    end_close(&t.pairs[0].a);
    wait_for(&t, one_b_has_some, "the last words");
    assert_string_equal(t.pairs[0].b.control, "last words");
    say(&t.pairs[1].a, "goes on");
    channel_bundler_send(t.a);
    while (t.pairs[1].b.n_control < 1) {
        assert_true(clock_boot_ns() < until);
        pump(&t, 1);
    }
    town_close(&t);
}

// A peer that takes no bundles is sent none; nothing waits.
static void peer_without_a_bundler_is_sent_each_alone(void **state)
{
    struct town t;
    town_configure(&t, false);
    t.pairs[0].b.config.bundler = t.pairs[1].b.config.bundler = NULL;
    town_open(&t);
    forget(&t);
    say(&t.pairs[0].a, "alone");
    wait_for(&t, one_b_has_some, "the message");
    assert_string_equal(t.pairs[0].b.control, "alone");
    forget(&t);
    say(&t.pairs[0].b, "alone, too");
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    while (t.pairs[0].a.n_control < 1) {
        assert_true(clock_boot_ns() < until);
        pump(&t, 1);
    }
    town_close(&t);
}

// The peer's process ends and another one takes its place: bundles for the former are nobody's, and all is well again soon.
static void another_process_takes_the_place(void **state)
{
    struct town t;
    town_configure(&t, false);
    town_open(&t);
    for (int i = PAIRS; i-- > 0;)
        end_close(&t.pairs[i].b);
    channel_bundler_free(t.b);
    t.b = channel_bundler_new();
    for (int i = PAIRS; i-- > 0;) { // other slots than before
        t.pairs[i].b.config.bundler = t.b;
        t.pairs[i].b.config.run++;
        end_open(&t.pairs[i].b);
    }
    wait_for(&t, all_up, "all links up again");
    forget(&t);
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    while (t.pairs[0].b.n_control == 0 || t.pairs[1].b.n_control == 0) {
        assert_true(clock_boot_ns() < until);
        for (int i = 0; i < PAIRS; i++)
            (void)channel_send_control(t.pairs[i].a.ch, 0, i ? "to two" : "to one", 6);
        channel_bundler_send(t.a);
        pump(&t, 20);
    }
    assert_string_equal(t.pairs[0].b.control, "to one");
    assert_string_equal(t.pairs[1].b.control, "to two");
    town_close(&t);
}

static int downs(const struct end *end)
{
    return end->counts[CHANNEL_SIDE_CONTROL][0][CHANNEL_DOWN];
}

// One pair's connections go dead while all else goes on: its own link finds it, though its messages arrive in the other's
// bundles, and makes new ones; the other pair never goes down for it.
static void dead_connection_is_found_by_its_own_link(void **state)
{
    struct town t;
    town_configure(&t, true);
    for (int i = 0; i < PAIRS; i++)
        t.pairs[i].a.config.silence_ns = t.pairs[i].b.config.silence_ns = ENDS_SILENCE_NS;
    town_open(&t);
    proxy_set_dead(t.to_b[0], true);
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    while (downs(&t.pairs[0].a) == 0) {
        assert_true(clock_boot_ns() < until);
        for (int i = 0; i < PAIRS; i++) {
            (void)channel_send_control(t.pairs[i].a.ch, 0, "beat", 4);
            (void)channel_send_control(t.pairs[i].b.ch, 0, "beat", 4);
        }
        channel_bundler_send(t.a);
        channel_bundler_send(t.b);
        pump(&t, 20);
    }
    proxy_set_dead(t.to_b[0], false);
    forget(&t);
    while (t.pairs[0].b.n_control == 0 || t.pairs[1].b.n_control == 0 || !all_up(&t)) {
        assert_true(clock_boot_ns() < until);
        for (int i = 0; i < PAIRS; i++)
            (void)channel_send_control(t.pairs[i].a.ch, 0, "again", 5);
        channel_bundler_send(t.a);
        pump(&t, 20);
    }
    town_close(&t);
}

// --- the bytes ---

static void entries_are_bounded(void **state)
{
    uint8_t bytes[3 * 64], *message;
    size_t used = 0, at = 0, size;
    uint32_t slot;
    static const size_t sizes[] = {0, 5, 32};
    for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
        memset(bytes + used + sizeof(struct frame_entry), 'a' + (int)i, sizes[i]);
        frame_entry_fill(bytes + used, 7 + i, sizes[i]);
        used += frame_entry_whole(sizes[i]);
    }
    for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
        assert_true(frame_entry_next(bytes, used, &at, &slot, &message, &size));
        assert_int_equal(slot, 7 + i);
        assert_int_equal(size, sizes[i]);
        assert_true(size == 0 || message[size - 1] == 'a' + (int)i);
    }
    assert_false(frame_entry_next(bytes, used, &at, &slot, &message, &size));
    assert_int_equal(at, used);
    for (size_t cut = 0; cut < used; cut++) {
        CLEANUP_FREE uint8_t *copy = malloc(cut ? cut : 1);
        memcpy(copy, bytes, cut);
        for (at = 0; frame_entry_next(copy, cut, &at, &slot, &message, &size);)
            assert_true(message + size <= copy + cut);
        assert_true(at <= cut);
    }
    memset(bytes, 0xff, sizeof(bytes));
    at = 0;
    assert_false(frame_entry_next(bytes, sizeof(bytes), &at, &slot, &message, &size));
    assert_int_equal(at, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_are_bounded),
        cmocka_unit_test(messages_of_two_channels_travel_together),
        cmocka_unit_test(much_goes_in_several),
        cmocka_unit_test(what_waits_goes_first),
        cmocka_unit_test(peer_without_a_bundler_is_sent_each_alone),
        cmocka_unit_test(another_process_takes_the_place),
        cmocka_unit_test(dead_connection_is_found_by_its_own_link),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
