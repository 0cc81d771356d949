// SPDX-License-Identifier: Apache-2.0
// common/daemon: the mailbox, the saver, and the front thread with a real store, a real unsafe
// queue and the lane (no peer): what it reports, and what it leaves behind for the next run.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/config/pair.h"
#include "common/daemon/front.h"
#include "common/daemon/saver.h"

#define PATIENCE_MS 60000

struct place {
    char dir[64];
    char store[100], queue[100], socket[100], state[100], spill[100];
};

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    (void)snprintf(p->dir, sizeof(p->dir), "/tmp/understudy-front-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    (void)snprintf(p->store, sizeof(p->store), "%s/store", p->dir);
    (void)snprintf(p->queue, sizeof(p->queue), "%s/unsafe", p->dir);
    (void)snprintf(p->socket, sizeof(p->socket), "%s/disk.nbd", p->dir);
    (void)snprintf(p->state, sizeof(p->state), "%s/state", p->dir);
    (void)snprintf(p->spill, sizeof(p->spill), "%s/spill", p->dir);
    assert_int_equal(mkdir(p->spill, 0700), 0);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    char command[100];
    (void)snprintf(command, sizeof(command), "rm -rf %s", p->dir);
    assert_int_equal(system(command), 0);
    free(p);
    return 0;
}

static void *take_next(struct mailbox *box)
{
    for (;;) {
        void *letter = mailbox_take(box);
        if (letter)
            return letter;
        struct pollfd p = {.fd = mailbox_fd(box), .events = POLLIN};
        assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        mailbox_clear(box);
    }
}

// ---- mailbox ----

#define LETTERS 2000

static void *write_letters(void *arg)
{
    for (int i = 0; i < LETTERS; i++)
        mailbox_post(arg, letter_new(sizeof(struct letter), i));
    return NULL;
}

static void letters_arrive_once_and_in_order(void **state)
{
    (void)state;
    struct mailbox *box = mailbox_new();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_letters, box), 0);
    for (int i = 0; i < LETTERS; i++) {
        struct letter *l = take_next(box);
        assert_int_equal(l->kind, i);
        free(l);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_null(mailbox_take(box));
    mailbox_post(box, letter_new(sizeof(struct letter), 0)); // freed with the box
    mailbox_free(box);
}

// ---- saver ----

static void saves_are_reported_in_order_and_found_again(void **state)
{
    struct place *p = *state;
    struct mailbox *box = mailbox_new();
    struct saver *saver = NULL;
    struct end_state st;
    struct error err = {0};
    assert_int_equal(saver_new(p->state, box, &saver, &st, &err), 0);
    assert_int_equal(st.role, ROLE_NONE);
    for (uint64_t i = 1; i <= 20; i++) {
        st.role = ROLE_PASSIVE;
        st.position = i;
        saver_save(saver, i, &st);
    }
    for (uint64_t i = 1; i <= 20; i++) {
        struct saver_report *r = take_next(box);
        assert_int_equal(r->letter.kind, SAVER_SAVED);
        assert_int_equal(r->status, 0);
        assert_int_equal(r->ticket, i);
        free(r);
    }
    st.position = 21;
    saver_save(saver, 21, &st);
    saver = saver_free(saver); // after what was asked for
    memset(&st, 0, sizeof(st));
    assert_int_equal(saver_new(p->state, box, &saver, &st, &err), 0);
    assert_int_equal(st.role, ROLE_PASSIVE);
    assert_int_equal(st.position, 21);
    saver_free(saver);
    mailbox_free(box);
}

static void damaged_state_is_said_and_can_be_replaced(void **state)
{
    struct place *p = *state;
    struct mailbox *box = mailbox_new();
    struct saver *saver = NULL;
    struct end_state st;
    struct error err = {0};
    assert_int_equal(saver_new(p->state, box, &saver, &st, &err), 0);
    st.role = ROLE_ACTIVE;
    saver_save(saver, 1, &st);
    saver_save(saver, 2, &st);
    saver = saver_free(saver);
    for (int i = 0; i < 2; i++) {
        char path[110];
        (void)snprintf(path, sizeof(path), "%s.%d", p->state, i);
        CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "damage", 6, 40), 6);
    }
    assert_int_equal(saver_new(p->state, box, &saver, &st, &err), -EUCLEAN);
    assert_non_null(saver);
    assert_int_equal(st.role, ROLE_NONE);
    st.role = ROLE_PASSIVE;
    saver_save(saver, 3, &st);
    saver = saver_free(saver);
    assert_int_equal(saver_new(p->state, box, &saver, &st, &err), 0);
    assert_int_equal(st.role, ROLE_PASSIVE);
    saver_free(saver);
    mailbox_free(box);
}

// ---- front ----

struct run {
    struct pair_volume_config volume;
    struct pair_config pair;
    struct figures figures;
    struct mailbox *reports, *wake;
    struct lane *lane;
    struct front *front;
    const char *sockets[1];
};

static void run_begin(struct run *run, struct place *p)
{
    struct error err = {0};
    *run = (struct run){0};
    static char name[] = "disk", pair[] = "test", root[] = "0";
    run->volume =
        (struct pair_volume_config){.name = name,
                                    .size = 1 << 20,
                                    .primary = {.path = p->store},
                                    .secondary = {.path = p->store},
                                    .socket = {.owner = root, .group = root, .mode = 0600}};
    run->pair = (struct pair_config){
        .pair = pair, .volumes = &run->volume, .volume_count = 1, .mode = PAIR_ASYNC};
    run->pair.timing.timeout_ms = 2000;
    run->pair.queues.memory = 160 << 20;
    run->sockets[0] = p->socket;
    atomic_store(&run->figures.lease_ns, INT64_MAX);
    run->reports = mailbox_new();
    run->wake = mailbox_new();
    run->lane = lane_new(NULL, &run->figures, run->wake); // nothing is ever started on it
    struct front_config config = {.pair = &run->pair,
                                  .side = PAIR_PRIMARY,
                                  .queue_path = p->queue,
                                  .map_path = p->dir,
                                  .spill_path = p->spill,
                                  .sockets = run->sockets,
                                  .pair_id = 7,
                                  .boot = 9,
                                  .figures = &run->figures,
                                  .lane = run->lane,
                                  .reports = run->reports};
    int r = front_new(&config, &run->front, &err);
    if (r < 0)
        fail_msg("%s", err.text);
}

static void run_end(struct run *run)
{
    front_free(run->front);
    lane_free(run->lane);
    mailbox_free(run->wake);
    mailbox_free(run->reports);
}

static void make_store(const struct place *p)
{
    CLEANUP_CLOSE int fd = open(p->store, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
}

static struct end_event next_event(struct run *run)
{
    for (;;) {
        struct front_report *r = take_next(run->reports);
        struct end_event ev = r->event;
        bool is_event = r->letter.kind == FRONT_EVENT;
        free(r);
        if (is_event)
            return ev;
    }
}

static struct epoch first_epoch(uint64_t id, uint64_t seq)
{
    return (struct epoch){.number = 1,
                          .id = id,
                          .first_seq = seq,
                          .opened_by = EPOCH_BY_PRIMARY,
                          .reason = EPOCH_FIRST_START};
}

static void open_alone(struct run *run, const struct epoch *epoch)
{
    front_open(run->front, false, epoch, epoch->first_seq);
    struct end_event ev = next_event(run);
    assert_int_equal(ev.type, EV_EXPORTS);
    assert_true(ev.exports.open);
    assert_int_equal(ev.exports.numbered, epoch->first_seq);
    front_bound(run->front, epoch->first_seq + 1000);
    front_gate(run->front, GATE_ALONE, 1);
    ev = next_event(run);
    assert_int_equal(ev.type, EV_GATE);
    assert_int_equal(ev.gate.gate, GATE_ALONE);
}

// What a killed or stopped daemon leaves says in which epoch it numbers: the end goes on with
// nothing else.
static void queue_that_is_left_behind_names_its_epoch(void **state)
{
    struct place *p = *state;
    struct run run;
    struct service_found queue;
    char why[200] = "";
    make_store(p);
    run_begin(&run, p);
    assert_false(front_find_queue(run.front, &queue, why, sizeof(why)));
    assert_string_equal(why, "");
    struct epoch epoch = first_epoch(41, 100);
    open_alone(&run, &epoch);
    // Another epoch, as when going alone: held, its record, on.
    front_gate(run.front, GATE_HELD, 1);
    struct end_event ev = next_event(&run);
    assert_int_equal(ev.gate.gate, GATE_HELD);
    struct epoch second = {.number = 2,
                           .id = 42,
                           .parents = 1,
                           .parent = {{41, ev.gate.numbered}},
                           .first_seq = ev.gate.numbered + 1,
                           .opened_by = EPOCH_BY_PRIMARY,
                           .reason = EPOCH_ALONE};
    front_epoch(run.front, &second);
    front_gate(run.front, GATE_ALONE, 1);
    ev = next_event(&run);
    assert_int_equal(ev.gate.numbered, second.first_seq);
    run_end(&run);
    run_begin(&run, p);
    assert_true(front_find_queue(run.front, &queue, why, sizeof(why)));
    assert_int_equal(queue.epoch, 42);
    assert_int_equal(queue.numbered, 101);
    assert_false(queue.pending);
    front_open(run.front, true, &second, 0);
    ev = next_event(&run);
    assert_true(ev.exports.open);
    assert_int_equal(ev.exports.numbered, 101);
    front_abandon(run.front, true);
    ev = next_event(&run);
    assert_false(ev.exports.open);
    assert_false(front_find_queue(run.front, &queue, why, sizeof(why)));
    run_end(&run);
}

static void closed_exports_come_back_with_their_queue(void **state)
{
    struct place *p = *state;
    struct run run;
    make_store(p);
    run_begin(&run, p);
    struct epoch epoch = first_epoch(41, 1);
    open_alone(&run, &epoch);
    front_close(run.front);
    struct end_event ev = next_event(&run);
    assert_int_equal(ev.type, EV_EXPORTS);
    assert_false(ev.exports.open);
    assert_int_equal(ev.exports.status, 0);
    front_open(run.front, true, &epoch, 0);
    ev = next_event(&run);
    assert_true(ev.exports.open);
    assert_int_equal(ev.exports.numbered, 1);
    run_end(&run);
}

static void missing_store_is_an_answer(void **state)
{
    struct place *p = *state;
    struct run run;
    run_begin(&run, p);
    struct epoch epoch = first_epoch(41, 1);
    front_open(run.front, false, &epoch, 1);
    struct end_event ev = next_event(&run);
    assert_int_equal(ev.type, EV_EXPORTS);
    assert_false(ev.exports.open);
    assert_true(ev.exports.status < 0);
    make_store(p);
    open_alone(&run, &epoch);
    run_end(&run);
}

// The gate's answer that is waited for is the one that was asked for last, in whatever order they
// come.
static void gates_in_haste_end_at_the_last_one(void **state)
{
    struct place *p = *state;
    struct run run;
    make_store(p);
    run_begin(&run, p);
    struct epoch epoch = first_epoch(41, 1);
    open_alone(&run, &epoch);
    front_gate(run.front, GATE_HELD, 2);
    front_gate(run.front, GATE_PAIRED, 3);
    front_gate(run.front, GATE_HELD, 4);
    front_gate(run.front, GATE_ALONE, 5);
    struct end_event ev;
    do {
        ev = next_event(&run);
        assert_int_equal(ev.type, EV_GATE);
    } while (ev.gate.ticket != 5);
    assert_int_equal(ev.gate.gate, GATE_ALONE);
    run_end(&run);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(letters_arrive_once_and_in_order),
        T(saves_are_reported_in_order_and_found_again),
        T(damaged_state_is_said_and_can_be_replaced),
        T(queue_that_is_left_behind_names_its_epoch),
        T(closed_exports_come_back_with_their_queue),
        T(missing_store_is_an_answer),
        T(gates_in_haste_end_at_the_last_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
