// SPDX-License-Identifier: Apache-2.0
// The inside of a service, shared by service.c (gate, letters, turn), service_open.c
// (opening, closing, abandoning) and service_resync.c.
#ifndef END_SERVICE_PRIVATE_H
#define END_SERVICE_PRIVATE_H

#include "common/end/service.h"

#define SERVICE_UNREAD_MAX 64

struct service_range {
    uint16_t object;
    uint32_t length;
    uint64_t offset;
};

struct generation {
    enum { GENERATION_NONE, GENERATION_TURN, GENERATION_WAIT } stage;
    int64_t began_ns, next_ns;
    uint64_t seq;                      // WAIT: of the last update of the time before
    uint64_t sync[RECORD_OBJECTS_MAX]; // WAIT: the first sync of each store that covers it
    bool asked;
    unsigned haste; // so many more of them are short: a resync has just ended
};

struct service {
    struct service_config config;
    struct service_ops ops;
    void *user;
    const char *names[RECORD_OBJECTS_MAX];
    struct unsafe *queue;
    struct unsafe *found; // what service_find() has opened, checked as a whole; NULL: nothing, or taken
    struct updates *updates;
    struct resync *resync;
    struct block *blocks[RECORD_OBJECTS_MAX]; // while the stores are open
    enum end_gate gate;                       // asked for by the end
    uint64_t gate_ticket;                     // of that order
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
    enum service_held held;
    bool throttled; // writers are held back until the peer has caught up
    struct spill *spill;
    bool recovering;  // a predecessor's queue is being taken over: whether the peer has a place in it is not known yet
    bool ending_told; // nothing is added to what is held for the peer, and the end knows
    // What the figures said last.
    bool throttled_told;
    uint64_t waiting_for;
    int64_t waiting_ns;
    uint64_t resync_started; // bytes of the steps of this resync
    bool resync_more;        // the last turn ended before the steps did
    uint64_t resync_ticket;  // of its order
    struct resync_progress resync_told; // at the end of the volume before
    struct {
        int64_t until_ns; // of the present interval
        uint64_t writing; // bytes that others write in it
        uint64_t written; // and wrote in the one before
        uint64_t spent;   // by the resync
    } share;
    // The intent maps (service_map.c).
    struct maps *maps;
    uint64_t armed;  // session in which what is settled may be cleared; 0: none
    uint64_t due;    // mask: of these volumes only behind the resync
    uint64_t broken; // mask: of these nothing is cleared any more
    struct generation generation;
    struct service_range unread[SERVICE_UNREAD_MAX];
    unsigned unread_count;
    uint64_t out_of_sync[RECORD_OBJECTS_MAX];
    int64_t out_of_sync_ns;
    struct {
        uint64_t due;    // mask: for these volumes,
        uint64_t bytes;  // the least that was out of sync,
        int64_t seen_ns; // and since when there was not less; 0: nothing is
    } least;
    uint64_t map_sync; // ticket of the ACT_MAP_SYNC that is under way; 0: none
    struct intent *apart[RECORD_OBJECTS_MAX]; // pieces that are only shown, and what the map said when the first one came
    uint64_t copying, copy_ticket; // service_map_copy(): mask of volumes that are still to be given
    struct verify *verify;
    uint64_t verify_started; // bytes of the checks of this verify
    struct verify_result verified; // to be reported when the maps are durable
    bool verified_waits;
    uint64_t to_mark;        // mask: volumes whose replica is to be recorded as inconsistent
};

// service.c
void service_note(struct service *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *service_volume(const struct service *s, uint16_t object); // its name
void service_drain(struct service *s);
int service_make_updates(struct service *s, struct error *err); // over s->queue
// service_spill.c
int service_make_spill(struct service *s, struct error *err); // of s->queue
void service_full(struct service *s);                         // the last rung
void service_spill_turn(struct service *s, int64_t now_ns);
int64_t service_spill_deadline(const struct service *s, int64_t now_ns);
bool service_spill_busy(const struct service *s);
// service_open.c
void service_exports(struct service *s, bool open, int status, const char *why); // EV_EXPORTS
void service_drained_closing(struct service *s);
void service_try_open(struct service *s, int64_t now_ns);
void service_close_when_flushed(struct service *s);
void service_drop_when_quiet(struct service *s);
void service_drop_queue(struct service *s);
// service_map.c
bool service_make_maps(struct service *s);
int service_before_write(void *user, uint16_t object, uint64_t offset, uint32_t length);
void service_map_turn(struct service *s, int64_t now_ns);
int64_t service_map_deadline(const struct service *s);
void service_disarm(struct service *s, uint64_t due); // nothing is cleared until a session is named
void service_unread(struct service *s, uint16_t object, uint64_t offset, uint32_t length);
void service_undefined(struct service *s, uint16_t object);
bool service_map_next(void *user, uint16_t object, uint64_t from, uint64_t length_max,
                      uint64_t *ret_offset, uint64_t *ret_length);
const uint64_t *service_out_of_sync(struct service *s, int64_t now_ns); // by volume
uint64_t service_map_bytes(void *user, uint16_t object, uint64_t from);
// service_resync.c
void service_copied(struct service *s, const struct updates_event *ev);
void service_resync_turn(struct service *s, const struct service_turn *turn);
bool service_copy_has_room(struct service *s);
bool service_copy_has_share(struct service *s, int64_t now_ns);
bool service_copy_has_rate(const struct service *s, uint64_t started, int64_t began_ns, int64_t now_ns);
// service_verify.c
bool service_verifying(const struct service *s);
void service_verify_copied(struct service *s, const struct updates_event *ev);
void service_verify_answer(struct service *s, const struct batch_answer *answer, const uint8_t *bitmap);
void service_verify_turn(struct service *s, const struct service_turn *turn);
void service_mark_turn(struct service *s);

#endif
