// SPDX-License-Identifier: Apache-2.0
// Carries out what the end decides. No decision here.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/daemon/endpoint_private.h"

static void act_send(struct endpoint *ep, const struct end_action *a)
{
    uint8_t bytes[FRAME_MAX];
    size_t size = frame_encode(&a->frame, bytes, sizeof(bytes));
    ENSURE(size > 0);
    (void)channel_send_control(ep->channel, CHANNEL_ALL_PATHS, bytes, size);
}

static void act_open(struct endpoint *ep, const struct end_action *a)
{
    ep->serving = true;
    vitals_timing(ep->vitals, ep->timing_sum);
    vitals_lease(ep->vitals, ep->deadline_ns);
    ep->open_action = *a;
    ep->open_after_close = true;
    stream_close(ep->stream, a->recover ? NULL : &a->epoch, a->seq); // -> endpoint_closed()
}

void endpoint_closed(struct endpoint *ep, const char *failure)
{
    if (!ep->open_after_close)
        return;
    ep->open_after_close = false;
    if (failure) {
        struct end_event ev = {.type = EV_EXPORTS};
        ev.exports.status = -EIO;
        ev.exports.why = failure;
        endpoint_note(ep, -1, failure);
        endpoint_feed(ep, &ev);
        return;
    }
    const struct end_action *a = &ep->open_action;
    if (!a->recover) // a queue that is taken back still has its stream
        atomic_store(&ep->figures.durable, 0);
    front_open(ep->front, a->recover, &a->epoch, a->seq);
}

static void act_follow(struct endpoint *ep, const struct end_action *a)
{
    if (a->session) {
        if (ep->serving) // where the applications were stopped before that, nobody has looked yet
            apps_check_foreign(ep->apps);
        ep->serving = false;
        ep->open_after_close = false;
        front_abandon(ep->front, false); // a queue of a former reign, if there is one
    }
    stream_follow(ep->stream, a->session, a->restart, a->seq, a->restart ? &a->epoch : NULL);
}

// ---- public address ----

static void announce_no_more(struct endpoint *ep)
{
    ep->announcer = announcer_free(ep->announcer);
    ep->announce_wanted = false;
}

static void address_is(struct endpoint *ep, bool on, int status)
{
    struct end_event ev = {.type = EV_ADDRESS};
    ev.address.on = on;
    ev.address.status = status;
    ep->address_on = on && status == 0;
    endpoint_feed(ep, &ev);
}

static void act_address(struct endpoint *ep, bool on)
{
    ep->switch_on = on && ep->switchboard;
    if (!on)
        announce_no_more(ep);
    if (!ep->switchboard)
        address_is(ep, on, 0);
    else if (!on)
        ep->switch_ticket = switchboard_switch(ep->switchboard, false); // -> endpoint_switched()
    else
        ep->switch_ticket = 0; // what was asked for before counts no more
}

// The guard has the plan first: it takes off what a daemon that is killed has left in the kernel. Of a pair that is stepped
// down it takes the address off again and again, until it has given the slot back.
void endpoint_switch_on(struct endpoint *ep)
{
    if (!ep->switch_on || ep->destroying)
        return;
    if (ep->plan_stale)
        endpoint_plan(ep);
    ep->switch_ticket = switchboard_switch(ep->switchboard, true); // -> endpoint_switched()
    ep->switch_on = false;
}

// The guard takes it off; the end asks for it beside.
void endpoint_address_lost(struct endpoint *ep)
{
    announce_no_more(ep);
    ep->switch_on = ep->address_on = false;
}

static void frozen_unguarded(struct endpoint *ep)
{
    ep->freeze_unguarded = false;
    endpoint_feed(ep, &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
}

static void act_announce(struct endpoint *ep)
{
    struct error err = {0};
    ep->announcer = announcer_free(ep->announcer);
    ep->announce_wanted = !ep->address_on;
    if (ep->address_count > 0 && ep->address_on &&
        announcer_start(ep->interface, ep->addresses, ep->address_count, ep->closer, &ep->announcer, &err) < 0)
        endpoint_note(ep, -1, err.text);
}

// What a former run has put on and the pair file does not name any more stays until nobody needs to find it there: a peer
// that was not restarted yet, and may hold a grant, asks the network for the address that it knows. One that is heard knows
// the new ones: otherwise it would have been refused.
void endpoint_leave_former(struct endpoint *ep, const struct end_view *view)
{
    bool needed = ep->deadline_ns != INT64_MAX && !view->connected;
    if (ep->left_count == 0 || ep->leaving || needed || clock_boot_ns() < ep->leave_retry_ns)
        return;
    ep->leaving = true;
    switchboard_leave(ep->switchboard); // -> endpoint_left()
}

static void left_is_off(struct endpoint *ep)
{
    char address[IP_TEXT_SIZE], text[ACTION_TEXT_SIZE];
    for (size_t i = 0; i < ep->left_count; i++) {
        (void)snprintf(text, sizeof(text), "public address %s is off %s: the pair file has another one",
                       ip_format(&ep->left[i].ip, address), ep->left[i].interface);
        endpoint_note(ep, -1, text);
    }
    ep->left_count = 0;
    ep->plan_stale = true;
    endpoint_plan(ep);
}

void endpoint_left(struct endpoint *ep, const struct switchboard_report *report)
{
    ep->leaving = false;
    ep->leave_retry_ns = clock_boot_ns() + NS_PER_S;
    if (ep->left_count == 0)
        return;
    if (report->status < 0)
        endpoint_note(ep, -1, report->text);
    else
        left_is_off(ep);
}

// What was asked for before the newest wish counts no more: that one undoes it.
void endpoint_switched(struct endpoint *ep, const struct switchboard_report *report)
{
    if (report->ticket != ep->switch_ticket)
        return;
    if (report->text[0])
        endpoint_note(ep, -1, report->text);
    if (!report->on && report->status == 0 && ep->left_count > 0)
        left_is_off(ep);
    address_is(ep, report->on, report->status);
    if (ep->announce_wanted && ep->address_on)
        act_announce(ep);
    if (ep->freeze_unguarded && !report->on)
        frozen_unguarded(ep);
}

static void act_probe(struct endpoint *ep, uint64_t ticket, bool all)
{
    struct vetoes_config config = {
        .switchboard = ep->address_count > 0 ? ep->switchboard : NULL,
        .waypoints = ep->waypoints ? waypoints_monitor(ep->waypoints) : NULL,
        .pair = ep->pair->pair,
        .ask_peer = ep->has_management && ep->has_peer_management,
        .from = ep->management,
        .to = ep->peer_management,
        .port = (uint16_t)ep->pair->channel.management_port,
        .peer = ep->config.side == PAIR_PRIMARY ? INQUIRY_SECONDARY : INQUIRY_PRIMARY,
        .all = all,
    };
    memcpy(config.key, ep->inquiry.key, sizeof(config.key));
    vetoes_free(ep->vetoes);
    ep->vetoes = vetoes_start(&config);
    ep->vetoes_ticket = ticket;
    if (!ep->waypoints)
        return;
    waypoints_watch(ep->waypoints, false); // so that an ask goes out now in any case
    waypoints_watch(ep->waypoints, true);
}

void endpoint_probed(struct endpoint *ep)
{
    struct end_event ev = {.type = EV_PROBED};
    char text[ACTION_TEXT_SIZE];
    if (!ep->vetoes || !vetoes_work(ep->vetoes, &ev.probed.vetoes, text, sizeof(text)))
        return;
    ep->vetoes = vetoes_free(ep->vetoes);
    ev.probed.ticket = ep->vetoes_ticket;
    ev.probed.text = text;
    endpoint_feed(ep, &ev);
}

// ---- guard ----

// What the guard has to do for this pair, as things stand.
void endpoint_plan(struct endpoint *ep)
{
    struct guard_plan *plan = &ep->plan;
    struct apps_target targets[GUARD_CGROUPS_MAX];
    struct error err = {0};
    if (!ep->guard)
        return;
    memset(plan, 0, sizeof(*plan));
    (void)snprintf(plan->interface, sizeof(plan->interface), "%s",
                   ep->interface ? ep->interface : "");
    plan->address_count = MIN(ep->address_count, (size_t)GUARD_ADDRESSES_MAX);
    memcpy(plan->addresses, ep->addresses, plan->address_count * sizeof(plan->addresses[0]));
    for (size_t i = 0; i < ep->left_count; i++) {
        struct guard_left *left = &plan->left[plan->left_count++];
        memcpy(left->interface, ep->left[i].interface, sizeof(left->interface));
        left->ip = ep->left[i].ip;
    }
    (void)path_format(plan->flag, sizeof(plan->flag), "%s", ep->flag_path);
    size_t count = apps_freeze_targets(ep->apps, targets, ARRAY_LEN(targets));
    for (size_t i = 0; i < MIN(count, ARRAY_LEN(targets)); i++) {
        if (targets[i].cgroup[0])
            memcpy(plan->cgroups[plan->cgroup_count++], targets[i].cgroup,
                   sizeof(targets[i].cgroup));
        if (targets[i].pid)
            plan->processes[plan->process_count++] = targets[i].pid;
    }
    if (guard_pair_plan(ep->guard, plan, &err) < 0)
        endpoint_note(ep, -1, err.text);
    else
        ep->plan_stale = false;
}

// What the guard says to the peer when this daemon has ended: as the end wants it.
void endpoint_goodbye(struct endpoint *ep)
{
    uint8_t sealed[INQUIRY_GOODBYE_SIZE];
    if (!ep->guard)
        return;
    if (!ep->goodbye || !ep->has_management || !ep->has_peer_management) {
        guard_pair_goodbye(ep->guard, NULL, NULL, 0);
        return;
    }
    inquiry_seal_goodbye(&ep->inquiry, ep->run, sealed);
    guard_pair_goodbye(ep->guard, sealed, &ep->peer_management, (uint16_t)ep->pair->channel.management_port);
}

static void act_deadline(struct endpoint *ep, int64_t deadline_ns)
{
    ep->deadline_ns = deadline_ns;
    vitals_lease(ep->vitals, deadline_ns);
    if (ep->switchboard)
        switchboard_limit(ep->switchboard, deadline_ns);
    if (!ep->guard)
        return;
    if (deadline_ns != INT64_MAX && ep->plan_stale)
        endpoint_plan(ep);
    (void)guard_set_deadline(ep->guard,
                             deadline_ns); // -ESTALE: it has acted; endpoint_guard() tells the end
}

static void act_freeze(struct endpoint *ep)
{
    if (ep->plan_stale)
        endpoint_plan(ep);
    if (ep->guard)
        guard_step_down(ep->guard); // first of all
    endpoint_address_lost(ep);
    // Without a guard: the address, at least; nothing is answered in this state anyway.
    ep->freeze_unguarded = !ep->guard;
    if (ep->freeze_unguarded && !ep->switchboard)
        frozen_unguarded(ep);
}

static void act_thaw(struct endpoint *ep, int64_t deadline_ns)
{
    if (!ep->guard || !ep->frozen_told) {
        apps_set_frozen(ep->apps, false);
        ep->frozen_told = false;
        endpoint_feed(ep, &(struct end_event){.type = EV_GUARD, .guard.frozen = false});
        return;
    }
    ep->thawing = true;
    ep->thaw_deadline_ns = deadline_ns;
    if (guard_pair_state(ep->guard) == GUARD_STEPPED_DOWN)
        guard_thaw(ep->guard, deadline_ns);
    else
        guard_step_down(ep->guard); // it is not the one that froze: it has to take that over first
}

static void act_destroy(struct endpoint *ep)
{
    if (ep->guard && guard_acted(ep->guard)) { // also while it is still at it
        guard_destroy(ep->guard);
        ep->destroying = true; // -> endpoint_guard(), which clears the flag
    } else {
        (void)guard_flag_clear(ep->flag_path, NULL);
    }
    ep->frozen_told = false;
    apps_set_frozen(ep->apps, false);
    apps_kill_all(ep->apps);
}

// ---- the operator ----

static void act_history(struct endpoint *ep, const struct end_action *a)
{
    struct status_loss loss = {
        .known = a->on,
        .more = a->more,
        .records = a->seq,
        .bytes = a->objects,
        .age_ms = (int64_t)a->ticket / NS_PER_MS,
    };
    endpoint_note_loss(ep, a->time_ns, a->text, a->on ? &loss : NULL);
}

static void act_reply(struct endpoint *ep, const struct end_action *a)
{
    if (a->id != ep->reply_id)
        return;
    ep->replied = true;
    ep->reply_status = a->status;
    (void)snprintf(ep->reply_text, sizeof(ep->reply_text), "%s", a->text);
}

static void act_apps(struct endpoint *ep, const struct end_action *a)
{
    ep->apps_began_ns = clock_boot_ns();
    if (a->type == ACT_ADOPT)
        apps_adopt(ep->apps);
    else if (a->on)
        apps_start_all(ep->apps);
    else
        apps_stop_all(ep->apps);
}

// The front thread sleeps until the lease that it knows is over, and sees then that there is a later one.
static void act_lease(struct endpoint *ep, int64_t lease_ns)
{
    int64_t before = atomic_exchange(&ep->figures.lease_ns, lease_ns);
    if (lease_ns < before || before <= clock_boot_ns())
        mailbox_ring(front_mailbox(ep->front));
}

void endpoint_act(struct endpoint *ep, const struct end_action *a)
{
    switch (a->type) {
    case ACT_SEND:
        act_send(ep, a);
        break;
    case ACT_SAVE:
        saver_save(ep->saver, a->ticket, &a->state);
        break;
    case ACT_GATE:
        front_gate(ep->front, a->gate, a->ticket);
        break;
    case ACT_OPEN:
        act_open(ep, a);
        break;
    case ACT_CLOSE:
        front_close(ep->front);
        break;
    case ACT_ABANDON:
        ep->open_after_close = false;
        front_abandon(ep->front, true);
        break;
    case ACT_EPOCH:
        front_epoch(ep->front, &a->epoch);
        break;
    case ACT_BOUND:
        front_bound(ep->front, a->seq);
        break;
    case ACT_STREAM:
        if (a->session)
            lane_start(ep->lane, a->session, a->seq - 1);
        else
            lane_stop(ep->lane);
        break;
    case ACT_WITHHOLD:
        lane_withhold(ep->lane, a->seq);
        break;
    case ACT_ATTACH:
        front_attach(ep->front, a->session);
        break;
    case ACT_DETACH:
        front_detach(ep->front);
        break;
    case ACT_SALVAGE:
        stream_salvage(ep->stream, &a->state);
        break;
    case ACT_FOLLOW:
        act_follow(ep, a);
        break;
    case ACT_CONSENT:
        stream_consent(ep->stream, a->seq);
        break;
    case ACT_FINISH:
        stream_finish(ep->stream);
        break;
    case ACT_LOST:
        stream_lost(ep->stream, (uint16_t)a->object, a->seq, a->session);
        break;
    case ACT_DISCARD:
        stream_discard(ep->stream);
        break;
    case ACT_REPLAY:
        stream_replay(ep->stream, a->on);
        break;
    case ACT_RESYNC:
        front_resync(ep->front, a->objects, a->ticket);
        break;
    case ACT_MAP_FILL:
        front_map_fill(ep->front, a->objects, a->ticket);
        break;
    case ACT_MAP_VOID:
        front_map_void(ep->front, a->object, a->id, a->on, a->ticket);
        break;
    case ACT_MAP_ARM:
        front_map_arm(ep->front, a->session, a->objects);
        break;
    case ACT_MAP_CLEAR:
        front_map_clear(ep->front, a->objects);
        break;
    case ACT_MAP_READ:
        front_map_read(ep->front, a->object, a->seq, a->session, a->on);
        break;
    case ACT_MAP_ASIDE:
        front_map_aside(ep->front);
        break;
    case ACT_MAP_ADD:
        front_map_add(ep->front, &a->frame.map, a->on);
        break;
    case ACT_MAP_SYNC:
        front_map_sync(ep->front, a->ticket);
        break;
    case ACT_VERIFY:
        front_verify(ep->front, a->objects);
        break;
    case ACT_DIFFERS:
        front_differs(ep->front, a->objects);
        break;
    case ACT_ADDRESS:
        act_address(ep, a->on);
        break;
    case ACT_ANNOUNCE:
        act_announce(ep);
        break;
    case ACT_PROBE:
        act_probe(ep, a->ticket, a->on);
        break;
    case ACT_APPS:
    case ACT_ADOPT:
        act_apps(ep, a);
        break;
    case ACT_DESTROY:
        act_destroy(ep);
        break;
    case ACT_FREEZE:
        act_freeze(ep);
        break;
    case ACT_THAW:
        act_thaw(ep, a->time_ns);
        break;
    case ACT_DEADLINE:
        act_deadline(ep, a->time_ns);
        break;
    case ACT_LEASE:
        act_lease(ep, a->time_ns);
        break;
    case ACT_GOODBYE:
        ep->goodbye = a->on;
        endpoint_goodbye(ep);
        break;
    case ACT_WATCH:
        if (ep->waypoints)
            waypoints_watch(ep->waypoints, a->on);
        break;
    case ACT_HISTORY:
        act_history(ep, a);
        break;
    case ACT_REPLY:
        act_reply(ep, a);
        break;
    case ACT_EXIT:
        ep->exited = true;
        break;
    }
}
