"""JSON Schemas of everything that is written as JSON, and of spec files; generated from the types."""

from __future__ import annotations

from typing import Any

import msgspec

from vmctl.output import SCHEMA, checks, explanation, host, listings
from vmctl.output.machine import is_time
from vmctl.output.options import option_listing
from vmctl.output.show import Listing

DIALECT = "https://json-schema.org/draft/2020-12/schema"

LISTINGS: tuple[Listing[Any], ...] = (
    listings.INSTANCES,
    listings.DETAILS,
    listings.STATS,
    listings.EVENTS,
    listings.IMAGES,
    listings.CLAIMS,
    listings.HOST,
    listings.BACKENDS,
    listings.DISK_USAGE,
    listings.ACTIONS,
    host.HOSTS,
    checks.CHECKS,
    explanation.EXPLANATIONS,
    option_listing(origin=True),
)


def all_schemas() -> dict[str, dict[str, Any]]:
    """Schema by name: ``spec``, ``error``, and the kind of every listing."""
    return {"spec": spec_schema(), "error": _error_schema()} | {one.kind: output_schema(one) for one in LISTINGS}


def spec_schema() -> dict[str, Any]:
    """The schema of spec files."""
    from vmctl.specs.form import SpecForm

    return {"$schema": DIALECT, "title": "vmctl instance spec", **msgspec.json.schema(SpecForm)}


def output_schema(listing: Listing[Any]) -> dict[str, Any]:
    """The schema of one kind of output: the envelope around the view, times as text."""
    (item,), components = msgspec.json.schema_components([listing.view], ref_template="#/$defs/{name}")
    return {
        "$schema": DIALECT,
        "title": f"vmctl {listing.kind}",
        "type": "object",
        "required": ["schema", "kind", "items"],
        "properties": {
            "schema": {"const": SCHEMA},
            "kind": {"const": listing.kind},
            "items": {"type": "array", "items": item},
        },
        "$defs": {name: _with_times(definition) for name, definition in components.items()},
    }


def _with_times(definition: dict[str, Any]) -> dict[str, Any]:
    properties = {
        name: _time(schema) if is_time(name) else schema for name, schema in definition.get("properties", {}).items()
    }
    return {**definition, "properties": properties} if properties else definition


def _time(schema: dict[str, Any]) -> dict[str, Any]:
    moment = {"type": "string", "format": "date-time"}
    optional = any(option.get("type") == "null" for option in schema.get("anyOf", ()))
    return {"anyOf": [moment, {"type": "null"}]} if optional else moment


def _error_schema() -> dict[str, Any]:
    text = {"type": "string"}
    properties = {
        "schema": {"const": SCHEMA},
        "kind": {"const": "error"},
        "code": text,
        "exit_code": {"type": "integer"},
        "message": text,
        "hint": text,
        "details": {"type": "object"},
    }
    return {
        "$schema": DIALECT,
        "title": "vmctl error (one line on stderr)",
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }
