# SPDX-License-Identifier: Apache-2.0
CONFIG_LIBS = $(top_builddir)/common/config/libconfig.a $(CJSON_LIBS) $(BASE_LIBS)
check_PROGRAMS += test_config test_config_pairs test_config_reference
test_config_SOURCES = test_config.c config_refused.h config_sample.h
test_config_LDADD = $(CONFIG_LIBS)
test_config_pairs_SOURCES = test_config_pairs.c config_sample.h
test_config_pairs_LDADD = $(CONFIG_LIBS)
test_config_reference_SOURCES = test_config_reference.c
test_config_reference_LDADD = $(CONFIG_LIBS)
