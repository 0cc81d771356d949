// SPDX-License-Identifier: Apache-2.0
// The directory of an end's salvage, for who writes there: with its lock held (docs/salvage.md), so that nothing is
// dropped meanwhile. One thread.
#ifndef DAEMON_SALVAGE_PLACE_H
#define DAEMON_SALVAGE_PLACE_H

#include "common/base/error.h"
#include "common/store/segments.h"

struct salvage_place {
    int lock_fd;               // -1: closed
    struct segments *segments; // NULL: closed
};
#define SALVAGE_PLACE_CLOSED                                                                       \
    (struct salvage_place)                                                                         \
    {                                                                                              \
        .lock_fd = -1                                                                              \
    }

// Makes the directory where there is none, and adds its descriptor to the poll. -EAGAIN: an operator drops something.
int salvage_place_open(struct salvage_place *place, const char *path, int epoll, struct error *err);
void salvage_place_close(struct salvage_place *place, int epoll); // nothing happens when it is closed
void salvage_place_work(struct salvage_place *place);             // likewise

#endif
