// SPDX-License-Identifier: Apache-2.0
// The log: one line an event, to stderr; with a level prefix where systemd's journal reads it. Safe from any thread.
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdarg.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

// Sets the most talkative level that is still printed (default: info) and the name in front of every line.
void log_setup(const char *program, enum log_level level);
// "error", "warning", "info", "debug" -> level. Returns -EINVAL for anything else.
int log_level_parse(const char *text, enum log_level *ret_level);

void log_at(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_at_v(enum log_level level, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

#define log_error(...)   log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

// From here on a thread of its own writes the lines: whoever logs is not held up by a slow disk or a full pipe behind
// stderr. What finds no room in memory meanwhile is counted, and the count is written in its place. Lines that are not
// written yet are lost with the process, but for one that ends by log_stop() or by ENSURE().
#define LOG_MEMORY (256 * 1024)
int log_start(void); // 0 or -errno: lines are written at once, as before
// Writes what is left, for at most LOG_STOP_SECONDS; then lines are written at once again. No thread may log meanwhile.
#define LOG_STOP_SECONDS 2
void log_stop(void);
void log_drain(void); // waits so long until all is written; from any thread

// For what may happen a thousand times a second: the first line is printed at once; repetitions within
// LOG_LIMIT_SECONDS are counted, and the count is printed with the next line that is let through.
#define LOG_LIMIT_SECONDS 10
struct log_site {
    int64_t printed_ns;
    uint64_t held_back;
};
void log_limited(struct log_site *site, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
