"""The public repositories and the release of the big variants, as small made-up bytes."""

from __future__ import annotations

import json
import random

from tests.support.hub import Hub

WAN = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
LYNX = "ByteDance/lynx"
BASE = "Wan2.1-T2V-14B-Diffusers"
NSFW = "Falconsai/nsfw_image_detection"
FACE = "arcface/recognition_arcface_ir_se50.pth"
RELEASE = "/xinntao/facexlib/releases/download/v0.1.0/recognition_arcface_ir_se50.pth"
SHARDS = tuple(f"diffusion_pytorch_model-{n:05}-of-00003.safetensors" for n in (1, 2, 3))
SHARD_BYTES = 400_000


def noise(name: str, size: int = 3000) -> bytes:
    return random.Random(name).randbytes(size)


def base_files(version: str = "") -> dict[str, bytes]:
    """Return the base repository: what is read, and what is not."""
    weight_map = {f"blocks.{n}.weight": shard for n, shard in enumerate(SHARDS)}
    index = {"metadata": {"total_size": 3}, "weight_map": weight_map}
    configs = ("text_encoder", "transformer", "vae")
    return {
        "README.md": b"not read" + version.encode(),
        "assets/picture.png": noise("picture"),
        "text_encoder/pytorch_model.bin": noise("a copy in another format"),
        "model_index.json": json.dumps({"version": version}).encode(),
        "scheduler/scheduler_config.json": b'{"flow_shift": 3.0}',
        "tokenizer/tokenizer.json": b"{}" + version.encode(),
        "tokenizer/spiece.model": noise(f"spiece{version}"),
        **{f"{name}/config.json": b"{}" for name in configs},
        "text_encoder/model.safetensors": noise(f"text{version}"),
        "vae/diffusion_pytorch_model.safetensors": noise(f"vae{version}"),
        "transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(index).encode(),
        **{f"transformer/{name}": noise(f"{name}{version}", SHARD_BYTES) for name in SHARDS},
    }


def adapter_files(version: str = "") -> dict[str, bytes]:
    """Return the adapters' repository."""
    names = ["resampler", "ip_layers", "ref_layers"]
    full = {f"lynx_full/{n}.safetensors": noise(f"full {n}{version}") for n in names}
    lite = {f"lynx_lite/{n}.safetensors": noise(f"lite {n}{version}") for n in names[:2]}
    return {"README.md": b"not read", **full, **lite}


def classifier_files() -> dict[str, bytes]:
    """Return the safety classifier's repository: what is read, and what is not."""
    read = ("config.json", "preprocessor_config.json", "model.safetensors")
    return {"README.md": b"not read", **{name: noise(f"safety {name}") for name in read}}


def fill(hub: Hub) -> tuple[str, str]:
    """Fill a hub with all sources; return the commits of base and adapters."""
    hub.releases[RELEASE] = noise("arcface", 20_000)
    hub.commit(NSFW, classifier_files())
    return hub.commit(WAN, base_files()), hub.commit(LYNX, adapter_files())


def layout(variant: str, version: str = "") -> dict[str, bytes]:
    """Return what a pull of the variant should put into the models folder."""
    if variant == "safety":
        read = {n: data for n, data in classifier_files().items() if n != "README.md"}
        return {f"safety/nsfw_image_detection/{n}": data for n, data in read.items()}
    unread = ("README.md", "assets/picture.png", "text_encoder/pytorch_model.bin")
    files = {f"{BASE}/{n}": data for n, data in base_files(version).items() if n not in unread}
    if variant != "wan":
        own = {n: d for n, d in adapter_files(version).items() if n.startswith(f"{variant}/")}
        files |= own | {FACE: noise("arcface", 20_000)}
    return files
