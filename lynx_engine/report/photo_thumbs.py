"""Makes small pictures of subjects' photos for a report, where the settings allow any.

Only a photo that is still the one its clips were made from is shown, and none of a subject who took
the consent back. The picture is drawn anew from pixels: nothing of the file's metadata is in it.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lynx_engine.errors import RowError
from lynx_engine.identity.withdrawals import read_withdrawals, withdrawn
from lynx_engine.media.images import inspect_photo, read_photo
from lynx_engine.provenance.environment import keyed_digest, read_workspace_key

if TYPE_CHECKING:
    from pathlib import Path

    from lynx_engine.report.report_data import Row
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

SIDE_PX = 160
PHOTO_MARK = b"data:image/jpeg;base64,"
"""What stands before each picture. A text may hold it, too: then a report counts as showing one."""

_QUALITY = 82
# Heads stand in the upper part of a portrait.
_CENTRE = (0.5, 0.3)


def make_thumbs(rows: Iterable[Row], settings: Settings) -> dict[str, str]:
    """Return a small square picture of each subject's first photo.

    Args:
        rows: Of one campaign; the newest record of a subject says which photo is its.
        settings: Where photos, the register of withdrawals and the workspace's key lie.

    Returns:
        Subject -> data URI (JPEG, `SIDE_PX` wide and high), of those that can be shown.

    Raises:
        DamagedError: If the register of withdrawals or the key is damaged.
    """
    key = read_workspace_key(settings.state_dir)
    register = read_withdrawals(settings)
    newest = {row.record["subject"]: row.record for row in rows}
    found: dict[str, str] = {}
    for subject, record in newest.items():
        photos = [settings.workspace / name for name in json.loads(record["photos"])]
        if not photos or key is None:
            continue
        try:
            digests = [inspect_photo(photo).digest for photo in photos]
            if keyed_digest(",".join(digests), key) != record["subject_digest"]:
                logger.info("the photo of %s is another one now; it is not shown", subject)
            elif withdrawn(register, subject, digests, key):
                logger.info("%s took the consent back; the photo is not shown", subject)
            else:
                found[subject] = _thumb(photos[0], digests[0])
        except RowError as error:
            logger.info("no picture of %s: %s", subject, error)
    return found


def _thumb(photo: Path, digest: str) -> str:
    from PIL import Image, ImageOps

    picture = Image.fromarray(read_photo(photo, digest=digest))
    small = ImageOps.fit(picture, (SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, centering=_CENTRE)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
    return (PHOTO_MARK + base64.b64encode(file.getvalue())).decode()
