// SPDX-License-Identifier: Apache-2.0
#include "common/base/clock.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"

static int64_t read_clock(clockid_t id)
{
    struct timespec t;
    (void)clock_gettime(id, &t);
    return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

int64_t clock_boot_ns(void)
{
    return read_clock(CLOCK_BOOTTIME);
}

int64_t clock_real_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

uint64_t clock_boot_id(void)
{
    char id[64];
    CLEANUP_CLOSE int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, id, sizeof(id));
    return n > 0 ? checksum64(id, (size_t)n) : 0;
}
