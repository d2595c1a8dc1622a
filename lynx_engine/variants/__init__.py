"""The registry: variant name -> the module that holds its spec. A new variant is one line here."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from lynx_engine.variants.spec import VariantSpec

REGISTRY = {
    "tiny": "lynx_engine.variants.tiny",
    "tiny_lite": "lynx_engine.variants.tiny_lite",
    "wan": "lynx_engine.variants.wan",
    "lynx_full": "lynx_engine.variants.lynx_full",
    "lynx_lite": "lynx_engine.variants.lynx_lite",
    "sleeper": "lynx_engine.variants.sleeper",
}


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
