// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/saver.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "common/base/twin.h"

enum { SAVE, SAVE_END };

struct save_letter {
    struct letter letter;
    uint64_t ticket;
    struct end_state state;
};

struct saver {
    struct mailbox *box, *reports;
    struct twin *twin;
    pthread_t thread;
    bool ending;
    struct log_site log;
};

static void save(struct saver *s, const struct save_letter *l)
{
    uint8_t bytes[STATE_SIZE_MAX];
    struct error err = {0};
    size_t size = state_encode(&l->state, bytes, sizeof(bytes));
    ENSURE(size > 0);
    int r = twin_save(s->twin, bytes, size, &err);
    if (r < 0)
        log_limited(&s->log, LOG_LEVEL_ERROR, "%s", err.text);
    struct saver_report *report = letter_new(sizeof(*report), SAVER_SAVED);
    report->ticket = l->ticket;
    report->status = r;
    mailbox_post(s->reports, report);
    // Nobody waits for the second copy.
    if (r == 0 && twin_mirror(s->twin, &err) < 0)
        log_limited(&s->log, LOG_LEVEL_WARNING, "%s", err.text);
}

static void *run(void *arg)
{
    struct saver *s = arg;
    while (!s->ending) {
        struct pollfd p = {.fd = mailbox_fd(s->box), .events = POLLIN};
        (void)poll(&p, 1, -1);
        mailbox_clear(s->box);
        struct save_letter *l;
        while ((l = mailbox_take(s->box))) {
            if (l->letter.kind == SAVE)
                save(s, l);
            else
                s->ending = true;
            free(l);
        }
    }
    return NULL;
}

static int load(struct saver *s, const char *path, struct end_state *ret_state, struct error *err)
{
    uint8_t bytes[STATE_SIZE_MAX];
    size_t size = 0;
    memset(ret_state, 0, sizeof(*ret_state));
    int r = twin_open(path, bytes, sizeof(bytes), &s->twin, &size, err);
    if (s->twin && twin_repaired(s->twin))
        log_warning("%s", twin_repaired(s->twin));
    if (r < 0 || size == 0)
        return r;
    const char *broken = state_decode(bytes, size, ret_state);
    return broken ? error_set(err, -EUCLEAN, "%s: %s", path, broken) : 0;
}

int saver_new(const char *path, struct mailbox *reports, struct saver **ret_saver,
              struct end_state *ret_state, struct error *err)
{
    struct saver *s = calloc(1, sizeof(*s));
    if (!s)
        return error_sys(err, -ENOMEM, "%s", path);
    s->reports = reports;
    s->box = mailbox_new();
    int loaded = s->box ? load(s, path, ret_state, err) : error_sys(err, -ENOMEM, "%s", path);
    if (loaded < 0 && loaded != -EUCLEAN) {
        s->twin = twin_free(s->twin);
        mailbox_free(s->box);
        free(s);
        return loaded;
    }
    if (thread_start(&s->thread, "saver", run, s) < 0) {
        s->twin = twin_free(s->twin);
        mailbox_free(s->box);
        free(s);
        return error_sys(err, -EAGAIN, "cannot start the saver's thread");
    }
    *ret_saver = s;
    return loaded;
}

struct saver *saver_free(struct saver *s)
{
    if (!s)
        return NULL;
    mailbox_post(s->box, letter_new(sizeof(struct save_letter), SAVE_END));
    (void)pthread_join(s->thread, NULL);
    twin_free(s->twin);
    mailbox_free(s->box);
    free(s);
    return NULL;
}

void saver_save(struct saver *s, uint64_t ticket, const struct end_state *state)
{
    struct save_letter *l = letter_new(sizeof(*l), SAVE);
    l->ticket = ticket;
    l->state = *state;
    mailbox_post(s->box, l);
}
