// SPDX-License-Identifier: Apache-2.0
// All processes of one script application: a cgroup (v2) of its own where that can be made, else
// what carries its mark in the environment or belongs to the session of its last start command. A
// process that leaves the session *and* wipes its environment escapes the second kind, never the
// first.
#ifndef APPS_GROUP_H
#define APPS_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/base/error.h"

struct group;

// Where cgroup v2 is mounted, or "".
void group_mount(char *ret_mount, size_t size);

// `parent` is relative to the cgroup v2 mount (NULL: "understudy"), the group is
// parent/pair/identity/app. Creates nothing yet, but finds what an earlier run has left.
// `mark_extra` tells two of the same name apart where there is no cgroup (the runtime directory).
struct group *group_open(const char *parent, const char *pair, const char *identity,
                         const char *app, const char *mark_extra);
struct group *
group_free(struct group *g); // the processes and the cgroup stay; NULL-safe; returns NULL

// Makes the cgroup (thawed) before the first process. Falls back to the mark where it cannot be
// made.
void group_prepare(struct group *g);
// The cgroup's absolute directory, "" where there is none (yet).
const char *group_cgroup(const struct group *g);
// "UNDERSTUDY_GROUP=...", to be put into the environment of every command.
const char *group_mark(const struct group *g);
// In the child between fork and exec: joins. 0 or -errno. Async-signal-safe.
int group_enter(const struct group *g);
// In the parent after the fork: this session belongs to the group.
void group_add_session(struct group *g, pid_t session);

bool group_empty(struct group *g);
// SIGKILL reaches frozen processes too.
void group_signal(const struct group *g, int signal);
// Up to `limit` process ids; the return value is how many were written.
size_t group_pids(const struct group *g, pid_t *ret_pids, size_t limit);
// To be polled for POLLPRI: group_empty() may have changed. -1 where there is no cgroup.
int group_fd(const struct group *g);
// The empty cgroup goes away.
void group_remove(struct group *g);

#endif
