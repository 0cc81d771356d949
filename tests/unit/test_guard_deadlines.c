// SPDX-License-Identifier: Apache-2.0
// The guard, as the real process: it acts when a deadline passes and never otherwise, whatever has become of the daemon and of
// the memory, and in time.
#include "tests/unit/guard_world.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"

static void acts_for_a_daemon_that_was_killed(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    pid_t daemon = make_daemon(&s, 1 * NS_PER_S);
    end_child(daemon);
    AWAIT(is_stepped_down(&s));
    struct guard *g = start_guard(true);
    struct guard_pair *pair = open_pair(g, "shop");
    assert_true(guard_acted(pair));
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    check_report(pair, false);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), -ESTALE);
    g = end_guard(g, pair);
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
    struct guard *g = start_guard(true);
    g = end_guard(g, open_pair(g, "shop"));
}

static void moved_deadlines_do_not_act(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
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
    g = end_guard(g, pair);
}

static void earlier_deadline_is_seen_at_once(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    usleep(100000); // it sleeps for an hour now
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + 100 * NS_PER_MS), 0);
    AWAIT(is_stepped_down(&s));
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    check_report(pair, false);
    g = end_guard(g, pair);
}

static void pairs_have_their_own_deadlines(void **state)
{
    struct scene s;
    struct guard_plan other = {.flag = ""};
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s), *second = open_pair(g, "mail");
    snprintf(other.flag, sizeof(other.flag), "%s/mail.flag", world.dir);
    assert_int_equal(guard_set_deadline(second, clock_boot_ns()), -EINVAL); // it has no plan yet
    assert_int_equal(guard_pair_plan(second, &other, &world.err), 0);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    assert_int_equal(guard_set_deadline(second, clock_boot_ns() + 50 * NS_PER_MS), 0);
    AWAIT(guard_pair_state(second) == GUARD_STEPPED_DOWN);
    assert_true(flag_is_set(other.flag));
    assert_false(guard_acted(pair));
    assert_true(is_running(&s) && is_on("192.0.2.10"));
    guard_pair_close(second);
    g = end_guard(g, pair);
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
    assert_int_equal(file_read(path, 64, &usage, &size, &world.err), 0);
    snprintf(path, sizeof(path), "%s/memory.limit_in_bytes", group);
    return try_write_file(path, usage);
}

// With not a page to be had in its memory group, everything still happens.
static void acts_in_a_full_memory_group(void **state)
{
    struct scene s;
    struct group memory = {.v2 = false};
    char path[ROOT_SIZE + 128], text[64];
    if (world.memory_root[0] == '\0') {
        skip();
        return;
    }
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    await_prepared(g, pair);
    snprintf(memory.path, sizeof(memory.path), "%s/understudy-guard-test-%d-m", world.memory_root,
             (int)getpid());
    assert_int_equal(mkdir(memory.path, 0755), 0);
    world.groups[world.group_count++] = memory;
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
    g = end_guard(g, pair);
}

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
    struct guard_pair *pair = NULL;
    if (!try_attach(&s->plan, &pair))
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
    struct guard *g = start_guard(false);
    pid_t pid = guard_pid(g);
    (void)open_pair(g, "shop");
    g = let_go(g);
    return pid;
}

static void make_memory_group(struct group *memory)
{
    *memory = (struct group){.v2 = false};
    snprintf(memory->path, sizeof(memory->path), "%s/understudy-guard-test-%d-s", world.memory_root, (int)getpid());
    assert_int_equal(mkdir(memory->path, 0755), 0);
    world.groups[world.group_count++] = *memory;
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
    struct guard *g = start_guard(true);
    struct guard_pair *pair = open_pair(g, "shop");
    AWAIT(guard_pair_state(pair) == GUARD_STEPPED_DOWN);
    check_report(pair, false);
    guard_pair_report(pair, &r);
    guard_destroy(pair);
    await_done(g, pair);
    g = end_guard(g, pair);
    end_child(s.process);
    end_child(s.group.process);
    drop_made_group(&s.group);
    if (how == FAILS_BY_MEMORY)
        drop_made_group(&memory);
    world.group_count = 0;
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
        if (how == FAILS_BY_MEMORY && world.memory_root[0] == '\0')
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
    struct guard *g = start_guard(false);
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
    g = end_guard(g, pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(acts_for_a_daemon_that_was_killed),
        TEST(acts_for_a_daemon_that_is_stopped),
        TEST(moved_deadlines_do_not_act),
        TEST(earlier_deadline_is_seen_at_once),
        TEST(pairs_have_their_own_deadlines),
        TEST(acts_in_a_full_memory_group),
        TEST(memory_is_locked),
        TEST(address_is_off_before_t_however_the_daemon_fails),
    };
    if (!world_open())
        return SKIP;
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    world_close();
    return r;
}
