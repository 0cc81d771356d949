// SPDX-License-Identifier: Apache-2.0
// The file that says which volumes an end's state is of. One that is accepted is one that would be written so, but for its
// checksum. Whatever an end finds, it is refused and left as it is, or replaced by what the pair file says.
#include <errno.h>

#include "common/daemon/layout.h"
#include "fuzz.h"

#define SUM_AT(size) ((size) - 17) // of the last line's digits, which are the one thing that may differ

static struct pair_volume_config volumes[] = {
    {.name = (char *)"data", .size = 1 << 20, .secondary.path = (char *)"iscsi://10.3.0.9/iqn.2024-01.example:a/1"},
    {.name = (char *)"log", .size = 2 << 20, .secondary.path = (char *)"/dev/null"},
};
static const struct pair_config pair = {.file = (char *)"fuzz.json", .volumes = volumes, .volume_count = ARRAY_LEN(volumes)};

// What is in the file is this.
static void expect(const char *path, const void *data, size_t size)
{
    CLEANUP_FREE char *found = NULL;
    size_t n = 0;
    ENSURE(file_read(path, 1 << 20, &found, &n, NULL) == 0);
    ENSURE(n == size && memcmp(found, data, size) == 0);
}

static void take(const uint8_t *data, size_t size, bool accepted)
{
    static char *anew;
    char path[PATH_SIZE];
    size_t n = 0;
    struct error err = {0};
    fuzz_path(path, "layout");
    if (!anew)
        ENSURE(layout_take(path, &pair, PAIR_SECONDARY, true, NULL) == 0 && file_read(path, 4096, &anew, &n, NULL) == 0);
    FILE *f = fopen(path, "w");
    ENSURE(f && fwrite(data, 1, size, f) == size);
    ENSURE(fclose(f) == 0);
    int r = layout_take(path, &pair, PAIR_SECONDARY, false, &err);
    ENSURE(accepted ? r == 0 || r == -EINVAL : r == -EUCLEAN);
    ENSURE(r == 0 || err.text[0]);
    if (r == -EINVAL) {
        expect(path, data, size);
    } else {
        expect(path, anew, strlen(anew));
        ENSURE(layout_take(path, &pair, PAIR_SECONDARY, false, &err) == 0); // it is not made anew twice
    }
    (void)unlink(path);
}

static void check_places(const struct layout *layout, const char *text, size_t size)
{
    ENSURE(layout->count <= PAIR_VOLUMES_MAX);
    for (size_t i = 0; i < layout->count; i++) {
        const struct layout_place *p = &layout->places[i];
        ENSURE(p->name[0] && memchr(p->name, 0, sizeof(p->name)));
        ENSURE(p->path > text && p->path[0] && p->path + strlen(p->path) < text + size);
    }
}

static void check_again(const struct layout *layout, const uint8_t *data, size_t size)
{
    static struct layout again;
    CLEANUP_FREE char *text = layout_format(layout);
    ENSURE(text && strlen(text) == size);
    ENSURE(memcmp(text, data, SUM_AT(size)) == 0 && text[size - 1] == data[size - 1]);
    ENSURE(layout_parse(text, size, &again) && again.count == layout->count);
    for (size_t i = 0; i < again.count; i++) {
        const struct layout_place *a = &layout->places[i], *b = &again.places[i];
        ENSURE(strcmp(a->name, b->name) == 0 && strcmp(a->path, b->path) == 0);
        ENSURE(a->size == b->size && a->device == b->device && a->inode == b->inode);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct layout layout, untouched;
    CLEANUP_FREE char *text = malloc(size + 1);
    ENSURE(text);
    memcpy(text, data, size);
    text[size] = '\0';
    layout = untouched;
    bool accepted = layout_parse(text, size, &layout);
    if (accepted) {
        check_places(&layout, text, size);
        check_again(&layout, data, size);
    } else {
        ENSURE(memcmp(&layout, &untouched, sizeof(layout)) == 0);
    }
    if (accepted || size % 16 == 0) // it costs a few files
        take(data, size, accepted);
    return 0;
}
