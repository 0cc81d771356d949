# SPDX-License-Identifier: Apache-2.0
# pairctl fsck, and damage of every byte.
EXTRA_PROGRAMS += fsck_rig
CLEANFILES += fsck_rig$(EXEEXT)
fsck_rig_SOURCES = fsck_rig.c passive_help.c passive_help.h
fsck_rig_LDADD = $(top_builddir)/common/store/libstore.a $(top_builddir)/common/control/libcontrol.a \
	$(top_builddir)/queues/libqueues.a $(CJSON_LIBS) $(NANOMSG_LIBS) $(BASE_LIBS)
check_DATA += fsck_rig$(EXEEXT)
TESTS += test_fsck.py
EXTRA_DIST += test_fsck.py
