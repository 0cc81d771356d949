// SPDX-License-Identifier: Apache-2.0
#include "common/intercept/nbd_buffers.h"

#include <errno.h>
#include <sys/mman.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

static const struct {
    uint32_t bytes;
    unsigned count;
} sizes[NBD_BUFFER_SIZES] = {
    {16U << 10, NBD_BUFFERS_MAX}, {128U << 10, 128}, {1U << 20, 32}, {8U << 20, 8},
    {NBD_BUFFER_LARGE, 4},
};

// A page more, so that buffers do not all fall on the same lines of a cache.
static size_t stride(unsigned i)
{
    return sizes[i].bytes + 4096;
}

static size_t total_bytes(void)
{
    size_t total = 0;
    for (unsigned i = 0; i < NBD_BUFFER_SIZES; i++)
        total += stride(i) * sizes[i].count;
    return total;
}

int nbd_buffers_open(struct nbd_buffers *b)
{
    uint8_t *at = mmap(NULL, total_bytes(), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return -errno;
    b->memory = at;
    for (unsigned i = 0; i < NBD_BUFFER_SIZES; i++) {
        b->sizes[i].first = at;
        at += stride(i) * sizes[i].count;
        while (b->sizes[i].count < sizes[i].count) {
            unsigned number = sizes[i].count - 1 - b->sizes[i].count;
            b->sizes[i].free[b->sizes[i].count++] = (uint16_t)number;
        }
    }
    return 0;
}

void nbd_buffers_close(struct nbd_buffers *b)
{
    if (b->memory)
        (void)munmap(b->memory, total_bytes());
    b->memory = NULL;
}

struct nbd_buffer nbd_buffers_get(struct nbd_buffers *b, struct nbd_buffers_held *held,
                                  uint32_t bytes)
{
    unsigned i = 0;
    while (sizes[i].bytes < bytes) {
        i++;
        ENSURE(i < NBD_BUFFER_SIZES);
    }
    if (b->sizes[i].count == 0 || held->count[i] >= sizes[i].count / 4)
        return (struct nbd_buffer){0};
    held->count[i]++;
    unsigned number = b->sizes[i].free[--b->sizes[i].count];
    return (struct nbd_buffer){b->sizes[i].first + number * stride(i), i};
}

void nbd_buffers_put(struct nbd_buffers *b, struct nbd_buffers_held *held, struct nbd_buffer buffer)
{
    unsigned i = buffer.size;
    ENSURE(held->count[i] > 0 && b->sizes[i].count < sizes[i].count);
    held->count[i]--;
    b->sizes[i].free[b->sizes[i].count++] =
        (uint16_t)((size_t)(buffer.data - b->sizes[i].first) / stride(i));
}

void nbd_buffers_rest(struct nbd_buffers *b)
{
    (void)madvise(b->memory, total_bytes(), MADV_DONTNEED);
}
