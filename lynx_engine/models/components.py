"""Loads one diffusers component from its folder, strictly and never from the network."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from lynx_engine.models.checkpoint import (
    check_shapes,
    component_shapes,
    first_line,
    read_config,
    shapes_of,
    weights_error,
    without_side_effects,
)

Model = TypeVar("Model", bound=ModelMixin)


def load_component(
    kind: type[Model], folder: Path, *, device: torch.device, dtype: torch.dtype
) -> Model:
    """Load one diffusers component, checked tensor by tensor before anything is read.

    diffusers fills a tensor that its file lacks with random numbers and a log line; here that is
    an error.

    Raises:
        RowError: WEIGHTS, if a file is missing, damaged or does not fit.
    """
    config = read_config(folder / "config.json")
    try:
        # Every diffusers model is a ConfigMixin; the bound cannot say so.
        configured = cast(type[ConfigMixin], kind)
        with torch.device("meta"):
            expected = shapes_of(cast(Model, configured.from_config(config)).state_dict())
    except Exception as error:  # a wrong setting fails wherever it is used first
        what = f"describes no {kind.__name__} ({first_line(error)})"
        raise weights_error(folder / "config.json", what) from error
    path, found = component_shapes(folder, stem="diffusion_pytorch_model")
    check_shapes(found, expected, path)
    with without_side_effects():
        model = kind.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=True
        )
    return model.to(device).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]
