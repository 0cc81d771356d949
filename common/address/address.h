// SPDX-License-Identifier: Apache-2.0
// Addresses on this machine's interfaces, through libnl-route (address.c is its only user). Calls
// are synchronous, and short: they talk to the kernel of the calling thread's network namespace
// only.
//
// Invariants: adding what is there and removing what is not there succeed. A removal takes away the
// named address and no other one: where the interface's other IPv4 addresses hang on it as
// "secondaries" they are kept (add and remove switch the interface's promote_secondaries on, so
// that this also holds when the guard removes it).
#ifndef ADDRESS_ADDRESS_H
#define ADDRESS_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/address/ip.h"
#include "common/base/error.h"

#define ADDRESS_LIST_MAX 256

// The interface's index (> 0), or -ENODEV with a text that names it.
int address_interface_index(const char *interface, struct error *err);

// IPv6 addresses are added without the kernel's duplicate detection: we have probed ourselves
// (probe.h).
int address_add(const char *interface, const struct ip *ip, struct error *err);
// Removes the address with whatever prefix lengths it is there.
int address_remove(const char *interface, const struct ip *ip, struct error *err);
// For a passive start, after a crash: removes each of these that is there. Tries all, returns the
// first error; *ret_removed (may be NULL) is the number that was there.
int address_remove_all(const char *interface, const struct ip *ips, size_t count,
                       size_t *ret_removed, struct error *err);

int address_present(const char *interface, const struct ip *ip, bool *ret_present,
                    struct error *err);
// The interface's addresses: at most `limit` into `ips`; *ret_count is the number written.
int address_list(const char *interface, struct ip *ips, size_t limit, size_t *ret_count,
                 struct error *err);
// The same; created[i] tells one address from a later one that is equal to it: when the kernel has made it.
int address_list_created(const char *interface, struct ip *ips, uint32_t *created, size_t limit, size_t *ret_count,
                         struct error *err);
// Removes the address with this prefix length, and leaves it there with others.
int address_remove_exact(const char *interface, const struct ip *ip, struct error *err);

#endif
