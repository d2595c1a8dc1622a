"""What runs in a device process: a request in, the process's one warm worker asked, an answer out.

Dask calls these functions by name; everything they know arrives with the call.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine import __version__
from lynx_engine.orders import WorkerSetup
from lynx_engine.pool.devices import count_gpus
from lynx_engine.pool.protocol import FINISHING
from lynx_engine.safety.classifiers import missing_classifiers
from lynx_engine.settings import load_settings
from lynx_engine.worker import DeviceWorker

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from lynx_engine.folders import ModelFolders
    from lynx_engine.identity.embed import SubjectFace
    from lynx_engine.orders import ClipDraft, FaceRequest, RenderTask

STAGES = "lynx-stages"
TELL_EVERY_S = 0.1
"""Each word costs the orchestrator half a millisecond; nobody reads ten a second."""

# Looking at a clip may take long, most of all with networks to load, and its deadline must not be
# that of the short stage before it.
_TOLD_AT_ONCE = frozenset({FINISHING, "safety", "score"})


@dataclass(frozen=True, slots=True)
class Hello:
    """How a device process presents itself."""

    pid: int
    host: str
    version: str
    sees_probe: bool
    lacks: tuple[str, ...] = ()


def say_hello(
    probe: Path | None,
    classifiers: tuple[str, ...] = (),
    models_dir: ModelFolders | None = None,
) -> Hello:
    """Return who this process is, whether it sees the file `probe`, and which classifiers it lacks.

    Args:
        probe: A file that whoever asks has made; None asks for nothing.
        classifiers: Those that the rows to come need.
        models_dir: Where weights lie, unless this machine knows better.
    """
    sees = probe is None or probe.is_file()
    place = _models_here(models_dir or load_settings().models_dir)
    lacks = missing_classifiers(classifiers, place) if classifiers else ()
    return Hello(os.getpid(), platform.node(), __version__, sees, lacks)


def _models_here(models_dir: ModelFolders) -> ModelFolders:
    """Return where weights lie: a cluster's machine knows its own folders best."""
    if os.environ.get("LYNX_MODELS") or os.environ.get("LYNX_MODEL_PATHS"):
        return load_settings().models_dir.resolve()
    return models_dir


_making = threading.Lock()


def _device_worker(setup: WorkerSetup) -> DeviceWorker:
    """Return this process's one worker; the engine in it stays warm between jobs."""
    with _making:
        return _the_worker(setup)


@cache
def _the_worker(setup: WorkerSetup) -> DeviceWorker:
    if setup.torch_device != "auto":
        return DeviceWorker(setup)
    # A cluster's machine knows its own device best, too.
    setup = replace(setup, models_dir=_models_here(setup.models_dir))
    if os.environ.get("LYNX_CACHE"):
        setup = replace(setup, cache_dir=Path(os.environ["LYNX_CACHE"]))
    return DeviceWorker(replace(setup, torch_device="cuda:0" if count_gpus() else "cpu"))


def load(request: tuple[str, str], setup: WorkerSetup) -> None:
    """Load a variant in a precision."""
    _device_worker(setup).load(*request)


def embed_face(request: FaceRequest, setup: WorkerSetup) -> SubjectFace:
    """Embed one face."""
    return _device_worker(setup).embed_face(request)


def render(task: RenderTask, setup: WorkerSetup) -> ClipDraft:
    """Render one job, telling of its steps on the topic `STAGES`."""
    from distributed import get_worker

    told, last = 0.0, ""

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal told, last
        now = time.monotonic()
        is_due = stage in _TOLD_AT_ONCE and stage != last
        if now - told < TELL_EVERY_S and not is_due:
            return
        told, last = now, stage
        # The draft's name is unique to the attempt.
        said = {"task": task.draft.name, "stage": stage, "done": done, "total": total}
        get_worker().log_event(STAGES, said)

    draft = _device_worker(setup).render(task, tell)
    leave_answer(draft)
    return draft


def answer_beside(draft: Path) -> Path:
    """Return where the answer to a row lies until it has been heard."""
    return draft.with_name(f"{draft.name}.answer")


def leave_answer(draft: ClipDraft) -> None:
    """Write the answer beside the clip: the next row may end the process before it was heard."""
    path = answer_beside(draft.path)
    temp = path.with_name(f"{path.name}.tmp")
    temp.write_bytes(_answers().dump_json(draft))
    temp.replace(path)


def read_answer(draft: Path) -> ClipDraft | None:
    """Return the answer to a row whose process died after it had finished, None if it had not."""
    try:
        return _answers().validate_json(answer_beside(draft).read_bytes())
    except (OSError, ValueError):
        return None


@cache
def _answers() -> TypeAdapter[ClipDraft]:
    from pydantic import TypeAdapter

    from lynx_engine.orders import ClipDraft

    return TypeAdapter(ClipDraft)


def kill_tree(pid: int) -> None:
    """End a process and all its descendants; called on the machine where they run."""
    import psutil

    try:
        victim = psutil.Process(pid)
        victims = [*victim.children(recursive=True), victim]
    except psutil.NoSuchProcess:
        return
    for process in victims:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims, timeout=5)
