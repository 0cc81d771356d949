// SPDX-License-Identifier: Apache-2.0
// transport_nanomsg (transport.h): NN_PULL bound on my addresses, NN_PUSH connected to one of the peer's. The only file of this
// room that knows nanomsg.
//
// nanomsg reconnects a PUSH socket by itself, neither limits the connections that it accepts nor asks whether their far ends
// still live, and has at most 512 sockets in one process.
#include "common/channel/nano.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <nanomsg/tcp.h>

#include "common/base/error.h"
#include "common/channel/transport.h"

#define RECONNECT_MS_MIN 50
#define RECONNECT_MS_MAX 1000
#define URL_SIZE         192
#define CONNECTIONS_MAX  64
#define RECEIVE_BUFFER   65536

struct pull {
    int socket;
    int fd; // readable: a message can be received
};

struct push {
    int socket;
    int fd; // readable: it takes a message
    int epoll;
    uint32_t tag;
};

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

static void close_socket(int socket)
{
    while (nn_close(socket) < 0 && nn_errno() == EINTR)
        ;
}

void nano_carrier_end(int carrier)
{
    if (carrier >= 0)
        close_socket(carrier);
}

static int get_fd(int socket, int option)
{
    int fd = -1;
    size_t size = sizeof(fd);
    return nn_getsockopt(socket, NN_SOL_SOCKET, option, &fd, &size) < 0 ? -1 : fd;
}

static bool is_readable(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};
    return fd >= 0 && poll(&p, 1, 0) == 1;
}

static uint64_t statistic(int socket, int which)
{
    uint64_t n = nn_get_statistic(socket, which);
    return n == UINT64_MAX ? 0 : n;
}

// The option counts for the endpoints that are added after it.
static int set_family(int s, const char *address)
{
    return set(s, NN_SOL_SOCKET, NN_IPV4ONLY, !is_ipv6(address));
}

// --- receiving ---

static void pull_close(struct pull *pull)
{
    if (pull)
        close_socket(pull->socket);
    free(pull);
}

static int pull_open(size_t size_max, int epoll, uint32_t tag, struct pull **ret_pull)
{
    int s = -1;
    int r = open_socket(NN_PULL, &s);
    if (r < 0)
        return r;
    struct pull *pull = malloc(sizeof(*pull));
    if (!pull) {
        close_socket(s);
        return -ENOMEM;
    }
    *pull = (struct pull){.socket = s, .fd = get_fd(s, NN_RCVFD)};
    r = set(s, NN_SOL_SOCKET, NN_RCVMAXSIZE, (int)size_max);
    if (r == 0)
        r = set(s, NN_SOL_SOCKET, NN_RCVBUF, RECEIVE_BUFFER);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    if (r == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, pull->fd, &event) < 0)
        r = -errno;
    if (r < 0) {
        pull_close(pull);
        return r;
    }
    *ret_pull = pull;
    return 0;
}

static int pull_bind(struct pull *pull, const char *address, uint16_t port)
{
    char url[URL_SIZE];
    int n = snprintf(url, sizeof(url), is_ipv6(address) ? "tcp://[%s]:%u" : "tcp://%s:%u", address,
                     port);
    ENSURE(n > 0 && (size_t)n < sizeof(url));
    int r = set_family(pull->socket, address);
    if (r < 0)
        return r;
    return nn_bind(pull->socket, url) < 0 ? -nn_errno() : 0;
}

static bool pull_event(struct pull *pull, uint64_t event)
{
    (void)pull;
    (void)event;
    return true;
}

static int pull_receive(struct pull *pull, void **ret_message, size_t *ret_size)
{
    void *message = NULL;
    // Asking nanomsg in vain would wait for its worker's lock: it has just been woken for the next message.
    if (!is_readable(pull->fd))
        return -EAGAIN;
    int n = nn_recv(pull->socket, &message, NN_MSG, NN_DONTWAIT);
    if (n < 0)
        return -nn_errno();
    *ret_message = message;
    *ret_size = (size_t)n;
    return 0;
}

static void pull_trust(struct pull *pull)
{
    (void)pull;
}

static int64_t pull_tick(struct pull *pull, int64_t now)
{
    (void)pull;
    (void)now;
    return INT64_MAX;
}

static uint64_t pull_broken(struct pull *pull)
{
    return statistic(pull->socket, NN_STAT_BROKEN_CONNECTIONS);
}

static uint64_t pull_crowd(struct pull *pull)
{
    uint64_t n = statistic(pull->socket, NN_STAT_CURRENT_CONNECTIONS);
    return n > CONNECTIONS_MAX ? n : 0;
}

// --- sending ---

static int push_options(int s, const char *address, size_t buffer_bytes)
{
    int r = set_family(s, address);
    if (r == 0)
        r = set(s, NN_TCP, NN_TCP_NODELAY, 1);
    if (r == 0 && buffer_bytes > 0)
        r = set(s, NN_SOL_SOCKET, NN_SNDBUF, (int)buffer_bytes);
    if (r == 0)
        r = set(s, NN_SOL_SOCKET, NN_RECONNECT_IVL, RECONNECT_MS_MIN);
    if (r == 0)
        r = set(s, NN_SOL_SOCKET, NN_RECONNECT_IVL_MAX, RECONNECT_MS_MAX);
    return r;
}

static void push_close(struct push *push)
{
    if (push)
        close_socket(push->socket);
    free(push);
}

static void watch(const struct push *push, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = push->tag};
    (void)epoll_ctl(push->epoll, operation, push->fd, &event);
}

static int push_open(const char *mine, const char *peers, uint16_t port, size_t buffer_bytes, int epoll, uint32_t tag,
                     struct push **ret_push)
{
    char url[URL_SIZE];
    int s = -1;
    int r = open_socket(NN_PUSH, &s);
    if (r < 0)
        return r;
    struct push *push = malloc(sizeof(*push));
    if (!push) {
        close_socket(s);
        return -ENOMEM;
    }
    *push = (struct push){.socket = s, .fd = get_fd(s, NN_SNDFD), .epoll = epoll, .tag = tag};
    int n = snprintf(url, sizeof(url), is_ipv6(mine) ? "tcp://[%s];[%s]:%u" : "tcp://%s;%s:%u",
                     mine, peers, port);
    ENSURE(n > 0 && (size_t)n < sizeof(url));
    r = push_options(s, mine, buffer_bytes);
    if (r == 0 && nn_connect(s, url) < 0)
        r = -nn_errno();
    if (r < 0) {
        push_close(push);
        return r;
    }
    watch(push, EPOLL_CTL_ADD);
    *ret_push = push;
    return 0;
}

static void push_event(struct push *push, int64_t now)
{
    (void)push;
    (void)now;
}

static int64_t push_tick(struct push *push, int64_t now)
{
    (void)push;
    (void)now;
    return INT64_MAX;
}

static bool push_connected(const struct push *push)
{
    return statistic(push->socket, NN_STAT_CURRENT_CONNECTIONS) > 0;
}

static bool push_ready(const struct push *push)
{
    return is_readable(push->fd);
}

static void push_want(struct push *push)
{
    watch(push, EPOLL_CTL_MOD);
}

static bool push_fresh(const struct push *push)
{
    (void)push;
    return false;
}

static int push_fd(const struct push *push)
{
    (void)push;
    return -1;
}

static void message_free(void *message)
{
    if (message)
        (void)nn_freemsg(message);
}

static void *push_room(struct push *push, size_t size)
{
    (void)push;
    return nn_allocmsg(size, 0);
}

static void push_drop(struct push *push, void *room)
{
    (void)push;
    message_free(room);
}

static int push_send(struct push *push, void *room, size_t size)
{
    (void)size; // nanomsg knows
    if (nn_send(push->socket, &room, NN_MSG, NN_DONTWAIT) >= 0)
        return 0;
    int r = -nn_errno();
    message_free(room);
    return r;
}

static void push_more(struct push *push, bool more)
{
    (void)push;
    (void)more;
}

static void push_all(struct push *push)
{
    (void)push;
}

const struct transport transport_nanomsg = {
    .pull_open = pull_open,
    .pull_close = pull_close,
    .pull_bind = pull_bind,
    .pull_event = pull_event,
    .pull_receive = pull_receive,
    .pull_trust = pull_trust,
    .pull_tick = pull_tick,
    .pull_broken = pull_broken,
    .pull_crowd = pull_crowd,
    .push_open = push_open,
    .push_close = push_close,
    .push_event = push_event,
    .push_tick = push_tick,
    .push_connected = push_connected,
    .push_ready = push_ready,
    .push_want = push_want,
    .push_fresh = push_fresh,
    .push_fd = push_fd,
    .push_room = push_room,
    .push_drop = push_drop,
    .push_send = push_send,
    .push_more = push_more,
    .push_all = push_all,
    .message_free = message_free,
};
