// SPDX-License-Identifier: Apache-2.0
// A small piece of durable state, kept in two checksummed copies ("NAME.0" and "NAME.1") that are written in turn and
// in place: a crash while one is being written leaves the other. Both are allocated in full when created, so that a
// full disk cannot stop a later save.
//
// Invariant: after twin_save() returned 0 a load gives these bytes; after it failed, or a crash, these or the former.
// A load that finds no readable copy where a file exists is damage (-EUCLEAN), never "empty".
#ifndef BASE_TWIN_H
#define BASE_TWIN_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

#define TWIN_PAYLOAD_MAX (64 * 1024)

struct twin;

// Opens or creates the two files `path`.0 and `path`.1. On success *ret_size is the size of the newest payload,
// copied into `payload` (room for `limit` bytes, at most TWIN_PAYLOAD_MAX); 0 when nothing was ever saved.
// Returns -EUCLEAN when no copy is readable though one was written, and then *ret_twin is set too, so that an
// operator's decision can overwrite it.
int twin_open(const char *path, void *payload, size_t limit, struct twin **ret_twin,
              size_t *ret_size, struct error *err);
// Makes `payload` the newest content, durably.
int twin_save(struct twin *twin, const void *payload, size_t size, struct error *err);
struct twin *twin_free(struct twin *twin); // NULL-safe; returns NULL

#endif
