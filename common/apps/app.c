// SPDX-License-Identifier: Apache-2.0
#include "common/apps/app.h"

#include <stdio.h>
#include <string.h>

#include "common/apps/app_config.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define RETRY_STEP_NS (1 * NS_PER_S) // the first restart is at once, each further one waits longer
#define RETRY_MAX_NS  (10 * NS_PER_S)
#define THAW_NS       (2 * NS_PER_S) // and a status: by then is seen what was lost while frozen

int app_open(const struct app_config *config, const struct apps_setup *setup, app_event_fn *event,
             void *event_context, struct app *ret_app, struct error *err)
{
    struct app *app = ret_app;

    *app = (struct app){
        .setup = setup, .event = event, .event_context = event_context, .start_ms = -1};
    app->ops = config->kind == APP_DOMAIN ? &domain_ops : &script_ops;
    app_config_copy(config, &app->config);
    int r = app->ops->open(app, err);
    if (r < 0) {
        app_config_clear(&app->config);
        return error_prefix(err, "application '%s'", config->name);
    }
    return 0;
}

void app_close(struct app *app)
{
    app->ops->close(app);
    app_config_clear(&app->config);
}

static void say(struct app *app, enum apps_event_type type, const char *text, int64_t ns)
{
    struct apps_event e = {.type = type,
                           .app = app->config.name,
                           .text = text,
                           .duration_ms = ns / NS_PER_MS,
                           .switchover = app->config.on_failure == APP_FAILURE_SWITCHOVER};
    app->event(app->event_context, &e);
}

void app_report(struct app *app, enum app_report report, const char *format, ...)
{
    va_list args;

    ENSURE(app->report == APP_REPORT_NONE);
    app->report = report;
    va_start(args, format);
    vsnprintf(app->report_text, sizeof(app->report_text), format, args);
    va_end(args);
}

void app_note(struct app *app, const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    say(app, APP_NOTE, text, 0);
}

void app_targets_changed(struct app *app)
{
    say(app, APPS_TARGETS, "", 0);
}

static void set_phase(struct app *app, enum app_phase phase, const char *why)
{
    app->phase = phase;
    app->since_ns = clock_boot_ns();
    snprintf(app->why, sizeof(app->why), "%s", why);
    if (phase != APP_PHASE_STOPPING)
        app->killing = false;
    app_targets_changed(app);
}

// A command makes an answer to the former one void.
static void supersede(struct app *app)
{
    app->report = APP_REPORT_NONE;
    app->checking = false;
    app->foreign = false;
}

static void begin_start(struct app *app, bool adopt)
{
    supersede(app);
    app->known = false;
    set_phase(app, APP_PHASE_STARTING, "");
    app->ops->start(app, adopt);
}

void app_start(struct app *app, bool adopt)
{
    ENSURE(app_gone(app));
    app->restarts = 0;
    app->restarting = false;
    begin_start(app, adopt);
}

void app_stop(struct app *app)
{
    if (app->phase == APP_PHASE_STOPPING || app->phase == APP_PHASE_REST)
        return;
    if (app->phase == APP_PHASE_WAITING || app->phase == APP_PHASE_FAILED) {
        set_phase(app, APP_PHASE_REST, "");
        return;
    }
    bool cleaning = app->phase == APP_PHASE_CLEANING;
    set_phase(app, APP_PHASE_STOPPING, "");
    if (!cleaning) {
        supersede(app);
        app->ops->stop(app);
    }
}

void app_kill(struct app *app)
{
    if (app->killing || (app->known && app_gone(app)))
        return;
    supersede(app);
    set_phase(app, APP_PHASE_STOPPING, "");
    app->killing = true;
    app->ops->kill(app);
}

void app_check(struct app *app)
{
    ENSURE(app_gone(app));
    bool foreign = app->foreign; // what the last check found stands until this one is through
    supersede(app);
    app->foreign = foreign;
    app->checking = true;
    app->ops->check(app);
}

bool app_gone(const struct app *app)
{
    return app->phase == APP_PHASE_REST || app->phase == APP_PHASE_FAILED;
}

void app_freeze(struct app *app, bool frozen)
{
    if (app->frozen == frozen)
        return;
    app->frozen = frozen;
    if (!frozen)
        app->blameless_until =
            clock_boot_ns() + THAW_NS + app->config.status_timeout_ms * NS_PER_MS;
    app->ops->freeze(app, frozen);
}

static void take_started(struct app *app, int64_t now)
{
    int64_t took = now - app->since_ns;

    if (app->phase != APP_PHASE_STARTING)
        return;
    app->start_ms = took / NS_PER_MS;
    set_phase(app, APP_PHASE_RUNNING, "");
    say(app, app->restarting ? APP_RESTARTED : APP_STARTED, "", took);
    app->restarting = false;
}

static void take_lost(struct app *app, int64_t now)
{
    if (app->phase != APP_PHASE_STARTING && app->phase != APP_PHASE_RUNNING)
        return;
    app->blameless = now < app->blameless_until;
    app->blameless_until = 0;
    if (app->phase == APP_PHASE_RUNNING &&
        now - app->since_ns > app->config.restarts_forget_ms * NS_PER_MS)
        app->restarts = 0;
    say(app, app->blameless ? APP_NOTE : APP_DIED, app->report_text, 0);
    set_phase(app, APP_PHASE_CLEANING, app->report_text);
    app->ops->stop(app);
}

static void take_cleaned(struct app *app, int64_t now)
{
    char why[sizeof(app->why)];

    strcpy(why, app->why);
    if (!app->blameless && app->restarts >= app->config.restarts) {
        set_phase(app, APP_PHASE_FAILED, why);
        say(app, APP_FAILED, why, 0);
        return;
    }
    app->retry_ns = now;
    if (!app->blameless) {
        app->retry_ns += MIN(app->restarts * RETRY_STEP_NS, RETRY_MAX_NS);
        app->restarts++;
    }
    set_phase(app, APP_PHASE_WAITING, why);
}

static void take_stopped(struct app *app, int64_t now)
{
    if (app->phase == APP_PHASE_CLEANING) {
        take_cleaned(app, now);
    } else if (app->phase == APP_PHASE_STOPPING) {
        int64_t took = now - app->since_ns;
        app->known = true;
        set_phase(app, APP_PHASE_REST, "");
        say(app, APP_STOPPED, "", took);
    }
}

static void take_checked(struct app *app)
{
    app->checking = false;
    app->foreign = app->report_text[0] != 0;
    snprintf(app->why, sizeof(app->why), "%.*s", (int)sizeof(app->why) - 1, app->report_text);
}

static void take_report(struct app *app, int64_t now)
{
    enum app_report report = app->report;

    app->report = APP_REPORT_NONE;
    switch (report) {
    case APP_REPORT_NONE:
        break;
    case APP_REPORT_STARTED:
        take_started(app, now);
        break;
    case APP_REPORT_LOST:
        take_lost(app, now);
        break;
    case APP_REPORT_STOPPED:
        take_stopped(app, now);
        break;
    case APP_REPORT_CHECKED:
        take_checked(app);
        break;
    }
}

// A start or a loss that is reported while frozen waits for the thaw, where a loss is nobody's
// fault.
static bool held(const struct app *app)
{
    return app->frozen && (app->report == APP_REPORT_STARTED || app->report == APP_REPORT_LOST);
}

void app_work(struct app *app, int64_t now)
{
    if (app->report == APP_REPORT_NONE)
        app->ops->work(app, now);
    if (!held(app))
        take_report(app, now);
    if (app->phase == APP_PHASE_WAITING && !app->frozen && now >= app->retry_ns) {
        app->restarting = true;
        begin_start(app, false);
    }
}

int64_t app_deadline(const struct app *app)
{
    int64_t deadline = app->ops->deadline(app);

    if (app->report != APP_REPORT_NONE && !held(app))
        return 0;
    if (app->phase == APP_PHASE_WAITING && !app->frozen)
        deadline = MIN(deadline, app->retry_ns);
    return deadline;
}

enum app_state app_state(const struct app *app)
{
    if (app->frozen && !app_gone(app) && app->phase != APP_PHASE_STOPPING)
        return APP_STATE_FROZEN;
    switch (app->phase) {
    case APP_PHASE_REST:
        return app->foreign ? APP_STATE_FOREIGN : APP_STATE_STOPPED;
    case APP_PHASE_STARTING:
    case APP_PHASE_CLEANING:
    case APP_PHASE_WAITING:
        return APP_STATE_STARTING;
    case APP_PHASE_RUNNING:
        return APP_STATE_RUNNING;
    case APP_PHASE_STOPPING:
        return APP_STATE_STOPPING;
    case APP_PHASE_FAILED:
        return APP_STATE_FAILED;
    }
    ENSURE(false);
    return APP_STATE_FAILED;
}
