// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/waypoints.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/base/cleanup.h"

struct shared {
    struct shared *next;
    char *interface;
    struct waypoint_monitor *monitor;
    unsigned views, closely; // how many of them want it so
};

struct waypoints {
    int epoll;
    struct shared *first;
};

struct waypoints_view {
    struct waypoints *all;
    struct shared *shared;
    bool closely;
};

struct waypoints *waypoints_new(void)
{
    struct waypoints *all = calloc(1, sizeof(*all));
    if (!all)
        return NULL;
    all->epoll = epoll_create1(EPOLL_CLOEXEC);
    return all->epoll < 0 ? waypoints_free(all) : all;
}

static void shared_free(struct shared *s)
{
    waypoint_free(s->monitor); // takes its descriptor out of the epoll set
    free(s->interface);
    free(s);
}

struct waypoints *waypoints_free(struct waypoints *all)
{
    if (!all)
        return NULL;
    ENSURE(!all->first);
    cleanup_close(&all->epoll);
    free(all);
    return NULL;
}

int waypoints_fd(const struct waypoints *all)
{
    return all->epoll;
}

int64_t waypoints_deadline_ns(const struct waypoints *all)
{
    int64_t at = INT64_MAX;
    for (const struct shared *s = all->first; s; s = s->next)
        at = MIN(at, waypoint_deadline_ns(s->monitor));
    return at;
}

void waypoints_work(struct waypoints *all)
{
    for (struct shared *s = all->first; s; s = s->next)
        waypoint_work(s->monitor);
}

// ---- views ----

static bool same(const struct shared *s, const char *interface, const struct ip *ips, size_t count)
{
    bool all = strcmp(s->interface, interface) == 0 && waypoint_count(s->monitor) == count;
    for (size_t i = 0; all && i < count; i++) {
        struct waypoint_status status;
        waypoint_status(s->monitor, i, &status);
        all = ip_equal(&status.ip, &ips[i]);
    }
    return all;
}

static int shared_new(struct waypoints *all, const char *interface, const struct ip *ips, size_t count,
                      struct shared **ret_shared, struct error *err)
{
    struct shared *s = calloc(1, sizeof(*s));
    if (!s)
        return error_sys(err, -ENOMEM, "waypoints");
    s->interface = strdup(interface);
    int r = s->interface ? waypoint_start(interface, ips, count, NULL, 0, &s->monitor, err)
                         : error_sys(err, -ENOMEM, "waypoints");
    struct epoll_event event = {.events = EPOLLIN};
    if (r == 0 && epoll_ctl(all->epoll, EPOLL_CTL_ADD, waypoint_fd(s->monitor), &event) < 0)
        r = error_sys(err, -errno, "waypoints");
    if (r < 0) {
        shared_free(s);
        return r;
    }
    s->next = all->first;
    all->first = s;
    *ret_shared = s;
    return 0;
}

static void forget_unused(struct waypoints *all)
{
    struct shared **at = &all->first;
    while (*at) {
        struct shared *s = *at;
        if (s->views > 0) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        shared_free(s);
    }
}

int waypoints_join(struct waypoints *all, const char *interface, const struct ip *ips, size_t count,
                   const struct ip *subnets, size_t subnet_count, struct waypoints_view **ret_view, struct error *err)
{
    struct shared *s = all->first;
    CLEANUP_FREE struct waypoints_view *view = calloc(1, sizeof(*view));
    if (!view)
        return error_sys(err, -ENOMEM, "waypoints");
    while (s && !same(s, interface, ips, count))
        s = s->next;
    int r = s ? 0 : shared_new(all, interface, ips, count, &s, err);
    if (r == 0)
        r = waypoint_add_subnets(s->monitor, subnets, subnet_count, err);
    if (r < 0) {
        forget_unused(all);
        return r;
    }
    s->views++;
    *view = (struct waypoints_view){.all = all, .shared = s};
    *ret_view = TAKE_PTR(view);
    return 0;
}

struct waypoints_view *waypoints_leave(struct waypoints_view *view)
{
    if (!view)
        return NULL;
    waypoints_watch(view, false);
    view->shared->views--;
    forget_unused(view->all);
    free(view);
    return NULL;
}

const struct waypoint_monitor *waypoints_monitor(const struct waypoints_view *view)
{
    return view->shared->monitor;
}

void waypoints_watch(struct waypoints_view *view, bool closely)
{
    struct shared *s = view->shared;
    if (closely == view->closely)
        return;
    view->closely = closely;
    s->closely += closely ? 1 : -1U;
    waypoint_watch(s->monitor, s->closely > 0);
    if (closely)
        waypoint_ask_now(s->monitor);
}
