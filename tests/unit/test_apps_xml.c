// SPDX-License-Identifier: Apache-2.0
// common/apps: a domain's XML gets its sockets, its UUID and its forced actions, and bad files are
// refused with the line.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/apps/domain_xml.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"

static char path[] = "/tmp/test_apps_xml_XXXXXX";

static const struct apps_volume volumes[] = {
    {"disk", "/run/understudy/lab/primary/disk.nbd"},
    {"odd", "/run/a<b>&\"c'/odd.nbd"},
};

static int prepare(const char *text, struct domain_xml *xml, struct error *err)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    return domain_xml_prepare(path, volumes, 2, "lab/vm", xml, err);
}

static void good(const char *text, struct domain_xml *xml)
{
    struct error err = {0};
    if (prepare(text, xml, &err) < 0)
        fail_msg("%s", err.text);
}

static void refused(const char *text, const char *reason)
{
    struct domain_xml xml = {.text = NULL};
    struct error err = {0};

    assert_int_equal(prepare(text, &xml, &err), -EINVAL);
    assert_null(xml.text);
    assert_memory_equal(err.text, path, strlen(path));
    assert_string_equal(err.text + strlen(path), reason);
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("'%s' is not in:\n%s", part, text);
}

static int count(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)); text++)
        n++;
    return n;
}

static void sockets_are_filled_in(void **state)
{
    struct domain_xml xml;

    good("<domain><name>vm</name><!-- ${volume:none} --><devices><disk>"
         "<host socket='${volume:disk}'/><x>a${volume:odd}b${volume:disk}</x>"
         "<y z='${volume:odd}'/><k><![CDATA[${volume:disk}]]></k></disk></devices>"
         "<metadata><m a='${home}'>${b}</m></metadata><description>costs "
         "${5}</description></domain>",
         &xml);
    assert_has(xml.text, "<host socket=\"/run/understudy/lab/primary/disk.nbd\"/>");
    assert_has(xml.text,
               "<x>a/run/a&lt;b&gt;&amp;\"c'/odd.nbdb/run/understudy/lab/primary/disk.nbd</x>");
    assert_has(xml.text, "<y z=\"/run/a&lt;b&gt;&amp;&quot;c'/odd.nbd\"/>");
    assert_has(xml.text, "<![CDATA[/run/understudy/lab/primary/disk.nbd]]>");
    assert_has(xml.text, "<m a=\"${home}\">${b}</m>");
    assert_has(xml.text, "${volume:none}"); // a comment
    assert_string_equal(xml.name, "vm");
    domain_xml_clear(&xml);
}

static void actions_are_forced(void **state)
{
    struct domain_xml xml;

    good("<domain><name>vm</name><on_poweroff>restart</on_poweroff><on_crash>preserve</on_crash>"
         "<on_crash>restart</on_crash><on_reboot>restart</on_reboot><features><on_crash>kept</"
         "on_crash></features></domain>",
         &xml);
    assert_has(xml.text, "<on_poweroff>destroy</on_poweroff>");
    assert_has(xml.text, "<on_crash>destroy</on_crash>");
    assert_has(xml.text, "<on_reboot>restart</on_reboot>");
    assert_has(xml.text, "<on_crash>kept</on_crash>");
    assert_int_equal(count(xml.text, "<on_crash>"), 2);
    assert_int_equal(count(xml.text, "<on_poweroff>"), 1);
    domain_xml_clear(&xml);
}

#define NBD_DISK(driver, source, reconnect)                                                        \
    "<disk type='network'><driver name='qemu' " driver "/><source protocol='nbd' " source          \
    "><host transport='unix' socket='${volume:disk}'/>" reconnect "</source>"                      \
    "<target dev='vda' bus='virtio'/></disk>"
#define DELAY "<reconnect delay='10'/>"

static void a_reconnect_delay_is_told_to_qemu(void **state)
{
    struct domain_xml xml;

    good("<domain type='kvm'><name>vm</name><devices>" NBD_DISK(
             "type='raw' cache='none' discard='unmap'", "name='disk'", DELAY) "</devices></domain>",
         &xml);
    assert_null(strstr(xml.text, "qemu:"));
    assert_non_null(xml.bridged);
    assert_has(xml.bridged, "xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\"");
    assert_has(xml.bridged, "<alias name=\"ua-understudy-vda\"/></disk>");
    assert_has(
        xml.bridged,
        "<qemu:commandline><qemu:arg value=\"-blockdev\"/><qemu:arg "
        "value=\"{&quot;driver&quot;:&quot;nbd&quot;,&quot;node-name&quot;:&quot;understudy-"
        "vda&quot;,&quot;server&quot;:{&quot;type&quot;:&quot;unix&quot;,&quot;path&quot;:&"
        "quot;/run/understudy/lab/primary/disk.nbd&quot;},&quot;export&quot;:&quot;disk&quot;"
        ",&quot;reconnect-delay&quot;:10,&quot;read-only&quot;:false,&quot;cache&quot;:{&quot;"
        "direct&quot;:true,&quot;no-flush&quot;:false},&quot;discard&quot;:&quot;unmap&quot;}\"/"
        "></qemu:commandline>");
    assert_has(xml.bridged,
               "<qemu:override><qemu:device alias=\"ua-understudy-vda\"><qemu:frontend>"
               "<qemu:property name=\"drive\" type=\"string\" value=\"understudy-vda\"/>"
               "</qemu:frontend></qemu:device></qemu:override>");
    domain_xml_clear(&xml);
}

// What is there already is kept: the author's arguments, alias and prefix; and strings are escaped.
static void a_reconnect_delay_joins_what_is_there(void **state)
{
    struct domain_xml xml;

    good("<domain type='qemu' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><name>vm</name>"
         "<devices><disk type='network'><source protocol='nbd' name='a&quot;b\\c'><host "
         "transport='unix' socket='${volume:odd}'/><reconnect delay='5'/></source><alias "
         "name='ua-mine'/><readonly/><target dev='vdb'/></disk></devices><q:commandline><q:arg "
         "value='-x'/></q:commandline></domain>",
         &xml);
    assert_non_null(xml.bridged);
    assert_int_equal(count(xml.bridged, "<q:commandline>"), 1);
    assert_has(xml.bridged, "<q:arg value=\"-x\"/><q:arg value=\"-blockdev\"/>");
    assert_has(xml.bridged, "&quot;path&quot;:&quot;/run/a&lt;b&gt;&amp;\\&quot;c'/odd.nbd&quot;");
    assert_has(xml.bridged, "&quot;export&quot;:&quot;a\\&quot;b\\\\c&quot;");
    assert_has(xml.bridged, "&quot;read-only&quot;:true");
    assert_has(xml.bridged, "<q:device alias=\"ua-mine\">");
    domain_xml_clear(&xml);
}

static void no_reconnect_delay_no_bridge(void **state)
{
    static const char *const plain[] = {
        "<domain type='kvm'><name>vm</name></domain>",
        "<domain type='kvm'><name>vm</name><devices>" NBD_DISK("type='raw'", "name='disk'",
                                                               "") "</devices></domain>",
        "<domain type='kvm'><name>vm</name><devices>" NBD_DISK("type='qcow2'", "name='disk'",
                                                               DELAY) "</devices></domain>",
        "<domain type='kvm'><name>vm</name><devices>" NBD_DISK(
            "type='raw'", "name='disk'", "<reconnect delay='10,x'/>") "</devices></domain>",
        "<domain type='xen'><name>vm</name><devices>" NBD_DISK("type='raw'", "name='disk'",
                                                               DELAY) "</devices></domain>",
        "<domain type='kvm' xmlns:qemu='urn:other'><name>vm</name><devices>" NBD_DISK(
            "type='raw'", "name='disk'", DELAY) "</devices></domain>",
    };
    for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++) {
        struct domain_xml xml;
        good(plain[i], &xml);
        assert_null(xml.bridged);
        domain_xml_clear(&xml);
    }
}

static void uuid_is_kept_or_derived(void **state)
{
    struct domain_xml one, two;

    good("<domain><name>vm</name><uuid> 11223344-5566-7788-99AA-bbccddeeff00\n</uuid></domain>",
         &one);
    assert_string_equal(one.uuid, "11223344-5566-7788-99aa-bbccddeeff00");
    assert_has(one.text, "<uuid>11223344-5566-7788-99aa-bbccddeeff00</uuid>");
    domain_xml_clear(&one);

    good("<domain><name>vm</name></domain>", &one);
    good("<domain><name>vm</name><title>changed</title></domain>", &two);
    assert_string_equal(one.uuid, two.uuid); // the same on both ends, and after an edit
    assert_int_equal(strlen(one.uuid), 36);
    assert_int_equal(one.uuid[14], '8');
    assert_has(one.text, one.uuid);
    domain_xml_clear(&two);
    domain_xml_clear(&one);
}

static void bad_placeholders_are_refused(void **state)
{
    refused("<domain>\n<name>vm</name>\n<disk\n a='x${volume:other}y'/></domain>",
            ", line 4: '${volume:other}' is no volume of this pair; the only placeholder is "
            "${volume:NAME}");
    refused("<domain><name>vm</name>\n<x>${volume:disk</x></domain>",
            ", line 2: '${volume:disk' is no volume of this pair; the only placeholder is "
            "${volume:NAME}");
    refused("<domain><name>vm</name><x>${Volume:disk}</x></domain>",
            ", line 1: '${Volume:disk}' is no volume of this pair; the only placeholder is "
            "${volume:NAME}");
    refused(
        "<domain><name>vm</name><x>${volume:}</x></domain>",
        ", line 1: '${volume:}' is no volume of this pair; the only placeholder is ${volume:NAME}");
}

static void bad_files_are_refused(void **state)
{
    refused("", ", line 1: Document is empty");
    refused("no xml", ", line 1: Start tag expected, '<' not found");
    refused("<domain>\n<name>vm</nam></domain>",
            ", line 2: Opening and ending tag mismatch: name line 2 and nam");
    refused("<network><name>vm</name></network>", ": the root element must be <domain>");
    refused("<domain xmlns='urn:x'><name>vm</name></domain>",
            ": the root element must be <domain>");
    refused("<domain/>", ": the domain has no <name>");
    refused("<domain><name></name></domain>",
            ", line 1: <name> must have 1 to 128 characters, no '/' and no control characters");
    refused("<domain><name>../../x</name></domain>",
            ", line 1: <name> must have 1 to 128 characters, no '/' and no control characters");
    refused("<domain><name>vm</name><uuid>1234</uuid></domain>", ", line 1: <uuid> is no UUID");
    refused("<!DOCTYPE domain [<!ENTITY e SYSTEM "
            "'file:///etc/passwd'>]><domain><name>vm</name><x>&e;</x></domain>",
            ": a document type is not allowed; remove <!DOCTYPE>");
}

static void missing_and_huge_files_are_refused(void **state)
{
    struct domain_xml xml = {.text = NULL};
    struct error err = {0};

    assert_int_equal(domain_xml_prepare("/does/not/exist.xml", NULL, 0, "", &xml, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/does/not/exist.xml"));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), DOMAIN_XML_MAX + 1), 0);
    fclose(f);
    assert_int_equal(domain_xml_prepare(path, NULL, 0, "", &xml, &err), -EFBIG);
}

static int make_path(void **state)
{
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sockets_are_filled_in),
        cmocka_unit_test(actions_are_forced),
        cmocka_unit_test(a_reconnect_delay_is_told_to_qemu),
        cmocka_unit_test(a_reconnect_delay_joins_what_is_there),
        cmocka_unit_test(no_reconnect_delay_no_bridge),
        cmocka_unit_test(uuid_is_kept_or_derived),
        cmocka_unit_test(bad_placeholders_are_refused),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(missing_and_huge_files_are_refused),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
