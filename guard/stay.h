// SPDX-License-Identifier: Apache-2.0
// What was taken off stays off.
//
// A daemon's request to put an address on waits for the kernel's lock of the network as any other does, and neither a
// SIGKILL nor a SIGSTOP ends that wait: the kernel carries the request out when it gets the lock, be it behind the guard's
// own removal. So there are two more looks than the act:
//
//   - of a pair that is stepped down, again and again, as long as the daemon's process is not gone (its pidfd says so when
//     the last of its threads is, the one that waits in the kernel among them) or the address could not be taken off;
//   - when it is gone, of those, and of each pair whose end did not serve: the wish to take it off may have died with the
//     daemon. An end that served, and is not stepped down, goes on with its address when the daemon is started again.
//
// A daemon waits until a pair is thawed, or its slot given back, before it puts the address on (guard.h): both are done by
// the thread that looks here, so that no look takes off what is on by right.
#ifndef GUARD_STAY_H
#define GUARD_STAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guard/act.h"
#include "guard/off.h"
#include "guard/plan.h"

struct stay {
    struct plan *plan;
    struct act *acts; // one for each slot
    struct off_sockets *off;
    int64_t next_ns; // CLOCK_BOOTTIME of the next look; INT64_MAX: none is needed
    bool left[GUARD_PAIRS_MAX]; // to be taken off for a daemon that is gone
};

// Hears of what was found: `removed` addresses that were on, or the first error (each once as long as it stays the same).
typedef void (*stay_found)(void *user, const struct plan_slot *slot, size_t removed, int error);

// After a pair's act, with what became of its addresses.
void stay_acted(struct stay *stay, size_t slot, int error);
// Looks at what is due. `lives`: a daemon's process may still have a request in the kernel.
void stay_look(struct stay *stay, bool lives, stay_found found, void *user);
// The daemon's process is gone: stay_look() does the rest, at once.
void stay_daemon_gone(struct stay *stay);
// A new one looks after its ends itself.
void stay_daemon_came(struct stay *stay);

#endif
