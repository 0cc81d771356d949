// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/switchboard.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/address/address.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/daemon/prompt.h"

enum board_letter_kind { LETTER_SWITCH, LETTER_LEAVE, LETTER_ASK, LETTER_ASK_NO_MORE, LETTER_END };

struct board_letter {
    struct letter letter;
    uint64_t number; // SWITCH: the ticket; ASK: which
    bool on;
};

struct switchboard {
    struct switchboard_config config;
    struct mailbox *box;
    pthread_t thread;
    _Atomic int64_t limit_ns;
    uint64_t tickets, asked; // of the control thread: given so far

    pthread_mutex_t lock; // for what is known of the newest asking:
    uint64_t answered;    // which one it is
    enum probe_state state;
    struct probe_answer answer;

    // Of the thread.
    bool ending;
    struct board_letter wish; // number 0: none
    uint64_t asking;
    struct address_probe *probe; // NULL: nothing is asked
};

// --- switching ---

static bool is_late(struct switchboard *b)
{
    return clock_boot_ns() >= atomic_load(&b->limit_ns);
}

static int switch_on(struct switchboard *b, struct error *err)
{
    struct error unnoted = {0};
    int r = claims_put_on(&b->config.claims, &unnoted, err);
    if (r == 0 && unnoted.code < 0)
        (void)error_set(err, unnoted.code, "a public address that is taken out of the pair file now would stay on: %s",
                        unnoted.text);
    if (r != -ETIME && (r < 0 || !is_late(b)))
        return r;
    (void)claims_take_off(&b->config.claims, NULL);
    return error_set(err, -ETIME, "the public address is not switched on: this end may not serve any more by then");
}

static void carry_out(struct switchboard *b)
{
    struct error err = {0};
    struct switchboard_report *report = letter_new(sizeof(*report), SWITCHBOARD_DONE);
    report->ticket = b->wish.number;
    report->on = b->wish.on;
    b->wish.number = 0;
    report->status = report->on ? switch_on(b, &err) : claims_take_off(&b->config.claims, &err);
    bool told = report->status < 0 || (report->on && err.code < 0);
    (void)snprintf(report->text, sizeof(report->text), "%s", told ? err.text : "");
    mailbox_post(b->config.reports, report);
}

static void leave_former(struct switchboard *b)
{
    struct error err = {0};
    struct switchboard_report *report = letter_new(sizeof(*report), SWITCHBOARD_LEFT);
    report->status = claims_leave(&b->config.claims, &err);
    (void)snprintf(report->text, sizeof(report->text), "%s", report->status < 0 ? err.text : "");
    mailbox_post(b->config.reports, report);
}

// --- asking ---

static void publish(struct switchboard *b, enum probe_state state, const struct probe_answer *answer)
{
    HOLD_LOCK(&b->lock);
    b->answered = b->asking;
    b->state = state;
    b->answer = *answer;
}

static void ask_no_more(struct switchboard *b)
{
    b->probe = address_probe_free(b->probe);
}

static void ask(struct switchboard *b, uint64_t number)
{
    const struct claims *c = &b->config.claims;
    struct probe_answer answer = {0};
    struct error err = {0};
    ask_no_more(b);
    b->asking = number;
    if (address_probe_start(c->interface, c->addresses, c->count, b->config.closer, &b->probe, &err) == 0)
        return;
    (void)snprintf(answer.text, sizeof(answer.text), "%.150s", err.text);
    publish(b, PROBE_IMPOSSIBLE, &answer);
}

static void work_on_probe(struct switchboard *b)
{
    struct probe_answer answer;
    if (!b->probe)
        return;
    address_probe_work(b->probe);
    enum probe_state state = address_probe_state(b->probe, &answer);
    if (state == PROBE_ASKING)
        return;
    publish(b, state, &answer);
    ask_no_more(b);
}

// --- the thread ---

// What was asked for meanwhile: of several wishes the last.
static void take_letters(struct switchboard *b)
{
    struct board_letter *l;
    mailbox_clear(b->box);
    while ((l = mailbox_take(b->box))) {
        if (l->letter.kind == LETTER_SWITCH)
            b->wish = *l;
        else if (l->letter.kind == LETTER_LEAVE)
            leave_former(b);
        else if (l->letter.kind == LETTER_ASK)
            ask(b, l->number);
        else if (l->letter.kind == LETTER_ASK_NO_MORE)
            ask_no_more(b);
        else
            b->ending = true;
        free(l);
    }
}

static void sleep_until_asked(const struct switchboard *b)
{
    struct pollfd fds[2] = {{.fd = mailbox_fd(b->box), .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    int ms = -1;
    if (b->probe) {
        fds[1].fd = address_probe_fd(b->probe);
        int64_t ns = address_probe_deadline_ns(b->probe) - clock_boot_ns();
        ms = (int)(MAX(ns, 0) / NS_PER_MS) + 1;
    }
    (void)poll(fds, ARRAY_LEN(fds), ms);
}

static void *run(void *arg)
{
    struct switchboard *b = arg;
    prompt_short_slice();
    while (!b->ending) {
        sleep_until_asked(b);
        take_letters(b);
        if (b->wish.number && !(b->ending && b->wish.on))
            carry_out(b);
        work_on_probe(b);
    }
    ask_no_more(b);
    return NULL;
}

// --- from outside ---

static struct switchboard *board_free(struct switchboard *b)
{
    mailbox_free(b->box);
    (void)pthread_mutex_destroy(&b->lock);
    free(b);
    return NULL;
}

int switchboard_new(const struct switchboard_config *config, struct switchboard **ret_board, struct error *err)
{
    ENSURE(config->claims.count == 0 || config->claims.interface);
    struct switchboard *b = calloc(1, sizeof(*b));
    if (!b)
        return error_sys(err, -ENOMEM, "switchboard");
    b->config = *config;
    b->config.claims.limit_ns = &b->limit_ns;
    atomic_store(&b->limit_ns, INT64_MAX);
    (void)pthread_mutex_init(&b->lock, NULL);
    b->box = mailbox_new();
    int r = b->box ? thread_start(&b->thread, "address", run, b) : -ENOMEM;
    if (r < 0) {
        board_free(b);
        return error_sys(err, r, "cannot start the thread for the public address");
    }
    *ret_board = b;
    return 0;
}

static void post(struct switchboard *b, int kind, uint64_t number, bool on)
{
    struct board_letter *l = letter_new(sizeof(*l), kind);
    l->number = number;
    l->on = on;
    mailbox_post(b->box, l);
}

struct switchboard *switchboard_free(struct switchboard *b)
{
    if (!b)
        return NULL;
    post(b, LETTER_END, 0, false);
    (void)pthread_join(b->thread, NULL);
    return board_free(b);
}

uint64_t switchboard_switch(struct switchboard *b, bool on)
{
    post(b, LETTER_SWITCH, ++b->tickets, on);
    return b->tickets;
}

void switchboard_leave(struct switchboard *b)
{
    post(b, LETTER_LEAVE, 0, false);
}

void switchboard_limit(struct switchboard *b, int64_t deadline_ns)
{
    atomic_store(&b->limit_ns, deadline_ns);
}

void switchboard_ask(struct switchboard *b)
{
    post(b, LETTER_ASK, ++b->asked, false);
}

enum probe_state switchboard_answer(struct switchboard *b, struct probe_answer *ret_answer)
{
    HOLD_LOCK(&b->lock);
    if (b->answered != b->asked)
        return PROBE_ASKING;
    *ret_answer = b->answer;
    return b->state;
}

void switchboard_ask_no_more(struct switchboard *b)
{
    post(b, LETTER_ASK_NO_MORE, 0, false);
}
