# SPDX-License-Identifier: Apache-2.0
check_PROGRAMS += test_channel test_channel_bundle
test_channel_SOURCES = \
	channel_ends.c \
	channel_ends.h \
	channel_proxy.c \
	channel_proxy.h \
	test_channel.c
test_channel_LDADD = $(top_builddir)/common/channel/libchannel.a $(BASE_LIBS) $(NANOMSG_LIBS) $(GNUTLS_LIBS)
test_channel_bundle_SOURCES = \
	channel_ends.c \
	channel_ends.h \
	channel_proxy.c \
	channel_proxy.h \
	test_channel_bundle.c
test_channel_bundle_LDADD = $(test_channel_LDADD)
