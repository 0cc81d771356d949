// SPDX-License-Identifier: Apache-2.0
// common/apps, domains: against a real libvirtd and real QEMU guests, in namespaces of the test's
// own, so that it may kill and restart them and leaves nothing. The guest is a boot sector that
// hears the power button.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/apps/identity.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "tests/unit/apps_watch.h"

#define UUID "6d1c0a52-27a5-4f0c-9d61-0c5f2a7f0001"

static char base[] = "/tmp/test_apps_domain_XXXXXX"; // libvirtd's state, images

static int try(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int try(const char *format, ...)
{
    char command[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    return system(command);
}

#define run(...) assert_int_equal(try(__VA_ARGS__), 0)

static void libvirtd(const char *option)
{
    const char *srcdir = getenv("srcdir");
    run("%s/../../deploy/lab-libvirtd %s %s/libvirt >/dev/null", srcdir ? srcdir : ".", option,
        base);
}

static pid_t libvirtd_pid(void)
{
    char path[PATH_SIZE];
    char *data = NULL;
    size_t size;

    assert_int_equal(path_format(path, sizeof(path), "%s/libvirt/libvirtd.pid", base), 0);
    assert_int_equal(file_read(path, 32, &data, &size, NULL), 0);
    pid_t pid = (pid_t)atoi(data);
    free(data);
    return pid;
}

// in: 16-bit code at 0x7c00. Enables the power button (PM1_EN), sleeps until it is pressed
// (PM1_STS), switches off.
static const unsigned char listening[] = {
    0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // mov dx,602h; mov ax,100h; out dx,ax
    0xba, 0x00, 0x06,                         // mov dx,600h
    0xfb, 0xf4, 0xed, 0xf6, 0xc4, 0x01,       // again: sti; hlt; in ax,dx; test ah,1
    0x74, 0xf8,                               // jz again
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // mov dx,604h; mov ax,2000h; out dx,ax
    0xf4, 0xeb, 0xfd,                         // hlt; jmp to it
};
static const unsigned char deaf[] = {0xfb, 0xf4, 0xeb, 0xfd}; // sti; hlt; jmp

static void write_image(const char *name, const unsigned char *code, size_t size)
{
    unsigned char sector[512] = {0};
    char path[PATH_SIZE];

    memcpy(sector, code, size);
    sector[510] = 0x55;
    sector[511] = 0xaa;
    assert_int_equal(path_format(path, sizeof(path), "%s/%s", base, name), 0);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(sector, 1, 512, f), 512);
    assert_int_equal(fclose(f), 0);
}

struct guest {
    struct watch watch;
    struct apps_volume volume;
    char image[PATH_SIZE], xml[PATH_SIZE];
    struct app_config config;
};

static void write_xml(const char *path, const char *name, const char *uuid, const char *disk)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(
        f,
        "<domain type='qemu'>\n <name>%s</name>\n <uuid>%s</uuid>\n <memory "
        "unit='MiB'>32</memory>\n"
        " <vcpu>1</vcpu>\n <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>\n"
        " <features><acpi/></features>\n <on_poweroff>restart</on_poweroff>\n"
        " <devices><disk type='file'><driver name='qemu' type='raw'/><source file='%s'/>"
        "<target dev='hda' bus='ide'/></disk><memballoon model='none'/></devices>\n</domain>\n",
        name, uuid, disk);
    assert_int_equal(fclose(f), 0);
}

static void enter(struct guest *g, const char *image)
{
    watch_open(&g->watch);
    assert_int_equal(path_format(g->image, sizeof(g->image), "%s/%s", base, image), 0);
    watch_path(&g->watch, g->xml, "vm.xml");
    write_xml(g->xml, "vm", UUID, "${volume:disk}");
    g->volume = (struct apps_volume){"disk", g->image};
    g->watch.setup.volumes = &g->volume;
    g->watch.setup.volume_count = 1;
    g->config = app_config_defaults(APP_DOMAIN);
    g->config.name = "vm";
    g->config.xml_file = g->xml;
    g->config.status_interval_ms = 1000;
    watch_apps(&g->watch, &g->config, 1);
}

static void reopen(struct guest *g)
{
    g->watch.apps = apps_forget(g->watch.apps);
    watch_apps(&g->watch, &g->config, 1);
}

static void start(struct guest *g)
{
    apps_start_all(g->watch.apps);
    watch_for(&g->watch, "all-started", NULL);
}

static pid_t qemu_pid(const struct guest *g)
{
    struct apps_target t;

    assert_int_equal(apps_freeze_targets(g->watch.apps, &t, 1), 1);
    assert_true(t.pid > 1 && t.pid_start > 0);
    return t.pid;
}

static void wait_for_end(pid_t pid)
{
    uint64_t begin;

    for (int i = 0; process_start(pid, &begin) == 0; i++) {
        assert_true(i < 12000);
        usleep(10000);
    }
}

// The guest has come so far that it hears the button: until then a press is lost, and so asked
// again.
static void press_until_off(void)
{
    for (int i = 0; try("virsh -q domstate vm 2>/dev/null | grep -q running") == 0; i++) {
        assert_true(i < 1200);
        (void)try("virsh -q shutdown vm >/dev/null 2>&1");
        usleep(100000);
    }
}

static void leave(struct guest *g)
{
    watch_close(&g->watch);
    assert_int_not_equal(try("virsh -q list --all | grep -q vm"), 0);
}

static void started_transient_and_shut_down(void **state)
{
    struct guest g;

    enter(&g, "listening");
    start(&g);
    pid_t pid = qemu_pid(&g);
    run("virsh -q dominfo vm | grep -q 'Persistent: *no'");
    run("virsh dumpxml vm | grep -q '<on_poweroff>destroy</on_poweroff>'");
    run("virsh domblklist vm | grep -q '%s'", g.image);
    sleep(2); // its boot takes about one; a press that it does not hear is repeated after ten,
              // which is right too
    apps_stop_all(g.watch.apps);
    watch_for(&g.watch, "all-stopped", NULL);
    wait_for_end(pid);
    assert_false(watch_has(&g.watch, "it is destroyed"));
    assert_false(watch_has(&g.watch, "died"));
    assert_int_equal(apps_freeze_targets(g.watch.apps, NULL, 0), 0);
    leave(&g);
}

static void deaf_guest_is_destroyed(void **state)
{
    struct guest g;

    enter(&g, "deaf");
    g.config.stop_timeout_ms = 500;
    reopen(&g);
    start(&g);
    pid_t pid = qemu_pid(&g);
    apps_stop_all(g.watch.apps);
    watch_for(&g.watch, "all-stopped", NULL);
    assert_true(watch_has(&g.watch, "the guest did not shut down within 0.5 s; it is destroyed"));
    wait_for_end(pid);
    leave(&g);
}

static void ends_by_itself_and_is_restarted(void **state)
{
    struct guest g;

    enter(&g, "listening");
    g.config.restarts = 1;
    g.config.on_failure = APP_FAILURE_SWITCHOVER;
    reopen(&g);
    start(&g);
    pid_t pid = qemu_pid(&g);
    press_until_off(); // what the guest's own poweroff looks like
    watch_for(&g.watch, "restarted", "vm");
    assert_true(watch_has(&g.watch, "died vm: the guest has shut itself down"));
    assert_int_not_equal(qemu_pid(&g), pid);
    assert_int_equal(watch_status(&g.watch, 0).restarts, 1);
    assert_int_equal(kill(qemu_pid(&g), SIGKILL), 0);
    watch_for(&g.watch, "failed", "vm");
    assert_true(g.watch.switchover);
    assert_string_equal(g.watch.text, "its QEMU has failed");
    leave(&g);
}

static void foreign_domains_are_named_and_left_alone(void **state)
{
    struct guest g;
    char other[PATH_SIZE];

    enter(&g, "deaf");
    g.config.restarts = 0;
    reopen(&g);
    watch_path(&g.watch, other, "other.xml");
    write_xml(other, "vm", "6d1c0a52-27a5-4f0c-9d61-0c5f2a7f0002", g.image);
    apps_check_foreign(g.watch.apps);
    watch_for(&g.watch, "checked", NULL);
    assert_string_equal(g.watch.text, "");

    run("virsh -q define %s >/dev/null", other); // the same name
    apps_check_foreign(g.watch.apps);
    watch_for(&g.watch, "checked", NULL);
    assert_non_null(
        strstr(g.watch.text, "domain 'vm' (UUID 6d1c0a52-27a5-4f0c-9d61-0c5f2a7f0002) is defined"));
    assert_int_equal(watch_status(&g.watch, 0).state, APP_STATE_FOREIGN);
    apps_start_all(g.watch.apps);
    watch_for(&g.watch, "failed", "vm");
    assert_non_null(strstr(g.watch.text, "is defined on this host, but not by Understudy"));
    run("virsh -q undefine vm >/dev/null");

    write_xml(other, "vm-other", UUID, g.image); // the same UUID
    run("virsh -q create %s >/dev/null", other);
    apps_stop_all(g.watch.apps);
    watch_for(&g.watch, "all-stopped", NULL);
    apps_check_foreign(g.watch.apps);
    watch_for(&g.watch, "checked", NULL);
    assert_non_null(strstr(g.watch.text, "domain 'vm-other' (UUID " UUID ") is running"));
    apps_kill_all(g.watch.apps);
    watch_for(&g.watch, "all-stopped", NULL);
    run("virsh -q domstate vm-other | grep -q running");
    run("virsh -q destroy vm-other >/dev/null");

    g.watch.setup.recheck_ms = 100; // from now on it is noticed without asking
    reopen(&g);
    apps_check_foreign(g.watch.apps);
    watch_for(&g.watch, "checked", NULL);
    assert_string_equal(g.watch.text, "");
    run("virsh -q define %s >/dev/null", other);
    watch_for(&g.watch, "checked", NULL);
    assert_non_null(strstr(g.watch.text, "is defined"));
    assert_int_equal(watch_status(&g.watch, 0).state, APP_STATE_FOREIGN);
    run("virsh -q undefine vm-other >/dev/null");
    watch_for(&g.watch, "checked", NULL);
    assert_string_equal(g.watch.text, "");
    start(&g);
    leave(&g);
}

static void libvirtd_goes_and_comes_back(void **state)
{
    struct guest g;

    enter(&g, "deaf");
    start(&g);
    pid_t pid = qemu_pid(&g);
    libvirtd("--stop");
    watch_for(&g.watch, "note", "vm");
    assert_non_null(strstr(g.watch.text, "cannot be reached"));
    assert_int_equal(watch_status(&g.watch, 0).state, APP_STATE_RUNNING);
    libvirtd("");
    watch_for(&g.watch, "note", "vm");
    assert_non_null(strstr(g.watch.text, "is reached again"));
    assert_int_equal(qemu_pid(&g), pid);
    assert_int_equal(kill(pid, SIGKILL), 0); // events come again
    watch_for(&g.watch, "restarted", "vm");

    pid = qemu_pid(&g);
    libvirtd("--stop");
    watch_for(&g.watch, "note", "vm");
    assert_int_equal(kill(pid, SIGKILL), 0);
    watch_for(&g.watch, "died", "vm");
    assert_string_equal(g.watch.text, "its QEMU has ended; libvirt does not answer");
    libvirtd("");
    watch_for(&g.watch, "restarted", "vm");
    assert_int_not_equal(qemu_pid(&g), pid);
    leave(&g);
}

static void adopted_with_and_without_libvirtd(void **state)
{
    struct guest g;

    enter(&g, "deaf");
    start(&g);
    pid_t pid = qemu_pid(&g);
    reopen(&g);
    apps_adopt(g.watch.apps);
    watch_for(&g.watch, "all-started", NULL);
    assert_int_equal(qemu_pid(&g), pid);

    libvirtd("--stop");
    reopen(&g);
    apps_adopt(g.watch.apps);
    watch_for(&g.watch, "all-started", NULL);
    assert_int_equal(qemu_pid(&g), pid);
    libvirtd("");
    watch_for(&g.watch, "note", "vm"); // reached again
    // libvirtd may still be finding its way to that QEMU; then this is an error, but QEMU is gone
    // all the same.
    (void)try("virsh -q destroy vm >/dev/null 2>&1");
    watch_for(&g.watch, "died", "vm");
    watch_for(&g.watch, "restarted", "vm");

    g.watch.apps = apps_forget(g.watch.apps); // what has ended meanwhile is started
    run("virsh -q destroy vm >/dev/null");
    watch_apps(&g.watch, &g.config, 1);
    apps_adopt(g.watch.apps);
    watch_for(&g.watch, "all-started", NULL);
    run("virsh -q domstate vm | grep -q running");
    leave(&g);
}

static void leftover_of_an_earlier_run_is_killed(void **state)
{
    struct guest g;

    enter(&g, "deaf");
    start(&g);
    pid_t pid = qemu_pid(&g);
    reopen(&g);
    apps_check_foreign(g.watch.apps);
    watch_for(&g.watch, "checked", NULL);
    assert_non_null(
        strstr(g.watch.text, "is running on this host since an earlier run of this end"));
    apps_kill_all(g.watch.apps);
    watch_for(&g.watch, "all-stopped", NULL);
    wait_for_end(pid);
    leave(&g);
}

static void frozen_is_no_failure(void **state)
{
    struct guest g;

    enter(&g, "deaf");
    g.config.restarts = 0;
    reopen(&g);
    start(&g);
    pid_t pid = qemu_pid(&g);
    apps_set_frozen(g.watch.apps, true);
    watch_state(&g.watch, 0, APP_STATE_FROZEN);
    assert_int_equal(kill(pid, SIGKILL), 0);
    wait_for_end(pid);
    apps_set_frozen(g.watch.apps, false);
    watch_for(&g.watch, "restarted", "vm");
    assert_false(watch_has(&g.watch, "died"));
    assert_int_equal(watch_status(&g.watch, 0).restarts, 0);

    pid = qemu_pid(&g);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    apps_set_frozen(g.watch.apps, true);
    apps_kill_all(g.watch.apps);
    watch_for(&g.watch, "all-stopped", NULL);
    wait_for_end(pid);
    leave(&g);
}

static void hanging_libvirtd_holds_up_nothing(void **state)
{
    struct guest g;
    pid_t daemon = libvirtd_pid();

    enter(&g, "deaf");
    g.config.start_timeout_ms = 500;
    g.config.restarts = 0;
    reopen(&g);
    assert_int_equal(kill(daemon, SIGSTOP), 0);
    apps_start_all(g.watch.apps);
    watch_for(&g.watch, "died", "vm");
    assert_string_equal(g.watch.text, "start: libvirt did not answer within 0.5 s");
    watch_for(&g.watch, "failed", "vm");
    assert_int_equal(kill(daemon, SIGCONT), 0);

    g.config.start_timeout_ms = 60000;
    reopen(&g);
    start(&g);
    pid_t pid = qemu_pid(&g);
    assert_int_equal(kill(daemon, SIGSTOP), 0);
    apps_kill_all(g.watch.apps);
    wait_for_end(pid);
    watch_for(&g.watch, "all-stopped", NULL);
    g.watch.apps = apps_forget(g.watch.apps); // does not wait for its answer either
    assert_int_equal(kill(daemon, SIGCONT), 0);
    watch_apps(&g.watch, &g.config, 1);
    start(&g);
    leave(&g);
}

static void bad_xml_is_told(void **state)
{
    struct guest g;
    char text[PATH_SIZE + 128];

    enter(&g, "deaf");
    g.config.restarts = 0;
    reopen(&g);
    write_xml(g.xml, "vm", UUID, "${volume:none}");
    apps_start_all(g.watch.apps);
    watch_for(&g.watch, "failed", "vm");
    snprintf(text, sizeof(text), "%s, line 9: '${volume:none}' is no volume of this pair", g.xml);
    assert_non_null(strstr(g.watch.text, text));
    write_xml(g.xml, "vm", UUID, "/does/not/exist");
    apps_start_all(g.watch.apps);
    watch_for(&g.watch, "failed", "vm");
    assert_non_null(strstr(g.watch.text, "libvirt does not start it: "));
    leave(&g);
}

static int begin(void **state)
{
    write_image("listening", listening, sizeof(listening));
    write_image("deaf", deaf, sizeof(deaf));
    libvirtd("");
    return 0;
}

static int tests(void)
{
    const struct CMUnitTest list[] = {
        cmocka_unit_test(started_transient_and_shut_down),
        cmocka_unit_test(deaf_guest_is_destroyed),
        cmocka_unit_test(ends_by_itself_and_is_restarted),
        cmocka_unit_test(foreign_domains_are_named_and_left_alone),
        cmocka_unit_test(libvirtd_goes_and_comes_back),
        cmocka_unit_test(adopted_with_and_without_libvirtd),
        cmocka_unit_test(leftover_of_an_earlier_run_is_killed),
        cmocka_unit_test(frozen_is_no_failure),
        cmocka_unit_test(hanging_libvirtd_holds_up_nothing),
        cmocka_unit_test(bad_xml_is_told),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(list, begin, NULL);
}

// Process 1 of the pid namespace: reaps what is left to it, and when it ends the kernel ends
// everything else.
static void __attribute__((noreturn)) be_init(void)
{
    int status;
    pid_t pid, main_pid;

    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", 0, NULL) < 0 ||
        mount("tmpfs", "/run", "tmpfs", 0, "mode=755") < 0)
        _exit(77);
    main_pid = fork();
    if (main_pid == 0)
        exit(tests() ? 1 : 0);
    while ((pid = wait(&status)) != main_pid)
        if (pid < 0)
            _exit(99);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
}

static bool possible(void)
{
    return geteuid() == 0 && try("command -v libvirtd virsh qemu-system-x86_64 >/dev/null") == 0 &&
           try("getent passwd libvirt-qemu >/dev/null") == 0;
}

static int wait_exit(pid_t pid)
{
    int status = 0;

    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                           : 99;
}

int main(void)
{
    if (!possible() || !mkdtemp(base)) {
        fprintf(stderr,
                "skipped: needs root, libvirtd, virsh, qemu-system-x86_64, user libvirt-qemu\n");
        return 77;
    }
    pid_t outside = fork(); // after its unshare it can make no process but be_init()
    if (outside == 0) {
        if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID) < 0)
            _exit(77);
        pid_t init = fork();
        if (init == 0)
            be_init();
        _exit(wait_exit(init));
    }
    int status = wait_exit(outside);
    (void)try("rm -r %s", base);
    return status;
}
