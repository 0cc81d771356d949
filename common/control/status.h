// SPDX-License-Identifier: Apache-2.0
// What a daemon says about one end (`pairctl status`), as a plain struct that the daemon fills and
// one function turns into JSON. The names of the JSON fields are part of the outside contract.
//
// Sizes are bytes, times ms of a monotonic clock unless they say "real". An age or duration of -1
// is "none": it is printed as null. Texts that are empty are printed as empty strings.
#ifndef CONTROL_STATUS_H
#define CONTROL_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

#define STATUS_VOLUMES_MAX      64
#define STATUS_ADDRESSES_MAX    16
#define STATUS_WAYPOINTS_MAX    16
#define STATUS_APPLICATIONS_MAX 32
#define STATUS_PATHS_MAX        9 // the channel's and the public one
#define STATUS_VETOES_MAX       16
#define STATUS_NAME_SIZE        33
#define STATUS_WORD_SIZE        32
#define STATUS_ADDRESS_SIZE     64
#define STATUS_TEXT_SIZE        512

struct status_queue {
    uint64_t records;
    uint64_t bytes;
    int64_t oldest_ms; // age of the oldest record in it; 0 when empty
    uint64_t limit_bytes;
    uint64_t spilled_bytes; // of the unsafe queue's bytes: on disk
};

struct status_volume {
    char name[STATUS_NAME_SIZE];
    uint64_t size;
    char export[128]; // path of its socket
    bool serving;     // the export is open for clients
    bool synchronized;
    uint64_t out_of_sync_bytes;
    char store[STATUS_TEXT_SIZE]; // where this end keeps it
    char error[STATUS_TEXT_SIZE]; // of the store; empty: none
};

struct status_application {
    char name[STATUS_NAME_SIZE];
    char kind[STATUS_WORD_SIZE];
    char state[STATUS_WORD_SIZE]; // stopped, starting, running, stopping, frozen, failed
    uint32_t restarts;
    char text[STATUS_TEXT_SIZE]; // why it is so, if there is more to say
};

struct status_path {
    char name[STATUS_WORD_SIZE]; // "1", "2", ..., "public"
    char local[STATUS_ADDRESS_SIZE];
    char remote[STATUS_ADDRESS_SIZE];
    bool up;
    bool data;      // records travel here now
    int64_t rtt_us; // -1: not measured
};

struct status_waypoint {
    char address[STATUS_ADDRESS_SIZE];
    bool answers;
    int64_t silent_ms; // since its last answer; -1: it never answered
};

// The progress of a resync, on either end; active false when there is none.
struct status_resync {
    bool active;
    bool paused;
    char volume[STATUS_NAME_SIZE];
    char kind[STATUS_WORD_SIZE]; // full, partial
    uint64_t done_bytes;
    uint64_t total_bytes;
    uint64_t rate;   // bytes a second
    int64_t left_ms; // -1: not known yet
    int64_t stalled_ms; // for so long what is out of sync has not become less, although the peer is there; -1: it does
};

#define STATUS_RANGES_MAX 64
struct status_range {
    char volume[STATUS_NAME_SIZE];
    uint64_t offset, length;
};

// What a verify compares, and has found.
struct status_verify {
    bool active; // one is under way
    uint64_t done_bytes, total_bytes;
    uint64_t rate;           // bytes a second
    int64_t left_ms;         // -1: not known
    int64_t equal_time_ms;   // wall clock, since 1970: when both ends were last proven equal; -1: never
    uint64_t equal_epoch;    // its number
    uint64_t equal_epoch_id;
    uint64_t equal_seq;
    uint64_t differing_bytes; // that the last verify of this run has found
    bool repair_waits;        // for the operator: the volumes are not synchronized until then
    struct status_range ranges[STATUS_RANGES_MAX]; // the first of them
    size_t range_count;
};

// An epoch that one end of a split has and the other one has not.
#define STATUS_EPOCHS_MAX 16
struct status_epoch {
    uint32_t number;
    uint64_t id;
    char opened_by[STATUS_WORD_SIZE]; // primary, secondary
    char reason[STATUS_WORD_SIZE];    // takeover, alone, ...
    uint64_t first_seq;
};

// What two ends that have both acknowledged on their own know of it.
struct status_divergence {
    bool known; // they have met
    struct status_epoch primary[STATUS_EPOCHS_MAX], secondary[STATUS_EPOCHS_MAX]; // oldest first
    size_t primary_count, secondary_count;
    bool counted; // the regions are those of both ends' maps; else nothing is known of them yet
    uint64_t regions, bytes; // that may differ, at most
};

// The operation that an operator has started last (switch, takeover, ...); id 0: there was none in
// this run.
struct status_operation {
    uint64_t id;
    char name[STATUS_WORD_SIZE];
    char state[STATUS_WORD_SIZE]; // running, done, failed
    char text[STATUS_TEXT_SIZE];  // the step it is at, or how it ended
    // Of a takeover: what speaks against it, and what an operator gets.
    struct status_veto {
        char name[STATUS_WORD_SIZE];
        char text[STATUS_TEXT_SIZE];
        bool overridden; // by this takeover; what is not has refused it
    } vetoes[STATUS_VETOES_MAX];
    size_t veto_count;
    char override[STATUS_TEXT_SIZE]; // the options that override precisely these; empty: nothing is refused
    char age[STATUS_TEXT_SIZE];      // one sentence: how old what he gets is
    struct status_loss {
        bool known;  // false: nothing is said about losses
        uint64_t records;
        uint64_t bytes;
        int64_t age_ms;
        bool more; // what the active end acknowledged after its last word is not known, and not counted
    } loss; // what the active end had told of and is not here
};

// One step of the end's life.
struct status_event {
    int64_t real_ms; // wall clock, since 1970
    char step[STATUS_WORD_SIZE];
    int64_t ms; // how long the step took; -1: a point in time
    char text[STATUS_TEXT_SIZE];
    struct status_loss loss;
    uint32_t count; // so often, the last time at real_ms; 0 is 1
};

struct pair_status {
    char pair[STATUS_NAME_SIZE];
    char identity[STATUS_WORD_SIZE]; // primary, secondary
    char role[STATUS_WORD_SIZE];     // active, passive
    char state[STATUS_WORD_SIZE];    // the end's state in the words of its table
    char why[STATUS_TEXT_SIZE];      // one sentence
    uint64_t epoch;                  // its number
    uint64_t epoch_id;
    char mode[STATUS_WORD_SIZE];
    char takeover[STATUS_WORD_SIZE]; // auto, manual
    bool synchronized;               // all volumes
    bool alone;       // not on the way to that, or back from it: see paired
    bool paired;      // with a peer that is heard and has all that is promised
    bool granted;     // active: says yes; passive: holds a grant
    bool paused;      // nothing is sent (active) or applied (passive) because an operator said so
    bool split;       // both have acknowledged on their own: resolve is needed
    int64_t stale_ms; // since when; -1: not stale
    int64_t grant_left_ms; // -1: no grant
    uint64_t session;      // of the channel; 0: none
    uint64_t run;          // this run of the daemon
    int64_t uptime_ms;
    char host[STATUS_NAME_SIZE * 2];
    char peer_host[STATUS_NAME_SIZE * 2];

    struct {
        bool connected;
        int64_t silent_ms; // since it was last heard; -1: never in this run
        int64_t longest_silence_ms; // between two of its heartbeats, in this session; -1: none yet
        uint32_t timeout_ms;
        char role[STATUS_WORD_SIZE];    // what it last said; empty: nothing
        char refused[STATUS_TEXT_SIZE]; // why it was refused last; empty: it was not
    } peer;

    struct status_queue unsafe_queue;
    struct status_queue safe_queue;
    struct {
        uint64_t numbered;
        uint64_t received;
        uint64_t durable;
        uint64_t applied;
        uint64_t settled;
    } positions;

    struct status_volume volumes[STATUS_VOLUMES_MAX];
    size_t volume_count;
    struct {
        bool enabled;
        char interface[STATUS_WORD_SIZE];
        char addresses[STATUS_ADDRESSES_MAX][STATUS_ADDRESS_SIZE];
        size_t address_count;
    } public_address;
    struct status_application applications[STATUS_APPLICATIONS_MAX];
    size_t application_count;
    struct {
        uint64_t loss_bytes;
        int64_t loss_ms;
        int64_t takeover_ms;
    } forecast;

    struct status_path paths[STATUS_PATHS_MAX];
    size_t path_count;
    struct status_waypoint waypoints[STATUS_WAYPOINTS_MAX];
    size_t waypoint_count;
    struct status_resync resync;
    struct status_verify verify;
    struct status_divergence divergence; // of a split
    struct {
        bool active; // something is kept before it is overwritten
        bool full;   // nothing more fits in: nothing is applied here
        uint64_t bytes, limit_bytes; // of its files, as last known
    } salvage;
    struct {
        bool alive;
        int64_t deadline_ms; // until it acts; -1: it has none
    } guard;
    struct status_operation operation;
    bool has_last_event;
    struct status_event last_event;
};

char *status_operation_to_json(const struct status_operation *operation);
// One end as a JSON object; several as an array. malloc'ed text, or NULL when there is no memory.
char *status_to_json(const struct pair_status *status, bool pretty);
char *status_list_to_json(const struct pair_status *const *list, size_t count, bool pretty);
// Takes an object or an array. Unknown fields are ignored, missing ones are empty. *ret_list is
// malloc'ed.
int status_from_json(const char *json, struct pair_status **ret_list, size_t *ret_count,
                     struct error *err);

char *history_to_json(const struct status_event *events, size_t count, bool pretty);
int history_from_json(const char *json, struct status_event **ret_events, size_t *ret_count,
                      struct error *err);

#endif
