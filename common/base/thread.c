// SPDX-License-Identifier: Apache-2.0
#include "common/base/thread.h"

#include <signal.h>

int thread_start(pthread_t *ret_thread, const char *name, void *(*run)(void *arg), void *arg)
{
    sigset_t all, old;
    pthread_t thread;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); // a thread begins with its maker's mask
    int r = -pthread_create(&thread, NULL, run, arg);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r < 0)
        return r;
    (void)pthread_setname_np(thread, name);
    *ret_thread = thread;
    return 0;
}
