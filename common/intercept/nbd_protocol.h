// SPDX-License-Identifier: Apache-2.0
// Numbers and byte order of the NBD protocol: the fixed newstyle handshake and its options,
// requests, simple and structured replies. For the nbd_*.c files only.
#ifndef INTERCEPT_NBD_PROTOCOL_H
#define INTERCEPT_NBD_PROTOCOL_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define NBD_MAGIC         UINT64_C(0x4e42444d41474943) // "NBDMAGIC"
#define NBD_OPTION_MAGIC  UINT64_C(0x49484156454f5054) // "IHAVEOPT"
#define NBD_ANSWER_MAGIC  UINT64_C(0x0003e889045565a9) // of an option's reply
#define NBD_REQUEST_MAGIC UINT32_C(0x25609513)
#define NBD_SIMPLE_MAGIC  UINT32_C(0x67446698)
#define NBD_CHUNK_MAGIC   UINT32_C(0x668e33ef)

// Flags of the handshake, the same bits from server and client.
#define NBD_FIXED_NEWSTYLE 0x1
#define NBD_NO_ZEROES      0x2

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT,
    NBD_OPT_LIST,
    NBD_OPT_PEEK,
    NBD_OPT_STARTTLS,
    NBD_OPT_INFO,
    NBD_OPT_GO,
    NBD_OPT_STRUCTURED_REPLY,
    NBD_OPT_LIST_META_CONTEXT,
    NBD_OPT_SET_META_CONTEXT,
};

#define NBD_REP_ACK          UINT32_C(1)
#define NBD_REP_SERVER       UINT32_C(2)
#define NBD_REP_INFO         UINT32_C(3)
#define NBD_REP_META_CONTEXT UINT32_C(4)
#define NBD_REP_ERR_UNSUP    UINT32_C(0x80000001)
#define NBD_REP_ERR_POLICY   UINT32_C(0x80000002)
#define NBD_REP_ERR_INVALID  UINT32_C(0x80000003)
#define NBD_REP_ERR_UNKNOWN  UINT32_C(0x80000006)
#define NBD_REP_ERR_TOO_BIG  UINT32_C(0x80000009)

enum nbd_info { NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE };

// Flags of an export.
#define NBD_HAS_FLAGS         0x001
#define NBD_SEND_FLUSH        0x004
#define NBD_SEND_FUA          0x008
#define NBD_SEND_TRIM         0x020
#define NBD_SEND_WRITE_ZEROES 0x040
#define NBD_SEND_DF           0x080
#define NBD_CAN_MULTI_CONN    0x100
#define NBD_SEND_FAST_ZERO    0x800

enum nbd_command {
    NBD_CMD_READ,
    NBD_CMD_WRITE,
    NBD_CMD_DISC,
    NBD_CMD_FLUSH,
    NBD_CMD_TRIM,
    NBD_CMD_CACHE,
    NBD_CMD_WRITE_ZEROES,
    NBD_CMD_BLOCK_STATUS,
};

// Flags of a request.
#define NBD_FUA       0x01
#define NBD_NO_HOLE   0x02
#define NBD_DF        0x04
#define NBD_REQ_ONE   0x08
#define NBD_FAST_ZERO 0x10

#define NBD_CHUNK_DONE         0x1 // flag: the last chunk of its reply
#define NBD_CHUNK_DATA         1
#define NBD_CHUNK_BLOCK_STATUS 5
#define NBD_CHUNK_ERROR        0x8001

enum nbd_error {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_ENOTSUP = 95,
};

#define NBD_STATE_HOLE 0x1
#define NBD_STATE_ZERO 0x2

#define NBD_OPTION_HEADER  16
#define NBD_REQUEST_HEADER 28
#define NBD_SIMPLE_HEADER  16
#define NBD_CHUNK_HEADER   20

static inline uint16_t be16_get(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return be16toh(v);
}

static inline uint32_t be32_get(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static inline uint64_t be64_get(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

// These return where the next field goes.
static inline uint8_t *be16_put(uint8_t *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, sizeof(v));
    return p + sizeof(v);
}

static inline uint8_t *be32_put(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
    return p + sizeof(v);
}

static inline uint8_t *be64_put(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
    return p + sizeof(v);
}

#endif
