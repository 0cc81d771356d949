// SPDX-License-Identifier: Apache-2.0
// The files of a safe queue, for reading only.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/base/cleanup.h"
#include "common/base/segment.h"
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

struct listing {
    struct fsck_disk *disk;
    void (*found)(void *arg, uint32_t slot);
    void *arg;
};

static void take_slot(void *arg, uint32_t slot)
{
    struct listing *l = arg;
    char name[SEGMENT_NAME_SIZE];
    struct stat st;
    segment_name(name, slot);
    if (fstatat(l->disk->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        l->disk->total += (uint64_t)st.st_size;
    l->found(l->arg, slot);
}

static int look_list(struct disk *disk, void (*found)(void *arg, uint32_t slot), void *arg)
{
    struct listing listing = {of(disk), found, arg};
    return segment_list(of(disk)->dir_fd, take_slot, &listing);
}

static int look_open(struct disk *disk, uint32_t slot, struct disk_file **ret_file, uint64_t *ret_size)
{
    int fd = -1;
    int r = segment_open(of(disk)->dir_fd, slot, &fd, ret_size);
    if (r < 0)
        return r;
    struct disk_file *file = calloc(1, sizeof(*file));
    if (!file) {
        cleanup_close(&fd);
        return -ENOMEM;
    }
    *file = (struct disk_file){of(disk), fd};
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
    int r = segment_directory(directory, &d->dir_fd, err);
    if (r < 0) {
        free(d);
        return r;
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
