// SPDX-License-Identifier: Apache-2.0
// common/end, by name: stepping down, the guard, and an end that was not scheduled.
// What goes wrong in between any two steps is the simulator's business.
#include <unistd.h>

#include "tests/unit/end_world.h"

static void cut_off_active_steps_down_before_the_takeover(void **state)
{
    struct world *w = world_start_pair(*state);
    world_isolate(w, 0);
    world_run(w, 10 * NS_PER_S); // act_address() asserts that the address is never on at both
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_true(w->host[0].frozen);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    unsigned ticks = w->host[0].ticks;
    world_run(w, NS_PER_S);
    assert_true(w->host[0].ticks - ticks < 60); // it waits: it does not turn round at the deadline that has passed
    world_rejoin(w, 0);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_false(w->host[0].apps);
    assert_true(world_view(w, 0).promotable);
}

static void blink_of_everything_suspends_and_goes_on(void **state)
{
    struct world *w = world_start_pair(*state);
    world_cut(w);
    w->waypoint[0] = w->waypoint[1] = false;
    w->probe = END_VETO_WAYPOINT;
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    world_heal(w);
    w->waypoint[0] = w->waypoint[1] = true;
    w->probe = 0;
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    assert_false(w->host[0].frozen);
    assert_true(w->host[0].apps && w->host[0].address);
    assert_true(world_view(w, 1).promotable);
}

// Nor is an address off that could not be taken off, however often that is tried.
static void address_that_stays_keeps_the_deadline(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].fail_off = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_HANDED_OVER);
    assert_true(w->host[0].address);
    assert_true(w->host[0].deadline < w->now); // by which the guard has acted
    assert_non_null(strstr(world_view(w, 0).why, "cannot be taken off"));
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    host_push(&w->host[0], &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    world_run(w, 2 * NS_PER_S);
    assert_true(w->host[0].deadline != INT64_MAX);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    w->host[0].fail_off = false;
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(w->host[0].deadline, INT64_MAX);
    assert_false(w->host[0].address);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
}

// The guard may have failed to take it off: this end tries, too, and says so.
static void stepped_down_end_takes_its_address_off_itself(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].fail_off = w->host[0].hold_guard = true;
    host_push(&w->host[0], &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    world_run(w, 10 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_true(w->host[0].address);
    assert_non_null(strstr(world_view(w, 0).why, "cannot be taken off"));
    w->host[0].fail_off = false;
    world_run(w, 1100 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
    assert_null(strstr(world_view(w, 0).why, "cannot be taken off"));
    w->host[0].hold_guard = false;
    host_push(&w->host[0], &(struct end_event){.type = EV_GUARD}); // thawed
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(w->host[0].address);
}

// The Primary hears from the Secondary that that takes over.
static void hear_of_a_takeover(struct world *w)
{
    struct end_view s = world_view(w, 1);
    struct frame f = {.type = FRAME_BEAT,
                      .flags = FRAME_TAKING_OVER,
                      .run = world_view(w, 0).peer_run,
                      .to_run = s.peer_run,
                      .session = s.session,
                      .beat = {.number = 1000000, .sent_ns = w->now}};
    host_step(&w->host[0], &(struct end_event){.type = EV_FRAME, .frame = {.frame = &f}});
}

// DESIGN §6: "an active that hears its peer is taking over steps down at once".
static void active_that_hears_of_a_takeover_steps_down(void **state)
{
    struct world *w = world_start_pair(*state);
    hear_of_a_takeover(w);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
}

// Nor does it go on beside that peer where no grant had been out: an operator may have told the peer to.
static void who_hears_of_a_takeover_does_not_go_on_beside_it(void **state)
{
    struct world *w = *state;
    w->config.automatic = false;
    world_start_pair(w);
    assert_false(world_view(w, 0).granted);
    w->cut[1] = true;
    (void)alarm(60); // one that does goes to and fro for ever
    hear_of_a_takeover(w);
    world_run(w, 500 * NS_PER_MS);
    (void)alarm(0);
    assert_true(world_view(w, 0).connected);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
}

// The old active end yields in one meeting.
static void suspended_end_that_yields_meets_once(void **state)
{
    struct world *w = world_start_pair(*state);
    world_isolate(w, 0);
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    uint64_t session = world_view(w, 1).epoch.number ? w->host[1].disk.session : 0;
    world_heal(w);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_true(world_view(w, 0).promotable);
    assert_int_equal(world_view(w, 0).session, session + 1);
}

// The guard acts by itself when the daemon was not scheduled in time: no answer leaves afterwards.
static void guard_that_acts_by_itself_holds_the_answers(void **state)
{
    struct world *w = world_start_pair(*state);
    host_step(&w->host[0], &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    w->host[0].address = false;
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_int_equal(w->host[0].gate, GATE_HELD);
    // The peer is heard and idle: undone.
    w->host[0].frozen = true;
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].gate, GATE_PAIRED);
}

static void guard_event(struct host *h)
{
    h->frozen = true;
    h->address = false;
    host_step(h, &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
}

static void guard_in_the_middle_of_a_switchover_leads_back(void **state)
{
    struct world *w = world_start_pair(*state);
    world_cut(w); // it cannot drain
    w->probe = END_VETO_ADDRESS;
    w->host[0].data.numbered++;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_HANDING_OVER);
    assert_false(w->host[0].exports);
    world_run(w, 1450 * NS_PER_MS);
    guard_event(&w->host[0]);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    world_heal(w);
    w->host[0].hold_guard = true;
    for (int i = 0; i < 200; i++) { // it goes on, and what is frozen is not answered before it is thawed
        world_run(w, 10 * NS_PER_MS);
        assert_true(w->host[0].lease <= w->now);
    }
    assert_int_equal(world_view(w, 0).state, END_TAKING_OVER);
    w->host[0].hold_guard = false;
    host_push(&w->host[0], &(struct end_event){.type = EV_GUARD, .guard.frozen = false});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(w->host[0].lease > w->now);
    assert_true(w->host[0].apps && w->host[0].address && w->host[0].exports && !w->host[0].frozen);
    assert_true(world_view(w, 1).promotable);
}

// The guard has acted, and said so, while the end was handing over: an end that takes its role back, and steps down before
// that is thawed, waits for no other word of it.
static void who_steps_down_frozen_waits_for_no_guard(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    h->hold_handover = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_HANDED_OVER);
    guard_event(h);
    h->hold_saves = true;
    world_crash(w, 1);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_TAKING_OVER);
    h->up = false; // it is not scheduled
    world_run(w, 10 * NS_PER_S);
    h->up = true;
    host_step(h, &(struct end_event){.type = EV_TICK});
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    h->hold_saves = false;
    host_push(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(h->address && !h->frozen && world_view(w, 1).promotable);
}

// A restart that goes on with its queue and is overtaken by the guard needs the same proof as any other end that has
// been stepped down.
static void guard_in_the_middle_of_a_restart_is_no_thaw(void **state)
{
    struct world *w = world_start_pair(*state);
    int64_t echo = w->now;
    struct host *h = &w->host[0];
    uint64_t numbered = h->data.numbered;
    world_end_daemon(w, 0);
    world_cut(w);
    w->probe = END_VETO_ADDRESS;
    h->hold_opens = true;
    world_boot_again(w, 0, echo, false);
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_TAKING_OVER);
    guard_event(h);
    world_run(w, NS_PER_S);
    host_push(h, &(struct end_event){.type = EV_EXPORTS, .exports = {.open = true, .numbered = numbered}});
    h->hold_opens = false;
    h->exports = true;
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_true(h->frozen);
    assert_false(h->address);
    world_heal(w);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(h->address && h->apps && !h->frozen);
}

// The former run had a deadline, and this one knows nothing of it, since its state is lost.
static void guard_of_a_former_run_does_not_stop_a_takeover(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    h->hold_opens = true;
    world_boot(w, 0, (struct end_start){.same_boot = true, .state_unreadable = true});
    world_command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_TAKING_OVER);
    assert_true(h->address);
    guard_event(h);
    h->exports = true;
    host_push(h, &(struct end_event){.type = EV_EXPORTS, .exports = {.open = true, .numbered = 1}});
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(h->address && h->apps && !world_view(w, 0).frozen);
}

static void takeover_of_a_suspended_end_waits_for_the_grant_and_opens_anew(void **state)
{
    struct world *w = world_start_pair(*state);
    world_isolate(w, 0);
    w->probe = END_VETO_ADDRESS;
    world_run(w, 2500 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    world_command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_true(w->host[0].reply_status < 0);
    world_run(w, 5 * NS_PER_S);
    unsigned opens = w->host[0].opens;
    world_command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_int_equal(w->host[0].reply_status, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].opens, opens + 1);
    assert_int_equal(w->host[0].epoch.id, world_view(w, 0).epoch.id);
}

// The deadline by which a suspended end had to stop is of its former reign: while it takes over, with exports that are still
// being closed, its guard has none to act by.
static void takeover_of_a_suspended_end_has_no_deadline(void **state)
{
    struct world *w = world_start_pair(*state);
    world_isolate(w, 0);
    w->probe = END_VETO_ADDRESS;
    world_run(w, 7500 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_true(w->host[0].deadline <= w->now);
    w->host[0].hold_close = true;
    world_command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_int_equal(w->host[0].reply_status, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_TAKING_OVER);
    assert_int_equal(w->host[0].deadline, INT64_MAX);
}

// Whether the peer's former run has used its grant, only a meeting tells.
static void restarted_peer_that_took_over_keeps_a_suspended_end_down(void **state)
{
    struct world *w = world_start_pair(*state);
    world_isolate(w, 0);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    world_crash(w, 1);
    world_rejoin(w, 0);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 10 * NS_PER_S); // act_address() asserts that the address is never on at both
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
}

// Its lease ran out while it was not scheduled: that the time of the grant is over, too, proves nothing.
static void end_that_was_not_scheduled_steps_down(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS; // nobody takes over here: it could have
    w->host[0].up = w->waypoint[0] = false;
    world_run(w, 10 * NS_PER_S);
    w->host[0].up = true;
    host_step(&w->host[0], &(struct end_event){.type = EV_TICK});
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
}

// The peer counts its silence from what came back to it, not from what it has sent.
static void lease_ends_before_the_peer_takes_over_after_a_one_way_cut(void **state)
{
    struct world *w = world_start_pair(*state);
    w->cut[1] = true;
    world_run(w, NS_PER_S);
    w->cut[0] = true;
    w->cut[1] = false;
    world_run(w, w->config.beat_ns + NS_PER_MS); // an echo of a young heartbeat
    w->cut[1] = true;
    w->waypoint[0] = false;
    world_run(w, 10 * NS_PER_S); // act_address() asserts that the address is never on at both
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
}

// An operator needs no grant: he makes the peer active while this end is not scheduled.
static void end_that_was_not_scheduled_without_a_grant_steps_down(void **state)
{
    struct world *w = *state;
    w->config.automatic = false;
    world_start_pair(w);
    assert_int_equal(w->host[0].deadline, INT64_MAX);
    assert_in_range(w->host[0].lease, w->now, w->now + w->config.timeout_ns - w->config.margin_ns);
    int64_t stops = w->now;
    w->two_serve = true; // nobody is there to take the address off
    w->host[0].up = false;
    world_run(w, w->config.timeout_ns + NS_PER_S);
    world_takeover(w, 0, 0);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_true(w->host[0].lease < stops + w->config.timeout_ns);
    w->host[0].up = true;
    host_step(&w->host[0], &(struct end_event){.type = EV_TICK});
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
}

static void end_that_was_not_scheduled_alone_goes_on_after_silence(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 1);
    world_run(w, 20 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    w->host[0].up = false;
    world_run(w, 10 * NS_PER_S);
    w->host[0].up = true;
    host_step(&w->host[0], &(struct end_event){.type = EV_TICK});
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    world_run(w, w->config.timeout_ns / 2);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    world_run(w, w->config.timeout_ns);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(cut_off_active_steps_down_before_the_takeover),
        T(blink_of_everything_suspends_and_goes_on),
        T(address_that_stays_keeps_the_deadline),
        T(stepped_down_end_takes_its_address_off_itself),
        T(active_that_hears_of_a_takeover_steps_down),
        T(who_hears_of_a_takeover_does_not_go_on_beside_it),
        T(guard_that_acts_by_itself_holds_the_answers),
        T(guard_in_the_middle_of_a_switchover_leads_back),
        T(who_steps_down_frozen_waits_for_no_guard),
        T(guard_in_the_middle_of_a_restart_is_no_thaw),
        T(guard_of_a_former_run_does_not_stop_a_takeover),
        T(takeover_of_a_suspended_end_waits_for_the_grant_and_opens_anew),
        T(takeover_of_a_suspended_end_has_no_deadline),
        T(restarted_peer_that_took_over_keeps_a_suspended_end_down),
        T(end_that_was_not_scheduled_steps_down),
        T(end_that_was_not_scheduled_without_a_grant_steps_down),
        T(end_that_was_not_scheduled_alone_goes_on_after_silence),
        T(lease_ends_before_the_peer_takes_over_after_a_one_way_cut),
        T(suspended_end_that_yields_meets_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
