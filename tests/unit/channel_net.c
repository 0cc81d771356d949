// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/channel_net.h"

#include <stdio.h>

void net_open(struct net *net, int n, const struct channel_key *k, int64_t silence_ns)
{
    char at[24], to[24];
    ends_configure(&net->e, n, k, true);
    if (silence_ns)
        net->e.a.config.silence_ns = net->e.b.config.silence_ns = silence_ns;
    net->n = n;
    for (int i = 0; i < n; i++)
        for (int d = 0; d < 2; d++) {
            uint16_t port = (uint16_t)(net->e.port + d);
            snprintf(at, sizeof(at), "127.0.0.%d", 3 + 10 * i);
            snprintf(to, sizeof(to), "127.0.0.%d", 2 + 10 * i);
            net->to_b[i][d] = proxy_start(at, to, port);
            snprintf(at, sizeof(at), "127.0.0.%d", 4 + 10 * i);
            snprintf(to, sizeof(to), "127.0.0.%d", 1 + 10 * i);
            net->to_a[i][d] = proxy_start(at, to, port);
        }
    ends_open(&net->e);
    ends_wait(&net->e, ends_all_up, "all links up");
}

void net_close(struct net *net)
{
    ends_close(&net->e);
    for (int i = 0; i < net->n; i++)
        for (int d = 0; d < 2; d++) {
            proxy_stop(net->to_b[i][d]);
            proxy_stop(net->to_a[i][d]);
        }
}

void net_set_dead(struct net *net, int path, bool dead)
{
    for (int d = 0; d < 2; d++) {
        proxy_set_dead(net->to_b[path][d], dead);
        proxy_set_dead(net->to_a[path][d], dead);
    }
}
