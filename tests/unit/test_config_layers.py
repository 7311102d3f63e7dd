"""Layers, origins, unknown keys, and edits that keep the user's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.config import OPTIONS, load_config, read_file, set_option, unset_option
from vmctl.errors import PermissionDenied, UsageError, VmctlError
from vmctl.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    home, etc = tmp_path / "home/config.toml", tmp_path / "etc/config.toml"
    return Paths(state=tmp_path, run=tmp_path, user_config=home, system_config=etc)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)


def test_each_layer_wins_over_the_one_below(paths: Paths, tmp_path: Path) -> None:
    seen = []

    def look(environment: dict[str, str] | None = None) -> None:
        value = load_config(paths, environment or {}, tmp_path / "project").value("memory")
        seen.append((value.text, value.origin))

    look()
    write(paths.system_config, "memory = '1G'")
    look()
    write(paths.user_config, "memory = '2G'")
    look()
    write(tmp_path / "project/vmctl.toml", "memory = '3G'")
    look()
    look({"VMCTL_MEMORY": "4G"})
    assert seen == [
        ("512M", "built in"),
        ("1G", str(paths.system_config)),
        ("2G", str(paths.user_config)),
        ("3G", str(tmp_path / "project/vmctl.toml")),
        ("4G", "VMCTL_MEMORY"),
    ]


def test_tables_and_numbers(paths: Paths, tmp_path: Path) -> None:
    write(paths.user_config, "cpus = 1.5\npids = 7\n[backend]\nvm = 'fake'\n")
    config = load_config(paths, {}, tmp_path)
    assert (config.text("cpus"), config.text("pids"), config.text("backend.vm")) == ("1.5", "7", "fake")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("memroy = '1G'", "unknown option 'memroy'", "did you mean 'memory'?"),
        ("[backend]\nvmm = 'x'", "unknown option 'backend.vmm'", "did you mean 'backend.vm'?"),
        ("memory = '1X'", "memory: '1X' is not a size", ""),
        ("kind = 'machine'", "kind: 'machine' is not one of", ""),
        ("tty = ", "not valid TOML", ""),
        ("memory = ['1G']", "memory: a text or a number", ""),
        ("pids = true", "pids: a text or a number", ""),
        ("format = 'jsno'", "format: unknown format", "did you mean 'json'?"),
    ],
)
def test_a_bad_file_is_named(paths: Paths, tmp_path: Path, text: str, message: str, hint: str) -> None:
    write(paths.user_config, text)
    with pytest.raises(UsageError) as caught:
        load_config(paths, {}, tmp_path)
    assert caught.value.message.startswith(str(paths.user_config))
    assert message in caught.value.message
    assert caught.value.hint.startswith(hint)


def test_a_bad_variable_is_named(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="VMCTL_CPUS: cpus: 'many'"):
        load_config(paths, {"VMCTL_CPUS": "many"}, tmp_path)


def test_other_variables_and_empty_ones_are_ignored(paths: Paths, tmp_path: Path) -> None:
    config = load_config(paths, {"VMCTL_STATE_DIR": "/x", "VMCTL_MEMORY": ""}, tmp_path)
    assert config.value("memory").origin == "built in"


def test_every_default_is_valid() -> None:
    for option in OPTIONS:
        option.check(option.default)


def test_setting_keeps_comments_and_order(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("# mine\nmemory = '1G'  # enough\n\n[backend]\n# which one\nvm = 'libvirt'\n")
    set_option(file, "cpus", "2")
    set_option(file, "memory", "2G")
    set_option(file, "backend.app", "fake")
    assert read_file(file) == {"cpus": "2", "memory": "2G", "backend.vm": "libvirt", "backend.app": "fake"}
    text = file.read_text()
    assert text == (
        "# mine\nmemory = \"2G\"\n\ncpus = \"2\"\n[backend]\napp = \"fake\"\n# which one\nvm = 'libvirt'\n"
    )


def test_setting_makes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "config.toml"
    set_option(file, "format", r"{{.Name}}\t{{.State}}")
    assert read_file(file) == {"format": r"{{.Name}}\t{{.State}}"}
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]


def test_unsetting(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("memory = '1G'\n[backend]\nvm = 'fake'\napp = 'fake'\n")
    assert unset_option(file, "backend.vm")
    assert read_file(file) == {"memory": "1G", "backend.app": "fake"}
    assert not unset_option(file, "backend.vm")


def test_bad_values_are_not_written(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    for name, value in (("memory", "lots"), ("memroy", "1G")):
        with pytest.raises(UsageError):
            set_option(file, name, value)
    assert not file.exists()


def test_an_unusual_layout_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("backend = {vm = 'fake'}\n")
    with pytest.raises(VmctlError):
        set_option(file, "backend.vm", "libvirt")
    assert file.read_text() == "backend = {vm = 'fake'}\n"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    with pytest.raises(PermissionDenied):
        set_option(tmp_path / "config.toml", "cpus", "2")
