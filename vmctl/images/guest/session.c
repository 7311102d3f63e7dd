/* Sessions: what is read from a port becomes requests, what a process writes becomes frames. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmctl.h"

enum { OUT_LIMIT = 512 << 10, ROUNDS = 16 };

struct session sessions[MAX_SESSIONS] = {[0 ... MAX_SESSIONS - 1] = {.fd = -1}};

void session_open(unsigned number, int fd)
{
    sessions[number].fd = fd;
    sessions[number].ready = true;
}

void session_send(struct session *session, enum frame type, const void *payload, size_t length)
{
    unsigned char header[HEADER] = {(unsigned char)type};
    uint32_t size = htonl((uint32_t)length);
    memcpy(header + 1, &size, sizeof size);
    if (!session->connected)
        return;
    fifo_put(&session->out, header, sizeof header);
    fifo_put(&session->out, payload, length);
    if (type == STDOUT || type == STDERR)
        session->credit -= length;
}

void session_send_pair(struct session *session, enum frame type, const char *key, const char *value)
{
    char text[256];
    int length = snprintf(text, sizeof text, "%s%c%.200s%c", key, 0, value, 0);
    session_send(session, type, text, (size_t)length);
}

void session_send_exit(struct session *session, const struct process *process)
{
    char text[64];
    int signal, code = process_code(process, &signal);
    int length = snprintf(text, sizeof text, "code%c%d%coom%c%d%c", 0, code, 0, 0, process->oom, 0);
    if (signal)
        length += snprintf(text + length, sizeof text - (size_t)length, "signal%c%d%c", 0, signal, 0);
    session_send(session, EXIT, text, (size_t)length);
}

void session_fail(struct session *session, const char *code, const char *message)
{
    char text[320];
    int length = snprintf(text, sizeof text, "code%c%s%cmessage%c%.250s%c", 0, code, 0, 0, message, 0);
    session_send(session, ERROR, text, (size_t)length);
}

size_t session_room(const struct session *session)
{
    size_t held = fifo_length(&session->out);
    size_t room = held < OUT_LIMIT ? OUT_LIMIT - held : 0;
    if (room > CHUNK)
        room = CHUNK;
    return room < session->credit ? room : session->credit;
}

static void acknowledge(struct session *session, size_t count)
{
    uint32_t value = htonl((uint32_t)count);
    if (count)
        session_send(session, WINDOW, &value, sizeof value);
}

void session_feed_input(struct session *session, struct process *process)
{
    size_t held = fifo_length(&session->in);
    if (held && process->in >= 0) {
        ssize_t count = fifo_write(&session->in, process->in);
        if (count < 0 && !process->tty)
            process_close_input(process); /* nobody reads any more */
        if (count >= 0)
            acknowledge(session, (size_t)count);
        held = fifo_length(&session->in);
    }
    if (held && process->in < 0) {
        fifo_drop(&session->in, held);
        acknowledge(session, held);
        held = 0;
    }
    if (!held && session->in_ended) {
        session->in_ended = false;
        process_close_input(process);
    }
}

/* Forget what the client before wanted. A process of its own is ended, the main process lives on. */
void session_reset(struct session *session)
{
    if (session->process)
        machine_disown(session->process);
    session->process = NULL;
    machine_forget(session);
    session->attached = session->attached_stdin = session->in_ended = false;
    fifo_drop(&session->in, fifo_length(&session->in));
    fifo_drop(&session->out, fifo_length(&session->out));
    session->credit = WINDOW_SIZE;
}

static void send_ready(struct session *session)
{
    static const char *const states[] = {"waiting", "running", "ended"};
    char text[64];
    int length = snprintf(text, sizeof text, "version%c1%cstate%c%s%cpid%c%d%c", 0, 0, 0, states[machine_state], 0, 0,
                          main_process ? (int)main_process->pid : 0, 0);
    session_send(session, READY, text, (size_t)length);
}

static void take_stdin(struct session *session, const char *payload, size_t length)
{
    bool wanted = session->process || (session->attached && session->attached_stdin);
    if (fifo_length(&session->in) + length > WINDOW_SIZE)
        session->broken = true;
    else if (wanted)
        fifo_put(&session->in, payload, length);
    else
        acknowledge(session, length);
}

static void attach(struct session *session, struct spec *spec)
{
    if (machine_state != RUNNING)
        session_fail(session, "no-process", "the main process does not run");
    else if (session->process)
        session_fail(session, "busy", "the session has a process of its own");
    else {
        session->attached = true;
        session->attached_stdin = spec->keep_stdin;
    }
    spec_free(spec);
}

/* Requests made of pairs; takes the payload over. */
static void take_request(struct session *session, enum frame type, char *payload, size_t length)
{
    struct spec *spec = spec_parse(payload, length);
    if (!spec)
        session_fail(session, "bad-request", "malformed frame");
    else if (type == BOOT)
        machine_boot(session, spec);
    else if (type == EXEC)
        machine_exec(session, spec);
    else if (type == ATTACH)
        attach(session, spec);
    else {
        machine_power_off(spec);
        spec_free(spec);
    }
}

static void resize(struct session *session, const unsigned char *size)
{
    struct process *process = session->process ? session->process : session->attached ? main_process : NULL;
    if (process)
        process_resize(process, (unsigned)size[0] << 8 | size[1], (unsigned)size[2] << 8 | size[3]);
}

static void take_window(struct session *session, const unsigned char *bytes)
{
    size_t more = (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3];
    session->credit = more > WINDOW_SIZE - session->credit ? WINDOW_SIZE : session->credit + more;
}

/* One whole frame. Returns true when it took the payload over. */
static bool take_frame(struct session *session, enum frame type, char *payload, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)payload;
    if (type == SYNC && length == 16) {
        session_reset(session);
        session->synchronised = true;
        session_send(session, SYNC, payload, length);
        send_ready(session);
        return false;
    }
    if (!session->synchronised)
        return false;
    if (type == BOOT || type == EXEC || type == ATTACH || type == POWEROFF) {
        take_request(session, type, payload, length);
        return true;
    }
    if (type == STDIN)
        take_stdin(session, payload, length);
    else if (type == STDIN_EOF)
        session->in_ended = session->process || (session->attached && session->attached_stdin);
    else if (type == SIGNAL && length == 1)
        machine_signal(session, bytes[0]);
    else if (type == WINCH && length == 4)
        resize(session, bytes);
    else if (type == PING)
        session_send(session, PONG, payload, length);
    else if (type == WINDOW && length == 4)
        take_window(session, bytes);
    return false;
}

static void end_frame(struct session *session)
{
    char *payload = session->payload;
    session->payload = NULL;
    session->header_length = 0;
    if (!take_frame(session, session->header[0], payload, session->payload_size))
        free(payload);
}

static void begin_payload(struct session *session)
{
    const unsigned char *header = session->header;
    size_t size = (size_t)header[1] << 24 | (size_t)header[2] << 16 | (size_t)header[3] << 8 | header[4];
    session->payload_length = 0;
    session->payload_size = size;
    /* One byte more, so that an empty payload is memory too. */
    session->payload = size > MAX_PAYLOAD || (header[0] == STDIN && size > MAX_DATA) ? NULL : malloc(size + 1);
    if (!session->payload) {
        say("session %d: frame of type %u with %zu bytes refused", (int)(session - sessions), header[0], size);
        session->header_length = 0;
        session->broken = true;
    } else if (!size)
        end_frame(session);
}

/* After bytes that are no frame: everything is swallowed until a SYNC, of this client or the next. (Not to be done
 * inside of good frames, whose content is anybody's.) */
static void hunt(struct session *session, unsigned char byte)
{
    static const unsigned char sync[HEADER] = {SYNC, 0, 0, 0, 16};
    if (byte != sync[session->header_length])
        session->header_length = 0;
    if (byte == sync[session->header_length])
        session->header[session->header_length++] = byte;
    if (session->header_length == HEADER) {
        session->broken = false;
        begin_payload(session);
    }
}

static void take_bytes(struct session *session, const char *data, size_t length)
{
    while (length) {
        if (session->broken) {
            hunt(session, (unsigned char)*data++);
            length--;
            continue;
        }
        if (!session->payload) {
            if (session->header_length || *data != NOP)
                session->header[session->header_length++] = (unsigned char)*data;
            data++;
            length--;
            if (session->header_length == HEADER)
                begin_payload(session);
            continue;
        }
        size_t wanted = session->payload_size - session->payload_length;
        size_t count = wanted < length ? wanted : length;
        memcpy(session->payload + session->payload_length, data, count);
        session->payload_length += count;
        data += count;
        length -= count;
        if (session->payload_length == session->payload_size)
            end_frame(session);
    }
}

static void disconnect(struct session *session)
{
    session_reset(session);
    free(session->payload);
    session->payload = NULL;
    session->header_length = 0;
    session->connected = session->synchronised = session->broken = false;
}

void session_serve(struct session *session)
{
    static char data[CHUNK];
    for (int round = 0; round < ROUNDS; round++) {
        if (fifo_write(&session->out, session->fd) < 0)
            fifo_drop(&session->out, fifo_length(&session->out));
        if (fifo_length(&session->out) >= OUT_LIMIT || !session->ready)
            return;
        ssize_t count = read(session->fd, data, sizeof data);
        if (count > 0) {
            session->connected = true;
            take_bytes(session, data, (size_t)count);
        } else if (count < 0 && errno == EINTR) {
            continue;
        } else {
            session->ready = false;
            if (count == 0 && session->connected)
                disconnect(session);
        }
    }
}
