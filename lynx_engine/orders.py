"""What a device process is told and asked, and what it answers: plain values that cross processes.

The pool carries them, the worker acts on them, the campaign makes and reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.folders import ModelFolders
from lynx_engine.jobs import RenderJob
from lynx_engine.results import (
    NOTHING_FOUND,
    UNMARKED,
    ClipFacts,
    Findings,
    Marks,
    WorkerFacts,
)
from lynx_engine.safety.classifiers import installed_classifiers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.identity.score import LikenessTarget
    from lynx_engine.settings import Settings


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a device process must know before its first job.

    Attributes:
        device: `cpu` or `cuda:N`, as the pool counts them and records name it.
        torch_device: The same device as this process sees it.
        models_dir: Downloaded weights, in the public layout.
        cache_dir: Weights made on this machine.
        threads: CPU threads of torch.
        attention: Attention backend asked for.
        compile: Whether the transformer's blocks are compiled: auto, on or off.
        expendable: Whether the process may end itself when its device is lost; a pool replaces it.
        classifiers: Who looks at finished frames, as `installed_classifiers` names them.
    """

    device: str
    torch_device: str
    models_dir: ModelFolders
    cache_dir: Path
    threads: int
    attention: str
    compile: str
    expendable: bool
    classifiers: tuple[str, ...] = ()


def setup_for(
    settings: Settings, device: str, torch_device: str, *, expendable: bool
) -> WorkerSetup:
    """Return the setup of a device under the settings of a run.

    Raises:
        RefusedError: If the settings name a safety classifier that is not there.
    """
    return WorkerSetup(
        device=device,
        torch_device=torch_device,
        models_dir=settings.models_dir.resolve(),
        cache_dir=settings.cache.resolve(),
        threads=settings.threads,
        attention=settings.attention,
        compile=settings.compile,
        expendable=expendable,
        classifiers=installed_classifiers(settings),
    )


@dataclass(frozen=True, slots=True)
class FaceRequest:
    """One face to embed, with the recogniser of `variant`.

    Attributes:
        variant: Registry name.
        precision: As the jobs that will follow ask for it.
        photo: The subject photo.
        photo_digest: sha256 its bytes had when the campaign was planned. Dask logs the text of a
            request that failed, and this and the landmarks have no place in a log.
        landmarks: float32 [5, 2], (x, y) in pixels of the photo.
    """

    variant: str
    precision: str
    photo: Path
    photo_digest: str = field(repr=False)
    landmarks: npt.NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RenderTask:
    """One attempt at one job.

    Attributes:
        job: The request.
        face: The subject's face; None for a variant without identity.
        draft: The temp file to write, in a folder that exists.
        likeness: Whom the clip shall resemble, to be scored; None where nobody scores it.
        tags: Metadata of the clip, as `provenance.labels` makes it for the row.
    """

    job: RenderJob
    face: SubjectFace | None
    draft: Path
    likeness: LikenessTarget | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def poster(self) -> Path:
        """Where the clip's poster is written, beside the draft."""
        return self.draft.with_suffix(".jpg")


@dataclass(frozen=True, slots=True)
class ClipDraft:
    """A clip that passed its check and waits to be published.

    Attributes:
        path: The temp file, on disk to the last byte.
        clip: What decoding it showed.
        worker: Where and how it was made.
        started_at: UTC, when the device took the job.
        findings: What was found in it.
        marks: What tells that a machine made it.
        poster: A frame of it as JPEG, a temp file beside it; None if none could be made.
    """

    path: Path
    clip: ClipFacts
    worker: WorkerFacts
    started_at: datetime
    findings: Findings = NOTHING_FOUND
    marks: Marks = UNMARKED
    poster: Path | None = None
