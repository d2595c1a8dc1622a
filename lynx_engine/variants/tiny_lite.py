"""Lynx lite's whole architecture at the size of `tiny`, over the same made base model."""

from __future__ import annotations

from dataclasses import replace

from lynx_engine.variants.lynx_lite import SPEC as LYNX_LITE
from lynx_engine.variants.tiny import SPEC as TINY

SPEC = replace(
    TINY,
    name="tiny_lite",
    summary="lynx_lite's architecture, untrained and small enough for any CPU",
    adapters="lynx_lite",
    identity=LYNX_LITE.identity,
    uses_reference=False,
    defaults=replace(TINY.defaults, guidance_identity=0.0, scale_reference=0.0),
)
