// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "common/daemon/endpoint_private.h"

#define VERIFY_LOOK_NS  (10 * NS_PER_S)   // between two looks at whether a verify is due
#define VERIFY_RETRY_NS (3600 * NS_PER_S) // between two that begin
#define FOREIGN_NS   (60 * NS_PER_S)

// ---- history ----

void endpoint_note_loss(struct endpoint *ep, int64_t ns, const char *text,
                        const struct status_loss *loss)
{
    // What repeats is counted, not repeated.
    struct status_event *again = ns < 0 && !loss ? history_same(ep->history, text) : NULL;
    if (again) {
        again->real_ms = clock_real_ns() / NS_PER_MS;
        again->count++;
        history_write(ep->history, again);
        if ((again->count & (again->count - 1)) == 0)
            log_info("pair %s: %s (%u times)", ep->pair->pair, text, again->count);
        return;
    }
    struct status_event *e = history_add(ep->history);
    e->count = 1;
    e->real_ms = clock_real_ns() / NS_PER_MS;
    e->ms = ns < 0 ? -1 : ns / NS_PER_MS;
    (void)snprintf(e->step, sizeof(e->step), "%s", ns < 0 ? "" : "step");
    (void)snprintf(e->text, sizeof(e->text), "%s", text);
    if (loss)
        e->loss = *loss;
    history_write(ep->history, e);
    if (ns < 0)
        log_info("pair %s: %s", ep->pair->pair, text);
    else
        log_info("pair %s: %s (%lld.%03lld ms)", ep->pair->pair, text, (long long)(ns / NS_PER_MS),
                 (long long)(ns / NS_PER_US % 1000));
}

void endpoint_note(struct endpoint *ep, int64_t ns, const char *text)
{
    endpoint_note_loss(ep, ns, text, NULL);
}

size_t endpoint_history(const struct endpoint *ep, struct status_event *events, size_t limit)
{
    return history_list(ep->history, events, limit);
}

// ---- the step ----

// Heartbeats go out only while the data threads turn; waiting for a disk, or for a processor, is no wedge.
static bool is_wedged(struct endpoint *ep, int64_t now)
{
    struct figures *g = &ep->figures;
    int64_t front = atomic_load(&g->front_busy) ? 0 : atomic_load(&g->front_awake_ns);
    int64_t stream = atomic_load(&g->stream_busy) ? 0 : atomic_load(&g->stream_awake_ns);
    bool stuck = turning_stuck(&ep->front_turning, front, atomic_load(&g->front_tid), now, turning_look);
    return turning_stuck(&ep->stream_turning, stream, atomic_load(&g->stream_tid), now, turning_look) || stuck;
}

static uint64_t behind(struct endpoint *ep)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < ep->pair->volume_count; i++)
        bytes += atomic_load(&ep->figures.out_of_sync[i]);
    return bytes;
}

static void sample(struct endpoint *ep, int64_t now, struct end_data *d)
{
    struct figures *g = &ep->figures;
    uint64_t durable = atomic_load(&g->durable);
    int64_t oldest = atomic_load(&g->queue_oldest_ns);
    int64_t age = oldest ? now - oldest : 0;
    *d = (struct end_data){
        // What the peer has confirmed was numbered, even where the front thread has not said so
        // yet.
        .numbered = MAX(atomic_load(&g->numbered), durable),
        .durable = durable,
        .applied = ep->serving ? atomic_load(&g->applied) : atomic_load(&g->replica_applied),
        .held_from = atomic_load(&g->held_from),
        .replica_durable = atomic_load(&g->replica_durable),
        .waiting_ns = atomic_load(&g->waiting_ns),
        .moved_ns = atomic_load(&g->moved_ns),
        .stream_ns = atomic_load(&g->stream_up) ? now : atomic_load(&g->stream_ns),
        .backlog = atomic_load(&g->queue_bytes),
        .behind = behind(ep),
        .full = !ep->serving && atomic_load(&g->replica_full),
        .salvage_full = !ep->serving && atomic_load(&g->salvage_full),
        .wedged = is_wedged(ep, now),
        .unguarded = !ep->guard || ep->plan_stale,
        .lagging = age > (int64_t)ep->pair->timing.timeout_ms * NS_PER_MS,
    };
    if (ep->waypoints) {
        int64_t sent = waypoint_sent_ns(waypoints_monitor(ep->waypoints));
        d->waypoint_ns = sent == WAYPOINT_NEVER ? 0 : sent;
    }
}

static void say_role(struct endpoint *ep, const struct end_view *view)
{
    enum inquiry_role role = INQUIRY_PASSIVE;
    if (view->state == END_TAKING_OVER)
        role = INQUIRY_TAKING_OVER;
    else if (view->state == END_SUSPENDED)
        role = INQUIRY_STEPPED_DOWN;
    else if (view->active)
        role = INQUIRY_ACTIVE;
    if (ep->inquiry.role == role)
        return;
    ep->inquiry.role = (uint8_t)role;
    if (ep->guard)
        guard_pair_role(ep->guard, role);
}

// A guard without a plan guards nothing: until it has one, nothing is promised to the peer (end_data.unguarded).
static void keep_plan(struct endpoint *ep, int64_t now)
{
    if (!ep->guard || !ep->serving || !ep->plan_stale || now < ep->plan_retry_ns)
        return;
    ep->plan_retry_ns = now + NS_PER_S;
    endpoint_plan(ep);
}

static void note_silence(struct endpoint *ep, const struct end_view *view)
{
    if (view->session != ep->heard_session) {
        ep->heard_session = view->session;
        ep->heard_ns = view->heard_ns;
        ep->silence_ns = 0;
    }
    if (ep->heard_ns)
        ep->silence_ns = MAX(ep->silence_ns, view->heard_ns - ep->heard_ns);
    ep->heard_ns = view->heard_ns;
}

static void step_one(struct endpoint *ep, const struct end_event *event)
{
    struct end_data data;
    int64_t now = clock_boot_ns();
    keep_plan(ep, now);
    sample(ep, now, &data);
    if (data.wedged && !ep->wedged)
        endpoint_note(ep, -1, "a data thread does not turn any more: this end is silent, until it does");
    ep->wedged = data.wedged;
    end_step(ep->end, now, &data, event);
    const struct end_action *a;
    while ((a = end_action(ep->end)))
        endpoint_act(ep, a);
    endpoint_switch_on(ep);
    struct end_view view;
    end_view(ep->end, now, &view);
    vitals_echo(ep->vitals, view.echo_sent_ns);
    say_role(ep, &view);
    note_silence(ep, &view);
    endpoint_leave_former(ep, &view);
}

// Actions may bring about further events at once: those wait for their turn here.
void endpoint_feed(struct endpoint *ep, const struct end_event *event)
{
    ENSURE(ep->event_count < EVENTS_MAX);
    ep->touched = true;
    ep->events[(ep->event_first + ep->event_count++) % EVENTS_MAX] = *event;
    if (ep->stepping)
        return;
    ep->stepping = true;
    while (ep->event_count > 0) {
        struct end_event next = ep->events[ep->event_first];
        ep->event_first = (ep->event_first + 1) % EVENTS_MAX;
        ep->event_count--;
        step_one(ep, &next);
    }
    ep->stepping = false;
}

// ---- work ----

// A new slot at the guard, told everything that it has to know.
static void attach_guard(struct endpoint *ep)
{
    struct error err = {0};
    if (ep->guard) // one that has let go may still say what stands there, and cannot be told any more
        guard_pair_goodbye(ep->guard, NULL, NULL, 0);
    ep->guard = NULL;
    if (ep->daemon_guard && guard_pair_open(ep->daemon_guard, ep->pair->pair, &ep->guard, &err) < 0)
        endpoint_note(ep, -1, err.text);
    if (!ep->guard)
        return;
    if (ep->inquiry_fd >= 0) {
        (void)guard_share_inquiry(ep->daemon_guard, ep->inquiry_fd, NULL);
        guard_pair_inquiry(ep->guard, &ep->inquiry);
    }
    guard_pair_role(ep->guard, (enum inquiry_role)ep->inquiry.role);
    ep->plan_stale = true;
    endpoint_plan(ep);
    endpoint_goodbye(ep);
    (void)guard_set_deadline(ep->guard, ep->deadline_ns);
}

// A slot whose frozen processes were killed guards nothing any more, until it is opened anew.
static bool still_destroying(struct endpoint *ep)
{
    if (!ep->destroying || guard_pair_pending(ep->guard))
        return ep->destroying;
    ep->destroying = false;
    guard_pair_close(ep->guard);
    (void)guard_flag_clear(ep->flag_path, NULL);
    attach_guard(ep);
    endpoint_switch_on(ep);
    return false;
}

// Of the peer's daemon, by its guard; read by this daemon or by its own guard, whoever came first.
static void take_goodbye(void *user, size_t end, uint64_t run)
{
    struct endpoint *ep = user;
    (void)end;
    if (run && ep->started)
        endpoint_feed(ep, &(struct end_event){.type = EV_PEER_GONE, .gone.run = run});
}

void endpoint_guard(struct endpoint *ep, struct guard *guard)
{
    ep->touched = true;
    if (guard != ep->daemon_guard) {
        ep->daemon_guard = guard;
        ep->destroying = false; // what it had frozen is dead, or killed with the applications
        attach_guard(ep);
        endpoint_switch_on(ep);
        if (ep->guard && ep->thawing)
            guard_step_down(ep->guard); // what the former one froze
    }
    if (!ep->guard || !ep->started || still_destroying(ep))
        return;
    take_goodbye(ep, 0, guard_pair_gone(ep->guard));
    if (guard_pair_pending(ep->guard))
        return;
    enum guard_state state = guard_pair_state(ep->guard);
    if (state == GUARD_STEPPED_DOWN && !ep->frozen_told && !ep->thawing && ep->serving) {
        ep->frozen_told = true;
        endpoint_address_lost(ep);
        apps_set_frozen(ep->apps, true);
        endpoint_feed(ep, &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    } else if (state == GUARD_WATCHING && ep->thawing) {
        ep->thawing = ep->frozen_told = false;
        apps_set_frozen(ep->apps, false);
        endpoint_feed(ep, &(struct end_event){.type = EV_GUARD, .guard.frozen = false});
    } else if (state == GUARD_STEPPED_DOWN && ep->thawing) {
        if (ep->thaw_deadline_ns > clock_boot_ns()) {
            guard_thaw(ep->guard, ep->thaw_deadline_ns);
            return;
        }
        ep->thawing = false; // too late: the end sees whether it may still
        endpoint_feed(ep, &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    }
}

// A verify by the pair file's schedule: so long after both ends were last proven equal, and never often in vain.
static void verify_on_schedule(struct endpoint *ep)
{
    struct end_view view;
    uint64_t operation;
    char text[ACTION_TEXT_SIZE];
    int64_t now = clock_boot_ns();
    int64_t every_ns = (int64_t)ep->pair->verify.every_hours * 3600 * NS_PER_S;
    if (!every_ns || !ep->started || ep->exited || now < ep->verify_next_ns)
        return;
    end_view(ep->end, now, &view);
    int64_t since_ns = clock_real_ns() - (int64_t)view.proven.time;
    bool due = view.proven.time == 0 || since_ns < 0 || since_ns >= every_ns;
    ep->verify_next_ns = now + VERIFY_LOOK_NS;
    if (!due || view.state != END_ACTIVE || view.alone || view.operation_result == STEP_PENDING)
        return;
    ep->verify_next_ns = now + MIN(every_ns, VERIFY_RETRY_NS);
    unsigned flags = ep->pair->verify.repair ? COMMAND_REPAIR : 0;
    if (endpoint_command(ep, COMMAND_VERIFY, flags, 0, &operation, text, sizeof(text)) < 0)
        log_info("pair %s: the scheduled verify does not begin: %s", ep->pair->pair, text);
    else
        log_info("pair %s: the scheduled verify begins", ep->pair->pair);
}

// A domain of the pair that somebody has defined or started on an end that does not serve.
static void check_foreign(struct endpoint *ep, int64_t now)
{
    struct end_view view;
    if (!ep->started || ep->exited || now < ep->foreign_ns)
        return;
    ep->foreign_ns = now + FOREIGN_NS;
    end_view(ep->end, now, &view);
    if (view.state == END_PASSIVE && !view.frozen)
        apps_check_foreign(ep->apps);
}

static void take_reports(struct endpoint *ep)
{
    struct letter *letter;
    mailbox_clear(ep->reports);
    while ((letter = mailbox_take(ep->reports))) {
        endpoint_take_report(ep, letter);
        free(letter);
    }
}

// Everything that has arrived, before any timer: an end must not take its own absence for the peer's silence.
void endpoint_take(struct endpoint *ep)
{
    struct epoll_event events[READY_COUNT];
    bool ready[READY_COUNT] = {false};
    ep->touched = true;
    int n = epoll_wait(ep->epoll, events, READY_COUNT, 0);
    for (int i = 0; i < n; i++)
        ready[events[i].data.u32] = true;
    if (ready[READY_REPORTS])
        take_reports(ep);
    if (ready[READY_CHANNEL] || channel_deadline_ns(ep->channel) <= clock_boot_ns())
        channel_work(ep->channel);
    if (ready[READY_INQUIRY])
        (void)inquiry_answer(ep->inquiry_fd, &ep->inquiry, 1, take_goodbye, ep);
    if (ready[READY_APPS])
        apps_work(ep->apps);
}

// Whoever was not scheduled may have lost the address meanwhile, to its guard, and does not tell the neighbours otherwise.
static void announce(struct endpoint *ep)
{
    struct error err = {0};
    int64_t now = clock_boot_ns();
    if (!ep->announcer || announcer_deadline_ns(ep->announcer) > now)
        return;
    if (!ep->address_on || ep->deadline_ns <= now)
        ep->announcer = announcer_free(ep->announcer);
    else if (announcer_work(ep->announcer, &err) < 0)
        log_warning("pair %s: %s", ep->pair->pair, err.text);
}

void endpoint_work(struct endpoint *ep)
{
    endpoint_probed(ep);
    endpoint_guard(ep, ep->daemon_guard);
    announce(ep);
    check_foreign(ep, clock_boot_ns());
    if (ep->started && !ep->exited && end_deadline_ns(ep->end) <= clock_boot_ns())
        endpoint_feed(ep, &(struct end_event){.type = EV_TICK});
    verify_on_schedule(ep);
}

int64_t endpoint_deadline_ns(const struct endpoint *ep)
{
    int64_t at = channel_deadline_ns(ep->channel);
    if (ep->started && !ep->exited)
        at = MIN(at, end_deadline_ns(ep->end));
    if (ep->announcer)
        at = MIN(at, announcer_deadline_ns(ep->announcer));
    if (ep->vetoes)
        at = MIN(at, vetoes_deadline_ns(ep->vetoes));
    return at;
}

bool endpoint_touched(struct endpoint *ep)
{
    bool touched = ep->touched;
    ep->touched = false;
    return touched;
}

int endpoint_fd(const struct endpoint *ep)
{
    return ep->epoll;
}

const char *endpoint_pair(const struct endpoint *ep)
{
    return ep->pair->pair;
}

void endpoint_terminate(struct endpoint *ep)
{
    if (!ep->started)
        ep->exited = true;
    else
        endpoint_feed(ep, &(struct end_event){.type = EV_TERMINATE});
}

bool endpoint_exited(const struct endpoint *ep)
{
    return ep->exited;
}

int endpoint_command(struct endpoint *ep, enum end_command command, unsigned flags, uint32_t overrides,
                     uint64_t *ret_operation, char *text, size_t size)
{
    if (!ep->started) {
        (void)snprintf(text, size, "this end is still starting");
        return -EAGAIN;
    }
    ep->reply_id = ++ep->operation;
    ep->replied = false;
    struct end_event ev = {.type = EV_COMMAND};
    ev.command.command = command;
    ev.command.flags = flags;
    ev.command.overrides = overrides;
    ev.command.id = ep->reply_id;
    endpoint_feed(ep, &ev);
    (void)snprintf(text, size, "%s", ep->replied ? ep->reply_text : "no answer");
    *ret_operation = ep->operation;
    return ep->replied ? ep->reply_status : -EIO;
}
