// SPDX-License-Identifier: Apache-2.0
// understudy-guard: outlives a dead or wedged daemon, and steps its pairs down when their deadlines
// pass. Started by the daemon, which finds it again after a restart; one for each daemon, by a lock
// that it holds as long as it lives.
//
// Signals that ask a process to end are ignored: the daemon ends it, through the plan (guard_end),
// or nothing does.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "config.h"
#include "guard/guard.h"
#include "guard/serve.h"

#define PRIORITY        20 // of SCHED_FIFO: above ordinary programs
#define NOTE_STACK_SIZE (128 * 1024)

static const char usage[] =
    "Usage: understudy-guard --runtime-dir DIR --name NAME\n"
    "Watches the deadlines of a daemon's pairs. Started by primaryd and secondaryd.\n"
    "\n"
    "  --runtime-dir DIR  where its socket is made\n"
    "  --name NAME        the daemon that it belongs to\n"
    "  --help, --version\n";

struct options {
    const char *dir;
    const char *name;
};

// Returns EX_OK to go on, -1 when all is done, or the exit status of wrong usage.
static int parse(int argc, char **argv, struct options *ret_options)
{
    static const struct option known[] = {{"runtime-dir", required_argument, NULL, 'r'},
                                          {"name", required_argument, NULL, 'n'},
                                          {"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'V'},
                                          {NULL, 0, NULL, 0}};
    struct options o = {NULL, NULL};
    int c;
    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 'r')
            o.dir = optarg;
        else if (c == 'n')
            o.name = optarg;
        else if (c == 'h' || c == 'V')
            return printf("%s", c == 'h' ? usage : "understudy-guard " PACKAGE_VERSION "\n"), -1;
        else
            return EX_USAGE;
    }
    if (!o.dir || !o.name || optind < argc || strlen(o.name) >= GUARD_NAME_SIZE)
        return fputs(usage, stderr), EX_USAGE;
    *ret_options = o;
    return EX_OK;
}

// The lock lives as long as some process has the descriptor: through the fork below, until the
// guard ends.
static int take_lock(const struct options *o)
{
    char path[PATH_SIZE];
    if (path_format(path, sizeof(path), "%s/guard-%s.lock", o->dir, o->name) < 0)
        return -ENAMETOOLONG;
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    return TAKE_FD(fd);
}

static void ignore_signals(void)
{
    static const int numbers[] = {SIGTERM, SIGINT,  SIGHUP,  SIGQUIT, SIGPIPE, SIGUSR1,
                                  SIGUSR2, SIGALRM, SIGTTIN, SIGTTOU, SIGTSTP};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        (void)signal(numbers[i], SIG_IGN);
}

// What is said goes to stderr from a thread of its own: whoever reads it may be stuck, or write to
// a full disk.
static void *pass_notes_on(void *arg)
{
    int fd = *(int *)arg;
    char text[512];
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        (void)poll(&p, 1, -1);
        ssize_t n = read(fd, text, sizeof(text) - 1);
        if (n == 0)
            return NULL;
        if (n > 0 && fprintf(stderr, "understudy-guard: %.*s", (int)n, text) < 0)
            clearerr(stderr);
    }
}

// Returns the end to write into, or -1: then nothing is said.
static int start_notes(int pipe_fds[2])
{
    pthread_t thread;
    pthread_attr_t attr;
    if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    if (pthread_attr_init(&attr) != 0)
        return -1;
    (void)pthread_attr_setstacksize(&attr, NOTE_STACK_SIZE);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int r = pthread_create(&thread, &attr, pass_notes_on, &pipe_fds[0]);
    (void)pthread_attr_destroy(&attr);
    return r == 0 ? pipe_fds[1] : -1;
}

// Each of these helps and none is needed: where it is not permitted, the guard is as good as any
// other process.
static void harden(void)
{
    struct sched_param priority = {.sched_priority = PRIORITY};
    CLEANUP_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "-1000", 5) < 0)
        (void)fd;
    (void)mlockall(MCL_CURRENT | MCL_FUTURE);
    (void)sched_setscheduler(0, SCHED_FIFO, &priority);
}

static int guard_main(const struct options *o, int ready)
{
    int notes[2];
    struct server *server = NULL;
    struct error err = {0};
    (void)setsid();
    ignore_signals();
    if (server_make(o->dir, o->name, start_notes(notes), &server, &err) < 0) {
        fprintf(stderr, "understudy-guard: %s\n", err.text);
        return EX_OSERR;
    }
    if (chdir("/") < 0 || !freopen("/dev/null", "r", stdin) || !freopen("/dev/null", "w", stdout))
        return EX_OSERR;
    harden();
    if (write(ready, "", 1) != 1)
        return EX_OSERR;
    (void)close(ready);
    server_run(server);
    server_free(server);
    return EX_OK;
}

// Ends when the guard is ready, so that whoever started it may wait for this process and has no
// child afterwards.
static int detach(const struct options *o)
{
    int ready[2];
    char byte;
    if (pipe2(ready, O_CLOEXEC) < 0)
        return EX_OSERR;
    pid_t pid = fork();
    if (pid < 0)
        return EX_OSERR;
    (void)close(ready[pid == 0 ? 0 : 1]);
    if (pid == 0)
        return guard_main(o, ready[1]);
    return read(ready[0], &byte, 1) == 1 ? EX_OK : EX_OSERR;
}

int main(int argc, char **argv)
{
    struct options options;
    (void)close_range(3, ~0U, 0); // nothing that the daemon has open stays open here
    int r = parse(argc, argv, &options);
    if (r != EX_OK)
        return r < 0 ? EX_OK : r;
    CLEANUP_CLOSE int lock = take_lock(&options);
    if (lock == -EWOULDBLOCK)
        return EX_TEMPFAIL;
    if (lock < 0) {
        fprintf(stderr, "understudy-guard: cannot lock %s: %s\n", options.dir, strerror(-lock));
        return EX_OSERR;
    }
    return detach(&options);
}
