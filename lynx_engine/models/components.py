"""Builds the diffusers and transformers parts of a base model, strictly, never from the network.

A part is built on the meta device and its files are compared with it tensor by tensor, name and
shape, before any number is read: the libraries' own loaders fill a tensor that its file lacks with
random numbers and a log line. They also hold a model's whole float32 in memory on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from lynx_engine.models.checkpoint import (
    check_kind,
    check_shapes,
    first_line,
    read_config,
    shapes_of,
    weights_error,
)
from lynx_engine.models.tensor_files import SafetensorsSource, open_component

Model = TypeVar("Model", bound=ModelMixin)


def build_component(kind: type[Model], folder: Path) -> tuple[Model, SafetensorsSource]:
    """Build one diffusers component without its numbers, and find those.

    Returns:
        The component, its parameters on the meta device, and its tensors on disk.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    path = folder / "config.json"
    config = read_config(path)
    check_kind(path, config.get("_class_name"), kind.__name__)
    try:
        # Every diffusers model is a ConfigMixin; the bound cannot say so. Buffers are made of
        # settings alone and keep their numbers.
        configured = cast(type[ConfigMixin], kind)
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            model = cast(Model, configured.from_config(config))
    except Exception as error:  # a wrong setting fails wherever it is used first
        what = f"describes no {kind.__name__} ({first_line(error)})"
        raise weights_error(path, what) from error
    source = open_component(folder, stem="diffusion_pytorch_model")
    check_shapes(source.shapes, shapes_of(model.state_dict()), source.path)
    return model.eval().requires_grad_(False), source


def diffusers_dtypes(model: ModelMixin, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """Return the type each tensor is held in when diffusers loads `model` in `dtype`.

    The modules a model lists as `_keep_in_fp32_modules` stay float32.
    """
    kept: Any = model._keep_in_fp32_modules or []
    exact = frozenset(kept)
    return lambda name: torch.float32 if exact & set(name.split(".")) else dtype
