// SPDX-License-Identifier: Apache-2.0
// The room's threads: without signals, which are the control loop's, and at normal priority even
// when the control loop that starts them runs at a real-time one.
#ifndef APPS_THREAD_H
#define APPS_THREAD_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>

// 0 or -errno.
static inline int thread_start(void *(*function)(void *), void *argument, pthread_t *ret_thread)
{
    struct sched_param normal = {0};
    pthread_attr_t attributes;
    sigset_t all, before;

    int r = pthread_attr_init(&attributes);
    if (r != 0)
        return -r;
    (void)pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
    (void)pthread_attr_setschedpolicy(&attributes, SCHED_OTHER);
    (void)pthread_attr_setschedparam(&attributes, &normal);
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(ret_thread, &attributes, function, argument);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return -r;
}

#endif
