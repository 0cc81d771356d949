// SPDX-License-Identifier: Apache-2.0
// Protected applications of one end: libvirt domains and scripts, started in list order when the
// end becomes active, stopped in reverse order when it ceases to be, watched in between.
//
// Nothing here blocks the caller. A thread of this room (the runner) runs commands and decides;
// each domain has one more thread for its libvirt calls, because those can hang. Results are
// queued, apps_fd() becomes readable, and apps_work() hands them to the event callback in the
// caller's thread. All functions belong to one thread, the control loop's.
//
// The handle has a goal: rest (after apps_open), run, stopped. A new command replaces the former at
// once; what is half done is then brought to the new goal in order: an application is never started
// before a stop of it has ended.
//
// Invariants:
// - "stopped" is said only when nothing of the application is left: no process in its group, no domain.
// - What happens between apps_set_frozen(true) and (false) is never counted as an application's failure: no status is
//   asked, no time-out runs, no death is reported. At the thaw what is gone is started again, uncounted.
// - A domain of the name or UUID that this end did not start is never touched: it is an error that names it.
#ifndef APPS_APPS_H
#define APPS_APPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/error.h"

enum app_kind { APP_SCRIPT, APP_DOMAIN };
enum app_failure { APP_FAILURE_NONE, APP_FAILURE_SWITCHOVER };

// One application. Everything is copied by apps_open().
struct app_config {
    const char *name; // letters, digits, '-', '_', '.'; unique in the pair
    enum app_kind kind;
    int64_t start_timeout_ms;   // script: its start command; domain: libvirt's answer
    int64_t stop_timeout_ms;    // graceful stop; then destroyed or killed
    int64_t status_timeout_ms;  // script: its status command
    int64_t status_interval_ms; // time between two looks
    int restarts;               // local restarts before the application counts as failed
    int64_t restarts_forget_ms; // after running so long without a failure the count is zero again
    enum app_failure
        on_failure; // what the end does with a failed one (this room only says it in the event)
    // domain
    const char *xml_file; // ${volume:NAME} in it becomes the path of that volume's socket
    const char *uri;      // libvirt's
    // script: argument lists that end in NULL; the first is an absolute path, run without a shell
    const char *const
        *start; // exit 0 within the time-out = started; what it leaves behind is the application
    const char *const *stop; // may be NULL: then SIGTERM to all its processes
    const char *const
        *status; // exit 0 = running; may be NULL: then it runs while its group has a process
};

// The defaults of a kind: start 60 s, stop 60 s, status 10 s every 5 s, 2 restarts, forgotten after
// 10 minutes, on_failure none, qemu:///system.
struct app_config app_config_defaults(enum app_kind kind);

// A volume as applications see it: its name and its export's socket.
struct apps_volume {
    const char *name;
    const char *socket;
};

enum apps_event_type {
    APPS_STARTED,  // the end of apps_start_all/apps_adopt: all run, or failed with on_failure none
    APPS_STOPPED,  // the end of apps_stop_all/apps_kill_all: nothing is left
    APPS_CHECKED,  // the end of apps_check_foreign; text: what was found, or "" for nothing
    APPS_TARGETS,  // apps_freeze_targets() gives something new
    APP_STARTED,   // one application; duration_ms
    APP_STOPPED,   // one application; duration_ms
    APP_DIED,      // stopped by itself, or could not be started; text: why. A restart or APP_FAILED
                   // follows
    APP_RESTARTED, // runs again after APP_DIED; duration_ms of the start
    APP_FAILED,    // restarts used up; text: why; `switchover`: its failure policy
    APP_NOTE, // something for the log: libvirtd lost or found again, a guest suspended by an I/O
              // error
};

struct apps_event {
    enum apps_event_type type;
    const char *app; // its name; NULL in APPS_*
    const char *text;
    int64_t duration_ms;
    bool switchover;
};

struct apps_callbacks {
    void *context;
    // From apps_work(), in the caller's thread. May call any function of this header but
    // apps_forget().
    void (*event)(void *context, const struct apps_event *event);
    // One line of a script's output, without its newline, from the runner's thread: log_at() will
    // do. May be NULL.
    void (*output)(void *context, const char *app, const char *line);
};

// The surroundings of the applications; copied.
struct apps_setup {
    const char *pair;
    const char *identity;      // "primary" or "secondary"
    const char *runtime_dir;   // exists; this room keeps "apps/" in it
    const char *cgroup_parent; // group below the cgroup v2 mount; NULL: "understudy"
    int64_t recheck_ms; // > 0: so often after a check of foreign ones domains are checked again;
                        // said only if it changed
    const struct apps_volume *volumes;
    size_t volume_count;
    const char *const *addresses; // public addresses with prefix, for scripts
    size_t address_count;
    struct apps_callbacks callbacks;
};

struct apps;

// -EINVAL names application and field. Touches no application and no libvirtd.
int apps_open(const struct apps_setup *setup, const struct app_config *list, size_t count,
              struct apps **ret_apps, struct error *err);
// Lets go of everything and leaves the applications as they are (a daemon's restart, or after
// APPS_STOPPED). Does not wait for a hanging libvirt call. NULL-safe; returns NULL.
struct apps *apps_forget(struct apps *apps);

void apps_start_all(struct apps *apps);
// As apps_start_all, but goes on with what already runs: for a daemon that starts where its end was
// active.
void apps_adopt(struct apps *apps);
void apps_stop_all(struct apps *apps); // reverse order, each gracefully; what is frozen is killed
void apps_kill_all(struct apps *apps); // all at once, destroyed
// Is one of them running, defined or saved here though this end is not active? Only at rest or when
// stopped (else nothing happens and no event comes).
void apps_check_foreign(struct apps *apps);
// The guard froze (or killed) them; or they are thawed. This function itself freezes nothing.
void apps_set_frozen(struct apps *apps, bool frozen);

int apps_fd(const struct apps *apps);              // poll for reading
void apps_work(struct apps *apps);                 // hands out events
int64_t apps_deadline_ns(const struct apps *apps); // always INT64_MAX: the runner keeps the time

enum app_state {
    APP_STATE_STOPPED,
    APP_STATE_STARTING,
    APP_STATE_RUNNING,
    APP_STATE_STOPPING,
    APP_STATE_FAILED,
    APP_STATE_FROZEN,
    APP_STATE_FOREIGN,
};

struct app_status {
    const char *name; // lives as long as the handle
    enum app_kind kind;
    enum app_state state;
    int restarts;     // local restarts so far in this run
    int64_t start_ms; // how long the last start took; -1 before the first
    char why[256];    // one sentence when there is something to say, or ""
};

size_t apps_count(const struct apps *apps);
// The state of number `index` < apps_count(), as of now. Never waits.
void apps_status(const struct apps *apps, size_t index, struct app_status *ret_status);
const char *app_kind_name(enum app_kind kind);    // "script", "domain"
const char *app_state_name(enum app_state state); // "stopped", ...

// What the guard freezes or kills: a cgroup (write cgroup.freeze, cgroup.kill in it), or a process,
// or both (a domain's QEMU, which libvirt has put into a group of its own). A process counts only
// if its start time is still the same.
struct apps_target {
    char app[64];
    char cgroup[512];   // absolute directory, or ""
    pid_t pid;          // or 0
    uint64_t pid_start; // field 22 of /proc/PID/stat, clock ticks since boot
};
// Writes up to `limit` targets and returns how many there are (which may be more). Asks for no
// file.
size_t apps_freeze_targets(const struct apps *apps, struct apps_target *ret_targets, size_t limit);

#endif
