"""Opens what a command needs: configuration and the application, closed on every way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from vmctl.cli import state
from vmctl.config import Config, load_config
from vmctl.errors import Partial, VmctlError
from vmctl.output import streams
from vmctl.output.failure import show_failure
from vmctl.output.show import check_format
from vmctl.paths import default_paths

if TYPE_CHECKING:
    from vmctl.app import App

T = TypeVar("T")


@contextmanager
def open_app(config: Config | None = None) -> Iterator[App]:
    """The application of this command."""
    from vmctl.app import App

    paths = default_paths()
    config = config or load_config(paths)
    if not state.knows_format():
        state.remember_format(config.text("format"))
    app = App(paths, config, notice)
    try:
        yield app
    finally:
        app.close()


def notice(text: str) -> None:
    """One line for people."""
    streams.notice(f"note: {text}")


def choose_format(flag: str | None, config: Config | None = None) -> str:
    """The format asked for by the flag, else by the configuration. Raises UsageError for an unknown one."""
    if flag is None:
        flag = (config or load_config(default_paths())).text("format")
    return state.remember_format(check_format(flag))


def for_each(names: list[str], act: Callable[[str], T], done: Callable[[T], None]) -> None:
    """Do ``act`` for each name, ``done`` with each result at once.

    One name: its own error is raised. Several: each failure is shown as it comes, at the end Partial (exit 9).
    """
    failed = []
    for name in names:
        try:
            result = act(name)
        except VmctlError as error:
            if len(names) == 1:
                raise
            failed.append(name)
            show_failure(error, as_json=state.wants_json([]))
        else:
            done(result)
    if failed:
        raise Partial(f"{len(failed)} of {len(names)} failed: {', '.join(failed)}")
