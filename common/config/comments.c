// SPDX-License-Identifier: Apache-2.0
#include "common/config/comments.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

size_t comments_line(const char *text, size_t at)
{
    size_t line = 1;
    for (size_t i = 0; i < at; i++)
        line += text[i] == '\n';
    return line;
}

static int refuse(const char *file, const char *text, size_t at, const char *what,
                  struct error *err)
{
    return error_set(err, -EINVAL, "%s:%zu: %s", file, comments_line(text, at), what);
}

static bool starts(const char *text, size_t size, size_t at, const char *with)
{
    size_t length = strlen(with);
    return size - at >= length && memcmp(text + at, with, length) == 0;
}

static void blank(char *text, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        if (text[i] != '\n' && text[i] != '\r')
            text[i] = ' ';
    }
}

// The position behind the string that begins at `at`; 0 when it does not end in its line or hides a
// zero byte.
static size_t string_end(const char *text, size_t size, size_t at, const char **ret_what)
{
    *ret_what = "a string that does not end in its line; a closing quote is missing";
    for (size_t i = at + 1; i < size && text[i] != '\n'; i++) {
        if (text[i] == '"')
            return i + 1;
        if (starts(text, size, i, "\\u0000")) {
            *ret_what = "\\u0000 is not allowed in a string";
            return 0;
        }
        if (text[i] == '\\')
            i++;
    }
    return 0;
}

// The position behind the comment that begins at `at`; 0 when it does not end.
static size_t comment_end(const char *text, size_t size, size_t at)
{
    if (text[at + 1] == '/') {
        const char *end = memchr(text + at, '\n', size - at);
        return end ? (size_t)(end - text) : size;
    }
    const char *end = memmem(text + at + 2, size - at - 2, "*/", 2);
    return end ? (size_t)(end - text) + 2 : 0;
}

static bool is_control(char c)
{
    return (unsigned char)c < ' ' && c != '\n' && c != '\r' && c != '\t';
}

int comments_blank(const char *file, char *text, size_t size, struct error *err)
{
    for (size_t i = 0; i < size; i++) {
        if (is_control(text[i]))
            return refuse(file, text, i, "a control character; this is not a text file", err);
    }
    size_t at = 0;
    while (at < size) {
        const char *what = "a comment that does not end; */ is missing";
        size_t end = at + 1;
        if (text[at] == '"')
            end = string_end(text, size, at, &what);
        else if (starts(text, size, at, "//") || starts(text, size, at, "/*"))
            end = comment_end(text, size, at);
        if (end == 0)
            return refuse(file, text, at, what, err);
        if (text[at] == '/' && end > at + 1)
            blank(text, at, end);
        at = end;
    }
    return 0;
}
