/* The life of the machine: waits for BOOT, runs the main process, ends with it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmctl.h"

enum {
    RESTART_FIRST = 100,        /* ms; doubles with each restart */
    RESTART_LONGEST = 60000,
    STABLE = 10000,             /* a process that has run so long begins anew with the first delay */
    EXEC_GRACE = 2000,          /* from SIGHUP to SIGKILL for a process whose client has gone */
    END_GRACE = 2000,           /* for clients to take the last output when POWEROFF was asked */
    TTY_DRAIN = 100,            /* a terminal's last bytes arrive a little after its process has ended */
    MAX_DYING = 64,
};

enum machine_state machine_state = WAITING;
struct process *main_process;
static struct spec *main_spec;
static bool power_off_asked;
static bool booting;                /* waits for the network; then the main process is started */
static struct session *boot_session; /* who is to hear of it; NULL: has gone meanwhile */
static uint64_t kill_at, restart_at, end_at, boot_at;
static struct process last;         /* the main process's last run, as it ended; pid 0: there was none */
static unsigned restarts, restart_delay = RESTART_FIRST;
static struct { pid_t pid; uint64_t kill_at; } dying[MAX_DYING];

static void send_started(struct session *session, const struct process *process)
{
    char text[16];
    snprintf(text, sizeof text, "%d", (int)process->pid);
    session_send_pair(session, STARTED, "pid", text);
}

static void tell_attached(const struct process *end)
{
    for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++)
        if (session->attached)
            session_send_exit(session, end);
}

/* Nothing is left to run: everybody else is killed, clients take what is theirs, power off. */
static void end_machine(const struct process *end)
{
    machine_state = ENDED;
    end_at = now_ms() + END_GRACE;
    if (end)
        tell_attached(end);
    kill(-1, SIGKILL);
}

static void fail_boot(struct session *session, const struct failure *failure)
{
    struct process never = {.status = (strcmp(failure->code, "not-found") ? 126 : 127) << 8};
    say("%s", failure->message);
    log_exit(&never);
    end_machine(&never);
    if (session) {
        session_fail(session, failure->code, failure->message);
        session->attached = true; /* waits for this client to have read it */
    }
}

static bool start_main(struct failure *failure)
{
    main_process = process_start(main_spec, true, failure);
    if (main_process) {
        main_process->oom_before = oom_kills();
        main_process->started_at = now_ms();
    }
    return main_process;
}

static void finish_boot(void)
{
    struct session *session = boot_session;
    struct failure failure;
    booting = false;
    boot_session = NULL;
    if (!net_is_ready(main_spec))
        say("no answer from a DHCP server: going on without");
    if (!start_main(&failure)) {
        fail_boot(session, &failure);
        return;
    }
    machine_state = RUNNING;
    if (session) {
        session->attached = true;
        session->attached_stdin = main_spec->keep_stdin;
        send_started(session, main_process);
    }
}

void machine_boot(struct session *session, struct spec *spec)
{
    if (machine_state != WAITING || main_spec) {
        session_fail(session, "busy", "the machine has been set up before");
        spec_free(spec);
        return;
    }
    main_spec = spec;
    const char *problem = boot_machine(spec);
    if (problem) {
        struct failure failure = {"cannot-invoke", ""};
        snprintf(failure.message, sizeof failure.message, "%s", problem);
        fail_boot(session, &failure);
        return;
    }
    booting = true;
    boot_session = session;
    boot_at = now_ms() + spec->network_wait;
    if (net_is_ready(spec))
        finish_boot();
}

void machine_forget(const struct session *session)
{
    if (boot_session == session)
        boot_session = NULL;
}

void machine_exec(struct session *session, struct spec *spec)
{
    struct failure failure;
    if (machine_state != RUNNING)
        session_fail(session, "no-process", "the main process does not run");
    else if (session->process || session->attached)
        session_fail(session, "busy", "the session has a process");
    else {
        session->process = process_start(spec, false, &failure);
        if (session->process)
            send_started(session, session->process);
        else
            session_fail(session, failure.code, failure.message);
    }
    spec_free(spec);
}

void machine_signal(struct session *session, int number)
{
    struct process *process = session->process ? session->process : main_process;
    if (!process || process->reaped)
        session_fail(session, "no-process", "the process has ended");
    else if (number < 1 || number > 64 || kill(process->pid, number))
        session_fail(session, "bad-request", "no such signal");
}

void machine_power_off(const struct spec *spec)
{
    power_off_asked = true;
    if (machine_state == ENDED)
        end_at = now_ms() + END_GRACE;
    else if (!main_process)
        end_machine(last.pid ? &last : NULL);
    else {
        kill(main_process->pid, spec->signal ? (int)spec->signal : SIGTERM);
        kill_at = now_ms() + spec->timeout;
    }
}

void machine_disown(struct process *process)
{
    if (!process->reaped) {
        kill(-process->pid, SIGHUP);
        int slot = 0;
        while (slot < MAX_DYING && dying[slot].pid)
            slot++;
        if (slot == MAX_DYING)
            kill(-process->pid, SIGKILL);
        else {
            dying[slot].pid = process->pid;
            dying[slot].kill_at = now_ms() + EXEC_GRACE;
        }
    }
    process_free(process);
}

static void mark_reaped(struct process *process, pid_t pid, int status)
{
    if (!process || process->pid != pid || process->reaped)
        return;
    process->reaped = true;
    process->reaped_at = now_ms();
    process->status = status;
    if (process == main_process && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        process->oom = oom_kills() > process->oom_before;
}

void machine_reap(void)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        mark_reaped(main_process, pid, status);
        for (int i = 0; i < MAX_SESSIONS; i++)
            mark_reaped(sessions[i].process, pid, status);
        for (int i = 0; i < MAX_DYING; i++)
            if (dying[i].pid == pid) {
                kill(-pid, SIGKILL); /* what it left behind in its group */
                dying[i].pid = 0;
            }
    }
}

/* What everybody who gets the main process's output takes now. */
size_t main_room(void)
{
    size_t room = log_room() < CHUNK ? log_room() : CHUNK;
    for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++)
        if (session->attached && session_room(session) < room)
            room = session_room(session);
    return room;
}

/* Pass on one piece of one stream; with owner NULL the main process's. True: nothing to be had now. */
static bool pump_stream(struct process *process, struct session *owner, int *fd, enum frame type)
{
    static char data[CHUNK];
    if (*fd < 0)
        return true;
    size_t room = owner ? session_room(owner) : main_room();
    if (!room)
        return false;
    ssize_t count = read(*fd, data, room);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return !(process->tty && process->reaped && now_ms() < process->reaped_at + TTY_DRAIN);
    if (count <= 0) {
        close(*fd);
        *fd = -1;
        if (process->tty)
            process->in = -1;
        return true;
    }
    if (owner) {
        session_send(owner, type, data, (size_t)count);
        return false;
    }
    log_output(type, data, (size_t)count);
    for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++)
        if (session->attached)
            session_send(session, type, data, (size_t)count);
    return false;
}

static void pump(struct process *process, struct session *owner)
{
    bool out = pump_stream(process, owner, &process->out, STDOUT);
    bool err = pump_stream(process, owner, &process->err, STDERR);
    process->drained = out && err && process->reaped;
}

static bool wants_restart(const struct process *process)
{
    int signal, code = process_code(process, &signal);
    const char *policy = main_spec->restart ? main_spec->restart : "no";
    if (power_off_asked)
        return false;
    if (!strcmp(policy, "always") || !strcmp(policy, "unless-stopped"))
        return true;
    return !strcmp(policy, "on-failure") && code && (!main_spec->restart_max || restarts < main_spec->restart_max);
}

static void finish_main(void)
{
    struct process *process = main_process;
    last = *process;
    main_process = NULL;
    kill_at = 0;
    log_exit(process); /* every end is on record: who reads the log counts restarts */
    if (wants_restart(process)) {
        if (process->reaped_at - process->started_at >= STABLE)
            restart_delay = RESTART_FIRST;
        restart_at = now_ms() + restart_delay;
        restart_delay = restart_delay * 2 > RESTART_LONGEST ? RESTART_LONGEST : restart_delay * 2;
        restarts++;
    } else
        end_machine(process);
    process_free(process);
}

static void restart(void)
{
    struct failure failure;
    restart_at = 0;
    if (machine_state == RUNNING && !start_main(&failure)) {
        struct process never = {.status = 127 << 8};
        say("%s", failure.message);
        log_exit(&never);
        end_machine(&never);
    }
}

void machine_pump(void)
{
    for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++) {
        struct process *process = session->process;
        if (process) {
            session_feed_input(session, process);
            pump(process, session);
            if (process->drained) {
                session_send_exit(session, process);
                process_free(process);
                session->process = NULL;
            }
        } else if (session->attached && main_process)
            session_feed_input(session, main_process);
    }
    if (main_process) {
        pump(main_process, NULL);
        if (main_process->drained)
            finish_main();
    }
}

/* ENDED: whether somebody still has something to take. */
static bool lingering(void)
{
    bool late = now_ms() >= end_at;
    for (struct session *session = sessions; session < sessions + MAX_SESSIONS; session++) {
        if (!session->connected)
            continue;
        if (session->attached && !(late && power_off_asked))
            return true;
        if (!late && (session->process || fifo_length(&session->out)))
            return true;
    }
    return log_pending() && !late;
}

bool machine_is_over(void)
{
    return machine_state == ENDED && !main_process && !lingering();
}

void machine_run_timers(void)
{
    uint64_t now = now_ms();
    if (kill_at && now >= kill_at && main_process) {
        kill_at = 0;
        kill(main_process->pid, SIGKILL);
    }
    if (restart_at && now >= restart_at)
        restart();
    if (booting && machine_state == WAITING && (now >= boot_at || net_is_ready(main_spec)))
        finish_boot();
    for (int i = 0; i < MAX_DYING; i++)
        if (dying[i].pid && now >= dying[i].kill_at) {
            kill(-dying[i].pid, SIGKILL);
            dying[i].kill_at = now + EXEC_GRACE;
        }
}

static void earlier(uint64_t *first, uint64_t at)
{
    if (at && at < *first)
        *first = at;
}

/* When the next of the timers is due. */
uint64_t machine_next_timer(uint64_t now)
{
    uint64_t first = now + 3600000;
    earlier(&first, kill_at);
    earlier(&first, restart_at);
    if (booting)
        earlier(&first, now + 20);
    if (machine_state == ENDED)
        earlier(&first, end_at > now ? end_at : now + 100);
    for (int i = 0; i < MAX_DYING; i++)
        if (dying[i].pid)
            earlier(&first, dying[i].kill_at);
    if (main_process && main_process->reaped)
        earlier(&first, now + 10);
    return first;
}
