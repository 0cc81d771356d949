// SPDX-License-Identifier: Apache-2.0
#include "common/config/value.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/config/pair.h"

static int number(const char *text, int base, uint64_t *ret_value, const char **ret_end)
{
    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, base);
    if (errno)
        return -ERANGE;
    *ret_value = value;
    *ret_end = end;
    return 0;
}

int value_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGTP";
    uint64_t value;
    const char *rest;
    int r = number(text, 10, &value, &rest);
    if (r < 0)
        return r;
    rest += *rest == ' ';
    const char *unit = *rest ? strchr(units, toupper((unsigned char)*rest)) : NULL;
    if (unit) {
        unsigned shift = 10 * (unsigned)(unit - units + 1);
        if (value > UINT64_MAX >> shift)
            return -ERANGE;
        value <<= shift;
        rest++;
        if (strcmp(rest, "iB") == 0)
            rest += 2;
    }
    if (*rest)
        return -EINVAL;
    *ret_bytes = value;
    return 0;
}

static bool is_name(const char *text)
{
    size_t length = strlen(text);
    return length >= 1 && length <= PAIR_NAME_MAX && text[0] != '-' &&
           strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

static bool is_host(const char *text)
{
    size_t length = strlen(text);
    if (length < 1 || length > 64 || text[0] == '-' || text[0] == '.')
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)text[i]) && !strchr("-._", text[i]))
            return false;
    }
    return true;
}

static bool is_interface(const char *text)
{
    size_t length = strlen(text);
    if (length < 1 || length >= IFNAMSIZ || strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isgraph((unsigned char)text[i]) || strchr("/:%", text[i]))
            return false;
    }
    return true;
}

static bool is_text(const char *text)
{
    size_t length = strlen(text);
    return length >= 1 && length <= VALUE_TEXT_MAX;
}

// A path is written into lines, of the log and of files beside the state: it stays in one.
static bool is_one_line(const char *text)
{
    for (; *text; text++) {
        if (iscntrl((unsigned char)*text))
            return false;
    }
    return true;
}

// Two names of one file must not look different: a path has nothing in it that a kernel would take
// out.
static bool is_path(const char *text)
{
    size_t length = strlen(text);
    if (!is_text(text) || !is_one_line(text) || text[0] != '/' || length < 2 || text[length - 1] == '/')
        return false;
    for (const char *p = text; p; p = strchr(p + 1, '/')) {
        size_t part = strcspn(p + 1, "/");
        if (part == 0 || (part == 1 && p[1] == '.') || (part == 2 && p[1] == '.' && p[2] == '.'))
            return false;
    }
    return true;
}

// iscsi://HOST[:PORT]/TARGET/LUN, without a user in it: secrets do not belong into this file.
static bool is_iscsi(const char *text)
{
    static const char scheme[] = "iscsi://";
    if (strncmp(text, scheme, strlen(scheme)) != 0 || !is_text(text) || !is_one_line(text) ||
        strpbrk(text, "@ ?#"))
        return false;
    const char *host = text + strlen(scheme);
    const char *target = strchr(host, '/');
    if (!target || target == host || host[0] == ':')
        return false;
    const char *lun = strchr(target + 1, '/');
    if (!lun || lun == target + 1)
        return false;
    size_t digits = strspn(lun + 1, "0123456789");
    return digits >= 1 && digits <= 5 && lun[1 + digits] == '\0';
}

static bool is_unusable(int family, const void *binary)
{
    if (family == AF_INET) {
        uint32_t v4 = ntohl(((const struct in_addr *)binary)->s_addr);
        return v4 == 0 || v4 >> 28 == 0xe || v4 == UINT32_MAX;
    }
    const struct in6_addr *v6 = binary;
    return IN6_IS_ADDR_UNSPECIFIED(v6) || IN6_IS_ADDR_MULTICAST(v6) || IN6_IS_ADDR_V4MAPPED(v6);
}

// Brings an address of one machine into its usual form. Returns -EINVAL for everything else.
static int canonical_address(const char *text, char *buffer, socklen_t size, int *ret_family)
{
    unsigned char binary[sizeof(struct in6_addr)];
    int family = strchr(text, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(family, text, binary) != 1 || is_unusable(family, binary))
        return -EINVAL;
    if (!inet_ntop(family, binary, buffer, size))
        return -EINVAL;
    *ret_family = family;
    return 0;
}

static int canonical_network(const char *text, char *buffer, size_t size)
{
    char address[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    if (!slash || (size_t)(slash - text) >= sizeof(address))
        return -EINVAL;
    memcpy(address, text, (size_t)(slash - text));
    address[slash - text] = '\0';

    char usual[INET6_ADDRSTRLEN];
    int family;
    uint64_t prefix;
    const char *end;
    if (canonical_address(address, usual, sizeof(usual), &family) < 0 ||
        number(slash + 1, 10, &prefix, &end) < 0 || *end)
        return -EINVAL;
    if (prefix < 1 || prefix > (family == AF_INET ? 32 : 128))
        return -EINVAL;
    (void)snprintf(buffer, size, "%s/%u", usual, (unsigned)prefix);
    return 0;
}

static bool is_allowed_string(enum field_type type, const char *text)
{
    switch (type) {
    case FIELD_NAME:
        return is_name(text);
    case FIELD_HOST:
        return is_host(text);
    case FIELD_INTERFACE:
        return is_interface(text);
    case FIELD_PATH:
        return is_path(text);
    case FIELD_STORE:
        return is_path(text) || is_iscsi(text);
    default:
        return is_text(text);
    }
}

static int set_string(enum field_type type, const char *text, char **to)
{
    char usual[INET6_ADDRSTRLEN + 8];
    int family;
    if (type == FIELD_ADDRESS || type == FIELD_NETWORK) {
        int r = type == FIELD_ADDRESS ? canonical_address(text, usual, sizeof(usual), &family)
                                      : canonical_network(text, usual, sizeof(usual));
        if (r < 0)
            return r;
        text = usual;
    } else if (!is_allowed_string(type, text)) {
        return -EINVAL;
    }
    char *copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    free(*to);
    *to = copy;
    return 0;
}

static int set_word(const char *const *words, const char *text, uint32_t *to)
{
    for (uint32_t i = 0; words[i]; i++) {
        if (strcmp(words[i], text) == 0) {
            *to = i;
            return 0;
        }
    }
    return -EINVAL;
}

static int set_number(const struct field *field, enum field_type type, const char *text, void *to)
{
    uint64_t value;
    const char *end = "";
    int r = type == FIELD_SIZE          ? value_size(text, &value)
            : type == FIELD_PERMISSIONS ? number(text, 8, &value, &end)
                                        : number(text, 10, &value, &end);
    if (r < 0 || *end)
        return -EINVAL;
    uint64_t max = type == FIELD_PERMISSIONS ? 0777 : field->max;
    if (value < field->min || value > max)
        return -EINVAL;
    if (type == FIELD_SIZE)
        *(uint64_t *)to = value;
    else
        *(uint32_t *)to = (uint32_t)value;
    return 0;
}

int value_set(const struct field *field, enum field_type type, const char *text, void *to)
{
    if (field_is_string(type))
        return set_string(type, text, to);
    if (type == FIELD_WORD)
        return set_word(field->words, text, to);
    ENSURE(type == FIELD_NUMBER || type == FIELD_SIZE || type == FIELD_PERMISSIONS);
    return set_number(field, type, text, to);
}

static void size_text(uint64_t bytes, char *buffer, size_t size)
{
    static const char units[] = " KMGTP";
    unsigned unit = 0;
    while (bytes && bytes % 1024 == 0 && unit < 5) {
        bytes /= 1024;
        unit++;
    }
    if (unit)
        (void)snprintf(buffer, size, "%" PRIu64 "%c", bytes, units[unit]);
    else
        (void)snprintf(buffer, size, "%" PRIu64, bytes);
}

static void words_text(const char *const *words, char *buffer, size_t size)
{
    size_t used = 0;
    buffer[0] = '\0';
    for (size_t i = 0; words[i] && used < size; i++) {
        int n = snprintf(buffer + used, size - used, "%s\"%s\"",
                         i == 0 ? "" : (words[i + 1] ? ", " : " or "), words[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

static const char *fixed_text(enum field_type type)
{
    switch (type) {
    case FIELD_BOOL:
        return "true or false";
    case FIELD_PERMISSIONS:
        return "octal permissions as text, like \"0660\"";
    case FIELD_NAME:
        return "a name of 1 to 32 characters a-z, 0-9 and -, not beginning with -";
    case FIELD_HOST:
        return "a machine's name, 1 to 64 characters";
    case FIELD_INTERFACE:
        return "a network interface's name, like \"eth0\"";
    case FIELD_TEXT:
        return "text of 1 to 1024 characters";
    case FIELD_PATH:
        return "an absolute path without //, /./, /../, control characters or / at its end";
    case FIELD_STORE:
        return "an absolute path without //, /./, /../, control characters or / at its end, or "
               "\"iscsi://HOST[:PORT]/TARGET/LUN\" without a user";
    case FIELD_ADDRESS:
        return "an IPv4 or IPv6 address of one machine, like \"10.1.0.1\"";
    case FIELD_NETWORK:
        return "an address with prefix length, like \"192.0.2.10/24\" or \"2001:db8::10/64\"";
    default:
        return "an object: { ... }";
    }
}

void value_allowed(const struct field *field, enum field_type type, char *buffer, size_t size)
{
    char low[32], high[32];
    switch (type) {
    case FIELD_NUMBER:
        if (field->min == field->max)
            (void)snprintf(buffer, size, "%" PRIu64, field->min);
        else
            (void)snprintf(buffer, size, "a whole number from %" PRIu64 " to %" PRIu64, field->min,
                           field->max);
        break;
    case FIELD_SIZE:
        size_text(field->min, low, sizeof(low));
        size_text(field->max, high, sizeof(high));
        (void)snprintf(buffer, size, "a size from %s to %s, in bytes or as text like \"10G\"", low,
                       high);
        break;
    case FIELD_WORD:
        words_text(field->words, buffer, size);
        break;
    case FIELD_OBJECTS:
    case FIELD_STRINGS:
        (void)snprintf(buffer, size, "a list of %" PRIu64 " to %" PRIu64 " %s", field->min,
                       field->max, type == FIELD_OBJECTS ? "objects" : "strings");
        break;
    default:
        (void)snprintf(buffer, size, "%s", fixed_text(type));
    }
}

// Levenshtein's distance, for words of at most NEAR_MAX characters.
#define NEAR_MAX 40
int value_near(const char *text, const char *candidate)
{
    size_t n = strlen(text), m = strlen(candidate);
    if (n > NEAR_MAX || m > NEAR_MAX)
        return -1;
    int row[NEAR_MAX + 1];
    for (size_t j = 0; j <= m; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int same = diagonal + (text[i - 1] != candidate[j - 1]);
            diagonal = row[j];
            row[j] = MIN(same, MIN(row[j], row[j - 1]) + 1);
        }
    }
    int limit = m <= 4 ? 1 : (m <= 8 ? 2 : 3);
    return row[m] <= limit ? row[m] : -1;
}
