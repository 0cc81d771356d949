// SPDX-License-Identifier: Apache-2.0
// The file of an intent map under patches (fuzz.h): as an opening of that volume takes it, and as fsck does, which has to
// believe the header first. The first byte cuts or lengthens the file.
#include "fuzz.h"
#include "queues/intent.h"
#include "queues/intent_inspect.h"
#include "tests/unit/fake_disk.h"

#define PAIR   UINT64_C(7)
#define VOLUME (UINT64_C(5) * 1024 * 1024 * 1024 + 12345) // three pages
#define ROOM   (64U * 1024)

static const struct intent_config config = {.pair = PAIR, .volume = 9, .size = VOLUME, .region = INTENT_REGION};
static uint8_t image[ROOM];
static size_t image_bytes;

static void make_image(void)
{
    struct intent *m = intent_new(&config);
    uint32_t number;
    uint8_t page[INTENT_PAGE];
    ENSURE(m && intent_file_size(m) <= sizeof(image));
    image_bytes = intent_file_size(m);
    (void)intent_set(m, 1 << 20, 300000);
    (void)intent_set(m, VOLUME - 100, 100);
    intent_header(m, image);
    while (intent_begin_page(m, INTENT_LAZY, &number, page))
        memcpy(image + (size_t)(number + 1) * INTENT_PAGE, page, sizeof(page));
    intent_written(m, true);
    intent_free(m);
}

// What was loaded can be used, written and loaded again.
static void use(struct intent *m)
{
    uint64_t at, length, from = 0, sum = 0;
    while (from < VOLUME && intent_next(m, from, 1 << 20, &at, &length)) {
        ENSURE(length > 0 && length <= 1 << 20 && at >= from && at + length <= VOLUME);
        ENSURE(intent_test(m, at, length));
        sum += length;
        from = at + length;
    }
    ENSURE(sum == intent_bytes(m, 0) && sum <= VOLUME);
    intent_generation(m);
    intent_clear(m, 0, VOLUME / 2);
    (void)intent_set(m, VOLUME / 3, 4096);
    uint32_t number;
    uint8_t page[INTENT_PAGE];
    struct intent *again = intent_new(&config);
    ENSURE(again);
    intent_rewrite(m);
    while (intent_begin_page(m, INTENT_LAZY, &number, page))
        ENSURE(!intent_load_page(again, number, page));
    intent_written(m, true);
    ENSURE(intent_bytes(again, 0) >= intent_bytes(m, 0)); // a superset
    intent_free(again);
}

static void open_as_volume(const uint8_t *file, size_t size)
{
    struct intent *m = intent_new(&config);
    ENSURE(m);
    if (size == intent_file_size(m) && !intent_load_header(m, file)) {
        for (uint32_t i = 0; i < intent_pages(m); i++)
            (void)intent_load_page(m, i, i == 2 && file[0] % 16 == 3 ? NULL : file + (size_t)(i + 1) * INTENT_PAGE);
        use(m);
    }
    intent_free(m);
}

static void found(void *arg, const struct inspect_finding *finding)
{
    ENSURE(finding->what[0]);
    ++*(unsigned *)arg;
}

static void look_as_fsck(const uint8_t *file, size_t size)
{
    struct fake_disk *fake = fake_disk_new(1 << 20, 1);
    struct disk *disk = fake_disk_of(fake);
    struct disk_file *handle = NULL;
    struct intent_summary summary;
    unsigned count = 0;
    struct inspect inspect = {.found = found, .arg = &count};
    ENSURE(disk->ops->create(disk, 0, ROOM, &handle) == 0);
    disk->ops->close(handle);
    memcpy(fake_disk_bytes(fake, 0, NULL), file, size);
    fake_disk_cut(fake, 0, size);
    ENSURE(intent_inspect(disk, 0, PAIR, &inspect, &summary, NULL) == 0);
    ENSURE(!summary.whole || count > 0);
    ENSURE(summary.whole || summary.set_bytes <= summary.size);
    fake_disk_free(fake);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[ROOM];
    struct byte_reader r = byte_reader(data, size);
    struct fuzz_patch patch;
    if (!image_bytes)
        make_image();
    uint8_t cut = byte_u8(&r);
    size_t bytes = cut < 240 ? image_bytes : image_bytes - 4096 + (size_t)(cut - 240) * 777;
    bytes = MIN(bytes, sizeof(file));
    memcpy(file, image, sizeof(file));
    while (fuzz_patch_next(&r, &patch)) {
        size_t at = patch.at % image_bytes;
        memcpy(file + at, patch.bytes, MIN(patch.size, image_bytes - at));
    }
    open_as_volume(file, bytes);
    look_as_fsck(file, bytes);
    return 0;
}
