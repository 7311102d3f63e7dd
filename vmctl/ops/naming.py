"""Names for instances that were not given one."""

from __future__ import annotations

import secrets

import msgspec

from vmctl.model.ids import check_name
from vmctl.model.spec import InstanceSpec

_FIRST = """
    amber bold brave calm clear cool crisp deft eager early fair fleet fond glad grand keen kind late light lively lucky
    mild neat noble plain prime proud quick quiet rapid ready sharp shy smart solid steady still sunny swift tidy true
    vivid warm wise young
""".split()  # noqa: SIM905 - words read better than a list of strings
_SECOND = """
    ant auk bear bee carp cod crab crane crow deer dove duck eel elk emu finch fox frog goat gull hare hawk heron ibis
    jay kite koala lark lion lynx mole moth newt otter owl panda pike puma quail ram raven robin seal shrew snail stork
    swan tern toad trout viper wolf wren yak
""".split()  # noqa: SIM905


def random_name() -> str:
    """Such as ``calm-otter-3f2a``: easy to say and to type; the last part keeps racing commands apart."""
    return f"{secrets.choice(_FIRST)}-{secrets.choice(_SECOND)}-{secrets.token_hex(2)}"


def named(spec: InstanceSpec) -> InstanceSpec:
    """``spec`` with a valid name. Raises UsageError if it has an invalid one."""
    return msgspec.structs.replace(spec, name=check_name(spec.name) if spec.name else random_name())
