// SPDX-License-Identifier: Apache-2.0
// The file with the secret that the two ends of a pair share: one header line and the key in
// hexadecimal. It is made by `pairctl keygen` on one machine and copied to the other by the
// operator.
//
// Only the owner may read it: a file that group or others can read, or that belongs to somebody
// else than this process (or root), is refused, because its secret must be taken as known.
#ifndef BASE_KEYFILE_H
#define BASE_KEYFILE_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

#define KEYFILE_BYTES_MIN 32
#define KEYFILE_BYTES_MAX 64

struct keyfile {
    uint8_t bytes[KEYFILE_BYTES_MAX];
    size_t size; // KEYFILE_BYTES_MIN..KEYFILE_BYTES_MAX
};

// Creates `path` (mode 0600, durable) with a fresh random key. -EEXIST when there is a file
// already: a key in use is never overwritten.
int keyfile_generate(const char *path, struct error *err);
// -EPERM: wrong mode or owner; -EINVAL: not a key file; the text says which and what helps.
int keyfile_load(const char *path, struct keyfile *ret_key, struct error *err);
// Wipes the secret from memory.
void keyfile_clear(struct keyfile *key);

#endif
