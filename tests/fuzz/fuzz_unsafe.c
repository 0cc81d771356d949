// SPDX-License-Identifier: Apache-2.0
// An unsafe queue that a predecessor left, with records, readers and updates in flight, under
// patches (fuzz.h) of its file: the tables are patched densely, the ring hardly matters. The first
// byte cuts or lengthens the file.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fuzz.h"
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

static uint8_t *image; // of the file before the patches
static size_t image_bytes;
static size_t
    window;        // what is patched: the tables and the start of the ring, where its payloads lie
static int victim; // the file that is patched

static unsigned commit(struct unsafe *u, uint64_t offset, uint32_t size)
{
    unsigned slot;
    size_t room;
    struct unsafe_update update = {.type = RECORD_WRITE, .offset = offset, .length = size};
    ENSURE(unsafe_head(u, 1, &room));
    uint64_t chunk = unsafe_keep(u, size);
    memset(unsafe_chunk_data(u, chunk), (int)size, size);
    ENSURE(unsafe_commit(u, &update, chunk, &slot) == 0);
    return slot;
}

static void make_image(void)
{
    struct unsafe *u = NULL;
    struct stat st;
    ENSURE(unsafe_create(NULL, &config, &u, NULL) == 0);
    const struct epoch opening = {.number = 1, .id = 3, .first_seq = 101, .opened_by = EPOCH_BY_PRIMARY,
                                  .reason = EPOCH_FIRST_START};
    uint8_t encoded[EPOCH_ENCODED_SIZE];
    epoch_encode(&opening, encoded);
    unsafe_keep_opening(u, encoded, sizeof(encoded));
    unsafe_attach(u, 0, 100);
    unsafe_attach(u, 2, 100);
    for (unsigned i = 0; i < 6; i++)
        (void)unsafe_number(u, commit(u, i * 8192, 512 * (i + 1)), i == 3 ? -EIO : 0, 1);
    unsafe_release(u, 2, 102);
    (void)commit(u, 65536, 700);
    (void)commit(u, 70000, 900);
    ENSURE(fstat(unsafe_fd(u), &st) == 0);
    image_bytes = (size_t)st.st_size;
    window = image_bytes - unsafe_ring_bytes(u) + 16384;
    image = malloc(image_bytes);
    ENSURE(image && file_pread(unsafe_fd(u), image, image_bytes, 0) == 0);
    unsafe_free(u);
    victim = memfd_create("fuzz", MFD_CLOEXEC);
    ENSURE(victim >= 0);
}

static void use(struct unsafe *u)
{
    struct unsafe_pending pending;
    struct unsafe_stat stat;
    unsigned cursor = 0;
    unsigned sum = 0;
    struct epoch opening;
    if (unsafe_opening(u, &opening))
        ENSURE(opening.id == unsafe_epoch(u) && !epoch_invalid(&opening));
    while (unsafe_pending(u, &cursor, &pending)) {
        for (uint32_t i = 0; pending.data && i < pending.update.length; i += 64)
            sum += ((const uint8_t *)pending.data)[i]; // reads all of it
        if (cursor % 2)
            (void)unsafe_number(u, pending.slot, 0, (int64_t)sum);
    }
    uint64_t numbered = unsafe_numbered(u);
    for (unsigned i = 0; i < UNSAFE_READERS_MAX; i++) {
        if (!unsafe_attached(u, i))
            continue;
        // What is on disk is for spill.h to read, which finds out at first whether it is there.
        uint64_t seq = MAX(unsafe_released(u, i), unsafe_spilled(u)) + 1;
        for (; seq <= numbered; seq++) {
            const struct record *record = unsafe_record(u, seq);
            ENSURE(le64_get(record->seq) == seq && !record_invalid(record));
            const uint8_t *data = unsafe_payload(u, seq);
            if (le32_get(record->payload))
                ENSURE(record_payload_matches(record, data));
        }
        unsafe_release(u, i, numbered);
    }
    unsafe_reclaim(u);
    unsafe_stat(u, &stat);
    size_t room;
    if (numbered < unsafe_bound(u) && unsafe_head(u, 1, &room))
        unsafe_drop(u, unsafe_keep(u, 100));
    unsafe_reclaim(u);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_reader r = byte_reader(data, size);
    struct fuzz_patch patch;
    struct unsafe *u = NULL;
    struct error err = {0};
    if (!image)
        make_image();
    uint8_t cut = byte_u8(&r);
    size_t bytes = image_bytes;
    if (cut >= 240)
        bytes = image_bytes - 4096 + (size_t)(cut - 240) * 1024;
    else if (cut >= 200) // with a ring of a few pages
        bytes = window - 16384 + (size_t)(cut - 199) * 4096;
    ENSURE(ftruncate(victim, (off_t)MAX(bytes, image_bytes)) == 0);
    ENSURE(file_pwrite(victim, image, window, 0) == 0);
    while (fuzz_patch_next(&r, &patch)) {
        size_t at = patch.at % window;
        ENSURE(file_pwrite(victim, patch.bytes, MIN(patch.size, window - at), at) == 0);
    }
    ENSURE(ftruncate(victim, (off_t)bytes) == 0);
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", victim);
    int rc =
        cut % 2 ? unsafe_open(path, &config, &u, &err) : unsafe_open_fd(victim, &config, &u, &err);
    ENSURE(rc == 0 || err.text[0]);
    if (rc == 0)
        use(u);
    unsafe_free(u);
    return 0;
}
