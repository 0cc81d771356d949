// SPDX-License-Identifier: Apache-2.0
// See bundle.h.
#include "common/channel/bundle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/channel/link_private.h"
#include "common/channel/side.h"

#define CARRIES_NS (100 * NS_PER_MS)
#define ROOM_MIN   512

struct channel_bundler {
    uint64_t home;
    pthread_mutex_t lock; // for:
    struct slot {
        bool taken;
        struct side *side; // NULL: still being opened
    } *slots;
    size_t n_slots;
    // Of the control thread: the links on which something waits, or has waited since the last sending.
    struct link **waiting;
    size_t n_waiting, waiting_room;
};

// --- slots ---

struct channel_bundler *channel_bundler_new(void)
{
    struct channel_bundler *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    while (b->home == 0)
        b->home = random_id();
    (void)pthread_mutex_init(&b->lock, NULL);
    return b;
}

struct channel_bundler *channel_bundler_free(struct channel_bundler *b)
{
    if (!b)
        return NULL;
    ENSURE(b->n_waiting == 0);
    (void)pthread_mutex_destroy(&b->lock);
    free(b->slots);
    free(b->waiting);
    free(b);
    return NULL;
}

uint64_t bundler_home(const struct channel_bundler *b)
{
    return b ? b->home : 0;
}

int bundler_reserve(struct channel_bundler *b, uint32_t *ret_slot)
{
    size_t slot = 0;
    if (!b)
        return 0;
    HOLD_LOCK(&b->lock);
    while (slot < b->n_slots && b->slots[slot].taken)
        slot++;
    if (slot == b->n_slots) {
        struct slot *slots = reallocarray(b->slots, b->n_slots + 1, sizeof(*slots));
        if (!slots)
            return -ENOMEM;
        b->slots = slots;
        b->n_slots++;
    }
    b->slots[slot] = (struct slot){.taken = true};
    *ret_slot = (uint32_t)slot;
    return 0;
}

void bundler_show(struct channel_bundler *b, uint32_t slot, struct side *side)
{
    if (!b)
        return;
    HOLD_LOCK(&b->lock);
    b->slots[slot].side = side;
}

void bundler_leave(struct channel_bundler *b, uint32_t slot)
{
    if (!b)
        return;
    HOLD_LOCK(&b->lock);
    b->slots[slot] = (struct slot){0};
}

struct side *bundler_find(struct channel_bundler *b, uint32_t slot)
{
    HOLD_LOCK(&b->lock);
    return slot < b->n_slots ? b->slots[slot].side : NULL;
}

// --- what waits ---

static bool list(struct link *l)
{
    struct channel_bundler *b = l->settings->bundler;
    if (l->out.listed)
        return true;
    if (b->n_waiting == b->waiting_room) {
        size_t room = MAX(2 * b->waiting_room, (size_t)16);
        struct link **waiting = reallocarray(b->waiting, room, sizeof(struct link *));
        if (!waiting)
            return false;
        b->waiting = waiting;
        b->waiting_room = room;
    }
    b->waiting[b->n_waiting++] = l;
    l->out.listed = true;
    return true;
}

uint8_t *bundle_room(struct link *l, uint64_t home, size_t size)
{
    struct bundle_out *out = &l->out;
    size_t whole = frame_entry_whole(size);
    bool fits = sizeof(struct frame_header) + out->used + whole <= FRAME_BUNDLE_MAX;
    if (out->used > 0 && (!fits || out->home != home))
        bundle_send_own(l, clock_boot_ns());
    if (out->used + whole > out->room) {
        size_t room = MAX(out->used + whole, MAX(2 * out->room, (size_t)ROOM_MIN));
        uint8_t *data = realloc(out->data, room);
        if (!data)
            return NULL;
        out->data = data;
        out->room = room;
    }
    if (!list(l))
        return NULL;
    out->home = home;
    return out->data + out->used + sizeof(struct frame_entry);
}

void bundle_add(struct link *l, uint32_t slot, size_t size)
{
    frame_entry_fill(l->out.data + l->out.used, slot, size);
    l->out.used += frame_entry_whole(size);
}

void bundle_done(struct link *l)
{
    struct channel_bundler *b = l->settings->bundler;
    for (size_t i = 0; l->out.listed && i < b->n_waiting; i++) {
        if (b->waiting[i] == l)
            b->waiting[i--] = b->waiting[--b->n_waiting];
    }
    free(l->out.data);
    l->out = (struct bundle_out){0};
}

// --- sending ---

// Links whose messages may travel together.
static bool together(const struct link *a, const struct link *b)
{
    return a->out.home == b->out.home && link_initiates(a) == link_initiates(b) && strcmp(a->mine, b->mine) == 0 &&
           strcmp(a->peers, b->peers) == 0;
}

// From here on it counts when the link's own connection does not bring through what it is given, or takes nothing.
static void expect(struct link *l, int64_t now)
{
    struct session *session = session_in_use(l);
    if (session && session->probe == 0) {
        session->probe_ns = now;
        session->probe = session->sent;
    }
}

// `n` links' entries, `size` bytes in all, over the carrying one's connection.
static void send_bundle(struct link *carrying, struct link **links, size_t n, size_t size, int64_t now)
{
    const struct session *session = session_in_use(carrying);
    uint8_t *message = session ? carrying->transport->push_room(carrying->push, sizeof(struct frame_header) + size) : NULL;
    if (message) {
        const struct frame frame = {
            .kind = FRAME_BUNDLE,
            .side = carrying->side,
            .path = carrying->path,
            .from_initiator = link_initiates(carrying),
            .nonce = session->nonce,
            .size = (uint32_t)size,
        };
        struct frame_header header;
        frame_fill(&header, &frame);
        memcpy(message, &header, sizeof(header));
        uint8_t *to = message + sizeof(header);
        for (size_t i = 0; i < n; i++)
            to = mempcpy(to, links[i]->out.data, links[i]->out.used);
        (void)carrying->transport->push_send(carrying->push, message, sizeof(header) + size); // what does not go is lost, as ever
        carrying->direct_ns = now;
        expect(carrying, now);
    }
}

void bundle_send_own(struct link *l, int64_t now)
{
    if (l->out.used > 0 && l->push)
        send_bundle(l, &l, 1, l->out.used, now);
    l->out.used = 0;
}

// Whose turn is first: that of the one that carries, while it lasts; then of those that have not for the longest time.
static int64_t turn_of(const struct link *l, int64_t now)
{
    return l->carries_ns > now - CARRIES_NS ? INT64_MIN : l->carries_ns;
}

// NULL: no connection takes anything.
static struct link *choose(struct link **links, size_t n, int64_t now)
{
    for (size_t tries = 0; tries < n; tries++) {
        struct link *best = links[0];
        for (size_t i = 1; i < n; i++) {
            if (turn_of(links[i], now) < turn_of(best, now))
                best = links[i];
        }
        if (link_can_send(best)) {
            if (turn_of(best, now) != INT64_MIN)
                best->carries_ns = now;
            return best;
        }
        expect(best, now);
        best->carries_ns = now - CARRIES_NS; // behind all others
    }
    return NULL;
}

// In as many bundles as it takes, each over a connection that takes it; where there is none, they are lost, as ever.
static void send_group(struct link **links, size_t n, int64_t now)
{
    for (size_t first = 0, end; first < n; first = end) {
        size_t size = links[first]->out.used;
        for (end = first + 1; end < n; end++) {
            if (sizeof(struct frame_header) + size + links[end]->out.used > FRAME_BUNDLE_MAX)
                break;
            size += links[end]->out.used;
        }
        struct link *carrying = choose(links, n, now);
        if (carrying)
            send_bundle(carrying, links + first, end - first, size, now);
    }
    for (size_t i = 0; i < n; i++)
        links[i]->out.used = 0;
}

// Moves those that may travel with the first one behind it; returns how many they are.
static size_t gather(struct link **links, size_t n)
{
    size_t found = 1;
    for (size_t i = 1; i < n; i++) {
        if (!together(links[0], links[i]))
            continue;
        struct link *l = links[i];
        links[i] = links[found];
        links[found++] = l;
    }
    return found;
}

void channel_bundler_send(struct channel_bundler *b)
{
    size_t n = 0;
    if (!b || b->n_waiting == 0)
        return;
    for (size_t i = 0; i < b->n_waiting; i++) {
        b->waiting[i]->out.listed = false;
        if (b->waiting[i]->out.used > 0)
            b->waiting[n++] = b->waiting[i];
    }
    int64_t now = clock_boot_ns();
    for (size_t at = 0; at < n;) {
        size_t group = gather(b->waiting + at, n - at);
        send_group(b->waiting + at, group, now);
        at += group;
    }
    b->n_waiting = 0;
}
