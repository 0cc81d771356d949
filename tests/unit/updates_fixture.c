// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/updates_fixture.h"

static int64_t ops_stamp_ns(void *user)
{
    return 1000;
}

static void ops_wake(void *user, bool barrier)
{
    struct fixture *f = user;
    f->barriers += barrier;
}

static void ops_event(void *user, const struct updates_event *event)
{
    struct fixture *f = user;
    f->events[event->kind]++;
    f->last_event = *event;
    if (event->kind == UPDATES_EVENT_COPIED)
        f->last_copied = *event;
    if (event->kind == UPDATES_EVENT_LEVEL)
        f->level = event->level;
}

static int ops_before_write(void *user, uint16_t object, uint64_t offset, uint32_t length)
{
    return ((struct fixture *)user)->map_says;
}

static const struct updates_ops ops = {
    .stamp_ns = ops_stamp_ns,
    .wake_sender = ops_wake,
    .event = ops_event,
    .before_write = ops_before_write,
};

void fixture_updates(struct fixture *f, enum updates_mode mode)
{
    f->updates = updates_new(f->unsafe, mode, &ops, f);
    assert_non_null(f->updates);
}

void fixture_drop(struct fixture *f)
{
    f->updates = updates_free(f->updates);
    f->unsafe = unsafe_free(f->unsafe);
}

struct fixture *fixture_new(enum updates_mode mode, uint64_t ring_bytes)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    struct unsafe_config config = {
        .pair = 7,
        .boot = 9,
        .epoch = 3,
        .bound = 1u << 30,
        .ring_bytes = ring_bytes,
        .payload_max = PAYLOAD_MAX,
    };
    assert_non_null(f);
    assert_int_equal(unsafe_create(NULL, &config, &f->unsafe, &err), 0);
    fixture_updates(f, mode);
    f->mode = mode;
    f->random = 88172645463325252u;
    for (unsigned i = 0; i < VOLUMES; i++) {
        fake_init(&f->blocks[i], f->data[i], VOLUME_SIZE, 512);
        updates_set_volume(f->updates, (uint16_t)i, &f->blocks[i].block, i == 0 ? 4096 : 1);
    }
    unsafe_attach(f->unsafe, 0, 0);
    (void)updates_set_gate(f->updates, UPDATES_PAIRED);
    return f;
}

void fixture_complete(struct fixture *f)
{
    do {
        updates_kick(f->updates);
        for (unsigned i = 0; i < VOLUMES; i++) {
            while (f->blocks[i].kicked > 0)
                fake_complete(&f->blocks[i], 0, 0);
        }
        updates_kick(f->updates);
    } while (f->blocks[0].count + f->blocks[1].count > 0);
}

void fixture_free(struct fixture *f)
{
    (void)updates_set_gate(f->updates, UPDATES_CLOSED);
    fixture_complete(f);
    fixture_drop(f);
    free(f);
}

void request_answered(struct update *update, int status)
{
    struct request *r = (struct request *)update;
    r->answers++;
    r->status = status;
    r->f->answered++;
}

uint64_t fixture_chunk(struct fixture *f, const void *payload, uint32_t size)
{
    size_t room;
    uint8_t *head = unsafe_head(f->unsafe, 1, &room);
    assert_non_null(head);
    memcpy(head, "header", 6);
    memcpy(head + 6, payload, size);
    unsafe_skip(f->unsafe, 6);
    return unsafe_keep(f->unsafe, size);
}

void request_prepare(struct fixture *f, struct request *r, enum update_op op, uint16_t object, uint64_t offset,
                     uint32_t length, unsigned flags)
{
    *r = (struct request){.f = f, .busy = true, .arrival = ++f->arrivals};
    r->update = (struct update){
        .op = op,
        .flags = (uint16_t)flags,
        .object = object,
        .offset = offset,
        .length = length,
        .answer = request_answered,
    };
    r->flush_seq = unsafe_numbered(f->unsafe);
    r->syncs_seen = object < VOLUMES ? f->blocks[object].syncs_submitted : 0;
}

void request_write(struct fixture *f, struct request *r, uint16_t object, uint64_t offset, uint32_t length, unsigned flags)
{
    uint8_t payload[PAYLOAD_MAX];
    request_prepare(f, r, UPDATE_WRITE, object, offset, length, flags);
    memset(payload, (int)(1 + f->arrivals % 250), length);
    r->update.chunk = fixture_chunk(f, payload, length);
    updates_submit(f->updates, &r->update);
}

void request_submit(struct fixture *f, struct request *r, enum update_op op, uint16_t object, uint64_t offset,
                    uint32_t length, unsigned flags)
{
    request_prepare(f, r, op, object, offset, length, flags);
    updates_submit(f->updates, &r->update);
}

void request_flush(struct fixture *f, struct request *r, uint16_t object)
{
    request_submit(f, r, UPDATE_FLUSH, object, 0, 0, 0);
}

void fixture_finish(struct fixture *f, unsigned volume, unsigned index, int status)
{
    fake_complete(&f->blocks[volume], index, status);
    updates_kick(f->updates);
}

void fixture_durable(struct fixture *f, uint64_t seq)
{
    unsafe_release(f->unsafe, 0, seq);
    f->durable = seq;
    updates_durable(f->updates, seq);
}
