// SPDX-License-Identifier: Apache-2.0
// The table of fields of the pair file. One row a field: parser, defaults, canonical form, release
// and man page are made from it, so that none of them can disagree with another. Private to
// common/config.
#ifndef CONFIG_FIELDS_H
#define CONFIG_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field_type {
    FIELD_NUMBER,      // uint32_t
    FIELD_SIZE,        // uint64_t: bytes as a number, or text with K, M, G, T, P (powers of 1024)
    FIELD_BOOL,        // bool
    FIELD_WORD,        // an enum; its value is the index in `words`
    FIELD_PERMISSIONS, // uint32_t: octal text
    FIELD_NAME,        // char *: [a-z0-9-]{1,32}, no dash in front
    FIELD_HOST,        // char *: a machine's name
    FIELD_INTERFACE,   // char *: a network interface
    FIELD_TEXT,        // char *: anything printable
    FIELD_PATH,        // char *: absolute, nothing to be resolved in it
    FIELD_STORE,       // char *: FIELD_PATH or iscsi://
    FIELD_ADDRESS,     // char *: IPv4 or IPv6, in its usual form
    FIELD_NETWORK,     // char *: FIELD_ADDRESS/PREFIX
    FIELD_OBJECT,      // a struct
    FIELD_OBJECTS,     // pointer to structs, and a size_t count
    FIELD_STRINGS,     // pointer to char *, and a size_t count; `item` is the type of each
};

#define FIELD_REQUIRED 0x1
#define FIELD_AGREE    0x2 // in the digest: both ends must have the same

struct field_object;

struct field {
    const char *name;
    enum field_type type;
    enum field_type item; // of FIELD_STRINGS
    unsigned flags;
    size_t offset;
    size_t count_offset; // of lists
    uint64_t min, max;   // of numbers and sizes; of lists: how many
    const char
        *preset; // the default, as text; NULL: none (zero, NULL, or what the object's fields have)
    const char *when;         // the `kind` that this field belongs to; NULL: any
    const char *const *words; // ends with NULL
    const struct field_object *object;
    const char *help;
};

struct field_object {
    const char *name; // of the type, for messages and the reference
    size_t size;
    const struct field *fields;
    size_t field_count;
    const char *help;
};

extern const struct field_object fields_pair; // the whole file
extern const char *const fields_words_end[];
extern const char *const fields_words_mode[];
extern const char *const fields_words_takeover[];
extern const char *const fields_words_kind[];

static inline bool field_is_string(enum field_type type)
{
    return type >= FIELD_NAME && type <= FIELD_NETWORK;
}

// Frees all strings and lists of an object, and leaves it zero.
void fields_release(const struct field_object *object, void *base);

#endif
