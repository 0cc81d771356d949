// SPDX-License-Identifier: Apache-2.0
// queues/updates: what goes to the stores and into the stream, in which order, and what it waits for: blocks of the peer's
// store, the bound, the map, room; copies for a resync; what a daemon that died has left.
#include "tests/unit/updates_fixture.h"

#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checksum.h"
#include "queues/batch.h"

// What shares a block of the peer's store is in order here, too, however small the blocks of this one are.
static void test_the_coarser_blocks_count(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    for (unsigned volume = 0; volume < VOLUMES; volume++) { // the peer's block: 4096, and 1
        request_write(f, &f->requests[2 * volume], (uint16_t)volume, 0, 512, 0);
        request_write(f, &f->requests[2 * volume + 1], (uint16_t)volume, 3584, 512, 0);
    }
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].count, 1);
    assert_int_equal(f->blocks[1].count, 2);
    fixture_complete(f);
    fixture_free(f);
}

// A turn is over when everything that was at a store at its beginning is numbered, whatever came since.
static void test_turns(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    assert_true(updates_turn(f->updates));
    request_write(f, &f->requests[0], 0, 0, 512, 0);
    updates_kick(f->updates);
    assert_true(updates_turn(f->updates));
    assert_false(updates_turn_over(f->updates));
    assert_false(updates_turn(f->updates));
    request_write(f, &f->requests[1], 0, 8192, 512, 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 1, 0);
    assert_false(updates_turn_over(f->updates));
    request_write(f, &f->requests[2], 0, 16384, 512, 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, -EIO); // numbered as a mark
    assert_true(updates_turn_over(f->updates));
    fixture_finish(f, 0, 0, 0);
    assert_true(updates_turn(f->updates));
    assert_true(updates_turn_over(f->updates));
    fixture_free(f);
}

// A sync that nobody waits for counts like one that somebody asked for, and shares it.
static void test_own_sync(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    struct updates_stat stat;
    updates_sync(f->updates, 1);
    assert_int_equal(updates_syncs(f->updates, 1).begun, 0);
    updates_kick(f->updates);
    assert_int_equal(updates_syncs(f->updates, 1).begun, 1);
    assert_int_equal(updates_syncs(f->updates, 1).good, 0);
    updates_stat(f->updates, &stat);
    assert_int_equal(stat.at_store, 1);
    request_flush(f, &f->requests[0], 1);
    updates_sync(f->updates, 1);
    updates_kick(f->updates);
    fixture_finish(f, 1, 0, 0);
    updates_kick(f->updates);
    assert_int_equal(updates_syncs(f->updates, 1).begun, 2);
    assert_int_equal(updates_syncs(f->updates, 1).good, 1);
    fixture_finish(f, 1, 0, -EIO);
    assert_int_equal(updates_syncs(f->updates, 1).good, 1);
    assert_int_equal(f->requests[0].status, -EIO);
    updates_sync(f->updates, 1);
    updates_kick(f->updates);
    assert_int_equal(updates_syncs(f->updates, 1).begun, 2);
    updates_stat(f->updates, &stat);
    assert_int_equal(stat.at_store, 0);
    fixture_free(f);
}

static void test_bound(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    fixture_drop(f);
    struct error err;
    struct unsafe_config config = {
        .bound = UNSAFE_RESERVE + 2, .ring_bytes = 2 << 20, .payload_max = PAYLOAD_MAX};
    assert_int_equal(unsafe_create(NULL, &config, &f->unsafe, &err), 0);
    fixture_updates(f, UPDATES_ASYNC);
    updates_set_volume(f->updates, 0, &f->blocks[0].block, 1);
    (void)updates_set_gate(f->updates, UPDATES_ALONE);
    for (int i = 0; i < 3; i++)
        request_write(f, &f->requests[i], 0, (uint64_t)i * 8192, 512, 0);
    fixture_complete(f);
    assert_int_equal(f->answered, 2);
    uint64_t seq;
    while (updates_mark(f->updates, MARK_IDLE, 0, &seq) == 0)
        assert_true(seq <= UNSAFE_RESERVE + 2);
    assert_int_equal(updates_mark(f->updates, MARK_IDLE, 0, &seq), -ERANGE);
    updates_kick(f->updates);
    assert_int_equal(f->events[UPDATES_EVENT_BOUND], 1);
    assert_int_equal(f->last_event.seq, UNSAFE_RESERVE + 2);
    updates_set_bound(f->updates, 1000);
    fixture_complete(f);
    assert_int_equal(f->answered, 3);
    fixture_free(f);
}

static void test_map_is_asked(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    f->map_says = 1;
    request_write(f, &f->requests[0], 0, 0, 512, 0);
    updates_kick(f->updates);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].count, 0);
    f->map_says = 0;
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].kicked, 1);
    f->map_says = -ENOSPC;
    request_write(f, &f->requests[1], 0, 8192, 512, 0);
    updates_kick(f->updates);
    assert_int_equal(f->requests[1].status, -ENOSPC);
    assert_int_equal(f->requests[1].answers, 1);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(unsafe_numbered(f->unsafe), 1);
    fixture_free(f);
}

static void on_drained(void *user)
{
    ((struct fixture *)user)->drained = true;
}

static void test_drain(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    request_write(f, &f->requests[0], 0, 0, 512, 0);
    request_write(f, &f->requests[1], 0, 0, 512, 0);
    updates_drain(f->updates, on_drained);
    updates_kick(f->updates);
    assert_false(f->drained);
    fixture_finish(f, 0, 0, 0);
    assert_false(f->drained);
    fixture_finish(f, 0, 0, 0);
    assert_true(f->drained);
    fixture_free(f);
}

static void test_resync_and_check(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
    memset(f->data[0], 0x5a, 8192);
    memset(f->data[0] + 9000, 1, 10);
    assert_int_equal(updates_resync_chunk(f->updates, 0, 0, 8192), 0);
    assert_int_equal(updates_resync_chunk(f->updates, 0, 16384, 8192), 0);
    assert_int_equal(updates_check(f->updates, 0, 8192, 8192, false), 0);
    assert_int_equal(updates_resync_chunk(f->updates, 0, VOLUME_SIZE - 4096, 8192), -EINVAL);
    assert_int_equal(updates_check(f->updates, 0, 32768, 3 * 4096, false), 0); // zeros, and told to be
    fixture_complete(f);
    assert_int_equal(f->events[UPDATES_EVENT_COPIED], 4);
    assert_int_equal(unsafe_numbered(f->unsafe), 4);
    for (uint64_t seq = 1; seq <= 4; seq++) {
        const struct record *record = unsafe_record(f->unsafe, seq);
        assert_null(record_invalid(record));
        assert_true(record_payload_matches(record, unsafe_payload(f->unsafe, seq)));
    }
    assert_int_equal(unsafe_record(f->unsafe, 1)->type, RECORD_RESYNC);
    assert_memory_equal(unsafe_payload(f->unsafe, 1), f->data[0], 8192);
    assert_int_equal(unsafe_record(f->unsafe, 2)->type, RECORD_RESYNC_ZERO);
    assert_int_equal(unsafe_record(f->unsafe, 3)->type, RECORD_CHECK);
    const struct le64 *sums = unsafe_payload(f->unsafe, 3);
    for (unsigned i = 0; i < 2; i++) {
        struct le64 sum;
        memcpy(&sum, &sums[i], sizeof(sum));
        assert_int_equal(le64_get(sum), checksum64(f->data[0] + 8192 + i * 4096, 4096));
    }
    struct le64 zeros[CHECK_BLOCKS_MAX];
    assert_int_equal(check_sums(NULL, 3 * 4096, 4096, zeros), 3 * sizeof(zeros[0]));
    assert_int_equal(le32_get(unsafe_record(f->unsafe, 4)->payload), 3 * sizeof(zeros[0]));
    assert_memory_equal(unsafe_payload(f->unsafe, 4), zeros, 3 * sizeof(zeros[0]));
    fixture_free(f);
}

// A checksum for each 64 KiB, and one for what is left: in the place of the data.
static void test_coarse_check(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
    memset(f->data[0] + 4096, 0x5a, 5000);
    assert_int_equal(updates_check(f->updates, 0, 4096, 65536, true), 0);
    assert_int_equal(updates_check(f->updates, 0, 4096, 8192, true), 0);
    fixture_complete(f);
    for (uint64_t seq = 1; seq <= 2; seq++) {
        const struct record *record = unsafe_record(f->unsafe, seq);
        struct le64 sum;
        assert_null(record_invalid(record));
        assert_int_equal(record->flags, RECORD_COARSE);
        assert_int_equal(le32_get(record->payload), sizeof(sum));
        memcpy(&sum, unsafe_payload(f->unsafe, seq), sizeof(sum));
        assert_int_equal(le64_get(sum), checksum64(f->data[0] + 4096, seq == 1 ? 65536 : 8192));
    }
    fixture_free(f);
}

// From its read until it has its seq a copy keeps its place among the guest's updates of the same
// range.
static void test_copy_is_ordered(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    request_write(f, &f->requests[0], 0, 0, 512, 0);
    assert_int_equal(updates_resync_chunk(f->updates, 0, 0, 4096), 0);
    updates_kick(f->updates);
    request_write(f, &f->requests[1], 0, 1024, 512, 0); // same block of 4096
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].count, 1);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->blocks[0].count, 1);
    assert_int_equal(f->blocks[0].under_way[0]->op, BLOCK_READ);
    fixture_finish(f, 0, 0, -EIO); // cannot be read: reported, and nobody waits for it
    assert_int_equal(f->last_copied.status, -EIO);
    assert_int_equal(f->last_copied.seq, 0);
    assert_int_equal(f->blocks[0].count, 1);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->answered, 2);
    assert_int_equal(unsafe_numbered(f->unsafe), 2);
    fixture_free(f);
}

// A peer that takes nothing stops the copies long before the queue is full, and no guest's update
// waits for them.
static void test_copies_leave_room(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 4 << 20);
    memset(f->data[1], 3, VOLUME_SIZE);
    unsigned accepted = 0;
    for (unsigned i = 0; i < 400; i++) {
        accepted += updates_resync_chunk(f->updates, 1, (i % 4) * 65536, 65536) == 0;
        fixture_complete(f);
    }
    struct unsafe_stat stat;
    unsafe_stat(f->unsafe, &stat);
    assert_true(stat.bytes < stat.limit_bytes * 3 / 4);
    assert_true(stat.bytes > stat.limit_bytes / 3);
    request_write(f, &f->requests[0], 1, 0, 4096, 0);
    fixture_complete(f);
    assert_int_equal(f->requests[0].answers, 1);
    fixture_durable(f, unsafe_numbered(f->unsafe));
    fixture_complete(f);
    fixture_durable(f, unsafe_numbered(f->unsafe));
    fixture_complete(f);
    fixture_durable(f, unsafe_numbered(f->unsafe));
    fixture_complete(f);
    assert_int_equal(f->events[UPDATES_EVENT_COPIED], accepted);
    fixture_free(f);
}

// The levels are announced; full, with a reader that takes nothing: once it is detached everything
// goes on.
static void test_overflow(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    uint8_t payload[32768];
    memset(payload, 1, sizeof(payload));
    size_t room;
    enum unsafe_level seen = UNSAFE_LOW;
    while (unsafe_head(f->unsafe, 1, &room)) {
        request_prepare(f, &f->requests[0], UPDATE_WRITE, 0, 0, sizeof(payload), 0);
        f->requests[0].update.chunk = fixture_chunk(f, payload, sizeof(payload));
        updates_submit(f->updates, &f->requests[0].update);
        fixture_complete(f);
        assert_int_equal(f->requests[0].answers, 1);
        assert_true(f->level >= seen);
        seen = f->level;
    }
    assert_int_equal(seen, UNSAFE_THREE_QUARTERS);
    updates_kick(f->updates);
    assert_int_equal(f->level, UNSAFE_FULL);
    assert_int_equal(f->events[UPDATES_EVENT_ROOM], 0);
    uint64_t seq;
    assert_int_equal(updates_mark(f->updates, MARK_IDLE, 0, &seq), 0); // control still gets through
    unsafe_detach(f->unsafe, 0);
    updates_kick(f->updates);
    assert_int_equal(f->level, UNSAFE_LOW);
    assert_int_equal(f->events[UPDATES_EVENT_ROOM], 1);
    assert_non_null(unsafe_head(f->unsafe, 1, &room));
    fixture_free(f);
}

static void on_recovered(void *user)
{
    ((struct fixture *)user)->recovered = true;
}

// The memory as it is at this instant.
static int copy_of(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    int copy = memfd_create("copy", MFD_CLOEXEC);
    assert_true(copy >= 0);
    off_t from = 0;
    while (from < st.st_size) {
        ssize_t n = sendfile(copy, fd, &from, (size_t)(st.st_size - from));
        assert_true(n > 0);
    }
    return copy;
}

// A daemon that dies with updates at the store: its successor writes each of them again, and then
// they are numbered.
static void test_recover(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 8 << 20);
    struct fixture *g = fixture_new(UPDATES_SYNC, 2 << 20);
    unsigned count = 0;
    for (unsigned i = 0; i < 60; i++) {
        if (i % 6 == 1)
            request_submit(f, &f->requests[i], UPDATE_ZERO, 1, i * 1024, 1024, UPDATE_NO_HOLE);
        else if (i % 6 == 4)
            request_submit(f, &f->requests[i], UPDATE_DISCARD, 1, i * 1024, 1024, 0);
        else
            request_write(f, &f->requests[i], 1, i * 1024, 1024, 0);
        count++;
    }
    updates_kick(f->updates);
    for (unsigned i = 0; i < 10; i++)
        fixture_finish(f, 1, i, 0);
    // The daemon dies here. What it had written may be there or not.
    fixture_drop(g);
    struct error err;
    struct unsafe_config config = {.pair = 7, .boot = 9};
    int fd = copy_of(unsafe_fd(f->unsafe));
    assert_int_equal(unsafe_open_fd(fd, &config, &g->unsafe, &err), 0);
    (void)close(fd);
    memcpy(g->data, f->data, sizeof(g->data));
    fixture_updates(g, UPDATES_SYNC);
    updates_set_volume(g->updates, 1, &g->blocks[1].block, 1);
    g->map_says = 1; // a page of it is being written
    updates_recover(g->updates, on_recovered);
    assert_int_equal(g->blocks[1].count, 0);
    g->map_says = 0;
    updates_kick(g->updates);
    assert_int_equal(g->blocks[1].kicked, count - 10);
    for (unsigned i = 0; i < g->blocks[1].count; i++) {
        const struct block_request *again = g->blocks[1].under_way[i];
        assert_int_equal(again->op, again->offset / 1024 % 6 == 1   ? BLOCK_ZERO
                                    : again->offset / 1024 % 6 == 4 ? BLOCK_DISCARD
                                                                    : BLOCK_WRITE);
        assert_int_equal(again->flags, again->op == BLOCK_ZERO ? BLOCK_NO_HOLE : 0);
    }
    while (g->blocks[1].kicked > 0)
        fixture_finish(g, 1, g->blocks[1].kicked / 2, 0);
    assert_true(g->recovered);
    assert_int_equal(unsafe_numbered(g->unsafe), count);
    for (unsigned i = 0; i < 60; i++) {
        uint8_t want = i % 3 == 1 ? 0 : (uint8_t)(1 + (i + 1) % 250);
        assert_int_equal(g->data[1][i * 1024], want);
        assert_int_equal(g->data[1][i * 1024 + 1023], want);
    }
    for (uint64_t seq = 1; seq <= count; seq++) {
        const struct record *record = unsafe_record(g->unsafe, seq);
        assert_null(record_invalid(record));
        assert_true(record_payload_matches(record, unsafe_payload(g->unsafe, seq)));
    }
    fixture_free(g);
    fixture_complete(f);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_coarser_blocks_count),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_own_sync),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_map_is_asked),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_resync_and_check),
        cmocka_unit_test(test_coarse_check),
        cmocka_unit_test(test_copy_is_ordered),
        cmocka_unit_test(test_copies_leave_room),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_recover),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
