// SPDX-License-Identifier: Apache-2.0
#include "common/config/pair.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/config/check.h"
#include "common/config/fields.h"
#include "common/config/parse.h"

struct pair_config *pair_config_free(struct pair_config *config)
{
    if (!config)
        return NULL;
    fields_release(&fields_pair, config);
    free(config->file);
    free(config);
    return NULL;
}

static int fill(struct pair_config *config, char *text, size_t size, struct error *err)
{
    int r = parse_object_text(config->file, text, size, &fields_pair, config, err);
    return r < 0 ? r : check_pair(config, err);
}

// `text` is changed.
static int parse(const char *name, char *text, size_t size, struct pair_config **ret_config,
                 struct error *err)
{
    struct pair_config *config = calloc(1, sizeof(*config));
    if (!config || !(config->file = strdup(name))) {
        free(config);
        return error_set(err, -ENOMEM, "%s: out of memory", name);
    }
    int r = fill(config, text, size, err);
    if (r < 0) {
        pair_config_free(config);
        return r;
    }
    *ret_config = config;
    return 0;
}

int pair_config_parse(const char *name, const char *text, size_t size,
                      struct pair_config **ret_config, struct error *err)
{
    if (size > PAIR_FILE_BYTES_MAX)
        return error_set(err, -EFBIG, "%s: more than %d bytes", name, PAIR_FILE_BYTES_MAX);
    CLEANUP_FREE char *copy = malloc(size + 1);
    if (!copy)
        return error_set(err, -ENOMEM, "%s: out of memory", name);
    memcpy(copy, text, size);
    copy[size] = '\0';
    return parse(name, copy, size, ret_config, err);
}

int pair_config_load(const char *path, struct pair_config **ret_config, struct error *err)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    int r = file_read(path, PAIR_FILE_BYTES_MAX, &text, &size, err);
    return r < 0 ? r : parse(path, text, size, ret_config, err);
}

void pair_config_list_done(struct pair_config_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        pair_config_free(list->items[i]);
    free(list->items);
    *list = (struct pair_config_list){0};
}

static int add_file(struct pair_config_list *list, const char *path, struct error *err)
{
    struct pair_config **items = reallocarray(list->items, list->count + 1, sizeof(*items));
    if (!items)
        return error_set(err, -ENOMEM, "%s: out of memory", path);
    list->items = items;
    struct pair_config *config = NULL;
    int r = pair_config_load(path, &config, err);
    if (r < 0)
        return r;
    items[list->count++] = config;
    for (size_t i = 0; i + 1 < list->count; i++) {
        r = check_neighbours(items[i], config, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int is_json(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > 5 && entry->d_name[0] != '.' &&
           strcmp(entry->d_name + length - 5, ".json") == 0;
}

static int add_directory(struct pair_config_list *list, const char *path, struct error *err)
{
    struct dirent **entries = NULL;
    int count = scandir(path, &entries, is_json, alphasort);
    if (count < 0)
        return error_sys(err, -errno, "%s: cannot list the directory", path);
    int r = 0;
    for (int i = 0; i < count; i++) {
        char file[PATH_SIZE];
        if (r == 0)
            r = path_format(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
        if (r == 0)
            r = add_file(list, file, err);
        free(entries[i]);
    }
    free(entries);
    return r;
}

int pair_config_load_all(const char *path, struct pair_config_list *ret_list, struct error *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return error_sys(err, -errno, "%s", path);
    struct pair_config_list list = {0};
    int r = S_ISDIR(st.st_mode) ? add_directory(&list, path, err) : add_file(&list, path, err);
    if (r < 0) {
        pair_config_list_done(&list);
        return r;
    }
    *ret_list = list;
    return 0;
}

const struct pair_end_config *pair_config_end(const struct pair_config *config, enum pair_end end)
{
    return end == PAIR_PRIMARY ? &config->ends.primary : &config->ends.secondary;
}

const struct pair_store_config *pair_volume_store(const struct pair_volume_config *volume,
                                                  enum pair_end end)
{
    return end == PAIR_PRIMARY ? &volume->primary : &volume->secondary;
}

const char *pair_path_address(const struct pair_path_config *path, enum pair_end end)
{
    return end == PAIR_PRIMARY ? path->primary : path->secondary;
}

const char *pair_end_name(enum pair_end end)
{
    return fields_words_end[end];
}

const char *pair_mode_name(enum pair_mode mode)
{
    return fields_words_mode[mode];
}

const char *pair_app_kind_name(enum pair_app_kind kind)
{
    return fields_words_kind[kind];
}

const char *pair_takeover_name(enum pair_takeover takeover)
{
    return fields_words_takeover[takeover];
}
