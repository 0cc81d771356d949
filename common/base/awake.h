// SPDX-License-Identifier: Apache-2.0
// What a watchdog sees of a thread: since when (CLOCK_BOOTTIME) it has been at work, without having slept and without a system
// call that may wait for a disk; 0 while it is in either. The thread writes it, anybody reads it. A thread whose number
// grows old is wedged; one that hangs in an I/O is not.
#ifndef BASE_AWAKE_H
#define BASE_AWAKE_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/base/clock.h"

typedef _Atomic int64_t awake_t;

// Around what may wait; may be nested. NULL: nobody watches. The second one is given what the first one has returned.
static inline int64_t awake_pause(awake_t *awake)
{
    int64_t since = awake ? atomic_load_explicit(awake, memory_order_relaxed) : 0;
    if (since)
        atomic_store_explicit(awake, 0, memory_order_relaxed);
    return since;
}

static inline void awake_again(awake_t *awake, int64_t since)
{
    if (since)
        atomic_store_explicit(awake, clock_boot_ns(), memory_order_relaxed);
}

#endif
