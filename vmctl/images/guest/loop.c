/* The poll loop. */
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "vmctl.h"

static int wait_time(void)
{
    uint64_t now = now_ms(), first = machine_next_timer(now);
    for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++) {
        if (session->ready && fifo_length(&session->out) < WINDOW_SIZE)
            return 0;
        if (session->process && session->process->reaped && first > now + 10)
            first = now + 10;
    }
    return first <= now ? 0 : (int)(first - now);
}

static void watch(struct pollfd *fds, nfds_t *count, int fd, short events)
{
    if (fd >= 0)
        fds[(*count)++] = (struct pollfd){.fd = fd, .events = events};
}

static void watch_process(struct pollfd *fds, nfds_t *count, const struct process *process, bool room, bool input)
{
    short output = (short)(room ? POLLIN : 0), feed = (short)(input ? POLLOUT : 0);
    if (process->tty) {
        if (output | feed)
            watch(fds, count, process->out, output | feed);
        return;
    }
    if (room) {
        watch(fds, count, process->out, POLLIN);
        watch(fds, count, process->err, POLLIN);
    }
    if (input)
        watch(fds, count, process->in, POLLOUT);
}

/* signals: a signalfd; uevents: a netlink socket; ports: in an epoll of its own, edge-triggered, because a port
 * without client polls as hung up all the time. */
static void wait_for_events(int signals, int uevents)
{
    struct pollfd fds[8 + 3 * (MAX_SESSIONS + 1)];
    nfds_t count = 0;
    bool main_input = false;
    watch(fds, &count, signals, POLLIN);
    watch(fds, &count, uevents, POLLIN);
    watch(fds, &count, ports_epoll, POLLIN);
    if (log_pending())
        watch(fds, &count, log_fd(), POLLOUT);
    for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++) {
        if (session->process)
            watch_process(fds, &count, session->process, session_room(session), fifo_length(&session->in));
        else if (session->attached)
            main_input |= fifo_length(&session->in) > 0;
    }
    if (main_process)
        watch_process(fds, &count, main_process, main_room(), main_input);
    poll(fds, count, wait_time());
}

void run_loop(int signals, int uevents)
{
    struct epoll_event events[MAX_SESSIONS];
    char discard[4096];
    for (;;) {
        wait_for_events(signals, uevents);
        int ready = epoll_wait(ports_epoll, events, MAX_SESSIONS, 0);
        for (int i = 0; i < ready; i++)
            sessions[events[i].data.u32].ready = true;
        while (read(signals, discard, sizeof discard) > 0)
            ;
        machine_reap();
        bool changed = false;
        while (read(uevents, discard, sizeof discard) > 0)
            changed = true;
        if (changed)
            scan_ports();
        for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++)
            if (session->fd >= 0)
                session_serve(session);
        machine_pump();
        machine_run_timers();
        log_flush();
        for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++)
            if (fifo_length(&session->out))
                session_serve(session);
        if (machine_is_over())
            power_off();
    }
}
