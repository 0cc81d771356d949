// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/store_rig.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/random.h"

#define MODEL_DEPTH      24
#define MODEL_LENGTH_MAX 200000

struct store *rig_open(const struct store_config *config)
{
    struct error err = {0};
    struct store *store = NULL;
    if (store_open(config, &store, &err) < 0)
        fail_msg("%s", err.text);
    assert_non_null(store);
    return store;
}

void rig_turn(struct store *store, int timeout_ms)
{
    int64_t deadline = store_deadline_ns(store), now = clock_boot_ns();
    if (deadline != INT64_MAX) {
        int64_t wait = MAX(deadline - now, 0) / NS_PER_MS + (deadline > now);
        timeout_ms = (int)MIN(wait, (int64_t)timeout_ms);
    }
    struct pollfd pfd = {.fd = store_fd(store), .events = POLLIN};
    (void)poll(&pfd, 1, timeout_ms);
    store_work(store);
}

void rig_wait(struct store *store, const bool *done)
{
    int64_t limit = clock_boot_ns() + 120 * NS_PER_S;
    while (!*done) {
        rig_turn(store, 1000);
        if (clock_boot_ns() > limit)
            fail_msg("a request has not ended for two minutes: %s", store_state_text(store));
    }
}

struct single {
    bool done;
    int status;
};

static void single_done(struct block_request *request, int status)
{
    struct single *single = request->owner;
    assert_false(single->done);
    single->done = true;
    single->status = status;
}

int rig_run(struct store *store, enum block_op op, unsigned flags, uint64_t offset, uint64_t length,
            void *data)
{
    struct single single = {0};
    struct block_request request = {.op = op,
                                    .flags = flags,
                                    .offset = offset,
                                    .length = length,
                                    .data = data,
                                    .done = single_done,
                                    .owner = &single};
    block_submit(store_block(store), &request);
    assert_false(single.done);
    block_kick(store_block(store));
    rig_wait(store, &single.done);
    return single.status;
}

// ---- random requests against a model in memory

struct model {
    struct store *store;
    uint64_t seed, state;
    uint8_t *bytes;
    unsigned out, left;
    struct slot {
        struct block_request request;
        struct model *model;
        uint8_t *data;
        bool busy;
    } slots[MODEL_DEPTH];
};

static uint64_t next_random(struct model *m)
{
    m->state = m->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return m->state >> 16;
}

static bool overlaps(const struct model *m, uint64_t offset, uint64_t length)
{
    uint64_t block = store_block(m->store)->block_size;
    for (unsigned i = 0; i < MODEL_DEPTH; i++) {
        const struct block_request *r = &m->slots[i].request;
        if (m->slots[i].busy && r->op != BLOCK_FLUSH &&
            offset / block <= (r->offset + r->length - 1) / block &&
            r->offset / block <= (offset + length - 1) / block)
            return true;
    }
    return false;
}

static void model_submit(struct model *m, struct slot *slot);

static void model_done(struct block_request *request, int status)
{
    struct slot *slot = request->owner;
    struct model *m = slot->model;
    uint8_t *bytes = m->bytes + request->offset;
    if (status < 0)
        fail_msg("seed %llu: request ended with %s", (unsigned long long)m->seed,
                 strerror(-status));
    if (request->op == BLOCK_READ &&
        memcmp(slot->data + request->offset % 7, bytes, request->length) != 0)
        fail_msg("seed %llu: wrong data at %llu + %llu", (unsigned long long)m->seed,
                 (unsigned long long)request->offset, (unsigned long long)request->length);
    slot->busy = false;
    m->out--;
    if (m->left > 0)
        model_submit(m, slot);
}

static enum block_op random_op(struct model *m)
{
    static const enum block_op often[] = {BLOCK_READ,    BLOCK_READ,  BLOCK_READ,  BLOCK_WRITE,
                                          BLOCK_WRITE,   BLOCK_WRITE, BLOCK_WRITE, BLOCK_ZERO,
                                          BLOCK_DISCARD, BLOCK_FLUSH};
    return often[next_random(m) % ARRAY_LEN(often)];
}

static uint64_t random_length(struct model *m)
{
    switch (next_random(m) % 4) {
    case 0:
        return 1 + next_random(m) % 5000;
    case 1:
        return 1 + next_random(m) % MODEL_LENGTH_MAX;
    default:
        return 4096 * (1 + next_random(m) % 4);
    }
}

static void model_submit(struct model *m, struct slot *slot)
{
    struct block_request *r = &slot->request;
    *r = (struct block_request){.op = random_op(m), .done = model_done, .owner = slot};
    do {
        r->length = random_length(m);
        r->offset = next_random(m) % (RIG_SIZE - r->length);
        if (next_random(m) % 2)
            r->offset -= r->offset % 4096;
    } while (overlaps(m, r->offset, r->length));
    r->data = slot->data + r->offset % 7; // mostly no multiple of anything
    r->flags = r->op == BLOCK_ZERO && next_random(m) % 2 ? BLOCK_NO_HOLE : 0;
    if (r->op == BLOCK_WRITE) {
        for (uint64_t i = 0; i < r->length; i += 8)
            slot->data[r->offset % 7 + i] = (uint8_t)next_random(m);
        memcpy(m->bytes + r->offset, r->data, r->length);
    } else if (r->op == BLOCK_ZERO || r->op == BLOCK_DISCARD) {
        memset(m->bytes + r->offset, 0, r->length);
    }
    slot->busy = true;
    m->out++;
    m->left--;
    block_submit(store_block(m->store), r);
    if (next_random(m) % 3)
        block_kick(store_block(m->store));
}

// Invariants of store.h: any offset, length and address; what is written is read; zeros are zeros.
void rig_random_requests_match_a_model(struct store *store, unsigned requests)
{
    struct model *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    m->store = store;
    m->seed = m->state = random_id() % 1000000000;
    m->left = requests;
    m->bytes = calloc(1, RIG_SIZE);
    assert_non_null(m->bytes);
    for (unsigned i = 0; i < MODEL_DEPTH; i++) {
        m->slots[i].model = m;
        m->slots[i].data = calloc(1, MODEL_LENGTH_MAX + 16);
        assert_non_null(m->slots[i].data);
        if (m->left > 0)
            model_submit(m, &m->slots[i]);
    }
    block_kick(store_block(store));
    int64_t limit = clock_boot_ns() + 120 * NS_PER_S;
    while (m->out > 0) {
        rig_turn(store, 1000);
        if (clock_boot_ns() > limit)
            fail_msg("seed %llu: stuck: %s", (unsigned long long)m->seed, store_state_text(store));
    }
    uint8_t *all = malloc(RIG_SIZE);
    assert_non_null(all);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, RIG_SIZE, all), 0);
    if (memcmp(all, m->bytes, RIG_SIZE) != 0)
        fail_msg("seed %llu: the store differs from the model", (unsigned long long)m->seed);
    for (unsigned i = 0; i < MODEL_DEPTH; i++)
        free(m->slots[i].data);
    free(all);
    free(m->bytes);
    free(m);
}

// A request larger than anything that the storage takes at once.
void rig_large_request_is_whole(struct store *store)
{
    size_t length = (32u << 20) + 3;
    uint8_t *out = malloc(length), *in = malloc(length);
    assert_non_null(out);
    assert_non_null(in);
    random_bytes(out, length);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 5, length, out), 0);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 5, length, in), 0);
    assert_memory_equal(out, in, length);
    uint8_t before[5];
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, 5, before), 0);
    assert_memory_equal(before, "\0\0\0\0\0", 5);
    free(out);
    free(in);
}

struct chain {
    struct store *store;
    struct block_request request;
    unsigned left;
    bool in_submit, done;
    uint8_t data[512];
};

static void chain_done(struct block_request *request, int status)
{
    struct chain *chain = request->owner;
    assert_int_equal(status, 0);
    assert_false(chain->in_submit);
    if (--chain->left == 0) {
        chain->done = true;
        return;
    }
    request->op = chain->left % 5 == 0 ? BLOCK_FLUSH : BLOCK_WRITE;
    chain->in_submit = true;
    block_submit(store_block(chain->store), request);
    chain->in_submit = false;
    block_kick(store_block(chain->store));
}

// A callback that submits and kicks never finds itself called from there, and the chain goes on to
// its end.
void rig_callbacks_may_submit(struct store *store)
{
    struct chain chain = {.store = store, .left = 1000};
    chain.request = (struct block_request){.op = BLOCK_WRITE,
                                           .offset = 4096,
                                           .length = sizeof(chain.data),
                                           .data = chain.data,
                                           .done = chain_done,
                                           .owner = &chain};
    block_submit(store_block(store), &chain.request);
    block_kick(store_block(store));
    rig_wait(store, &chain.done);
}

static void expect_zeros(struct store *store, uint64_t offset, uint64_t length)
{
    uint8_t *in = malloc(length);
    assert_non_null(in);
    memset(in, 1, length);
    assert_int_equal(rig_run(store, BLOCK_READ, 0, offset, length, in), 0);
    for (uint64_t i = 0; i < length; i++)
        assert_int_equal(in[i], 0);
    free(in);
}

// ZERO with and without a hole, and DISCARD: always zeros, and nothing beside the range is touched.
void rig_zero_kinds_leave_zeros(struct store *store)
{
    static const struct {
        enum block_op op;
        unsigned flags;
    } kinds[] = {{BLOCK_ZERO, 0}, {BLOCK_ZERO, BLOCK_NO_HOLE}, {BLOCK_DISCARD, 0}};
    static const uint64_t lengths[] = {1, 511, 4096, 100000, 6 << 20};
    size_t whole = 8 << 20;
    uint8_t *data = malloc(whole);
    assert_non_null(data);
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        for (unsigned l = 0; l < ARRAY_LEN(lengths); l++) {
            uint64_t at = 4096 * 3 + (l % 2) * 77;
            memset(data, 0xa5, whole);
            assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, whole, data), 0);
            assert_int_equal(rig_run(store, kinds[k].op, kinds[k].flags, at, lengths[l], NULL), 0);
            expect_zeros(store, at, lengths[l]);
            assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, whole, data), 0);
            assert_int_equal(data[at - 1], 0xa5);
            assert_int_equal(data[at + lengths[l]], 0xa5);
        }
    }
    free(data);
}

struct counted {
    unsigned ended;
};

static void counted_done(struct block_request *request, int status)
{
    struct counted *counted = request->owner;
    assert_true(status == 0 || status == -ECANCELED);
    counted->ended++;
}

// Every request that was submitted ends, and ends once, when the store is freed under it.
void rig_free_ends_everything(struct store *store)
{
    enum { N = 300 };
    static struct block_request requests[N];
    static uint8_t data[N][1024];
    struct counted counted = {0};
    for (unsigned i = 0; i < N; i++) {
        requests[i] = (struct block_request){.op = i % 50 == 49 ? BLOCK_FLUSH : BLOCK_WRITE,
                                             .offset = i * 8192 + 100,
                                             .length = sizeof(data[i]),
                                             .data = data[i],
                                             .done = counted_done,
                                             .owner = &counted};
        block_submit(store_block(store), &requests[i]);
        if (i == N / 2)
            block_kick(store_block(store));
    }
    assert_null(store_free(store));
    assert_int_equal(counted.ended, N);
}
