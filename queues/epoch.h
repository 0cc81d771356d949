// SPDX-License-Identifier: Apache-2.0
// Epochs (the reigns in which seqs are given) and the history of an end: which epochs led to the
// one it is in. Two ends compare their histories when they meet, by ancestry and never by number.
//
// A position is (epoch id, seq) of the last record that somebody holds. It lies *on the line* of a
// history when the stream that leads to the history's current epoch went through it. Where every
// step from there on is known record by record, the stream can in principle be resumed; where a
// queue was lost or two lines were merged, only the intent map knows the difference.
//
// Invariants of a history (checked by history_invalid(), also for one that came from outside): at
// most HISTORY_EPOCHS_MAX epochs, parents in front of children, the last one is the current one;
// every other has a child in the history; ids differ and are not 0; number rises from parent to
// child, and first_seq from the first parent; a parent that is missing was dropped for lack of room (then `truncated` is set)
// and only the oldest ones are dropped.
#ifndef QUEUES_EPOCH_H
#define QUEUES_EPOCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EPOCH_PARENTS_MAX   2
#define EPOCH_SEQ_UNKNOWN   UINT64_MAX // the fork's position in the parent was lost with a queue
#define EPOCH_ENCODED_SIZE  64         // the payload of a RECORD_EPOCH
#define HISTORY_EPOCHS_MAX  64
#define HISTORY_ENCODED_MAX (16 + HISTORY_EPOCHS_MAX * EPOCH_ENCODED_SIZE)

enum epoch_opener { EPOCH_BY_PRIMARY = 1, EPOCH_BY_SECONDARY };

enum epoch_reason {
    EPOCH_FIRST_START = 1,
    EPOCH_TAKEOVER,
    EPOCH_ALONE,
    EPOCH_SWITCH,
    EPOCH_LOST_QUEUE,
    EPOCH_RESOLVE,
    EPOCH_REASON_END,
};

struct epoch_parent {
    uint64_t id;
    uint64_t seq; // the last one of the parent that is on the child's line; EPOCH_SEQ_UNKNOWN
};

struct epoch {
    uint32_t number; // for people; the largest of its parents' plus one
    uint64_t id;     // random, never 0
    uint32_t parents;
    // [0] is the line that goes on. [1], after a resolve, is the line that was given up: positions
    // there are on the line by map only.
    struct epoch_parent parent[EPOCH_PARENTS_MAX];
    uint64_t first_seq; // of its opening's record
    enum epoch_opener opened_by;
    enum epoch_reason reason;
    uint64_t time; // CLOCK_REALTIME ns, for people
};

struct epoch_history {
    uint32_t count; // 0: this end has never followed or led anything
    bool truncated;
    struct epoch epochs[HISTORY_EPOCHS_MAX]; // oldest first
};

enum history_line {
    OFF_LINE,       // not on the line, or older than the history goes
    ON_LINE_BY_MAP, // on it, but the records that follow are not known: the map has the difference
    ON_LINE_RESUME, // on it, and every step that follows is: resume if the records are still there
};

// Fixed-size; `out` has room for EPOCH_ENCODED_SIZE bytes.
void epoch_encode(const struct epoch *epoch, uint8_t *out);
// NULL and *ret_epoch set, or the text of the first rule that the bytes break.
const char *epoch_decode(const void *data, size_t size, struct epoch *ret_epoch);
// The same for a struct. It says nothing about a history around it.
const char *epoch_invalid(const struct epoch *epoch);

const char *epoch_reason_name(enum epoch_reason reason); // "takeover"
const char *epoch_opener_name(enum epoch_opener opener); // "primary"

// Whether the end that served in `before` has opened `epoch` in its place, by going alone: right behind the last seq that it
// had given, in the same queue.
bool epoch_goes_on(const struct epoch *epoch, const struct epoch *before);

// `out` has room for HISTORY_ENCODED_MAX bytes. Returns the size.
size_t history_encode(const struct epoch_history *history, uint8_t *out);
// NULL and *ret_history set, or the text of the first rule that the bytes break (of
// history_invalid(), too).
const char *history_decode(const void *data, size_t size, struct epoch_history *ret_history);
const char *history_invalid(const struct epoch_history *history);

const struct epoch *history_current(const struct epoch_history *history); // NULL when empty
const struct epoch *history_find(const struct epoch_history *history,
                                 uint64_t id); // NULL when not in it
bool history_contains(const struct epoch_history *history, uint64_t id);

// Up to which seq a position in epoch `id` is on the line that leads to the current epoch, by
// whatever means; UINT64_MAX
// (= EPOCH_SEQ_UNKNOWN) where any is. False: the epoch is not in the history, *ret_seq is
// untouched.
bool history_fork(const struct epoch_history *history, uint64_t id, uint64_t *ret_seq);
enum history_line history_line_has(const struct epoch_history *history, uint64_t id, uint64_t seq);

// Makes `epoch` the current one; its only parent must be the current one (none when the history is
// empty). NULL, or the text of the rule that this would break, and then the history is as it was.
// The oldest epoch makes room.
const char *history_append(struct epoch_history *history, const struct epoch *epoch);
// Makes `epoch` the current one, with the current ones of both histories as its parents
// (`history`'s is the line that goes on), and takes over what `other` knows. NULL or the broken
// rule, as above.
const char *history_merge(struct epoch_history *history, const struct epoch_history *other,
                          const struct epoch *epoch);

#endif
