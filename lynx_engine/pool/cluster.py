"""Device processes of a running Dask cluster: found, checked, and left to their nannies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine import __version__
from lynx_engine.errors import Problem, RefusedError
from lynx_engine.pool.remote import Hello, kill_tree, say_hello

if TYPE_CHECKING:
    from distributed import Client

    from lynx_engine.folders import ModelFolders

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_KILL_S = 8.0


def greet_workers(
    client: Client,
    *,
    at: str,
    shared: Path,
    classifiers: tuple[str, ...] = (),
    models_dir: ModelFolders | None = None,
) -> dict[str, Hello]:
    """Return the cluster's workers by name, after each has shown that it can render.

    Args:
        client: Connected to the cluster.
        at: The cluster's address, for messages.
        shared: A file that this process made where clips are written.
        classifiers: Those that the rows to come need: a worker without them would withhold every
            clip, for good.
        models_dir: Where weights lie.

    Raises:
        RefusedError: If there is no worker, one lacks this version of lynx_engine or a classifier,
            or does not see the file; each is named.
    """
    names = _names(client)
    if not names:
        text = "the cluster has no workers. Start some (dask worker ADDRESS), then render again."
        raise RefusedError([Problem(at, text)])
    answers = client.run(say_hello, shared, classifiers, models_dir, on_error="return")
    problems: list[Problem] = []
    greeted: dict[str, Hello] = {}
    for address, name in names.items():
        answer = answers.get(address)
        fault = _fault(answer, shared)
        if fault:
            problems.append(Problem(f"{at} worker {name}", fault))
        elif isinstance(answer, Hello):
            greeted[name] = answer
    if problems:
        raise RefusedError(problems)
    return greeted


def _fault(answer: object, shared: Path) -> str:
    if not isinstance(answer, Hello):
        return (
            f"cannot run lynx_engine ({type(answer).__name__}: {answer}). Install version "
            f"{__version__} there."
        )
    if answer.version != __version__:
        return f"has lynx_engine {answer.version}, this is {__version__}. Install the same."
    if not answer.sees_probe:
        return (
            f"({answer.host}) does not see {shared.parent}. Put the workspace on a path that every "
            "machine of the cluster shares."
        )
    if answer.lacks:
        return f"({answer.host}) cannot check clips: {'; '.join(answer.lacks)}"
    return ""


def _names(client: Client) -> dict[str, str]:
    workers: Mapping[str, Mapping[str, object]] = client.scheduler_info(n_workers=-1)["workers"]
    return {address: str(worker["name"]) for address, worker in workers.items()}


class ClusterWorker:
    """One worker of the cluster, through the replacements that its nanny makes."""

    starts = 1
    """A cluster starts its own workers; nothing is gained by asking again."""

    def __init__(self, name: str, client: Client) -> None:
        """Use the worker of that name."""
        self._name = name
        self._client = client
        self._pid = 0
        self._address: str | None = None
        self._looked = 0.0

    def address(self) -> str | None:
        """Return where Dask reaches the worker, None while it is being replaced."""
        if self._address is None:
            self._looked = time.monotonic()
            found = {name: address for address, name in _names(self._client).items()}
            address = found.get(self._name)
            if address is not None:
                hello = self._client.run(say_hello, None, workers=[address]).get(address)
                self._pid = hello.pid if isinstance(hello, Hello) else 0
                self._address = address
        return self._address

    def death(self) -> str:
        """Return how the worker died, "" as far as is known."""
        now = time.monotonic()
        if self._address is None or now - self._looked < _LOOK_S:
            return ""
        self._looked = now
        return "" if self._address in _names(self._client) else "left the cluster"

    def end(self) -> None:
        """Let the worker's nanny kill it with everything it started; the nanny starts another."""
        address, pid = self._address, self._pid
        if address is None or not pid:
            return

        def kill() -> None:
            try:
                self._client.run(kill_tree, pid, workers=[address], nanny=True)
            except Exception as error:  # noqa: BLE001  # a cluster without nannies, or out of reach
                logger.warning("worker %s could not be killed: %s", self._name, error)

        # A machine that is out of reach answers never.
        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        thread.join(_KILL_S)

    def last_words(self) -> str:
        """Return nothing: what a cluster's worker writes stays with its nanny."""
        return ""

    def close(self) -> None:
        """Leave the worker to the cluster."""

    def replace(self) -> None:
        """Look for the worker's next process from now on."""
        logger.warning("worker %s is gone; waiting for its nanny", self._name)
        self._address, self._pid = None, 0
