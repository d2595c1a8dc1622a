"""What a person sees while rows render: bars on a terminal, one line a row elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lynx_engine.cli.console import note, progress_bars, stderr_is_terminal, visible
from lynx_engine.gate import likeness_in_words
from lynx_engine.jobs import PlannedJob, RenderJob
from lynx_engine.results import Failed, Interrupted, Rendered, RenderResult, Withheld

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A row's bar counts to 100; sampling is nearly all of a long row's time.
_ROW = 100.0
_STARTS_AT = {"load": 0, "text": 5, "subject": 8, "denoise": 10, "decode": 90, "encode": 96}
_ENDS_AT = {"denoise": 90.0}


class RowLines:
    """One line on stderr for each row that ends."""

    def __init__(self, rows: int) -> None:
        """Count up to `rows`."""
        self._rows = rows
        self._ended: set[str] = set()
        self._lock = threading.Lock()
        self._started: dict[str, float] = {}

    def serving(self, address: str) -> None:
        """Say where to look, too."""
        note(_serving(address))

    def stage(self, job: RenderJob, name: str, done: int, total: int) -> None:
        """Remember when the row began."""
        del name, done, total
        self._started.setdefault(job.job_id, time.monotonic())

    def finished(self, planned: PlannedJob, result: RenderResult) -> None:
        """Print the row's end; rows that never began are told by their number at the end."""
        if isinstance(result, Interrupted) and planned.job.job_id not in self._started:
            return
        with self._lock:
            # A row whose failure was its device's ends twice.
            self._ended.add(planned.job.job_id)
            note(f"[{len(self._ended)}/{self._rows}] {self._told(planned, result)}")

    def stopping(self, drain_s: float) -> None:
        """Say what a stop waits for."""
        note(_stopping(drain_s))

    def _told(self, planned: PlannedJob, result: RenderResult) -> str:
        took_s = time.monotonic() - self._started.get(planned.job.job_id, time.monotonic())
        match result:
            case Rendered(low_identity=True):
                return f"{low_identity_in_words(planned)} ({took_s:.1f} s)"
            case Rendered(clip):
                return f"rendered {clip} ({took_s:.1f} s)"
            case Failed(code, message):
                return f"failed {planned.job.clip_name}: {code}: {message}"
            case Withheld(message):
                return f"withheld {planned.job.clip_name}: {message}"
            case _:
                return f"interrupted {planned.job.clip_name}"


class RowBars:
    """A bar for the campaign with its ETA, and one for each row in flight with its stage."""

    def __init__(self, progress: Progress, rows: int) -> None:
        """Draw on `progress`."""
        self._progress = progress
        self._rows = rows
        self._ended: dict[str, RenderResult] = {}
        self._bars: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._all = progress.add_task(
            "starting Prefect and devices", total=rows * _ROW, told=f"0/{rows} rows"
        )

    def serving(self, address: str) -> None:
        """Say where to look, too, above the bars."""
        self._progress.console.print(_serving(address), markup=False)

    def stage(self, job: RenderJob, name: str, done: int, total: int) -> None:
        """Move the row's bar."""
        begin = float(_STARTS_AT.get(name, 98))
        at = begin + (_ENDS_AT.get(name, begin) - begin) * done / max(total, 1)
        told = f"{name} {done}/{total}" if total > 1 else name
        with self._lock:
            if job.job_id not in self._bars:
                label = visible(f"{job.subject} {job.prompt_name} s{job.seed} {job.variant}")
                self._bars[job.job_id] = self._progress.add_task(label, total=_ROW, told=told)
            self._progress.update(self._bars[job.job_id], completed=at, told=told)
            self._tell_all()

    def finished(self, planned: PlannedJob, result: RenderResult) -> None:
        """Take the row's bar away and count it."""
        with self._lock:
            if not isinstance(result, Interrupted):
                self._ended[planned.job.job_id] = result
            bar = self._bars.pop(planned.job.job_id, None)
            if bar is not None:
                self._progress.remove_task(bar)
            clip = planned.job.clip_name
            if isinstance(result, Failed):
                self._tell_above(f"failed {clip}: {result.code}: {result.message}")
            elif isinstance(result, Withheld):
                self._tell_above(f"withheld {clip}: {result.message}")
            elif isinstance(result, Rendered) and result.low_identity:
                self._tell_above(low_identity_in_words(planned), style="yellow")
            self._tell_all()

    def stopping(self, drain_s: float) -> None:
        """Say what a stop waits for, above the bars."""
        self._progress.console.print(_stopping(drain_s), markup=False)

    def _tell_above(self, text: str, *, style: str = "red") -> None:
        self._progress.console.print(visible(text), style=style, markup=False)

    def _tell_all(self) -> None:
        under_way = sum(
            task.completed for task in self._progress.tasks if task.id in self._bars.values()
        )
        ended = len(self._ended)
        failed = sum(isinstance(result, Failed) for result in self._ended.values())
        withheld = sum(isinstance(result, Withheld) for result in self._ended.values())
        told = f"{ended}/{self._rows} rows" + (f", {failed} failed" if failed else "")
        told += f", {withheld} withheld" if withheld else ""
        self._progress.update(
            self._all, description="campaign", completed=ended * _ROW + under_way, told=told
        )


def low_identity_in_words(planned: PlannedJob) -> str:
    """Return how a row ended whose clip is under the identity gate."""
    job = planned.job
    likeness = likeness_in_words(job.gate, planned.best_score, planned.first_try)
    return f"low identity {job.clip_name}: {likeness}"


def _serving(address: str) -> str:
    return f"Prefect shows this run at {address} while it lasts."


def _stopping(drain_s: float) -> str:
    return f"Stopping: rows in flight get {drain_s:.0f} s. Once more stops at once."


@contextmanager
def watching(rows: int, *, quiet: bool) -> Generator[RowBars | RowLines | None]:
    """Give the observer that suits the terminal; None when nothing should be said."""
    if quiet:
        yield None
    elif stderr_is_terminal():
        with progress_bars() as progress:
            yield RowBars(progress, rows)
    else:
        yield RowLines(rows)
