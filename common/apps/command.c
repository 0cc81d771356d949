// SPDX-License-Identifier: Apache-2.0
// The child tells why it could not run the program over a pipe that closes at exec: an errno is
// better than 127.
#include "common/apps/command.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define REAP_NS (2 * NS_PER_S) // a killed command that does not end by then hangs in the kernel

struct command {
    pid_t pid;
    int pidfd;
    int report_fd; // an int when exec failed
    char *path;
    int64_t timeout_ms;
    int64_t deadline_ns;
    bool timed_out;
    bool reaped;
    siginfo_t end; // valid when reaped
};

// Between fork and exec, so async-signal-safe calls only. The daemon may run at real-time priority
// with signals blocked or ignored: none of that is for its children.
static void __attribute__((noreturn))
run_child(const struct command_spec *spec, int null_fd, int report_fd)
{
    struct sched_param normal = {0};
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigset_t none;
    int code;

    (void)setsid();
    (void)sched_setscheduler(0, SCHED_OTHER, &normal);
    // Nor is what spares the daemon when memory is short.
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    (void)!(score >= 0 && write(score, "0", 1) == 1);
    for (int s = 1; s < NSIG; s++)
        (void)sigaction(s, &plain, NULL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    code = -group_enter(spec->group);
    if (code == 0 &&
        (dup2(null_fd, 0) < 0 || dup2(spec->output_fd, 1) < 0 || dup2(spec->output_fd, 2) < 0 ||
         chdir("/") < 0 || close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0))
        code = errno;
    if (code == 0) {
        (void)execve(spec->argv[0], (char *const *)spec->argv, spec->environment);
        code = errno;
    }
    (void)!write(report_fd, &code, sizeof(code));
    _exit(127);
}

static int spawn(const struct command_spec *spec, struct command *c, struct error *err)
{
    int report[2] = {-1, -1};
    CLEANUP_CLOSE int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null_fd < 0 || pipe2(report, O_CLOEXEC | O_NONBLOCK) < 0)
        return error_sys(err, -errno, "cannot prepare %s", c->path);
    c->pid = fork();
    if (c->pid == 0)
        run_child(spec, null_fd, report[1]);
    int code = errno;
    (void)close(report[1]);
    c->report_fd = report[0];
    if (c->pid < 0)
        return error_sys(err, -code, "cannot fork for %s", c->path);
    group_add_session(spec->group, c->pid);
    c->pidfd = pidfd_open(c->pid, 0); // not reaped yet, so this is our child
    if (c->pidfd < 0) {
        code = errno;
        command_kill(c);
        (void)waitpid(c->pid, NULL, 0);
        c->reaped = true;
        return error_sys(err, -code, "cannot watch %s", c->path);
    }
    return 0;
}

int command_start(const struct command_spec *spec, struct command **ret_command, struct error *err)
{
    struct command *c = calloc(1, sizeof(*c));

    ENSURE(c && spec->argv && spec->argv[0]);
    c->pidfd = c->report_fd = -1;
    c->path = strdup(spec->argv[0]);
    ENSURE(c->path);
    c->timeout_ms = spec->timeout_ms;
    c->deadline_ns = clock_boot_ns() + spec->timeout_ms * NS_PER_MS;
    int r = spawn(spec, c, err);
    if (r < 0) {
        (void)command_free(c);
        return r;
    }
    *ret_command = c;
    return 0;
}

static bool reap(struct command *c)
{
    if (!c->reaped) {
        siginfo_t end = {0};
        if (waitid(P_PIDFD, (id_t)c->pidfd, &end, WEXITED | WNOHANG) == 0 && end.si_pid == c->pid) {
            c->end = end;
            c->reaped = true;
        }
    }
    return c->reaped;
}

struct command *command_free(struct command *c)
{
    if (!c)
        return NULL;
    if (c->pidfd >= 0) {
        (void)reap(c);
        (void)close(c->pidfd);
    }
    if (c->report_fd >= 0)
        (void)close(c->report_fd);
    free(c->path);
    free(c);
    return NULL;
}

int command_fd(const struct command *c)
{
    return c->pidfd;
}

int64_t command_deadline_ns(const struct command *c)
{
    return c->deadline_ns;
}

void command_kill(struct command *c)
{
    if (!c->reaped) {
        (void)kill(-c->pid, SIGKILL); // its process group, if it has got that far
        (void)kill(c->pid, SIGKILL);
    }
}

void command_shift(struct command *c, int64_t ns)
{
    c->deadline_ns += ns;
}

bool command_work(struct command *c, int64_t now)
{
    if (reap(c))
        return true;
    if (now < c->deadline_ns)
        return false;
    if (c->timed_out)
        return true;
    c->timed_out = true;
    c->deadline_ns = now + REAP_NS;
    command_kill(c);
    return reap(c);
}

int command_result(const struct command *c, struct error *err)
{
    int code = 0;

    if (c->timed_out)
        return error_set(err, -ETIMEDOUT, "%s did not end within %.1f s and was killed", c->path,
                         (double)c->timeout_ms / 1e3);
    ENSURE(c->reaped);
    if (c->end.si_code != CLD_EXITED)
        return error_set(err, -EINTR, "%s was ended by signal %d (%s)", c->path, c->end.si_status,
                         strsignal(c->end.si_status));
    if (c->end.si_status == 127 && read(c->report_fd, &code, sizeof(code)) == sizeof(code) &&
        code > 0)
        return error_sys(err, -code, "cannot run %s", c->path);
    if (c->end.si_status != 0)
        return error_set(err, -EREMOTEIO, "%s ended with exit status %d", c->path,
                         c->end.si_status);
    return 0;
}

int command_check(const char *const *argv, struct error *err)
{
    if (!argv[0] || argv[0][0] != '/')
        return error_set(err, -EINVAL, "must begin with the absolute path of a program, not '%s'",
                         argv[0] ? argv[0] : "");
    return 0;
}
