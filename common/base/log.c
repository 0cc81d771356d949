// SPDX-License-Identifier: Apache-2.0
#include "common/base/log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

// The only mutable globals of the program beside the signal flag: they are set once, before any thread starts.
static enum log_level max_level = LOG_LEVEL_INFO;
static char program_name[32] = "understudy";
static bool to_journal;

void log_setup(const char *program, enum log_level level)
{
    (void)snprintf(program_name, sizeof(program_name), "%s", program);
    max_level = level;
    to_journal = getenv("JOURNAL_STREAM") != NULL;
}

int log_level_parse(const char *text, enum log_level *ret_level)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

void log_at_v(enum log_level level, const char *format, va_list args)
{
    static const char *const tags[] = {"<3>", "<4>", "<6>", "<7>"};
    if (level > max_level)
        return;
    int saved = errno;
    char line[2048];
    size_t used = 0;
    if (to_journal) {
        used = (size_t)snprintf(line, sizeof(line), "%s", tags[level]);
    } else {
        struct timespec now;
        struct tm tm;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        (void)localtime_r(&now.tv_sec, &tm);
        used = strftime(line, sizeof(line), "%H:%M:%S", &tm);
        used += (size_t)snprintf(line + used, sizeof(line) - used, ".%03ld %s: %s",
                                 now.tv_nsec / 1000000, program_name,
                                 level == LOG_LEVEL_ERROR     ? "error: "
                                 : level == LOG_LEVEL_WARNING ? "warning: "
                                                              : "");
    }
    int n = vsnprintf(line + used, sizeof(line) - used - 1, format, args);
    if (n > 0)
        used += MIN((size_t)n, sizeof(line) - used - 2);
    line[used++] = '\n';
    // One write a line: lines of several threads and processes do not mix.
    ssize_t ignored = write(STDERR_FILENO, line, used);
    (void)ignored;
    errno = saved;
}

void log_at(enum log_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_at_v(level, format, args);
    va_end(args);
}

void log_limited(struct log_site *site, enum log_level level, const char *format, ...)
{
    int64_t now = clock_boot_ns();
    if (site->printed_ns && now - site->printed_ns < LOG_LIMIT_SECONDS * INT64_C(1000000000)) {
        site->held_back++;
        return;
    }
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (site->held_back)
        log_at(level, "%s (and %llu times more since the last such line)", text,
               (unsigned long long)site->held_back);
    else
        log_at(level, "%s", text);
    site->printed_ns = now;
    site->held_back = 0;
}
