# shellcheck shell=sh
# Words shared by the set-up scripts; sourced, never run.

# Daemons and their tools live in sbin, which `su` and some sudo configurations leave out.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

# What package managers and daemons say.
# shellcheck disable=SC2034
LOGS=/var/log/vmctl-setup

say() { printf '==> %s\n' "$*"; }

warn() { printf '    %s\n' "$*" >&2; }

# fail MESSAGE REMEDY: two lines, then the end.
fail() {
    printf 'setup: %s\n' "$1" >&2
    printf 'remedy: %s\n' "$2" >&2
    exit 1
}

# need_root WHAT: go on only where WHAT can be done.
need_root() {
    [ "$(id -u)" -eq 0 ] || fail "not root, and $1" "sudo make ${VMCTL_GOAL:-setup}"
}

systemd_runs() { [ -d /run/systemd/system ]; }
