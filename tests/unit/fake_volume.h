// SPDX-License-Identifier: Apache-2.0
// A volume in memory for tests: requests complete when the test says so and in an order that the
// seed chooses; a crash loses any part of what was not flushed. Aborts when two requests that share
// a block are under way together.
#ifndef TESTS_FAKE_VOLUME_H
#define TESTS_FAKE_VOLUME_H

#include <stdbool.h>
#include <stdint.h>

#include "queues/block.h"

struct fake_volume;

struct fake_volume *fake_volume_new(uint64_t size, uint32_t block_size, uint32_t data_align,
                                    uint64_t seed);
struct fake_volume *fake_volume_free(struct fake_volume *fake);
struct block *fake_volume_of(struct fake_volume *fake);

// Completes one request, whichever; false when none has been kicked.
bool fake_volume_complete(struct fake_volume *fake);
unsigned fake_volume_active(const struct fake_volume *fake);
// Requests of these kinds (bit 1 << enum block_op) fail with -errno from now on; 0: none.
void fake_volume_fail(struct fake_volume *fake, unsigned kinds, int error);
// Power loss; requests under way are gone.
void fake_volume_crash(struct fake_volume *fake);
// The process is killed: what it wrote stays, what is under way may still happen (and does, or not,
// at once).
void fake_volume_kill(struct fake_volume *fake);
uint8_t *fake_volume_bytes(struct fake_volume *fake);
unsigned fake_volume_flushes(const struct fake_volume *fake);
unsigned fake_volume_no_holes(const struct fake_volume *fake); // zeros that were to leave no hole
unsigned fake_volume_most(const struct fake_volume *fake); // requests that were under way together

#endif
