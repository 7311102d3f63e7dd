/* The loopback and the one network interface: a given address, or DHCP by busybox's client. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmctl.h"

#define INTERFACE "eth0"
#define DHCP_SCRIPT "/run/vmctl/dhcp"
#define LEASE "/run/vmctl/lease"
enum { INTERFACE_WAIT = 3000 };

static const char *failed(const char *what)
{
    static char text[160];
    snprintf(text, sizeof text, "network: %.80s: %s", what, strerror(errno));
    return text;
}

static bool set_flags(int fd, const char *name, bool up)
{
    struct ifreq request = {0};
    strcpy(request.ifr_name, name);
    if (ioctl(fd, SIOCGIFFLAGS, &request))
        return false;
    request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP | IFF_RUNNING : request.ifr_flags & ~IFF_UP);
    return !ioctl(fd, SIOCSIFFLAGS, &request);
}

static bool set_address(int fd, unsigned long what, const char *name, in_addr_t address)
{
    struct ifreq request = {0};
    struct sockaddr_in value = {.sin_family = AF_INET, .sin_addr.s_addr = address};
    strcpy(request.ifr_name, name);
    memcpy(&request.ifr_addr, &value, sizeof value);
    return !ioctl(fd, (int)what, &request);
}

/* A clone restored from memory has the MAC of the machine that was saved. */
static bool set_mac(int fd, const char *mac)
{
    struct ifreq request = {.ifr_hwaddr.sa_family = ARPHRD_ETHER};
    unsigned byte[6];
    strcpy(request.ifr_name, INTERFACE);
    if (sscanf(mac, "%2x:%2x:%2x:%2x:%2x:%2x", byte, byte + 1, byte + 2, byte + 3, byte + 4, byte + 5) != 6) {
        errno = EINVAL;
        return false;
    }
    for (int i = 0; i < 6; i++)
        request.ifr_hwaddr.sa_data[i] = (char)byte[i];
    return !ioctl(fd, SIOCSIFHWADDR, &request);
}

static bool add_gateway(int fd, const char *gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = (char *)INTERFACE};
    struct sockaddr_in any = {.sin_family = AF_INET}, via = {.sin_family = AF_INET};
    if (inet_pton(AF_INET, gateway, &via.sin_addr) != 1) {
        errno = EINVAL;
        return false;
    }
    memcpy(&route.rt_dst, &any, sizeof any);
    memcpy(&route.rt_genmask, &any, sizeof any);
    memcpy(&route.rt_gateway, &via, sizeof via);
    return !ioctl(fd, SIOCADDRT, &route);
}

static const char *set_static(int fd, const struct spec *spec)
{
    char text[64];
    struct in_addr address;
    snprintf(text, sizeof text, "%s", spec->address);
    char *slash = strchr(text, '/');
    unsigned long bits = slash ? strtoul(slash + 1, NULL, 10) : 32;
    if (slash)
        *slash = 0;
    if (bits < 1 || bits > 32 || inet_pton(AF_INET, text, &address) != 1) {
        errno = EINVAL;
        return failed("address");
    }
    if (!set_address(fd, SIOCSIFADDR, INTERFACE, address.s_addr) ||
        !set_address(fd, SIOCSIFNETMASK, INTERFACE, htonl((uint32_t)(0xffffffffUL << (32 - bits)))))
        return failed("address");
    if (!set_flags(fd, INTERFACE, true))
        return failed("link up");
    if (spec->gateway && *spec->gateway && !add_gateway(fd, spec->gateway))
        return failed("gateway");
    return NULL;
}

/* busybox's client, for as long as the machine lives: it asks until somebody answers, and renews. Whether there is
 * a lease is seen by LEASE: a bridge with STP forwards nothing for 4 s, and dnsmasq takes 3 s to look for a free
 * address, so nobody sits and waits here. */
static const char *start_dhcp(const struct spec *spec)
{
    static const char script[] =
        "#!/run/vmctl/busybox sh\n"
        "b=/run/vmctl/busybox\n"
        "case $1 in\n"
        "deconfig) $b ip addr flush dev $interface; $b ip link set $interface up;;\n"
        "bound|renew)\n"
        "  $b ip addr flush dev $interface\n"
        "  $b ip addr add $ip/$mask dev $interface\n"
        "  for r in $router; do $b ip route add default via $r dev $interface && break; done\n"
        "  if [ -n \"$dns\" ]; then\n"
        "    for s in $dns; do echo nameserver $s; done > /etc/resolv.conf\n"
        "  fi\n"
        "  echo $ip > " LEASE ";;\n"
        "esac\n";
    char name[300];
    if (!write_file(DHCP_SCRIPT, script) || chmod(DHCP_SCRIPT, 0755))
        return failed(DHCP_SCRIPT);
    snprintf(name, sizeof name, "hostname:%.255s", spec->hostname ? spec->hostname : "");
    pid_t pid = fork();
    if (!pid) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        int null = open("/dev/null", O_RDWR);
        for (int i = 0; i < 3; i++)
            dup2(null, i);
        execl("/run/vmctl/busybox", "udhcpc", "-i", INTERFACE, "-s", DHCP_SCRIPT, "-f", "-t", "5", "-T", "1", "-A", "1", "-x",
              name, (char *)NULL);
        _exit(127);
    }
    return pid < 0 ? failed("udhcpc") : NULL;
}

bool net_is_ready(const struct spec *spec)
{
    return !spec->has_network || *spec->address || !access(LEASE, F_OK);
}

const char *net_loopback(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool good = fd >= 0 && set_flags(fd, "lo", true);
    if (fd >= 0)
        close(fd);
    /* What containers have too: ports below 1024 and ping for everybody. */
    write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    return good ? NULL : failed("loopback");
}

const char *net_configure(const struct spec *spec)
{
    uint64_t until = now_ms() + INTERFACE_WAIT;
    while (access("/sys/class/net/" INTERFACE, F_OK)) {
        if (now_ms() > until)
            return failed("no interface");
        usleep(1000);
    }
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return failed("socket");
    const char *problem = NULL;
    if (spec->mac && *spec->mac && !set_mac(fd, spec->mac))
        problem = failed("MAC");
    if (!problem)
        problem = *spec->address ? set_static(fd, spec) : start_dhcp(spec);
    close(fd);
    return problem;
}
