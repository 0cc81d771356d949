// SPDX-License-Identifier: Apache-2.0
// The ends that a daemon runs, and their turns: one look at what is ready, then each end that is ready or due works once:
// all take in what has come, and then all look at their timers.
// The waypoints, which the ends share as they do a closer, come first.
//
// Belongs to the control thread.
#ifndef DAEMON_ENDS_H
#define DAEMON_ENDS_H

#include "common/base/closer.h"
#include "common/daemon/endpoint.h"
#include "common/daemon/waypoints.h"

struct ends;

struct ends *ends_new(void);               // NULL: no memory, or no descriptor
struct ends *ends_free(struct ends *ends); // with the ends; NULL-safe; NULL

int ends_fd(const struct ends *ends); // an epoll descriptor
int64_t ends_deadline_ns(struct ends *ends);
void ends_work(struct ends *ends);

struct waypoints *ends_waypoints(struct ends *ends);
struct closer *ends_closer(struct ends *ends);
// The end is theirs from here on; it works for the first time in the next turn. On failure it is still the caller's.
int ends_add(struct ends *ends, struct endpoint *endpoint, struct error *err);
size_t ends_count(const struct ends *ends);
struct endpoint *ends_at(const struct ends *ends, size_t i);
struct endpoint *ends_find(const struct ends *ends, const char *pair); // NULL: none

#endif
