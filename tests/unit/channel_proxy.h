// SPDX-License-Identifier: Apache-2.0
// A TCP proxy for the channel's tests, in a thread of its own: it forwards what it accepts, keeps a
// capture of it, and can go dead (everything stays open, nothing moves), cut connections, and flip
// bits.
#ifndef TESTS_CHANNEL_PROXY_H
#define TESTS_CHANNEL_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct proxy;

// Listens at `at`:`port` and forwards to `to`:`port`.
struct proxy *proxy_start(const char *at, const char *to, uint16_t port);
struct proxy *proxy_stop(struct proxy *p);
// Dead: connections are still accepted by the kernel, those that stand stay as they are; no byte
// moves any more on them, ever. Later ones work once it is no longer dead.
void proxy_set_dead(struct proxy *p, bool dead);
// Stalled: nothing is read until it is lifted; then all goes on.
void proxy_set_stalled(struct proxy *p, bool stalled);
void proxy_cut(struct proxy *p); // closes all connections, drops what is in flight
void proxy_flip(struct proxy *p,
                unsigned every); // one bit in so many bytes of what is forwarded; 0: none
// What was forwarded from the connecting side so far; the copy is to be freed.
uint8_t *proxy_capture(struct proxy *p, size_t *ret_size);

#endif
