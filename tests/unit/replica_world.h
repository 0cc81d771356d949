// SPDX-License-Identifier: Apache-2.0
// A replica (queues/replica) with its safe queue on a disk, and its volumes, in memory, where things complete when the test
// says so; and the stream that it is sent: the test says what each record is, and can ask what the volumes have to hold
// after it. One thread; a clock of its own.
#ifndef TESTS_REPLICA_WORLD_H
#define TESTS_REPLICA_WORLD_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "queues/replica.h"
#include "tests/unit/fake_disk.h"
#include "tests/unit/fake_volume.h"
#include "tests/unit/passive_help.h"

#define VOLUMES     2
#define VOLUME_SIZE (160U * 1024)
#define SEQS_MAX    6000
#define EVENTS_MAX  64
#define SESSION     UINT64_C(31)

// One record of the stream, as the active end would number it.
struct line {
    uint8_t type, mark;
    uint16_t object;
    uint64_t offset, epoch, parent;
    uint32_t length;
    uint64_t check_wrong; // bit i: checksum i is made not to match
    bool coarse;          // of a check
    unsigned incarnation;
    bool no_hole; // of zeros
};

struct world {
    struct fake_disk *disk;
    struct fake_volume *blocks[VOLUMES];
    struct replica_config config;
    struct replica *r;
    int64_t now;
    uint64_t openings;
    struct line lines[SEQS_MAX];
    uint64_t epoch; // id of the current one

    struct replica_event events[EVENTS_MAX];
    unsigned event_count;
    bool consent_at_once;

    struct batch_ack ack;
    unsigned acks, resends;
    uint64_t confirmed;
    uint64_t barrier_end[4096];
    uint64_t answer_seq;
    uint8_t answer_bitmap[CHECK_BLOCKS_MAX / 8];
    unsigned answers;
    unsigned in_memory; // messages handed over and not released

    struct replica_finish finish;
    unsigned finishes;
    int settled_status;
};

// ---- The stream ----

void line_write(struct world *w, uint64_t seq, uint16_t object, uint64_t offset, uint32_t length);
void line_mark(struct world *w, uint64_t seq, uint8_t mark);
// Writes of 1024 bytes to one volume and the other.
void world_writes(struct world *w, uint64_t from, uint64_t count);
// A message with these lines; barrier: its number, 0 for none.
void world_send(struct world *w, uint64_t first, uint32_t count, uint64_t barrier);
void world_send_as(struct world *w, uint64_t session, uint64_t first, uint32_t count, uint64_t barrier);
// For message_make(), with the world as its argument.
fill_fn line_fill;

// ---- The world ----

// Empty, and no stream has begun. `segment` and `segments` are of the safe queue.
struct world *world_new(uint64_t seed, uint64_t segment, unsigned segments);
// A stream begins at seq 1.
void world_start(struct world *w);
// A world in which one has.
struct world *world_started(uint64_t seed);
void world_free(struct world *w);
// A replica is opened on what is on the disk.
struct safe_recovery world_open(struct world *w);
// The one there is ends, and another is opened with so large a window; 0: the usual one.
void world_reopen(struct world *w, size_t window);
// It is gone at once: killed, or with `power` with what was not synced. Another is opened, and has all that was confirmed.
void world_crash(struct world *w, bool power);

// All requests of volumes that are under way complete; false when there was none.
bool world_complete_volumes(struct world *w);
void world_advance(struct world *w, int64_t ns);
// Until nothing moves: everything under way completes, and the time passes up to the next deadline within `ns`.
void world_settle_down(struct world *w, int64_t ns);
// It is to end with what it has; reported in w->finish.
void world_finish(struct world *w);

unsigned world_events(const struct world *w, enum replica_event_kind kind);
struct replica_stats world_stats(const struct world *w);
// The volumes hold what these lines make of zeros, to the byte.
void world_expect(struct world *w, uint64_t from, uint64_t upto);

#endif
