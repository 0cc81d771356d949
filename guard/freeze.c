// SPDX-License-Identifier: Apache-2.0
#include "guard/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/cleanup.h"

#define KILL_ROUNDS 4

static int open_in(int dir, const char *name, int flags)
{
    int fd = openat(dir, name, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static bool is_gone(int r)
{
    return r == -ENOENT || r == -ENODEV || r == -ESRCH;
}

static int first_of(int first, int r)
{
    return first < 0 || is_gone(r) ? first : r;
}

static int open_group(struct freeze_group *group, const char *path)
{
    *group = (struct freeze_group){.state = -1, .events = -1, .procs = -1, .kill = -1};
    CLEANUP_CLOSE int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    group->v2 = faccessat(dir, "freezer.state", F_OK, 0) < 0;
    group->state = open_in(dir, group->v2 ? "cgroup.freeze" : "freezer.state", O_RDWR);
    if (group->state < 0)
        return group->state;
    if (group->v2) {
        group->events = open_in(dir, "cgroup.events", O_RDONLY);
        group->kill = open_in(dir, "cgroup.kill", O_WRONLY);
    }
    group->procs = open_in(dir, "cgroup.procs", O_RDONLY);
    return group->procs < 0 ? group->procs : 0;
}

// A pidfd of exactly this process.
static int open_process(const struct plan_process *process)
{
    uint64_t start = 0;
    CLEANUP_CLOSE int fd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    if (fd < 0)
        return -errno;
    // Looked at after it was opened: if this is the right one, the descriptor is the right one's.
    if (plan_process_start(process->pid, &start) < 0 || start != process->start)
        return -ESRCH;
    return TAKE_FD(fd);
}

int freezer_open(struct freezer *freezer, const struct plan_body *body)
{
    int first = 0;
    memset(freezer, 0, sizeof(*freezer));
    freezer->group_count = body->cgroup_count;
    for (size_t i = 0; i < body->cgroup_count; i++)
        first = first_of(first, open_group(&freezer->groups[i], body->cgroups[i]));
    freezer->process_count = body->process_count;
    for (size_t i = 0; i < body->process_count; i++) {
        freezer->processes[i] = open_process(&body->processes[i]);
        first = first_of(first, MIN(freezer->processes[i], 0));
    }
    return first;
}

void freezer_close(struct freezer *freezer)
{
    for (size_t i = 0; i < freezer->group_count; i++) {
        struct freeze_group *g = &freezer->groups[i];
        cleanup_close(&g->state);
        cleanup_close(&g->events);
        cleanup_close(&g->procs);
        cleanup_close(&g->kill);
    }
    for (size_t i = 0; i < freezer->process_count; i++)
        cleanup_close(&freezer->processes[i]);
    freezer->group_count = freezer->process_count = 0;
}

static int write_text(int fd, const char *text)
{
    if (fd < 0)
        return -ENODEV;
    return pwrite(fd, text, strlen(text), 0) < 0 ? -errno : 0;
}

static int signal_all(const struct freezer *freezer, int number)
{
    int first = 0;
    for (size_t i = 0; i < freezer->process_count; i++) {
        int fd = freezer->processes[i];
        if (fd >= 0 && syscall(SYS_pidfd_send_signal, fd, number, NULL, 0) < 0)
            first = first_of(first, -errno);
    }
    return first;
}

static int set_groups(const struct freezer *freezer, bool frozen)
{
    int first = 0;
    for (size_t i = 0; i < freezer->group_count; i++) {
        const struct freeze_group *g = &freezer->groups[i];
        const char *text = g->v2 ? (frozen ? "1" : "0") : (frozen ? "FROZEN" : "THAWED");
        first = first_of(first, write_text(g->state, text));
    }
    return first;
}

int freezer_freeze(const struct freezer *freezer)
{
    int first = signal_all(freezer, SIGSTOP);
    return first_of(first, set_groups(freezer, true));
}

int freezer_thaw(const struct freezer *freezer)
{
    int first = set_groups(freezer, false);
    return first_of(first, signal_all(freezer, SIGCONT));
}

static bool group_is_frozen(const struct freeze_group *group)
{
    char text[256];
    int fd = group->v2 ? group->events : group->state;
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);
    if (n < 0)
        return true; // it is gone
    text[n] = '\0';
    return strstr(text, group->v2 ? "frozen 1" : "FROZEN") != NULL;
}

bool freezer_is_frozen(const struct freezer *freezer)
{
    for (size_t i = 0; i < freezer->group_count; i++)
        if (!group_is_frozen(&freezer->groups[i]))
            return false;
    return true;
}

// Kills each process that the group lists; *ret_count is their number. A frozen one cannot start
// another meanwhile.
static int kill_listed(int procs, size_t *ret_count)
{
    char text[4096];
    size_t kept = 0, count = 0;
    int first = 0;
    if (lseek(procs, 0, SEEK_SET) < 0)
        return -errno;
    for (;;) {
        ssize_t n = read(procs, text + kept, sizeof(text) - 1 - kept);
        if (n <= 0)
            break;
        text[kept + (size_t)n] = '\0';
        char *at = text, *end;
        while ((end = strchr(at, '\n'))) {
            pid_t pid = (pid_t)strtol(at, NULL, 10);
            if (pid > 1 && kill(pid, SIGKILL) < 0)
                first = first_of(first, -errno);
            count++;
            at = end + 1;
        }
        kept = strlen(at);
        memmove(text, at, kept + 1);
    }
    *ret_count = count;
    return first;
}

static int kill_group(const struct freeze_group *group)
{
    int first = 0;
    if (group->kill >= 0 && write_text(group->kill, "1") == 0)
        return 0;
    for (int round = 0; group->procs >= 0 && round < KILL_ROUNDS; round++) {
        size_t count = 0;
        int r = kill_listed(group->procs, &count);
        first = first_of(first, r);
        if (r < 0 || count == 0)
            break;
    }
    return first;
}

int freezer_kill(const struct freezer *freezer)
{
    int first = signal_all(freezer, SIGKILL);
    for (size_t i = 0; i < freezer->group_count; i++)
        first = first_of(first, kill_group(&freezer->groups[i]));
    // Frozen by the v1 freezer they die only now; and the groups can be used again.
    return first_of(first, set_groups(freezer, false));
}
