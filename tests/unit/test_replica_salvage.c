// SPDX-License-Identifier: Apache-2.0
// queues/replica: what an end has written alone is kept in its salvage before anything overwrites it.
#include "tests/unit/replica_world.h"

// A replica whose volumes hold something of their own, which is kept before it is overwritten.
struct keeper {
    struct world *w;
    struct fake_disk *disk;
    struct salvage *salvage;
    struct salvage_config config;
    uint8_t own[VOLUMES][VOLUME_SIZE];
    bool kept[VOLUMES][VOLUME_SIZE / SALVAGE_BLOCK];
};

static void on_written(struct block_request *request, int status)
{
    assert_int_equal(status, 0);
    *(bool *)request->owner = true;
}

static void own_content(struct keeper *k)
{
    for (unsigned v = 0; v < VOLUMES; v++) {
        struct block *block = k->w->config.volumes[v];
        for (unsigned i = 0; i < VOLUME_SIZE; i++)
            k->own[v][i] = (uint8_t)(i / SALVAGE_BLOCK % 3 == 0 ? 0 : 200 + v + i % 41);
        CLEANUP_FREE void *data = aligned_alloc(4096, VOLUME_SIZE);
        memcpy(data, k->own[v], VOLUME_SIZE);
        for (int flush = 0; flush < 2; flush++) {
            bool done = false;
            struct block_request q = {.op = flush ? BLOCK_FLUSH : BLOCK_WRITE, .length = VOLUME_SIZE, .data = data,
                                      .done = on_written, .owner = &done};
            block_submit(block, &q);
            block_kick(block);
            while (!done)
                assert_true(fake_volume_complete(k->w->blocks[v]));
        }
    }
}

static void keeper_open(struct keeper *k)
{
    if (salvage_open(&k->config, &k->salvage, NULL) < 0) {
        fake_disk_fail(k->disk, 0, 0, false);
        assert_int_equal(salvage_open(&k->config, &k->salvage, NULL), 0);
    }
    replica_salvage(k->w->r, 3, k->salvage);
}

// Everything under way completes, for as long as anything does.
static void keeper_pump(struct keeper *k)
{
    for (unsigned i = 0; i < 200; i++) {
        (void)fake_disk_complete(k->w->disk);
        (void)fake_disk_complete(k->disk);
        (void)world_complete_volumes(k->w);
        world_advance(k->w, 10 * NS_PER_MS);
    }
}

// What took nothing more is replaced, as an end does it.
static void keeper_turn(struct keeper *k)
{
    if (!world_stats(k->w).salvage_waits || replica_salvage_busy(k->w->r))
        return;
    salvage_hand_on(k->salvage, &k->config);
    replica_salvage(k->w->r, 3, NULL);
    k->salvage = salvage_free(k->salvage);
    keeper_open(k);
}

static int take_kept(void *arg, const struct salvage_entry *e, const void *data)
{
    struct keeper *k = arg;
    uint8_t *own = k->own[e->object] + e->offset;
    assert_true(e->kind == SALVAGE_DATA || e->kind == SALVAGE_ZERO);
    for (uint64_t i = 0; i < e->length; i++)
        assert_int_equal(own[i], data ? ((const uint8_t *)data)[i] : 0);
    for (uint64_t at = e->offset; at < e->offset + e->length; at += SALVAGE_BLOCK)
        k->kept[e->object][at / SALVAGE_BLOCK] = true;
    return 0;
}

static void take_info(void *arg, const struct salvage_info *info)
{
    struct keeper *k = arg;
    assert_int_not_equal(info->verdict, SALVAGE_DAMAGED);
    assert_int_equal(salvage_walk(k->config.disk, info->number, take_kept, k, NULL, NULL), 0);
}

// Whatever differs from what was there is in the archive as it was.
static void expect_kept(struct keeper *k)
{
    unsigned beyond;
    memset(k->kept, 0, sizeof(k->kept));
    assert_int_equal(salvage_list(k->config.disk, take_info, k, &beyond, NULL), 0);
    for (unsigned v = 0; v < VOLUMES; v++)
        for (unsigned i = 0; i < VOLUME_SIZE; i++)
            if (fake_volume_bytes(k->w->blocks[v])[i] != k->own[v][i] && !k->kept[v][i / SALVAGE_BLOCK])
                fail_msg("volume %u: byte %u was overwritten and is not kept", v, i);
}

static struct keeper *keeper_new(uint64_t run)
{
    struct keeper *k = calloc(1, sizeof(*k));
    assert_non_null(k);
    k->w = world_started(run);
    k->disk = fake_disk_new(1U << 24, run);
    k->config = (struct salvage_config){
        .disk = fake_disk_of(k->disk),
        .pair = 5,
        .name = "web",
        .side = EPOCH_BY_PRIMARY,
        .cause = SALVAGE_YIELDED,
        .epoch = {.number = 2, .id = 77, .first_seq = 1, .opened_by = EPOCH_BY_PRIMARY, .reason = EPOCH_ALONE},
        .volumes = {{"a", VOLUME_SIZE}, {"b", VOLUME_SIZE}},
        .volume_count = VOLUMES,
        .objects = 3,
        .limit = 12U << 20,
        .file_size = SALVAGE_FILE_MIN / 4096 * 4096,
    };
    own_content(k);
    keeper_open(k);
    return k;
}

static void keeper_free(struct keeper *k)
{
    world_free(k->w);
    salvage_free(k->salvage);
    fake_disk_free(k->disk);
    free(k);
}

// Power loss of everything at once: nothing was overwritten of which a crash can lose what was there.
static void keeper_crash(struct keeper *k)
{
    world_crash(k->w, true);
    k->salvage = salvage_free(k->salvage);
    fake_disk_crash(k->disk);
    k->config.distrusted = 0;
    expect_kept(k);
    keeper_open(k);
    replica_session(k->w->r, SESSION, k->w->now);
    memset(k->w->barrier_end, 0, sizeof(k->w->barrier_end));
}

// Records of every kind that overwrites.
static uint64_t overwrite(struct world *w, uint64_t next, uint64_t *made, uint64_t *seed)
{
    static const uint8_t types[] = {RECORD_WRITE, RECORD_ZERO, RECORD_DISCARD, RECORD_RESYNC, RECORD_RESYNC_ZERO};
    uint32_t count = 1 + (uint32_t)help_random(seed, 6);
    for (uint64_t seq = next; seq < next + count; seq++) {
        if (seq <= *made)
            continue;
        uint64_t offset = help_random(seed, VOLUME_SIZE / 512 - 20) * 512;
        line_write(w, seq, (uint16_t)help_random(seed, VOLUMES), offset, 512 * (1 + (uint32_t)help_random(seed, 20)));
        w->lines[seq].type = types[help_random(seed, ARRAY_LEN(types))];
        *made = seq;
    }
    world_send(w, next, count, 0);
    return next + count;
}

static void salvage_world(uint64_t run)
{
    uint64_t seed = run * 424243 + 1, next = 1, made = 0;
    struct keeper *k = keeper_new(run);
    struct world *w = k->w;

    for (unsigned i = 0; i < 300 && made < SEQS_MAX - 100; i++) {
        uint64_t what = help_random(&seed, 100);
        w->event_count = 0;
        if (what < 40)
            next = overwrite(w, next, &made, &seed);
        else if (what < 55)
            (void)fake_disk_complete(w->disk);
        else if (what < 65)
            (void)fake_disk_complete(k->disk);
        else if (what < 85)
            (void)fake_volume_complete(w->blocks[help_random(&seed, VOLUMES)]);
        else if (what < 96)
            world_advance(w, (int64_t)help_random(&seed, 20) * NS_PER_MS);
        else if (what == 96)
            fake_disk_fail(k->disk, 1 + (unsigned)help_random(&seed, 5), help_random(&seed, 2) ? -EIO : -ENOSPC, false);
        else if (what > 97) {
            keeper_crash(k);
            next = world_stats(w).received + 1;
            made = next - 1;
            w->epoch = w->lines[made].epoch ? w->lines[made].epoch : w->epoch;
        }
        keeper_turn(k);
        if (le16_get(w->ack.flags) & ACK_RESEND || help_random(&seed, 30) == 0)
            next = world_stats(w).received + 1;
    }
    keeper_crash(k);
    keeper_free(k);
}

static void what_was_there_is_kept_before_it_is_overwritten(void **state)
{
    (void)state;
    for (uint64_t run = 1; run <= 40; run++)
        salvage_world(run);
}

// Without a salvage, or with a full one, nothing that would overwrite is started; then it goes on.
static void a_full_salvage_holds_the_replay(void **state)
{
    (void)state;
    struct keeper *k = keeper_new(1);
    struct world *w = k->w;
    replica_salvage(w->r, 3, NULL);
    k->salvage = salvage_free(k->salvage);
    for (uint64_t seq = 1; seq <= 3; seq++)
        line_write(w, seq, 0, seq * 8192, 4096);
    world_send(w, 1, 3, 1);
    keeper_pump(k);
    assert_int_equal(world_stats(w).durable, 3);
    assert_int_equal(world_stats(w).applied, 0);
    assert_memory_equal(fake_volume_bytes(w->blocks[0]), k->own[0], VOLUME_SIZE);
    k->config.limit = 8192; // holds zeros, and no block of data
    keeper_open(k);
    keeper_pump(k);
    assert_int_equal(world_events(w, REPLICA_SALVAGE_FULL), 1);
    assert_true(world_stats(w).salvage_waits);
    assert_true(world_stats(w).applied < 3);
    k->config.limit = 2U << 20;
    keeper_turn(k);
    keeper_pump(k);
    assert_int_equal(world_stats(w).applied, 3);
    expect_kept(k);
    keeper_free(k);
}

// What is held of a stream that a new one replaces is replayed first: the end of a resync in it says nothing of what was
// written here since. While that waits for a salvage there is nothing to be done at any time.
static void the_end_of_a_former_resync_ends_no_salvage(void **state)
{
    (void)state;
    struct keeper *k = keeper_new(1);
    struct world *w = k->w;
    replica_salvage(w->r, 1, NULL);
    k->salvage = salvage_free(k->salvage);
    line_write(w, 1, 1, 0, 4096);
    w->lines[1].type = RECORD_ZERO; // of zeros
    line_mark(w, 2, MARK_RESYNC_BEGIN);
    line_write(w, 3, 0, 8192, 4096);
    line_mark(w, 4, MARK_RESYNC_END);
    line_write(w, 5, 0, 16384, 4096);
    world_send(w, 1, 5, 1);
    for (unsigned i = 0; i < 20; i++) { // no time passes
        (void)fake_disk_complete(w->disk);
        (void)world_complete_volumes(w);
        world_advance(w, 0);
    }
    assert_int_equal(world_stats(w).durable, 5);
    replica_restart(w->r, SESSION + 1, 901, 101, w->now);
    keeper_pump(k);
    assert_int_equal(world_stats(w).applied, 2);
    assert_true(world_stats(w).settled < 2); // with what waits
    assert_true(replica_deadline(w->r) > w->now);
    keeper_open(k);
    keeper_pump(k);
    assert_int_equal(world_stats(w).received, 100); // the new stream may begin
    assert_int_equal(world_stats(w).salvaging, 3);
    assert_int_not_equal(fake_volume_bytes(w->blocks[0])[16385], k->own[0][16385]);
    expect_kept(k);
    keeper_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_there_is_kept_before_it_is_overwritten),
        cmocka_unit_test(a_full_salvage_holds_the_replay),
        cmocka_unit_test(the_end_of_a_former_resync_ends_no_salvage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
