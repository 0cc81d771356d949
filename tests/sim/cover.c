// SPDX-License-Identifier: Apache-2.0
// What was met in all runs together, and what should have been: every transition of the role table, every rule by which
// two ends meet, every rung that the queues have, each kind of fault in the middle of each thing that takes several steps.
#include "tests/sim/sim.h"

#include <string.h>
#include <time.h>

#define COUNTS_MAX 64
#define RULES_MAX  32

static struct {
    uint64_t runs, steps, fed, writes, answers;
    uint64_t transitions[END_STATE_COUNT][END_STATE_COUNT];
    uint64_t rules[RULES_MAX];
    uint64_t faults[FAULT_KINDS];
    uint64_t in_step[FAULT_KINDS][STEPS];
    uint64_t opened[EPOCH_REASON_END];
    struct {
        char name[60];
        uint64_t count;
    } counts[COUNTS_MAX];
} cover;

const char *fault_name(enum fault_kind kind)
{
    static const char *const names[FAULT_KINDS] = {
        [FAULT_KILL] = "daemon killed",
        [FAULT_TERMINATE] = "SIGTERM",
        [FAULT_CRASH] = "power loss",
        [FAULT_CRASH_BOTH] = "power loss, both",
        [FAULT_CUT] = "channel cut",
        [FAULT_CUT_ONE_WAY] = "one-way cut",
        [FAULT_CUT_DATA] = "data link cut",
        [FAULT_CUT_PUBLIC] = "public cut",
        [FAULT_ISOLATE] = "isolated",
        [FAULT_BLINK] = "public blinks",
        [FAULT_LATE] = "late frames",
        [FAULT_STALL] = "daemon stalls",
        [FAULT_PAUSE_HOST] = "machine stalls",
        [FAULT_SLOW_DISK] = "slow disks",
        [FAULT_SAVE] = "state disk errors",
        [FAULT_STORE] = "store errors",
        [FAULT_QUEUE_DISK] = "safe queue errors",
        [FAULT_QUEUE_FULL] = "safe queue's disk full",
        [FAULT_QUEUE_ROT] = "safe queue rots",
        [FAULT_MAP_ROT] = "an intent map rots",
        [FAULT_SPILL_ROT] = "what was spilled rots",
        [FAULT_STATE_ROT] = "a state copy rots",
        [FAULT_STATE_LOST] = "both state copies rot",
        [FAULT_WIPE] = "disk replaced",
        [FAULT_BURST] = "burst of writes",
        [FAULT_CLOCK] = "wall clock is set",
        [FAULT_OPERATOR] = "operator",
        [FAULT_FORCE] = "operator overrides",
    };
    return names[kind];
}

static const char *const step_names[STEPS] = {
    [STEP_MEETING] = "meeting",          [STEP_TAKEOVER] = "takeover",
    [STEP_HANDOVER] = "handover",        [STEP_GOING_ALONE] = "going alone",
    [STEP_RESYNC] = "resync",
};

// Rungs of the queues, fates of the state and of salvages, words of the guards: each is to be met.
static const char *const rungs[] = {
    "unsafe queue: half full",
    "unsafe queue: three quarters full",
    "unsafe queue: full, the peer's place is given up",
    "unsafe queue: full, what it holds is streamed",
    "unsafe queue: of an epoch that was being saved",
    "spill: records to disk",
    "spill: blocks read back",
    "spill: half full",
    "spill: three quarters full",
    "spill: the disk takes nothing",
    "spill: the disk takes something again",
    "spill: lost",
    "writers are held: throttle",
    "writers are held: suspend",
    "writers are held: flushes would wait",
    "safe queue: full",
    "a rotten tail, and its replica does not open",
    "a rotten tail, and its replica fails",
    "state: one copy is made good from the other",
    "state: unreadable",
    "salvages that say that they are in doubt",
    "guard: a goodbye is heard",
    "guard: a goodbye is heard too late",
    "public address: had to wait",
    "public address: another wish came meanwhile",
    "public address: stays on",
    "public address: the guard takes off what stayed on",
};

// What only a state that was put back by hand, from a backup, could bring about: whoever becomes active opens an epoch of
// its own, whoever follows, follows an end whose role is durable, and no role ends but by following. And an end that is
// stopped does not meet. The table is total all the same.
static const char *const unmet[] = {
    "one epoch, both were active",
    "one epoch, neither was active",
    "the one ahead was not active",
    "stopped",
};

void cover_transition(enum end_role_state from, enum end_role_state to)
{
    cover.transitions[from][to]++;
}

void cover_meet(const char *rule)
{
    for (unsigned i = 0; rule && i < meet_rule_count; i++)
        if (meet_rules[i].name == rule)
            cover.rules[i]++;
}

void cover_fault(const struct host *h, enum fault_kind kind)
{
    unsigned steps = host_steps(h) | host_steps(&h->sim->host[1 - h->index]);
    cover.faults[kind]++;
    for (unsigned i = 0; i < STEPS; i++)
        cover.in_step[kind][i] += steps >> i & 1;
}

void cover_takeover(enum epoch_reason reason)
{
    cover.opened[reason]++;
}

void cover_run(const struct sim *s)
{
    cover.runs++;
    cover.steps += s->steps;
    cover.fed += s->fed;
    cover.writes += s->ledger.write_count - 1;
    cover.answers += s->ledger.answers;
}

void cover_count(const char *what)
{
    for (unsigned i = 0; i < COUNTS_MAX; i++) {
        if (!cover.counts[i].count)
            (void)snprintf(cover.counts[i].name, sizeof(cover.counts[i].name), "%s", what);
        if (strcmp(cover.counts[i].name, what) != 0)
            continue;
        cover.counts[i].count++;
        return;
    }
}

static uint64_t count_of(const char *what)
{
    for (unsigned i = 0; i < COUNTS_MAX && cover.counts[i].count; i++)
        if (strcmp(cover.counts[i].name, what) == 0)
            return cover.counts[i].count;
    return 0;
}

static bool cannot_be(const char *rule)
{
    for (size_t i = 0; i < ARRAY_LEN(unmet); i++)
        if (strcmp(rule, unmet[i]) == 0)
            return true;
    return false;
}

static bool print_line(FILE *to, uint64_t count, const char *what, bool needed)
{
    bool lacks = needed && !count;
    fprintf(to, "  %9llu  %s%s\n", (unsigned long long)count, what,
            lacks     ? "   <-- NEVER"
            : !needed ? "   (cannot be)"
                      : "");
    return !lacks;
}

static bool print_table(FILE *to)
{
    bool whole = true;
    char text[80];
    fprintf(to, "\nrole transitions:\n");
    for (unsigned a = 0; a < END_STATE_COUNT; a++)
        for (unsigned b = 0; b < END_STATE_COUNT; b++) {
            if (!end_may_go((enum end_role_state)a, (enum end_role_state)b))
                continue;
            (void)snprintf(text, sizeof(text), "%s -> %s", end_state_name((enum end_role_state)a),
                           end_state_name((enum end_role_state)b));
            whole &= print_line(to, cover.transitions[a][b], text, true);
        }
    fprintf(to, "\nmeetings, by rule:\n");
    for (unsigned i = 0; i < meet_rule_count; i++)
        whole &= print_line(to, cover.rules[i], meet_rules[i].name, !cannot_be(meet_rules[i].name));
    fprintf(to, "\nrungs of the queues, fates of the state and of salvages, words of the guards:\n");
    for (size_t i = 0; i < ARRAY_LEN(rungs); i++)
        whole &= print_line(to, count_of(rungs[i]), rungs[i], true);
    return whole;
}

static bool print_faults(FILE *to)
{
    bool whole = true;
    fprintf(to, "\nfaults, and in the middle of what:\n  %-24s%12s", "", "all");
    for (unsigned i = 0; i < STEPS; i++)
        fprintf(to, "%12s", step_names[i]);
    for (unsigned k = 0; k < FAULT_KINDS; k++) {
        fprintf(to, "\n  %-24s%12llu", fault_name((enum fault_kind)k),
                (unsigned long long)cover.faults[k]);
        bool lacks = false;
        for (unsigned i = 0; i < STEPS; i++) {
            fprintf(to, "%12llu", (unsigned long long)cover.in_step[k][i]);
            lacks |= !cover.in_step[k][i];
        }
        fprintf(to, lacks ? "   <-- NEVER" : "");
        whole &= !lacks;
    }
    fprintf(to, "\n");
    return whole;
}

static double cpu_seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

bool cover_print(FILE *to, double seconds, bool full)
{
    double runs = (double)cover.runs;
    fprintf(to, "runs %llu, %.0f/s, %.0f a second of CPU; a run: %.0f events of the ends, %.0f writes, "
                "%.0f answered, %.0f steps\n",
            (unsigned long long)cover.runs, runs / seconds, runs / cpu_seconds(),
            (double)cover.fed / runs, (double)cover.writes / runs, (double)cover.answers / runs,
            (double)cover.steps / runs);
    fprintf(to, "epochs opened with exports: takeovers %llu, switchovers %llu, first starts %llu, "
                "lost queues %llu\n",
            (unsigned long long)cover.opened[EPOCH_TAKEOVER],
            (unsigned long long)cover.opened[EPOCH_SWITCH],
            (unsigned long long)cover.opened[EPOCH_FIRST_START],
            (unsigned long long)cover.opened[EPOCH_LOST_QUEUE]);
    for (unsigned i = 0; i < COUNTS_MAX && cover.counts[i].count; i++)
        fprintf(to, "%s %llu\n", cover.counts[i].name, (unsigned long long)cover.counts[i].count);
    if (!full)
        return true;
    bool whole = print_table(to);
    whole &= print_faults(to);
    return whole;
}
