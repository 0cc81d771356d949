// SPDX-License-Identifier: Apache-2.0
// Checks and deep copies of what apps_open() is given.
#ifndef APPS_APP_CONFIG_H
#define APPS_APP_CONFIG_H

#include "common/apps/apps.h"

// -EINVAL names the application, the field and what is allowed.
int app_config_check(const struct app_config *c, struct error *err);
void app_config_copy(const struct app_config *from, struct app_config *ret_to);
void app_config_clear(struct app_config *c);

int apps_setup_check(const struct apps_setup *s, struct error *err);
void apps_setup_copy(const struct apps_setup *from, struct apps_setup *ret_to);
void apps_setup_clear(struct apps_setup *s);

#endif
