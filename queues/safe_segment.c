// SPDX-License-Identifier: Apache-2.0
// One segment file of a safe queue (safe_segment.h, docs/safe-queue.md).
#include "queues/safe_segment.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/bytes.h"
#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/error.h"

#define SEARCH_CHUNK (256U * 1024)
_Static_assert(SEARCH_CHUNK % SAFE_ENTRY_ALIGN == 0, "no entry lies across two chunks");

static uint32_t header_sum(const struct safe_header *header)
{
    struct safe_header copy = *header;
    copy.header_sum = le32_make(0);
    return checksum32(&copy, sizeof(copy));
}

static uint32_t entry_sum(const struct safe_entry *entry)
{
    struct safe_entry copy = *entry;
    copy.header_sum = le32_make(0);
    return checksum32(&copy, sizeof(copy));
}

static enum safe_header_state header_state(const struct safe_header *h, uint32_t slot,
                                           uint64_t pair)
{
    if (bytes_are_zero(h, sizeof(*h)))
        return HEADER_BLANK;
    if (le32_get(h->magic) != SAFE_HEADER_MAGIC ||
        !checksum_same(le32_get(h->header_sum), header_sum(h)))
        return HEADER_BAD;
    if (h->version != SAFE_VERSION || le64_get(h->pair) != pair)
        return HEADER_FOREIGN;
    if (le32_get(h->slot) != slot || le64_get(h->number) == 0 ||
        le64_get(h->number) > SAFE_NUMBER_MAX || le64_get(h->first_seq) == 0 ||
        le64_get(h->floor) > le64_get(h->number) || le64_get(h->previous) >= le64_get(h->number))
        return HEADER_BAD;
    return HEADER_GOOD;
}

static void take_header(struct safe_segment *s, const struct safe_header *h, unsigned copy)
{
    s->salt = le64_get(h->salt);
    s->number = le64_get(h->number);
    s->previous = le64_get(h->previous);
    s->floor = le64_get(h->floor);
    s->first_seq = le64_get(h->first_seq);
    s->epoch = le64_get(h->epoch);
    s->durable = le64_get(h->durable);
    s->header_copy = copy;
}

// The newer good copy counts. One that is bad beside one that is blank is a creation that was
// interrupted: nothing was ever stored behind it.
static int read_headers(struct safe_segment *s, uint64_t pair, enum safe_header_state *ret_state)
{
    struct safe_header copy[2];
    enum safe_header_state *state = s->copies;

    for (unsigned i = 0; i < 2; i++) {
        int rc = s->disk->ops->read(s->file, i * SAFE_HEADER_STEP, &copy[i], sizeof(copy[i]));
        if (rc < 0 && rc != -EIO)
            return rc;
        state[i] = rc < 0 ? HEADER_BAD : header_state(&copy[i], s->slot, pair);
    }
    bool good0 = state[0] == HEADER_GOOD;
    bool good1 = state[1] == HEADER_GOOD;
    if (good0 || good1) {
        unsigned use = good1 && (!good0 || le64_get(copy[1].number) > le64_get(copy[0].number));
        take_header(s, &copy[use], use);
        *ret_state = HEADER_GOOD;
    } else if (state[0] == HEADER_FOREIGN || state[1] == HEADER_FOREIGN) {
        *ret_state = HEADER_FOREIGN;
    } else {
        bool blank = state[0] == HEADER_BLANK || state[1] == HEADER_BLANK;
        *ret_state = blank ? HEADER_BLANK : HEADER_BAD;
    }
    return 0;
}

static struct safe_segment *segment_new(struct disk *disk, uint32_t slot)
{
    struct safe_segment *s = calloc(1, sizeof(*s));
    if (s) {
        s->disk = disk;
        s->slot = slot;
        s->end = SAFE_ENTRIES_START;
        s->header_copy = 1;
    }
    return s;
}

int safe_segment_open(struct disk *disk, uint32_t slot, uint64_t pair,
                      struct safe_segment **ret_segment, enum safe_header_state *ret_state)
{
    struct safe_segment *s = segment_new(disk, slot);
    int rc = s ? disk->ops->open(disk, slot, &s->file, &s->size) : -ENOMEM;

    if (rc == 0 && s->size < SAFE_ENTRIES_START)
        *ret_state = HEADER_BLANK;
    else if (rc == 0)
        rc = read_headers(s, pair, ret_state);
    if (rc < 0) {
        safe_segment_free(s);
        return rc;
    }
    *ret_segment = s;
    return 0;
}

int safe_segment_create(struct disk *disk, uint32_t slot, uint64_t size,
                        struct safe_segment **ret_segment)
{
    struct safe_segment *s = segment_new(disk, slot);
    int rc = s ? disk->ops->create(disk, slot, size, &s->file) : -ENOMEM;

    if (rc == 0)
        rc = disk->ops->dir_sync(disk);
    if (rc < 0) {
        safe_segment_free(s);
        return rc;
    }
    s->size = size;
    *ret_segment = s;
    return 0;
}

struct safe_segment *safe_segment_free(struct safe_segment *segment)
{
    if (segment && segment->file)
        segment->disk->ops->close(segment->file);
    free(segment);
    return NULL;
}

static int write_header(struct safe_segment *s, const struct safe_header *h, unsigned copy)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)h, .iov_len = sizeof(*h)};
    return s->disk->ops->write(s->file, copy * SAFE_HEADER_STEP, &part, 1);
}

// The other copy first, and durably; only then the one that was valid so far. Its durability comes
// with the entries'.
int safe_segment_begin(struct safe_segment *s, uint64_t pair)
{
    struct safe_header h = {
        .magic = le32_make(SAFE_HEADER_MAGIC),
        .version = SAFE_VERSION,
        .pair = le64_make(pair),
        .salt = le64_make(s->salt),
        .number = le64_make(s->number),
        .previous = le64_make(s->previous),
        .floor = le64_make(s->floor),
        .first_seq = le64_make(s->first_seq),
        .epoch = le64_make(s->epoch),
        .durable = le64_make(s->durable),
        .slot = le32_make(s->slot),
    };
    // A damaged header may have claimed the largest number, and ours has to be above it.
    if (s->number > SAFE_NUMBER_MAX)
        return -EOVERFLOW;
    h.header_sum = le32_make(header_sum(&h));
    ENSURE(header_state(&h, s->slot, pair) == HEADER_GOOD);

    int rc = write_header(s, &h, !s->header_copy);
    if (rc == 0)
        rc = s->disk->ops->sync(s->file);
    if (rc == 0)
        rc = write_header(s, &h, s->header_copy);
    s->end = SAFE_ENTRIES_START;
    s->dirty = true;
    return rc;
}

uint64_t safe_entry_span(uint64_t message_size)
{
    uint64_t size = sizeof(struct safe_entry) + message_size;
    return (size + SAFE_ENTRY_ALIGN - 1) / SAFE_ENTRY_ALIGN * SAFE_ENTRY_ALIGN;
}

int safe_segment_append(struct safe_segment *s, const void *message, size_t size, uint64_t first,
                        uint64_t last, uint64_t epoch)
{
    struct safe_entry e = {
        .magic = le32_make(SAFE_ENTRY_MAGIC),
        .size = le32_make((uint32_t)size),
        .salt = le64_make(s->salt),
        .number = le64_make(s->number),
        .offset = le64_make(s->end),
        .first = le64_make(first),
        .last = le64_make(last),
        .epoch = le64_make(epoch),
    };
    struct iovec parts[2] = {{&e, sizeof(e)}, {(void *)(uintptr_t)message, size}};

    ENSURE(size <= BATCH_MESSAGE_MAX);
    ENSURE(s->end + safe_entry_span(size) <= s->size);
    ENSURE(first <= last && first >= s->first_seq);
    e.header_sum = le32_make(entry_sum(&e));
    s->dirty = true;
    int rc = s->disk->ops->write(s->file, s->end, parts, 2);
    if (rc == 0)
        s->end += safe_entry_span(size);
    return rc;
}

// Whether these bytes were written as an entry of this use of the segment at this place.
static bool is_ours(const struct safe_segment *s, const struct safe_entry *e, uint64_t offset)
{
    return le32_get(e->magic) == SAFE_ENTRY_MAGIC && le64_get(e->salt) == s->salt &&
           le64_get(e->number) == s->number && le64_get(e->offset) == offset;
}

const char *safe_segment_peek(const struct safe_segment *s, uint64_t offset,
                              struct safe_entry *ret_entry, int *ret_error)
{
    struct safe_entry e;

    *ret_error = 0;
    if (offset > s->size || s->size - offset < sizeof(e))
        return "the segment ends here";
    int rc = s->disk->ops->read(s->file, offset, &e, sizeof(e));
    if (rc < 0) {
        *ret_error = rc;
        return "the entry cannot be read from the disk";
    }
    if (!is_ours(s, &e, offset))
        return "there is no entry here";
    if (!checksum_same(le32_get(e.header_sum), entry_sum(&e)))
        return "the entry's header does not match its checksum";
    if (le32_get(e.size) > BATCH_MESSAGE_MAX ||
        safe_entry_span(le32_get(e.size)) > s->size - offset)
        return "the entry does not fit into the segment";
    if (le64_get(e.first) == 0 || le64_get(e.first) > le64_get(e.last))
        return "the entry holds no records";
    *ret_entry = e;
    return NULL;
}

// The message is a valid one, and the one that its entry's header was written for. Its payloads are
// another thing.
static const char *message_invalid(const struct safe_entry *e, const void *message)
{
    const char *broken = batch_invalid(message, le32_get(e->size));
    if (broken)
        return broken;
    const struct batch *b = message;
    uint64_t first = le64_get(b->first_seq);

    if (first > le64_get(e->first) || first + le32_get(b->count) - 1 != le64_get(e->last))
        return "the entry holds other records than its header says";
    return NULL;
}

const char *safe_segment_payloads(const struct safe_found *found)
{
    const struct batch *b = found->message;
    const struct record *records = (const struct record *)(b + 1);
    uint32_t count = le32_get(b->count);
    const uint8_t *payload = (const uint8_t *)(records + count);

    for (uint32_t i = 0; i < count; i++) {
        if (!record_payload_matches(&records[i], payload))
            return "a record's payload does not match its checksum";
        payload += le32_get(records[i].payload);
    }
    return NULL;
}

const char *safe_segment_headers(const struct safe_segment *s, uint64_t offset,
                                 struct safe_found *ret_found, int *ret_error)
{
    struct safe_entry e;
    CLEANUP_FREE void *message = NULL;
    const char *broken = safe_segment_peek(s, offset, &e, ret_error);

    if (broken)
        return broken;
    size_t size = le32_get(e.size);
    message = malloc(size ? size : 1);
    *ret_error = message ? 0 : -ENOMEM;
    if (!message)
        return "there is no memory to read it";
    *ret_error = s->disk->ops->read(s->file, offset + sizeof(e), message, size);
    if (*ret_error < 0)
        return "the entry's message cannot be read from the disk";
    broken = message_invalid(&e, message);
    if (broken)
        return broken;
    *ret_found = (struct safe_found){
        .first = le64_get(e.first),
        .last = le64_get(e.last),
        .epoch = le64_get(e.epoch),
        .next = offset + safe_entry_span(size),
        .size = size,
        .message = TAKE_PTR(message),
    };
    return NULL;
}

const char *safe_segment_read(const struct safe_segment *s, uint64_t offset,
                              struct safe_found *ret_found, int *ret_error)
{
    struct safe_found found;
    const char *broken = safe_segment_headers(s, offset, &found, ret_error);

    if (!broken && (broken = safe_segment_payloads(&found)) != NULL)
        free((void *)(uintptr_t)found.message);
    if (!broken)
        *ret_found = found;
    return broken;
}

uint64_t safe_segment_search(const struct safe_segment *s, uint64_t offset, int *ret_error)
{
    CLEANUP_FREE uint8_t *chunk = malloc(SEARCH_CHUNK);

    *ret_error = chunk ? 0 : -ENOMEM;
    ENSURE(offset % SAFE_ENTRY_ALIGN == 0);
    while (chunk && offset < s->size) {
        size_t size = MIN(SEARCH_CHUNK, s->size - offset);
        *ret_error = s->disk->ops->read(s->file, offset, chunk, size);
        if (*ret_error < 0)
            return 0;
        for (size_t at = 0; at + sizeof(struct safe_entry) <= size; at += SAFE_ENTRY_ALIGN) {
            struct safe_entry e;
            memcpy(&e, chunk + at, sizeof(e));
            if (is_ours(s, &e, offset + at))
                return offset + at;
        }
        offset += size;
    }
    return 0;
}
