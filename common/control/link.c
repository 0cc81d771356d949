// SPDX-License-Identifier: Apache-2.0
#include "common/control/link.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/control/control.h"

#define NEVER_MS   (24 * 3600 * 1000) // longer than any request lives
#define PAUSE_NS   NS_PER_MS          // between two looks at a connection that is being made
#define BACKOFF_NS (10 * NS_PER_MS)   // before the next attempt at a daemon with a full backlog

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

static void pause_ns(int64_t ns)
{
    struct timespec pause = {.tv_nsec = ns};
    (void)nanosleep(&pause, NULL);
}

// nanomsg connects in a thread of its own and does not say how that went; its counters do. With
// NEVER_MS there is no second attempt: the request of a link that did not connect stays unsent.
// -EAGAIN: the attempt failed. -ETIMEDOUT: nobody knows by `until`.
static int await_connected(int link, int64_t until)
{
    for (;;) {
        if (nn_get_statistic(link, NN_STAT_ESTABLISHED_CONNECTIONS) > 0)
            return 0;
        if (nn_get_statistic(link, NN_STAT_CONNECT_ERRORS) > 0)
            return -EAGAIN;
        if (clock_boot_ns() >= until)
            return -ETIMEDOUT;
        pause_ns(PAUSE_NS);
    }
}

// A daemon that is busy accepts late, and while its backlog is full every attempt fails at once.
int control_link_connect(const char *path, int timeout_ms, int *ret_link, struct error *err)
{
    int64_t until = clock_boot_ns() + timeout_ms * NS_PER_MS;
    for (;;) {
        int link = -1;
        int r = open_link(path, timeout_ms, &link);
        if (r < 0)
            return error_sys(err, r, "%s: cannot connect", path);
        r = await_connected(link, until);
        if (r == 0) {
            *ret_link = link;
            return 0;
        }
        control_link_close(link);
        r = control_link_probe(path); // somebody is still there?
        if (r < 0)
            return error_sys(err, r, "%s: cannot connect", path);
        if (clock_boot_ns() >= until)
            return error_set(err, -ETIMEDOUT,
                             "%s: the daemon accepts no connection; nothing was asked of it", path);
        pause_ns(BACKOFF_NS);
    }
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
