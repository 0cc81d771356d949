// SPDX-License-Identifier: Apache-2.0
// pairctl: the operator's command. It knows nothing about pairs but what their daemons say.
#include "config.h"

#include <stdio.h>

#include "pairctl/pairctl.h"

static int run(int argc, char **argv)
{
    struct invocation call;
    int r = options_parse(argc, argv, &call);
    if (r)
        return r;
    if (call.options.version) {
        (void)puts("pairctl (" PACKAGE_NAME ") " PACKAGE_VERSION);
        return EXIT_DONE;
    }
    if (call.options.help) {
        if (call.command)
            grammar_print_command(call.command, stdout);
        else
            grammar_print_help(stdout);
        return EXIT_DONE;
    }
    return call.command->run(&call);
}

int main(int argc, char **argv)
{
    int r = run(argc, argv);
    if (fflush(stdout) != 0 && r == EXIT_DONE) {
        complain("cannot write the output");
        r = EXIT_FAILED;
    }
    return r;
}
