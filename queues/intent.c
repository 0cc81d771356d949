// SPDX-License-Identifier: Apache-2.0
// The intent map in memory (intent.h); its pages are in intent_page.c.
#include "queues/intent_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

// ---- bits ----

static size_t words(uint64_t bits)
{
    return (size_t)((bits + 63) / 64);
}

uint16_t intent_full(const struct intent *m, uint32_t extent)
{
    if (extent + 1 < m->extents)
        return UINT16_MAX;
    unsigned rest = (unsigned)(m->regions - (uint64_t)extent * 16);
    return (uint16_t)((1U << rest) - 1);
}

// ---- making ----

struct intent *intent_new(const struct intent_config *config)
{
    ENSURE(config->size > 0 && config->size <= INTENT_VOLUME_MAX);
    ENSURE(config->region >= INTENT_REGION_MIN && (config->region & (config->region - 1)) == 0);
    struct intent *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->config = *config;
    m->regions = (config->size + config->region - 1) / config->region;
    m->extents = (uint32_t)((m->regions + 15) / 16);
    m->pages = (m->extents + INTENT_PAGE_EXTENTS - 1) / INTENT_PAGE_EXTENTS;
    m->set = calloc(m->extents, sizeof(*m->set));
    m->hot = calloc(words(m->extents), sizeof(*m->hot));
    m->heating = calloc(words(m->extents), sizeof(*m->heating));
    m->touched = calloc(words(m->extents), sizeof(*m->touched));
    m->page = calloc(m->pages, sizeof(*m->page));
    if (!m->set || !m->hot || !m->heating || !m->touched || !m->page)
        return intent_free(m);
    intent_rewrite(m);
    return m;
}

struct intent *intent_free(struct intent *m)
{
    if (!m)
        return NULL;
    free(m->set);
    free(m->hot);
    free(m->heating);
    free(m->touched);
    free(m->page);
    free(m);
    return NULL;
}

// ---- setting ----

// On disk the extent will be wholly set. It is already where the page says so: after a load, or a
// fill.
static void heat(struct intent *m, uint32_t extent)
{
    const struct page_state *page = &m->page[extent / INTENT_PAGE_EXTENTS];
    if (m->set[extent] == intent_full(m, extent) && page->need == INTENT_CLEAN && !page->flying) {
        intent_bit_set(m->hot, extent);
        return;
    }
    intent_bit_set(m->heating, extent);
    intent_want(m, extent / INTENT_PAGE_EXTENTS, INTENT_URGENT);
}

static bool is_cold(const struct intent *m, uint32_t extent)
{
    return !intent_bit(m->hot, extent) && !intent_bit(m->heating, extent);
}

// A writer that goes on where the last heated run ends finds what follows hot: it waits for a sync
// once in a while, at first, and not at all later.
static void heat_ahead(struct intent *m, uint32_t extent, bool cold)
{
    if (cold && extent != m->ahead_end) {
        m->ahead = 0;
        m->ahead_end = extent + 1;
        return;
    }
    bool near = extent <= m->ahead_end && extent + m->ahead / 2 + 1 >= m->ahead_end;
    if (!near || (!cold && m->ahead == 0))
        return;
    m->ahead = MIN(MAX(2 * m->ahead, 1), INTENT_AHEAD_MAX);
    uint32_t end = MIN(m->ahead_end + m->ahead, m->extents);
    for (uint32_t i = m->ahead_end; i < end; i++) {
        if (is_cold(m, i))
            heat(m, i);
    }
    m->ahead_end = MAX(end, extent + 1);
}

// Returns whether it is durable.
static bool set_extent(struct intent *m, uint32_t extent, uint16_t bits)
{
    bool cold = is_cold(m, extent);
    if (cold)
        heat(m, extent);
    m->set[extent] |= bits;
    intent_bit_set(m->touched, extent);
    heat_ahead(m, extent, cold);
    return intent_bit(m->hot, extent);
}

// The regions of `extent` between the regions `first` and `last`.
static uint16_t bits_between(uint32_t extent, uint64_t first, uint64_t last)
{
    uint64_t start = (uint64_t)extent * 16;
    unsigned from = first > start ? (unsigned)(first - start) : 0;
    unsigned to = last < start + 15 ? (unsigned)(last - start) : 15;
    return (uint16_t)((UINT32_C(2) << to) - (UINT32_C(1) << from));
}

static void check_range(const struct intent *m, uint64_t offset, uint64_t length)
{
    ENSURE(length > 0 && offset < m->config.size && length <= m->config.size - offset);
}

int intent_set(struct intent *m, uint64_t offset, uint64_t length)
{
    check_range(m, offset, length);
    uint64_t first = offset / m->config.region, last = (offset + length - 1) / m->config.region;
    bool durable = true;
    for (uint32_t i = (uint32_t)(first / 16); i <= last / 16; i++)
        durable &= set_extent(m, i, bits_between(i, first, last));
    return durable ? 0 : 1;
}

void intent_touch(struct intent *m, uint64_t offset, uint64_t length)
{
    check_range(m, offset, length);
    for (uint64_t i = offset / ((uint64_t)m->config.region * 16);
         i <= (offset + length - 1) / ((uint64_t)m->config.region * 16); i++)
        intent_bit_set(m->touched, (uint32_t)i);
}

void intent_fill(struct intent *m)
{
    for (uint32_t i = 0; i < m->extents; i++)
        m->set[i] = intent_full(m, i);
    intent_rewrite(m);
}

// Bits that are to be durable, but whose extent is not being written to.
static void add_bits(struct intent *m, uint32_t extent, uint16_t bits)
{
    if (!(bits & ~m->set[extent]))
        return;
    m->set[extent] |= bits;
    if (!intent_bit(m->hot, extent))
        intent_want(m, extent / INTENT_PAGE_EXTENTS, INTENT_URGENT);
}

int intent_or(struct intent *m, uint64_t first, const uint8_t *bits, uint32_t count)
{
    if (first > m->regions || count > m->regions - first)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t region = first + i;
        if (bits[i / 8] >> (i % 8) & 1)
            add_bits(m, (uint32_t)(region / 16), (uint16_t)(1U << region % 16));
    }
    return 0;
}

void intent_add(struct intent *m, const struct intent *other)
{
    ENSURE(m->regions == other->regions);
    for (uint32_t i = 0; i < m->extents; i++)
        add_bits(m, i, other->set[i]);
}

// ---- clearing ----

void intent_generation(struct intent *m)
{
    memset(m->touched, 0, words(m->extents) * sizeof(*m->touched));
}

static void clear_extent(struct intent *m, uint32_t extent, uint16_t bits)
{
    m->set[extent] &= (uint16_t)~bits;
    if (!m->set[extent])
        intent_bit_clear(m->hot, extent);
    intent_want(m, extent / INTENT_PAGE_EXTENTS, INTENT_LAZY);
}

bool intent_clear_untouched(struct intent *m, uint64_t floor)
{
    uint32_t end = floor >= m->config.size ? m->extents
                                           : (uint32_t)(floor / ((uint64_t)m->config.region * 16));
    bool cleared = false;
    for (uint32_t i = 0; i < end; i++) {
        if (i % 64 == 0 && i + 64 <= end && !(~m->touched[i / 64] & ~m->heating[i / 64])) {
            i += 63;
            continue;
        }
        bool used = m->set[i] || intent_bit(m->hot, i);
        if (!used || intent_bit(m->touched, i) || intent_bit(m->heating, i))
            continue;
        clear_extent(m, i, UINT16_MAX);
        cleared = true;
    }
    return cleared;
}

void intent_clear(struct intent *m, uint64_t offset, uint64_t length)
{
    check_range(m, offset, length);
    uint64_t first = (offset + m->config.region - 1) / m->config.region;
    uint64_t end =
        offset + length == m->config.size ? m->regions : (offset + length) / m->config.region;
    if (first >= end)
        return;
    for (uint32_t i = (uint32_t)(first / 16); i <= (end - 1) / 16; i++) {
        uint16_t bits = bits_between(i, first, end - 1);
        if (m->set[i] & bits)
            clear_extent(m, i, bits);
    }
}

void intent_cool(struct intent *m)
{
    for (uint32_t i = 0; i < m->extents; i++) {
        if (is_cold(m, i))
            continue;
        intent_bit_clear(m->hot, i);
        intent_bit_clear(m->heating, i);
        if (m->set[i] != intent_full(m, i))
            intent_want(m, i / INTENT_PAGE_EXTENTS, INTENT_LAZY);
    }
    m->ahead = 0;
}

// ---- looking ----

bool intent_test(const struct intent *m, uint64_t offset, uint64_t length)
{
    check_range(m, offset, length);
    uint64_t first = offset / m->config.region, last = (offset + length - 1) / m->config.region;
    for (uint32_t i = (uint32_t)(first / 16); i <= last / 16; i++) {
        if (m->set[i] & bits_between(i, first, last))
            return true;
    }
    return false;
}

static bool region_set(const struct intent *m, uint64_t region)
{
    return m->set[region / 16] >> (region % 16) & 1;
}

bool intent_next(const struct intent *m, uint64_t from, uint64_t length_max, uint64_t *ret_offset,
                 uint64_t *ret_length)
{
    ENSURE(length_max >= m->config.region);
    uint64_t at = from / m->config.region;
    while (at < m->regions && !region_set(m, at))
        at = m->set[at / 16] >> (at % 16) ? at + 1 : (at / 16 + 1) * 16;
    if (at >= m->regions)
        return false;
    uint64_t end = at + 1, limit = MIN(at + length_max / m->config.region, m->regions);
    while (end < limit && region_set(m, end))
        end++;
    *ret_offset = at * m->config.region;
    *ret_length = MIN(end * m->config.region, m->config.size) - *ret_offset;
    return true;
}

uint64_t intent_bytes(const struct intent *m, uint64_t from)
{
    uint64_t first = from / m->config.region, count = 0;
    if (first >= m->regions)
        return 0;
    count = (uint64_t)__builtin_popcount(m->set[first / 16] >> (first % 16));
    for (uint32_t i = (uint32_t)(first / 16) + 1; i < m->extents; i++)
        count += (uint64_t)__builtin_popcount(m->set[i]);
    uint64_t bytes = count * m->config.region;
    if (region_set(m, m->regions - 1))
        bytes -= m->regions * m->config.region - m->config.size;
    return bytes;
}

bool intent_idle(const struct intent *m)
{
    for (uint32_t i = 0; i < m->extents; i++) {
        if (m->set[i])
            return false;
    }
    for (size_t i = 0; i < words(m->extents); i++) {
        if (m->hot[i] | m->heating[i])
            return false;
    }
    return true;
}

uint32_t intent_bits(const struct intent *m, uint64_t first, uint8_t *ret_bits, uint32_t count)
{
    ENSURE(first % 16 == 0 && count % 16 == 0);
    if (first >= m->regions)
        return 0;
    uint32_t end = (uint32_t)MIN(first / 16 + count / 16, m->extents);
    for (uint32_t i = (uint32_t)(first / 16), at = 0; i < end; i++, at += 2) {
        ret_bits[at] = (uint8_t)m->set[i];
        ret_bits[at + 1] = (uint8_t)(m->set[i] >> 8);
    }
    return (uint32_t)MIN((uint64_t)count, m->regions - first);
}

uint64_t intent_regions(const struct intent *m)
{
    return m->regions;
}

uint32_t intent_region(const struct intent *m)
{
    return m->config.region;
}

uint64_t intent_size(const struct intent *m)
{
    return m->config.size;
}

size_t intent_memory(const struct intent *m)
{
    return sizeof(*m) + m->extents * sizeof(*m->set) + 3 * words(m->extents) * sizeof(uint64_t) +
           m->pages * sizeof(*m->page);
}
