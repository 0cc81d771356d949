// SPDX-License-Identifier: Apache-2.0
// What an unsafe queue has spilled, under patches (fuzz.h) of its segments: as fsck takes it, whose walk is that of an
// opening. A patch's place counts through all segments.
#include "fuzz.h"
#include "queues/safe_segment.h"
#include "queues/spill_inspect.h"
#include "tests/unit/fake_disk.h"
#include "tests/unit/passive_help.h"

#define PAIR    UINT64_C(7)
#define SALT    UINT64_C(99)
#define SEGMENT (16U * 1024)
#define SLOTS   4U
#define LAST    24U

static struct fake_disk *image;

static void fill(void *arg, uint64_t seq, struct record *r, uint8_t *payload, size_t limit)
{
    r->type = RECORD_WRITE;
    r->length = r->payload = le32_make(700);
    memset(payload, (int)seq, 700);
}

static void make_segment(uint32_t slot, uint64_t salt, uint64_t first)
{
    struct safe_segment *s = NULL;
    ENSURE(safe_segment_create(fake_disk_of(image), slot, SEGMENT, &s) == 0);
    s->salt = salt;
    s->number = slot + 1;
    s->previous = slot;
    s->first_seq = first;
    ENSURE(safe_segment_begin(s, PAIR) == 0);
    for (uint64_t seq = first; seq < first + 8; seq += 2) {
        struct message_spec spec = {.first_seq = seq, .count = 2, .epoch = 3, .fill = fill};
        size_t size;
        CLEANUP_FREE void *message = message_make(&spec, &size);
        ENSURE(safe_segment_append(s, message, size, seq, seq + 1, 3) == 0);
    }
    safe_segment_free(s);
}

static void make_image(void)
{
    image = fake_disk_new(UINT64_C(8) * SEGMENT, 1);
    for (uint32_t slot = 0; slot + 1 < SLOTS; slot++)
        make_segment(slot, SALT, 8 * slot + 1);
    make_segment(SLOTS - 1, SALT + 1, 1); // of another queue
    fake_disk_kill(image);
}

static void found(void *arg, const struct inspect_finding *finding)
{
    ENSURE(finding->what[0]);
    ++*(unsigned *)arg;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_reader r = byte_reader(data, size);
    struct fuzz_patch patch;
    struct spill_summary summary;
    struct error err = {0};
    unsigned count = 0;
    struct inspect inspect = {.found = found, .arg = &count};
    if (!image)
        make_image();
    uint8_t how = byte_u8(&r);
    struct fake_disk *disk = fake_disk_copy(image, 2);
    while (fuzz_patch_next(&r, &patch)) {
        uint32_t at = patch.at % SEGMENT;
        memcpy(fake_disk_bytes(disk, patch.at / SEGMENT % SLOTS, NULL) + at, patch.bytes, MIN(patch.size, SEGMENT - at));
    }
    if (how == 201)
        fake_disk_fail_reads(disk, -5);
    uint64_t salt = how == 200 ? 0 : SALT, last = how < 200 ? LAST : how % 32;
    int rc = spill_inspect(fake_disk_of(disk), PAIR, salt, how % 8 + 1, last, &inspect, &summary, &err);
    ENSURE(rc == 0 || err.text[0]);
    if (rc == 0) {
        ENSURE(summary.segments + summary.others == SLOTS);
        ENSURE(count > 0 || !salt || summary.segments > 0 || last < how % 8 + 1U);
    }
    fake_disk_free(disk);
    return 0;
}
