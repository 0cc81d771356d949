// SPDX-License-Identifier: Apache-2.0
// The daemon's side of the guard: the small process (understudy-guard) that takes a pair's public
// address off and freezes its applications when a deadline passes, whether the daemon lives or not.
//
// Daemon and guard share one piece of memory, the plan (plan.h). The daemon prepares in it what
// there is to do and keeps moving the deadline, which costs one atomic store; the guard looks at it
// when its timer fires. Where a deadline is moved and the guard acts at the same instant, exactly
// one of them wins, and the daemon is told which.
//
// The daemon's own stepping down is done by the guard too (guard_step_down), so there is one
// mechanism, and the flag file always says it.
//
// A new guard, started because the old one died, knows nothing of what that one has frozen. A
// daemon that finds the flag set, and its pair's slot in GUARD_WATCHING, publishes its plan and
// calls guard_step_down() before it thaws or destroys.
//
// A pair that is stepped down has no address: the guard takes off again what a request that waited in the kernel puts on
// (stay.h). Put it on when the pair has been thawed, or destroyed and opened again, and that is no longer pending.
//
// While a pair is stepped down its prepared plan stays the one that was acted on; a plan published
// meanwhile counts after the thaw. After guard_destroy(), close the pair and open it again.
//
// The guard has to outlive the daemon: a systemd unit needs KillMode=process. It keeps the daemon's
// stderr open, on which it says what it has done.
//
// Threads: guard_acted() and guard_deadline() may be called from any thread; everything else from
// the control loop. Nothing blocks but guard_start() (it waits for a process to start, at most
// GUARD_START_NS) and guard_end().
//
// It also has the last word of a passive daemon: guard_pair_goodbye().
#ifndef GUARD_GUARD_H
#define GUARD_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/address/inquiry.h"
#include "common/address/ip.h"
#include "common/base/clock.h"
#include "common/base/error.h"

#define GUARD_PAIRS_MAX     256
#define GUARD_NAME_SIZE     64
#define GUARD_ADDRESSES_MAX 16
#define GUARD_LEFT_MAX      16
#define GUARD_CGROUPS_MAX   16
#define GUARD_PROCESSES_MAX 64
#define GUARD_PATH_SIZE     512
#define GUARD_NO_DEADLINE   INT64_MAX
#define GUARD_START_NS      (5 * NS_PER_S)

struct guard;      // the connection to the guard: one a daemon
struct guard_pair; // one pair's slot in the plan; owned by struct guard

// An address that a former run has left on an interface, which need not be the one of now.
struct guard_left {
    char interface[16];
    struct ip ip;
};

// What to do for a pair. Copied by guard_pair_plan().
struct guard_plan {
    char interface[16]; // of the public addresses
    struct ip addresses[GUARD_ADDRESSES_MAX];
    size_t address_count;
    struct guard_left left[GUARD_LEFT_MAX]; // taken off as well
    size_t left_count;
    char cgroups[GUARD_CGROUPS_MAX]
                [GUARD_PATH_SIZE]; // directories: cgroup v2, or of the v1 freezer
    size_t cgroup_count;
    pid_t processes[GUARD_PROCESSES_MAX]; // stopped with SIGSTOP: what uses the exports, a guest's
                                          // QEMU
    size_t process_count;
    char flag[GUARD_PATH_SIZE]; // the flag file, in the runtime directory (never on a disk)
};

enum guard_state {
    GUARD_WATCHING,     // the deadline counts
    GUARD_ACTING,       // at it; takes milliseconds
    GUARD_STEPPED_DOWN, // address off, applications frozen, flag written
    GUARD_DESTROYED,    // and what was frozen was killed since
};

// How an act went. Times are CLOCK_BOOTTIME ns.
struct guard_report {
    bool asked;          // by the daemon; false: the deadline passed
    int64_t deadline_ns; // that passed; INT64_MAX when asked
    int64_t begun_ns;
    int64_t addresses_ns; // addresses off
    int64_t frozen_ns;    // applications frozen
    int64_t flagged_ns;   // flag written; the act is over
    // 0, or -errno of the first failure of each part. What was already gone is no failure.
    int addresses_error;
    int frozen_error;
    int flag_error;
};

// Finds the running guard NAME ("primaryd", "secondaryd") of this runtime directory and attaches to
// its plan, or starts `binary` if there is none. *ret_reattached (may be NULL): true if it was
// found running. -EBUSY: another living daemon is attached to it.
int guard_start(const char *binary, const char *runtime_dir, const char *name,
                struct guard **ret_guard, bool *ret_reattached, struct error *err);
// Lets go of the guard, which goes on watching. NULL-safe; returns NULL.
struct guard *guard_free(struct guard *guard);
// Tells the guard to end, and waits for it. For a daemon none of whose pairs has anything to guard
// any more.
int guard_end(struct guard *guard, struct error *err);

// Readable when the guard has acted, finished a request, or died. guard_work() returns 0, or -EPIPE
// when the guard is dead: then start another one (guard_free, guard_start and the pairs' plans
// again), or step down.
int guard_fd(const struct guard *guard);
int guard_work(struct guard *guard);
pid_t guard_pid(const struct guard *guard);

// The slot of this pair, as a former daemon left it or new (then: no plan, no deadline).
int guard_pair_open(struct guard *guard, const char *pair, struct guard_pair **ret_pair,
                    struct error *err);
// Gives the slot up: nothing is watched for this pair any more. Takes effect at once.
void guard_pair_close(struct guard_pair *pair);

// Publishes a new plan: a guard that acts from now on uses it, whole; one that is killed in this
// call has used, and a daemon that dies in it leaves, the former one. `plan` is checked. Processes
// that no longer exist are left out.
int guard_pair_plan(struct guard_pair *pair, const struct guard_plan *plan, struct error *err);
// What the guard, and whoever asks at the management address, is told of the role (inquiry.h).
// Cheap.
void guard_pair_inquiry(struct guard_pair *pair, const struct inquiry_end *end);
void guard_pair_role(struct guard_pair *pair, enum inquiry_role role);

// What the guard says to the peer at `to` once this process has ended (bye.h); NULL: nothing any more, from now on. Once it
// has returned from that, no goodbye is said whatever happens to the daemon: call it before an epoch is opened.
void guard_pair_goodbye(struct guard_pair *pair, const uint8_t goodbye[INQUIRY_GOODBYE_SIZE], const struct ip *to,
                        uint16_t port);
// The run of the peer whose goodbye the guard has taken in at the responder's socket, which it reads too; 0: none. Each
// is told once.
uint64_t guard_pair_gone(struct guard_pair *pair);

// Moves the deadline. GUARD_NO_DEADLINE: none. Returns -ESTALE, and changes nothing, when the guard
// has acted: the end is stepped down. Has the guard no plan of this pair, a deadline is refused
// with -EINVAL.
int guard_set_deadline(struct guard_pair *pair, int64_t deadline_ns);
int64_t guard_deadline(const struct guard_pair *pair); // INT64_MIN when it has acted
// True from the instant at which the guard has begun to act. Any thread, one atomic load.
bool guard_acted(const struct guard_pair *pair);

enum guard_state guard_pair_state(const struct guard_pair *pair);
void guard_pair_report(const struct guard_pair *pair, struct guard_report *ret_report);

// Requests. They are done within milliseconds; guard_fd() becomes readable when they are.
// Acts now, as if the deadline had passed.
void guard_step_down(struct guard_pair *pair);
// Undoes the freezing: the flag is cleared, then the applications run again and `deadline_ns`
// counts. The addresses are the daemon's to put back. Ignored unless stepped down, or when
// `deadline_ns` has passed.
void guard_thaw(struct guard_pair *pair, int64_t deadline_ns);
// Kills what is frozen. The flag stays until guard_flag_clear().
void guard_destroy(struct guard_pair *pair);
// True while a request has not been carried out.
bool guard_pair_pending(const struct guard_pair *pair);

// Shares a responder's socket, so that the guard answers when the daemon cannot (and at any time:
// both read it). One for each address and port; those beyond the 128th are not answered then.
int guard_share_inquiry(struct guard *guard, int fd, struct error *err);
// The sockets that a former daemon has shared; -1 behind the last. The guard keeps them open, so that their ports are
// taken: a restarted daemon goes on with these. They stay the property of `guard`.
int guard_inquiry_fd(const struct guard *guard, size_t index);

// --- The flag file. It is allocated in full when the plan is published, so that writing it needs
// nothing. ---

// *ret_set: the guard has stepped this end down (in this boot). `text` (may be NULL): when and why.
// A file that is not there is not set; one that cannot be read, or understood, counts as set.
int guard_flag_read(const char *path, bool *ret_set, char *text, size_t size, struct error *err);
// For the end that is active again or whose applications were destroyed.
int guard_flag_clear(const char *path, struct error *err);

#endif
