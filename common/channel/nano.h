// SPDX-License-Identifier: Apache-2.0
// The sockets of the channel: NN_PULL bound on my addresses, NN_PUSH connected to one of the
// peer's. The only file that knows nanomsg is nano.c. Sockets are numbers >= 0; functions return 0
// or -errno. Nothing here blocks.
//
// nanomsg reconnects a PUSH socket by itself, drops what was in flight when a connection broke, and
// has at most 512 sockets in one process.
#ifndef CHANNEL_NANO_H
#define CHANNEL_NANO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Every message passes through a thread of nanomsg's. It begins here, preferred to ordinary ones where that is permitted,
// and lives as long as this socket; to be called before any other is opened. -1: it could not be opened.
int nano_carrier(void);

// A socket that receives messages of up to `size_max` bytes; a sender of a larger one is
// disconnected.
int nano_pull_open(size_t size_max, int *ret_socket);
// Listens at one more address. -EADDRNOTAVAIL, -EADDRINUSE ... : nothing changed, try again later.
int nano_pull_bind(int socket, const char *address, uint16_t port);
// A socket that connects, and connects again, from `mine` to `peers`:`port`.
int nano_push_open(const char *mine, const char *peers, uint16_t port, size_t buffer_bytes,
                   int *ret_socket);
void nano_close(int socket); // -1 is fine
// Readable while a PULL socket has a message, or a PUSH socket would take one. Only to be polled.
int nano_fd(int socket);
bool nano_ready(int fd); // whether such an fd is readable now

void *nano_alloc(size_t size); // a message to be filled and sent; NULL: no memory
void nano_free(void *message);
int nano_send(
    int socket,
    void *message); // takes the message, also when it fails (-EAGAIN: no room, or no connection)
int nano_receive(int socket, void **ret_message, size_t *ret_size); // -EAGAIN: none
// Connections that were accepted and then ended in an error, since the socket was opened.
uint64_t nano_broken(int socket);
uint64_t nano_connections(int socket); // that stand now

#endif
