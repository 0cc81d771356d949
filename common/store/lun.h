// SPDX-License-Identifier: Apache-2.0
// What is known about a SCSI LUN and what follows from its answers: decoding of the pages that are
// asked at login, the meaning of a failed command, the pace of reconnecting. No library and no I/O;
// iscsi.c and session.c talk to the target.
#ifndef STORE_LUN_H
#define STORE_LUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

#define LUN_ID_MAX 256

struct lun_facts {
    uint64_t blocks;
    uint32_t block_length;   // bytes, power of two, 512 to 65536
    uint32_t max_transfer;   // blocks in one READ or WRITE; 0: not stated
    uint64_t max_write_same; // blocks; 0: not stated
    uint32_t max_unmap;      // blocks in one UNMAP; 0: not stated
    bool write_protected;    // the medium or LUN cannot be written
    bool volatile_cache;     // answered writes may be lost at power off until synchronized
    bool unmapped_zero;      // unmapped blocks read as zeros (LBPRZ)
    bool unmap;              // UNMAP is offered (LBPU)
    bool write_same_unmap;   // WRITE SAME(16) with UNMAP is offered (LBPWS)
    size_t id_size;          // device identification, to know it again; 0: it has none
    uint8_t id[LUN_ID_MAX];
};

// Decoders of what the target sent (`data` of `size` bytes, nothing of it trusted). 0, or -EPROTO:
// too short or not to be believed; *facts is then unchanged.
int lun_decode_capacity(const uint8_t *data, size_t size, struct lun_facts *facts);
int lun_decode_caching(const uint8_t *data, size_t size, struct lun_facts *facts);
int lun_decode_id(const uint8_t *data, size_t size, struct lun_facts *facts);
int lun_decode_limits(const uint8_t *data, size_t size, struct lun_facts *facts);
int lun_decode_provisioning(const uint8_t *data, size_t size, struct lun_facts *facts);

enum lun_verdict {
    LUN_FAIL,        // the request ends with the error
    LUN_AGAIN,       // send it again now
    LUN_LATER,       // send it again in a moment
    LUN_UNSUPPORTED, // this command or form of it is not offered: use another
    LUN_GONE,        // the LUN is not there (any more): count as disconnected
};

// The SCSI status byte and sense of a command that did not end well -> what to do. *ret_error is
// the -errno for LUN_FAIL; *ret_reset: the target came back as after power on.
enum lun_verdict lun_judge(int status, int sense_key, int asc_ascq, int *ret_error,
                           bool *ret_reset);
// For people: the same in words.
const char *lun_failure_text(int status, int sense_key, int asc_ascq);

// How long to wait before attempt number `attempt` (from 0): doubling from 100 ms to 3 s, a quarter
// of it at random.
int64_t lun_backoff_ns(unsigned attempt, uint64_t random);

// The URL without user and password, for texts.
void lun_public_name(const char *url, char *buffer, size_t size);

#endif
