"""The matrix's keys, derived from the row's: the same values, each also as a list.

A setting added to `RenderSettings` is a matrix key at once. It knows no rows and no order.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, cast, get_args

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from lynx_engine.errors import RuleError
from lynx_engine.manifest.schema import (
    MAX_SEED,
    Defaults,
    GateEntry,
    Name,
    PromptEntry,
    RenderSettings,
    RowEntry,
    StrictModel,
    SubjectEntry,
    check_seed,
)
from lynx_engine.manifest_rules import Rule

# A list of LoRAs and a video block are one value each, the same for every row of the matrix.
SINGLE_KEYS = frozenset({"loras", "video"})

_RANGE = re.compile(r"(0|[1-9][0-9]{0,18})\.\.(0|[1-9][0-9]{0,18})")
_SEED_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
        {"type": "string", "pattern": r"^[0-9]+\.\.[0-9]+$"},
    ]
}


def read_seeds(value: object) -> tuple[range, ...]:
    """Read a seed, a range such as `1..5` (both ends included), or a list of these.

    Raises:
        RuleError: If a part is neither, or a range runs backwards.
    """
    parts = cast("list[object]", value) if isinstance(value, list) else [value]
    if not parts:
        raise RuleError(Rule.BAD_SEED, "seed is an empty list; write a seed, or leave the key out")
    return tuple(_read_seed(part) for part in parts)


def _read_seed(part: object) -> range:
    match = _RANGE.fullmatch(part) if isinstance(part, str) else None
    if match is None:
        seed = check_seed(part)
        return range(seed, seed + 1)
    first, last = check_seed(int(match[1])), check_seed(int(match[2]))
    if first > last:
        raise RuleError(Rule.BAD_SEED, f"seed {part} runs backwards; write {last}..{first}")
    return range(first, last + 1)


class _OneOrMany:
    """Shows editors that a list key takes a single value too."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        listed = handler(core_schema)
        return {"anyOf": [listed["items"], listed]}


def _as_list(value: object) -> object:
    return cast("object", value) if isinstance(value, list) else [value]


def _one_or_many(name: str) -> tuple[Any, Any]:
    """Return the type and description of a row's key as key of a matrix."""
    row_field = RowEntry.model_fields[name]
    single: Any = get_args(row_field.annotation)[0]
    kind: Any = Annotated[
        list[single], Field(min_length=1), BeforeValidator(_as_list), _OneOrMany()
    ]
    if name in SINGLE_KEYS:
        kind = single
    elif name == "seed":
        listed = {"type": "array", "items": _SEED_SCHEMA, "minItems": 1}
        kind = Annotated[
            tuple[range, ...],
            PlainValidator(read_seeds),
            WithJsonSchema({"anyOf": [*_SEED_SCHEMA["anyOf"], listed]}),
        ]
    return (
        kind | None,
        Field(
            default=None,
            description=row_field.description,
            examples=row_field.examples,
            json_schema_extra=row_field.json_schema_extra,
        ),
    )


AXES = ("subject", "prompt", "text", "seed", *RenderSettings.model_fields)

_EXCLUDABLE = create_model(
    "_Excludable",
    __base__=StrictModel,
    **cast("Any", {name: _one_or_many(name) for name in AXES if name not in SINGLE_KEYS}),
)
_COMBINATION = create_model(
    "_Combination",
    __base__=StrictModel,
    **cast("Any", {name: _one_or_many(name) for name in AXES}),
)


class Exclusion(_EXCLUDABLE):
    """Drops the combinations that agree with every key written here."""


class MatrixEntry(_COMBINATION):
    """One row for each combination of the listed values."""

    exclude: list[Exclusion] | None = Field(
        default=None,
        description="Combinations to drop; each must drop something.",
        examples=[[{"subject": "robo", "seed": 3}]],
        json_schema_extra={"x-unit": "", "x-default": "none"},
    )
    zip: Annotated[list[str], Field(min_length=2)] | None = Field(
        default=None,
        description="Keys whose lists, of equal length, are paired instead of multiplied.",
        examples=[["subject", "prompt"]],
        json_schema_extra={"x-unit": "", "x-default": "none"},
    )


class ManifestFile(StrictModel):
    """A manifest: what to render, of whom, and with which settings."""

    campaign: Name | None = Field(
        default=None,
        description="Name of the campaign and of its folder in outputs/.",
        examples=["autumn"],
        json_schema_extra={"x-unit": "", "x-default": "the file's stem"},
    )
    defaults: Defaults | None = Field(
        default=None,
        description="Settings of every row that writes none of its own.",
        examples=[{"variant": "tiny", "steps": 4}],
        json_schema_extra={"x-unit": "", "x-default": "none"},
    )
    subjects: dict[Name, SubjectEntry] | None = Field(
        default=None,
        description="The people to keep recognisable, by name.",
        examples=[{"host": {"image": "subjects/host.png", "consent": {"basis": "contract"}}}],
        json_schema_extra={"x-unit": "", "x-default": "none"},
    )
    prompts: dict[Name, PromptEntry] | None = Field(
        default=None,
        description="Texts by name: written out, or a file with one prompt a line.",
        examples=[{"beach": {"file": "prompts/beach.txt"}}],
        json_schema_extra={"x-unit": "", "x-default": "none"},
    )
    rows: list[RowEntry] | None = Field(
        default=None,
        description="Clips written out one by one.",
        examples=[[{"subject": "host", "prompt": "pumpkin", "seed": 42}]],
        json_schema_extra={"x-unit": "", "x-default": "none"},
    )
    matrix: list[MatrixEntry] | None = Field(
        default=None,
        description="Products of lists.",
        examples=[[{"subject": ["host", "robo"], "prompt": "pumpkin", "seed": "1..5"}]],
        json_schema_extra={"x-unit": "", "x-default": "none"},
    )
    identity: GateEntry | None = Field(
        default=None,
        description="Gate on the likeness of every clip.",
        examples=[{"min_score": 0.55, "attempts": 3, "keep": "best"}],
        json_schema_extra={"x-unit": "", "x-default": "no gate"},
    )


class _BlanklessSchema(GenerateJsonSchema):
    """Leaves out that every key may be null: editors would offer it everywhere."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        if described.get("default", "") is None:
            del described["default"]
        return described


def manifest_json_schema() -> str:
    """Return the JSON schema of a YAML manifest, as manifests/manifest.schema.json holds it."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ManifestFile.model_json_schema(schema_generator=_BlanklessSchema),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
