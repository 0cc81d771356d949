// SPDX-License-Identifier: Apache-2.0
// common/end, by name: splits, resolving them, damaged state, and what is salvaged.
// What goes wrong in between any two steps is the simulator's business.
#include "tests/unit/end_world.h"

#include <errno.h>

static void both_alone_is_a_split(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S); // P goes alone: its own epoch
    world_crash(w, 0);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SPLIT);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).met, MEET_SPLIT);
}

// P was alone when it stopped, S was forced to serve without it: P in "split", S active.
static void become_split(struct world *w)
{
    world_start_pair(w);
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    world_crash(w, 0);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 2 * NS_PER_S);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SPLIT);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
}

// Both serve when they meet again: S stops.
static void become_split_while_both_serve(struct world *w)
{
    world_start_pair(w);
    w->two_serve = true;
    world_cut(w);
    world_run(w, 6 * NS_PER_S);
    if (world_view(w, 1).state != END_ACTIVE)
        world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 2 * NS_PER_S);
    assert_true(world_view(w, 0).state == END_ACTIVE && world_view(w, 1).state == END_ACTIVE);
    world_heal(w);
    world_run(w, 3 * NS_PER_S);
    w->two_serve = false;
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).state, END_SPLIT);
    assert_true(w->host[0].address && !w->host[1].address);
}

static void assert_resolved(struct world *w, int kept, uint64_t given_up)
{
    struct host *k = &w->host[kept], *l = &w->host[1 - kept];
    const struct epoch *resolved = NULL;
    assert_int_equal(world_view(w, kept).state, END_ACTIVE);
    assert_false(world_view(w, kept).alone);
    assert_true(k->address && !l->address);
    assert_int_equal(world_view(w, 1 - kept).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1 - kept).inconsistent, 0);
    for (uint32_t i = 0; i < k->disk.history.count; i++)
        if (k->disk.history.epochs[i].reason == EPOCH_RESOLVE)
            resolved = &k->disk.history.epochs[i];
    assert_non_null(resolved);
    assert_int_equal(resolved->parents, 2);
    assert_int_equal(resolved->parent[1].id, given_up);
    assert_true(history_contains(&k->disk.history, given_up));
    // What was given up was kept first, and nothing of it is left to be kept.
    assert_int_equal(l->salvaged, 3);
    assert_int_equal(l->salvage_cause, SALVAGE_RESOLVED);
    assert_int_equal(l->salvaged_epoch, given_up);
    assert_int_equal(l->disk.salvage, 0);
    assert_int_equal(k->salvaged, 0);
}

// An end that serves alone goes on answering while its facts are on their way. What it has answered since it told its position
// is not on the line of the other one, which an operator has made active meanwhile.
static void what_is_answered_alone_during_a_meeting_makes_a_split(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    h->resync_silent = true; // alone for as long as that goes on
    world_start_pair(w);
    assert_true(world_view(w, 0).alone);
    h->data.numbered += 5;
    world_run(w, NS_PER_S);
    w->two_serve = true;
    world_cut(w);
    world_run(w, 3 * NS_PER_S);
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE | COMMAND_INCONSISTENT);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    h->number_when_met = true;
    world_heal(w);
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).met, MEET_SPLIT);
    assert_int_equal(world_view(w, 0).state, END_SPLIT);
    assert_int_equal(h->disk.role, ROLE_ACTIVE);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
}

static void resolve_keeps_the_end_that_serves(void **state)
{
    struct world *w = *state;
    become_split(w);
    uint64_t given_up = world_view(w, 0).epoch.id;
    world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY); // typed at the one that is not kept
    assert_int_equal(w->host[0].reply_status, 0);
    world_run(w, 5 * NS_PER_S);
    assert_resolved(w, 1, given_up);
    assert_int_equal(world_view(w, 0).operation_result, STEP_DONE);
    assert_int_equal(world_view(w, 1).operation_result, STEP_DONE);
}

static void resolve_keeps_the_end_that_had_stopped(void **state)
{
    struct world *w = *state;
    become_split(w);
    uint64_t given_up = world_view(w, 1).epoch.id;
    world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    world_run(w, 5 * NS_PER_S); // the address is never on both: the world looks
    assert_resolved(w, 0, given_up);
    assert_int_equal(world_view(w, 0).operation_result, STEP_DONE);
}

static void resolve_after_both_have_served(void **state)
{
    for (int kept = 0; kept < 2; kept++) {
        struct world *w = *state;
        become_split_while_both_serve(w);
        uint64_t given_up = world_view(w, 1 - kept).epoch.id;
        world_command(w, 1, COMMAND_RESOLVE, kept ? COMMAND_KEEP_SECONDARY : COMMAND_KEEP_PRIMARY);
        world_run(w, 5 * NS_PER_S);
        assert_resolved(w, kept, given_up);
        assert_int_equal(world_view(w, 1).operation_result, STEP_DONE);
        world_anew(state);
    }
}

static void resolve_is_refused_without_a_split(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    assert_true(w->host[0].reply_status < 0);
    world_command(w, 0, COMMAND_RESOLVE, 0);
    assert_true(w->host[0].reply_status < 0);
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
}

// Both have to take part: one that is not heard might serve.
static void resolve_is_refused_while_one_is_away(void **state)
{
    struct world *w = *state;
    become_split(w);
    world_cut(w);
    world_run(w, 3 * NS_PER_S);
    for (int i = 0; i < 2; i++) {
        world_command(w, i, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
        assert_true(w->host[i].reply_status < 0);
    }
    world_heal(w);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SPLIT);
    uint64_t given_up = world_view(w, 1).epoch.id;
    world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    world_run(w, 5 * NS_PER_S);
    assert_resolved(w, 0, given_up);
}

// A crash of the end that is kept, before its epoch is durable: split as before, and nobody has followed anybody.
static void resolve_that_was_cut_off_changes_nothing(void **state)
{
    struct world *w = *state;
    become_split(w);
    uint64_t p = world_view(w, 0).epoch.id, s = world_view(w, 1).epoch.id;
    struct end_state before = w->host[0].disk;
    w->host[0].hold_saves = true;
    world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    world_run(w, 2 * NS_PER_S);
    assert_false(w->host[0].address || w->host[1].address); // S has stopped, P waits for its save
    world_crash(w, 0);
    w->host[0].disk = before; // which is lost
    w->host[0].hold_saves = false;
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).met, MEET_SPLIT);
    assert_int_equal(world_view(w, 0).epoch.id, p);
    assert_int_equal(w->host[1].salvaged, 0);
    assert_true(history_contains(&w->host[1].disk.history, s));
}

// A crash of either end behind the epoch: the one that is kept is ahead, whenever they meet.
static void resolve_goes_on_after_a_crash_of_both(void **state)
{
    struct world *w = *state;
    become_split(w);
    uint64_t given_up = world_view(w, 0).epoch.id;
    world_heal(w);
    world_command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    while (!history_contains(&w->host[1].disk.history, given_up))
        world_run(w, 10 * NS_PER_MS);
    world_crash(w, 0);
    world_crash(w, 1);
    world_run(w, NS_PER_S);
    world_boot(w, 0, (struct end_start){0});
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 10 * NS_PER_S);
    assert_resolved(w, 1, given_up);
}

// An end whose state is damaged. Kept or not: what the other one knows is the line that goes on.
static void resolve_after_damage(void **state)
{
    for (int kept = 0; kept < 2; kept++) {
        struct world *w = world_start_pair(*state);
        world_crash(w, 0);
        world_run(w, 5 * NS_PER_S);
        assert_int_equal(world_view(w, 1).state, END_ACTIVE);
        uint64_t of_s = world_view(w, 1).epoch.id;
        w->host[0].disk = (struct end_state){0};
        world_boot(w, 0, (struct end_start){.state_unreadable = true});
        world_run(w, 3 * NS_PER_S);
        assert_int_equal(world_view(w, 0).state, END_SPLIT);
        assert_int_equal(world_view(w, 0).met, MEET_UNREADABLE);
        world_command(w, 0, COMMAND_RESOLVE, kept ? COMMAND_KEEP_SECONDARY : COMMAND_KEEP_PRIMARY);
        assert_int_equal(w->host[0].reply_status, 0);
        world_run(w, 8 * NS_PER_S);
        struct host *l = &w->host[1 - kept];
        assert_int_equal(world_view(w, kept).state, END_ACTIVE);
        assert_int_equal(world_view(w, 1 - kept).state, END_PASSIVE);
        assert_true(history_contains(&w->host[kept].disk.history, of_s));
        assert_int_equal(world_view(w, 1 - kept).inconsistent, 0);
        assert_int_equal(l->salvaged, 3);
        assert_int_equal(l->salvage_whole, 3); // what either had of the other's is not known
        assert_int_equal(l->disk.salvage, 0);
        world_crash(w, 0);
        world_crash(w, 1);
        world_anew(state);
    }
}

// There is nothing to keep on an empty end: were the damaged one to forget what it was, both would be empty, and the Primary
// would lead, whoever was named. Who means it makes the empty end serve first.
static void empty_end_beside_a_damaged_one_is_not_kept(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_crash(w, 1);
    w->host[0].disk = w->host[1].disk = (struct end_state){0};
    world_boot(w, 0, (struct end_start){.state_unreadable = true});
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).met, MEET_UNREADABLE);
    world_command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    assert_true(w->host[1].reply_status < 0);
    assert_non_null(strstr(w->host[1].reply, "empty"));
    world_run(w, 8 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SPLIT);
    assert_int_equal(world_view(w, 0).met, MEET_UNREADABLE);
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 3 * NS_PER_S);
    world_command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    assert_int_equal(w->host[1].reply_status, 0);
    world_run(w, 8 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 0).inconsistent, 0);
    assert_int_equal(w->host[0].salvaged, 3);
}

// An end that has forgotten what it was salvages everything whenever it crashes on the way: its old queue, with marks of
// resyncs that it has been through, is not looked at any more.
static void what_was_forgotten_is_salvaged_whenever_it_crashes(void **state)
{
    for (int ms = 0; ms < 700; ms += 25) {
        struct world *w = world_start_pair(*state);
        world_crash(w, 1);
        world_run(w, 5 * NS_PER_S);
        w->host[1].disk = (struct end_state){0};
        world_boot(w, 1, (struct end_start){.state_unreadable = true});
        world_run(w, 3 * NS_PER_S);
        assert_int_equal(world_view(w, 1).met, MEET_UNREADABLE);
        w->host[1].salvaged = w->host[1].salvage_whole = 0;
        world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
        world_run(w, ms * NS_PER_MS);
        bool forgot = w->host[1].disk.salvage != 0;
        world_crash(w, 1);
        if (forgot)
            w->host[1].salvaged = w->host[1].salvage_whole = 0;
        world_boot(w, 1, (struct end_start){.state_unreadable = !forgot});
        // Of a queue that was never opened nothing is heard; where it is, the marks of a former stream come again.
        if (w->host[1].disk.role == ROLE_PASSIVE && w->host[1].disk.salvage)
            host_push(&w->host[1], &(struct end_event){.type = EV_REPLICA,
                                                  .replica = {.what = FOLLOW_END, .seq = w->host[1].disk.position}});
        world_run(w, 12 * NS_PER_S);
        if (world_view(w, 1).state == END_SPLIT) { // it had not heard of the operator's word
            assert_false(forgot);
            world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
            world_run(w, 8 * NS_PER_S);
        }
        assert_int_equal(world_view(w, 1).state, END_PASSIVE);
        assert_int_equal(w->host[1].salvaged, 3);
        assert_int_equal(w->host[1].salvage_whole, 3);
        assert_int_equal(w->host[1].disk.salvage, 0);
        world_anew(state);
    }
}

// A map that is damaged in the middle of a salvage says more than what this end had alone: the salvage says that it is in doubt,
// in this run and those behind it. Where everything is kept anyway, and where there is no salvage, nothing depends on the map.
static void salvage_with_a_damaged_map_is_in_doubt(void **state)
{
    struct end_state st = {.role = ROLE_PASSIVE, .salvage = 3, .salvage_cause = SALVAGE_YIELDED, .salvage_whole = 2};
    assert_false(end_doubt_salvage(&st, 2));
    assert_false(end_doubt_salvage(&st, 4));
    assert_int_equal(st.salvage_cause, SALVAGE_YIELDED);
    assert_true(end_doubt_salvage(&st, 1));
    assert_int_equal(st.salvage_cause, SALVAGE_DOUBTFUL);
    assert_false(end_doubt_salvage(&st, 1));
    st = (struct end_state){.role = ROLE_PASSIVE, .salvage = 1, .salvage_cause = SALVAGE_RESOLVED, .map_void = 1};
    assert_true(end_doubt_salvage(&st, 0));
    st = (struct end_state){.role = ROLE_ACTIVE};
    assert_false(end_doubt_salvage(&st, 1));

    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_run(w, 6 * NS_PER_S); // S takes over
    world_crash(w, 1);
    w->host[0].disk.role = ROLE_PASSIVE; // it had begun to follow
    w->host[0].disk.salvage = w->host[0].disk.inconsistent = 3;
    w->host[0].disk.salvage_cause = SALVAGE_YIELDED;
    w->host[0].disk.salvaged = *history_current(&w->host[0].disk.history);
    world_boot(w, 0, (struct end_start){.maps_damaged = 1});
    world_run(w, NS_PER_S);
    assert_int_equal(w->host[0].disk.salvage_cause, SALVAGE_DOUBTFUL);
}

// Until the operator has decided, a damaged state stays what it is: what the end does meanwhile must not make it one that
// the next run reads as empty.
static void damaged_state_stays_so_until_it_is_decided(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 1);
    world_run(w, 5 * NS_PER_S);
    uint64_t ticket = w->host[1].ticket;
    world_boot(w, 1, (struct end_start){.state_unreadable = true});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_SPLIT);
    host_step(&w->host[1], &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_FAILED, .status = -EIO}});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(w->host[1].ticket, ticket);
    world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_PRIMARY);
    world_run(w, 8 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    assert_true(w->host[1].ticket > ticket);
}

// In a split each end's map stays what it has written on its own, which is what goes to the salvage of the one that is
// given up; but anything does where the other one has lost something that its peer may have.
static void salvage_is_of_what_was_written_alone(void **state)
{
    for (int loses = 0; loses < 2; loses++) {
        struct world *w = world_start_pair(*state);
        world_crash(w, 1);
        world_run(w, 6 * NS_PER_S);
        world_crash(w, 0);
        world_boot(w, 1, (struct end_start){0});
        world_run(w, 3 * NS_PER_S);
        world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
        world_run(w, 2 * NS_PER_S);
        w->host[0].own_map[0][0] = 5;
        w->host[1].own_map[0][0] = 9;
        world_boot(w, 0, (struct end_start){.same_boot = true});
        world_run(w, 3 * NS_PER_S);
        assert_int_equal(world_view(w, 0).state, END_SPLIT);
        assert_int_equal(w->host[0].added[0][0], 0);
        assert_int_equal(w->host[1].added[0][0], 0);
        if (loses)
            host_push(&w->host[1], &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_UNDEFINED, .object = 1}});
        world_run(w, NS_PER_S);
        assert_int_equal(w->host[1].disk.torn, loses ? 2 : 0);
        world_command(w, 0, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
        world_run(w, 5 * NS_PER_S);
        assert_int_equal(w->host[0].salvaged, 3);
        assert_int_equal(w->host[0].salvage_whole, loses ? 2 : 0);
        assert_int_equal(w->host[0].disk.salvage_whole, 0);
        assert_int_equal(w->host[1].added[0][0], 5); // for the resync
        assert_int_equal(w->host[1].disk.torn, 0);   // synchronized
        world_anew(state);
    }
}

// An old active end that yields salvages; one that has handed over in order does not.
static void only_who_held_something_alone_salvages(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[0].salvaged, 0);
    uint64_t given_up = world_view(w, 1).epoch.id;
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    assert_int_equal(w->host[1].salvaged, 3);
    assert_int_equal(w->host[1].salvage_cause, SALVAGE_YIELDED);
    assert_int_equal(w->host[1].salvaged_epoch, given_up);
}

// An end that was stopped in order knows its position exactly, but has written alone as well before.
static void who_was_stopped_in_order_salvages_what_it_wrote_alone(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    uint64_t given_up = world_view(w, 0).epoch.id;
    w->host[0].data.numbered += 5;
    world_command(w, 0, COMMAND_STOP, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_STOPPED);
    world_crash(w, 0);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, NS_PER_S);
    world_command(w, 0, COMMAND_RESUME, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SPLIT);
    assert_true(w->host[0].disk.clean);
    world_command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    world_run(w, 8 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(w->host[0].salvaged, 3);
    assert_int_equal(w->host[0].salvage_whole, 0);
    assert_int_equal(w->host[0].salvage_cause, SALVAGE_RESOLVED);
    assert_int_equal(w->host[0].salvaged_epoch, given_up);
}

// While the salvage of the passive end is full nothing is streamed to it; then it goes on by itself.
static void full_salvage_stops_the_stream(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    w->host[0].data.salvage_full = true;
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_non_null(strstr(world_view(w, 0).why, "salvage"));
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_non_null(strstr(world_view(w, 1).why, "salvage"));
    assert_true(world_view(w, 1).alone);
    assert_int_equal(w->host[1].streams, 0);
    w->host[0].data.salvage_full = false;
    world_run(w, 3 * NS_PER_S);
    assert_true(w->host[1].streams != 0);
    assert_false(world_view(w, 1).alone);
}

// It is restarted then: what it holds of the resync is replayed only when there is room, and before that it cannot meet.
// Both say what they wait for.
static void full_salvage_is_said_behind_a_restart(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    struct host *h = &w->host[0];
    uint64_t held = h->data.replica_durable;
    h->disk.role = ROLE_PASSIVE;
    h->disk.alone = false;
    h->disk.inconsistent = h->disk.salvage = 3;
    h->disk.salvage_cause = SALVAGE_YIELDED;
    h->disk.salvaged = *history_current(&h->disk.history);
    h->data.salvage_full = true;
    h->data.replica_durable = held + 40;
    world_boot(w, 0, (struct end_start){.replica_durable = held + 40});
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 0).session, 0);
    assert_non_null(strstr(world_view(w, 0).why, "queues.salvage"));
    assert_non_null(strstr(world_view(w, 1).why, "salvage"));
    assert_true(world_view(w, 1).alone);
    h->data.salvage_full = false;
    h->data.applied = held + 40;
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_false(world_view(w, 1).alone);
}

// An end whose state is lost makes both wait; what the operator then makes active is followed.
static void split_end_follows_when_it_holds_nothing_of_its_own(void **state)
{
    struct world *w = *state;
    world_boot(w, 1, (struct end_start){0});
    world_boot(w, 0, (struct end_start){.state_unreadable = true});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SPLIT);
    assert_int_equal(world_view(w, 1).state, END_SPLIT);
    world_command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    assert_true(world_view(w, 1).promotable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(both_alone_is_a_split),
        T(what_is_answered_alone_during_a_meeting_makes_a_split),
        T(resolve_keeps_the_end_that_serves),
        T(resolve_keeps_the_end_that_had_stopped),
        T(resolve_after_both_have_served),
        T(resolve_is_refused_without_a_split),
        T(resolve_is_refused_while_one_is_away),
        T(resolve_that_was_cut_off_changes_nothing),
        T(resolve_goes_on_after_a_crash_of_both),
        T(resolve_after_damage),
        T(what_was_forgotten_is_salvaged_whenever_it_crashes),
        T(empty_end_beside_a_damaged_one_is_not_kept),
        T(salvage_with_a_damaged_map_is_in_doubt),
        T(damaged_state_stays_so_until_it_is_decided),
        T(salvage_is_of_what_was_written_alone),
        T(only_who_held_something_alone_salvages),
        T(who_was_stopped_in_order_salvages_what_it_wrote_alone),
        T(full_salvage_stops_the_stream),
        T(full_salvage_is_said_behind_a_restart),
        T(split_end_follows_when_it_holds_nothing_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
