// SPDX-License-Identifier: Apache-2.0
// Carries out what an end decides, as the daemon does it: saves on a disk that takes its time,
// letters to the data path, the public address, probes, applications, guard. No decision here.
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checksum.h"

// ---- letters to the data path ----

static void run_front(struct host *h, void *arg, uint64_t n)
{
    (void)n;
    front_letter(h, arg);
}

static void run_stream(struct host *h, void *arg, uint64_t n)
{
    (void)n;
    stream_letter(h, arg);
}

static void letter(struct host *h, int box, const struct end_action *a)
{
    struct end_action *copy = malloc(sizeof(*copy));
    ENSURE(copy);
    memcpy(copy, a, offsetof(struct end_action, text));
    copy->text[0] = '\0';
    if (a->type == ACT_OPEN || a->type == ACT_EPOCH || a->type == ACT_FOLLOW)
        copy->epoch = a->epoch;
    if (a->type == ACT_MAP_ADD)
        copy->frame = a->frame;
    if (a->type == ACT_SALVAGE)
        copy->state = a->state;
    plan_daemon(h, mailbox_time(h, box), box == BOX_FRONT ? run_front : run_stream, copy, 0);
}

// The replica has let go of the stores and (ok) of its queue.
static void closed(struct host *h, void *arg, uint64_t ok)
{
    (void)arg;
    if (!h->open_after_close)
        return;
    h->open_after_close = false;
    if (!ok) {
        struct end_event ev = {.type = EV_EXPORTS};
        ev.exports.status = -EIO;
        feed(h, &ev);
        return;
    }
    if (!h->open_action.recover) // a queue that is taken back still has its stream
        h->figures.durable = 0;
    letter(h, BOX_FRONT, &h->open_action);
}

void act_closed(struct host *h, bool ok)
{
    plan_daemon(h, mailbox_time(h, BOX_CONTROL), closed, NULL, ok);
}

static void act_open(struct host *h, const struct end_action *a)
{
    h->serving = true;
    h->open_action = *a;
    h->open_after_close = true;
    letter(h, BOX_STREAM, a);
}

static void act_follow(struct host *h, const struct end_action *a)
{
    if (a->session) {
        h->serving = h->open_after_close = false;
        letter(h, BOX_FRONT, a);
    }
    letter(h, BOX_STREAM, a);
}

// ---- public address ----

#define SWITCH_NS_MAX (3 * NS_PER_S)

// How long somebody else holds the kernel's lock for the network: mostly not at all. Drawn beside the run's other numbers.
static int64_t switch_delay(const struct host *h)
{
    const uint64_t key[] = {h->sim->seed, (uint64_t)(h - h->sim->host), h->life, h->switch_ticket};
    uint64_t drawn = checksum64(key, sizeof(key));
    return drawn % 8 ? 0 : (int64_t)(drawn / 8 % SWITCH_NS_MAX);
}

#define OFF_FAILS_NS (4 * NS_PER_S)

// For how long the kernel takes no address off for this daemon: longer than a deadline, now and then. Its guard asks again
// and again itself.
static bool off_fails(const struct host *h)
{
    const struct sim *s = h->sim;
    const uint64_t key[] = {s->seed, (uint64_t)(h - s->host), (uint64_t)(s->now / OFF_FAILS_NS), 1};
    return s->phase == PHASE_FAULTS && checksum64(key, sizeof(key)) % 8 == 0;
}

// What is planned: a wish's ticket, and a bit.
#define WISH_ON   1u
#define WISH_BITS 1

static void switch_now(struct host *h, uint64_t wish, bool late)
{
    struct end_event ev = {.type = EV_ADDRESS};
    ev.address.on = wish & WISH_ON;
    if (ev.address.on && chance(h->sim, 10))
        ev.address.status = -EIO;
    else if (ev.address.on && late)
        ev.address.status = -ETIME;
    else if (!ev.address.on && off_fails(h))
        ev.address.status = -EIO;
    else
        h->address = ev.address.on;
    if (ev.address.status == -ETIME)
        cover_count("public address: not on behind the deadline");
    if (ev.address.status == -EIO && !ev.address.on && h->address)
        cover_count("public address: stays on");
    if (wish >> WISH_BITS == h->switch_ticket)
        report_event(h, &ev);
}

// One that was begun is finished, and undone behind the deadline. Of an older one than the newest nobody knows whether it was.
static void switched(struct host *h, void *arg, uint64_t wish)
{
    (void)arg;
    bool newest = wish >> WISH_BITS == h->switch_ticket;
    cover_count(newest ? "public address: had to wait" : "public address: another wish came meanwhile");
    if (newest || chance(h->sim, 2))
        switch_now(h, wish, local_now(h) >= h->switch_limit_ns);
}

static void act_address(struct host *h, bool on)
{
    uint64_t wish = ++h->switch_ticket << WISH_BITS | (on ? WISH_ON : 0);
    h->switch_at = MAX(h->switch_at, h->sim->now + switch_delay(h));
    if (h->switch_at <= h->sim->now)
        switch_now(h, wish, false);
    else
        plan_daemon(h, h->switch_at, switched, NULL, wish);
}

struct probe {
    uint64_t ticket;
    int64_t began_ns;
    int64_t asked_ns; // the newest answered ask since then
    bool cut_off;     // a waypoint did not answer all the while
    int looks;
    bool seen;
};
#define PROBE_LOOKS   5
#define PROBE_STEP_NS (50 * NS_PER_MS)

// Whether the other end's address answers this machine, or its daemon or guard says that it is
// active.
static bool peer_seen(struct host *h)
{
    const struct host *peer = other(h);
    const struct sim *s = h->sim;
    bool reached = s->public_up[0] && s->public_up[1] && peer->up && peer->paused_until <= s->now;
    return reached && (peer->address || peer->said_active);
}

// As common/daemon/vetoes.c does.
static void watch_waypoint(struct host *h, struct probe *p)
{
    waypoint_advance(h);
    if (h->ask_ns < p->began_ns || h->ask_ns == p->asked_ns)
        return;
    p->cut_off |= p->asked_ns ? h->ask_ns - p->asked_ns > END_GAP_NS : h->ask_ns - p->began_ns > END_ASK_NS;
    p->asked_ns = h->ask_ns;
}

static void probe_look(struct host *h, void *arg, uint64_t n)
{
    struct probe *p = arg;
    struct end_event ev = {.type = EV_PROBED};
    (void)n;
    if (h->probe_ticket != p->ticket)
        return; // a newer one has replaced it
    p->seen |= peer_seen(h);
    watch_waypoint(h, p);
    if (!p->seen && ++p->looks < PROBE_LOOKS) {
        struct probe *next = malloc(sizeof(*next));
        ENSURE(next);
        *next = *p;
        plan_daemon(h, h->sim->now + PROBE_STEP_NS, probe_look, next, 0);
        return;
    }
    ev.probed.ticket = p->ticket;
    ev.probed.vetoes = p->seen                   ? END_VETO_ADDRESS
                       : p->cut_off || !p->asked_ns ? END_VETO_WAYPOINT
                                                 : 0;
    ev.probed.text = p->seen ? "the address answers" : "no waypoint answers";
    feed(h, &ev);
}

static void act_probe(struct host *h, uint64_t ticket)
{
    struct probe *p = calloc(1, sizeof(*p));
    ENSURE(p);
    waypoint_advance(h);
    h->watch = true;
    p->ticket = h->probe_ticket = ticket;
    p->began_ns = local_now(h);
    plan_daemon(h, h->sim->now, probe_look, p, 0);
}

// ---- applications and guard ----

static void apps_done(struct host *h, void *arg, uint64_t running)
{
    struct end_event ev = {.type = EV_APPS};
    (void)arg;
    if (!running && h->frozen)
        ev.apps.status = -EIO; // what is frozen does not stop
    else
        h->apps = running;
    ev.apps.running = running;
    feed(h, &ev);
}

static void act_apps(struct host *h, bool start)
{
    struct sim *s = h->sim;
    int64_t at = MAX(h->letter_at[BOX_APPS], s->now) + (int64_t)rnd(s, 200) * NS_PER_MS;
    h->letter_at[BOX_APPS] = at;
    plan_daemon(h, at, apps_done, NULL, start);
}

static void act_destroy(struct host *h)
{
    h->apps = false;
    guest_lost(h, false);
    if (h->frozen)
        h->guard_ns = INT64_MAX;
    h->frozen = h->flag = h->frozen_told = false;
}

static void thaw(struct host *h, void *arg, uint64_t deadline)
{
    (void)arg;
    h->frozen = h->flag = false;
    guard_deadline(h, (int64_t)deadline);
    if (local_now(h) < (int64_t)deadline) {
        guard_look(h);
        return;
    }
    h->thawing = h->frozen_told = false; // too late: it acts again
    guard_act(h);
}

static void act_thaw(struct host *h, int64_t deadline)
{
    if (h->frozen) {
        h->thawing = true;
        plan_daemon(h, mailbox_time(h, BOX_CONTROL), thaw, NULL, (uint64_t)deadline);
        return;
    }
    h->frozen_told = false;
    report_event(h, &(struct end_event){.type = EV_GUARD, .guard.frozen = false});
}

static void act_freeze(struct host *h)
{
    if (h->frozen)
        guard_look(h);
    else
        guard_act(h);
}

// ---- the end of a run ----

static void restart(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    daemon_start(h);
}

static void leave(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    front_stop(h, false);
    stream_stop(h, true);
    daemon_kill(h, "the daemon ends");
    plan_host(h, h->sim->now + (int64_t)rnd(h->sim, 1500) * NS_PER_MS, restart, NULL, 0);
}

static void act_exit(struct host *h)
{
    h->exited = true;
    plan_daemon(h, h->sim->now + NS_PER_MS, leave, NULL, 0);
}

void act(struct host *h, const struct end_action *a)
{
    switch (a->type) {
    case ACT_SEND:
        net_send(h, &a->frame);
        break;
    case ACT_SAVE:
        judge_heard_of(h, &a->state);
        judge_follows(h, &a->state);
        judge_salvage(h, &a->state);
        judge_resolves(h, &a->state);
        state_save(h, a);
        break;
    case ACT_OPEN:
        judge_opens(h, a);
        act_open(h, a);
        break;
    case ACT_GATE:
    case ACT_CLOSE:
    case ACT_EPOCH:
    case ACT_BOUND:
    case ACT_ATTACH:
    case ACT_DETACH:
    case ACT_RESYNC:
    case ACT_MAP_FILL:
    case ACT_MAP_VOID:
    case ACT_MAP_ARM:
    case ACT_MAP_CLEAR:
    case ACT_MAP_READ:
    case ACT_MAP_ASIDE:
    case ACT_MAP_ADD:
    case ACT_MAP_SYNC:
    case ACT_VERIFY:
    case ACT_DIFFERS:
        letter(h, BOX_FRONT, a);
        break;
    case ACT_ABANDON:
        h->open_after_close = false;
        letter(h, BOX_FRONT, a);
        break;
    case ACT_STREAM:
        if (a->session)
            front_lane_start(h, a->session, a->seq - 1);
        else
            front_lane_stop(h);
        break;
    case ACT_WITHHOLD:
        outlet_withhold(h->front.outlet, a->seq);
        front_turn(h);
        break;
    case ACT_SALVAGE:
        letter(h, BOX_STREAM, a);
        break;
    case ACT_FOLLOW:
        act_follow(h, a);
        break;
    case ACT_CONSENT:
    case ACT_FINISH:
    case ACT_LOST:
    case ACT_DISCARD:
    case ACT_REPLAY:
        letter(h, BOX_STREAM, a);
        break;
    case ACT_ADDRESS:
        act_address(h, a->on);
        break;
    case ACT_PROBE:
        act_probe(h, a->ticket);
        break;
    case ACT_APPS:
        act_apps(h, a->on);
        break;
    case ACT_ADOPT:
        act_apps(h, true);
        break;
    case ACT_DESTROY:
        act_destroy(h);
        break;
    case ACT_FREEZE:
        act_freeze(h);
        break;
    case ACT_THAW:
        act_thaw(h, a->time_ns);
        break;
    case ACT_DEADLINE:
        guard_deadline(h, a->time_ns);
        h->switch_limit_ns = a->time_ns;
        break;
    case ACT_LEASE:
        h->figures.lease_ns = a->time_ns;
        front_turn(h); // it may be waiting for a new lease
        break;
    case ACT_GOODBYE:
        h->goodbye = a->on;
        break;
    case ACT_WATCH:
        waypoint_advance(h);
        h->watch = a->on;
        break;
    case ACT_HISTORY:
        trace(h->sim, h, "%s", a->text);
        break;
    case ACT_EXIT:
        act_exit(h);
        break;
    case ACT_ANNOUNCE:
    case ACT_REPLY:
        break;
    }
    fault_on_action(h, a);
}
