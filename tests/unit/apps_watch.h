// SPDX-License-Identifier: Apache-2.0
// For the tests of common/apps: a handle with a private runtime directory, and waiting for what it
// says.
#ifndef TESTS_APPS_WATCH_H
#define TESTS_APPS_WATCH_H

#include <pthread.h>

#include "common/apps/apps.h"

#define WATCH_WAIT_S 120 // the last guard against hanging

struct watch {
    char dir[64];    // runtime directory, and where the scripts of a test write
    char parent[64]; // cgroup parent, of this process only
    struct apps *apps;
    const char *address; // for the setup of a test
    struct apps_setup setup;
    char *events; // every event so far, a line each: "died web: text"
    size_t event_size;
    char awaited_type[32], awaited_app[64], text[1024]; // of the last event waited for
    int64_t duration_ms;
    bool switchover, found;
    pthread_mutex_t lock; // of output: it comes from another thread
    char output[16384];
};

void watch_open(struct watch *w);
void watch_apps(struct watch *w, const struct app_config *list, size_t count);
// Runs the handle until an event of that type (as apps_event_type without "APP_"/"APPS_", small:
// "started" is one application's, "all-started" everybody's) and application (NULL: any) comes.
// Fails the test after WATCH_WAIT_S.
void watch_for(struct watch *w, const char *type, const char *app);
bool watch_has(const struct watch *w, const char *text); // among the events so far
void watch_output(struct watch *w, const char *text);    // waits until the output has it
struct app_status watch_status(const struct watch *w, size_t index);
void watch_state(struct watch *w, size_t index, enum app_state state); // waits for it
void watch_close(struct watch *w); // kills all, removes everything
void watch_path(const struct watch *w, char *ret_path, const char *name); // PATH_SIZE
// Waits until it has this content.
void watch_file(struct watch *w, const char *name, const char *text);
char *watch_read(const struct watch *w,
                 const char *name); // a file of the directory; "" if none; static

#endif
