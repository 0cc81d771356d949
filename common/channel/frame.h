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
    FRAME_BUNDLE,        // sealed messages of several channels, each behind a frame_entry; the nonce is of a session of the
                         // link whose connection carries it
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

// Stands before each message of a bundle.
struct frame_entry {
    struct le32 slot; // the channel that it is for, as the receiver's hello has named it
    struct le32 size; // bytes of the message; behind it zeros up to the next multiple of 8
};
_Static_assert(sizeof(struct frame_entry) == 8, "a format of the wire; keeps the messages aligned");

size_t frame_entry_whole(size_t size); // of a message in a bundle, with its entry and the zeros
void frame_entry_fill(uint8_t *to, uint32_t slot, size_t size); // everything but the message itself
// Takes the message at *at out of the contents of a bundle, and moves *at behind it. Returns false at the end, and at what
// is no message: then *at is not `size`.
bool frame_entry_next(uint8_t *data, size_t size, size_t *at, uint32_t *ret_slot, uint8_t **ret_message, size_t *ret_size);

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
    struct le64 heard;   // the highest counter that the sender has received in this session over this link's own connection
    struct le64
        number; // user messages that the sender's run has sent over this link, this one included
    struct le64 reserved2; // 0
};
_Static_assert(sizeof(struct frame_inner) == 32,
               "a format of the wire; keeps the user's bytes aligned");

#define FRAME_OVERHEAD   (sizeof(struct frame_header) + sizeof(struct frame_inner) + 16)
#define FRAME_BUNDLE_MAX (CHANNEL_CONTROL_MAX + FRAME_OVERHEAD) // bytes of a bundle, all in all: as of one control message

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
    struct le64 home; // names the sender's process, if it takes bundles; else 0
    struct le32 slot; // there, of this channel
    struct le32 reserved2; // 0
};
_Static_assert(sizeof(struct frame_hello) == 136, "a format of the wire");

struct hello {
    uint32_t protocol, round, echo;
    enum channel_identity identity;
    bool want_reply;
    uint64_t run;
    uint8_t digest[CHANNEL_DIGEST_SIZE];
    char pair[CHANNEL_NAME_MAX + 1];
    uint64_t home;
    uint32_t slot;
};

void hello_fill(struct frame_hello *to, const struct hello *hello);
// Returns NULL, or the first broken rule. Another protocol number is no error: then only `protocol`
// is filled.
const char *hello_parse(const void *data, size_t size, uint32_t own_protocol,
                        struct hello *ret_hello);

#endif
