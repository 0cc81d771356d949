// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/openings.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "common/base/aside.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"

struct opening {
    struct opening *next;
    struct aside *aside;
    struct endpoint_config config;
    struct opened opened; // the thread's, until it has ended
};

struct openings {
    int epoll;
    size_t count;
    struct opening *first;
};

struct openings *openings_new(void)
{
    struct openings *o = calloc(1, sizeof(*o));
    if (!o)
        return NULL;
    o->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (o->epoll < 0) {
        free(o);
        return NULL;
    }
    return o;
}

static void open_one(void *arg)
{
    struct opening *one = arg;
    if (endpoint_new(&one->config, &one->opened.endpoint, &one->opened.error) < 0)
        one->opened.endpoint = NULL;
}

static struct opening *opening_free(struct opening *one)
{
    aside_free(one->aside); // takes its descriptor out of the epoll set
    free(one);
    return NULL;
}

int openings_start(struct openings *o, size_t index, const struct endpoint_config *config, struct error *err)
{
    struct opening *one = calloc(1, sizeof(*one));
    if (!one)
        return error_sys(err, -ENOMEM, "pair %s", config->pair->pair);
    one->config = *config;
    one->opened.index = index;
    int r = aside_new("open", &one->aside);
    struct epoll_event event = {.events = EPOLLIN};
    if (r == 0 && epoll_ctl(o->epoll, EPOLL_CTL_ADD, aside_fd(one->aside), &event) < 0)
        r = -errno;
    if (r < 0) {
        opening_free(one);
        return error_sys(err, r, "pair %s: no thread to open it", config->pair->pair);
    }
    one->next = o->first;
    o->first = one;
    o->count++;
    aside_start(one->aside, open_one, one);
    return 0;
}

bool openings_take(struct openings *o, struct opened *ret_opened)
{
    for (struct opening **at = &o->first; *at; at = &(*at)->next) {
        struct opening *one = *at;
        if (!aside_take(one->aside))
            continue;
        *at = one->next;
        o->count--;
        *ret_opened = one->opened;
        opening_free(one);
        return true;
    }
    return false;
}

bool openings_free(struct openings *o, int64_t patience_ns)
{
    if (!o)
        return true;
    int64_t until = clock_boot_ns() + patience_ns;
    while (o->first) {
        struct opened opened;
        struct pollfd ended = {.fd = o->epoll, .events = POLLIN};
        int64_t left_ms = (until - clock_boot_ns()) / NS_PER_MS;
        if (openings_take(o, &opened))
            endpoint_free(opened.endpoint);
        else if (left_ms <= 0)
            return false;
        else
            (void)poll(&ended, 1, (int)left_ms);
    }
    cleanup_close(&o->epoll);
    free(o);
    return true;
}

int openings_fd(const struct openings *o)
{
    return o->epoll;
}

size_t openings_count(const struct openings *o)
{
    return o->count;
}

bool openings_has(const struct openings *o, size_t index)
{
    for (const struct opening *one = o->first; one; one = one->next) {
        if (one->opened.index == index)
            return true;
    }
    return false;
}
