// SPDX-License-Identifier: Apache-2.0
// The floor: the work of a pair's data path without its bookkeeping, so that a figure of a pair can be told from what two
// processes can do at all. `floor active` serves a file to NBD clients and sends what is written over raw TCP; `floor
// passive` appends it to a preallocated file and writes it to a replica. One thread each (and one that syncs what nobody
// waits for), no nanomsg, no queue that outlives anything, no checksums, nothing sent again: it protects nothing.
//
// What it shares with a pair, because it is the work itself: a write is received once and answered when the local file
// has it; writes linger for 0.8 ms, or 256 KiB, or until a flush; a batch is sealed with AES-256-GCM from where the
// payloads lie; the other end opens it, appends it with one call, syncs each MiB, and writes each record to the replica; a
// flush is answered when both ends have synced. It may apply before it has synced, which a pair must not.
//
// Failure mode: any trouble ends the process with a line that says where.
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define FLOOR_BATCH_BYTES (256u << 10) // a batch is closed by so much payload
#define FLOOR_RECORDS_MAX 256u         // of one batch
#define FLOOR_REQUEST_MAX (1u << 20)   // the largest write of a client
#define FLOOR_MESSAGE_MAX                                                                          \
    (FLOOR_BATCH_BYTES + FLOOR_REQUEST_MAX + FLOOR_RECORDS_MAX * sizeof(struct floor_record))

// In front of the payloads of a message, as many as it says; of the size of a pair's record.
struct floor_record {
    uint64_t offset;
    uint32_t length;
    uint8_t unused[52];
};

// In front of each message on the wire, in the machine's own byte order: both ends are on one.
struct floor_head {
    uint32_t size;    // of what follows, with the tag where it is sealed
    uint32_t records; // 0: an acknowledgement
    uint64_t nonce;
    uint64_t seq;     // of the last record; or up to where the passive end has synced
    uint64_t barrier; // an acknowledgement is wanted
};

// One connection; of one thread.
struct floor_wire {
    int fd;
    void *cipher; // NULL: in clear
    uint64_t sent, received;
    uint8_t *out, *in; // what the socket did not take; what came and was not taken
    size_t out_from, out_to;
    size_t in_from, in_to;
};

// Connects to, or (`listen`) waits for the one connection from `port` of an IPv4 address.
void floor_wire_open(struct floor_wire *wire, const char *address, uint16_t port, bool listen,
                     bool clear);
// iov[0] is kept free for the head. At most FLOOR_MESSAGE_MAX bytes.
void floor_wire_send(struct floor_wire *wire, struct floor_head head, struct iovec *iov, int count);
void floor_wire_push(struct floor_wire *wire);            // what the socket did not take before
size_t floor_wire_backlog(const struct floor_wire *wire); // bytes of that
void floor_wire_fill(struct floor_wire *wire);            // one receive
// The next whole message, opened into `plain`, which takes FLOOR_MESSAGE_MAX. False: none has come.
bool floor_wire_take(struct floor_wire *wire, struct floor_head *ret_head, uint8_t *plain);

int64_t floor_now_ns(void);
void floor_active(struct floor_wire *wire, const char *volume, const char *socket_path,
                  bool strict);
void floor_passive(struct floor_wire *wire, const char *replica, const char *queue);

#endif
