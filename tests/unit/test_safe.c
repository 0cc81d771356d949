// SPDX-License-Identifier: Apache-2.0
// queues/safe: what was synced is held after a crash at any operation of the disk, nothing else is
// ever taken for it, and damage is told apart from a torn tail.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "fake_disk.h"
#include "passive_help.h"
#include "queues/safe.h"
#include "queues/safe_scan.h"

#define PAIR     UINT64_C(0x1234)
#define SEGMENT  (16U * 1024)
#define SEQS_MAX 4000

// What was appended last at each seq: the content of a record depends on it.
static unsigned incarnation[SEQS_MAX];
static uint64_t opening; // each has another salt

static uint32_t length_of(uint64_t seq)
{
    return 40 + (uint32_t)(seq * 37 % 300);
}

static uint8_t byte_of(uint64_t seq, size_t at)
{
    return (uint8_t)(seq * 7 + at + incarnation[seq] * 101);
}

static void fill(void *arg, uint64_t seq, struct record *r, uint8_t *payload, size_t limit)
{
    uint32_t length = length_of(seq);

    r->type = RECORD_WRITE;
    r->offset = le64_make(seq * 512);
    r->length = r->payload = le32_make(length);
    for (uint32_t i = 0; i < length; i++)
        payload[i] = byte_of(seq, i);
}

static int append(struct safe *safe, uint64_t first, uint32_t count, uint64_t promised)
{
    struct message_spec spec = {.first_seq = first,
                                .count = count,
                                .promised = promised,
                                .epoch = 500 + first / 10,
                                .fill = fill};
    size_t size;
    CLEANUP_FREE void *message = message_make(&spec, &size);
    return safe_append(safe, message, size, NULL);
}

static void note_status(void *arg, int status)
{
    *(int *)arg = status;
}

static int sync_now(struct safe *safe, struct fake_disk *disk)
{
    int status = 1;
    safe_sync(safe, note_status, &status);
    assert_true(safe_syncing(safe));
    while (fake_disk_complete(disk))
        ;
    assert_false(safe_syncing(safe));
    assert_int_not_equal(status, 1);
    return status;
}

struct seen {
    uint64_t next;
    bool right;
};

static bool record_right(const struct record *r, const uint8_t *payload)
{
    uint64_t seq = le64_get(r->seq);
    if (le32_get(r->payload) != length_of(seq))
        return false;
    for (uint32_t i = 0; i < length_of(seq); i++)
        if (payload[i] != byte_of(seq, i))
            return false;
    return true;
}

static void see(void *arg, const struct record *r, const void *payload)
{
    struct seen *seen = arg;
    if (seen->next && le64_get(r->seq) != seen->next)
        seen->right = false;
    seen->next = le64_get(r->seq) + 1;
    seen->right = seen->right && record_right(r, payload);
}

static struct seen seen;

static struct safe_config config_for(struct fake_disk *disk)
{
    seen = (struct seen){0, true};
    return (struct safe_config){.disk = fake_disk_of(disk),
                                .pair = PAIR,
                                .salt = 0x9999 + ++opening,
                                .segment_size = SEGMENT,
                                .limit = 6 * SEGMENT,
                                .seen = see,
                                .arg = &seen};
}

static struct safe *open_safe(struct fake_disk *disk, struct safe_recovery *recovery)
{
    struct safe_config config = config_for(disk);
    struct safe *safe = NULL;
    struct error err = {0};
    int rc = safe_open(&config, &safe, recovery, &err);
    if (rc < 0)
        fail_msg("open: %s", err.text);
    assert_true(seen.right);
    assert_true(!seen.next || seen.next == recovery->last + 1);
    return safe;
}

// Reads everything from `seq` on through a cursor.
static void read_all(struct safe *safe, uint64_t seq)
{
    struct safe_stats stats;
    struct safe_cursor cursor;
    struct error err = {0};

    safe_stats(safe, &stats);
    assert_int_equal(safe_seek(safe, seq, &cursor, NULL), 0);
    while (seq <= stats.last) {
        CLEANUP_FREE void *message = NULL;
        size_t size;
        int rc = safe_read(safe, &cursor, &message, &size, &err);
        if (rc < 0)
            fail_msg("read of %u: %s", (unsigned)seq, err.text);
        const struct batch *b = message;
        const struct record *r = (const struct record *)(b + 1);
        const uint8_t *payload = (const uint8_t *)(r + le32_get(b->count));
        for (uint32_t i = 0; i < le32_get(b->count); i++) {
            if (le64_get(r[i].seq) == seq && seq < cursor.seq) {
                assert_true(record_right(&r[i], payload));
                seq++;
            }
            payload += le32_get(r[i].payload);
        }
        assert_int_equal(seq, cursor.seq);
    }
    void *message;
    size_t size;
    assert_int_equal(safe_read(safe, &cursor, &message, &size, NULL), -ENODATA);
}

static struct safe *started(struct fake_disk *disk, uint64_t seq)
{
    struct safe_recovery recovery;
    struct safe *safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_EMPTY);
    assert_int_equal(append(safe, 1, 1, 0), -EINVAL);
    assert_int_equal(safe_restart(safe, 77, seq, NULL), 0);
    return safe;
}

static void every_set_of_facts_meets_one_row(void **state)
{
    unsigned met[64] = {0};

    for (unsigned facts = 0; facts < 1U << FACTS; facts++) {
        unsigned row;
        assert_int_equal(scan_rows_matching(facts), 1);
        (void)scan_decide(facts, &row);
        met[row]++;
        // Whatever had been confirmed and is gone is damage, never a torn tail.
        if (facts & 1U << FACT_PROVEN)
            assert_true(scan_decide(facts, NULL) == DECIDE_DAMAGED ||
                        scan_decide(facts, NULL) == DECIDE_IMPOSSIBLE);
    }
    for (unsigned row = 0; row < 20; row++)
        assert_true(met[row] > 0);
}

static void what_was_appended_is_held_and_read(void **state)
{
    struct fake_disk *disk = fake_disk_new(1 << 20, 1);
    struct safe_recovery recovery;
    struct safe_stats stats;
    struct safe *safe = started(disk, 10);

    for (uint64_t seq = 10; seq < 60; seq += 2) {
        // Every other batch begins with what is there already.
        uint64_t from = seq > 10 && seq % 4 == 0 ? seq - 1 : seq;
        assert_int_equal(append(safe, from, (uint32_t)(seq + 2 - from), 0), 0);
    }
    read_all(safe, 10);
    read_all(safe, 33);
    read_all(safe, 60);
    assert_int_equal(sync_now(safe, disk), 0);
    safe_stats(safe, &stats);
    assert_int_equal(stats.first, 10);
    assert_int_equal(stats.last, 59);
    assert_int_equal(stats.epoch, 500 + 5);
    safe_free(safe);
    fake_disk_crash(disk);
    safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    assert_int_equal(recovery.first, 10);
    assert_int_equal(recovery.last, 59);
    read_all(safe, 10);
    safe_stats(safe, &stats);
    assert_int_equal(stats.epoch, 500 + 5);
    assert_int_equal(append(safe, 58, 5, 0), 0);
    read_all(safe, 57);
    safe_free(safe);
    fake_disk_free(disk);
}

static void an_empty_queue_keeps_its_position(void **state)
{
    struct fake_disk *disk = fake_disk_new(1 << 20, 1);
    struct safe_recovery recovery;
    struct safe_stats stats;
    struct safe *safe = started(disk, 100);

    safe_free(safe);
    fake_disk_crash(disk);
    safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    assert_int_equal(recovery.first, 100);
    assert_int_equal(recovery.last, 99);
    safe_stats(safe, &stats);
    assert_int_equal(stats.epoch, 77);
    safe_free(safe);
    fake_disk_free(disk);
}

// Two segments with some entries each; everything up to `confirmed` is promised by the last one.
static struct fake_disk *two_segments(uint64_t *ret_last, uint64_t *ret_confirmed)
{
    struct fake_disk *disk = fake_disk_new(1 << 20, 3);
    struct safe *safe = started(disk, 1);
    struct safe_stats stats;
    uint64_t seq = 1;

    do {
        assert_int_equal(append(safe, seq, 2, seq - 1), 0);
        seq += 2;
        safe_stats(safe, &stats);
    } while (stats.segments_used < 3);
    *ret_confirmed = seq - 3;
    *ret_last = seq - 1;
    assert_int_equal(sync_now(safe, disk), 0);
    safe_free(safe);
    fake_disk_kill(disk);
    return disk;
}

static void every_damaged_byte_is_harmless_or_found(void **state)
{
    uint64_t last;
    uint64_t confirmed;
    unsigned found = 0;
    struct fake_disk *disk = two_segments(&last, &confirmed);

    for (uint32_t slot = 0; slot < fake_disk_slots(disk); slot++) {
        for (uint64_t at = 0; at < SEGMENT; at++) {
            struct safe_recovery recovery;
            uint8_t *bytes = fake_disk_bytes(disk, slot, NULL);
            if (at > 128 && at < SAFE_ENTRIES_START && at % 4096 > 128)
                continue;
            bytes[at] ^= (uint8_t)(1U << at % 8);
            struct safe *safe = open_safe(disk, &recovery);
            if (recovery.last < confirmed) {
                assert_int_equal(recovery.verdict, SAFE_DAMAGED);
                assert_int_equal(recovery.at_seq, recovery.last + 1);
                assert_int_equal(append(safe, recovery.last + 1, 1, 0), -EUCLEAN);
                found++;
            } else if (recovery.last < last) {
                assert_true(recovery.verdict == SAFE_TORN || recovery.verdict == SAFE_CLEAN);
            } else {
                assert_int_equal(recovery.verdict, SAFE_CLEAN);
            }
            read_all(safe, recovery.first);
            safe_free(safe);
            fake_disk_kill(disk);
            bytes[at] ^= (uint8_t)(1U << at % 8);
        }
    }
    assert_true(found > SEGMENT / 4);
    fake_disk_free(disk);
}

// Opens the damaged queue. What is held is a prefix of what was there; where it ends before what had been confirmed, that
// is said, unless nothing that is left proves it (`unproven`: the meeting with the active end does).
static void judge_damaged(struct fake_disk *disk, uint64_t last, uint64_t confirmed, bool unproven)
{
    struct safe_recovery recovery;
    struct safe *safe = open_safe(disk, &recovery);
    assert_true(recovery.last <= last);
    if (recovery.last < confirmed && !unproven)
        assert_int_equal(recovery.verdict, SAFE_DAMAGED);
    if (recovery.verdict != SAFE_EMPTY)
        read_all(safe, recovery.first);
    safe_free(safe);
    fake_disk_kill(disk);
}

// The very last record had been confirmed, and nothing is behind it that could say so: the end's own state does.
static void damage_of_the_last_confirmed_record_is_found(void **state)
{
    for (uint64_t confirmed = 2; confirmed <= 3; confirmed++) {
        struct fake_disk *disk = fake_disk_new(1 << 20, 5);
        struct safe *safe = started(disk, 1);
        struct safe_recovery recovery;
        for (uint64_t seq = 1; seq <= 3; seq++)
            assert_int_equal(append(safe, seq, 1, 0), 0);
        assert_int_equal(sync_now(safe, disk), 0);
        safe_free(safe);
        fake_disk_kill(disk);
        uint8_t *bytes = fake_disk_bytes(disk, fake_disk_slots(disk) - 1, NULL), *last = bytes + SEGMENT - 1;
        while (last > bytes + SAFE_ENTRIES_START && !*last)
            last--;
        *last ^= 1;
        struct safe_config config = config_for(disk);
        config.confirmed = confirmed;
        assert_int_equal(safe_open(&config, &safe, &recovery, NULL), 0);
        assert_int_equal(recovery.last, 2);
        assert_int_equal(recovery.verdict == SAFE_DAMAGED, confirmed == 3);
        safe_free(safe);
        fake_disk_free(disk);
    }
}

static void every_lost_sector_is_harmless_or_found(void **state)
{
    uint64_t last, confirmed;
    struct fake_disk *disk = two_segments(&last, &confirmed);
    for (uint32_t slot = 0; slot < fake_disk_slots(disk); slot++) {
        for (uint64_t at = 0; at < SEGMENT; at += 512) {
            uint8_t was[512];
            uint8_t *bytes = fake_disk_bytes(disk, slot, NULL);
            memcpy(was, bytes + at, sizeof(was));
            memset(bytes + at, 0, sizeof(was));
            judge_damaged(disk, last, confirmed, false);
            memcpy(bytes + at, was, sizeof(was));
        }
    }
    fake_disk_free(disk);
}

// A file that is cut, at each length: everything from there on reads as nothing.
static void every_cut_file_is_harmless_or_found(void **state)
{
    uint64_t last, confirmed;
    struct fake_disk *disk = two_segments(&last, &confirmed);
    for (uint32_t slot = 0; slot < fake_disk_slots(disk); slot++) {
        // Each length within a header and the first entry's; elsewhere one in 61.
        for (uint64_t size = 0; size < SEGMENT; size += size % 4096 < 128 && size < 8300 ? 1 : 61) {
            struct fake_disk *copy = fake_disk_copy(disk, 9);
            fake_disk_cut(copy, slot, size);
            // Nothing that came after the newest segment's own entries could say that they are missing.
            bool newest = slot + 1 == fake_disk_slots(disk);
            judge_damaged(copy, last, confirmed, newest);
            fake_disk_free(copy);
        }
    }
    fake_disk_free(disk);
}

static void damage_ends_with_a_restart(void **state)
{
    uint64_t last;
    uint64_t confirmed;
    struct fake_disk *disk = two_segments(&last, &confirmed);
    struct safe_recovery recovery;

    memset(fake_disk_bytes(disk, 1, NULL), 0x5a, SAFE_ENTRIES_START);
    struct safe *safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_DAMAGED);
    assert_int_equal(safe_failure(safe), -EUCLEAN);
    assert_int_equal(safe_restart(safe, 9, 1000, NULL), 0);
    assert_int_equal(append(safe, 1000, 3, 0), 0);
    assert_int_equal(sync_now(safe, disk), 0);
    safe_free(safe);
    fake_disk_crash(disk);
    safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    assert_int_equal(recovery.first, 1000);
    assert_int_equal(recovery.last, 1002);
    safe_free(safe);
    fake_disk_free(disk);
}

static void a_missing_segment_is_damage(void **state)
{
    uint64_t last;
    uint64_t confirmed;
    struct fake_disk *disk = two_segments(&last, &confirmed);

    for (uint32_t slot = 0; slot < fake_disk_slots(disk); slot++) {
        struct fake_disk *copy = fake_disk_copy(disk, 1);
        struct safe_config config = config_for(copy);
        struct safe_recovery recovery;
        struct safe *safe;
        fake_disk_remove(copy, slot);
        config.confirmed = last;
        assert_int_equal(safe_open(&config, &safe, &recovery, NULL), 0);
        assert_int_equal(recovery.verdict, SAFE_DAMAGED);
        safe_free(safe);
        fake_disk_free(copy);
    }
    fake_disk_free(disk);
}

static void another_pairs_queue_is_refused(void **state)
{
    uint64_t last;
    uint64_t confirmed;
    struct fake_disk *disk = two_segments(&last, &confirmed);
    struct safe_config config = config_for(disk);
    struct safe_recovery recovery;
    struct safe *safe = NULL;
    struct error err = {0};

    config.pair++;
    assert_int_equal(safe_open(&config, &safe, &recovery, &err), -EINVAL);
    assert_null(safe);
    assert_non_null(strstr(err.text, "another pair"));
    config.limit = SEGMENT;
    assert_int_equal(safe_open(&config, &safe, &recovery, &err), -EINVAL);
    fake_disk_free(disk);
}

// A queue of one segment with no entries, whose header says this number.
static struct fake_disk *numbered(uint64_t number)
{
    struct fake_disk *disk = fake_disk_new(1 << 20, 1);
    struct safe_recovery recovery;
    struct safe *safe = open_safe(disk, &recovery);
    assert_int_equal(safe_restart(safe, 5, 1, NULL), 0);
    safe_free(safe);
    fake_disk_kill(disk);
    for (unsigned i = 0; i < 2; i++) {
        struct safe_header *h =
            (struct safe_header *)(fake_disk_bytes(disk, 0, NULL) + i * SAFE_HEADER_STEP);
        h->number = h->floor = le64_make(number);
        h->header_sum = le32_make(0);
        h->header_sum = le32_make(checksum32(h, sizeof(*h)));
    }
    return disk;
}

// One that is never given is not believed, whatever its checksum.
static void a_header_with_an_impossible_number_is_damage(void **state)
{
    struct fake_disk *disk = numbered(SAFE_NUMBER_MAX + 1);
    struct safe_recovery recovery;
    struct safe *safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_DAMAGED);
    safe_free(safe);
    fake_disk_free(disk);
}

// The largest one is believed, and nothing can be written behind it.
static void used_up_numbers_are_an_error(void **state)
{
    struct fake_disk *disk = numbered(SAFE_NUMBER_MAX);
    struct safe_recovery recovery;
    struct error err = {0};
    struct safe *safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    assert_int_equal(append(safe, 1, 1, 0), -EOVERFLOW);
    safe_free(safe);
    safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    assert_int_equal(safe_restart(safe, 5, 1000, &err), -EOVERFLOW);
    assert_true(err.text[0]);
    safe_free(safe);
    safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    safe_free(safe);
    fake_disk_free(disk);
}

// An unconfirmed last entry of several sectors, of which only what stands before some cut has
// reached the disk.
static void a_torn_tail_is_cut_at_every_sector(void **state)
{
    for (unsigned cut = 0; cut <= SEGMENT / 512; cut++) {
        struct fake_disk *disk = fake_disk_new(1 << 20, 3);
        struct safe_recovery recovery;
        struct safe *safe = started(disk, 1);
        assert_int_equal(append(safe, 1, 5, 0), 0);
        assert_int_equal(sync_now(safe, disk), 0);
        struct fake_disk *old = fake_disk_copy(disk, 1);
        assert_int_equal(append(safe, 6, 12, 5), 0);
        safe_free(safe);
        fake_disk_kill(disk);
        memcpy(fake_disk_bytes(disk, 0, NULL) + cut * 512,
               fake_disk_bytes(old, 0, NULL) + cut * 512, SEGMENT - cut * 512);
        safe = open_safe(disk, &recovery);
        assert_true(recovery.verdict == SAFE_TORN || recovery.verdict == SAFE_CLEAN);
        assert_true(recovery.last == 5 || recovery.last == 17);
        // It goes on from there, and the rest of the torn one never comes back.
        uint64_t next = recovery.last + 1;
        incarnation[next]++;
        assert_int_equal(append(safe, next, 1, 5), 0);
        safe_free(safe);
        fake_disk_kill(disk);
        safe = open_safe(disk, &recovery);
        assert_int_equal(recovery.verdict, SAFE_CLEAN);
        assert_int_equal(recovery.last, next);
        safe_free(safe);
        fake_disk_free(disk);
        fake_disk_free(old);
    }
}

static void segments_are_used_again(void **state)
{
    struct fake_disk *disk = fake_disk_new(1 << 20, 3);
    struct safe *safe = started(disk, 1);
    struct safe_stats stats;
    struct safe_recovery recovery;
    uint64_t seq = 1;
    uint32_t slots = 0;

    for (unsigned i = 0; i < 600; i++, seq += 3) {
        assert_int_equal(append(safe, seq, 3, 0), 0);
        if (safe_wants_room(safe, seq + 2) || i % 50 == 0) {
            assert_int_equal(sync_now(safe, disk), 0);
            safe_settled(safe, seq + 2);
        }
        if (i == 100)
            slots = fake_disk_slots(disk);
    }
    // Once there are enough, no file is ever made again.
    assert_true(slots >= 2 && slots <= 3);
    assert_int_equal(fake_disk_slots(disk), slots);
    safe_stats(safe, &stats);
    assert_true(stats.first > 1500);
    safe_free(safe);
    fake_disk_kill(disk);
    safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    assert_int_equal(recovery.last, seq - 1);
    safe_free(safe);
    fake_disk_free(disk);
}

static void full_is_no_failure(void **state)
{
    struct fake_disk *disk = fake_disk_new(1 << 20, 3);
    struct safe *safe = started(disk, 1);
    struct safe_stats stats;
    uint64_t seq = 1;
    int rc;

    while ((rc = append(safe, seq, 4, 0)) == 0)
        seq += 4;
    assert_int_equal(rc, -ENOSPC);
    safe_stats(safe, &stats);
    assert_true(stats.full);
    assert_int_equal(stats.segments_used, 6);
    assert_int_equal(safe_failure(safe), 0);
    assert_int_equal(append(safe, seq, 4, 0), -ENOSPC);
    read_all(safe, 1);
    assert_int_equal(sync_now(safe, disk), 0);
    safe_settled(safe, seq - 1);
    assert_int_equal(append(safe, seq, 4, 0), 0);
    safe_free(safe);
    fake_disk_free(disk);

    // The disk is full before the limit is reached.
    disk = fake_disk_new(3 * SEGMENT, 3);
    safe = started(disk, 1);
    seq = 1;
    while ((rc = append(safe, seq, 4, 0)) == 0)
        seq += 4;
    assert_int_equal(rc, -ENOSPC);
    assert_int_equal(safe_failure(safe), 0);
    safe_free(safe);
    fake_disk_free(disk);
}

static void a_failure_is_final(void **state)
{
    struct fake_disk *disk = fake_disk_new(1 << 20, 3);
    struct safe *safe = started(disk, 1);
    struct safe_recovery recovery;
    int status = 1;

    assert_int_equal(append(safe, 1, 3, 0), 0);
    safe_sync(safe, note_status, &status);
    fake_disk_fail(disk, 1, -EIO, false);
    while (fake_disk_complete(disk))
        ;
    assert_int_equal(status, -EIO);
    assert_int_equal(safe_failure(safe), -EIO);
    assert_int_equal(append(safe, 4, 3, 0), -EIO);
    assert_int_equal(sync_now(safe, disk), -EIO);
    assert_int_equal(safe_discard_after(safe, 2, NULL), -EIO);
    safe_free(safe);
    fake_disk_kill(disk);

    safe = open_safe(disk, &recovery);
    fake_disk_fail(disk, 3, -EIO, false); // the header's first copy, its sync, its second copy
    assert_int_equal(append(safe, recovery.last + 1, 3, 0), -EIO);
    assert_int_equal(append(safe, recovery.last + 1, 3, 0), -EIO);
    safe_free(safe);
    fake_disk_free(disk);
}

static void a_disk_that_cannot_be_read_is_no_torn_tail(void **state)
{
    uint64_t last;
    uint64_t confirmed;
    struct fake_disk *disk = two_segments(&last, &confirmed);
    struct safe_recovery recovery;

    fake_disk_fail_reads(disk, -EIO);
    struct safe *safe = open_safe(disk, &recovery);
    assert_int_equal(recovery.verdict, SAFE_DAMAGED);
    safe_free(safe);
    fake_disk_free(disk);
}

static void a_batch_larger_than_a_segment_is_refused(void **state)
{
    struct fake_disk *disk = fake_disk_new(1 << 20, 3);
    struct safe *safe = started(disk, 1);

    assert_int_equal(append(safe, 1, 60, 0), -EMSGSIZE);
    assert_int_equal(safe_failure(safe), 0);
    assert_int_equal(append(safe, 1, 6, 0), 0);
    safe_free(safe);
    fake_disk_free(disk);
}

static void a_discarded_tail_stays_away(void **state)
{
    // At every seq, also within a batch and in an earlier segment.
    for (uint64_t cut = 9; cut <= 90; cut++) {
        struct fake_disk *disk = fake_disk_new(1 << 20, cut);
        struct safe_recovery recovery;
        struct safe_stats stats;
        struct safe *safe = started(disk, 10);
        for (uint64_t seq = 10; seq < 91; seq += 3)
            assert_int_equal(append(safe, seq, 3, 0), 0);
        assert_int_equal(sync_now(safe, disk), 0);
        assert_int_equal(safe_discard_after(safe, cut, NULL), 0);
        safe_stats(safe, &stats);
        assert_int_equal(stats.last, cut);
        if (cut > 9)
            assert_int_equal(stats.epoch, 500 + (10 + (cut - 10) / 3 * 3) / 10);
        for (uint64_t seq = cut + 1; seq < 100; seq++)
            incarnation[seq]++;
        if (cut % 2)
            assert_int_equal(append(safe, cut + 1, 2, 0), 0);
        read_all(safe, 10);
        safe_free(safe);
        fake_disk_crash(disk);
        safe = open_safe(disk, &recovery);
        assert_int_not_equal(recovery.verdict, SAFE_DAMAGED);
        assert_true(recovery.last >= cut && recovery.last <= cut + 2);
        read_all(safe, 10);
        safe_free(safe);
        fake_disk_free(disk);
    }
}

// The model of the random runs: what must be held, and what may be.
struct model {
    struct fake_disk *disk;
    struct safe *safe;
    uint64_t seed;
    uint64_t last;    // appended
    uint64_t durable; // confirmed by a sync
    uint64_t settled;
    uint64_t restart; // a restart at this seq was under way when the machine stopped, or 0
    bool stopped;     // the failure that was set has come about
    bool killed;      // only the process died
    bool lost;        // an operation failed: the machine stops
};

static bool lost(struct model *m, int rc)
{
    if (rc < 0 && rc != -ENOSPC)
        m->lost = true;
    return rc < 0;
}

static void step_append(struct model *m)
{
    uint64_t back = help_random(&m->seed, 4) ? 0 : help_random(&m->seed, 3);
    uint32_t count = 1 + (uint32_t)help_random(&m->seed, 8);
    uint64_t first = m->last + 1 > back + m->durable ? m->last + 1 - back : m->last + 1;

    if (first + count - 1 <= m->last)
        return;
    for (uint64_t seq = m->last + 1; seq < first + count; seq++)
        incarnation[seq]++;
    if (lost(m, append(m->safe, first, count, m->durable)))
        return;
    m->last = first + count - 1;
}

static void step_sync(struct model *m)
{
    uint64_t last = m->last;
    int status = 1;

    safe_sync(m->safe, note_status, &status);
    while (help_random(&m->seed, 3) == 0 && !m->lost)
        step_append(m); // not covered
    if (m->lost)
        return;
    while (fake_disk_complete(m->disk))
        ;
    if (!lost(m, status))
        m->durable = last;
}

static void step_settle(struct model *m)
{
    m->settled += help_random(&m->seed, m->durable - m->settled + 1);
    safe_settled(m->safe, m->settled);
}

static void step_cut(struct model *m)
{
    uint64_t seq = m->settled + help_random(&m->seed, m->last - m->settled + 1);
    uint64_t durable = m->durable;

    m->durable = durable < seq ? durable : seq;
    if (!lost(m, safe_discard_after(m->safe, seq, NULL)))
        m->last = seq;
    else if (!m->lost)
        m->durable = durable;
}

static void step_restart(struct model *m)
{
    uint64_t seq = m->last + 1 + help_random(&m->seed, 20);

    m->restart = seq;
    if (lost(m, safe_restart(m->safe, 5, seq, NULL)))
        return;
    m->restart = 0;
    m->last = m->durable = m->settled = seq - 1;
}

// The machine is on again, and the disk works.
static void power_on(struct model *m)
{
    fake_disk_crash(m->disk);
    fake_disk_fail(m->disk, 0, 0, false);
    m->lost = true;
    m->killed = false;
    m->stopped = true;
}

static void reopen(struct model *m)
{
    struct safe_config config = config_for(m->disk);
    struct safe_recovery r;

    m->safe = safe_free(m->safe);
    if (safe_open(&config, &m->safe, &r, NULL) < 0) {
        power_on(m);
        m->safe = open_safe(m->disk, &r);
    }
    assert_true(seen.right);
    if (m->killed)
        m->durable = m->last;
    m->killed = false;
    if (m->restart && (r.verdict == SAFE_EMPTY || r.first == m->restart)) {
        m->last = m->durable = m->settled = r.verdict == SAFE_EMPTY ? 0 : m->restart - 1;
        if (r.verdict == SAFE_EMPTY)
            (void)lost(m, safe_restart(m->safe, 5, 1, NULL));
    } else {
        assert_true(r.verdict == SAFE_CLEAN || r.verdict == SAFE_TORN);
        assert_true(r.last >= m->durable);
        assert_true(r.last <= m->last || m->lost);
        assert_true(r.first <= m->settled + 1);
    }
    m->restart = 0;
    m->lost = false;
    m->last = m->durable = r.last;
    m->settled = m->settled < r.last ? m->settled : r.last;
    read_all(m->safe, r.first ? r.first : 1);
}

static void random_step(struct model *m)
{
    unsigned what = (unsigned)help_random(&m->seed, 100);

    if (what < 55)
        step_append(m);
    else if (what < 75)
        step_sync(m);
    else if (what < 90)
        step_settle(m);
    else if (what < 94)
        step_cut(m);
    else if (what < 96)
        step_restart(m);
    else if (what < 98) {
        fake_disk_kill(m->disk); // the process dies: nothing is lost
        m->killed = true;
        reopen(m);
    } else {
        fake_disk_crash(m->disk);
        m->lost = true;
        reopen(m);
    }
}

// Returns whether the machine got as far as operation `stop_at`.
static bool random_run(uint64_t seed, unsigned steps, unsigned stop_at)
{
    struct model m = {.seed = seed};

    memset(incarnation, 0, sizeof(incarnation));
    m.disk = fake_disk_new(1 << 20, seed * 1000 + stop_at);
    m.safe = started(m.disk, 1);
    fake_disk_fail(m.disk, stop_at, -EIO, true);
    for (unsigned i = 0; i < steps && m.last < SEQS_MAX - 100; i++) {
        random_step(&m);
        if (m.lost) {
            power_on(&m);
            reopen(&m);
        }
    }
    safe_free(m.safe);
    fake_disk_free(m.disk);
    return m.stopped;
}

static void a_crash_at_every_operation_keeps_the_promise(void **state)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        unsigned at = 1;
        print_message("seed %u\n", (unsigned)seed);
        while (random_run(seed, 60, at))
            at++;
        assert_true(at > 20);
    }
    for (uint64_t seed = 100; seed < 400; seed++)
        (void)random_run(seed, 300, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_set_of_facts_meets_one_row),
        cmocka_unit_test(what_was_appended_is_held_and_read),
        cmocka_unit_test(an_empty_queue_keeps_its_position),
        cmocka_unit_test(every_damaged_byte_is_harmless_or_found),
        cmocka_unit_test(damage_of_the_last_confirmed_record_is_found),
        cmocka_unit_test(every_lost_sector_is_harmless_or_found),
        cmocka_unit_test(every_cut_file_is_harmless_or_found),
        cmocka_unit_test(damage_ends_with_a_restart),
        cmocka_unit_test(a_missing_segment_is_damage),
        cmocka_unit_test(another_pairs_queue_is_refused),
        cmocka_unit_test(a_header_with_an_impossible_number_is_damage),
        cmocka_unit_test(used_up_numbers_are_an_error),
        cmocka_unit_test(a_torn_tail_is_cut_at_every_sector),
        cmocka_unit_test(segments_are_used_again),
        cmocka_unit_test(full_is_no_failure),
        cmocka_unit_test(a_failure_is_final),
        cmocka_unit_test(a_disk_that_cannot_be_read_is_no_torn_tail),
        cmocka_unit_test(a_batch_larger_than_a_segment_is_refused),
        cmocka_unit_test(a_discarded_tail_stays_away),
        cmocka_unit_test(a_crash_at_every_operation_keeps_the_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
