// SPDX-License-Identifier: Apache-2.0
// Recursion follows the tables, which are three levels deep; cJSON bounds its own.
#include "common/control/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"

#define EXACT_MAX 9007199254740992.0 // 2^53: beyond it a double is no longer every integer

static void delete_json(cJSON **item)
{
    cJSON_Delete(*item);
}
#define CLEANUP_JSON CLEANUP(delete_json)

static cJSON *encode_object(const struct json_table *table, const char *base);

// cJSON prints large doubles with an exponent, which readers take for a fraction; so integers are
// written as text.
static cJSON *encode_unsigned(uint64_t value)
{
    char digits[32];
    (void)snprintf(digits, sizeof(digits), "%" PRIu64, value);
    return cJSON_CreateRaw(digits);
}

static cJSON *encode_signed(int64_t value)
{
    char digits[32];
    (void)snprintf(digits, sizeof(digits), "%" PRId64, value);
    return cJSON_CreateRaw(digits);
}

static cJSON *encode_time(int64_t value)
{
    return value == -1 ? cJSON_CreateNull() : encode_signed(value);
}

static cJSON *encode_hex(uint64_t value)
{
    char digits[32];
    (void)snprintf(digits, sizeof(digits), "%016" PRIx64, value);
    return cJSON_CreateString(digits);
}

// Length of the UTF-8 sequence at `text`, 0 when it is none (overlong forms and surrogates are not
// told apart: readers take them).
static size_t utf8_length(const char *text, size_t left)
{
    unsigned char c = (unsigned char)text[0];
    size_t length = c < 0x80                ? 1
                    : c >= 0xc2 && c < 0xe0 ? 2
                    : c >= 0xe0 && c < 0xf0 ? 3
                    : c < 0xf5              ? 4
                                            : 0;
    if (length > left || (length == 4 && c < 0xf0))
        return 0;
    for (size_t i = 1; i < length; i++) {
        if (((unsigned char)text[i] & 0xc0) != 0x80)
            return 0;
    }
    return length;
}

// Bytes that are no UTF-8 would make the whole answer unreadable to others; they become '?'.
static cJSON *encode_text(const char *text, size_t size)
{
    char clean[2048];
    size_t length = strnlen(text, MIN(size, sizeof(clean) - 1));
    for (size_t i = 0; i < length;) {
        size_t step = utf8_length(text + i, length - i);
        memcpy(clean + i, step ? text + i : "?", MAX(step, 1));
        i += MAX(step, 1);
    }
    clean[length] = '\0';
    return cJSON_CreateString(clean);
}

static cJSON *encode_array(const struct json_field *field, const char *base)
{
    cJSON *array = cJSON_CreateArray();
    size_t count = MIN(*(const size_t *)(base + field->count_offset), field->max);
    for (size_t i = 0; array && i < count; i++) {
        const char *at = base + field->offset + i * field->size;
        cJSON *item = field->type == JSON_TEXTS ? encode_text(at, field->size)
                                                : encode_object(field->table, at);
        if (!item || !cJSON_AddItemToArray(array, item)) {
            cJSON_Delete(item);
            cJSON_Delete(array);
            return NULL;
        }
    }
    return array;
}

static cJSON *encode_raw(const char *text)
{
    if (!text)
        return cJSON_CreateNull();
    cJSON *value = cJSON_Parse(text); // what is no JSON must not spoil the rest
    if (!value)
        return NULL;
    cJSON_Delete(value);
    return cJSON_CreateRaw(text);
}

static cJSON *encode_field(const struct json_field *field, const char *base)
{
    const char *at = base + field->offset;
    switch (field->type) {
    case JSON_TEXT:
        return encode_text(at, field->size);
    case JSON_BOOL:
        return cJSON_CreateBool(*(const bool *)at);
    case JSON_U32:
        return encode_unsigned(*(const uint32_t *)at);
    case JSON_U64:
        return encode_unsigned(*(const uint64_t *)at);
    case JSON_I32:
        return encode_signed(*(const int *)at);
    case JSON_TIME:
        return encode_time(*(const int64_t *)at);
    case JSON_HEX:
        return encode_hex(*(const uint64_t *)at);
    case JSON_RAW:
        return encode_raw(*(char *const *)at);
    case JSON_OBJECT:
        if (field->present_offset && !*(const bool *)(base + field->present_offset))
            return cJSON_CreateNull();
        return encode_object(field->table, at);
    case JSON_OBJECTS:
    case JSON_TEXTS:
        return encode_array(field, base);
    }
    return NULL;
}

static cJSON *encode_object(const struct json_table *table, const char *base)
{
    cJSON *object = cJSON_CreateObject();
    for (size_t i = 0; object && i < table->count; i++) {
        cJSON *value = encode_field(&table->fields[i], base);
        if (!value || !cJSON_AddItemToObjectCS(object, table->fields[i].name, value)) {
            cJSON_Delete(value);
            cJSON_Delete(object);
            return NULL;
        }
    }
    return object;
}

static char *print_json(const cJSON *item, bool pretty)
{
    if (!item)
        return NULL;
    return pretty ? cJSON_Print(item) : cJSON_PrintUnformatted(item);
}

char *json_encode(const struct json_table *table, const void *base, bool pretty)
{
    CLEANUP_JSON cJSON *object = encode_object(table, base);
    return print_json(object, pretty);
}

char *json_encode_list(const struct json_table *table, const void *const *items, size_t count,
                       bool pretty)
{
    CLEANUP_JSON cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < count; i++) {
        cJSON *item = encode_object(table, items[i]);
        if (!array || !item || !cJSON_AddItemToArray(array, item)) {
            cJSON_Delete(item);
            return NULL;
        }
    }
    return print_json(array, pretty);
}

static int decode_object(const struct json_table *table, const cJSON *item, enum json_care care,
                         char *base, struct error *err);

static int refuse(struct error *err, const char *name, const char *what)
{
    return error_set(err, -EBADMSG, "field \"%s\": %s", name, what);
}

static int decode_text(const struct json_field *field, const cJSON *item, enum json_care care,
                       char *to, struct error *err)
{
    if (!cJSON_IsString(item))
        return refuse(err, field->name, "not a text");
    size_t length = strlen(item->valuestring);
    if (length >= field->size && care == JSON_STRICT)
        return refuse(err, field->name, "the text is too long");
    (void)snprintf(to, field->size, "%s", item->valuestring);
    return 0;
}

static int decode_integer(const struct json_field *field, const cJSON *item, char *to,
                          struct error *err)
{
    double low = field->type == JSON_I32 || field->type == JSON_TIME ? -EXACT_MAX : 0;
    double high = field->type == JSON_U32 ? UINT32_MAX : EXACT_MAX;
    if (field->type == JSON_I32) {
        low = INT32_MIN;
        high = INT32_MAX;
    }
    if (field->type == JSON_TIME && cJSON_IsNull(item)) {
        *(int64_t *)to = -1;
        return 0;
    }
    double value = item->valuedouble;
    if (!cJSON_IsNumber(item) || !(value >= low && value <= high) ||
        value != (double)(int64_t)value)
        return refuse(err, field->name, "not a whole number in range");
    if (field->type == JSON_U32)
        *(uint32_t *)to = (uint32_t)value;
    else if (field->type == JSON_I32)
        *(int *)to = (int)value;
    else
        *(int64_t *)to = (int64_t)value;
    return 0;
}

static int decode_hex(const struct json_field *field, const cJSON *item, char *to,
                      struct error *err)
{
    char *end = NULL;
    if (!cJSON_IsString(item) || !item->valuestring[0])
        return refuse(err, field->name, "not a hexadecimal text");
    *(uint64_t *)to = strtoull(item->valuestring, &end, 16);
    return *end ? refuse(err, field->name, "not a hexadecimal text") : 0;
}

static int decode_array(const struct json_field *field, const cJSON *array, enum json_care care,
                        char *base, struct error *err)
{
    if (!cJSON_IsArray(array))
        return refuse(err, field->name, "not a list");
    size_t *count = (size_t *)(base + field->count_offset);
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        if (*count == field->max)
            return care == JSON_STRICT ? refuse(err, field->name, "the list is too long") : 0;
        char *to = base + field->offset + *count * field->size;
        int r = field->type == JSON_TEXTS ? decode_text(field, item, care, to, err)
                                          : decode_object(field->table, item, care, to, err);
        if (r < 0)
            return r;
        (*count)++;
    }
    return 0;
}

static int decode_raw(const cJSON *item, char **to)
{
    if (cJSON_IsNull(item))
        return 0;
    *to = cJSON_PrintUnformatted(item);
    return *to ? 0 : -ENOMEM;
}

static int decode_field(const struct json_field *field, const cJSON *item, enum json_care care,
                        char *base, struct error *err)
{
    char *to = base + field->offset;
    switch (field->type) {
    case JSON_TEXT:
        return decode_text(field, item, care, to, err);
    case JSON_BOOL:
        if (!cJSON_IsBool(item))
            return refuse(err, field->name, "neither true nor false");
        *(bool *)to = cJSON_IsTrue(item);
        return 0;
    case JSON_HEX:
        return decode_hex(field, item, to, err);
    case JSON_RAW:
        return decode_raw(item, (char **)to);
    case JSON_OBJECT:
        if (field->present_offset && cJSON_IsNull(item))
            return 0;
        if (field->present_offset)
            *(bool *)(base + field->present_offset) = true;
        return decode_object(field->table, item, care, to, err);
    case JSON_OBJECTS:
    case JSON_TEXTS:
        return decode_array(field, item, care, base, err);
    default:
        return decode_integer(field, item, to, err);
    }
}

static int decode_object(const struct json_table *table, const cJSON *item, enum json_care care,
                         char *base, struct error *err)
{
    if (!cJSON_IsObject(item))
        return error_set(err, -EBADMSG, "not an object where one has to be");
    for (size_t i = 0; i < table->count; i++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(item, table->fields[i].name);
        int r = value ? decode_field(&table->fields[i], value, care, base, err) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static cJSON *parse(const char *text, size_t size, struct error *err)
{
    cJSON *root = cJSON_ParseWithLength(text, size);
    if (!root)
        (void)error_set(err, -EBADMSG, "not JSON");
    return root;
}

int json_decode(const struct json_table *table, const char *text, size_t size, enum json_care care,
                void *base, struct error *err)
{
    CLEANUP_JSON cJSON *root = parse(text, size, err);
    return root ? decode_object(table, root, care, base, err) : -EBADMSG;
}

int json_decode_list(const struct json_table *table, const char *text, size_t size, size_t each,
                     void **ret_items, size_t *ret_count, struct error *err)
{
    CLEANUP_JSON cJSON *root = parse(text, size, err);
    if (!root)
        return -EBADMSG;
    bool many = cJSON_IsArray(root);
    size_t count = many ? (size_t)cJSON_GetArraySize(root) : 1;
    CLEANUP_FREE char *items = calloc(MAX(count, 1), each);
    if (!items)
        return error_set(err, -ENOMEM, "out of memory");
    const cJSON *item = many ? root->child : root;
    for (size_t i = 0; i < count; i++, item = item->next) {
        int r = decode_object(table, item, JSON_LENIENT, items + i * each, err);
        if (r < 0)
            return r;
    }
    *ret_items = TAKE_PTR(items);
    *ret_count = count;
    return 0;
}
