// SPDX-License-Identifier: Apache-2.0
// Where things are on disk (part of the outside contract). `state` and `runtime` are the daemon's
// --state-dir and
// --runtime-dir. All return 0, or -ENAMETOOLONG when the path does not fit (for sockets: into a
// socket's address).
#ifndef CONFIG_PLACES_H
#define CONFIG_PLACES_H

#include <stddef.h>

#include "common/config/pair.h"

#define PLACES_CONFIG_DIR  "/etc/understudy"
#define PLACES_STATE_DIR   "/var/lib/understudy"
#define PLACES_RUNTIME_DIR "/run/understudy"
#define PLACES_SOCKET_MAX  108 // sun_path, with its zero

int places_state(char *buffer, size_t size, const char *state, const char *pair, enum pair_end end);
int places_runtime(char *buffer, size_t size, const char *runtime, const char *pair,
                   enum pair_end end);
// RUNTIME/PAIR/VOLUME.nbd
int places_export(char *buffer, size_t size, const char *runtime, const char *pair,
                  const char *volume);
// RUNTIME/primaryd.sock, RUNTIME/secondaryd.sock
int places_control(char *buffer, size_t size, const char *runtime, enum pair_end daemon);

#endif
