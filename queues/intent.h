// SPDX-License-Identifier: Apache-2.0
// The intent map of one volume: the regions in which the two ends may differ, as this end knows it. What makes every
// resync partial. On disk before the write that it covers. Format, and what a crash may leave: docs/intent-map.md.
//
// In memory a bit a region of 64 KiB (`set`, exact), and three bits an extent of 1 MiB: *hot* (on disk all regions of a
// hot extent are set, so that a write to it costs two bit tests), *heating* (will be hot when its page is durable) and
// *touched* (since the present generation began). On disk a page of 4 KiB for every 2016 extents. 1 TiB takes 2.1 MiB of
// disk and 2.5 MiB of memory.
//
// Invariants (attacked by tests/unit/test_intent.c, and by the simulator):
//   1. a region is never cleared on disk while it is set in memory, whatever is torn or lost: what a load finds is
//      always a superset of what was set and answered with "covered";
//   2. intent_set() answers 0 only while every region of the range is set in a page that is durable;
//   3. a page that cannot be read, is torn, of another file or another place counts as wholly set.
//
// Pure: the caller writes pages out, syncs, and reports back. One thread. A region leaves only by what its caller knows
// of both ends.
#ifndef QUEUES_INTENT_H
#define QUEUES_INTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INTENT_REGION         (64U * 1024) // bytes that a bit stands for
#define INTENT_REGION_MIN     4096U
#define INTENT_EXTENT         (16 * INTENT_REGION)
#define INTENT_PAGE           4096U // bytes of a page on disk
#define INTENT_FLIGHT_MAX     8     // pages that are written together
#define INTENT_AHEAD_MAX      64    // extents that are heated ahead of a sequential writer
#define INTENT_VOLUME_MAX     (UINT64_C(1) << 48) // bytes
#define INTENT_PAGE_EXTENTS   2016U // extents of one page

struct intent;

struct intent_config {
    uint64_t pair;   // id of the pair
    uint64_t volume; // id of the volume in it: a map of another one is refused
    uint64_t size;   // bytes of the volume; 1 to INTENT_VOLUME_MAX
    uint32_t region; // INTENT_REGION, but in tests with small volumes; a power of two
};

// Nothing is set, and nothing is on disk: every page is to be written. NULL: no memory.
struct intent *intent_new(const struct intent_config *config);
struct intent *intent_free(struct intent *intent);

// ---- The file: a header page, then `intent_pages()` pages. ----

uint64_t intent_file_size(const struct intent *intent); // bytes
uint32_t intent_pages(const struct intent *intent);
void intent_header(const struct intent *intent, void *ret_page); // INTENT_PAGE bytes
// NULL, or why this is not the header of this map: the whole file counts for nothing.
const char *intent_load_header(const struct intent *intent, const void *page);
// Takes page `number` (0 is the first one behind the header) as it is on disk. NULL, or what is wrong with it: its
// regions count as set, and it is to be written again. `page` NULL: it could not be read.
const char *intent_load_page(struct intent *intent, uint32_t number, const void *page);

// ---- Setting ----

// Every region of the range is set. 0: that is durable. 1: it will be once the pages that intent_begin_page() gives are;
// ask again then. The range lies inside the volume.
int intent_set(struct intent *intent, uint64_t offset, uint64_t length);
// The range counts as touched in this generation: it is not cleared at its end.
void intent_touch(struct intent *intent, uint64_t offset, uint64_t length);
// Every region is set.
void intent_fill(struct intent *intent);
// Sets the regions whose bits are 1, from region `first` on (bit 0 of the first byte). -EINVAL: beyond the volume.
int intent_or(struct intent *intent, uint64_t first, const uint8_t *bits, uint32_t count);
// A whole map of the same size is added.
void intent_add(struct intent *intent, const struct intent *other);

// ---- Writing out: one batch at a time, at most INTENT_FLIGHT_MAX pages ----

enum intent_need { INTENT_CLEAN, INTENT_LAZY, INTENT_URGENT };
// URGENT: somebody waits. LAZY: the disk says more than is true; no hurry. What is in flight does not count.
enum intent_need intent_need(const struct intent *intent);
// The next page of this batch, with `need` or more: false when there is none, or the batch is full. It is to be written
// at (*ret_number + 1) * INTENT_PAGE.
bool intent_begin_page(struct intent *intent, enum intent_need need, uint32_t *ret_number, void *ret_page);
bool intent_writing(const struct intent *intent); // a batch was begun
// The batch is durable, or (false) nothing is known of its pages: they are to be written again.
void intent_written(struct intent *intent, bool durable);
// Every page is to be written, as a file that is not relied upon any more has to be.
void intent_rewrite(struct intent *intent);
bool intent_durable(const struct intent *intent); // nothing is to be written, nothing in flight
// Nobody writes any more: no extent is hot, so that the disk, when it is durable, says exactly what the memory does.
void intent_cool(struct intent *intent);
// What is set at this moment has to become durable; intent_marked() says whether something of that is still missing.
void intent_mark(struct intent *intent);
bool intent_marked(const struct intent *intent);

// ---- Clearing ----

// A generation begins: nothing is touched.
void intent_generation(struct intent *intent);
// Clears every extent below `floor` (bytes) that was not touched since. True when there was one. The caller knows that
// both ends are equal there, durably.
bool intent_clear_untouched(struct intent *intent, uint64_t floor);
// Clears the regions that lie wholly in the range (likewise); the last region of the volume may be a part.
void intent_clear(struct intent *intent, uint64_t offset, uint64_t length);

// ---- Looking ----

bool intent_test(const struct intent *intent, uint64_t offset, uint64_t length); // is any region of it set?
// The first run of set regions at or behind `from` (bytes, rounded down to a region): false when there is none. The
// length ends with the volume, and is cut at `length_max`, rounded down to regions.
bool intent_next(const struct intent *intent, uint64_t from, uint64_t length_max, uint64_t *ret_offset,
                 uint64_t *ret_length);
uint64_t intent_bytes(const struct intent *intent, uint64_t from); // that are set at or behind `from`
bool intent_idle(const struct intent *intent);                     // nothing is set, nothing is hot
// Bits of `count` regions from `first` on; both multiples of 16. Returns how many of them there are.
uint32_t intent_bits(const struct intent *intent, uint64_t first, uint8_t *ret_bits, uint32_t count);
uint64_t intent_regions(const struct intent *intent);
uint32_t intent_region(const struct intent *intent); // bytes of one
uint64_t intent_size(const struct intent *intent); // bytes of the volume
size_t intent_memory(const struct intent *intent); // bytes that it takes

#endif
