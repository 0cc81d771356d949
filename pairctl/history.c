// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "pairctl/pairctl.h"

static void print_loss(const struct status_loss *loss)
{
    char bytes[FORMAT_SIZE], age[FORMAT_SIZE];
    if (!loss->known)
        return;
    const char *more = loss->more ? ", and whatever was acknowledged after that" : "";
    if (loss->records == 0 && loss->bytes == 0 && loss->more)
        (void)printf("; lost is whatever was acknowledged after that");
    else if (loss->records == 0 && loss->bytes == 0)
        (void)printf("; nothing was lost");
    else
        (void)printf("; lost %" PRIu64 " records, %s, the oldest %s old%s", loss->records,
                     format_bytes(loss->bytes, bytes), format_ms(loss->age_ms, age), more);
}

static void print_event(const struct status_event *event)
{
    char time[FORMAT_SIZE], took[FORMAT_SIZE] = "", clean[STATUS_TEXT_SIZE], step[STATUS_WORD_SIZE];
    if (event->ms >= 0)
        (void)format_ms(event->ms, took);
    (void)printf("%s  %-20s %9s  %s", format_time(event->real_ms, time),
                 format_clean(event->step, step, sizeof(step)), took,
                 format_clean(event->text, clean, sizeof(clean)));
    if (event->count > 1)
        (void)printf(" (%" PRIu32 " times)", event->count);
    print_loss(&event->loss);
    (void)fputc('\n', stdout);
}

static int print_history(const struct invocation *call, const char *json)
{
    struct error err = {0};
    CLEANUP_FREE struct status_event *events = NULL;
    size_t count = 0;
    if (!json)
        json = "[]";
    if (call->options.json) {
        (void)printf("%s\n", json);
        return EXIT_DONE;
    }
    if (history_from_json(json, &events, &count, &err) < 0) {
        complain("unreadable history: %s", err.text);
        return EXIT_FAILED;
    }
    for (size_t i = 0; i < count; i++)
        print_event(&events[i]);
    return EXIT_DONE;
}

static int ask(const struct invocation *call, const struct end *end)
{
    struct control_request request = {.command = "history"};
    struct control_reply reply = {0};
    struct error err = {0};
    (void)snprintf(request.pair, sizeof(request.pair), "%s", end->status.pair);
    if (control_call(end->socket, &request, CALL_TIMEOUT_MS, &reply, &err) < 0) {
        complain("%s", err.text);
        return EXIT_FAILED;
    }
    int status = EXIT_FAILED;
    if (reply.code < 0)
        complain("%s: %s", end->status.pair, reply.text);
    else
        status = print_history(call, reply.json);
    control_reply_done(&reply);
    return status;
}

int command_history(const struct invocation *call)
{
    return ends_run(call, ask);
}
