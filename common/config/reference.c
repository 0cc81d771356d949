// SPDX-License-Identifier: Apache-2.0
// The reference of the pair file's fields for its man page (mdoc), out of the table of fields.
#include <stdio.h>
#include <string.h>

#include "common/config/fields.h"
#include "common/config/pair.h"
#include "common/config/value.h"

// A dot or quote in front of a line, and every backslash, mean something to troff.
static void print_text(FILE *out, const char *text)
{
    if (text[0] == '.' || text[0] == '\'')
        (void)fputs("\\&", out);
    for (const char *p = text; *p; p++) {
        if (*p == '\\')
            (void)fputs("\\e", out);
        else if (*p == '-')
            (void)fputs("\\-", out);
        else
            (void)fputc(*p, out);
    }
}

static const char *kind_text(const struct field *field, char *buffer, size_t size)
{
    if (field->type == FIELD_OBJECTS) {
        (void)snprintf(buffer, size, "a list of %llu to %llu objects: see %s",
                       (unsigned long long)field->min, (unsigned long long)field->max,
                       field->object->name);
    } else if (field->type == FIELD_OBJECT) {
        (void)snprintf(buffer, size, "an object: see %s", field->object->name);
    } else if (field->type == FIELD_STRINGS) {
        char item[256];
        value_allowed(field, field->item, item, sizeof(item));
        (void)snprintf(buffer, size, "a list of %llu to %llu strings, each %s",
                       (unsigned long long)field->min, (unsigned long long)field->max, item);
    } else {
        value_allowed(field, field->type, buffer, size);
    }
    return buffer;
}

static void print_field(FILE *out, const struct field *field)
{
    char kind[512];
    (void)fprintf(out, ".It Ic %s\n", field->name);
    print_text(out, field->help);
    (void)fputs("\n.br\nAllowed: ", out);
    print_text(out, kind_text(field, kind, sizeof(kind)));
    (void)fputc('.', out);
    if (field->when)
        (void)fprintf(out, "\nOnly for kind %s.", field->when);
    if (field->flags & FIELD_REQUIRED)
        (void)fputs("\nRequired.", out);
    else if (field->preset) {
        (void)fputs("\nDefault: ", out);
        print_text(out, field->preset);
        (void)fputc('.', out);
    }
    if ((field->flags & FIELD_AGREE) && field->type != FIELD_OBJECT && field->type != FIELD_OBJECTS)
        (void)fputs("\nMust be the same on both machines.", out);
    (void)fputc('\n', out);
}

static bool has_object(const struct field *field)
{
    return field->type == FIELD_OBJECT || field->type == FIELD_OBJECTS;
}

// An object of two fields (a store) is printed where it is first used.
static void print_object(FILE *out, const struct field_object *object)
{
    (void)fprintf(out, ".Ss %s\n", object->name);
    print_text(out, object->help);
    (void)fputs("\n.Bl -tag -width indent\n", out);
    for (size_t i = 0; i < object->field_count; i++)
        print_field(out, &object->fields[i]);
    (void)fputs(".El\n", out);
    for (size_t i = 0; i < object->field_count; i++) {
        const struct field *field = &object->fields[i];
        bool again = false;
        for (size_t j = 0; j < i; j++)
            again = again ||
                    (has_object(&object->fields[j]) && object->fields[j].object == field->object);
        if (has_object(field) && !again)
            print_object(out, field->object);
    }
}

void pair_config_reference(FILE *out)
{
    print_object(out, &fields_pair);
}
