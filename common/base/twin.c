// SPDX-License-Identifier: Apache-2.0
#include "common/base/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"

#define TWIN_MAGIC UINT32_C(0x4e495754) // "TWIN"

// On disk; the payload follows at once. `header_sum` covers the header with this field zero.
struct twin_header {
    struct le32 magic;
    struct le32 size;
    struct le64 version; // rises by one with every save; the copy of a save is version % 2
    struct le64 payload_sum;
    struct le64 header_sum;
};
_Static_assert(sizeof(struct twin_header) == 32, "a format of the disk");

#define FILE_SIZE (sizeof(struct twin_header) + TWIN_PAYLOAD_MAX)

struct twin {
    int fd[2];
    uint64_t version; // of the newest readable copy
    uint8_t *buffer;  // FILE_SIZE bytes
};

static uint64_t header_sum(struct twin_header h)
{
    h.header_sum = le64_make(0);
    return checksum64(&h, sizeof(h));
}

enum copy_state { COPY_EMPTY, COPY_DAMAGED, COPY_GOOD };

// A copy of zeros was allocated and never written, or its first write was lost as a whole.
static bool all_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (data[i])
            return false;
    }
    return true;
}

static enum copy_state read_copy(int fd, uint8_t *buffer, uint64_t *ret_version, size_t *ret_size)
{
    if (file_pread(fd, buffer, FILE_SIZE, 0) < 0)
        return COPY_DAMAGED;
    struct twin_header h;
    memcpy(&h, buffer, sizeof(h));
    if (all_zero(buffer, sizeof(h)))
        return all_zero(buffer, FILE_SIZE) ? COPY_EMPTY : COPY_DAMAGED;
    size_t size = le32_get(h.size);
    if (le32_get(h.magic) != TWIN_MAGIC || !checksum_same(le64_get(h.header_sum), header_sum(h)) ||
        size > TWIN_PAYLOAD_MAX)
        return COPY_DAMAGED;
    // Versions rise from 1: after one that leaves no room above it, what is saved next would count as older.
    if (le64_get(h.version) == 0 || le64_get(h.version) > INT64_MAX)
        return COPY_DAMAGED;
    if (!checksum_same(le64_get(h.payload_sum), checksum64(buffer + sizeof(h), size)))
        return COPY_DAMAGED;
    *ret_version = le64_get(h.version);
    *ret_size = size;
    return COPY_GOOD;
}

static int open_copy(const char *path, int index, int *ret_fd, struct error *err)
{
    char name[PATH_SIZE];
    if (path_format(name, sizeof(name), "%s.%d", path, index) < 0)
        return error_sys(err, -ENAMETOOLONG, "%s", path);
    CLEANUP_CLOSE int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_sys(err, -errno, "cannot open %s", name);
    struct stat st;
    if (fstat(fd, &st) < 0)
        return error_sys(err, -errno, "cannot look at %s", name);
    if ((size_t)st.st_size < FILE_SIZE) {
        // New, or created by a run that was cut off here. What it holds, if anything, stays.
        int r = posix_fallocate(fd, 0, (off_t)FILE_SIZE);
        if (r != 0)
            return error_sys(err, -r, "cannot allocate %s", name);
        if (fsync(fd) < 0)
            return error_sys(err, -errno, "cannot sync %s", name);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int sync_parent(const char *path, struct error *err)
{
    char parent[PATH_SIZE];
    const char *slash = strrchr(path, '/');
    if (!slash)
        return dir_sync(".", err);
    if (path_format(parent, sizeof(parent), "%.*s", (int)(slash - path), path) < 0)
        return error_sys(err, -ENAMETOOLONG, "%s", path);
    return dir_sync(parent, err);
}

// Reads both copies and gives the payload of the newer readable one.
static int load_newest(struct twin *twin, const char *path, void *payload, size_t limit,
                       size_t *ret_size, struct error *err)
{
    int damaged = 0;
    int best = 0;
    size_t best_size = 0;
    for (int i = 0; i < 2; i++) {
        uint64_t version = 0;
        size_t size = 0;
        enum copy_state state = read_copy(twin->fd[i], twin->buffer, &version, &size);
        if (state == COPY_DAMAGED)
            damaged++;
        if (state != COPY_GOOD || version <= twin->version)
            continue;
        memcpy(payload, twin->buffer + sizeof(struct twin_header), MIN(size, limit));
        twin->version = version; // also of one that is refused: what is saved next stands above it
        best = i;
        best_size = size;
    }
    if (best_size > limit)
        return error_set(err, -EUCLEAN, "%s.%d holds %zu bytes; at most %zu make sense", path, best,
                         best_size, limit);
    // One damaged copy beside an empty one: the very first save was torn, or the only copy rotted. The two cannot be
    // told apart, so it counts as damage.
    if (twin->version == 0 && damaged > 0)
        return error_set(err, -EUCLEAN, "%s: no readable copy (%d damaged)", path, damaged);
    *ret_size = best_size;
    return 0;
}

int twin_open(const char *path, void *payload, size_t limit, struct twin **ret_twin,
              size_t *ret_size, struct error *err)
{
    struct twin *twin = calloc(1, sizeof(*twin));
    if (!twin)
        return error_sys(err, -ENOMEM, "%s", path);
    twin->fd[0] = twin->fd[1] = -1;
    twin->buffer = malloc(FILE_SIZE);
    int r = twin->buffer ? 0 : error_sys(err, -ENOMEM, "%s", path);
    for (int i = 0; i < 2 && r == 0; i++)
        r = open_copy(path, i, &twin->fd[i], err);
    if (r == 0)
        r = sync_parent(path, err);
    if (r < 0) {
        twin_free(twin);
        return r;
    }
    r = load_newest(twin, path, payload, limit, ret_size, err);
    if (r < 0 && r != -EUCLEAN) {
        twin_free(twin);
        return r;
    }
    *ret_twin = twin;
    return r;
}

int twin_save(struct twin *twin, const void *payload, size_t size, struct error *err)
{
    ENSURE(size <= TWIN_PAYLOAD_MAX);
    struct twin_header h = {
        .magic = le32_make(TWIN_MAGIC),
        .size = le32_make((uint32_t)size),
        .version = le64_make(twin->version + 1),
        .payload_sum = le64_make(checksum64(payload, size)),
    };
    h.header_sum = le64_make(header_sum(h));
    memcpy(twin->buffer, &h, sizeof(h));
    memcpy(twin->buffer + sizeof(h), payload, size);
    int fd = twin->fd[(twin->version + 1) % 2];
    int r = file_pwrite(fd, twin->buffer, sizeof(h) + size, 0);
    if (r == 0 && fdatasync(fd) < 0)
        r = -errno;
    if (r < 0)
        return error_sys(err, r, "cannot save state");
    twin->version++;
    return 0;
}

struct twin *twin_free(struct twin *twin)
{
    if (!twin)
        return NULL;
    for (int i = 0; i < 2; i++)
        cleanup_close(&twin->fd[i]);
    free(twin->buffer);
    free(twin);
    return NULL;
}
