// SPDX-License-Identifier: Apache-2.0
// What goes wrong. Some faults come at any time; others are drawn by an action of an end, so that they meet the middle of
// what it does in several steps. The public network is whole, or cuts an end from its peer and the waypoint alike: the
// kind of history for which the design promises one address without an arbiter.
#include "tests/sim/sim.h"

#include <errno.h>

static int64_t some_ms(struct sim *s, unsigned from, unsigned to)
{
    return (int64_t)(from + rnd(s, to - from)) * NS_PER_MS + (int64_t)rnd(s, 1000) * NS_PER_US;
}

// Short ones, long ones, and ones about as long as the timeouts.
static int64_t some_time(struct sim *s)
{
    switch (rnd(s, 3)) {
    case 0:
        return some_ms(s, 1, 400);
    case 1:
        return s->config.timeout_ns + (int64_t)rnd(s, (uint64_t)s->config.decision_ns);
    default:
        return some_ms(s, 400, 8000);
    }
}

// ---- daemons and machines ---------------------------------------------------------------------------------------

static void start_again(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    daemon_start(h);
}

static void boot_again(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    if (h->up)
        return;
    host_boot(h);
    plan_host(h, h->sim->now + some_ms(h->sim, 10, 500), start_again, NULL, 0);
}

static void kill_now(struct host *h)
{
    struct sim *s = h->sim;
    daemon_kill(h, "the daemon is killed");
    plan_host(h, s->now + (chance(s, 700) ? some_ms(s, 1, 900) : some_time(s)), start_again, NULL, 0);
}

static void crash_now(struct host *h)
{
    struct sim *s = h->sim;
    host_crash(h);
    plan_world(s, s->now + some_ms(s, 500, 6000), h, boot_again, 0);
}

// ---- networks ---------------------------------------------------------------------------------------------------

enum cut { CUT_P, CUT_S, CUT_DATA, CUT_PUBLIC_P, CUT_PUBLIC_S, CUTS };

static void set_cut(struct sim *s, enum cut what, bool cut)
{
    waypoint_advance(&s->host[0]);
    waypoint_advance(&s->host[1]);
    switch (what) {
    case CUT_P:
    case CUT_S:
        s->cut[what - CUT_P] = cut;
        break;
    case CUT_DATA:
        s->data_cut = cut;
        break;
    case CUT_PUBLIC_P:
    case CUT_PUBLIC_S:
        s->public_up[what - CUT_PUBLIC_P] = !cut;
        break;
    case CUTS:
        break;
    }
    net_changed(s);
}

static void heal(struct host *h, void *arg, uint64_t what)
{
    (void)arg;
    set_cut(h->sim, (enum cut)what, false);
}

static void cut_for(struct sim *s, enum cut what, int64_t ns)
{
    set_cut(s, what, true);
    plan_world(s, s->now + ns, &s->host[0], heal, what);
}

static void cut_now(struct host *h, enum fault_kind kind)
{
    struct sim *s = h->sim;
    int64_t ns = some_time(s);
    enum cut public = h->index ? CUT_PUBLIC_S : CUT_PUBLIC_P;
    if (kind == FAULT_CUT || kind == FAULT_ISOLATE) {
        cut_for(s, CUT_P, ns);
        cut_for(s, CUT_S, ns + (int64_t)rnd(s, 3) * NS_PER_MS);
    }
    if (kind == FAULT_CUT_ONE_WAY)
        cut_for(s, h->index ? CUT_S : CUT_P, ns);
    if (kind == FAULT_CUT_DATA)
        cut_for(s, CUT_DATA, ns);
    if (kind == FAULT_CUT_PUBLIC || kind == FAULT_ISOLATE)
        cut_for(s, public, ns + (int64_t)rnd(s, 500) * NS_PER_MS);
    if (kind == FAULT_BLINK) {
        cut_for(s, CUT_PUBLIC_P, ns);
        cut_for(s, CUT_PUBLIC_S, ns);
    }
}

// ---- scheduling -------------------------------------------------------------------------------------------------

static void stall(struct host *h, bool machine)
{
    struct sim *s = h->sim;
    int64_t until = s->now + some_time(s);
    waypoint_advance(h);
    if (machine)
        h->paused_until = MAX(h->paused_until, until);
    else
        h->stalled_until = MAX(h->stalled_until, until);
    // Nothing is asked meanwhile.
    h->ask_next_ns = MAX(h->paused_until, h->stalled_until) - h->boot_at;
}

// ---- disks ------------------------------------------------------------------------------------------------------

static void disk_well(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    h->save_fails = false;
    for (unsigned i = 0; i < h->sim->volumes; i++)
        fake_volume_fail(h->volume[i], 0, 0);
    fake_disk_fail(h->safe, 0, 0, false);
    fake_disk_fail(h->maps, 0, 0, false);
    fake_disk_fail(h->salvage, 0, 0, false);
}

static void disk_ill(struct host *h, enum fault_kind kind)
{
    struct sim *s = h->sim;
    unsigned kinds = chance(s, 500) ? 1U << BLOCK_FLUSH : 1U << BLOCK_WRITE | 1U << BLOCK_ZERO;
    if (kind == FAULT_SAVE)
        h->save_fails = true;
    else if (kind == FAULT_QUEUE_DISK)
        fake_disk_fail(chance(s, 500)   ? h->maps
                       : chance(s, 300) ? h->salvage
                                        : h->safe,
                       1 + (unsigned)rnd(s, 6), -EIO,
                       chance(s, 300));
    else
        fake_volume_fail(h->volume[rnd(s, s->volumes)], kinds, -EIO);
    plan_world(s, s->now + some_ms(s, 1, 600), h, disk_well, 0);
}

// ---- the operator -----------------------------------------------------------------------------------------------

static void operate(struct host *h)
{
    static const struct {
        enum end_command command;
        unsigned flags;
    } commands[] = {
        {COMMAND_SWITCH, 0},   {COMMAND_SWITCH, 0}, {COMMAND_SWITCH, 0},
        {COMMAND_SWITCH, 0},   {COMMAND_PAUSE, 0},  {COMMAND_PAUSE, COMMAND_REPLAY},
        {COMMAND_RESUME, 0},   {COMMAND_RESUME, 0}, {COMMAND_RESYNC, 0},
        {COMMAND_TAKEOVER, 0}, {COMMAND_STOP, 0},   {COMMAND_SHUTDOWN, 0},
    };
    struct end_event ev = {.type = EV_COMMAND};
    size_t i = rnd(h->sim, ARRAY_LEN(commands));
    ev.command.command = commands[i].command;
    ev.command.flags = commands[i].flags;
    ev.command.id = 1;
    static const char *const names[] = {"switch", "takeover", "pause", "resume", "resync", "stop", "shutdown"};
    trace(h->sim, h, "operator: %s", names[ev.command.command]);
    report_event(h, &ev);
}

// ---- which, and when --------------------------------------------------------------------------------------------

static void commit(struct host *h, enum fault_kind kind)
{
    struct sim *s = h->sim;
    if (!h->up || (!h->running && kind != FAULT_CRASH && kind != FAULT_CRASH_BOTH))
        return;
    cover_fault(kind, h->view.state);
    trace(s, h, "FAULT %s", fault_name(kind));
    switch (kind) {
    case FAULT_KILL:
        kill_now(h);
        break;
    case FAULT_TERMINATE:
        report_event(h, &(struct end_event){.type = EV_TERMINATE});
        break;
    case FAULT_CRASH:
        crash_now(h);
        break;
    case FAULT_CRASH_BOTH:
        crash_now(h);
        if (other(h)->up)
            crash_now(other(h));
        break;
    case FAULT_CUT:
    case FAULT_CUT_ONE_WAY:
    case FAULT_CUT_DATA:
    case FAULT_CUT_PUBLIC:
    case FAULT_ISOLATE:
    case FAULT_BLINK:
        cut_now(h, kind);
        break;
    case FAULT_STALL:
    case FAULT_PAUSE_HOST:
        stall(h, kind == FAULT_PAUSE_HOST);
        break;
    case FAULT_SAVE:
    case FAULT_STORE:
    case FAULT_REPLICA:
    case FAULT_QUEUE_DISK:
        disk_ill(h, kind);
        break;
    case FAULT_OPERATOR:
        operate(h);
        break;
    case FAULT_LATE:
    case FAULT_KINDS:
        break;
    }
}

static enum fault_kind draw(struct sim *s)
{
    static const struct {
        enum fault_kind kind;
        unsigned weight;
    } weights[] = {
        {FAULT_KILL, 14},      {FAULT_TERMINATE, 6},    {FAULT_CRASH, 14},  {FAULT_CRASH_BOTH, 3},
        {FAULT_CUT, 8},        {FAULT_CUT_ONE_WAY, 5},  {FAULT_CUT_DATA, 4}, {FAULT_CUT_PUBLIC, 5},
        {FAULT_ISOLATE, 8},    {FAULT_BLINK, 4},        {FAULT_STALL, 5},   {FAULT_PAUSE_HOST, 4},
        {FAULT_SAVE, 2},       {FAULT_STORE, 2},        {FAULT_REPLICA, 2}, {FAULT_QUEUE_DISK, 2},
        {FAULT_OPERATOR, 14},
    };
    for (;;) {
        size_t i = rnd(s, ARRAY_LEN(weights));
        if (!(s->kinds >> weights[i].kind & 1))
            continue;
        if (rnd(s, 14) < weights[i].weight)
            return weights[i].kind;
    }
}

static void strike(struct host *h, void *arg, uint64_t kind)
{
    (void)arg;
    if (h->sim->phase == PHASE_FAULTS)
        commit(h, (enum fault_kind)kind);
}

void fault_on_action(struct host *h, const struct end_action *a)
{
    struct sim *s = h->sim;
    bool often = a->type == ACT_SEND || a->type == ACT_DEADLINE || a->type == ACT_HISTORY;
    if (s->phase != PHASE_FAULTS || often || !s->fault_rate)
        return;
    // What is done in several steps is over soon: there they come more often.
    enum end_role_state state = h->view.state;
    bool steps = state == END_TAKING_OVER || state == END_HANDING_OVER || state == END_HANDED_OVER ||
                 state == END_PROBING || state == END_SUSPENDED;
    if (!chance(s, steps ? 4 * s->fault_rate : s->fault_rate))
        return;
    int64_t at = s->now + (chance(s, 300) ? 0 : some_ms(s, 0, 6));
    struct host *whom = chance(s, 700) ? h : other(h);
    plan_world(s, at, whom, strike, draw(s));
}

static void switch_over(struct host *h, void *arg, uint64_t n)
{
    struct end_event ev = {.type = EV_COMMAND};
    (void)arg;
    (void)n;
    struct host *active = h->view.active ? h : other(h);
    if (h->sim->phase != PHASE_FAULTS || !active->running || !active->started)
        return;
    ev.command.command = COMMAND_SWITCH;
    trace(h->sim, active, "operator: switch");
    report_event(active, &ev);
}

static void calm(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    struct sim *s = h->sim;
    for (int i = 0; i < CUTS; i++)
        set_cut(s, (enum cut)i, false);
    s->loss = 0;
    s->slow_ns = 2 * NS_PER_MS;
    for (int i = 0; i < 2; i++) {
        disk_well(&s->host[i], NULL, 0);
        if (!s->host[i].up)
            host_boot(&s->host[i]);
        daemon_start(&s->host[i]);
    }
    progress_begin(s);
}

void faults_init(struct sim *s)
{
    s->kinds = chance(s, 300) ? UINT32_MAX : (uint32_t)(rnd(s, 0) & rnd(s, 0)) | 1U << rnd(s, FAULT_LATE);
    if (chance(s, 600)) // disks mostly do not fail
        s->kinds &= ~(1U << FAULT_SAVE | 1U << FAULT_STORE | 1U << FAULT_REPLICA |
                      1U << FAULT_QUEUE_DISK);
    s->kinds &= ~(1U << FAULT_LATE | 1U << FAULT_KINDS);
    if (!(s->kinds & ((1U << FAULT_LATE) - 1)))
        s->kinds |= 1U << FAULT_CRASH;
    s->loss = chance(s, 300) ? (unsigned)rnd(s, 30) : 0;
    s->slow_ns = chance(s, 150) ? some_ms(s, 2, 120) : 2 * NS_PER_MS;
    s->fault_rate = chance(s, 600) ? 1 + (unsigned)rnd(s, 25) : 0;
    int64_t span = some_ms(s, 3000, 14000);
    s->faults_end = s->now + 2 * NS_PER_S + span;
    for (uint64_t n = rnd(s, 6) + (s->fault_rate ? 0 : 1); n > 0; n--) {
        int64_t at = s->now + NS_PER_S + (int64_t)rnd(s, (uint64_t)span);
        plan_world(s, at, &s->host[rnd(s, 2)], strike, draw(s));
    }
    if (chance(s, 400)) // a switchover at a time at which it is likely to be possible
        plan_world(s, s->now + 2 * NS_PER_S + (int64_t)rnd(s, (uint64_t)span), &s->host[0],
                   switch_over, 0);
    plan_world(s, s->faults_end, &s->host[0], calm, 0);
}
