"""``config ls``."""

from __future__ import annotations

import msgspec

from vmctl.output.show import Listing
from vmctl.output.tables import Column


class OptionView(msgspec.Struct, frozen=True, kw_only=True):
    """One option with the value that counts and where it comes from."""

    name: str
    value: str
    origin: str
    variable: str
    help: str


def option_listing(*, origin: bool) -> Listing[OptionView]:
    """The table of options; with ``origin`` a column for it (machine output always has it)."""
    columns = [
        Column[OptionView]("OPTION", lambda option: option.name),
        Column[OptionView]("VALUE", lambda option: option.value),
    ]
    if origin:
        columns.append(Column("ORIGIN", lambda option: option.origin))
    columns.append(Column("MEANING", lambda option: option.help, cut=True))
    return Listing(kind="options", view=OptionView, columns=tuple(columns), key=lambda option: option.name)
