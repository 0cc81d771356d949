// SPDX-License-Identifier: Apache-2.0
#include "common/apps/app_config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/apps/command.h"
#include "common/base/cleanup.h"

#define NAME_MAX_CHARS 63 // as struct apps_target holds it
#define TIME_MAX_MS    (24 * 3600 * INT64_C(1000))
#define NAME_CHARS     "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

struct app_config app_config_defaults(enum app_kind kind)
{
    return (struct app_config){
        .kind = kind,
        .start_timeout_ms = 60000,
        .stop_timeout_ms = 60000,
        .status_timeout_ms = 10000,
        .status_interval_ms = 5000,
        .restarts = 2,
        .restarts_forget_ms = 600000,
        .on_failure = APP_FAILURE_NONE,
        .uri = "qemu:///system",
    };
}

const char *app_kind_name(enum app_kind kind)
{
    return kind == APP_DOMAIN ? "domain" : "script";
}

const char *app_state_name(enum app_state state)
{
    static const char *const names[] = {"stopped", "starting", "running", "stopping",
                                        "failed",  "frozen",   "foreign"};
    ENSURE(state < ARRAY_LEN(names));
    return names[state];
}

// A name becomes a file and a cgroup, so it must not lead anywhere else.
static int check_name(const char *what, const char *name, struct error *err)
{
    if (!name || !name[0] || name[0] == '.' || strlen(name) > NAME_MAX_CHARS ||
        name[strspn(name, NAME_CHARS)])
        return error_set(
            err, -EINVAL,
            "%s '%s' must be 1 to %d letters, digits, '-', '_' or '.', and not begin with '.'",
            what, name ? name : "", NAME_MAX_CHARS);
    return 0;
}

static int check_times(const struct app_config *c, struct error *err)
{
    const struct {
        const char *field;
        int64_t ms;
    } times[] = {{"start_timeout", c->start_timeout_ms},
                 {"stop_timeout", c->stop_timeout_ms},
                 {"status_timeout", c->status_timeout_ms},
                 {"status_interval", c->status_interval_ms},
                 {"restarts_forget", c->restarts_forget_ms}};

    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        if (times[i].ms < 1 || times[i].ms > TIME_MAX_MS)
            return error_set(err, -EINVAL, "application '%s': %s must be 1 ms to 24 h, not %lld ms",
                             c->name, times[i].field, (long long)times[i].ms);
    if (c->restarts < 0 || c->restarts > 1000)
        return error_set(err, -EINVAL, "application '%s': restarts must be 0 to 1000, not %d",
                         c->name, c->restarts);
    return 0;
}

static int check_command(const struct app_config *c, const char *field, const char *const *argv,
                         struct error *err)
{
    if (argv && command_check(argv, err) < 0)
        return error_prefix(err, "application '%s': %s", c->name, field);
    return 0;
}

static int check_script(const struct app_config *c, struct error *err)
{
    int r;

    if (!c->start)
        return error_set(err, -EINVAL, "application '%s': a script needs a start command", c->name);
    if ((r = check_command(c, "start", c->start, err)) < 0 ||
        (r = check_command(c, "stop", c->stop, err)) < 0)
        return r;
    return check_command(c, "status", c->status, err);
}

static int check_domain(const struct app_config *c, struct error *err)
{
    if (!c->xml_file || c->xml_file[0] != '/')
        return error_set(err, -EINVAL,
                         "application '%s': xml must be the absolute path of a domain's XML file",
                         c->name);
    if (!c->uri || !c->uri[0])
        return error_set(err, -EINVAL,
                         "application '%s': uri is empty; libvirt's default is qemu:///system",
                         c->name);
    return 0;
}

int app_config_check(const struct app_config *c, struct error *err)
{
    int r;

    if ((r = check_name("the name of an application", c->name, err)) < 0 ||
        (r = check_times(c, err)) < 0)
        return r;
    switch (c->kind) {
    case APP_SCRIPT:
        return check_script(c, err);
    case APP_DOMAIN:
        return check_domain(c, err);
    }
    return error_set(err, -EINVAL, "application '%s': unknown kind", c->name);
}

static const char *copy_text(const char *text)
{
    char *copy = text ? strdup(text) : NULL;

    ENSURE(!text || copy);
    return copy;
}

static void free_text(const char *text)
{
    free((void *)(uintptr_t)text);
}

static const char *const *copy_list(const char *const *list, size_t count)
{
    if (!list)
        return NULL;
    const char **copy = calloc(count + 1, sizeof(*copy));
    ENSURE(copy);
    for (size_t i = 0; i < count; i++)
        copy[i] = copy_text(list[i]);
    return copy;
}

static const char *const *copy_argv(const char *const *argv)
{
    size_t count = 0;

    while (argv && argv[count])
        count++;
    return copy_list(argv, count);
}

static void free_argv(const char *const *argv)
{
    for (size_t i = 0; argv && argv[i]; i++)
        free_text(argv[i]);
    free((void *)(uintptr_t)argv);
}

void app_config_copy(const struct app_config *from, struct app_config *ret_to)
{
    struct app_config c = *from;

    c.name = copy_text(from->name);
    c.xml_file = copy_text(from->xml_file);
    c.uri = copy_text(from->uri);
    c.start = copy_argv(from->start);
    c.stop = copy_argv(from->stop);
    c.status = copy_argv(from->status);
    *ret_to = c;
}

void app_config_clear(struct app_config *c)
{
    free_text(c->name);
    free_text(c->xml_file);
    free_text(c->uri);
    free_argv(c->start);
    free_argv(c->stop);
    free_argv(c->status);
}

int apps_setup_check(const struct apps_setup *s, struct error *err)
{
    int r;

    if ((r = check_name("the pair's name", s->pair, err)) < 0 ||
        (r = check_name("the end's identity", s->identity, err)) < 0)
        return r;
    if (!s->runtime_dir || !s->runtime_dir[0])
        return error_set(err, -EINVAL, "no runtime directory is given");
    ENSURE(s->callbacks.event);
    return 0;
}

void apps_setup_copy(const struct apps_setup *from, struct apps_setup *ret_to)
{
    struct apps_setup s = *from;
    struct apps_volume *volumes = calloc(from->volume_count + 1, sizeof(*volumes));

    ENSURE(volumes);
    for (size_t i = 0; i < from->volume_count; i++)
        volumes[i] = (struct apps_volume){copy_text(from->volumes[i].name),
                                          copy_text(from->volumes[i].socket)};
    s.volumes = volumes;
    s.pair = copy_text(from->pair);
    s.identity = copy_text(from->identity);
    s.runtime_dir = copy_text(from->runtime_dir);
    s.cgroup_parent = copy_text(from->cgroup_parent);
    s.addresses = copy_list(from->addresses, from->address_count);
    *ret_to = s;
}

void apps_setup_clear(struct apps_setup *s)
{
    for (size_t i = 0; i < s->volume_count; i++) {
        free_text(s->volumes[i].name);
        free_text(s->volumes[i].socket);
    }
    free((void *)(uintptr_t)s->volumes);
    free_text(s->pair);
    free_text(s->identity);
    free_text(s->runtime_dir);
    free_text(s->cgroup_parent);
    free_argv(s->addresses);
}
