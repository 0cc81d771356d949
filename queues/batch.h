// SPDX-License-Identifier: Apache-2.0
// What travels on a data link (docs/records.md): batches of records one way, acknowledgements and answers the other
// way. A batch of records is also the unit in which the safe queue stores them: the same bytes.
//
// Layout of a batch of records: struct batch, then `count` record headers, then their payloads one behind the other in
// the same order, nothing between them. Records of a batch have consecutive seqs from `first_seq`.
#ifndef QUEUES_BATCH_H
#define QUEUES_BATCH_H

#include "queues/record.h"

#define BATCH_MAGIC         UINT32_C(0x42525355) // "USRB"
#define BATCH_VERSION       1
#define BATCH_RECORDS_MAX   4096
#define BATCH_BYTES_TARGET  (256U * 1024) // a sender closes a batch when its payloads reach this
// A batch holds more than the target only for the one record that crosses it.
#define BATCH_PAYLOAD_MAX   (BATCH_BYTES_TARGET + RECORD_PAYLOAD_MAX)
#define BATCH_MESSAGE_MAX                                                                          \
    (sizeof(struct batch) + BATCH_RECORDS_MAX * sizeof(struct record) + BATCH_PAYLOAD_MAX)
#define CHECK_BLOCK_SIZE    4096U // what one checksum of a RECORD_CHECK covers (the last one may be shorter),
#define CHECK_COARSE_SIZE   65536U // and with RECORD_COARSE
#define CHECK_BLOCKS_MAX    1024U

enum batch_kind {
    BATCH_RECORDS = 1, // active -> passive
    BATCH_ACK,         // passive -> active: struct batch_ack
    BATCH_ANSWER,      // passive -> active: struct batch_answer, then the bitmap
};

// Flags of BATCH_RECORDS.
#define BATCH_BARRIER 0x0001 // make everything up to the end of this batch durable now, and say so

struct batch {
    struct le32 magic;
    uint8_t version;
    uint8_t kind; // BATCH_RECORDS
    struct le16 flags;
    struct le64 session;
    struct le64 first_seq; // of the first record; of the next one to come where count is 0
    struct le32 count;     // records; 0 only with BATCH_BARRIER
    struct le32 bytes;     // of all payloads together
    struct le64 promised;  // what the sender has seen confirmed as durable: a hole below it is damage, not a torn tail
    struct le64 barrier;   // with BATCH_BARRIER: its number in this session, rising from 1; else 0
    struct le64 reserved;  // zero
    struct le32 reserved2; // zero
    struct le32 header_sum; // checksum32 of this header, taken while this field holds the checksum32 of all record
                            // headers together (so that nobody has to put them together to sum them)
};
_Static_assert(sizeof(struct batch) == 64, "a format of wire and disk");

// Flags of BATCH_ACK.
#define ACK_RESEND 0x0001 // something was lost on the way: go on from received + 1
#define ACK_FAILED 0x0002 // the passive end cannot go on (its safe queue or replica failed); `error` says why
#define ACK_FULL   0x0004 // its safe queue is full for now

struct batch_ack {
    struct le32 magic;
    uint8_t version;
    uint8_t kind; // BATCH_ACK
    struct le16 flags;
    struct le64 session;
    struct le64 received; // positions, cumulative: received >= durable >= applied >= settled
    struct le64 durable;
    struct le64 applied;
    struct le64 settled;
    struct le64 barrier; // the newest barrier that is done
    struct le32 error;   // errno with ACK_FAILED, else 0
    struct le32 header_sum;
};
_Static_assert(sizeof(struct batch_ack) == 64, "a format of the wire");

// The answer to a RECORD_CHECK: bit i of the bitmap (byte i / 8, bit i % 8) is set when block i differs, or cannot be
// read, on the replica at that position of the stream. Of a coarse check all blocks of a unit that differs.
struct batch_answer {
    struct le32 magic;
    uint8_t version;
    uint8_t kind; // BATCH_ANSWER
    struct le16 object;
    struct le64 session;
    struct le64 seq;
    struct le64 offset;
    struct le32 blocks; // at most CHECK_BLOCKS_MAX
    struct le32 header_sum; // likewise: of this header while this field holds the checksum32 of the bitmap
};
_Static_assert(sizeof(struct batch_answer) == 40, "a format of the wire");

// Seals headers. `records` are the record headers that follow in the message.
void batch_seal(struct batch *batch, const struct record *records);
void batch_ack_seal(struct batch_ack *ack);
void batch_answer_seal(struct batch_answer *answer, const uint8_t *bitmap);

// Check a whole message from outside. NULL when it is well-formed (sizes add up, sums of the headers are right, every
// record header is valid and consecutive); else the text of the first rule that it breaks. Payload sums are checked
// record by record by record_payload_matches().
const char *batch_invalid(const void *message, size_t size);
const char *batch_ack_invalid(const void *message, size_t size);
const char *batch_answer_invalid(const void *message, size_t size);

// The bytes that one checksum of a RECORD_CHECK covers.
uint32_t check_unit(const struct record *record);
// The payload of a RECORD_CHECK of these bytes, one struct le64 for each `unit` of them; NULL: they are zeros, and nobody
// has to read them. The sums may be put where the data is. Returns their bytes.
uint32_t check_sums(const void *data, uint32_t length, uint32_t unit, void *ret_sums);

#endif
