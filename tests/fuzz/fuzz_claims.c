// SPDX-License-Identifier: Apache-2.0
// The list of the addresses that were put on. The first byte says whether it begins with the head that this boot has, the
// second one how many claims there is room for.
#include "common/address/claims.h"
#include "common/base/clock.h"
#include "fuzz.h"

#define TEXT_MAX 16384
#define UNUSED   0xa5

// More than there can be in a text: a line has more than eight bytes.
static struct claims_entry entries[TEXT_MAX / 8];

static bool same(const struct claims_entry *a, const struct claims_entry *b)
{
    return strcmp(a->owner, b->owner) == 0 && strcmp(a->claim.interface, b->claim.interface) == 0 &&
           ip_equal(&a->claim.ip, &b->claim.ip) && a->claim.ip.prefix == b->claim.ip.prefix && a->created == b->created;
}

static bool is_word(const char *text, size_t size)
{
    return text[0] && memchr(text, 0, size) && !strpbrk(text, " \t\n\v\f\r");
}

static void check_entry(const struct claims_entry *e)
{
    const struct ip *ip = &e->claim.ip;
    ENSURE(is_word(e->owner, sizeof(e->owner)) && is_word(e->claim.interface, sizeof(e->claim.interface)));
    ENSURE((ip->family == IP_V4 || ip->family == IP_V6) && ip->prefix <= ip_size(ip) * 8);
}

// Into as much room as it is said to have, and what is not needed of that is left alone.
static void check_limit(const char *text, uint64_t boot_id, size_t all, size_t limit)
{
    static struct claims_entry few[UINT8_MAX + 1];
    static uint8_t unused[sizeof(few)];
    CLEANUP_FREE char *copy = strdup(text);
    ENSURE(copy && limit < ARRAY_LEN(few));
    memset(unused, UNUSED, sizeof(unused));
    memset(few, UNUSED, sizeof(few));
    size_t count = claims_parse(copy, boot_id, few, limit);
    ENSURE(count == MIN(all, limit));
    for (size_t i = 0; i < count; i++)
        ENSURE(same(&few[i], &entries[i]));
    ENSURE(memcmp(&few[count], unused, sizeof(few) - count * sizeof(few[0])) == 0);
}

// The lines that were accepted are in the text as they would be written, in this order, and are read again.
static void check_again(const char *text, uint64_t boot_id, size_t count)
{
    CLEANUP_FREE char *written = claims_format(entries, count, boot_id), *copy = NULL;
    CLEANUP_FREE struct claims_entry *again = calloc(count + 1, sizeof(*again));
    ENSURE(written && again);
    copy = strdup(written);
    ENSURE(copy);
    char *rest = NULL;
    for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        size_t size = strlen(line);
        while (strncmp(text, line, size) != 0 || (text[size] && text[size] != '\n')) {
            text = strchr(text, '\n');
            ENSURE(text++);
        }
        text += size;
    }
    ENSURE(claims_parse(written, boot_id, again, count + 1) == count);
    for (size_t i = 0; i < count; i++)
        ENSURE(same(&again[i], &entries[i]));
}

// What an end that is configured with nothing would take off, from the file itself.
static void check_file(const char *text, const char *owner, size_t count)
{
    static struct claim left[ARRAY_LEN(entries)];
    char path[PATH_SIZE], lock[PATH_SIZE + 8];
    size_t found = 0, at = 0;
    fuzz_path(path, "claims");
    (void)snprintf(lock, sizeof(lock), "%s.lock", path);
    FILE *f = fopen(path, "w");
    ENSURE(f && fwrite(text, 1, strlen(text), f) == strlen(text));
    ENSURE(fclose(f) == 0);
    struct claims c = {.path = path, .owner = owner};
    ENSURE(claims_left(&c, left, ARRAY_LEN(left), &found, NULL) == 0);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(entries[i].owner, owner) != 0)
            continue;
        ENSURE(at < found && strcmp(left[at].interface, entries[i].claim.interface) == 0 &&
               ip_equal(&left[at].ip, &entries[i].claim.ip) && left[at].ip.prefix == entries[i].claim.ip.prefix);
        at++;
    }
    ENSURE(at == found);
    (void)unlink(path);
    (void)unlink(lock);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t boot_id;
    if (size < 2 || size > TEXT_MAX)
        return 0;
    if (!boot_id)
        boot_id = clock_boot_id();
    CLEANUP_FREE char *head = claims_format(NULL, 0, boot_id), *text = NULL, *copy = NULL;
    ENSURE(head && asprintf(&text, "%s%.*s", data[0] ? head : "", (int)(size - 2), (const char *)data + 2) >= 0);
    copy = strdup(text);
    ENSURE(copy);
    size_t count = claims_parse(copy, boot_id, entries, ARRAY_LEN(entries));
    ENSURE(count < ARRAY_LEN(entries));
    for (size_t i = 0; i < count; i++)
        check_entry(&entries[i]);
    check_limit(text, boot_id, count, data[1]);
    check_limit(text, boot_id + 1, 0, data[1]); // nothing of another boot
    if (count > 0) {
        check_again(text, boot_id, count);
        check_file(text, entries[count - 1].owner, count);
    }
    return 0;
}
