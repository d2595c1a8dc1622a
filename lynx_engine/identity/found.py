"""What was found in a photo: every face with its measures, sought once and then kept in the vault.

Finding needs a face model and costs up to a second a photo; what it found is some hundred numbers.
They are kept by the photo's digest and by the name of what found them, so that a photo that is
known needs no model, and a changed one is sought in anew.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lynx_engine.identity.detect import Face, detector_name, find_faces
from lynx_engine.identity.quality import FaceMeasures, measure_face, photo_hash
from lynx_engine.media.images import read_photo

if TYPE_CHECKING:
    from lynx_engine.identity.detect import Photo
    from lynx_engine.identity.vault import Vault

logger = logging.getLogger(__name__)

VERSION = 1
"""Of all between photo and kept numbers: reading, bounds of the detector, measures, their form."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundPhoto:
    """A photo that was looked at.

    Attributes:
        width_px: Width after EXIF rotation.
        height_px: Height after EXIF rotation.
        hash: 64 bits that copies of the photo share, nearly; `quality.photo_hash`.
        faces: Its faces, from left to right.
        measures: Of each face.
    """

    width_px: int
    height_px: int
    hash: int = field(repr=False)
    faces: tuple[Face, ...]
    measures: tuple[FaceMeasures, ...]


def find_in_photo(path: Path, digest: str, *, vault: Vault | None, name: str) -> FoundPhoto:
    """Return what is in a photo: from the vault, else found now and kept there.

    Whoever asks has made sure of the right to read the face.

    Args:
        path: The photo.
        digest: sha256 its bytes had when the campaign was planned.
        vault: Where what is found is kept; None keeps nothing.
        name: The subject's name, by which `forget` finds what is kept.

    Raises:
        RowError: With code `image`, if the photo cannot be read or changed since it was planned.
        RefusedError: If something that is no folder stands in the vault's way.
    """
    entry = f"faces in photo, version {VERSION}, by {detector_name()}"
    if vault is not None and (kept := vault.get(digest, entry)) is not None:
        found = _from_bytes(kept)
        if found is not None:
            _keep(lambda: vault.remember(digest, name))
            return found
        logger.warning("%s: what was kept of its faces is not understood; they are sought", path)
    found = look_at(read_photo(path, digest=digest))
    if vault is not None:
        data = _to_bytes(found)
        _keep(lambda: vault.put(digest, entry, data, name=name))
    return found


def look_at(photo: Photo) -> FoundPhoto:
    """Find and measure every face of a photo.

    Args:
        photo: RGB uint8 [H, W, 3].
    """
    faces = find_faces(photo)
    return FoundPhoto(
        width_px=photo.shape[1],
        height_px=photo.shape[0],
        hash=photo_hash(photo),
        faces=faces,
        measures=tuple(measure_face(photo, face) for face in faces),
    )


def _keep(write: Any) -> None:
    """Write into the vault; a disk that refuses costs the next run time, and this one nothing."""
    try:
        write()
    except OSError as error:
        logger.warning("what was found in a photo is not kept: %s", error.strerror)


def _to_bytes(found: FoundPhoto) -> bytes:
    faces = [
        {
            "box": [float(side) for side in face.box],
            "landmarks": [[float(x), float(y)] for x, y in face.landmarks],
            "confidence": face.confidence,
            "measures": asdict(measures),
        }
        for face, measures in zip(found.faces, found.measures, strict=True)
    ]
    size = [found.width_px, found.height_px]
    return json.dumps({"size": size, "hash": found.hash, "faces": faces}).encode()


def _from_bytes(data: bytes) -> FoundPhoto | None:
    """Return what `_to_bytes` wrote, or None if it is something else."""
    try:
        kept = json.loads(data)
        width_px, height_px = kept["size"]
        return FoundPhoto(
            width_px=width_px,
            height_px=height_px,
            hash=kept["hash"],
            faces=tuple(_face(face) for face in kept["faces"]),
            measures=tuple(FaceMeasures(**face["measures"]) for face in kept["faces"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _face(kept: dict[str, Any]) -> Face:
    left, top, right, bottom = kept["box"]
    landmarks = np.array(kept["landmarks"], np.float32)
    if landmarks.shape != (5, 2):
        raise ValueError("a face has five landmarks")
    return Face((left, top, right, bottom), landmarks, kept["confidence"])
