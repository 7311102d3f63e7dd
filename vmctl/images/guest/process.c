/* Starting a process as some user, with pipes or a terminal, and what can be told of its end. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "vmctl.h"

enum { MAX_GROUPS = 64, MAX_LINE = 4096 };

struct identity {
    uid_t uid;
    gid_t gid;
    gid_t groups[MAX_GROUPS];
    size_t group_count;
    char home[256];
};

static bool is_number(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text) && strlen(text) < 10;
}

/* The fields of a line of passwd or group; how many there are. */
static int split(char *line, char **fields, int limit)
{
    int count = 0;
    line[strcspn(line, "\n")] = 0;
    while (line && count < limit)
        fields[count++] = strsep(&line, ":");
    return count;
}

/* By name, else by number. False: /etc/passwd does not have it. */
static bool find_user(const char *user, struct identity *who, char *name, size_t size)
{
    char line[MAX_LINE], *field[7];
    bool found = false;
    FILE *file = fopen("/etc/passwd", "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        if (split(line, field, 7) < 6)
            continue;
        found = !strcmp(field[0], user) || (is_number(user) && !strcmp(field[2], user));
        if (found) {
            who->uid = (uid_t)strtoul(field[2], NULL, 10);
            who->gid = (gid_t)strtoul(field[3], NULL, 10);
            snprintf(who->home, sizeof who->home, "%s", field[5]);
            snprintf(name, size, "%s", field[0]);
        }
    }
    if (file)
        fclose(file);
    return found;
}

static bool has_member(char *members, const char *name)
{
    for (char *member; (member = strsep(&members, ","));)
        if (!strcmp(member, name))
            return true;
    return false;
}

/* The id of a group by name; with name NULL: all groups that have this member. */
static bool find_groups(const char *group, const char *member, struct identity *who)
{
    char line[MAX_LINE], *field[4];
    bool found = false;
    FILE *file = fopen("/etc/group", "re");
    while (file && fgets(line, sizeof line, file)) {
        int count = split(line, field, 4);
        if (count < 3)
            continue;
        gid_t gid = (gid_t)strtoul(field[2], NULL, 10);
        if (group && !strcmp(field[0], group)) {
            who->gid = gid;
            found = true;
            break;
        }
        if (member && count == 4 && has_member(field[3], member) && who->group_count < MAX_GROUPS)
            who->groups[who->group_count++] = gid;
    }
    if (file)
        fclose(file);
    return found;
}

/* `user` is "", name, uid, user:group with names or numbers: Docker's rules. */
static bool identify(const char *user, struct identity *who, struct failure *failure)
{
    char text[256], name[256] = "";
    memset(who, 0, sizeof *who);
    strcpy(who->home, "/");
    snprintf(text, sizeof text, "%s", user && *user ? user : "0");
    char *group = strchr(text, ':');
    if (group)
        *group++ = 0;
    if (!find_user(text, who, name, sizeof name)) {
        if (!is_number(text)) {
            failure->code = "cannot-invoke";
            snprintf(failure->message, sizeof failure->message, "no user '%.100s' in /etc/passwd", text);
            return false;
        }
        who->uid = (uid_t)strtoul(text, NULL, 10);
        if (!who->uid)
            strcpy(who->home, "/root");
    }
    if (!group || !*group) {
        if (*name)
            find_groups(NULL, name, who);
        return true;
    }
    if (is_number(group)) {
        who->gid = (gid_t)strtoul(group, NULL, 10);
        return true;
    }
    if (find_groups(group, NULL, who))
        return true;
    failure->code = "cannot-invoke";
    snprintf(failure->message, sizeof failure->message, "no group '%.100s' in /etc/group", group);
    return false;
}

struct stdio {
    int child[3], ours[3];
};

static void close_all(int *fds, int count)
{
    for (int i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static bool open_pipes(struct stdio *io, bool keep_stdin)
{
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (i == 0 && !keep_stdin) {
            io->child[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
            continue;
        }
        if (pipe2(ends, O_CLOEXEC))
            return false;
        io->child[i] = ends[i != 0];
        io->ours[i] = ends[i == 0];
        fcntl(io->ours[i], F_SETFL, O_NONBLOCK);
        /* The child's user may open /dev/stdout anew. */
        fchmod(io->child[i], 0666);
    }
    return io->child[0] >= 0;
}

static bool open_terminal(struct stdio *io, const struct spec *spec, uid_t uid)
{
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), locked = 0, slave;
    if (master < 0)
        return false;
    io->ours[0] = io->ours[1] = master;
    if (ioctl(master, TIOCSPTLCK, &locked) || (slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
        return false;
    struct winsize size = {.ws_row = (unsigned short)spec->rows, .ws_col = (unsigned short)spec->columns};
    if (spec->rows && spec->columns)
        ioctl(master, TIOCSWINSZ, &size);
    fchown(slave, uid, (gid_t)-1);
    io->child[0] = io->child[1] = io->child[2] = slave;
    return true;
}

/* In the child: never returns. What fails is told as "errno step". */
static void become(const struct spec *spec, const struct identity *who, const struct stdio *io, int report)
{
    const char *step = "set up";
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    for (int i = 0; i < 3; i++)
        if (dup2(io->child[i], i) < 0)
            goto failed;
    if (spec->tty)
        ioctl(0, TIOCSCTTY, 0);
    step = "change user";
    if (setgroups(who->group_count, who->groups) || setgid(who->gid) || setuid(who->uid))
        goto failed;
    step = "chdir";
    if (chdir(spec->cwd && *spec->cwd ? spec->cwd : "/"))
        goto failed;
    step = NULL;
    umask(022);
    environ = spec->env;
    execvp(spec->argv[0], spec->argv);
failed:;
    char text[64];
    int length = snprintf(text, sizeof text, "%d %s", errno, step ? step : "");
    if (write(report, text, (size_t)length) < 0)
        _exit(125);
    _exit(127);
}

static void explain(const struct spec *spec, const char *report, struct failure *failure)
{
    int error = atoi(report);
    const char *step = strchr(report, ' ');
    bool in_exec = step && !step[1];
    failure->code = in_exec && (error == ENOENT || error == ENOTDIR) ? "not-found" : "cannot-invoke";
    if (in_exec)
        snprintf(failure->message, sizeof failure->message, "%.120s: %s", spec->argv[0], strerror(error));
    else
        snprintf(failure->message, sizeof failure->message, "cannot%s%s%.100s: %s", step ? step : "",
                 step && !strcmp(step, " chdir") ? " to " : "",
                 step && !strcmp(step, " chdir") && spec->cwd ? spec->cwd : "", strerror(error));
}

static void make_folders(const char *path)
{
    char text[1024];
    snprintf(text, sizeof text, "%s", path);
    for (char *slash = text + 1; *slash && (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(text, 0755);
        *slash = '/';
    }
    mkdir(text, 0755);
}

static void add_home(const struct spec *spec, const struct identity *who, char *entry, size_t size)
{
    size_t count = 0;
    for (; spec->env[count]; count++)
        if (!strncmp(spec->env[count], "HOME=", 5))
            return;
    snprintf(entry, size, "HOME=%s", who->home);
    spec->env[count] = entry;
    spec->env[count + 1] = NULL;
}

struct process *process_start(const struct spec *spec, bool make_cwd, struct failure *failure)
{
    struct identity who;
    struct stdio io = {{-1, -1, -1}, {-1, -1, -1}};
    char report[64], home[300];
    int reports[2];
    failure->code = NULL;
    if (!spec->argv[0] || !*spec->argv[0]) {
        failure->code = "not-found";
        strcpy(failure->message, "no program named");
        return NULL;
    }
    if (!identify(spec->user, &who, failure))
        return NULL;
    struct process *process = calloc(1, sizeof *process);
    bool ready = process && (spec->tty ? open_terminal(&io, spec, who.uid) : open_pipes(&io, spec->keep_stdin));
    if (!ready || pipe2(reports, O_CLOEXEC)) {
        failure->code = "cannot-invoke";
        snprintf(failure->message, sizeof failure->message, "cannot open its streams: %s", strerror(errno));
        close_all(io.child, spec->tty ? 1 : 3);
        close_all(io.ours, spec->tty ? 1 : 3);
        free(process);
        return NULL;
    }
    if (make_cwd && spec->cwd && *spec->cwd == '/')
        make_folders(spec->cwd);
    size_t count = 0;
    while (spec->env[count])
        count++;
    add_home(spec, &who, home, sizeof home);
    process->pid = fork();
    if (!process->pid)
        become(spec, &who, &io, reports[1]);
    spec->env[count] = NULL; /* HOME lives on this stack */
    close(reports[1]);
    close_all(io.child, spec->tty ? 1 : 3);
    ssize_t length = process->pid < 0 ? snprintf(report, sizeof report, "%d fork", errno)
                                      : read(reports[0], report, sizeof report - 1);
    close(reports[0]);
    if (length > 0) {
        report[length] = 0;
        explain(spec, report, failure);
        close_all(io.ours, spec->tty ? 1 : 3);
        if (process->pid > 0)
            waitpid(process->pid, NULL, 0);
        free(process);
        return NULL;
    }
    process->tty = spec->tty;
    process->in = io.ours[0];
    process->out = io.ours[1];
    process->err = spec->tty ? -1 : io.ours[2];
    return process;
}

void process_close_input(struct process *process)
{
    if (process->in >= 0 && process->tty) {
        if (write(process->in, "\4", 1) < 0)
            return; /* a terminal has no end of file but the key that means it */
    } else if (process->in >= 0) {
        close(process->in);
        process->in = -1;
    }
}

void process_free(struct process *process)
{
    int fds[] = {process->in, process->tty ? -1 : process->out, process->err};
    close_all(fds, 3);
    if (process->tty && process->in < 0 && process->out >= 0)
        close(process->out);
    free(process);
}

void process_resize(const struct process *process, unsigned rows, unsigned columns)
{
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    if (process->tty && process->out >= 0)
        ioctl(process->out, TIOCSWINSZ, &size);
}

/* As a shell sees it; *signal is 0 when it exited by itself. */
int process_code(const struct process *process, int *signal)
{
    *signal = WIFSIGNALED(process->status) ? WTERMSIG(process->status) : 0;
    return *signal ? 128 + *signal : WEXITSTATUS(process->status);
}

unsigned long oom_kills(void)
{
    char text[8192];
    const char *found = read_text("/proc/vmstat", text, sizeof text) ? strstr(text, "\noom_kill ") : NULL;
    return found ? strtoul(found + 10, NULL, 10) : 0;
}
