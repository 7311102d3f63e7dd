"""Every verb, known without importing its module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Verb(NamedTuple):
    """``module`` is below ``vmctl.cli.commands``; ``verbs`` are those of a group (empty for a plain command)."""

    name: str
    module: str
    help: str
    section: str
    aliases: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()


_INSTANCES = "Instances"
_OBJECTS = "Images, claims, host"
_VMCTL = "vmctl itself"

VERBS: tuple[Verb, ...] = (
    Verb("run", "run", "Create and start an instance", _INSTANCES),
    Verb("create", "create", "Create an instance without starting it", _INSTANCES),
    Verb("start", "start", "Start instances", _INSTANCES),
    Verb("stop", "stop", "Stop instances, by force after a time", _INSTANCES),
    Verb("restart", "restart", "Stop and start instances", _INSTANCES),
    Verb("kill", "kill", "Send a signal to instances", _INSTANCES),
    Verb("pause", "pause", "Freeze instances", _INSTANCES),
    Verb("resume", "resume", "Let paused instances go on", _INSTANCES),
    Verb("rm", "rm", "Remove instances", _INSTANCES),
    Verb("ps", "ps", "List instances", _INSTANCES, aliases=("ls", "list")),
    Verb("inspect", "inspect", "Show everything known of instances", _INSTANCES, aliases=("info",)),
    Verb("logs", "logs", "Show what an instance has written", _INSTANCES),
    Verb("stats", "stats", "Show measured use beside what is reserved", _INSTANCES, aliases=("top",)),
    Verb("events", "events", "Show what happens to instances", _INSTANCES),
    Verb("exec", "exec", "Run a command in a running instance", _INSTANCES),
    Verb("shell", "shell", "Open a shell in a running instance", _INSTANCES),
    Verb("console", "console", "Connect to a machine's serial console", _INSTANCES),
    Verb("cp", "cp", "Copy files between the host and an instance", _INSTANCES),
    Verb("wait", "wait", "Wait until instances have ended", _INSTANCES),
    Verb("rename", "rename", "Give an instance another name", _INSTANCES),
    Verb("image", "image", "Images that run at each level", _OBJECTS, verbs=("ls", "build", "import", "inspect", "rm")),
    Verb("claim", "claim", "What instances hold of the host", _OBJECTS, verbs=("ls", "inspect", "explain")),
    Verb("host", "host", "What the host has, and what may be used", _OBJECTS, verbs=("inspect", "set")),
    Verb("backend", "backend", "libvirt, docker and sandbox: health and abilities", _OBJECTS, verbs=("ls",)),
    Verb("system", "system", "Disk use and clean-up", _OBJECTS, verbs=("df", "prune")),
    Verb("config", "config", "Options and where they come from", _VMCTL, verbs=("ls", "get", "set", "unset", "path")),
    Verb("doctor", "doctor", "Check every part on this host", _VMCTL),
    Verb("schema", "schema", "Print the JSON Schema of spec files or of output", _VMCTL),
    Verb("completion", "completion", "Print completion for bash, zsh or fish", _VMCTL),
    Verb("version", "version", "Print the version", _VMCTL),
    Verb("help", "help", "Show help for a command", _VMCTL),
)

BY_NAME: Mapping[str, Verb] = {name: verb for verb in VERBS for name in (verb.name, *verb.aliases)}

AMBIGUOUS: Mapping[str, str] = {
    "destroy": "'vmctl kill' ends an instance at once, 'vmctl rm' removes it",
    "suspend": "'vmctl pause' freezes an instance in memory",
    "undefine": "'vmctl rm' removes an instance with all that was made for it",
    "launch": "'vmctl run' creates and starts, 'vmctl start' starts what exists",
    "delete": "'vmctl rm' removes an instance, 'vmctl image rm' an image",
    "unpause": "'vmctl resume' lets a paused instance go on",
    "attach": "'vmctl start -a' attaches from the start, 'vmctl logs -f' follows the output",
    "images": "'vmctl image ls' lists images",
    "build": "'vmctl image build' makes an image",
    "df": "'vmctl system df' shows disk use",
    "prune": "'vmctl system prune' removes what is no longer needed",
    "domstate": "'vmctl inspect' shows the state",
}
"""Words that mean something else elsewhere: a hint, and no alias."""
