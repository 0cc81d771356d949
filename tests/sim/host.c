// SPDX-License-Identifier: Apache-2.0
// A machine: its boots, the runs of its daemon, its guard, and how events reach the end.
#include "tests/sim/sim.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MAPS_CAPACITY    (64U * 1024)
#define SAFE_CAPACITY    (4U * 1024 * 1024)
#define SALVAGE_CAPACITY (8U * 1024 * 1024)

void host_init(struct sim *s, int index)
{
    struct host *h = &s->host[index];
    h->sim = s;
    h->index = index;
    h->letter = index ? 'S' : 'P';
    h->memory = -1;
    // A clock that is disciplined is off by less than 500 parts in a million; now and then one is far worse.
    h->drift = chance(s, 500) ? (int64_t)rnd(s, 1001) - 500 : chance(s, 100) ? (int64_t)rnd(s, 40001) - 20000 : 0;
    host_disks(h);
}

static void free_disks(struct host *h)
{
    fake_disk_free(h->safe);
    fake_disk_free(h->maps);
    fake_disk_free(h->salvage);
    fake_disk_free(h->spill);
}

static void new_disks(struct host *h)
{
    free_disks(h);
    h->safe = fake_disk_new(SAFE_CAPACITY, rnd(h->sim, 0));
    h->maps = fake_disk_new(MAPS_CAPACITY, rnd(h->sim, 0));
    h->salvage = fake_disk_new(SALVAGE_CAPACITY, rnd(h->sim, 0));
    h->spill = fake_disk_new(2 * h->sim->spill_bytes, rnd(h->sim, 0));
}

void host_disks(struct host *h)
{
    struct sim *s = h->sim;
    new_disks(h);
    uint32_t block_size = chance(s, 500) ? 512 : 4096;
    for (unsigned i = 0; i < s->volumes; i++) {
        fake_volume_free(h->volume[i]);
        h->volume[i] = fake_volume_new(s->size, block_size, 1, rnd(s, 0));
    }
}

void host_free(struct host *h)
{
    h->sim->over = true;
    if (h->running)
        daemon_kill(h, "the run is over");
    if (h->memory >= 0)
        (void)close(h->memory);
    free_disks(h);
    judge_salvage_free(h);
    for (unsigned i = 0; i < h->sim->volumes; i++)
        fake_volume_free(h->volume[i]);
}

void host_boot(struct host *h)
{
    if (h->up)
        return;
    h->up = true;
    h->boot++;
    h->boot_token = rnd(h->sim, 0) | 1;
    h->boot_at = h->sim->now - NS_PER_S - (int64_t)rnd(h->sim, 1000) * NS_PER_S;
    h->ran = h->said_active = h->address = h->apps = h->frozen = h->flag = h->watch = false;
    h->salvage_drop = false; // whoever was about to make room on it begins anew
    h->echo_ns = h->ask_ns = h->ask_next_ns = 0;
    h->paused_until = 0;
    h->guard_ns = INT64_MAX;
    trace(h->sim, h, "boots");
}

void host_crash(struct host *h)
{
    if (!h->up)
        return;
    h->goodbye = false; // its guard is gone, too
    if (h->running)
        daemon_kill(h, "the machine loses power");
    else
        trace(h->sim, h, "the machine loses power");
    h->up = h->address = h->apps = false;
    guest_lost(h, true);
    if (h->memory >= 0)
        (void)close(h->memory);
    h->memory = -1;
    judge_salvage_crashes(h);
    fake_disk_crash(h->safe);
    fake_disk_crash(h->maps);
    fake_disk_crash(h->salvage);
    fake_disk_crash(h->spill);
    for (unsigned i = 0; i < h->sim->volumes; i++)
        fake_volume_crash(h->volume[i]);
    judge_salvage_crashed(h);
    net_changed(h->sim);
}

// Its directories are removed: state, queues, what lasts as long as a boot. Its stores stay.
void host_forget(struct host *h)
{
    ENSURE(!h->running);
    h->address = h->apps = h->frozen = h->flag = h->ran = h->said_active = false;
    h->guard_ns = INT64_MAX;
    h->echo_ns = 0;
    guest_lost(h, true);
    if (h->memory >= 0)
        (void)close(h->memory);
    h->memory = -1;
    judge_salvage_void(h);
    state_wipe(h);
    new_disks(h);
}

// ---- a run of the daemon ----

static void begin(struct host *h)
{
    h->started = true;
    h->start.state = &h->state;
    feed(h, &(struct end_event){.type = EV_START, .start = h->start});
}

// The safe queue has been read, which may take its time.
static void opened(struct host *h, void *arg, uint64_t n)
{
    struct end_event ev = {.type = EV_OPENED};
    char why[200] = "";
    (void)arg, (void)n;
    int r = stream_open(h, &ev.opened.replica_durable, &ev.opened.base, why, sizeof(why));
    ev.opened.replica_failed = r < 0;
    ev.opened.damaged = r == -EUCLEAN;
    if (ev.opened.base && h->state.history.count && !history_contains(&h->state.history, ev.opened.base))
        cover_count("safe queue: of a line that was forgotten");
    if (ev.opened.replica_failed && h->tail_life == h->life)
        cover_count("a rotten tail, and its replica does not open");
    if (ev.opened.replica_failed)
        trace(h->sim, h, "its replica does not open: %s", why);
    feed(h, &ev);
    stream_turn(h);
}

static void prepare_start(struct host *h, bool readable)
{
    struct end_start *st = &h->start;
    *st = (struct end_start){
        .same_boot = h->ran,
        .guard_acted = h->flag,
        .echo_sent_ns = h->ran ? h->echo_ns : 0,
        .state_unreadable = !readable,
        .unwatched = h->ran && !h->flag && h->guard_ns == INT64_MAX,
    };
    for (unsigned i = 0; i < h->sim->volumes; i++)
        st->maps_damaged |= (uint64_t)(service_map_found(h->front.service, (uint16_t)i) != NULL) << i;
    (void)end_doubt_salvage(&h->state, st->maps_damaged);
    h->ran = true;
    h->frozen_told = h->frozen_known = st->guard_acted;
    if (h->state.role == ROLE_ACTIVE) {
        st->queue_found = front_find_queue(h, st);
        if (st->queue_found && !history_contains(&h->state.history, st->queue_epoch) && st->queue_opening.id)
            cover_count("unsafe queue: of an epoch that was being saved");
        h->figures.numbered = st->queue_numbered;
        h->serving = true;
    } else if (h->state.role == ROLE_PASSIVE) {
        st->replica_durable = END_OPENING;
        plan_daemon(h, h->sim->now + (int64_t)rnd(h->sim, chance(h->sim, 200) ? 3000 : 20) * NS_PER_MS, opened, NULL, 0);
    }
    begin(h);
}

void daemon_start(struct host *h)
{
    struct sim *s = h->sim;
    if (!h->up || h->running)
        return;
    h->running = true;
    h->life++;
    h->started = h->exited = h->serving = h->thawing = h->open_after_close = h->stepping = false;
    h->replay_paused = false;
    h->stalled_until = 0;
    memset(&h->figures, 0, sizeof(h->figures));
    h->figures.lease_ns = INT64_MAX;
    h->tick_at = h->replica_at = INT64_MAX;
    memset(h->volume_scheduled, 0, sizeof(h->volume_scheduled));
    h->maps_scheduled = 0;
    memset(h->disk_scheduled, 0, sizeof(h->disk_scheduled));
    memset(h->letter_at, 0, sizeof(h->letter_at));
    h->switch_ticket = 0;
    h->switch_at = 0;
    h->switch_limit_ns = INT64_MAX;
    h->save_at = 0;
    h->force_asked = false;
    h->saving = NULL;
    h->watch = false;
    h->ask_ns = 0;
    h->ask_next_ns = local_now(h);
    h->run_id = rnd(s, 0) | 1;
    struct end_config config = s->config;
    config.primary = h->index == 0;
    config.stops_on_split = (h->index == 0) == s->primary_stops;
    config.run = h->run_id;
    config.seed = rnd(s, 0);
    h->end = end_new(&config);
    ENSURE(h->end);
    memset(&h->view, 0, sizeof(h->view));
    h->seen_state = END_WAITING;
    h->seen_session = 0;
    front_init(h);
    stream_init(h);
    bool readable = state_read(h);
    // Of what the former run was about to save only what has lasted counts.
    const struct epoch *now = readable ? history_current(&h->state.history) : NULL;
    h->judged_epoch = now ? now->id : 0;
    if (!readable)
        cover_count("state: unreadable");
    trace(s, h, "daemon starts, run %04x, role on disk %d%s%s", (unsigned)(h->run_id >> 48),
          h->state.role, h->state.alone ? ", alone" : "",
          !readable                             ? ", UNREADABLE"
          : h->state.intent == INTENT_HANDED_OVER ? ", handed over"
                                                  : "");
    prepare_start(h, readable);
    net_changed(s);
}

// By whichever run is there: late, it may be another one than the guard has spoken to.
static void hear_goodbye(struct host *h, void *arg, uint64_t run)
{
    (void)arg;
    if (!h->running || !h->started || h->exited)
        return;
    trace(h->sim, h, "hears the guard's goodbye for run %04x", (unsigned)(run >> 48));
    cover_count(run == h->view.peer_run ? "guard: a goodbye is heard" : "guard: a goodbye is heard too late");
    feed(h, &(struct end_event){.type = EV_PEER_GONE, .gone.run = run});
}

// The guard's word for a daemon that has ended, over the public network: it may be lost, late, and come twice.
static void say_goodbye(struct host *h)
{
    struct sim *s = h->sim;
    bool leaves = s->public_up[0] && s->public_up[1] && h->paused_until <= s->now;
    for (int i = 0; h->goodbye && leaves && !s->over && i < 2; i++)
        if (chance(s, i == 0 ? 800 : 200)) {
            int64_t late = chance(s, 700) ? 1 : (int64_t)rnd(s, 20000);
            plan_host(other(h), s->now + late * NS_PER_MS, hear_goodbye, NULL, h->run_id);
        }
    h->goodbye = false;
}

// kill -9: memory of the process is gone; what was at the stores may still have happened; shared memory stays.
void daemon_kill(struct host *h, const char *why)
{
    if (!h->running)
        return;
    trace(h->sim, h, "%s", why);
    state_cut_off(h);
    front_stop(h, true);
    stream_stop(h, false);
    h->end = end_free(h->end);
    h->running = false;
    say_goodbye(h);
    guest_lost(h, true);
    net_changed(h->sim);
}

// ---- feeding the end ----

static void sample(struct host *h, struct end_data *d)
{
    const struct figures *g = &h->figures;
    int64_t now = local_now(h);
    waypoint_advance(h);
    *d = (struct end_data){
        .numbered = MAX(g->numbered, g->durable),
        .durable = g->durable,
        .applied = h->serving ? g->applied : g->replica_applied,
        .held_from = g->held_from,
        .replica_durable = g->replica_durable,
        .waiting_ns = g->waiting_ns,
        .moved_ns = g->moved_ns,
        .stream_ns = g->stream_up ? now : g->stream_ns,
        .waypoint_ns = h->ask_ns,
        .backlog = g->queue_bytes,
        .full = !h->serving && g->replica_full,
        .salvage_full = !h->serving && g->salvage_full,
        .lagging = g->oldest_ns && now - g->oldest_ns > h->sim->config.timeout_ns,
    };
}

static void look(struct host *h)
{
    end_view(h->end, local_now(h), &h->view);
    if (h->view.state != h->seen_state) {
        // What an operator overrides is not promised any more.
        h->sim->forced |= h->force_asked && h->view.state == END_TAKING_OVER;
        cover_transition(h->seen_state, h->view.state);
        h->seen_state = h->view.state;
    }
    if (h->view.session != h->seen_session && h->view.session)
        judge_met(h);
    h->seen_session = h->view.session;
    h->said_active = h->view.active && h->view.state != END_TAKING_OVER &&
                     h->view.state != END_SUSPENDED;
    if (!h->view.active && h->view.granted)
        h->granted_life = h->life;
    if (h->view.echo_sent_ns > h->echo_ns)
        h->echo_ns = h->view.echo_sent_ns;
}

void feed(struct host *h, const struct end_event *event)
{
    struct end_data data;
    if (!h->running || !h->started || h->exited)
        return;
    ENSURE(!h->stepping);
    h->stepping = true;
    h->sim->fed++;
    sample(h, &data);
    end_step(h->end, local_now(h), &data, event);
    look(h);
    uint32_t life = h->life;
    const struct end_action *a;
    while (h->running && h->life == life && !h->exited && (a = end_action(h->end)))
        act(h, a);
    h->stepping = false;
    guard_look(h);
    fault_in_step(h);
    plan_tick(h);
}

static void deliver_event(struct host *h, void *arg, uint64_t n)
{
    (void)n;
    feed(h, arg);
}

void report_event(struct host *h, const struct end_event *event)
{
    struct end_event *copy = malloc(sizeof(*copy));
    ENSURE(copy);
    *copy = *event;
    plan_daemon(h, mailbox_time(h, BOX_CONTROL), deliver_event, copy, 0);
}

static void tick(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    if ((int64_t)n != h->tick_at)
        return; // another one has been planned since
    h->tick_at = INT64_MAX;
    feed(h, &(struct end_event){.type = EV_TICK});
}

void plan_tick(struct host *h)
{
    if (!h->running || !h->started || h->exited)
        return;
    int64_t at = end_deadline_ns(h->end);
    if (at == INT64_MAX)
        return;
    at = MAX(world_time(h, at), h->sim->now);
    if (at == h->tick_at)
        return;
    h->tick_at = at;
    plan_daemon(h, at, tick, NULL, (uint64_t)at);
}

// ---- guard ----

void guard_act(struct host *h)
{
    if (h->address && h->running && (h->view.state == END_HANDED_OVER || h->view.state == END_STOPPED))
        cover_count("public address: the guard takes off what stayed on");
    h->address = false;
    h->frozen = h->flag = true;
    h->said_active = false;
    h->guard_ns = INT64_MAX;
    trace(h->sim, h, "guard: address off, frozen");
    guard_look(h);
}

static void tell_guard(struct host *h, void *arg, uint64_t frozen)
{
    (void)arg;
    h->frozen_known = frozen;
    feed(h, &(struct end_event){.type = EV_GUARD, .guard.frozen = frozen});
}

// What the daemon sees of its guard, as it looks at it again and again.
void guard_look(struct host *h)
{
    if (!h->running || !h->started)
        return;
    if (h->frozen && !h->frozen_told && !h->thawing && h->serving) {
        h->frozen_told = true;
        plan_daemon(h, mailbox_time(h, BOX_CONTROL), tell_guard, NULL, 1);
    } else if (!h->frozen && h->thawing) {
        h->thawing = h->frozen_told = false;
        plan_daemon(h, mailbox_time(h, BOX_CONTROL), tell_guard, NULL, 0);
    }
}

static void guard_wakes(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    if (!h->frozen && h->guard_ns != INT64_MAX && local_now(h) >= h->guard_ns)
        guard_act(h);
}

void guard_deadline(struct host *h, int64_t at)
{
    if (h->frozen)
        return; // it has acted
    h->guard_ns = at;
    if (at != INT64_MAX)
        plan_host(h, MAX(world_time(h, at), h->sim->now), guard_wakes, NULL, 0);
}

// ---- waypoint ----

#define ANSWER_NS (NS_PER_MS)

// The asks that were sent and answered since it was looked at last, as the network was.
void waypoint_advance(struct host *h)
{
    int64_t now = local_now(h);
    bool away = h->paused_until > h->sim->now || h->stalled_until > h->sim->now;
    if (!h->up || !h->running || away)
        return;
    int64_t every = h->watch ? END_ASK_NS : 10 * END_ASK_NS;
    while (h->ask_next_ns + ANSWER_NS <= now) {
        if (net_public(h->sim, h->index))
            h->ask_ns = h->ask_next_ns;
        h->ask_next_ns += every;
    }
    h->ask_next_ns = MIN(h->ask_next_ns, now + every);
}
