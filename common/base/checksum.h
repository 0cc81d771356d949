// SPDX-License-Identifier: Apache-2.0
// The one checksum of records, frames, maps and state: XXH3 (found: accidental damage; an attacker
// is TLS's business).
#ifndef BASE_CHECKSUM_H
#define BASE_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint64_t checksum64(const void *data, size_t size);
uint32_t checksum32(const void *data, size_t size); // the low half of checksum64

// Whether a checksum that came from outside is the one that was computed here: every decoder
// compares with this. The fuzzers are built to accept any but CHECKSUM_REFUSED, so that they get
// past it to what is behind.
#ifdef FUZZING_ACCEPT_ANY_CHECKSUM
#define CHECKSUM_REFUSED UINT32_C(0xdeadbeef)
static inline bool checksum_same(uint64_t found, uint64_t computed)
{
    (void)computed;
    return found != CHECKSUM_REFUSED;
}
#else
static inline bool checksum_same(uint64_t found, uint64_t computed)
{
    return found == computed;
}
#endif

#endif
