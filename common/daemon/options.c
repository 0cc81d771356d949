// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/options.h"

#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/config/places.h"
#include "config.h"

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"state-dir", required_argument, NULL, 's'},
    {"runtime-dir", required_argument, NULL, 'r'},
    {"host", required_argument, NULL, 'H'},
    {"guard", required_argument, NULL, 'g'},
    {"foreground", no_argument, NULL, 'f'},
    {"log-level", required_argument, NULL, 'l'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_help(const char *program, enum pair_end kind)
{
    printf("Usage: %s [OPTION]...\n"
           "Runs the %s ends of all pairs whose pair file names this host.\n\n"
           "  --config PATH        pair file, or directory of pair files (%s)\n"
           "  --state-dir DIR      safe queues and state (%s)\n"
           "  --runtime-dir DIR    unsafe queues, exports, control socket; on tmpfs (%s)\n"
           "  --host NAME          this machine's name in the pair files (as hostname prints it)\n"
           "  --guard PATH         the guard's binary\n"
           "  --foreground         stay in the foreground (it always does; for service files)\n"
           "  --log-level LEVEL    error, warning, info (default) or debug\n"
           "  --version            print the version\n"
           "  --help               print this\n",
           program, kind == PAIR_PRIMARY ? "Primary" : "Secondary", PLACES_CONFIG_DIR,
           PLACES_STATE_DIR, PLACES_RUNTIME_DIR);
}

// Where the guard is: beside an installed daemon's libexec, or in the build tree of one that is not
// installed.
static const char *find_guard(void)
{
    static char path[PATH_SIZE];
    char self[PATH_SIZE];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n > 0) {
        self[n] = '\0';
        if (path_format(path, sizeof(path), "%s/../guard/understudy-guard", dirname(self)) == 0 &&
            access(path, X_OK) == 0)
            return path;
    }
    return LIBEXECDIR "/understudy-guard";
}

int options_parse(struct options *o, enum pair_end kind, int argc, char **argv)
{
    *o = (struct options){
        .program = kind == PAIR_PRIMARY ? "primaryd" : "secondaryd",
        .config = PLACES_CONFIG_DIR,
        .state_dir = PLACES_STATE_DIR,
        .runtime_dir = PLACES_RUNTIME_DIR,
        .guard = find_guard(),
        .level = LOG_LEVEL_INFO,
    };
    (void)gethostname(o->host, sizeof(o->host) - 1);
    int c;
    while ((c = getopt_long(argc, argv, "hV", long_options, NULL)) != -1) {
        switch (c) {
        case 'c':
            o->config = optarg;
            break;
        case 's':
            o->state_dir = optarg;
            break;
        case 'r':
            o->runtime_dir = optarg;
            break;
        case 'H':
            (void)snprintf(o->host, sizeof(o->host), "%s", optarg);
            break;
        case 'g':
            o->guard = optarg;
            break;
        case 'f':
            break;
        case 'l':
            if (log_level_parse(optarg, &o->level) < 0) {
                fprintf(stderr, "%s: --log-level %s: error, warning, info or debug\n", o->program,
                        optarg);
                return 2;
            }
            break;
        case 'V':
            printf("%s %s\n", o->program, PACKAGE_VERSION);
            return 0;
        case 'h':
            print_help(o->program, kind);
            return 0;
        default:
            fprintf(stderr, "Try '%s --help'.\n", o->program);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "%s: unexpected argument %s\n", o->program, argv[optind]);
        return 2;
    }
    return -1;
}
