// SPDX-License-Identifier: Apache-2.0
// A set of the blocks (SALVAGE_BLOCK bytes) of one volume that takes memory only where it has members: 4 KiB for each
// 128 MiB that are touched, and 8 bytes for each that is not.
#ifndef QUEUES_SALVAGE_SET_H
#define QUEUES_SALVAGE_SET_H

#include <stdbool.h>
#include <stdint.h>

struct salvage_set;

struct salvage_set *salvage_set_new(uint64_t blocks); // NULL: no memory
struct salvage_set *salvage_set_free(struct salvage_set *set);
// Adds [first, end), which lies in the volume. -ENOMEM: nothing, or only a part, was added.
int salvage_set_add(struct salvage_set *set, uint64_t first, uint64_t end);
// The first run of [first, end) whose blocks are (`in`) or are not in the set. False: there is none.
bool salvage_set_next(const struct salvage_set *set, bool in, uint64_t first, uint64_t end,
                      uint64_t *ret_first, uint64_t *ret_end);
uint64_t salvage_set_count(const struct salvage_set *set); // blocks in it

#endif
