// SPDX-License-Identifier: Apache-2.0
//   AWAY --timer--> CONNECTING --> LOGGING_IN --> PROBING --> UP
//     ^                |               |             |        |
//     +----------------+---------------+-------------+--------+   lost, refused, too slow
//
// libiscsi's own reconnect backs off up to 30 s and keeps its old state; it is switched off.
// Whenever a connection is of no use any more the whole context is destroyed, which hands every
// command back as cancelled. The context is destroyed at the end of a turn only, never from within
// one of its callbacks (`lost` remembers).
//
// The session id is made from the LUN's address, so it is the same in every run: a restarted daemon
// reinstates its predecessor's session, which the target ends first, instead of working beside it.
#include "common/store/session.h"

#include <errno.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/random.h"

#define ATTEMPT_NS         (5 * NS_PER_S) // connect, log in and probe together
#define PING_NS            (3 * NS_PER_S)
#define SILENT_PINGS_MAX   2
#define CLEAR_FAILURES_MAX 3
#define PROBE_TRIES_MAX    20 // unit attentions and the like
#define INITIATOR_DEFAULT  "iqn.2024-01.invalid.understudy:"
#define INITIATOR_MAX      223

enum phase { AWAY, CONNECTING, LOGGING_IN, PROBING, UP };

struct session {
    const struct session_events *events;
    void *owner;
    // From the configuration.
    const char *name; // the owner's
    struct iscsi_url url;
    char portal[MAX_STRING_SIZE + 1]; // numeric, so that a reconnect never waits for a name server
    char initiator[INITIATOR_MAX + 1];
    uint32_t id;
    bool pretend_user;       // for a login with a security phase
    unsigned clear_failures; // CLEAR TASK SET broke the session so many times in a row
    // The attempt or session of now.
    struct iscsi_context *context; // NULL when AWAY
    enum phase phase;
    bool lost;
    unsigned attempt;
    unsigned probe_step, probe_tries;
    struct lun_facts facts; // as far as probed
    int64_t timer_ns;       // AWAY: next attempt; UP: next ping; otherwise: give up on this attempt
    int64_t away_since_ns, up_since_ns;
    bool heard; // an answer since the last ping
    unsigned silent_pings;
    int refused;
    char why[300];
    int epoll_fd, watched_fd;
    uint32_t watched_events;
};

bool lun_session_is_up(const struct session *session)
{
    return session->phase == UP && !session->lost;
}

void lun_session_lose(struct session *session, const char *why)
{
    if (session->lost)
        return;
    session->lost = true;
    (void)snprintf(session->why, sizeof(session->why), "%s", why);
}

// The same with what libiscsi says about it.
static void lose(struct session *session, const char *what)
{
    char text[sizeof(session->why)];
    const char *detail = session->context ? iscsi_get_error(session->context) : "";
    (void)snprintf(text, sizeof(text), "%s%s%.200s", what, *detail ? ": " : "", detail);
    lun_session_lose(session, text);
}

static void refuse(struct session *session, int code, const char *why)
{
    session->refused = code;
    lun_session_lose(session, why);
}

// The command did not reach its end: the session broke, or was taken down by us.
static bool is_broken(int status)
{
    return status == (int)SCSI_STATUS_CANCELLED || status == (int)SCSI_STATUS_ERROR ||
           status == (int)SCSI_STATUS_TIMEOUT;
}

// ---- commands

static void command_ended(struct iscsi_context *context, int status, void *data, void *private)
{
    struct scsi_command *command = private;
    struct session *session = command->session;
    struct scsi_task *task = data;
    struct scsi_result result = {
        .status = status,
        .sense_key = (int)task->sense.key,
        .asc_ascq = task->sense.ascq,
        .truncated = task->residual_status == SCSI_RESIDUAL_UNDERFLOW && task->residual > 0,
    };
    scsi_free_scsi_task(task);
    if (is_broken(status)) {
        lose(session, "the connection broke");
        session->events->returned(session->owner, command);
        return;
    }
    session->heard = true;
    session->events->ended(session->owner, command, &result);
}

static struct scsi_task *same_task(struct session *session, struct scsi_command *command,
                                   uint32_t block_length)
{
    int unmap = command->kind == SCSI_WRITE_SAME_UNMAP;
    return iscsi_writesame16_task(session->context, session->url.lun, command->lba, command->data,
                                  block_length, command->blocks, 0, unmap, 0, 0, command_ended,
                                  command);
}

static struct scsi_task *make_task(struct session *session, struct scsi_command *command,
                                   uint32_t block_length)
{
    struct iscsi_context *context = session->context;
    int lun = session->url.lun;
    struct unmap_list list = {command->lba, command->blocks};
    // libiscsi's vector has the layout of struct iovec, by its own promise.
    struct scsi_iovec *iov = (struct scsi_iovec *)&command->iov;
    uint32_t bytes = command->blocks * block_length;
    command->iov = (struct iovec){command->data, bytes};
    switch (command->kind) {
    case SCSI_READ:
        return iscsi_read16_iov_task(context, lun, command->lba, bytes, (int)block_length, 0, 0, 0,
                                     0, 0, command_ended, command, iov, 1);
    case SCSI_WRITE:
        return iscsi_write16_iov_task(context, lun, command->lba, NULL, bytes, (int)block_length, 0,
                                      0, 0, 0, 0, command_ended, command, iov, 1);
    case SCSI_WRITE_SAME:
    case SCSI_WRITE_SAME_UNMAP:
        return same_task(session, command, block_length);
    case SCSI_UNMAP:
        return iscsi_unmap_task(context, lun, 0, 0, &list, 1, command_ended, command);
    case SCSI_SYNC:
        return iscsi_synchronizecache16_task(context, lun, 0, 0, 0, 0, command_ended, command);
    }
    return NULL;
}

int lun_session_send(struct session *session, struct scsi_command *command, uint32_t block_length)
{
    ENSURE(lun_session_is_up(session));
    command->session = session;
    if (make_task(session, command, block_length))
        return 0;
    lose(session, "cannot send a command");
    return -ENOTCONN;
}

// ---- learning what the LUN is

static void probe_next(struct session *session);

static struct scsi_task *ask_ready(struct session *session, iscsi_command_cb ended)
{
    return iscsi_testunitready_task(session->context, session->url.lun, ended, session);
}

static struct scsi_task *ask_capacity(struct session *session, iscsi_command_cb ended)
{
    return iscsi_readcapacity16_task(session->context, session->url.lun, ended, session);
}

static struct scsi_task *ask_caching(struct session *session, iscsi_command_cb ended)
{
    return iscsi_modesense6_task(session->context, session->url.lun, 1, SCSI_MODESENSE_PC_CURRENT,
                                 SCSI_MODEPAGE_CACHING, 0, 192, ended, session);
}

static struct scsi_task *ask_id(struct session *session, iscsi_command_cb ended)
{
    return iscsi_inquiry_task(session->context, session->url.lun, 1, 0x83, 255, ended, session);
}

static struct scsi_task *ask_limits(struct session *session, iscsi_command_cb ended)
{
    return iscsi_inquiry_task(session->context, session->url.lun, 1, 0xb0, 255, ended, session);
}

static struct scsi_task *ask_provisioning(struct session *session, iscsi_command_cb ended)
{
    return iscsi_inquiry_task(session->context, session->url.lun, 1, 0xb2, 255, ended, session);
}

static const struct probe {
    const char *name;
    bool needed; // otherwise a target that does not know it is no worse for that
    struct scsi_task *(*ask)(struct session *session, iscsi_command_cb ended);
    int (*learn)(const uint8_t *data, size_t size, struct lun_facts *facts);
} probes[] = {
    {"TEST UNIT READY", true, ask_ready, NULL},
    {"READ CAPACITY", true, ask_capacity, lun_decode_capacity},
    {"MODE SENSE", false, ask_caching, lun_decode_caching},
    {"INQUIRY (identification)", false, ask_id, lun_decode_id},
    {"INQUIRY (block limits)", false, ask_limits, lun_decode_limits},
    {"INQUIRY (provisioning)", false, ask_provisioning, lun_decode_provisioning},
};

static void cleared(struct iscsi_context *context, int status, void *data, void *private)
{
    struct session *session = private;
    if (is_broken(status)) {
        session->clear_failures++; // perhaps the target rejects what it does not know
        lose(session, "the connection broke");
        return;
    }
    if (data) // asked, not skipped
        session->clear_failures = 0;
    session->phase = UP;
    session->up_since_ns = clock_boot_ns();
    session->timer_ns = session->up_since_ns + PING_NS;
    session->silent_pings = 0;
    session->events->up(session->owner);
}

static void probed(struct session *session)
{
    char why[sizeof(session->why)] = "";
    int r = session->events->probed(session->owner, &session->facts, why, sizeof(why));
    if (r < 0)
        refuse(session, r, why);
    else if (session->clear_failures >= CLEAR_FAILURES_MAX)
        cleared(session->context, SCSI_STATUS_GOOD, NULL, session);
    else if (iscsi_task_mgmt_async(session->context, session->url.lun, ISCSI_TM_CLEAR_TASK_SET,
                                   0xffffffff, 0, cleared, session) != 0)
        lose(session, "cannot send a command");
}

static void probe_failed(struct session *session, int status, const struct scsi_sense *sense)
{
    const struct probe *probe = &probes[session->probe_step];
    char why[sizeof(session->why)];
    int error;
    bool reset;
    enum lun_verdict verdict = lun_judge(status, (int)sense->key, sense->ascq, &error, &reset);
    if (reset)
        session->events->reset(session->owner);
    if (verdict == LUN_AGAIN && ++session->probe_tries <= PROBE_TRIES_MAX) {
        probe_next(session);
    } else if (!probe->needed && (verdict == LUN_UNSUPPORTED || verdict == LUN_FAIL)) {
        session->probe_step++;
        probe_next(session);
    } else {
        (void)snprintf(why, sizeof(why), "%s: %s", probe->name,
                       lun_failure_text(status, (int)sense->key, sense->ascq));
        refuse(session, status == SCSI_STATUS_RESERVATION_CONFLICT ? -EBUSY : 0, why);
    }
}

static void probe_ended(struct iscsi_context *context, int status, void *data, void *private)
{
    struct session *session = private;
    struct scsi_task *task = data;
    const struct probe *probe = &probes[session->probe_step];
    int r = 0;
    if (is_broken(status)) {
        lose(session, "the connection broke");
    } else if (status != SCSI_STATUS_GOOD) {
        probe_failed(session, status, &task->sense);
    } else {
        if (probe->learn)
            r = probe->learn(task->datain.data, (size_t)MAX(task->datain.size, 0), &session->facts);
        if (r < 0 && probe->needed) {
            lun_session_lose(session, "the target's answer makes no sense");
        } else {
            session->probe_step++;
            probe_next(session);
        }
    }
    scsi_free_scsi_task(task);
}

static void probe_next(struct session *session)
{
    if (session->probe_step == ARRAY_LEN(probes))
        probed(session);
    else if (!probes[session->probe_step].ask(session, probe_ended))
        lose(session, "cannot send a command");
}

// ---- connecting

// The status of a login is told in libiscsi's text only, as a number in brackets.
#define LOGIN_AUTHENTICATION_FAILED "(513)"
#define LOGIN_NOT_AUTHORIZED        "(514)"

static void on_login(struct iscsi_context *context, int status, void *data, void *private);

static void on_connected(struct iscsi_context *context, int status, void *data, void *private)
{
    struct session *session = private;
    if (status != SCSI_STATUS_GOOD) {
        lose(session, "cannot connect");
        return;
    }
    session->phase = LOGGING_IN;
    if (iscsi_login_async(context, on_login, session) != 0)
        lose(session, "cannot log in");
}

static void follow_redirect(struct session *session)
{
    char address[MAX_STRING_SIZE + 1];
    (void)snprintf(address, sizeof(address), "%s", iscsi_get_target_address(session->context));
    (void)iscsi_disconnect(session->context);
    session->phase = CONNECTING;
    session->watched_fd = -1;
    if (iscsi_connect_async(session->context, address, on_connected, session) != 0)
        lose(session, "cannot connect to where the target sent us");
}

static void login_failed(struct session *session)
{
    const char *text = iscsi_get_error(session->context);
    bool refused = strstr(text, LOGIN_AUTHENTICATION_FAILED) || strstr(text, LOGIN_NOT_AUTHORIZED);
    if (refused && session->pretend_user) {
        session->pretend_user = false;
        lose(session, "the login failed");
    } else if (refused) {
        refuse(session, -EACCES,
               "the target refuses the login; check user, password and initiator name");
    } else {
        lose(session, "the login failed");
    }
}

static void on_login(struct iscsi_context *context, int status, void *data, void *private)
{
    struct session *session = private;
    if (status == SCSI_STATUS_REDIRECT && *iscsi_get_target_address(context)) {
        follow_redirect(session);
        return;
    }
    if (status != SCSI_STATUS_GOOD) {
        login_failed(session);
        return;
    }
    session->phase = PROBING;
    session->probe_step = session->probe_tries = 0;
    session->facts = (struct lun_facts){0};
    probe_next(session);
}

static int set_up_context(struct session *session)
{
    struct iscsi_context *context = session->context;
    const struct iscsi_url *url = &session->url;
    iscsi_set_noautoreconnect(context, 1);
    (void)iscsi_set_isid_random(context, session->id >> 8, session->id & 0xff);
    if (iscsi_set_session_type(context, ISCSI_SESSION_NORMAL) != 0 ||
        iscsi_set_targetname(context, url->target) != 0)
        return -EINVAL;
    const char *user = session->pretend_user ? "none" : url->user;
    const char *password = session->pretend_user ? "none" : url->passwd;
    if (*user && iscsi_set_initiator_username_pwd(context, user, password) != 0)
        return -EINVAL;
    if (*url->target_user &&
        iscsi_set_target_username_pwd(context, url->target_user, url->target_passwd) != 0)
        return -EINVAL;
    return 0;
}

static void connect_now(struct session *session)
{
    session->phase = CONNECTING;
    session->timer_ns = clock_boot_ns() + ATTEMPT_NS;
    session->refused = 0;
    session->context = iscsi_create_context(session->initiator);
    if (!session->context || set_up_context(session) < 0 ||
        iscsi_connect_async(session->context, session->portal, on_connected, session) != 0)
        lose(session, "cannot connect");
}

static void disconnect(struct session *session)
{
    int64_t now = clock_boot_ns();
    if (session->phase == UP) {
        session->away_since_ns = now;
        // Sessions that do not last are answered with longer and longer pauses.
        if (now - session->up_since_ns > ATTEMPT_NS)
            session->attempt = 0;
    }
    session->lost = true; // nothing is sent from the callbacks that follow
    session->phase = AWAY;
    if (session->context)
        (void)iscsi_destroy_context(session->context);
    session->context = NULL;
    session->watched_fd = -1; // closing it has removed it from the epoll set
    session->lost = false;
    session->timer_ns = now + lun_backoff_ns(session->attempt++, random_id());
}

// ---- the turn

static void watch(struct session *session)
{
    int fd = session->context ? iscsi_get_fd(session->context) : -1;
    if (fd < 0)
        return;
    // The bits that poll() and epoll know for these events are the same.
    uint32_t events = (uint32_t)iscsi_which_events(session->context);
    if (fd == session->watched_fd && events == session->watched_events)
        return;
    struct epoll_event event = {.events = events};
    int how = fd == session->watched_fd ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(session->epoll_fd, how, fd, &event) < 0)
        lun_session_lose(session, "cannot watch the connection");
    session->watched_fd = fd;
    session->watched_events = events;
}

static void service(struct session *session, int revents)
{
    if (revents != 0 && !session->lost && iscsi_service(session->context, revents) != 0)
        lose(session, "the connection broke");
}

static void service_socket(struct session *session)
{
    if (!session->context)
        return;
    int events = iscsi_which_events(session->context);
    if (session->phase != UP) { // here an event means more than that bytes can be moved
        struct pollfd pfd = {.fd = iscsi_get_fd(session->context), .events = (short)events};
        if (poll(&pfd, 1, 0) <= 0)
            return;
        events = pfd.revents;
    }
    service(session, events);
}

static void ping(struct session *session, int64_t now)
{
    session->silent_pings = session->heard ? 0 : session->silent_pings + 1;
    session->heard = false;
    if (iscsi_get_nops_in_flight(session->context) >= SILENT_PINGS_MAX &&
        session->silent_pings >= SILENT_PINGS_MAX)
        lun_session_lose(session, "the target does not answer");
    else if (iscsi_nop_out_async(session->context, NULL, NULL, 0, NULL) != 0)
        lose(session, "cannot ping the target");
    session->timer_ns = now + PING_NS;
}

static void run_timer(struct session *session)
{
    int64_t now = clock_boot_ns();
    if (now < session->timer_ns)
        return;
    if (session->phase == AWAY)
        connect_now(session);
    else if (session->phase == UP)
        ping(session, now);
    else
        lun_session_lose(session, session->phase == CONNECTING
                                      ? "no connection within 5 s"
                                      : "the target takes longer than 5 s to answer the login");
}

void lun_session_work(struct session *session)
{
    run_timer(session);
    service_socket(session);
}

void lun_session_push(struct session *session)
{
    if (lun_session_is_up(session))
        service(session, iscsi_which_events(session->context) & POLLOUT);
    if (session->lost)
        disconnect(session);
    watch(session);
}

int lun_session_fd(const struct session *session)
{
    return session->epoll_fd;
}

int64_t lun_session_deadline_ns(const struct session *session)
{
    return session->timer_ns;
}

const char *lun_session_why(const struct session *session)
{
    return *session->why ? session->why : "no answer yet";
}

int64_t lun_session_away_since_ns(const struct session *session)
{
    return session->away_since_ns;
}

int lun_session_refused(const struct session *session)
{
    return session->refused;
}

// ---- opening

// HOST, HOST:PORT, [V6] or [V6]:PORT, cut in place.
static void split_portal(char *portal, const char **ret_host, const char **ret_port)
{
    char *colon = strrchr(portal, ':');
    *ret_port = "3260";
    *ret_host = portal;
    if (colon && !strchr(colon, ']')) {
        *colon = '\0';
        *ret_port = colon + 1;
    }
    char *end = strchr(portal, ']');
    if (*portal == '[' && end) {
        *end = '\0';
        *ret_host = portal + 1;
    }
}

// With a number in place of a name.
static int resolve_portal(struct session *session, struct error *err)
{
    char text[MAX_STRING_SIZE + 1], number[NI_MAXHOST];
    const char *host, *port;
    (void)snprintf(text, sizeof(text), "%s", session->url.portal);
    split_portal(text, &host, &port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int r = getaddrinfo(host, NULL, &hints, &found);
    if (r != 0)
        return error_set(err, -EHOSTUNREACH, "store %s: the host %s is not known: %s",
                         session->name, host, gai_strerror(r));
    r = getnameinfo(found->ai_addr, found->ai_addrlen, number, sizeof(number), NULL, 0,
                    NI_NUMERICHOST);
    bool v6 = found->ai_family == AF_INET6;
    freeaddrinfo(found);
    if (r != 0)
        return error_set(err, -EINVAL, "store %s: %s", session->name, gai_strerror(r));
    int n = snprintf(session->portal, sizeof(session->portal), "%s%s%s:%s", v6 ? "[" : "", number,
                     v6 ? "]" : "", port);
    if ((size_t)n >= sizeof(session->portal))
        return error_set(err, -EINVAL, "store %s: the address is too long", session->name);
    return 0;
}

static int set_initiator(struct session *session, const char *name, struct error *err)
{
    char host[128] = "localhost";
    (void)gethostname(host, sizeof(host) - 1);
    int n = snprintf(session->initiator, sizeof(session->initiator), "%s%s",
                     name ? name : INITIATOR_DEFAULT, name ? "" : host);
    if (n > 0 && n <= INITIATOR_MAX)
        return 0;
    return error_set(err, -EINVAL, "store %s: an initiator name has 1 to %d characters",
                     session->name, INITIATOR_MAX);
}

static bool set_secret(char *to, const char *value)
{
    return !value || snprintf(to, MAX_STRING_SIZE + 1, "%s", value) <= MAX_STRING_SIZE;
}

static int parse(struct session *session, const struct store_config *config, struct error *err)
{
    struct iscsi_context *context = iscsi_create_context(INITIATOR_DEFAULT);
    if (!context)
        return error_sys(err, -ENOMEM, "store %s", session->name);
    struct iscsi_url *url = iscsi_parse_full_url(context, config->path);
    if (url) {
        session->url = *url;
        session->url.iscsi = NULL;
        iscsi_destroy_url(url);
    }
    (void)iscsi_destroy_context(context);
    if (!url)
        return error_set(err, -EINVAL,
                         "store %s: not the address of a LUN; the form is "
                         "iscsi://[USER[%%PASSWORD]@]HOST[:PORT]/TARGET/LUN",
                         session->name);
    if (!set_secret(session->url.user, config->user) ||
        !set_secret(session->url.passwd, config->password))
        return error_set(err, -EINVAL, "store %s: user and password have at most %d characters",
                         session->name, MAX_STRING_SIZE);
    session->pretend_user = !*session->url.user;
    // The same in every run of this end, another one for other LUNs.
    session->id = checksum32(session->name, strlen(session->name));
    return 0;
}

int lun_session_open(const struct store_config *config, const char *name,
                     const struct session_events *events, void *owner, struct session **ret_session,
                     struct error *err)
{
    struct session *session = calloc(1, sizeof(*session));
    if (!session)
        return error_sys(err, -ENOMEM, "store %s", name);
    session->events = events;
    session->owner = owner;
    session->name = name;
    session->watched_fd = -1;
    session->away_since_ns = clock_boot_ns();
    session->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int r = session->epoll_fd < 0 ? error_sys(err, -errno, "store %s", name) : 0;
    if (r == 0)
        r = parse(session, config, err);
    if (r == 0)
        r = set_initiator(session, config->initiator, err);
    if (r == 0)
        r = resolve_portal(session, err);
    if (r < 0) {
        (void)lun_session_free(session);
        return r;
    }
    *ret_session = session;
    return 0;
}

struct session *lun_session_free(struct session *session)
{
    if (!session)
        return NULL;
    disconnect(session);
    if (session->epoll_fd >= 0)
        (void)close(session->epoll_fd);
    explicit_bzero(&session->url, sizeof(session->url));
    free(session);
    return NULL;
}
