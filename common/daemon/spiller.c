// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/spiller.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/base/thread.h"
#include "common/store/segments.h"

enum { SPILLER_JOB, SPILLER_END };

struct spiller {
    struct mailbox *box, *done;
    int kind;
    struct segments *segments;
    pthread_t thread;
    _Atomic bool ending;
};

static void work(struct spiller *s, const struct spilled_letter *l)
{
    if (l->letter.kind != SPILLER_JOB || s->ending)
        return;
    spill_run(l->job);
    struct spilled_letter *answer = letter_new(sizeof(*answer), s->kind);
    answer->job = l->job;
    mailbox_post(s->done, answer);
}

static void *run(void *arg)
{
    struct spiller *s = arg;
    while (!s->ending) {
        struct pollfd p = {.fd = mailbox_fd(s->box), .events = POLLIN};
        (void)poll(&p, 1, -1);
        mailbox_clear(s->box);
        struct spilled_letter *l;
        while ((l = mailbox_take(s->box))) {
            work(s, l);
            free(l);
        }
    }
    return NULL;
}

int spiller_new(const char *path, struct mailbox *done, int kind, struct spiller **ret_spiller,
                struct error *err)
{
    struct spiller *s = calloc(1, sizeof(*s));
    if (!s)
        return error_sys(err, -ENOMEM, "%s", path);
    s->done = done;
    s->kind = kind;
    s->box = mailbox_new();
    int r = s->box ? segments_open(path, SEGMENTS_VOLATILE, &s->segments, err)
                   : error_sys(err, -ENOMEM, "%s", path);
    if (r == 0 && thread_start(&s->thread, "spiller", run, s) < 0)
        r = error_sys(err, -EAGAIN, "cannot start the spiller's thread");
    if (r < 0) {
        segments_free(s->segments);
        mailbox_free(s->box);
        free(s);
        return r;
    }
    *ret_spiller = s;
    return 0;
}

struct spiller *spiller_free(struct spiller *s)
{
    if (!s)
        return NULL;
    s->ending = true;
    mailbox_post(s->box, letter_new(sizeof(struct spilled_letter), SPILLER_END));
    (void)pthread_join(s->thread, NULL);
    segments_free(s->segments);
    mailbox_free(s->box);
    free(s);
    return NULL;
}

struct disk *spiller_disk(struct spiller *s)
{
    return segments_disk(s->segments);
}

void spiller_post(struct spiller *s, struct spill_job *job)
{
    struct spilled_letter *l = letter_new(sizeof(*l), SPILLER_JOB);
    l->job = job;
    mailbox_post(s->box, l);
}
