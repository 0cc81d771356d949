# SPDX-License-Identifier: Apache-2.0
# What a daemon is linked from, upper rooms first.
DAEMON_LIBS = \
	$(top_builddir)/common/daemon/libdaemon.a \
	$(top_builddir)/common/end/libend.a \
	$(top_builddir)/common/intercept/libintercept.a \
	$(top_builddir)/common/channel/libchannel.a \
	$(top_builddir)/common/store/libstore.a \
	$(top_builddir)/common/apps/libapps.a \
	$(top_builddir)/guard/libguard.a \
	$(top_builddir)/common/address/libaddress.a \
	$(top_builddir)/common/control/libcontrol.a \
	$(top_builddir)/common/config/libconfig.a \
	$(top_builddir)/queues/libqueues.a \
	$(top_builddir)/common/base/libbase.a \
	$(SYSTEMD_LIBS) $(LIBVIRT_LIBS) $(LIBXML_LIBS) $(NANOMSG_LIBS) $(GNUTLS_LIBS) $(URING_LIBS) $(ISCSI_LIBS) \
	$(NLROUTE_LIBS) $(CJSON_LIBS) $(XXHASH_LIBS) \
	$(NULL)
