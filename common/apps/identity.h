// SPDX-License-Identifier: Apache-2.0
// Which domain this end has started, remembered in the runtime directory, and which process its
// QEMU is. What is written there is the proof that a domain is ours: only such a one is ever
// stopped or destroyed.
#ifndef APPS_IDENTITY_H
#define APPS_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/apps/domain_xml.h"
#include "common/base/error.h"

struct identity {
    char name[DOMAIN_NAME_SIZE];
    char uuid[DOMAIN_UUID_SIZE];
};

// -ENOENT: this end has started none since the boot.
int identity_load(const char *path, struct identity *ret_identity, struct error *err);
int identity_save(const char *path, const struct identity *identity, struct error *err);
void identity_remove(const char *path);

struct qemu {
    pid_t pid;
    uint64_t start; // field 22 of /proc/PID/stat
    int pidfd;      // refers to that very process
};
#define QEMU_NONE ((struct qemu){0, 0, -1})

// The domain's QEMU as libvirt's pid file names it, if a process with that UUID among its arguments
// has that id.
bool qemu_find(const struct identity *identity, struct qemu *ret_qemu);
void qemu_clear(struct qemu *q);
bool qemu_ended(const struct qemu *q); // true also of QEMU_NONE
void qemu_kill(const struct qemu *q);  // SIGKILL
// The cgroup (v2) that libvirt has made for it, or "".
void qemu_cgroup(const struct qemu *q, char *ret_path, size_t size);

// Start time of a process, in clock ticks since boot; -ESRCH when there is none.
int process_start(pid_t pid, uint64_t *ret_start);

#endif
