// SPDX-License-Identifier: Apache-2.0
// The active end's data path, between what the end orders and queues/updates: it opens the exports
// over a fresh or a found unsafe queue, keeps gate and lease, drains, closes, abandons, opens
// epochs, gives the peer its place in the queue and takes it away, holds writers back, and carries
// the steps of a resync out. Pure: stores are struct block, the queue is made by a callback, times
// and positions come in as arguments, and what has happened goes out by callbacks. The daemon's
// front thread and the simulator drive the same code.
//
// One thread owns it. A turn of that thread:
//
//   service_lease()                 before anything that could give an answer
//   exports and stores work         they call into updates and the queue
//   service_turn()                  starts what may start, gives the answers that are due
//   the exports send their answers
//   service_push()                  something was numbered: drive the way to the peer
//   service_figures()               what others look at
//
// Invariants:
//   - nothing is answered past the lease, whatever gate was asked for (E1, E2 of common/end/end.h);
//   - EV_GATE with HELD is reported when nothing is in flight any more; every other gate when it is in force;
//   - nothing but an epoch's opening is numbered while the gate is held;
//   - the peer's place in the queue is given up only together with its stream (EV_OVERFLOW, or ordered);
//   - a queue is freed when no client's request lies in it any more.
#ifndef END_SERVICE_H
#define END_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/end/end.h"
#include "common/end/resync.h"
#include "common/end/verify.h"
#include "queues/block.h"
#include "queues/spill.h"
#include "queues/maps.h"
#include "queues/unsafe.h"
#include "queues/updates.h"

#define SERVICE_READER       0                 // the peer's reader of the unsafe queue
#define SERVICE_RETRY_NS     INT64_C(20000000) // stores in other hands are tried again
#define SERVICE_PACE_NS      INT64_C(2000000)  // a resync, or held writers, want a turn so often
#define SERVICE_LEASE_NS     INT64_C(5000000)  // how soon a renewed lease is seen
#define SERVICE_SLOT_RESERVE 1024              // seqs behind the opening's that need no ACT_BOUND

struct service;

// What becomes of the queue when the peer is slower than the writers (policy `overflow`).
enum service_overflow {
    SERVICE_OVERFLOW_MAP,      // the peer gets what is held, then its place is given up
    SERVICE_OVERFLOW_THROTTLE, // writers are held back while the peer's stream moves
    SERVICE_OVERFLOW_SUSPEND,  // writers are held back until there is room
};

// Why writers are held back.
enum service_held {
    SERVICE_NOT_HELD,
    SERVICE_HELD_SLOW,     // policy `slow`: flushes would wait
    SERVICE_HELD_THROTTLE, // policy `overflow`, and the queue is nearly full
    SERVICE_HELD_SUSPEND,  // likewise
    SERVICE_HELD_RESYNC,   // likewise, and there is no disk rung: the resync would never end
};

struct service_config {
    enum updates_mode mode;
    unsigned volumes;         // at most RECORD_OBJECTS_MAX
    const uint64_t *sizes;    // bytes, by volume
    const char *const *names; // for texts; the strings live as long as the service
    const uint64_t *ids;      // by volume, for the maps: a checksum of its name
    uint64_t pair, boot;      // of the unsafe queue
    uint64_t ring_bytes;
    uint32_t payload_max;
    uint32_t queue_records;  // of the queue's table; 0: by ring_bytes
    uint64_t spill_bytes;    // quota of the disk rung
    unsigned spill_from;     // percent of the memory from which on it is used; 0: 50
    int64_t spill_retry_ns; // after its disk has failed; 0: as the queue does
    struct disk *spill_disk; // used by the jobs alone; NULL: none
    enum service_overflow overflow;
    bool throttle_when_slow; // policy `slow`: hold writers back rather than let flushes wait for T
    int64_t timeout_ns;      // T
    uint64_t resync_rate;    // bytes a second at most; 0: no limit
    unsigned resync_share;   // percent of what is sent that a resync takes while others write; 100: no limit
    struct disk *map_disk;   // of the intent maps; the caller drives its completions
    uint32_t map_region;     // 0: INTENT_REGION
    int64_t generation_ns;   // how long a generation of the maps lasts at least
};

struct service_ops {
    // All or none. -EAGAIN: a predecessor's I/O has not ended yet; tried again later.
    int (*open_stores)(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err);
    void (*close_stores)(
        void *user); // waits for what is under way; nothing happens when they are closed
    // Makes a fresh queue, or (recover) opens the one that a former run left. -ENOENT: there is
    // none.
    int (*open_queue)(void *user, bool recover, const struct unsafe_config *config,
                      struct unsafe **ret_queue, struct error *err);
    void (*forget_queue)(void *user); // a later run finds none
    // The exports: take requests in; refuse them (`why` is for the client); is none of them in the
    // queue any more?
    void (*serve)(void *user, struct unsafe *queue, struct updates *updates);
    void (*refuse)(void *user, const char *why);
    bool (*quiet)(void *user);
    void (*room)(void *user); // UPDATES_EVENT_ROOM
    // The way to the peer: it has this queue from now on, or (NULL) none: nothing of it is used
    // after the return.
    int (*lane_queue)(void *user, struct unsafe *queue);
    void (*lane_stop)(void *user);    // the stream ends; the peer's place is about to go
    bool (*lane_running)(void *user); // a stream is under way
    // Holds everybody who may read the queue off, or lets them go on.
    void (*readers)(void *user, bool go_on);
    // Lets spill_run() work on this job, not here; then service_spilled().
    void (*spill)(void *user, struct spill_job *job);
    // What the peer has settled in the stream that is under way, and its session; false: none is.
    bool (*settled)(void *user, uint64_t *ret_session, uint64_t *ret_seq);
    int64_t (*real_ns)(void *user);   // CLOCK_REALTIME
    // What records are stamped with: near CLOCK_REALTIME, but no step of it shows, so that ages can be told from it.
    int64_t (*stamp_ns)(void *user);
    // What service_map_copy() asked for: a bit a region of `region` bytes; NULL: no memory for it.
    void (*own_map)(void *user, uint64_t ticket, uint16_t object, uint32_t region, uint64_t regions,
                    const uint8_t *bits);
    // An event for the end. Its texts live until the return.
    void (*report)(void *user, const struct end_event *event);
    void (*note)(void *user, const char *text);        // for the log
    void (*cannot_open)(void *user, const char *text); // likewise; may come again and again
};

struct service *service_new(const struct service_config *config, const struct service_ops *ops,
                            void *user);
// The queue stays for the next run unless it was abandoned. Nothing may be under way at a store, and
// no job is being worked on. NULL-safe.
struct service *service_free(struct service *service);

// Is there a queue that a former run of this boot left whole? Before anything is ordered. 0,
// -ENOENT, or why not. What was found stays open, and is what service_open() recovers: a large one is checked once.
struct service_found {
    uint64_t numbered,
        epoch;    // the last seq that it gave, and the id of the epoch in which it goes on
    bool pending; // it holds updates that were not numbered
    uint64_t confirmed; // what the peer had let it forget; 0: it had no place in it
    struct epoch opening; // of `epoch`; id 0: not known
};
int service_find(struct service *service, struct service_found *ret_found, struct error *err);

// ---- what the end orders (ACT_OPEN, ...) ----

void service_open(struct service *service, bool recover, const struct epoch *epoch, uint64_t seq,
                  int64_t now_ns); // -> EV_EXPORTS
void service_bound(struct service *service, uint64_t seq);
// Nothing is answered while `now_ns` is not before `lease_ns`. -> EV_GATE
void service_gate(struct service *service, enum end_gate gate, uint64_t ticket, int64_t now_ns, int64_t lease_ns);
void service_close(struct service *service);                    // -> EV_EXPORTS
// Ends whatever is served: no flush, no drain; what is at a store ends by itself. `report`: ->
// EV_EXPORTS
void service_abandon(struct service *service, bool report);
void service_epoch(struct service *service, const struct epoch *epoch);
void service_attach(struct service *service, uint64_t session); // -> EV_ATTACHED, which names that session
void service_detach(struct service *service);
// Replaces one that runs. -> EV_RESYNCED each, with this ticket
void service_resync(struct service *service, uint64_t objects, uint64_t ticket, int64_t now_ns);
// Compares the volumes of the mask with the replica -> EV_VERIFIED; 0 stops (-> EV_VERIFIED of what was found, if it was).
// Not while a resync runs.
void service_verify(struct service *service, uint64_t objects, int64_t now_ns);
// Puts into the stream that the replica of these volumes is not consistent, as the begin of a resync does.
void service_differs(struct service *service, uint64_t objects);
// An answer of the passive end to a check: a checked struct batch_answer with its bitmap.
void service_answer(struct service *service, const void *message);
// The peer's place is given up (it lets go of the stream first) -> EV_OVERFLOW. Nothing happens
// when it has none.
void service_overflow(struct service *service, const char *why);

// The intent maps (ACT_MAP_...). -> EV_MAP. Also while nothing is served.
void service_map_fill(struct service *service, uint64_t objects, uint64_t record);
void service_map_void(struct service *service, uint16_t object, uint64_t ticket, bool recorded,
                      uint64_t record);
void service_map_arm(struct service *service, uint64_t session, uint64_t due);
void service_map_clear(struct service *service, uint64_t objects);
void service_map_read(struct service *service, uint16_t object, uint64_t from, uint64_t session,
                      bool aside); // with what is kept apart
// Adds it to the map; or (`aside`) keeps it apart, together with what the map says, to be shown only.
void service_map_add(struct service *service, const struct frame_map *piece, bool aside);
void service_map_sync(struct service *service, uint64_t ticket);
void service_map_aside(struct service *service); // what was kept apart is forgotten
// Nothing is written here any more: the maps of `objects`, as soon as their files say exactly the same, durably
// -> own_map() each. A newer order replaces an older one.
void service_map_copy(struct service *service, uint64_t objects, uint64_t ticket);
// A store may have lost what it had flushed -> EV_OVERFLOW, EV_MAP
void service_lost(struct service *service, const char *why);
// A sync of the maps is under way.
bool service_map_busy(const struct service *service);
// NULL, or why this volume's map counted as wholly set when it was opened. Static text.
const char *service_map_found(const struct service *service, uint16_t object);

void service_spilled(struct service *service, struct spill_job *job, int64_t now_ns);

// ---- a turn ----

struct service_turn {
    int64_t now_ns;            // CLOCK_BOOTTIME
    uint64_t durable, applied; // confirmed by the peer
    int64_t moved_ns;          // when durable moved last
};
void service_lease(struct service *service, int64_t now_ns, int64_t lease_ns);
void service_turn(struct service *service, const struct service_turn *turn);
// True once after something was numbered. *ret_barrier: an answer waits for the peer.
bool service_push(struct service *service, bool *ret_barrier);
// When the next turn is wanted at the latest; INT64_MAX: when something happens.
int64_t service_deadline(const struct service *service, int64_t now_ns, int64_t lease_ns);

struct service_figures {
    uint64_t numbered;    // last seq given
    uint64_t held_from;   // first seq that the queue has for the peer; 0: none
    uint64_t waiting_for; // lowest seq that an answer waits for; 0: none
    int64_t waiting_ns; // since when an answer, or a writer that is held back, waits for the peer;
                        // 0: none
    uint64_t queue_records, queue_bytes, queue_limit;
    uint64_t spilled_bytes; // of queue_bytes, on disk
    int64_t oldest_ns;      // when the oldest record was numbered (CLOCK_BOOTTIME); 0: none
    struct resync_progress resync;
    const uint64_t *out_of_sync; // bytes, by volume, that a resync has to go over; looked up now and then
    int64_t least_ns; // since when not less of it was out of sync; 0: nothing is
    uint64_t verify_done, verify_total; // bytes; total 0: no verify is under way
    int64_t verify_began_ns;
    enum service_held held;
};
// False while there is no queue: the figures are those of an end that has none.
bool service_figures(struct service *service, int64_t now_ns, struct service_figures *ret_figures);

struct unsafe *service_queue(struct service *service);    // NULL: none
struct updates *service_updates(struct service *service); // likewise
// Answers may be given now.
bool service_serves(const struct service *service);

#endif
