"""Turns pydantic's findings into short letters in the author's words.

It is told what was expected and what was found; it decides only how to say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lynx_engine.errors import Letter, RuleError, nearest
from lynx_engine.manifest.names import HALF_PAIR
from lynx_engine.manifest.scalars import AmbiguousScalar, shown
from lynx_engine.manifest.schema import SEED_RULE
from lynx_engine.manifest_rules import Rule

Place = tuple[str | int, ...]
"""Keys and indices that lead from a value to one inside it."""

_QUOTED = re.compile("'([^']*)'")

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of names",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

# A bare word or number is what people write first where only a block says enough.
_BLOCKS = {
    "consent": ", as in consent: {basis: contract}",
    "identity": ", as in identity: {min_score: 0.4, attempts: 3}",
}


def findings(error: ValidationError) -> list[tuple[Place, ErrorDetails]]:
    """Return every finding with its place, in the order pydantic met them."""
    return [
        (tuple(step for step in detail["loc"] if step != "[key]"), detail)
        for detail in error.errors(include_url=False)
    ]


def is_unknown_key(detail: ErrorDetails) -> bool:
    """Return whether a finding is of a key that nobody asks for."""
    return detail["type"] == "extra_forbidden"


def letter(detail: ErrorDetails, label: str, known: Iterable[str] = ()) -> Letter:
    """Return one finding in words: what is there, and what is due.

    Args:
        detail: The finding.
        label: The author's word for the key or column.
        known: Every key that could have stood in its place, to name the nearest.
    """
    kind, given = detail["type"], detail["input"]
    context: dict[str, Any] = detail.get("ctx", {})
    if kind in _WANTED:
        rule = SEED_RULE if label == "seed" else f"it takes {_WANTED[kind]}"
        example = _BLOCKS.get(label, "") if kind.startswith("model_") else ""
        found = Rule.BAD_SEED if label == "seed" else _type_rule(given)
        text = f"{label} is {shown(given)}; {rule}{example}"
    elif kind == "value_error":
        # Everything that the models raise is a RuleError.
        return cast("RuleError", context["error"]).letter
    elif kind == "extra_forbidden":
        found = Rule.UNKNOWN_KEY
        text = f"unknown key {label!r}{nearest(label, known) or '; remove it'}"
    elif kind == "missing":
        found = Rule.MISSING_KEY
        text = f"'{label}' is missing; write it"
    elif kind == "string_unicode":
        found = Rule.BAD_CHARACTER
        text = f"{label} {HALF_PAIR}"
    elif kind == "string_type":
        found = _type_rule(given)
        text = _not_text(label, given)
    elif kind == "literal_error":
        found = Rule.NOT_A_CHOICE
        choices = str(context["expected"])
        wanted = choices.replace("'", "")
        hint = nearest(given, _QUOTED.findall(choices)) if isinstance(given, str) else ""
        text = f"{label} is {shown(given)}; it takes {wanted}{hint}"
    elif kind in {"greater_than_equal", "less_than_equal"}:
        found = Rule.BAD_SEED if label == "seed" else Rule.OUT_OF_RANGE
        text = _out_of_bounds(label, given, context)
    elif kind in {"string_too_short", "too_short"}:
        found = Rule.TOO_SHORT
        text = f"{label} is too short; write more, or leave it out"
    elif kind == "string_too_long":
        found = Rule.TOO_LONG
        text = f"{label} has {len(given):,} characters; the most is {context['max_length']:,}"
    else:
        found = _type_rule(given)
        text = f"{label} is {shown(given)}: {detail['msg']}"
    return Letter(found, text)


def _type_rule(given: object) -> Rule:
    return Rule.AMBIGUOUS_SCALAR if isinstance(given, AmbiguousScalar) else Rule.WRONG_TYPE


def keys_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """Return the keys that `model` knows in the mapping that holds the last step of `place`."""
    for step in place[:-1]:
        if isinstance(step, str) and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation) or model
    return list(model.model_fields)


def label_of_place(place: Sequence[str | int], otherwise: str) -> str:
    """Return the innermost key of `place`, the author's word for what is wrong."""
    return next((step for step in reversed(place) if isinstance(step, str)), otherwise)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    parts = cast("tuple[object, ...]", get_args(annotation))
    return next((found for part in parts if (found := _model_in(part)) is not None), None)


def _not_text(label: str, given: object) -> str:
    if isinstance(given, AmbiguousScalar):
        return f'{label} is {shown(given)}; quote it: "{given.text}"'
    if isinstance(given, bool | int | float):
        kind = "a true-or-false value" if isinstance(given, bool) else "a number"
        return f'{label} is {shown(given)}, {kind} where text is due; quote it: "{shown(given)}"'
    return f"{label} is {shown(given)}; it takes text"


def _out_of_bounds(label: str, given: object, context: dict[str, Any]) -> str:
    if label == "seed":
        return f"seed is {shown(given)}; {SEED_RULE}"
    if "ge" in context:
        return f"{label} is {shown(given)}; the least is {context['ge']:g}"
    return f"{label} is {shown(given)}; the most is {context['le']:g}"
