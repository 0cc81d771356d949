// SPDX-License-Identifier: Apache-2.0
// Applications that are scripts: a start command, and what it leaves behind in its group; a stop
// and a status command where there are some.
//
//   rest --start--> [clearing: leftovers killed] --> starting --exit 0--> running <--> asking
//   (status command) any  --stop-->  stopping (stop command, or SIGTERM) --> clearing --> rest any
//   --kill-->  clearing --> rest rest --adopt--> probing (status command) --exit 0--> running, else
//   stopping and a start from the beginning
//
// A start that has failed is followed by a stop (the caller's doing), so that what it has half done
// is undone.
#include <inttypes.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/apps/app.h"
#include "common/apps/command.h"
#include "common/apps/group.h"
#include "common/apps/output.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"

#define KILL_STEP_NS (100 * NS_PER_MS) // between two looks at a group that should be empty soon
#define UNKILLABLE   100               // so many looks before somebody is told

enum script_state {
    SCRIPT_REST,
    SCRIPT_STARTING,
    SCRIPT_PROBING,
    SCRIPT_RUNNING,
    SCRIPT_ASKING,
    SCRIPT_STOPPING,    // the stop command runs
    SCRIPT_TERMINATING, // no stop command: SIGTERM is sent, the group empties
    SCRIPT_CLEARING,    // SIGKILL is sent until the group is empty
    SCRIPT_CHECKING,    // status command of an end that is not active
};

struct script {
    struct app *app;
    struct group *group;
    struct output *output;
    char **environment; // ends in NULL; the role is the first
    size_t environment_count;
    enum script_state state;
    bool start_after; // clearing is the beginning of a start
    bool watched;     // the group has had a process since the start: empty means ended
    bool frozen;
    int64_t frozen_ns;
    struct command *command;
    int64_t deadline_ns; // of the state
    int kills;
};

static void add_variable(struct script *s, const char *name, const char *value)
{
    char *text = NULL;

    ENSURE(asprintf(&text, "%s=%s", name, value) > 0);
    s->environment = reallocarray(s->environment, s->environment_count + 2, sizeof(char *));
    ENSURE(s->environment);
    s->environment[s->environment_count++] = text;
    s->environment[s->environment_count] = NULL;
}

// UNDERSTUDY_VOLUME_<NAME>: letters large, everything else that no shell allows '_'.
static void add_volume(struct script *s, const struct apps_volume *v)
{
    char name[256];
    int n = snprintf(name, sizeof(name), "UNDERSTUDY_VOLUME_%s", v->name);

    ENSURE(n > 0 && (size_t)n < sizeof(name));
    for (char *p = name; *p; p++) {
        if (*p >= 'a' && *p <= 'z')
            *p = (char)(*p - 'a' + 'A');
        else if (!(*p >= 'A' && *p <= 'Z') && !(*p >= '0' && *p <= '9'))
            *p = '_';
    }
    add_variable(s, name, v->socket);
}

static void make_environment(struct script *s)
{
    const struct apps_setup *setup = s->app->setup;
    const char *path = getenv("PATH");
    CLEANUP_FREE char *addresses = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&addresses, &size);

    ENSURE(f);
    for (size_t i = 0; i < setup->address_count; i++)
        (void)fprintf(f, "%s%s", i ? " " : "", setup->addresses[i]);
    ENSURE(fclose(f) == 0);
    add_variable(s, "UNDERSTUDY_ROLE", "active");
    add_variable(s, "PATH",
                 path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    add_variable(s, "UNDERSTUDY_PAIR", setup->pair);
    add_variable(s, "UNDERSTUDY_IDENTITY", setup->identity);
    add_variable(s, "UNDERSTUDY_APPLICATION", s->app->config.name);
    add_variable(s, "UNDERSTUDY_ADDRESSES", addresses);
    for (size_t i = 0; i < setup->volume_count; i++)
        add_volume(s, &setup->volumes[i]);
    const char *mark = group_mark(s->group);
    const char *value = strchr(mark, '=');
    add_variable(s, "UNDERSTUDY_GROUP", value + 1);
}

static void set_role(struct script *s, const char *role)
{
    free(s->environment[0]);
    ENSURE(asprintf(&s->environment[0], "UNDERSTUDY_ROLE=%s", role) > 0);
}

static void give_line(void *context, const char *line)
{
    struct script *s = context;
    const struct apps_callbacks *c = &s->app->setup->callbacks;

    if (c->output)
        c->output(c->context, s->app->config.name, line);
}

static int script_open(struct app *app, struct error *err)
{
    const struct apps_setup *setup = app->setup;
    struct script *s = calloc(1, sizeof(*s));
    char path[PATH_SIZE];

    ENSURE(s);
    s->app = app;
    int r = path_format(path, sizeof(path), "%s/apps/%s.out", setup->runtime_dir, app->config.name);
    if (r == 0)
        r = output_open(path, give_line, s, &s->output, err);
    if (r < 0) {
        free(s);
        return r;
    }
    s->group = group_open(setup->cgroup_parent, setup->pair, setup->identity, app->config.name,
                          setup->runtime_dir);
    make_environment(s);
    app->impl = s;
    return 0;
}

static void script_close(struct app *app)
{
    struct script *s = app->impl;

    (void)command_free(s->command);
    (void)output_free(s->output);
    (void)group_free(s->group);
    for (size_t i = 0; i < s->environment_count; i++)
        free(s->environment[i]);
    free(s->environment);
    free(s);
}

static void set_state(struct script *s, enum script_state state, int64_t deadline_ns)
{
    s->state = state;
    s->deadline_ns = deadline_ns;
}

// Ends the command under way, if there is one, because its answer has become worthless.
static void drop_command(struct script *s)
{
    if (s->command) {
        command_kill(s->command);
        s->command = command_free(s->command);
    }
}

static int run(struct script *s, const char *const *argv, int64_t timeout_ms, struct error *err)
{
    CLEANUP_CLOSE int out = output_writer(s->output);

    ENSURE(!s->command);
    if (out < 0)
        return error_sys(err, out, "cannot open the output pipe of '%s'", s->app->config.name);
    struct command_spec spec = {argv, s->environment, s->group, out, timeout_ms};
    return command_start(&spec, &s->command, err);
}

static void lose(struct script *s, const char *what, const struct error *err)
{
    set_state(s, SCRIPT_REST, INT64_MAX);
    app_report(s->app, APP_REPORT_LOST, "%s: %s", what, err->text);
}

static void begin(struct script *s)
{
    struct error err = {0};

    group_prepare(s->group);
    s->watched = false;
    set_role(s, "active");
    set_state(s, SCRIPT_STARTING, INT64_MAX);
    if (run(s, s->app->config.start, s->app->config.start_timeout_ms, &err) < 0)
        lose(s, "start", &err);
    app_targets_changed(s->app);
}

static void kill_step(struct script *s, int64_t now)
{
    if (!group_empty(s->group)) {
        if (++s->kills == UNKILLABLE)
            app_note(
                s->app,
                "processes of the application do not end in spite of SIGKILL; waiting for them");
        group_signal(s->group, SIGKILL);
        s->deadline_ns = now + KILL_STEP_NS;
        return;
    }
    if (s->start_after) {
        begin(s);
        return;
    }
    group_remove(s->group);
    set_state(s, SCRIPT_REST, INT64_MAX);
    app_report(s->app, APP_REPORT_STOPPED, "%s", "");
}

static void clear(struct script *s, bool start_after)
{
    drop_command(s);
    s->kills = 0;
    s->start_after = start_after;
    set_state(s, SCRIPT_CLEARING, 0);
}

static void go_running(struct script *s, int64_t now)
{
    if (!group_empty(s->group))
        s->watched = true;
    set_state(s, SCRIPT_RUNNING, now + s->app->config.status_interval_ms * NS_PER_MS);
    app_targets_changed(s->app);
}

static void terminate(struct script *s, bool start_after)
{
    struct error err = {0};
    int64_t now = clock_boot_ns();
    const struct app_config *c = &s->app->config;

    drop_command(s);
    s->start_after = start_after;
    if (!c->stop) {
        if (group_empty(s->group)) {
            clear(s, start_after);
            return;
        }
        group_signal(s->group, SIGTERM);
        set_state(s, SCRIPT_TERMINATING, now + c->stop_timeout_ms * NS_PER_MS);
        return;
    }
    group_prepare(s->group);
    set_state(s, SCRIPT_STOPPING, INT64_MAX);
    if (run(s, c->stop, c->stop_timeout_ms, &err) < 0) {
        app_note(s->app, "stop: %s; its processes are killed", err.text);
        clear(s, start_after);
    }
}

static void script_start(struct app *app, bool adopt)
{
    struct script *s = app->impl;
    struct error err = {0};

    drop_command(s);
    if (!adopt) {
        clear(s, true);
    } else if (!app->config.status) {
        if (group_empty(s->group)) {
            clear(s, true);
        } else {
            go_running(s, clock_boot_ns());
            app_report(app, APP_REPORT_STARTED, "%s", "");
        }
    } else {
        group_prepare(s->group);
        set_role(s, "active");
        set_state(s, SCRIPT_PROBING, INT64_MAX);
        if (run(s, app->config.status, app->config.status_timeout_ms, &err) < 0)
            lose(s, "status", &err);
    }
}

static void script_stop(struct app *app)
{
    struct script *s = app->impl;

    if (s->state == SCRIPT_STOPPING || s->state == SCRIPT_TERMINATING ||
        s->state == SCRIPT_CLEARING)
        s->start_after = false;
    else
        terminate(s, false);
}

static void script_kill(struct app *app)
{
    clear(app->impl, false);
}

static void script_check(struct app *app)
{
    struct script *s = app->impl;
    struct error err = {0};
    pid_t pid = 0;

    if (s->state == SCRIPT_CHECKING)
        return; // that one's answer is this one's, too; its own status command is in the group
    if (!group_empty(s->group)) {
        (void)group_pids(s->group, &pid, 1);
        app_report(app, APP_REPORT_CHECKED,
                   "processes of '%s' run here (process %d is one) though this end is not "
                   "active; stop them",
                   app->config.name, (int)pid);
    } else if (!app->config.status) {
        app_report(app, APP_REPORT_CHECKED, "%s", "");
    } else {
        group_prepare(s->group);
        set_role(s, "passive");
        set_state(s, SCRIPT_CHECKING, INT64_MAX);
        if (run(s, app->config.status, app->config.status_timeout_ms, &err) < 0) {
            set_state(s, SCRIPT_REST, INT64_MAX);
            app_report(app, APP_REPORT_CHECKED, "the status of '%s' cannot be asked: %s",
                       app->config.name, err.text);
        }
    }
}

static void script_freeze(struct app *app, bool frozen)
{
    struct script *s = app->impl;
    int64_t now = clock_boot_ns();

    s->frozen = frozen;
    if (frozen) {
        s->frozen_ns = now;
        return;
    }
    if (s->command)
        command_shift(s->command, now - s->frozen_ns);
    if (s->state == SCRIPT_RUNNING)
        s->deadline_ns = now; // look at once
    else if (s->state == SCRIPT_TERMINATING)
        s->deadline_ns += now - s->frozen_ns;
}

// The command of the state has ended with `r`.
static void take_result(struct script *s, int r, const struct error *err, int64_t now)
{
    switch (s->state) {
    case SCRIPT_STARTING:
    case SCRIPT_ASKING:
        if (r < 0) {
            lose(s, s->state == SCRIPT_STARTING ? "start" : "status", err);
            break;
        }
        if (s->state == SCRIPT_STARTING)
            app_report(s->app, APP_REPORT_STARTED, "%s", "");
        go_running(s, now);
        break;
    case SCRIPT_PROBING:
        if (r < 0) {
            app_note(s->app, "does not run any more (status: %s); it is started again", err->text);
            terminate(s, true);
            break;
        }
        go_running(s, now);
        app_report(s->app, APP_REPORT_STARTED, "%s", "");
        break;
    case SCRIPT_STOPPING:
        if (r < 0)
            app_note(s->app, "stop: %s; its processes are killed", err->text);
        clear(s, s->start_after);
        break;
    case SCRIPT_CHECKING:
        set_state(s, SCRIPT_REST, INT64_MAX);
        group_remove(s->group);
        app_report(
            s->app, APP_REPORT_CHECKED, "%s%s%s", r < 0 ? "" : "'",
            r < 0 ? "" : s->app->config.name,
            r < 0 ? ""
                  : "' runs here, says its status command, though this end is not active; stop it");
        break;
    case SCRIPT_REST:
    case SCRIPT_RUNNING:
    case SCRIPT_TERMINATING:
    case SCRIPT_CLEARING:
        ENSURE(false); // these have no command
    }
}

// No command runs: has the last process gone, or is it time to ask? Without a cgroup only the
// latter says when to look.
static void look(struct script *s, int64_t now)
{
    struct error err = {0};
    bool due = now >= s->deadline_ns;
    bool empty = (group_fd(s->group) >= 0 || due) && group_empty(s->group);
    bool ended = s->watched && empty;

    if (!s->app->config.status) {
        if (ended) {
            (void)error_set(&err, -ESRCH, "its last process has ended");
            lose(s, "application", &err);
        } else if (due) {
            go_running(s, now);
        }
    } else if (ended || due) {
        s->watched =
            s->watched && !ended; // a status of 0 now means: it runs without a process of its own
        set_state(s, SCRIPT_ASKING, INT64_MAX);
        if (run(s, s->app->config.status, s->app->config.status_timeout_ms, &err) < 0)
            lose(s, "status", &err);
    }
}

static void work_command(struct script *s, int64_t now)
{
    struct error err = {0};

    if (!command_work(s->command, now))
        return;
    output_flush(s->output, now);
    int r = command_result(s->command, &err);
    s->command = command_free(s->command);
    take_result(s, r, &err, now);
}

static void script_work(struct app *app, int64_t now)
{
    struct script *s = app->impl;

    output_work(s->output, now);
    if (s->state == SCRIPT_CLEARING) {
        if (now >= s->deadline_ns || group_empty(s->group))
            kill_step(s, now);
    } else if (s->frozen) {
        return;
    } else if (s->command) {
        work_command(s, now);
    } else if (s->state == SCRIPT_RUNNING) {
        look(s, now);
    } else if (s->state == SCRIPT_TERMINATING && (now >= s->deadline_ns || group_empty(s->group))) {
        if (now >= s->deadline_ns)
            app_note(s->app, "stop: SIGTERM did not end it in time; its processes are killed");
        clear(s, s->start_after);
    }
}

static int64_t script_deadline(const struct app *app)
{
    const struct script *s = app->impl;

    if (s->state == SCRIPT_CLEARING)
        return s->deadline_ns;
    if (s->frozen)
        return INT64_MAX;
    if (s->command)
        return command_deadline_ns(s->command);
    // A group without a cgroup tells nobody when it is empty.
    if (s->state == SCRIPT_TERMINATING && group_fd(s->group) < 0)
        return MIN(s->deadline_ns, clock_boot_ns() + KILL_STEP_NS);
    return s->deadline_ns;
}

static size_t script_polls(const struct app *app, struct pollfd *ret_fds)
{
    const struct script *s = app->impl;
    size_t n = 0;

    ret_fds[n++] = (struct pollfd){.fd = output_fd(s->output), .events = POLLIN};
    if (s->command && !s->frozen)
        ret_fds[n++] = (struct pollfd){.fd = command_fd(s->command), .events = POLLIN};
    // That a group was frozen is an event of it, too, which stays one until somebody looks at it.
    bool looked_at = s->state == SCRIPT_CLEARING ||
                     (!s->frozen && (s->state == SCRIPT_RUNNING || s->state == SCRIPT_TERMINATING));
    if (group_fd(s->group) >= 0 && looked_at)
        ret_fds[n++] = (struct pollfd){.fd = group_fd(s->group), .events = POLLPRI};
    return n;
}

static size_t script_targets(const struct app *app, struct apps_target *ret_targets, size_t limit)
{
    const struct script *s = app->impl;
    const char *cgroup = group_cgroup(s->group);
    pid_t pids[APP_TARGETS_MAX];

    if (s->state == SCRIPT_REST || s->state == SCRIPT_CHECKING || limit == 0)
        return 0;
    if (cgroup[0]) {
        snprintf(ret_targets[0].cgroup, sizeof(ret_targets[0].cgroup), "%s", cgroup);
        return 1;
    }
    size_t n = group_pids(s->group, pids, MIN(limit, (size_t)APP_TARGETS_MAX));
    for (size_t i = 0; i < n; i++)
        ret_targets[i].pid = pids[i];
    return n;
}

const struct app_ops script_ops = {
    .open = script_open,
    .close = script_close,
    .start = script_start,
    .stop = script_stop,
    .kill = script_kill,
    .check = script_check,
    .freeze = script_freeze,
    .polls = script_polls,
    .work = script_work,
    .deadline = script_deadline,
    .targets = script_targets,
};
