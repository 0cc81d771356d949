// SPDX-License-Identifier: Apache-2.0
// See frame.h.
#include "common/channel/frame.h"

#include <string.h>

#include "common/base/error.h"
#include "common/channel/seal.h"

_Static_assert(SEAL_OVERHEAD == 16, "FRAME_OVERHEAD counts it");
#define SEALED_MIN (sizeof(struct frame_inner) + SEAL_OVERHEAD)

void frame_fill(struct frame_header *to, const struct frame *frame)
{
    *to = (struct frame_header){
        .magic = le32_make(FRAME_MAGIC),
        .version = FRAME_VERSION,
        .kind = (uint8_t)frame->kind,
        .side = (uint8_t)frame->side,
        .path = (uint8_t)frame->path,
        .nonce = le64_make(frame->nonce),
        .counter = le64_make(frame->counter),
        .size = le32_make(frame->size),
        .flags = frame->from_initiator ? FRAME_FROM_INITIATOR : 0,
    };
}

static const char *header_invalid(const struct frame_header *h, size_t body)
{
    if (le32_get(h->magic) != FRAME_MAGIC)
        return "not a message of this program";
    if (h->version != FRAME_VERSION)
        return "a message of another version of the wire format";
    if (h->kind == 0 || h->kind >= FRAME_KIND_END)
        return "an unknown kind of message";
    if (h->side > CHANNEL_SIDE_DATA)
        return "neither a control nor a data link";
    if (h->path >= CHANNEL_PATHS_MAX)
        return "a path beyond the last one";
    if (h->flags & ~FRAME_FROM_INITIATOR)
        return "an unknown flag";
    if (h->reserved[0] || h->reserved[1] || h->reserved[2])
        return "reserved bytes that are not zero";
    if (le32_get(h->size) != body)
        return "a size that is not the message's";
    return NULL;
}

static const char *kind_invalid(const struct frame *f)
{
    switch (f->kind) {
    case FRAME_HANDSHAKE:
        if (f->nonce == 0 || f->counter != 0)
            return "a handshake without nonce, or with a counter";
        return f->size == 0 || f->size > SEAL_HANDSHAKE_MAX ? "a handshake of a wrong size" : NULL;
    case FRAME_SEALED:
        if (f->nonce == 0 || f->counter == 0)
            return "a sealed message without nonce or counter";
        return f->size < SEALED_MIN ? "a sealed message that is too short" : NULL;
    case FRAME_BUNDLE:
        if (f->nonce == 0 || f->counter != 0)
            return "a bundle without nonce, or with a counter";
        return f->size < sizeof(struct frame_entry) || f->size > FRAME_BUNDLE_MAX ? "a bundle of a wrong size" : NULL;
    default:
        return f->size != 0 || f->counter != 0 ? "a reset with contents" : NULL;
    }
}

const char *frame_parse(const void *data, size_t size, struct frame *ret_frame)
{
    struct frame_header h;
    if (size < sizeof(h))
        return "shorter than a header";
    memcpy(&h, data, sizeof(h));
    const char *why = header_invalid(&h, size - sizeof(h));
    if (why)
        return why;
    struct frame f = {
        .kind = h.kind,
        .side = h.side,
        .path = h.path,
        .from_initiator = h.flags & FRAME_FROM_INITIATOR,
        .nonce = le64_get(h.nonce),
        .counter = le64_get(h.counter),
        .size = le32_get(h.size),
    };
    why = kind_invalid(&f);
    if (!why)
        *ret_frame = f;
    return why;
}

size_t frame_entry_whole(size_t size)
{
    return sizeof(struct frame_entry) + (size + 7) / 8 * 8;
}

void frame_entry_fill(uint8_t *to, uint32_t slot, size_t size)
{
    struct frame_entry entry = {.slot = le32_make(slot), .size = le32_make((uint32_t)size)};
    memcpy(to, &entry, sizeof(entry));
    memset(to + sizeof(entry) + size, 0, frame_entry_whole(size) - sizeof(entry) - size);
}

bool frame_entry_next(uint8_t *data, size_t size, size_t *at, uint32_t *ret_slot, uint8_t **ret_message, size_t *ret_size)
{
    struct frame_entry entry;
    if (size - *at < sizeof(entry))
        return false;
    memcpy(&entry, data + *at, sizeof(entry));
    size_t length = le32_get(entry.size);
    if (length > size - *at || frame_entry_whole(length) > size - *at)
        return false;
    *ret_slot = le32_get(entry.slot);
    *ret_message = data + *at + sizeof(entry);
    *ret_size = length;
    *at += frame_entry_whole(length);
    return true;
}

void hello_fill(struct frame_hello *to, const struct hello *hello)
{
    size_t length = strlen(hello->pair);
    ENSURE(length > 0 && length <= CHANNEL_NAME_MAX);
    *to = (struct frame_hello){
        .protocol = le32_make(hello->protocol),
        .round = le32_make(hello->round),
        .echo = le32_make(hello->echo),
        .identity = (uint8_t)hello->identity,
        .want_reply = hello->want_reply,
        .pair_size = (uint8_t)length,
        .run = le64_make(hello->run),
        .home = le64_make(hello->home),
        .slot = le32_make(hello->slot),
    };
    memcpy(to->digest, hello->digest, sizeof(to->digest));
    memcpy(to->pair, hello->pair, length);
}

const char *hello_parse(const void *data, size_t size, uint32_t own_protocol,
                        struct hello *ret_hello)
{
    struct frame_hello h;
    if (size < sizeof(h.protocol))
        return "a hello without protocol version";
    memcpy(&h, data, size < sizeof(h) ? size : sizeof(h));
    if (le32_get(h.protocol) != own_protocol) {
        *ret_hello = (struct hello){.protocol = le32_get(h.protocol)};
        return NULL;
    }
    if (size != sizeof(h))
        return "a hello of a wrong size";
    if (h.identity != CHANNEL_PRIMARY && h.identity != CHANNEL_SECONDARY)
        return "a hello of an unknown identity";
    if (h.pair_size == 0 || h.pair_size > CHANNEL_NAME_MAX || memchr(h.pair, 0, h.pair_size))
        return "a hello without a pair's name";
    if (le64_get(h.run) == 0 || le32_get(h.round) == 0)
        return "a hello without run or round";
    *ret_hello = (struct hello){
        .protocol = le32_get(h.protocol),
        .round = le32_get(h.round),
        .echo = le32_get(h.echo),
        .identity = h.identity,
        .want_reply = h.want_reply != 0,
        .run = le64_get(h.run),
        .home = le64_get(h.home),
        .slot = le32_get(h.slot),
    };
    memcpy(ret_hello->digest, h.digest, sizeof(h.digest));
    memcpy(ret_hello->pair, h.pair, h.pair_size);
    return NULL;
}
