// SPDX-License-Identifier: Apache-2.0
// The description of a domain, made ready for one end: volumes' sockets filled in, and what must
// not be left to the author of the file forced.
#ifndef APPS_DOMAIN_XML_H
#define APPS_DOMAIN_XML_H

#include <stddef.h>

#include "common/apps/apps.h"
#include "common/base/error.h"

#define DOMAIN_UUID_SIZE 37 // canonical text and its zero
#define DOMAIN_NAME_SIZE 129
#define DOMAIN_XML_MAX   (1024 * 1024)

struct domain_xml {
    char name[DOMAIN_NAME_SIZE];
    char uuid[DOMAIN_UUID_SIZE];
    char *text;    // malloc'ed; what goes to libvirt
    char *bridged; // malloc'ed; the same for a libvirt that ignores a <reconnect delay>; NULL:
                   // there is none
};

// Reads `path` and gives it back with each ${volume:NAME} in attributes and texts replaced by that
// volume's socket, on_poweroff and on_crash set to destroy, and a <uuid>. `seed` (pair and
// application) gives the UUID of a file that has none, so that both ends show the guest the same
// one. <metadata>, <title> and <description> are left alone. -EINVAL with file and line: not XML,
// no domain, a document type, no usable name or UUID, an unknown volume, any other "${". *ret_xml
// is to be cleared by domain_xml_clear().
//
// `bridged`: a guest outlives a restart of the daemon through <reconnect delay='SECONDS'/> in the
// <source> of its disk, which libvirt knows since 9.2 only; an older one drops it in silence. There
// the disk keeps its device, but that is given (qemu:override) a node of QEMU's own
// (qemu:commandline) with the delay. For raw disks over a unix socket.
int domain_xml_prepare(const char *path, const struct apps_volume *volumes, size_t volume_count,
                       const char *seed, struct domain_xml *ret_xml, struct error *err);
void domain_xml_clear(struct domain_xml *xml);

#endif
