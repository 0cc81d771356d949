// SPDX-License-Identifier: Apache-2.0
// The updates of an active end (queues/updates) with an unsafe queue and two volumes whose requests complete when the test
// says so. The test asks, completes, and looks at what was answered, numbered and told.
#ifndef TESTS_UPDATES_FIXTURE_H
#define TESTS_UPDATES_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "queues/updates.h"
#include "tests/unit/fake_block.h"

#define VOLUMES     2
#define VOLUME_SIZE (256 * 1024)
#define REQUESTS    64
#define PAYLOAD_MAX (64 * 1024)

struct fixture;

struct request {
    struct update update; // first
    struct fixture *f;
    bool busy;
    uint64_t arrival;
    uint64_t flush_seq;  // numbered when it arrived as a flush
    unsigned syncs_seen; // syncs of its volume submitted by then
    uint64_t seq;        // its record's; 0 while it has none
    int answers, status;
};

struct fixture {
    struct unsafe *unsafe;
    struct updates *updates;
    struct fake_block blocks[VOLUMES];
    uint8_t data[VOLUMES][VOLUME_SIZE];
    uint8_t replica[VOLUMES][VOLUME_SIZE];
    uint8_t undefined[VOLUMES][VOLUME_SIZE];
    struct request requests[REQUESTS];
    enum updates_mode mode;
    uint64_t durable, replayed, arrivals;
    uint64_t last_arrival[VOLUMES][VOLUME_SIZE / 512]; // of the newest update submitted to the store
    unsigned barriers, answered;
    unsigned events[UPDATES_EVENT_COPIED + 1];
    struct updates_event last_event, last_copied;
    enum unsafe_level level;
    int map_says; // before_write
    bool drained, recovered;
    uint64_t random;
};

// Paired, with one peer at seq 0; its store's blocks are of 4096 bytes for volume 0, and of one for volume 1.
struct fixture *fixture_new(enum updates_mode mode, uint64_t ring_bytes);
// Completes everything first.
void fixture_free(struct fixture *f);
// As the daemon's end does it: the updates and the queue are gone, whatever is at the stores. Others may take their place.
void fixture_drop(struct fixture *f);
// Updates for the queue that is there, closed and without volumes.
void fixture_updates(struct fixture *f, enum updates_mode mode);
// The request at this place of those that are at the volume's store.
void fixture_finish(struct fixture *f, unsigned volume, unsigned index, int status);
// Until nothing is at any store.
void fixture_complete(struct fixture *f);
// The peer confirms.
void fixture_durable(struct fixture *f, uint64_t seq);
// As received from the guest, behind bytes that are not of the payload; the chunk for its update.
uint64_t fixture_chunk(struct fixture *f, const void *payload, uint32_t size);

// Requests of a guest. A write's bytes tell which write it was.
void request_write(struct fixture *f, struct request *r, uint16_t object, uint64_t offset, uint32_t length, unsigned flags);
void request_flush(struct fixture *f, struct request *r, uint16_t object);
void request_submit(struct fixture *f, struct request *r, enum update_op op, uint16_t object, uint64_t offset,
                    uint32_t length, unsigned flags);
// All but the submission.
void request_prepare(struct fixture *f, struct request *r, enum update_op op, uint16_t object, uint64_t offset,
                     uint32_t length, unsigned flags);
// What a prepared update calls: counts.
void request_answered(struct update *update, int status);

#endif
