// SPDX-License-Identifier: Apache-2.0
// What a script's processes print, line by line. It goes through a named pipe that each of them has
// open for reading as well as for writing: when the daemon restarts nobody is ended by SIGPIPE, and
// the next daemon reads on. While no daemon reads, a talkative application waits once the pipe is
// full (64 KiB).
#ifndef APPS_OUTPUT_H
#define APPS_OUTPUT_H

#include <stdint.h>

#include "common/base/error.h"

#define OUTPUT_LINE_MAX         1000 // bytes; longer ones are given in pieces
#define OUTPUT_LINES_PER_SECOND 200  // more are read, counted and left out

struct output;

typedef void output_line_fn(void *context, const char *line);

// Opens or makes the named pipe.
int output_open(const char *path, output_line_fn *line, void *context, struct output **ret_output,
                struct error *err);
struct output *output_free(struct output *o); // the pipe stays; NULL-safe; returns NULL
// A new file descriptor for a command's stdout and stderr, or -errno.
int output_writer(const struct output *o);
int output_fd(const struct output *o); // poll for reading
void output_work(struct output *o, int64_t now);
// Reads what is there and gives out the unfinished last line, after a command has ended.
void output_flush(struct output *o, int64_t now);

#endif
