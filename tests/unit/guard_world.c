// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/guard_world.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/address/address.h"
#include "common/base/cleanup.h"
#include "guard/plan.h"
#include "tests/unit/netns.h"

struct guard_world world;

static struct netns ns;

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

void write_file(const char *path, const char *text)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail_msg("%s: %s", path, strerror(errno));
}

bool try_write_file(const char *path, const char *text)
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

pid_t make_child(void)
{
    assert_true(world.child_count < CHILDREN);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        world.children[world.child_count++] = pid;
    return pid;
}

void end_child(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    for (size_t i = 0; i < world.child_count; i++) {
        if (world.children[i] == pid) {
            world.children[i] = world.children[--world.child_count];
            return;
        }
    }
}

pid_t make_sleeper(void)
{
    pid_t pid = make_child();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            usleep(1000);
    }
    return pid;
}

void make_group(struct group *g, const char *root, bool v2)
{
    char path[ROOT_SIZE + 128], text[32];
    static int number;
    g->v2 = v2;
    snprintf(g->path, sizeof(g->path), "%s/understudy-guard-test-%d-%d", root, (int)getpid(),
             number++);
    assert_true(world.group_count < GROUPS);
    assert_int_equal(mkdir(g->path, 0755), 0);
    world.groups[world.group_count++] = *g;
    g->process = make_sleeper();
    snprintf(path, sizeof(path), "%s/cgroup.procs", g->path);
    snprintf(text, sizeof(text), "%d", (int)g->process);
    write_file(path, text);
}

bool group_frozen(const struct group *g)
{
    char path[ROOT_SIZE + 128];
    snprintf(path, sizeof(path), "%s/%s", g->path, g->v2 ? "cgroup.events" : "freezer.state");
    return file_has(path, g->v2 ? "frozen 1" : "FROZEN");
}

void drop_made_group(const struct group *g)
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

char state_of(pid_t pid)
{
    char path[64], text[512] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        return '-';
    const char *end = strrchr(text, ')');
    return end ? end[2] : '-';
}

bool is_on(const char *text)
{
    struct ip ip;
    bool present = false;
    assert_int_equal(ip_parse(text, &ip, &world.err), 0);
    assert_int_equal(address_present("a", &ip, &present, &world.err), 0);
    return present;
}

bool flag_is_set(const char *path)
{
    bool set = false;
    char text[200];
    assert_int_equal(guard_flag_read(path, &set, text, sizeof(text), &world.err), 0);
    return set;
}

void set_scene(struct scene *s, const char *pair)
{
    memset(s, 0, sizeof(*s));
    make_group(&s->group, world.group_root, true);
    s->process = make_sleeper();
    struct guard_plan *p = &s->plan;
    strcpy(p->interface, "a");
    assert_int_equal(ip_parse("192.0.2.10/24", &p->addresses[0], &world.err), 0);
    assert_int_equal(ip_parse("2001:db8::10/64", &p->addresses[1], &world.err), 0);
    p->address_count = 2;
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(address_add("a", &p->addresses[i], &world.err), 0);
    snprintf(p->cgroups[0], GUARD_PATH_SIZE, "%s", s->group.path);
    p->cgroup_count = 1;
    p->processes[0] = s->process;
    p->process_count = 1;
    snprintf(p->flag, sizeof(p->flag), "%s/%s.flag", world.dir, pair);
}

bool is_stepped_down(const struct scene *s)
{
    return !is_on("192.0.2.10") && !is_on("2001:db8::10") && group_frozen(&s->group) &&
           state_of(s->process) == 'T' && flag_is_set(s->plan.flag);
}

bool is_running(const struct scene *s)
{
    return !group_frozen(&s->group) && state_of(s->process) != 'T' && !flag_is_set(s->plan.flag);
}

struct guard *start_guard(bool expect_running)
{
    struct guard *g = NULL;
    bool running = false;
    struct error e = {0};
    int r = guard_start(GUARD_BINARY, world.dir, "testd", &g, &running, &e);
    if (r < 0)
        fail_msg("guard_start: %s", e.text);
    world.guard = g;
    assert_int_equal(running, expect_running);
    return g;
}

struct guard *let_go(struct guard *g)
{
    world.guard = NULL;
    return guard_free(g);
}

struct guard_pair *open_pair(struct guard *g, const char *name)
{
    struct guard_pair *pair = NULL;
    assert_int_equal(guard_pair_open(g, name, &pair, &world.err), 0);
    return pair;
}

struct guard_pair *watch_scene(struct guard *g, const struct scene *s)
{
    struct guard_pair *pair = open_pair(g, "shop");
    assert_int_equal(guard_pair_plan(pair, &s->plan, &world.err), 0);
    return pair;
}

bool process_lives(pid_t pid)
{
    char state = state_of(pid);
    return state != '-' && state != 'Z';
}

struct guard *end_guard(struct guard *g, struct guard_pair *pair)
{
    pid_t pid = guard_pid(g);
    if (pair)
        guard_pair_close(pair);
    assert_int_equal(guard_end(g, &world.err), 0);
    AWAIT(!process_lives(pid));
    return let_go(g);
}

void await_done(struct guard *g, struct guard_pair *pair)
{
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    while (guard_pair_pending(pair) && clock_boot_ns() < give_up) {
        struct pollfd p = {.fd = guard_fd(g), .events = POLLIN};
        (void)poll(&p, 1, 1000);
        assert_int_equal(guard_work(g), 0);
    }
    assert_false(guard_pair_pending(pair));
}

// Before it looks at any request it prepares, and this request changes nothing.
void await_prepared(struct guard *g, struct guard_pair *pair)
{
    guard_thaw(pair, 0);
    await_done(g, pair);
}

struct guard *try_attach(const struct guard_plan *plan, struct guard_pair **ret_pair)
{
    struct guard *g = NULL;
    if (guard_start(GUARD_BINARY, world.dir, "testd", &g, NULL, &world.err) == 0 &&
        guard_pair_open(g, "shop", ret_pair, &world.err) == 0 &&
        (!plan || guard_pair_plan(*ret_pair, plan, &world.err) == 0))
        return g;
    fprintf(stderr, "daemon: %s\n", world.err.text);
    return NULL;
}

// What a daemon does, as an exit status: 42 when it woke up and found itself stepped down.
static int be_daemon(const struct scene *s, int64_t after_ns, int ready)
{
    struct guard_pair *pair = NULL;
    if (!try_attach(&s->plan, &pair))
        return 1;
    guard_pair_role(pair, INQUIRY_ACTIVE);
    if (guard_set_deadline(pair, clock_boot_ns() + after_ns) < 0 || write(ready, "", 1) != 1)
        return 1;
    while (!guard_acted(pair))
        usleep(1000);
    return guard_set_deadline(pair, clock_boot_ns() + FAR_NS) == -ESTALE ? 42 : 1;
}

pid_t make_daemon(const struct scene *s, int64_t after_ns)
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

void check_report(const struct guard_pair *pair, bool asked)
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

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    return remove(path);
}

// Ends the guard that a test has left, if any; none of its daemons lives any more.
static void end_left_guard(void)
{
    char path[64];
    world.guard = guard_free(world.guard);
    snprintf(path, sizeof(path), "%s/guard-testd.sock", world.dir);
    if (access(path, F_OK) == 0 &&
        guard_start(GUARD_BINARY, world.dir, "testd", &world.guard, NULL, &world.err) == 0)
        (void)guard_end(world.guard, &world.err);
    world.guard = guard_free(world.guard);
}

int set_up(void **state)
{
    world.guard = NULL;
    world.child_count = world.group_count = 0;
    world.lock = NULL;
    snprintf(world.dir, sizeof(world.dir), "/tmp/test_guard_XXXXXX");
    return mkdtemp(world.dir) ? 0 : -1;
}

int tear_down(void **state)
{
    world.lock = netlock_release(world.lock);
    for (size_t i = 0; i < world.group_count; i++)
        thaw_made_group(&world.groups[i]); // what is frozen, of version one, cannot be killed
    while (world.child_count > 0)
        end_child(world.children[0]);
    end_left_guard();
    for (size_t i = 0; i < world.group_count; i++)
        drop_made_group(&world.groups[i]);
    netns_here("ip addr flush dev a scope global");
    return nftw(world.dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

bool world_open(void)
{
    netns_make(&ns);
    find_mount("cgroup2", NULL, world.group_root);
    find_mount("cgroup", "freezer", world.v1_root);
    find_mount("cgroup", "memory", world.memory_root);
    if (world.group_root[0] != '\0' && access(world.group_root, W_OK) == 0)
        return true;
    fprintf(stderr, "skipped: needs control groups, version 2\n");
    return false;
}

void world_close(void)
{
    netns_drop(&ns);
}
