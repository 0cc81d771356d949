// SPDX-License-Identifier: Apache-2.0
// What goes wrong. The public network is whole, or cuts an end from its peer and the waypoint alike: the
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

// ---- daemons and machines ----

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

// ---- networks ----

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

// ---- scheduling ----

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
    int64_t away = MAX(h->paused_until, h->stalled_until) - s->now;
    h->ask_next_ns = local_now(h) + away * (DRIFT_OF + h->drift) / DRIFT_OF;
}

// ---- disks ------------------------------------------------------------------------------------------------------

int64_t disk_time(const struct host *h, int64_t ns)
{
    return h->slow_until > h->sim->now ? 40 * ns : ns;
}

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
    fake_disk_limit(h->safe, UINT64_MAX);
    fake_disk_limit(h->spill, UINT64_MAX);
    fake_disk_fail(h->spill, 0, 0, false);
    fake_disk_fail_reads(h->spill, 0);
}

static void queue_disk_ill(struct host *h)
{
    struct sim *s = h->sim;
    struct fake_disk *disks[] = {h->safe, h->maps, h->salvage, h->spill};
    struct fake_disk *disk = disks[rnd(s, ARRAY_LEN(disks))];
    if (disk == h->spill && chance(s, 100))
        fake_disk_fail_reads(disk, -EIO);
    else
        fake_disk_fail(disk, 1 + (unsigned)rnd(s, 6),
                       disk == h->spill && chance(s, 500) ? -ENOSPC : -EIO, chance(s, 300));
}

static void queue_disk_full(struct host *h)
{
    fake_disk_limit(h->safe, 0);
    fake_disk_limit(h->spill, 0);
}

// The guest writes as fast as it can, and the other end takes nothing: the queues fill.
static void pile_up(struct host *h, unsigned ms)
{
    struct sim *s = h->sim;
    s->burst_until = s->now + ms * NS_PER_MS;
    cut_for(s, CUT_DATA, (int64_t)(ms + 500) * NS_PER_MS);
}

// There is room again while much is still to be spilled.
static void full_for_a_moment(struct host *active)
{
    struct sim *s = active->sim;
    queue_disk_full(active);
    pile_up(active, 2500);
    plan_world(s, s->now + some_ms(s, 300, 900), active, disk_well, 0);
}

// Errors, or no room, for a while.
static void disk_ill(struct host *h, enum fault_kind kind)
{
    struct sim *s = h->sim;
    unsigned kinds = chance(s, 500) ? 1U << BLOCK_FLUSH : 1U << BLOCK_WRITE | 1U << BLOCK_ZERO;
    if (kind == FAULT_SAVE)
        h->save_fails = true;
    else if (kind == FAULT_QUEUE_DISK)
        queue_disk_ill(h);
    else if (kind == FAULT_QUEUE_FULL)
        queue_disk_full(h);
    else
        fake_volume_fail(h->volume[rnd(s, s->volumes)], kinds, -EIO);
    if (kind == FAULT_QUEUE_FULL && chance(s, 500))
        full_for_a_moment(h->view.active ? h : other(h));
    s->store_failed |= kind == FAULT_STORE;
    plan_world(s, s->now + some_ms(s, 1, kind == FAULT_QUEUE_FULL ? 5000 : 600), h, disk_well, 0);
}

// Where something was written: most of a segment never is.
static uint64_t written(const uint8_t *bytes, uint64_t size)
{
    while (size >= 8 && le64_get(*(const struct le64 *)(const void *)(bytes + size - 8)) == 0)
        size -= 8;
    return MAX(size, UINT64_C(1));
}

// Some bits of a file there turn.
static void rot(struct host *h, struct fake_disk *disk, const char *what)
{
    struct sim *s = h->sim;
    uint32_t slots = fake_disk_slots(disk);
    uint64_t size = 0, first = rnd(s, slots ? slots : 1);
    for (uint32_t i = 0; i < slots; i++) {
        uint32_t slot = (uint32_t)((first + i) % slots);
        const uint8_t *bytes = fake_disk_bytes(disk, slot, &size);
        if (!bytes)
            continue;
        uint64_t at = rnd(s, chance(s, 200) ? MIN(size, UINT64_C(4096)) : written(bytes, size));
        fake_disk_rot(disk, slot, at, (uint8_t)(1U << rnd(s, 8)));
        trace(s, h, "%s %u rots at %llu", what, slot, (unsigned long long)at);
        return;
    }
}

// Some bits of what was written to a segment last: what nothing behind it proves to have been confirmed.
static void rot_tail(struct host *h)
{
    struct sim *s = h->sim;
    uint32_t slots = fake_disk_slots(h->safe), slot = (uint32_t)rnd(s, slots ? slots : 1);
    uint64_t size = 0;
    const uint8_t *bytes = slots ? fake_disk_bytes(h->safe, slot, &size) : NULL;
    if (!bytes)
        return;
    uint64_t end = written(bytes, size), at = end - 1 - rnd(s, MIN(end, UINT64_C(700)));
    fake_disk_rot(h->safe, slot, at, (uint8_t)(1U << rnd(s, 8)));
    trace(s, h, "segment %u rots at %llu, of %llu", slot, (unsigned long long)at, (unsigned long long)end);
}

// Its next run does not find the tail of its queue, and cannot open its replica, or not write to it.
static void tail_and_replica_ill(struct host *h)
{
    struct sim *s = h->sim;
    int64_t until = s->now + some_ms(s, 100, 4000);
    rot_tail(h);
    chance(s, 600) ? kill_now(h) : crash_now(h);
    h->tail_life = h->life + 1;
    s->store_failed = true;
    if (chance(s, 500)) {
        h->stores_shut_until = until;
        return;
    }
    fake_volume_fail(h->volume[rnd(s, s->volumes)],
                     chance(s, 300) ? 1U << BLOCK_FLUSH : 1U << BLOCK_WRITE | 1U << BLOCK_ZERO, -EIO);
    plan_world(s, until, h, disk_well, 0);
}

// Most of it is read at a start only.
static void rot_unseen(struct host *h, struct fake_disk *disk, const char *what)
{
    rot(h, disk, what);
    if (chance(h->sim, 400))
        chance(h->sim, 500) ? kill_now(h) : crash_now(h);
}

// The machine comes back with another disk.
static void wipe(struct host *h)
{
    struct sim *s = h->sim;
    // Not both, and not what alone has everything.
    const struct host *o = other(h);
    bool other_has = o->running && !o->view.inconsistent && o->view.epoch.number &&
                     o->view.epoch.id == h->view.epoch.id &&
                     (o->view.state == END_ACTIVE || o->view.granted);
    if (s->wiped || !other_has)
        return;
    s->wiped = true;
    host_crash(h);
    trace(s, h, "its disk is replaced");
    judge_salvage_void(h);
    state_wipe(h);
    host_disks(h);
    plan_world(s, s->now + some_ms(s, 500, 6000), h, boot_again, 0);
}

static void rot_spilled(struct host *h, void *arg, uint64_t n)
{
    (void)arg, (void)n;
    if (h->sim->phase == PHASE_FAULTS)
        rot_unseen(h, h->spill, "spilled segment");
}

// There is something to rot only where the queue has filled.
static void spilled_ill(struct host *h)
{
    struct sim *s = h->sim;
    struct host *active = h->view.active ? h : other(h);
    rot_spilled(h, NULL, 0);
    if (chance(s, 500))
        return;
    pile_up(active, 1200);
    for (int i = 0; i < 3; i++)
        plan_world(s, s->now + some_ms(s, 200, 1600), active, rot_spilled, 0);
}

void fault_heal_cuts(struct host *h, void *arg, uint64_t n)
{
    (void)arg, (void)n;
    for (int i = 0; i < CUTS; i++)
        set_cut(h->sim, (enum cut)i, false);
}

// ---- the operator ----

void operator_command(struct host *h, enum end_command command, unsigned flags)
{
    static const char *const names[] = {"switch", "takeover", "pause", "resume", "resync", "stop", "shutdown", "resolve", "verify"};
    struct end_event ev = {.type = EV_COMMAND};
    ev.command.command = command;
    ev.command.flags = flags;
    ev.command.id = ++h->sim->operator_ids;
    trace(h->sim, h, "operator: %s%s%s%s", names[command], flags & COMMAND_FORCE ? " --force" : "",
          flags & COMMAND_INCONSISTENT ? " --accept-inconsistent" : "",
          flags & COMMAND_REPLAY           ? " --replay"
          : flags & COMMAND_KEEP_PRIMARY   ? " --keep primary"
          : flags & COMMAND_KEEP_SECONDARY ? " --keep secondary"
                                           : "");
    if (command == COMMAND_RESOLVE) {
        h->sim->host[0].named_to_keep |= flags & COMMAND_KEEP_PRIMARY;
        h->sim->host[1].named_to_keep |= flags & COMMAND_KEEP_SECONDARY;
    }
    if (command == COMMAND_TAKEOVER)
        h->told_life = h->life;
    h->force_asked |= flags & (COMMAND_FORCE | COMMAND_INCONSISTENT);
    h->sim->forced |= command == COMMAND_RESOLVE && h->view.met == MEET_SPLIT;
    report_event(h, &ev);
}

static void operate(struct host *h, bool force)
{
    static const struct {
        enum end_command command;
        unsigned flags;
    } commands[] = {
        {COMMAND_SWITCH, 0}, {COMMAND_SWITCH, 0},   {COMMAND_SWITCH, 0},
        {COMMAND_SWITCH, 0}, {COMMAND_PAUSE, 0},    {COMMAND_PAUSE, COMMAND_REPLAY},
        {COMMAND_RESUME, 0}, {COMMAND_RESUME, COMMAND_REPLAY}, {COMMAND_RESYNC, 0},
        {COMMAND_RESYNC, 0}, {COMMAND_TAKEOVER, 0}, {COMMAND_STOP, 0},
        {COMMAND_SHUTDOWN, 0},
        {COMMAND_VERIFY, 0}, {COMMAND_VERIFY, 0},   {COMMAND_VERIFY, COMMAND_REPAIR},
    };
    size_t i = rnd(h->sim, ARRAY_LEN(commands));
    if (force && chance(h->sim, 300))
        operator_command(h, COMMAND_RESOLVE,
                         chance(h->sim, 500) ? COMMAND_KEEP_PRIMARY : COMMAND_KEEP_SECONDARY);
    else if (force)
        operator_command(h, COMMAND_TAKEOVER,
                         chance(h->sim, 500) ? COMMAND_FORCE : COMMAND_INCONSISTENT);
    else
        operator_command(h, commands[i].command, commands[i].flags);
}

// ---- one of them ----

void fault_commit(struct host *h, enum fault_kind kind)
{
    struct sim *s = h->sim;
    bool of_machine = kind == FAULT_CRASH || kind == FAULT_CRASH_BOTH || kind == FAULT_WIPE ||
                      kind == FAULT_QUEUE_ROT || kind == FAULT_MAP_ROT || kind == FAULT_SPILL_ROT ||
                      kind == FAULT_STATE_ROT || kind == FAULT_CLOCK;
    if (!h->up || (!h->running && !of_machine))
        return;
    cover_fault(h, kind);
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
    case FAULT_SLOW_DISK:
        h->slow_until = s->now + some_time(s);
        break;
    case FAULT_SAVE:
    case FAULT_STORE:
    case FAULT_QUEUE_DISK:
    case FAULT_QUEUE_FULL:
        disk_ill(h, kind);
        break;
    case FAULT_QUEUE_ROT:
        h->queue_rotted = true;
        if (h->running && h->view.state == END_PASSIVE && chance(s, 500))
            tail_and_replica_ill(h);
        else
            rot_unseen(h, h->safe, "segment");
        break;
    case FAULT_MAP_ROT:
        rot_unseen(h, h->maps, "map");
        break;
    case FAULT_SPILL_ROT:
        spilled_ill(h);
        break;
    case FAULT_STATE_ROT:
    case FAULT_STATE_LOST:
        state_rot(h, kind == FAULT_STATE_LOST);
        if (chance(s, 500)) // it is seen at a start only
            chance(s, 500) ? kill_now(h) : crash_now(h);
        break;
    case FAULT_WIPE:
        wipe(h);
        break;
    case FAULT_BURST:
        s->burst_until = s->now + some_ms(s, 100, 700);
        if (chance(s, 600))
            cut_for(s, CUT_DATA, some_ms(s, 300, 1500));
        break;
    case FAULT_CLOCK:
        h->wall_ns += chance(s, 500) ? some_time(s) - 4 * NS_PER_S : some_ms(s, 0, 7200000) - 3600 * NS_PER_S;
        break;
    case FAULT_OPERATOR:
    case FAULT_FORCE:
        operate(h, kind == FAULT_FORCE);
        break;
    case FAULT_LATE:
    case FAULT_KINDS:
        break;
    }
}

void fault_heal_all(struct sim *s)
{
    fault_heal_cuts(&s->host[0], NULL, 0);
    s->loss = 0;
    s->slow_ns = 2 * NS_PER_MS;
    s->burst_until = 0;
    for (int i = 0; i < 2; i++) {
        disk_well(&s->host[i], NULL, 0);
        s->host[i].slow_until = s->host[i].stores_shut_until = 0;
        if (!s->host[i].up)
            host_boot(&s->host[i]);
        daemon_start(&s->host[i]);
    }
}
