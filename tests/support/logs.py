"""Logs made without rendering: of a thousand clips, and of rows whose every text is hostile.

The records are written as the store encodes them, in one folded file: a thousand parts would cost
a thousand forced writes. Clips and posters are links to one real file of each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path

import numpy as np
import polars as pl

from lynx_engine.digest import digest_bytes, digest_file
from lynx_engine.jobs import RenderJob, Status
from lynx_engine.media.video import ClipFormat, encode_clip
from lynx_engine.provenance.files import DIGEST_CHARACTERS, write_index
from lynx_engine.provenance.schema import ProvenanceRecord, record_columns
from lynx_engine.provenance.store import FOLDER, encode, stamp_of
from lynx_engine.shapes import FrameSize
from lynx_engine.survey import CLIPS_FOLDER
from tests.support.jobs import make_job, record_of

POSTERS = "posters"
SUBJECTS = ("host", "guest", "astronaut", "robo")
VARIANTS = ("lynx_full", "lynx_lite", "wan")
PROMPTS = {
    "beach": "A walk on the beach.",
    "pumpkin": "A person carves a pumpkin on a porch in the evening.",
    "city": "一个人在雨夜的城市里行走。",
    "forest": "Ein Spaziergang durch den Wald im Herbst 🍂.",
}
_BEGIN = datetime(2026, 11, 20, 20, 0, tzinfo=UTC)
_ROW_S = 30.0
_VALUES = attrgetter(*(field.name for field in fields(ProvenanceRecord)))


@dataclass(frozen=True, slots=True)
class Media:
    """One real clip and its poster, to be linked under many names."""

    clip: Path
    poster: Path


def make_media(folder: Path, *, frames: int = 17) -> Media:
    """Encode a clip in which a bar moves, and a poster of its first frame."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    size = FrameSize(128, 96)
    picture = np.zeros((frames, size.height_px, size.width_px, 3), np.uint8)
    picture[..., 2] = np.linspace(40, 200, size.width_px, dtype=np.uint8)
    for number, frame in enumerate(picture):
        left = number * (size.width_px - 16) // frames
        frame[:, left : left + 16] = (240, 160, 40)
    media = Media(folder / "clip.mp4", folder / "poster.jpg")
    encode_clip(picture, media.clip, ClipFormat(frames, 16, size, "h264", 23))
    Image.fromarray(picture[0]).save(media.poster, quality=75)
    return media


def write_log(folder: Path, records: Sequence[ProvenanceRecord]) -> Path:
    """Write a campaign's log as one folded file, and return it; `folder` is the campaign's."""
    log = pl.DataFrame(
        [_VALUES(record) for record in records], schema=dict(record_columns()), orient="row"
    ).sort("finished_at", "job_id", "attempt", maintain_order=True)
    data = encode(log, packed=True)
    end, digest = log["finished_at"][-1], digest_bytes(data)[:DIGEST_CHARACTERS]
    path = folder / FOLDER / f"log-{stamp_of(end)}-{log.height}-{digest}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    write_index(path.parent, [path.name])
    return path


def place_media(folder: Path, records: Sequence[ProvenanceRecord], media: Media) -> None:
    """Put a clip and a poster under the name of each record that has one."""
    for name in (CLIPS_FOLDER, POSTERS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for clip in {record.clip for record in records if record.clip}:
        os.link(media.clip, folder / CLIPS_FOLDER / clip)
        os.link(media.poster, folder / POSTERS / f"{Path(clip).stem}.jpg")


def night(campaign: str, count: int, media: Media) -> list[ProvenanceRecord]:
    """Return the records of a campaign of `count` rows: most rendered, some of every other end."""
    facts = _facts(media)
    return [_row(job, number, facts) for number, job in enumerate(_jobs(campaign, count))]


def _jobs(campaign: str, count: int) -> Iterator[RenderJob]:
    for number in range(count):
        seed, rest = divmod(number, len(SUBJECTS) * len(VARIANTS) * len(PROMPTS))
        rest, subject = divmod(rest, len(SUBJECTS))
        prompt, variant = divmod(rest, len(VARIANTS))
        name = list(PROMPTS)[prompt]
        yield make_job(
            campaign=campaign,
            where=f"{campaign}.yaml:{number + 10}",
            subject=SUBJECTS[subject],
            # The id of a request holds the photo's digest, not the subject's name.
            subject_digest=f"{subject:064}",
            consent="contract",
            variant=VARIANTS[variant],
            prompt_name=name,
            prompt=PROMPTS[name],
            seed=seed,
        )


def _facts(media: Media) -> dict[str, object]:
    return {
        "clip_bytes": media.clip.stat().st_size,
        "clip_digest": digest_file(media.clip),
        "clip_frames": 17,
        "clip_fps": 16.0,
        "clip_size": "128x96",
        "evaluator": "test 1 (CC0)",
        "evaluator_calibration": "0.4 (test)",
        "score_frames": 9,
        "labels_applied": "tags",
    }


def _row(job: RenderJob, number: int, facts: dict[str, object]) -> ProvenanceRecord:
    """Return a record of the ending that its number has: every 20th failed, and so on."""
    begin = _BEGIN + timedelta(seconds=_ROW_S * number)
    end = begin + timedelta(seconds=_ROW_S)
    mean = 0.45 + (number * 37 % 50) / 100
    scores = [[round(at / 4, 2), round(mean + 0.02 * (at % 3 - 1), 3)] for at in range(9)]
    found: dict[str, object] = {
        **facts,
        "face_share": 1.0,
        "identity_mean": mean,
        "identity_min": mean - 0.05,
        "identity_slope": -0.01,
        "identity_scores": json.dumps(scores),
        "motion": 0.2,
        "sharpness": 120.0,
        "load_s": 0.4,
        "text_s": 0.3,
        "denoise_s": 20.0 + number % 5,
        "decode_s": 3.0,
        "encode_s": 1.0,
        "score_s": 0.8,
        "peak_memory_bytes": 14_000_000_000,
    }
    base = record_of(job, started_at=begin, finished_at=end, total_s=_ROW_S)
    if number % 20 == 7:
        return _unpublished(base, "failed", "encoder", "ffmpeg exited with 1: no room for a frame")
    if number % 50 == 13:
        return _unpublished(base, "withheld", "safety", "open_nsfw 1.0 saw 0.91 in frame 3")
    if number % 33 == 21:
        found |= {"identity_mean": 0.21, "identity_min": 0.1, "gate_try": 3}
        return replace(
            base, status=Status.LOW_IDENTITY.value, gate="0.55, 3 seeds, best; by test 1", **found
        )  # pyright: ignore[reportArgumentType]  # by column
    return replace(base, **found)  # pyright: ignore[reportArgumentType]  # by column


def _unpublished(
    base: ProvenanceRecord, status: str, code: str, message: str, stderr: str = ""
) -> ProvenanceRecord:
    return replace(
        base,
        status=status,
        code=code,
        message=message,
        stderr=stderr or f"[libx264 @ 0x55] {message}",
        clip="",
        clip_bytes=0,
        clip_digest="",
        frames_digest="",
        clip_frames=0,
        clip_fps=0.0,
        clip_size="",
        clip_bitrate=0.0,
    )


_PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</SCRIPT/><img src=x onerror=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    "<form action=javascript:alert(1)><button>x</button></form>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>@import 'https://evil.example/x.css';</style>",
    "<video autoplay src=https://evil.example/x.mp4 onerror=alert(1)></video>",
    "<details open ontoggle=alert(1)>",
    "<math><mtext></mtext><script>alert(1)</script></math>",
    "<template><script>alert(1)</script></template>",
    "<!--<script>alert(1)//-->",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "{{7*7}}{% raw %}{{ config }}",
    "${alert(1)}`${alert(1)}`",
    "{{constructor.constructor('alert(1)')()}}",
    "__proto__",
    "constructor",
    "toString",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("https://evil.example")',
    "+1-1",
    "@SUM(1+1)",
    "-2+3",
    "\x1b[31mred\x1b[2J\x1b]8;;https://evil.example\x07",
    "\x9b31m",
    "\u202etxt.exe",
    "\u2066\u2067\u2069",
    "zero\u200bwidth\ufeff",
    "\u2028\u2029",
    "a\r\nb\tc\x00d",
    "[/red][bold]{x} %s %n",
    "[x](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "| a | b |\n|---|---|",
    "`$(touch pwned)`; rm -rf ~ && echo '\"\\",
    "../../../../etc/passwd",
    "C:\\Windows\\system32\\con",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#x3c;",
    "\U000e0041\U000e0042",
    "海滩 🏖️ שלום é e\u0301 👩\u200d🚀",
)
_WRAPPINGS = (
    "{}",
    '">{}',
    "'>{}",
    '" onmouseover=alert(1) x="{}',
    "' autofocus onfocus='alert(1)' x='{}",
    "</title></style></textarea>{}",
    "</script>{}<script>",
    "<!-- {} --!>",
    '\\"}};{}//',
    "{}" * 40,
)

HOSTILE = tuple(w.format(*([p] * w.count("{}"))) for w in _WRAPPINGS for p in _PAYLOADS)
"""500 texts that would run, break out, steer or mislead, were they shown as they are."""


def hostile_night(campaign: str, media: Media) -> list[ProvenanceRecord]:
    """Return a record for each of the `HOSTILE` texts, in every column that somebody else writes.

    Names stay names: the manifest's reader lets no other through, and clips are files.
    """
    facts = _facts(media)
    jobs = (
        make_job(
            campaign=campaign,
            where=f"{text}:{number}",
            prompt=text,
            negative_prompt=text,
            prompt_name=f"hostile-{number}",
            subject="host",
            variant=VARIANTS[number % 2],
            seed=number // 2,
        )
        for number, text in enumerate(HOSTILE)
    )
    return [
        replace(
            _row(job, number, facts)
            if number % 3
            else _unpublished(
                record_of(job, finished_at=_BEGIN), "failed", "internal", text, stderr=text
            ),
            photos=json.dumps([text]),
            lora_files=json.dumps([text]),
            consent=text,
            device_name=text,
            attention_reason=text,
            evaluator=text,
            face_detector=text,
            signer=text,
            credential=text,
        )
        for number, (job, text) in enumerate(zip(jobs, HOSTILE, strict=True))
    ]
