"""``vmctl backend``."""

from __future__ import annotations

from vmctl.cli.context import choose_format, open_app
from vmctl.cli.factory import make_group
from vmctl.cli.params import Format, Quiet
from vmctl.output.show import show

app = make_group("What serves each kind of instance: libvirt, docker, sandbox.")


@app.command("ls")
def list_(format: Format = None, quiet: Quiet = False) -> None:
    """List backends with their health; JSON has every ability, or the reason why not."""
    from vmctl.ops.backends import list_backends
    from vmctl.output.listings import BACKENDS

    format = choose_format(format)
    with open_app() as opened:
        show(BACKENDS, list_backends(opened), format, quiet=quiet)
