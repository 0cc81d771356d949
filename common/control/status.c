// SPDX-License-Identifier: Apache-2.0
#include "common/control/status.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/control/json.h"

#define AT(type, m) .offset = offsetof(type, m)
#define TEXT(type, m)                                                                              \
    {                                                                                              \
#m, JSON_TEXT, AT(type, m), .size = sizeof(((type *)0)->m)                                 \
    }
#define VALUE(kind, type, m)                                                                       \
    {                                                                                              \
#m, kind, AT(type, m)                                                                      \
    }
#define OBJECT(type, m, t)                                                                         \
    {                                                                                              \
#m, JSON_OBJECT, AT(type, m), .table = &(t)                                                \
    }
#define ARRAY(kind, type, m, n, t)                                                                 \
    {                                                                                              \
#m, kind, AT(type, m), .size = sizeof(((type *)0)->m[0]),                                  \
                               .count_offset = offsetof(type, n),                                  \
                               .max = ARRAY_LEN(((type *)0)->m), .table = t                        \
    }
#define TABLE(name) static const struct json_table name = {name##_fields, ARRAY_LEN(name##_fields)}

#define Q struct status_queue
static const struct json_field queue_fields[] = {
    VALUE(JSON_U64, Q, records),
    VALUE(JSON_U64, Q, bytes),
    VALUE(JSON_TIME, Q, oldest_ms),
    VALUE(JSON_U64, Q, limit_bytes),
    VALUE(JSON_U64, Q, spilled_bytes),
};
TABLE(queue);

#define V struct status_volume
static const struct json_field volume_fields[] = {
    TEXT(V, name),
    VALUE(JSON_U64, V, size),
    TEXT(V, export),
    VALUE(JSON_BOOL, V, serving),
    VALUE(JSON_BOOL, V, synchronized),
    VALUE(JSON_U64, V, out_of_sync_bytes),
    TEXT(V, store),
    TEXT(V, error),
};
TABLE(volume);

#define A struct status_application
static const struct json_field application_fields[] = {
    TEXT(A, name), TEXT(A, kind), TEXT(A, state), VALUE(JSON_U32, A, restarts), TEXT(A, text),
};
TABLE(application);

#define P struct status_path
static const struct json_field path_fields[] = {
    TEXT(P, name),
    TEXT(P, local),
    TEXT(P, remote),
    VALUE(JSON_BOOL, P, up),
    VALUE(JSON_BOOL, P, data),
    VALUE(JSON_TIME, P, rtt_us),
};
TABLE(path);

#define W struct status_waypoint
static const struct json_field waypoint_fields[] = {
    TEXT(W, address),
    VALUE(JSON_BOOL, W, answers),
    VALUE(JSON_TIME, W, silent_ms),
};
TABLE(waypoint);

#define R struct status_resync
static const struct json_field resync_fields[] = {
    VALUE(JSON_BOOL, R, active),
    VALUE(JSON_BOOL, R, paused),
    TEXT(R, volume),
    TEXT(R, kind),
    VALUE(JSON_U64, R, done_bytes),
    VALUE(JSON_U64, R, total_bytes),
    VALUE(JSON_U64, R, rate),
    VALUE(JSON_TIME, R, left_ms),
    VALUE(JSON_TIME, R, stalled_ms),
};
TABLE(resync);

#define G struct status_range
static const struct json_field range_fields[] = {
    TEXT(G, volume),
    VALUE(JSON_U64, G, offset),
    VALUE(JSON_U64, G, length),
};
TABLE(range);

#define Y struct status_verify
static const struct json_field verify_fields[] = {
    VALUE(JSON_BOOL, Y, active),
    VALUE(JSON_U64, Y, done_bytes),
    VALUE(JSON_U64, Y, total_bytes),
    VALUE(JSON_U64, Y, rate),
    VALUE(JSON_TIME, Y, left_ms),
    VALUE(JSON_TIME, Y, equal_time_ms),
    VALUE(JSON_U64, Y, equal_epoch),
    VALUE(JSON_HEX, Y, equal_epoch_id),
    VALUE(JSON_U64, Y, equal_seq),
    VALUE(JSON_U64, Y, differing_bytes),
    VALUE(JSON_BOOL, Y, repair_waits),
    ARRAY(JSON_OBJECTS, Y, ranges, range_count, &range),
};
TABLE(verify);

#define L struct status_loss
static const struct json_field loss_fields[] = {
    VALUE(JSON_U64, L, records),
    VALUE(JSON_U64, L, bytes),
    VALUE(JSON_TIME, L, age_ms),
    VALUE(JSON_BOOL, L, more),
};
TABLE(loss);

#define X struct status_veto
static const struct json_field veto_fields[] = {
    TEXT(X, name),
    TEXT(X, text),
    VALUE(JSON_BOOL, X, overridden),
};
TABLE(veto);

#define O struct status_operation
static const struct json_field operation_fields[] = {
    VALUE(JSON_U64, O, id),
    TEXT(O, name),
    TEXT(O, state),
    TEXT(O, text),
    ARRAY(JSON_OBJECTS, O, vetoes, veto_count, &veto),
    TEXT(O, override),
    TEXT(O, age),
    {"loss", JSON_OBJECT, AT(O, loss), .table = &loss, .present_offset = offsetof(O, loss.known)},
};
TABLE(operation);

#define E struct status_event
static const struct json_field event_fields[] = {
    {"time_ms", JSON_TIME, AT(E, real_ms)},
    TEXT(E, step),
    VALUE(JSON_TIME, E, ms),
    TEXT(E, text),
    {"loss", JSON_OBJECT, AT(E, loss), .table = &loss, .present_offset = offsetof(E, loss.known)},
    VALUE(JSON_U32, E, count),
};
TABLE(event);

#define N struct status_epoch
static const struct json_field epoch_fields[] = {
    VALUE(JSON_U32, N, number),
    VALUE(JSON_HEX, N, id),
    TEXT(N, opened_by),
    TEXT(N, reason),
    VALUE(JSON_U64, N, first_seq),
};
TABLE(epoch);

#define D struct status_divergence
static const struct json_field divergence_fields[] = {
    ARRAY(JSON_OBJECTS, D, primary, primary_count, &epoch),
    ARRAY(JSON_OBJECTS, D, secondary, secondary_count, &epoch),
    VALUE(JSON_BOOL, D, counted),
    VALUE(JSON_U64, D, regions),
    VALUE(JSON_U64, D, bytes),
};
TABLE(divergence);

// The nested structs of the status have no names of their own.
#define S        struct pair_status
#define IN(o, m) offsetof(S, o.m) - offsetof(S, o)

static const struct json_field peer_fields[] = {
    {"connected", JSON_BOOL, IN(peer, connected)},
    {"silent_ms", JSON_TIME, IN(peer, silent_ms)},
    {"longest_silence_ms", JSON_TIME, IN(peer, longest_silence_ms)},
    {"timeout_ms", JSON_U32, IN(peer, timeout_ms)},
    {"role", JSON_TEXT, IN(peer, role), .size = sizeof(((S *)0)->peer.role)},
    {"refused", JSON_TEXT, IN(peer, refused), .size = sizeof(((S *)0)->peer.refused)},
};
TABLE(peer);

static const struct json_field positions_fields[] = {
    {"numbered", JSON_U64, IN(positions, numbered)},
    {"received", JSON_U64, IN(positions, received)},
    {"durable", JSON_U64, IN(positions, durable)},
    {"applied", JSON_U64, IN(positions, applied)},
    {"settled", JSON_U64, IN(positions, settled)},
};
TABLE(positions);

static const struct json_field public_address_fields[] = {
    {"enabled", JSON_BOOL, IN(public_address, enabled)},
    {"interface", JSON_TEXT, IN(public_address, interface),
     .size = sizeof(((S *)0)->public_address.interface)},
    {"addresses", JSON_TEXTS, IN(public_address, addresses), .size = STATUS_ADDRESS_SIZE,
     .count_offset = IN(public_address, address_count), .max = STATUS_ADDRESSES_MAX},
};
TABLE(public_address);

static const struct json_field forecast_fields[] = {
    {"loss_bytes", JSON_U64, IN(forecast, loss_bytes)},
    {"loss_ms", JSON_TIME, IN(forecast, loss_ms)},
    {"takeover_ms", JSON_TIME, IN(forecast, takeover_ms)},
};
TABLE(forecast);

static const struct json_field salvage_fields[] = {
    {"active", JSON_BOOL, IN(salvage, active)},
    {"full", JSON_BOOL, IN(salvage, full)},
    {"bytes", JSON_U64, IN(salvage, bytes)},
    {"limit_bytes", JSON_U64, IN(salvage, limit_bytes)},
};
TABLE(salvage);

static const struct json_field guard_fields[] = {
    {"alive", JSON_BOOL, IN(guard, alive)},
    {"deadline_ms", JSON_TIME, IN(guard, deadline_ms)},
};
TABLE(guard);

static const struct json_field status_fields[] = {
    TEXT(S, pair),
    TEXT(S, identity),
    TEXT(S, role),
    TEXT(S, state),
    TEXT(S, why),
    VALUE(JSON_U64, S, epoch),
    VALUE(JSON_HEX, S, epoch_id),
    TEXT(S, mode),
    TEXT(S, takeover),
    VALUE(JSON_BOOL, S, synchronized),
    VALUE(JSON_BOOL, S, alone),
    VALUE(JSON_BOOL, S, paired),
    VALUE(JSON_BOOL, S, granted),
    VALUE(JSON_BOOL, S, paused),
    VALUE(JSON_BOOL, S, split),
    VALUE(JSON_TIME, S, stale_ms),
    VALUE(JSON_TIME, S, grant_left_ms),
    VALUE(JSON_U64, S, session),
    VALUE(JSON_HEX, S, run),
    VALUE(JSON_TIME, S, uptime_ms),
    TEXT(S, host),
    TEXT(S, peer_host),
    OBJECT(S, peer, peer),
    OBJECT(S, unsafe_queue, queue),
    OBJECT(S, safe_queue, queue),
    OBJECT(S, positions, positions),
    ARRAY(JSON_OBJECTS, S, volumes, volume_count, &volume),
    OBJECT(S, public_address, public_address),
    ARRAY(JSON_OBJECTS, S, applications, application_count, &application),
    OBJECT(S, forecast, forecast),
    ARRAY(JSON_OBJECTS, S, paths, path_count, &path),
    ARRAY(JSON_OBJECTS, S, waypoints, waypoint_count, &waypoint),
    OBJECT(S, resync, resync),
    OBJECT(S, verify, verify),
    {"divergence", JSON_OBJECT, AT(S, divergence), .table = &divergence,
     .present_offset = offsetof(S, divergence.known)},
    OBJECT(S, salvage, salvage),
    OBJECT(S, guard, guard),
    OBJECT(S, operation, operation),
    {"last_event", JSON_OBJECT, AT(S, last_event), .table = &event,
     .present_offset = offsetof(S, has_last_event)},
};
TABLE(status);

char *status_operation_to_json(const struct status_operation *one)
{
    return json_encode(&operation, one, false);
}

char *status_to_json(const struct pair_status *one, bool pretty)
{
    return json_encode(&status, one, pretty);
}

char *status_list_to_json(const struct pair_status *const *list, size_t count, bool pretty)
{
    return json_encode_list(&status, (const void *const *)list, count, pretty);
}

int status_from_json(const char *json, struct pair_status **ret_list, size_t *ret_count,
                     struct error *err)
{
    return json_decode_list(&status, json, strlen(json), sizeof(**ret_list), (void **)ret_list,
                            ret_count, err);
}

char *history_to_json(const struct status_event *events, size_t count, bool pretty)
{
    CLEANUP_FREE const void **items = calloc(MAX(count, 1), sizeof(*items));
    if (!items)
        return NULL;
    for (size_t i = 0; i < count; i++)
        items[i] = &events[i];
    return json_encode_list(&event, items, count, pretty);
}

int history_from_json(const char *json, struct status_event **ret_events, size_t *ret_count,
                      struct error *err)
{
    return json_decode_list(&event, json, strlen(json), sizeof(**ret_events), (void **)ret_events,
                            ret_count, err);
}
