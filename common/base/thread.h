// SPDX-License-Identifier: Apache-2.0
// Starting a thread.
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>

// The thread goes by `name` (15 bytes at most) and takes no signals: they are the business of the program's main thread.
// Its priority is the normal one, whatever its maker's is (that one asks for SCHED_RESET_ON_FORK).
// 0 or -errno; *ret_thread is untouched on failure.
int thread_start(pthread_t *ret_thread, const char *name, void *(*run)(void *arg), void *arg);

#endif
