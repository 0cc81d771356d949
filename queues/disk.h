// SPDX-License-Identifier: Apache-2.0
// The disk of a queue: one directory of numbered segment files, as the queue sees it. Handed in:
// common/store (segments.h) implements it on a real directory, tests and the simulator in memory.
//
// One thread uses a disk and gets its completions. What is promised about a crash, and what is not:
// - a write is durable only after a sync of its file that was submitted after the write has succeeded; until then any
//   subset of its sectors may be there, in any order with other writes;
// - a created or removed name is durable only after dir_sync();
// - a sync that failed proves nothing about the past or the future of the file.
#ifndef QUEUES_DISK_H
#define QUEUES_DISK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct disk_file; // the implementation's

struct disk_sync {
    // Called once, from the implementation's work function, never from within sync_start(). status:
    // 0 or -errno.
    void (*done)(struct disk_sync *sync, int status);
    void *owner;            // the caller's
    struct disk_sync *next; // the implementation's while the sync is under way
    uint64_t scratch[2];    // likewise
};

struct disk;

// All return 0 or -errno unless said otherwise.
struct disk_ops {
    // Calls found() for every segment file, in any order.
    int (*list)(struct disk *disk, void (*found)(void *arg, uint32_t slot), void *arg);
    // A new file of `size` bytes, allocated in full, that reads as zeros. -EEXIST; -ENOSPC leaves
    // nothing behind.
    int (*create)(struct disk *disk, uint32_t slot, uint64_t size, struct disk_file **ret_file);
    int (*open)(struct disk *disk, uint32_t slot, struct disk_file **ret_file, uint64_t *ret_size);
    int (*remove)(struct disk *disk, uint32_t slot);
    int (*dir_sync)(struct disk *disk);
    // Whole-length; a failure may leave any part written.
    int (*write)(struct disk_file *file, uint64_t offset, const struct iovec *parts, int count);
    int (*read)(struct disk_file *file, uint64_t offset, void *data, size_t size);
    // Waits for the disk: for openings and the start of a segment only.
    int (*sync)(struct disk_file *file);
    // Everything written before this call is durable when done() says 0.
    void (*sync_start)(struct disk_file *file, struct disk_sync *sync);
    // No sync of it is under way. NULL-safe.
    void (*close)(struct disk_file *file);
};

struct disk {
    const struct disk_ops *ops;
};

#endif
