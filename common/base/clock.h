// SPDX-License-Identifier: Apache-2.0
// Clocks. Deadlines and ages are on CLOCK_BOOTTIME, which neither steps nor stops; wall-clock time is for people only.
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S  INT64_C(1000000000)

int64_t clock_boot_ns(void); // CLOCK_BOOTTIME, nanoseconds
int64_t clock_real_ns(void); // CLOCK_REALTIME, nanoseconds since 1970
uint64_t clock_boot_id(void); // stands for the kernel's own name of this boot; 0: not known

#endif
