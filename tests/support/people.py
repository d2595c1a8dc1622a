"""A variant that can depict people and needs no model: the null renderer, red where it is told.

The prompt's word `red=0,4` makes these frames red; the rest is `lynx_engine.sleeper`'s. The variant
is no part of the package: tests put it into the registry, other processes do by `registering`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.rendering import EnginePlace, LoadedEngine, OnStage, Rendering
from lynx_engine.sleeper import Sleeper
from lynx_engine.variants.sleeper import SPEC as SLEEPER
from tests.support.renders import REPOSITORY

if TYPE_CHECKING:
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.jobs import RenderJob
    from lynx_engine.variants.spec import VariantSpec

SPEC = replace(
    SLEEPER,
    name="people",
    depicts_people=True,
    recipe="people-1",
    loader="tests.support.people:load_people",
)

_REGISTER = """
from lynx_engine.variants import REGISTRY
REGISTRY["people"] = "tests.support.people"
"""


def registering(folder: Path) -> str:
    """Return a PYTHONPATH under which every Python knows the variant; `folder` is made for it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_REGISTER)
    return f"{folder}:{REPOSITORY}"


class Painter(Sleeper):
    """See `rendering.Engine`."""

    def render(
        self, job: RenderJob, face: SubjectFace | None, *, on_stage: OnStage | None = None
    ) -> Rendering:
        """Draw stripes, and the frames that the prompt wants red."""
        rendering = super().render(job, face, on_stage=on_stage)
        for word in job.prompt.split():
            name, _, frames = word.partition("=")
            if name == "red":
                rendering.frames[[int(at) for at in frames.split(",")]] = (230, 20, 20)
        return rendering


def load_people(spec: VariantSpec, place: EnginePlace) -> LoadedEngine:
    """Return the engine; it has no weights."""
    del spec, place
    return LoadedEngine(Painter(), {})
