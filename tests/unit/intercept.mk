# SPDX-License-Identifier: Apache-2.0
# The server as a program, for real clients and for one that says what it is told.
EXTRA_PROGRAMS += nbd_server
CLEANFILES = nbd_server$(EXEEXT)
nbd_server_SOURCES = nbd_server.c
nbd_server_LDADD = $(top_builddir)/common/intercept/libintercept.a $(QUEUES_LIBS)
check_PROGRAMS += test_nbd_watch
test_nbd_watch_SOURCES = test_nbd_watch.c
test_nbd_watch_LDADD = $(top_builddir)/common/intercept/libintercept.a $(QUEUES_LIBS)
EXTRA_DIST += nbd_rig.py test_nbd.py test_nbd_clients.py
TESTS += test_nbd.py test_nbd_clients.py
check_DATA = nbd_server$(EXEEXT)
