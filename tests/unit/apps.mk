# SPDX-License-Identifier: Apache-2.0
APPS_LIBS = $(top_builddir)/common/apps/libapps.a $(BASE_LIBS) $(LIBVIRT_LIBS) $(LIBXML_LIBS)

check_PROGRAMS += test_apps_script
test_apps_script_SOURCES = test_apps_script.c apps_watch.c apps_watch.h
test_apps_script_LDADD = $(APPS_LIBS)

check_PROGRAMS += test_apps_xml
test_apps_xml_SOURCES = test_apps_xml.c
test_apps_xml_LDADD = $(APPS_LIBS)

check_PROGRAMS += test_apps_domain
test_apps_domain_SOURCES = test_apps_domain.c apps_watch.c apps_watch.h
test_apps_domain_LDADD = $(APPS_LIBS)

check_PROGRAMS += test_errands
test_errands_SOURCES = test_errands.c
test_errands_LDADD = $(APPS_LIBS)
