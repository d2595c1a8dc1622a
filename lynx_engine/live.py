"""What a running campaign tells other terminals: a small file beside its log, and who holds it.

The file is a view and nothing else: no decision rests on it, and losing it loses nothing. This
module draws no screen and sends no signal.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import re
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.dispatch import work_of
from lynx_engine.jobs import PlannedJob, RenderJob
from lynx_engine.lock import LIVE_FILE, LOCK_FILE
from lynx_engine.results import Failed, Rendered, RenderResult

if TYPE_CHECKING:
    from lynx_engine.outcomes import Observer

logger = logging.getLogger(__name__)

_WRITE_EVERY_S = 1.0
_HOLDER = re.compile(r"process ([0-9]{1,9}) on (\S+)")


@dataclass(frozen=True, slots=True)
class RowInFlight:
    """A row that a device works on.

    Attributes:
        clip: File name its clip will have.
        device: `cpu`, `cuda:0`, ...; "" where a run has several and the row's one is not known.
        stage: load, text, subject, denoise, decode, encode, check or score.
        done: Steps of the stage that are done.
        total: Steps of the stage.
        since: UTC, when the row's first stage began.
    """

    clip: str
    device: str
    stage: str
    done: int
    total: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Live:
    """A run at one moment.

    Attributes:
        pid: The process that writes clips and log.
        host: The machine it runs on.
        started_at: UTC, when the run began.
        rows: Rows of this run.
        rendered: Rows of this run that have a clip now.
        failed: Rows of this run that failed.
        in_flight: Rows that devices work on.
        eta_s: Seconds until the last row ends; None before the first clip, or while stopping.
        stopping: Whether the run was told to stop: no further row begins.
    """

    pid: int
    host: str
    started_at: datetime
    rows: int
    rendered: int
    failed: int
    in_flight: tuple[RowInFlight, ...]
    eta_s: float | None
    stopping: bool

    @property
    def ended(self) -> int:
        """Rows that are over, whether they have a clip or failed."""
        return self.rendered + self.failed


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a campaign's lock."""

    pid: int
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == platform.node()

    def __str__(self) -> str:
        """Return the words of the lock file."""
        return f"process {self.pid} on {self.host}"


def read_live(folder: Path) -> Live | None:
    """Return what the campaign in `folder` told last.

    None if it told nothing, or nothing that can be read: a view is never an error. A killed run
    leaves its last words; `is_running` tells whether they still hold.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Live).validate_json((folder / LIVE_FILE).read_bytes(), strict=True)
    except (OSError, ValidationError):
        return None


def is_running(folder: Path) -> Holder | None:
    """Return who renders the campaign in `folder`, or None.

    The lock file names its last holder, whether it lives or not. Whether the lock is held is asked
    by seeking a shared lock, which a running holder denies. A run that starts in that very moment
    would find it taken; so it is sought only where the file names a process that lives, or one of
    another machine, and a run's last holder is normally dead when the next one starts.
    """
    try:
        with (folder / LOCK_FILE).open(encoding="utf-8", errors="replace") as file:
            named = _HOLDER.search(file.read(400))
            if named is None:
                return None  # nobody yet: whoever takes the lock writes its name at once
            holder = Holder(int(named[1]), named[2])
            if holder.is_here and not _is_alive(holder.pid):
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return holder
            return None  # closing the file gives the shared lock back
    except OSError:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


@contextmanager
def live_progress(
    folder: Path, rows: Sequence[PlannedJob], *, devices: Sequence[str], inner: Observer
) -> Generator[LiveProgress]:
    """Give an observer that tells other terminals; what it told is gone when the block ends.

    Args:
        folder: The campaign's folder.
        rows: What the run will render.
        devices: Where it renders.
        inner: Who else watches.
    """
    progress = LiveProgress(folder, rows, devices=devices, inner=inner)
    try:
        yield progress
    finally:
        progress.close()


class LiveProgress:
    """Passes everything on to another observer, and tells other terminals once a second.

    Nothing is written before the first row's first stage: only a run that holds the lock gets
    there, so a run that is refused never speaks in another one's place.
    """

    def __init__(
        self, folder: Path, rows: Sequence[PlannedJob], *, devices: Sequence[str], inner: Observer
    ) -> None:
        """Write in `folder` of `rows` on `devices`; pass everything on to `inner`."""
        self._path = folder / LIVE_FILE
        self._rows = len(rows)
        self._devices = tuple(devices)
        self._inner = inner
        self._started_at = datetime.now(UTC)
        self._results: dict[str, RenderResult] = {}
        self._in_flight: dict[str, RowInFlight] = {}
        self._clock = _Clock(rows)
        self._stopping = self._writing = self._warned = self._has_told = False
        self._told_s = float("-inf")
        # Reentrant: a signal's handler calls `stopping` in a thread that may hold the lock.
        self._lock = threading.RLock()

    def serving(self, address: str) -> None:
        """Pass on where Prefect shows the run."""
        self._inner.serving(address)

    def stage(self, job: RenderJob, name: str, done: int, total: int) -> None:
        """Remember how far the row is."""
        with self._lock:
            before = self._in_flight.get(job.job_id)
            if before is None:
                self._clock.begin(job)
            since = datetime.now(UTC) if before is None else before.since
            device = self._devices[0] if len(self._devices) == 1 else ""
            self._in_flight[job.job_id] = RowInFlight(
                job.clip_name, device, name, done, total, since
            )
            self._tell()
        self._inner.stage(job, name, done, total)

    def finished(self, planned: PlannedJob, result: RenderResult) -> None:
        """Count the row."""
        with self._lock:
            began = self._in_flight.pop(planned.job.job_id, None) is not None
            # A row whose failure was its device's ends twice.
            self._results[planned.job.job_id] = result
            self._clock.end(planned.job, measured=began and isinstance(result, Rendered))
            self._tell()
        self._inner.finished(planned, result)

    def stopping(self, drain_s: float) -> None:
        """Tell at once that no further row begins."""
        self._stopping = True
        with self._lock:
            self._tell(at_once=True)
        self._inner.stopping(drain_s)

    def close(self) -> None:
        """Take back what was told; nothing happens if nothing was."""
        with self._lock:
            if self._has_told:
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)

    def _now(self) -> Live:
        eta_s = (
            None
            if self._stopping
            else self._clock.eta_s(len(self._devices), self._rows - len(self._results))
        )
        return Live(
            pid=os.getpid(),
            host=platform.node(),
            started_at=self._started_at,
            rows=self._rows,
            rendered=self._count(Rendered),
            failed=self._count(Failed),
            in_flight=tuple(self._in_flight.values()),
            eta_s=eta_s,
            stopping=self._stopping,
        )

    def _count(self, kind: type[RenderResult]) -> int:
        return sum(isinstance(result, kind) for result in self._results.values())

    def _tell(self, *, at_once: bool = False) -> None:
        """Write the file whole or not at all; nothing waits for the disk."""
        now_s = time.monotonic()
        # A signal's handler may come in the midst of a write; the next event tells its news.
        if self._writing or (now_s - self._told_s < _WRITE_EVERY_S and not at_once):
            return
        self._writing = True
        self._told_s = now_s
        try:
            temp = self._path.with_name(f"{LIVE_FILE}.{os.getpid()}.tmp")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(temp, flags, 0o666), "w", encoding="utf-8") as file:
                json.dump(asdict(self._now()), file, default=datetime.isoformat)
            temp.replace(self._path)
            self._has_told = True
        except OSError as error:
            if not self._warned:
                logger.warning("other terminals see no progress: %s", error)
            self._warned = True
        finally:
            self._writing = False


class _Clock:
    """Estimates the end of a run from the rows that are rendered.

    Seconds of a row = its work times the mean seconds per work of its variant's rendered rows, or
    of all rendered rows while its variant has none. The rest is the sum over the rows that are
    open, less what those in flight have had, shared by the devices.
    """

    def __init__(self, rows: Sequence[PlannedJob]) -> None:
        self._left: Counter[str] = Counter()
        for planned in rows:
            self._left[planned.job.variant] += work_of(planned.job)
        self._begun: dict[str, tuple[RenderJob, float]] = {}
        self._seconds: dict[str, float] = {}
        self._cost: Counter[str] = Counter()

    def begin(self, job: RenderJob) -> None:
        self._begun[job.job_id] = (job, time.monotonic())

    def end(self, job: RenderJob, *, measured: bool) -> None:
        self._left[job.variant] -= work_of(job)
        _, begun_s = self._begun.pop(job.job_id, (job, 0.0))
        if measured:
            took_s = time.monotonic() - begun_s
            self._seconds[job.variant] = self._seconds.get(job.variant, 0.0) + took_s
            self._cost[job.variant] += work_of(job)

    def eta_s(self, devices: int, open_rows: int) -> float | None:
        if not self._cost:
            return None
        work_s = sum(cost * self._pace(variant) for variant, cost in self._left.items())
        for job, begun_s in self._begun.values():
            work_s -= min(time.monotonic() - begun_s, work_of(job) * self._pace(job.variant))
        return max(work_s, 0.0) / max(min(devices, open_rows), 1)

    def _pace(self, variant: str) -> float:
        """Return seconds per unit of work."""
        if variant in self._cost:
            return self._seconds[variant] / self._cost[variant]
        return sum(self._seconds.values()) / self._cost.total()
