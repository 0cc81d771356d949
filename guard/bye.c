// SPDX-License-Identifier: Apache-2.0
#include "guard/bye.h"

#include <string.h>
#include <sys/socket.h>

#include "common/base/cleanup.h"

#define TIMES 3 // it is not answered; one that is lost costs the peer a grant's time

void bye_open(struct bye_sockets *ret_sockets)
{
    ret_sockets->v4 = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ret_sockets->v6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

void bye_close(struct bye_sockets *sockets)
{
    cleanup_close(&sockets->v4);
    cleanup_close(&sockets->v6);
    sockets->v4 = sockets->v6 = -1;
}

bool bye_say(const struct bye_sockets *sockets, struct plan_slot *slot)
{
    struct sockaddr_storage to;
    if (!atomic_load(&slot->used) || !atomic_exchange(&slot->goodbye_valid, 0))
        return false;
    const struct plan_goodbye *g = &slot->goodbye;
    socklen_t size = ip_to_sockaddr(&g->to, g->port, 0, &to);
    int fd = g->to.family == IP_V4 ? sockets->v4 : sockets->v6;
    for (int i = 0; fd >= 0 && i < TIMES; i++)
        (void)sendto(fd, g->datagram, sizeof(g->datagram), MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&to, size);
    return true;
}
