"""Decides which row goes to which device next. It renders nothing and knows no Dask and no clip.

Each device has three places: one row renders, the one before it is encoded and checked, one waits,
so that a device never waits and no more than a few rows are ever handed out. A device stays with
its model while rows of it are left; then it takes the model with the most work left per device.
Within a model the costliest row goes first: the longest rows last would leave devices idle at the
end (Graham's longest-processing-time rule).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from lynx_engine.jobs import PlannedJob, Reason, RenderJob
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import get_variant

_LAST = frozenset({Reason.FAILED, Reason.INTERRUPTED, Reason.RETRY})

_Key = TypeVar("_Key")

Model = tuple[str, str]
"""Variant and precision: what a device must load."""


class NoDeviceError(Exception):
    """Every device is blocked, or no further row may begin."""


@dataclass(eq=False, slots=True)
class Turn:
    """A row that was handed out.

    Attributes:
        planned: The row.
        device: Where it renders; while it waits, a device that has nothing to do may take it.
        is_finishing: Whether it needs its device no longer.
        avoids: Device on which it failed, and is not to run again while another is left.
    """

    planned: PlannedJob
    device: str
    is_finishing: bool = False
    avoids: str = ""


@dataclass(eq=False, slots=True)
class _Lane:
    model: Model | None = None
    finishing: Turn | None = None
    running: Turn | None = None
    waiting: Turn | None = None
    blocked: bool = False

    def advance(self) -> None:
        """Make room for the next row when the running one finishes; one at a time does.

        So the frames of two rows at most are held in a device's process.
        """
        if self.running is not None and self.running.is_finishing and self.finishing is None:
            self.running, self.finishing = None, self.running

    @property
    def load(self) -> int:
        return sum(turn is not None for turn in (self.finishing, self.running, self.waiting))


def model_of(job: RenderJob) -> Model:
    """Return what a device must have loaded to render `job`."""
    return (job.variant, job.precision)


def work_of(job: RenderJob) -> int:
    """Return the relative length of a job: pixels times steps times predictions a step."""
    return job.cost * len(get_variant(job.variant).branches_at(job.speed))


def in_running_order(planned: Sequence[PlannedJob]) -> list[PlannedJob]:
    """Group by variant, then by shape; within and between groups the costliest job leads.

    A worker changes its model least often this way, and no long job starts last. Equal costs keep
    the author's order.
    """
    work: dict[_Kind, int] = {}
    for p in planned:
        kind = _KIND(p.job)
        if kind not in work:  # a few in a hundred thousand rows
            work[kind] = work_of(p.job)
    variant_cost: dict[str, int] = {}
    shape_cost: dict[tuple[str, int, FrameSize], int] = {}
    for kind, length in work.items():
        variant, shape = kind[0], kind[:3]
        variant_cost[variant] = max(length, variant_cost.get(variant, 0))
        shape_cost[shape] = max(length, shape_cost.get(shape, 0))
    variant_rank = _ranks(variant_cost)
    shape_rank = _ranks(shape_cost)
    places = {
        kind: (variant_rank[kind[0]], shape_rank[kind[:3]], -length)
        for kind, length in work.items()
    }
    return sorted(planned, key=lambda p: places[_KIND(p.job)])


_Kind = tuple[str, int, FrameSize, int, str]
_KIND: Callable[[RenderJob], _Kind] = attrgetter("variant", "frames", "size", "steps", "speed")


def _ranks(costs: Mapping[_Key, int]) -> dict[_Key, int]:
    """Return the place of each key, the costliest first, equal costs in the order they came."""
    return {key: rank for rank, key in enumerate(sorted(costs, key=lambda k: -costs[k]))}


class Dispatcher:
    """Hands out rows; its calls come from several threads and may block."""

    def __init__(self, rows: Sequence[PlannedJob], devices: Sequence[str]) -> None:
        """Take every row that is to run, and the names of the devices, each name once.

        Rows that did not come to a good end last time go last among those of their model: a row
        that kills its device should not hold up the others every night.
        """
        self._changed = threading.Condition()
        self._lanes = {device: _Lane() for device in devices}
        self._queues: dict[Model, deque[PlannedJob]] = {}
        self._work: dict[Model, int] = {}
        self._in_play = 0
        self._most_in_play = 1
        self._stopped = False
        # Sorting is stable: rows of one length keep the order of the plan.
        for planned in sorted(rows, key=lambda row: (row.reason in _LAST, -work_of(row.job))):
            self._enqueue(planned)

    @property
    def devices_left(self) -> tuple[str, ...]:
        """The devices that are not blocked."""
        return tuple(name for name, lane in self._lanes.items() if not lane.blocked)

    def next_turn(self, most: int) -> Turn | None:
        """Hand out a row, once a device has a place for one.

        Args:
            most: Rows that may be handed out and not ended, those that wait for another attempt
                included: as many as the caller has threads.

        Returns:
            The row and its device; None when no row is left and every one handed out has ended,
            or when nothing further may begin.
        """
        with self._changed:
            self._most_in_play = most
            while not self._stopped and self.devices_left:
                place = self._free_place() if self._in_play < most else None
                if place is not None and any(self._queues.values()):
                    return self._hand_out(place)
                if not any(self._queues.values()) and self._in_play == 0:
                    return None
                self._changed.wait()
            return None

    def start(self, turn: Turn) -> None:
        """Wait until the row's device is free; the row may be taken to an idle one meanwhile.

        Raises:
            NoDeviceError: If no device is left, or nothing further may begin.
        """
        with self._changed:
            while not self._stopped and self.devices_left:
                lane = self._lanes[turn.device]
                if lane.blocked:
                    moved = self._move(turn, self.devices_left)
                elif lane.running is None:
                    lane.waiting, lane.running = None, turn
                    self._changed.notify_all()
                    return
                else:
                    idle = [
                        d for d in self.devices_left if not self._lanes[d].load and d != turn.avoids
                    ]
                    moved = not self._more_to_come and self._move(turn, idle)
                if not moved:
                    self._changed.wait()
            self._leave(turn)
            raise NoDeviceError

    def finishing(self, turn: Turn) -> None:
        """Say that a row needs its device no longer: the one that waits behind it may start.

        That one renders while this one is encoded and checked.
        """
        with self._changed:
            turn.is_finishing = True
            self._lanes[turn.device].advance()
            self._changed.notify_all()

    def end(self, turn: Turn) -> None:
        """Free the device; the row may still `start` again."""
        with self._changed:
            self._leave(turn)
            self._changed.notify_all()

    def again(self, turn: Turn, *, elsewhere: bool, last: bool = False) -> None:
        """Give a row that ended on its device a place for another attempt, waiting for one.

        Args:
            turn: The row; its device is where it ended.
            elsewhere: Prefer another device, if another is left.
            last: Let rows go first that were not handed out yet.

        Raises:
            NoDeviceError: As `start`.
        """
        with self._changed:
            turn.avoids = turn.device if elsewhere else ""
            while not self._stopped and self.devices_left:
                others = [d for d in self.devices_left if d != turn.device]
                same = [] if turn.device not in self.devices_left else [turn.device]
                wanted = (others or same) if elsewhere else (same or others)
                free = [d for d in wanted if self._lanes[d].waiting is None]
                if free and not (last and self._more_to_come):
                    model = model_of(turn.planned.job)
                    lanes = self._lanes
                    turn.device = min(free, key=lambda d: (lanes[d].model != model, lanes[d].load))
                    lanes[turn.device].waiting, lanes[turn.device].model = turn, model
                    return
                self._changed.wait()
            raise NoDeviceError

    def wait(self, seconds: float) -> bool:
        """Wait; return at once, and True, when nothing further may begin."""
        # Not an Event: a signal's handler may call `stop` while this very thread waits here.
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped, timeout=seconds)

    def done(self, turn: Turn) -> None:
        """Say that a row ended for good."""
        with self._changed:
            self._leave(turn)
            self._in_play -= 1
            self._changed.notify_all()

    def put_back(self, planned: PlannedJob) -> None:
        """Take a row that had ended back into the queue."""
        with self._changed:
            self._enqueue(planned)
            self._changed.notify_all()

    def block(self, device: str) -> None:
        """Give a device no further row."""
        with self._changed:
            self._lanes[device].blocked = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing further; rows that wait do not begin."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def _more_to_come(self) -> bool:
        """Whether another row can be handed out before one has ended."""
        return any(self._queues.values()) and self._in_play < self._most_in_play

    def _enqueue(self, planned: PlannedJob) -> None:
        model = model_of(planned.job)
        self._queues.setdefault(model, deque()).append(planned)
        self._work[model] = self._work.get(model, 0) + work_of(planned.job)

    def _free_place(self) -> str | None:
        free = [d for d in self.devices_left if self._lanes[d].waiting is None]
        return min(free, key=lambda d: self._lanes[d].load, default=None)

    def _hand_out(self, device: str) -> Turn:
        lane = self._lanes[device]
        if lane.model is None or not self._queues.get(lane.model):
            lane.model = self._neediest_model()
        planned = self._queues[lane.model].popleft()
        self._work[lane.model] -= work_of(planned.job)
        self._in_play += 1
        lane.waiting = Turn(planned, device)
        return lane.waiting

    def _neediest_model(self) -> Model:
        """Return the model with the most work left for each device that would share it."""

        def share(model: Model) -> float:
            sharing = sum(lane.model == model for lane in self._lanes.values() if not lane.blocked)
            return self._work[model] / (sharing + 1)

        return max((model for model, queue in self._queues.items() if queue), key=share)

    def _move(self, turn: Turn, devices: Sequence[str]) -> bool:
        """Let a waiting row wait for one of `devices` instead; return whether one had a place."""
        model = model_of(turn.planned.job)
        free = [d for d in devices if self._lanes[d].waiting is None]
        # A device that has the model loaded comes first.
        target = min(free, key=lambda d: self._lanes[d].model != model, default=None)
        if target is None:
            return False
        self._leave(turn)
        turn.device = target
        self._lanes[target].waiting, self._lanes[target].model = turn, model
        self._changed.notify_all()
        return True

    def _leave(self, turn: Turn) -> None:
        lane = self._lanes[turn.device]
        if lane.finishing is turn:
            lane.finishing = None
        if lane.running is turn:
            lane.running = None
        if lane.waiting is turn:
            lane.waiting = None
        turn.is_finishing = False
        lane.advance()
