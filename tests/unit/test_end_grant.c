// SPDX-License-Identifier: Apache-2.0
// common/end, by name: the grant, going alone and becoming paired again; what frames and heartbeats count for.
// What goes wrong in between any two steps is the simulator's business.
#include "tests/unit/end_world.h"

// The passive end was held up until its grant was over (a machine that did nothing for seconds). What the active end has
// done since it does not know: it may be alone, and acknowledge. So it does not take over, however long the silence lasts,
// and says why; an operator may, and the active end, once it is back, grants again.
static void grant_that_ran_out_unasked_is_no_takeover(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[1].hold_probes = true;
    world_crash(w, 0);
    world_run(w, 10 * NS_PER_S);
    w->host[1].hold_probes = false;
    world_run(w, 100 * NS_PER_S);
    struct end_view s = world_view(w, 1);
    assert_int_equal(s.state, END_PASSIVE);
    assert_true(s.stale_since_ns > 0 && !s.granted);
    assert_non_null(strstr(s.why, "the grant has run out"));
    assert_non_null(strstr(s.why, "pairctl takeover"));
    // The active end comes back: as before.
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 6 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    assert_true(world_view(w, 1).granted && world_view(w, 1).promotable);
    assert_int_equal(world_view(w, 1).stale_since_ns, 0);
    // And the operator's way.
    w->host[1].hold_probes = true;
    world_crash(w, 0);
    world_run(w, 10 * NS_PER_S);
    w->host[1].hold_probes = false;
    world_command(w, 1, COMMAND_TAKEOVER, COMMAND_FORCE);
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
}

static void goodbye_lets_the_active_go_alone_at_once(void **state)
{
    struct world *w = world_start_pair(*state);
    host_push(&w->host[1], &(struct end_event){.type = EV_TERMINATE});
    world_run(w, 100 * NS_PER_MS);
    assert_true(w->host[1].exited);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// The guard's word for a daemon that was killed.
static void goodbye_of_the_guard_lets_the_active_go_alone_at_once(void **state)
{
    struct world *w = world_start_pair(*state);
    assert_true(w->host[1].goodbye && !w->host[0].goodbye);
    uint64_t run_of_peer = world_view(w, 0).peer_run;
    host_push(&w->host[0], &(struct end_event){.type = EV_PEER_GONE, .gone.run = run_of_peer + 1}); // of another run
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[0].gate, GATE_PAIRED);
    world_crash(w, 1);
    host_push(&w->host[0], &(struct end_event){.type = EV_PEER_GONE, .gone.run = run_of_peer});
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// What a run that has ended had sent, and what arrives behind its goodbye, counts no more.
static void late_frame_behind_the_goodbye_counts_for_nothing(void **state)
{
    struct world *w = world_start_pair(*state);
    w->cut[1] = true;
    world_run(w, 500 * NS_PER_MS);
    static struct frame late;
    late = w->host[1].late;
    uint64_t run_of_peer = world_view(w, 0).peer_run;
    assert_int_equal(late.run, run_of_peer);
    world_crash(w, 1);
    host_push(&w->host[0], &(struct end_event){.type = EV_PEER_GONE, .gone.run = run_of_peer});
    world_run(w, 10 * NS_PER_MS);
    host_push(&w->host[0], &(struct end_event){.type = EV_FRAME, .frame = {.path = 0, .frame = &late}});
    world_run(w, 100 * NS_PER_MS);
    assert_false(world_view(w, 0).connected);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
    w->cut[1] = false;
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    assert_true(world_view(w, 1).granted);
}

// A restarted active end may hear a late frame of an old run first, and its late goodbye: another one holds the grant.
static void goodbye_of_a_run_that_never_echoed_counts_for_nothing(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    world_start_pair(w);
    struct end_start start = {.same_boot = true,
                              .echo_sent_ns = world_view(w, 0).echo_sent_ns,
                              .queue_found = true,
                              .queue_numbered = h->data.numbered,
                              .queue_epoch = h->epoch.id};
    world_end_daemon(w, 0);
    world_cut(w);
    world_boot(w, 0, start);
    struct frame old = {.type = FRAME_BEAT, .run = 0x777, .beat = {.number = 1, .sent_ns = w->now - NS_PER_MS}};
    host_step(h, &(struct end_event){.type = EV_FRAME, .frame = {.frame = &old}});
    assert_int_equal(world_view(w, 0).peer_run, 0x777);
    host_push(h, &(struct end_event){.type = EV_PEER_GONE, .gone.run = 0x777});
    world_run(w, 100 * NS_PER_MS);
    assert_true(world_view(w, 1).granted && world_view(w, 0).granted);
    assert_int_not_equal(h->gate, GATE_ALONE);
}

// From the other side: whoever has taken over is nobody's to say goodbye for.
static void goodbye_is_destroyed_before_the_epoch(void **state)
{
    struct world *w = world_start_pair(*state);
    assert_true(w->host[1].goodbye);
    world_crash(w, 0);
    world_run(w, 10 * NS_PER_S); // act() holds every save against it
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    assert_false(w->host[1].goodbye);
}

static void nothing_is_answered_alone_before_it_is_durable(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[0].hold_saves = true;
    world_crash(w, 1);
    world_run(w, 10 * NS_PER_S);
    assert_int_not_equal(w->host[0].gate, GATE_ALONE);
}

// On the way to that it is neither alone nor paired, though it hears the peer all the time; and the
// peer knows.
static void going_alone_is_not_paired(void **state)
{
    struct world *w = world_start_pair(*state);
    assert_true(world_view(w, 0).paired && world_view(w, 1).paired);
    w->host[0].hold_saves = true;
    world_command(w, 0, COMMAND_PAUSE, 0);
    world_run(w, 3 * NS_PER_S);
    assert_true(world_view(w, 0).connected && world_view(w, 1).connected);
    assert_false(world_view(w, 0).alone);
    assert_false(world_view(w, 0).paired || world_view(w, 1).paired);
    w->host[0].hold_saves = false;
    host_step(&w->host[0],
              &(struct end_event){.type = EV_SAVED, .saved = {.ticket = w->host[0].ticket}});
    world_run(w, 1 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    world_command(w, 0, COMMAND_RESUME, 0);
    world_run(w, 3 * NS_PER_S);
    assert_true(world_view(w, 0).paired && world_view(w, 1).paired);
    world_crash(w, 1);
    world_run(w, 3 * NS_PER_S);
    assert_false(world_view(w, 0).paired);
}

// An end that has opened its epoch, and is stopped before it serves, has nothing to say good bye for: whoever is
// suspended must not take that for "holds no grant".
static void no_goodbye_once_the_epoch_is_opened(void **state)
{
    struct world *w = world_start_pair(*state);
    world_isolate(w, 0);
    w->host[1].hold_opens = true;
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_int_equal(world_view(w, 1).state, END_TAKING_OVER);
    assert_true(w->host[1].address);
    world_rejoin(w, 0);
    host_push(&w->host[1], &(struct end_event){.type = EV_TERMINATE});
    world_run(w, 4 * NS_PER_S);
    assert_true(w->host[1].exited);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_false(w->host[0].address);
}

// Nor has a later run of it: that one holds no grant, but a former one has used it.
static void no_goodbye_of_an_end_that_was_active(void **state)
{
    struct world *w = world_start_pair(*state);
    world_isolate(w, 0);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    world_crash(w, 1);
    world_boot(w, 1, (struct end_start){0});
    uint64_t run_of_peer = (uint64_t)w->now + 101;
    assert_int_equal(world_view(w, 1).state, END_WAITING);
    world_rejoin(w, 0);
    while (world_view(w, 0).peer_run != run_of_peer || !world_view(w, 0).connected)
        world_run(w, NS_PER_MS);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED); // they have not met yet
    assert_false(w->host[1].goodbye);
    host_push(&w->host[1], &(struct end_event){.type = EV_TERMINATE});
    world_run(w, 4 * NS_PER_S);
    assert_true(w->host[1].exited);
    assert_int_not_equal(world_view(w, 0).state, END_ACTIVE);
    assert_false(w->host[0].address);
}

// A gate that holds `durable` and one that holds `applied` may wait at the same time.
static void two_gates_wait_at_a_time(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *h = &w->host[1];
    struct end_view v = world_view(w, 1);
    struct epoch epoch = v.epoch;
    epoch.number++;
    epoch.parents = 1;
    epoch.parent[0] = (struct epoch_parent){v.epoch.id, 100};
    epoch.id = 77;
    epoch.first_seq = 101;
    h->hold_saves = true;
    h->consents = 0;
    host_step(h, &(struct end_event){.type = EV_REPLICA,
                                .replica = {.what = FOLLOW_BEGIN, .object = 0, .seq = 90}});
    host_step(h, &(struct end_event){.type = EV_REPLICA,
                                .replica = {.what = FOLLOW_EPOCH, .epoch = &epoch, .seq = 101}});
    assert_int_equal(h->consents, 0);
    h->hold_saves = false;
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved = {.ticket = h->ticket}});
    assert_int_equal(h->consents, 2);
}

static void beat_of_a_run(struct world *w, uint64_t run, uint64_t echo)
{
    struct host *h = &w->host[0];
    struct frame f = {.type = FRAME_BEAT, .run = run, .to_run = world_view(w, 1).peer_run};
    f.beat.number = 1;
    f.beat.sent_ns = w->now - 10 * NS_PER_MS;
    f.beat.echo_number = echo;
    f.beat.echo_sent_ns = w->now - 20 * NS_PER_MS;
    host_step(h, &(struct end_event){.type = EV_FRAME, .frame = {.frame = &f}});
}

// A frame that was under way for long, of a run that was never known and has ended since, is no restart of the peer: what
// the present run was promised stands, and it goes on being heard.
static void late_frame_of_an_unknown_run_is_no_restart(void **state)
{
    struct world *w = world_start_pair(*state);
    uint64_t run_now = world_view(w, 0).peer_run;
    assert_true(world_view(w, 0).granted);
    beat_of_a_run(w, 0x777, 1);
    assert_int_equal(world_view(w, 0).peer_run, run_now);
    assert_true(world_view(w, 0).granted);
    world_run(w, 3 * NS_PER_S);
    assert_int_equal(world_view(w, 0).peer_run, run_now);
    assert_true(world_view(w, 1).promotable);
}

static void paused_end_sends_nothing(void **state)
{
    struct world *w = world_start_pair(*state);
    world_command(w, 0, COMMAND_PAUSE, 0);
    world_run(w, 2 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    assert_int_equal(w->host[0].streams, 0);
    w->host[0].data.numbered += 7;
    world_run(w, 5 * NS_PER_S);
    assert_true(w->host[1].data.replica_durable < w->host[0].data.numbered);
    world_command(w, 0, COMMAND_RESUME, 0);
    world_run(w, 5 * NS_PER_S);
    assert_int_equal(world_view(w, 0).met, MEET_RESUME);
    assert_false(world_view(w, 0).alone);
    assert_true(world_view(w, 1).promotable);
}

static void nothing_is_promised_without_a_guard(void **state)
{
    struct world *w = *state;
    w->host[0].data.unguarded = true;
    world_start_pair(w);
    assert_false(world_view(w, 1).granted || world_view(w, 0).granted);
    assert_false(world_view(w, 0).alone);
    w->host[0].data.unguarded = false;
    world_run(w, NS_PER_S);
    assert_true(world_view(w, 1).granted);
}

// A restarted end counts its heartbeats anew. Where each no of its first session is lost, the peer takes a yes that has a
// lower number than the no of the former run, which it has long confirmed: that was for another session.
static void confirmation_of_a_former_session_counts_for_nothing(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, 20 * NS_PER_S);
    struct host *h = &w->host[0];
    host_push(h, &(struct end_event){.type = EV_TERMINATE});
    world_run(w, NS_PER_S);
    assert_true(h->exited);
    world_end_daemon(w, 0);
    h->lose_noes = true;
    world_boot_again(w, 0, w->now, true);
    for (int i = 0; i < 400; i++) {
        world_run(w, 10 * NS_PER_MS);
        if (world_view(w, 1).granted)
            assert_true(world_view(w, 0).granted);
    }
    assert_true(world_view(w, 1).granted);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
}

// A yes that was long under way runs from when the heartbeat was sent that it answers, not from its arrival: by then the
// active end may hold the grant for over.
static void a_late_yes_does_not_last_longer(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS; // nobody takes over
    world_cut(w);
    world_run(w, 300 * NS_PER_MS);
    struct frame late = w->host[0].late;
    assert_int_equal(late.beat.answer, ANSWER_YES);
    world_command(w, 0, COMMAND_PAUSE, 0); // it says no from now on, which is lost
    world_run(w, 1200 * NS_PER_MS);
    assert_int_equal(world_view(w, 1).state, END_PASSIVE);
    host_push(&w->host[1], &(struct end_event){.type = EV_FRAME, .frame = {.path = 0, .frame = &late}});
    bool held = true;
    for (int i = 0; i < 800 && held; i++) {
        world_run(w, 10 * NS_PER_MS);
        held = world_view(w, 1).granted;
        assert_true(!held || world_view(w, 0).granted);
    }
    assert_false(held);
}

// The clocks may drift: the active end waits for a margin longer than the grant lasts.
static void going_alone_waits_for_the_margin(void **state)
{
    struct world *w = world_start_pair(*state);
    w->probe = END_VETO_ADDRESS;
    world_cut(w);
    while (w->host[0].gate != GATE_ALONE && w->now < 2000 * NS_PER_S)
        world_run(w, 10 * NS_PER_MS);
    int64_t waited = w->now - w->host[0].yes_ns;
    int64_t grant = w->config.timeout_ns + w->config.decision_ns;
    assert_in_range(waited, grant + w->config.margin_ns, grant + w->config.margin_ns + NS_PER_S);
}

// Its lease ran out first, then the grant, both while it was not scheduled: whoever took over in between it has not seen.
static void lease_that_ends_before_the_grant_counts(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    world_start_pair(w);
    w->probe = END_VETO_ADDRESS; // nobody takes over here: it could have
    world_cut(w);
    world_run(w, 3 * NS_PER_S); // it says yes no more
    int64_t over = h->yes_ns + w->config.timeout_ns + w->config.decision_ns + w->config.margin_ns;
    world_run(w, over - 400 * NS_PER_MS - w->now);
    assert_int_equal(world_view(w, 0).state, END_ACTIVE);
    h->up = w->waypoint[0] = false;
    world_run(w, 600 * NS_PER_MS);
    h->up = true;
    host_step(h, &(struct end_event){.type = EV_TICK});
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
}

// Back to paired: what it has answered alone is durable on the peer before it says so, or grants anything.
static void joining_waits_until_the_peer_has_all(void **state)
{
    struct world *w = *state;
    struct host *h = &w->host[0];
    world_start_pair(w);
    world_command(w, 0, COMMAND_PAUSE, 0);
    world_run(w, 3 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    h->data.numbered += 7;
    w->hold_stream = true;
    world_command(w, 0, COMMAND_RESUME, 0);
    world_run(w, 1500 * NS_PER_MS);
    assert_int_equal(h->gate, GATE_PAIRED); // nothing more is answered alone
    assert_true(h->disk.alone);
    assert_false(world_view(w, 1).granted);
    w->hold_stream = false;
    world_run(w, 1500 * NS_PER_MS);
    assert_false(h->disk.alone);
    assert_true(world_view(w, 1).granted);
}

// Behind the end of a resync the passive end has everything when that is applied; durable in its queue is not enough.
static void synchronized_is_what_is_applied(void **state)
{
    struct world *w = *state;
    w->hold_apply = true;
    world_start_pair(w);
    assert_int_equal(w->host[0].resyncs, 1);
    assert_int_equal(w->host[0].data.durable, w->host[0].data.numbered);
    assert_false(world_view(w, 0).synchronized);
    assert_true(w->host[0].disk.pending != 0);
    w->hold_apply = false;
    world_run(w, NS_PER_S);
    assert_true(world_view(w, 0).synchronized);
    assert_int_equal(w->host[0].disk.pending, 0);
}

// An answer is a heartbeat, too: three frames an interval, and each end hears a young echo each interval.
static void answers_are_heartbeats(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, 2 * NS_PER_S);
    struct host *a = &w->host[0], *b = &w->host[1];
    a->beats = a->asking = b->beats = b->asking = 0;
    for (int i = 0; i < 40 * 5; i++) {
        world_run(w, w->config.beat_ns / 5);
        for (int h = 0; h < 2; h++)
            assert_true(w->now - world_view(w, h).heard_ns <= w->config.beat_ns * 3 / 2);
    }
    assert_in_range(a->asking, 36, 41);
    assert_in_range(b->asking, 36, 41);
    assert_in_range(a->beats + b->beats, 108, 123);
}

// Who hears nothing goes on by itself.
static void heartbeats_go_on_without_answers(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, 2 * NS_PER_S);
    w->cut[1] = true;
    w->host[0].asking = 0;
    world_run(w, w->config.timeout_ns);
    assert_true(w->host[0].asking >= w->config.timeout_ns / w->config.beat_ns - 2);
}

// It would not use a grant: so it is given none, and the active end does not tell of a peer that may take over.
static void who_does_not_apply_is_given_no_grant(void **state)
{
    struct world *w = world_start_pair(*state);
    world_run(w, NS_PER_S);
    assert_true(world_view(w, 0).granted && world_view(w, 1).granted);
    world_command(w, 1, COMMAND_PAUSE, COMMAND_REPLAY);
    world_run(w, NS_PER_S);
    assert_false(world_view(w, 0).granted);
    assert_false(world_view(w, 1).granted);
    assert_non_null(strstr(world_view(w, 0).why, "replay is paused"));
    assert_false(world_view(w, 0).alone);
    world_command(w, 1, COMMAND_RESUME, COMMAND_REPLAY);
    world_run(w, NS_PER_S);
    assert_true(world_view(w, 0).granted && world_view(w, 1).granted);
}

// What an operator has paused is the sending of the end that was active then: not what becomes of that end.
static void a_pause_ends_with_the_role(void **state)
{
    struct world *w = world_start_pair(*state);
    world_isolate(w, 0);
    world_command(w, 0, COMMAND_PAUSE, 0);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_SUSPENDED);
    assert_true(world_view(w, 0).paused);
    assert_int_equal(world_view(w, 1).state, END_ACTIVE);
    world_rejoin(w, 0);
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(world_view(w, 0).state, END_PASSIVE);
    assert_false(world_view(w, 0).paused);
    assert_true(world_view(w, 1).granted && world_view(w, 0).promotable);
}

// A replica that is opened again and again raises its gates each time, also while no save succeeds.
static void gates_of_replicas_that_were_closed_do_not_pile_up(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *s = &w->host[1];
    s->hold_saves = true;
    for (unsigned i = 0; i < 20; i++)
        host_step(s, &(struct end_event){
                    .type = EV_REPLICA,
                    .replica = {.what = FOLLOW_BEGIN, .object = 0, .seq = s->data.replica_durable + 1 + i % 2}});
    s->hold_saves = false;
    assert_int_equal(world_view(w, 1).inconsistent & 1, 1);
}

// DESIGN §4: a full safe queue ends the grant, and the active end goes on alone until there is room again.
static void full_safe_queue_ends_the_grant(void **state)
{
    struct world *w = world_start_pair(*state);
    w->host[1].data.full = true;
    world_run(w, 6 * NS_PER_S);
    assert_false(world_view(w, 1).granted);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
    w->host[1].data.full = false;
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 1).promotable);
    assert_false(world_view(w, 0).alone);
}

// Answers go on until `alone` is durable, however long that takes, and are not held for the epoch's.
static void no_answer_waits_for_a_disk_in_async(void **state)
{
    struct world *w = *state;
    w->config.mode = END_ASYNC;
    world_start_pair(w);
    world_crash(w, 1);
    w->host[0].hold_saves = true;
    world_run(w, 10 * NS_PER_S);
    assert_int_equal(w->host[0].gate, GATE_PAIRED); // in `async` nothing waits there
    assert_true(w->host[0].disk.alone);
    host_step(&w->host[0], &(struct end_event){.type = EV_SAVED, .saved.ticket = w->host[0].ticket});
    world_run(w, 100 * NS_PER_MS);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
    assert_int_equal(world_view(w, 0).epoch.reason, EPOCH_ALONE);
    // The peer hears of the epoch when it is durable.
    world_boot(w, 1, (struct end_start){0});
    world_run(w, 2 * NS_PER_S);
    assert_int_equal(world_view(w, 1).session, 0);
    w->host[0].hold_saves = false;
    host_step(&w->host[0], &(struct end_event){.type = EV_SAVED, .saved.ticket = w->host[0].ticket});
    world_run(w, 5 * NS_PER_S);
    assert_true(world_view(w, 1).promotable);
}

// Nor does a peer that the stream still goes to hear of the epoch before: if this end crashed, its peer would know more of
// its history than it does itself.
static void nobody_hears_of_an_epoch_before_it_is_durable(void **state)
{
    struct world *w = *state;
    w->config.mode = END_ASYNC;
    world_start_pair(w);
    struct host *h = &w->host[0];
    h->hold_saves = h->resync_silent = true;
    world_command(w, 0, COMMAND_RESYNC, 0);
    world_run(w, NS_PER_S);
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket}); // `alone`
    world_run(w, NS_PER_S);
    assert_int_equal(h->gate, GATE_ALONE);
    assert_int_equal(world_view(w, 0).epoch.reason, EPOCH_ALONE);
    assert_true(h->streams);
    assert_int_equal(world_view(w, 1).epoch.number, 1);
    h->hold_saves = false;
    host_step(h, &(struct end_event){.type = EV_SAVED, .saved.ticket = h->ticket});
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 1).epoch.number, 2);
    assert_int_equal(world_view(w, 1).epoch.id, world_view(w, 0).epoch.id);
}

static void stalled_peer_is_noticed_in_async(void **state)
{
    struct world *w = *state;
    w->config.mode = END_ASYNC;
    world_start_pair(w);
    w->host[1].follows = 999; // connected, and takes nothing
    w->host[0].data.numbered += 5;
    world_run(w, NS_PER_S);
    assert_false(world_view(w, 0).alone);
    w->host[0].data.lagging = true; // the oldest has waited for T
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 0).alone && world_view(w, 0).connected);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// A link that was too slow is relied on again when it has kept up for a while, and not between two bursts.
static void slow_link_is_trusted_again_after_a_while(void **state)
{
    struct world *w = *state;
    w->config.alone_when_slow = true;
    world_start_pair(w);
    world_run(w, 12 * NS_PER_S);
    assert_false(world_view(w, 0).alone);
    w->host[0].data.lagging = true;
    world_run(w, 6 * NS_PER_S);
    assert_true(world_view(w, 0).alone);
    for (int i = 0; i < 2; i++) {
        w->host[0].data.lagging = false;
        world_run(w, 8 * NS_PER_S);
        assert_true(world_view(w, 0).alone);
        assert_non_null(strstr(world_view(w, 0).why, "stayed small for 10 s"));
        w->host[0].data.lagging = i == 0;
        world_run(w, NS_PER_S);
    }
    world_run(w, 4 * NS_PER_S);
    assert_false(world_view(w, 0).alone);
}

// What a status calls alone is acknowledged alone: while it waits for the grant to run out, and for the save, it is not.
static void alone_is_said_when_it_is_so(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 1);
    int64_t until = w->now + 10 * NS_PER_S;
    bool going = false;
    for (w->host[0].hold_saves = true; w->now < until; world_run(w, 10 * NS_PER_MS)) {
        struct end_view v = world_view(w, 0);
        assert_int_equal(v.alone, w->host[0].gate == GATE_ALONE);
        going |= strstr(v.why, "going alone") != NULL;
    }
    assert_true(going);
    assert_false(world_view(w, 0).alone);
    w->host[0].hold_saves = false;
    host_step(&w->host[0], &(struct end_event){.type = EV_SAVED, .saved.ticket = w->host[0].ticket});
    world_run(w, 100 * NS_PER_MS);
    assert_true(world_view(w, 0).alone);
    assert_int_equal(w->host[0].gate, GATE_ALONE);
}

// A report about an older order for the same gate says nothing about the newer one.
static void late_report_of_a_gate_is_not_that_of_a_newer_order(void **state)
{
    struct world *w = world_start_pair(*state);
    struct host *p = &w->host[0];
    world_crash(w, 1);
    p->hold_gates = true;
    while (p->gate != GATE_HELD)
        world_run(w, 10 * NS_PER_MS);
    uint32_t epoch = world_view(w, 0).epoch.number;
    host_step(p, &(struct end_event){.type = EV_GATE, .gate = {.gate = GATE_HELD, .ticket = p->gate_ticket - 1}});
    world_run(w, NS_PER_S);
    assert_int_equal(world_view(w, 0).epoch.number, epoch);
    host_step(p, &(struct end_event){.type = EV_GATE,
                                .gate = {.gate = GATE_HELD, .ticket = p->gate_ticket, .numbered = p->data.numbered}});
    assert_int_equal(world_view(w, 0).epoch.number, epoch + 1);
}

// A run that came and went without being heard, and whose heartbeat arrives when its successor is known: believed, it
// would make the successor a former run, for ever.
static void late_frame_of_a_run_in_between_is_not_believed(void **state)
{
    struct world *w = world_start_pair(*state);
    world_crash(w, 0);
    w->probe = END_VETO_ADDRESS;
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 50 * NS_PER_MS); // it is told the other end's run, and nothing that names it arrives
    w->cut[0] = true;
    world_run(w, 2 * NS_PER_S);
    assert_int_not_equal(w->host[0].late.run, 0);
    assert_int_not_equal(world_view(w, 1).peer_run, w->host[0].late.run);
    world_crash(w, 0);
    w->cut[0] = false;
    world_boot(w, 0, (struct end_start){0});
    world_run(w, 5 * NS_PER_S);
    assert_true(world_view(w, 1).connected);
    static struct frame late;
    late = w->host[0].late;
    host_push(&w->host[1], &(struct end_event){.type = EV_FRAME, .frame = {.path = 0, .frame = &late}});
    world_run(w, 5 * NS_PER_S);
    assert_true(world_view(w, 1).connected);
    assert_int_not_equal(world_view(w, 1).peer_run, late.run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(grant_that_ran_out_unasked_is_no_takeover),
        T(goodbye_lets_the_active_go_alone_at_once),
        T(goodbye_of_the_guard_lets_the_active_go_alone_at_once),
        T(late_frame_behind_the_goodbye_counts_for_nothing),
        T(goodbye_of_a_run_that_never_echoed_counts_for_nothing),
        T(goodbye_is_destroyed_before_the_epoch),
        T(nothing_is_answered_alone_before_it_is_durable),
        T(going_alone_is_not_paired),
        T(no_goodbye_once_the_epoch_is_opened),
        T(no_goodbye_of_an_end_that_was_active),
        T(two_gates_wait_at_a_time),
        T(full_safe_queue_ends_the_grant),
        T(late_frame_of_an_unknown_run_is_no_restart),
        T(paused_end_sends_nothing),
        T(nothing_is_promised_without_a_guard),
        T(confirmation_of_a_former_session_counts_for_nothing),
        T(a_late_yes_does_not_last_longer),
        T(going_alone_waits_for_the_margin),
        T(lease_that_ends_before_the_grant_counts),
        T(joining_waits_until_the_peer_has_all),
        T(synchronized_is_what_is_applied),
        T(answers_are_heartbeats),
        T(heartbeats_go_on_without_answers),
        T(who_does_not_apply_is_given_no_grant),
        T(a_pause_ends_with_the_role),
        T(gates_of_replicas_that_were_closed_do_not_pile_up),
        T(no_answer_waits_for_a_disk_in_async),
        T(nobody_hears_of_an_epoch_before_it_is_durable),
        T(stalled_peer_is_noticed_in_async),
        T(slow_link_is_trusted_again_after_a_while),
        T(alone_is_said_when_it_is_so),
        T(late_report_of_a_gate_is_not_that_of_a_newer_order),
        T(late_frame_of_a_run_in_between_is_not_believed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
