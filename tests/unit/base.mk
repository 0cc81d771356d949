# SPDX-License-Identifier: Apache-2.0
check_PROGRAMS += test_base
test_base_SOURCES = test_base.c
test_base_LDADD = $(BASE_LIBS)
