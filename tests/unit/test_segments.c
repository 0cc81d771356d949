// SPDX-License-Identifier: Apache-2.0
// common/store/segments: a queue's disk on a real directory; the safe queue and the replica run on
// it as they do on the fake one.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/store/segments.h"
#include "passive_help.h"
#include "queues/safe.h"

#define SEGMENT (64U * 1024)

static char dir[] = "/tmp/test_segments_XXXXXX";

static int clear_dir(void **state)
{
    DIR *d = opendir(dir);
    const struct dirent *e;
    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.')
            (void)unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        (void)closedir(d);
    return 0;
}

static struct segments *open_segments(unsigned flags)
{
    struct segments *segments = NULL;
    assert_int_equal(segments_open(dir, flags, &segments, NULL), 0);
    return segments;
}

static void wait_until_done(struct segments *segments, const int *status)
{
    while (*status == 1) {
        struct pollfd p = {.fd = segments_fd(segments), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 120000), 1);
        segments_work(segments);
    }
}

static void count_slot(void *arg, uint32_t slot)
{
    *(unsigned *)arg |= 1U << slot;
}

static void files_are_allocated_listed_and_removed(void **state)
{
    struct segments *segments = open_segments(0);
    struct disk *disk = segments_disk(segments);
    struct disk_file *file = NULL;
    struct stat st;
    unsigned slots = 0;
    char path[128];
    uint8_t back[8];
    uint64_t size;

    assert_int_equal(disk->ops->create(disk, 3, SEGMENT, &file), 0);
    assert_int_equal(disk->ops->dir_sync(disk), 0);
    (void)snprintf(path, sizeof(path), "%s/segment.0003", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, SEGMENT);
    assert_true(st.st_blocks * 512 >= SEGMENT);
    char text[] = "abcdefgh";
    struct iovec parts[3] = {{text, 3}, {text, 0}, {text + 3, 5}};
    assert_int_equal(disk->ops->write(file, 1000, parts, 3), 0);
    assert_int_equal(disk->ops->sync(file), 0);
    assert_int_equal(disk->ops->read(file, 1000, back, 8), 0);
    assert_memory_equal(back, "abcdefgh", 8);
    assert_int_equal(disk->ops->read(file, SEGMENT - 4, back, 8), -EIO);
    disk->ops->close(file);
    assert_int_equal(disk->ops->create(disk, 3, SEGMENT, &file), -EEXIST);

    // Files that are none of ours are left alone.
    (void)snprintf(path, sizeof(path), "%s/segment.3", dir);
    (void)close(open(path, O_CREAT | O_WRONLY, 0600));
    (void)snprintf(path, sizeof(path), "%s/segment.0004.old", dir);
    (void)close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(disk->ops->list(disk, count_slot, &slots), 0);
    assert_int_equal(slots, 1U << 3);
    assert_int_equal(disk->ops->open(disk, 3, &file, &size), 0);
    assert_int_equal(size, SEGMENT);
    disk->ops->close(file);
    disk->ops->close(NULL);
    assert_int_equal(disk->ops->open(disk, 5, &file, &size), -ENOENT);
    assert_int_equal(disk->ops->remove(disk, 3), 0);
    assert_int_equal(disk->ops->remove(disk, 3), -ENOENT);
    segments_free(segments);
}

static void a_missing_directory_is_named(void **state)
{
    struct segments *segments = NULL;
    struct error err = {0};

    assert_int_equal(segments_open("/nonexistent/queue", 0, &segments, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/queue"));
    assert_null(segments_free(NULL));
}

static void a_file_too_large_leaves_nothing(void **state)
{
    struct segments *segments = open_segments(0);
    struct disk *disk = segments_disk(segments);
    struct disk_file *file = NULL;
    unsigned slots = 0;

    assert_true(disk->ops->create(disk, 1, UINT64_C(1) << 62, &file) < 0);
    assert_int_equal(disk->ops->list(disk, count_slot, &slots), 0);
    assert_int_equal(slots, 0);
    segments_free(segments);
}

static void fill(void *arg, uint64_t seq, struct record *r, uint8_t *payload, size_t limit)
{
    r->type = RECORD_WRITE;
    r->offset = le64_make(seq * 4096);
    r->length = r->payload = le32_make(4096);
    memset(payload, (int)seq, 4096);
}

static void note_status(void *arg, int status)
{
    *(int *)arg = status;
}

static void append(struct safe *safe, uint64_t first, uint32_t count)
{
    struct message_spec spec = {.first_seq = first, .count = count, .epoch = 1, .fill = fill};
    size_t size;
    CLEANUP_FREE void *message = message_make(&spec, &size);
    assert_int_equal(safe_append(safe, message, size, NULL), 0);
}

static void safe_queue_on(unsigned flags)
{
    struct segments *segments = open_segments(flags);
    struct safe_config config = {.disk = segments_disk(segments),
                                 .pair = 1,
                                 .salt = 2,
                                 .segment_size = SEGMENT,
                                 .limit = 8 * SEGMENT};
    struct safe_recovery recovery;
    struct safe *safe;
    uint64_t seq = 1;

    assert_int_equal(safe_open(&config, &safe, &recovery, NULL), 0);
    assert_int_equal(recovery.verdict, SAFE_EMPTY);
    assert_int_equal(safe_restart(safe, 1, 1, NULL), 0);
    for (unsigned i = 0; i < 40; i++, seq += 3) {
        int status = 1;
        append(safe, seq, 3);
        safe_sync(safe, note_status, &status);
        if (flags & SEGMENTS_KICKED)
            segments_kick(segments, i % 3 > 0); // by itself, or by its thread
        wait_until_done(segments, &status);
        assert_int_equal(status, 0);
        safe_settled(safe, seq - 1);
    }
    safe_free(safe);
    segments_free(segments);

    segments = open_segments(flags);
    config.disk = segments_disk(segments);
    config.salt++;
    assert_int_equal(safe_open(&config, &safe, &recovery, NULL), 0);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    assert_int_equal(recovery.last, seq - 1);
    struct safe_cursor cursor;
    CLEANUP_FREE void *message = NULL;
    size_t size;
    assert_int_equal(safe_seek(safe, seq - 2, &cursor, NULL), 0);
    assert_int_equal(safe_read(safe, &cursor, &message, &size, NULL), 0);
    assert_int_equal(cursor.seq, seq);
    safe_free(safe);
    segments_free(segments);
}

static void the_safe_queue_lives_on_it(void **state)
{
    safe_queue_on(0);
}

static void kicked_syncs_give_the_same(void **state)
{
    safe_queue_on(SEGMENTS_KICKED);
}

static void freeing_drops_what_was_not_delivered(void **state)
{
    struct segments *segments = open_segments(0);
    struct disk *disk = segments_disk(segments);
    const struct disk_ops *ops = disk->ops;
    struct disk_file *file = NULL;
    int status = 1;
    struct disk_sync syncs[8];

    assert_int_equal(ops->create(disk, 0, SEGMENT, &file), 0);
    for (unsigned i = 0; i < 8; i++) {
        syncs[i] = (struct disk_sync){.owner = &status};
        ops->sync_start(file, &syncs[i]); // done: NULL, it must not be called
    }
    segments_free(segments);
    ops->close(file);
    assert_int_equal(status, 1);
}

static void sync_done(struct disk_sync *sync, int status)
{
    *(int *)sync->owner = status;
}

static void expect_pieces(const struct disk_ops *ops, struct disk_file *file, uint64_t first, uint64_t count,
                          unsigned base)
{
    uint8_t back[4096], want[4096];
    for (uint64_t i = first; i < first + count; i++) {
        memset(want, (int)(uint8_t)(i + base), sizeof(want));
        assert_int_equal(ops->read(file, i * sizeof(back), back, sizeof(back)), 0);
        assert_memory_equal(back, want, sizeof(back));
    }
}

static void write_pieces(struct segments *segments, struct disk_file *file, uint64_t count, unsigned base)
{
    const struct disk_ops *ops = segments_disk(segments)->ops;
    uint8_t piece[4096];
    struct iovec part = {piece, sizeof(piece)};
    for (uint64_t i = 0; i < count; i++) {
        int status = 1;
        struct disk_sync sync = {.done = sync_done, .owner = &status};
        memset(piece, (int)(uint8_t)(i + base), sizeof(piece));
        assert_int_equal(ops->write(file, i * sizeof(piece), &part, 1), 0);
        ops->sync_start(file, &sync);
        segments_kick(segments, true);
        wait_until_done(segments, &status); // the first one, or a slow one, goes through the thread
        assert_int_equal(status, 0);
    }
}

// Zeros are written ahead of small syncs: behind the data, and not at all in a file that was there before.
static void zeros_ahead_never_cover_data(void **state)
{
    const uint64_t pieces = 600, used = 500;
    struct segments *segments = open_segments(SEGMENTS_KICKED);
    struct disk *disk = segments_disk(segments);
    struct disk_file *file = NULL;
    uint8_t back[4096], zeros[4096] = {0};
    uint64_t size;

    assert_int_equal(disk->ops->create(disk, 0, pieces * 4096, &file), 0);
    write_pieces(segments, file, used, 1);
    expect_pieces(disk->ops, file, 0, used, 1);
    for (uint64_t i = used; i < pieces; i++) {
        assert_int_equal(disk->ops->read(file, i * 4096, back, sizeof(back)), 0);
        assert_memory_equal(back, zeros, sizeof(back));
    }
    disk->ops->close(file);
    assert_int_equal(disk->ops->open(disk, 0, &file, &size), 0);
    assert_int_equal(size, pieces * 4096);
    write_pieces(segments, file, 50, 7);
    expect_pieces(disk->ops, file, 0, 50, 7);
    expect_pieces(disk->ops, file, 50, used - 50, 1);
    disk->ops->close(file);
    segments_free(segments);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(files_are_allocated_listed_and_removed, clear_dir),
        cmocka_unit_test(a_missing_directory_is_named),
        cmocka_unit_test_teardown(a_file_too_large_leaves_nothing, clear_dir),
        cmocka_unit_test_teardown(the_safe_queue_lives_on_it, clear_dir),
        cmocka_unit_test_teardown(kicked_syncs_give_the_same, clear_dir),
        cmocka_unit_test_teardown(zeros_ahead_never_cover_data, clear_dir),
        cmocka_unit_test_teardown(freeing_drops_what_was_not_delivered, clear_dir),
    };
    if (!mkdtemp(dir))
        return 77;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)rmdir(dir);
    return failed;
}
