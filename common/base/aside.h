// SPDX-License-Identifier: Apache-2.0
// A thread beside an event loop, for calls that may take long: one job at a time, whose end the loop hears of.
//
// Belongs to one thread. While a job runs, what was given to it belongs to the job.
#ifndef BASE_ASIDE_H
#define BASE_ASIDE_H

#include <stdbool.h>

struct aside;

// `name` (at most 15 characters) is the thread's. 0 or -errno.
int aside_new(const char *name, struct aside **ret_aside);
// Waits for the job that runs. NULL-safe; NULL.
struct aside *aside_free(struct aside *aside);

int aside_fd(const struct aside *aside); // readable once a job has ended
// Whether a job is under way, or has ended and was not taken in yet: no other one may be started.
bool aside_busy(const struct aside *aside);
void aside_start(struct aside *aside, void (*job)(void *arg), void *arg);
// True once for each job that has ended: what was given to it is the caller's again.
bool aside_take(struct aside *aside);

#endif
