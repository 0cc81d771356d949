// SPDX-License-Identifier: Apache-2.0
// The disk of a queue on a real directory (segments.h).
//
// The owner's thread does everything but the fdatasync of syncs that were handed over, which a
// thread of its own does, first come, first served. Two lists of struct disk_sync go between them under one lock:
// `waiting` (owner to syncer) and `done` (syncer to owner), and an eventfd says that `done` has
// something.
#include "common/store/segments.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/segment.h"
#include "common/base/thread.h"

#define PARTS_MAX   16
#define FILL_BYTES  (1024u * 1024)
#define FILL_PIECE  (64u * 1024)
#define FILL_AHEAD  (128u * 1024)

struct disk_file {
    struct segments *segments;
    int fd;
    uint64_t size;
    uint64_t end;    // of the last write
    uint64_t filled; // a new file holds data or written zeros up to here; behind it, unwritten extents
};

struct sync_list {
    struct disk_sync *first, **end;
};

struct segments {
    struct disk disk;
    int dir_fd;
    int event_fd;
    unsigned flags;

    pthread_mutex_t lock; // protects what follows
    pthread_cond_t wake;
    struct sync_list waiting, done;
    bool stopping;
    bool syncing;    // the syncer is at work, or is about to be
    int64_t took_ns; // the last sync, whoever did it

    // The owner's only.
    unsigned files; // open ones: they outlive segments_free(), and this with them
    bool freed;
    awake_t *awake; // the owner's; NULL: nobody watches
    struct sync_list unkicked;
    uint64_t written; // bytes since the last sync was started
    struct disk_file *latest; // that was to be synced
    bool thread_runs;
    pthread_t thread;
};

// A sync's scratch[0] is its file descriptor, scratch[1] its result (as a two's complement number).

static void list_init(struct sync_list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static void list_add(struct sync_list *list, struct disk_sync *sync)
{
    sync->next = NULL;
    *list->end = sync;
    list->end = &sync->next;
}

static struct disk_sync *list_take(struct sync_list *list)
{
    struct disk_sync *sync = list->first;
    if (sync) {
        list->first = sync->next;
        if (!list->first)
            list->end = &list->first;
    }
    return sync;
}

static void list_move(struct sync_list *to, struct sync_list *from)
{
    list_init(to);
    if (from->first)
        *to = *from;
    list_init(from);
}

// done() may start another sync, in the same struct: what is needed of it is taken first.
static void deliver(struct sync_list *done)
{
    struct disk_sync *sync;
    while ((sync = list_take(done)))
        sync->done(sync, (int)(int64_t)sync->scratch[1]);
}

static struct segments *of(struct disk *disk)
{
    return (struct segments *)disk;
}

static int segments_list(struct disk *disk, void (*found)(void *arg, uint32_t slot), void *arg)
{
    return segment_list(of(disk)->dir_fd, found, arg);
}

static int file_new(struct segments *s, int fd, uint64_t size, uint64_t filled, struct disk_file **ret_file)
{
    struct disk_file *file = calloc(1, sizeof(*file));
    if (!file) {
        (void)close(fd);
        return -ENOMEM;
    }
    *file = (struct disk_file){.segments = s, .fd = fd, .size = size, .filled = filled};
    s->files++;
    *ret_file = file;
    return 0;
}

static int segments_create(struct disk *disk, uint32_t slot, uint64_t size,
                           struct disk_file **ret_file)
{
    struct segments *s = of(disk);
    char name[SEGMENT_NAME_SIZE];

    segment_name(name, slot);
    int fd = openat(s->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int rc = -posix_fallocate(fd, 0, (off_t)size);
    // The size and the allocation, so that later syncs have only data to write.
    if (rc == 0 && !(s->flags & SEGMENTS_VOLATILE) && fsync(fd) < 0)
        rc = -errno;
    if (rc == 0)
        return file_new(s, fd, size, 0, ret_file);
    (void)close(fd);
    (void)unlinkat(s->dir_fd, name, 0);
    return rc;
}

static int segments_open_file(struct disk *disk, uint32_t slot, struct disk_file **ret_file,
                              uint64_t *ret_size)
{
    struct segments *s = of(disk);
    char name[SEGMENT_NAME_SIZE];
    struct stat st;

    segment_name(name, slot);
    int fd = openat(s->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        (void)close(fd);
        return -EINVAL;
    }
    *ret_size = (uint64_t)st.st_size;
    return file_new(s, fd, *ret_size, *ret_size, ret_file);
}

static int segments_remove(struct disk *disk, uint32_t slot)
{
    char name[SEGMENT_NAME_SIZE];
    segment_name(name, slot);
    return unlinkat(of(disk)->dir_fd, name, 0) < 0 ? -errno : 0;
}

static int segments_dir_sync(struct disk *disk)
{
    if (of(disk)->flags & SEGMENTS_VOLATILE)
        return 0;
    return fsync(of(disk)->dir_fd) < 0 ? -errno : 0;
}

// Drops what was written from the front of the parts.
static void parts_skip(struct iovec **parts, int *count, size_t written)
{
    while (*count > 0 && written >= (*parts)->iov_len) {
        written -= (*parts)->iov_len;
        (*parts)++;
        (*count)--;
    }
    if (*count > 0) {
        (*parts)->iov_base = (uint8_t *)(*parts)->iov_base + written;
        (*parts)->iov_len -= written;
    }
}

static int segments_write(struct disk_file *file, uint64_t offset, const struct iovec *from,
                          int count)
{
    struct iovec copy[PARTS_MAX];
    struct iovec *parts = copy;
    uint64_t start = offset;

    if (count < 0 || count > PARTS_MAX)
        return -EINVAL;
    memcpy(copy, from, (size_t)count * sizeof(*from));
    parts_skip(&parts, &count, 0);
    while (count > 0) {
        ssize_t n = pwritev(file->fd, parts, count, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        offset += (uint64_t)n;
        parts_skip(&parts, &count, (size_t)n);
    }
    file->segments->written += offset - start;
    file->end = offset;
    file->filled = MAX(file->filled, offset);
    return 0;
}

static int segments_read(struct disk_file *file, uint64_t offset, void *data, size_t size)
{
    return file_pread(file->fd, data, size, offset);
}

static int segments_sync(struct disk_file *file)
{
    if (file->segments->flags & SEGMENTS_VOLATILE)
        return 0;
    return fdatasync(file->fd) < 0 ? -errno : 0;
}

static void announce(struct segments *s)
{
    uint64_t one = 1;
    ssize_t n;
    do
        n = write(s->event_fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
    ENSURE(n == sizeof(one));
}

// Returns how long it took.
static int64_t sync_run(struct disk_sync *sync)
{
    int64_t began = clock_boot_ns();
    int rc = fdatasync((int)sync->scratch[0]) < 0 ? -errno : 0;
    sync->scratch[1] = (uint64_t)(int64_t)rc;
    return clock_boot_ns() - began;
}

static void *syncer(void *arg)
{
    struct segments *s = arg;

    (void)pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        struct disk_sync *sync = list_take(&s->waiting);
        s->syncing = sync != NULL;
        if (!sync) {
            (void)pthread_cond_wait(&s->wake, &s->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&s->lock);
        int64_t took = sync_run(sync);
        (void)pthread_mutex_lock(&s->lock);
        s->took_ns = took;
        bool first = !s->done.first;
        list_add(&s->done, sync);
        if (first)
            announce(s);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

// A sync of what was written to fallocated, but never written, space has to commit the extents'
// conversion, too: twice the time. So where small syncs are made, zeros are written ahead of them, much
// at a time, when nobody waits. Each call writes little, though: the kernel keeps what one call has written as one large
// folio, if it can, and each small sync would go through all blocks of that. Never below `filled`: there may be data.
static void fill_ahead(struct disk_file *file)
{
    static const uint8_t zeros[FILL_PIECE];
    if (file->filled >= file->size || file->filled - MIN(file->end, file->filled) > FILL_AHEAD)
        return;
    uint64_t piece = MIN(file->size - file->filled, FILL_BYTES);
    // A failure does no harm here; the write that belongs there will meet it. A remainder is left as it is.
    for (uint64_t at = 0; piece - at >= sizeof(zeros); at += sizeof(zeros))
        if (pwrite(file->fd, zeros, sizeof(zeros), (off_t)(file->filled + at)) < 0)
            break;
    (void)sync_file_range(file->fd, (off_t)file->filled, (off_t)piece, SYNC_FILE_RANGE_WRITE);
    file->filled += piece;
}

static void hand_over(struct segments *s, struct sync_list *list)
{
    struct disk_sync *sync;
    HOLD_LOCK(&s->lock);
    while ((sync = list_take(list)))
        list_add(&s->waiting, sync);
    s->syncing = true;
    (void)pthread_cond_signal(&s->wake);
}

static void segments_sync_start(struct disk_file *file, struct disk_sync *sync)
{
    struct segments *s = file->segments;

    sync->scratch[0] = (uint64_t)file->fd;
    s->latest = file;
    list_add(&s->unkicked, sync);
    // One that is not short runs while the owner goes on with what else has come.
    if ((s->flags & SEGMENTS_KICKED) && s->written <= SEGMENTS_HERE_BYTES)
        return;
    s->written = 0;
    hand_over(s, &s->unkicked);
}

// Syncs are in order: none overtakes those that the syncer has.
static bool is_short(struct segments *s)
{
    if (s->written > SEGMENTS_HERE_BYTES)
        return false;
    HOLD_LOCK(&s->lock);
    return !s->syncing && s->took_ns <= SEGMENTS_HERE_NS;
}

void segments_kick(struct segments *s, bool idle)
{
    struct sync_list todo;

    if (!s->unkicked.first)
        return;
    bool here = idle && is_short(s);
    s->written = 0;
    if (!here) {
        hand_over(s, &s->unkicked);
        return;
    }
    list_move(&todo, &s->unkicked);
    int64_t took = 0;
    for (struct disk_sync *sync = todo.first; sync; sync = sync->next)
        took += sync_run(sync);
    {
        HOLD_LOCK(&s->lock);
        s->took_ns = took;
    }
    struct disk_file *file = s->latest;
    deliver(&todo);
    if (file && s->latest == file)
        fill_ahead(file);
    if (s->unkicked.first) // started by a completion: not in turns without end
        hand_over(s, &s->unkicked);
}

static void segments_close(struct disk_file *file)
{
    if (!file)
        return;
    struct segments *s = file->segments;
    if (s->latest == file)
        s->latest = NULL;
    awake_t *awake = s->awake;
    if (--s->files == 0 && s->freed)
        free(s);
    int64_t since = awake_pause(awake);
    (void)close(file->fd);
    awake_again(awake, since);
    free(file);
}

static int start_thread(struct segments *s)
{
    int r = thread_start(&s->thread, "segments", syncer, s);
    s->thread_runs = r == 0;
    return r;
}

// ---- as the queue calls them: the owner counts as waiting meanwhile ----

static int disk_list(struct disk *disk, void (*found)(void *arg, uint32_t slot), void *arg)
{
    int64_t since = awake_pause(of(disk)->awake);
    int r = segments_list(disk, found, arg);
    awake_again(of(disk)->awake, since);
    return r;
}

static int disk_create(struct disk *disk, uint32_t slot, uint64_t size, struct disk_file **ret_file)
{
    int64_t since = awake_pause(of(disk)->awake);
    int r = segments_create(disk, slot, size, ret_file);
    awake_again(of(disk)->awake, since);
    return r;
}

static int disk_open_file(struct disk *disk, uint32_t slot, struct disk_file **ret_file, uint64_t *ret_size)
{
    int64_t since = awake_pause(of(disk)->awake);
    int r = segments_open_file(disk, slot, ret_file, ret_size);
    awake_again(of(disk)->awake, since);
    return r;
}

static int disk_remove(struct disk *disk, uint32_t slot)
{
    int64_t since = awake_pause(of(disk)->awake);
    int r = segments_remove(disk, slot);
    awake_again(of(disk)->awake, since);
    return r;
}

static int disk_dir_sync(struct disk *disk)
{
    int64_t since = awake_pause(of(disk)->awake);
    int r = segments_dir_sync(disk);
    awake_again(of(disk)->awake, since);
    return r;
}

static int disk_write(struct disk_file *file, uint64_t offset, const struct iovec *from, int count)
{
    int64_t since = awake_pause(file->segments->awake);
    int r = segments_write(file, offset, from, count);
    awake_again(file->segments->awake, since);
    return r;
}

static int disk_read(struct disk_file *file, uint64_t offset, void *data, size_t size)
{
    int64_t since = awake_pause(file->segments->awake);
    int r = segments_read(file, offset, data, size);
    awake_again(file->segments->awake, since);
    return r;
}

static int disk_sync_now(struct disk_file *file)
{
    int64_t since = awake_pause(file->segments->awake);
    int r = segments_sync(file);
    awake_again(file->segments->awake, since);
    return r;
}

int segments_open(const char *path, unsigned flags, struct segments **ret_segments,
                  struct error *err)
{
    static const struct disk_ops ops = {
        .list = disk_list,
        .create = disk_create,
        .open = disk_open_file,
        .remove = disk_remove,
        .dir_sync = disk_dir_sync,
        .write = disk_write,
        .read = disk_read,
        .sync = disk_sync_now,
        .sync_start = segments_sync_start,
        .close = segments_close,
    };
    struct segments *s = calloc(1, sizeof(*s));

    if (!s)
        return error_sys(err, -ENOMEM, "%s", path);
    s->disk.ops = &ops;
    s->flags = flags;
    list_init(&s->waiting);
    list_init(&s->done);
    list_init(&s->unkicked);
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->wake, NULL);
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = s->event_fd < 0 || s->dir_fd < 0 ? -errno : 0;
    if (rc == 0)
        rc = start_thread(s);
    if (rc < 0) {
        segments_free(s);
        return error_sys(err, rc, "the queue's directory %s cannot be opened", path);
    }
    *ret_segments = s;
    return 0;
}

struct segments *segments_free(struct segments *s)
{
    if (!s)
        return NULL;
    if (s->thread_runs) {
        (void)pthread_mutex_lock(&s->lock);
        s->stopping = true;
        (void)pthread_cond_signal(&s->wake);
        (void)pthread_mutex_unlock(&s->lock);
        (void)pthread_join(s->thread, NULL);
    }
    if (s->event_fd >= 0)
        (void)close(s->event_fd);
    if (s->dir_fd >= 0)
        (void)close(s->dir_fd);
    (void)pthread_cond_destroy(&s->wake);
    (void)pthread_mutex_destroy(&s->lock);
    s->freed = true;
    if (s->files == 0)
        free(s);
    return NULL;
}

void segments_watched(struct segments *s, awake_t *awake)
{
    s->awake = awake;
}

struct disk *segments_disk(struct segments *s)
{
    return &s->disk;
}

int segments_fd(const struct segments *s)
{
    return s->event_fd;
}

void segments_work(struct segments *s)
{
    struct sync_list done;
    uint64_t count;

    (void)pthread_mutex_lock(&s->lock);
    if (s->done.first) // or nothing was announced, and a system call in each turn of the owner would find nothing
        (void)!read(s->event_fd, &count, sizeof(count));
    list_move(&done, &s->done);
    (void)pthread_mutex_unlock(&s->lock);
    deliver(&done);
}
