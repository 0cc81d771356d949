// SPDX-License-Identifier: Apache-2.0
// common/daemon/endpoint: a whole pair in one process, both ends with all their threads, stores and queues, each with a real
// guard. What the ends decide is tested elsewhere; here, that they are told the truth, and that what they ask for is done.
#include <endian.h>
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
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

// What a LUN that has lost its cache, and a ring, look like from within (wrapped by the linker, daemon.mk).
static atomic_int
    lost_at; // tid of the thread that finds its stores to have lost what was not flushed; 0: none
static atomic_bool rung; // the primary's front thread, by its stream thread

struct store;
uint64_t __real_store_resets(const struct store *store);
uint64_t __wrap_store_resets(const struct store *store);
uint64_t __wrap_store_resets(const struct store *store)
{
    return __real_store_resets(store) + (atomic_load(&lost_at) == gettid());
}

void __real_mailbox_ring(struct mailbox *box);
void __wrap_mailbox_ring(struct mailbox *box);
void __wrap_mailbox_ring(struct mailbox *box)
{
    struct endpoint *ep = primary.ep;
    if (ep && gettid() == atomic_load(&ep->figures.stream_tid) && box == front_mailbox(ep->front))
        atomic_store(&rung, true);
    __real_mailbox_ring(box);
}

#define FORMER_DURABLE (UINT64_C(1) << 40)
static uint64_t durable_at_open; // of the secondary; FORMER_DURABLE: its exports are still to be opened

// The step before its exports are opened: from here on it has a former stream behind it.
void __real_stream_close(struct stream *s, const struct epoch *forget, uint64_t next_seq);
void __wrap_stream_close(struct stream *s, const struct epoch *forget, uint64_t next_seq);
void __wrap_stream_close(struct stream *s, const struct epoch *forget, uint64_t next_seq)
{
    if (secondary.ep && s == secondary.ep->stream && durable_at_open == FORMER_DURABLE)
        atomic_store(&secondary.ep->figures.durable, FORMER_DURABLE);
    __real_stream_close(s, forget, next_seq);
}

void __real_front_open(struct front *f, bool recover, const struct epoch *epoch, uint64_t first_seq);
void __wrap_front_open(struct front *f, bool recover, const struct epoch *epoch, uint64_t first_seq);
void __wrap_front_open(struct front *f, bool recover, const struct epoch *epoch, uint64_t first_seq)
{
    if (secondary.ep && f == secondary.ep->front)
        durable_at_open = atomic_load(&secondary.ep->figures.durable);
    __real_front_open(f, recover, epoch, first_seq);
}

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

static void wait_a_little(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
}

static bool has_noted(struct side *s, const char *text)
{
    static struct status_event events[64];
    size_t n = endpoint_history(s->ep, events, ARRAY_LEN(events));
    for (size_t i = 0; i < n; i++) {
        if (strstr(events[i].text, text))
            return true;
    }
    return false;
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
    bool silent = false;
    for (int i = 0; i < 10 && !silent; i++) { // what was sent before may still come
        uint64_t number = secondary.ep->beat_number;
        pump_for(A_WHILE_NS);
        silent = secondary.ep->beat_number == number;
    }
    lane_hold(primary.ep->lane, false);
    assert_true(wedged);
    assert_true(silent);
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
    stop_side(&secondary);
    stop_side(&primary);
    write_pair(false);
    start_side(&primary);
    start_side(&secondary);
    wait_for(is_paired_without_waypoint, "a pair that waits for the operator");
    pump_for(A_WHILE_NS);
    assert_true(is_refused());
}

// ---- a client ----

struct nbd_ask {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
    uint8_t data[4096];
} __attribute__((packed));

static void transfer(int fd, void *data, size_t size, bool out)
{
    for (uint8_t *at = data; size > 0;) {
        struct pollfd p = {.fd = fd, .events = out ? POLLOUT : POLLIN};
        assert_int_equal(poll(&p, 1, PATIENCE_NS / NS_PER_MS), 1);
        ssize_t n = out ? send(fd, at, size, MSG_NOSIGNAL) : recv(fd, at, size, 0);
        assert_true(n > 0);
        at += n;
        size -= (size_t)n;
    }
}

// The oldest way in: NBD_OPT_EXPORT_NAME with an empty name.
static int connect_client(const struct side *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct {
        uint32_t flags;
        uint64_t magic;
        uint32_t option, length;
    } __attribute__((packed)) hello = {htobe32(3), htobe64(0x49484156454f5054ull), htobe32(1), 0};
    uint8_t back[18], answer[10];
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", s->ep->sockets[0]);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    transfer(fd, back, sizeof(back), false);
    transfer(fd, &hello, sizeof(hello), true);
    transfer(fd, answer, sizeof(answer), false);
    return fd;
}

static void ask_write(int fd)
{
    struct nbd_ask ask = {
        .magic = htobe32(0x25609513), .type = htobe16(1), .length = htobe32(sizeof(ask.data))};
    transfer(fd, &ask, sizeof(ask), true);
}

static void take_answer(int fd)
{
    uint8_t reply[16];
    transfer(fd, reply, sizeof(reply), false);
    static const uint8_t good[4];
    assert_memory_equal(reply + 4, good, sizeof(good));
}

// Whatever the control thread is doing, or is not.
static void nothing_is_answered_behind_the_lease(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    struct figures *g = &primary.ep->figures;
    int fd = connect_client(&primary);
    ask_write(fd);
    take_answer(fd);
    int64_t lease = atomic_exchange(&g->lease_ns, clock_boot_ns() - 1);
    while (atomic_load(&g->front_awake_ns) != 0) // a turn that had begun before
        wait_a_little();
    ask_write(fd);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int answers = poll(&p, 1, A_WHILE_NS / NS_PER_MS);
    atomic_store(&g->lease_ns, lease);
    assert_int_equal(answers, 0);
    take_answer(fd);
    assert_int_equal(close(fd), 0);
}

// ---- what the threads tell each other ----

static bool front_is_rung(void)
{
    struct batch_ack ack = {.kind = BATCH_ACK}; // of no session: changes nothing
    const struct iovec iov = {.iov_base = &ack, .iov_len = sizeof(ack)};
    atomic_store(&primary.ep->figures.waiting_for, 1); // until the front thread looks again
    (void)channel_data_send(secondary.ep->channel, &iov, 1);
    return atomic_load(&rung);
}

// A flush is answered as soon as durable has come, not when the front thread comes by.
static void who_waits_for_durable_is_told_when_it_has_come(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    assert_true(atomic_load(&primary.ep->figures.durable) >= 1);
    atomic_store(&rung, false);
    wait_for(front_is_rung, "a front thread that is told");
    wait_for(is_granted, "a grant");
}

static bool secondary_leads(void)
{
    return is_granted() && view_of(&secondary).active && !view_of(&primary).active;
}

static bool primary_leads(void)
{
    return is_granted() && view_of(&primary).active && !view_of(&secondary).active;
}

// What was durable of the stream that this end sent when it was active last.
static void durable_of_a_former_stream_does_not_count(void **state)
{
    (void)state;
    char text[ACTION_TEXT_SIZE];
    uint64_t operation;
    wait_for(is_granted, "a grant");
    durable_at_open = FORMER_DURABLE;
    assert_int_equal(
        endpoint_command(primary.ep, COMMAND_SWITCH, 0, 0, &operation, text, sizeof(text)), 0);
    wait_for(secondary_leads, "a grant of the new active end");
    assert_int_equal(durable_at_open, 0);
    assert_int_equal(
        endpoint_command(secondary.ep, COMMAND_SWITCH, 0, 0, &operation, text, sizeof(text)), 0);
    wait_for(primary_leads, "a grant of the one before");
}

// ---- a LUN that came back without its cache ----

#define LOST "came back without its write cache"

static bool primary_has_noted_it(void)
{
    return has_noted(&primary, LOST);
}

static bool secondary_has_noted_it(void)
{
    return has_noted(&secondary, LOST);
}

static uint64_t session_then;

static bool has_met_again(void)
{
    return is_granted() && view_of(&primary).session > session_then;
}

// What the peer has, and this end may have lost, is resynced.
static void active_end_resyncs_what_its_lun_may_have_lost(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    session_then = view_of(&primary).session;
    atomic_store(&lost_at, atomic_load(&primary.ep->figures.front_tid));
    mailbox_ring(front_mailbox(primary.ep->front));
    wait_for(primary_has_noted_it, "a LUN that has lost something");
    wait_for(has_met_again, "a grant behind a resync");
    atomic_store(&lost_at, 0);
}

// The end sees to the rest.
static void replica_whose_lun_may_have_lost_something_fails(void **state)
{
    (void)state;
    wait_for(is_granted, "a grant");
    atomic_store(&lost_at, atomic_load(&secondary.ep->figures.stream_tid));
    mailbox_ring(secondary.ep->stream_box);
    wait_for(secondary_has_noted_it, "a replica that has lost something");
    wait_for(is_refused, "a replica that is not relied upon");
    atomic_store(&lost_at, 0);
}

// ---- the public address ----

// It was not scheduled since, and its guard is about to take the address off, or has.
static void nobody_announces_behind_its_deadline(void **state)
{
    (void)state;
    const struct end_action again = {.type = ACT_ANNOUNCE};
    wait_for(is_granted, "a grant");
    struct endpoint *ep = primary.ep;
    assert_true(ep->address_on);
    endpoint_act(ep, &again);
    assert_non_null(ep->announcer);
    while (announcer_deadline_ns(ep->announcer) > clock_boot_ns())
        wait_a_little();
    ep->deadline_ns = clock_boot_ns() - 1;
    endpoint_work(ep);
    assert_null(ep->announcer);
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
        cmocka_unit_test(nothing_is_answered_behind_the_lease),
        cmocka_unit_test(who_waits_for_durable_is_told_when_it_has_come),
        cmocka_unit_test(durable_of_a_former_stream_does_not_count),
        cmocka_unit_test(active_end_resyncs_what_its_lun_may_have_lost),
        cmocka_unit_test(nobody_announces_behind_its_deadline),
        cmocka_unit_test(
            replica_whose_lun_may_have_lost_something_fails), // leaves a replica that is not tried again yet
        cmocka_unit_test(
            without_waypoint_the_peer_may_not_take_over), // the last one: of another pair file
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
