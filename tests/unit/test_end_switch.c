// SPDX-License-Identifier: Apache-2.0
// common/end, by name: a switchover, and commands that are typed at the other end.
// What goes wrong in between any two steps is the simulator's business.
#include "tests/unit/end_world.h"

static void switch_goes_there_and_back(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 0, COMMAND_SWITCH, 0);
    assert_int_equal(w->host[0].reply_status, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).epoch.reason, EPOCH_SWITCH);
    assert_int_equal(world_view(w, 0).inconsistent, 0); // resumed, not mirrored
    assert_true(world_view(w, 0).promotable);
    // Typed at the passive end: passed on.
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(w->host[0].reply_status, 0);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
}

// DESIGN §5: a new session voids a handover. Such a frame may have been under way for long.
static void handover_of_another_session_is_void(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[1];
    struct frame f = {.type = FRAME_HANDOVER, .run = world_view(w, 1).peer_run, .to_run = world_view(w, 0).peer_run};
    uint64_t session = world_view(w, 1).session;
    f.at.seq = h->data.applied;
    for (f.session = session - 1; f.session <= session + 1; f.session += 2) {
        host_step(h, &(struct end_event){.type = EV_FRAME, .frame = {.frame = &f}});
        assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    }
    f.session = session;
    host_step(h, &(struct end_event){.type = EV_FRAME, .frame = {.frame = &f}});
    assert_int_not_equal(world_view(w, 1).state, END_PASSIVE);
}

// Wherever it stands: what it cannot write it cannot serve.
static void failed_replica_takes_no_handover(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[1];
    struct frame f = {.type = FRAME_HANDOVER, .run = world_view(w, 1).peer_run, .to_run = world_view(w, 0).peer_run};
    f.session = world_view(w, 1).session;
    f.at.seq = h->data.applied;
    h->fail_follows = true;
    host_step(h, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_FAILED, .text = "a write failed"}});
    assert_int_equal(world_view(w, 1).session, f.session);
    host_step(h, &(struct end_event){.type = EV_FRAME, .frame = {.frame = &f}});
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
}

// A command for the other end is said until it is answered: it may be lost with a connection, or come to an end that does
// not know this run yet.
static void command_that_was_lost_is_said_again(void **state)
{
    struct world *w = world_start_pair(*state);
    w->cut[0] = true;
    world_command(w, 0, COMMAND_PAUSE, COMMAND_REPLAY);
    assert_int_equal(w->host[0].reply_status, 0);
    world_run(w, 500 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).operation_result, STEP_PENDING);
    w->cut[0] = false;
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).operation_result, STEP_DONE);
    // The answer is lost: the other end answers again, and does nothing twice.
    w->cut[1] = true;
    world_command(w, 0, COMMAND_RESUME, COMMAND_REPLAY);
    world_run(w, 500 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).operation_result, STEP_PENDING);
    w->cut[1] = false;
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).operation_result, STEP_DONE);
    assert_int_equal(world_view(w, 0).session, world_view(w, 1).session);
}

// The end has just been started again: it is heard, but its own run is not known there yet.
static void command_right_behind_a_restart_is_answered(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_boot(w, 0, (struct end_start){.same_boot = true,
                                  .queue_found = true,
                                  .queue_numbered = w->host[0].data.numbered,
                                  .queue_epoch = w->host[0].epoch.id,
                                  .echo_sent_ns = w->now});
    w->host[0].reply_status = 1;
    for (int i = 0; i < 500 && w->host[0].reply_status != 0; i++) {
        world_command(w, 0, COMMAND_PAUSE, COMMAND_REPLAY);
        world_run(w, 10 * NS_PER_MS);
    }
    assert_int_equal(w->host[0].reply_status, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).operation_result, STEP_DONE);
}

static void command_of_a_lost_session_ends(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS;
    world_cut(w);
    world_command(w, 1, COMMAND_SWITCH, 0);
    assert_int_equal(w->host[1].reply_status, 0);
    world_run(w, w->config.timeout_ns + NS_PER_S);
    assert_int_equal(world_view(w, 1).operation_result, STEP_FAILED);
    assert_non_null(strstr(world_view(w, 1).operation_text, "is silent"));
    world_heal(w);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 1).operation_result, STEP_FAILED);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    // The other end is started anew before it has answered.
    world_command(w, 1, COMMAND_RESYNC, 0);
    assert_int_equal(w->host[1].reply_status, 0);
    world_crash(w, 0);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 1).operation_result, STEP_FAILED);
}

// A switchover that was typed at the passive end, and that the active one gives up on the way.
static void switch_that_is_given_up_fails_where_it_was_typed(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].hold_apps = true;
    world_command(w, 1, COMMAND_SWITCH, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_HANDING_OVER);
    assert_int_equal(world_view(w, 1).operation_result, STEP_PENDING);
    host_step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    w->host[0].hold_apps = false;
    host_push(&w->host[0], &(struct end_event){.type = EV_APPS});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).operation_result, STEP_FAILED);
    assert_non_null(strstr(world_view(w, 1).operation_text, "given up"));
}

// Switching an address off may take as long as somebody holds the kernel's lock. Until it is off the guard has the end's last
// deadline: the peer may run into it, and have a grant; and the handover is not said.
static void switch_keeps_the_deadline_until_the_address_is_off(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].hold_address = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_HANDED_OVER);
    assert_true(w->host[0].deadline != INT64_MAX);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    world_command(w, 1, COMMAND_TAKEOVER, 0); // nor may an operator have it meanwhile
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    w->host[0].hold_address = w->host[0].address = false;
    host_push(&w->host[0], &(struct end_event){.type = EV_ADDRESS});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(w->host[0].deadline, INT64_MAX);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
}

// Behind `handed over` the outcome may take until the other end is back: no operator waits for that.
static void switch_to_an_end_that_dies_is_answered(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].hold_handover = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_HANDED_OVER);
    assert_int_equal(world_view(w, 0).operation_result, STEP_PENDING);
    world_crash(w, 1);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_HANDED_OVER);
    assert_int_equal(world_view(w, 0).operation_result, STEP_FAILED);
    assert_non_null(strstr(world_view(w, 0).operation_text, "silent"));
}

// Nobody waits for ever, on either machine, for an end that cannot serve: what it lacks is said, and it goes on trying.
static void switch_to_an_end_that_cannot_serve_is_answered(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[1].fail_opens = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 15 * NS_PER_S);
    struct end_view s = world_view(w, 1);
    assert_int_equal(s.state, END_TAKING_OVER);
    assert_non_null(strstr(s.why, "waits until the exports are open, for "));
    assert_non_null(strstr(s.why, "no room for the queue"));
    assert_int_equal(world_view(w, 0).operation_result, STEP_FAILED);
    assert_non_null(strstr(world_view(w, 0).operation_text, "does not serve yet"));
    w->host[1].fail_opens = false;
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_true(world_view(w, 0).promotable);
}

static void overflow_in_the_middle_of_a_switchover_gives_it_up(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[1].hold_saves = true;
    w->host[0].hold_handover = true;
    w->host[0].data.numbered++;
    w->host[0].streams = 0; // nothing drains
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_HANDING_OVER);
    host_step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    w->host[1].hold_saves = false;
    world_run(w, 500 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 1).promotable);
}

// It would be drained for ever, with its applications stopped.
static void switchover_to_a_peer_whose_replay_is_paused_is_given_up(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 1, COMMAND_PAUSE, COMMAND_REPLAY);
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(w->host[0].apps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(switch_goes_there_and_back),
        T(handover_of_another_session_is_void),
        T(failed_replica_takes_no_handover),
        T(switch_keeps_the_deadline_until_the_address_is_off),
        T(command_that_was_lost_is_said_again),
        T(command_right_behind_a_restart_is_answered),
        T(command_of_a_lost_session_ends),
        T(switch_that_is_given_up_fails_where_it_was_typed),
        T(switch_to_an_end_that_dies_is_answered),
        T(switch_to_an_end_that_cannot_serve_is_answered),
        T(overflow_in_the_middle_of_a_switchover_gives_it_up),
        T(switchover_to_a_peer_whose_replay_is_paused_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
