// SPDX-License-Identifier: Apache-2.0
// What the guard does for one pair, in parts. act_prepare() opens and makes everything; the other
// parts allocate nothing and wait for no disk. Each part is tried whatever became of the ones
// before.
#ifndef GUARD_ACT_H
#define GUARD_ACT_H

#include "guard/freeze.h"
#include "guard/off.h"
#include "guard/plan.h"

struct act {
    int64_t number; // of the plan that is prepared here; 0: none
    int error;      // of preparing: what could not be opened is not done either
    int off_error;  // of taking the addresses off last
    struct plan_body body;
    struct off_message messages[GUARD_ADDRESSES_MAX];
    struct off_message left[GUARD_LEFT_MAX];
    struct freezer freezer;
    int flag; // the flag file, open; -1
};

void act_init(struct act *act);
// Takes on the slot's newest plan, if that is not the prepared one. An unreadable one changes
// nothing.
void act_prepare(struct act *act, struct plan_slot *slot);
void act_drop(struct act *act);

int act_addresses_off(struct act *act, struct off_sockets *sockets, size_t *ret_removed);
int act_freeze(struct act *act);
bool act_is_frozen(const struct act *act);
int act_flag(struct act *act, const char *pair, const struct guard_report *report);

int act_thaw(struct act *act); // clears the flag first
int act_kill(struct act *act);

#endif
