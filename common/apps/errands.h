// SPDX-License-Identifier: Apache-2.0
// What virt.c's worker is asked to do, and what it reports: between the runner's thread, which never waits, and the worker,
// which may hang in a call for as long as it likes. One request waits at most: the latest. One lock, never held for long.
//
// A request is superseded until it is committed to: from then on the next one has to wait for what comes of it.
#ifndef APPS_ERRANDS_H
#define APPS_ERRANDS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/apps/virt.h"

struct errands_news;

struct errands {
    int event_fd; // readable: there is news
    pthread_mutex_t lock;
    pthread_cond_t changed; // CLOCK_MONOTONIC
    // Under the lock.
    enum virt_request request;
    unsigned serial; // of the latest request
    bool quit;
    bool look; // an event came, or somebody asked
    bool committed;
    struct errands_news *first, **last;
    // The worker's.
    unsigned handled; // number of the request that is carried out, or was last
};

int errands_init(struct errands *e);
void errands_clear(struct errands *e);

// ---- The runner's thread (errands_look(): any)

unsigned errands_ask(struct errands *e, enum virt_request request); // returns its number, never 0
void errands_look(struct errands *e);
void errands_quit(struct errands *e);
bool errands_take(struct errands *e, struct virt_report *ret_report);
bool errands_committed(struct errands *e);

// ---- The worker

// Waits for a request, errands_look(), or until `ms` have passed (-1: for ever). False: the end.
bool errands_next(struct errands *e, int64_t ms, enum virt_request *ret_request);
// Sleeps so long, or until there is a new request. False: there is one, or the end.
bool errands_pause(struct errands *e, int64_t ms);
// False: there is a new request, or the end; nothing is committed to.
bool errands_commit(struct errands *e);
void errands_uncommit(struct errands *e);
void errands_report(struct errands *e, enum virt_news news, const char *text);

#endif
