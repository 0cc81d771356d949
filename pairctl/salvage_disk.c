// SPDX-License-Identifier: Apache-2.0
// The files of a salvage (queues/disk.h) for one command: no thread, every call waits for the disk.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/segment.h"
#include "pairctl/salvage.h"

struct disk_file {
    int fd;
};

struct salvage_disk {
    struct disk disk;
    int dir_fd;
};

static struct salvage_disk *of(struct disk *disk)
{
    return (struct salvage_disk *)disk;
}

static int list(struct disk *disk, void (*found)(void *arg, uint32_t slot), void *arg)
{
    return segment_list(of(disk)->dir_fd, found, arg);
}

static int file_new(int fd, struct disk_file **ret_file)
{
    struct disk_file *file = calloc(1, sizeof(*file));
    if (!file) {
        (void)close(fd);
        return -ENOMEM;
    }
    file->fd = fd;
    *ret_file = file;
    return 0;
}

static int create(struct disk *disk, uint32_t slot, uint64_t size, struct disk_file **ret_file)
{
    char name[SEGMENT_NAME_SIZE];
    segment_name(name, slot);
    int fd = openat(of(disk)->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int r = -posix_fallocate(fd, 0, (off_t)size);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0)
        return file_new(fd, ret_file);
    (void)close(fd);
    (void)unlinkat(of(disk)->dir_fd, name, 0);
    return r;
}

static int open_file(struct disk *disk, uint32_t slot, struct disk_file **ret_file, uint64_t *ret_size)
{
    int fd = -1;
    int r = segment_open(of(disk)->dir_fd, slot, &fd, ret_size);
    return r < 0 ? r : file_new(fd, ret_file);
}

static int remove_file(struct disk *disk, uint32_t slot)
{
    char name[SEGMENT_NAME_SIZE];
    segment_name(name, slot);
    return unlinkat(of(disk)->dir_fd, name, 0) < 0 ? -errno : 0;
}

static int sync_directory(struct disk *disk)
{
    return fsync(of(disk)->dir_fd) < 0 ? -errno : 0;
}

static int write_parts(struct disk_file *file, uint64_t offset, const struct iovec *parts, int count)
{
    for (int i = 0; i < count; i++) {
        int r = file_pwrite(file->fd, parts[i].iov_base, parts[i].iov_len, offset);
        if (r < 0)
            return r;
        offset += parts[i].iov_len;
    }
    return 0;
}

static int read_part(struct disk_file *file, uint64_t offset, void *data, size_t size)
{
    return file_pread(file->fd, data, size, offset);
}

static int sync_file(struct disk_file *file)
{
    return fdatasync(file->fd) < 0 ? -errno : 0;
}

static void no_sync_start(struct disk_file *file, struct disk_sync *sync)
{
    (void)file;
    (void)sync;
    ENSURE(!"a command waits for its syncs");
}

static void close_file(struct disk_file *file)
{
    if (file)
        cleanup_close(&file->fd);
    free(file);
}

int salvage_disk_open(const char *directory, struct salvage_disk **ret_disk, struct error *err)
{
    static const struct disk_ops ops = {
        .list = list,
        .create = create,
        .open = open_file,
        .remove = remove_file,
        .dir_sync = sync_directory,
        .write = write_parts,
        .read = read_part,
        .sync = sync_file,
        .sync_start = no_sync_start,
        .close = close_file,
    };
    struct salvage_disk *d = calloc(1, sizeof(*d));
    if (!d)
        return error_sys(err, -ENOMEM, "%s", directory);
    d->disk.ops = &ops;
    int r = segment_directory(directory, &d->dir_fd, err);
    if (r < 0) {
        free(d);
        return r;
    }
    *ret_disk = d;
    return 0;
}

struct disk *salvage_disk_of(struct salvage_disk *d)
{
    return &d->disk;
}

struct salvage_disk *salvage_disk_free(struct salvage_disk *d)
{
    if (d)
        cleanup_close(&d->dir_fd);
    free(d);
    return NULL;
}

int salvage_disk_lock(struct salvage_disk *d)
{
    if (flock(d->dir_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

void salvage_disk_unlock(struct salvage_disk *d)
{
    (void)flock(d->dir_fd, LOCK_UN);
}
