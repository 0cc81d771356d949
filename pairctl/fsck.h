// SPDX-License-Identifier: Apache-2.0
// The parts of `pairctl fsck`: what was found in the directory of a stopped end (fsck_look.c), what a start would make of
// it (fsck_start.c), and how it is said (fsck_show.c). Everything is opened for reading only, and judged by the code that
// the daemon uses (queues, common/base/twin.h): this room only says it.
#ifndef PAIRCTL_FSCK_H
#define PAIRCTL_FSCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/twin.h"
#include "pairctl/pairctl.h"
#include "queues/disk.h"
#include "queues/safe_inspect.h"
#include "queues/spill_inspect.h"
#include "queues/state.h"
#include "queues/unsafe_inspect.h"

#define FSCK_FINDINGS_MAX 1000 // that are listed; all are counted
#define FSCK_START_MAX    16

struct fsck_finding {
    char file[64]; // relative to the directory, or an absolute path in the runtime directory
    uint64_t offset;
    char kind[16]; // "damage", "torn": normal after a crash
    char text[256];
};

struct fsck_sentence {
    char text[512];
};

// Of one end.
struct fsck {
    char directory[PATH_SIZE];
    char runtime[PATH_SIZE]; // of the end; empty: not looked at
    char pair[STATUS_NAME_SIZE];
    char identity[STATUS_WORD_SIZE];
    bool running; // a daemon has it open
    struct fsck_finding findings[FSCK_FINDINGS_MAX];
    size_t finding_count;
    uint64_t damages, torn; // all of them
    bool failed;            // something could not be read at all
    // state
    bool state_there, state_readable;
    struct end_state state;
    // safe queue
    bool safe_there;
    struct safe_summary safe;
    // maps
    unsigned map_count, map_whole; // files; of them those that count as wholly set
    uint64_t map_bytes;            // that the others have set
    // spill
    struct spill_summary spill;
    uint64_t spill_damages;
    // salvage
    unsigned salvage_count;
    uint64_t salvage_bytes;
    // runtime directory
    bool unsafe_there, same_boot, stepped_down;
    struct unsafe_summary queue;
    // what a start would do
    struct fsck_sentence start[FSCK_START_MAX];
    size_t start_count;
    // progress
    const char *reading;
    int64_t began_ns, said_ns;
    bool quiet;
};

// fsck_look.c
void fsck_look(struct fsck *f);
// Tells a person from time to time how far it is; fsck_look.c.
void fsck_progress(struct fsck *f, uint64_t done, uint64_t total);
// 0, or -EBUSY: a daemon has this end open.
int fsck_locked(const char *directory);

// fsck_start.c
void fsck_start(struct fsck *f);

// fsck_show.c
void fsck_show(const struct fsck *f, FILE *out);
char *fsck_json(const struct fsck *const *list, size_t count); // one: an object; malloc'ed, NULL without memory

// fsck_disk.c: the files of a safe queue; whatever would change one fails with -EROFS.
struct fsck_disk;
int fsck_disk_open(const char *directory, struct fsck *progress, struct fsck_disk **ret_disk, struct error *err);
struct disk *fsck_disk_of(struct fsck_disk *disk);
struct fsck_disk *fsck_disk_free(struct fsck_disk *disk); // NULL-safe

#endif
