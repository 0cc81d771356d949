// SPDX-License-Identifier: Apache-2.0
// A file or block device as the home of a volume: found, checked and locked. ring.c does the I/O on
// it.
#ifndef STORE_DISK_H
#define STORE_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/store/store.h"

struct disk {
    int fd;                // carries the lock
    bool device;           // a block device, not a file
    uint64_t size;         // bytes of the volume
    uint32_t direct_align; // what O_DIRECT wants of memory, offset and length; 1 for buffered I/O
    uint32_t zero_align;   // what zeroing without writing wants of offset and length
    bool zero_is_fast;     // zeroing does not write the range out
};

// Errors as store_open().
int disk_open(const struct store_config *config, struct disk *ret_disk, struct error *err);
// Gives the lock back at once (all I/O has ended) and closes.
void disk_close(struct disk *disk);
// As store_extent().
void disk_extent(const struct disk *disk, uint64_t offset, uint64_t length, unsigned *ret_flags,
                 uint64_t *ret_length);

#endif
