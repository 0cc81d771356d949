// SPDX-License-Identifier: Apache-2.0
// How fast a store is: bench_store PATH [read|write|flush] [DEPTH] [BYTES] [REQUESTS] [direct]. One
// line: requests per second, CPU microseconds per request. Not a test: `make bench_store`, and a
// peer beside it in the same run.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/base/clock.h"
#include "common/store/store.h"

#define DEPTH_MAX 256

struct bench {
    struct store *store;
    bool read, flush;
    size_t bytes;
    uint64_t left, out, random;
    int status;
    struct block_request requests[DEPTH_MAX];
};

static void submit(struct bench *bench, struct block_request *request);

static void done(struct block_request *request, int status)
{
    struct bench *bench = request->owner;
    bench->out--;
    if (status < 0)
        bench->status = status;
    if (bench->flush && request->op == BLOCK_WRITE) {
        request->op = BLOCK_FLUSH;
        bench->out++;
        block_submit(store_block(bench->store), request);
    } else if (bench->left > 0) {
        submit(bench, request);
    }
}

static void submit(struct bench *bench, struct block_request *request)
{
    bench->left--;
    bench->out++;
    bench->random = bench->random * UINT64_C(6364136223846793005) + 1;
    request->op = bench->read ? BLOCK_READ : BLOCK_WRITE;
    request->length = bench->bytes;
    request->offset =
        (bench->random >> 20) % (store_block(bench->store)->size / bench->bytes) * bench->bytes;
    block_submit(store_block(bench->store), request);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void run(struct bench *bench, unsigned depth)
{
    for (unsigned i = 0; i < depth && bench->left > 0; i++) {
        bench->requests[i].done = done;
        bench->requests[i].owner = bench;
        bench->requests[i].data = aligned_alloc(4096, (bench->bytes + 4095) / 4096 * 4096);
        memset(bench->requests[i].data, 0x5a, bench->bytes);
        submit(bench, &bench->requests[i]);
    }
    block_kick(store_block(bench->store));
    while (bench->out > 0) {
        struct pollfd pfd = {.fd = store_fd(bench->store), .events = POLLIN};
        (void)poll(&pfd, 1, 1000);
        store_work(bench->store);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    const char *what = argc > 2 ? argv[2] : "write";
    unsigned depth = argc > 3 ? (unsigned)atoi(argv[3]) : 16;
    struct bench bench = {.read = strcmp(what, "read") == 0,
                          .flush = strcmp(what, "flush") == 0,
                          .bytes = argc > 4 ? (size_t)atol(argv[4]) : 4096,
                          .left = argc > 5 ? strtoull(argv[5], NULL, 10) : 100000,
                          .random = 42};
    struct store_config config = {.path = argv[1], .direct = argc > 6};
    struct error err;
    uint64_t requests = bench.left;
    if (depth == 0 || depth > DEPTH_MAX || bench.bytes == 0)
        return 2;
    if (store_open(&config, &bench.store, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int64_t start = clock_boot_ns();
    double cpu = cpu_seconds();
    run(&bench, depth);
    double seconds = (double)(clock_boot_ns() - start) / 1e9;
    cpu = cpu_seconds() - cpu;
    printf("%s depth %u, %zu bytes: %.0f/s, %.1f MB/s, %.2f us CPU each, status %d\n", what, depth,
           bench.bytes, (double)requests / seconds,
           (double)requests * (double)bench.bytes / seconds / 1e6, cpu * 1e6 / (double)requests,
           bench.status);
    for (unsigned i = 0; i < depth; i++)
        free(bench.requests[i].data);
    (void)store_free(bench.store);
    return bench.status < 0;
}
