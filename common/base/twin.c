// SPDX-License-Identifier: Apache-2.0
#include "common/base/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
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
    struct le64 version; // rises by one with every save; both copies of a save have the same one
    struct le64 payload_sum;
    struct le64 header_sum;
};
_Static_assert(sizeof(struct twin_header) == 32, "a format of the disk");

#define VERSION_EMPTY 1 // of a copy that was created and never saved

#define FILE_SIZE TWIN_FILE_SIZE
_Static_assert(FILE_SIZE == sizeof(struct twin_header) + TWIN_PAYLOAD_MAX, "a format of the disk");

struct twin {
    int fd[2];
    int newest;       // the copy that is written last: the other one
    uint64_t version; // of the newest readable copy
    size_t size;      // of its payload
    bool unequal;     // the other copy does not hold the same; `buffer` does
    char repaired[160];
    uint8_t *buffer; // FILE_SIZE bytes
};

static uint64_t header_sum(struct twin_header h)
{
    h.header_sum = le64_make(0);
    return checksum64(&h, sizeof(h));
}

static struct twin_copy damaged(const char *what, uint64_t offset)
{
    return (struct twin_copy){.state = TWIN_DAMAGED, .what = what, .offset = offset};
}

// What is in `buffer`, which holds FILE_SIZE bytes.
static struct twin_copy judge_copy(const uint8_t *buffer)
{
    struct twin_header h;
    memcpy(&h, buffer, sizeof(h));
    size_t size = le32_get(h.size);
    if (le32_get(h.magic) != TWIN_MAGIC)
        return damaged("the header does not begin like one", 0);
    if (!checksum_same(le64_get(h.header_sum), header_sum(h)))
        return damaged("the header does not match its checksum", 0);
    // Versions rise from 1: after one that leaves no room above it, what is saved next would count as older.
    if (size > TWIN_PAYLOAD_MAX || le64_get(h.version) == 0 || le64_get(h.version) > INT64_MAX)
        return damaged("the header holds impossible numbers", 0);
    if (!checksum_same(le64_get(h.payload_sum), checksum64(buffer + sizeof(h), size)))
        return damaged("the content does not match its checksum", sizeof(h));
    return (struct twin_copy){.state = TWIN_GOOD, .version = le64_get(h.version), .size = size};
}

// A file that ends early counts as if zeros followed.
static struct twin_copy read_copy(int fd, uint8_t *buffer)
{
    size_t have = 0;
    memset(buffer, 0, FILE_SIZE);
    while (have < FILE_SIZE) {
        ssize_t n = pread(fd, buffer + have, FILE_SIZE - have, (off_t)have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return damaged("it cannot be read from the disk", have);
        if (n == 0)
            break;
        have += (size_t)n;
    }
    struct twin_copy copy = judge_copy(buffer);
    copy.bytes = have;
    return copy;
}

static size_t encode_copy(uint8_t *buffer, const void *payload, size_t size, uint64_t version)
{
    struct twin_header h = {
        .magic = le32_make(TWIN_MAGIC),
        .size = le32_make((uint32_t)size),
        .version = le64_make(version),
        .payload_sum = le64_make(checksum64(payload, size)),
    };
    h.header_sum = le64_make(header_sum(h));
    memmove(buffer + sizeof(h), payload, size);
    memcpy(buffer, &h, sizeof(h));
    return sizeof(h) + size;
}

// The file gets its name when it is whole and durable: one that is wiped or too short was not left by a crash.
static int create_copy(const char *name, uint8_t *buffer, struct error *err)
{
    char temporary[PATH_SIZE];
    if (path_format(temporary, sizeof(temporary), "%s.new", name) < 0)
        return error_sys(err, -ENAMETOOLONG, "%s", name);
    CLEANUP_CLOSE int fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_sys(err, -errno, "cannot create %s", temporary);
    int r = -posix_fallocate(fd, 0, (off_t)FILE_SIZE);
    if (r == 0)
        r = file_pwrite(fd, buffer, encode_copy(buffer, "", 0, VERSION_EMPTY), 0);
    if (r == 0 && (fsync(fd) < 0 || rename(temporary, name) < 0))
        r = -errno;
    if (r < 0)
        return error_sys(err, r, "cannot create %s", name);
    return TAKE_FD(fd);
}

// *ret_new: it was not there.
static int open_copy(struct twin *twin, const char *path, int index, bool *ret_new, struct error *err)
{
    char name[PATH_SIZE];
    if (path_format(name, sizeof(name), "%s.%d", path, index) < 0)
        return error_sys(err, -ENAMETOOLONG, "%s", path);
    int fd = open(name, O_RDWR | O_CLOEXEC);
    *ret_new = fd < 0 && errno == ENOENT;
    if (fd < 0 && errno != ENOENT)
        return error_sys(err, -errno, "cannot open %s", name);
    if (fd < 0)
        fd = create_copy(name, twin->buffer, err);
    if (fd < 0)
        return fd;
    twin->fd[index] = fd;
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
static int load_newest(struct twin *twin, const char *path, struct twin_copy copies[2],
                       void *payload, size_t limit, size_t *ret_size, struct error *err)
{
    int bad = 0;
    for (int i = 0; i < 2; i++) {
        if (twin->fd[i] < 0)
            continue;
        copies[i] = read_copy(twin->fd[i], twin->buffer);
        bad += copies[i].state == TWIN_DAMAGED;
        if (copies[i].state != TWIN_GOOD || copies[i].version <= twin->version)
            continue;
        memcpy(payload, twin->buffer + sizeof(struct twin_header), MIN(copies[i].size, limit));
        twin->version = copies[i].version; // also of one that is refused: what is saved next stands above it
        twin->size = copies[i].size;
        twin->newest = i;
    }
    if (twin->size > limit)
        return error_set(err, -EUCLEAN, "%s.%d holds %zu bytes; at most %zu make sense", path,
                         twin->newest, twin->size, limit);
    // One damaged copy beside an empty one: the very first save was torn, or the only copy rotted. The two cannot be
    // told apart, so it counts as damage.
    if (twin->size == 0 && twin->version <= VERSION_EMPTY && bad > 0)
        return error_set(err, -EUCLEAN, "%s: no readable copy (%d damaged)", path, bad);
    *ret_size = twin->size;
    return 0;
}

static int write_copy(struct twin *twin, int index, const void *payload, size_t size, uint64_t version)
{
    int r = file_pwrite(twin->fd[index], twin->buffer, encode_copy(twin->buffer, payload, size, version), 0);
    return r == 0 && fdatasync(twin->fd[index]) < 0 ? -errno : r;
}

// A crash may have come between the two copies, or one has rotted: both are to hold the newest again.
static void make_equal(struct twin *twin, const char *path, const struct twin_copy copies[2],
                       const bool young[2], const void *payload)
{
    const struct twin_copy *other = &copies[!twin->newest];
    if (twin->version == 0 || (other->state == TWIN_GOOD && other->version == twin->version))
        return;
    if (other->state == TWIN_DAMAGED || young[!twin->newest])
        (void)snprintf(twin->repaired, sizeof(twin->repaired), "%.80s.%d: %s; the other copy counts", path,
                       !twin->newest, young[!twin->newest] ? "it is not there" : other->what);
    if (other->bytes < FILE_SIZE)
        (void)posix_fallocate(twin->fd[!twin->newest], 0, (off_t)FILE_SIZE);
    memcpy(twin->buffer + sizeof(struct twin_header), payload, twin->size);
    twin->unequal = true;
    (void)twin_mirror(twin, NULL);
}

// Cut off behind what it holds: that counts, and the room that is to be there for more is made again.
static void make_whole(struct twin *twin, const char *path, const struct twin_copy copies[2])
{
    for (int i = 0; i < 2; i++) {
        if (copies[i].state != TWIN_GOOD || copies[i].bytes >= FILE_SIZE)
            continue;
        if (posix_fallocate(twin->fd[i], 0, (off_t)FILE_SIZE) == 0)
            (void)snprintf(twin->repaired, sizeof(twin->repaired), "%.80s.%d: the file ended early, behind its content", path, i);
    }
}

static int allocate(struct twin *twin, const char *path, struct error *err)
{
    twin->fd[0] = twin->fd[1] = -1;
    twin->buffer = malloc(FILE_SIZE);
    return twin->buffer ? 0 : error_sys(err, -ENOMEM, "%s", path);
}

int twin_open(const char *path, void *payload, size_t limit, struct twin **ret_twin,
              size_t *ret_size, struct error *err)
{
    struct twin_copy copies[2] = {{.state = TWIN_MISSING}, {.state = TWIN_MISSING}};
    bool young[2] = {false, false};
    struct twin *twin = calloc(1, sizeof(*twin));
    if (!twin)
        return error_sys(err, -ENOMEM, "%s", path);
    int r = allocate(twin, path, err);
    for (int i = 0; i < 2 && r == 0; i++)
        r = open_copy(twin, path, i, &young[i], err);
    if (r == 0)
        r = sync_parent(path, err);
    if (r < 0) {
        twin_free(twin);
        return r;
    }
    r = load_newest(twin, path, copies, payload, limit, ret_size, err);
    if (r == 0) {
        make_whole(twin, path, copies);
        make_equal(twin, path, copies, young, payload);
    }
    *ret_twin = twin;
    return r;
}

static int open_reader(const char *path, int index, int *ret_fd, struct error *err)
{
    char name[PATH_SIZE];
    if (path_format(name, sizeof(name), "%s.%d", path, index) < 0)
        return error_sys(err, -ENAMETOOLONG, "%s", path);
    *ret_fd = open(name, O_RDONLY | O_CLOEXEC);
    return *ret_fd >= 0 || errno == ENOENT ? 0 : error_sys(err, -errno, "cannot open %s", name);
}

int twin_inspect(const char *path, void *payload, size_t limit, size_t *ret_size,
                 struct twin_copy ret_copies[2], struct error *err)
{
    struct twin twin = {.buffer = NULL};
    struct twin_copy copies[2] = {{.state = TWIN_MISSING}, {.state = TWIN_MISSING}};
    int r = allocate(&twin, path, err);
    for (int i = 0; i < 2 && r == 0; i++)
        r = open_reader(path, i, &twin.fd[i], err);
    if (r == 0) {
        r = load_newest(&twin, path, copies, payload, limit, ret_size, err);
        memcpy(ret_copies, copies, sizeof(copies));
    }
    for (int i = 0; i < 2; i++)
        cleanup_close(&twin.fd[i]);
    free(twin.buffer);
    return r;
}

int twin_save(struct twin *twin, const void *payload, size_t size, struct error *err)
{
    ENSURE(size <= TWIN_PAYLOAD_MAX);
    twin->unequal = false;
    int r = write_copy(twin, !twin->newest, payload, size, twin->version + 1);
    if (r < 0)
        return error_sys(err, r, "cannot save state");
    twin->newest = !twin->newest;
    twin->version++;
    twin->size = size;
    twin->unequal = true;
    return 0;
}

int twin_mirror(struct twin *twin, struct error *err)
{
    if (!twin->unequal)
        return 0;
    int r = write_copy(twin, !twin->newest, twin->buffer + sizeof(struct twin_header), twin->size, twin->version);
    if (r < 0)
        return error_sys(err, r, "cannot save the second copy of the state");
    twin->unequal = false;
    return 0;
}

const char *twin_repaired(const struct twin *twin)
{
    return twin->repaired[0] ? twin->repaired : NULL;
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
