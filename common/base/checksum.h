// SPDX-License-Identifier: Apache-2.0
// The one checksum of records, frames, maps and state: XXH3 (found: accidental damage; an attacker is TLS's business).
#ifndef BASE_CHECKSUM_H
#define BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t checksum64(const void *data, size_t size);
uint32_t checksum32(const void *data, size_t size); // the low half of checksum64

#endif
