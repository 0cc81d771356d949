// SPDX-License-Identifier: Apache-2.0
#include "common/apps/group.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"

#define PARENT_DEFAULT "understudy"
#define ENVIRON_MAX    (256 * 1024)
#define MARKED_MAX     4096 // processes looked at in one kill

struct group {
    char mount[256]; // of cgroup v2, "" where there is none
    char path[512];  // absolute directory of this group
    char mark[1024];
    bool made;    // path exists and is used
    int procs_fd; // cgroup.procs, open while made
    int events_fd;
    pid_t session; // of the last start command, 0 before
};

// A mount that another one lies over is in the table too, but cannot be reached.
static bool is_cgroup2(const char *directory)
{
    struct statfs fs;

    return statfs(directory, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

void group_mount(char *ret_mount, size_t size)
{
    char buffer[4096];
    struct mntent entry;
    FILE *f = setmntent("/proc/self/mounts", "re");

    *ret_mount = 0;
    if (!f)
        return;
    while (getmntent_r(f, &entry, buffer, sizeof(buffer)))
        if (strcmp(entry.mnt_type, "cgroup2") == 0 && strlen(entry.mnt_dir) < size &&
            is_cgroup2(entry.mnt_dir)) {
            strcpy(ret_mount, entry.mnt_dir);
            break;
        }
    (void)endmntent(f);
}

static int open_in(const struct group *g, const char *name, int flags)
{
    char path[PATH_SIZE];

    if (path_format(path, sizeof(path), "%s/%s", g->path, name) < 0)
        return -ENAMETOOLONG;
    int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static bool write_in(const struct group *g, const char *name, const char *text)
{
    CLEANUP_CLOSE int fd = open_in(g, name, O_WRONLY);
    return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

// Opens the group's files if its directory is there and ours to use.
static bool attach(struct group *g)
{
    int procs = open_in(g, "cgroup.procs", O_RDWR);
    int events = procs < 0 ? -1 : open_in(g, "cgroup.events", O_RDONLY);

    if (events < 0) {
        if (procs >= 0)
            (void)close(procs);
        return false;
    }
    g->procs_fd = procs;
    g->events_fd = events;
    g->made = true;
    return true;
}

static void detach(struct group *g)
{
    if (g->procs_fd >= 0)
        (void)close(g->procs_fd);
    if (g->events_fd >= 0)
        (void)close(g->events_fd);
    g->procs_fd = g->events_fd = -1;
    g->made = false;
}

struct group *group_open(const char *parent, const char *pair, const char *identity,
                         const char *app, const char *mark_extra)
{
    struct group *g = calloc(1, sizeof(*g));

    ENSURE(g);
    g->procs_fd = g->events_fd = -1;
    snprintf(g->mark, sizeof(g->mark), "UNDERSTUDY_GROUP=%s:%s:%s:%s", pair, identity, app,
             mark_extra);
    group_mount(g->mount, sizeof(g->mount));
    if (g->mount[0] && path_format(g->path, sizeof(g->path), "%s/%s/%s/%s/%s", g->mount,
                                   parent ? parent : PARENT_DEFAULT, pair, identity, app) < 0)
        g->mount[0] = 0;
    if (g->mount[0])
        (void)attach(g);
    return g;
}

struct group *group_free(struct group *g)
{
    if (g) {
        detach(g);
        free(g);
    }
    return NULL;
}

// Each directory from below the mount down to the group, except where it is there already.
static void make_directories(const struct group *g)
{
    char path[sizeof(g->path)];

    strcpy(path, g->path);
    for (char *p = path + strlen(g->mount) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        (void)mkdir(path, 0755);
    }
    (void)mkdir(path, 0755);
}

void group_prepare(struct group *g)
{
    if (!g->mount[0])
        return;
    if (g->made && access(g->path, F_OK) < 0)
        detach(g);
    // Another end may remove an empty parent at the same moment, hence more than one try.
    for (int i = 0; i < 3 && !g->made; i++) {
        make_directories(g);
        (void)attach(g);
    }
    if (g->made)
        (void)write_in(g, "cgroup.freeze", "0");
}

const char *group_cgroup(const struct group *g)
{
    return g->made ? g->path : "";
}

const char *group_mark(const struct group *g)
{
    return g->mark;
}

int group_enter(const struct group *g)
{
    if (!g->made)
        return 0;
    return write(g->procs_fd, "0", 1) == 1 ? 0 : -errno;
}

void group_add_session(struct group *g, pid_t session)
{
    g->session = session;
}

int group_fd(const struct group *g)
{
    return g->events_fd;
}

static pid_t session_of(const char *pid)
{
    char path[64], text[1024];
    int session = 0;

    snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return 0;
    text[n] = 0;
    const char *rest = strrchr(text, ')'); // the name in front may hold anything
    char state = 0;
    if (!rest || sscanf(rest, ") %c %*d %*d %d", &state, &session) != 2 || state == 'Z')
        return 0;
    return session;
}

// At most `limit` bytes of a file that does not know its size; *ret_data is malloc'ed and
// zero-terminated.
static bool read_proc(const char *path, size_t limit, char **ret_data, size_t *ret_size)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    ssize_t n;

    if (fd < 0)
        return false;
    char *data = malloc(limit + 1);
    ENSURE(data);
    while (used < limit && (n = read(fd, data + used, limit - used)) > 0)
        used += (size_t)n;
    data[used] = 0;
    *ret_data = data;
    *ret_size = used;
    return true;
}

static bool marked(const struct group *g, const char *pid)
{
    char path[64];
    CLEANUP_FREE char *data = NULL;
    size_t size = 0;

    snprintf(path, sizeof(path), "/proc/%.20s/environ", pid);
    if (!read_proc(path, ENVIRON_MAX, &data, &size))
        return false;
    for (const char *p = data; p < data + size; p += strlen(p) + 1)
        if (strcmp(p, g->mark) == 0)
            return true;
    return false;
}

static size_t marked_pids(const struct group *g, pid_t *ret_pids, size_t limit)
{
    CLEANUP_CLOSEDIR DIR *proc = opendir("/proc");
    size_t count = 0;

    for (struct dirent *d; proc && count < limit && (d = readdir(proc));) {
        pid_t pid = (pid_t)atoi(d->d_name);
        if (pid <= 0 || pid == getpid())
            continue;
        pid_t session = session_of(d->d_name);
        if (session > 0 && ((g->session > 0 && session == g->session) || marked(g, d->d_name)))
            ret_pids[count++] = pid;
    }
    return count;
}

static size_t cgroup_pids(const struct group *g, pid_t *ret_pids, size_t limit)
{
    int fd = open_in(g, "cgroup.procs", O_RDONLY);
    CLEANUP_FCLOSE FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    size_t count = 0;
    int pid;

    while (f && count < limit && fscanf(f, "%d", &pid) == 1)
        ret_pids[count++] = pid;
    return count;
}

size_t group_pids(const struct group *g, pid_t *ret_pids, size_t limit)
{
    return g->made ? cgroup_pids(g, ret_pids, limit) : marked_pids(g, ret_pids, limit);
}

bool group_empty(struct group *g)
{
    char text[256];
    pid_t pid;

    if (!g->made)
        return marked_pids(g, &pid, 1) == 0;
    ssize_t n = pread(g->events_fd, text, sizeof(text) - 1, 0);
    if (n < 0) { // somebody removed the group, which only an empty one allows
        detach(g);
        return true;
    }
    text[n] = 0;
    return strstr(text, "populated 0") != NULL;
}

void group_signal(const struct group *g, int signal)
{
    if (g->made && signal == SIGKILL && write_in(g, "cgroup.kill", "1"))
        return;

    pid_t *pids = calloc(MARKED_MAX, sizeof(*pids));
    ENSURE(pids);
    size_t count = group_pids(g, pids, MARKED_MAX);
    for (size_t i = 0; i < count; i++)
        (void)kill(pids[i], signal);
    free(pids);
}

void group_remove(struct group *g)
{
    char path[sizeof(g->path)];

    if (!g->made)
        return;
    detach(g);
    if (rmdir(g->path) < 0 && errno != ENOENT) {
        (void)attach(g);
        return;
    }
    strcpy(path, g->path);
    for (char *slash; (slash = strrchr(path, '/')) > path + strlen(g->mount);) {
        *slash = 0;
        if (rmdir(path) < 0) // others live there
            break;
    }
}
