// SPDX-License-Identifier: Apache-2.0
// Tells the neighbours where a public address lives now: gratuitous ARP in request and in reply
// form, unsolicited neighbour advertisements with the override flag for IPv6. The first round is
// sent by announcer_start(), so call it right after the addresses were added; the others follow
// over ANNOUNCER_SPAN_NS, for neighbours and switches that missed it. The hardware address is read
// anew for each round.
//
// Nothing here waits: its socket is closed by `closer` (closer.h).
#ifndef ADDRESS_ANNOUNCER_H
#define ADDRESS_ANNOUNCER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/address/ip.h"
#include "common/base/closer.h"
#include "common/base/clock.h"
#include "common/base/error.h"

#define ANNOUNCER_SPAN_NS     (10 * NS_PER_S)
#define ANNOUNCER_ADDRESS_MAX 64

struct announcer;

// `count` 0 is fine: nothing to do. An interface that has no hardware address (lo) is -EOPNOTSUPP.
int announcer_start(const char *interface, const struct ip *ips, size_t count, struct closer *closer,
                    struct announcer **ret_announcer, struct error *err);
// When announcer_work() wants to be called next; INT64_MAX when all rounds are done.
int64_t announcer_deadline_ns(const struct announcer *announcer);
// Sends the round that is due, if one is. Returns the error of the last round: worth a log line,
// the next one is tried all the same.
int announcer_work(struct announcer *announcer, struct error *err);
bool announcer_done(const struct announcer *announcer);
// Stops announcing: at once, when the addresses are taken off. NULL-safe; returns NULL.
struct announcer *announcer_free(struct announcer *announcer);

#endif
