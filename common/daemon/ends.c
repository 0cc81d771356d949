// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/ends.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define READY_MAX 128 // seen in one look; what else is ready is seen in the next

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
    bool good = ends->epoll >= 0 && ends->waypoints && closer_new(&ends->closer) == 0 &&
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

int64_t ends_deadline_ns(const struct ends *ends)
{
    int64_t at = waypoints_deadline_ns(ends->waypoints);
    for (size_t i = 0; i < ends->count; i++)
        at = MIN(at, ends->items[i]->deadline_ns);
    return at;
}

void ends_work(struct ends *ends)
{
    struct epoll_event events[READY_MAX];
    int n = epoll_wait(ends->epoll, events, READY_MAX, 0);
    bool waypoints = waypoints_deadline_ns(ends->waypoints) <= clock_boot_ns();
    for (int i = 0; i < n; i++) {
        struct item *item = events[i].data.ptr;
        if (item)
            item->ready = true;
        waypoints |= !item;
    }
    if (waypoints)
        waypoints_work(ends->waypoints);
    int64_t now = clock_boot_ns();
    for (size_t i = 0; i < ends->count; i++) {
        struct item *item = ends->items[i];
        if (!item->ready && item->deadline_ns > now)
            continue;
        item->ready = false;
        endpoint_work(item->endpoint);
        item->deadline_ns = endpoint_deadline_ns(item->endpoint);
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
    struct item *item = calloc(1, sizeof(*item));
    int r = items && item ? watch(ends, endpoint_fd(endpoint), item) : -ENOMEM;
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

void ends_touched(struct ends *ends, const struct endpoint *endpoint)
{
    for (size_t i = 0; i < ends->count; i++) {
        struct item *item = ends->items[i];
        if (item->endpoint == endpoint)
            item->deadline_ns = endpoint_deadline_ns(endpoint);
    }
}
