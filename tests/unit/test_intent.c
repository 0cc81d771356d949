// SPDX-License-Identifier: Apache-2.0
// The intent map of one volume: what is durable when, what a crash at any step leaves, every
// damaged byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "queues/intent.h"

#define MIB (UINT64_C(1) << 20)

// A file, and what of it is durable: everything since the last sync may be there, be torn, or be
// lost.
struct file {
    uint64_t size;
    uint8_t *now, *durable;
};

static const struct intent_config small = {
    .pair = 7, .volume = 9, .size = 40 * MIB + 4096, .region = INTENT_REGION};

static void file_make(struct file *f, const struct intent_config *config)
{
    f->size = (1 + (config->size / MIB + INTENT_PAGE_EXTENTS) / INTENT_PAGE_EXTENTS) * INTENT_PAGE;
    f->now = calloc(1, f->size);
    f->durable = calloc(1, f->size);
    assert_true(f->now && f->durable);
}

static void file_free(struct file *f)
{
    free(f->now);
    free(f->durable);
}

// Begins a batch: the pages are in the file, not synced.
static unsigned write_some(struct intent *m, struct file *f, enum intent_need need)
{
    uint8_t page[INTENT_PAGE];
    uint32_t number;
    unsigned count = 0;
    while (intent_begin_page(m, need, &number, page)) {
        memcpy(f->now + (uint64_t)(number + 1) * INTENT_PAGE, page, INTENT_PAGE);
        count++;
    }
    return count;
}

static void sync_file(struct file *f)
{
    memcpy(f->durable, f->now, f->size);
}

static void write_all(struct intent *m, struct file *f)
{
    while (intent_need(m) != INTENT_CLEAN) {
        assert_true(write_some(m, f, INTENT_LAZY) > 0);
        sync_file(f);
        intent_written(m, true);
    }
    assert_true(intent_durable(m));
}

static struct intent *make(const struct intent_config *config, struct file *f)
{
    struct intent *m = intent_new(config);
    assert_non_null(m);
    file_make(f, config);
    intent_header(m, f->now);
    write_all(m, f);
    return m;
}

// Loads what is in `bytes`; the number of pages that count as wholly set.
static struct intent *load(const struct intent_config *config, const uint8_t *bytes,
                           unsigned *ret_broken)
{
    struct intent *m = intent_new(config);
    assert_non_null(m);
    *ret_broken = 0;
    if (intent_load_header(m, bytes)) {
        intent_fill(m);
        *ret_broken = intent_pages(m);
        return m;
    }
    for (uint32_t i = 0; i < intent_pages(m); i++)
        *ret_broken += intent_load_page(m, i, bytes + (uint64_t)(i + 1) * INTENT_PAGE) != NULL;
    return m;
}

// A first touch waits for its page; a hot extent is free; what is loaded afterwards has the whole
// extent.
static void first_touch_waits_and_then_is_free(void **state)
{
    (void)state;
    struct file f;
    unsigned broken;
    struct intent *m = make(&small, &f);
    assert_int_equal(intent_set(m, 5 * MIB, 4096), 1);
    assert_int_equal(intent_set(m, 5 * MIB, 4096), 1);
    assert_int_equal(intent_need(m), INTENT_URGENT);
    assert_int_equal(write_some(m, &f, INTENT_URGENT), 1);
    assert_int_equal(intent_set(m, 5 * MIB, 4096), 1); // written is not durable
    sync_file(&f);
    intent_written(m, true);
    assert_int_equal(intent_set(m, 5 * MIB, 4096), 0);
    assert_int_equal(intent_set(m, 5 * MIB + 900 * 1024, 65536), 0);
    assert_int_equal(intent_need(m), INTENT_CLEAN);
    assert_int_equal(intent_bytes(m, 0), 3 * INTENT_REGION); // in memory it is exact
    struct intent *again = load(&small, f.durable, &broken);
    assert_int_equal(broken, 0);
    assert_int_equal(intent_bytes(again, 0), MIB);
    assert_int_equal(intent_set(again, 5 * MIB, 4096),
                     0); // still covered: nothing is to be written
    assert_int_equal(intent_set(again, 7 * MIB, 4096), 1);
    intent_free(again);
    intent_free(m);
    file_free(&f);
}

// A set that meets a clear which is on its way to the disk waits for another write of the page.
static void set_that_meets_a_clear_waits(void **state)
{
    (void)state;
    struct file f;
    struct intent *m = make(&small, &f);
    (void)intent_set(m, 0, 4096);
    write_all(m, &f);
    intent_generation(m);
    assert_true(intent_clear_untouched(m, UINT64_MAX));
    assert_int_equal(intent_need(m), INTENT_LAZY);
    assert_int_equal(write_some(m, &f, INTENT_LAZY), 1);
    assert_int_equal(intent_set(m, 0, 4096), 1);
    sync_file(&f);
    intent_written(m, true);
    assert_int_equal(intent_set(m, 0, 4096), 1);
    assert_int_equal(intent_need(m), INTENT_URGENT);
    write_all(m, &f);
    assert_int_equal(intent_set(m, 0, 4096), 0);
    intent_free(m);
    file_free(&f);
}

// Only what was not touched in the generation and lies below the floor is cleared.
static void generation_clears_what_was_not_touched(void **state)
{
    (void)state;
    struct file f;
    struct intent *m = make(&small, &f);
    (void)intent_set(m, 1 * MIB, 4096);
    (void)intent_set(m, 10 * MIB, 4096);
    (void)intent_set(m, 20 * MIB, 4096);
    (void)intent_set(m, 30 * MIB, 4096);
    write_all(m, &f);
    intent_generation(m);
    (void)intent_set(m, 10 * MIB, 1);
    intent_touch(m, 20 * MIB, 1);
    assert_true(intent_clear_untouched(m, 30 * MIB));
    assert_false(intent_test(m, 1 * MIB, MIB));
    assert_true(intent_test(m, 10 * MIB, MIB));
    assert_true(intent_test(m, 20 * MIB, MIB));
    assert_true(intent_test(m, 30 * MIB, MIB));
    assert_false(intent_clear_untouched(m, 30 * MIB));
    intent_generation(m);
    assert_true(intent_clear_untouched(m, UINT64_MAX));
    assert_int_equal(intent_bytes(m, 0), 0);
    assert_true(intent_idle(m));
    intent_free(m);
    file_free(&f);
}

// A sequential writer soon finds everything hot; a random one heats what it touches and nothing
// else.
static void sequential_writer_finds_it_hot(void **state)
{
    (void)state;
    struct intent_config config = {
        .pair = 1, .volume = 1, .size = 1024 * MIB, .region = INTENT_REGION};
    struct file f;
    struct intent *m = make(&config, &f);
    unsigned waits = 0, pages = 0;
    for (uint64_t at = 0; at < config.size; at += INTENT_REGION) {
        while (intent_set(m, at, INTENT_REGION)) {
            waits++;
            write_all(m, &f);
        }
        if (intent_need(m) == INTENT_URGENT) {
            pages++;
            write_all(m, &f);
        }
    }
    assert_true(waits <= 3);
    assert_true(pages <= 40);
    intent_free(m);
    file_free(&f);
    m = make(&config, &f);
    for (unsigned i = 0; i < 50; i++)
        (void)intent_set(m, (i * 397 % 512) * 2 * MIB, 4096);
    unsigned broken;
    write_all(m, &f);
    struct intent *again = load(&config, f.durable, &broken);
    assert_int_equal(intent_bytes(again, 0), 50 * MIB);
    intent_free(again);
    intent_free(m);
    file_free(&f);
}

// A region of which a part only is said to be equal stays.
static void a_clear_takes_whole_regions_only(void **state)
{
    (void)state;
    struct file f;
    struct intent *m = make(&small, &f);
    (void)intent_set(m, 0, 4 * INTENT_REGION);
    intent_clear(m, INTENT_REGION - 4096, INTENT_REGION + 8192);
    assert_true(intent_test(m, 0, INTENT_REGION));
    assert_false(intent_test(m, INTENT_REGION, INTENT_REGION));
    assert_true(intent_test(m, 2 * INTENT_REGION, INTENT_REGION));
    intent_clear(m, 2 * INTENT_REGION, INTENT_REGION - 1);
    assert_true(intent_test(m, 2 * INTENT_REGION, INTENT_REGION));
    assert_int_equal(intent_bytes(m, 0), 3 * INTENT_REGION);
    intent_free(m);
    file_free(&f);
}

// Runs of set regions, cut at a length; the last region of an odd volume.
static void runs_of_set_regions(void **state)
{
    (void)state;
    struct file f;
    struct intent *m = make(&small, &f);
    uint64_t at = 0, length = 0;
    assert_false(intent_next(m, 0, MIB, &at, &length));
    (void)intent_set(m, 15 * INTENT_REGION + 5, 2 * INTENT_REGION);
    assert_true(intent_next(m, 0, MIB, &at, &length));
    assert_int_equal(at, 15 * INTENT_REGION);
    assert_int_equal(length, 3 * INTENT_REGION);
    assert_true(intent_next(m, 16 * INTENT_REGION, INTENT_REGION, &at, &length));
    assert_int_equal(at, 16 * INTENT_REGION);
    assert_int_equal(length, INTENT_REGION);
    assert_false(intent_next(m, 18 * INTENT_REGION, MIB, &at, &length));
    (void)intent_set(m, small.size - 1, 1);
    assert_true(intent_next(m, 18 * INTENT_REGION, MIB, &at, &length));
    assert_int_equal(at, 40 * MIB);
    assert_int_equal(length, 4096);
    assert_int_equal(intent_bytes(m, 0), 3 * INTENT_REGION + 4096);
    assert_int_equal(intent_bytes(m, 17 * INTENT_REGION), INTENT_REGION + 4096);
    intent_clear(m, 15 * INTENT_REGION + 1, 3 * INTENT_REGION);
    assert_true(intent_test(m, 15 * INTENT_REGION, 1));
    assert_false(intent_test(m, 16 * INTENT_REGION, 2 * INTENT_REGION));
    intent_clear(m, 0, small.size);
    assert_int_equal(intent_bytes(m, 0), 0);
    intent_free(m);
    file_free(&f);
}

// The map of the other end is added, durably, piece by piece.
static void union_with_another_map(void **state)
{
    (void)state;
    struct file f, g;
    unsigned broken;
    uint8_t bits[64];
    struct intent *m = make(&small, &f), *other = make(&small, &g);
    (void)intent_set(m, 3 * MIB, 4096);
    (void)intent_set(other, 7 * MIB, 4096);
    (void)intent_set(other, small.size - 1, 1);
    write_all(m, &f);
    for (uint64_t at = 0; at < intent_regions(other); at += 512) {
        uint32_t count = intent_bits(other, at, bits, 512);
        assert_int_equal(intent_or(m, at, bits, count), 0);
    }
    assert_int_equal(intent_or(m, intent_regions(m), bits, 1), -22);
    assert_int_equal(intent_need(m), INTENT_URGENT);
    write_all(m, &f);
    struct intent *again = load(&small, f.durable, &broken);
    assert_true(intent_test(again, 3 * MIB, 1));
    assert_true(intent_test(again, 7 * MIB, 1));
    assert_true(intent_test(again, small.size - 1, 1));
    assert_int_equal(intent_bytes(again, 0), MIB + INTENT_REGION + 4096);
    intent_free(again);
    intent_free(other);
    intent_free(m);
    file_free(&f);
    file_free(&g);
}

// Every flipped byte of the file is found; what it covered counts as set.
static void every_flipped_byte_is_found(void **state)
{
    (void)state;
    struct file f;
    unsigned broken;
    struct intent *m = make(&small, &f);
    (void)intent_set(m, 12 * MIB, 4096);
    write_all(m, &f);
    for (uint64_t i = 0; i < f.size; i++) {
        f.durable[i] ^= (uint8_t)(1U << i % 8);
        struct intent *again = load(&small, f.durable, &broken);
        assert_int_equal(broken, 1);
        assert_int_equal(intent_bytes(again, 0), small.size);
        assert_int_equal(intent_set(again, 0, 1), 1); // to be written again
        intent_free(again);
        f.durable[i] ^= (uint8_t)(1U << i % 8);
    }
    struct intent_config foreign[3] = {small, small, small};
    foreign[0].pair++;
    foreign[1].volume++;
    foreign[2].size++;
    for (unsigned i = 0; i < 3; i++) {
        struct intent *again = load(&foreign[i], f.durable, &broken);
        assert_true(broken > 0);
        assert_int_equal(intent_bytes(again, 0), foreign[i].size);
        intent_free(again);
    }
    intent_free(m);
    file_free(&f);
}

// ---- the model ----

#define MODEL_REGIONS 96

struct model {
    uint64_t random;
    struct intent *map;
    struct file file;
    bool must[MODEL_REGIONS];   // a write was let through since it was cleared
    bool wanted[MODEL_REGIONS]; // set in memory
    bool touched[MODEL_REGIONS / 16];
};

static uint64_t rnd(struct model *m, uint64_t below)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return m->random % below;
}

static void model_set(struct model *m)
{
    uint64_t first = rnd(m, MODEL_REGIONS), count = 1 + rnd(m, MIN(20, MODEL_REGIONS - first));
    int r = intent_set(m->map, first * INTENT_REGION, count * INTENT_REGION);
    for (uint64_t i = first; i < first + count; i++) {
        m->wanted[i] = true;
        m->must[i] |= r == 0;
        m->touched[i / 16] = true;
    }
}

static void model_clear(struct model *m)
{
    if (rnd(m, 2)) {
        intent_generation(m->map);
        memset(m->touched, 0, sizeof(m->touched));
        return;
    }
    // Extents that are being heated stay.
    (void)intent_clear_untouched(m->map, UINT64_MAX);
    for (unsigned i = 0; i < MODEL_REGIONS; i++) {
        if (!m->touched[i / 16]) {
            bool stays = intent_test(m->map, (uint64_t)i * INTENT_REGION, 1);
            m->must[i] &= stays;
            m->wanted[i] &= stays;
        }
    }
}

// Pages are torn at sectors, each old or new.
static void model_crash(struct model *m, const struct intent_config *config)
{
    for (uint64_t at = 0; at < m->file.size; at += 512) {
        if (rnd(m, 2))
            memcpy(m->file.durable + at, m->file.now + at, 512);
    }
    memcpy(m->file.now, m->file.durable, m->file.size);
    unsigned broken;
    intent_free(m->map);
    m->map = load(config, m->file.durable, &broken);
    for (unsigned i = 0; i < MODEL_REGIONS; i++) {
        bool set = intent_test(m->map, (uint64_t)i * INTENT_REGION, 1);
        assert_true(set || !m->must[i]);
        m->wanted[i] = set;
    }
    memset(m->touched, 0, sizeof(m->touched));
}

// Whatever happens between any two steps: what was let through is there after a crash.
static void a_crash_at_any_step_leaves_a_superset(void **state)
{
    (void)state;
    static const struct intent_config config = {
        .pair = 1, .volume = 2, .size = MODEL_REGIONS * INTENT_REGION, .region = INTENT_REGION};
    for (unsigned run = 0; run < 300; run++) {
        struct model m = {.random = UINT64_C(0x9e3779b97f4a7c15) * (run + 1)};
        m.map = make(&config, &m.file);
        for (unsigned step = 0; step < 300; step++) {
            switch (rnd(&m, 6)) {
            case 0:
            case 1:
                model_set(&m);
                break;
            case 2:
                model_clear(&m);
                break;
            case 3:
                if (!intent_writing(m.map))
                    (void)write_some(m.map, &m.file, rnd(&m, 2) ? INTENT_LAZY : INTENT_URGENT);
                break;
            case 4:
                if (intent_writing(m.map)) {
                    bool durable = rnd(&m, 8) > 0;
                    if (durable)
                        sync_file(&m.file);
                    intent_written(m.map, durable);
                }
                break;
            default:
                if (rnd(&m, 10) == 0)
                    model_crash(&m, &config);
                break;
            }
            for (unsigned i = 0; i < MODEL_REGIONS; i++)
                assert_int_equal(intent_test(m.map, (uint64_t)i * INTENT_REGION, 1), m.wanted[i]);
        }
        intent_free(m.map);
        file_free(&m.file);
    }
}

// 1 TiB takes at most 4 MiB of disk, and of memory.
static void a_tebibyte_is_small(void **state)
{
    (void)state;
    struct intent_config config = {
        .pair = 1, .volume = 1, .size = MIB * MIB, .region = INTENT_REGION};
    struct intent *m = intent_new(&config);
    assert_non_null(m);
    assert_true(intent_file_size(m) <= 4 * MIB);
    assert_true(intent_memory(m) <= 4 * MIB);
    assert_int_equal(intent_set(m, config.size - 1, 1), 1);
    intent_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_touch_waits_and_then_is_free),
        cmocka_unit_test(set_that_meets_a_clear_waits),
        cmocka_unit_test(generation_clears_what_was_not_touched),
        cmocka_unit_test(sequential_writer_finds_it_hot),
        cmocka_unit_test(a_clear_takes_whole_regions_only),
        cmocka_unit_test(runs_of_set_regions),
        cmocka_unit_test(union_with_another_map),
        cmocka_unit_test(every_flipped_byte_is_found),
        cmocka_unit_test(a_crash_at_any_step_leaves_a_superset),
        cmocka_unit_test(a_tebibyte_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
