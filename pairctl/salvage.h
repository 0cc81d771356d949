// SPDX-License-Identifier: Apache-2.0
// The parts of `pairctl salvage`. Everything goes by the files in the ends' state directories: with their daemons running
// and without. Reading needs no lock; a drop takes the one that a daemon holds while it writes (docs/salvage.md).
#ifndef PAIRCTL_SALVAGE_H
#define PAIRCTL_SALVAGE_H

#include "common/base/file.h"
#include "pairctl/pairctl.h"
#include "queues/salvage.h"

// salvage_disk.c: the files of one end's salvages.
struct salvage_disk;
// -ENOENT: there are none.
int salvage_disk_open(const char *directory, struct salvage_disk **ret_disk, struct error *err);
struct disk *salvage_disk_of(struct salvage_disk *disk);
struct salvage_disk *salvage_disk_free(struct salvage_disk *disk); // NULL-safe; ends the lock
// -EAGAIN: a daemon writes there.
int salvage_disk_lock(struct salvage_disk *disk);
void salvage_disk_unlock(struct salvage_disk *disk);

// One salvage, and where it is.
struct salvage_place {
    char pair[PAIR_NAME_MAX + 1];
    char end[16];
    char directory[PATH_SIZE];
    bool writing; // a daemon is at it
    struct salvage_info info;
};

// salvage_export.c: into the new directory `target`, two files for each volume: NAME.map says what was kept, in the order
// in which it was; NAME.data holds it, or (image) NAME.img at the offsets that it has in the volume.
// It gets its name when it is whole.
int salvage_export(struct disk *disk, const struct salvage_place *place, const char *target, bool image,
                   struct error *err);

// salvage_show.c
void salvage_show_list(const struct salvage_place *places, size_t count);
int salvage_show_one(struct disk *disk, const struct salvage_place *place, struct error *err);
char *salvage_json(const struct salvage_place *const *list, size_t count); // malloc'ed; NULL without memory
char *salvage_json_one(const struct salvage_place *place);

#endif
