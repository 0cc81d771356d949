# SPDX-License-Identifier: Apache-2.0
CONTROL_LIBS = $(top_builddir)/common/control/libcontrol.a $(CJSON_LIBS) $(NANOMSG_LIBS) $(BASE_LIBS)
check_PROGRAMS += test_control test_status
test_control_SOURCES = test_control.c
test_control_LDADD = $(CONTROL_LIBS)
test_status_SOURCES = test_status.c
test_status_LDADD = $(CONTROL_LIBS)

TESTS += test_pairctl.py
EXTRA_DIST += test_pairctl.py
