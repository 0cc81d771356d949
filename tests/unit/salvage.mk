# SPDX-License-Identifier: Apache-2.0
# pairctl salvage.
EXTRA_PROGRAMS += salvage_rig
CLEANFILES += salvage_rig$(EXEEXT)
salvage_rig_SOURCES = salvage_rig.c
salvage_rig_LDADD = $(top_builddir)/common/store/libstore.a $(top_builddir)/queues/libqueues.a $(BASE_LIBS)
check_DATA += salvage_rig$(EXEEXT)
TESTS += test_salvage_command.py
EXTRA_DIST += test_salvage_command.py
