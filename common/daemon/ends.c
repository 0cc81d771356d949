// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/ends.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

struct item {
    struct endpoint *endpoint;
    int64_t deadline_ns;
    bool ready;
};

struct ends {
    int epoll; // data.ptr: the item, or NULL: waypoints
    struct waypoints *waypoints;
    struct closer *closer;
    struct item **items;
    struct epoll_event *events; // room for all that may be ready
    size_t count;
};

static int watch(struct ends *ends, int fd, struct item *item)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = item}};
    return epoll_ctl(ends->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

struct ends *ends_new(void)
{
    struct ends *ends = calloc(1, sizeof(*ends));
    if (!ends)
        return NULL;
    ends->epoll = epoll_create1(EPOLL_CLOEXEC);
    ends->waypoints = waypoints_new();
    ends->events = calloc(1, sizeof(*ends->events));
    bool good = ends->epoll >= 0 && ends->events && ends->waypoints && closer_new(&ends->closer) == 0 &&
                watch(ends, waypoints_fd(ends->waypoints), NULL) == 0;
    return good ? ends : ends_free(ends);
}

struct ends *ends_free(struct ends *ends)
{
    if (!ends)
        return NULL;
    for (size_t i = 0; i < ends->count; i++) {
        endpoint_free(ends->items[i]->endpoint);
        free(ends->items[i]);
    }
    free(ends->items);
    free(ends->events);
    waypoints_free(ends->waypoints);
    closer_free(ends->closer);
    cleanup_close(&ends->epoll);
    free(ends);
    return NULL;
}

int ends_fd(const struct ends *ends)
{
    return ends->epoll;
}

// Most ends are left alone in most turns: what they wait for is asked again only when something was done with them.
static int64_t deadline_of(struct item *item)
{
    if (endpoint_touched(item->endpoint))
        item->deadline_ns = endpoint_deadline_ns(item->endpoint);
    return item->deadline_ns;
}

int64_t ends_deadline_ns(struct ends *ends)
{
    int64_t at = waypoints_deadline_ns(ends->waypoints);
    for (size_t i = 0; i < ends->count; i++)
        at = MIN(at, deadline_of(ends->items[i]));
    return at;
}

// Which ends have something to take in, or a deadline that has passed. Returns whether the waypoints have.
static bool look(struct ends *ends)
{
    int n = epoll_wait(ends->epoll, ends->events, (int)ends->count + 1, 0);
    int64_t now = clock_boot_ns();
    bool waypoints = waypoints_deadline_ns(ends->waypoints) <= now;
    for (int i = 0; i < n; i++) {
        struct item *item = ends->events[i].data.ptr;
        if (item)
            item->ready = true;
        waypoints |= !item;
    }
    for (size_t i = 0; i < ends->count; i++)
        ends->items[i]->ready |= deadline_of(ends->items[i]) <= now;
    return waypoints;
}

// All take in what has arrived before anybody's timers are looked at: it may have come with what another one received.
void ends_work(struct ends *ends)
{
    if (look(ends))
        waypoints_work(ends->waypoints);
    for (size_t i = 0; i < ends->count; i++) {
        if (ends->items[i]->ready)
            endpoint_take(ends->items[i]->endpoint);
    }
    int64_t now = clock_boot_ns();
    for (size_t i = 0; i < ends->count; i++) {
        struct item *item = ends->items[i];
        if (item->ready || deadline_of(item) <= now)
            endpoint_work(item->endpoint);
        item->ready = false;
    }
}

struct waypoints *ends_waypoints(struct ends *ends)
{
    return ends->waypoints;
}

struct closer *ends_closer(struct ends *ends)
{
    return ends->closer;
}

int ends_add(struct ends *ends, struct endpoint *endpoint, struct error *err)
{
    struct item **items = reallocarray(ends->items, ends->count + 1, sizeof(struct item *));
    if (items)
        ends->items = items;
    struct epoll_event *events = reallocarray(ends->events, ends->count + 2, sizeof(struct epoll_event));
    if (events)
        ends->events = events;
    struct item *item = calloc(1, sizeof(*item));
    int r = items && events && item ? watch(ends, endpoint_fd(endpoint), item) : -ENOMEM;
    if (r < 0) {
        free(item);
        return error_sys(err, r, "pair %s", endpoint_pair(endpoint));
    }
    *item = (struct item){.endpoint = endpoint, .ready = true};
    ends->items[ends->count++] = item;
    return 0;
}

size_t ends_count(const struct ends *ends)
{
    return ends->count;
}

struct endpoint *ends_at(const struct ends *ends, size_t i)
{
    ENSURE(i < ends->count);
    return ends->items[i]->endpoint;
}

struct endpoint *ends_find(const struct ends *ends, const char *pair)
{
    for (size_t i = 0; i < ends->count; i++) {
        if (strcmp(endpoint_pair(ends->items[i]->endpoint), pair) == 0)
            return ends->items[i]->endpoint;
    }
    return NULL;
}
