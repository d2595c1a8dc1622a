"""The base model without identity: Wan2.1-T2V-14B, text guidance only."""

from __future__ import annotations

from lynx_engine.shapes import FrameSize
from lynx_engine.variants.spec import RenderDefaults, VariantSpec, WeightFile
from lynx_engine.weights.origins import HubFolder

# A setting of the released Lynx program that its results depend on (bytedance/lynx 3a6a91a).
NEGATIVE_PROMPT = (
    "Bright tones, overexposed, blurred background, static, subtitles, style, works, paintings, "
    "images, overall gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, "
    "extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, misshapen limbs, "
    "fused fingers, still picture, messy background, three legs, many people in the background, "
    "walking backwards"
)

_REPOSITORY = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
# What the loaders read: safetensors and the settings beside them, no copies in other formats.
_READ = (
    "model_index.json",
    "scheduler/*.json",
    "text_encoder/*.json",
    "text_encoder/*.safetensors",
    "tokenizer/*",
    "transformer/*.json",
    "transformer/*.safetensors",
    "vae/*.json",
    "vae/*.safetensors",
)

BASE = WeightFile(
    "Wan2.1-T2V-14B-Diffusers",
    f"huggingface.co/{_REPOSITORY}",
    "Apache-2.0",
    HubFolder(_REPOSITORY, "", _READ),
)

SPEC = VariantSpec(
    name="wan",
    summary="Wan2.1-T2V-14B as it is: text only, no identity",
    base=BASE.path,
    adapters="",
    face_encoder="",
    identity=None,
    uses_reference=False,
    depicts_people=True,
    builder="",
    recipe="",
    defaults=RenderDefaults(
        size=FrameSize(832, 480),
        frames=81,
        fps=16,
        steps=50,
        guidance_text=5.0,
        guidance_identity=0.0,
        scale_identity=0.0,
        scale_reference=0.0,
        precision="bfloat16",
        negative_prompt=NEGATIVE_PROMPT,
    ),
    weights=(BASE,),
    speeds=("exact", "cache", "distilled"),
    renders_loras=True,
)
