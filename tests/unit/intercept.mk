# SPDX-License-Identifier: Apache-2.0
# The server as a program, for real clients.
EXTRA_PROGRAMS += nbd_server
CLEANFILES = nbd_server$(EXEEXT)
nbd_server_SOURCES = nbd_server.c
nbd_server_LDADD = $(top_builddir)/common/intercept/libintercept.a $(QUEUES_LIBS)
