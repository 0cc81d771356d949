// SPDX-License-Identifier: Apache-2.0
// The guard, as the real process, on the network: what it says for its daemon and hears for it at the management address, and
// what a daemon that is dead or stopped has left in the kernel for the public address.
#include "tests/unit/guard_world.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/address/address.h"
#include "common/base/cleanup.h"

static enum inquiry_result ask_once(uint16_t port, const uint8_t *key, enum inquiry_role *ret_role)
{
    struct ip to;
    struct inquiry *q = NULL;
    assert_int_equal(ip_parse("127.0.0.1", &to, &world.err), 0);
    assert_int_equal(inquiry_start(NULL, &to, port, "shop", INQUIRY_PRIMARY, key, &q, &world.err), 0);
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
    assert_int_equal(ip_parse("127.0.0.1", &at, &world.err), 0);
    int fd = inquiry_socket(&at, 0, &world.err);
    uint16_t port = inquiry_socket_port(fd);
    // Another pair has a management port of its own.
    int second = inquiry_socket(&at, 0, &world.err);
    uint16_t second_port = inquiry_socket_port(second);
    memcpy(self.key, key, sizeof(key));
    inquiry_id(key, "shop", self.id);
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_pair_inquiry(pair, &self);
    for (int i = 0; i < 5; i++) // as daemons after daemons do
        assert_int_equal(guard_share_inquiry(g, fd, &world.err), 0);
    assert_int_equal(guard_share_inquiry(g, second, &world.err), 0);
    assert_int_equal(guard_set_deadline(pair, clock_boot_ns() + FAR_NS), 0);
    (void)close(fd);
    (void)close(second);
    g = let_go(g); // the daemon is gone
    assert_int_equal(ask(second_port, key, &role), INQUIRY_SAYS_ACTIVE);
    assert_int_equal(ask(port, key, &role), INQUIRY_SAYS_ACTIVE);
    assert_int_equal(role, INQUIRY_ACTIVE);
    g = start_guard(true);
    assert_true(guard_inquiry_fd(g, 0) >= 0);
    assert_int_equal(inquiry_socket_port(guard_inquiry_fd(g, 0)), port);
    assert_int_equal(inquiry_socket_port(guard_inquiry_fd(g, 1)), second_port);
    assert_int_equal(guard_inquiry_fd(g, 2), -1);
    pair = open_pair(g, "shop");
    guard_step_down(pair);
    await_done(g, pair);
    assert_int_equal(ask(port, key, &role), INQUIRY_SAYS_NOT);
    assert_int_equal(role, INQUIRY_STEPPED_DOWN);
    g = end_guard(g, pair);
}

// Starts a guard that may not touch addresses, nor others' processes, with a pair, so that it stays.
static int be_daemon_without_power(void)
{
    struct guard_pair *pair = NULL;
    return prctl(PR_CAPBSET_DROP, CAP_NET_ADMIN) < 0 || prctl(PR_CAPBSET_DROP, CAP_KILL) < 0 ||
           !try_attach(NULL, &pair);
}

// Of the directory of a process: whose the process is.
static uid_t uid_of(pid_t pid)
{
    char path[32];
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    return stat(path, &st) < 0 ? (uid_t)-1 : st.st_uid;
}

static pid_t make_sleeper_of_another_user(void)
{
    pid_t pid = make_child();
    if (pid == 0) {
        if (setresuid(65534, 65534, 65534) < 0)
            _exit(1);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            usleep(1000);
    }
    AWAIT(uid_of(pid) == 65534);
    return pid;
}

// A process that could not be stopped, and an address that could not be taken away, are told; and as long as that
// may be there, whoever asks hears "active".
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
    s.plan.processes[s.plan.process_count++] = make_sleeper_of_another_user();
    struct guard *g = start_guard(true);
    struct guard_pair *pair = watch_scene(g, &s);
    memcpy(self.key, key, sizeof(key));
    inquiry_id(key, "shop", self.id);
    guard_pair_inquiry(pair, &self);
    assert_int_equal(ip_parse("127.0.0.1", &at, &world.err), 0);
    CLEANUP_CLOSE int fd = inquiry_socket(&at, 0, &world.err);
    assert_int_equal(guard_share_inquiry(g, fd, &world.err), 0);
    guard_step_down(pair);
    await_done(g, pair);
    guard_pair_report(pair, &r);
    assert_int_equal(r.addresses_error, -EPERM);
    assert_int_equal(r.frozen_error, -EPERM);
    assert_true(is_on("192.0.2.10"));
    AWAIT(group_frozen(&s.group) && flag_is_set(s.plan.flag)); // the rest is done all the same
    assert_int_equal(ask(inquiry_socket_port(fd), key, &role), INQUIRY_SAYS_ACTIVE);
    g = end_guard(g, pair);
}

// A daemon that puts an address on when it is told so, and nothing more.
struct latecomer {
    pid_t pid, guard;
    int go[2];
};

static int be_latecomer(const struct scene *s, enum inquiry_role role, bool steps_down, int ready, int go)
{
    struct guard_pair *pair = NULL;
    struct guard *g = try_attach(&s->plan, &pair);
    char byte;
    if (!g)
        return 1;
    guard_pair_role(pair, role);
    pid_t pid = guard_pid(g);
    if (write(ready, &pid, sizeof(pid)) != sizeof(pid) || read(go, &byte, 1) != 1)
        return 1;
    if (steps_down && guard_set_deadline(pair, clock_boot_ns()) < 0)
        return 1;
    if (read(go, &byte, 1) != 1 || address_add("a", &s->plan.addresses[0], &world.err) < 0)
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
    world.lock = netlock_hold();
    if (!world.lock)
        return false;
    tell(l);
    if (steps_down)
        AWAIT(state_of(l->guard) == 'D');
    tell(l);
    AWAIT(state_of(l->pid) == 'D');
    assert_int_equal(kill(l->pid, signal), 0);
    world.lock = netlock_release(world.lock);
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
    assert_int_equal(address_remove("a", &s.plan.addresses[0], &world.err), 0);
    struct latecomer l = make_latecomer(&s, role, steps_down);
    if (!is_cut_off_in_the_kernel(&l, steps_down, signal)) {
        skip();
        return;
    }
    AWAIT(!is_on("192.0.2.10"));
    end_child(l.pid);
    struct guard *g = start_guard(true); // it has taken in the end of the former daemon by now
    assert_false(is_on("192.0.2.10"));
    g = end_guard(g, open_pair(g, "shop"));
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
    assert_int_equal(address_remove("a", &s.plan.addresses[0], &world.err), 0);
    struct latecomer l = make_latecomer(&s, INQUIRY_ACTIVE, false);
    if (!is_cut_off_in_the_kernel(&l, false, SIGKILL)) {
        skip();
        return;
    }
    end_child(l.pid);
    struct guard *g = start_guard(true);
    assert_true(is_on("192.0.2.10"));
    assert_true(is_on("2001:db8::10"));
    g = end_guard(g, open_pair(g, "shop"));
}

// What is on by right is left alone: after a thaw, and once the slot has been given back.
static void no_look_behind_a_thaw(void **state)
{
    struct scene s;
    set_scene(&s, "shop");
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_step_down(pair);
    await_done(g, pair);
    assert_int_equal(address_add("a", &s.plan.addresses[0], &world.err), 0);
    AWAIT(!is_on("192.0.2.10")); // it is looked at again and again
    guard_thaw(pair, clock_boot_ns() + FAR_NS);
    await_done(g, pair);
    assert_int_equal(guard_pair_state(pair), GUARD_WATCHING);
    assert_int_equal(address_add("a", &s.plan.addresses[0], &world.err), 0);
    usleep(300000); // some looks
    assert_true(is_on("192.0.2.10"));
    guard_step_down(pair);
    await_done(g, pair);
    guard_destroy(pair);
    await_done(g, pair);
    assert_int_equal(address_add("a", &s.plan.addresses[0], &world.err), 0);
    usleep(300000);
    assert_true(is_on("192.0.2.10"));
    g = end_guard(g, pair);
}

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
    if (ip_parse("127.0.0.1", &to, &world.err) < 0 || guard_start(GUARD_BINARY, world.dir, "testd", &g, NULL, &world.err) < 0)
        return 1;
    if (way != PASSIVE_OPENS_NOTHING) {
        if (guard_pair_open(g, "shop", &pair, &world.err) < 0)
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
    assert_int_equal(ip_parse("127.0.0.1", &at, &world.err), 0);
    int fd = inquiry_socket(&at, 0, &world.err);
    assert_true(fd >= 0);
    return fd;
}

// Whoever attaches next is greeted only when what there was to say has been said.
static void await_said(void)
{
    struct guard *g = start_guard(true);
    g = end_guard(g, open_pair(g, "shop"));
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
    struct guard *g = start_guard(false);
    struct guard_pair *pair = watch_scene(g, &s);
    guard_pair_inquiry(pair, &self);
    assert_int_equal(guard_share_inquiry(g, fd, &world.err), 0);
    assert_int_equal(guard_pair_gone(pair), 0);
    assert_int_equal(ip_parse("127.0.0.1", &to, &world.err), 0);
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
    g = end_guard(g, pair);
    (void)close(fd);
    (void)close(from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    };
    if (!world_open())
        return SKIP;
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    world_close();
    return r;
}
