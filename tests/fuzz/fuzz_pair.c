// SPDX-License-Identifier: Apache-2.0
// The pair file, alone and beside another one.
#include "common/config/check.h"
#include "common/config/pair.h"
#include "fuzz.h"
#include "tests/unit/config_sample.h"

static void warn(void *user, const char *field, const char *text)
{
    ENSURE(field && text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pair_config *config = NULL;
    struct error err = {0};
    uint8_t digest[PAIR_DIGEST_SIZE];
    int r = pair_config_parse("fuzz.json", (const char *)data, size, &config, &err);
    ENSURE(r == 0 || err.text[0]);
    if (r < 0)
        return 0;
    ENSURE(strlen(config->pair) >= 1 && strlen(config->pair) <= PAIR_NAME_MAX);
    ENSURE(config->volume_count <= PAIR_VOLUMES_MAX && config->channel.path_count >= 1);
    pair_config_digest(config, digest);
    ENSURE(!pair_config_digest_difference(digest, digest));
    pair_config_warnings(config, NULL, warn, NULL);
    struct pair_config *sample = NULL;
    ENSURE(pair_config_parse("sample.json", config_sample, strlen(config_sample), &sample, &err) == 0);
    r = check_neighbours(sample, config, &err);
    ENSURE(r == 0 || err.text[0]);
    pair_config_free(sample);
    pair_config_free(config);
    return 0;
}
