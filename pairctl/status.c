// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "pairctl/pairctl.h"

#define WATCH_MS 1000

// One end: an object. Several: an array.
static int print_json(const struct ends *ends, bool pretty)
{
    CLEANUP_FREE const struct pair_status **list = calloc(ends->count + 1, sizeof(*list));
    if (!list)
        return EXIT_FAILED;
    for (size_t i = 0; i < ends->count; i++)
        list[i] = &ends->items[i].status;
    CLEANUP_FREE char *json = ends->count == 1 ? status_to_json(list[0], pretty)
                                               : status_list_to_json(list, ends->count, pretty);
    if (!json)
        return EXIT_FAILED;
    (void)printf("%s\n", json);
    return EXIT_DONE;
}

static int print_once(const struct options *options)
{
    struct ends ends;
    struct error err = {0};
    if (ends_gather(options, &ends, &err) < 0) {
        complain("%s", err.text);
        return EXIT_FAILED;
    }
    bool named = options->pair || options->end;
    int status = ends.broken ? EXIT_FAILED : EXIT_DONE;
    if (ends.daemons == 0 || (ends.count == 0 && (named || !options->json))) {
        ends_complain(&ends, options);
        status = ends.daemons && !named ? status : EXIT_FAILED;
    } else {
        if (ends.broken)
            complain("%s", ends.problem);
        if (options->json) {
            int r = print_json(&ends, !options->watch);
            status = r ? r : status;
        } else {
            show_ends(&ends, isatty(STDOUT_FILENO) == 1, stdout);
        }
    }
    ends_done(&ends);
    return status;
}

int command_status(const struct invocation *call)
{
    const struct options *o = &call->options;
    if (!o->watch)
        return print_once(o);
    bool clear = !o->json && isatty(STDOUT_FILENO) == 1;
    for (;;) {
        if (clear)
            (void)fputs("\033[H\033[J", stdout);
        (void)print_once(o); // a daemon that is away may come back
        if (!o->json && !clear)
            (void)fputc('\n', stdout);
        if (fflush(stdout) != 0)
            return EXIT_FAILED;
        pause_ms(WATCH_MS);
    }
}
