// SPDX-License-Identifier: Apache-2.0
// The file in which an end keeps the newest steps of its life: STEPS_MAX slots, written by turns, each whole by itself
// and synced before the next one. So a crash can have broken one slot, the one behind the newest.
//
// Of this machine's byte order and this version's layout: what another one wrote is not shown.
#ifndef CONTROL_STEPS_H
#define CONTROL_STEPS_H

#include "common/control/status.h"

#define STEPS_MAX 256

struct step_slot {
    uint64_t number; // from 1; slot number % STEPS_MAX
    uint64_t sum;    // of the slot with this field zero
    struct status_event event;
};

enum step_state { STEP_EMPTY, STEP_BROKEN, STEP_GOOD };

void step_seal(struct step_slot *slot);
// What was read from place `at`. A good one's texts are terminated.
enum step_state step_judge(struct step_slot *slot, unsigned at);

#endif
