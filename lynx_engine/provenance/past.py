"""What a log says of each request and row: the latest attempt, how many there were, what is left.

It reads records and nothing else; what a plan makes of the past is `history`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lynx_engine.collector import collector_at_rest
from lynx_engine.errors import ErrorCode
from lynx_engine.gate import score_of
from lynx_engine.jobs import PUBLISHED, REQUEST_FIELDS, PastResult, RowKey, Status
from lynx_engine.provenance.store import read_parts

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class History:
    """What the log says of a campaign's past, ready for planning.

    Attributes:
        latest: The latest attempt under each row's names.
        by_job: The latest attempt at each request.
        attempts: Attempts made at each request, interrupted ones not counted.
        clip_bytes: File name of each published clip -> its size.
    """

    latest: Mapping[RowKey, PastResult]
    by_job: Mapping[str, PastResult]
    attempts: dict[str, int]
    clip_bytes: dict[str, int]


def read_history(folder: Path) -> History:
    """Read the records of one folder as history.

    Args:
        folder: The log's folder; one that is not there is an empty log.

    Raises:
        DamagedError: As `read_log`.
    """
    return history_of(read_parts(folder))


@collector_at_rest()
def history_of(log: pl.DataFrame) -> History:
    """Sum up a log.

    Args:
        log: Records as `read_parts` gives them, oldest first.
    """
    columns = _Columns(log)
    by_job: dict[str, int] = {}
    attempts: dict[str, int] = {}
    clip_sizes: dict[str, int] = {}
    deaths: list[int] = []
    gates: list[_GatePast] = []
    rows = zip(
        *(columns[name] for name in ("job_id", "status", "code", "clip", "clip_bytes")),
        *(columns[name] for name in ("gate_try", "identity_mean", "safety_classifiers")),
        strict=True,
    )
    for row, (job_id, status, code, clip, clip_bytes, *tried) in enumerate(rows):
        before = by_job.get(job_id)
        is_death = status == Status.FAILED and code == ErrorCode.WORKER_DIED
        deaths.append(0 if not is_death else 1 if before is None else deaths[before] + 1)
        gate = _UNTRIED if before is None else gates[before]
        gates.append(gate.after(status, clip, *tried))
        by_job[job_id] = row
        if clip:
            clip_sizes[clip] = clip_bytes
        charged = status != Status.INTERRUPTED
        attempts[job_id] = attempts.get(job_id, 0) + charged

    def names() -> dict[RowKey, int]:
        keys = zip(*(columns[name] for name in RowKey._fields), strict=True)
        return {RowKey(*key): row for row, key in enumerate(keys)}

    def attempt(row: int) -> PastResult:
        gate = gates[row]
        return PastResult(
            job_id=columns["job_id"][row],
            row_key=RowKey(
                columns["subject"][row],
                columns["prompt_name"][row],
                columns["seed"][row],
                columns["variant"][row],
            ),
            status=_STATUSES[columns["status"][row]],
            code=columns["code"][row],
            message=columns["message"][row],
            clip=gate.clip,
            request=_Request(columns, row),
            finished_at=columns["ended"][row],
            deaths=deaths[row],
            classifiers=gate.classifiers,
            tries=gate.tries,
            best_score=gate.score,
        )

    return History(
        latest=_Attempts(names, attempt),
        by_job=_Attempts(lambda: by_job, attempt),
        attempts=attempts,
        clip_bytes=clip_sizes,
    )


_OF_HISTORY = dict.fromkeys(
    (
        *("job_id", "status", "code", "message", "clip", "clip_bytes", "finished_at"),
        *("gate_try", "identity_mean", "safety_classifiers"),
        *RowKey._fields,
        *REQUEST_FIELDS,
    )
)
_Key = TypeVar("_Key")
_STATUSES = {status.value: status for status in Status}


class _Attempts(Mapping[_Key, PastResult]):
    """Attempts by a key; each is put together when it is asked for: of most, nobody asks all."""

    def __init__(
        self, rows: Callable[[], Mapping[_Key, int]], attempt: Callable[[int], PastResult]
    ) -> None:
        self._find_rows = rows
        self._attempt = attempt

    @cached_property
    def _rows(self) -> Mapping[_Key, int]:
        return self._find_rows()

    def __getitem__(self, key: _Key) -> PastResult:
        return self._attempt(self._rows[key])

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def get(self, key: _Key, default: Any = None) -> Any:
        # Of a new campaign nothing is known: an exception for each of its rows would cost more.
        row = self._rows.get(key)
        return default if row is None else self._attempt(row)

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class _Columns(dict[str, list[Any]]):
    """The columns of a log as lists, each made when it is first asked for.

    `ended` is the time of the attempt's end as text.
    """

    def __init__(self, log: pl.DataFrame) -> None:
        super().__init__()
        # Not the whole log: of its eighty columns most would only take room.
        self._log = log.select(*_OF_HISTORY)

    def __missing__(self, name: str) -> list[Any]:
        if name == "ended":
            column = self._log["finished_at"].dt.to_string("iso:strict")
        else:
            column = self._log[name]
        self[name] = column.to_list()
        return self[name]


class _Request(Mapping[str, str | int | float]):
    """What one attempt was asked for, read from the log where somebody looks."""

    __slots__ = ("_columns", "_row")

    def __init__(self, columns: _Columns, row: int) -> None:
        self._columns = columns
        self._row = row

    def __getitem__(self, name: str) -> str | int | float:
        if name not in REQUEST_FIELDS:
            raise KeyError(name)
        return self._columns[name][self._row]

    def __iter__(self) -> Iterator[str]:
        return iter(REQUEST_FIELDS)

    def __len__(self) -> int:
        return len(REQUEST_FIELDS)


class _GatePast(NamedTuple):
    """What the attempts at a request have left: the latest seed rendered, the published clip."""

    tries: int
    clip: str
    score: float | None
    classifiers: str

    def after(
        self, status: str, clip: str, number: int, mean: float | None, classifiers: str
    ) -> _GatePast:
        """Return what is left after one attempt more."""
        if status not in PUBLISHED:
            return self
        # Not the largest one: a row whose clip was lost begins again with the first seed.
        if not clip:
            return self._replace(tries=number)
        if status != Status.LOW_IDENTITY:
            return _GatePast(number, clip, None, classifiers)
        return _GatePast(number, clip, score_of(mean), classifiers)


_UNTRIED = _GatePast(0, "", None, "")
