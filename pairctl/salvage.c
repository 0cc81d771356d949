// SPDX-License-Identifier: Apache-2.0
// `pairctl salvage list|show|export|drop`: what an end held and nobody else has.
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/twin.h"
#include "pairctl/salvage.h"
#include "queues/state.h"

#define LOCK_PATIENCE_MS 3000 // a daemon that cannot write tries each second, and holds the lock for a moment

struct found {
    const struct options *options;
    struct salvage_place *places;
    size_t count;
    unsigned unreadable; // files
    bool failed;
    // The directory that is being read.
    char pair[PAIR_NAME_MAX + 1];
    const char *end;
    const char *directory;
    bool writing;
};

static void add(void *arg, const struct salvage_info *info)
{
    struct found *f = arg;
    struct salvage_place *places = reallocarray(f->places, f->count + 1, sizeof(*places));
    if (!places) {
        f->failed = true;
        return;
    }
    f->places = places;
    struct salvage_place *p = &places[f->count++];
    *p = (struct salvage_place){.writing = f->writing && !info->done, .info = *info};
    (void)snprintf(p->pair, sizeof(p->pair), "%s", f->pair);
    (void)snprintf(p->end, sizeof(p->end), "%s", f->end);
    (void)snprintf(p->directory, sizeof(p->directory), "%s", f->directory);
}

static void read_end(struct found *f)
{
    struct salvage_disk *disk = NULL;
    struct error err = {0};
    unsigned beyond = 0;
    int r = salvage_disk_open(f->directory, &disk, &err);
    if (r == -ENOENT || r == -ENOTDIR)
        return;
    if (r == 0) {
        f->writing = salvage_disk_lock(disk) == -EAGAIN;
        if (!f->writing)
            salvage_disk_unlock(disk);
        r = salvage_list(salvage_disk_of(disk), add, f, &beyond, &err);
    }
    if (r < 0) {
        complain("%s: %s", f->directory, err.text);
        f->failed = true;
    }
    if (beyond > 0)
        complain("%s: %u files are damaged at their beginning: pairctl fsck tells more", f->directory, beyond);
    f->unreadable += beyond;
    salvage_disk_free(disk);
}

static void read_pair(struct found *f, const char *name)
{
    static const char *const ends[] = {"primary", "secondary"};
    const struct options *o = f->options;
    char directory[PATH_SIZE];
    if (strnlen(name, PAIR_NAME_MAX + 1) > PAIR_NAME_MAX || (o->pair && strcmp(o->pair, name) != 0))
        return;
    (void)snprintf(f->pair, sizeof(f->pair), "%s", name);
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        f->end = ends[i];
        f->directory = directory;
        bool wanted = !o->end || strcmp(o->end, ends[i]) == 0;
        if (wanted && path_format(directory, sizeof(directory), "%s/%s/%s/salvage", o->state_dir, name, ends[i]) == 0)
            read_end(f);
    }
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static bool gather(const struct invocation *call, struct found *f)
{
    struct dirent **names = NULL;
    *f = (struct found){.options = &call->options};
    int count = scandir(call->options.state_dir, &names, not_hidden, by_name);
    if (count < 0) {
        complain("cannot read %s: %s", call->options.state_dir, strerror(errno));
        return false;
    }
    for (int i = 0; i < count; i++) {
        read_pair(f, names[i]->d_name);
        free(names[i]);
    }
    free(names);
    return true;
}

// The one that is named; NULL after having said why not.
static const struct salvage_place *choose(const struct found *f, const char *name)
{
    const struct salvage_place *chosen = NULL;
    char *end;
    unsigned long number = strtoul(name, &end, 10);
    for (size_t i = 0; i < f->count && !*end; i++) {
        if (f->places[i].info.number != number)
            continue;
        if (chosen) {
            complain("several ends here have a salvage %s; say which with -p and --end", name);
            return NULL;
        }
        chosen = &f->places[i];
    }
    if (!chosen)
        complain("there is no salvage %s here; see pairctl salvage list", name);
    return chosen;
}

// ---- the actions ----

static int do_list(const struct invocation *call, const struct found *f)
{
    if (!call->options.json) {
        salvage_show_list(f->places, f->count);
        return f->failed ? EXIT_FAILED : EXIT_DONE;
    }
    CLEANUP_FREE const struct salvage_place **list = calloc(f->count + 1, sizeof(*list));
    for (size_t i = 0; list && i < f->count; i++)
        list[i] = &f->places[i];
    CLEANUP_FREE char *json = list ? salvage_json(list, f->count) : NULL;
    (void)printf("%s\n", json ? json : "[]");
    return f->failed || !json ? EXIT_FAILED : EXIT_DONE;
}

static int show(const struct invocation *call, struct salvage_disk *disk, const struct salvage_place *p,
                struct error *err)
{
    if (!call->options.json)
        return salvage_show_one(salvage_disk_of(disk), p, err);
    CLEANUP_FREE char *json = salvage_json_one(p);
    if (!json)
        return error_sys(err, -ENOMEM, "salvage");
    (void)printf("%s\n", json);
    return 0;
}

static int export(const struct invocation *call, struct salvage_disk *disk, const struct salvage_place *p,
                  struct error *err)
{
    char bytes[FORMAT_SIZE];
    int r = salvage_export(salvage_disk_of(disk), p, call->args[2], call->options.image, err);
    if (r < 0)
        return r;
    if (p->writing)
        complain("%s/%s is being written: this is what was there by now", p->pair, p->end);
    if (p->info.verdict != SALVAGE_WHOLE)
        complain("salvage %u: %s", p->info.number, p->info.what);
    (void)printf("%s: %s of salvage %u of %s/%s\n", call->args[2], format_bytes(p->info.data_bytes, bytes),
                 p->info.number, p->pair, p->end);
    return 0;
}

// A daemon that writes holds the lock for as long as it does; one that waits for room lets go of it.
static int lock(struct salvage_disk *disk)
{
    int r = salvage_disk_lock(disk);
    for (int64_t waited = 0; r == -EAGAIN && waited < LOCK_PATIENCE_MS; waited += 20) {
        pause_ms(20);
        r = salvage_disk_lock(disk);
    }
    return r;
}

// Whether the end may still keep something of the epoch that this one is of: its state says so, or cannot be read.
static bool goes_on(const struct salvage_place *p)
{
    char path[PATH_SIZE];
    uint8_t bytes[STATE_SIZE_MAX];
    struct end_state state;
    struct twin_copy copies[2];
    size_t size = 0;
    if (path_format(path, sizeof(path), "%s/../state", p->directory) < 0 ||
        twin_inspect(path, bytes, sizeof(bytes), &size, copies, NULL) < 0 ||
        (size > 0 && state_decode(bytes, size, &state)))
        return true;
    return size > 0 && state.salvage && state.salvaged.id == p->info.epoch.id;
}

static int drop(const struct invocation *call, struct salvage_disk *disk, const struct salvage_place *p,
                struct error *err)
{
    (void)call;
    int r = p->info.done ? 0 : lock(disk);
    if (r == -EAGAIN)
        return error_set(err, r,
                         "it is being written; wait until the resync is done, or waits for room (pairctl status)");
    if (r < 0)
        return error_sys(err, r, "cannot lock %s", p->directory);
    r = salvage_drop(salvage_disk_of(disk), p->info.number, goes_on(p), err);
    if (r == 0)
        (void)printf("salvage %u of %s/%s is gone\n", p->info.number, p->pair, p->end);
    return r;
}

static const struct action {
    const char *name;
    size_t args;
    int (*run)(const struct invocation *call, struct salvage_disk *disk, const struct salvage_place *place,
               struct error *err);
} actions[] = {{"list", 1, NULL}, {"show", 2, show}, {"export", 3, export}, {"drop", 2, drop}};

static int run_action(const struct invocation *call, const struct action *action, const struct found *f)
{
    struct salvage_disk *disk = NULL;
    struct error err = {0};
    const struct salvage_place *place = choose(f, call->args[1]);
    if (!place)
        return EXIT_FAILED;
    int r = salvage_disk_open(place->directory, &disk, &err);
    if (r == 0)
        r = action->run(call, disk, place, &err);
    if (r < 0)
        complain("salvage %u of %s/%s: %s", place->info.number, place->pair, place->end, err.text);
    salvage_disk_free(disk);
    return r < 0 ? EXIT_FAILED : EXIT_DONE;
}

int command_salvage(const struct invocation *call)
{
    const struct action *action = NULL;
    struct found f;
    for (size_t i = 0; i < ARRAY_LEN(actions); i++)
        if (strcmp(actions[i].name, call->args[0]) == 0 && actions[i].args == call->arg_count)
            action = &actions[i];
    if (!action) {
        complain("usage: pairctl %s %s", call->command->name, call->command->usage);
        return EXIT_USAGE;
    }
    if (!gather(call, &f))
        return EXIT_FAILED;
    int status = action->run ? run_action(call, action, &f) : do_list(call, &f);
    free(f.places);
    return status;
}
