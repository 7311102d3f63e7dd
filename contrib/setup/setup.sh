#!/bin/sh
# From a fresh Debian or Ubuntu to a working checkout: system packages, virtual environment, daemons, guest kernel.
# Does only what is missing, so it can be run again at any time. Called by `make setup`, `make demo`, `make test`.
#
# setup.sh [venv]             venv: no daemons and no guest kernel (enough for lint and types)
# VMCTL_SETUP_PACKAGES=skip   other distributions: you have installed the packages of packages.txt yourself
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=contrib/setup/common.sh
. "$here/common.sh"

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1

# --- system packages ---------------------------------------------------------------------------------------------

wanted_packages() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$here/packages.txt"; }

is_debian_family() {
    command -v apt-get >/dev/null && command -v dpkg-query >/dev/null
}

# missing_packages NAME...: those that dpkg does not call installed.
missing_packages() {
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null | awk '$2 == "installed" { print $1 }')
    for package in "$@"; do
        printf '%s\n' "$installed" | grep -qxF -e "$package" || printf '%s\n' "$package"
    done
}

has_candidate() { apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }

lists_are_fresh() {
    [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mmin -1440 -print -quit 2>/dev/null)" ]
}

apt_update() {
    [ -z "${updated:-}" ] || return 0
    say "package lists: apt-get update"
    apt-get -qq update </dev/null || warn "apt-get update failed; going on with the lists at hand"
    updated=yes
}

apt_install() { apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "$@" </dev/null >"$apt_log" 2>&1; }

# install_packages NAME...: with one update where the lists turn out to be older than the mirror.
install_packages() {
    need_root "these packages are missing: $*"
    say "system packages: installing $*"
    mkdir -p "$LOGS"
    apt_log=$LOGS/apt.log
    apt_install "$@" && return
    apt_update
    apt_install "$@" && return
    tail -n 20 "$apt_log" >&2
    fail "apt-get could not install the packages (all of it is in $apt_log)" "apt-get install $*"
}

system_packages() {
    if [ "${VMCTL_SETUP_PACKAGES:-}" = skip ]; then
        say "system packages: skipped, as VMCTL_SETUP_PACKAGES says"
        return
    fi
    names=$(wanted_packages | tr -d '?')
    is_debian_family || fail "this is neither Debian nor Ubuntu" \
        "install these, start libvirtd and dockerd, then: VMCTL_SETUP_PACKAGES=skip make setup: $(one_line "$names")"
    # shellcheck disable=SC2086 # names are words
    missing=$(missing_packages $names)
    if [ -n "$missing" ]; then
        [ "$(id -u)" -ne 0 ] || lists_are_fresh || apt_update
        missing=$(drop_unknown_optional "$missing")
    fi
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086
        install_packages $missing
    else
        say "system packages: all there"
    fi
}

one_line() { echo "$1" | tr '\n' ' '; }

# drop_unknown_optional NAMES: without those marked "?" that this distribution does not have.
drop_unknown_optional() {
    for package in $1; do
        if wanted_packages | grep -qxF -e "?$package" && ! has_candidate "$package"; then
            continue
        fi
        printf '%s\n' "$package"
    done
}

# --- Python ------------------------------------------------------------------------------------------------------

is_new_enough() {
    "$1" -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

# choose_python: sets $python; older releases (Ubuntu 22.04) have a newer Python beside their own.
choose_python() {
    python=$(find_python)
    if [ -z "$python" ] && is_debian_family; then
        for version in 3.13 3.12 3.11; do
            if has_candidate "python$version-venv"; then
                install_packages "python$version" "python$version-venv" "python$version-dev"
                break
            fi
        done
        python=$(find_python)
    fi
    [ -n "$python" ] || fail "vmctl needs Python 3.11 or newer with venv; this host has none" \
        "install python3.11, python3.11-venv and python3.11-dev, then: make ${VMCTL_GOAL:-setup}"
}

virtual_environment() {
    venv=$root/.venv
    stamp=$venv/.setup-stamp
    wanted=$(cd "$root" && { pwd; cat pyproject.toml contrib/constraints.txt; } | sha256sum)
    if "$venv/bin/python" -c '' 2>/dev/null && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        say "virtual environment: up to date"
        compile_vmctl
        return
    fi
    if ! "$venv/bin/python" -c '' 2>/dev/null; then
        choose_python
        say "virtual environment: making .venv with $python"
        "$python" -m venv --clear "$venv"
    fi
    say "virtual environment: installing vmctl and its dependencies"
    # "compat": the source folder on the path; the default is an import hook that costs 8 ms at every start of vmctl.
    (cd "$root" && "$venv/bin/python" -m pip install -q -c contrib/constraints.txt -e '.[dev]' \
        --config-settings editable_mode=compat </dev/null) ||
        fail "pip could not install the dependencies" "read pip's message above; the list is in pyproject.toml"
    printf '%s\n' "$wanted" >"$stamp"
    compile_vmctl
}

# compile_vmctl: where PYTHONDONTWRITEBYTECODE is set (as in many containers), every command would compile all it imports.
compile_vmctl() { (cd "$root" && "$venv/bin/python" -m compileall -q vmctl); }

guest_kernel() {
    say "guest kernel and init: prepared once, then kept"
    (cd "$root" && "$root/.venv/bin/python" -m vmctl.images.kernel </dev/null) ||
        fail "the guest kernel could not be prepared" "vmctl doctor says what is missing"
}

system_packages
virtual_environment
if [ "${1:-all}" != venv ]; then
    sh "$here/daemons.sh"
    guest_kernel
fi
