// SPDX-License-Identifier: Apache-2.0
#include "tests/powerfs/object.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "tests/powerfs/chance.h"

#define COPY_BYTES (1u << 20)

struct object {
    pthread_mutex_t lock; // of everything below
    int live;
    int durable;
    uint8_t *noted; // one bit a block: written since the last sync
    size_t noted_bytes;
    bool resized; // the lengths may differ
};

// ---- Copying, holes included --------------------------------------------------------------------

static int length_of(int fd, uint64_t *ret_length)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_length = (uint64_t)st.st_size;
    return 0;
}

static int copy_data(int from, int to, uint64_t offset, uint64_t end)
{
    CLEANUP_FREE char *buffer = malloc(COPY_BYTES);
    if (!buffer)
        return -ENOMEM;
    while (offset < end) {
        size_t size = (size_t)MIN(end - offset, (uint64_t)COPY_BYTES);
        int r = file_pread(from, buffer, size, offset);
        if (r == 0)
            r = file_pwrite(to, buffer, size, offset);
        if (r < 0)
            return r;
        offset += size;
    }
    return 0;
}

static int punch(int fd, uint64_t offset, uint64_t end)
{
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)(end - offset)) < 0)
        return -errno;
    return 0;
}

// Makes [offset, end) of `to` read as it does in `from`; what is behind the end of `from` reads as
// zeros.
static int copy_range(int from, int to, uint64_t offset, uint64_t end)
{
    uint64_t length, length_to;
    int r = length_of(from, &length);
    if (r == 0)
        r = length_of(to, &length_to);
    if (r < 0)
        return r;
    if (length_to > length && end > length && end > offset)
        r = punch(to, MAX(offset, length), MIN(end, MAX(length_to, offset + 1)));
    end = MIN(end, length);
    while (r == 0 && offset < end) {
        off_t data = lseek(from, (off_t)offset, SEEK_DATA);
        uint64_t data_at = data < 0 ? end : MIN((uint64_t)data, end);
        if (data < 0 && errno != ENXIO)
            return -errno;
        if (data_at > offset && (r = punch(to, offset, data_at)) < 0)
            return r;
        if (data_at >= end)
            break;
        off_t hole = lseek(from, (off_t)data_at, SEEK_HOLE);
        uint64_t data_end = hole < 0 ? end : MIN((uint64_t)hole, end);
        r = copy_data(from, to, data_at, data_end);
        offset = data_end;
    }
    return r;
}

static int copy_length(int from, int to)
{
    uint64_t length;
    int r = length_of(from, &length);
    if (r < 0)
        return r;
    return ftruncate(to, (off_t)length) < 0 ? -errno : 0;
}

// ---- Notes --------------------------------------------------------------------------------------

static int note(struct object *object, uint64_t offset, uint64_t end)
{
    if (end <= offset)
        return 0;
    uint64_t first = offset / OBJECT_BLOCK, last = (end - 1) / OBJECT_BLOCK;
    size_t needed = (size_t)(last / 8 + 1);
    if (needed > object->noted_bytes) {
        size_t size = MAX(needed, object->noted_bytes * 2);
        uint8_t *grown = realloc(object->noted, size);
        if (!grown)
            return -ENOMEM;
        memset(grown + object->noted_bytes, 0, size - object->noted_bytes);
        object->noted = grown;
        object->noted_bytes = size;
    }
    for (uint64_t block = first; block <= last; block++)
        object->noted[block / 8] |= (uint8_t)(1u << (block % 8));
    return 0;
}

static bool is_noted(const struct object *object, uint64_t block)
{
    return block / 8 < object->noted_bytes && (object->noted[block / 8] >> (block % 8) & 1);
}

// Finds the next run of noted blocks at or behind *block; false when there is none.
static bool next_run(const struct object *object, uint64_t *block, uint64_t *ret_end)
{
    uint64_t limit = (uint64_t)object->noted_bytes * 8, at = *block;
    while (at < limit && !is_noted(object, at))
        at = object->noted[at / 8] == 0 ? (at / 8 + 1) * 8 : at + 1;
    if (at >= limit)
        return false;
    *block = at;
    while (is_noted(object, at))
        at++;
    *ret_end = at;
    return true;
}

static void forget_notes(struct object *object)
{
    if (object->noted)
        memset(object->noted, 0, object->noted_bytes);
    object->resized = false;
}

// Makes the noted blocks and the length of `to` those of `from`.
static int copy_noted(struct object *object, int from, int to)
{
    uint64_t block = 0, end;
    for (; next_run(object, &block, &end); block = end) {
        int r = copy_range(from, to, block * OBJECT_BLOCK, end * OBJECT_BLOCK);
        if (r < 0)
            return r;
    }
    return object->resized ? copy_length(from, to) : 0;
}

// ---- Life ---------------------------------------------------------------------------------------

static int open_file(int directory, uint64_t ino, int flags)
{
    char name[32];
    snprintf(name, sizeof name, "%llu", (unsigned long long)ino);
    int fd = openat(directory, name, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
    return fd < 0 ? -errno : fd;
}

static int restore_live(struct object *object)
{
    if (ftruncate(object->live, 0) < 0)
        return -errno;
    int r = copy_length(object->durable, object->live);
    return r < 0 ? r : copy_range(object->durable, object->live, 0, UINT64_MAX);
}

int object_open(int live_dir, int durable_dir, uint64_t ino, bool equal, struct object **ret_object)
{
    struct object *object = calloc(1, sizeof *object);
    if (!object)
        return -ENOMEM;
    pthread_mutex_init(&object->lock, NULL);
    object->durable = open_file(durable_dir, ino, 0);
    object->live = object->durable < 0 ? -1 : open_file(live_dir, ino, 0);
    int r = MIN(object->durable, object->live);
    if (r >= 0)
        r = equal ? 0 : restore_live(object);
    if (r < 0) {
        object_free(object);
        return r;
    }
    *ret_object = object;
    return 0;
}

struct object *object_free(struct object *object)
{
    if (!object)
        return NULL;
    cleanup_close(&object->live);
    cleanup_close(&object->durable);
    pthread_mutex_destroy(&object->lock);
    free(object->noted);
    free(object);
    return NULL;
}

// ---- What programs do ---------------------------------------------------------------------------

ssize_t object_read(struct object *object, void *buffer, size_t size, uint64_t offset)
{
    ssize_t n = pread(object->live, buffer, size, (off_t)offset);
    return n < 0 ? -errno : n;
}

ssize_t object_write(struct object *object, const void *data, size_t size, uint64_t offset)
{
    HOLD_LOCK(&object->lock);
    int r = note(object, offset, offset + size);
    if (r < 0)
        return r;
    object->resized = true;
    r = file_pwrite(object->live, data, size, offset);
    return r < 0 ? r : (ssize_t)size;
}

int object_truncate(struct object *object, uint64_t size)
{
    HOLD_LOCK(&object->lock);
    uint64_t length;
    int r = length_of(object->live, &length);
    if (r == 0)
        r = note(object, size, length); // reads as zeros, should the file grow again
    if (r < 0)
        return r;
    object->resized = true;
    return ftruncate(object->live, (off_t)size) < 0 ? -errno : 0;
}

int object_fallocate(struct object *object, int mode, uint64_t offset, uint64_t size)
{
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        return -EOPNOTSUPP;
    HOLD_LOCK(&object->lock);
    int r = note(object, offset, offset + size);
    if (r < 0)
        return r;
    object->resized = true;
    return fallocate(object->live, mode, (off_t)offset, (off_t)size) < 0 ? -errno : 0;
}

off_t object_seek(struct object *object, off_t offset, int whence)
{
    off_t at = lseek(object->live, offset, whence);
    return at < 0 ? -errno : at;
}

int object_stat(struct object *object, struct stat *ret_stat)
{
    return fstat(object->live, ret_stat) < 0 ? -errno : 0;
}

int object_set_times(struct object *object, const struct timespec times[2])
{
    return futimens(object->live, times) < 0 ? -errno : 0;
}

int object_sync(struct object *object)
{
    HOLD_LOCK(&object->lock);
    int r = copy_noted(object, object->live, object->durable);
    if (r == 0)
        forget_notes(object);
    return r;
}

// ---- The loss of power --------------------------------------------------------------------------

// Each sector of one noted block goes one way or the other.
static int tear_block(struct object *object, uint64_t block, uint64_t *random_state, unsigned keep)
{
    for (uint64_t at = block * OBJECT_BLOCK; at < (block + 1) * OBJECT_BLOCK; at += OBJECT_SECTOR) {
        bool kept = chance(random_state, 4) < keep;
        int from = kept ? object->live : object->durable;
        int to = kept ? object->durable : object->live;
        int r = copy_range(from, to, at, at + OBJECT_SECTOR);
        if (r < 0)
            return r;
    }
    return 0;
}

static int tear(struct object *object, uint64_t *random_state)
{
    unsigned keep =
        (unsigned)chance(random_state, 5); // quarters: in some files all, in some nothing
    uint64_t block = 0, end;
    for (; next_run(object, &block, &end); block = end) {
        for (uint64_t one = block; one < end; one++) {
            int r = tear_block(object, one, random_state, keep);
            if (r < 0)
                return r;
        }
    }
    bool new_length = chance(random_state, 2) == 1;
    return new_length ? copy_length(object->live, object->durable)
                      : copy_length(object->durable, object->live);
}

int object_lose(struct object *object, uint64_t *random_state)
{
    pthread_mutex_lock(&object->lock);
    if (*random_state)
        return tear(object, random_state);
    return copy_noted(object, object->durable, object->live);
}
