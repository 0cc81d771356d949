// SPDX-License-Identifier: Apache-2.0
// The checks of a verify (common/end/verify.h) through the life of updates, under the limits of a resync.
#include <errno.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/end/service_private.h"

#define CHECKS_A_TURN 8

static void report_later(struct service *s, const struct verify_result *result);

void service_verify(struct service *s, uint64_t objects, int64_t now)
{
    struct verify_result so_far;
    bool was_running = verify_running(s->verify);
    verify_result(s->verify, &so_far);
    s->verify_started = 0;
    verify_start(s->verify, objects, now);
    // What was found is so, however the rest would have been.
    if (!objects && was_running && so_far.differing)
        report_later(s, &so_far);
}

bool service_verifying(const struct service *s)
{
    return verify_running(s->verify);
}

void service_verify_copied(struct service *s, const struct updates_event *ev)
{
    if (ev->status == -EAGAIN) {
        verify_again(s->verify, ev->object, ev->offset);
        return;
    }
    if (ev->status < 0)
        service_note(s, "volume %s: %u bytes at %llu cannot be read, and are not compared (%s)",
                     service_volume(s, ev->object), ev->length, (unsigned long long)ev->offset,
                     strerror(-ev->status));
    verify_copied(s->verify, ev->object, ev->offset, ev->status < 0 ? 0 : ev->seq);
}

// What differs is in the map, durably before anybody is told: the repair goes by it, and so does whatever resync comes
// first. It stays there until that is through.
static void set_in_map(struct service *s, const struct batch_answer *answer, const uint8_t *bitmap)
{
    uint16_t object = le16_get(answer->object);
    for (uint32_t i = 0; object < s->config.volumes && i < le32_get(answer->blocks); i++) {
        uint64_t at = le64_get(answer->offset) + (uint64_t)i * CHECK_BLOCK_SIZE;
        if (!(bitmap[i / 8] >> i % 8 & 1) || at >= intent_size(maps_at(s->maps, object)))
            continue;
        s->due |= UINT64_C(1) << object;
        (void)maps_set(s->maps, object, at, MIN(CHECK_BLOCK_SIZE, intent_size(maps_at(s->maps, object)) - at));
    }
}

void service_verify_answer(struct service *s, const struct batch_answer *answer, const uint8_t *bitmap)
{
    set_in_map(s, answer, bitmap);
    verify_answer(s->verify, le16_get(answer->object), le64_get(answer->seq), le64_get(answer->offset),
                  le32_get(answer->blocks), bitmap);
}

static void tell_ranges(struct service *s, const struct verify_result *result)
{
    for (unsigned i = 0; i < result->range_count; i++) {
        const struct verify_range *r = &result->ranges[i];
        service_note(s, "volume %s: %llu bytes at %llu differ from the replica", service_volume(s, r->object),
                     (unsigned long long)r->length, (unsigned long long)r->offset);
    }
}

static void report_later(struct service *s, const struct verify_result *result)
{
    s->verified = *result;
    s->verified_waits = true;
    maps_mark(s->maps);
}

static void report(struct service *s)
{
    if (!s->verified_waits || !maps_durable(s->maps))
        return;
    s->verified_waits = false;
    tell_ranges(s, &s->verified);
    struct end_event ev = {.type = EV_VERIFIED};
    ev.verified.result = &s->verified;
    ev.verified.real_ns = s->ops.real_ns(s->user);
    s->ops.report(s->user, &ev);
}

void service_verify_turn(struct service *s, const struct service_turn *turn)
{
    struct verify_result result;
    struct verify_step step;
    uint64_t done, total;
    int64_t began_ns;
    // Nothing is numbered while the gate is held: an epoch's opening has its seq already.
    if (verify_running(s->verify) && s->attached && s->gate != GATE_HELD) {
        verify_applied(s->verify, turn->applied, turn->now_ns);
        verify_progress(s->verify, &done, &total, &began_ns);
        for (int i = 0; i < CHECKS_A_TURN; i++) {
            if (!service_copy_has_room(s) || !service_copy_has_share(s, turn->now_ns) ||
                !service_copy_has_rate(s, s->verify_started, began_ns, turn->now_ns) ||
                !verify_next(s->verify, turn->now_ns, &step) ||
                updates_check(s->updates, step.object, step.offset, step.length, false) < 0)
                break;
            verify_began(s->verify, &step, turn->now_ns);
            s->verify_started += step.length;
            s->share.spent += step.length / CHECK_BLOCK_SIZE * sizeof(struct le64);
        }
    }
    if (verify_finished(s->verify, &result))
        report_later(s, &result);
    report(s);
}

void service_differs(struct service *s, uint64_t objects)
{
    s->to_mark = objects;
}

// What differs is no consistent state: the passive end records that as it does at the begin of a resync.
void service_mark_turn(struct service *s)
{
    while (s->to_mark && s->attached && s->gate != GATE_HELD) {
        uint16_t object = (uint16_t)__builtin_ctzll(s->to_mark);
        uint64_t seq;
        if (updates_mark(s->updates, MARK_RESYNC_BEGIN, object, &seq) < 0)
            return;
        s->to_mark &= s->to_mark - 1;
        s->numbered = true;
    }
}
