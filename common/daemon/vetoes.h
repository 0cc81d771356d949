// SPDX-License-Identifier: Apache-2.0
// Asks what may speak against becoming active, all at once: does somebody have the public address,
// is the peer active at its management address, does a waypoint answer. The asking spans at least
// 200 ms.
#ifndef DAEMON_VETOES_H
#define DAEMON_VETOES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/address/inquiry.h"
#include "common/address/ip.h"
#include "common/address/waypoint.h"
#include "common/daemon/switchboard.h"
#include "common/end/end.h"

struct vetoes;

struct vetoes_config {
    struct switchboard *switchboard; // that asks for the public addresses; NULL: there are none
    const struct waypoint_monitor *waypoints; // NULL: none configured
    const char *pair;
    bool ask_peer; // at `to`
    struct ip from, to;
    uint16_t port;
    enum inquiry_identity peer;
    uint8_t key[MAC_KEY_SIZE];
    bool all; // ask everything to the end, even when something stands against it
};

struct vetoes *vetoes_start(const struct vetoes_config *config);
int64_t vetoes_deadline_ns(const struct vetoes *vetoes);
// Takes in what has arrived; call it at the deadline, or more often. True when decided: *ret_vetoes (0: nothing speaks
// against it), and a text for the first of them ("" otherwise).
bool vetoes_work(struct vetoes *vetoes, uint32_t *ret_vetoes, char *text, size_t size);
struct vetoes *vetoes_free(struct vetoes *vetoes); // NULL-safe

#endif
