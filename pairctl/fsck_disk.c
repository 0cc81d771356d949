// SPDX-License-Identifier: Apache-2.0
// The files of a safe queue, for reading only.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "pairctl/fsck.h"

struct disk_file {
    struct fsck_disk *disk;
    int fd;
};

struct fsck_disk {
    struct disk disk;
    struct fsck *progress;
    int dir_fd;
    uint64_t total, done; // bytes of all files; bytes read
};

static struct fsck_disk *of(struct disk *disk)
{
    return (struct fsck_disk *)disk;
}

static void name_of(char name[32], uint32_t slot)
{
    (void)snprintf(name, 32, "segment.%04u", slot);
}

static void take_name(struct fsck_disk *d, const char *name, void (*found)(void *arg, uint32_t slot), void *arg)
{
    char again[32];
    struct stat st;
    unsigned slot;
    if (sscanf(name, "segment.%u", &slot) != 1)
        return;
    name_of(again, slot);
    if (strcmp(name, again) != 0)
        return;
    if (fstatat(d->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        d->total += (uint64_t)st.st_size;
    found(arg, slot);
}

static int look_list(struct disk *disk, void (*found)(void *arg, uint32_t slot), void *arg)
{
    int fd = openat(of(disk)->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP_CLOSEDIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int r = -errno;
        cleanup_close(&fd);
        return r;
    }
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry)
            return -errno;
        take_name(of(disk), entry->d_name, found, arg);
    }
}

static int look_open(struct disk *disk, uint32_t slot, struct disk_file **ret_file, uint64_t *ret_size)
{
    char name[32];
    struct stat st;
    name_of(name, slot);
    CLEANUP_CLOSE int fd = openat(of(disk)->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    struct disk_file *file = calloc(1, sizeof(*file));
    if (!file)
        return -ENOMEM;
    *file = (struct disk_file){of(disk), TAKE_FD(fd)};
    *ret_size = (uint64_t)st.st_size;
    *ret_file = file;
    return 0;
}

static int look_read(struct disk_file *file, uint64_t offset, void *data, size_t size)
{
    struct fsck_disk *d = file->disk;
    d->done += size;
    fsck_progress(d->progress, d->done, d->total);
    return file_pread(file->fd, data, size, offset);
}

static void look_close(struct disk_file *file)
{
    if (file)
        cleanup_close(&file->fd);
    free(file);
}

static int no_create(struct disk *disk, uint32_t slot, uint64_t size, struct disk_file **ret_file)
{
    return -EROFS;
}

static int no_remove(struct disk *disk, uint32_t slot)
{
    return -EROFS;
}

static int no_dir_sync(struct disk *disk)
{
    return -EROFS;
}

static int no_write(struct disk_file *file, uint64_t offset, const struct iovec *parts, int count)
{
    return -EROFS;
}

static int no_sync(struct disk_file *file)
{
    return -EROFS;
}

static void no_sync_start(struct disk_file *file, struct disk_sync *sync)
{
    ENSURE(!"a look syncs nothing");
}

int fsck_disk_open(const char *directory, struct fsck *progress, struct fsck_disk **ret_disk, struct error *err)
{
    static const struct disk_ops ops = {
        .list = look_list,
        .create = no_create,
        .open = look_open,
        .remove = no_remove,
        .dir_sync = no_dir_sync,
        .write = no_write,
        .read = look_read,
        .sync = no_sync,
        .sync_start = no_sync_start,
        .close = look_close,
    };
    struct fsck_disk *d = calloc(1, sizeof(*d));
    if (!d)
        return error_sys(err, -ENOMEM, "%s", directory);
    d->disk.ops = &ops;
    d->progress = progress;
    d->dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->dir_fd < 0) {
        int r = -errno;
        free(d);
        return r == -ENOENT ? r : error_sys(err, r, "cannot open %s", directory);
    }
    *ret_disk = d;
    return 0;
}

struct disk *fsck_disk_of(struct fsck_disk *disk)
{
    return &disk->disk;
}

struct fsck_disk *fsck_disk_free(struct fsck_disk *disk)
{
    if (disk)
        cleanup_close(&disk->dir_fd);
    free(disk);
    return NULL;
}
