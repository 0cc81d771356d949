// SPDX-License-Identifier: Apache-2.0
// seeds DIRECTORY: writes, for the binary decoders, one well-formed input of each kind into
// DIRECTORY/TARGET/. Those of the text decoders are in the tree as they are (tests/fuzz/corpus).
#include <sys/stat.h>

#include "common/address/claims.h"
#include "common/address/packet.h"
#include "common/base/keyfile.h"
#include "common/base/twin.h"
#include "common/channel/frame.h"
#include "common/channel/sp.h"
#include "common/control/status.h"
#include "common/daemon/layout.h"
#include "fuzz.h"
#include "queues/batch.h"
#include "queues/epoch.h"
#include "queues/safe.h"
#include "tests/fuzz/seeds_end.h"
#include "tests/unit/config_refused.h"
#include "tests/unit/fake_disk.h"
#include "tests/unit/passive_help.h"

static const char *directory;

static void put(const char *target, const char *name, const void *data, size_t size)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, target);
    (void)mkdir(path, 0777);
    (void)snprintf(path, sizeof(path), "%s/%s/%s", directory, target, name);
    FILE *f = fopen(path, "w");
    ENSURE(f && fwrite(data, 1, size, f) == size);
    ENSURE(fclose(f) == 0);
}

// ---- Data links ----

static void fill_every_type(void *arg, uint64_t seq, struct record *r, uint8_t *payload,
                            size_t limit)
{
    static const uint32_t payloads[RECORD_TYPE_END] = {
        [RECORD_WRITE] = 40, [RECORD_RESYNC] = 40, [RECORD_CHECK] = 8, [RECORD_EPOCH] = 64};
    r->type = (uint8_t)(seq % (RECORD_TYPE_END - 1) + 1);
    r->payload = le32_make(payloads[r->type]);
    memset(payload, (int)seq, payloads[r->type]);
    if (r->type == RECORD_MARK) {
        r->mark = seq > RECORD_TYPE_END ? MARK_UNDEFINED : MARK_IDLE;
        if (r->mark == MARK_IDLE)
            return;
        r->status = le16_make(5);
    }
    if (r->type == RECORD_EPOCH)
        return;
    if (r->type == RECORD_CHECK && seq > RECORD_TYPE_END)
        r->flags = RECORD_COARSE;
    r->offset = le64_make(seq * 4096);
    r->length = le32_make(r->payload.raw && r->type != RECORD_CHECK ? 40 : 4096);
}

static void data_links(void)
{
    struct message_spec spec = {.session = 1,
                                .first_seq = 1,
                                .count = 16,
                                .promised = 3,
                                .epoch = 5,
                                .fill = fill_every_type};
    size_t size;
    void *message = message_make(&spec, &size);
    put("batch", "records", message, size);
    put("batch", "record", (uint8_t *)message + sizeof(struct batch), sizeof(struct record));
    free(message);
    spec.count = 0;
    spec.barrier = 7;
    message = message_make(&spec, &size);
    put("batch", "barrier", message, size);
    free(message);
    struct batch_ack ack = {.session = le64_make(1),
                            .received = le64_make(9),
                            .durable = le64_make(8),
                            .applied = le64_make(7),
                            .settled = le64_make(6)};
    batch_ack_seal(&ack);
    put("batch", "ack", &ack, sizeof(ack));
    struct {
        struct batch_answer answer;
        uint8_t bitmap[2];
    } a = {.answer = {.session = le64_make(1), .seq = le64_make(4), .blocks = le32_make(12)},
           .bitmap = {5, 1}};
    batch_answer_seal(&a.answer, a.bitmap);
    put("batch", "answer", &a, sizeof(a.answer) + 2);
}

// ---- Epochs ----

static struct epoch next_epoch(const struct epoch_history *h, uint64_t id)
{
    const struct epoch *current = history_current(h);
    struct epoch e = {.number = 1,
                      .id = id,
                      .first_seq = 1,
                      .opened_by = EPOCH_BY_PRIMARY,
                      .reason = EPOCH_FIRST_START,
                      .time = 1000};
    if (current) {
        e.number = current->number + 1;
        e.parents = 1;
        e.parent[0] = (struct epoch_parent){current->id, current->first_seq + 10};
        e.first_seq = current->first_seq + 11;
        e.opened_by = EPOCH_BY_SECONDARY;
        e.reason = id % 2 ? EPOCH_TAKEOVER : EPOCH_ALONE;
    }
    return e;
}

static void grow(struct epoch_history *h, uint64_t first_id, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct epoch e = next_epoch(h, first_id + i);
        ENSURE(!history_append(h, &e));
    }
}

static void put_histories(const char *name, const struct epoch_history *a,
                          const struct epoch_history *b)
{
    static uint8_t bytes[2 + 2 * HISTORY_ENCODED_MAX];
    size_t first = history_encode(a, bytes + 2);
    bytes[0] = (uint8_t)first;
    bytes[1] = (uint8_t)(first >> 8);
    size_t second = history_encode(b, bytes + 2 + first);
    put("epoch", name, bytes, 2 + first + second);
}

static void epochs(void)
{
    static struct epoch_history a, b, full;
    uint8_t bytes[2 + EPOCH_ENCODED_SIZE] = {EPOCH_ENCODED_SIZE};
    grow(&a, 10, 2);
    b = a;
    grow(&a, 20, 2);
    grow(&b, 30, 1);
    epoch_encode(&a.epochs[1], bytes + 2);
    put("epoch", "epoch", bytes, sizeof(bytes));
    put_histories("fork", &a, &b);
    struct epoch e = next_epoch(&a, 40);
    e.parents = 2;
    e.parent[1] = (struct epoch_parent){history_current(&b)->id, EPOCH_SEQ_UNKNOWN};
    e.reason = EPOCH_RESOLVE;
    ENSURE(!history_merge(&a, &b, &e));
    put_histories("merged", &a, &b);
    grow(&full, 100, HISTORY_EPOCHS_MAX + 2);
    put_histories("full", &full, &full);
}

// ---- Queues on disk ----

// The parts of a file that are not zero, as patches.
static size_t add_patches(uint8_t *to, uint32_t base, const uint8_t *bytes, size_t size)
{
    size_t used = 0;
    for (size_t at = 0; at < size;) {
        size_t run = 0;
        while (at + run < size && run < 4096 &&
               memcmp(bytes + at + run,
                      "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                      MIN(size - at - run, (size_t)32)) != 0)
            run += 32;
        run = MIN(run, size - at);
        if (run) {
            struct byte_writer w = byte_writer(to + used, 6 + run);
            byte_put_u32(&w, base + (uint32_t)at);
            byte_put_u16(&w, (uint16_t)run);
            byte_put(&w, bytes + at, run);
            used += w.used;
        }
        at += run ? run : 32;
    }
    return used;
}

static void fill_write(void *arg, uint64_t seq, struct record *r, uint8_t *payload, size_t limit)
{
    r->type = RECORD_WRITE;
    r->length = r->payload = le32_make(*(uint32_t *)arg);
    memset(payload, (int)seq, *(uint32_t *)arg);
}

static void synced(void *arg, int status)
{
    ENSURE(status == 0);
}

static void put_safe(const char *name, uint64_t messages, uint32_t length)
{
    static uint8_t bytes[512 * 1024];
    struct fake_disk *fake = fake_disk_new(128 * 1024, 1);
    struct safe_config config = {.disk = fake_disk_of(fake),
                                 .pair = 0x1234,
                                 .salt = 0x77,
                                 .segment_size = 16384,
                                 .limit = 96 * 1024};
    struct safe_recovery recovery;
    struct safe *safe = NULL;
    size_t used = 0;
    ENSURE(safe_open(&config, &safe, &recovery, NULL) == 0);
    ENSURE(safe_restart(safe, 5, 1, NULL) == 0);
    for (uint64_t i = 0; i < messages; i++) {
        struct message_spec spec = {
            .first_seq = 1 + 2 * i, .count = 2, .epoch = 5, .fill = fill_write, .arg = &length};
        size_t size;
        void *message = message_make(&spec, &size);
        ENSURE(safe_append(safe, message, size, NULL) == 0);
        free(message);
        safe_sync(safe, synced, NULL);
        while (fake_disk_complete(fake))
            ;
    }
    for (uint32_t slot = 0; slot < 4; slot++) {
        uint64_t size;
        const uint8_t *at = fake_disk_bytes(fake, slot, &size);
        if (at)
            used += add_patches(bytes + used, slot * 16384, at, size);
    }
    put("safe", name, bytes, used);
    safe_free(safe);
    fake_disk_free(fake);
}

// ---- The channel ----

static void channel(void)
{
    struct frame f = {.kind = FRAME_SEALED, .nonce = 7, .counter = 1, .size = 64};
    uint8_t bytes[256] = {0};
    frame_fill((struct frame_header *)bytes, &f);
    put("channel_frame", "sealed", bytes, 32 + 64);
    f = (struct frame){.kind = FRAME_HANDSHAKE,
                       .side = CHANNEL_SIDE_DATA,
                       .path = 2,
                       .nonce = 7,
                       .size = 100,
                       .from_initiator = true};
    frame_fill((struct frame_header *)bytes, &f);
    put("channel_frame", "handshake", bytes, 32 + 100);
    f = (struct frame){.kind = FRAME_RESET, .nonce = 7};
    frame_fill((struct frame_header *)bytes, &f);
    put("channel_frame", "reset", bytes, 32);
    f = (struct frame){.kind = FRAME_BUNDLE, .nonce = 7, .size = 2 * 72};
    memset(bytes, 0, sizeof(bytes));
    frame_fill((struct frame_header *)bytes, &f);
    frame_entry_fill(bytes + 32, 0, 64);
    frame_entry_fill(bytes + 32 + 72, 1, 63);
    put("channel_frame", "bundle", bytes, 32 + 2 * 72);
    struct hello hello = {
        .protocol = 7, .round = 1, .identity = CHANNEL_PRIMARY, .run = 3, .pair = "web"};
    struct frame_hello wire;
    hello_fill(&wire, &hello);
    put("channel_frame", "hello", &wire, sizeof(wire));
}

static void sp_stream(const char *name, const uint8_t cuts[4], const uint16_t *sizes, size_t count)
{
    uint8_t bytes[8192] = {0x08, 0x00}, *to = bytes + 6;
    memcpy(bytes + 2, cuts, 4);
    sp_greeting_make(SP_PUSH, to);
    to += SP_GREETING;
    for (size_t i = 0; i < count; i++) {
        sp_length_make(sizes[i], to);
        memset(to + SP_LENGTH, (int)(i + 1), sizes[i]);
        to += SP_LENGTH + sizes[i];
    }
    put("sp", name, bytes, (size_t)(to - bytes));
}

static void sp(void)
{
    sp_stream("small", (const uint8_t[]){3, 0, 40, 1}, (const uint16_t[]){1, 32, 100, 7}, 4);
    sp_stream("large", (const uint8_t[]){200, 255, 1, 200}, (const uint16_t[]){2048, 2047, 1024}, 3);
    sp_stream("too-large", (const uint8_t[]){7, 130, 1, 0}, (const uint16_t[]){64, 2049}, 2);
}

// ---- Small files and datagrams ----

static void files(void)
{
    char path[PATH_SIZE], name[PATH_SIZE];
    static uint8_t bytes[1024];
    struct twin *twin = NULL;
    size_t size;
    fuzz_path(path, "seed");
    ENSURE(twin_open(path, bytes, sizeof(bytes), &twin, &size, NULL) == 0);
    for (int i = 0; i < 2; i++)
        ENSURE(twin_save(twin, "saved", 5 + (size_t)i, NULL) == 0);
    twin_free(twin);
    memcpy(bytes, "\x40\0\xff\xff", 4);
    for (int i = 0; i < 2; i++) {
        (void)snprintf(name, sizeof(name), "%s.%d", path, i);
        FILE *f = fopen(name, "r");
        ENSURE(f && fread(bytes + 4 + (size_t)i * 64, 1, 64, f) == 64);
        (void)fclose(f);
        (void)unlink(name);
    }
    put("twin", "both", bytes, 4 + 128);
    bytes[0] = 0;
    put("twin", "second", bytes, 4 + 64);
    ENSURE(keyfile_generate(path, NULL) == 0);
    FILE *f = fopen(path, "r");
    bytes[0] = 2;
    ENSURE(f);
    size = fread(bytes + 1, 1, 256, f);
    (void)fclose(f);
    (void)unlink(path);
    put("keyfile", "good", bytes, 1 + size);
    bytes[0] = 1;
    put("keyfile", "readable", bytes, 1 + size);
    bytes[0] = 0;
    put("keyfile", "new", bytes, 1);
}

// Named as those of the fuzzer's pair file; the third one as the last line begins.
static void put_layout(const char *name, size_t count, const char *path, uint64_t inode)
{
    static struct layout layout;
    for (layout.count = 0; layout.count < count; layout.count++) {
        struct layout_place *p = &layout.places[layout.count];
        static const char *const names[] = {"data", "log", "sum", "a2345678901234567890123456789012"};
        *p = (struct layout_place){.size = (layout.count + 1) << 20, .device = inode ? 2049 : 0, .inode = inode};
        (void)snprintf(p->name, sizeof(p->name), "%s", names[layout.count % ARRAY_LEN(names)]);
        p->path = layout.count ? path : "iscsi://10.3.0.9/iqn.2024-01.example:a/1";
    }
    CLEANUP_FREE char *text = layout_format(&layout);
    ENSURE(text);
    put("layout", name, text, strlen(text));
}

static void put_claims(const char *name, size_t count, bool of_another_boot)
{
    static const char *const addresses[] = {"192.0.2.10/24", "2001:db8::10/64", "192.0.2.11", "::ffff:192.0.2.12"};
    static struct claims_entry entries[16];
    for (size_t i = 0; i < count; i++) {
        struct claims_entry *e = &entries[i];
        *e = (struct claims_entry){.created = i % 2 ? UINT32_MAX : 0};
        (void)snprintf(e->owner, sizeof(e->owner), "%s", i % 3 ? "a2345678901234567890123456789012/secondary" : "web/primary");
        (void)snprintf(e->claim.interface, sizeof(e->claim.interface), "%s", i % 5 ? "eth0" : "a23456789012345");
        ENSURE(ip_parse(addresses[i % ARRAY_LEN(addresses)], &e->claim.ip, NULL) == 0);
    }
    CLEANUP_FREE char *text = claims_format(entries, count, 1);
    ENSURE(text);
    const char *from = of_another_boot ? text : strchr(text, '\n') + 1;
    uint8_t bytes[2048] = {of_another_boot ? 0 : 1, 8};
    size_t size = strlen(from);
    ENSURE(size <= sizeof(bytes) - 2);
    memcpy(bytes + 2, from, size);
    put("claims", name, bytes, 2 + size);
}

static void lists(void)
{
    put_layout("empty", 0, "", 0);
    put_layout("as-it-is", 2, "/dev/null", 5);
    put_layout("another", 2, "/dev/zero", 5);
    put_layout("gone", 2, "/nonexistent/null", 5);
    put_layout("fewer", 1, "", 0);
    put_layout("more", 4, "/dev/null", 0);
    put_layout("full", PAIR_VOLUMES_MAX, "/dev/null", UINT64_MAX);
    put_claims("one", 1, false);
    put_claims("many", 16, false);
    put_claims("another-boot", 2, true);
}

static void datagrams(void)
{
    struct ip v4, v6;
    uint8_t frame[FRAME_SIZE], mac[6] = {2, 3, 4, 5, 6, 7};
    ENSURE(ip_parse("192.0.2.1", &v4, NULL) == 0 && ip_parse("2001:db8::1", &v6, NULL) == 0);
    put("packet", "arp_ask", frame, packet_ask(frame, mac, &v4, &v4, NULL));
    put("packet", "arp_probe", frame, packet_ask(frame, mac, NULL, &v4, mac));
    put("packet", "arp_say", frame, packet_announce(frame, mac, &v4, true));
    put("packet", "nd_ask", frame, packet_ask(frame, mac, &v6, &v6, NULL));
    put("packet", "nd_probe", frame, packet_ask(frame, mac, NULL, &v6, NULL));
    put("packet", "nd_say", frame, packet_announce(frame, mac, &v6, false));
    uint8_t datagram[57] = {1, 'U', 'S', 'I', 'Q', 1, 1, 2, 0, [41] = 9};
    put("inquiry", "ask", datagram, sizeof(datagram));
    datagram[0] = 0;
    datagram[6] = 2;
    datagram[7] = 1;
    for (datagram[8] = 1; datagram[8] <= 4; datagram[8]++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "answer%d", datagram[8]);
        put("inquiry", name, datagram, sizeof(datagram));
    }
}

static void texts(void)
{
    static struct pair_status s = {.pair = "web",
                                   .role = "active",
                                   .volume_count = 1,
                                   .application_count = 1,
                                   .path_count = 1,
                                   .waypoint_count = 1,
                                   .has_last_event = true,
                                   .stale_ms = -1};
    struct status_event e = {.step = "takeover", .text = "why", .real_ms = 5};
    const struct pair_status *list[] = {&s, &s};
    s.public_address.address_count = 1;
    char *text = status_to_json(&s, false);
    put("status", "one", text, strlen(text));
    free(text);
    text = status_list_to_json(list, 2, false);
    put("status", "list", text, strlen(text));
    free(text);
    text = history_to_json(&e, 1, true);
    put("status", "history", text, strlen(text));
    free(text);
    put("pair", "sample", config_sample, strlen(config_sample));
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        char name[32];
        text = config_changed(config_sample, refused[i].from, refused[i].to);
        (void)snprintf(name, sizeof(name), "refused-%zu", i);
        put("pair", name, text, strlen(text));
        free(text);
    }
    // Another pair that has less and less in common with the sample.
    static const char *const others[][2] = {
        {"\"web\"", "\"other\""},         {"/srv/web.img", "/srv/a"},       {"/srv/web.img", "/srv/b"},
        {"example:a/1", "example:b/1"},   {"/dev/vg/logs", "/dev/vg/more"}, {"7400", "7500"},
        {"7410", "7510"},                 {"7420", "7520"},                 {"7430", "7530"},
        {"192.0.2.10/24", "192.0.2.11/24"}, {"2001:DB8:0::10/64", "2001:DB8:0::11/64"},
    };
    text = strdup(config_sample);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        char name[32], *next = config_changed(text, others[i][0], others[i][1]);
        (void)snprintf(name, sizeof(name), "other-%zu", i);
        put("pair", name, next, strlen(next));
        free(text);
        text = next;
    }
    free(text);
    uint8_t step[6 + 16 + sizeof(e)] = {0};
    struct byte_writer w = byte_writer(step, sizeof(step));
    byte_put_u32(&w, 3 * (16 + sizeof(e)));
    byte_put_u16(&w, 16 + sizeof(e));
    byte_put_u64(&w, 3);
    byte_put_u64(&w, 1);
    byte_put(&w, &e, sizeof(e));
    put("steps", "third", step, w.used);
}

// For the targets that patch an image of their own: one patch of each field of a header, and of what lies behind it.
static void patches(const char *target, const uint32_t *at, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t bytes[1 + 6 + 4] = {(uint8_t)i};
        struct byte_writer w = byte_writer(bytes + 1, sizeof(bytes) - 1);
        char name[32];
        byte_put_u32(&w, at[i]);
        byte_put_u16(&w, 4);
        byte_put_u32(&w, UINT32_C(0x01f00003) << i % 3);
        (void)snprintf(name, sizeof(name), "at%u", (unsigned)at[i]);
        put(target, name, bytes, sizeof(bytes));
    }
}

static void images(void)
{
    static const uint32_t map[] = {0, 4, 8, 16, 24, 28, 32, 36, 44, 4096, 4100, 4104, 4112, 4120, 4152, 8192, 8196};
    static const uint32_t archive[] = {0,    4,    8,    16,   24,   32,   40,   64,   72,   100,  128,  200,
                                       512,  4096, 4100, 4104, 4112, 4120, 4128, 4136, 4144, 4160, 8192, 8200,
                                       8208, 12288, 12296, 16384, 24576, 24580, 24584, 24600, 28672, 28680, 49152};
    static const uint32_t spilled[] = {0,    4,    8,    16,   24,   32,   40,   48,    56,    88,    4096,  4104,  8192,
                                       8196, 8200, 8208, 8216, 8224, 8232, 8240,  8248,  8256,  8300,  8400,  9000,
                                       16384, 20480, 24576, 32768, 36864};
    patches("intent", map, ARRAY_LEN(map));
    patches("spill", spilled, ARRAY_LEN(spilled));
    patches("salvage", archive, ARRAY_LEN(archive));
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    directory = argv[1];
    (void)mkdir(directory, 0777);
    data_links();
    epochs();
    put_safe("short", 2, 60);
    put_safe("segments", 7, 1800);
    channel();
    sp();
    files();
    lists();
    datagrams();
    texts();
    images();
    seeds_end(put);
    return 0;
}
