// SPDX-License-Identifier: Apache-2.0
// common/store over iSCSI, against a real tgtd of our own (a free port, a control socket of its
// own): the shared tests, what is refused, and a target that is killed and comes back under load.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/store/store.h"
#include "tests/unit/store_rig.h"

#define TARGET    "iqn.2024-01.invalid.understudy:test"
#define INITIATOR "iqn.2024-01.invalid.understudy:tester"

static char dir[] = "/var/tmp/test_iscsi_XXXXXX";
static int port;
static int control; // number of tgtd's control socket
static pid_t tgtd;

// ---- the target

__attribute__((format(printf, 1, 2))) static bool run(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    return system(command) == 0;
}

#define ADMIN(format, ...)                                                                         \
    run("tgtadm -C %d --lld iscsi " format " >/dev/null 2>&1", control __VA_OPT__(, ) __VA_ARGS__)

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    CLEANUP_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        return -1;
    return ntohs(address.sin_port);
}

static void exec_tgtd(void)
{
    char number[16], portal[64], log[128];
    snprintf(number, sizeof(number), "%d", control);
    snprintf(portal, sizeof(portal), "portal=127.0.0.1:%d", port);
    snprintf(log, sizeof(log), "%s/tgtd.log", dir);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)dup2(fd, 1);
    (void)dup2(fd, 2);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    execlp("tgtd", "tgtd", "-f", "-C", number, "--iscsi", portal, (char *)NULL);
    _exit(127);
}

static bool start_tgtd(void)
{
    tgtd = fork();
    if (tgtd == 0)
        exec_tgtd();
    while (!ADMIN("--op show --mode sys")) {
        if (waitpid(tgtd, NULL, WNOHANG) == tgtd)
            return false;
        usleep(10000);
    }
    return true;
}

static void stop_tgtd(void)
{
    kill(tgtd, SIGKILL);
    (void)waitpid(tgtd, NULL, 0);
}

static void make_target(void)
{
    assert_true(ADMIN("--op new --mode target --tid 1 -T %s", TARGET));
    assert_true(ADMIN("--op bind --mode target --tid 1 -I ALL"));
}

static void make_lun(uint64_t size, const char *options)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/lun", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    if (size > 0) {
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
    }
    close(fd);
    assert_true(ADMIN("--op new --mode logicalunit --tid 1 --lun 1 -b %s %s", path, options));
}

static void set_lun(const char *params)
{
    assert_true(ADMIN("--op update --mode logicalunit --tid 1 --lun 1 --params %s", params));
}

// The target keeps a LUN for as long as commands of a session that is gone are running.
static void drop_lun(void)
{
    int64_t limit = clock_boot_ns() + 120 * NS_PER_S;
    while (!ADMIN("--op delete --mode logicalunit --tid 1 --lun 1")) {
        assert_true(clock_boot_ns() < limit);
        usleep(10000);
    }
}

static const char *lun_url(void)
{
    static char url[256];
    snprintf(url, sizeof(url), "iscsi://127.0.0.1:%d/%s/1", port, TARGET);
    return url;
}

static struct store *open_lun(void)
{
    struct store_config config = {.path = lun_url(), .size = RIG_SIZE, .initiator = INITIATOR};
    return rig_open(&config);
}

// ---- the shared tests: on a plain LUN, a thin one, and one with blocks of 4 KiB

static const char *const plain = "", *const thin = "thin_provisioning=1";

static struct store *open_fresh(void **state)
{
    const char *kind = *state;
    bool large = strcmp(kind, "4k") == 0;
    make_lun(RIG_SIZE, large ? "--blocksize 4096" : "");
    if (kind == thin)
        set_lun(thin);
    struct store *store = open_lun();
    assert_int_equal(store_kind(store), STORE_ISCSI);
    assert_int_equal(store_block(store)->block_size, large ? 4096 : 512);
    assert_int_equal(store_block(store)->zero_is_fast, kind == thin);
    return store;
}

static void close_lun(struct store *store)
{
    assert_string_equal(store_state_text(store), "ok");
    assert_false(store_busy(store));
    (void)store_free(store);
    drop_lun();
}

static void random_requests(void **state)
{
    struct store *store = open_fresh(state);
    rig_random_requests_match_a_model(store, 1500);
    close_lun(store);
}

static void large_request(void **state)
{
    struct store *store = open_fresh(state);
    rig_large_request_is_whole(store);
    close_lun(store);
}

static void callbacks_submit(void **state)
{
    struct store *store = open_fresh(state);
    rig_callbacks_may_submit(store);
    close_lun(store);
}

static void zeros(void **state)
{
    struct store *store = open_fresh(state);
    rig_zero_kinds_leave_zeros(store);
    close_lun(store);
}

static void free_ends_everything(void **state)
{
    rig_free_ends_everything(open_fresh(state));
    drop_lun();
}

static void discard_gives_space_back(void **state)
{
    char path[128];
    struct stat before, after;
    snprintf(path, sizeof(path), "%s/lun", dir);
    struct store *store = open_fresh(state);
    size_t length = 16 << 20;
    uint8_t *data = malloc(length);
    assert_non_null(data);
    memset(data, 1, length);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, length, data), 0);
    assert_int_equal(rig_run(store, BLOCK_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(rig_run(store, BLOCK_DISCARD, 0, 0, length, NULL), 0);
    assert_int_equal(rig_run(store, BLOCK_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(stat(path, &after), 0);
    assert_true(after.st_blocks * 512 + (int64_t)length / 2 < before.st_blocks * 512);
    free(data);
    close_lun(store);
}

// ---- what is refused

static void expect_refused(const struct store_config *config, int code, const char *text)
{
    struct error err = {0};
    struct store *store = NULL;
    int r = store_open(config, &store, &err);
    if (r != code || !strstr(err.text, text) || !strstr(err.text, TARGET))
        fail_msg("%d: '%s' instead of %d: '%s' with the name of the target", r, err.text, code,
                 text);
    assert_null(store);
}

static void bad_addresses_are_refused(void **state)
{
    struct store_config config = {.path = "iscsi://user%secret@127.0.0.1/" TARGET};
    struct error err;
    struct store *store = NULL;
    assert_int_equal(store_open(&config, &store, &err), -EINVAL);
    assert_non_null(strstr(err.text, "the form is iscsi://"));
    assert_null(strstr(err.text, "secret"));
    config.path = "iscsi://no.such.host.invalid/" TARGET "/1";
    expect_refused(&config, -EHOSTUNREACH, "is not known");
    config.path = lun_url();
    config.direct = true;
    expect_refused(&config, -EINVAL, "`direct` is for files");
}

// What is wrong is known when the target has answered, which takes a busy machine longer.
static void expect_refused_in_time(const char *path, const char *text)
{
    struct store_config config = {.path = path, .timeout_ms = 300};
    struct store *store = NULL;
    struct error err = {0};
    while (config.timeout_ms < 30000 && store_open(&config, &store, &err) == -ETIMEDOUT &&
           !strstr(err.text, text))
        config.timeout_ms *= 3;
    expect_refused(&config, -ETIMEDOUT, text);
}

static void absent_lun_is_refused(void **state)
{
    expect_refused_in_time(lun_url(), "no such LUN");
    char path[128];
    snprintf(path, sizeof(path), "iscsi://127.0.0.1:%d/%s/1", free_port(), TARGET);
    expect_refused_in_time(path, "refused");
    snprintf(path, sizeof(path), "iscsi://127.0.0.1:%d/%s.other/1", port, TARGET);
    expect_refused_in_time(path, "not found");
}

static void wrong_size_is_refused(void **state)
{
    make_lun(1 << 20, "");
    struct store_config config = {.path = lun_url(), .size = 2 << 20};
    expect_refused(&config, -EINVAL, "too short by 1048576");
    config.size = 1 << 19;
    expect_refused(&config, -EINVAL, "too large by 524288");
    config.allow_larger = true;
    struct store *store = rig_open(&config);
    assert_int_equal(store_block(store)->size, 1 << 19);
    close_lun(store);
}

static void read_only_lun_is_refused(void **state)
{
    make_lun(1 << 20, "");
    set_lun("readonly=1");
    struct store_config config = {.path = lun_url()};
    expect_refused(&config, -EROFS, "write-protected");
    config.read_only = true;
    struct store *store = rig_open(&config);
    uint8_t data[512];
    assert_int_equal(rig_run(store, BLOCK_READ, 0, 0, sizeof(data), data), 0);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), -EROFS);
    close_lun(store);
}

static void chap_is_needed(void **state)
{
    make_lun(1 << 20, "");
    assert_true(ADMIN("--op new --mode account --user me --password twelve-letters"));
    assert_true(ADMIN("--op bind --mode account --tid 1 --user me"));
    struct store_config config = {.path = lun_url()};
    expect_refused(&config, -EACCES, "refuses the login");
    config.user = "me";
    config.password = "thirteen-letters";
    expect_refused(&config, -EACCES, "refuses the login");
    config.password = "twelve-letters";
    (void)store_free(rig_open(&config));
    char url[256];
    snprintf(url, sizeof(url), "iscsi://me%%twelve-letters@127.0.0.1:%d/%s/1", port, TARGET);
    config = (struct store_config){.path = url};
    (void)store_free(rig_open(&config));
    assert_true(ADMIN("--op unbind --mode account --tid 1 --user me"));
    assert_true(ADMIN("--op delete --mode account --user me"));
    drop_lun();
}

static struct iscsi_context *reserve_as_somebody_else(void)
{
    char portal[64];
    snprintf(portal, sizeof(portal), "127.0.0.1:%d", port);
    struct iscsi_context *other = iscsi_create_context(INITIATOR ".other");
    assert_non_null(other);
    iscsi_set_targetname(other, TARGET);
    iscsi_set_session_type(other, ISCSI_SESSION_NORMAL);
    assert_int_equal(iscsi_full_connect_sync(other, portal, 1), 0);
    struct scsi_task *task = iscsi_reserve6_sync(other, 1);
    assert_non_null(task);
    assert_int_equal(task->status, SCSI_STATUS_GOOD);
    scsi_free_scsi_task(task);
    return other;
}

// Somebody else reserves the LUN while we use it: writes end with an error of their own, and the
// state says why.
static void reservation_conflict_is_reported(void **state)
{
    make_lun(1 << 20, "");
    struct store_config config = {.path = lun_url(), .initiator = INITIATOR};
    struct store *store = rig_open(&config);
    uint8_t data[512] = {0};
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), 0);
    struct iscsi_context *other = reserve_as_somebody_else();
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), -EBADE);
    assert_non_null(strstr(store_state_text(store), "reservation conflict"));
    (void)store_free(store);
    expect_refused(&config, -EBUSY, "reservation conflict");
    iscsi_destroy_context(other);
    store = rig_open(&config);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), 0);
    close_lun(store);
}

// ---- a target that goes and comes

struct load {
    struct store *store;
    unsigned out, left, ended;
    uint64_t next;
    struct load_slot {
        struct block_request request;
        struct load *load;
        uint8_t data[4096];
    } slots[16];
};

static void load_submit(struct load_slot *slot);

static void load_done(struct block_request *request, int status)
{
    struct load_slot *slot = request->owner;
    assert_int_equal(status, 0);
    slot->load->out--;
    slot->load->ended++;
    if (slot->load->left > 0)
        load_submit(slot);
}

static void load_submit(struct load_slot *slot)
{
    struct load *load = slot->load;
    uint64_t number = load->next++;
    load->left--;
    load->out++;
    bool flush = number % 32 == 31;
    for (size_t i = 0; i < sizeof(slot->data); i += sizeof(number))
        memcpy(slot->data + i, &number, sizeof(number));
    slot->request = (struct block_request){.op = flush ? BLOCK_FLUSH : BLOCK_WRITE,
                                           .offset = number * 4096 % RIG_SIZE,
                                           .length = 4096,
                                           .data = slot->data,
                                           .done = load_done,
                                           .owner = slot};
    block_submit(store_block(load->store), &slot->request);
    block_kick(store_block(load->store));
}

static void restart_target(void)
{
    assert_true(start_tgtd());
    make_target();
    make_lun(0, "");
}

// Killed three times in the middle of writes and flushes: every request ends well in the end, and
// the LUN holds the last write of each block.
static void killed_target_loses_nothing(void **state)
{
    struct store *store = open_fresh(state);
    struct load *load = calloc(1, sizeof(*load));
    assert_non_null(load);
    load->store = store;
    load->left = 9000;
    for (unsigned i = 0; i < ARRAY_LEN(load->slots); i++) {
        load->slots[i].load = load;
        load_submit(&load->slots[i]);
    }
    for (unsigned kills = 0; load->out > 0;) {
        rig_turn(store, 1000);
        if (kills < 3 && load->ended > 2000 * (kills + 1)) {
            kills++;
            stop_tgtd();
            while (store_is_up(store))
                rig_turn(store, 1000);
            assert_non_null(strstr(store_state_text(store), "the LUN has been away for"));
            restart_target();
        }
    }
    for (uint64_t number = 0; number < load->next; number++) {
        uint64_t found[512];
        assert_int_equal(rig_run(store, BLOCK_READ, 0, number * 4096 % RIG_SIZE, 4096, found), 0);
        assert_int_equal(found[511], number % 32 == 31 ? 0 : number);
    }
    // tgtd has a volatile cache (the page cache of its machine) and came back as after power on.
    assert_in_range(store_resets(store), 1, 3);
    free(load);
    close_lun(store);
}

// The target comes back with something else at the same address: not a byte goes there.
static void other_lun_is_not_touched(void **state)
{
    struct store *store = open_fresh(state);
    uint8_t data[512] = {1};
    stop_tgtd();
    while (store_is_up(store))
        rig_turn(store, 1000);
    assert_true(start_tgtd());
    make_target();
    make_lun(0, "");
    set_lun("scsi_id=another");
    while (!strstr(store_state_text(store), "a different LUN answers"))
        rig_turn(store, 1000);
    assert_false(store_is_up(store));
    set_lun("scsi_id=\"IET     00010001\"");
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), 0);
    close_lun(store);
}

// The cable is cut without a word: pings find out. (A stopped process answers as little.)
static void silent_target_is_noticed(void **state)
{
    struct store *store = open_fresh(state);
    uint8_t data[512] = {1};
    kill(tgtd, SIGSTOP);
    while (store_is_up(store))
        rig_turn(store, 1000);
    assert_non_null(strstr(store_state_text(store), "does not answer"));
    kill(tgtd, SIGCONT);
    assert_int_equal(rig_run(store, BLOCK_WRITE, 0, 0, sizeof(data), data), 0);
    close_lun(store);
}

// A restarted daemon takes the session over from its predecessor, which has not closed it.
static void successor_reinstates_the_session(void **state)
{
    struct store *store = open_fresh(state);
    struct store *successor = open_lun();
    uint8_t data[512] = {1};
    assert_int_equal(rig_run(successor, BLOCK_WRITE, 0, 0, sizeof(data), data), 0);
    struct pollfd pfd = {.fd = store_fd(store), .events = POLLIN};
    assert_int_equal(poll(&pfd, 1, 120000), 1); // its connection was closed by the target
    (void)store_free(store);
    close_lun(successor);
}

static int set_up(void **state)
{
    if (!mkdtemp(dir))
        return -1;
    control = 1000 + getpid() % 30000;
    for (int tries = 0; tries < 5; tries++) {
        port = free_port();
        if (start_tgtd()) {
            make_target();
            return 0;
        }
    }
    return -1;
}

static int tear_down(void **state)
{
    stop_tgtd();
    return run("rm -rf %s", dir) ? 0 : -1;
}

#define KIND(test, kind, value)                                                                    \
    {                                                                                              \
#test " (" #kind ")", test, NULL, NULL, (void *)(uintptr_t)(value)                         \
    }
#define ALL(kind, value)                                                                           \
    KIND(random_requests, kind, value), KIND(large_request, kind, value),                          \
        KIND(callbacks_submit, kind, value), KIND(zeros, kind, value),                             \
        KIND(free_ends_everything, kind, value)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ALL(plain, plain),
        ALL(thin, thin),
        KIND(random_requests, 4k, "4k"),
        KIND(discard_gives_space_back, thin, thin),
        cmocka_unit_test(bad_addresses_are_refused),
        cmocka_unit_test(absent_lun_is_refused),
        cmocka_unit_test(wrong_size_is_refused),
        cmocka_unit_test(read_only_lun_is_refused),
        cmocka_unit_test(chap_is_needed),
        cmocka_unit_test(reservation_conflict_is_reported),
        KIND(killed_target_loses_nothing, plain, plain),
        KIND(other_lun_is_not_touched, plain, plain),
        KIND(silent_target_is_noticed, plain, plain),
        KIND(successor_reinstates_the_session, plain, plain),
    };
    if (!run("command -v tgtd >/dev/null && command -v tgtadm >/dev/null") || geteuid() != 0)
        return 77;
    return cmocka_run_group_tests_name("store over iSCSI", tests, set_up, tear_down);
}
