// SPDX-License-Identifier: Apache-2.0
// `pairctl salvage export`: what was kept, as files that need no tool of ours.
//
// NAME.map, one line for each range: OFFSET LENGTH KIND PLACE. Bytes; KIND is data, zero, unreadable or dropped; PLACE is
// where the data is in NAME.data (data), or "-". With an image the data is in NAME.img, a sparse file of the volume's
// size, at its OFFSET.
//
// Everything is made in a directory beside the target and gets its name when it is whole: whatever comes in between,
// also an interrupt, leaves nothing under that name.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "pairctl/salvage.h"

#define SAY_AFTER_NS (2 * NS_PER_S)

struct volume {
    int data; // -1: not yet
    FILE *map;
    uint64_t at; // in the data
};

struct export {
    const struct salvage_place *place;
    const char *target;
    char path[PATH_SIZE]; // where it is made
    bool image;
    struct volume volumes[RECORD_OBJECTS_MAX];
    char failed[PATH_SIZE];
    int signals; // an interrupt that has come
    int64_t began_ns, said_ns;
    uint64_t done, total; // bytes of volumes
};

static int failed(struct export *x, int r, const char *file)
{
    (void)snprintf(x->failed, sizeof(x->failed), "%s", file);
    return r;
}

static int make_file(struct export *x, unsigned object, const char *ending, int *ret_fd)
{
    char path[PATH_SIZE];
    int r = path_format(path, sizeof(path), "%s/%s.%s", x->path, x->place->info.volumes[object].name, ending);
    if (r < 0)
        return failed(x, r, x->path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return failed(x, -errno, path);
    *ret_fd = fd;
    return 0;
}

static void put_head(struct export *x, unsigned object)
{
    const struct salvage_info *i = &x->place->info;
    const struct salvage_volume *v = &i->volumes[object];
    (void)fprintf(x->volumes[object].map,
                  "# pair %s, %s: what volume %s (%llu bytes) held in epoch %u when %s\n"
                  "# OFFSET LENGTH KIND PLACE\n",
                  i->name, epoch_opener_name(i->side), v->name, (unsigned long long)v->size, i->epoch.number,
                  salvage_cause_text(i->cause));
}

static int begin_volume(struct export *x, unsigned object)
{
    struct volume *v = &x->volumes[object];
    int fd = -1;
    if (v->map)
        return 0;
    int r = make_file(x, object, "map", &fd);
    if (r < 0)
        return r;
    v->map = fdopen(fd, "w");
    if (!v->map) {
        cleanup_close(&fd);
        return -ENOMEM;
    }
    put_head(x, object);
    r = make_file(x, object, x->image ? "img" : "data", &v->data);
    if (r == 0 && x->image && ftruncate(v->data, (off_t)x->place->info.volumes[object].size) < 0)
        r = failed(x, -errno, x->path);
    return r;
}

// 0, or -EINTR: somebody wants it to end.
static int look_around(struct export *x, uint64_t length)
{
    struct signalfd_siginfo info;
    int64_t now = clock_boot_ns();
    if (read(x->signals, &info, sizeof(info)) == sizeof(info))
        return -EINTR;
    if (now - x->began_ns >= SAY_AFTER_NS && now - x->said_ns >= SAY_AFTER_NS) {
        x->said_ns = now;
        (void)fprintf(stderr, "pairctl: %s: %.0f %%\n", x->target, 100.0 * (double)x->done / (double)MAX(x->total, 1U));
    }
    x->done += length;
    return 0;
}

static int take(void *arg, const struct salvage_entry *e, const void *data)
{
    static const char *const kinds[SALVAGE_KIND_END] = {
        [SALVAGE_DATA] = "data", [SALVAGE_ZERO] = "zero", [SALVAGE_UNREADABLE] = "unreadable", [SALVAGE_GONE] = "dropped"};
    struct export *x = arg;
    if (e->kind == SALVAGE_DONE)
        return 0;
    int r = look_around(x, e->length);
    if (r == 0)
        r = begin_volume(x, e->object);
    if (r < 0)
        return r;
    struct volume *v = &x->volumes[e->object];
    (void)fprintf(v->map, "%llu %llu %s ", (unsigned long long)e->offset, (unsigned long long)e->length, kinds[e->kind]);
    if (e->kind != SALVAGE_DATA) {
        (void)fputs("-\n", v->map);
        return 0;
    }
    uint64_t at = x->image ? e->offset : v->at;
    (void)fprintf(v->map, "%llu\n", (unsigned long long)at);
    v->at += e->length;
    r = file_pwrite(v->data, data, e->length, at);
    return r < 0 ? failed(x, r, x->path) : 0;
}

// The files are there to stay when this says 0.
static int finish(struct export *x)
{
    int r = 0;
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++) {
        struct volume *v = &x->volumes[i];
        if (!v->map)
            continue;
        if (fflush(v->map) != 0 || fsync(fileno(v->map)) < 0 || (v->data >= 0 && fsync(v->data) < 0))
            r = r < 0 ? r : failed(x, errno ? -errno : -EIO, x->path);
        if (fclose(v->map) != 0 && r == 0)
            r = failed(x, -EIO, x->path);
        cleanup_close(&v->data);
    }
    return r;
}

// What was made of it goes.
static void remove_files(const char *path)
{
    CLEANUP_CLOSEDIR DIR *dir = opendir(path);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    (void)rmdir(path);
}

static int write_files(struct export *x, struct disk *disk, struct error *err)
{
    struct salvage_info info;
    int r = salvage_walk(disk, x->place->info.number, take, x, &info, err);
    int end = finish(x);
    if (r == -EINTR)
        return error_set(err, r, "interrupted: nothing is exported");
    if (x->failed[0])
        return error_sys(err, r < 0 ? r : end, "cannot write %s", x->failed);
    return r < 0 ? r : dir_sync(x->path, err);
}

static int give_name(struct export *x, struct error *err)
{
    if (renameat2(AT_FDCWD, x->path, AT_FDCWD, x->target, RENAME_NOREPLACE) == 0)
        return 0;
    // Where the file system cannot do that: an empty directory at most is replaced.
    if (errno == EINVAL && rename(x->path, x->target) == 0)
        return 0;
    return error_sys(err, -errno, "cannot make the directory %s", x->target);
}

static int make_directory(struct export *x, const char *target, struct error *err)
{
    struct stat st;
    size_t length = strlen(target);
    while (length > 1 && target[length - 1] == '/')
        length--;
    if (lstat(target, &st) == 0)
        return error_set(err, -EEXIST, "%s exists already: name a directory that does not, it will be made", target);
    int r = path_format(x->path, sizeof(x->path), "%.*s.part-XXXXXX", (int)MIN(length, PATH_SIZE), target);
    if (r == 0 && !mkdtemp(x->path))
        r = -errno;
    return r < 0 ? error_sys(err, r, "cannot make the directory %s", target) : 0;
}

int salvage_export(struct disk *disk, const struct salvage_place *place, const char *target, bool image,
                   struct error *err)
{
    sigset_t set, before;
    CLEANUP_FREE struct export *x = calloc(1, sizeof(*x));
    if (!x)
        return error_sys(err, -ENOMEM, "%s", target);
    const struct salvage_info *i = &place->info;
    x->place = place;
    x->target = target;
    x->image = image;
    x->began_ns = clock_boot_ns();
    x->total = i->data_bytes + i->zero_bytes + i->unreadable_bytes + i->gone_bytes;
    for (unsigned v = 0; v < RECORD_OBJECTS_MAX; v++)
        x->volumes[v].data = -1;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, &before);
    x->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    int r = make_directory(x, target, err);
    if (r == 0) {
        r = write_files(x, disk, err);
        if (r == 0)
            r = give_name(x, err);
        if (r < 0)
            remove_files(x->path);
    }
    cleanup_close(&x->signals);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return r;
}
