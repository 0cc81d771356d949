// SPDX-License-Identifier: Apache-2.0
// What link.c and session.c share; nobody else includes it.
#ifndef CHANNEL_LINK_PRIVATE_H
#define CHANNEL_LINK_PRIVATE_H

#include "common/channel/link.h"

static inline bool link_initiates(const struct link *l)
{
    return l->settings->identity == CHANNEL_PRIMARY;
}

// session.c
struct session *session_free(struct session *session);
struct session *session_in_use(const struct link *l); // for sending; NULL: none
int session_send_clear(struct link *l, enum frame_kind kind, uint64_t nonce, const void *body,
                       size_t size);
// Likewise; it waits for the next bundle.
int session_send_soon(struct link *l, struct session *session, const struct iovec *iov, size_t size, int64_t now);
int session_send(struct link *l, struct session *session, enum frame_type type,
                 const struct iovec *iov, int n, size_t size, int64_t now);
void attempt_start(struct link *l, int64_t now);
void attempts_expire(struct link *l, int64_t now);
void attempts_clear(struct link *l);

// link.c
void link_established(struct link *l, int64_t now); // `current` is new
void link_refused(struct link *l, bool strangers, const char *why, int64_t now);
void link_hasten(struct link *l, int64_t now); // the peer seems to be there: connect to it now

#endif
