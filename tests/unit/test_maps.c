// SPDX-License-Identifier: Apache-2.0
// The maps of an end on a disk that can fail, lose and tear: what was let through is always
// covered.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "queues/maps.h"
#include "tests/unit/fake_disk.h"

#define MIB      (UINT64_C(1) << 20)
#define VOLUMES  2
#define REGIONS  100
#define SIZE     (REGIONS * (uint64_t)INTENT_REGION)
#define CAPACITY (1U << 20)

struct world {
    struct fake_disk *disk;
    struct maps *maps;
    int64_t now;
    uint64_t random;
    // What the end has recorded, and what it was told.
    uint64_t recorded, record;
    unsigned failed, good;
    uint64_t ticket[VOLUMES];
    bool let[VOLUMES][REGIONS];
};

static void failed(void *user, uint16_t object, uint64_t ticket, int status)
{
    struct world *w = user;
    assert_true(status < 0);
    w->failed++;
    w->ticket[object] = ticket;
}

static void good(void *user, uint16_t object, uint64_t record)
{
    struct world *w = user;
    assert_int_equal(record, w->record);
    w->good++;
    w->recorded &= ~(UINT64_C(1) << object);
}

static void open_maps(struct world *w)
{
    uint64_t sizes[VOLUMES] = {SIZE, SIZE}, ids[VOLUMES] = {11, 12};
    struct maps_config config = {
        .disk = fake_disk_of(w->disk),
        .pair = 3,
        .volumes = VOLUMES,
        .sizes = sizes,
        .volume = ids,
        .failed = failed,
        .good = good,
        .user = w,
    };
    w->maps = maps_new(&config);
    assert_non_null(w->maps);
    maps_fill(w->maps, w->recorded, ++w->record);
}

static void world_make(struct world *w, uint64_t seed)
{
    *w = (struct world){.now = 1, .random = seed};
    w->disk = fake_disk_new(CAPACITY, seed);
    open_maps(w);
}

static void world_free(struct world *w)
{
    maps_free(w->maps);
    fake_disk_free(w->disk);
}

// Until nothing moves any more.
static void settle(struct world *w)
{
    for (unsigned i = 0; i < 100; i++) {
        maps_work(w->maps, w->now);
        while (fake_disk_complete(w->disk))
            ;
        w->now += MAPS_LAZY_NS / 10;
    }
    assert_false(maps_syncing(w->maps));
    assert_int_equal(maps_deadline(w->maps), INT64_MAX);
}

static void clear_all(struct world *w)
{
    for (uint16_t i = 0; i < VOLUMES; i++) {
        intent_clear(maps_at(w->maps, i), 0, SIZE);
        memset(w->let[i], 0, sizeof(w->let[i]));
    }
    settle(w);
}

static void again(struct world *w, bool power)
{
    maps_free(w->maps);
    if (power)
        fake_disk_crash(w->disk);
    else
        fake_disk_kill(w->disk);
    open_maps(w);
}

static bool region_set(struct world *w, uint16_t object, uint64_t region)
{
    return intent_test(maps_at(w->maps, object), region * INTENT_REGION, 1);
}

// A file that is not there counts as wholly set, and says so; until it is whole a crash leaves the
// same.
static void a_new_map_counts_as_wholly_set(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 1);
    assert_string_equal(maps_found(w.maps, 0), "there is none");
    assert_int_equal(intent_bytes(maps_at(w.maps, 1), 0), SIZE);
    assert_int_equal(maps_set(w.maps, 0, 0, 4096), 0);
    maps_work(w.maps, w.now);
    again(&w, true);
    assert_non_null(maps_found(w.maps, 0));
    assert_int_equal(intent_bytes(maps_at(w.maps, 0), 0), SIZE);
    settle(&w);
    clear_all(&w);
    again(&w, true);
    assert_null(maps_found(w.maps, 0));
    assert_int_equal(intent_bytes(maps_at(w.maps, 0), 0), 0);
    world_free(&w);
}

// All who wait at one moment share a sync.
static void waiting_writes_share_a_sync(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 1);
    settle(&w);
    clear_all(&w);
    for (unsigned i = 0; i < 6; i += 2)
        assert_int_equal(maps_set(w.maps, 0, i * MIB, 4096), 1);
    uint64_t before = fake_disk_operations(w.disk);
    maps_work(w.maps, w.now);
    assert_int_equal(fake_disk_operations(w.disk) - before, 1); // one page; the sync has not ended
    assert_int_equal(maps_set(w.maps, 0, 0, 4096), 1);
    assert_true(fake_disk_complete(w.disk));
    for (unsigned i = 0; i < 6; i += 2)
        assert_int_equal(maps_set(w.maps, 0, i * MIB, 4096), 0);
    world_free(&w);
}

// A map that cannot be written: writes wait until that is recorded, fail if it cannot be, go on
// when it is; then the map is made good again, and the record may go.
static void a_map_that_cannot_be_written_is_void(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 1);
    settle(&w);
    clear_all(&w);
    fake_disk_fail(w.disk, 1, -EIO, true);
    assert_int_equal(maps_set(w.maps, 0, 0, 4096), 1);
    maps_work(w.maps, w.now);
    assert_int_equal(maps_set(w.maps, 0, 0, 4096), 1);
    maps_work(w.maps, w.now);
    assert_int_equal(w.failed, 1);
    assert_int_equal(maps_set(w.maps, 1, 0, 4096), 1); // the other volume's own
    maps_refuse(w.maps, 0, w.ticket[0]);
    assert_int_equal(maps_set(w.maps, 0, 0, 4096), -EIO);
    w.recorded |= 1;
    maps_void(w.maps, 0, w.ticket[0], w.record);
    assert_int_equal(maps_set(w.maps, 0, 5 * MIB, 4096), 0);
    maps_work(w.maps, w.now);
    assert_int_equal(maps_set(w.maps, 0, 2 * MIB, 4096), 0);
    fake_disk_fail(w.disk, 0, 0, false);
    settle(&w);
    assert_int_equal(w.good, 1);
    assert_int_equal(w.recorded, 0);
    again(&w, true);
    assert_true(region_set(&w, 0, 0) && region_set(&w, 0, 5 * 16) && region_set(&w, 0, 2 * 16));
    assert_false(region_set(&w, 0, 4 * 16));
    world_free(&w);
}

// When nobody writes any more, the file can be made to say what the memory does: no later run takes more for set.
static void a_settled_map_says_no_more_than_the_memory(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 1);
    settle(&w);
    clear_all(&w);
    for (unsigned i = 0; i < 4; i++)
        (void)maps_set(w.maps, 0, i * MIB + 3 * INTENT_REGION, 4096);
    settle(&w);
    again(&w, true);
    assert_true(intent_bytes(maps_at(w.maps, 0), 0) >= 4 * MIB); // hot extents, as a whole
    clear_all(&w);
    for (unsigned i = 0; i < 4; i++)
        (void)maps_set(w.maps, 0, i * MIB + 3 * INTENT_REGION, 4096);
    maps_settle(w.maps, 0);
    assert_false(maps_exact(w.maps, 0));
    settle(&w);
    assert_true(maps_exact(w.maps, 0));
    again(&w, true);
    assert_true(maps_exact(w.maps, 0));
    assert_int_equal(intent_bytes(maps_at(w.maps, 0), 0), 4 * INTENT_REGION);
    for (unsigned i = 0; i < 4; i++)
        assert_true(region_set(&w, 0, i * 16 + 3));
    world_free(&w);
}

// What the end has recorded as void counts as wholly set at the next start.
static void a_recorded_map_counts_as_wholly_set(void **state)
{
    (void)state;
    struct world w;
    world_make(&w, 1);
    settle(&w);
    clear_all(&w);
    w.recorded = 2;
    again(&w, false);
    assert_int_equal(intent_bytes(maps_at(w.maps, 0), 0), 0);
    assert_int_equal(intent_bytes(maps_at(w.maps, 1), 0), SIZE);
    settle(&w);
    assert_int_equal(w.recorded, 0);
    again(&w, true);
    assert_int_equal(intent_bytes(maps_at(w.maps, 1), 0), SIZE);
    world_free(&w);
}

// maps_durable() follows what was set at the mark, not what is set since.
static void a_mark_is_durable_under_load(void **state)
{
    (void)state;
    struct world w;
    uint8_t bits[2] = {0xff, 0};
    world_make(&w, 1);
    settle(&w);
    clear_all(&w);
    (void)maps_set(w.maps, 0, 0, 4096);
    maps_work(w.maps, w.now);
    assert_int_equal(intent_or(maps_at(w.maps, 0), 48, bits, 16), 0);
    maps_mark(w.maps);
    (void)fake_disk_complete(w.disk);
    assert_false(maps_durable(w.maps));
    maps_work(w.maps, w.now);
    (void)maps_set(w.maps, 0, 5 * MIB, 4096); // somebody else waits again
    (void)fake_disk_complete(w.disk);
    assert_true(maps_durable(w.maps));
    again(&w, true);
    assert_true(region_set(&w, 0, 48) && region_set(&w, 0, 55));
    world_free(&w);
}

// ---- random worlds ----

static uint64_t rnd(struct world *w, uint64_t below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % below;
}

static void random_set(struct world *w)
{
    uint16_t object = (uint16_t)rnd(w, VOLUMES);
    uint64_t first = rnd(w, REGIONS), count = 1 + rnd(w, MIN(20, REGIONS - first));
    if (maps_set(w->maps, object, first * INTENT_REGION, count * INTENT_REGION) != 0)
        return;
    for (uint64_t i = first; i < first + count; i++)
        w->let[object][i] = true;
}

static void random_clear(struct world *w)
{
    uint16_t object = (uint16_t)rnd(w, VOLUMES);
    uint64_t first = rnd(w, REGIONS), count = 1 + rnd(w, REGIONS - first);
    intent_clear(maps_at(w->maps, object), first * INTENT_REGION, count * INTENT_REGION);
    memset(&w->let[object][first], 0, count * sizeof(bool));
}

// The end: a save takes a while, or fails.
static void random_record(struct world *w)
{
    for (uint16_t i = 0; i < VOLUMES; i++) {
        if (!w->ticket[i])
            continue;
        if (rnd(w, 3) == 0) {
            maps_refuse(w->maps, i, w->ticket[i]);
            continue;
        }
        w->recorded |= UINT64_C(1) << i;
        maps_void(w->maps, i, w->ticket[i], w->record);
        w->ticket[i] = 0;
    }
}

static void random_restart(struct world *w)
{
    memset(w->ticket, 0, sizeof(w->ticket));
    fake_disk_fail(w->disk, 0, 0, false);
    again(w, rnd(w, 2));
    for (uint16_t v = 0; v < VOLUMES; v++) {
        for (unsigned i = 0; i < REGIONS; i++)
            assert_true(region_set(w, v, i) || !w->let[v][i]);
    }
}

static void whatever_fails_what_was_let_through_is_covered(void **state)
{
    (void)state;
    for (unsigned run = 0; run < 400; run++) {
        struct world w;
        world_make(&w, UINT64_C(0x9e3779b97f4a7c15) * (run + 1));
        for (unsigned step = 0; step < 300; step++) {
            w.now += (int64_t)rnd(&w, MAPS_RETRY_NS / 4);
            switch (rnd(&w, 9)) {
            case 0:
            case 1:
            case 2:
                random_set(&w);
                break;
            case 3:
                random_clear(&w);
                break;
            case 4:
                (void)fake_disk_complete(w.disk);
                break;
            case 5:
                random_record(&w);
                break;
            case 6:
                if (rnd(&w, 6) == 0)
                    fake_disk_fail(w.disk, (unsigned)rnd(&w, 4), -EIO, rnd(&w, 4) == 0);
                break;
            case 7:
                if (rnd(&w, 20) == 0)
                    random_restart(&w);
                break;
            default:
                maps_work(w.maps, w.now);
                break;
            }
        }
        random_restart(&w);
        settle(&w);
        world_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_map_counts_as_wholly_set),
        cmocka_unit_test(waiting_writes_share_a_sync),
        cmocka_unit_test(a_map_that_cannot_be_written_is_void),
        cmocka_unit_test(a_settled_map_says_no_more_than_the_memory),
        cmocka_unit_test(a_recorded_map_counts_as_wholly_set),
        cmocka_unit_test(a_mark_is_durable_under_load),
        cmocka_unit_test(whatever_fails_what_was_let_through_is_covered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
