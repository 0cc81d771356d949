// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/daemon.h"

int main(int argc, char **argv)
{
    return daemon_main(PAIR_SECONDARY, argc, argv);
}
