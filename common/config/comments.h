// SPDX-License-Identifier: Apache-2.0
// Comments in a pair file: // to the end of the line, and /* */. They are overwritten with spaces,
// so that every byte that stays keeps its line. Private to common/config.
#ifndef CONFIG_COMMENTS_H
#define CONFIG_COMMENTS_H

#include <stddef.h>

#include "common/base/error.h"

// Works in place on text[0..size). Refuses (-EINVAL) an unfinished comment or string, bytes that no
// text has (zero and control characters), and the escape \u0000, which would end a C string early.
int comments_blank(const char *file, char *text, size_t size, struct error *err);

// The number of the line, from 1, in which text[at] is.
size_t comments_line(const char *text, size_t at);

#endif
