// SPDX-License-Identifier: Apache-2.0
// The memory that daemon and guard share: what to do for each pair, until when, and what became of
// it. It lives in a sealed memfd that the guard makes, so it outlives the daemon.
//
// Who writes what: the daemon the slots' `used`, name, bodies, `current`, `asked`, inquiry,
// role and goodbye (which the guard takes away before a daemon attaches); the guard `gone_run`, `state`, `done`, the report and `armed_ns`; both `deadline_ns`, by
// compare-and-swap alone.
//
// Invariants
//  1. A body is whole when `current` names it. The daemon writes bodies[(current + 1) % 2] and then raises `current`:
//     a daemon that dies in between leaves the former plan, and a reader that sees `current` unchanged after its copy
//     has a whole one. The checksum finds what should be impossible.
//  2. PLAN_ACTED in `deadline_ns` is final until the guard itself thaws. The guard puts it there by compare-and-swap
//     from the deadline that it saw pass, the daemon moves a deadline by compare-and-swap from a value that is not
//     PLAN_ACTED: exactly one of the two wins.
//  3. `current` is never reset, so that the guard never takes a slot's new plan for the one that it has prepared. A
//     slot is given to a pair with an empty body; no deadline is accepted for such a one.
//  4. The guard sleeps no longer than `armed_ns`. The daemon stores a deadline and then reads `armed_ns`, the guard
//     stores `armed_ns` and then reads the deadlines, all sequentially consistent: an earlier deadline is seen by one
//     of them.
#ifndef GUARD_PLAN_H
#define GUARD_PLAN_H

#include <stdatomic.h>
#include <stdint.h>

#include "guard/guard.h"

#define PLAN_MAGIC   UINT64_C(0x316c706472617567) // "guardpl1"
#define PLAN_VERSION 3
#define PLAN_ACTED   INT64_MIN

struct plan_process {
    int32_t pid;
    uint32_t zero;
    uint64_t start; // of /proc/PID/stat: tells a process from a later one with its number
};

struct plan_body {
    uint32_t address_count, cgroup_count, process_count, left_count;
    char interface[16];
    int32_t interface_index;
    uint32_t zero2;
    struct ip addresses[GUARD_ADDRESSES_MAX];
    struct guard_left left[GUARD_LEFT_MAX];
    struct plan_process processes[GUARD_PROCESSES_MAX];
    char cgroups[GUARD_CGROUPS_MAX][GUARD_PATH_SIZE];
    char flag[GUARD_PATH_SIZE];
    uint64_t checksum; // of everything above
};

enum plan_request {
    PLAN_STEP_DOWN = 1,
    PLAN_THAW = 2,
    PLAN_DESTROY = 3,
};

// What is said for a passive daemon that has died (bye.h).
struct plan_goodbye {
    uint8_t datagram[INQUIRY_GOODBYE_SIZE];
    struct ip to;
    uint16_t port;
};

struct plan_slot {
    _Atomic uint32_t used;
    _Atomic uint32_t state; // enum guard_state
    char name[GUARD_NAME_SIZE];
    _Atomic int64_t deadline_ns; // GUARD_NO_DEADLINE, PLAN_ACTED, or a time
    _Atomic uint32_t current;    // number of the newest whole body; 0: none yet
    struct plan_body bodies[2];

    // One request at a time: `asked` counts them, `done` follows. The arguments are written before
    // `asked` is raised.
    _Atomic uint32_t asked, done;
    _Atomic uint32_t request;
    _Atomic int64_t thaw_deadline_ns;

    _Atomic uint32_t inquiry_valid; // 0 while `inquiry` is being written
    _Atomic uint32_t role;          // enum inquiry_role
    struct inquiry_end inquiry;     // its role is not used

    _Atomic uint32_t goodbye_valid; // 0 while `goodbye` is being written, and when there is nothing to say
    struct plan_goodbye goodbye;
    _Atomic uint64_t gone_run; // the peer's run whose goodbye the guard has taken in, at the socket that both read; 0: none

    struct guard_report report; // written while `state` is GUARD_ACTING
};

struct plan {
    uint64_t magic;
    uint32_t version;
    uint32_t size;
    _Atomic int64_t armed_ns;
    _Atomic uint32_t end; // the daemon wants the guard to end
    struct plan_slot slots[GUARD_PAIRS_MAX];
};

// Checks what the daemon hands in, and brings it into the shared form. -EINVAL with a text, -ENODEV
// for an interface.
int plan_make_body(const struct guard_plan *from, struct plan_body *ret_body, struct error *err);
// The body of a slot whose pair has no plan yet.
void plan_make_empty(struct plan_body *ret_body);
void plan_publish(struct plan_slot *slot, const struct plan_body *body);
// Copies the newest whole body. Returns its number (> 0), 0 when there is none yet, or
// -EAGAIN/-EUCLEAN when none could be had: the reader then goes on with what it has.
int64_t plan_read(struct plan_slot *slot, struct plan_body *ret_body);

// When process `pid` was started, in the kernel's ticks; -ESRCH when there is none.
int plan_process_start(pid_t pid, uint64_t *ret_start);

// --- The flag file (the guard's side of it; flag.c) ---

#define FLAG_SIZE 256 // always

// Creates the file, not set, unless it is there.
int flag_make(const char *path, struct error *err);
// One write into the file as it is. `text` at most FLAG_SIZE - 1 bytes; what fills up the rest is
// spaces.
int flag_write(int fd, const char *text);
#define FLAG_CLEAR "clear"

#endif
