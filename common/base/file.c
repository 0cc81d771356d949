// SPDX-License-Identifier: Apache-2.0
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"

int path_format(char *buffer, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(buffer, size, format, args);
    va_end(args);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int parent_of(const char *path, char *parent, size_t size)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return path_format(parent, size, ".");
    if (slash == path)
        return path_format(parent, size, "/");
    return path_format(parent, size, "%.*s", (int)(slash - path), path);
}

int dir_sync(const char *path, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_sys(err, -errno, "cannot open directory %s", path);
    if (fsync(fd) < 0)
        return error_sys(err, -errno, "cannot sync directory %s", path);
    return 0;
}

static int dir_make_one(const char *path, mode_t mode, struct error *err)
{
    if (mkdir(path, mode) == 0) {
        char parent[PATH_SIZE];
        int r = parent_of(path, parent, sizeof(parent));
        return r < 0 ? error_sys(err, r, "%s", path) : dir_sync(parent, err);
    }
    if (errno != EEXIST)
        return error_sys(err, -errno, "cannot create directory %s", path);
    struct stat st;
    if (stat(path, &st) < 0)
        return error_sys(err, -errno, "cannot look at %s", path);
    return S_ISDIR(st.st_mode) ? 0 : error_sys(err, -ENOTDIR, "%s", path);
}

int dir_make(const char *path, mode_t mode, struct error *err)
{
    char part[PATH_SIZE];
    if (path_format(part, sizeof(part), "%s", path) < 0)
        return error_sys(err, -ENAMETOOLONG, "%s", path);
    for (char *p = part + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        int r = dir_make_one(part, mode, err);
        *p = '/';
        if (r < 0)
            return r;
    }
    return dir_make_one(part, mode, err);
}

int file_pread(int fd, void *buffer, size_t size, uint64_t offset)
{
    uint8_t *at = buffer;
    while (size > 0) {
        ssize_t n = pread(fd, at, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        at += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int file_pwrite(int fd, const void *buffer, size_t size, uint64_t offset)
{
    const uint8_t *at = buffer;
    while (size > 0) {
        ssize_t n = pwrite(fd, at, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int file_read(const char *path, size_t limit, char **ret_data, size_t *ret_size, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return error_sys(err, -errno, "cannot open %s", path);
    struct stat st;
    if (fstat(fd, &st) < 0)
        return error_sys(err, -errno, "cannot look at %s", path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, -EINVAL, "%s is not a regular file", path);
    if ((uint64_t)st.st_size > limit)
        return error_set(err, -EFBIG, "%s has %lld bytes; at most %zu are allowed", path,
                         (long long)st.st_size, limit);
    size_t size = (size_t)st.st_size;
    CLEANUP_FREE char *data = malloc(size + 1);
    if (!data)
        return error_sys(err, -ENOMEM, "cannot read %s", path);
    int r = file_pread(fd, data, size, 0);
    if (r < 0)
        return error_sys(err, r, "cannot read %s", path);
    data[size] = '\0';
    *ret_data = TAKE_PTR(data);
    *ret_size = size;
    return 0;
}

int file_replace(const char *path, const void *data, size_t size, mode_t mode, struct error *err)
{
    char temporary[PATH_SIZE], parent[PATH_SIZE];
    if (path_format(temporary, sizeof(temporary), "%s.new", path) < 0 ||
        parent_of(path, parent, sizeof(parent)) < 0)
        return error_sys(err, -ENAMETOOLONG, "%s", path);
    CLEANUP_CLOSE int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0)
        return error_sys(err, -errno, "cannot create %s", temporary);
    int r = file_pwrite(fd, data, size, 0);
    if (r == 0 && fdatasync(fd) < 0)
        r = -errno;
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlink(temporary);
        return error_sys(err, r, "cannot write %s", path);
    }
    return dir_sync(parent, err);
}
