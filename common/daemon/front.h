// SPDX-License-Identifier: Apache-2.0
// The front thread of a pair's end: drives the active end's data path (common/end/service) over the
// NBD server, the stores and the lane. The control thread tells it what to do by letters; it
// reports the same way.
#ifndef DAEMON_FRONT_H
#define DAEMON_FRONT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config/pair.h"
#include "common/daemon/figures.h"
#include "common/daemon/lane.h"
#include "common/daemon/mailbox.h"
#include "common/end/end.h"
#include "common/end/service.h"

struct front;

struct front_config {
    const struct pair_config *pair;
    enum pair_end side;
    const char *queue_path;     // of the unsafe queue, in the runtime directory
    const char *map_path;       // directory of the intent maps
    const char *spill_path;     // directory of the unsafe queue's part on disk
    const char *const *sockets; // of the exports, by volume
    uint64_t pair_id, boot;
    struct figures *figures;
    struct lane *lane;
    struct mailbox *reports; // to the control thread
};

int front_new(const struct front_config *config, struct front **ret_front, struct error *err);
// Ends the thread: nothing is answered any more; what is at the stores is waited for; the unsafe
// queue stays for the next run unless it was abandoned. NULL-safe.
struct front *front_free(struct front *front);

// Before the thread is asked for anything: is there a queue that a former run of this boot left
// whole?
bool front_find_queue(struct front *front, struct service_found *ret_found, char *why,
                      size_t why_size);

// Letters to the front thread.
void front_open(struct front *front, bool recover, const struct epoch *epoch, uint64_t seq);
void front_bound(struct front *front, uint64_t seq);
void front_gate(struct front *front, enum end_gate gate, uint64_t ticket);
void front_close(struct front *front);
void front_abandon(struct front *front, bool report);
void front_epoch(struct front *front, const struct epoch *epoch);
void front_attach(struct front *front, uint64_t session);
void front_detach(struct front *front);
void front_resync(struct front *front, uint64_t objects, uint64_t ticket);
void front_verify(struct front *front, uint64_t objects);
void front_differs(struct front *front, uint64_t objects);
void front_answer(struct front *front, const void *message, size_t size); // a checked batch_answer

// Rung by the stream thread when durable has reached what an answer waits for.
// The intent maps: ACT_MAP_... of the end.
void front_map_fill(struct front *front, uint64_t objects, uint64_t record);
void front_map_void(struct front *front, unsigned object, uint64_t ticket, bool recorded,
                    uint64_t record);
void front_map_arm(struct front *front, uint64_t session, uint64_t due);
void front_map_clear(struct front *front, uint64_t objects);
void front_map_read(struct front *front, unsigned object, uint64_t from, uint64_t session, bool aside);
void front_map_add(struct front *front, const struct frame_map *piece, bool aside);
void front_map_sync(struct front *front, uint64_t ticket);
// Nobody writes any more: the maps of `objects`, each as a letter of `kind` into that box, which lives longer.
void front_map_copy(struct front *front, uint64_t objects, uint64_t ticket, struct mailbox *box, int kind);
struct own_map_letter {
    struct letter letter;
    uint64_t ticket;
    unsigned object;
    bool known; // else there was no memory for it
    uint32_t region;
    uint64_t regions;
    uint8_t bits[];
};
void front_map_aside(struct front *front);
// Before the thread is asked for anything: NULL, or why a volume's map counts as wholly set.
const char *front_map_found(struct front *front, size_t volume);

struct mailbox *front_mailbox(struct front *front);

// Its reports are events for the end, ready to be fed; plus what is for the log alone.
enum front_report_kind { FRONT_EVENT, FRONT_NOTE };
struct front_report {
    struct letter letter;
    struct end_event event; // FRONT_EVENT; its texts point to `text`, a map's piece to `piece`
    struct frame_map piece;
    char text[200];
    struct verify_result verified[]; // EV_VERIFIED: one
};

#endif
