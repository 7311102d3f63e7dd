"""Every verb as a user types it, in processes of its own, on the fake backend."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.support.runner import Result, Vmctl

_JSON = ("--format", "json")
FAKE = {f"VMCTL_BACKEND_{kind}": "fake" for kind in ("VM", "CONTAINER", "APP")}


def one_error_one_hint(result: Result) -> None:
    """Two lines on stderr, nothing on stdout."""
    error, hint = result.err.splitlines()
    assert (error[:7], hint[:6], result.out) == ("error: ", "hint: ", ""), result


class OnFake:
    """``vmctl`` with every kind served by the fake backend."""

    def __init__(self, vmctl: Vmctl) -> None:
        self.vmctl = vmctl
        self.cwd = vmctl.state_dir / "cwd"

    def __call__(self, *args: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Result:
        return self.vmctl(*args, stdin=stdin, env=FAKE | (env or {}))

    def up(self, name: str, *flags: str) -> None:
        self("run", "-d", "--name", name, *flags, "busybox", "--", "sleep", "1000").expect()

    def names(self, *flags: str) -> list[str]:
        return self("ps", "--quiet", *flags).expect().out.split()

    def state(self, name: str) -> str:
        return self("inspect", name, "--format", "{{.Instance.State}}").expect().out.strip()


@pytest.fixture
def fake(vmctl_with_image: Vmctl) -> OnFake:
    return OnFake(vmctl_with_image)


@pytest.mark.parametrize("kind", ["container", "app", "vm"])
def test_run_keeps_streams_and_exit_code(fake: OnFake, kind: str) -> None:
    done = fake("run", "--rm", "--kind", kind, "busybox", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.code, done.out, done.err) == (42, "out\n", "err\n")
    assert fake.names("-a") == []


def test_run_forwards_stdin_only_with_i(fake: OnFake) -> None:
    assert fake("run", "--rm", "-i", "busybox", "cat", stdin="hello").expect().out == "hello"
    assert fake("run", "--rm", "busybox", "cat", stdin="hello").expect().out == ""


def test_the_life_of_an_instance(fake: OnFake) -> None:
    assert fake("create", "--name", "web", "busybox", "--", "sleep", "1000").expect().out == "web\n"
    assert fake.state("web") == "created"
    assert fake("start", "web").expect().out == "web\n"
    assert fake.names() == ["web"]
    for verb, state in (("pause", "paused"), ("resume", "running"), ("restart", "running"), ("stop", "stopped")):
        assert fake(verb, "web").expect().out == "web\n"
        assert fake.state("web") == state
    assert fake("rename", "web", "other").expect().out == "other\n"
    assert fake.names() == []
    assert fake.names("--all") == ["other"]
    assert fake("rm", "other").expect().out == "other\n"
    assert fake.names("-a") == []


def test_wait_and_kill(fake: OnFake) -> None:
    fake.up("web")
    fake("wait", "web", "--timeout", "100ms").expect(124)
    fake("kill", "--signal", "KILL", "web").expect()
    assert fake("wait", "web").expect().out == "137\n"


def test_start_attached(fake: OnFake) -> None:
    fake("create", "--name", "once", "busybox", "--", "sh", "-c", "echo hi; exit 3").expect()
    done = fake("start", "--attach", "once")
    assert (done.code, done.out) == (3, "hi\n")
    fake("start", "-a", "once", "another").expect(2)


def test_exec(fake: OnFake) -> None:
    fake.up("web", "-e", "A=main")
    done = fake("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.code, done.out, done.err) == (5, "out\n", "err\n")
    assert fake("exec", "-i", "web", "cat", stdin="in").expect().out == "in"
    out = fake("exec", "-e", "B=2", "-w", "/tmp", "web", "sh", "-c", "echo $A $B; pwd").expect().out
    assert out == "main 2\n/tmp\n"
    fake("exec", "web", "no-such-program").expect(127)


def test_logs(fake: OnFake) -> None:
    fake("run", "--name", "web", "busybox", "--", "sh", "-c", "echo one; echo two; echo bad >&2").expect()
    done = fake("logs", "web").expect()
    assert (done.out, done.err) == ("one\ntwo\n", "bad\n")
    assert fake("logs", "--follow", "--tail", "1", "web").expect().out in ("two\n", "")
    assert fake("logs", "--since", "1h", "web").expect().out == "one\ntwo\n"
    assert fake("logs", "--since", "2000-01-01T00:00:00Z", "web").expect().out == "one\ntwo\n"
    assert fake("logs", "--since", "2999-01-01T00:00:00Z", "web").expect().out == ""
    (first, *_) = fake("logs", "--timestamps", "web").expect().out.splitlines()
    stamp, text = first.split(" ", 1)
    assert (stamp[10], stamp[-1], text) == ("T", "Z", "one")


def test_copy(fake: OnFake) -> None:
    fake.up("web")
    (fake.cwd / "file").write_text("content")
    assert fake("cp", "file", "web:/tmp/copied").expect().out == ""
    fake("cp", "web:/tmp/copied", "back").expect()
    assert (fake.cwd / "back").read_text() == "content"
    done = json.loads(fake("cp", "file", "web:/tmp/again", *_JSON).expect().out)
    assert done["items"][0]["action"] == "copied"
    archive = fake("cp", "web:/tmp/copied", "-").expect().stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["copied"]
    (fake.cwd / "link").symlink_to("newer")
    (fake.cwd / "newer").write_text("newer")
    fake("cp", "link", "web:/tmp/copied").expect()
    assert fake("exec", "web", "--", "cat", "/tmp/copied").expect().out == "newer"
    fake("cp", "link", "web:/tmp").expect()
    assert fake("exec", "web", "--", "cat", "/tmp/link").expect().out == "newer"
    (fake.cwd / "folder").mkdir()
    one_error_one_hint(fake("cp", "folder", "web:/tmp/copied").expect(4))
    one_error_one_hint(fake("cp", "web:/tmp", "back").expect(4))
    one_error_one_hint(fake("cp", "web:/tmp/copied", "/proc/absent").expect(1))
    fake("cp", "file", "other-file").expect(2)
    fake("cp", "absent", "web:/tmp/x").expect(3)


def test_listing_formats(fake: OnFake) -> None:
    fake.up("web", "--label", "tier=front", "-m", "64M")
    document = json.loads(fake("ps", "--format", "json").expect().out)
    assert (document["schema"], document["kind"]) == ("vmctl/1", "instances")
    assert document["items"][0]["memory"] == 64 << 20
    assert document["items"][0]["created_at"].endswith("Z")
    assert json.loads(fake("ps", "--format", "jsonl").expect().out) == document["items"][0]
    (row,) = csv.DictReader(io.StringIO(fake("ps", "--format", "csv").expect().out))
    assert row["name"] == "web"
    assert fake("ps", "--format", r"{{.Name}}\t{{.State}}\t{{.Labels.tier}}").expect().out == "web\trunning\tfront\n"
    assert "- id: " in fake("ps", "--format", "yaml").expect().out
    table = fake("ls").expect().out
    assert table.startswith("NAME")
    assert "\x1b" not in table
    assert "64M" in table


def test_filters(fake: OnFake) -> None:
    fake.up("web", "--label", "tier=front")
    fake.up("db", "--vm")
    assert fake.names("--filter", "label=tier=front") == ["web"]
    assert fake.names("--filter", "kind=vm") == ["db"]
    fake("ps", "--filter", "colour=red").expect(2)


def test_several_names_one_of_them_wrong(fake: OnFake) -> None:
    fake.up("one")
    fake.up("two")
    done = fake("rm", "--force", "one", "nobody", "two").expect(9)
    assert done.out == "one\ntwo\n"
    assert "error: no instance called 'nobody'" in done.err or "nobody" in done.err.splitlines()[0]
    assert fake.names("-a") == []


def test_actions_as_json(fake: OnFake) -> None:
    fake.up("one")
    document = json.loads(fake("stop", "one", "--timeout", "1s", "--signal", "TERM", "--format", "json").expect().out)
    assert document["kind"] == "actions"
    assert (document["items"][0]["name"], document["items"][0]["action"]) == ("one", "stopped")


def test_ps_feeds_rm(fake: OnFake) -> None:
    """``ps -q | xargs vmctl rm -f``."""
    for name in ("a", "b", "c"):
        fake.up(name)
    assert fake("rm", "-f", *fake.names()).expect().out.split() == ["a", "b", "c"]


def test_stats_claims_and_host(fake: OnFake) -> None:
    fake.up("web", "--cpus", "0.5", "-m", "64M")
    (row,) = json.loads(fake("stats", "--interval", "100ms", "web", "--format", "json").expect().out)["items"]
    assert (row["name"], row["cpu_millis"], row["memory"]) == ("web", 500, 64 << 20)
    claims = json.loads(fake("claim", "ls", "--format", "json").expect().out)["items"]
    ours = [claim for claim in claims if claim["name"] == "web"]
    assert ours
    assert all(claim["state"] == "ACTIVE" for claim in ours)
    shown = fake("claim", "inspect", ours[0]["id"], "--format", "json").expect().out
    assert json.loads(shown)["items"][0]["id"] == ours[0]["id"]
    resources = json.loads(fake("host", "inspect", "--format", "json").expect().out)["items"][0]["resources"]
    assert {"mem", "cpu.shared"} <= {row["resource"] for row in resources}
    assert "RESOURCE" in fake("host", "inspect").expect().out


def test_host_set(fake: OnFake) -> None:
    (row,) = json.loads(fake("host", "set", "mem", "--total", "4G", "--reserved", "1G", *_JSON).expect().out)["items"]
    assert (row["total"], row["reserved"], row["capacity"], row["source"]) == (4 << 30, 1 << 30, 3 << 30, "configured")
    (row,) = json.loads(fake("host", "set", "cpu.shared", "--ratio", "1.5", *_JSON).expect().out)["items"]
    assert row["ratio_ppm"] == 1_500_000
    fake("host", "set", "mem", "--ratio", "none").expect(2)
    assert "no resource called 'marbles'" in fake("host", "set", "marbles", "--total", "4G").expect(2).err
    assert "cannot reserve 999G of mem" in fake("host", "set", "mem", "--reserved", "999G").expect(2).err
    one_error_one_hint(fake("host", "set", "mem").expect(2))
    one_error_one_hint(fake("host", "set", "mem", "--reset", "--total", "1G").expect(2))
    (row,) = json.loads(fake("host", "set", "mem", "--reset", *_JSON).expect().out)["items"]
    assert row["source"] == "probed"


def test_refusals_have_their_codes_and_change_nothing(fake: OnFake) -> None:
    """Of a resource that nothing else on this host takes part in."""
    fake("host", "set", "pids", "--total", "1000", "--reserved", "0").expect()
    many, most = ("--pids-limit", "600"), ("--pids-limit", "2000")
    never = fake("run", "-d", *most, "busybox", "--", "sleep", "1").expect(5)
    assert "2000" in never.err
    fake.up("big", *many)
    now = fake("run", "-d", *many, "busybox", "--", "sleep", "1").expect(75)
    assert "big" in now.err
    fake("run", "-d", "--name", "big", "busybox", "--", "sleep", "1").expect(4)
    assert fake.names("-a") == ["big"]
    explained = fake("claim", "explain", *many, "busybox").expect(75)
    assert "big" in explained.out
    error = json.loads(fake("run", "-d", *most, *_JSON, "busybox", "--", "true").expect(5).err)
    assert (error["code"], error["exit_code"]) == ("never-fits", 5)


def test_previews_make_nothing(fake: OnFake) -> None:
    done = fake("run", "--dry-run", "--format", "json", "--name", "web", "-m", "64M", "busybox", "--", "true").expect()
    (item,) = json.loads(done.out)["items"]
    assert (item["spec"]["memory"], item["admission"]["verdict"]) == ("64M", "fits")
    assert fake("create", "--print-native", "busybox", "--", "true").expect().out
    assert fake.names("-a") == []


def test_the_dry_run_is_a_spec_file(fake: OnFake) -> None:
    flags = ["--name", "web", "-m", "64M", "-e", "A=1", "-l", "k=v", "busybox", "--", "sleep", "1000"]
    (item,) = json.loads(fake("run", "--dry-run", "--format", "json", *flags).expect().out)["items"]
    (fake.cwd / "web.json").write_text(json.dumps(item["spec"]))
    fake("run", "-d", "--file", "web.json").expect()
    spec = json.loads(fake("inspect", "web", "--format", "json").expect().out)["items"][0]["spec"]
    assert (spec["memory"], spec["env"], spec["labels"]) == (64 << 20, {"A": "1"}, {"k": "v"})


def test_configuration_reaches_the_instance(fake: OnFake) -> None:
    (fake.cwd / "vmctl.toml").write_text("memory = '32M'\nkind = 'app'\n")
    fake.up("web")
    (row,) = json.loads(fake("ps", "--format", "json").expect().out)["items"]
    assert (row["memory"], row["kind"]) == (32 << 20, "app")
    (row,) = json.loads(fake("ps", env={"VMCTL_FORMAT": "json"}).expect().out)["items"]
    assert row["name"] == "web"


def test_events(fake: OnFake) -> None:
    fake.up("web")
    fake("rm", "-f", "web").expect()
    lines = fake("events", "--since", "1h", "--no-follow", "--format", "jsonl").expect().out.splitlines()
    events = [json.loads(line) for line in lines]
    ours = [event for event in events if event["name"] == "web"]  # claims of foreign workloads come and go too
    assert {"claim"} <= {event["type"] for event in ours}
    assert all(event["at"].endswith("Z") for event in events)
    follow = fake.vmctl.start("events", "--follow", env=FAKE)
    try:
        time.sleep(0.5)
        follow.send_signal(signal.SIGINT)
        assert follow.wait(timeout=20) == 130
        assert b"Traceback" not in follow.stderr.read()  # type: ignore[union-attr]
    finally:
        follow.kill()


def test_images(fake: OnFake) -> None:
    (name,) = (line for line in fake("image", "ls", "-q").expect().out.split() if line.startswith("busybox"))
    shown = json.loads(fake("image", "inspect", name, "--format", "json").expect().out)["items"][0]
    assert shown["digest"].startswith("sha256:")
    fake("image", "inspect", "nothing").expect(3)
    fake("image", "rm", "--force", "nothing").expect(3)
    fake("image", "import", "nothing.tar", "--name", "x").expect(3)
    fake("image", "build", "x", "--from", "busybox", "--suite", "bookworm").expect(2)
    fake("image", "build", "x", "--from", "busybox", "--include", "python3").expect(2)


def test_completion_knows_names(fake: OnFake) -> None:
    assert fake("__complete", "rm", "").expect().out == "\n"
    fake.up("web")
    assert fake("__complete", "rm", "w").expect().out == "web\n"
    assert fake("__complete", "run", "busy").expect().out.startswith("busybox")


def test_system(fake: OnFake) -> None:
    assert "RECLAIMABLE" in fake("system", "df").expect().out
    fake("system", "prune", "--dry-run").expect()


def test_backends(fake: OnFake) -> None:
    backends = json.loads(fake("backend", "ls", "--format", "json").expect().out)["items"]
    assert {backend["name"] for backend in backends} >= {"docker", "libvirt", "sandbox"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["start", "nobody"], 3),
        (["stop", "nobody"], 3),
        (["rm", "nobody"], 3),
        (["inspect", "nobody"], 3),
        (["logs", "nobody"], 3),
        (["exec", "nobody", "true"], 3),
        (["wait", "nobody"], 3),
        (["rename", "nobody", "x"], 3),
        (["cp", "nobody:/x", "."], 3),
        (["claim", "inspect", "nobody"], 3),
        (["run", "no-such-image", "true"], 3),
        (["run", "--name", "Bad_Name", "busybox"], 2),
        (["run", "--backend", "nonesuch", "busybox"], 2),
        (["run", "--backend", "docker", "--vm", "busybox"], 2),
        (["run", "-m", "0", "busybox"], 2),
        (["run", "-m", "-1G", "busybox"], 2),
        (["run", "-m", "1G1", "busybox"], 2),
        (["run", "-m", "99999P", "busybox"], 2),
        (["run", "-m", "1P", "busybox"], 5),
        (["run", "--cpus", "0", "busybox"], 2),
        (["run", "--cpus", "9999", "busybox"], 5),
        (["run", "-f", "absent.yaml"], 3),
        (["run", "-it", "busybox"], 2),
        (["run", "--vm", "--boot-disk", "absent.qcow2"], 3),
        (["create", "busybox", "--no-such-flag-for-the-command"], 0),
    ],
)
def test_bad_input(fake: OnFake, words: list[str], code: int) -> None:
    done = fake(*words)
    assert done.code == code, done
    assert "Traceback" not in done.err
    if code:
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert len(done.err.splitlines()) <= 2
        assert fake.names("-a") == []


@pytest.mark.parametrize("state", ["running", "paused", "stopped"])
def test_wrong_states_are_conflicts(fake: OnFake, state: str) -> None:
    fake.up("web")
    if state != "running":
        fake({"paused": "pause", "stopped": "stop"}[state], "web").expect()
    refused = {
        "running": [["rm", "web"]],
        "paused": [["rm", "web"], ["start", "web"], ["exec", "web", "true"]],
        "stopped": [["exec", "web", "true"], ["kill", "web"], ["pause", "web"], ["resume", "web"]],
    }[state]
    for words in refused:
        done = fake(*words).expect(4)
        assert done.err.startswith("error: ")
    assert fake.state("web") == state


def test_a_reader_that_goes_away_is_no_error(fake: OnFake) -> None:
    process = fake.vmctl.start("schema", "spec", stdout=subprocess.PIPE)
    process.stdout.close()  # type: ignore[union-attr]
    assert process.stderr.read() == b""  # type: ignore[union-attr]
    assert process.wait(timeout=20) == 141


@pytest.mark.parametrize("words", [["config", "ls"], ["schema"], ["--version"], ["help"]])
def test_a_full_disk_is_said(vmctl: Vmctl, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = vmctl.start(*words, stdout=full)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.startswith(b"error: cannot write the answer: No space left on device\n")


def test_closed_streams_are_no_error(vmctl: Vmctl) -> None:
    """A descriptor that the caller closed must not become the ledger's."""
    command = f'exec "{sys.executable}" -m vmctl ps <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", command], env=vmctl.environment(), cwd=vmctl.state_dir / "cwd", check=False)
    assert done.returncode == 0


def test_odd_characters_do_not_stop_the_answer(fake: OnFake) -> None:
    fake.up("web", "--label", "note=grüße")
    for variables in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
        assert "note=gr" in fake("ps", "--format", "{{.Labels}}", env=variables).expect().out


def test_words_that_are_no_text_are_refused(fake: OnFake) -> None:
    done = fake("run", "-e", "A=\udcff", "busybox", "--", "true").expect(2)
    assert done.err.startswith("error: a value is not UTF-8 text\n")


def test_a_state_folder_that_cannot_be_made(tmp_path: Path, vmctl: Vmctl) -> None:
    (tmp_path / "file").touch()
    done = vmctl("ps", env={"VMCTL_STATE_DIR": str(tmp_path / "file" / "below")})
    assert done.code != 0
    assert "Traceback" not in done.err
    assert done.err.startswith("error: ")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".json", '{"name": '),
        (".yaml", "name: [x"),
        (".toml", "kind = vm"),
        (".json", "[" * 100_000),
        (".yaml", "[" * 100_000),
        (".yaml", "a: &a [*a]"),
        (".yaml", '!!python/object/apply:os.system ["id"]'),
        (".yaml", "image: busybox\nmemory: []"),
        (".yaml", "image: busybox\npids: 0"),
        (".yaml", 'image: busybox\ncommand: ["a\\0b"]'),
    ],
)
def test_nonsense_in_a_spec_file(fake: OnFake, tmp_path: Path, suffix: str, text: str) -> None:
    file = tmp_path / f"spec{suffix}"
    file.write_text(text)
    one_error_one_hint(fake("create", "-f", str(file)).expect(2))
    assert not fake.names("-a")


def test_refusals_because_of_the_state_name_the_instance(fake: OnFake) -> None:
    fake("create", "--name", "idle", "busybox", "--", "sleep", "1").expect()
    for verb in (("kill",), ("pause",), ("resume",), ("exec",)):
        refused = fake(*verb, "idle", *(("--", "true") if verb == ("exec",) else ())).expect(4)
        one_error_one_hint(refused)
        assert refused.err.startswith("error: idle: ")


@pytest.mark.parametrize(
    ("flags", "start"),
    [
        (("-p", "abc"), "error: --publish: "),
        (("-v", "x"), "error: --volume: "),
        (("--pids-limit", "0"), "error: --pids-limit: "),
        (("-l", "!=1"), "error: --label: "),
        (("--vm", "--kernel", "/nowhere/k"), "error: no file "),
    ],
)
def test_errors_call_a_flag_by_its_name(fake: OnFake, flags: tuple[str, ...], start: str) -> None:
    refused = fake("create", *flags, "busybox")
    assert refused.code in (2, 3)
    one_error_one_hint(refused)
    assert refused.err.startswith(start)


def test_start_of_what_others_removed(fake: OnFake) -> None:
    fake("create", "--name", "gone", "busybox", "--", "sleep", "1").expect()
    (fake.vmctl.state_dir / "fake" / "bodies.json").unlink()
    refused = fake("start", "gone").expect(3)
    one_error_one_hint(refused)
    assert "vmctl rm gone" in refused.err
    fake("rm", "gone").expect()
