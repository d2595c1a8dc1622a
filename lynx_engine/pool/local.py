"""Device processes of this machine: device fixed at the start, ended without mercy, replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.pool.devices import visible_to
from lynx_engine.pool.reaper import MARK
from lynx_engine.tail import last_lines_of

if TYPE_CHECKING:
    from distributed import Client, Worker

logger = logging.getLogger(__name__)

_DUMP_S = 1.0

THREADS = 2
"""Rows that a device process works on: one renders while the one before it is encoded."""

# Read by the device process when it imports Dask.
_DASK_OF_A_DEVICE = {
    "DASK_LOGGING__DISTRIBUTED": "critical",
    # A sampling profiler and a monitor of the interpreter's lock that nobody looks at.
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__GIL__ENABLED": "False",
}


def dask_setup(worker: Worker) -> None:
    """Prepare a device process; Dask calls this in it before it says hello."""
    import faulthandler

    del worker
    # On a crash, and when the orchestrator ends a hang, the stack of every thread goes to the
    # process's log: also with the interpreter's lock held.
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def kill_session(leader: int) -> None:
    """End every process of the session that the process `leader` began."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader:
                process.kill()


class LocalProcess:
    """The process that owns one device, through all its replacements."""

    starts = 3
    """How often a start is tried before the device is given up."""

    def __init__(self, device: str, client: Client, *, folder: Path, mark: str) -> None:
        """Start the process.

        Args:
            device: `cpu`, `cpu:N` or `cuda:N`.
            client: Connected to the scheduler that the process reports to.
            folder: For its log and Dask's scratch files.
            mark: What `reaper` knows it by.
        """
        self._device = device
        self._client = client
        self._folder = folder
        self._mark = mark
        self._incarnation = 0
        self._address: str | None = None
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._incarnation += 1
        self._address = None
        with self._log.open("wb") as words:
            return subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env={**os.environ, **_DASK_OF_A_DEVICE, **self._environment()},
                # Ctrl-C goes to every process of the terminal's group, and would end the row that
                # the campaign gives time to finish.
                start_new_session=True,
            )

    @property
    def _log(self) -> Path:
        return self._folder / f"{self._device.replace(':', '-')}.log"

    @property
    def _name(self) -> str:
        # A new name each time: the scheduler may not have noticed the death of the last one yet.
        return f"{self._device}#{self._incarnation}"

    def _environment(self) -> dict[str, str]:
        return {
            # CUDA reads this once, so it is fixed before the process starts.
            "CUDA_VISIBLE_DEVICES": visible_to(self._device),
            MARK: self._mark,
        }

    def _command(self) -> list[str]:
        # -P: a file of the workspace must not stand in for a library's module.
        program = [sys.executable, "-P", "-m", "distributed.cli.dask_worker"]
        return [
            *program,
            self._client.scheduler.address,
            *("--name", self._name),
            *("--nthreads", str(THREADS)),
            *("--host", "127.0.0.1"),
            *("--memory-limit", "0"),  # the engine knows its memory; Dask would end it for using it
            *("--local-directory", str(self._folder)),
            *("--preload", __name__),
            "--no-nanny",
            "--no-dashboard",
        ]

    def address(self) -> str | None:
        """Return where Dask reaches the process, None while it is starting."""
        if self._address is None:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            self._address = next(
                (at for at, worker in workers.items() if worker["name"] == self._name), None
            )
        return self._address

    def death(self) -> str:
        """Return how the process died, "" while it lives."""
        code = self._process.poll()
        if code is None:
            return ""
        if code >= 0:
            return f"exited with {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def end(self) -> None:
        """End a process that does not answer: let it write where it hangs, then kill it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DUMP_S)
        self.close()

    def close(self) -> None:
        """Kill the process with everything it started, also what it left behind when it died."""
        kill_session(self._process.pid)
        self._process.wait()

    def last_words(self) -> str:
        """Return the last lines that the process wrote to stdout and stderr."""
        return last_lines_of(self._log)

    def replace(self) -> None:
        """Start a new process in the place of a dead one."""
        logger.warning("%s: process %s; starting a new one. It said: %s", self._device,
                       self.death() or "is gone", self.last_words() or "nothing")  # fmt: skip
        self.close()
        self._process = self._start()
