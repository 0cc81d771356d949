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
    FRONT_VERIFY,
    FRONT_DIFFERS,
    FRONT_ANSWER,
    FRONT_MAP_FILL,
    FRONT_MAP_VOID,
    FRONT_MAP_ARM,
    FRONT_MAP_CLEAR,
    FRONT_MAP_READ,
    FRONT_MAP_ASIDE,
    FRONT_MAP_ADD,
    FRONT_MAP_SYNC,
    FRONT_MAP_COPY, // a struct copy_letter
    FRONT_SPILLED, // a struct spilled_letter
    FRONT_END,
};

struct front_letter {
    struct letter letter;
    bool flag; // OPEN: recover. ABANDON: report. MAP_VOID: recorded. MAP_READ, MAP_ADD: aside
    enum end_gate gate;
    uint64_t number; // OPEN, BOUND: seq. ATTACH: session. RESYNC, VERIFY, DIFFERS, MAP_FILL, MAP_ARM, MAP_CLEAR: mask. MAP_READ: region
    uint64_t ticket; // MAP_..., RESYNC
    uint64_t record; // MAP_VOID, MAP_FILL. MAP_READ, MAP_ARM: session
    uint16_t object;
    struct epoch epoch;
    _Alignas(8) uint8_t message[]; // ANSWER, MAP_ADD
};

struct copy_letter {
    struct letter letter;
    uint64_t objects, ticket;
    struct mailbox *box;
    int kind;
};

// ---- taken ----

static void take_copy(struct front *f, const struct copy_letter *l)
{
    f->copy_box = l->box;
    f->copy_kind = l->kind;
    service_map_copy(f->service, l->objects, l->ticket);
}

static void take_map_letter(struct front *f, const struct front_letter *l)
{
    struct service *s = f->service;
    switch ((int)l->letter.kind) {
    case FRONT_MAP_FILL:
        service_map_fill(s, l->number, l->record);
        break;
    case FRONT_MAP_VOID:
        service_map_void(s, l->object, l->ticket, l->flag, l->record);
        break;
    case FRONT_MAP_ARM:
        service_map_arm(s, l->record, l->number);
        break;
    case FRONT_MAP_CLEAR:
        service_map_clear(s, l->number);
        break;
    case FRONT_MAP_READ:
        service_map_read(s, l->object, l->number, l->record, l->flag);
        break;
    case FRONT_MAP_ASIDE:
        service_map_aside(s);
        break;
    case FRONT_MAP_ADD:
        service_map_add(s, (const struct frame_map *)(const void *)l->message, l->flag);
        break;
    case FRONT_MAP_SYNC:
        service_map_sync(s, l->ticket);
        break;
    case FRONT_MAP_COPY:
        take_copy(f, (const struct copy_letter *)(const void *)l);
        break;
    default:
        ENSURE(!"a letter of an unknown kind");
    }
}

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
        service_gate(s, l->gate, l->number, clock_boot_ns(), atomic_load(&f->config.figures->lease_ns));
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
        service_attach(s, l->number);
        break;
    case FRONT_DETACH:
        service_detach(s);
        break;
    case FRONT_RESYNC:
        service_resync(s, l->number, l->ticket, clock_boot_ns());
        break;
    case FRONT_VERIFY:
        service_verify(s, l->number, clock_boot_ns());
        break;
    case FRONT_DIFFERS:
        service_differs(s, l->number);
        break;
    case FRONT_ANSWER:
        service_answer(s, l->message);
        break;
    default:
        take_map_letter(f, l);
        break;
    case FRONT_SPILLED:
        service_spilled(s, ((const struct spilled_letter *)l)->job, clock_boot_ns());
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

void front_gate(struct front *f, enum end_gate gate, uint64_t ticket)
{
    struct front_letter *l = letter(FRONT_GATE);
    l->gate = gate;
    l->number = ticket;
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

void front_attach(struct front *f, uint64_t session)
{
    struct front_letter *l = letter(FRONT_ATTACH);
    l->number = session;
    mailbox_post(f->box, l);
}

void front_detach(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_DETACH));
}

void front_resync(struct front *f, uint64_t objects, uint64_t ticket)
{
    struct front_letter *l = letter(FRONT_RESYNC);
    l->number = objects;
    l->ticket = ticket;
    mailbox_post(f->box, l);
}

void front_verify(struct front *f, uint64_t objects)
{
    struct front_letter *l = letter(FRONT_VERIFY);
    l->number = objects;
    mailbox_post(f->box, l);
}

void front_differs(struct front *f, uint64_t objects)
{
    struct front_letter *l = letter(FRONT_DIFFERS);
    l->number = objects;
    mailbox_post(f->box, l);
}

void front_answer(struct front *f, const void *message, size_t size)
{
    struct front_letter *l = letter_new(sizeof(*l) + size, FRONT_ANSWER);
    memcpy(l->message, message, size);
    mailbox_post(f->box, l);
}

void front_map_fill(struct front *f, uint64_t objects, uint64_t record)
{
    struct front_letter *l = letter(FRONT_MAP_FILL);
    l->number = objects;
    l->record = record;
    mailbox_post(f->box, l);
}

void front_map_void(struct front *f, unsigned object, uint64_t ticket, bool recorded,
                    uint64_t record)
{
    struct front_letter *l = letter(FRONT_MAP_VOID);
    l->object = (uint16_t)object;
    l->ticket = ticket;
    l->flag = recorded;
    l->record = record;
    mailbox_post(f->box, l);
}

void front_map_arm(struct front *f, uint64_t session, uint64_t due)
{
    struct front_letter *l = letter(FRONT_MAP_ARM);
    l->record = session;
    l->number = due;
    mailbox_post(f->box, l);
}

void front_map_clear(struct front *f, uint64_t objects)
{
    struct front_letter *l = letter(FRONT_MAP_CLEAR);
    l->number = objects;
    mailbox_post(f->box, l);
}

void front_map_read(struct front *f, unsigned object, uint64_t from, uint64_t session, bool aside)
{
    struct front_letter *l = letter(FRONT_MAP_READ);
    l->object = (uint16_t)object;
    l->number = from;
    l->record = session;
    l->flag = aside;
    mailbox_post(f->box, l);
}

void front_map_aside(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_MAP_ASIDE));
}

void front_map_copy(struct front *f, uint64_t objects, uint64_t ticket, struct mailbox *box, int kind)
{
    struct copy_letter *l = letter_new(sizeof(*l), FRONT_MAP_COPY);
    l->objects = objects;
    l->ticket = ticket;
    l->box = box;
    l->kind = kind;
    mailbox_post(f->box, l);
}

void front_map_add(struct front *f, const struct frame_map *piece, bool aside)
{
    struct front_letter *l = letter_new(sizeof(*l) + sizeof(*piece), FRONT_MAP_ADD);
    l->flag = aside;
    memcpy(l->message, piece, sizeof(*piece));
    mailbox_post(f->box, l);
}

void front_map_sync(struct front *f, uint64_t ticket)
{
    struct front_letter *l = letter(FRONT_MAP_SYNC);
    l->ticket = ticket;
    mailbox_post(f->box, l);
}

int front_spilled_kind(void)
{
    return FRONT_SPILLED;
}

void front_end(struct front *f)
{
    mailbox_post(f->box, letter(FRONT_END));
}
