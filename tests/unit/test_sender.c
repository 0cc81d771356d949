// SPDX-License-Identifier: Apache-2.0
// The sender: when a batch is due, what an acknowledgement may say, and that everything arrives
// over a link that loses, repeats and delays.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "queues/sender.h"

#define PAYLOAD_MAX 65536

struct fixture {
    struct unsafe *unsafe;
    struct sender *sender;
    int64_t now;
    struct sender_message message;
    // The peer:
    uint64_t received, durable, applied, barrier;
};

static struct fixture *make(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct unsafe_config config = {
        .bound = 1u << 30, .ring_bytes = 16 << 20, .payload_max = PAYLOAD_MAX};
    struct error err;
    assert_int_equal(unsafe_create(NULL, &config, &f->unsafe, &err), 0);
    unsafe_attach(f->unsafe, 0, 0);
    f->sender = sender_new(f->unsafe, 0, NULL);
    f->now = 1000 * NS_PER_S;
    return f;
}

static void destroy(struct fixture *f)
{
    sender_free(f->sender);
    unsafe_free(f->unsafe);
    free(f);
}

static void number(struct fixture *f, uint32_t size)
{
    size_t room;
    unsigned slot;
    struct unsafe_update update = {.type = size ? RECORD_WRITE : RECORD_DISCARD,
                                   .length = size ? size : 512};
    uint64_t chunk = UNSAFE_NO_CHUNK;
    assert_non_null(unsafe_head(f->unsafe, 1, &room));
    if (size) {
        chunk = unsafe_keep(f->unsafe, size);
        memset(unsafe_chunk_data(f->unsafe, chunk), (int)(unsafe_numbered(f->unsafe) % 251), size);
    }
    assert_int_equal(unsafe_commit(f->unsafe, &update, chunk, &slot), 0);
    (void)unsafe_number(f->unsafe, slot, 0, 1);
}

static bool next(struct fixture *f)
{
    return sender_next(f->sender, f->now, &f->message);
}

static struct batch_ack ack_of(const struct fixture *f, unsigned flags)
{
    struct batch_ack ack = {.session = le64_make(7),
                            .flags = le16_make((uint16_t)flags),
                            .received = le64_make(f->received),
                            .durable = le64_make(f->durable),
                            .applied = le64_make(f->applied),
                            .barrier = le64_make(f->barrier)};
    return ack;
}

static int give(struct fixture *f, struct batch_ack ack)
{
    struct error err = {0};
    batch_ack_seal(&ack);
    int r = sender_ack(f->sender, &ack, sizeof(ack), f->now, &err);
    assert_true(r == 0 || err.text[0] != '\0');
    return r;
}

// Puts the gathered pieces together, as the channel does.
static size_t gather(const struct sender_message *m, uint8_t *to)
{
    size_t size = 0;
    for (int i = 0; i < m->iov_count; i++) {
        memcpy(to + size, m->iov[i].iov_base, m->iov[i].iov_len);
        size += m->iov[i].iov_len;
    }
    assert_int_equal(size, m->bytes);
    return size;
}

// Starts the session and gets its first barrier, which is always asked for, out of the way.
static void start(struct fixture *f)
{
    sender_start(f->sender, 7, 0, f->now);
    assert_true(next(f));
    assert_true(f->message.barrier);
    sender_sent(f->sender, f->now);
    f->received = f->durable = unsafe_numbered(f->unsafe);
    f->barrier = 1;
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    assert_false(next(f));
    assert_int_equal(sender_deadline(f->sender), INT64_MAX);
}

// ---- When a batch is due ----

static void test_linger(void **state)
{
    struct fixture *f = make();
    start(f);
    number(f, 4096);
    assert_false(next(f));
    assert_int_equal(sender_deadline(f->sender), f->now + SENDER_LINGER_NS);
    f->now += SENDER_LINGER_NS / 2;
    number(f, 4096);
    assert_false(next(f));
    f->now += SENDER_LINGER_NS / 2;
    assert_true(next(f));
    assert_int_equal(f->message.records, 2);
    assert_false(f->message.barrier);
    sender_blocked(f->sender); // the channel takes nothing: the same again
    assert_true(next(f));
    assert_int_equal(f->message.first_seq, 1);
    sender_sent(f->sender, f->now);
    assert_false(next(f));
    assert_int_equal(sender_deadline(f->sender), f->now + SENDER_SILENCE_NS);
    destroy(f);
}

// Its caller comes by itself, and takes all that there is by then; what comes later lingers.
static void test_hasten(void **state)
{
    struct fixture *f = make();
    start(f);
    sender_hasten(f->sender);
    assert_false(next(f));
    number(f, 4096);
    assert_false(next(f));
    number(f, 4096);
    sender_hasten(f->sender);
    number(f, 4096);
    assert_true(next(f));
    assert_int_equal(f->message.records, 3); // in company
    assert_false(f->message.barrier);
    sender_sent(f->sender, f->now);
    number(f, 4096);
    assert_false(next(f));
    assert_int_equal(sender_deadline(f->sender), f->now + SENDER_LINGER_NS);
    destroy(f);
}

static void test_full_batch(void **state)
{
    struct fixture *f = make();
    start(f);
    for (unsigned i = 0; i < 4; i++)
        number(f, PAYLOAD_MAX);
    assert_true(next(f));
    assert_int_equal(f->message.records, 4);
    sender_sent(f->sender, f->now);
    for (unsigned i = 0; i < SENDER_RECORDS_MAX + 1; i++)
        number(f, 0);
    assert_true(next(f));
    assert_true(f->message.records <= SENDER_RECORDS_MAX);
    destroy(f);
}

static void test_barriers(void **state)
{
    struct fixture *f = make();
    start(f);
    number(f, 4096);
    assert_int_equal(sender_barrier(f->sender), 2);
    assert_true(next(f));
    assert_true(f->message.barrier);
    assert_int_equal(f->message.records, 1);
    sender_sent(f->sender, f->now);
    assert_int_equal(sender_barrier(f->sender), 2); // that one covers it
    assert_false(next(f));
    f->received = f->durable = 1;
    f->barrier = 2;
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    assert_int_equal(sender_barrier_done(f->sender), 2);
    assert_int_equal(unsafe_released(f->unsafe, 0), 1);
    // Nothing to send but the barrier itself; lost, it is asked for again with the next number.
    assert_int_equal(sender_barrier(f->sender), 3);
    assert_true(next(f));
    assert_int_equal(f->message.records, 0);
    sender_sent(f->sender, f->now);
    f->now += SENDER_SILENCE_NS;
    assert_true(next(f));
    assert_true(f->message.barrier);
    uint8_t message[256];
    assert_null(batch_invalid(message, gather(&f->message, message)));
    sender_sent(f->sender, f->now);
    f->barrier = 4;
    f->applied = 1;
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    assert_false(next(f));
    assert_int_equal(sender_deadline(f->sender), INT64_MAX);
    destroy(f);
}

// Everything has arrived; that it is durable, or that it is applied, was said into a cut, and nothing else follows.
static void test_lost_ack(void **state)
{
    struct fixture *f = make();
    start(f);
    number(f, 4096);
    (void)sender_barrier(f->sender);
    assert_true(next(f));
    sender_sent(f->sender, f->now);
    f->received = 1;
    f->barrier = le64_get(((const struct batch *)f->message.iov[0].iov_base)->barrier);
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    assert_false(next(f));
    f->now = sender_deadline(f->sender);
    assert_true(next(f));
    assert_true(f->message.barrier);
    assert_int_equal(f->message.records, 0);
    sender_sent(f->sender, f->now);
    f->durable = 1;
    f->barrier++;
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    assert_false(next(f));
    f->now = sender_deadline(f->sender);
    assert_true(next(f));
    assert_true(f->message.barrier);
    sender_sent(f->sender, f->now);
    f->applied = 1;
    f->barrier++;
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    assert_false(next(f));
    assert_int_equal(sender_deadline(f->sender), INT64_MAX);
    destroy(f);
}

// What is withheld is not sent, however long it waits, and whatever asks for it; what is in front of it is.
static void test_withheld(void **state)
{
    struct fixture *f = make();
    start(f);
    number(f, 512);
    sender_withhold(f->sender, 2);
    number(f, 512);
    (void)sender_barrier(f->sender);
    assert_true(next(f));
    assert_int_equal(f->message.records, 1);
    assert_false(f->message.barrier); // not before everything that it is for
    sender_sent(f->sender, f->now);
    assert_false(next(f));
    f->received = f->durable = 1;
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    f->now += 10 * SENDER_SILENCE_NS;
    assert_false(next(f));
    sender_rewind(f->sender, f->now);
    assert_false(next(f));
    sender_start(f->sender, 8, 1, f->now);
    assert_false(next(f));
    sender_withhold(f->sender, UINT64_MAX);
    assert_true(next(f));
    assert_int_equal(f->message.first_seq, 2);
    assert_int_equal(f->message.records, 1);
    assert_true(f->message.barrier);
    destroy(f);
}

// ---- What an acknowledgement may say ----

static void test_lies(void **state)
{
    struct fixture *f = make();
    start(f);
    for (unsigned i = 0; i < 3; i++)
        number(f, 512);
    (void)sender_barrier(f->sender);
    assert_true(next(f));
    sender_sent(f->sender, f->now);
    number(f, 512);
    f->received = 4; // never sent
    f->durable = 2;
    assert_int_equal(give(f, ack_of(f, 0)), -EPROTO);
    f->received = 3;
    f->barrier = 3;
    assert_int_equal(give(f, ack_of(f, 0)), -EPROTO);
    f->barrier = 1;
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    f->durable = 1; // an older one that comes late: nothing moves back
    f->received = 2;
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    struct positions at;
    sender_positions(f->sender, &at);
    assert_int_equal(at.received, 3);
    assert_int_equal(at.durable, 2);
    assert_int_equal(at.numbered, 4);
    f->received = 2;
    f->durable = 2;
    f->barrier = 2; // moves both ways
    assert_int_equal(give(f, ack_of(f, 0)), -EPROTO);
    struct batch_ack other = ack_of(f, 0);
    other.session = le64_make(8);
    assert_int_equal(give(f, other), -ESTALE);
    assert_int_equal(unsafe_released(f->unsafe, 0), 2);
    destroy(f);
}

static void test_peer_fails(void **state)
{
    struct fixture *f = make();
    start(f);
    number(f, 512);
    struct batch_ack ack = ack_of(f, ACK_FAILED);
    ack.error = le32_make(ENOSPC);
    assert_int_equal(give(f, ack), -EIO);
    assert_false(sender_running(f->sender));
    f->now += NS_PER_S;
    assert_false(next(f));
    destroy(f);
}

static void test_peer_full(void **state)
{
    struct fixture *f = make();
    start(f);
    assert_int_equal(give(f, ack_of(f, ACK_FULL)), 0);
    assert_true(sender_peer_full(f->sender));
    number(f, 512);
    (void)sender_barrier(f->sender);
    assert_false(next(f));
    assert_true(sender_deadline(f->sender) <= f->now + SENDER_SILENCE_NS);
    f->now = sender_deadline(f->sender); // tries it once in a while
    assert_true(next(f));
    sender_sent(f->sender, f->now);
    assert_false(next(f));
    assert_int_equal(give(f, ack_of(f, ACK_RESEND)), 0);
    assert_true(next(f));
    sender_sent(f->sender, f->now);
    // It is still full, and asks again and again, each time a moment before it would be tried.
    assert_int_equal(give(f, ack_of(f, ACK_FULL)), 0);
    assert_false(next(f));
    f->now += SENDER_SILENCE_NS - 1;
    assert_int_equal(give(f, ack_of(f, ACK_FULL | ACK_RESEND)), 0);
    assert_true(next(f));
    destroy(f);
}

// The word that there is room again is lost with the connection: what was sent is tried again all the same, a batch in a
// while, and one at once when the connection is back.
static void test_room_is_not_heard_of(void **state)
{
    struct fixture *f = make();
    start(f);
    number(f, 512);
    (void)sender_barrier(f->sender);
    assert_true(next(f));
    sender_sent(f->sender, f->now);
    assert_int_equal(give(f, ack_of(f, ACK_FULL)), 0);
    for (int i = 0; i < 3; i++) {
        f->now += SENDER_SILENCE_NS - 1;
        assert_false(next(f));
        f->now++;
        assert_true(next(f));
        sender_sent(f->sender, f->now);
        assert_false(next(f));
    }
    sender_rewind(f->sender, f->now);
    assert_true(next(f));
    sender_sent(f->sender, f->now);
    assert_false(next(f));
    destroy(f);
}

static void test_resend_once(void **state)
{
    struct fixture *f = make();
    start(f);
    for (unsigned i = 0; i < 8; i++) {
        number(f, 512);
        f->now += SENDER_LINGER_NS;
        (void)next(f);
        f->now += SENDER_LINGER_NS;
        assert_true(next(f));
        sender_sent(f->sender, f->now);
    }
    f->received = 2;
    assert_int_equal(give(f, ack_of(f, ACK_RESEND)), 0);
    f->now += SENDER_LINGER_NS;
    (void)next(f);
    f->now += SENDER_LINGER_NS;
    assert_true(next(f));
    assert_int_equal(f->message.first_seq, 3);
    assert_int_equal(f->message.records, 6);
    sender_sent(f->sender, f->now);
    assert_int_equal(give(f, ack_of(f, ACK_RESEND)), 0); // asked for by what was behind the hole
    assert_false(next(f));
    f->now += SENDER_SILENCE_NS / 4;
    assert_int_equal(give(f, ack_of(f, ACK_RESEND)), 0); // that was lost, too
    assert_false(next(f));
    f->now += SENDER_LINGER_NS;
    assert_true(next(f));
    assert_int_equal(f->message.first_seq, 3);
    destroy(f);
}

// A new session begins where the peer says that it is; what it received but not made durable may
// show up in its answer.
static void test_sessions(void **state)
{
    struct fixture *f = make();
    start(f);
    for (unsigned i = 0; i < 5; i++)
        number(f, 512);
    sender_stop(f->sender);
    assert_false(next(f));
    f->barrier = 0;
    f->received = 4;
    f->durable = 3;
    assert_int_equal(give(f, ack_of(f, 0)), -ESTALE);
    sender_start(f->sender, 7, 3, f->now);
    assert_int_equal(unsafe_released(f->unsafe, 0), 3);
    assert_int_equal(give(f, ack_of(f, 0)), 0);
    assert_true(next(f));
    assert_int_equal(f->message.first_seq, 5);
    assert_true(f->message.barrier);
    destroy(f);
}

// ---- Everything arrives ----

enum { LINK_MAX = 64 };

struct link {
    uint64_t random;
    uint8_t *batches[LINK_MAX];
    size_t sizes[LINK_MAX];
    unsigned batch_count;
    struct batch_ack acks[LINK_MAX];
    unsigned ack_count;
    uint64_t sent, lost;
};

static uint64_t rnd(struct link *l, uint64_t below)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return l->random % below;
}

static void link_send(struct fixture *f, struct link *l)
{
    if (!next(f))
        return;
    if (l->batch_count == LINK_MAX) {
        sender_blocked(f->sender);
        return;
    }
    l->sent++;
    uint8_t *message = malloc(f->message.bytes);
    size_t size = gather(&f->message, message);
    assert_null(batch_invalid(message, size));
    sender_sent(f->sender, f->now);
    if (rnd(l, 10) == 0) {
        l->lost++;
        free(message);
        return;
    }
    l->batches[l->batch_count] = message;
    l->sizes[l->batch_count++] = size;
}

// A passive end, reduced to its rule: only what comes next is taken.
static unsigned peer_take(struct fixture *f, const struct batch *batch, const uint8_t *message)
{
    uint64_t first = le64_get(batch->first_seq);
    uint32_t count = le32_get(batch->count);
    assert_true(le64_get(batch->promised) <= f->durable);
    if (first > f->received + 1)
        return ACK_RESEND;
    const uint8_t *payload = message + sizeof(*batch) + count * sizeof(struct record);
    for (uint32_t i = 0; i < count; i++) {
        struct record record;
        memcpy(&record, message + sizeof(*batch) + i * sizeof(record), sizeof(record));
        assert_true(record_payload_matches(&record, payload));
        if (le32_get(record.payload) > 0)
            assert_int_equal(payload[0], (le64_get(record.seq) - 1) % 251);
        payload += le32_get(record.payload);
        if (le64_get(record.seq) == f->received + 1)
            f->received++;
    }
    if (le16_get(batch->flags) & BATCH_BARRIER) {
        f->durable = f->received;
        f->barrier = le64_get(batch->barrier);
    }
    return 0;
}

static void link_deliver(struct fixture *f, struct link *l)
{
    if (l->batch_count == 0)
        return;
    struct batch batch;
    uint8_t *message = l->batches[0];
    memcpy(&batch, message, sizeof(batch));
    uint64_t barrier = f->barrier;
    unsigned flags = peer_take(f, &batch, message);
    if (rnd(l, 10) == 0 && f->received > f->durable)
        f->durable += rnd(l, f->received - f->durable + 1);
    free(message);
    l->batch_count--;
    memmove(l->batches, l->batches + 1, l->batch_count * sizeof(l->batches[0]));
    memmove(l->sizes, l->sizes + 1, l->batch_count * sizeof(l->sizes[0]));
    f->barrier = f->barrier > barrier ? f->barrier : barrier;
    if (l->ack_count < LINK_MAX && rnd(l, 4) != 0)
        l->acks[l->ack_count++] = ack_of(f, flags);
}

// Also late: an older one after newer ones.
static void link_answer(struct fixture *f, struct link *l)
{
    if (l->ack_count == 0)
        return;
    unsigned i = rnd(l, 8) == 0 ? (unsigned)rnd(l, l->ack_count) : 0;
    assert_int_equal(give(f, l->acks[i]), 0);
    l->ack_count--;
    memmove(l->acks + i, l->acks + i + 1, (l->ack_count - i) * sizeof(l->acks[0]));
}

static void link_step(struct fixture *f, struct link *l, bool quiet)
{
    size_t room;
    switch (rnd(l, 6)) {
    case 0:
        if (!quiet && unsafe_head(f->unsafe, 1, &room) &&
            unsafe_numbered(f->unsafe) - unsafe_released(f->unsafe, 0) < 3000)
            number(f, (uint32_t)(rnd(l, 3) == 0 ? 0 : 1 + rnd(l, 9000)));
        break;
    case 1:
        if (!quiet && rnd(l, 10) == 0)
            (void)sender_barrier(f->sender);
        if (rnd(l, 400) == 0)
            sender_rewind(f->sender, f->now);
        break;
    case 2:
    case 3:
        link_send(f, l);
        break;
    case 4:
        link_deliver(f, l);
        break;
    default:
        link_answer(f, l);
    }
    f->now += (int64_t)rnd(l, 200000);
}

static void test_lossy_link(void **state)
{
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct fixture *f = make();
        struct link l = {.random = seed * 0x9e3779b97f4a7c15u};
        print_message("seed %llu\n", (unsigned long long)seed);
        sender_start(f->sender, 7, 0, f->now);
        for (unsigned i = 0; i < 30000; i++)
            link_step(f, &l, false);
        uint64_t last = sender_barrier(f->sender);
        for (unsigned i = 0; i < 400000 && sender_barrier_done(f->sender) < last; i++)
            link_step(f, &l, true);
        assert_true(sender_barrier_done(f->sender) >= last);
        assert_int_equal(unsafe_released(f->unsafe, 0), unsafe_numbered(f->unsafe));
        assert_true(unsafe_numbered(f->unsafe) > 2000 && l.lost > 20);
        while (l.batch_count > 0)
            free(l.batches[--l.batch_count]);
        destroy(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linger),      cmocka_unit_test(test_hasten),
        cmocka_unit_test(test_full_batch),
        cmocka_unit_test(test_barriers),    cmocka_unit_test(test_lost_ack),
        cmocka_unit_test(test_withheld),
           cmocka_unit_test(test_lies),
        cmocka_unit_test(test_peer_fails),  cmocka_unit_test(test_peer_full),
        cmocka_unit_test(test_room_is_not_heard_of),
        cmocka_unit_test(test_resend_once), cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_lossy_link),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
