// SPDX-License-Identifier: Apache-2.0
// The inside of a front thread, shared by front.c (thread and turn), front_letters.c (what it is
// told) and front_exports.c (the NBD server).
#ifndef DAEMON_FRONT_PRIVATE_H
#define DAEMON_FRONT_PRIVATE_H

#include <pthread.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/daemon/front.h"
#include "common/daemon/spiller.h"
#include "common/daemon/stores.h"
#include "common/end/service.h"
#include "common/intercept/nbd.h"
#include "common/store/segments.h"

struct front {
    struct front_config config;
    pthread_t thread;
    struct mailbox *box;
    struct mailbox *copy_box; // of the newest FRONT_MAP_COPY
    int copy_kind;
    // Everything below belongs to the front thread.
    bool ending;
    struct nbd *nbd; // its descriptor is what the thread waits for
    struct stores stores;
    struct service *service;
    struct spiller *spiller;
    struct segments *maps; // the disk of the intent maps
    uint64_t resets; // of the stores, as seen last
    int64_t push_ns; // when the lane wants to be pushed again
    int64_t stamp_lead_ns; // of the wall clock over CLOCK_BOOTTIME when this run began: what records are stamped with has it
    struct log_site open_log;
};

static inline const char *front_volume(const struct front *f, uint16_t object)
{
    return object < f->config.pair->volume_count ? f->config.pair->volumes[object].name : "?";
}

void front_take_letters(struct front *f);                   // front_letters.c
void front_end(struct front *f);                            // likewise: the last letter
int front_spilled_kind(void); // likewise: of a spiller's letters
int front_open_exports(struct front *f, struct error *err); // front_exports.c

#endif
