"""The null renderer: sleeps instead of sampling, to test pools, clusters and schedules.

`lynx_engine/sleeper.py` says what its prompts can ask for.
"""

from __future__ import annotations

from dataclasses import replace

from lynx_engine.shapes import FrameSize
from lynx_engine.variants.spec import VariantSpec
from lynx_engine.variants.wan import SPEC as WAN

SPEC = VariantSpec(
    name="sleeper",
    summary="no model: sleeps as its prompt says (sleep=0.5), to rehearse a campaign",
    loader="lynx_engine.sleeper:load_sleeper",
    base="",
    adapters="",
    face_encoder="",
    identity=None,
    uses_reference=False,
    depicts_people=False,
    builder="",
    recipe="sleeper-1",
    defaults=replace(
        WAN.defaults,
        size=FrameSize(32, 32),
        frames=5,
        fps=8,
        steps=4,
        precision="float32",
    ),
    weights=(),
)
