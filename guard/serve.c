// SPDX-License-Identifier: Apache-2.0
// One thread, which owns everything here. It sleeps until the earliest deadline that it has seen (a
// timer on CLOCK_BOOTTIME), until the daemon wakes it, or until a question arrives at the
// management address.
//
// A deadline that was moved further costs nothing: the timer fires at the old one, finds the new
// one, and is set again.
#include "guard/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "guard/act.h"
#include "guard/bye.h"
#include "guard/pass.h"
#include "guard/plan.h"
#include "guard/stay.h"

#define CONFIRM_NS     (30 * NS_PER_MS) // how long, at most, the act waits for groups to be frozen
#define CONFIRM_STEP   NS_PER_MS
#define FIRST_DAEMON_S 30 // a guard to which nobody comes ends
#define MESSAGES_MAX   64 // taken in at a time

struct server {
    struct plan *plan;
    int plan_fd;
    int place; // the directory of our socket
    char socket_name[GUARD_NAME_SIZE + 16];
    int listener;
    int connection;   // to the daemon; -1: there is none
    int daemon_pidfd; // of the daemon that is, or was last, attached; -1
    int inquiries[PASS_INQUIRIES_MAX]; // the responders' sockets, each at a port of its own
    size_t inquiry_count;
    int timer;
    int epoll;
    int note_fd;
    int64_t alone_since_ns; // no daemon since
    bool had_daemon;
    struct off_sockets off;
    struct bye_sockets bye;
    struct act acts[GUARD_PAIRS_MAX];
    struct stay stay;
};

__attribute__((format(printf, 2, 3))) static void note(struct server *s, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (s->note_fd >= 0 && n > 0 && write(s->note_fd, line, MIN((size_t)n, sizeof(line) - 1)) < 0)
        return; // full: the report in the plan has it all
}

static void tell_daemon(struct server *s)
{
    static const char notice = PASS_NOTICE;
    if (s->connection >= 0)
        (void)pass_send(s->connection, &notice, 1, NULL,
                        0); // full: it has not read earlier ones yet
}

// --- Stepping down ---

// Several pairs are taken through the parts together: no address stays on while another pair's
// groups freeze.
struct due {
    size_t count;
    struct {
        struct plan_slot *slot;
        struct act *act;
        int frozen_error;
    } pairs[GUARD_PAIRS_MAX];
};

// Claims the pair for the act, if its deadline is still the one that was seen to have passed. From
// here on the daemon cannot move it any more.
static bool claim(struct plan_slot *slot, int64_t seen_ns, bool asked, struct guard_report *report)
{
    if (!atomic_compare_exchange_strong(&slot->deadline_ns, &seen_ns, PLAN_ACTED))
        return false;
    *report = (struct guard_report){
        .asked = asked, .deadline_ns = asked ? INT64_MAX : seen_ns, .begun_ns = clock_boot_ns()};
    atomic_store(&slot->state, GUARD_ACTING);
    return true;
}

static void add_due(struct server *s, struct due *due, size_t i)
{
    struct act *act = &s->acts[i];
    act_prepare(act,
                &s->plan->slots[i]); // nothing to do, unless the plan was published a moment ago
    due->pairs[due->count].slot = &s->plan->slots[i];
    due->pairs[due->count].act = act;
    due->count++;
}

static bool all_frozen(const struct due *due)
{
    for (size_t i = 0; i < due->count; i++)
        if (!act_is_frozen(due->pairs[i].act))
            return false;
    return true;
}

// What waits for a disk is not waited for: it freezes when the disk has answered, before it does
// anything else.
static void confirm_frozen(const struct due *due)
{
    struct timespec step = {.tv_nsec = CONFIRM_STEP};
    int64_t until = clock_boot_ns() + CONFIRM_NS;
    while (!all_frozen(due) && clock_boot_ns() < until)
        (void)nanosleep(&step, NULL);
}

static void finish(struct server *s, struct plan_slot *slot, struct act *act)
{
    struct guard_report *r = &slot->report;
    r->flag_error = act_flag(act, slot->name, r);
    r->flagged_ns = clock_boot_ns();
    atomic_store(&slot->state, GUARD_STEPPED_DOWN);
    note(s,
         "pair %s stepped down (%s): addresses off after %" PRId64 " us (%d), frozen after %" PRId64
         " us (%d), flag after %" PRId64 " us (%d)\n",
         slot->name, r->asked ? "asked" : "deadline", (r->addresses_ns - r->begun_ns) / NS_PER_US,
         r->addresses_error, (r->frozen_ns - r->begun_ns) / NS_PER_US, r->frozen_error,
         (r->flagged_ns - r->begun_ns) / NS_PER_US, r->flag_error);
}

static void step_down(struct server *s, struct due *due)
{
    for (size_t i = 0; i < due->count; i++) {
        struct guard_report *r = &due->pairs[i].slot->report;
        size_t removed;
        r->addresses_error = act_addresses_off(due->pairs[i].act, &s->off, &removed);
        r->addresses_ns = clock_boot_ns();
        stay_acted(&s->stay, (size_t)(due->pairs[i].act - s->acts), r->addresses_error);
    }
    for (size_t i = 0; i < due->count; i++)
        due->pairs[i].frozen_error = act_freeze(due->pairs[i].act);
    confirm_frozen(due);
    for (size_t i = 0; i < due->count; i++) {
        struct guard_report *r = &due->pairs[i].slot->report;
        r->frozen_error = due->pairs[i].frozen_error;
        if (r->frozen_error == 0)
            r->frozen_error =
                act_is_frozen(due->pairs[i].act) ? due->pairs[i].act->error : -EINPROGRESS;
        r->frozen_ns = clock_boot_ns();
        finish(s, due->pairs[i].slot, due->pairs[i].act);
    }
    if (due->count > 0)
        tell_daemon(s);
}

static void collect_passed(struct server *s, struct due *due)
{
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++) {
        struct plan_slot *slot = &s->plan->slots[i];
        int64_t deadline = atomic_load(&slot->deadline_ns);
        bool watched = atomic_load(&slot->used) && deadline != PLAN_ACTED;
        if (!watched || deadline > clock_boot_ns())
            continue;
        if (claim(slot, deadline, false, &slot->report))
            add_due(s, due, i);
    }
}

// --- Requests ---

static void thaw(struct server *s, struct plan_slot *slot, struct act *act)
{
    int64_t deadline = atomic_load(&slot->thaw_deadline_ns);
    if (atomic_load(&slot->state) != GUARD_STEPPED_DOWN || deadline <= clock_boot_ns())
        return;
    // Watched again before anything runs again.
    atomic_store(&slot->state, GUARD_WATCHING);
    atomic_store(&slot->deadline_ns, deadline);
    int r = act_thaw(act);
    note(s, "pair %s runs again (%d)\n", slot->name, r);
}

static void destroy(struct server *s, struct plan_slot *slot, struct act *act)
{
    if (atomic_load(&slot->state) != GUARD_STEPPED_DOWN)
        return;
    int r = act_kill(act);
    atomic_store(&slot->state, GUARD_DESTROYED);
    note(s, "pair %s: what was frozen is killed (%d)\n", slot->name, r);
}

static void step_down_asked(struct server *s, size_t i, struct due *due)
{
    struct plan_slot *slot = &s->plan->slots[i];
    int64_t deadline = atomic_load(&slot->deadline_ns);
    while (deadline != PLAN_ACTED && !claim(slot, deadline, true, &slot->report))
        deadline = atomic_load(&slot->deadline_ns); // the daemon moves it: no matter where to
    if (deadline != PLAN_ACTED)
        add_due(s, due, i);
}

static void carry_out(struct server *s, size_t i)
{
    struct plan_slot *slot = &s->plan->slots[i];
    struct due due = {.count = 0};
    uint32_t asked = atomic_load(&slot->asked);
    if (asked == atomic_load(&slot->done))
        return;
    switch (atomic_load(&slot->request)) {
    case PLAN_STEP_DOWN:
        step_down_asked(s, i, &due);
        step_down(s, &due);
        break;
    case PLAN_THAW:
        thaw(s, slot, &s->acts[i]);
        break;
    case PLAN_DESTROY:
        destroy(s, slot, &s->acts[i]);
        break;
    default:
        break;
    }
    atomic_store(&slot->done, asked);
    tell_daemon(s);
}

// What is frozen is thawed or killed by the plan that froze it: a new one is taken on afterwards.
static void prepare(struct server *s, size_t i)
{
    struct plan_slot *slot = &s->plan->slots[i];
    uint32_t state = atomic_load(&slot->state);
    if (!atomic_load(&slot->used))
        act_drop(&s->acts[i]);
    else if (state == GUARD_WATCHING)
        act_prepare(&s->acts[i], slot);
}

// --- Sleeping ---

static int64_t earliest(const struct plan *plan)
{
    int64_t first = GUARD_NO_DEADLINE;
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++) {
        int64_t deadline = atomic_load(&plan->slots[i].deadline_ns);
        if (atomic_load(&plan->slots[i].used) && deadline != PLAN_ACTED)
            first = MIN(first, deadline);
    }
    return first;
}

static void set_timer(struct server *s, int64_t at_ns)
{
    struct itimerspec when = {.it_value = {0}}; // zero: never
    if (at_ns != GUARD_NO_DEADLINE) {
        at_ns = MAX(at_ns, 1);
        when.it_value.tv_sec = at_ns / NS_PER_S;
        when.it_value.tv_nsec = at_ns % NS_PER_S;
    }
    ENSURE(timerfd_settime(s->timer, TFD_TIMER_ABSTIME, &when, NULL) == 0);
}

// See invariant 4 of plan.h for the order.
static void arm(struct server *s)
{
    int64_t at = earliest(s->plan);
    for (;;) {
        atomic_store(&s->plan->armed_ns, at);
        int64_t again = earliest(s->plan);
        if (again >= at)
            break;
        at = again;
    }
    set_timer(s, at);
}

// --- The daemon ---

static void watch(struct server *s, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    ENSURE(epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

// Closing alone does not end the watch: what a descriptor stands for may be open in the daemon too,
// and a later descriptor of the same number and thing could not be watched.
static void unwatch(struct server *s, int *fd)
{
    if (*fd >= 0)
        (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, *fd, NULL);
    cleanup_close(fd);
    *fd = -1;
}

// The daemon that was attached is gone, or has let go.
static void daemon_ended(struct server *s)
{
    unwatch(s, &s->connection);
    s->alone_since_ns = clock_boot_ns();
    if (s->daemon_pidfd < 0) // whoever has closed everything that he had open has nothing in the kernel any more
        stay_daemon_gone(&s->stay);
}

static void note_address(void *user, const struct plan_slot *slot, size_t removed, int error)
{
    struct server *s = user;
    if (error < 0)
        note(s, "pair %s: a public address cannot be taken off (%d): tried again and again\n", slot->name, error);
    else
        note(s, "pair %s: %zu of its public addresses had been put on, and are off\n", slot->name, removed);
}

static bool has_exited(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return pidfd >= 0 && poll(&p, 1, 0) > 0;
}

// Nothing is known of a process that had no descriptor but whether it holds the connection.
static void keep_off(struct server *s)
{
    stay_look(&s->stay, s->connection >= 0 || s->daemon_pidfd >= 0, note_address, s);
}

// Its process has ended, whoever may still hold the connection: its last words are said.
static void daemon_died(struct server *s)
{
    if (!has_exited(s->daemon_pidfd))
        return;
    unwatch(s, &s->daemon_pidfd);
    stay_daemon_gone(&s->stay);
    keep_off(s); // before it is said that this end is gone
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++)
        if (bye_say(&s->bye, &s->plan->slots[i]))
            note(s, "pair %s: said goodbye for a daemon that has ended\n", s->plan->slots[i].name);
    daemon_ended(s);
}

static bool may_attach(int fd)
{
    struct ucred who = {0};
    socklen_t size = sizeof(who);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
        return false;
    return who.uid == geteuid();
}

static int pidfd_of(int fd)
{
    struct ucred who = {0};
    socklen_t size = sizeof(who);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 || who.pid <= 0)
        return -1;
    return (int)syscall(SYS_pidfd_open, who.pid, 0);
}

// What a former daemon wanted said dies with its turn, not with the next daemon.
static void forget_goodbyes(struct server *s)
{
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++)
        atomic_store(&s->plan->slots[i].goodbye_valid, 0);
}

static void greet(struct server *s, int fd)
{
    struct pass_hello hello = {.magic = PLAN_MAGIC,
                               .version = PLAN_VERSION,
                               .size = sizeof(*s->plan),
                               .status = s->connection >= 0 ? -EBUSY : 0,
                               .pid = getpid()};
    int fds[PASS_FDS_MAX] = {s->plan_fd};
    memcpy(fds + 1, s->inquiries, s->inquiry_count * sizeof(fds[0]));
    size_t count = hello.status < 0 ? 0 : 1 + s->inquiry_count;
    if (hello.status == 0)
        forget_goodbyes(s);
    if (pass_send(fd, &hello, sizeof(hello), fds, count) < 0 || hello.status < 0) {
        (void)close(fd);
        return;
    }
    s->connection = fd;
    s->had_daemon = true;
    if (s->daemon_pidfd >= 0)
        stay_daemon_gone(&s->stay);
    keep_off(s);
    stay_daemon_came(&s->stay);
    unwatch(s, &s->daemon_pidfd);
    s->daemon_pidfd = pidfd_of(fd);
    if (s->daemon_pidfd >= 0)
        watch(s, s->daemon_pidfd);
    watch(s, fd);
}

static bool same_place(int a, int b)
{
    struct sockaddr_storage one = {0}, other = {0};
    socklen_t one_size = sizeof(one), other_size = sizeof(other);
    return getsockname(a, (struct sockaddr *)&one, &one_size) == 0 &&
           getsockname(b, (struct sockaddr *)&other, &other_size) == 0 && one_size == other_size &&
           memcmp(&one, &other, one_size) == 0;
}

// One at an address and port: a later one takes the place of the former.
static void take_inquiry(struct server *s, int fd)
{
    size_t at = 0;
    while (at < s->inquiry_count && !same_place(s->inquiries[at], fd))
        at++;
    if (at == PASS_INQUIRIES_MAX) {
        (void)close(fd);
        return;
    }
    if (at < s->inquiry_count)
        unwatch(s, &s->inquiries[at]);
    else
        s->inquiry_count++;
    s->inquiries[at] = fd;
    watch(s, fd);
}

// Takes in what the daemon has sent; that it has sent something is all that most of it says.
static void read_connection(struct server *s)
{
    for (int i = 0; s->connection >= 0 && i < MESSAGES_MAX; i++) {
        char kind = 0;
        int fds[PASS_FDS_MAX];
        size_t count = 0;
        ssize_t n = pass_receive(s->connection, &kind, 1, fds, &count);
        if (n == -EAGAIN || n == -EINTR)
            return;
        size_t first = 0;
        if (n == 1 && kind == PASS_INQUIRY && count > 0)
            take_inquiry(s, fds[first++]);
        for (size_t k = first; k < count; k++)
            (void)close(fds[k]);
        if (n <= 0)
            daemon_ended(s);
    }
}

// A daemon that was killed while another one starts: its end is taken in before the new one is
// greeted, also if some child of it still holds the connection.
static void accept_daemon(struct server *s)
{
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    read_connection(s);
    daemon_died(s);
    if (may_attach(fd))
        greet(s, fd);
    else
        (void)close(fd);
}

// --- The management address ---

static bool end_of_slot(struct plan_slot *slot, struct inquiry_end *ret_end)
{
    if (!atomic_load(&slot->used) || !atomic_load(&slot->inquiry_valid))
        return false;
    *ret_end = slot->inquiry;
    atomic_thread_fence(memory_order_acquire);
    uint32_t role = atomic_load(&slot->role);
    bool serves = role == INQUIRY_ACTIVE || role == INQUIRY_TAKING_OVER;
    uint32_t state = atomic_load(&slot->state); // while it acts, the address may still be on
    if (serves && (state == GUARD_STEPPED_DOWN || state == GUARD_DESTROYED))
        role = slot->report.addresses_error == 0 ? INQUIRY_STEPPED_DOWN : INQUIRY_ACTIVE;
    ret_end->role = (uint8_t)role;
    return atomic_load(&slot->inquiry_valid) != 0;
}

struct answering {
    struct server *server;
    struct plan_slot *slots[GUARD_PAIRS_MAX]; // of each end
};

// For the daemon, which reads the same socket and has not got this one.
static void take_goodbye(void *user, size_t end, uint64_t run)
{
    struct answering *a = user;
    atomic_store(&a->slots[end]->gone_run, run);
    tell_daemon(a->server);
}

static void answer_inquiries(struct server *s, int fd)
{
    struct inquiry_end ends[GUARD_PAIRS_MAX];
    struct answering a = {.server = s};
    size_t count = 0;
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++) {
        a.slots[count] = &s->plan->slots[i];
        if (end_of_slot(&s->plan->slots[i], &ends[count]))
            count++;
    }
    (void)inquiry_answer(fd, ends, count, take_goodbye, &a);
}

// --- The loop ---

static bool nothing_left(const struct server *s)
{
    if (atomic_load(&s->plan->end))
        return true;
    if (s->connection >= 0)
        return false;
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++)
        if (atomic_load(&s->plan->slots[i].used))
            return false;
    return s->had_daemon || clock_boot_ns() - s->alone_since_ns > FIRST_DAEMON_S * NS_PER_S;
}

static int timeout_of(const struct server *s)
{
    int64_t ns = s->stay.next_ns - clock_boot_ns();
    if (s->stay.next_ns != INT64_MAX)
        return (int)(MAX(ns, 0) / NS_PER_MS) + 1;
    return s->had_daemon ? -1 : 1000;
}

static void handle(struct server *s, int fd)
{
    uint64_t fired;
    if (fd == s->listener)
        accept_daemon(s);
    else if (fd == s->connection)
        read_connection(s);
    else if (fd == s->daemon_pidfd)
        daemon_died(s);
    else if (fd != s->timer)
        answer_inquiries(s, fd);
    else if (read(fd, &fired, sizeof(fired)) < 0)
        return; // set anew in between
}

void server_run(struct server *server)
{
    while (!nothing_left(server)) {
        struct due due = {.count = 0};
        struct epoll_event events[8];
        collect_passed(server, &due);
        step_down(server, &due);
        for (size_t i = 0; i < GUARD_PAIRS_MAX; i++) {
            prepare(server, i);
            carry_out(server, i);
        }
        keep_off(server);
        arm(server);
        int timeout_ms = timeout_of(server);
        int n = epoll_wait(server->epoll, events, ARRAY_LEN(events), timeout_ms);
        for (int i = 0; i < n; i++)
            handle(server, events[i].data.fd);
    }
}

static int make_plan(struct server *s, struct error *err)
{
    s->plan_fd = memfd_create("understudy-guard", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->plan_fd < 0 || ftruncate(s->plan_fd, sizeof(*s->plan)) < 0 ||
        fcntl(s->plan_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return error_sys(err, -errno, "cannot make the shared plan");
    void *at = mmap(NULL, sizeof(*s->plan), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                    s->plan_fd, 0);
    if (at == MAP_FAILED)
        return error_sys(err, -errno, "cannot map the shared plan");
    s->plan = at;
    s->plan->magic = PLAN_MAGIC;
    s->plan->version = PLAN_VERSION;
    s->plan->size = sizeof(*s->plan);
    atomic_store(&s->plan->armed_ns, GUARD_NO_DEADLINE);
    return 0;
}

static int make_sockets(struct server *s, const char *dir, const char *name, struct error *err)
{
    snprintf(s->socket_name, sizeof(s->socket_name), "guard-%s.sock", name);
    s->place = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (s->place < 0)
        return error_sys(err, -errno, "cannot open the runtime directory %s", dir);
    int r = off_open(&s->off);
    if (r < 0)
        return error_sys(err, r, "cannot make a netlink socket");
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (s->epoll < 0 || s->timer < 0)
        return error_sys(err, -errno, "cannot make a timer");
    s->listener = pass_open(dir, s->socket_name, 1);
    if (s->listener < 0)
        return error_sys(err, s->listener, "cannot listen at %s/%s", dir, s->socket_name);
    watch(s, s->timer);
    watch(s, s->listener);
    return 0;
}

int server_make(const char *dir, const char *name, int note_fd, struct server **ret_server,
                struct error *err)
{
    struct server *s = calloc(1, sizeof(*s));
    if (!s)
        return error_sys(err, -ENOMEM, "guard");
    s->plan_fd = s->place = s->listener = s->connection = s->daemon_pidfd = s->timer =
        s->epoll = s->off.netlink = s->off.query = -1;
    s->note_fd = note_fd;
    bye_open(&s->bye);
    s->alone_since_ns = clock_boot_ns();
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++)
        act_init(&s->acts[i]);
    int r = make_plan(s, err);
    s->stay = (struct stay){.plan = s->plan, .acts = s->acts, .off = &s->off, .next_ns = INT64_MAX};
    if (r == 0)
        r = make_sockets(s, dir, name, err);
    if (r < 0) {
        server_free(s);
        return r;
    }
    *ret_server = s;
    return 0;
}

struct server *server_free(struct server *server)
{
    if (!server)
        return NULL;
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++)
        act_drop(&server->acts[i]);
    if (server->plan)
        (void)munmap(server->plan, sizeof(*server->plan));
    if (server->listener >= 0) // while our lock still keeps the next guard from making its own
        (void)unlinkat(server->place, server->socket_name, 0);
    off_close(&server->off);
    bye_close(&server->bye);
    cleanup_close(&server->plan_fd);
    cleanup_close(&server->place);
    cleanup_close(&server->listener);
    cleanup_close(&server->connection);
    cleanup_close(&server->daemon_pidfd);
    for (size_t i = 0; i < server->inquiry_count; i++)
        cleanup_close(&server->inquiries[i]);
    cleanup_close(&server->timer);
    cleanup_close(&server->epoll);
    free(server);
    return NULL;
}
