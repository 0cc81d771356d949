// SPDX-License-Identifier: Apache-2.0
// One application in the runner's thread: the phases that both kinds share, and what a kind has to
// provide.
//
//   rest --start--> starting --started--> running --stop--> stopping --stopped--> rest
//                      | lost                 | lost
//                      v                      v
//                   cleaning --stopped--> waiting (restarts left) --in time--> starting
//                                     \-> failed (none left)
//
// A kind answers each start, stop, kill and check with one report, later, from its work(); "lost"
// comes at any time while it runs. stop and kill may come in any phase and supersede what is under
// way.
#ifndef APPS_APP_H
#define APPS_APP_H

#include <poll.h>

#include "common/apps/apps.h"

struct app;

enum app_phase {
    APP_PHASE_REST,
    APP_PHASE_STARTING,
    APP_PHASE_RUNNING,
    APP_PHASE_STOPPING,
    APP_PHASE_CLEANING, // lost; being stopped so that nothing of it is left
    APP_PHASE_WAITING,  // for its next local restart
    APP_PHASE_FAILED,   // nothing of it is left
};

enum app_report {
    APP_REPORT_NONE,
    APP_REPORT_STARTED, // a start has worked
    APP_REPORT_LOST,    // a start has failed, or it stopped by itself; text: why
    APP_REPORT_STOPPED, // nothing is left
    APP_REPORT_CHECKED, // text: what is here though it should not be, or ""
};

struct app_ops {
    int (*open)(struct app *app, struct error *err);
    void (*close)(struct app *app); // leaves the application as it is
    void (*start)(struct app *app, bool adopt);
    void (*stop)(struct app *app);
    void (*kill)(struct app *app);
    void (*check)(struct app *app);
    void (*freeze)(struct app *app, bool frozen);
    size_t (*polls)(const struct app *app, struct pollfd *ret_fds); // at most APP_POLLS_MAX
    void (*work)(struct app *app, int64_t now);
    int64_t (*deadline)(const struct app *app);
    size_t (*targets)(const struct app *app, struct apps_target *ret_targets, size_t limit);
};
#define APP_POLLS_MAX   4
#define APP_TARGETS_MAX 64 // of one application

extern const struct app_ops script_ops; // script.c
extern const struct app_ops domain_ops; // domain.c

typedef void app_event_fn(void *context, const struct apps_event *event);

struct app {
    struct app_config config;
    const struct apps_setup *setup;
    app_event_fn *event;
    void *event_context;
    const struct app_ops *ops;
    void *impl; // the kind's own

    enum app_phase phase;
    bool known;   // at rest: this handle has seen that nothing is left
    bool killing; // while stopping: at once
    bool checking;
    bool foreign; // at rest: something is here
    bool frozen;
    bool restarting;         // this start is a local restart
    bool blameless;          // the loss that is being cleaned up is not the application's fault
    int64_t blameless_until; // ... nor is one before this time: it has just been thawed
    int restarts;
    int64_t since_ns; // begin of this phase
    int64_t retry_ns;
    int64_t start_ms;
    char why[256];

    enum app_report report; // to be taken in by app_work()
    char report_text[1024];
};

int app_open(const struct app_config *config, const struct apps_setup *setup, app_event_fn *event,
             void *event_context, struct app *ret_app, struct error *err);
void app_close(struct app *app);

// For the runner. Each goes from any phase.
void app_start(struct app *app, bool adopt); // from rest only
void app_stop(struct app *app);
void app_kill(struct app *app);
void app_check(struct app *app); // from rest only
void app_freeze(struct app *app, bool frozen);
void app_work(struct app *app, int64_t now);
int64_t app_deadline(const struct app *app);
enum app_state app_state(const struct app *app);
bool app_gone(const struct app
                  *app); // at rest or failed: it does not run, and nothing of it is being stopped

// For the kinds.
void app_report(struct app *app, enum app_report report, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void app_note(struct app *app, const char *format, ...) __attribute__((format(printf, 2, 3)));
void app_targets_changed(struct app *app);

#endif
