// SPDX-License-Identifier: Apache-2.0
// Time: the agenda, and the run from its start to its verdict. Everything that happens is an item; items of the same
// moment happen in the order in which they were put down. What belongs to a run of a daemon or to a boot is dropped when
// that has ended; what comes in while a daemon or its machine is not scheduled waits until it is.
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define TRACE_LINES 160
#define STEPS_MAX   400000

static struct {
    char lines[TRACE_LINES][200];
    unsigned next;
} ring;

void trace_dump(FILE *to, unsigned lines)
{
    unsigned from = ring.next > TRACE_LINES ? ring.next - TRACE_LINES : 0;
    if (ring.next - from > lines)
        from = ring.next - lines;
    for (unsigned i = from; i < ring.next; i++)
        fprintf(to, "%s\n", ring.lines[i % TRACE_LINES]);
}

void trace(struct sim *s, const struct host *h, const char *format, ...)
{
    if (!s->record)
        return;
    char *line = ring.lines[ring.next++ % TRACE_LINES];
    int n = snprintf(line, sizeof(ring.lines[0]), "%10.4f  %c %-12s ", (double)s->now / 1e9,
                     h ? h->letter : ' ',
                     !h             ? ""
                     : !h->up       ? "(off)"
                     : !h->running  ? "(no daemon)"
                                    : end_state_name(h->view.state));
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line + n, sizeof(ring.lines[0]) - (size_t)n, format, args);
    va_end(args);
    if (s->trace)
        printf("%s\n", line);
}

void fail(struct sim *s, const char *format, ...)
{
    if (s->failed)
        return;
    s->failed = true;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(s->verdict, sizeof(s->verdict), format, args);
    va_end(args);
    trace(s, NULL, "FAILED: %s", s->verdict);
}

uint64_t rnd(struct sim *s, uint64_t below)
{
    s->random += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = s->random;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return below ? z % below : z;
}

bool chance(struct sim *s, unsigned of_1000)
{
    return rnd(s, 1000) < of_1000;
}

// ---- the agenda: a heap ----

static bool earlier(const struct item *a, const struct item *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void swap(struct item *a, struct item *b)
{
    struct item t = *a;
    *a = *b;
    *b = t;
}

static void push(struct sim *s, struct item item)
{
    if (s->item_count == s->item_room) {
        s->item_room = s->item_room ? s->item_room * 2 : 256;
        s->items = realloc(s->items, s->item_room * sizeof(*s->items));
        ENSURE(s->items);
    }
    unsigned i = s->item_count++;
    s->items[i] = item;
    for (; i > 0 && earlier(&s->items[i], &s->items[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&s->items[i], &s->items[(i - 1) / 2]);
}

static struct item pop(struct sim *s)
{
    struct item first = s->items[0];
    s->items[0] = s->items[--s->item_count];
    for (unsigned i = 0;;) {
        unsigned least = i, l = 2 * i + 1;
        if (l < s->item_count && earlier(&s->items[l], &s->items[least]))
            least = l;
        if (l + 1 < s->item_count && earlier(&s->items[l + 1], &s->items[least]))
            least = l + 1;
        if (least == i)
            return first;
        swap(&s->items[i], &s->items[least]);
        i = least;
    }
}

static void plan(struct sim *s, struct item item)
{
    ENSURE(item.at >= s->now);
    item.order = ++s->orders;
    push(s, item);
}

void plan_daemon(struct host *h, int64_t at, item_fn *fn, void *arg, uint64_t n)
{
    plan(h->sim, (struct item){.at = at, .fn = fn, .host = h, .life = h->life, .boot = h->boot,
                               .arg = arg, .n = n, .daemon = true});
}

void plan_host(struct host *h, int64_t at, item_fn *fn, void *arg, uint64_t n)
{
    plan(h->sim, (struct item){.at = at, .fn = fn, .host = h, .boot = h->boot, .arg = arg, .n = n});
}

void plan_world(struct sim *s, int64_t at, struct host *h, item_fn *fn, uint64_t n)
{
    plan(s, (struct item){.at = at, .fn = fn, .host = h, .n = n});
}

int64_t mailbox_time(struct host *h, int box)
{
    struct sim *s = h->sim;
    // Mostly at once; now and then the thread is busy.
    int64_t delay = (int64_t)rnd(s, 60) * NS_PER_US;
    if (chance(s, 30))
        delay += (int64_t)rnd(s, 20) * NS_PER_MS;
    h->letter_at[box] = MAX(h->letter_at[box], s->now + delay);
    return h->letter_at[box];
}

// ---- a run ----

static bool is_void(const struct item *item)
{
    const struct host *h = item->host;
    if (item->life && (item->life != h->life || !h->running))
        return true;
    return item->boot && (item->boot != h->boot || !h->up);
}

// Until when the item has to wait, because whoever would do it is not scheduled; 0 when it need not.
static int64_t held_until(const struct sim *s, const struct item *item)
{
    const struct host *h = item->host;
    int64_t until = 0;
    if (item->boot && h->paused_until > s->now)
        until = h->paused_until;
    if (item->daemon && h->stalled_until > s->now)
        until = MAX(until, h->stalled_until);
    return until;
}

static void turn(struct sim *s)
{
    struct item item = pop(s);
    if (item.at > s->now) {
        judge_roles(s);
        s->now = item.at;
    }
    if (is_void(&item)) {
        free(item.arg);
        return;
    }
    int64_t until = held_until(s, &item);
    if (until) {
        item.at = until; // keeps its place among those that wait
        push(s, item);
        return;
    }
    s->steps++;
    item.fn(item.host, item.arg, item.n);
    free(item.arg);
}

static void timing(struct sim *s, int mode)
{
    static const struct {
        int64_t beat, timeout, decision, margin;
    } choices[] = {{200, 2000, 2000, 300}, {250, 2000, 2000, 500}, {100, 1000, 1500, 200}};
    unsigned i = (unsigned)rnd(s, ARRAY_LEN(choices));
    s->config = (struct end_config){
        .mode = mode < 0 ? (enum end_mode)rnd(s, 3) : (enum end_mode)mode,
        .beat_ns = choices[i].beat * NS_PER_MS,
        .timeout_ns = choices[i].timeout * NS_PER_MS,
        .decision_ns = choices[i].decision * NS_PER_MS,
        .margin_ns = choices[i].margin * NS_PER_MS,
        .automatic = !chance(s, 50),
        .has_waypoint = true,
        .alone_when_slow = chance(s, 100),
        .volumes = s->volumes,
    };
}

static void prepare(struct sim *s, uint64_t seed, int mode, bool tracing, bool record)
{
    memset(s, 0, sizeof(*s));
    ring.next = 0;
    s->seed = seed;
    s->random = seed * UINT64_C(0xd1342543de82ef95) + 1;
    s->now = 1000 * NS_PER_S;
    s->trace = tracing;
    s->record = tracing || record;
    s->volumes = chance(s, 700) ? 1 : 2;
    s->size = chance(s, 800) ? 64 * 1024 : 256 * 1024;
    s->slow_ns = 2 * NS_PER_MS;
    s->eagerness = chance(s, 200) ? 30 : 100U << rnd(s, 4);
    s->public_up[0] = s->public_up[1] = true;
    s->queue_records = chance(s, 500) ? UNSAFE_RECORDS_MIN : 0;
    s->spill_bytes = rnd(s, 6) * spill_quota_min((uint32_t)s->size);
    s->spill_from = 2 + (unsigned)rnd(s, 49);
    timing(s, mode);
    s->primary_stops = chance(s, 300);
    s->overflow = chance(s, 700)   ? SERVICE_OVERFLOW_MAP
                  : chance(s, 500) ? SERVICE_OVERFLOW_THROTTLE
                                   : SERVICE_OVERFLOW_SUSPEND;
    ledger_init(s);
    host_init(s, 0);
    host_init(s, 1);
    static const char *const modes[] = {"async", "sync", "strict"};
    trace(s, NULL, "seed %llu, %s, %u volumes of %llu KiB, T %lld ms, a request every %u ms%s",
          (unsigned long long)seed, modes[s->config.mode], s->volumes,
          (unsigned long long)s->size / 1024, (long long)(s->config.timeout_ns / NS_PER_MS),
          s->eagerness, s->config.automatic ? "" : ", takeover by hand");
}

void sim_run(struct sim *s, uint64_t seed, int mode, bool tracing, bool record)
{
    prepare(s, seed, mode, tracing, record);
    guest_init(s);
    for (int i = 0; i < 2; i++) {
        host_boot(&s->host[i]);
        daemon_start(&s->host[i]);
    }
    faults_init(s);
    progress_watch(s);
    while (!s->failed && s->phase != PHASE_DONE && s->item_count > 0) {
        turn(s);
        if (s->steps > STEPS_MAX)
            fail(s, "it does not come to an end");
    }
    cover_run(s);
}

void sim_free(struct sim *s)
{
    host_free(&s->host[0]);
    host_free(&s->host[1]);
    net_free(s);
    ledger_free(s);
    for (unsigned i = 0; i < s->item_count; i++)
        free(s->items[i].arg);
    free(s->items);
}
