// SPDX-License-Identifier: Apache-2.0
#include "common/apps/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define READ_MAX (64 * 1024) // per call, so that one application cannot keep the runner

struct output {
    int fd;
    char *path;
    output_line_fn *line;
    void *context;
    char text[OUTPUT_LINE_MAX + 1];
    size_t used;
    int64_t second; // the one that `printed` counts
    int printed;
    uint64_t left_out;
};

int output_open(const char *path, output_line_fn *line, void *context, struct output **ret_output,
                struct error *err)
{
    struct stat st;

    if (mkfifo(path, 0600) < 0 && errno != EEXIST)
        return error_sys(err, -errno, "cannot make the pipe %s", path);
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_sys(err, -errno, "cannot open the pipe %s", path);
    if (!S_ISFIFO(st.st_mode))
        return error_set(err, -EEXIST, "%s is no pipe; remove it", path);

    struct output *o = calloc(1, sizeof(*o));
    ENSURE(o);
    o->fd = TAKE_FD(fd);
    o->path = strdup(path);
    ENSURE(o->path);
    o->line = line;
    o->context = context;
    *ret_output = o;
    return 0;
}

struct output *output_free(struct output *o)
{
    if (o) {
        (void)close(o->fd);
        free(o->path);
        free(o);
    }
    return NULL;
}

int output_writer(const struct output *o)
{
    int fd = open(o->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

int output_fd(const struct output *o)
{
    return o->fd;
}

static void give_line(struct output *o, int64_t now)
{
    char note[64];

    o->text[o->used] = 0;
    o->used = 0;
    if (now / NS_PER_S != o->second) {
        o->second = now / NS_PER_S;
        o->printed = 0;
    }
    if (++o->printed > OUTPUT_LINES_PER_SECOND) {
        o->left_out++;
        return;
    }
    if (o->left_out) {
        snprintf(note, sizeof(note), "(%" PRIu64 " lines left out)", o->left_out);
        o->left_out = 0;
        o->line(o->context, note);
    }
    o->line(o->context, o->text);
}

static void take_byte(struct output *o, unsigned char c, int64_t now)
{
    if (c == '\n') {
        give_line(o, now);
        return;
    }
    if (o->used == OUTPUT_LINE_MAX)
        give_line(o, now);
    if (c != '\r')
        o->text[o->used++] = (char)((c < 32 && c != '\t') || c == 127 ? '?' : c);
}

void output_work(struct output *o, int64_t now)
{
    unsigned char data[4096];
    ssize_t n;

    for (size_t total = 0; total < READ_MAX && (n = read(o->fd, data, sizeof(data))) > 0;) {
        for (ssize_t i = 0; i < n; i++)
            take_byte(o, data[i], now);
        total += (size_t)n;
    }
}

void output_flush(struct output *o, int64_t now)
{
    output_work(o, now);
    if (o->used)
        give_line(o, now);
}
