# SPDX-License-Identifier: Apache-2.0

QUEUES_LIBS = $(top_builddir)/queues/libqueues.a $(BASE_LIBS)

# The passive half.
check_PROGRAMS += test_epoch
test_epoch_SOURCES = test_epoch.c
test_epoch_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_safe
test_safe_SOURCES = test_safe.c fake_disk.c fake_disk.h passive_help.c passive_help.h
test_safe_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_salvage
test_salvage_SOURCES = test_salvage.c fake_disk.c fake_disk.h
test_salvage_LDADD = $(QUEUES_LIBS)
REPLICA_WORLD = replica_world.c replica_world.h fake_volume.c fake_volume.h fake_disk.c fake_disk.h \
	passive_help.c passive_help.h
check_PROGRAMS += test_replica_receive
test_replica_receive_SOURCES = test_replica_receive.c $(REPLICA_WORLD)
test_replica_receive_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_replica_apply
test_replica_apply_SOURCES = test_replica_apply.c $(REPLICA_WORLD)
test_replica_apply_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_replica_finish
test_replica_finish_SOURCES = test_replica_finish.c $(REPLICA_WORLD)
test_replica_finish_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_replica_salvage
test_replica_salvage_SOURCES = test_replica_salvage.c $(REPLICA_WORLD)
test_replica_salvage_LDADD = $(QUEUES_LIBS)

# Both.
check_PROGRAMS += test_vitals
test_vitals_SOURCES = test_vitals.c
test_vitals_LDADD = $(QUEUES_LIBS)

# The active half.
UPDATES_FIXTURE = updates_fixture.c updates_fixture.h fake_block.h
check_PROGRAMS += test_updates_answers
test_updates_answers_SOURCES = test_updates_answers.c $(UPDATES_FIXTURE)
test_updates_answers_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_updates_order
test_updates_order_SOURCES = test_updates_order.c $(UPDATES_FIXTURE)
test_updates_order_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_updates_random
test_updates_random_SOURCES = test_updates_random.c $(UPDATES_FIXTURE)
test_updates_random_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_unsafe
test_unsafe_SOURCES = test_unsafe.c
test_unsafe_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_record
test_record_SOURCES = test_record.c
test_record_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_overlap
test_overlap_SOURCES = test_overlap.c
test_overlap_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_sender
test_sender_SOURCES = test_sender.c
test_sender_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_segments
test_segments_SOURCES = test_segments.c passive_help.c passive_help.h
test_segments_LDADD = $(top_builddir)/common/store/libstore.a $(QUEUES_LIBS)
check_PROGRAMS += test_intent
test_intent_SOURCES = test_intent.c
test_intent_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_maps
test_maps_SOURCES = test_maps.c fake_disk.c fake_disk.h
test_maps_LDADD = $(QUEUES_LIBS)
check_PROGRAMS += test_spill
test_spill_SOURCES = test_spill.c fake_disk.c fake_disk.h
test_spill_LDADD = $(QUEUES_LIBS)
