/* Records of the main process's output and end, through the port vmctl.log into a file of the host. */
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmctl.h"

enum { LOG_LIMIT = 1 << 20 };

static int port = -1;
static struct fifo queue;

void log_open(int fd)
{
    port = fd;
}

bool log_is_open(void)
{
    return port >= 0;
}

int log_fd(void)
{
    return port;
}

/* Bytes of output that can be logged now; without a port everything is swallowed. */
size_t log_room(void)
{
    size_t held = fifo_length(&queue);
    return port < 0 ? MAX_DATA : held < LOG_LIMIT ? LOG_LIMIT - held : 0;
}

bool log_pending(void)
{
    return port >= 0 && fifo_length(&queue);
}

static void record(unsigned char stream, const void *data, size_t length)
{
    if (port < 0)
        return;
    unsigned char header[17] = {0xf5, 'V', 'L', '1', stream};
    uint64_t at = htobe64(clock_ns());
    uint32_t size = htobe32((uint32_t)length);
    memcpy(header + 5, &at, 8);
    memcpy(header + 13, &size, 4);
    fifo_put(&queue, header, sizeof header);
    fifo_put(&queue, data, length);
}

void log_output(enum frame type, const void *data, size_t length)
{
    record(type == STDOUT ? 1 : 2, data, length);
}

void log_exit(const struct process *process)
{
    char text[64];
    int signal, code = process_code(process, &signal);
    int length = snprintf(text, sizeof text, "code%c%d%coom%c%d%c", 0, code, 0, 0, process->oom, 0);
    if (signal)
        length += snprintf(text + length, sizeof text - (size_t)length, "signal%c%d%c", 0, signal, 0);
    record(0, text, (size_t)length);
}

void log_flush(void)
{
    if (port >= 0 && fifo_write(&queue, port) < 0)
        fifo_free(&queue);
}

/* Before power off. A blocking write returns when the host has taken a buffer; buffers are taken in order, so one
 * more byte (which readers skip) written after the last record makes sure of that one. */
void log_finish(void)
{
    if (port < 0)
        return;
    fcntl(port, F_SETFL, 0);
    log_flush();
    if (write(port, "", 1) != 1 || write(port, "", 1) != 1)
        say("log: cannot finish");
}
