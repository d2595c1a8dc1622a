"""The manifest's keys, once: pydantic models at the edge, from which the JSON schema is made.

Every field carries meaning, unit, default and example; the tables of manifests/README.md are
tested against them. The models check one value at a time; names that refer to each other are
`expand`'s business, and what a variant can do is planning's.
"""

from __future__ import annotations

from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from lynx_engine.errors import RuleError
from lynx_engine.manifest.image_list import IMAGES_SCHEMA, read_images
from lynx_engine.manifest.names import MAX_PROMPT_CHARACTERS, check_characters, check_name
from lynx_engine.manifest.scalars import AmbiguousScalar, parse_date, shown
from lynx_engine.manifest.values import LoraFile, WrittenSettings
from lynx_engine.manifest_rules import Rule
from lynx_engine.shapes import FrameSize

MAX_SEED = 2**63 - 1
SEED_RULE = "a seed is a plain decimal from 0 to 2^63 - 1"
_VARIANTS_OWN = "the variant's"


def _key(
    meaning: str,
    *,
    example: object,
    unit: str = "",
    default: str = _VARIANTS_OWN,
    required: bool = False,
) -> Any:
    """Describe one key; `default` is in words, since blanks stay blank until planning."""
    return Field(
        default=... if required else None,
        description=meaning,
        examples=[example],
        json_schema_extra={"x-unit": unit, "x-default": default},
    )


def _read_size(value: object) -> FrameSize:
    try:
        return FrameSize.parse(value if isinstance(value, str) else str(value))
    except ValueError as error:
        raise RuleError(Rule.BAD_SIZE, str(error)) from None


def _read_safety(value: object) -> object:
    # YAML 1.1 reads an unquoted `on` as true, JSON writes true.
    is_on = value is True or (isinstance(value, AmbiguousScalar) and value.text.lower() == "on")
    return "on" if is_on else value


def _read_date(value: object) -> date:
    return parse_date(str(value))


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def check_seed(value: object) -> int:
    """Return `value` if it is a seed.

    Raises:
        RuleError: If it is not a whole number from 0 to 2^63 - 1.
    """
    if _is_whole(value) and 0 <= value <= MAX_SEED:
        return value
    raise RuleError(Rule.BAD_SEED, f"seed is {shown(value)}; {SEED_RULE}")


def _read_face(value: object) -> str:
    if value == "largest":
        return "largest"
    chosen = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    index = chosen.get("index")
    if len(chosen) == 1 and _is_whole(index) and 0 <= index < 1000:
        return f"index:{index}"
    raise RuleError(
        Rule.FACE_CHOICE,
        "face takes largest, or {index: n} with n counted from 0 at the left (index:n in a "
        "table); leave it out when the photo shows one face",
    )


def _check_local(path: str, *, what: str) -> str:
    if "://" in path or path.startswith("data:"):
        raise RuleError(Rule.BAD_PATH, f"{what} is a URL; download the file and write its path")
    if not path.strip() or "\0" in path:
        raise RuleError(Rule.BAD_PATH, f"{what} is empty or no path; write the file's path")
    return path


def _check_text(value: str, info: ValidationInfo) -> str:
    return check_characters(value, what=info.field_name or "the text")


SizeText = Annotated[
    FrameSize,
    PlainValidator(_read_size),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"}),
]
DateText = Annotated[
    date, PlainValidator(_read_date), WithJsonSchema({"type": "string", "format": "date"})
]
FaceChoice = Annotated[
    str,
    PlainValidator(_read_face),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "largest"},
                {
                    "type": "object",
                    "properties": {"index": {"type": "integer", "minimum": 0, "maximum": 999}},
                    "required": ["index"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
SafetyWord = Annotated[
    Literal["on", "acknowledged-off"],
    BeforeValidator(_read_safety),
    WithJsonSchema({"enum": ["on", True, "acknowledged-off"]}),
]
Name = Annotated[str, AfterValidator(check_name)]
ImagePath = Annotated[str, AfterValidator(partial(_check_local, what="image"))]
ImagePaths = Annotated[list[ImagePath], BeforeValidator(read_images), WithJsonSchema(IMAGES_SCHEMA)]
LoraPath = Annotated[str, AfterValidator(partial(_check_local, what="weights"))]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Frames = Annotated[int, Field(ge=1, le=100_000)]
Rate = Annotated[int, Field(ge=1, le=120)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Factor = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
LoraScale = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Crf = Annotated[int, Field(ge=0, le=51)]
Word = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_text)]
NegativePrompt = Annotated[
    str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_check_text)
]


class StrictModel(BaseModel):
    """Exact types, no unknown keys, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class VideoEntry(StrictModel):
    """How the clip is encoded."""

    codec: Literal["h264"] | None = _key("Video codec.", default="h264", example="h264")
    crf: Crf | None = _key(
        "Constant rate factor: 0 is lossless and large, 51 small and poor.",
        default="18",
        example=18,
    )


class LoraEntry(StrictModel):
    """A low-rank adapter laid over the base model."""

    weights: LoraPath = _key(
        "Its safetensors file, relative to the manifest.",
        default="required",
        required=True,
        example="loras/film.safetensors",
    )
    scale: LoraScale = Field(
        default=1.0,
        description="Its strength; 0 is off.",
        examples=[0.8],
        json_schema_extra={"x-unit": "", "x-default": "1.0"},
    )


class RenderSettings(StrictModel):
    """Settings of a clip that may stand under defaults, in a row and in a matrix."""

    variant: Word | None = _key(
        "Recipe to render with; `lynx-engine variants` lists them.",
        default="none: write one",
        example="tiny",
    )
    size: SizeText | None = _key(
        "Width x height; portrait is fine.", unit="pixels", example="832x480"
    )
    frames: Frames | None = _key("Length of the clip.", unit="frames", example=81)
    fps: Rate | None = _key("Rate at which the clip plays.", unit="frames a second", example=16)
    steps: Steps | None = _key(
        "Sampling steps; more is slower and finer.", unit="steps", example=50
    )
    guidance_text: Factor | None = _key("How strongly the prompt steers.", example=5.0)
    guidance_identity: Factor | None = _key(
        "How strongly the subject steers, in variants with an identity branch.", example=2.0
    )
    scale_identity: Factor | None = _key("Factor on the identity adapter.", example=1.0)
    scale_reference: Factor | None = _key("Factor on the reference adapter.", example=1.0)
    negative_prompt: NegativePrompt | None = _key(
        "What the clip steers away from.", unit="text", example="blurred, low quality"
    )
    precision: Literal["float32", "bfloat16"] | None = _key(
        "Floating-point type of the model.", example="bfloat16"
    )
    numerics: Literal["normal", "strict"] | None = _key(
        "strict forbids everything that is not bit-neutral.", default="normal", example="strict"
    )
    memory: Literal["auto", "resident", "balanced", "low"] | None = _key(
        "Memory tier: how much of the model stays on the device.", default="auto", example="auto"
    )
    speed: Literal["exact", "cache", "distilled"] | None = _key(
        "Lossy shortcuts; exact takes none.", default="exact", example="exact"
    )
    loras: list[LoraEntry] | None = _key(
        "Low-rank adapters, in the order they are applied.",
        default="none",
        example=[{"weights": "loras/film.safetensors", "scale": 0.8}],
    )
    safety: SafetyWord | None = _key(
        "Check of the finished frames, for variants that can show people: on withholds a clip "
        "that a classifier flags or cannot judge; acknowledged-off takes responsibility and is "
        "recorded.",
        default="on",
        example="acknowledged-off",
    )
    label: Literal["none", "eu", "cn"] | None = _key(
        "Visible label burnt into the clip: eu writes AI-generated on every frame, cn AI生成 on "
        "the first 2 s.",
        default="none",
        example="eu",
    )
    video: VideoEntry | None = _key(
        "How the clip is encoded.", default="h264, crf 18", example={"codec": "h264", "crf": 18}
    )


class Defaults(RenderSettings):
    """Settings of every row that writes none of its own."""

    seed: Seed | None = _key(
        "Draws the noise: the same seed, the same clip. 0 to 2^63 - 1.", default="0", example=42
    )


class ConsentEntry(StrictModel):
    """The right to use a person's face."""

    basis: Word = _key(
        "What the right rests on.", default="required", required=True, example="contract"
    )
    scope: Word | None = _key("What it covers.", default="empty", example="autumn campaign, web")
    expires: DateText | None = _key(
        "Last day on which it holds.", unit="date", default="never", example="2027-06-30"
    )
    evidence: Word | None = _key(
        "Where the paper lies.", default="empty", example="contracts/host.pdf"
    )


class SubjectEntry(StrictModel):
    """The person to keep recognisable."""

    image: ImagePaths = _key(
        "Photo, or a list of photos of the person: PNG, JPEG or WebP, relative to the manifest.",
        default="required",
        required=True,
        example="subjects/host.png",
    )
    face: FaceChoice | None = _key(
        "Which face, when a photo shows several: largest, or an index from 0 at the left.",
        default="the only one",
        example="largest",
    )
    synthetic: bool | None = _key(
        "true for a made-up person, who needs no consent.", default="false", example=True
    )
    consent: ConsentEntry | None = _key(
        "The right to use the face; required unless synthetic.",
        default="none",
        example={"basis": "public-domain"},
    )


class PromptEntry(StrictModel):
    """A text written out, or a file of texts."""

    text: str | None = _key("The prompt itself.", unit="text", default="none", example="It rains.")
    file: Word | None = _key(
        "Text file in the manifest's folder, one prompt a line.",
        default="none",
        example="prompts/beach.txt",
    )
    whole: bool | None = _key("true: the whole file is one prompt.", default="false", example=True)

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_text(cls, value: object) -> object:
        return cast("object", value) if isinstance(value, dict) else {"text": value}

    @model_validator(mode="after")
    def _hold_one_source(self) -> PromptEntry:
        if (self.text is None) == (self.file is None):
            raise RuleError(
                Rule.PROMPT_SOURCE, "a prompt is a text or {file: ...}; write one of them"
            )
        if self.whole is not None and self.file is None:
            raise RuleError(Rule.NO_EFFECT, "whole belongs to a prompt file; remove it")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Show editors that a prompt is a plain text, or a mapping."""
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}


class RowEntry(Defaults):
    """One clip, or one for each line of a prompt file."""

    subject: Word | None = _key(
        "Name of a subject; none for variants without identity.", default="none", example="host"
    )
    prompt: Word | None = _key(
        "Name of a prompt; a prompt file's name stands for all its lines.",
        default="none",
        example="beach",
    )
    text: str | None = _key(
        "A prompt written out, instead of a name.", unit="text", default="none", example="It rains."
    )


class GateEntry(StrictModel):
    """Keep a clip only if its faces resemble the subject photo."""

    min_score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = _key(
        "Least mean likeness that passes.",
        unit="score",
        default="required",
        required=True,
        example=0.55,
    )
    attempts: Annotated[int, Field(ge=1, le=100)] | None = _key(
        "Seeds tried at most.", default="1", example=3
    )
    keep: Literal["best", "first"] | None = _key(
        "Which clip stays if none passes: the best one, or the first.",
        default="best",
        example="best",
    )


def written_settings(entry: RenderSettings, folder: Path) -> WrittenSettings:
    """Return the settings of `entry` as plain values, file paths joined to `folder`."""
    loras = entry.loras
    video = entry.video or VideoEntry()
    return WrittenSettings(
        variant=entry.variant,
        size=entry.size,
        frames=entry.frames,
        fps=entry.fps,
        steps=entry.steps,
        guidance_text=entry.guidance_text,
        guidance_identity=entry.guidance_identity,
        scale_identity=entry.scale_identity,
        scale_reference=entry.scale_reference,
        negative_prompt=entry.negative_prompt,
        precision=entry.precision,
        numerics=entry.numerics,
        memory=entry.memory,
        speed=entry.speed,
        loras=None
        if loras is None
        else tuple(LoraFile(folder / x.weights, x.scale) for x in loras),
        safety=entry.safety,
        label=entry.label,
        video_codec=video.codec,
        video_crf=video.crf,
    )
