// SPDX-License-Identifier: Apache-2.0
// The only user of libxml2. The file is parsed into a tree, the tree is edited, and written out
// again: what is put in is escaped by the library, a placeholder in a comment is no placeholder,
// and a domain cannot hide its name from us. Document types are refused, so that there are no
// entities but XML's own five; nothing is fetched from anywhere.
#include "common/apps/domain_xml.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libxml/parser.h>
#include <libxml/tree.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"

#define MARK       "${"
#define VOLUME     "${volume:"
#define VOLUME_LEN (sizeof(VOLUME) - 1)

struct edit {
    const char *path;
    const struct apps_volume *volumes;
    size_t volume_count;
    struct error *err;
};

static int refuse_placeholder(const struct edit *e, long line, const char *at)
{
    const char *end = strchr(at, '}');
    int shown = end && end - at < 80 ? (int)(end - at) + 1 : (int)strnlen(at, 40);

    return error_set(
        e->err, -EINVAL,
        "%s, line %ld: '%.*s' is no volume of this pair; the only placeholder is %sNAME}", e->path,
        line, shown, at, VOLUME);
}

// The volume named by the placeholder at `at`, whose length goes to *ret_length; NULL when there is
// none such.
static const struct apps_volume *find_volume(const struct edit *e, const char *at,
                                             size_t *ret_length)
{
    if (strncmp(at, VOLUME, VOLUME_LEN) != 0)
        return NULL;
    const char *name = at + VOLUME_LEN;
    size_t length = strcspn(name, "}");

    if (name[length] != '}')
        return NULL;
    for (size_t i = 0; i < e->volume_count; i++) {
        const struct apps_volume *v = &e->volumes[i];
        if (strlen(v->name) == length && memcmp(v->name, name, length) == 0) {
            *ret_length = VOLUME_LEN + length + 1;
            return v;
        }
    }
    return NULL;
}

static int expand(const struct edit *e, long line, const char *in, char **ret_out)
{
    CLEANUP_FREE char *out = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&out, &size);
    int r = 0;

    ENSURE(f);
    while (*in) {
        size_t plain = 0, length = 0;
        const char *mark = strstr(in, MARK);

        plain = mark ? (size_t)(mark - in) : strlen(in);
        (void)fwrite(in, 1, plain, f);
        in += plain;
        if (!mark)
            break;
        const struct apps_volume *v = find_volume(e, mark, &length);
        if (!v) {
            r = refuse_placeholder(e, line, mark);
            break;
        }
        (void)fputs(v->socket, f);
        in += length;
    }
    ENSURE(fclose(f) == 0);
    if (r == 0)
        *ret_out = TAKE_PTR(out);
    return r;
}

static int expand_node(const struct edit *e, long line, xmlNode *text)
{
    const char *in = (const char *)text->content;
    CLEANUP_FREE char *out = NULL;

    if (!in || !strstr(in, MARK))
        return 0;
    int r = expand(e, line, in, &out);
    if (r < 0)
        return r;
    xmlNodeSetContent(text, BAD_CAST out); // of a text node: taken as it is, escaped when written
    return 0;
}

static int expand_attributes(const struct edit *e, xmlNode *node)
{
    for (xmlAttr *a = node->properties; a; a = a->next)
        for (xmlNode *text = a->children; text; text = text->next) {
            int r = expand_node(e, xmlGetLineNo(node), text);
            if (r < 0)
                return r;
        }
    return 0;
}

static bool is_element(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && !node->ns &&
           strcmp((const char *)node->name, name) == 0;
}

static bool is_prose(const xmlNode *node)
{
    return is_element(node, "metadata") || is_element(node, "title") ||
           is_element(node, "description");
}

// The node after `node` in document order below `root`; without what is inside `node` when `skip`.
static xmlNode *next_node(const xmlNode *root, xmlNode *node, bool skip)
{
    if (!skip && node->children)
        return node->children;
    while (node != root && !node->next)
        node = node->parent;
    return node == root ? NULL : node->next;
}

static int expand_tree(const struct edit *e, xmlNode *root)
{
    bool skip = false;

    for (xmlNode *n = root; n; n = next_node(root, n, skip)) {
        int r = 0;
        skip = is_prose(n);
        if (skip)
            continue;
        if (n->type == XML_ELEMENT_NODE)
            r = expand_attributes(e, n);
        else if (n->type == XML_TEXT_NODE || n->type == XML_CDATA_SECTION_NODE)
            r = expand_node(e, xmlGetLineNo(n), n);
        if (r < 0)
            return r;
    }
    return 0;
}

static xmlNode *find_child(xmlNode *root, const char *name)
{
    for (xmlNode *n = root->children; n; n = n->next)
        if (is_element(n, name))
            return n;
    return NULL;
}

static void force_child(xmlNode *root, const char *name, const char *value)
{
    for (xmlNode *old; (old = find_child(root, name));) {
        xmlUnlinkNode(old);
        xmlFreeNode(old);
    }
    ENSURE(xmlNewTextChild(root, NULL, BAD_CAST name, BAD_CAST value));
}

static int take_name(const struct edit *e, xmlNode *root, char *ret_name)
{
    xmlNode *node = find_child(root, "name");
    if (!node)
        return error_set(e->err, -EINVAL, "%s: the domain has no <name>", e->path);

    xmlChar *content = xmlNodeGetContent(node);
    const char *name = content ? (const char *)content : "";
    bool good = name[0] && strlen(name) < DOMAIN_NAME_SIZE && !strchr(name, '/');
    for (const char *p = name; *p; p++)
        good = good && !iscntrl((unsigned char)*p);
    if (good)
        strcpy(ret_name, name);
    xmlFree(content);
    if (!good)
        return error_set(
            e->err, -EINVAL,
            "%s, line %ld: <name> must have 1 to %d characters, no '/' and no control characters",
            e->path, xmlGetLineNo(node), DOMAIN_NAME_SIZE - 1);
    return 0;
}

// 32 hexadecimal digits, with hyphens and blanks wherever they may be, as libvirt reads them.
static bool parse_uuid(const char *text, char *ret_uuid)
{
    char digits[33];
    size_t n = 0;

    for (; *text; text++) {
        if (*text == '-' || isspace((unsigned char)*text))
            continue;
        if (!isxdigit((unsigned char)*text) || n == 32)
            return false;
        digits[n++] = (char)tolower((unsigned char)*text);
    }
    digits[n] = 0;
    if (n != 32)
        return false;
    snprintf(ret_uuid, DOMAIN_UUID_SIZE, "%.8s-%.4s-%.4s-%.4s-%.12s", digits, digits + 8,
             digits + 12, digits + 16, digits + 20);
    return true;
}

static void derive_uuid(const char *seed, char *ret_uuid)
{
    char text[512];
    uint64_t half[2];

    for (int i = 0; i < 2; i++) {
        int n = snprintf(text, sizeof(text), "domain %d of %s", i, seed);
        half[i] = checksum64(text, MIN((size_t)n, sizeof(text) - 1));
    }
    half[0] = (half[0] & ~UINT64_C(0xf000)) | 0x8000; // version 8: of our own making
    half[1] = (half[1] & ~(UINT64_C(3) << 62)) | (UINT64_C(2) << 62);
    snprintf(ret_uuid, DOMAIN_UUID_SIZE, "%08x-%04x-%04x-%04x-%012llx", (unsigned)(half[0] >> 32),
             (unsigned)(half[0] >> 16) & 0xffff, (unsigned)half[0] & 0xffff,
             (unsigned)(half[1] >> 48), (unsigned long long)half[1] & 0xffffffffffffULL);
}

static int take_uuid(const struct edit *e, xmlNode *root, const char *seed, char *ret_uuid)
{
    xmlNode *node = find_child(root, "uuid");
    if (!node) {
        derive_uuid(seed, ret_uuid);
        return 0;
    }
    xmlChar *content = xmlNodeGetContent(node);
    bool good = content && parse_uuid((const char *)content, ret_uuid);
    xmlFree(content);
    if (!good)
        return error_set(e->err, -EINVAL, "%s, line %ld: <uuid> is no UUID", e->path,
                         xmlGetLineNo(node));
    return 0;
}

static int edit_tree(const struct edit *e, xmlDoc *doc, const char *seed, struct domain_xml *xml)
{
    xmlNode *root = xmlDocGetRootElement(doc);
    int r;

    if (doc->intSubset || doc->extSubset)
        return error_set(e->err, -EINVAL, "%s: a document type is not allowed; remove <!DOCTYPE>",
                         e->path);
    if (!root || !is_element(root, "domain"))
        return error_set(e->err, -EINVAL, "%s: the root element must be <domain>", e->path);
    if ((r = take_name(e, root, xml->name)) < 0 || (r = take_uuid(e, root, seed, xml->uuid)) < 0 ||
        (r = expand_tree(e, root)) < 0)
        return r;
    force_child(root, "uuid", xml->uuid);
    force_child(root, "on_poweroff", "destroy");
    force_child(root, "on_crash", "destroy");
    return 0;
}

// ---- the reconnect delay, told to QEMU itself ----

#define QEMU_NS       "http://libvirt.org/schemas/domain/qemu/1.0"
#define OWN_PREFIX    "understudy-" // of node names
#define USER_ALIAS    "ua-"         // libvirt demands it of aliases that it has not given itself
#define NODE_NAME_MAX 31

struct bridge {
    xmlChar *target, *socket, *export, *delay, *cache, *discard;
    bool readonly;
};

static void bridge_clear(struct bridge *b)
{
    xmlFree(b->target);
    xmlFree(b->socket);
    xmlFree(b->export);
    xmlFree(b->delay);
    xmlFree(b->cache);
    xmlFree(b->discard);
}

static xmlChar *attribute(xmlNode *node, const char *name)
{
    return node ? xmlGetNoNsProp(node, BAD_CAST name) : NULL;
}

static bool attribute_is(xmlNode *node, const char *name, const char *value)
{
    xmlChar *found = attribute(node, name);
    bool is = found && strcmp((const char *)found, value) == 0;
    xmlFree(found);
    return is;
}

static bool all_of(const xmlChar *text, const char *allowed, size_t limit)
{
    size_t size = text ? strlen((const char *)text) : 0;
    return size > 0 && size <= limit && strspn((const char *)text, allowed) == size;
}

// Whether this element is a disk that asks for the delay in a way that can be told to QEMU.
static bool bridge_of(xmlNode *disk, struct bridge *ret)
{
    xmlNode *source = find_child(disk, "source"), *driver = find_child(disk, "driver");
    if (!is_element(disk, "disk") || !source || !attribute_is(source, "protocol", "nbd"))
        return false;
    xmlNode *host = find_child(source, "host");
    xmlChar *format = attribute(driver, "type");
    bool raw = !format || strcmp((const char *)format, "raw") == 0;
    xmlFree(format);
    if (!raw || !host || !attribute_is(host, "transport", "unix"))
        return false;
    *ret = (struct bridge){.target = attribute(find_child(disk, "target"), "dev"),
                           .socket = attribute(host, "socket"),
                           .export = attribute(source, "name"),
                           .delay = attribute(find_child(source, "reconnect"), "delay"),
                           .cache = attribute(driver, "cache"),
                           .discard = attribute(driver, "discard"),
                           .readonly = find_child(disk, "readonly") != NULL};
    if (ret->socket && all_of(ret->delay, "0123456789", 9) &&
        all_of(ret->target, "abcdefghijklmnopqrstuvwxyz0123456789",
               NODE_NAME_MAX - strlen(OWN_PREFIX)))
        return true;
    bridge_clear(ret);
    return false;
}

static void write_json(FILE *f, const char *text)
{
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20)
            (void)fprintf(f, "\\u%04x", (unsigned)*p);
        else
            (void)fprintf(f, strchr("\"\\", *p) ? "\\%c" : "%c", *p);
    }
}

static char *node_json(const struct bridge *b)
{
    const char *cache = b->cache ? (const char *)b->cache : "";
    bool direct = strcmp(cache, "none") == 0 || strcmp(cache, "directsync") == 0;
    bool unmap = b->discard && strcmp((const char *)b->discard, "unmap") == 0;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    ENSURE(f);
    (void)fprintf(f, "{\"driver\":\"nbd\",\"node-name\":\"" OWN_PREFIX "%s\",",
                  (const char *)b->target);
    (void)fputs("\"server\":{\"type\":\"unix\",\"path\":\"", f);
    write_json(f, (const char *)b->socket);
    (void)fputs("\"},\"export\":\"", f);
    write_json(f, b->export ? (const char *)b->export : "");
    (void)fprintf(f, "\",\"reconnect-delay\":%s,\"read-only\":%s,", (const char *)b->delay,
                  b->readonly ? "true" : "false");
    (void)fprintf(f, "\"cache\":{\"direct\":%s,\"no-flush\":%s},\"discard\":\"%s\"}",
                  direct ? "true" : "false", strcmp(cache, "unsafe") == 0 ? "true" : "false",
                  unmap ? "unmap" : "ignore");
    ENSURE(fclose(f) == 0);
    return text;
}

// The child of that name in QEMU's namespace, made if there is none.
static xmlNode *qemu_child(xmlNode *parent, xmlNs *ns, const char *name)
{
    for (xmlNode *n = parent->children; n; n = n->next)
        if (n->type == XML_ELEMENT_NODE && n->ns &&
            strcmp((const char *)n->ns->href, QEMU_NS) == 0 &&
            strcmp((const char *)n->name, name) == 0)
            return n;
    xmlNode *made = xmlNewChild(parent, ns, BAD_CAST name, NULL);
    ENSURE(made);
    return made;
}

static xmlNode *qemu_new(xmlNode *parent, xmlNs *ns, const char *name, const char *attribute_name,
                         const char *value)
{
    xmlNode *made = xmlNewChild(parent, ns, BAD_CAST name, NULL);
    ENSURE(made && (!attribute_name || xmlNewProp(made, BAD_CAST attribute_name, BAD_CAST value)));
    return made;
}

// The alias under which qemu:override finds the disk's device.
static void take_alias(xmlNode *disk, const struct bridge *b, char *ret_alias, size_t size)
{
    xmlNode *node = find_child(disk, "alias");
    xmlChar *name = attribute(node, "name");
    if (name && strncmp((const char *)name, USER_ALIAS, strlen(USER_ALIAS)) == 0 &&
        strlen((const char *)name) < size) {
        strcpy(ret_alias, (const char *)name);
    } else {
        (void)snprintf(ret_alias, size, USER_ALIAS OWN_PREFIX "%s", (const char *)b->target);
        if (!node)
            node = qemu_new(disk, NULL, "alias", NULL, NULL);
        ENSURE(xmlSetProp(node, BAD_CAST "name", BAD_CAST ret_alias));
    }
    xmlFree(name);
}

static void bridge_disk(xmlNode *root, xmlNs *ns, xmlNode *disk, const struct bridge *b)
{
    char alias[128], node_name[NODE_NAME_MAX + 1];
    CLEANUP_FREE char *json = node_json(b);
    xmlNode *arguments = qemu_child(root, ns, "commandline");
    xmlNode *override = qemu_child(root, ns, "override");

    take_alias(disk, b, alias, sizeof(alias));
    (void)snprintf(node_name, sizeof(node_name), OWN_PREFIX "%s", (const char *)b->target);
    qemu_new(arguments, ns, "arg", "value", "-blockdev");
    qemu_new(arguments, ns, "arg", "value", json);
    xmlNode *device = qemu_new(override, ns, "device", "alias", alias);
    xmlNode *property =
        qemu_new(qemu_new(device, ns, "frontend", NULL, NULL), ns, "property", "name", "drive");
    ENSURE(xmlNewProp(property, BAD_CAST "type", BAD_CAST "string"));
    ENSURE(xmlNewProp(property, BAD_CAST "value", BAD_CAST node_name));
}

// False: nothing to do, or no way to do it.
static bool bridge_tree(xmlDoc *doc)
{
    xmlNode *root = xmlDocGetRootElement(doc), *devices = find_child(root, "devices");
    struct bridge b;
    bool any = false;

    if (!devices || (!attribute_is(root, "type", "kvm") && !attribute_is(root, "type", "qemu")))
        return false;
    for (xmlNode *n = devices->children; n; n = n->next) {
        if (!bridge_of(n, &b))
            continue;
        xmlNs *ns = xmlSearchNsByHref(doc, root, BAD_CAST QEMU_NS);
        if (!ns)
            ns = xmlNewNs(root, BAD_CAST QEMU_NS, BAD_CAST "qemu");
        if (ns)
            bridge_disk(root, ns, n, &b);
        any = any || ns;
        bridge_clear(&b);
    }
    return any;
}

static int dump(xmlDoc *doc, char **ret_text)
{
    xmlChar *text = NULL;
    int size = 0;

    xmlDocDumpMemory(doc, &text, &size);
    ENSURE(text);
    *ret_text = strndup((const char *)text, (size_t)size);
    ENSURE(*ret_text);
    xmlFree(text);
    return 0;
}

static int parse_error(const char *path, xmlParserCtxt *ctxt, struct error *err)
{
    const xmlError *e = xmlCtxtGetLastError(ctxt);
    const char *message = e && e->message ? e->message : "not XML";

    return error_set(err, -EINVAL, "%s, line %d: %.*s", path, e ? e->line : 1,
                     (int)strcspn(message, "\n"), message);
}

int domain_xml_prepare(const char *path, const struct apps_volume *volumes, size_t volume_count,
                       const char *seed, struct domain_xml *ret_xml, struct error *err)
{
    struct edit e = {path, volumes, volume_count, err};
    struct domain_xml xml = {.text = NULL};
    CLEANUP_FREE char *data = NULL;
    size_t size = 0;

    int r = file_read(path, DOMAIN_XML_MAX, &data, &size, err);
    if (r < 0)
        return r;
    xmlParserCtxt *ctxt = xmlNewParserCtxt();
    ENSURE(ctxt);
    xmlDoc *doc = xmlCtxtReadMemory(ctxt, data, (int)size, NULL, NULL,
                                    XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    r = doc ? edit_tree(&e, doc, seed, &xml) : parse_error(path, ctxt, err);
    if (r == 0)
        r = dump(doc, &xml.text);
    if (r == 0 && bridge_tree(doc))
        r = dump(doc, &xml.bridged);
    xmlFreeDoc(doc);
    xmlFreeParserCtxt(ctxt);
    if (r == 0)
        *ret_xml = xml;
    return r;
}

void domain_xml_clear(struct domain_xml *xml)
{
    free(xml->text);
    free(xml->bridged);
    *xml = (struct domain_xml){.text = NULL};
}
