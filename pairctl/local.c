// SPDX-License-Identifier: Apache-2.0
// Commands that need no daemon.
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/keyfile.h"
#include "common/control/json.h"
#include "pairctl/pairctl.h"

#define WARNINGS_MAX 64

struct finding {
    char field[128];
    char text[1024];
};

// What `check --json` prints for each pair, or for a path that could not be read.
struct report {
    char file[PATH_MAX];
    char pair[PAIR_NAME_MAX + 1];
    bool ok;
    char error[1024];
    struct finding warnings[WARNINGS_MAX];
    size_t warning_count;
};

#define TEXT(type, m)                                                                              \
    {                                                                                              \
#m, JSON_TEXT, .offset = offsetof(type, m), .size = sizeof(((type *)0)->m)                 \
    }
static const struct json_field finding_fields[] = {TEXT(struct finding, field),
                                                   TEXT(struct finding, text)};
static const struct json_table finding_table = {finding_fields, ARRAY_LEN(finding_fields)};
static const struct json_field report_fields[] = {
    TEXT(struct report, file),
    TEXT(struct report, pair),
    {"ok", JSON_BOOL, .offset = offsetof(struct report, ok)},
    TEXT(struct report, error),
    {"warnings", JSON_OBJECTS, .offset = offsetof(struct report, warnings),
     .size = sizeof(struct finding), .count_offset = offsetof(struct report, warning_count),
     .max = WARNINGS_MAX, .table = &finding_table},
};
static const struct json_table report_table = {report_fields, ARRAY_LEN(report_fields)};

static void add_warning(void *user, const char *field, const char *text)
{
    struct report *report = user;
    if (report->warning_count == WARNINGS_MAX)
        return;
    struct finding *to = &report->warnings[report->warning_count++];
    (void)snprintf(to->field, sizeof(to->field), "%s", field);
    (void)snprintf(to->text, sizeof(to->text), "%s", text);
}

static void print_report(const struct report *report)
{
    if (!report->ok) {
        complain("%s", report->error);
        return;
    }
    for (size_t i = 0; i < report->warning_count; i++) {
        const struct finding *w = &report->warnings[i];
        (void)printf("%s: warning: %s%s%s\n", report->file, w->field, w->field[0] ? ": " : "",
                     w->text);
    }
    (void)printf("%s: pair %s is valid%s\n", report->file, report->pair,
                 report->warning_count ? ", but see the warnings" : "");
}

// Takes `report` over into the JSON list, or prints it.
static void emit(const struct invocation *call, const struct report *report, size_t *number)
{
    if (!call->options.json) {
        print_report(report);
        return;
    }
    CLEANUP_FREE char *json = json_encode(&report_table, report, false);
    (void)printf("%s%s", (*number)++ ? ",\n " : "[", json ? json : "null");
}

static int check_path(const struct invocation *call, const char *path, size_t *number)
{
    char host[256] = "";
    (void)gethostname(host, sizeof(host) - 1);
    struct pair_config_list list = {0};
    struct error err = {0};
    CLEANUP_FREE struct report *report = calloc(1, sizeof(*report));
    if (!report)
        return EXIT_FAILED;
    if (pair_config_load_all(path, &list, &err) < 0) {
        (void)snprintf(report->file, sizeof(report->file), "%s", path);
        (void)snprintf(report->error, sizeof(report->error), "%s", err.text);
        emit(call, report, number);
        return EXIT_FAILED;
    }
    for (size_t i = 0; i < list.count; i++) {
        *report = (struct report){.ok = true};
        (void)snprintf(report->file, sizeof(report->file), "%s", list.items[i]->file);
        (void)snprintf(report->pair, sizeof(report->pair), "%s", list.items[i]->pair);
        pair_config_warnings(list.items[i], call->options.host ? call->options.host : host,
                             add_warning, report);
        emit(call, report, number);
    }
    if (list.count == 0)
        complain("%s: there is no file *.json in it", path);
    int status = list.count ? EXIT_DONE : EXIT_FAILED;
    pair_config_list_done(&list);
    return status;
}

int command_check(const struct invocation *call)
{
    int status = EXIT_DONE;
    size_t number = 0;
    for (size_t i = 0; i < call->arg_count; i++) {
        if (check_path(call, call->args[i], &number) != EXIT_DONE)
            status = EXIT_FAILED;
    }
    if (call->options.json)
        (void)puts(number ? "]" : "[]");
    return status;
}

int command_keygen(const struct invocation *call)
{
    struct error err = {0};
    if (keyfile_generate(call->args[0], &err) < 0) {
        complain("%s", err.text);
        return EXIT_FAILED;
    }
    (void)printf("%s: copy it to the other machine, and name it in channel.key of the pair file\n",
                 call->args[0]);
    return EXIT_DONE;
}
