// SPDX-License-Identifier: Apache-2.0
// The inside of an endpoint, shared by endpoint.c (steps and work), endpoint_open.c (birth and
// death), endpoint_events.c (what comes in), endpoint_act.c (actions) and endpoint_status.c
// (status).
#ifndef DAEMON_ENDPOINT_PRIVATE_H
#define DAEMON_ENDPOINT_PRIVATE_H

#include "common/address/announcer.h"
#include "common/address/inquiry.h"
#include "common/apps/apps.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/daemon/endpoint.h"
#include "common/daemon/figures.h"
#include "common/daemon/front.h"
#include "common/daemon/history.h"
#include "common/daemon/lane.h"
#include "common/daemon/mailbox.h"
#include "common/daemon/saver.h"
#include "common/daemon/stream.h"
#include "common/daemon/switchboard.h"
#include "common/daemon/turning.h"
#include "common/daemon/vetoes.h"
#include "common/daemon/waypoints.h"
#include "queues/vitals.h"

#define EVENTS_MAX 128

// What an endpoint's epoll set tells apart.
enum endpoint_ready {
    READY_REPORTS,
    READY_CHANNEL,
    READY_APPS,
    READY_INQUIRY,
    READY_COUNT,
};

struct endpoint {
    struct endpoint_config config;
    const struct pair_config *pair;
    struct end *end;
    struct figures figures;
    int epoll;
    int lock_fd, runtime_lock_fd;
    char state_path[PATH_SIZE], runtime_path[PATH_SIZE], queue_path[PATH_SIZE];
    char safe_path[PATH_SIZE], map_path[PATH_SIZE], flag_path[PATH_SIZE];
    char salvage_path[PATH_SIZE], spill_path[PATH_SIZE];
    char *sockets[PAIR_VOLUMES_MAX];
    const char *volume_names[PAIR_VOLUMES_MAX];
    struct vitals *vitals;
    uint64_t timing_sum; // stands for the pair file's timing there
    bool same_boot, started, exited;
    bool opening; // the safe queue is being read; the end runs, and waits for that
    struct end_start start;
    char queue_why[300]; // what is wrong with the queue that was found; "": nothing
    struct end_state state;
    uint64_t run, pair_id;
    int64_t born_ns;
    // Threads and what they share.
    struct mailbox *reports; // from front, stream and saver to here
    struct mailbox *stream_box;
    struct channel_key *key;
    struct channel *channel;
    struct lane *lane;
    struct front *front;
    struct stream *stream;
    struct saver *saver;
    bool open_after_close; // ACT_OPEN waits until the replica has let go of the stores
    struct end_action open_action;
    bool serving;
    // Addresses.
    struct ip addresses[PAIR_ADDRESSES_MAX];
    size_t address_count;
    struct ip management, peer_management;
    bool has_management, has_peer_management;
    const char *interface;
    bool address_on;
    char claims_path[PATH_SIZE], owner[CLAIMS_OWNER_MAX];
    struct claim left[GUARD_LEFT_MAX]; // what a former run has put on and is not configured: still there
    size_t left_count;
    bool leaving;             // -> endpoint_left()
    int64_t leave_retry_ns;
    struct switchboard *switchboard; // NULL: there are no addresses
    uint64_t switch_ticket;          // of the newest wish
    bool switch_on;                  // wished in this step: once the deadline is known that belongs to it
    bool announce_wanted;            // once it is on
    bool freeze_unguarded;           // there is no guard: once it is off, this end is frozen
    struct announcer *announcer;
    struct closer *closer;
    struct waypoints_view *waypoints; // NULL: none configured
    struct vetoes *vetoes;
    uint64_t vetoes_ticket;
    int inquiry_fd;
    struct inquiry_end inquiry;
    // Applications.
    struct apps *apps;
    int64_t apps_began_ns;
    int64_t foreign_ns; // when it is looked again for applications that run here, and should not
    int64_t apps_start_ms; // how long the last start took; 0: not yet
    // Guard.
    struct guard *daemon_guard; // NULL: there is none
    struct guard_pair *guard;
    struct guard_plan plan;
    bool plan_stale;
    int64_t plan_retry_ns;
    bool frozen_told; // the end knows that the guard has acted
    bool thawing;     // -> endpoint_guard()
    int64_t deadline_ns; // the guard's, as the end said last
    int64_t thaw_deadline_ns;
    bool goodbye;    // the end wants the guard to have one
    bool destroying; // asked the guard to kill what it froze; its slot is renewed when that is done
    // Events for the end, oldest first.
    struct end_event events[EVENTS_MAX];
    unsigned event_first, event_count;
    bool stepping;
    bool touched; // endpoint_touched()
    struct turning front_turning, stream_turning;
    bool wedged; // as seen last
    // How long the peer was silent at most in this session.
    uint64_t heard_session; // 0: none
    int64_t heard_ns, silence_ns;
    int64_t verify_next_ns; // when the schedule is looked at next
    // The operator.
    uint64_t operation;
    uint64_t reply_id;
    int reply_status;
    bool replied;
    char reply_text[ACTION_TEXT_SIZE];
    struct history *history;
    struct log_site frame_log;
    char channel_refused[256];
    uint64_t beat_run, beat_number; // of the heartbeat that came last
};

void endpoint_feed(struct endpoint *ep, const struct end_event *event);
void endpoint_note(struct endpoint *ep, int64_t ns, const char *text);
void endpoint_note_loss(struct endpoint *ep, int64_t ns, const char *text,
                        const struct status_loss *loss);
void endpoint_act(struct endpoint *ep, const struct end_action *a); // endpoint_act.c
// endpoint_events.c
extern const struct channel_ops endpoint_channel_ops;
void endpoint_begin(struct endpoint *ep); // EV_START
void endpoint_take_report(struct endpoint *ep, struct letter *letter);
void endpoint_on_app(void *context, const struct apps_event *ev);
void endpoint_on_app_output(void *context, const char *app, const char *line);

void endpoint_plan(struct endpoint *ep);
void endpoint_goodbye(struct endpoint *ep);
// The replica has let go of the stores and (failure NULL) of its queue.
void endpoint_closed(struct endpoint *ep, const char *failure);
void endpoint_probed(struct endpoint *ep);
void endpoint_switched(struct endpoint *ep, const struct switchboard_report *report);
void endpoint_leave_former(struct endpoint *ep, const struct end_view *view); // if it is time
void endpoint_left(struct endpoint *ep, const struct switchboard_report *report);
void endpoint_address_lost(struct endpoint *ep);
void endpoint_switch_on(struct endpoint *ep); // if this step's actions have asked for it

#endif
