// SPDX-License-Identifier: Apache-2.0
// One file of a salvage: its format (docs/salvage.md), and reading and writing of its parts. Internal to the salvage.
#ifndef QUEUES_SALVAGE_FILE_H
#define QUEUES_SALVAGE_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/bytes.h"
#include "queues/disk.h"
#include "queues/epoch.h"
#include "queues/salvage.h"

#define SALVAGE_HEADER_MAGIC UINT32_C(0x48565355) // "USVH"
#define SALVAGE_ENTRY_MAGIC  UINT32_C(0x45565355) // "USVE"
#define SALVAGE_VERSION      1
#define SALVAGE_HEADER_SIZE  4096U // the first entry stands behind it
#define SALVAGE_ALIGN        64U   // of an entry
#define SALVAGE_NAME_SIZE    40U

struct salvage_header {
    struct le32 magic;
    uint8_t version;
    uint8_t side;  // enum epoch_opener: the end that it is of
    uint8_t cause; // enum salvage_cause
    uint8_t volumes;
    struct le64 pair;
    struct le32 number; // of the salvage
    struct le32 index;  // of this file in it
    struct le64 first;  // number of its first entry
    struct le64 time;   // CLOCK_REALTIME ns when the salvage began
    uint8_t epoch[EPOCH_ENCODED_SIZE]; // the one that was given up
    char name[SALVAGE_NAME_SIZE];      // of the pair
    struct {
        char name[SALVAGE_NAME_SIZE];
        struct le64 size;
    } volume[RECORD_OBJECTS_MAX];
    uint8_t reserved[872];
    struct le64 sum; // of everything before it
};
_Static_assert(sizeof(struct salvage_header) == SALVAGE_HEADER_SIZE, "a format of the disk");

struct salvage_head { // of an entry
    struct le32 magic;
    uint8_t kind; // enum salvage_kind
    uint8_t reserved;
    struct le16 object;
    struct le64 number;  // in its salvage, from 1
    struct le64 offset;  // of the range in the volume, bytes
    struct le64 length;
    struct le64 durable; // entries up to this number were known to be durable when it was written
    struct le64 payload_sum;
    struct le32 salvage; // number of its salvage
    struct le32 status;  // UNREADABLE: the errno
    struct le32 reserved2;
    struct le32 sum; // of the other fields
};
_Static_assert(sizeof(struct salvage_head) == SALVAGE_ALIGN, "a format of the disk");

enum salvage_file_state {
    SALVAGE_FILE_BLANK, // its creation was not finished: holds nothing
    SALVAGE_FILE_BAD,   // its header cannot be read
    SALVAGE_FILE_GOOD,
};

struct salvage_file {
    struct disk *disk;
    struct disk_file *file;
    uint32_t slot;
    uint64_t size; // bytes of the file
    enum salvage_file_state state;
    struct salvage_header header; // GOOD
    uint64_t end;                 // where the next entry goes
};

// -errno where not even that can be told.
int salvage_file_open(struct disk *disk, uint32_t slot, struct salvage_file **ret_file);
// Creates the file with this header, which is sealed here; durable, with its name, on return of 0.
int salvage_file_create(struct disk *disk, uint32_t slot, uint64_t size,
                        const struct salvage_header *header, struct salvage_file **ret_file);
struct salvage_file *salvage_file_free(struct salvage_file *file); // NULL-safe

uint64_t salvage_entry_span(enum salvage_kind kind, uint64_t length); // bytes that it takes
// Writes it at `end` and moves `end`. Nothing is moved on failure. `data` is NULL where the kind has none.
int salvage_file_append(struct salvage_file *file, struct salvage_head *head, const void *data);
// The entry at `offset`. NULL, and *ret_data (free(); NULL where the kind has none) and *ret_next are set; or what is
// wrong with it; "" where there is none, because nothing was ever written there.
const char *salvage_file_read(const struct salvage_file *file, uint64_t offset,
                              struct salvage_entry *ret_entry, uint64_t *ret_durable,
                              void **ret_data, uint64_t *ret_next);
// The next place behind `offset` where a whole entry with a number from `above` on stands; 0: none.
uint64_t salvage_file_search(const struct salvage_file *file, uint64_t offset, uint64_t above);

#endif
