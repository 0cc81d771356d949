// SPDX-License-Identifier: Apache-2.0
// The handshake: what a client says before it has chosen the export. One option at a time: the next
// one is read when the answers to the last one were sent, so `out` never holds more than those.
// Nothing is read past the handshake: what follows belongs to nbd_receive.c.
//
// While the server refuses, a client may still ask what it likes, but gets into no export: INFO, GO
// and LIST are answered with the reason, EXPORT_NAME, which knows no answer, closes.
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/intercept/nbd_private.h"

#define OPTIONS_A_TURN  16
#define CONTEXT         "base:allocation"
#define CONTEXT_ID      1
#define PREFERRED_BLOCK 4096

_Static_assert(NBD_OUT_BYTES >= 3 * 20 + 12 + 14 + 2 * (NBD_NAME_MAX + 8) + NBD_WHY_MAX + 20 + 128,
               "the answers to one option fit");

// ---- Sending ----

static uint8_t *out_room(struct nbd_conn *c, size_t bytes)
{
    ENSURE(bytes <= NBD_OUT_BYTES - c->out_bytes);
    uint8_t *at = c->out + c->out_bytes;
    c->out_bytes += (uint32_t)bytes;
    return at;
}

static uint8_t *answer_room(struct nbd_conn *c, uint32_t type, size_t bytes)
{
    uint8_t *at = out_room(c, 20 + bytes);
    at = be64_put(at, NBD_ANSWER_MAGIC);
    at = be32_put(at, c->option);
    at = be32_put(at, type);
    return be32_put(at, (uint32_t)bytes);
}

static void answer(struct nbd_conn *c, uint32_t type, const char *text)
{
    size_t bytes = strlen(text);
    memcpy(answer_room(c, type, bytes), text, bytes);
}

void nbd_handshake_send(struct nbd_conn *c)
{
    while (c->out_sent < c->out_bytes) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_bytes - c->out_sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            nbd_conn_drop(c, NULL);
            return;
        }
        if (n < 0)
            break;
        c->out_sent += (uint32_t)n;
    }
    if (c->out_sent == c->out_bytes)
        c->out_sent = c->out_bytes = 0;
    nbd_conn_interest(c);
}

void nbd_handshake_greet(struct nbd_conn *c)
{
    uint8_t *at = out_room(c, 18);
    at = be64_put(at, NBD_MAGIC);
    at = be64_put(at, NBD_OPTION_MAGIC);
    (void)be16_put(at, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
    nbd_handshake_send(c);
}

// ---- Into the export ----

static uint16_t export_flags(const struct nbd_conn *c)
{
    uint16_t flags = NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_FUA | NBD_SEND_TRIM |
                     NBD_SEND_WRITE_ZEROES | NBD_CAN_MULTI_CONN | NBD_SEND_FAST_ZERO;
    return c->structured ? flags | NBD_SEND_DF : flags;
}

static void enter(struct nbd_conn *c)
{
    c->state = NBD_SERVING;
    c->deadline_ns = INT64_MAX;
    nbd_note(c->nbd, c->listener, "client %u (process %d) has connected", c->id, (int)c->pid);
}

static void option_export_name(struct nbd_conn *c)
{
    const struct nbd_listener *l = nbd_find(c->nbd, c, c->in, c->option_bytes);
    if (!c->nbd->unsafe) {
        nbd_conn_drop(c, "is refused: %s", c->nbd->why);
        return;
    }
    if (!l) {
        nbd_conn_drop(c, "is refused: it asked for another export");
        return;
    }
    uint8_t *at = out_room(c, c->no_zeroes ? 10 : 134);
    at = be64_put(at, l->size);
    at = be16_put(at, export_flags(c));
    if (!c->no_zeroes)
        memset(at, 0, 124);
    enter(c);
}

// ---- INFO and GO ----

struct choice {
    const uint8_t *name;
    uint32_t bytes;
    bool wants_name;
};

static int read_choice(const struct nbd_conn *c, struct choice *ret)
{
    struct byte_reader r = byte_reader(c->in, c->option_bytes);
    const uint8_t *p = byte_take(&r, 4);
    struct choice choice = {.bytes = p ? be32_get(p) : 0};
    choice.name = byte_take(&r, choice.bytes);
    p = byte_take(&r, 2);
    uint16_t infos = p ? be16_get(p) : 0;
    for (unsigned i = 0; i < infos && (p = byte_take(&r, 2)); i++)
        choice.wants_name |= be16_get(p) == NBD_INFO_NAME;
    if (r.bad || r.left > 0)
        return -EINVAL;
    *ret = choice;
    return 0;
}

static void answer_infos(struct nbd_conn *c, const struct nbd_listener *l, bool wants_name)
{
    uint8_t *at = answer_room(c, NBD_REP_INFO, 12);
    at = be16_put(at, NBD_INFO_EXPORT);
    at = be64_put(at, l->size);
    (void)be16_put(at, export_flags(c));

    at = answer_room(c, NBD_REP_INFO, 14);
    at = be16_put(at, NBD_INFO_BLOCK_SIZE);
    at = be32_put(at, l->data_align);
    at = be32_put(at, PREFERRED_BLOCK);
    (void)be32_put(at, c->nbd->payload_max & ~(uint32_t)(PREFERRED_BLOCK - 1));
    if (!wants_name)
        return;
    size_t bytes = strlen(l->name);
    at = answer_room(c, NBD_REP_INFO, 2 + bytes);
    memcpy(be16_put(at, NBD_INFO_NAME), l->name, bytes);
}

static void option_go(struct nbd_conn *c)
{
    struct choice choice;
    if (read_choice(c, &choice) < 0) {
        answer(c, NBD_REP_ERR_INVALID, "the lengths in this option do not agree");
        return;
    }
    const struct nbd_listener *l = nbd_find(c->nbd, c, choice.name, choice.bytes);
    if (!l) {
        answer(c, NBD_REP_ERR_UNKNOWN, "there is no export of this name at this socket");
        return;
    }
    if (!c->nbd->unsafe) {
        answer(c, NBD_REP_ERR_POLICY, c->nbd->why);
        return;
    }
    answer_infos(c, l, choice.wants_name);
    answer(c, NBD_REP_ACK, "");
    if (c->option == NBD_OPT_GO)
        enter(c);
}

// ---- Metadata contexts ----

// Whether one of the queries is for the only context that there is; for LIST also a pattern, or no
// query at all.
static int read_queries(struct nbd_conn *c, const struct nbd_listener **ret_l, bool *ret_match)
{
    bool list = c->option == NBD_OPT_LIST_META_CONTEXT;
    struct byte_reader r = byte_reader(c->in, c->option_bytes);
    const uint8_t *p = byte_take(&r, 4);
    uint32_t bytes = p ? be32_get(p) : 0;
    const uint8_t *name = byte_take(&r, bytes);
    p = byte_take(&r, 4);
    uint32_t count = p ? be32_get(p) : 0;
    bool match = list && count == 0;
    if (r.bad)
        return -EINVAL;
    const struct nbd_listener *l = nbd_find(c->nbd, c, name, bytes);
    for (uint32_t i = 0; i < count && (p = byte_take(&r, 4)); i++) {
        bytes = be32_get(p);
        const char *query = byte_take(&r, bytes);
        if (!query)
            break;
        match |= bytes == strlen(CONTEXT) && memcmp(query, CONTEXT, bytes) == 0;
        match |= list && bytes == strlen("base:") && memcmp(query, "base:", bytes) == 0;
    }
    if (r.bad || r.left > 0)
        return -EINVAL;
    *ret_l = l;
    *ret_match = match;
    return 0;
}

static void option_meta_context(struct nbd_conn *c)
{
    const struct nbd_listener *l;
    bool match, set = c->option == NBD_OPT_SET_META_CONTEXT;
    if (set)
        c->allocation = false;
    if (!c->structured) {
        answer(c, NBD_REP_ERR_INVALID, "structured replies have to be agreed to first");
        return;
    }
    if (read_queries(c, &l, &match) < 0) {
        answer(c, NBD_REP_ERR_INVALID, "the lengths in this option do not agree");
        return;
    }
    if (!l) {
        answer(c, NBD_REP_ERR_UNKNOWN, "there is no export of this name at this socket");
        return;
    }
    if (match) {
        uint8_t *at = answer_room(c, NBD_REP_META_CONTEXT, 4 + strlen(CONTEXT));
        memcpy(be32_put(at, set ? CONTEXT_ID : 0), CONTEXT, strlen(CONTEXT));
    }
    c->allocation |= set && match;
    answer(c, NBD_REP_ACK, "");
}

// ---- The other options ----

static void option_list(struct nbd_conn *c)
{
    if (c->option_bytes != 0) {
        answer(c, NBD_REP_ERR_INVALID, "this option has no data");
    } else if (!c->nbd->unsafe) {
        answer(c, NBD_REP_ERR_POLICY, c->nbd->why);
    } else {
        size_t bytes = strlen(c->listener->name);
        uint8_t *at = answer_room(c, NBD_REP_SERVER, 4 + bytes);
        memcpy(be32_put(at, (uint32_t)bytes), c->listener->name, bytes);
        answer(c, NBD_REP_ACK, "");
    }
}

static void option_structured_reply(struct nbd_conn *c)
{
    if (c->option_bytes != 0) {
        answer(c, NBD_REP_ERR_INVALID, "this option has no data");
        return;
    }
    c->structured = true;
    answer(c, NBD_REP_ACK, "");
}

static void option_come(struct nbd_conn *c)
{
    switch (c->option) {
    case NBD_OPT_EXPORT_NAME:
        option_export_name(c);
        break;
    case NBD_OPT_ABORT:
        answer(c, NBD_REP_ACK, "");
        nbd_handshake_send(c);
        nbd_conn_drop(c, NULL);
        break;
    case NBD_OPT_LIST:
        option_list(c);
        break;
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        option_go(c);
        break;
    case NBD_OPT_STRUCTURED_REPLY:
        option_structured_reply(c);
        break;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        option_meta_context(c);
        break;
    default:
        answer(c, NBD_REP_ERR_UNSUP, "this option is not known here");
    }
}

// ---- Receiving ----

static void flags_come(struct nbd_conn *c)
{
    uint32_t flags = be32_get(c->in);
    if (flags & ~(uint32_t)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)) {
        nbd_conn_drop(c, "is dropped: it does not speak NBD (flags %#x)", flags);
        return;
    }
    c->no_zeroes = flags & NBD_NO_ZEROES;
    c->state = NBD_OPTION;
}

static void option_header_comes(struct nbd_conn *c)
{
    uint64_t magic = be64_get(c->in);
    c->option = be32_get(c->in + 8);
    c->option_bytes = be32_get(c->in + 12);
    if (magic != NBD_OPTION_MAGIC)
        nbd_conn_drop(c, "is dropped: no option begins like this (%#llx)",
                      (unsigned long long)magic);
    else if (c->option_bytes > NBD_OPTION_SKIP_MAX)
        nbd_conn_drop(c, "is dropped: an option of %u bytes", c->option_bytes);
    else
        c->state = c->option_bytes > NBD_OPTION_BYTES_MAX ? NBD_SKIP : NBD_DATA;
}

// All that the state waits for has come.
static void complete(struct nbd_conn *c)
{
    enum nbd_state state = c->state;
    c->got = 0;
    switch (state) {
    case NBD_FLAGS:
        flags_come(c);
        return;
    case NBD_OPTION:
        option_header_comes(c);
        return;
    case NBD_DATA:
        option_come(c);
        break;
    default:
        ENSURE(state == NBD_SKIP);
        answer(c, NBD_REP_ERR_TOO_BIG, "this option is too long");
    }
    if (c->state == state)
        c->state = NBD_OPTION;
    if (c->state != NBD_GONE)
        nbd_handshake_send(c);
}

static uint32_t wanted(const struct nbd_conn *c)
{
    switch (c->state) {
    case NBD_FLAGS:
        return 4;
    case NBD_OPTION:
        return NBD_OPTION_HEADER;
    default:
        return c->option_bytes;
    }
}

// Returns whether everything that is waited for is there.
static bool receive_wanted(struct nbd_conn *c)
{
    while (c->got < wanted(c)) {
        // What is thrown away goes all to the same place.
        uint32_t room = NBD_OPTION_BYTES_MAX - (c->state == NBD_SKIP ? 0 : c->got);
        uint8_t *at = c->in + (c->state == NBD_SKIP ? 0 : c->got);
        ssize_t n = recv(c->fd, at, MIN(room, wanted(c) - c->got), MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n <= 0) {
            nbd_conn_drop(c, NULL);
            return false;
        }
        c->got += (uint32_t)n;
    }
    return true;
}

void nbd_handshake_receive(struct nbd_conn *c)
{
    for (unsigned i = 0; i < 2 * OPTIONS_A_TURN; i++) {
        if (c->state >= NBD_SERVING || c->out_bytes > 0 || !receive_wanted(c))
            return;
        complete(c);
    }
}
