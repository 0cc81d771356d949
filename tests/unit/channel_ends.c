// SPDX-License-Identifier: Apache-2.0
// See channel_ends.h.
#include "tests/unit/channel_ends.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/random.h"

#define NO_SILENCE_NS (10 * NS_PER_S) // longer than a busy machine keeps a process from its work

static void on_control(void *context, int path, uint64_t run, const void *data, size_t size)
{
    struct end *end = context;
    end->n_control++;
    end->control_path = path;
    end->control_run = run;
    size_t n = MIN(size, sizeof(end->control) - 1);
    memcpy(end->control, data, n);
    end->control[n] = '\0';
}

static void on_event(void *context, enum channel_side side, int path, enum channel_event event,
                     const char *text)
{
    struct end *end = context;
    if (getenv("CHANNEL_TEST_TALK"))
        fprintf(stderr, "%8.3f %s %s path %d event %d: %s\n", (double)clock_boot_ns() / 1e9,
                end->config.identity == CHANNEL_PRIMARY ? "P" : "S", side ? "data" : "control",
                path, event, text);
    if (path >= 0)
        end->counts[side][path][event]++;
    if (event == CHANNEL_REFUSED) {
        end->refusals++;
        snprintf(end->refused, sizeof(end->refused), "%s", text);
    }
    if (event == CHANNEL_TROUBLE) {
        end->troubles++;
        snprintf(end->trouble, sizeof(end->trouble), "%s", text);
    }
}

static bool port_free(int family, const void *address, size_t size)
{
    CLEANUP_CLOSE int s = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return s >= 0 && bind(s, address, (socklen_t)size) == 0;
}

// Below the ports that the kernel gives to connections, so that none of those is in the way.
uint16_t ends_free_port(void)
{
    for (;;) {
        uint16_t port = (uint16_t)(11000 + random_id() % 19000);
        bool ok = true;
        for (uint16_t i = 0; i < 2; i++) {
            struct sockaddr_in v4 = {.sin_family = AF_INET,
                                     .sin_port = htons((uint16_t)(port + i))};
            struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                                      .sin6_port = htons((uint16_t)(port + i)),
                                      .sin6_addr = IN6ADDR_LOOPBACK_INIT};
            ok = ok && port_free(AF_INET, &v4, sizeof(v4)) && port_free(AF_INET6, &v6, sizeof(v6));
        }
        if (ok)
            return port;
    }
}

static const char *loopback(int last)
{
    static char texts[64][24];
    snprintf(texts[last], sizeof(texts[last]), "127.0.0.%d", last);
    return texts[last];
}

static void configure(struct end *end, enum channel_identity identity, int n,
                      const struct channel_key *key)
{
    *end = (struct end){.config = {.pair = "example-pair",
                                   .identity = identity,
                                   .run = random_id(),
                                   .key = key,
                                   .silence_ns = NO_SILENCE_NS,
                                   .n_paths = n}};
    memset(end->config.digest, 0x11, sizeof(end->config.digest));
}

void ends_configure(struct ends *e, int n, const struct channel_key *key, bool proxies)
{
    e->port = ends_free_port();
    configure(&e->a, CHANNEL_PRIMARY, n, key);
    configure(&e->b, CHANNEL_SECONDARY, n, key);
    for (int i = 0; i < n; i++) {
        e->a.paths[i] = (struct channel_path){.mine = loopback(1 + 10 * i),
                                              .peers = loopback((proxies ? 3 : 2) + 10 * i),
                                              .port = e->port};
        e->b.paths[i] = (struct channel_path){.mine = loopback(2 + 10 * i),
                                              .peers = loopback((proxies ? 4 : 1) + 10 * i),
                                              .port = e->port};
    }
}

void end_open(struct end *end)
{
    static const struct channel_ops ops = {.on_control = on_control, .on_event = on_event};
    struct error err = {0};
    end->config.paths = end->paths;
    if (channel_open(&end->config, &ops, end, &end->ch, &err) < 0)
        fail_msg("%s", err.text);
}

void end_close(struct end *end)
{
    end->ch = channel_free(end->ch);
}

void ends_open(struct ends *e)
{
    end_open(&e->a);
    end_open(&e->b);
}

void ends_close(struct ends *e)
{
    end_close(&e->a);
    end_close(&e->b);
}

void ends_start(struct ends *e, int n, const struct channel_key *key)
{
    ends_configure(e, n, key, false);
    ends_open(e);
    ends_wait(e, ends_all_up, "all links up");
}

static void take_data(struct end *end, const struct channel_message *m)
{
    uint64_t number = 0;
    const uint8_t *bytes = m->data;
    assert_true(m->size >= sizeof(number));
    assert_int_equal((uintptr_t)m->data % 16, 0);
    memcpy(&number, bytes, sizeof(number));
    for (size_t i = sizeof(number); i < m->size; i++)
        end->damaged |= bytes[i] != (uint8_t)(number + i);
    end->numbers[end->n_data % ENDS_INBOX] = number;
    end->generations[end->n_data % ENDS_INBOX] = m->generation;
    end->last_size = m->size;
    end->n_data++;
}

static void work(struct end *end)
{
    struct channel_message m;
    if (!end->ch)
        return;
    channel_work(end->ch);
    if (end->other_thread)
        return;
    while (!end->deaf && channel_data_receive(end->ch, &m) == 0) {
        take_data(end, &m);
        channel_message_free(&m);
    }
    channel_data_work(end->ch);
}

static void step(struct ends *e, int64_t until)
{
    struct pollfd fds[4];
    struct end *both[] = {&e->a, &e->b};
    nfds_t n = 0;
    for (size_t i = 0; i < 2; i++) {
        if (!both[i]->ch)
            continue;
        until = MIN(until, channel_deadline_ns(both[i]->ch));
        fds[n++] = (struct pollfd){channel_fd(both[i]->ch), POLLIN, 0};
        if (both[i]->other_thread)
            continue;
        until = MIN(until, channel_data_deadline_ns(both[i]->ch));
        fds[n++] = (struct pollfd){channel_data_fd(both[i]->ch), POLLIN, 0};
    }
    int64_t left = until - clock_boot_ns();
    (void)poll(fds, n, left <= 0 ? 0 : (int)MIN(left / NS_PER_MS + 1, 100));
    work(&e->a);
    work(&e->b);
}

void ends_wait(struct ends *e, bool (*condition)(struct ends *), const char *what)
{
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    while (!condition(e)) {
        if (clock_boot_ns() > until)
            fail_msg("waited in vain for: %s", what);
        step(e, until);
    }
}

void ends_pump(struct ends *e, int ms)
{
    int64_t until = clock_boot_ns() + ms * NS_PER_MS;
    while (clock_boot_ns() < until)
        step(e, until);
}

bool end_up(struct end *end, enum channel_side side, int path)
{
    struct channel_path_info info;
    channel_path_info(end->ch, path, &info);
    return side == CHANNEL_SIDE_DATA ? info.data.up : info.control.up;
}

static bool all_up(struct end *end)
{
    struct channel_path_info info;
    for (int i = 0; i < channel_paths(end->ch); i++) {
        channel_path_info(end->ch, i, &info);
        if (!info.control.up || (info.data.present && !info.data.up))
            return false;
    }
    return true;
}

bool ends_all_up(struct ends *e)
{
    return all_up(&e->a) && all_up(&e->b);
}

bool ends_b_has_control(struct ends *e)
{
    return e->b.n_control > 0;
}

bool ends_b_has_data(struct ends *e)
{
    return e->b.n_data > 0;
}

static bool a_has_control(struct ends *e)
{
    return e->a.n_control > 0;
}

static bool a_has_data(struct ends *e)
{
    return e->a.n_data > 0;
}

int end_downs(const struct end *end)
{
    int n = 0;
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < CHANNEL_PATHS_MAX; i++)
            n += end->counts[side][i][CHANNEL_DOWN];
    return n;
}

int end_send(struct end *end, uint64_t number, size_t size)
{
    CLEANUP_FREE uint8_t *bytes = malloc(size);
    assert_true(bytes != NULL && size >= sizeof(number));
    memcpy(bytes, &number, sizeof(number));
    for (size_t i = sizeof(number); i < size; i++)
        bytes[i] = (uint8_t)(number + i);
    size_t half = size / 2;
    const struct iovec iov[] = {{bytes, half}, {bytes, 0}, {bytes + half, size - half}};
    return channel_data_send(end->ch, iov, 3);
}

void ends_exchange(struct ends *e)
{
    ends_wait(e, ends_all_up, "all links up");
    e->a.n_control = e->b.n_control = e->a.n_data = e->b.n_data = 0;
    assert_true(channel_send_control(e->a.ch, 0, "to b", 4) == 1);
    ends_wait(e, ends_b_has_control, "a control message at b");
    assert_string_equal(e->b.control, "to b");
    assert_true(e->b.control_run == e->a.config.run);
    assert_true(channel_send_control(e->b.ch, CHANNEL_ALL_PATHS, "to a", 4) == e->b.config.n_paths);
    ends_wait(e, a_has_control, "a control message at a");
    assert_string_equal(e->a.control, "to a");
    assert_int_equal(end_send(&e->a, 1, 100000), 0);
    ends_wait(e, ends_b_has_data, "data at b");
    assert_int_equal(e->b.last_size, 100000);
    assert_int_equal(end_send(&e->b, 2, 8), 0);
    ends_wait(e, a_has_data, "data at a");
    assert_int_equal(e->a.numbers[0], 2);
    assert_false(e->a.damaged || e->b.damaged);
}

void ends_exchange_in_the_end(struct ends *e)
{
    int64_t until = clock_boot_ns() + ENDS_PATIENCE_NS;
    e->a.n_data = e->b.n_data = 0;
    for (uint64_t i = 0; e->a.n_data == 0 || e->b.n_data == 0; i++) {
        assert_true(clock_boot_ns() < until);
        (void)end_send(&e->a, i, 5000);
        (void)end_send(&e->b, i, 5000);
        ends_pump(e, 20);
    }
    assert_false(e->a.damaged || e->b.damaged);
}
