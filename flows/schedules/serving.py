"""Serves the schedules of a workspace until told to stop: server, deployments, runner.

The runner lives in a thread of its own with an event loop, the main thread hears signals. Prefect
is imported in that thread, after the server's address stands in the environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

from flows.schedules.book import read_schedules
from flows.server import LocalServer, lasting_server
from lynx_engine.errors import DamagedError, PausedError
from lynx_engine.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from flows.schedules.book import Schedule
    from flows.schedules.deployments import Deployments

REFRESH_S = 2.0
SILENT_S = 20.0
"""How long Prefect's API may be silent before serving ends."""

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ALIVE_S = 0.2


class Teller(Protocol):
    """Who hears what happens while schedules are served."""

    def serving(self, address: str, schedules: Sequence[Schedule]) -> None:
        """Serving began; `address` is where Prefect shows it."""
        ...

    def changed(self, added: Sequence[Schedule], removed: Sequence[str]) -> None:
        """Schedules began or changed, or ended."""
        ...

    def damaged(self, error: DamagedError) -> None:
        """The file of schedules cannot be read; those known before stay."""
        ...

    def stopping(self) -> None:
        """A signal was heard; runs in flight are being ended."""
        ...

    def ended(self, campaign: str, state: str, message: str) -> None:
        """A run ended."""
        ...


@dataclass(frozen=True, slots=True)
class Serving:
    """What one serving needs.

    Attributes:
        settings: The workspace.
        teller: Who hears of it.
        at_once: How many campaigns may render at the same time.
        poll_s: How often the runner asks for due runs.
    """

    settings: Settings
    teller: Teller
    at_once: int = 1
    poll_s: float = 5.0


def serve(serving: Serving) -> None:
    """Serve until a signal ends it; every process is gone on the way out.

    Raises:
        LockedError: If this workspace's schedules are being served already.
        PausedError: If no Prefect API answers, or it falls silent.
        DamagedError: If the file of schedules is damaged when it is first read.
    """
    read_schedules(serving.settings)  # a damaged file is told before anything is started
    # A `flows` folder of the user's, where this was started, must not stand in for ours.
    os.environ["PYTHONSAFEPATH"] = "1"
    with lasting_server(serving.settings) as server:
        thread = _RunnerThread(serving, server)
        thread.start()
        try:
            # Not join(): after a signal it takes a living thread for ended (CPython 3.11).
            while not thread.done.wait(_ALIVE_S):
                pass
        finally:
            thread.stop()
        if thread.error is not None:
            raise thread.error


def shown_url(url: str) -> str:
    """Return a URL without the user and password it may carry."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class _RunnerThread(threading.Thread):
    """The runner's event loop."""

    def __init__(self, serving: Serving, server: LocalServer | None) -> None:
        super().__init__(name="schedules", daemon=True)
        self.error: BaseException | None = None
        self._serving = serving
        self._server = server
        self._stopping = threading.Event()
        self.done = threading.Event()

    def run(self) -> None:
        # Ctrl-C reaches every process of the terminal. Those that render are stopped by the runner
        # and drain; they inherit this mask, so they never hear it from the keyboard.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001  # the main thread raises it
            self.error = error
        finally:
            self.done.set()

    def stop(self) -> None:
        """End the runner and all it started; a second signal ends them at once."""
        self._stopping.set()
        try:
            if not self.done.is_set():
                self._serving.teller.stopping()
            self.done.wait()
        except BaseException:
            _kill_children()
            raise

    async def _main(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.runner import Runner

        from flows.schedules.deployments import Deployments

        # Not paused at the end: what comes due until the next start is caught up with one run.
        runner = Runner(
            name="lynx-engine",
            pause_on_shutdown=False,
            limit=self._serving.at_once,
            query_seconds=self._serving.poll_s,
        )
        async with get_client() as client:
            await self._must_answer(client)
            kept = Deployments(self._serving.settings, client, runner)
            await kept.refresh()
            await kept.coalesce()
            address = self._server.url if self._server else os.environ["PREFECT_API_URL"]
            place = shown_url(address).removesuffix("/api")
            self._serving.teller.serving(place, list(kept.served.values()))
            task = asyncio.create_task(runner.start())
            try:
                await self._watch(client, kept, task)
            finally:
                if runner.started:
                    await runner.astop()
                await asyncio.gather(task, return_exceptions=True)
            await self._tell_ended(kept)

    async def _watch(
        self, client: PrefectClient, kept: Deployments, task: asyncio.Task[None]
    ) -> None:
        """Follow the schedules and the runs until something ends."""
        import httpx

        loop = asyncio.get_running_loop()
        answered, looked = loop.time(), 0.0
        while not self._stopping.is_set() and not task.done():
            await asyncio.sleep(_ALIVE_S)
            if self._server is not None and self._server.has_ended:
                raise PausedError(f"the local Prefect server ended; {self._server.log} says why.")
            if loop.time() - looked < REFRESH_S:
                continue
            looked = loop.time()
            try:
                await self._look(kept)
                answered = loop.time()
            except httpx.HTTPError:
                if loop.time() - answered > SILENT_S:
                    await self._must_answer(client)
        if task.done():
            task.result()

    async def _look(self, kept: Deployments) -> None:
        try:
            added, removed = await kept.refresh()
        except DamagedError as error:
            self._serving.teller.damaged(error)
        else:
            if added or removed:
                self._serving.teller.changed([kept.served[name] for name in added], removed)
        await kept.coalesce()
        await self._tell_ended(kept)

    async def _tell_ended(self, kept: Deployments) -> None:
        for campaign, run in await kept.ended():
            if run.state is not None:
                message = run.state.message or ""
                self._serving.teller.ended(campaign, str(run.state.name), message)

    async def _must_answer(self, client: PrefectClient) -> None:
        if (fault := await client.api_healthcheck()) is not None:
            raise PausedError(
                f"no Prefect API answers at {shown_url(os.environ['PREFECT_API_URL'])} "
                f"({type(fault).__name__}). Start that server, or unset PREFECT_API_URL to have "
                "one started here."
            )


def _kill_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
