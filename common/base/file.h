// SPDX-License-Identifier: Apache-2.0
// Files and directories, with the steps that make them survive a crash.
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/error.h"

// mkdir -p with the given mode for new directories; each new entry is synced into its parent.
int dir_make(const char *path, mode_t mode, struct error *err);
// fsync of a directory, so that created, renamed and removed names last.
int dir_sync(const char *path, struct error *err);

// Reads a whole file of at most `limit` bytes. *ret_data is malloc'ed and zero-terminated (the zero is not counted).
int file_read(const char *path, size_t limit, char **ret_data, size_t *ret_size, struct error *err);
// Replaces `path` by these bytes so that a crash leaves the old or the new content, never a mixture, and the new one
// is durable on return: temporary file, fdatasync, rename, directory sync.
int file_replace(const char *path, const void *data, size_t size, mode_t mode, struct error *err);

// Whole-length pread/pwrite; a short file is -EIO. EINTR is retried, nothing else is.
int file_pread(int fd, void *buffer, size_t size, uint64_t offset);
int file_pwrite(int fd, const void *buffer, size_t size, uint64_t offset);

// printf into a path buffer; -ENAMETOOLONG when it does not fit.
int path_format(char *buffer, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define PATH_SIZE 4096

#endif
