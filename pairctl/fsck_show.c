// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/control/json.h"
#include "pairctl/fsck.h"

static const char *const roles[] = {"none", "passive", "active"};
static void show_spill(const struct fsck *f, FILE *out)
{
    char bytes[FORMAT_SIZE];
    if (f->spill.segments)
        (void)fprintf(out, "  spill         %u segments with %s of the unsafe queue\n", f->spill.segments,
                      format_bytes(f->spill.bytes, bytes));
    if (f->spill.others)
        (void)fprintf(out, "  spill         %u segments that belong to no queue of this boot\n", f->spill.others);
}

static const char *const intents[] = {"none", "takeover", "handed over"};

// ---- for a person ----

static void show_state(const struct fsck *f, FILE *out)
{
    const struct epoch *at = history_current(&f->state.history);
    if (!f->state_there)
        (void)fprintf(out, "  state         none\n");
    else if (!f->state_readable)
        (void)fprintf(out, "  state         unreadable\n");
    else if (!at)
        (void)fprintf(out, "  state         %s, without a history\n", roles[f->state.role]);
    else
        (void)fprintf(out, "  state         %s%s%s%s, epoch %u (%s by %s)\n", roles[f->state.role],
                      f->state.alone ? ", alone" : "", f->state.stopped ? ", stopped" : "",
                      f->state.intent == INTENT_NONE ? "" : f->state.intent == INTENT_TAKEOVER ? ", taking over" : ", handed over",
                      at->number, epoch_reason_name(at->reason), epoch_opener_name(at->opened_by));
}

static void show_queues(const struct fsck *f, FILE *out)
{
    const struct safe_recovery *r = &f->safe.recovery;
    char bytes[FORMAT_SIZE];
    if (!f->safe_there || r->verdict == SAFE_EMPTY)
        (void)fprintf(out, "  safe queue    %s\n", f->safe_there ? "empty" : "none");
    else
        (void)fprintf(out, "  safe queue    %s; %" PRIu64 " records up to seq %" PRIu64 " in %u segments, %u more\n",
                      safe_verdict_name(r->verdict), r->last + 1 - r->first, r->last, f->safe.segments, f->safe.spare);
    if (f->map_count)
        (void)fprintf(out, "  intent maps   %u; %s may differ%s\n", f->map_count, format_bytes(f->map_bytes, bytes),
                      f->map_whole ? ", and all of those that are damaged" : "");
    if (f->salvage_count)
        (void)fprintf(out, "  salvage       %u, with %s (pairctl salvage list)\n", f->salvage_count,
                      format_bytes(f->salvage_bytes, bytes));
    if (!f->runtime[0])
        (void)fprintf(out, "  unsafe queue  not looked for\n");
    else if (!f->unsafe_there)
        (void)fprintf(out, "  unsafe queue  none\n");
    else if (!f->queue.usable)
        (void)fprintf(out, "  unsafe queue  damaged\n");
    else
        (void)fprintf(out, "  unsafe queue  %s; %" PRIu64 " records up to seq %" PRIu64 ", %u updates in flight\n",
                      f->same_boot ? "whole" : "of another boot", f->queue.numbered - f->queue.floor,
                      f->queue.numbered, f->queue.pending);
}

void fsck_show(const struct fsck *f, FILE *out)
{
    char clean[sizeof(f->findings[0].text)];
    (void)fprintf(out, "%s: %s of pair %s%s\n", f->directory, f->identity[0] ? f->identity : "an end", f->pair,
                  f->running ? " (RUNNING: what changes meanwhile may look like damage)" : "");
    show_state(f, out);
    show_queues(f, out);
    show_spill(f, out);
    for (size_t i = 0; i < f->finding_count; i++) {
        const struct fsck_finding *x = &f->findings[i];
        (void)fprintf(out, "  %-13s %s at offset %" PRIu64 ": %s\n", x->kind, x->file, x->offset,
                      format_clean(x->text, clean, sizeof(clean)));
    }
    if (f->damages + f->torn > f->finding_count)
        (void)fprintf(out, "  ...           and %" PRIu64 " more\n", f->damages + f->torn - f->finding_count);
    for (size_t i = 0; i < f->start_count; i++)
        (void)fprintf(out, "  %-13s %s\n", i == 0 ? "a start" : "", f->start[i].text);
    if (f->damages)
        (void)fprintf(out, "  %" PRIu64 " damage%s found\n", f->damages, f->damages == 1 ? "" : "s");
    else
        (void)fprintf(out, "  no damage found\n");
}

// ---- for a program ----

struct json_queue {
    char state[32];
    uint64_t first, last, records, bytes, pending;
};

struct report {
    char directory[PATH_SIZE], runtime_directory[PATH_SIZE];
    char pair[STATUS_NAME_SIZE], identity[STATUS_WORD_SIZE];
    bool clean, running;
    uint64_t damages, torn;
    char state[STATUS_WORD_SIZE], role[STATUS_WORD_SIZE], intent[STATUS_WORD_SIZE];
    bool alone, stopped;
    uint64_t epoch, epoch_id;
    struct json_queue safe, unsafe;
    uint64_t spill_segments, spill_bytes;
    uint64_t maps, maps_void, maps_bytes, salvages, salvage_bytes;
    struct fsck_finding findings[FSCK_FINDINGS_MAX];
    size_t finding_count;
    struct fsck_sentence start[FSCK_START_MAX];
    size_t start_count;
};

// clang-format off
#define TEXT(type, m) {#m, JSON_TEXT, .offset = offsetof(type, m), .size = sizeof(((type *)0)->m)}
#define U64(type, m)  {#m, JSON_U64, .offset = offsetof(type, m)}
#define FLAG(type, m) {#m, JSON_BOOL, .offset = offsetof(type, m)}
// clang-format on

static const struct json_field finding_fields[] = {
    TEXT(struct fsck_finding, file), U64(struct fsck_finding, offset), TEXT(struct fsck_finding, kind),
    TEXT(struct fsck_finding, text)};
static const struct json_table finding_table = {finding_fields, ARRAY_LEN(finding_fields)};
static const struct json_field queue_fields[] = {
    TEXT(struct json_queue, state),  U64(struct json_queue, first), U64(struct json_queue, last),
    U64(struct json_queue, records), U64(struct json_queue, bytes), U64(struct json_queue, pending)};
static const struct json_table queue_table = {queue_fields, ARRAY_LEN(queue_fields)};
static const struct json_field report_fields[] = {
    TEXT(struct report, directory),
    TEXT(struct report, runtime_directory),
    TEXT(struct report, pair),
    TEXT(struct report, identity),
    FLAG(struct report, clean),
    FLAG(struct report, running),
    U64(struct report, damages),
    U64(struct report, torn),
    TEXT(struct report, state),
    TEXT(struct report, role),
    TEXT(struct report, intent),
    FLAG(struct report, alone),
    FLAG(struct report, stopped),
    U64(struct report, epoch),
    {"epoch_id", JSON_HEX, .offset = offsetof(struct report, epoch_id)},
    {"safe_queue", JSON_OBJECT, .offset = offsetof(struct report, safe), .table = &queue_table},
    {"unsafe_queue", JSON_OBJECT, .offset = offsetof(struct report, unsafe), .table = &queue_table},
    U64(struct report, spill_segments),
    U64(struct report, spill_bytes),
    U64(struct report, maps),
    U64(struct report, maps_void),
    U64(struct report, maps_bytes),
    U64(struct report, salvages),
    U64(struct report, salvage_bytes),
    {"findings", JSON_OBJECTS, .offset = offsetof(struct report, findings), .size = sizeof(struct fsck_finding),
     .count_offset = offsetof(struct report, finding_count), .max = FSCK_FINDINGS_MAX, .table = &finding_table},
    {"start", JSON_TEXTS, .offset = offsetof(struct report, start), .size = sizeof(struct fsck_sentence),
     .count_offset = offsetof(struct report, start_count), .max = FSCK_START_MAX},
};
static const struct json_table report_table = {report_fields, ARRAY_LEN(report_fields)};

static void set(char *to, size_t size, const char *from)
{
    (void)snprintf(to, size, "%s", from);
}
#define SET(to, from) set(to, sizeof(to), from)

static void fill_queues(const struct fsck *f, struct report *r)
{
    const struct safe_recovery *rec = &f->safe.recovery;
    SET(r->safe.state, f->safe_there ? safe_verdict_name(rec->verdict) : "none");
    if (f->safe_there && rec->verdict != SAFE_EMPTY) {
        r->safe.first = rec->first;
        r->safe.last = rec->last;
        r->safe.records = rec->last + 1 - rec->first;
    }
    SET(r->unsafe.state, !f->runtime[0]      ? "not looked for"
                         : !f->unsafe_there  ? "none"
                         : !f->queue.usable  ? "damaged"
                         : !f->same_boot     ? "of another boot"
                                             : "whole");
    if (f->unsafe_there && f->queue.usable) {
        r->unsafe.first = f->queue.floor + 1;
        r->unsafe.last = f->queue.numbered;
        r->unsafe.records = f->queue.numbered - f->queue.floor;
        r->unsafe.bytes = f->queue.bytes;
        r->unsafe.pending = f->queue.pending;
    }
}

static void fill(const struct fsck *f, struct report *r)
{
    const struct epoch *at = history_current(&f->state.history);
    SET(r->directory, f->directory);
    SET(r->runtime_directory, f->runtime);
    SET(r->pair, f->pair);
    SET(r->identity, f->identity);
    r->clean = f->damages == 0;
    r->running = f->running;
    r->damages = f->damages;
    r->torn = f->torn;
    SET(r->state, !f->state_there ? "none" : f->state_readable ? "readable" : "unreadable");
    SET(r->role, roles[f->state.role]);
    SET(r->intent, intents[f->state.intent]);
    r->alone = f->state.alone;
    r->stopped = f->state.stopped;
    r->epoch = at ? at->number : 0;
    r->epoch_id = at ? at->id : 0;
    fill_queues(f, r);
    r->spill_segments = f->spill.segments;
    r->spill_bytes = f->spill.bytes;
    r->maps = f->map_count;
    r->maps_void = f->map_whole;
    r->maps_bytes = f->map_bytes;
    r->salvages = f->salvage_count;
    r->salvage_bytes = f->salvage_bytes;
    memcpy(r->findings, f->findings, sizeof(r->findings));
    r->finding_count = f->finding_count;
    memcpy(r->start, f->start, sizeof(r->start));
    r->start_count = f->start_count;
}

char *fsck_json(const struct fsck *const *list, size_t count)
{
    CLEANUP_FREE struct report *reports = calloc(count ? count : 1, sizeof(*reports));
    CLEANUP_FREE const void **items = calloc(count ? count : 1, sizeof(*items));
    if (!reports || !items)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        fill(list[i], &reports[i]);
        items[i] = &reports[i];
    }
    return count == 1 ? json_encode(&report_table, reports, true) : json_encode_list(&report_table, items, count, true);
}
