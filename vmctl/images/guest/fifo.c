/* A queue of bytes. Who fills it bounds it: see session_room and log_room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmctl.h"

size_t fifo_length(const struct fifo *fifo)
{
    return fifo->end - fifo->start;
}

void fifo_put(struct fifo *fifo, const void *data, size_t length)
{
    if (fifo->end + length > fifo->capacity) {
        size_t held = fifo_length(fifo);
        if (fifo->start)
            memmove(fifo->data, fifo->data + fifo->start, held);
        fifo->start = 0;
        fifo->end = held;
        if (held + length > fifo->capacity) {
            size_t capacity = (held + length) * 2;
            unsigned char *grown = realloc(fifo->data, capacity);
            if (!grown) {
                say("out of memory: %zu bytes dropped", length);
                return;
            }
            fifo->data = grown;
            fifo->capacity = capacity;
        }
    }
    memcpy(fifo->data + fifo->end, data, length);
    fifo->end += length;
}

void fifo_drop(struct fifo *fifo, size_t length)
{
    fifo->start += length;
    if (fifo->start == fifo->end)
        fifo->start = fifo->end = 0;
}

void fifo_free(struct fifo *fifo)
{
    free(fifo->data);
    memset(fifo, 0, sizeof *fifo);
}

ssize_t fifo_write(struct fifo *fifo, int fd)
{
    size_t total = 0;
    while (fifo_length(fifo)) {
        size_t length = fifo_length(fifo) < CHUNK ? fifo_length(fifo) : CHUNK;
        ssize_t count = write(fd, fifo->data + fifo->start, length);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno == EAGAIN)
            break;
        if (count <= 0)
            return -1;
        fifo_drop(fifo, (size_t)count);
        total += (size_t)count;
    }
    return (ssize_t)total;
}
