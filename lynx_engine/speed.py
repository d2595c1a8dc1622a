"""The lossy shortcuts: what a manifest calls them, and what they are called in a job's id.

The recorded name of a cache says its method and its threshold, so that another method or threshold
later makes other ids. Names only: nothing here computes.
"""

from __future__ import annotations

EXACT = "exact"
DISTILLED = "distilled"

DISTILLED_STEPS = 8
"""Steps of a distilled job whose author wrote none."""

_CACHE = "cache"
_CACHE_METHOD = f"{_CACHE}:first-block"


def recorded_speed(word: str, *, cache_threshold: float) -> str:
    """Return what a job's id holds for the manifest's `word`, at a variant's threshold."""
    return f"{_CACHE_METHOD}-{cache_threshold}" if word == _CACHE else word


def is_cached(speed: str) -> bool:
    """Return whether a job of that recorded speed runs with a step cache."""
    return speed.startswith(_CACHE)
