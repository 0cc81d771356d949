// SPDX-License-Identifier: Apache-2.0
// Locals that clean up after themselves, and the hand-over of what they own.
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(f) __attribute__((cleanup(f)))

static inline void cleanup_free(void *p) { free(*(void **)p); }
static inline void cleanup_close(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}
static inline void cleanup_fclose(FILE **f)
{
    if (*f)
        (void)fclose(*f);
}
static inline void cleanup_closedir(DIR **d)
{
    if (*d)
        (void)closedir(*d);
}
static inline void cleanup_unlock(pthread_mutex_t **m)
{
    if (*m)
        (void)pthread_mutex_unlock(*m);
}

#define CLEANUP_FREE     CLEANUP(cleanup_free)
#define CLEANUP_CLOSE    CLEANUP(cleanup_close)
#define CLEANUP_FCLOSE   CLEANUP(cleanup_fclose)
#define CLEANUP_CLOSEDIR CLEANUP(cleanup_closedir)

// Takes the lock until the enclosing block is left, by whatever way.
#define HOLD_LOCK(mutex)                                                                           \
    CLEANUP(cleanup_unlock) pthread_mutex_t *held_lock_ = (mutex);                                 \
    (void)pthread_mutex_lock(held_lock_)

#define TAKE_PTR(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) taken_ = (p);                                                                \
        (p) = NULL;                                                                                \
        taken_;                                                                                    \
    })
#define TAKE_FD(fd)                                                                                \
    ({                                                                                             \
        int taken_ = (fd);                                                                         \
        (fd) = -1;                                                                                 \
        taken_;                                                                                    \
    })

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)    ((a) < (b) ? (a) : (b))
#define MAX(a, b)    ((a) > (b) ? (a) : (b))

#endif
