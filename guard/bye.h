// SPDX-License-Identifier: Apache-2.0
// The goodbye of a passive daemon that has died: its peer hears at once that nobody holds a grant any more, and need not
// wait for it to run out. The daemon has sealed it, for its run alone (common/address/inquiry.h); it lies in the plan as long
// as it is true, and is destroyed there before the daemon opens an epoch.
#ifndef GUARD_BYE_H
#define GUARD_BYE_H

#include "guard/plan.h"

// One for each family; -1 where there is none.
struct bye_sockets {
    int v4, v6;
};

void bye_open(struct bye_sockets *ret_sockets);
void bye_close(struct bye_sockets *sockets);
// Says what the slot holds, if anything, and only once. For a daemon whose process has ended. Allocates nothing and does
// not block. Returns whether there was something to say.
bool bye_say(const struct bye_sockets *sockets, struct plan_slot *slot);

#endif
