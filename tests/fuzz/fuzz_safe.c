// SPDX-License-Identifier: Apache-2.0
// A safe queue that is opened over files that somebody else wrote. The input is patches (fuzz.h) of
// a disk with SLOTS segments of zeros; a patch's place counts through all of them.
#include <errno.h>

#include "fuzz.h"
#include "queues/safe.h"
#include "tests/unit/fake_disk.h"
#include "tests/unit/passive_help.h"

#define PAIR    UINT64_C(0x1234)
#define SEGMENT (16U * 1024)
#define SLOTS   4U

static uint64_t seen_next, seen_first;

static void seen(void *arg, const struct record *record, const void *payload)
{
    uint64_t seq = le64_get(record->seq);
    ENSURE(!seen_next || seq == seen_next);
    ENSURE(!record_invalid(record) && record_payload_matches(record, payload));
    if (!seen_next)
        seen_first = seq;
    seen_next = seq + 1;
}

static struct fake_disk *make_disk(const uint8_t *data, size_t size)
{
    struct byte_reader r = byte_reader(data, size);
    struct fuzz_patch patch;
    struct fake_disk *fake = fake_disk_new(UINT64_C(8) * SEGMENT, 1);
    struct disk *disk = fake_disk_of(fake);
    while (fuzz_patch_next(&r, &patch)) {
        uint32_t slot = patch.at / SEGMENT % SLOTS, at = patch.at % SEGMENT;
        uint8_t *bytes = fake_disk_bytes(fake, slot, NULL);
        if (!bytes) {
            struct disk_file *file = NULL;
            ENSURE(disk->ops->create(disk, slot, SEGMENT, &file) == 0);
            disk->ops->close(file);
            bytes = fake_disk_bytes(fake, slot, NULL);
        }
        memcpy(bytes + at, patch.bytes, MIN(patch.size, SEGMENT - at));
    }
    return fake;
}

static void read_all(struct safe *safe, const struct safe_recovery *recovery)
{
    struct safe_cursor cursor;
    struct error err = {0};
    void *message = NULL;
    size_t size;
    ENSURE(safe_seek(safe, recovery->first, &cursor, &err) == 0);
    int r;
    while ((r = safe_read(safe, &cursor, &message, &size, &err)) == 0) {
        ENSURE(!batch_invalid(message, size));
        free(message);
    }
    ENSURE(r == -ENODATA && cursor.seq == recovery->last + 1);
}

static void fill(void *arg, uint64_t seq, struct record *r, uint8_t *payload, size_t limit)
{
    r->type = RECORD_WRITE;
    r->length = r->payload = le32_make(100);
    memset(payload, (int)seq, 100);
}

static void synced(void *arg, int status)
{
    ENSURE(status == 0);
}

static void append(struct safe *safe, struct fake_disk *fake, uint64_t seq)
{
    struct message_spec spec = {.first_seq = seq, .count = 2, .epoch = 9, .fill = fill};
    struct safe_stats stats;
    size_t size;
    CLEANUP_FREE void *message = message_make(&spec, &size);
    int r = safe_append(safe, message, size, NULL);
    ENSURE(r == 0 || r == -ENOSPC || r == -EOVERFLOW);
    safe_stats(safe, &stats);
    ENSURE(stats.last == (r == 0 ? seq + 1 : seq - 1));
    if (r == -EOVERFLOW)
        return; // that is a failure, and final
    safe_sync(safe, synced, NULL);
    while (fake_disk_complete(fake))
        ;
}

static void use(struct safe *safe, const struct safe_recovery *recovery, struct fake_disk *fake)
{
    struct error err = {0};
    ENSURE(safe_verdict_name(recovery->verdict));
    if (recovery->verdict == SAFE_EMPTY) {
        ENSURE(safe_restart(safe, 5, 1, &err) == 0);
        append(safe, fake, 1);
        return;
    }
    if (recovery->verdict == SAFE_DAMAGED) {
        int r = safe_restart(safe, 5, 1000, &err);
        ENSURE(r == 0 || r == -ENOSPC || r == -EOVERFLOW);
        if (r == 0)
            append(safe, fake, 1000);
        return;
    }
    if (recovery->last >= UINT64_MAX - 4)
        return;
    append(safe, fake, recovery->last + 1);
    safe_settled(safe, recovery->last);
}

// What was opened once is found the same the next time.
static void open_again(struct fake_disk *fake, const struct safe_config *config,
                       const struct safe_stats *before)
{
    struct safe *safe = NULL;
    struct safe_recovery recovery;
    struct safe_config next = *config;
    struct error err = {0};
    next.salt++;
    fake_disk_kill(fake);
    seen_next = 0;
    ENSURE(safe_open(&next, &safe, &recovery, &err) == 0);
    ENSURE(recovery.verdict != SAFE_EMPTY && recovery.last == before->last);
    safe_free(safe);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safe *safe = NULL;
    struct safe_recovery recovery = {0};
    struct safe_stats stats;
    struct error err = {0};
    struct fake_disk *fake = make_disk(data, size);
    struct safe_config config = {.disk = fake_disk_of(fake),
                                 .pair = PAIR,
                                 .salt = 0x9999,
                                 .segment_size = SEGMENT,
                                 .limit = 6 * SEGMENT,
                                 .seen = seen};
    seen_next = seen_first = 0;
    int r = safe_open(&config, &safe, &recovery, &err);
    ENSURE(r == 0 || err.text[0]);
    if (r == 0) {
        ENSURE(!seen_next || (seen_first == recovery.first && seen_next == recovery.last + 1));
        ENSURE(recovery.first <= recovery.last + 1);
        if (recovery.verdict != SAFE_EMPTY && recovery.last != 0)
            read_all(safe, &recovery);
        use(safe, &recovery, fake);
        safe_stats(safe, &stats);
        safe_free(safe);
        if (recovery.verdict == SAFE_EMPTY)
            open_again(fake, &config, &stats);
    }
    fake_disk_free(fake);
    return 0;
}
