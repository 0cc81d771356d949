// SPDX-License-Identifier: Apache-2.0
// Plain structs <-> JSON, after a table of their fields. The only part of this room that knows
// cJSON; private to it.
//
// Invariant: what json_encode() writes json_decode() reads back as the same struct (integers up to
// 2^53).
#ifndef CONTROL_JSON_H
#define CONTROL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

enum json_type {
    JSON_TEXT,    // char[size]
    JSON_BOOL,    // bool
    JSON_U32,     // uint32_t
    JSON_U64,     // uint64_t
    JSON_I32,     // int
    JSON_TIME,    // int64_t; -1 is null
    JSON_HEX,     // uint64_t as text of 16 digits
    JSON_RAW,     // char *: any JSON value as text, malloc'ed; NULL is null
    JSON_OBJECT,  // a struct
    JSON_OBJECTS, // an array of structs inside the struct, and a size_t count
    JSON_TEXTS,   // an array of char[size], and a size_t count
};

struct json_table;

struct json_field {
    const char *name;
    enum json_type type;
    size_t offset;
    size_t size;         // of a text, or of one element
    size_t count_offset; // of arrays
    size_t max;          // elements of arrays
    const struct json_table *table;
    size_t present_offset; // JSON_OBJECT: a bool that says whether it is there; 0: always is
};

struct json_table {
    const struct json_field *fields;
    size_t count;
};

// malloc'ed text, or NULL when there is no memory (or a raw value is not JSON).
char *json_encode(const struct json_table *table, const void *base, bool pretty);
// An array of the structs that the pointers point to.
char *json_encode_list(const struct json_table *table, const void *const *items, size_t count,
                       bool pretty);

enum json_care {
    JSON_LENIENT, // too long texts and arrays are cut: for what is shown to people
    JSON_STRICT,  // they are refused: for what is acted upon
};

// Fills `base` (all-zero on entry) from `text`, which need not be terminated. Unknown fields are
// ignored, a field of a wrong type is -EBADMSG and named. JSON_RAW fields are the caller's to free,
// on failure too.
int json_decode(const struct json_table *table, const char *text, size_t size, enum json_care care,
                void *base, struct error *err);
// The same for an array of objects, or a single one, each `each` bytes; *ret_items is malloc'ed.
// Lenient. No table with JSON_RAW fields.
int json_decode_list(const struct json_table *table, const char *text, size_t size, size_t each,
                     void **ret_items, size_t *ret_count, struct error *err);

#endif
