// SPDX-License-Identifier: Apache-2.0
// pairctl's end of the control sockets; the only file of this room that knows nanomsg is link.c.
// Private to common/control. Messages are whole or not there; none is larger than
// CONTROL_MESSAGE_MAX.
#ifndef CONTROL_LINK_H
#define CONTROL_LINK_H

#include <stddef.h>

#include "common/base/error.h"

// Whether somebody listens at the unix socket `path`: 0, -ENOENT, -ECONNREFUSED, -EACCES, ...
int control_link_probe(const char *path);

// Returns once the connection is made. A daemon that is too busy to accept it is waited for, at most
// timeout_ms: -ETIMEDOUT, and nothing was asked of it.
int control_link_connect(const char *path, int timeout_ms, int *ret_link, struct error *err);
// One message, freed with control_link_release(). Waits for the link's timeout: -ETIMEDOUT.
int control_link_receive(int link, char **ret_message, size_t *ret_size);
void control_link_release(char *message);
int control_link_send(int link, const char *message, size_t size);
void control_link_close(int link);

#endif
