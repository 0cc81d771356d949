// SPDX-License-Identifier: Apache-2.0
#include "common/apps/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "common/apps/group.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"

#define PID_FILE      "/run/libvirt/qemu/%s.pid"
#define ARGUMENTS_MAX (256 * 1024)

int identity_load(const char *path, struct identity *ret_identity, struct error *err)
{
    CLEANUP_FREE char *data = NULL;
    size_t size = 0;

    if (access(path, F_OK) < 0)
        return error_sys(err, -errno, "%s", path);
    int r = file_read(path, sizeof(struct identity), &data, &size, err);
    if (r < 0)
        return r;
    char *name = strchr(data, ' ');
    char *end = name ? strchr(name, '\n') : NULL;
    if (!end || name - data != DOMAIN_UUID_SIZE - 1 || end - name > DOMAIN_NAME_SIZE)
        return error_set(err, -EUCLEAN, "%s is damaged", path);
    *name++ = *end = 0;
    strcpy(ret_identity->uuid, data);
    strcpy(ret_identity->name, name);
    return 0;
}

int identity_save(const char *path, const struct identity *identity, struct error *err)
{
    char text[sizeof(*identity) + 2];
    int n = snprintf(text, sizeof(text), "%s %s\n", identity->uuid, identity->name);

    return file_replace(path, text, (size_t)n, 0600, err);
}

void identity_remove(const char *path)
{
    (void)unlink(path);
}

// Reads a small file of /proc or /run; the number of bytes, zero-terminated behind them, or -errno.
static ssize_t read_small(const char *path, char *buffer, size_t size)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    ssize_t n = 0;

    if (fd < 0)
        return -errno;
    while (used < size - 1 && (n = read(fd, buffer + used, size - 1 - used)) > 0)
        used += (size_t)n;
    buffer[used] = 0;
    return n < 0 ? -errno : (ssize_t)used;
}

int process_start(pid_t pid, uint64_t *ret_start)
{
    char path[64], text[1024];

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (read_small(path, text, sizeof(text)) <= 0)
        return -ESRCH;
    const char *rest = strrchr(text, ')');
    uint64_t start = 0;
    if (!rest || sscanf(rest,
                        ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
                        "%*d %" SCNu64,
                        &start) != 1)
        return -ESRCH;
    *ret_start = start;
    return 0;
}

static bool has_argument(pid_t pid, const char *argument)
{
    char path[64];
    CLEANUP_FREE char *text = malloc(ARGUMENTS_MAX);

    ENSURE(text);
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    ssize_t size = read_small(path, text, ARGUMENTS_MAX);
    for (const char *p = text; size > 0 && p < text + size; p += strlen(p) + 1)
        if (strcmp(p, argument) == 0)
            return true;
    return false;
}

bool qemu_find(const struct identity *identity, struct qemu *ret_qemu)
{
    char path[PATH_SIZE], text[32];
    struct qemu q = QEMU_NONE;

    if (path_format(path, sizeof(path), PID_FILE, identity->name) < 0 ||
        read_small(path, text, sizeof(text)) <= 0)
        return false;
    q.pid = (pid_t)atoi(text);
    if (q.pid <= 1)
        return false;
    q.pidfd = pidfd_open(
        q.pid, 0); // first, so that what is read next is about the process it refers to, or nobody
    if (q.pidfd < 0)
        return false;
    if (!has_argument(q.pid, identity->uuid) || process_start(q.pid, &q.start) < 0 ||
        qemu_ended(&q)) {
        qemu_clear(&q);
        return false;
    }
    *ret_qemu = q;
    return true;
}

void qemu_clear(struct qemu *q)
{
    if (q->pidfd >= 0)
        (void)close(q->pidfd);
    *q = QEMU_NONE;
}

bool qemu_ended(const struct qemu *q)
{
    struct pollfd p = {.fd = q->pidfd, .events = POLLIN};

    return q->pidfd < 0 || poll(&p, 1, 0) > 0;
}

void qemu_kill(const struct qemu *q)
{
    if (q->pidfd >= 0)
        (void)pidfd_send_signal(q->pidfd, SIGKILL, NULL, 0);
}

void qemu_cgroup(const struct qemu *q, char *ret_path, size_t size)
{
    char path[64], text[4096], mount[256];

    *ret_path = 0;
    group_mount(mount, sizeof(mount));
    snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)q->pid);
    if (!mount[0] || read_small(path, text, sizeof(text)) <= 0)
        return;
    char *line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
    if (!line)
        return;
    line = strchr(line, '/');
    if (!line)
        return;
    line[strcspn(line, "\n")] = 0;
    char *own = strstr(line, "qemu"); // .../machine-qemu\x2d1\x2dNAME.scope/libvirt/emulator
    if (!own)
        return;
    own[strcspn(own, "/")] = 0;
    int n = snprintf(ret_path, size, "%s%s", mount, line);
    if (n < 0 || (size_t)n >= size)
        *ret_path = 0;
}
