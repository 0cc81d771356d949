// SPDX-License-Identifier: Apache-2.0
// The record: one entry of a pair's ordered stream. The same 64 header bytes stand on the wire, in the unsafe queue
// and in the safe queue; the payload, where there is one, stands apart from them (docs/records.md).
#ifndef QUEUES_RECORD_H
#define QUEUES_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/bytes.h"

#define RECORD_MAGIC       UINT32_C(0x31525355) // "USR1"
#define RECORD_VERSION     1
#define RECORD_PAYLOAD_MAX (32U * 1024 * 1024) // the largest request of an NBD client
#define RECORD_OBJECTS_MAX 64                  // volumes (and trees) of a pair
#define RECORD_EPOCH_MAX   4096                // the encoded epoch of a RECORD_EPOCH

enum record_type {
    RECORD_WRITE = 1, // payload -> [offset, offset + length); length == payload
    RECORD_ZERO,      // the range reads as zeros; no payload. Flag NO_HOLE keeps it allocated
    RECORD_DISCARD,   // the range reads as zeros and may be deallocated; no payload
    RECORD_MARK,      // something to know at this position (enum record_mark in `mark`); changes no data
    RECORD_EPOCH,     // an epoch was opened here; payload: the encoded epoch (epoch.h)
    RECORD_RESYNC,    // as WRITE, but carries what the range held all along, for a replica that lacks it
    RECORD_RESYNC_ZERO, // as ZERO, likewise
    RECORD_CHECK,     // payload: checksums of consecutive blocks from `offset` on; the answer names the ones that differ
    RECORD_TYPE_END,
};

enum record_mark {
    MARK_UNDEFINED = 1, // a write of this range failed on the active end: its content there is undefined.
                        // `offset`/`length` are the range, `status` the errno; in the other marks these are 0
    MARK_RESYNC_BEGIN,  // from here on the object's replica is inconsistent
    MARK_RESYNC_END,    // when this is applied and everything before it settled, the object is synchronized
    MARK_IDLE,          // nothing; carries a barrier where no update is at hand
    MARK_END,
};

// Flags.
#define RECORD_NO_HOLE 0x0001 // a RECORD_ZERO that must stay allocated
#define RECORD_COARSE  0x0002 // a RECORD_CHECK with a checksum for each CHECK_COARSE_SIZE, not CHECK_BLOCK_SIZE

struct record {
    struct le32 magic;
    uint8_t version;
    uint8_t type;         // enum record_type
    uint8_t mark;         // enum record_mark for RECORD_MARK, else 0
    uint8_t flags;
    struct le64 epoch;    // id of the epoch in which it was numbered
    struct le64 seq;      // position in the pair's stream; from 1
    struct le16 object;   // index of the volume in the pair file
    struct le16 status;   // the completion: 0, or the errno with which the local update failed (MARK_UNDEFINED)
    struct le32 header_sum; // checksum32 of the header with this field zero
    struct le64 offset;   // bytes
    struct le32 length;   // bytes of the range
    struct le32 payload;  // bytes of payload
    struct le64 time;     // CLOCK_REALTIME ns at numbering, but for its steps in that run: for ages
    struct le64 payload_sum; // checksum64 of the payload; 0 where there is none
};
_Static_assert(sizeof(struct record) == 64, "a format of wire and disk");
_Static_assert(offsetof(struct record, offset) == 32, "a format of wire and disk");
_Static_assert(offsetof(struct record, payload_sum) == 56, "a format of wire and disk");

// Fills `header_sum` (and magic and version). Everything else is set already.
void record_seal(struct record *record);

// Checks a header that came from outside. Returns NULL, or the text of the first rule that it breaks. After NULL,
// type, mark, object (below RECORD_OBJECTS_MAX), offset + length (no wrap) and payload (at most RECORD_PAYLOAD_MAX and
// as the type demands) may be relied on.
const char *record_invalid(const struct record *record);

// Whether `data` (record->payload bytes) is the payload that this valid header was sealed with.
int record_payload_matches(const struct record *record, const void *data);

const char *record_type_name(unsigned type);

#endif
