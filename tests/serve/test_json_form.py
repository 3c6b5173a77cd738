"""bounded and closed: narrower schemas, never wider ones."""

from __future__ import annotations

import pytest

from lmcourse.serve.json_form import bounded, closed

MOST = 2**53 - 1
BOTH = {"minimum": -MOST, "maximum": MOST}


@pytest.mark.parametrize(
    ("schema", "added"),
    [
        ({"type": "integer"}, BOTH),
        ({"type": ["integer", "null"]}, BOTH),
        ({"type": "integer", "minimum": 0}, {"maximum": MOST}),
        ({"type": "integer", "exclusiveMaximum": 9}, {"minimum": -MOST}),
        ({"type": "integer", "minimum": 10**18}, {}),
        ({"type": "integer", "maximum": -(10**18)}, {}),
        ({"type": "integer", "minimum": 1, "maximum": 3}, {}),
        ({"type": "number"}, {}),
        ({"type": "string"}, {}),
        ({"const": {"type": "integer"}}, {}),
        ({"enum": [{"type": "integer"}]}, {}),
    ],
)
def test_bounded_adds_what_is_missing_and_nothing_else(schema, added) -> None:
    assert bounded(schema) == {**schema, **added}


def test_bounded_finds_every_integer_and_leaves_the_schema_alone() -> None:
    integer = {"type": "integer"}
    schema = {"$defs": {"n": integer}, "properties": {"type": integer, "a": {"items": integer}}, "anyOf": [integer]}
    whole = {"type": "integer", **BOTH}
    found = {"$defs": {"n": whole}, "properties": {"type": whole, "a": {"items": whole}}, "anyOf": [whole]}
    assert bounded(schema) == found
    assert integer == {"type": "integer"}


def test_bounded_ends_on_a_schema_deeper_than_any_grammar() -> None:
    schema: dict = {"type": "integer"}
    for _ in range(900):
        schema = {"items": schema}
    assert bounded(schema)["items"]["items"]


OBJECT = {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, OBJECT),
        ({}, OBJECT),
        ({"properties": {"a": {}}}, {**OBJECT, "properties": {"a": {}}}),
        ({"type": "object", "additionalProperties": True}, {"type": "object", "additionalProperties": True}),
        ({"$ref": "#/$defs/a"}, {"type": "object", "$ref": "#/$defs/a"}),
    ],
)
def test_closed_allows_no_other_property_unless_the_schema_says_so(given, expected) -> None:
    assert closed(given) == expected
