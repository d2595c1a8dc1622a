"""The text encoder: a prompt becomes 512 text tokens. It knows no picture.

Source: the UMT5 encoder of Wan2.1, arXiv 2503.20314.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from tokenizers import Tokenizer
from transformers import UMT5Config, UMT5EncoderModel

from lynx_engine.models.checkpoint import (
    check_kind,
    check_shapes,
    first_line,
    read_config,
    require_file,
    shapes_of,
    unreadable,
    weights_error,
)
from lynx_engine.models.residence import Residence
from lynx_engine.models.streaming import BlockStream
from lynx_engine.models.tensor_files import SafetensorsSource, open_component

TOKENS = 512
REFERENCE_PROMPT = "image of a face"
"""The prompt of the reference pass, which the reference adapter was trained with."""


_TABLE = "shared.weight"
# Encoder and table share one tensor, which the file holds under the name above.
_TIED = "encoder.embed_tokens.weight"


class TextEncoder:
    """A tokenizer and the UMT5 encoder behind it.

    The encoder waits in its files and its blocks visit the device one after another: at 14B it is
    as large as half the base model, and idle during sampling. Of the token table, two fifths of
    it, only the rows of a prompt are ever read.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder: UMT5EncoderModel,
        source: SafetensorsSource,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Encode on `device` in `dtype`; `encoder` is built on the meta device."""
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._source = source
        self._device = device
        self._dtype = dtype
        self._dtypes = transformers_dtypes(encoder, dtype)
        self._residence = Residence(encoder, source, device=device, dtypes=self._dtypes)
        self._small = [name for name, shape in source.shapes.items() if len(shape) < 2]

    def encode(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Return the embedding of each prompt, one row per real token, [1, L, D], L <= 512.

        All prompts share one pass of the weights, and each is computed as if it were alone. A
        prompt is cleaned as diffusers' Wan pipeline cleans prompts. `pad_text` adds the zero rows
        the model expects after it. The release encodes 512 tokens behind a mask and then zeroes
        the padding; leaving the padding out gives the same rows for less work.
        """
        if not prompts:
            return []
        states = [self._rows(prompt) for prompt in prompts]
        stack = self._encoder.encoder
        blocks, groups = list(stack.block), self._matrices()
        self._residence.keep(self._small)
        streams = [
            BlockStream(group, device=self._device, dtype=dtype) for dtype, group in groups.items()
        ]
        try:
            for number, block in enumerate(blocks):
                for stream in streams:
                    stream.enter(number, block)
                states = [block(state) for state in states]
                for stream in streams:
                    stream.leave(block)
            return [stack.final_layer_norm(state) for state in states]
        finally:
            for stream in streams:
                stream.close()
            self._residence.leave()

    def _rows(self, prompt: str) -> torch.Tensor:
        """Return the table's rows of a prompt's tokens, [1, L, D]."""
        ids = torch.tensor([self._tokenizer.encode(prompt_clean(prompt)).ids])
        ((_, table),) = self._source.read([_TABLE])
        rows = torch.nn.functional.embedding(ids, table)
        return rows.to(self._device, self._dtypes(_TABLE))

    def _matrices(self) -> dict[torch.dtype, list[dict[str, torch.Tensor]]]:
        """Return the matrices of every block as views of their files, by type of the pass."""
        blocks = len(self._encoder.encoder.block)
        groups: dict[torch.dtype, list[dict[str, torch.Tensor]]] = {}
        names = [
            name
            for name, shape in self._source.shapes.items()
            if len(shape) == 2 and name.startswith("encoder.block.")
        ]
        for name, tensor in self._source.read(names):
            _, _, number, leaf = name.split(".", 3)
            group = groups.setdefault(self._dtypes(name), [{} for _ in range(blocks)])
            group[int(number)][leaf] = tensor
        return groups


def transformers_dtypes(
    model: UMT5EncoderModel, dtype: torch.dtype
) -> Callable[[str], torch.dtype]:
    """Return the type each tensor is held in when transformers loads `model` in `dtype`.

    What a model lists as `_keep_in_fp32_modules` stays float32 in a pass of float16, which such
    layers overflow; bfloat16 has float32's range.
    """
    kept = frozenset(model._keep_in_fp32_modules or ()) if dtype is torch.float16 else frozenset()
    return lambda name: torch.float32 if kept & set(name.split(".")) else dtype


def pad_text(embedding: torch.Tensor) -> torch.Tensor:
    """Return [1, 512, D]: `embedding` [1, L, D] and zeros after its last token."""
    return torch.nn.functional.pad(embedding, (0, 0, 0, TOKENS - embedding.shape[1]))


def load_text_encoder(base: Path, *, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """Build tokenizer and encoder of a base model in diffusers layout; its tensors wait.

    Args:
        base: The base model's folder.
        device: Where prompts are encoded.
        dtype: Type of the weights, but for those transformers keeps in float32.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    path = base / "text_encoder" / "config.json"
    settings = read_config(path)
    check_kind(path, settings.get("model_type"), UMT5Config.model_type)
    try:
        config = UMT5Config.from_dict(settings)
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            encoder = UMT5EncoderModel(config)
    except Exception as error:  # a wrong setting fails wherever it is used first
        what = f"describes no text encoder ({first_line(error)})"
        raise weights_error(path, what) from error
    source = open_component(base / "text_encoder", stem="model")
    expected = shapes_of(encoder.state_dict())
    check_shapes(
        {name: shape for name, shape in source.shapes.items() if name != _TIED},
        {name: shape for name, shape in expected.items() if name != _TIED},
        source.path,
    )
    encoder.eval().requires_grad_(False)
    return TextEncoder(load_tokenizer(base), encoder, source, device=device, dtype=dtype)


def load_tokenizer(base: Path) -> Tokenizer:
    """Load `tokenizer/tokenizer.json` as it stands, cutting prompts at 512 tokens.

    transformers 5 rebuilds a T5 tokenizer from its vocabulary and drops what else the file says,
    byte fallback among it: a prompt's emoji would all become one unknown token.

    Raises:
        RowError: WEIGHTS, if the file is missing or no tokenizer.
    """
    path = base / "tokenizer" / "tokenizer.json"
    require_file(path)
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise unreadable(path, f"cannot be read as a tokenizer ({first_line(error)})") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    return tokenizer
