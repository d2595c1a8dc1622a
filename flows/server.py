"""A local Prefect server: for one run, or for as long as schedules are served.

A server the user already runs (PREFECT_API_URL) is used instead. The local one lives in its own
session, so that Ctrl-C in the terminal does not take it away under the flow, and it reads a pipe
from its parent: when the parent dies, however it dies, the pipe closes and the server exits.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from flows.database import begin_with_copy, keep_copy
from lynx_engine.errors import LockedError, PausedError
from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_STOP_S = 5.0

# Telemetry needs both switches (measured on 3.8.8).
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A failed row is told once, by the campaign; Prefect would tell it twice more.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
}

# These services are for schedules, which a one-run server has none of.
_ONE_RUN = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


# No campaign can have this name: its database is its own.
_SCHEDULES_FOLDER = ".schedules"
_UI_PORT = 4200

_HOME_OF_THE_USER = Path(os.environ["PREFECT_HOME"]) if "PREFECT_HOME" in os.environ else None


@contextmanager
def prefect_server(settings: Settings, campaign: str) -> Generator[LocalServer | None]:
    """Give the run a Prefect API; None when the user's own server is used.

    Must be entered before prefect is imported: it reads its settings from the environment once.
    Each campaign has a database of its own: two servers that start at once on one file break it.
    """
    for name, value in (_QUIET | _ONE_RUN).items():
        os.environ.setdefault(name, value)
    if os.environ.get("PREFECT_API_URL"):
        yield None
        return
    _reach_without_proxy()
    home = _HOME_OF_THE_USER or (settings.state_dir / "prefect" / campaign).resolve()
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(home))
    server = LocalServer(home, start_s=settings.server_start_s, cache=settings.cache)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def lasting_server(settings: Settings) -> Generator[LocalServer | None]:
    """Give schedules a Prefect API with a scheduler; None when the user's own server is used.

    Must be entered before prefect is imported, by one process of a workspace at a time. The
    processes started in the block find the API in their environment.

    Raises:
        LockedError: If schedules of this workspace are being served already.
        PausedError: If the server does not start.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    home = (settings.state_dir / "prefect" / _SCHEDULES_FOLDER).resolve()
    home.mkdir(parents=True, exist_ok=True)
    with _served_once(home):
        if os.environ.get("PREFECT_API_URL"):
            yield None
            return
        _reach_without_proxy()
        server = LocalServer(
            home, start_s=settings.server_start_s, port=_UI_PORT, cache=settings.cache
        )
        os.environ |= {"PREFECT_HOME": str(home), "PREFECT_API_URL": server.url}
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


def _reach_without_proxy() -> None:
    """Keep calls to the server here from the proxy that http_proxy names for other machines."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if given.strip() != "*":
        own = ",".join(part for part in (given, "127.0.0.1") if part)
        os.environ |= {"no_proxy": own, "NO_PROXY": own}


@contextmanager
def _served_once(home: Path) -> Generator[None]:
    with (home / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LockedError(
                f"the schedules of this workspace are being served by {file.read().strip()}. "
                "It sees new schedules by itself."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


class LocalServer:
    """A running `prefect.server` process.

    Attributes:
        url: Address of its API.
        log: File of its words.
    """

    def __init__(
        self, home: Path, *, start_s: float, port: int = 0, cache: Path | None = None
    ) -> None:
        """Start the server without waiting for it; its words go to `home`/server.log.

        Args:
            home: Folder of its database.
            start_s: How long `wait_until_ready` waits.
            port: Taken if it is free, so that an address stays; else, and for 0, any free one.
            cache: Where a new database is copied from, or left for others; None for neither.
        """
        self._start_s = start_s
        self._home = home
        self._cache = cache if cache is not None and begin_with_copy(home, cache) else None
        self.log = home / "server.log"
        # The socket is bound here and inherited, so that no other program can take the port.
        with socket.socket() as listener:
            _bind(listener, port)
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    # -P: a folder `flows` of the user's where the command is started is not ours.
                    [sys.executable, "-P", "-m", "flows.server_process", str(listener.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                    env={**os.environ, "PREFECT_HOME": str(home)},
                )

    def wait_until_ready(self) -> None:
        """Return once the API answers.

        Raises:
            PausedError: If it exits, or does not answer within the time of the settings.
        """
        deadline = time.monotonic() + self._start_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise PausedError(
                    f"the local Prefect server exited with {self._process.returncode}; "
                    f"{self.log} says why. `--in-process` renders without Prefect."
                )
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1.0):
                    break
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(_POLL_S)
        else:
            raise PausedError(
                f"the local Prefect server did not answer within {self._start_s:.0f} s (a busy "
                "machine?). Raise LYNX_SERVER_START_S, or render with `--in-process`."
            )
        if self._cache is not None:
            keep_copy(self._home, self._cache)
            self._cache = None

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, though nobody stopped it."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End the server; its database stays."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            logger.warning("the local Prefect server did not stop by itself; killing it")
            self._process.kill()
            self._process.wait()


def _bind(listener: socket.socket, port: int) -> None:
    # A port whose last server has just ended is free, though the system still drains it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.bind(("127.0.0.1", 0))
