// SPDX-License-Identifier: Apache-2.0
// Everything that can be wrong with a path is found here, before the first request, with a text
// that says what helps.
//
// The lock is flock(LOCK_EX) on the open file description of the I/O: it lives until the last
// request of that description has ended, whatever became of the process. A device is also opened
// with O_EXCL, which keeps it from being mounted. QEMU marks an image that it writes to with record
// locks of its own; such a file is refused as well.
#include "common/store/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"

#define ALIGN_UNKNOWN 4096u // fits every file system and device that does not say what it wants

static int open_failed(const struct store_config *config, int code, struct error *err)
{
    const char *path = config->path;
    switch (code) {
    case -ENOENT:
    case -ENOTDIR:
    case -ENXIO:
        return error_set(err, code,
                         "store %s does not exist; create it (truncate -s SIZE %s), or correct the "
                         "path in the pair file",
                         path, path);
    case -EACCES:
    case -EPERM:
        return error_set(err, code,
                         "store %s may not be opened for %s (%s); run as root or change "
                         "its owner or mode",
                         path, config->read_only ? "reading" : "writing", strerror(-code));
    case -EROFS:
        return error_set(err, code,
                         "store %s is read-only; mount its file system or set its device writable",
                         path);
    case -EBUSY:
        return error_set(err, code,
                         "store %s is in use: mounted, or held by another program; "
                         "release it first (lsblk and fuser show by whom)",
                         path);
    case -EINVAL:
        if (config->direct)
            return error_set(err, code,
                             "store %s lies on a file system that knows no direct I/O; "
                             "remove `direct` from this store",
                             path);
        break;
    }
    return error_sys(err, code, "cannot open store %s", path);
}

static int check_kind(const char *path, const struct stat *st, struct error *err)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
        return 0;
    return error_set(err, -EINVAL,
                     "store %s is a %s; a store must be a regular file or a block device", path,
                     S_ISDIR(st->st_mode)    ? "directory"
                     : S_ISCHR(st->st_mode)  ? "character device"
                     : S_ISSOCK(st->st_mode) ? "socket"
                     : S_ISFIFO(st->st_mode) ? "pipe"
                                             : "special file");
}

static int take_lock(int fd, const struct store_config *config, struct error *err)
{
    if (flock(fd, (config->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        return error_set(err, -EAGAIN,
                         "store %s is locked by another process, or the I/O of an earlier one has "
                         "not ended yet",
                         config->path);
    return error_sys(err, -errno, "cannot lock store %s", config->path);
}

// A device that somebody holds exclusively: a predecessor (whose lock will go) or a stranger (whom
// to wait for makes no sense)?
static int device_held(const struct store_config *config, int flags, struct error *err)
{
    CLEANUP_CLOSE int fd = open(config->path, flags & ~O_EXCL);
    if (fd < 0)
        return open_failed(config, -errno, err);
    int r = take_lock(fd, config, err);
    return r < 0 ? r : open_failed(config, -EBUSY, err);
}

// QEMU holds a shared record lock on this byte of every image that it may write to.
#define QEMU_WRITER_BYTE 101

static int check_qemu(int fd, const struct store_config *config, struct error *err)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = QEMU_WRITER_BYTE, .l_len = 1};
    if (config->read_only || fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
        return 0;
    return error_set(err, -EBUSY,
                     "store %s is open for writing in a virtual machine or a qemu tool; a guest "
                     "must use the volume's export, never the store itself",
                     config->path);
}

static int device_size(const struct store_config *config, int fd, uint64_t *ret_size,
                       struct error *err)
{
    int read_only = 0;
    if (ioctl(fd, BLKROGET, &read_only) == 0 && read_only && !config->read_only)
        return open_failed(config, -EROFS, err);
    if (ioctl(fd, BLKGETSIZE64, ret_size) < 0)
        return error_sys(err, -errno, "cannot learn the size of %s", config->path);
    return 0;
}

static uint32_t sane_align(uint32_t align)
{
    bool power_of_two = align > 0 && (align & (align - 1)) == 0;
    return power_of_two && align >= 512 && align <= 65536 ? align : ALIGN_UNKNOWN;
}

static uint32_t device_block(int fd)
{
    int block = 0;
    return ioctl(fd, BLKSSZGET, &block) == 0 && block > 0 ? sane_align((uint32_t)block)
                                                          : ALIGN_UNKNOWN;
}

static uint32_t file_direct_align(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx stx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align > 0)
        return sane_align(MAX(stx.stx_dio_offset_align, stx.stx_dio_mem_align));
#endif
    return ALIGN_UNKNOWN;
}

static bool sysfs_not_zero(const char *path)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    return file_read(path, 64, &text, &size, NULL) == 0 && strtoull(text, NULL, 10) > 0;
}

// Whether the device (or the disk that the partition lies on) zeroes by itself.
static bool device_zeroes(dev_t dev)
{
    char path[128];
    for (int up = 0; up < 2; up++) {
        (void)path_format(path, sizeof(path), "/sys/dev/block/%u:%u%s/queue/write_zeroes_max_bytes",
                          major(dev), minor(dev), up ? "/.." : "");
        if (sysfs_not_zero(path))
            return true;
    }
    return false;
}

// Asked behind the end of the file, where there is nothing to lose.
static bool file_punches(int fd, uint64_t size)
{
    off_t behind = (off_t)((size + 0xffff) & ~UINT64_C(0xffff));
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, behind, 4096) == 0;
}

static int check_size(const struct store_config *config, struct disk *disk, struct error *err)
{
    uint64_t have = disk->size, want = config->size;
    if (have == 0)
        return error_set(err, -EINVAL, "store %s is empty (0 bytes); give it the volume's size",
                         config->path);
    if (want == 0 || want == have)
        return 0;
    if (disk->device && have > want && config->allow_larger) {
        disk->size = want;
        return 0;
    }
    return error_set(err, -EINVAL,
                     "store %s has %" PRIu64 " bytes, the volume has %" PRIu64
                     ": it is %s by %" PRIu64
                     "; correct the volume's size in the pair file or resize the store",
                     config->path, have, want, have < want ? "too short" : "too large",
                     have < want ? want - have : have - want);
}

static int check_direct(const struct store_config *config, struct disk *disk, struct error *err)
{
    if (!config->direct)
        return 0;
    disk->direct_align = disk->device ? device_block(disk->fd) : file_direct_align(disk->fd);
    if (disk->size % disk->direct_align == 0)
        return 0;
    return error_set(err, -EINVAL,
                     "store %s has %" PRIu64
                     " bytes; direct I/O needs a multiple of %u here. Round "
                     "the size up, or remove `direct` from this store",
                     config->path, disk->size, disk->direct_align);
}

static int inspect(const struct store_config *config, struct disk *disk, struct error *err)
{
    struct stat st;
    if (fstat(disk->fd, &st) < 0)
        return error_sys(err, -errno, "cannot look at store %s", config->path);
    int r = check_kind(config->path, &st, err);
    if (r < 0)
        return r;
    disk->device = S_ISBLK(st.st_mode);
    disk->size = (uint64_t)st.st_size;
    disk->direct_align = 1;
    r = disk->device ? device_size(config, disk->fd, &disk->size, err)
                     : check_qemu(disk->fd, config, err);
    if (r < 0)
        return r;
    disk->zero_align = disk->device ? device_block(disk->fd) : 1;
    disk->zero_is_fast =
        disk->device ? device_zeroes(st.st_rdev) : file_punches(disk->fd, disk->size);
    r = check_size(config, disk, err);
    return r < 0 ? r : check_direct(config, disk, err);
}

int disk_open(const struct store_config *config, struct disk *ret_disk, struct error *err)
{
    struct stat st;
    if (stat(config->path, &st) < 0)
        return open_failed(config, -errno, err);
    int r = check_kind(config->path, &st, err);
    if (r < 0)
        return r;
    int flags = (config->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
                (config->direct ? O_DIRECT : 0) |
                (S_ISBLK(st.st_mode) && !config->read_only ? O_EXCL : 0);
    struct disk disk = {.fd = open(config->path, flags)};
    if (disk.fd < 0)
        return errno == EBUSY && (flags & O_EXCL) ? device_held(config, flags, err)
                                                  : open_failed(config, -errno, err);
    // O_NONBLOCK was for the open alone (the path may have become a pipe); io_uring would take it
    // as a wish.
    if (fcntl(disk.fd, F_SETFL, flags & O_DIRECT) < 0)
        r = error_sys(err, -errno, "cannot set up store %s", config->path);
    if (r == 0)
        r = take_lock(disk.fd, config, err);
    if (r == 0)
        r = inspect(config, &disk, err);
    if (r < 0) {
        (void)close(disk.fd);
        return r;
    }
    *ret_disk = disk;
    return 0;
}

void disk_close(struct disk *disk)
{
    (void)flock(disk->fd, LOCK_UN);
    (void)close(disk->fd);
    disk->fd = -1;
}

void disk_extent(const struct disk *disk, uint64_t offset, uint64_t length, unsigned *ret_flags,
                 uint64_t *ret_length)
{
    *ret_flags = 0;
    *ret_length = length;
    off_t at = (off_t)offset;
    off_t data = lseek(disk->fd, at, SEEK_DATA);
    if (data < 0 && errno != ENXIO)
        return; // the store cannot tell: data
    if (data == at) {
        off_t hole = lseek(disk->fd, at, SEEK_HOLE);
        if (hole > at)
            *ret_length = MIN(length, (uint64_t)(hole - at));
        return;
    }
    // ENXIO: nothing but a hole up to the end of the file. Only the file as it is now counts: one
    // that was cut short below us is no source of zeros.
    off_t end = data < 0 ? lseek(disk->fd, 0, SEEK_END) : data;
    if (end <= at)
        return;
    *ret_flags = STORE_EXTENT_HOLE | STORE_EXTENT_ZERO;
    *ret_length = MIN(length, (uint64_t)(end - at));
}
