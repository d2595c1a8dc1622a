"""Lynx full: identity adapter in every block, reference adapter in every block, three branches.

Source: arXiv 2509.15496; bytedance/lynx at 3a6a91a.
"""

from __future__ import annotations

from dataclasses import replace

from lynx_engine.variants.spec import IdentityAdapterSpec, WeightFile
from lynx_engine.variants.wan import BASE
from lynx_engine.variants.wan import SPEC as WAN
from lynx_engine.weights.origins import HubFolder, ReleaseFile

LYNX_REPOSITORY = "ByteDance/lynx"

FACE_ENCODER = WeightFile(
    "arcface/recognition_arcface_ir_se50.pth",
    "github.com/xinntao/facexlib, release v0.1.0",
    "MIT code; trained on non-commercial face data, check your use",
    ReleaseFile("/xinntao/facexlib/releases/download/v0.1.0/recognition_arcface_ir_se50.pth"),
)

SPEC = replace(
    WAN,
    name="lynx_full",
    summary="identity and reference adapters, the closest likeness; three passes a step",
    adapters="lynx_full",
    face_encoder=FACE_ENCODER.path,
    identity=IdentityAdapterSpec(block_stride=1, shares_text_key_norm=True),
    uses_reference=True,
    defaults=replace(WAN.defaults, guidance_identity=2.0, scale_identity=1.0, scale_reference=1.0),
    weights=(
        BASE,
        WeightFile(
            "lynx_full",
            f"huggingface.co/{LYNX_REPOSITORY}, folder lynx_full",
            "Apache-2.0",
            HubFolder(LYNX_REPOSITORY, "lynx_full", ("*.safetensors",)),
        ),
        FACE_ENCODER,
    ),
)
