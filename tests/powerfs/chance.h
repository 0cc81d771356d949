// SPDX-License-Identifier: Apache-2.0
// Chance that can be repeated: a small generator (xorshift64*) driven by a seed.
#ifndef POWERFS_CHANCE_H
#define POWERFS_CHANCE_H

#include <stdint.h>

// A number below `limit` (not zero). *state must not be zero and never becomes it.
static inline uint64_t chance(uint64_t *state, uint64_t limit)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * 0x2545F4914F6CDD1DULL >> 33) % limit;
}

#endif
