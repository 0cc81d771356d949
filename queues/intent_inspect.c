// SPDX-License-Identifier: Apache-2.0
#include "queues/intent_inspect.h"

#include <errno.h>
#include <string.h>

#include "common/base/checksum.h"
#include "queues/intent_private.h"

struct look {
    struct disk *disk;
    struct disk_file *file;
    uint32_t slot;
    uint64_t bytes; // of the file
    const struct inspect *inspect;
};

static void tell(const struct look *l, enum inspect_kind kind, uint64_t offset, const char *what)
{
    struct inspect_finding finding = {kind, l->slot, offset, what};
    l->inspect->found(l->inspect->arg, &finding);
}

// What is wrong with the header, taken by itself; NULL: *ret_config is what it says that the map is of, and the file has as
// many pages as that takes.
static const char *header_wrong(const struct look *l, const void *page, uint64_t pair, struct intent_config *ret_config)
{
    struct intent_file_header h;
    memcpy(&h, page, sizeof(h));
    *ret_config = (struct intent_config){
        .pair = pair,
        .volume = le64_get(h.volume),
        .size = le64_get(h.size),
        .region = le32_get(h.region),
    };
    uint32_t region = ret_config->region;
    if (!checksum_same(le64_get(h.checksum), checksum64(&h, offsetof(struct intent_file_header, checksum))))
        return "its header is damaged: everything counts as different";
    if (ret_config->size == 0 || ret_config->size > INTENT_VOLUME_MAX || region < INTENT_REGION_MIN ||
        region > INTENT_EXTENT || (region & (region - 1)) != 0)
        return "its header holds impossible sizes: everything counts as different";
    uint64_t extents = (ret_config->size + 16 * (uint64_t)region - 1) / (16 * (uint64_t)region);
    uint64_t pages = (extents + INTENT_PAGE_EXTENTS - 1) / INTENT_PAGE_EXTENTS;
    return l->bytes == (1 + pages) * INTENT_PAGE ? NULL : "a file of the wrong size: everything counts as different";
}

static void look_at_pages(const struct look *l, struct intent *m, struct intent_summary *summary)
{
    uint8_t page[INTENT_PAGE];
    for (uint32_t i = 0; i < intent_pages(m); i++) {
        uint64_t at = (uint64_t)(i + 1) * INTENT_PAGE;
        bool read = l->disk->ops->read(l->file, at, page, sizeof(page)) >= 0;
        const char *broken = intent_load_page(m, i, read ? page : NULL);
        if (broken)
            tell(l, INSPECT_DAMAGE, at, broken);
    }
    summary->set_bytes = intent_bytes(m, 0);
}

static int look_at_file(const struct look *l, uint64_t pair, struct intent_summary *summary)
{
    uint8_t page[INTENT_PAGE] = {1};
    struct intent_config config;
    const char *broken = l->disk->ops->read(l->file, 0, page, sizeof(page)) < 0
                             ? "its header cannot be read: everything counts as different"
                             : header_wrong(l, page, pair, &config);
    if (broken) {
        // A file is made with its header last.
        static const uint8_t blank[INTENT_PAGE];
        bool unfinished = memcmp(page, blank, sizeof(page)) == 0;
        tell(l, unfinished ? INSPECT_TORN : INSPECT_DAMAGE, 0,
             unfinished ? "it was not finished: everything counts as different" : broken);
        return 0;
    }
    struct intent *m = intent_new(&config);
    if (!m)
        return -ENOMEM;
    broken = intent_load_header(m, page);
    summary->whole = broken != NULL;
    summary->volume = config.volume;
    summary->size = config.size;
    if (broken)
        tell(l, INSPECT_DAMAGE, 0, broken);
    else
        look_at_pages(l, m, summary);
    intent_free(m);
    return 0;
}

int intent_inspect(struct disk *disk, uint32_t slot, uint64_t pair, const struct inspect *inspect,
                   struct intent_summary *ret_summary, struct error *err)
{
    struct look l = {.disk = disk, .slot = slot, .inspect = inspect};
    struct intent_summary summary = {.whole = true};
    int r = disk->ops->open(disk, slot, &l.file, &l.bytes);
    if (r < 0)
        return error_sys(err, r, "intent map %u cannot be opened", slot);
    r = look_at_file(&l, pair, &summary);
    disk->ops->close(l.file);
    if (r < 0)
        return error_sys(err, r, "intent map %u", slot);
    *ret_summary = summary;
    return 0;
}
