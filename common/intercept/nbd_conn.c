// SPDX-License-Identifier: Apache-2.0
// The life of one client. Its memory is one piece, with all of its requests in it.
//
// Invariants:
//   1. a client leaves `conns` only in nbd_conn_reap() or nbd_free();
//   2. in NBD_GONE it holds no descriptor, no place in the unsafe queue, and no buffer but those of
//   requests under way.
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/intercept/nbd_private.h"

#define SEND_BUFFER (1 << 20) // of a socket: a few large answers

static pid_t pid_of(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ? 0 : peer.pid;
}

static void enlarge(int fd)
{
    int bytes = SEND_BUFFER;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

struct nbd_conn *nbd_conn_new(struct nbd *nbd, struct nbd_listener *l, int fd)
{
    struct nbd_conn *c = calloc(1, sizeof(*c));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (!c || epoll_ctl(nbd->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        free(c);
        (void)close(fd);
        return NULL;
    }
    c->watched = NBD_WATCHED_CONN;
    c->nbd = nbd;
    c->listener = l;
    c->id = ++nbd->next_id;
    c->pid = pid_of(fd);
    c->fd = fd;
    c->interest = EPOLLIN;
    c->deadline_ns = INT64_MAX;
    c->answers_end = &c->answers;
    for (unsigned i = NBD_REQUESTS_MAX; i-- > 0;) {
        c->requests[i].conn = c;
        c->requests[i].next = c->free;
        c->free = &c->requests[i];
    }
    enlarge(fd);
    c->next = nbd->conns;
    nbd->conns = c;
    nbd->stat.clients++;
    l->clients++;
    nbd_conn_deadline(c, NBD_HANDSHAKE_NS);
    return c;
}

// Closing alone does not end the watch: a process that is being forked has the socket, too, until it is another program, and
// what it is told meanwhile would be told of a client that was freed.
static void unwatch(struct nbd_conn *c)
{
    if (c->fd < 0)
        return;
    (void)epoll_ctl(c->nbd->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    (void)close(c->fd);
    c->fd = -1;
}

void nbd_conn_free(struct nbd_conn *c)
{
    free(c->aside);
    unwatch(c);
    free(c);
}

// ---- Watching ----

void nbd_conn_interest(struct nbd_conn *c)
{
    bool sending = c->out_bytes > 0 || c->answers;
    uint32_t wanted = 0;
    if (c->state == NBD_GONE)
        return;
    if (c->state < NBD_SERVING)
        wanted = sending ? EPOLLOUT : EPOLLIN; // one option at a time
    else if (c->state == NBD_SERVING && !c->stalled)
        wanted = EPOLLIN;
    // Answers are tried at once: only what the socket did not take is waited for.
    if (c->state >= NBD_SERVING && sending && !c->dirty)
        wanted |= EPOLLOUT;
    if (wanted == c->interest)
        return;
    struct epoll_event event = {.events = wanted, .data.ptr = c};
    c->interest = wanted;
    (void)epoll_ctl(c->nbd->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

void nbd_conn_ready(struct nbd_conn *c, uint32_t events)
{
    if (c->state == NBD_GONE)
        return;
    if ((events & EPOLLOUT) && c->state < NBD_SERVING)
        nbd_handshake_send(c);
    else if (events & EPOLLOUT)
        nbd_conn_mark(c);
    if (c->interest & events & EPOLLIN) {
        if (c->state < NBD_SERVING)
            nbd_handshake_receive(c);
        else if (c->state == NBD_SERVING && !c->stalled)
            nbd_receive(c);
    } else if (!(events & EPOLLOUT) && (events & (EPOLLHUP | EPOLLERR))) {
        nbd_conn_drop(c, c->state == NBD_CLOSING ? NULL : "has vanished");
    }
}

void nbd_conn_mark(struct nbd_conn *c)
{
    if (c->dirty)
        return;
    c->dirty = true;
    c->next_dirty = c->nbd->dirty;
    c->nbd->dirty = c;
    if (!c->nbd->unsafe)
        nbd_wake(c->nbd);
}

// ---- Time ----

void nbd_conn_deadline(struct nbd_conn *c, int64_t from_now_ns)
{
    c->deadline_ns = clock_boot_ns() + from_now_ns;
    nbd_timer_at(c->nbd, c->deadline_ns);
}

void nbd_conn_expire(struct nbd_conn *c, int64_t now_ns)
{
    if (c->state == NBD_GONE || c->deadline_ns == INT64_MAX)
        return;
    if (now_ns < c->deadline_ns) {
        nbd_timer_at(c->nbd, c->deadline_ns);
        return;
    }
    if (c->state < NBD_SERVING)
        nbd_conn_drop(c, "is dropped: no handshake within %d seconds",
                      (int)(NBD_HANDSHAKE_NS / NS_PER_S));
    else if (c->under_way > 0)
        nbd_conn_drop(c, "is dropped: the storage does not answer");
    else
        nbd_conn_drop(c, "is dropped: it does not take its answers");
}

// ---- Ending ----

static void release_answers(struct nbd_conn *c)
{
    while (c->answers) {
        struct nbd_request *request = c->answers;
        c->answers = request->next;
        nbd_request_release(request);
    }
    c->answers_end = &c->answers;
    c->answer_sent = 0;
    c->out_bytes = 0;
}

void nbd_conn_drop(struct nbd_conn *c, const char *format, ...)
{
    if (c->state == NBD_GONE)
        return;
    if (format) {
        char text[384];
        va_list args;
        va_start(args, format);
        (void)vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        nbd_note(c->nbd, c->listener, "client %u (process %d) %s", c->id, (int)c->pid, text);
    }
    nbd_receive_forget(c);
    c->state = NBD_GONE;
    unwatch(c);
    release_answers(c);
    c->nbd->gone++;
    c->nbd->stat.clients--;
    c->listener->clients--;
}

void nbd_conn_finish(struct nbd_conn *c)
{
    if (c->state == NBD_GONE || c->state == NBD_CLOSING)
        return;
    nbd_receive_forget(c);
    c->state = NBD_CLOSING;
    nbd_conn_mark(c);
}

void nbd_conn_reap(struct nbd *nbd)
{
    struct nbd_conn **link = &nbd->conns;
    while (nbd->gone > 0 && *link) {
        struct nbd_conn *c = *link;
        if (c->state == NBD_GONE && c->busy == 0 && !c->dirty) {
            *link = c->next;
            nbd->gone--;
            nbd->told = 0; // whatever is still there is told again
            nbd_conn_free(c);
        } else {
            link = &c->next;
        }
    }
    if (!nbd->conns && nbd->used_buffers) {
        nbd_buffers_rest(&nbd->buffers);
        nbd->used_buffers = false;
    }
}
