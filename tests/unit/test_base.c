// SPDX-License-Identifier: Apache-2.0
// common/base: cursors refuse to read past the end; state survives a torn save and tells damage from "never saved".
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/bytes.h"
#include "common/base/checksum.h"
#include "common/base/closer.h"
#include "common/base/file.h"
#include "common/base/twin.h"

#include <xxhash.h>

static char dir[] = "/tmp/test_base_XXXXXX";

static void cursor_stops_at_the_end(void **state)
{
    uint8_t data[6] = {1, 0, 2, 0, 0, 0};
    struct byte_reader r = byte_reader(data, sizeof(data));
    assert_int_equal(byte_u16(&r), 1);
    assert_int_equal(byte_u32(&r), 2);
    assert_false(r.bad);
    assert_int_equal(byte_u8(&r), 0);
    assert_true(r.bad);
}

static void writer_refuses_to_overflow(void **state)
{
    uint8_t data[4];
    struct byte_writer w = byte_writer(data, sizeof(data));
    byte_put_u32(&w, 7);
    assert_false(w.bad);
    byte_put_u8(&w, 1);
    assert_true(w.bad);
    assert_int_equal(w.used, 4);
}

// Whatever build of it the processor gets: the sums on disk and wire are XXH3's.
static void checksum_is_xxh3_at_every_size(void **state)
{
    uint8_t data[5000];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 31 + i / 251);
    for (size_t size = 0; size < sizeof(data); size += size < 1100 ? 1 : 97)
        assert_int_equal(checksum64(data, size), XXH3_64bits(data, size));
}

static void file_replace_gives_old_or_new(void **state)
{
    char path[256];
    struct error err = {0};
    snprintf(path, sizeof(path), "%s/f", dir);
    assert_int_equal(file_replace(path, "one", 3, 0600, &err), 0);
    assert_int_equal(file_replace(path, "three", 5, 0600, &err), 0);
    char *data = NULL;
    size_t size = 0;
    assert_int_equal(file_read(path, 100, &data, &size, &err), 0);
    assert_int_equal(size, 5);
    assert_string_equal(data, "three");
    free(data);
    assert_int_equal(file_read(path, 4, &data, &size, &err), -EFBIG);
}

static void damage_byte(const char *path, int copy, off_t offset)
{
    char name[300];
    snprintf(name, sizeof(name), "%s.%d", path, copy);
    int fd = open(name, O_RDWR);
    assert_true(fd >= 0);
    uint8_t b;
    assert_int_equal(pread(fd, &b, 1, offset), 1);
    b ^= 0x40;
    assert_int_equal(pwrite(fd, &b, 1, offset), 1);
    close(fd);
}

// What is saved is what is loaded, also after a version above which there is no other.
static void twin_with_an_impossible_version_is_damaged(void **state)
{
    struct {
        uint32_t magic, size;
        uint64_t version, payload_sum, header_sum;
    } header = {.magic = htole32(0x4e495754), .version = UINT64_MAX};
    char path[256], name[300], got[64];
    struct error err = {0};
    struct twin *twin = NULL;
    size_t size;
    snprintf(path, sizeof(path), "%s/version", dir);
    snprintf(name, sizeof(name), "%s.1", path);
    header.payload_sum = htole64(checksum64("", 0));
    header.header_sum = htole64(checksum64(&header, sizeof(header)));
    int fd = open(name, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, &header, sizeof(header)), sizeof(header));
    close(fd);
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), -EUCLEAN);
    assert_int_equal(twin_save(twin, "saved", 5, &err), 0);
    twin = twin_free(twin);
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), 0);
    assert_int_equal(size, 5);
    twin_free(twin);
}

// What is too large to be ours is damage, and can be overwritten like any other.
static void twin_that_is_too_large_can_be_overwritten(void **state)
{
    char path[256], got[64];
    struct error err = {0};
    struct twin *twin = NULL;
    size_t size;
    snprintf(path, sizeof(path), "%s/large", dir);
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(twin_save(twin, "much too large", 14, &err), 0);
    twin = twin_free(twin);
    assert_int_equal(twin_open(path, got, 13, &twin, &size, &err), -EUCLEAN);
    assert_int_equal(twin_save(twin, "saved", 5, &err), 0);
    twin = twin_free(twin);
    assert_int_equal(twin_open(path, got, 13, &twin, &size, &err), 0);
    assert_int_equal(size, 5);
    assert_memory_equal(got, "saved", 5);
    twin_free(twin);
}

// Invariant of twin.h: whatever single copy is damaged, the other one counts; damage is never "empty".
static void twin_survives_a_torn_copy(void **state)
{
    char path[256], got[64];
    struct error err = {0};
    struct twin *twin = NULL;
    struct twin_copy copies[2];
    size_t size = 99;
    snprintf(path, sizeof(path), "%s/state", dir);
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), 0);
    assert_int_equal(size, 0);
    assert_int_equal(twin_save(twin, "first", 5, &err), 0);
    assert_int_equal(twin_save(twin, "second", 6, &err), 0);
    twin = twin_free(twin);
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), 0);
    assert_int_equal(size, 6);
    assert_memory_equal(got, "second", 6);
    assert_null(twin_repaired(twin));
    twin = twin_free(twin);

    // The opening has made both copies equal: nothing older comes back, whichever rots.
    for (int copy = 0; copy < 2; copy++) {
        damage_byte(path, copy, 33);
        memset(got, 0, sizeof(got));
        assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), 0);
        assert_memory_equal(got, "second", 6);
        assert_non_null(strstr(twin_repaired(twin), copy ? "state.1: the content" : "state.0: the content"));
        twin = twin_free(twin);
    }

    // A crash in the middle of a save leaves the former content.
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), 0);
    assert_int_equal(twin_save(twin, "third", 5, &err), 0);
    twin = twin_free(twin);
    assert_int_equal(twin_inspect(path, got, sizeof(got), &size, copies, &err), 0);
    assert_memory_equal(got, "third", 5);
    int last = copies[1].version > copies[0].version;
    assert_int_equal(copies[last].version, copies[!last].version + 1);
    damage_byte(path, last, 33);
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), 0);
    assert_memory_equal(got, "second", 6);
    twin = twin_free(twin);

    damage_byte(path, 0, 33);
    damage_byte(path, 1, 3);
    assert_int_equal(twin_inspect(path, got, sizeof(got), &size, copies, &err), -EUCLEAN);
    assert_int_equal(copies[0].offset, 32);
    assert_int_equal(copies[1].offset, 0);
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), -EUCLEAN);
    assert_non_null(twin);
    assert_int_equal(twin_save(twin, "again", 5, &err), 0);
    twin = twin_free(twin);
    assert_int_equal(twin_open(path, got, sizeof(got), &twin, &size, &err), 0);
    assert_memory_equal(got, "again", 5);
    twin_free(twin);
}

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    char command[300];
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

// ---- Damage of every byte of a twin ----

struct twin_image {
    char path[256];
    int fd[2];
    uint8_t bytes[2][TWIN_FILE_SIZE];
};

static void image_make(struct twin_image *image)
{
    struct twin *twin = NULL;
    char name[300], got[64];
    size_t size;
    snprintf(image->path, sizeof(image->path), "%s/damaged", dir);
    assert_int_equal(twin_open(image->path, got, sizeof(got), &twin, &size, NULL), 0);
    assert_int_equal(twin_save(twin, "the former content", 18, NULL), 0);
    assert_int_equal(twin_mirror(twin, NULL), 0);
    assert_int_equal(twin_save(twin, "what counts", 11, NULL), 0);
    assert_int_equal(twin_mirror(twin, NULL), 0);
    twin_free(twin);
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s.%d", image->path, i);
        image->fd[i] = open(name, O_RDWR);
        assert_true(image->fd[i] >= 0);
        assert_int_equal(pread(image->fd[i], image->bytes[i], TWIN_FILE_SIZE, 0), TWIN_FILE_SIZE);
    }
}

static void image_restore(const struct twin_image *image, int copy, size_t at, size_t size)
{
    assert_int_equal(pwrite(image->fd[copy], image->bytes[copy] + at, size, (off_t)at), size);
}

// Looks at it, as fsck does, so that nothing is repaired. The newest content, or (where `may_fail`) damage; never
// another one, never "empty".
static void image_judge(const struct twin_image *image, bool may_fail)
{
    struct twin_copy copies[2];
    char got[64] = "";
    size_t size = 0;
    int r = twin_inspect(image->path, got, sizeof(got), &size, copies, NULL);
    if (may_fail && r == -EUCLEAN)
        return; // and never a pair of files that was not saved to
    assert_int_equal(r, 0);
    assert_int_equal(size, 11);
    assert_memory_equal(got, "what counts", 11);
}

#define TWIN_USED (32 + 18 + 8) // header, the longest content, some behind it

static void every_damaged_byte_of_a_twin_is_found(void **state)
{
    struct twin_image *image = calloc(1, sizeof(*image));
    image_make(image);
    for (size_t at = 0; at < TWIN_USED; at++) {
        uint8_t byte[2];
        for (int copy = 0; copy < 2; copy++) {
            byte[copy] = image->bytes[copy][at] ^ (uint8_t)(1U << at % 8);
            assert_int_equal(pwrite(image->fd[copy], &byte[copy], 1, (off_t)at), 1);
            image_judge(image, false);
            image_restore(image, copy, at, 1);
        }
        for (size_t other = 0; other < TWIN_USED; other += 3) {
            uint8_t second = image->bytes[1][other] ^ 0x80;
            assert_int_equal(pwrite(image->fd[0], &byte[0], 1, (off_t)at), 1);
            assert_int_equal(pwrite(image->fd[1], &second, 1, (off_t)other), 1);
            image_judge(image, true);
            image_restore(image, 0, at, 1);
            image_restore(image, 1, other, 1);
        }
    }
    close(image->fd[0]);
    close(image->fd[1]);
    free(image);
}

static void a_twin_cut_or_wiped_is_found(void **state)
{
    static const uint8_t zeros[512];
    struct twin_image *image = calloc(1, sizeof(*image));
    image_make(image);
    for (int copy = 0; copy < 2; copy++) {
        for (off_t size = 0; size < TWIN_FILE_SIZE; size += size < TWIN_USED ? 1 : 8191) {
            assert_int_equal(ftruncate(image->fd[copy], size), 0);
            image_judge(image, false);
            assert_int_equal(ftruncate(image->fd[!copy], size), 0);
            image_judge(image, size < TWIN_USED);
            for (int i = 0; i < 2; i++)
                image_restore(image, i, 0, TWIN_FILE_SIZE);
        }
        assert_int_equal(pwrite(image->fd[copy], zeros, sizeof(zeros), 0), sizeof(zeros));
        image_judge(image, false);
        assert_int_equal(pwrite(image->fd[!copy], zeros, sizeof(zeros), 0), sizeof(zeros));
        image_judge(image, true);
        image_restore(image, !copy, 0, sizeof(zeros));
        image_restore(image, copy, 0, sizeof(zeros));
    }
    close(image->fd[0]);
    close(image->fd[1]);
    free(image);
}

static void a_twin_cut_behind_its_content_is_made_whole(void **state)
{
    struct twin_image *image = calloc(1, sizeof(*image));
    struct twin_copy copies[2];
    struct twin *twin = NULL;
    char got[64];
    size_t size;
    image_make(image);
    for (int copy = 0; copy < 2; copy++)
        assert_int_equal(ftruncate(image->fd[copy], 4096 + copy), 0);
    assert_int_equal(twin_open(image->path, got, sizeof(got), &twin, &size, NULL), 0);
    assert_int_equal(size, 11);
    assert_non_null(twin_repaired(twin));
    twin_free(twin);
    assert_int_equal(twin_inspect(image->path, got, sizeof(got), &size, copies, NULL), 0);
    assert_true(copies[0].bytes == TWIN_FILE_SIZE && copies[1].bytes == TWIN_FILE_SIZE);
    close(image->fd[0]);
    close(image->fd[1]);
    free(image);
}

// A thread closes what it was given, all of it, however much comes at once; without one, it is closed here.
static void closer_closes_everything(void **state)
{
    struct closer *closer = NULL;
    int ends[2], zero;
    assert_int_equal(closer_new(&closer), 0);
    assert_int_equal(pipe(ends), 0);
    for (int i = 0; i < 200; i++) {
        int copy = dup(ends[1]);
        assert_true(copy >= 0);
        closer_close(closer, copy);
    }
    closer_close(closer, -1);
    closer_close(NULL, ends[1]);
    assert_null(closer_free(closer));
    assert_int_equal(read(ends[0], &zero, 1), 0); // nobody has the other end any more
    (void)close(ends[0]);
    assert_null(closer_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cursor_stops_at_the_end),
        cmocka_unit_test(writer_refuses_to_overflow),
        cmocka_unit_test(checksum_is_xxh3_at_every_size),
        cmocka_unit_test(file_replace_gives_old_or_new),
        cmocka_unit_test(twin_survives_a_torn_copy),
        cmocka_unit_test(every_damaged_byte_of_a_twin_is_found),
        cmocka_unit_test(a_twin_cut_or_wiped_is_found),
        cmocka_unit_test(a_twin_cut_behind_its_content_is_made_whole),
        cmocka_unit_test(twin_with_an_impossible_version_is_damaged),
        cmocka_unit_test(twin_that_is_too_large_can_be_overwritten),
        cmocka_unit_test(closer_closes_everything),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
