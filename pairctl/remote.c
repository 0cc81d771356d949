// SPDX-License-Identifier: Apache-2.0
// Commands that a daemon carries out. What takes longer runs there as an operation; its steps are
// shown until it ends.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "pairctl/pairctl.h"

#define POLL_MS     100
#define PATIENCE_MS 10000 // with a daemon that has gone away in the middle: it may be a restart

static int add_flag(struct control_request *request, const char *name, bool set)
{
    return set ? control_request_add(request, name, "true") : 0;
}

static int make_request(const struct invocation *call, const struct end *end,
                        struct control_request *ret)
{
    const struct options *o = &call->options;
    *ret = (struct control_request){0};
    (void)snprintf(ret->pair, sizeof(ret->pair), "%s", end->status.pair);
    (void)snprintf(ret->command, sizeof(ret->command), "%s", call->command->name);
    int r = o->force ? control_request_add(ret, "force", o->force) : 0;
    if (r == 0)
        r = add_flag(ret, "accept-inconsistent", o->accept_inconsistent);
    if (r == 0)
        r = add_flag(ret, "replay", o->replay);
    if (r == 0)
        r = add_flag(ret, "repair", o->repair);
    if (r == 0 && o->keep)
        r = control_request_add(ret, "keep", o->keep);
    if (r < 0)
        complain("an argument is too long");
    return r;
}

// What the end says now; -EAGAIN when nobody answers just now.
static int look(const struct end *end, struct pair_status **ret_status)
{
    struct control_request request = {.command = "status"};
    struct control_reply reply = {0};
    struct error err = {0};
    size_t count = 0;
    (void)snprintf(request.pair, sizeof(request.pair), "%s", end->status.pair);
    if (control_call(end->socket, &request, CALL_TIMEOUT_MS, &reply, &err) < 0)
        return -EAGAIN;
    int r = reply.code < 0 || !reply.json ? -EAGAIN
                                          : status_from_json(reply.json, ret_status, &count, &err);
    control_reply_done(&reply);
    if (r == 0 && count != 1) {
        free(*ret_status);
        *ret_status = NULL;
        r = -EAGAIN;
    }
    return r;
}

struct watch {
    const struct invocation *call;
    const struct end *end;
    uint64_t id;
    int64_t start_ns;
    int64_t seen_ns;
    struct status_operation last;
};

static void print_step(const struct watch *w, const struct status_operation *now)
{
    char clean[STATUS_TEXT_SIZE];
    if (w->call->options.json || strcmp(now->text, w->last.text) == 0 || !now->text[0])
        return;
    (void)printf("%7.3f s  %s\n", (double)(clock_boot_ns() - w->start_ns) / 1e9,
                 format_clean(now->text, clean, sizeof(clean)));
    (void)fflush(stdout);
}

// What spoke against a takeover, what was overridden, and what the operator gets.
static void print_verdict(const struct watch *w, const struct status_operation *o, FILE *out)
{
    char name[STATUS_WORD_SIZE], text[STATUS_TEXT_SIZE];
    if (w->call->options.json)
        return;
    for (size_t i = 0; i < o->veto_count; i++)
        (void)fprintf(out, "  %-12s %s%s\n", format_clean(o->vetoes[i].name, name, sizeof(name)),
                      format_clean(o->vetoes[i].text, text, sizeof(text)), o->vetoes[i].overridden ? " (overridden)" : "");
    if (o->age[0])
        (void)fprintf(out, "  what you get: %s\n", format_clean(o->age, text, sizeof(text)));
    if (o->override[0])
        (void)fprintf(out, "  to take over all the same: pairctl -p %s takeover %s\n", w->end->status.pair,
                      format_clean(o->override, text, sizeof(text)));
    (void)fflush(out);
}

static void print_json(const struct watch *w, const struct status_operation *o)
{
    CLEANUP_FREE char *json = w->call->options.json ? status_operation_to_json(o) : NULL;
    if (json)
        (void)printf("%s\n", json);
}

// One look. Returns 0 to go on, 1 when it has ended well, -1 when it has not (and says why).
static int watch_once(struct watch *w)
{
    CLEANUP_FREE struct pair_status *status = NULL;
    if (look(w->end, &status) < 0) {
        if (clock_boot_ns() - w->seen_ns < PATIENCE_MS * NS_PER_MS)
            return 0;
        complain("%s: the daemon no longer answers; pairctl status and history tell how it ended",
                 w->end->status.pair);
        return -1;
    }
    w->seen_ns = clock_boot_ns();
    const struct status_operation *now = &status->operation;
    if (now->id != w->id || status->run != w->end->status.run) {
        complain("%s: the daemon has been restarted, or does something else now; pairctl history "
                 "tells how it ended",
                 w->end->status.pair);
        return -1;
    }
    print_step(w, now);
    w->last = *now;
    if (strcmp(now->state, "running") == 0)
        return 0;
    print_json(w, now);
    if (strcmp(now->state, "done") == 0) {
        print_verdict(w, now, stdout);
        return 1;
    }
    complain("%s: %s failed: %s", w->end->status.pair, now->name, now->text);
    print_verdict(w, now, stderr);
    return -1;
}

static int watch_operation(struct watch *w)
{
    double limit_s = w->call->options.timeout_s;
    w->start_ns = w->seen_ns = clock_boot_ns();
    int r;
    while ((r = watch_once(w)) == 0) {
        if (limit_s > 0 && (double)(clock_boot_ns() - w->start_ns) > limit_s * 1e9) {
            complain("%s: still running after %g s; it goes on: %s", w->end->status.pair, limit_s,
                     w->last.text);
            return EXIT_FAILED;
        }
        pause_ms(POLL_MS);
    }
    return r > 0 ? EXIT_DONE : EXIT_FAILED;
}

static void print_reply(const struct invocation *call, const struct control_reply *reply)
{
    char clean[sizeof(reply->text)];
    if (call->options.json && reply->operation)
        return; // it is shown when it has ended
    if (call->options.json)
        (void)printf("%s\n", reply->json ? reply->json : "{}");
    else if (reply->text[0])
        (void)printf("%s\n", format_clean(reply->text, clean, sizeof(clean)));
    (void)fflush(stdout);
}

// Has the daemon begin. Returns an exit status; *ret_operation is what to watch then, 0: it is done.
static int start(const struct invocation *call, const struct end *end, uint64_t *ret_operation)
{
    struct control_request request;
    struct control_reply reply = {0};
    struct error err = {0};
    *ret_operation = 0;
    if (make_request(call, end, &request) < 0)
        return EXIT_USAGE;
    if (control_call(end->socket, &request, CALL_TIMEOUT_MS, &reply, &err) < 0) {
        complain("%s", err.text);
        return EXIT_FAILED;
    }
    int status = reply.code < 0 ? EXIT_FAILED : EXIT_DONE;
    if (reply.code < 0)
        complain("%s: %s", end->status.pair, reply.text);
    else
        print_reply(call, &reply);
    if (reply.code >= 0)
        *ret_operation = reply.operation;
    control_reply_done(&reply);
    return status;
}

static int perform(const struct invocation *call, const struct end *end)
{
    uint64_t operation;
    int status = start(call, end, &operation);
    if (!operation)
        return status;
    struct watch w = {.call = call, .end = end, .id = operation};
    return watch_operation(&w);
}

int command_remote(const struct invocation *call)
{
    return ends_run(call, perform);
}

// All begin at once, since a shutdown does not wait for ever.
int command_shutdown(const struct invocation *call)
{
    struct ends ends;
    struct error err = {0};
    if (ends_gather(&call->options, &ends, &err) < 0) {
        complain("%s", err.text);
        return EXIT_FAILED;
    }
    CLEANUP_FREE uint64_t *operations = calloc(MAX(ends.count, (size_t)1), sizeof(*operations));
    bool failed = !operations || ends.count == 0;
    if (ends.count == 0)
        ends_complain(&ends, &call->options);
    for (size_t i = 0; operations && i < ends.count; i++)
        failed |= start(call, &ends.items[i], &operations[i]) != EXIT_DONE;
    for (size_t i = 0; operations && i < ends.count; i++) {
        struct watch w = {.call = call, .end = &ends.items[i], .id = operations[i]};
        if (operations[i])
            failed |= watch_operation(&w) != EXIT_DONE;
    }
    ends_done(&ends);
    return failed ? EXIT_FAILED : EXIT_DONE;
}
