// SPDX-License-Identifier: Apache-2.0
// Single values of the pair file: text -> value with its limits, and what is allowed in words.
// Private to common/config.
#ifndef CONFIG_VALUE_H
#define CONFIG_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config/fields.h"

#define VALUE_TEXT_MAX 1024 // characters of a string in a pair file

// "10G", "512", "64 MiB" -> bytes. Returns -EINVAL for anything else, -ERANGE when it does not fit.
int value_size(const char *text, uint64_t *ret_bytes);

// Stores `text` as the field's value at `to` (strings: malloc'ed, addresses in their usual form).
// Returns -EINVAL when it is not allowed, -ENOMEM; `to` is untouched then. Not for booleans,
// objects and lists.
int value_set(const struct field *field, enum field_type type, const char *text, void *to);

// Writes what is allowed for the field ("a size from 1M to 1P, as bytes or text like \"10G\"").
void value_allowed(const struct field *field, enum field_type type, char *buffer, size_t size);

// How many letters `text` is away from `candidate`, when that is few enough for it to have been
// meant; -1 otherwise.
int value_near(const char *text, const char *candidate);

#endif
