"""Lays LoRAs over the transformer for one job and takes them off again.

diffusers' loader reads the file and PEFT adds the layers: W x + scale B A x. The base weights are
never touched, so nothing has to be computed back, and the rows between stay what they were.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load

from lynx_engine.digest import digest_bytes
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models.checkpoint import first_line
from lynx_engine.models.lora_file import (
    METADATA_KEY,
    PEFT_NEEDED,
    inspect_lora,
    left_out,
    lora_error,
)
from lynx_engine.models.memory import SizedCache, bytes_of
from lynx_engine.models.residence import put

if TYPE_CHECKING:
    from lynx_engine.jobs import Lora

logger = logging.getLogger(__name__)

# In host memory, where a LoRA of rank 64 for 14B has 0.6 GB in bfloat16.
_CACHE_BYTES = 2 << 30
_PREFIX = "transformer."
# What a file may say of its own strength. Its other settings are for training.
_STRENGTHS = frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"})
# What diffusers and PEFT write on a model.
_TRACES = ("_hf_peft_config_loaded", "peft_config", "active_adapter")


@dataclass(frozen=True, slots=True)
class _Adapter:
    """A LoRA as PEFT wants it: tensors by diffusers' names, and settings, None if plain."""

    tensors: Mapping[str, torch.Tensor]
    settings: Mapping[str, Any] | None


class LoraShelf:
    """The LoRAs that one transformer was given; those used last are kept in host memory.

    They are known by content: one that is there needs its file no more.
    """

    def __init__(self, transformer: WanTransformer3DModel, device: torch.device) -> None:
        """Serve `transformer`, which computes on `device`."""
        self._transformer = transformer
        self._device = device
        self._known = SizedCache[_Adapter](
            _CACHE_BYTES, lambda adapter: sum(map(bytes_of, adapter.tensors.values()))
        )

    @contextmanager
    def laid_over(self, loras: Sequence[Lora]) -> Generator[None]:
        """Have `loras` over the transformer inside the block, in their order.

        Raises:
            RowError: LORA, if a file is not the one that was planned with or does not fit.
        """
        if not loras:
            yield
            return
        model = self._transformer
        before = vars(model).keys() & set(_TRACES)
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                # PEFT warns of a second adapter, which is meant, and of one it drops when a file
                # does not fit, which the error tells.
                warnings.simplefilter("ignore", UserWarning)
                for number, lora in enumerate(loras):
                    self._lay(lora, f"lora{number}")
                model.set_adapters(
                    [f"lora{number}" for number in range(len(loras))],
                    weights=[lora.scale for lora in loras],
                )
            yield
        finally:
            model.unload_lora()
            for name in set(_TRACES) - before:
                vars(model).pop(name, None)

    def _lay(self, lora: Lora, name: str) -> None:
        adapter = self._known.get_or_make(lora.weights_digest, lambda: self._read(lora))
        model = self._transformer
        try:
            model.load_lora_adapter(
                dict(adapter.tensors),
                adapter_name=name,
                metadata=None if adapter.settings is None else dict(adapter.settings),
                # Without it PEFT draws the factors at random before they are replaced.
                low_cpu_mem_usage=True,
            )
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            raise lora_error(lora.path, f"could not be laid over ({first_line(error)})") from error
        self._settle(lora, adapter, name)

    def _settle(self, lora: Lora, adapter: _Adapter, name: str) -> None:
        """Put the new factors where they compute, in the type of the layer they change.

        They come from the file, not from where PEFT put them: beside their layer, which is no place
        while the layer's block waits for its turn on the device.
        """
        from peft.tuners.lora import LoraLayer

        found = {key.removeprefix(_PREFIX): tensor for key, tensor in adapter.tensors.items()}
        layers, laid = len({_layer_of(key) for key in found}), 0
        for layer, module in self._transformer.named_modules():
            if not isinstance(module, LoraLayer) or name not in module.lora_A:
                continue
            laid += 1
            dtype = next(module.get_base_layer().parameters()).dtype
            for part, factor in (("A", module.lora_A[name]), ("B", module.lora_B[name])):
                for leaf in [leaf for leaf, _ in factor.named_parameters()]:
                    tensor = found.get(f"{layer}.lora_{part}.{leaf}")
                    if tensor is None:
                        raise lora_error(lora.path, "lacks a factor of a layer it changes")
                    put(factor, leaf, tensor.to(self._device, dtype))
        if laid != layers:
            raise lora_error(lora.path, f"changes {layers} layers, of which {laid} are there")

    def _read(self, lora: Lora) -> _Adapter:
        """Read the file that was planned with, and no other."""
        _require_peft()
        header = inspect_lora(lora.path)  # a letter for what is no plain file any more
        try:
            data = lora.path.read_bytes()
        except FileNotFoundError:
            data = b""
        if digest_bytes(data) != lora.weights_digest:
            raise lora_error(
                lora.path, "changed after the campaign was planned. Run the command again"
            )
        try:
            # float32: the loader multiplies alpha in.
            exact = {name: tensor.float() for name, tensor in load(data).items()}
            found = WanLoraLoaderMixin.lora_state_dict(exact)
            assert isinstance(found, dict)  # a pair only if the metadata is asked for
            tensors = _with_every_bias(found)
            settings = _settings(data, tensors)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            what = f"cannot be read by diffusers' loader ({first_line(error)})"
            raise lora_error(lora.path, what) from error
        passed_over = left_out(header)
        if passed_over:
            logger.warning(
                "LoRA %s: %d tensors are left out, as diffusers' loader leaves them: %s, ...",
                lora.path,
                len(passed_over),
                ", ".join(passed_over[:3]),
            )
        return _Adapter(self._in_types_of_layers(tensors), settings)

    def _in_types_of_layers(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        types = {name: parameter.dtype for name, parameter in self._transformer.named_parameters()}
        return {
            key: tensor.to(types[name]) if name in types else tensor
            for key, tensor in tensors.items()
            for name in [f"{_layer_of(key).removeprefix(_PREFIX)}.weight"]
        }


@contextmanager
def without_loras(transformer: WanTransformer3DModel) -> Generator[None]:
    """Have the base model alone inside the block, whatever is laid over it."""
    if not getattr(transformer, "peft_config", None):
        yield
        return
    transformer.disable_lora()
    try:
        yield
    finally:
        transformer.enable_lora()


def _require_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise RowError(ErrorCode.LORA, PEFT_NEEDED) from error


def _layer_of(key: str) -> str:
    return key.partition(".lora_")[0]


def _with_every_bias(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with a zero bias for each layer that lacks one, if any has one.

    PEFT gives a bias to all layers of an adapter or to none.
    """
    complete = dict(tensors)
    if any(key.endswith(".lora_B.bias") for key in tensors):
        for key, tensor in tensors.items():
            if key.endswith(".lora_B.weight"):
                bias = key.removesuffix("weight") + "bias"
                complete.setdefault(bias, torch.zeros(tensor.shape[0]))
    return complete


def _settings(data: bytes, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the adapter's settings with the strength that its file notes; None if it notes none.

    Without them alpha is the rank, so that W x + B A x is meant.
    """
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    if METADATA_KEY not in metadata:
        return None
    noted = json.loads(metadata[METADATA_KEY])
    settings = {key.removeprefix(_PREFIX): value for key, value in noted.items()}
    strength = {key: value for key, value in settings.items() if key in _STRENGTHS}
    layers = sorted({_layer_of(key).removeprefix(_PREFIX) for key in tensors})
    has_bias = any(key.endswith(".lora_B.bias") for key in tensors)
    strength |= {"target_modules": layers, "lora_bias": has_bias}
    # Under the prefix, by which the loader tells the transformer's from others.
    return {f"{_PREFIX}{key}": value for key, value in strength.items()}
