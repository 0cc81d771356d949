# SPDX-License-Identifier: Apache-2.0
END_LIBS = $(top_builddir)/common/end/libend.a $(top_builddir)/queues/libqueues.a $(BASE_LIBS)

check_PROGRAMS += test_end
test_end_SOURCES = test_end.c
test_end_LDADD = $(END_LIBS)
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
