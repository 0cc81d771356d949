// SPDX-License-Identifier: Apache-2.0
#include "common/control/link.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/base/cleanup.h"
#include "common/control/control.h"

#define NEVER_MS (24 * 3600 * 1000) // longer than any request lives

int control_link_probe(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return errno == EAGAIN ? 0 : -errno; // EAGAIN: somebody is there, with a full backlog
    return 0;
}

static int set_int(int link, int level, int option, int value)
{
    return nn_setsockopt(link, level, option, &value, sizeof(value)) < 0 ? -nn_errno() : 0;
}

static int address_of(const char *path, char *buffer, size_t size)
{
    int n = snprintf(buffer, size, "ipc://%s", path);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int open_link(const char *path, int timeout_ms, int *ret_link)
{
    char address[NN_SOCKADDR_MAX];
    int r = address_of(path, address, sizeof(address));
    if (r < 0)
        return r;
    int link = nn_socket(AF_SP, NN_REQ);
    if (link < 0)
        return -nn_errno();
    r = set_int(link, NN_SOL_SOCKET, NN_RCVMAXSIZE, CONTROL_MESSAGE_MAX);
    // A request must never reach another run of the daemon than the one it was meant for.
    if (r == 0)
        r = set_int(link, NN_SOL_SOCKET, NN_RECONNECT_IVL, NEVER_MS);
    if (r == 0)
        r = set_int(link, NN_REQ, NN_REQ_RESEND_IVL, NEVER_MS);
    if (r == 0)
        r = set_int(link, NN_SOL_SOCKET, NN_RCVTIMEO, timeout_ms);
    if (r == 0)
        r = set_int(link, NN_SOL_SOCKET, NN_SNDTIMEO, timeout_ms);
    if (r == 0 && nn_connect(link, address) < 0)
        r = -nn_errno();
    if (r < 0) {
        (void)nn_close(link);
        return r;
    }
    *ret_link = link;
    return 0;
}

int control_link_connect(const char *path, int timeout_ms, int *ret_link, struct error *err)
{
    int r = open_link(path, timeout_ms, ret_link);
    return r < 0 ? error_sys(err, r, "%s: cannot connect", path) : 0;
}

int control_link_receive(int link, char **ret_message, size_t *ret_size)
{
    void *message = NULL;
    int size = nn_recv(link, &message, NN_MSG, 0);
    if (size < 0)
        return -nn_errno();
    *ret_message = message;
    *ret_size = (size_t)size;
    return 0;
}

void control_link_release(char *message)
{
    if (message)
        (void)nn_freemsg(message);
}

int control_link_send(int link, const char *message, size_t size)
{
    if (size > CONTROL_MESSAGE_MAX)
        return -EMSGSIZE;
    return nn_send(link, message, size, 0) < 0 ? -nn_errno() : 0;
}

void control_link_close(int link)
{
    while (nn_close(link) < 0 && nn_errno() == EINTR)
        ;
}
