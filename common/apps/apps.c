// SPDX-License-Identifier: Apache-2.0
// The handle: its two sides and the order among the applications.
//
// Threads: the caller's posts commands, takes events and reads the snapshot; the runner does
// everything else. `lock` guards what both touch; it is held for copying only. The output callback
// alone runs in the runner's thread.
#include "common/apps/apps.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/apps/app.h"
#include "common/apps/app_config.h"
#include "common/apps/identity.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/thread.h"

enum command_kind {
    COMMAND_RUN,
    COMMAND_ADOPT,
    COMMAND_STOP,
    COMMAND_KILL,
    COMMAND_CHECK,
    COMMAND_FREEZE,
    COMMAND_THAW,
    COMMAND_QUIT,
};

enum goal { GOAL_REST, GOAL_RUN, GOAL_STOPPED };

struct posted {
    enum command_kind kind;
    struct posted *next;
};

struct happened {
    struct apps_event event; // its text is owned, its app is the configuration's
    struct happened *next;
};

struct apps {
    struct apps_setup setup;
    struct app *list;
    size_t count;
    pthread_t runner;
    int wake_fd;  // of the runner
    int event_fd; // of the caller

    pthread_mutex_t lock;
    struct posted *commands, **last_command;
    struct happened *events, **last_event;
    struct app_status *statuses;
    struct apps_target *targets;
    size_t target_count;

    enum goal goal; // the runner's, from here on
    bool adopt;
    bool kill;
    bool announced; // the goal is reached and that is said
    bool checking;
    bool rechecking;    // nobody has asked for it
    int64_t recheck_ns; // when to do that; INT64_MAX: never
    char *found;        // by the last check; NULL: none yet
    bool frozen;
    bool targets_changed;
    struct happened *fresh, **last_fresh; // not yet published
};

static void wake(int fd)
{
    (void)eventfd_write(fd, 1);
}

static void unwake(int fd)
{
    eventfd_t count;
    (void)eventfd_read(fd, &count);
}

// ---- from the runner to the caller

// Kept until publish(), so that who sees an event sees at least the state that it speaks of.
static void emit(struct apps *apps, const struct apps_event *event)
{
    struct happened *h = calloc(1, sizeof(*h));

    ENSURE(h);
    h->event = *event;
    h->event.text = strdup(event->text);
    ENSURE(h->event.text);
    *apps->last_fresh = h;
    apps->last_fresh = &h->next;
}

static void on_app_event(void *context, const struct apps_event *event)
{
    struct apps *apps = context;

    if (event->type == APPS_TARGETS)
        apps->targets_changed = true; // publish() says so if it is true
    else
        emit(apps, event);
}

static void announce(struct apps *apps, enum apps_event_type type, const char *text)
{
    struct apps_event e = {.type = type, .text = text};
    emit(apps, &e);
}

static size_t collect_targets(struct apps *apps, struct apps_target *targets, size_t limit)
{
    size_t n = 0;

    for (size_t i = 0; i < apps->count; i++) {
        struct app *app = &apps->list[i];
        size_t first = n;
        n += app->ops->targets(app, targets + n, limit - n);
        for (size_t j = first; j < n; j++) {
            struct apps_target *t = &targets[j];
            snprintf(t->app, sizeof(t->app), "%s", app->config.name);
            if (t->pid && !t->pid_start && process_start(t->pid, &t->pid_start) < 0)
                t->pid = 0; // has ended meanwhile: nothing to freeze
        }
    }
    return n;
}

static void publish_targets(struct apps *apps)
{
    size_t limit = apps->count * APP_TARGETS_MAX;
    struct apps_target *targets = calloc(limit + 1, sizeof(*targets));

    ENSURE(targets);
    apps->targets_changed = false;
    size_t n = collect_targets(apps, targets, limit);
    pthread_mutex_lock(&apps->lock);
    bool same = n == apps->target_count &&
                (n == 0 || memcmp(targets, apps->targets, n * sizeof(*targets)) == 0);
    if (!same) {
        struct apps_target *old = apps->targets;
        apps->targets = targets;
        apps->target_count = n;
        targets = old;
    }
    pthread_mutex_unlock(&apps->lock);
    free(targets);
    if (!same)
        announce(apps, APPS_TARGETS, "");
}

static void publish(struct apps *apps)
{
    if (apps->targets_changed)
        publish_targets(apps);
    HOLD_LOCK(&apps->lock);
    for (size_t i = 0; i < apps->count; i++) {
        const struct app *app = &apps->list[i];
        struct app_status *s = &apps->statuses[i];
        s->state = app_state(app);
        s->restarts = app->restarts;
        s->start_ms = app->start_ms;
        memcpy(s->why, app->why, sizeof(s->why));
    }
    if (apps->fresh) {
        *apps->last_event = apps->fresh;
        apps->last_event = apps->last_fresh;
        apps->fresh = NULL;
        apps->last_fresh = &apps->fresh;
        wake(apps->event_fd);
    }
}

// ---- the order among them

static void reach(struct apps *apps, enum apps_event_type type)
{
    if (!apps->announced)
        announce(apps, type, "");
    apps->announced = true;
    apps->adopt = false;
}

// Starts the first one that does not run yet, unless an earlier one is still on its way, or has
// failed for good.
static void advance_run(struct apps *apps)
{
    for (size_t i = 0; i < apps->count; i++) {
        struct app *app = &apps->list[i];
        bool optional = app->config.on_failure == APP_FAILURE_NONE;
        if (app->phase == APP_PHASE_RUNNING || (app->phase == APP_PHASE_FAILED && optional))
            continue;
        if (app->phase == APP_PHASE_REST && !apps->frozen)
            app_start(app, apps->adopt);
        return;
    }
    reach(apps, APPS_STARTED);
}

static void advance_stop(struct apps *apps)
{
    bool left = false;

    for (size_t i = apps->count; i-- > 0 && (!left || apps->kill);) {
        struct app *app = &apps->list[i];
        if (app->phase == APP_PHASE_REST)
            continue;
        if (apps->kill || apps->frozen)
            app_kill(app);
        else
            app_stop(app);
        left = left || app->phase != APP_PHASE_REST;
    }
    if (!left)
        reach(apps, APPS_STOPPED);
}

static void advance_check(struct apps *apps)
{
    CLEANUP_FREE char *text = NULL;
    size_t size = 0;
    const char *between = "";

    for (size_t i = 0; i < apps->count; i++)
        if (apps->list[i].checking)
            return;
    apps->checking = false;
    FILE *f = open_memstream(&text, &size);
    ENSURE(f);
    for (size_t i = 0; i < apps->count; i++)
        if (apps->list[i].foreign) {
            (void)fprintf(f, "%s%s", between, apps->list[i].why);
            between = "; ";
        }
    ENSURE(fclose(f) == 0);
    if (!apps->rechecking || !apps->found || strcmp(apps->found, text) != 0)
        announce(apps, APPS_CHECKED, text);
    free(apps->found);
    apps->found = TAKE_PTR(text);
    if (apps->setup.recheck_ms > 0)
        apps->recheck_ns = clock_boot_ns() + apps->setup.recheck_ms * NS_PER_MS;
}

static void advance(struct apps *apps)
{
    if (apps->goal == GOAL_RUN)
        advance_run(apps);
    else if (apps->goal == GOAL_STOPPED)
        advance_stop(apps);
    if (apps->checking)
        advance_check(apps);
}

// ---- commands

static void set_goal(struct apps *apps, enum goal goal, bool adopt, bool kill)
{
    apps->goal = goal;
    apps->adopt = adopt;
    apps->kill = kill;
    apps->announced = false;
    apps->checking = false;
    apps->recheck_ns = INT64_MAX;
    for (size_t i = 0; i < apps->count; i++) {
        struct app *app = &apps->list[i];
        if (kill)
            app_kill(app);
        else if (app->phase == APP_PHASE_FAILED)
            app_stop(app); // it gets another chance, or rests
    }
}

static void begin_check(struct apps *apps)
{
    if (apps->goal == GOAL_RUN || (apps->goal == GOAL_STOPPED && !apps->announced))
        return;
    apps->checking = true;
    apps->rechecking = false;
    apps->recheck_ns = INT64_MAX;
    for (size_t i = 0; i < apps->count; i++)
        app_check(&apps->list[i]);
}

// Somebody may define or start a domain of ours at any time.
static void begin_recheck(struct apps *apps)
{
    apps->recheck_ns = INT64_MAX;
    for (size_t i = 0; i < apps->count; i++) {
        if (apps->list[i].config.kind != APP_DOMAIN)
            continue;
        apps->checking = true;
        apps->rechecking = true;
        app_check(&apps->list[i]);
    }
}

static void set_frozen(struct apps *apps, bool frozen)
{
    apps->frozen = frozen;
    for (size_t i = 0; i < apps->count; i++)
        app_freeze(&apps->list[i], frozen);
}

// False: the end.
static bool carry_out(struct apps *apps, enum command_kind kind)
{
    switch (kind) {
    case COMMAND_RUN:
    case COMMAND_ADOPT:
        set_goal(apps, GOAL_RUN, kind == COMMAND_ADOPT, false);
        break;
    case COMMAND_STOP:
    case COMMAND_KILL:
        set_goal(apps, GOAL_STOPPED, false, kind == COMMAND_KILL);
        break;
    case COMMAND_CHECK:
        begin_check(apps);
        break;
    case COMMAND_FREEZE:
    case COMMAND_THAW:
        set_frozen(apps, kind == COMMAND_FREEZE);
        break;
    case COMMAND_QUIT:
        return false;
    }
    return true;
}

static struct posted *take_command(struct apps *apps)
{
    HOLD_LOCK(&apps->lock);
    struct posted *p = apps->commands;
    if (p) {
        apps->commands = p->next;
        if (!p->next)
            apps->last_command = &apps->commands;
    }
    return p;
}

static bool take_commands(struct apps *apps)
{
    struct posted *p;
    bool more = true;

    while (more && (p = take_command(apps))) {
        more = carry_out(apps, p->kind);
        free(p);
    }
    return more;
}

// ---- the runner

static int poll_timeout(const struct apps *apps)
{
    int64_t deadline = apps->recheck_ns, now = clock_boot_ns();

    for (size_t i = 0; i < apps->count; i++)
        deadline = MIN(deadline, app_deadline(&apps->list[i]));
    if (deadline == INT64_MAX)
        return -1;
    if (deadline <= now)
        return 0;
    return (int)MIN((deadline - now + NS_PER_MS - 1) / NS_PER_MS, 3600 * 1000);
}

static void wait_for_something(struct apps *apps, struct pollfd *fds)
{
    size_t n = 0;

    fds[n++] = (struct pollfd){.fd = apps->wake_fd, .events = POLLIN};
    for (size_t i = 0; i < apps->count; i++)
        n += apps->list[i].ops->polls(&apps->list[i], fds + n);
    (void)poll(fds, (nfds_t)n, poll_timeout(apps));
    if (fds[0].revents)
        unwake(apps->wake_fd);
}

static void *run(void *opaque)
{
    struct apps *apps = opaque;
    struct pollfd *fds = calloc(1 + apps->count * APP_POLLS_MAX, sizeof(*fds));

    ENSURE(fds);
    while (take_commands(apps)) {
        for (size_t i = 0; i < apps->count; i++)
            app_work(&apps->list[i], clock_boot_ns());
        if (clock_boot_ns() >= apps->recheck_ns)
            begin_recheck(apps);
        advance(apps);
        publish(apps);
        wait_for_something(apps, fds);
    }
    free(fds);
    return NULL;
}

// ---- the caller's side

static void post(struct apps *apps, enum command_kind kind)
{
    struct posted *p = calloc(1, sizeof(*p));

    ENSURE(p);
    p->kind = kind;
    HOLD_LOCK(&apps->lock);
    *apps->last_command = p;
    apps->last_command = &p->next;
    wake(apps->wake_fd);
}

static int check_list(const struct app_config *list, size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        int r = app_config_check(&list[i], err);
        if (r < 0)
            return r;
        for (size_t j = 0; j < i; j++)
            if (strcmp(list[i].name, list[j].name) == 0)
                return error_set(err, -EINVAL, "two applications have the name '%s'", list[i].name);
    }
    return 0;
}

// Frees a handle whose runner does not run (any more).
static void release(struct apps *apps)
{
    struct posted *p;
    struct happened *h;

    for (size_t i = 0; i < apps->count; i++)
        app_close(&apps->list[i]);
    while ((p = apps->commands)) {
        apps->commands = p->next;
        free(p);
    }
    *apps->last_event = apps->fresh;
    while ((h = apps->events)) {
        apps->events = h->next;
        free((void *)(uintptr_t)h->event.text);
        free(h);
    }
    if (apps->wake_fd >= 0)
        (void)close(apps->wake_fd);
    if (apps->event_fd >= 0)
        (void)close(apps->event_fd);
    (void)pthread_mutex_destroy(&apps->lock);
    apps_setup_clear(&apps->setup);
    free(apps->found);
    free(apps->statuses);
    free(apps->targets);
    free(apps->list);
    free(apps);
}

static int open_all(struct apps *apps, const struct app_config *list, size_t count,
                    struct error *err)
{
    char path[PATH_SIZE];

    if (apps->wake_fd < 0 || apps->event_fd < 0)
        return error_sys(err, -EMFILE, "cannot make an eventfd");
    int r = path_format(path, sizeof(path), "%s/apps", apps->setup.runtime_dir);
    if (r < 0)
        return error_sys(err, r, "the runtime directory %s", apps->setup.runtime_dir);
    if ((r = dir_make(path, 0700, err)) < 0)
        return r;
    for (; apps->count < count; apps->count++) {
        struct app *app = &apps->list[apps->count];
        r = app_open(&list[apps->count], &apps->setup, on_app_event, apps, app, err);
        if (r < 0)
            return r;
        apps->statuses[apps->count] = (struct app_status){.name = app->config.name,
                                                          .kind = app->config.kind,
                                                          .state = APP_STATE_STOPPED,
                                                          .start_ms = -1};
    }
    r = thread_start(&apps->runner, "apps", run, apps);
    return r < 0 ? error_sys(err, r, "cannot make a thread for the applications") : 0;
}

int apps_open(const struct apps_setup *setup, const struct app_config *list, size_t count,
              struct apps **ret_apps, struct error *err)
{
    int r;

    if ((r = apps_setup_check(setup, err)) < 0 || (r = check_list(list, count, err)) < 0)
        return r;
    struct apps *apps = calloc(1, sizeof(*apps));
    ENSURE(apps);
    apps_setup_copy(setup, &apps->setup);
    apps->list = calloc(count + 1, sizeof(*apps->list));
    apps->statuses = calloc(count + 1, sizeof(*apps->statuses));
    ENSURE(apps->list && apps->statuses);
    ENSURE(pthread_mutex_init(&apps->lock, NULL) == 0);
    apps->recheck_ns = INT64_MAX;
    apps->last_command = &apps->commands;
    apps->last_event = &apps->events;
    apps->last_fresh = &apps->fresh;
    apps->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    apps->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = open_all(apps, list, count, err);
    if (r < 0) {
        release(apps);
        return r;
    }
    *ret_apps = apps;
    return 0;
}

struct apps *apps_forget(struct apps *apps)
{
    if (apps) {
        post(apps, COMMAND_QUIT);
        (void)pthread_join(apps->runner, NULL);
        release(apps);
    }
    return NULL;
}

void apps_start_all(struct apps *apps)
{
    post(apps, COMMAND_RUN);
}

void apps_adopt(struct apps *apps)
{
    post(apps, COMMAND_ADOPT);
}

void apps_stop_all(struct apps *apps)
{
    post(apps, COMMAND_STOP);
}

void apps_kill_all(struct apps *apps)
{
    post(apps, COMMAND_KILL);
}

void apps_check_foreign(struct apps *apps)
{
    post(apps, COMMAND_CHECK);
}

void apps_set_frozen(struct apps *apps, bool frozen)
{
    post(apps, frozen ? COMMAND_FREEZE : COMMAND_THAW);
}

int apps_fd(const struct apps *apps)
{
    return apps->event_fd;
}

int64_t apps_deadline_ns(const struct apps *apps)
{
    return INT64_MAX;
}

void apps_work(struct apps *apps)
{
    const struct apps_callbacks *c = &apps->setup.callbacks;
    struct happened *h;

    pthread_mutex_lock(&apps->lock);
    unwake(apps->event_fd);
    h = apps->events;
    apps->events = NULL;
    apps->last_event = &apps->events;
    pthread_mutex_unlock(&apps->lock);
    while (h) {
        struct happened *next = h->next;
        c->event(c->context, &h->event);
        free((void *)(uintptr_t)h->event.text);
        free(h);
        h = next;
    }
}

size_t apps_count(const struct apps *apps)
{
    return apps->count;
}

void apps_status(const struct apps *apps, size_t index, struct app_status *ret_status)
{
    HOLD_LOCK(&((struct apps *)(uintptr_t)apps)->lock);
    ENSURE(index < apps->count);
    *ret_status = apps->statuses[index];
}

size_t apps_freeze_targets(const struct apps *apps, struct apps_target *ret_targets, size_t limit)
{
    HOLD_LOCK(&((struct apps *)(uintptr_t)apps)->lock);
    if (limit && apps->target_count)
        memcpy(ret_targets, apps->targets, MIN(limit, apps->target_count) * sizeof(*ret_targets));
    return apps->target_count;
}
