/* A push server as fast as nghttp2 can be: answers requests to APNs and FCM over TLS on one epoll thread.
 *
 * Every push is answered at once, with 200 and its apns-id, or a name as FCM gives one; every ERROR_EVERYth with 410
 * (APNs) or 404 (FCM) and the JSON that belongs to it. Nothing is checked. Who connects without ALPN is asking for an
 * access token, over HTTP/1.1, and gets one.
 * What arrived is counted: a body may name its event by "object_id":"0123456789" and the moment at which the event was
 * due by TS= and 19 digits (CLOCK_MONOTONIC, ns). Whoever connects to CONTROL_PORT reads the counts as JSON.
 * Build: gcc -O2 -o apns apns.c -lnghttp2 -lssl -lcrypto
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MOST_EVENTS = 256, CHUNK = 65536, RECORD = 16384, ID = 36, READS_IN_A_TURN = 8,
    TEXT = 2048,           /* of a body, where the names are looked for */
    QUESTION = 16384,      /* for an access token, with its head */
    SERIAL_DIGITS = 10, STAMP_DIGITS = 19,
};

struct stream {
    size_t id_length, sent, text_length;
    bool fcm;
    const char *body;
    char id[ID], text[TEXT];  /* behind what is cleared */
};

struct connection {
    int socket;
    SSL *tls;
    nghttp2_session *session;
    uint8_t *unsent;
    size_t unsent_length, unsent_room;
    uint32_t events;
    char *question;  /* instead of a session: what was sent over HTTP/1.1 */
    size_t question_length;
};

static const char GONE[] = "{\"reason\":\"Unregistered\",\"timestamp\":1790000000000}";
static const char NAME[] = "{\n  \"name\": \"projects/example/messages/0:1790000000000000%31bd1c9631bd1c96\"\n}\n";
static const char UNREGISTERED[] =
    "{\"error\":{\"code\":404,\"message\":\"Requested entity was not found.\",\"status\":\"NOT_FOUND\",\"details\":[{"
    "\"@type\":\"type.googleapis.com/google.firebase.fcm.v1.FcmError\",\"errorCode\":\"UNREGISTERED\"}]}}";

static const char GRANT[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 80\r\nConnection: close\r\n\r\n"
    "{\"access_token\":\"ya29.bench-0123456789\",\"expires_in\":3599,\"token_type\":\"Bearer\"}";

static unsigned long long requests;
static long streams, error_every, open_connections;
static int poller;
static SSL_CTX *papers;

static void fail(const char *what) __attribute__((noreturn));

static void fail(const char *what)
{
    fprintf(stderr, "apns: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* ---- what is counted ---- */

/* A log-linear histogram as the generator's: 128 steps for each doubling, an error below 0.8 %. */
enum { STEPS_BITS = 7, STEPS = 1 << STEPS_BITS, BUCKETS = (64 - STEPS_BITS) * STEPS };

static struct {
    unsigned long long once, again, unnamed;
    uint8_t *seen;             /* a bit for each event */
    size_t room;               /* bytes of it */
    uint64_t latency[BUCKETS], latency_count, latency_max;  /* since somebody looked */
} arrived;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void record_latency(uint64_t value)
{
    unsigned shift = value < STEPS ? 0 : 63u - (unsigned)__builtin_clzll(value) - STEPS_BITS;
    arrived.latency[value < STEPS ? value : (shift + 1) * STEPS + (value >> shift) - STEPS]++;
    arrived.latency_count++;
    if (value > arrived.latency_max)
        arrived.latency_max = value;
}

static double latency_us(double share)
{
    uint64_t rank = (uint64_t)(share * (double)(arrived.latency_count - 1)) + 1, passed = 0;
    for (unsigned at = 0; at < BUCKETS; at++) {
        if ((passed += arrived.latency[at]) < rank)
            continue;
        unsigned shift = at < STEPS ? 0 : at / STEPS - 1;
        return (double)((uint64_t)(at < STEPS ? at : at % STEPS + STEPS) << shift) / 1e3;
    }
    return (double)arrived.latency_max / 1e3;
}

/* The number of so many digits behind `name`; false if there is none. */
static bool number_after(const struct stream *stream, const char *name, int digits, uint64_t *number)
{
    const char *at = memmem(stream->text, stream->text_length, name, strlen(name));
    if (!at || at + strlen(name) + digits > stream->text + stream->text_length)
        return false;
    at += strlen(name);
    for (*number = 0; digits--; at++) {
        if (*at < '0' || *at > '9')
            return false;
        *number = *number * 10 + (uint64_t)(*at - '0');
    }
    return true;
}

static void mark_seen(uint64_t event)
{
    size_t byte = event / 8, room = arrived.room ? arrived.room : 1 << 16;
    while (room <= byte)
        room *= 2;
    if (room > arrived.room) {
        arrived.seen = realloc(arrived.seen, room);
        if (!arrived.seen)
            fail("memory");
        memset(arrived.seen + arrived.room, 0, room - arrived.room);
        arrived.room = room;
    }
    uint8_t bit = (uint8_t)(1 << event % 8);
    if (arrived.seen[byte] & bit)
        arrived.again++;
    else
        arrived.once++;
    arrived.seen[byte] |= bit;
}

static void note_arrival(const struct stream *stream)
{
    uint64_t event, stamp, now = now_ns();
    if (number_after(stream, "\"object_id\":\"", SERIAL_DIGITS, &event))
        mark_seen(event);
    else
        arrived.unnamed++;
    if (number_after(stream, "TS=", STAMP_DIGITS, &stamp) && stamp <= now)
        record_latency(now - stamp);
}

static void tell(int socket)
{
    char text[512];
    double has = arrived.latency_count ? 1 : 0;
    int length = snprintf(text, sizeof text,
                          "{\"once\": %llu, \"again\": %llu, \"unnamed\": %llu, \"connections\": %ld, "
                          "\"timed\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
                          arrived.once, arrived.again, arrived.unnamed, open_connections,
                          (unsigned long long)arrived.latency_count, has ? latency_us(0.5) : 0,
                          has ? latency_us(0.99) : 0, (double)arrived.latency_max / 1e3);
    if (send(socket, text, (size_t)length, MSG_NOSIGNAL) != length)
        perror("apns: control");
    close(socket);
    memset(arrived.latency, 0, sizeof arrived.latency);
    arrived.latency_count = arrived.latency_max = 0;
}

/* ---- requests and answers ---- */

static int begun(nghttp2_session *session, const nghttp2_frame *frame, void *unused)
{
    (void)unused;
    struct stream *stream = malloc(sizeof *stream);
    if (stream)
        memset(stream, 0, offsetof(struct stream, id));
    return stream && !nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream)
               ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static bool is(const char *name, const uint8_t *text, size_t length)
{
    return strlen(name) == length && !memcmp(name, text, length);
}

static int header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                  const uint8_t *value, size_t length, uint8_t flags, void *unused)
{
    (void)flags, (void)unused;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream && is("apns-id", name, name_length) && length <= ID) {
        memcpy(stream->id, value, length);
        stream->id_length = length;
    } else if (stream && is(":path", name, name_length)) {
        stream->fcm = length > 4 && !memcmp(value, "/v1/", 4);
    }
    return 0;
}

static int body_part(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length,
                     void *unused)
{
    (void)flags, (void)unused;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream) {
        size_t room = TEXT - stream->text_length, part = length < room ? length : room;
        memcpy(stream->text + stream->text_length, data, part);
        stream->text_length += part;
    }
    return 0;
}

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *to, size_t room, uint32_t *flags,
                         nghttp2_data_source *source, void *unused)
{
    (void)session, (void)id, (void)unused;
    struct stream *stream = source->ptr;
    size_t left = strlen(stream->body) - stream->sent, count = left < room ? left : room;
    memcpy(to, stream->body + stream->sent, count);
    stream->sent += count;
    if (count == left)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)count;
}

static nghttp2_nv field(const char *name, const char *value, size_t length)
{
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), length, NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

static int answer(nghttp2_session *session, int32_t id, struct stream *stream)
{
    bool bad = error_every && ++requests % (unsigned long)error_every == 0;
    nghttp2_nv fields[4];
    size_t count = 0;
    stream->body = stream->fcm ? (bad ? UNREGISTERED : NAME) : (bad ? GONE : NULL);
    fields[count++] = field(":status", bad ? (stream->fcm ? "404" : "410") : "200", 3);
    if (stream->fcm) {
        fields[count++] = field("content-type", "application/json; charset=UTF-8", 31);
        fields[count++] = field("date", "Sun, 22 Nov 2026 10:00:00 GMT", 29);
    } else if (stream->id_length) {
        fields[count++] = field("apns-id", stream->id, stream->id_length);
    }
    nghttp2_data_provider body = {.source.ptr = stream, .read_callback = read_body};
    return nghttp2_submit_response(session, id, fields, count, stream->body ? &body : NULL);
}

static int received(nghttp2_session *session, const nghttp2_frame *frame, void *unused)
{
    (void)unused;
    bool request = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
    if (!request || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!stream)
        return 0;
    note_arrival(stream);
    return answer(session, frame->hd.stream_id, stream);
}

static int closed(nghttp2_session *session, int32_t id, uint32_t code, void *unused)
{
    (void)code, (void)unused;
    free(nghttp2_session_get_stream_user_data(session, id));
    return 0;
}

/* ---- connections ---- */

static void want(struct connection *connection, uint32_t events)
{
    if (connection->events == events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = connection};
    epoll_ctl(poller, connection->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, connection->socket, &event);
    connection->events = events;
}

static void end(struct connection *connection)
{
    epoll_ctl(poller, EPOLL_CTL_DEL, connection->socket, NULL);
    if (connection->session)
        open_connections--;
    nghttp2_session_del(connection->session);
    SSL_free(connection->tls);
    close(connection->socket);
    free(connection->unsent);
    free(connection->question);
    free(connection);
}

static void gather(struct connection *connection)
{
    const uint8_t *data;
    ssize_t count;
    while (connection->unsent_length < CHUNK
           && (count = nghttp2_session_mem_send(connection->session, &data)) > 0) {
        if (connection->unsent_length + (size_t)count > connection->unsent_room) {
            connection->unsent_room = 2 * (connection->unsent_length + (size_t)count);
            connection->unsent = realloc(connection->unsent, connection->unsent_room);
            if (!connection->unsent)
                fail("memory");
        }
        memcpy(connection->unsent + connection->unsent_length, data, (size_t)count);
        connection->unsent_length += (size_t)count;
    }
}

static bool send_all(struct connection *connection)
{
    for (;;) {
        gather(connection);
        if (!connection->unsent_length) {
            want(connection, EPOLLIN);
            return true;
        }
        size_t size = connection->unsent_length < RECORD ? connection->unsent_length : RECORD;
        int sent = SSL_write(connection->tls, connection->unsent, (int)size);
        if (sent <= 0) {
            int why = SSL_get_error(connection->tls, sent);
            want(connection, EPOLLIN | EPOLLOUT);
            return why == SSL_ERROR_WANT_WRITE || why == SSL_ERROR_WANT_READ;
        }
        connection->unsent_length -= (size_t)sent;
        memmove(connection->unsent, connection->unsent + sent, connection->unsent_length);
    }
}

static bool receive(struct connection *connection)
{
    static uint8_t buffer[CHUNK];
    for (int turn = 0; turn < READS_IN_A_TURN; turn++) {
        int count = SSL_read(connection->tls, buffer, sizeof buffer);
        if (count <= 0) {
            int why = SSL_get_error(connection->tls, count);
            ERR_clear_error();
            return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE;
        }
        if (nghttp2_session_mem_recv(connection->session, buffer, (size_t)count) < 0)
            return false;
    }
    return true;
}

static bool shake_hands(struct connection *connection)
{
    int done = SSL_accept(connection->tls);
    if (done > 0)
        return true;
    int why = SSL_get_error(connection->tls, done);
    ERR_clear_error();
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE;
}

static void begin(struct connection *connection, const nghttp2_session_callbacks *callbacks)
{
    const unsigned char *protocol;
    unsigned int length;
    SSL_get0_alpn_selected(connection->tls, &protocol, &length);
    if (!length) {
        connection->question = calloc(1, QUESTION + 1);
        if (!connection->question)
            fail("memory");
        return;
    }
    nghttp2_session_server_new(&connection->session, callbacks, connection);
    nghttp2_settings_entry most = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)streams};
    nghttp2_submit_settings(connection->session, 0, &most, 1);
    open_connections++;
}

/* True while more of the question is to come; it is answered when it is whole. */
static bool grant(struct connection *connection)
{
    int got;
    while ((got = SSL_read(connection->tls, connection->question + connection->question_length,
                           (int)(QUESTION - connection->question_length))) > 0)
        connection->question_length += (size_t)got;
    int why = SSL_get_error(connection->tls, got);
    ERR_clear_error();
    if (why != SSL_ERROR_WANT_READ)
        return false;
    const char *body = strstr(connection->question, "\r\n\r\n");
    const char *size = strcasestr(connection->question, "\ncontent-length:");
    if (!body || (size && strlen(body + 4) < strtoul(size + 16, NULL, 10)))
        return true;
    SSL_write(connection->tls, GRANT, sizeof GRANT - 1);
    SSL_shutdown(connection->tls);
    return false;
}

static bool push_or_grant(struct connection *connection)
{
    if (connection->question)
        return grant(connection);
    return receive(connection) && send_all(connection)
        && (nghttp2_session_want_read(connection->session) || nghttp2_session_want_write(connection->session));
}

static void serve(struct connection *connection, const nghttp2_session_callbacks *callbacks)
{
    bool well = SSL_is_init_finished(connection->tls) || shake_hands(connection);
    if (well && SSL_is_init_finished(connection->tls)) {
        if (!connection->session && !connection->question)
            begin(connection, callbacks);
        well = push_or_grant(connection);
    }
    if (!well)
        end(connection);
}

static void accept_all(int listener)
{
    for (int one = 1, socket; (socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct connection *connection = calloc(1, sizeof *connection);
        if (!connection)
            fail("memory");
        connection->socket = socket;
        connection->tls = SSL_new(papers);
        SSL_set_fd(connection->tls, socket);
        SSL_set_accept_state(connection->tls);
        want(connection, EPOLLIN);
    }
}

/* ---- the start ---- */

static int choose_h2(SSL *tls, const unsigned char **chosen, unsigned char *length, const unsigned char *offered,
                     unsigned int offered_length, void *unused)
{
    (void)tls, (void)unused;
    return nghttp2_select_next_protocol((unsigned char **)chosen, length, offered, offered_length) == 1
               ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static void load_papers(const char *file)
{
    papers = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(papers, file) != 1
        || SSL_CTX_use_PrivateKey_file(papers, file, SSL_FILETYPE_PEM) != 1)
        fail(file);
    SSL_CTX_set_alpn_select_cb(papers, choose_h2, NULL);
    SSL_CTX_set_mode(papers, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

static int listen_on(int port)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 512))
        fail("listen");
    return listener;
}

static nghttp2_session_callbacks *make_callbacks(void)
{
    nghttp2_session_callbacks *made;
    nghttp2_session_callbacks_new(&made);
    nghttp2_session_callbacks_set_on_begin_headers_callback(made, begun);
    nghttp2_session_callbacks_set_on_header_callback(made, header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, body_part);
    nghttp2_session_callbacks_set_on_frame_recv_callback(made, received);
    nghttp2_session_callbacks_set_on_stream_close_callback(made, closed);
    return made;
}

static void watch(int listener, void *mark)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = mark};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
}

int main(int words, char **word)
{
    if (words != 6) {
        fputs("apns PORT CONTROL_PORT PEM STREAMS ERROR_EVERY: PEM holds chain and key; ERROR_EVERY 0: all is well\n",
              stderr);
        return 2;
    }
    streams = atol(word[4]);
    error_every = atol(word[5]);
    signal(SIGPIPE, SIG_IGN);
    load_papers(word[3]);
    nghttp2_session_callbacks *callbacks = make_callbacks();
    int listener = listen_on(atoi(word[1])), control = listen_on(atoi(word[2]));
    poller = epoll_create1(0);
    watch(listener, NULL);
    watch(control, &arrived);
    struct epoll_event happened[MOST_EVENTS];
    for (;;) {
        int ready = epoll_wait(poller, happened, MOST_EVENTS, -1);
        for (int at = 0; at < ready; at++) {
            if (happened[at].data.ptr == &arrived) {
                for (int socket; (socket = accept(control, NULL, NULL)) >= 0;)
                    tell(socket);
            } else if (happened[at].data.ptr) {
                serve(happened[at].data.ptr, callbacks);
            } else {
                accept_all(listener);
            }
        }
    }
}
