// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/replica_world.h"

#include "common/base/checksum.h"

static uint8_t byte_of(const struct line *l, uint64_t seq, uint64_t at)
{
    return (uint8_t)(seq * 13 + at * 3 + l->incarnation * 57 + 1);
}

// What the replica has to be after the records up to `upto`.
static void content_at(const struct world *w, uint64_t from, uint64_t upto, uint16_t object,
                       uint8_t *content)
{
    for (uint64_t seq = from; seq <= upto; seq++) {
        const struct line *l = &w->lines[seq];
        if (l->object != object)
            continue;
        if (l->type == RECORD_WRITE || l->type == RECORD_RESYNC)
            for (uint64_t i = 0; i < l->length; i++)
                content[l->offset + i] = byte_of(l, seq, i);
        else if (l->type == RECORD_ZERO || l->type == RECORD_DISCARD ||
                 l->type == RECORD_RESYNC_ZERO)
            memset(content + l->offset, 0, l->length);
    }
}

static void fill_check(struct world *w, const struct line *l, uint64_t seq, struct record *r,
                       uint8_t *payload)
{
    static uint8_t content[VOLUME_SIZE];
    uint32_t unit = l->coarse ? CHECK_COARSE_SIZE : CHECK_BLOCK_SIZE, sums = (l->length + unit - 1) / unit;

    memset(content, 0, sizeof(content));
    content_at(w, 1, seq - 1, l->object, content);
    for (uint32_t i = 0; i < sums; i++) {
        uint32_t at = i * unit;
        uint32_t size = MIN(unit, l->length - at);
        struct le64 sum =
            le64_make(checksum64(content + l->offset + at, size) ^ (l->check_wrong >> i & 1));
        memcpy(payload + i * sizeof(sum), &sum, sizeof(sum));
    }
    r->payload = le32_make(sums * (uint32_t)sizeof(struct le64));
    r->flags = l->coarse ? RECORD_COARSE : 0;
}

static void fill_epoch(const struct line *l, uint64_t seq, struct record *r, uint8_t *payload)
{
    struct epoch e = {.number = 2 + (uint32_t)seq,
                      .id = l->epoch,
                      .parents = 1,
                      .parent = {{l->parent, seq - 1}},
                      .first_seq = seq,
                      .opened_by = EPOCH_BY_PRIMARY,
                      .reason = EPOCH_ALONE};
    epoch_encode(&e, payload);
    r->payload = le32_make(EPOCH_ENCODED_SIZE);
}

void line_fill(void *arg, uint64_t seq, struct record *r, uint8_t *payload, size_t limit)
{
    struct world *w = arg;
    const struct line *l = &w->lines[seq];

    r->type = l->type;
    r->mark = l->mark;
    r->epoch = le64_make(l->epoch);
    r->object = le16_make(l->object);
    r->offset = le64_make(l->offset);
    r->length = le32_make(l->length);
    if (l->type == RECORD_WRITE || l->type == RECORD_RESYNC) {
        assert_true(l->length <= limit);
        r->payload = le32_make(l->length);
        for (uint32_t i = 0; i < l->length; i++)
            payload[i] = byte_of(l, seq, i);
    } else if (l->type == RECORD_ZERO) {
        r->flags = l->no_hole ? RECORD_NO_HOLE : 0;
    } else if (l->type == RECORD_CHECK) {
        fill_check(w, l, seq, r, payload);
    } else if (l->type == RECORD_EPOCH) {
        fill_epoch(l, seq, r, payload);
    }
}

void line_write(struct world *w, uint64_t seq, uint16_t object, uint64_t offset, uint32_t length)
{
    w->lines[seq] = (struct line){.type = RECORD_WRITE,
                                  .object = object,
                                  .offset = offset,
                                  .length = length,
                                  .epoch = w->epoch,
                                  .incarnation = w->lines[seq].incarnation + 1};
}

void line_mark(struct world *w, uint64_t seq, uint8_t mark)
{
    w->lines[seq] = (struct line){.type = RECORD_MARK, .mark = mark, .epoch = w->epoch};
}

static void on_send(void *arg, const void *message, size_t size)
{
    struct world *w = arg;
    const struct batch_answer *answer = message;

    if (answer->kind == BATCH_ANSWER) {
        assert_null(batch_answer_invalid(message, size));
        w->answers++;
        w->answer_seq = le64_get(answer->seq);
        memset(w->answer_bitmap, 0, sizeof(w->answer_bitmap));
        memcpy(w->answer_bitmap, answer + 1, size - sizeof(*answer));
        return;
    }
    assert_null(batch_ack_invalid(message, size));
    memcpy(&w->ack, message, sizeof(w->ack));
    w->acks++;
    w->resends += !!(le16_get(w->ack.flags) & ACK_RESEND);
    w->confirmed = MAX(w->confirmed, le64_get(w->ack.durable));
    // A barrier that is done says that what was sent before it is durable.
    assert_true(le64_get(w->ack.durable) >= w->barrier_end[le64_get(w->ack.barrier)]);
}

static void on_event(void *arg, const struct replica_event *event)
{
    struct world *w = arg;

    assert_true(w->event_count < EVENTS_MAX);
    w->events[w->event_count++] = *event;
    if (event->kind == REPLICA_GATE_EPOCH)
        assert_int_equal(event->epoch->first_seq, event->seq);
    if (event->kind == REPLICA_FAILED)
        assert_true(event->error->code < 0 && event->error->text[0]);
    if (w->consent_at_once && event->kind <= REPLICA_GATE_RESYNC_END)
        replica_consent(w->r, event->seq);
}

static void on_release(void *arg, void *message)
{
    struct world *w = arg;
    assert_true(w->in_memory > 0);
    w->in_memory--;
    free(message);
}

unsigned world_events(const struct world *w, enum replica_event_kind kind)
{
    unsigned count = 0;
    for (unsigned i = 0; i < w->event_count; i++)
        count += w->events[i].kind == kind;
    return count;
}

struct replica_stats world_stats(const struct world *w)
{
    struct replica_stats stats;
    replica_stats(w->r, &stats);
    return stats;
}

struct safe_recovery world_open(struct world *w)
{
    struct error err = {0};
    struct safe_recovery recovery;

    w->config.safe.salt = 0x5000 + ++w->openings;
    int rc = replica_open(&w->config, w->now, &w->r, &recovery, &err);
    if (rc < 0)
        fail_msg("open: %s", err.text);
    return recovery;
}

struct world *world_new(uint64_t seed, uint64_t segment, unsigned segments)
{
    struct world *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    w->disk = fake_disk_new(MAX(1U << 24, 2 * segment * segments), seed);
    for (unsigned i = 0; i < VOLUMES; i++) {
        // One that shares blocks of 4096, one of 512 that wants aligned memory.
        w->blocks[i] = fake_volume_new(VOLUME_SIZE, i ? 512 : 4096, i ? 512 : 1, seed + i);
        w->config.volumes[i] = fake_volume_of(w->blocks[i]);
    }
    w->config.safe.disk = fake_disk_of(w->disk);
    w->config.safe.pair = 5;
    w->config.safe.segment_size = segment;
    w->config.safe.limit = segment * segments;
    w->config.hooks = (struct replica_hooks){on_send, on_event, on_release, w};
    w->now = 1000 * NS_PER_S;
    w->epoch = 900;
    w->consent_at_once = true;
    assert_int_equal(world_open(w).verdict, SAFE_EMPTY);
    return w;
}

void world_start(struct world *w)
{
    replica_restart(w->r, SESSION, w->epoch, 1, w->now);
}

struct world *world_started(uint64_t seed)
{
    struct world *w = world_new(seed, 256 * 1024, 8);
    world_start(w);
    assert_int_equal(world_events(w, REPLICA_RESTARTED), 1);
    return w;
}

void world_reopen(struct world *w, size_t window)
{
    w->r = replica_free(w->r);
    w->config.window = window;
    (void)world_open(w);
}

void world_free(struct world *w)
{
    replica_free(w->r);
    assert_int_equal(w->in_memory, 0);
    for (unsigned i = 0; i < VOLUMES; i++)
        fake_volume_free(w->blocks[i]);
    fake_disk_free(w->disk);
    free(w);
}

void world_send_as(struct world *w, uint64_t session, uint64_t first, uint32_t count, uint64_t barrier)
{
    struct message_spec spec = {.session = session,
                                .first_seq = first,
                                .count = count,
                                .promised = w->confirmed,
                                .barrier = barrier,
                                .epoch = w->epoch,
                                .fill = line_fill,
                                .arg = w};
    size_t size;
    void *message = message_make(&spec, &size);

    w->in_memory++;
    if (barrier && session == SESSION)
        w->barrier_end[barrier] = first + count - 1;
    replica_receive(w->r, message, size, w->now);
}

void world_send(struct world *w, uint64_t first, uint32_t count, uint64_t barrier)
{
    world_send_as(w, SESSION, first, count, barrier);
}

bool world_complete_volumes(struct world *w)
{
    bool any = false;
    for (unsigned i = 0; i < VOLUMES; i++)
        while (fake_volume_complete(w->blocks[i]))
            any = true;
    return any;
}

void world_advance(struct world *w, int64_t ns)
{
    w->now += ns;
    replica_work(w->r, w->now);
}

void world_settle_down(struct world *w, int64_t ns)
{
    int64_t until = w->now + ns;

    for (unsigned i = 0; i < 100000; i++) {
        bool moved = fake_disk_complete(w->disk);
        moved = world_complete_volumes(w) || moved;
        if (moved)
            continue;
        int64_t at = replica_deadline(w->r);
        if (at > until)
            break;
        w->now = MAX(at, w->now);
        replica_work(w->r, w->now);
    }
    assert_true(replica_idle(w->r));
    w->now = until;
    replica_work(w->r, w->now);
}

void world_expect(struct world *w, uint64_t from, uint64_t upto)
{
    static uint8_t want[VOLUME_SIZE];

    for (uint16_t object = 0; object < VOLUMES; object++) {
        memset(want, 0, sizeof(want));
        content_at(w, from, upto, object, want);
        assert_memory_equal(want, fake_volume_bytes(w->blocks[object]), VOLUME_SIZE);
    }
}

void world_crash(struct world *w, bool power)
{
    if (power)
        fake_disk_crash(w->disk);
    else
        fake_disk_kill(w->disk);
    for (unsigned i = 0; i < VOLUMES; i++)
        power ? fake_volume_crash(w->blocks[i]) : fake_volume_kill(w->blocks[i]);
    w->r = replica_free(w->r);
    struct safe_recovery recovery = world_open(w);
    assert_int_not_equal(recovery.verdict, SAFE_DAMAGED);
    assert_true(recovery.last >= w->confirmed);
}

void world_writes(struct world *w, uint64_t from, uint64_t count)
{
    for (uint64_t seq = from; seq < from + count; seq++)
        line_write(w, seq, seq % VOLUMES, seq * 1536 % (VOLUME_SIZE - 2048) / 512 * 512, 1024);
}

static void on_finish(void *arg, const struct replica_finish *finish)
{
    struct world *w = arg;
    w->finish = *finish;
    w->finishes++;
}

void world_finish(struct world *w)
{
    replica_finish(w->r, on_finish, w);
}
