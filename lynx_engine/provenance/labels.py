"""What a clip's own tags say of it: its name, its request, and that a machine made it.

It opens no files: `media.video` writes the tags, `media.tags` reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast

from lynx_engine import __version__
from lynx_engine.jobs import RenderJob

TAGS = "tags"
"""What `labels_applied` calls them."""

_JOB_ID = re.compile(r"[0-9a-f]{64}")


def tags_of(job: RenderJob, producer: str) -> dict[str, str]:
    """Return the tags of a job's clip, by name; nothing in them tells a photo.

    `title` is the clip's name, `comment` a JSON object of job id, prompt and software, `AIGC` the
    JSON that GB 45438-2025 asks of a file's metadata: Label 1 says that it is generated; who
    spreads it, and under which number, is left to whoever does.

    Args:
        job: The row's own request, whichever try of its identity gate is rendered.
        producer: Who makes the clips, by the setting of that name.
    """
    comment = {
        "job_id": job.job_id,
        "prompt": job.prompt,
        "software": f"lynx_engine {__version__}",
    }
    generated = {
        "Label": "1",
        "ContentProducer": producer,
        "ProduceID": job.job_id,
        "ReservedCode1": "",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }
    return {
        "title": job.clip_name.removesuffix(".mp4"),
        "comment": json.dumps(comment, ensure_ascii=False),
        "AIGC": json.dumps(generated, ensure_ascii=False),
    }


def job_id_in(tags: Mapping[str, str]) -> str:
    """Return the job id that a clip's tags tell, "" if they tell none.

    Args:
        tags: As `media.tags.read_tags` gives them; other containers write names in capitals.
    """
    comment = next((text for name, text in tags.items() if name.lower() == "comment"), "")
    try:
        told: object = json.loads(comment)
    except (ValueError, RecursionError):
        return ""
    job_id = cast("dict[str, object]", told).get("job_id") if isinstance(told, dict) else None
    return job_id if isinstance(job_id, str) and _JOB_ID.fullmatch(job_id) else ""
