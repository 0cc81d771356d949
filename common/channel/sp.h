// SPDX-License-Identifier: Apache-2.0
// Messages in a stream of bytes as nanomsg's TCP mapping has them ("SP", version 0): a greeting of 8 bytes from either side,
// then messages, each with its length, 8 bytes big-endian, before it. Pure: the bytes are read by somebody else.
//
// Invariants: nothing is allocated for a length that was not accepted; no message is handed out before the greeting was seen
// to be right; after the first thing that is wrong nothing more is handed out.
#ifndef CHANNEL_SP_H
#define CHANNEL_SP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define SP_GREETING 8 // bytes
#define SP_LENGTH   8 // bytes
#define SP_PUSH     80
#define SP_PULL     81

void sp_greeting_make(uint16_t protocol, uint8_t to[SP_GREETING]);
bool sp_greeting_is(const uint8_t from[SP_GREETING], uint16_t protocol);
void sp_length_make(uint64_t size, uint8_t to[SP_LENGTH]);

// What comes in on one connection. Its user reads into sp_room(), says so with sp_got(), and takes messages with sp_next()
// until that says -EAGAIN; and over again.
struct sp_in;
struct sp_in *sp_in_new(uint16_t protocol); // whose greeting has to come first; NULL: no memory
struct sp_in *sp_in_free(struct sp_in *in); // NULL-safe

// Where to read next, all of it at once or any beginning of it: the rest of a message first, if one has begun, and what comes
// behind. Returns the number of pieces, 1 or 2.
#define SP_PIECES 2
int sp_room(struct sp_in *in, struct iovec ret_iov[SP_PIECES]);
void sp_got(struct sp_in *in, size_t size); // so much of it was filled

// The next whole message, to be freed with free(); malloc() has aligned it. `size_max`: of this one. -EAGAIN: more bytes are wanted; -EPROTO: not this
// protocol, or too large; -ENOMEM. After an error but -EAGAIN the connection is of no use any more.
int sp_next(struct sp_in *in, size_t size_max, void **ret_message, size_t *ret_size);

#endif
