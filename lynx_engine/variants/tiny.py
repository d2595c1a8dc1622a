"""Lynx full's whole architecture at a size that renders on a CPU in a second or two.

Its weights are made here from a recipe, not trained: the pictures are coloured noise, the path is
the one of the big variants.
"""

from __future__ import annotations

from dataclasses import replace

from lynx_engine.shapes import FrameSize
from lynx_engine.variants.lynx_full import SPEC as LYNX_FULL
from lynx_engine.variants.spec import WeightFile

RECIPE = "tiny-1"

SPEC = replace(
    LYNX_FULL,
    name="tiny",
    summary="lynx_full's architecture, untrained and small enough for any CPU",
    base="base",
    adapters="lynx_full",
    face_encoder="arcface/recognition_ir_se.safetensors",
    depicts_people=False,
    builder="lynx_engine.models.tiny_weights:build_tiny_weights",
    recipe=RECIPE,
    defaults=replace(
        LYNX_FULL.defaults,
        size=FrameSize(64, 64),
        frames=9,
        fps=8,
        steps=4,
        precision="float32",
        negative_prompt="blurred, low quality",
    ),
    # Untrained: its first block moves by 0.1 to 0.3 a step, a trained one's by a few hundredths.
    cache_threshold=0.2,
    weights=(WeightFile("tiny-1", "made on this machine by its recipe", "Apache-2.0"),),
)
