// SPDX-License-Identifier: Apache-2.0
// See channel.h: the two sides of a channel put together, and the check of what the user
// configures.
#include "common/channel/channel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/channel/nano.h"
#include "common/channel/side.h"

#define SILENCE_NS     (2 * NS_PER_S)
#define SILENCE_NS_MIN (50 * NS_PER_MS)

struct path {
    struct channel_path config;
    char mine[INET6_ADDRSTRLEN], peers[INET6_ADDRSTRLEN];
};

struct channel {
    struct link_settings settings;
    struct channel_ops ops;
    int n_paths;
    struct path paths[CHANNEL_PATHS_MAX];
    struct side control, data;
    _Atomic uint64_t newest_run; // of the peer: struct link
    uint64_t told_run;           // control side: the data side was told of
    unsigned told_up;            // ... and that these paths' control links are up: one bit each
    bool shown;                  // control side: to the bundler
};

// --- opening ---

// Reads an address literal; *ret_family, and whether it is a loopback address.
static int parse_address(const char *text, int *ret_family, bool *ret_loopback)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (text && inet_pton(AF_INET, text, &v4) == 1) {
        *ret_family = AF_INET;
        *ret_loopback = ntohl(v4.s_addr) >> 24 == 127;
        return 0;
    }
    if (text && inet_pton(AF_INET6, text, &v6) == 1 && !IN6_IS_ADDR_LINKLOCAL(&v6)) {
        *ret_family = AF_INET6;
        *ret_loopback = IN6_IS_ADDR_LOOPBACK(&v6);
        return 0;
    }
    return -EINVAL;
}

static int check_address(const struct channel_config *config, int i, const char *field,
                         const char *text, int *ret_family, struct error *err)
{
    bool loopback;
    if (parse_address(text, ret_family, &loopback) < 0)
        return error_set(err, -EINVAL,
                         "channel path %d: %s \"%s\" is not an IPv4 or IPv6 address (names and "
                         "link-local addresses are "
                         "not allowed)",
                         i, field, text ? text : "");
    if (!config->key && !loopback)
        return error_set(err, -EPERM,
                         "channel path %d: %s %s is not a loopback address, and there is no key "
                         "file: the channel would be "
                         "readable and open to anybody; make a key with \"pairctl keygen\", copy "
                         "it to both machines and "
                         "name it in the pair file",
                         i, field, text);
    return 0;
}

static int add_path(struct channel *ch, const struct channel_config *config, int i,
                    struct error *err)
{
    struct path *path = &ch->paths[i];
    int mine, peers;
    path->config = config->paths[i];
    int r = check_address(config, i, "own address", path->config.mine, &mine, err);
    if (r == 0)
        r = check_address(config, i, "peer's address", path->config.peers, &peers, err);
    if (r < 0)
        return r;
    if (mine != peers)
        return error_set(err, -EINVAL, "channel path %d: %s and %s are not of one address family",
                         i, path->config.mine, path->config.peers);
    if (path->config.peers_port == 0)
        path->config.peers_port = path->config.port;
    if (path->config.port == 0 || path->config.port == UINT16_MAX ||
        path->config.peers_port == UINT16_MAX)
        return error_set(err, -EINVAL, "channel path %d: the port has to be between 1 and 65534",
                         i);
    if (strlen(path->config.mine) >= sizeof(path->mine) ||
        strlen(path->config.peers) >= sizeof(path->peers))
        return error_set(err, -EINVAL, "channel path %d: an address is too long", i);
    strcpy(path->mine, path->config.mine);
    strcpy(path->peers, path->config.peers);
    path->config.mine = path->mine;
    path->config.peers = path->peers;
    if (path->config.kind == CHANNEL_PATH_CHANNEL)
        path->config.data = true;
    return 0;
}

static int settings_fill(struct channel *ch, const struct channel_config *config, struct error *err)
{
    size_t length = config->pair ? strlen(config->pair) : 0;
    if (length == 0 || length > CHANNEL_NAME_MAX)
        return error_set(err, -EINVAL, "a pair's name has 1 to %d bytes", CHANNEL_NAME_MAX);
    if (config->n_paths < 1 || config->n_paths > CHANNEL_PATHS_MAX)
        return error_set(err, -EINVAL, "a channel has 1 to %d paths", CHANNEL_PATHS_MAX);
    ENSURE(config->run != 0);
    ENSURE(config->identity == CHANNEL_PRIMARY || config->identity == CHANNEL_SECONDARY);
    memcpy(ch->settings.pair, config->pair, length);
    memcpy(ch->settings.digest, config->digest, sizeof(config->digest));
    ch->settings.digest_difference = config->digest_difference;
    ch->settings.identity = config->identity;
    ch->settings.run = config->run;
    ch->settings.key = config->key;
    ch->settings.silence_ns =
        config->silence_ns > 0 ? MAX(config->silence_ns, SILENCE_NS_MIN) : SILENCE_NS;
    ch->settings.protocol = config->protocol ? config->protocol : CHANNEL_PROTOCOL;
    ch->n_paths = config->n_paths;
    for (int i = 0; i < config->n_paths; i++) {
        int r = add_path(ch, config, i, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static void add_link(struct channel *ch, struct side *side, int i)
{
    const struct channel_path *path = &ch->paths[i].config;
    struct link *l = &side->links[i];
    const uint16_t offset = side->kind == CHANNEL_SIDE_DATA;
    side->n_links = i + 1;
    l->path = (unsigned)i;
    if (side->kind == CHANNEL_SIDE_DATA && !path->data)
        return;
    link_init(l, &ch->settings, side->kind, (unsigned)i, side->epoll, side->transport, side->pull);
    l->mine = path->mine;
    l->peers = path->peers;
    l->port = (uint16_t)(path->port + offset);
    l->peers_port = (uint16_t)(path->peers_port + offset);
    l->control_heard_ns = &ch->control.links[i].heard_ns;
    l->control_up = &ch->control.links[i].up;
    l->newest_run = &ch->newest_run;
}

// One that listens, and one for each control link; data links take none (transport.h).
unsigned channel_sockets(int n_paths)
{
    return 1 + (unsigned)n_paths;
}

int channel_carrier(void)
{
    return nano_carrier();
}

void channel_carrier_end(int carrier)
{
    nano_carrier_end(carrier);
}

int channel_open(const struct channel_config *config, const struct channel_ops *ops, void *context,
                 struct channel **ret_channel, struct error *err)
{
    struct channel *ch = calloc(1, sizeof(*ch));
    if (!ch)
        return error_sys(err, -ENOMEM, "channel");
    int r = settings_fill(ch, config, err);
    if (r < 0) {
        free(ch);
        return r;
    }
    ch->ops = *ops;
    r = side_init(&ch->control, CHANNEL_SIDE_CONTROL, &ch->ops, context, err);
    int r2 = side_init(&ch->data, CHANNEL_SIDE_DATA, &ch->ops, context, r < 0 ? NULL : err);
    if (r == 0 && r2 == 0) {
        r = bundler_reserve(config->bundler, &ch->settings.slot);
        if (r < 0)
            (void)error_sys(err, r, "channel");
        else
            ch->control.bundler = ch->settings.bundler = config->bundler;
    }
    if (r < 0 || r2 < 0) {
        channel_free(ch);
        return r < 0 ? r : r2;
    }
    for (int i = 0; i < ch->n_paths; i++) {
        add_link(ch, &ch->control, i);
        add_link(ch, &ch->data, i);
    }
    *ret_channel = ch;
    return 0;
}

struct channel *channel_free(struct channel *ch)
{
    if (!ch)
        return NULL;
    bundler_leave(ch->settings.bundler, ch->settings.slot);
    side_done(&ch->data);
    side_done(&ch->control);
    explicit_bzero(&ch->settings, sizeof(ch->settings));
    free(ch);
    return NULL;
}

// --- control ---

int channel_fd(const struct channel *ch)
{
    return ch->control.epoll;
}

#define CONTROL_BATCH 256

// How long a data link may be silent depends on its path's control link, and it is left as soon as a peer has a new run.
static void tell_data(struct channel *ch)
{
    uint64_t run = ch->newest_run;
    unsigned up = 0;
    for (int i = 0; i < ch->n_paths; i++)
        up |= ch->control.links[i].up ? 1U << i : 0;
    if (run == ch->told_run && up == ch->told_up)
        return;
    ch->told_run = run;
    ch->told_up = up;
    side_kick(&ch->data);
}

void channel_work(struct channel *ch)
{
    struct received m;
    if (!ch->shown) {
        bundler_show(ch->settings.bundler, ch->settings.slot, &ch->control);
        ch->shown = true;
    }
    for (int i = 0; i < CONTROL_BATCH && side_receive(&ch->control, &m) == 0; i++) {
        if (ch->ops.on_control)
            ch->ops.on_control(ch->control.context, (int)m.link->path, m.run, m.data, m.size);
        ch->control.transport->message_free(m.buffer);
    }
    side_work(&ch->control);
    tell_data(ch);
}

int64_t channel_deadline_ns(const struct channel *ch)
{
    return ch->control.deadline_ns;
}

static int send_control_over(struct channel *ch, int path, const struct iovec *iov, int64_t now)
{
    return link_send_soon(&ch->control.links[path], iov, iov->iov_len, now) == 0;
}

int channel_send_control(struct channel *ch, int path, const void *data, size_t size)
{
    const struct iovec iov = {(void *)data, size};
    int64_t now = clock_boot_ns();
    int sent = 0;
    if (size > CHANNEL_CONTROL_MAX)
        return -EMSGSIZE;
    if (path < CHANNEL_ALL_PATHS || path >= ch->n_paths)
        return -EINVAL;
    HOLD_LOCK(&ch->control.lock);
    for (int i = 0; i < ch->n_paths; i++)
        if (path == CHANNEL_ALL_PATHS || path == i)
            sent += send_control_over(ch, i, &iov, now);
    return sent;
}

// --- data ---

#define STALL_FACTOR 5 // times the silence without taking anything, before another path is tried
#define BROKEN_NS (200 * NS_PER_MS) // likewise without a connection: where a new one can be made, nanomsg has done so

int channel_data_send_fd(const struct channel *ch)
{
    return ch->data.send_epoll;
}

static int check_iov(const struct iovec *iov, int n, size_t *ret_size)
{
    size_t size = 0;
    if (n < 0 || n > CHANNEL_IOV_MAX)
        return -EMSGSIZE;
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > CHANNEL_DATA_MAX - size)
            return -EMSGSIZE;
        size += iov[i].iov_len;
    }
    *ret_size = size;
    return 0;
}

// The current link takes nothing. After a while another one is tried, if there is one.
static int data_blocked(struct channel *ch, int64_t now)
{
    struct side *side = &ch->data;
    if (side->blocked_ns == 0)
        side->blocked_ns = now;
    const struct link *l = &side->links[side->send_path];
    bool broken = !l->push || !l->transport->push_connected(l->push);
    int64_t patience = broken ? BROKEN_NS : STALL_FACTOR * ch->settings.silence_ns;
    if (now - side->blocked_ns > patience && side_has_other(side, now)) {
        side->blocked_ns = now;
        side_choose(side, true, now);
        if (side->say_path)
            side_kick(side);
    }
    return -EAGAIN;
}

static int send_over_current(struct channel *ch, const struct iovec *iov, int n, size_t size)
{
    struct side *side = &ch->data;
    int64_t now = clock_boot_ns();
    if (side->send_path == CHANNEL_NO_PATH)
        return -ENOTCONN;
    struct link *l = &side->links[side->send_path];
    if (!l->up || link_is_former(l))
        return -ENOTCONN;
    if (!link_can_send(l))
        return data_blocked(ch, now);
    int r = link_send(l, FRAME_USER, iov, n, size, now);
    if (r == -EAGAIN)
        return data_blocked(ch, now);
    side->blocked_ns = 0;
    return r;
}

// What found out that the path takes nothing goes over the next one: an acknowledgement is said once.
static int data_send_locked(struct channel *ch, const struct iovec *iov, int n, size_t size)
{
    int path = ch->data.send_path;
    int r = send_over_current(ch, iov, n, size);
    return r == -EAGAIN && ch->data.send_path != path ? send_over_current(ch, iov, n, size) : r;
}

int channel_data_send(struct channel *ch, const struct iovec *iov, int n)
{
    size_t size;
    int r = check_iov(iov, n, &size);
    if (r < 0)
        return r;
    HOLD_LOCK(&ch->data.lock);
    return data_send_locked(ch, iov, n, size);
}

static struct link *current_link(struct channel *ch)
{
    struct side *side = &ch->data;
    struct link *l = side->send_path == CHANNEL_NO_PATH ? NULL : &side->links[side->send_path];
    return l && l->push ? l : NULL;
}

int channel_data_send_soon(struct channel *ch, const struct iovec *iov, int n)
{
    size_t size;
    int r = check_iov(iov, n, &size);
    if (r < 0)
        return r;
    HOLD_LOCK(&ch->data.lock);
    struct link *l = current_link(ch);
    if (l)
        l->transport->push_more(l->push, true);
    r = data_send_locked(ch, iov, n, size);
    if (l)
        l->transport->push_more(l->push, false);
    return r;
}

void channel_data_push(struct channel *ch)
{
    HOLD_LOCK(&ch->data.lock);
    struct link *l = current_link(ch);
    if (l)
        l->transport->push_all(l->push);
}

void channel_data_look(struct channel *ch)
{
    HOLD_LOCK(&ch->data.lock);
    struct side *side = &ch->data;
    struct link *l = side->send_path == CHANNEL_NO_PATH ? NULL : &side->links[side->send_path];
    if (!l || !l->up || !l->push)
        return;
    if (!l->transport->push_connected(l->push))
        (void)data_blocked(ch, clock_boot_ns());
    else if (link_can_send(l))
        side->blocked_ns = 0;
}

uint64_t channel_data_generation(struct channel *ch, int *ret_path, uint64_t *ret_peer_run)
{
    HOLD_LOCK(&ch->data.lock);
    if (ret_path)
        *ret_path = ch->data.send_path;
    if (ret_peer_run)
        *ret_peer_run = ch->data.send_run;
    return ch->data.generation;
}

int channel_data_failover(struct channel *ch)
{
    HOLD_LOCK(&ch->data.lock);
    int path = ch->data.send_path;
    side_choose(&ch->data, true, clock_boot_ns());
    if (ch->data.say_path)
        side_kick(&ch->data);
    return ch->data.send_path == path ? -ENOTCONN : 0;
}

int channel_data_fd(const struct channel *ch)
{
    return ch->data.epoll;
}

// Anything that may stand between two messages of the user makes a new generation.
static uint64_t receive_generation(struct side *side, const struct received *m)
{
    if (side->last_path != (int)m->link->path || side->last_run != m->run ||
        side->last_losses != m->link->losses)
        side->receive_generation++;
    side->last_path = (int)m->link->path;
    side->last_run = m->run;
    side->last_losses = m->link->losses;
    return side->receive_generation;
}

int channel_data_receive(struct channel *ch, struct channel_message *ret_message)
{
    struct received m;
    int r = side_receive(&ch->data, &m);
    if (r < 0)
        return r;
    ENSURE((uintptr_t)m.data % 16 == 0); // as transport_tcp has it, and the layout of a frame
    *ret_message = (struct channel_message){
        .data = m.data,
        .size = m.size,
        .path = (int)m.link->path,
        .peer_run = m.run,
        .generation = receive_generation(&ch->data, &m),
        .buffer = m.buffer,
    };
    return 0;
}

void channel_message_free(struct channel_message *message)
{
    if (!message)
        return;
    transport_tcp.message_free(message->buffer);
    *message = (struct channel_message){0};
}

// The inner header in front of the data is of no use any more: the address of the buffer is kept there.
_Static_assert(sizeof(struct frame_inner) >= sizeof(void *), "room for the buffer's address");

void *channel_message_take(struct channel_message *message)
{
    uint8_t *data = message->data;
    memcpy(data - sizeof(void *), &message->buffer, sizeof(void *));
    *message = (struct channel_message){0};
    return data;
}

void channel_data_free(void *data)
{
    void *buffer;
    if (!data)
        return;
    memcpy(&buffer, (uint8_t *)data - sizeof(void *), sizeof(void *));
    transport_tcp.message_free(buffer);
}

void channel_data_work(struct channel *ch)
{
    side_work(&ch->data);
}

int64_t channel_data_deadline_ns(const struct channel *ch)
{
    return ch->data.deadline_ns;
}

// --- status ---

int channel_paths(const struct channel *ch)
{
    return ch->n_paths;
}

// Why there is no link: what was said last, while it may still be so.
static bool is_refused(const struct link *l)
{
    if (l->up || l->refused.at_ns == 0)
        return false;
    return l->refused_ns != 0 || clock_boot_ns() - l->refused.at_ns < SAID_SAME_NS;
}

static void link_info(struct side *side, int path, struct channel_link_info *ret)
{
    HOLD_LOCK(&side->lock);
    const struct link *l = &side->links[path];
    *ret = (struct channel_link_info){
        .present = l->present,
        .up = l->up,
        .heard_ns = l->heard_ns,
        .peer_run = l->peer_run,
        .bytes_in = l->bytes_in,
        .bytes_out = l->bytes_out,
        .messages_in = l->messages_in,
        .messages_out = l->messages_out,
        .dropped = l->dropped,
    };
    if (is_refused(l))
        memcpy(ret->refused, l->refused.text, MIN(sizeof(ret->refused), sizeof(l->refused.text)));
}

void channel_path_info(struct channel *ch, int path, struct channel_path_info *ret_info)
{
    ENSURE(path >= 0 && path < ch->n_paths);
    const struct channel_path *config = &ch->paths[path].config;
    int current;
    (void)channel_data_generation(ch, &current, NULL);
    *ret_info = (struct channel_path_info){
        .kind = config->kind,
        .mine = config->mine,
        .peers = config->peers,
        .port = config->port,
        .data_current = current == path,
    };
    link_info(&ch->control, path, &ret_info->control);
    link_info(&ch->data, path, &ret_info->data);
}
