// SPDX-License-Identifier: Apache-2.0
// common/channel: two ends find each other over loopback and tell each other everything whole, or say why they do not
// belong together.
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "tests/unit/channel_ends.h"
#include "tests/unit/channel_keys.h"

static void sealed_ends_meet_over_three_paths(void **state)
{
    struct ends e;
    ends_configure(&e, 3, key, false);
    e.a.paths[2].kind = e.b.paths[2].kind = CHANNEL_PATH_PUBLIC;
    ends_open(&e);
    ends_exchange(&e);
    struct channel_path_info info;
    channel_path_info(e.a.ch, 0, &info);
    assert_true(info.data_current && info.data.up && info.data.peer_run == e.b.config.run);
    assert_true(info.control.bytes_in > 0 && info.control.bytes_out > 0 &&
                info.control.heard_ns > 0);
    channel_path_info(e.a.ch, 2, &info);
    assert_true(info.control.up && !info.data.present && !info.data_current);
    assert_int_equal(e.a.refusals + e.b.refusals, 0);
    ends_close(&e);
}

static void unsealed_ends_meet_on_loopback(void **state)
{
    struct ends e;
    ends_start(&e, 1, NULL);
    ends_exchange(&e);
    ends_close(&e);
}

static void ends_meet_over_ipv6(void **state)
{
    struct ends e;
    ends_configure(&e, 1, key, false);
    uint16_t other;
    do
        other = ends_free_port();
    while (other >= e.port - 1 && other <= e.port + 1);
    e.a.paths[0] =
        (struct channel_path){.mine = "::1", .peers = "::1", .port = e.port, .peers_port = other};
    e.b.paths[0] =
        (struct channel_path){.mine = "::1", .peers = "::1", .port = other, .peers_port = e.port};
    ends_open(&e);
    ends_exchange(&e);
    ends_close(&e);
}

static bool b_has_61(struct ends *e)
{
    return e->b.n_data == 61;
}

static void what_may_wait_arrives_in_its_place(void **state)
{
    struct ends e;
    struct iovec iov = {NULL, CHANNEL_DATA_MAX + 1};
    ends_start(&e, 1, key);
    for (uint64_t i = 0; i < 61; i++) {
        uint64_t message[8] = {i};
        for (size_t k = sizeof(i); k < sizeof(message); k++)
            ((uint8_t *)message)[k] = (uint8_t)(i + k);
        iov = (struct iovec){message, sizeof(message)};
        if (i == 30)
            assert_int_equal(end_send(&e.a, i, 100000), 0);
        else
            assert_int_equal(channel_data_send_soon(e.a.ch, &iov, 1), 0);
    }
    channel_data_push(e.a.ch);
    ends_wait(&e, b_has_61, "all messages");
    for (uint64_t i = 0; i < 61; i++)
        assert_int_equal(e.b.numbers[i], i);
    assert_false(e.b.damaged);
    iov = (struct iovec){NULL, CHANNEL_DATA_MAX + 1};
    assert_int_equal(channel_data_send_soon(e.a.ch, &iov, 1), -EMSGSIZE);
    ends_close(&e);
}

static void large_and_small_messages_arrive_whole(void **state)
{
    static const size_t sizes[] = {8, 9, 4096, 65537, 256 * 1024, CHANNEL_DATA_MAX};
    struct ends e;
    struct iovec iov = {NULL, CHANNEL_DATA_MAX + 1};
    ends_start(&e, 1, key);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        e.b.n_data = 0;
        assert_int_equal(end_send(&e.a, i, sizes[i]), 0);
        ends_wait(&e, ends_b_has_data, "the message");
        assert_int_equal(e.b.last_size, sizes[i]);
    }
    assert_false(e.b.damaged);
    assert_int_equal(channel_data_send(e.a.ch, &iov, 1), -EMSGSIZE);
    assert_int_equal(channel_send_control(e.a.ch, 0, "too long", CHANNEL_CONTROL_MAX + 1), -EMSGSIZE);
    assert_int_equal(channel_send_control(e.a.ch, 1, "x", 1), -EINVAL);
    ends_close(&e);
}

static bool b_has_all(struct ends *e)
{
    return e->b.n_data >= 200;
}

// Fills the way to a receiver that does not receive, and waits for several times the silence.
static uint64_t fill_deaf(struct ends *e, int send_fd)
{
    uint64_t sent = 0;
    struct pollfd p = {send_fd, POLLIN, 0};
    e->b.deaf = true;
    while (end_send(&e->a, sent, 256 * 1024) == 0)
        assert_true(++sent < 1000);
    assert_int_equal(poll(&p, 1, 0), 0);
    ends_pump(e, (int)(3 * ENDS_SILENCE_NS / NS_PER_MS));
    return sent;
}

// A receiver that does not receive: the sender gets -EAGAIN, and its descriptor says when it may go
// on. The peer is busy, not dead. (A machine that stalls for the whole silence may look like that
// once; a fault does so each time.)
static void back_pressure_is_felt_and_ends(void **state)
{
    struct ends e;
    uint64_t sent = 0, generation = 0;
    for (int attempt = 0; sent == 0; attempt++) {
        assert_true(attempt < 5);
        ends_configure(&e, 1, key, false);
        e.a.config.silence_ns = e.b.config.silence_ns = ENDS_SILENCE_NS;
        ends_open(&e);
        ends_wait(&e, ends_all_up, "all links up");
        generation = channel_data_generation(e.a.ch, NULL, NULL);
        sent = fill_deaf(&e, channel_data_send_fd(e.a.ch));
        if (end_downs(&e.a) + end_downs(&e.b) > 0) {
            ends_close(&e);
            sent = 0;
        }
    }
    struct pollfd p = {channel_data_send_fd(e.a.ch), POLLIN, 0};
    e.b.deaf = false;
    while (sent < 200) {
        ends_pump(&e, 1);
        if (poll(&p, 1, 0) == 1 && end_send(&e.a, sent, 256 * 1024) == 0)
            sent++;
    }
    ends_wait(&e, b_has_all, "all messages");
    for (int i = 0; i < 200; i++) {
        assert_int_equal(e.b.numbers[i], i);
        assert_int_equal(e.b.generations[i], e.b.generations[0]);
    }
    assert_false(e.b.damaged);
    assert_int_equal(channel_data_generation(e.a.ch, NULL, NULL), generation);
    ends_close(&e);
}

// Messages that were read together are taken one in each turn: as long as there is one, the next turn comes at once.
static void who_takes_one_at_a_time_does_not_sleep_on_the_others(void **state)
{
    struct ends e;
    ends_start(&e, 1, key);
    ends_exchange(&e);
    struct pollfd p = {channel_data_fd(e.b.ch), POLLIN, 0};
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(end_send(&e.a, i, 8), 0);
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    bool slept = false;
    for (uint64_t number = 0; number < 20;) {
        struct channel_message m;
        assert_true(clock_boot_ns() < until);
        if (channel_data_receive(e.b.ch, &m) == 0) {
            assert_false(slept); // it was there all the time
            assert_memory_equal(m.data, &number, sizeof(number));
            channel_message_free(&m);
            number++;
        }
        channel_data_work(e.b.ch);
        int64_t left = channel_data_deadline_ns(e.b.ch) - clock_boot_ns();
        slept = number < 20 && poll(&p, 1, left <= 0 ? 0 : (int)(left / NS_PER_MS + 1)) == 0 && left > 0;
    }
    ends_close(&e);
}

static bool both_refused(struct ends *e)
{
    return e->a.refusals > 0 && e->b.refusals > 0;
}

// Both say why; neither comes up; within a moment hardly anything is said again.
static void refused(struct ends *e, const char *text_a, const char *text_b)
{
    ends_open(e);
    ends_wait(e, both_refused, "both refuse");
    ends_pump(e, 1500);
    if (!strstr(e->a.refused, text_a) || !strstr(e->b.refused, text_b))
        fail_msg("said: \"%s\" and \"%s\"", e->a.refused, e->b.refused);
    assert_true(e->a.refusals <= 2 && e->b.refusals <= 2); // one a link
    assert_false(end_up(&e->a, CHANNEL_SIDE_CONTROL, 0) || end_up(&e->b, CHANNEL_SIDE_CONTROL, 0));
    assert_int_equal(channel_send_control(e->a.ch, 0, "x", 1), 0);
    assert_int_equal(end_send(&e->a, 1, 8), -ENOTCONN);
}

static void another_key_is_refused(void **state)
{
    struct ends e;
    ends_configure(&e, 1, key, false);
    e.b.config.key = other_key;
    refused(&e, "another key file", "another key file");
    ends_close(&e);
}

static bool b_refused(struct ends *e)
{
    return e->b.refusals > 0;
}

static void no_key_against_a_key_is_refused(void **state)
{
    struct ends e;
    ends_configure(&e, 1, key, false);
    e.b.config.key = NULL;
    ends_open(&e);
    ends_wait(&e, b_refused, "b refuses");
    assert_non_null(strstr(e.b.refused, "this end has none"));
    assert_false(end_up(&e.a, CHANNEL_SIDE_CONTROL, 0) || end_up(&e.b, CHANNEL_SIDE_CONTROL, 0));
    ends_close(&e);
}

static void another_pair_is_refused(void **state)
{
    struct ends e;
    ends_configure(&e, 1, key, false);
    e.b.config.pair = "another";
    refused(&e, "pair differs", "pair differs");
    ends_close(&e);
}

static void another_protocol_is_refused(void **state)
{
    struct ends e;
    ends_configure(&e, 1, key, false);
    e.b.config.protocol = CHANNEL_PROTOCOL + 1;
    refused(&e, "protocol version differs", "protocol version differs");
    ends_close(&e);
}

// ... and once it is put right the links come up soon.
static void another_configuration_is_refused_until_it_is_put_right(void **state)
{
    struct ends e;
    ends_configure(&e, 1, key, false);
    e.b.config.digest[7] ^= 1;
    refused(&e, "configuration differs", "configuration differs");
    end_close(&e.b);
    e.b.config.digest[7] ^= 1;
    e.b.config.run = random_id();
    end_open(&e.b);
    ends_exchange(&e);
    ends_close(&e);
}

static void two_primaries_refuse_each_other(void **state)
{
    struct ends e;
    ends_configure(&e, 1, key, false);
    e.b.config.identity = CHANNEL_PRIMARY;
    refused(&e, "Primary, too", "Primary, too");
    ends_close(&e);
}

static int open_with(const char *mine, const char *peers, const struct channel_key *k,
                     struct error *err)
{
    struct channel_path path = {.mine = mine, .peers = peers, .port = 7000};
    struct channel_config config = {
        .pair = "p", .identity = CHANNEL_PRIMARY, .run = 1, .key = k, .paths = &path, .n_paths = 1};
    struct channel_ops ops = {0};
    struct channel *ch = NULL;
    int r = channel_open(&config, &ops, NULL, &ch, err);
    channel_free(ch);
    return r;
}

static void bad_addresses_are_refused(void **state)
{
    struct error err = {0};
    assert_int_equal(open_with("192.0.2.1", "192.0.2.2", NULL, &err), -EPERM);
    assert_non_null(strstr(err.text, "pairctl keygen"));
    assert_int_equal(open_with("127.0.0.1", "192.0.2.2", NULL, &err), -EPERM);
    assert_int_equal(open_with("192.0.2.1", "192.0.2.2", key, &err), 0);
    assert_int_equal(open_with("2001:db8::1", "2001:db8::2", key, &err), 0);
    assert_int_equal(open_with("2001:db8::1", "192.0.2.2", key, &err), -EINVAL);
    assert_int_equal(open_with("localhost", "127.0.0.1", key, &err), -EINVAL);
    assert_int_equal(open_with("fe80::1", "fe80::2", key, &err), -EINVAL);
    assert_int_equal(open_with("", NULL, key, &err), -EINVAL);
}

// The threads of a daemon: each side of a channel has its own.
#define THREAD_MESSAGES 400

struct threads {
    struct ends e;
    _Atomic bool stop;
    _Atomic uint64_t received;
    bool wrong;
};

static void *receive_in_thread(void *arg)
{
    struct threads *t = arg;
    struct channel *ch = t->e.b.ch;
    struct channel_message m;
    while (!t->stop) {
        int64_t left = channel_data_deadline_ns(ch) - clock_boot_ns();
        struct pollfd p = {channel_data_fd(ch), POLLIN, 0};
        (void)poll(&p, 1, left <= 0 ? 0 : (int)MIN(left / NS_PER_MS + 1, 50));
        while (channel_data_receive(ch, &m) == 0) {
            uint64_t number = 0;
            memcpy(&number, m.data, sizeof(number));
            t->wrong |= number != t->received++;
            channel_message_free(&m);
        }
        channel_data_work(ch);
    }
    return NULL;
}

static void *send_in_thread(void *arg)
{
    struct threads *t = arg;
    struct pollfd p = {channel_data_send_fd(t->e.a.ch), POLLIN, 0};
    for (uint64_t sent = 0; sent < THREAD_MESSAGES && !t->stop;) {
        int r = end_send(&t->e.a, sent, 30000);
        sent += r == 0;
        if (r == -EAGAIN)
            (void)poll(&p, 1, 50);
        else if (r == -ENOTCONN)
            (void)usleep(1000);
    }
    return NULL;
}

static void threads_share_a_channel(void **state)
{
    struct threads t = {0};
    pthread_t receiver, sender;
    struct channel_path_info info;
    ends_configure(&t.e, 1, key, false);
    ends_open(&t.e);
    t.e.b.other_thread = true;
    assert_int_equal(pthread_create(&receiver, NULL, receive_in_thread, &t), 0);
    assert_int_equal(pthread_create(&sender, NULL, send_in_thread, &t), 0);
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    do {
        ends_pump(&t.e, 5);
        channel_path_info(t.e.a.ch, 0, &info);
        channel_path_info(t.e.b.ch, 0, &info);
        (void)channel_send_control(t.e.a.ch, 0, "beat", 4);
    } while (t.received < THREAD_MESSAGES && clock_boot_ns() < until);
    t.stop = true;
    (void)pthread_join(sender, NULL);
    (void)pthread_join(receiver, NULL);
    assert_int_equal(t.received, THREAD_MESSAGES);
    assert_false(t.wrong);
    ends_close(&t.e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_addresses_are_refused),
        cmocka_unit_test(sealed_ends_meet_over_three_paths),
        cmocka_unit_test(unsealed_ends_meet_on_loopback),
        cmocka_unit_test(ends_meet_over_ipv6),
        cmocka_unit_test(large_and_small_messages_arrive_whole),
        cmocka_unit_test(what_may_wait_arrives_in_its_place),
        cmocka_unit_test(back_pressure_is_felt_and_ends),
        cmocka_unit_test(who_takes_one_at_a_time_does_not_sleep_on_the_others),
        cmocka_unit_test(another_key_is_refused),
        cmocka_unit_test(no_key_against_a_key_is_refused),
        cmocka_unit_test(another_pair_is_refused),
        cmocka_unit_test(another_protocol_is_refused),
        cmocka_unit_test(another_configuration_is_refused_until_it_is_put_right),
        cmocka_unit_test(two_primaries_refuse_each_other),
        cmocka_unit_test(threads_share_a_channel),
    };
    return cmocka_run_group_tests(tests, keys_setup, keys_teardown);
}
