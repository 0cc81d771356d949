// SPDX-License-Identifier: Apache-2.0
// Two ends of a channel in one process, for its tests: opened, pumped by one thread, and watched.
#ifndef TESTS_CHANNEL_ENDS_H
#define TESTS_CHANNEL_ENDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/channel/channel.h"

#define ENDS_INBOX       4096
#define ENDS_SILENCE_NS  (1200 * NS_PER_MS) // where the test is about silence; otherwise ten seconds
#define ENDS_PATIENCE_NS (120 * NS_PER_S)   // the last guard against hanging

struct end {
    struct channel *ch;
    struct channel_config config;
    struct channel_path paths[CHANNEL_PATHS_MAX];
    int counts[2][CHANNEL_PATHS_MAX][CHANNEL_DATA_LOST + 1]; // of events: side, path, kind
    int troubles, refusals;
    char refused[256], trouble[256];
    // control messages
    int n_control;
    int control_path;
    uint64_t control_run;
    char control[256];
    // data messages: the first 8 bytes of each are its number
    int n_data;
    uint64_t numbers[ENDS_INBOX], generations[ENDS_INBOX];
    size_t last_size;
    bool damaged;      // a message that is not as end_send() made it
    bool deaf;         // data is not received
    bool other_thread; // its data side belongs to another thread
};

struct ends {
    struct end a, b; // Primary, Secondary
    uint16_t port;
};

// A port that is free, with the one behind it, at all these addresses (IPv4 127.0.0.x and ::1).
uint16_t ends_free_port(void);
// Configures both ends of pair "example-pair" with `n` channel paths between 127.0.0.1+i*10 and
// 127.0.0.2+i*10. The Primary reaches the Secondary at `proxies` ? 127.0.0.3+i*10 : its address;
// likewise the Secondary the Primary at 127.0.0.4+i*10.
void ends_configure(struct ends *e, int n, const struct channel_key *key, bool proxies);
void end_open(struct end *end);
void end_close(struct end *end);
void ends_open(struct ends *e);
void ends_close(struct ends *e);
// Both are configured with n paths and no proxies, are opened, and have all their links up.
void ends_start(struct ends *e, int n, const struct channel_key *key);

// Pumps both ends until condition() holds; fails the test after ENDS_PATIENCE_NS.
void ends_wait(struct ends *e, bool (*condition)(struct ends *), const char *what);
void ends_pump(struct ends *e, int ms); // for so long
bool ends_all_up(struct ends *e);
bool ends_b_has_control(struct ends *e);
bool ends_b_has_data(struct ends *e);
bool end_up(struct end *end, enum channel_side side, int path);
int end_downs(const struct end *end); // how often any link of it has gone down

// Sends the data message `number` of `size` bytes (at least 8). The result of channel_data_send().
int end_send(struct end *end, uint64_t number, size_t size);
// Both say something over control and data, and each gets all of it.
void ends_exchange(struct ends *e);
// For links on which something may still be lost: both send until something gets through.
void ends_exchange_in_the_end(struct ends *e);

#endif
