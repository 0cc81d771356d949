// SPDX-License-Identifier: Apache-2.0
// "Is the end of pair X active there?" - one datagram asked, one answered, at the management
// address of each machine, outside the channel. Daemon and guard answer from the same socket; a
// passive end asks before it takes over.
//
// Every datagram carries a code (base/mac.h) under the pair's key, and the pair only as a code of
// its name; an answer repeats the asker's random nonce, so that an old one proves nothing. What
// does not fit is dropped without an answer.
//
// And "run N of the end of pair X has ended, and held no grant": a goodbye, sealed by the daemon beforehand and said by its
// guard, which has no word of its own in it. It names the run, so it is good for nothing else; who takes one in counts it
// only for the run that he knows. One that comes twice says the same.
#ifndef ADDRESS_INQUIRY_H
#define ADDRESS_INQUIRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/address/ip.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/mac.h"

#define INQUIRY_PORT     7791 // default
#define INQUIRY_ID_SIZE  16
#define INQUIRY_PAIR_MAX 256               // pairs at one responder
#define INQUIRY_GOODBYE_SIZE 56            // bytes
#define INQUIRY_GAP_NS   (70 * NS_PER_MS)  // the ask is repeated so often
#define INQUIRY_SPAN_NS  (220 * NS_PER_MS) // and an answer awaited so long

enum inquiry_identity { INQUIRY_PRIMARY = 1, INQUIRY_SECONDARY = 2 };

enum inquiry_role {
    INQUIRY_PASSIVE = 1,
    INQUIRY_ACTIVE = 2,
    INQUIRY_TAKING_OVER = 3,
    INQUIRY_STEPPED_DOWN = 4, // was active; its address is off
};

// What a responder knows of one end.
struct inquiry_end {
    uint8_t id[INQUIRY_ID_SIZE]; // inquiry_id() of the pair's name
    uint8_t key[MAC_KEY_SIZE];
    uint8_t identity; // enum inquiry_identity
    uint8_t role;     // enum inquiry_role; 0: does not answer
};

void inquiry_id(const uint8_t key[MAC_KEY_SIZE], const char *pair, uint8_t id[INQUIRY_ID_SIZE]);

// --- The responder. It owns no memory and no table: socket and ends are the caller's. ---

// A UDP socket at `at`, non-blocking, close-on-exec. `port` 0: any.
int inquiry_socket(const struct ip *at, uint16_t port, struct error *err); // fd or -errno
uint16_t inquiry_socket_port(int fd);
// The peer of ends[end] has ended; `run` was its run.
typedef void inquiry_goodbye_fn(void *user, size_t end, uint64_t run);
// Takes in every datagram that waits at `fd` (at most a bounded number) and answers those that ask
// for one of the ends; goodbyes go to `goodbye` (NULL: they are passed over). Allocates nothing and
// never blocks. Returns the number answered.
size_t inquiry_answer(int fd, const struct inquiry_end *ends, size_t count, inquiry_goodbye_fn *goodbye, void *user);
// The goodbye of this end in its run `run`.
void inquiry_seal_goodbye(const struct inquiry_end *self, uint64_t run, uint8_t ret_goodbye[INQUIRY_GOODBYE_SIZE]);

// --- The asker. ---

struct inquiry;

enum inquiry_result {
    INQUIRY_ASKING,
    INQUIRY_SAYS_ACTIVE, // active or taking over
    INQUIRY_SAYS_NOT,    // passive or stepped down
    INQUIRY_SILENT,      // asked throughout the span, no answer
    INQUIRY_IMPOSSIBLE,  // could not be asked at all; silence for whoever decides, but worth a line
};

// Asks the end `identity` of `pair` at `to`, from `from` (NULL: whatever the kernel chooses).
int inquiry_start(const struct ip *from, const struct ip *to, uint16_t port, const char *pair,
                  enum inquiry_identity identity, const uint8_t key[MAC_KEY_SIZE],
                  struct inquiry **ret_inquiry, struct error *err);
int inquiry_fd(const struct inquiry *inquiry);
int64_t inquiry_deadline_ns(const struct inquiry *inquiry); // INT64_MAX when decided
void inquiry_work(struct inquiry *inquiry);
// *ret_role (may be NULL) is set when the result is SAYS_ACTIVE or SAYS_NOT. "Active" decides at
// once; anything else stands only when the whole span has passed.
enum inquiry_result inquiry_result(const struct inquiry *inquiry, enum inquiry_role *ret_role);
struct inquiry *inquiry_free(struct inquiry *inquiry); // NULL-safe; returns NULL

#endif
