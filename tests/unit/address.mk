# SPDX-License-Identifier: Apache-2.0
ADDRESS_LIBS = $(top_builddir)/common/address/libaddress.a $(NLROUTE_LIBS)

check_PROGRAMS += test_mac test_address test_claims
test_mac_SOURCES = test_mac.c
test_mac_LDADD = $(BASE_LIBS)
test_address_SOURCES = test_address.c netns.c netns.h
test_address_LDADD = $(ADDRESS_LIBS) $(BASE_LIBS)
test_claims_SOURCES = test_claims.c netns.c netns.h
test_claims_LDADD = $(ADDRESS_LIBS) $(BASE_LIBS)
