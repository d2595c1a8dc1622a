"""Lynx lite: identity adapter in every second block, no reference adapter, two branches.

Source: arXiv 2509.15496; bytedance/lynx at 3a6a91a.
"""

from __future__ import annotations

from dataclasses import replace

from lynx_engine.variants.lynx_full import FACE_ENCODER, LYNX_REPOSITORY
from lynx_engine.variants.spec import IdentityAdapterSpec, WeightFile
from lynx_engine.variants.wan import BASE
from lynx_engine.variants.wan import SPEC as WAN
from lynx_engine.weights.origins import HubFolder

SPEC = replace(
    WAN,
    name="lynx_lite",
    summary="identity adapter only, lighter and longer clips; two passes a step",
    adapters="lynx_lite",
    face_encoder=FACE_ENCODER.path,
    identity=IdentityAdapterSpec(block_stride=2, shares_text_key_norm=False),
    defaults=replace(WAN.defaults, frames=121, fps=24, scale_identity=1.0),
    weights=(
        BASE,
        WeightFile(
            "lynx_lite",
            f"huggingface.co/{LYNX_REPOSITORY}, folder lynx_lite",
            "Apache-2.0",
            HubFolder(LYNX_REPOSITORY, "lynx_lite", ("*.safetensors",)),
        ),
        FACE_ENCODER,
    ),
)
