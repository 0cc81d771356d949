// SPDX-License-Identifier: Apache-2.0
// Recursion here follows the table of fields, so it is as deep as the table is; cJSON bounds its
// own (1000 levels of a file of at most PAIR_FILE_BYTES_MAX).
#include "common/config/parse.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/config/comments.h"
#include "common/config/value.h"

static_assert(CJSON_NESTING_LIMIT <= 1000, "the stack is enough for what cJSON recurses");

// Where in the file we are: a chain on the stack, from the innermost to the outermost.
struct place {
    const struct place *up;
    const char *name; // NULL: an element of a list
    size_t index;
};

struct parser {
    const char *file;
    struct error *err;
};

static void place_text(const struct place *place, char *buffer, size_t size)
{
    buffer[0] = '\0';
    if (!place)
        return;
    place_text(place->up, buffer, size);
    size_t used = strlen(buffer);
    if (place->name)
        (void)snprintf(buffer + used, size - used, "%s%s", used ? "." : "", place->name);
    else
        (void)snprintf(buffer + used, size - used, "[%zu]", place->index);
}

static int refuse(struct parser *parser, const struct place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int refuse(struct parser *parser, const struct place *place, const char *format, ...)
{
    char where[256], what[768];
    place_text(place, where, sizeof(where));
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    return error_set(parser->err, -EINVAL, "%s: %s%s%s", parser->file, where, where[0] ? ": " : "",
                     what);
}

// What stands in the file, cut to what a person wants to read.
static void found_text(const cJSON *item, char *buffer, size_t size)
{
    if (cJSON_IsObject(item) || cJSON_IsArray(item)) {
        (void)snprintf(buffer, size, "%s", cJSON_IsObject(item) ? "an object" : "a list");
        return;
    }
    CLEANUP_FREE char *text = cJSON_PrintUnformatted(item);
    (void)snprintf(buffer, size, "%.80s%s", text ? text : "?",
                   text && strlen(text) > 80 ? "..." : "");
}

static int refuse_value(struct parser *parser, const struct place *place, const cJSON *item,
                        const struct field *field, enum field_type type)
{
    char found[128], allowed[512];
    found_text(item, found, sizeof(found));
    value_allowed(field, type, allowed, sizeof(allowed));
    return refuse(parser, place, "found %s; allowed: %s", found, allowed);
}

// A number of JSON as text, so that numbers and texts are judged by the same code. false: it is not
// whole.
static bool whole_number(const cJSON *item, char *buffer, size_t size)
{
    double value = item->valuedouble;
    if (!(value >= 0 && value <= 9007199254740992.0) || value != (double)(uint64_t)value)
        return false;
    (void)snprintf(buffer, size, "%.0f", value);
    return true;
}

static int parse_value(struct parser *parser, const struct place *place, const struct field *field,
                       enum field_type type, const cJSON *item, void *to)
{
    char digits[32];
    const char *text = NULL;
    if (type == FIELD_BOOL && cJSON_IsBool(item)) {
        *(bool *)to = cJSON_IsTrue(item);
        return 0;
    }
    bool numeric = type == FIELD_NUMBER || type == FIELD_SIZE;
    if (numeric && cJSON_IsNumber(item) && whole_number(item, digits, sizeof(digits)))
        text = digits;
    else if (type != FIELD_NUMBER && type != FIELD_BOOL && cJSON_IsString(item))
        text = item->valuestring;
    int r = text ? value_set(field, type, text, to) : -EINVAL;
    if (r == -ENOMEM)
        return error_set(parser->err, r, "%s: out of memory", parser->file);
    return r < 0 ? refuse_value(parser, place, item, field, type) : 0;
}

static int parse_object(struct parser *parser, const struct place *place,
                        const struct field_object *object, const cJSON *item, void *base);

static int parse_list(struct parser *parser, const struct place *place, const struct field *field,
                      const cJSON *item, void *base)
{
    if (!cJSON_IsArray(item))
        return refuse_value(parser, place, item, field, field->type);
    size_t count = (size_t)cJSON_GetArraySize(item);
    if (count < field->min || count > field->max) {
        char allowed[64];
        value_allowed(field, field->type, allowed, sizeof(allowed));
        return refuse(parser, place, "found a list of %zu; allowed: %s", count, allowed);
    }
    if (count == 0)
        return 0;
    size_t each = field->type == FIELD_STRINGS ? sizeof(char *) : field->object->size;
    char *list = calloc(count, each);
    if (!list)
        return error_set(parser->err, -ENOMEM, "%s: out of memory", parser->file);
    *(void **)((char *)base + field->offset) = list;
    *(size_t *)((char *)base + field->count_offset) = count;

    const cJSON *element;
    size_t i = 0;
    cJSON_ArrayForEach(element, item)
    {
        struct place here = {place, NULL, i};
        void *to = list + i++ * each;
        int r = field->type == FIELD_STRINGS
                    ? parse_value(parser, &here, field, field->item, element, to)
                    : parse_object(parser, &here, field->object, element, to);
        if (r < 0)
            return r;
    }
    return 0;
}

static int parse_field(struct parser *parser, const struct place *place, const struct field *field,
                       const cJSON *item, void *base)
{
    char *at = (char *)base + field->offset;
    if (field->type == FIELD_OBJECT)
        return parse_object(parser, place, field->object, item, at);
    if (field->type == FIELD_OBJECTS || field->type == FIELD_STRINGS)
        return parse_list(parser, place, field, item, base);
    return parse_value(parser, place, field, field->type, item, at);
}

// Also goes into objects that are not in the file, for the defaults of their fields.
static void set_defaults(const struct field_object *object, void *base)
{
    for (size_t i = 0; i < object->field_count; i++) {
        const struct field *field = &object->fields[i];
        char *at = (char *)base + field->offset;
        if (field->type == FIELD_OBJECT)
            set_defaults(field->object, at);
        else if (field->type == FIELD_BOOL)
            *(bool *)at = field->preset && strcmp(field->preset, "true") == 0;
        else if (field->preset)
            ENSURE(value_set(field, field->type, field->preset, at) == 0);
    }
}

static const struct field *find_field(const struct field_object *object, const char *name)
{
    for (size_t i = 0; i < object->field_count; i++) {
        if (strcmp(object->fields[i].name, name) == 0)
            return &object->fields[i];
    }
    return NULL;
}

static int refuse_unknown(struct parser *parser, const struct place *place,
                          const struct field_object *object)
{
    const char *best = NULL;
    int nearest = -1;
    char known[512] = "";
    size_t used = 0;
    for (size_t i = 0; i < object->field_count; i++) {
        const char *name = object->fields[i].name;
        int distance = value_near(place->name, name);
        if (distance >= 0 && (!best || distance < nearest)) {
            best = name;
            nearest = distance;
        }
        int n = snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "", name);
        used = MIN(used + (n > 0 ? (size_t)n : 0), sizeof(known) - 1);
    }
    if (best)
        return refuse(parser, place, "unknown field; did you mean \"%s\"? Allowed: %s", best,
                      known);
    return refuse(parser, place, "unknown field; allowed: %s", known);
}

// The word in the object's own `kind`, or NULL.
static const char *kind_of(const cJSON *item)
{
    const cJSON *kind = cJSON_GetObjectItemCaseSensitive(item, "kind");
    return cJSON_IsString(kind) ? kind->valuestring : NULL;
}

static bool belongs(const struct field *field, const char *kind)
{
    return !field->when || (kind && strcmp(field->when, kind) == 0);
}

static int check_required(struct parser *parser, const struct place *place,
                          const struct field_object *object, const cJSON *item)
{
    const char *kind = kind_of(item);
    for (size_t i = 0; i < object->field_count; i++) {
        const struct field *field = &object->fields[i];
        if (!(field->flags & FIELD_REQUIRED) || !belongs(field, kind) ||
            cJSON_GetObjectItemCaseSensitive(item, field->name))
            continue;
        struct place here = {place, field->name, 0};
        char allowed[512];
        value_allowed(field, field->type, allowed, sizeof(allowed));
        return refuse(parser, &here, "missing; allowed: %s", allowed);
    }
    return 0;
}

static int parse_member(struct parser *parser, const struct place *place,
                        const struct field_object *object, const cJSON *all, const cJSON *member,
                        void *base)
{
    const struct field *field = find_field(object, member->string);
    if (!field)
        return refuse_unknown(parser, place, object);
    for (const cJSON *other = all->child; other != member; other = other->next) {
        if (strcmp(other->string, member->string) == 0)
            return refuse(parser, place, "found twice; allowed: once");
    }
    return parse_field(parser, place, field, member, base);
}

// Fields that belong to another kind are judged last, so that a wrong `kind` is what is reported.
static int check_kinds(struct parser *parser, const struct place *place,
                       const struct field_object *object, const cJSON *item)
{
    const char *kind = kind_of(item);
    const cJSON *member;
    cJSON_ArrayForEach(member, item)
    {
        const struct field *field = find_field(object, member->string);
        if (belongs(field, kind))
            continue;
        struct place here = {place, member->string, 0};
        return refuse(parser, &here, "found in an %s of kind \"%s\"; allowed only for kind \"%s\"",
                      object->name, kind ? kind : "?", field->when);
    }
    return 0;
}

static int parse_object(struct parser *parser, const struct place *place,
                        const struct field_object *object, const cJSON *item, void *base)
{
    set_defaults(object, base);
    if (!cJSON_IsObject(item)) {
        char found[128];
        found_text(item, found, sizeof(found));
        return refuse(parser, place, "found %s; allowed: an object: { ... }", found);
    }
    const cJSON *member;
    cJSON_ArrayForEach(member, item)
    {
        struct place here = {place, member->string, 0};
        int r = parse_member(parser, &here, object, item, member, base);
        if (r < 0)
            return r;
    }
    int r = check_required(parser, place, object, item);
    return r < 0 ? r : check_kinds(parser, place, object, item);
}

static int refuse_syntax(const char *file, const char *text, size_t size, const char *at,
                         struct error *err)
{
    size_t offset = at && at >= text ? MIN((size_t)(at - text), size) : size;
    while (offset < size && strchr(" \t\r\n", text[offset]))
        offset++;
    int length = (int)strcspn(text + offset, "\r\n");
    return error_set(err, -EINVAL,
                     "%s:%zu: not JSON from here: \"%.*s\"; a comma, colon, quote or bracket is "
                     "missing or one too many before it",
                     file, comments_line(text, offset), MIN(length, 40), text + offset);
}

static void delete_json(cJSON **item)
{
    cJSON_Delete(*item);
}

int parse_object_text(const char *file, char *text, size_t size, const struct field_object *object,
                      void *base, struct error *err)
{
    int r = comments_blank(file, text, size, err);
    if (r < 0)
        return r;
    const char *end = NULL;
    CLEANUP(delete_json) cJSON *root = cJSON_ParseWithLengthOpts(text, size, &end, 0);
    if (!root)
        return refuse_syntax(file, text, size, end, err);
    if (strspn(end, " \t\r\n") != size - (size_t)(end - text))
        return refuse_syntax(file, text, size, end, err);
    struct parser parser = {file, err};
    return parse_object(&parser, NULL, object, root, base);
}
