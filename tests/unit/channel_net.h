// SPDX-License-Identifier: Apache-2.0
// Two ends of a channel with a network in between that can fail: a proxy for each link and direction.
#ifndef TESTS_CHANNEL_NET_H
#define TESTS_CHANNEL_NET_H

#include "tests/unit/channel_ends.h"
#include "tests/unit/channel_proxy.h"

struct net {
    struct ends e;
    struct proxy *to_b[CHANNEL_PATHS_MAX][2], *to_a[CHANNEL_PATHS_MAX][2]; // by path; control, data
    int n;
};

// Returns when all links are up. silence_ns: 0 for one that no test waits for.
void net_open(struct net *net, int n, const struct channel_key *k, int64_t silence_ns);
void net_close(struct net *net);
// All connections of this path stay open, and nothing moves.
void net_set_dead(struct net *net, int path, bool dead);

#endif
