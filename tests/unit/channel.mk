# SPDX-License-Identifier: Apache-2.0
CHANNEL_LIBS = $(top_builddir)/common/channel/libchannel.a $(BASE_LIBS) $(NANOMSG_LIBS) $(GNUTLS_LIBS)

CHANNEL_KEYS = channel_keys.c channel_keys.h
CHANNEL_ENDS = channel_ends.c channel_ends.h
CHANNEL_PROXY = channel_proxy.c channel_proxy.h
CHANNEL_NET = channel_net.c channel_net.h $(CHANNEL_ENDS) $(CHANNEL_PROXY)

check_PROGRAMS += test_channel_frames
test_channel_frames_SOURCES = test_channel_frames.c $(CHANNEL_KEYS)
test_channel_frames_LDADD = $(CHANNEL_LIBS)
check_PROGRAMS += test_channel_transport
test_channel_transport_SOURCES = test_channel_transport.c
test_channel_transport_LDADD = $(CHANNEL_LIBS)
check_PROGRAMS += test_channel_meet
test_channel_meet_SOURCES = test_channel_meet.c $(CHANNEL_KEYS) $(CHANNEL_ENDS)
test_channel_meet_LDADD = $(CHANNEL_LIBS)
check_PROGRAMS += test_channel_strangers
test_channel_strangers_SOURCES = test_channel_strangers.c $(CHANNEL_KEYS) $(CHANNEL_NET)
test_channel_strangers_LDADD = $(CHANNEL_LIBS)
check_PROGRAMS += test_channel_failures
test_channel_failures_SOURCES = test_channel_failures.c $(CHANNEL_KEYS) $(CHANNEL_NET)
test_channel_failures_LDADD = $(CHANNEL_LIBS)
check_PROGRAMS += test_channel_bundle
test_channel_bundle_SOURCES = test_channel_bundle.c $(CHANNEL_ENDS) $(CHANNEL_PROXY)
test_channel_bundle_LDADD = $(CHANNEL_LIBS)
