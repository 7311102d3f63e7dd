/* Setting the machine up: modules, devices, the root file system, identity. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vmctl.h"

#define AUTOPROBE "/sys/bus/virtio/drivers_autoprobe"
enum { DEVICE_WAIT = 5000 };

static const char *failed(const char *what)
{
    static char text[160];
    snprintf(text, sizeof text, "%.100s: %s", what, strerror(errno));
    return text;
}

void mount_early(void)
{
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static void load_module(const char *name)
{
    char path[300];
    snprintf(path, sizeof path, "/modules/%.250s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
        say("module %s: %s", name, strerror(errno));
    if (fd >= 0)
        close(fd);
    unlink(path); /* the initramfs is memory */
}

/* The initramfs numbers them in load order. With "vmctl.defer" on the kernel's command line devices other than the
 * channel stay unbound until BOOT: the machine can then be saved and started many times with other disks. */
void load_modules(void)
{
    struct dirent **entries;
    char cmdline[4096] = "";
    bool defer = read_text("/proc/cmdline", cmdline, sizeof cmdline) && strstr(cmdline, "vmctl.defer");
    int count = scandir("/modules", &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (defer && strstr(entries[i]->d_name, "virtio_blk"))
            write_file(AUTOPROBE, "0");
        if (*entries[i]->d_name != '.')
            load_module(entries[i]->d_name);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

/* Let the drivers have the devices that load_modules kept from them; harmless when there are none. */
void bind_devices(void)
{
    char text[8] = "";
    if (!read_text(AUTOPROBE, text, sizeof text) || *text == '1')
        return;
    write_file(AUTOPROBE, "1");
    DIR *folder = opendir("/sys/bus/virtio/devices");
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (*entry->d_name != '.')
            write_file("/sys/bus/virtio/drivers_probe", entry->d_name);
    if (folder)
        closedir(folder);
}

static void set_clock(uint64_t ns)
{
    struct timespec time = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    if (ns && clock_settime(CLOCK_REALTIME, &time))
        say("clock: %s", strerror(errno));
}

static void add_entropy(const char *hex)
{
    struct { struct rand_pool_info info; unsigned char data[64]; } pool = {.info = {.entropy_count = 0}};
    size_t count = 0;
    for (unsigned byte; count < sizeof pool.data && sscanf(hex + 2 * count, "%2x", &byte) == 1; count++) {
        pool.data[count] = (unsigned char)byte;
        if (!hex[2 * count + 1])
            break;
    }
    pool.info.entropy_count = (int)count * 8;
    pool.info.buf_size = (int)count;
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
        say("entropy: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
}

static bool wait_for(const char *path)
{
    uint64_t until = now_ms() + DEVICE_WAIT;
    while (access(path, F_OK)) {
        if (now_ms() > until)
            return false;
        usleep(1000);
    }
    return true;
}

/* The image below; above it a disk of the machine's own, or memory. This layer is there for read-only roots too,
 * because mount points and files such as resolv.conf are made in it before it is sealed. */
static const char *mount_root(const struct spec *spec)
{
    if (!spec->root || !spec->fstype)
        return "BOOT names no root";
    if (!wait_for(spec->root))
        return failed(spec->root);
    mkdir("/lower", 0755);
    mkdir("/upper", 0755);
    mkdir("/new", 0755);
    if (mount(spec->root, "/lower", spec->fstype, MS_RDONLY, NULL))
        return failed("mounting the image");
    bool disk = spec->upper && *spec->upper;
    if (disk && !wait_for(spec->upper))
        return failed(spec->upper);
    if (mount(disk ? spec->upper : "tmpfs", "/upper", disk ? "ext4" : "tmpfs", MS_NOATIME, disk ? NULL : "mode=0755"))
        return failed("mounting the writable layer");
    mkdir("/upper/data", 0755);
    mkdir("/upper/work", 0755);
    if (mount("overlay", "/new", "overlay", 0, "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work"))
        return failed("mounting the overlay");
    return NULL;
}

static const char *enter_root(void)
{
    static const char *const moved[] = {"/dev", "/proc", "/sys"};
    for (size_t i = 0; i < 3; i++) {
        char target[16];
        snprintf(target, sizeof target, "/new%s", moved[i]);
        mkdir(target, 0755);
        if (mount(moved[i], target, NULL, MS_MOVE, NULL))
            return failed(target);
    }
    mkdir("/new/run", 0755);
    mkdir("/new/run/vmctl", 0755);
    int fd = open("/new/run/vmctl/busybox", O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    if (fd < 0 || close(fd) || mount("/busybox", "/new/run/vmctl/busybox", NULL, MS_BIND, NULL))
        return failed("/run/vmctl/busybox");
    if (chdir("/new") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
        return failed("entering the root");
    return NULL;
}

static void mount_late(void)
{
    mkdir("/dev/pts", 0755);
    mkdir("/dev/shm", 01777);
    mkdir("/tmp", 01777);
    chmod("/tmp", 01777);
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5");
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < 4; i++)
        if (symlink(links[i][0], links[i][1]) && errno != EEXIST)
            say("%s: %s", links[i][1], strerror(errno));
}

/* Files whose content belongs to the machine, not to its image; as Docker does. */
static void replace_file(const char *path, const char *text)
{
    unlink(path);
    if (!write_file(path, text))
        say("%s: %s", path, strerror(errno));
}

static void write_identity(const struct spec *spec)
{
    char text[2048];
    const char *name = spec->hostname && *spec->hostname ? spec->hostname : "localhost";
    sethostname(name, strlen(name));
    mkdir("/etc", 0755);
    snprintf(text, sizeof text, "%.255s\n", name);
    replace_file("/etc/hostname", text);
    size_t bare = spec->address ? strcspn(spec->address, "/") : 0;
    snprintf(text, sizeof text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%.*s\t%.255s\n",
             bare ? (int)bare : 9, bare ? spec->address : "127.0.1.1", name);
    replace_file("/etc/hosts", text);
    if (!*spec->dns)
        return;
    size_t length = 0;
    for (char **server = spec->dns; *server && length < sizeof text - 80; server++)
        length += (size_t)snprintf(text + length, sizeof text - length, "nameserver %.45s\n", *server);
    replace_file("/etc/resolv.conf", text);
}

const char *boot_machine(const struct spec *spec)
{
    const char *problem;
    set_clock(spec->clock);
    bind_devices();
    if (spec->entropy)
        add_entropy(spec->entropy);
    if ((problem = mount_root(spec)) || (problem = enter_root()))
        return problem;
    mount_late();
    write_identity(spec);
    if ((problem = net_loopback()))
        say("%s", problem);
    if (spec->has_network && (problem = net_configure(spec)))
        return problem;
    if (spec->read_only && mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL))
        return failed("making the root read-only");
    return NULL;
}
