// SPDX-License-Identifier: Apache-2.0
// What was numbered, written down from outside: the tree of epochs with the updates of each, from which the content of
// the volumes at any position of any line follows.
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

void ledger_init(struct sim *s)
{
    s->ledger.write_count = 1; // number 0 stands for zeros
}

void ledger_free(struct sim *s)
{
    struct ledger *l = &s->ledger;
    for (unsigned i = 0; i < l->epoch_count; i++) {
        free(l->epochs[i].base);
        free(l->epochs[i].updates);
    }
    free(l->epochs);
    free(l->writes);
}

uint32_t ledger_write(struct sim *s, const struct ledger_write *write)
{
    struct ledger *l = &s->ledger;
    if (l->write_count >= l->write_room) {
        l->write_room = l->write_room ? l->write_room * 2 : 256;
        l->writes = realloc(l->writes, l->write_room * sizeof(*l->writes));
        ENSURE(l->writes);
    }
    l->writes[l->write_count] = *write;
    return l->write_count++;
}

int ledger_find(struct sim *s, uint64_t id)
{
    for (unsigned i = s->ledger.epoch_count; i > 0; i--)
        if (s->ledger.epochs[i - 1].epoch.id == id)
            return (int)i - 1;
    return -1;
}

int ledger_know(struct sim *s, const struct epoch *epoch)
{
    struct ledger *l = &s->ledger;
    int at = ledger_find(s, epoch->id);
    if (at >= 0)
        return at;
    l->epochs = realloc(l->epochs, (l->epoch_count + 1) * sizeof(*l->epochs));
    ENSURE(l->epochs);
    struct ledger_epoch *e = &l->epochs[l->epoch_count];
    memset(e, 0, sizeof(*e));
    e->epoch = *epoch;
    e->parent = epoch->parents ? ledger_find(s, epoch->parent[0].id) : -1;
    e->fork = epoch->parents ? epoch->parent[0].seq : 0;
    e->last = epoch->first_seq - 1;
    return (int)l->epoch_count++;
}

void ledger_base(struct host *h, int at)
{
    struct sim *s = h->sim;
    struct ledger_epoch *e = &s->ledger.epochs[at];
    unsigned per = sectors(s);
    free(e->base);
    e->base = malloc(per * s->volumes * sizeof(*e->base));
    ENSURE(e->base);
    for (unsigned v = 0; v < s->volumes; v++) {
        const uint8_t *bytes = fake_volume_bytes(h->volume[v]);
        for (unsigned i = 0; i < per; i++) {
            int64_t tag = sector_tag(bytes + i * SECTOR, i);
            if (tag < 0)
                fail(s, "%c: sector %u of volume %u holds something that nobody wrote", h->letter, i,
                     v);
            e->base[v * per + i] = (uint32_t)tag;
        }
    }
}

static struct ledger_update *add_update(struct ledger_epoch *e)
{
    if (e->count == e->room) {
        e->room = e->room ? e->room * 2 : 64;
        e->updates = realloc(e->updates, e->room * sizeof(*e->updates));
        ENSURE(e->updates);
    }
    return &e->updates[e->count++];
}

// Which request this record stands for.
static uint32_t number_of(struct host *h, const struct record *r, const void *payload)
{
    struct ledger *l = &h->sim->ledger;
    uint32_t sector = (uint32_t)(le64_get(r->offset) / SECTOR);
    uint32_t count = le32_get(r->length) / SECTOR;
    if (r->type == RECORD_WRITE) {
        int64_t tag = sector_tag(payload, sector);
        return tag > 0 && tag < l->write_count ? (uint32_t)tag : 0;
    }
    for (uint32_t i = 1; i < l->write_count; i++) {
        const struct ledger_write *w = &l->writes[i];
        if (w->zero && !w->epoch && w->host == h->index && w->object == le16_get(r->object) &&
            w->sector == sector && w->count == count)
            return i;
    }
    return 0;
}

static void note_update(struct host *h, int at, const struct record *r, const void *payload)
{
    struct sim *s = h->sim;
    struct ledger_epoch *e = &s->ledger.epochs[at];
    uint32_t number = number_of(h, r, payload);
    uint64_t seq = le64_get(r->seq);
    if (!number) {
        fail(s, "%c: record %llu was never asked for", h->letter, (unsigned long long)seq);
        return;
    }
    struct ledger_write *w = &s->ledger.writes[number];
    w->epoch = (uint32_t)at + 1;
    w->seq = seq;
    *add_update(e) = (struct ledger_update){seq, w->object, w->sector, w->count,
                                            w->zero ? 0 : number};
}

void ledger_record(struct host *h, const struct record *r, const void *payload)
{
    struct sim *s = h->sim;
    struct epoch epoch;
    if (r->type == RECORD_EPOCH) {
        const char *broken = epoch_decode(payload, le32_get(r->payload), &epoch);
        ENSURE(!broken);
        (void)ledger_know(s, &epoch);
    }
    int at = ledger_find(s, le64_get(r->epoch));
    uint64_t seq = le64_get(r->seq);
    if (at < 0) {
        fail(s, "%c: record %llu is of an unknown epoch", h->letter, (unsigned long long)seq);
        return;
    }
    struct ledger_epoch *e = &s->ledger.epochs[at];
    if (seq != e->last + 1)
        fail(s, "%c: record %llu follows on %llu in one epoch", h->letter, (unsigned long long)seq,
             (unsigned long long)e->last);
    e->last = seq;
    if (r->type == RECORD_WRITE || r->type == RECORD_ZERO || r->type == RECORD_DISCARD)
        note_update(h, at, r, payload);
}

void ledger_image(struct sim *s, int at, uint64_t seq, uint32_t *image)
{
    unsigned per = sectors(s);
    if (at < 0) {
        memset(image, 0, per * s->volumes * sizeof(*image));
        return;
    }
    const struct ledger_epoch *e = &s->ledger.epochs[at];
    if (e->base)
        memcpy(image, e->base, per * s->volumes * sizeof(*image));
    else
        ledger_image(s, e->parent, e->fork, image);
    for (unsigned i = 0; i < e->count && e->updates[i].seq <= seq; i++) {
        const struct ledger_update *u = &e->updates[i];
        for (unsigned k = 0; k < u->count; k++)
            image[u->object * per + u->sector + k] = u->tag;
    }
}
