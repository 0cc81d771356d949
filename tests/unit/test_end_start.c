// SPDX-License-Identifier: Apache-2.0
// common/end, by name: how an end starts, stops, and goes on after a restart.
// What goes wrong in between any two steps is the simulator's business.
#include "tests/unit/end_world.h"

static void first_start_ends_paired_and_granted(void **state)
{
    struct world *w = world_start_pair(*state);
    struct end_view p = world_view(w, 0), s = world_view(w, 1);
    assert_int_equal(p.state, END_ACTIVE);
    assert_int_equal(s.state, END_PASSIVE);
    assert_true(p.synchronized && s.synchronized);
    assert_false(p.alone);
    assert_true(s.granted && s.promotable && p.granted);
    assert_true(w->host[0].address && w->host[0].apps && !w->host[1].address);
    assert_int_equal(w->host[0].gate, GATE_PAIRED);
    assert_int_equal(w->host[0].disk.alone, false);
    assert_int_equal(s.epoch.number, 1);
}

static void restart_of_the_active_daemon_goes_on(void **state)
{
    struct world *w = world_start_pair(*state);
    int64_t echo = w->now;
    uint32_t epoch = world_view(w, 0).epoch.number;
    struct host *h = &w->host[0];
    world_end_daemon(w, 0);
    world_run(w, 300 * NS_PER_MS);
    world_boot_again(w, 0, echo, false);
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).epoch.number, epoch);
    assert_true(world_view(w, 1).promotable);
    assert_true(h->address);
}

// A flush that failed is final: what it has lost nobody knows. The pair stays as it is where the policy says so, but the
// next run sends that volume again before it is relied upon, whatever its store says.
static void a_failed_flush_is_not_forgotten_by_a_restart(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    host_step(h, &(struct end_event){.type = EV_STORE, .failed = {.text = "a flush", .objects = 2, .ignored = true}});
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(world_view(w, 1).promotable);
    assert_int_equal(h->disk.map_void, 2);
    assert_int_equal(h->disk.pending, 0);
    host_step(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_GOOD, .object = 1, .ticket = 0}});
    world_run(w, NS_PER_S);
    assert_int_equal(h->disk.map_void, 2);
    int64_t echo = w->now;
    unsigned resyncs = h->resyncs;
    world_end_daemon(w, 0);
    h->hold_good = h->resync_silent = true;
    world_run(w, 300 * NS_PER_MS);
    world_boot_again(w, 0, echo, false);
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(h->filled & 2, 2);
    assert_int_equal(h->armed_due, 2); // nothing of it is cleared but behind its resync
    assert_int_equal(h->resyncs, resyncs + 1);
    assert_int_equal(h->resynced, 2);
    assert_false(world_view(w, 0).synchronized);
    assert_int_equal(h->disk.pending, 2);
}

// A switchover that the failed store asked for and the peer refuses: the exports are opened again under the same stream,
// whose resync was asked for long ago.
static void a_store_that_is_opened_again_is_resynced_in_the_same_reign(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    unsigned resyncs = h->resyncs, opens = h->opens;
    world_command(w, 1, COMMAND_PAUSE, COMMAND_REPLAY);
    world_run(w, NS_PER_S);
    host_step(h, &(struct end_event){.type = EV_STORE, .failed = {.text = "a flush", .objects = 2}});
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(h->opens, opens + 1);
    world_command(w, 1, COMMAND_RESUME, COMMAND_REPLAY);
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(h->resyncs, resyncs + 1);
    assert_int_equal(h->resynced, 2);
    assert_int_not_equal(h->armed, 0); // what is settled leaves the map again
    assert_int_equal(h->disk.pending, 0);
    assert_int_equal(h->disk.map_void, 0);
    assert_true(world_view(w, 0).synchronized);
    assert_true(world_view(w, 1).promotable);
}

static void restart_of_the_passive_daemon_resumes(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    w->host[0].data.numbered += 5;
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).met, MEET_RESUME);
    assert_true(world_view(w, 1).promotable);
    assert_int_equal(world_view(w, 1).inconsistent, 0);
}

static void both_restarted_the_former_active_leads(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_crash(w, 1);
    w->now += NS_PER_S;
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    assert_int_not_equal(world_view(w, 1).state, END_ACTIVE); // a restarted end holds no grant
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).epoch.reason, EPOCH_LOST_QUEUE);
    assert_true(world_view(w, 1).promotable);
}

static void alone_and_restarted_serves_again_by_itself(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    assert_true(w->host[0].disk.alone);
    world_crash(w, 0);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 1 * NS_PER_S);
    assert_int_not_equal(world_view(w, 0).state, END_ACTIVE);
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
}

static void paired_and_restarted_does_not_serve_by_itself(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 1);
    world_crash(w, 0);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_WAITING);
    world_command(w, 0, COMMAND_TAKEOVER, 0);
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_WAITING);
    assert_int_equal(world_view(w, 0).operation_result, STEP_FAILED);
    world_command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
}

static void strict_hands_the_role_to_the_passive_end(void **state)
{
    struct world *w = *state;
    w->config.mode = END_STRICT;
    world_start_pair(w);
    world_crash(w, 0);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
}

// Both have lost power. The passive end replays its safe queue from what was settled: the mark that began its mirror makes
// it inconsistent once more, until the one that ended it is replayed too. Were it met in between, the active end could not
// hand its role over, and would go on from a disk that has lost what the passive one has confirmed.
static void strict_waits_for_the_replay_of_a_mirrors_marks(void **state)
{
    struct world *w = *state;
    w->config.mode = END_STRICT;
    world_start_pair(w);
    struct host *s = &w->host[1];
    uint64_t durable = s->data.replica_durable;
    uint64_t settled = s->disk.position;
    assert_true(durable > settled + 1);
    world_crash(w, 0);
    world_crash(w, 1);
    s->data.applied = settled;
    world_boot(w, 1, (struct end_start){.replica_durable = durable});
    host_step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_BEGIN, .object = 0, .seq = settled + 1}});
    assert_int_equal(world_view(w, 1).inconsistent, 1);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_WAITING);
    assert_int_equal(world_view(w, 1).state, END_WAITING);
    host_step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = 0, .seq = durable}});
    s->data.applied = durable;
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
}

// In the other modes, too, nobody is met with facts that are about to change.
static void replica_in_the_midst_of_its_marks_is_not_met(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *s = &w->host[1];
    uint64_t durable = s->data.replica_durable, settled = s->disk.position, session = world_view(w, 0).session;
    world_crash(w, 1);
    s->data.applied = settled;
    world_boot(w, 1, (struct end_start){.replica_durable = durable});
    host_step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_BEGIN, .object = 1, .seq = settled + 1}});
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 1).session, 0);
    assert_int_equal(world_view(w, 1).state, END_WAITING);
    host_step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = 1, .seq = durable}});
    s->data.applied = durable;
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 1).session > session);
    assert_true(world_view(w, 1).promotable);
}

// What a power loss may have taken from the store of an active end is told, also by a later run, until it is mirrored.
static void power_loss_of_an_active_end_is_remembered(void **state)
{
    struct world *w = world_start_pair(*state);
    assert_int_equal(w->host[0].disk.torn, 0);
    world_crash(w, 0);
    world_cut(w);
    world_boot(w, 0, (struct end_start){.same_boot = true});
    world_run(w, NS_PER_S);
    assert_int_equal(w->host[0].disk.torn, 0);
    world_crash(w, 0);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, NS_PER_S);
    assert_int_equal(w->host[0].disk.torn, 3);
    world_crash(w, 0);
    world_boot(w, 0, (struct end_start){.same_boot = true});
    world_run(w, NS_PER_S);
    assert_int_equal(w->host[0].disk.torn, 3);
}

static void stop_ends_protection_in_order(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 0, COMMAND_STOP, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_STOPPED);
    assert_false(w->host[0].apps || w->host[0].address || w->host[0].exports);
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    world_command(w, 0, COMMAND_RESUME, 0);
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(world_view(w, 1).promotable);
}

// The echo that the former run has kept counts until the new run has one of its own, waypoint or not.
static void restart_without_a_waypoint_keeps_the_lease(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    int64_t echo = w->now;
    world_end_daemon(w, 0);
    w->waypoint[0] = false;
    world_run(w, 300 * NS_PER_MS);
    world_boot_again(w, 0, echo, false);
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(h->address && !h->frozen);
}

// What a waiting end hears of its peer is no lease: the peer may be the one that has taken over.
static void echo_heard_while_waiting_is_not_kept(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    struct end_start late = {.same_boot = true,
                             .echo_sent_ns = world_view(w, 0).echo_sent_ns,
                             .queue_found = true,
                             .queue_numbered = h->data.numbered};
    world_end_daemon(w, 0);
    h->address = false;
    w->host[1].hold_saves = true;
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_TAKING_OVER); // and in no state to meet anybody
    world_boot(w, 0, late);
    world_run(w, NS_PER_S);
    assert_true(world_view(w, 0).connected);
    assert_int_equal(world_view(w, 0).state, END_WAITING);
    // Killed again, before they have met; the daemon keeps the newest echo that it was told of.
    late.echo_sent_ns = MAX(late.echo_sent_ns, world_view(w, 0).echo_sent_ns);
    world_end_daemon(w, 0);
    world_boot(w, 0, late);
    assert_int_equal(world_view(w, 0).state, END_WAITING);
    assert_false(h->address);
}

// After `stop` the peer may have been told to take over: the stopped end asks it, also in the same boot.
static void stopped_end_stays_stopped_until_it_is_resumed(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 0, COMMAND_STOP, 0);
    world_run(w, 3 * NS_PER_S);
    for (int i = 0; i < 2; i++)
        world_end_daemon(w, i);
    world_boot_again(w, 0, 0, false);
    world_boot(w, 1, (struct end_start){.same_boot = true});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_STOPPED);
    assert_false(w->host[0].address || w->host[0].apps);
    assert_non_null(strstr(world_view(w, 1).why, "stopped"));
    world_crash(w, 0); // another boot
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_STOPPED);
    // From the other machine.
    world_command(w, 1, COMMAND_RESUME, 0);
    assert_int_equal(w->host[1].reply_status, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(world_view(w, 1).promotable);
}

// Both ends are equal behind a stop: nothing is compared, however it is started again.
static void resume_after_a_stop_needs_no_resync(void **state)
{
    for (int restarted = 0; restarted < 2; restarted++) {
        struct world *w = world_start_pair(world_anew(state));
        w->host[0].data.numbered += 5;
        world_run(w, NS_PER_S);
        unsigned resyncs = w->host[0].resyncs;
        world_command(w, 0, COMMAND_STOP, 0);
        world_run(w, 3 * NS_PER_S);
        if (restarted) {
            world_crash(w, 0);
            world_boot(w, 0, (struct end_start){0});
            world_run(w, NS_PER_S);
        }
        world_command(w, 0, COMMAND_RESUME, 0);
        world_run(w, 5 * NS_PER_S);
        assert_int_equal(world_view(w, 0).state, END_ACTIVE);
        assert_int_equal(world_view(w, 0).met, MEET_RESUME);
        assert_true(world_view(w, 1).promotable);
        assert_int_equal(w->host[0].resyncs, resyncs);
    }
}

static void stopped_end_does_not_go_on_by_itself(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 0, COMMAND_STOP, 0);
    world_run(w, 3 * NS_PER_S);
    world_end_daemon(w, 0);
    world_run(w, 3 * NS_PER_S);
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    world_boot_again(w, 0, 0, false);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_STOPPED);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    // Resumed it sees what has happened.
    world_command(w, 0, COMMAND_RESUME, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_true(world_view(w, 0).promotable);
}

static void shutdown_hands_over(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 1, COMMAND_SHUTDOWN, 0); // not active: nothing is to be done
    assert_int_equal(w->host[1].reply_status, 0);
    assert_int_equal(world_view(w, 1).operation_result, STEP_DONE);
    world_command(w, 0, COMMAND_SHUTDOWN, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).operation_result, STEP_DONE);
}

static void shutdown_stops_and_the_next_start_goes_on(void **state)
{
    struct world *w = *state;
    w->config.shutdown_stops = true;
    world_start_pair(w);
    unsigned resyncs = w->host[0].resyncs;
    world_command(w, 0, COMMAND_SHUTDOWN, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_STOPPED);
    assert_false(w->host[0].address || w->host[0].apps || w->host[0].exports);
    assert_int_equal(world_view(w, 0).operation_result, STEP_DONE);
    world_crash(w, 0);
    world_run(w, 20 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE); // it was ended in order
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(world_view(w, 1).promotable);
    assert_int_equal(w->host[0].resyncs, resyncs);
}

// Nobody watches an end that has stopped; that its grant is over does not follow.
static void shutdown_beside_a_grant_is_no_proof_that_none_is_out(void **state)
{
    struct world *w = *state;
    w->config.shutdown_stops = true;
    world_start_pair(w);
    w->probe = END_VETO_ADDRESS; // the peer does not take over here: it could
    world_cut(w);
    int64_t echo = w->now;
    world_run(w, w->config.timeout_ns + 200 * NS_PER_MS);
    world_command(w, 0, COMMAND_SHUTDOWN, 0);
    world_run(w, 200 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_STOPPED);
    world_end_daemon(w, 0);
    world_boot_again(w, 0, echo, true);
    world_run(w, 100 * NS_PER_MS);
    assert_true(world_view(w, 1).granted);
    assert_int_equal(world_view(w, 0).state, END_WAITING);
    world_heal(w);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
}

// Nobody to hand over to, or the one there is lost on the way: ended in order all the same.
static void shutdown_without_a_peer_stops(void **state)
{
    for (int late = 0; late < 2; late++) {
        struct world *w = world_start_pair(world_anew(state));
        w->host[0].hold_apps = late;
        if (!late) {
            world_crash(w, 1);
            world_run(w, 6 * NS_PER_S);
        }
        world_command(w, 0, COMMAND_SHUTDOWN, 0);
        world_run(w, 100 * NS_PER_MS);
        if (late) {
            world_crash(w, 1);
            world_run(w, 3 * NS_PER_S);
            host_push(&w->host[0], &(struct end_event){.type = EV_APPS});
        }
        world_run(w, 3 * NS_PER_S);
        assert_int_equal(world_view(w, 0).state, END_STOPPED);
        assert_false(w->host[0].exports);
    }
}

// A save that failed is tried again; what depends on it waits.
static void failed_save_is_tried_again(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    h->hold_saves = true;
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    assert_int_not_equal(h->gate, GATE_ALONE);
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved = {.ticket = h->ticket, .status = -28}});
    h->hold_saves = false;
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(h->gate, GATE_ALONE);
}

// Everything that lasts is as it was before a switchover that came to nothing: a later crash must not find an exact
// position, from which seqs would be given a second time.
static void role_taken_back_is_durable(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].hold_handover = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_HANDED_OVER);
    world_crash(w, 1);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].disk.intent, INTENT_NONE);
    assert_false(w->host[0].disk.clean);
    assert_true(w->host[0].apps && w->host[0].address && w->host[0].exports);
    w->host[0].data.numbered += 100;
    world_run(w, NS_PER_S);
    uint64_t given = w->host[0].data.numbered;
    world_crash(w, 0);
    world_crash(w, 1);
    world_boot(w, 0, (struct end_start){0});
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(world_view(w, 0).epoch.first_seq > given);
}

static void alone_start(struct world *w, struct end_start *ret_start)
{
    world_start_pair(w);
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    assert_true(w->host[0].disk.alone);
    *ret_start = (struct end_start){
        .same_boot = true,
        .queue_found = true,
        .queue_numbered = w->host[0].data.numbered,
        .queue_epoch = w->host[0].epoch.id,
    };
    world_crash(w, 0);
}

static void queue_of_a_former_reign_is_not_gone_on_with(void **state)
{
    struct world *w = *state;
    struct end_start start;
    alone_start(w, &start);
    start.queue_epoch = 4711;
    world_boot(w, 0, start);
    assert_int_equal(world_view(w, 0).state, END_WAITING);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).epoch.reason, EPOCH_LOST_QUEUE);
}

static void queue_of_this_reign_is_gone_on_with(void **state)
{
    struct world *w = *state;
    struct end_start start;
    alone_start(w, &start);
    world_boot(w, 0, start);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).epoch.reason, EPOCH_ALONE);
}

// Killed between the saving of the epoch and its record: the record is what tells the peer of it.
static void epoch_of_going_alone_gets_its_record_after_a_crash(void **state)
{
    struct world *w = *state;
    struct end_start start;
    alone_start(w, &start);
    const struct epoch *at = history_current(&w->host[0].disk.history);
    start.queue_epoch = at->parent[0].id;
    start.queue_numbered = w->host[0].data.numbered = at->first_seq - 1;
    memset(&w->host[0].epoch, 0, sizeof(w->host[0].epoch));
    start.queue_pending = true;
    world_boot(w, 0, start);
    assert_int_equal(world_view(w, 0).state, END_WAITING);
    world_end_daemon(w, 0);
    start.queue_pending = false;
    world_boot(w, 0, start);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].epoch.id, at->id);
    assert_int_equal(world_view(w, 0).epoch.id, at->id);
}

// Killed while its epoch was being opened in the queue, in front of the record: the queue says the epoch, and the fork.
static void epoch_without_its_record_gets_it_after_a_crash(void **state)
{
    struct world *w = *state;
    struct end_start start;
    alone_start(w, &start);
    const struct epoch *at = history_current(&w->host[0].disk.history);
    start.queue_numbered = w->host[0].data.numbered = at->first_seq - 1;
    memset(&w->host[0].epoch, 0, sizeof(w->host[0].epoch));
    world_boot(w, 0, start);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(w->host[0].epoch.id, at->id);
    assert_int_equal(w->host[0].data.numbered, at->first_seq);
}

// In `async` answers go on while the epoch is being saved: killed in that time, with what the queue says of it.
static void unsaved_start(struct world *w, struct end_start *ret_start)
{
    struct host *h = &w->host[0];
    w->config.mode = END_ASYNC;
    world_start_pair(w);
    h->hold_saves = true;
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    assert_true(h->disk.alone);
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket}); // `alone`
    struct end_state durable = h->disk;
    world_run(w, NS_PER_S);
    assert_int_equal(h->gate, GATE_ALONE);
    assert_int_equal(h->epoch.reason, EPOCH_ALONE);
    h->data.numbered += 5;
    *ret_start = (struct end_start){
        .same_boot = true,
        .queue_found = true,
        .queue_numbered = h->data.numbered,
        .queue_epoch = h->epoch.id,
        .queue_opening = h->epoch,
    };
    world_crash(w, 0);
    h->disk = durable;
    assert_false(history_contains(&durable.history, h->epoch.id));
}

static void epoch_that_was_being_saved_is_gone_on_with(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    struct end_start start;
    unsaved_start(w, &start);
    unsigned resyncs = h->resyncs;
    world_boot(w, 0, start);
    world_boot(w, 1, (struct end_start){.replica_durable = w->host[1].data.replica_durable});
    world_run(w, NS_PER_S);
    // Neither does it serve, nor does anybody hear of the epoch, before that is durable.
    assert_int_equal(world_view(w, 0).state, END_TAKING_OVER);
    assert_false(h->exports || h->address);
    assert_int_equal(world_view(w, 1).epoch.number, 1);
    h->hold_saves = false;
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(history_contains(&h->disk.history, start.queue_epoch));
    assert_true(world_view(w, 1).promotable);
    assert_int_equal(h->resyncs, resyncs);
    assert_int_equal(world_view(w, 1).epoch.id, start.queue_epoch);
}

static void epoch_of_a_queue_that_is_not_the_next_one_is_not_believed(void **state)
{
    struct world *w = *state;
    struct end_start start, wrong;
    unsaved_start(w, &start);
    w->host[0].hold_saves = false;
    for (unsigned how = 0; how < 4; how++) {
        wrong = start;
        bool alone = w->host[0].disk.alone;
        if (how == 0)
            wrong.queue_opening.id = 0; // not known
        if (how == 1)
            wrong.queue_opening.parent[0].id = 4711;
        if (how == 2)
            wrong.queue_opening.reason = EPOCH_TAKEOVER;
        if (how == 3)
            w->host[0].disk.alone = false; // nothing was answered in it
        struct end_state disk = w->host[0].disk;
        world_boot(w, 0, wrong);
        assert_int_equal(world_view(w, 0).state, END_WAITING);
        world_crash(w, 0);
        w->host[0].disk = disk;
        w->host[0].disk.alone = alone;
    }
}

// The exports had been told to close, and what they say of that is still on its way when the operator decides: it is no
// answer to what is asked of them then, and a fresh queue is made once.
static void late_word_of_closed_exports_opens_nothing_twice(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    h->hold_close = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_HANDING_OVER);
    assert_false(h->exports);
    world_isolate(w, 0);
    w->probe = END_VETO_ADDRESS;
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    unsigned opens = h->opens;
    world_command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_int_equal(h->reply_status, 0);
    world_run(w, NS_PER_S);
    assert_int_equal(h->opens, opens);
    host_push(h, &(struct end_event){.type = EV_EXPORTS, .exports.abandoned = true});
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(h->opens, opens + 1);
}

static void exports_that_do_not_come_back_are_tried_at_leisure(void **state)
{
    struct world *w = world_start_pair(*state);
    w->cut[1] = true;
    w->probe = END_VETO_ADDRESS;
    w->host[0].data.numbered++;
    w->host[0].streams = 0;
    w->host[0].fail_opens = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 6 * NS_PER_S); // the peer is lost, the switchover given up
    assert_in_range(w->host[0].opens, 2, 10);
    w->host[0].fail_opens = false;
    w->cut[1] = false;
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
}

// SIGTERM has taken the grant back: the guard waits for nothing, and however long the restart takes, it goes on.
static void slow_restart_without_a_grant_goes_on(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    int64_t echo = w->now;
    host_push(h, &(struct end_event){.type = EV_TERMINATE});
    world_run(w, NS_PER_S);
    assert_true(h->exited);
    assert_int_equal(h->deadline, INT64_MAX);
    world_end_daemon(w, 0);
    world_run(w, 20 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    world_boot_again(w, 0, echo, true);
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).epoch.number, 1);
    assert_true(world_view(w, 1).promotable);
}

static void late_word_of_the_applications_is_not_theirs(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    h->hold_apps = true;
    world_command(w, 0, COMMAND_SWITCH, 0);
    host_step(h, &(struct end_event){.type = EV_APPS, .apps.running = true}); // of their start
    world_run(w, 200 * NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_HANDING_OVER);
    assert_true(h->exports);
    host_step(h, &(struct end_event){.type = EV_APPS});
    h->hold_apps = false;
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
}

// A seq below the bound may be given; an end that has lost its queue starts above the one that it finds on its disk.
static void bound_is_durable_before_it_is_given(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    world_start_pair(w);
    uint64_t bound = h->bound;
    assert_int_equal(h->disk.bound, bound);
    h->hold_saves = true;
    h->data.numbered = bound - 1;
    world_run(w, NS_PER_S);
    assert_int_equal(h->bound, bound);
    h->hold_saves = false;
    host_push(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    world_run(w, NS_PER_S);
    assert_true(h->bound > bound && h->disk.bound == h->bound);
}

// Between its first epoch and its first stream an end has nobody who is synchronized with it.
static void first_start_is_not_synchronized_on_the_way(void **state)
{
    struct world *w = *state;
    world_boot(w, 0, (struct end_start){0});
    world_boot(w, 1, (struct end_start){0});
    w->host[0].hold_saves = true;
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_TAKING_OVER);
    assert_false(world_view(w, 0).synchronized);
    assert_true(world_view(w, 0).pending != 0);
}

// A large safe queue takes its time to be read: the peer sees an end that lives, and meets it when it knows what it has.
static void end_that_reads_its_queue_is_heard_and_does_not_meet(void **state)
{
    struct world *w = world_start_pair(*state);
    uint64_t held = w->host[1].data.replica_durable;
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    w->host[1].data.replica_durable = 0;
    world_boot(w, 1, (struct end_start){.replica_durable = END_OPENING});
    world_run(w, 5 * NS_PER_S);
    assert_true(world_view(w, 0).connected && world_view(w, 1).connected);
    assert_int_equal(world_view(w, 1).session, 0);
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    assert_true(w->host[1].reply_status < 0);
    w->host[1].data.replica_durable = held;
    host_push(&w->host[1], &(struct end_event){.type = EV_OPENED, .opened = {.replica_durable = held}});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 1).met, MEET_RESUME);
    assert_true(world_view(w, 1).promotable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(first_start_ends_paired_and_granted),
        T(restart_of_the_active_daemon_goes_on),
        T(a_failed_flush_is_not_forgotten_by_a_restart),
        T(a_store_that_is_opened_again_is_resynced_in_the_same_reign),
        T(restart_of_the_passive_daemon_resumes),
        T(both_restarted_the_former_active_leads),
        T(alone_and_restarted_serves_again_by_itself),
        T(paired_and_restarted_does_not_serve_by_itself),
        T(strict_hands_the_role_to_the_passive_end),
        T(strict_waits_for_the_replay_of_a_mirrors_marks),
        T(replica_in_the_midst_of_its_marks_is_not_met),
        T(power_loss_of_an_active_end_is_remembered),
        T(stop_ends_protection_in_order),
        T(restart_without_a_waypoint_keeps_the_lease),
        T(echo_heard_while_waiting_is_not_kept),
        T(stopped_end_does_not_go_on_by_itself),
        T(failed_save_is_tried_again),
        T(first_start_is_not_synchronized_on_the_way),
        T(role_taken_back_is_durable),
        T(queue_of_a_former_reign_is_not_gone_on_with),
        T(queue_of_this_reign_is_gone_on_with),
        T(epoch_of_going_alone_gets_its_record_after_a_crash),
        T(epoch_without_its_record_gets_it_after_a_crash),
        T(epoch_that_was_being_saved_is_gone_on_with),
        T(epoch_of_a_queue_that_is_not_the_next_one_is_not_believed),
        T(late_word_of_closed_exports_opens_nothing_twice),
        T(exports_that_do_not_come_back_are_tried_at_leisure),
        T(slow_restart_without_a_grant_goes_on),
        T(late_word_of_the_applications_is_not_theirs),
        T(bound_is_durable_before_it_is_given),
        T(stopped_end_stays_stopped_until_it_is_resumed),
        T(resume_after_a_stop_needs_no_resync),
        T(shutdown_hands_over),
        T(shutdown_stops_and_the_next_start_goes_on),
        T(shutdown_beside_a_grant_is_no_proof_that_none_is_out),
        T(shutdown_without_a_peer_stops),
        T(end_that_reads_its_queue_is_heard_and_does_not_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
