// SPDX-License-Identifier: Apache-2.0
// The life of one link: sockets, hello, up and down, timers. See link.h for states, invariants and
// locks.
//
// Why sockets are opened anew: after a peer (or its network) died, TCP repeats what is
// unacknowledged, or its SYN, at intervals that grow to minutes. A link that is down therefore
// closes its push socket now and then and begins afresh.
#include "common/channel/link_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/random.h"

#define BIND_RETRY_NS       NS_PER_S
#define REOPEN_NS_MIN       NS_PER_S
#define REOPEN_NS_MAX       (5 * NS_PER_S)
#define HASTEN_NS           (200 * NS_PER_MS)
#define ATTEMPT_NS_MIN      (300 * NS_PER_MS)
#define ATTEMPT_NS_MAX      (2 * NS_PER_S)
#define REFUSED_NS_MIN      (3 * NS_PER_S)
#define REFUSED_NS_MAX      (15 * NS_PER_S)
#define REFUSED_LASTS_NS    (60 * NS_PER_S)
#define HELLO_NS            (300 * NS_PER_MS)
#define RESET_NS            (200 * NS_PER_MS)
#define HELLO_LATE_NS       (2 * NS_PER_S) // ... to a peer that has been silent for HELLO_LATE_AFTER_NS
#define HELLO_LATE_AFTER_NS (5 * NS_PER_S)
#define OVERDUE_NS          (100 * NS_PER_MS)
#define CONNECT_WAIT_NS     (2 * NS_PER_S)
#define DATA_PING_NS        (3 * NS_PER_S / 2)
#define CALM_PING_NS        (4 * NS_PER_S)
#define DATA_PATIENCE                                                                              \
    5 // times the silence: a large message on a slow line is no silence while its host is heard
#define SESSION_BYTES_MAX (UINT64_C(1) << 36) // then new keys (far below the bounds of AES-GCM)
#define REPLIES_MAX       3
#define UNANSWERED_MAX    1
#define CONTROL_BUFFER    (256 * 1024)
#define BUNDLED_MAX       (16 * 1024) // a larger message goes by itself

// Spreads what many links would otherwise do at one moment: 75 to 125 percent.
static int64_t jitter(int64_t ns)
{
    return ns * 3 / 4 + (int64_t)(random_id() % (uint64_t)(ns / 2 + 1));
}

static int64_t backoff(int64_t *at_most, int64_t min, int64_t max)
{
    int64_t ns = MAX(*at_most, min);
    *at_most = MIN(ns * 3 / 2, max);
    return jitter(ns);
}

// A data link beside a control link that is up: that one tells when the path or the peer is gone, and the side is kicked then
// (tell_data() in channel.c). Its own pings only have to find a connection that died alone, within DATA_PATIENCE times the
// silence, and so that one of them may be lost.
static bool is_calm(const struct link *l)
{
    return l->side == CHANNEL_SIDE_DATA && *l->control_up;
}

static int64_t ping_interval(const struct link *l)
{
    const int64_t silence = l->settings->silence_ns;
    if (is_calm(l))
        return MIN(silence * 2, CALM_PING_NS);
    return l->side == CHANNEL_SIDE_DATA ? MIN(silence * 3 / 4, DATA_PING_NS) : silence / 3;
}

void link_init(struct link *l, const struct link_settings *settings, enum channel_side side,
               unsigned path, int epoll, const struct transport *transport, struct pull *pull)
{
    l->present = true;
    l->settings = settings;
    l->side = side;
    l->path = path;
    l->epoll = epoll;
    l->transport = transport;
    l->pull = pull;
    l->push_at_ns = INT64_MAX;
    l->round = (uint32_t)random_id() | 1; // not one that the peer knows from an earlier run
}

void link_done(struct link *l)
{
    struct session *session = session_in_use(l);
    if (!l->present)
        return;
    bundle_send_own(l, clock_boot_ns());
    bundle_done(l);
    if (l->up && session)
        (void)session_send(l, session, FRAME_BYE, NULL, 0, 0, clock_boot_ns());
    l->transport->push_close(l->push);
    l->push = NULL;
    attempts_clear(l);
    l->current = session_free(l->current);
    l->previous = session_free(l->previous);
}

// --- sockets ---

static void tick_bind(struct link *l, int64_t now)
{
    char text[SAID_TEXT];
    if (l->bound || now < l->bind_at_ns)
        return;
    int r = l->pull ? l->transport->pull_bind(l->pull, l->mine, l->port) : -ENOTSOCK;
    l->bound = r == 0;
    l->bind_at_ns = now + jitter(BIND_RETRY_NS);
    if (r == 0)
        return;
    (void)snprintf(text, sizeof(text), "cannot listen at %s port %u: %s%s", l->mine, l->port,
                   strerror(-r),
                   r == -EADDRNOTAVAIL || r == -ENODEV
                       ? "; the address has to be on an interface of this machine"
                       : "");
    said_note(&l->trouble, now, text);
}

static void push_open(struct link *l, int64_t now)
{
    char text[SAID_TEXT];
    l->transport->push_close(l->push);
    l->push = NULL;
    l->push_at_ns = INT64_MAX;
    l->push_changed = true;
    l->knocked = false;
    l->opened_ns = now;
    l->reopen_at_ns = now + backoff(&l->reopen_backoff_ns, REOPEN_NS_MIN, REOPEN_NS_MAX);
    int r = l->transport->push_open(l->mine, l->peers, l->peers_port, l->side == CHANNEL_SIDE_DATA ? 0 : CONTROL_BUFFER,
                                    l->epoll, l->path, &l->push);
    if (r == 0)
        return;
    l->push = NULL;
    (void)snprintf(text, sizeof(text), "cannot connect from %s to %s port %u: %s%s", l->mine,
                   l->peers, l->peers_port, strerror(-r),
                   r == -EMFILE ? " (or all 512 sockets of nanomsg's in this process are taken)" : "");
    said_note(&l->trouble, now, text);
}

// Whether the push takes a message now. If not, link_event() follows once it does.
static bool push_ready(struct link *l)
{
    if (!l->push)
        return false;
    if (l->transport->push_ready(l->push))
        return true;
    l->transport->push_want(l->push);
    return false;
}

// Whoever receives gives a connection that nothing authentic has come over little memory (pull_trust()), and what went with the
// one before is found missing by the next message: so the first one in a session that the peer knows is a small one.
static int introduce(struct link *l, struct session *session, int64_t now)
{
    return l->introduced ? 0 : session_send(l, session, FRAME_PING, NULL, 0, 0, now);
}

// The connection may have changed.
static void push_note(struct link *l, int fd_before)
{
    l->push_changed |= link_send_fd(l) != fd_before;
}

static void tick_push(struct link *l, int64_t now)
{
    int fd = link_send_fd(l);
    l->push_at_ns = l->push ? l->transport->push_tick(l->push, now) : INT64_MAX;
    push_note(l, fd);
}

// A responder says that it can be answered now: what it had to say in the last handshake may have
// been lost.
static void knock(struct link *l)
{
    if (!link_initiates(l) && !l->knocked && push_ready(l))
        l->knocked = session_send_clear(l, FRAME_RESET, 0, NULL, 0) == 0;
}

void link_event(struct link *l, int64_t now)
{
    int fd = link_send_fd(l);
    if (l->push)
        l->transport->push_event(l->push, now);
    push_note(l, fd);
    if (!l->push || !l->transport->push_ready(l->push))
        return;
    struct session *session = session_in_use(l);
    if (l->transport->push_fresh(l->push))
        l->introduced = false;
    if (l->up && session)
        (void)introduce(l, session, now);
    knock(l);
    if (l->up)
        return;
    l->hello_at_ns = MIN(l->hello_at_ns, now);
    if (l->refused_ns == 0)
        l->attempt_at_ns = MIN(l->attempt_at_ns, now);
}

static bool is_stale(const struct link *l, int64_t now)
{
    return now - l->heard_ns > 2 * ping_interval(l);
}

// Something arrived by which the peer seems to begin anew, while what is sent to it may go nowhere.
void link_hasten(struct link *l, int64_t now)
{
    if (l->up ? !is_stale(l, now) : l->push && l->transport->push_ready(l->push))
        return;
    if (l->up && now >= l->opened_ns + HASTEN_NS)
        push_open(l, now);
    l->reopen_at_ns = MIN(l->reopen_at_ns, MAX(now, l->opened_ns + HASTEN_NS));
}

static void tick_reopen(struct link *l, int64_t now)
{
    if (!l->up && now >= l->reopen_at_ns)
        push_open(l, now);
}

// --- up and down ---

static void link_set_up(struct link *l, int64_t now)
{
    if (l->up)
        return;
    l->up = true;
    l->up_since_ns = now;
    l->ups++;
    l->say_up = true;
    l->changed = true;
    l->reopen_backoff_ns = 0;
    l->attempt_backoff_ns = 0;
    l->refused_ns = 0;
    l->refused.at_ns = 0; // a new quarrel is said at once
}

static void link_set_down(struct link *l, const char *why, int64_t now)
{
    if (!l->up)
        return;
    l->up = false;
    l->round += l->round == UINT32_MAX ? 2 : 1; // never 0
    l->say_down = true;
    l->changed = true;
    (void)snprintf(l->down_text, sizeof(l->down_text), "%s", why);
    l->hello_at_ns = now;
    l->attempt_at_ns = now + jitter(HELLO_NS);
    l->reopen_at_ns = now + jitter(REOPEN_NS_MIN);
}

bool link_is_former(const struct link *l)
{
    return l->up && l->peer_run != *l->newest_run;
}

void link_leave_former(struct link *l, int64_t now)
{
    if (!link_is_former(l))
        return;
    link_set_down(l, "the peer was restarted", now);
    l->attempt_at_ns = MIN(l->attempt_at_ns, now);
}

// Retries become slow. Not because of a handshake that a stranger may have begun: that is only
// said.
void link_refused(struct link *l, bool strangers, const char *why, int64_t now)
{
    said_note(&l->refused, now, why);
    if (l->up || strangers)
        return;
    if (l->refused_ns == 0)
        l->attempt_backoff_ns = REFUSED_NS_MIN;
    l->refused_ns = now;
    l->attempt_at_ns = now + jitter(MAX(l->attempt_backoff_ns, REFUSED_NS_MIN));
}

// How long a link may be silent.
static int64_t silence_limit(const struct link *l, int64_t now)
{
    const int64_t silence = l->settings->silence_ns;
    if (l->side == CHANNEL_SIDE_CONTROL)
        return silence;
    return is_calm(l) || now - *l->control_heard_ns <= silence ? DATA_PATIENCE * silence : silence;
}

// ... without a sign that what this end sends arrives.
static int64_t unheard_limit(const struct link *l)
{
    return (l->side == CHANNEL_SIDE_DATA ? DATA_PATIENCE : 2) * l->settings->silence_ns;
}

static void tick_silence(struct link *l, int64_t now, int64_t grace_ns)
{
    char text[SAID_TEXT];
    struct session *session = session_in_use(l);
    if (!l->up)
        return;
    int64_t silent = now - MAX(l->heard_ns, grace_ns);
    if (silent > silence_limit(l, now)) {
        (void)snprintf(text, sizeof(text), "nothing heard from %s for %lld ms", l->peers,
                       (long long)(silent / NS_PER_MS));
        link_set_down(l, text, now);
        l->reopen_at_ns = now;
        return;
    }
    if (session && session->probe && now - MAX(session->probe_ns, grace_ns) > unheard_limit(l)) {
        (void)snprintf(text, sizeof(text), "%s is heard, but does not hear this end", l->peers);
        link_set_down(l, text, now);
        session->probe = 0;
        l->reopen_at_ns = now;
    }
}

// --- hello ---

static void hello_send(struct link *l, struct session *session, bool want_reply, int64_t now)
{
    struct frame_hello wire;
    struct hello hello = {
        .protocol = l->settings->protocol,
        .round = l->round,
        .echo = l->peer_round,
        .identity = l->settings->identity,
        .want_reply = want_reply,
        .run = l->settings->run,
        .home = l->side == CHANNEL_SIDE_CONTROL ? bundler_home(l->settings->bundler) : 0,
        .slot = l->settings->slot,
    };
    memcpy(hello.digest, l->settings->digest, sizeof(hello.digest));
    memcpy(hello.pair, l->settings->pair, sizeof(hello.pair));
    hello_fill(&wire, &hello);
    const struct iovec iov = {&wire, sizeof(wire)};
    if (push_ready(l))
        (void)session_send(l, session, FRAME_HELLO, &iov, 1, sizeof(wire), now);
}

void link_established(struct link *l, int64_t now)
{
    l->wanted_ns = 0;
    l->unanswered = 0;
    if (l->up)
        l->attempt_backoff_ns = 0;
    l->attempt_at_ns = now + jitter(ATTEMPT_NS_MAX);
    hello_send(l, l->current, true, now);
    l->hello_at_ns = now + jitter(HELLO_NS);
}

// NULL when it is not known.
static const char *differing_section(const struct link_settings *s, const struct hello *h)
{
    return s->digest_difference ? s->digest_difference(s->digest, h->digest) : NULL;
}

// Returns whether both ends fit together; if not, `text` says which field differs.
static bool hello_agrees(const struct link *l, const struct hello *h, char text[SAID_TEXT])
{
    const struct link_settings *s = l->settings;
    text[0] = '\0';
    if (h->protocol != s->protocol)
        (void)snprintf(text, SAID_TEXT,
                       "protocol version differs: the peer has %u, this end %u; install the same "
                       "release on both",
                       h->protocol, s->protocol);
    else if (strcmp(h->pair, s->pair) != 0)
        (void)snprintf(
            text, SAID_TEXT,
            "pair differs: the peer at this address is of pair \"%.64s\", this end of \"%.64s\"",
            h->pair, s->pair);
    else if (h->identity == s->identity)
        (void)snprintf(text, SAID_TEXT, "identity is the same: both ends say that they are the %s",
                       s->identity == CHANNEL_PRIMARY ? "Primary" : "Secondary");
    else if (memcmp(h->digest, s->digest, sizeof(h->digest)) != 0)
        (void)snprintf(
            text, SAID_TEXT,
            "configuration differs%s%s: make the pair file the same on both machines and "
            "restart",
            differing_section(s, h) ? " in " : "",
            differing_section(s, h) ? differing_section(s, h) : "");
    return text[0] == '\0';
}

static void hello_refuse(struct link *l, struct session *session, const struct hello *h,
                         const char *text, int64_t now)
{
    link_set_down(l, text, now);
    link_refused(l, false, text, now);
    l->previous = session == l->previous ? l->previous : session_free(l->previous);
    session->accepted = false;
    // So that the peer finds out, too. Of another protocol it is not known whether it asks.
    bool asked = h->want_reply || h->protocol != l->settings->protocol;
    if (asked && session->replies++ < REPLIES_MAX)
        hello_send(l, session, false, now);
}

static void peer_is_new(struct link *l, struct session *session, uint64_t run, uint64_t number,
                        int64_t now)
{
    link_set_down(l, "the peer was restarted", now);
    // What its former run's end has done to the connection says nothing against the path.
    l->ups = 0;
    l->avoid_until_ns = 0;
    l->peer_run = run;
    l->number_received = number;
    if (session == l->current)
        l->previous = session_free(l->previous);
}

static void on_hello(struct link *l, const struct opened *opened, int64_t now)
{
    struct hello h;
    char text[SAID_TEXT];
    struct session *session = opened->session;
    const char *why = hello_parse(opened->data, opened->size, l->settings->protocol, &h);
    if (why) {
        link_dropped(l, why, now);
        return;
    }
    if (!hello_agrees(l, &h, text)) {
        hello_refuse(l, session, &h, text, now);
        return;
    }
    if (h.run != l->peer_run)
        peer_is_new(l, session, h.run, opened->number, now);
    session->accepted = true;
    session->run = h.run;
    session->home = h.home;
    session->slot = h.slot;
    atomic_store(l->newest_run, h.run);
    l->peer_round = h.round;
    if (h.echo == l->round)
        link_set_up(l, now);
    if (h.want_reply)
        hello_send(l, session, !l->up, now);
}

void link_on_internal(struct link *l, const struct opened *opened, int64_t now)
{
    if (opened->type == FRAME_HELLO)
        on_hello(l, opened, now);
    else if (opened->type == FRAME_BYE)
        link_set_down(l, "the peer closed it", now);
    else if (!l->up)
        l->hello_at_ns = MIN(l->hello_at_ns, now); // heard again: ask at once whether it hears, too
}

// --- resets ---

void link_on_unknown(struct link *l, const struct frame *frame, int64_t now)
{
    atomic_fetch_add_explicit(&l->dropped, 1, memory_order_relaxed);
    if (link_initiates(l) || !frame->from_initiator || now - l->reset_sent_ns < RESET_NS)
        return;
    l->reset_sent_ns = now;
    link_hasten(l, now);
    (void)session_send_clear(l, FRAME_RESET, frame->nonce, NULL, 0);
}

// Anybody may have sent it: it only lets a new handshake begin beside what is established.
void link_on_reset(struct link *l, const struct frame *frame, int64_t now)
{
    bool known = frame->nonce == 0 || (l->current && frame->nonce == l->current->nonce);
    if (!link_initiates(l) || frame->from_initiator || !known)
        return;
    link_hasten(l, now);
    l->wanted_ns = now;
    l->attempt_at_ns =
        MIN(l->attempt_at_ns, MAX(now, l->attempt_last_ns + (l->up ? 2 : 1) * ATTEMPT_NS_MIN));
}

void link_dropped(struct link *l, const char *why, int64_t now)
{
    char text[SAID_TEXT];
    atomic_fetch_add_explicit(&l->dropped, 1, memory_order_relaxed);
    if (!why)
        return;
    (void)snprintf(text, sizeof(text), "dropped %s", why);
    said_note(&l->trouble, now, text);
}

// --- timers ---

static bool attempt_due(const struct link *l)
{
    if (!link_initiates(l))
        return false;
    bool wanted =
        l->wanted_ns != 0 && l->heard_ns <= l->wanted_ns; // the peer has no session any more
    return !l->up || wanted || (l->current && l->current->bytes > SESSION_BYTES_MAX);
}

static void tick_attempt(struct link *l, int64_t now)
{
    attempts_expire(l, now);
    if (l->refused_ns && now - l->refused_ns > REFUSED_LASTS_NS)
        l->refused_ns = 0;
    if (!attempt_due(l) || now < l->attempt_at_ns)
        return;
    if (!push_ready(l)) {
        l->attempt_at_ns = now + CONNECT_WAIT_NS;
        return;
    }
    int64_t max = l->refused_ns ? REFUSED_NS_MAX : ATTEMPT_NS_MAX;
    l->attempt_at_ns = now + backoff(&l->attempt_backoff_ns, ATTEMPT_NS_MIN, max);
    if (l->up && l->unanswered++ >= UNANSWERED_MAX && is_stale(l, now)) {
        l->unanswered = 0;
        push_open(l, now); // up, but these do not arrive
        return;
    }
    attempt_start(l, now);
}

// On a session that is not up: hello, until the peer is heard. A responder without any says that it
// is there.
static void tick_hello(struct link *l, int64_t now)
{
    if (l->up && l->current && l->current->accepted)
        return;
    if (now < l->hello_at_ns || l->refused_ns)
        return;
    bool late = !l->current || now - l->heard_ns > HELLO_LATE_AFTER_NS;
    l->hello_at_ns = now + jitter(late ? HELLO_LATE_NS : HELLO_NS);
    if (l->current)
        hello_send(l, l->current, true, now);
    else
        knock(l);
}

// Nothing was sent for a while; or something was, and while it is not known to have arrived others' connections have carried
// all the rest.
static int64_t ping_at(const struct link *l, const struct session *session)
{
    int64_t since = l->sent_ns;
    if (session->probe)
        since = MIN(since, MAX(session->probe_ns, l->direct_ns));
    return since + ping_interval(l) + (l->answered ? ping_interval(l) / 8 : 0);
}

// A thread that has just been woken by the peer's ping need not wake again for its own: that goes now, if it would soon, and
// the next one leaves the peer's a little time to come.
static bool answers_ping(const struct link *l, int64_t now)
{
    return l->side == CHANNEL_SIDE_DATA && l->heard_ns > l->sent_ns && now - l->sent_ns >= ping_interval(l) / 2;
}

static void tick_ping(struct link *l, int64_t now)
{
    struct session *session = session_in_use(l);
    bool due = l->up && session && now >= ping_at(l, session);
    if (!due && !(l->up && session && answers_ping(l, now)))
        return;
    l->answered = !due;
    if (push_ready(l))
        (void)session_send(l, session, FRAME_PING, NULL, 0, 0, now);
    l->sent_ns = l->direct_ns = now; // also when it was not possible: the next one is due an interval from now
}

void link_tick(struct link *l, int64_t now, int64_t grace_ns)
{
    if (!l->present)
        return;
    tick_bind(l, now);
    tick_silence(l, now, grace_ns);
    tick_reopen(l, now);
    tick_attempt(l, now);
    tick_hello(l, now);
    tick_ping(l, now);
    tick_push(l, now); // last: those before may have opened it anew, or found it broken
}

// What is over but does not count yet (a data link's silence) is looked at again soon.
static int64_t or_soon(int64_t at, int64_t now)
{
    return at > now ? at : now + OVERDUE_NS;
}

int64_t link_deadline(const struct link *l, int64_t now, int64_t grace_ns)
{
    int64_t at = l->push_at_ns;
    const struct session *session = session_in_use(l);
    if (!l->present)
        return INT64_MAX;
    if (!l->bound)
        at = MIN(at, l->bind_at_ns);
    if (l->up) {
        int64_t silent = is_calm(l) ? silence_limit(l, now) : l->settings->silence_ns;
        at = MIN(at, or_soon(MAX(l->heard_ns, grace_ns) + silent + 1, now));
        if (session)
            at = MIN(at, ping_at(l, session));
        if (session && session->probe)
            at = MIN(at, or_soon(MAX(session->probe_ns, grace_ns) + unheard_limit(l) + 1, now));
    } else {
        at = MIN(at, l->reopen_at_ns);
    }
    if (attempt_due(l))
        at = MIN(at, l->attempt_at_ns);
    if (!(l->up && l->current && l->current->accepted) && !l->refused_ns)
        at = MIN(at, l->hello_at_ns);
    return at;
}

// --- user messages ---

bool link_can_send(const struct link *l)
{
    return l->up && l->push && l->transport->push_ready(l->push);
}

int link_send_fd(const struct link *l)
{
    return l->push ? l->transport->push_fd(l->push) : -1;
}

int link_send(struct link *l, enum frame_type type, const struct iovec *iov, int n, size_t size,
              int64_t now)
{
    struct session *session = session_in_use(l);
    if (!l->up || !session)
        return -ENOTCONN;
    int r = introduce(l, session, now);
    return r < 0 ? r : session_send(l, session, type, iov, n, size, now);
}

int link_send_soon(struct link *l, const struct iovec *iov, size_t size, int64_t now)
{
    struct session *session = session_in_use(l);
    bool may = l->up && session && session->home && l->settings->bundler && size <= BUNDLED_MAX;
    if (may)
        return session_send_soon(l, session, iov, size, now);
    return link_can_send(l) ? link_send(l, FRAME_USER, iov, 1, size, now) : -EAGAIN;
}
