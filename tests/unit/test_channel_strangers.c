// SPDX-License-Identifier: Apache-2.0
// common/channel: who does not belong to a pair and talks to its ports, listens, repeats or falsifies what it hears.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/channel/frame.h"
#include "tests/unit/channel_keys.h"
#include "tests/unit/channel_net.h"

static int connect_to(const char *host, uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(inet_pton(AF_INET, host, &a.sin_addr), 1);
    assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
    return s;
}

static void send_all(int s, const void *data, size_t size)
{
    (void)!send(s, data, size, MSG_NOSIGNAL);
}

// As a nanomsg PUSH socket would send it.
static void send_message(int s, const void *data, size_t size)
{
    uint8_t head[8];
    for (int i = 0; i < 8; i++)
        head[i] = (uint8_t)((uint64_t)size >> (56 - 8 * i));
    send_all(s, head, sizeof(head));
    send_all(s, data, size);
}

static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x50, 0, 0};

static void send_garbage(const char *host, uint16_t port, unsigned kind)
{
    CLEANUP_CLOSE int s = connect_to(host, port);
    uint8_t noise[600];
    struct frame f = {(enum frame_kind)(1 + kind % 3),
                      (enum channel_side)(kind / 3 % 2),
                      0,
                      kind & 1,
                      random_id(),
                      1,
                      0};
    random_bytes(noise, sizeof(noise));
    if (kind % 4 == 0) {
        send_all(s, noise, sizeof(noise)); // not even nanomsg
        return;
    }
    send_all(s, greeting, sizeof(greeting));
    send_message(s, noise, kind % sizeof(noise));
    f.size = sizeof(noise) - sizeof(struct frame_header);
    f.counter = f.kind == FRAME_SEALED;
    frame_fill((struct frame_header *)noise, &f);
    send_message(s, noise, sizeof(noise));
    f.size = 0;
    f.kind = FRAME_RESET;
    f.counter = 0;
    f.nonce = kind & 8 ? 0 : random_id();
    f.from_initiator = kind & 16;
    frame_fill((struct frame_header *)noise, &f);
    send_message(s, noise, sizeof(struct frame_header));
    static const uint8_t huge[8] = {0x7f, 0xff};
    send_all(s, huge, sizeof(huge)); // a message of 2^62 bytes
}

static bool both_in_trouble(struct ends *e)
{
    return e->a.troubles > 0 && e->b.troubles > 0;
}

static bool b_has_the_last_of_64(struct ends *e)
{
    return e->b.n_data > 0 && e->b.numbers[(e->b.n_data - 1) % ENDS_INBOX] == 63;
}

static void garbage_on_every_port_changes_nothing(void **state)
{
    struct ends e;
    ends_start(&e, 1, key);
    uint64_t generation = channel_data_generation(e.a.ch, NULL, NULL);
    int64_t begun = clock_boot_ns();
    for (unsigned kind = 0; kind < 64; kind++) {
        send_garbage(e.a.paths[0].mine, (uint16_t)(e.port + kind / 2 % 2), kind);
        send_garbage(e.b.paths[0].mine, (uint16_t)(e.port + kind / 2 % 2), kind);
        assert_int_equal(end_send(&e.a, kind, 5000), 0);
        ends_pump(&e, 5);
    }
    ends_wait(&e, both_in_trouble, "both say that they dropped something");
    ends_wait(&e, b_has_the_last_of_64, "what was sent between the garbage");
    ends_exchange(&e);
    assert_int_equal(end_downs(&e.a) + end_downs(&e.b), 0);
    assert_int_equal(channel_data_generation(e.a.ch, NULL, NULL), generation);
    // Said seldom: another line of the same kind after five seconds, on each of four links.
    int64_t allowed = 20 + 4 * ((clock_boot_ns() - begun) / (5 * NS_PER_S));
    assert_true(e.a.troubles + e.b.troubles + e.a.refusals + e.b.refusals < allowed);
    ends_close(&e);
}

static bool closed_by_peer(int s)
{
    uint8_t byte[64];
    ssize_t n;
    while ((n = recv(s, byte, sizeof(byte), MSG_DONTWAIT)) > 0)
        ;
    return n == 0 || (n < 0 && errno != EAGAIN);
}

// Connections that are made and then stay do not use up the process's descriptors.
static void stay(struct ends *e, int s[], size_t n, uint16_t port)
{
    for (size_t i = 0; i < n; i++) {
        s[i] = connect_to(e->b.paths[0].mine, port);
        send_all(s[i], greeting, sizeof(greeting));
    }
    for (int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS; !closed_by_peer(s[0]);) {
        assert_true(clock_boot_ns() < until);
        ends_pump(e, 20);
    }
}

static void strangers_that_stay_are_shed(void **state)
{
    struct ends e;
    int s[80];
    ends_start(&e, 1, key);
    stay(&e, s, ARRAY_LEN(s), e.port);
    for (size_t i = 0; i < ARRAY_LEN(s); i++)
        close(s[i]);
    ends_exchange_in_the_end(&e);
    ends_close(&e);
}

static void strangers_do_not_crowd_out_data(void **state)
{
    struct ends e;
    int s[80];
    ends_start(&e, 1, key);
    uint64_t generation = channel_data_generation(e.a.ch, NULL, NULL);
    ends_exchange(&e);
    stay(&e, s, ARRAY_LEN(s), (uint16_t)(e.port + 1));
    ends_exchange(&e); // over the connection that was there
    assert_int_equal(channel_data_generation(e.a.ch, NULL, NULL), generation);
    assert_int_equal(end_downs(&e.b), 0);
    for (size_t i = 0; i < ARRAY_LEN(s); i++)
        close(s[i]);
    ends_close(&e);
}

// By one thread: what `end` finds now, and nobody else.
static void work_alone(struct end *end)
{
    struct channel_message m;
    channel_work(end->ch);
    while (channel_data_receive(end->ch, &m) == 0) {
        end->n_data++;
        channel_message_free(&m);
    }
    channel_data_work(end->ch);
}

// Messages of the peer's keep coming: they are found without asking what else there is, but not for ever.
static void who_knocks_is_heard_while_messages_keep_coming(void **state)
{
    struct ends e;
    uint8_t byte;
    ends_start(&e, 1, key);
    ends_exchange(&e);
    CLEANUP_CLOSE int s = connect_to(e.b.paths[0].mine, (uint16_t)(e.port + 1));
    e.b.n_data = 0;
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    for (int sent = 1; recv(s, &byte, 1, MSG_DONTWAIT | MSG_PEEK) != 1; sent++) {
        assert_int_equal(end_send(&e.a, 1, 8), 0);
        do {
            assert_true(clock_boot_ns() < until);
            work_alone(&e.b);
        } while (e.b.n_data < sent);
        work_alone(&e.a);
    }
    ends_close(&e);
}

static size_t captured(struct proxy *p)
{
    size_t size;
    free(proxy_capture(p, &size));
    return size;
}

static bool captured_since(struct proxy *p, size_t from, const void *what, size_t size)
{
    size_t all;
    CLEANUP_FREE uint8_t *bytes = proxy_capture(p, &all);
    return all > from && memmem(bytes + from, all - from, what, size) != NULL;
}

static bool takes_data(struct end *end)
{
    struct pollfd p = {channel_data_send_fd(end->ch), POLLIN, 0};
    return poll(&p, 1, 0) == 1;
}

// Who says that it is new has a handshake begun, and that may be the first thing on a connection which has just been made
// anew: what follows in the session that stands is as welcome as ever, however large.
static void a_forged_reset_on_a_new_connection_loses_nothing(void **state)
{
    struct net net;
    uint8_t reset[sizeof(struct frame_header)], handshake[sizeof(struct frame_header)];
    net_open(&net, 1, key, 0);
    struct end *a = &net.e.a;
    struct proxy *way = net.to_b[0][1];
    ends_exchange(&net.e);
    size_t before = captured(way);
    proxy_cut(way);
    for (int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS; !captured_since(way, before, greeting, sizeof(greeting)) || !takes_data(a);) {
        assert_true(clock_boot_ns() < until);
        ends_pump(&net.e, 1);
    }
    struct frame f = {.kind = FRAME_RESET, .side = CHANNEL_SIDE_DATA};
    frame_fill((struct frame_header *)reset, &f);
    f = (struct frame){.kind = FRAME_HANDSHAKE, .side = CHANNEL_SIDE_DATA, .from_initiator = true};
    frame_fill((struct frame_header *)handshake, &f);
    CLEANUP_CLOSE int s = connect_to(a->paths[0].mine, (uint16_t)(net.e.port + 1));
    send_all(s, greeting, sizeof(greeting));
    for (int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS; !captured_since(way, before, handshake, 8);) {
        assert_true(clock_boot_ns() < until);
        send_message(s, reset, sizeof(reset));
        work_alone(a); // the peer does not answer yet
    }
    net.e.b.n_data = 0;
    assert_int_equal(end_send(a, 5, 100000), 0);
    ends_wait(&net.e, ends_b_has_data, "data behind a handshake");
    assert_int_equal(net.e.b.counts[CHANNEL_SIDE_DATA][0][CHANNEL_DATA_LOST], 0);
    assert_int_equal(end_downs(a) + end_downs(&net.e.b), 0);
    net_close(&net);
}

static bool contains(struct proxy *p, const char *text)
{
    size_t size;
    CLEANUP_FREE uint8_t *bytes = proxy_capture(p, &size);
    assert_true(size > 0);
    return memmem(bytes, size, text, strlen(text)) != NULL;
}

static void capture_of(const struct channel_key *k, bool expect)
{
    static const char pattern[] = "a well-known pattern of the guest";
    struct net net;
    char block[4096];
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = pattern[i % (sizeof(pattern) - 1)];
    const struct iovec iov[] = {{(void *)"12345678", 8}, {block, sizeof(block)}};
    net_open(&net, 1, k, 0);
    assert_int_equal(channel_data_send(net.e.a.ch, iov, 2), 0);
    assert_int_equal(channel_send_control(net.e.a.ch, 0, pattern, sizeof(pattern)), 1);
    ends_wait(&net.e, ends_b_has_data, "data");
    ends_wait(&net.e, ends_b_has_control, "control");
    assert_int_equal(contains(net.to_b[0][1], pattern), expect);
    assert_int_equal(contains(net.to_b[0][0], pattern), expect);
    for (int d = 0; d < 2; d++) {
        assert_int_equal(contains(net.to_b[0][d], "example-pair"), expect);
        assert_int_equal(contains(net.to_a[0][d], "example-pair"), expect);
    }
    net_close(&net);
}

static void a_capture_finds_nothing(void **state)
{
    capture_of(key, false);
    capture_of(NULL, true); // the search would find it
}

static bool b_has_50(struct ends *e)
{
    return e->b.n_data >= 50;
}

static bool b_dropped_50(struct ends *e)
{
    struct channel_path_info info;
    channel_path_info(e->b.ch, 0, &info);
    return info.data.dropped >= 50;
}

// Everything that was ever sent, sent again by a stranger, is dropped.
static void a_replay_is_dropped(void **state)
{
    struct net net;
    net_open(&net, 1, key, 0);
    struct ends *e = &net.e;
    for (int i = 0; i < 50; i++) {
        assert_int_equal(end_send(&e->a, (uint64_t)i, 3000), 0);
        ends_pump(e, 1);
    }
    ends_wait(e, b_has_50, "all of it");
    for (int d = 0; d < 2; d++) {
        size_t size;
        CLEANUP_FREE uint8_t *bytes = proxy_capture(net.to_b[0][d], &size);
        CLEANUP_CLOSE int s = connect_to("127.0.0.2", (uint16_t)(e->port + d));
        send_all(s, bytes, size);
        ends_pump(e, 300);
    }
    assert_int_equal(e->b.n_data, 50);
    ends_wait(e, b_dropped_50, "the replay is dropped");
    assert_int_equal(e->b.n_data, 50);
    assert_int_equal(end_downs(&e->a) + end_downs(&e->b), 0);
    ends_exchange(e);
    net_close(&net);
}

static void flipped_bits_never_get_through(void **state)
{
    struct net net;
    net_open(&net, 1, key, ENDS_SILENCE_NS);
    struct ends *e = &net.e;
    proxy_flip(net.to_b[0][1], 7001);
    for (int i = 0; i < 300; i++) {
        (void)end_send(&e->a, (uint64_t)i, 2000);
        ends_pump(e, 1);
    }
    proxy_flip(net.to_b[0][1], 0);
    proxy_cut(net.to_b[0][1]); // a flipped length has upset the stream of one connection
    ends_exchange_in_the_end(e);
    net_close(&net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(garbage_on_every_port_changes_nothing),
        cmocka_unit_test(strangers_that_stay_are_shed),
        cmocka_unit_test(strangers_do_not_crowd_out_data),
        cmocka_unit_test(who_knocks_is_heard_while_messages_keep_coming),
        cmocka_unit_test(a_forged_reset_on_a_new_connection_loses_nothing),
        cmocka_unit_test(a_capture_finds_nothing),
        cmocka_unit_test(a_replay_is_dropped),
        cmocka_unit_test(flipped_bits_never_get_through),
    };
    return cmocka_run_group_tests(tests, keys_setup, keys_teardown);
}
