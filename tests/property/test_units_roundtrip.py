"""What is written is read back as the same number, whatever the spelling."""

from __future__ import annotations

import string
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.errors import UsageError
from vmctl.model.ids import as_uuid, check_name, instance_id_of, is_id, native_name, new_id
from vmctl.units import (
    MAX_CPU_MILLIS,
    MAX_SIZE,
    PAGE,
    exact_size,
    format_cpus,
    format_size,
    parse_cpus,
    parse_duration,
    parse_size,
    round_up_to_page,
)

SIZES = st.integers(1, MAX_SIZE)
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


@given(SIZES)
def test_sizes(size: int) -> None:
    assert parse_size(exact_size(size)) == size


@given(st.integers(1, 1023), st.sampled_from(sorted(UNITS)), st.sampled_from(["", "B", "iB"]), st.booleans())
def test_every_spelling_is_binary(number: int, unit: str, suffix: str, lower: bool) -> None:
    text = f"{number}{unit}{suffix if unit else suffix[-1:]}"
    assert parse_size(text.lower() if lower else text) == number * UNITS[unit]


@given(SIZES)
def test_sizes_for_people_are_close(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= size * 0.06


@given(st.integers(1, MAX_CPU_MILLIS))
def test_cpus(millis: int) -> None:
    assert parse_cpus(format_cpus(millis)) == millis
    assert parse_cpus(f"{millis}m") == millis


@given(st.integers(0, MAX_SIZE))
def test_pages(size: int) -> None:
    rounded = round_up_to_page(size)
    assert rounded % PAGE == 0
    assert 0 <= rounded - size < PAGE


@given(
    st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)
)
def test_durations_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert parse_duration(text) == days * 86400 + hours * 3600 + minutes * 60 + seconds


@given(st.decimals(0, 10**6, places=3))
def test_bare_numbers_are_seconds(seconds: Decimal) -> None:
    assert parse_duration(str(seconds)) == float(seconds)


@given(st.text(max_size=20))
def test_nonsense_is_refused_or_positive(text: str) -> None:
    """Whatever is typed gives a sensible number or a UsageError, and never anything else."""
    for parse, least in ((parse_size, 1), (parse_cpus, 1), (parse_duration, 0)):
        try:
            value = parse(text)
        except UsageError:
            continue
        assert value >= least


@pytest.mark.parametrize("text", ["", " ", "0", "0G", "-1", "1X", "1GG", "G", "1e9", "nan", "inf", "1_000", "2000P"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "0", "0m", "-1", "1.2345", "1.5m", "nan", "inf", "1,5", "100001"])
def test_no_cpus(text: str) -> None:
    with pytest.raises(UsageError):
        parse_cpus(text)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1x", "1h-30m", "1 h", "nan"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(LABEL)
def test_valid_names_are_kept(name: str) -> None:
    assert check_name(name) == name


@given(st.text(alphabet=string.printable + "äß\0\u200b", max_size=70))
def test_names_are_rfc_1123_labels_or_refused(name: str) -> None:
    allowed = set(string.ascii_lowercase + string.digits + "-")
    valid = 1 <= len(name) <= 63 and set(name) <= allowed and not name.startswith("-") and not name.endswith("-")
    if valid:
        assert check_name(name) == name
    else:
        with pytest.raises(UsageError):
            check_name(name)


def test_ids_are_told_apart() -> None:
    ids = [new_id() for _ in range(200)]
    assert len(set(ids)) == len(ids)
    assert all(is_id(one) and instance_id_of(native_name(one)) == one for one in ids)
    assert len({as_uuid(one) for one in ids}) == len(ids)
    assert instance_id_of("vmctl-web") is None
    assert instance_id_of("web") is None
