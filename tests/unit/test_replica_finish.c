// SPDX-License-Identifier: Apache-2.0
// queues/replica: how a replay ends: for a takeover, in front of damage, to be settled, to stop; and random worlds, with
// losses, failures and crashes, which all end with a takeover.
#include "tests/unit/replica_world.h"

static void a_takeover_applies_all_that_was_received(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 40);
    world_send(w, 1, 5, 1);
    fake_disk_complete(w->disk);
    replica_pause(w->r, true);
    world_send(w, 6, 20, 0); // not synced yet
    world_finish(w);
    world_send(w, 26, 5, 0); // comes too late
    world_settle_down(w, 0);
    assert_int_equal(w->finishes, 1);
    assert_int_equal(w->finish.error, 0);
    assert_int_equal(w->finish.applied, 25);
    assert_int_equal(w->finish.epoch, 900);
    assert_int_equal(w->finish.discarded_records, 0);
    assert_true(w->finish.reaches_confirmed);
    assert_int_equal(world_stats(w).settled, 25);
    world_expect(w, 1, 25);
    world_finish(w); // asked again: reported again
    assert_int_equal(w->finishes, 2);
    // It did not come to a takeover after all.
    replica_pause(w->r, false);
    replica_session(w->r, SESSION, w->now);
    world_send(w, 26, 5, 9);
    world_settle_down(w, NS_PER_S);
    world_expect(w, 1, 30);
    world_free(w);
}

static void a_takeover_with_a_failing_replica_is_aborted(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 10);
    world_send(w, 1, 5, 1);
    fake_disk_complete(w->disk);
    fake_volume_fail(w->blocks[0], 1U << BLOCK_WRITE, -EIO);
    world_finish(w);
    world_settle_down(w, 0);
    assert_int_equal(w->finishes, 1);
    assert_int_equal(w->finish.error, -EIO);
    assert_false(w->finish.reaches_confirmed);
    assert_non_null(strstr(w->finish.reason.text, "volume 0"));
    world_free(w);
}

// What a finish says that it is about to discard: the regions of these records, and no others.
static void expect_lost(const struct world *w, uint64_t from, uint64_t upto)
{
    bool lost[VOLUMES][VOLUME_SIZE / INTENT_REGION_MIN] = {0};

    for (uint64_t seq = from; seq <= upto; seq++) {
        const struct line *l = &w->lines[seq];
        for (uint64_t at = l->offset / INTENT_REGION_MIN; at <= (l->offset + l->length - 1) / INTENT_REGION_MIN; at++)
            lost[l->object][at] = true;
    }
    for (unsigned i = 0; i < VOLUMES; i++) {
        const struct intent *map = replica_lost(w->r, i);
        assert_non_null(map);
        for (unsigned at = 0; at < ARRAY_LEN(lost[i]); at++)
            assert_int_equal(intent_test(map, (uint64_t)at * INTENT_REGION_MIN, 1), lost[i][at]);
    }
}

// Five batches of five records, confirmed and not replayed.
static void five_batches(struct world *w)
{
    replica_pause(w->r, true);
    world_writes(w, 1, 30);
    for (uint64_t seq = 1; seq <= 25; seq += 5) {
        world_send(w, seq, 5, seq);
        fake_disk_complete(w->disk);
    }
}

#define DAMAGED_AT (8192 + 2 * (64 + 64 + 5 * (64 + 1024))) // the entry of the third batch

// A world with them, and a byte of the third one is flipped, `at` bytes behind its beginning.
static struct world *world_damaged(uint64_t at)
{
    struct world *w = world_started(1);

    // Read back at the replay: the damage is found while this run knows what it confirmed.
    w->config.region = INTENT_REGION_MIN;
    world_reopen(w, 1);
    replica_session(w->r, SESSION, w->now);
    five_batches(w);
    fake_disk_rot(w->disk, 1, DAMAGED_AT + at, 1);
    return w;
}

// The queue's disk forgets what was not synced, and a replica is opened on the rest.
static struct safe_recovery power_loss(struct world *w)
{
    w->r = replica_free(w->r);
    fake_disk_crash(w->disk);
    return world_open(w);
}

static void finish_damaged(struct world *w, bool unknown)
{
    w->finishes = 0;
    world_finish(w);
    world_settle_down(w, 0);
    assert_int_equal(w->finishes, 1);
    assert_int_equal(w->finish.error, 0);
    assert_int_equal(w->finish.applied, 10);
    assert_true(w->finish.discards);
    assert_int_equal(w->finish.unknown, unknown);
    world_expect(w, 1, 10);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(w->finishes, 1); // it waits
}

// What is discarded is told before it is forgotten: the regions of all of it where the headers can be read.
static void a_takeover_ends_in_front_of_damage(void **state)
{
    struct world *w = world_damaged(800); // in a payload

    finish_damaged(w, false);
    assert_int_equal(w->finish.discarded_records, 15);
    assert_int_equal(w->finish.discarded_bytes, 15 * 1024);
    assert_false(w->finish.reaches_confirmed);
    expect_lost(w, 11, 25);
    replica_discard(w->r);
    assert_int_equal(w->finishes, 2);
    assert_int_equal(w->finish.error, 0);
    assert_false(w->finish.discards);
    struct safe_recovery recovery = power_loss(w);
    assert_int_equal(recovery.last, 10);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    world_free(w);
}

// The queue's disk is full, and its only segment holds what is to be discarded: that is no reason not to take over.
static void a_takeover_discards_on_a_full_disk(void **state)
{
    struct world *w = world_new(1, 256 * 1024, 8);

    w->config.region = INTENT_REGION_MIN;
    world_reopen(w, 1);
    world_start(w);
    five_batches(w);
    assert_int_equal(fake_disk_slots(w->disk), 1);
    fake_disk_rot(w->disk, 0, DAMAGED_AT + 800, 1);
    fake_disk_limit(w->disk, 0);
    finish_damaged(w, false);
    expect_lost(w, 11, 25);
    replica_discard(w->r);
    assert_int_equal(w->finishes, 2);
    assert_int_equal(w->finish.error, 0);
    struct safe_recovery recovery = power_loss(w);
    assert_int_equal(recovery.last, 10);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    world_free(w);
}

// A crash before the word to discard: the next run finds the damage at its opening, and tells the same regions.
static void what_is_discarded_is_told_again_after_a_crash(void **state)
{
    struct world *w = world_damaged(800);

    finish_damaged(w, false);
    for (unsigned i = 0; i < 3; i++) {
        struct safe_recovery recovery = power_loss(w);
        assert_int_equal(world_stats(w).failure, -EUCLEAN);
        assert_false(world_stats(w).over); // the prefix is replayed all the same
        assert_int_equal(recovery.verdict, SAFE_DAMAGED);
        assert_int_equal(recovery.last, 10);
        assert_false(recovery.unknown);
        if (i > 0) // and one before it is asked for anything
            finish_damaged(w, false);
        expect_lost(w, 11, 25);
    }
    replica_discard(w->r);
    assert_int_equal(w->finishes, 2);
    struct safe_recovery recovery = power_loss(w);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    world_free(w);
}

// Of what had been confirmed not even the headers can be read.
static void what_cannot_be_read_is_unknown(void **state)
{
    static const uint64_t places[] = {8, 70, 200}; // in the entry's header, the batch's, a record's

    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        struct world *w = world_damaged(places[i]);
        finish_damaged(w, true);
        struct safe_recovery recovery = power_loss(w);
        assert_int_equal(recovery.verdict, SAFE_DAMAGED);
        assert_true(recovery.unknown);
        finish_damaged(w, true);
        // It does not come to a takeover: what follows is a stream that starts anew.
        replica_restart(w->r, SESSION + 1, w->epoch, 100, w->now);
        world_settle_down(w, NS_PER_S);
        w->finishes = 0;
        world_finish(w);
        world_settle_down(w, 0);
        assert_int_equal(w->finishes, 1);
        assert_false(w->finish.discards);
        world_free(w);
    }
}

static void on_settle(void *arg, int status)
{
    struct world *w = arg;
    w->settled_status = status;
}

static void settling_waits_for_what_was_received(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 30);
    world_send(w, 1, 10, 0);
    w->settled_status = 1;
    assert_int_equal(replica_settle(w->r, on_settle, w), 0);
    assert_int_equal(replica_settle(w->r, on_settle, w), -EBUSY);
    world_send(w, 11, 10, 0);
    while (w->settled_status == 1)
        assert_true(fake_disk_complete(w->disk) || world_complete_volumes(w));
    assert_int_equal(w->settled_status, 0);
    assert_true(world_stats(w).settled >= 10);
    fake_volume_fail(w->blocks[1], 1U << BLOCK_FLUSH, -EIO);
    world_send(w, 21, 2, 0);
    w->settled_status = 1;
    assert_int_equal(replica_settle(w->r, on_settle, w), 0);
    world_settle_down(w, 0);
    assert_int_equal(w->settled_status, -EIO);
    world_free(w);
}

static void stopping_becomes_idle_and_says_nothing(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 10);
    world_send(w, 1, 10, 1);
    fake_disk_complete(w->disk);
    unsigned events = w->event_count;
    replica_stop(w->r);
    assert_false(replica_idle(w->r));
    fake_volume_fail(w->blocks[0], ~0U, -ECANCELED);
    fake_volume_fail(w->blocks[1], ~0U, -ECANCELED);
    world_complete_volumes(w);
    assert_true(replica_idle(w->r));
    assert_int_equal(w->event_count, events);
    assert_true(replica_deadline(w->r) == INT64_MAX);
    world_free(w);
}

static void random_line(struct world *w, uint64_t seq, uint64_t *seed)
{
    uint64_t what = help_random(seed, 100);
    uint16_t object = (uint16_t)help_random(seed, VOLUMES);
    uint32_t length = 512 * (1 + (uint32_t)help_random(seed, 10));
    uint64_t offset = help_random(seed, (VOLUME_SIZE - length) / 512) * 512;

    line_write(w, seq, object, offset, length);
    if (what < 10)
        w->lines[seq].type = RECORD_ZERO;
    else if (what < 18)
        w->lines[seq].type = RECORD_DISCARD;
    else if (what < 22)
        w->lines[seq].type = RECORD_RESYNC;
    else if (what < 24)
        line_mark(w, seq, MARK_IDLE);
    else if (what < 26)
        line_mark(w, seq, what == 24 ? MARK_RESYNC_BEGIN : MARK_RESYNC_END);
    else if (what < 28)
        w->lines[seq] =
            (struct line){.type = RECORD_EPOCH, .epoch = w->epoch + 1, .parent = w->epoch};
    else if (what < 30)
        w->lines[seq].type = RECORD_CHECK;
    w->epoch = w->lines[seq].epoch;
}

// A sender that loses, repeats and overlaps batches. Returns the next seq that it thinks it has to
// send.
static uint64_t random_send(struct world *w, uint64_t next, uint64_t *made, uint64_t *barrier,
                            uint64_t *seed)
{
    uint32_t count = 1 + (uint32_t)help_random(seed, 12);

    while (*made < next + count - 1)
        random_line(w, ++*made, seed);
    if (help_random(seed, 20) == 0)
        return next + count; // lost
    bool flush = help_random(seed, 4) == 0;
    uint64_t number = flush ? ++*barrier : 0;
    uint64_t back = help_random(seed, 6) == 0 ? help_random(seed, 4) : 0;
    uint64_t first = next > back ? next - back : 1;
    world_send(w, first, (uint32_t)(next + count - first), number);
    if (help_random(seed, 15) == 0)
        world_send(w, first, (uint32_t)(next + count - first), 0);
    return next + count;
}

static void expect_prefix(struct world *w)
{
    if (replica_idle(w->r) && world_stats(w).applied == world_stats(w).durable)
        world_expect(w, 1, world_stats(w).applied);
}

static void random_world(uint64_t run, unsigned steps)
{
    uint64_t seed = run * 77777 + 1;
    struct world *w = world_new(run, 64 * 1024, 4 + (unsigned)(run % 3));
    uint64_t next = 1;
    uint64_t made = 0;
    uint64_t barrier = 0;

    world_reopen(w, run % 2 ? 16 * 1024 : 0);
    world_start(w);
    for (unsigned i = 0; i < steps && made < SEQS_MAX - 100 && barrier < 4000; i++) {
        uint64_t what = help_random(&seed, 100);
        w->event_count = 0;
        if (what < 40) {
            next = random_send(w, next, &made, &barrier, &seed);
        } else if (what < 60) {
            fake_disk_complete(w->disk);
        } else if (what < 85) {
            fake_volume_complete(w->blocks[help_random(&seed, VOLUMES)]);
        } else if (what < 95) {
            world_advance(w, (int64_t)help_random(&seed, 20) * NS_PER_MS);
        } else if (what < 97) {
            world_settle_down(w, (int64_t)help_random(&seed, 3) * NS_PER_S);
            expect_prefix(w);
        } else if (what == 97) {
            replica_pause(w->r, help_random(&seed, 2));
        } else {
            world_crash(w, what == 98);
            replica_session(w->r, SESSION, w->now);
            memset(w->barrier_end, 0, sizeof(w->barrier_end));
            next = world_stats(w).received + 1;
            // What the passive end never had is numbered anew, with other content.
            made = next - 1;
            w->epoch = w->lines[made].epoch ? w->lines[made].epoch : w->epoch;
        }
        if (le16_get(w->ack.flags) & ACK_RESEND || help_random(&seed, 30) == 0)
            next = world_stats(w).received + 1;
    }
    w->event_count = 0;
    uint64_t confirmed = w->confirmed;
    if (run % 4 == 0) {
        world_crash(w, true);
        world_settle_down(w, NS_PER_S);
    }
    world_finish(w);
    world_settle_down(w, 0);
    assert_int_equal(w->finishes, 1);
    assert_int_equal(w->finish.error, 0);
    assert_true(w->finish.reaches_confirmed);
    assert_true(w->finish.applied >= confirmed);
    world_expect(w, 1, w->finish.applied);
    world_free(w);
}

static void random_worlds_are_always_a_prefix(void **state)
{
    for (uint64_t run = 1; run <= 150; run++) {
        if (run % 50 == 1)
            print_message("run %u\n", (unsigned)run);
        random_world(run, 400);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_takeover_applies_all_that_was_received),
        cmocka_unit_test(a_takeover_with_a_failing_replica_is_aborted),
        cmocka_unit_test(a_takeover_ends_in_front_of_damage),
        cmocka_unit_test(a_takeover_discards_on_a_full_disk),
        cmocka_unit_test(what_is_discarded_is_told_again_after_a_crash),
        cmocka_unit_test(what_cannot_be_read_is_unknown),
        cmocka_unit_test(settling_waits_for_what_was_received),
        cmocka_unit_test(stopping_becomes_idle_and_says_nothing),
        cmocka_unit_test(random_worlds_are_always_a_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
