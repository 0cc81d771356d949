// SPDX-License-Identifier: Apache-2.0
// Errors travel as 0 or -errno, with a text for a person beside it. Library code fills the text and never logs;
// whoever stops the error from travelling further logs it.
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdarg.h>
#include <stddef.h>

struct error {
    int code;        // -errno of the failure; 0 while there is none
    char text[1024]; // one sentence: what failed, where, and what helps; always terminated
};

// Sets the text and returns `code` (which must be negative), so that a function can end in
// `return error_set(err, -EINVAL, "...")`. `err` may be NULL.
int error_set(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// The same with ": " and the system's text for `code` behind it.
int error_sys(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Puts "PREFIX: " in front of the text, for a caller that knows where it was. Returns err->code.
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Asserts that stay on in release builds: a broken invariant must stop the end before it does harm.
void error_abort(const char *file, int line, const char *what) __attribute__((noreturn, cold));
#define ENSURE(expr) ((expr) ? (void)0 : error_abort(__FILE__, __LINE__, #expr))

#endif
