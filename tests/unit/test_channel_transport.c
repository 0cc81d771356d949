// SPDX-License-Identifier: Apache-2.0
// common/channel: how messages travel. What nanomsg and our own connections do for control and for data is one protocol, so
// that every test of the way itself is made with either at either end.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/channel/sp.h"
#include "common/channel/transport.h"

#define HERE        "127.0.0.1"
#define SIZE_MAX_   (8U << 20)
#define PATIENCE_NS (60 * NS_PER_S)
#define TAG_PULL    7U
#define TAG_PUSH    3U

static const struct transport *const transports[] = {&transport_nanomsg, &transport_tcp};

struct way {
    const struct transport *in, *out;
    struct pull *pull;
    struct push *push;
    int pull_epoll, push_epoll;
    uint16_t port;
};

static uint16_t free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    CLEANUP_CLOSE int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(s, (struct sockaddr *)&a, &size), 0);
    return ntohs(a.sin_port);
}

static void pull_begin(struct way *w)
{
    assert_int_equal(w->in->pull_open(SIZE_MAX_, w->pull_epoll, TAG_PULL, &w->pull), 0);
    assert_int_equal(w->in->pull_bind(w->pull, HERE, w->port), 0);
}

static void pull_end(struct way *w)
{
    w->in->pull_close(w->pull);
    w->pull = NULL;
}

static void way_open(struct way *w, const struct transport *in, const struct transport *out)
{
    *w = (struct way){.in = in, .out = out, .pull_epoll = epoll_create1(EPOLL_CLOEXEC), .push_epoll = epoll_create1(EPOLL_CLOEXEC), .port = free_port()};
    pull_begin(w);
    assert_int_equal(out->push_open(HERE, HERE, w->port, 0, w->push_epoll, TAG_PUSH, &w->push), 0);
}

static void way_close(struct way *w)
{
    pull_end(w);
    w->out->push_close(w->push);
    close(w->pull_epoll);
    close(w->push_epoll);
}

// One look at what either waits for. `ms`: how long to wait for the pull.
static void way_work(struct way *w, int ms)
{
    struct epoll_event events[16];
    int64_t now = clock_boot_ns();
    int n = epoll_wait(w->push_epoll, events, (int)ARRAY_LEN(events), 0);
    for (int i = 0; i < n; i++) {
        assert_int_equal(events[i].data.u64, TAG_PUSH);
        w->out->push_event(w->push, now);
    }
    (void)w->out->push_tick(w->push, now);
    n = epoll_wait(w->pull_epoll, events, (int)ARRAY_LEN(events), ms);
    for (int i = 0; w->pull && i < n; i++) {
        assert_int_equal((uint32_t)events[i].data.u64, TAG_PULL);
        (void)w->in->pull_event(w->pull, events[i].data.u64);
    }
    if (w->pull)
        (void)w->in->pull_tick(w->pull, now);
}

static void wait_ready(struct way *w, bool ready)
{
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; w->out->push_ready(w->push) != ready;) {
        assert_true(clock_boot_ns() < until);
        way_work(w, 1);
    }
}

// A message says its number and size, and the rest of it follows from these.
static void message_fill(uint8_t *to, uint32_t number, size_t size)
{
    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)(i < 4 ? number >> (8 * i) : number * 31 + i * 7 + (i >> 9));
}

static bool message_is(const uint8_t *from, uint32_t number, size_t size)
{
    CLEANUP_FREE uint8_t *whole = malloc(size);
    message_fill(whole, number, size);
    return memcmp(from, whole, size) == 0;
}

static int try_send(struct way *w, uint32_t number, size_t size)
{
    uint8_t *room = w->out->push_room(w->push, size);
    if (!room)
        return -EAGAIN;
    message_fill(room, number, size);
    return w->out->push_send(w->push, room, size);
}

static void send_one(struct way *w, uint32_t number, size_t size)
{
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; try_send(w, number, size) < 0;) {
        assert_true(clock_boot_ns() < until);
        way_work(w, 1);
    }
}

static uint8_t *receive_one(struct way *w, size_t *ret_size)
{
    void *message;
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; w->in->pull_receive(w->pull, &message, ret_size) < 0;) {
        assert_true(clock_boot_ns() < until);
        way_work(w, 1);
    }
    w->in->pull_trust(w->pull);
    return message;
}

static void expect(struct way *w, uint32_t number, size_t size)
{
    size_t got;
    uint8_t *message = receive_one(w, &got);
    assert_int_equal(got, size);
    assert_true(message_is(message, number, size));
    w->in->message_free(message);
}

static const size_t sizes[] = {1, 4, 31, 4096, 8191, 16375, 16376, 16377, 16384, 32768, 65535, 100001, 300000, 3U << 20};

static void all_ways(void (*test)(struct way *))
{
    for (size_t in = 0; in < ARRAY_LEN(transports); in++) {
        for (size_t out = 0; out < ARRAY_LEN(transports); out++) {
            struct way w;
            way_open(&w, transports[in], transports[out]);
            wait_ready(&w, true);
            test(&w);
            way_close(&w);
        }
    }
}

static void one_by_one(struct way *w)
{
    for (uint32_t i = 0; i < 3 * ARRAY_LEN(sizes); i++) {
        send_one(w, i, sizes[i % ARRAY_LEN(sizes)]);
        expect(w, i, sizes[i % ARRAY_LEN(sizes)]);
    }
}

// As many as the way takes, then all of them: nobody receives meanwhile.
static void in_heaps(struct way *w)
{
    uint32_t sent = 0, received = 0;
    send_one(w, sent++, 1);
    expect(w, received++, 1);
    for (int heap = 0; heap < 3; heap++) {
        while (sent - received < 400 && try_send(w, sent, sizes[sent * 5 % ARRAY_LEN(sizes)]) == 0)
            sent++;
        assert_true(sent > received);
        for (; received < sent; received++)
            expect(w, received, sizes[received * 5 % ARRAY_LEN(sizes)]);
        wait_ready(w, true);
    }
}

// The pull ends and begins anew. What was sent into the void may be lost; then messages get through again.
static void connects_again(struct way *w)
{
    send_one(w, 0, 100);
    expect(w, 0, 100);
    assert_false(w->out->push_fresh(w->push));
    pull_end(w);
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; w->out->push_connected(w->push);) {
        assert_true(clock_boot_ns() < until);
        way_work(w, 1);
    }
    assert_int_equal(try_send(w, 1, 50), -EAGAIN);
    pull_begin(w);
    wait_ready(w, true);
    assert_int_equal(w->out->push_fresh(w->push), w->out == &transport_tcp);
    send_one(w, 2, 5000);
    assert_false(w->out->push_fresh(w->push));
    expect(w, 2, 5000);
}

static void messages_arrive_one_by_one(void **state)
{
    all_ways(one_by_one);
}

static void messages_arrive_in_heaps(void **state)
{
    all_ways(in_heaps);
}

static void a_push_connects_again(void **state)
{
    all_ways(connects_again);
}

// --- sockets of the test's own ---

static int stranger(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
    return s;
}

static void say(int s, const void *data, size_t size)
{
    (void)!send(s, data, size, MSG_NOSIGNAL);
}

static void say_length(int s, uint64_t size)
{
    uint8_t length[SP_LENGTH];
    sp_length_make(size, length);
    say(s, length, sizeof(length));
}

static void say_greeting(int s, uint16_t protocol)
{
    uint8_t greeting[SP_GREETING];
    sp_greeting_make(protocol, greeting);
    say(s, greeting, sizeof(greeting));
}

static bool is_closed(int s)
{
    uint8_t rest[64];
    ssize_t n = recv(s, rest, sizeof(rest), MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
}

static void wait_closed(struct way *w, int s)
{
    void *message;
    size_t size;
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; !is_closed(s);) {
        assert_true(clock_boot_ns() < until);
        way_work(w, 1);
        assert_int_equal(w->in->pull_receive(w->pull, &message, &size), -EAGAIN);
    }
}

static void own_way(struct way *w)
{
    way_open(w, &transport_tcp, &transport_tcp);
    send_one(w, 0, 100);
    expect(w, 0, 100);
}

static void who_speaks_something_else_is_disconnected(void **state)
{
    struct way w;
    own_way(&w);
    const struct {
        uint16_t protocol;
        uint64_t length;
    } wrong[] = {{SP_PULL, 100}, {0, 100}, {SP_PUSH, 0}, {SP_PUSH, SIZE_MAX_ + 1}, {SP_PUSH, UINT64_MAX}, {SP_PUSH, UINT64_C(1) << 63}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        uint64_t before = w.in->pull_broken(w.pull);
        CLEANUP_CLOSE int s = stranger(w.port);
        say_greeting(s, wrong[i].protocol);
        say_length(s, wrong[i].length);
        wait_closed(&w, s);
        assert_int_equal(w.in->pull_broken(w.pull), before + 1);
    }
    send_one(&w, 1, 300000);
    expect(&w, 1, 300000);
    way_close(&w);
}

static void who_is_not_trusted_gets_little_memory(void **state)
{
    struct way w;
    own_way(&w);
    CLEANUP_CLOSE int small = stranger(w.port), large = stranger(w.port);
    uint8_t bytes[1000];
    size_t size;
    void *message;
    message_fill(bytes, 5, sizeof(bytes));
    say_greeting(small, SP_PUSH);
    say_length(small, sizeof(bytes));
    say(small, bytes, sizeof(bytes));
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; w.in->pull_receive(w.pull, &message, &size) < 0;) {
        assert_true(clock_boot_ns() < until);
        way_work(&w, 1);
    }
    assert_true(size == sizeof(bytes) && message_is(message, 5, size));
    w.in->message_free(message);
    say_greeting(large, SP_PUSH);
    say_length(large, 64 * 1024 + 1);
    wait_closed(&w, large);
    say_length(small, 64 * 1024 + 1); // what it has sent was nothing that would be trusted
    wait_closed(&w, small);
    send_one(&w, 1, 64 * 1024 + 1);
    expect(&w, 1, 64 * 1024 + 1);
    way_close(&w);
}

static void a_crowd_is_shed_and_who_is_trusted_stays(void **state)
{
    struct way w;
    int s[200];
    own_way(&w);
    for (size_t i = 0; i < ARRAY_LEN(s); i++) {
        s[i] = stranger(w.port);
        say_greeting(s[i], SP_PUSH);
        way_work(&w, 0);
    }
    for (size_t i = 0; i < 100; i++)
        wait_closed(&w, s[i]);
    assert_true(w.out->push_connected(w.push));
    assert_false(w.out->push_fresh(w.push));
    send_one(&w, 1, 200000);
    expect(&w, 1, 200000);
    for (size_t i = 0; i < ARRAY_LEN(s); i++)
        close(s[i]);
    way_close(&w);
}

// A listener that is not ours, behind a push: what it takes, and says.
static int listen_at(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(s, 5), 0);
    return s;
}

static int accept_one(struct way *w, int listener)
{
    int s;
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; (s = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) < 0;) {
        assert_true(errno == EAGAIN && clock_boot_ns() < until);
        way_work(w, 1);
    }
    return s;
}

static void push_alone(struct way *w, int *ret_listener)
{
    *w = (struct way){.in = &transport_tcp, .out = &transport_tcp, .pull_epoll = epoll_create1(EPOLL_CLOEXEC), .push_epoll = epoll_create1(EPOLL_CLOEXEC), .port = free_port()};
    *ret_listener = listen_at(w->port);
    assert_int_equal(w->out->push_open(HERE, HERE, w->port, 0, w->push_epoll, TAG_PUSH, &w->push), 0);
}

static void read_all(struct way *w, int s, uint8_t *to, size_t size)
{
    int64_t until = clock_boot_ns() + PATIENCE_NS;
    for (size_t have = 0; have < size;) {
        ssize_t n = recv(s, to + have, size - have, MSG_DONTWAIT);
        assert_true(n > 0 || (n < 0 && errno == EAGAIN));
        assert_true(clock_boot_ns() < until);
        have += n > 0 ? (size_t)n : 0;
        way_work(w, 0);
    }
}

static void a_push_sends_nothing_to_who_greets_wrongly(void **state)
{
    struct way w;
    int listener;
    uint8_t got[SP_GREETING];
    push_alone(&w, &listener);
    for (int i = 0; i < 3; i++) { // each time it tries again
        CLEANUP_CLOSE int s = accept_one(&w, listener);
        read_all(&w, s, got, sizeof(got));
        assert_true(sp_greeting_is(got, SP_PUSH));
        assert_int_equal(try_send(&w, 1, 10), -EAGAIN);
        say_greeting(s, i == 0 ? SP_PUSH : i == 1 ? 0 : SP_PULL);
        if (i == 2) {
            wait_ready(&w, true);
            say(s, "x", 1); // nobody has anything to say here
        }
        for (int64_t until = clock_boot_ns() + PATIENCE_NS; !is_closed(s); way_work(&w, 1))
            assert_true(clock_boot_ns() < until);
        assert_false(w.out->push_connected(w.push));
    }
    close(listener);
    way_close(&w);
}

// What did not fit into the connection any more is lost with it, and the next one begins with a whole message.
static void half_a_message_is_lost_with_its_connection(void **state)
{
    struct way w;
    int listener;
    uint8_t got[SP_GREETING + SP_LENGTH + 100];
    uint64_t length = 0;
    push_alone(&w, &listener);
    int s = accept_one(&w, listener);
    say_greeting(s, SP_PULL);
    wait_ready(&w, true);
    uint32_t sent = 0;
    while (try_send(&w, sent, 1U << 20) == 0)
        sent++;
    assert_true(sent > 0 && w.out->push_connected(w.push) && !w.out->push_ready(w.push));
    close(s);
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; w.out->push_connected(w.push); way_work(&w, 1))
        assert_true(clock_boot_ns() < until);
    s = accept_one(&w, listener);
    say_greeting(s, SP_PULL);
    wait_ready(&w, true);
    assert_true(w.out->push_fresh(w.push));
    assert_int_equal(try_send(&w, 77, 100), 0);
    read_all(&w, s, got, sizeof(got));
    for (int i = 0; i < SP_LENGTH; i++)
        length = length << 8 | got[SP_GREETING + i];
    assert_int_equal(length, 100);
    assert_true(message_is(got + SP_GREETING + SP_LENGTH, 77, 100));
    close(s);
    close(listener);
    way_close(&w);
}

// The rest of a message goes when the other side has room again, though nobody sends any more.
static void the_rest_of_a_message_follows_by_itself(void **state)
{
    struct way w;
    own_way(&w);
    uint32_t sent = 1;
    while (try_send(&w, sent, 1U << 20) == 0)
        sent++;
    assert_false(w.out->push_ready(w.push));
    for (uint32_t i = 1; i < sent; i++)
        expect(&w, i, 1U << 20);
    wait_ready(&w, true);
    way_work(&w, 0);
    struct epoll_event event;
    assert_int_equal(epoll_wait(w.push_epoll, &event, 1, 0), 0); // it does not turn and turn
    way_close(&w);
}

// It is the attempts in a row that become slow, not those of a push whose connections break now and then.
static void who_was_connected_connects_again_soon(void **state)
{
    struct way w;
    int listener;
    push_alone(&w, &listener);
    for (int i = 0; i < 4; i++) {
        int s = accept_one(&w, listener);
        say_greeting(s, SP_PULL);
        wait_ready(&w, true);
        close(s);
        wait_ready(&w, false);
        assert_true(w.out->push_tick(w.push, 0) <= clock_boot_ns() + 50 * NS_PER_MS);
    }
    close(listener);
    way_close(&w);
}

static int unsent(struct way *w)
{
    int bytes = 0;
    assert_int_equal(ioctl(w->out->push_fd(w->push), SIOCOUTQNSD, &bytes), 0);
    return bytes;
}

// What may wait does, in the socket; the kernel lets it go by itself after a while, so on a busy machine that is tried again.
static void what_may_wait_goes_when_it_is_told_to(void **state)
{
    struct way w;
    uint32_t sent = 1, received = 1;
    own_way(&w);
    for (bool waited = false; !waited;) {
        w.out->push_more(w.push, true);
        for (int i = 0; i < 3; i++)
            send_one(&w, sent++, 100);
        w.out->push_more(w.push, false);
        waited = unsent(&w) > 0;
        w.out->push_all(w.push);
        assert_int_equal(unsent(&w), 0);
        for (; received < sent; received++)
            expect(&w, received, 100);
        assert_true(sent < 1000);
    }
    w.out->push_more(w.push, true);
    send_one(&w, sent++, 100);
    w.out->push_more(w.push, false);
    send_one(&w, sent++, 100); // takes what waits along
    assert_int_equal(unsent(&w), 0);
    for (; received < sent; received++)
        expect(&w, received, 100);
    way_close(&w);
}

static void without_descriptors_it_accepts_later(void **state)
{
    struct way w;
    struct rlimit before, none;
    own_way(&w);
    CLEANUP_CLOSE int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int next = dup(s);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){(rlim_t)next, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(w.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; w.in->pull_tick(w.pull, 0) == INT64_MAX; way_work(&w, 1))
        assert_true(clock_boot_ns() < until);
    struct epoll_event event;
    assert_int_equal(epoll_wait(w.pull_epoll, &event, 1, 0), 0); // it does not turn and turn
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    uint8_t got[SP_GREETING];
    read_all(&w, s, got, sizeof(got));
    assert_true(sp_greeting_is(got, SP_PULL));
    way_close(&w);
}

// --- the stream itself ---

static void a_stream_may_be_cut_anywhere(void **state)
{
    const size_t some[] = {1, 40, 16000, 16384, 20000, 9};
    size_t total = SP_GREETING, at = SP_GREETING;
    for (size_t i = 0; i < ARRAY_LEN(some); i++)
        total += SP_LENGTH + some[i];
    CLEANUP_FREE uint8_t *bytes = malloc(total);
    sp_greeting_make(SP_PUSH, bytes);
    for (uint32_t i = 0; i < ARRAY_LEN(some); i++) {
        sp_length_make(some[i], bytes + at);
        message_fill(bytes + at + SP_LENGTH, i, some[i]);
        at += SP_LENGTH + some[i];
    }
    const size_t steps[] = {1, 2, 3, 7, 8, 9, 24, 4096, 16383, 16384, 16385, total};
    for (size_t k = 0; k < ARRAY_LEN(steps); k++) {
        struct sp_in *in = sp_in_new(SP_PUSH);
        uint32_t found = 0;
        for (size_t fed = 0; fed < total;) {
            struct iovec iov[SP_PIECES];
            size_t step = MIN(steps[k], total - fed), done = 0;
            int n = sp_room(in, iov);
            for (int i = 0; i < n; i++) {
                size_t part = MIN(iov[i].iov_len, step - done);
                memcpy(iov[i].iov_base, bytes + fed + done, part);
                done += part;
            }
            sp_got(in, done);
            fed += done;
            void *message;
            size_t size;
            int r;
            while ((r = sp_next(in, 20000, &message, &size)) == 0) {
                assert_int_equal(size, some[found]);
                assert_true(message_is(message, found++, size));
                free(message);
            }
            assert_int_equal(r, -EAGAIN);
        }
        assert_int_equal(found, ARRAY_LEN(some));
        sp_in_free(in);
    }
}

// A loopback of the test's own: its ports are free for the taking. Where that is not permitted, they are free by luck.
static int own_loopback(void **state)
{
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) < 0)
        return 0;
    CLEANUP_CLOSE int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return ioctl(s, SIOCSIFFLAGS, &r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_one_by_one),
        cmocka_unit_test(messages_arrive_in_heaps),
        cmocka_unit_test(a_push_connects_again),
        cmocka_unit_test(who_speaks_something_else_is_disconnected),
        cmocka_unit_test(who_is_not_trusted_gets_little_memory),
        cmocka_unit_test(a_crowd_is_shed_and_who_is_trusted_stays),
        cmocka_unit_test(a_push_sends_nothing_to_who_greets_wrongly),
        cmocka_unit_test(half_a_message_is_lost_with_its_connection),
        cmocka_unit_test(the_rest_of_a_message_follows_by_itself),
        cmocka_unit_test(who_was_connected_connects_again_soon),
        cmocka_unit_test(what_may_wait_goes_when_it_is_told_to),
        cmocka_unit_test(without_descriptors_it_accepts_later),
        cmocka_unit_test(a_stream_may_be_cut_anywhere),
    };
    return cmocka_run_group_tests(tests, own_loopback, NULL);
}
