// SPDX-License-Identifier: Apache-2.0
// Applications that are libvirt domains: the runner's side. It asks virt.c, which may hang, and
// keeps the time itself; where libvirt does not answer, QEMU's process does: its end is seen, and
// in need brought about, without libvirt.
//
//   rest --start--> starting --up--> running --stop--> shutting down --gone--> rest
//   rest --adopt--> running where QEMU is seen, else adopting --up--> running, absent --> starting
//   any  --kill-->  destroying --gone--> rest; a shutdown that takes too long becomes one
//   abandoned: a start that was given up, or a domain that was lost: stop destroys what may be
//   there
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/apps/app.h"
#include "common/apps/identity.h"
#include "common/apps/virt.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"

#define ASK_AGAIN_NS (10 * NS_PER_S) // a guest that is still booting does not hear the power button
#define ANSWER_NS    (5 * NS_PER_S)  // libvirt's, after QEMU's end, before we go without it
#define GRACE_NS     (15 * NS_PER_S) // QEMU's, to flush and end at a destroy, before SIGKILL
#define DOUBT_NS                                                                                   \
    (1 * NS_PER_S) // between two questions to a libvirt that denies a domain whose QEMU runs
#define LOOK_NS (250 * NS_PER_MS) // at the process, while destroying

enum domain_state {
    DOMAIN_REST,
    DOMAIN_ADOPTING,
    DOMAIN_STARTING,
    DOMAIN_RUNNING,
    DOMAIN_ABANDONED,
    DOMAIN_SHUTTING,
    DOMAIN_DESTROYING,
    DOMAIN_CHECKING,
};

struct domain {
    struct app *app;
    struct virt *virt;
    char identity_path[PATH_SIZE];
    enum domain_state state;
    unsigned serial; // of the request whose answer counts
    int64_t deadline_ns;
    int64_t again_ns; // shutting down: when the guest is asked again; running: when libvirt is
    int64_t begun_ns; // of destroying
    bool at_once;     // destroying: SIGKILL from the beginning
    struct qemu qemu;
    int64_t ended_ns; // when QEMU was seen to have ended; 0: it has not
    int64_t doubt_ns; // since when libvirt denies it; 0: it does not
    bool frozen;
    int64_t frozen_ns;
};

static int domain_open(struct app *app, struct error *err)
{
    const struct apps_setup *setup = app->setup;
    struct domain *d = calloc(1, sizeof(*d));
    char seed[256];

    ENSURE(d);
    d->app = app;
    d->qemu = QEMU_NONE;
    d->deadline_ns = d->again_ns = INT64_MAX;
    snprintf(seed, sizeof(seed), "%s/%s", setup->pair, app->config.name);
    int r = path_format(d->identity_path, sizeof(d->identity_path), "%s/apps/%s.domain",
                        setup->runtime_dir, app->config.name);
    struct virt_setup v = {.uri = app->config.uri,
                           .xml_file = app->config.xml_file,
                           .seed = seed,
                           .identity_path = d->identity_path,
                           .volumes = setup->volumes,
                           .volume_count = setup->volume_count,
                           .interval_ms = app->config.status_interval_ms};
    if (r < 0)
        (void)error_sys(err, r, "the runtime directory");
    else
        r = virt_open(&v, &d->virt, err);
    if (r < 0) {
        free(d);
        return r;
    }
    app->impl = d;
    return 0;
}

static void domain_close(struct app *app)
{
    struct domain *d = app->impl;

    (void)virt_close(d->virt);
    qemu_clear(&d->qemu);
    free(d);
}

static void set_state(struct domain *d, enum domain_state state, int64_t deadline_ns)
{
    d->state = state;
    d->deadline_ns = deadline_ns;
    d->again_ns = INT64_MAX;
    if (state == DOMAIN_REST)
        qemu_clear(&d->qemu);
    if (state == DOMAIN_REST || state == DOMAIN_RUNNING)
        d->ended_ns = d->doubt_ns = 0;
}

static void find_qemu(struct domain *d)
{
    struct identity id;

    if (d->qemu.pidfd < 0 && identity_load(d->identity_path, &id, NULL) == 0 &&
        qemu_find(&id, &d->qemu))
        app_targets_changed(d->app);
}

static void stopped(struct domain *d)
{
    identity_remove(d->identity_path);
    set_state(d, DOMAIN_REST, INT64_MAX);
    app_report(d->app, APP_REPORT_STOPPED, "%s", "");
}

static void lose(struct domain *d, enum domain_state state, const char *text)
{
    set_state(d, state, INT64_MAX);
    app_report(d->app, APP_REPORT_LOST, "%s", text);
}

static void destroy(struct domain *d, bool at_once)
{
    int64_t now = clock_boot_ns();

    find_qemu(d);
    set_state(d, DOMAIN_DESTROYING, now + LOOK_NS);
    d->begun_ns = now;
    d->at_once = at_once;
    if (at_once)
        qemu_kill(&d->qemu);
    d->serial = virt_ask(d->virt, VIRT_DESTROY);
}

static void ask_to_shut_down(struct domain *d)
{
    d->serial = virt_ask(d->virt, VIRT_SHUTDOWN);
    d->again_ns = clock_boot_ns() + ASK_AGAIN_NS;
}

static void domain_start(struct app *app, bool adopt)
{
    struct domain *d = app->impl;

    set_state(d, adopt ? DOMAIN_ADOPTING : DOMAIN_STARTING,
              clock_boot_ns() + app->config.start_timeout_ms * NS_PER_MS);
    d->serial = virt_ask(d->virt, adopt ? VIRT_ADOPT : VIRT_START);
    if (!adopt)
        return;
    find_qemu(d);
    if (d->qemu.pidfd >= 0) { // it runs, whether libvirtd is there to say so or not
        set_state(d, DOMAIN_RUNNING, INT64_MAX);
        app_report(app, APP_REPORT_STARTED, "%s", "");
    }
}

static void domain_stop(struct app *app)
{
    struct domain *d = app->impl;

    switch (d->state) {
    case DOMAIN_REST:
    case DOMAIN_CHECKING:
        stopped(d);
        break;
    case DOMAIN_STARTING:
    case DOMAIN_ABANDONED:
        destroy(d, false);
        break;
    case DOMAIN_ADOPTING:
    case DOMAIN_RUNNING:
        set_state(d, DOMAIN_SHUTTING, clock_boot_ns() + app->config.stop_timeout_ms * NS_PER_MS);
        ask_to_shut_down(d);
        break;
    case DOMAIN_SHUTTING:
    case DOMAIN_DESTROYING:
        break;
    }
}

static void domain_kill(struct app *app)
{
    struct domain *d = app->impl;

    if (d->state == DOMAIN_REST && access(d->identity_path, F_OK) < 0)
        stopped(d); // nothing was started by this end
    else
        destroy(d, true);
}

static void domain_check(struct app *app)
{
    struct domain *d = app->impl;

    set_state(d, DOMAIN_CHECKING, INT64_MAX);
    d->serial = virt_ask(d->virt, VIRT_CHECK);
}

static void domain_freeze(struct app *app, bool frozen)
{
    struct domain *d = app->impl;
    int64_t now = clock_boot_ns();

    d->frozen = frozen;
    if (frozen) {
        d->frozen_ns = now;
        return;
    }
    if (d->deadline_ns != INT64_MAX)
        d->deadline_ns += now - d->frozen_ns;
    if (d->ended_ns)
        d->ended_ns = now;
    if (d->state == DOMAIN_RUNNING)
        virt_look(d->virt);
}

static void take_up(struct domain *d)
{
    d->doubt_ns = 0;
    if (d->state != DOMAIN_STARTING && d->state != DOMAIN_ADOPTING)
        return;
    set_state(d, DOMAIN_RUNNING, INT64_MAX);
    find_qemu(d);
    if (d->qemu.pidfd < 0)
        app_note(
            d->app,
            "QEMU's process is not found: without libvirt it can be neither watched nor frozen");
    app_report(d->app, APP_REPORT_STARTED, "%s", "");
}

// libvirt says that the domain does not exist. If its process does, one of them is wrong, and a
// guest is not given up for that at once: libvirt is asked again for a while.
static void doubt(struct domain *d, const char *text)
{
    int64_t now = clock_boot_ns();

    if (qemu_ended(&d->qemu) || (d->doubt_ns && now - d->doubt_ns >= ANSWER_NS)) {
        lose(d, DOMAIN_ABANDONED, text);
        return;
    }
    if (d->doubt_ns == 0) {
        app_note(d->app,
                 "libvirt says that the domain has ended (%s), but its QEMU (process %d) runs; "
                 "asking again",
                 text, (int)d->qemu.pid);
        d->doubt_ns = now;
    }
    d->again_ns = now + DOUBT_NS;
}

static void take_gone(struct domain *d, const char *text)
{
    if (d->state == DOMAIN_RUNNING) {
        doubt(d, text);
    } else if (d->state == DOMAIN_SHUTTING || d->state == DOMAIN_DESTROYING) {
        if (qemu_ended(&d->qemu)) {
            stopped(d);
        } else { // libvirt has forgotten it, but the process is there
            set_state(d, DOMAIN_DESTROYING, clock_boot_ns() + LOOK_NS);
            d->at_once = true;
            qemu_kill(&d->qemu);
        }
    }
}

static void take_absent(struct domain *d)
{
    if (d->state == DOMAIN_ADOPTING)
        domain_start(d->app, false);
    else if (d->state == DOMAIN_RUNNING)
        doubt(d, "it does not know it");
}

static void take(struct domain *d, const struct virt_report *r)
{
    if (r->news == VIRT_NOTE)
        app_note(d->app, "%s", r->text);
    if (r->news == VIRT_NOTE || r->serial != d->serial)
        return;
    switch (r->news) {
    case VIRT_UP:
        take_up(d);
        break;
    case VIRT_ABSENT:
        take_absent(d);
        break;
    case VIRT_FAILED:
        if (d->state == DOMAIN_STARTING)
            lose(d, DOMAIN_REST, r->text);
        break;
    case VIRT_GONE:
        take_gone(d, r->text);
        break;
    case VIRT_FOUND:
        if (d->state == DOMAIN_CHECKING) {
            set_state(d, DOMAIN_REST, INT64_MAX);
            app_report(d->app, APP_REPORT_CHECKED, "%s", r->text);
        }
        break;
    case VIRT_NOTE:
        break;
    }
}

// libvirt has not answered yet. Goes without it once the process is gone and none can come any
// more.
static void look_destroying(struct domain *d, int64_t now)
{
    d->deadline_ns = now + LOOK_NS;
    find_qemu(d); // it may have come up meanwhile
    bool ended = qemu_ended(&d->qemu);
    if (!ended && (d->at_once || now - d->begun_ns >= GRACE_NS)) {
        qemu_kill(&d->qemu);
    } else if (ended && now - d->begun_ns >= ANSWER_NS && !virt_creating(d->virt)) {
        app_note(d->app, "libvirt does not answer, but the domain's QEMU has ended");
        stopped(d);
    }
}

static void look_running(struct domain *d, int64_t now)
{
    if (d->ended_ns == 0 && d->qemu.pidfd >= 0 && qemu_ended(&d->qemu)) {
        d->ended_ns = now;
        virt_look(d->virt);
    }
    if (d->ended_ns && d->doubt_ns) {
        lose(d, DOMAIN_ABANDONED, "its QEMU has ended");
    } else if (d->ended_ns && now - d->ended_ns >= ANSWER_NS) {
        lose(d, DOMAIN_ABANDONED, "its QEMU has ended; libvirt does not answer");
    } else if (now >= d->again_ns) {
        d->again_ns = INT64_MAX;
        d->serial = virt_ask(d->virt, VIRT_ADOPT);
    }
}

static void look(struct domain *d, int64_t now)
{
    bool late = now >= d->deadline_ns;
    char text[128];

    switch (d->state) {
    case DOMAIN_STARTING:
    case DOMAIN_ADOPTING:
        if (late) {
            snprintf(text, sizeof(text), "start: libvirt did not answer within %.1f s",
                     (double)d->app->config.start_timeout_ms / 1e3);
            lose(d, DOMAIN_ABANDONED, text);
        }
        break;
    case DOMAIN_RUNNING:
        look_running(d, now);
        break;
    case DOMAIN_SHUTTING:
        if (late) {
            app_note(d->app, "stop: the guest did not shut down within %.1f s; it is destroyed",
                     (double)d->app->config.stop_timeout_ms / 1e3);
            destroy(d, false);
        } else if (now >= d->again_ns) {
            ask_to_shut_down(d);
        }
        break;
    case DOMAIN_DESTROYING:
        if (late)
            look_destroying(d, now);
        break;
    case DOMAIN_REST:
    case DOMAIN_ABANDONED:
    case DOMAIN_CHECKING:
        break;
    }
}

static void domain_work(struct app *app, int64_t now)
{
    struct domain *d = app->impl;
    struct virt_report r;

    while (app->report == APP_REPORT_NONE && virt_take(d->virt, &r))
        take(d, &r);
    if (app->report == APP_REPORT_NONE && (!d->frozen || d->state == DOMAIN_DESTROYING))
        look(d, now);
}

static int64_t domain_deadline(const struct app *app)
{
    const struct domain *d = app->impl;

    if (d->frozen && d->state != DOMAIN_DESTROYING)
        return INT64_MAX;
    if (d->ended_ns && d->state == DOMAIN_RUNNING)
        return d->ended_ns + ANSWER_NS;
    return MIN(d->deadline_ns, d->again_ns);
}

static size_t domain_polls(const struct app *app, struct pollfd *ret_fds)
{
    const struct domain *d = app->impl;
    size_t n = 0;

    // While a report waits for the thaw, those behind it wait too.
    if (app->report == APP_REPORT_NONE)
        ret_fds[n++] = (struct pollfd){.fd = virt_fd(d->virt), .events = POLLIN};
    if (d->state == DOMAIN_RUNNING && d->qemu.pidfd >= 0 && !d->ended_ns && !d->frozen)
        ret_fds[n++] = (struct pollfd){.fd = d->qemu.pidfd, .events = POLLIN};
    return n;
}

static size_t domain_targets(const struct app *app, struct apps_target *ret_targets, size_t limit)
{
    const struct domain *d = app->impl;

    if (d->qemu.pidfd < 0 || limit == 0)
        return 0;
    ret_targets[0].pid = d->qemu.pid;
    ret_targets[0].pid_start = d->qemu.start;
    qemu_cgroup(&d->qemu, ret_targets[0].cgroup, sizeof(ret_targets[0].cgroup));
    return 1;
}

const struct app_ops domain_ops = {
    .open = domain_open,
    .close = domain_close,
    .start = domain_start,
    .stop = domain_stop,
    .kill = domain_kill,
    .check = domain_check,
    .freeze = domain_freeze,
    .polls = domain_polls,
    .work = domain_work,
    .deadline = domain_deadline,
    .targets = domain_targets,
};
