// SPDX-License-Identifier: Apache-2.0
// What a run of a daemon leaves to the next one of the same boot, beside its unsafe queue in the runtime directory: the
// token of the boot, when the last echoed heartbeat was sent, the deadline that its guard has, and by which timing it served.
//
// Mapped, and stored into without a system call, so a kill may come between any two stores. Each value stands beside its
// complement. Where the two do not agree what is believed is what promises less: an earlier echo, an unknown deadline,
// another boot.
#ifndef QUEUES_VITALS_H
#define QUEUES_VITALS_H

#include <stdbool.h>
#include <stdint.h>

#define VITALS_NO_DEADLINE INT64_MAX // no grant is out: the guard has nothing to watch
#define VITALS_UNKNOWN     0

struct vitals {
    uint64_t boot, boot_not;
    uint64_t echo_sent_ns, echo_not; // CLOCK_BOOTTIME; only rises
    uint64_t lease_ns, lease_not;
    uint64_t timing, timing_not;
};

// The token of the boot that this file is of; 0: of none, or nothing can be said.
uint64_t vitals_boot(const struct vitals *vitals);
// Whether something is there that cannot be believed (for the log, and for fsck).
bool vitals_damaged(const struct vitals *vitals);
// A token for this boot: the runtime directory's (a random number), and the kernel's (which outlives no reboot, whatever is
// kept of the directory).
uint64_t vitals_token(uint64_t random, uint64_t kernel);
// Whether this token was made under that kernel's boot.
bool vitals_token_fits(uint64_t token, uint64_t kernel);
// A new boot begins: everything else is unknown.
void vitals_begin(struct vitals *vitals, uint64_t boot);

int64_t vitals_echo_sent_ns(const struct vitals *vitals); // 0: none
void vitals_echo(struct vitals *vitals, int64_t sent_ns); // an earlier one is ignored
int64_t vitals_lease_ns(const struct vitals *vitals);     // VITALS_NO_DEADLINE, VITALS_UNKNOWN
void vitals_lease(struct vitals *vitals, int64_t deadline_ns);
// What stands for the timing (a checksum): whether the run that served last had this one, as far as it is known. Where it had
// not, what it had granted runs by the former one.
bool vitals_same_timing(const struct vitals *vitals, uint64_t timing);
void vitals_timing(struct vitals *vitals, uint64_t timing);

#endif
