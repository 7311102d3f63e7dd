#!/bin/sh
# Starts libvirtd, dockerd and libvirt's default network where they are not running.
# Where systemd is PID 1 they become enabled services; else (containers, small VMs) they are started by hand.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=contrib/setup/common.sh
. "$here/common.sh"

libvirt_answers() { timeout 10 virsh -q -c qemu:///system --readonly uri </dev/null; }

docker_answers() { timeout 10 docker version --format '{{.Server.Version}}' </dev/null; }

# in_background NAME COMMAND...: outlives this script and its terminal; its words go to a log, its number to $daemon.
in_background() {
    log=$LOGS/$1.log
    shift
    mkdir -p "$LOGS"
    setsid "$@" </dev/null >>"$log" 2>&1 &
    daemon=$!
}

# wait_for SECONDS NAME COMMAND...: try COMMAND five times a second; fail early if the daemon started here has ended.
wait_for() {
    tries=$(($1 * 5))
    name=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ] || { [ -n "$daemon" ] && ! kill -0 "$daemon" 2>/dev/null; }; then
            words=$([ -z "$daemon" ] || tail -n 1 "$log")
            fail "$name was started and does not answer${words:+: $words}" \
                "look into $LOGS/$name.log, or with systemd: journalctl -xe"
        fi
        sleep 0.2
    done
}

has_unit() { systemctl cat "$1" >/dev/null 2>&1; }

# enable_units UNIT...: those of them that this host has.
enable_units() {
    for unit in "$@"; do
        if has_unit "$unit"; then
            systemctl enable --now --quiet "$unit" || warn "systemctl enable --now $unit failed"
        fi
    done
}

# Without udev nobody gives the device to group kvm. libvirt, whose QEMU then cannot open it, asks QEMU for its
# abilities again at every start of a machine: seconds each time, even for machines that do without KVM.
open_kvm() {
    systemd_runs && return
    if [ -c /dev/kvm ] && getent group kvm >/dev/null && [ "$(stat -c %G%a /dev/kvm)" != kvm660 ]; then
        say "/dev/kvm: given to group kvm"
        if ! chgrp kvm /dev/kvm || ! chmod 660 /dev/kvm; then
            warn "/dev/kvm cannot be changed: machines start slowly"
        fi
    fi
}

start_libvirt() {
    daemon=
    if systemd_runs; then
        enable_units virtlogd.socket
        # One daemon for everything, or (newer distributions) one for each driver: they exclude each other.
        if has_unit libvirtd.socket; then
            enable_units libvirtd.socket
        else
            enable_units virtqemud.socket virtnetworkd.socket virtstoraged.socket virtnodedevd.socket
        fi
    else
        command -v libvirtd >/dev/null || fail "there is no libvirtd to start" "start your distribution's libvirt daemons"
        pgrep -x virtlogd >/dev/null || virtlogd -d
        # QEMU leaves its parent at once. Below a subreaper (tini -s) it is reaped when it ends; left to a PID 1 that
        # reaps slowly, each end of a machine takes a second longer (measured: virsh destroy 0.22 s against 1.23 s).
        in_background libvirtd tini -s -- libvirtd
    fi
    wait_for 20 libvirtd libvirt_answers
}

start_docker() {
    daemon=
    if systemd_runs; then
        enable_units docker.socket docker.service
    else
        # A pid file from before the last reboot makes dockerd refuse, if another process has that number now.
        if [ -f /run/docker.pid ] && ! pgrep -x dockerd >/dev/null; then
            rm -f /run/docker.pid
        fi
        in_background dockerd dockerd
    fi
    wait_for 30 dockerd docker_answers
}

default_network() {
    state=$(virsh -q -c qemu:///system net-list --all </dev/null | awk '$1 == "default" { print $2 }')
    case $state in
    active) return 0 ;;
    '') virsh -q -c qemu:///system net-define /usr/share/libvirt/networks/default.xml ;;
    esac
    virsh -q -c qemu:///system net-autostart default
    virsh -q -c qemu:///system net-start default
}

if [ "$(id -u)" -eq 0 ]; then
    open_kvm
fi

if libvirt_answers >/dev/null 2>&1; then
    say "libvirtd: running"
else
    need_root "libvirtd does not answer this user"
    say "libvirtd: starting"
    start_libvirt
fi

if docker_answers >/dev/null 2>&1; then
    say "dockerd: running"
elif docker_answers 2>&1 | grep -q 'permission denied'; then
    fail "you may not talk to dockerd" "sudo usermod -aG docker $(id -un), and log in again; or: sudo make ${VMCTL_GOAL:-setup}"
else
    need_root "dockerd does not answer this user"
    say "dockerd: starting"
    start_docker
fi

if [ "$(id -u)" -eq 0 ]; then
    if error=$(default_network 2>&1 >/dev/null); then
        say "network 'default': active"
    else
        warn "libvirt's network 'default' cannot be started: $error"
        warn "machines have no network until: virsh net-start default (or use --network none)"
    fi
fi
