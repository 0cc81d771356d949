// SPDX-License-Identifier: Apache-2.0
// What the files of the salvage share: salvage.c writes, salvage_read.c looks at what is there.
#ifndef QUEUES_SALVAGE_PRIVATE_H
#define QUEUES_SALVAGE_PRIVATE_H

#include "queues/salvage_file.h"

// One file as it was found.
struct salvage_part {
    uint32_t slot;
    uint64_t size;
    enum salvage_file_state state;
    uint32_t number, index; // GOOD, as what follows
    uint64_t first;
    uint64_t epoch; // id of the one that was given up
};

// Everything in the directory, by number and index; what is BLANK or BAD first.
struct salvage_shelf {
    struct salvage_part *parts;
    size_t count;
    uint64_t bytes;
};

int salvage_shelf_read(struct disk *disk, struct salvage_shelf *ret_shelf, struct error *err);
void salvage_shelf_done(struct salvage_shelf *shelf);
// The number of parts from `at` on that are of one salvage.
size_t salvage_shelf_run(const struct salvage_shelf *shelf, size_t at);

typedef int salvage_entry_fn(void *arg, const struct salvage_entry *entry, const void *data);
// Walks the salvage of the parts [at, at + run). With `sync` its last file is made durable first. *ret_last: the number
// of the last entry that can be relied on; what is written next gets the one behind it.
int salvage_shelf_walk(struct disk *disk, const struct salvage_shelf *shelf, size_t at, bool sync,
                       salvage_entry_fn *fn, void *arg, struct salvage_info *ret_info,
                       uint64_t *ret_last, struct error *err);

// The lowest slot that is not in use.
uint32_t salvage_shelf_slot(const struct salvage_shelf *shelf);

#endif
