// SPDX-License-Identifier: Apache-2.0
#include "common/base/checksum.h"

#include <stdatomic.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/checksum_avx2.h"

// Below this the wider build gains nothing: XXH3 itself has a short path.
#define LONG_BYTES 512

uint64_t checksum64(const void *data, size_t size)
{
    // 0: not asked yet, 1: no, 2: yes. Whoever comes at the same time finds the same answer.
    static atomic_int avx2;
    if (size < LONG_BYTES)
        return XXH3_64bits(data, size);
    int usable = atomic_load_explicit(&avx2, memory_order_relaxed);
    if (usable == 0) {
        usable = checksum_avx2_usable() ? 2 : 1;
        atomic_store_explicit(&avx2, usable, memory_order_relaxed);
    }
    return usable == 2 ? checksum64_avx2(data, size) : XXH3_64bits(data, size);
}

uint32_t checksum32(const void *data, size_t size)
{
    return (uint32_t)checksum64(data, size);
}
