// SPDX-License-Identifier: Apache-2.0
// What comes in from elsewhere, made into events for the end: reports of the pair's threads, frames
// of the peer, news of the channel and of the applications.
#include <stdio.h>

#include "common/daemon/endpoint_private.h"

// ---- reports of the threads ----

void endpoint_begin(struct endpoint *ep)
{
    ep->started = true;
    ep->start.state = &ep->state;
    endpoint_feed(ep, &(struct end_event){.type = EV_START, .start = ep->start});
}

static void take_opened(struct endpoint *ep, const struct stream_report *r)
{
    if (!r->ok)
        endpoint_note(ep, -1, r->text);
    if (!ep->opening)
        return;
    ep->opening = false;
    struct end_event ev = {.type = EV_OPENED};
    ev.opened.replica_durable = r->seq;
    ev.opened.base = r->base;
    ev.opened.replica_failed = !r->ok;
    ev.opened.damaged = r->damaged;
    endpoint_feed(ep, &ev);
}

static void take_front_event(struct endpoint *ep, const struct front_report *r)
{
    struct end_event ev = r->event;
    if (ev.type == EV_STORE && ep->pair->flush_failure == PAIR_FLUSH_NONE) {
        endpoint_note(ep, -1, r->text); // the operator has chosen to see to it himself
        ev.failed.ignored = true;
    }
    endpoint_feed(ep, &ev);
}

void endpoint_take_report(struct endpoint *ep, struct letter *letter)
{
    switch (letter->kind) {
    case FRONT_EVENT:
        take_front_event(ep, (struct front_report *)letter);
        break;
    case FRONT_NOTE:
        endpoint_note(ep, -1, ((struct front_report *)letter)->text);
        break;
    case STREAM_EVENT:
        endpoint_feed(ep, &((struct stream_report *)letter)->event);
        break;
    case STREAM_NOTE:
        endpoint_note(ep, -1, ((struct stream_report *)letter)->text);
        break;
    case STREAM_OPENED:
        take_opened(ep, (struct stream_report *)letter);
        break;
    case STREAM_CLOSED:
        endpoint_closed(ep, ((struct stream_report *)letter)->ok
                                ? NULL
                                : ((struct stream_report *)letter)->text);
        break;
    case SAVER_SAVED: {
        struct end_event ev = {.type = EV_SAVED};
        ev.saved.ticket = ((struct saver_report *)letter)->ticket;
        ev.saved.status = ((struct saver_report *)letter)->status;
        endpoint_feed(ep, &ev);
        break;
    }
    case SWITCHBOARD_DONE:
        endpoint_switched(ep, (struct switchboard_report *)letter);
        break;
    case SWITCHBOARD_LEFT:
        endpoint_left(ep, (struct switchboard_report *)letter);
        break;
    default:
        ENSURE(!"a report of an unknown kind");
    }
}

// ---- callbacks ----

// Every heartbeat comes once over each path. It has the same number then, and says nothing new: taking it in again is as
// well left out.
static bool taken_already(struct endpoint *ep, const struct frame *frame)
{
    if (frame->type != FRAME_BEAT)
        return false;
    bool same = frame->run == ep->beat_run && frame->beat.number == ep->beat_number;
    ep->beat_run = frame->run;
    ep->beat_number = frame->beat.number;
    return same;
}

static void on_control(void *context, int path, uint64_t peer_run, const void *data, size_t size)
{
    struct endpoint *ep = context;
    struct frame frame;
    const char *broken = frame_decode(data, size, &frame);
    if (!broken && frame.run != peer_run)
        broken = "it names another run than its link";
    if (broken) {
        log_limited(&ep->frame_log, LOG_LEVEL_WARNING, "pair %s: frame dropped: %s", ep->pair->pair,
                    broken);
        return;
    }
    if (!ep->started || ep->exited || taken_already(ep, &frame))
        return;
    struct end_event ev = {.type = EV_FRAME};
    ev.frame.path = (unsigned)path;
    ev.frame.frame = &frame;
    endpoint_feed(ep, &ev);
}

static void on_channel_event(void *context, enum channel_side side, int path,
                             enum channel_event event, const char *text)
{
    static const char *const names[] = {"up",      "down",      "refused",
                                        "trouble", "data path", "data lost"};
    struct endpoint *ep = context;
    if (event == CHANNEL_DATA_LOST)
        return; // the stream's own numbers find it
    log_info("pair %s: channel path %d %s %s%s%s", ep->pair->pair, path + 1,
             side == CHANNEL_SIDE_CONTROL ? "control" : "data", names[event], text ? ": " : "",
             text ? text : "");
    if (side != CHANNEL_SIDE_CONTROL)
        return; // of the data thread
    if (event == CHANNEL_REFUSED)
        (void)snprintf(ep->channel_refused, sizeof(ep->channel_refused), "%s", text ? text : "");
    else if (event == CHANNEL_UP)
        ep->channel_refused[0] = '\0';
}

const struct channel_ops endpoint_channel_ops = {.on_control = on_control,
                                                 .on_event = on_channel_event};

void endpoint_on_app(void *context, const struct apps_event *ev)
{
    struct endpoint *ep = context;
    struct end_event out = {.type = EV_APPS};
    char text[ACTION_TEXT_SIZE];
    switch (ev->type) {
    case APPS_STARTED:
        ep->apps_start_ms = (clock_boot_ns() - ep->apps_began_ns) / NS_PER_MS;
        endpoint_note(ep, clock_boot_ns() - ep->apps_began_ns, "applications started");
        out.apps.running = true;
        ep->plan_stale = true;
        endpoint_plan(ep);
        endpoint_feed(ep, &out);
        return;
    case APPS_STOPPED:
        // Whatever still runs of them here now was not started by this end: said, and left alone.
        if (!ep->serving)
            apps_check_foreign(ep->apps);
        endpoint_feed(ep, &out);
        return;
    case APPS_TARGETS:
        ep->plan_stale = true;
        endpoint_plan(ep);
        return;
    case APPS_CHECKED:
        if (ev->text && ev->text[0])
            endpoint_note(ep, -1, ev->text);
        return;
    case APP_FAILED:
        (void)snprintf(text, sizeof(text), "application %s failed for good: %s", ev->app, ev->text);
        endpoint_note(ep, -1, text);
        if (ev->switchover) {
            out.type = EV_APP_FAILED;
            out.failed.text = text;
            endpoint_feed(ep, &out);
        }
        return;
    case APP_STARTED:
    case APP_STOPPED:
    case APP_RESTARTED:
        (void)snprintf(text, sizeof(text), "application %s %s", ev->app,
                       ev->type == APP_STARTED   ? "started"
                       : ev->type == APP_STOPPED ? "stopped"
                                                 : "restarted");
        endpoint_note(ep, ev->duration_ms * NS_PER_MS, text);
        return;
    case APP_DIED:
    case APP_NOTE:
        (void)snprintf(text, sizeof(text), "application %s: %s", ev->app, ev->text ? ev->text : "");
        endpoint_note(ep, -1, text);
        return;
    }
}

void endpoint_on_app_output(void *context, const char *app, const char *line)
{
    struct endpoint *ep = context;
    log_info("pair %s: %s: %s", ep->pair->pair, app, line);
}
