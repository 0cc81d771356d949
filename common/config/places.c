// SPDX-License-Identifier: Apache-2.0
#include "common/config/places.h"

#include <errno.h>
#include <string.h>

#include "common/base/file.h"

int places_state(char *buffer, size_t size, const char *state, const char *pair, enum pair_end end)
{
    return path_format(buffer, size, "%s/%s/%s", state, pair, pair_end_name(end));
}

int places_runtime(char *buffer, size_t size, const char *runtime, const char *pair,
                   enum pair_end end)
{
    return path_format(buffer, size, "%s/%s/%s", runtime, pair, pair_end_name(end));
}

static int fits_socket(int r, const char *path)
{
    return r < 0 ? r : (strlen(path) < PLACES_SOCKET_MAX ? 0 : -ENAMETOOLONG);
}

int places_export(char *buffer, size_t size, const char *runtime, const char *pair,
                  const char *volume)
{
    return fits_socket(path_format(buffer, size, "%s/%s/%s.nbd", runtime, pair, volume), buffer);
}

int places_control(char *buffer, size_t size, const char *runtime, enum pair_end daemon)
{
    return fits_socket(path_format(buffer, size, "%s/%sd.sock", runtime, pair_end_name(daemon)),
                       buffer);
}
