"""Devices to worker processes: one process a device, fixed before it starts, carried by Dask.

The pool hands a job to a device and waits. It does not know what a campaign is, what a clip is
called, or why a job runs. A row whose process dies goes once to another one (Dask's
`allowed-failures`), then comes back as `worker_died`.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lynx_engine.errors import AbandonedError, ErrorCode, Problem, RefusedError, RowError
from lynx_engine.worker import (
    ClipDraft,
    DeviceWorker,
    FaceRequest,
    OnStage,
    RenderTask,
    WorkerSetup,
)

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.settings import Settings

A = TypeVar("A")
T = TypeVar("T")

_STAGES = "lynx-stages"
_DASK: dict[str, object] = {
    # The second death of a row's process gives the row up.
    "distributed.scheduler.allowed-failures": 1,
    # The engine knows its memory; Dask would pause or restart a worker for using it.
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.scheduler.work-stealing": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    # Set before the worker starts, for its own log lines; ours are told by the campaign.
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
}


class Pool(Protocol):
    """Something that renders jobs; its calls block and may come from several threads."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one job at a time on each."""
        ...

    def embed_face(self, request: FaceRequest) -> SubjectFace:
        """Embed one face; raises RowError."""
        ...

    def render(self, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        """Render one job to a checked temp clip; raises RowError or AbandonedError."""
        ...

    def abandon(self) -> None:
        """Give up every call in flight, now and from now on, with AbandonedError."""
        ...


def find_devices(asked: str = "auto") -> tuple[str, ...]:
    """Return the devices to use.

    Args:
        asked: `auto` (every GPU, else one CPU worker), or a list as `cuda:0,cuda:2` or `cpu:2`
            (two workers on the CPU).

    Raises:
        RefusedError: If the words are not of that form, or name a GPU that is not there.
    """
    gpus = _count_gpus()
    if asked == "auto":
        return tuple(f"cuda:{n}" for n in range(gpus)) or ("cpu",)
    devices: list[str] = []
    for name in asked.split(","):
        kind, _, number = name.strip().partition(":")
        if kind == "cpu" and (number == "" or (number.isdecimal() and 1 <= int(number) <= 64)):
            devices += ["cpu"] * int(number or 1)
        elif kind == "cuda" and number.isdecimal() and int(number) < gpus:
            devices.append(f"cuda:{int(number)}")
        else:
            seen = f"this machine shows {gpus} GPU{'' if gpus == 1 else 's'}"
            text = f"cannot use '{name.strip()}'; {seen}. Write auto, cpu, cpu:2 or cuda:0,cuda:1."
            raise RefusedError([Problem("--devices", text)])
    return tuple(devices)


def _count_gpus() -> int:
    """Count NVIDIA GPUs without loading torch, which costs seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in {"", "-1"}])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _setup(device: str, torch_device: str, settings: Settings) -> WorkerSetup:
    return WorkerSetup(
        device=device,
        torch_device=torch_device,
        models_dir=settings.models_dir.resolve(),
        cache_dir=settings.cache.resolve(),
        threads=settings.threads,
    )


class InProcessPool:
    """One device in this process, for debugging: no Dask, no second process."""

    def __init__(self, settings: Settings, device: str) -> None:
        """Use `device` of this process."""
        self.devices = (device,)
        self._worker = DeviceWorker(_setup(device, device, settings))
        self._abandoned = False

    def embed_face(self, request: FaceRequest) -> SubjectFace:
        """Embed one face; raises RowError."""
        return self._worker.embed_face(request)

    def render(self, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        """Render one job here; raises RowError or AbandonedError."""

        def tell(stage: str, done: int, total: int) -> None:
            # The only place where a row of this very thread can be given up.
            if self._abandoned:
                raise AbandonedError
            on_stage(stage, done, total)

        return self._worker.render(task, tell)

    def abandon(self) -> None:
        """Give up the row in flight at its next step."""
        self._abandoned = True


class DevicePool:
    """One Dask worker process a device."""

    def __init__(self, client: Client, setups: list[WorkerSetup]) -> None:
        """Use a cluster whose worker of device i is named i."""
        self.devices = tuple(setup.device for setup in setups)
        self._client = client
        self._setups = {str(index): setup for index, setup in enumerate(setups)}
        self._listeners: dict[str, OnStage] = {}
        self._in_flight: set[Future[Any]] = set()
        self._abandoned = False
        client.subscribe_topic(_STAGES, self._hear)

    def embed_face(self, request: FaceRequest) -> SubjectFace:
        """Embed one face on any device; raises RowError."""
        return self._call(_embed_on_device, request)

    def render(self, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        """Render one job on the next free device; raises RowError or AbandonedError."""
        self._listeners[task.job.job_id] = on_stage
        try:
            return self._call(_render_on_device, task)
        finally:
            del self._listeners[task.job.job_id]

    def abandon(self) -> None:
        """Cancel what is in flight and refuse what comes; the processes end with the pool."""
        self._abandoned = True
        for future in tuple(self._in_flight):
            future.cancel()

    def _call(self, work: Callable[[A, dict[str, WorkerSetup]], T], argument: A) -> T:
        from distributed import KilledWorker

        if self._abandoned:
            raise AbandonedError
        future = self._client.submit(
            work, argument, self._setups, resources={"device": 1}, pure=False
        )
        self._in_flight.add(future)
        try:
            return future.result()
        except CancelledError:
            raise AbandonedError from None
        except KilledWorker:
            raise RowError(
                ErrorCode.WORKER_DIED,
                "two device processes died with this row in flight. "
                "`lynx-engine retry` tries it again.",
            ) from None
        finally:
            self._in_flight.discard(future)
            future.release()

    def _hear(self, event: tuple[float, dict[str, object]]) -> None:
        _, said = event
        listener = self._listeners.get(str(said["job_id"]))
        if listener is not None:
            listener(str(said["stage"]), int(str(said["done"])), int(str(said["total"])))


@contextmanager
def open_pool(settings: Settings, devices: tuple[str, ...]) -> Generator[DevicePool]:
    """Start one worker process for each device, and end them all on the way out."""
    import dask
    from distributed import Client, SpecCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # A device process sees one GPU only, whatever its number here.
    setups = [_setup(name, "cpu" if name == "cpu" else "cuda:0", settings) for name in devices]
    with (
        dask.config.set(_DASK),
        SpecCluster(
            scheduler=_scheduler(),
            workers=_workers(setups, settings),
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield DevicePool(client, setups)


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


def _workers(setups: list[WorkerSetup], settings: Settings) -> dict[int, dict[str, object]]:
    from distributed import Nanny

    scratch = settings.state_dir / "dask"
    scratch.mkdir(parents=True, exist_ok=True)
    return {
        index: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "resources": {"device": 1},
                "memory_limit": 0,
                "local_directory": str(scratch.resolve()),
                "preload": ["lynx_engine.pool"],
                "host": "127.0.0.1",
                # The device is fixed before the process starts: CUDA reads this once.
                "env": {
                    "CUDA_VISIBLE_DEVICES": _visible(setup.device),
                    # Without it, torch refuses deterministic matrix products (`numerics: strict`).
                    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
                },
            },
        }
        for index, setup in enumerate(setups)
    }


def dask_setup(worker: Worker) -> None:
    """Take a device process out of the terminal's reach; Dask calls this as the process starts.

    Ctrl-C goes to every process of the terminal's group, and would end the row that the campaign
    gives time to finish.
    """
    del worker
    os.setsid()


def _visible(device: str) -> str:
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ""
    outer = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in outer.split(",") if name.strip()]
    return names[int(number)] if names else number


@cache
def _device_worker(setup: WorkerSetup) -> DeviceWorker:
    """Return this process's one worker; the engine in it stays warm between jobs."""
    return DeviceWorker(setup)


def _my_setup(setups: dict[str, WorkerSetup]) -> WorkerSetup:
    from distributed import get_worker

    return setups[str(get_worker().name)]


def _embed_on_device(request: FaceRequest, setups: dict[str, WorkerSetup]) -> SubjectFace:
    return _device_worker(_my_setup(setups)).embed_face(request)


def _render_on_device(task: RenderTask, setups: dict[str, WorkerSetup]) -> ClipDraft:
    from distributed import get_worker

    def tell(stage: str, done: int, total: int) -> None:
        said = {"job_id": task.job.job_id, "stage": stage, "done": done, "total": total}
        get_worker().log_event(_STAGES, said)

    return _device_worker(_my_setup(setups)).render(task, tell)
