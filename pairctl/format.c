// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "pairctl/pairctl.h"

const char *format_bytes(uint64_t bytes, char buffer[FORMAT_SIZE])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    double value = (double)bytes;
    while (value >= 1024 && unit + 1 < ARRAY_LEN(units)) {
        value /= 1024;
        unit++;
    }
    bool whole = unit == 0 || value >= 100 || value == (double)(uint64_t)value;
    (void)snprintf(buffer, FORMAT_SIZE, whole ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return buffer;
}

const char *format_ms(int64_t ms, char buffer[FORMAT_SIZE])
{
    int64_t s = ms / 1000;
    if (ms < 0)
        (void)snprintf(buffer, FORMAT_SIZE, "unknown");
    else if (ms < 1000)
        (void)snprintf(buffer, FORMAT_SIZE, "%" PRId64 " ms", ms);
    else if (s < 60)
        (void)snprintf(buffer, FORMAT_SIZE, "%" PRId64 ".%" PRId64 " s", s, ms % 1000 / 100);
    else if (s < 3600)
        (void)snprintf(buffer, FORMAT_SIZE, "%" PRId64 " min %" PRId64 " s", s / 60, s % 60);
    else if (s < 2 * 86400)
        (void)snprintf(buffer, FORMAT_SIZE, "%" PRId64 " h %" PRId64 " min", s / 3600, s / 60 % 60);
    else
        (void)snprintf(buffer, FORMAT_SIZE, "%" PRId64 " days", s / 86400);
    return buffer;
}

const char *format_time(int64_t real_ms, char buffer[FORMAT_SIZE])
{
    time_t seconds = (time_t)(real_ms / 1000);
    struct tm tm;
    char day[32];
    if (real_ms < 0 || !localtime_r(&seconds, &tm) ||
        strftime(day, sizeof(day), "%Y-%m-%d %H:%M:%S", &tm) == 0)
        (void)snprintf(buffer, FORMAT_SIZE, "?");
    else
        (void)snprintf(buffer, FORMAT_SIZE, "%s.%03d", day, (int)(real_ms % 1000));
    return buffer;
}

const char *format_clean(const char *text, char *buffer, size_t size)
{
    size_t length = strnlen(text, size - 1);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        buffer[i] = c < ' ' || c == 0x7f ? ' ' : text[i];
    }
    buffer[length] = '\0';
    return buffer;
}

void complain(const char *format, ...)
{
    char text[2048], clean[2048];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)fprintf(stderr, "pairctl: %s\n", format_clean(text, clean, sizeof(clean)));
}

void pause_ms(int64_t ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000 * NS_PER_MS)};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}
