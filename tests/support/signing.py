"""Certificates and real clips to sign with them."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from pathlib import Path

from lynx_engine.jobs import RenderJob
from lynx_engine.media.video import ClipFormat, check_clip, encode_clip
from lynx_engine.orders import ClipDraft
from lynx_engine.provenance.credentials import Credentials
from lynx_engine.provenance.own_chain import make_own_chain
from lynx_engine.settings import Settings
from lynx_engine.sleeper import draw_pattern
from tests.support.jobs import rendered


def signing_settings(workspace: Path, *, days: float = 30, **more: str) -> Settings:
    """Return settings of a workspace with a test chain in its folder `certificates`."""
    workspace.mkdir(parents=True, exist_ok=True)
    make_own_chain(workspace / "certificates", datetime.now(UTC), days=days)
    return Settings(workspace=workspace, credentials=Path("certificates"), **more)  # type: ignore[arg-type]


def loaded(settings: Settings) -> Credentials:
    credentials = Credentials.load(settings)
    assert credentials is not None
    return credentials


def real_draft(folder: Path, job: RenderJob) -> ClipDraft:
    """Return a draft as a device process hands it over: encoded, decoded and checked."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job.job_id[:12]}-a1-0123456789abcdef.mp4"
    clip = ClipFormat(job.frames, job.fps, job.size, job.codec, job.crf)
    encode_clip(draw_pattern(job), path, clip)
    worker = rendered(job).worker
    return ClipDraft(path, check_clip(path, clip), worker, datetime.now(UTC))


def boxes(data: bytes) -> dict[str, range]:
    """Return the top-level boxes of an mp4: type -> its bytes (ISO 14496-12, 4.2)."""
    found: dict[str, range] = {}
    at = 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        found[kind.decode()] = range(at, at + size)
        at += size
    return found
