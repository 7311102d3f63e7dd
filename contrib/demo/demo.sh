#!/bin/sh
# One image, three levels of isolation, one ledger; ends with the proof that nothing is left.
#
# DEMO_SUITE=bookworm   the image is that Debian release (a minute longer) instead of busybox
set -eu

image=demo
names='demo-vm demo-container demo-app'
started=$(date +%s)

chapter() { printf '\n# %s\n' "$*"; }

# show COMMAND...: what is typed, as it could be typed again, then what it says.
show() {
    printf '$'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./:=@%+,-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$@"
}

remove_everything() {
    # shellcheck disable=SC2086 # names are words
    vmctl rm -f $names >/dev/null 2>&1 || true
    vmctl image rm "$image" >/dev/null 2>&1 || true
}

ended() {
    code=$?
    trap - EXIT
    remove_everything
    [ "$code" -eq 0 ] || printf '\nThe demo failed (%d) and has removed what it made. To look further: vmctl doctor\n' "$code" >&2
    exit "$code"
}
trap ended EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# exits_with CODE COMMAND...: shown, and held to its word.
exits_with() {
    wanted=$1
    shift
    code=0
    show "$@" || code=$?
    printf '  -> exit code %d\n' "$code"
    [ "$code" -eq "$wanted" ]
}

# left_of ID...: everything on this host that carries one of the instances' ids.
left_of() {
    for id in "$@"; do
        virsh -q -c qemu:///system list --all --name | grep -F "$id" || true
        docker ps -a --format 'container {{.Names}}' | grep -F "$id" || true
        pgrep -af "$id" || true
        grep -F "$id" /proc/self/mountinfo || true
        find /sys/fs/cgroup -type d -name "*$id*"
        vmctl claim ls --format '{{.InstanceId}} {{.State}}' | grep -F "$id" || true
        find "${VMCTL_STATE_DIR:-/var/lib/vmctl}/instances" -mindepth 1 -maxdepth 1 -name "$id"
    done
}

# nothing_left ID...: the kernel may take a moment to let go of what has ended.
nothing_left() {
    tries=25
    while rest=$(left_of "$@") && [ -n "$rest" ]; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then
            printf 'left behind:\n%s\n' "$rest" >&2
            return 1
        fi
        sleep 0.2
    done
}

remove_everything

chapter "One image"
if [ -n "${DEMO_SUITE:-}" ]; then
    show vmctl image build "$image" --from debian --suite "$DEMO_SUITE"
else
    show vmctl image build "$image" --from busybox
fi
show vmctl image ls

chapter "The same image as a virtual machine, a container and a sandboxed application"
for kind in vm container app; do
    show vmctl run -d --kind "$kind" --name "demo-$kind" -m 256M "$image" -- sleep 600
done
show vmctl ps

chapter "A command inside each: the container and the application share this host's kernel, the machine has its own"
for name in $names; do
    # shellcheck disable=SC2016 # expanded inside
    show vmctl exec "$name" -- sh -c 'echo "$(hostname): Linux $(uname -r)"'
done

chapter "What they use, beside what they have reserved"
show vmctl stats

chapter "One ledger over all three: who holds what, and what is free"
show vmctl claim ls
show vmctl host inspect

chapter "Attached: stdout, stderr and the exit code are the workload's, at each level"
for kind in vm container app; do
    exits_with 42 vmctl run --rm --kind "$kind" "$image" -- sh -c 'echo out; echo err >&2; exit 42'
done

chapter "A clean removal"
# shellcheck disable=SC2086
ids=$(for name in $names; do vmctl inspect "$name" --format '{{.Instance.Id}}'; done)
# shellcheck disable=SC2086
show vmctl rm -f $names
show vmctl image rm "$image"
show vmctl ps -a

# shellcheck disable=SC2086
nothing_left $ids
printf '\nNothing is left: no domain, container, process, mount, cgroup, folder or claim. %d seconds in all.\n' \
    $(($(date +%s) - started))
