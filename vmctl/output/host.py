"""``host inspect``: what the host is, and a table of its resources."""

from __future__ import annotations

from vmctl.model.views import HostView
from vmctl.output import tables
from vmctl.output.listings import HOST
from vmctl.output.show import Listing, show
from vmctl.output.streams import answer_width, write
from vmctl.units import format_size

HOSTS: Listing[HostView] = Listing(kind="hosts", view=HostView, columns=(), key=lambda host: host.hostname)


def show_host(host: HostView, format: str) -> None:
    """Write it for people, or as asked. CSV has one line a resource."""
    if format == "csv":
        show(HOST, host.resources, format)
    elif format != "table":
        show(HOSTS, [host], format)
    else:
        facts = f"{host.cpus} CPUs, {format_size(host.memory)} memory, Linux {host.kernel}"
        write(f"{host.hostname}: {facts}\n\n")
        write(tables.render(HOST.columns, host.resources, answer_width()))
