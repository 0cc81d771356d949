// SPDX-License-Identifier: Apache-2.0
// The unsafe queue: its ring against a model with several readers and half-received payloads; what
// a predecessor leaves behind, killed after each of its stores; damage is found.
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "queues/unsafe.h"
#include "queues/unsafe_file.h"

#define PAYLOAD_MAX 4096
#define RING        (UNSAFE_RING_MIN + 4 * (PAYLOAD_MAX + UNSAFE_RECEIVE_MAX))

static const struct unsafe_config config = {
    .pair = 7,
    .boot = 9,
    .epoch = 3,
    .start = 100,
    .bound = 1u << 30,
    .ring_bytes = RING,
    .payload_max = PAYLOAD_MAX,
};

static struct unsafe *make(void)
{
    struct unsafe *u;
    struct error err;
    assert_int_equal(unsafe_create(NULL, &config, &u, &err), 0);
    return u;
}

static struct unsafe_update write_update(uint64_t offset, uint32_t length)
{
    return (struct unsafe_update){.type = RECORD_WRITE, .offset = offset, .length = length};
}

static uint64_t make_chunk(struct unsafe *u, uint32_t size, int byte)
{
    size_t room;
    assert_non_null(unsafe_head(u, 1, &room));
    unsafe_skip(u, 28);
    uint64_t chunk = unsafe_keep(u, size);
    memset(unsafe_chunk_data(u, chunk), byte, size);
    return chunk;
}

static unsigned commit(struct unsafe *u, uint64_t offset, uint32_t size, int byte)
{
    unsigned slot;
    struct unsafe_update update = write_update(offset, size);
    assert_int_equal(unsafe_commit(u, &update, make_chunk(u, size, byte), &slot), 0);
    return slot;
}

static void assert_record(const struct unsafe *u, uint64_t seq, uint64_t offset, uint32_t size,
                          int byte)
{
    const struct record *record = unsafe_record(u, seq);
    const uint8_t *data = unsafe_payload(u, seq);
    assert_null(record_invalid(record));
    assert_int_equal(le64_get(record->seq), seq);
    assert_int_equal(le64_get(record->epoch), 3);
    assert_int_equal(le64_get(record->offset), offset);
    assert_int_equal(le32_get(record->payload), size);
    assert_true(record_payload_matches(record, data));
    assert_true(data[0] == byte && memcmp(data, data + 1, size - 1) == 0);
}

// ---- Numbering ----

static void test_number_in_any_order(void **state)
{
    struct unsafe *u = make();
    unsafe_attach(u, 0, 100);
    unsigned a = commit(u, 0, 512, 1), b = commit(u, 4096, 600, 2), c = commit(u, 8192, 700, 3);
    assert_int_equal(unsafe_number(u, b, 0, 55), 101);
    assert_int_equal(unsafe_number(u, c, -EIO, 56), 102);
    assert_int_equal(unsafe_number(u, a, 0, 57), 103);
    assert_record(u, 101, 4096, 600, 2);
    assert_record(u, 103, 0, 512, 1);
    assert_int_equal(unsafe_record(u, 102)->mark, MARK_UNDEFINED);
    assert_int_equal(le32_get(unsafe_record(u, 102)->length), 700);
    struct unsafe_stat stat;
    unsafe_stat(u, &stat);
    assert_int_equal(stat.records, 3);
    assert_int_equal(stat.oldest_ns, 55);
    unsafe_release(u, 0, 102);
    unsafe_stat(u, &stat);
    assert_int_equal(stat.records, 1);
    assert_true(stat.bytes > 0); // the oldest chunk is that of the newest record
    unsafe_release(u, 0, 103);
    unsafe_stat(u, &stat);
    assert_int_equal(stat.records + stat.bytes, 0);
    assert_true(unsafe_holds(u, 103));
    assert_false(unsafe_holds(u, 102));
    assert_false(unsafe_holds(u, 104));
    unsafe_free(u);
}

// Without a reader everything is released at once; the slowest of several decides.
static void test_readers(void **state)
{
    struct unsafe *u = make();
    struct unsafe_stat stat;
    unsafe_number(u, commit(u, 0, 512, 1), 0, 1);
    unsafe_stat(u, &stat);
    assert_int_equal(stat.records + stat.bytes, 0);
    unsafe_attach(u, 0, 101);
    unsafe_attach(u, 3, 101);
    unsafe_number(u, commit(u, 0, 512, 2), 0, 1);
    unsafe_number(u, commit(u, 0, 512, 3), 0, 1);
    unsafe_release(u, 0, 103);
    unsafe_release(u, 3, 102);
    unsafe_release(u, 3, 101); // ignored
    unsafe_stat(u, &stat);
    assert_int_equal(stat.records, 1);
    assert_record(u, 103, 0, 512, 3);
    assert_true(unsafe_holds(u, 102));
    unsafe_detach(u, 3);
    assert_false(unsafe_holds(u, 102));
    unsafe_free(u);
}

static void test_appended(void **state)
{
    struct unsafe *u = make();
    unsafe_attach(u, 0, 100);
    uint64_t seq;
    struct unsafe_update mark = {.type = RECORD_MARK, .mark = MARK_RESYNC_BEGIN, .object = 3};
    struct unsafe_update epoch = {.type = RECORD_EPOCH};
    assert_int_equal(unsafe_append(u, &mark, NULL, 0, 5, &seq), 0);
    assert_int_equal(seq, 101);
    assert_null(record_invalid(unsafe_record(u, 101)));
    assert_int_equal(unsafe_append(u, &epoch, "epoch", 5, 5, &seq), 0);
    assert_null(record_invalid(unsafe_record(u, 102)));
    assert_memory_equal(unsafe_payload(u, 102), "epoch", 5);
    struct unsafe_update check = {.type = RECORD_RESYNC, .offset = 4096, .length = 100};
    uint64_t chunk = make_chunk(u, 200, 9);
    assert_int_equal(unsafe_reserve(u), 0);
    unsafe_shrink(u, chunk, 100);
    assert_int_equal(unsafe_append_reserved(u, &check, chunk, 5), 103);
    assert_record(u, 103, 4096, 100, 9);
    unsafe_free(u);
}

// What a shrunk chunk does not need is free at once, unless something lies behind it.
static void test_shrunk(void **state)
{
    struct unsafe *u = make();
    struct unsafe_stat stat;
    struct unsafe_update check = {.type = RECORD_RESYNC, .offset = 4096, .length = 96};
    unsafe_attach(u, 0, 100);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t chunk = make_chunk(u, 4096, (uint8_t)(i + 1));
        assert_int_equal(unsafe_reserve(u), 0);
        unsafe_shrink(u, chunk, 96);
        assert_int_equal(unsafe_append_reserved(u, &check, chunk, 5), 101 + i);
        unsafe_stat(u, &stat);
        assert_true(stat.memory_bytes < 4096);
    }
    uint64_t older = make_chunk(u, 4096, 4), younger = make_chunk(u, 4096, 5);
    assert_int_equal(unsafe_reserve(u), 0);
    unsafe_shrink(u, older, 96);
    assert_int_equal(unsafe_append_reserved(u, &check, older, 5), 104);
    unsafe_stat(u, &stat);
    assert_true(stat.memory_bytes > 8192);
    unsafe_drop(u, younger);
    for (unsigned i = 0; i < 4; i++)
        assert_record(u, 101 + i, 4096, 96, (uint8_t)(i + 1));
    unsafe_free(u);
}

// Slots, table and bound run out with an error, and everything committed can still be numbered.
static void test_limits(void **state)
{
    struct unsafe *u = make();
    unsigned slot, count = 0;
    struct unsafe_update zero = {.type = RECORD_ZERO, .length = 512};
    unsafe_attach(u, 0, 100);
    int r;
    while ((r = unsafe_commit(u, &zero, UNSAFE_NO_CHUNK, &slot)) == 0)
        count++;
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(count, 1024 - UNSAFE_RESERVE);
    for (unsigned i = 0; i < count; i++)
        (void)unsafe_number(u, i, 0, 1); // slots are given from 0 up
    unsafe_release(u, 0, 100 + count);
    assert_int_equal(unsafe_commit(u, &zero, UNSAFE_NO_CHUNK, &slot), 0);
    unsafe_free(u);
}

// ---- The ring ----

struct level_log {
    enum unsafe_level level;
    unsigned calls, rooms;
};

static void on_level(void *user, enum unsafe_level level)
{
    struct level_log *log = user;
    log->level = level;
    log->calls++;
}

static void on_room(void *user)
{
    ((struct level_log *)user)->rooms++;
}

static void test_levels(void **state)
{
    struct unsafe *u = make();
    struct level_log log = {0};
    struct unsafe_watch watch = {on_level, on_room, &log};
    size_t room;
    unsafe_watch(u, &watch);
    unsafe_attach(u, 0, 100);
    unsigned seen = 0;
    while (unsafe_head(u, 1, &room)) {
        unsafe_number(u, commit(u, 0, PAYLOAD_MAX, 1), 0, 1);
        unsafe_reclaim(u);
        seen |= 1u << log.level;
    }
    assert_int_equal(seen, 7);
    unsafe_reclaim(u);
    assert_int_equal(log.level, UNSAFE_FULL);
    assert_int_equal(log.calls, 3);
    unsafe_release(u, 0, unsafe_numbered(u) - 2);
    unsafe_reclaim(u);
    assert_int_equal(log.level, UNSAFE_LOW);
    assert_int_equal(log.rooms, 1);
    unsafe_free(u);
}

// Full of what is in flight is not the same: nothing is announced as full, for no reader can help.
static void test_full_in_flight(void **state)
{
    struct unsafe *u = make();
    struct level_log log = {0};
    struct unsafe_watch watch = {on_level, on_room, &log};
    size_t room;
    unsigned slots[1024], count = 0;
    unsafe_watch(u, &watch);
    while (unsafe_head(u, 1, &room))
        slots[count++] = commit(u, 0, PAYLOAD_MAX, 1);
    unsafe_reclaim(u);
    assert_int_equal(log.level, UNSAFE_THREE_QUARTERS);
    for (unsigned i = 0; i < count; i++)
        unsafe_number(u, slots[i], 0, 1);
    unsafe_reclaim(u);
    assert_int_equal(log.level, UNSAFE_LOW);
    assert_int_equal(log.rooms, 1);
    unsafe_free(u);
}

static void test_alignment_and_laps(void **state)
{
    struct unsafe *u = make();
    size_t room;
    uint8_t *first = unsafe_head(u, 1, &room);
    assert_true(room >= UNSAFE_RECEIVE_MAX + PAYLOAD_MAX);
    unsafe_skip(u, 28);
    uint64_t chunk = unsafe_keep(u, 100);
    for (uint32_t align = 1; align <= 4096; align *= 2)
        assert_int_equal((uintptr_t)unsafe_head(u, align, &room) % align, 0);
    unsafe_drop(u, chunk);
    // An empty ring starts again where it began: a queue that keeps up touches little memory.
    assert_ptr_equal(unsafe_head(u, 4096, &room), first);
    unsafe_free(u);
}

static uint64_t rnd(uint64_t *random, uint64_t below)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random % below;
}

enum { SIZE_CONNECTIONS = 4, SIZE_FLIGHT = 48, SIZE_SEQS = 60000 };

struct ring_model {
    struct unsafe *u;
    uint64_t random;
    // A payload of which a part has arrived: the rest is received right behind, while others
    // receive further on.
    struct {
        uint64_t chunk;
        uint32_t size, have;
        int byte;
    } connection[SIZE_CONNECTIONS];
    struct {
        unsigned slot;
        uint64_t offset;
        uint32_t size;
        int byte;
    } flight[SIZE_FLIGHT];
    unsigned in_flight;
    struct {
        uint64_t offset;
        uint32_t size; // 0: a mark
        uint8_t byte;
    } written[SIZE_SEQS];
    uint64_t checked[2];
    unsigned laps_refused;
};

static void model_receive(struct ring_model *m)
{
    unsigned i = (unsigned)rnd(&m->random, SIZE_CONNECTIONS);
    size_t room;
    if (m->connection[i].chunk == UNSAFE_NO_CHUNK) {
        if (!unsafe_head(m->u, 1u << rnd(&m->random, 10), &room)) {
            m->laps_refused++;
            return;
        }
        unsafe_skip(m->u, 28);
        uint32_t size = 1 + (uint32_t)rnd(&m->random, PAYLOAD_MAX);
        m->connection[i].chunk = unsafe_keep(m->u, size);
        m->connection[i].size = size;
        m->connection[i].have = 0;
        m->connection[i].byte = 1 + (int)rnd(&m->random, 250);
    }
    if (rnd(&m->random, 30) == 0) { // the client vanishes
        unsafe_drop(m->u, m->connection[i].chunk);
        m->connection[i].chunk = UNSAFE_NO_CHUNK;
        return;
    }
    uint32_t left = m->connection[i].size - m->connection[i].have;
    uint32_t more = rnd(&m->random, 2) ? left : (uint32_t)rnd(&m->random, left + 1);
    memset(unsafe_chunk_data(m->u, m->connection[i].chunk) + m->connection[i].have,
           m->connection[i].byte, more);
    m->connection[i].have += more;
    if (m->connection[i].have < m->connection[i].size || m->in_flight == SIZE_FLIGHT)
        return;
    uint64_t offset = rnd(&m->random, 1u << 20);
    struct unsafe_update update = write_update(offset, m->connection[i].size);
    unsigned slot;
    if (unsafe_commit(m->u, &update, m->connection[i].chunk, &slot) < 0)
        return;
    m->flight[m->in_flight].slot = slot;
    m->flight[m->in_flight].offset = offset;
    m->flight[m->in_flight].size = m->connection[i].size;
    m->flight[m->in_flight++].byte = m->connection[i].byte;
    m->connection[i].chunk = UNSAFE_NO_CHUNK;
}

static void model_number(struct ring_model *m)
{
    if (m->in_flight == 0)
        return;
    unsigned i = (unsigned)rnd(&m->random, m->in_flight);
    int status = rnd(&m->random, 20) == 0 ? -EIO : 0;
    uint64_t seq = unsafe_number(m->u, m->flight[i].slot, status, 1);
    assert_true(seq < SIZE_SEQS);
    m->written[seq].offset = m->flight[i].offset;
    m->written[seq].size = status ? 0 : m->flight[i].size;
    m->written[seq].byte = (uint8_t)m->flight[i].byte;
    m->flight[i] = m->flight[--m->in_flight];
}

// A reader checks what it holds and lets go of a part of it.
static void model_read(struct ring_model *m)
{
    unsigned reader = (unsigned)rnd(&m->random, 2);
    uint64_t from = unsafe_released(m->u, reader), to = unsafe_numbered(m->u);
    if (rnd(&m->random, 30) != 0 || from == to)
        return;
    for (uint64_t seq = from + 1; seq <= to; seq++) {
        if (m->written[seq].size > 0)
            assert_record(m->u, seq, m->written[seq].offset, m->written[seq].size,
                          m->written[seq].byte);
        else
            assert_int_equal(unsafe_record(m->u, seq)->type, RECORD_MARK);
    }
    unsafe_release(m->u, reader, from + rnd(&m->random, to - from + 1));
}

static void test_ring_model(void **state)
{
    struct ring_model *m = calloc(1, sizeof(*m));
    m->u = make();
    m->random = 4711;
    unsafe_attach(m->u, 0, 100);
    unsafe_attach(m->u, 1, 100);
    for (unsigned i = 0; i < 60000; i++) {
        switch (rnd(&m->random, 8)) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
            model_receive(m);
            break;
        case 5:
        case 6:
            model_number(m);
            break;
        default:
            model_read(m);
        }
    }
    print_message("%u records, %u times full\n", (unsigned)unsafe_numbered(m->u), m->laps_refused);
    assert_true(unsafe_numbered(m->u) > 3000);
    assert_true(m->laps_refused > 0);
    unsafe_free(m->u);
    free(m);
}

// ---- A reader in a thread of its own ----

#define THREAD_SEQS 20000

static bool reads_well(const struct unsafe *u, uint64_t seq)
{
    const struct record *record = unsafe_record(u, seq);
    return !record_invalid(record) && le64_get(record->seq) == seq &&
           record_payload_matches(record, unsafe_payload(u, seq));
}

static void *reader_thread(void *arg)
{
    struct unsafe *u = arg;
    for (uint64_t seq = 101; seq <= 100 + THREAD_SEQS; seq++) {
        while (unsafe_numbered(u) < seq)
            (void)sched_yield();
        if (!reads_well(u, seq))
            return u;
        unsafe_release(u, 0, seq);
    }
    return NULL;
}

static void test_reader_thread(void **state)
{
    struct unsafe *u = make();
    pthread_t thread;
    void *failed;
    size_t room;
    unsafe_attach(u, 0, 100);
    assert_int_equal(pthread_create(&thread, NULL, reader_thread, u), 0);
    for (unsigned i = 0; i < THREAD_SEQS; i++) {
        while (!unsafe_head(u, 1, &room))
            (void)sched_yield();
        unsigned slot;
        struct unsafe_update update = write_update(i, 1 + i % 3000);
        uint64_t chunk = make_chunk(u, update.length, (int)(i % 256));
        while (unsafe_commit(u, &update, chunk, &slot) == -ENOSPC)
            (void)sched_yield();
        unsafe_number(u, slot, 0, 1);
    }
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    unsafe_free(u);
}

// ---- What is found ----

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

static int reopen(int fd, const struct unsafe_config *with, struct unsafe **ret_unsafe)
{
    struct error err = {0};
    int r = unsafe_open_fd(fd, with, ret_unsafe, &err);
    assert_true(r == 0 || err.text[0] != '\0');
    return r;
}

static void test_open_outcomes(void **state)
{
    struct unsafe *u = make(), *again;
    struct unsafe_config other_boot = config, other_pair = config;
    other_boot.boot = 10;
    other_pair.pair = 8;
    assert_int_equal(reopen(unsafe_fd(u), &other_boot, &again), -ESTALE);
    assert_int_equal(reopen(unsafe_fd(u), &other_pair, &again), -EUCLEAN);
    assert_int_equal(reopen(unsafe_fd(u), &config, &again), 0);
    assert_int_equal(unsafe_numbered(again), 100);
    unsafe_free(again);
    int fd = copy_of(unsafe_fd(u));
    assert_int_equal(ftruncate(fd, 8192), 0);
    assert_int_equal(reopen(fd, &config, &again), -EUCLEAN);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(reopen(fd, &config, &again), -ENOENT);
    close(fd);
    unsafe_free(u);
}

static void test_path(void **state)
{
    char path[64];
    struct unsafe *u;
    struct error err;
    (void)snprintf(path, sizeof(path), "/dev/shm/test_unsafe.%d", (int)getpid());
    assert_int_equal(unsafe_open(path, &config, &u, &err), -ENOENT);
    assert_int_equal(unsafe_create(path, &config, &u, &err), 0);
    unsafe_attach(u, 1, 100);
    unsafe_number(u, commit(u, 4096, 512, 77), 0, 1);
    unsafe_free(u);
    assert_int_equal(unsafe_open(path, &config, &u, &err), 0);
    assert_int_equal(unsafe_numbered(u), 101);
    assert_true(unsafe_attached(u, 1));
    assert_record(u, 101, 4096, 512, 77);
    unsafe_free(u);
    assert_int_equal(unsafe_create(path, &config, &u, &err), 0);
    assert_int_equal(unsafe_numbered(u), 100);
    unsafe_free(u);
    assert_int_equal(unlink(path), 0);
    struct unsafe_config small = config;
    small.ring_bytes = 4096;
    assert_int_equal(unsafe_create(path, &small, &u, &err), -EINVAL);
}

// ---- Damage of every byte ----
//
// A queue with released, held and pending updates is damaged in every way that is tried, and opened. It is refused, or
// what a successor gets of it is what the predecessor had: the same last seq, every held record as it was (or not held
// any more: its peer is then resynced by the map), every pending update, and nothing else.

struct damaged {
    struct unsafe_file file; // of the copy that is damaged
    int fd;
    uint8_t *image; // of the tables, and of the ring's start
    size_t image_bytes;
    unsigned refused, harmless;
};

#define RING_USED 4096

static const struct epoch opening = {
    .number = 2,
    .id = 3, // config.epoch
    .parents = 1,
    .parent = {{.id = 2, .seq = 100}},
    .first_seq = 101,
    .opened_by = EPOCH_BY_PRIMARY,
    .reason = EPOCH_ALONE,
};

static bool is_opening(const struct epoch *found)
{
    return found->number == opening.number && found->id == opening.id && found->parents == 1 &&
           found->parent[0].id == 2 && found->parent[0].seq == 100 && found->first_seq == 101 &&
           found->opened_by == opening.opened_by && found->reason == opening.reason;
}

static struct damaged damage_begin(void)
{
    struct unsafe *u = make();
    struct error err;
    uint8_t encoded[EPOCH_ENCODED_SIZE];
    epoch_encode(&opening, encoded);
    unsafe_keep_opening(u, encoded, sizeof(encoded));
    unsafe_attach(u, 0, 100);
    for (unsigned i = 0; i < 5; i++)
        unsafe_number(u, commit(u, i * 4096, 300, (int)i + 1), i == 3 ? -EIO : 0, 1);
    unsafe_release(u, 0, 102);
    (void)commit(u, 40960, 300, 9);
    (void)commit(u, 50000, 200, 10);
    struct damaged d = {.fd = copy_of(unsafe_fd(u))};
    unsafe_free(u);
    assert_int_equal(unsafe_file_map(dup(d.fd), &config, &d.file, &err), 0);
    d.image_bytes = d.file.base_bytes + RING_USED;
    d.image = malloc(d.image_bytes);
    assert_non_null(d.image);
    assert_int_equal(pread(d.fd, d.image, d.image_bytes, 0), d.image_bytes);
    return d;
}

static void damage_end(struct damaged *d)
{
    print_message("%u refused, %u harmless\n", d->refused, d->harmless);
    unsafe_file_unmap(&d->file);
    free(d->image);
    close(d->fd);
}

static void assert_same_content(struct unsafe *u, size_t at)
{
    struct unsafe_pending found;
    unsigned cursor = 0, pending = 0;
    if (unsafe_numbered(u) != 105 || unsafe_epoch(u) != 3 || unsafe_bound(u) > config.bound)
        fail_msg("byte %zu: it goes on at another position", at);
    struct epoch found_opening;
    if (unsafe_opening(u, &found_opening) && !is_opening(&found_opening))
        fail_msg("byte %zu: its epoch was opened otherwise", at);
    for (uint64_t seq = MAX(unsafe_released(u, 0), 102) + 1; seq <= 105; seq++) {
        if (seq == 104)
            assert_int_equal(unsafe_record(u, seq)->mark, MARK_UNDEFINED);
        else
            assert_record(u, seq, (seq - 101) * 4096, 300, (int)(seq - 100));
    }
    while (unsafe_pending(u, &cursor, &found)) {
        bool first = found.update.offset == 40960;
        const uint8_t *data = found.data;
        uint32_t length = first ? 300 : 200;
        assert_true(first || found.update.offset == 50000);
        assert_int_equal(found.update.length, length);
        assert_true(data[0] == (first ? 9 : 10) && memcmp(data, data + 1, length - 1) == 0);
        pending |= first ? 1 : 2;
    }
    if (pending != 3)
        fail_msg("byte %zu: a pending update is gone", at);
}

// Opens the damaged file and puts it right again.
static void damage_try(struct damaged *d, size_t at, size_t size)
{
    struct unsafe *again = NULL;
    struct error err = {0};
    int r = unsafe_open_fd(d->fd, &config, &again, &err);
    if (r == 0) {
        assert_same_content(again, at);
        d->harmless++;
    } else {
        assert_true(r == -EUCLEAN || r == -ENOENT);
        assert_true(err.text[0] != '\0');
        d->refused++;
    }
    unsafe_free(again);
    // An opening completes what a crash left half done: the state's page and the first slots.
    size_t settled = (size_t)((uint8_t *)d->file.slot - d->file.base) + 4096;
    assert_int_equal(pwrite(d->fd, d->image, settled, 0), settled);
    if (at + size > settled)
        assert_int_equal(pwrite(d->fd, d->image + at, size, (off_t)at), size);
}

static void damage_range(struct damaged *d, const void *from, size_t size)
{
    size_t first = (size_t)((const uint8_t *)from - d->file.base);
    for (size_t at = first; at < first + size; at++) {
        for (unsigned how = 0; how < 2; how++) {
            uint8_t byte = d->image[at] ^ (how ? 0xff : (uint8_t)(1U << at % 8));
            assert_int_equal(pwrite(d->fd, &byte, 1, (off_t)at), 1);
            damage_try(d, at, 1);
        }
    }
}

static void every_damaged_byte_is_harmless_or_refused(void **state)
{
    struct damaged d = damage_begin();
    damage_range(&d, d.file.super, sizeof(*d.file.super) + 8);
    damage_range(&d, d.file.state, sizeof(*d.file.state));
    for (unsigned i = 0; i < UNSAFE_SLOTS; i++) {
        if (atomic_load(&d.file.slot[i].state) != SLOT_EMPTY)
            damage_range(&d, &d.file.slot[i], sizeof(d.file.slot[i]));
    }
    damage_range(&d, &d.file.slot[UNSAFE_SLOTS / 2], sizeof(d.file.slot[0]));
    damage_range(&d, &d.file.record[100 % d.file.records], 8 * sizeof(struct record));
    damage_range(&d, &d.file.place[100 % d.file.records], 64);
    size_t ring = d.file.base_bytes;
    for (size_t at = ring; at < ring + 2400; at++) {
        uint8_t byte = d.image[at] ^ (uint8_t)(1U << at % 8);
        assert_int_equal(pwrite(d.fd, &byte, 1, (off_t)at), 1);
        damage_try(&d, at, 1);
    }
    assert_true(d.refused > 1500);
    damage_end(&d);
}

// What the next run may have of an epoch that no state knows: its opening, if it is that of the epoch in which it numbers.
static void the_opening_of_an_epoch_is_kept(void **state)
{
    struct unsafe *u = make();
    struct epoch found = {0};
    uint8_t encoded[EPOCH_ENCODED_SIZE];
    struct error err;
    assert_false(unsafe_opening(u, &found));
    epoch_encode(&opening, encoded);
    unsafe_keep_opening(u, encoded, sizeof(encoded));
    int fd = copy_of(unsafe_fd(u));
    unsafe_free(u);
    assert_int_equal(unsafe_open_fd(fd, &config, &u, &err), 0);
    assert_true(unsafe_opening(u, &found) && is_opening(&found));
    unsafe_set_epoch(u, 4);
    assert_false(unsafe_opening(u, &found));
    unsafe_set_epoch(u, 3);
    encoded[8] ^= 1;
    unsafe_keep_opening(u, encoded, sizeof(encoded) - 1); // nothing that could be one
    assert_true(unsafe_opening(u, &found) && is_opening(&found));
    unsafe_free(u);
    close(fd);
}

// A changed seq can name any record: each is tried, not only what one bit makes of it.
static void positions_cannot_be_moved(void **state)
{
    struct damaged d = damage_begin();
    size_t numbered = (size_t)((uint8_t *)&d.file.state->numbered - d.file.base);
    size_t slot = 0;
    for (unsigned i = 0; i < UNSAFE_SLOTS && !slot; i++) {
        if (atomic_load(&d.file.slot[i].state) != SLOT_EMPTY)
            slot = (size_t)((uint8_t *)&d.file.slot[i].seq - d.file.base);
    }
    for (uint64_t seq = 90; seq < 120; seq++) {
        assert_int_equal(pwrite(d.fd, &seq, sizeof(seq), (off_t)numbered), sizeof(seq));
        damage_try(&d, numbered, sizeof(seq));
        assert_int_equal(pwrite(d.fd, &seq, sizeof(seq), (off_t)slot), sizeof(seq));
        damage_try(&d, slot, sizeof(seq));
    }
    damage_end(&d);
}

static void every_lost_sector_is_harmless_or_refused(void **state)
{
    struct damaged d = damage_begin();
    static const uint8_t zeros[512];
    for (size_t at = 0; at + 512 <= d.image_bytes; at += 512) {
        if (memcmp(d.image + at, zeros, 512) == 0)
            continue;
        assert_int_equal(pwrite(d.fd, zeros, 512, (off_t)at), 512);
        damage_try(&d, at, 512);
    }
    assert_true(d.refused > 5);
    damage_end(&d);
}

static void a_file_of_another_length_is_refused(void **state)
{
    struct damaged d = damage_begin();
    struct unsafe *again;
    struct stat st;
    assert_int_equal(fstat(d.fd, &st), 0);
    unsafe_file_unmap(&d.file); // what is mapped must not be cut
    for (off_t size = 0; size < st.st_size + 8192; size += size < 1024 ? 1 : 4093) {
        if (size == st.st_size)
            continue;
        struct error err = {0};
        assert_int_equal(ftruncate(d.fd, size), 0);
        int r = unsafe_open_fd(d.fd, &config, &again, &err);
        assert_true(r == -EUCLEAN || (r == -ENOENT && size < (off_t)sizeof(struct unsafe_super)));
        assert_int_equal(ftruncate(d.fd, st.st_size), 0);
        assert_int_equal(pwrite(d.fd, d.image, d.image_bytes, 0), d.image_bytes);
    }
    damage_end(&d);
}

// ---- Killed after each store ----

#define UPDATES_OF_CHILD 6

// What the child has begun and finished: shared with the judge.
struct progress {
    volatile int commit_begun[UPDATES_OF_CHILD], commit_done[UPDATES_OF_CHILD];
    volatile int number_begun[UPDATES_OF_CHILD], number_done[UPDATES_OF_CHILD];
    volatile uint64_t seq[UPDATES_OF_CHILD];
    volatile int appended;
};

static void child_commit(struct unsafe *u, struct progress *p, unsigned *slots, unsigned i)
{
    p->commit_begun[i] = 1;
    slots[i] = commit(u, i * 4096, 64 + i, 10 + (int)i);
    p->commit_done[i] = 1;
}

static void child_number(struct unsafe *u, struct progress *p, const unsigned *slots, unsigned i)
{
    p->number_begun[i] = 1;
    p->seq[i] = unsafe_number(u, slots[i], i == 2 ? -EIO : 0, 5);
    p->number_done[i] = 1;
}

static void child_runs(struct unsafe *u, struct progress *p)
{
    unsigned slots[UPDATES_OF_CHILD];
    uint64_t seq;
    struct unsafe_update mark = {.type = RECORD_MARK, .mark = MARK_IDLE};
    struct unsafe_update epoch = {.type = RECORD_EPOCH};
    unsafe_attach(u, 0, 100);
    for (unsigned i = 0; i < 4; i++)
        child_commit(u, p, slots, i);
    child_number(u, p, slots, 1);
    child_number(u, p, slots, 2);
    (void)unsafe_append(u, &mark, NULL, 0, 5, &seq);
    child_commit(u, p, slots, 4);
    unsafe_release(u, 0, 101);
    child_number(u, p, slots, 0);
    (void)unsafe_append(u, &epoch, "epoch", 5, 5, &seq);
    child_commit(u, p, slots, 5);
    child_number(u, p, slots, 3);
    unsafe_release(u, 0, unsafe_numbered(u));
    child_number(u, p, slots, 5);
    p->appended = 1;
}

// The judge: whatever the instant, each update is pending exactly once or numbered exactly once.
static void judge(int fd, const struct progress *p)
{
    struct unsafe *u;
    struct error err = {0};
    int copy = copy_of(fd);
    if (unsafe_open_fd(copy, &config, &u, &err) < 0)
        fail_msg("%s", err.text);
    close(copy);
    unsigned pending[UPDATES_OF_CHILD] = {0}, numbered[UPDATES_OF_CHILD] = {0}, cursor = 0;
    struct unsafe_pending found;
    while (unsafe_pending(u, &cursor, &found)) {
        uint64_t i = found.update.offset / 4096;
        assert_true(i < UPDATES_OF_CHILD && p->commit_begun[i]);
        assert_int_equal(found.update.length, 64 + i);
        const uint8_t *data = found.data;
        assert_true(data[0] == 10 + i && memcmp(data, data + 1, 63 + i) == 0);
        pending[i]++;
    }
    uint64_t from = unsafe_attached(u, 0) ? unsafe_released(u, 0) : unsafe_numbered(u);
    for (uint64_t seq = from + 1; seq <= unsafe_numbered(u); seq++) {
        const struct record *record = unsafe_record(u, seq);
        uint64_t i = le64_get(record->offset) / 4096;
        if (record->type == RECORD_WRITE)
            assert_record(u, seq, i * 4096, (uint32_t)(64 + i), (int)(10 + i));
        if (record->type == RECORD_WRITE || record->mark == MARK_UNDEFINED)
            numbered[i]++;
    }
    for (unsigned i = 0; i < UPDATES_OF_CHILD; i++) {
        bool released = p->number_done[i] && p->seq[i] <= from;
        unsigned both = pending[i] + numbered[i];
        assert_true(both <= 1);
        if (p->number_done[i])
            assert_int_equal(pending[i], 0);
        if (p->number_done[i] && !released)
            assert_int_equal(numbered[i], 1);
        if (p->commit_done[i] && !p->number_begun[i])
            assert_int_equal(pending[i], 1);
        if (p->commit_done[i] && !p->number_done[i])
            assert_int_equal(both, 1);
        if (!p->commit_done[i])
            assert_int_equal(numbered[i], 0);
    }
    // The successor can go on, and its own successor sees the same.
    cursor = 0;
    while (unsafe_pending(u, &cursor, &found))
        (void)unsafe_number(u, found.slot, 0, 6);
    unsafe_number(u, commit(u, 1 << 20, 100, 99), 0, 7);
    unsafe_free(u);
}

// What the child changes in these few pages; the ring's and tables' first ones are all that it
// reaches.
struct watched {
    const uint8_t *at[4];
    size_t size[4];
    uint8_t *last;
};

static bool has_changed(struct watched *w)
{
    bool changed = false;
    size_t at = 0;
    for (unsigned i = 0; i < 4; i++) {
        if (memcmp(w->last + at, w->at[i], w->size[i]) != 0) {
            memcpy(w->last + at, w->at[i], w->size[i]);
            changed = true;
        }
        at += w->size[i];
    }
    return changed;
}

static bool step(pid_t child, int *status)
{
    if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) < 0)
        return false;
    assert_int_equal(waitpid(child, status, 0), child);
    return WIFSTOPPED(*status) && WSTOPSIG(*status) == SIGTRAP;
}

static void test_killed_after_each_store(void **state)
{
    struct unsafe *u = make();
    struct progress *p =
        mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(77);
        (void)raise(SIGSTOP);
        child_runs(u, p);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    struct unsafe_file file;
    struct error err;
    assert_int_equal(unsafe_file_map(dup(unsafe_fd(u)), &config, &file, &err), 0);
    struct watched w = {
        .at = {(uint8_t *)file.state, (uint8_t *)file.slot,
               (uint8_t *)&file.record[101 % file.records], (uint8_t *)&file.place[101]},
        .size = {sizeof(*file.state), 8 * sizeof(struct unsafe_slot), 8 * sizeof(struct record),
                 64},
    };
    w.last = calloc(1, 65536);
    (void)has_changed(&w);
    unsigned instants = 0;
    while (step(child, &status)) {
        if (has_changed(&w)) {
            judge(unsafe_fd(u), p);
            instants++;
        }
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(p->appended);
    print_message("%u instants\n", instants);
    assert_true(instants > 50);
    judge(unsafe_fd(u), p);
    free(w.last);
    unsafe_file_unmap(&file);
    (void)munmap(p, sizeof(*p));
    unsafe_free(u);
}

static void assert_damaged(int fd, const char *rule)
{
    struct unsafe *u;
    struct error err = {0};
    assert_int_equal(unsafe_open_fd(fd, &config, &u, &err), -EUCLEAN);
    if (!strstr(err.text, rule))
        fail_msg("expected '%s', got '%s'", rule, err.text);
}

// What a right checksum says nothing about.
static void test_sealed_nonsense(void **state)
{
    struct unsafe *u = make();
    struct unsafe_file file;
    struct error err;
    (void)commit(u, 8192, 300, 3);
    int fd = copy_of(unsafe_fd(u));
    assert_int_equal(unsafe_file_map(dup(fd), &config, &file, &err), 0);

    struct unsafe_slot *slot = &file.slot[0];
    while (atomic_load(&slot->state) == SLOT_EMPTY)
        slot++;
    slot->flags = RECORD_NO_HOLE; // of a write
    slot->sum = unsafe_slot_sum(slot);
    assert_damaged(fd, "an unknown flag");
    slot->flags = 0;
    slot->sum = unsafe_slot_sum(slot);

    uint64_t bound = file.state->bound;
    file.state->bound = UINT64_MAX;
    file.state->bound_not = 0;
    assert_damaged(fd, "impossible bound");
    file.state->bound = bound;
    file.state->bound_not = ~bound;

    file.super->payload_max *= 2; // payloads that reach past the second mapping of the ring
    file.super->sum = checksum64(file.super, offsetof(struct unsafe_super, sum));
    assert_damaged(fd, "too small for its payloads");
    unsafe_file_unmap(&file);
    close(fd);
    unsafe_free(u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_number_in_any_order),
        cmocka_unit_test(test_readers),
        cmocka_unit_test(test_appended),
        cmocka_unit_test(test_shrunk),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_full_in_flight),
        cmocka_unit_test(test_alignment_and_laps),
        cmocka_unit_test(test_ring_model),
        cmocka_unit_test(test_reader_thread),
        cmocka_unit_test(test_open_outcomes),
        cmocka_unit_test(test_path),
        cmocka_unit_test(every_damaged_byte_is_harmless_or_refused),
        cmocka_unit_test(the_opening_of_an_epoch_is_kept),
        cmocka_unit_test(positions_cannot_be_moved),
        cmocka_unit_test(every_lost_sector_is_harmless_or_refused),
        cmocka_unit_test(a_file_of_another_length_is_refused),
        cmocka_unit_test(test_sealed_nonsense),
        cmocka_unit_test(test_killed_after_each_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
