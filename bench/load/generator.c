/* WebSocket load generator: N clients and one pipelined publisher in one epoll thread, hence one clock.
 *
 * The clients speak notifier.v1 (tokens, `ready`, sequence numbers, acks), or stay silent for a bare peer (-F)
 * or a socket.io server (-S). The publisher replays one command from a template and checks every reply.
 * The result is one JSON object on stdout; README.md explains its fields. Build: gcc -O2 -o generator generator.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    USER_DIGITS = 6,
    SERIAL_DIGITS = 10,
    STAMP_DIGITS = 19,
    MOST_PLACEHOLDERS = 2048,
    MOST_GROUPS = 8,
    MOST_PIDS = 64,
    /* One address has some 28 000 ephemeral ports by default; stay well below. */
    CONNECTIONS_PER_ADDRESS = 20000,
    READ_BUFFER = 1 << 20,
    REPLY_BUFFER = 1 << 16,
    PUBLISH_BUFFER = 8 << 20,
    LONGEST_TEMPLATE = 1 << 20,
    MOST_PUBLISHED_PER_TURN = 2000,
    LONGEST_PATH = 512,
    ACK_EVERY = 32,
};
static const uint64_t SECOND = 1000000000ull;
static const uint64_t ACK_WITHIN = 100000000ull;
static const uint64_t LATE = 100000000ull;

/* What epoll hands back for the two descriptors that are no connection. */
static const uint32_t PUBLISHER = UINT32_MAX, TICKER = UINT32_MAX - 1;

/* ---- options ------------------------------------------------------------------------------------------------ */

struct group {
    char name[32];
    int pids[MOST_PIDS];
    int count;
};

static struct {
    uint32_t connections;
    int port, publish_port;
    const char *path, *tokens, *header, *template, *label;
    uint32_t in_flight;
    double connect_limit, settle, idle, warm, measured, drain_limit, report_every;
    double rate, tick_us;
    struct { double from, length, factor; } rush;
    long window, burst;
    uint32_t fan_out, hot_users, people;
    bool verbose;
    struct group groups[MOST_GROUPS];
    int group_count;
} options = {
    .connections = 100, .header = "", .label = "", .in_flight = 64,
    .connect_limit = 60, .settle = 0.5, .warm = 1, .measured = 4, .drain_limit = 8,
    .tick_us = 1000, .window = 2000, .burst = 100,
};

static const char USAGE[] =
    "generator -p PORT [options]: one run of WebSocket load, reported as one JSON object\n"
    "clients\n"
    "  -n COUNT   connections (100); connection i is user i; 0: the run only publishes\n"
    "  -p PORT    WebSocket server on 127.0.0.1\n"
    "  -A FILE    tokens, one JWT a line, line i for user i (notifier.v1 needs them)\n"
    "  -F         bare peer: no token, no acks; counts frames that hold TS=\n"
    "  -S         socket.io peer over its WebSocket transport; otherwise as -F\n"
    "  -u PATH    UUUUUU becomes the user (/v1/websocket; bare /ws?u=UUUUUU)\n"
    "  -H LINE    one more request header\n"
    "  -C COUNT   handshakes in flight (64)\n"
    "  -w SECS    give up connecting after (60)\n"
    "publisher\n"
    "  -t FILE    template of one Redis command, or of one HTTP request; without it the run only listens\n"
    "  -R PORT    Redis (or HTTP) server on 127.0.0.1\n"
    "  -r RATE    open loop, events a second (0: closed loop)\n"
    "  -T MICROS  open loop: events leave in ticks of this length (1000)\n"
    "  -W COUNT   closed loop: deliveries outstanding (2000)\n"
    "  -b COUNT   closed loop: events in one burst (100)\n"
    "  -f COUNT   deliveries of one event (1; all connections if the template names no user)\n"
    "  -k COUNT   hot users: publish to the first COUNT users only\n"
    "  -a COUNT   people: publish to so many users, of whom only the first ones are connected\n"
    "  -B FROM,SECS,FACTOR  open loop: so many times the rate, from FROM s of the measured time on\n"
    "run\n"
    "  -s SECS    settle after connecting (0.5)      -i SECS   stay idle before memory is measured (0)\n"
    "  -o SECS    warm-up (1)                        -d SECS   measured time (4; 0: connect only)\n"
    "  -x SECS    drain for at most (8)\n"
    "  -I SECS    a JSON line for each SECS from the warm-up on, before the report\n"
    "  -P NAME=PID,PID  CPU and memory of these processes, reported under NAME (repeatable)\n"
    "  -l LABEL   copied into the report             -v        print every frame to stderr\n";

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("generator: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* ---- time, CPU, memory -------------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t in_ns(double seconds)
{
    return (uint64_t)(seconds * 1e9);
}

static double own_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Seconds on a CPU, summed over threads. schedstat counts nanoseconds where /proc/PID/stat counts ticks of 10 ms. */
static double process_cpu(int pid)
{
    char path[320];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        fail("process %d is gone: its CPU cannot be read, the run is void", pid);
    double seconds = 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, task->d_name);
        FILE *file = fopen(path, "r");
        unsigned long long nanoseconds;
        if (file && fscanf(file, "%llu", &nanoseconds) == 1)
            seconds += (double)nanoseconds / 1e9;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return seconds;
}

/* Proportional set size in KiB, which shares pages fairly between forked workers; NAN if we may not read it. */
static double process_pss(int pid)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return NAN;
    double pss = NAN;
    while (fgets(line, sizeof line, file)) {
        long kib;
        if (sscanf(line, "Pss: %ld", &kib) == 1) {
            pss = (double)kib;
            break;
        }
    }
    fclose(file);
    return pss;
}

static double group_sum(const struct group *group, double (*measure)(int pid))
{
    double sum = 0;
    for (int i = 0; i < group->count; i++)
        sum += measure(group->pids[i]);
    return sum;
}

/* ---- latency: a log-linear histogram, 128 steps for each doubling (an error below 0.8 %) ---------------------- */

enum { STEPS_BITS = 7, STEPS = 1 << STEPS_BITS, BUCKETS = (64 - STEPS_BITS) * STEPS };
struct histogram {
    uint64_t buckets[BUCKETS], count, max, late;
};
static struct histogram latency, recent;  /* of the measured time; since the last line of -I */

static unsigned bucket_of(uint64_t value)
{
    if (value < STEPS)
        return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - STEPS_BITS;
    return (shift + 1) * STEPS + (unsigned)(value >> shift) - STEPS;
}

static uint64_t value_of(unsigned bucket)
{
    if (bucket < STEPS)
        return bucket;
    unsigned shift = bucket / STEPS - 1;
    return (uint64_t)(bucket % STEPS + STEPS) << shift;
}

static void record_latency(struct histogram *histogram, uint64_t nanoseconds)
{
    histogram->buckets[bucket_of(nanoseconds)]++;
    histogram->count++;
    histogram->late += nanoseconds > LATE;
    if (nanoseconds > histogram->max)
        histogram->max = nanoseconds;
}

static double latency_us(const struct histogram *histogram, double share)
{
    if (!histogram->count)
        return NAN;
    uint64_t rank = (uint64_t)(share * (double)(histogram->count - 1)) + 1, seen = 0;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++)
        if ((seen += histogram->buckets[bucket]) >= rank)
            return (double)value_of(bucket) / 1e3;
    return (double)histogram->max / 1e3;
}

/* ---- counters ----------------------------------------------------------------------------------------------- */

static struct {
    uint64_t deliveries, reads, bytes, acks;
    uint64_t gaps, duplicates, resyncs, server_errors;
    uint64_t published, answered, publish_errors;
    uint64_t expected;  /* deliveries that what was published must bring */
    uint32_t started, connecting, opened, open;
} counts;

static uint64_t measured_from = UINT64_MAX, measured_to = UINT64_MAX;
static char first_failure[256], first_server_error[256], first_publish_error[256];

static void remember_first(char *where, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void remember_first(char *where, const char *format, ...)
{
    if (where[0])
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(where, 256, format, arguments);
    va_end(arguments);
}

/* ---- connections -------------------------------------------------------------------------------------------- */

enum state { WAITING, CONNECTING, UPGRADING, GREETING, OPEN, DEAD };

struct connection {
    int fd;
    enum state state;
    bool ack_queued;
    bool resuming;       /* between `resync` and `upto` holes in the sequence are legal */
    uint32_t unacked;
    uint64_t seq;        /* the last one received */
    uint8_t *rest;       /* the start of a frame whose end has not come yet */
    size_t rest_length, rest_room;
};

/* What differs between the servers that we load. */
struct dialect {
    const char *path;
    const char *subprotocol;  /* offered together with the token; must be the one selected */
    bool greets;              /* the connection counts as open only after a greeting */
    void (*on_text)(uint32_t index, const uint8_t *text, size_t length, uint64_t now);
};

static struct connection *connections;
static const struct dialect *dialect;
static char **tokens;
static int poller;

static void watch(int fd, uint32_t events, uint32_t key, int operation)
{
    struct epoll_event event = {.events = events, .data.u32 = key};
    if (epoll_ctl(poller, operation, fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
}

static void drop(uint32_t index, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void drop(uint32_t index, const char *format, ...)
{
    struct connection *c = &connections[index];
    char reason[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    remember_first(first_failure, "connection %u: %s", index, reason);
    if (options.verbose)
        fprintf(stderr, "connection %u dropped: %s\n", index, reason);
    if (c->state == OPEN)
        counts.open--;
    else
        counts.connecting--;
    close(c->fd);
    free(c->rest);
    *c = (struct connection){.fd = -1, .state = DEAD};
}

static void opened(struct connection *c)
{
    c->state = OPEN;
    counts.opened++;
    counts.open++;
    counts.connecting--;
}

static void put_digits(uint8_t *where, uint64_t value, int width)
{
    while (width--) {
        where[width] = (uint8_t)('0' + value % 10);
        value /= 10;
    }
}

static struct sockaddr_in loopback(uint32_t address, int port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(address)};
}

static void start_connection(uint32_t index)
{
    struct connection *c = &connections[index];
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket %u: %s", index, strerror(errno));
    /* Let connect() choose the port, so that one port serves both a source address and its neighbours. */
    struct sockaddr_in source = loopback(INADDR_LOOPBACK + 1 + index / CONNECTIONS_PER_ADDRESS, 0);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&source, sizeof source))
        fail("bind of connection %u: %s", index, strerror(errno));
    c->state = CONNECTING;
    counts.connecting++;
    struct sockaddr_in server = loopback(INADDR_LOOPBACK, options.port);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) {
        drop(index, "connect: %s", strerror(errno));
        return;
    }
    watch(c->fd, EPOLLOUT, index, EPOLL_CTL_ADD);
}

static void send_upgrade(uint32_t index)
{
    struct connection *c = &connections[index];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        drop(index, "connect to port %d: %s", options.port, strerror(error));
        return;
    }
    char path[LONGEST_PATH], protocols[4096] = "", request[8192];
    snprintf(path, sizeof path, "%s", options.path);
    char *user = strstr(path, "UUUUUU");
    if (user)
        put_digits((uint8_t *)user, index, USER_DIGITS);
    if (dialect->subprotocol)
        snprintf(protocols, sizeof protocols, "Sec-WebSocket-Protocol: %s, bearer.%s\r\n", dialect->subprotocol,
                 tokens[index]);
    /* The key is RFC 6455's own example, so that the right Sec-WebSocket-Accept is a constant. */
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nOrigin: http://127.0.0.1:%d\r\n"
                          "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s%s\r\n",
                          path, options.port, options.port, protocols, options.header);
    if (length >= (int)sizeof request)
        fail("the upgrade request of user %u is longer than %zu bytes", index, sizeof request);
    if (send(c->fd, request, (size_t)length, MSG_NOSIGNAL) != length) {
        drop(index, "upgrade request: %s", strerror(errno));
        return;
    }
    c->state = UPGRADING;
    watch(c->fd, EPOLLIN, index, EPOLL_CTL_MOD);
}

static const char *header_value(const char *head, const char *name)
{
    const char *found = strcasestr(head, name);
    return found ? found + strlen(name) + strspn(found + strlen(name), " \t") : "";
}

/* Checks the answer to the upgrade, NUL-terminated; RFC 6455 section 4.1, the client's list of what must hold. */
static bool accept_upgrade(uint32_t index, const char *head)
{
    static const char key_accepted[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    struct connection *c = &connections[index];
    const char *selected = header_value(head, "\nSec-WebSocket-Protocol:"), *wanted = dialect->subprotocol;
    if (strncmp(head, "HTTP/1.1 101", 12))
        drop(index, "upgrade refused: %.*s", (int)strcspn(head, "\r\n"), head);
    else if (strncmp(header_value(head, "\nSec-WebSocket-Accept:"), key_accepted, strlen(key_accepted)))
        drop(index, "upgrade without the right Sec-WebSocket-Accept");
    else if (wanted && (strncmp(selected, wanted, strlen(wanted)) || !strchr("\r ", selected[strlen(wanted)])))
        drop(index, "the server did not select the subprotocol %s", wanted);
    if (c->state == DEAD)
        return false;
    if (dialect->greets)
        c->state = GREETING;
    else
        opened(c);
    return true;
}

/* ---- frames ------------------------------------------------------------------------------------------------- */

enum opcode { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

static uint64_t random_state = 88172645463325252ull;

static uint32_t random_number(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 20);
}

/* Our frames are short: acks, and control frames of at most 125 bytes. RFC 6455 5.3: a fresh mask for each frame. */
static bool write_frame(int fd, enum opcode opcode, const void *payload, size_t length)
{
    uint8_t frame[6 + 125];
    uint32_t mask = random_number();
    if (length > 125)
        length = 125;
    frame[0] = 0x80 | (uint8_t)opcode;
    frame[1] = 0x80 | (uint8_t)length;
    memcpy(frame + 2, &mask, 4);
    for (size_t i = 0; i < length; i++)
        frame[6 + i] = ((const uint8_t *)payload)[i] ^ frame[2 + i % 4];
    return send(fd, frame, 6 + length, MSG_NOSIGNAL) == (ssize_t)(6 + length);
}

static void send_frame(uint32_t index, enum opcode opcode, const void *payload, size_t length)
{
    if (!write_frame(connections[index].fd, opcode, payload, length))
        drop(index, "send of a short frame: the server reads nothing, or is gone (%s)", strerror(errno));
}

/* The bytes of one frame at `data`, 0 if more are needed; *payload and *length say where its content is. */
static size_t frame_size(const uint8_t *data, size_t available, const uint8_t **payload, uint64_t *length)
{
    if (available < 2)
        return 0;
    size_t header = 2;
    *length = data[1] & 127;
    if (*length >= 126) {  /* RFC 6455 5.2: 126 says two more bytes of length, 127 says eight */
        size_t width = *length == 126 ? 2 : 8;
        header += width;
        if (available < header)
            return 0;
        *length = 0;
        for (size_t i = 0; i < width; i++)
            *length = *length << 8 | data[2 + i];
    }
    *payload = data + header;
    return *length > available - header ? 0 : header + *length;
}

static void on_close(uint32_t index, const uint8_t *payload, size_t length)
{
    /* RFC 6455 5.5.1: answer with the same code. Whether it arrives no longer matters. */
    write_frame(connections[index].fd, CLOSE, payload, length < 2 ? 0 : 2);
    if (length >= 2)
        drop(index, "closed by the server: %d %.*s", payload[0] << 8 | payload[1], (int)(length - 2), payload + 2);
    else
        drop(index, "closed by the server without a code");
}

static void on_frame(uint32_t index, const uint8_t *frame, const uint8_t *payload, size_t length, uint64_t now)
{
    if (options.verbose)
        fprintf(stderr, "connection %u opcode %d: %.*s\n", index, frame[0] & 15, (int)(length > 400 ? 400 : length),
                payload);
    if (frame[1] & 0x80)
        drop(index, "masked frame: RFC 6455 5.1 forbids a server to mask");
    else if (frame[0] == (0x80 | TEXT))
        dialect->on_text(index, payload, length, now);
    else if (frame[0] == (0x80 | PING))
        send_frame(index, PONG, payload, length);
    else if (frame[0] == (0x80 | CLOSE))
        on_close(index, payload, length);
    else if (frame[0] != (0x80 | PONG))
        drop(index, "frame that starts with 0x%02x: fragments, extensions and binary are not expected here", frame[0]);
}

static void keep_rest(struct connection *c, const uint8_t *rest, size_t length)
{
    if (length > c->rest_room) {
        c->rest_room = length + 512;
        c->rest = realloc(c->rest, c->rest_room);
        if (!c->rest)
            fail("out of memory");
    }
    if (length)
        memcpy(c->rest, rest, length);
    c->rest_length = length;
}

/* One read() for each time the socket is readable: messages per read then tells what the server coalesced. */
static void on_readable(uint32_t index)
{
    static uint8_t buffer[READ_BUFFER + 1];
    struct connection *c = &connections[index];
    if (c->rest_length)
        memcpy(buffer, c->rest, c->rest_length);
    ssize_t got = read(c->fd, buffer + c->rest_length, READ_BUFFER - c->rest_length);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        drop(index, "%s", got ? strerror(errno) : c->rest_length == READ_BUFFER ? "frame over 1 MiB" : "end of stream");
        return;
    }
    uint64_t now = now_ns();
    counts.reads++;
    counts.bytes += (uint64_t)got;
    uint8_t *next = buffer, *end = buffer + c->rest_length + got;
    if (c->state == UPGRADING) {
        uint8_t *head_end = memmem(buffer, (size_t)(end - buffer), "\r\n\r\n", 4);
        if (!head_end) {
            keep_rest(c, next, (size_t)(end - next));
            return;
        }
        head_end[2] = 0;
        if (!accept_upgrade(index, (char *)buffer))
            return;
        next = head_end + 4;
    }
    const uint8_t *payload;
    uint64_t length;
    for (size_t size; (size = frame_size(next, (size_t)(end - next), &payload, &length)); next += size) {
        on_frame(index, next, payload, length, now);
        if (c->state == DEAD)
            return;
    }
    keep_rest(c, next, (size_t)(end - next));
}

/* ---- what the servers say ----------------------------------------------------------------------------------- */

static void count_delivery(const uint8_t *text, size_t length, uint64_t now)
{
    counts.deliveries++;
    const uint8_t *stamp = memmem(text, length, "TS=", 3);
    if (!stamp || stamp + 3 + STAMP_DIGITS > text + length)
        return;
    uint64_t sent = 0;
    for (int i = 3; i < 3 + STAMP_DIGITS; i++)
        sent = sent * 10 + (uint64_t)(stamp[i] - '0');
    if (sent > now)
        return;
    if (options.report_every > 0)
        record_latency(&recent, now - sent);
    if (sent >= measured_from && sent < measured_to)
        record_latency(&latency, now - sent);
}

struct message {
    const char *type;
    size_t type_length;
    uint64_t seq;
    bool has_seq;
};

static const char *skip_blank(const char *at, const char *end)
{
    while (at < end && isspace((unsigned char)*at))
        at++;
    return at;
}

/* Past the closing quote of the string that starts after `at`. */
static const char *skip_string(const char *at, const char *end)
{
    while (at < end && *at != '"')
        at += *at == '\\' ? 2 : 1;
    return at < end ? at + 1 : end;
}

/* Finds the outermost `type` and `seq` of a JSON object. They may stand anywhere, and an inner object has a `type` too,
 * so depth counts; when they come first, as they usually do, the walk ends after some thirty bytes. */
static struct message read_message(const char *at, const char *end)
{
    struct message m = {0};
    int depth = 0;
    bool key_next = false;
    while (at < end && !(m.type && m.has_seq)) {
        char c = *at++;
        if (c == '{' || c == '[')
            key_next = ++depth == 1;
        else if (c == '}' || c == ']')
            depth--;
        else if (c == ',')
            key_next = depth == 1;
        else if (c == '"') {
            const char *string = at;
            at = skip_string(at, end);
            if (!key_next)
                continue;
            key_next = false;
            size_t length = (size_t)(at - 1 - string);
            const char *value = skip_blank(at, end);
            if (value == end || *value != ':')
                continue;
            value = skip_blank(value + 1, end);
            if (length == 4 && !memcmp(string, "type", 4) && value < end && *value == '"') {
                m.type = value + 1;
                at = skip_string(value + 1, end);
                m.type_length = (size_t)(at - 1 - m.type);
            } else if (length == 3 && !memcmp(string, "seq", 3)) {
                for (m.has_seq = value < end && isdigit((unsigned char)*value);
                     value < end && isdigit((unsigned char)*value); value++)
                    m.seq = m.seq * 10 + (uint64_t)(*value - '0');
            }
        }
    }
    return m;
}

static bool is_type(const struct message *m, const char *type)
{
    return m->type && m->type_length == strlen(type) && !memcmp(m->type, type, m->type_length);
}

/* Connections that owe an ack, in the order in which it falls due; each stands here at most once. One that acked
 * meanwhile because of its count stays, and may then ack a little early: that is harmless. */
static struct {
    struct { uint32_t index; uint64_t due; } *ring;
    uint32_t head, count;
} ack_queue;

static void send_ack(uint32_t index)
{
    char text[64];
    struct connection *c = &connections[index];
    int length = snprintf(text, sizeof text, "{\"type\":\"ack\",\"seq\":%llu}", (unsigned long long)c->seq);
    c->unacked = 0;
    counts.acks++;
    send_frame(index, TEXT, text, (size_t)length);
}

static void owe_ack(uint32_t index, uint64_t now)
{
    struct connection *c = &connections[index];
    if (++c->unacked >= ACK_EVERY) {
        send_ack(index);
    } else if (!c->ack_queued) {
        uint32_t tail = (ack_queue.head + ack_queue.count++) % options.connections;
        ack_queue.ring[tail].index = index;
        ack_queue.ring[tail].due = now + ACK_WITHIN;
        c->ack_queued = true;
    }
}

static void send_due_acks(uint64_t now)
{
    while (ack_queue.count && ack_queue.ring[ack_queue.head].due <= now) {
        uint32_t index = ack_queue.ring[ack_queue.head].index;
        ack_queue.head = (ack_queue.head + 1) % options.connections;
        ack_queue.count--;
        connections[index].ack_queued = false;
        if (connections[index].state == OPEN && connections[index].unacked)
            send_ack(index);
    }
}

/* A change is live when its number is the last one + 1; anything else is counted, and the run goes on from there. */
static void follow_sequence(struct connection *c, uint64_t seq)
{
    if (seq <= c->seq) {
        counts.duplicates++;
        return;
    }
    if (seq > c->seq + 1 && !c->resuming)
        counts.gaps++;
    c->seq = seq;
}

static void on_notifier_text(uint32_t index, const uint8_t *text, size_t length, uint64_t now)
{
    struct connection *c = &connections[index];
    struct message m = read_message((const char *)text, (const char *)text + length);
    if (c->state == GREETING) {
        if (!is_type(&m, "ready") || !m.has_seq) {
            drop(index, "the first message is not `ready` with a seq: %.*s", (int)(length > 120 ? 120 : length), text);
            return;
        }
        c->seq = m.seq;
        opened(c);
    } else if (is_type(&m, "notification")) {
        if (!m.has_seq) {
            drop(index, "notification without seq: %.*s", (int)(length > 120 ? 120 : length), text);
            return;
        }
        follow_sequence(c, m.seq);
        count_delivery(text, length, now);
        owe_ack(index, now);
    } else if (is_type(&m, "upto")) {
        c->resuming = false;
        c->seq = m.seq;
    } else if (is_type(&m, "resync")) {
        counts.resyncs++;
        c->resuming = true;
        c->seq = 0;
    } else if (is_type(&m, "error")) {
        counts.server_errors++;
        remember_first(first_server_error, "%.*s", (int)(length > 200 ? 200 : length), text);
    } else if (m.has_seq && !is_type(&m, "pong")) {
        follow_sequence(c, m.seq);  /* retract, seen, read, deleted: changes with a number of their own */
    }
}

static void on_bare_text(uint32_t index, const uint8_t *text, size_t length, uint64_t now)
{
    (void)index;
    if (memmem(text, length, "TS=", 3))
        count_delivery(text, length, now);
}

/* Engine.IO 4 puts a digit before each message: 0 open, 2 ping, 3 pong, 4 message; 40 is socket.io's connect. */
static void on_socketio_text(uint32_t index, const uint8_t *text, size_t length, uint64_t now)
{
    struct connection *c = &connections[index];
    if (length && text[0] == '0')
        send_frame(index, TEXT, "40", 2);
    else if (length == 1 && text[0] == '2')
        send_frame(index, TEXT, "3", 1);
    else if (c->state == GREETING && length >= 2 && !memcmp(text, "40", 2))
        opened(c);
    else
        on_bare_text(index, text, length, now);
}

static const struct dialect NOTIFIER = {"/v1/websocket", "notifier.v1", true, on_notifier_text};
static const struct dialect BARE = {"/ws?u=UUUUUU", NULL, false, on_bare_text};
static const struct dialect SOCKET_IO = {
    "/socket.io/?EIO=4&transport=websocket&u=UUUUUU", NULL, true, on_socketio_text};

/* ---- publisher ---------------------------------------------------------------------------------------------- */

static struct {
    int fd;
    uint8_t *template;
    size_t template_length;
    size_t users[MOST_PLACEHOLDERS], serials[MOST_PLACEHOLDERS], stamps[MOST_PLACEHOLDERS];
    int user_count, serial_count, stamp_count;
    uint8_t *out;
    size_t out_start, out_end;
    uint8_t replies[REPLY_BUFFER];
    size_t reply_length, reply_skip;
    long reply_parts;     /* elements of an array reply that have yet to come */
    bool http, reply_failed;
} publisher = {.fd = -1};

static int find_all(const char *placeholder, size_t skip, size_t *found)
{
    const uint8_t *at = publisher.template, *end = at + publisher.template_length;
    int count = 0;
    while ((at = memmem(at, (size_t)(end - at), placeholder, strlen(placeholder)))) {
        if (count == MOST_PLACEHOLDERS)
            fail("the template holds %s more than %d times", placeholder, MOST_PLACEHOLDERS);
        found[count++] = (size_t)(at - publisher.template) + skip;
        at += strlen(placeholder);
    }
    return count;
}

/* Exactly one command, so that one event has one reply: *N and N bulk strings, whose lengths must add up. */
static void check_redis_template(void)
{
    const char *at = (char *)publisher.template, *end = at + publisher.template_length;
    char *rest;
    long parts = strtol(at + 1, &rest, 10);
    at = rest + 2;
    for (long i = 0; i < parts; i++) {
        if (at >= end || *at != '$')
            fail("template %s: argument %ld is no bulk string", options.template, i + 1);
        long length = strtol(at + 1, &rest, 10);
        at = rest + 2;
        if (length < 0 || length > end - at - 2 || memcmp(at + length, "\r\n", 2))
            fail("template %s: argument %ld is not %ld bytes long", options.template, i + 1, length);
        at += length + 2;
    }
    if (at != end)
        fail("template %s: %td bytes after its one command", options.template, end - at);
}

/* How many people events are for. */
static uint32_t addressed(void)
{
    return options.hot_users ? options.hot_users : options.people ? options.people : options.connections;
}

static void load_template(void)
{
    FILE *file = fopen(options.template, "rb");
    if (!file)
        fail("template %s: %s", options.template, strerror(errno));
    publisher.template = calloc(1, LONGEST_TEMPLATE + 1);
    publisher.out = malloc(PUBLISH_BUFFER);
    if (!publisher.template || !publisher.out)
        fail("out of memory");
    publisher.template_length = fread(publisher.template, 1, LONGEST_TEMPLATE, file);
    if (!feof(file) && fgetc(file) != EOF)
        fail("template %s is longer than %d bytes", options.template, LONGEST_TEMPLATE);
    fclose(file);
    publisher.http = publisher.template[0] != '*';
    if (!publisher.http)
        check_redis_template();
    publisher.user_count = find_all("UUUUUU", 0, publisher.users);
    publisher.serial_count = find_all("EEEEEEEEEE", 0, publisher.serials);
    publisher.stamp_count = find_all("TS=0000000000000000000", 3, publisher.stamps);
    uint32_t users = (uint32_t)publisher.user_count;
    if (!options.fan_out)
        options.fan_out = users ? 1 : options.connections;
    if (users % options.fan_out)
        fail("template %s names %u users, which is no multiple of the fan-out %u", options.template, users,
             options.fan_out);
    if (users && options.fan_out > addressed())
        fail("a fan-out of %u needs as many users", options.fan_out);
    if (!publisher.stamp_count)
        fail("template %s holds no TS= with %d zeros: nothing would be measured", options.template, STAMP_DIGITS);
}

static void open_publisher(void)
{
    int on = 1;
    struct sockaddr_in server = loopback(INADDR_LOOPBACK, options.publish_port);
    publisher.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (publisher.fd < 0 || connect(publisher.fd, (struct sockaddr *)&server, sizeof server))
        fail("publisher, port %d: %s", options.publish_port, strerror(errno));
    fcntl(publisher.fd, F_SETFL, O_NONBLOCK);
    setsockopt(publisher.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(publisher.fd, EPOLLIN, PUBLISHER, EPOLL_CTL_ADD);
}

/* Appends one event to the output; false when there is no room for it now. */
static bool publish(uint64_t stamp)
{
    size_t length = publisher.template_length;
    if (publisher.out_end + length > PUBLISH_BUFFER) {
        memmove(publisher.out, publisher.out + publisher.out_start, publisher.out_end - publisher.out_start);
        publisher.out_end -= publisher.out_start;
        publisher.out_start = 0;
        if (publisher.out_end + length > PUBLISH_BUFFER)
            return false;
    }
    uint8_t *event = publisher.out + publisher.out_end;
    uint32_t users = addressed(), first = random_number() % users;
    memcpy(event, publisher.template, length);
    for (int i = 0; i < publisher.user_count; i++)
        put_digits(event + publisher.users[i], (first + (uint32_t)i % options.fan_out) % users, USER_DIGITS);
    if (!publisher.user_count)
        counts.expected += options.fan_out;
    else
        for (uint32_t i = 0; i < options.fan_out; i++)
            counts.expected += (first + i) % users < options.connections;
    for (int i = 0; i < publisher.serial_count; i++)
        put_digits(event + publisher.serials[i], counts.published, SERIAL_DIGITS);
    for (int i = 0; i < publisher.stamp_count; i++)
        put_digits(event + publisher.stamps[i], stamp, STAMP_DIGITS);
    publisher.out_end += length;
    counts.published++;
    return true;
}

/* No EPOLLOUT here: the main loop calls again within a millisecond. */
static void flush_publisher(void)
{
    while (publisher.out_start < publisher.out_end) {
        ssize_t sent = send(publisher.fd, publisher.out + publisher.out_start, publisher.out_end - publisher.out_start,
                            MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0)
            fail("publisher: %s", strerror(errno));
        publisher.out_start += (size_t)sent;
    }
    publisher.out_start = publisher.out_end = 0;
}

static void publish_failed(const uint8_t *line, size_t length)
{
    publisher.reply_failed = true;
    remember_first(first_publish_error, "%.*s", (int)(length > 200 ? 200 : length), line);
}

static void reply_part_done(void)
{
    if (publisher.reply_parts && --publisher.reply_parts)
        return;
    counts.answered++;
    counts.publish_errors += publisher.reply_failed;
    publisher.reply_failed = false;
}

/* One line of a RESP reply, without its CRLF. */
static void on_redis_line(const uint8_t *line, size_t length)
{
    long number = strtol((const char *)line + 1, NULL, 10);
    if (line[0] == '$' && number >= 0) {
        publisher.reply_skip = (size_t)number + 2;
        return;
    }
    if (line[0] == '*' && number > 0) {
        publisher.reply_parts += number + (publisher.reply_parts ? -1 : 0);
        return;
    }
    if (line[0] == '-')
        publish_failed(line, length);
    else if (!strchr("+:$*", line[0]))
        fail("the publisher's port %d does not speak RESP: %.*s", options.publish_port, (int)length, line);
    reply_part_done();
}

/* The head of an HTTP reply, NUL-terminated. */
static void on_http_head(const char *head)
{
    const char *size = strcasestr(head, "\nContent-Length:");
    if (strncmp(head, "HTTP/1.1 ", 9))
        fail("the publisher's port %d does not speak HTTP/1.1: %.60s", options.publish_port, head);
    if (strcasestr(head, "\nTransfer-Encoding:"))
        fail("the publisher's port %d answers in chunks, which are not understood here", options.publish_port);
    if (head[9] != '2')
        publish_failed((const uint8_t *)head, strcspn(head, "\r\n"));
    publisher.reply_skip = size ? (size_t)strtol(size + 16, NULL, 10) : 0;
    if (!publisher.reply_skip)
        reply_part_done();
}

/* Consumes complete replies from `at`; the start of what is left. */
static uint8_t *parse_replies(uint8_t *at, uint8_t *end)
{
    const char *mark = publisher.http ? "\r\n\r\n" : "\r\n";
    size_t mark_length = strlen(mark);
    while (at < end) {
        if (publisher.reply_skip) {
            size_t take = (size_t)(end - at) < publisher.reply_skip ? (size_t)(end - at) : publisher.reply_skip;
            at += take;
            publisher.reply_skip -= take;
            if (!publisher.reply_skip)
                reply_part_done();
            continue;
        }
        uint8_t *line_end = memmem(at, (size_t)(end - at), mark, mark_length);
        if (!line_end)
            break;
        *line_end = 0;
        if (publisher.http)
            on_http_head((char *)at);
        else
            on_redis_line(at, (size_t)(line_end - at));
        at = line_end + mark_length;
    }
    return at;
}

static void on_publisher_readable(void)
{
    ssize_t got = read(publisher.fd, publisher.replies + publisher.reply_length, REPLY_BUFFER - publisher.reply_length);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        fail("publisher: %s", got ? strerror(errno) : "the server closed the connection, or sent a line over 64 KiB");
    uint8_t *end = publisher.replies + publisher.reply_length + got;
    uint8_t *rest = parse_replies(publisher.replies, end);
    publisher.reply_length = (size_t)(end - rest);
    memmove(publisher.replies, rest, publisher.reply_length);
}

/* ---- the loop ----------------------------------------------------------------------------------------------- */

static int ticker = -1;

/* Milliseconds are too coarse to wait for ticks of our choice, and epoll_pwait2() is not everywhere. */
static void start_ticker(void)
{
    long nanoseconds = (long)(options.tick_us * 1e3);
    struct timespec tick = {nanoseconds / (long)SECOND, nanoseconds % (long)SECOND};
    struct itimerspec every = {tick, tick};
    ticker = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (ticker < 0 || timerfd_settime(ticker, 0, &every, NULL))
        fail("timerfd: %s", strerror(errno));
    watch(ticker, EPOLLIN, TICKER, EPOLL_CTL_ADD);
}

static uint64_t next_line, loaded_from;

/* How far the run is, for who watches it: what has come since the last line, counts since the start. */
static void report_progress(uint64_t now)
{
    if (!next_line || now < next_line)
        return;
    next_line += in_ns(options.report_every);
    bool has = recent.count > 0;
    printf("{\"at\": %.3f, \"published\": %llu, \"expected\": %llu, \"deliveries\": %llu, \"timed\": %llu, "
           "\"late\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"cpu_s\": %.3f}\n",
           (double)(now - loaded_from) / 1e9, (unsigned long long)counts.published,
           (unsigned long long)counts.expected, (unsigned long long)counts.deliveries,
           (unsigned long long)recent.count, (unsigned long long)recent.late, has ? latency_us(&recent, 0.5) : 0, has ? latency_us(&recent, 0.99) : 0,
           (double)recent.max / 1e3, own_cpu());
    fflush(stdout);
    memset(&recent, 0, sizeof recent);
}

static void turn(int wait_ms)
{
    static struct epoll_event ready[1024];
    int count = epoll_wait(poller, ready, 1024, wait_ms);
    for (int i = 0; i < count; i++) {
        uint32_t key = ready[i].data.u32;
        uint64_t expirations;
        if (key == PUBLISHER)
            on_publisher_readable();
        else if (key == TICKER)
            (void)!read(ticker, &expirations, sizeof expirations);
        else if (connections[key].state == CONNECTING)
            send_upgrade(key);
        else if (connections[key].state != DEAD)
            on_readable(key);
    }
    uint64_t now = now_ns();
    send_due_acks(now);
    report_progress(now);
}

static void listen_for(double seconds)
{
    for (uint64_t end = now_ns() + in_ns(seconds); now_ns() < end;)
        turn(20);
}

static void connect_all(void)
{
    uint64_t give_up = now_ns() + in_ns(options.connect_limit);
    while (counts.started < options.connections || counts.connecting) {
        while (counts.connecting < options.in_flight && counts.started < options.connections)
            start_connection(counts.started++);
        turn(100);
        if (now_ns() > give_up) {
            remember_first(first_failure, "%u handshakes were not complete after %.0f s", counts.connecting,
                           options.connect_limit);
            return;
        }
    }
}

/* ---- phases: warm up, measure, drain ------------------------------------------------------------------------- */

struct snapshot {
    uint64_t at, deliveries, reads, bytes, published;
    double own_cpu, group_cpu[MOST_GROUPS];
};

static struct snapshot take_snapshot(void)
{
    struct snapshot s = {.deliveries = counts.deliveries, .reads = counts.reads, .bytes = counts.bytes,
                         .published = counts.published};
    for (int i = 0; i < options.group_count; i++)
        s.group_cpu[i] = group_sum(&options.groups[i], process_cpu);
    s.own_cpu = own_cpu();
    s.at = now_ns();
    return s;
}

/* Deliveries that the events accepted so far must still bring. */
static int64_t outstanding(void)
{
    return (int64_t)(counts.expected - counts.publish_errors * options.fan_out) - (int64_t)counts.deliveries;
}

/* When event number e is due, in ns from the start: at an even rate, but for the rush (-B). */
static uint64_t due_after(uint64_t e)
{
    double begins = (options.warm + options.rush.from) * options.rate, event = (double)e;
    double more = options.rush.length * options.rate * options.rush.factor;  /* events within the rush */
    if (!options.rush.factor || event < begins)
        return (uint64_t)(event * 1e9 / options.rate);
    if (event < begins + more)
        return (uint64_t)((begins + (event - begins) / options.rush.factor) * 1e9 / options.rate);
    return (uint64_t)((event - more + more / options.rush.factor) * 1e9 / options.rate);
}

/* Open loop. Event e is due at the first tick not before its time, and is stamped with that tick, not with the moment
 * of the write: otherwise a stall would delay the stamps too and hide itself (coordinated omission). */
static void publish_by_clock(uint64_t start)
{
    uint64_t tick = (uint64_t)(options.tick_us * 1e3), now = now_ns();
    for (int i = 0; i < MOST_PUBLISHED_PER_TURN; i++) {
        uint64_t exact = due_after(counts.published);
        uint64_t due = start + (exact + tick - 1) / tick * tick;
        if (due > now || !publish(due))
            return;
    }
}

/* Closed loop, in bursts: one event for each delivery would make the batches, and so the cost, depend on our pace. */
static void publish_by_window(void)
{
    int64_t room = options.window - outstanding();
    if (room < options.burst && options.fan_out < options.window)
        return;
    uint64_t now = now_ns();
    for (long i = 0; i < options.burst && room > 0 && publish(now); i++)
        room -= options.fan_out;
}

static void load_until(uint64_t start, uint64_t end)
{
    while (now_ns() < end) {
        if (options.rate > 0)
            publish_by_clock(start);
        else if (options.template)
            publish_by_window();
        if (options.template)
            flush_publisher();
        turn(options.rate > 0 ? 5 : 1);  /* in the open loop the ticker wakes us */
    }
}

static void drain(void)
{
    uint64_t give_up = now_ns() + in_ns(options.drain_limit);
    while (now_ns() < give_up && (outstanding() > 0 || counts.answered < counts.published)) {
        flush_publisher();
        turn(5);
    }
}

static void run_load(struct snapshot *begin, struct snapshot *end)
{
    if (options.template)
        open_publisher();
    if (options.rate > 0)
        start_ticker();
    uint64_t start = now_ns(), measure = start + in_ns(options.warm);
    counts.deliveries = 0;
    if (options.report_every > 0) {
        loaded_from = start;
        next_line = start + in_ns(options.report_every);
    }
    load_until(start, measure);
    *begin = take_snapshot();
    measured_from = begin->at;
    load_until(start, begin->at + in_ns(options.measured));
    *end = take_snapshot();
    measured_to = end->at;
    if (options.template)
        drain();
}

/* ---- report ------------------------------------------------------------------------------------------------- */

static void put_key(const char *key)
{
    static bool first = true;
    printf("%s\"%s\": ", first ? "" : ", ", key);
    first = false;
}

static void put_value(double value)
{
    if (!isfinite(value))
        printf("null");  /* JSON knows no NaN: nothing was measured */
    else
        printf(value == (double)(int64_t)value ? "%.0f" : "%.3f", value);
}

static void put_number(const char *key, double value)
{
    put_key(key);
    put_value(value);
}

/* Non-ASCII bytes may come from a server's error and need not be UTF-8: they become question marks. */
static void put_text(const char *key, const char *text)
{
    put_key(key);
    putchar('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < ' ')
            printf("\\u%04x", c);
        else
            putchar(c < 127 ? c : '?');
    }
    putchar('"');
}

struct connecting {
    double seconds, cpu[MOST_GROUPS], pss_before[MOST_GROUPS], pss_after[MOST_GROUPS];
};

static double ratio(double value, double by)
{
    return by > 0 ? value / by : NAN;
}

static void report_groups(const struct connecting *connecting, const struct snapshot *begin, const struct snapshot *end)
{
    double opened = counts.opened, deliveries = (double)(end->deliveries - begin->deliveries);
    double seconds = (double)(end->at - begin->at) / 1e9;
    put_key("groups");
    putchar('{');
    for (int i = 0; i < options.group_count; i++) {
        double cpu = end->group_cpu[i] - begin->group_cpu[i];
        printf("%s\"%s\": {\"cpu_us_per_handshake\": ", i ? ", " : "", options.groups[i].name);
        put_value(ratio(connecting->cpu[i] * 1e6, opened));
        printf(", \"kib_per_connection\": ");
        put_value(ratio(connecting->pss_after[i] - connecting->pss_before[i], opened));
        printf(", \"base_mib\": ");
        put_value(connecting->pss_before[i] / 1024);
        printf(", \"cpu_us_per_delivery\": ");
        put_value(ratio(cpu * 1e6, deliveries));
        printf(", \"cpu_percent\": ");
        put_value(ratio(cpu * 100, seconds));
        putchar('}');
    }
    putchar('}');
}

static void report(const struct connecting *connecting, const struct snapshot *begin, const struct snapshot *end)
{
    double seconds = (double)(end->at - begin->at) / 1e9, own = end->own_cpu - begin->own_cpu;
    double deliveries = (double)(end->deliveries - begin->deliveries);
    putchar('{');
    put_text("label", options.label);
    put_text("mode", !options.template ? "listen" : options.rate > 0 ? "open" : "closed");
    put_number("connections", counts.opened);
    put_number("dead", options.connections - counts.open);
    put_number("handshakes_per_s", ratio(counts.opened, connecting->seconds));
    report_groups(connecting, begin, end);
    put_number("seconds", seconds);
    put_number("published", (double)counts.published);
    put_number("published_per_s", ratio((double)(end->published - begin->published), seconds));
    put_number("expected", (double)counts.expected);
    put_number("publish_errors", (double)counts.publish_errors);
    put_number("unanswered", (double)(counts.published - counts.answered));
    put_number("deliveries", deliveries);
    put_number("deliveries_per_s", ratio(deliveries, seconds));
    put_number("own_cpu_us_per_delivery", ratio(own * 1e6, deliveries));
    put_number("own_cpu_percent", ratio(own * 100, seconds));
    put_number("p50_us", latency_us(&latency, 0.5));
    put_number("p99_us", latency_us(&latency, 0.99));
    put_number("p999_us", latency_us(&latency, 0.999));
    put_number("max_us", latency.count ? (double)latency.max / 1e3 : NAN);
    put_number("messages_per_read", ratio(deliveries, (double)(end->reads - begin->reads)));
    put_number("bytes_per_message", ratio((double)(end->bytes - begin->bytes), deliveries));
    put_number("acks", (double)counts.acks);
    put_number("gaps", (double)counts.gaps);
    put_number("duplicates", (double)counts.duplicates);
    put_number("resyncs", (double)counts.resyncs);
    put_number("server_errors", (double)counts.server_errors);
    put_number("lost", options.template && options.measured > 0 ? (double)outstanding() : NAN);
    put_text("first_failure", first_failure);
    put_text("first_server_error", first_server_error);
    put_text("first_publish_error", first_publish_error);
    puts("}");
    fflush(stdout);
}

/* ---- start -------------------------------------------------------------------------------------------------- */

static double number_option(int letter, const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= least && value <= most))
        fail("-%c %s: a number from %g to %g is wanted", letter, text, least, most);
    return value;
}

static void add_group(char *text)
{
    if (options.group_count == MOST_GROUPS)
        fail("-P: at most %d groups", MOST_GROUPS);
    struct group *group = &options.groups[options.group_count++];
    char *pids = strchr(text, '=');
    if (!pids || pids == text || (size_t)(pids - text) >= sizeof group->name || strpbrk(text, "\"\\"))
        fail("-P %s: NAME=PID,PID is wanted", text);
    memcpy(group->name, text, (size_t)(pids - text));
    for (char *pid = strtok(pids + 1, ","); pid; pid = strtok(NULL, ",")) {
        if (group->count == MOST_PIDS)
            fail("-P: at most %d processes a group", MOST_PIDS);
        group->pids[group->count++] = (int)number_option('P', pid, 1, INT32_MAX);
    }
    if (!group->count)
        fail("-P %s: names no process", text);
}

static void set_header(const char *line)
{
    char *header = malloc(strlen(line) + 3);
    if (!header)
        fail("out of memory");
    sprintf(header, "%s\r\n", line);
    options.header = header;
}

static void set_rush(char *text)
{
    double *parts[] = {&options.rush.from, &options.rush.length, &options.rush.factor};
    char *part = strtok(text, ",");
    for (int i = 0; i < 3; i++, part = strtok(NULL, ","))
        *parts[i] = number_option('B', part ? part : "", i == 2 ? 1 : 0, 1e6);
}

static void read_options(int count, char **arguments)
{
    dialect = &NOTIFIER;
    for (int letter; (letter = getopt(count, arguments, "n:p:A:FSu:H:C:w:t:R:r:T:W:b:f:k:a:B:s:i:o:d:x:I:P:l:v")) > 0;) {
        switch (letter) {
        case 'n': options.connections = (uint32_t)number_option(letter, optarg, 0, 999999); break;
        case 'p': options.port = (int)number_option(letter, optarg, 1, 65535); break;
        case 'A': options.tokens = optarg; break;
        case 'F': dialect = &BARE; break;
        case 'S': dialect = &SOCKET_IO; break;
        case 'u': options.path = optarg; break;
        case 'H': set_header(optarg); break;
        case 'C': options.in_flight = (uint32_t)number_option(letter, optarg, 1, 10000); break;
        case 'w': options.connect_limit = number_option(letter, optarg, 0, 3600); break;
        case 't': options.template = optarg; break;
        case 'R': options.publish_port = (int)number_option(letter, optarg, 1, 65535); break;
        case 'r': options.rate = number_option(letter, optarg, 0, 1e7); break;
        case 'T': options.tick_us = number_option(letter, optarg, 10, 1e6); break;
        case 'W': options.window = (long)number_option(letter, optarg, 1, 1e8); break;
        case 'b': options.burst = (long)number_option(letter, optarg, 1, 1e6); break;
        case 'f': options.fan_out = (uint32_t)number_option(letter, optarg, 1, 999999); break;
        case 'k': options.hot_users = (uint32_t)number_option(letter, optarg, 1, 999999); break;
        case 'a': options.people = (uint32_t)number_option(letter, optarg, 1, 1e6); break;
        case 'B': set_rush(optarg); break;
        case 'I': options.report_every = number_option(letter, optarg, 0.01, 3600); break;
        case 's': options.settle = number_option(letter, optarg, 0, 3600); break;
        case 'i': options.idle = number_option(letter, optarg, 0, 3600); break;
        case 'o': options.warm = number_option(letter, optarg, 0, 3600); break;
        case 'd': options.measured = number_option(letter, optarg, 0, 3600); break;
        case 'x': options.drain_limit = number_option(letter, optarg, 0, 3600); break;
        case 'P': add_group(optarg); break;
        case 'l': options.label = optarg; break;
        case 'v': options.verbose = true; break;
        default: fputs(USAGE, stderr); exit(2);
        }
    }
    if (!options.port || optind < count) {
        fputs(USAGE, stderr);
        exit(2);
    }
    if (!options.path)
        options.path = dialect->path;
    if (strlen(options.path) >= LONGEST_PATH)
        fail("-u: a path is at most %d bytes long", LONGEST_PATH - 1);
    if (options.burst > options.window)
        options.burst = options.window;
    if (options.people && (options.hot_users || options.people < options.connections))
        fail("-a %u: needs at least as many people as connections, and no -k", options.people);
    if ((options.rush.factor || (options.template && !options.connections)) && !(options.rate > 0))
        fail("-B, and a run that only publishes, need -r");
    if (dialect->subprotocol && options.connections && !options.tokens)
        fail("notifier.v1 needs -A with a token for each user; a bare peer needs -F");
    if (options.template && !options.publish_port)
        fail("-t needs -R, the port to publish to");
    if (options.hot_users > options.connections)
        fail("-k %u: there are only %u connections", options.hot_users, options.connections);
}

static void load_tokens(void)
{
    FILE *file = fopen(options.tokens, "r");
    if (!file)
        fail("tokens %s: %s", options.tokens, strerror(errno));
    tokens = calloc(options.connections, sizeof *tokens);
    if (!tokens)
        fail("out of memory");
    for (uint32_t i = 0; i < options.connections; i++) {
        size_t room = 0;
        ssize_t length = getline(&tokens[i], &room, file);
        if (length <= 1)
            fail("tokens %s: line %u is missing or empty, %u are needed", options.tokens, i + 1, options.connections);
        tokens[i][strcspn(tokens[i], "\r\n")] = 0;
        if (length > 4000)
            fail("tokens %s: line %u is longer than 4000 bytes", options.tokens, i + 1);
    }
    fclose(file);
}

static void raise_file_limit(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < options.connections + 32)
        fail("%u connections need `ulimit -n` of at least %u, the hard limit is %llu", options.connections,
             options.connections + 32, (unsigned long long)limit.rlim_max);
}

static void on_overtime(int signal_number)
{
    static const char message[] = "generator: the run took longer than all its phases together; given up\n";
    (void)signal_number;
    (void)!write(STDERR_FILENO, message, sizeof message - 1);
    _exit(1);
}

/* Each phase has an end of its own; this one bounds what lies between them, such as a blocked connect(). */
static void bound_the_run(void)
{
    signal(SIGALRM, on_overtime);
    alarm(30 + (unsigned)(options.connect_limit + options.settle + options.idle + options.warm + options.measured +
                          options.drain_limit));
}

static struct connecting connect_and_settle(void)
{
    struct connecting c = {0};
    for (int i = 0; i < options.group_count; i++) {
        c.pss_before[i] = group_sum(&options.groups[i], process_pss);
        c.cpu[i] = -group_sum(&options.groups[i], process_cpu);
    }
    uint64_t start = now_ns();
    connect_all();
    c.seconds = (double)(now_ns() - start) / 1e9;
    for (int i = 0; i < options.group_count; i++)
        c.cpu[i] += group_sum(&options.groups[i], process_cpu);
    listen_for(options.settle + options.idle);
    for (int i = 0; i < options.group_count; i++)
        c.pss_after[i] = group_sum(&options.groups[i], process_pss);
    return c;
}

int main(int count, char **arguments)
{
    read_options(count, arguments);
    raise_file_limit();
    bound_the_run();
    if (dialect->subprotocol && options.connections)
        load_tokens();
    if (options.template)
        load_template();
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(options.connections, sizeof *connections);
    ack_queue.ring = calloc(options.connections, sizeof *ack_queue.ring);
    if (poller < 0 || !connections || !ack_queue.ring)
        fail("out of memory");
    struct connecting connecting = connect_and_settle();
    if (!counts.opened && options.connections)
        fail("no connection was opened; %s", first_failure);
    struct snapshot begin = {0}, end = {0};
    if (options.measured > 0)
        run_load(&begin, &end);
    report(&connecting, &begin, &end);
    /* Leave the sockets to the kernel: closing thousands one by one would only delay the caller. */
    _exit(0);
}
