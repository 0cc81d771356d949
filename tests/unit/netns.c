// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what)
{
    fprintf(stderr, "netns: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void run(const char *prefix, const char *format, va_list args)
{
    char command[1024];
    size_t used = (size_t)snprintf(command, sizeof(command), "%s", prefix);
    vsnprintf(command + used, sizeof(command) - used, format, args);
    int status = system(command);
    if (status != 0) {
        fprintf(stderr, "netns: \"%s\" ended with status %d\n", command, status);
        exit(1);
    }
}

void netns_here(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    run("", format, args);
    va_end(args);
}

void netns_there(const struct netns *ns, const char *format, ...)
{
    char prefix[64];
    va_list args;
    snprintf(prefix, sizeof(prefix), "nsenter -t %d -n ", (int)ns->there);
    va_start(args, format);
    run(prefix, format, args);
    va_end(args);
}

void netns_cut(const struct netns *ns)
{
    netns_there(ns, "ip link set dev b down");
}

void netns_heal(const struct netns *ns)
{
    netns_here("ip link set dev a up");
    netns_there(ns, "ip link set dev b up");
    netns_here("until ip link show dev a | grep -q 'state UP'; do sleep 0.05; done");
    netns_there(ns, "sh -c \"until ip link show dev b | grep -q 'state UP'; do sleep 0.05; done\"");
}

void netns_enter_there(const struct netns *ns)
{
    if (setns(ns->there_fd, CLONE_NEWNET) < 0)
        die("setns");
}

void netns_enter_here(const struct netns *ns)
{
    if (setns(ns->here_fd, CLONE_NEWNET) < 0)
        die("setns");
}

static void keep_namespace(int ready)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWNET) < 0)
        _exit(1);
    if (write(ready, "", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

void netns_make(struct netns *ns)
{
    char path[64], byte;
    int ready[2];
    if (geteuid() != 0 || system("ip -V >/dev/null 2>&1") != 0) {
        fprintf(stderr, "skipped: needs root, and the command ip\n");
        exit(SKIP);
    }
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0) {
        fprintf(stderr, "skipped: no namespaces here: %s\n", strerror(errno));
        exit(SKIP);
    }
    // What is mounted from here on is nobody else's business.
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || pipe2(ready, O_CLOEXEC) < 0)
        die("private mounts");
    ns->there = fork();
    if (ns->there < 0)
        die("fork");
    if (ns->there == 0)
        keep_namespace(ready[1]);
    (void)close(ready[1]);
    if (read(ready[0], &byte, 1) != 1)
        die("the other namespace");
    (void)close(ready[0]);
    ns->here_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)ns->there);
    ns->there_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (ns->here_fd < 0 || ns->there_fd < 0)
        die("namespaces");
    netns_here("ip link set dev lo up");
    netns_here("ip link add name a type veth peer name b netns %d", (int)ns->there);
    netns_there(ns, "ip link set dev lo up");
    netns_heal(ns);
}

void netns_drop(struct netns *ns)
{
    (void)kill(ns->there, SIGKILL);
    (void)waitpid(ns->there, NULL, 0);
    (void)close(ns->here_fd);
    (void)close(ns->there_fd);
}
