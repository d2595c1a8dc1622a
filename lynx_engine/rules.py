"""The table of failure rules: what a failure means for its row and for its device.

Pure decisions: nothing here waits, renders or writes. `campaign.py` acts on them.

| class | tried again | then |
|---|---|---|
| transient (file, encoder) | 3 times, after 1, 4 and 16 s | failed |
| device process died or hung | once, after others, elsewhere if it can be | failed, quarantined |
| spoiled (NaN, blank, frozen, wrong count) | once, elsewhere if it can be | failed |
| everything else | never | failed |

A death that either of two rows in the process may have caused is no failure of theirs: the pool
runs each of them again alone (`pool/seats.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lynx_engine.errors import PASSING, ErrorCode, RowError
from lynx_engine.history import QUARANTINE_DEATHS

TRANSIENT_WAITS_S = (1.0, 4.0, 16.0)
FAILURES_THAT_BLOCK = 3

_SPOILED = frozenset({ErrorCode.BAD_FRAMES, ErrorCode.BAD_CLIP})


def is_transient(error: Exception) -> bool:
    """Return whether the same work may succeed when tried again."""
    if isinstance(error, RowError):
        return error.transient
    return isinstance(error, OSError) and error.errno in PASSING


@dataclass(frozen=True, slots=True)
class Again:
    """The row runs once more.

    Attributes:
        wait_s: Seconds to wait first; the device does other work meanwhile.
        elsewhere: Prefer another device.
        last: Let rows go first that were not tried yet.
    """

    wait_s: float = 0.0
    elsewhere: bool = False
    last: bool = False


@dataclass(slots=True)
class Tries:
    """What one row has been through.

    Attributes:
        deaths: Device processes that died with the row in flight, in earlier runs too.
        transient: Transient failures in this run.
        spoiled: Attempts of this run whose clip was no good.
        pardoned: Whether the log charges it with deaths that were its device's.
    """

    deaths: int = 0
    transient: int = 0
    spoiled: int = 0
    pardoned: bool = False

    def pardon(self) -> None:
        """Forget what turned out to be the device's fault."""
        self.deaths = self.spoiled = 0
        self.pardoned = True

    def start_over(self) -> None:
        """Forget failures: the row has rendered, and takes the next seed of the identity gate."""
        self.deaths = self.transient = self.spoiled = 0
        self.pardoned = False

    def after(self, code: ErrorCode, *, transient: bool) -> Again | None:
        """Count a failure and say whether the row runs again.

        Args:
            code: Why the attempt failed.
            transient: Whether the same work may succeed when tried again.

        Returns:
            How to try again; None when the row has failed.
        """
        if code is ErrorCode.WORKER_DIED:
            self.deaths += 1
            once_more = self.deaths < QUARANTINE_DEATHS
            return Again(elsewhere=True, last=True) if once_more else None
        if code in _SPOILED:
            self.spoiled += 1
            return Again(elsewhere=True) if self.spoiled == 1 else None
        if transient:
            self.transient += 1
            if self.transient <= len(TRANSIENT_WAITS_S):
                return Again(TRANSIENT_WAITS_S[self.transient - 1])
        return None


@dataclass(slots=True)
class DeviceHealth:
    """Tells a bad device from bad rows.

    A device is bad when its process died under different rows, one after the other. A row that
    renders there clears it; a row that kills two devices is a bad row and speaks against neither.
    A row whose clip was spoiled speaks against its device once it came out well on another.

    Not counted are a shortage of memory (the row may be too large for any device), faults of the
    encoder and of weights (they come back on every device), and bugs.
    """

    _suspects: dict[str, list[str]] = field(default_factory=dict[str, "list[str]"])
    _spoiled_on: dict[str, str] = field(default_factory=dict[str, str])

    def rendered(self, device: str, job_id: str) -> tuple[str, tuple[str, ...]] | None:
        """A row rendered on `device`.

        Returns:
            Another device that is to be blocked now, and the job ids that speak against it.
        """
        self._suspects.pop(device, None)
        spoiler = self._spoiled_on.pop(job_id, device)
        return None if spoiler == device else self._suspect(spoiler, job_id)

    def failed(
        self, device: str, job_id: str, code: ErrorCode
    ) -> tuple[str, tuple[str, ...]] | None:
        """A row failed on `device`.

        Returns:
            The device, if it is to be blocked now, and the job ids that speak against it.
        """
        if code is ErrorCode.BAD_FRAMES:
            self._spoiled_on[job_id] = device
        if code is not ErrorCode.WORKER_DIED:
            return None
        others = [rows for name, rows in self._suspects.items() if name != device]
        if any(job_id in rows for rows in others):
            for rows in others:
                if job_id in rows:
                    rows.remove(job_id)
            return None
        return self._suspect(device, job_id)

    def _suspect(self, device: str, job_id: str) -> tuple[str, tuple[str, ...]] | None:
        rows = self._suspects.setdefault(device, [])
        if job_id not in rows:
            rows.append(job_id)
        return (device, tuple(rows)) if len(rows) >= FAILURES_THAT_BLOCK else None
