// SPDX-License-Identifier: Apache-2.0
// `pairctl fsck DIR`: DIR is the state directory of one end (PAIR/primary), of a pair, or of all pairs.
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/cleanup.h"
#include "pairctl/fsck.h"

#define ENDS_MAX (2 * 256)

struct job {
    const struct invocation *call;
    struct fsck *ends[ENDS_MAX];
    size_t count;
};

static bool is_there(const char *directory, const char *name)
{
    char path[PATH_SIZE];
    struct stat st;
    return path_format(path, sizeof(path), "%s/%s", directory, name) == 0 && stat(path, &st) == 0;
}

static bool is_end(const char *directory)
{
    return is_there(directory, "state.0") || is_there(directory, "state.1") || is_there(directory, "safe") ||
           is_there(directory, "lock");
}

// The last part of a path, and cuts it off.
static const char *take_name(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash)
        return path;
    *slash = '\0';
    return slash + 1;
}

// Which end a directory is of: its own name and the one above, unless the operator says it.
static void name_end(struct fsck *f, const struct options *o)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof(path), "%s", f->directory);
    const char *end = take_name(path);
    bool known = strcmp(end, "primary") == 0 || strcmp(end, "secondary") == 0;
    (void)snprintf(f->identity, sizeof(f->identity), "%.16s", o->end ? o->end : known ? end : "");
    (void)snprintf(f->pair, sizeof(f->pair), "%.32s", o->pair ? o->pair : take_name(path));
    // A copy of a state directory has nothing to do with what lies in the usual runtime directory.
    bool usual = strncmp(f->directory, PLACES_STATE_DIR "/", strlen(PLACES_STATE_DIR "/")) == 0;
    bool named = strcmp(o->runtime_dir, PLACES_RUNTIME_DIR) != 0;
    if (f->identity[0] && (usual || named))
        (void)path_format(f->runtime, sizeof(f->runtime), "%s/%s/%s", o->runtime_dir, f->pair, f->identity);
}

static void add_end(struct job *job, const char *directory)
{
    struct fsck *f = job->count < ENDS_MAX ? calloc(1, sizeof(*f)) : NULL;
    if (!f)
        return;
    (void)snprintf(f->directory, sizeof(f->directory), "%s", directory);
    name_end(f, &job->call->options);
    job->ends[job->count++] = f;
}

static void add_pair(struct job *job, const char *directory)
{
    static const char *const names[] = {"primary", "secondary"};
    char path[PATH_SIZE];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        bool wanted = !job->call->options.end || strcmp(job->call->options.end, names[i]) == 0;
        if (wanted && path_format(path, sizeof(path), "%s/%s", directory, names[i]) == 0 && is_end(path))
            add_end(job, path);
    }
}

static void add_all(struct job *job, const char *directory)
{
    char path[PATH_SIZE];
    CLEANUP_CLOSEDIR DIR *dir = opendir(directory);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        const char *only = job->call->options.pair;
        if (entry->d_name[0] != '.' && (!only || strcmp(only, entry->d_name) == 0) &&
            path_format(path, sizeof(path), "%s/%s", directory, entry->d_name) == 0)
            add_pair(job, path);
    }
}

static int find_ends(struct job *job)
{
    char directory[PATH_MAX];
    struct stat st;
    const char *named = job->call->args[0];
    if (!realpath(named, directory) || stat(directory, &st) < 0 || !S_ISDIR(st.st_mode)) {
        complain("%s: it is not a directory that can be looked at", named);
        return EXIT_USAGE;
    }
    if (is_end(directory))
        add_end(job, directory);
    else
        add_pair(job, directory);
    if (job->count == 0)
        add_all(job, directory);
    if (job->count == 0) {
        complain("%s: there is no end's state in it; it is the directory of an end, such as "
                 PLACES_STATE_DIR "/PAIR/primary, of a pair, or of all pairs", named);
        return EXIT_USAGE;
    }
    return EXIT_DONE;
}

// Drops the end when it is refused.
static int look(struct job *job, size_t *i)
{
    struct fsck *f = job->ends[*i];
    f->running = fsck_locked(f->directory) < 0;
    if (f->running && !job->call->options.force) {
        complain("%s: a daemon runs this end, and what it writes meanwhile would look like damage: stop it first, look at "
                 "a copy, or see with --force what is there now",
                 f->directory);
        free(f);
        job->ends[*i] = job->ends[--job->count];
        return EXIT_FAILED;
    }
    fsck_look(f);
    fsck_start(f);
    if (!f->running && fsck_locked(f->directory) < 0)
        f->running = true; // started meanwhile
    ++*i;
    return f->damages ? EXIT_FAILED : EXIT_DONE;
}

static void show(const struct job *job)
{
    if (job->call->options.json) {
        CLEANUP_FREE char *json = fsck_json((const struct fsck *const *)job->ends, job->count);
        (void)printf("%s\n", json ? json : "null");
        return;
    }
    for (size_t i = 0; i < job->count; i++)
        fsck_show(job->ends[i], stdout);
}

int command_fsck(const struct invocation *call)
{
    struct job job = {.call = call};
    int status = find_ends(&job);
    for (size_t i = 0; i < job.count;) {
        if (look(&job, &i) != EXIT_DONE)
            status = EXIT_FAILED;
    }
    if (job.count)
        show(&job);
    for (size_t i = 0; i < job.count; i++)
        free(job.ends[i]);
    return status;
}
