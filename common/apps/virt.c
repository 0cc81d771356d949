// SPDX-License-Identifier: Apache-2.0
// The only user of libvirt.
//
// Threads: the caller's (the runner); this domain's worker, which alone makes calls and owns
// `conn`, `watching` and what follows them in the struct; and libvirt's event loop, one for the
// process, which runs callbacks. What the runner asks and is told goes through `errands`; what the
// callbacks tell the worker is under `lock`. The struct lives until the last of handle, worker and
// registered callbacks lets go, so that nobody ever waits for a hanging call.
#include "common/apps/virt.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "common/apps/errands.h"
#include "common/base/cleanup.h"
#include "common/base/thread.h"

#define KEEPALIVE_S     3 // a libvirtd that does not answer is lost after
#define KEEPALIVE_COUNT 3 // so many of them
#define RETRY_MIN_MS    100
#define RETRY_MAX_MS    3000
#define DESTROY_STEP_MS 200
#define VANISH_STEP_MS  50
#define HOW_STEPS       20 // of VANISH_STEP_MS

struct virt {
    atomic_int references;
    char *uri, *xml_file, *seed, *identity_path;
    struct apps_volume *volumes;
    size_t volume_count;
    int64_t interval_ms;
    struct errands errands;

    pthread_mutex_t lock;
    bool hung_up;  // the connection is closed
    char how[128]; // the domain's end, as the last event told it
    struct identity identity; // changed by the worker alone, which reads it without the lock

    virConnectPtr conn; // worker's
    int event_id;
    bool watching;
    bool told_lost;
    bool told_bad; // of its file, by a check
    int64_t retry_ms;
    int paused_reason; // told to people; -1: not paused
};

static void unref(void *opaque)
{
    struct virt *v = opaque;

    if (atomic_fetch_sub(&v->references, 1) > 1)
        return;
    for (size_t i = 0; i < v->volume_count; i++) {
        free((void *)(uintptr_t)v->volumes[i].name);
        free((void *)(uintptr_t)v->volumes[i].socket);
    }
    errands_clear(&v->errands);
    (void)pthread_mutex_destroy(&v->lock);
    free(v->volumes);
    free(v->uri);
    free(v->xml_file);
    free(v->seed);
    free(v->identity_path);
    free(v);
}

// ---- reports

static void __attribute__((format(printf, 3, 4)))
report(struct virt *v, enum virt_news news, const char *format, ...)
{
    char text[sizeof(((struct virt_report *)NULL)->text)];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    errands_report(&v->errands, news, text);
}

static const char *last_error(void)
{
    const char *text = virGetLastErrorMessage();
    return text ? text : "unknown error";
}

static bool last_error_is(int code)
{
    return virGetLastErrorCode() == code;
}

// ---- libvirt's event loop

static void quiet(void *opaque, virErrorPtr error)
{
}

static void *run_events(void *unused)
{
    for (;;)
        (void)virEventRunDefaultImpl();
    return NULL;
}

static int start_thread(const char *name, void *(*function)(void *), void *argument)
{
    pthread_t thread;
    int r = thread_start(&thread, name, function, argument);

    if (r == 0)
        (void)pthread_detach(thread);
    return r;
}

// libvirt has one event loop a process, to be registered before the first connection; hence these
// statics.
static int event_loop_result;

static void start_event_loop(void)
{
    virSetErrorFunc(NULL, quiet);
    event_loop_result = virInitialize() < 0 || virEventRegisterDefaultImpl() < 0
                            ? -EIO
                            : start_thread("libvirt events", run_events, NULL);
}

static void on_close(virConnectPtr conn, int reason, void *opaque)
{
    struct virt *v = opaque;
    HOLD_LOCK(&v->lock);
    v->hung_up = true;
    errands_look(&v->errands);
}

static const char *end_text(int event, int detail)
{
    if (event == VIR_DOMAIN_EVENT_CRASHED)
        return "the guest has crashed";
    switch (detail) {
    case VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
        return "the guest has shut itself down";
    case VIR_DOMAIN_EVENT_STOPPED_DESTROYED:
        return "it was destroyed through libvirt";
    case VIR_DOMAIN_EVENT_STOPPED_CRASHED:
        return "the guest or its QEMU has crashed";
    case VIR_DOMAIN_EVENT_STOPPED_MIGRATED:
        return "it was migrated away";
    case VIR_DOMAIN_EVENT_STOPPED_SAVED:
        return "it was saved";
    case VIR_DOMAIN_EVENT_STOPPED_FAILED:
        return "its QEMU has failed";
    default:
        return "it has ended";
    }
}

static int on_lifecycle(virConnectPtr conn, virDomainPtr domain, int event, int detail,
                        void *opaque)
{
    struct virt *v = opaque;
    char uuid[VIR_UUID_STRING_BUFLEN];

    HOLD_LOCK(&v->lock);
    if (virDomainGetUUIDString(domain, uuid) < 0 || strcmp(uuid, v->identity.uuid) != 0)
        return 0;
    if (event == VIR_DOMAIN_EVENT_STOPPED || event == VIR_DOMAIN_EVENT_CRASHED)
        snprintf(v->how, sizeof(v->how), "%s", end_text(event, detail));
    errands_look(&v->errands);
    return 0;
}

// ---- the connection

static void disconnect(struct virt *v)
{
    if (!v->conn)
        return;
    if (v->event_id >= 0)
        (void)virConnectDomainEventDeregisterAny(v->conn, v->event_id);
    (void)virConnectUnregisterCloseCallback(v->conn, on_close);
    (void)virConnectClose(v->conn);
    v->conn = NULL;
    v->event_id = -1;
}

static bool is_lost(struct virt *v)
{
    HOLD_LOCK(&v->lock);
    return v->hung_up;
}

// Makes sure that there is a connection. Failing, last_error() tells why.
static bool connect_once(struct virt *v)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, start_event_loop);
    ENSURE(event_loop_result == 0);
    if (v->conn && (is_lost(v) || virConnectIsAlive(v->conn) != 1))
        disconnect(v);
    if (v->conn)
        return true;
    pthread_mutex_lock(&v->lock);
    v->hung_up = false;
    pthread_mutex_unlock(&v->lock);
    v->conn = virConnectOpen(v->uri);
    if (!v->conn)
        return false;
    (void)virConnectSetKeepAlive(v->conn, KEEPALIVE_S, KEEPALIVE_COUNT); // a local driver has none
    atomic_fetch_add(&v->references, 1);
    if (virConnectRegisterCloseCallback(v->conn, on_close, v, unref) < 0)
        unref(v);
    atomic_fetch_add(&v->references, 1);
    v->event_id =
        virConnectDomainEventRegisterAny(v->conn, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                         VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), v, unref);
    if (v->event_id < 0)
        unref(v);
    return true;
}

static int64_t next_retry(struct virt *v)
{
    v->retry_ms = v->retry_ms ? MIN(v->retry_ms * 2, RETRY_MAX_MS) : RETRY_MIN_MS;
    return v->retry_ms;
}

static void note_lost(struct virt *v)
{
    if (!v->told_lost)
        report(v, VIRT_NOTE, "libvirt (%s) cannot be reached: %s; trying again", v->uri,
               last_error());
    v->told_lost = true;
}

static void note_found(struct virt *v)
{
    if (v->told_lost)
        report(v, VIRT_NOTE, "libvirt (%s) is reached again", v->uri);
    v->told_lost = false;
    v->retry_ms = 0;
}

// Connects with patience. False: something else is asked for by now.
static bool connect_patiently(struct virt *v)
{
    while (!connect_once(v)) {
        note_lost(v);
        if (!errands_pause(&v->errands, next_retry(v)))
            return false;
    }
    note_found(v);
    return true;
}

// ---- the domain

static void set_identity(struct virt *v, const struct identity *identity)
{
    HOLD_LOCK(&v->lock);
    v->identity = *identity;
    v->how[0] = 0;
}

static int prepare(struct virt *v, struct domain_xml *ret_xml, struct identity *ret_identity,
                   struct error *err)
{
    int r = domain_xml_prepare(v->xml_file, v->volumes, v->volume_count, v->seed, ret_xml, err);

    if (r == 0) {
        strcpy(ret_identity->name, ret_xml->name);
        strcpy(ret_identity->uuid, ret_xml->uuid);
    }
    return r;
}

// Between QEMU's end and its own, a transient domain is there, but neither active nor defined.
static bool is_vanishing(virDomainPtr domain)
{
    return virDomainIsActive(domain) == 0 && virDomainIsPersistent(domain) == 0;
}

// Is our domain there, and running? 1, 0 (it does not exist any more, or only as a definition),
// -EAGAIN (no answer, or not yet a final one).
static int find_running(struct virt *v, virDomainPtr *ret_domain)
{
    virDomainPtr domain = virDomainLookupByUUIDString(v->conn, v->identity.uuid);

    if (!domain)
        return last_error_is(VIR_ERR_NO_DOMAIN) ? 0 : -EAGAIN;
    int active = virDomainIsActive(domain);
    if (active == 1) {
        *ret_domain = domain;
        return 1;
    }
    bool gone = active == 0 ? !is_vanishing(domain) : last_error_is(VIR_ERR_NO_DOMAIN);
    (void)virDomainFree(domain);
    return gone ? 0 : -EAGAIN;
}

static const char *presence(virDomainPtr domain)
{
    if (virDomainIsActive(domain) == 1)
        return "is running";
    if (virDomainHasManagedSaveImage(domain, 0) == 1)
        return "is saved (managed save)";
    return "is defined";
}

// Describes what has this name or UUID here, and says whether there is anything.
static bool find_foreign(struct virt *v, const struct identity *id, char *ret_text, size_t size)
{
    virDomainPtr domain = virDomainLookupByName(v->conn, id->name);
    char uuid[VIR_UUID_STRING_BUFLEN] = "";
    struct identity own = {.uuid = ""};

    *ret_text = 0;
    if (!domain)
        domain = virDomainLookupByUUIDString(v->conn, id->uuid);
    while (domain && is_vanishing(domain) && errands_pause(&v->errands, VANISH_STEP_MS)) {
        (void)virDomainFree(domain);
        domain = virDomainLookupByUUIDString(v->conn, id->uuid);
    }
    if (!domain)
        return false;
    const char *name = virDomainGetName(domain);
    (void)virDomainGetUUIDString(domain, uuid);
    (void)identity_load(v->identity_path, &own, NULL);
    if (strcmp(own.uuid, uuid) == 0)
        snprintf(ret_text, size,
                 "domain '%s' (UUID %s) %s on this host since an earlier run of this end", name,
                 uuid, presence(domain));
    else
        snprintf(
            ret_text, size,
            "domain '%s' (UUID %s) %s on this host, but not by Understudy; stop it and undefine it "
            "(virsh -c %s undefine --managed-save %s)",
            name, uuid, presence(domain), v->uri, name);
    (void)virDomainFree(domain);
    return true;
}

static void watch(struct virt *v)
{
    v->watching = true;
    v->paused_reason = -1;
    report(v, VIRT_UP, "%s", "");
}

static void gone(struct virt *v)
{
    char how[sizeof(v->how)];

    pthread_mutex_lock(&v->lock);
    strcpy(how, v->how);
    pthread_mutex_unlock(&v->lock);
    v->watching = false;
    report(v, VIRT_GONE, "%s", how[0] ? how : "it has ended");
}

static bool knows_how(struct virt *v)
{
    HOLD_LOCK(&v->lock);
    return v->how[0];
}

// The event that tells how it ended may come a little after the end is seen.
static void wait_for_how(struct virt *v)
{
    for (int i = 0; i < HOW_STEPS && !knows_how(v) && errands_pause(&v->errands, VANISH_STEP_MS); i++)
        continue;
}

// A libvirt that does not know a disk's reconnect delay drops it without a word.
static const char *fitting_text(struct virt *v, const struct domain_xml *xml)
{
    if (!xml->bridged)
        return xml->text;
    char *command = virConnectDomainXMLToNative(v->conn, "qemu-argv", xml->text, 0);
    bool known = command && strstr(command, "reconnect-delay");
    free(command);
    return known ? xml->text : xml->bridged;
}

static void create(struct virt *v, const struct domain_xml *xml, const struct identity *id)
{
    const char *text = fitting_text(v, xml);
    struct error err = {0};
    virDomainPtr domain;

    if (!errands_commit(&v->errands)) // from here on it may come into being
        return;
    set_identity(v, id);
    if (identity_save(v->identity_path, id, &err) < 0) {
        report(v, VIRT_FAILED, "%s", err.text);
    } else if (!(domain = virDomainCreateXML(v->conn, text, VIR_DOMAIN_NONE))) {
        report(v, VIRT_FAILED, "libvirt does not start it: %s", last_error());
    } else {
        (void)virDomainFree(domain);
        watch(v);
    }
    errands_uncommit(&v->errands);
}

static void do_start(struct virt *v)
{
    struct domain_xml xml = {.text = NULL};
    struct identity id;
    struct error err = {0};
    char text[512];

    if (prepare(v, &xml, &id, &err) < 0) {
        report(v, VIRT_FAILED, "%s", err.text);
        return;
    }
    if (connect_patiently(v)) {
        if (find_foreign(v, &id, text, sizeof(text)))
            report(v, VIRT_FAILED, "%s", text);
        else
            create(v, &xml, &id);
    }
    domain_xml_clear(&xml);
}

static void do_adopt(struct virt *v)
{
    virDomainPtr domain = NULL;
    struct identity id;

    if (identity_load(v->identity_path, &id, NULL) < 0) {
        report(v, VIRT_ABSENT, "%s", "");
        return;
    }
    set_identity(v, &id);
    do {
        if (!connect_patiently(v))
            return;
        int r = find_running(v, &domain);
        if (r > 0) {
            (void)virDomainFree(domain);
            watch(v);
            return;
        }
        if (r == 0) {
            report(v, VIRT_ABSENT, "%s", "");
            return;
        }
    } while (errands_pause(&v->errands, next_retry(v)));
}

static void do_shutdown(struct virt *v)
{
    virDomainPtr domain = NULL;

    if (!connect_patiently(v))
        return;
    int r = find_running(v, &domain);
    if (r == 0) {
        gone(v);
    } else if (r > 0) {
        v->watching = true;
        // No flags: the guest agent where one answers, else ACPI's power button.
        if (virDomainShutdownFlags(domain, VIR_DOMAIN_SHUTDOWN_DEFAULT) < 0 &&
            !last_error_is(VIR_ERR_NO_DOMAIN) && !last_error_is(VIR_ERR_OPERATION_INVALID))
            report(v, VIRT_NOTE, "the guest cannot be asked to shut down: %s", last_error());
        (void)virDomainFree(domain);
    }
}

static void do_destroy(struct virt *v)
{
    virDomainPtr domain = NULL;
    struct identity id;

    if (identity_load(v->identity_path, &id, NULL) < 0) { // nothing that this end has started
        v->watching = false;
        report(v, VIRT_GONE, "it was not started by this end");
        return;
    }
    set_identity(v, &id);
    do {
        if (!connect_patiently(v))
            return;
        int r = find_running(v, &domain);
        if (r == 0) {
            gone(v);
            return;
        }
        if (r > 0) {
            (void)virDomainDestroy(domain); // the next look tells
            (void)virDomainFree(domain);
        }
    } while (errands_pause(&v->errands, DESTROY_STEP_MS));
}

static void do_check(struct virt *v)
{
    struct domain_xml xml = {.text = NULL};
    struct identity id;
    struct error err = {0};
    char text[512] = "";

    bool bad = prepare(v, &xml, &id, &err) < 0, told = v->told_bad;
    v->told_bad = bad;
    if (bad) {
        if (!told)
            report(v, VIRT_NOTE, "%s", err.text);
    } else if (!connect_once(v)) {
        note_lost(v);
    } else {
        note_found(v);
        (void)find_foreign(v, &id, text, sizeof(text));
    }
    report(v, VIRT_FOUND, "%s", text);
    domain_xml_clear(&xml);
}

static void tell_paused(struct virt *v, virDomainPtr domain)
{
    int state = VIR_DOMAIN_NOSTATE, reason = 0;

    if (virDomainGetState(domain, &state, &reason, 0) < 0)
        return;
    int paused = state == VIR_DOMAIN_PAUSED ? reason : -1;
    if (paused == v->paused_reason)
        return;
    if (paused == VIR_DOMAIN_PAUSED_IOERROR)
        report(v, VIRT_NOTE, "the guest is suspended: an I/O error on one of its disks");
    else if (paused >= 0)
        report(v, VIRT_NOTE, "the guest is suspended (libvirt's reason %d)", paused);
    else
        report(v, VIRT_NOTE, "the guest runs again");
    v->paused_reason = paused;
}

// A look at the watched domain. Returns after how many milliseconds the next one is due.
static int64_t look(struct virt *v)
{
    virDomainPtr domain = NULL;

    if (!connect_once(v)) {
        note_lost(v);
        return next_retry(v);
    }
    int r = find_running(v, &domain);
    if (r < 0)
        return next_retry(v);
    note_found(v);
    if (r == 0) {
        wait_for_how(v);
        gone(v);
    } else {
        tell_paused(v, domain);
        (void)virDomainFree(domain);
    }
    return v->interval_ms;
}

static void carry_out(struct virt *v, enum virt_request request)
{
    switch (request) {
    case VIRT_NONE:
        break;
    case VIRT_ADOPT:
        do_adopt(v);
        break;
    case VIRT_START:
        do_start(v);
        break;
    case VIRT_SHUTDOWN:
        do_shutdown(v);
        break;
    case VIRT_DESTROY:
        do_destroy(v);
        break;
    case VIRT_CHECK:
        do_check(v);
        break;
    }
}

static void *run_worker(void *opaque)
{
    struct virt *v = opaque;
    enum virt_request request;
    int64_t ms = -1;

    while (errands_next(&v->errands, ms, &request)) {
        carry_out(v, request);
        if (v->watching)
            ms = request == VIRT_NONE ? look(v) : v->interval_ms;
        else
            ms = -1;
        if (!v->watching)
            disconnect(v);
    }
    disconnect(v);
    unref(v);
    return NULL;
}

// ---- the caller's side

static char *copy(const char *text)
{
    char *c = strdup(text);
    ENSURE(c);
    return c;
}

static void copy_setup(struct virt *v, const struct virt_setup *setup)
{
    v->uri = copy(setup->uri);
    v->xml_file = copy(setup->xml_file);
    v->seed = copy(setup->seed);
    v->identity_path = copy(setup->identity_path);
    v->interval_ms = setup->interval_ms;
    v->volumes = calloc(setup->volume_count + 1, sizeof(*v->volumes));
    ENSURE(v->volumes);
    v->volume_count = setup->volume_count;
    for (size_t i = 0; i < setup->volume_count; i++)
        v->volumes[i] =
            (struct apps_volume){copy(setup->volumes[i].name), copy(setup->volumes[i].socket)};
}

int virt_open(const struct virt_setup *setup, struct virt **ret_virt, struct error *err)
{
    struct virt *v = calloc(1, sizeof(*v));

    ENSURE(v);
    atomic_init(&v->references, 2); // the handle and the worker
    v->event_id = -1;
    copy_setup(v, setup);
    ENSURE(pthread_mutex_init(&v->lock, NULL) == 0);
    int r = errands_init(&v->errands);
    if (r == 0)
        r = start_thread("libvirt", run_worker, v);
    if (r < 0) {
        unref(v);
        unref(v);
        return error_sys(err, r, "cannot make a thread for libvirt");
    }
    *ret_virt = v;
    return 0;
}

struct virt *virt_close(struct virt *v)
{
    if (v) {
        errands_quit(&v->errands);
        unref(v);
    }
    return NULL;
}

unsigned virt_ask(struct virt *v, enum virt_request request)
{
    return errands_ask(&v->errands, request);
}

void virt_look(struct virt *v)
{
    errands_look(&v->errands);
}

int virt_fd(const struct virt *v)
{
    return v->errands.event_fd;
}

bool virt_take(struct virt *v, struct virt_report *ret_report)
{
    return errands_take(&v->errands, ret_report);
}

bool virt_creating(struct virt *v)
{
    return errands_committed(&v->errands);
}
