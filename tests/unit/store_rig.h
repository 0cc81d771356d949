// SPDX-License-Identifier: Apache-2.0
// What the tests of common/store share: running requests to their end, and the tests that every
// kind of store passes.
#ifndef TESTS_STORE_RIG_H
#define TESTS_STORE_RIG_H

#include "common/store/store.h"

#define RIG_SIZE (UINT64_C(40) << 20) // of every store that the shared tests run over

// Opens or fails the test with the text.
struct store *rig_open(const struct store_config *config);
// One turn of a data thread's loop: waits (at most `timeout_ms`) until the store wants to work, and
// lets it.
void rig_turn(struct store *store, int timeout_ms);
// One request from submission to its end; returns its status.
int rig_run(struct store *store, enum block_op op, unsigned flags, uint64_t offset, uint64_t length,
            void *data);
void rig_wait(struct store *store, const bool *done);

// The shared tests. `open` gives a store of RIG_SIZE bytes that reads as zeros.
void rig_random_requests_match_a_model(struct store *store, unsigned requests);
void rig_large_request_is_whole(struct store *store);
void rig_callbacks_may_submit(struct store *store);
void rig_zero_kinds_leave_zeros(struct store *store);
void rig_free_ends_everything(struct store *store);

#endif
