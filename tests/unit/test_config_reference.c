// SPDX-License-Identifier: Apache-2.0
// The man page of the pair file says of each field what the table says. With --print: that part of
// the page, to be put between its two marks when the table has changed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/config/pair.h"

#define PAGE  "../../docs/understudy.json.5"
#define BEGIN ".\\\" BEGIN FIELDS (made by test_config_reference --print)\n"
#define END   ".\\\" END FIELDS\n"

// The text between the marks of the man page. malloc'ed whole page in *ret_page.
static char *fields_of_page(char **ret_page)
{
    char path[PATH_SIZE];
    struct error err = {0};
    size_t size;
    const char *srcdir = getenv("srcdir");
    assert_int_equal(path_format(path, sizeof(path), "%s/" PAGE, srcdir ? srcdir : "."), 0);
    if (file_read(path, 1 << 20, ret_page, &size, &err) < 0)
        fail_msg("%s", err.text);
    char *begin = strstr(*ret_page, BEGIN);
    char *end = strstr(*ret_page, END);
    assert_non_null(begin);
    assert_non_null(end);
    *end = '\0';
    return begin + strlen(BEGIN);
}

static void man_page_agrees_with_the_table(void **state)
{
    CLEANUP_FREE char *page = NULL;
    CLEANUP_FREE char *made = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&made, &size);
    assert_non_null(out);
    pair_config_reference(out);
    assert_int_equal(fclose(out), 0);
    const char *there = fields_of_page(&page);
    if (strcmp(there, made) != 0)
        fail_msg(
            "docs/understudy.json.5 is out of date: put what --print prints between its marks");
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--print") == 0) {
        pair_config_reference(stdout);
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(man_page_agrees_with_the_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
