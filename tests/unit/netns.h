// SPDX-License-Identifier: Apache-2.0
// Two network namespaces for a test, joined by a veth pair: "here" (the process itself moves into
// it) with interface `a`, and "there" with interface `b`. They vanish with the processes that live
// in them.
#ifndef TEST_NETNS_H
#define TEST_NETNS_H

#include <sys/types.h>

#define SKIP 77

struct netns {
    pid_t there; // a process that does nothing but keep the other namespace
    int here_fd; // the namespaces, for setns()
    int there_fd;
};

// Exits with SKIP when not permitted, or when there is no `ip`.
void netns_make(struct netns *ns);
void netns_drop(struct netns *ns);
// Runs a shell command (printf format), here or there; fails the test when it fails.
void netns_here(const char *format, ...) __attribute__((format(printf, 1, 2)));
void netns_there(const struct netns *ns, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// Sets `b` down, or up again; up returns when `a` can send.
void netns_cut(const struct netns *ns);
void netns_heal(const struct netns *ns);
// Moves the calling thread, to make sockets there.
void netns_enter_there(const struct netns *ns);
void netns_enter_here(const struct netns *ns);

#endif
