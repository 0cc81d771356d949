// SPDX-License-Identifier: Apache-2.0
// Which fault, and when. Some come at any time; some are drawn by an action of an end; and in some runs one kind of fault
// waits for one thing that is done in several steps, which is brought about, and comes in the middle of it.
#include "tests/sim/sim.h"

#include "common/base/checksum.h"

static int64_t some_ms(struct sim *s, unsigned from, unsigned to)
{
    return (int64_t)(from + rnd(s, to - from)) * NS_PER_MS + (int64_t)rnd(s, 1000) * NS_PER_US;
}

static enum fault_kind draw(struct sim *s)
{
    static const struct {
        enum fault_kind kind;
        unsigned weight;
    } weights[] = {
        {FAULT_KILL, 14},      {FAULT_TERMINATE, 6},   {FAULT_CRASH, 14},     {FAULT_CRASH_BOTH, 3},
        {FAULT_CUT, 8},        {FAULT_CUT_ONE_WAY, 5}, {FAULT_CUT_DATA, 4},   {FAULT_CUT_PUBLIC, 5},
        {FAULT_ISOLATE, 8},    {FAULT_BLINK, 4},       {FAULT_STALL, 5},      {FAULT_PAUSE_HOST, 4},
        {FAULT_SLOW_DISK, 3},  {FAULT_SAVE, 2},        {FAULT_STORE, 3},      {FAULT_QUEUE_DISK, 2},
        {FAULT_QUEUE_FULL, 2}, {FAULT_QUEUE_ROT, 2},   {FAULT_STATE_ROT, 2},  {FAULT_STATE_LOST, 1},
        {FAULT_MAP_ROT, 2},    {FAULT_SPILL_ROT, 2},  {FAULT_CLOCK, 2},
        {FAULT_WIPE, 1},       {FAULT_BURST, 3},       {FAULT_OPERATOR, 14},  {FAULT_FORCE, 1},
    };
    for (;;) {
        size_t i = rnd(s, ARRAY_LEN(weights));
        if (s->kinds >> weights[i].kind & 1 && rnd(s, 14) < weights[i].weight)
            return weights[i].kind;
    }
}

static void strike(struct host *h, void *arg, uint64_t kind)
{
    (void)arg;
    if (h->sim->phase == PHASE_FAULTS)
        fault_commit(h, (enum fault_kind)kind);
}

// In `async` an end goes on in an epoch that is being saved: killed meanwhile, it has it in its queue alone. Drawn beside the
// run's other numbers.
static void fault_on_epoch(struct host *h)
{
    struct sim *s = h->sim;
    const uint64_t key[] = {s->seed, (uint64_t)h->index, h->life, (uint64_t)s->now};
    uint64_t drawn = checksum64(key, sizeof(key));
    if (s->phase != PHASE_FAULTS || !h->saving || !(s->kinds >> FAULT_KILL & 1) || drawn % 4 != 0)
        return;
    plan_world(s, s->now + (int64_t)(drawn >> 8) % (3 * NS_PER_MS), h, strike, FAULT_KILL);
}

void fault_on_action(struct host *h, const struct end_action *a)
{
    struct sim *s = h->sim;
    if (a->type == ACT_EPOCH)
        fault_on_epoch(h);
    bool often = a->type == ACT_SEND || a->type == ACT_DEADLINE || a->type == ACT_LEASE || a->type == ACT_HISTORY;
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

// In the middle of a salvage a map is damaged that says what is still to be kept; the next run sees it.
void fault_on_salvage(struct host *h)
{
    struct sim *s = h->sim;
    if (s->phase != PHASE_FAULTS || !(s->kinds >> FAULT_MAP_ROT & 1) || !chance(s, 400))
        return;
    int64_t at = s->now + some_ms(s, 0, 30);
    plan_world(s, at, h, strike, FAULT_MAP_ROT);
    plan_world(s, at + some_ms(s, 0, 5), h, strike, chance(s, 500) ? FAULT_KILL : FAULT_CRASH);
}

// ---- in the middle of something ----

unsigned host_steps(const struct host *h)
{
    const struct end_view *v = &h->view;
    unsigned steps = 0;
    if (!h->running || !h->started)
        return 0;
    if (v->connected && !v->session)
        steps |= 1U << STEP_MEETING;
    if (v->state == END_PROBING || v->state == END_TAKING_OVER)
        steps |= 1U << STEP_TAKEOVER;
    if (v->state == END_HANDING_OVER || v->state == END_HANDED_OVER)
        steps |= 1U << STEP_HANDOVER;
    if (v->state == END_ACTIVE && !h->durable_alone && (v->alone || !v->connected))
        steps |= 1U << STEP_GOING_ALONE;
    if ((v->state == END_ACTIVE && v->pending && v->session) ||
        (v->state == END_PASSIVE && v->inconsistent))
        steps |= 1U << STEP_RESYNC;
    return steps;
}

void fault_in_step(struct host *h)
{
    struct sim *s = h->sim;
    if (!s->focus_left || s->phase != PHASE_FAULTS || !(host_steps(h) >> s->focus_step & 1) ||
        !chance(s, 250))
        return;
    s->focus_left--;
    bool slow = s->focus_step == STEP_RESYNC || s->focus_step == STEP_GOING_ALONE;
    int64_t at = s->now + (chance(s, 400) ? 0 : some_ms(s, 0, slow ? 40 : 5));
    plan_world(s, at, chance(s, 700) ? h : other(h), strike, s->focus_kind);
}

// Brings the step about.
static void trigger(struct host *h, void *arg, uint64_t step)
{
    struct sim *s = h->sim;
    struct host *active = h->view.active ? h : other(h);
    (void)arg;
    if (s->phase != PHASE_FAULTS || !active->running || !active->started)
        return;
    switch ((enum step)step) {
    case STEP_MEETING:
        fault_commit(chance(s, 500) ? active : other(active), FAULT_KILL);
        break;
    case STEP_TAKEOVER:
        fault_commit(active, chance(s, 500) ? FAULT_CRASH : FAULT_ISOLATE);
        break;
    case STEP_HANDOVER:
        operator_command(active, COMMAND_SWITCH, 0);
        break;
    case STEP_GOING_ALONE:
        fault_commit(other(active), chance(s, 300)   ? FAULT_TERMINATE
                                    : chance(s, 500) ? FAULT_CRASH
                                                     : FAULT_CUT);
        break;
    case STEP_RESYNC:
        operator_command(active, COMMAND_RESYNC, 0);
        break;
    case STEPS:
        break;
    }
}

// The operator cannot tell a cut from a dead machine, and believes the wrong thing: the passive end takes over by force
// while the active one may still serve.
static void force_passive(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    struct host *passive = h->view.active ? other(h) : h;
    if (h->sim->phase == PHASE_FAULTS && passive->running && passive->started)
        operator_command(passive, COMMAND_TAKEOVER, COMMAND_FORCE | COMMAND_INCONSISTENT);
}

static void mistake(struct sim *s)
{
    int64_t at = s->now + 3 * NS_PER_S / 2 + some_ms(s, 0, 1000);
    plan_world(s, at, &s->host[rnd(s, 2)], strike, chance(s, 700) ? FAULT_CUT : FAULT_ISOLATE);
    if (chance(s, 300))
        plan_world(s, at - some_ms(s, 0, 300), &s->host[0], trigger, STEP_HANDOVER);
    for (uint64_t n = 1 + rnd(s, 2); n > 0; n--)
        plan_world(s, at + some_ms(s, 10, 5000), &s->host[rnd(s, 2)], force_passive, 0);
}

static void isolate_passive(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    if (h->sim->phase == PHASE_FAULTS)
        fault_commit(h->view.active ? other(h) : h, FAULT_ISOLATE);
}

// The same in a hurry: the active end has not gone alone yet, and yields.
static void short_mistake(struct sim *s)
{
    int64_t at = s->now + 3 * NS_PER_S / 2 + some_ms(s, 0, 1000), silent = at + s->config.timeout_ns;
    plan_world(s, at, &s->host[0], isolate_passive, 0);
    plan_world(s, silent + some_ms(s, 50, 600), &s->host[0], force_passive, 0);
    plan_world(s, silent + some_ms(s, 600, 1400), &s->host[0], fault_heal_cuts, 0);
}

// The machine of the active end is shut down in order in the middle of a resync, the other one is told to serve as it is, and
// the first one comes back.
static void shut_active_down(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    struct sim *s = h->sim;
    struct host *active = h->view.active ? h : other(h);
    if (s->phase != PHASE_FAULTS || !active->running || !active->view.pending)
        return;
    int64_t off = s->now + s->config.timeout_ns + some_ms(s, 300, 1000);
    operator_command(active, COMMAND_SHUTDOWN, 0);
    plan_world(s, off, active, strike, FAULT_CRASH);
    for (int i = 1; i <= 3; i++)
        plan_world(s, off + some_ms(s, 100, 400) * i, other(active), force_passive, 0);
}

static void served_in_mid_resync(struct sim *s)
{
    int64_t at = s->now + 3 * NS_PER_S / 2 + some_ms(s, 0, 1000);
    for (int i = 0; i < 4; i++) {
        plan_world(s, at, &s->host[0], trigger, STEP_RESYNC);
        plan_world(s, at + some_ms(s, 0, 60), &s->host[0], shut_active_down, 0);
        at += some_ms(s, 100, 300);
    }
}

static void focus(struct sim *s, int64_t span)
{
    s->focus_left = 1 + (unsigned)rnd(s, 2);
    s->focus_kind = (enum fault_kind)rnd(s, FAULT_KINDS);
    s->focus_step = (enum step)rnd(s, STEPS);
    if (chance(s, 60)) { // rare where nobody brings it about
        s->focus_kind = FAULT_STATE_LOST;
        s->focus_step = chance(s, 500) ? STEP_HANDOVER : STEP_TAKEOVER;
    }
    for (uint64_t n = 1 + rnd(s, 2); n > 0; n--) {
        int64_t at = s->now + 3 * NS_PER_S / 2 + (int64_t)rnd(s, (uint64_t)span);
        plan_world(s, at, &s->host[rnd(s, 2)], trigger, s->focus_step);
    }
}

// ---- a run ----

static void calm(struct host *h, void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    fault_heal_all(h->sim);
    progress_begin(h->sim);
}

static uint32_t draw_kinds(struct sim *s)
{
    const uint32_t disks = 1U << FAULT_SAVE | 1U << FAULT_STORE | 1U << FAULT_QUEUE_DISK |
                           1U << FAULT_QUEUE_FULL | 1U << FAULT_QUEUE_ROT | 1U << FAULT_MAP_ROT |
                           1U << FAULT_SPILL_ROT | 1U << FAULT_STATE_ROT |
                           1U << FAULT_STATE_LOST | 1U << FAULT_WIPE;
    const uint32_t all = (1U << FAULT_KINDS) - 1;
    uint32_t kinds = chance(s, 300) ? UINT32_MAX : (uint32_t)(rnd(s, 0) & rnd(s, 0));
    if (chance(s, 600)) // disks mostly do not fail
        kinds &= ~disks;
    if (chance(s, 800)) // nor are operators mostly violent
        kinds &= ~(1U << FAULT_FORCE);
    kinds &= all & ~(1U << FAULT_LATE);
    return kinds ? kinds : 1U << FAULT_CRASH;
}

void faults_init(struct sim *s)
{
    s->kinds = draw_kinds(s);
    s->loss = chance(s, 300) ? (unsigned)rnd(s, 30) : 0;
    s->slow_ns = chance(s, 150) ? some_ms(s, 2, 120) : 2 * NS_PER_MS;
    bool focused = chance(s, 400);
    s->fault_rate = !focused && chance(s, 600) ? 1 + (unsigned)rnd(s, 25) : 0;
    int64_t span = chance(s, 100) ? some_ms(s, 5000, 14000) : some_ms(s, 500, 5000);
    if (focused)
        focus(s, span / 2);
    for (uint64_t n = rnd(s, focused ? 2 : 6) + (s->fault_rate || focused ? 0 : 1); n > 0; n--) {
        int64_t at = s->now + NS_PER_S / 2 + (int64_t)rnd(s, (uint64_t)span);
        plan_world(s, at, &s->host[rnd(s, 2)], strike, draw(s));
    }
    if (!focused && chance(s, 140)) {
        unsigned kind = (unsigned)rnd(s, 1000);
        kind < 215 ? short_mistake(s) : kind < 860 ? mistake(s) : served_in_mid_resync(s);
    }
    if (!focused && chance(s, 400)) // a switchover at a time at which it is likely to be possible
        plan_world(s, s->now + NS_PER_S + (int64_t)rnd(s, (uint64_t)span), &s->host[0], trigger,
                   STEP_HANDOVER);
    plan_world(s, s->now + NS_PER_S + span + (focused ? 2 * NS_PER_S : 0), &s->host[0], calm, 0);
}
