// SPDX-License-Identifier: Apache-2.0
// The session with an iSCSI target that carries SCSI commands to one LUN: connect, log in, learn
// what the LUN is, notice when the target is gone, come back. session.c is the only file that knows
// libiscsi; what requests become which commands is iscsi.c's business.
#ifndef STORE_SESSION_H
#define STORE_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/error.h"
#include "common/store/lun.h"
#include "common/store/store.h"

struct session;

enum scsi_kind {
    SCSI_READ,
    SCSI_WRITE,
    SCSI_WRITE_SAME,       // `data` is one block
    SCSI_WRITE_SAME_UNMAP, // the same, and the target may deallocate
    SCSI_UNMAP,
    SCSI_SYNC, // SYNCHRONIZE CACHE of the whole LUN
};

struct scsi_command {
    enum scsi_kind kind;
    uint64_t lba;
    uint32_t blocks;
    void *data;
    struct session *session; // the session's, and so is
    struct iovec iov;        // this
};

struct scsi_result {
    int status;     // SCSI status; 0 is good
    int sense_key;  // with a check condition
    int asc_ascq;   // likewise
    bool truncated; // good, but fewer bytes were transferred than asked for
};

// All are called from lun_session_work(), lun_session_push() or lun_session_free().
struct session_events {
    // The target has answered.
    void (*ended)(void *owner, struct scsi_command *command, const struct scsi_result *result);
    // The session broke before the answer: carried out or not, nobody knows. Nothing can be sent
    // from here.
    void (*returned)(void *owner, struct scsi_command *command);
    // A new session has asked what the LUN is. 0: go on; -errno with *why set: drop the session and
    // try again later.
    int (*probed)(void *owner, const struct lun_facts *facts, char *why, size_t why_size);
    // lun_session_is_up() holds from now on. Nothing of an earlier session is still running in the
    // target.
    void (*up)(void *owner);
    // While probing, the target said that it has been reset.
    void (*reset)(void *owner);
};

int lun_session_open(const struct store_config *config, const char *name,
                     const struct session_events *events, void *owner, struct session **ret_session,
                     struct error *err);
// Everything under way comes back through returned() first. NULL-safe, returns NULL.
struct session *lun_session_free(struct session *session);

bool lun_session_is_up(const struct session *session);
// Only while it is up. -errno: the session is lost and the command was not sent; it will not come
// back by itself.
int lun_session_send(struct session *session, struct scsi_command *command, uint32_t block_length);
// The owner has found out that the session is of no use.
void lun_session_lose(struct session *session, const char *why);

int lun_session_fd(const struct session *session);
int64_t lun_session_deadline_ns(const struct session *session);
void lun_session_work(struct session *session);
// Sends what was queued by lun_session_send(), and renews what lun_session_fd() waits for. To be
// called at the end of every turn, after lun_session_work() too.
void lun_session_push(struct session *session);

// Why it is not up, for people. Since when (CLOCK_BOOTTIME). Whether the last attempt ended in a
// way that more attempts will hardly change (wrong password, wrong size): -errno, otherwise 0.
const char *lun_session_why(const struct session *session);
int64_t lun_session_away_since_ns(const struct session *session);
int lun_session_refused(const struct session *session);

#endif
