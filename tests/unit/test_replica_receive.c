// SPDX-License-Identifier: Apache-2.0
// queues/replica: what it takes from the stream, when that is synced and acknowledged, and when it asks for more.
#include "tests/unit/replica_world.h"

static void a_barrier_is_acknowledged_when_it_is_durable(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 20);
    world_send(w, 1, 3, 1);
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    assert_int_equal(le64_get(w->ack.barrier), 0);
    // One that comes while a sync runs gets another.
    world_send(w, 4, 3, 2);
    world_send(w, 7, 1, 3);
    assert_true(fake_disk_complete(w->disk));
    assert_int_equal(le64_get(w->ack.barrier), 1);
    assert_int_equal(le64_get(w->ack.durable), 3);
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    assert_true(fake_disk_complete(w->disk));
    assert_int_equal(le64_get(w->ack.barrier), 3);
    assert_int_equal(le64_get(w->ack.durable), 7);
    // One without records, with nothing to sync: at once.
    world_send(w, 8, 0, 4);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    assert_int_equal(le64_get(w->ack.barrier), 4);
    // One without records behind records that wait for their sync.
    world_send(w, 8, 2, 0);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    world_send(w, 10, 0, 5);
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    world_send(w, 10, 0, 6); // nothing was added since that sync was started
    assert_true(fake_disk_complete(w->disk));
    assert_int_equal(le64_get(w->ack.barrier), 6);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    // One that was sent again.
    world_send(w, 5, 5, 7);
    assert_int_equal(le64_get(w->ack.barrier), 7);
    world_settle_down(w, 0);
    world_expect(w, 1, 9);
    world_free(w);
}

static void quiet_starts_a_sync_and_a_mib_does(void **state)
{
    struct world *w = world_new(1, SAFE_SEGMENT_SIZE, 4);

    world_start(w);
    world_writes(w, 1, 10);
    world_send(w, 1, 3, 0);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    assert_true(replica_deadline(w->r) <= w->now + REPLICA_QUIET_NS);
    world_advance(w, REPLICA_QUIET_NS - 1);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    world_advance(w, 1);
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    world_settle_down(w, 0);
    assert_int_equal(le64_get(w->ack.durable), 3);

    for (uint64_t seq = 4; seq < 30; seq++)
        line_write(w, seq, 0, 0, 63 * 1024);
    uint64_t seq = 4;
    while (fake_disk_syncing(w->disk) == 0)
        world_send(w, seq++, 1, 0);
    assert_int_equal(seq - 4, 17); // the first that makes it a MiB
    world_settle_down(w, 10 * NS_PER_MS);
    assert_int_equal(world_stats(w).durable, seq - 1);
    world_free(w);
}

static void a_gap_is_asked_for_and_duplicates_are_skipped(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 30);
    world_send(w, 1, 4, 1);
    world_settle_down(w, NS_PER_S);
    unsigned resends = w->resends;
    world_send(w, 7, 3, 0);
    world_send(w, 10, 3, 0);
    world_send(w, 13, 3, 2);
    assert_int_equal(w->resends, resends + 1); // once, not for each
    assert_int_equal(le64_get(w->ack.received), 4);
    assert_true(le16_get(w->ack.flags) & ACK_RESEND);
    world_advance(w, REPLICA_RESEND_NS);
    world_send(w, 16, 3, 0);
    assert_int_equal(w->resends, resends + 2);
    world_send(w, 3, 4, 0); // overlaps partly
    world_send(w, 1, 5, 0); // entirely
    world_send(w, 6, 6, 3);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).applied, 11);
    assert_int_equal(world_stats(w).duplicates, 1);
    assert_int_equal(le64_get(w->ack.barrier), 3);
    world_expect(w, 1, 11);
    world_free(w);
}

static void damaged_and_foreign_messages_are_dropped(void **state)
{
    struct world *w = world_started(1);
    struct message_spec spec = {
        .session = SESSION, .first_seq = 1, .count = 2, .fill = line_fill, .arg = w};
    size_t size;

    world_writes(w, 1, 10);
    CLEANUP_FREE uint8_t *good = message_make(&spec, &size);
    for (size_t at = 0; at < size; at += 7) {
        uint8_t *message = malloc(size);
        memcpy(message, good, size);
        message[at] ^= 0x10;
        w->in_memory++;
        replica_receive(w->r, message, size, w->now);
        assert_int_equal(world_stats(w).received, 0);
        assert_int_equal(w->in_memory, 0);
    }
    for (size_t cut = 0; cut < size; cut += 5) {
        uint8_t *message = malloc(size);
        memcpy(message, good, size);
        w->in_memory++;
        replica_receive(w->r, message, cut, w->now);
    }
    world_send_as(w, SESSION + 1, 1, 2, 0);
    assert_int_equal(world_stats(w).received, 0);
    assert_true(w->resends >= 1);
    replica_session(w->r, 0, w->now);
    world_send(w, 1, 2, 0);
    assert_int_equal(world_stats(w).received, 0);
    assert_int_equal(w->in_memory, 0);
    replica_session(w->r, SESSION, w->now);
    world_send(w, 1, 2, 0);
    assert_int_equal(world_stats(w).received, 2);
    world_settle_down(w, NS_PER_S);
    world_expect(w, 1, 2);
    world_free(w);
}

static void full_is_said_and_passes(void **state)
{
    struct world *w = world_new(1, 16 * 1024, 3);

    world_start(w);
    world_writes(w, 1, 300);
    replica_pause(w->r, true);
    uint64_t seq = 1;
    while (!world_stats(w).full) {
        assert_true(seq < 100);
        world_send(w, seq, 2, seq);
        fake_disk_complete(w->disk);
        seq += 2;
    }
    world_settle_down(w, 0);
    assert_true(le16_get(w->ack.flags) & ACK_FULL);
    assert_false(le16_get(w->ack.flags) & ACK_RESEND);
    assert_int_equal(world_events(w, REPLICA_FULL), 1);
    assert_int_equal(world_stats(w).received, seq - 3);
    world_send(w, seq, 2, 0); // comes too early
    assert_int_equal(world_stats(w).received, seq - 3);
    unsigned resends = w->resends;
    replica_pause(w->r, false);
    world_settle_down(w, 10 * NS_PER_MS);
    assert_true(w->resends > resends);
    seq = world_stats(w).received + 1;
    world_send(w, seq, 2, seq);
    assert_int_equal(world_events(w, REPLICA_ROOM), 1);
    world_settle_down(w, NS_PER_S);
    assert_false(le16_get(w->ack.flags) & ACK_FULL);
    world_expect(w, 1, seq + 1);
    world_free(w);
}

// A queue that finds no room when it is to start anew waits for it, and goes on as soon as there is some.
static void a_start_without_room_waits_for_it(void **state)
{
    struct world *w = world_new(1, 16 * 1024, 3);

    fake_disk_limit(w->disk, 0);
    world_start(w);
    world_settle_down(w, 5 * NS_PER_S);
    assert_int_equal(world_events(w, REPLICA_RESTARTED), 0);
    assert_int_equal(world_events(w, REPLICA_FULL), 1);
    assert_int_equal(world_events(w, REPLICA_FAILED), 0);
    assert_true(world_stats(w).full);
    assert_true(replica_deadline(w->r) <= w->now + NS_PER_S);
    fake_disk_limit(w->disk, UINT64_MAX);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_events(w, REPLICA_RESTARTED), 1);
    assert_int_equal(world_events(w, REPLICA_ROOM), 1);
    world_writes(w, 1, 2);
    world_send(w, 1, 2, 1);
    world_settle_down(w, NS_PER_S);
    world_expect(w, 1, 2);
    world_free(w);
}

static void a_restart_replays_what_is_held_first(void **state)
{
    struct world *w = world_started(1);

    world_writes(w, 1, 10);
    world_send(w, 1, 10, 0);
    replica_restart(w->r, SESSION + 1, 901, 101, w->now);
    assert_int_equal(world_events(w, REPLICA_RESTARTED), 1); // of world_started()
    world_writes(w, 101, 10);
    world_send_as(w, SESSION + 1, 101, 2, 0); // too early
    assert_int_equal(world_stats(w).received, 10);
    world_settle_down(w, 0);
    assert_int_equal(world_events(w, REPLICA_RESTARTED), 2);
    world_expect(w, 1, 10);
    assert_int_equal(le64_get(w->ack.received), 100);
    assert_int_equal(le64_get(w->ack.session), SESSION + 1);
    assert_int_equal(world_stats(w).epoch, 901);
    world_send_as(w, SESSION + 1, 101, 10, 1);
    world_settle_down(w, NS_PER_S);
    assert_int_equal(world_stats(w).applied, 110);
    for (uint64_t seq = 11; seq <= 100; seq++)
        line_mark(w, seq, MARK_IDLE);
    world_expect(w, 1, 110);
    world_crash(w, true);
    assert_int_equal(world_stats(w).received, 110);
    world_settle_down(w, NS_PER_S);
    world_expect(w, 1, 110);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_barrier_is_acknowledged_when_it_is_durable),
        cmocka_unit_test(quiet_starts_a_sync_and_a_mib_does),
        cmocka_unit_test(a_gap_is_asked_for_and_duplicates_are_skipped),
        cmocka_unit_test(damaged_and_foreign_messages_are_dropped),
        cmocka_unit_test(full_is_said_and_passes),
        cmocka_unit_test(a_start_without_room_waits_for_it),
        cmocka_unit_test(a_restart_replays_what_is_held_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
