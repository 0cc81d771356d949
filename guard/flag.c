// SPDX-License-Identifier: Apache-2.0
// The flag file: FLAG_SIZE bytes, a line of text filled up with spaces. It is written in place by
// one call, into pages that it already has, so that neither a full memory cgroup nor a full tmpfs
// can stop the guard.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "guard/plan.h"

static void fill(char content[FLAG_SIZE], const char *text)
{
    memset(content, ' ', FLAG_SIZE);
    memcpy(content, text, strnlen(text, FLAG_SIZE - 1));
    content[FLAG_SIZE - 1] = '\n';
}

int flag_make(const char *path, struct error *err)
{
    char content[FLAG_SIZE];
    if (access(path, F_OK) == 0)
        return 0;
    fill(content, FLAG_CLEAR);
    return file_replace(path, content, sizeof(content), 0600, err);
}

int flag_write(int fd, const char *text)
{
    char content[FLAG_SIZE];
    fill(content, text);
    ssize_t n = pwrite(fd, content, sizeof(content), 0);
    if (n < 0)
        return -errno;
    return n == FLAG_SIZE ? 0 : -EIO;
}

static bool starts_with_word(const char *content, const char *word)
{
    size_t size = strlen(word);
    return strncmp(content, word, size) == 0 && content[size] == ' ';
}

int guard_flag_read(const char *path, bool *ret_set, char *text, size_t size, struct error *err)
{
    char content[FLAG_SIZE];
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return error_sys(err, -errno, "cannot open the guard's flag %s", path);
    bool clear = fd < 0;
    bool whole = fd >= 0 && file_pread(fd, content, sizeof(content), 0) == 0;
    if (whole)
        clear = starts_with_word(content, FLAG_CLEAR);
    if (whole && !clear) {
        size_t used = FLAG_SIZE - 1;
        while (used > 0 && content[used - 1] == ' ')
            used--;
        content[used] = '\0';
    }
    if (text && size > 0)
        snprintf(text, size, "%s", clear ? "" : whole ? content : "the flag cannot be understood");
    *ret_set = !clear;
    return 0;
}

int guard_flag_clear(const char *path, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    int r = fd < 0 ? -errno : flag_write(fd, FLAG_CLEAR);
    return r < 0 ? error_sys(err, r, "cannot clear the guard's flag %s", path) : 0;
}
