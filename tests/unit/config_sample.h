// SPDX-License-Identifier: Apache-2.0
// A pair file that uses every field once, for tests that change one thing in it.
#ifndef TESTS_CONFIG_SAMPLE_H
#define TESTS_CONFIG_SAMPLE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char config_sample[] =
    "// A comment, and \"quotes\" in it.\n"
    "{\n"
    "  \"format\": 1,\n"
    "  \"pair\": \"web\",\n"
    "  \"ends\": {\n"
    "    \"primary\": {\"host\": \"alpha\", \"management\": \"192.0.2.1\",\n"
    "                \"public_interface\": \"eth0\", \"libvirt\": \"qemu:///system\"},\n"
    "    \"secondary\": {\"host\": \"beta\", \"management\": \"192.0.2.2\",\n"
    "                  \"public_interface\": \"eth1\"}\n"
    "  },\n"
    "  \"channel\": {\n"
    "    \"paths\": [{\"primary\": \"10.1.0.1\", \"secondary\": \"10.1.0.2\", \"port\": 7400},\n"
    "              {\"primary\": \"fd00::1\", \"secondary\": \"FD00::2\", \"port\": 7410}],\n"
    "    \"key\": \"/etc/understudy/web.key\", \"public_port\": 7420, \"management_port\": 7430,\n"
    "    \"data_on_public\": false\n"
    "  },\n"
    "  \"mode\": \"sync\",\n"
    "  \"volumes\": [\n"
    "    {\"name\": \"disk\", \"size\": \"10G\",\n"
    "     \"primary\": {\"path\": \"/srv/web.img\", \"direct\": true},\n"
    "     \"secondary\": {\"path\": \"/srv/web.img\"},\n"
    "     \"socket\": {\"owner\": \"root\", \"group\": \"kvm\", \"mode\": \"0640\"}},\n"
    "    {\"name\": \"logs\", \"size\": 1073741824,\n"
    "     \"primary\": {\"path\": \"iscsi://10.3.0.9:3260/iqn.2024-01.example:a/1\",\n"
    "                 \"chap_user\": \"u\", \"chap_secret_file\": \"/etc/understudy/chap\",\n"
    "                 \"initiator\": \"iqn.2024-01.example:web\"},\n"
    "     \"secondary\": {\"path\": \"/dev/vg/logs\"}}\n"
    "  ],\n"
    "  \"public_address\": {\"addresses\": [\"192.0.2.10/24\", \"2001:DB8:0::10/64\"]},\n"
    "  \"waypoints\": [\"192.0.2.254\"], /* the\n gateway */\n"
    "  \"applications\": [\n"
    "    {\"name\": \"guest\", \"kind\": \"domain\", \"xml\": \"/etc/understudy/guest.xml\"},\n"
    "    {\"name\": \"www\", \"kind\": \"script\", \"command\": \"/usr/local/sbin/www\", \"user\": "
    "\"www\",\n"
    "     \"start_timeout_ms\": 5000, \"stop_timeout_ms\": 6000, \"status_interval_ms\": 1000,\n"
    "     \"status_timeout_ms\": 900, \"restarts\": 5, \"on_failure\": \"switchover\"}\n"
    "  ],\n"
    "  \"timing\": {\"heartbeat_ms\": 200, \"timeout_ms\": 2000, \"decision_ms\": 3000,\n"
    "             \"margin_ms\": 400},\n"
    "  \"queues\": {\"memory\": \"192M\", \"spill\": 0, \"safe\": \"1 GiB\", \"overflow\": "
    "\"throttle\"},\n"
    "  \"resync\": {\"share\": 30, \"rate\": \"50M\"},\n"
    "  \"takeover\": \"manual\", \"slow\": \"alone\", \"split\": \"both-stop\",\n"
    "  \"shutdown\": \"stop\", \"flush_failure\": \"none\"\n"
    "}\n";

// The text with the first `from` replaced by `to`; NULL when it has none. malloc'ed.
static inline char *config_changed(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char *changed = NULL;
    if (!at || asprintf(&changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) < 0)
        return NULL;
    return changed;
}

#endif
