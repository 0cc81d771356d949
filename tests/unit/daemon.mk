# SPDX-License-Identifier: Apache-2.0

check_PROGRAMS += test_history
test_history_SOURCES = test_history.c
test_history_LDADD = $(top_builddir)/common/daemon/libdaemon.a $(CONTROL_LIBS)

check_PROGRAMS += test_waypoints
test_waypoints_SOURCES = test_waypoints.c
test_waypoints_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)

check_PROGRAMS += test_turning
test_turning_SOURCES = test_turning.c
test_turning_LDADD = $(top_builddir)/common/daemon/libdaemon.a $(CONTROL_LIBS)

check_PROGRAMS += test_front
test_front_SOURCES = test_front.c
test_front_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)

check_PROGRAMS += test_switchboard
test_switchboard_SOURCES = test_switchboard.c netns.c netns.h
test_switchboard_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)

check_PROGRAMS += test_vetoes
test_vetoes_SOURCES = test_vetoes.c netns.c netns.h
test_vetoes_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)

check_PROGRAMS += test_saver
test_saver_SOURCES = test_saver.c
test_saver_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)

check_PROGRAMS += test_endpoint
test_endpoint_SOURCES = test_endpoint.c netns.c netns.h
test_endpoint_CPPFLAGS = $(AM_CPPFLAGS) -DGUARD_BINARY='"$(abs_top_builddir)/guard/understudy-guard"'
test_endpoint_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=store_resets -Wl,--wrap=mailbox_ring \
	-Wl,--wrap=stream_close -Wl,--wrap=front_open
test_endpoint_LDADD = $(DAEMON_LIBS) $(CMOCKA_LIBS)

check_PROGRAMS += test_layout
test_layout_SOURCES = test_layout.c
test_layout_LDADD = $(top_builddir)/common/daemon/libdaemon.a $(top_builddir)/common/config/libconfig.a $(CONTROL_LIBS)
