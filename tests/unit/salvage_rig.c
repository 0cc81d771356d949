// SPDX-License-Identifier: Apache-2.0
// Makes a salvage for test_salvage_command.py, with the code that an end uses.
//   salvage_rig DIR close|leave|wait|hold SEED   blocks 3 and 4, 10 (zeros), 11 and the last one of "disk" (64 KiB), of which
//                                           block B holds bytes (B * 7 + SEED) % 251 + 1; closed, or left as it is,
//                                           or while the end's state (DIR/../state) says that it goes on, or with its
//                                           lock held until stdin ends
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/twin.h"
#include "common/store/segments.h"
#include "queues/salvage.h"
#include "queues/state.h"

static void keep(struct salvage *s, uint64_t block, unsigned seed, struct error *err)
{
    uint8_t data[SALVAGE_BLOCK];
    memset(data, block == 10 ? 0 : (int)((block * 7 + seed) % 251 + 1), sizeof(data));
    ENSURE(salvage_keep(s, 0, block * SALVAGE_BLOCK, sizeof(data), data, err) == 0);
}

static void save_state(const char *directory, const struct epoch *salvaged)
{
    struct end_state state = {.role = ROLE_PASSIVE, .salvage = 1, .salvage_cause = SALVAGE_RESOLVED, .salvaged = *salvaged};
    uint8_t bytes[STATE_SIZE_MAX], former[STATE_SIZE_MAX];
    char path[PATH_SIZE];
    struct twin *twin = NULL;
    size_t size = state_encode(&state, bytes, sizeof(bytes)), former_size;
    ENSURE(path_format(path, sizeof(path), "%s/../state", directory) == 0);
    ENSURE(twin_open(path, former, sizeof(former), &twin, &former_size, NULL) == 0);
    ENSURE(twin_save(twin, bytes, size, NULL) == 0);
    twin_free(twin);
}

int main(int argc, char **argv)
{
    static const uint64_t blocks[] = {3, 10, 4, 11, 15};
    struct segments *segments = NULL;
    struct salvage *s = NULL;
    struct error err = {0};
    ENSURE(argc == 4);
    ENSURE(dir_make(argv[1], 0700, &err) == 0);
    ENSURE(segments_open(argv[1], 0, &segments, &err) == 0);
    struct salvage_config c = {
        .disk = segments_disk(segments),
        .pair = 5,
        .name = "web",
        .side = EPOCH_BY_PRIMARY,
        .cause = SALVAGE_RESOLVED,
        .epoch = {.number = 4,
                  .id = (uint64_t)atoi(argv[3]) + 1,
                  .first_seq = 1,
                  .opened_by = EPOCH_BY_PRIMARY,
                  .reason = EPOCH_ALONE},
        .time = UINT64_C(1700000000000000000),
        .volumes = {{"disk", 64 * 1024}},
        .volume_count = 1,
        .objects = 1,
        .limit = 16U << 20,
    };
    ENSURE(salvage_open(&c, &s, &err) == 0);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        keep(s, blocks[i], (unsigned)atoi(argv[3]), &err);
    if (strcmp(argv[2], "close") == 0)
        ENSURE(salvage_finish(s, &err) == 0);
    salvage_free(s);
    segments_free(segments);
    if (strcmp(argv[2], "wait") == 0)
        save_state(argv[1], &c.epoch);
    if (strcmp(argv[2], "hold") == 0) {
        int fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ENSURE(fd >= 0 && flock(fd, LOCK_EX) == 0);
        (void)puts("locked");
        (void)fflush(stdout);
        (void)getchar();
    }
    return 0;
}
