// SPDX-License-Identifier: Apache-2.0
// The files segment.NNNN of a directory: how they are named, found, and opened to be read by somebody who does not own them.
#ifndef BASE_SEGMENT_H
#define BASE_SEGMENT_H

#include <stdint.h>

#include "common/base/error.h"

#define SEGMENT_NAME_SIZE 32

// -ENOENT: there is none.
int segment_directory(const char *path, int *ret_fd, struct error *err);
void segment_name(char name[SEGMENT_NAME_SIZE], uint32_t slot);
// Calls found() for each, in no order.
int segment_list(int dir_fd, void (*found)(void *arg, uint32_t slot), void *arg);
// For reading; -EINVAL: not a regular file.
int segment_open(int dir_fd, uint32_t slot, int *ret_fd, uint64_t *ret_size);

#endif
