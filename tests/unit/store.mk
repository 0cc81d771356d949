# SPDX-License-Identifier: Apache-2.0
STORE_LIBS = $(top_builddir)/common/store/libstore.a $(BASE_LIBS) $(URING_LIBS) $(ISCSI_LIBS)

check_PROGRAMS += test_store
test_store_SOURCES = test_store.c store_rig.c store_rig.h
test_store_LDADD = $(STORE_LIBS)

check_PROGRAMS += test_store_iscsi
test_store_iscsi_SOURCES = test_store_iscsi.c store_rig.c store_rig.h
test_store_iscsi_LDADD = $(STORE_LIBS)

EXTRA_PROGRAMS += bench_store
bench_store_SOURCES = bench_store.c
bench_store_LDADD = $(STORE_LIBS)

check_PROGRAMS += test_lun
test_lun_SOURCES = test_lun.c
test_lun_LDADD = $(STORE_LIBS)
