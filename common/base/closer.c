// SPDX-License-Identifier: Apache-2.0
// What waits to be closed waits in a pipe: writes of one descriptor's number are atomic, so there is nothing to lock.
#include "common/base/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/cleanup.h"

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
    (void)pthread_setname_np(pthread_self(), "closer");
    while ((n = read(c->out, &fd, sizeof(fd))) != 0) {
        if (n == sizeof(fd))
            (void)close(fd);
    }
    return NULL;
}

// Signals are the business of the program's other threads.
static int start_thread(struct closer *c)
{
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = -pthread_create(&c->thread, NULL, run, c);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

int closer_new(struct closer **ret_closer)
{
    int ends[2];
    struct closer *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    int r = pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0;
    if (r == 0) {
        c->out = ends[0];
        c->in = ends[1];
        r = fcntl(c->in, F_SETFL, O_NONBLOCK) < 0 ? -errno : start_thread(c);
        if (r < 0) {
            cleanup_close(&c->in);
            cleanup_close(&c->out);
        }
    }
    if (r < 0) {
        free(c);
        return r;
    }
    *ret_closer = c;
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
