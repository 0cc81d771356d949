// SPDX-License-Identifier: Apache-2.0
#include "common/base/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"

int segment_directory(const char *path, int *ret_fd, struct error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_sys(err, -errno, "cannot open %s", path);
    *ret_fd = fd;
    return 0;
}

void segment_name(char name[SEGMENT_NAME_SIZE], uint32_t slot)
{
    (void)snprintf(name, SEGMENT_NAME_SIZE, "segment.%04u", slot);
}

static bool slot_of(const char *name, uint32_t *ret_slot)
{
    char again[SEGMENT_NAME_SIZE];
    if (sscanf(name, "segment.%u", ret_slot) != 1)
        return false;
    segment_name(again, *ret_slot);
    return strcmp(name, again) == 0;
}

int segment_list(int dir_fd, void (*found)(void *arg, uint32_t slot), void *arg)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP_CLOSEDIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int r = -errno;
        cleanup_close(&fd);
        return r;
    }
    for (;;) {
        uint32_t slot;
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry)
            return -errno;
        if (slot_of(entry->d_name, &slot))
            found(arg, slot);
    }
}

int segment_open(int dir_fd, uint32_t slot, int *ret_fd, uint64_t *ret_size)
{
    char name[SEGMENT_NAME_SIZE];
    struct stat st;
    segment_name(name, slot);
    CLEANUP_CLOSE int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    *ret_size = (uint64_t)st.st_size;
    *ret_fd = TAKE_FD(fd);
    return 0;
}
