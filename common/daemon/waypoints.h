// SPDX-License-Identifier: Apache-2.0
// The waypoint monitors of a daemon: ends with the same interface and the same waypoints share one. Each asking by itself
// would cost the waypoints, and this machine, as many questions and answers as it runs pairs.
//
// Belongs to the control thread. It is worked before the ends are, so that each of them sees all that has arrived.
#ifndef DAEMON_WAYPOINTS_H
#define DAEMON_WAYPOINTS_H

#include "common/address/waypoint.h"

struct waypoints;
struct waypoints_view; // one end's

struct waypoints *waypoints_new(void);                   // NULL: no memory, or no descriptor
struct waypoints *waypoints_free(struct waypoints *all); // after the views; NULL-safe; NULL

int waypoints_fd(const struct waypoints *all);
int64_t waypoints_deadline_ns(const struct waypoints *all);
void waypoints_work(struct waypoints *all);

// `subnets`: the pair's public addresses (see waypoint_start()). 0 or -errno.
int waypoints_join(struct waypoints *all, const char *interface, const struct ip *ips, size_t count,
                   const struct ip *subnets, size_t subnet_count, struct waypoints_view **ret_view, struct error *err);
struct waypoints_view *waypoints_leave(struct waypoints_view *view); // NULL-safe; NULL
const struct waypoint_monitor *waypoints_monitor(const struct waypoints_view *view);

// All are watched closely as long as one view wants that. Whoever begins to is given an ask at once.
void waypoints_watch(struct waypoints_view *view, bool closely);

#endif
