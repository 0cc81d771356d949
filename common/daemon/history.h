// SPDX-License-Identifier: Apache-2.0
// The steps of an end's life, for `pairctl history`: the newest HISTORY_MAX, in memory and, as far as they got there, in
// a file of the state directory, so that a restarted daemon still knows them. The file is best effort: a slot that does
// not carry its own checksum is not shown.
#ifndef DAEMON_HISTORY_H
#define DAEMON_HISTORY_H

#include "common/control/steps.h"

#define HISTORY_MAX STEPS_MAX

struct history;

// `path`: of the file; made if it is not there. A file that cannot be used is done without. Never fails but for memory.
struct history *history_open(const char *path);
struct history *history_free(struct history *history); // NULL-safe

// One thread (the control loop's) owns the ring. Returns the slot's event, to be filled; then history_write().
struct status_event *history_add(struct history *history);
// One of the newest few that says the same in the same words; NULL: none. It may be counted up, and history_write() then.
struct status_event *history_same(struct history *history, const char *text);
// It is complete: queued for the file, which a thread of its own writes.
void history_write(struct history *history, const struct status_event *event);
const struct status_event *history_newest(const struct history *history); // NULL: none
// Copies at most `limit` of the newest, oldest first.
size_t history_list(const struct history *history, struct status_event *events, size_t limit);

#endif
