// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/turning.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/cleanup.h"

#define LOOK_NS (100 * NS_PER_MS)

static int read_file(const char *path, char *text, size_t size)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    text[MAX(n, 0)] = '\0';
    return n > 0 ? 0 : -1;
}

char turning_look(int tid, int64_t *ret_cpu_ns)
{
    char path[64], text[512];
    long long cpu = 0;
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", tid);
    if (read_file(path, text, sizeof(text)) < 0 || sscanf(text, "%lld", &cpu) != 1)
        return 0;
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
    const char *behind = read_file(path, text, sizeof(text)) < 0 ? NULL : strrchr(text, ')');
    if (!behind || strlen(behind) < 3)
        return 0;
    *ret_cpu_ns = cpu;
    return behind[2];
}

// What of the time since the last look the thread could not use.
static int64_t lost_ns(const struct turning *t, char state, int64_t cpu_ns, int64_t elapsed)
{
    if (state == 'D')
        return elapsed; // in the kernel, mostly for a disk
    if (state != 'R')
        return 0; // it waits for somebody
    int64_t ran = t->cpu_ns < 0 ? 0 : cpu_ns - t->cpu_ns;
    return MAX(elapsed - MAX(ran, 0), 0);
}

bool turning_stuck(struct turning *t, int64_t awake_ns, int tid, int64_t now, turning_look_t *look)
{
    if (awake_ns == 0 || awake_ns != t->awake_ns) {
        *t = (struct turning){.awake_ns = awake_ns, .looked_ns = awake_ns, .cpu_ns = -1};
        return false;
    }
    if (now - t->looked_ns >= LOOK_NS) {
        int64_t cpu_ns = -1;
        char state = look(tid, &cpu_ns);
        t->excused_ns += lost_ns(t, state, cpu_ns, now - t->looked_ns);
        t->cpu_ns = state ? cpu_ns : -1;
        t->looked_ns = now;
    }
    return now - awake_ns - t->excused_ns > TURNING_MAX_NS;
}
