// SPDX-License-Identifier: Apache-2.0
#include "common/base/aside.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"
#include "common/base/thread.h"

struct aside {
    int ended_fd;
    bool busy; // the owner's
    pthread_t thread;
    pthread_mutex_t lock; // protects what follows
    pthread_cond_t wake;
    void (*job)(void *arg);
    void *arg;
    bool ended;  // the job has
    bool ending; // the thread is to
};

static void *run(void *user)
{
    struct aside *a = user;
    (void)pthread_mutex_lock(&a->lock);
    for (;;) {
        while (!a->job && !a->ending)
            (void)pthread_cond_wait(&a->wake, &a->lock);
        if (!a->job)
            break;
        void (*job)(void *) = a->job;
        a->job = NULL;
        (void)pthread_mutex_unlock(&a->lock);
        job(a->arg);
        (void)pthread_mutex_lock(&a->lock);
        a->ended = true;
        (void)eventfd_write(a->ended_fd, 1);
    }
    (void)pthread_mutex_unlock(&a->lock);
    return NULL;
}

int aside_new(const char *name, struct aside **ret_aside)
{
    pthread_mutexattr_t inherit;
    struct aside *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    (void)pthread_mutexattr_init(&inherit);
    (void)pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT); // the owner may be of higher priority
    (void)pthread_mutex_init(&a->lock, &inherit);
    (void)pthread_mutexattr_destroy(&inherit);
    (void)pthread_cond_init(&a->wake, NULL);
    a->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = a->ended_fd < 0 ? -errno : thread_start(&a->thread, name, run, a);
    if (r < 0) {
        cleanup_close(&a->ended_fd);
        free(a);
        return r;
    }
    *ret_aside = a;
    return 0;
}

struct aside *aside_free(struct aside *a)
{
    if (!a)
        return NULL;
    {
        HOLD_LOCK(&a->lock);
        a->ending = true;
        (void)pthread_cond_signal(&a->wake);
    }
    (void)pthread_join(a->thread, NULL);
    (void)pthread_cond_destroy(&a->wake);
    (void)pthread_mutex_destroy(&a->lock);
    cleanup_close(&a->ended_fd);
    free(a);
    return NULL;
}

int aside_fd(const struct aside *a)
{
    return a->ended_fd;
}

bool aside_busy(const struct aside *a)
{
    return a->busy;
}

void aside_start(struct aside *a, void (*job)(void *arg), void *arg)
{
    ENSURE(!a->busy);
    a->busy = true;
    HOLD_LOCK(&a->lock);
    a->job = job;
    a->arg = arg;
    (void)pthread_cond_signal(&a->wake);
}

bool aside_take(struct aside *a)
{
    eventfd_t count;
    HOLD_LOCK(&a->lock);
    if (!a->busy || !a->ended)
        return false;
    (void)eventfd_read(a->ended_fd, &count);
    a->busy = a->ended = false;
    return true;
}
