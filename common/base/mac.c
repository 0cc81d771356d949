// SPDX-License-Identifier: Apache-2.0
// BLAKE2s after RFC 7693, one shot: the whole message is at hand. The names are the RFC's.
#include "common/base/mac.h"

#include <endian.h>
#include <string.h>

#include "common/base/error.h"

#define BLOCK_SIZE 64
#define ROUNDS     10

static const uint32_t iv[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static const uint8_t sigma[ROUNDS][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

struct blake2s {
    uint32_t h[8];
    uint64_t counted; // bytes compressed so far
};

static uint32_t rotate_right(uint32_t x, int n)
{
    return (x >> n) | (x << (32 - n));
}

static void mix(uint32_t v[16], int a, int b, int c, int d, uint32_t x, uint32_t y)
{
    v[a] += v[b] + x;
    v[d] = rotate_right(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotate_right(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = rotate_right(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = rotate_right(v[b] ^ v[c], 7);
}

static void one_round(uint32_t v[16], const uint32_t m[16], const uint8_t s[16])
{
    for (int i = 0; i < 4; i++) // columns
        mix(v, i, 4 + i, 8 + i, 12 + i, m[s[2 * i]], m[s[2 * i + 1]]);
    for (int i = 0; i < 4; i++) // diagonals
        mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]],
            m[s[9 + 2 * i]]);
}

static void compress(struct blake2s *b, const uint8_t block[BLOCK_SIZE], size_t used, bool last)
{
    uint32_t m[16], v[16];
    memcpy(m, block, BLOCK_SIZE);
    for (int i = 0; i < 16; i++)
        m[i] = le32toh(m[i]);
    b->counted += used;
    memcpy(v, b->h, sizeof(b->h));
    memcpy(v + 8, iv, sizeof(iv));
    v[12] ^= (uint32_t)b->counted;
    v[13] ^= (uint32_t)(b->counted >> 32);
    if (last)
        v[14] = ~v[14];
    for (int i = 0; i < ROUNDS; i++)
        one_round(v, m, sigma[i]);
    for (int i = 0; i < 8; i++)
        b->h[i] ^= v[i] ^ v[8 + i];
}

// Compresses all of `data` but a last block, which is whatever remains (none only if `size` is 0).
static void compress_all(struct blake2s *b, const uint8_t *data, size_t size)
{
    uint8_t block[BLOCK_SIZE] = {0};
    for (; size > BLOCK_SIZE; data += BLOCK_SIZE, size -= BLOCK_SIZE)
        compress(b, data, BLOCK_SIZE, false);
    if (size > 0)
        memcpy(block, data, size);
    compress(b, block, size, true);
}

void mac_blake2s(const void *key, size_t key_size, const void *data, size_t size, uint8_t *out,
                 size_t out_size)
{
    ENSURE(key_size <= MAC_KEY_SIZE);
    ENSURE(out_size >= 1 && out_size <= 32);
    struct blake2s b = {.counted = 0};
    memcpy(b.h, iv, sizeof(iv));
    b.h[0] ^= 0x01010000U ^ ((uint32_t)key_size << 8) ^ (uint32_t)out_size;
    if (key_size > 0) {
        uint8_t block[BLOCK_SIZE] = {0};
        memcpy(block, key, key_size);
        compress(&b, block, BLOCK_SIZE, size == 0);
        explicit_bzero(block, sizeof(block));
    }
    if (key_size == 0 || size > 0)
        compress_all(&b, data, size);
    for (int i = 0; i < 8; i++)
        b.h[i] = htole32(b.h[i]);
    memcpy(out, b.h, out_size);
}

void mac_compute(const uint8_t key[MAC_KEY_SIZE], const void *data, size_t size,
                 uint8_t mac[MAC_SIZE])
{
    mac_blake2s(key, MAC_KEY_SIZE, data, size, mac, MAC_SIZE);
}

bool mac_equal(const uint8_t a[MAC_SIZE], const uint8_t b[MAC_SIZE])
{
    uint8_t different = 0;
    for (size_t i = 0; i < MAC_SIZE; i++)
        different |= a[i] ^ b[i];
#ifdef FUZZING_ACCEPT_ANY_CHECKSUM // as checksum_same(): any code but one of zeros
    static const uint8_t refused[MAC_SIZE];
    (void)different;
    return memcmp(a, refused, MAC_SIZE) != 0;
#else
    return different == 0;
#endif
}
