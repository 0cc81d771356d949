// SPDX-License-Identifier: Apache-2.0
// fsck_rig STATE RUNTIME: writes what two stopped ends of the pair "web" have left, with the code that daemons use:
// STATE/web/primary (active, with its unsafe queue in RUNTIME/web/primary) and STATE/web/secondary (passive, with a safe
// queue of several segments). For test_fsck.py.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/twin.h"
#include "common/control/steps.h"
#include "common/store/segments.h"
#include "passive_help.h"
#include "queues/maps.h"
#include "queues/safe.h"
#include "queues/state.h"
#include "queues/unsafe.h"
#include "queues/vitals.h"

#define PAIR    checksum64("web", 3)
#define SEGMENT (64U * 1024)
#define BOOT    UINT64_C(0x1122334455667788)
#define EPOCH   UINT64_C(77)

static char path[PATH_SIZE];

static const char *in(const char *dir, const char *rest)
{
    ENSURE(path_format(path, sizeof(path), "%s/%s", dir, rest) == 0);
    return path;
}

static void make_state(const char *dir, const char *name, enum state_role role)
{
    uint8_t bytes[STATE_SIZE_MAX];
    struct twin *twin = NULL;
    size_t size;
    struct end_state state = {.role = role, .bound = 4096, .session = 3, .clean = role == ROLE_PASSIVE};
    const struct epoch first = {.number = 1, .id = EPOCH, .first_seq = 1, .opened_by = EPOCH_BY_PRIMARY,
                                .reason = EPOCH_FIRST_START, .time = 1};
    ENSURE(!history_append(&state.history, &first));
    ENSURE(twin_open(in(dir, name), bytes, sizeof(bytes), &twin, &size, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        state.session++;
        size = state_encode(&state, bytes, sizeof(bytes));
        ENSURE(twin_save(twin, bytes, size, NULL) == 0 && twin_mirror(twin, NULL) == 0);
    }
    twin_free(twin);
}

static void make_history(const char *dir, const char *name)
{
    FILE *file = fopen(in(dir, name), "w");
    ENSURE(file);
    for (uint64_t i = 1; i <= 20; i++) {
        struct step_slot slot;
        memset(&slot, 0, sizeof(slot));
        slot.number = i;
        slot.event.real_ms = 1000;
        (void)snprintf(slot.event.text, sizeof(slot.event.text), "step %d", (int)i);
        step_seal(&slot);
        ENSURE(fseek(file, (long)(i * sizeof(slot)), SEEK_SET) == 0);
        ENSURE(fwrite(&slot, sizeof(slot), 1, file) == 1);
    }
    ENSURE(fclose(file) == 0);
}

static void fill(void *arg, uint64_t seq, struct record *r, uint8_t *payload, size_t limit)
{
    r->type = RECORD_WRITE;
    r->length = r->payload = le32_make(4000);
    r->offset = le64_make(seq * 4096);
    memset(payload, (int)seq, 4000);
}

static void synced(void *arg, int status)
{
    *(int *)arg = status;
}

static void failed_map(void *user, uint16_t object, uint64_t ticket, int status)
{
    (void)user, (void)object, (void)ticket, (void)status;
    ENSURE(!"a map cannot be written");
}

static void good_map(void *user, uint16_t object, uint64_t record)
{
    (void)user, (void)object, (void)record;
}

static void make_safe(const char *dir)
{
    struct segments *segments = NULL;
    struct safe *safe = NULL;
    struct safe_recovery found;
    ENSURE(dir_make(dir, 0700, NULL) == 0);
    ENSURE(segments_open(dir, 0, &segments, NULL) == 0);
    struct safe_config config = {.disk = segments_disk(segments), .pair = PAIR, .salt = 5, .segment_size = SEGMENT,
                                 .limit = 8 * SEGMENT};
    ENSURE(safe_open(&config, &safe, &found, NULL) == 0);
    ENSURE(safe_restart(safe, EPOCH, 1, NULL) == 0);
    for (uint64_t seq = 1; seq <= 39; seq += 3) {
        struct message_spec spec = {.session = 3, .first_seq = seq, .count = 3, .promised = seq - 1, .epoch = EPOCH,
                                    .fill = fill};
        size_t size;
        int status = 1;
        CLEANUP_FREE void *message = message_make(&spec, &size);
        ENSURE(safe_append(safe, message, size, NULL) == 0);
        safe_sync(safe, synced, &status);
        while (status == 1) {
            struct pollfd p = {.fd = segments_fd(segments), .events = POLLIN};
            (void)poll(&p, 1, 1000);
            segments_work(segments);
        }
        ENSURE(status == 0);
    }
    safe_free(safe);
    segments_free(segments);
}

// A map with a few regions set, as an end keeps it.
static void make_map(const char *dir)
{
    struct segments *segments = NULL;
    const uint64_t size = UINT64_C(4) << 30, volume = checksum64("disk", 4);
    ENSURE(dir_make(dir, 0700, NULL) == 0);
    ENSURE(segments_open(dir, 0, &segments, NULL) == 0);
    struct maps_config config = {.disk = segments_disk(segments), .pair = PAIR, .volumes = 1, .sizes = &size,
                                 .volume = &volume, .failed = failed_map, .good = good_map};
    struct maps *maps = maps_new(&config);
    ENSURE(maps);
    // Its pages first, and its header behind them: a few syncs.
    for (int i = 0; i < 20; i++) {
        if (i == 0) {
            intent_clear(maps_at(maps, 0), 0, size);
            (void)maps_set(maps, 0, 1 << 20, 65536);
            maps_mark(maps);
        }
        maps_work(maps, (int64_t)i * 1000000000);
        struct pollfd p = {.fd = segments_fd(segments), .events = POLLIN};
        (void)poll(&p, 1, maps_syncing(maps) ? 1000 : 0);
        segments_work(segments);
    }
    ENSURE(maps_durable(maps) && !maps_syncing(maps));
    maps_free(maps);
    segments_free(segments);
}

static void make_unsafe(const char *file)
{
    const struct unsafe_config config = {.pair = PAIR, .boot = BOOT, .epoch = EPOCH, .start = 0, .bound = 4096,
                                         .ring_bytes = 8 << 20, .payload_max = 64 << 10};
    struct unsafe *u = NULL;
    ENSURE(unsafe_create(file, &config, &u, NULL) == 0);
    unsafe_attach(u, 0, 0);
    for (unsigned i = 1; i <= 12; i++) {
        struct unsafe_update update = {.type = RECORD_WRITE, .offset = i * 8192, .length = 4096};
        unsigned slot;
        size_t room;
        ENSURE(unsafe_head(u, 1, &room));
        uint64_t chunk = unsafe_keep(u, 4096);
        memset(unsafe_chunk_data(u, chunk), (int)i, 4096);
        ENSURE(unsafe_commit(u, &update, chunk, &slot) == 0);
        if (i <= 10)
            ENSURE(unsafe_number(u, slot, 0, 1) == i);
    }
    unsafe_release(u, 0, 4);
    unsafe_free(u);
}

static void put(const char *file, const void *data, size_t size)
{
    ENSURE(file_replace(file, data, size, 0600, NULL) == 0);
}

int main(int argc, char **argv)
{
    struct vitals vitals = {0};
    vitals_begin(&vitals, BOOT);
    ENSURE(argc == 3);
    ENSURE(dir_make(in(argv[1], "web/primary"), 0700, NULL) == 0);
    ENSURE(dir_make(in(argv[1], "web/secondary"), 0700, NULL) == 0);
    ENSURE(dir_make(in(argv[2], "web/primary"), 0700, NULL) == 0);
    make_state(argv[1], "web/primary/state", ROLE_ACTIVE);
    make_state(argv[1], "web/secondary/state", ROLE_PASSIVE);
    make_history(argv[1], "web/primary/history");
    make_history(argv[1], "web/secondary/history");
    put(in(argv[1], "web/primary/lock"), "", 0);
    put(in(argv[1], "web/secondary/lock"), "", 0);
    make_safe(in(argv[1], "web/secondary/safe"));
    make_map(in(argv[1], "web/primary/maps"));
    make_unsafe(in(argv[2], "web/primary/unsafe"));
    put(in(argv[2], "web/primary/vitals"), &vitals, sizeof(vitals));
    return 0;
}
