// SPDX-License-Identifier: Apache-2.0
// An archive of what an end alone held, under patches (fuzz.h) of its files: listed, walked, gone on with and dropped. A
// patch's place counts through all files; most of a file is data, so places are folded into where headers and entries lie.
#include <errno.h>

#include "fuzz.h"
#include "queues/salvage.h"
#include "tests/unit/fake_disk.h"

#define VOLUME (UINT64_C(64) * SALVAGE_BLOCK)
#define WINDOW (24U * 1024) // of each file

static struct fake_disk *image;

static struct salvage_config config_of(struct fake_disk *disk)
{
    return (struct salvage_config){
        .disk = fake_disk_of(disk),
        .pair = 77,
        .name = "lab",
        .side = EPOCH_BY_PRIMARY,
        .cause = SALVAGE_YIELDED,
        .epoch = {.number = 3, .id = 0xabc, .first_seq = 9, .opened_by = EPOCH_BY_PRIMARY, .reason = EPOCH_ALONE},
        .time = 1234567,
        .volumes = {{"disk", VOLUME}, {"log", VOLUME - 1000}},
        .volume_count = 2,
        .objects = 3,
        .limit = UINT64_C(64) << 20,
        .file_size = SALVAGE_FILE_MIN / 4096 * 4096,
    };
}

static void on_sync(void *arg, int status)
{
    *(int *)arg = status;
}

// Keeps a few blocks; 0, or why not.
static int keep(struct salvage *s, struct fake_disk *disk, unsigned object, uint64_t block, uint64_t count)
{
    static uint8_t data[SALVAGE_ENTRY_MAX];
    uint64_t at, length;
    int r = 0, status = 0;
    while (r == 0 && salvage_next(s, object, block * SALVAGE_BLOCK, (block + count) * SALVAGE_BLOCK, &at, &length)) {
        ENSURE(length > 0 && length <= SALVAGE_ENTRY_MAX && at + length <= VOLUME);
        memset(data, (int)(block % 3), length);
        r = block % 4 == 3 ? salvage_give_up(s, object, at, length, -EIO, NULL)
                           : salvage_keep(s, object, at, length, data, NULL);
    }
    if (r == 0 && salvage_last(s) > salvage_durable(s)) {
        salvage_sync(s, on_sync, &status);
        while (fake_disk_complete(disk))
            ;
    }
    return r;
}

static void make_image(void)
{
    struct salvage *s = NULL;
    image = fake_disk_new(UINT64_C(1) << 30, 1);
    struct salvage_config c = config_of(image);
    ENSURE(salvage_open(&c, &s, NULL) == 0);
    for (uint64_t i = 0; i < 8; i++)
        ENSURE(keep(s, image, (unsigned)(i % 2), 5 * i, 2) == 0);
    ENSURE(salvage_finish(s, NULL) == 0);
    salvage_free(s);
    c.epoch.id++; // and one that was not closed
    ENSURE(salvage_open(&c, &s, NULL) == 0);
    for (uint64_t i = 0; i < 4; i++)
        ENSURE(keep(s, image, 0, 5 * i, 1) == 0);
    salvage_free(s);
    fake_disk_kill(image);
}

struct list {
    struct salvage_info info[8];
    unsigned count;
};

static void found(void *arg, const struct salvage_info *info)
{
    struct list *list = arg;
    ENSURE(info->volume_count <= RECORD_OBJECTS_MAX && strnlen(info->name, sizeof(info->name)) < sizeof(info->name));
    ENSURE(info->verdict == SALVAGE_WHOLE || info->what[0]);
    if (list->count < 8)
        list->info[list->count++] = *info;
}

static int entry(void *arg, const struct salvage_entry *e, const void *data)
{
    const struct salvage_info *info = arg;
    if (e->kind == SALVAGE_DONE)
        return 0;
    ENSURE(e->kind > 0 && e->kind < SALVAGE_KIND_END && e->object < info->volume_count);
    ENSURE(e->length > 0 && e->offset <= info->volumes[e->object].size &&
           e->length <= info->volumes[e->object].size - e->offset);
    ENSURE((data != NULL) == (e->kind == SALVAGE_DATA));
    for (uint64_t i = 0; data && i < e->length; i += 512)
        (void)*((const volatile uint8_t *)data + i); // all of it is there
    return 0;
}

static void broken(void *arg, const struct salvage_damage *d)
{
    (void)arg;
    ENSURE(d->what && d->verdict != SALVAGE_WHOLE && (d->number || d->offset == 0));
}

static void look(struct fake_disk *disk, struct list *list)
{
    struct error err = {0};
    int r = salvage_inspect(fake_disk_of(disk), found, broken, list, &err);
    ENSURE(r == 0 || err.text[0]);
    for (unsigned i = 0; i < list->count; i++) {
        struct salvage_info again;
        r = salvage_walk(fake_disk_of(disk), list->info[i].number, entry, &list->info[i], &again, &err);
        ENSURE(r == 0 || err.text[0]);
    }
}

static void go_on(struct fake_disk *disk)
{
    struct salvage *s = NULL;
    struct error err = {0};
    struct salvage_config c = config_of(disk);
    c.epoch.id++;
    if (salvage_open(&c, &s, &err) < 0) {
        ENSURE(err.text[0]);
        return;
    }
    int r = keep(s, disk, 1, 3, 9);
    ENSURE(r == 0 || r == -ENOSPC || salvage_failure(s));
    if (r == 0)
        (void)salvage_finish(s, &err);
    salvage_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_reader r = byte_reader(data, size);
    struct fuzz_patch patch;
    struct list list = {.count = 0};
    if (!image)
        make_image();
    struct fake_disk *disk = fake_disk_copy(image, 2);
    uint32_t slots = fake_disk_slots(disk);
    uint8_t how = byte_u8(&r);
    while (fuzz_patch_next(&r, &patch)) {
        uint64_t bytes = 0;
        uint8_t *file = fake_disk_bytes(disk, patch.at / WINDOW % slots, &bytes);
        size_t at = patch.at % WINDOW;
        if (file && at < bytes)
            memcpy(file + at, patch.bytes, MIN(patch.size, bytes - at));
    }
    if (how % 16 == 5)
        fake_disk_fail_reads(disk, -EIO);
    if (how % 16 == 6 && fake_disk_bytes(disk, 0, NULL))
        fake_disk_cut(disk, 0, how * 64);
    look(disk, &list);
    fake_disk_fail_reads(disk, 0);
    if (how % 2)
        go_on(disk);
    else if (list.count)
        (void)salvage_drop(fake_disk_of(disk), list.info[0].number, how % 4, NULL);
    fake_disk_free(disk);
    return 0;
}
