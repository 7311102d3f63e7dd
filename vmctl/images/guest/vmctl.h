/* The init of image machines: shared declarations.
 *
 * One process, one poll loop, no threads. Each virtio-serial port called vmctl.<n> is a session of its own; the port
 * vmctl.log takes what the main process writes and how it ended. The protocol is described in
 * vmctl/backends/wire/frames.py, the log's records in logfile.py. */
#ifndef VMCTL_H
#define VMCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum frame {
    NOP, SYNC, READY, BOOT, EXEC, ATTACH, STDIN, STDIN_EOF, STDOUT, STDERR, EXIT, SIGNAL, WINCH, POWEROFF, PING, PONG,
    ERROR, WINDOW, STARTED,
};

enum {
    HEADER = 5,
    MAX_DATA = 64 << 10,
    MAX_PAYLOAD = 1 << 20,
    WINDOW_SIZE = 256 << 10,
    CHUNK = 32 << 10,          /* what one write to a port carries at most */
    MAX_SESSIONS = 8,
};

enum machine_state { WAITING, RUNNING, ENDED };

/* fifo.c: bytes in, bytes out. */
struct fifo {
    unsigned char *data;
    size_t start, end, capacity;
};
size_t fifo_length(const struct fifo *fifo);
void fifo_put(struct fifo *fifo, const void *data, size_t length);
void fifo_drop(struct fifo *fifo, size_t length);
void fifo_free(struct fifo *fifo);
/* Write what the descriptor takes; -1 when it is broken. */
ssize_t fifo_write(struct fifo *fifo, int fd);

/* spec.c: what BOOT and EXEC say. Strings point into the payload, which the spec owns. */
struct spec {
    char *payload;
    char **argv, **env;
    char *cwd, *user;
    bool tty, keep_stdin;
    unsigned rows, columns;
    /* BOOT only */
    char *hostname, *root, *fstype, *upper, *entropy, *restart;
    char *mac, *address, *gateway, **dns;
    bool has_network, read_only;
    unsigned restart_max, network_wait; /* milliseconds to wait for DHCP */
    uint64_t clock;
    /* POWEROFF only; milliseconds */
    unsigned timeout, signal;
};
/* Takes the payload over. NULL when it is malformed. */
struct spec *spec_parse(char *payload, size_t length);
void spec_free(struct spec *spec);

/* process.c */
struct process {
    pid_t pid;
    int in, out, err;           /* our ends; -1 when closed. With a TTY in == out and err == -1. */
    bool tty, reaped, drained;
    int status;
    bool oom;
    uint64_t reaped_at, started_at;
    unsigned long oom_before;
};
struct failure {
    const char *code;           /* the protocol's word, NULL: none */
    char message[200];
};
struct process *process_start(const struct spec *spec, bool make_cwd, struct failure *failure);
void process_close_input(struct process *process);
void process_free(struct process *process);
void process_resize(const struct process *process, unsigned rows, unsigned columns);
int process_code(const struct process *process, int *signal);
unsigned long oom_kills(void);

/* session.c */
struct session {
    int fd;                     /* the port; -1: none of this number */
    bool ready;                 /* the port has news: read it until it has no more */
    bool connected, synchronised, broken;
    unsigned char header[HEADER];
    size_t header_length, payload_length;
    char *payload;
    size_t payload_size;
    struct fifo out;            /* frames to the client */
    struct fifo in;             /* stdin of the process */
    bool in_ended;
    size_t credit;              /* bytes of output the client still takes */
    struct process *process;    /* started by EXEC */
    bool attached, attached_stdin;
};
extern struct session sessions[MAX_SESSIONS];
void session_open(unsigned number, int fd);
void session_serve(struct session *session);
void session_send(struct session *session, enum frame type, const void *payload, size_t length);
void session_send_pair(struct session *session, enum frame type, const char *key, const char *value);
void session_send_exit(struct session *session, const struct process *process);
void session_fail(struct session *session, const char *code, const char *message);
/* How many bytes of output the session takes now. */
size_t session_room(const struct session *session);
void session_feed_input(struct session *session, struct process *process);
void session_reset(struct session *session);

/* log.c */
void log_open(int fd);
bool log_is_open(void);
size_t log_room(void);
bool log_pending(void);
int log_fd(void);
void log_output(enum frame type, const void *data, size_t length);
void log_exit(const struct process *process);
void log_flush(void);
void log_finish(void);

/* boot.c: set the machine up as BOOT wants. NULL or what failed. */
const char *boot_machine(const struct spec *spec);
void mount_early(void);
void load_modules(void);
void bind_devices(void);

/* net.c */
const char *net_loopback(void);
const char *net_configure(const struct spec *spec);
bool net_is_ready(const struct spec *spec);

/* machine.c: the main process and the machine's life. */
extern enum machine_state machine_state;
extern struct process *main_process;
void machine_boot(struct session *session, struct spec *spec);
void machine_exec(struct session *session, struct spec *spec);
void machine_signal(struct session *session, int number);
void machine_power_off(const struct spec *spec);
void machine_disown(struct process *process);
void machine_forget(const struct session *session);
void machine_reap(void);
void machine_pump(void);        /* move what can be moved between processes, sessions and the log */
size_t main_room(void);
void machine_run_timers(void);
uint64_t machine_next_timer(uint64_t now);
bool machine_is_over(void);

/* loop.c */
void run_loop(int signals, int uevents) __attribute__((noreturn));

/* init.c */
uint64_t now_ms(void);          /* monotonic */
uint64_t clock_ns(void);        /* wall clock */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool write_file(const char *path, const char *text);
bool read_text(const char *path, char *text, size_t size);
void scan_ports(void);
void power_off(void) __attribute__((noreturn));
extern int ports_epoll;

#endif
