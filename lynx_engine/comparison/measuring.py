"""Measures the done clips of a campaign with every recogniser there is, for `compare`.

Clips are decoded and looked at afresh, in this process, on one CPU thread. What was measured is
kept in `compare.parquet` beside the log, a row a clip, and taken from there again while the clip's
bytes and whoever measured it are the same. The table of it is `statistics.py`'s business.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.comparison.statistics import Column, ScoredClip
from lynx_engine.digest import digest_file, digest_mapping
from lynx_engine.errors import ErrorCode, Problem, RefusedError, RowError
from lynx_engine.identity.detect import choose_face, detector_name, find_faces
from lynx_engine.identity.evaluators import FacexlibEvaluator, choose_evaluator
from lynx_engine.identity.score import SCORED_FRAMES, LikenessTarget, score_likeness
from lynx_engine.media.images import read_photo
from lynx_engine.media.look import look_at
from lynx_engine.media.video import read_frames
from lynx_engine.provenance.files import write_durably

if TYPE_CHECKING:
    from lynx_engine.identity.evaluators import Embedding, Evaluator
    from lynx_engine.jobs import RenderJob
    from lynx_engine.manifest.values import Subject
    from lynx_engine.settings import Settings

FILE = "compare.parquet"
FACEXLIB = "facexlib"
_ARCFACE = "arcface/recognition_arcface_ir_se50.pth"
_DIGEST = "lynx_engine.digest"
_SAVE_EVERY_S = 30.0
_VERSION = 1
"""Counts up when clips are looked at in another way."""

Row = dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Judge:
    """A recogniser that may score, as a column of the table.

    Attributes:
        column: Name of the column.
        evaluator: Who scores; None if it is not here.
        why_not: Why it is not.
    """

    column: str
    evaluator: Evaluator | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class DoneClip:
    """A clip to measure.

    Attributes:
        job: Its request.
        path: The file.
        digest: sha256 that its record says it has.
        subject: Whom it should show; None for one without a subject.
    """

    job: RenderJob
    path: Path
    digest: str
    subject: Subject | None


def find_judges(settings: Settings) -> list[Judge]:
    """Return every recogniser of the table, whether it is here or not; none is loaded."""
    arcface = settings.models_dir / _ARCFACE
    judges = [
        Judge(FACEXLIB, FacexlibEvaluator(arcface, models_dir=settings.models_dir))
        if arcface.is_file()
        else Judge(
            FACEXLIB,
            None,
            f"not measured: {arcface} is not here; `lynx-engine models pull lynx_full` fetches it",
        )
    ]
    own = [settings.evaluator] if ":" in settings.evaluator else []
    for name in ("insightface", "dlib", *own):
        try:
            judges.append(Judge(name, choose_evaluator(name)))
        except RefusedError as error:
            judges.append(Judge(name, None, f"not measured: {error.problems[0].text}"))
    return judges


def columns_of(judges: Sequence[Judge]) -> tuple[Column, ...]:
    """Return the columns of the table, each with its footnote."""
    measured = f"faces by {detector_name()}, in {SCORED_FRAMES} frames of a clip at most"
    return (
        *(Column(judge.column, judge.column, _footnote(judge)) for judge in judges),
        Column("motion", "motion", "mean optical flow, in short sides of the picture a second"),
        Column("sharpness", "sharpness", "variance of the Laplacian of luma", digits=1),
        Column("face_share", "face share", f"part of the frames that show a face: {measured}"),
    )


def _footnote(judge: Judge) -> str:
    evaluator = judge.evaluator
    if evaluator is None:
        return judge.why_not
    same = (
        " It is also the encoder that conditions lynx_full and lynx_lite, so it flatters them: "
        "read it beside another column."
        if judge.column == FACEXLIB
        else ""
    )
    return f"likeness by {evaluator.name}; calibration: {evaluator.calibration}.{same}"


@dataclass(slots=True)
class Measuring:
    """Measures clips, and keeps what was found.

    Attributes:
        file: Where it is kept.
        judges: Who scores.
        measured: Clips that were decoded, for nothing was known of them or not all.
        reused: Clips of which all was known.
        problems: Clips that are not as they were recorded; they do not count.
    """

    file: Path
    judges: Sequence[Judge]
    measured: int = 0
    reused: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])
    _targets: dict[tuple[str, str], LikenessTarget] = field(
        default_factory=dict[tuple[str, str], LikenessTarget]
    )

    def measure(self, clips: Sequence[DoneClip], tell: Callable[[int], None]) -> list[ScoredClip]:
        """Measure every clip, and write the file; what another run found is taken over.

        Args:
            clips: What to measure; consent to look at their subjects' photos was asked for.
            tell: Told how many clips are done.

        Raises:
            RowError: If a subject photo cannot be recognised, or a network not be loaded.
            OSError: If the disk refuses.
        """
        import cv2

        cv2.setNumThreads(1)
        known = {str(row["job_id"]): row for row in read_rows(self.file)}
        rows: list[Row] = []
        saved = time.monotonic()
        for number, clip in enumerate(clips, start=1):
            row = self._row(clip, known.get(clip.job.job_id, {}))
            if row is not None:
                rows.append(row)
            tell(number)
            if time.monotonic() > saved + _SAVE_EVERY_S:
                unseen = {c.job.job_id for c in clips[number:]}
                write_rows(self.file, [*rows, *(r for i, r in known.items() if i in unseen)])
                saved = time.monotonic()
        write_rows(self.file, rows)
        return [self._scored(row) for row in rows]

    def _row(self, clip: DoneClip, known: Row) -> Row | None:
        job = clip.job
        digest = digest_file(clip.path)
        if digest != clip.digest:
            text = "is not the clip that was recorded; it does not count. Render it again."
            self.problems.append(Problem(str(clip.path), text))
            return None
        wanted: Row = {
            "job_id": job.job_id,
            "variant": job.variant,
            "subject": job.subject,
            "prompt_name": job.prompt_name,
            "seed": job.seed,
            "clip": clip.path.name,
            "clip_digest": digest,
            "looked_at_by": f"{_VERSION}; {detector_name()}; {SCORED_FRAMES} frames",
        }
        judges = [j for j in self.judges if j.evaluator is not None and clip.subject is not None]
        by = {f"{j.column}_by": j.evaluator.name for j in judges if j.evaluator is not None}
        same = ("clip_digest", "looked_at_by", *by)
        asked: Row = {**wanted, **by}
        if known and all(known.get(name) == asked[name] for name in same):
            self.reused += 1
            # Not what somebody measured who is not here any more: the footnote would be another's.
            there = ("motion", "sharpness", "face_share", *(judge.column for judge in judges))
            found = {name: known.get(name) for name in there}
        else:
            self.measured += 1
            found = self._look(clip, judges)
        empty = dict.fromkeys((*self._measures, *(f"{j.column}_by" for j in self.judges)))
        return {**empty, **asked, **found}

    @property
    def _measures(self) -> tuple[str, ...]:
        return (*(judge.column for judge in self.judges), "motion", "sharpness", "face_share")

    def _look(self, clip: DoneClip, judges: Sequence[Judge]) -> Row:
        frames = read_frames(clip.path)
        look = look_at(frames, clip.job.fps)
        found: Row = {"motion": look.motion, "sharpness": look.sharpness}
        for judge in judges:
            if judge.evaluator is None or clip.subject is None:
                continue
            target = self._target(clip.subject, judge.evaluator)
            likeness = score_likeness(frames, target, judge.evaluator, clip.job.fps)
            found[judge.column] = likeness.mean
            found["face_share"] = likeness.face_share
        return found

    def _target(self, subject: Subject, evaluator: Evaluator) -> LikenessTarget:
        """Return the mean of the subject's photos, as the evaluator sees them."""
        import numpy as np

        key = (subject.name, evaluator.name)
        if key not in self._targets:
            embeddings: list[Embedding] = []
            for photo in subject.images:
                picture = read_photo(photo)
                try:
                    face = choose_face(find_faces(picture), subject.face)
                except RowError as error:
                    raise RowError(ErrorCode.FACE, f"{subject.where}: {photo}: {error}") from None
                embeddings.append(evaluator.embed(picture, face))
            mean = np.stack(embeddings).mean(axis=0).astype(np.float32)
            self._targets[key] = LikenessTarget("none", evaluator.name, mean)
        return self._targets[key]

    def _scored(self, row: Row) -> ScoredClip:
        scores = {name: _number(row.get(name)) for name in self._measures}
        return ScoredClip(
            job_id=str(row["job_id"]),
            variant=str(row["variant"]),
            subject=str(row["subject"]),
            prompt_name=str(row["prompt_name"]),
            seed=int(row["seed"] or 0),
            scores=scores,
        )


def read_rows(file: Path) -> list[Row]:
    """Return what an earlier run kept; nothing of a file that is damaged or not ours."""
    import polars as pl

    try:
        data = file.read_bytes()
        digest = pl.read_parquet_metadata(io.BytesIO(data)).get(_DIGEST)
        rows: list[Row] = pl.read_parquet(io.BytesIO(data)).to_dicts()
    except Exception:  # noqa: BLE001  # whatever polars says of a damaged file; it is measured anew
        return []
    return rows if digest == _digest_of(rows) else []


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Keep rows, with their own digest: parquet does not notice a flipped bit.

    Raises:
        OSError: If the disk refuses.
    """
    import polars as pl

    numbers = {"seed": pl.Int64}
    names = list(rows[0]) if rows else []
    kinds = {
        name: numbers.get(name, pl.String if name in _TEXTS or name.endswith("_by") else pl.Float64)
        for name in names
    }
    written = io.BytesIO()
    frame = pl.DataFrame(list(rows), schema=kinds)
    frame.write_parquet(written, metadata={_DIGEST: _digest_of(frame.to_dicts())})
    write_durably(file, written.getvalue())


_TEXTS = frozenset({"job_id", "variant", "subject", "prompt_name", "clip", "clip_digest"})


def _digest_of(rows: Sequence[Mapping[str, object]]) -> str:
    return digest_mapping({"rows": json.dumps(rows, sort_keys=True, default=str)})


def _number(value: str | float | None) -> float | None:
    return None if value is None else float(value)
