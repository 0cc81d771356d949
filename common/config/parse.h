// SPDX-License-Identifier: Apache-2.0
// Text of a pair file -> struct, after the table. Private to common/config; the only file of this
// room that knows cJSON is parse.c.
#ifndef CONFIG_PARSE_H
#define CONFIG_PARSE_H

#include <stddef.h>

#include "common/base/error.h"
#include "common/config/fields.h"

// Fills `base` (all-zero on entry), which is an `object`. On failure it may hold part of it:
// release it either way. `text` is changed: comments are blanked. Zero-terminated; `size` does not
// count that.
int parse_object_text(const char *file, char *text, size_t size, const struct field_object *object,
                      void *base, struct error *err);

#endif
