# SPDX-License-Identifier: Apache-2.0
# What every room's Makefile.am includes: one include root (the top of the tree, so that an include names its room)
# and one set of flags.
NULL =
AM_CPPFLAGS = -I$(top_srcdir) -I$(top_builddir) -D_GNU_SOURCE
AM_CFLAGS = $(US_CFLAGS) $(US_WARN)
AM_LDFLAGS = $(US_LDFLAGS) -pthread
