// SPDX-License-Identifier: Apache-2.0
// The content of one file of powerfs, twice: `live` is what programs see, `durable` is what a loss
// of power leaves. A write goes to live and is noted by block; a sync copies the noted blocks, and
// the length, to durable.
//
// Invariant: outside of the noted blocks, and below the smaller of both lengths, live equals
// durable. Every function locks the object; none is entered with its lock held. All return 0 or
// -errno.
#ifndef POWERFS_OBJECT_H
#define POWERFS_OBJECT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#define OBJECT_BLOCK  4096u // a sync copies whole blocks
#define OBJECT_SECTOR 512u  // what a torn write is made of

struct object;

// Opens the files number `ino` in the directories, or makes them, empty. Unless `equal` says that
// live is known to equal durable, live is made again from durable.
int object_open(int live_dir, int durable_dir, uint64_t ino, bool equal,
                struct object **ret_object);
struct object *object_free(struct object *object);

ssize_t object_read(struct object *object, void *buffer, size_t size, uint64_t offset);
ssize_t object_write(struct object *object, const void *data, size_t size, uint64_t offset);
int object_truncate(struct object *object, uint64_t size);
int object_fallocate(struct object *object, int mode, uint64_t offset, uint64_t size);
off_t object_seek(struct object *object, off_t offset, int whence); // SEEK_DATA, SEEK_HOLE
int object_stat(struct object *object, struct stat *ret_stat);
int object_set_times(struct object *object, const struct timespec times[2]);

// What was written before the call is durable after it.
int object_sync(struct object *object);

// Power is lost: live becomes durable again. With `random_state` (not zero), each sector written
// since the last sync, and the length, is by chance kept instead. The object stays locked for ever:
// the caller ends the process.
int object_lose(struct object *object, uint64_t *random_state);

#endif
