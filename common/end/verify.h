// SPDX-License-Identifier: Apache-2.0
// The order of a verify on the active end: every range of its volumes is compared with the replica, and nothing is sent.
// Pure; service_verify.c carries the steps out through queues/updates and brings the passive end's answers back.
//
// A check holds its range from its read until its record has its seq, and the passive end compares where that record
// stands in the stream: so each block is compared at one position, whatever the application writes meanwhile, and what
// differs there differs. What follows in the stream is applied to both alike. The pass ends under any load: it goes over
// each volume once.
#ifndef END_VERIFY_H
#define END_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "queues/batch.h"
#include "queues/record.h"

#define VERIFY_RANGE      (1024U * 1024)      // bytes of one check
#define VERIFY_WINDOW     16                  // checks under way
#define VERIFY_ANSWER_NS  INT64_C(2000000000) // a check that was applied and not answered is asked again
#define VERIFY_RANGES_MAX 64                  // differing ranges that are listed; all are counted
_Static_assert(VERIFY_RANGE / CHECK_BLOCK_SIZE <= CHECK_BLOCKS_MAX, "one answer holds it");

struct verify_range {
    uint16_t object;
    uint64_t offset, length; // of whole CHECK_BLOCK_SIZEs, but at a volume's end
};

struct verify_result {
    uint64_t objects;         // mask: volumes of this pass
    uint64_t differing;       // mask: those of them in which something differs
    uint64_t compared, total; // bytes
    uint64_t differing_bytes;
    uint64_t unread_bytes;        // that this end could not read: nothing is known of them
    uint64_t first_seq, last_seq; // between which the blocks were compared; 0: none
    int64_t began_ns;
    unsigned range_count;
    bool more; // than are listed
    struct verify_range ranges[VERIFY_RANGES_MAX]; // by volume and offset, neighbours joined
};

struct verify;

struct verify *verify_new(const uint64_t *sizes, unsigned volumes);
struct verify *verify_free(struct verify *verify);

// Starts over the volumes of the mask; 0 stops.
void verify_start(struct verify *verify, uint64_t objects, int64_t now_ns);
bool verify_running(const struct verify *verify);
// True once after the last answer came in: what was found.
bool verify_finished(struct verify *verify, struct verify_result *ret_result);
void verify_result(const struct verify *verify, struct verify_result *ret_result); // so far
// Bytes compared, or given up because they cannot be read; of all.
void verify_progress(const struct verify *verify, uint64_t *ret_done, uint64_t *ret_total, int64_t *ret_began_ns);

struct verify_step {
    uint16_t object;
    uint64_t offset;
    uint32_t length;
};
// The next check that may be started now; false when it waits. It counts as started when verify_began() is told.
bool verify_next(struct verify *verify, int64_t now_ns, struct verify_step *ret_step);
void verify_began(struct verify *verify, const struct verify_step *step, int64_t now_ns);
// The check has its record (`seq`), or could not be read (0).
void verify_copied(struct verify *verify, uint16_t object, uint64_t offset, uint64_t seq);
// It could not be started after all and is to be tried again.
void verify_again(struct verify *verify, uint16_t object, uint64_t offset);
// The passive end's answer to the check whose record was `seq`.
void verify_answer(struct verify *verify, uint16_t object, uint64_t seq, uint64_t offset, uint32_t blocks,
                   const uint8_t *bitmap);
// How far the passive end has applied.
void verify_applied(struct verify *verify, uint64_t applied, int64_t now_ns);

#endif
