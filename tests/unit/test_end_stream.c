// SPDX-License-Identifier: Apache-2.0
// common/end, by name: what is streamed and resynced behind a meeting: maps, queues, positions, and verifying.
// What goes wrong in between any two steps is the simulator's business.
#include "tests/unit/end_world.h"

#include <errno.h>

// What the old active end's maps say is in the new one's, durably, before the stream starts; pieces that are lost are asked
// for again. When its replica is whole its own maps go.
static void maps_are_united_before_the_stream(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    uint64_t map[2][2] = {{0xff00, 1}, {0, UINT64_C(1) << 63}};
    memcpy(w->host[0].own_map, map, sizeof(map));
    w->host[0].lose_pieces = w->host[1].hold_map = true;
    w->host[0].cleared = 0;
    unsigned attaches = w->host[1].attaches, fills = w->host[1].fills;
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_memory_equal(w->host[1].added, map, sizeof(map));
    assert_int_equal(w->host[1].attaches, attaches);
    assert_int_equal(w->host[1].armed, 0);
    assert_int_equal(w->host[0].cleared, 0);
    // The sync of another union counts for nothing.
    host_push(&w->host[1], &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_DURABLE, .ticket = 99}});
    world_run(w, NS_PER_S);
    assert_int_equal(w->host[1].attaches, attaches);
    w->host[1].hold_map = false;
    world_cut(w);
    world_run(w, 3 * NS_PER_S);
    world_heal(w);
    world_run(w, 6 * NS_PER_S);
    assert_true(w->host[1].attaches > attaches);
    assert_int_equal(w->host[1].armed, world_view(w, 1).session);
    assert_int_equal(w->host[1].armed_due, 3);
    assert_int_equal(w->host[1].fills, fills);
    assert_true(world_view(w, 0).promotable);
    assert_int_equal(w->host[0].cleared, 3);
}

// A map that could not be written is void on its disk alone: in memory it is exact, and needs what the other one says.
static void map_that_is_void_on_its_disk_is_united_all_the_same(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    uint64_t map[2][2] = {{0xff00, 1}, {0, UINT64_C(1) << 63}};
    memcpy(w->host[0].own_map, map, sizeof(map));
    host_step(&w->host[1], &(struct end_event){.type = EV_MAP,
                                          .map = {.what = MAP_EV_FAILED, .object = 1, .ticket = 7, .status = -EIO}});
    world_run(w, NS_PER_S);
    assert_int_equal(w->host[1].disk.map_void, 2);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_memory_equal(w->host[1].added, map, sizeof(map));
}

// A map that cannot be written: what waits goes on when that is durable in the state, and fails when it cannot be.
static void map_that_cannot_be_written_is_recorded_first(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    struct end_event failed = {.type = EV_MAP,
                               .map = {.what = MAP_EV_FAILED, .object = 1, .ticket = 7, .status = -5}};
    assert_int_equal(h->disk.map_void, 0);
    h->hold_saves = true;
    host_step(h, &failed);
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(h->voided + h->refused, 0);
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved = {.ticket = h->ticket, .status = -28}});
    assert_int_equal(h->refused, 1);
    h->hold_saves = false;
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(h->voided, 1);
    assert_int_equal(h->refused, 1);
    assert_int_equal(h->disk.map_void, 2);
    // Only the newest record is taken back.
    host_step(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_GOOD, .object = 1, .ticket = h->record - 1}});
    world_run(w, NS_PER_S);
    assert_int_equal(h->disk.map_void, 2);
    host_step(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_GOOD, .object = 1, .ticket = h->record}});
    world_run(w, NS_PER_S);
    assert_int_equal(h->disk.map_void, 0);
    assert_true(world_view(w, 1).promotable); // the pair is as it was
}

static void verified(struct world *w, uint64_t differing, uint64_t unread)
{
    static struct verify_result result;
    result = (struct verify_result){
        .objects = 3, .differing = differing, .compared = 1000, .total = 1000, .first_seq = 5, .last_seq = 77};
    result.unread_bytes = unread;
    result.compared -= unread;
    if (differing) {
        result.differing_bytes = 4096;
        result.range_count = 1;
        result.ranges[0] = (struct verify_range){(uint16_t)__builtin_ctzll(differing), 8192, 4096};
    }
    w->host[0].verifying = 0;
    host_step(&w->host[0],
              &(struct end_event){.type = EV_VERIFIED,
                                  .verified = {.result = &result, .real_ns = 1234567}});
}

static void equality_is_remembered(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, NS_PER_S);
    world_command(w, 1, COMMAND_VERIFY, 0); // passed on
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[0].verifying, 3);
    assert_true(world_view(w, 0).verifying);
    world_command(w, 0, COMMAND_VERIFY, 0);
    assert_int_equal(w->host[0].reply_status, -EPERM); // one at a time
    verified(w, 0, 0);
    struct end_view v = world_view(w, 0);
    assert_false(v.verifying);
    assert_int_equal(v.operation_result, STEP_DONE);
    assert_int_equal(v.proven.seq, 77);
    assert_int_equal(w->host[0].disk.proven.time, 1234567);
    assert_int_equal(w->host[0].disk.proven.epoch, v.epoch.id);
    assert_true(world_view(w, 1).promotable);
    // What could not be read proves nothing, and takes nothing back.
    world_command(w, 0, COMMAND_VERIFY, 0);
    verified(w, 0, 100);
    v = world_view(w, 0);
    assert_int_equal(v.operation_result, STEP_FAILED);
    assert_int_equal(v.proven.time, 1234567);
    assert_true(v.synchronized);
}

// Both ends say when they were last proven equal, also behind a switch and restarts; not of another line or another replica.
static void equality_is_said_by_both_ends(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].data.numbered = w->host[0].data.durable = w->host[0].data.applied = 200;
    w->host[1].data.replica_durable = w->host[1].data.applied = 200;
    world_run(w, NS_PER_S);
    world_command(w, 0, COMMAND_VERIFY, 0);
    verified(w, 0, 0);
    uint64_t epoch = world_view(w, 0).epoch.id;
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 1).proven.time, 1234567);
    assert_int_equal(world_view(w, 1).proven.epoch, epoch);
    assert_int_equal(world_view(w, 1).proven.seq, 77);
    assert_int_equal(w->host[1].disk.proven.seq, 77);
    assert_int_equal(w->host[1].disk.proven.number, world_view(w, 0).epoch.number);
    world_crash(w, 1);
    world_run(w, 5 * NS_PER_S);
    world_boot(w, 1, (struct end_start){0});
    assert_int_equal(world_view(w, 1).proven.seq, 77);
    world_run(w, 3 * NS_PER_S);
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).proven.seq, 77);
    assert_int_equal(world_view(w, 0).proven.seq, 77);
    // The other end is replaced.
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    w->host[0].disk = (struct end_state){0};
    w->host[0].data = (struct end_data){.waypoint_ns = 0};
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 0).proven.time, 0);
    assert_int_equal(world_view(w, 1).proven.time, 0);
}

// What was found to differ is not synchronized, holds no grant and is not switched to, also behind a restart, until it
// was repaired.
static void difference_waits_for_its_repair(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    world_start_pair(w);
    world_run(w, NS_PER_S);
    world_command(w, 0, COMMAND_VERIFY, 0);
    verified(w, 2, 0);
    struct end_view v = world_view(w, 0);
    assert_int_equal(v.operation_result, STEP_FAILED);
    assert_non_null(strstr(v.operation_text, "4096 bytes at 8192"));
    assert_false(v.synchronized);
    world_run(w, 10 * NS_PER_S);
    v = world_view(w, 0);
    assert_true(v.alone);
    assert_false(v.granted);
    assert_int_equal(v.held, 2);
    assert_int_equal(h->disk.held, 2);
    assert_int_equal(h->disk.pending, 2);
    assert_int_equal(h->marked, 2);
    assert_int_equal(w->host[1].disk.inconsistent, 2);
    assert_false(world_view(w, 1).promotable);
    assert_int_equal(h->resyncs, 1); // the first mirror's
    world_command(w, 0, COMMAND_VERIFY, 0);
    assert_int_equal(h->reply_status, -EPERM);
    world_command(w, 0, COMMAND_SWITCH, 0);
    assert_int_equal(h->reply_status, -EPERM);
    world_command(w, 0, COMMAND_VERIFY, COMMAND_REPAIR);
    assert_int_equal(h->reply_status, 0);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(h->resyncs, 2);
    assert_int_equal(h->resynced, 2); // that volume alone
    v = world_view(w, 0);
    assert_int_equal(v.held | v.pending, 0);
    assert_int_equal(v.operation_result, STEP_DONE);
    assert_true(v.synchronized && !v.alone);
    assert_true(world_view(w, 1).promotable);
}

static void difference_is_repaired_at_once_when_told_to(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, NS_PER_S);
    world_command(w, 0, COMMAND_VERIFY, COMMAND_REPAIR);
    verified(w, 1, 0);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(w->host[0].resyncs, 2);
    assert_int_equal(w->host[0].resynced, 1);
    assert_int_equal(w->host[0].marked, 0);
    assert_int_equal(world_view(w, 0).operation_result, STEP_DONE);
    assert_true(world_view(w, 0).synchronized);
    assert_true(world_view(w, 1).promotable);
}

// A verify ends with its session; what it had found by then counts all the same.
static void verify_is_given_up_with_its_session(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, NS_PER_S);
    world_command(w, 0, COMMAND_VERIFY, 0);
    world_command(w, 0, COMMAND_PAUSE, 0);
    assert_int_equal(w->host[0].verifying, 0);
    assert_false(world_view(w, 0).verifying);
    world_command(w, 0, COMMAND_VERIFY, 0);
    assert_int_equal(w->host[0].reply_status, -EPERM);
    verified(w, 1, 0);
    assert_int_equal(w->host[0].disk.held, 1);
    world_command(w, 0, COMMAND_RESUME, 0);
    world_run(w, 10 * NS_PER_S);
    assert_false(world_view(w, 0).synchronized);
    assert_int_equal(w->host[0].marked, 1);
    world_command(w, 0, COMMAND_RESYNC, 0);
    world_run(w, 10 * NS_PER_S);
    assert_true(world_view(w, 0).synchronized);
    assert_int_equal(w->host[0].disk.held, 0);
}

// Whoever finds in its state that a map is void says so to the data path before anything else uses it.
static void recorded_map_counts_as_wholly_set_at_the_start(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, NS_PER_S);
    world_crash(w, 1);
    w->host[1].disk.map_void = 2;
    w->host[1].hold_good = true;
    w->host[1].filled = 0;
    world_boot(w, 1, (struct end_start){0});
    assert_int_equal(w->host[1].filled, 2);
    // An operator's resync: everything counts as different, durably, and is gone over.
    world_run(w, 5 * NS_PER_S);
    struct host *h = &w->host[0];
    h->filled = 0;
    h->hold_saves = true;
    host_step(h, &(struct end_event){.type = EV_COMMAND, .command = {.command = COMMAND_RESYNC}});
    assert_int_equal(h->filled, 0);
    h->hold_saves = false;
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved = {.ticket = h->ticket}});
    assert_int_equal(h->filled, 3);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).pending, 0);
}

// A replica that lost what it had settled is compared as a whole, also behind a restart of its daemon.
// From the first record of a resync on it is not consistent: a crash must not leave one that is taken for it.
static void replica_is_not_touched_before_its_inconsistency_is_durable(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    world_boot(w, 0, (struct end_start){0});
    world_boot(w, 1, (struct end_start){0});
    for (int i = 0; i < 500 && !h->disk.inconsistent; i++) {
        h->hold_saves = true; // one save a step
        world_run(w, 10 * NS_PER_MS);
        if (h->disk.inconsistent)
            break;
        h->hold_saves = false;
        host_step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    }
    assert_true(h->disk.inconsistent);
    world_run(w, 500 * NS_PER_MS);
    assert_int_equal(h->follow_asked, 0);
    h->hold_saves = false;
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    world_run(w, 5 * NS_PER_S);
    assert_int_not_equal(h->follow_asked, 0);
    assert_true(world_view(w, 1).promotable);
}

static void lost_replica_is_compared_as_a_whole(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, NS_PER_S);
    unsigned fills = w->host[0].fills;
    host_step(&w->host[1], &(struct end_event){.type = EV_MAP, .map.what = MAP_EV_LOST});
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[1].disk.lost, 3);
    assert_false(world_view(w, 1).promotable);
    world_crash(w, 1);
    world_boot(w, 1, (struct end_start){.replica_durable = w->host[1].data.replica_durable});
    world_run(w, 5 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_int_equal(w->host[1].disk.lost, 0);
    assert_true(world_view(w, 1).promotable);
}

// What an opening replays in front of damage takes back what had been settled, of which the map knows nothing any more:
// everything is compared, whatever the marks say that are replayed.
static void damaged_queue_is_compared_as_a_whole(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, NS_PER_S);
    unsigned fills = w->host[0].fills;
    uint64_t seq = w->host[1].data.replica_durable - 1;
    world_crash(w, 1);
    w->host[1].data.replica_durable = 0;
    world_boot(w, 1, (struct end_start){.replica_durable = END_OPENING});
    struct end_event opened = {.type = EV_OPENED};
    opened.opened.replica_durable = seq;
    opened.opened.replica_failed = opened.opened.damaged = true;
    host_step(&w->host[1], &opened);
    host_step(&w->host[1], &(struct end_event){.type = EV_REPLICA,
                                          .replica = {.what = FOLLOW_END, .object = 0, .seq = UINT64_MAX / 2}});
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[1].disk.lost, 3);
    assert_int_equal(w->host[1].disk.inconsistent, 3);
    world_run(w, 5 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_int_equal(w->host[1].disk.lost, 0);
    assert_true(world_view(w, 1).promotable);
}

// An end that has forgotten its line at an operator's word, and crashed before its queue was emptied: the seqs of the two
// lines have nothing to do with each other, so that no position and no mark of that queue says anything.
static void queue_of_a_forgotten_line_says_nothing(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, NS_PER_S);
    w->host[0].data.numbered += 100;
    world_run(w, NS_PER_S);
    struct host *h = &w->host[1];
    uint64_t held = h->data.replica_durable - 10; // on the leader's line that is a position to resume from
    world_crash(w, 1);
    h->disk.inconsistent = h->disk.salvage = h->disk.salvage_whole = 3;
    h->disk.salvage_cause = SALVAGE_RESOLVED;
    h->disk.salvaged = (struct epoch){.number = 1, .id = 4711, .first_seq = 1, .opened_by = EPOCH_BY_SECONDARY, .reason = EPOCH_LOST_QUEUE};
    h->disk.position = 1;
    h->data.replica_durable = h->data.applied = held;
    unsigned fills = w->host[0].fills;
    world_boot(w, 1, (struct end_start){.replica_durable = END_OPENING});
    host_push(h, &(struct end_event){.type = EV_OPENED, .opened = {.replica_durable = held, .base = 4712}});
    for (uint16_t object = 0; object < 2; object++)
        host_push(h, &(struct end_event){.type = EV_REPLICA,
                                    .replica = {.what = FOLLOW_END, .object = object, .seq = held}});
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(h->disk.inconsistent, 3);
    assert_int_equal(h->disk.salvage, 3);
    world_run(w, 8 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_int_equal(h->disk.salvage, 0);
    assert_true(world_view(w, 1).promotable);
}

// The same where the end itself cannot know, because nothing behind the damage proves it: the active end does.
static void follower_that_went_back_is_compared_as_a_whole(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].data.numbered += 10;
    world_run(w, NS_PER_S);
    unsigned fills = w->host[0].fills;
    world_crash(w, 1);
    uint64_t held = w->host[1].data.replica_durable;
    world_run(w, 6 * NS_PER_S);
    world_boot(w, 1, (struct end_start){.replica_durable = held});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 1).met, MEET_RESUME);
    assert_int_equal(w->host[0].fills, fills);
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    w->host[1].data.replica_durable = held - 3;
    world_boot(w, 1, (struct end_start){.replica_durable = held - 3});
    world_run(w, 5 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_true(world_view(w, 1).promotable);
}

// A restarted active end knows what was confirmed to its former run by what its queue was let forget.
static void follower_that_went_back_is_seen_behind_a_restart(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[0];
    h->data.numbered += 10;
    world_run(w, NS_PER_S);
    uint64_t numbered = h->data.numbered, held = w->host[1].data.replica_durable;
    unsigned fills = h->fills;
    for (unsigned lost = 0; lost <= 3; lost += 3) {
        int64_t echo = world_view(w, 0).echo_sent_ns;
        world_crash(w, 1);
        w->host[1].data.replica_durable = held - lost;
        world_end_daemon(w, 0);
        h->data.durable = 0;
        h->data.held_from = numbered + 1;
        world_boot(w, 0, (struct end_start){.same_boot = true, .echo_sent_ns = echo, .queue_found = true,
                                      .queue_numbered = numbered, .queue_confirmed = numbered});
        world_boot(w, 1, (struct end_start){.replica_durable = held - lost});
        world_run(w, 10 * NS_PER_S);
        assert_true(world_view(w, 1).promotable);
        assert_int_equal(h->fills > fills, lost > 0);
        numbered = h->data.numbered;
        held = w->host[1].data.replica_durable;
    }
}

// Nor can a follower whose replica does not open tell how much its queue has lost: of a run that has not followed yet
// the active end takes it that it may be less than was confirmed.
static void follower_that_cannot_tell_its_position_is_compared_as_a_whole(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].data.numbered += 10;
    world_run(w, NS_PER_S);
    unsigned fills = w->host[0].fills;
    world_crash(w, 1);
    w->host[1].data.replica_durable = 0;
    world_boot(w, 1, (struct end_start){.replica_durable = END_OPENING});
    host_step(&w->host[1], &(struct end_event){.type = EV_OPENED, .opened.replica_failed = true});
    world_run(w, 5 * NS_PER_S);
    assert_true(w->host[0].fills > fills);
    assert_true(world_view(w, 1).promotable);
    // One that fails while it follows has what it had confirmed: that is resynced by the map.
    fills = w->host[0].fills;
    host_step(&w->host[1], &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_FAILED, .text = "a test"}});
    assert_false(world_view(w, 1).promotable);
    world_run(w, 20 * NS_PER_S);
    assert_true(world_view(w, 1).promotable);
    assert_int_equal(w->host[0].fills, fills);
}

static void failed_replica_is_tried_anew_and_resynced(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *s = &w->host[1];
    s->fail_follows = true;
    host_push(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_FAILED, .text = "a write failed"}});
    world_run(w, 3 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    assert_false(world_view(w, 1).promotable || world_view(w, 1).granted);
    world_run(w, 60 * NS_PER_S);
    assert_in_range(s->follow_asked, 3, 8); // with pauses that grow
    s->fail_follows = false;
    world_run(w, 70 * NS_PER_S);
    assert_false(world_view(w, 0).alone);
    assert_true(world_view(w, 1).promotable);
}

// A queue that is full and has come to an end: the end goes alone at once, the stream stays, the replica stays consistent,
// and nothing is resynced until the peer has what is held.
static void full_queue_is_streamed_to_its_end_before_the_resync(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *p = &w->host[0];
    uint64_t session = world_view(w, 0).session;
    unsigned resyncs = p->resyncs;
    p->data.numbered += 5;
    p->streams = 0;
    host_step(p, &(struct end_event){.type = EV_OVERFLOW, .failed = {.text = "full", .draining = true}});
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    assert_int_equal(world_view(w, 0).pending, 3);
    assert_int_equal(world_view(w, 0).session, session);
    assert_int_equal(world_view(w, 1).inconsistent, 0);
    assert_false(world_view(w, 1).granted);
    assert_int_equal(p->resyncs, resyncs);
    p->data.held_from = 0;
    host_step(p, &(struct end_event){.type = EV_OVERFLOW, .failed.text = "the peer has all of it"});
    p->streams = 1;
    world_run(w, 6 * NS_PER_S);
    assert_int_not_equal(world_view(w, 0).session, session);
    assert_int_equal(world_view(w, 0).pending, 0);
    assert_true(world_view(w, 1).promotable);
}

// Marks of what is still replayed before the stream starts anew say nothing of the new stream.
static void mark_of_the_old_stream_does_not_make_a_replica_consistent(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *s = &w->host[1];
    uint64_t old = s->data.replica_durable;
    w->host[0].data.numbered = old + 5;
    w->host[0].data.held_from = 0;
    host_step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    w->host[0].resync_silent = true;
    world_run(w, 3 * NS_PER_S);
    assert_int_not_equal(world_view(w, 1).inconsistent, 0);
    host_step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = 0, .seq = old}});
    assert_int_equal(world_view(w, 1).inconsistent, 3);
}

// The same while the replica is made ready for the new stream, where the old one went further: its marks would make
// a volume consistent that is about to be mirrored, and an epoch of a line that was given up would stop it for good.
static void queue_that_a_new_stream_replaces_is_let_pass(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *s = &w->host[1];
    w->host[0].data.numbered += 5;
    w->host[0].data.held_from = 0;
    s->hold_follows = true;
    host_step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).inconsistent, 3);
    uint64_t far = w->host[0].data.numbered + 1000;
    struct epoch foreign = {.number = 9, .id = 991, .first_seq = far, .opened_by = EPOCH_BY_SECONDARY,
                            .reason = EPOCH_ALONE, .parents = 1, .parent[0] = {.id = 990, .seq = far - 1}};
    unsigned consents = s->consents;
    host_step(s, &(struct end_event){.type = EV_REPLICA,
                                .replica = {.what = FOLLOW_EPOCH, .epoch = &foreign, .seq = far}});
    host_step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_END, .object = 0, .seq = far + 1}});
    assert_int_equal(world_view(w, 1).inconsistent, 3);
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(s->consents, consents + 2); // so that its end is reached
    s->hold_follows = false;
    host_step(s, &(struct end_event){.type = EV_REPLICA, .replica = {.what = FOLLOW_READY}});
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 1).inconsistent, 0);
    assert_true(world_view(w, 1).promotable);
}

static void report_of_an_old_resync_does_not_count(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *p = &w->host[0];
    p->resync_silent = true;
    world_command(w, 0, COMMAND_RESYNC, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).pending, 3);
    uint64_t old = p->resync_ticket;
    world_command(w, 0, COMMAND_RESYNC, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_not_equal(p->resync_ticket, old);
    // The data path had not heard of the second order when it numbered the end.
    p->data.numbered += 2;
    for (unsigned i = 0; i < 2; i++)
        host_step(p, &(struct end_event){.type = EV_RESYNCED,
                                    .resynced = {.object = i, .seq = p->data.numbered - i, .ticket = old}});
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).pending, 3);
}

// That a full queue would be streamed to its end was told of a place that the peer has no more: nothing is to be waited for.
static void place_that_was_given_up_is_not_drained(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].full_at_attach = true;
    w->host[0].data.held_from = 0;
    unsigned attaches = w->host[0].attaches;
    host_step(&w->host[0], &(struct end_event){.type = EV_OVERFLOW, .failed.text = "overflow"});
    unsigned resyncs = w->host[0].resyncs;
    world_run(w, 3 * NS_PER_S);
    assert_true(w->host[0].attaches > attaches);
    assert_true(w->host[0].resyncs > resyncs);
    assert_int_equal(world_view(w, 0).pending, 0);
    assert_true(world_view(w, 1).promotable);
}

// The agreement answers facts that are no longer true: the stream would go on from where nothing is kept.
static void overflow_while_a_meeting_is_proposed_voids_the_proposal(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS;
    world_cut(w);
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    w->host[1].overflow_when_met = true;
    world_heal(w);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).met, MEET_BY_MAP);
    assert_true(world_view(w, 1).promotable);
}

// Two meetings behind each other order a place in the queue each, and something is numbered between the two: the first one is
// not there any more, and the stream begins at the second.
static void place_of_a_former_session_is_not_streamed_from(void **state)
{
    struct world *w = *state;
    world_boot(w, 0, (struct end_start){0});
    world_boot(w, 1, (struct end_start){0});
    w->host[0].late_attach = true;
    world_run(w, 5 * NS_PER_S);
    assert_false(w->host[0].late_attach);
    assert_int_equal(w->host[0].stream_from, w->host[0].place);
    assert_true(world_view(w, 1).promotable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(maps_are_united_before_the_stream),
        T(map_that_is_void_on_its_disk_is_united_all_the_same),
        T(map_that_cannot_be_written_is_recorded_first),
        T(recorded_map_counts_as_wholly_set_at_the_start),
        T(lost_replica_is_compared_as_a_whole),
        T(damaged_queue_is_compared_as_a_whole),
        T(queue_of_a_forgotten_line_says_nothing),
        T(follower_that_went_back_is_compared_as_a_whole),
        T(follower_that_went_back_is_seen_behind_a_restart),
        T(follower_that_cannot_tell_its_position_is_compared_as_a_whole),
        T(failed_replica_is_tried_anew_and_resynced),
        T(full_queue_is_streamed_to_its_end_before_the_resync),
        T(mark_of_the_old_stream_does_not_make_a_replica_consistent),
        T(queue_that_a_new_stream_replaces_is_let_pass),
        T(report_of_an_old_resync_does_not_count),
        T(equality_is_remembered),
        T(equality_is_said_by_both_ends),
        T(difference_waits_for_its_repair),
        T(difference_is_repaired_at_once_when_told_to),
        T(verify_is_given_up_with_its_session),
        T(replica_is_not_touched_before_its_inconsistency_is_durable),
        T(place_that_was_given_up_is_not_drained),
        T(overflow_while_a_meeting_is_proposed_voids_the_proposal),
        T(place_of_a_former_session_is_not_streamed_from),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
