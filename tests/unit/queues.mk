# SPDX-License-Identifier: Apache-2.0

QUEUES_LIBS = $(top_builddir)/queues/libqueues.a $(BASE_LIBS)

# The passive half.
check_PROGRAMS += test_epoch
test_epoch_SOURCES = test_epoch.c
test_epoch_LDADD = $(QUEUES_LIBS)
