// SPDX-License-Identifier: Apache-2.0
// queues/updates: every promise at once, at random, against a replica that takes in the stream; with --bench what an update
// costs.
#include "tests/unit/updates_fixture.h"

#include <stdio.h>
#include <time.h>

#include "common/base/clock.h"

static uint64_t rnd(struct fixture *f, uint64_t below)
{
    f->random ^= f->random << 13;
    f->random ^= f->random >> 7;
    f->random ^= f->random << 17;
    return f->random % below;
}

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
    request_answered(update, status);
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
        request_write(f, r, object, offset, length, flags);
    } else {
        request_prepare(f, r, op, object, offset, length, flags);
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
        fixture_durable(f, f->durable);
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
    struct fixture *f = fixture_new(mode, 2 << 20);
    f->random = seed * 0x9e3779b97f4a7c15u + 1;
    for (unsigned i = 0; i < 6000; i++)
        random_step(f);
    (void)updates_set_gate(f->updates, UPDATES_PAIRED);
    for (unsigned i = 0; i < 10000; i++) {
        updates_kick(f->updates);
        random_complete(f);
        replay(f);
        f->durable = unsafe_numbered(f->unsafe);
        fixture_durable(f, f->durable);
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
    fixture_free(f);
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
    struct fixture *f = fixture_new(UPDATES_SYNC, 64 << 20);
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
                                        .answer = request_answered};
            updates_submit(f->updates, &r->update);
        }
        updates_kick(f->updates);
        fixture_durable(f, unsafe_numbered(f->unsafe));
    }
    int64_t took = cpu_ns() - start;
    printf("%.0f ns of CPU per 4 KiB update, with its two copies and its checksum\n",
           (double)took / ROUNDS / DEPTH);
    fixture_free(f);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
    };
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
