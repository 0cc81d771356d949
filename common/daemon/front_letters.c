// SPDX-License-Identifier: Apache-2.0
// Letters from the control thread to the front thread: what the end orders of the active end's data
// path.
#include <stdlib.h>
#include <string.h>

#include "common/daemon/front_private.h"

enum front_letter_kind {
    FRONT_OPEN,
    FRONT_BOUND,
    FRONT_GATE,
    FRONT_CLOSE,
    FRONT_ABANDON,
    FRONT_EPOCH,
    FRONT_ATTACH,
    FRONT_DETACH,
    FRONT_RESYNC,
    FRONT_ANSWER,
    FRONT_END,
};

struct front_letter {
    struct letter letter;
    bool flag; // OPEN: recover. ABANDON: report
    enum end_gate gate;
    uint64_t number; // OPEN, BOUND: seq. RESYNC: mask
    struct epoch epoch;
    uint8_t message[]; // ANSWER
};

// ---- taken ----

static void take_letter(struct front *f, const struct front_letter *l)
{
    struct service *s = f->service;
    switch ((enum front_letter_kind)l->letter.kind) {
    case FRONT_OPEN:
        service_open(s, l->flag, &l->epoch, l->number, clock_boot_ns());
        break;
    case FRONT_BOUND:
        service_bound(s, l->number);
        break;
    case FRONT_GATE:
        service_gate(s, l->gate);
        break;
    case FRONT_CLOSE:
        service_close(s);
        break;
    case FRONT_ABANDON:
        service_abandon(s, l->flag);
        break;
    case FRONT_EPOCH:
        service_epoch(s, &l->epoch);
        break;
    case FRONT_ATTACH:
        service_attach(s);
        break;
    case FRONT_DETACH:
        service_detach(s);
        break;
    case FRONT_RESYNC:
        service_resync(s, l->number, clock_boot_ns());
        break;
    case FRONT_ANSWER:
        service_answer(s, l->message);
        break;
    case FRONT_END:
        f->ending = true;
        break;
    }
}

void front_take_letters(struct front *f)
{
    struct front_letter *l;
    while ((l = mailbox_take(f->box))) {
        take_letter(f, l);
        free(l);
    }
}

// ---- written ----

static struct front_letter *letter(int kind)
{
    return letter_new(sizeof(struct front_letter), kind);
}

void front_open(struct front *f, bool recover, const struct epoch *epoch, uint64_t seq)
{
    struct front_letter *l = letter(FRONT_OPEN);
    l->flag = recover;
    l->epoch = *epoch;
    l->number = seq;
    mailbox_post(f->box, l);
}

void front_bound(struct front *f, uint64_t seq)
{
    struct front_letter *l = letter(FRONT_BOUND);
    l->number = seq;
    mailbox_post(f->box, l);
}

void front_gate(struct front *f, enum end_gate gate)
{
    struct front_letter *l = letter(FRONT_GATE);
    l->gate = gate;
    mailbox_post(f->box, l);
}

void front_close(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_CLOSE));
}

void front_abandon(struct front *f, bool report_it)
{
    struct front_letter *l = letter(FRONT_ABANDON);
    l->flag = report_it;
    mailbox_post(f->box, l);
}

void front_epoch(struct front *f, const struct epoch *epoch)
{
    struct front_letter *l = letter(FRONT_EPOCH);
    l->epoch = *epoch;
    mailbox_post(f->box, l);
}

void front_attach(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_ATTACH));
}

void front_detach(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_DETACH));
}

void front_resync(struct front *f, uint64_t objects)
{
    struct front_letter *l = letter(FRONT_RESYNC);
    l->number = objects;
    mailbox_post(f->box, l);
}

void front_answer(struct front *f, const void *message, size_t size)
{
    struct front_letter *l = letter_new(sizeof(*l) + size, FRONT_ANSWER);
    memcpy(l->message, message, size);
    mailbox_post(f->box, l);
}

void front_end(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_END));
}
