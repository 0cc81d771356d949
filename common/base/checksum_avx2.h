// SPDX-License-Identifier: Apache-2.0
// Private to checksum.c.
#ifndef BASE_CHECKSUM_AVX2_H
#define BASE_CHECKSUM_AVX2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool checksum_avx2_usable(void);
uint64_t checksum64_avx2(const void *data, size_t size);

#endif
