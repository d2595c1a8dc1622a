"""`speed: cache`: a branch that hardly changed since its last step keeps what its blocks added.

diffusers' First Block Cache: the first block always runs. While its residual stays near the one of
the last computed step, the other blocks are left out and what they added then is added again. The
choice fell on it because it needs no figures of the model: MagCache follows magnitude ratios that
were calibrated for one checkpoint, sampler and step count, and there are none for Lynx's branches.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks.first_block_cache import _FBC_LEADER_BLOCK_HOOK, FirstBlockCacheConfig
from diffusers.hooks.hooks import HookRegistry
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from lynx_engine.diffusion.sampler import Branch

# What diffusers writes on a module that has hooks.
_REGISTRY = "_diffusers_hook"
_TRACES = (_REGISTRY, "forward", "_cache_config")


class StepCache:
    """What a clip's branches find on the transformer: a cache each, or none.

    Attributes:
        passes: Predictions so far that left out all blocks but the first.
    """

    def __init__(self, transformer: WanTransformer3DModel, *, enabled: bool) -> None:
        """Serve `transformer`; `enabled` says whether diffusers' cache is on it."""
        self.passes = 0
        self._transformer = transformer
        self._decision: Any = None
        if enabled:
            registry: HookRegistry = getattr(transformer.blocks[0], _REGISTRY)
            # The hook that decides; diffusers tells its decision nowhere else.
            self._decision = registry.get_hook(_FBC_LEADER_BLOCK_HOOK)

    def over(self, names: Sequence[str], branches: Sequence[Branch]) -> tuple[Branch, ...]:
        """Return the branches, each with the cache of its name if there are any."""
        if self._decision is None:
            return tuple(branches)
        return tuple(
            self._cached(name, branch) for name, branch in zip(names, branches, strict=True)
        )

    def _cached(self, name: str, branch: Branch) -> Branch:
        def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            with self._transformer.cache_context(name):
                velocity = branch(latents, timestep)
                self.passes += not self._decision.state_manager.get_state().should_compute
            return velocity

        return predict


@contextmanager
def step_cache(
    transformer: WanTransformer3DModel, *, threshold: float | None
) -> Generator[StepCache]:
    """Have the cache on `transformer` for one clip; afterwards nothing of it is left.

    On the device it keeps three tensors [1, L, D] for each branch. Each prediction waits once for
    the device, to read whether its first block moved.

    Args:
        transformer: The model; None as threshold leaves it untouched.
        threshold: How far the residual of the first block may drift, by mean magnitude, from the
            one of the last computed step.
    """
    if threshold is None:
        yield StepCache(transformer, enabled=False)
        return
    modules: list[nn.Module] = [transformer, *transformer.blocks]
    before = [vars(module).keys() & set(_TRACES) for module in modules]
    transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    try:
        yield StepCache(transformer, enabled=True)
    finally:
        transformer.disable_cache()
        # diffusers leaves its registries, and each block's own `forward` bound to the block: a
        # cycle, by which a replaced model would stay on the device until the next collection.
        for module, kept in zip(modules, before, strict=True):
            for name in set(_TRACES) - kept:
                vars(module).pop(name, None)
