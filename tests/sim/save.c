// SPDX-License-Identifier: Apache-2.0
// An end's state on its disk: two copies as common/base/twin keeps them. A save writes the copy that is not the newest;
// when nobody waits any more the other one gets the same content. A crash tears the copy that is being written; what
// rots is found by its checksum. A load gives the newest copy that can be read, and damage where none can.
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct save {
    uint64_t ticket;
    size_t size;
    bool alone;
    uint8_t bytes[];
};

static int newest(const struct host *h)
{
    bool second = h->copy[1].readable &&
                  (!h->copy[0].readable || h->copy[1].version > h->copy[0].version);
    return second ? 1 : 0;
}

static void write_copy(struct host *h, int i, const void *bytes, size_t size, uint64_t version)
{
    struct state_copy *c = &h->copy[i];
    memcpy(c->bytes, bytes, size);
    c->size = size;
    c->version = version;
    c->readable = true;
}

static void mirror(struct host *h, void *arg, uint64_t version)
{
    (void)arg;
    const struct state_copy *c = &h->copy[newest(h)];
    if (c->version == version && c->readable && !h->save_fails)
        write_copy(h, 1 - newest(h), c->bytes, c->size, version);
}

static void write_state(struct host *h, const struct save *save)
{
    uint64_t version = MAX(h->copy[0].version, h->copy[1].version) + 1;
    h->was_saved = true;
    write_copy(h, 1 - newest(h), save->bytes, save->size, version);
}

static void durable(struct host *h, void *arg, uint64_t n)
{
    const struct save *save = arg;
    (void)n;
    struct end_event ev = {.type = EV_SAVED};
    ev.saved.ticket = save->ticket;
    ev.saved.status = h->save_fails ? -EIO : 0;
    if (h->saving == save)
        h->saving = NULL;
    if (!h->save_fails) {
        write_state(h, save);
        h->durable_alone = save->alone;
        plan_daemon(h, h->sim->now + (int64_t)rnd(h->sim, 20) * NS_PER_MS, mirror, NULL,
                    h->copy[newest(h)].version);
    }
    report_event(h, &ev);
}

void state_save(struct host *h, const struct end_action *a)
{
    struct sim *s = h->sim;
    uint8_t bytes[STATE_SIZE_MAX];
    size_t size = state_encode(&a->state, bytes, sizeof(bytes));
    ENSURE(size > 0);
    for (unsigned i = 0; i < a->state.history.count; i++)
        (void)ledger_know(s, &a->state.history.epochs[i]);
    struct save *save = malloc(sizeof(*save) + size);
    ENSURE(save);
    *save = (struct save){.ticket = a->ticket, .size = size, .alone = a->state.alone};
    memcpy(save->bytes, bytes, size);
    int64_t delay = (int64_t)rnd(s, 3000) * NS_PER_US;
    if (chance(s, 20))
        delay += (int64_t)rnd(s, 800) * NS_PER_MS; // the disk is busy
    h->save_at = MAX(h->save_at, s->now) + disk_time(h, delay);
    if (!h->saving)
        h->saving = save;
    plan_daemon(h, h->save_at, durable, save, 0);
}

// The process, or the machine, ends in the middle of a save.
void state_cut_off(struct host *h)
{
    if (!h->saving)
        return;
    if (chance(h->sim, 350))
        write_state(h, h->saving);
    else if (chance(h->sim, 500))
        h->copy[1 - newest(h)].readable = false;
    h->saving = NULL;
}

void state_rot(struct host *h, bool both)
{
    int i = newest(h);
    // The newest one alone holds what was just saved until the other has it, too: that no format can repair.
    bool equal = h->copy[1 - i].readable && h->copy[0].version == h->copy[1].version;
    if (both || (equal && chance(h->sim, 500)))
        h->copy[i].readable = false;
    if (both || h->copy[i].readable)
        h->copy[1 - i].readable = false;
}

void state_wipe(struct host *h)
{
    memset(h->copy, 0, sizeof(h->copy));
    h->was_saved = false;
}

bool state_peek(const struct host *h, struct end_state *ret_state)
{
    const struct state_copy *c = &h->copy[newest(h)];
    return c->readable && !state_decode(c->bytes, c->size, ret_state);
}

// As pairctl reads it before it drops a salvage of that epoch: it may go on.
bool state_goes_on(const struct host *h, uint64_t salvaged)
{
    struct end_state state = {0};
    if (!state_peek(h, &state))
        return h->was_saved;
    return state.salvage && state.salvaged.id == salvaged;
}

bool state_lacks(const struct host *h, uint64_t epoch)
{
    struct end_state state = {0};
    return state_peek(h, &state) && !state.history.truncated && !history_contains(&state.history, epoch);
}

// False: it was saved once, and no copy can be read.
bool state_read(struct host *h)
{
    const struct state_copy *c = &h->copy[newest(h)];
    memset(&h->state, 0, sizeof(h->state));
    h->durable_alone = false;
    if (!c->readable)
        return !h->was_saved;
    const char *broken = state_decode(c->bytes, c->size, &h->state);
    ENSURE(!broken);
    h->durable_alone = h->state.alone;
    if (!h->copy[1 - newest(h)].readable) {
        cover_count("state: one copy is made good from the other");
        write_copy(h, 1 - newest(h), c->bytes, c->size, c->version);
    }
    return true;
}
