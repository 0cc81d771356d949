// SPDX-License-Identifier: Apache-2.0
// Changes to the sample pair file that are refused: what the tests look for, and what the fuzzer begins with.
#ifndef TESTS_CONFIG_REFUSED_H
#define TESTS_CONFIG_REFUSED_H

#include "tests/unit/config_sample.h"

// Each row: one change to the sample, and what the refusal must say (both texts, the first right
// behind the file).
static const struct {
    const char *from, *to;
    const char *place;
    const char *says;
} refused[] = {
    // The text itself.
    {"\"format\": 1,", "\"format\": 1,,", "web.json:4: ", "not JSON"},
    {"\"mode\": \"sync\",\n", "\"mode\": \"sync\"\n", "web.json:18: ", "not JSON"},
    {"\"none\"\n}", "\"none\"\n} x", "web.json:44: ", "not JSON"},
    {"/* the\n gateway */", "/* the\n gateway", "web.json:30: ", "comment that does not end"},
    {"\"mode\": \"sync\"", "\"mode\": \"sync", "web.json:17: ", "does not end in its line"},
    {"\"web\"", "\"w\\u0000eb\"", "web.json:4: ", "\\u0000"},
    {"\"web\"", "\"w\x01\"", "web.json:4: ", "control character"},
    // Fields.
    {"\"mode\":", "\"modes\":", "modes: ", "did you mean \"mode\"?"},
    {"\"mode\":", "\"colour\":", "colour: ", "unknown field; allowed: format, pair, ends"},
    {"\"direct\":", "\"Direct\":", "volumes[0].primary.Direct: ", "did you mean \"direct\""},
    {"\"mode\": \"sync\"", "\"mode\": \"sync\", \"mode\": \"sync\"", "mode: ", "found twice"},
    {"\"port\": 7400", "\"port\": 7400, \"port\": 1", "channel.paths[0].port: ", "found twice"},
    {"\"format\": 1,", "", "format: ", "missing; allowed: 1"},
    {"\"name\": \"disk\",", "", "volumes[0].name: ", "missing"},
    {"\"host\": \"beta\",", "", "ends.secondary.host: ", "missing"},
    // Types and limits.
    {"\"format\": 1", "\"format\": 2", "format: ", "found 2; allowed: 1"},
    {"\"web\"", "\"Web\"", "pair: ", "found \"Web\"; allowed: a name"},
    {"\"web\"", "\"-web\"", "pair: ", "a name"},
    {"\"web\"", "\"..\"", "pair: ", "a name"},
    {"\"web\"", "\"a23456789012345678901234567890123\"", "pair: ", "a name"},
    {"\"web\"", "7", "pair: ", "found 7"},
    {"\"alpha\"", "\"al pha\"", "ends.primary.host: ", "machine's name"},
    {"\"eth0\"", "\"eth0/1\"", "ends.primary.public_interface: ", "network interface"},
    {"\"10.1.0.1\"", "\"10.1.0\"", "channel.paths[0].primary: ", "found \"10.1.0\""},
    {"\"10.1.0.1\"", "\"alpha\"", "channel.paths[0].primary: ", "an IPv4 or IPv6 address"},
    {"\"10.1.0.1\"", "\"0.0.0.0\"", "channel.paths[0].primary: ", "address of one machine"},
    {"\"10.1.0.1\"", "\"239.0.0.1\"", "channel.paths[0].primary: ", "address of one machine"},
    {"7400", "\"7400\"", "channel.paths[0].port: ", "found \"7400\"; allowed: a whole number"},
    {"7400", "65535", "channel.paths[0].port: ", "from 1 to 65534"},
    {"7400", "7400.5", "channel.paths[0].port: ", "found 7400.5"},
    {"7400", "-1", "channel.paths[0].port: ", "found -1"},
    {"7400", "1e300", "channel.paths[0].port: ", "whole number"},
    {"false", "\"no\"", "channel.data_on_public: ", "true or false"},
    {"\"mode\": \"sync\"", "\"mode\": \"fast\"", "mode: ", "\"async\", \"sync\" or \"strict\""},
    {"\"10G\"", "\"10X\"", "volumes[0].size: ", "found \"10X\"; allowed: a size from 1M to 1P"},
    {"\"10G\"", "\"\"", "volumes[0].size: ", "found \"\""},
    {"\"10G\"", "\"99999999999999999999\"", "volumes[0].size: ", "a size"},
    {"\"10G\"", "\"20000000P\"", "volumes[0].size: ", "a size"},
    {"\"10G\"", "1048577", "volumes[0].size: ", "multiple of 4096"},
    {"\"/srv/web.img\", \"d", "\"srv/web.img\", \"d", "volumes[0].primary.path: ", "absolute path"},
    {"\"/srv/web.img\", \"d", "\"/srv/../x\", \"d", "volumes[0].primary.path: ", "absolute path"},
    {"\"/srv/web.img\", \"d", "\"/srv//x\", \"d", "volumes[0].primary.path: ", "absolute path"},
    {"\"/srv/web.img\", \"d", "\"/srv/a\\nb\", \"d", "volumes[0].primary.path: ", "control characters"},
    {"example:a/1", "example:a\\t/1", "volumes[1].primary.path: ", "iscsi://HOST"},
    {"iscsi://10.3", "iscsi://u%p@10.3", "volumes[1].primary.path: ", "without a user"},
    {"example:a/1", "example:a", "volumes[1].primary.path: ", "iscsi://HOST"},
    {"\"0640\"", "\"0888\"", "volumes[0].socket.mode: ", "octal"},
    {"\"0640\"", "\"1777\"", "volumes[0].socket.mode: ", "octal"},
    {"\"192.0.2.10/24\"", "\"192.0.2.10\"", "public_address.addresses[0]: ", "with prefix length"},
    {"\"192.0.2.10/24\"", "\"192.0.2.10/33\"", "public_address.addresses[0]: ", "with prefix"},
    {"\"192.0.2.254\"", "7", "waypoints[0]: ", "found 7"},
    {"[\"192.0.2.254\"]", "\"192.0.2.254\"", "waypoints: ", "a list of 0 to 16 strings"},
    {"\"resync\": {\"share\": 30", "\"resync\": {\"share\": 0", "resync.share: ", "from 1 to 100"},
    {"{\"share\": 30, \"rate\": \"50M\"}", "[]", "resync: ", "found a list; allowed: an object"},
    // Kinds.
    {"\"kind\": \"domain\"", "\"kind\": \"docker\"", "applications[0].kind: ", "\"domain\" or"},
    {"\"kind\": \"domain\"", "\"kind\": \"script\"", "applications[0].command: ", "missing"},
    {"\"user\": \"www\"", "\"xml\": \"/x\"", "applications[1].xml: ", "only for kind \"domain\""},
    // How fields fit together.
    {"\"management\": \"192.0.2.2\"", "\"management\": \"192.0.2.1\"",
     "ends.secondary.management: ", "both ends"},
    {"\"management\": \"192.0.2.2\",", "", "ends.secondary.management: ", "both or none"},
    {"\"management\": \"192.0.2.2\"", "\"management\": \"::2\"",
     "ends.secondary.management: ", "both IPv4 or both IPv6"},
    {",\n                  \"public_interface\": \"eth1\"", "",
     "ends.secondary.public_interface: ", "missing"},
    {"\"FD00::2\"", "\"10.9.0.2\"", "channel.paths[1]: ", "both IPv4 or both IPv6"},
    {"\"FD00::2\"", "\"fd00:0::1\"", "channel.paths[1]: ", "for both ends"},
    {"\"key\": \"/etc/understudy/web.key\",", "", "channel.key: ", "keygen"},
    {"\"fd00::1\", \"secondary\": \"FD00::2\", \"port\": 7410",
     "\"10.1.0.1\", \"secondary\": \"10.1.0.3\", \"port\": 7401",
     "channel.paths[1].port: ", "needs port 7401 at 10.1.0.1 also for channel.paths[0].port"},
    {"7430", "7421", "channel.management_port: ", "ports of their own"},
    {"\"logs\"", "\"disk\"", "volumes[1].name: ", "volumes[0] has too"},
    {"\"path\": \"/dev/vg/logs\"", "\"path\": \"/srv/web.img\"",
     "volumes[1].secondary.path: ", "also volumes[0].secondary.path"},
    {"\"/dev/vg/logs\"", "\"iscsi://10.3.0.9:3260/iqn.2024-01.example:a/1\"",
     "volumes[1].secondary.path: ", "also volumes[1].primary.path"},
    {"\"chap_user\": \"u\",", "", "volumes[1].primary.chap_user: ", "only together"},
    {"\"chap_user\": \"u\",", "\"direct\": true,", "volumes[1].primary.direct: ", "only for files"},
    {"\"direct\": true", "\"chap_user\": \"u\"",
     "volumes[0].primary.chap_user: ", "only for iscsi"},
    {"\"192.0.2.10/24\"", "\"10.1.0.2/24\"", "public_address.addresses[0]: ", "channel address"},
    {"\"192.0.2.10/24\"", "\"192.0.2.1/24\"",
     "public_address.addresses[0]: ", "management address"},
    {"\"192.0.2.10/24\"", "\"192.0.2.0/24\"", "public_address.addresses[0]: ", "network itself"},
    {"\"2001:DB8:0::10/64\"", "\"192.0.2.10/25\"", "public_address.addresses[1]: ", "already"},
    {"\"192.0.2.254\"", "\"192.0.2.10\"", "waypoints[0]: ", "public address of the pair"},
    {"\"192.0.2.254\"", "\"10.1.0.1\"", "waypoints[0]: ", "channel address"},
    {"\"192.0.2.254\"", "\"127.0.0.1\"", "waypoints[0]: ", "loopback"},
    {"\"name\": \"www\"", "\"name\": \"guest\"", "applications[1].name: ", "has too"},
    {"\"timeout_ms\": 2000", "\"timeout_ms\": 799", "timing.timeout_ms: ", "at least 800"},
    {"\"margin_ms\": 400", "\"margin_ms\": 1401", "timing.margin_ms: ", "at most 1400"},
    {"\"decision_ms\": 3000", "\"decision_ms\": 799", "timing.decision_ms: ", "at least 800"},
};

#endif
