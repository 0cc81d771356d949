// SPDX-License-Identifier: Apache-2.0
// common/channel: networks, connections and peers that fail, each found and got over; data takes the best path there is.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "tests/unit/channel_keys.h"
#include "tests/unit/channel_net.h"

static bool path_0_is_down(struct ends *e)
{
    return !end_up(&e->a, CHANNEL_SIDE_CONTROL, 0) && !end_up(&e->b, CHANNEL_SIDE_CONTROL, 0) &&
           !end_up(&e->a, CHANNEL_SIDE_DATA, 0) && !end_up(&e->b, CHANNEL_SIDE_DATA, 0);
}

// All connections stay open but nothing moves, as after a power failure: found, and got over with
// new ones.
static void a_dead_network_is_found_and_got_over(void **state)
{
    struct net net;
    net_open(&net, 1, key, ENDS_SILENCE_NS);
    uint64_t generation = channel_data_generation(net.e.a.ch, NULL, NULL);
    net_set_dead(&net, 0, true);
    ends_wait(&net.e, path_0_is_down, "the links are down");
    assert_int_equal(end_send(&net.e.a, 1, 8), -ENOTCONN);
    net_set_dead(&net, 0, false);
    ends_exchange(&net.e);
    assert_true(channel_data_generation(net.e.a.ch, NULL, NULL) != generation);
    net_close(&net);
}

// One direction only: the end that still hears says so, and both get over it.
static void a_one_way_cut_is_found(void **state)
{
    struct net net;
    net_open(&net, 1, key, ENDS_SILENCE_NS);
    for (int d = 0; d < 2; d++)
        proxy_set_dead(net.to_a[0][d], true);
    ends_wait(&net.e, path_0_is_down, "the links are down");
    for (int d = 0; d < 2; d++)
        proxy_set_dead(net.to_a[0][d], false);
    ends_exchange(&net.e);
    net_close(&net);
}

static bool a_sends_over_1(struct ends *e)
{
    int path;
    channel_data_generation(e->a.ch, &path, NULL);
    return path == 1;
}

// Data goes over path 1 now, and arrives.
static void send_over_1(struct ends *e)
{
    e->b.n_data = 0;
    assert_int_equal(end_send(&e->a, 9, 100), 0);
    ends_wait(e, ends_b_has_data, "data over path 1 at b");
}

static void data_fails_over_to_the_other_path(void **state)
{
    struct net net;
    net_open(&net, 2, key, ENDS_SILENCE_NS);
    struct ends *e = &net.e;
    int path;
    uint64_t generation = channel_data_generation(e->a.ch, &path, NULL);
    assert_int_equal(path, 0);
    ends_exchange(e);
    uint64_t received = e->b.generations[0];
    net_set_dead(&net, 0, true);
    ends_wait(e, a_sends_over_1, "data over path 1");
    assert_true(channel_data_generation(e->a.ch, NULL, NULL) > generation);
    send_over_1(e);
    assert_true(e->b.generations[0] != received);
    assert_true(e->a.counts[CHANNEL_SIDE_DATA][1][CHANNEL_DATA_PATH] > 0);
    ends_wait(e, path_0_is_down, "path 0 down"); // data leaves it before that
    net_set_dead(&net, 0, false);
    ends_exchange(e);
    net_close(&net);
}

#define LONG_SILENCE_NS (8 * NS_PER_S)

static bool a_sends_over_1_while_b_beats(struct ends *e)
{
    (void)channel_send_control(e->b.ch, CHANNEL_ALL_PATHS, "beat", 4);
    return a_sends_over_1(e);
}

// Where the peer goes on to be heard over the other path, data leaves at half of the silence.
static void data_leaves_a_path_that_falls_silent_before_it_is_down(void **state)
{
    struct net net;
    net_open(&net, 2, key, LONG_SILENCE_NS);
    struct ends *e = &net.e;
    ends_exchange(e);
    net_set_dead(&net, 0, true);
    ends_wait(e, a_sends_over_1_while_b_beats, "data over path 1");
    assert_true(end_up(&e->a, CHANNEL_SIDE_DATA, 0));
    send_over_1(e);
    net_close(&net);
}

static bool a_sends_over_1_while_it_sends(struct ends *e)
{
    (void)end_send(&e->a, 9, 100);
    return a_sends_over_1(e);
}

// The peer's host is heard all the time: only the data connection is gone, and cannot be made again.
static void data_leaves_a_path_without_a_connection(void **state)
{
    struct net net;
    net_open(&net, 2, key, 60 * NS_PER_S); // nothing is silent for so long
    struct ends *e = &net.e;
    ends_exchange(e);
    net.to_b[0][1] = proxy_stop(net.to_b[0][1]);
    ends_wait(e, a_sends_over_1_while_it_sends, "data over path 1");
    assert_true(end_up(&e->a, CHANNEL_SIDE_DATA, 0) && end_up(&e->a, CHANNEL_SIDE_CONTROL, 0));
    send_over_1(e);
    net.to_b[0][1] = proxy_start("127.0.0.3", "127.0.0.2", (uint16_t)(e->port + 1));
    net_close(&net);
}

static bool a_sends_over_1_when_it_looks(struct ends *e)
{
    channel_data_look(e->a.ch);
    return a_sends_over_1(e);
}

// Likewise without more to send: who waits for an answer has it looked at.
static void data_leaves_a_path_without_a_connection_when_it_is_looked_at(void **state)
{
    struct net net;
    net_open(&net, 2, key, 60 * NS_PER_S);
    struct ends *e = &net.e;
    ends_exchange(e);
    channel_data_look(e->a.ch);
    assert_false(a_sends_over_1(e));
    net.to_b[0][1] = proxy_stop(net.to_b[0][1]);
    ends_wait(e, a_sends_over_1_when_it_looks, "data over path 1");
    send_over_1(e);
    net.to_b[0][1] = proxy_start("127.0.0.3", "127.0.0.2", (uint16_t)(e->port + 1));
    net_close(&net);
}

static void data_fails_over_when_told_so(void **state)
{
    struct ends e;
    int path;
    ends_start(&e, 2, key);
    assert_int_equal(channel_data_failover(e.a.ch), 0);
    channel_data_generation(e.a.ch, &path, NULL);
    assert_int_equal(path, 1);
    ends_exchange(&e);
    ends_close(&e);
    ends_start(&e, 1, key);
    assert_int_equal(channel_data_failover(e.a.ch), -ENOTCONN);
    ends_exchange(&e);
    ends_close(&e);
}

static bool b_knows_of_loss(struct ends *e)
{
    for (int i = 1; i < e->b.n_data; i++)
        if (e->b.generations[i] != e->b.generations[0])
            return true;
    return false;
}

// A connection that breaks loses messages; the receiver is told between which ones.
static void lost_messages_are_told(void **state)
{
    struct net net;
    net_open(&net, 1, key, ENDS_SILENCE_NS);
    struct ends *e = &net.e;
    uint64_t number = 0;
    for (int round = 0; round < 20 && !b_knows_of_loss(e); round++) {
        for (int i = 0; i < 100; i++) {
            number += end_send(&e->a, number, 50000) == 0;
            ends_pump(e, 1);
        }
        proxy_cut(net.to_b[0][1]);
        for (bool sent = false; !sent; number += sent) {
            sent = end_send(&e->a, number, 50000) == 0;
            ends_pump(e, 1);
        }
    }
    assert_true(b_knows_of_loss(e));
    for (int i = 1; i < e->b.n_data; i++)
        assert_true(e->b.numbers[i] == e->b.numbers[i - 1] + 1 ||
                    e->b.generations[i] != e->b.generations[i - 1]);
    ends_exchange_in_the_end(e);
    net_close(&net);
}

// A new run of either end is there again within a moment, though nothing was closed in an orderly
// way.
static void a_restarted_peer_is_soon_back(void **state)
{
    struct net net;
    net_open(&net, 1, key, ENDS_SILENCE_NS);
    struct ends *e = &net.e;
    for (int round = 0; round < 2; round++) {
        struct end *end = round ? &e->b : &e->a;
        struct end *stays = round ? &e->a : &e->b;
        net_set_dead(&net, 0, true); // its goodbye is lost
        end_close(end);
        end->config.run = random_id();
        net_set_dead(&net, 0, false);
        int64_t start = clock_boot_ns();
        int ups = stays->counts[CHANNEL_SIDE_CONTROL][0][CHANNEL_UP];
        end_open(end);
        ends_exchange(e);
        print_message("back after %lld ms\n", (long long)((clock_boot_ns() - start) / NS_PER_MS));
        assert_true(stays->counts[CHANNEL_SIDE_CONTROL][0][CHANNEL_UP] > ups);
        struct channel_path_info info;
        channel_path_info(stays->ch, 0, &info);
        assert_true(info.control.peer_run == end->config.run);
        assert_true(info.data.peer_run == end->config.run);
    }
    net_close(&net);
}

static bool a_reaches_the_new_run(struct ends *e, int path)
{
    struct channel_path_info info;
    channel_path_info(e->a.ch, path, &info);
    return info.data.up && info.data.peer_run == e->b.config.run;
}

static bool a_reaches_it_over_0(struct ends *e)
{
    return a_reaches_the_new_run(e, 0);
}

static bool a_reaches_it_over_1(struct ends *e)
{
    return a_reaches_the_new_run(e, 1) && a_sends_over_1(e);
}

// The better path is not held against a peer that was restarted: it is taken as soon as it is up.
static void data_returns_to_the_better_path_of_a_restarted_peer_at_once(void **state)
{
    struct net net;
    net_open(&net, 2, key, ENDS_SILENCE_NS);
    struct ends *e = &net.e;
    ends_exchange(e);
    net_set_dead(&net, 0, true);
    net_set_dead(&net, 1, true);
    end_close(&e->b);
    e->b.config.run = random_id();
    net_set_dead(&net, 1, false);
    end_open(&e->b);
    ends_wait(e, a_reaches_it_over_1, "the new run over path 1");
    net_set_dead(&net, 0, false);
    ends_wait(e, a_reaches_it_over_0, "the new run over path 0");
    assert_false(a_sends_over_1(e));
    ends_exchange(e);
    net_close(&net);
}

static uint64_t control_run(struct end *end, int path)
{
    struct channel_path_info info;
    channel_path_info(end->ch, path, &info);
    return info.control.up ? info.control.peer_run : 0;
}

static bool a_hears_the_new_run(struct ends *e)
{
    return control_run(&e->a, 0) == e->b.config.run;
}

static void proxies_revive(struct proxy *one, struct proxy *other)
{
    proxy_cut(one);
    proxy_cut(other);
    proxy_set_dead(one, false);
    proxy_set_dead(other, false);
}

// A data link that has not heard of the peer's new run is up to nobody: nothing is sent there once any other link has, and the
// path that hears of it first is used.
static void nothing_is_sent_to_a_former_run(void **state)
{
    struct net net;
    net_open(&net, 2, key, 0);
    struct ends *e = &net.e;
    net_set_dead(&net, 0, true);
    net_set_dead(&net, 1, true);
    end_close(&e->b); // its goodbye is lost
    e->b.config.run = random_id();
    end_open(&e->b);
    proxies_revive(net.to_a[0][0], net.to_b[0][0]);
    ends_wait(e, a_hears_the_new_run, "a control link");
    assert_int_equal(end_send(&e->a, 1, 100), -ENOTCONN);
    proxies_revive(net.to_a[1][1], net.to_b[1][1]);
    ends_wait(e, a_sends_over_1, "data over path 1");
    send_over_1(e);
    proxies_revive(net.to_a[0][1], net.to_b[0][1]);
    proxies_revive(net.to_a[1][0], net.to_b[1][0]);
    ends_wait(e, ends_all_up, "all links up");
    ends_exchange(e);
    net_close(&net);
}

static bool a_down(struct ends *e)
{
    return !end_up(&e->a, CHANNEL_SIDE_CONTROL, 0) && !end_up(&e->a, CHANNEL_SIDE_DATA, 0);
}

// A process that is the Secondary once a byte comes through the pipe, until it is killed.
static pid_t start_secondary(const struct ends *e, int pipe_fds[2])
{
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    struct ends own = *e;
    char byte;
    close(pipe_fds[1]);
    if (read(pipe_fds[0], &byte, 1) != 1)
        _exit(1);
    own.b.config.run = random_id();
    end_open(&own.b);
    for (;;)
        ends_pump(&own, 1000);
}

static bool a_up(struct ends *e)
{
    return end_up(&e->a, CHANNEL_SIDE_CONTROL, 0) && end_up(&e->a, CHANNEL_SIDE_DATA, 0);
}

static bool a_up_again(struct ends *e)
{
    return a_up(e) && e->a.counts[CHANNEL_SIDE_CONTROL][0][CHANNEL_UP] >= 2 &&
           e->a.counts[CHANNEL_SIDE_DATA][0][CHANNEL_UP] >= 2;
}

// Killed (after it was stopped, so that it could not even have closed in order), and another
// process in its place.
static void a_killed_peer_is_found_and_replaced(void **state)
{
    struct ends e;
    int go[2][2];
    ends_configure(&e, 1, key, false);
    e.a.config.silence_ns = e.b.config.silence_ns = ENDS_SILENCE_NS;
    pid_t first = start_secondary(&e, go[0]); // before this process has any thread of nanomsg's
    pid_t second = start_secondary(&e, go[1]);
    assert_int_equal(write(go[0][1], "g", 1), 1);
    end_open(&e.a);
    ends_wait(&e, a_up, "the first one");
    assert_int_equal(kill(first, SIGSTOP), 0);
    ends_wait(&e, a_down, "its silence");
    assert_int_equal(kill(first, SIGKILL), 0);
    assert_int_equal(waitpid(first, NULL, 0), first);
    int64_t start = clock_boot_ns();
    assert_int_equal(write(go[1][1], "g", 1), 1);
    ends_wait(&e, a_up_again, "the second one");
    print_message("back after %lld ms\n", (long long)((clock_boot_ns() - start) / NS_PER_MS));
    assert_int_equal(kill(second, SIGKILL), 0);
    assert_int_equal(waitpid(second, NULL, 0), second);
    end_close(&e.a);
    for (int i = 0; i < 4; i++)
        close(go[i / 2][i % 2]);
}

static bool a_control_down(struct ends *e)
{
    return !end_up(&e->a, CHANNEL_SIDE_CONTROL, 0);
}

static bool readable(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 0) == 1;
}

// A data link asks rarely while its path's control link is up, so that link says when it goes down: nothing else would wake
// the thread of the data side before its next ping.
static void a_silent_control_link_wakes_the_data_side(void **state)
{
    struct net net;
    net_open(&net, 1, key, ENDS_SILENCE_NS);
    net_set_dead(&net, 0, true);
    ends_pump(&net.e, 100); // what was on its way
    net.e.a.other_thread = true;
    ends_wait(&net.e, a_control_down, "the control link's silence");
    assert_true(readable(channel_data_fd(net.e.a.ch)));
    net.e.a.other_thread = false;
    ends_wait(&net.e, a_down, "the data link's");
    net_set_dead(&net, 0, false);
    ends_wait(&net.e, ends_all_up, "all links up again");
    net_close(&net);
}

static bool b_data_down(struct ends *e)
{
    return e->b.counts[CHANNEL_SIDE_DATA][0][CHANNEL_DOWN] > 0;
}

// A connection that died alone, as behind a firewall that has forgotten it: found while nobody wants anything of it.
static void a_dead_data_connection_is_found_while_idle(void **state)
{
    struct net net;
    net_open(&net, 1, key, ENDS_SILENCE_NS);
    proxy_set_dead(net.to_b[0][1], true);
    ends_wait(&net.e, b_data_down, "the data link's silence");
    proxy_set_dead(net.to_b[0][1], false);
    ends_wait(&net.e, ends_all_up, "all links up again");
    net_close(&net);
}

static void a_closed_end_says_goodbye(void **state)
{
    struct ends e;
    ends_configure(&e, 1, key, false);
    e.a.config.silence_ns = 3600 * NS_PER_S;
    ends_open(&e);
    ends_wait(&e, ends_all_up, "all links up");
    end_close(&e.b);
    ends_wait(&e, a_down, "a knows");
    ends_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dead_network_is_found_and_got_over),
        cmocka_unit_test(a_one_way_cut_is_found),
        cmocka_unit_test(data_fails_over_to_the_other_path),
        cmocka_unit_test(data_leaves_a_path_that_falls_silent_before_it_is_down),
        cmocka_unit_test(data_leaves_a_path_without_a_connection),
        cmocka_unit_test(data_leaves_a_path_without_a_connection_when_it_is_looked_at),
        cmocka_unit_test(data_fails_over_when_told_so),
        cmocka_unit_test(lost_messages_are_told),
        cmocka_unit_test(a_restarted_peer_is_soon_back),
        cmocka_unit_test(data_returns_to_the_better_path_of_a_restarted_peer_at_once),
        cmocka_unit_test(nothing_is_sent_to_a_former_run),
        cmocka_unit_test(a_killed_peer_is_found_and_replaced),
        cmocka_unit_test(a_silent_control_link_wakes_the_data_side),
        cmocka_unit_test(a_dead_data_connection_is_found_while_idle),
        cmocka_unit_test(a_closed_end_says_goodbye),
    };
    return cmocka_run_group_tests(tests, keys_setup, keys_teardown);
}
