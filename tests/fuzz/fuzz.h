// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets share. A target feeds one decoder, and looks at what it has accepted with
// ENSURE(): a decoder that accepts too much is as much of a finding as one that reads past its
// input. tests/fuzz/build makes the programs, tests/fuzz/run runs them.
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/error.h"
#include "common/base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A path of this process's own on a file system in memory; the caller removes what it makes there.
static inline void fuzz_path(char path[PATH_SIZE], const char *name)
{
    (void)snprintf(path, PATH_SIZE, "/dev/shm/understudy-fuzz-%d-%s", (int)getpid(), name);
}

// Input as a list of patches: 32 bits of place, 16 of length, so many bytes. Returns false at the
// end.
struct fuzz_patch {
    uint32_t at;
    uint16_t size;
    const uint8_t *bytes;
};

static inline bool fuzz_patch_next(struct byte_reader *r, struct fuzz_patch *ret)
{
    ret->at = byte_u32(r);
    ret->size = byte_u16(r);
    ret->size = (uint16_t)MIN(ret->size, r->left);
    ret->bytes = byte_take(r, ret->size);
    return !r->bad;
}

#endif
