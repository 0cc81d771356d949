# SPDX-License-Identifier: Apache-2.0
GUARD_LIBS = $(top_builddir)/guard/libguard.a

GUARD_WORLD = guard_world.c guard_world.h netlock.c netlock.h netns.c netns.h
GUARD_CPPFLAGS = $(AM_CPPFLAGS) -DGUARD_BINARY='"$(abs_top_builddir)/guard/understudy-guard"'

check_PROGRAMS += test_guard_deadlines
test_guard_deadlines_SOURCES = test_guard_deadlines.c $(GUARD_WORLD)
test_guard_deadlines_CPPFLAGS = $(GUARD_CPPFLAGS)
test_guard_deadlines_LDADD = $(GUARD_LIBS) $(ADDRESS_LIBS) $(BASE_LIBS)
check_PROGRAMS += test_guard_daemons
test_guard_daemons_SOURCES = test_guard_daemons.c $(GUARD_WORLD)
test_guard_daemons_CPPFLAGS = $(GUARD_CPPFLAGS)
test_guard_daemons_LDADD = $(GUARD_LIBS) $(ADDRESS_LIBS) $(BASE_LIBS)
check_PROGRAMS += test_guard_network
test_guard_network_SOURCES = test_guard_network.c $(GUARD_WORLD)
test_guard_network_CPPFLAGS = $(GUARD_CPPFLAGS)
test_guard_network_LDADD = $(GUARD_LIBS) $(ADDRESS_LIBS) $(BASE_LIBS)
check_PROGRAMS += test_guard_plan
test_guard_plan_SOURCES = test_guard_plan.c $(GUARD_WORLD)
test_guard_plan_CPPFLAGS = $(GUARD_CPPFLAGS)
test_guard_plan_LDADD = $(GUARD_LIBS) $(ADDRESS_LIBS) $(BASE_LIBS)
