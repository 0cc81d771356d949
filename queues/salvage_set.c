// SPDX-License-Identifier: Apache-2.0
#include "queues/salvage_set.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

#define PAGE_BLOCKS (32U * 1024)
#define WORD_BLOCKS 64U

struct page {
    uint64_t words[PAGE_BLOCKS / WORD_BLOCKS];
};

struct salvage_set {
    uint64_t blocks, count;
    struct page *pages[]; // NULL: none of it is in the set
};

static uint64_t page_count(uint64_t blocks)
{
    return (blocks + PAGE_BLOCKS - 1) / PAGE_BLOCKS;
}

struct salvage_set *salvage_set_new(uint64_t blocks)
{
    struct salvage_set *set = calloc(1, sizeof(*set) + page_count(blocks) * sizeof(set->pages[0]));
    if (set)
        set->blocks = blocks;
    return set;
}

struct salvage_set *salvage_set_free(struct salvage_set *set)
{
    for (uint64_t i = 0; set && i < page_count(set->blocks); i++)
        free(set->pages[i]);
    free(set);
    return NULL;
}

int salvage_set_add(struct salvage_set *set, uint64_t first, uint64_t end)
{
    ENSURE(first <= end && end <= set->blocks);
    for (uint64_t at = first; at < end; at++) {
        struct page **page = &set->pages[at / PAGE_BLOCKS];
        if (!*page && !(*page = calloc(1, sizeof(**page))))
            return -ENOMEM;
        uint64_t *word = &(*page)->words[at % PAGE_BLOCKS / WORD_BLOCKS];
        uint64_t bit = UINT64_C(1) << at % WORD_BLOCKS;
        set->count += !(*word & bit);
        *word |= bit;
    }
    return 0;
}

// The first block at or behind `at` whose membership is `in`; `end` where there is none.
static uint64_t seek(const struct salvage_set *set, bool in, uint64_t at, uint64_t end)
{
    while (at < end) {
        const struct page *page = set->pages[at / PAGE_BLOCKS];
        uint64_t word = page ? page->words[at % PAGE_BLOCKS / WORD_BLOCKS] : 0;
        uint64_t wanted = (in ? word : ~word) >> at % WORD_BLOCKS;
        if (wanted)
            return MIN(at + (unsigned)__builtin_ctzll(wanted), end);
        uint64_t step = page || !in ? WORD_BLOCKS : PAGE_BLOCKS;
        at += step - at % step;
    }
    return end;
}

bool salvage_set_next(const struct salvage_set *set, bool in, uint64_t first, uint64_t end,
                      uint64_t *ret_first, uint64_t *ret_end)
{
    ENSURE(first <= end && end <= set->blocks);
    uint64_t at = seek(set, in, first, end);
    if (at == end)
        return false;
    *ret_first = at;
    *ret_end = seek(set, !in, at, end);
    return true;
}

uint64_t salvage_set_count(const struct salvage_set *set)
{
    return set->count;
}
