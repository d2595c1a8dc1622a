"""What the tiny variants' weights look like: their configs, tokenizer, and tensor names and shapes.

The layout is the public one, so that tiny and 14B load through the same code. It holds no number
of any tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

Shapes = dict[str, tuple[int, ...]]

_VERSION = "0.33.0.dev0"
_TEXT_WIDTH = 64
_HEADS, _HEAD_WIDTH, _BLOCKS = 4, 24, 4
_WIDTH = _HEADS * _HEAD_WIDTH
_TOKENS, _RESAMPLER_WIDTH, _RESAMPLER_LAYERS, _LITE_WIDTH = 16, 64, 2, 80
_REGISTERS = 4
_EMBEDDING = 512
_FACE_STEM = 8
# Channels in, channels out, squeezed channels of each residual unit; every one halves the picture.
_FACE_UNITS = ((8, 8, 2), (8, 12, 3), (12, 16, 4), (16, 8, 2))

_LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-/&%+*#@$_=<>[]{}"
)
# Frequent in English, so that the long default negative prompts stay below 512 tokens.
_PAIRS = (
    "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se "
    "le sa si ar ve ra ld ur ing ality person face video image light room park walk smil camera"
)

# As the public Wan2.1 base has them: they put every latent channel on one scale.
_LATENTS_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_LATENTS_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

TRANSFORMER: dict[str, Any] = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": _VERSION,
    "attention_head_dim": _HEAD_WIDTH,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "ffn_dim": 2 * _WIDTH,
    "freq_dim": 64,
    "in_channels": 16,
    "num_attention_heads": _HEADS,
    "num_layers": _BLOCKS,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": _TEXT_WIDTH,
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKLWan",
    "_diffusers_version": _VERSION,
    "attn_scales": [],
    "base_dim": 8,
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": list(_LATENTS_MEAN),
    "latents_std": list(_LATENTS_STD),
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "UniPCMultistepScheduler",
    "_diffusers_version": _VERSION,
    "final_sigmas_type": "zero",
    "flow_shift": 3.0,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "solver_type": "bh2",
    "timestep_spacing": "linspace",
    "use_flow_sigmas": True,
}
MODEL_INDEX: dict[str, Any] = {
    "_class_name": "WanPipeline",
    "_diffusers_version": _VERSION,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def vocabulary() -> list[list[str | float]]:
    """Return the tokenizer's pieces with their log probabilities, by id.

    Every byte is a piece, so that any script or emoji is a prompt of its own.
    """
    pieces: list[list[str | float]] = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0]]
    pieces += [[f"<0x{byte:02X}>", -12.0] for byte in range(256)]
    pieces += [[letter, -6.0] for letter in _LETTERS]
    pieces += [[pair, -7.0] for pair in _PAIRS.split()]
    return pieces


def tokenizer() -> dict[str, Any]:
    """Return `tokenizer.json`: a unigram model over `vocabulary`, shaped like UMT5's."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    first, second, end = (
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    )
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": piece, **flags, "special": True}
            for number, piece in enumerate(("<pad>", "</s>", "<unk>"))
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, end],
            "pair": [first, end, second, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary(), "byte_fallback": True},
    }


TEXT_ENCODER: dict[str, Any] = {
    "architectures": ["UMT5EncoderModel"],
    "d_ff": 128,
    "d_kv": 16,
    "d_model": _TEXT_WIDTH,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-6,
    "model_type": "umt5",
    "num_heads": 4,
    "num_layers": 2,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "vocab_size": len(vocabulary()),
}

JSON_FILES: Mapping[str, dict[str, Any]] = {
    "base/model_index.json": MODEL_INDEX,
    "base/scheduler/scheduler_config.json": SCHEDULER,
    "base/text_encoder/config.json": TEXT_ENCODER,
    "base/tokenizer/tokenizer.json": tokenizer(),
    "base/tokenizer/tokenizer_config.json": {
        "eos_token": "</s>",
        "model_max_length": 512,
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    },
    "base/transformer/config.json": TRANSFORMER,
    "base/vae/config.json": VAE,
}


def _transformer() -> Shapes:
    import torch
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    from lynx_engine.models.checkpoint import shapes_of

    with torch.device("meta"):
        return shapes_of(WanTransformer3DModel.from_config(TRANSFORMER).state_dict())  # pyright: ignore


def _vae() -> Shapes:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    from lynx_engine.models.checkpoint import shapes_of

    with torch.device("meta"):
        return shapes_of(AutoencoderKLWan.from_config(VAE).state_dict())  # pyright: ignore


def _text_encoder() -> Shapes:
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    from lynx_engine.models.checkpoint import shapes_of

    with torch.device("meta"):
        shapes = shapes_of(UMT5EncoderModel(UMT5Config(**TEXT_ENCODER)).state_dict())
    # One tensor under two names; the public file holds the first.
    return {name: shape for name, shape in shapes.items() if name != "encoder.embed_tokens.weight"}


def _resampler(out: int) -> Shapes:
    import torch

    from lynx_engine.models.checkpoint import shapes_of
    from lynx_engine.models.resampler import Resampler

    with torch.device("meta"):
        resampler = Resampler(
            tokens=_TOKENS,
            width=_RESAMPLER_WIDTH,
            inner=_RESAMPLER_WIDTH,
            layers=_RESAMPLER_LAYERS,
            embedding=_EMBEDDING,
            out=out,
        )
    return shapes_of(resampler.state_dict())


def _face_encoder() -> Shapes:
    import torch

    from lynx_engine.models.arcface import FaceEncoder, UnitShape, flat_features
    from lynx_engine.models.checkpoint import shapes_of

    units = [
        UnitShape(channels_in=into, channels_out=out, squeezed=squeezed, starts_stage=True)
        for into, out, squeezed in _FACE_UNITS
    ]
    with torch.device("meta"):
        encoder = FaceEncoder(
            units, stem=_FACE_STEM, embedding=_EMBEDDING, flat=flat_features(units)
        )
    shapes = shapes_of(encoder.state_dict())
    return {n: shape for n, shape in shapes.items() if not n.endswith("num_batches_tracked")}


def _full_identity() -> Shapes:
    shapes = _projections("ip", range(_BLOCKS), _WIDTH, bias=True)
    return shapes | {f"{n}.registers": (1, _REGISTERS, _WIDTH) for n in range(_BLOCKS)}


def _projections(kind: str, layers: range, source_width: int, *, bias: bool) -> Shapes:
    shapes: Shapes = {}
    for n in layers:
        for part in ("k", "v"):
            shapes[f"{n}.to_{part}_{kind}.weight"] = (_WIDTH, source_width)
            if bias:
                shapes[f"{n}.to_{part}_{kind}.bias"] = (_WIDTH,)
    return shapes


_SHAPES: Mapping[str, Callable[[], Shapes]] = {
    "base/transformer/diffusion_pytorch_model.safetensors": _transformer,
    "base/vae/diffusion_pytorch_model.safetensors": _vae,
    "base/text_encoder/model.safetensors": _text_encoder,
    "lynx_full/resampler.safetensors": lambda: _resampler(_WIDTH),
    "lynx_full/ip_layers.safetensors": _full_identity,
    "lynx_full/ref_layers.safetensors": lambda: _projections(
        "ref", range(_BLOCKS), _WIDTH, bias=True
    ),
    "lynx_lite/resampler.safetensors": lambda: _resampler(_LITE_WIDTH),
    "lynx_lite/ip_layers.safetensors": lambda: _projections(
        "ip", range(_BLOCKS // 2), _LITE_WIDTH, bias=False
    ),
    "arcface/recognition_ir_se.safetensors": _face_encoder,
}
TENSOR_FILES: tuple[str, ...] = tuple(_SHAPES)


@cache
def tensor_shapes(path: str) -> Shapes:
    """Return name -> shape of one weight file, as its network wants them."""
    return _SHAPES[path]()
