// SPDX-License-Identifier: Apache-2.0
// A daemon: all ends of one kind on this machine, under one control loop.
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "common/config/pair.h"

// Runs until it is told to end. Returns the exit status.
int daemon_main(enum pair_end kind, int argc, char **argv);

#endif
