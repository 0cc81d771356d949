// SPDX-License-Identifier: Apache-2.0
// common/base/mac: BLAKE2s as the references have it (RFC 7693, appendix B, and the reference
// implementation's known answers for keyed hashing), and codes that change with every bit of
// message and key.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/mac.h"

static void assert_hex(const uint8_t *data, size_t size, const char *hex)
{
    char text[65];
    for (size_t i = 0; i < size; i++)
        snprintf(text + 2 * i, 3, "%02x", data[i]);
    assert_string_equal(text, hex);
}

static void hash_of_abc_is_that_of_the_rfc(void **state)
{
    uint8_t out[32];
    mac_blake2s(NULL, 0, "abc", 3, out, sizeof(out));
    assert_hex(out, 32, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    mac_blake2s(NULL, 0, NULL, 0, out, sizeof(out));
    assert_hex(out, 32, "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9");
}

static void keyed_hash_gives_the_known_answers(void **state)
{
    static const struct {
        size_t size;
        const char *answer;
    } known[] = {
        {0, "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49"},
        {1, "40d15fee7c328830166ac3f918650f807e7e01e177258cdc0a39b11f598066f1"},
        {64, "8975b0577fd35566d750b362b0897a26c399136df07bababbde6203ff2954ed4"},
        {255, "3fb735061abc519dfe979e54c1ee5bfad0a9d858b3315bad34bde999efd724dd"},
    };
    uint8_t key[MAC_KEY_SIZE], data[255], out[32];
    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)i;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        mac_blake2s(key, sizeof(key), data, known[i].size, out, sizeof(out));
        assert_hex(out, 32, known[i].answer);
    }
}

// The reference's self test: a hash over hashes of many lengths, plain and keyed.
static void sequence(uint8_t *out, size_t size, uint32_t seed)
{
    uint32_t a = 0xDEAD4BAD * seed, b = 1;
    for (size_t i = 0; i < size; i++) {
        uint32_t t = a + b;
        a = b;
        b = t;
        out[i] = (uint8_t)(t >> 24);
    }
}

static void self_test_of_the_rfc_passes(void **state)
{
    static const size_t outs[] = {16, 20, 28, 32};
    static const size_t ins[] = {0, 3, 64, 65, 255, 1024};
    uint8_t all[4 * 6 * 2 * 32], in[1024], key[32], total[32];
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_LEN(outs); i++) {
        for (size_t j = 0; j < ARRAY_LEN(ins); j++) {
            sequence(in, ins[j], (uint32_t)ins[j]);
            mac_blake2s(NULL, 0, in, ins[j], all + used, outs[i]);
            used += outs[i];
            sequence(key, outs[i], (uint32_t)outs[i]);
            mac_blake2s(key, outs[i], in, ins[j], all + used, outs[i]);
            used += outs[i];
        }
    }
    mac_blake2s(NULL, 0, all, used, total, sizeof(total));
    assert_hex(total, 32, "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe");
}

static void every_bit_counts(void **state)
{
    uint8_t key[MAC_KEY_SIZE] = {7}, data[40] = {9}, right[MAC_SIZE], other[MAC_SIZE];
    mac_compute(key, data, sizeof(data), right);
    for (size_t bit = 0; bit < 8 * sizeof(data); bit++) {
        data[bit / 8] ^= (uint8_t)(1U << bit % 8);
        mac_compute(key, data, sizeof(data), other);
        data[bit / 8] ^= (uint8_t)(1U << bit % 8);
        assert_false(mac_equal(right, other));
    }
    for (size_t bit = 0; bit < 8 * sizeof(key); bit++) {
        key[bit / 8] ^= (uint8_t)(1U << bit % 8);
        mac_compute(key, data, sizeof(data), other);
        key[bit / 8] ^= (uint8_t)(1U << bit % 8);
        assert_false(mac_equal(right, other));
    }
    mac_compute(key, data, sizeof(data), other);
    assert_true(mac_equal(right, other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash_of_abc_is_that_of_the_rfc),
        cmocka_unit_test(keyed_hash_gives_the_known_answers),
        cmocka_unit_test(self_test_of_the_rfc_passes),
        cmocka_unit_test(every_bit_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
