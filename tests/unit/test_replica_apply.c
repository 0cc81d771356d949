// SPDX-License-Identifier: Apache-2.0
// queues/replica: what is applied is a prefix of what is durable, each record at its place, and nothing is ever skipped.
#include "tests/unit/replica_world.h"

static void nothing_is_applied_before_it_is_durable(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 10);
    world_send(w, 1, 5, 1);
    assert_int_equal(fake_volume_active(w->blocks[0]) + fake_volume_active(w->blocks[1]), 0);
    fake_disk_complete(w->disk);
    assert_int_equal(fake_volume_active(w->blocks[0]) + fake_volume_active(w->blocks[1]), 5);
    assert_int_equal(world_stats(w).applied, 0);
    world_settle_down(w, 2 * NS_PER_S);
    assert_int_equal(world_stats(w).applied, 5);
    assert_int_equal(world_stats(w).settled, 5);
    assert_int_equal(le64_get(w->ack.settled), 5);
    assert_int_equal(w->in_memory, 0);
    world_expect(w, 1, 5);
    world_free(w);
}

static void a_small_window_is_read_back_from_the_queue(void **state)
{
    struct world *w = world_new(1, 64 * 1024, 8);

    world_reopen(w, 8000);
    world_start(w);
    replica_pause(w->r, true);
    world_writes(w, 1, 200);
    for (uint64_t seq = 1; seq < 198; seq += 3) {
        world_send(w, seq, 3, seq);
        fake_disk_complete(w->disk);
        assert_true(w->in_memory <= 3);
    }
    assert_int_equal(world_stats(w).durable, 198);
    assert_int_equal(world_stats(w).applied, 0);
    assert_int_equal(world_stats(w).oldest_time, 1001);
    assert_int_equal(world_stats(w).newest_time, 1198);
    assert_int_equal(world_stats(w).newest_at, w->now);
    assert_int_equal(world_stats(w).queued_bytes, 198 * 1024);
    replica_pause(w->r, false);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).applied, 198);
    assert_int_equal(world_stats(w).queued_bytes, 0);
    assert_int_equal(world_stats(w).oldest_time, 0);
    world_expect(w, 1, 198);
    // And in memory again.
    world_writes(w, 199, 10);
    world_send(w, 199, 2, 900);
    assert_int_equal(w->in_memory, 1);
    world_settle_down(w, NS_PER_S);
    world_expect(w, 1, 200);
    world_free(w);
}

static void many_are_under_way_and_overlapping_ones_are_not(void **state)
{
    struct world *w = world_started(1);

    for (uint64_t seq = 1; seq <= 14; seq++)
        line_write(w, seq, 0, (seq - 1) * 4096, 4096);
    for (uint64_t seq = 15; seq <= 40; seq++)
        line_write(w, seq, 0, seq % 4 * 1024, 512); // all in the first block
    world_send(w, 1, 40, 1);
    fake_disk_complete(w->disk);
    assert_int_equal(fake_volume_active(w->blocks[0]), 14);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(fake_volume_most(w->blocks[0]), 14);
    world_expect(w, 1, 40);
    world_free(w);
}

static void an_epoch_waits_for_the_history(void **state)
{
    struct world *w = world_started(1);

    w->consent_at_once = false;
    world_writes(w, 1, 3);
    w->epoch = 901;
    w->lines[4] = (struct line){.type = RECORD_EPOCH, .epoch = 901, .parent = 900};
    world_writes(w, 5, 3);
    world_send(w, 1, 7, 1);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_events(w, REPLICA_GATE_EPOCH), 1);
    assert_int_equal(le64_get(w->ack.durable), 3);
    assert_int_equal(le64_get(w->ack.barrier), 0);
    assert_int_equal(world_stats(w).applied, 3);
    assert_int_equal(world_stats(w).durable_epoch, 900);
    assert_true(world_stats(w).gated);
    // A restarted end is asked again.
    world_crash(w, true);
    replica_work(w->r, w->now);
    assert_int_equal(world_events(w, REPLICA_GATE_EPOCH), 2);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).applied, 3);
    replica_consent(w->r, 99);
    assert_int_equal(world_stats(w).durable, 3);
    replica_consent(w->r, 4);
    assert_int_equal(world_stats(w).durable, 7);
    assert_int_equal(world_stats(w).durable_epoch, 901);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).applied, 7);
    assert_int_equal(world_stats(w).applied_epoch, 901);
    world_expect(w, 1, 7);
    world_free(w);
}

static void a_resync_waits_for_its_marks(void **state)
{
    struct world *w = world_started(1);

    w->consent_at_once = false;
    world_writes(w, 1, 2);
    line_mark(w, 3, MARK_RESYNC_BEGIN);
    world_writes(w, 4, 2);
    w->lines[4].type = RECORD_RESYNC;
    line_mark(w, 6, MARK_RESYNC_END);
    world_writes(w, 7, 2);
    world_send(w, 1, 8, 1);
    fake_disk_complete(w->disk);
    world_settle_down(w, 0);
    assert_int_equal(le64_get(w->ack.barrier), 1); // durable does not wait
    assert_int_equal(world_events(w, REPLICA_GATE_RESYNC_BEGIN), 1);
    assert_int_equal(world_stats(w).applied, 2);
    world_expect(w, 1, 2);
    replica_consent(w->r, 3);
    world_settle_down(w, 0);
    assert_int_equal(world_stats(w).applied, 5);
    assert_int_equal(world_events(w, REPLICA_GATE_RESYNC_END), 1);
    assert_int_equal(world_stats(w).settled, 5); // flushed before it is asked
    world_settle_down(w, 5 * NS_PER_S);
    assert_int_equal(world_stats(w).applied, 5);
    replica_consent(w->r, 6);
    world_settle_down(w, 0);
    assert_int_equal(world_stats(w).applied, 8);
    assert_false(world_stats(w).gated);
    world_expect(w, 1, 8);
    world_free(w);
}

// A check must not find equal what a power loss takes back: who wrote it before need not have flushed it, and the safe
// queue does not hold it.
static void a_resync_begins_with_a_flush(void **state)
{
    struct world *w = world_started(1);
    unsigned flushes = fake_volume_flushes(w->blocks[0]);

    line_mark(w, 1, MARK_RESYNC_BEGIN);
    fake_volume_fail(w->blocks[0], 1U << BLOCK_FLUSH, -EIO);
    world_send(w, 1, 1, 1);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_events(w, REPLICA_GATE_RESYNC_BEGIN), 0);
    assert_int_equal(world_stats(w).failure, -EIO);
    assert_true(world_stats(w).over);
    fake_volume_fail(w->blocks[0], 0, 0);
    world_crash(w, true);
    replica_session(w->r, SESSION + 1, w->now);
    world_settle_down(w, NS_PER_S);
    assert_true(fake_volume_flushes(w->blocks[0]) > flushes);
    assert_int_equal(world_events(w, REPLICA_GATE_RESYNC_BEGIN), 1);
    assert_int_equal(world_stats(w).applied, 1);
    world_free(w);
}

static void a_check_is_answered_at_its_place(void **state)
{
    struct world *w = world_started(1);

    for (uint16_t object = 0; object < VOLUMES; object++) {
        uint64_t first = 1 + object * 10U;
        for (uint64_t seq = first; seq < first + 10; seq++)
            line_write(w, seq, object, (seq - first) * 2048, 2048);
        w->lines[first + 8] = (struct line){.type = RECORD_CHECK,
                                            .object = object,
                                            .offset = 4096,
                                            .length = 4 * 4096 - 512,
                                            .check_wrong = 0x6,
                                            .epoch = w->epoch};
        world_send(w, first, 10, first);
        world_settle_down(w, NS_PER_S);
        assert_int_equal(w->answers, object + 1U);
        assert_int_equal(w->answer_seq, first + 8);
        assert_int_equal(w->answer_bitmap[0], 0x6);
    }
    // Unreadable is different, also where the same has just been read and was equal.
    for (uint64_t seq = 21; seq <= 22; seq++) {
        w->lines[seq] = w->lines[9];
        w->lines[seq].check_wrong = 0;
        fake_volume_fail(w->blocks[0], seq == 22 ? 1U << BLOCK_READ : 0, -EIO);
        world_send(w, seq, 1, 30 + seq);
        world_settle_down(w, NS_PER_S);
        assert_int_equal(w->answer_bitmap[0], seq == 22 ? 0xf : 0);
    }
    assert_int_equal(world_stats(w).failure, 0);
    assert_int_equal(world_stats(w).applied, 22);
    // Nobody waits for the answers of an earlier run.
    world_crash(w, false);
    fake_volume_fail(w->blocks[0], 0, 0);
    replica_session(w->r, SESSION + 1, w->now);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).applied, 22);
    assert_int_equal(w->answers, 4);
    world_expect(w, 1, 22);
    world_free(w);
}

// A checksum of 64 KiB that does not match names all blocks of these.
static void a_coarse_check_names_whole_units(void **state)
{
    struct world *w = world_started(1);
    line_write(w, 1, 0, 70 * 1024, 2048);
    for (uint64_t seq = 2; seq <= 4; seq++)
        w->lines[seq] = (struct line){.type = RECORD_CHECK,
                                      .offset = 4096,
                                      .length = 2 * CHECK_COARSE_SIZE + 2 * CHECK_BLOCK_SIZE,
                                      .coarse = true,
                                      .check_wrong = (uint64_t[]){0, 2, 5}[seq - 2],
                                      .epoch = w->epoch};
    static const uint8_t expected[3][5] = {{0}, {0, 0, 0xff, 0xff, 0}, {0xff, 0xff, 0, 0, 0x3}};
    for (uint64_t seq = 1; seq <= 4; seq++) {
        world_send(w, seq, 1, seq);
        world_settle_down(w, NS_PER_S);
        if (seq > 1)
            assert_memory_equal(w->answer_bitmap, expected[seq - 2], sizeof(expected[0]));
    }
    assert_int_equal(w->answers, 3);
    world_free(w);
}

// Zeros for which the guest wants room to be kept keep it here, too: a takeover must not run out of it.
static void zeros_without_a_hole_leave_none(void **state)
{
    struct world *w = world_started(1);
    line_write(w, 1, 0, 0, 8192);
    for (uint64_t seq = 2; seq <= 4; seq++)
        w->lines[seq] = (struct line){
            .type = RECORD_ZERO, .offset = (seq - 2) * 4096, .length = 4096, .epoch = w->epoch, .no_hole = seq == 3};
    world_send(w, 1, 4, 1);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).applied, 4);
    assert_int_equal(fake_volume_no_holes(w->blocks[0]), 1);
    world_expect(w, 1, 4);
    world_free(w);
}

// More checks than read at a time, of ranges that the store only tells to be zeros.
static void checks_of_zeros_are_answered(void **state)
{
    struct world *w = world_started(1);
    line_write(w, 1, 0, 0, 2048);
    for (uint64_t seq = 2; seq <= 21; seq++)
        w->lines[seq] = (struct line){.type = RECORD_CHECK,
                                      .offset = 16384,
                                      .length = (seq % 3 + 1) * 4096 - seq % 2 * 512,
                                      .check_wrong = seq == 21 ? 1 : 0,
                                      .epoch = w->epoch};
    world_send(w, 1, 21, 0); // no barrier: a check is synced for its answer's sake
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    world_settle_down(w, 0);
    assert_int_equal(w->answers, 20);
    assert_int_equal(w->answer_seq, 21);
    assert_int_equal(w->answer_bitmap[0], 1);
    assert_int_equal(world_stats(w).applied, 21);
    world_free(w);
}

static void a_write_error_stops_the_replay(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 20);
    world_send(w, 1, 5, 1);
    world_settle_down(w, 0);
    fake_volume_fail(w->blocks[0], 1U << BLOCK_WRITE, -EIO);
    world_send(w, 6, 5, 2); // 6 is for volume 0
    world_settle_down(w, 5 * NS_PER_S);
    assert_int_equal(world_stats(w).applied, 5);
    assert_int_equal(world_stats(w).failure, -EIO);
    assert_int_equal(world_events(w, REPLICA_FAILED), 1);
    assert_true(le16_get(w->ack.flags) & ACK_FAILED);
    assert_int_equal(le32_get(w->ack.error), EIO);
    fake_volume_fail(w->blocks[0], 0, 0);
    world_send(w, 11, 5, 3);
    world_settle_down(w, 5 * NS_PER_S);
    assert_int_equal(world_stats(w).applied, 5);
    assert_int_equal(le64_get(w->ack.received), 10);
    assert_int_equal(world_events(w, REPLICA_FAILED), 1);
    // After a new opening everything is there.
    world_crash(w, true);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).applied, 10);
    world_expect(w, 1, 10);
    world_free(w);
}

static void a_flush_error_is_final(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 20);
    world_send(w, 1, 5, 1);
    fake_volume_fail(w->blocks[1], 1U << BLOCK_FLUSH, -EIO);
    world_settle_down(w, 3 * NS_PER_S);
    assert_int_equal(world_stats(w).settled, 0);
    assert_int_equal(world_stats(w).failure, -EIO);
    fake_volume_fail(w->blocks[1], 0, 0);
    world_settle_down(w, 3 * NS_PER_S);
    assert_int_equal(world_stats(w).settled, 0);
    assert_true(le16_get(w->ack.flags) & ACK_FAILED);
    world_free(w);
}

static void a_sync_error_is_final_and_what_was_durable_is_applied(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 20);
    world_send(w, 1, 5, 1);
    fake_disk_complete(w->disk);
    world_send(w, 6, 5, 2);
    fake_disk_fail(w->disk, 1, -EIO, false);
    world_settle_down(w, 3 * NS_PER_S);
    assert_int_equal(world_stats(w).durable, 5);
    assert_int_equal(world_stats(w).applied, 5);
    assert_int_equal(le64_get(w->ack.barrier), 1);
    assert_int_equal(le32_get(w->ack.error), EIO);
    world_send(w, 6, 8, 3);
    world_settle_down(w, 3 * NS_PER_S);
    assert_int_equal(world_stats(w).durable, 5);
    world_expect(w, 1, 5);
    world_free(w);
}

static void a_record_outside_its_volume_is_refused(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 3);
    line_write(w, 2, 0, VOLUME_SIZE - 512, 1024);
    world_send(w, 1, 3, 1);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).failure, -ERANGE);
    assert_int_equal(world_stats(w).applied, 1);
    world_free(w);
}

static void the_rate_is_measured(void **state)
{
    struct world *w = world_started(1);

    for (uint64_t seq = 1; seq <= 200; seq++)
        line_write(w, seq, 0, seq % 10 * 4096, 4096);
    for (uint64_t seq = 1; seq <= 200; seq++) {
        world_send(w, seq, 1, seq);
        fake_disk_complete(w->disk);
        world_advance(w, 2 * NS_PER_MS);
        world_complete_volumes(w);
        world_settle_down(w, 0);
    }
    assert_in_range(world_stats(w).replay_records_per_s, 400, 600);
    assert_in_range(world_stats(w).replay_bytes_per_s, 400 * 4096, 600 * 4096);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_applied_before_it_is_durable),
        cmocka_unit_test(a_small_window_is_read_back_from_the_queue),
        cmocka_unit_test(many_are_under_way_and_overlapping_ones_are_not),
        cmocka_unit_test(an_epoch_waits_for_the_history),
        cmocka_unit_test(a_resync_waits_for_its_marks),
        cmocka_unit_test(a_resync_begins_with_a_flush),
        cmocka_unit_test(a_check_is_answered_at_its_place),
        cmocka_unit_test(a_coarse_check_names_whole_units),
        cmocka_unit_test(zeros_without_a_hole_leave_none),
        cmocka_unit_test(checks_of_zeros_are_answered),
        cmocka_unit_test(a_write_error_stops_the_replay),
        cmocka_unit_test(a_flush_error_is_final),
        cmocka_unit_test(a_sync_error_is_final_and_what_was_durable_is_applied),
        cmocka_unit_test(a_record_outside_its_volume_is_refused),
        cmocka_unit_test(the_rate_is_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
