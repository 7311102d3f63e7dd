"""The front door: verbs, hints, and what becomes of errors and signals."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from vmctl.__main__ import main
from vmctl.cli import dispatch, front, state
from vmctl.cli.complete import SCRIPTS, complete
from vmctl.cli.context import for_each
from vmctl.cli.table import AMBIGUOUS, BY_NAME, VERBS
from vmctl.errors import Conflict, NotFound, Partial, UsageError


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No configuration, a log of its own, and signals as they were."""
    monkeypatch.setenv("VMCTL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(state, "_format", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("words", [["--version"], ["version"]])
def test_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("vmctl 0.")


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"], ["help", "--help"]])
def test_root_help_names_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert [verb.name for verb in VERBS if f"  {verb.name} " not in out] == []


def test_help_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "run"]) == 0
    assert capsys.readouterr().out.startswith("Usage: vmctl run ")


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["rnu"], "unknown command 'rnu'", "did you mean 'run'?"),
        (["frobnicate"], "unknown command 'frobnicate'", "'vmctl help' lists the commands"),
        (["--formt"], "unknown option '--formt'", "options come after the command: vmctl ps -a"),
        (["ps", "--formt", "json"], "unknown option '--formt'", "did you mean '--format'?"),
        (["image", "bild"], "unknown command 'vmctl image bild'", "did you mean 'build'?"),
        (["rm"], "missing argument 'NAME...'", "'vmctl rm --help' shows how it is used"),
        (["ps", "extra"], "got unexpected extra argument", "'vmctl ps --help'"),
        (["ps", "--format", "jsno"], "unknown format 'jsno'", "did you mean 'json'?"),
        (["ps", "--filter", "web"], "'web' is not a filter", "write KEY=VALUE, such as kind=vm or label=tier=web"),
        (["logs", "web", "--tail", "-1"], "invalid value for '-n' / '--tail'", "'vmctl logs --help'"),
        (["logs", "web", "--since", "soon"], "'soon' is not a duration", "write 30s"),
        (["exec", "web"], "missing argument '[--] COMMAND...'", "'vmctl exec --help'"),
        (["exec", "--", "web"], "exec needs an instance and a command", "vmctl exec NAME"),
        (["config", "get", "memroy"], "unknown option 'memroy'", "did you mean 'memory'?"),
        (["image", "build", "x", "--from", "debain"], "unknown base 'debain'", "did you mean 'debian'?"),
        (["kill", "web", "-s", "TREM"], "no signal called 'TREM'", "did you mean 'SIGTERM'?"),
        (["stop", "web", "-t", "soon"], "'soon' is not a duration", "write 30s"),
        (["completion", "basch"], "no completion for 'basch'", "did you mean 'bash'?"),
        (["run", "-m"], "option '-m' requires an argument", "'vmctl run --help'"),
        (["run", "--memori", "2G", "deb"], "unknown option '--memori'", "did you mean '--memory'?"),
        (["run"], "a container needs an image", "vmctl run IMAGE"),
        (["run", "--app"], "an app needs an image or a command", "vmctl run --app -- COMMAND"),
    ],
)
def test_usage_errors(words: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"hint: {hint}")


@pytest.mark.parametrize("word", sorted(AMBIGUOUS))
def test_ambiguous_words_get_a_hint_and_no_alias(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word not in BY_NAME
    assert main([word, "web"]) == 2
    assert f"hint: {AMBIGUOUS[word]}\n" in capsys.readouterr().err


def test_names_are_not_taken_twice() -> None:
    names = [name for verb in VERBS for name in (verb.name, *verb.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "words",
    [
        ["ps", "--format", "json", "--zzz"],
        ["ps", "--zzz", "--format=json"],
        ["ps", "--format", "json", "--filter", "web"],
    ],
)
def test_errors_as_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = json.loads(capsys.readouterr().err)
    assert (error["code"], error["exit_code"], error["kind"]) == ("usage", 2, "error")


def test_the_format_of_a_workload_is_not_ours() -> None:
    assert not state.wants_json(["run", "deb", "--", "tool", "--format", "json"], understood=False)


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> NoReturn:
        raise error

    monkeypatch.setattr(dispatch, "dispatch", fail)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no instance 'x'"), 3),
        (KeyboardInterrupt(), 130),
        (front.SignalReceived(signal.SIGTERM), 143),
        (front.SignalReceived(signal.SIGHUP), 129),
        (front.SignalReceived(signal.SIGINT), 130),
    ],
)
def test_ends_become_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(error, monkeypatch)
    assert main(["ps"]) == code


def test_a_bug_goes_to_the_log_and_not_to_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(ZeroDivisionError("oops"), monkeypatch)
    assert main(["run", "-e", "PASSWORD=secret"]) == 1
    out, err = capsys.readouterr()
    log = tmp_path / "state/log/vmctl.log"
    assert out == ""
    assert err == f"error: unexpected ZeroDivisionError: oops\nhint: the details are in {log}\n"
    assert "Traceback" in log.read_text()
    assert "unexpected error in 'vmctl run'" in log.read_text()
    assert "secret" not in log.read_text()


def test_a_bug_without_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("not a folder")
    failing(ZeroDivisionError("oops"), monkeypatch)
    assert main(["ps"]) == 1
    assert capsys.readouterr().err.endswith("hint: the log file could not be written\n")


def test_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "state/log/vmctl.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * (5 << 20))
    failing(ZeroDivisionError("oops"), monkeypatch)
    main(["ps"])
    assert log.stat().st_size < 1 << 20
    assert log.with_name("vmctl.log.1").stat().st_size == 5 << 20


def act(name: str) -> str:
    if name.startswith("bad"):
        raise Conflict(f"{name} is in use")
    return name.upper()


def test_one_name_keeps_its_own_error() -> None:
    with pytest.raises(Conflict):
        for_each(["bad"], act, print)


def test_several_names_go_on_and_end_as_partial(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []
    with pytest.raises(Partial, match="1 of 3 failed: bad"):
        for_each(["a", "bad", "c"], act, done.append)
    assert done == ["A", "C"]
    assert capsys.readouterr().err.startswith("error: bad is in use\nhint: ")


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["sto"], ["stop"]),
        (["image", ""], ["build", "import", "inspect", "ls", "rm"]),
        (["image", "b"], ["build"]),
        (["run", "--mem"], ["--memory"]),
        (["run", "--kind", ""], ["app", "container", "vm"]),
        (["image", "build", "--su"], ["--suite"]),
        (["ls", "--al"], ["--all"]),
        (["help", "ren"], ["rename"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["nonsense", ""], []),
        (["image", "nonsense", "--"], []),
        (["run", "x"], []),
        (["rm", "x"], []),
    ],
)
def test_completion(words: list[str], candidates: list[str]) -> None:
    assert complete(words) == candidates


def test_completion_of_nothing_names_every_verb() -> None:
    assert complete([]) == sorted(verb.name for verb in VERBS)


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]


@pytest.mark.parametrize("name", ["spec", "error", "instances", "claims"])
def test_schema(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", name]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org/")


def test_schema_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--list"]) == 0
    assert {"spec", "error", "instances"} <= set(capsys.readouterr().out.split())
    assert main(["schema", "instnaces"]) == 3
    assert "did you mean 'instances'?" in capsys.readouterr().err


def test_config_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, code: int = 0) -> str:
        assert main(["config", *words]) == code
        return capsys.readouterr().out

    assert run("path") == f"{tmp_path}/config/vmctl/config.toml\n"
    run("set", "memory", "2G")
    assert run("get", "memory") == "2G\n"
    run("set", "memory", "lots", code=2)
    (row,) = (item for item in json.loads(run("ls", "--format", "json"))["items"] if item["name"] == "memory")
    assert (row["value"], row["origin"]) == ("2G", f"{tmp_path}/config/vmctl/config.toml")
    assert "ORIGIN" in run("ls", "--show-origin")
    assert "ORIGIN" not in run("ls")
    run("unset", "memory")
    assert run("get", "memory") == "512M\n"
    run("unset", "memory", code=3)


def test_a_broken_config_file_stops_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("vmctl.toml").write_text("memroy = '1G'\n")
    assert main(["config", "ls"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: vmctl.toml: unknown option 'memroy'",
        "hint: did you mean 'memory'?",
    ]


def test_usage_error_is_not_a_bug() -> None:
    assert UsageError.exit_code == 2
