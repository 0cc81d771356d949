// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "pairctl/pairctl.h"

static void note_problem(struct ends *ends, const char *text)
{
    size_t used = strlen(ends->problem);
    (void)snprintf(ends->problem + used, sizeof(ends->problem) - used, "%s%s", used ? "; " : "",
                   text);
}

static bool wanted(const struct options *options, const struct pair_status *status)
{
    return (!options->pair || strcmp(options->pair, status->pair) == 0) &&
           (!options->end || strcmp(options->end, status->identity) == 0);
}

static int add(struct ends *ends, const char *socket, const struct pair_status *status,
               struct error *err)
{
    struct end *items = reallocarray(ends->items, ends->count + 1, sizeof(*items));
    if (!items)
        return error_set(err, -ENOMEM, "out of memory");
    ends->items = items;
    struct end *end = &items[ends->count++];
    (void)snprintf(end->socket, sizeof(end->socket), "%s", socket);
    end->status = *status;
    return 0;
}

static int add_all(struct ends *ends, const struct options *options, const char *socket,
                   const char *json, struct error *err)
{
    struct pair_status *list = NULL;
    size_t count = 0;
    int r = status_from_json(json ? json : "[]", &list, &count, err);
    if (r < 0)
        return error_prefix(err, "%s: unreadable status", socket);
    for (size_t i = 0; i < count && r == 0; i++) {
        if (wanted(options, &list[i]))
            r = add(ends, socket, &list[i], err);
    }
    free(list);
    return r;
}

// Asks for all pairs, so that a pair that is not here can be told from a daemon that is not.
static int ask(struct ends *ends, const struct options *options, const char *socket,
               struct error *err)
{
    struct control_request request = {.command = "status"};
    struct control_reply reply = {0};
    int r = control_call(socket, &request, CALL_TIMEOUT_MS, &reply, err);
    if (r == -ENOENT || r == -ECONNREFUSED) {
        note_problem(ends, err->text);
        return 0;
    }
    if (r == 0 && reply.code < 0)
        r = error_set(err, reply.code, "%s: %s", socket, reply.text);
    if (r == 0)
        r = add_all(ends, options, socket, reply.json, err);
    control_reply_done(&reply);
    if (r < 0) {
        note_problem(ends, err->text);
        ends->broken++;
        return 0;
    }
    ends->daemons++;
    return 0;
}

int ends_gather(const struct options *options, struct ends *ret, struct error *err)
{
    *ret = (struct ends){0};
    for (int daemon = PAIR_PRIMARY; daemon <= PAIR_SECONDARY; daemon++) {
        char socket[PLACES_SOCKET_MAX];
        int r = places_control(socket, sizeof(socket), options->runtime_dir, (enum pair_end)daemon);
        if (r < 0)
            return error_sys(err, r, "--runtime-dir %s", options->runtime_dir);
        r = ask(ret, options, socket, err);
        if (r < 0)
            return r;
    }
    return 0;
}

void ends_done(struct ends *ends)
{
    free(ends->items);
    *ends = (struct ends){0};
}

// A daemon that has the pair, and does not run it (yet), says why. Whether one did.
static bool complain_not_running(const struct options *options)
{
    bool said = false;
    for (int daemon = PAIR_PRIMARY; options->pair && daemon <= PAIR_SECONDARY; daemon++) {
        char socket[PLACES_SOCKET_MAX];
        struct control_request request = {.command = "status"};
        struct control_reply reply = {0};
        bool named = path_format(request.pair, sizeof(request.pair), "%s", options->pair) == 0;
        bool other = options->end && strcmp(options->end, pair_end_name((enum pair_end)daemon)) != 0;
        if (!named || other || places_control(socket, sizeof(socket), options->runtime_dir, (enum pair_end)daemon) < 0)
            continue;
        if (control_call(socket, &request, CALL_TIMEOUT_MS, &reply, NULL) == 0 && reply.code == -EAGAIN) {
            complain("%s", reply.text);
            said = true;
        }
        control_reply_done(&reply);
    }
    return said;
}

void ends_complain(const struct ends *ends, const struct options *options)
{
    if (ends->daemons == 0)
        complain("no daemon answers: %s", ends->problem);
    else if (complain_not_running(options))
        return;
    else if (options->pair || options->end)
        complain("no %s%send of %s%s on this machine; pairctl status shows what there is",
                 options->end ? options->end : "", options->end ? " " : "", options->pair ? "pair " : "any pair",
                 options->pair ? options->pair : "");
    else
        complain("the daemon has no pair: no pair file names this machine");
    if (ends->daemons && ends->broken)
        complain("%s", ends->problem);
}

static bool one_pair(const struct ends *ends)
{
    for (size_t i = 1; i < ends->count; i++) {
        if (strcmp(ends->items[i].status.pair, ends->items[0].status.pair) != 0)
            return false;
    }
    return true;
}

static void complain_several(const struct ends *ends)
{
    char names[512] = "";
    for (size_t i = 0; i < ends->count; i++) {
        size_t used = strlen(names);
        const char *name = ends->items[i].status.pair;
        (void)snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", name);
    }
    complain("there are several pairs here; name one with -p: %s", names);
}

const struct end *ends_choose(const struct ends *ends, const struct invocation *call, int *ret_exit)
{
    if (ends->count == 0) {
        ends_complain(ends, &call->options);
        *ret_exit = EXIT_FAILED;
        return NULL;
    }
    if (!one_pair(ends)) {
        complain_several(ends);
        *ret_exit = EXIT_USAGE;
        return NULL;
    }
    bool replay = call->options.replay; // which concerns what the passive end does
    const char *role = call->command->preference == PREFER_PASSIVE || replay ? "passive" : "active";
    for (size_t i = 0; i < ends->count; i++) {
        if (strcmp(ends->items[i].status.role, role) == 0)
            return &ends->items[i];
    }
    return &ends->items[0];
}

int ends_run(const struct invocation *call,
             int (*run)(const struct invocation *call, const struct end *end))
{
    struct ends ends;
    struct error err = {0};
    int status = EXIT_FAILED;
    if (ends_gather(&call->options, &ends, &err) < 0) {
        complain("%s", err.text);
        return EXIT_FAILED;
    }
    const struct end *end = ends_choose(&ends, call, &status);
    if (end)
        status = run(call, end);
    ends_done(&ends);
    return status;
}
