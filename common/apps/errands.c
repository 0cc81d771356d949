// SPDX-License-Identifier: Apache-2.0
// See errands.h.
#include "common/apps/errands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

struct errands_news {
    struct virt_report report;
    struct errands_news *next;
};

int errands_init(struct errands *e)
{
    pthread_condattr_t attributes;

    *e = (struct errands){.event_fd = -1};
    e->last = &e->first;
    ENSURE(pthread_mutex_init(&e->lock, NULL) == 0);
    ENSURE(pthread_condattr_init(&attributes) == 0);
    ENSURE(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    ENSURE(pthread_cond_init(&e->changed, &attributes) == 0);
    (void)pthread_condattr_destroy(&attributes);
    e->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return e->event_fd < 0 ? -errno : 0;
}

void errands_clear(struct errands *e)
{
    for (struct errands_news *n; (n = e->first); free(n))
        e->first = n->next;
    if (e->event_fd >= 0)
        (void)close(e->event_fd);
    (void)pthread_cond_destroy(&e->changed);
    (void)pthread_mutex_destroy(&e->lock);
}

unsigned errands_ask(struct errands *e, enum virt_request request)
{
    HOLD_LOCK(&e->lock);
    e->request = request;
    if (++e->serial == 0)
        e->serial = 1;
    (void)pthread_cond_signal(&e->changed);
    return e->serial;
}

void errands_look(struct errands *e)
{
    HOLD_LOCK(&e->lock);
    e->look = true;
    (void)pthread_cond_signal(&e->changed);
}

void errands_quit(struct errands *e)
{
    HOLD_LOCK(&e->lock);
    e->quit = true;
    (void)pthread_cond_signal(&e->changed);
}

bool errands_take(struct errands *e, struct virt_report *ret_report)
{
    HOLD_LOCK(&e->lock);
    struct errands_news *n = e->first;
    if (!n) {
        eventfd_t count;
        (void)eventfd_read(e->event_fd, &count);
        return false;
    }
    *ret_report = n->report;
    e->first = n->next;
    if (!e->first)
        e->last = &e->first;
    free(n);
    return true;
}

bool errands_committed(struct errands *e)
{
    HOLD_LOCK(&e->lock);
    return e->committed;
}

// ---- the worker's side

static struct timespec after_ms(int64_t ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    int64_t ns = at.tv_nsec + ms * NS_PER_MS;
    at.tv_sec += ns / NS_PER_S;
    at.tv_nsec = ns % NS_PER_S;
    return at;
}

static bool is_superseded(const struct errands *e)
{
    return e->quit || e->request != VIRT_NONE;
}

bool errands_next(struct errands *e, int64_t ms, enum virt_request *ret_request)
{
    struct timespec until = after_ms(MAX(ms, 0));

    HOLD_LOCK(&e->lock);
    while (!is_superseded(e) && !e->look) {
        int r = ms < 0 ? pthread_cond_wait(&e->changed, &e->lock) : pthread_cond_timedwait(&e->changed, &e->lock, &until);
        if (r == ETIMEDOUT)
            break;
    }
    *ret_request = e->request;
    e->request = VIRT_NONE;
    e->look = false;
    if (*ret_request != VIRT_NONE)
        e->handled = e->serial;
    return !e->quit;
}

bool errands_pause(struct errands *e, int64_t ms)
{
    struct timespec until = after_ms(ms);

    HOLD_LOCK(&e->lock);
    while (!is_superseded(e))
        if (pthread_cond_timedwait(&e->changed, &e->lock, &until) == ETIMEDOUT)
            break;
    return !is_superseded(e);
}

bool errands_commit(struct errands *e)
{
    HOLD_LOCK(&e->lock);
    e->committed = !is_superseded(e);
    return e->committed;
}

void errands_uncommit(struct errands *e)
{
    HOLD_LOCK(&e->lock);
    e->committed = false;
}

void errands_report(struct errands *e, enum virt_news news, const char *text)
{
    struct errands_news *n = calloc(1, sizeof(*n));

    ENSURE(n);
    n->report.news = news;
    n->report.serial = e->handled;
    (void)snprintf(n->report.text, sizeof(n->report.text), "%s", text);
    HOLD_LOCK(&e->lock);
    *e->last = n;
    e->last = &n->next;
    (void)eventfd_write(e->event_fd, 1);
}
