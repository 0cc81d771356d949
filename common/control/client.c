// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/control/control.h"
#include "common/control/link.h"
#include "common/control/message.h"

static int unreachable(const char *path, int r, struct error *err)
{
    switch (r) {
    case -ENOENT:
        return error_set(err, r, "%s: there is no such socket; the daemon is not running", path);
    case -ECONNREFUSED:
        return error_set(err, r, "%s: nobody answers; the daemon is not running", path);
    case -EACCES:
        return error_set(err, r, "%s: permission denied; be root, or in the group of the socket",
                         path);
    default:
        return error_sys(err, r, "%s", path);
    }
}

static int exchange(int link, const char *path, const char *message,
                    struct control_reply *ret_reply, struct error *err)
{
    char *answer = NULL;
    size_t size = 0;
    int r = control_link_send(link, message, strlen(message));
    if (r == 0)
        r = control_link_receive(link, &answer, &size);
    if (r == -EAGAIN || r == -ETIMEDOUT)
        return error_set(err, -ETIMEDOUT,
                         "%s: the daemon did not answer in time; whether it has done it is unknown",
                         path);
    if (r < 0)
        return error_sys(err, r, "%s", path);
    r = message_to_reply(answer, size, ret_reply, err);
    control_link_release(answer);
    return r < 0 && err ? error_prefix(err, "%s: unreadable answer", path) : r;
}

int control_call(const char *path, const struct control_request *request, int timeout_ms,
                 struct control_reply *ret_reply, struct error *err)
{
    CLEANUP_FREE char *message = message_from_request(request);
    if (!message)
        return error_set(err, -ENOMEM, "out of memory");
    int r = control_link_probe(path);
    if (r < 0)
        return unreachable(path, r, err);
    int link;
    r = control_link_connect(path, timeout_ms, &link, err);
    if (r < 0)
        return r;
    r = exchange(link, path, message, ret_reply, err);
    control_link_close(link);
    return r;
}
