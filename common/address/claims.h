// SPDX-License-Identifier: Apache-2.0
// Which addresses on this machine's interfaces were put there by us, and for which end: so that an address that a pair file
// does not name any more is taken off, and one that somebody else has put there is not.
//
// It is kept in one file of the runtime directory, for all ends that use that directory, because an address may move from
// one pair's file to another's: the end that has put it on last has the claim, and no other one takes it off as a former
// one of its own. Each line is `OWNER INTERFACE ADDRESS CREATED`; the first one names the boot, and a file of another boot
// counts as empty. CREATED is when the kernel made the address, which tells ours from one that somebody has put in its
// place; 0 where we had not come to see it.
//
// Invariants
//  1. The claim is in the file before the address is asked for: one that is put on for a daemon that was killed has it.
//  2. An address that is there, and not by a claim, is nobody's of ours: it gets no claim by being asked for.
//  3. Looking at a claim and acting on it is one step, under the file's lock.
// A file that cannot be written is no reason not to serve: the address goes on, and what it may leave behind is said. A
// line that cannot be understood is passed over.
//
// Any thread; calls wait for the kernel's lock of the network, and half a second at most for whoever has the file's lock.
#ifndef ADDRESS_CLAIMS_H
#define ADDRESS_CLAIMS_H

#include <net/if.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/address/ip.h"
#include "common/base/error.h"

#define CLAIMS_OWNER_MAX 64 // bytes of an owner, with the zero; it has no white space
#define CLAIMS_MAX       8192 // in the file

// An end's place, and what it is configured with.
struct claims {
    const char *path;  // of the file
    const char *owner; // "PAIR/primary"
    const char *interface;
    const struct ip *addresses;
    size_t count; // 0: no addresses, and perhaps no interface
    const _Atomic int64_t *limit_ns; // CLOCK_BOOTTIME from which on nothing is put on; NULL: none
};

struct claim {
    char interface[IFNAMSIZ];
    struct ip ip;
};

// A line of the file.
struct claims_entry {
    char owner[CLAIMS_OWNER_MAX];
    struct claim claim;
    uint32_t created; // 0: not seen
};

// What `text` says, which is cut up: at most `limit` lines, in their order; none if it is of another boot than `boot_id`.
// Returns how many.
size_t claims_parse(char *text, uint64_t boot_id, struct claims_entry *ret_entries, size_t limit);
// The text that says this, to be freed; NULL: there is no memory.
char *claims_format(const struct claims_entry *entries, size_t count, uint64_t boot_id);

// The place of the file below a runtime directory. No pair has that name: it has a dot.
int claims_path(char *buffer, size_t size, const char *runtime_dir);

// Puts the configured addresses on. `unnoted` gets the reason why that could not be written down. -ETIME: the limit had passed
// when the kernel was to be asked; that it was not yet when this was called means nothing.
int claims_put_on(const struct claims *c, struct error *unnoted, struct error *err);
// Takes the configured addresses off, whoever has put them there, and all that the owner has a claim on. Interfaces that are
// not there have no addresses. Tries all, returns the first error.
int claims_take_off(const struct claims *c, struct error *err);
// Takes off what the owner has a claim on and is not configured.
int claims_leave(const struct claims *c, struct error *err);
// What claims_leave() would take off: at most `limit`; *ret_count is the number written.
int claims_left(const struct claims *c, struct claim *ret_left, size_t limit, size_t *ret_count, struct error *err);
// Takes off what is claimed by owners for which `is_gone` says true.
int claims_leave_gone(const char *path, bool (*is_gone)(void *user, const char *owner), void *user, struct error *err);

#endif
