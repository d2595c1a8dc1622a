"""What an author may write under `image`: one photo, or a list of photos of the same person."""

from __future__ import annotations

from typing import Any, cast

from lynx_engine.errors import RuleError
from lynx_engine.manifest_rules import Rule

MAX_PHOTOS = 16
"""Photos of one subject; each costs a detection and a run of the recogniser before a campaign."""

IMAGES_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PHOTOS},
    ]
}
"""The same as JSON schema, for editors."""


def read_images(value: object) -> object:
    """Return one photo as a list of one; whether each is a path is checked afterwards.

    Raises:
        RuleError: If it is a list of none, or of more than `MAX_PHOTOS`.
    """
    if not isinstance(value, list):
        return [value]
    photos = cast("list[object]", value)
    if not photos:
        raise RuleError(Rule.TOO_SHORT, "image is an empty list; write at least one photo")
    if len(photos) > MAX_PHOTOS:
        raise RuleError(
            Rule.TOO_LONG,
            f"image lists {len(photos)} photos; the most is {MAX_PHOTOS}. Keep the best ones",
        )
    return photos
