# SPDX-License-Identifier: Apache-2.0
check_PROGRAMS += test_base
test_base_SOURCES = test_base.c
test_base_LDADD = $(BASE_LIBS)

check_PROGRAMS += test_log
test_log_SOURCES = test_log.c
test_log_LDADD = $(BASE_LIBS)
