// SPDX-License-Identifier: Apache-2.0
// The pair file: what one pair is, the same file on both machines. JSON with comments, described by
// one table of fields (fields.c) from which parser, defaults, canonical form, release and reference
// are all made.
//
// Invariants of a struct pair_config that pair_config_load() gave out: every required field is
// present, every value is inside its limits, every name is [a-z0-9-]{1,32} and unique among its
// like, every address parses, no two listeners of one end want the same port, no two volumes of one
// end the same store. A string that was not given is NULL. A file that breaks one of these is
// refused with its name, the path of the field, what was found and what is allowed.
#ifndef CONFIG_PAIR_H
#define CONFIG_PAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/error.h"

#define PAIR_FORMAT           1
#define PAIR_NAME_MAX         32 // characters of a name, without the zero
#define PAIR_PATHS_MAX        8
#define PAIR_VOLUMES_MAX      64
#define PAIR_ADDRESSES_MAX    16
#define PAIR_WAYPOINTS_MAX    16
#define PAIR_APPLICATIONS_MAX 32
#define PAIR_FILE_BYTES_MAX   (1024 * 1024)

enum pair_end { PAIR_PRIMARY, PAIR_SECONDARY };
enum pair_mode { PAIR_ASYNC, PAIR_SYNC, PAIR_STRICT };
enum pair_takeover { PAIR_TAKEOVER_AUTO, PAIR_TAKEOVER_MANUAL };
enum pair_overflow { PAIR_OVERFLOW_MAP, PAIR_OVERFLOW_THROTTLE, PAIR_OVERFLOW_SUSPEND };
enum pair_slow { PAIR_SLOW_THROTTLE, PAIR_SLOW_ALONE };
enum pair_split { PAIR_SPLIT_SECONDARY_STOPS, PAIR_SPLIT_PRIMARY_STOPS, PAIR_SPLIT_BOTH_STOP };
enum pair_shutdown { PAIR_SHUTDOWN_SWITCH, PAIR_SHUTDOWN_STOP };
enum pair_flush_failure { PAIR_FLUSH_SWITCHOVER, PAIR_FLUSH_NONE };
enum pair_app_kind { PAIR_APP_DOMAIN, PAIR_APP_SCRIPT };
enum pair_app_failure { PAIR_APP_FAILURE_NONE, PAIR_APP_FAILURE_SWITCHOVER };

// One machine's side of the pair.
struct pair_end_config {
    char *host; // the machine's name, as `hostname` prints it, or what the daemon got with --host
    char *management; // its own fixed address (IPv4 or IPv6), usually on the public network; NULL:
                      // none
    char *public_interface; // where the public addresses go; NULL only when there are none
    char *libvirt;          // connection URI for domains
};

// One link between the ends: an address of each. Both listen at `port` (heartbeats and control) and
// `port` + 1 (data).
struct pair_path_config {
    char *primary;
    char *secondary;
    uint32_t port;
};

struct pair_channel_config {
    struct pair_path_config *paths; // at least one; preferred for data in this order
    size_t path_count;
    char *key; // file of the pre-shared key; NULL only when every address is a loopback one
    uint32_t public_port; // heartbeats over the public network, between the management addresses;
                          // +1 for data
    uint32_t management_port; // where daemon or guard tell whether this end is active, at the
                              // management address
    bool data_on_public;      // records may use the public path when no other works
};

// Where one end keeps one volume.
struct pair_store_config {
    char *path;             // a file or block device (absolute), or iscsi://HOST[:PORT]/TARGET/LUN
    bool direct;            // O_DIRECT instead of the page cache (files and block devices)
    char *chap_user;        // iSCSI only
    char *chap_secret_file; // iSCSI only: file whose first line is the CHAP secret
    char *initiator;        // iSCSI only: our name there; NULL: one made of host and pair
};

struct pair_socket_config {
    char *owner;   // user name or number
    char *group;   // group name or number
    uint32_t mode; // permission bits
};

struct pair_volume_config {
    char *name;
    uint64_t size; // bytes, a multiple of 4096
    struct pair_store_config primary;
    struct pair_store_config secondary;
    struct pair_socket_config socket; // of the export
};

// Fields of the other kind are NULL: a file that sets them is refused.
struct pair_app_config {
    char *name;
    enum pair_app_kind kind;
    char *xml;                   // domain: file with the domain's XML
    char *command;               // script: program that is called with start, stop, status
    char *user;                  // script: user to run as; NULL: as the daemon
    uint32_t start_timeout_ms;   // until it has to be running
    uint32_t stop_timeout_ms;    // for a graceful stop, before it is ended by force
    uint32_t status_interval_ms; // script: how often `status` is asked while it runs
    uint32_t status_timeout_ms;  // script: for one answer
    uint32_t restarts;           // local restarts within an hour before the failure policy
    enum pair_app_failure failure;
};

struct pair_timing_config {
    uint32_t heartbeat_ms;
    uint32_t timeout_ms;  // T
    uint32_t decision_ms; // D
    uint32_t margin_ms;   // the guard acts at T - margin; going alone waits T + D + margin
};

struct pair_queues_config {
    uint64_t memory; // bytes of the unsafe queue in shared memory
    uint64_t spill;  // bytes of the unsafe queue on disk, when memory is full
    uint64_t safe;   // bytes of the safe queue
    uint64_t salvage; // bytes of what is kept before it is overwritten
    enum pair_overflow overflow;
};

struct pair_resync_config {
    uint32_t share; // percent of the channel that a resync may take from live writes
    uint64_t rate;  // bytes a second at most; 0: no limit
};

struct pair_verify_config {
    uint32_t every_hours; // 0: never by itself
    bool repair;
};

struct pair_public_config {
    char **addresses; // with prefix: "192.0.2.10/24", "2001:db8::10/64"
    size_t address_count;
};

struct pair_config {
    char *file; // where it was read from, for messages

    uint32_t format;
    char *pair; // the pair's name
    struct {
        struct pair_end_config primary;
        struct pair_end_config secondary;
    } ends;
    struct pair_channel_config channel;
    enum pair_mode mode;
    struct pair_volume_config *volumes;
    size_t volume_count;
    struct pair_public_config public_address;
    char **waypoints;
    size_t waypoint_count;
    struct pair_app_config *applications; // in start order; stopped in the opposite one
    size_t application_count;
    struct pair_timing_config timing;
    struct pair_queues_config queues;
    struct pair_resync_config resync;
    struct pair_verify_config verify;
    enum pair_takeover takeover;
    enum pair_slow slow;
    enum pair_split split;
    enum pair_shutdown shutdown;
    enum pair_flush_failure flush_failure;
};

// Reads and checks one pair file. Returns -EINVAL with "FILE: PATH: what was found; what is
// allowed", or what reading the file gave.
int pair_config_load(const char *path, struct pair_config **ret_config, struct error *err);
// The same from memory; `name` stands for the file in messages. `size` does not count a final zero.
int pair_config_parse(const char *name, const char *text, size_t size,
                      struct pair_config **ret_config, struct error *err);
struct pair_config *pair_config_free(struct pair_config *config); // NULL-safe; returns NULL

// `path` is one file, or a directory whose files *.json are read in the order of their names
// (others are ignored). Two files of one pair, or two pairs that want the same store or port of one
// host, are refused.
struct pair_config_list {
    struct pair_config **items;
    size_t count;
};
int pair_config_load_all(const char *path, struct pair_config_list *ret_list, struct error *err);
void pair_config_list_done(
    struct pair_config_list *list); // frees what it holds; fit for an all-zero one

// Calls `warn` for everything that is legal but dangerous. `field` is the path of the field, or "".
// Looks at this machine's disks only for the end whose host is `host` (NULL: at none).
typedef void (*pair_config_warn)(void *user, const char *field, const char *text);
void pair_config_warnings(const struct pair_config *config, const char *host, pair_config_warn warn,
                          void *user);

// What must agree on both ends, as eight sections of four bytes. Comments, white space, order of
// fields, and what each end may settle for itself (paths, interfaces, limits) are not in it.
#define PAIR_DIGEST_SIZE 32
void pair_config_digest(const struct pair_config *config, uint8_t ret_digest[PAIR_DIGEST_SIZE]);
// The name of the first section in which the two differ ("volumes"), or NULL when they are equal.
const char *pair_config_digest_difference(const uint8_t ours[PAIR_DIGEST_SIZE],
                                          const uint8_t theirs[PAIR_DIGEST_SIZE]);

// The side of an end, and of its peer.
static inline enum pair_end pair_peer(enum pair_end end)
{
    return end == PAIR_PRIMARY ? PAIR_SECONDARY : PAIR_PRIMARY;
}
const struct pair_end_config *pair_config_end(const struct pair_config *config, enum pair_end end);
const struct pair_store_config *pair_volume_store(const struct pair_volume_config *volume,
                                                  enum pair_end end);
const char *pair_path_address(const struct pair_path_config *path, enum pair_end end);

// The words of the pair file for these values.
const char *pair_end_name(enum pair_end end); // "primary", "secondary"
const char *pair_mode_name(enum pair_mode mode);
const char *pair_app_kind_name(enum pair_app_kind kind);
const char *pair_takeover_name(enum pair_takeover takeover);

// Prints the reference of all fields, as the man page has it (troff), made from the table.
void pair_config_reference(FILE *out);

#endif
