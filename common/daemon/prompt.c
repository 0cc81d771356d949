// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/prompt.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/log.h"

#define SLICE_NS    400000 // the kernel's own is 1.4 ms on two processors, 2.8 on more
#define RR_PRIORITY 10

// struct sched_attr of the kernel, as it was in the first place: its header does not go together with libc's.
struct attributes {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime; // ns: the slice of an ordinary thread
    uint64_t deadline;
    uint64_t period;
};
_Static_assert(sizeof(struct attributes) == 48, "the kernel's first version");

// Where it is refused nothing is worse than before: no reason to say anything.
void prompt_short_slice(void)
{
    struct attributes a = {.size = sizeof(a)};
    if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) < 0 || a.policy != SCHED_OTHER)
        return;
    a.runtime = SLICE_NS;
    (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

void prompt_real_time(void)
{
    struct sched_param param = {.sched_priority = RR_PRIORITY};
    if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param) < 0)
        log_warning("no real-time priority for heartbeats: %s", strerror(errno));
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        log_warning("memory is not locked: %s", strerror(errno));
}
