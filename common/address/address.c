// SPDX-License-Identifier: Apache-2.0
// The only user of libnl-route. Each call opens a netlink socket of its own: they are rare, and so
// belong to the network namespace of whoever calls.
#include "common/address/address.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"

// An interface name is put into a path; the kernel forbids slashes in one, and so do we.
static bool name_is_plain(const char *interface)
{
    size_t size = strlen(interface);
    return size > 0 && size < IFNAMSIZ && !strchr(interface, '/') && strcmp(interface, ".") != 0 &&
           strcmp(interface, "..") != 0;
}

int address_interface_index(const char *interface, struct error *err)
{
    unsigned index = name_is_plain(interface) ? if_nametoindex(interface) : 0;
    if (index == 0)
        return error_set(err, -ENODEV, "this machine has no network interface \"%s\"", interface);
    return (int)index;
}

// libnl's errors are its own; these are the ones that a caller tells apart.
static int errno_of(int nl_error)
{
    switch (abs(nl_error)) {
    case NLE_NOADDR:
    case NLE_OBJ_NOTFOUND:
        return -EADDRNOTAVAIL;
    case NLE_EXIST:
        return -EEXIST;
    case NLE_PERM:
    case NLE_NOACCESS:
        return -EPERM;
    case NLE_NODEV:
        return -ENODEV;
    case NLE_NOMEM:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

static void cleanup_socket(struct nl_sock **sock)
{
    nl_socket_free(*sock);
}

static void cleanup_rtnl_addr(struct rtnl_addr **addr)
{
    if (*addr)
        rtnl_addr_put(*addr);
}

static void cleanup_cache(struct nl_cache **cache)
{
    if (*cache)
        nl_cache_free(*cache);
}

static int open_socket(struct nl_sock **ret_sock, struct error *err)
{
    struct nl_sock *sock = nl_socket_alloc();
    if (!sock)
        return error_sys(err, -ENOMEM, "netlink socket");
    int r = nl_connect(sock, NETLINK_ROUTE);
    if (r < 0) {
        nl_socket_free(sock);
        return error_set(err, errno_of(r), "cannot open a netlink socket: %s", nl_geterror(r));
    }
    *ret_sock = sock;
    return 0;
}

static int family_of(const struct ip *ip)
{
    return ip->family == IP_V4 ? AF_INET : AF_INET6;
}

// libnl's form of `ip` on interface `index`.
static struct rtnl_addr *make_addr(int index, const struct ip *ip)
{
    struct rtnl_addr *addr = rtnl_addr_alloc();
    struct nl_addr *local = nl_addr_build(family_of(ip), ip->bytes, ip_size(ip));
    if (!addr || !local) {
        if (addr)
            rtnl_addr_put(addr);
        nl_addr_put(local);
        return NULL;
    }
    nl_addr_set_prefixlen(local, ip->prefix);
    rtnl_addr_set_ifindex(addr, index);
    rtnl_addr_set_local(addr, local);
    if (ip->family == IP_V6)
        rtnl_addr_set_flags(addr, IFA_F_NODAD);
    nl_addr_put(local);
    return addr;
}

static bool take_ip(struct rtnl_addr *addr, struct ip *ret_ip)
{
    struct nl_addr *local = rtnl_addr_get_local(addr);
    if (!local)
        return false;
    struct ip ip = {.prefix = (uint8_t)rtnl_addr_get_prefixlen(addr)};
    int family = nl_addr_get_family(local);
    if (family != AF_INET && family != AF_INET6)
        return false;
    ip.family = family == AF_INET ? IP_V4 : IP_V6;
    if (nl_addr_get_len(local) != ip_size(&ip))
        return false;
    memcpy(ip.bytes, nl_addr_get_binary_addr(local), ip_size(&ip));
    *ret_ip = ip;
    return true;
}

// `created` may be NULL.
static int list_by_index(struct nl_sock *sock, int index, struct ip *ips, uint32_t *created, size_t limit,
                         size_t *ret_count, struct error *err)
{
    CLEANUP(cleanup_cache) struct nl_cache *cache = NULL;
    int r = rtnl_addr_alloc_cache(sock, &cache);
    if (r < 0)
        return error_set(err, errno_of(r), "cannot list the addresses: %s", nl_geterror(r));
    size_t count = 0;
    for (struct nl_object *o = nl_cache_get_first(cache); o; o = nl_cache_get_next(o)) {
        struct rtnl_addr *addr = (struct rtnl_addr *)o;
        if (count == limit || rtnl_addr_get_ifindex(addr) != index || !take_ip(addr, &ips[count]))
            continue;
        if (created)
            created[count] = rtnl_addr_get_create_time(addr);
        count++;
    }
    *ret_count = count;
    return 0;
}

int address_list_created(const char *interface, struct ip *ips, uint32_t *created, size_t limit, size_t *ret_count,
                         struct error *err)
{
    CLEANUP(cleanup_socket) struct nl_sock *sock = NULL;
    int index = address_interface_index(interface, err);
    if (index < 0)
        return index;
    int r = open_socket(&sock, err);
    return r < 0 ? r : list_by_index(sock, index, ips, created, limit, ret_count, err);
}

int address_list(const char *interface, struct ip *ips, size_t limit, size_t *ret_count, struct error *err)
{
    return address_list_created(interface, ips, NULL, limit, ret_count, err);
}

int address_present(const char *interface, const struct ip *ip, bool *ret_present,
                    struct error *err)
{
    CLEANUP_FREE struct ip *ips = calloc(ADDRESS_LIST_MAX, sizeof(*ips));
    size_t count = 0;
    if (!ips)
        return error_sys(err, -ENOMEM, "list of addresses");
    int r = address_list(interface, ips, ADDRESS_LIST_MAX, &count, err);
    if (r < 0)
        return r;
    bool present = false;
    for (size_t i = 0; i < count; i++)
        present = present || ip_equal(&ips[i], ip);
    *ret_present = present;
    return 0;
}

// Without this the kernel takes an address's secondaries away together with it: our removal would
// cut the host's own address off, if that was added after ours. A kernel that refuses (read-only
// /proc/sys in a container) is only a problem for such a setup, so it is no error.
static void keep_secondaries(const char *interface)
{
    char path[128];
    snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%s/promote_secondaries", interface);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "1\n", 2) < 0)
        return;
}

int address_add(const char *interface, const struct ip *ip, struct error *err)
{
    char text[IP_TEXT_SIZE];
    CLEANUP(cleanup_socket) struct nl_sock *sock = NULL;
    CLEANUP(cleanup_rtnl_addr) struct rtnl_addr *addr = NULL;
    int index = address_interface_index(interface, err);
    if (index < 0)
        return index;
    keep_secondaries(interface);
    int r = open_socket(&sock, err);
    if (r < 0)
        return r;
    addr = make_addr(index, ip);
    if (!addr)
        return error_sys(err, -ENOMEM, "address %s", ip_format(ip, text));
    r = rtnl_addr_add(sock, addr, NLM_F_CREATE | NLM_F_EXCL);
    if (r < 0 && errno_of(r) != -EEXIST)
        return error_set(err, errno_of(r), "cannot add %s to %s: %s", ip_format(ip, text),
                         interface, nl_geterror(r));
    return 0;
}

static int remove_by_index(struct nl_sock *sock, int index, const struct ip *ip, struct error *err)
{
    char text[IP_TEXT_SIZE];
    CLEANUP(cleanup_rtnl_addr) struct rtnl_addr *addr = make_addr(index, ip);
    if (!addr)
        return error_sys(err, -ENOMEM, "address %s", ip_format(ip, text));
    int r = rtnl_addr_delete(sock, addr, 0);
    if (r < 0 && errno_of(r) != -EADDRNOTAVAIL)
        return error_set(err, errno_of(r), "cannot remove %s: %s", ip_format(ip, text),
                         nl_geterror(r));
    return 0;
}

// Removes what the list has of `ip`; *ret_found is set when it was there.
static int remove_listed(struct nl_sock *sock, int index, const struct ip *list, size_t count,
                         const struct ip *ip, bool *ret_found, struct error *err)
{
    int first = 0;
    for (size_t i = 0; i < count; i++) {
        if (!ip_equal(&list[i], ip))
            continue;
        *ret_found = true;
        int r = remove_by_index(sock, index, &list[i], first == 0 ? err : NULL);
        first = first < 0 ? first : r;
    }
    return first;
}

int address_remove_all(const char *interface, const struct ip *ips, size_t count,
                       size_t *ret_removed, struct error *err)
{
    CLEANUP(cleanup_socket) struct nl_sock *sock = NULL;
    CLEANUP_FREE struct ip *list = calloc(ADDRESS_LIST_MAX, sizeof(*list));
    size_t listed = 0, removed = 0;
    if (!list)
        return error_sys(err, -ENOMEM, "list of addresses");
    int index = address_interface_index(interface, err);
    if (index < 0)
        return index;
    keep_secondaries(interface);
    int r = open_socket(&sock, err);
    if (r == 0)
        r = list_by_index(sock, index, list, NULL, ADDRESS_LIST_MAX, &listed, err);
    if (r < 0)
        return r;
    int first = 0;
    for (size_t i = 0; i < count; i++) {
        bool found = false;
        r = remove_listed(sock, index, list, listed, &ips[i], &found, first == 0 ? err : NULL);
        first = first < 0 ? first : r;
        removed += found;
    }
    if (first == 0 && ret_removed)
        *ret_removed = removed;
    if (first < 0)
        (void)error_prefix(err, "%s", interface);
    return first;
}

int address_remove(const char *interface, const struct ip *ip, struct error *err)
{
    return address_remove_all(interface, ip, 1, NULL, err);
}

int address_remove_exact(const char *interface, const struct ip *ip, struct error *err)
{
    CLEANUP(cleanup_socket) struct nl_sock *sock = NULL;
    int index = address_interface_index(interface, err);
    if (index < 0)
        return index;
    keep_secondaries(interface);
    int r = open_socket(&sock, err);
    return r < 0 ? r : remove_by_index(sock, index, ip, err);
}
