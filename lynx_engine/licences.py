"""Under which licences the files came that shape a clip: a variant's weights, and LoRAs laid over.

What a LoRA says of itself is a stranger's word, kept as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lynx_engine.errors import RowError
from lynx_engine.models.lora_file import UNKNOWN_LICENCE, inspect_lora
from lynx_engine.variants import get_variant

if TYPE_CHECKING:
    from pathlib import Path

    from lynx_engine.jobs import RenderJob


def licences_of(job: RenderJob) -> dict[str, str]:
    """Return weight file or folder -> licence, and LoRA file -> licence, for all that a job uses.

    Weights by their name in the public layout, LoRAs by their path in the job.
    """
    weights = {weight.path: weight.licence for weight in get_variant(job.variant).weights}
    return weights | {str(lora.path): _licence_of(lora.path) for lora in job.loras}


def _licence_of(lora: Path) -> str:
    try:
        return inspect_lora(lora).licence
    except RowError:  # it was there when it was laid over the model
        return UNKNOWN_LICENCE
