"""The text encoder: a prompt becomes 512 text tokens. It knows no picture.

Source: the UMT5 encoder of Wan2.1, arXiv 2503.20314.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from tokenizers import Tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from lynx_engine.models.checkpoint import (
    check_shapes,
    component_shapes,
    first_line,
    read_config,
    shapes_of,
    weights_error,
    without_side_effects,
)
from lynx_engine.models.device import visiting

TOKENS = 512
REFERENCE_PROMPT = "image of a face"
"""The prompt of the reference pass, which the reference adapter was trained with."""


class TextEncoder:
    """A tokenizer and the UMT5 encoder behind it.

    The encoder waits in host memory and visits the device for each new prompt: at 14B it is as
    large as half the base model, and idle during sampling.
    """

    def __init__(
        self, tokenizer: Tokenizer, encoder: UMT5EncoderModel, device: torch.device
    ) -> None:
        """Encode on `device`."""
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._device = device

    def encode(self, prompt: str) -> torch.Tensor:
        """Return the embedding of a prompt, one row per real token, [1, L, D], L <= 512.

        The prompt is cleaned as diffusers' Wan pipeline cleans prompts. `pad_text` adds the zero
        rows the model expects after it. The release encodes 512 tokens behind a mask and then
        zeroes the padding; leaving the padding out gives the same rows for less work.
        """
        ids = torch.tensor([self._tokenizer.encode(prompt_clean(prompt)).ids])
        with visiting(self._encoder, self._device):
            return self._encoder(ids.to(self._device)).last_hidden_state


def pad_text(embedding: torch.Tensor) -> torch.Tensor:
    """Return [1, 512, D]: `embedding` [1, L, D] and zeros after its last token."""
    return torch.nn.functional.pad(embedding, (0, 0, 0, TOKENS - embedding.shape[1]))


def load_text_encoder(base: Path, *, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """Load tokenizer and encoder of a base model in diffusers layout, never from the network.

    Args:
        base: The base model's folder.
        device: Where prompts are encoded.
        dtype: Type of the weights, but for those transformers keeps in float32.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    folder = base / "text_encoder"
    settings = read_config(folder / "config.json")
    try:
        config = UMT5Config.from_dict(settings)
        with torch.device("meta"):
            expected = shapes_of(UMT5EncoderModel(config).state_dict())
    except Exception as error:  # a wrong setting fails wherever it is used first
        what = f"describes no text encoder ({first_line(error)})"
        raise weights_error(folder / "config.json", what) from error
    path, found = component_shapes(folder, stem="model")
    # Encoder and table share one tensor, which the file holds under the name `shared.weight`.
    tied = "encoder.embed_tokens.weight"
    check_shapes(
        {name: shape for name, shape in found.items() if name != tied},
        {name: shape for name, shape in expected.items() if name != tied},
        path,
    )
    with without_side_effects():
        encoder = UMT5EncoderModel.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True
        )
    return TextEncoder(load_tokenizer(base), encoder.eval().requires_grad_(False), device)


def load_tokenizer(base: Path) -> Tokenizer:
    """Load `tokenizer/tokenizer.json` as it stands, cutting prompts at 512 tokens.

    transformers 5 rebuilds a T5 tokenizer from its vocabulary and drops what else the file says,
    byte fallback among it: a prompt's emoji would all become one unknown token.

    Raises:
        RowError: WEIGHTS, if the file is missing or no tokenizer.
    """
    path = base / "tokenizer" / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise weights_error(path, f"cannot be read as a tokenizer ({error})") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    return tokenizer
