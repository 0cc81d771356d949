// SPDX-License-Identifier: Apache-2.0
// The datagram, the same for ask, answer and goodbye: see struct datagram. Its code covers everything in
// front of it, so an ask can never be passed off as an answer, nor one pair's or end's as
// another's.
#include "common/address/inquiry.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/random.h"

#define NONCE_SIZE  16
#define VERSION     1
#define ASK         1
#define ANSWER      2
#define GOODBYE     3
#define ANSWERS_MAX 256 // taken in by one call

static const uint8_t magic[4] = {'U', 'S', 'I', 'Q'};

struct datagram {
    uint8_t magic[4];
    uint8_t version;
    uint8_t kind;     // ASK, ANSWER or GOODBYE
    uint8_t identity; // of the end that is asked, or gone
    uint8_t role;     // of an answer; 0 in an ask
    uint8_t pair[INQUIRY_ID_SIZE];
    uint8_t nonce[NONCE_SIZE]; // of a goodbye: the run, little-endian, then zeros
    uint8_t code[MAC_SIZE];
};
_Static_assert(sizeof(struct datagram) == 56, "no padding");

static void seal(struct datagram *d, const uint8_t key[MAC_KEY_SIZE])
{
    mac_compute(key, d, offsetof(struct datagram, code), d->code);
}

// True for an authentic datagram of this kind about this end.
static bool is_authentic(const struct datagram *d, uint8_t kind, uint8_t identity,
                         const uint8_t pair[INQUIRY_ID_SIZE], const uint8_t key[MAC_KEY_SIZE])
{
    uint8_t code[MAC_SIZE];
    if (memcmp(d->magic, magic, sizeof(magic)) != 0 || d->version != VERSION || d->kind != kind)
        return false;
    if (d->identity != identity || memcmp(d->pair, pair, INQUIRY_ID_SIZE) != 0)
        return false;
    mac_compute(key, d, offsetof(struct datagram, code), code);
    return mac_equal(d->code, code);
}

void inquiry_id(const uint8_t key[MAC_KEY_SIZE], const char *pair, uint8_t id[INQUIRY_ID_SIZE])
{
    _Static_assert(INQUIRY_ID_SIZE == MAC_SIZE, "the id is a code of the name");
    mac_compute(key, pair, strlen(pair), id);
}

static int open_udp(const struct ip *at, uint16_t port, struct error *err)
{
    char text[IP_TEXT_SIZE];
    struct sockaddr_storage address;
    CLEANUP_CLOSE int fd = socket(at->family == IP_V4 ? AF_INET : AF_INET6,
                                  SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_sys(err, -errno, "cannot make a UDP socket");
    socklen_t size = ip_to_sockaddr(at, port, 0, &address);
    if (bind(fd, (struct sockaddr *)&address, size) < 0)
        return error_sys(err, -errno, "cannot bind UDP port %u at %s", port,
                         ip_format_bare(at, text));
    return TAKE_FD(fd);
}

int inquiry_socket(const struct ip *at, uint16_t port, struct error *err)
{
    return open_udp(at, port, err);
}

uint16_t inquiry_socket_port(int fd)
{
    struct sockaddr_storage at = {0};
    socklen_t size = sizeof(at);
    if (getsockname(fd, (struct sockaddr *)&at, &size) < 0)
        return 0;
    // Both families have the port at the same place.
    return ntohs(((const struct sockaddr_in *)&at)->sin_port);
}

static const struct inquiry_end *find_end(const struct datagram *ask,
                                          const struct inquiry_end *ends, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ends[i].role != 0 && is_authentic(ask, ASK, ends[i].identity, ends[i].id, ends[i].key))
            return &ends[i];
    return NULL;
}

static bool answer_one(int fd, struct datagram *d, const struct inquiry_end *end,
                       const struct sockaddr_storage *to, socklen_t size)
{
    d->kind = ANSWER;
    d->role = end->role;
    seal(d, end->key);
    ssize_t n =
        sendto(fd, d, sizeof(*d), MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)to, size);
    return n == (ssize_t)sizeof(*d);
}

void inquiry_seal_goodbye(const struct inquiry_end *self, uint64_t run, uint8_t ret_goodbye[INQUIRY_GOODBYE_SIZE])
{
    struct datagram d = {.version = VERSION, .kind = GOODBYE, .identity = self->identity};
    _Static_assert(sizeof(d) == INQUIRY_GOODBYE_SIZE, "a goodbye is a datagram like the others");
    memcpy(d.magic, magic, sizeof(magic));
    memcpy(d.pair, self->id, INQUIRY_ID_SIZE);
    struct le64 number = le64_make(run);
    memcpy(d.nonce, &number, sizeof(number));
    seal(&d, self->key);
    memcpy(ret_goodbye, &d, sizeof(d));
}

// Whether the datagram is the goodbye of the peer of one of the ends.
static bool take_goodbye(const struct datagram *d, const struct inquiry_end *ends, size_t count, inquiry_goodbye_fn *goodbye,
                         void *user)
{
    if (d->kind != GOODBYE)
        return false;
    for (size_t i = 0; goodbye && i < count; i++) {
        uint8_t peer = ends[i].identity == INQUIRY_PRIMARY ? INQUIRY_SECONDARY : INQUIRY_PRIMARY;
        if (is_authentic(d, GOODBYE, peer, ends[i].id, ends[i].key)) {
            struct le64 run;
            memcpy(&run, d->nonce, sizeof(run));
            goodbye(user, i, le64_get(run));
            break;
        }
    }
    return true;
}

size_t inquiry_answer(int fd, const struct inquiry_end *ends, size_t count, inquiry_goodbye_fn *goodbye, void *user)
{
    size_t answered = 0;
    for (int i = 0; i < ANSWERS_MAX; i++) {
        struct datagram d;
        struct sockaddr_storage from;
        socklen_t size = sizeof(from);
        ssize_t n =
            recvfrom(fd, &d, sizeof(d), MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&from, &size);
        if (n < 0 && (errno == EAGAIN || errno == EBADF))
            break;
        if (n != (ssize_t)sizeof(d)) // another size, or an old error of the socket
            continue;
        if (take_goodbye(&d, ends, count, goodbye, user))
            continue;
        const struct inquiry_end *end = find_end(&d, ends, count);
        if (end && answer_one(fd, &d, end, &from, size))
            answered++;
    }
    return answered;
}

// --- The asker ---

struct inquiry {
    int fd;
    struct datagram ask;
    uint8_t key[MAC_KEY_SIZE];
    int64_t started_ns, next_ns;
    bool sent;                // at least one ask has left
    enum inquiry_role answer; // 0: none yet
};

// One nonce for all repetitions: each of them is the same question.
static void send_ask(struct inquiry *q)
{
    ssize_t n = send(q->fd, &q->ask, sizeof(q->ask), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) // may be the refusal of the one before: that takes the place of the sending
        n = send(q->fd, &q->ask, sizeof(q->ask), MSG_DONTWAIT | MSG_NOSIGNAL);
    q->sent = q->sent || n == (ssize_t)sizeof(q->ask);
}

static bool says_active(enum inquiry_role role)
{
    return role == INQUIRY_ACTIVE || role == INQUIRY_TAKING_OVER;
}

static void take_answers(struct inquiry *q)
{
    for (int i = 0; i < ANSWERS_MAX; i++) {
        struct datagram d;
        ssize_t n = recv(q->fd, &d, sizeof(d), MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n != (ssize_t)sizeof(d) ||
            !is_authentic(&d, ANSWER, q->ask.identity, q->ask.pair, q->key))
            continue;
        if (memcmp(d.nonce, q->ask.nonce, NONCE_SIZE) != 0 || d.role < INQUIRY_PASSIVE ||
            d.role > INQUIRY_STEPPED_DOWN)
            continue;
        if (!says_active(q->answer)) // one "active" is never taken back
            q->answer = d.role;
    }
}

static int connect_udp(struct inquiry *q, const struct ip *from, const struct ip *to, uint16_t port,
                       struct error *err)
{
    char text[IP_TEXT_SIZE];
    struct sockaddr_storage address;
    struct ip any = {.family = to->family};
    q->fd = open_udp(from ? from : &any, 0, err);
    if (q->fd < 0)
        return q->fd;
    socklen_t size = ip_to_sockaddr(to, port, 0, &address);
    if (connect(q->fd, (struct sockaddr *)&address, size) < 0)
        return error_sys(err, -errno, "cannot ask at %s", ip_format_bare(to, text));
    return 0;
}

int inquiry_start(const struct ip *from, const struct ip *to, uint16_t port, const char *pair,
                  enum inquiry_identity identity, const uint8_t key[MAC_KEY_SIZE],
                  struct inquiry **ret_inquiry, struct error *err)
{
    struct inquiry *q = calloc(1, sizeof(*q));
    if (!q)
        return error_sys(err, -ENOMEM, "inquiry");
    int r = connect_udp(q, from, to, port, err);
    if (r < 0) {
        inquiry_free(q);
        return r;
    }
    memcpy(q->key, key, MAC_KEY_SIZE);
    memcpy(q->ask.magic, magic, sizeof(magic));
    q->ask.version = VERSION;
    q->ask.kind = ASK;
    q->ask.identity = (uint8_t)identity;
    inquiry_id(key, pair, q->ask.pair);
    random_bytes(q->ask.nonce, NONCE_SIZE);
    seal(&q->ask, key);
    q->started_ns = clock_boot_ns();
    q->next_ns = q->started_ns + INQUIRY_GAP_NS;
    send_ask(q);
    *ret_inquiry = q;
    return 0;
}

int inquiry_fd(const struct inquiry *inquiry)
{
    return inquiry->fd;
}

static bool is_over(const struct inquiry *q)
{
    return q->started_ns == INT64_MIN || says_active(q->answer);
}

int64_t inquiry_deadline_ns(const struct inquiry *inquiry)
{
    if (is_over(inquiry))
        return INT64_MAX;
    return MIN(inquiry->next_ns, inquiry->started_ns + INQUIRY_SPAN_NS);
}

void inquiry_work(struct inquiry *inquiry)
{
    int64_t now = clock_boot_ns(); // before receiving: what came until now is taken in first
    take_answers(inquiry);
    if (is_over(inquiry))
        return;
    if (now >= inquiry->started_ns + INQUIRY_SPAN_NS) {
        inquiry->started_ns = INT64_MIN;
    } else if (now >= inquiry->next_ns) {
        send_ask(inquiry);
        inquiry->next_ns = now + INQUIRY_GAP_NS;
    }
}

enum inquiry_result inquiry_result(const struct inquiry *inquiry, enum inquiry_role *ret_role)
{
    if (!is_over(inquiry))
        return INQUIRY_ASKING;
    if (inquiry->answer == 0)
        return inquiry->sent ? INQUIRY_SILENT : INQUIRY_IMPOSSIBLE;
    if (ret_role)
        *ret_role = inquiry->answer;
    return says_active(inquiry->answer) ? INQUIRY_SAYS_ACTIVE : INQUIRY_SAYS_NOT;
}

struct inquiry *inquiry_free(struct inquiry *inquiry)
{
    if (!inquiry)
        return NULL;
    cleanup_close(&inquiry->fd);
    explicit_bzero(inquiry->key, sizeof(inquiry->key));
    free(inquiry);
    return NULL;
}
