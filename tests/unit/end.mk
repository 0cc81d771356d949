# SPDX-License-Identifier: Apache-2.0
END_LIBS = $(top_builddir)/common/end/libend.a $(top_builddir)/queues/libqueues.a $(BASE_LIBS)

END_WORLD = end_world.c end_world_act.c end_world.h

check_PROGRAMS += test_end_start
test_end_start_SOURCES = test_end_start.c $(END_WORLD)
test_end_start_LDADD = $(END_LIBS)
check_PROGRAMS += test_end_grant
test_end_grant_SOURCES = test_end_grant.c $(END_WORLD)
test_end_grant_LDADD = $(END_LIBS)
check_PROGRAMS += test_end_stepdown
test_end_stepdown_SOURCES = test_end_stepdown.c $(END_WORLD)
test_end_stepdown_LDADD = $(END_LIBS)
check_PROGRAMS += test_end_takeover
test_end_takeover_SOURCES = test_end_takeover.c $(END_WORLD)
test_end_takeover_LDADD = $(END_LIBS)
check_PROGRAMS += test_end_switch
test_end_switch_SOURCES = test_end_switch.c $(END_WORLD)
test_end_switch_LDADD = $(END_LIBS)
check_PROGRAMS += test_end_split
test_end_split_SOURCES = test_end_split.c $(END_WORLD)
test_end_split_LDADD = $(END_LIBS)
check_PROGRAMS += test_end_stream
test_end_stream_SOURCES = test_end_stream.c $(END_WORLD)
test_end_stream_LDADD = $(END_LIBS)
check_PROGRAMS += test_meet
test_meet_SOURCES = test_meet.c
test_meet_LDADD = $(END_LIBS)
check_PROGRAMS += test_resync
test_resync_SOURCES = test_resync.c
test_resync_LDADD = $(top_builddir)/common/end/libend.a $(top_builddir)/queues/libqueues.a $(BASE_LIBS)
check_PROGRAMS += test_verify
test_verify_SOURCES = test_verify.c
test_verify_LDADD = $(END_LIBS)
check_PROGRAMS += test_generations
test_generations_SOURCES = test_generations.c fake_disk.c fake_disk.h fake_volume.c fake_volume.h \
	passive_help.c passive_help.h
test_generations_LDADD = $(END_LIBS)
