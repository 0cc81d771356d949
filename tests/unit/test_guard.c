// SPDX-License-Identifier: Apache-2.0
// The guard, as the real process, beside daemons that are killed, stopped, restarted and slow: it
// acts when a deadline passes and never otherwise, does every part, and is found again.
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/capability.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/address/address.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "guard/freeze.h"
#include "guard/guard.h"
#include "guard/pass.h"
#include "guard/plan.h"
#include "tests/unit/netlock.h"
#include "tests/unit/netns.h"

#define PATIENCE_NS (120 * NS_PER_S) // the last guard against hanging; everything comes much sooner
#define CHILDREN    16
#define GROUPS      4
#define ROOT_SIZE   256
#define FAR_NS      (3600 * NS_PER_S)

static struct netns ns;
static struct error err;
static char dir[32];
static char group_root[ROOT_SIZE], v1_root[ROOT_SIZE], memory_root[ROOT_SIZE];

// --- Surroundings ---

// Where a control group hierarchy of this type, and with this option, is mounted; "" where it is
// not.
static void find_mount(const char *type, const char *option, char *path)
{
    char line[2048], at[1024], kind[64], options[512];
    CLEANUP_FCLOSE FILE *f = fopen("/proc/self/mounts", "re");
    path[0] = '\0';
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%*s %1023s %63s %511s", at, kind, options) != 3 ||
            strcmp(kind, type) != 0)
            continue;
        if (!option || strstr(options, option))
            snprintf(path, ROOT_SIZE, "%.200s", at);
    }
}

static void write_file(const char *path, const char *text)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail_msg("%s: %s", path, strerror(errno));
}

// For a child of the test, in which no assertion may fail: it would go on as a second test.
static bool try_write_file(const char *path, const char *text)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, strlen(text)) >= 0;
}

static bool file_has(const char *path, const char *text)
{
    char content[1024] = "";
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, content, sizeof(content) - 1);
    return n > 0 && strstr(content, text);
}

// A control group of our own with one process in it that does nothing.
struct group {
    char path[ROOT_SIZE + 64];
    bool v2;
    pid_t process;
};

// What a test has made. Its teardown takes away what is left of it, so that a test that failed
// leaves nothing to the next one: neither a guard, nor a frozen group, nor an address.
static struct {
    struct guard *guard; // that the test is attached to
    pid_t children[CHILDREN];
    size_t child_count;
    struct group groups[GROUPS];
    size_t group_count;
    struct netlock *lock;
} made;

static pid_t make_child(void)
{
    assert_true(made.child_count < CHILDREN);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        made.children[made.child_count++] = pid;
    return pid;
}

static void end_child(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    for (size_t i = 0; i < made.child_count; i++) {
        if (made.children[i] == pid) {
            made.children[i] = made.children[--made.child_count];
            return;
        }
    }
}

static pid_t make_sleeper(void)
{
    pid_t pid = make_child();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            usleep(1000);
    }
    return pid;
}

static void make_group(struct group *g, const char *root, bool v2)
{
    char path[ROOT_SIZE + 128], text[32];
    static int number;
    g->v2 = v2;
    snprintf(g->path, sizeof(g->path), "%s/understudy-guard-test-%d-%d", root, (int)getpid(),
             number++);
    assert_true(made.group_count < GROUPS);
    assert_int_equal(mkdir(g->path, 0755), 0);
    made.groups[made.group_count++] = *g;
    g->process = make_sleeper();
    snprintf(path, sizeof(path), "%s/cgroup.procs", g->path);
    snprintf(text, sizeof(text), "%d", (int)g->process);
    write_file(path, text);
}

static bool group_frozen(const struct group *g)
{
    char path[ROOT_SIZE + 128];
    snprintf(path, sizeof(path), "%s/%s", g->path, g->v2 ? "cgroup.events" : "freezer.state");
    return file_has(path, g->v2 ? "frozen 1" : "FROZEN");
}

static void drop_made_group(const struct group *g)
{
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    while (rmdir(g->path) < 0 && errno == EBUSY && clock_boot_ns() < give_up)
        usleep(10000);
    if (access(g->path, F_OK) == 0)
        print_error("%s is left behind\n", g->path);
}

static void thaw_made_group(const struct group *g)
{
    char path[ROOT_SIZE + 128];
    snprintf(path, sizeof(path), "%s/%s", g->path, g->v2 ? "cgroup.freeze" : "freezer.state");
    (void)try_write_file(path, g->v2 ? "0" : "THAWED");
}

// The state letter of /proc/PID/stat.
static char state_of(pid_t pid)
{
    char path[64], text[512] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        return '-';
    const char *end = strrchr(text, ')');
    return end ? end[2] : '-';
}

static bool is_on(const char *text)
{
    struct ip ip;
    bool present = false;
    assert_int_equal(ip_parse(text, &ip, &err), 0);
    assert_int_equal(address_present("a", &ip, &present, &err), 0);
    return present;
}

static bool flag_is_set(const char *path)
{
    bool set = false;
    char text[200];
    assert_int_equal(guard_flag_read(path, &set, text, sizeof(text), &err), 0);
    return set;
}

// --- One protected application and its plan ---

struct scene {
    struct group group;
    pid_t process;
    struct guard_plan plan;
};

static void set_scene(struct scene *s, const char *pair)
{
    memset(s, 0, sizeof(*s));
    make_group(&s->group, group_root, true);
    s->process = make_sleeper();
    struct guard_plan *p = &s->plan;
    strcpy(p->interface, "a");
    assert_int_equal(ip_parse("192.0.2.10/24", &p->addresses[0], &err), 0);
    assert_int_equal(ip_parse("2001:db8::10/64", &p->addresses[1], &err), 0);
    p->address_count = 2;
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(address_add("a", &p->addresses[i], &err), 0);
    snprintf(p->cgroups[0], GUARD_PATH_SIZE, "%s", s->group.path);
    p->cgroup_count = 1;
    p->processes[0] = s->process;
    p->process_count = 1;
    snprintf(p->flag, sizeof(p->flag), "%s/%s.flag", dir, pair);
}

static bool is_stepped_down(const struct scene *s)
{
    return !is_on("192.0.2.10") && !is_on("2001:db8::10") && group_frozen(&s->group) &&
           state_of(s->process) == 'T' && flag_is_set(s->plan.flag);
}

static bool is_running(const struct scene *s)
{
    return !group_frozen(&s->group) && state_of(s->process) != 'T' && !flag_is_set(s->plan.flag);
}

#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        int64_t give_up_ = clock_boot_ns() + PATIENCE_NS;                                          \
        bool holds_ = (condition);                                                                 \
        while (!holds_ && clock_boot_ns() < give_up_) {                                            \
            usleep(2000);                                                                          \
            holds_ = (condition);                                                                  \
        }                                                                                          \
        if (!holds_)                                                                               \
            fail_msg("it did not come to this: %s", #condition);                                   \
    } while (0)

static struct guard *start(bool expect_running)
{
    struct guard *g = NULL;
    bool running = false;
    struct error e = {0};
    int r = guard_start(GUARD_BINARY, dir, "testd", &g, &running, &e);
    if (r < 0)
        fail_msg("guard_start: %s", e.text);
    made.guard = g;
    assert_int_equal(running, expect_running);
    return g;
}

static struct guard *let_go(struct guard *g)
{
    made.guard = NULL;
    return guard_free(g);
}

static struct guard_pair *open_pair(struct guard *g, const char *name)
{
    struct guard_pair *pair = NULL;
    assert_int_equal(guard_pair_open(g, name, &pair, &err), 0);
    return pair;
}

static struct guard_pair *watch_scene(struct guard *g, const struct scene *s)
{
    struct guard_pair *pair = open_pair(g, "shop");
    assert_int_equal(guard_pair_plan(pair, &s->plan, &err), 0);
    return pair;
}

static bool process_lives(pid_t pid)
{
    char state = state_of(pid);
    return state != '-' && state != 'Z';
}

static struct guard *end(struct guard *g, struct guard_pair *pair)
{
    pid_t pid = guard_pid(g);
    if (pair)
        guard_pair_close(pair);
    assert_int_equal(guard_end(g, &err), 0);
    AWAIT(!process_lives(pid));
    return let_go(g);
}

// Waits until the guard has done what it was asked for, as a daemon's loop would.
static void await_done(struct guard *g, struct guard_pair *pair)
{
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    while (guard_pair_pending(pair) && clock_boot_ns() < give_up) {
        struct pollfd p = {.fd = guard_fd(g), .events = POLLIN};
        (void)poll(&p, 1, 1000);
        assert_int_equal(guard_work(g), 0);
    }
    assert_false(guard_pair_pending(pair));
}

// Waits until the guard has taken in the plan that was published last: before it looks at any
// request it prepares, and this request changes nothing.
static void await_prepared(struct guard *g, struct guard_pair *pair)
{
    guard_thaw(pair, 0);
    await_done(g, pair);
}

// What a daemon does, as an exit status: 42 when it woke up and found itself stepped down.
static int be_daemon(const struct scene *s, int64_t after_ns, int ready)
{
    struct guard *g = NULL;
    struct guard_pair *pair = NULL;
    if (guard_start(GUARD_BINARY, dir, "testd", &g, NULL, &err) < 0 ||
        guard_pair_open(g, "shop", &pair, &err) < 0 || guard_pair_plan(pair, &s->plan, &err) < 0) {
        fprintf(stderr, "daemon: %s\n", err.text);
        return 1;
    }
    guard_pair_role(pair, INQUIRY_ACTIVE);
    if (guard_set_deadline(pair, clock_boot_ns() + after_ns) < 0 || write(ready, "", 1) != 1)
        return 1;
    while (!guard_acted(pair))
        usleep(1000);
    return guard_set_deadline(pair, clock_boot_ns() + FAR_NS) == -ESTALE ? 42 : 1;
}

// A daemon: a process that attaches, publishes, arms and then does nothing more. Returns when it
// has armed.
static pid_t make_daemon(const struct scene *s, int64_t after_ns)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = make_child();
    if (pid == 0)
        _exit(be_daemon(s, after_ns, ready[1]));
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    return pid;
}

static void check_report(const struct guard_pair *pair, bool asked)
{
    struct guard_report r;
    guard_pair_report(pair, &r);
    assert_int_equal(r.asked, asked);
    assert_true(asked || r.begun_ns >= r.deadline_ns);
    assert_true(r.begun_ns <= r.addresses_ns && r.addresses_ns <= r.frozen_ns);
    assert_true(r.frozen_ns <= r.flagged_ns);
    assert_int_equal(r.addresses_error, 0);
    // The act does not wait for long until a group says that it is frozen; the tests do.
    assert_true(r.frozen_error == 0 || r.frozen_error == -EINPROGRESS);
    assert_int_equal(r.flag_error, 0);
}

// --- Deadlines ---

static void acts_for_a_daemon_that_was_killed(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    pid_t daemon = make_daemon(&s, 1 * NS_PER_S);
    end_child(daemon);
    AWAIT(is_stepped_down(&s));
    struct guard *g = start(true);
    struct guard_pair *pair = open_pair(g, "shop");
    assert_true(guard_acted(pair));
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    check_report(pair, false);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), -ESTALE);
    g = end(g, pair);
}

static void acts_for_a_daemon_that_is_stopped(void **state)
{
    struct scene s;
    int status = 0;
    set_scene(&s, "shop");
    pid_t daemon = make_daemon(&s, 1 * NS_PER_S);
    assert_int_equal(kill(daemon, SIGSTOP), 0);
    AWAIT(is_stepped_down(&s));
    assert_int_equal(kill(daemon, SIGCONT), 0);
    assert_int_equal(waitpid(daemon, &status, 0), daemon);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    struct guard *g = start(true);
    g = end(g, open_pair(g, "shop"));
}

static void moved_deadlines_do_not_act(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    // Three times as long as the first one would have lasted. Where the machine stalls for longer
    // than that, the guard has to act, and there is no verdict.
    int64_t until = clock_boot_ns() + 3 * NS_PER_S, deadline = INT64_MAX;
    bool stalled = false;
    while (clock_boot_ns() < until && !stalled) {
        int64_t next = clock_boot_ns() + 1 * NS_PER_S;
        stalled = guard_set_deadline(pair, next) < 0;
        assert_true(!stalled || clock_boot_ns() >= deadline);
        deadline = next;
        usleep(20000);
    }
    if (!stalled && guard_set_deadline(pair, GUARD_NO_DEADLINE) < 0) {
        assert_true(clock_boot_ns() >= deadline);
        stalled = true;
    }
    if (!stalled) {
        usleep(1200000);
        assert_false(guard_acted(pair));
        assert_int_equal(guard_pair_state(pair), GUARD_WATCHING);
        assert_true(is_running(&s) && is_on("192.0.2.10"));
    }
    g = end(g, pair);
}

static void earlier_deadline_is_seen_at_once(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    usleep(100000); // it sleeps for an hour now
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + 100 * NS_PER_MS), 0);
    AWAIT(is_stepped_down(&s));
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    check_report(pair, false);
    g = end(g, pair);
}

static void pairs_have_their_own_deadlines(void **state)
{
    struct scene s;
    struct guard_plan other = {.flag = ""};
    set_scene(&s, "shop");
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s), *second = open_pair(g, "mail");
    snprintf(other.flag, sizeof(other.flag), "%s/mail.flag", dir);
    assert_int_equal(guard_set_deadline(second, clock_boot_ns()), -EINVAL); // it has no plan yet
    assert_int_equal(guard_pair_plan(second, &other, &err), 0);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    assert_int_equal(guard_set_deadline(second, clock_boot_ns() + 50 * NS_PER_MS), 0);
    AWAIT(guard_pair_state(second) == GUARD_STEPPED_DOWN);
    assert_true(flag_is_set(other.flag));
    assert_false(guard_acted(pair));
    assert_true(is_running(&s) && is_on("192.0.2.10"));
    guard_pair_close(second);
    g = end(g, pair);
}

// --- Requests ---

static void steps_down_thaws_and_destroys_as_asked(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start(false);
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
    assert_int_equal(guard_flag_clear(s.plan.flag, &err), 0);
    assert_false(flag_is_set(s.plan.flag));
    g = end(g, pair);
}

// The daemon goes on publishing while its pair is frozen: what runs again is what was frozen, not what a later plan names.
static void what_was_frozen_runs_again_by_the_plan_that_froze_it(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    struct guard_plan later = s.plan;
    later.cgroup_count = later.process_count = 0;
    assert_int_equal(guard_pair_plan(pair, &later, &err), 0);
    guard_thaw(pair, clock_boot_ns() - 1); // too late; but by now it has seen that there is another plan
    await_done(g, pair);
    guard_thaw(pair, clock_boot_ns() + FAR_NS);
    await_done(g, pair);
    AWAIT(is_running(&s));
    g = end(g, pair);
}

// What is gone already is no failure, and what is left is done all the same.
static void every_part_is_tried(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    strcpy(s.plan.cgroups[1], s.plan.cgroups[0]);
    snprintf(s.plan.cgroups[0], GUARD_PATH_SIZE, "%s/no-such-group", group_root);
    s.plan.cgroup_count = 2;
    pid_t gone = make_sleeper();
    s.plan.processes[1] = gone;
    s.plan.process_count = 2;
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    await_prepared(g, pair);
    end_child(gone);
    netns_here("ip addr del 192.0.2.10/24 dev a");
    netns_here("ip addr add 192.0.2.10/32 dev a"); // with another prefix, and with one more
    netns_here("ip addr add 192.0.2.10/25 dev a");
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    check_report(pair, true);
    g = end(g, pair);
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
    if (v1_root[0] == '\0') {
        skip();
        return;
    }
    make_group(&group, v1_root, false);
    snprintf(plan.cgroups[0], GUARD_PATH_SIZE, "%s", group.path);
    snprintf(plan.flag, sizeof(plan.flag), "%s/shop.flag", dir);
    struct guard *g = start(false);
    struct guard_pair *pair = open_pair(g, "shop");
    assert_int_equal(guard_pair_plan(pair, &plan, &err), 0);
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
    g = end(g, pair);
}

// Fills the group that it is put into, and is the one that the kernel kills when somebody wants
// more.
static pid_t make_hog(const char *group)
{
    char path[ROOT_SIZE + 128], byte;
    int ready[2];
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = make_child();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(path, sizeof(path), "%s/cgroup.procs", group);
        if (!try_write_file("/proc/self/oom_score_adj", "1000") || !try_write_file(path, "0"))
            _exit(1);
        char *memory = malloc(8 << 20);
        memset(memory, 1, 8 << 20);
        if (write(ready[1], memory, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    return pid;
}

// The kernel refuses when more has been taken since it was read.
static bool limit_memory_to_usage(const char *group)
{
    char path[ROOT_SIZE + 128];
    size_t size = 0;
    CLEANUP_FREE char *usage = NULL;
    snprintf(path, sizeof(path), "%s/memory.usage_in_bytes", group);
    assert_int_equal(file_read(path, 64, &usage, &size, &err), 0);
    snprintf(path, sizeof(path), "%s/memory.limit_in_bytes", group);
    return try_write_file(path, usage);
}

// With not a page to be had in its memory group, everything still happens.
static void acts_in_a_full_memory_group(void **state)
{
    struct scene s;
    struct group memory = {.v2 = false};
    char path[ROOT_SIZE + 128], text[64];
    if (memory_root[0] == '\0') {
        skip();
        return;
    }
    set_scene(&s, "shop");
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    await_prepared(g, pair);
    snprintf(memory.path, sizeof(memory.path), "%s/understudy-guard-test-%d-m", memory_root,
             (int)getpid());
    assert_int_equal(mkdir(memory.path, 0755), 0);
    made.groups[made.group_count++] = memory;
    pid_t hog = make_hog(memory.path);
    snprintf(path, sizeof(path), "%s/cgroup.procs", memory.path);
    snprintf(text, sizeof(text), "%d", (int)guard_pid(g));
    write_file(path, text);
    AWAIT(limit_memory_to_usage(memory.path));
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + 100 * NS_PER_MS), 0);
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    AWAIT(is_stepped_down(&s));
    check_report(pair, false);
    end_child(hog);
    snprintf(path, sizeof(path), "%s/memory.limit_in_bytes", memory.path);
    write_file(path, "-1");
    g = end(g, pair);
}

// --- How long it takes: from the last heartbeat, the address is off before T ---

enum failing { FAILS_BY_KILL, FAILS_BY_STOP, FAILS_BY_MEMORY, FAILING_KINDS };

// GUARD_ROUNDS=N: N rounds of each kind, with the timings that pairs have by default. Otherwise a few, with so much room
// that a loaded machine does not fail them.
struct timings {
    int rounds;
    int64_t timeout_ns, margin_ns;
};

static struct timings timings_of_rounds(void)
{
    const char *text = getenv("GUARD_ROUNDS");
    if (text && atoi(text) > 0)
        return (struct timings){atoi(text), 2 * NS_PER_S, 300 * NS_PER_MS};
    return (struct timings){2, 60 * NS_PER_S, 60 * NS_PER_S - 500 * NS_PER_MS};
}

// What the daemon and the test share.
struct pulse {
    _Atomic int beating;
    _Atomic int late;   // it was not scheduled for so long that the guard has acted before it failed
    _Atomic int hungry; // takes memory that there is not
};

static void take_memory_for_ever(void)
{
    for (size_t size = 64 << 20;;) {
        volatile char *memory = malloc(size);
        for (size_t i = 0; memory && i < size; i += 4096)
            memory[i] = 1;
    }
}

// Each heartbeat moves the deadline to T - M behind it.
static int beat_until_killed(const struct scene *s, const struct timings *t, struct pulse *pulse)
{
    struct guard *g = NULL;
    struct guard_pair *pair = NULL;
    if (guard_start(GUARD_BINARY, dir, "testd", &g, NULL, &err) < 0 || guard_pair_open(g, "shop", &pair, &err) < 0 ||
        guard_pair_plan(pair, &s->plan, &err) < 0)
        return 1;
    while (guard_set_deadline(pair, clock_boot_ns() + t->timeout_ns - t->margin_ns) == 0) {
        atomic_store(&pulse->beating, 1);
        if (atomic_load(&pulse->hungry))
            take_memory_for_ever();
        usleep(20000);
    }
    atomic_store(&pulse->late, 1);
    for (;;)
        pause();
}

static pid_t make_beating(const struct scene *s, const struct timings *t, struct pulse *pulse)
{
    atomic_store(&pulse->beating, 0);
    atomic_store(&pulse->late, 0);
    atomic_store(&pulse->hungry, 0);
    pid_t pid = make_child();
    if (pid == 0)
        _exit(beat_until_killed(s, t, pulse));
    AWAIT(atomic_load(&pulse->beating));
    return pid;
}

// Daemon and guard in a group without a free page, as in the unit that a service manager makes; then the daemon wants one.
static void starve(const struct group *memory, pid_t daemon, pid_t guard, struct pulse *pulse)
{
    char path[ROOT_SIZE + 128], text[32];
    const pid_t pids[] = {daemon, guard};
    snprintf(path, sizeof(path), "%s/cgroup.procs", memory->path);
    for (size_t i = 0; i < ARRAY_LEN(pids); i++) {
        snprintf(text, sizeof(text), "%d", (int)pids[i]);
        write_file(path, text);
    }
    AWAIT(limit_memory_to_usage(memory->path));
    atomic_store(&pulse->hungry, 1);
}

static void fail_by(enum failing how, pid_t daemon, pid_t guard, const struct group *memory, struct pulse *pulse)
{
    if (how == FAILS_BY_MEMORY)
        starve(memory, daemon, guard, pulse);
    else
        assert_int_equal(kill(daemon, how == FAILS_BY_KILL ? SIGKILL : SIGSTOP), 0);
}

// Makes the guard of the next daemon, with a pair, so that it stays.
static pid_t make_guard_for_round(void)
{
    struct guard *g = start(false);
    pid_t pid = guard_pid(g);
    (void)open_pair(g, "shop");
    g = let_go(g);
    return pid;
}

static void make_memory_group(struct group *memory)
{
    *memory = (struct group){.v2 = false};
    snprintf(memory->path, sizeof(memory->path), "%s/understudy-guard-test-%d-s", memory_root, (int)getpid());
    assert_int_equal(mkdir(memory->path, 0755), 0);
    made.groups[made.group_count++] = *memory;
}

// One round. Returns how long after the heartbeat that the deadline stands for the address was off, ns; -1: the daemon was
// not scheduled, and did not come to fail.
static int64_t round_of(enum failing how, const struct timings *t, struct pulse *pulse)
{
    struct scene s;
    struct group memory;
    struct guard_report r;
    set_scene(&s, "shop");
    if (how == FAILS_BY_MEMORY)
        make_memory_group(&memory);
    pid_t guard = make_guard_for_round();
    pid_t daemon = make_beating(&s, t, pulse);
    usleep((useconds_t)(rand() % 200000)); // anywhere between two heartbeats
    fail_by(how, daemon, guard, &memory, pulse);
    AWAIT(is_stepped_down(&s));
    end_child(daemon);
    struct guard *g = start(true);
    struct guard_pair *pair = open_pair(g, "shop");
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    check_report(pair, false);
    guard_pair_report(pair, &r);
    guard_destroy(pair);
    await_done(g, pair);
    g = end(g, pair);
    end_child(s.process);
    end_child(s.group.process);
    drop_made_group(&s.group);
    if (how == FAILS_BY_MEMORY)
        drop_made_group(&memory);
    made.group_count = 0;
    int64_t took = r.addresses_ns - (r.deadline_ns - t->timeout_ns + t->margin_ns);
    assert_true(took < t->timeout_ns);
    return atomic_load(&pulse->late) ? -1 : took;
}

static int compare_times(const void *a, const void *b)
{
    int64_t one = *(const int64_t *)a, other = *(const int64_t *)b;
    return (one > other) - (one < other);
}

static void print_times(const char *name, const struct timings *t, int64_t *times)
{
    qsort(times, (size_t)t->rounds, sizeof(*times), compare_times);
    print_message("%s: the address is off before T = %d ms in %d of %d: min %.1f, median %.1f, max %.1f ms after the last "
                  "heartbeat\n",
                  name, (int)(t->timeout_ns / NS_PER_MS), t->rounds, t->rounds, (double)times[0] / NS_PER_MS,
                  (double)times[t->rounds / 2] / NS_PER_MS, (double)times[t->rounds - 1] / NS_PER_MS);
}

static void address_is_off_before_t_however_the_daemon_fails(void **state)
{
    static const char *const names[FAILING_KINDS] = {"kill -9", "kill -STOP", "full memory group"};
    struct timings t = timings_of_rounds();
    struct pulse *pulse = mmap(NULL, sizeof(*pulse), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int64_t *times = calloc((size_t)t.rounds, sizeof(*times));
    assert_true(pulse != MAP_FAILED && times);
    for (int how = 0; how < FAILING_KINDS; how++) {
        if (how == FAILS_BY_MEMORY && memory_root[0] == '\0')
            continue;
        for (int i = 0; i < t.rounds; i++) {
            do
                times[i] = round_of((enum failing)how, &t, pulse);
            while (times[i] < 0);
        }
        print_times(names[how], &t, times);
    }
    free(times);
    (void)munmap(pulse, sizeof(*pulse));
}

// Of /proc/PID/status, kB.
static long status_of(pid_t pid, const char *field)
{
    char path[64], line[256];
    size_t length = strlen(field);
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    CLEANUP_FCLOSE FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, field, length) == 0 && line[length] == ':')
            return strtol(line + length + 1, NULL, 10);
    return -1;
}

// Whether each mapping that can be read is locked; what the kernel maps by itself cannot be.
static bool is_locked(pid_t pid)
{
    char path[64], line[512], name[256] = "";
    bool readable = false;
    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
    CLEANUP_FCLOSE FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        char mode[8], of[256] = "";
        if (sscanf(line, "%*x-%*x %7s %*x %*s %*u %255[^\n]", mode, of) >= 1 && strchr(line, '-') < strchr(line, ' ')) {
            readable = mode[0] == 'r' && strncmp(of, "[v", 2) != 0;
            snprintf(name, sizeof(name), "%s", of);
        }
        if (readable && strncmp(line, "VmFlags:", 8) == 0 && !strstr(line, " lo")) {
            print_error("not locked: %s\n", name);
            return false;
        }
    }
    return true;
}

// Pages that it had to wait for so far, and those that were merely not mapped.
static void faults_of(pid_t pid, unsigned long *ret_major, unsigned long *ret_minor)
{
    char path[64], text[512] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
    assert_int_equal(sscanf(strrchr(text, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %lu %*u %lu", ret_minor, ret_major), 2);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAY_LOCK false // they do not let a program lock its memory
#else
#define MAY_LOCK true
#endif

// All of it is locked, and an act meets no page that is not there.
static void memory_is_locked(void **state)
{
    struct scene s;
    unsigned long major, minor, major_then, minor_then;
    if (!MAY_LOCK || geteuid() != 0) {
        skip();
        return;
    }
    set_scene(&s, "shop");
    struct guard *g = start(false);
    pid_t pid = guard_pid(g);
    struct guard_pair *pair = watch_scene(g, &s);
    await_prepared(g, pair);
    print_message("the guard: %ld kB locked, %ld kB resident\n", status_of(pid, "VmLck"), status_of(pid, "VmRSS"));
    assert_true(status_of(pid, "VmLck") > 0);
    assert_true(is_locked(pid));
    faults_of(pid, &major, &minor);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + NS_PER_MS), 0);
    AWAIT(is_stepped_down(&s));
    faults_of(pid, &major_then, &minor_then);
    assert_int_equal(major_then, major);
    guard_destroy(pair);
    await_done(g, pair);
    g = end(g, pair);
}

// --- Life of daemon and guard ---

static void restarted_daemon_finds_guard_and_plan(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    pid_t daemon = make_daemon(&s, FAR_NS);
    end_child(daemon);
    struct guard *g = start(true);
    struct guard_pair *pair = open_pair(g, "shop");
    assert_false(guard_acted(pair));
    assert_true(guard_deadline(pair) != GUARD_NO_DEADLINE);
    // The plan is the former daemon's: not published again, and whole.
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + 50 * NS_PER_MS), 0);
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    AWAIT(is_stepped_down(&s));
    g = end(g, pair);
}

static void one_guard_for_one_daemon(void **state)
{
    struct scene s;
    struct guard *other = NULL;
    set_scene(&s, "shop");
    pid_t daemon = make_daemon(&s, FAR_NS);
    assert_int_equal(guard_start(GUARD_BINARY, dir, "testd", &other, NULL, &err), -EBUSY);
    assert_null(other);
    assert_int_equal(guard_start(GUARD_BINARY, dir, "a/b", &other, NULL, &err), -EINVAL);
    assert_int_equal(guard_start("/no/such/program", dir, "otherd", &other, NULL, &err), -ENOENT);
    end_child(daemon);
    struct guard *g = start(true);
    g = end(g, open_pair(g, "shop"));
}

static void death_of_the_guard_is_noticed(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start(false);
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
    g = start(false);
    pair = watch_scene(g, &s); // from the beginning
    assert_int_equal(guard_deadline(pair), GUARD_NO_DEADLINE);
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    g = end(g, pair);
}

static void guard_ends_when_nothing_is_left(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start(false);
    pid_t pid = guard_pid(g);
    struct guard_pair *pair = watch_scene(g, &s);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    g = let_go(g);
    usleep(200000);
    assert_true(process_lives(pid)); // a pair is watched
    g = start(true);
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
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_step_down(pair);
    await_done(g, pair);
    AWAIT(is_stepped_down(&s));
    check_report(pair, true);
    g = end(g, pair);
}

static void bad_plans_are_refused(void **state)
{
    static struct guard_plan good, bad;
    struct guard *g = start(false);
    struct guard_pair *pair = open_pair(g, "shop"), *none = NULL;
    snprintf(good.flag, sizeof(good.flag), "%s/shop.flag", dir);
    assert_int_equal(guard_pair_plan(pair, &good, &err), 0);
    bad = good;
    bad.cgroup_count = GUARD_CGROUPS_MAX + 1;
    assert_int_equal(guard_pair_plan(pair, &bad, &err), -EINVAL);
    bad = good;
    bad.processes[bad.process_count++] = 1;
    assert_int_equal(guard_pair_plan(pair, &bad, &err), -EINVAL);
    bad = good;
    memset(bad.flag, 'x', sizeof(bad.flag));
    assert_int_equal(guard_pair_plan(pair, &bad, &err), -EINVAL);
    bad = good;
    bad.left_count = GUARD_LEFT_MAX + 1;
    assert_int_equal(guard_pair_plan(pair, &bad, &err), -EINVAL);
    bad = good;
    bad.left_count = 1;
    memset(bad.left[0].interface, 'x', sizeof(bad.left[0].interface));
    assert_int_equal(guard_pair_plan(pair, &bad, &err), -EINVAL);
    bad = good;
    strcpy(bad.interface, "nosuch");
    bad.address_count = 1;
    assert_int_equal(guard_pair_plan(pair, &bad, &err), -ENODEV);
    assert_int_equal(guard_pair_open(g, "", &none, &err), -EINVAL);
    g = end(g, pair);
}

// --- At the management address ---

static enum inquiry_result ask_once(uint16_t port, const uint8_t *key, enum inquiry_role *ret_role)
{
    struct ip to;
    struct inquiry *q = NULL;
    assert_int_equal(ip_parse("127.0.0.1", &to, &err), 0);
    assert_int_equal(inquiry_start(NULL, &to, port, "shop", INQUIRY_PRIMARY, key, &q, &err), 0);
    while (inquiry_result(q, NULL) == INQUIRY_ASKING) {
        struct pollfd p = {.fd = inquiry_fd(q), .events = POLLIN};
        (void)poll(&p, 1, 10);
        inquiry_work(q);
    }
    enum inquiry_result result = inquiry_result(q, ret_role);
    inquiry_free(q);
    return result;
}

// An inquiry waits for a fraction of a second only, in which a busy machine may let nobody answer.
static enum inquiry_result ask(uint16_t port, const uint8_t *key, enum inquiry_role *ret_role)
{
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    enum inquiry_result result;
    do
        result = ask_once(port, key, ret_role);
    while (result == INQUIRY_SILENT && clock_boot_ns() < give_up);
    return result;
}

static void guard_answers_for_a_dead_daemon(void **state)
{
    static const uint8_t key[MAC_KEY_SIZE] = {1, 2, 3};
    struct scene s;
    struct ip at;
    enum inquiry_role role = 0;
    struct inquiry_end self = {.identity = INQUIRY_PRIMARY, .role = INQUIRY_ACTIVE};
    set_scene(&s, "shop");
    assert_int_equal(ip_parse("127.0.0.1", &at, &err), 0);
    int fd = inquiry_socket(&at, 0, &err);
    uint16_t port = inquiry_socket_port(fd);
    // Another pair has a management port of its own.
    int second = inquiry_socket(&at, 0, &err);
    uint16_t second_port = inquiry_socket_port(second);
    memcpy(self.key, key, sizeof(key));
    inquiry_id(key, "shop", self.id);
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_pair_inquiry(pair, &self);
    for (int i = 0; i < 5; i++) // as daemons after daemons do
        assert_int_equal(guard_share_inquiry(g, fd, &err), 0);
    assert_int_equal(guard_share_inquiry(g, second, &err), 0);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    (void)close(fd);
    (void)close(second);
    g = let_go(g); // the daemon is gone
    assert_int_equal(ask(second_port, key, &role), INQUIRY_SAYS_ACTIVE);
    assert_int_equal(ask(port, key, &role), INQUIRY_SAYS_ACTIVE);
    assert_int_equal(role, INQUIRY_ACTIVE);
    g = start(true);
    assert_true(guard_inquiry_fd(g, 0) >= 0);
    assert_int_equal(inquiry_socket_port(guard_inquiry_fd(g, 0)), port);
    assert_int_equal(inquiry_socket_port(guard_inquiry_fd(g, 1)), second_port);
    assert_int_equal(guard_inquiry_fd(g, 2), -1);
    pair = open_pair(g, "shop");
    guard_step_down(pair);
    await_done(g, pair);
    assert_int_equal(ask(port, key, &role), INQUIRY_SAYS_NOT);
    assert_int_equal(role, INQUIRY_STEPPED_DOWN);
    g = end(g, pair);
}

// Starts a guard that may not touch addresses, with a pair, so that it stays.
static int be_daemon_without_power(void)
{
    struct guard *g = NULL;
    struct guard_pair *pair = NULL;
    if (prctl(PR_CAPBSET_DROP, CAP_NET_ADMIN) < 0)
        return 1;
    return guard_start(GUARD_BINARY, dir, "testd", &g, NULL, &err) < 0 || guard_pair_open(g, "shop", &pair, &err) < 0;
}

// An address that could not be taken away is told, and as long as it may be there, whoever asks hears "active".
static void address_that_stays_is_no_stepping_down(void **state)
{
    static const uint8_t key[MAC_KEY_SIZE] = {4, 5, 6};
    struct scene s;
    struct ip at;
    struct guard_report r;
    enum inquiry_role role = 0;
    int status = 0;
    struct inquiry_end self = {.identity = INQUIRY_PRIMARY, .role = INQUIRY_ACTIVE};
    set_scene(&s, "shop");
    pid_t daemon = make_child();
    if (daemon == 0)
        _exit(be_daemon_without_power());
    assert_int_equal(waitpid(daemon, &status, 0), daemon);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct guard *g = start(true);
    struct guard_pair *pair = watch_scene(g, &s);
    memcpy(self.key, key, sizeof(key));
    inquiry_id(key, "shop", self.id);
    guard_pair_inquiry(pair, &self);
    assert_int_equal(ip_parse("127.0.0.1", &at, &err), 0);
    CLEANUP_CLOSE int fd = inquiry_socket(&at, 0, &err);
    assert_int_equal(guard_share_inquiry(g, fd, &err), 0);
    guard_step_down(pair);
    await_done(g, pair);
    guard_pair_report(pair, &r);
    assert_int_equal(r.addresses_error, -EPERM);
    assert_true(is_on("192.0.2.10"));
    AWAIT(group_frozen(&s.group) && flag_is_set(s.plan.flag)); // the rest is done all the same
    assert_int_equal(ask(inquiry_socket_port(fd), key, &role), INQUIRY_SAYS_ACTIVE);
    g = end(g, pair);
}

// --- Requests that wait in the kernel ---

// A daemon that puts an address on when it is told so, and nothing more.
struct latecomer {
    pid_t pid, guard;
    int go[2];
};

static int be_latecomer(const struct scene *s, enum inquiry_role role, bool steps_down, int ready, int go)
{
    struct guard *g = NULL;
    struct guard_pair *pair = NULL;
    char byte;
    if (guard_start(GUARD_BINARY, dir, "testd", &g, NULL, &err) < 0 || guard_pair_open(g, "shop", &pair, &err) < 0 ||
        guard_pair_plan(pair, &s->plan, &err) < 0)
        return 1;
    guard_pair_role(pair, role);
    pid_t pid = guard_pid(g);
    if (write(ready, &pid, sizeof(pid)) != sizeof(pid) || read(go, &byte, 1) != 1)
        return 1;
    if (steps_down && guard_set_deadline(pair, clock_boot_ns()) < 0)
        return 1;
    if (read(go, &byte, 1) != 1 || address_add("a", &s->plan.addresses[0], &err) < 0)
        return 1;
    for (;;)
        pause();
}

static struct latecomer make_latecomer(const struct scene *s, enum inquiry_role role, bool steps_down)
{
    struct latecomer l;
    int ready[2];
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    assert_int_equal(pipe2(l.go, O_CLOEXEC), 0);
    l.pid = make_child();
    if (l.pid == 0)
        _exit(be_latecomer(s, role, steps_down, ready[1], l.go[0]));
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &l.guard, sizeof(l.guard)), sizeof(l.guard));
    (void)close(ready[0]);
    return l;
}

static void tell(const struct latecomer *l)
{
    assert_int_equal(write(l->go[1], "", 1), 1);
}

// Ends (SIGKILL) or stops it while its request waits for the kernel's lock, behind the guard's own removal if the pair
// steps down. Returns when the kernel has carried both out. False: the lock cannot be held here.
static bool is_cut_off_in_the_kernel(struct latecomer *l, bool steps_down, int signal)
{
    int status = 0;
    made.lock = netlock_hold();
    if (!made.lock)
        return false;
    tell(l);
    if (steps_down)
        AWAIT(state_of(l->guard) == 'D');
    tell(l);
    AWAIT(state_of(l->pid) == 'D');
    assert_int_equal(kill(l->pid, signal), 0);
    made.lock = netlock_release(made.lock);
    assert_int_equal(waitpid(l->pid, &status, WUNTRACED), l->pid);
    assert_true(signal == SIGKILL ? WIFSIGNALED(status) : WIFSTOPPED(status));
    (void)close(l->go[0]);
    (void)close(l->go[1]);
    return true;
}

static void is_off_in_the_end(enum inquiry_role role, bool steps_down, int signal)
{
    struct scene s;
    set_scene(&s, "shop");
    assert_int_equal(address_remove("a", &s.plan.addresses[0], &err), 0);
    struct latecomer l = make_latecomer(&s, role, steps_down);
    if (!is_cut_off_in_the_kernel(&l, steps_down, signal)) {
        skip();
        return;
    }
    AWAIT(!is_on("192.0.2.10"));
    end_child(l.pid);
    struct guard *g = start(true); // it has taken in the end of the former daemon by now
    assert_false(is_on("192.0.2.10"));
    g = end(g, open_pair(g, "shop"));
}

// The kernel grants a request of a dead process, too, and behind the guard's removal as well as before it.
static void address_that_a_dead_daemon_puts_on_is_off(void **state)
{
    is_off_in_the_end(INQUIRY_ACTIVE, true, SIGKILL);
}

static void address_that_a_stopped_daemon_puts_on_is_off(void **state)
{
    is_off_in_the_end(INQUIRY_ACTIVE, true, SIGSTOP);
}

// Its wish to take the address off again has died with it.
static void address_that_a_dead_passive_daemon_puts_on_is_off(void **state)
{
    is_off_in_the_end(INQUIRY_PASSIVE, false, SIGKILL);
}

// Within its deadline it is to go on where it was.
static void address_of_a_dead_active_daemon_stays(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    assert_int_equal(address_remove("a", &s.plan.addresses[0], &err), 0);
    struct latecomer l = make_latecomer(&s, INQUIRY_ACTIVE, false);
    if (!is_cut_off_in_the_kernel(&l, false, SIGKILL)) {
        skip();
        return;
    }
    end_child(l.pid);
    struct guard *g = start(true);
    assert_true(is_on("192.0.2.10"));
    assert_true(is_on("2001:db8::10"));
    g = end(g, open_pair(g, "shop"));
}

// What is on by right is left alone: after a thaw, and once the slot has been given back.
static void no_look_behind_a_thaw(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_step_down(pair);
    await_done(g, pair);
    assert_int_equal(address_add("a", &s.plan.addresses[0], &err), 0);
    AWAIT(!is_on("192.0.2.10")); // it is looked at again and again
    guard_thaw(pair, clock_boot_ns() + FAR_NS);
    await_done(g, pair);
    assert_int_equal(guard_pair_state(pair), GUARD_WATCHING);
    assert_int_equal(address_add("a", &s.plan.addresses[0], &err), 0);
    usleep(300000); // some looks
    assert_true(is_on("192.0.2.10"));
    guard_step_down(pair);
    await_done(g, pair);
    guard_destroy(pair);
    await_done(g, pair);
    assert_int_equal(address_add("a", &s.plan.addresses[0], &err), 0);
    usleep(300000);
    assert_true(is_on("192.0.2.10"));
    g = end(g, pair);
}

// --- The goodbye ---

static const uint8_t bye_key[MAC_KEY_SIZE] = {7, 7, 7};

static struct inquiry_end end_of(enum inquiry_identity identity)
{
    struct inquiry_end e = {.identity = (uint8_t)identity, .role = INQUIRY_PASSIVE};
    memcpy(e.key, bye_key, sizeof(bye_key));
    inquiry_id(bye_key, "shop", e.id);
    return e;
}

static void note_run(void *user, size_t at, uint64_t run)
{
    (void)at;
    *(uint64_t *)user = run;
}

// The run whose goodbye has arrived at `fd`; 0: none has.
static uint64_t arrived(int fd)
{
    struct inquiry_end active = end_of(INQUIRY_PRIMARY);
    uint64_t run = 0;
    assert_int_equal(inquiry_answer(fd, &active, 1, note_run, &run), 0);
    return run;
}

enum passive_ways {
    PASSIVE_STAYS,
    PASSIVE_TAKES_BACK, // goes on to open an epoch
    PASSIVE_LETS_GO,    // of its guard, and lives on
    PASSIVE_OPENS_NOTHING,
};

// A passive daemon of run 4711, whose peer listens at `port`.
static int be_passive(uint16_t port, enum passive_ways way, int ready)
{
    struct guard *g = NULL;
    struct guard_pair *pair = NULL;
    struct ip to;
    uint8_t sealed[INQUIRY_GOODBYE_SIZE];
    struct inquiry_end self = end_of(INQUIRY_SECONDARY);
    if (ip_parse("127.0.0.1", &to, &err) < 0 || guard_start(GUARD_BINARY, dir, "testd", &g, NULL, &err) < 0)
        return 1;
    if (way != PASSIVE_OPENS_NOTHING) {
        if (guard_pair_open(g, "shop", &pair, &err) < 0)
            return 1;
        inquiry_seal_goodbye(&self, 4711, sealed);
        guard_pair_goodbye(pair, sealed, &to, port);
    }
    if (way == PASSIVE_TAKES_BACK)
        guard_pair_goodbye(pair, NULL, NULL, 0);
    if (way == PASSIVE_LETS_GO)
        g = guard_free(g);
    if (write(ready, "", 1) != 1)
        return 1;
    for (;;)
        pause();
}

static pid_t make_passive(uint16_t port, enum passive_ways way)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = make_child();
    if (pid == 0)
        _exit(be_passive(port, way, ready[1]));
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    return pid;
}

static int listen_for_goodbyes(void)
{
    struct ip at;
    assert_int_equal(ip_parse("127.0.0.1", &at, &err), 0);
    int fd = inquiry_socket(&at, 0, &err);
    assert_true(fd >= 0);
    return fd;
}

// Whoever attaches next is greeted only when what there was to say has been said.
static void await_said(void)
{
    struct guard *g = start(true);
    g = end(g, open_pair(g, "shop"));
}

static void goodbye_is_said_for_a_daemon_that_was_killed(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    int fd = listen_for_goodbyes();
    pid_t daemon = make_passive(inquiry_socket_port(fd), PASSIVE_STAYS);
    assert_int_equal(kill(daemon, SIGSTOP), 0); // it may still open its epoch
    int status;
    assert_int_equal(waitpid(daemon, &status, WUNTRACED), daemon);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(arrived(fd), 0);
    end_child(daemon);
    uint64_t run = 0;
    AWAIT((run = arrived(fd)) != 0);
    assert_int_equal(run, 4711);
    await_said();
    (void)close(fd);
}

static void goodbye_that_was_taken_back_is_not_said(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    int fd = listen_for_goodbyes();
    end_child(make_passive(inquiry_socket_port(fd), PASSIVE_TAKES_BACK));
    await_said();
    assert_int_equal(arrived(fd), 0);
    (void)close(fd);
}

// It is about the daemon that has sealed it: one that has let go of its guard may open an epoch, whoever else dies.
static void goodbye_is_not_said_for_another_daemon(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    int fd = listen_for_goodbyes();
    uint16_t port = inquiry_socket_port(fd);
    pid_t lives = make_passive(port, PASSIVE_LETS_GO);
    end_child(make_passive(port, PASSIVE_OPENS_NOTHING));
    await_said();
    assert_int_equal(arrived(fd), 0);
    end_child(lives);
    (void)close(fd);
}

// The guard reads the socket too: what it gets there is the daemon's.
static void goodbye_that_the_guard_reads_is_told(void **state)
{
    struct scene s;
    struct ip to;
    struct sockaddr_storage at;
    uint8_t sealed[INQUIRY_GOODBYE_SIZE];
    struct inquiry_end self = end_of(INQUIRY_PRIMARY), peer = end_of(INQUIRY_SECONDARY);
    set_scene(&s, "shop");
    int fd = listen_for_goodbyes(), from = listen_for_goodbyes();
    struct guard *g = start(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_pair_inquiry(pair, &self);
    assert_int_equal(guard_share_inquiry(g, fd, &err), 0);
    assert_int_equal(guard_pair_gone(pair), 0);
    assert_int_equal(ip_parse("127.0.0.1", &to, &err), 0);
    socklen_t size = ip_to_sockaddr(&to, inquiry_socket_port(fd), 0, &at);
    inquiry_seal_goodbye(&self, 1, sealed); // its own: not the peer's
    assert_true(sendto(from, sealed, sizeof(sealed), 0, (struct sockaddr *)&at, size) > 0);
    inquiry_seal_goodbye(&peer, 2, sealed);
    sealed[30] ^= 1; // damaged
    assert_true(sendto(from, sealed, sizeof(sealed), 0, (struct sockaddr *)&at, size) > 0);
    inquiry_seal_goodbye(&peer, 3, sealed);
    assert_true(sendto(from, sealed, sizeof(sealed), 0, (struct sockaddr *)&at, size) > 0);
    uint64_t run = 0;
    AWAIT((run = guard_pair_gone(pair)) != 0);
    assert_int_equal(run, 3);
    assert_int_equal(guard_pair_gone(pair), 0);
    g = end(g, pair);
    (void)close(fd);
    (void)close(from);
}

// As an exit status: 0 when the guard hangs up on it without a word.
static int be_stranger(void)
{
    char path[64], hello[64];
    int fds[PASS_FDS_MAX];
    size_t count = 0;
    snprintf(path, sizeof(path), "%s/guard-testd.sock", dir);
    if (chmod(dir, 0755) < 0 || chmod(path, 0666) < 0 || setresuid(65534, 65534, 65534) < 0)
        return 1;
    int fd = pass_open(dir, "guard-testd.sock", 0);
    return fd >= 0 && pass_receive(fd, hello, sizeof(hello), fds, &count) == 0 && count == 0 ? 0 : 2;
}

// The plan is shared memory: whoever has it can freeze and kill, also where the socket's mode does not keep him away.
static void nobody_else_gets_the_plan(void **state)
{
    int status = 0;
    struct guard *g = start(false);
    pid_t guard = guard_pid(g);
    (void)open_pair(g, "shop"); // so that it stays
    g = let_go(g);
    pid_t stranger = make_child();
    if (stranger == 0)
        _exit(be_stranger());
    assert_int_equal(waitpid(stranger, &status, 0), stranger);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    g = start(true);
    assert_int_equal(guard_pid(g), guard);
    g = end(g, open_pair(g, "shop"));
}

static void guard_watches_a_hundred_pairs(void **state)
{
    struct guard *g = start(false);
    char name[16];
    for (int i = 0; i < GUARD_PAIRS_MAX; i++) {
        snprintf(name, sizeof(name), "pair%d", i);
        (void)open_pair(g, name);
    }
    struct guard_pair *none = NULL;
    assert_true(GUARD_PAIRS_MAX >= 100);
    assert_int_equal(guard_pair_open(g, "one more", &none, &err), -ENOSPC);
    g = end(g, NULL);
}

// --- The flag file ---

static void flag_that_cannot_be_understood_counts_as_set(void **state)
{
    char path[256], text[200];
    bool set = true;
    snprintf(path, sizeof(path), "%s/flag", dir);
    assert_int_equal(guard_flag_read(path, &set, text, sizeof(text), &err), 0);
    assert_false(set);
    assert_int_equal(guard_flag_clear(path, &err), 0);
    assert_int_equal(flag_make(path, &err), 0);
    assert_false(flag_is_set(path));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(flag_write(fd, "stepped down: why"), 0);
    assert_int_equal(guard_flag_read(path, &set, text, sizeof(text), &err), 0);
    assert_true(set);
    assert_string_equal(text, "stepped down: why");
    assert_int_equal(flag_make(path, &err), 0); // leaves what is there
    assert_true(flag_is_set(path));
    assert_int_equal(guard_flag_clear(path, &err), 0);
    assert_false(flag_is_set(path));
    assert_int_equal(ftruncate(fd, 3), 0);
    assert_true(flag_is_set(path));
    (void)close(fd);
    (void)unlink(path);
}

// Each byte of a set flag and of a clear one: what was set stays set; what was clear may count as
// set, which is safe.
static void no_damaged_byte_clears_a_flag(void **state)
{
    char path[256];
    uint8_t byte;
    snprintf(path, sizeof(path), "%s/flag", dir);
    assert_int_equal(flag_make(path, &err), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    unsigned set = 0;
    for (int round = 0; round < 2; round++) {
        for (off_t at = 0; pread(fd, &byte, 1, at) == 1; at++) {
            uint8_t damaged = byte ^ (uint8_t)(1U << at % 8);
            assert_int_equal(pwrite(fd, &damaged, 1, at), 1);
            if (round)
                assert_true(flag_is_set(path));
            else
                set += flag_is_set(path);
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        assert_int_equal(flag_write(fd, "stepped down: why"), 0);
    }
    assert_true(set >= 5); // each letter of the word
    (void)close(fd);
    (void)unlink(path);
}

// --- Updates of the plan ---

static struct plan_slot *map_slot(void)
{
    void *at = mmap(NULL, sizeof(struct plan_slot), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    return at;
}

static void make_body(struct plan_body *body, size_t groups, char fill)
{
    static struct guard_plan plan;
    memset(&plan, 0, sizeof(plan));
    strcpy(plan.flag, "/run/flag");
    plan.cgroup_count = groups;
    for (size_t i = 0; i < groups; i++) {
        memset(plan.cgroups[i], fill, GUARD_PATH_SIZE - 1);
        plan.cgroups[i][0] = '/';
    }
    assert_int_equal(plan_make_body(&plan, body, &err), 0);
}

static bool is_one_of_both(const struct plan_body *body)
{
    char fill = body->cgroup_count == 16 ? 'x' : 'y';
    for (size_t i = 0; i < body->cgroup_count; i++)
        for (size_t k = 1; k < GUARD_PATH_SIZE - 1; k++)
            if (body->cgroups[i][k] != fill)
                return false;
    return body->cgroup_count == 16 || body->cgroup_count == 9;
}

static void *publish_for_ever(void *arg)
{
    struct plan_slot *slot = arg;
    struct plan_body x, y;
    make_body(&x, 16, 'x');
    make_body(&y, 9, 'y');
    for (;;) {
        plan_publish(slot, &x);
        plan_publish(slot, &y);
    }
    return NULL;
}

// A daemon killed at any point of an update leaves a whole plan; one that was written half by then
// is never seen.
static void plan_is_whole_whenever_its_writer_dies(void **state)
{
    struct plan_slot *slot = map_slot();
    struct plan_body body;
    unsigned before = 0;
    for (int i = 0; i < 60; i++) {
        pid_t pid = make_child();
        if (pid == 0)
            (void)publish_for_ever(slot);
        AWAIT(atomic_load(&slot->current) != before);
        usleep((useconds_t)(i * 37 % 500));
        end_child(pid);
        before = atomic_load(&slot->current);
        assert_int_equal(plan_read(slot, &body), before);
        assert_true(is_one_of_both(&body));
    }
    (void)munmap(slot, sizeof(*slot));
}

static void reader_beside_a_writer_gets_whole_plans_or_none(void **state)
{
    struct plan_slot *slot = map_slot();
    struct plan_body body;
    assert_int_equal(plan_read(slot, &body), 0);
    pid_t pid = make_child();
    if (pid == 0)
        (void)publish_for_ever(slot);
    AWAIT(atomic_load(&slot->current) != 0);
    for (int i = 0; i < 20000; i++) {
        int64_t r = plan_read(slot, &body);
        if (r > 0) {
            assert_true(is_one_of_both(&body));
        } else {
            assert_true(r == 0 || r == -EAGAIN);
        }
    }
    end_child(pid);
    assert_true(plan_read(slot, &body) > 0);
    slot->bodies[atomic_load(&slot->current) % 2].cgroups[3][5] ^=
        1; // damage, which nothing explains
    assert_int_equal(plan_read(slot, &body), -EUCLEAN);
    (void)munmap(slot, sizeof(*slot));
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    return remove(path);
}

// Ends the guard that a test has left, if any; none of its daemons lives any more.
static void end_left_guard(void)
{
    char path[64];
    made.guard = guard_free(made.guard);
    snprintf(path, sizeof(path), "%s/guard-testd.sock", dir);
    if (access(path, F_OK) == 0 &&
        guard_start(GUARD_BINARY, dir, "testd", &made.guard, NULL, &err) == 0)
        (void)guard_end(made.guard, &err);
    made.guard = guard_free(made.guard);
}

static int set_up(void **state)
{
    memset(&made, 0, sizeof(made));
    snprintf(dir, sizeof(dir), "/tmp/test_guard_XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    made.lock = netlock_release(made.lock);
    for (size_t i = 0; i < made.group_count; i++)
        thaw_made_group(&made.groups[i]); // what is frozen, of version one, cannot be killed
    while (made.child_count > 0)
        end_child(made.children[0]);
    end_left_guard();
    for (size_t i = 0; i < made.group_count; i++)
        drop_made_group(&made.groups[i]);
    netns_here("ip addr flush dev a scope global");
    return nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(acts_for_a_daemon_that_was_killed),
        TEST(acts_for_a_daemon_that_is_stopped),
        TEST(moved_deadlines_do_not_act),
        TEST(earlier_deadline_is_seen_at_once),
        TEST(pairs_have_their_own_deadlines),
        TEST(steps_down_thaws_and_destroys_as_asked),
        TEST(what_was_frozen_runs_again_by_the_plan_that_froze_it),
        TEST(every_part_is_tried),
        TEST(strangers_with_the_number_of_a_process_are_left_alone),
        TEST(freezer_of_version_one_works_too),
        TEST(acts_in_a_full_memory_group),
        TEST(memory_is_locked),
        TEST(address_is_off_before_t_however_the_daemon_fails),
        TEST(restarted_daemon_finds_guard_and_plan),
        TEST(one_guard_for_one_daemon),
        TEST(death_of_the_guard_is_noticed),
        TEST(guard_ends_when_nothing_is_left),
        TEST(what_a_former_run_has_left_is_taken_off_too),
        TEST(bad_plans_are_refused),
        TEST(guard_answers_for_a_dead_daemon),
        TEST(address_that_stays_is_no_stepping_down),
        TEST(address_that_a_dead_daemon_puts_on_is_off),
        TEST(address_that_a_stopped_daemon_puts_on_is_off),
        TEST(address_that_a_dead_passive_daemon_puts_on_is_off),
        TEST(address_of_a_dead_active_daemon_stays),
        TEST(no_look_behind_a_thaw),
        TEST(goodbye_is_said_for_a_daemon_that_was_killed),
        TEST(goodbye_that_was_taken_back_is_not_said),
        TEST(goodbye_is_not_said_for_another_daemon),
        TEST(goodbye_that_the_guard_reads_is_told),
        TEST(nobody_else_gets_the_plan),
        TEST(guard_watches_a_hundred_pairs),
        TEST(flag_that_cannot_be_understood_counts_as_set),
        TEST(no_damaged_byte_clears_a_flag),
        TEST(plan_is_whole_whenever_its_writer_dies),
        TEST(reader_beside_a_writer_gets_whole_plans_or_none),
    };
    netns_make(&ns);
    find_mount("cgroup2", NULL, group_root);
    find_mount("cgroup", "freezer", v1_root);
    find_mount("cgroup", "memory", memory_root);
    if (group_root[0] == '\0' || access(group_root, W_OK) < 0) {
        fprintf(stderr, "skipped: needs control groups, version 2\n");
        return SKIP;
    }
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    netns_drop(&ns);
    return r;
}
