/* The init's session code outside of a machine, for hostile input under the address sanitizer.
 *
 * stdin: cases, each a length (4 bytes, big endian) and so many bytes, as one client would send them over one
 * connection. stdout: for each case what the session sent, in the same form. What requests would do is left out. */
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmctl.h"

enum machine_state machine_state = RUNNING;
struct process *main_process;

void say(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
}

static void read_spec(const struct spec *spec)
{
    size_t total = 0;
    for (char **lists[] = {spec->argv, spec->env, spec->dns}, ***list = lists; list < lists + 3; list++)
        for (char **text = *list; *text; text++)
            total += strlen(*text);
    if (total > MAX_PAYLOAD)
        abort();
}

void machine_boot(struct session *session, struct spec *spec)
{
    read_spec(spec);
    session_fail(session, "busy", "boot");
    spec_free(spec);
}

void machine_exec(struct session *session, struct spec *spec)
{
    read_spec(spec);
    session_fail(session, "not-found", spec->argv[0] ? spec->argv[0] : "");
    spec_free(spec);
}

void machine_signal(struct session *session, int number)
{
    if (number < 0 || number > 255)
        abort();
    session_fail(session, "no-process", "signal");
}

void machine_power_off(const struct spec *spec) { read_spec(spec); }
void machine_disown(struct process *process) { (void)process; }
void machine_forget(const struct session *session) { (void)session; }
void process_close_input(struct process *process) { (void)process; }
void process_resize(const struct process *process, unsigned rows, unsigned columns)
{
    (void)process, (void)rows, (void)columns;
}
int process_code(const struct process *process, int *signal)
{
    (void)process;
    return *signal = 0;
}

static void run_case(const char *data, size_t length)
{
    static char answer[4 << 20];
    int ends[2];
    size_t answered = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends))
        abort();
    session_open(0, ends[0]);
    for (int closed = 0; closed < 2;) {
        ssize_t count = length ? write(ends[1], data, length) : 0;
        if (count > 0) {
            data += count;
            length -= (size_t)count;
        }
        sessions[0].ready = true;
        session_serve(&sessions[0]);
        while ((count = read(ends[1], answer + answered, sizeof answer - answered)) > 0)
            answered += (size_t)count;
        closed += !length && !fifo_length(&sessions[0].out);
    }
    shutdown(ends[1], SHUT_WR);
    for (int round = 0; round < 8; round++) {
        sessions[0].ready = true;
        session_serve(&sessions[0]);
    }
    close(ends[0]);
    close(ends[1]);
    if (sessions[0].connected || sessions[0].payload)
        abort();
    uint32_t size = htonl((uint32_t)answered);
    fwrite(&size, sizeof size, 1, stdout);
    fwrite(answer, 1, answered, stdout);
}

int main(void)
{
    uint32_t size;
    while (fread(&size, sizeof size, 1, stdin) == 1) {
        size_t length = ntohl(size);
        char *data = malloc(length + 1);
        if (fread(data, 1, length, stdin) != length)
            return 2;
        run_case(data, length);
        free(data);
    }
    fifo_free(&sessions[0].in);
    fifo_free(&sessions[0].out);
    return 0;
}
