// SPDX-License-Identifier: Apache-2.0
// common/channel: what is on the wire and in a key's file: keys, frames, seals and hellos, with every kind of damage.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/keyfile.h"
#include "common/channel/channel.h"
#include "common/channel/frame.h"
#include "common/channel/seal.h"
#include "tests/unit/channel_keys.h"

static void key_files_are_for_their_owner_only(void **state)
{
    char path[KEYS_PATH_SIZE];
    struct error err = {0};
    struct keyfile a = {0}, b = {0};
    struct stat st;
    keys_path("key", path);
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
    char path[KEYS_PATH_SIZE];
    struct keyfile k;
    keys_path("bad", path);
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
    };
    return cmocka_run_group_tests(tests, keys_setup, keys_teardown);
}
