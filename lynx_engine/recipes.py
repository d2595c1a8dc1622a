"""Completes a row's settings for its variant, or says what the variant cannot do.

Defaults: what the row wrote, else what the manifest's defaults wrote, else the variant's own. A
setting that cannot have an effect is refused where an author wrote it for this very row, and left
aside where it stands under defaults, which serve several variants. Pure: no file, no device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import TypeVar

from lynx_engine.errors import nearest
from lynx_engine.jobs import Lora
from lynx_engine.manifest.values import LoraFile, WrittenSettings
from lynx_engine.manifest_rules import Rule
from lynx_engine.shapes import FrameSize
from lynx_engine.speed import DISTILLED, DISTILLED_STEPS, EXACT, recorded_speed
from lynx_engine.variants import REGISTRY, get_variant
from lynx_engine.variants.spec import VariantSpec

_T = TypeVar("_T")

DEFAULT_CRF = 18
DEFAULT_CODEC = "h264"


class Origin(Enum):
    """Where a setting was written."""

    ROW = "row"
    DEFAULTS = "defaults"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Fault:
    """A setting that its variant cannot follow.

    Attributes:
        setting: Its name in the manifest.
        origin: Where it was written.
        rule: The rule of manifests that it breaks.
        text: What is wrong, why, and what to do.
    """

    setting: str
    origin: Origin
    rule: Rule
    text: str


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """What is known of a LoRA file without loading it.

    Attributes:
        path: The file, wherever a device process stands.
        digest: sha256 of the file, "" if it cannot be read.
        faults: Variant -> why the file cannot be laid over it, for those it was held against.
        numbers: How many it adds to a model.
    """

    path: Path
    digest: str
    faults: Mapping[str, str] = field(default_factory=dict[str, str])
    numbers: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every setting of a job that its subject, prompt and seed do not touch.

    The attributes mean what the fields of the same name mean in `RenderJob`.
    """

    spec: VariantSpec
    size: FrameSize
    frames: int
    fps: int
    steps: int
    guidance_text: float
    guidance_identity: float
    scale_identity: float
    scale_reference: float
    negative_prompt: str
    precision: str
    numerics: str
    memory: str
    speed: str
    loras: tuple[Lora, ...]
    safety: str
    label: str
    codec: str
    crf: int


def complete(
    row: WrittenSettings,
    defaults: WrittenSettings,
    loras: Mapping[Path, LoraFacts],
    *,
    classifiers: Collection[str] = (),
) -> tuple[Recipe | None, tuple[Fault, ...]]:
    """Return the recipe of a row, or every reason why there is none.

    Args:
        row: What the row wrote.
        defaults: What the manifest's defaults wrote.
        loras: LoRA file, as in the manifest's values -> what is known of it.
        classifiers: Who will check the frames of clips that can show people.

    Returns:
        The recipe and no fault, or None and at least one.
    """
    written = laid_over(row, defaults)
    name = written.variant
    if name is None:
        text = (
            f"no variant is written; add one of {_either(REGISTRY)} here (in YAML, or under "
            "defaults)"
        )
        return None, (Fault("variant", Origin.ROW, Rule.MISSING_VARIANT, text),)
    if name not in REGISTRY:
        advice = nearest(name, REGISTRY) or f"; there are {_either(REGISTRY)}"
        text = f"there is no variant '{name}'{advice}"
        origin = _origin("variant", row, defaults)
        return None, (Fault("variant", origin, Rule.UNKNOWN_VARIANT, text),)
    spec = get_variant(name)
    recipe = _recipe(spec, written, loras)
    faults = tuple(
        Fault(setting, _origin(setting, row, defaults), rule, text)
        for setting, rule, text in (
            *_without_effect(spec, row),
            *_distilled_faults(recipe, row),
            *_shape_faults(spec, recipe),
            *_missing_abilities(spec, recipe, written, loras),
            *_unchecked(spec, recipe, classifiers),
        )
    )
    return (None if faults else recipe), faults


def laid_over(row: WrittenSettings, defaults: WrittenSettings) -> WrittenSettings:
    """Return what `row` wrote, and what `defaults` wrote where it wrote nothing."""
    chosen = {name: value for name in _SETTINGS if (value := getattr(row, name)) is not None}
    return replace(defaults, **chosen)


_SETTINGS = tuple(f.name for f in fields(WrittenSettings))


def _origin(setting: str, row: WrittenSettings, defaults: WrittenSettings) -> Origin:
    if getattr(row, setting) is not None:
        return Origin.ROW
    return Origin.DEFAULTS if getattr(defaults, setting) is not None else Origin.NOWHERE


def _recipe(spec: VariantSpec, written: WrittenSettings, loras: Mapping[Path, LoraFacts]) -> Recipe:
    own = spec.defaults
    has_identity = spec.identity is not None
    has_identity_branch = "identity" in spec.branches
    speed = recorded_speed(_or(written.speed, EXACT), cache_threshold=spec.cache_threshold)
    # Its LoRA has learned guidance and steers away from nothing: both formulas at scale 1.
    distilled = speed == DISTILLED
    return Recipe(
        spec=spec,
        size=_or(written.size, own.size),
        frames=_or(written.frames, own.frames),
        fps=_or(written.fps, own.fps),
        steps=_or(written.steps, DISTILLED_STEPS if distilled else own.steps),
        guidance_text=1.0 if distilled else _or(written.guidance_text, own.guidance_text),
        guidance_identity=0.0
        if not has_identity_branch
        else 1.0
        if distilled
        else _or(written.guidance_identity, own.guidance_identity),
        scale_identity=_or(written.scale_identity, own.scale_identity) if has_identity else 0.0,
        scale_reference=_or(written.scale_reference, own.scale_reference)
        if spec.uses_reference
        else 0.0,
        negative_prompt="" if distilled else _or(written.negative_prompt, own.negative_prompt),
        precision=_or(written.precision, own.precision),
        numerics=_or(written.numerics, "normal"),
        memory=_or(written.memory, "auto"),
        speed=speed,
        loras=tuple(_lora(x, loras) for x in _or(written.loras, ())),
        safety=_or(written.safety, "on"),
        label=_or(written.label, "none"),
        codec=_or(written.video_codec, DEFAULT_CODEC),
        crf=_or(written.video_crf, DEFAULT_CRF),
    )


def _lora(file: LoraFile, known: Mapping[Path, LoraFacts]) -> Lora:
    facts = known.get(file.path, LoraFacts(file.path, ""))
    return Lora(facts.digest, file.scale, facts.path, facts.numbers)


def _or(value: _T | None, otherwise: _T) -> _T:
    return otherwise if value is None else value


def _without_effect(spec: VariantSpec, row: WrittenSettings) -> Iterator[tuple[str, Rule, str]]:
    parts = (
        ("guidance_identity", "identity" in spec.branches, "identity branch"),
        ("scale_identity", spec.identity is not None, "identity adapter"),
        ("scale_reference", spec.uses_reference, "reference adapter"),
    )
    for setting, has_part, part in parts:
        if getattr(row, setting) is not None and not has_part:
            yield (
                setting,
                Rule.NO_EFFECT,
                f"{setting} has no effect: {spec.name} has no {part}. Remove it here (in YAML, "
                "defaults may hold it for the variants that have one)",
            )


def _distilled_faults(recipe: Recipe, row: WrittenSettings) -> Iterator[tuple[str, Rule, str]]:
    if recipe.speed != DISTILLED:
        return
    if not recipe.loras:
        yield (
            "speed",
            Rule.MISSING_LORA,
            "speed is distilled, and what has learned to render in few steps is a LoRA: none is "
            "written. Add loras: [{weights: file.safetensors}], or write speed: exact or cache",
        )
    for setting in ("guidance_text", "guidance_identity", "negative_prompt"):
        if getattr(row, setting) is not None:
            yield (
                setting,
                Rule.NO_EFFECT,
                f"{setting} has no effect: with speed: distilled one branch runs, and its LoRA has "
                "learned guidance. Remove it here (in YAML, defaults may hold it for other rows)",
            )


def _shape_faults(spec: VariantSpec, recipe: Recipe) -> Iterator[tuple[str, Rule, str]]:
    counts = spec.nearest_frames(recipe.frames)
    if counts:
        yield (
            "frames",
            Rule.FRAMES_COUNT,
            f"frames is {recipe.frames}; {spec.name} renders {spec.frame_stride}k + 1 frames. "
            f"Use {_either(counts)}.",
        )
    size = spec.nearest_size(recipe.size)
    if size is not None:
        yield (
            "size",
            Rule.SIZE_MULTIPLE,
            f"size is {recipe.size}; {spec.name} renders sides that are multiples of "
            f"{spec.size_multiple}. Use {size}.",
        )


def _missing_abilities(
    spec: VariantSpec, recipe: Recipe, written: WrittenSettings, loras: Mapping[Path, LoraFacts]
) -> Iterator[tuple[str, Rule, str]]:
    for setting, value, available in (
        ("memory", recipe.memory, spec.memory_tiers),
        ("speed", _or(written.speed, EXACT), spec.speeds),
        ("label", recipe.label, spec.labels),
    ):
        if value not in available:
            yield (
                setting,
                Rule.NOT_OFFERED,
                f"{setting} is {value}; in this version {spec.name} offers {_either(available)}",
            )
    if recipe.loras and not spec.renders_loras:
        text = f"in this version {spec.name} renders without LoRAs; remove loras"
        yield "loras", Rule.NOT_OFFERED, text
    elif recipe.loras:
        for lora in written.loras or ():
            facts = loras.get(lora.path)
            if facts is None:
                text = f"LoRA {lora.path} cannot be read; check its path"
                yield "loras", Rule.BAD_LORA, text
            elif spec.name in facts.faults:
                yield "loras", Rule.BAD_LORA, facts.faults[spec.name]


def _unchecked(
    spec: VariantSpec, recipe: Recipe, classifiers: Collection[str]
) -> Iterator[tuple[str, Rule, str]]:
    if spec.is_checked(recipe.safety) and not classifiers:
        yield (
            "safety",
            Rule.NO_CLASSIFIER,
            f"{spec.name} can depict people, and no safety classifier looks at its frames here. "
            "Install one (`pip install 'lynx_engine[safety]'` or `lynx-engine models pull "
            "safety`) and have the setting classifiers allow it, or take responsibility for what "
            "is rendered: write safety: acknowledged-off (it is recorded with every clip)",
        )


def _either(values: Iterable[object]) -> str:
    words = [str(value) for value in values]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
