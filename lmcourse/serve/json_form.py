"""What a JSON schema leaves open and an answer should not use: endless integers, arguments that no function has.

    {"type": "integer"}                          ─→ with bounds, unless it has some
    {"type": "object", "properties": {…}}        ─→ of a tool: these properties and no others

The idea: a schema is written to check values, and here it writes them. Small models that may go on with a number go on
until the answer is cut; and a call with an argument more than the function takes fails where it is made.

Contract: whatever the result allows, the schema allows.

Lesson: 5 (answers of a given form)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["bounded", "closed"]

_MOST = 2**53 - 1  # RFC 8259 §6: integers up to here mean the same to every reader
_VALUES = ("enum", "const", "default", "examples")  # these hold values, not schemas
_DEEPEST = 128  # deeper ones are refused when they are compiled
_OPENING = {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf"}


def bounded(schema: Any, depth: int = 0) -> Any:
    """The schema with bounds on every integer in it."""
    if isinstance(schema, list):
        return [bounded(part, depth + 1) for part in schema]
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return schema
    inner = {key: part if key in _VALUES else bounded(part, depth + 1) for key, part in schema.items()}
    kind = inner.get("type")
    return inner | _missing_bounds(inner) if "integer" in (kind if isinstance(kind, list) else [kind]) else inner


def _missing_bounds(schema: Mapping[str, Any]) -> dict[str, int]:
    """A bound on each side that has none, unless the other side's is beyond it."""
    lowest = [schema[key] for key in ("minimum", "exclusiveMinimum") if isinstance(schema.get(key), int | float)]
    highest = [schema[key] for key in ("maximum", "exclusiveMaximum") if isinstance(schema.get(key), int | float)]
    below = {} if lowest or any(bound <= -_MOST for bound in highest) else {"minimum": -_MOST}
    above = {} if highest or any(bound >= _MOST for bound in lowest) else {"maximum": _MOST}
    return below | above


def closed(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool's parameters as an object with its properties only, unless they say what else there may be."""
    schema = {"type": "object", **(parameters or {})}
    return schema if _OPENING & schema.keys() else {"properties": {}, **schema, "additionalProperties": False}
