// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/apps_watch.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"

static const char *const types[] = {
    [APPS_STARTED] = "all-started",
    [APPS_STOPPED] = "all-stopped",
    [APPS_CHECKED] = "checked",
    [APPS_TARGETS] = "targets",
    [APP_STARTED] = "started",
    [APP_STOPPED] = "stopped",
    [APP_DIED] = "died",
    [APP_RESTARTED] = "restarted",
    [APP_FAILED] = "failed",
    [APP_NOTE] = "note",
};

static void on_event(void *context, const struct apps_event *e)
{
    struct watch *w = context;
    char line[2048];
    int n =
        snprintf(line, sizeof(line), "%s %s: %s\n", types[e->type], e->app ? e->app : "-", e->text);

    w->events = realloc(w->events, w->event_size + (size_t)n + 1);
    strcpy(w->events + w->event_size, line);
    w->event_size += (size_t)n;
    if (w->found || strcmp(w->awaited_type, types[e->type]) != 0 ||
        (w->awaited_app[0] && (!e->app || strcmp(e->app, w->awaited_app) != 0)))
        return;
    w->found = true;
    w->duration_ms = e->duration_ms;
    w->switchover = e->switchover;
    snprintf(w->text, sizeof(w->text), "%s", e->text);
}

static void on_output(void *context, const char *app, const char *line)
{
    struct watch *w = context;
    HOLD_LOCK(&w->lock);
    size_t used = strlen(w->output);
    snprintf(w->output + used, sizeof(w->output) - used, "%s|%s\n", app, line);
}

void watch_open(struct watch *w)
{
    *w = (struct watch){.dir = "/tmp/test_apps_XXXXXX", .events = strdup("")};
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->parent, sizeof(w->parent), "understudy-test-%d", (int)getpid());
    pthread_mutex_init(&w->lock, NULL);
    w->setup = (struct apps_setup){.pair = "pair",
                                   .identity = "primary",
                                   .runtime_dir = w->dir,
                                   .cgroup_parent = w->parent,
                                   .callbacks = {w, on_event, on_output}};
}

void watch_apps(struct watch *w, const struct app_config *list, size_t count)
{
    struct error err = {0};

    if (apps_open(&w->setup, list, count, &w->apps, &err) < 0)
        fail_msg("%s", err.text);
}

static void turn(struct watch *w, int64_t until)
{
    struct pollfd p = {.fd = apps_fd(w->apps), .events = POLLIN};
    int64_t left = (until - clock_boot_ns()) / NS_PER_MS;

    if (left <= 0)
        fail_msg("nothing came; the events were:\n%s\nthe output was:\n%s", w->events, w->output);
    (void)poll(&p, 1, (int)MIN(left, 100));
    apps_work(w->apps);
}

void watch_for(struct watch *w, const char *type, const char *app)
{
    int64_t until = clock_boot_ns() + WATCH_WAIT_S * NS_PER_S;

    w->found = false;
    snprintf(w->awaited_type, sizeof(w->awaited_type), "%s", type);
    snprintf(w->awaited_app, sizeof(w->awaited_app), "%s", app ? app : "");
    while (!w->found) {
        if (clock_boot_ns() > until)
            print_error("waiting for '%s' of '%s'\n", type, app ? app : "any");
        turn(w, until);
    }
}

bool watch_has(const struct watch *w, const char *text)
{
    return strstr(w->events, text) != NULL;
}

void watch_output(struct watch *w, const char *text)
{
    int64_t until = clock_boot_ns() + WATCH_WAIT_S * NS_PER_S;

    for (bool found = false; !found;) {
        pthread_mutex_lock(&w->lock);
        found = strstr(w->output, text) != NULL;
        pthread_mutex_unlock(&w->lock);
        if (!found)
            turn(w, until);
    }
}

struct app_status watch_status(const struct watch *w, size_t index)
{
    struct app_status s;

    apps_status(w->apps, index, &s);
    return s;
}

void watch_state(struct watch *w, size_t index, enum app_state state)
{
    int64_t until = clock_boot_ns() + WATCH_WAIT_S * NS_PER_S;

    while (watch_status(w, index).state != state)
        turn(w, until);
}

void watch_close(struct watch *w)
{
    char command[128];

    if (w->apps) {
        apps_set_frozen(w->apps, false);
        apps_kill_all(w->apps);
        watch_for(w, "all-stopped", NULL);
        w->apps = apps_forget(w->apps);
    }
    snprintf(command, sizeof(command), "rm -r %s", w->dir);
    assert_int_equal(system(command), 0);
    pthread_mutex_destroy(&w->lock);
    free(w->events);
}

void watch_path(const struct watch *w, char *ret_path, const char *name)
{
    assert_int_equal(path_format(ret_path, PATH_SIZE, "%s/%s", w->dir, name), 0);
}

char *watch_read(const struct watch *w, const char *name)
{
    static char text[8192];
    char path[PATH_SIZE];
    CLEANUP_FREE char *data = NULL;
    size_t size = 0;

    watch_path(w, path, name);
    if (file_read(path, sizeof(text) - 1, &data, &size, NULL) < 0)
        data = strdup("");
    strcpy(text, data);
    return text;
}

void watch_file(struct watch *w, const char *name, const char *text)
{
    int64_t until = clock_boot_ns() + WATCH_WAIT_S * NS_PER_S;

    while (strcmp(watch_read(w, name), text) != 0)
        turn(w, until);
}
