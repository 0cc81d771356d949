// SPDX-License-Identifier: Apache-2.0
// queues/replica: what is acknowledged is durable, what is applied is a prefix, and nothing is ever
// skipped; each rule by itself, and all of them under random losses, failures and crashes.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "fake_volume.h"
#include "fake_disk.h"
#include "passive_help.h"
#include "queues/replica.h"

#define VOLUMES     2
#define VOLUME_SIZE (160U * 1024)
#define SEQS_MAX    6000
#define EVENTS_MAX  64
#define SESSION     UINT64_C(31)

// One record of the stream, as the active end would number it.
struct line {
    uint8_t type, mark;
    uint16_t object;
    uint64_t offset, epoch, parent;
    uint32_t length;
    uint64_t check_wrong; // bit i: checksum i is made not to match
    bool coarse;          // of a check
    unsigned incarnation;
    bool no_hole; // of zeros
};

struct world {
    struct fake_disk *disk;
    struct fake_volume *blocks[VOLUMES];
    struct replica_config config;
    struct replica *r;
    int64_t now;
    uint64_t openings;
    struct line lines[SEQS_MAX];
    uint64_t epoch; // id of the current one

    struct replica_event events[EVENTS_MAX];
    unsigned event_count;
    bool consent_at_once;

    struct batch_ack ack;
    unsigned acks, resends;
    uint64_t confirmed;
    uint64_t barrier_end[4096];
    uint64_t answer_seq;
    uint8_t answer_bitmap[CHECK_BLOCKS_MAX / 8];
    unsigned answers;
    unsigned in_memory; // messages handed over and not released

    struct replica_finish finish;
    unsigned finishes;
    int settled_status;
};

// ---- The stream ----

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

static void fill(void *arg, uint64_t seq, struct record *r, uint8_t *payload, size_t limit)
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

static void line_write(struct world *w, uint64_t seq, uint16_t object, uint64_t offset,
                       uint32_t length)
{
    w->lines[seq] = (struct line){.type = RECORD_WRITE,
                                  .object = object,
                                  .offset = offset,
                                  .length = length,
                                  .epoch = w->epoch,
                                  .incarnation = w->lines[seq].incarnation + 1};
}

static void line_mark(struct world *w, uint64_t seq, uint8_t mark)
{
    w->lines[seq] = (struct line){.type = RECORD_MARK, .mark = mark, .epoch = w->epoch};
}

// ---- The world ----

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

static unsigned events_of(const struct world *w, enum replica_event_kind kind)
{
    unsigned count = 0;
    for (unsigned i = 0; i < w->event_count; i++)
        count += w->events[i].kind == kind;
    return count;
}

static struct replica_stats stats_of(const struct world *w)
{
    struct replica_stats stats;
    replica_stats(w->r, &stats);
    return stats;
}

static void open_world(struct world *w, struct safe_recovery *recovery)
{
    struct error err = {0};

    w->config.safe.salt = 0x5000 + ++w->openings;
    int rc = replica_open(&w->config, w->now, &w->r, recovery, &err);
    if (rc < 0)
        fail_msg("open: %s", err.text);
}

static struct world *world_new(uint64_t seed, uint64_t segment, unsigned segments)
{
    struct world *w = calloc(1, sizeof(*w));
    struct safe_recovery recovery;

    assert_non_null(w);
    w->disk = fake_disk_new(1U << 24, seed);
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
    open_world(w, &recovery);
    assert_int_equal(recovery.verdict, SAFE_EMPTY);
    return w;
}

// A world in which the stream has begun at seq 1.
static struct world *world_started(uint64_t seed)
{
    struct world *w = world_new(seed, 256 * 1024, 8);
    replica_restart(w->r, SESSION, w->epoch, 1, w->now);
    assert_int_equal(events_of(w, REPLICA_RESTARTED), 1);
    return w;
}

static void world_free(struct world *w)
{
    replica_free(w->r);
    assert_int_equal(w->in_memory, 0);
    for (unsigned i = 0; i < VOLUMES; i++)
        fake_volume_free(w->blocks[i]);
    fake_disk_free(w->disk);
    free(w);
}

static void send_as(struct world *w, uint64_t session, uint64_t first, uint32_t count,
                    uint64_t barrier)
{
    struct message_spec spec = {.session = session,
                                .first_seq = first,
                                .count = count,
                                .promised = w->confirmed,
                                .barrier = barrier,
                                .epoch = w->epoch,
                                .fill = fill,
                                .arg = w};
    size_t size;
    void *message = message_make(&spec, &size);

    w->in_memory++;
    if (barrier && session == SESSION)
        w->barrier_end[barrier] = first + count - 1;
    replica_receive(w->r, message, size, w->now);
}

static void send(struct world *w, uint64_t first, uint32_t count, uint64_t barrier)
{
    send_as(w, SESSION, first, count, barrier);
}

static bool complete_disks(struct world *w)
{
    bool any = false;
    for (unsigned i = 0; i < VOLUMES; i++)
        while (fake_volume_complete(w->blocks[i]))
            any = true;
    return any;
}

static void advance(struct world *w, int64_t ns)
{
    w->now += ns;
    replica_work(w->r, w->now);
}

// Until nothing moves: everything under way completes, and the time passes up to the next deadline
// within `ns`.
static void settle_down(struct world *w, int64_t ns)
{
    int64_t until = w->now + ns;

    for (unsigned i = 0; i < 100000; i++) {
        bool moved = fake_disk_complete(w->disk);
        moved = complete_disks(w) || moved;
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

static void expect_content(struct world *w, uint64_t from, uint64_t upto)
{
    static uint8_t want[VOLUME_SIZE];

    for (uint16_t object = 0; object < VOLUMES; object++) {
        memset(want, 0, sizeof(want));
        content_at(w, from, upto, object, want);
        assert_memory_equal(want, fake_volume_bytes(w->blocks[object]), VOLUME_SIZE);
    }
}

static void crash(struct world *w, bool power)
{
    struct safe_recovery recovery;

    if (power)
        fake_disk_crash(w->disk);
    else
        fake_disk_kill(w->disk);
    for (unsigned i = 0; i < VOLUMES; i++)
        power ? fake_volume_crash(w->blocks[i]) : fake_volume_kill(w->blocks[i]);
    w->r = replica_free(w->r);
    open_world(w, &recovery);
    assert_int_not_equal(recovery.verdict, SAFE_DAMAGED);
    assert_true(recovery.last >= w->confirmed);
}

static void some_writes(struct world *w, uint64_t from, uint64_t count)
{
    for (uint64_t seq = from; seq < from + count; seq++)
        line_write(w, seq, seq % VOLUMES, seq * 1536 % (VOLUME_SIZE - 2048) / 512 * 512, 1024);
}

// ---- Syncs and acknowledgements ----

static void a_barrier_is_acknowledged_when_it_is_durable(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 20);
    send(w, 1, 3, 1);
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    assert_int_equal(le64_get(w->ack.barrier), 0);
    // One that comes while a sync runs gets another.
    send(w, 4, 3, 2);
    send(w, 7, 1, 3);
    assert_true(fake_disk_complete(w->disk));
    assert_int_equal(le64_get(w->ack.barrier), 1);
    assert_int_equal(le64_get(w->ack.durable), 3);
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    assert_true(fake_disk_complete(w->disk));
    assert_int_equal(le64_get(w->ack.barrier), 3);
    assert_int_equal(le64_get(w->ack.durable), 7);
    // One without records, with nothing to sync: at once.
    send(w, 8, 0, 4);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    assert_int_equal(le64_get(w->ack.barrier), 4);
    // One without records behind records that wait for their sync.
    send(w, 8, 2, 0);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    send(w, 10, 0, 5);
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    send(w, 10, 0, 6); // nothing was added since that sync was started
    assert_true(fake_disk_complete(w->disk));
    assert_int_equal(le64_get(w->ack.barrier), 6);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    // One that was sent again.
    send(w, 5, 5, 7);
    assert_int_equal(le64_get(w->ack.barrier), 7);
    settle_down(w, 0);
    expect_content(w, 1, 9);
    world_free(w);
}

static void quiet_starts_a_sync_and_a_mib_does(void **state)
{
    struct world *w = world_new(1, SAFE_SEGMENT_SIZE, 4);

    fake_disk_free(w->disk);
    w->r = replica_free(w->r);
    w->disk = fake_disk_new(UINT64_C(1) << 30, 1);
    w->config.safe.disk = fake_disk_of(w->disk);
    w->consent_at_once = true;
    struct safe_recovery recovery;
    open_world(w, &recovery);
    replica_restart(w->r, SESSION, 900, 1, w->now);

    some_writes(w, 1, 10);
    send(w, 1, 3, 0);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    assert_true(replica_deadline(w->r) <= w->now + REPLICA_QUIET_NS);
    advance(w, REPLICA_QUIET_NS - 1);
    assert_int_equal(fake_disk_syncing(w->disk), 0);
    advance(w, 1);
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    settle_down(w, 0);
    assert_int_equal(le64_get(w->ack.durable), 3);

    for (uint64_t seq = 4; seq < 30; seq++)
        line_write(w, seq, 0, 0, 63 * 1024);
    uint64_t seq = 4;
    while (fake_disk_syncing(w->disk) == 0)
        send(w, seq++, 1, 0);
    assert_int_equal(seq - 4, 17); // the first that makes it a MiB
    settle_down(w, 10 * NS_PER_MS);
    assert_int_equal(stats_of(w).durable, seq - 1);
    world_free(w);
}

static void a_gap_is_asked_for_and_duplicates_are_skipped(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 30);
    send(w, 1, 4, 1);
    settle_down(w, NS_PER_S);
    unsigned resends = w->resends;
    send(w, 7, 3, 0);
    send(w, 10, 3, 0);
    send(w, 13, 3, 2);
    assert_int_equal(w->resends, resends + 1); // once, not for each
    assert_int_equal(le64_get(w->ack.received), 4);
    assert_true(le16_get(w->ack.flags) & ACK_RESEND);
    advance(w, REPLICA_RESEND_NS);
    send(w, 16, 3, 0);
    assert_int_equal(w->resends, resends + 2);
    send(w, 3, 4, 0); // overlaps partly
    send(w, 1, 5, 0); // entirely
    send(w, 6, 6, 3);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).applied, 11);
    assert_int_equal(stats_of(w).duplicates, 1);
    assert_int_equal(le64_get(w->ack.barrier), 3);
    expect_content(w, 1, 11);
    world_free(w);
}

static void damaged_and_foreign_messages_are_dropped(void **state)
{
    struct world *w = world_started(1);
    struct message_spec spec = {
        .session = SESSION, .first_seq = 1, .count = 2, .fill = fill, .arg = w};
    size_t size;

    some_writes(w, 1, 10);
    CLEANUP_FREE uint8_t *good = message_make(&spec, &size);
    for (size_t at = 0; at < size; at += 7) {
        uint8_t *message = malloc(size);
        memcpy(message, good, size);
        message[at] ^= 0x10;
        w->in_memory++;
        replica_receive(w->r, message, size, w->now);
        assert_int_equal(stats_of(w).received, 0);
        assert_int_equal(w->in_memory, 0);
    }
    for (size_t cut = 0; cut < size; cut += 5) {
        uint8_t *message = malloc(size);
        memcpy(message, good, size);
        w->in_memory++;
        replica_receive(w->r, message, cut, w->now);
    }
    send_as(w, SESSION + 1, 1, 2, 0);
    assert_int_equal(stats_of(w).received, 0);
    assert_true(w->resends >= 1);
    replica_session(w->r, 0, w->now);
    send(w, 1, 2, 0);
    assert_int_equal(stats_of(w).received, 0);
    assert_int_equal(w->in_memory, 0);
    replica_session(w->r, SESSION, w->now);
    send(w, 1, 2, 0);
    assert_int_equal(stats_of(w).received, 2);
    settle_down(w, NS_PER_S);
    expect_content(w, 1, 2);
    world_free(w);
}

// ---- Applying ----

static void nothing_is_applied_before_it_is_durable(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 10);
    send(w, 1, 5, 1);
    assert_int_equal(fake_volume_active(w->blocks[0]) + fake_volume_active(w->blocks[1]), 0);
    fake_disk_complete(w->disk);
    assert_int_equal(fake_volume_active(w->blocks[0]) + fake_volume_active(w->blocks[1]), 5);
    assert_int_equal(stats_of(w).applied, 0);
    settle_down(w, 2 * NS_PER_S);
    assert_int_equal(stats_of(w).applied, 5);
    assert_int_equal(stats_of(w).settled, 5);
    assert_int_equal(le64_get(w->ack.settled), 5);
    assert_int_equal(w->in_memory, 0);
    expect_content(w, 1, 5);
    world_free(w);
}

static void a_small_window_is_read_back_from_the_queue(void **state)
{
    struct world *w = world_new(1, 64 * 1024, 8);

    w->r = replica_free(w->r);
    w->config.window = 8000;
    struct safe_recovery recovery;
    open_world(w, &recovery);
    replica_restart(w->r, SESSION, 900, 1, w->now);
    replica_pause(w->r, true);
    some_writes(w, 1, 200);
    for (uint64_t seq = 1; seq < 198; seq += 3) {
        send(w, seq, 3, seq);
        fake_disk_complete(w->disk);
        assert_true(w->in_memory <= 3);
    }
    assert_int_equal(stats_of(w).durable, 198);
    assert_int_equal(stats_of(w).applied, 0);
    assert_int_equal(stats_of(w).oldest_time, 1001);
    assert_int_equal(stats_of(w).newest_time, 1198);
    assert_int_equal(stats_of(w).newest_at, w->now);
    assert_int_equal(stats_of(w).queued_bytes, 198 * 1024);
    replica_pause(w->r, false);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).applied, 198);
    assert_int_equal(stats_of(w).queued_bytes, 0);
    assert_int_equal(stats_of(w).oldest_time, 0);
    expect_content(w, 1, 198);
    // And in memory again.
    some_writes(w, 199, 10);
    send(w, 199, 2, 900);
    assert_int_equal(w->in_memory, 1);
    settle_down(w, NS_PER_S);
    expect_content(w, 1, 200);
    world_free(w);
}

static void many_are_under_way_and_overlapping_ones_are_not(void **state)
{
    struct world *w = world_started(1);

    for (uint64_t seq = 1; seq <= 14; seq++)
        line_write(w, seq, 0, (seq - 1) * 4096, 4096);
    for (uint64_t seq = 15; seq <= 40; seq++)
        line_write(w, seq, 0, seq % 4 * 1024, 512); // all in the first block
    send(w, 1, 40, 1);
    fake_disk_complete(w->disk);
    assert_int_equal(fake_volume_active(w->blocks[0]), 14);
    settle_down(w, NS_PER_S);
    assert_int_equal(fake_volume_most(w->blocks[0]), 14);
    expect_content(w, 1, 40);
    world_free(w);
}

static void an_epoch_waits_for_the_history(void **state)
{
    struct world *w = world_started(1);

    w->consent_at_once = false;
    some_writes(w, 1, 3);
    w->epoch = 901;
    w->lines[4] = (struct line){.type = RECORD_EPOCH, .epoch = 901, .parent = 900};
    some_writes(w, 5, 3);
    send(w, 1, 7, 1);
    settle_down(w, NS_PER_S);
    assert_int_equal(events_of(w, REPLICA_GATE_EPOCH), 1);
    assert_int_equal(le64_get(w->ack.durable), 3);
    assert_int_equal(le64_get(w->ack.barrier), 0);
    assert_int_equal(stats_of(w).applied, 3);
    assert_int_equal(stats_of(w).durable_epoch, 900);
    assert_true(stats_of(w).gated);
    // A restarted end is asked again.
    crash(w, true);
    replica_work(w->r, w->now);
    assert_int_equal(events_of(w, REPLICA_GATE_EPOCH), 2);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).applied, 3);
    replica_consent(w->r, 99);
    assert_int_equal(stats_of(w).durable, 3);
    replica_consent(w->r, 4);
    assert_int_equal(stats_of(w).durable, 7);
    assert_int_equal(stats_of(w).durable_epoch, 901);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).applied, 7);
    assert_int_equal(stats_of(w).applied_epoch, 901);
    expect_content(w, 1, 7);
    world_free(w);
}

static void a_resync_waits_for_its_marks(void **state)
{
    struct world *w = world_started(1);

    w->consent_at_once = false;
    some_writes(w, 1, 2);
    line_mark(w, 3, MARK_RESYNC_BEGIN);
    some_writes(w, 4, 2);
    w->lines[4].type = RECORD_RESYNC;
    line_mark(w, 6, MARK_RESYNC_END);
    some_writes(w, 7, 2);
    send(w, 1, 8, 1);
    fake_disk_complete(w->disk);
    settle_down(w, 0);
    assert_int_equal(le64_get(w->ack.barrier), 1); // durable does not wait
    assert_int_equal(events_of(w, REPLICA_GATE_RESYNC_BEGIN), 1);
    assert_int_equal(stats_of(w).applied, 2);
    expect_content(w, 1, 2);
    replica_consent(w->r, 3);
    settle_down(w, 0);
    assert_int_equal(stats_of(w).applied, 5);
    assert_int_equal(events_of(w, REPLICA_GATE_RESYNC_END), 1);
    assert_int_equal(stats_of(w).settled, 5); // flushed before it is asked
    settle_down(w, 5 * NS_PER_S);
    assert_int_equal(stats_of(w).applied, 5);
    replica_consent(w->r, 6);
    settle_down(w, 0);
    assert_int_equal(stats_of(w).applied, 8);
    assert_false(stats_of(w).gated);
    expect_content(w, 1, 8);
    world_free(w);
}

// A check must not find equal what a power loss takes back: who wrote it before need not have flushed it, and the safe
// queue does not hold it.
static void a_resync_begins_with_a_flush(void **state)
{
    struct world *w = world_started(1);
    unsigned flushes = fake_volume_flushes(w->blocks[0]);

    line_mark(w, 1, MARK_RESYNC_BEGIN);
    fake_volume_fail(w->blocks[0], 1U << BLOCK_FLUSH, -EIO);
    send(w, 1, 1, 1);
    settle_down(w, NS_PER_S);
    assert_int_equal(events_of(w, REPLICA_GATE_RESYNC_BEGIN), 0);
    assert_int_equal(stats_of(w).failure, -EIO);
    assert_true(stats_of(w).over);
    fake_volume_fail(w->blocks[0], 0, 0);
    crash(w, true);
    replica_session(w->r, SESSION + 1, w->now);
    settle_down(w, NS_PER_S);
    assert_true(fake_volume_flushes(w->blocks[0]) > flushes);
    assert_int_equal(events_of(w, REPLICA_GATE_RESYNC_BEGIN), 1);
    assert_int_equal(stats_of(w).applied, 1);
    world_free(w);
}

static void a_check_is_answered_at_its_place(void **state)
{
    struct world *w = world_started(1);

    for (uint16_t object = 0; object < VOLUMES; object++) {
        uint64_t first = 1 + object * 10U;
        for (uint64_t seq = first; seq < first + 10; seq++)
            line_write(w, seq, object, (seq - first) * 2048, 2048);
        w->lines[first + 8] = (struct line){.type = RECORD_CHECK,
                                            .object = object,
                                            .offset = 4096,
                                            .length = 4 * 4096 - 512,
                                            .check_wrong = 0x6,
                                            .epoch = w->epoch};
        send(w, first, 10, first);
        settle_down(w, NS_PER_S);
        assert_int_equal(w->answers, object + 1U);
        assert_int_equal(w->answer_seq, first + 8);
        assert_int_equal(w->answer_bitmap[0], 0x6);
    }
    // Unreadable is different.
    w->lines[21] = w->lines[9];
    w->lines[21].check_wrong = 0;
    fake_volume_fail(w->blocks[0], 1U << BLOCK_READ, -EIO);
    send(w, 21, 1, 30);
    settle_down(w, NS_PER_S);
    assert_int_equal(w->answer_bitmap[0], 0xf);
    assert_int_equal(stats_of(w).failure, 0);
    assert_int_equal(stats_of(w).applied, 21);
    // Nobody waits for the answers of an earlier run.
    crash(w, false);
    fake_volume_fail(w->blocks[0], 0, 0);
    replica_session(w->r, SESSION + 1, w->now);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).applied, 21);
    assert_int_equal(w->answers, 3);
    expect_content(w, 1, 21);
    world_free(w);
}

// A checksum of 64 KiB that does not match names all blocks of these.
static void a_coarse_check_names_whole_units(void **state)
{
    struct world *w = world_started(1);
    line_write(w, 1, 0, 70 * 1024, 2048);
    for (uint64_t seq = 2; seq <= 4; seq++)
        w->lines[seq] = (struct line){.type = RECORD_CHECK,
                                      .offset = 4096,
                                      .length = 2 * CHECK_COARSE_SIZE + 2 * CHECK_BLOCK_SIZE,
                                      .coarse = true,
                                      .check_wrong = (uint64_t[]){0, 2, 5}[seq - 2],
                                      .epoch = w->epoch};
    static const uint8_t expected[3][5] = {{0}, {0, 0, 0xff, 0xff, 0}, {0xff, 0xff, 0, 0, 0x3}};
    for (uint64_t seq = 1; seq <= 4; seq++) {
        send(w, seq, 1, seq);
        settle_down(w, NS_PER_S);
        if (seq > 1)
            assert_memory_equal(w->answer_bitmap, expected[seq - 2], sizeof(expected[0]));
    }
    assert_int_equal(w->answers, 3);
    world_free(w);
}

// Zeros for which the guest wants room to be kept keep it here, too: a takeover must not run out of it.
static void zeros_without_a_hole_leave_none(void **state)
{
    struct world *w = world_started(1);
    line_write(w, 1, 0, 0, 8192);
    for (uint64_t seq = 2; seq <= 4; seq++)
        w->lines[seq] = (struct line){
            .type = RECORD_ZERO, .offset = (seq - 2) * 4096, .length = 4096, .epoch = w->epoch, .no_hole = seq == 3};
    send(w, 1, 4, 1);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).applied, 4);
    assert_int_equal(fake_volume_no_holes(w->blocks[0]), 1);
    expect_content(w, 1, 4);
    world_free(w);
}

// More checks than read at a time, of ranges that the store only tells to be zeros.
static void checks_of_zeros_are_answered(void **state)
{
    struct world *w = world_started(1);
    line_write(w, 1, 0, 0, 2048);
    for (uint64_t seq = 2; seq <= 21; seq++)
        w->lines[seq] = (struct line){.type = RECORD_CHECK,
                                      .offset = 16384,
                                      .length = (seq % 3 + 1) * 4096 - seq % 2 * 512,
                                      .check_wrong = seq == 21 ? 1 : 0,
                                      .epoch = w->epoch};
    send(w, 1, 21, 0); // no barrier: a check is synced for its answer's sake
    assert_int_equal(fake_disk_syncing(w->disk), 1);
    settle_down(w, 0);
    assert_int_equal(w->answers, 20);
    assert_int_equal(w->answer_seq, 21);
    assert_int_equal(w->answer_bitmap[0], 1);
    assert_int_equal(stats_of(w).applied, 21);
    world_free(w);
}

// ---- Failures ----

static void a_write_error_stops_the_replay(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 20);
    send(w, 1, 5, 1);
    settle_down(w, 0);
    fake_volume_fail(w->blocks[0], 1U << BLOCK_WRITE, -EIO);
    send(w, 6, 5, 2); // 6 is for volume 0
    settle_down(w, 5 * NS_PER_S);
    assert_int_equal(stats_of(w).applied, 5);
    assert_int_equal(stats_of(w).failure, -EIO);
    assert_int_equal(events_of(w, REPLICA_FAILED), 1);
    assert_true(le16_get(w->ack.flags) & ACK_FAILED);
    assert_int_equal(le32_get(w->ack.error), EIO);
    fake_volume_fail(w->blocks[0], 0, 0);
    send(w, 11, 5, 3);
    settle_down(w, 5 * NS_PER_S);
    assert_int_equal(stats_of(w).applied, 5);
    assert_int_equal(le64_get(w->ack.received), 10);
    assert_int_equal(events_of(w, REPLICA_FAILED), 1);
    // After a new opening everything is there.
    crash(w, true);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).applied, 10);
    expect_content(w, 1, 10);
    world_free(w);
}

static void a_flush_error_is_final(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 20);
    send(w, 1, 5, 1);
    fake_volume_fail(w->blocks[1], 1U << BLOCK_FLUSH, -EIO);
    settle_down(w, 3 * NS_PER_S);
    assert_int_equal(stats_of(w).settled, 0);
    assert_int_equal(stats_of(w).failure, -EIO);
    fake_volume_fail(w->blocks[1], 0, 0);
    settle_down(w, 3 * NS_PER_S);
    assert_int_equal(stats_of(w).settled, 0);
    assert_true(le16_get(w->ack.flags) & ACK_FAILED);
    world_free(w);
}

static void a_sync_error_is_final_and_what_was_durable_is_applied(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 20);
    send(w, 1, 5, 1);
    fake_disk_complete(w->disk);
    send(w, 6, 5, 2);
    fake_disk_fail(w->disk, 1, -EIO, false);
    settle_down(w, 3 * NS_PER_S);
    assert_int_equal(stats_of(w).durable, 5);
    assert_int_equal(stats_of(w).applied, 5);
    assert_int_equal(le64_get(w->ack.barrier), 1);
    assert_int_equal(le32_get(w->ack.error), EIO);
    send(w, 6, 8, 3);
    settle_down(w, 3 * NS_PER_S);
    assert_int_equal(stats_of(w).durable, 5);
    expect_content(w, 1, 5);
    world_free(w);
}

static void full_is_said_and_passes(void **state)
{
    struct world *w = world_new(1, 16 * 1024, 3);

    replica_restart(w->r, SESSION, 900, 1, w->now);
    some_writes(w, 1, 300);
    replica_pause(w->r, true);
    uint64_t seq = 1;
    while (!stats_of(w).full) {
        assert_true(seq < 100);
        send(w, seq, 2, seq);
        fake_disk_complete(w->disk);
        seq += 2;
    }
    settle_down(w, 0);
    assert_true(le16_get(w->ack.flags) & ACK_FULL);
    assert_false(le16_get(w->ack.flags) & ACK_RESEND);
    assert_int_equal(events_of(w, REPLICA_FULL), 1);
    assert_int_equal(stats_of(w).received, seq - 3);
    send(w, seq, 2, 0); // comes too early
    assert_int_equal(stats_of(w).received, seq - 3);
    unsigned resends = w->resends;
    replica_pause(w->r, false);
    settle_down(w, 10 * NS_PER_MS);
    assert_true(w->resends > resends);
    seq = stats_of(w).received + 1;
    send(w, seq, 2, seq);
    assert_int_equal(events_of(w, REPLICA_ROOM), 1);
    settle_down(w, NS_PER_S);
    assert_false(le16_get(w->ack.flags) & ACK_FULL);
    expect_content(w, 1, seq + 1);
    world_free(w);
}

// A queue that finds no room when it is to start anew waits for it, and goes on as soon as there is some.
static void a_start_without_room_waits_for_it(void **state)
{
    struct world *w = world_new(1, 16 * 1024, 3);

    fake_disk_limit(w->disk, 0);
    replica_restart(w->r, SESSION, 900, 1, w->now);
    settle_down(w, 5 * NS_PER_S);
    assert_int_equal(events_of(w, REPLICA_RESTARTED), 0);
    assert_int_equal(events_of(w, REPLICA_FULL), 1);
    assert_int_equal(events_of(w, REPLICA_FAILED), 0);
    assert_true(stats_of(w).full);
    assert_true(replica_deadline(w->r) <= w->now + NS_PER_S);
    fake_disk_limit(w->disk, UINT64_MAX);
    settle_down(w, NS_PER_S);
    assert_int_equal(events_of(w, REPLICA_RESTARTED), 1);
    assert_int_equal(events_of(w, REPLICA_ROOM), 1);
    some_writes(w, 1, 2);
    send(w, 1, 2, 1);
    settle_down(w, NS_PER_S);
    expect_content(w, 1, 2);
    world_free(w);
}

static void a_record_outside_its_volume_is_refused(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 3);
    line_write(w, 2, 0, VOLUME_SIZE - 512, 1024);
    send(w, 1, 3, 1);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).failure, -ERANGE);
    assert_int_equal(stats_of(w).applied, 1);
    world_free(w);
}

// ---- Ending ----

static void on_finish(void *arg, const struct replica_finish *finish)
{
    struct world *w = arg;
    w->finish = *finish;
    w->finishes++;
}

static void a_takeover_applies_all_that_was_received(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 40);
    send(w, 1, 5, 1);
    fake_disk_complete(w->disk);
    replica_pause(w->r, true);
    send(w, 6, 20, 0); // not synced yet
    replica_finish(w->r, on_finish, w);
    send(w, 26, 5, 0); // comes too late
    settle_down(w, 0);
    assert_int_equal(w->finishes, 1);
    assert_int_equal(w->finish.error, 0);
    assert_int_equal(w->finish.applied, 25);
    assert_int_equal(w->finish.epoch, 900);
    assert_int_equal(w->finish.discarded_records, 0);
    assert_true(w->finish.reaches_confirmed);
    assert_int_equal(stats_of(w).settled, 25);
    expect_content(w, 1, 25);
    replica_finish(w->r, on_finish, w); // asked again: reported again
    assert_int_equal(w->finishes, 2);
    // It did not come to a takeover after all.
    replica_pause(w->r, false);
    replica_session(w->r, SESSION, w->now);
    send(w, 26, 5, 9);
    settle_down(w, NS_PER_S);
    expect_content(w, 1, 30);
    world_free(w);
}

static void a_takeover_with_a_failing_replica_is_aborted(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 10);
    send(w, 1, 5, 1);
    fake_disk_complete(w->disk);
    fake_volume_fail(w->blocks[0], 1U << BLOCK_WRITE, -EIO);
    replica_finish(w->r, on_finish, w);
    settle_down(w, 0);
    assert_int_equal(w->finishes, 1);
    assert_int_equal(w->finish.error, -EIO);
    assert_false(w->finish.reaches_confirmed);
    assert_non_null(strstr(w->finish.reason.text, "volume 0"));
    world_free(w);
}

// What a finish says that it is about to discard: the regions of these records, and no others.
static void expect_lost(const struct world *w, uint64_t from, uint64_t upto)
{
    bool lost[VOLUMES][VOLUME_SIZE / INTENT_REGION_MIN] = {0};

    for (uint64_t seq = from; seq <= upto; seq++) {
        const struct line *l = &w->lines[seq];
        for (uint64_t at = l->offset / INTENT_REGION_MIN; at <= (l->offset + l->length - 1) / INTENT_REGION_MIN; at++)
            lost[l->object][at] = true;
    }
    for (unsigned i = 0; i < VOLUMES; i++) {
        const struct intent *map = replica_lost(w->r, i);
        assert_non_null(map);
        for (unsigned at = 0; at < ARRAY_LEN(lost[i]); at++)
            assert_int_equal(intent_test(map, (uint64_t)at * INTENT_REGION_MIN, 1), lost[i][at]);
    }
}

#define DAMAGED_AT (8192 + 2 * (64 + 64 + 5 * (64 + 1024))) // the entry of the third batch

// Five batches of five records, confirmed; a byte of the third one is flipped, `at` bytes behind its beginning.
static struct world *world_damaged(uint64_t at)
{
    struct world *w = world_started(1);
    struct safe_recovery recovery;

    // Read back at the replay: the damage is found while this run knows what it confirmed.
    w->r = replica_free(w->r);
    w->config.window = 1;
    w->config.region = INTENT_REGION_MIN;
    open_world(w, &recovery);
    replica_session(w->r, SESSION, w->now);
    replica_pause(w->r, true);
    some_writes(w, 1, 30);
    for (uint64_t seq = 1; seq <= 25; seq += 5) {
        send(w, seq, 5, seq);
        fake_disk_complete(w->disk);
    }
    fake_disk_rot(w->disk, 1, DAMAGED_AT + at, 1);
    return w;
}

static void finish_damaged(struct world *w, bool unknown)
{
    w->finishes = 0;
    replica_finish(w->r, on_finish, w);
    settle_down(w, 0);
    assert_int_equal(w->finishes, 1);
    assert_int_equal(w->finish.error, 0);
    assert_int_equal(w->finish.applied, 10);
    assert_true(w->finish.discards);
    assert_int_equal(w->finish.unknown, unknown);
    expect_content(w, 1, 10);
    settle_down(w, NS_PER_S);
    assert_int_equal(w->finishes, 1); // it waits
}

// What is discarded is told before it is forgotten: the regions of all of it where the headers can be read.
static void a_takeover_ends_in_front_of_damage(void **state)
{
    struct world *w = world_damaged(800); // in a payload
    struct safe_recovery recovery;

    finish_damaged(w, false);
    assert_int_equal(w->finish.discarded_records, 15);
    assert_int_equal(w->finish.discarded_bytes, 15 * 1024);
    assert_false(w->finish.reaches_confirmed);
    expect_lost(w, 11, 25);
    replica_discard(w->r);
    assert_int_equal(w->finishes, 2);
    assert_int_equal(w->finish.error, 0);
    assert_false(w->finish.discards);
    w->r = replica_free(w->r);
    fake_disk_crash(w->disk);
    open_world(w, &recovery);
    assert_int_equal(recovery.last, 10);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    world_free(w);
}

// The queue's disk is full, and its only segment holds what is to be discarded: that is no reason not to take over.
static void a_takeover_discards_on_a_full_disk(void **state)
{
    struct world *w = world_new(1, 256 * 1024, 8);
    struct safe_recovery recovery;

    w->r = replica_free(w->r);
    w->config.window = 1;
    w->config.region = INTENT_REGION_MIN;
    open_world(w, &recovery);
    replica_restart(w->r, SESSION, 900, 1, w->now);
    replica_pause(w->r, true);
    some_writes(w, 1, 30);
    for (uint64_t seq = 1; seq <= 25; seq += 5) {
        send(w, seq, 5, seq);
        fake_disk_complete(w->disk);
    }
    assert_int_equal(fake_disk_slots(w->disk), 1);
    fake_disk_rot(w->disk, 0, DAMAGED_AT + 800, 1);
    fake_disk_limit(w->disk, 0);
    finish_damaged(w, false);
    expect_lost(w, 11, 25);
    replica_discard(w->r);
    assert_int_equal(w->finishes, 2);
    assert_int_equal(w->finish.error, 0);
    w->r = replica_free(w->r);
    fake_disk_crash(w->disk);
    open_world(w, &recovery);
    assert_int_equal(recovery.last, 10);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    world_free(w);
}

// A crash before the word to discard: the next run finds the damage at its opening, and tells the same regions.
static void what_is_discarded_is_told_again_after_a_crash(void **state)
{
    struct world *w = world_damaged(800);
    struct safe_recovery recovery;

    finish_damaged(w, false);
    for (unsigned i = 0; i < 3; i++) {
        w->r = replica_free(w->r);
        fake_disk_crash(w->disk);
        open_world(w, &recovery);
        assert_int_equal(stats_of(w).failure, -EUCLEAN);
        assert_false(stats_of(w).over); // the prefix is replayed all the same
        assert_int_equal(recovery.verdict, SAFE_DAMAGED);
        assert_int_equal(recovery.last, 10);
        assert_false(recovery.unknown);
        if (i > 0) // and one before it is asked for anything
            finish_damaged(w, false);
        expect_lost(w, 11, 25);
    }
    replica_discard(w->r);
    assert_int_equal(w->finishes, 2);
    w->r = replica_free(w->r);
    fake_disk_crash(w->disk);
    open_world(w, &recovery);
    assert_int_equal(recovery.verdict, SAFE_CLEAN);
    world_free(w);
}

// Of what had been confirmed not even the headers can be read.
static void what_cannot_be_read_is_unknown(void **state)
{
    static const uint64_t places[] = {8, 70, 200}; // in the entry's header, the batch's, a record's
    struct safe_recovery recovery;

    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        struct world *w = world_damaged(places[i]);
        finish_damaged(w, true);
        w->r = replica_free(w->r);
        fake_disk_crash(w->disk);
        open_world(w, &recovery);
        assert_int_equal(recovery.verdict, SAFE_DAMAGED);
        assert_true(recovery.unknown);
        finish_damaged(w, true);
        // It does not come to a takeover: what follows is a stream that starts anew.
        replica_restart(w->r, SESSION + 1, w->epoch, 100, w->now);
        settle_down(w, NS_PER_S);
        w->finishes = 0;
        replica_finish(w->r, on_finish, w);
        settle_down(w, 0);
        assert_int_equal(w->finishes, 1);
        assert_false(w->finish.discards);
        world_free(w);
    }
}

static void on_settle(void *arg, int status)
{
    struct world *w = arg;
    w->settled_status = status;
}

static void settling_waits_for_what_was_received(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 30);
    send(w, 1, 10, 0);
    w->settled_status = 1;
    assert_int_equal(replica_settle(w->r, on_settle, w), 0);
    assert_int_equal(replica_settle(w->r, on_settle, w), -EBUSY);
    send(w, 11, 10, 0);
    while (w->settled_status == 1)
        assert_true(fake_disk_complete(w->disk) || complete_disks(w));
    assert_int_equal(w->settled_status, 0);
    assert_true(stats_of(w).settled >= 10);
    fake_volume_fail(w->blocks[1], 1U << BLOCK_FLUSH, -EIO);
    send(w, 21, 2, 0);
    w->settled_status = 1;
    assert_int_equal(replica_settle(w->r, on_settle, w), 0);
    settle_down(w, 0);
    assert_int_equal(w->settled_status, -EIO);
    world_free(w);
}

static void a_restart_replays_what_is_held_first(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 10);
    send(w, 1, 10, 0);
    replica_restart(w->r, SESSION + 1, 901, 101, w->now);
    assert_int_equal(events_of(w, REPLICA_RESTARTED), 1); // of world_started()
    some_writes(w, 101, 10);
    send_as(w, SESSION + 1, 101, 2, 0); // too early
    assert_int_equal(stats_of(w).received, 10);
    settle_down(w, 0);
    assert_int_equal(events_of(w, REPLICA_RESTARTED), 2);
    expect_content(w, 1, 10);
    assert_int_equal(le64_get(w->ack.received), 100);
    assert_int_equal(le64_get(w->ack.session), SESSION + 1);
    assert_int_equal(stats_of(w).epoch, 901);
    send_as(w, SESSION + 1, 101, 10, 1);
    settle_down(w, NS_PER_S);
    assert_int_equal(stats_of(w).applied, 110);
    for (uint64_t seq = 11; seq <= 100; seq++)
        line_mark(w, seq, MARK_IDLE);
    expect_content(w, 1, 110);
    crash(w, true);
    assert_int_equal(stats_of(w).received, 110);
    settle_down(w, NS_PER_S);
    expect_content(w, 1, 110);
    world_free(w);
}

static void stopping_becomes_idle_and_says_nothing(void **state)
{
    struct world *w = world_started(1);

    some_writes(w, 1, 10);
    send(w, 1, 10, 1);
    fake_disk_complete(w->disk);
    unsigned events = w->event_count;
    replica_stop(w->r);
    assert_false(replica_idle(w->r));
    fake_volume_fail(w->blocks[0], ~0U, -ECANCELED);
    fake_volume_fail(w->blocks[1], ~0U, -ECANCELED);
    complete_disks(w);
    assert_true(replica_idle(w->r));
    assert_int_equal(w->event_count, events);
    assert_true(replica_deadline(w->r) == INT64_MAX);
    world_free(w);
}

static void the_rate_is_measured(void **state)
{
    struct world *w = world_started(1);

    for (uint64_t seq = 1; seq <= 200; seq++)
        line_write(w, seq, 0, seq % 10 * 4096, 4096);
    for (uint64_t seq = 1; seq <= 200; seq++) {
        send(w, seq, 1, seq);
        fake_disk_complete(w->disk);
        advance(w, 2 * NS_PER_MS);
        complete_disks(w);
        settle_down(w, 0);
    }
    assert_in_range(stats_of(w).replay_records_per_s, 400, 600);
    assert_in_range(stats_of(w).replay_bytes_per_s, 400 * 4096, 600 * 4096);
    world_free(w);
}

// ---- Everything at random ----

static void random_line(struct world *w, uint64_t seq, uint64_t *seed)
{
    uint64_t what = help_random(seed, 100);
    uint16_t object = (uint16_t)help_random(seed, VOLUMES);
    uint32_t length = 512 * (1 + (uint32_t)help_random(seed, 10));
    uint64_t offset = help_random(seed, (VOLUME_SIZE - length) / 512) * 512;

    line_write(w, seq, object, offset, length);
    if (what < 10)
        w->lines[seq].type = RECORD_ZERO;
    else if (what < 18)
        w->lines[seq].type = RECORD_DISCARD;
    else if (what < 22)
        w->lines[seq].type = RECORD_RESYNC;
    else if (what < 24)
        line_mark(w, seq, MARK_IDLE);
    else if (what < 26)
        line_mark(w, seq, what == 24 ? MARK_RESYNC_BEGIN : MARK_RESYNC_END);
    else if (what < 28)
        w->lines[seq] =
            (struct line){.type = RECORD_EPOCH, .epoch = w->epoch + 1, .parent = w->epoch};
    else if (what < 30)
        w->lines[seq].type = RECORD_CHECK;
    w->epoch = w->lines[seq].epoch;
}

// A sender that loses, repeats and overlaps batches. Returns the next seq that it thinks it has to
// send.
static uint64_t random_send(struct world *w, uint64_t next, uint64_t *made, uint64_t *barrier,
                            uint64_t *seed)
{
    uint32_t count = 1 + (uint32_t)help_random(seed, 12);

    while (*made < next + count - 1)
        random_line(w, ++*made, seed);
    if (help_random(seed, 20) == 0)
        return next + count; // lost
    bool flush = help_random(seed, 4) == 0;
    uint64_t number = flush ? ++*barrier : 0;
    uint64_t back = help_random(seed, 6) == 0 ? help_random(seed, 4) : 0;
    uint64_t first = next > back ? next - back : 1;
    send(w, first, (uint32_t)(next + count - first), number);
    if (help_random(seed, 15) == 0)
        send(w, first, (uint32_t)(next + count - first), 0);
    return next + count;
}

static void expect_prefix(struct world *w)
{
    if (replica_idle(w->r) && stats_of(w).applied == stats_of(w).durable)
        expect_content(w, 1, stats_of(w).applied);
}

static void random_world(uint64_t run, unsigned steps)
{
    uint64_t seed = run * 77777 + 1;
    struct world *w = world_new(run, 64 * 1024, 4 + (unsigned)(run % 3));
    uint64_t next = 1;
    uint64_t made = 0;
    uint64_t barrier = 0;

    w->r = replica_free(w->r);
    w->config.window = run % 2 ? 16 * 1024 : 0;
    struct safe_recovery recovery;
    open_world(w, &recovery);
    replica_restart(w->r, SESSION, w->epoch, 1, w->now);
    for (unsigned i = 0; i < steps && made < SEQS_MAX - 100 && barrier < 4000; i++) {
        uint64_t what = help_random(&seed, 100);
        w->event_count = 0;
        if (what < 40) {
            next = random_send(w, next, &made, &barrier, &seed);
        } else if (what < 60) {
            fake_disk_complete(w->disk);
        } else if (what < 85) {
            fake_volume_complete(w->blocks[help_random(&seed, VOLUMES)]);
        } else if (what < 95) {
            advance(w, (int64_t)help_random(&seed, 20) * NS_PER_MS);
        } else if (what < 97) {
            settle_down(w, (int64_t)help_random(&seed, 3) * NS_PER_S);
            expect_prefix(w);
        } else if (what == 97) {
            replica_pause(w->r, help_random(&seed, 2));
        } else {
            crash(w, what == 98);
            replica_session(w->r, SESSION, w->now);
            memset(w->barrier_end, 0, sizeof(w->barrier_end));
            next = stats_of(w).received + 1;
            // What the passive end never had is numbered anew, with other content.
            made = next - 1;
            w->epoch = w->lines[made].epoch ? w->lines[made].epoch : w->epoch;
        }
        if (le16_get(w->ack.flags) & ACK_RESEND || help_random(&seed, 30) == 0)
            next = stats_of(w).received + 1;
    }
    w->event_count = 0;
    uint64_t confirmed = w->confirmed;
    if (run % 4 == 0) {
        crash(w, true);
        settle_down(w, NS_PER_S);
    }
    replica_finish(w->r, on_finish, w);
    settle_down(w, 0);
    assert_int_equal(w->finishes, 1);
    assert_int_equal(w->finish.error, 0);
    assert_true(w->finish.reaches_confirmed);
    assert_true(w->finish.applied >= confirmed);
    expect_content(w, 1, w->finish.applied);
    world_free(w);
}

static void random_worlds_are_always_a_prefix(void **state)
{
    for (uint64_t run = 1; run <= 150; run++) {
        if (run % 50 == 1)
            print_message("run %u\n", (unsigned)run);
        random_world(run, 400);
    }
}

// ---- Salvage ----

// A replica whose volumes hold something of their own, which is kept before it is overwritten.
struct keeper {
    struct world *w;
    struct fake_disk *disk;
    struct salvage *salvage;
    struct salvage_config config;
    uint8_t own[VOLUMES][VOLUME_SIZE];
    bool kept[VOLUMES][VOLUME_SIZE / SALVAGE_BLOCK];
};

static void on_written(struct block_request *request, int status)
{
    assert_int_equal(status, 0);
    *(bool *)request->owner = true;
}

static void own_content(struct keeper *k)
{
    for (unsigned v = 0; v < VOLUMES; v++) {
        struct block *block = k->w->config.volumes[v];
        for (unsigned i = 0; i < VOLUME_SIZE; i++)
            k->own[v][i] = (uint8_t)(i / SALVAGE_BLOCK % 3 == 0 ? 0 : 200 + v + i % 41);
        CLEANUP_FREE void *data = aligned_alloc(4096, VOLUME_SIZE);
        memcpy(data, k->own[v], VOLUME_SIZE);
        for (int flush = 0; flush < 2; flush++) {
            bool done = false;
            struct block_request q = {.op = flush ? BLOCK_FLUSH : BLOCK_WRITE, .length = VOLUME_SIZE, .data = data,
                                      .done = on_written, .owner = &done};
            block_submit(block, &q);
            block_kick(block);
            while (!done)
                assert_true(fake_volume_complete(k->w->blocks[v]));
        }
    }
}

static void keeper_open(struct keeper *k)
{
    if (salvage_open(&k->config, &k->salvage, NULL) < 0) {
        fake_disk_fail(k->disk, 0, 0, false);
        assert_int_equal(salvage_open(&k->config, &k->salvage, NULL), 0);
    }
    replica_salvage(k->w->r, 3, k->salvage);
}

// Everything under way completes, for as long as anything does.
static void keeper_pump(struct keeper *k)
{
    for (unsigned i = 0; i < 200; i++) {
        (void)fake_disk_complete(k->w->disk);
        (void)fake_disk_complete(k->disk);
        (void)complete_disks(k->w);
        advance(k->w, 10 * NS_PER_MS);
    }
}

// What took nothing more is replaced, as an end does it.
static void keeper_turn(struct keeper *k)
{
    if (!stats_of(k->w).salvage_waits || replica_salvage_busy(k->w->r))
        return;
    salvage_hand_on(k->salvage, &k->config);
    replica_salvage(k->w->r, 3, NULL);
    k->salvage = salvage_free(k->salvage);
    keeper_open(k);
}

static int take_kept(void *arg, const struct salvage_entry *e, const void *data)
{
    struct keeper *k = arg;
    uint8_t *own = k->own[e->object] + e->offset;
    assert_true(e->kind == SALVAGE_DATA || e->kind == SALVAGE_ZERO);
    for (uint64_t i = 0; i < e->length; i++)
        assert_int_equal(own[i], data ? ((const uint8_t *)data)[i] : 0);
    for (uint64_t at = e->offset; at < e->offset + e->length; at += SALVAGE_BLOCK)
        k->kept[e->object][at / SALVAGE_BLOCK] = true;
    return 0;
}

static void take_info(void *arg, const struct salvage_info *info)
{
    struct keeper *k = arg;
    assert_int_not_equal(info->verdict, SALVAGE_DAMAGED);
    assert_int_equal(salvage_walk(k->config.disk, info->number, take_kept, k, NULL, NULL), 0);
}

// Whatever differs from what was there is in the archive as it was.
static void expect_kept(struct keeper *k)
{
    unsigned beyond;
    memset(k->kept, 0, sizeof(k->kept));
    assert_int_equal(salvage_list(k->config.disk, take_info, k, &beyond, NULL), 0);
    for (unsigned v = 0; v < VOLUMES; v++)
        for (unsigned i = 0; i < VOLUME_SIZE; i++)
            if (fake_volume_bytes(k->w->blocks[v])[i] != k->own[v][i] && !k->kept[v][i / SALVAGE_BLOCK])
                fail_msg("volume %u: byte %u was overwritten and is not kept", v, i);
}

static struct keeper *keeper_new(uint64_t run)
{
    struct keeper *k = calloc(1, sizeof(*k));
    assert_non_null(k);
    k->w = world_started(run);
    k->disk = fake_disk_new(1U << 24, run);
    k->config = (struct salvage_config){
        .disk = fake_disk_of(k->disk),
        .pair = 5,
        .name = "web",
        .side = EPOCH_BY_PRIMARY,
        .cause = SALVAGE_YIELDED,
        .epoch = {.number = 2, .id = 77, .first_seq = 1, .opened_by = EPOCH_BY_PRIMARY, .reason = EPOCH_ALONE},
        .volumes = {{"a", VOLUME_SIZE}, {"b", VOLUME_SIZE}},
        .volume_count = VOLUMES,
        .objects = 3,
        .limit = 12U << 20,
        .file_size = SALVAGE_FILE_MIN / 4096 * 4096,
    };
    own_content(k);
    keeper_open(k);
    return k;
}

static void keeper_free(struct keeper *k)
{
    world_free(k->w);
    salvage_free(k->salvage);
    fake_disk_free(k->disk);
    free(k);
}

// Power loss of everything at once: nothing was overwritten of which a crash can lose what was there.
static void keeper_crash(struct keeper *k)
{
    crash(k->w, true);
    k->salvage = salvage_free(k->salvage);
    fake_disk_crash(k->disk);
    k->config.distrusted = 0;
    expect_kept(k);
    keeper_open(k);
    replica_session(k->w->r, SESSION, k->w->now);
    memset(k->w->barrier_end, 0, sizeof(k->w->barrier_end));
}

// Records of every kind that overwrites.
static uint64_t overwrite(struct world *w, uint64_t next, uint64_t *made, uint64_t *seed)
{
    static const uint8_t types[] = {RECORD_WRITE, RECORD_ZERO, RECORD_DISCARD, RECORD_RESYNC, RECORD_RESYNC_ZERO};
    uint32_t count = 1 + (uint32_t)help_random(seed, 6);
    for (uint64_t seq = next; seq < next + count; seq++) {
        if (seq <= *made)
            continue;
        uint64_t offset = help_random(seed, VOLUME_SIZE / 512 - 20) * 512;
        line_write(w, seq, (uint16_t)help_random(seed, VOLUMES), offset, 512 * (1 + (uint32_t)help_random(seed, 20)));
        w->lines[seq].type = types[help_random(seed, ARRAY_LEN(types))];
        *made = seq;
    }
    send(w, next, count, 0);
    return next + count;
}

static void salvage_world(uint64_t run)
{
    uint64_t seed = run * 424243 + 1, next = 1, made = 0;
    struct keeper *k = keeper_new(run);
    struct world *w = k->w;

    for (unsigned i = 0; i < 300 && made < SEQS_MAX - 100; i++) {
        uint64_t what = help_random(&seed, 100);
        w->event_count = 0;
        if (what < 40)
            next = overwrite(w, next, &made, &seed);
        else if (what < 55)
            (void)fake_disk_complete(w->disk);
        else if (what < 65)
            (void)fake_disk_complete(k->disk);
        else if (what < 85)
            (void)fake_volume_complete(w->blocks[help_random(&seed, VOLUMES)]);
        else if (what < 96)
            advance(w, (int64_t)help_random(&seed, 20) * NS_PER_MS);
        else if (what == 96)
            fake_disk_fail(k->disk, 1 + (unsigned)help_random(&seed, 5), help_random(&seed, 2) ? -EIO : -ENOSPC, false);
        else if (what > 97) {
            keeper_crash(k);
            next = stats_of(w).received + 1;
            made = next - 1;
            w->epoch = w->lines[made].epoch ? w->lines[made].epoch : w->epoch;
        }
        keeper_turn(k);
        if (le16_get(w->ack.flags) & ACK_RESEND || help_random(&seed, 30) == 0)
            next = stats_of(w).received + 1;
    }
    keeper_crash(k);
    keeper_free(k);
}

static void what_was_there_is_kept_before_it_is_overwritten(void **state)
{
    (void)state;
    for (uint64_t run = 1; run <= 40; run++)
        salvage_world(run);
}

// Without a salvage, or with a full one, nothing that would overwrite is started; then it goes on.
static void a_full_salvage_holds_the_replay(void **state)
{
    (void)state;
    struct keeper *k = keeper_new(1);
    struct world *w = k->w;
    replica_salvage(w->r, 3, NULL);
    k->salvage = salvage_free(k->salvage);
    for (uint64_t seq = 1; seq <= 3; seq++)
        line_write(w, seq, 0, seq * 8192, 4096);
    send(w, 1, 3, 1);
    keeper_pump(k);
    assert_int_equal(stats_of(w).durable, 3);
    assert_int_equal(stats_of(w).applied, 0);
    assert_memory_equal(fake_volume_bytes(w->blocks[0]), k->own[0], VOLUME_SIZE);
    k->config.limit = 8192; // holds zeros, and no block of data
    keeper_open(k);
    keeper_pump(k);
    assert_int_equal(events_of(w, REPLICA_SALVAGE_FULL), 1);
    assert_true(stats_of(w).salvage_waits);
    assert_true(stats_of(w).applied < 3);
    k->config.limit = 2U << 20;
    keeper_turn(k);
    keeper_pump(k);
    assert_int_equal(stats_of(w).applied, 3);
    expect_kept(k);
    keeper_free(k);
}

// What is held of a stream that a new one replaces is replayed first: the end of a resync in it says nothing of what was
// written here since. While that waits for a salvage there is nothing to be done at any time.
static void the_end_of_a_former_resync_ends_no_salvage(void **state)
{
    (void)state;
    struct keeper *k = keeper_new(1);
    struct world *w = k->w;
    replica_salvage(w->r, 1, NULL);
    k->salvage = salvage_free(k->salvage);
    line_write(w, 1, 1, 0, 4096);
    w->lines[1].type = RECORD_ZERO; // of zeros
    line_mark(w, 2, MARK_RESYNC_BEGIN);
    line_write(w, 3, 0, 8192, 4096);
    line_mark(w, 4, MARK_RESYNC_END);
    line_write(w, 5, 0, 16384, 4096);
    send(w, 1, 5, 1);
    for (unsigned i = 0; i < 20; i++) { // no time passes
        (void)fake_disk_complete(w->disk);
        (void)complete_disks(w);
        advance(w, 0);
    }
    assert_int_equal(stats_of(w).durable, 5);
    replica_restart(w->r, SESSION + 1, 901, 101, w->now);
    keeper_pump(k);
    assert_int_equal(stats_of(w).applied, 2);
    assert_true(stats_of(w).settled < 2); // with what waits
    assert_true(replica_deadline(w->r) > w->now);
    keeper_open(k);
    keeper_pump(k);
    assert_int_equal(stats_of(w).received, 100); // the new stream may begin
    assert_int_equal(stats_of(w).salvaging, 3);
    assert_int_not_equal(fake_volume_bytes(w->blocks[0])[16385], k->own[0][16385]);
    expect_kept(k);
    keeper_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_there_is_kept_before_it_is_overwritten),
        cmocka_unit_test(a_full_salvage_holds_the_replay),
        cmocka_unit_test(the_end_of_a_former_resync_ends_no_salvage),
        cmocka_unit_test(a_barrier_is_acknowledged_when_it_is_durable),
        cmocka_unit_test(quiet_starts_a_sync_and_a_mib_does),
        cmocka_unit_test(a_gap_is_asked_for_and_duplicates_are_skipped),
        cmocka_unit_test(damaged_and_foreign_messages_are_dropped),
        cmocka_unit_test(nothing_is_applied_before_it_is_durable),
        cmocka_unit_test(a_small_window_is_read_back_from_the_queue),
        cmocka_unit_test(many_are_under_way_and_overlapping_ones_are_not),
        cmocka_unit_test(an_epoch_waits_for_the_history),
        cmocka_unit_test(a_resync_waits_for_its_marks),
        cmocka_unit_test(a_resync_begins_with_a_flush),
        cmocka_unit_test(a_check_is_answered_at_its_place),
        cmocka_unit_test(a_coarse_check_names_whole_units),
        cmocka_unit_test(zeros_without_a_hole_leave_none),
        cmocka_unit_test(checks_of_zeros_are_answered),
        cmocka_unit_test(a_write_error_stops_the_replay),
        cmocka_unit_test(a_flush_error_is_final),
        cmocka_unit_test(a_sync_error_is_final_and_what_was_durable_is_applied),
        cmocka_unit_test(full_is_said_and_passes),
        cmocka_unit_test(a_start_without_room_waits_for_it),
        cmocka_unit_test(a_record_outside_its_volume_is_refused),
        cmocka_unit_test(a_takeover_applies_all_that_was_received),
        cmocka_unit_test(a_takeover_with_a_failing_replica_is_aborted),
        cmocka_unit_test(a_takeover_ends_in_front_of_damage),
        cmocka_unit_test(a_takeover_discards_on_a_full_disk),
        cmocka_unit_test(what_is_discarded_is_told_again_after_a_crash),
        cmocka_unit_test(what_cannot_be_read_is_unknown),
        cmocka_unit_test(settling_waits_for_what_was_received),
        cmocka_unit_test(a_restart_replays_what_is_held_first),
        cmocka_unit_test(stopping_becomes_idle_and_says_nothing),
        cmocka_unit_test(the_rate_is_measured),
        cmocka_unit_test(random_worlds_are_always_a_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
