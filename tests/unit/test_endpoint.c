// SPDX-License-Identifier: Apache-2.0
// common/daemon/endpoint: a whole pair in one process, both ends with all their threads, stores and queues, each with a real
// guard. What the ends decide is tested elsewhere; here, that they are told the truth, and that what they ask for is done.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/daemon/endpoint_private.h"
#include "common/daemon/ends.h"
#include "queues/batch.h"
#include "tests/unit/netns.h"

#define PATIENCE_NS (60 * NS_PER_S) // the last guard against hanging; everything comes much sooner
#define A_WHILE_NS  (400 * NS_PER_MS) // in which something would happen that must not
#define PUMP_MS     5

// What a daemon has of one end.
struct side {
    enum pair_end which;
    struct guard *guard;
    struct ends *ends;
    struct endpoint *ep;
};

static struct netns ns;
static char dir[40];
static struct pair_config *pair;
static struct side primary = {.which = PAIR_PRIMARY}, secondary = {.which = PAIR_SECONDARY};

// ---- the rig ----

// Heartbeats are frequent and T is long: no end takes a busy machine for a silent peer.
static void write_pair(bool waypoint)
{
    char path[64];
    struct error err = {0};
    (void)snprintf(path, sizeof(path), "%s/shop.json", dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    (void)fprintf(f,
                  "{\"format\": 1, \"pair\": \"shop\","
                  " \"ends\": {\"primary\": {\"host\": \"alpha\", \"public_interface\": \"a\"},"
                  "          \"secondary\": {\"host\": \"beta\", \"public_interface\": \"c\"}},"
                  " \"channel\": {\"paths\": [{\"primary\": \"127.0.0.1\", \"secondary\": "
                  "\"127.0.0.2\", \"port\": 7400}]},"
                  " \"volumes\": [{\"name\": \"disk\", \"size\": \"1M\","
                  "              \"primary\": {\"path\": \"%s/primary.img\"},"
                  "              \"secondary\": {\"path\": \"%s/secondary.img\"}}],"
                  " \"public_address\": {\"addresses\": [\"192.0.2.10/24\"]},"
                  " \"waypoints\": [%s],"
                  " \"timing\": {\"heartbeat_ms\": 100, \"timeout_ms\": 10000, \"decision_ms\": "
                  "2000, \"margin_ms\": 500},"
                  " \"queues\": {\"memory\": \"136M\", \"spill\": 0, \"safe\": \"128M\"}}",
                  dir, dir, waypoint ? "\"192.0.2.1\"" : "");
    assert_int_equal(fclose(f), 0);
    pair_config_free(pair);
    pair = NULL;
    if (pair_config_load(path, &pair, &err) < 0)
        fail_msg("%s", err.text);
}

static void start_guard(struct side *s)
{
    struct error err = {0};
    char run[64];
    (void)snprintf(run, sizeof(run), "%s/run-%s", dir, pair_end_name(s->which));
    (void)mkdir(run, 0755);
    if (guard_start(GUARD_BINARY, run, "testd", &s->guard, NULL, &err) < 0)
        fail_msg("%s", err.text);
}

static void start_side(struct side *s)
{
    struct error err = {0};
    char lib[64], run[64];
    (void)snprintf(lib, sizeof(lib), "%s/lib-%s", dir, pair_end_name(s->which));
    (void)snprintf(run, sizeof(run), "%s/run-%s", dir, pair_end_name(s->which));
    const struct endpoint_config config = {
        .pair = pair, .side = s->which, .host = "here", .state_dir = lib, .runtime_dir = run};
    start_guard(s);
    s->ends = ends_new();
    assert_non_null(s->ends);
    if (endpoint_new(&config, &s->ep, &err) < 0 ||
        endpoint_run(s->ep, s->guard, ends_waypoints(s->ends), ends_closer(s->ends), &err) < 0 ||
        ends_add(s->ends, s->ep, &err) < 0)
        fail_msg("%s", err.text);
}

// As a daemon that is killed: nothing is told to anybody.
static void stop_side(struct side *s)
{
    s->ends = ends_free(s->ends);
    s->ep = NULL;
    s->guard = guard_free(s->guard);
}

static void work_side(struct side *s)
{
    struct pollfd p = {.fd = s->guard ? guard_fd(s->guard) : -1, .events = POLLIN};
    if (!s->ends)
        return;
    if (poll(&p, 1, 0) > 0) {
        assert_int_equal(guard_work(s->guard), 0);
        endpoint_guard(s->ep, s->guard);
    }
    ends_work(s->ends);
}

static void pump(void)
{
    struct pollfd p[] = {{.fd = primary.ends ? ends_fd(primary.ends) : -1, .events = POLLIN},
                         {.fd = secondary.ends ? ends_fd(secondary.ends) : -1, .events = POLLIN}};
    (void)poll(p, ARRAY_LEN(p), PUMP_MS);
    work_side(&primary);
    work_side(&secondary);
}

static void pump_for(int64_t span_ns)
{
    for (int64_t end = clock_boot_ns() + span_ns; clock_boot_ns() < end;)
        pump();
}

static struct end_view view_of(const struct side *s)
{
    struct end_view view;
    end_view(s->ep->end, clock_boot_ns(), &view);
    return view;
}

static bool comes(bool (*condition)(void))
{
    for (int64_t end = clock_boot_ns() + PATIENCE_NS; clock_boot_ns() < end;) {
        if (condition())
            return true;
        pump();
    }
    return false;
}

static void wait_for(bool (*condition)(void), const char *what)
{
    if (!comes(condition))
        fail_msg("in vain: %s; the primary: %s; the secondary: %s", what, view_of(&primary).why,
                 view_of(&secondary).why);
}

static bool is_granted(void)
{
    return view_of(&primary).granted && view_of(&secondary).granted;
}

static bool is_refused(void)
{
    return !view_of(&primary).granted && !view_of(&secondary).granted;
}

static void make_store(const char *name)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "%s/%s.img", dir, name);
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
}

static int set_up(void **state)
{
    (void)state;
    netns_make(&ns);
    netns_here(
        "ip link add name c type veth peer name d && ip link set dev c up && ip link set dev d up");
    (void)snprintf(dir, sizeof(dir), "/tmp/test_endpoint_XXXXXX");
    assert_non_null(mkdtemp(dir));
    make_store("primary");
    make_store("secondary");
    write_pair(true);
    start_side(&primary);
    start_side(&secondary);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    struct side *sides[] = {&primary, &secondary};
    for (size_t i = 0; i < ARRAY_LEN(sides); i++) {
        struct guard *guard = sides[i]->guard;
        sides[i]->guard = NULL;
        stop_side(sides[i]);
        if (guard)
            (void)guard_end(guard, NULL);
        guard_free(guard);
    }
    pair = pair_config_free(pair);
    netns_drop(&ns);
    netns_here("rm -rf %s", dir);
    return 0;
}

// ---- the tests ----

// What the guard dies of, and the daemon starts another one.
static void kill_guard(struct side *s)
{
    assert_non_null(s->guard);
    assert_int_equal(kill(guard_pid(s->guard), SIGKILL), 0);
    struct pollfd p = {.fd = guard_fd(s->guard), .events = POLLIN};
    int r = 0;
    while (r == 0) {
        assert_int_equal(poll(&p, 1, PATIENCE_NS / NS_PER_MS), 1);
        r = guard_work(s->guard);
    }
    assert_int_equal(r, -EPIPE);
    struct guard *old = s->guard;
    s->guard = NULL;
    endpoint_guard(s->ep, NULL);
    guard_free(old);
}

static void peer_may_not_take_over_from_an_end_without_guard(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    kill_guard(&primary);
    wait_for(is_refused, "an end without a guard that says no");
    start_guard(&primary);
    endpoint_guard(primary.ep, primary.guard);
    wait_for(is_granted, "a grant of an end with a guard");
}

// It is not moved again where the peer is silent from here on.
static void another_guard_gets_the_deadline(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    assert_true(primary.ep->deadline_ns != GUARD_NO_DEADLINE);
    assert_int_equal(guard_deadline(primary.ep->guard), primary.ep->deadline_ns);
    kill_guard(&primary);
    start_guard(&primary);
    endpoint_guard(primary.ep, primary.guard);
    assert_true(primary.ep->deadline_ns != GUARD_NO_DEADLINE);
    assert_int_equal(guard_deadline(primary.ep->guard), primary.ep->deadline_ns);
}

static void next_run_finds_lease_and_echo(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    const struct vitals *v = primary.ep->vitals;
    assert_true(primary.ep->deadline_ns != GUARD_NO_DEADLINE);
    assert_int_equal(vitals_lease_ns(v), primary.ep->deadline_ns);
    assert_true(view_of(&primary).echo_sent_ns > 0);
    assert_int_equal(vitals_echo_sent_ns(v), view_of(&primary).echo_sent_ns);
}

// The link has proven which run its peer is.
static void frame_of_another_run_than_its_links_is_dropped(void **state)
{
    (void)state;
    uint8_t bytes[FRAME_MAX];
    struct frame frame, read;
    wait_for(is_granted, "a grant");
    uint64_t run = secondary.ep->run, number = primary.ep->beat_number;
    frame = (struct frame){.type = FRAME_BEAT, .run = run + 1, .to_run = primary.ep->run};
    frame.beat.number = number + 1000000;
    size_t size = frame_encode(&frame, bytes, sizeof(bytes));
    assert_null(frame_decode(bytes, size, &read));
    endpoint_channel_ops.on_control(primary.ep, 0, run, bytes, size);
    assert_int_equal(primary.ep->beat_run, run);
    assert_int_equal(primary.ep->beat_number, number);
    assert_true(is_granted());
}

static bool is_wedged(void)
{
    return primary.ep->wedged;
}

// Its front thread waits for a lock.
static void end_whose_data_thread_does_not_turn_is_silent(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    lane_hold(primary.ep->lane, true);
    mailbox_ring(front_mailbox(primary.ep->front));
    mailbox_ring(primary.ep->stream_box);
    bool wedged = comes(is_wedged);
    pump_for(A_WHILE_NS); // what was sent before
    uint64_t number = secondary.ep->beat_number;
    pump_for(A_WHILE_NS);
    uint64_t then = secondary.ep->beat_number;
    lane_hold(primary.ep->lane, false);
    assert_true(wedged);
    assert_int_equal(then, number);
    wait_for(is_granted, "a grant of an end that turns again");
}

static struct mailbox *held_reports;

static bool is_asked_to_save(void)
{
    struct pollfd p = {.fd = mailbox_fd(held_reports), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static bool is_alone(void)
{
    struct letter *l;
    while ((l = mailbox_take(held_reports)))
        mailbox_post(primary.ep->reports, l);
    return view_of(&primary).alone;
}

// `alone` is saved before anything is acknowledged alone.
static void nothing_counts_as_saved_before_it_is(void **state)
{
    (void)state;
    char path[64], text[ACTION_TEXT_SIZE];
    struct end_state found;
    uint64_t operation;
    wait_for(is_granted, "a grant");
    struct saver *saver = primary.ep->saver;
    (void)snprintf(path, sizeof(path), "%s/held-state", dir);
    held_reports = mailbox_new();
    assert_int_equal(saver_new(path, held_reports, &primary.ep->saver, &found, NULL), 0);
    assert_int_equal(
        endpoint_command(primary.ep, COMMAND_PAUSE, 0, 0, &operation, text, sizeof(text)), 0);
    wait_for(is_asked_to_save, "a state to be saved");
    pump_for(A_WHILE_NS);
    assert_false(view_of(&primary).alone);
    wait_for(is_alone, "an end that is alone once that is saved");
    assert_int_equal(
        endpoint_command(primary.ep, COMMAND_RESUME, 0, 0, &operation, text, sizeof(text)), 0);
    saver_free(primary.ep->saver);
    (void)is_alone();
    mailbox_free(held_reports);
    primary.ep->saver = saver;
    wait_for(is_granted, "a grant of an end that is paired again");
}

static bool log_has(int fd, const char *text)
{
    char log[65536];
    ssize_t n = pread(fd, log, sizeof(log) - 1, 0);
    log[MAX(n, 0)] = '\0';
    return strstr(log, text) != NULL;
}

static int log_fd;

static bool is_dropped(void)
{
    return log_has(log_fd, "data message dropped: ");
}

// From a peer that is who it says, and not well.
static void answer_that_is_not_one_is_dropped(void **state)
{
    (void)state;
    char path[64];
    struct batch_answer answer = {.kind = BATCH_ANSWER};
    const struct iovec iov = {.iov_base = &answer, .iov_len = sizeof(answer)};
    wait_for(is_granted, "a grant");
    assert_non_null(batch_answer_invalid(&answer, sizeof(answer)));
    (void)snprintf(path, sizeof(path), "%s/log", dir);
    int stderr_fd = dup(STDERR_FILENO);
    log_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    assert_true(stderr_fd >= 0 && log_fd >= 0);
    assert_true(dup2(log_fd, STDERR_FILENO) >= 0);
    assert_int_equal(channel_data_send(secondary.ep->channel, &iov, 1), 0);
    bool dropped = comes(is_dropped);
    assert_true(dup2(stderr_fd, STDERR_FILENO) >= 0);
    (void)close(stderr_fd);
    (void)close(log_fd);
    assert_true(dropped);
}

// What it salvages may have come later than it knows.
static void end_is_told_of_damaged_maps(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    stop_side(&secondary);
    start_side(&secondary);
    assert_int_equal(secondary.ep->start.maps_damaged, 0);
    wait_for(is_granted, "a grant to an end that is back");
    stop_side(&secondary);
    netns_here("for f in %s/lib-secondary/shop/secondary/maps/*; do"
               " dd if=/dev/urandom of=$f bs=4096 count=1 conv=notrunc 2>/dev/null || exit 1; done",
               dir);
    start_side(&secondary);
    assert_int_equal(secondary.ep->start.maps_damaged, 1);
    wait_for(is_granted, "a grant to an end with another map");
}

static bool is_paired_without_waypoint(void)
{
    return strstr(view_of(&primary).why, "no waypoint is configured") != NULL;
}

// An end that nobody outside of its pair answers cannot know that it is not the isolated one.
static void without_waypoint_the_peer_may_not_take_over(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    stop_side(&secondary);
    stop_side(&primary);
    write_pair(false);
    start_side(&primary);
    start_side(&secondary);
    wait_for(is_paired_without_waypoint, "a pair that waits for the operator");
    pump_for(A_WHILE_NS);
    assert_true(is_refused());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peer_may_not_take_over_from_an_end_without_guard),
        cmocka_unit_test(another_guard_gets_the_deadline),
        cmocka_unit_test(next_run_finds_lease_and_echo),
        cmocka_unit_test(frame_of_another_run_than_its_links_is_dropped),
        cmocka_unit_test(end_whose_data_thread_does_not_turn_is_silent),
        cmocka_unit_test(nothing_counts_as_saved_before_it_is),
        cmocka_unit_test(answer_that_is_not_one_is_dropped),
        cmocka_unit_test(end_is_told_of_damaged_maps),
        cmocka_unit_test(
            without_waypoint_the_peer_may_not_take_over), // the last one: of another pair file
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
