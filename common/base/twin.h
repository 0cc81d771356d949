// SPDX-License-Identifier: Apache-2.0
// A small piece of durable state, kept in two checksummed copies ("NAME.0" and "NAME.1") that are written one after the
// other and in place: a crash while one is being written leaves the other. Both are allocated in full when created, so
// that a full disk cannot stop a later save, and get their names when they are whole, so that a wiped one is damage.
//
// Invariants: after twin_save() returned 0 a load gives these bytes; after it failed, or a crash, these or the former.
// After twin_mirror() returned 0 both copies hold them, so that whatever one copy suffers later, no load gives something
// older. A load that finds no readable copy where a file exists is damage (-EUCLEAN), never "empty".
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
// Makes `payload` the newest content, durably: in one copy.
int twin_save(struct twin *twin, const void *payload, size_t size, struct error *err);
// The same content in the other copy; for the time when nobody waits any more. A failure leaves the first one as it is.
int twin_mirror(struct twin *twin, struct error *err);
// What twin_open() has found wrong with one copy and made good from the other; NULL: nothing.
const char *twin_repaired(const struct twin *twin);
struct twin *twin_free(struct twin *twin); // NULL-safe; returns NULL

// ---- Looking without changing anything ----

enum twin_copy_state { TWIN_MISSING, TWIN_DAMAGED, TWIN_GOOD };
struct twin_copy {
    enum twin_copy_state state;
    uint64_t bytes;   // of the file
    uint64_t version; // GOOD
    size_t size;      // GOOD: of its payload; 0: never saved
    const char *what; // DAMAGED: static text
    uint64_t offset;  // DAMAGED: where
};
#define TWIN_FILE_SIZE (32 + TWIN_PAYLOAD_MAX) // of each file

// As twin_open(), but nothing is created or written.
int twin_inspect(const char *path, void *payload, size_t limit, size_t *ret_size,
                 struct twin_copy ret_copies[2], struct error *err);

#endif
