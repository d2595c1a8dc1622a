"""What a campaign's report shows, as values: its rows as they stand now, and totals over them.

Pure: a log in, frozen values out. It opens no files and writes no markup. A row is one request (one
job id); what counts is its latest attempt, and the clip that the latest publishing attempt left. A
request that a later run asked for otherwise under the same names is *older*: shown on demand, and
counted nowhere but in the time that was spent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from lynx_engine.history import QUARANTINED, describe_changes, status_word
from lynx_engine.jobs import PUBLISHED, RowKey, Status
from lynx_engine.provenance.past import history_of

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.jobs import PastResult

Record = Mapping[str, Any]
"""Column name -> value of one record."""

STATUSES = (
    Status.FAILED.value,
    QUARANTINED,
    Status.WITHHELD.value,
    Status.LOW_IDENTITY.value,
    Status.INTERRUPTED.value,
    Status.RENDERED.value,
)
"""Status words in the order of their urgency."""

STAGES = ("load", "text", "subject", "denoise", "decode", "encode", "check", "safety", "score")
MOST_ROWS = 2000
"""Rows shown at most, unless more than that did not render."""

# A device process renders one row while it encodes another: only these stages hold the device.
_HOLDING = ("load", "text", "subject", "denoise", "decode")
# Read of every attempt, however long the log is; the other columns only of rows that are shown.
_OF_EACH = (
    "job_id",
    "run_id",
    "status",
    "code",
    "message",
    "clip",
    "device",
    "device_name",
    "started_at",
    "finished_at",
    "total_s",
    *(f"{stage}_s" for stage in _HOLDING),
    "rendered_seed",
    *RowKey._fields,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a request.

    Attributes:
        status: How it ended, as the log says it.
        code: Error code, or "".
        message: The failure in words, or "".
        finished_at: UTC.
        total_s: Seconds it took.
        seed: The seed it rendered.
    """

    status: str
    code: str
    message: str
    finished_at: datetime
    total_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """A request and how it stands.

    Attributes:
        job_id: Its id.
        status: One of `STATUSES`.
        record: Its latest attempt.
        made: The attempt that published its clip; the latest one if there is no clip.
        clip: File name of the clip, "" if none was published or it was withheld since.
        is_there: Whether that file is there.
        is_older: Whether a later run asked for the same names otherwise.
        attempts: Every attempt, oldest first.
    """

    job_id: str
    status: str
    record: Record
    made: Record
    clip: str
    is_there: bool
    is_older: bool
    attempts: tuple[Attempt, ...]

    @property
    def is_good(self) -> bool:
        """Whether it rendered, over its gate, and its clip is there."""
        return self.status == Status.RENDERED and self.is_there


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """Time that attempts held one kind of device: loading, text, subject, denoising, decoding.

    Attributes:
        name: The device's own name; "" where the record does not tell, as of failed attempts: then
            it is all of their time.
        is_gpu: Whether it is one.
        attempts: How many.
        seconds: In all.
    """

    name: str
    is_gpu: bool
    attempts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Attributes:
        campaign: Its name.
        rows: In the order of the first attempt at each, older requests among them.
        left_out: Good and older rows that are not among them, as there are too many.
        statuses: Status -> current rows, in the order of `STATUSES`; only those that occur.
        codes: Error code -> current rows failed, quarantined or withheld by it, most first.
        runs: How many runs there were.
        wall_s: Seconds from each run's first start to its last end, summed.
        devices: Most time first.
        started_at: Start of the first attempt, UTC; None of an empty log.
        finished_at: End of the last one.
    """

    campaign: str
    rows: tuple[Row, ...]
    left_out: int
    statuses: Mapping[str, int]
    codes: Mapping[str, int]
    runs: int
    wall_s: float
    devices: tuple[DeviceTime, ...]
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def current(self) -> tuple[Row, ...]:
        """The rows that are not older."""
        return tuple(row for row in self.rows if not row.is_older)

    @property
    def gpu_s(self) -> float:
        """Seconds of GPUs, of attempts whose device is recorded."""
        return sum(device.seconds for device in self.devices if device.is_gpu)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the light columns say of one request; numbers are lines of the log."""

    attempts: list[int]
    latest: int
    made: int | None
    clip: str


def gather_report(
    campaign: str,
    log: pl.DataFrame,
    *,
    clips: Collection[str] = (),
    most_rows: int = MOST_ROWS,
) -> Report:
    """Return what the report shows.

    Args:
        campaign: Its name.
        log: Its records, oldest first, as `read_log` gives them.
        clips: File names of the clips that are there.
        most_rows: Rows to show at most, unless more than that did not render.
    """
    light = log.select(_OF_EACH).to_dicts()
    past = history_of(log).by_job
    told = _by_request(light)
    older = _older(light, past)
    words = {job_id: status_word(past[job_id]) for job_id in told}
    there = frozenset(clips)
    good = {
        job_id
        for job_id, one in told.items()
        if job_id in older or (words[job_id] == Status.RENDERED and one.clip in there)
    }
    shown = _choose(told, good, older, most_rows)
    needed = sorted({n for job in shown for n in (told[job].latest, told[job].made or 0)})
    records = dict(zip(needed, log[needed].to_dicts(), strict=True))
    rows = tuple(
        Row(
            job_id=job_id,
            status=words[job_id],
            record=records[one.latest],
            made=records[one.latest if one.made is None else one.made],
            clip=one.clip,
            is_there=one.clip in there,
            is_older=job_id in older,
            attempts=tuple(_attempt(light[number]) for number in one.attempts),
        )
        for job_id in shown
        for one in [told[job_id]]
    )
    current = [job_id for job_id in told if job_id not in older]
    counted = Counter(words[job_id] for job_id in current)
    return Report(
        campaign=campaign,
        rows=rows,
        left_out=len(told) - len(rows),
        statuses={word: counted[word] for word in STATUSES if counted[word]},
        codes=_count_codes(past[job_id] for job_id in current),
        runs=len({record["run_id"] for record in light}),
        wall_s=_wall_s(light),
        devices=_device_times(light),
        started_at=min((record["started_at"] for record in light), default=None),
        finished_at=max((record["finished_at"] for record in light), default=None),
    )


def _attempt(record: Record) -> Attempt:
    return Attempt(
        status=record["status"],
        code=record["code"],
        message=record["message"],
        finished_at=record["finished_at"],
        total_s=record["total_s"],
        seed=record["rendered_seed"],
    )


def _by_request(light: Iterable[Record]) -> dict[str, _Told]:
    told: dict[str, _Told] = {}
    for number, record in enumerate(light):
        before = told.get(record["job_id"])
        attempts = [] if before is None else before.attempts
        attempts.append(number)
        made, clip = (None, "") if before is None else (before.made, before.clip)
        if record["status"] in PUBLISHED and record["clip"]:
            made, clip = number, record["clip"]
        elif record["status"] == Status.WITHHELD:
            made, clip = None, ""  # a clip that was there before is removed
        told[record["job_id"]] = _Told(attempts, number, made, clip)
    return told


def _older(light: Iterable[Record], past: Mapping[str, PastResult]) -> frozenset[str]:
    """Return the requests that a later run replaced under the same names.

    Rows may share their names, as an exact one and one with a LoRA do: as many stay as one run ever
    asked for, and a new one takes the place of the one it differs from least.
    """
    asked: defaultdict[RowKey, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in light:
        key = RowKey(*(record[name] for name in RowKey._fields))
        jobs = asked[key][record["run_id"]]
        if record["job_id"] not in jobs:
            jobs.append(record["job_id"])
    older: set[str] = set()
    for runs in asked.values():
        room = max(map(len, runs.values()))
        now: list[str] = []
        for jobs in runs.values():
            for job_id in jobs:
                if job_id in now:
                    continue
                if len(now) >= room:
                    now.remove(_nearest(job_id, [one for one in now if one not in jobs], past))
                now.append(job_id)
            older.update(jobs)
        older.difference_update(now)
    return frozenset(older)


def _nearest(job_id: str, others: Iterable[str], past: Mapping[str, PastResult]) -> str:
    """Return the other request that differs in the fewest fields, and of these in what it lacks."""
    request = past[job_id].request

    def distance(other: str) -> tuple[int, int]:
        before = past[other].request
        lacks = sum(bool(before[name]) != bool(value) for name, value in request.items())
        return len(describe_changes(before, request)), lacks

    return min(others, key=distance)


def _choose(
    told: Mapping[str, _Told], good: Collection[str], older: Collection[str], most_rows: int
) -> list[str]:
    """Return the rows to show: all that are not good, and the newest others while there is room."""
    room = max(0, most_rows - (len(told) - len(good)))
    newest_last = sorted(good, key=lambda job_id: (job_id not in older, told[job_id].latest))
    kept = {job_id for job_id in told if job_id not in good}.union(
        newest_last[len(newest_last) - room :] if room < len(newest_last) else newest_last
    )
    return [job_id for job_id in told if job_id in kept]


def _count_codes(results: Iterable[PastResult]) -> dict[str, int]:
    unhappy = (Status.FAILED, Status.WITHHELD)
    return dict(Counter(past.code for past in results if past.status in unhappy).most_common())


def _wall_s(light: Iterable[Record]) -> float:
    spans: dict[str, tuple[datetime, datetime]] = {}
    for record in light:
        start, end = record["started_at"], record["finished_at"]
        first, last = spans.get(record["run_id"], (start, end))
        spans[record["run_id"]] = (min(first, start), max(last, end))
    return sum((end - start).total_seconds() for start, end in spans.values())


def _device_times(light: Iterable[Record]) -> tuple[DeviceTime, ...]:
    """Sum up time by device; of an attempt whose device is not recorded, all of its time."""
    found: dict[str, DeviceTime] = {}
    for record in light:
        name, is_gpu = record["device_name"], record["device"].startswith("cuda")
        before = found.get(name, DeviceTime(name, is_gpu, 0, 0.0))
        held_s = sum(record[f"{stage}_s"] for stage in _HOLDING) if name else record["total_s"]
        found[name] = DeviceTime(name, is_gpu, before.attempts + 1, before.seconds + held_s)
    return tuple(sorted(found.values(), key=attrgetter("seconds"), reverse=True))
