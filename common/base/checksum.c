// SPDX-License-Identifier: Apache-2.0
#include "common/base/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t checksum64(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

uint32_t checksum32(const void *data, size_t size)
{
    return (uint32_t)checksum64(data, size);
}
