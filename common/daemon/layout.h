// SPDX-License-Identifier: Apache-2.0
// Which volumes an end's queues, maps and state are of: their names, sizes and order, and where the stores are. All of those
// know a volume by its number alone: with the pair file's volumes changed, what is queued would go to the wrong one, and what
// counts as equal would be another store's.
//
// It is kept beside the state, in one text file that is replaced as a whole: a head, a line `NAME SIZE DEVICE INODE PATH` for
// each volume, and a checksum. A path goes to the end of its line (no path of a pair file has one in it). An end that has no
// history has no use for a former one. A file that is not there (made by an older version) or damaged is written anew, and
// said.
//
// A store may have another path when it is still the same file or device: the old path leads to it as well, or it has the
// device and inode that were written down.
#ifndef DAEMON_LAYOUT_H
#define DAEMON_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/config/pair.h"

// What is written down of one volume.
struct layout_place {
    char name[PAIR_NAME_MAX + 1];
    uint64_t size, device, inode; // inode 0: not known
    const char *path;             // of the store; belongs to whatever the place was made from
};

struct layout {
    struct layout_place places[PAIR_VOLUMES_MAX];
    size_t count;
};

// The file's text, to be freed; NULL: there is no memory.
char *layout_format(const struct layout *layout);
// Back from `size` bytes with a zero behind them, which are cut up: the paths are in them. False: they cannot be relied on.
bool layout_parse(char *text, size_t size, struct layout *ret_layout);

// `path` is the file's. `fresh`: there is nothing that it could fit, it is written. -EINVAL: the pair file does not fit, with
// a text that names file, field and remedy. -EUCLEAN: it was damaged, and is written anew. May wait for disks.
int layout_take(const char *path, const struct pair_config *pair, enum pair_end side, bool fresh, struct error *err);

#endif
