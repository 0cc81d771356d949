// SPDX-License-Identifier: Apache-2.0
// What was met in all runs together.
#include "tests/sim/sim.h"

#include <string.h>

#define COUNTS_MAX 32

static struct {
    uint64_t runs, steps, writes, answers;
    uint64_t transitions[END_STATE_COUNT][END_STATE_COUNT];
    uint64_t rows[MEET_ROW_COUNT];
    uint64_t faults[FAULT_KINDS][END_STATE_COUNT];
    uint64_t opened[EPOCH_REASON_END];
    struct {
        char name[60];
        uint64_t count;
    } counts[COUNTS_MAX];
} cover;

const char *fault_name(enum fault_kind kind)
{
    static const char *const names[FAULT_KINDS] = {
        "daemon killed",  "SIGTERM",        "power loss",     "power loss, both", "channel cut",
        "one-way cut",    "data link cut",  "public cut",     "isolated",         "public blinks",
        "daemon stalls",  "machine stalls", "state disk",     "store errors",     "replica errors",
        "queue disk",     "late frames",    "operator",
    };
    return names[kind];
}

void cover_transition(enum end_role_state from, enum end_role_state to)
{
    cover.transitions[from][to]++;
}

void cover_meet(enum meet_row row)
{
    cover.rows[row]++;
}

void cover_fault(enum fault_kind kind, enum end_role_state state)
{
    cover.faults[kind][state]++;
}

void cover_takeover(enum epoch_reason reason)
{
    cover.opened[reason]++;
}

void cover_run(const struct sim *s)
{
    cover.runs++;
    cover.steps += s->steps;
    cover.writes += s->ledger.write_count - 1;
    cover.answers += s->ledger.answers;
}

void cover_count(const char *what)
{
    for (unsigned i = 0; i < COUNTS_MAX; i++) {
        if (!cover.counts[i].count)
            (void)snprintf(cover.counts[i].name, sizeof(cover.counts[i].name), "%s", what);
        if (strncmp(cover.counts[i].name, what, sizeof(cover.counts[i].name) - 1) == 0) {
            cover.counts[i].count++;
            return;
        }
    }
}

// The arrows of the table in common/end/end.c that a run without operator's force can take.
static const enum end_role_state arrows[][2] = {
    {END_WAITING, END_PASSIVE},         {END_WAITING, END_TAKING_OVER},
    {END_PASSIVE, END_PROBING},         {END_PASSIVE, END_TAKING_OVER},
    {END_PROBING, END_PASSIVE},         {END_PROBING, END_TAKING_OVER},
    {END_TAKING_OVER, END_ACTIVE},      {END_TAKING_OVER, END_PASSIVE},
    {END_ACTIVE, END_SUSPENDED},        {END_ACTIVE, END_HANDING_OVER},
    {END_ACTIVE, END_PASSIVE},          {END_SUSPENDED, END_ACTIVE},
    {END_SUSPENDED, END_PASSIVE},       {END_HANDING_OVER, END_HANDED_OVER},
    {END_HANDING_OVER, END_ACTIVE},     {END_HANDING_OVER, END_SUSPENDED},
    {END_HANDED_OVER, END_PASSIVE},     {END_HANDED_OVER, END_TAKING_OVER},
    {END_HANDING_OVER, END_STOPPED},    {END_STOPPED, END_WAITING},
};
static const enum meet_row rows[] = {
    MEET_FIRST, MEET_ONE_EMPTY, MEET_RESUME,    MEET_BY_MAP,
    MEET_YIELD, MEET_HANDED,    MEET_NO_LEADER,
};

static bool print_table(FILE *to)
{
    bool whole = true;
    fprintf(to, "\nrole transitions:\n");
    for (unsigned a = 0; a < END_STATE_COUNT; a++)
        for (unsigned b = 0; b < END_STATE_COUNT; b++)
            if (cover.transitions[a][b])
                fprintf(to, "  %-13s-> %-13s %9llu\n", end_state_name(a), end_state_name(b),
                        (unsigned long long)cover.transitions[a][b]);
    for (size_t i = 0; i < ARRAY_LEN(arrows); i++) {
        if (cover.transitions[arrows[i][0]][arrows[i][1]])
            continue;
        fprintf(to, "  %-13s-> %-13s     NEVER\n", end_state_name(arrows[i][0]),
                end_state_name(arrows[i][1]));
        whole = false;
    }
    fprintf(to, "\nmeetings:\n");
    for (unsigned i = 1; i < MEET_ROW_COUNT; i++)
        if (cover.rows[i])
            fprintf(to, "  %9llu  %s\n", (unsigned long long)cover.rows[i],
                    meet_row_text((enum meet_row)i));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (cover.rows[rows[i]])
            continue;
        fprintf(to, "      NEVER  %s\n", meet_row_text(rows[i]));
        whole = false;
    }
    return whole;
}

static bool print_faults(FILE *to)
{
    static const enum end_role_state steps[] = {END_TAKING_OVER, END_HANDING_OVER, END_HANDED_OVER,
                                                END_ACTIVE, END_PASSIVE};
    bool whole = true;
    fprintf(to, "\nfaults, by the state of the end that they met:\n  %-18s", "");
    for (unsigned i = 0; i < END_STATE_COUNT; i++)
        fprintf(to, "%9.8s", end_state_name((enum end_role_state)i));
    for (unsigned k = 0; k < FAULT_KINDS; k++) {
        fprintf(to, "\n  %-18s", fault_name((enum fault_kind)k));
        for (unsigned i = 0; i < END_STATE_COUNT; i++)
            fprintf(to, "%9llu", (unsigned long long)cover.faults[k][i]);
    }
    fprintf(to, "\n");
    for (unsigned k = 0; k <= FAULT_PAUSE_HOST; k++)
        for (size_t i = 0; i < ARRAY_LEN(steps); i++)
            whole &= cover.faults[k][steps[i]] > 0;
    return whole;
}

bool cover_print(FILE *to, double seconds, bool full)
{
    fprintf(to, "runs %llu, %.0f/s, %.0f events a run, %.0f writes a run, %.0f answered\n",
            (unsigned long long)cover.runs, (double)cover.runs / seconds,
            (double)cover.steps / (double)cover.runs, (double)cover.writes / (double)cover.runs,
            (double)cover.answers / (double)cover.runs);
    fprintf(to, "epochs opened with exports: takeovers %llu, switchovers %llu, first starts %llu, "
                "lost queues %llu; splits %llu\n",
            (unsigned long long)cover.opened[EPOCH_TAKEOVER],
            (unsigned long long)cover.opened[EPOCH_SWITCH],
            (unsigned long long)cover.opened[EPOCH_FIRST_START],
            (unsigned long long)cover.opened[EPOCH_LOST_QUEUE],
            (unsigned long long)cover.rows[MEET_SPLIT]);
    for (unsigned i = 0; i < COUNTS_MAX && cover.counts[i].count; i++)
        fprintf(to, "%s %llu\n", cover.counts[i].name, (unsigned long long)cover.counts[i].count);
    if (!full)
        return true;
    bool whole = print_table(to);
    whole &= print_faults(to);
    return whole;
}
