// SPDX-License-Identifier: Apache-2.0
// common/store over files and devices: the shared tests on a buffered file, with O_DIRECT, on tmpfs
// (which knows neither O_DIRECT nor zeroing a range) and on a loop device; what is refused at open;
// the lock; errors.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/store/store.h"
#include "tests/unit/store_rig.h"

static char dir[] = "/var/tmp/test_store_XXXXXX";
static char small[64]; // a tmpfs of 64 MiB below it; empty when it cannot be mounted

static const char *in_dir(const char *name)
{
    static char path[4][256];
    static unsigned turn;
    char *p = path[turn++ % ARRAY_LEN(path)];
    snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

static const char *make_file(const char *path, uint64_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
    return path;
}

// First line of a command's output; empty when it failed.
__attribute__((format(printf, 3, 4))) static void command_line(char *line, size_t size,
                                                               const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    line[0] = '\0';
    if (fgets(line, (int)size, pipe))
        line[strcspn(line, "\n")] = '\0';
    if (pclose(pipe) != 0)
        line[0] = '\0';
}

// ---- the kinds

typedef struct store *open_fn(void);

static struct store *open_buffered(void)
{
    struct store_config config = {.path = make_file(in_dir("volume"), RIG_SIZE), .size = RIG_SIZE};
    return rig_open(&config);
}

static struct store *open_direct(void)
{
    struct store_config config = {.path = make_file(in_dir("volume"), RIG_SIZE), .direct = true};
    return rig_open(&config);
}

static struct store *open_tmpfs(void)
{
    char path[128];
    if (!*small)
        return NULL;
    snprintf(path, sizeof(path), "%s/volume", small);
    struct store_config config = {.path = make_file(path, RIG_SIZE)};
    return rig_open(&config);
}

static char loop[64];

static const char *attach_loop(uint64_t size, const char *options)
{
    command_line(loop, sizeof(loop), "losetup %s --show -f '%s' 2>/dev/null", options,
                 make_file(in_dir("backing"), size));
    return *loop ? loop : NULL;
}

static void detach_loop(void)
{
    char line[16];
    if (*loop)
        command_line(line, sizeof(line), "losetup -d %s", loop);
    *loop = '\0';
}

static struct store *open_loop(void)
{
    struct store_config config = {.path = attach_loop(RIG_SIZE, ""), .size = RIG_SIZE};
    if (!config.path)
        return NULL;
    struct store *store = rig_open(&config);
    assert_int_equal(store_kind(store), STORE_DEVICE);
    return store;
}

static struct store *open_loop_direct(void)
{
    struct store_config config = {
        .path = attach_loop(RIG_SIZE, "--sector-size 4096"), .size = RIG_SIZE, .direct = true};
    return config.path ? rig_open(&config) : NULL;
}

static struct store *open_kind(void **state)
{
    open_fn *open_it = (open_fn *)*state;
    struct store *store = open_it();
    if (!store)
        skip();
    return store;
}

static void close_kind(struct store *store)
{
    assert_string_equal(store_state_text(store), "ok");
    assert_true(store_is_up(store));
    assert_false(store_busy(store));
    (void)store_free(store);
    detach_loop();
}

static void random_requests(void **state)
{
    struct store *store = open_kind(state);
    rig_random_requests_match_a_model(store, 3000);
    close_kind(store);
}

static void large_request(void **state)
{
    struct store *store = open_kind(state);
    rig_large_request_is_whole(store);
    close_kind(store);
}

static void callbacks_submit(void **state)
{
    struct store *store = open_kind(state);
    rig_callbacks_may_submit(store);
    close_kind(store);
}

static void zeros(void **state)
{
    struct store *store = open_kind(state);
    rig_zero_kinds_leave_zeros(store);
    close_kind(store);
}

static void free_ends_everything(void **state)
{
    rig_free_ends_everything(open_kind(state));
    detach_loop();
}

// ---- what is refused

static void expect_refused(const struct store_config *config, int code, const char *text)
{
    struct error err = {0};
    struct store *store = NULL;
    assert_int_equal(store_open(config, &store, &err), code);
    assert_null(store);
    if (!strstr(err.text, text) || !strstr(err.text, config->path))
        fail_msg("'%s' does not name '%s' and '%s'", err.text, config->path, text);
}

static void missing_path_is_refused(void **state)
{
    struct store_config config = {.path = in_dir("missing")};
    expect_refused(&config, -ENOENT, "does not exist; create it");
}

static void wrong_kind_is_refused(void **state)
{
    struct store_config config = {.path = dir};
    expect_refused(&config, -EINVAL, "is a directory");
    config.path = "/dev/null";
    expect_refused(&config, -EINVAL, "is a character device");
}

static void wrong_size_is_refused(void **state)
{
    struct store_config config = {.path = make_file(in_dir("f"), 1 << 20), .size = 2 << 20};
    expect_refused(&config, -EINVAL, "too short by 1048576");
    config.size = 4096;
    config.allow_larger = true; // for devices only: a file has the size that somebody gave it
    expect_refused(&config, -EINVAL, "too large by 1044480");
    config.path = make_file(in_dir("f"), 0);
    config.size = 0;
    expect_refused(&config, -EINVAL, "is empty");
    config.path = make_file(in_dir("f"), 10000);
    config.direct = true;
    expect_refused(&config, -EINVAL, "direct I/O needs a multiple of");
}

static void short_device_is_refused(void **state)
{
    struct store_config config = {.path = attach_loop(1 << 20, ""), .size = 2 << 20};
    if (!config.path)
        skip();
    expect_refused(&config, -EINVAL, "too short by 1048576");
    config.size = 1 << 19;
    expect_refused(&config, -EINVAL, "too large");
    config.allow_larger = true;
    struct store *store = rig_open(&config);
    assert_int_equal(store_block(store)->size, 1 << 19);
    (void)store_free(store);
    detach_loop();
}

static void read_only_store_is_refused(void **state)
{
    struct store_config config = {.path = attach_loop(1 << 20, "-r")};
    if (!config.path)
        skip();
    expect_refused(&config, -EROFS, "is read-only");
    config.read_only = true;
    struct store *store = rig_open(&config);
    uint8_t data[512] = {0};
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, sizeof(data), data), 0);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), -EROFS);
    (void)store_free(store);
    detach_loop();
}

static void mounted_device_is_refused(void **state)
{
    struct store_config config = {.path = attach_loop(1 << 20, "")};
    char line[256];
    if (!config.path)
        skip();
    command_line(line, sizeof(line), "mke2fs -q %s && echo made", config.path);
    const char *at = in_dir("mounted");
    assert_int_equal(mkdir(at, 0700), 0);
    if (!*line || mount(config.path, at, "ext2", 0, NULL) < 0) {
        detach_loop();
        skip();
    }
    expect_refused(&config, -EBUSY, "mounted, or held by another program");
    assert_int_equal(umount(at), 0);
    detach_loop();
}

// qemu-io holds the image open for writing, and says so with record locks.
static void image_of_a_guest_is_refused(void **state)
{
    struct store_config config = {.path = make_file(in_dir("f"), 1 << 20)};
    char command[512], line[256];
    snprintf(command, sizeof(command), "qemu-io -f raw %s 2>&1", config.path);
    FILE *qemu = popen(command, "we");
    assert_non_null(qemu);
    int fd = open(config.path, O_RDWR | O_CLOEXEC);
    struct flock lock = {.l_type = F_UNLCK};
    command_line(line, sizeof(line), "command -v qemu-io");
    while (*line && lock.l_type == F_UNLCK) {
        lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
        assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
    }
    if (*line)
        expect_refused(&config, -EBUSY, "is open for writing in a virtual machine");
    close(fd);
    pclose(qemu);
    if (!*line)
        skip();
}

// ---- the lock

static void second_owner_waits(void **state)
{
    struct store_config config = {.path = make_file(in_dir("f"), 1 << 20)};
    struct store *store = rig_open(&config);
    expect_refused(&config, -EAGAIN, "is locked by another process");
    struct store_config reader = config;
    reader.read_only = true;
    expect_refused(&reader, -EAGAIN, "is locked by another process");
    (void)store_free(store);
    (void)store_free(rig_open(&config));
}

static void ignore(struct block_request *request, int status)
{
}

static void write_until_killed(const struct store_config *config, int ready)
{
    enum { N = 64, LENGTH = 1 << 19 };
    static struct block_request requests[N];
    struct store *store = NULL;
    uint8_t *data = aligned_alloc(4096, LENGTH);
    if (!data || store_open(config, &store, NULL) < 0)
        _exit(1);
    memset(data, 'x', LENGTH);
    for (unsigned round = 0;; round++) {
        for (unsigned i = 0; i < N; i++) {
            requests[i] = (struct block_request){.op = BLOCK_WRITE,
                                                 .offset = i * (uint64_t)LENGTH,
                                                 .length = LENGTH,
                                                 .data = data,
                                                 .done = ignore};
            block_submit(store_block(store), &requests[i]);
        }
        block_kick(store_block(store));
        if (round == 0 && write(ready, "x", 1) != 1)
            _exit(1);
        while (store_busy(store))
            rig_turn(store, 1000);
    }
}

// A predecessor that is killed in the middle of its writes: whoever gets the lock meets none of
// them any more.
static void lock_outlives_a_killed_owner(void **state)
{
    struct store_config config = {.path = make_file(in_dir("f"), 32 << 20), .direct = true};
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0)
        write_until_killed(&config, ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    expect_refused(&config, -EAGAIN, "is locked");
    kill(child, SIGKILL);
    struct store *store = NULL;
    struct error err;
    int r;
    while ((r = store_open(&config, &store, &err)) == -EAGAIN)
        usleep(1000);
    assert_int_equal(r, 0);
    // All of its I/O has ended: what is written now stays.
    uint8_t *data = aligned_alloc(4096, 4096);
    memset(data, 'y', 4096);
    for (uint64_t at = 0; at < 32 << 20; at += 1 << 19)
        assert_int_equal(rig_run(store, BLOCK_WRITE, 0, at, 4096, data), 0);
    for (uint64_t at = 0; at < 32 << 20; at += 1 << 19) {
        assert_int_equal(rig_run(store, BLOCK_READ, 0, at, 4096, data), 0);
        assert_int_equal(data[4095], 'y');
    }
    free(data);
    (void)store_free(store);
    (void)waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
}

// ---- errors

// More is written than the file system holds: the writer is told, and what was there before is
// still there.
static void full_file_system_is_reported(void **state)
{
    if (!*small)
        skip();
    char path[128];
    snprintf(path, sizeof(path), "%s/volume", small);
    struct store_config config = {.path = make_file(path, 200 << 20)};
    struct store *store = rig_open(&config);
    size_t length = 1 << 17;
    uint8_t *data = malloc(length), first = 0;
    assert_non_null(data);
    memset(data, 7, length);
    int r = 0;
    uint64_t at = 0;
    for (; r == 0 && at < 200 << 20; at += length)
        r = rig_run(store, BLOCK_WRITE, 0, at, length, data);
    assert_int_equal(r, -ENOSPC);
    length = 1 << 20; // and through the ring
    data = realloc(data, length);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, at, length, data), -ENOSPC);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, 1, &first), 0);
    assert_int_equal(first, 7);
    assert_int_equal(rig_run(store, BLOCK_DISCARD, 0, 0, 8 << 20, NULL), 0);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, at, length, data), 0);
    (void)store_free(store);
    free(data);
    unlink(path);
}

// Somebody cuts the file short: reads behind its end fail, they do not invent zeros.
static void truncated_file_is_an_error(void **state)
{
    struct store_config config = {.path = make_file(in_dir("f"), 1 << 20)};
    struct store *store = rig_open(&config);
    uint8_t data[4096];
    unsigned flags;
    uint64_t length;
    assert_int_equal(truncate(config.path, 65536), 0);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 65536, sizeof(data), data), -EIO);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 65536 - 100, sizeof(data), data), -EIO);
    store_extent(store, 70000, 1000, &flags, &length);
    assert_int_equal(flags, 0);
    assert_int_equal(length, 1000);
    (void)store_free(store);
}

static void set_faults(const char *control, const char *lines)
{
    assert_int_equal(file_replace(control, lines, strlen(lines), 0600, NULL), 0);
}

static struct store *open_faulty(const char *control)
{
    char path[600];
    snprintf(path, sizeof(path), "fault:%s:%s", control, make_file(in_dir("f"), 1 << 20));
    struct store_config config = {.path = path};
    return rig_open(&config);
}

static void failed_flush_is_final(void **state)
{
    const char *control = in_dir("faults");
    struct store *store = open_faulty(control);
    uint8_t data[512] = {1};
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), 0);
    assert_int_equal(rig_run(store, BLOCK_FLUSH, 0, 0, 0, NULL), 0);
    set_faults(control, "flush EIO\n");
    assert_int_equal(rig_run(store, BLOCK_FLUSH, 0, 0, 0, NULL), -EIO);
    set_faults(control, "");
    assert_int_equal(rig_run(store, BLOCK_FLUSH, 0, 0, 0, NULL), -EIO);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), -EIO);
    assert_int_equal(rig_run(store, BLOCK_ZERO, 0, 0, sizeof(data), NULL), -EIO);
    assert_int_equal(rig_run(store, BLOCK_DISCARD, 0, 0, sizeof(data), NULL), -EIO);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, sizeof(data), data), 0);
    assert_false(store_is_up(store));
    assert_non_null(strstr(store_state_text(store), "a flush has failed"));
    (void)store_free(store);
    store = open_faulty(control);
    assert_int_equal(rig_run(store, BLOCK_FLUSH, 0, 0, 0, NULL), 0);
    (void)store_free(store);
    unlink(control);
}

// A device that runs out of space behind its page cache: the writes succeed, the flush does not,
// and stays failed.
static void lost_writeback_is_final(void **state)
{
    char path[128];
    if (!*small)
        skip();
    snprintf(path, sizeof(path), "%s/backing", small);
    command_line(loop, sizeof(loop), "losetup --show -f '%s' 2>/dev/null",
                 make_file(path, 200 << 20));
    if (!*loop)
        skip();
    struct store_config config = {.path = loop};
    struct store *store = rig_open(&config);
    size_t length = 1 << 20;
    uint8_t *data = malloc(length);
    assert_non_null(data);
    memset(data, 7, length);
    for (uint64_t at = 0; at < 100 << 20; at += length)
        assert_int_equal(rig_run(store, BLOCK_WRITE, 0, at, length, data), 0);
    int failed = rig_run(store, BLOCK_FLUSH, 0, 0, 0, NULL);
    assert_true(failed < 0);
    assert_int_equal(rig_run(store, BLOCK_FLUSH, 0, 0, 0, NULL), failed);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, length, data), failed);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, length, data), 0);
    assert_false(store_is_up(store));
    (void)store_free(store);
    free(data);
    detach_loop();
    unlink(path);
}

static void faults_come_on_command(void **state)
{
    const char *control = in_dir("faults");
    struct store *store = open_faulty(control);
    uint8_t data[512] = {1};
    set_faults(control, "nonsense\nwrite ENOSPC 4096 512\nread EIO 0 1\n");
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 4096 + 511, 1, data), -ENOSPC);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 4096 + 512, 1, data), 0);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, 512, data), -EIO);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 1, 512, data), 0);
    (void)store_free(store);
    unlink(control);
}

static void done_flag(struct block_request *request, int status)
{
    assert_int_equal(status, 0);
    *(bool *)request->owner = true;
}

static void hanging_request_is_busy(void **state)
{
    const char *control = in_dir("faults");
    struct store *store = open_faulty(control);
    uint8_t data[512] = {1};
    bool done = false;
    struct block_request request = {
        .op = BLOCK_WRITE, .length = 512, .data = data, .done = done_flag, .owner = &done};
    set_faults(control, "any hang\n");
    block_submit(store_block(store), &request);
    block_kick(store_block(store));
    for (int i = 0; i < 3; i++)
        rig_turn(store, 1000);
    assert_false(done);
    assert_true(store_busy(store));
    set_faults(control, "");
    rig_wait(store, &done);
    assert_false(store_busy(store));
    (void)store_free(store);
    unlink(control);
}

// ---- extents

static void count_done(struct block_request *request, int status)
{
    assert_int_equal(status, 0);
    (*(unsigned *)request->owner)++;
}

static void wait_for(struct store *store, const unsigned *count, unsigned wanted)
{
    while (*count < wanted) {
        struct pollfd p = {.fd = store_fd(store), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 120000), 1);
        store_work(store);
    }
}

static void flushes_wait_until_told(void **state)
{
    struct store_config config = {.path = make_file(in_dir("told"), 1 << 20), .sync_when_told = true};
    struct store *store = NULL;
    unsigned done = 0;
    struct block_request flush = {.op = BLOCK_FLUSH, .done = count_done, .owner = &done};
    assert_int_equal(store_open(&config, &store, NULL), 0);
    struct block *block = store_block(store);

    assert_false(store_sync(store, true));
    block->ops->submit(block, &flush);
    block_kick(block);
    store_work(store);
    assert_int_equal(done, 0);
    assert_false(store_sync(store, false)); // by the kernel
    wait_for(store, &done, 1);

    // Here, and delivered by the next work. One that comes meanwhile is not covered by it.
    struct block_request late = flush;
    bool here = false;
    for (int i = 0; i < 1000 && !here; i++) { // a sync of a busy machine may have been a slow one
        done = 0;
        block->ops->submit(block, &flush);
        block_kick(block);
        here = store_sync(store, true);
        if (!here)
            wait_for(store, &done, 1);
    }
    assert_true(here);
    assert_int_equal(done, 0);
    block->ops->submit(block, &late);
    store_work(store);
    assert_int_equal(done, 1);
    (void)store_sync(store, false);
    wait_for(store, &done, 2);
    store_free(store);
}

static void extents_tell_holes_from_data(void **state)
{
    struct store_config config = {.path = make_file(in_dir("f"), 1 << 20)};
    struct store *store = rig_open(&config);
    uint8_t data[65536];
    unsigned flags;
    uint64_t length;
    memset(data, 1, sizeof(data));
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 131072, sizeof(data), data), 0);
    store_extent(store, 0, 1 << 20, &flags, &length);
    assert_int_equal(flags, STORE_EXTENT_HOLE | STORE_EXTENT_ZERO);
    assert_int_equal(length, 131072);
    store_extent(store, 131072, 1 << 19, &flags, &length);
    assert_int_equal(flags, 0);
    assert_int_equal(length, sizeof(data));
    store_extent(store, 131072 + sizeof(data), 100, &flags, &length);
    assert_int_equal(flags, STORE_EXTENT_HOLE | STORE_EXTENT_ZERO);
    assert_int_equal(length, 100);
    (void)store_free(store);
}

static void told(struct block_request *request, int status)
{
    assert_int_equal(status, 0);
    *(bool *)request->owner = true;
}

// A large read of a hole fills nothing, where that was allowed; data and small reads always do.
static void holes_are_told_where_allowed(void **state)
{
    struct store_config config = {.path = make_file(in_dir("f"), 1 << 20)};
    struct store *store = rig_open(&config);
    static uint8_t data[131072];
    memset(data, 1, 4096);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 524288, 4096, data), 0);
    const struct {
        uint64_t offset, length;
        unsigned flags;
        bool zeros;
    } cases[] = {{0, sizeof(data), BLOCK_TELL_ZEROS, true}, {0, sizeof(data), 0, false},
                 {524288 - 65536, sizeof(data), BLOCK_TELL_ZEROS, false}, {0, 4096, BLOCK_TELL_ZEROS, false}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        bool done = false;
        memset(data, 7, sizeof(data));
        struct block_request request = {.op = BLOCK_READ, .flags = cases[i].flags, .offset = cases[i].offset,
                                        .length = cases[i].length, .data = data, .done = told, .owner = &done};
        block_submit(store_block(store), &request);
        block_kick(store_block(store));
        rig_wait(store, &done);
        assert_int_equal(request.zeros, cases[i].zeros);
        assert_int_equal(data[0], cases[i].zeros ? 7 : 0);
    }
    (void)store_free(store);
}

static int set_up(void **state)
{
    if (!mkdtemp(dir))
        return -1;
    snprintf(small, sizeof(small), "%s/small", dir);
    if (mkdir(small, 0700) < 0 || mount("tmpfs", small, "tmpfs", 0, "size=64m") < 0)
        small[0] = '\0';
    return 0;
}

static int tear_down(void **state)
{
    char line[16];
    detach_loop();
    if (*small)
        (void)umount(small);
    command_line(line, sizeof(line), "rm -rf %s", dir);
    return 0;
}

#define KIND(test, kind)                                                                           \
    {                                                                                              \
#test " (" #kind ")", test, NULL, NULL, (void *)open_##kind                                \
    }
#define ALL(kind)                                                                                  \
    KIND(random_requests, kind), KIND(large_request, kind), KIND(callbacks_submit, kind),          \
        KIND(zeros, kind), KIND(free_ends_everything, kind)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ALL(buffered),
        ALL(direct),
        ALL(tmpfs),
        ALL(loop),
        ALL(loop_direct),
        cmocka_unit_test(missing_path_is_refused),
        cmocka_unit_test(wrong_kind_is_refused),
        cmocka_unit_test(wrong_size_is_refused),
        cmocka_unit_test(short_device_is_refused),
        cmocka_unit_test(read_only_store_is_refused),
        cmocka_unit_test(mounted_device_is_refused),
        cmocka_unit_test(image_of_a_guest_is_refused),
        cmocka_unit_test(second_owner_waits),
        cmocka_unit_test(lock_outlives_a_killed_owner),
        cmocka_unit_test(full_file_system_is_reported),
        cmocka_unit_test(truncated_file_is_an_error),
        cmocka_unit_test(failed_flush_is_final),
        cmocka_unit_test(lost_writeback_is_final),
        cmocka_unit_test(faults_come_on_command),
        cmocka_unit_test(hanging_request_is_busy),
        cmocka_unit_test(flushes_wait_until_told),
        cmocka_unit_test(extents_tell_holes_from_data),
        cmocka_unit_test(holes_are_told_where_allowed),
    };
    return cmocka_run_group_tests_name("store", tests, set_up, tear_down);
}
