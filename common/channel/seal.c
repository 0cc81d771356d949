// SPDX-License-Identifier: Apache-2.0
// See seal.h. GnuTLS does a TLS 1.3 handshake (ECDHE with an external pre-shared key) between two
// byte buffers; the record layer of TLS is not used after it: a lost message would end a TLS
// session, while nanomsg may lose messages. Instead both ends export directional keys (RFC 5705
// interface, TLS 1.3 exporter) and seal each message by itself.
//
// Invariants: a key and nonce pair is used once (the nonce is the exported IV xor the counter); the
// keys are bound to the context that the caller gives, so a handshake that was redirected to
// another link yields other keys.
#include "common/channel/seal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "common/base/bytes.h"
#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/keyfile.h"
#include "common/channel/channel.h"

#define KEY_BYTES      32
#define IV_BYTES       12
#define IDENTITY_BYTES 16
#define EXPORT_LABEL   "EXPORTER-understudy-channel-1"
#define PLAIN_TEXT     "understudy: no key\n"
#define GIOV_MAX       (CHANNEL_IOV_MAX + 1)

// AES first where the processor has it; the initiator's order decides, and the exported keys follow
// the choice.
#define PRIORITY_HEAD "NONE:+VERS-TLS1.3:"
#define PRIORITY_TAIL                                                                              \
    ":+AEAD:+SHA256:+ECDHE-PSK:+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL:+COMP-NULL"

struct channel_key {
    uint8_t psk[KEY_BYTES];
    char identity[2 * IDENTITY_BYTES + 1]; // on the wire in clear: says nothing but "this key"
    uint8_t master[KEY_BYTES];             // of the subkeys
};

struct direction {
    gnutls_aead_cipher_hd_t cipher;
    uint8_t iv[IV_BYTES];
};

struct seal {
    const struct channel_key *key; // NULL: unsealed
    bool initiator;
    bool done;
    uint8_t context[64];
    size_t context_size;

    // The handshake; freed when it is done.
    gnutls_session_t session;
    gnutls_psk_client_credentials_t client;
    gnutls_psk_server_credentials_t server;
    const uint8_t *in; // what is left of the peer's message, during seal_step()
    size_t in_size;
    uint8_t *out; // where the answer goes, during seal_step()
    size_t out_size;

    struct direction closing, opening;
};

static bool cpu_has_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_cpu_supports("aes");
#elif defined(__aarch64__)
    return getauxval(AT_HWCAP) & HWCAP_AES;
#else
    return false;
#endif
}

// --- keys ---

static int expand(const uint8_t secret[KEY_BYTES], const char *label, uint8_t *to, size_t size)
{
    const gnutls_datum_t key = {(void *)secret, KEY_BYTES};
    const gnutls_datum_t info = {(void *)label, (unsigned)strlen(label)};
    return gnutls_hkdf_expand(GNUTLS_MAC_SHA256, &key, &info, to, size) < 0 ? -EIO : 0;
}

static int key_fill(struct channel_key *key, const struct keyfile *file)
{
    uint8_t secret[KEY_BYTES], identity[IDENTITY_BYTES];
    const gnutls_datum_t input = {(void *)file->bytes, (unsigned)file->size};
    const gnutls_datum_t salt = {(void *)"understudy", 10};
    int r = gnutls_hkdf_extract(GNUTLS_MAC_SHA256, &input, &salt, secret) < 0 ? -EIO : 0;
    if (r == 0)
        r = expand(secret, "tls psk", key->psk, sizeof(key->psk));
    if (r == 0)
        r = expand(secret, "subkeys", key->master, sizeof(key->master));
    if (r == 0)
        r = expand(secret, "identity", identity, sizeof(identity));
    for (size_t i = 0; r == 0 && i < sizeof(identity); i++)
        (void)snprintf(key->identity + 2 * i, 3, "%02x", identity[i]);
    explicit_bzero(secret, sizeof(secret));
    return r;
}

int channel_key_load(const char *path, struct channel_key **ret_key, struct error *err)
{
    struct keyfile file;
    int r = keyfile_load(path, &file, err);
    if (r < 0)
        return r;
    struct channel_key *key = calloc(1, sizeof(*key));
    r = key ? key_fill(key, &file) : -ENOMEM;
    keyfile_clear(&file);
    if (r < 0) {
        channel_key_free(key);
        return error_sys(err, r, "cannot derive the keys of %s", path);
    }
    *ret_key = key;
    return 0;
}

struct channel_key *channel_key_free(struct channel_key *key)
{
    if (key)
        explicit_bzero(key, sizeof(*key));
    free(key);
    return NULL;
}

int channel_key_derive(const struct channel_key *key, const char *label,
                       uint8_t ret_subkey[CHANNEL_SUBKEY_SIZE])
{
    return expand(key->master, label, ret_subkey, CHANNEL_SUBKEY_SIZE);
}

// --- the handshake ---

static ssize_t pull(gnutls_transport_ptr_t p, void *to, size_t size)
{
    struct seal *seal = p;
    if (seal->in_size == 0) {
        gnutls_transport_set_errno(seal->session, EAGAIN);
        return -1;
    }
    size = MIN(size, seal->in_size);
    memcpy(to, seal->in, size);
    seal->in += size;
    seal->in_size -= size;
    return (ssize_t)size;
}

static int pull_timeout(gnutls_transport_ptr_t p, unsigned ms)
{
    const struct seal *seal = p;
    return seal->in_size > 0;
}

static ssize_t push(gnutls_transport_ptr_t p, const void *from, size_t size)
{
    struct seal *seal = p;
    if (size > SEAL_HANDSHAKE_MAX - seal->out_size) {
        gnutls_transport_set_errno(seal->session, EMSGSIZE);
        return -1;
    }
    memcpy(seal->out + seal->out_size, from, size);
    seal->out_size += size;
    return (ssize_t)size;
}

// GnuTLS asks for the key of an identity. An unknown one is answered with an error, and the
// handshake fails.
static int server_key(gnutls_session_t session, const gnutls_datum_t *name, gnutls_datum_t *ret_key)
{
    const struct seal *seal = gnutls_session_get_ptr(session);
    const size_t length = strlen(seal->key->identity);
    if (name->size != length || memcmp(name->data, seal->key->identity, length) != 0)
        return -1;
    ret_key->data = gnutls_malloc(KEY_BYTES);
    if (!ret_key->data)
        return -1;
    memcpy(ret_key->data, seal->key->psk, KEY_BYTES);
    ret_key->size = KEY_BYTES;
    return 0;
}

static int credentials_set(struct seal *seal)
{
    const gnutls_datum_t name = {(void *)seal->key->identity,
                                 (unsigned)strlen(seal->key->identity)};
    const gnutls_datum_t psk = {(void *)seal->key->psk, KEY_BYTES};
    int r;
    if (seal->initiator) {
        r = gnutls_psk_allocate_client_credentials(&seal->client);
        if (r >= 0)
            r = gnutls_psk_set_client_credentials2(seal->client, &name, &psk, GNUTLS_PSK_KEY_RAW);
        return r < 0 ? r : gnutls_credentials_set(seal->session, GNUTLS_CRD_PSK, seal->client);
    }
    r = gnutls_psk_allocate_server_credentials(&seal->server);
    if (r < 0)
        return r;
    gnutls_psk_set_server_credentials_function2(seal->server, server_key);
    return gnutls_credentials_set(seal->session, GNUTLS_CRD_PSK, seal->server);
}

static int session_start(struct seal *seal)
{
    const char *priority = cpu_has_aes()
                               ? PRIORITY_HEAD "+AES-128-GCM:+CHACHA20-POLY1305" PRIORITY_TAIL
                               : PRIORITY_HEAD "+CHACHA20-POLY1305:+AES-128-GCM" PRIORITY_TAIL;
    unsigned side = seal->initiator ? GNUTLS_CLIENT : GNUTLS_SERVER;
    int r =
        gnutls_init(&seal->session, side | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS);
    if (r < 0)
        return r;
    r = gnutls_priority_set_direct(seal->session, priority, NULL);
    if (r >= 0)
        r = credentials_set(seal);
    gnutls_session_set_ptr(seal->session, seal);
    gnutls_transport_set_ptr(seal->session, seal);
    gnutls_transport_set_pull_function(seal->session, pull);
    gnutls_transport_set_pull_timeout_function(seal->session, pull_timeout);
    gnutls_transport_set_push_function(seal->session, push);
    return r;
}

static void session_stop(struct seal *seal)
{
    if (seal->session)
        gnutls_deinit(seal->session);
    if (seal->client)
        gnutls_psk_free_client_credentials(seal->client);
    if (seal->server)
        gnutls_psk_free_server_credentials(seal->server);
    seal->session = NULL;
    seal->client = NULL;
    seal->server = NULL;
}

int seal_new(const struct channel_key *key, bool initiator, const void *context,
             size_t context_size, struct seal **ret_seal, struct error *err)
{
    ENSURE(context_size <= sizeof(((struct seal *)NULL)->context));
    struct seal *seal = calloc(1, sizeof(*seal));
    if (!seal)
        return error_sys(err, -ENOMEM, "handshake");
    seal->key = key;
    seal->initiator = initiator;
    seal->context_size = context_size;
    memcpy(seal->context, context, context_size);
    int r = key ? session_start(seal) : 0;
    if (r < 0) {
        seal_free(seal);
        return error_set(err, -EIO, "cannot prepare a TLS handshake: %s", gnutls_strerror(r));
    }
    *ret_seal = seal;
    return 0;
}

static void direction_done(struct direction *d)
{
    if (d->cipher)
        gnutls_aead_cipher_deinit(d->cipher);
    explicit_bzero(d, sizeof(*d));
}

struct seal *seal_free(struct seal *seal)
{
    if (!seal)
        return NULL;
    session_stop(seal);
    direction_done(&seal->closing);
    direction_done(&seal->opening);
    free(seal);
    return NULL;
}

static int direction_init(struct direction *d, gnutls_cipher_algorithm_t cipher,
                          const uint8_t *from)
{
    const gnutls_datum_t key = {(void *)from, KEY_BYTES};
    memcpy(d->iv, from + KEY_BYTES, IV_BYTES);
    return gnutls_aead_cipher_init(&d->cipher, cipher, &key);
}

// Both directions' keys out of the finished handshake: the initiator's first.
static int export_keys(struct seal *seal)
{
    enum { EACH = KEY_BYTES + IV_BYTES };
    uint8_t material[2 * EACH];
    gnutls_cipher_algorithm_t cipher =
        gnutls_cipher_get(seal->session) == GNUTLS_CIPHER_CHACHA20_POLY1305
            ? GNUTLS_CIPHER_CHACHA20_POLY1305
            : GNUTLS_CIPHER_AES_256_GCM;
    int r =
        gnutls_prf_rfc5705(seal->session, strlen(EXPORT_LABEL), EXPORT_LABEL, seal->context_size,
                           (const char *)seal->context, sizeof(material), (char *)material);
    if (r >= 0)
        r = direction_init(seal->initiator ? &seal->closing : &seal->opening, cipher, material);
    if (r >= 0)
        r = direction_init(seal->initiator ? &seal->opening : &seal->closing, cipher,
                           material + EACH);
    explicit_bzero(material, sizeof(material));
    return r;
}

static int tls_failed(struct seal *seal, int r, struct error *err)
{
    if (r == GNUTLS_E_FATAL_ALERT_RECEIVED)
        return error_set(err, -EPROTO,
                         "the peer refuses the handshake (%s): it has another key file",
                         gnutls_alert_get_name(gnutls_alert_get(seal->session)));
    (void)gnutls_alert_send_appropriate(seal->session, r);
    return error_set(
        err, -EPROTO,
        "the handshake failed (%s): the peer has another key file, or is no end of this pair",
        gnutls_strerror(r));
}

static int tls_step(struct seal *seal, struct error *err)
{
    int r;
    do
        r = gnutls_handshake(seal->session);
    while (r < 0 && r != GNUTLS_E_AGAIN && !gnutls_error_is_fatal(r));
    if (r == GNUTLS_E_AGAIN)
        return 0;
    if (r < 0)
        return tls_failed(seal, r, err);
    r = export_keys(seal);
    if (r < 0)
        return error_set(err, -EPROTO, "cannot export the keys of a link: %s", gnutls_strerror(r));
    session_stop(seal);
    seal->done = true;
    return 1;
}

// Without a key: the initiator says so, the responder says so too, and that is all.
static int plain_step(struct seal *seal, struct error *err)
{
    const size_t length = strlen(PLAIN_TEXT);
    bool started = seal->in_size > 0;
    if (started && (seal->in_size != length || memcmp(seal->in, PLAIN_TEXT, length) != 0))
        return error_set(err, -EPROTO, "the peer uses a key file, this end has none");
    if (!started || !seal->initiator) {
        memcpy(seal->out, PLAIN_TEXT, length);
        seal->out_size = length;
    }
    seal->done = started;
    return started;
}

int seal_step(struct seal *seal, const void *in, size_t in_size, void *out, size_t *ret_size,
              struct error *err)
{
    ENSURE(!seal->done);
    *ret_size = 0;
    if (in_size > SEAL_HANDSHAKE_MAX)
        return error_set(err, -EPROTO, "a handshake message of %zu bytes", in_size);
    if (seal->key && in_size == strlen(PLAIN_TEXT) && memcmp(in, PLAIN_TEXT, in_size) == 0)
        return error_set(err, -EPROTO, "the peer has no key file");
    seal->in = in;
    seal->in_size = in_size;
    seal->out = out;
    seal->out_size = 0;
    int r = seal->key ? tls_step(seal, err) : plain_step(seal, err);
    *ret_size = seal->out_size;
    seal->in = NULL;
    seal->out = NULL;
    return r;
}

// --- messages ---

static void nonce_make(const struct direction *d, uint64_t counter, uint8_t nonce[IV_BYTES])
{
    struct le64 c = le64_make(counter);
    memcpy(nonce, d->iv, IV_BYTES);
    for (size_t i = 0; i < sizeof(c); i++)
        nonce[IV_BYTES - sizeof(c) + i] ^= ((const uint8_t *)&c)[i];
}

// The trailer of an unsealed message: zeros, then the checksum over header and body, bound to the
// counter.
static void plain_trailer(uint64_t counter, const void *additional, size_t additional_size,
                          const void *body, size_t size, uint8_t trailer[SEAL_OVERHEAD])
{
    struct le64 parts[3] = {le64_make(checksum64(additional, additional_size)),
                            le64_make(checksum64(body, size)), le64_make(counter)};
    struct le64 sum = le64_make(checksum64(parts, sizeof(parts)));
    memset(trailer, 0, SEAL_OVERHEAD);
    memcpy(trailer + SEAL_OVERHEAD - sizeof(sum), &sum, sizeof(sum));
}

static int plain_close(uint64_t counter, const void *additional, size_t additional_size,
                       const struct iovec *iov, int n, uint8_t *to)
{
    size_t size = 0;
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > 0)
            memcpy(to + size, iov[i].iov_base, iov[i].iov_len);
        size += iov[i].iov_len;
    }
    plain_trailer(counter, additional, additional_size, to, size, to + size);
    return 0;
}

int seal_close(struct seal *seal, uint64_t counter, const void *additional, size_t additional_size,
               const struct iovec *iov, int n, void *to)
{
    ENSURE(seal->done);
    if (!seal->key)
        return plain_close(counter, additional, additional_size, iov, n, to);
    uint8_t nonce[IV_BYTES];
    const giovec_t auth = {(void *)additional, additional_size};
    size_t size = SEAL_OVERHEAD;
    for (int i = 0; i < n; i++)
        size += iov[i].iov_len;
    nonce_make(&seal->closing, counter, nonce);
    int r = gnutls_aead_cipher_encryptv(seal->closing.cipher, nonce, sizeof(nonce), &auth, 1,
                                        SEAL_OVERHEAD, iov, n, to, &size);
    return r < 0 ? -EIO : 0;
}

int seal_open(struct seal *seal, uint64_t counter, const void *additional, size_t additional_size,
              void *data, size_t size)
{
    ENSURE(seal->done);
    if (size < SEAL_OVERHEAD)
        return -EBADMSG;
    size_t plain = size - SEAL_OVERHEAD;
    if (!seal->key) {
        uint8_t trailer[SEAL_OVERHEAD];
        plain_trailer(counter, additional, additional_size, data, plain, trailer);
        return memcmp(trailer, (uint8_t *)data + plain, SEAL_OVERHEAD) == 0 ? 0 : -EBADMSG;
    }
    uint8_t nonce[IV_BYTES];
    nonce_make(&seal->opening, counter, nonce);
    int r = gnutls_aead_cipher_decrypt(seal->opening.cipher, nonce, sizeof(nonce), additional,
                                       additional_size, SEAL_OVERHEAD, data, size, data, &plain);
    return r < 0 ? -EBADMSG : 0;
}
