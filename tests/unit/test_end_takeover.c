// SPDX-License-Identifier: Apache-2.0
// common/end, by name: a takeover by itself or by an operator: vetoes, what it discards, and what it says of it.
// What goes wrong in between any two steps is the simulator's business.
#include "tests/unit/end_world.h"

static void silence_leads_to_a_takeover(void **state)
{
    struct world *w = world_start_pair(*state);
    int64_t at = w->now;
    world_crash(w, 0);
    while (world_view(w, 1).state != END_ACTIVE && w->now < at + 10 * NS_PER_S)
        world_run(w, 10 * NS_PER_MS);
    assert_in_range(w->now - at, 1500 * NS_PER_MS, 2700 * NS_PER_MS);
    struct end_view s = world_view(w, 1);
    assert_int_equal(s.state, END_ACTIVE);
    assert_true(s.alone);
    assert_int_equal(s.epoch.reason, EPOCH_TAKEOVER);
    assert_true(w->host[1].address && w->host[1].apps);
    assert_int_equal(w->host[1].gate, GATE_ALONE);
}

static void returning_active_yields(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_true(world_view(w, 0).promotable);
    assert_false(world_view(w, 1).alone);
    assert_int_equal(w->host[0].disk.role, ROLE_PASSIVE);
}

static void veto_keeps_the_passive_end_passive(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS;
    world_cut(w);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    assert_true(world_view(w, 1).stale_since_ns > 0);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(world_view(w, 0).alone);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
    // Healed: the stream resumes, and both are as before.
    world_heal(w);
    w->probe = 0;
    world_run(w, 5 * NS_PER_S);
    assert_true(world_view(w, 1).promotable);
    assert_false(world_view(w, 0).alone);
    assert_int_equal(world_view(w, 0).epoch.reason, EPOCH_ALONE);
}

// A disk that hangs holds the takeover up, for longer than the grant, too; it says what it waits for, is heard meanwhile,
// and goes on when the disk does.
static void takeover_says_what_it_waits_for(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[1].hold_saves = true;
    world_crash(w, 0);
    world_run(w, 20 * NS_PER_S);
    struct end_view s = world_view(w, 1);
    assert_int_equal(s.state, END_TAKING_OVER);
    assert_false(w->host[1].address);
    assert_non_null(strstr(s.why, "waits until its state is durable on this end's disk, for "));
    w->host[1].hold_saves = false;
    host_push(&w->host[1], &(struct end_event){.type = EV_SAVED, .saved.ticket = w->host[1].ticket});
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_true(w->host[1].address);
}

static void takeover_by_force_that_cannot_serve_is_answered(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    w->probe = END_VETO_ADDRESS;
    w->host[1].fail_opens = true;
    world_run(w, 10 * NS_PER_S);
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 4 * NS_PER_S);
    assert_int_equal(world_view(w, 1).operation_result, STEP_FAILED);
    assert_non_null(strstr(world_view(w, 1).operation_text, "no room for the queue"));
}

static void takeover_with_the_active_connected_is_refused(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 1, COMMAND_TAKEOVER, 0);
    assert_true(w->host[1].reply_status < 0);
    assert_non_null(strstr(w->host[1].reply, "switch"));
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
}

static void takeover_without_force_asks_the_vetoes(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS;
    world_cut(w);
    world_run(w, w->config.timeout_ns + w->config.beat_ns);
    world_command(w, 1, COMMAND_TAKEOVER, 0);
    assert_int_equal(w->host[1].reply_status, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).operation_result, STEP_FAILED);
    assert_true(world_view(w, 1).verdict->vetoes & END_VETO_ADDRESS);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
}

static void make_stale(struct world *w)
{
    world_start_pair(w);
    w->probe = END_VETO_ADDRESS; // nothing happens by itself
    world_cut(w);
    world_run(w, 10 * NS_PER_S);
    world_crash(w, 0);
    w->probe = 0;
}

static void make_mid_resync(struct world *w)
{
    world_start_pair(w);
    host_push(&w->host[1], &(struct end_event){.type = EV_REPLICA,
                                          .replica = {.what = FOLLOW_BEGIN, .seq = w->host[0].data.numbered + 1}});
    world_run(w, 100 * NS_PER_MS);
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
}

static void make_dead_replica(struct world *w)
{
    world_start_pair(w);
    host_push(&w->host[1],
              &(struct end_event){.type = EV_REPLICA,
                                  .replica = {.what = FOLLOW_FAILED, .text = "the disk is gone"}});
    world_run(w, 100 * NS_PER_MS);
    world_crash(w, 0);
    world_run(w, 3 * NS_PER_S);
}

static void make_probed(struct world *w)
{
    world_start_pair(w);
    world_crash(w, 0);
    world_run(w, w->config.timeout_ns + w->config.beat_ns);
}

static void make_own_store(struct world *w)
{
    world_start_pair(w);
    world_command(w, 0, COMMAND_SWITCH, 0);
    world_run(w, 5 * NS_PER_S);
    world_crash(w, 0);
    world_crash(w, 1);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
}

static void make_split(struct world *w)
{
    world_start_pair(w);
    world_crash(w, 0);
    world_run(w, 6 * NS_PER_S); // S takes over, and is alone
    world_crash(w, 1);
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    world_command(w, 0, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 2 * NS_PER_S);
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_SPLIT);
    world_crash(w, 0);
    world_run(w, 3 * NS_PER_S);
}

static void make_damaged(struct world *w)
{
    world_start_pair(w);
    world_crash(w, 0);
    world_crash(w, 1);
    world_boot(w, 1, (struct end_start){.state_unreadable = true});
    world_run(w, 3 * NS_PER_S);
}

static void make_empty(struct world *w)
{
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
}

static void make_short(struct world *w)
{
    make_stale(w);
    w->host[1].short_finish = true;
}

// An end with a replaced disk that is told to serve has lost whatever its peer had sent it, and was settled: that is kept
// from the peer's store, though the peer's map says nothing of it.
static void who_serves_from_nothing_has_lost_everything(void **state)
{
    struct world *w = world_start_pair(*state);
    assert_int_equal(w->host[0].disk.torn, 0); // a first start: there was nothing to be lost
    world_crash(w, 1);
    world_run(w, 6 * NS_PER_S);
    w->host[1].disk = (struct end_state){0};
    w->host[1].data = (struct end_data){.waypoint_ns = 0};
    w->cut[0] = w->cut[1] = w->two_serve = true;
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 3 * NS_PER_S);
    world_takeover(w, COMMAND_FORCE | COMMAND_INCONSISTENT, 0);
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[1].disk.torn, 3);
    w->host[0].own_map[0][0] = 5;
    world_heal(w);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).met, MEET_SPLIT);
    world_command(w, 1, COMMAND_RESOLVE, COMMAND_KEEP_SECONDARY);
    world_run(w, 8 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(w->host[0].salvaged, 3);
    assert_int_equal(w->host[0].salvage_whole, 3);
    assert_int_equal(w->host[1].disk.torn, 0); // synchronized
}

// Likewise one whose queue does not reach what it had confirmed, and one whose state cannot be read.
static void what_was_settled_and_is_gone_is_told(void **state)
{
    struct world *w = *state;
    make_short(w);
    world_takeover(w, COMMAND_FORCE, END_VETO_LOSS);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[1].disk.torn, 3);
    w = world_start_pair(world_anew(state));
    world_crash(w, 0);
    world_crash(w, 1);
    w->host[1].disk = (struct end_state){0};
    world_boot(w, 1, (struct end_start){.state_unreadable = true});
    world_run(w, 3 * NS_PER_S);
    world_takeover(w, COMMAND_FORCE, 0);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[1].disk.torn, 3);
    w = world_start_pair(world_anew(state));
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(w->host[1].disk.torn, 0); // it had everything
}

// In the middle of a resync the active end is stopped in order, and the other one is told to serve as it is. That both were at
// one position does not make them equal: what was left to resync is gone over, and what the first one has is kept before.
static void who_serves_from_the_middle_of_a_resync_lacks_what_was_left(void **state)
{
    struct world *w = world_start_pair(*state);
    host_push(&w->host[1], &(struct end_event){.type = EV_REPLICA,
                                          .replica = {.what = FOLLOW_BEGIN, .seq = w->host[0].data.numbered + 1}});
    world_run(w, 100 * NS_PER_MS);
    assert_int_not_equal(world_view(w, 1).inconsistent, 0);
    world_command(w, 0, COMMAND_SHUTDOWN, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_STOPPED);
    assert_true(w->host[0].disk.clean);
    world_crash(w, 0);
    world_run(w, 3 * NS_PER_S);
    world_takeover(w, COMMAND_FORCE | COMMAND_INCONSISTENT, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    w->host[0].own_map[0][0] = 0xff00;
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 9 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).met, MEET_BY_MAP);
    assert_int_equal(w->host[1].added[0][0], 0xff00);
    assert_int_equal(w->host[0].salvaged, 3);
    assert_int_equal(w->host[0].salvage_whole, 3);
    assert_true(world_view(w, 0).promotable);
    assert_int_equal(w->host[1].disk.torn, 0);
}

// Each veto stands in its situation, refuses, is named with a sentence, refuses still when everything else is overridden,
// and is overridden by its name together with the others that stood.
static void every_veto_is_named_and_overridden_by_its_name(void **state)
{
    static const struct {
        uint32_t veto;
        void (*make)(struct world *);
    } rows[] = {
        {END_VETO_GRANT, make_stale},         {END_VETO_INCONSISTENT, make_mid_resync},
        {END_VETO_REPLICA, make_dead_replica}, {END_VETO_ADDRESS, make_probed},
        {END_VETO_MANAGEMENT, make_probed},   {END_VETO_WAYPOINT, make_probed},
        {END_VETO_ARBITER, make_probed},      {END_VETO_PROBE, make_probed},
        {END_VETO_OWN_STORE, make_own_store}, {END_VETO_SPLIT, make_split},
        {END_VETO_STATE, make_damaged},       {END_VETO_EMPTY, make_empty},
        {END_VETO_LOSS, make_short},
    };
    assert_int_equal(ARRAY_LEN(rows), END_VETO_COUNT);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct world *w = world_anew(state);
        uint32_t veto = rows[i].veto;
        unsigned resync = veto == END_VETO_INCONSISTENT ? COMMAND_INCONSISTENT : 0;
        const char *name = end_veto_name(i);
        assert_int_equal(end_veto_find(name, strlen(name)), veto);
        if (rows[i].make == make_probed)
            w->probe = veto;
        rows[i].make(w);
        // What shows only on the way needs the rest to be overridden first.
        world_takeover(w, 0, veto == END_VETO_LOSS ? END_VETO_GRANT : 0);
        struct end_view v = world_view(w, 1);
        assert_int_not_equal(v.state, END_ACTIVE);
        assert_int_equal(v.operation_result, STEP_FAILED);
        uint32_t stood = v.verdict->vetoes;
        assert_true(stood & veto);
        assert_true(v.verdict->text[i][0] && v.verdict->age[0]);
        if (veto != END_VETO_LOSS)
            assert_non_null(strstr(v.operation_text, name));
        world_takeover(w, COMMAND_FORCE * (veto == END_VETO_INCONSISTENT), ~veto);
        assert_int_not_equal(world_view(w, 1).state, END_ACTIVE);
        world_takeover(w, resync, stood);
        if (world_view(w, 1).state != END_ACTIVE) // the grant ran out meanwhile
            world_takeover(w, resync, world_view(w, 1).verdict->vetoes);
        v = world_view(w, 1);
        assert_int_equal(v.state, END_ACTIVE);
        assert_int_equal(v.operation_result, STEP_DONE);
        assert_true(v.verdict->overridden & veto);
        assert_int_equal(v.verdict->overridden, v.verdict->vetoes);
    }
    assert_null(end_veto_name(END_VETO_COUNT));
    assert_int_equal(end_veto_find("gran", 4), 0);
}

// `--force` alone overrides whatever stands, and says what; a mid-resync it does not.
static void force_overrides_what_stands_and_says_what(void **state)
{
    struct world *w = *state;
    make_stale(w);
    w->probe = END_VETO_ADDRESS | END_VETO_WAYPOINT;
    world_takeover(w, COMMAND_FORCE, 0);
    struct end_view v = world_view(w, 1);
    assert_int_equal(v.state, END_ACTIVE);
    assert_int_equal(v.verdict->overridden, END_VETO_GRANT | END_VETO_ADDRESS | END_VETO_WAYPOINT);
    assert_true(v.verdict->loss_known && v.verdict->age_ns >= 8 * NS_PER_S);
    assert_non_null(strstr(v.verdict->age, "not known"));
}

// What the active end had told of and is not here is counted.
static void age_of_a_takeover_counts_what_was_told(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS;
    w->host[0].streams = 0; // nothing arrives any more
    w->host[0].data.numbered += 7;
    w->host[0].data.backlog = 7000;
    w->host[0].data.behind = 9000;
    world_run(w, 600 * NS_PER_MS);
    assert_int_equal(world_view(w, 1).peer_behind, 9000);
    world_crash(w, 0);
    world_run(w, 2200 * NS_PER_MS);
    world_takeover(w, 0, 0);
    struct end_view v = world_view(w, 1);
    assert_int_equal(v.verdict->vetoes, END_VETO_ADDRESS);
    assert_int_equal(v.verdict->records, 7);
    assert_int_equal(v.verdict->bytes, 7000);
    assert_null(strstr(v.verdict->age, "not known"));
}

// Where no grant is ever given, a synchronized passive end needs no force; but it takes over at a word only.
static void manual_takeover_of_a_synchronized_end_needs_no_force(void **state)
{
    struct world *w = *state;
    w->config.automatic = false;
    world_start_pair(w);
    assert_false(world_view(w, 1).granted);
    world_crash(w, 0);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    world_takeover(w, 0, 0);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(world_view(w, 1).verdict->vetoes, 0);
    assert_true(world_view(w, 1).verdict->age[0]);
}

static void manual_takeover_behind_an_end_that_was_alone_is_refused(void **state)
{
    struct world *w = *state;
    w->config.automatic = false;
    world_start_pair(w);
    world_command(w, 0, COMMAND_PAUSE, 0);
    world_run(w, 3 * NS_PER_S);
    world_crash(w, 0);
    world_run(w, 10 * NS_PER_S);
    world_takeover(w, 0, 0);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).verdict->vetoes, END_VETO_GRANT);
}

// A takeover discards what lies behind the valid prefix only when the regions of that are durably in this end's own map;
// its epoch comes behind that. A crash on the way: the next takeover goes the same way.
static void what_a_takeover_discards_is_in_the_map_first(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    uint64_t map[2][2] = {{0xf0, 0}, {UINT64_C(1) << 63, 3}};
    world_start_pair(w);
    h->discards = h->hold_map = true;
    memcpy(h->lost_map, map, sizeof(map));
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_TAKING_OVER);
    assert_memory_equal(h->added, map, sizeof(map));
    assert_int_equal(h->discarded, 0);
    assert_int_equal(h->disk.role, ROLE_PASSIVE);
    // The word of another sync counts for nothing.
    host_push(h, &(struct end_event){.type = EV_MAP, .map = {.what = MAP_EV_DURABLE, .ticket = 99}});
    world_run(w, NS_PER_S);
    assert_int_equal(h->discarded, 0);
    world_crash(w, 1);
    memset(h->added, 0, sizeof(h->added));
    h->hold_map = false;
    world_boot(w, 1, (struct end_start){.replica_durable = h->data.replica_durable});
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(h->discarded, 0);
    world_takeover(w, COMMAND_FORCE, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(h->discarded, 1);
    assert_memory_equal(h->durable_map, map, sizeof(map));
    assert_int_equal(h->disk.map_void, 0);
    assert_int_equal(h->fills, 0);
}

// A safe queue that took nothing yet, for want of room say, does not keep an end from being told to serve.
static void a_queue_that_has_not_begun_says_nothing_of_the_position(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    w->config.automatic = false;
    world_start_pair(w);
    world_crash(w, 0);
    world_run(w, 5 * NS_PER_S);
    h->data.replica_durable = 0;
    world_takeover(w, COMMAND_FORCE | COMMAND_INCONSISTENT, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    const struct epoch *epoch = history_current(&h->disk.history);
    assert_true(epoch->parent[0].seq == EPOCH_SEQ_UNKNOWN);
    assert_int_equal(h->disk.torn, 3);
    assert_true(h->fills > 0);
}

// Where nobody knows which regions they are: everything counts as set, durably, before it is discarded.
static void what_a_takeover_discards_may_be_unknown(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    world_start_pair(w);
    unsigned fills = h->fills;
    h->discards = h->unknown = h->hold_good = true;
    world_crash(w, 0);
    world_run(w, 8 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(h->discarded, 1);
    assert_int_equal(h->disk.map_void, 3);
    assert_true(h->fills > fills);
}

// A replica that has failed is replayed as far as it is whole when an operator wants it; where that fails, too, the map
// counts as wholly set.
static void a_dead_replica_is_replayed_as_far_as_it_goes(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[1];
    make_dead_replica(w);
    h->discards = true;
    h->lost_map[0][0] = 4;
    uint64_t durable = h->data.replica_durable;
    world_takeover(w, COMMAND_FORCE, 0);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_int_equal(h->discarded, 1);
    assert_int_equal(h->disk.map_void, 0);
    const struct epoch *epoch = history_current(&h->disk.history);
    assert_int_equal(epoch->parent[0].seq, durable);
}

// The answer of the vetoes comes when the active end is back: nothing is taken over.
static void takeover_is_given_up_when_the_active_is_heard_again(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS;
    world_cut(w);
    world_run(w, 10 * NS_PER_S);
    w->host[1].hold_probes = true;
    world_takeover(w, COMMAND_FORCE, 0);
    world_heal(w);
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    assert_int_equal(world_view(w, 1).operation_result, STEP_FAILED);
    assert_non_null(strstr(world_view(w, 1).operation_text, "switch"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(silence_leads_to_a_takeover),
        T(returning_active_yields),
        T(veto_keeps_the_passive_end_passive),
        T(takeover_with_the_active_connected_is_refused),
        T(takeover_says_what_it_waits_for),
        T(takeover_by_force_that_cannot_serve_is_answered),
        T(what_a_takeover_discards_is_in_the_map_first),
        T(what_a_takeover_discards_may_be_unknown),
        T(a_queue_that_has_not_begun_says_nothing_of_the_position),
        T(a_dead_replica_is_replayed_as_far_as_it_goes),
        T(takeover_without_force_asks_the_vetoes),
        T(who_serves_from_nothing_has_lost_everything),
        T(what_was_settled_and_is_gone_is_told),
        T(who_serves_from_the_middle_of_a_resync_lacks_what_was_left),
        T(every_veto_is_named_and_overridden_by_its_name),
        T(force_overrides_what_stands_and_says_what),
        T(age_of_a_takeover_counts_what_was_told),
        T(manual_takeover_of_a_synchronized_end_needs_no_force),
        T(manual_takeover_behind_an_end_that_was_alone_is_refused),
        T(takeover_is_given_up_when_the_active_is_heard_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
