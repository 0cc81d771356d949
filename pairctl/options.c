// SPDX-License-Identifier: Apache-2.0
// Options may stand before and behind the command, and before and behind its arguments.
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "pairctl/pairctl.h"

#define TIMEOUT_MAX_S 1e7

static const struct option {
    const char *letter; // NULL: none
    const char *name;
    bool takes_value;
    size_t offset;
    unsigned bit;  // 0: for every command
    bool may_list; // a flag, or a list behind "="
} known[] = {
    {"-p", "--pair", true, offsetof(struct options, pair), OPTION_PLACE},
    {NULL, "--end", true, offsetof(struct options, end), OPTION_PLACE},
    {NULL, "--runtime-dir", true, offsetof(struct options, runtime_dir), OPTION_PLACE},
    {NULL, "--state-dir", true, offsetof(struct options, state_dir), OPTION_STATE},
    {NULL, "--image", false, offsetof(struct options, image), OPTION_IMAGE},
    {NULL, "--host", true, offsetof(struct options, host), OPTION_HOST},
    {NULL, "--keep", true, offsetof(struct options, keep), OPTION_KEEP},
    {NULL, "--timeout", true, offsetof(struct options, timeout_s), OPTION_TIMEOUT},
    {NULL, "--json", false, offsetof(struct options, json), OPTION_JSON},
    {NULL, "--watch", false, offsetof(struct options, watch), OPTION_WATCH},
    {NULL, "--force", false, offsetof(struct options, force), OPTION_FORCE, true},
    {NULL, "--accept-inconsistent", false, offsetof(struct options, accept_inconsistent),
     OPTION_ACCEPT},
    {NULL, "--replay", false, offsetof(struct options, replay), OPTION_REPLAY},
    {NULL, "--repair", false, offsetof(struct options, repair), OPTION_REPAIR},
    {"-h", "--help", false, offsetof(struct options, help), 0},
    {"-V", "--version", false, offsetof(struct options, version), 0},
};

static int usage(const char *what, const char *of)
{
    complain("%s \"%s\"; see pairctl --help", what, of);
    return EXIT_USAGE;
}

// The option that `arg` names; *ret_value is what follows "=" in it, or NULL.
static const struct option *find_option(const char *arg, const char **ret_value)
{
    *ret_value = NULL;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        const struct option *o = &known[i];
        size_t length = strlen(o->name);
        if ((o->letter && strcmp(arg, o->letter) == 0) || strcmp(arg, o->name) == 0)
            return o;
        if ((o->takes_value || o->may_list) && strncmp(arg, o->name, length) == 0 && arg[length] == '=') {
            *ret_value = arg + length + 1;
            return o;
        }
    }
    return NULL;
}

static int set_timeout(const char *value, double *ret_seconds)
{
    char *end;
    double seconds = strtod(value, &end);
    if (*end || end == value || !(seconds > 0 && seconds <= TIMEOUT_MAX_S))
        return usage("not a number of seconds:", value);
    *ret_seconds = seconds;
    return 0;
}

static int set_option(const struct option *o, const char *value, struct options *options)
{
    void *to = (char *)options + o->offset;
    if (o->may_list)
        *(const char **)to = value ? value : "true";
    else if (!o->takes_value)
        *(bool *)to = true;
    else if (o->bit == OPTION_TIMEOUT)
        return set_timeout(value, to);
    else
        *(const char **)to = value;
    return 0;
}

// One argument, and perhaps the next one as its value. Returns how many were used, or a negative
// exit status.
static int take(char **argv, struct invocation *call, unsigned *used)
{
    const char *value;
    if (argv[0][0] == '-' && argv[0][1]) {
        const struct option *o = find_option(argv[0], &value);
        if (!o)
            return -usage("unknown option", argv[0]);
        bool next = o->takes_value && !value;
        if (next && !(value = argv[1]))
            return -usage("a value is missing behind", argv[0]);
        *used |= o->bit;
        int r = set_option(o, value, &call->options);
        return r ? -r : 1 + next;
    }
    if (!call->command) {
        call->command = grammar_find(argv[0]);
        return call->command ? 1 : -usage("unknown command", argv[0]);
    }
    if (call->arg_count == ARGS_MAX)
        return -usage("too many arguments from", argv[0]);
    call->args[call->arg_count++] = argv[0];
    return 1;
}

static int check_end(const char *end, const char *option)
{
    if (!end || strcmp(end, "primary") == 0 || strcmp(end, "secondary") == 0)
        return 0;
    complain("%s is primary or secondary, not \"%s\"", option, end);
    return EXIT_USAGE;
}

static int check_call(const struct invocation *call, unsigned used)
{
    const struct command *c = call->command;
    if (!c) {
        complain("which command? See pairctl --help");
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (known[i].bit & used & ~c->options) {
            complain("%s has no option %s", c->name, known[i].name);
            return EXIT_USAGE;
        }
    }
    if (call->arg_count < c->args_min || call->arg_count > c->args_max) {
        complain("usage: pairctl %s %s", c->name, c->usage);
        return EXIT_USAGE;
    }
    if ((c->options & OPTION_KEEP) && !call->options.keep) {
        complain("usage: pairctl %s %s", c->name, c->usage);
        return EXIT_USAGE;
    }
    const char *force = call->options.force;
    if (force && strcmp(force, "true") == 0 && call->options.accept_inconsistent) {
        complain("--force and --accept-inconsistent exclude each other; name what --force overrides: --force=NAME,...");
        return EXIT_USAGE;
    }
    if (force && !force[0])
        return usage("a veto's name is missing behind", "--force=");
    int r = check_end(call->options.end, "--end");
    return r ? r : check_end(call->options.keep, "--keep");
}

int options_parse(int argc, char **argv, struct invocation *ret_call)
{
    unsigned used = 0;
    *ret_call = (struct invocation){.options.runtime_dir = PLACES_RUNTIME_DIR,
                                     .options.state_dir = PLACES_STATE_DIR};
    for (int i = 1; i < argc;) {
        int n = take(argv + i, ret_call, &used);
        if (n < 0)
            return -n;
        i += n;
    }
    if (ret_call->options.help || ret_call->options.version)
        return 0;
    return check_call(ret_call, used);
}
