// SPDX-License-Identifier: Apache-2.0
// The order of a resync on the active end: which range is checked or sent next. Pure; the front thread carries the
// steps out through queues/updates, and brings the passive end's answers back.
//
// Of each volume: a begin mark, then checks of the ranges that its map says may differ, from the front to the end, several
// under way; for each answer the blocks that differ are sent; when every range is done, the end mark. Where much is equal,
// ranges are first checked coarsely, and again by block only when they differ. It ends under any write load: it goes over the volume once, and what is written meanwhile travels in the stream by itself. What lies
// behind it is settled in time and leaves the map: who begins again goes on with what is left.
#ifndef END_RESYNC_H
#define END_RESYNC_H

#include <stdbool.h>
#include <stdint.h>

#include "queues/batch.h"
#include "queues/record.h"

#define RESYNC_RANGE      (1024U * 1024) // bytes of one check
#define RESYNC_WINDOW     128            // checks whose answer or chunks are not through,
#define RESYNC_AHEAD      (128 * RESYNC_RANGE) // and bytes of them
#define RESYNC_COARSE_LEAST (32U * 1024) // bytes of a range that is checked coarsely first
#define RESYNC_CHUNK_MAX  (256U * 1024)  // bytes of one chunk
#define RESYNC_ANSWER_NS  INT64_C(2000000000) // a check that was applied and not answered is asked again
_Static_assert(RESYNC_RANGE / CHECK_BLOCK_SIZE <= CHECK_BLOCKS_MAX, "one answer holds it");

struct resync;

enum resync_step_kind { RESYNC_BEGIN, RESYNC_CHECK, RESYNC_CHUNK, RESYNC_END };
struct resync_step {
    enum resync_step_kind kind;
    uint16_t object;
    uint64_t offset;
    uint32_t length;
    bool coarse; // of a check: a sum for each CHECK_COARSE_SIZE
};

// What may differ, by object. next(): the first range at or behind `from`, at most `length_max` bytes, whole
// CHECK_BLOCK_SIZEs but at the volume's end; false when there is none. bytes(): how many there are at or behind `from`.
struct resync_map {
    bool (*next)(void *user, uint16_t object, uint64_t from, uint64_t length_max, uint64_t *ret_offset,
                 uint64_t *ret_length);
    uint64_t (*bytes)(void *user, uint16_t object, uint64_t from);
    void *user;
};

// Without a map every volume is gone over as a whole.
struct resync *resync_new(const uint64_t *sizes, unsigned volumes, const struct resync_map *map);
struct resync *resync_free(struct resync *resync);

// Starts over the volumes of the mask; 0 stops.
void resync_start(struct resync *resync, uint64_t objects, int64_t now_ns);
bool resync_running(const struct resync *resync);

// The next step that may be started now; false when it waits. The step counts as started when resync_began() is told.
bool resync_next(struct resync *resync, int64_t now_ns, struct resync_step *ret_step);
void resync_began(struct resync *resync, const struct resync_step *step, int64_t now_ns);
// A check or chunk has its record (`seq`), or could not be read (`seq` 0: it is reported by the caller and skipped).
void resync_copied(struct resync *resync, uint16_t object, uint64_t offset, uint32_t length, uint64_t seq);
// It could not be started after all and is to be tried again.
void resync_again(struct resync *resync, uint16_t object, uint64_t offset);
// The passive end's answer to the check whose record was `seq`.
void resync_answer(struct resync *resync, uint16_t object, uint64_t seq, uint64_t offset, uint32_t blocks,
                   const uint8_t *bitmap);
// How far the passive end has applied: what it has applied and not answered for a while is asked again.
void resync_applied(struct resync *resync, uint64_t applied, int64_t now_ns);

// Everything of the volume below it has been gone over, and has its seq: UINT64_MAX when the volume is not, or no more,
// to be resynced by this run.
uint64_t resync_floor(const struct resync *resync, uint16_t object);

struct resync_progress {
    uint64_t done, total; // bytes of all volumes of this run that may differ; total as looked up last
    uint64_t sent;        // bytes that differed
    uint64_t unread;      // bytes that could not be read
    int64_t began_ns;
};
void resync_progress(const struct resync *resync, struct resync_progress *ret_progress);

#endif
