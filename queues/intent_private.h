// SPDX-License-Identifier: Apache-2.0
// What intent.c (the map in memory) and intent_page.c (its pages on disk) share. For these two
// only.
#ifndef QUEUES_INTENT_PRIVATE_H
#define QUEUES_INTENT_PRIVATE_H

#include "common/base/bytes.h"
#include "queues/intent.h"

#define INTENT_MAGIC   UINT32_C(0x4d495355) // "USIM"
#define INTENT_VERSION 1

// The layout of docs/intent-map.md.
struct intent_file_header {
    struct le32 magic, version;
    struct le64 pair, volume, size;
    struct le32 region, pages;
    uint8_t reserved[4048];
    struct le64 checksum; // of everything before it
};
_Static_assert(sizeof(struct intent_file_header) == INTENT_PAGE, "a page");

struct intent_page {
    struct le32 magic;
    struct le32 number;
    struct le64 counter; // of writes, over the whole file
    struct le64 volume;  // as in the header: a page of another file is not taken for one of this
    uint8_t reserved[32];
    struct le16 bits[INTENT_PAGE_EXTENTS]; // of one extent each
    struct le64 checksum;                  // of everything before it
};
_Static_assert(sizeof(struct intent_page) == INTENT_PAGE, "a page");

// What intent_mark() still waits for.
enum page_mark { MARK_NONE, MARK_FLIGHT, MARK_IMAGE }; // nothing; the batch it is in; an image made from now on

struct page_state {
    uint8_t need;   // enum intent_need
    bool flying;    // in the batch
    uint8_t mark;   // enum page_mark
};

struct intent {
    struct intent_config config;
    uint64_t regions;
    uint32_t extents, pages;
    uint16_t *set;                     // of each extent
    uint64_t *hot, *heating, *touched; // a bit an extent
    struct page_state *page;
    uint32_t needs[INTENT_URGENT + 1]; // how many pages of each need
    uint32_t ahead, ahead_end; // extents heated ahead of a sequential writer, and where they end
    uint64_t counter;
    uint32_t next; // page at which the search for the next one begins: none is passed over for ever
    uint32_t marked;
    unsigned flight_count;
    struct {
        uint32_t number;
        struct intent_page image;
    } flight[INTENT_FLIGHT_MAX];
};

static inline bool intent_bit(const uint64_t *bits, uint32_t at)
{
    return bits[at / 64] >> (at % 64) & 1;
}

static inline void intent_bit_set(uint64_t *bits, uint32_t at)
{
    bits[at / 64] |= UINT64_C(1) << (at % 64);
}

static inline void intent_bit_clear(uint64_t *bits, uint32_t at)
{
    bits[at / 64] &= ~(UINT64_C(1) << (at % 64));
}

// All the regions that the extent has.
uint16_t intent_full(const struct intent *m, uint32_t extent);
// The page is to be written.
void intent_want(struct intent *m, uint32_t page, enum intent_need need);

#endif
