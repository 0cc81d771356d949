// SPDX-License-Identifier: Apache-2.0
// queues/salvage: what was reported as kept is found after a crash at any operation of the disk, with the bytes that it
// had; nothing is kept twice, also not over a restart or a drop; each damaged byte is found or harmless.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "fake_disk.h"
#include "queues/salvage.h"
#include "queues/salvage_file.h"
#include "queues/salvage_set.h"

#define BLOCK   SALVAGE_BLOCK
#define BLOCKS  300U
#define VOLUMES 2U
#define SIZE    (BLOCKS * (uint64_t)BLOCK - 1024) // the last block is a short one

// Block `at` of a volume holds this; every fifth is zeros.
static void fill(uint8_t *to, unsigned object, uint64_t offset, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++) {
        uint64_t at = offset + i, block = at / BLOCK;
        to[i] = block % 5 == 0 ? 0 : (uint8_t)(block * 31 + object * 7 + at % 251 + 1);
    }
}

static struct salvage_config config_of(struct fake_disk *disk, uint64_t limit)
{
    struct salvage_config c = {
        .disk = fake_disk_of(disk),
        .pair = 77,
        .name = "lab",
        .side = EPOCH_BY_PRIMARY,
        .cause = SALVAGE_YIELDED,
        .epoch = {.number = 3,
                  .id = 0xabc,
                  .first_seq = 9,
                  .opened_by = EPOCH_BY_PRIMARY,
                  .reason = EPOCH_ALONE},
        .time = 1234567,
        .volumes = {{"disk", SIZE}, {"log-2", SIZE}},
        .volume_count = VOLUMES,
        .objects = 3,
        .limit = limit,
        .file_size = SALVAGE_FILE_MIN / 4096 * 4096,
    };
    return c;
}

static struct salvage *open_with(const struct salvage_config *c)
{
    struct salvage *s = NULL;
    struct error err = {0};
    if (salvage_open(c, &s, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

// Keeps what has to be kept of a range. 0 or what salvage_keep() said.
static int keep(struct salvage *s, unsigned object, uint64_t block, uint64_t count)
{
    uint64_t at, length;
    while (salvage_next(s, object, block * BLOCK, (block + count) * BLOCK, &at, &length)) {
        CLEANUP_FREE uint8_t *data = malloc(length);
        fill(data, object, at, length);
        int rc = salvage_keep(s, object, at, length, data, NULL);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void on_sync(void *arg, int status)
{
    *(int *)arg = status;
}

static int sync_now(struct salvage *s, struct fake_disk *disk)
{
    int status = 1;
    salvage_sync(s, on_sync, &status);
    while (fake_disk_complete(disk))
        ;
    assert_int_not_equal(status, 1);
    return status;
}

// ---- what is in an archive ----

struct seen {
    bool block[VOLUMES][BLOCKS]; // its bytes are there
    bool gone[VOLUMES][BLOCKS];
    unsigned salvages, torn, damaged, done, beyond;
    struct salvage_info last;
    struct disk *disk;
};

static int take(void *arg, const struct salvage_entry *e, const void *data)
{
    struct seen *seen = arg;
    if (e->kind == SALVAGE_DONE)
        return 0;
    assert_true(e->object < VOLUMES && e->offset % BLOCK == 0 && e->offset + e->length <= SIZE);
    CLEANUP_FREE uint8_t *want = malloc(e->length);
    fill(want, e->object, e->offset, e->length);
    if (e->kind == SALVAGE_DATA)
        assert_memory_equal(data, want, e->length);
    for (uint64_t i = 0; e->kind == SALVAGE_ZERO && i < e->length; i++)
        assert_int_equal(want[i], 0);
    for (uint64_t b = e->offset / BLOCK; b * BLOCK < e->offset + e->length; b++) {
        bool *to = e->kind == SALVAGE_GONE ? &seen->gone[e->object][b] : &seen->block[e->object][b];
        if (e->kind != SALVAGE_GONE && seen->block[e->object][b])
            fail_msg("block %llu was kept twice", (unsigned long long)b);
        *to = true;
    }
    return 0;
}

static void take_salvage(void *arg, const struct salvage_info *info)
{
    struct seen *seen = arg;
    seen->salvages++;
    seen->torn += info->verdict == SALVAGE_TORN;
    seen->damaged += info->verdict == SALVAGE_DAMAGED;
    seen->done += info->done;
    seen->last = *info;
    assert_int_equal(salvage_walk(seen->disk, info->number, take, seen, NULL, NULL), 0);
}

static void look(struct fake_disk *disk, struct seen *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->disk = fake_disk_of(disk);
    assert_int_equal(salvage_list(ret->disk, take_salvage, ret, &ret->beyond, NULL), 0);
}

static unsigned count(const struct seen *seen, unsigned object)
{
    unsigned n = 0;
    for (unsigned i = 0; i < BLOCKS; i++)
        n += seen->block[object][i];
    return n;
}

// ---- tests ----

// A set agrees with an array of flags, also over the edges of its pages.
static void set_agrees_with_a_model(void **state)
{
    (void)state;
    enum { N = 70000 };
    struct salvage_set *set = salvage_set_new(N);
    CLEANUP_FREE bool *model = calloc(N, sizeof(bool));
    uint64_t r = 88172645463325252U, members = 0;
    for (int round = 0; round < 300; round++) {
        r ^= r << 13, r ^= r >> 7, r ^= r << 17;
        uint64_t first = r % N, end = MIN(first + (r >> 20) % 300, N);
        assert_int_equal(salvage_set_add(set, first, end), 0);
        for (uint64_t i = first; i < end; i++)
            members += !model[i], model[i] = true;
    }
    assert_int_equal(salvage_set_count(set), members);
    for (int in = 0; in < 2; in++) {
        uint64_t at = 0, first, end;
        while (salvage_set_next(set, in, at, N, &first, &end)) {
            for (uint64_t i = at; i < first; i++)
                assert_int_equal(model[i], !in);
            for (uint64_t i = first; i < end; i++)
                assert_int_equal(model[i], in);
            at = end;
        }
        for (uint64_t i = at; i < N; i++)
            assert_int_equal(model[i], !in);
    }
    salvage_set_free(set);
}

// Data, zeros and what cannot be read come back as they were, with a header that says whose they are.
static void kept_ranges_come_back(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 32U << 20);
    struct salvage *s = open_with(&c);
    struct seen seen;
    look(disk, &seen);
    assert_int_equal(seen.salvages, 0); // nothing is created before there is something to keep
    assert_int_equal(keep(s, 0, 3, 4), 0);
    assert_int_equal(keep(s, 1, BLOCKS - 2, 2), 0);
    assert_int_equal(salvage_give_up(s, 0, 40 * BLOCK, BLOCK, -EIO, NULL), 0);
    assert_int_equal(sync_now(s, disk), 0);
    assert_int_equal(salvage_durable(s), salvage_last(s));
    look(disk, &seen);
    assert_int_equal(seen.salvages, 1);
    assert_int_equal(seen.last.verdict, SALVAGE_WHOLE);
    assert_string_equal(seen.last.name, "lab");
    assert_int_equal(seen.last.side, EPOCH_BY_PRIMARY);
    assert_int_equal(seen.last.epoch.number, 3);
    assert_string_equal(seen.last.volumes[1].name, "log-2");
    assert_int_equal(seen.last.volumes[1].size, SIZE);
    assert_int_equal(count(&seen, 0), 5);
    assert_int_equal(count(&seen, 1), 2);
    assert_int_equal(seen.last.unreadable_bytes, BLOCK);
    assert_false(seen.last.done);
    assert_int_equal(salvage_finish(s, NULL), 0);
    look(disk, &seen);
    assert_int_equal(seen.done, 1);
    salvage_free(s);
    fake_disk_free(disk);
}

// Who asks again is not told of what is kept already: at once, and after a restart.
// What is kept from some run on may be later than what the end had: the same salvage goes on, and says so from there on.
static void doubt_is_of_the_whole_salvage_from_then_on(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 32U << 20);
    struct salvage *s = open_with(&c);
    struct seen seen;
    assert_int_equal(keep(s, 0, 10, 3), 0);
    assert_int_equal(sync_now(s, disk), 0);
    salvage_free(s);
    look(disk, &seen);
    assert_int_equal(seen.last.cause, SALVAGE_YIELDED);
    c.cause = SALVAGE_DOUBTFUL;
    s = open_with(&c);
    assert_int_equal(keep(s, 0, 10, 8), 0);
    assert_int_equal(sync_now(s, disk), 0);
    assert_int_equal(salvage_finish(s, NULL), 0);
    salvage_free(s);
    look(disk, &seen);
    assert_int_equal(seen.salvages, 1);
    assert_int_equal(seen.done, 1);
    assert_int_equal(seen.last.cause, SALVAGE_DOUBTFUL);
    assert_int_equal(count(&seen, 0), 8);
    fake_disk_free(disk);
}

static void a_range_is_kept_once(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 32U << 20);
    struct salvage *s = open_with(&c);
    uint64_t at, length;
    assert_true(salvage_next(s, 0, 10 * BLOCK + 100, 10 * BLOCK + 612, &at, &length));
    assert_int_equal(at, 10 * BLOCK);
    assert_int_equal(length, BLOCK);
    assert_int_equal(keep(s, 0, 10, 3), 0);
    assert_false(salvage_next(s, 0, 10 * BLOCK, 13 * BLOCK, &at, &length));
    assert_true(salvage_next(s, 0, 9 * BLOCK, 20 * BLOCK, &at, &length));
    assert_int_equal(at, 9 * BLOCK);
    assert_int_equal(length, BLOCK);
    assert_true(salvage_next(s, 1, 10 * BLOCK, 11 * BLOCK, &at, &length));
    assert_int_equal(sync_now(s, disk), 0);
    salvage_free(s);
    fake_disk_kill(disk);
    s = open_with(&c);
    assert_false(salvage_next(s, 0, 10 * BLOCK, 13 * BLOCK, &at, &length));
    assert_int_equal(keep(s, 0, 5, 20), 0);
    assert_int_equal(sync_now(s, disk), 0);
    struct seen seen; // fails for a block that is there twice
    look(disk, &seen);
    assert_int_equal(seen.salvages, 1);
    assert_int_equal(seen.last.files, 2);
    assert_int_equal(count(&seen, 0), 20);
    // Another epoch that is given up later is another salvage, with everything to be kept anew.
    salvage_free(s);
    fake_disk_kill(disk);
    c.epoch.id++;
    s = open_with(&c);
    assert_true(salvage_next(s, 0, 10 * BLOCK, 13 * BLOCK, &at, &length));
    c.objects = 2;
    salvage_free(s);
    s = open_with(&c);
    assert_false(salvage_next(s, 0, 10 * BLOCK, 13 * BLOCK, &at, &length)); // not one of its volumes
    salvage_free(s);
    fake_disk_free(disk);
}

static bool alone_from_20(void *arg, unsigned object, uint64_t offset, uint64_t *ret_end)
{
    (void)arg;
    (void)object;
    bool alone = offset >= 20 * BLOCK && offset < 30 * BLOCK;
    *ret_end = offset < 20 * BLOCK ? 20 * BLOCK : offset < 30 * BLOCK ? 30 * BLOCK : UINT64_MAX;
    return alone;
}

// Only what this end alone holds is asked for, where that is known.
static void only_what_nobody_else_has(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 32U << 20);
    uint64_t at, length;
    c.alone = alone_from_20;
    struct salvage *s = open_with(&c);
    assert_true(salvage_next(s, 0, 0, SIZE, &at, &length));
    assert_int_equal(at, 20 * BLOCK);
    assert_int_equal(length, 10 * BLOCK);
    assert_int_equal(keep(s, 0, 0, BLOCKS), 0);
    assert_false(salvage_next(s, 0, 0, SIZE, &at, &length));
    salvage_free(s);
    fake_disk_free(disk);
}

// At its limit nothing is appended; what is there stays. After a drop it goes on, without what was dropped.
static void full_until_something_is_dropped(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 100 * 1024);
    struct salvage *s = open_with(&c);
    uint64_t block = 0, at, length;
    struct seen seen;
    int rc;
    while ((rc = keep(s, 0, block, 1)) == 0)
        block++;
    assert_int_equal(rc, -ENOSPC);
    assert_true(block > 20);
    assert_int_equal(keep(s, 0, block + 50, 1), -ENOSPC); // of this object, for good
    assert_int_equal(sync_now(s, disk), 0);               // what was kept can be made durable still
    salvage_free(s);
    s = open_with(&c);
    assert_true(salvage_next(s, 0, 0, SIZE, &at, &length));
    assert_int_equal(at, block * BLOCK);
    assert_int_equal(keep(s, 0, block, 1), -ENOSPC);
    salvage_free(s);
    look(disk, &seen);
    assert_int_equal(count(&seen, 0), block);
    assert_int_equal(salvage_drop(fake_disk_of(disk), 7, true, NULL), -ENOENT);
    assert_int_equal(salvage_drop(fake_disk_of(disk), 1, true, NULL), 0);
    s = open_with(&c);
    assert_true(salvage_next(s, 0, 0, SIZE, &at, &length));
    assert_int_equal(at, block * BLOCK);
    assert_int_equal(keep(s, 0, block, 5), 0);
    assert_int_equal(salvage_finish(s, NULL), 0);
    salvage_free(s);
    look(disk, &seen);
    assert_int_equal(count(&seen, 0), 5);
    assert_true(seen.gone[0][0] && seen.gone[0][block - 1] && !seen.gone[0][block]);
    assert_int_equal(seen.last.gone_bytes, block * BLOCK);
    assert_int_equal(salvage_drop(fake_disk_of(disk), seen.last.number, true, NULL), 0);
    look(disk, &seen);
    assert_int_equal(seen.salvages, 0);
    fake_disk_free(disk);
}

// Whoever drops again and again while a salvage goes on does not drop the list of what he has dropped: what came in its
// place would be kept as if the end had held it. When it does not go on, that list can be dropped, too.
static void the_list_of_what_was_dropped_stays_while_it_goes_on(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 1U << 20);
    struct salvage *s = open_with(&c);
    uint64_t at, length;
    struct seen seen;
    assert_int_equal(keep(s, 0, 1, 1), 0);
    assert_int_equal(sync_now(s, disk), 0);
    salvage_free(s);
    assert_int_equal(salvage_drop(fake_disk_of(disk), 1, true, NULL), 0);
    assert_int_equal(salvage_drop(fake_disk_of(disk), 2, true, NULL), -EBUSY);
    s = open_with(&c);
    assert_false(salvage_next(s, 0, BLOCK, 2 * BLOCK, &at, &length));
    salvage_free(s);
    look(disk, &seen);
    assert_int_equal(seen.salvages, 1);
    assert_int_equal(salvage_drop(fake_disk_of(disk), 2, false, NULL), 0);
    look(disk, &seen);
    assert_int_equal(seen.salvages, 0);
    fake_disk_free(disk);
}

// Of one that was left, and does not go on, nothing stays.
static void what_does_not_go_on_is_dropped_as_a_whole(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 1U << 20);
    struct salvage *s = open_with(&c);
    struct seen seen;
    assert_int_equal(keep(s, 0, 1, 1), 0);
    salvage_free(s);
    assert_int_equal(salvage_drop(fake_disk_of(disk), 1, false, NULL), 0);
    look(disk, &seen);
    assert_int_equal(seen.salvages, 0);
    fake_disk_free(disk);
}

// A drop on a disk that is full to the last byte succeeds, and keeps the ranges.
static void a_drop_on_a_full_disk(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(40 * 1024, 1);
    struct salvage_config c = config_of(disk, 40 * 1024);
    struct salvage *s = open_with(&c);
    struct seen seen;
    for (unsigned block = 1; keep(s, 0, block, 1) == 0; block++)
        ;
    assert_int_equal(sync_now(s, disk), 0);
    salvage_free(s);
    assert_int_equal(salvage_drop(fake_disk_of(disk), 1, true, NULL), 0);
    look(disk, &seen);
    assert_int_equal(seen.salvages, 1);
    assert_true(seen.gone[0][1]);
    fake_disk_free(disk);
}

// Whatever lies in a file that is not the last one can be relied on, without anybody having asked for it.
static void a_file_that_is_full_is_durable(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 8U << 20);
    struct salvage *s = open_with(&c);
    struct seen seen;
    unsigned blocks = 0;
    for (; fake_disk_slots(disk) < 2 && blocks < VOLUMES * BLOCKS; blocks++)
        assert_int_equal(keep(s, blocks / BLOCKS, blocks % BLOCKS, 1), 0);
    assert_int_equal(fake_disk_slots(disk), 2);
    assert_true(salvage_durable(s) > 0 && salvage_durable(s) < salvage_last(s));
    struct fake_disk *cut = fake_disk_worst(disk, 1);
    look(cut, &seen);
    assert_int_equal(count(&seen, 0) + count(&seen, 1), blocks - 1); // the last one is in the new file
    assert_int_equal(seen.damaged + seen.beyond, 0);
    fake_disk_free(cut);
    salvage_free(s);
    fake_disk_free(disk);
}

// What a sync covered that failed is not known to be there, whatever a later one says.
static void a_failed_sync_is_final(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 8U << 20);
    struct salvage *s = open_with(&c);
    assert_int_equal(keep(s, 0, 1, 10), 0);
    fake_disk_fail(disk, 1, -EIO, false);
    assert_int_equal(sync_now(s, disk), -EIO);
    fake_disk_fail(disk, 0, 0, false);
    assert_int_equal(salvage_failure(s), -EIO);
    assert_int_equal(salvage_durable(s), 0);
    assert_int_equal(keep(s, 0, 20, 10), -EIO);
    assert_true(salvage_finish(s, NULL) < 0);
    salvage_free(s);
    fake_disk_free(disk);
}

// Two runs that keep and sync, the second one after a crash. Whatever was reported as durable, in `promised`.
static void two_runs(struct fake_disk *disk, bool promised[BLOCKS], unsigned crash_at, bool kill)
{
    struct salvage_config c = config_of(disk, 8U << 20);
    c.file_size = SALVAGE_FILE_MIN / 4096 * 4096;
    for (int run = 0; run < 2; run++) {
        struct salvage *s = NULL;
        bool pending[BLOCKS] = {false};
        if (run == 0)
            fake_disk_fail(disk, crash_at, -EIO, true);
        int rc = salvage_open(&c, &s, NULL);
        if (run == 1)
            assert_int_equal(rc, 0);
        for (unsigned i = 0; rc == 0 && i < BLOCKS; i += 1 + i % 40) {
            unsigned n = MIN(1 + i % 40, BLOCKS - i);
            rc = keep(s, 0, i, n);
            for (unsigned k = 0; rc == 0 && k < n; k++)
                pending[i + k] = true;
            if (rc == 0 && i % 3 == 0 && salvage_last(s) > salvage_durable(s))
                rc = sync_now(s, disk);
            if (rc == 0 && salvage_last(s) == salvage_durable(s))
                for (unsigned k = 0; k < BLOCKS; k++)
                    promised[k] = promised[k] || pending[k];
        }
        if (rc == 0 && (rc = salvage_finish(s, NULL)) == 0)
            memset(promised, true, BLOCKS);
        fake_disk_fail(disk, 0, 0, false);
        if (kill)
            fake_disk_kill(disk);
        else
            fake_disk_crash(disk);
        salvage_free(s);
    }
}

// A crash at any operation: what was reported is there, and what is there is right.
static void a_crash_at_every_operation(void **state)
{
    (void)state;
    for (unsigned round = 1; round < 120; round++) {
        struct fake_disk *disk = fake_disk_new(64U << 20, round);
        bool promised[BLOCKS] = {false};
        struct seen seen;
        two_runs(disk, promised, round, round % 3 == 0);
        look(disk, &seen);
        assert_int_equal(seen.damaged + seen.beyond, 0);
        for (unsigned i = 0; i < BLOCKS; i++)
            if (promised[i] && !seen.block[0][i])
                fail_msg("crash at %u: block %u was promised", round, i);
        assert_int_equal(count(&seen, 0), BLOCKS);
        fake_disk_free(disk);
    }
}

// A crash at any operation of a drop: it is there, or it is gone, or it is shown and can be dropped again; and the next
// run does not ask for what had been kept.
static void a_crash_within_a_drop(void **state)
{
    (void)state;
    for (unsigned at = 1; at < 14; at++) {
        struct fake_disk *disk = fake_disk_new(64U << 20, at);
        struct salvage_config c = config_of(disk, 200 * 1024);
        struct salvage *s = open_with(&c);
        uint64_t from, length;
        struct seen seen;
        c.file_size = 4096;
        assert_int_equal(keep(s, 0, 10, 30), 0);
        assert_int_equal(sync_now(s, disk), 0);
        salvage_free(s);
        fake_disk_fail(disk, at, -EIO, true);
        int rc = salvage_drop(fake_disk_of(disk), 1, true, NULL);
        fake_disk_fail(disk, 0, 0, false);
        fake_disk_crash(disk);
        c = config_of(disk, 1U << 20);
        s = open_with(&c);
        assert_false(salvage_next(s, 0, 10 * BLOCK, 40 * BLOCK, &from, &length));
        salvage_free(s);
        look(disk, &seen);
        assert_true(rc < 0 || count(&seen, 0) == 0);
        for (unsigned i = 1; i < 4; i++)
            (void)salvage_drop(fake_disk_of(disk), i, true, NULL);
        look(disk, &seen);
        assert_int_equal(count(&seen, 0), 0);
        fake_disk_free(disk);
    }
}

// Each byte of each file, flipped: said, or nothing that counts has changed.
static void every_damaged_byte_is_harmless_or_found(void **state)
{
    (void)state;
    struct fake_disk *disk = fake_disk_new(64U << 20, 1);
    struct salvage_config c = config_of(disk, 24 * 1024);
    struct seen whole, seen;
    for (unsigned run = 0; run < 3; run++) { // three files
        struct salvage *s = open_with(&c);
        assert_int_equal(keep(s, 0, 1 + run, 1), 0);
        assert_int_equal(sync_now(s, disk), 0);
        assert_int_equal(keep(s, 0, 5 + run * 10, 1), 0); // zeros
        assert_int_equal(sync_now(s, disk), 0);
        c.limit += 12 * 1024;
        salvage_free(s);
    }
    look(disk, &whole);
    assert_int_equal(whole.last.verdict, SALVAGE_WHOLE);
    assert_int_equal(whole.last.files, 3);
    unsigned harmless = 0;
    for (uint32_t slot = 0; slot < fake_disk_slots(disk); slot++) {
        uint64_t size;
        uint8_t *bytes = fake_disk_bytes(disk, slot, &size);
        for (uint64_t at = 0; at < size; at++) {
            bytes[at] ^= 0x10;
            look(disk, &seen); // delivers nothing that was not kept
            bytes[at] ^= 0x10;
            if (seen.torn + seen.damaged + seen.beyond == 0) {
                harmless++;
                assert_memory_equal(seen.block, whole.block, sizeof(seen.block));
                assert_true(at >= SALVAGE_HEADER_SIZE + 2 * SALVAGE_ALIGN + BLOCK);
            }
        }
    }
    assert_true(harmless > 0); // behind the last entry
    fake_disk_free(disk);
}

// A whole file that is missing is said; the others are given.
static void a_missing_file_is_found(void **state)
{
    (void)state;
    for (uint32_t victim = 0; victim < 3; victim++) {
        struct fake_disk *disk = fake_disk_new(64U << 20, 1);
        struct salvage_config c = config_of(disk, 32U << 20);
        struct seen seen;
        for (unsigned run = 0; run < 4; run++) {
            struct salvage *s = open_with(&c);
            assert_int_equal(keep(s, 0, run * 10 + 1, 3), 0);
            assert_int_equal(sync_now(s, disk), 0);
            salvage_free(s);
        }
        fake_disk_remove(disk, victim);
        look(disk, &seen);
        assert_int_equal(seen.damaged, 1);
        assert_int_equal(count(&seen, 0), 9);
        fake_disk_free(disk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_agrees_with_a_model),
        cmocka_unit_test(kept_ranges_come_back),
        cmocka_unit_test(a_range_is_kept_once),
        cmocka_unit_test(doubt_is_of_the_whole_salvage_from_then_on),
        cmocka_unit_test(only_what_nobody_else_has),
        cmocka_unit_test(full_until_something_is_dropped),
        cmocka_unit_test(the_list_of_what_was_dropped_stays_while_it_goes_on),
        cmocka_unit_test(what_does_not_go_on_is_dropped_as_a_whole),
        cmocka_unit_test(a_drop_on_a_full_disk),
        cmocka_unit_test(a_file_that_is_full_is_durable),
        cmocka_unit_test(a_failed_sync_is_final),
        cmocka_unit_test(a_crash_at_every_operation),
        cmocka_unit_test(a_crash_within_a_drop),
        cmocka_unit_test(every_damaged_byte_is_harmless_or_found),
        cmocka_unit_test(a_missing_file_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
