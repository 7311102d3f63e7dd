/* PID 1: sets itself up, finds its ports, and hands over to loop.c. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmctl.h"

#define PORTS "/sys/class/virtio-ports"
#define PREFIX "vmctl."

#ifndef VMCTL_SOURCE_HASH
#define VMCTL_SOURCE_HASH "unknown"
#endif
/* Ties the binary to its sources; vmctl/images/init.py looks for it. */
static const char *volatile identity = "vmctl-init " VMCTL_SOURCE_HASH;

int ports_epoll;

uint64_t now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

uint64_t clock_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* On the serial console: what an operator sees first when a start fails. */
void say(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("vmctl-init: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
}

bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return false;
    bool good = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return good;
}

bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    text[count > 0 ? count : 0] = 0;
    return count > 0;
}

static void open_port(const char *device, const char *name)
{
    char path[300], *end;
    bool is_log = !strcmp(name, "log");
    unsigned long number = strtoul(name, &end, 10);
    if (is_log ? log_is_open() : *end || end == name || number >= MAX_SESSIONS || sessions[number].fd >= 0)
        return;
    snprintf(path, sizeof path, "/dev/%.250s", device);
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        say("port %s: %s", name, strerror(errno));
        return;
    }
    if (is_log) {
        log_open(fd);
        return;
    }
    session_open((unsigned)number, fd);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = (uint32_t)number};
    epoll_ctl(ports_epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Open every port of ours that is there and not open yet. A port gets its name a moment after it appears. */
void scan_ports(void)
{
    DIR *folder = opendir(PORTS);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char path[300], name[64];
        snprintf(path, sizeof path, PORTS "/%.200s/name", entry->d_name);
        if (*entry->d_name == '.' || !read_text(path, name, sizeof name))
            continue;
        name[strcspn(name, "\n")] = 0;
        if (!strncmp(name, PREFIX, strlen(PREFIX)))
            open_port(entry->d_name, name + strlen(PREFIX));
    }
    if (folder)
        closedir(folder);
}

static int open_uevents(void)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address))
        say("uevents: %s", strerror(errno));
    return fd;
}

void power_off(void)
{
    log_finish();
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

int main(void)
{
    if (getpid() != 1) {
        puts(identity);
        return 1;
    }
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGPIPE, SIG_IGN);
    mount_early();
    int console = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int i = 0; i < 3; i++)
        dup2(console, i);
    reboot(RB_DISABLE_CAD);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    int signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
    int uevents = open_uevents();
    ports_epoll = epoll_create1(EPOLL_CLOEXEC);
    load_modules();
    scan_ports();
    run_loop(signals, uevents);
}
