"""JSON, JSON lines, YAML, CSV, templates, ``-q`` and failures."""

from __future__ import annotations

import csv
import io
import json

import msgspec
import pytest
import yaml

from tests.support.views import instance
from vmctl.errors import NotFound, UsageError
from vmctl.model.views import InstanceView
from vmctl.output import failure, show
from vmctl.output.listings import INSTANCES, resource_amount
from vmctl.output.machine import plain, rfc3339
from vmctl.output.schemas import LISTINGS
from vmctl.output.template import compile_template

LABELS = {"tier": "front", "created_at": "x"}
VIEW = instance(name="web", memory=2 << 30, labels=LABELS, created_at=1_700_000_000_123_456_789)


def rendered(format: str, **options: bool) -> str:
    return show.render(INSTANCES, [VIEW], format, **options)


def test_json_has_the_envelope_integers_and_times() -> None:
    document = json.loads(rendered("json"))
    assert document["schema"] == "vmctl/1"
    assert document["kind"] == "instances"
    (item,) = document["items"]
    assert item["memory"] == 2 << 30
    assert item["created_at"] == "2023-11-14T22:13:20.123456Z"
    assert item["started_at"] is None
    assert item["labels"] == {"tier": "front", "created_at": "x"}


def test_json_has_every_field() -> None:
    (item,) = json.loads(rendered("json"))["items"]
    assert item.keys() == {field.name for field in msgspec.structs.fields(InstanceView)}


def test_yaml_is_the_same_document() -> None:
    assert yaml.safe_load(rendered("yaml")) == json.loads(rendered("json"))


def test_json_lines_are_the_items() -> None:
    (line,) = rendered("jsonl").splitlines()
    assert json.loads(line) == json.loads(rendered("json"))["items"][0]


def test_csv_has_a_header_and_nested_values_as_json() -> None:
    (row,) = csv.DictReader(io.StringIO(rendered("csv")))
    assert row["name"] == "web"
    assert row["memory"] == str(2 << 30)
    assert json.loads(row["labels"])["tier"] == "front"
    assert row["started_at"] == ""


def test_quiet_prints_names() -> None:
    assert rendered("json", quiet=True) == "web\n"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (r"{{.Name}}\t{{.State}}", "web\trunning"),
        ("{{ .name }}", "web"),
        ("{{.CpuMillis}} {{.cpu_millis}}", "1000 1000"),
        ("{{.Labels.tier}}", "front"),
        ("{{json .Addresses}}", '["10.0.0.2"]'),
        ("{{.Addresses}}", "10.0.0.2"),
        ("{{.ID}}", VIEW.id),
        ("{{.StartedAt}}|", "|"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert compile_template(template)(VIEW) == text


def test_a_template_can_show_everything() -> None:
    assert json.loads(compile_template("{{json .}}")(VIEW)) == plain(VIEW)


@pytest.mark.parametrize("template", ["{{.Name", "{{range .Ports}}{{end}}", "}}"])
def test_templates_that_go_beyond_are_refused(template: str) -> None:
    with pytest.raises(UsageError, match="template"):
        compile_template(template)


def test_an_unknown_field_is_explained() -> None:
    with pytest.raises(UsageError, match=r"\.Nam") as caught:
        compile_template("{{.Nam}}")(VIEW)
    assert caught.value.hint == "did you mean '.name'?"


def test_an_unknown_format_is_explained() -> None:
    with pytest.raises(UsageError) as caught:
        show.check_format("jsno")
    assert "json" in caught.value.hint


def test_empty_listings_have_a_title_or_an_empty_list() -> None:
    assert show.render(INSTANCES, [], "table").startswith("NAME")
    assert json.loads(show.render(INSTANCES, [], "json"))["items"] == []
    assert show.render(INSTANCES, [], "csv").startswith("id,name")


@pytest.mark.parametrize("format", show.FORMATS)
@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.kind)
def test_every_listing_has_every_format_when_empty(listing: show.Listing[InstanceView], format: str) -> None:
    if listing.columns or format != "table":
        show.render(listing, [], format)


def test_kinds_are_unique() -> None:
    kinds = [listing.kind for listing in LISTINGS]
    assert len(kinds) == len(set(kinds))


def test_rfc3339() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("resource", "value", "text"),
    [("mem", 2 << 30, "2G"), ("cpu.shared", 1500, "1.5"), ("inst", 3, "3"), ("disk.phys@storage:x", 1 << 20, "1M")],
)
def test_resource_amounts(resource: str, value: int, text: str) -> None:
    assert resource_amount(resource, value) == text


def test_a_failure_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    failure.show_failure(NotFound("no instance\n'x'\x1b[31m", hint="vmctl ps"))
    assert capsys.readouterr().err == "error: no instance 'x' [31m\nhint: vmctl ps\n"


def test_a_failure_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    failure.show_failure(NotFound("gone", details={"name": "x"}), as_json=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {
        "schema": "vmctl/1",
        "kind": "error",
        "code": "not-found",
        "exit_code": 3,
        "message": "gone",
        "hint": NotFound.usual_hint,
        "details": {"name": "x"},
    }
