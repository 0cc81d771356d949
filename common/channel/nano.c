// SPDX-License-Identifier: Apache-2.0
// See nano.h.
#include "common/channel/nano.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <nanomsg/tcp.h>

#include "common/base/error.h"

#define RECONNECT_MS_MIN 50
#define RECONNECT_MS_MAX 1000
#define URL_SIZE         192

static int set(int s, int level, int option, int value)
{
    return nn_setsockopt(s, level, option, &value, sizeof(value)) < 0 ? -nn_errno() : 0;
}

static bool is_ipv6(const char *address)
{
    return strchr(address, ':') != NULL;
}

static int open_socket(int protocol, int *ret_socket)
{
    int s = nn_socket(AF_SP, protocol);
    if (s < 0)
        return -nn_errno();
    *ret_socket = s;
    return 0;
}

#define CARRIER_NICE (-10)

// A new thread is as nice as the one that makes it.
int nano_carrier(void)
{
    int s = -1;
    pid_t self = gettid();
    int before = getpriority(PRIO_PROCESS, (id_t)self);
    (void)setpriority(PRIO_PROCESS, (id_t)self, CARRIER_NICE);
    if (open_socket(NN_PULL, &s) < 0)
        s = -1;
    (void)setpriority(PRIO_PROCESS, (id_t)self, before);
    return s;
}

int nano_pull_open(size_t size_max, int *ret_socket)
{
    int s = -1;
    int r = open_socket(NN_PULL, &s);
    if (r < 0)
        return r;
    r = set(s, NN_SOL_SOCKET, NN_RCVMAXSIZE, (int)size_max);
    if (r == 0)
        r = set(s, NN_SOL_SOCKET, NN_RCVBUF, (int)(size_max < 65536 ? 65536 : 4 * 1024 * 1024));
    if (r < 0) {
        nano_close(s);
        return r;
    }
    *ret_socket = s;
    return 0;
}

// The option counts for the endpoints that are added after it.
static int set_family(int s, const char *address)
{
    return set(s, NN_SOL_SOCKET, NN_IPV4ONLY, !is_ipv6(address));
}

int nano_pull_bind(int socket, const char *address, uint16_t port)
{
    char url[URL_SIZE];
    int n = snprintf(url, sizeof(url), is_ipv6(address) ? "tcp://[%s]:%u" : "tcp://%s:%u", address,
                     port);
    ENSURE(n > 0 && (size_t)n < sizeof(url));
    int r = set_family(socket, address);
    if (r < 0)
        return r;
    return nn_bind(socket, url) < 0 ? -nn_errno() : 0;
}

static int push_options(int s, const char *address, size_t buffer_bytes)
{
    int r = set_family(s, address);
    if (r == 0)
        r = set(s, NN_TCP, NN_TCP_NODELAY, 1);
    if (r == 0)
        r = set(s, NN_SOL_SOCKET, NN_SNDBUF, (int)buffer_bytes);
    if (r == 0)
        r = set(s, NN_SOL_SOCKET, NN_RECONNECT_IVL, RECONNECT_MS_MIN);
    if (r == 0)
        r = set(s, NN_SOL_SOCKET, NN_RECONNECT_IVL_MAX, RECONNECT_MS_MAX);
    return r;
}

int nano_push_open(const char *mine, const char *peers, uint16_t port, size_t buffer_bytes,
                   int *ret_socket)
{
    char url[URL_SIZE];
    int s = -1;
    int r = open_socket(NN_PUSH, &s);
    if (r < 0)
        return r;
    int n = snprintf(url, sizeof(url), is_ipv6(mine) ? "tcp://[%s];[%s]:%u" : "tcp://%s;%s:%u",
                     mine, peers, port);
    ENSURE(n > 0 && (size_t)n < sizeof(url));
    r = push_options(s, mine, buffer_bytes);
    if (r == 0 && nn_connect(s, url) < 0)
        r = -nn_errno();
    if (r < 0) {
        nano_close(s);
        return r;
    }
    *ret_socket = s;
    return 0;
}

void nano_close(int socket)
{
    if (socket < 0)
        return;
    while (nn_close(socket) < 0 && nn_errno() == EINTR)
        ;
}

static int get_fd(int socket, int option)
{
    int fd = -1;
    size_t size = sizeof(fd);
    return nn_getsockopt(socket, NN_SOL_SOCKET, option, &fd, &size) < 0 ? -1 : fd;
}

int nano_fd(int socket)
{
    int fd = get_fd(socket, NN_RCVFD);
    return fd >= 0 ? fd : get_fd(socket, NN_SNDFD);
}

bool nano_ready(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};
    return fd >= 0 && poll(&p, 1, 0) == 1;
}

void *nano_alloc(size_t size)
{
    return nn_allocmsg(size, 0);
}

void nano_free(void *message)
{
    if (message)
        (void)nn_freemsg(message);
}

int nano_send(int socket, void *message)
{
    if (nn_send(socket, &message, NN_MSG, NN_DONTWAIT) >= 0)
        return 0;
    int r = -nn_errno();
    nano_free(message);
    return r;
}

int nano_receive(int socket, void **ret_message, size_t *ret_size)
{
    void *message = NULL;
    int n = nn_recv(socket, &message, NN_MSG, NN_DONTWAIT);
    if (n < 0)
        return -nn_errno();
    *ret_message = message;
    *ret_size = (size_t)n;
    return 0;
}

static uint64_t statistic(int socket, int which)
{
    uint64_t n = nn_get_statistic(socket, which);
    return n == UINT64_MAX ? 0 : n;
}

uint64_t nano_broken(int socket)
{
    return statistic(socket, NN_STAT_BROKEN_CONNECTIONS);
}

uint64_t nano_connections(int socket)
{
    return statistic(socket, NN_STAT_CURRENT_CONNECTIONS);
}
