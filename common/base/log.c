// SPDX-License-Identifier: Apache-2.0
#include "common/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

// The only mutable globals of the program beside the signal flag: they are set once, before any thread starts
// (the writer, before those that log).
static enum log_level max_level = LOG_LEVEL_INFO;
static char program_name[32] = "understudy";
static bool to_journal;
static struct log_writer *writer; // NULL: lines are written by whoever logs

#define CHUNK_MAX 4096 // written at a time: whole lines, and so much does not mix even in a pipe
#define LINE_MAX_SIZE 2048

// Lines on their way to stderr.
struct log_writer {
    pthread_mutex_t lock; // protects all of it; held for a copy, never across a write
    pthread_cond_t filled, emptied;
    pthread_t thread;
    char *ring;
    size_t first, used;
    bool writing, ending;
    bool left; // nobody waits for the thread any more: it frees this
    uint64_t lost; // lines that found no room since the last that did
};

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

static void write_out(const char *text, size_t size)
{
    // One write a line, or for whole lines: those of several threads and processes do not mix.
    ssize_t ignored = write(STDERR_FILENO, text, size);
    (void)ignored;
}

// ---- the writer ----

static void put(struct log_writer *w, const char *text, size_t size)
{
    size_t at = (w->first + w->used) % LOG_MEMORY;
    size_t until_end = MIN(size, LOG_MEMORY - at);
    memcpy(w->ring + at, text, until_end);
    memcpy(w->ring, text + until_end, size - until_end);
    w->used += size;
}

static void add_line(struct log_writer *w, const char *line, size_t size)
{
    char gap[96] = "";
    HOLD_LOCK(&w->lock);
    size_t gap_size = 0;
    if (w->lost)
        gap_size = (size_t)snprintf(gap, sizeof(gap), "(%llu lines are missing here: they could not be written in time)\n",
                                    (unsigned long long)w->lost);
    if (w->used + gap_size + size > LOG_MEMORY) {
        w->lost++;
        return;
    }
    put(w, gap, gap_size);
    put(w, line, size);
    w->lost = 0;
    (void)pthread_cond_signal(&w->filled);
}

// As many whole lines as fit. Returns their size.
static size_t take_lines(struct log_writer *w, char chunk[CHUNK_MAX])
{
    size_t size = MIN(w->used, (size_t)CHUNK_MAX);
    for (size_t i = 0; i < size; i++)
        chunk[i] = w->ring[(w->first + i) % LOG_MEMORY];
    while (size > 0 && chunk[size - 1] != '\n')
        size--;
    w->first = (w->first + size) % LOG_MEMORY;
    w->used -= size;
    return size;
}

static struct log_writer *writer_free(struct log_writer *w)
{
    (void)pthread_cond_destroy(&w->filled);
    (void)pthread_cond_destroy(&w->emptied);
    (void)pthread_mutex_destroy(&w->lock);
    free(w->ring);
    free(w);
    return NULL;
}

static void *run_writer(void *arg)
{
    struct log_writer *w = arg;
    char chunk[CHUNK_MAX];
    (void)pthread_mutex_lock(&w->lock);
    while (w->used > 0 || !w->ending) {
        if (w->used == 0) {
            (void)pthread_cond_wait(&w->filled, &w->lock);
            continue;
        }
        size_t size = take_lines(w, chunk);
        w->writing = true;
        (void)pthread_mutex_unlock(&w->lock);
        write_out(chunk, size);
        (void)pthread_mutex_lock(&w->lock);
        w->writing = false;
        if (w->used == 0)
            (void)pthread_cond_broadcast(&w->emptied);
    }
    bool left = w->left;
    (void)pthread_mutex_unlock(&w->lock);
    if (left)
        writer_free(w);
    return NULL;
}

static struct log_writer *writer_new(void)
{
    pthread_mutexattr_t mutex;
    pthread_condattr_t cond;
    struct log_writer *w = calloc(1, sizeof(*w));
    if (!w || !(w->ring = malloc(LOG_MEMORY))) {
        free(w);
        return NULL;
    }
    memset(w->ring, 0, LOG_MEMORY); // its pages are there from now on
    (void)pthread_mutexattr_init(&mutex);
    (void)pthread_mutexattr_setprotocol(&mutex, PTHREAD_PRIO_INHERIT);
    (void)pthread_mutex_init(&w->lock, &mutex);
    (void)pthread_mutexattr_destroy(&mutex);
    (void)pthread_cond_init(&w->filled, NULL);
    (void)pthread_condattr_init(&cond);
    (void)pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&w->emptied, &cond);
    (void)pthread_condattr_destroy(&cond);
    return w;
}

int log_start(void)
{
    if (writer)
        return 0;
    struct log_writer *w = writer_new();
    if (!w)
        return -ENOMEM;
    int r = thread_start(&w->thread, "log", run_writer, w);
    writer = r == 0 ? w : writer_free(w);
    return r;
}

// Whether all was written in time.
static bool drain(struct log_writer *w)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += LOG_STOP_SECONDS;
    HOLD_LOCK(&w->lock);
    while (w->used > 0 || w->writing) {
        if (pthread_cond_timedwait(&w->emptied, &w->lock, &until) != 0)
            return false;
    }
    return true;
}

void log_drain(void)
{
    if (writer)
        (void)drain(writer);
}

void log_stop(void)
{
    struct log_writer *w = writer;
    if (!w)
        return;
    bool drained = drain(w);
    writer = NULL;
    pthread_t thread = w->thread;
    {
        HOLD_LOCK(&w->lock);
        w->ending = true;
        w->left = !drained; // it hangs in a write
        w->used = 0;
        (void)pthread_cond_signal(&w->filled);
    }
    if (!drained) {
        (void)pthread_detach(thread);
        return;
    }
    (void)pthread_join(thread, NULL);
    writer_free(w);
}

// ---- lines ----

void log_at_v(enum log_level level, const char *format, va_list args)
{
    static const char *const tags[] = {"<3>", "<4>", "<6>", "<7>"};
    if (level > max_level)
        return;
    int saved = errno;
    char line[LINE_MAX_SIZE];
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
    if (writer)
        add_line(writer, line, used);
    else
        write_out(line, used);
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
