// SPDX-License-Identifier: Apache-2.0
// The digest of what must agree: the fields of the table that are marked so, in the table's order,
// as text; one checksum for each section. It finds a mistake; that nobody forges it is the
// channel's business.
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/config/fields.h"
#include "common/config/pair.h"

// The format belongs to every section, so that another format differs everywhere, and first in
// "pair".
static const char *const sections[] = {"pair",           "ends",         "mode",   "volumes",
                                       "public_address", "applications", "timing", "split"};
#define SECTION_BYTES sizeof(struct le32)
static_assert(ARRAY_LEN(sections) * SECTION_BYTES == PAIR_DIGEST_SIZE,
              "the sections fill the digest");

static void write_object(FILE *out, const struct field_object *object, const char *base);

static void write_text(FILE *out, const char *text)
{
    // With its length in front no two lists of texts are the same bytes.
    if (text)
        (void)fprintf(out, "%zu:%s", strlen(text), text);
    else
        (void)fputc('-', out);
}

static void write_list(FILE *out, const struct field *field, const char *base)
{
    const char *list = *(char *const *)(base + field->offset);
    size_t count = *(const size_t *)(base + field->count_offset);
    (void)fprintf(out, "[%zu]", count);
    for (size_t i = 0; i < count; i++) {
        if (field->type == FIELD_STRINGS)
            write_text(out, ((char *const *)list)[i]);
        else
            write_object(out, field->object, list + i * field->object->size);
    }
}

static void write_field(FILE *out, const struct field *field, const char *base)
{
    const char *at = base + field->offset;
    (void)fprintf(out, "%s=", field->name);
    if (field_is_string(field->type))
        write_text(out, *(char *const *)at);
    else if (field->type == FIELD_OBJECT)
        write_object(out, field->object, at);
    else if (field->type == FIELD_OBJECTS || field->type == FIELD_STRINGS)
        write_list(out, field, base);
    else if (field->type == FIELD_SIZE)
        (void)fprintf(out, "%" PRIu64, *(const uint64_t *)at);
    else if (field->type == FIELD_BOOL)
        (void)fprintf(out, "%d", *(const bool *)at);
    else if (field->type == FIELD_WORD)
        (void)fputs(field->words[*(const uint32_t *)at], out);
    else
        (void)fprintf(out, "%" PRIu32, *(const uint32_t *)at);
    (void)fputc(';', out);
}

static void write_object(FILE *out, const struct field_object *object, const char *base)
{
    (void)fputc('{', out);
    for (size_t i = 0; i < object->field_count; i++) {
        if (object->fields[i].flags & FIELD_AGREE)
            write_field(out, &object->fields[i], base);
    }
    (void)fputc('}', out);
}

static const struct field *section_field(const char *name)
{
    for (size_t i = 0; i < fields_pair.field_count; i++) {
        if (strcmp(fields_pair.fields[i].name, name) == 0)
            return &fields_pair.fields[i];
    }
    error_abort(__FILE__, __LINE__, "a section of the digest is a field");
}

static uint32_t section_checksum(const struct pair_config *config, const char *section)
{
    CLEANUP_FREE char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    ENSURE(out);
    (void)fprintf(out, "%" PRIu32 ";", config->format);
    write_field(out, section_field(section), (const char *)config);
    ENSURE(fclose(out) == 0);
    return checksum32(text, size);
}

void pair_config_digest(const struct pair_config *config, uint8_t ret_digest[PAIR_DIGEST_SIZE])
{
    struct byte_writer writer = byte_writer(ret_digest, PAIR_DIGEST_SIZE);
    for (size_t i = 0; i < ARRAY_LEN(sections); i++)
        byte_put_u32(&writer, section_checksum(config, sections[i]));
    ENSURE(!writer.bad);
}

const char *pair_config_digest_difference(const uint8_t ours[PAIR_DIGEST_SIZE],
                                          const uint8_t theirs[PAIR_DIGEST_SIZE])
{
    for (size_t i = 0; i < ARRAY_LEN(sections); i++) {
        if (memcmp(ours + i * SECTION_BYTES, theirs + i * SECTION_BYTES, SECTION_BYTES) != 0)
            return sections[i];
    }
    return NULL;
}
