// SPDX-License-Identifier: Apache-2.0
// Asks the public network whether somebody else has an address, before it is enabled here: two ARP
// probes in the form of RFC 5227 (sender address zero) or two neighbour solicitations in the form
// of duplicate detection, PROBE_GAP_NS apart, and an answer awaited until PROBE_SPAN_NS after the
// first one. Another machine that probes for the same address at that time counts as an answer.
// What cannot be asked (no such interface, link down, cannot send) counts as a veto just as an
// answer does. Its sockets are closed by `closer` (closer.h).
#ifndef ADDRESS_PROBE_H
#define ADDRESS_PROBE_H

#include <stddef.h>
#include <stdint.h>

#include "common/address/ip.h"
#include "common/base/closer.h"
#include "common/base/clock.h"
#include "common/base/error.h"

#define PROBE_GAP_NS      (110 * NS_PER_MS)
#define PROBE_SPAN_NS     (220 * NS_PER_MS)
#define PROBE_ADDRESS_MAX 64

struct address_probe;

enum probe_state {
    PROBE_ASKING,
    PROBE_SILENT,     // asked twice, nobody answers: the addresses are free
    PROBE_ANSWERED,   // somebody has one of them
    PROBE_IMPOSSIBLE, // could not be asked
};

struct probe_answer {
    struct ip ip;   // which address
    uint8_t mac[6]; // who has it
    char text[160]; // one sentence, for ANSWERED and IMPOSSIBLE; empty otherwise
};

// Sends the first probes. An error here is the same as PROBE_IMPOSSIBLE. `count` 0 is PROBE_SILENT
// at once.
int address_probe_start(const char *interface, const struct ip *ips, size_t count, struct closer *closer,
                        struct address_probe **ret_probe, struct error *err);
int address_probe_fd(const struct address_probe *probe);
int64_t address_probe_deadline_ns(const struct address_probe *probe); // INT64_MAX when decided
void address_probe_work(struct address_probe *probe);
enum probe_state address_probe_state(const struct address_probe *probe,
                                     struct probe_answer *ret_answer); // ret_answer may be NULL
struct address_probe *address_probe_free(struct address_probe *probe); // NULL-safe; returns NULL

#endif
