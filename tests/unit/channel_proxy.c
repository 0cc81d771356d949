// SPDX-License-Identifier: Apache-2.0
// See channel_proxy.h.
#include "tests/unit/channel_proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/error.h"

#define CONNECTIONS 256
#define CAPTURE_MAX (32U * 1024 * 1024)

struct connection {
    int from, to; // -1: none
    bool frozen;
};

struct proxy {
    pthread_t thread;
    pthread_mutex_t lock;
    int listener;
    struct sockaddr_in target;
    bool stop, dead, stalled, cut;
    unsigned flip, since_flip;
    struct connection connections[CONNECTIONS];
    uint8_t *capture;
    size_t captured;
};

static struct sockaddr_in address(const char *text, uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    ENSURE(inet_pton(AF_INET, text, &a.sin_addr) == 1);
    return a;
}

static void drop(struct connection *c)
{
    if (c->from >= 0)
        close(c->from);
    if (c->to >= 0)
        close(c->to);
    *c = (struct connection){-1, -1, false};
}

static void take(struct proxy *p)
{
    int from = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
    if (from < 0)
        return;
    int to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(to, (struct sockaddr *)&p->target, sizeof(p->target)) < 0) {
        close(from);
        close(to);
        return;
    }
    for (int i = 0; i < CONNECTIONS; i++)
        if (p->connections[i].from < 0) {
            p->connections[i] = (struct connection){from, to, false};
            return;
        }
    close(from);
    close(to);
}

static void note(struct proxy *p, const uint8_t *data, size_t size)
{
    if (p->captured + size > CAPTURE_MAX)
        return;
    memcpy(p->capture + p->captured, data, size);
    p->captured += size;
}

static void forward(struct proxy *p, struct connection *c, bool outward)
{
    uint8_t data[16384];
    ssize_t n = recv(outward ? c->from : c->to, data, sizeof(data), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop(c);
        return;
    }
    if (outward)
        note(p, data, (size_t)n);
    for (ssize_t i = 0; p->flip && outward && i < n; i++)
        if (++p->since_flip >= p->flip) {
            p->since_flip = 0;
            data[i] ^= (uint8_t)(1 << (i % 8));
        }
    for (ssize_t done = 0; done < n;) {
        ssize_t w = send(outward ? c->to : c->from, data + done, (size_t)(n - done), MSG_NOSIGNAL);
        if (w <= 0) {
            drop(c);
            return;
        }
        done += w;
    }
}

static void step(struct proxy *p, const struct pollfd *fds)
{
    if (fds[0].revents && !p->dead && !p->stalled)
        take(p);
    for (int i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &p->connections[i];
        if (p->cut)
            drop(c);
        c->frozen |= p->dead;
        if (c->frozen || p->stalled)
            continue;
        if (c->from >= 0 && fds[1 + 2 * i].revents && fds[1 + 2 * i].fd == c->from)
            forward(p, c, true);
        if (c->to >= 0 && fds[2 + 2 * i].revents && fds[2 + 2 * i].fd == c->to)
            forward(p, c, false);
    }
    p->cut = false;
}

static void *run(void *arg)
{
    struct proxy *p = arg;
    static __thread struct pollfd fds[1 + 2 * CONNECTIONS];
    for (;;) {
        pthread_mutex_lock(&p->lock);
        bool quiet = p->dead || p->stalled;
        fds[0] = (struct pollfd){quiet ? -1 : p->listener, POLLIN, 0};
        for (int i = 0; i < CONNECTIONS; i++) {
            const struct connection *c = &p->connections[i];
            bool skip = quiet || c->frozen;
            fds[1 + 2 * i] = (struct pollfd){skip ? -1 : c->from, POLLIN, 0};
            fds[2 + 2 * i] = (struct pollfd){skip ? -1 : c->to, POLLIN, 0};
        }
        bool stop = p->stop;
        pthread_mutex_unlock(&p->lock);
        if (stop)
            return NULL;
        (void)poll(fds, 1 + 2 * CONNECTIONS, 5);
        pthread_mutex_lock(&p->lock);
        step(p, fds);
        pthread_mutex_unlock(&p->lock);
    }
}

struct proxy *proxy_start(const char *at, const char *to, uint16_t port)
{
    struct proxy *p = calloc(1, sizeof(*p));
    struct sockaddr_in a = address(at, port);
    const int one = 1;
    ENSURE(p != NULL);
    p->capture = malloc(CAPTURE_MAX);
    ENSURE(p->capture != NULL);
    p->target = address(to, port);
    for (int i = 0; i < CONNECTIONS; i++)
        p->connections[i] = (struct connection){-1, -1, false};
    p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(p->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    ENSURE(bind(p->listener, (struct sockaddr *)&a, sizeof(a)) == 0);
    ENSURE(listen(p->listener, 64) == 0);
    pthread_mutex_init(&p->lock, NULL);
    ENSURE(pthread_create(&p->thread, NULL, run, p) == 0);
    return p;
}

struct proxy *proxy_stop(struct proxy *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    for (int i = 0; i < CONNECTIONS; i++)
        drop(&p->connections[i]);
    close(p->listener);
    pthread_mutex_destroy(&p->lock);
    free(p->capture);
    free(p);
    return NULL;
}

#define SETTER(name, type, field)                                                                  \
    void name(struct proxy *p, type value)                                                         \
    {                                                                                              \
        pthread_mutex_lock(&p->lock);                                                              \
        p->field = value;                                                                          \
        pthread_mutex_unlock(&p->lock);                                                            \
    }
SETTER(proxy_set_dead, bool, dead)
SETTER(proxy_set_stalled, bool, stalled)
SETTER(proxy_flip, unsigned, flip)

void proxy_cut(struct proxy *p)
{
    pthread_mutex_lock(&p->lock);
    p->cut = true;
    pthread_mutex_unlock(&p->lock);
}

uint8_t *proxy_capture(struct proxy *p, size_t *ret_size)
{
    pthread_mutex_lock(&p->lock);
    uint8_t *copy = malloc(p->captured + 1);
    ENSURE(copy != NULL);
    memcpy(copy, p->capture, p->captured);
    *ret_size = p->captured;
    pthread_mutex_unlock(&p->lock);
    return copy;
}
