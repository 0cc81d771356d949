// SPDX-License-Identifier: Apache-2.0
// common/apps, scripts: started in order, watched, restarted, stopped in reverse, and nothing of
// them left behind; both with a cgroup and without. The scripts are real ones.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "tests/unit/apps_watch.h"

// A cgroup cannot be made below a file, so this parent forces the other kind of group.
#define NO_CGROUP "cgroup.procs"

#define SH(text)                                                                                   \
    (const char *const[])                                                                          \
    {                                                                                              \
        "/bin/sh", "-c", text, NULL                                                                \
    }

static struct app_config script(const char *name, const char *const *start, const char *const *stop,
                                const char *const *status)
{
    struct app_config c = app_config_defaults(APP_SCRIPT);

    c.name = name;
    c.start = start;
    c.stop = stop;
    c.status = status;
    c.status_interval_ms = 100;
    return c;
}

static void enter(struct watch *w)
{
    watch_open(w);
    w->address = w->dir; // how a script of these tests finds its directory
    w->setup.addresses = &w->address;
    w->setup.address_count = 1;
}

static bool alive(pid_t pid)
{
    char path[64], text[512] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    bool there = fgets(text, sizeof(text), f) && !strstr(text, ") Z ");
    fclose(f);
    return there;
}

static pid_t read_pid(const struct watch *w, const char *name)
{
    pid_t pid = (pid_t)atoi(watch_read(w, name));
    assert_true(pid > 1);
    return pid;
}

// A daemon as they come: forked, in a session of its own, its parent gone.
#define DAEMON                                                                                     \
    "setsid sh -c 'echo $$ > $UNDERSTUDY_ADDRESSES/pid.new; mv $UNDERSTUDY_ADDRESSES/pid.new "     \
    "$UNDERSTUDY_ADDRESSES/pid; exec sleep 1000' & "                                               \
    "while [ ! -e $UNDERSTUDY_ADDRESSES/pid ]; do sleep 0.01; done"

static void daemon_is_found_and_killed_at_stop(struct watch *w)
{
    struct app_config c = script("web", SH(DAEMON), NULL, NULL);

    c.stop = SH("exit 0"); // does not stop it
    watch_apps(w, &c, 1);
    apps_start_all(w->apps);
    watch_for(w, "all-started", NULL);
    assert_int_equal(watch_status(w, 0).state, APP_STATE_RUNNING);
    assert_true(watch_status(w, 0).start_ms >= 0);
    pid_t pid = read_pid(w, "pid");
    assert_true(alive(pid));
    apps_stop_all(w->apps);
    watch_for(w, "all-stopped", NULL);
    assert_false(alive(pid));
    assert_int_equal(watch_status(w, 0).state, APP_STATE_STOPPED);
    watch_close(w);
}

static void daemon_in_a_cgroup(void **state)
{
    struct watch w;
    struct apps_target targets[4];

    enter(&w);
    struct app_config c = script("web", SH(DAEMON), NULL, NULL);
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    size_t n = apps_freeze_targets(w.apps, targets, 4);
    assert_int_equal(n, 1);
    if (!targets[0].cgroup[0]) {
        watch_close(&w);
        skip();
    }
    assert_non_null(strstr(targets[0].cgroup, "/pair/primary/web"));
    assert_int_equal(access(targets[0].cgroup, F_OK), 0);
    apps_stop_all(w.apps); // no stop command: SIGTERM
    watch_for(&w, "all-stopped", NULL);
    assert_true(access(targets[0].cgroup, F_OK) < 0);
    assert_int_equal(apps_freeze_targets(w.apps, targets, 4), 0);
    watch_close(&w);

    enter(&w);
    daemon_is_found_and_killed_at_stop(&w);
}

static void daemon_without_a_cgroup(void **state)
{
    struct watch w;
    struct apps_target targets[4];

    enter(&w);
    w.setup.cgroup_parent = NO_CGROUP;
    struct app_config c = script("web", SH(DAEMON), NULL, NULL);
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    assert_int_equal(apps_freeze_targets(w.apps, targets, 4), 1);
    assert_int_equal(targets[0].pid, read_pid(&w, "pid"));
    assert_true(targets[0].pid_start > 0);
    assert_string_equal(targets[0].cgroup, "");
    assert_int_equal(kill(targets[0].pid, SIGKILL), 0);
    watch_for(&w, "restarted", "web");
    watch_close(&w);

    enter(&w);
    w.setup.cgroup_parent = NO_CGROUP;
    daemon_is_found_and_killed_at_stop(&w);
}

static void order_is_kept_both_ways(void **state)
{
    struct watch w;
    const char *const *start =
        SH("sleep 0.1; echo start $UNDERSTUDY_APPLICATION >> $UNDERSTUDY_ADDRESSES/order");
    const char *const *stop =
        SH("sleep 0.1; echo stop $UNDERSTUDY_APPLICATION >> $UNDERSTUDY_ADDRESSES/order");

    enter(&w);
    struct app_config list[] = {script("a", start, stop, NULL), script("b", start, stop, NULL),
                                script("c", start, stop, NULL)};
    watch_apps(&w, list, 3);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    apps_stop_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    assert_string_equal(watch_read(&w, "order"),
                        "start a\nstart b\nstart c\nstop c\nstop b\nstop a\n");
    watch_close(&w);
}

static void output_and_environment_arrive(void **state)
{
    struct watch w;
    struct apps_volume volumes[] = {{"my-disk", "/run/v.nbd"}};

    enter(&w);
    w.setup.volumes = volumes;
    w.setup.volume_count = 1;
    struct app_config c = script("web",
                                 SH("echo one; echo two >&2; printf 'bell\\a no newline'; "
                                    "echo $UNDERSTUDY_PAIR $UNDERSTUDY_IDENTITY $UNDERSTUDY_ROLE "
                                    "$UNDERSTUDY_VOLUME_MY_DISK > $UNDERSTUDY_ADDRESSES/env"),
                                 NULL, NULL);
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    assert_string_equal(w.output, "web|one\nweb|two\nweb|bell? no newline\n");
    assert_string_equal(watch_read(&w, "env"), "pair primary active /run/v.nbd\n");
    watch_close(&w);
}

static void a_flood_of_output_is_counted_not_printed(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script(
        "web", SH("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; sleep 1.1; echo last"),
        NULL, NULL);
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    watch_output(&w, "lines left out)\nweb|last");
    watch_close(&w);
}

static void start_that_fails_is_retried_then_failed(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script("web", SH("echo x >> $UNDERSTUDY_ADDRESSES/tries; exit 3"),
                                 SH("echo x >> $UNDERSTUDY_ADDRESSES/stops"), NULL);
    c.restarts = 1;
    c.on_failure = APP_FAILURE_SWITCHOVER;
    struct app_config list[] = {c, script("after", SH("exit 0"), NULL, NULL)};
    watch_apps(&w, list, 2);
    apps_start_all(w.apps);
    watch_for(&w, "failed", "web");
    assert_true(w.switchover);
    assert_string_equal(w.text, "start: /bin/sh ended with exit status 3");
    assert_string_equal(watch_read(&w, "tries"), "x\nx\n");
    assert_string_equal(watch_read(&w, "stops"), "x\nx\n"); // what it has half done is undone
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_FAILED);
    assert_int_equal(watch_status(&w, 1).state, APP_STATE_STOPPED); // it waits for the former
    apps_stop_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_STOPPED);
    watch_close(&w);
}

static void failed_with_policy_none_does_not_hold_up_others(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config list[] = {script("bad", SH("exit 1"), NULL, NULL),
                                script("good", SH("exit 0"), NULL, NULL)};
    list[0].restarts = 0;
    watch_apps(&w, list, 2);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_FAILED);
    assert_int_equal(watch_status(&w, 1).state, APP_STATE_RUNNING);
    watch_close(&w);
}

static void missing_program_is_named(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script("web", (const char *const[]){"/does/not/exist", NULL}, NULL, NULL);
    c.restarts = 0;
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "failed", "web");
    assert_string_equal(w.text, "start: cannot run /does/not/exist: No such file or directory");
    watch_close(&w);
}

// True: the script had come to its daemon by then.
static bool start_runs_out_of_time(int timeout_ms, const char *text)
{
    struct watch w;

    enter(&w);
    struct app_config c = script("web", SH(DAEMON "; exec sleep 1000"), NULL, NULL);
    c.start_timeout_ms = timeout_ms;
    c.stop_timeout_ms = 300;
    c.restarts = 0;
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "failed", "web");
    assert_string_equal(w.text, text);
    bool ready = watch_read(&w, "pid")[0] != '\0';
    if (ready)
        assert_false(alive(read_pid(&w, "pid")));
    watch_close(&w);
    return ready;
}

// How long a shell takes until it has started a daemon is the machine's affair.
static void start_timeout_kills_it_all(void **state)
{
    assert_true(
        start_runs_out_of_time(500, "start: /bin/sh did not end within 0.5 s and was killed") ||
        start_runs_out_of_time(5000, "start: /bin/sh did not end within 5 s and was killed") ||
        start_runs_out_of_time(60000, "start: /bin/sh did not end within 60 s and was killed"));
}

static void stop_timeout_kills(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script("web", SH(DAEMON), SH("exec sleep 1000"), NULL);
    c.stop_timeout_ms = 200;
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    apps_stop_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    assert_true(watch_has(&w, "note web: stop: /bin/sh did not end within 0.2 s"));
    assert_false(alive(read_pid(&w, "pid")));
    watch_close(&w);
}

static void process_that_ignores_sigterm_is_killed(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c =
        script("web",
               SH("sh -c 'trap \"\" TERM; echo $$ > $UNDERSTUDY_ADDRESSES/pid; while :; do sleep "
                  "1; done' & "
                  "while [ ! -s $UNDERSTUDY_ADDRESSES/pid ]; do sleep 0.01; done"),
               NULL, NULL);
    c.stop_timeout_ms = 200;
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    apps_stop_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    assert_true(watch_has(&w, "SIGTERM did not end it in time"));
    assert_false(alive(read_pid(&w, "pid")));
    watch_close(&w);
}

static void kill_overtakes_a_hanging_stop(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script("web", SH(DAEMON),
                                 SH("touch $UNDERSTUDY_ADDRESSES/stopping; exec sleep 1000"), NULL);
    c.stop_timeout_ms = 1000 * 1000;
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    apps_stop_all(w.apps);
    watch_state(&w, 0, APP_STATE_STOPPING);
    apps_kill_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    assert_false(alive(read_pid(&w, "pid")));
    watch_close(&w);
}

static void stop_interrupts_a_start(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script("web", SH(DAEMON "; exec sleep 1000"), SH("exit 0"), NULL);
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_state(&w, 0, APP_STATE_STARTING);
    apps_stop_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    assert_false(watch_has(&w, "started web"));
    assert_false(watch_has(&w, "died"));
    watch_close(&w);
}

static void crash_is_restarted_up_to_the_count(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script("web", SH("rm -f $UNDERSTUDY_ADDRESSES/pid; " DAEMON), NULL, NULL);
    c.restarts = 1;
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    assert_int_equal(kill(read_pid(&w, "pid"), SIGKILL), 0);
    watch_for(&w, "died", "web");
    assert_string_equal(w.text, "application: its last process has ended");
    watch_for(&w, "restarted", "web");
    assert_int_equal(watch_status(&w, 0).restarts, 1);
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_RUNNING);
    assert_int_equal(kill(read_pid(&w, "pid"), SIGKILL), 0);
    watch_for(&w, "failed", "web");
    assert_false(w.switchover);
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_FAILED);
    assert_string_equal(watch_status(&w, 0).why, "application: its last process has ended");
    apps_start_all(w.apps); // another chance
    watch_for(&w, "all-started", NULL);
    assert_int_equal(watch_status(&w, 0).restarts, 0);
    watch_close(&w);
}

static void status_decides(void **state)
{
    struct watch w;
    char path[PATH_SIZE];

    enter(&w);
    struct app_config c =
        script("web", SH("touch $UNDERSTUDY_ADDRESSES/up"), SH("rm -f $UNDERSTUDY_ADDRESSES/up"),
               SH("test -e $UNDERSTUDY_ADDRESSES/up"));
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    watch_path(&w, path, "up");
    assert_int_equal(unlink(path), 0);
    watch_for(&w, "died", "web");
    assert_string_equal(w.text, "status: /bin/sh ended with exit status 1");
    watch_for(&w, "restarted", "web");
    watch_close(&w);
}

static void status_that_hangs_is_a_failure(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script("web", SH("exit 0"), NULL, SH("exec sleep 1000"));
    c.status_timeout_ms = 200;
    c.restarts = 0;
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "failed", "web");
    assert_string_equal(w.text, "status: /bin/sh did not end within 0.2 s and was killed");
    watch_close(&w);
}

static void frozen_and_killed_by_others_is_no_failure(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config c = script(
        "web", SH("rm -f $UNDERSTUDY_ADDRESSES/pid; " DAEMON), NULL,
        SH("echo x >> $UNDERSTUDY_ADDRESSES/asked; kill -0 $(cat $UNDERSTUDY_ADDRESSES/pid)"));
    c.restarts = 0;
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    apps_set_frozen(w.apps, true);
    watch_state(&w, 0, APP_STATE_FROZEN);
    assert_int_equal(kill(read_pid(&w, "pid"), SIGKILL), 0);
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_FROZEN);
    apps_set_frozen(w.apps, false);
    watch_for(&w, "restarted", "web");
    assert_false(watch_has(&w, "died"));
    assert_int_equal(watch_status(&w, 0).restarts, 0);
    watch_close(&w);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[PATH_SIZE];
    assert_int_equal(path_format(path, sizeof(path), "%s/%s", dir, name), 0);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static int64_t used_ns(void)
{
    struct timespec used;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used), 0);
    return used.tv_sec * NS_PER_S + used.tv_nsec;
}

// An end may be suspended for days.
static void frozen_cgroup_costs_nothing(void **state)
{
    struct watch w;
    struct apps_target target;

    enter(&w);
    struct app_config c = script("web", SH(DAEMON), SH("exit 0"), NULL);
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    assert_int_equal(apps_freeze_targets(w.apps, &target, 1), 1);
    if (!target.cgroup[0]) {
        watch_close(&w);
        skip();
    }
    apps_set_frozen(w.apps, true);
    watch_state(&w, 0, APP_STATE_FROZEN);
    write_file(target.cgroup, "cgroup.freeze", "1"); // the guard's word of it may come before the cgroup's
    int64_t before = used_ns();
    usleep(500000); // one that turns round and round uses all of it
    assert_true(used_ns() - before < 100 * NS_PER_MS);
    write_file(target.cgroup, "cgroup.freeze", "0");
    apps_set_frozen(w.apps, false);
    apps_stop_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    watch_close(&w);
}

static void frozen_cgroup_is_killed_by_stop(void **state)
{
    struct watch w;
    struct apps_target target;

    enter(&w);
    struct app_config c = script("web", SH(DAEMON), SH("exit 0"), NULL);
    watch_apps(&w, &c, 1);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    assert_int_equal(apps_freeze_targets(w.apps, &target, 1), 1);
    if (target.cgroup[0])
        write_file(target.cgroup, "cgroup.freeze", "1");
    else
        assert_int_equal(kill(target.pid, SIGSTOP), 0);
    apps_set_frozen(w.apps, true);
    apps_stop_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    assert_false(alive(read_pid(&w, "pid")));
    apps_set_frozen(w.apps, false);
    apps_start_all(w.apps); // and the group is usable again
    watch_for(&w, "all-started", NULL);
    watch_close(&w);
}

static void adopted_after_a_restart_of_the_daemon(void **state)
{
    struct watch w;
    // It prints all the time: the end of its reader must not end it.
    const char *const *start =
        SH("echo x >> $UNDERSTUDY_ADDRESSES/starts; rm -f $UNDERSTUDY_ADDRESSES/pid; "
           "sh -c 'echo $$ > $UNDERSTUDY_ADDRESSES/pid; while :; do echo tick; sleep 0.02; done' & "
           "while [ ! -s $UNDERSTUDY_ADDRESSES/pid ]; do sleep 0.01; done");

    enter(&w);
    struct app_config list[] = {script("web", start, NULL, NULL),
                                script("asked", SH("exit 0"), NULL, SH("exit 0"))};
    watch_apps(&w, list, 2);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    watch_output(&w, "tick");
    w.apps = apps_forget(w.apps);
    pid_t pid = read_pid(&w, "pid");

    w.output[0] = 0;
    watch_apps(&w, list, 2);
    apps_adopt(w.apps);
    watch_for(&w, "all-started", NULL);
    assert_int_equal(read_pid(&w, "pid"), pid);
    assert_true(alive(pid));
    assert_string_equal(watch_read(&w, "starts"), "x\n");
    watch_output(&w, "tick");
    assert_int_equal(kill(pid, SIGKILL), 0); // and it is watched
    watch_for(&w, "restarted", "web");
    w.apps = apps_forget(w.apps);
    assert_int_equal(kill(read_pid(&w, "pid"), SIGKILL), 0);

    watch_apps(&w, list, 2); // what does not run any more is started
    apps_adopt(w.apps);
    watch_file(&w, "starts", "x\nx\nx\n");
    watch_close(&w);
}

static void foreign_ones_are_named(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config list[] = {
        script("web", SH(DAEMON), NULL, NULL),
        script("status", SH("exit 0"), NULL,
               SH("[ $UNDERSTUDY_ROLE = passive ] && [ ! -e $UNDERSTUDY_ADDRESSES/quiet ]"))};
    list[1].status_interval_ms = 1000 * 1000;
    watch_apps(&w, list, 2);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    w.apps = apps_forget(w.apps); // leaves it

    watch_apps(&w, list, 2);
    apps_check_foreign(w.apps);
    watch_for(&w, "checked", NULL);
    assert_non_null(strstr(w.text, "processes of 'web' run here"));
    assert_non_null(strstr(w.text, "; 'status' runs here, says its status command"));
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_FOREIGN);
    apps_kill_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    watch_path(&w, w.text, "quiet");
    close(open(w.text, O_CREAT | O_WRONLY, 0600));
    apps_check_foreign(w.apps);
    watch_for(&w, "checked", NULL);
    assert_string_equal(w.text, "");
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_STOPPED);
    watch_close(&w);
}

// Whoever asks again is answered by the status command that is under way, which is no process of the application's.
static void a_second_check_waits_for_the_first(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config list[] = {
        script("web", SH("exit 0"), NULL,
               SH("echo x >>$UNDERSTUDY_ADDRESSES/asked; while [ ! -e $UNDERSTUDY_ADDRESSES/answer ]; do sleep 0.05; done; exit 1"))};
    watch_apps(&w, list, 1);
    apps_check_foreign(w.apps);
    watch_file(&w, "asked", "x\n");
    for (int i = 0; i < 3; i++) {
        apps_check_foreign(w.apps);
        usleep(100 * 1000); // it is looked at; whether it is or not, what follows is so
        assert_false(watch_has(&w, "checked"));
    }
    watch_path(&w, w.text, "answer");
    close(open(w.text, O_CREAT | O_WRONLY, 0600));
    watch_for(&w, "checked", NULL);
    assert_string_equal(w.text, "");
    assert_int_equal(watch_status(&w, 0).state, APP_STATE_STOPPED);
    watch_close(&w);
}

static void refused(struct watch *w, const struct app_config *list, size_t count, const char *text)
{
    struct error err = {0};
    struct apps *apps = NULL;

    assert_int_equal(apps_open(&w->setup, list, count, &apps, &err), -EINVAL);
    assert_null(apps);
    assert_string_equal(err.text, text);
}

static void bad_configurations_are_refused(void **state)
{
    struct watch w;

    enter(&w);
    struct app_config good = script("web", SH("exit 0"), NULL, NULL), list[2] = {good, good};
    refused(&w, list, 2, "two applications have the name 'web'");
    list[0].name = "../x";
    refused(&w, list, 1,
            "the name of an application '../x' must be 1 to 63 letters, digits, '-', '_' or '.', "
            "and not begin "
            "with '.'");
    list[0] = good;
    list[0].start = NULL;
    refused(&w, list, 1, "application 'web': a script needs a start command");
    list[0].start = (const char *const[]){"relative", NULL};
    refused(
        &w, list, 1,
        "application 'web': start: must begin with the absolute path of a program, not 'relative'");
    list[0] = good;
    list[0].stop_timeout_ms = 0;
    refused(&w, list, 1, "application 'web': stop_timeout must be 1 ms to 24 h, not 0 ms");
    list[0] = good;
    list[0].restarts = -1;
    refused(&w, list, 1, "application 'web': restarts must be 0 to 1000, not -1");
    list[0] = app_config_defaults(APP_DOMAIN);
    list[0].name = "vm";
    refused(&w, list, 1, "application 'vm': xml must be the absolute path of a domain's XML file");
    watch_close(&w);
}

static void empty_list_is_started_and_stopped_at_once(void **state)
{
    struct watch w;

    enter(&w);
    watch_apps(&w, NULL, 0);
    apps_start_all(w.apps);
    watch_for(&w, "all-started", NULL);
    apps_stop_all(w.apps);
    watch_for(&w, "all-stopped", NULL);
    watch_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(daemon_in_a_cgroup),
        cmocka_unit_test(daemon_without_a_cgroup),
        cmocka_unit_test(order_is_kept_both_ways),
        cmocka_unit_test(output_and_environment_arrive),
        cmocka_unit_test(a_flood_of_output_is_counted_not_printed),
        cmocka_unit_test(start_that_fails_is_retried_then_failed),
        cmocka_unit_test(failed_with_policy_none_does_not_hold_up_others),
        cmocka_unit_test(missing_program_is_named),
        cmocka_unit_test(start_timeout_kills_it_all),
        cmocka_unit_test(stop_timeout_kills),
        cmocka_unit_test(process_that_ignores_sigterm_is_killed),
        cmocka_unit_test(kill_overtakes_a_hanging_stop),
        cmocka_unit_test(stop_interrupts_a_start),
        cmocka_unit_test(crash_is_restarted_up_to_the_count),
        cmocka_unit_test(status_decides),
        cmocka_unit_test(status_that_hangs_is_a_failure),
        cmocka_unit_test(frozen_and_killed_by_others_is_no_failure),
        cmocka_unit_test(frozen_cgroup_costs_nothing),
        cmocka_unit_test(frozen_cgroup_is_killed_by_stop),
        cmocka_unit_test(adopted_after_a_restart_of_the_daemon),
        cmocka_unit_test(foreign_ones_are_named),
        cmocka_unit_test(a_second_check_waits_for_the_first),
        cmocka_unit_test(bad_configurations_are_refused),
        cmocka_unit_test(empty_list_is_started_and_stopped_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
