// SPDX-License-Identifier: Apache-2.0
// A store for tests of what happens when storage fails: "fault:CONTROL:REAL" is the store REAL, but
// every request is held against the lines of the file CONTROL first, each
//
//     OP WHAT [OFFSET LENGTH]
//
// OP is read, write, zero, discard, flush or any; WHAT is EIO, ENOSPC, EROFS, EBADE or hang. The
// first line that fits (operation, and a byte of the range) decides: the request fails without
// reaching REAL, or waits until no such line is there any more. A missing or empty file: no faults.
// A flush that fails here is final, as it would be in REAL.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/store/backend.h"

#define CONTROL_MAX 65536
#define LOOK_NS     (20 * NS_PER_MS) // how often held requests are looked at again

struct fault {
    struct store store; // first
    char control[PATH_SIZE];
    struct request_queue failing; // end in the next turn
    struct request_queue held;
    int64_t look_ns;
    bool turning;
};

#define HANG 1 // as the outcome of a request, beside 0 and -errno

static const struct word {
    const char *text;
    int value;
} ops[] = {{"read", BLOCK_READ},       {"write", BLOCK_WRITE}, {"zero", BLOCK_ZERO},
           {"discard", BLOCK_DISCARD}, {"flush", BLOCK_FLUSH}, {"any", -1}},
  outcomes[] = {
      {"EIO", -EIO}, {"ENOSPC", -ENOSPC}, {"EROFS", -EROFS}, {"EBADE", -EBADE}, {"hang", HANG}};

static struct fault *fault_of(struct store *store)
{
    return (struct fault *)store;
}

static const struct word *find_word(const struct word *words, size_t n, const char *text)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(words[i].text, text) == 0)
            return &words[i];
    return NULL;
}

static int line_outcome(const char *line, const struct block_request *request)
{
    char op_text[16], what_text[16];
    unsigned long long offset = 0, length = UINT64_MAX;
    int n = sscanf(line, "%15s %15s %llu %llu", op_text, what_text, &offset, &length);
    if (n != 2 && n != 4)
        return 0;
    const struct word *op = find_word(ops, ARRAY_LEN(ops), op_text);
    const struct word *what = find_word(outcomes, ARRAY_LEN(outcomes), what_text);
    if (!op || !what || (op->value >= 0 && op->value != (int)request->op))
        return 0;
    bool hit = n == 2 || (request->op != BLOCK_FLUSH && request->offset < offset + length &&
                          offset < request->offset + request->length);
    return hit ? what->value : 0;
}

static int outcome(const struct fault *fault, const struct block_request *request)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    int r = store_refusal(&fault->store, request);
    if (r < 0 || file_read(fault->control, CONTROL_MAX, &text, &size, NULL) < 0)
        return r;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line && r == 0;
         line = strtok_r(NULL, "\n", &rest))
        r = line_outcome(line, request);
    return r;
}

static void fault_submit(struct block *block, struct block_request *request)
{
    struct fault *fault = fault_of(store_of(block));
    int r = outcome(fault, request);
    if (r == 0) {
        fault->store.real->block.ops->submit(&fault->store.real->block, request);
        return;
    }
    if (r == HANG) {
        request_push(&fault->held, request);
        fault->look_ns = clock_boot_ns() + LOOK_NS;
        store_count(&fault->store, 1);
        return;
    }
    if (request->op == BLOCK_FLUSH && fault->store.failed_flush == 0)
        fault->store.failed_flush = r;
    request_progress(request)->status = r;
    request_push(&fault->failing, request);
    fault->look_ns = 0;
}

static void look_again(struct fault *fault)
{
    struct request_queue held = fault->held;
    fault->held = (struct request_queue){0};
    struct block_request *request;
    while ((request = request_pop(&held))) {
        store_count(&fault->store, -1);
        fault_submit(&fault->store.block, request);
    }
}

static void turn(struct fault *fault)
{
    if (fault->turning)
        return;
    fault->turning = true;
    fault->look_ns = INT64_MAX;
    look_again(fault);
    struct request_queue failing = fault->failing; // what callbacks add comes next time
    fault->failing = (struct request_queue){0};
    struct block_request *request;
    while ((request = request_pop(&failing)))
        request->done(request, request_progress(request)->status);
    block_kick(&fault->store.real->block);
    fault->turning = false;
}

static void fault_kick(struct block *block)
{
    turn(fault_of(store_of(block)));
}

static void fault_work(struct store *store)
{
    struct fault *fault = fault_of(store);
    store_work(fault->store.real);
    turn(fault);
}

static int fault_fd(const struct store *store)
{
    return store_fd(store->real);
}

static int64_t fault_deadline(const struct store *store)
{
    const struct fault *fault = (const struct fault *)store;
    return MIN(fault->look_ns, store_deadline_ns(fault->store.real));
}

static const char *fault_state_text(struct store *store)
{
    struct fault *fault = fault_of(store);
    if (store->failed_flush < 0)
        return STORE_FAILED_FLUSH_TEXT;
    return fault->held.head ? "requests hang (fault)" : store_state_text(fault->store.real);
}

static bool fault_is_up(const struct store *store)
{
    return store_is_up(store->real);
}

static void fault_extent(struct store *store, uint64_t offset, uint64_t length, unsigned *ret_flags,
                         uint64_t *ret_length)
{
    store_extent(store->real, offset, length, ret_flags, ret_length);
}

static void fault_free(struct store *store)
{
    struct fault *fault = fault_of(store);
    fault->turning = true;
    request_cancel_all(&fault->failing);
    request_cancel_all(&fault->held);
    fault->store.real = store_free(fault->store.real);
    free(fault);
}

static const struct store_type fault_type = {
    .work = fault_work,
    .fd = fault_fd,
    .deadline = fault_deadline,
    .state_text = fault_state_text,
    .is_up = fault_is_up,
    .extent = fault_extent,
    .free = fault_free,
};

static const struct block_ops fault_block_ops = {.submit = fault_submit, .kick = fault_kick};

int fault_open(const struct store_config *config, struct store **ret_store, struct error *err)
{
    const char *control = config->path + strlen("fault:"), *colon = strchr(control, ':');
    if (!colon || colon - control >= PATH_SIZE)
        return error_set(err, -EINVAL, "store %s: the form is fault:CONTROL:REAL", config->path);
    struct fault *fault = calloc(1, sizeof(*fault));
    if (!fault)
        return error_sys(err, -ENOMEM, "store %s", config->path);
    memcpy(fault->control, control, (size_t)(colon - control));
    struct store_config real = *config;
    real.path = colon + 1;
    struct store *behind = NULL;
    int r = store_open(&real, &behind, err);
    if (r < 0) {
        free(fault);
        return r;
    }
    fault->store = (struct store){.real = behind,
                                  .block = behind->block,
                                  .type = &fault_type,
                                  .kind = behind->kind,
                                  .read_only = config->read_only};
    fault->store.block.ops = &fault_block_ops;
    fault->look_ns = INT64_MAX;
    *ret_store = &fault->store;
    return 0;
}
