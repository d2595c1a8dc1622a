"""Sends work to device processes through Dask and watches it: deaths, hangs, replacements."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from lynx_engine.errors import (
    AbandonedError,
    DeviceLostError,
    ErrorCode,
    Problem,
    RefusedError,
    RowError,
)
from lynx_engine.orders import WorkerSetup, setup_for
from lynx_engine.pool import remote
from lynx_engine.pool.cluster import ClusterWorker, greet_workers
from lynx_engine.pool.deadlines import Deadlines, Watch
from lynx_engine.pool.local import LocalProcess
from lynx_engine.pool.reaper import reaper
from lynx_engine.pool.seats import Call, DeviceProcess, ProcessDiedError, Seat

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client, Future

    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.orders import ClipDraft, FaceRequest, RenderTask
    from lynx_engine.rendering import OnStage
    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")

_POLL_S = 0.1
_EXIT_S = 2.0
_HELLO_S = 3.0
_CONNECT_S = 10.0
_DASK: dict[str, object] = {
    # A death is told at once; whether the row runs again is the campaign's to say.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    # Deaths are seen in the process table, hangs by deadlines.
    "distributed.scheduler.worker-ttl": None,
    "distributed.admin.low-level-log-length": 1000,
    "distributed.admin.system-monitor.gil.enabled": False,
}


class DevicePool:
    """One device process a device; see `Pool`."""

    def __init__(
        self,
        client: Client,
        processes: Mapping[str, DeviceProcess],
        setups: Mapping[str, WorkerSetup],
        *,
        settings: Settings,
    ) -> None:
        """Use processes that are starting, by device."""
        self.devices = tuple(processes)
        self._client = client
        self._seats = {
            name: Seat(name, process, setups[name]) for name, process in processes.items()
        }
        self._start_s = settings.worker_start_s
        self._deadlines = Deadlines(
            unmeasured_s=settings.deadline_s, floor_s=settings.deadline_floor_s
        )
        self._listeners: dict[str, Callable[[str, int, int], None]] = {}
        self._own: set[str] = set()
        # Rows that were in a process which died: none shares a process again, on any device.
        self._suspects: set[str] = set()
        self._abandoned = False
        client.subscribe_topic(remote.STAGES, self._hear)

    def load(self, device: str, variant: str, precision: str) -> None:
        """Load a model on `device` before it is needed."""
        call = Call(Watch(self._deadlines, None))
        self._call(device, remote.load, (variant, precision), call)

    def embed_face(self, device: str, request: FaceRequest) -> SubjectFace:
        """Embed one face on `device`."""
        return self._call(device, remote.embed_face, request, Call(Watch(self._deadlines, None)))

    def render(self, device: str, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        """Render one job on `device` to a checked temp clip."""
        job_id = task.job.job_id
        call = Call(Watch(self._deadlines, task.job), task.draft, alone=job_id in self._suspects)

        def hear(stage: str, done: int, total: int) -> None:
            call.watch.hear(stage)
            on_stage(stage, done, total)

        self._listeners[task.draft.name] = hear
        try:
            return self._call(device, remote.render, task, call)
        finally:
            if call.alone:
                self._suspects.add(job_id)
            del self._listeners[task.draft.name]
            remote.answer_beside(task.draft).unlink(missing_ok=True)

    def abandon(self) -> None:
        """Give up every call in flight, now and from now on."""
        self._abandoned = True

    def _call(
        self,
        device: str,
        work: Callable[[A, WorkerSetup], T],
        argument: A,
        call: Call,
    ) -> T:
        seat = self._seats[device]
        with seat.queued(call):
            while True:
                with seat.starting:
                    seat.starting.wait_for(partial(seat.is_next, call))
                    generation, address = self._ready(seat)
                    call.watch.begin()
                    future = self._client.submit(
                        work,
                        argument,
                        seat.setup,
                        workers=[address],
                        allow_other_workers=False,
                        pure=False,
                    )
                    self._own.add(future.key)
                    seat.sent(call)
                try:
                    return self._wait(seat, future, call, generation)
                except ProcessDiedError as died:
                    how = seat.bury(generation, str(died))
                    answer = call.answer()
                    if answer is not None:
                        return answer  # pyright: ignore[reportReturnType]  # left by `render` alone
                    if seat.blamed[generation] is call:
                        raise RowError(
                            ErrorCode.WORKER_DIED,
                            f"the process of {device} {how} while it held this row "
                            f"(last heard of in stage {call.watch.stage}).",
                            stderr=seat.last_words[generation],
                        ) from None
                    call.clear_draft()
                finally:
                    self._own.discard(future.key)
                    future.release()

    def _ready(self, seat: Seat) -> tuple[int, str]:
        """Return generation and address of the process once it has said hello; under the lock."""
        process = seat.process
        why = ""
        for _ in range(process.starts):
            give_up = time.monotonic() + self._start_s
            while time.monotonic() < give_up:
                if self._abandoned:
                    raise AbandonedError
                why = process.death()
                if why:
                    break
                address = process.address()
                if address is not None:
                    return seat.generation, address
                time.sleep(_POLL_S / 2)
            why = why or f"did not say hello within {self._start_s:.0f} s"
            logger.warning("%s: device process %s", seat.device, why)
            seat.end(seat.generation, why)
            seat.bury(seat.generation, why)
        raise DeviceLostError(f"{seat.device}: its process {why}; campaign.log has its last words")

    def _wait(self, seat: Seat, future: Future[T], call: Call, generation: int) -> T:
        from distributed import KilledWorker

        process, watch = seat.process, call.watch
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        while True:
            answered = ended.wait(_POLL_S)
            if self._abandoned:
                seat.end(generation, "was ended")
                raise AbandonedError
            if answered:
                try:
                    # The answer itself may be lost with its process: the loop goes on then.
                    return future.result(timeout=_POLL_S)
                except (KilledWorker, CancelledError):
                    raise ProcessDiedError(self._last_words(seat, generation)) from None
                except TimeoutError:
                    pass
            if seat.generation != generation:
                raise ProcessDiedError("died")
            how = process.death()
            if how and seat.generation == generation:
                raise ProcessDiedError(how)
            if seat.is_waiting(call):
                watch.restart()
            elif watch.overdue_s() > 0 and not self._waits_for_others(future):
                how = f"gave no sign of life for {watch.silence_s():.0f} s and was killed"
                certain = seat.is_alone(call) or self._still_answers(process)
                seat.end(generation, how, blamed=call if certain else None)
                raise ProcessDiedError(how)

    def _still_answers(self, process: DeviceProcess) -> bool:
        """Whether the process says hello; else a row may hang with the interpreter's lock held.

        That silences the other row of the process, too.
        """
        said = threading.Event()
        address = process.address()
        if address is None:
            return False

        def ask() -> None:
            with suppress(Exception):  # its connection ends with it
                self._client.run(remote.say_hello, None, workers=[address])
                said.set()

        threading.Thread(target=ask, daemon=True).start()
        return said.wait(_HELLO_S)

    def _last_words(self, seat: Seat, generation: int) -> str:
        """Return how a process died that Dask has lost already."""
        give_up = time.monotonic() + _EXIT_S
        while time.monotonic() < give_up and seat.generation == generation:
            if how := seat.process.death():
                return how
            time.sleep(_POLL_S / 2)
        seat.end(generation, "lost its connection")
        return "lost its connection"

    def _waits_for_others(self, future: Future[T]) -> bool:
        """Whether the row stands in a queue of a cluster that others use, too."""
        processing = self._client.processing()
        mine = next((keys for keys in processing.values() if future.key in keys), ())
        return not self._own.issuperset(mine)

    def _hear(self, event: tuple[float, dict[str, object]]) -> None:
        _, said = event
        listener = self._listeners.get(str(said["task"]))
        if listener is not None:
            listener(str(said["stage"]), int(str(said["done"])), int(str(said["total"])))


def _quieten() -> None:
    """Keep Dask's own words from the terminal: deaths and lost answers are told by the campaign."""
    # `asyncio` tells of each answer that Dask stopped waiting for because its process had died.
    for name in ("distributed", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def open_pool(settings: Settings, devices: tuple[str, ...]) -> Generator[DevicePool]:
    """Start one process for each device of this machine, and end them all on the way out."""
    import dask
    from distributed import Client, SpecCluster

    _quieten()
    mark = secrets.token_hex(8)
    folder = (settings.state_dir / "dask" / mark).resolve()
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(reaper(mark))
        stack.enter_context(dask.config.set(_DASK))
        cluster = stack.enter_context(
            SpecCluster(scheduler=_scheduler(), workers={}, silence_logs=logging.CRITICAL)
        )
        client = stack.enter_context(Client(cluster, set_as_default=False))
        processes: dict[str, LocalProcess] = {}
        for device in devices:
            process = LocalProcess(device, client, folder=folder, mark=mark)
            stack.callback(process.close)
            processes[device] = process
        # A device process sees one GPU only, whatever its number here.
        setups = {
            device: setup_for(
                settings, device, "cpu" if device.startswith("cpu") else "cuda:0", expendable=True
            )
            for device in devices
        }
        yield DevicePool(client, processes, setups, settings=settings)


def _scheduler() -> dict[str, object]:
    from distributed import Scheduler

    # Every port is a free one: two campaigns may run beside each other.
    options = {
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "host": "127.0.0.1",
        "port": 0,
    }
    return {"cls": Scheduler, "options": options}


@contextmanager
def open_cluster_pool(
    settings: Settings, address: str, shared: Path, *, classifiers: tuple[str, ...] = ()
) -> Generator[DevicePool]:
    """Use every worker of a running Dask cluster; the cluster stays as it is.

    Args:
        settings: Folders and behaviour.
        address: Of its scheduler, as `tcp://host:8786`.
        shared: Folder where clips are written; every worker must see it.
        classifiers: Those that the rows to come need; every worker must have them.

    Raises:
        RefusedError: If nothing answers at the address, or a worker cannot render; all are named.
    """
    from distributed import Client

    _quieten()
    try:
        client = Client(address, set_as_default=False, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        text = f"no Dask scheduler answers there ({error}). Give its address as tcp://host:8786."
        raise RefusedError([Problem(f"--cluster {address}", text)]) from None
    probe = (shared / f".probe-{secrets.token_hex(8)}").resolve()
    with client:
        probe.touch()
        try:
            names = greet_workers(
                client,
                at=address,
                shared=probe,
                classifiers=classifiers,
                models_dir=settings.models_dir.resolve(),
            )
        finally:
            probe.unlink()
        processes = {name: ClusterWorker(name, client) for name in names}
        setups = {name: setup_for(settings, name, "auto", expendable=True) for name in names}
        yield DevicePool(client, processes, setups, settings=settings)
