// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/daemon.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "common/base/aside.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/channel/channel.h"
#include "common/config/places.h"
#include "common/control/control.h"
#include "common/daemon/ends.h"
#include "common/daemon/gone.h"
#include "common/daemon/openings.h"
#include "common/daemon/options.h"
#include "common/daemon/prompt.h"
#include "common/daemon/requests.h"
#include "guard/guard.h"

// What comes of starting a guard: that may take seconds, and heartbeats must go on.
struct guard_start {
    struct guard *guard; // NULL: failed, `error` says why
    bool found;
    struct error error;
};

struct daemon {
    struct options options;
    enum pair_end kind;
    struct pair_config_list pairs;
    sd_event *loop;
    struct ends *ends;
    sd_event_source *ends_timer;
    struct guard *guard;
    sd_event_source *guard_source, *guard_timer;
    uint64_t guard_pause_us; // before another try to start it
    struct aside *aside; // starts one
    struct guard_start guard_start; // the thread's while it does
    struct openings *openings;
    struct gone *gone;
    size_t mine; // pairs of this host
    bool serves; // those who ask at the control socket
    unsigned sockets; // of the channels of all pairs that may run
    bool *left_out; // by pair: could not be opened yet
    struct error *left_out_why;
    sd_event_source *left_out_timer;
    uint64_t left_out_pause_us;
    struct requests requests;
    struct control_server *control;
    int carrier; // channel_carrier()
    struct channel_bundler *bundler;
    bool ending;
};

// ---- endpoints ----

static void end_if_all_exited(struct daemon *d)
{
    if (!d->ending)
        return;
    for (size_t i = 0; i < ends_count(d->ends); i++) {
        if (!endpoint_exited(ends_at(d->ends, i)))
            return;
    }
    (void)sd_event_exit(d->loop, 0);
}

// What the ends have said is sent, and the timer set.
static void settle(struct daemon *d)
{
    channel_bundler_send(d->bundler);
    int64_t at = ends_deadline_ns(d->ends);
    bool armed = at != INT64_MAX;
    if (armed)
        (void)sd_event_source_set_time(d->ends_timer, (uint64_t)(MAX(at, 0) / NS_PER_US));
    (void)sd_event_source_set_enabled(d->ends_timer, armed ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static void work(struct daemon *d)
{
    ends_work(d->ends);
    settle(d);
    end_if_all_exited(d);
}

static int on_ends(sd_event_source *source, int fd, uint32_t events, void *user)
{
    (void)source, (void)fd, (void)events;
    work(user);
    return 0;
}

static int on_ends_timer(sd_event_source *source, uint64_t usec, void *user)
{
    (void)source, (void)usec;
    work(user);
    return 0;
}

static int open_ends(struct daemon *d, struct error *err)
{
    d->ends = ends_new();
    if (!d->ends)
        return error_sys(err, -ENOMEM, "the ends");
    int r = sd_event_add_io(d->loop, NULL, ends_fd(d->ends), EPOLLIN, on_ends, d);
    if (r >= 0)
        r = sd_event_add_time(d->loop, &d->ends_timer, CLOCK_BOOTTIME, 0, 1000, on_ends_timer, d);
    return r < 0 ? error_sys(err, r, "event loop") : 0;
}

#define OPENING_PATIENCE_US UINT64_C(2000000)   // until those who ask are answered without what is still being opened
#define ENDING_PATIENCE_NS (2 * NS_PER_S)       // for what is still being opened when the daemon ends
#define LEFT_OUT_PAUSE_MIN_US UINT64_C(2000000)
#define LEFT_OUT_PAUSE_MAX_US UINT64_C(60000000)

static int on_left_out(sd_event_source *source, uint64_t usec, void *user);

// What could not be opened may be there later: an interface, an address, a directory. Tried again with pauses that grow.
static void leave_out(struct daemon *d, size_t index, const struct error *err)
{
    // Said once, and again when the reason is another one.
    if (strcmp(d->left_out_why[index].text, err->text) != 0)
        log_error("pair %s: does not run, and is tried again: %s", d->pairs.items[index]->pair, err->text);
    d->left_out_why[index] = *err;
    d->left_out[index] = true;
    if (d->left_out_timer)
        return;
    d->left_out_pause_us = MIN(MAX(2 * d->left_out_pause_us, LEFT_OUT_PAUSE_MIN_US), LEFT_OUT_PAUSE_MAX_US);
    (void)sd_event_add_time_relative(d->loop, &d->left_out_timer, CLOCK_BOOTTIME, d->left_out_pause_us, 0, on_left_out, d);
}

// A pair that cannot be run is said and left out for now: the others are not to suffer for it.
static void start_endpoint(struct daemon *d, size_t index)
{
    struct error err = {0};
    struct endpoint_config config = {
        .pair = d->pairs.items[index],
        .side = d->kind,
        .host = d->options.host,
        .state_dir = d->options.state_dir,
        .runtime_dir = d->options.runtime_dir,
        .bundler = d->bundler,
    };
    d->left_out[index] = false;
    if (openings_start(d->openings, index, &config, &err) < 0)
        leave_out(d, index, &err);
}

static void take_opened(struct daemon *d, struct opened *opened)
{
    struct error *err = &opened->error;
    struct endpoint *endpoint = opened->endpoint;
    int r = endpoint ? 0 : err->code;
    if (d->ending) {
        endpoint_free(endpoint);
        return;
    }
    if (r == 0)
        r = endpoint_run(endpoint, d->guard, ends_waypoints(d->ends), ends_closer(d->ends), err);
    if (r == 0)
        r = ends_add(d->ends, endpoint, err);
    if (r == 0) {
        log_info("pair %s: runs its %s end", endpoint_pair(endpoint), pair_end_name(d->kind));
        return;
    }
    endpoint_free(endpoint);
    leave_out(d, opened->index, err);
}

static void serve(struct daemon *d);

// Who asks for an end is answered when all have been opened, or with those that have been until now.
static void serve_when_opened(struct daemon *d)
{
    if (d->serves || d->ending || openings_count(d->openings) > 0)
        return;
    if (ends_count(d->ends) > 0 || d->mine == 0) {
        serve(d);
        return;
    }
    log_error("no pair could be started");
    (void)sd_event_exit(d->loop, 1);
}

static int on_opened(sd_event_source *source, int fd, uint32_t events, void *user)
{
    struct daemon *d = user;
    struct opened opened;
    (void)source, (void)fd, (void)events;
    while (openings_take(d->openings, &opened))
        take_opened(d, &opened);
    work(d);
    serve_when_opened(d);
    return 0;
}

static int on_patience(sd_event_source *source, uint64_t usec, void *user)
{
    struct daemon *d = user;
    (void)source, (void)usec;
    for (size_t i = 0; i < d->pairs.count; i++) {
        if (openings_has(d->openings, i))
            log_warning("pair %s: is still being opened: its disk, or what it names, does not answer", d->pairs.items[i]->pair);
    }
    if (!d->serves && !d->ending)
        serve(d);
    return 0;
}

// nanomsg's limit is in the library as it is built. Said at once: a link that finds no socket left would come up never.
static bool has_sockets(struct daemon *d, size_t index)
{
    const struct pair_config *pair = d->pairs.items[index];
    unsigned wanted = endpoint_sockets(pair, d->kind), left = CHANNEL_SOCKETS_MAX - d->sockets;
    if (wanted <= left) {
        d->sockets += wanted;
        return true;
    }
    struct error *err = &d->left_out_why[index];
    (void)error_set(err, -EMFILE,
                    "its channel needs %u sockets of nanomsg's, which allows a process %d, and the pairs before it have left "
                    "%u: a pair takes 1, and 1 more for each path and each pair of management addresses. Use fewer paths, or "
                    "run some pairs in a daemon of their own, with another --config and --runtime-dir",
                    wanted, CHANNEL_SOCKETS_MAX + 1, left);
    log_error("pair %s: does not run: %s", pair->pair, err->text);
    return false;
}

static int on_left_out(sd_event_source *source, uint64_t usec, void *user)
{
    struct daemon *d = user;
    (void)source, (void)usec;
    d->left_out_timer = sd_event_source_disable_unref(d->left_out_timer);
    for (size_t i = 0; i < d->pairs.count && !d->ending; i++) {
        if (d->left_out[i])
            start_endpoint(d, i);
    }
    return 0;
}

static int start_endpoints(struct daemon *d, struct error *err)
{
    d->left_out = calloc(d->pairs.count + 1, sizeof(*d->left_out));
    d->left_out_why = calloc(d->pairs.count + 1, sizeof(*d->left_out_why));
    d->openings = openings_new();
    if (!d->left_out || !d->left_out_why || !d->openings)
        return error_sys(err, -ENOMEM, "the ends");
    int r = sd_event_add_io(d->loop, NULL, openings_fd(d->openings), EPOLLIN, on_opened, d);
    if (r >= 0)
        r = sd_event_add_time_relative(d->loop, NULL, CLOCK_BOOTTIME, OPENING_PATIENCE_US, 0, on_patience, d);
    if (r < 0)
        return error_sys(err, r, "event loop");
    for (size_t i = 0; i < d->pairs.count; i++) {
        if (strcmp(pair_config_end(d->pairs.items[i], d->kind)->host, d->options.host) != 0)
            continue;
        d->mine++;
        if (has_sockets(d, i))
            start_endpoint(d, i);
    }
    if (d->mine == 0)
        log_warning("no pair file in %s names host %s as its %s: nothing to do", d->options.config,
                    d->options.host, pair_end_name(d->kind));
    return 0;
}

// ---- guard ----

#define GUARD_PAUSE_MIN_US UINT64_C(5000000)
#define GUARD_PAUSE_MAX_US UINT64_C(60000000)

static int on_guard(sd_event_source *source, int fd, uint32_t events, void *user);
static int on_guard_timer(sd_event_source *source, uint64_t usec, void *user);

// Without a guard the pairs promise nothing to their peers; it is tried again, with pauses that grow.
static void take_guard(struct daemon *d)
{
    const struct guard_start *s = &d->guard_start;
    d->guard = s->guard;
    if (!d->guard) {
        log_error("no guard, and so no takeover by the peer: %s", s->error.text);
        d->guard_pause_us = MIN(MAX(2 * d->guard_pause_us, GUARD_PAUSE_MIN_US), GUARD_PAUSE_MAX_US);
        (void)sd_event_add_time_relative(d->loop, &d->guard_timer, CLOCK_BOOTTIME, d->guard_pause_us, 0,
                                         on_guard_timer, d);
        return;
    }
    d->guard_pause_us = 0;
    log_info("guard %d %s", (int)guard_pid(d->guard), s->found ? "found running" : "started");
    (void)sd_event_add_io(d->loop, &d->guard_source, guard_fd(d->guard), EPOLLIN, on_guard, d);
}

static void start_guard(void *user)
{
    struct daemon *d = user;
    struct guard_start *s = &d->guard_start;
    *s = (struct guard_start){0};
    if (guard_start(d->options.guard, d->options.runtime_dir, d->options.program, &s->guard, &s->found, &s->error) < 0)
        s->guard = NULL;
}

static void tell_endpoints(struct daemon *d)
{
    for (size_t i = 0; i < ends_count(d->ends); i++)
        endpoint_guard(ends_at(d->ends, i), d->guard);
    settle(d);
}

static int on_guard_started(sd_event_source *source, int fd, uint32_t events, void *user)
{
    struct daemon *d = user;
    (void)source, (void)fd, (void)events;
    if (!aside_take(d->aside))
        return 0;
    take_guard(d);
    tell_endpoints(d);
    return 0;
}

// At the start of the daemon, before any pair runs.
static int open_guard(struct daemon *d, struct error *err)
{
    int r = aside_new("guard", &d->aside);
    if (r == 0)
        r = sd_event_add_io(d->loop, NULL, aside_fd(d->aside), EPOLLIN, on_guard_started, d);
    if (r < 0)
        return error_sys(err, r, "a thread that starts the guard");
    start_guard(d);
    take_guard(d);
    return 0;
}

static int on_guard_timer(sd_event_source *source, uint64_t usec, void *user)
{
    struct daemon *d = user;
    (void)source, (void)usec;
    d->guard_timer = sd_event_source_disable_unref(d->guard_timer);
    aside_start(d->aside, start_guard, d);
    return 0;
}

static int on_guard(sd_event_source *source, int fd, uint32_t events, void *user)
{
    struct daemon *d = user;
    (void)source, (void)fd, (void)events;
    if (guard_work(d->guard) == -EPIPE) {
        log_error("the guard has died: starting another one");
        d->guard_source = sd_event_source_disable_unref(d->guard_source);
        struct guard *old = d->guard;
        d->guard = NULL;
        tell_endpoints(d);
        guard_free(old);
        aside_start(d->aside, start_guard, d);
        return 0;
    }
    tell_endpoints(d);
    return 0;
}

// ---- control ----

// A pair that is not there, or does not run yet.
static void refuse_pair(void *user, const char *name, struct control_reply *reply)
{
    const struct daemon *d = user;
    for (size_t i = 0; i < d->pairs.count; i++) {
        if (strcmp(d->pairs.items[i]->pair, name) != 0)
            continue;
        if (openings_has(d->openings, i)) {
            (void)control_reply_refuse(reply, -EAGAIN, "pair %s does not run yet: it is being opened", name);
            return;
        }
        if (d->left_out_why[i].code) {
            (void)control_reply_refuse(reply, -EAGAIN, "pair %s does not run: %s", name, d->left_out_why[i].text);
            return;
        }
    }
    (void)control_reply_refuse(reply, -ENOENT, "this daemon has no pair %s", name);
}

static void on_bad_request(void *user, const char *text)
{
    static struct log_site site;
    (void)user;
    log_limited(&site, LOG_LEVEL_WARNING, "control: %s", text);
}

static int on_control_fd(sd_event_source *source, int fd, uint32_t events, void *user)
{
    struct daemon *d = user;
    (void)source, (void)fd, (void)events;
    control_server_work(d->control);
    settle(d);
    end_if_all_exited(d);
    return 0;
}

static int open_control(struct daemon *d, struct error *err)
{
    char path[PLACES_SOCKET_MAX];
    int r = dir_make(d->options.runtime_dir, 0755, err);
    if (r < 0)
        return r;
    r = places_control(path, sizeof(path), d->options.runtime_dir, d->kind);
    if (r < 0)
        return error_sys(err, r, "--runtime-dir %s", d->options.runtime_dir);
    d->requests = (struct requests){.ends = d->ends, .refuse = refuse_pair, .user = d};
    return control_server_open(path, requests_answer, on_bad_request, &d->requests, &d->control, err);
}

static void serve(struct daemon *d)
{
    d->serves = true;
    if (sd_event_add_io(d->loop, NULL, control_server_fd(d->control), EPOLLIN, on_control_fd, d) < 0)
        log_error("nobody can ask this daemon: no memory");
    (void)sd_notify(0, "READY=1");
}

// ---- life ----

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *user)
{
    struct daemon *d = user;
    (void)source;
    log_info("signal %u: ending; exports and applications stay for the next run", info->ssi_signo);
    (void)sd_notify(0, "STOPPING=1");
    d->ending = true;
    for (size_t i = 0; i < ends_count(d->ends); i++)
        endpoint_terminate(ends_at(d->ends, i));
    settle(d);
    end_if_all_exited(d);
    return 0;
}

// What asks other daemons to read their settings anew, or tells of a terminal that is gone: no reason to leave anybody alone.
static int on_hangup(sd_event_source *source, const struct signalfd_siginfo *info, void *user)
{
    (void)source, (void)info, (void)user;
    log_warning("SIGHUP: nothing is read anew; pair files are read at a start, and SIGTERM is a restart");
    return 0;
}

// Each pair has some twenty descriptors, and each client of its exports one.
static void raise_limits(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int open_loop(struct daemon *d, struct error *err)
{
    sigset_t mask;
    (void)sigemptyset(&mask);
    (void)sigaddset(&mask, SIGTERM);
    (void)sigaddset(&mask, SIGINT);
    (void)sigaddset(&mask, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &mask, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    raise_limits();
    int r = sd_event_new(&d->loop);
    if (r >= 0)
        r = sd_event_add_signal(d->loop, NULL, SIGTERM, on_signal, d);
    if (r >= 0)
        r = sd_event_add_signal(d->loop, NULL, SIGINT, on_signal, d);
    if (r >= 0)
        r = sd_event_add_signal(d->loop, NULL, SIGHUP, on_hangup, d);
    if (r >= 0)
        r = sd_event_set_watchdog(d->loop, true);
    return r < 0 ? error_sys(err, r, "event loop") : 0;
}

static int run(struct daemon *d, struct error *err)
{
    int r = pair_config_load_all(d->options.config, &d->pairs, err);
    if (r == 0)
        r = open_loop(d, err);
    if (r == 0)
        r = open_ends(d, err);
    if (r == 0)
        r = open_control(d, err);
    if (r < 0)
        return r;
    prompt_short_slice(); // the channels' own threads are started with the first pair
    r = open_guard(d, err);
    if (r < 0)
        return r;
    r = gone_start(&d->pairs, d->kind, d->options.host, d->options.runtime_dir, &d->gone);
    if (r < 0)
        return error_sys(err, r, "a thread for what former pairs have left");
    d->carrier = channel_carrier();
    d->bundler = channel_bundler_new();
    r = start_endpoints(d, err);
    if (r < 0)
        return r;
    prompt_real_time(); // its own threads, whenever they are started, stay as they are
    serve_when_opened(d);
    r = sd_event_loop(d->loop);
    return r < 0 ? error_sys(err, r, "event loop") : r;
}

// False: something is being opened still, and uses what it was given until this process has ended.
static bool stop(struct daemon *d)
{
    bool all = openings_free(d->openings, ENDING_PATIENCE_NS);
    if (d->aside && aside_busy(d->aside)) {
        d->aside = aside_free(d->aside); // waits for the job
        d->guard = d->guard_start.guard;
    }
    d->gone = gone_free(d->gone);
    (void)sd_event_source_disable_unref(d->ends_timer);
    ends_free(d->ends);
    free(d->left_out);
    free(d->left_out_why);
    (void)sd_event_source_disable_unref(d->left_out_timer);
    (void)sd_event_source_disable_unref(d->guard_source);
    (void)sd_event_source_disable_unref(d->guard_timer);
    guard_free(d->guard);
    aside_free(d->aside);
    control_server_free(d->control);
    if (all) {
        channel_bundler_free(d->bundler);
        channel_carrier_end(d->carrier);
        pair_config_list_done(&d->pairs);
    }
    (void)sd_event_unref(d->loop);
    return all;
}

int daemon_main(enum pair_end kind, int argc, char **argv)
{
    struct daemon d = {.kind = kind, .carrier = -1};
    struct error err = {0};
    int status = options_parse(&d.options, kind, argc, argv);
    if (status >= 0)
        return status;
    log_setup(d.options.program, d.options.level);
    if (log_start() < 0)
        log_warning("no thread for the log: a slow disk behind it holds heartbeats up");
    int r = run(&d, &err);
    if (r < 0)
        log_error("%s", err.text);
    bool all = stop(&d);
    log_stop();
    if (!all)
        _exit(r ? 1 : 0);
    return r ? 1 : 0;
}
