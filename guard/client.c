// SPDX-License-Identifier: Apache-2.0
#include "guard/guard.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>

#include "common/base/cleanup.h"
#include "guard/pass.h"
#include "guard/plan.h"

#define RETRY_NS (10 * NS_PER_MS)

extern char **environ;

struct guard_pair {
    struct guard *guard;
    struct plan_slot *slot;
};

struct guard {
    int connection;
    struct plan *plan;
    int inquiries[PASS_INQUIRIES_MAX]; // that a former daemon has shared
    size_t inquiry_count;
    pid_t pid;
    struct guard_pair pairs[GUARD_PAIRS_MAX];
};

// --- Finding it, starting it ---

static int map_plan(struct guard *g, int fd, const struct pass_hello *hello, struct error *err)
{
    struct stat st;
    if (hello->magic != PLAN_MAGIC || hello->version != PLAN_VERSION ||
        hello->size != sizeof(*g->plan) || fstat(fd, &st) < 0 || st.st_size != sizeof(*g->plan))
        return error_set(err, -EPROTO,
                         "the running guard (process %d) is of another version: end it first",
                         hello->pid);
    void *at =
        mmap(NULL, sizeof(*g->plan), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED)
        return error_sys(err, -errno, "cannot map the guard's plan");
    g->plan = at;
    g->pid = hello->pid;
    return 0;
}

// Takes in the guard's first message. -EAGAIN: it went away meanwhile.
static int take_hello(struct guard *g, struct error *err)
{
    struct pass_hello hello = {0};
    int fds[PASS_FDS_MAX];
    size_t count = 0;
    struct pollfd p = {.fd = g->connection, .events = POLLIN};
    if (poll(&p, 1, (int)(GUARD_START_NS / NS_PER_MS)) <= 0)
        return error_set(err, -ETIMEDOUT, "the running guard does not answer");
    ssize_t n = pass_receive(g->connection, &hello, sizeof(hello), fds, &count);
    CLEANUP_CLOSE int plan = count > 0 ? fds[0] : -1;
    // Theirs from here on.
    for (size_t i = 1; i < count; i++)
        g->inquiries[g->inquiry_count++] = fds[i];
    if (n != (ssize_t)sizeof(hello))
        return error_set(err, -EAGAIN, "the guard went away");
    if (hello.status == -EBUSY)
        return error_set(err, -EBUSY, "the running guard (process %d) serves another daemon",
                         hello.pid);
    if (hello.status < 0 || plan < 0)
        return error_set(err, -EPROTO, "the running guard (process %d) refuses: %d", hello.pid,
                         hello.status);
    return map_plan(g, plan, &hello, err);
}

static struct guard *make_guard(int connection)
{
    struct guard *g = calloc(1, sizeof(*g));
    if (g)
        g->connection = connection;
    return g;
}

// -ENOENT or -ECONNREFUSED: no guard runs.
static int attach(const char *dir, const char *name, struct guard **ret_guard, struct error *err)
{
    char socket_name[GUARD_NAME_SIZE + 16];
    snprintf(socket_name, sizeof(socket_name), "guard-%s.sock", name);
    int fd = pass_open(dir, socket_name, 0);
    if (fd < 0)
        return error_sys(err, fd, "cannot reach the guard at %s/%s", dir, socket_name);
    struct guard *g = make_guard(fd);
    if (!g) {
        (void)close(fd);
        return error_sys(err, -ENOMEM, "guard");
    }
    int r = take_hello(g, err);
    if (r < 0) {
        guard_free(g);
        return r;
    }
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++)
        g->pairs[i] = (struct guard_pair){.guard = g, .slot = &g->plan->slots[i]};
    *ret_guard = g;
    return 0;
}

// The process that is started makes the guard and ends when that is ready. One that does not end is
// killed.
static int await_started(pid_t pid, const char *binary, struct error *err)
{
    siginfo_t info = {0};
    CLEANUP_CLOSE int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    if (pidfd >= 0 && poll(&p, 1, (int)(GUARD_START_NS / NS_PER_MS)) <= 0)
        (void)kill(pid, SIGKILL);
    if (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0)
        return 0; // somebody else has taken its end in; connecting will tell
    // EX_TEMPFAIL: another guard of this name holds the lock: just now started, or just now ending.
    if (info.si_code == CLD_EXITED && (info.si_status == 0 || info.si_status == EX_TEMPFAIL))
        return 0;
    return error_set(err, -EIO, "%s did not start (status %d): its own message says why", binary,
                     info.si_status);
}

static int spawn(const char *binary, const char *dir, const char *name, struct error *err)
{
    const char *args[] = {binary, "--runtime-dir", dir, "--name", name, NULL};
    posix_spawnattr_t attr;
    sigset_t none, all;
    pid_t pid = 0;
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    if (posix_spawnattr_init(&attr) != 0)
        return error_sys(err, -ENOMEM, "guard");
    (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    (void)posix_spawnattr_setsigmask(&attr, &none);
    (void)posix_spawnattr_setsigdefault(&attr, &all);
    int r = posix_spawn(&pid, binary, NULL, &attr, (char *const *)args, environ);
    (void)posix_spawnattr_destroy(&attr);
    return r != 0 ? error_sys(err, -r, "cannot start %s", binary) : await_started(pid, binary, err);
}

static bool is_absent(int r)
{
    return r == -ENOENT || r == -ECONNREFUSED || r == -EAGAIN;
}

int guard_start(const char *binary, const char *runtime_dir, const char *name,
                struct guard **ret_guard, bool *ret_reattached, struct error *err)
{
    struct timespec pause = {.tv_nsec = RETRY_NS};
    int64_t give_up = clock_boot_ns() + GUARD_START_NS;
    bool started = false;
    if (strlen(name) >= GUARD_NAME_SIZE || strchr(name, '/'))
        return error_set(err, -EINVAL, "\"%s\" cannot name a guard", name);
    for (;;) {
        int r = attach(runtime_dir, name, ret_guard, err);
        if (r == 0 && ret_reattached)
            *ret_reattached = !started;
        // Busy: the daemon before us may be dying at this moment.
        if (r == 0 || (!is_absent(r) && r != -EBUSY) || clock_boot_ns() > give_up)
            return r;
        if (is_absent(r)) {
            r = spawn(binary, runtime_dir, name, err);
            started = true;
        }
        if (r < 0 && r != -EBUSY)
            return r;
        if (r == -EBUSY)
            (void)nanosleep(&pause, NULL);
    }
}

static void wake(struct guard *guard)
{
    static const char kind = PASS_WAKE;
    (void)pass_send(guard->connection, &kind, 1, NULL, 0); // full: it is awake; dead: guard_work()
}

struct guard *guard_free(struct guard *guard)
{
    if (!guard)
        return NULL;
    cleanup_close(&guard->connection);
    for (size_t i = 0; i < guard->inquiry_count; i++)
        cleanup_close(&guard->inquiries[i]);
    if (guard->plan)
        (void)munmap(guard->plan, sizeof(*guard->plan));
    free(guard);
    return NULL;
}

int guard_fd(const struct guard *guard)
{
    return guard->connection;
}

pid_t guard_pid(const struct guard *guard)
{
    return guard->pid;
}

int guard_work(struct guard *guard)
{
    for (;;) {
        char kind;
        int fds[PASS_FDS_MAX];
        size_t count = 0;
        struct pollfd p = {.fd = guard->connection, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0)
            return 0;
        ssize_t n = pass_receive(guard->connection, &kind, 1, fds, &count);
        for (size_t i = 0; i < count; i++)
            (void)close(fds[i]);
        if (n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR))
            return -EPIPE;
    }
}

int guard_end(struct guard *guard, struct error *err)
{
    int64_t give_up = clock_boot_ns() + GUARD_START_NS;
    atomic_store(&guard->plan->end, 1);
    wake(guard);
    while (guard_work(guard) == 0) {
        struct pollfd p = {.fd = guard->connection, .events = POLLIN};
        if (clock_boot_ns() > give_up)
            return error_set(err, -ETIMEDOUT, "the guard (process %d) does not end",
                             (int)guard->pid);
        (void)poll(&p, 1, 100);
    }
    return 0;
}

// --- Pairs ---

// A free slot that the guard is not at work on any more.
static bool is_free(struct plan_slot *slot)
{
    uint32_t state = atomic_load(&slot->state);
    if (atomic_load(&slot->used))
        return false;
    return atomic_load(&slot->deadline_ns) != PLAN_ACTED || state == GUARD_STEPPED_DOWN ||
           state == GUARD_DESTROYED;
}

static void claim(struct plan_slot *slot, const char *pair)
{
    struct plan_body empty;
    plan_make_empty(&empty);
    memset(slot->name, 0, sizeof(slot->name));
    memcpy(slot->name, pair, strlen(pair));
    atomic_store(&slot->request, 0);
    atomic_store(&slot->inquiry_valid, 0);
    atomic_store(&slot->goodbye_valid, 0);
    atomic_store(&slot->role, 0);
    atomic_store(&slot->gone_run, 0);
    plan_publish(slot, &empty);
    slot->report = (struct guard_report){.begun_ns = 0};
    atomic_store(&slot->state, GUARD_WATCHING);
    atomic_store(&slot->deadline_ns, GUARD_NO_DEADLINE);
    atomic_store(&slot->used, 1);
}

int guard_pair_open(struct guard *guard, const char *pair, struct guard_pair **ret_pair,
                    struct error *err)
{
    size_t size = strlen(pair);
    struct guard_pair *found = NULL;
    if (size == 0 || size >= GUARD_NAME_SIZE)
        return error_set(err, -EINVAL, "the guard cannot watch a pair named \"%s\"", pair);
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++) {
        struct plan_slot *slot = guard->pairs[i].slot;
        if (atomic_load(&slot->used) && strncmp(slot->name, pair, GUARD_NAME_SIZE) == 0) {
            atomic_store(&slot->goodbye_valid, 0); // of a former daemon
            *ret_pair = &guard->pairs[i];
            return 0;
        }
        if (!found && is_free(slot))
            found = &guard->pairs[i];
    }
    if (!found)
        return error_set(err, -ENOSPC, "the guard watches %d pairs already", GUARD_PAIRS_MAX);
    claim(found->slot, pair);
    *ret_pair = found;
    return 0;
}

void guard_pair_close(struct guard_pair *pair)
{
    struct plan_slot *slot = pair->slot;
    (void)guard_set_deadline(pair, GUARD_NO_DEADLINE);
    atomic_store(&slot->request, 0);
    atomic_store(&slot->inquiry_valid, 0);
    atomic_store(&slot->goodbye_valid, 0);
    atomic_store(&slot->used, 0);
    wake(pair->guard);
}

int guard_pair_plan(struct guard_pair *pair, const struct guard_plan *plan, struct error *err)
{
    struct plan_body body;
    int r = plan_make_body(plan, &body, err);
    if (r == 0)
        r = flag_make(plan->flag, err);
    if (r < 0)
        return r;
    plan_publish(pair->slot, &body);
    wake(pair->guard);
    return 0;
}

void guard_pair_inquiry(struct guard_pair *pair, const struct inquiry_end *end)
{
    struct plan_slot *slot = pair->slot;
    atomic_store(&slot->inquiry_valid, 0);
    atomic_thread_fence(memory_order_seq_cst);
    slot->inquiry = *end;
    atomic_store(&slot->role, end->role);
    atomic_store(&slot->inquiry_valid, 1);
}

void guard_pair_role(struct guard_pair *pair, enum inquiry_role role)
{
    atomic_store(&pair->slot->role, (uint32_t)role);
}

void guard_pair_goodbye(struct guard_pair *pair, const uint8_t goodbye[INQUIRY_GOODBYE_SIZE], const struct ip *to,
                        uint16_t port)
{
    struct plan_slot *slot = pair->slot;
    atomic_store(&slot->goodbye_valid, 0);
    if (!goodbye)
        return;
    memcpy(slot->goodbye.datagram, goodbye, INQUIRY_GOODBYE_SIZE);
    slot->goodbye.to = *to;
    slot->goodbye.port = port;
    atomic_store(&slot->goodbye_valid, 1);
}

uint64_t guard_pair_gone(struct guard_pair *pair)
{
    return atomic_exchange(&pair->slot->gone_run, 0);
}

// Only the daemon changes bodies, so that it may look at its own newest one.
static bool has_plan(const struct plan_slot *slot)
{
    return slot->bodies[atomic_load(&slot->current) % 2].flag[0] != '\0';
}

int guard_set_deadline(struct guard_pair *pair, int64_t deadline_ns)
{
    struct plan_slot *slot = pair->slot;
    if (deadline_ns != GUARD_NO_DEADLINE && !has_plan(slot))
        return -EINVAL;
    ENSURE(deadline_ns != PLAN_ACTED);
    int64_t old = atomic_load(&slot->deadline_ns);
    do {
        if (old == PLAN_ACTED)
            return -ESTALE;
    } while (!atomic_compare_exchange_weak(&slot->deadline_ns, &old, deadline_ns));
    if (deadline_ns < atomic_load(&pair->guard->plan->armed_ns))
        wake(pair->guard);
    return 0;
}

int64_t guard_deadline(const struct guard_pair *pair)
{
    return atomic_load(&pair->slot->deadline_ns);
}

bool guard_acted(const struct guard_pair *pair)
{
    return atomic_load(&pair->slot->deadline_ns) == PLAN_ACTED;
}

enum guard_state guard_pair_state(const struct guard_pair *pair)
{
    return (enum guard_state)atomic_load(&pair->slot->state);
}

void guard_pair_report(const struct guard_pair *pair, struct guard_report *ret_report)
{
    *ret_report = pair->slot->report;
}

static void request(struct guard_pair *pair, enum plan_request what)
{
    atomic_store(&pair->slot->request, (uint32_t)what);
    atomic_fetch_add(&pair->slot->asked, 1);
    wake(pair->guard);
}

void guard_step_down(struct guard_pair *pair)
{
    request(pair, PLAN_STEP_DOWN);
}

void guard_thaw(struct guard_pair *pair, int64_t deadline_ns)
{
    atomic_store(&pair->slot->thaw_deadline_ns, deadline_ns);
    request(pair, PLAN_THAW);
}

void guard_destroy(struct guard_pair *pair)
{
    request(pair, PLAN_DESTROY);
}

bool guard_pair_pending(const struct guard_pair *pair)
{
    return atomic_load(&pair->slot->asked) != atomic_load(&pair->slot->done);
}

// --- The responder's socket ---

int guard_share_inquiry(struct guard *guard, int fd, struct error *err)
{
    static const char kind = PASS_INQUIRY;
    int r = pass_send(guard->connection, &kind, 1, &fd, 1);
    return r < 0 ? error_sys(err, r, "cannot share a socket with the guard") : 0;
}

int guard_inquiry_fd(const struct guard *guard, size_t index)
{
    return index < guard->inquiry_count ? guard->inquiries[index] : -1;
}
