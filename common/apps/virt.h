// SPDX-License-Identifier: Apache-2.0
// One domain's libvirt: a thread that makes the calls, which can hang for as long as they like, and
// tells what came of it. It connects when it is asked something, keeps the connection while there
// is a domain to watch, and finds it again by itself when it is lost; a domain that lived on
// without libvirtd is simply still there.
//
// The latest request replaces one that is still waiting (for its turn, or for libvirtd to come
// back). Every report carries the number of the request after which it was made: those of former
// requests are out of date.
#ifndef APPS_VIRT_H
#define APPS_VIRT_H

#include <stdbool.h>

#include "common/apps/apps.h"
#include "common/apps/identity.h"
#include "common/base/error.h"

struct virt;

struct virt_setup { // copied
    const char *uri;
    const char *xml_file;
    const char *seed;          // for a missing UUID
    const char *identity_path; // where identity_save() keeps it; whoever asks removes it in the end
    const struct apps_volume *volumes;
    size_t volume_count;
    int64_t interval_ms; // between two looks at a watched domain, besides libvirt's events
};

enum virt_request {
    VIRT_NONE,
    VIRT_ADOPT,    // up or absent, once libvirt answers
    VIRT_START,    // up, or failed
    VIRT_SHUTDOWN, // a wish to the guest; gone when it follows
    VIRT_DESTROY,  // gone, sooner or later
    VIRT_CHECK,    // found
};

enum virt_news {
    VIRT_UP,     // the domain runs and is watched
    VIRT_ABSENT, // nothing to adopt
    VIRT_FAILED, // text: why
    VIRT_GONE,   // the domain does not exist any more; text: how it ended
    VIRT_FOUND,  // text: what was found that should not be here, or ""
    VIRT_NOTE,   // text: for people
};

struct virt_report {
    enum virt_news news;
    unsigned serial;
    char text[768];
};

int virt_open(const struct virt_setup *setup, struct virt **ret_virt, struct error *err);
// Lets go without waiting; a thread that hangs in a call ends when that returns. The domain stays.
// NULL-safe.
struct virt *virt_close(struct virt *v);

unsigned virt_ask(struct virt *v, enum virt_request request); // returns its number, never 0
void virt_look(struct virt *v);    // something may have happened to the domain
int virt_fd(const struct virt *v); // readable: virt_take() has something
bool virt_take(struct virt *v, struct virt_report *ret_report);
// A domain is being created at this moment: its end cannot be known before libvirt has answered.
bool virt_creating(struct virt *v);

#endif
