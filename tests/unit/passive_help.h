// SPDX-License-Identifier: Apache-2.0
// Batch messages for the tests of the passive half.
#ifndef TESTS_PASSIVE_HELP_H
#define TESTS_PASSIVE_HELP_H

#include <stddef.h>
#include <stdint.h>

#include "queues/batch.h"

// Fills in type, object, offset, length, payload (size) ... of the record `seq`, and up to `limit`
// bytes of its payload.
typedef void fill_fn(void *arg, uint64_t seq, struct record *record, uint8_t *payload,
                     size_t limit);

struct message_spec {
    uint64_t session, first_seq;
    uint32_t count;
    uint64_t promised, barrier; // barrier: 0 for none
    uint64_t epoch;
    fill_fn *fill;
    void *arg;
};

// malloc'ed, sealed and valid.
void *message_make(const struct message_spec *spec, size_t *ret_size);
// A small deterministic generator; *seed must not be 0.
uint64_t help_random(uint64_t *seed, uint64_t below);

#endif
