// SPDX-License-Identifier: Apache-2.0
// The disk rung of the unsafe queue: what does not fit its memory comes back from disk in order and
// unchanged; each level; what a daemon killed at any step of a job leaves; a full and a broken
// disk; damage is found before it is believed.
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "fake_disk.h"
#include "queues/sender.h"
#include "queues/spill.h"

#define PAYLOAD_MAX 4096
#define RING        (UNSAFE_RING_MIN + 4 * (PAYLOAD_MAX + UNSAFE_RECEIVE_MAX))
#define START       100
#define MIB         (UINT64_C(1) << 20)

static const struct unsafe_config config = {
    .pair = 7,
    .boot = 9,
    .epoch = 3,
    .start = START,
    .bound = 1u << 30,
    .ring_bytes = RING,
    .payload_max = PAYLOAD_MAX,
};

struct fixture {
    struct unsafe *queue;
    struct fake_disk *disk;
    struct spill *spill;
    struct spill_config config;
    struct spill_job *job;
    int64_t now;
    unsigned events[SPILL_LOST + 1];
    enum unsafe_level level;
    char text[SPILL_TEXT_MAX];
};

static struct fixture *make(uint64_t quota)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    assert_int_equal(unsafe_create(NULL, &config, &f->queue, &err), 0);
    f->disk = fake_disk_new(64 * MIB, 1);
    f->config.quota = quota;
    f->spill = spill_new(f->queue, fake_disk_of(f->disk), &f->config);
    f->now = 1000 * NS_PER_S;
    unsafe_attach(f->queue, 0, START);
    return f;
}

static void destroy(struct fixture *f)
{
    spill_free(f->spill);
    unsafe_free(f->queue);
    fake_disk_free(f->disk);
    free(f);
}

static void hear(struct fixture *f)
{
    struct spill_event event;
    for (;;) {
        spill_event(f->spill, &event);
        if (event.kind == SPILL_NOTHING)
            return;
        f->events[event.kind]++;
        if (event.kind == SPILL_LEVEL)
            f->level = event.level;
        else
            (void)snprintf(f->text, sizeof(f->text), "%s", event.text);
    }
}

static bool begin(struct fixture *f)
{
    if (!f->job && spill_wants(f->spill, f->now))
        f->job = spill_next(f->spill, f->now);
    return f->job != NULL;
}

static void finish(struct fixture *f)
{
    spill_done(f->spill, f->job, f->now);
    f->job = NULL;
    hear(f);
}

// One whole job; false when none is due.
static bool step(struct fixture *f)
{
    if (!begin(f))
        return false;
    spill_run(f->job);
    finish(f);
    return true;
}

static uint8_t byte_of(uint64_t seq)
{
    return (uint8_t)(1 + seq * 7 % 250);
}

static uint32_t size_of(uint64_t seq)
{
    return seq % 13 == 0 ? 0 : 1 + (uint32_t)(seq * 37 % PAYLOAD_MAX);
}

// Numbers the next record, whose content follows from its seq. False: there is no room.
static bool number(struct fixture *f)
{
    uint64_t seq = unsafe_numbered(f->queue) + 1;
    uint32_t size = size_of(seq);
    uint64_t chunk = UNSAFE_NO_CHUNK;
    size_t room;
    unsigned slot;
    if (!unsafe_head(f->queue, 1, &room))
        return false;
    struct unsafe_update update = {.type = size ? RECORD_WRITE : RECORD_ZERO,
                                   .offset = seq * 4096,
                                   .length = size ? size : 512};
    if (size > 0) {
        unsafe_skip(f->queue, 28);
        chunk = unsafe_keep(f->queue, size);
        memset(unsafe_chunk_data(f->queue, chunk), byte_of(seq), size);
    }
    if (unsafe_commit(f->queue, &update, chunk, &slot) < 0) {
        unsafe_drop(f->queue, chunk);
        return false;
    }
    assert_int_equal(unsafe_number(f->queue, slot, 0, (int64_t)seq), seq);
    return true;
}

// Until `count` are numbered, with the jobs that come along. False: the queue is full.
static bool number_many(struct fixture *f, unsigned count)
{
    while (count > 0) {
        if (number(f)) {
            count--;
            (void)step(f);
        } else if (!step(f)) {
            return false;
        }
    }
    return true;
}

static bool is_right(const struct fixture *f, uint64_t seq)
{
    const struct record *record = unsafe_record(f->queue, seq);
    if (record_invalid(record) || le64_get(record->seq) != seq ||
        le64_get(record->offset) != seq * 4096 || le32_get(record->payload) != size_of(seq))
        return false;
    const uint8_t *data = unsafe_payload(f->queue, seq);
    for (uint32_t i = 0; i < size_of(seq); i++) {
        if (data[i] != byte_of(seq))
            return false;
    }
    return true;
}

// Everything in (released, last] in order; false when it was lost on the way.
static bool read_all(struct fixture *f)
{
    uint64_t last = unsafe_last(f->queue, 0);
    for (uint64_t seq = unsafe_released(f->queue, 0) + 1; seq <= last; seq++) {
        for (unsigned tries = 0; unsafe_table_run(f->queue, seq) == 0; tries++) {
            if (f->events[SPILL_LOST])
                return false;
            assert_true(step(f));
            assert_true(tries < 10);
        }
        assert_true(is_right(f, seq));
    }
    return true;
}

static void release(struct fixture *f, uint64_t seq)
{
    unsafe_release(f->queue, 0, seq);
    while (step(f))
        ;
}

// ---- In order ----

// Five times what memory holds: it is never full, and comes back in order; then nothing is left on
// disk.
static void spills_and_drains_in_order(void **state)
{
    struct fixture *f = make(16 * MIB);
    struct unsafe_stat stat;
    assert_true(number_many(f, 3000));
    unsafe_stat(f->queue, &stat);
    assert_int_equal(stat.records, 3000);
    assert_true(stat.spilled_records > 2000);
    assert_int_equal(stat.oldest_ns, START + 1);
    assert_true(stat.bytes == stat.memory_bytes + stat.spilled_bytes);
    assert_true(stat.bytes > 5 * RING);
    assert_int_equal(stat.spill_limit_bytes + RING, stat.limit_bytes);
    assert_true(read_all(f));
    for (uint64_t seq = START + 500; seq < START + 3000; seq += 500) {
        release(f, seq);
        assert_true(read_all(f));
        unsafe_stat(f->queue, &stat);
        assert_int_equal(stat.records, START + 3000 - seq);
    }
    assert_true(unsafe_table_run(f->queue, unsafe_spilled(f->queue)) > 0);
    assert_false(unsafe_missing(f->queue));
    release(f, START + 3000);
    assert_false(unsafe_missing(f->queue)); // what a reader asked for long ago is lacked by nobody any more
    unsafe_stat(f->queue, &stat);
    assert_int_equal(stat.records + stat.bytes, 0);
    assert_int_equal(fake_disk_slots(f->disk), 0);
    assert_true(number_many(f, 3000));
    assert_true(read_all(f));
    destroy(f);
}

// Through a real sender, which goes back now and then, to a peer that checks each message.
static void a_sender_does_not_notice(void **state)
{
    struct fixture *f = make(16 * MIB);
    struct sender *sender = sender_new(f->queue, 0, NULL);
    struct sender_message m;
    uint64_t received = START, random = 5;
    assert_true(number_many(f, 2000));
    sender_start(sender, 1, START, f->now);
    while (received < START + 4000) {
        random = random * UINT64_C(6364136223846793005) + 1;
        if (unsafe_numbered(f->queue) < START + 4000)
            (void)number(f);
        (void)step(f);
        if (random >> 40 & 1)
            (void)step(f);
        f->now += 100 * NS_PER_MS / 50;
        if (!sender_next(sender, f->now, &m))
            continue;
        uint8_t *message = malloc(m.bytes);
        size_t at = 0;
        for (int i = 0; i < m.iov_count; at += m.iov[i++].iov_len)
            memcpy(message + at, m.iov[i].iov_base, m.iov[i].iov_len);
        assert_null(batch_invalid(message, m.bytes));
        uint8_t *payload = message + sizeof(struct batch) + m.records * sizeof(struct record);
        for (uint32_t i = 0; i < m.records; i++) {
            const struct record *r = (struct record *)(message + sizeof(struct batch)) + i;
            assert_true(record_payload_matches(r, payload));
            payload += le32_get(r->payload);
        }
        sender_sent(sender, f->now);
        bool lost = (random >> 33) % 8 == 0;
        uint64_t barrier = 0;
        if (!lost && m.first_seq <= received + 1)
            received = m.first_seq + m.records > received ? m.first_seq + m.records - 1 : received;
        if (m.barrier)
            barrier = le64_get(((struct batch *)message)->barrier);
        free(message);
        struct batch_ack ack = {.session = le64_make(1),
                                .received = le64_make(received),
                                .durable = le64_make(received),
                                .barrier =
                                    le64_make(lost ? sender_barrier_done(sender)
                                                   : MAX(barrier, sender_barrier_done(sender))),
                                .flags = le16_make(lost ? ACK_RESEND : 0)};
        batch_ack_seal(&ack);
        struct error err = {0};
        assert_int_equal(sender_ack(sender, &ack, sizeof(ack), f->now, &err), 0);
    }
    struct spill_stat stat;
    spill_stat(f->spill, &stat);
    assert_true(stat.loaded > 1000);
    assert_int_equal(f->events[SPILL_LOST], 0);
    sender_free(sender);
    destroy(f);
}

// ---- Rungs ----

struct levels {
    enum unsafe_level level;
    unsigned rooms;
};

static void on_level(void *user, enum unsafe_level level)
{
    ((struct levels *)user)->level = level;
}

static void on_room(void *user)
{
    ((struct levels *)user)->rooms++;
}

// All files there are.
static uint64_t bytes_on_disk(struct fixture *f)
{
    uint64_t sum = 0, size = 0;
    for (uint32_t slot = 0; slot < fake_disk_slots(f->disk); slot++)
        sum += fake_disk_bytes(f->disk, slot, &size) ? size : 0;
    return sum;
}

// Quota half full, three quarters, full: only then the memory is full for good. What is released
// leads down again.
static void levels_of_the_quota(void **state)
{
    struct fixture *f = make(4 * MIB);
    struct levels levels = {0};
    struct unsafe_watch watch = {on_level, on_room, &levels};
    unsigned seen = 0;
    unsafe_watch(f->queue, &watch);
    while (number_many(f, 1)) {
        unsafe_reclaim(f->queue);
        assert_true(levels.level != UNSAFE_FULL);
        seen |= 1u << f->level;
    }
    unsafe_reclaim(f->queue);
    assert_int_equal(levels.level, UNSAFE_FULL);
    assert_false(spill_helps(f->spill));
    assert_true(bytes_on_disk(f) > 2 * MIB && bytes_on_disk(f) <= 4 * MIB);
    assert_int_equal(seen, 1u << UNSAFE_LOW | 1u << UNSAFE_HALF | 1u << UNSAFE_THREE_QUARTERS);
    assert_true(read_all(f));
    release(f, unsafe_numbered(f->queue) - 10);
    unsafe_reclaim(f->queue);
    assert_int_equal(levels.level, UNSAFE_LOW);
    assert_int_equal(f->level, UNSAFE_LOW);
    assert_int_equal(levels.rooms, 1);
    assert_true(read_all(f));
    destroy(f);
}

// Less than a segment: as if there were no disk.
static void no_quota_no_spill(void **state)
{
    struct fixture *f = make(spill_quota_min(PAYLOAD_MAX) - 1);
    assert_false(number_many(f, 3000));
    struct unsafe_stat stat;
    unsafe_stat(f->queue, &stat);
    assert_int_equal(stat.spilled_records, 0);
    assert_int_equal(stat.spill_limit_bytes, 0);
    assert_false(spill_helps(f->spill));
    assert_true(read_all(f));
    destroy(f);
}

// A job that takes too long is not waited for; when it ends the rung is there again.
static void a_stuck_disk_does_not_help(void **state)
{
    struct fixture *f = make(16 * MIB);
    struct levels levels = {0};
    struct unsafe_watch watch = {on_level, on_room, &levels};
    unsafe_watch(f->queue, &watch);
    assert_true(step(f));
    while (number(f))
        ;
    assert_true(begin(f));
    unsafe_reclaim(f->queue);
    assert_true(levels.level != UNSAFE_FULL);
    assert_true(spill_helps(f->spill));
    assert_int_equal(spill_deadline(f->spill), f->now + SPILL_STUCK_NS);
    f->now += SPILL_STUCK_NS;
    assert_false(spill_wants(f->spill, f->now));
    unsafe_reclaim(f->queue);
    assert_int_equal(levels.level, UNSAFE_FULL);
    // The reader is let go of. The memory that is being copied stays until it is.
    unsafe_detach(f->queue, 0);
    assert_false(number(f));
    spill_run(f->job);
    assert_true(number(f));
    finish(f);
    struct unsafe_stat stat;
    while (step(f))
        ;
    unsafe_stat(f->queue, &stat);
    assert_int_equal(stat.spilled_records, 0);
    unsafe_attach(f->queue, 0, unsafe_numbered(f->queue));
    assert_true(number_many(f, 2000));
    assert_true(read_all(f));
    destroy(f);
}

// Policy `map`: with the quota used up but for the reserve, what is held is brought to an end: all
// of it still comes, nothing behind it is kept, and the memory is the writers' again.
static void what_is_held_still_streams(void **state)
{
    struct fixture *f = make(8 * MIB);
    f->spill = spill_free(f->spill);
    f->config.reserve = true;
    f->spill = spill_new(f->queue, fake_disk_of(f->disk), &f->config);
    while (number_many(f, 1))
        ;
    unsafe_reclaim(f->queue);
    assert_false(spill_helps(f->spill));
    assert_true(spill_can_take_all(f->spill));
    uint64_t end = unsafe_numbered(f->queue);
    unsafe_end(f->queue, 0);
    assert_int_equal(unsafe_last(f->queue, 0), end);
    assert_true(number_many(f, 5000)); // as many as one likes
    while (step(f))
        ;
    assert_int_equal(unsafe_last(f->queue, 0), end);
    assert_true(unsafe_spilled(f->queue) >= end);
    struct unsafe_stat stat;
    unsafe_stat(f->queue, &stat);
    assert_int_equal(stat.records, end - START);
    assert_int_equal(stat.memory_bytes, 0);
    assert_true(read_all(f));
    release(f, end);
    unsafe_stat(f->queue, &stat);
    assert_int_equal(stat.records + stat.bytes, 0);
    unsafe_detach(f->queue, 0);
    unsafe_attach(f->queue, 0, unsafe_numbered(f->queue));
    assert_false(unsafe_ended(f->queue, 0));
    assert_true(number_many(f, 2000));
    assert_true(read_all(f));
    destroy(f);
}

// ---- Restart ----

static int copy_of(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    int copy = memfd_create("copy", MFD_CLOEXEC);
    assert_true(copy >= 0);
    assert_int_equal(ftruncate(copy, st.st_size), 0);
    static uint8_t block[65536];
    for (off_t at = 0; at < st.st_size; at += (off_t)sizeof(block)) {
        ssize_t n = pread(fd, block, sizeof(block), at);
        assert_true(n > 0);
        if (block[0] != 0 || memcmp(block, block + 1, (size_t)n - 1) != 0)
            assert_int_equal(pwrite(copy, block, (size_t)n, at), n);
    }
    return copy;
}

// What a successor finds when the process is killed at this instant.
static struct fixture *successor(const struct fixture *f)
{
    struct fixture *g = calloc(1, sizeof(*g));
    struct error err = {0};
    int fd = copy_of(unsafe_fd(f->queue));
    assert_int_equal(unsafe_open_fd(fd, &config, &g->queue, &err), 0);
    (void)close(fd);
    g->disk = fake_disk_copy(f->disk, 1);
    g->config = f->config;
    g->spill = spill_new(g->queue, fake_disk_of(g->disk), &g->config);
    g->now = f->now;
    return g;
}

static void goes_on(const struct fixture *f)
{
    struct fixture *g = successor(f);
    struct unsafe_stat before, after;
    assert_true(read_all(g));
    unsafe_stat(f->queue, &before);
    unsafe_stat(g->queue, &after);
    assert_int_equal(after.records, before.records);
    assert_int_equal(after.oldest_ns, before.oldest_ns);
    assert_true(number_many(g, 400));
    assert_true(read_all(g));
    // And its successor, too.
    struct fixture *h = successor(g);
    assert_true(read_all(h));
    release(h, unsafe_numbered(h->queue));
    assert_int_equal(fake_disk_slots(h->disk), 0);
    destroy(h);
    destroy(g);
}

// Killed before a job, in it and behind it, whatever the job is.
static void killed_at_each_step(void **state)
{
    struct fixture *f = make(16 * MIB);
    unsigned kinds = 0;
    for (unsigned i = 0; i < 60; i++) {
        for (unsigned n = 0; n < 60; n++)
            (void)number(f);
        if (i % 5 == 4)
            unsafe_release(f->queue, 0, unsafe_released(f->queue, 0) + 150);
        if (i % 3 == 0)
            (void)unsafe_table_run(f->queue, unsafe_released(f->queue, 0) + 1);
        if (!begin(f))
            continue;
        kinds++;
        goes_on(f);
        spill_run(f->job);
        goes_on(f);
        finish(f);
        goes_on(f);
    }
    assert_true(kinds > 20);
    assert_int_equal(f->events[SPILL_LOST], 0);
    destroy(f);
}

// Killed in the middle of a write: each prefix of what the job does to the disk. What was not
// counted as spilled lies in memory still.
static void killed_between_two_operations(void **state)
{
    struct fixture *f = make(16 * MIB);
    assert_true(number_many(f, 1000));
    while (number(f))
        ;
    assert_true(begin(f));
    for (unsigned after = 1; after < 12; after++) {
        struct fixture *g = successor(f);
        assert_true(step(g)); // finds what is there
        assert_true(begin(g));
        fake_disk_fail(g->disk, after, -EIO, true);
        spill_run(g->job);
        goes_on(f);
        struct fixture *h = successor(g);
        assert_true(read_all(h));
        destroy(h);
        finish(g);
        destroy(g);
    }
    spill_run(f->job);
    finish(f);
    destroy(f);
}

// Segments of another boot, another pair or another queue of the same are not this queue's.
static void foreign_segments_are_removed(void **state)
{
    struct fixture *f = make(16 * MIB);
    assert_true(number_many(f, 2000));
    assert_true(fake_disk_slots(f->disk) > 0);
    for (unsigned i = 0; i < 4; i++) {
        struct unsafe_config other = config;
        struct fixture *g = calloc(1, sizeof(*g));
        struct error err;
        other.boot += i == 0;
        other.pair += i == 1;
        other.epoch += i == 2;
        other.start += i == 3;
        assert_int_equal(unsafe_create(NULL, &other, &g->queue, &err), 0);
        g->disk = fake_disk_copy(f->disk, 1);
        g->config = f->config;
        g->spill = spill_new(g->queue, fake_disk_of(g->disk), &g->config);
        assert_true(step(g));
        assert_false(step(g));
        assert_int_equal(fake_disk_slots(g->disk), 0);
        assert_int_equal(g->events[SPILL_LOST], 0);
        destroy(g);
    }
    destroy(f);
}

// Nothing of it is there any more: said, and after the reader was let go of everything works again.
static void missing_segments_are_lost(void **state)
{
    struct fixture *f = make(16 * MIB);
    assert_true(number_many(f, 3000));
    uint32_t slots = fake_disk_slots(f->disk);
    for (uint32_t slot = 0; slot < slots; slot++) {
        uint64_t size;
        if (!fake_disk_bytes(f->disk, slot, &size))
            continue;
        struct fixture *g = successor(f);
        fake_disk_remove(g->disk, slot);
        assert_false(read_all(g));
        assert_int_equal(g->events[SPILL_LOST], 1);
        assert_non_null(strstr(g->text, "damaged or missing from seq"));
        unsafe_detach(g->queue, 0);
        while (step(g))
            ;
        assert_int_equal(fake_disk_slots(g->disk), 0);
        unsafe_attach(g->queue, 0, unsafe_numbered(g->queue));
        g->events[SPILL_LOST] = 0;
        assert_true(number_many(g, 2000));
        assert_true(read_all(g));
        destroy(g);
    }
    destroy(f);
}

// ---- A bad disk ----

// Every operation in turn is the first that fails, once or for good: nothing is lost, it is said
// once, and when the disk is well again the rung is, too.
static void a_failing_disk_loses_nothing(void **state)
{
    static const int errors[] = {-ENOSPC, -EIO};
    for (unsigned e = 0; e < 2; e++) {
        for (unsigned after = 1; after < 40; after += 3) {
            struct fixture *f = make(16 * MIB);
            fake_disk_fail(f->disk, after, errors[e], true);
            (void)number_many(f, 2000);
            unsafe_reclaim(f->queue);
            assert_true(read_all(f));
            assert_int_equal(f->events[SPILL_LOST], 0);
            assert_true(f->events[SPILL_FAILED] <= 1);
            assert_int_equal(f->events[SPILL_WORKS], 0);
            bool failed = f->events[SPILL_FAILED] == 1;
            if (failed) {
                assert_non_null(strstr(f->text, strerror(-errors[e])));
                assert_false(spill_helps(f->spill));
                f->now += SPILL_RETRY_NS;
                (void)number_many(f, 10);
                assert_int_equal(f->events[SPILL_FAILED], 1); // not said again
            }
            fake_disk_fail(f->disk, 0, 0, false);
            f->now += SPILL_RETRY_NS;
            assert_true(number_many(f, 1500));
            assert_int_equal(f->events[SPILL_WORKS], failed);
            assert_true(read_all(f));
            destroy(f);
        }
    }
}

// What is read back must not be believed before it was checked.
static void damage_is_found(void **state)
{
    struct fixture *f = make(16 * MIB);
    assert_true(number_many(f, 600));
    while (step(f))
        ;
    uint32_t slots = fake_disk_slots(f->disk);
    unsigned found = 0, harmless = 0;
    for (uint32_t slot = 0; slot < slots; slot++) {
        uint64_t size;
        if (!fake_disk_bytes(f->disk, slot, &size))
            continue;
        for (uint64_t at = 0; at < size; at += at < 8192 + 4096 ? 211 : 40009) {
            struct fixture *g = successor(f);
            fake_disk_bytes(g->disk, slot, &size)[at] ^= 0x10;
            bool whole = read_all(g); // asserts that all it reads is right
            assert_int_equal(g->events[SPILL_LOST], whole ? 0 : 1);
            found += !whole;
            harmless += whole;
            destroy(g);
        }
    }
    print_message("%u found, %u in unused bytes\n", found, harmless);
    assert_true(found > 20);
    destroy(f);
}

static void a_read_that_fails_is_a_loss(void **state)
{
    struct fixture *f = make(16 * MIB);
    assert_true(number_many(f, 2000));
    fake_disk_fail_reads(f->disk, -EIO);
    assert_false(read_all(f));
    assert_int_equal(f->events[SPILL_LOST], 1);
    assert_non_null(strstr(f->text, strerror(EIO)));
    assert_int_equal(unsafe_table_run(f->queue, START + 1), 0);
    destroy(f);
}

// ---- With threads ----

struct threads {
    struct fixture *f;
    pthread_mutex_t lock;
    _Atomic(struct spill_job *) job, done;
    _Atomic bool end, wrong;
};

static void *worker(void *arg)
{
    struct threads *t = arg;
    while (!t->end) {
        struct spill_job *job = atomic_exchange(&t->job, NULL);
        if (job) {
            spill_run(job);
            t->done = job;
        } else {
            (void)sched_yield();
        }
    }
    return NULL;
}

static void *reader(void *arg)
{
    struct threads *t = arg;
    for (uint64_t seq = START + 1; !t->end && !t->wrong;) {
        (void)pthread_mutex_lock(&t->lock);
        for (unsigned n = 0; n < 200 && seq <= unsafe_numbered(t->f->queue); n++) {
            if (unsafe_table_run(t->f->queue, seq) == 0)
                break;
            t->wrong |= !is_right(t->f, seq);
            unsafe_release(t->f->queue, 0, seq++);
        }
        (void)pthread_mutex_unlock(&t->lock);
        (void)sched_yield();
    }
    return NULL;
}

static void with_threads(void **state)
{
    struct threads t = {.f = make(16 * MIB), .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[2];
    assert_int_equal(pthread_create(&threads[0], NULL, worker, &t), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, reader, &t), 0);
    struct fixture *f = t.f;
    while (unsafe_released(f->queue, 0) < START + 20000 && !t.wrong) {
        if (unsafe_numbered(f->queue) < START + 20000)
            (void)number(f);
        struct spill_job *done = atomic_exchange(&t.done, NULL);
        if (done) {
            (void)pthread_mutex_lock(&t.lock);
            finish(f);
            (void)pthread_mutex_unlock(&t.lock);
        }
        if (!f->job && spill_wants(f->spill, f->now)) {
            (void)pthread_mutex_lock(&t.lock);
            f->job = spill_next(f->spill, f->now);
            (void)pthread_mutex_unlock(&t.lock);
            t.job = f->job;
        }
        unsafe_reclaim(f->queue);
    }
    while (f->job && !t.done)
        ;
    t.end = true;
    (void)pthread_join(threads[0], NULL);
    (void)pthread_join(threads[1], NULL);
    assert_false(t.wrong);
    if (f->job)
        finish(f);
    assert_int_equal(f->events[SPILL_LOST], 0);
    destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spills_and_drains_in_order),
        cmocka_unit_test(a_sender_does_not_notice),
        cmocka_unit_test(levels_of_the_quota),
        cmocka_unit_test(no_quota_no_spill),
        cmocka_unit_test(a_stuck_disk_does_not_help),
        cmocka_unit_test(what_is_held_still_streams),
        cmocka_unit_test(killed_at_each_step),
        cmocka_unit_test(killed_between_two_operations),
        cmocka_unit_test(foreign_segments_are_removed),
        cmocka_unit_test(missing_segments_are_lost),
        cmocka_unit_test(a_failing_disk_loses_nothing),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(a_read_that_fails_is_a_loss),
        cmocka_unit_test(with_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
