// SPDX-License-Identifier: Apache-2.0
// Public addresses of ends that a daemon has run and does not run any more, because their pair file is gone or names another
// machine: taken off once, at its start, on a thread of its own, since that may wait for the kernel's lock of the network.
#ifndef DAEMON_GONE_H
#define DAEMON_GONE_H

#include "common/config/pair.h"

struct gone;

// What is passed in is used until gone_free(). 0 or -errno.
int gone_start(const struct pair_config_list *pairs, enum pair_end kind, const char *host, const char *runtime_dir,
               struct gone **ret_gone);
struct gone *gone_free(struct gone *gone); // waits for the thread; NULL-safe

#endif
