// SPDX-License-Identifier: Apache-2.0
#include "common/config/fields.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/config/pair.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define PIB (UINT64_C(1) << 50)

static_assert(sizeof(enum pair_mode) == sizeof(uint32_t), "words are stored as 32 bits");

const char *const fields_words_end[] = {"primary", "secondary", NULL};
const char *const fields_words_mode[] = {"async", "sync", "strict", NULL};
const char *const fields_words_takeover[] = {"auto", "manual", NULL};
const char *const fields_words_kind[] = {"domain", "script", NULL};
static const char *const words_overflow[] = {"map", "throttle", "suspend", NULL};
static const char *const words_slow[] = {"throttle", "alone", NULL};
static const char *const words_split[] = {"secondary-stops", "primary-stops", "both-stop", NULL};
static const char *const words_shutdown[] = {"switch", "stop", NULL};
static const char *const words_flush[] = {"switchover", "none", NULL};
static const char *const words_failure[] = {"none", "switchover", NULL};

#define OBJECT(variable, type, table, text, about)                                                 \
    static const struct field_object variable = {text, sizeof(type), table, ARRAY_LEN(table), about}

#define END(m) offsetof(struct pair_end_config, m)
static const struct field end_fields[] = {
    {"host", FIELD_HOST, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = END(host),
     .help = "Name of the machine, as hostname(1) prints it; a daemon runs the ends of its kind "
             "whose host is this machine's name or what it got with --host."},
    {"management", FIELD_ADDRESS, .offset = END(management),
     .help =
         "Fixed address of this machine itself, usually on the public network. Heartbeats travel "
         "there too, and the peer asks there whether this end is active before it takes over."},
    {"public_interface", FIELD_INTERFACE, .offset = END(public_interface),
     .help = "Network interface that carries the public addresses; required when there are any."},
    {"libvirt", FIELD_TEXT, .offset = END(libvirt), .preset = "qemu:///system",
     .help = "Connection URI of libvirt for applications of kind domain."},
};
OBJECT(end_object, struct pair_end_config, end_fields, "end", "One machine's side of the pair.");

#define ENDS(m) offsetof(struct pair_config, ends.m)
static const struct field ends_fields[] = {
    {"primary", FIELD_OBJECT, .flags = FIELD_REQUIRED | FIELD_AGREE,
     .offset = ENDS(primary) - ENDS(primary), .object = &end_object,
     .help = "The end that primaryd runs."},
    {"secondary", FIELD_OBJECT, .flags = FIELD_REQUIRED | FIELD_AGREE,
     .offset = ENDS(secondary) - ENDS(primary), .object = &end_object,
     .help = "The end that secondaryd runs."},
};
OBJECT(ends_object, ((struct pair_config *)0)->ends, ends_fields, "ends", "The two ends.");

#define PATH(m) offsetof(struct pair_path_config, m)
static const struct field path_fields[] = {
    {"primary", FIELD_ADDRESS, .flags = FIELD_REQUIRED, .offset = PATH(primary),
     .help = "Address of the Primary's machine on this link."},
    {"secondary", FIELD_ADDRESS, .flags = FIELD_REQUIRED, .offset = PATH(secondary),
     .help = "Address of the Secondary's machine on this link."},
    {"port", FIELD_NUMBER, .offset = PATH(port), .min = 1, .max = 65534, .preset = "7400",
     .help = "TCP port for heartbeats and control; the next one is for data. Each pair of a "
             "machine needs ports of its own."},
};
OBJECT(path_object, struct pair_path_config, path_fields, "path",
       "One link between the two machines.");

#define CHANNEL(m) offsetof(struct pair_channel_config, m)
static const struct field channel_fields[] = {
    {"paths", FIELD_OBJECTS, .flags = FIELD_REQUIRED, .offset = CHANNEL(paths),
     .count_offset = CHANNEL(path_count), .min = 1, .max = PAIR_PATHS_MAX, .object = &path_object,
     .help = "The links. Heartbeats use all of them at once, data the first that works."},
    {"key", FIELD_PATH, .offset = CHANNEL(key),
     .help = "File with the pre-shared key, the same on both machines, made by pairctl keygen. "
             "Without it only loopback addresses are allowed."},
    {"public_port", FIELD_NUMBER, .offset = CHANNEL(public_port), .min = 1, .max = 65534,
     .preset = "7402",
     .help = "TCP port for heartbeats over the public network, between the management addresses; "
             "the next one is for data."},
    {"management_port", FIELD_NUMBER, .offset = CHANNEL(management_port), .min = 1, .max = 65535,
     .preset = "7404",
     .help =
         "Port at the management address where daemon or guard answer whether this end is active."},
    {"data_on_public", FIELD_BOOL, .offset = CHANNEL(data_on_public), .preset = "false",
     .help = "Whether data may travel over the public network when no other path works."},
};
OBJECT(channel_object, struct pair_channel_config, channel_fields, "channel",
       "The links between the ends.");

#define STORE(m) offsetof(struct pair_store_config, m)
static const struct field store_fields[] = {
    {"path", FIELD_STORE, .flags = FIELD_REQUIRED, .offset = STORE(path),
     .help = "A file or block device, which must exist and have the volume's size, or "
             "iscsi://HOST[:PORT]/TARGET/LUN."},
    {"direct", FIELD_BOOL, .offset = STORE(direct), .preset = "false",
     .help = "Files and block devices: O_DIRECT instead of the page cache."},
    {"chap_user", FIELD_TEXT, .offset = STORE(chap_user),
     .help = "iSCSI: user of CHAP authentication."},
    {"chap_secret_file", FIELD_PATH, .offset = STORE(chap_secret_file),
     .help = "iSCSI: file whose first line is the CHAP secret; required with chap_user."},
    {"initiator", FIELD_TEXT, .offset = STORE(initiator),
     .help = "iSCSI: our initiator name; by default one made of host and pair."},
};
OBJECT(store_object, struct pair_store_config, store_fields, "store",
       "Where one end keeps one volume.");

#define SOCKET(m) offsetof(struct pair_socket_config, m)
static const struct field socket_fields[] = {
    {"owner", FIELD_TEXT, .offset = SOCKET(owner), .preset = "libvirt-qemu",
     .help = "User that owns the export's socket; a user that does not exist on a machine is root "
             "there."},
    {"group", FIELD_TEXT, .offset = SOCKET(group), .preset = "kvm",
     .help = "Group of the export's socket; one that does not exist on a machine is root there."},
    {"mode", FIELD_PERMISSIONS, .offset = SOCKET(mode), .preset = "0660",
     .help = "Permissions of the export's socket."},
};
OBJECT(socket_object, struct pair_socket_config, socket_fields, "socket",
       "The socket of an export.");

#define VOLUME(m) offsetof(struct pair_volume_config, m)
static const struct field volume_fields[] = {
    {"name", FIELD_NAME, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = VOLUME(name),
     .help = "Name of the volume and of its NBD export; the socket is NAME.nbd."},
    {"size", FIELD_SIZE, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = VOLUME(size), .min = MIB,
     .max = PIB, .help = "Size of the volume: a multiple of 4096 bytes."},
    {"primary", FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = VOLUME(primary),
     .object = &store_object, .help = "Where the Primary keeps it."},
    {"secondary", FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = VOLUME(secondary),
     .object = &store_object, .help = "Where the Secondary keeps it."},
    {"socket", FIELD_OBJECT, .offset = VOLUME(socket), .object = &socket_object,
     .help = "Who may connect to its export."},
};
OBJECT(volume_object, struct pair_volume_config, volume_fields, "volume",
       "Protected block storage.");

#define PUBLIC(m) offsetof(struct pair_public_config, m)
static const struct field public_fields[] = {
    {"addresses", FIELD_STRINGS, .item = FIELD_NETWORK, .flags = FIELD_AGREE,
     .offset = PUBLIC(addresses), .count_offset = PUBLIC(address_count), .min = 0,
     .max = PAIR_ADDRESSES_MAX,
     .help = "Addresses with prefix length. Empty where the guest itself owns the public address."},
};
OBJECT(public_object, struct pair_public_config, public_fields, "public address",
       "What clients use, on one end only.");

#define APP(m) offsetof(struct pair_app_config, m)
static const struct field app_fields[] = {
    {"name", FIELD_NAME, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = APP(name),
     .help = "Name of the application."},
    {"kind", FIELD_WORD, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = APP(kind),
     .words = fields_words_kind, .help = "A libvirt domain, or a script."},
    {"xml", FIELD_PATH, .flags = FIELD_REQUIRED, .offset = APP(xml), .when = "domain",
     .help = "File with the domain's XML; ${volume:NAME} in it stands for a volume's socket."},
    {"command", FIELD_PATH, .flags = FIELD_REQUIRED, .offset = APP(command), .when = "script",
     .help = "Program that is called with start, stop or status."},
    {"user", FIELD_TEXT, .offset = APP(user), .when = "script",
     .help = "User to run it as; by default that of the daemon."},
    {"start_timeout_ms", FIELD_NUMBER, .offset = APP(start_timeout_ms), .min = 100, .max = 3600000,
     .preset = "60000", .help = "Until it must be running."},
    {"stop_timeout_ms", FIELD_NUMBER, .offset = APP(stop_timeout_ms), .min = 100, .max = 3600000,
     .preset = "60000", .help = "For a graceful stop, before it is ended by force."},
    {"status_interval_ms", FIELD_NUMBER, .offset = APP(status_interval_ms), .min = 100,
     .max = 3600000, .preset = "5000", .when = "script",
     .help = "How often the script's status is asked."},
    {"status_timeout_ms", FIELD_NUMBER, .offset = APP(status_timeout_ms), .min = 100,
     .max = 3600000, .preset = "5000", .when = "script",
     .help = "For one answer of the script's status."},
    {"restarts", FIELD_NUMBER, .offset = APP(restarts), .min = 0, .max = 1000, .preset = "3",
     .help = "How often within an hour it is restarted where it is, before on_failure counts."},
    {"on_failure", FIELD_WORD, .offset = APP(failure), .words = words_failure, .preset = "none",
     .help = "What happens when it still fails: nothing but a report, or a switchover."},
};
OBJECT(app_object, struct pair_app_config, app_fields, "application", "A protected application.");

#define TIMING(m) offsetof(struct pair_timing_config, m)
static const struct field timing_fields[] = {
    {"heartbeat_ms", FIELD_NUMBER, .flags = FIELD_AGREE, .offset = TIMING(heartbeat_ms), .min = 20,
     .max = 5000, .preset = "250", .help = "Interval of heartbeats."},
    {"timeout_ms", FIELD_NUMBER, .flags = FIELD_AGREE, .offset = TIMING(timeout_ms), .min = 400,
     .max = 60000, .preset = "2000",
     .help = "T: a peer that was not heard for so long is silent. At least four heartbeats."},
    {"decision_ms", FIELD_NUMBER, .flags = FIELD_AGREE, .offset = TIMING(decision_ms), .min = 500,
     .max = 60000, .preset = "2000",
     .help = "D: the window after T in which the passive end may take over by itself."},
    {"margin_ms", FIELD_NUMBER, .flags = FIELD_AGREE, .offset = TIMING(margin_ms), .min = 100,
     .max = 10000, .preset = "300",
     .help = "Room for the guard: it acts at T less this; going alone waits T, D and this. T less "
             "this is at least three heartbeats."},
};
OBJECT(timing_object, struct pair_timing_config, timing_fields, "timing", "When a silence counts.");

#define QUEUES(m) offsetof(struct pair_queues_config, m)
static const struct field queues_fields[] = {
    {"memory", FIELD_SIZE, .offset = QUEUES(memory), .min = 136 * MIB, .max = 64 * GIB,
     .preset = "256M", .help = "Limit of the unsafe queue in shared memory."},
    {"spill", FIELD_SIZE, .offset = QUEUES(spill), .min = 0, .max = PIB, .preset = "4G",
     .help = "Limit of the unsafe queue on disk, used when more than half of its memory is in use. With less "
             "than 34M it has its memory alone."},
    {"safe", FIELD_SIZE, .offset = QUEUES(safe), .min = 128 * MIB, .max = PIB, .preset = "4G",
     .help = "Limit of the safe queue."},
    {"salvage", FIELD_SIZE, .offset = QUEUES(salvage), .min = 2 * MIB, .max = PIB, .preset = "4G",
     .help = "Limit of the salvage: what an end held and nobody else has, kept before it is "
             "overwritten. While it is full, nothing is applied at that end."},
    {"overflow", FIELD_WORD, .offset = QUEUES(overflow), .words = words_overflow, .preset = "map",
     .help = "What happens when the unsafe queue is full, on disk too: the peer gets what is queued, and "
             "what follows by a resync (the application never waits); writers are slowed down to the "
             "link; or they are held until there is room."},
};
OBJECT(queues_object, struct pair_queues_config, queues_fields, "queues", "Limits of the queues.");

#define RESYNC(m) offsetof(struct pair_resync_config, m)
static const struct field resync_fields[] = {
    {"share", FIELD_NUMBER, .offset = RESYNC(share), .min = 1, .max = 100, .preset = "50",
     .help = "Percent of the channel that a resync may take while the application writes."},
    {"rate", FIELD_SIZE, .offset = RESYNC(rate), .min = 0, .max = PIB, .preset = "0",
     .help = "Bytes a second that a resync may use at most; 0 is no limit."},
};
OBJECT(resync_object, struct pair_resync_config, resync_fields, "resync",
       "How fast a replica is repaired.");

#define VERIFY(m) offsetof(struct pair_verify_config, m)
static const struct field verify_fields[] = {
    {"every_hours", FIELD_NUMBER, .offset = VERIFY(every_hours), .min = 0, .max = 8784, .preset = "0",
     .help = "Hours between two verifies that the active end begins by itself; 0: only when an operator asks."},
    {"repair", FIELD_BOOL, .offset = VERIFY(repair), .preset = "false",
     .help = "Whether these mend what they find to differ, or leave that to the operator."},
};
OBJECT(verify_object, struct pair_verify_config, verify_fields, "verify",
       "When both ends are compared. The limits of resync hold for it, too.");

#define PAIR(m) offsetof(struct pair_config, m)
static const struct field pair_fields[] = {
    {"format", FIELD_NUMBER, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = PAIR(format),
     .min = PAIR_FORMAT, .max = PAIR_FORMAT, .help = "Version of this format."},
    {"pair", FIELD_NAME, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = PAIR(pair),
     .help = "Name of the pair, the same on both machines and unique on each."},
    {"ends", FIELD_OBJECT, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = PAIR(ends),
     .object = &ends_object, .help = "The two machines."},
    {"channel", FIELD_OBJECT, .flags = FIELD_REQUIRED, .offset = PAIR(channel),
     .object = &channel_object, .help = "The links between them."},
    {"mode", FIELD_WORD, .flags = FIELD_AGREE, .offset = PAIR(mode), .words = fields_words_mode,
     .preset = "sync",
     .help =
         "What an answer to the application promises. async: nothing beyond this machine. sync: "
         "what a flush acknowledged is on both. strict: every acknowledged write is on both."},
    {"volumes", FIELD_OBJECTS, .flags = FIELD_REQUIRED | FIELD_AGREE, .offset = PAIR(volumes),
     .count_offset = PAIR(volume_count), .min = 1, .max = PAIR_VOLUMES_MAX,
     .object = &volume_object, .help = "The protected volumes."},
    {"public_address", FIELD_OBJECT, .flags = FIELD_AGREE, .offset = PAIR(public_address),
     .object = &public_object, .help = "What clients use."},
    {"waypoints", FIELD_STRINGS, .item = FIELD_ADDRESS, .offset = PAIR(waypoints),
     .count_offset = PAIR(waypoint_count), .min = 0, .max = PAIR_WAYPOINTS_MAX,
     .help = "Addresses on the public network, outside the pair, that answer ping when this end is "
             "not cut off: a gateway, a client. Without any, an automatic takeover is refused."},
    {"applications", FIELD_OBJECTS, .flags = FIELD_AGREE, .offset = PAIR(applications),
     .count_offset = PAIR(application_count), .min = 0, .max = PAIR_APPLICATIONS_MAX,
     .object = &app_object, .help = "What runs on the active end, in start order."},
    {"timing", FIELD_OBJECT, .flags = FIELD_AGREE, .offset = PAIR(timing), .object = &timing_object,
     .help = "When a silence counts."},
    {"queues", FIELD_OBJECT, .offset = PAIR(queues), .object = &queues_object,
     .help = "Limits of the queues."},
    {"resync", FIELD_OBJECT, .offset = PAIR(resync), .object = &resync_object,
     .help = "How fast a replica is repaired."},
    {"verify", FIELD_OBJECT, .offset = PAIR(verify), .object = &verify_object,
     .help = "When both ends are compared."},
    {"takeover", FIELD_WORD, .offset = PAIR(takeover), .words = fields_words_takeover,
     .preset = "auto",
     .help = "Whether the passive end takes over by itself or waits for pairctl takeover."},
    {"slow", FIELD_WORD, .offset = PAIR(slow), .words = words_slow, .preset = "throttle",
     .help = "When a flush would wait longer than T for a peer that is slow: writers are slowed "
             "down, or the active end goes alone. With alone it is paired again only when the lag "
             "has stayed small for 10 s, whatever it went alone for; until then there is no "
             "takeover by itself."},
    {"split", FIELD_WORD, .flags = FIELD_AGREE, .offset = PAIR(split), .words = words_split,
     .preset = "secondary-stops",
     .help = "Who stops serving when both ends meet active after a split. Nothing is overwritten "
             "in any case."},
    {"shutdown", FIELD_WORD, .offset = PAIR(shutdown), .words = words_shutdown, .preset = "switch",
     .help = "What a shutdown of the active end's machine does: hand over to the peer, or end "
             "protection in order."},
    {"flush_failure", FIELD_WORD, .offset = PAIR(flush_failure), .words = words_flush,
     .preset = "switchover",
     .help = "What the active end does when a flush of its own storage failed."},
};
const struct field_object fields_pair = {"pair file", sizeof(struct pair_config), pair_fields,
                                         ARRAY_LEN(pair_fields), "One pair."};

static void release_list(const struct field *field, void *base)
{
    char *at = base;
    void **list = (void **)(at + field->offset);
    size_t *count = (size_t *)(at + field->count_offset);
    for (size_t i = 0; i < *count; i++) {
        if (field->type == FIELD_STRINGS)
            free(((char **)*list)[i]);
        else
            fields_release(field->object, (char *)*list + i * field->object->size);
    }
    free(*list);
    *list = NULL;
    *count = 0;
}

// As deep as the table is, and no deeper.
void fields_release(const struct field_object *object, void *base)
{
    for (size_t i = 0; i < object->field_count; i++) {
        const struct field *field = &object->fields[i];
        char *at = (char *)base + field->offset;
        if (field_is_string(field->type)) {
            free(*(char **)at);
            *(char **)at = NULL;
        } else if (field->type == FIELD_OBJECT) {
            fields_release(field->object, at);
        } else if (field->type == FIELD_OBJECTS || field->type == FIELD_STRINGS) {
            release_list(field, base);
        }
    }
}
