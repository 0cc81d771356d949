// SPDX-License-Identifier: Apache-2.0
// The inside of a service, shared by service.c (gate, letters, turn), service_open.c
// (opening, closing, abandoning) and service_resync.c.
#ifndef END_SERVICE_PRIVATE_H
#define END_SERVICE_PRIVATE_H

#include "common/end/service.h"

struct service {
    struct service_config config;
    struct service_ops ops;
    void *user;
    const char *names[RECORD_OBJECTS_MAX];
    struct unsafe *queue;
    struct updates *updates;
    struct resync *resync;
    struct block *blocks[RECORD_OBJECTS_MAX]; // while the stores are open
    enum end_gate gate;                       // asked for by the end
    bool lease_over;                          // held for the time being, whatever the end asked for
    bool attached;                            // the peer has a place in the queue
    // Opening: tried until the stores open.
    bool opening, recover;
    struct epoch epoch;
    uint64_t seq;
    int64_t retry_ns;
    // Abandoned: the queue goes as soon as the exports have let go of it.
    bool dropping, drop_report;
    bool draining;     // updates tell when nothing is in flight any more
    bool close_wanted; // and then the stores are flushed and closed
    bool closing;      // they are being flushed
    unsigned flushes;  // of closing, under way
    int flush_status;
    struct block_request close_flush[RECORD_OBJECTS_MAX];
    // Since the last turn.
    bool numbered, barrier, overflowed;
    bool throttled; // writers are held back until the peer has caught up
    // What the figures said last.
    bool throttled_told;
    uint64_t waiting_for;
    int64_t waiting_ns;
    uint64_t resync_started; // bytes of the steps of this resync
};

// service.c
void service_note(struct service *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *service_volume(const struct service *s, uint16_t object); // its name
void service_drain(struct service *s);
int service_make_updates(struct service *s, struct error *err); // over s->queue
// service_open.c
void service_exports(struct service *s, bool open, int status); // EV_EXPORTS
void service_drained_closing(struct service *s);
void service_try_open(struct service *s, int64_t now_ns);
void service_close_when_flushed(struct service *s);
void service_drop_when_quiet(struct service *s);
void service_drop_queue(struct service *s);
// service_resync.c
void service_copied(struct service *s, const struct updates_event *ev);
void service_resync_turn(struct service *s, const struct service_turn *turn);

#endif
