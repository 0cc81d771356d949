// SPDX-License-Identifier: Apache-2.0
// Freezes, thaws and kills what uses a pair's exports: control groups (v2 by cgroup.freeze, v1 by
// the freezer) and single processes (SIGSTOP). All files are opened beforehand; processes are held
// by pidfd, and only where their start is the plan's, so that a number used again never hits a
// stranger.
#ifndef GUARD_FREEZE_H
#define GUARD_FREEZE_H

#include <stdbool.h>
#include <stdint.h>

#include "guard/plan.h"

struct freeze_group {
    bool v2;
    int state;  // cgroup.freeze or freezer.state; -1: the group is gone
    int events; // v2: cgroup.events
    int procs;  // cgroup.procs
    int kill;   // v2: cgroup.kill, -1 on older kernels
};

struct freezer {
    struct freeze_group groups[GUARD_CGROUPS_MAX];
    size_t group_count;
    int processes[GUARD_PROCESSES_MAX]; // pidfds; -1: the process is gone
    size_t process_count;
};

// Opens everything that is there; what is not is passed over. Returns the first error of anything
// else.
int freezer_open(struct freezer *freezer, const struct plan_body *body);
void freezer_close(struct freezer *freezer);

// Each tries all and returns the first error. Freezing is begun here ...
int freezer_freeze(const struct freezer *freezer);
// ... and true here once the groups say that they are frozen. (A process that waits for a disk is
// counted by the kernel as running; it freezes when that is over, before it can do anything else.)
bool freezer_is_frozen(const struct freezer *freezer);
int freezer_thaw(const struct freezer *freezer);
int freezer_kill(const struct freezer *freezer);

#endif
