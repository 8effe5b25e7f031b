/* The floor: the least that a WebSocket server on one epoll thread can do, in C. The others are measured against it.
 *
 * floor stream   reads a Redis stream (XREADGROUP + XACK) and makes one send() for each frame; no inbox, no tokens
 * floor selfgen  has one frame ready in memory and sends it round robin for a fixed time: the pure cost of send()
 * Build: gcc -O2 -o floor floor.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MOST_USERS = 1000000,  /* a user is six digits */
    MOST_FILES = 1 << 20,
    MOST_BATCH = 1000,
    LONGEST_FRAME = 65535,
    REPLY_BUFFER = 64 << 20,
    SEND_PATIENCE_MS = 1000,
    CLIENT_PATIENCE = 60,
};

static struct {
    int port, redis_port, batch, length;
    int connections;
    double seconds, rate;
    const char *stream, *group, *consumer;
} options = {.batch = 500, .length = 255, .connections = 1000, .seconds = 4, .stream = "floor:events",
             .group = "floor", .consumer = "c0"};

static const char USAGE[] =
    "floor stream -p PORT -R REDISPORT [-s STREAM] [-g GROUP] [-c CONSUMER] [-b BATCH]\n"
    "  delivers entries `u <user> d <text>` of STREAM (floor:events) to the connection that asked for ?u=<user>;\n"
    "  u = ****** goes to every connection; runs until it is killed\n"
    "floor selfgen -p PORT [-n CONNECTIONS] [-d SECS] [-l LENGTH] [-r RATE]\n"
    "  waits for CONNECTIONS (1000), sends frames of LENGTH (255) bytes of text for SECS (4) as fast as it can\n"
    "  (or RATE frames a second), prints one JSON object, ends when the clients have gone\n";

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("floor: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static double clock_seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* ---- connections -------------------------------------------------------------------------------------------- */

enum { NOT_A_CLIENT = -2, NOT_UPGRADED = -1 };

static int poller, listener, redis = -1;
static int *user_of;              /* by descriptor */
static int *connection_of;        /* by user; 0: not connected */
static int open_connections, highest_user;
static uint64_t frames_sent, sends_blocked;

static void watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
}

static void no_delay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void start_listening(void)
{
    int on = 1;
    struct sockaddr_in address = loopback(options.port);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        fail("port %d: %s", options.port, strerror(errno));
    watch(listener);
}

static void accept_all(void)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        if (fd >= MOST_FILES)
            fail("more than %d descriptors", MOST_FILES);
        no_delay(fd);
        user_of[fd] = NOT_UPGRADED;
        watch(fd);
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        fail("accept: %s", strerror(errno));
}

static void drop(int fd)
{
    int user = user_of[fd];
    if (user >= 0) {
        open_connections--;
        if (connection_of[user] == fd)
            connection_of[user] = 0;
    }
    user_of[fd] = NOT_A_CLIENT;
    close(fd);
}

/* The request must come in one piece and bring RFC 6455's example key, as our generator's does. */
static void upgrade(int fd, const char *request)
{
    static const char answer[] =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    const char *query = strstr(request, "u=");
    int user = query ? atoi(query + 2) : -1;
    if (user < 0 || user >= MOST_USERS || !strstr(request, "\r\n\r\n")) {
        drop(fd);
        return;
    }
    if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) != (ssize_t)(sizeof answer - 1)) {
        drop(fd);
        return;
    }
    user_of[fd] = user;
    connection_of[user] = fd;
    open_connections++;
    if (user > highest_user)
        highest_user = user;
}

/* What an open client sends (pongs, a close) is read and ignored; its end is not. */
static void on_client_readable(int fd)
{
    static char data[16384];
    ssize_t got = read(fd, data, sizeof data - 1);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        drop(fd);
        return;
    }
    data[got] = 0;
    if (user_of[fd] == NOT_UPGRADED)
        upgrade(fd, data);
}

/* Sends all of a frame. A full socket is waited for, asleep: that costs wall time, which is counted, and no CPU. */
static void send_whole(int fd, const uint8_t *data, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent >= 0) {
            data += sent;
            length -= (size_t)sent;
            continue;
        }
        struct pollfd writable = {.fd = fd, .events = POLLOUT};
        sends_blocked++;
        if (errno != EAGAIN || poll(&writable, 1, SEND_PATIENCE_MS) != 1) {
            drop(fd);
            return;
        }
    }
    frames_sent++;
}

/* RFC 6455 5.2: a final, unmasked text frame. */
static size_t build_frame(uint8_t *frame, const uint8_t *text, size_t length)
{
    size_t header = length < 126 ? 2 : 4;
    frame[0] = 0x81;
    frame[1] = length < 126 ? (uint8_t)length : 126;
    if (header == 4) {
        frame[2] = (uint8_t)(length >> 8);
        frame[3] = (uint8_t)length;
    }
    memcpy(frame + header, text, length);
    return header + length;
}

/* ---- Redis -------------------------------------------------------------------------------------------------- */

struct bytes {
    const uint8_t *data;
    size_t length;
};

struct cursor {
    const uint8_t *at, *end;
};

static struct {
    uint8_t *buffer;
    size_t length;
} reply;

static void send_redis(const char *data, size_t length)
{
    while (length) {
        ssize_t sent = send(redis, data, length, MSG_NOSIGNAL);
        if (sent < 0)
            fail("Redis: %s", strerror(errno));
        data += sent;
        length -= (size_t)sent;
    }
}

static size_t put_argument(char *out, const char *text, size_t length)
{
    size_t size = (size_t)sprintf(out, "$%zu\r\n", length);
    memcpy(out + size, text, length);
    memcpy(out + size + length, "\r\n", 2);
    return size + length + 2;
}

static size_t put_command(char *out, int count, const char *const *arguments, int more)
{
    size_t size = (size_t)sprintf(out, "*%d\r\n", count + more);
    for (int i = 0; i < count; i++)
        size += put_argument(out + size, arguments[i], strlen(arguments[i]));
    return size;
}

/* Acknowledges one batch and asks for the next in a single write. */
static void ask_for_more(const struct bytes *ids, int count)
{
    static char out[64 * (MOST_BATCH + 64)];
    char batch[16];
    size_t size = 0;
    snprintf(batch, sizeof batch, "%d", options.batch);
    if (count) {
        const char *acknowledge[] = {"XACK", options.stream, options.group};
        size = put_command(out, 3, acknowledge, count);
        for (int i = 0; i < count; i++)
            size += put_argument(out + size, (const char *)ids[i].data, ids[i].length);
    }
    const char *read_group[] = {"XREADGROUP", "GROUP", options.group, options.consumer, "COUNT", batch,
                                "BLOCK", "0", "STREAMS", options.stream, ">"};
    size += put_command(out + size, 11, read_group, 0);
    send_redis(out, size);
}

/* One line of RESP: its type byte and its number; false if its end has not come yet. */
static bool parse_line(struct cursor *c, char *type, long *number)
{
    const uint8_t *line_end = memchr(c->at, '\n', (size_t)(c->end - c->at));
    if (!line_end)
        return false;
    *type = (char)*c->at;
    *number = strtol((const char *)c->at + 1, NULL, 10);
    if (*type == '-')
        fail("Redis: %.*s", (int)(line_end - c->at - 1), c->at);
    c->at = line_end + 1;
    return true;
}

static bool parse_array(struct cursor *c, long *count)
{
    char type;
    if (!parse_line(c, &type, count))
        return false;
    if (type != '*')
        fail("Redis: an array was expected, not %c", type);
    return true;
}

static bool parse_bulk(struct cursor *c, struct bytes *bulk)
{
    char type;
    long length;
    if (!parse_line(c, &type, &length))
        return false;
    if (type != '$' || length < 0)
        fail("Redis: a string was expected, not %c", type);
    if (c->end - c->at < length + 2)
        return false;
    *bulk = (struct bytes){c->at, (size_t)length};
    c->at += length + 2;
    return true;
}

struct entry {
    struct bytes user, text;
};

/* [id, [field, value, ...]] */
static bool parse_entry(struct cursor *c, struct bytes *id, struct entry *entry)
{
    long pair, fields;
    if (!parse_array(c, &pair) || !parse_bulk(c, id) || !parse_array(c, &fields))
        return false;
    *entry = (struct entry){{NULL, 0}, {NULL, 0}};
    for (long i = 0; i < fields; i += 2) {
        struct bytes name, value;
        if (!parse_bulk(c, &name) || !parse_bulk(c, &value))
            return false;
        if (name.length == 1 && *name.data == 'u')
            entry->user = value;
        else if (name.length == 1 && *name.data == 'd')
            entry->text = value;
    }
    if (entry->user.length != 6 || entry->text.length > LONGEST_FRAME)
        fail("entry %.*s: `u` of six characters and `d` are wanted", (int)id->length, id->data);
    return true;
}

static void deliver(const struct entry *entry)
{
    static uint8_t frame[4 + LONGEST_FRAME];
    size_t length = build_frame(frame, entry->text.data, entry->text.length);
    if (entry->user.data[0] == '*') {
        for (int user = 0; user <= highest_user; user++)
            if (connection_of[user])
                send_whole(connection_of[user], frame, length);
        return;
    }
    int user = 0;
    for (int i = 0; i < 6; i++)
        user = user * 10 + (entry->user.data[i] - '0');
    if (user >= 0 && user < MOST_USERS && connection_of[user])
        send_whole(connection_of[user], frame, length);
}

/* The answer to XREADGROUP: [[stream, [entry, ...]]]. False if it is not complete. */
static bool handle_batch(struct cursor *c)
{
    static struct bytes ids[MOST_BATCH];
    static struct entry entries[MOST_BATCH];
    struct bytes stream;
    long streams, pair, count;
    if (!parse_array(c, &streams) || !parse_array(c, &pair) || !parse_bulk(c, &stream) || !parse_array(c, &count))
        return false;
    if (count > MOST_BATCH)
        fail("Redis: %ld entries, more than were asked for", count);
    for (long i = 0; i < count; i++)
        if (!parse_entry(c, &ids[i], &entries[i]))
            return false;
    for (long i = 0; i < count; i++)
        deliver(&entries[i]);
    ask_for_more(ids, (int)count);
    return true;
}

static void on_redis_readable(void)
{
    ssize_t got = read(redis, reply.buffer + reply.length, REPLY_BUFFER - reply.length);
    if (got <= 0)
        fail("Redis: %s", got ? strerror(errno) : "closed the connection, or a batch is over 64 MiB");
    reply.length += (size_t)got;
    struct cursor c = {reply.buffer, reply.buffer + reply.length};
    const uint8_t *done = c.at;
    while (c.at < c.end) {
        char type;
        long number;
        if (*c.at == '*' ? !handle_batch(&c) : !parse_line(&c, &type, &number))
            break;
        done = c.at;
    }
    reply.length -= (size_t)(done - reply.buffer);
    memmove(reply.buffer, done, reply.length);
}

static void open_redis(void)
{
    struct sockaddr_in address = loopback(options.redis_port);
    char out[1024], answer[256];
    redis = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(redis, (struct sockaddr *)&address, sizeof address))
        fail("Redis, port %d: %s", options.redis_port, strerror(errno));
    no_delay(redis);
    reply.buffer = malloc(REPLY_BUFFER);
    if (!reply.buffer)
        fail("out of memory");
    const char *create[] = {"XGROUP", "CREATE", options.stream, options.group, "0", "MKSTREAM"};
    send_redis(out, put_command(out, 6, create, 0));
    ssize_t got = read(redis, answer, sizeof answer - 1);
    if (got <= 0 || (answer[0] != '+' && strncmp(answer, "-BUSYGROUP", 10)))
        fail("XGROUP CREATE: %.*s", got > 0 ? (int)got : 0, answer);
    watch(redis);
    ask_for_more(NULL, 0);
}

/* ---- the two modes ------------------------------------------------------------------------------------------ */

static void turn(int wait_ms)
{
    static struct epoll_event ready[512];
    int count = epoll_wait(poller, ready, 512, wait_ms);
    for (int i = 0; i < count; i++) {
        int fd = ready[i].data.fd;
        if (fd == listener)
            accept_all();
        else if (fd == redis)
            on_redis_readable();
        else if (user_of[fd] != NOT_A_CLIENT)
            on_client_readable(fd);
    }
}

static void run_stream(void)
{
    open_redis();
    for (;;)
        turn(-1);
}

/* The stamp is all zeros: the generator counts such a frame and takes no latency from it. */
static size_t ready_frame(uint8_t *frame)
{
    static uint8_t text[LONGEST_FRAME];
    static const char start[] = "{\"type\":\"like\",\"text\":\"TS=0000000000000000000\",\"pad\":\"";
    size_t length = (size_t)options.length;
    memset(text, 'x', length);
    memcpy(text, start, sizeof start - 1);
    memcpy(text + length - 2, "\"}", 2);
    return build_frame(frame, text, length);
}

/* At most one frame for each connection; goes on where the last round was cut short. */
static void send_round(const uint8_t *frame, size_t length, double most)
{
    static int user;
    for (int i = 0; i <= highest_user && most >= 1; i++) {
        user = user < highest_user ? user + 1 : 0;
        if (connection_of[user]) {
            send_whole(connection_of[user], frame, length);
            most--;
        }
    }
}

/* Rounds until `end`; between them a look at the clock and at the clients. */
static void send_until(double end, const uint8_t *frame, size_t length)
{
    double start = clock_seconds(CLOCK_MONOTONIC);
    uint64_t before = frames_sent;
    for (double now = start; now < end && open_connections; now = clock_seconds(CLOCK_MONOTONIC)) {
        double behind = (now - start) * options.rate - (double)(frames_sent - before);
        send_round(frame, length, options.rate > 0 ? behind : MOST_USERS);
        turn(options.rate > 0 ? 1 : 0);
    }
}

static void run_selfgen(void)
{
    static uint8_t frame[4 + LONGEST_FRAME];
    size_t length = ready_frame(frame);
    double give_up = clock_seconds(CLOCK_MONOTONIC) + CLIENT_PATIENCE;
    while (open_connections < options.connections) {
        turn(100);
        if (clock_seconds(CLOCK_MONOTONIC) > give_up)
            fail("only %d of %d connections came within %d s", open_connections, options.connections, CLIENT_PATIENCE);
    }
    send_until(clock_seconds(CLOCK_MONOTONIC) + 0.5, frame, length);  /* warm-up */
    frames_sent = sends_blocked = 0;
    int connected = open_connections;
    double wall = clock_seconds(CLOCK_MONOTONIC), cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
    send_until(wall + options.seconds, frame, length);
    wall = clock_seconds(CLOCK_MONOTONIC) - wall;
    cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    give_up = clock_seconds(CLOCK_MONOTONIC) + CLIENT_PATIENCE;
    if (!frames_sent)
        fail("no frame was sent: the connections closed");
    printf("{\"connections\": %d, \"dropped\": %d, \"frames\": %llu, \"frames_per_s\": %.0f, "
           "\"cpu_us_per_frame\": %.3f, \"cpu_percent\": %.1f, \"blocked\": %llu}\n",
           connected, connected - open_connections, (unsigned long long)frames_sent, (double)frames_sent / wall,
           cpu * 1e6 / (double)frames_sent, cpu * 100 / wall, (unsigned long long)sends_blocked);
    fflush(stdout);
    /* Stay until the clients have gone, so that they need not count our end as dead connections. */
    while (open_connections && clock_seconds(CLOCK_MONOTONIC) < give_up)
        turn(100);
}

/* ---- start -------------------------------------------------------------------------------------------------- */

static void usage(void) __attribute__((noreturn));

static void usage(void)
{
    fputs(USAGE, stderr);
    exit(2);
}

static int whole_option(int letter, int least, int most)
{
    char *end;
    long value = strtol(optarg, &end, 10);
    if (*end || end == optarg || value < least || value > most)
        fail("-%c %s: a whole number from %d to %d is wanted", letter, optarg, least, most);
    return (int)value;
}

static void read_options(int count, char **arguments)
{
    for (int letter; (letter = getopt(count, arguments, "p:R:s:g:c:b:n:d:l:r:")) > 0;) {
        switch (letter) {
        case 'p': options.port = whole_option(letter, 1, 65535); break;
        case 'R': options.redis_port = whole_option(letter, 1, 65535); break;
        case 's': options.stream = optarg; break;
        case 'g': options.group = optarg; break;
        case 'c': options.consumer = optarg; break;
        case 'b': options.batch = whole_option(letter, 1, MOST_BATCH); break;
        case 'n': options.connections = whole_option(letter, 1, MOST_USERS); break;
        case 'd': options.seconds = whole_option(letter, 1, 3600); break;
        case 'l': options.length = whole_option(letter, 64, LONGEST_FRAME); break;
        case 'r': options.rate = whole_option(letter, 1, 100000000); break;
        default: usage();
        }
    }
    if (!options.port || strlen(options.stream) + strlen(options.group) + strlen(options.consumer) > 500)
        usage();
}

int main(int count, char **arguments)
{
    bool stream = count > 1 && !strcmp(arguments[1], "stream");
    if (!stream && (count < 2 || strcmp(arguments[1], "selfgen")))
        usage();
    read_options(count - 1, arguments + 1);
    if (stream && !options.redis_port)
        usage();
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    /* Fresh pages are zero and cost nothing until they are touched, so both tables may be as large as they like. */
    user_of = calloc(MOST_FILES, sizeof *user_of);
    connection_of = calloc(MOST_USERS, sizeof *connection_of);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!user_of || !connection_of || poller < 0)
        fail("out of memory");
    start_listening();
    if (stream)
        run_stream();
    else
        run_selfgen();
    return 0;
}
