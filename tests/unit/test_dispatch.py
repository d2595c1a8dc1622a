"""Which row goes where: under a virtual clock that finds every deadlock, and in real threads."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from lynx_engine.dispatch import Dispatcher, NoDeviceError, Turn
from lynx_engine.jobs import PlannedJob, Reason
from tests.support.jobs import make_job, planned
from tests.support.virtual_time import DeadlockError, World

# Predictions a step, from the paper's figure of each variant, not from the code under test.
BRANCHES = {"tiny": 3, "lynx_full": 3, "tiny_lite": 2, "lynx_lite": 2, "wan": 2}


def row(
    seed: int,
    *,
    steps: int = 4,
    variant: str = "tiny",
    precision: str = "float32",
    reason: Reason = Reason.NEW,
) -> PlannedJob:
    job = make_job(seed=seed, steps=steps, variant=variant, precision=precision)
    return replace(planned(job), reason=reason)


def seconds_of(row: PlannedJob) -> float:
    return row.job.steps * BRANCHES[row.job.variant]


def model(row: PlannedJob) -> tuple[str, str]:
    return (row.job.variant, row.job.precision)


def names(count: int) -> list[str]:
    return [f"gpu{n}" for n in range(count)]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return open_world(monkeypatch)


def open_world(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> World:
    world = World(seed)
    monkeypatch.setattr("lynx_engine.dispatch.threading", world.threading())
    return world


@dataclass
class Run:
    """One run of rows on devices that load and render in virtual time."""

    world: World
    dispatcher: Dispatcher
    load_s: float = 0.0
    attempt: Callable[[Turn], bool] = lambda _: True
    trace: list[tuple[float, str, PlannedJob]] = field(default_factory=list)
    loads: Counter[str] = field(default_factory=Counter[str])
    busy: dict[str, int] = field(default_factory=dict[str, int])
    models: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    ended: list[int] = field(default_factory=list[int])

    def go(self, *, threads: int) -> float:
        for _ in range(threads):
            self.world.spawn(lambda: self._work(threads))
        return self.world.run()

    def seeds_on(self, device: str) -> list[int]:
        return [row.job.seed for _, name, row in self.trace if name == device]

    def _work(self, threads: int) -> None:
        while (turn := self.dispatcher.next_turn(threads)) is not None:
            try:
                while not self._render(turn):
                    self.dispatcher.again(turn, elsewhere=True, last=True)
                self.ended.append(turn.planned.job.seed)
            except NoDeviceError:
                pass
            finally:
                self.dispatcher.done(turn)

    def _render(self, turn: Turn) -> bool:
        self.dispatcher.start(turn)
        device, job = turn.device, turn.planned.job
        assert device not in self.busy, f"{device} renders {self.busy[device]} still"
        self.busy[device] = job.seed
        self.trace.append((self.world.now, device, turn.planned))
        if self.models.get(device) != model(turn.planned):
            self.models[device] = model(turn.planned)
            self.loads[device] += 1
            self.world.sleep(self.load_s)
        self.world.sleep(seconds_of(turn.planned))
        del self.busy[device]
        self.dispatcher.end(turn)
        return self.attempt(turn)


def run_of(world: World, rows: Sequence[PlannedJob], devices: int, *, load_s: float = 0.0) -> Run:
    return Run(world, Dispatcher(rows, names(devices)), load_s)


def test_longest_row_goes_first_and_equal_rows_keep_the_order_of_the_plan(world: World) -> None:
    rows = [row(n, steps=steps) for n, steps in enumerate((3, 9, 3, 20, 9))]
    run = run_of(world, rows, 1)
    run.go(threads=2)
    assert run.seeds_on("gpu0") == [3, 1, 4, 0, 2]


def test_row_that_predicts_more_often_in_a_step_is_the_longer_one() -> None:
    # 4 steps of 3 predictions are more than 5 of 2.
    rows = [row(1, steps=5, variant="tiny_lite"), row(2, steps=4, variant="tiny")]
    turn = Dispatcher(rows, names(1)).next_turn(1)
    assert turn is not None
    assert turn.planned.job.seed == 2


@pytest.mark.parametrize("reason", [Reason.FAILED, Reason.INTERRUPTED, Reason.RETRY])
def test_rows_that_came_to_no_good_end_last_time_go_last(world: World, reason: Reason) -> None:
    rows = [row(1, steps=50, reason=reason), row(2), row(3, reason=Reason.CHANGED)]
    run = run_of(world, rows, 1)
    run.go(threads=2)
    assert run.seeds_on("gpu0") == [2, 3, 1]


def test_device_stays_with_its_model_while_rows_of_it_are_left(world: World) -> None:
    variants = ("tiny", "tiny_lite", "wan")
    rows = [row(n, steps=1 + n % 7, variant=variants[n % 3]) for n in range(30)]
    run = run_of(world, rows, 1)
    run.go(threads=2)
    order = [model(row) for _, _, row in run.trace]
    changes = sum(before != after for before, after in pairwise(order))
    assert changes == 2
    assert len(run.trace) == 30


@pytest.mark.parametrize("seed", range(12))
def test_device_loads_each_model_once_but_for_rows_it_takes_over_when_idle(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    devices = draw.randint(1, 6)
    rows = random_rows(draw, draw.randint(20, 60))
    run = run_of(open_world(monkeypatch, seed), rows, devices, load_s=7.0)
    run.go(threads=2 * devices)
    models = len({model(row) for row in rows})
    # A device waits for one row at most, and only an idle device takes another's over.
    assert max(run.loads.values()) <= models + 1
    assert run.loads.total() <= models * devices
    assert sorted(run.ended) == sorted(row.job.seed for row in rows)


def random_rows(draw: random.Random, count: int) -> list[PlannedJob]:
    kinds = draw.sample(sorted(BRANCHES), draw.randint(1, 4))
    return [row(n, steps=draw.randint(10, 60), variant=draw.choice(kinds)) for n in range(count)]


def test_each_device_has_one_row_and_one_that_waits_and_never_more(world: World) -> None:
    dispatcher = Dispatcher([row(n) for n in range(50)], names(3))
    taken: list[Turn] = []

    def take() -> None:
        while (turn := dispatcher.next_turn(50)) is not None:
            taken.append(turn)
            if len([other for other in taken if other.device == turn.device]) == 1:
                dispatcher.start(turn)

    world.spawn(take)
    with pytest.raises(DeadlockError):
        world.run()
    assert Counter(turn.device for turn in taken) == dict.fromkeys(names(3), 2)


def test_next_row_is_handed_out_as_soon_as_the_one_before_begins(world: World) -> None:
    dispatcher = Dispatcher([row(1), row(2)], names(1))
    told: list[float] = []
    first = dispatcher.next_turn(2)
    assert first is not None

    def ask() -> None:
        dispatcher.next_turn(2)
        told.append(world.now)

    def begin() -> None:
        world.sleep(7)
        dispatcher.start(first)
        world.sleep(100)

    world.spawn(ask)
    world.spawn(begin)
    world.run()
    assert told == [7]


def test_caller_hears_at_once_that_the_last_device_is_blocked(world: World) -> None:
    dispatcher = Dispatcher([row(n) for n in range(5)], names(1))
    told: list[float] = []
    assert dispatcher.next_turn(9) is not None

    def ask() -> None:
        assert dispatcher.next_turn(9) is None
        told.append(world.now)

    def block() -> None:
        world.sleep(7)
        dispatcher.block("gpu0")
        world.sleep(100)

    world.spawn(ask)
    world.spawn(block)
    world.run()
    assert told == [7]


def test_no_more_rows_are_in_play_than_the_caller_has_threads(world: World) -> None:
    dispatcher = Dispatcher([row(n) for n in range(50)], names(8))
    taken: list[Turn | None] = []

    def take() -> None:
        for _ in range(4):
            taken.append(dispatcher.next_turn(3))

    world.spawn(take)
    with pytest.raises(DeadlockError):
        world.run()
    assert len(taken) == 3


def test_idle_device_takes_a_waiting_row_once_the_queue_is_empty(world: World) -> None:
    rows = [row(0, steps=100), row(1, steps=50), row(2, steps=1), row(3, steps=1)]
    run = run_of(world, rows, 2)
    # 300 s and 150 s side by side; then the second device renders both short rows, one of which
    # waited for the first.
    assert run.go(threads=4) == 300
    assert [sorted(run.seeds_on(device)) for device in names(2)] == [[0], [1, 2, 3]]


def test_idle_device_takes_a_waiting_row_when_no_thread_is_left_for_another(world: World) -> None:
    def attempt(turn: Turn) -> bool:
        if turn.planned.job.seed == 1:
            world.sleep(1000)  # its thread is busy with nothing, for a file to come back
        return True

    rows = [row(0, steps=90), row(1, steps=50), row(2, steps=40), row(3, steps=40)]
    run = run_of(world, rows, 2)
    run.attempt = attempt
    run.go(threads=3)
    starts = {row.job.seed: (at, device) for at, device, row in run.trace}
    assert starts[2] == (150, "gpu1"), "it waited for gpu0, which is busy until 270"
    assert starts[3][0] == 270


def test_waiting_row_goes_to_the_idle_device_that_has_its_model(world: World) -> None:
    dispatcher = Dispatcher([], names(3))
    busy = [row(0, steps=90), row(1, steps=10, variant="wan"), row(2, steps=10)]
    waiting = row(3, steps=8)
    seen: list[str] = []

    def render(turn: Turn, seconds: float) -> None:
        dispatcher.start(turn)
        seen.append(f"{turn.planned.job.seed} on {turn.device}")
        world.sleep(seconds)
        dispatcher.end(turn)

    def story() -> None:
        turns: list[Turn] = []
        for planned_row in busy:
            dispatcher.put_back(planned_row)
            turn = dispatcher.next_turn(9)
            assert turn is not None
            turns.append(turn)
            dispatcher.start(turn)
        dispatcher.put_back(waiting)
        last = dispatcher.next_turn(9)
        assert last is not None
        last_thread = last
        assert last_thread.device == "gpu0"
        world.spawn(lambda: render(last_thread, 1))
        world.sleep(10)
        dispatcher.end(turns[1])
        dispatcher.end(turns[2])

    world.spawn(story)
    world.run()
    assert seen == ["3 on gpu2"], "gpu1 is idle, too, but has another model loaded"


def test_blocked_device_gets_no_further_row_and_its_waiting_one_goes_elsewhere(
    world: World,
) -> None:
    rows = [row(n, steps=10) for n in range(12)]
    run = run_of(world, rows, 2)

    def block() -> None:
        world.sleep(15)  # in the middle of its first row
        run.dispatcher.block("gpu0")

    world.spawn(block)
    assert run.go(threads=4) == 11 * 30.0
    assert len(run.seeds_on("gpu0")) == 1
    assert sorted(run.ended) == list(range(12))
    assert run.dispatcher.devices_left == ("gpu1",)


def test_run_ends_when_the_last_device_is_blocked(world: World) -> None:
    run = run_of(world, [row(n, steps=10) for n in range(12)], 2)

    def block() -> None:
        world.sleep(15)
        run.dispatcher.block("gpu0")
        run.dispatcher.block("gpu1")

    world.spawn(block)
    assert run.go(threads=4) == 30
    assert len(run.ended) == 2, "rows in flight end as they will"
    assert run.dispatcher.next_turn(4) is None


def ended_turn(dispatcher: Dispatcher, most: int = 9) -> Turn:
    turn = dispatcher.next_turn(most)
    assert turn is not None
    dispatcher.start(turn)
    dispatcher.end(turn)
    return turn


def test_row_tried_elsewhere_gets_another_device_while_one_is_left() -> None:
    dispatcher = Dispatcher([row(1)], names(3))
    turn = ended_turn(dispatcher)
    before = turn.device
    dispatcher.again(turn, elsewhere=True)
    assert turn.device != before
    dispatcher.start(turn)
    dispatcher.end(turn)
    for device in set(names(3)) - {turn.device}:
        dispatcher.block(device)
    alone = turn.device
    dispatcher.again(turn, elsewhere=True)
    assert turn.device == alone


def test_row_tried_again_stays_on_its_device_unless_that_is_blocked() -> None:
    dispatcher = Dispatcher([row(1)], names(3))
    turn = ended_turn(dispatcher)
    before = turn.device
    dispatcher.again(turn, elsewhere=False)
    assert turn.device == before
    dispatcher.start(turn)
    dispatcher.end(turn)
    dispatcher.block(before)
    dispatcher.again(turn, elsewhere=False)
    assert turn.device != before


def test_row_tried_last_lets_every_row_go_first_that_was_not_handed_out(world: World) -> None:
    rows = [row(0, steps=20), *(row(n, steps=10) for n in range(1, 6))]
    failed: list[int] = []

    def attempt(turn: Turn) -> bool:
        fails = turn.planned.job.seed == 0 and not failed
        failed.extend([0] * fails)
        return not fails

    run = run_of(world, rows, 1)
    run.attempt = attempt
    run.go(threads=3)
    assert run.seeds_on("gpu0") == [0, 1, 2, 3, 4, 5, 0]


def test_row_tried_last_does_not_wait_for_rows_that_its_own_thread_holds_up(world: World) -> None:
    failed: list[int] = []

    def attempt(turn: Turn) -> bool:
        seed = turn.planned.job.seed
        failed.append(seed)
        return failed.count(seed) == 2

    run = run_of(world, [row(n) for n in range(6)], 2)
    run.attempt = attempt
    run.go(threads=1)
    assert sorted(run.ended) == list(range(6))


def test_row_put_back_is_handed_out_again_to_somebody_who_waits(world: World) -> None:
    dispatcher = Dispatcher([row(1)], names(1))
    taken: list[tuple[float, int]] = []

    def first() -> None:
        turn = dispatcher.next_turn(2)
        assert turn is not None
        dispatcher.start(turn)
        world.sleep(5)
        dispatcher.end(turn)
        world.sleep(5)
        dispatcher.put_back(turn.planned)
        world.sleep(5)
        dispatcher.done(turn)

    def others() -> None:
        world.sleep(1)
        while (turn := dispatcher.next_turn(2)) is not None:
            taken.append((world.now, turn.planned.job.seed))
            dispatcher.start(turn)
            dispatcher.end(turn)
            dispatcher.done(turn)

    world.spawn(first)
    world.spawn(others)
    world.run()
    assert taken == [(10, 1)]


def test_stop_releases_everybody_who_waits(world: World) -> None:
    dispatcher = Dispatcher([row(n) for n in range(9)], names(1))
    told: list[str] = []
    running = dispatcher.next_turn(9)
    assert running is not None
    dispatcher.start(running)
    waiting = dispatcher.next_turn(9)
    assert waiting is not None

    def refused(name: str, act: Callable[[], None]) -> None:
        with pytest.raises(NoDeviceError):
            act()
        told.append(name)

    def turns() -> None:
        assert dispatcher.next_turn(9) is None
        told.append("turns")

    def stop() -> None:
        world.sleep(10)
        assert told == []
        dispatcher.stop()

    ended = Turn(row(99), "gpu0")
    world.spawn(turns)
    world.spawn(lambda: refused("start", lambda: dispatcher.start(waiting)))
    world.spawn(lambda: refused("again", lambda: dispatcher.again(ended, elsewhere=True)))
    world.spawn(stop)
    world.run()
    assert sorted(told) == ["again", "start", "turns"]
    assert dispatcher.next_turn(9) is None


def test_turns_end_only_when_every_row_handed_out_has_ended(world: World) -> None:
    dispatcher = Dispatcher([row(1)], names(1))
    turn = dispatcher.next_turn(2)
    assert turn is not None

    def end() -> None:
        world.sleep(30)
        dispatcher.done(turn)

    told: list[tuple[float, Turn | None]] = []

    def ask() -> None:
        told.append((world.now, dispatcher.next_turn(2)))
        told.append((world.now, None))

    world.spawn(ask)
    world.spawn(end)
    world.run()
    assert told[-1] == (30, None)


def test_plan_without_rows_ends_at_once() -> None:
    assert Dispatcher([], names(2)).next_turn(4) is None


@pytest.mark.parametrize("seed", range(40))
def test_no_order_of_events_loses_a_row_or_locks_up(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Rows fail and are tried again, devices are blocked, rows are put back; threads are few."""
    draw = random.Random(seed)
    devices = draw.randint(1, 4)
    rows = random_rows(draw, draw.randint(1, 25))
    world = open_world(monkeypatch, seed)
    run = run_of(world, rows, devices, load_s=5.0)
    put_back: Counter[int] = Counter()
    attempts: Counter[int] = Counter()

    def attempt(turn: Turn) -> bool:
        seed = turn.planned.job.seed
        attempts[seed] += 1
        world.sleep(draw.choice([0, 0, 20]))  # as before the next attempt at a busy file
        if draw.random() < 0.05 and len(run.dispatcher.devices_left) > 1:
            run.dispatcher.block(turn.device)
        if draw.random() < 0.1:
            put_back[seed] += 1
            run.dispatcher.put_back(turn.planned)
            return True
        return draw.random() < 0.5

    run.attempt = attempt
    run.go(threads=draw.randint(1, 2 * devices + 3))
    assert Counter(run.ended) == Counter({row.job.seed: 1 for row in rows}) + put_back
    assert Counter(row.job.seed for _, _, row in run.trace) == attempts


def lower_bound_s(rows: Sequence[PlannedJob], devices: int, load_s: float) -> float:
    """No schedule is shorter: every model is loaded somewhere, every device loads something."""
    work = sum(map(seconds_of, rows))
    models = len({model(row) for row in rows})
    loads = max(models, min(devices, len(rows)))
    return max((work + load_s * loads) / devices, load_s + max(map(seconds_of, rows)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("devices", [1, 2, 3, 5, 8])
def test_mixed_plan_takes_hardly_longer_than_the_work_itself(
    monkeypatch: pytest.MonkeyPatch, devices: int, seed: int
) -> None:
    draw = random.Random(1000 * devices + seed)
    rows = random_rows(draw, 30 * devices)
    world = open_world(monkeypatch, seed)
    run = run_of(world, rows, devices, load_s=60.0)
    took_s = run.go(threads=2 * devices)
    assert len(run.ended) == len(rows)
    assert 1 <= took_s / lower_bound_s(rows, devices, 60.0) <= 1.05


@pytest.mark.parametrize("seed", range(4))
def test_real_threads_hand_out_every_row_once_and_finish(seed: int) -> None:
    draw = random.Random(seed)
    devices, threads = 4, draw.randint(3, 12)
    rows = random_rows(draw, 150)
    dispatcher = Dispatcher(rows, names(devices))
    lock = threading.Lock()
    ended: list[int] = []
    fails = {row.job.seed for row in rows if draw.random() < 0.3}
    returned = {row.job.seed for row in rows if draw.random() < 0.1}
    expected = Counter(row.job.seed for row in rows) + Counter(returned)
    rendering: set[str] = set()
    faults: list[str] = []

    def render(turn: Turn) -> None:
        dispatcher.start(turn)
        with lock:
            if turn.device in rendering:
                faults.append(f"two rows at a time on {turn.device}")
            rendering.add(turn.device)
        with lock:
            rendering.discard(turn.device)
        dispatcher.end(turn)

    def work() -> None:
        while (turn := dispatcher.next_turn(threads)) is not None:
            seed = turn.planned.job.seed
            render(turn)
            with lock:
                again, back = seed in fails, seed in returned
                fails.discard(seed)
                returned.discard(seed)
            if again:
                dispatcher.again(turn, elsewhere=True, last=True)
                render(turn)
            if back:
                dispatcher.put_back(turn.planned)
            if seed == 75:
                dispatcher.block(names(devices)[-1])
            with lock:
                ended.append(seed)
            dispatcher.done(turn)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert not any(worker.is_alive() for worker in workers), "a thread waits for ever"
    assert Counter(ended) == expected
    assert faults == []


def test_waiting_row_starts_when_the_running_one_finishes() -> None:
    dispatcher = Dispatcher([planned(make_job(seed=n)) for n in range(4)], ["a"])
    first = dispatcher.next_turn(8)
    assert first is not None
    dispatcher.start(first)
    second = dispatcher.next_turn(8)
    assert second is not None
    dispatcher.finishing(first)
    dispatcher.start(second)  # would wait for ever without it
    third = dispatcher.next_turn(8)
    assert third is not None
    dispatcher.finishing(second)
    started: list[str] = []

    def begin() -> None:
        dispatcher.start(third)
        started.append("third")

    thread = threading.Thread(target=begin, daemon=True)
    thread.start()
    thread.join(0.2)
    assert started == [], "two rows stand in the process already"
    dispatcher.end(first)
    thread.join(5)
    assert started == ["third"]


def test_row_that_is_to_run_elsewhere_is_not_taken_back_by_the_device_it_failed_on() -> None:
    dispatcher = Dispatcher([planned(make_job(seed=n)) for n in range(2)], ["a", "b"])
    turns = [dispatcher.next_turn(8), dispatcher.next_turn(8)]
    first = next(turn for turn in turns if turn and turn.device == "a")
    other = next(turn for turn in turns if turn and turn.device == "b")
    for turn in (first, other):
        dispatcher.start(turn)
    dispatcher.end(first)
    dispatcher.again(first, elsewhere=True)
    thread = threading.Thread(target=dispatcher.start, args=(first,), daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), "a is idle, and not what it waits for"
    dispatcher.done(other)
    thread.join(5)
    assert first.device == "b"
