// SPDX-License-Identifier: Apache-2.0
// queues/updates: when an update is answered, and with what: by mode, flush and FUA, after failures, and by the gate.
#include "tests/unit/updates_fixture.h"

#include "queues/rhythm.h"

// The table of the modes, a write.
static void test_write_answers(void **state)
{
    for (int mode = UPDATES_ASYNC; mode <= UPDATES_STRICT; mode++) {
        struct fixture *f = fixture_new((enum updates_mode)mode, 2 << 20);
        struct request *r = &f->requests[0];
        request_write(f, r, 0, 4096, 4096, 0);
        assert_int_equal(f->blocks[0].count, 0); // nothing starts before the kick
        updates_kick(f->updates);
        assert_int_equal(f->blocks[0].kicked, 1);
        assert_int_equal(unsafe_numbered(f->unsafe), 0);
        fixture_finish(f, 0, 0, 0);
        assert_int_equal(unsafe_numbered(f->unsafe), 1);
        assert_int_equal(r->answers, mode != UPDATES_STRICT);
        assert_int_equal(f->barriers, mode == UPDATES_STRICT);
        fixture_durable(f, 1);
        assert_int_equal(r->answers, 1);
        assert_int_equal(r->status, 0);
        fixture_free(f);
    }
}

// The table of the modes, a flush: both conditions, in both orders.
static void test_flush_answers(void **state)
{
    for (int mode = UPDATES_ASYNC; mode <= UPDATES_STRICT; mode++) {
        for (int durable_first = 0; durable_first < 2; durable_first++) {
            struct fixture *f = fixture_new((enum updates_mode)mode, 2 << 20);
            struct request *w = &f->requests[0], *r = &f->requests[1];
            request_write(f, w, 0, 0, 512, 0);
            updates_kick(f->updates);
            fixture_finish(f, 0, 0, 0);
            f->barriers = 0;
            request_flush(f, r, 0);
            updates_kick(f->updates);
            assert_int_equal(f->barriers, mode != UPDATES_ASYNC);
            if (durable_first)
                fixture_durable(f, 1);
            assert_int_equal(r->answers, 0);
            fixture_finish(f, 0, 0, 0);
            assert_int_equal(r->answers, mode == UPDATES_ASYNC || durable_first);
            if (!durable_first)
                fixture_durable(f, 1);
            assert_int_equal(r->answers, 1);
            assert_int_equal(r->status, 0);
            fixture_free(f);
        }
    }
}

// A flush on one volume waits for the records of the other one, too: the seq is the pair's.
static void test_flush_spans_volumes(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
    request_write(f, &f->requests[0], 1, 0, 512, 0);
    updates_kick(f->updates);
    fixture_finish(f, 1, 0, 0);
    request_flush(f, &f->requests[1], 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->requests[1].answers, 0);
    fixture_durable(f, 1);
    assert_int_equal(f->requests[1].answers, 1);
    fixture_free(f);
}

// The store is closed: the sync under way ends, the flush behind it never gets one. Nothing is at a store then.
static void test_flush_waits_at_the_end(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    request_flush(f, &f->requests[0], 0);
    updates_kick(f->updates);
    request_flush(f, &f->requests[1], 0);
    updates_kick(f->updates);
    fake_complete(&f->blocks[0], 0, 0);
    fixture_drop(f);
    free(f);
}

// The seq from which the gate is held is the last one until the epoch is opened.
static void test_no_mark_while_held(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
    uint64_t seq = 0;
    (void)updates_set_gate(f->updates, UPDATES_HELD);
    assert_int_equal(updates_mark(f->updates, MARK_RESYNC_BEGIN, 0, &seq), -EAGAIN);
    (void)updates_set_gate(f->updates, UPDATES_ALONE);
    assert_int_equal(updates_mark(f->updates, MARK_RESYNC_BEGIN, 0, &seq), 0);
    fixture_free(f);
}

// A flush joins only a sync that is not yet submitted; those that wait share the next one.
static void test_flush_joins(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    request_flush(f, &f->requests[0], 0);
    request_flush(f, &f->requests[1], 0);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].syncs_submitted, 1);
    request_flush(f, &f->requests[2], 0);
    request_flush(f, &f->requests[3], 0);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].syncs_submitted, 1);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->requests[0].answers + f->requests[1].answers, 2);
    assert_int_equal(f->requests[2].answers + f->requests[3].answers, 0);
    assert_int_equal(f->blocks[0].syncs_submitted, 2);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->requests[2].answers + f->requests[3].answers, 2);
    fixture_free(f);
}

// FUA: first numbered, then as a flush that arrives at that moment; a sync under way before does
// not count.
static void test_fua(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
    request_flush(f, &f->requests[0], 0);
    request_write(f, &f->requests[1], 0, 0, 512, UPDATE_FUA);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].kicked, 2);
    fixture_finish(f, 0, 0, 0); // the write
    assert_int_equal(unsafe_numbered(f->unsafe), 1);
    assert_int_equal(f->barriers, 1);
    fixture_finish(f, 0, 0, 0); // the sync that was under way already
    assert_int_equal(f->requests[0].answers, 1);
    assert_int_equal(f->requests[1].answers, 0);
    fixture_durable(f, 1);
    assert_int_equal(f->requests[1].answers, 0);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->requests[1].answers, 1);
    fixture_free(f);
}

// One round of a client that flushes behind every so many writes. `durable`: the peer is so quick that all of it is durable
// before the flush comes. Returns with how many of the writes a barrier went.
static unsigned write_and_flush(struct fixture *f, unsigned writes, bool durable)
{
    struct request *write = &f->requests[0], *flush = &f->requests[1];
    f->barriers = 0;
    for (unsigned i = 0; i < writes; i++) {
        request_write(f, write, 0, 0, 512, 0);
        updates_kick(f->updates);
        fixture_finish(f, 0, 0, 0);
        assert_int_equal(write->answers, 1);
    }
    unsigned barriers = f->barriers;
    if (durable)
        fixture_durable(f, unsafe_numbered(f->unsafe));
    request_flush(f, flush, 0);
    updates_kick(f->updates);
    assert_int_equal(f->barriers - barriers, !durable && f->mode != UPDATES_ASYNC);
    assert_int_equal(flush->answers, 0); // whatever was foreseen: not before the local sync
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(flush->answers, durable || f->mode == UPDATES_ASYNC);
    fixture_durable(f, unsafe_numbered(f->unsafe));
    assert_int_equal(flush->answers, 1);
    return barriers;
}

// Where flushes come in a rhythm the barrier goes with the write that is the last one before the flush, and the flush is
// answered as ever.
static void test_flush_foreseen(void **state)
{
    for (unsigned writes = 1; writes <= 3; writes++) {
        struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
        for (unsigned i = 0; i < RHYTHM_TIMES + 1; i++)
            assert_int_equal(write_and_flush(f, writes, false), 0);
        assert_int_equal(write_and_flush(f, writes, false), 1);
        assert_int_equal(write_and_flush(f, writes, true), 1);
        assert_int_equal(write_and_flush(f, writes + 1, false), 1); // foreseen wrongly, once:
        for (unsigned i = 0; i < RHYTHM_TIMES; i++)
            assert_int_equal(write_and_flush(f, writes + 1, false), 0);
        assert_int_equal(write_and_flush(f, writes + 1, false), 1);
        fixture_free(f);
    }
}

// One flush more that joins another, or has nothing new before it, is no change of the rhythm; and where no flush waits
// for the peer, nothing is foreseen.
static void test_flush_foreseen_by_mode(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
    for (unsigned i = 0; i < RHYTHM_TIMES + 1; i++) {
        assert_int_equal(write_and_flush(f, 1, false), 0);
        assert_int_equal(write_and_flush(f, 0, true), 0);
    }
    assert_int_equal(write_and_flush(f, 1, false), 1);
    (void)updates_set_gate(f->updates, UPDATES_ALONE);
    f->barriers = 0;
    request_write(f, &f->requests[0], 0, 0, 512, 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->barriers, 0);
    fixture_free(f);
    f = fixture_new(UPDATES_ASYNC, 2 << 20);
    for (unsigned i = 0; i < 2 * RHYTHM_TIMES; i++)
        assert_int_equal(write_and_flush(f, 1, false), 0);
    fixture_free(f);
}

static void test_failed_write(void **state)
{
    struct fixture *f = fixture_new(UPDATES_STRICT, 2 << 20);
    request_write(f, &f->requests[0], 0, 8192, 1024, UPDATE_FUA);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, -ENOSPC);
    assert_int_equal(f->requests[0].answers, 1);
    assert_int_equal(f->requests[0].status, -ENOSPC);
    const struct record *record = unsafe_record(f->unsafe, 1);
    assert_null(record_invalid(record));
    assert_int_equal(record->type, RECORD_MARK);
    assert_int_equal(record->mark, MARK_UNDEFINED);
    assert_int_equal(le16_get(record->status), ENOSPC);
    assert_int_equal(le64_get(record->offset), 8192);
    assert_int_equal(le32_get(record->length), 1024);
    assert_int_equal(f->events[UPDATES_EVENT_WRITE_FAILED], 1);
    assert_int_equal(f->last_event.seq, 1);
    fixture_free(f);
}

// A failed flush is final until the volume gets its store anew; the other volume is not concerned.
static void test_failed_flush(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    request_flush(f, &f->requests[0], 0);
    updates_kick(f->updates);
    request_flush(f, &f->requests[1], 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, -EIO);
    assert_true(updates_volume_failed(f->updates, 0));
    assert_int_equal(f->events[UPDATES_EVENT_FLUSH_FAILED], 1);
    request_flush(f, &f->requests[2], 0);
    request_write(f, &f->requests[3], 0, 0, 512, 0);
    request_write(f, &f->requests[4], 1, 0, 512, 0);
    updates_kick(f->updates);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(f->requests[i].answers, 1);
        assert_int_equal(f->requests[i].status, -EIO);
    }
    fixture_finish(f, 1, 0, 0);
    assert_int_equal(f->requests[4].status, 0);
    assert_int_equal(f->requests[4].answers, 1);
    updates_set_volume(f->updates, 0, &f->blocks[0].block, 1);
    request_flush(f, &f->requests[5], 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->requests[5].status, 0);
    assert_int_equal(f->requests[5].answers, 1);
    fixture_free(f);
}

// An error promises nothing, so it waits for nobody: the peer may be gone for good.
static void test_failed_flush_waits_for_nobody(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
    request_write(f, &f->requests[0], 0, 0, 512, 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, 0);
    request_flush(f, &f->requests[1], 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, -EIO);
    assert_int_equal(f->requests[1].answers, 1);
    assert_int_equal(f->requests[1].status, -EIO);
    assert_int_equal(updates_waiting_for(f->updates), 0);
    fixture_free(f);
}

// Requests that make no sense are refused and leave nothing behind.
static void test_refused(void **state)
{
    struct fixture *f = fixture_new(UPDATES_SYNC, 2 << 20);
    request_write(f, &f->requests[0], 0, VOLUME_SIZE - 512, 1024, 0);
    request_submit(f, &f->requests[1], UPDATE_ZERO, 0, UINT64_MAX - 5, 1024, 0);
    request_submit(f, &f->requests[2], UPDATE_DISCARD, 0, 0, 0, 0);
    request_flush(f, &f->requests[3], 5);
    request_write(f, &f->requests[4], 0, VOLUME_SIZE - 512, 513, 0); // by one byte
    updates_kick(f->updates);
    assert_int_equal(f->requests[4].status, -EINVAL);
    assert_int_equal(f->requests[0].status, -EINVAL);
    assert_int_equal(f->requests[1].status, -EINVAL);
    assert_int_equal(f->requests[2].status, -EINVAL);
    assert_int_equal(f->requests[3].status, -ENODEV);
    struct unsafe_stat stat;
    unsafe_stat(f->unsafe, &stat);
    assert_int_equal(stat.bytes + stat.records + stat.slots, 0);
    fixture_free(f);
}

static void test_gate_closed(void **state)
{
    struct fixture *f = fixture_new(UPDATES_STRICT, 2 << 20);
    request_write(f, &f->requests[0], 0, 0, 512, 0);    // will be at the store
    request_write(f, &f->requests[1], 0, 0, 512, 0);    // waits for the first
    request_write(f, &f->requests[2], 0, 8192, 512, 0); // numbered, waits for durable
    updates_kick(f->updates);
    fixture_finish(f, 0, 1, 0);
    request_write(f, &f->requests[3], 0, 0, 512, 0); // not looked at
    (void)updates_set_gate(f->updates, UPDATES_CLOSED);
    assert_int_equal(f->requests[2].status, -ESHUTDOWN);
    assert_int_equal(f->requests[3].status, -ESHUTDOWN);
    request_submit(f, &f->requests[4], UPDATE_READ, 0, 0, 512, 0);
    updates_kick(f->updates);
    assert_int_equal(f->requests[4].status, -ESHUTDOWN);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->requests[0].status, -ESHUTDOWN);
    assert_int_equal(f->requests[1].status, -ESHUTDOWN);
    assert_int_equal(f->blocks[0].count, 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(f->requests[i].answers, 1);
    fixture_free(f);
}

static void test_gate_held(void **state)
{
    struct fixture *f = fixture_new(UPDATES_ASYNC, 2 << 20);
    request_write(f, &f->requests[0], 0, 0, 512, 0);
    request_write(f, &f->requests[1], 0, 0, 512, 0);
    updates_kick(f->updates);
    (void)updates_set_gate(f->updates, UPDATES_HELD);
    fixture_finish(f, 0, 0, 0);
    request_write(f, &f->requests[2], 0, 65536, 512, 0);
    updates_kick(f->updates);
    assert_int_equal(f->answered, 0);
    assert_int_equal(f->blocks[0].count, 0);
    assert_int_equal(unsafe_numbered(f->unsafe), 1);
    (void)updates_set_gate(f->updates, UPDATES_PAIRED);
    assert_int_equal(f->requests[0].answers, 1);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].kicked, 2);
    fixture_complete(f);
    assert_int_equal(f->answered, 3);
    fixture_free(f);
}

// Alone releases what waits for the peer. What could have been answered alone and was not waits
// again once paired.
static void test_gate_alone_and_back(void **state)
{
    struct fixture *f = fixture_new(UPDATES_STRICT, 2 << 20);
    request_write(f, &f->requests[0], 0, 0, 512, 0);
    request_write(f, &f->requests[1], 0, 8192, 512, 0);
    updates_kick(f->updates);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(updates_waiting_for(f->updates), 1);
    assert_int_equal(updates_set_gate(f->updates, UPDATES_ALONE), 1);
    assert_int_equal(f->requests[0].answers, 1);
    request_flush(f, &f->requests[2], 0);
    updates_kick(f->updates);
    (void)updates_set_gate(f->updates, UPDATES_HELD);
    fixture_finish(f, 0, 0, 0);
    fixture_finish(f, 0, 0, 0);
    assert_int_equal(f->answered, 1);
    f->barriers = 0;
    assert_int_equal(updates_set_gate(f->updates, UPDATES_PAIRED), 2);
    assert_int_equal(f->answered, 1);
    updates_kick(f->updates);
    assert_int_equal(f->barriers, 1);
    fixture_durable(f, 1);
    assert_int_equal(f->requests[2].answers, 1); // 1 was the last seq at its arrival
    assert_int_equal(f->requests[1].answers, 0);
    fixture_durable(f, 2);
    assert_int_equal(f->requests[1].answers, 1);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_answers),
        cmocka_unit_test(test_flush_answers),
        cmocka_unit_test(test_flush_spans_volumes),
        cmocka_unit_test(test_flush_joins),
        cmocka_unit_test(test_flush_waits_at_the_end),
        cmocka_unit_test(test_no_mark_while_held),
        cmocka_unit_test(test_fua),
        cmocka_unit_test(test_flush_foreseen),
        cmocka_unit_test(test_flush_foreseen_by_mode),
        cmocka_unit_test(test_failed_write),
        cmocka_unit_test(test_failed_flush),
        cmocka_unit_test(test_failed_flush_waits_for_nobody),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_gate_closed),
        cmocka_unit_test(test_gate_held),
        cmocka_unit_test(test_gate_alone_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
