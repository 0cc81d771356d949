// SPDX-License-Identifier: Apache-2.0
// The bytes of the channel's messages (docs/channel.md): a clear header before each, and what
// stands sealed in it. Pure functions: what came from outside is believed only after the *_parse()
// function here has accepted it.
#ifndef CHANNEL_FRAME_H
#define CHANNEL_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/bytes.h"
#include "common/channel/channel.h"

#define FRAME_MAGIC   UINT32_C(0x31435355) // "USC1"
#define FRAME_VERSION 1

enum frame_kind {
    FRAME_HANDSHAKE = 1, // one flight of the handshake
    FRAME_SEALED,        // a sealed message
    FRAME_RESET,         // "I do not know this nonce" (or, with nonce 0, "I am new here"); no body
    FRAME_KIND_END,
};

#define FRAME_FROM_INITIATOR 0x01 // flag

struct frame_header {
    struct le32 magic;
    uint8_t version;
    uint8_t kind;
    uint8_t side; // enum channel_side
    uint8_t path;
    struct le64 nonce;   // random, chosen by the initiator for each handshake; names the session
    struct le64 counter; // of a sealed message: from 1, rising by one in each direction; else 0
    struct le32 size;    // bytes behind this header
    uint8_t flags;
    uint8_t reserved[3]; // 0
};
_Static_assert(sizeof(struct frame_header) == 32, "a format of the wire");
_Static_assert(offsetof(struct frame_header, counter) == 16, "a format of the wire");

struct frame {
    enum frame_kind kind;
    enum channel_side side;
    unsigned path;
    bool from_initiator;
    uint64_t nonce, counter;
    uint32_t size;
};

void frame_fill(struct frame_header *to, const struct frame *frame);
// Returns NULL and fills *ret_frame, or the text of the first rule that the message breaks.
const char *frame_parse(const void *data, size_t size, struct frame *ret_frame);

// What stands in front of the contents of every sealed message, itself sealed.
enum frame_type {
    FRAME_HELLO = 1,
    FRAME_PING,
    FRAME_USER, // the user's bytes
    FRAME_BYE,  // the sender closes the link
    FRAME_TYPE_END,
};

#define FRAME_UNREAD 0x01 // flag: there is something that the sender's user has not received yet

struct frame_inner {
    uint8_t type;
    uint8_t flags;
    uint8_t reserved[6]; // 0
    struct le64 heard;   // the highest counter that the sender has received in this session
    struct le64
        number; // user messages that the sender's run has sent over this link, this one included
    struct le64 reserved2; // 0
};
_Static_assert(sizeof(struct frame_inner) == 32,
               "a format of the wire; keeps the user's bytes aligned");

#define FRAME_OVERHEAD (sizeof(struct frame_header) + sizeof(struct frame_inner) + 16)

// The first message of each session, both ways.
struct frame_hello {
    struct le32 protocol; // stands first in every version of this message
    struct le32 round;    // the sender's attempt to be heard
    struct le32 echo;     // the last round seen from the receiver
    uint8_t identity;
    uint8_t want_reply;
    uint8_t pair_size;
    uint8_t reserved; // 0
    struct le64 run;
    uint8_t digest[CHANNEL_DIGEST_SIZE];
    char pair[CHANNEL_NAME_MAX]; // zeros behind pair_size
};
_Static_assert(sizeof(struct frame_hello) == 120, "a format of the wire");

struct hello {
    uint32_t protocol, round, echo;
    enum channel_identity identity;
    bool want_reply;
    uint64_t run;
    uint8_t digest[CHANNEL_DIGEST_SIZE];
    char pair[CHANNEL_NAME_MAX + 1];
};

void hello_fill(struct frame_hello *to, const struct hello *hello);
// Returns NULL, or the first broken rule. Another protocol number is no error: then only `protocol`
// is filled.
const char *hello_parse(const void *data, size_t size, uint32_t own_protocol,
                        struct hello *ret_hello);

#endif
