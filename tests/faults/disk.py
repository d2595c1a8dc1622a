"""Sees every file operation of this process below one folder, and lets it fail or be counted.

What other programs write there (ffmpeg) goes unseen. Not a mock: every operation is carried out.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

from lynx_engine.campaign import open_campaign
from lynx_engine.digest import digest_file
from lynx_engine.jobs import RenderJob, RenderPlan
from lynx_engine.lock import lock_campaign
from lynx_engine.orders import ClipDraft, RenderTask
from lynx_engine.outcomes import CampaignSummary, Observer
from lynx_engine.pool import Pool
from lynx_engine.preflight import Preflight
from lynx_engine.rendering import OnStage
from lynx_engine.settings import Settings
from tests.support.pools import ScriptedPool, Watcher

CAMPAIGN = "trial"
NO_FACES = Preflight({}, {})

TAKES_ROOM = frozenset({"create", "write", "mkdir", "link", "rename", "fsync"})
"""Operations that a full disk refuses; to delete and to cut always works."""
CHANGES = TAKES_ROOM | {"truncate", "unlink", "rmdir", "chmod"}
READS = frozenset({"open", "read", "list", "stat"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One file operation.

    Attributes:
        name: One of `CHANGES` or `READS`.
        path: The file or folder.
        target: What it is called afterwards, where the operation gives a name.
    """

    name: str
    path: Path
    target: Path | None = None


class Listener(Protocol):
    """Told of each operation; raises in `before` what the operation is to raise."""

    def before(self, operation: Operation) -> None: ...

    def after(self, operation: Operation) -> None: ...


@contextmanager
def watched(root: Path, listener: Listener) -> Generator[None]:
    """Tell `listener` of every operation of this process below `root` until the block ends."""
    watch = _Watch(root.resolve(), listener)
    with ExitStack() as patches:
        for name, call in watch.of_os().items():
            patches.enter_context(patch.object(os, name, call))
        for module in (io, builtins):
            patches.enter_context(patch.object(module, "open", watch.open_file))
        yield


class _Watch:
    def __init__(self, root: Path, listener: Listener) -> None:
        self._root = root
        self._listener = listener
        self._io_open = io.open
        self._os_open = os.open
        self._readlink = os.readlink

    def of_os(self) -> dict[str, Callable[..., Any]]:
        by_name = {
            "unlink": "unlink",
            "remove": "unlink",
            "rmdir": "rmdir",
            "mkdir": "mkdir",
            "chmod": "chmod",
            "listdir": "list",
            "scandir": "list",
            "stat": "stat",
            "write": "write",
            "fsync": "fsync",
            "ftruncate": "truncate",
            "replace": "rename",
            "rename": "rename",
            "link": "link",
        }
        return {
            "open": self.open_descriptor,
            **{name: self._stand_in(getattr(os, name), known) for name, known in by_name.items()},
        }

    def place(self, given: object) -> Path | None:
        """Return the path of a path or descriptor below the root, else None."""
        if isinstance(given, int):
            try:
                given = self._readlink(f"/proc/self/fd/{given}")
            except OSError:
                return None
        if not isinstance(given, (str, os.PathLike)):
            return None
        path = Path(os.path.normpath(Path.cwd() / os.fspath(given)))  # type: ignore[arg-type]
        return path if path.is_relative_to(self._root) else None

    def tell(self, operation: Operation, call: Callable[[], Any]) -> Any:
        self._listener.before(operation)
        result = call()
        self._listener.after(operation)
        return result

    def _stand_in(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def stand_in(given: Any = ".", *args: Any, **kwargs: Any) -> Any:
            path = self.place(given)
            if path is None:
                return call(given, *args, **kwargs)
            target = self.place(args[0]) if name in {"rename", "link"} else None
            return self.tell(Operation(name, path, target), lambda: call(given, *args, **kwargs))

        return stand_in

    def open_descriptor(self, given: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        path = self.place(given)
        if path is None:
            return self._os_open(given, flags, *args, **kwargs)
        name = "open" if flags & (os.O_WRONLY | os.O_RDWR) == 0 else "create"
        call = self._os_open
        return self.tell(Operation(name, path), lambda: call(given, flags, *args, **kwargs))

    def open_file(self, given: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        path = self.place(given)
        if path is None:
            return self._io_open(given, mode, *args, **kwargs)
        call = self._io_open
        if isinstance(given, int):  # opened before, and told of then
            return _File(call(given, mode, *args, **kwargs), path, self)
        name = "open" if set(mode).isdisjoint("wax+") else "create"
        opened = self.tell(Operation(name, path), lambda: call(given, mode, *args, **kwargs))
        return _File(opened, path, self)


class _File:
    """An open file whose reads and writes are told of."""

    def __init__(self, file: Any, path: Path, watch: _Watch) -> None:
        self._file = file
        self._path = path
        self._watch = watch

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._file.__exit__(*args)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        kind = {"write": "write", "flush": "write", "read": "read", "truncate": "truncate"}
        if name not in kind:
            return found
        operation = Operation(kind[name], self._path)
        return lambda *args, **kwargs: self._watch.tell(operation, lambda: found(*args, **kwargs))


@dataclass
class Fault:
    """A listener that refuses the operation number `at`, and with `lasts` every later one.

    Attributes:
        number: The system's error number. A full disk refuses what takes room, a read-only one
            what changes anything, a broken one everything.
        at: From 1.
        lasts: Whether it stays so.
        seen: Operations so far that such a fault can befall.
        refused: What was refused.
    """

    number: int
    at: int
    lasts: bool = False
    seen: int = 0
    refused: list[Operation] | None = None

    def before(self, operation: Operation) -> None:
        befalls = {errno.ENOSPC: TAKES_ROOM, errno.EROFS: CHANGES}.get(self.number, CHANGES | READS)
        if operation.name not in befalls:
            return
        self.seen += 1
        if self.seen == self.at or (self.lasts and self.seen > self.at):
            self.refused = [*(self.refused or []), operation]
            raise OSError(self.number, os.strerror(self.number), str(operation.path))

    def after(self, operation: Operation) -> None:
        pass


class HonestPool(ScriptedPool):
    """A scripted pool whose drafts are on disk and whose facts are those of the draft."""

    def render(self, device: str, task: RenderTask, on_stage: OnStage) -> ClipDraft:
        draft = super().render(device, task, on_stage)
        with draft.path.open("wb") as file:
            file.write(clip_bytes(task.job))
            file.flush()
            os.fsync(file.fileno())
        facts = replace(draft.clip, bytes=draft.path.stat().st_size, digest=digest_file(draft.path))
        return replace(draft, clip=facts)


def clip_bytes(job: RenderJob) -> bytes:
    """Return what stands for a clip: no bit of it can be changed into another's."""
    return f"clip of seed {job.seed} {job.job_id}".encode()


def run_trial(
    settings: Settings,
    pool: Pool,
    plan: RenderPlan,
    observer: Observer | None = None,
    *,
    faces: Preflight = NO_FACES,
) -> CampaignSummary:
    """Run a plan in this process, as `lynx-engine render --in-process` does."""
    observer = observer or Watcher()
    with (
        lock_campaign(settings.campaign_dir(CAMPAIGN)) as lock,
        open_campaign(
            lock, plan, pool, settings=settings, faces=faces, observer=observer
        ) as campaign,
    ):
        for turn in campaign.turns():
            campaign.render_row(turn)
        return campaign.summary()
