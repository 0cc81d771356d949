// SPDX-License-Identifier: Apache-2.0
// Little-endian integers of wires and disks. Each is a struct of one member, so that the compiler refuses an
// assignment that forgets the conversion. Also: bounded cursors to encode and decode byte strings with, and whether
// bytes are all zero.
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct le16 { uint16_t raw; };
struct le32 { uint32_t raw; };
struct le64 { uint64_t raw; };

static inline uint16_t le16_get(struct le16 v) { return le16toh(v.raw); }
static inline uint32_t le32_get(struct le32 v) { return le32toh(v.raw); }
static inline uint64_t le64_get(struct le64 v) { return le64toh(v.raw); }
static inline struct le16 le16_make(uint16_t v) { return (struct le16){htole16(v)}; }
static inline struct le32 le32_make(uint32_t v) { return (struct le32){htole32(v)}; }
static inline struct le64 le64_make(uint64_t v) { return (struct le64){htole64(v)}; }

// A cursor over bytes that came from outside. After the first read past the end `bad` stays set, every further read
// gives zero, and the caller checks `bad` once at the end.
struct byte_reader {
    const uint8_t *at;
    size_t left;
    bool bad;
};

static inline struct byte_reader byte_reader(const void *data, size_t size)
{
    return (struct byte_reader){data, size, false};
}

// Returns `size` bytes of the input, or NULL (and sets `bad`) when fewer are left.
static inline const void *byte_take(struct byte_reader *r, size_t size)
{
    if (r->bad || size > r->left) {
        r->bad = true;
        return NULL;
    }
    const void *p = r->at;
    r->at += size;
    r->left -= size;
    return p;
}

static inline void byte_copy(struct byte_reader *r, void *to, size_t size)
{
    const void *p = byte_take(r, size);
    if (p)
        memcpy(to, p, size);
    else
        memset(to, 0, size);
}

static inline uint8_t byte_u8(struct byte_reader *r)
{
    uint8_t v;
    byte_copy(r, &v, sizeof(v));
    return v;
}

static inline uint16_t byte_u16(struct byte_reader *r)
{
    struct le16 v;
    byte_copy(r, &v, sizeof(v));
    return le16_get(v);
}

static inline uint32_t byte_u32(struct byte_reader *r)
{
    struct le32 v;
    byte_copy(r, &v, sizeof(v));
    return le32_get(v);
}

static inline uint64_t byte_u64(struct byte_reader *r)
{
    struct le64 v;
    byte_copy(r, &v, sizeof(v));
    return le64_get(v);
}

// The opposite direction: `bad` is set when the buffer is too small.
struct byte_writer {
    uint8_t *start;
    size_t used;
    size_t limit;
    bool bad;
};

static inline struct byte_writer byte_writer(void *buffer, size_t limit)
{
    return (struct byte_writer){buffer, 0, limit, false};
}

static inline void byte_put(struct byte_writer *w, const void *from, size_t size)
{
    if (w->bad || size > w->limit - w->used) {
        w->bad = true;
        return;
    }
    memcpy(w->start + w->used, from, size);
    w->used += size;
}

static inline void byte_put_u8(struct byte_writer *w, uint8_t v) { byte_put(w, &v, 1); }
static inline void byte_put_u16(struct byte_writer *w, uint16_t v)
{
    struct le16 x = le16_make(v);
    byte_put(w, &x, sizeof(x));
}
static inline void byte_put_u32(struct byte_writer *w, uint32_t v)
{
    struct le32 x = le32_make(v);
    byte_put(w, &x, sizeof(x));
}
static inline void byte_put_u64(struct byte_writer *w, uint64_t v)
{
    struct le64 x = le64_make(v);
    byte_put(w, &x, sizeof(x));
}

// Each byte is the one before it: as fast as the C library compares.
static inline bool bytes_are_zero(const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0);
}

#endif
