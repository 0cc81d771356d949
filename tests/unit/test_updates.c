// SPDX-License-Identifier: Apache-2.0
// The life of an update, against a volume that completes in any order and a model that keeps count
// of every promise.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/checksum.h"
#include "common/base/clock.h"
#include "queues/batch.h"
#include "queues/rhythm.h"
#include "queues/updates.h"
#include "tests/unit/fake_block.h"

#define VOLUMES     2
#define VOLUME_SIZE (256 * 1024)
#define REQUESTS    64
#define PAYLOAD_MAX (64 * 1024)

struct fixture;

struct request {
    struct update update; // first
    struct fixture *f;
    bool busy;
    bool fua_flushed;
    uint64_t arrival;
    uint64_t flush_seq;  // numbered when it arrived as a flush
    unsigned syncs_seen; // syncs of its volume submitted by then
    uint64_t seq;        // its record's; 0 while it has none
    int answers, status;
};

struct fixture {
    struct unsafe *unsafe;
    struct updates *updates;
    struct fake_block blocks[VOLUMES];
    uint8_t data[VOLUMES][VOLUME_SIZE];
    uint8_t replica[VOLUMES][VOLUME_SIZE];
    uint8_t undefined[VOLUMES][VOLUME_SIZE];
    struct request requests[REQUESTS];
    enum updates_mode mode;
    uint64_t durable, replayed, bound, arrivals;
    uint64_t last_arrival[VOLUMES]
                         [VOLUME_SIZE / 512]; // of the newest update submitted to the store
    unsigned barriers, wakes, answered, rooms;
    unsigned events[UPDATES_EVENT_COPIED + 1];
    struct updates_event last_event, last_copied;
    enum unsafe_level level;
    int map_says; // before_write
    bool drained, recovered;
    bool expect_silence; // HELD: no answers, no submissions
    uint64_t random;
};

static uint64_t rnd(struct fixture *f, uint64_t below)
{
    f->random ^= f->random << 13;
    f->random ^= f->random >> 7;
    f->random ^= f->random << 17;
    return f->random % below;
}

// ---- What the daemon does ----

static int64_t ops_stamp_ns(void *user)
{
    return 1000;
}

static void ops_wake(void *user, bool barrier)
{
    struct fixture *f = user;
    f->wakes++;
    f->barriers += barrier;
}

static void ops_event(void *user, const struct updates_event *event)
{
    struct fixture *f = user;
    f->events[event->kind]++;
    f->last_event = *event;
    if (event->kind == UPDATES_EVENT_COPIED)
        f->last_copied = *event;
    if (event->kind == UPDATES_EVENT_LEVEL)
        f->level = event->level;
}

static int ops_before_write(void *user, uint16_t object, uint64_t offset, uint32_t length)
{
    return ((struct fixture *)user)->map_says;
}

static const struct updates_ops ops = {
    .stamp_ns = ops_stamp_ns,
    .wake_sender = ops_wake,
    .event = ops_event,
    .before_write = ops_before_write,
};

static struct fixture *make(enum updates_mode mode, uint64_t ring_bytes)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    struct unsafe_config config = {
        .pair = 7,
        .boot = 9,
        .epoch = 3,
        .bound = 1u << 30,
        .ring_bytes = ring_bytes,
        .payload_max = PAYLOAD_MAX,
    };
    assert_non_null(f);
    assert_int_equal(unsafe_create(NULL, &config, &f->unsafe, &err), 0);
    f->updates = updates_new(f->unsafe, mode, &ops, f);
    assert_non_null(f->updates);
    f->mode = mode;
    f->random = 88172645463325252u;
    for (unsigned i = 0; i < VOLUMES; i++) {
        fake_init(&f->blocks[i], f->data[i], VOLUME_SIZE, 512);
        updates_set_volume(f->updates, (uint16_t)i, &f->blocks[i].block, i == 0 ? 4096 : 1);
    }
    unsafe_attach(f->unsafe, 0, 0);
    (void)updates_set_gate(f->updates, UPDATES_PAIRED);
    return f;
}

static void complete_all(struct fixture *f)
{
    do {
        updates_kick(f->updates);
        for (unsigned i = 0; i < VOLUMES; i++) {
            while (f->blocks[i].kicked > 0)
                fake_complete(&f->blocks[i], 0, 0);
        }
        updates_kick(f->updates);
    } while (f->blocks[0].count + f->blocks[1].count > 0);
}

static void destroy(struct fixture *f)
{
    (void)updates_set_gate(f->updates, UPDATES_CLOSED);
    complete_all(f);
    f->updates = updates_free(f->updates);
    f->unsafe = unsafe_free(f->unsafe);
    free(f);
}

static void on_answer(struct update *update, int status)
{
    struct request *r = (struct request *)update;
    r->answers++;
    r->status = status;
    r->f->answered++;
}

static uint64_t payload_chunk(struct fixture *f, const void *payload, uint32_t size)
{
    size_t room;
    uint8_t *head = unsafe_head(f->unsafe, 1, &room);
    assert_non_null(head);
    memcpy(head, "header", 6);
    memcpy(head + 6, payload, size);
    unsafe_skip(f->unsafe, 6);
    return unsafe_keep(f->unsafe, size);
}

static void prepare(struct fixture *f, struct request *r, enum update_op op, uint16_t object,
                    uint64_t offset, uint32_t length, unsigned flags)
{
    *r = (struct request){.f = f, .busy = true, .arrival = ++f->arrivals};
    r->update = (struct update){
        .op = op,
        .flags = (uint16_t)flags,
        .object = object,
        .offset = offset,
        .length = length,
        .answer = on_answer,
    };
    r->flush_seq = unsafe_numbered(f->unsafe);
    r->syncs_seen = object < VOLUMES ? f->blocks[object].syncs_submitted : 0;
}

static void submit_write(struct fixture *f, struct request *r, uint16_t object, uint64_t offset,
                         uint32_t length, unsigned flags)
{
    uint8_t payload[PAYLOAD_MAX];
    prepare(f, r, UPDATE_WRITE, object, offset, length, flags);
    memset(payload, (int)(1 + f->arrivals % 250), length);
    r->update.chunk = payload_chunk(f, payload, length);
    updates_submit(f->updates, &r->update);
}

static void submit(struct fixture *f, struct request *r, enum update_op op, uint16_t object,
                   uint64_t offset, uint32_t length, unsigned flags)
{
    prepare(f, r, op, object, offset, length, flags);
    updates_submit(f->updates, &r->update);
}

static void finish(struct fixture *f, unsigned volume, unsigned index, int status)
{
    fake_complete(&f->blocks[volume], index, status);
    updates_kick(f->updates);
}

static void set_durable(struct fixture *f, uint64_t seq)
{
    unsafe_release(f->unsafe, 0, seq);
    f->durable = seq;
    updates_durable(f->updates, seq);
}

// ---- Modes ----

// The table of the modes, a write.
static void test_write_answers(void **state)
{
    for (int mode = UPDATES_ASYNC; mode <= UPDATES_STRICT; mode++) {
        struct fixture *f = make((enum updates_mode)mode, 2 << 20);
        struct request *r = &f->requests[0];
        submit_write(f, r, 0, 4096, 4096, 0);
        assert_int_equal(f->blocks[0].count, 0); // nothing starts before the kick
        updates_kick(f->updates);
        assert_int_equal(f->blocks[0].kicked, 1);
        assert_int_equal(unsafe_numbered(f->unsafe), 0);
        finish(f, 0, 0, 0);
        assert_int_equal(unsafe_numbered(f->unsafe), 1);
        assert_int_equal(r->answers, mode != UPDATES_STRICT);
        assert_int_equal(f->barriers, mode == UPDATES_STRICT);
        set_durable(f, 1);
        assert_int_equal(r->answers, 1);
        assert_int_equal(r->status, 0);
        destroy(f);
    }
}

// The table of the modes, a flush: both conditions, in both orders.
static void test_flush_answers(void **state)
{
    for (int mode = UPDATES_ASYNC; mode <= UPDATES_STRICT; mode++) {
        for (int durable_first = 0; durable_first < 2; durable_first++) {
            struct fixture *f = make((enum updates_mode)mode, 2 << 20);
            struct request *w = &f->requests[0], *r = &f->requests[1];
            submit_write(f, w, 0, 0, 512, 0);
            updates_kick(f->updates);
            finish(f, 0, 0, 0);
            f->barriers = 0;
            submit(f, r, UPDATE_FLUSH, 0, 0, 0, 0);
            updates_kick(f->updates);
            assert_int_equal(f->barriers, mode != UPDATES_ASYNC);
            if (durable_first)
                set_durable(f, 1);
            assert_int_equal(r->answers, 0);
            finish(f, 0, 0, 0);
            assert_int_equal(r->answers, mode == UPDATES_ASYNC || durable_first);
            if (!durable_first)
                set_durable(f, 1);
            assert_int_equal(r->answers, 1);
            assert_int_equal(r->status, 0);
            destroy(f);
        }
    }
}

// A flush on one volume waits for the records of the other one, too: the seq is the pair's.
static void test_flush_spans_volumes(void **state)
{
    struct fixture *f = make(UPDATES_SYNC, 2 << 20);
    submit_write(f, &f->requests[0], 1, 0, 512, 0);
    updates_kick(f->updates);
    finish(f, 1, 0, 0);
    submit(f, &f->requests[1], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    finish(f, 0, 0, 0);
    assert_int_equal(f->requests[1].answers, 0);
    set_durable(f, 1);
    assert_int_equal(f->requests[1].answers, 1);
    destroy(f);
}

// The store is closed: the sync under way ends, the flush behind it never gets one. Nothing is at a store then.
static void test_flush_waits_at_the_end(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    submit(f, &f->requests[0], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    submit(f, &f->requests[1], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    fake_complete(&f->blocks[0], 0, 0);
    f->updates = updates_free(f->updates);
    f->unsafe = unsafe_free(f->unsafe);
    free(f);
}

// The seq from which the gate is held is the last one until the epoch is opened.
static void test_no_mark_while_held(void **state)
{
    struct fixture *f = make(UPDATES_SYNC, 2 << 20);
    uint64_t seq = 0;
    (void)updates_set_gate(f->updates, UPDATES_HELD);
    assert_int_equal(updates_mark(f->updates, MARK_RESYNC_BEGIN, 0, &seq), -EAGAIN);
    (void)updates_set_gate(f->updates, UPDATES_ALONE);
    assert_int_equal(updates_mark(f->updates, MARK_RESYNC_BEGIN, 0, &seq), 0);
    destroy(f);
}

// A flush joins only a sync that is not yet submitted; those that wait share the next one.
static void test_flush_joins(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    submit(f, &f->requests[0], UPDATE_FLUSH, 0, 0, 0, 0);
    submit(f, &f->requests[1], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].syncs_submitted, 1);
    submit(f, &f->requests[2], UPDATE_FLUSH, 0, 0, 0, 0);
    submit(f, &f->requests[3], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].syncs_submitted, 1);
    finish(f, 0, 0, 0);
    assert_int_equal(f->requests[0].answers + f->requests[1].answers, 2);
    assert_int_equal(f->requests[2].answers + f->requests[3].answers, 0);
    assert_int_equal(f->blocks[0].syncs_submitted, 2);
    finish(f, 0, 0, 0);
    assert_int_equal(f->requests[2].answers + f->requests[3].answers, 2);
    destroy(f);
}

// FUA: first numbered, then as a flush that arrives at that moment; a sync under way before does
// not count.
static void test_fua(void **state)
{
    struct fixture *f = make(UPDATES_SYNC, 2 << 20);
    submit(f, &f->requests[0], UPDATE_FLUSH, 0, 0, 0, 0);
    submit_write(f, &f->requests[1], 0, 0, 512, UPDATE_FUA);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].kicked, 2);
    finish(f, 0, 0, 0); // the write
    assert_int_equal(unsafe_numbered(f->unsafe), 1);
    assert_int_equal(f->barriers, 1);
    finish(f, 0, 0, 0); // the sync that was under way already
    assert_int_equal(f->requests[0].answers, 1);
    assert_int_equal(f->requests[1].answers, 0);
    set_durable(f, 1);
    assert_int_equal(f->requests[1].answers, 0);
    finish(f, 0, 0, 0);
    assert_int_equal(f->requests[1].answers, 1);
    destroy(f);
}

// One round of a client that flushes behind every so many writes. `durable`: the peer is so quick that all of it is durable
// before the flush comes. Returns with how many of the writes a barrier went.
static unsigned write_and_flush(struct fixture *f, unsigned writes, bool durable)
{
    struct request *write = &f->requests[0], *flush = &f->requests[1];
    f->barriers = 0;
    for (unsigned i = 0; i < writes; i++) {
        submit_write(f, write, 0, 0, 512, 0);
        updates_kick(f->updates);
        finish(f, 0, 0, 0);
        assert_int_equal(write->answers, 1);
    }
    unsigned barriers = f->barriers;
    if (durable)
        set_durable(f, unsafe_numbered(f->unsafe));
    submit(f, flush, UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    assert_int_equal(f->barriers - barriers, !durable && f->mode != UPDATES_ASYNC);
    assert_int_equal(flush->answers, 0); // whatever was foreseen: not before the local sync
    finish(f, 0, 0, 0);
    assert_int_equal(flush->answers, durable || f->mode == UPDATES_ASYNC);
    set_durable(f, unsafe_numbered(f->unsafe));
    assert_int_equal(flush->answers, 1);
    return barriers;
}

// Where flushes come in a rhythm the barrier goes with the write that is the last one before the flush, and the flush is
// answered as ever.
static void test_flush_foreseen(void **state)
{
    for (unsigned writes = 1; writes <= 3; writes++) {
        struct fixture *f = make(UPDATES_SYNC, 2 << 20);
        for (unsigned i = 0; i < RHYTHM_TIMES + 1; i++)
            assert_int_equal(write_and_flush(f, writes, false), 0);
        assert_int_equal(write_and_flush(f, writes, false), 1);
        assert_int_equal(write_and_flush(f, writes, true), 1);
        assert_int_equal(write_and_flush(f, writes + 1, false), 1); // foreseen wrongly, once:
        for (unsigned i = 0; i < RHYTHM_TIMES; i++)
            assert_int_equal(write_and_flush(f, writes + 1, false), 0);
        assert_int_equal(write_and_flush(f, writes + 1, false), 1);
        destroy(f);
    }
}

// One flush more that joins another, or has nothing new before it, is no change of the rhythm; and where no flush waits
// for the peer, nothing is foreseen.
static void test_flush_foreseen_by_mode(void **state)
{
    struct fixture *f = make(UPDATES_SYNC, 2 << 20);
    for (unsigned i = 0; i < RHYTHM_TIMES + 1; i++) {
        assert_int_equal(write_and_flush(f, 1, false), 0);
        assert_int_equal(write_and_flush(f, 0, true), 0);
    }
    assert_int_equal(write_and_flush(f, 1, false), 1);
    (void)updates_set_gate(f->updates, UPDATES_ALONE);
    f->barriers = 0;
    submit_write(f, &f->requests[0], 0, 0, 512, 0);
    updates_kick(f->updates);
    finish(f, 0, 0, 0);
    assert_int_equal(f->barriers, 0);
    destroy(f);
    f = make(UPDATES_ASYNC, 2 << 20);
    for (unsigned i = 0; i < 2 * RHYTHM_TIMES; i++)
        assert_int_equal(write_and_flush(f, 1, false), 0);
    destroy(f);
}

// ---- Failures ----

static void test_failed_write(void **state)
{
    struct fixture *f = make(UPDATES_STRICT, 2 << 20);
    submit_write(f, &f->requests[0], 0, 8192, 1024, UPDATE_FUA);
    updates_kick(f->updates);
    finish(f, 0, 0, -ENOSPC);
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
    destroy(f);
}

// A failed flush is final until the volume gets its store anew; the other volume is not concerned.
static void test_failed_flush(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    submit(f, &f->requests[0], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    submit(f, &f->requests[1], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    finish(f, 0, 0, -EIO);
    assert_true(updates_volume_failed(f->updates, 0));
    assert_int_equal(f->events[UPDATES_EVENT_FLUSH_FAILED], 1);
    submit(f, &f->requests[2], UPDATE_FLUSH, 0, 0, 0, 0);
    submit_write(f, &f->requests[3], 0, 0, 512, 0);
    submit_write(f, &f->requests[4], 1, 0, 512, 0);
    updates_kick(f->updates);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(f->requests[i].answers, 1);
        assert_int_equal(f->requests[i].status, -EIO);
    }
    finish(f, 1, 0, 0);
    assert_int_equal(f->requests[4].status, 0);
    assert_int_equal(f->requests[4].answers, 1);
    updates_set_volume(f->updates, 0, &f->blocks[0].block, 1);
    submit(f, &f->requests[5], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    finish(f, 0, 0, 0);
    assert_int_equal(f->requests[5].status, 0);
    assert_int_equal(f->requests[5].answers, 1);
    destroy(f);
}

// An error promises nothing, so it waits for nobody: the peer may be gone for good.
static void test_failed_flush_waits_for_nobody(void **state)
{
    struct fixture *f = make(UPDATES_SYNC, 2 << 20);
    submit_write(f, &f->requests[0], 0, 0, 512, 0);
    updates_kick(f->updates);
    finish(f, 0, 0, 0);
    submit(f, &f->requests[1], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    finish(f, 0, 0, -EIO);
    assert_int_equal(f->requests[1].answers, 1);
    assert_int_equal(f->requests[1].status, -EIO);
    assert_int_equal(updates_waiting_for(f->updates), 0);
    destroy(f);
}

// What shares a block of the peer's store is in order here, too, however small the blocks of this one are.
static void test_the_coarser_blocks_count(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    for (unsigned volume = 0; volume < VOLUMES; volume++) { // the peer's block: 4096, and 1
        submit_write(f, &f->requests[2 * volume], (uint16_t)volume, 0, 512, 0);
        submit_write(f, &f->requests[2 * volume + 1], (uint16_t)volume, 3584, 512, 0);
    }
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].count, 1);
    assert_int_equal(f->blocks[1].count, 2);
    complete_all(f);
    destroy(f);
}

// A turn is over when everything that was at a store at its beginning is numbered, whatever came since.
static void test_turns(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    assert_true(updates_turn(f->updates));
    submit_write(f, &f->requests[0], 0, 0, 512, 0);
    updates_kick(f->updates);
    assert_true(updates_turn(f->updates));
    assert_false(updates_turn_over(f->updates));
    assert_false(updates_turn(f->updates));
    submit_write(f, &f->requests[1], 0, 8192, 512, 0);
    updates_kick(f->updates);
    finish(f, 0, 1, 0);
    assert_false(updates_turn_over(f->updates));
    submit_write(f, &f->requests[2], 0, 16384, 512, 0);
    updates_kick(f->updates);
    finish(f, 0, 0, -EIO); // numbered as a mark
    assert_true(updates_turn_over(f->updates));
    finish(f, 0, 0, 0);
    assert_true(updates_turn(f->updates));
    assert_true(updates_turn_over(f->updates));
    destroy(f);
}

// A sync that nobody waits for counts like one that somebody asked for, and shares it.
static void test_own_sync(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    struct updates_stat stat;
    updates_sync(f->updates, 1);
    assert_int_equal(updates_syncs(f->updates, 1).begun, 0);
    updates_kick(f->updates);
    assert_int_equal(updates_syncs(f->updates, 1).begun, 1);
    assert_int_equal(updates_syncs(f->updates, 1).good, 0);
    updates_stat(f->updates, &stat);
    assert_int_equal(stat.at_store, 1);
    submit(f, &f->requests[0], UPDATE_FLUSH, 1, 0, 0, 0);
    updates_sync(f->updates, 1);
    updates_kick(f->updates);
    finish(f, 1, 0, 0);
    updates_kick(f->updates);
    assert_int_equal(updates_syncs(f->updates, 1).begun, 2);
    assert_int_equal(updates_syncs(f->updates, 1).good, 1);
    finish(f, 1, 0, -EIO);
    assert_int_equal(updates_syncs(f->updates, 1).good, 1);
    assert_int_equal(f->requests[0].status, -EIO);
    updates_sync(f->updates, 1);
    updates_kick(f->updates);
    assert_int_equal(updates_syncs(f->updates, 1).begun, 2);
    updates_stat(f->updates, &stat);
    assert_int_equal(stat.at_store, 0);
    destroy(f);
}

// Requests that make no sense are refused and leave nothing behind.
static void test_refused(void **state)
{
    struct fixture *f = make(UPDATES_SYNC, 2 << 20);
    submit_write(f, &f->requests[0], 0, VOLUME_SIZE - 512, 1024, 0);
    submit(f, &f->requests[1], UPDATE_ZERO, 0, UINT64_MAX - 5, 1024, 0);
    submit(f, &f->requests[2], UPDATE_DISCARD, 0, 0, 0, 0);
    submit(f, &f->requests[3], UPDATE_FLUSH, 5, 0, 0, 0);
    submit_write(f, &f->requests[4], 0, VOLUME_SIZE - 512, 513, 0); // by one byte
    updates_kick(f->updates);
    assert_int_equal(f->requests[4].status, -EINVAL);
    assert_int_equal(f->requests[0].status, -EINVAL);
    assert_int_equal(f->requests[1].status, -EINVAL);
    assert_int_equal(f->requests[2].status, -EINVAL);
    assert_int_equal(f->requests[3].status, -ENODEV);
    struct unsafe_stat stat;
    unsafe_stat(f->unsafe, &stat);
    assert_int_equal(stat.bytes + stat.records + stat.slots, 0);
    destroy(f);
}

// ---- The gate ----

static void test_gate_closed(void **state)
{
    struct fixture *f = make(UPDATES_STRICT, 2 << 20);
    submit_write(f, &f->requests[0], 0, 0, 512, 0);    // will be at the store
    submit_write(f, &f->requests[1], 0, 0, 512, 0);    // waits for the first
    submit_write(f, &f->requests[2], 0, 8192, 512, 0); // numbered, waits for durable
    updates_kick(f->updates);
    finish(f, 0, 1, 0);
    submit_write(f, &f->requests[3], 0, 0, 512, 0); // not looked at
    (void)updates_set_gate(f->updates, UPDATES_CLOSED);
    assert_int_equal(f->requests[2].status, -ESHUTDOWN);
    assert_int_equal(f->requests[3].status, -ESHUTDOWN);
    submit(f, &f->requests[4], UPDATE_READ, 0, 0, 512, 0);
    updates_kick(f->updates);
    assert_int_equal(f->requests[4].status, -ESHUTDOWN);
    finish(f, 0, 0, 0);
    assert_int_equal(f->requests[0].status, -ESHUTDOWN);
    assert_int_equal(f->requests[1].status, -ESHUTDOWN);
    assert_int_equal(f->blocks[0].count, 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(f->requests[i].answers, 1);
    destroy(f);
}

static void test_gate_held(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    submit_write(f, &f->requests[0], 0, 0, 512, 0);
    submit_write(f, &f->requests[1], 0, 0, 512, 0);
    updates_kick(f->updates);
    (void)updates_set_gate(f->updates, UPDATES_HELD);
    finish(f, 0, 0, 0);
    submit_write(f, &f->requests[2], 0, 65536, 512, 0);
    updates_kick(f->updates);
    assert_int_equal(f->answered, 0);
    assert_int_equal(f->blocks[0].count, 0);
    assert_int_equal(unsafe_numbered(f->unsafe), 1);
    (void)updates_set_gate(f->updates, UPDATES_PAIRED);
    assert_int_equal(f->requests[0].answers, 1);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].kicked, 2);
    complete_all(f);
    assert_int_equal(f->answered, 3);
    destroy(f);
}

// Alone releases what waits for the peer. What could have been answered alone and was not waits
// again once paired.
static void test_gate_alone_and_back(void **state)
{
    struct fixture *f = make(UPDATES_STRICT, 2 << 20);
    submit_write(f, &f->requests[0], 0, 0, 512, 0);
    submit_write(f, &f->requests[1], 0, 8192, 512, 0);
    updates_kick(f->updates);
    finish(f, 0, 0, 0);
    assert_int_equal(updates_waiting_for(f->updates), 1);
    assert_int_equal(updates_set_gate(f->updates, UPDATES_ALONE), 1);
    assert_int_equal(f->requests[0].answers, 1);
    submit(f, &f->requests[2], UPDATE_FLUSH, 0, 0, 0, 0);
    updates_kick(f->updates);
    (void)updates_set_gate(f->updates, UPDATES_HELD);
    finish(f, 0, 0, 0);
    finish(f, 0, 0, 0);
    assert_int_equal(f->answered, 1);
    f->barriers = 0;
    assert_int_equal(updates_set_gate(f->updates, UPDATES_PAIRED), 2);
    assert_int_equal(f->answered, 1);
    updates_kick(f->updates);
    assert_int_equal(f->barriers, 1);
    set_durable(f, 1);
    assert_int_equal(f->requests[2].answers, 1); // 1 was the last seq at its arrival
    assert_int_equal(f->requests[1].answers, 0);
    set_durable(f, 2);
    assert_int_equal(f->requests[1].answers, 1);
    destroy(f);
}

// ---- Bound, map, drain ----

static void test_bound(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    f->updates = updates_free(f->updates);
    f->unsafe = unsafe_free(f->unsafe);
    struct error err;
    struct unsafe_config config = {
        .bound = UNSAFE_RESERVE + 2, .ring_bytes = 2 << 20, .payload_max = PAYLOAD_MAX};
    assert_int_equal(unsafe_create(NULL, &config, &f->unsafe, &err), 0);
    f->updates = updates_new(f->unsafe, UPDATES_ASYNC, &ops, f);
    updates_set_volume(f->updates, 0, &f->blocks[0].block, 1);
    (void)updates_set_gate(f->updates, UPDATES_ALONE);
    for (int i = 0; i < 3; i++)
        submit_write(f, &f->requests[i], 0, (uint64_t)i * 8192, 512, 0);
    complete_all(f);
    assert_int_equal(f->answered, 2);
    uint64_t seq;
    while (updates_mark(f->updates, MARK_IDLE, 0, &seq) == 0)
        assert_true(seq <= UNSAFE_RESERVE + 2);
    assert_int_equal(updates_mark(f->updates, MARK_IDLE, 0, &seq), -ERANGE);
    updates_kick(f->updates);
    assert_int_equal(f->events[UPDATES_EVENT_BOUND], 1);
    assert_int_equal(f->last_event.seq, UNSAFE_RESERVE + 2);
    updates_set_bound(f->updates, 1000);
    complete_all(f);
    assert_int_equal(f->answered, 3);
    destroy(f);
}

static void test_map_is_asked(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    f->map_says = 1;
    submit_write(f, &f->requests[0], 0, 0, 512, 0);
    updates_kick(f->updates);
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].count, 0);
    f->map_says = 0;
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].kicked, 1);
    f->map_says = -ENOSPC;
    submit_write(f, &f->requests[1], 0, 8192, 512, 0);
    updates_kick(f->updates);
    assert_int_equal(f->requests[1].status, -ENOSPC);
    assert_int_equal(f->requests[1].answers, 1);
    finish(f, 0, 0, 0);
    assert_int_equal(unsafe_numbered(f->unsafe), 1);
    destroy(f);
}

static void on_drained(void *user)
{
    ((struct fixture *)user)->drained = true;
}

static void test_drain(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    submit_write(f, &f->requests[0], 0, 0, 512, 0);
    submit_write(f, &f->requests[1], 0, 0, 512, 0);
    updates_drain(f->updates, on_drained);
    updates_kick(f->updates);
    assert_false(f->drained);
    finish(f, 0, 0, 0);
    assert_false(f->drained);
    finish(f, 0, 0, 0);
    assert_true(f->drained);
    destroy(f);
}

// ---- Copies ----

static void test_resync_and_check(void **state)
{
    struct fixture *f = make(UPDATES_SYNC, 2 << 20);
    memset(f->data[0], 0x5a, 8192);
    memset(f->data[0] + 9000, 1, 10);
    assert_int_equal(updates_resync_chunk(f->updates, 0, 0, 8192), 0);
    assert_int_equal(updates_resync_chunk(f->updates, 0, 16384, 8192), 0);
    assert_int_equal(updates_check(f->updates, 0, 8192, 8192, false), 0);
    assert_int_equal(updates_resync_chunk(f->updates, 0, VOLUME_SIZE - 4096, 8192), -EINVAL);
    assert_int_equal(updates_check(f->updates, 0, 32768, 3 * 4096, false), 0); // zeros, and told to be
    complete_all(f);
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
    destroy(f);
}

// A checksum for each 64 KiB, and one for what is left: in the place of the data.
static void test_coarse_check(void **state)
{
    struct fixture *f = make(UPDATES_SYNC, 2 << 20);
    memset(f->data[0] + 4096, 0x5a, 5000);
    assert_int_equal(updates_check(f->updates, 0, 4096, 65536, true), 0);
    assert_int_equal(updates_check(f->updates, 0, 4096, 8192, true), 0);
    complete_all(f);
    for (uint64_t seq = 1; seq <= 2; seq++) {
        const struct record *record = unsafe_record(f->unsafe, seq);
        struct le64 sum;
        assert_null(record_invalid(record));
        assert_int_equal(record->flags, RECORD_COARSE);
        assert_int_equal(le32_get(record->payload), sizeof(sum));
        memcpy(&sum, unsafe_payload(f->unsafe, seq), sizeof(sum));
        assert_int_equal(le64_get(sum), checksum64(f->data[0] + 4096, seq == 1 ? 65536 : 8192));
    }
    destroy(f);
}

// From its read until it has its seq a copy keeps its place among the guest's updates of the same
// range.
static void test_copy_is_ordered(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    submit_write(f, &f->requests[0], 0, 0, 512, 0);
    assert_int_equal(updates_resync_chunk(f->updates, 0, 0, 4096), 0);
    updates_kick(f->updates);
    submit_write(f, &f->requests[1], 0, 1024, 512, 0); // same block of 4096
    updates_kick(f->updates);
    assert_int_equal(f->blocks[0].count, 1);
    finish(f, 0, 0, 0);
    assert_int_equal(f->blocks[0].count, 1);
    assert_int_equal(f->blocks[0].under_way[0]->op, BLOCK_READ);
    finish(f, 0, 0, -EIO); // cannot be read: reported, and nobody waits for it
    assert_int_equal(f->last_copied.status, -EIO);
    assert_int_equal(f->last_copied.seq, 0);
    assert_int_equal(f->blocks[0].count, 1);
    finish(f, 0, 0, 0);
    assert_int_equal(f->answered, 2);
    assert_int_equal(unsafe_numbered(f->unsafe), 2);
    destroy(f);
}

// A peer that takes nothing stops the copies long before the queue is full, and no guest's update
// waits for them.
static void test_copies_leave_room(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 4 << 20);
    memset(f->data[1], 3, VOLUME_SIZE);
    unsigned accepted = 0;
    for (unsigned i = 0; i < 400; i++) {
        accepted += updates_resync_chunk(f->updates, 1, (i % 4) * 65536, 65536) == 0;
        complete_all(f);
    }
    struct unsafe_stat stat;
    unsafe_stat(f->unsafe, &stat);
    assert_true(stat.bytes < stat.limit_bytes * 3 / 4);
    assert_true(stat.bytes > stat.limit_bytes / 3);
    submit_write(f, &f->requests[0], 1, 0, 4096, 0);
    complete_all(f);
    assert_int_equal(f->requests[0].answers, 1);
    set_durable(f, unsafe_numbered(f->unsafe));
    complete_all(f);
    set_durable(f, unsafe_numbered(f->unsafe));
    complete_all(f);
    set_durable(f, unsafe_numbered(f->unsafe));
    complete_all(f);
    assert_int_equal(f->events[UPDATES_EVENT_COPIED], accepted);
    destroy(f);
}

// ---- Full ----

// The levels are announced; full, with a reader that takes nothing: once it is detached everything
// goes on.
static void test_overflow(void **state)
{
    struct fixture *f = make(UPDATES_ASYNC, 2 << 20);
    uint8_t payload[32768];
    memset(payload, 1, sizeof(payload));
    size_t room;
    enum unsafe_level seen = UNSAFE_LOW;
    while (unsafe_head(f->unsafe, 1, &room)) {
        prepare(f, &f->requests[0], UPDATE_WRITE, 0, 0, sizeof(payload), 0);
        f->requests[0].update.chunk = payload_chunk(f, payload, sizeof(payload));
        updates_submit(f->updates, &f->requests[0].update);
        complete_all(f);
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
    destroy(f);
}

// ---- Recovery ----

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
    struct fixture *f = make(UPDATES_SYNC, 8 << 20);
    struct fixture *g = make(UPDATES_SYNC, 2 << 20);
    unsigned count = 0;
    for (unsigned i = 0; i < 60; i++) {
        if (i % 6 == 1)
            submit(f, &f->requests[i], UPDATE_ZERO, 1, i * 1024, 1024, UPDATE_NO_HOLE);
        else if (i % 6 == 4)
            submit(f, &f->requests[i], UPDATE_DISCARD, 1, i * 1024, 1024, 0);
        else
            submit_write(f, &f->requests[i], 1, i * 1024, 1024, 0);
        count++;
    }
    updates_kick(f->updates);
    for (unsigned i = 0; i < 10; i++)
        finish(f, 1, i, 0);
    // The daemon dies here. What it had written may be there or not.
    g->updates = updates_free(g->updates);
    g->unsafe = unsafe_free(g->unsafe);
    struct error err;
    struct unsafe_config config = {.pair = 7, .boot = 9};
    int fd = copy_of(unsafe_fd(f->unsafe));
    assert_int_equal(unsafe_open_fd(fd, &config, &g->unsafe, &err), 0);
    (void)close(fd);
    memcpy(g->data, f->data, sizeof(g->data));
    g->updates = updates_new(g->unsafe, UPDATES_SYNC, &ops, g);
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
        finish(g, 1, g->blocks[1].kicked / 2, 0);
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
    destroy(g);
    complete_all(f);
    destroy(f);
}

// ---- Everything at random ----

// The replica had it all along, but for what a failed write has left undefined.
static void replay_resync(struct fixture *f, const struct record *record, const uint8_t *payload)
{
    uint16_t object = le16_get(record->object);
    uint64_t offset = le64_get(record->offset);
    for (uint32_t i = 0; i < le32_get(record->length); i++) {
        uint8_t byte = record->type == RECORD_RESYNC ? payload[i] : 0;
        assert_true(f->undefined[object][offset + i] || f->replica[object][offset + i] == byte);
        f->replica[object][offset + i] = byte;
    }
}

// Replays the stream into a replica, as far as it was numbered.
static void replay(struct fixture *f)
{
    while (f->replayed < unsafe_numbered(f->unsafe)) {
        const struct record *record = unsafe_record(f->unsafe, ++f->replayed);
        assert_null(record_invalid(record));
        assert_int_equal(le64_get(record->seq), f->replayed);
        const void *payload = unsafe_payload(f->unsafe, f->replayed);
        assert_true(record_payload_matches(record, payload));
        uint16_t object = le16_get(record->object);
        uint64_t offset = le64_get(record->offset);
        uint32_t length = le32_get(record->length);
        uint8_t *to = f->replica[object] + offset;
        if (record->type == RECORD_WRITE)
            memcpy(to, payload, length);
        else if (record->type == RECORD_ZERO || record->type == RECORD_DISCARD)
            memset(to, 0, length);
        else if (record->type == RECORD_RESYNC || record->type == RECORD_RESYNC_ZERO)
            replay_resync(f, record, payload);
        memset(f->undefined[object] + offset, record->mark == MARK_UNDEFINED, length);
    }
}

static void check_answer(struct fixture *f, struct request *r)
{
    enum updates_gate gate = updates_gate(f->updates);
    bool peer = gate == UPDATES_PAIRED && f->mode != UPDATES_ASYNC;
    assert_int_equal(r->answers, 1);
    assert_true(gate != UPDATES_HELD);
    if (r->status != 0)
        return;
    bool flush = r->update.op == UPDATE_FLUSH;
    if (r->update.op == UPDATE_READ)
        return;
    if (!flush)
        assert_true(r->seq > 0 && r->seq <= unsafe_numbered(f->unsafe));
    if (!flush && peer && f->mode == UPDATES_STRICT)
        assert_true(f->durable >= r->seq);
    if (flush || (r->update.flags & UPDATE_FUA)) {
        assert_true(f->blocks[r->update.object].last_good_sync > r->syncs_seen);
        if (peer)
            assert_true(f->durable >= r->flush_seq);
    }
}

static void on_random_answer(struct update *update, int status)
{
    struct request *r = (struct request *)update;
    on_answer(update, status);
    check_answer(r->f, r);
    r->busy = false;
}

static void random_submit(struct fixture *f)
{
    static uint8_t buffer[PAYLOAD_MAX];
    struct request *r = NULL;
    for (unsigned i = 0; i < REQUESTS && !r; i++)
        r = f->requests[i].busy ? NULL : &f->requests[i];
    size_t room;
    if (!r || !unsafe_head(f->unsafe, 1, &room))
        return;
    uint16_t object = (uint16_t)rnd(f, VOLUMES);
    uint32_t length = 512 * (uint32_t)(1 + rnd(f, rnd(f, 8) == 0 ? 128 : 8));
    // Few places, so that many overlap.
    uint64_t offset = rnd(f, (VOLUME_SIZE / 4 - length) / 512 + 1) * 512;
    unsigned flags = rnd(f, 6) == 0 ? UPDATE_FUA : 0;
    enum update_op op = (enum update_op)rnd(f, 5);
    if (op == UPDATE_FLUSH)
        length = 0;
    if (op == UPDATE_WRITE) {
        submit_write(f, r, object, offset, length, flags);
    } else {
        prepare(f, r, op, object, offset, length, flags);
        r->update.data = buffer;
        updates_submit(f->updates, &r->update);
    }
    r->update.answer = on_random_answer;
}

// Completes one request at random, and notes the seq that it got.
static void random_complete(struct fixture *f)
{
    unsigned volume = (unsigned)rnd(f, VOLUMES);
    struct fake_block *b = &f->blocks[volume];
    if (b->kicked == 0)
        return;
    unsigned index = (unsigned)rnd(f, b->kicked);
    struct block_request *request = b->under_way[index];
    struct request *r = request->owner;
    bool writes =
        request->op == BLOCK_WRITE || request->op == BLOCK_ZERO || request->op == BLOCK_DISCARD;
    bool mine = writes && r >= f->requests && r < f->requests + REQUESTS;
    int status = rnd(f, 40) == 0 && request->op != BLOCK_FLUSH ? -EIO : 0;
    if (request->op == BLOCK_FLUSH && rnd(f, 100) == 0)
        status = -EIO;
    if (mine) {
        // Overlapping updates reach the store in the order in which they arrived.
        for (uint64_t at = request->offset; at < request->offset + request->length; at += 512) {
            assert_true(f->last_arrival[volume][at / 512] < r->arrival);
            f->last_arrival[volume][at / 512] = r->arrival;
        }
        r->seq = unsafe_numbered(f->unsafe) + 1;
        r->flush_seq = r->seq;
        r->syncs_seen = b->syncs_submitted;
    }
    fake_complete(b, index, status);
    if (mine)
        assert_int_equal(unsafe_numbered(f->unsafe), r->seq);
}

static void random_gate(struct fixture *f)
{
    static const enum updates_gate gates[] = {UPDATES_HELD, UPDATES_PAIRED, UPDATES_ALONE,
                                              UPDATES_PAIRED};
    (void)updates_set_gate(f->updates, gates[rnd(f, 4)]);
}

static void random_step(struct fixture *f)
{
    switch (rnd(f, 16)) {
    case 0:
        if (rnd(f, 20) == 0)
            random_gate(f);
        break;
    case 1:
        // The promise is made to whoever is answered from within: it counts before the call.
        f->durable += rnd(f, f->replayed - f->durable + 1);
        set_durable(f, f->durable);
        break;
    case 2:
        (void)updates_resync_chunk(f->updates, (uint16_t)rnd(f, VOLUMES), rnd(f, 64) * 512, 4096);
        break;
    case 3:
        for (uint16_t i = 0; i < VOLUMES; i++) {
            if (updates_volume_failed(f->updates, i) && f->blocks[i].count == 0)
                updates_set_volume(f->updates, i, &f->blocks[i].block, i == 0 ? 4096 : 1);
        }
        break;
    case 4:
    case 5:
    case 6:
        updates_kick(f->updates);
        break;
    case 7:
    case 8:
    case 9:
    case 10:
    case 11:
        random_complete(f);
        break;
    default:
        random_submit(f);
    }
    replay(f);
}

static void run_random(enum updates_mode mode, uint64_t seed)
{
    struct fixture *f = make(mode, 2 << 20);
    f->random = seed * 0x9e3779b97f4a7c15u + 1;
    for (unsigned i = 0; i < 6000; i++)
        random_step(f);
    (void)updates_set_gate(f->updates, UPDATES_PAIRED);
    for (unsigned i = 0; i < 10000; i++) {
        updates_kick(f->updates);
        random_complete(f);
        replay(f);
        f->durable = unsafe_numbered(f->unsafe);
        set_durable(f, f->durable);
    }
    assert_int_equal(f->blocks[0].count + f->blocks[1].count, 0);
    for (unsigned i = 0; i < REQUESTS; i++)
        assert_false(f->requests[i].busy);
    assert_true(f->answered > 500);
    // What the stream says is what the store holds, but for ranges whose write failed.
    for (unsigned v = 0; v < VOLUMES; v++) {
        for (unsigned i = 0; i < VOLUME_SIZE; i++)
            assert_true(f->undefined[v][i] || f->replica[v][i] == f->data[v][i]);
    }
    destroy(f);
}

static void test_random(void **state)
{
    for (int mode = UPDATES_ASYNC; mode <= UPDATES_STRICT; mode++) {
        for (uint64_t seed = 1; seed <= 6; seed++) {
            print_message("mode %d, seed %llu\n", mode, (unsigned long long)seed);
            run_random((enum updates_mode)mode, seed);
        }
    }
}

// ---- A benchmark: test_updates --bench ----

// Of this thread: the machine may be busy with something else.
static int64_t cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static int bench(void)
{
    enum { ROUNDS = 100000, DEPTH = 16 };
    struct fixture *f = make(UPDATES_SYNC, 64 << 20);
    static uint8_t payload[4096];
    for (unsigned i = 0; i < VOLUMES; i++)
        f->blocks[i].immediate = true;
    int64_t start = cpu_ns();
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t room;
        uint8_t *head = unsafe_head(f->unsafe, 1, &room);
        for (unsigned i = 0; i < DEPTH; i++) {
            struct request *r = &f->requests[i];
            memcpy(head + i * (28 + 4096) + 28, payload, 4096);
            unsafe_skip(f->unsafe, 28);
            r->f = f;
            r->update = (struct update){.op = UPDATE_WRITE,
                                        .offset = ((round * DEPTH + i) * 2654435761u % 64) * 4096,
                                        .length = 4096,
                                        .chunk = unsafe_keep(f->unsafe, 4096),
                                        .answer = on_answer};
            updates_submit(f->updates, &r->update);
        }
        updates_kick(f->updates);
        set_durable(f, unsafe_numbered(f->unsafe));
    }
    int64_t took = cpu_ns() - start;
    printf("%.0f ns of CPU per 4 KiB update, with its two copies and its checksum\n",
           (double)took / ROUNDS / DEPTH);
    destroy(f);
    return 0;
}

int main(int argc, char **argv)
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
        cmocka_unit_test(test_the_coarser_blocks_count),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_own_sync),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_gate_closed),
        cmocka_unit_test(test_gate_held),
        cmocka_unit_test(test_gate_alone_and_back),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_map_is_asked),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_resync_and_check),
        cmocka_unit_test(test_coarse_check),
        cmocka_unit_test(test_copy_is_ordered),
        cmocka_unit_test(test_copies_leave_room),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_recover),
        cmocka_unit_test(test_random),
    };
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
