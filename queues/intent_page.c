// SPDX-License-Identifier: Apache-2.0
// The pages of an intent map: encoded, loaded, and which of them are to be written.
//
// A batch holds the image of each page as it goes to the disk: what became hot by it is looked up
// there when the batch is durable, so that whatever changed meanwhile waits for the next one.
#include "queues/intent_private.h"

#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/error.h"

uint64_t intent_file_size(const struct intent *m)
{
    return (uint64_t)(1 + m->pages) * INTENT_PAGE;
}

uint32_t intent_pages(const struct intent *m)
{
    return m->pages;
}

// ---- header ----

void intent_header(const struct intent *m, void *ret_page)
{
    struct intent_file_header *h = ret_page;
    memset(h, 0, sizeof(*h));
    h->magic = le32_make(INTENT_MAGIC);
    h->version = le32_make(INTENT_VERSION);
    h->pair = le64_make(m->config.pair);
    h->volume = le64_make(m->config.volume);
    h->size = le64_make(m->config.size);
    h->region = le32_make(m->config.region);
    h->pages = le32_make(m->pages);
    h->checksum = le64_make(checksum64(h, offsetof(struct intent_file_header, checksum)));
}

const char *intent_load_header(const struct intent *m, const void *page)
{
    struct intent_file_header h;
    memcpy(&h, page, sizeof(h));
    if (le32_get(h.magic) != INTENT_MAGIC)
        return "not an intent map";
    if (!checksum_same(le64_get(h.checksum),
                       checksum64(&h, offsetof(struct intent_file_header, checksum))))
        return "its header is damaged";
    if (le32_get(h.version) != INTENT_VERSION || !bytes_are_zero(h.reserved, sizeof(h.reserved)))
        return "of another version";
    if (le64_get(h.pair) != m->config.pair)
        return "of another pair";
    if (le64_get(h.volume) != m->config.volume)
        return "of another volume";
    if (le64_get(h.size) != m->config.size)
        return "of a volume of another size";
    if (le32_get(h.region) != m->config.region || le32_get(h.pages) != m->pages)
        return "with regions of another size";
    return NULL;
}

// ---- need ----

void intent_want(struct intent *m, uint32_t page, enum intent_need need)
{
    struct page_state *p = &m->page[page];
    if (p->need >= need)
        return;
    m->needs[p->need]--;
    p->need = (uint8_t)need;
    m->needs[need]++;
}

static void satisfied(struct intent *m, uint32_t page)
{
    struct page_state *p = &m->page[page];
    m->needs[p->need]--;
    p->need = INTENT_CLEAN;
    m->needs[INTENT_CLEAN]++;
}

void intent_rewrite(struct intent *m)
{
    for (uint32_t i = 0; i < m->pages; i++)
        m->page[i].need = INTENT_URGENT;
    memset(m->needs, 0, sizeof(m->needs));
    m->needs[INTENT_URGENT] = m->pages;
}

enum intent_need intent_need(const struct intent *m)
{
    if (m->needs[INTENT_URGENT])
        return INTENT_URGENT;
    return m->needs[INTENT_LAZY] ? INTENT_LAZY : INTENT_CLEAN;
}

bool intent_writing(const struct intent *m)
{
    return m->flight_count > 0;
}

bool intent_durable(const struct intent *m)
{
    return m->flight_count == 0 && intent_need(m) == INTENT_CLEAN;
}

void intent_mark(struct intent *m)
{
    m->marked = 0;
    for (uint32_t i = 0; i < m->pages; i++) {
        struct page_state *page = &m->page[i];
        page->mark = page->need == INTENT_URGENT ? MARK_IMAGE
                     : page->flying              ? MARK_FLIGHT
                                                 : MARK_NONE;
        m->marked += page->mark != MARK_NONE;
    }
}

bool intent_marked(const struct intent *m)
{
    return m->marked > 0;
}

// ---- pages ----

static uint32_t first_extent(uint32_t page)
{
    return page * INTENT_PAGE_EXTENTS;
}

static uint32_t extent_count(const struct intent *m, uint32_t page)
{
    return MIN(INTENT_PAGE_EXTENTS, m->extents - first_extent(page));
}

static void encode(struct intent *m, uint32_t number, struct intent_page *page)
{
    memset(page, 0, sizeof(*page));
    page->magic = le32_make(INTENT_MAGIC);
    page->number = le32_make(number);
    page->counter = le64_make(++m->counter);
    page->volume = le64_make(m->config.volume);
    for (uint32_t i = 0; i < extent_count(m, number); i++) {
        uint32_t extent = first_extent(number) + i;
        bool wholly = intent_bit(m->hot, extent) || intent_bit(m->heating, extent);
        page->bits[i] = le16_make(wholly ? intent_full(m, extent) : m->set[extent]);
    }
    page->checksum = le64_make(checksum64(page, offsetof(struct intent_page, checksum)));
}

static bool next_page(struct intent *m, enum intent_need need, uint32_t *ret_number)
{
    for (uint32_t i = 0; i < m->pages; i++) {
        uint32_t number = m->next + i < m->pages ? m->next + i : m->next + i - m->pages;
        if (m->page[number].need < need || m->page[number].flying)
            continue;
        m->next = number + 1 < m->pages ? number + 1 : 0;
        *ret_number = number;
        return true;
    }
    return false;
}

bool intent_begin_page(struct intent *m, enum intent_need need, uint32_t *ret_number,
                       void *ret_page)
{
    ENSURE(need != INTENT_CLEAN);
    if (m->flight_count == INTENT_FLIGHT_MAX)
        return false;
    uint32_t number;
    if (!next_page(m, need, &number))
        return false;
    unsigned at = m->flight_count++;
    struct page_state *page = &m->page[number];
    m->flight[at].number = number;
    page->flying = true;
    if (page->mark == MARK_IMAGE)
        page->mark = MARK_FLIGHT;
    satisfied(m, number);
    encode(m, number, &m->flight[at].image);
    memcpy(ret_page, &m->flight[at].image, INTENT_PAGE);
    *ret_number = number;
    return true;
}

// Where the durable image has all regions of an extent, a write to it is covered: unless it was
// cleared since.
static void page_durable(struct intent *m, uint32_t number, const struct intent_page *image)
{
    for (uint32_t i = 0; i < extent_count(m, number); i++) {
        uint32_t extent = first_extent(number) + i;
        uint16_t full = intent_full(m, extent);
        bool wanted = intent_bit(m->heating, extent) || m->set[extent] == full;
        if (le16_get(image->bits[i]) != full || !wanted)
            continue;
        intent_bit_clear(m->heating, extent);
        intent_bit_set(m->hot, extent);
    }
}

void intent_written(struct intent *m, bool durable)
{
    for (unsigned i = 0; i < m->flight_count; i++) {
        uint32_t number = m->flight[i].number;
        struct page_state *page = &m->page[number];
        page->flying = false;
        if (page->mark == MARK_FLIGHT) {
            page->mark = durable ? MARK_NONE : MARK_IMAGE;
            m->marked -= durable ? 1 : 0;
        }
        if (durable)
            page_durable(m, number, &m->flight[i].image);
        else
            intent_want(m, number, INTENT_URGENT);
    }
    m->flight_count = 0;
}

// ---- loading ----

static const char *page_invalid(const struct intent *m, uint32_t number,
                                const struct intent_page *page)
{
    if (le32_get(page->magic) != INTENT_MAGIC)
        return "not a page of an intent map";
    if (!checksum_same(le64_get(page->checksum),
                       checksum64(page, offsetof(struct intent_page, checksum))))
        return "torn or damaged";
    if (le32_get(page->number) != number)
        return "a page of another place";
    if (le64_get(page->volume) != m->config.volume)
        return "a page of another volume";
    for (uint32_t i = 0; i < INTENT_PAGE_EXTENTS; i++) {
        uint16_t full = i < extent_count(m, number) ? intent_full(m, first_extent(number) + i) : 0;
        if (le16_get(page->bits[i]) & ~full)
            return "it has regions beyond the volume";
    }
    return NULL;
}

const char *intent_load_page(struct intent *m, uint32_t number, const void *data)
{
    ENSURE(number < m->pages && !intent_writing(m));
    struct intent_page page;
    const char *broken = "it cannot be read";
    if (data) {
        memcpy(&page, data, sizeof(page));
        broken = page_invalid(m, number, &page);
    }
    if (!broken) {
        satisfied(m, number);
        m->counter = MAX(m->counter, le64_get(page.counter));
    }
    for (uint32_t i = 0; i < extent_count(m, number); i++) {
        uint32_t extent = first_extent(number) + i;
        m->set[extent] = broken ? intent_full(m, extent) : le16_get(page.bits[i]);
        if (!broken && m->set[extent] == intent_full(m, extent))
            intent_bit_set(m->hot, extent);
    }
    return broken;
}
