"""Completion: candidates from the table and, for options, from the one command that is being typed."""

from __future__ import annotations

from collections.abc import Mapping

from vmctl.cli.table import BY_NAME, VERBS, Verb

_VALUES: Mapping[str, tuple[str, ...]] = {
    "--kind": ("vm", "container", "app"),
    "--format": ("table", "json", "jsonl", "yaml", "csv"),
    "--restart": ("no", "on-failure", "always", "unless-stopped"),
    "--accel": ("auto", "kvm", "tcg"),
    "--backend": ("libvirt", "docker", "sandbox"),
    "--network": ("default", "none", "host"),
    "--signal": ("SIGTERM", "SIGKILL", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2"),
}


def complete(words: list[str]) -> list[str]:
    """Candidates for the last of ``words`` (what follows ``vmctl``; the last may be empty or half typed)."""
    *before, last = words or [""]
    candidates = _candidates(before, last)
    return sorted(word for word in candidates if word.startswith(last))


def _candidates(before: list[str], last: str) -> list[str]:
    if not before:
        return [verb.name for verb in VERBS]
    if (verb := BY_NAME.get(before[0])) is None:
        return []
    if verb.name == "help" and len(before) == 1:
        return [known.name for known in VERBS]
    if verb.name == "completion":
        return list(SCRIPTS)
    if verb.verbs and len(before) == 1:
        return list(verb.verbs)
    if before[-1] in _VALUES:
        return list(_VALUES[before[-1]])
    if last.startswith("-"):
        return _options(verb, before) if verb.name != "help" else []
    return _names(verb, before)


_TAKE_INSTANCES = frozenset(
    {
        "start", "stop", "restart", "kill", "pause", "resume", "rm", "inspect", "logs", "stats", "exec", "shell",
        "console", "cp", "wait", "rename",
    }
)  # fmt: skip


def _names(verb: Verb, before: list[str]) -> list[str]:
    """Instances or images that may come next, from the ledger and the store alone: no backend is asked."""
    from vmctl.cli.context import open_app
    from vmctl.errors import VmctlError
    from vmctl.paths import default_paths

    takes_image = verb.name in ("run", "create") or before[:2] in (["image", "inspect"], ["image", "rm"])
    if not (takes_image or verb.name in _TAKE_INSTANCES) or not default_paths().ledger.exists():
        return []
    try:
        with open_app() as app:
            found = app.images.list() if takes_image else app.ledger.instances()
            return [one.name for one in found]
    except VmctlError:
        return []


def _options(verb: Verb, before: list[str]) -> list[str]:
    from vmctl.cli.dispatch import load_command

    command = load_command(verb)
    if verb.verbs:
        command = command.commands.get(before[1])
    if command is None:
        return []
    options = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    return ["--help", *(name for name in options if name.startswith("--"))]


_BASH = r"""# bash completion for vmctl: source <(vmctl completion bash)
_vmctl() {
    local IFS=$'\n'
    COMPREPLY=($(vmctl __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    compopt -o default 2>/dev/null
}
complete -F _vmctl vmctl
"""

_ZSH = r"""#compdef vmctl
# zsh completion for vmctl: save as _vmctl in a folder of $fpath, or source <(vmctl completion zsh)
_vmctl() {
    local -a candidates
    candidates=("${(@f)$(vmctl __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    candidates=(${candidates:#})
    if (( ${#candidates} )); then
        compadd -a candidates
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_vmctl" ]; then
    _vmctl "$@"
else
    compdef _vmctl vmctl
fi
"""

_FISH = r"""# fish completion for vmctl: vmctl completion fish | source
complete -c vmctl -a '(vmctl __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"""

SCRIPTS: Mapping[str, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""Completion script by shell; each asks ``vmctl __complete``."""
