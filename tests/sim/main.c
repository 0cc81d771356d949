// SPDX-License-Identifier: Apache-2.0
// sim --seed N --runs M [--trace] [--mode async|sync|strict] [--cover]
#include "tests/sim/sim.h"

#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TRACE_TAIL 60

static uint64_t seed_now;
static bool recording;
static int mode_now = -1;

// An invariant of the code under test broke. The run is had again, with what led to it.
static void on_abort(int signal)
{
    static const char *const modes[] = {"async", "sync", "strict"};
    char seed[32];
    (void)signal;
    if (recording) {
        trace_dump(stdout, TRACE_TAIL);
        printf("ABORTED: an invariant does not hold; seed %llu\n", (unsigned long long)seed_now);
        fflush(stdout);
        _exit(1);
    }
    (void)snprintf(seed, sizeof(seed), "%llu", (unsigned long long)seed_now);
    (void)execl("/proc/self/exe", "sim", "--seed", seed, "--runs", "1", "--tail",
                mode_now < 0 ? NULL : "--mode", mode_now < 0 ? NULL : modes[mode_now], NULL);
    _exit(1);
}

static double seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int mode_of(const char *name)
{
    static const char *const names[] = {"async", "sync", "strict"};
    for (int i = 0; i < 3; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    fprintf(stderr, "sim: unknown mode %s\n", name);
    exit(2);
}

struct options {
    uint64_t seed, runs;
    int mode;
    bool keep_going, cover, trace, tail;
};

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},    {"runs", required_argument, NULL, 'r'},
        {"trace", no_argument, NULL, 't'},         {"mode", required_argument, NULL, 'm'},
        {"keep-going", no_argument, NULL, 'k'},    {"cover", no_argument, NULL, 'c'},
        {"tail", no_argument, NULL, 'T'},          {0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 's')
            o->seed = strtoull(optarg, NULL, 0);
        else if (c == 'r')
            o->runs = strtoull(optarg, NULL, 0);
        else if (c == 't')
            o->trace = true;
        else if (c == 'm')
            o->mode = mode_of(optarg);
        else if (c == 'k')
            o->keep_going = true;
        else if (c == 'c')
            o->cover = true;
        else if (c == 'T')
            o->tail = true;
        else
            exit(2);
    }
}

// Again, with what led to the failure.
static void show_failure(struct sim *s, const struct options *o)
{
    if (!o->trace) {
        sim_free(s);
        recording = true;
        sim_run(s, seed_now, o->mode, false, true);
        trace_dump(stdout, TRACE_TAIL);
        recording = o->tail;
    }
    printf("FAILED: %s\nseed %llu: sim --seed %llu --runs 1 --trace%s\n", s->verdict,
           (unsigned long long)seed_now, (unsigned long long)seed_now,
           o->mode < 0 ? "" : " (and the same mode)");
}

// Nearly all that a run takes from the system is memory, the same again and again.
static void keep_memory(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 200 << 10);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    (void)mallopt(M_TOP_PAD, 16 << 20);
}

int main(int argc, char **argv)
{
    struct options o = {.seed = (uint64_t)time(NULL), .runs = 300, .mode = -1};
    uint64_t failures = 0;
    double began = seconds();
    keep_memory();
    parse(argc, argv, &o);
    recording = o.trace || o.tail;
    mode_now = o.mode;
    (void)signal(SIGABRT, on_abort);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    struct sim *s = malloc(sizeof(*s));
    ENSURE(s);
    for (uint64_t i = 0; i < o.runs; i++) {
        seed_now = o.seed + i;
        sim_run(s, seed_now, o.mode, o.trace, recording);
        bool failed = s->failed;
        if (failed && o.keep_going)
            printf("seed %llu: %s\n", (unsigned long long)seed_now, s->verdict);
        else if (failed)
            show_failure(s, &o);
        sim_free(s);
        failures += failed;
        if (failed && !o.keep_going)
            break;
    }
    free(s);
    bool whole = cover_print(stdout, seconds() - began, o.cover);
    printf("seeds from %llu: %s\n", (unsigned long long)o.seed,
           failures ? "FAILED" : whole ? "all runs are as they should be" : "something was never met");
    return failures || !whole;
}
