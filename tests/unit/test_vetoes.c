// SPDX-License-Identifier: Apache-2.0
// common/daemon/vetoes: whatever speaks against becoming active is found, and silence takes its time. What is asked, and how
// it is answered, is test_address's; who asks for the public address, test_switchboard's.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/address/probe.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/daemon/vetoes.h"
#include "tests/unit/netns.h"

#define WAYPOINT "192.0.2.1"
#define NOBODY   "192.0.2.77"

static struct netns ns;
static const uint8_t key[MAC_KEY_SIZE] = {9, 9};

// The peer's responder at its management address; -1: none.
struct responder {
    int fd;
    struct inquiry_end end;
};

static struct ip ip_of(const char *text)
{
    struct ip ip;
    assert_int_equal(ip_parse(text, &ip, NULL), 0);
    return ip;
}

static void respond(struct responder *r, enum inquiry_role role)
{
    struct ip at = ip_of("127.0.0.1");
    *r = (struct responder){.end = {.identity = INQUIRY_PRIMARY, .role = (uint8_t)role}};
    memcpy(r->end.key, key, sizeof(key));
    inquiry_id(key, "shop", r->end.id);
    r->fd = inquiry_socket(&at, 0, NULL);
    assert_true(r->fd >= 0);
}

static struct vetoes_config config_with(const struct responder *r, const struct waypoint_monitor *m)
{
    struct vetoes_config c = {.waypoints = m, .pair = "shop", .peer = INQUIRY_PRIMARY};
    memcpy(c.key, key, sizeof(key));
    if (r) {
        c.ask_peer = true;
        c.from = c.to = ip_of("127.0.0.1");
        c.port = inquiry_socket_port(r->fd);
    }
    return c;
}

static void wait_a_little(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
}

static void answer(const struct responder *r)
{
    if (r)
        (void)inquiry_answer(r->fd, &r->end, 1, NULL, NULL);
}

// Works until it is decided. Answers come in before the time is looked at, however busy the machine is.
static uint32_t decide(struct vetoes *v, const struct responder *r, struct waypoint_monitor *m)
{
    uint32_t found = 0;
    char text[200];
    for (;;) {
        answer(r);
        if (m)
            waypoint_work(m);
        if (vetoes_work(v, &found, text, sizeof(text)))
            break;
        wait_a_little();
    }
    assert_int_equal(text[0] == '\0', found == 0); // a veto has a reason
    return found;
}

static struct waypoint_monitor *watch(const char *waypoint)
{
    struct waypoint_monitor *m = NULL;
    const struct ip at = ip_of(waypoint), net = ip_of("192.0.2.10/24");
    assert_int_equal(waypoint_start("a", &at, 1, &net, 1, &m, NULL), 0);
    waypoint_watch(m, true);
    return m;
}

// Until it has answered an ask that was sent after `since_ns`.
static void await_answer(struct waypoint_monitor *m, int64_t since_ns)
{
    while (waypoint_sent_ns(m) == WAYPOINT_NEVER || waypoint_sent_ns(m) <= since_ns) {
        waypoint_work(m);
        wait_a_little();
    }
}

static void silence_takes_its_time(void **state)
{
    (void)state;
    struct vetoes_config c = config_with(NULL, NULL);
    int64_t began = clock_boot_ns();
    struct vetoes *v = vetoes_start(&c);
    assert_int_equal(decide(v, NULL, NULL), 0);
    assert_true(clock_boot_ns() - began >= PROBE_SPAN_NS);
    vetoes_free(v);
}

static void what_the_peer_says_of_itself_counts(void **state)
{
    (void)state;
    static const struct {
        enum inquiry_role role;
        uint32_t veto;
    } table[] = {
        {INQUIRY_ACTIVE, END_VETO_MANAGEMENT},
        {INQUIRY_TAKING_OVER, END_VETO_MANAGEMENT},
        {INQUIRY_PASSIVE, 0},
        {INQUIRY_STEPPED_DOWN, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct responder r;
        respond(&r, table[i].role);
        struct vetoes_config c = config_with(&r, NULL);
        struct vetoes *v = vetoes_start(&c);
        assert_int_equal(decide(v, &r, NULL), table[i].veto);
        vetoes_free(v);
        (void)close(r.fd);
    }
}

static void no_waypoint_answers(void **state)
{
    (void)state;
    struct waypoint_monitor *m = watch(NOBODY);
    struct vetoes_config c = config_with(NULL, m);
    struct vetoes *v = vetoes_start(&c);
    assert_int_equal(decide(v, NULL, m), END_VETO_WAYPOINT);
    vetoes_free(v);
    waypoint_free(m);
}

// Starts the asking, with one answer of a waypoint in its beginning. On a busy machine that may take several attempts.
static struct vetoes *start_with_an_answer(struct waypoint_monitor *m)
{
    uint32_t found;
    char text[200];
    const struct vetoes_config c = config_with(NULL, m);
    for (;;) {
        struct vetoes *v = vetoes_start(&c);
        int64_t began = clock_boot_ns();
        waypoint_ask_now(m);
        await_answer(m, began);
        if (!vetoes_work(v, &found, text, sizeof(text)))
            return v;
        vetoes_free(v);
    }
}

// Whoever was cut off in between has seen neither the address nor its owner.
static void waypoint_that_answers_with_a_gap_does_not_count(void **state)
{
    (void)state;
    struct waypoint_monitor *m = watch(WAYPOINT);
    await_answer(m, 0);
    struct vetoes *v = start_with_an_answer(m);
    (void)usleep(2 * WAYPOINT_GAP_NS / 1000);
    await_answer(m, clock_boot_ns());
    assert_int_equal(decide(v, NULL, m), END_VETO_WAYPOINT);
    vetoes_free(v);
    waypoint_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silence_takes_its_time),
        cmocka_unit_test(what_the_peer_says_of_itself_counts),
        cmocka_unit_test(no_waypoint_answers),
        cmocka_unit_test(waypoint_that_answers_with_a_gap_does_not_count),
    };
    netns_make(&ns);
    netns_here("ip addr add 192.0.2.2/24 dev a");
    netns_there(&ns, "ip addr add " WAYPOINT "/24 dev b");
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    netns_drop(&ns);
    return r;
}
