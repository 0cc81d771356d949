// SPDX-License-Identifier: Apache-2.0
// The guard, as the real process, beside daemons that ask it, are restarted, end or outlive it: it does every part of what it is
// asked, is found again, and takes no plan that it could not carry out.
#include "tests/unit/guard_world.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guard/freeze.h"
#include "guard/pass.h"
#include "guard/plan.h"

static void steps_down_thaws_and_destroys_as_asked(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    check_report(pair, true);
    guard_thaw(pair, clock_boot_ns() - 1); // too late: nothing happens
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    check_report(pair, true); // of the same act: nothing ran in between
    guard_thaw(pair, clock_boot_ns() + FAR_NS);
    await_done(g, pair);
    AWAIT(is_running(&s));
    assert_int_equal(guard_pair_state(pair), GUARD_WATCHING);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + 50 * NS_PER_MS), 0);
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    AWAIT(is_stepped_down(&s));
    guard_destroy(pair);
    await_done(g, pair);
    assert_int_equal(guard_pair_state(pair), GUARD_DESTROYED);
    AWAIT(state_of(s.process) == 'Z' && state_of(s.group.process) == 'Z');
    assert_true(flag_is_set(s.plan.flag));
    assert_int_equal(guard_flag_clear(s.plan.flag, &world.err), 0);
    assert_false(flag_is_set(s.plan.flag));
    g = end_guard(g, pair);
}

// The daemon goes on publishing while its pair is frozen: what runs again is what was frozen, not what a later plan names.
static void what_was_frozen_runs_again_by_the_plan_that_froze_it(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    struct guard_plan later = s.plan;
    later.cgroup_count = later.process_count = 0;
    assert_int_equal(guard_pair_plan(pair, &later, &world.err), 0);
    guard_thaw(pair, clock_boot_ns() - 1); // too late; but by now it has seen that there is another plan
    await_done(g, pair);
    guard_thaw(pair, clock_boot_ns() + FAR_NS);
    await_done(g, pair);
    AWAIT(is_running(&s));
    g = end_guard(g, pair);
}

// What is gone already is no failure, and what is left is done all the same.
static void every_part_is_tried(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    strcpy(s.plan.cgroups[1], s.plan.cgroups[0]);
    snprintf(s.plan.cgroups[0], GUARD_PATH_SIZE, "%s/no-such-group", world.group_root);
    s.plan.cgroup_count = 2;
    pid_t gone = make_sleeper();
    s.plan.processes[1] = gone;
    s.plan.process_count = 2;
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    await_prepared(g, pair);
    end_child(gone);
    netns_here("ip addr del 192.0.2.10/24 dev a");
    netns_here("ip addr add 192.0.2.10/32 dev a"); // with another prefix, and with one more
    netns_here("ip addr add 192.0.2.10/25 dev a");
    guard_step_down(pair);
    await_done(g, pair);
    assert_false(is_on("192.0.2.10")); // by the act itself, however often it was there
    AWAIT(is_stepped_down(&s));
    check_report(pair, true);
    g = end_guard(g, pair);
}

// A number that has been used again since the plan was made: the process that has it now is none of ours.
static void strangers_with_the_number_of_a_process_are_left_alone(void **state)
{
    static struct plan_body body;
    static struct freezer freezer;
    pid_t ours = make_sleeper(), stranger = make_sleeper();
    memset(&body, 0, sizeof(body));
    body.process_count = 2;
    body.processes[0].pid = ours;
    body.processes[1].pid = stranger;
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(plan_process_start(body.processes[i].pid, &body.processes[i].start), 0);
    body.processes[1].start--;
    assert_int_equal(freezer_open(&freezer, &body), 0);
    assert_int_equal(freezer_freeze(&freezer), 0);
    AWAIT(state_of(ours) == 'T');
    assert_int_equal(freezer_kill(&freezer), 0);
    AWAIT(state_of(ours) == 'Z');
    assert_true(process_lives(stranger) && state_of(stranger) != 'T');
    freezer_close(&freezer);
}

static void freezer_of_version_one_works_too(void **state)
{
    struct group group;
    struct guard_plan plan = {.cgroup_count = 1};
    if (world.v1_root[0] == '\0') {
        skip();
        return;
    }
    make_group(&group, world.v1_root, false);
    snprintf(plan.cgroups[0], GUARD_PATH_SIZE, "%s", group.path);
    snprintf(plan.flag, sizeof(plan.flag), "%s/shop.flag", world.dir);
    struct guard *g = start_guard(false);
    struct guard_pair *pair = open_pair(g, "shop");
    assert_int_equal(guard_pair_plan(pair, &plan, &world.err), 0);
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(group_frozen(&group));
    guard_thaw(pair, clock_boot_ns() + FAR_NS);
    await_done(g, pair);
    AWAIT(!group_frozen(&group));
    guard_step_down(pair);
    await_done(g, pair);
    guard_destroy(pair);
    await_done(g, pair);
    AWAIT(state_of(group.process) == 'Z');
    g = end_guard(g, pair);
}

static void restarted_daemon_finds_guard_and_plan(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    pid_t daemon = make_daemon(&s, FAR_NS);
    end_child(daemon);
    struct guard *g = start_guard(true);
    struct guard_pair *pair = open_pair(g, "shop");
    assert_false(guard_acted(pair));
    assert_true(guard_deadline(pair) != GUARD_NO_DEADLINE);
    // The plan is the former daemon's: not published again, and whole.
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + 50 * NS_PER_MS), 0);
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    AWAIT(is_stepped_down(&s));
    g = end_guard(g, pair);
}

static void one_guard_for_one_daemon(void **state)
{
    struct scene s;
    struct guard *other = NULL;
    set_scene(&s, "shop");
    pid_t daemon = make_daemon(&s, FAR_NS);
    assert_int_equal(guard_start(GUARD_BINARY, world.dir, "testd", &other, NULL, &world.err), -EBUSY);
    assert_null(other);
    assert_int_equal(guard_start(GUARD_BINARY, world.dir, "a/b", &other, NULL, &world.err), -EINVAL);
    assert_int_equal(guard_start("/no/such/program", world.dir, "otherd", &other, NULL, &world.err), -ENOENT);
    end_child(daemon);
    struct guard *g = start_guard(true);
    g = end_guard(g, open_pair(g, "shop"));
}

static void death_of_the_guard_is_noticed(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    pid_t pid = guard_pid(g);
    // What is meant for an ordinary process does not end it.
    (void)kill(pid, SIGTERM);
    (void)kill(pid, SIGINT);
    (void)kill(pid, SIGHUP);
    guard_step_down(pair);
    await_done(g, pair);
    assert_true(process_lives(pid));
    guard_thaw(pair, clock_boot_ns() + FAR_NS);
    await_done(g, pair);
    assert_int_equal(kill(pid, SIGKILL), 0);
    AWAIT(guard_work(g) == -EPIPE);
    g = let_go(g);
    g = start_guard(false);
    pair = watch_scene(g, &s); // from the beginning
    assert_int_equal(guard_deadline(pair), GUARD_NO_DEADLINE);
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    g = end_guard(g, pair);
}

static void guard_ends_when_nothing_is_left(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
    pid_t pid = guard_pid(g);
    struct guard_pair *pair = watch_scene(g, &s);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    g = let_go(g);
    usleep(200000);
    assert_true(process_lives(pid)); // a pair is watched
    g = start_guard(true);
    guard_pair_close(open_pair(g, "shop"));
    g = let_go(g);
    AWAIT(!process_lives(pid));
}

// What the pair file does not name any more, on whatever interface.
static void what_a_former_run_has_left_is_taken_off_too(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    strcpy(s.plan.left[0].interface, "nosuch");
    s.plan.left[0].ip = s.plan.addresses[0];
    strcpy(s.plan.left[1].interface, "a");
    s.plan.left[1].ip = s.plan.addresses[1];
    s.plan.left_count = 2;
    s.plan.address_count = 1;
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    check_report(pair, true);
    g = end_guard(g, pair);
}

static void bad_plans_are_refused(void **state)
{
    static struct guard_plan good, bad;
    struct guard *g = start_guard(false);
    struct guard_pair *pair = open_pair(g, "shop"), *none = NULL;
    snprintf(good.flag, sizeof(good.flag), "%s/shop.flag", world.dir);
    assert_int_equal(guard_pair_plan(pair, &good, &world.err), 0);
    bad = good;
    bad.cgroup_count = GUARD_CGROUPS_MAX + 1;
    assert_int_equal(guard_pair_plan(pair, &bad, &world.err), -EINVAL);
    bad = good;
    bad.processes[bad.process_count++] = 1;
    assert_int_equal(guard_pair_plan(pair, &bad, &world.err), -EINVAL);
    bad = good;
    memset(bad.flag, 'x', sizeof(bad.flag));
    assert_int_equal(guard_pair_plan(pair, &bad, &world.err), -EINVAL);
    bad = good;
    bad.left_count = GUARD_LEFT_MAX + 1;
    assert_int_equal(guard_pair_plan(pair, &bad, &world.err), -EINVAL);
    bad = good;
    bad.left_count = 1;
    memset(bad.left[0].interface, 'x', sizeof(bad.left[0].interface));
    assert_int_equal(guard_pair_plan(pair, &bad, &world.err), -EINVAL);
    bad = good;
    strcpy(bad.interface, "nosuch");
    bad.address_count = 1;
    assert_int_equal(guard_pair_plan(pair, &bad, &world.err), -ENODEV);
    assert_int_equal(guard_pair_open(g, "", &none, &world.err), -EINVAL);
    g = end_guard(g, pair);
}

// As an exit status: 0 when the guard hangs up on it without a word.
static int be_stranger(void)
{
    char path[64], hello[64];
    int fds[PASS_FDS_MAX];
    size_t count = 0;
    snprintf(path, sizeof(path), "%s/guard-testd.sock", world.dir);
    if (chmod(world.dir, 0755) < 0 || chmod(path, 0666) < 0 || setresuid(65534, 65534, 65534) < 0)
        return 1;
    int fd = pass_open(world.dir, "guard-testd.sock", 0);
    return fd >= 0 && pass_receive(fd, hello, sizeof(hello), fds, &count) == 0 && count == 0 ? 0 : 2;
}

// The plan is shared memory: whoever has it can freeze and kill, also where the socket's mode does not keep him away.
static void nobody_else_gets_the_plan(void **state)
{
    int status = 0;
    struct guard *g = start_guard(false);
    pid_t guard = guard_pid(g);
    (void)open_pair(g, "shop"); // so that it stays
    g = let_go(g);
    pid_t stranger = make_child();
    if (stranger == 0)
        _exit(be_stranger());
    assert_int_equal(waitpid(stranger, &status, 0), stranger);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    g = start_guard(true);
    assert_int_equal(guard_pid(g), guard);
    g = end_guard(g, open_pair(g, "shop"));
}

static void guard_watches_a_hundred_pairs(void **state)
{
    struct guard *g = start_guard(false);
    char name[16];
    for (int i = 0; i < GUARD_PAIRS_MAX; i++) {
        snprintf(name, sizeof(name), "pair%d", i);
        (void)open_pair(g, name);
    }
    struct guard_pair *none = NULL;
    assert_true(GUARD_PAIRS_MAX >= 100);
    assert_int_equal(guard_pair_open(g, "one more", &none, &world.err), -ENOSPC);
    g = end_guard(g, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(steps_down_thaws_and_destroys_as_asked),
        TEST(what_was_frozen_runs_again_by_the_plan_that_froze_it),
        TEST(every_part_is_tried),
        TEST(strangers_with_the_number_of_a_process_are_left_alone),
        TEST(freezer_of_version_one_works_too),
        TEST(restarted_daemon_finds_guard_and_plan),
        TEST(one_guard_for_one_daemon),
        TEST(death_of_the_guard_is_noticed),
        TEST(guard_ends_when_nothing_is_left),
        TEST(what_a_former_run_has_left_is_taken_off_too),
        TEST(bad_plans_are_refused),
        TEST(nobody_else_gets_the_plan),
        TEST(guard_watches_a_hundred_pairs),
    };
    if (!world_open())
        return SKIP;
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    world_close();
    return r;
}
