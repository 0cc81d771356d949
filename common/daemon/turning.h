// SPDX-License-Identifier: Apache-2.0
// Whether a thread still turns (common/base/awake.h). One that has been at work for too long is wedged: it spins, or waits for
// a lock that nobody lets go of. One that could not work, since others have the processors or its disk hangs, is not: for
// that the kernel is asked (/proc), and the time is taken off.
#ifndef DAEMON_TURNING_H
#define DAEMON_TURNING_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/clock.h"

#define TURNING_MAX_NS NS_PER_S

// Zeroed to begin with; the watcher's.
struct turning {
    int64_t awake_ns;   // of the turn that is watched; 0: none
    int64_t looked_ns;  // when it was looked at last
    int64_t cpu_ns;     // what the thread had used of a processor by then; negative: not known
    int64_t excused_ns; // of this turn: time in which it could not have gone on
};

// What the kernel says of a thread: its state (R, S, D ...) and the processor time that it has used. 0: nothing.
typedef char turning_look_t(int tid, int64_t *ret_cpu_ns);
char turning_look(int tid, int64_t *ret_cpu_ns);

// `awake_ns`: since when the thread `tid` of this process is at work; 0: it is not. To be called often.
bool turning_stuck(struct turning *turning, int64_t awake_ns, int tid, int64_t now, turning_look_t *look);

#endif
