// SPDX-License-Identifier: Apache-2.0
// Watches the waypoints of a public network: addresses outside the pair that answer while this end
// is not cut off.
//
// An address on the link is asked by ARP or neighbour solicitation and by ICMP echo, each time both
// (a machine that filters echoes still counts); an address beyond a router by ICMP echo alone. So is
// one on the link while it is not watched closely and has answered the last echo: an answer to a
// neighbour question is heard by everybody on this machine who watches, one to an echo only by who
// has asked. All times are CLOCK_BOOTTIME ns.
//
// Invariants: an answer proves the network at the time when its ask was *sent*, never at the time
// when it was read. The receive time is the kernel's, so a loop that is scheduled late still sees
// that the answer came in time. An echo names its ask; an ARP or neighbour answer does not, and is
// taken for the oldest ask that is out.
#ifndef ADDRESS_WAYPOINT_H
#define ADDRESS_WAYPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/address/ip.h"
#include "common/base/clock.h"
#include "common/base/error.h"

#define WAYPOINT_MAX      16
#define WAYPOINT_CLOSE_NS (50 * NS_PER_MS)  // asked so often while watched closely
#define WAYPOINT_CALM_NS  (500 * NS_PER_MS) // and otherwise
#define WAYPOINT_GAP_NS   (100 * NS_PER_MS) // a longer time without an answer is a gap
#define WAYPOINT_NEVER    INT64_MIN

struct waypoint_monitor;

struct waypoint_status {
    struct ip ip;
    bool on_link;
    int64_t sent_ns;     // when the newest answered ask was sent; WAYPOINT_NEVER before the first
    int64_t answered_ns; // when an answer was last received
    uint64_t asks;
    uint64_t answers;
};

// `subnets` (the pair's public addresses) tells what is on the link besides the interface's own
// addresses; may be empty. The interface may come and go; a missing one is tried again with each
// ask (start fails only on bad arguments or when sockets are refused to us at all).
int waypoint_start(const char *interface, const struct ip *ips, size_t count,
                   const struct ip *subnets, size_t subnet_count,
                   struct waypoint_monitor **ret_monitor, struct error *err);
// Further public addresses; those that are known already change nothing.
int waypoint_add_subnets(struct waypoint_monitor *monitor, const struct ip *subnets, size_t count, struct error *err);
struct waypoint_monitor *waypoint_free(struct waypoint_monitor *monitor); // NULL-safe; NULL

int waypoint_fd(const struct waypoint_monitor *monitor);
int64_t waypoint_deadline_ns(const struct waypoint_monitor *monitor);
// Takes in everything that has arrived, then sends the asks that are due.
void waypoint_work(struct waypoint_monitor *monitor);
// Every 50 ms (`closely`) or every 500 ms. Becoming close asks at the next waypoint_work(), which
// is due at once.
void waypoint_watch(struct waypoint_monitor *monitor, bool closely);
bool waypoint_close(const struct waypoint_monitor *monitor);
// The next ask is due at once.
void waypoint_ask_now(struct waypoint_monitor *monitor);

size_t waypoint_count(const struct waypoint_monitor *monitor);
// Of waypoint `i` (< count).
void waypoint_status(const struct waypoint_monitor *monitor, size_t i,
                     struct waypoint_status *ret_status);
// Over all waypoints: when the newest answered ask was sent, when an answer was last received, or
// WAYPOINT_NEVER.
int64_t waypoint_sent_ns(const struct waypoint_monitor *monitor);
int64_t waypoint_answered_ns(const struct waypoint_monitor *monitor);
// Since when answers (of any waypoint, and within WAYPOINT_GAP_NS of their ask) have come without a
// gap of more than WAYPOINT_GAP_NS, up to `now_ns`; INT64_MAX when there is a gap now. Meaningful
// only while watched closely. Call waypoint_work() first.
int64_t waypoint_unbroken_since_ns(const struct waypoint_monitor *monitor, int64_t now_ns);
// Why the last ask could not be sent, or "".
// Which is known once a thread beside has looked at the interface.
const char *waypoint_problem(const struct waypoint_monitor *monitor);

#endif
