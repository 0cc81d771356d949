// SPDX-License-Identifier: Apache-2.0
// common/channel: two ends find each other over loopback, with every kind of peer that does not
// belong, and with the network failing in between.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/keyfile.h"
#include "common/base/random.h"
#include "common/channel/frame.h"
#include "common/channel/seal.h"
#include "tests/unit/channel_ends.h"
#include "tests/unit/channel_proxy.h"

#define PATIENCE_NS (120 * NS_PER_S) // the last guard against hanging

static char dir[] = "/tmp/test_channel_XXXXXX";
static struct channel_key *key, *other_key;

static struct channel_key *make_key(const char *name)
{
    char path[128];
    struct error err = {0};
    struct channel_key *k = NULL;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (keyfile_generate(path, &err) < 0 || channel_key_load(path, &k, &err) < 0)
        fail_msg("%s", err.text);
    return k;
}

static int setup(void **state)
{
    assert_non_null(mkdtemp(dir));
    key = make_key("key");
    other_key = make_key("other");
    return 0;
}

static int teardown(void **state)
{
    char path[128];
    static const char *const names[] = {"key", "other", "bad"};
    channel_key_free(key);
    channel_key_free(other_key);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
    return rmdir(dir);
}

// --- key files ---

static void key_files_are_for_their_owner_only(void **state)
{
    char path[128];
    struct error err = {0};
    struct keyfile a = {0}, b = {0};
    struct stat st;
    snprintf(path, sizeof(path), "%s/key", dir);
    assert_int_equal(keyfile_load(path, &a, &err), 0);
    assert_int_equal(a.size, 32);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(keyfile_generate(path, &err), -EEXIST);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(keyfile_load(path, &b, &err), -EPERM);
    assert_non_null(strstr(err.text, "pairctl keygen"));
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(keyfile_load(path, &b, &err), 0);
    assert_memory_equal(a.bytes, b.bytes, 32);
}

static void key_files_have_a_form(void **state)
{
    static const char *const bad[] = {
        "",
        "understudy-key-1\n",
        "understudy-key-1\nabcd\n",
        "0123",
        "understudy-key-1\n"
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddee\n",
        "understudy-key-1\n00112233445566778899aabbccddeeff00112233445566778899aabbccddeeffzz\n"};
    char path[128];
    struct keyfile k;
    snprintf(path, sizeof(path), "%s/bad", dir);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct error err = {0};
        CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
        assert_int_equal(keyfile_load(path, &k, &err), -EINVAL);
        assert_non_null(strstr(err.text, path));
    }
}

static void derived_keys_differ_by_label_and_key(void **state)
{
    uint8_t a[CHANNEL_SUBKEY_SIZE], b[CHANNEL_SUBKEY_SIZE], c[CHANNEL_SUBKEY_SIZE];
    assert_int_equal(channel_key_derive(key, "inquiry", a), 0);
    assert_int_equal(channel_key_derive(key, "goodbye", b), 0);
    assert_int_equal(channel_key_derive(other_key, "inquiry", c), 0);
    assert_memory_not_equal(a, b, sizeof(a));
    assert_memory_not_equal(a, c, sizeof(a));
    assert_int_equal(channel_key_derive(key, "inquiry", c), 0);
    assert_memory_equal(a, c, sizeof(a));
}

// --- frames ---

static bool same_frame(const struct frame *a, const struct frame *b)
{
    struct frame_header x, y;
    frame_fill(&x, a);
    frame_fill(&y, b);
    return memcmp(&x, &y, sizeof(x)) == 0;
}

// Whatever bit of a header is flipped, the parser takes it as another valid header or says what is
// wrong; it never reads beyond the end.
static void frame_parser_bounds_everything(void **state)
{
    struct {
        struct frame_header header;
        uint8_t body[96];
    } m;
    struct frame f = {FRAME_SEALED, CHANNEL_SIDE_DATA, 3, true, 77, 5, sizeof(m.body)}, got;
    memset(&m, 0, sizeof(m));
    frame_fill(&m.header, &f);
    assert_null(frame_parse(&m, sizeof(m), &got));
    assert_true(same_frame(&got, &f));
    for (size_t size = 0; size < sizeof(m); size++) {
        CLEANUP_FREE void *copy = malloc(size ? size : 1);
        memcpy(copy, &m, size);
        assert_non_null(frame_parse(copy, size, &got));
    }
    // A sealed message has room for what it says of itself and for its code.
    const size_t least = FRAME_OVERHEAD - sizeof(m.header);
    for (size_t body = 0; body < sizeof(m.body); body++) {
        struct frame sized = f;
        sized.size = (uint32_t)body;
        frame_fill(&m.header, &sized);
        assert_int_equal(frame_parse(&m, sizeof(m.header) + body, &got) == NULL, body >= least);
    }
    frame_fill(&m.header, &f);
    for (size_t bit = 0; bit < 8 * sizeof(m.header); bit++) {
        uint8_t *byte = (uint8_t *)&m + bit / 8;
        *byte ^= (uint8_t)(1 << bit % 8);
        const char *why = frame_parse(&m, sizeof(m), &got);
        assert_true(why || !same_frame(&got, &f));
        *byte ^= (uint8_t)(1 << bit % 8);
    }
}

// --- seals ---

// Both ends of a finished handshake, or false: it failed.
static bool seals_meet(const char *context_a, const char *context_b, struct seal *ret_seals[2])
{
    uint8_t messages[2][SEAL_HANDSHAKE_MAX];
    size_t sizes[2] = {0, 0};
    struct error err = {0};
    int r = 0, done = 0;
    assert_int_equal(seal_new(key, true, context_a, strlen(context_a), &ret_seals[0], &err), 0);
    assert_int_equal(seal_new(key, false, context_b, strlen(context_b), &ret_seals[1], &err), 0);
    for (int turn = 0; done < 2 && r >= 0 && turn < 20; turn++) {
        int at = turn % 2;
        r = seal_step(ret_seals[at], turn ? messages[1 - at] : NULL, turn ? sizes[1 - at] : 0, messages[at], &sizes[at], &err);
        done += r > 0;
    }
    return done == 2;
}

static void seal_text(struct seal *seal, uint64_t counter, uint8_t to[64 + SEAL_OVERHEAD])
{
    static const uint8_t text[64] = "the same each time";
    const struct iovec iov = {(void *)(uintptr_t)text, sizeof(text)};
    assert_int_equal(seal_close(seal, counter, "head", 4, &iov, 1, to), 0);
}

// Two messages are never sealed alike: not under two counters, wherever these differ, and not in two directions. What was
// sealed like that would give itself away to whoever has both.
static void nothing_is_sealed_twice_alike(void **state)
{
    static const uint64_t counters[] = {1, 2, 257, 65537, (1U << 24) + 1, (UINT64_C(1) << 32) + 1, (UINT64_C(1) << 56) + 1};
    enum { COUNT = 2 * ARRAY_LEN(counters) };
    uint8_t sealed[COUNT][64 + SEAL_OVERHEAD];
    struct seal *seals[2];
    assert_true(seals_meet("here", "here", seals));
    for (size_t i = 0; i < COUNT; i++) {
        seal_text(seals[i % 2], counters[i / 2], sealed[i]);
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(sealed[i], sealed[k], 64);
    }
    for (size_t i = 0; i < COUNT; i++) {
        uint8_t copy[64 + SEAL_OVERHEAD];
        uint64_t counter = counters[i / 2];
        memcpy(copy, sealed[i], sizeof(copy));
        assert_int_equal(seal_open(seals[i % 2], counter, "head", 4, copy, sizeof(copy)), -EBADMSG); // its own
        memcpy(copy, sealed[i], sizeof(copy));
        assert_int_equal(seal_open(seals[1 - i % 2], counter + 1, "head", 4, copy, sizeof(copy)), -EBADMSG);
        memcpy(copy, sealed[i], sizeof(copy));
        assert_int_equal(seal_open(seals[1 - i % 2], counter, "tail", 4, copy, sizeof(copy)), -EBADMSG);
        memcpy(copy, sealed[i], sizeof(copy));
        assert_int_equal(seal_open(seals[1 - i % 2], counter, "head", 4, copy, sizeof(copy)), 0);
        assert_string_equal((const char *)copy, "the same each time");
    }
    seal_free(seals[0]);
    seal_free(seals[1]);
}

// The keys are of the link that both had in mind.
static void keys_are_bound_to_their_context(void **state)
{
    struct seal *seals[2];
    uint8_t sealed[64 + SEAL_OVERHEAD];
    if (seals_meet("here", "there", seals)) {
        seal_text(seals[0], 1, sealed);
        assert_int_equal(seal_open(seals[1], 1, "head", 4, sealed, sizeof(sealed)), -EBADMSG);
    }
    seal_free(seals[0]);
    seal_free(seals[1]);
}

static void hello_parser_bounds_everything(void **state)
{
    struct hello h = {.protocol = 1, .round = 3, .echo = 4, .identity = CHANNEL_PRIMARY, .run = 5, .home = 6, .slot = 7},
                 got;
    struct frame_hello wire;
    memset(h.pair, 'p', CHANNEL_NAME_MAX);
    hello_fill(&wire, &h);
    assert_null(hello_parse(&wire, sizeof(wire), 1, &got));
    assert_string_equal(got.pair, h.pair);
    assert_int_equal(got.run, 5);
    assert_true(got.home == 6 && got.slot == 7);
    assert_non_null(hello_parse(&wire, sizeof(wire) - 1, 1, &got));
    assert_non_null(hello_parse(&wire, 3, 1, &got));
    assert_null(hello_parse(&wire, 4, 2, &got)); // of another protocol only the number is read
    assert_int_equal(got.protocol, 1);
    wire.pair_size = CHANNEL_NAME_MAX + 1;
    assert_non_null(hello_parse(&wire, sizeof(wire), 1, &got));
}

// --- two ends that belong together ---

static bool a_has_control(struct ends *e)
{
    return e->a.n_control > 0;
}

static bool b_has_control(struct ends *e)
{
    return e->b.n_control > 0;
}

static bool b_has_data(struct ends *e)
{
    return e->b.n_data > 0;
}

static bool a_has_data(struct ends *e)
{
    return e->a.n_data > 0;
}

static void exchange(struct ends *e)
{
    ends_wait(e, ends_all_up, "all links up");
    e->a.n_control = e->b.n_control = e->a.n_data = e->b.n_data = 0;
    assert_true(channel_send_control(e->a.ch, 0, "to b", 4) == 1);
    ends_wait(e, b_has_control, "a control message at b");
    assert_string_equal(e->b.control, "to b");
    assert_true(e->b.control_run == e->a.config.run);
    assert_true(channel_send_control(e->b.ch, CHANNEL_ALL_PATHS, "to a", 4) == e->b.config.n_paths);
    ends_wait(e, a_has_control, "a control message at a");
    assert_string_equal(e->a.control, "to a");
    assert_int_equal(end_send(&e->a, 1, 100000), 0);
    ends_wait(e, b_has_data, "data at b");
    assert_int_equal(e->b.last_size, 100000);
    assert_int_equal(end_send(&e->b, 2, 8), 0);
    ends_wait(e, a_has_data, "data at a");
    assert_int_equal(e->a.numbers[0], 2);
    assert_false(e->a.damaged || e->b.damaged);
}

// For a link on which something may still be lost: sends until one gets through each way.
static void exchange_in_the_end(struct ends *e)
{
    int64_t until = clock_boot_ns() + PATIENCE_NS;
    e->a.n_data = e->b.n_data = 0;
    for (uint64_t i = 0; e->a.n_data == 0 || e->b.n_data == 0; i++) {
        assert_true(clock_boot_ns() < until);
        (void)end_send(&e->a, i, 5000);
        (void)end_send(&e->b, i, 5000);
        ends_pump(e, 20);
    }
    assert_false(e->a.damaged || e->b.damaged);
}

static void sealed_ends_meet_over_three_paths(void **state)
{
    struct ends e;
    ends_configure(&e, 3, key, false);
    e.a.paths[2].kind = e.b.paths[2].kind = CHANNEL_PATH_PUBLIC;
    ends_open(&e);
    exchange(&e);
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
    ends_configure(&e, 1, NULL, false);
    ends_open(&e);
    exchange(&e);
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
    exchange(&e);
    ends_close(&e);
}

static void large_and_small_messages_arrive_whole(void **state)
{
    static const size_t sizes[] = {8, 9, 4096, 65537, 256 * 1024, CHANNEL_DATA_MAX};
    struct ends e;
    struct iovec iov = {NULL, CHANNEL_DATA_MAX + 1};
    ends_configure(&e, 1, key, false);
    ends_open(&e);
    ends_wait(&e, ends_all_up, "all links up");
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        e.b.n_data = 0;
        assert_int_equal(end_send(&e.a, i, sizes[i]), 0);
        ends_wait(&e, b_has_data, "the message");
        assert_int_equal(e.b.last_size, sizes[i]);
    }
    assert_false(e.b.damaged);
    assert_int_equal(channel_data_send(e.a.ch, &iov, 1), -EMSGSIZE);
    assert_int_equal(channel_send_control(e.a.ch, 0, dir, CHANNEL_CONTROL_MAX + 1), -EMSGSIZE);
    assert_int_equal(channel_send_control(e.a.ch, 1, dir, 1), -EINVAL);
    ends_close(&e);
}

static int downs(const struct end *end)
{
    int n = 0;
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < CHANNEL_PATHS_MAX; i++)
            n += end->counts[side][i][CHANNEL_DOWN];
    return n;
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
        if (downs(&e.a) + downs(&e.b) > 0) {
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

// --- ends that do not belong together ---

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
    exchange(&e);
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

// --- strangers ---

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
    ends_configure(&e, 1, key, false);
    ends_open(&e);
    ends_wait(&e, ends_all_up, "all links up");
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
    exchange(&e);
    assert_int_equal(downs(&e.a) + downs(&e.b), 0);
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
static void strangers_that_stay_are_shed(void **state)
{
    struct ends e;
    int s[80];
    ends_configure(&e, 1, key, false);
    ends_open(&e);
    ends_wait(&e, ends_all_up, "all links up");
    for (size_t i = 0; i < ARRAY_LEN(s); i++) {
        s[i] = connect_to(e.b.paths[0].mine, (uint16_t)(e.port + 1));
        send_all(s[i], greeting, sizeof(greeting));
    }
    for (int64_t until = clock_boot_ns() + PATIENCE_NS; !closed_by_peer(s[0]);) {
        assert_true(clock_boot_ns() < until);
        ends_pump(&e, 20);
    }
    for (size_t i = 0; i < ARRAY_LEN(s); i++)
        close(s[i]);
    exchange_in_the_end(&e);
    ends_close(&e);
}

// --- with a network in between ---

struct net {
    struct ends e;
    struct proxy *to_b[CHANNEL_PATHS_MAX][2], *to_a[CHANNEL_PATHS_MAX][2]; // by path; control, data
    int n;
};

static void net_open(struct net *net, int n, const struct channel_key *k, int64_t silence_ns)
{
    char at[24], to[24];
    ends_configure(&net->e, n, k, true);
    if (silence_ns)
        net->e.a.config.silence_ns = net->e.b.config.silence_ns = silence_ns;
    net->n = n;
    for (int i = 0; i < n; i++)
        for (int d = 0; d < 2; d++) {
            uint16_t port = (uint16_t)(net->e.port + d);
            snprintf(at, sizeof(at), "127.0.0.%d", 3 + 10 * i);
            snprintf(to, sizeof(to), "127.0.0.%d", 2 + 10 * i);
            net->to_b[i][d] = proxy_start(at, to, port);
            snprintf(at, sizeof(at), "127.0.0.%d", 4 + 10 * i);
            snprintf(to, sizeof(to), "127.0.0.%d", 1 + 10 * i);
            net->to_a[i][d] = proxy_start(at, to, port);
        }
    ends_open(&net->e);
    ends_wait(&net->e, ends_all_up, "all links up");
}

static void net_close(struct net *net)
{
    ends_close(&net->e);
    for (int i = 0; i < net->n; i++)
        for (int d = 0; d < 2; d++) {
            proxy_stop(net->to_b[i][d]);
            proxy_stop(net->to_a[i][d]);
        }
}

static void net_set_dead(struct net *net, int path, bool dead)
{
    for (int d = 0; d < 2; d++) {
        proxy_set_dead(net->to_b[path][d], dead);
        proxy_set_dead(net->to_a[path][d], dead);
    }
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
    ends_wait(&net.e, b_has_data, "data");
    ends_wait(&net.e, b_has_control, "control");
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
    assert_int_equal(downs(&e->a) + downs(&e->b), 0);
    exchange(e);
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
    exchange_in_the_end(e);
    net_close(&net);
}

static bool a_lost(struct ends *e)
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
    ends_wait(&net.e, a_lost, "the links are down");
    assert_int_equal(end_send(&net.e.a, 1, 8), -ENOTCONN);
    net_set_dead(&net, 0, false);
    exchange(&net.e);
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
    ends_wait(&net.e, a_lost, "the links are down");
    for (int d = 0; d < 2; d++)
        proxy_set_dead(net.to_a[0][d], false);
    exchange(&net.e);
    net_close(&net);
}

static bool a_sends_over_1(struct ends *e)
{
    int path;
    channel_data_generation(e->a.ch, &path, NULL);
    return path == 1;
}

static bool path_0_is_down(struct ends *e)
{
    return !end_up(&e->a, CHANNEL_SIDE_CONTROL, 0) && !end_up(&e->b, CHANNEL_SIDE_CONTROL, 0) &&
           !end_up(&e->a, CHANNEL_SIDE_DATA, 0) && !end_up(&e->b, CHANNEL_SIDE_DATA, 0);
}

static void data_fails_over_to_the_other_path(void **state)
{
    struct net net;
    net_open(&net, 2, key, ENDS_SILENCE_NS);
    struct ends *e = &net.e;
    int path;
    uint64_t generation = channel_data_generation(e->a.ch, &path, NULL);
    assert_int_equal(path, 0);
    exchange(e);
    uint64_t received = e->b.generations[0];
    net_set_dead(&net, 0, true);
    ends_wait(e, a_sends_over_1, "data over path 1");
    assert_true(channel_data_generation(e->a.ch, NULL, NULL) > generation);
    e->b.n_data = 0;
    assert_int_equal(end_send(&e->a, 9, 100), 0);
    ends_wait(e, b_has_data, "data over path 1 at b");
    assert_true(e->b.generations[0] != received);
    assert_true(e->a.counts[CHANNEL_SIDE_DATA][1][CHANNEL_DATA_PATH] > 0);
    ends_wait(e, path_0_is_down, "path 0 down"); // data leaves it before that
    net_set_dead(&net, 0, false);
    exchange(e);
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
    exchange(e);
    net_set_dead(&net, 0, true);
    ends_wait(e, a_sends_over_1_while_b_beats, "data over path 1");
    assert_true(end_up(&e->a, CHANNEL_SIDE_DATA, 0));
    e->b.n_data = 0;
    assert_int_equal(end_send(&e->a, 9, 100), 0);
    ends_wait(e, b_has_data, "data over path 1 at b");
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
    exchange(e);
    net.to_b[0][1] = proxy_stop(net.to_b[0][1]);
    ends_wait(e, a_sends_over_1_while_it_sends, "data over path 1");
    assert_true(end_up(&e->a, CHANNEL_SIDE_DATA, 0) && end_up(&e->a, CHANNEL_SIDE_CONTROL, 0));
    e->b.n_data = 0;
    assert_int_equal(end_send(&e->a, 9, 100), 0);
    ends_wait(e, b_has_data, "data over path 1 at b");
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
    exchange(e);
    channel_data_look(e->a.ch);
    assert_false(a_sends_over_1(e));
    net.to_b[0][1] = proxy_stop(net.to_b[0][1]);
    ends_wait(e, a_sends_over_1_when_it_looks, "data over path 1");
    e->b.n_data = 0;
    assert_int_equal(end_send(&e->a, 9, 100), 0);
    ends_wait(e, b_has_data, "data over path 1 at b");
    net.to_b[0][1] = proxy_start("127.0.0.3", "127.0.0.2", (uint16_t)(e->port + 1));
    net_close(&net);
}

static void data_fails_over_when_told_so(void **state)
{
    struct ends e;
    int path;
    ends_configure(&e, 2, key, false);
    ends_open(&e);
    ends_wait(&e, ends_all_up, "all links up");
    assert_int_equal(channel_data_failover(e.a.ch), 0);
    channel_data_generation(e.a.ch, &path, NULL);
    assert_int_equal(path, 1);
    exchange(&e);
    ends_close(&e);
    ends_configure(&e, 1, key, false);
    ends_open(&e);
    ends_wait(&e, ends_all_up, "all links up");
    assert_int_equal(channel_data_failover(e.a.ch), -ENOTCONN);
    exchange(&e);
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
    exchange_in_the_end(e);
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
        exchange(e);
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
    exchange(e);
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
    exchange(e);
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
    e->b.n_data = 0;
    assert_int_equal(end_send(&e->a, 9, 100), 0);
    ends_wait(e, b_has_data, "data over path 1 at b");
    proxies_revive(net.to_a[0][1], net.to_b[0][1]);
    proxies_revive(net.to_a[1][0], net.to_b[1][0]);
    ends_wait(e, ends_all_up, "all links up");
    exchange(e);
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

// --- threads, as the daemon has them ---

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
    int64_t until = clock_boot_ns() + PATIENCE_NS;
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
        cmocka_unit_test(key_files_are_for_their_owner_only),
        cmocka_unit_test(key_files_have_a_form),
        cmocka_unit_test(derived_keys_differ_by_label_and_key),
        cmocka_unit_test(frame_parser_bounds_everything),
        cmocka_unit_test(nothing_is_sealed_twice_alike),
        cmocka_unit_test(keys_are_bound_to_their_context),
        cmocka_unit_test(hello_parser_bounds_everything),
        cmocka_unit_test(bad_addresses_are_refused),
        cmocka_unit_test(sealed_ends_meet_over_three_paths),
        cmocka_unit_test(unsealed_ends_meet_on_loopback),
        cmocka_unit_test(ends_meet_over_ipv6),
        cmocka_unit_test(large_and_small_messages_arrive_whole),
        cmocka_unit_test(back_pressure_is_felt_and_ends),
        cmocka_unit_test(another_key_is_refused),
        cmocka_unit_test(no_key_against_a_key_is_refused),
        cmocka_unit_test(another_pair_is_refused),
        cmocka_unit_test(another_protocol_is_refused),
        cmocka_unit_test(another_configuration_is_refused_until_it_is_put_right),
        cmocka_unit_test(two_primaries_refuse_each_other),
        cmocka_unit_test(garbage_on_every_port_changes_nothing),
        cmocka_unit_test(strangers_that_stay_are_shed),
        cmocka_unit_test(a_capture_finds_nothing),
        cmocka_unit_test(a_replay_is_dropped),
        cmocka_unit_test(flipped_bits_never_get_through),
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
        cmocka_unit_test(threads_share_a_channel),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
