// SPDX-License-Identifier: Apache-2.0
// What leaves the intent map, and when; what a queue that is taken over has lost: a service over a volume, a queue and
// disks whose completions the test gives.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/end/service_private.h"
#include "queues/unsafe_private.h"
#include "tests/unit/fake_disk.h"
#include "tests/unit/fake_volume.h"

#define SIZE       (UINT64_C(64) << 20)
#define MIB        (UINT64_C(1) << 20)
#define GENERATION (10 * NS_PER_S)
#define REQUESTS   8

struct world {
    struct fake_volume *volume;
    struct fake_disk *disk;
    struct service *service;
    int64_t now;
    int64_t wall_ns; // by how much the wall clock was set
    bool runs; // the stream to the peer
    uint64_t session, settled;
    struct update updates[REQUESTS];
    unsigned answers;
    bool hold_store, hold_map;
    bool closed, busy; // the store; a client has not let go of the queue
    unsigned ended;
    // Of a predecessor's queue.
    int left;
    unsigned openings; // of `left`
    struct spill_job *job;
    unsigned overflows;
    // What was said of the maps, and of the own one to who salvages.
    unsigned map_failed, map_durable, copies;
    uint64_t copied; // regions of it that are set
};

// ---- what the service asks for ----

static int open_stores(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err)
{
    struct world *w = user;
    (void)err;
    ret_blocks[0] = fake_volume_of(w->volume);
    w->closed = false;
    return 0;
}

// As closing a store does: what is under way there ends first.
static void close_stores(void *user)
{
    struct world *w = user;
    while (fake_volume_complete(w->volume))
        ;
    w->closed = true;
}

static bool quiet(void *user)
{
    return !((struct world *)user)->busy;
}

static void nothing(void *user)
{
    (void)user;
}

static int open_queue(void *user, bool recover, const struct unsafe_config *config,
                      struct unsafe **ret_queue, struct error *err)
{
    (void)user;
    assert_false(recover);
    return unsafe_create(NULL, config, ret_queue, err);
}

static void serve(void *user, struct unsafe *queue, struct updates *updates)
{
    (void)user, (void)queue, (void)updates;
}

static void text(void *user, const char *what)
{
    (void)user, (void)what;
}

static void cannot_open(void *user, const char *what)
{
    (void)user;
    fail_msg("%s", what);
}

static int lane_queue(void *user, struct unsafe *queue)
{
    (void)user, (void)queue;
    return 0;
}

static bool running(void *user)
{
    return ((struct world *)user)->runs;
}

static void readers(void *user, bool go_on)
{
    (void)user, (void)go_on;
}

static bool settled(void *user, uint64_t *ret_session, uint64_t *ret_seq)
{
    struct world *w = user;
    *ret_session = w->session;
    *ret_seq = w->settled;
    return w->runs;
}

static int64_t real_ns(void *user)
{
    struct world *w = user;
    return w->now + w->wall_ns;
}

static int64_t stamp_ns(void *user)
{
    return ((struct world *)user)->now;
}

static void report(void *user, const struct end_event *event)
{
    struct world *w = user;
    w->map_failed += event->type == EV_MAP && event->map.what == MAP_EV_FAILED;
    w->map_durable += event->type == EV_MAP && event->map.what == MAP_EV_DURABLE;
}

static void own_map(void *user, uint64_t ticket, uint16_t object, uint32_t region, uint64_t regions,
                    const uint8_t *bits)
{
    struct world *w = user;
    assert_int_equal(ticket, 9);
    assert_int_equal(object, 0);
    assert_int_equal(regions, SIZE / region);
    w->copies++;
    for (uint64_t i = 0; i < regions; i++)
        w->copied += bits[i / 8] >> (i % 8) & 1;
}

static const struct service_ops ops = {
    .open_stores = open_stores,
    .close_stores = close_stores,
    .open_queue = open_queue,
    .forget_queue = nothing,
    .serve = serve,
    .refuse = text,
    .quiet = quiet,
    .room = nothing,
    .lane_queue = lane_queue,
    .lane_stop = nothing,
    .lane_running = running,
    .readers = readers,
    .settled = settled,
    .real_ns = real_ns,
    .stamp_ns = stamp_ns,
    .own_map = own_map,
    .report = report,
    .note = text,
    .cannot_open = cannot_open,
};

// ---- turns ----

static void turn(struct world *w)
{
    struct service_turn t = {.now_ns = w->now};
    service_lease(w->service, w->now, INT64_MAX);
    while (!w->hold_store && fake_volume_complete(w->volume))
        ;
    while (!w->hold_map && fake_disk_complete(w->disk))
        ;
    service_turn(w->service, &t);
    if (w->closed) // its memory is gone
        assert_int_equal(fake_volume_active(w->volume), 0);
}

// So long that a generation would begin, and end if it could.
static void pass(struct world *w, int64_t ns)
{
    for (int64_t until = w->now + ns; w->now < until; w->now += 20 * NS_PER_MS)
        turn(w);
}

static struct intent *map(struct world *w)
{
    return maps_at(w->service->maps, 0);
}

static bool is_set(struct world *w, uint64_t offset)
{
    return intent_test(map(w), offset, 1);
}

static uint64_t numbered(struct world *w)
{
    return unsafe_numbered(service_queue(w->service));
}

static void answered(struct update *update, int status)
{
    struct world *w = update->owner;
    assert_int_equal(status, 0);
    w->answers++;
}

static void zero(struct world *w, unsigned i, uint64_t offset)
{
    w->updates[i] = (struct update){
        .op = UPDATE_ZERO, .offset = offset, .length = 4096, .answer = answered, .owner = w};
    updates_submit(service_updates(w->service), &w->updates[i]);
    turn(w);
}

static void few(struct world *w)
{
    for (unsigned i = 0; i < 4; i++) // page, store, answer
        turn(w);
}

static struct service *make_service(struct world *w)
{
    static const uint64_t sizes[] = {SIZE}, ids[] = {1};
    static const char *const names[] = {"disk"};
    struct service_config config = {
        .mode = UPDATES_ASYNC,
        .volumes = 1,
        .sizes = sizes,
        .ids = ids,
        .names = names,
        .pair = 1,
        .boot = 2,
        .ring_bytes = 8 * MIB,
        .payload_max = 1 << 20,
        .timeout_ns = 2 * NS_PER_S,
        .map_disk = fake_disk_of(w->disk),
        .generation_ns = GENERATION,
    };
    struct service *service = service_new(&config, &ops, w);
    assert_non_null(service);
    return service;
}

// A pair in the steady state, with an empty map.
static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    *w = (struct world){.now = NS_PER_S, .runs = true, .session = 5};
    w->volume = fake_volume_new(SIZE, 4096, 1, 1);
    w->disk = fake_disk_new(1 << 20, 1);
    w->service = make_service(w);
    struct epoch epoch = {.number = 1,
                          .id = 77,
                          .first_seq = 1,
                          .reason = EPOCH_FIRST_START,
                          .opened_by = EPOCH_BY_PRIMARY};
    service_open(w->service, false, &epoch, 1, w->now);
    service_bound(w->service, 1 << 20);
    service_gate(w->service, GATE_ALONE, 1, 0, INT64_MAX);
    pass(w, NS_PER_S);
    service_map_arm(w->service, 5, 0);
    w->settled = UINT64_MAX;
    assert_int_equal(intent_bytes(map(w), 0), SIZE); // it was made anew
    pass(w, 2 * GENERATION);
    assert_int_equal(intent_bytes(map(w), 0), 0);
    w->settled = numbered(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    w->hold_store = w->hold_map = false;
    service_close(w->service);
    pass(w, NS_PER_S);
    service_free(w->service);
    fake_volume_free(w->volume);
    fake_disk_free(w->disk);
    free(w);
    return 0;
}

// ---- what is shown ----

// The order to open a gate may be carried out long after it was given.
static void a_gate_opens_nothing_behind_the_lease(void **state)
{
    struct world *w = *state;
    service_gate(w->service, GATE_HELD, 2, w->now, INT64_MAX);
    pass(w, NS_PER_S);
    zero(w, 0, 4096);
    pass(w, NS_PER_S);
    assert_int_equal(w->answers, 0);
    service_gate(w->service, GATE_ALONE, 3, w->now, w->now);
    assert_false(service_serves(w->service));
    assert_int_equal(w->answers, 0);
    pass(w, NS_PER_S); // with a lease again
    assert_true(service_serves(w->service));
    assert_int_equal(w->answers, 1);
}

// The first touch of an extent waits until the map is durable; then it is free.
static void a_write_waits_for_its_map(void **state)
{
    struct world *w = *state;
    w->hold_map = true;
    zero(w, 0, 3 * MIB);
    pass(w, NS_PER_S);
    assert_int_equal(w->answers, 0);
    w->hold_map = false;
    turn(w);
    turn(w);
    assert_int_equal(w->answers, 1);
    w->hold_map = true;
    zero(w, 1, 3 * MIB + 65536);
    turn(w);
    assert_int_equal(w->answers, 2);
    assert_true(is_set(w, 3 * MIB) && is_set(w, 3 * MIB + 65536));
}

// Not while the peer has not settled it.
static void nothing_leaves_before_it_is_settled(void **state)
{
    struct world *w = *state;
    zero(w, 0, 0);
    few(w);
    assert_int_equal(w->answers, 1);
    w->settled = numbered(w) - 1; // durable there, perhaps, and applied
    pass(w, 5 * GENERATION);
    assert_true(is_set(w, 0));
    w->settled = numbered(w);
    pass(w, GENERATION);
    assert_false(is_set(w, 0));
}

// Not while it is not flushed here: by a flush that began behind it.
static void nothing_leaves_before_it_is_flushed(void **state)
{
    struct world *w = *state;
    zero(w, 0, 0);
    few(w);
    assert_int_equal(w->answers, 1);
    w->settled = numbered(w);
    w->hold_store = true; // the flush of its own never ends
    pass(w, 5 * GENERATION);
    assert_int_equal(fake_volume_active(w->volume), 1);
    assert_true(is_set(w, 0));
    w->hold_store = false;
    pass(w, GENERATION);
    assert_false(is_set(w, 0));
}

// What was in flight when a generation began is of the time before it only when it has its seq.
static void nothing_leaves_that_was_in_flight(void **state)
{
    struct world *w = *state;
    zero(w, 0, 0); // makes the extent hot
    few(w);
    w->hold_store = true;
    zero(w, 1, 4096);
    assert_int_equal(fake_volume_active(w->volume), 1);
    w->settled = numbered(w); // everything numbered so far
    pass(w, 5 * GENERATION);
    assert_true(is_set(w, 0));
    w->hold_store = false;
    few(w);
    assert_int_equal(w->answers, 2);
    pass(w, 5 * GENERATION);
    assert_true(is_set(w, 0)); // numbered now, not settled
    w->settled = numbered(w);
    pass(w, GENERATION);
    assert_false(is_set(w, 0));
}

// What is written again and again stays.
static void what_is_hot_stays(void **state)
{
    struct world *w = *state;
    w->settled = UINT64_MAX;
    for (unsigned i = 0; i < 60; i++) {
        zero(w, i % REQUESTS, 0);
        if (i == 0)
            zero(w, REQUESTS - 1, 9 * MIB);
        pass(w, NS_PER_S);
    }
    assert_true(is_set(w, 0));
    assert_false(is_set(w, 9 * MIB));
}

// Not ahead of a resync; not in another session; not without a stream; not while nothing was said
// of a session.
static void nothing_leaves_where_the_end_has_not_said_so(void **state)
{
    struct world *w = *state;
    zero(w, 0, 0);
    few(w);
    w->settled = UINT64_MAX;
    service_map_arm(w->service, 5, 1); // the resync is still to come
    pass(w, 3 * GENERATION);
    assert_true(is_set(w, 0));
    service_map_arm(w->service, 6, 0);
    pass(w, 3 * GENERATION);
    assert_true(is_set(w, 0));
    service_map_arm(w->service, 0, 0);
    pass(w, 3 * GENERATION);
    assert_true(is_set(w, 0));
    service_map_arm(w->service, 5, 0);
    w->runs = false;
    pass(w, 3 * GENERATION);
    assert_true(is_set(w, 0));
    w->runs = true;
    service_overflow(w->service, "the test says so"); // the peer's place is given up
    pass(w, 3 * GENERATION);
    assert_true(is_set(w, 0));
}

// A flush that failed proves nothing, nor does one behind it.
static void nothing_leaves_behind_a_failed_flush(void **state)
{
    struct world *w = *state;
    zero(w, 0, 0);
    few(w);
    w->settled = UINT64_MAX;
    fake_volume_fail(w->volume, 1U << BLOCK_FLUSH, -EIO);
    pass(w, 2 * GENERATION);
    fake_volume_fail(w->volume, 0, 0);
    pass(w, 3 * GENERATION);
    assert_true(is_set(w, 0));
}

static int64_t least_ns(struct world *w)
{
    struct service_figures figures;
    assert_true(service_figures(w->service, w->now, &figures));
    return figures.least_ns;
}

// Since when not less is out of sync: not touched by what is added, moved by what goes, and by a new reason to count.
static void a_resync_that_gets_nowhere_is_seen(void **state)
{
    struct world *w = *state;
    assert_int_equal(least_ns(w), 0);
    service_map_arm(w->service, 5, 1);
    zero(w, 0, 0);
    zero(w, 1, 3 * MIB);
    pass(w, NS_PER_S);
    int64_t since = least_ns(w);
    assert_true(since > 0);
    zero(w, 2, 5 * MIB);
    pass(w, 20 * NS_PER_S);
    assert_int_equal(least_ns(w), since);
    intent_clear(map(w), 0, 4 * MIB);
    pass(w, NS_PER_S);
    assert_true(least_ns(w) > since);
    since = least_ns(w);
    pass(w, 5 * NS_PER_S);
    assert_int_equal(least_ns(w), since);
    service_map_fill(w->service, 1, 1); // everything counts anew
    pass(w, NS_PER_S);
    assert_true(least_ns(w) > since);
    service_map_arm(w->service, 5, 0);
    pass(w, NS_PER_S);
    assert_int_equal(least_ns(w), 0);
}

// How old the queue is decides whether the link counts as slow: who sets the wall clock, forth or back, changes nothing of it.
static void a_set_wall_clock_makes_no_queue_older_or_younger(void **state)
{
    struct world *w = *state;
    struct service_figures f;
    zero(w, 0, 0);
    few(w);
    assert_true(service_figures(w->service, w->now, &f));
    assert_true(f.queue_records > 0 && f.oldest_ns > 0 && f.oldest_ns <= w->now);
    static const int64_t steps[] = {3600 * NS_PER_S, -3600 * NS_PER_S, 0};
    int64_t then = f.oldest_ns;
    uint64_t records = f.queue_records;
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        w->wall_ns = steps[i];
        w->now += NS_PER_S;
        zero(w, i + 1, (i + 1) * MIB);
        few(w);
        assert_true(service_figures(w->service, w->now, &f));
        assert_int_equal(f.oldest_ns, then);
        assert_int_equal(f.queue_records, ++records);
    }
}

static void ended(struct update *update, int status)
{
    struct world *w = update->owner;
    (void)status;
    w->ended++;
}

static void flush(struct world *w, unsigned i)
{
    w->updates[i] = (struct update){.op = UPDATE_FLUSH, .answer = ended, .owner = w};
    updates_submit(service_updates(w->service), &w->updates[i]);
    turn(w);
}

// One flush is at the store, and another one waits for it to come back, when the end yields: the store is closed, and its
// memory gone, while the client still has hold of the queue.
static void a_flush_that_waits_ends_with_its_store(void **state)
{
    struct world *w = *state;
    w->hold_store = w->busy = true;
    flush(w, 0);
    flush(w, 1);
    assert_int_equal(fake_volume_active(w->volume), 1);
    service_abandon(w->service, false);
    assert_int_equal(w->ended, 2);
    few(w);
    assert_non_null(service_updates(w->service));
    w->busy = false;
    turn(w);
    assert_null(service_updates(w->service));
}

// An idle pair with nothing set costs nothing: no flush, no page.
static void an_idle_pair_costs_nothing(void **state)
{
    struct world *w = *state;
    pass(w, 3 * GENERATION);
    unsigned flushes = fake_volume_flushes(w->volume);
    uint64_t operations = fake_disk_operations(w->disk);
    pass(w, 10 * GENERATION);
    assert_int_equal(fake_volume_flushes(w->volume), flushes);
    assert_int_equal(fake_disk_operations(w->disk), operations);
}

// ---- a predecessor's queue ----

static void carry_out(void *user, struct spill_job *job)
{
    struct world *w = user;
    w->job = job;
}

static void note_overflow(void *user, const struct end_event *event)
{
    struct world *w = user;
    w->overflows += event->type == EV_OVERFLOW;
}

static int open_left(void *user, bool recover, const struct unsafe_config *config, struct unsafe **ret_queue,
                     struct error *err)
{
    struct world *w = user;
    assert_true(recover);
    w->openings++;
    return unsafe_open_fd(w->left, config, ret_queue, err);
}

// A queue with a record that its reader has not got, and that is said to be on disk; and an update that was committed,
// which has to be written again.
static void leave_a_queue(struct world *w)
{
    struct unsafe_config config = {
        .pair = 1, .boot = 2, .epoch = 77, .bound = 1000, .ring_bytes = 8 * MIB, .payload_max = 1 << 20};
    struct unsafe_update update = {.type = RECORD_ZERO, .length = 4096};
    struct unsafe *queue;
    unsigned slot;
    uint64_t seq;
    assert_int_equal(unsafe_create(NULL, &config, &queue, NULL), 0);
    unsafe_attach(queue, SERVICE_READER, 0);
    assert_int_equal(unsafe_append(queue, &update, NULL, 0, 1, &seq), 0);
    atomic_store(&queue->file.state->spilled, seq);
    assert_int_equal(unsafe_commit(queue, &update, UNSAFE_NO_CHUNK, &slot), 0);
    w->left = dup(unsafe_fd(queue));
    assert_true(w->left >= 0);
    unsafe_free(queue);
}

static void spill_turns(struct world *w)
{
    for (unsigned i = 0; i < 20; i++) {
        struct spill_job *job = TAKE_PTR(w->job);
        if (job) {
            spill_run(job);
            service_spilled(w->service, job, w->now);
        }
        w->now += 20 * NS_PER_MS;
        turn(w);
    }
}

// A run that finds the queue of a former one, and has not been told yet what to do with it.
static struct world *take_over(struct fake_disk *spilled)
{
    static const uint64_t sizes[] = {SIZE}, ids[] = {1};
    static const char *const names[] = {"disk"};
    static struct service_ops own;
    own = ops;
    own.open_queue = open_left;
    own.spill = carry_out;
    own.report = note_overflow;
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    *w = (struct world){.now = NS_PER_S};
    w->volume = fake_volume_new(SIZE, 4096, 1, 1);
    w->disk = fake_disk_new(1 << 20, 1);
    leave_a_queue(w);
    struct service_config config = {
        .mode = UPDATES_ASYNC, .volumes = 1, .sizes = sizes, .ids = ids, .names = names, .pair = 1, .boot = 2,
        .ring_bytes = 8 * MIB, .payload_max = 1 << 20, .timeout_ns = 2 * NS_PER_S, .map_disk = fake_disk_of(w->disk),
        .generation_ns = GENERATION, .spill_bytes = 32 * MIB, .spill_disk = fake_disk_of(spilled)};
    w->service = service_new(&config, &own, w);
    assert_non_null(w->service);
    return w;
}

static void done(struct world *w, struct fake_disk *spilled)
{
    (void)close(w->left);
    (void)teardown((void **)&w);
    fake_disk_free(spilled);
}

static const struct epoch first_epoch = {
    .number = 1, .id = 77, .first_seq = 1, .reason = EPOCH_FIRST_START, .opened_by = EPOCH_BY_PRIMARY};

// What was spilled is found to be lost before the updates that were in flight are written again: only behind that it is
// known that the peer has a place in this queue, which has to be given up.
static void loss_of_what_was_spilled_is_not_forgotten_while_a_queue_is_taken_over(void **state)
{
    struct fake_disk *spilled = fake_disk_new(64 * MIB, 1); // which holds nothing
    struct world *w = take_over(spilled);
    w->hold_store = true;
    service_open(w->service, true, &first_epoch, 0, w->now);
    spill_turns(w);
    assert_int_equal(w->overflows, 0);
    w->hold_store = false;
    spill_turns(w);
    assert_int_equal(w->overflows, 1);
    assert_false(unsafe_attached(service_queue(w->service), SERVICE_READER));
    done(w, spilled);
    (void)state;
}

// A large queue takes a while to check.
static void queue_that_was_found_is_not_checked_again(void **state)
{
    struct fake_disk *spilled = fake_disk_new(64 * MIB, 1);
    struct world *w = take_over(spilled);
    struct service_found found;
    assert_int_equal(service_find(w->service, &found, NULL), 0);
    assert_int_equal(found.numbered, 1);
    assert_true(found.pending);
    service_open(w->service, true, &first_epoch, 0, w->now);
    assert_non_null(service_queue(w->service));
    assert_int_equal(w->openings, 1);
    done(w, spilled);
    (void)state;
}

// What was found is let go of, with its memory, when it is not taken over.
static void queue_that_was_found_goes_with_what_it_was_found_for(void **state)
{
    struct fake_disk *spilled = fake_disk_new(64 * MIB, 1);
    struct world *w = take_over(spilled);
    struct service_found found;
    assert_int_equal(service_find(w->service, &found, NULL), 0);
    service_abandon(w->service, false);
    service_open(w->service, true, &first_epoch, 0, w->now);
    assert_int_equal(w->openings, 2);
    done(w, spilled);
    (void)state;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

// ---- the map of an end that serves nothing ----

// A start over the map that the former run left.
static void start_again(struct world *w)
{
    service_close(w->service);
    pass(w, 3 * MAPS_LAZY_NS);
    service_free(w->service);
    fake_disk_kill(w->disk);
    w->service = make_service(w);
}

// As the daemon's thread does: it turns when something has completed, or at the deadline, and else it sleeps.
static void turn_when_woken(struct world *w)
{
    struct service_turn t = {.now_ns = w->now};
    service_turn(w->service, &t); // an order came in
    for (unsigned i = 0; i < 1000; i++) {
        int64_t at = service_deadline(w->service, t.now_ns, INT64_MAX);
        if (!fake_disk_complete(w->disk)) {
            if (at == INT64_MAX)
                return;
            t.now_ns = w->now = MAX(at, w->now);
        }
        service_turn(w->service, &t);
    }
    fail_msg("the thread does not come to rest");
}

static void map_made_anew_is_given_to_who_salvages(void **state)
{
    struct world *w = *state;
    fake_disk_rot(w->disk, 0, 0, 1);
    start_again(w);
    assert_non_null(service_map_found(w->service, 0));
    service_map_copy(w->service, 1, 9);
    turn_when_woken(w);
    assert_int_equal(w->copies, 1);
    assert_int_equal(w->copied, intent_regions(map(w)));
}

// The write itself fails, so that nothing completes: who waits is told all the same.
static void map_that_cannot_be_written_is_said_to_who_salvages(void **state)
{
    struct world *w = *state;
    start_again(w);
    assert_int_equal(intent_bytes(map(w), 0), 0);
    assert_int_equal(intent_or(map(w), 3, &(uint8_t){1}, 1), 0);
    fake_disk_fail(w->disk, 1, -EIO, false);
    service_map_copy(w->service, 1, 9);
    turn_when_woken(w);
    assert_int_equal(w->copies, 0);
    assert_int_equal(w->map_failed, 1);
    service_map_void(w->service, 0, 1, true, 1);
    turn_when_woken(w);
    assert_int_equal(w->copies, 1);
    assert_int_equal(w->copied, 1);
}

static void map_that_cannot_be_written_is_said_to_who_unites_maps(void **state)
{
    struct world *w = *state;
    start_again(w);
    assert_int_equal(intent_bytes(map(w), 0), 0);
    assert_int_equal(intent_or(map(w), 3, &(uint8_t){1}, 1), 0);
    fake_disk_fail(w->disk, 1, -EIO, false);
    service_map_sync(w->service, 4);
    turn_when_woken(w);
    assert_int_equal(w->map_failed, 1);
    assert_int_equal(w->map_durable, 0);
    service_map_void(w->service, 0, 1, true, 1);
    turn_when_woken(w);
    assert_int_equal(w->map_durable, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_gate_opens_nothing_behind_the_lease),
        T(a_write_waits_for_its_map),
        T(nothing_leaves_before_it_is_settled),
        T(nothing_leaves_before_it_is_flushed),
        T(nothing_leaves_that_was_in_flight),
        T(what_is_hot_stays),
        T(nothing_leaves_where_the_end_has_not_said_so),
        T(nothing_leaves_behind_a_failed_flush),
        T(a_resync_that_gets_nowhere_is_seen),
        T(a_set_wall_clock_makes_no_queue_older_or_younger),
        T(a_flush_that_waits_ends_with_its_store),
        T(an_idle_pair_costs_nothing),
        T(map_made_anew_is_given_to_who_salvages),
        T(map_that_cannot_be_written_is_said_to_who_salvages),
        T(map_that_cannot_be_written_is_said_to_who_unites_maps),
        cmocka_unit_test(queue_that_was_found_is_not_checked_again),
        cmocka_unit_test(queue_that_was_found_goes_with_what_it_was_found_for),
        cmocka_unit_test(loss_of_what_was_spilled_is_not_forgotten_while_a_queue_is_taken_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
