// SPDX-License-Identifier: Apache-2.0
#include "common/store/lun.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define BACKOFF_FIRST_NS (100 * NS_PER_MS)
#define BACKOFF_MAX_NS   (3 * NS_PER_S)

// SPC and SBC, big-endian throughout.
#define STATUS_CHECK_CONDITION      0x02
#define STATUS_BUSY                 0x08
#define STATUS_RESERVATION_CONFLICT 0x18
#define STATUS_TASK_SET_FULL        0x28
#define STATUS_ACA_ACTIVE           0x30
#define STATUS_TASK_ABORTED         0x40

#define SENSE_NOT_READY       0x2
#define SENSE_MEDIUM_ERROR    0x3
#define SENSE_ILLEGAL_REQUEST 0x5
#define SENSE_UNIT_ATTENTION  0x6
#define SENSE_DATA_PROTECT    0x7
#define SENSE_ABORTED_COMMAND 0xb

#define ASC_INVALID_OPCODE 0x2000
#define ASC_LBA_RANGE      0x2100
#define ASC_INVALID_CDB    0x2400
#define ASC_NO_SUCH_LUN    0x2500
#define ASC_INVALID_PARAM  0x2600
#define ASC_SPACE_FAILED   0x2707
#define ASC_POWER_ON_RESET 0x2900 // power on, or some reset
#define ASC_POWER_ON       0x2901
#define ASC_INTERNAL_RESET 0x2904
#define ASC_NO_MEDIUM      0x3a // the upper byte

static uint32_t be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t be32(const uint8_t *p)
{
    return be16(p) << 16 | be16(p + 2);
}

static uint64_t be64(const uint8_t *p)
{
    return (uint64_t)be32(p) << 32 | be32(p + 4);
}

// READ CAPACITY(16)
int lun_decode_capacity(const uint8_t *data, size_t size, struct lun_facts *facts)
{
    if (size < 12)
        return -EPROTO;
    uint64_t last = be64(data);
    uint32_t length = be32(data + 8);
    if (length < 512 || length > 65536 || (length & (length - 1)) != 0 ||
        last >= (uint64_t)INT64_MAX / length)
        return -EPROTO;
    facts->blocks = last + 1;
    facts->block_length = length;
    facts->unmapped_zero = size >= 15 && (data[14] & 0x40);
    return 0;
}

// MODE SENSE(6) of page 8. The write protection stands in its header; the page itself may be
// missing.
int lun_decode_caching(const uint8_t *data, size_t size, struct lun_facts *facts)
{
    if (size < 4)
        return -EPROTO;
    facts->write_protected = data[2] & 0x80;
    size_t page = 4u + data[3];
    facts->volatile_cache = page + 3 <= size && (data[page] & 0x3f) == 8 && (data[page + 2] & 0x04);
    return 0;
}

// The bytes of a vital product data page that are there, header included; 0 when it is not this
// page.
static size_t page_size(const uint8_t *data, size_t size, uint8_t code)
{
    if (size < 4 || data[1] != code)
        return 0;
    return MIN(size, 4u + be16(data + 2));
}

int lun_decode_id(const uint8_t *data, size_t size, struct lun_facts *facts)
{
    size_t end = page_size(data, size, 0x83);
    if (end < 4)
        return -EPROTO;
    facts->id_size = MIN(end, (size_t)LUN_ID_MAX);
    memcpy(facts->id, data, facts->id_size);
    return 0;
}

int lun_decode_limits(const uint8_t *data, size_t size, struct lun_facts *facts)
{
    size_t end = page_size(data, size, 0xb0);
    if (end < 16)
        return -EPROTO;
    facts->max_transfer = be32(data + 8);
    facts->max_unmap = end >= 24 ? be32(data + 20) : 0;
    facts->max_write_same = end >= 44 ? be64(data + 36) : 0;
    return 0;
}

int lun_decode_provisioning(const uint8_t *data, size_t size, struct lun_facts *facts)
{
    if (page_size(data, size, 0xb2) < 8)
        return -EPROTO;
    facts->unmap = data[5] & 0x80;
    facts->write_same_unmap = data[5] & 0x40;
    if ((data[5] >> 2) & 1)
        facts->unmapped_zero = true;
    return 0;
}

struct sense_rule {
    int key;
    int mask; // of ASC and ASCQ
    int code;
    enum lun_verdict verdict;
    int error;
    const char *text;
};

// The first row that fits counts.
static const struct sense_rule rules[] = {
    {SENSE_NOT_READY, 0xff00, ASC_NO_MEDIUM << 8, LUN_GONE, -ENOMEDIUM, "no medium"},
    {SENSE_NOT_READY, 0, 0, LUN_LATER, -EIO, "the LUN is not ready"},
    {SENSE_MEDIUM_ERROR, 0, 0, LUN_FAIL, -EIO, "medium error"},
    {SENSE_ILLEGAL_REQUEST, 0xffff, ASC_NO_SUCH_LUN, LUN_GONE, -ENXIO, "no such LUN"},
    {SENSE_ILLEGAL_REQUEST, 0xffff, ASC_LBA_RANGE, LUN_FAIL, -ENXIO, "beyond the LUN's end"},
    {SENSE_ILLEGAL_REQUEST, 0xffff, ASC_INVALID_OPCODE, LUN_UNSUPPORTED, -EOPNOTSUPP,
     "command not supported"},
    {SENSE_ILLEGAL_REQUEST, 0xffff, ASC_INVALID_CDB, LUN_UNSUPPORTED, -EOPNOTSUPP,
     "form of the command not supported"},
    {SENSE_ILLEGAL_REQUEST, 0xffff, ASC_INVALID_PARAM, LUN_UNSUPPORTED, -EOPNOTSUPP,
     "parameter not supported"},
    {SENSE_ILLEGAL_REQUEST, 0, 0, LUN_FAIL, -EIO, "illegal request"},
    {SENSE_UNIT_ATTENTION, 0, 0, LUN_AGAIN, -EIO, "unit attention"},
    {SENSE_DATA_PROTECT, 0xffff, ASC_SPACE_FAILED, LUN_FAIL, -ENOSPC,
     "the target has no space left"},
    {SENSE_DATA_PROTECT, 0, 0, LUN_FAIL, -EROFS, "the LUN is write-protected"},
    {SENSE_ABORTED_COMMAND, 0, 0, LUN_AGAIN, -EIO, "command aborted"},
    {0, 0, 0, LUN_FAIL, -EIO, "the target reports an error"}, // any other key
};

static const struct sense_rule *find_rule(int key, int code)
{
    const struct sense_rule *rule = rules;
    while (rule->key != 0 && !(rule->key == key && (code & rule->mask) == rule->code))
        rule++;
    return rule;
}

// Resets of a bus or by a task management function leave a cache alone.
static bool may_lose_cache(int asc_ascq)
{
    return asc_ascq == ASC_POWER_ON_RESET || asc_ascq == ASC_POWER_ON ||
           asc_ascq == ASC_INTERNAL_RESET;
}

enum lun_verdict lun_judge(int status, int sense_key, int asc_ascq, int *ret_error, bool *ret_reset)
{
    *ret_error = -EIO;
    *ret_reset = false;
    switch (status) {
    case STATUS_CHECK_CONDITION: {
        const struct sense_rule *rule = find_rule(sense_key, asc_ascq);
        *ret_error = rule->error;
        *ret_reset = sense_key == SENSE_UNIT_ATTENTION && may_lose_cache(asc_ascq);
        return rule->verdict;
    }
    case STATUS_RESERVATION_CONFLICT:
        *ret_error = -EBADE; // what Linux makes of it; nothing else does
        return LUN_FAIL;
    case STATUS_BUSY:
    case STATUS_TASK_SET_FULL:
    case STATUS_ACA_ACTIVE:
        return LUN_LATER;
    case STATUS_TASK_ABORTED:
        return LUN_AGAIN;
    default:
        return LUN_FAIL;
    }
}

const char *lun_failure_text(int status, int sense_key, int asc_ascq)
{
    switch (status) {
    case STATUS_CHECK_CONDITION:
        return find_rule(sense_key, asc_ascq)->text;
    case STATUS_RESERVATION_CONFLICT:
        return "reservation conflict: another initiator holds a reservation on the LUN";
    case STATUS_BUSY:
    case STATUS_TASK_SET_FULL:
    case STATUS_ACA_ACTIVE:
        return "the target is busy";
    case STATUS_TASK_ABORTED:
        return "the target aborted the command";
    default:
        return "the target reports an error";
    }
}

int64_t lun_backoff_ns(unsigned attempt, uint64_t random)
{
    int64_t wait = BACKOFF_MAX_NS;
    if (attempt < 5)
        wait = MIN(BACKOFF_FIRST_NS << attempt, BACKOFF_MAX_NS);
    return wait - wait / 4 + (int64_t)(random % (uint64_t)(wait / 4));
}

void lun_public_name(const char *url, char *buffer, size_t size)
{
    const char *scheme = "iscsi://";
    const char *rest = strncmp(url, scheme, strlen(scheme)) == 0 ? url + strlen(scheme) : url;
    const char *slash = strchr(rest, '/');
    // A password may hold any character but these two, so the last @ in front of the target ends
    // it.
    for (const char *p = rest; *p && p != slash; p++)
        if (*p == '@')
            rest = p + 1;
    (void)snprintf(buffer, size, "%s%s", scheme, rest);
}
