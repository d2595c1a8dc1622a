"""The registry: variant name -> the module that holds its spec. A new variant is one line here."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module

from lynx_engine.errors import Problem, RefusedError, nearest
from lynx_engine.safety.weights import SAFETY
from lynx_engine.variants.spec import VariantSpec
from lynx_engine.weights.origins import WeightFile

REGISTRY = {
    "tiny": "lynx_engine.variants.tiny",
    "tiny_lite": "lynx_engine.variants.tiny_lite",
    "wan": "lynx_engine.variants.wan",
    "lynx_full": "lynx_engine.variants.lynx_full",
    "lynx_lite": "lynx_engine.variants.lynx_lite",
    "sleeper": "lynx_engine.variants.sleeper",
}

WEIGHT_SETS = {weights.name: weights for weights in (SAFETY,)}
"""Weights that `lynx-engine models` fetches beside those of variants, by their name."""


@cache
def get_variant(name: str) -> VariantSpec:
    """Return the spec registered under `name`.

    Raises:
        KeyError: If no variant has that name.
    """
    spec = import_module(REGISTRY[name]).SPEC
    if not isinstance(spec, VariantSpec):
        raise TypeError(f"{REGISTRY[name]}.SPEC is not a VariantSpec")
    return spec


def all_variants() -> dict[str, VariantSpec]:
    """Return every registered spec by name, in the order of the registry."""
    return {name: get_variant(name) for name in REGISTRY}


def weight_entries() -> dict[str, WeightFile]:
    """Return the entries of the public layout: what is read and can be downloaded."""
    owners = (*all_variants().values(), *WEIGHT_SETS.values())
    found = (weight for owner in owners for weight in owner.weights)
    return {weight.path: weight for weight in found if weight.origin is not None}


def check_entries(names: Iterable[str]) -> None:
    """Accept names that `model_paths` may place elsewhere.

    Raises:
        RefusedError: Naming every other one, with the nearest that there is.
    """
    known = weight_entries()
    wrong = [
        Problem(
            "model_paths",
            f"unknown entry '{name}'{nearest(name, known) or f'; it is one of {listed}'}",
        )
        for listed in [", ".join(known)]
        for name in names
        if name not in known
    ]
    if wrong:
        raise RefusedError(wrong, outcome="nothing was done")
