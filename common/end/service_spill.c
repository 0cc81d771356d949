// SPDX-License-Identifier: Apache-2.0
// The ladder of a queue that its peer does not drain (DESIGN §4): memory, disk, policy. The disk
// rung is queues/spill; here it gets its turns, what it has to say is said, and the last rung is
// taken:
//
//   map       what is held goes on streaming, from memory and disk, and nothing is added to it: its
//             end is a place in the queue (unsafe_end()), known to a run that takes the queue over.
//             When the peer has it all, its place is given up, and the resync starts behind it.
//             Where the disk cannot take all of it, the place is given up at once.
//   throttle  writers are held back while the peer's stream moves (too_far_ahead()); where it does
//             not, as `map`.
//   suspend   writers are held back until there is room
#include <errno.h>
#include <stdio.h>

#include "common/base/cleanup.h"
#include "common/end/service_private.h"

int service_make_spill(struct service *s, struct error *err)
{
    struct spill_config config = {
        .quota = s->config.spill_bytes,
        .from = s->config.spill_from,
        .retry_ns = s->config.spill_retry_ns,
        .reserve = s->config.overflow == SERVICE_OVERFLOW_MAP,
    };
    s->spill = spill_new(s->queue, s->config.spill_disk, &config);
    return s->spill ? 0 : error_sys(err, -ENOMEM, "unsafe queue");
}

// The end hears of it as soon as it serves, also after a restart.
static void tell_ending(struct service *s)
{
    struct end_event ev = {.type = EV_OVERFLOW};
    if (s->ending_told || !s->attached || !unsafe_ended(s->queue, SERVICE_READER) ||
        !service_serves(s))
        return;
    s->ending_told = true;
    ev.failed.text = "the unsafe queue is full";
    ev.failed.draining = true;
    s->ops.report(s->user, &ev);
}

void service_full(struct service *s)
{
    if (s->config.overflow == SERVICE_OVERFLOW_SUSPEND)
        return;
    bool first = s->attached && !unsafe_ended(s->queue, SERVICE_READER);
    if (!first || !s->spill || !spill_can_take_all(s->spill)) {
        service_overflow(s, "the unsafe queue overflowed");
        return;
    }
    unsafe_end(s->queue, SERVICE_READER);
    service_note(s,
                 "the unsafe queue is full, on disk too: what it holds up to seq %llu is streamed, "
                 "what follows is resynced",
                 (unsigned long long)unsafe_last(s->queue, SERVICE_READER));
}

static const char *level_text(enum unsafe_level level)
{
    return level == UNSAFE_HALF ? "50 %" : "75 %";
}

static void take_event(struct service *s, const struct spill_event *event)
{
    switch (event->kind) {
    case SPILL_NOTHING:
        break;
    case SPILL_LEVEL:
        if (event->level != UNSAFE_LOW)
            service_note(s, "the unsafe queue's disk space is %s full", level_text(event->level));
        break;
    case SPILL_FAILED:
        service_note(s, "the unsafe queue cannot go to disk (%s): it has its memory alone",
                     event->text);
        break;
    case SPILL_WORKS:
        service_note(s, "the unsafe queue can go to disk again");
        break;
    case SPILL_LOST: {
        char text[SPILL_TEXT_MAX + 64];
        (void)snprintf(text, sizeof(text), "the unsafe queue's part on disk is lost: %s",
                       event->text);
        service_overflow(s, text);
        break;
    }
    }
}

static void take_events(struct service *s)
{
    struct spill_event event;
    for (spill_event(s->spill, &event); event.kind != SPILL_NOTHING; spill_event(s->spill, &event))
        take_event(s, &event);
}

void service_spill_turn(struct service *s, int64_t now)
{
    if (!s->spill)
        return;
    if (!s->recovering) // what is lost would be nobody's yet, and be forgotten
        take_events(s);
    tell_ending(s);
    if (s->ending_told && s->attached && unsafe_ended(s->queue, SERVICE_READER) &&
        unsafe_released(s->queue, SERVICE_READER) == unsafe_last(s->queue, SERVICE_READER))
        service_overflow(s, "the peer has all that the full unsafe queue held");
    if (!spill_wants(s->spill, now))
        return;
    s->ops.readers(s->user, false);
    struct spill_job *job = spill_next(s->spill, now);
    s->ops.readers(s->user, true);
    if (job)
        s->ops.spill(s->user, job);
}

void service_spilled(struct service *s, struct spill_job *job, int64_t now)
{
    s->ops.readers(s->user, false);
    spill_done(s->spill, job, now);
    s->ops.readers(s->user, true);
    s->numbered = true; // there may be more to send
}

int64_t service_spill_deadline(const struct service *s, int64_t now)
{
    if (!s->spill)
        return INT64_MAX;
    return spill_wants(s->spill, now) ? now : spill_deadline(s->spill);
}

bool service_spill_busy(const struct service *s)
{
    return s->spill && spill_busy(s->spill);
}
