// SPDX-License-Identifier: Apache-2.0
// How salvages are shown.
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/control/json.h"
#include "pairctl/salvage.h"
#include "queues/salvage_set.h"

static const char *state_of(const struct salvage_place *p)
{
    if (p->info.verdict == SALVAGE_DAMAGED)
        return "damaged";
    if (p->writing)
        return "being written";
    return p->info.done ? "complete" : "not closed";
}

// ---- for people ----

void salvage_show_list(const struct salvage_place *places, size_t count)
{
    char began[FORMAT_SIZE], held[FORMAT_SIZE], used[FORMAT_SIZE];
    for (size_t i = 0; i < count; i++) {
        const struct salvage_info *s = &places[i].info;
        (void)printf("%-4u %s/%s  %.19s  %s kept, %s on disk, %s; epoch %u\n", s->number, places[i].pair, places[i].end,
                     format_time((int64_t)(s->time / (uint64_t)NS_PER_MS), began),
                     format_bytes(s->data_bytes + s->zero_bytes, held), format_bytes(s->file_bytes, used),
                     state_of(&places[i]), s->epoch.number);
        if (s->verdict != SALVAGE_WHOLE)
            (void)printf("     %s: %s\n", s->verdict == SALVAGE_DAMAGED ? "damage" : "its end is torn", s->what);
    }
}

struct ranges {
    const struct salvage_info *info;
    struct salvage_set *sets[RECORD_OBJECTS_MAX][SALVAGE_KIND_END];
};

static uint64_t blocks_of(uint64_t bytes)
{
    return (bytes + SALVAGE_BLOCK - 1) / SALVAGE_BLOCK;
}

static int take(void *arg, const struct salvage_entry *e, const void *data)
{
    struct ranges *r = arg;
    (void)data;
    if (e->kind == SALVAGE_DONE || e->object >= r->info->volume_count)
        return 0;
    uint64_t blocks = blocks_of(r->info->volumes[e->object].size);
    struct salvage_set **set = &r->sets[e->object][e->kind];
    if (!*set && !(*set = salvage_set_new(blocks)))
        return -ENOMEM;
    return salvage_set_add(*set, MIN(e->offset / SALVAGE_BLOCK, blocks), MIN(blocks_of(e->offset + e->length), blocks));
}

static void print_ranges(const struct salvage_volume *v, const struct salvage_set *set, const char *kind)
{
    uint64_t first, end, at = 0;
    while (set && salvage_set_next(set, true, at, blocks_of(v->size), &first, &end)) {
        (void)printf("  %s  %llu  %llu  %s\n", v->name, (unsigned long long)(first * SALVAGE_BLOCK),
                     (unsigned long long)(MIN(end * SALVAGE_BLOCK, v->size) - first * SALVAGE_BLOCK), kind);
        at = end;
    }
}

int salvage_show_one(struct disk *disk, const struct salvage_place *place, struct error *err)
{
    static const char *const kinds[SALVAGE_KIND_END] = {
        [SALVAGE_DATA] = "data", [SALVAGE_ZERO] = "zeros", [SALVAGE_UNREADABLE] = "could not be read",
        [SALVAGE_GONE] = "was dropped"};
    CLEANUP_FREE struct ranges *r = calloc(1, sizeof(*r));
    if (!r)
        return error_sys(err, -ENOMEM, "salvage");
    r->info = &place->info;
    int rc = salvage_walk(disk, place->info.number, take, r, NULL, err);
    if (rc == 0) {
        salvage_show_list(place, 1);
        (void)printf("kept because %s\nvolume, offset and length in bytes, what was there:\n",
                     salvage_cause_text(place->info.cause));
    }
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++)
        for (unsigned kind = 0; kind < SALVAGE_KIND_END; kind++) {
            if (rc == 0 && kinds[kind])
                print_ranges(&place->info.volumes[i], r->sets[i][kind], kinds[kind]);
            salvage_set_free(r->sets[i][kind]);
        }
    return rc;
}

// ---- for programs ----

struct volume_row {
    char name[33];
    uint64_t size;
};

struct row {
    uint32_t number, epoch, files;
    char pair[33], end[16], cause[SALVAGE_TEXT], state[32], what[SALVAGE_TEXT];
    int64_t began_real_ms;
    uint64_t epoch_id, data_bytes, zero_bytes, unreadable_bytes, dropped_bytes, file_bytes, entries;
    bool complete, writing, damaged;
    struct volume_row volumes[RECORD_OBJECTS_MAX];
    size_t volume_count;
};

#define ROW(m) offsetof(struct row, m)
static const struct json_field volume_fields[] = {
    {"name", JSON_TEXT, .offset = offsetof(struct volume_row, name), .size = 33},
    {"size", JSON_U64, .offset = offsetof(struct volume_row, size)},
};
static const struct json_table volume_table = {volume_fields, ARRAY_LEN(volume_fields)};
static const struct json_field row_fields[] = {
    {"name", JSON_U32, .offset = ROW(number)},
    {"pair", JSON_TEXT, .offset = ROW(pair), .size = sizeof(((struct row *)0)->pair)},
    {"end", JSON_TEXT, .offset = ROW(end), .size = sizeof(((struct row *)0)->end)},
    {"began_real_ms", JSON_TIME, .offset = ROW(began_real_ms)},
    {"cause", JSON_TEXT, .offset = ROW(cause), .size = SALVAGE_TEXT},
    {"epoch", JSON_U32, .offset = ROW(epoch)},
    {"epoch_id", JSON_HEX, .offset = ROW(epoch_id)},
    {"state", JSON_TEXT, .offset = ROW(state), .size = 32},
    {"complete", JSON_BOOL, .offset = ROW(complete)},
    {"writing", JSON_BOOL, .offset = ROW(writing)},
    {"damaged", JSON_BOOL, .offset = ROW(damaged)},
    {"what", JSON_TEXT, .offset = ROW(what), .size = SALVAGE_TEXT},
    {"entries", JSON_U64, .offset = ROW(entries)},
    {"data_bytes", JSON_U64, .offset = ROW(data_bytes)},
    {"zero_bytes", JSON_U64, .offset = ROW(zero_bytes)},
    {"unreadable_bytes", JSON_U64, .offset = ROW(unreadable_bytes)},
    {"dropped_bytes", JSON_U64, .offset = ROW(dropped_bytes)},
    {"file_bytes", JSON_U64, .offset = ROW(file_bytes)},
    {"files", JSON_U32, .offset = ROW(files)},
    {"volumes", JSON_OBJECTS, .offset = ROW(volumes), .size = sizeof(struct volume_row),
     .count_offset = ROW(volume_count), .max = RECORD_OBJECTS_MAX, .table = &volume_table},
};
static const struct json_table row_table = {row_fields, ARRAY_LEN(row_fields)};

static struct row *row_of(const struct salvage_place *p)
{
    const struct salvage_info *s = &p->info;
    struct row *row = calloc(1, sizeof(*row));
    if (!row)
        return NULL;
    *row = (struct row){
        .number = s->number,
        .epoch = s->epoch.number,
        .files = s->files,
        .began_real_ms = (int64_t)(s->time / (uint64_t)NS_PER_MS),
        .epoch_id = s->epoch.id,
        .data_bytes = s->data_bytes,
        .zero_bytes = s->zero_bytes,
        .unreadable_bytes = s->unreadable_bytes,
        .dropped_bytes = s->gone_bytes,
        .file_bytes = s->file_bytes,
        .entries = s->entries,
        .complete = s->done,
        .writing = p->writing,
        .damaged = s->verdict == SALVAGE_DAMAGED,
        .volume_count = s->volume_count,
    };
    (void)snprintf(row->pair, sizeof(row->pair), "%s", p->pair);
    (void)snprintf(row->end, sizeof(row->end), "%s", p->end);
    (void)snprintf(row->cause, sizeof(row->cause), "%s", salvage_cause_text(s->cause));
    (void)snprintf(row->state, sizeof(row->state), "%s", state_of(p));
    (void)snprintf(row->what, sizeof(row->what), "%s", s->what);
    for (unsigned i = 0; i < s->volume_count; i++) {
        (void)snprintf(row->volumes[i].name, sizeof(row->volumes[i].name), "%s", s->volumes[i].name);
        row->volumes[i].size = s->volumes[i].size;
    }
    return row;
}

char *salvage_json_one(const struct salvage_place *place)
{
    CLEANUP_FREE struct row *row = row_of(place);
    return row ? json_encode(&row_table, row, true) : NULL;
}

char *salvage_json(const struct salvage_place *const *list, size_t count)
{
    const void **rows = calloc(count + 1, sizeof(*rows));
    size_t made = 0;
    while (rows && made < count && (rows[made] = row_of(list[made])))
        made++;
    char *json = rows && made == count ? json_encode_list(&row_table, rows, count, true) : NULL;
    while (made > 0)
        free((void *)(uintptr_t)rows[--made]);
    free(rows);
    return json;
}
