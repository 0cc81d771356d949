// SPDX-License-Identifier: Apache-2.0
// ARP and neighbour discovery frames of the public network.
#include "common/address/packet.h"
#include "fuzz.h"

static void round_trip(const struct frame_news *news)
{
    uint8_t frame[FRAME_SIZE];
    struct frame_news again;
    size_t n = packet_ask(frame, news->mac, &news->sender, &news->target, NULL);
    ENSURE(packet_parse(frame, n, &again) && ip_equal(&again.target, &news->target));
    n = packet_announce(frame, news->mac, &news->target, news->answer);
    ENSURE(packet_parse(frame, n, &again) && ip_equal(&again.sender, &news->target));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame_news news;
    char text[IP_TEXT_SIZE];
    if (!packet_parse(data, size, &news))
        return 0;
    (void)ip_format(&news.sender, text);
    ENSURE(news.sender.family == news.target.family);
    round_trip(&news);
    return 0;
}
