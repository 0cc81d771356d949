// SPDX-License-Identifier: Apache-2.0
#include "common/base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"

int error_set(struct error *err, int code, const char *format, ...)
{
    ENSURE(code < 0);
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    err->code = code;
    return code;
}

int error_sys(struct error *err, int code, const char *format, ...)
{
    ENSURE(code < 0);
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    int used = vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof(err->text))
        (void)snprintf(err->text + used, sizeof(err->text) - (size_t)used, ": %s", strerror(-code));
    err->code = code;
    return code;
}

int error_prefix(struct error *err, const char *format, ...)
{
    if (!err)
        return -EIO;
    char old[sizeof(err->text)];
    memcpy(old, err->text, sizeof(old));
    va_list args;
    va_start(args, format);
    int used = vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof(err->text)) {
        // A text that no longer fits is cut; the front, which says where, is kept.
        char *rest = err->text + used;
        size_t room = sizeof(err->text) - (size_t)used;
        if (room > 3) {
            memcpy(rest, ": ", 3);
            size_t n = strnlen(old, room - 3);
            memcpy(rest + 2, old, n);
            rest[2 + n] = '\0';
        }
    }
    return err->code;
}

void error_abort(const char *file, int line, const char *what)
{
    log_error("%s:%d: broken invariant: %s", file, line, what);
    log_drain();
    abort();
}
