// SPDX-License-Identifier: Apache-2.0
// One file of a salvage (salvage_file.h, docs/salvage.md).
#include "queues/salvage_file.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/bytes.h"
#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/error.h"

#define SEARCH_CHUNK (256U * 1024)
_Static_assert(SEARCH_CHUNK % SALVAGE_ALIGN == 0, "no head lies across two chunks");

static uint64_t header_sum(const struct salvage_header *h)
{
    return checksum64(h, offsetof(struct salvage_header, sum));
}

static uint32_t head_sum(const struct salvage_head *h)
{
    struct salvage_head copy = *h;
    copy.sum = le32_make(0);
    return checksum32(&copy, sizeof(copy));
}

// A name as the pair file allows it, and nothing that a terminal or a path would obey.
static bool name_valid(const char name[SALVAGE_NAME_SIZE])
{
    size_t length = strnlen(name, SALVAGE_NAME_SIZE);
    if (length == 0 || length > 32 || !bytes_are_zero(name + length, SALVAGE_NAME_SIZE - length))
        return false;
    for (size_t i = 0; i < length; i++)
        if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9') &&
            name[i] != '-')
            return false;
    return true;
}

static bool header_valid(const struct salvage_header *h)
{
    struct epoch epoch;
    if (le32_get(h->magic) != SALVAGE_HEADER_MAGIC || h->version != SALVAGE_VERSION ||
        !checksum_same(le64_get(h->sum), header_sum(h)))
        return false;
    if (h->side != EPOCH_BY_PRIMARY && h->side != EPOCH_BY_SECONDARY)
        return false;
    if (h->cause == 0 || h->cause >= SALVAGE_CAUSE_END || h->volumes > RECORD_OBJECTS_MAX)
        return false;
    if (le32_get(h->number) == 0 || le32_get(h->number) >= INT32_MAX ||
        le32_get(h->index) >= SALVAGE_FILES_MAX || le64_get(h->first) == 0 ||
        le64_get(h->first) > INT64_MAX || epoch_decode(h->epoch, EPOCH_ENCODED_SIZE, &epoch))
        return false;
    for (unsigned i = 0; i < h->volumes; i++)
        if (!name_valid(h->volume[i].name) || le64_get(h->volume[i].size) > INT64_MAX)
            return false;
    return name_valid(h->name);
}

static int read_header(struct salvage_file *f)
{
    struct salvage_head first;
    int rc = f->disk->ops->read(f->file, 0, &f->header, sizeof(f->header));
    if (rc == -EIO)
        f->state = SALVAGE_FILE_BAD;
    if (rc < 0)
        return rc == -EIO ? 0 : rc;
    if (header_valid(&f->header)) {
        f->state = SALVAGE_FILE_GOOD;
        return 0;
    }
    // Nothing is written behind a header that is not durable.
    rc = f->disk->ops->read(f->file, SALVAGE_HEADER_SIZE, &first, sizeof(first));
    f->state = rc == 0 && bytes_are_zero(&first, sizeof(first)) ? SALVAGE_FILE_BLANK : SALVAGE_FILE_BAD;
    return 0;
}

int salvage_file_open(struct disk *disk, uint32_t slot, struct salvage_file **ret_file)
{
    struct salvage_file *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    *f = (struct salvage_file){.disk = disk, .slot = slot, .end = SALVAGE_HEADER_SIZE};
    int rc = disk->ops->open(disk, slot, &f->file, &f->size);
    if (rc == 0 && f->size < SALVAGE_HEADER_SIZE + SALVAGE_ALIGN)
        f->state = SALVAGE_FILE_BLANK;
    else if (rc == 0)
        rc = read_header(f);
    if (rc < 0) {
        salvage_file_free(f);
        return rc;
    }
    *ret_file = f;
    return 0;
}

static int write_header(struct salvage_file *f)
{
    struct iovec part = {&f->header, sizeof(f->header)};
    int rc = f->disk->ops->write(f->file, 0, &part, 1);
    if (rc == 0)
        rc = f->disk->ops->sync(f->file);
    return rc == 0 ? f->disk->ops->dir_sync(f->disk) : rc;
}

int salvage_file_create(struct disk *disk, uint32_t slot, uint64_t size,
                        const struct salvage_header *header, struct salvage_file **ret_file)
{
    struct salvage_file *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    *f = (struct salvage_file){.disk = disk,
                               .slot = slot,
                               .size = size,
                               .state = SALVAGE_FILE_GOOD,
                               .header = *header,
                               .end = SALVAGE_HEADER_SIZE};
    f->header.magic = le32_make(SALVAGE_HEADER_MAGIC);
    f->header.version = SALVAGE_VERSION;
    f->header.sum = le64_make(header_sum(&f->header));
    ENSURE(header_valid(&f->header));
    int rc = disk->ops->create(disk, slot, size, &f->file);
    bool created = rc == 0;
    if (rc == 0)
        rc = write_header(f);
    if (rc < 0) {
        salvage_file_free(f);
        if (created)
            (void)disk->ops->remove(disk, slot);
        return rc;
    }
    *ret_file = f;
    return 0;
}

struct salvage_file *salvage_file_free(struct salvage_file *f)
{
    if (f && f->file)
        f->disk->ops->close(f->file);
    free(f);
    return NULL;
}

static uint64_t padding(uint64_t length)
{
    return (SALVAGE_ALIGN - length % SALVAGE_ALIGN) % SALVAGE_ALIGN;
}

uint64_t salvage_entry_span(enum salvage_kind kind, uint64_t length)
{
    uint64_t payload = kind == SALVAGE_DATA ? length : 0;
    return sizeof(struct salvage_head) + payload + padding(payload);
}

int salvage_file_append(struct salvage_file *f, struct salvage_head *head, const void *data)
{
    static const uint8_t zeros[SALVAGE_ALIGN];
    uint64_t payload = head->kind == SALVAGE_DATA ? le64_get(head->length) : 0;
    uint64_t span = salvage_entry_span(head->kind, payload);
    struct iovec parts[] = {
        {head, sizeof(*head)},
        {(void *)(uintptr_t)data, payload},
        {(void *)(uintptr_t)zeros, padding(payload)},
    };

    ENSURE(span <= f->size - f->end);
    head->magic = le32_make(SALVAGE_ENTRY_MAGIC);
    head->payload_sum = le64_make(payload ? checksum64(data, payload) : 0);
    head->sum = le32_make(head_sum(head));
    int rc = f->disk->ops->write(f->file, f->end, parts, payload ? 3 : 1);
    if (rc == 0)
        f->end += span;
    return rc;
}

static const char *head_invalid(const struct salvage_file *f, const struct salvage_head *h,
                                uint64_t offset)
{
    if (le32_get(h->magic) != SALVAGE_ENTRY_MAGIC)
        return "no entry begins there";
    if (!checksum_same(le32_get(h->sum), head_sum(h)))
        return "the head of an entry is damaged";
    uint64_t at = le64_get(h->offset), length = le64_get(h->length);
    bool ranged = h->kind != SALVAGE_DONE;
    if (h->kind == 0 || h->kind >= SALVAGE_KIND_END || h->reserved || le32_get(h->reserved2) ||
        le64_get(h->number) == 0 || le64_get(h->number) > INT64_MAX ||
        le32_get(h->status) > INT16_MAX)
        return "an entry of an unknown kind";
    if (f->state == SALVAGE_FILE_GOOD && le32_get(h->salvage) != le32_get(f->header.number))
        return "an entry of another salvage";
    if (ranged != (length > 0) || at > INT64_MAX || length > INT64_MAX - at)
        return "an entry of an impossible range";
    if (ranged && f->state == SALVAGE_FILE_GOOD &&
        (le16_get(h->object) >= f->header.volumes ||
         at + length > le64_get(f->header.volume[le16_get(h->object)].size)))
        return "an entry outside the volumes";
    if (h->kind == SALVAGE_DATA && length > SALVAGE_ENTRY_MAX)
        return "an entry that is too long";
    if (salvage_entry_span(h->kind, length) > f->size - offset)
        return "an entry that reaches behind the end of its file";
    return NULL;
}

// Everything behind the head.
static const char *read_payload(const struct salvage_file *f, const struct salvage_head *h,
                                uint64_t offset, void **ret_data)
{
    if (h->kind != SALVAGE_DATA) {
        *ret_data = NULL;
        return le64_get(h->payload_sum) ? "an entry without data has a checksum of data" : NULL;
    }
    uint64_t length = le64_get(h->length), padded = length + padding(length);
    CLEANUP_FREE uint8_t *data = malloc(padded);
    if (!data)
        return "out of memory";
    if (f->disk->ops->read(f->file, offset + sizeof(*h), data, padded) < 0)
        return "the data of an entry cannot be read";
    if (!checksum_same(le64_get(h->payload_sum), checksum64(data, length)) ||
        !bytes_are_zero(data + length, padded - length))
        return "the data of an entry is damaged";
    *ret_data = TAKE_PTR(data);
    return NULL;
}

const char *salvage_file_read(const struct salvage_file *f, uint64_t offset,
                              struct salvage_entry *ret_entry, uint64_t *ret_durable,
                              void **ret_data, uint64_t *ret_next)
{
    struct salvage_head h;
    if (offset > f->size || f->size - offset < sizeof(h))
        return "";
    if (f->disk->ops->read(f->file, offset, &h, sizeof(h)) < 0)
        return "it cannot be read";
    if (bytes_are_zero(&h, sizeof(h)))
        return "";
    const char *broken = head_invalid(f, &h, offset);
    if (!broken)
        broken = read_payload(f, &h, offset, ret_data);
    if (broken)
        return broken;
    *ret_entry = (struct salvage_entry){
        .kind = h.kind,
        .object = le16_get(h.object),
        .number = le64_get(h.number),
        .offset = le64_get(h.offset),
        .length = le64_get(h.length),
        .status = -(int)le32_get(h.status),
    };
    *ret_durable = le64_get(h.durable);
    *ret_next = offset + salvage_entry_span(h.kind, le64_get(h.length));
    return NULL;
}

static bool whole_at(const struct salvage_file *f, uint64_t offset, uint64_t above)
{
    struct salvage_entry entry;
    uint64_t durable, next;
    void *data = NULL;
    const char *broken = salvage_file_read(f, offset, &entry, &durable, &data, &next);
    free(data);
    return !broken && entry.number >= above;
}

uint64_t salvage_file_search(const struct salvage_file *f, uint64_t offset, uint64_t above)
{
    CLEANUP_FREE uint8_t *chunk = malloc(SEARCH_CHUNK);
    uint64_t at = (offset / SALVAGE_ALIGN + 1) * SALVAGE_ALIGN;

    while (chunk && at + sizeof(struct salvage_head) <= f->size) {
        uint64_t size = MIN(SEARCH_CHUNK, (f->size - at) / SALVAGE_ALIGN * SALVAGE_ALIGN);
        if (f->disk->ops->read(f->file, at, chunk, size) < 0)
            memset(chunk, 0, size);
        for (uint64_t i = 0; i < size; i += SALVAGE_ALIGN) {
            struct salvage_head h;
            memcpy(&h, chunk + i, sizeof(h));
            if (!head_invalid(f, &h, at + i) && whole_at(f, at + i, above))
                return at + i;
        }
        at += size;
    }
    return 0;
}
