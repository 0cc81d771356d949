// SPDX-License-Identifier: Apache-2.0
// When the faults have stopped, the pair has to become synchronized by itself, or be in one of the few states in which
// the design waits for an operator; then the operator does what the state asks for, and it has to become so all the same.
#include "tests/sim/sim.h"

#include <string.h>

#define LOOK_NS     (250 * NS_PER_MS)
#define PATIENCE_NS (25 * NS_PER_S) // until the operator looks
#define LIMIT_NS    (90 * NS_PER_S)

// Of an end that does not follow it is of no interest.
static bool replay_paused(const struct host *h)
{
    return h->replay_paused && (h->view.state == END_PASSIVE || h->view.state == END_PROBING);
}

// A request may wait for its gate, or for the map.
static bool is_asked(const struct sim *s)
{
    for (unsigned i = 0; i < GUEST_SLOTS; i++)
        if (s->ops[i].state == OP_ASKED && !s->ops[i].lost)
            return true;
    return false;
}

static bool is_synchronized(const struct sim *s)
{
    for (int i = 0; i < 2; i++) {
        const struct host *a = &s->host[i], *p = &s->host[1 - i];
        const struct end_view *v = &a->view;
        bool serves = a->running && v->state == END_ACTIVE && !v->alone && v->synchronized &&
                      a->address && front_serves(a);
        bool follows = p->running && p->view.state == END_PASSIVE && !p->view.inconsistent;
        bool granted = !s->config.automatic || (v->granted && p->view.granted);
        if (serves && follows && granted)
            return true;
    }
    return false;
}

static bool is_settled(const struct sim *s)
{
    for (int i = 0; i < 2; i++) {
        const struct host *a = &s->host[i], *p = &s->host[1 - i];
        struct replica_stats st;
        if (!a->view.active || !stream_stats(p, &st))
            continue;
        return !is_asked(s) && st.applied == a->figures.numbered && follower_idle(p->follower) &&
               !fake_volume_active(a->volume[0]) &&
               (s->volumes < 2 || !fake_volume_active(a->volume[1]));
    }
    return false;
}

// The end whose line goes furthest.
static struct host *best(struct sim *s)
{
    for (unsigned i = s->ledger.epoch_count; i > 0; i--)
        for (int k = 0; k < 2; k++)
            if (s->host[k].view.epoch.id == s->ledger.epochs[i - 1].epoch.id &&
                s->host[k].was_saved && !s->host[k].view.inconsistent)
                return &s->host[k];
    return &s->host[0];
}

static bool serves(const struct host *h)
{
    return h->running && h->view.state == END_ACTIVE;
}

// The ends wait for somebody who says whose data is kept.
static bool is_split(const struct sim *s)
{
    for (int i = 0; i < 2; i++) {
        const struct end_view *v = &s->host[i].view;
        if (v->state == END_SPLIT || (v->session && (v->met == MEET_SPLIT || v->met == MEET_UNREADABLE)))
            return true;
    }
    return false;
}

// As the guide says: stop it, remove its directories, start it again.
static void give_up(struct host *h)
{
    cover_count("operator: gives one end's data up after a split");
    daemon_kill(h, "the operator gives its data up");
    host_forget(h);
    judge_given_up(h);
    daemon_start(h);
}

static void resolve(struct sim *s)
{
    struct host *keep = serves(&s->host[0]) && s->host[1].view.state == END_SPLIT ? &s->host[0]
                        : serves(&s->host[1]) && s->host[0].view.state == END_SPLIT ? &s->host[1]
                        : serves(&s->host[0])                                       ? &s->host[0]
                        : serves(&s->host[1])                                       ? &s->host[1]
                                                                                    : best(s);
    s->forced = true;
    if (s->operator_steps % 2) {
        cover_count("operator: resolves a split");
        operator_command(keep, COMMAND_RESOLVE,
                         keep->index ? COMMAND_KEEP_SECONDARY : COMMAND_KEEP_PRIMARY);
        return;
    }
    give_up(other(keep));
    if (!serves(keep))
        operator_command(keep, COMMAND_TAKEOVER, COMMAND_FORCE | COMMAND_INCONSISTENT);
}

// Whatever the status asks an operator for.
static void help(struct sim *s)
{
    char what[60];
    for (int i = 0; i < 2; i++) {
        struct host *h = &s->host[i];
        if (h->view.state == END_STOPPED || h->view.paused || replay_paused(h)) {
            operator_command(h, COMMAND_RESUME, replay_paused(h) ? COMMAND_REPLAY : 0);
            return;
        }
    }
    if (s->now - s->progress_since < PATIENCE_NS || s->operator_steps >= 4)
        return;
    s->operator_steps++;
    if (is_split(s)) {
        s->progress_since = s->now - PATIENCE_NS + 10 * NS_PER_S;
        resolve(s);
        return;
    }
    struct host *b = best(s);
    (void)snprintf(what, sizeof(what), "operator: P %.12s, S %.12s", end_state_name(s->host[0].view.state),
                   end_state_name(s->host[1].view.state));
    cover_count(what);
    trace(s, b, "%s", what);
    s->progress_since = s->now - PATIENCE_NS + 10 * NS_PER_S;
    for (int i = 0; i < 2; i++) {
        struct host *h = &s->host[i];
        if (h->view.active)
            b = NULL; // somebody serves: it is not a matter of roles
        operator_command(h, COMMAND_RESUME, 0);
    }
    if (!b)
        return;
    s->forced = true;
    operator_command(b, COMMAND_TAKEOVER, COMMAND_FORCE | COMMAND_INCONSISTENT);
}

static void describe(const struct host *h, char *text, size_t size)
{
    (void)snprintf(text, size, "%c %s%s%s%s%s%s: %s", h->letter, end_state_name(h->view.state),
                   h->address ? ", address on" : "", h->frozen ? ", frozen" : "",
                   front_serves(h) ? ", serves" : "", h->view.granted ? ", granted" : "",
                   h->replay_paused ? ", replay paused" : "", h->view.why);
}

static void give_up_waiting(struct sim *s)
{
    char p[180], q[180];
    describe(&s->host[0], p, sizeof(p));
    describe(&s->host[1], q, sizeof(q));
    fail(s, "not synchronized %lld s after the last fault: %s; %s", (long long)(LIMIT_NS / NS_PER_S),
         p, q);
}

// ---- rot ----

// Turns a byte of the replica's store behind everybody's back.
static void rot_begin(struct sim *s, bool repair)
{
    struct host *active = s->host[0].view.active ? &s->host[0] : &s->host[1];
    struct host *passive = &s->host[active == &s->host[0]];
    s->rot = ROT_ASKED;
    s->rot_volume = (unsigned)rnd(s, s->volumes);
    s->rot_at = rnd(s, s->size);
    for (int i = 0; i < 2; i++)
        s->rot_ns[i] = local_now(&s->host[i]);
    fake_volume_bytes(passive->volume[s->rot_volume])[s->rot_at] ^= (uint8_t)(1U << rnd(s, 8));
    trace(s, passive, "ROT: volume %u, byte %llu", s->rot_volume, (unsigned long long)s->rot_at);
    cover_count(repair ? "rot, found and repaired" : "rot, found, and repaired when told to");
    operator_command(active, COMMAND_VERIFY, repair ? COMMAND_REPAIR : 0);
    s->progress_since = s->now;
}

// What a verify has found is no longer called synchronized; the operator has it repaired.
static void rot_look(struct sim *s)
{
    for (int i = 0; i < 2; i++) {
        struct host *active = &s->host[i], *passive = &s->host[1 - i];
        if (!active->running || !active->view.active || active->view.held == 0 || s->rot != ROT_FOUND)
            continue;
        if (active->view.synchronized)
            fail(s, "%c: a replica that differs is called synchronized", active->letter);
        if (!passive->view.inconsistent)
            continue; // not yet: the mark is on its way
        if (passive->view.promotable)
            fail(s, "%c: a replica that differs is promotable", passive->letter);
        s->rot = ROT_REPAIRED;
        operator_command(active, COMMAND_VERIFY, COMMAND_REPAIR);
        return;
    }
}

// Nobody was away of late: what follows from that may still come, a takeover among it.
static bool awake(const struct sim *s)
{
    int64_t last = 0;
    for (int i = 0; i < 2; i++)
        last = MAX(last, MAX(s->host[i].paused_until, s->host[i].stalled_until));
    return s->now - last > s->config.timeout_ns + 2 * s->config.decision_ns;
}

// True: the run is not over, there is one more thing to be tried.
static bool rot_goes_on(struct sim *s)
{
    if (s->rot == ROT_NONE && s->seed % 3 == 0 && !awake(s))
        return true;
    if (s->rot == ROT_NONE && s->seed % 3 == 0 && (s->host[0].view.verifying || s->host[1].view.verifying))
        return true;
    if (s->rot == ROT_NONE && s->seed % 3 == 0) {
        rot_begin(s, s->seed % 2);
        return true;
    }
    struct host *active = s->host[0].view.active ? &s->host[0] : &s->host[1];
    if (s->rot == ROT_ASKED && !active->view.verifying && s->now - s->progress_since > 5 * NS_PER_S) {
        operator_command(active, COMMAND_VERIFY, s->seed % 2 ? COMMAND_REPAIR : 0); // it was given up
        s->progress_since = s->now;
    }
    return s->rot == ROT_ASKED || (s->rot == ROT_FOUND && !active->view.verified);
}

static void look(struct host *h, void *arg, uint64_t began)
{
    struct sim *s = h->sim;
    (void)arg;
    if (s->rot == ROT_NONE) {
        judge_replica(&s->host[0]);
        judge_replica(&s->host[1]);
    }
    rot_look(s);
    bool paused = replay_paused(&s->host[0]) || replay_paused(&s->host[1]);
    if (is_synchronized(s) && !paused) {
        if (!s->quiet)
            trace(s, NULL, "synchronized");
        s->quiet = true;
        if (is_settled(s) && (s->tail_lost || !rot_goes_on(s))) {
            if (!s->tail_lost)
                judge_equal(s);
            s->phase = PHASE_DONE;
            return;
        }
    } else {
        help(s);
    }
    if (s->now - (int64_t)began > LIMIT_NS + (s->rot ? LIMIT_NS : 0))
        give_up_waiting(s);
    plan_world(s, s->now + LOOK_NS, h, look, began);
}

// While there are faults, too.
static void watch(struct host *h, void *arg, uint64_t n)
{
    struct sim *s = h->sim;
    (void)arg, (void)n;
    if (s->phase != PHASE_FAULTS)
        return;
    judge_replica(&s->host[0]);
    judge_replica(&s->host[1]);
    judge_map(&s->host[0]);
    judge_map(&s->host[1]);
    plan_world(s, s->now + LOOK_NS, h, watch, 0);
}

void progress_watch(struct sim *s)
{
    plan_world(s, s->now + LOOK_NS, &s->host[0], watch, 0);
}

void progress_begin(struct sim *s)
{
    trace(s, NULL, "no more faults");
    s->phase = PHASE_PROGRESS;
    s->progress_since = s->now;
    plan_world(s, s->now + LOOK_NS, &s->host[0], look, (uint64_t)s->now);
}
