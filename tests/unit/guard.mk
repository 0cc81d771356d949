# SPDX-License-Identifier: Apache-2.0
GUARD_LIBS = $(top_builddir)/guard/libguard.a

check_PROGRAMS += test_guard
test_guard_SOURCES = test_guard.c netlock.c netlock.h netns.c netns.h
test_guard_CPPFLAGS = $(AM_CPPFLAGS) -DGUARD_BINARY='"$(abs_top_builddir)/guard/understudy-guard"'
test_guard_LDADD = $(GUARD_LIBS) $(ADDRESS_LIBS) $(BASE_LIBS)
