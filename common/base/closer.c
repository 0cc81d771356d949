// SPDX-License-Identifier: Apache-2.0
// What waits to be closed waits in a pipe: writes of one descriptor's number are atomic, so there is nothing to lock.
#include "common/base/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/thread.h"

struct closer {
    int in;  // non-blocking
    int out; // the thread's
    pthread_t thread;
};

static void *run(void *user)
{
    const struct closer *c = user;
    int fd;
    ssize_t n;
    while ((n = read(c->out, &fd, sizeof(fd))) != 0) {
        if (n == sizeof(fd))
            (void)close(fd);
    }
    return NULL;
}

int closer_new(struct closer **ret_closer)
{
    int ends[2];
    CLEANUP_FREE struct closer *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    c->out = ends[0];
    c->in = ends[1];
    int r = fcntl(c->in, F_SETFL, O_NONBLOCK) < 0 ? -errno : thread_start(&c->thread, "closer", run, c);
    if (r < 0) {
        cleanup_close(&c->in);
        cleanup_close(&c->out);
        return r;
    }
    *ret_closer = TAKE_PTR(c);
    return 0;
}

struct closer *closer_free(struct closer *c)
{
    if (!c)
        return NULL;
    cleanup_close(&c->in); // what is in the pipe is still read
    (void)pthread_join(c->thread, NULL);
    cleanup_close(&c->out);
    free(c);
    return NULL;
}

void closer_close(struct closer *c, int fd)
{
    if (fd >= 0 && (!c || write(c->in, &fd, sizeof(fd)) != sizeof(fd)))
        (void)close(fd);
}
