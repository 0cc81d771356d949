// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/end_world.h"

#include <stdio.h>
#include <stdlib.h>

void host_push(struct host *h, const struct end_event *ev)
{
    assert_true(h->tail - h->head < ARRAY_LEN(h->queue));
    h->queue[h->tail++ % ARRAY_LEN(h->queue)] = *ev;
}

struct host *host_peer(struct host *h)
{
    return &h->world->host[1 - h->index];
}

void host_step(struct host *h, const struct end_event *ev)
{
    struct world *w = h->world;
    if (w->waypoint[h->index])
        h->data.waypoint_ns = w->now;
    h->data.stream_ns = w->now;
    end_step(h->end, w->now, &h->data, ev);
    const struct end_action *a;
    while ((a = end_action(h->end)))
        host_act(h, a);
}

// The stream: what is numbered gets durable and applied at once while both ends follow a common
// session.
static void stream(struct world *w)
{
    if (!w->host[0].up || !w->host[1].up)
        return;
    for (int i = 0; i < 2; i++) {
        struct host *a = &w->host[i], *b = &w->host[1 - i];
        bool linked = !w->cut[0] && !w->cut[1];
        uint64_t last = a->withheld ? a->withheld - 1 : a->data.numbered;
        if (!linked || !a->streams || a->streams != b->follows || w->hold_stream)
            continue;
        if (a->data.durable < last) {
            a->data.durable = last;
            a->data.held_from = a->data.durable + 1;
            a->data.moved_ns = w->now;
            if (a->epoch.first_seq > b->data.replica_durable && a->epoch.first_seq <= last)
                host_push(b, &(struct end_event){.type = EV_REPLICA,
                                            .replica = {.what = FOLLOW_EPOCH,
                                                        .epoch = &a->epoch,
                                                        .seq = a->epoch.first_seq}});
            b->data.replica_durable = last;
        }
        if (!w->hold_apply)
            a->data.applied = b->data.applied = a->data.durable;
    }
}

void world_run(struct world *w, int64_t ns)
{
    int64_t until = w->now + ns;
    while (w->now < until) {
        bool idle = true;
        for (int i = 0; i < 2; i++) {
            struct host *h = &w->host[i];
            if (h->up && h->head < h->tail) {
                struct end_event ev = h->queue[h->head++ % ARRAY_LEN(h->queue)];
                host_step(h, &ev);
                idle = false;
            }
        }
        stream(w);
        if (!idle)
            continue;
        w->now += 10 * NS_PER_MS;
        for (int i = 0; i < 2; i++) {
            struct host *h = &w->host[i];
            if (h->up && end_deadline_ns(h->end) <= w->now) {
                host_push(h, &(struct end_event){.type = EV_TICK});
                h->ticks++;
            }
        }
    }
}

void world_boot(struct world *w, int i, struct end_start start)
{
    struct host *h = &w->host[i];
    struct end_config c = w->config;
    c.primary = i == 0;
    c.stops_on_split = i == 1;
    c.run = (uint64_t)w->now + 100 + (uint64_t)i;
    c.seed = c.run;
    h->end = end_new(&c);
    h->deadline = INT64_MAX;
    h->up = true;
    h->exited = h->goodbye = false;
    h->head = h->tail;
    h->data.waypoint_ns = 0;
    start.state = &h->disk;
    host_step(h, &(struct end_event){.type = EV_START, .start = start});
}

void world_boot_again(struct world *w, int i, int64_t echo_sent_ns, bool unwatched)
{
    world_boot(w, i,
               (struct end_start){.same_boot = true,
                                  .echo_sent_ns = echo_sent_ns,
                                  .unwatched = unwatched,
                                  .queue_found = true,
                                  .queue_numbered = w->host[i].data.numbered});
}

void world_end_daemon(struct world *w, int i)
{
    struct host *h = &w->host[i];
    h->end = end_free(h->end);
    h->up = false;
    h->head = h->tail;
    h->streams = h->follows = 0;
}

void world_crash(struct world *w, int i)
{
    struct host *h = &w->host[i];
    world_end_daemon(w, i);
    h->address = h->apps = h->exports = h->frozen = false;
}

struct end_view world_view(struct world *w, int i)
{
    struct end_view v;
    end_view(w->host[i].end, w->now, &v);
    return v;
}

int world_setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    w->now = 1000 * NS_PER_S;
    w->config = (struct end_config){
        .mode = END_SYNC,
        .beat_ns = 250 * NS_PER_MS,
        .timeout_ns = 2 * NS_PER_S,
        .decision_ns = 2 * NS_PER_S,
        .margin_ns = 300 * NS_PER_MS,
        .automatic = true,
        .has_waypoint = true,
        .volumes = 2,
    };
    w->verbose = getenv("VERBOSE") != NULL;
    for (int i = 0; i < 2; i++) {
        w->host[i].world = w;
        w->host[i].index = i;
        w->waypoint[i] = true;
    }
    w->probe = 0;
    *state = w;
    return 0;
}

int world_teardown(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 2; i++)
        end_free(w->host[i].end);
    free(w);
    return 0;
}

void world_command(struct world *w, int i, enum end_command c, unsigned flags)
{
    w->host[i].reply_status = 1;
    host_step(&w->host[i], &(struct end_event){.type = EV_COMMAND,
                                          .command = {.command = c, .flags = flags, .id = ++w->commands}});
}

struct world *world_start_pair(struct world *w)
{
    world_boot(w, 0, (struct end_start){0});
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    return w;
}

struct world *world_anew(void **state)
{
    world_teardown(state);
    world_setup(state);
    return *state;
}

void world_cut(struct world *w)
{
    w->cut[0] = w->cut[1] = true;
}

void world_heal(struct world *w)
{
    w->cut[0] = w->cut[1] = false;
}

void world_isolate(struct world *w, int i)
{
    world_cut(w);
    w->waypoint[i] = false;
}

void world_rejoin(struct world *w, int i)
{
    world_heal(w);
    w->waypoint[i] = true;
}

void world_takeover(struct world *w, unsigned flags, uint32_t overrides)
{
    w->host[1].reply_status = 1;
    host_step(&w->host[1], &(struct end_event){.type = EV_COMMAND,
                                          .command = {.command = COMMAND_TAKEOVER, .flags = flags, .id = 1,
                                                      .overrides = overrides}});
    assert_int_equal(w->host[1].reply_status, 0);
    world_run(w, 300 * NS_PER_MS);
}
