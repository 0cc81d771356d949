// SPDX-License-Identifier: Apache-2.0
// The service that runs in the guest of the demo and of tests: keeps numbered records, and answers only for what is
// on its disk. It is linked statically and is all that the guest runs.
//
//   guest-service FILE [PORT]
//
//   POST /append?n=NUMBER   appends the record, syncs FILE, then answers 200. Appends that have arrived together are
//                           written together and share one sync. 500 when the disk refuses.
//   GET /list               all records, "NUMBER\n" each, in the order in which they were written
//   GET /check              what the file system check before this start's mount said (the file /check, if any)
//   GET /                   "ready"
//
// Ends on SIGTERM and when the power button is pressed (an input event), so that its parent can unmount and power off.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/input.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLIENTS_MAX 64
#define BUTTONS_MAX 8
#define REQUEST_MAX 2048
#define FIXED       (1 + BUTTONS_MAX) // entries of the poll table in front of the clients'

struct client {
    int fd; // -1: free
    size_t used;
    char request[REQUEST_MAX + 1];
    bool append; // it waits for the sync of its record
    unsigned long number;
};

struct service {
    int records;
    int listener;
    int buttons[BUTTONS_MAX];
    struct client clients[CLIENTS_MAX];
};

static volatile sig_atomic_t ended;

static void on_signal(int number)
{
    ended = 1;
}

static void drop(struct client *client)
{
    close(client->fd);
    *client = (struct client){.fd = -1};
}

// Sends everything, waiting for the client if it must; a client that is gone is dropped by its next read.
static void send_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd writable = {fd, POLLOUT, 0};
            if (poll(&writable, 1, 1000) <= 0)
                return;
            continue;
        }
        if (n <= 0)
            return;
        data += n;
        size -= (size_t)n;
    }
}

static void answer(struct client *client, int status, const char *body, size_t size)
{
    char head[128];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\nContent-Length: %zu\r\n\r\n", status,
                     status == 200 ? "OK" : "Error", size);
    send_all(client->fd, head, (size_t)n);
    send_all(client->fd, body, size);
}

static void answer_text(struct client *client, int status, const char *text)
{
    answer(client, status, text, strlen(text));
}

static void answer_file(struct client *client, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        answer_text(client, 404, "none\n");
        if (fd >= 0)
            close(fd);
        return;
    }
    char *data = malloc((size_t)st.st_size + 1);
    ssize_t n = data ? pread(fd, data, (size_t)st.st_size, 0) : -1;
    if (n >= 0)
        answer(client, 200, data, (size_t)n);
    else
        answer_text(client, 500, "cannot read\n");
    free(data);
    close(fd);
}

static void handle(struct client *client, const char *path)
{
    const char *append = "POST /append?n=";
    if (strncmp(client->request, append, strlen(append)) == 0) {
        client->number = strtoul(client->request + strlen(append), NULL, 10);
        client->append = true; // answered by sync_appends()
    } else if (strncmp(client->request, "GET /list ", 10) == 0) {
        answer_file(client, path);
    } else if (strncmp(client->request, "GET /check ", 11) == 0) {
        answer_file(client, "/check");
    } else if (strncmp(client->request, "GET / ", 6) == 0) {
        answer_text(client, 200, "ready\n");
    } else {
        answer_text(client, 404, "no such thing\n");
    }
}

// Reads what has come; handles one request when it is whole. Requests have no body.
static void receive(struct client *client, const char *path)
{
    ssize_t n = recv(client->fd, client->request + client->used, REQUEST_MAX - client->used, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        drop(client);
        return;
    }
    client->used += (size_t)n;
    client->request[client->used] = '\0';
    char *end = strstr(client->request, "\r\n\r\n");
    if (end) {
        handle(client, path);
        client->used = 0;
    } else if (client->used == REQUEST_MAX) {
        drop(client);
    }
}

// Writes the records of all appends that wait, syncs once, and answers them.
static void sync_appends(struct service *service)
{
    char text[CLIENTS_MAX * 24];
    size_t size = 0;
    for (int i = 0; i < CLIENTS_MAX; i++)
        if (service->clients[i].append)
            size += (size_t)snprintf(text + size, sizeof text - size, "%lu\n",
                                     service->clients[i].number);
    if (size == 0)
        return;
    bool durable = write(service->records, text, size) == (ssize_t)size && fsync(service->records) == 0;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        struct client *client = &service->clients[i];
        if (!client->append)
            continue;
        client->append = false;
        answer_text(client, durable ? 200 : 500, durable ? "durable\n" : "the disk refuses\n");
    }
}

static void accept_client(struct service *service)
{
    int fd = accept4(service->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
    if (fd < 0)
        return;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        if (service->clients[i].fd >= 0)
            continue;
        service->clients[i] = (struct client){.fd = fd};
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return;
    }
    close(fd);
}

static bool button_pressed(int fd)
{
    struct input_event event;
    while (read(fd, &event, sizeof event) == (ssize_t)sizeof event)
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
            return true;
    return false;
}

static void open_buttons(struct service *service)
{
    glob_t found = {0};
    int count = 0;
    for (int i = 0; i < BUTTONS_MAX; i++)
        service->buttons[i] = -1;
    if (glob("/dev/input/event*", 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc && count < BUTTONS_MAX; i++)
            service->buttons[count++] = open(found.gl_pathv[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    globfree(&found);
}

static int open_listener(unsigned short port)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    bool ipv4_only = fd < 0;
    if (ipv4_only)
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int r = ipv4_only ? bind(fd, (struct sockaddr *)&any4, sizeof any4)
                      : bind(fd, (struct sockaddr *)&any6, sizeof any6);
    return r < 0 || listen(fd, CLIENTS_MAX) < 0 ? -1 : fd;
}

static void serve(struct service *service, const char *path)
{
    while (!ended) {
        struct pollfd polled[FIXED + CLIENTS_MAX] = {{service->listener, POLLIN, 0}};
        for (int i = 0; i < BUTTONS_MAX; i++)
            polled[1 + i] = (struct pollfd){service->buttons[i], POLLIN, 0};
        for (int i = 0; i < CLIENTS_MAX; i++)
            polled[FIXED + i] = (struct pollfd){service->clients[i].fd, POLLIN, 0};
        if (poll(polled, FIXED + CLIENTS_MAX, -1) < 0)
            continue;
        if (polled[0].revents)
            accept_client(service);
        for (int i = 0; i < BUTTONS_MAX; i++)
            if (polled[1 + i].revents && button_pressed(service->buttons[i]))
                ended = 1;
        for (int i = 0; i < CLIENTS_MAX; i++)
            if (polled[FIXED + i].revents)
                receive(&service->clients[i], path);
        sync_appends(service);
    }
}

int main(int argc, char **argv)
{
    static struct service service;
    struct sigaction action = {.sa_handler = on_signal};
    if (argc < 2) {
        fprintf(stderr, "usage: guest-service FILE [PORT]\n");
        return 2;
    }
    sigaction(SIGTERM, &action, NULL);
    for (int i = 0; i < CLIENTS_MAX; i++)
        service.clients[i].fd = -1;
    service.records = open(argv[1], O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    service.listener = open_listener((unsigned short)(argc > 2 ? atoi(argv[2]) : 80));
    if (service.records < 0 || service.listener < 0) {
        perror("guest-service");
        return EXIT_FAILURE;
    }
    open_buttons(&service);
    serve(&service, argv[1]);
    return EXIT_SUCCESS;
}
